"""Scenes for training: half a minute of sound and half a minute of camera view, with the truth per snippet.

The kit has no paired audio and video, so the two are composed apart, as *tracks* of `SNIPPETS` snippets, and paired
when a training scene is drawn (`train_fusion.py`): any audio track may run beside any video track, at any offset. What
a pair means (source in view, off camera, silent object) follows from the truth of both.

Two caches in the work directory, both sharded, seeded per shard and resumable:
- `tracks-v*/`: what the frontends give (log-mel patches, small frames) and the truth; independent of the encoders;
- `tokens-int8-v*-<hash of the encoder checkpoint>/`: tokens of each shard, float16, of the frozen encoder with weights
  rounded as they ship: everything after it learns from, and is calibrated on, what it will be given.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from . import audio_data as ad
from . import video_data as vd
from .audio_patches import Source, TeacherScores, make_sources
from .frontend import (
    CARRY_SAMPLES,
    PATCH_SAMPLES,
    SAMPLE_RATE,
    SNIPPET_SAMPLES,
    early_patches,
    frame_tensor,
    log_mel,
)
from .labels import AMBIENCE, AUDIBLE_IDS, AUDIBLE_INDEX, VISIBLE_IDS
from .quant import fake_quant_weights

VERSION = 2
SNIPPETS = 32
FRAMES = 2 * SNIPPETS
SHARD = 20
RINGS, OTHER_RINGS = 1200, 75  # synthesised rings and alarms to train on, and in every other split
SPLITS = ("train", "val", "test")
SPLIT_SEED = {"train": 1, "val": 2, "test": 3, "final": 4}
# Names in the files: the first `test` tracks were composed before the final sources were set apart, the first sounds of
# `train` at their own speed alone.
TAG = {("audio", "train"): "train2", ("audio", "test"): "test2", ("video", "test"): "test2"}
BLOCK = ad.ACTIVITY_HOP
CLAIM_SECONDS, CLAIM_SHARE = 0.15, 0.5
MASKED_SHARE = 0.05  # an event that is less than this share of a snippet's energy is neither claimed nor denied
FAINT_SHARE = 0.003  # below this share it counts as absent
TEACHER_HEARS = 0.3
# Events that people care about and that are rare in the kit are drawn more often than their clips' share.
FAVOURED = {
    "phone_ring": 3.0, "dog_bark": 2.5, "glass_break": 2.5, "cat_meow": 2.0, "baby_cry": 2.0, "alarm": 1.5,
    "siren": 1.5, "scream": 1.5, "knock": 1.5, "speech": 1.5, "cough": 1.3,
}  # fmt: skip
RARELY_SEEN = {"cat": 3.0, "dog": 2.0, "person": 2.0, "face": 1.5, "screen": 0.7, "boat": 0.7, "aircraft": 0.8}


# ---------------------------------------------------------------- sound


@dataclass
class AudioBank:
    """Clips of one split by label, ready to be placed."""

    groups: dict[str, list[Source]]
    rirs: list[np.ndarray]
    others: Callable[[ad.Clip, int], np.ndarray]
    sped: bool = False  # whether speeds vary

    @classmethod
    def load(cls, data: pathlib.Path, work: pathlib.Path, split: str) -> AudioBank:
        clips = ad.load_clips(data, work, split)
        clips += list(ad.synthetic_clips(SPLIT_SEED[split], RINGS if split == "train" else OTHER_RINGS))
        groups: dict[str, list[Source]] = {}
        for source in make_sources(clips, TeacherScores(data)):
            groups.setdefault(source.clip.label, []).append(source)
        return cls(groups, ad.load_rirs(data), OtherSounds(data), sped=split == "train")

    def play(self, rng: np.random.Generator, source: Source) -> tuple[Source, np.ndarray, np.ndarray]:
        """(source, waveform, other labels per block) at the speed it is played at."""
        wave, others = source.clip.wave(), self.others(source.clip, len(source.active))
        speed = ad.draw_speed(rng) if self.sped else 1.0
        if speed == 1.0:
            return source, wave, others
        at = np.arange(int(len(wave) / speed)) * speed
        blocks = np.minimum(np.arange(max(1, round(len(source.active) / speed))) * speed, len(source.active) - 1)
        blocks = blocks.astype(int)
        sped = Source(source.clip, source.active[blocks], source.claimable[blocks])
        return sped, np.interp(at, np.arange(len(wave)), wave).astype(np.float32), others[blocks]


class OtherSounds:
    """Labels that YAMNet hears in a clip beside the clip's own: unknown there, neither claimed nor denied."""

    def __init__(self, data: pathlib.Path) -> None:
        folder = data / "teacher-labels"
        with np.load(folder / "audio_yamnet.npz") as stored:
            scores, self.offsets = stored["scores"], stored["offsets"]
            self.row = {str(f): k for k, f in enumerate(stored["files"])}
        names = json.loads((folder / "class_to_yamnet.json").read_text())
        self.hears = np.zeros((len(scores), len(AUDIBLE_IDS)), bool)
        for label, entry in names.items():
            if label != "background" and entry["yamnet_indices"]:
                self.hears[:, AUDIBLE_INDEX[label]] = scores[:, entry["yamnet_indices"]].max(axis=1) > TEACHER_HEARS

    def __call__(self, clip: ad.Clip, blocks: int) -> np.ndarray:
        """bool [blocks of 0.1 s, labels]."""
        out = np.zeros((blocks, len(AUDIBLE_IDS)), bool)
        if clip.file in self.row:
            row = self.row[clip.file]
            hears = self.hears[self.offsets[row] : self.offsets[row + 1]]
            for block in range(blocks):
                last = int(block * BLOCK / SAMPLE_RATE / 0.48)
                out[block] = hears[max(0, last - 1) : last + 1].any(axis=0)
        out[:, AUDIBLE_INDEX[clip.label]] = False
        return out


