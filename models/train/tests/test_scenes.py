"""Composed tracks, pairing, and the arithmetic of events. What needs the kit is skipped without GIRASOL_DATA."""

from __future__ import annotations

import copy
import os
import pathlib

import numpy as np
import pytest
import torch

from girasol_train import audio_data as ad
from girasol_train import calibrate, scenes, train_fusion
from girasol_train.audio_patches import Source
from girasol_train.frontend import (
    CARRY_SAMPLES,
    PATCH_SAMPLES,
    SAMPLE_RATE,
    SNIPPET_SAMPLES,
    early_patches,
    log_mel,
)
from girasol_train.labels import AUDIBLE_IDS, AUDIBLE_INDEX, VISIBLE_IDS, VISIBLE_INDEX
from girasol_train.quant import fake_quant_weights
from girasol_train.video_encoder import VideoEncoder, save_video_encoder

KIT = pathlib.Path(os.environ.get("GIRASOL_DATA", "missing"))
needs_kit = pytest.mark.skipif(not (KIT / "audio" / "manifest.csv").exists(), reason="no data kit (GIRASOL_DATA)")


def source(label: str, seconds: float) -> Source:
    samples = (np.sin(np.arange(int(seconds * SAMPLE_RATE))) * 8_000).astype(np.int16)
    clip = ad.Clip(label, label, label, label, False, samples)
    active = ad.activity(clip)
    return Source(clip, active, np.ones_like(active))


def test_an_event_is_claimed_where_it_sounds():
    track, bark = scenes.AudioTrack(4), source("dog_bark", 0.4)
    track.wave += 1e-4
    track.place(bark, bark.clip.wave(), int(1.2 * SAMPLE_RATE), np.zeros((len(bark.active), len(AUDIBLE_IDS)), bool))
    target, weight = track.truth()
    assert target[:, AUDIBLE_INDEX["dog_bark"]].tolist() == [0, 1, 0, 0]
    assert weight[:, AUDIBLE_INDEX["dog_bark"]].tolist() == [1, 1, 1, 1]
    assert target[:, AUDIBLE_INDEX["background"]].tolist() == [1, 0, 1, 1]


def test_a_drowned_event_is_unknown():
    track, bark, saw = scenes.AudioTrack(2), source("dog_bark", 0.5), source("saw", 1.9)
    others = np.zeros((1, len(AUDIBLE_IDS)), bool)
    track.place(saw, saw.clip.wave() * 3, 240, others)
    track.place(bark, bark.clip.wave() * 0.4, 3_000, others)
    _, weight = track.truth()
    assert weight[0, AUDIBLE_INDEX["dog_bark"]] == 0.0


def test_snippet_truth_follows_present_frames():
    target, weight = np.zeros((1, 2, 3), np.float32), np.ones((1, 2, 3), np.float32)
    target[0, 0, 0], weight[0, 1, 1] = 1.0, 0.0
    seen, known = train_fusion.snippet_truth(target, weight, np.ones((1, 2), np.float32))
    assert seen[0].tolist() == [1, 0, 0]
    assert known[0].tolist() == [1, 0, 1]
    seen, known = train_fusion.snippet_truth(target, weight, np.zeros((1, 2), np.float32))
    assert seen[0].tolist() == [0, 0, 0]
    assert known[0].tolist() == [1, 1, 1]


def test_the_early_patch_is_what_half_a_snippet_earlier_sounds_like():
    wave = np.random.default_rng(3).normal(0.0, 0.1, CARRY_SAMPLES + 2 * SNIPPET_SAMPLES).astype(np.float32)
    mel = log_mel(np.stack([wave[:PATCH_SAMPLES], wave[SNIPPET_SAMPLES:]]))
    half = SNIPPET_SAMPLES // 2
    np.testing.assert_allclose(early_patches(mel)[0], log_mel(wave[half : half + PATCH_SAMPLES]), atol=1e-5)


def test_the_early_patch_needs_the_snippet_before_without_a_gap():
    heard = np.array([1, 1, 0, 1, 1, 1, 1], np.float32)
    dt = np.array([[0.96]] * 5 + [[1.92], [0.96]], np.float32)
    early, own = train_fusion.patch_presence(heard, dt, np.array([4, 5, 6, 7, 8, 9, 0])).T
    assert own.tolist() == heard.tolist()
    assert early.tolist() == [0, 1, 0, 0, 1, 0, 0]


def test_source_in_view_is_unknown_when_in_doubt():
    makers = train_fusion.maker_matrix()
    seen, known = np.zeros((1, len(VISIBLE_IDS)), np.float32), np.ones((1, len(VISIBLE_IDS)), np.float32)
    known[0, VISIBLE_INDEX["dog"]] = 0.0
    source_seen, source_known = train_fusion.source_truth(seen, known, makers)
    assert source_known[0, AUDIBLE_INDEX["dog_bark"]] == 0.0
    assert source_known[0, AUDIBLE_INDEX["speech"]] == 1.0
    seen[0, VISIBLE_INDEX["person"]] = 1.0
    source_seen, _ = train_fusion.source_truth(seen, known, makers)
    assert source_seen[0, AUDIBLE_INDEX["speech"]] == 1.0


