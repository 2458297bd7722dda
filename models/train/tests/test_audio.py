"""Audio encoder, its data and the int8 rewriting. What needs the kit is skipped without GIRASOL_DATA."""
from __future__ import annotations

import copy
import os
import pathlib

import numpy as np
import pytest
import torch

from girasol_train import audio_data as ad
from girasol_train import audio_encoder as ae
from girasol_train import audio_eval, quant
from girasol_train import audio_patches as ap
from girasol_train.count import count
from girasol_train.frontend import PATCH_SAMPLES, log_mel

KIT = pathlib.Path(os.environ.get("GIRASOL_DATA", "missing"))
needs_kit = pytest.mark.skipif(not (KIT / "audio" / "manifest.csv").exists(), reason="no data kit (GIRASOL_DATA)")


def clip(label: str, wave: np.ndarray) -> ad.Clip:
    return ad.Clip(f"{label}.opus", label, label, label, False, np.round(wave * 32767).astype(np.int16))


def test_labels_are_those_of_the_model():
    from girasol_train.labels import AUDIBLE

    assert list(AUDIBLE) == list(ad.AUDIO_LABELS)


def test_activity_finds_the_loud_part():
    wave = np.full(32_000, 1e-4, np.float32)
    wave[8_000:12_800] = 0.3 * np.sin(np.arange(4_800))
    active = ad.activity(clip("knock", wave))
    assert active.tolist() == [5 <= k < 8 for k in range(20)]
    assert ad.activity(clip("background", wave)).all()


def test_mix_has_the_asked_ratio():
    rng = np.random.default_rng(0)
    a, b = (ad.coloured_noise(rng, 16_000, 0.0) * s for s in (0.1, 0.003))
    mixed, gain = ad.mix_at_snr(a, b, 6.0)
    assert 20 * np.log10(ad.rms(a) / ad.rms(gain * b)) == pytest.approx(6.0, abs=0.1)
    assert np.allclose(mixed, a + gain * b, atol=1e-6)


def test_augmentations_keep_length_and_are_finite():
    rng = np.random.default_rng(1)
    x = ad.coloured_noise(rng, PATCH_SAMPLES, 1.0) * 0.1
    rir = np.zeros(800, np.float32)
    rir[0] = 1.0
    assert np.allclose(ad.apply_rir(x, rir), x, atol=1e-5)
    for y in (ad.band_limit(x, 200, 4_000), ad.tilt(x, 3.0), ad.add_noise(x, rng, -40), ad.soft_clip(x, 0.05)):
        assert y.shape == x.shape and y.dtype == np.float32 and np.isfinite(y).all()
    low = ad.band_limit(x, 20, 1_000)
    assert ad.rms(ad.band_limit(low, 4_000, 7_900)) < 0.05 * ad.rms(low)


@pytest.mark.parametrize("make", [ad.synth_phone_ring, ad.synth_smoke_alarm, ad.synth_beeper])
def test_synthetic_sounds_are_seeded_and_audible(make):
    for seed in range(12):
        x, again = (make(np.random.default_rng(seed), 3.0) for _ in range(2))
        assert np.array_equal(x, again) and len(x) == 48_000
        assert np.isfinite(x).all() and 0.05 < np.abs(x).max() < 0.7


def test_claims_follow_activity():
    wave = np.zeros(64_000, np.float32)
    wave[:8_000] = 0.3 * np.sin(np.arange(8_000))
    source = ap.make_sources([clip("dog_bark", wave)], None)[0]
    k = ap.INDEX["dog_bark"]
    for start, target, weight in ((0, 1, 1), (-12_000, 1, 1), (7_000, 0, 0), (20_000, 0, 1)):
        patch = ap.Patch(np.zeros(PATCH_SAMPLES), np.zeros(len(ap.INDEX)), np.ones(len(ap.INDEX)))
        ap._claim(patch, source, start)
        assert (patch.target[k], patch.weight[k]) == (target, weight), start