class AudioTrack:
    """A track being composed: the waveform and the evidence per 0.1 s block and label."""

    def __init__(self, snippets: int = SNIPPETS) -> None:
        self.snippets = snippets
        self.samples = CARRY_SAMPLES + snippets * SNIPPET_SAMPLES
        self.wave = np.zeros(self.samples, np.float32)
        self.parts: list[tuple[int, np.ndarray, np.ndarray, np.ndarray, float]] = []
        self.unknown = np.zeros((snippets, len(AUDIBLE_IDS)), bool)

    def place(self, source: Source, wave: np.ndarray, start: int, others: np.ndarray) -> None:
        """Add a sound at sample `start`; remember where it is active and its energy per snippet."""
        label = AUDIBLE_INDEX[source.clip.label]
        first, last = max(0, start), min(self.samples, start + len(wave))
        if last <= first:
            return
        piece = wave[first - start : last - start]
        self.wave[first:last] += piece
        energy = np.zeros(self.snippets)
        active, claimed = np.zeros(self.snippets), np.zeros(self.snippets)
        for s in range(self.snippets):
            begin = s * SNIPPET_SAMPLES
            end = begin + PATCH_SAMPLES
            lo, hi = max(begin, first), min(end, last)
            if hi <= lo:
                continue
            energy[s] = float(np.square(piece[lo - first : hi - first], dtype=np.float64).sum())
            edges = np.arange(len(source.active)) * BLOCK + start
            inside = np.clip(np.minimum(edges + BLOCK, end) - np.maximum(edges, begin), 0, BLOCK) / SAMPLE_RATE
            active[s] = inside[source.active].sum()
            claimed[s] = inside[source.active & source.claimable].sum()
            self.unknown[s] |= others[inside[: len(others)] > 0].any(axis=0)
        needed = min(CLAIM_SECONDS, CLAIM_SHARE * float(source.active.sum()) * BLOCK / SAMPLE_RATE)
        self.parts.append((label, energy, active, claimed, needed))

    def truth(self) -> tuple[np.ndarray, np.ndarray]:
        """(target, weight) [snippets, labels]."""
        target = np.zeros((self.snippets, len(AUDIBLE_IDS)), np.float32)
        weight = np.where(self.unknown, 0.0, 1.0).astype(np.float32)
        total = np.array([
            np.square(self.wave[s * SNIPPET_SAMPLES : s * SNIPPET_SAMPLES + PATCH_SAMPLES], dtype=np.float64).sum()
            for s in range(self.snippets)
        ])  # fmt: skip
        for label, energy, active, claimed, needed in self.parts:
            share = energy / np.maximum(total, 1e-12)
            sure = (claimed >= needed) & (needed > 0) & (share >= MASKED_SHARE)
            maybe = (active > 0) & (share >= FAINT_SHARE) & ~sure & (target[:, label] < 0.5)
            weight[maybe, label] = 0.0
            target[sure, label], weight[sure, label] = 1.0, 1.0
        background = AUDIBLE_INDEX["background"]
        target[:, background] = (np.delete(target, background, 1).max(axis=1) < 0.5).astype(np.float32)
        return target, weight


def gain(rng: np.random.Generator, wave: np.ndarray, low_db: float, high_db: float) -> np.float32:
    """Factor that brings the active level to a random one between two in dBFS; 1 for silence."""
    level = ad.active_rms(wave)
    return np.float32(10.0 ** (rng.uniform(low_db, high_db) / 20.0) / level) if level > 1e-5 else np.float32(1.0)


