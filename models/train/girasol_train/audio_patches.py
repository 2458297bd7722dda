"""Random training patches of 0.975 s with targets: an event at a random phase, alone or over a bed or another event.

A label is claimed only when enough of its sound falls into the patch; when a little does, the label's weight is zero,
so the network is not taught to hear what is not there (nor to deny what is).
"""
from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from . import audio_data as ad
from .frontend import PATCH_SAMPLES, log_mel

INDEX = {label: k for k, label in enumerate(ad.AUDIO_LABELS)}
BLOCK = ad.ACTIVITY_HOP
CLAIM_SECONDS, CLAIM_SHARE = 0.15, 0.5
TEACHER_SURE, TEACHER_ABSENT = 0.3, 0.04
FAINT_DB = -8.0


@dataclass
class Patch:
    """Waveform, 0/1 targets and weights of the 40 labels."""

    wave: np.ndarray
    target: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Source:
    """A clip with what is needed to place it: its active blocks and the blocks where its label may be claimed."""

    clip: ad.Clip
    active: np.ndarray
    claimable: np.ndarray


class TeacherScores:
    """YAMNet's stored scores of a clip's own class over time, to gate weak clip labels."""

    def __init__(self, data: pathlib.Path):
        folder = data / "teacher-labels"
        with np.load(folder / "audio_yamnet.npz") as stored:
            self._scores, self._offsets = stored["scores"], stored["offsets"]
            self._hop = float(stored["hop_seconds"])
            self._row = {str(f): k for k, f in enumerate(stored["files"])}
        names = json.loads((folder / "class_to_yamnet.json").read_text())
        self._indices = {label: entry["yamnet_indices"] for label, entry in names.items()}

    def claimable(self, clip: ad.Clip, blocks: int) -> np.ndarray:
        """False where the teacher, sure of the class elsewhere in the clip, does not hear it."""
        if clip.file not in self._row or not self._indices.get(clip.label):
            return np.ones(blocks, bool)
        row = self._row[clip.file]
        scores = self._scores[self._offsets[row]: self._offsets[row + 1], self._indices[clip.label]].max(axis=1)
        if not len(scores) or scores.max() < TEACHER_SURE:
            return np.ones(blocks, bool)
        times = (np.arange(blocks) + 0.5) * BLOCK / ad.SAMPLE_RATE
        starts = np.arange(len(scores)) * self._hop
        covering = (times[:, None] >= starts) & (times[:, None] < starts + 0.98)
        heard = np.where(covering, scores.astype(np.float32), -1.0).max(axis=1)
        return (heard < 0) | (heard > TEACHER_ABSENT)


def make_sources(clips: Sequence[ad.Clip], teacher: TeacherScores | None) -> list[Source]:
    out = []
    for clip in clips:
        active = ad.activity(clip)
        claimable = teacher.claimable(clip, len(active)) if teacher else np.ones(len(active), bool)
        out.append(Source(clip, active, claimable))
    return out