def test_stretches_need_confirmation_and_end_below_off():
    p = np.array([0.1, 0.9, 0.1, 0.9, 0.9, 0.7, 0.3, 0.9])
    assert calibrate.stretches(p, 0.8, 0.5, confirm=2) == [(4, 7)]
    assert calibrate.stretches(p[:3], 0.8, 0.5, confirm=2) == []
    p = np.array([0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.5, 0.65, 0.1, 0.2, 0.1])
    assert calibrate.stretches(p, 0.8, 0.5) == [(1, 1), (8, 8)]
    assert calibrate.stretches(p, 0.8, 0.5, confirm=2) == []


def test_neighbours_count_together_where_one_snippet_is_enough():
    assert calibrate.evidence(np.array([0.5, 0.5, 0.0])).tolist() == [0.5, 0.75, 0.5]
    halves = np.array([0.5, 0.5, 0.0, 0.0])
    assert calibrate.stretches(halves, 0.7, 0.4) == [(1, 1)]
    assert calibrate.stretches(halves, 0.7, 0.4, heard=False) == []


def test_nothing_begins_for_a_while_after_an_end():
    # The test of the same name in runtime/src/event/gate.rs: ended by snippets 1 and 2, 3 to 5 start within 2 s.
    p = np.array([0.95, 0.05, 0.05, 0.05, 0.05, 0.95, 0.05, 0.05, 0.05])
    assert calibrate.stretches(p, 0.6, 0.36) == [(0, 0)]
    p[6] = 0.95
    assert calibrate.stretches(p, 0.6, 0.36) == [(0, 0), (6, 6)]


def test_false_events_ignore_neighbours_of_true_ones():
    logits = np.full((1, 12, 1), -5.0)
    logits[0, [2, 9], 0] = 5.0
    target = np.zeros((1, 12, 1))
    target[0, 1, 0] = 1.0
    counts = calibrate.count_events(calibrate.Outcome(("x",), logits, target, np.ones_like(target)), 0, 0.8, 0.5, 1)
    assert counts == {"true": 1, "false": 1, "there": 1, "found": 1}


def test_calibration_recovers_scale_and_offset():
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, 20_000)
    y = (rng.random(20_000) < 1 / (1 + np.exp(-(0.7 * x - 1.0)))).astype(float)
    scale, offset = calibrate.platt(x, y, np.ones_like(y))
    assert scale == pytest.approx(0.7, abs=0.05)
    assert offset == pytest.approx(-1.0, abs=0.1)


@needs_kit
def test_tracks_are_reproducible(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scenes, "OTHER_RINGS", 4)
    work = pathlib.Path(os.environ.get("GIRASOL_WORK", tmp_path))  # decoded clips are cached there
    bank = scenes.AudioBank.load(KIT, work, "val")
    first, again = (scenes.audio_track(np.random.default_rng(3), bank) for _ in range(2))
    assert first["mel"].shape == (scenes.SNIPPETS, 96, 64)
    assert all(np.array_equal(first[k], again[k]) for k in first)


def tone(seconds: float, hertz: float) -> ad.Clip:
    """A tone in the middle second of a clip."""
    t = np.arange(int(seconds * ad.SAMPLE_RATE)) / ad.SAMPLE_RATE
    wave = 8_000 * np.sin(2 * np.pi * hertz * t) * (np.abs(t - seconds / 2) < 0.5)
    return ad.Clip("tone.flac", "dog_bark", "tone", "", False, wave.astype(np.int16))


def test_a_sound_at_another_speed_has_its_labels_where_it_sounds():
    clip = tone(5.0, 500.0)
    active = ad.activity(clip)
    source = Source(clip, active, active)
    silent = lambda _, blocks: np.zeros((blocks, len(AUDIBLE_IDS)), bool)  # noqa: E731
    bank = scenes.AudioBank({"dog_bark": [source]}, [], silent, sped=True)
    speeds = set()
    for seed in range(20):
        played, wave, others = bank.play(np.random.default_rng(seed), source)
        speed = len(clip.samples) / len(wave)
        speeds.add(round(speed, 2))
        assert 1 / 1.16 < speed < 1.16
        assert len(played.active) == len(others) == round(len(active) / speed)
        heard = ad.activity((wave * 32768.0).astype(np.int16))[: len(played.active)]
        assert (heard != played.active[: len(heard)]).sum() <= 2  # a block at either end
        spectrum = np.abs(np.fft.rfft(wave))
        assert np.argmax(spectrum) / len(wave) * ad.SAMPLE_RATE == pytest.approx(500.0 * speed, rel=0.01)
    assert 1.0 in speeds and len(speeds) > 5
    bank.sped = False
    assert len(bank.play(np.random.default_rng(1), source)[1]) == len(clip.samples)