def _looped(wave: np.ndarray, length: int) -> np.ndarray:
    """The clip repeated with short cross-fades."""
    fade = min(len(wave) // 4, SAMPLE_RATE // 10)
    ramp = np.linspace(0.0, 1.0, fade, dtype=np.float32)
    out = np.zeros(length + len(wave), np.float32)
    at = 0
    while at < length:
        piece = wave.copy()
        if at:
            piece[:fade] *= ramp
        piece[len(piece) - fade :] *= ramp[::-1]
        out[at : at + len(piece)] += piece
        at += len(wave) - fade
    return out[:length]


def bed(rng: np.random.Generator, bank: AudioBank, track: AudioTrack) -> float:
    """Noise floor, sometimes recorded background or a steady labelled sound; returns its level in dBFS."""
    if rng.random() > 0.05:
        floor = rng.uniform(-80.0, -42.0)
        track.wave = ad.add_noise(track.wave, rng, floor, rng.choice([0.0, 1.0, 1.0, 1.5, 2.0]))
    if rng.random() < 0.45:
        clips = bank.groups["background"]
        source = clips[rng.integers(len(clips))]
        wave = _looped(source.clip.wave(), track.samples)
        wave = wave * gain(rng, wave, -70.0, -38.0)
        everywhere = np.tile(bank.others(source.clip, max(1, len(source.active))).any(axis=0), (1, 1))
        track.wave += wave
        track.unknown |= everywhere
    return 20.0 * np.log10(ad.rms(track.wave) + 1e-5)


def _ambience(rng: np.random.Generator, bank: AudioBank, track: AudioTrack, bed_db: float) -> None:
    """A continuous labelled sound over part of the track."""
    label = str(rng.choice([a for a in AMBIENCE if a in bank.groups]))
    source, played, heard = bank.play(rng, bank.groups[label][rng.integers(len(bank.groups[label]))])
    length = int(rng.uniform(3.0, 24.0) * SAMPLE_RATE)
    wave = _looped(played, length)
    low = max(-48.0, bed_db + 3.0)
    wave = wave * gain(rng, wave, low, max(low + 1.0, -18.0))
    edge = int(rng.uniform(0.01, 0.8) * SAMPLE_RATE)
    wave[:edge] *= np.linspace(0, 1, edge, dtype=np.float32)
    wave[-edge:] *= np.linspace(1, 0, edge, dtype=np.float32)
    blocks = length // BLOCK
    steady = Source(source.clip, np.ones(blocks, bool), np.ones(blocks, bool))
    others = np.tile(heard.any(axis=0), (blocks, 1))
    track.place(steady, wave, int(rng.integers(-length // 2, track.samples - length // 2)), others)


def _event(rng: np.random.Generator, bank: AudioBank, track: AudioTrack, labels: list[str], share: np.ndarray,
           bed_db: float) -> None:  # fmt: skip
    """One labelled clip at a random time, level and distance."""
    group = bank.groups[labels[rng.choice(len(labels), p=share)]]
    source, wave, others = bank.play(rng, group[rng.integers(len(group))])
    if rng.random() < 0.45:
        wave = ad.apply_rir(wave, bank.rirs[rng.integers(len(bank.rirs))])
    if rng.random() < 0.25:
        wave = ad.band_limit(wave, rng.uniform(30.0, 300.0), rng.uniform(3_000.0, 7_800.0))
    low = max(-46.0, bed_db + rng.uniform(1.0, 12.0))
    wave = wave * gain(rng, wave, low, max(low + 1.0, -9.0))
    track.place(source, wave, int(rng.integers(-len(wave) // 2, track.samples - len(wave) // 2)), others)


def event_shares(bank: AudioBank) -> tuple[list[str], np.ndarray]:
    labels = [label for label in bank.groups if label != "background"]
    share = np.array([len(bank.groups[label]) ** 0.4 * FAVOURED.get(label, 1.0) for label in labels])
    return labels, share / share.sum()


def sound(rng: np.random.Generator, bank: AudioBank) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One composed track: the waveform (with the carry before it), target and weight [S, labels]."""
    track = AudioTrack()
    labels, share = event_shares(bank)
    bed_db = bed(rng, bank, track)
    if rng.random() < 0.3:
        _ambience(rng, bank, track, bed_db)
    for _ in range(0 if rng.random() < 0.08 else int(rng.integers(3, 12))):
        _event(rng, bank, track, labels, share, bed_db)
    target, weight = track.truth()
    return _microphone(rng, track.wave), target, weight


def audio_track(rng: np.random.Generator, bank: AudioBank) -> dict[str, np.ndarray]:
    """One composed audio track: mel f16 [S, 96, 64], target and weight [S, labels]."""
    wave, target, weight = sound(rng, bank)
    mel = log_mel(np.lib.stride_tricks.sliding_window_view(wave, PATCH_SAMPLES)[::SNIPPET_SAMPLES])
    return {"mel": mel.astype(np.float16), "audible": target, "audible_weight": weight}


def _microphone(rng: np.random.Generator, wave: np.ndarray) -> np.ndarray:
    if rng.random() < 0.25:
        wave = ad.tilt(wave, rng.uniform(-3.0, 3.0))
    if rng.random() < 0.25:
        wave = ad.band_limit(wave, rng.uniform(30.0, 300.0), rng.uniform(3_500.0, 7_800.0))
    if rng.random() < 0.1:
        wave = ad.soft_clip(wave, max(1e-3, float(np.abs(wave).max()) * rng.uniform(0.2, 0.7)))
    return ad.to_pcm(wave)


# ---------------------------------------------------------------- picture


@dataclass
class VideoBank:
    pictures: list[vd.Picture]
    by_label: dict[str, list[int]]
    empty: list[int]

    @classmethod
    def load(cls, data: pathlib.Path, work: pathlib.Path, split: str) -> VideoBank:
        pictures = [_house_cat(p) for p in vd.load_images(data, work, split)]
        return cls(pictures, vd.index_by_label(pictures), vd.backgrounds(pictures))

    def subject(self, rng: np.random.Generator) -> vd.Picture:
        labels = [v for v in VISIBLE_IDS if self.by_label[v]]
        share = np.array([RARELY_SEEN.get(v, 1.0) for v in labels])
        where = self.by_label[labels[rng.choice(len(labels), p=share / share.sum())]]
        return self.pictures[where[rng.integers(len(where))]]

    def nothing(self, rng: np.random.Generator) -> vd.Picture:
        return self.pictures[self.empty[rng.integers(len(self.empty))]]


def _house_cat(picture: vd.Picture) -> vd.Picture:
    """The kit has five house cats in its training part, and a folder of wild cats that mostly look like tabbies.

    Pictures of that folder which a teacher takes for a cat train `cat` and leave `wild_animal` open.
    """
    cat, wild = VISIBLE_IDS.index("cat"), VISIBLE_IDS.index("wild_animal")
    if "cal-wild_cat" not in picture.file or picture.target[cat] < 0.9 and not _looks_like_cat(picture, cat):
        return picture
    target, weight = picture.target.copy(), picture.weight.copy()
    target[cat], weight[cat], weight[wild] = 1.0, 1.0, 0.0
    boxes = [(cat, box) for label, box in picture.objects if label == wild]
    known = {label for label, _ in picture.objects}
    objects = picture.objects + tuple(boxes if cat not in known else ())
    return replace(picture, target=target, weight=weight, objects=objects)


def _looks_like_cat(picture: vd.Picture, cat: int) -> bool:
    return picture.detector_score("cat") >= 0.6 or float(vd.pooled_lite0(picture.lite0_logits)[cat]) >= 0.15


def _segment(rng: np.random.Generator, bank: VideoBank, frames: int) -> vd.View:
    """One stretch without a cut."""
    kind = rng.random()
    if kind < 0.45:
        return vd.render_view(rng, [bank.subject(rng)], frames)
    if kind < 0.65:
        back = bank.nothing(rng) if rng.random() < 0.7 else None
        if back is None:
            return vd.render_view(rng, [bank.subject(rng), bank.subject(rng)], frames)
        subjects = [bank.subject(rng) for _ in range(1 if rng.random() < 0.75 else 2)]
        return vd.render_view(rng, subjects, frames, background=back)
    if kind < 0.85:
        return vd.render_view(rng, [bank.nothing(rng)], frames)
    return vd.render_view(rng, [], frames, background=bank.nothing(rng) if rng.random() < 0.5 else None)


def video_track(rng: np.random.Generator, bank: VideoBank) -> dict[str, np.ndarray]:
    """One composed video track: frames u8 [F, 96, 128, 3], target and weight [F, labels] per frame."""
    views, count = [], 0
    while count < FRAMES:
        frames = min(FRAMES - count, int(rng.integers(4, 30)))
        views.append(_segment(rng, bank, frames))
        count += frames
    return {
        "frames": np.concatenate([v.frames for v in views]),
        "visible": np.concatenate([v.target for v in views]).astype(np.float32),
        "visible_weight": np.concatenate([v.weight for v in views]).astype(np.float32),
    }


# ---------------------------------------------------------------- caches


def tracks_folder(work: pathlib.Path) -> pathlib.Path:
    return work / f"tracks-v{VERSION}"


def tokens_folder(work: pathlib.Path, checkpoint: pathlib.Path) -> pathlib.Path:
    return work / f"tokens-int8-v{VERSION}-{file_hash(checkpoint)}"


def stem(kind: str, split: str) -> str:
    return f"{kind}-{TAG.get((kind, split), split)}"


def shard_paths(work: pathlib.Path, kind: str, split: str) -> list[pathlib.Path]:
    return sorted(tracks_folder(work).glob(f"{stem(kind, split)}-*.npz"))


def write_tracks(data: pathlib.Path, work: pathlib.Path, kind: str, split: str, shards: int) -> None:
    """Compose what is missing of the first `shards` shards of `kind` ("audio" or "video")."""
    folder = tracks_folder(work)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{stem(kind, split)}-{k:04d}.npz" for k in range(shards)]
    missing = [(k, p) for k, p in enumerate(paths) if not p.exists()]
    if not missing:
        return
    bank = AudioBank.load(data, work, split) if kind == "audio" else VideoBank.load(data, work, split)
    make = audio_track if kind == "audio" else video_track
    for k, path in missing:
        tracks = [
            make(np.random.default_rng([VERSION, SPLIT_SEED[split], kind == "audio", k, n]), bank) for n in range(SHARD)
        ]
        save_npz(path, {name: np.stack([t[name] for t in tracks]) for name in tracks[0]})
        print(f"scenes {path.name}", flush=True)


def save_npz(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as out:
        np.savez(out, **arrays)
    os.replace(temporary, path)


def file_hash(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


@torch.no_grad()
def audio_tokens(encoder: torch.nn.Module, shard: dict[str, np.ndarray]) -> np.ndarray:
    """f16 [tracks, S, 2, Na, D]: of the patch that begins half a snippet early (zeros at a track's first), and of the
    snippet's own."""
    out = []
    for track in shard["mel"].astype(np.float32):
        own, early = (encoder(torch.from_numpy(patches)) for patches in (track, early_patches(track)))
        out.append(torch.stack([torch.cat([torch.zeros_like(own[:1]), early]), own], dim=1).numpy().astype(np.float16))
    return np.stack(out)


@torch.no_grad()
def video_tokens(encoder: torch.nn.Module, shard: dict[str, np.ndarray]) -> np.ndarray:
    """f16 [tracks, F, Nv, D]; the difference channel runs through the cuts of a track."""
    out = []
    for frames in shard["frames"]:
        previous = [None, *frames[:-1]]
        batch = torch.from_numpy(np.stack([frame_tensor(f, p) for f, p in zip(frames, previous, strict=True)]))
        parts = [encoder(part.contiguous(memory_format=torch.channels_last)) for part in batch.split(16)]
        out.append(torch.cat(parts).numpy().astype(np.float16))
    return np.stack(out)


def write_tokens(work: pathlib.Path, kind: str, checkpoint: pathlib.Path, encoder: torch.nn.Module,
                 splits: Sequence[str] = SPLITS) -> pathlib.Path:  # fmt: skip
    """Encode every shard of `kind` not yet encoded by this checkpoint; returns the folder. Rounds the weights."""
    folder = tokens_folder(work, checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    fake_quant_weights(encoder)
    encode = audio_tokens if kind == "audio" else video_tokens
    for path in [p for split in splits for p in shard_paths(work, kind, split)]:
        if (folder / path.name).exists():
            continue
        with np.load(path) as shard:
            tokens = encode(encoder, {name: shard[name] for name in ("mel", "frames") if name in shard})
        save_npz(folder / path.name, {"tokens": tokens})
        print(f"tokens {path.name}", flush=True)
    return folder


def load_tracks(work: pathlib.Path, folder: pathlib.Path, kind: str, split: str) -> dict[str, np.ndarray]:
    """Tokens and truth of a split's encoded shards, tracks along the first axis."""
    truth = ("audible", "audible_weight") if kind == "audio" else ("visible", "visible_weight")
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("tokens", *truth)}
    for path in shard_paths(work, kind, split):
        if not (folder / path.name).exists():
            continue
        with np.load(folder / path.name) as encoded, np.load(path) as shard:
            parts["tokens"].append(encoded["tokens"])
            for name in truth:
                parts[name].append(shard[name])
    return {name: np.concatenate(values) for name, values in parts.items()}