def test_composer_is_seeded():
    rng = np.random.default_rng(3)
    clips = [clip(c, 0.1 * ad.coloured_noise(rng, 30_000, 1.0).clip(-3, 3)) for c in ("rain", "background", "speech")]
    composer = ap.Composer(ap.make_sources(clips, None), [np.array([1.0, 0.2], np.float32)])
    one, two = (composer.batch(np.random.default_rng(5), 12) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert one[0].shape == (12, 96, 64) and np.isfinite(one[0]).all()


def test_encoder_exports_and_quantises(tmp_path):
    torch.manual_seed(0)
    model = ae.AudioEncoder().eval()
    mel = log_mel(0.1 * np.random.default_rng(0).standard_normal(PATCH_SAMPLES).astype(np.float32))[None]
    tokens = model(torch.from_numpy(mel))
    assert tokens.shape == (1, 6, 128)
    assert tokens.square().mean().sqrt().item() == pytest.approx(1.0, abs=0.05)
    plain, small = tmp_path / "audio.onnx", tmp_path / "audio_int8.onnx"
    torch.onnx.export(model, (torch.from_numpy(mel),), str(plain), opset_version=17, dynamo=False,
                      input_names=["mel"], output_names=["tokens"])  # fmt: skip
    assert quant.parity(plain, model, {"mel": mel}, 1e-4) < 1e-4
    quant.quantise_weights_onnx(plain, small)
    rounded = quant.fake_quant_weights(copy.deepcopy(model))
    assert quant.parity(small, rounded, {"mel": mel}, 1e-4) < 1e-4
    numbers = count(small)
    assert numbers["parameters"] == ae.count_parameters([model]) < 2_400_000
    assert 60e6 < numbers["macs"] < 70e6 and numbers["bytes"] < 2_500_000


def test_tokens_are_time_major():
    model = ae.AudioEncoder().eval()
    features = torch.randn(1, model.trunk.width, 3, 2)
    expected = model.project(features)[0, :, 1, 0]
    normalised = (expected - expected.mean()) / expected.std(unbiased=False)
    assert torch.allclose(model.tokens(features)[0, 2], normalised, atol=1e-3)


def test_checkpoint_round_trip(tmp_path):
    model = ae.AudioEncoder().eval()
    ae.save_audio_encoder(model, tmp_path / "a.pt", {"stage": "test"})
    mel = torch.zeros(2, 96, 64)
    assert torch.equal(ae.load_audio_encoder(tmp_path / "a.pt")(mel), model(mel))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.pt"]


def test_quantised_weights_come_back():
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 4))
    before = copy.deepcopy(model.state_dict())
    with quant.quantised_weights(model):
        assert not torch.equal(model[0].weight, before["0.weight"])
        assert torch.equal(model[1].weight, before["1.weight"])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_average_precision():
    truth, score = np.array([True, False, True]), np.array([3.0, 2.0, 1.0])
    assert audio_eval.average_precision(truth, score) == pytest.approx(5 / 6)


@needs_kit
def test_splits_do_not_share_sources():
    rows = ad.read_manifest(KIT)
    sources = {s: {r["source_id"] for r in rows if ad.split_of(r) == s} for s in ("train", "val", "test")}
    assert not sources["train"] & sources["val"] and not (sources["train"] | sources["val"]) & sources["test"]
    listed = set((KIT / "audio" / "test_source_ids.txt").read_text().split("\n")) - {""}
    assert sources["test"] <= listed


@needs_kit
def test_extracted_yamnet_equals_litert():
    interpreter = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(str(KIT / ae.YAMNET_FILE))
    interpreter.allocate_tensors()
    teacher = ae.load_yamnet(KIT)
    rng = np.random.default_rng(0)
    for seed in range(4):
        ring = ad.synth_phone_ring(np.random.default_rng(seed), 1.0)[:PATCH_SAMPLES]
        wave = ring + 0.01 * rng.standard_normal(PATCH_SAMPLES)
        mel = log_mel(wave.astype(np.float32))[None]
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], mel)
        interpreter.invoke()
        wanted = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0]
        with torch.no_grad():
            got = torch.sigmoid(teacher(torch.from_numpy(mel))[0])[0].numpy()
        assert np.abs(got - wanted).max() < 0.15 and np.abs(got - wanted).mean() < 0.003