class Composer:
    """Draws patches. The same seed and the same sources give the same patches."""

    def __init__(
        self, sources: Sequence[Source], rirs: Sequence[np.ndarray], snr_db: tuple[float, float] = (0.0, 20.0)
    ):
        self.rirs, self.snr_db = list(rirs), snr_db
        groups: dict[str, list[Source]] = {}
        for source in sources:
            groups.setdefault(source.clip.label, []).append(source)
        self.groups = groups
        self.events = [label for label in groups if label != "background"]
        self.beds = [label for label in groups if label in ad.BED_CLASSES]
        counts = np.array([len(groups[label]) for label in self.events], np.float64)
        self.event_share = np.sqrt(counts) / np.sqrt(counts).sum()

    def draw(self, rng: np.random.Generator) -> Patch:
        """Alone 35 %, over a bed 40 %, with a second event 15 %, bed alone 8 %, faint noise 2 %."""
        patch = Patch(np.zeros(PATCH_SAMPLES, np.float32), np.zeros(len(INDEX), np.float32),
                      np.ones(len(INDEX), np.float32))  # fmt: skip
        kind = rng.random()
        rir = self.rirs[rng.integers(len(self.rirs))] if rng.random() < 0.4 else None
        if kind < 0.90:
            self._add_event(rng, patch, rir, None)
        if 0.35 <= kind < 0.50:
            self._add_event(rng, patch, rir, rng.uniform(-3.0, 9.0))
        if 0.42 <= kind < 0.98:
            self._add_bed(rng, patch, None if kind >= 0.90 else rng.uniform(*self.snr_db))
        _finish(rng, patch)
        return patch

    def batch(self, rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(log-mel [n, 96, 64], targets [n, 40], weights [n, 40])."""
        patches = [self.draw(rng) for _ in range(size)]
        mel = log_mel(np.stack([p.wave for p in patches]))
        return mel, np.stack([p.target for p in patches]), np.stack([p.weight for p in patches])

    def _add_event(self, rng: np.random.Generator, patch: Patch, rir: np.ndarray | None, snr_db: float | None) -> None:
        label = self.events[rng.choice(len(self.events), p=self.event_share)]
        group = self.groups[label]
        source = group[rng.integers(len(group))]
        start = _event_start(rng, source)
        wave = cut(source.clip.wave(), start)
        speed = ad.draw_speed(rng)
        if speed != 1.0:
            wave = _stretch(wave, speed)
        if rir is not None:
            wave = ad.apply_rir(wave, rir)
        if snr_db is None:
            patch.wave[:] = wave * _level(rng, wave, -42.0, -10.0)
        else:
            patch.wave, _ = ad.mix_at_snr(patch.wave, wave, snr_db)
        _claim(patch, source, start)

    def _add_bed(self, rng: np.random.Generator, patch: Patch, snr_db: float | None) -> None:
        quiet = rng.random() < 0.4 and "background" in self.groups
        label = "background" if quiet else self.beds[rng.integers(len(self.beds))]
        group = self.groups[label]
        clip = group[rng.integers(len(group))].clip
        wave = clip.wave()
        if len(wave) < PATCH_SAMPLES:
            wave = np.tile(wave, PATCH_SAMPLES // len(wave) + 1)
        start = int(rng.integers(0, len(wave) - PATCH_SAMPLES + 1))
        wave = wave[start: start + PATCH_SAMPLES]
        k = INDEX[label]
        if snr_db is None:
            silence = label == "background" and clip.synthetic
            patch.wave[:] = wave if silence else wave * _level(rng, wave, -55.0, -15.0)
        else:
            patch.wave, _ = ad.mix_at_snr(patch.wave, wave, snr_db)
            patch.weight[k] *= float(label != "background" and snr_db < 12.0)
        patch.target[k] = 1.0


def cut(wave: np.ndarray, start: int) -> np.ndarray:
    """PATCH_SAMPLES from `start`, which may be negative or run over the end: zeros there."""
    out = np.zeros(PATCH_SAMPLES, np.float32)
    first, last = max(0, start), min(len(wave), start + PATCH_SAMPLES)
    if last > first:
        out[first - start: last - start] = wave[first:last]
    return out


def _event_start(rng: np.random.Generator, source: Source) -> int:
    """Patch start, in samples of the clip, that puts a random active block at a random place of the patch."""
    active = np.flatnonzero(source.active)
    block = int(active[rng.integers(len(active))]) if len(active) else 0
    return block * BLOCK - int(rng.integers(0, PATCH_SAMPLES - BLOCK // 2))


def _claim(patch: Patch, source: Source, start: int) -> None:
    """Set target and weight of the source's label from the activity that falls into the patch."""
    edges = np.arange(len(source.active)) * BLOCK - start
    inside = np.clip(np.minimum(edges + BLOCK, PATCH_SAMPLES) - np.maximum(edges, 0), 0, BLOCK) / ad.SAMPLE_RATE
    heard = float(np.sum(inside[source.active]))
    claimed = float(np.sum(inside[source.active & source.claimable]))
    needed = min(CLAIM_SECONDS, CLAIM_SHARE * float(source.active.sum()) * BLOCK / ad.SAMPLE_RATE)
    k = INDEX[source.clip.label]
    if claimed >= needed > 0:
        patch.target[k], patch.weight[k] = 1.0, 1.0
    elif heard > 0 and patch.target[k] == 0:
        patch.weight[k] = 0.0


def _stretch(wave: np.ndarray, speed: float) -> np.ndarray:
    """At another speed, around the middle of the patch."""
    middle = len(wave) / 2.0
    at = (np.arange(len(wave)) - middle) * speed + middle
    return np.interp(at, np.arange(len(wave)), wave, left=0.0, right=0.0).astype(np.float32)


def _level(rng: np.random.Generator, wave: np.ndarray, low_db: float, high_db: float) -> np.float32:
    """Gain that brings the active level to a random one; 1 for silence."""
    level = ad.active_rms(wave)
    return np.float32(10.0 ** (rng.uniform(low_db, high_db) / 20.0) / level) if level > 1e-5 else np.float32(1.0)


def _finish(rng: np.random.Generator, patch: Patch) -> None:
    """The microphone: tilt, band limits, noise floor, clipping, 16 bits. Labels under the noise get weight zero."""
    x = patch.wave
    if rng.random() < 0.25:
        x = ad.tilt(x, rng.uniform(-3.0, 3.0))
    if rng.random() < 0.3:
        x = ad.band_limit(x, rng.uniform(30.0, 350.0), rng.uniform(3_000.0, 7_800.0))
    if rng.random() < 0.6 or not x.any():
        floor = rng.uniform(-78.0, -45.0)
        level = 20.0 * np.log10(max(ad.active_rms(x), 1e-6))
        if level - floor < FAINT_DB:
            patch.weight[patch.target > 0] = 0.0
        x = ad.add_noise(x, rng, floor, rng.choice([0.0, 1.0, 1.0, 2.0]))
    if rng.random() < 0.07:
        x = ad.soft_clip(x, max(1e-3, float(np.abs(x).max()) * rng.uniform(0.15, 0.6)))
    patch.wave = ad.to_pcm(x)
    if not patch.target.any() and patch.weight.all():
        patch.target[INDEX["background"]] = 1.0
    elif patch.target.sum() > patch.target[INDEX["background"]] and patch.target[INDEX["background"]]:
        patch.weight[INDEX["background"]] = 0.0