def without_events(label: str, lasting: float, flicker: float) -> calibrate.Outcome:
    """Ten hours of a label that is never there: now and then taken for it, for a snippet or for four."""
    logits = np.full((100, 375, 1), -5.0, np.float32)
    logits[:, 40::160] = np.log(flicker / (1.0 - flicker))
    for late in range(4):
        logits[:, 100 + late :: 160] = np.log(lasting / (1.0 - lasting))
    zeros = np.zeros_like(logits)
    return calibrate.Outcome((label,), logits, zeros, np.ones_like(zeros), heard=False)


def rule_of(validation: calibrate.Outcome, test: calibrate.Outcome | None = None) -> dict:
    return calibrate.label_rule(validation, test or validation, 0, "audible" if validation.heard else "visible")


def test_what_validation_has_none_of_waits_for_a_second_snippet_where_that_lowers_its_threshold():
    flickering = rule_of(without_events("cat", lasting=0.51, flicker=0.95))
    lasting = rule_of(without_events("cat", lasting=0.955, flicker=0.5))
    assert flickering["min_snippets"] == 2 and lasting["min_snippets"] == 1
    on = [rule["thresholds"]["low_false_alarm"]["on"] for rule in (flickering, lasting)]
    assert 0.5 < on[0] < 0.6 and 0.95 < on[1] < 0.97


def with_events(label: str, found: int, missed: int, false: int, heard: bool = True) -> calibrate.Outcome:
    """An hour of a label: events of two snippets that are found or missed, and false ones as sure as can be."""
    logits, target = np.full((10, 375, 1), -6.0, np.float32), np.zeros((10, 375, 1), np.float32)
    places = [(scene, 10 + 20 * k) for k in range(15) for scene in range(10)]
    for n, (scene, t) in enumerate(places[: found + missed + false]):
        target[scene, t : t + 2] = n < found + missed
        logits[scene, t : t + 2] = -6.0 if found <= n < found + missed else 9.0
    return calibrate.Outcome((label,), logits, target, np.ones_like(target), heard=heard)


@pytest.mark.parametrize(
    ("label", "found", "missed", "false", "on"),
    [
        ("water", 8, 0, 0, True),
        ("water", 3, 9, 0, True),
        ("water", 3, 10, 0, False),  # finds less than a quarter
        ("water", 7, 0, 0, False),  # too few events to tell
        ("water", 0, 0, 0, False),
        ("water", 20, 0, 1, False),  # more than one false event in two hours
        ("knock", 20, 0, 1, True),  # wanted: one an hour
        ("knock", 20, 0, 2, False),
    ],
)
def test_a_label_is_on_only_if_validation_shows_it_to_be_reliable(label, found, missed, false, on):
    rule = rule_of(with_events(label, found, missed, false))
    assert (rule["enabled"], rule["experimental"]) == (on, not on)
    assert rule["evidence"]["of"] == ("validation" if found + missed >= 8 else "test")


def test_where_validation_has_no_events_those_of_test_say_whether_a_label_is_on_but_not_at_which_threshold():
    nothing = with_events("cat", 0, 0, 0, heard=False)
    on = rule_of(nothing, with_events("cat", 9, 3, 0, heard=False))
    off = rule_of(nothing, with_events("cat", 1, 9, 0, heard=False))
    assert on["enabled"] and not off["enabled"]
    assert on["thresholds"] == off["thresholds"] and on["evidence"]["found"] == 9


def test_a_reliable_label_that_is_no_event_is_off_without_being_experimental():
    rule = rule_of(with_events("background", 20, 0, 0))
    assert (rule["enabled"], rule["experimental"]) == (False, False)


def test_tokens_are_those_of_the_weights_that_ship(tmp_path: pathlib.Path):
    torch.manual_seed(3)
    encoder = VideoEncoder().eval()
    checkpoint = tmp_path / "video_encoder.pt"
    save_video_encoder(encoder, checkpoint)
    frames = np.random.default_rng(3).integers(0, 256, (1, 2, 96, 128, 3), np.uint8)
    scenes.tracks_folder(tmp_path).mkdir()
    scenes.save_npz(scenes.tracks_folder(tmp_path) / "video-val-0000.npz", {"frames": frames})
    exact = scenes.video_tokens(copy.deepcopy(encoder), {"frames": frames})
    rounded = scenes.video_tokens(fake_quant_weights(copy.deepcopy(encoder)), {"frames": frames})
    folder = scenes.write_tokens(tmp_path, "video", checkpoint, encoder, ("val",))
    with np.load(folder / "video-val-0000.npz") as shard:
        assert (shard["tokens"] == rounded).all() and (shard["tokens"] != exact).any()
