"""Train Combiner, latent model and decoder on cached tokens.

A training scene pairs a stream of audio tracks with a stream of video tracks at random offsets; half of the time the
streams are aligned so that something that can make one of the sounds is in view. Streams have missing frames, missing
audio, whole modalities missing and gaps in time. Losses: label cross-entropies masked where the truth is unknown,
prediction of the next snippet's tokens (target without gradient), text cross-entropy. A student also learns the
probabilities of every label (where the truth is unknown, too) and of every word that its teachers give on the mean
(arXiv 1503.02531).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
import os
import pathlib
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import device, scenes, stories, text
from .fusion import GAPLESS, SNIPPET_SECONDS, Fusion, FusionConfig
from .labels import AUDIBLE_IDS, SOURCES, VISIBLE_IDS, VISIBLE_INDEX
from .quant import quantised_weights
from .video_encoder import save_atomically

BATCH = 8
LENGTHS, LENGTH_SHARES = (8, 16, 32, 64), (0.1, 0.35, 0.4, 0.15)
TEXTS_PER_SCENE = 5
LEARNING_RATE, WEIGHT_DECAY, WARMUP = 2e-3, 0.03, 50
EMA = 0.99
TOKEN_NOISE = 0.4  # of tokens with a root mean square of 1: those of sources that an encoder has learned are too clear
LOSS_WEIGHTS = {"audible": 1.0, "visible": 1.0, "source": 0.4, "next": 0.02, "text": 0.04}
HEADS = ("audible", "visible", "source")
TEACHER_RATE = 1e-3  # learning rate of a teacher-size model
QUANTISED_SHARE = 0.1  # of the student's steps, the last: with weights rounded as they ship
TEACHER_SHARE = 0.5  # of a student's label and text losses
CHECKPOINT_EVERY = 50


def config() -> FusionConfig:
    return FusionConfig(audible=len(AUDIBLE_IDS), visible=len(VISIBLE_IDS), vocabulary=len(text.vocabulary()))


def teacher_config() -> FusionConfig:
    """At least four times the student's parameters, from the same tokens."""
    return dataclasses.replace(config(), dim=256, heads=8, combiner_layers=2, latent_layers=4, decoder_layers=3)


def maker_matrix() -> np.ndarray:
    """[audible, visible] 1 where the visible thing can make the sound."""
    out = np.zeros((len(AUDIBLE_IDS), len(VISIBLE_IDS)), np.float32)
    for i, label in enumerate(AUDIBLE_IDS):
        out[i, [VISIBLE_INDEX[v] for v in SOURCES.get(label, [])]] = 1.0
    return out


@dataclass
class Pool:
    """Encoded tracks of one split and where each visible label can be found."""

    audio: dict[str, np.ndarray]
    video: dict[str, np.ndarray]
    seen_at: list[np.ndarray] = field(init=False)
    makers: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        sure = (self.video["visible"] >= 0.5) & (self.video["visible_weight"] > 0)
        snippets = sure.reshape(len(sure), scenes.SNIPPETS, 2, -1).all(axis=2)
        self.seen_at = [np.argwhere(snippets[..., v]) for v in range(snippets.shape[-1])]
        self.makers = maker_matrix()

    @classmethod
    def load(cls, work: pathlib.Path, audio_tokens: pathlib.Path, video_tokens: pathlib.Path, split: str) -> Pool:
        audio = scenes.load_tracks(work, audio_tokens, "audio", split)
        return cls(audio, scenes.load_tracks(work, video_tokens, "video", split))


def stream(rng: np.random.Generator, tracks: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(track, snippet) of each moment: tracks played one after another from a random offset."""
    place = np.arange(length) + int(rng.integers(scenes.SNIPPETS))
    order = rng.integers(tracks, size=place[-1] // scenes.SNIPPETS + 1)
    return order[place // scenes.SNIPPETS], place % scenes.SNIPPETS


def aligned_stream(rng: np.random.Generator, pool: Pool, audible: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """A video stream in which a maker of one of the scene's sounds is seen while it sounds."""
    moments = np.argwhere((audible >= 0.5) & (pool.makers.sum(axis=1) > 0))
    if not len(moments):
        return None
    labels = np.unique(moments[:, 1])
    label = labels[rng.integers(len(labels))]
    times = moments[moments[:, 1] == label, 0]
    t = int(times[rng.integers(len(times))])
    makers = [v for v in np.flatnonzero(pool.makers[label]) if len(pool.seen_at[v])]
    if not makers:
        return None
    found = pool.seen_at[makers[rng.integers(len(makers))]]
    track, snippet = found[rng.integers(len(found))]
    place = np.arange(len(audible)) + (int(snippet) - t) % scenes.SNIPPETS
    order = rng.integers(len(pool.video["tokens"]), size=place[-1] // scenes.SNIPPETS + 1)
    order[place[t] // scenes.SNIPPETS] = track
    return order[place // scenes.SNIPPETS], place % scenes.SNIPPETS


def masks(rng: np.random.Generator, length: int) -> dict[str, np.ndarray]:
    """Presence, offsets and gaps of one scene; presence of sound [length], still without that of its patches."""
    frames, audio = np.ones((length, 2), np.float32), np.ones(length, np.float32)
    if rng.random() < 0.3:
        frames[rng.random(frames.shape) < rng.choice([0.05, 0.3, 0.6])] = 0.0
    for present in (frames, audio):
        chance = rng.random()
        if chance < 0.06:
            present[:] = 0.0
        elif chance < 0.14:
            first = int(rng.integers(length))
            present[first : first + int(rng.integers(1, length))] = 0.0
    if not frames.any() and not audio.any():
        frames[:], audio[:] = 1.0, 1.0
    dt = np.full((length, 1), SNIPPET_SECONDS, np.float32)
    if rng.random() < 0.25:
        gaps = rng.random((length, 1)) < 0.08
        dt += gaps * rng.choice([SNIPPET_SECONDS, 0.3, 3 * SNIPPET_SECONDS, 12.0], size=(length, 1)).astype(np.float32)
    offset = np.array([0.24, 0.72], np.float32) + rng.normal(0.0, 0.04, (length, 2)).astype(np.float32)
    return {"frame_present": frames, "audio_present": audio, "dt": dt, "frame_offset": offset.clip(0.0, 0.95) * frames}


def snippet_truth(target: np.ndarray, weight: np.ndarray, present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames' truth [T, 2, V] -> a snippet's: seen if seen in a present frame, unknown if an unknown frame decides."""
    known = weight * present[..., None]
    positive = np.where((target >= 0.5) & (known > 0), known, 0.0).max(axis=1)
    soft = (target * (known > 0)).max(axis=1)
    lowest = np.where(present[..., None] > 0, weight, np.inf).min(axis=1)
    lowest = np.where(np.isfinite(lowest), lowest, 1.0)
    return soft.astype(np.float32), np.where(positive > 0, positive, lowest).astype(np.float32)


def forgive_wild_cats(seen: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """What is or may be a wild animal (a part of one is unknown) may be taken for a cat or not: the kit has hundreds of
    pumas and leopards and five house cats."""
    cat, wild = VISIBLE_INDEX["cat"], VISIBLE_INDEX["wild_animal"]
    weight = weight.copy()
    weight[((seen[:, wild] >= 0.5) | (weight[:, wild] < 0.5)) & (seen[:, cat] < 0.5), cat] = 0.0
    return weight


def source_truth(visible: np.ndarray, weight: np.ndarray, makers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Is a maker of the sound in view? Known when one surely is or all surely are not."""
    sure = ((visible >= 0.5) & (weight >= 0.5)).astype(np.float32) @ makers.T > 0
    doubt = ((weight < 0.5) | ((visible > 0.1) & (visible < 0.5))).astype(np.float32) @ makers.T > 0
    return sure.astype(np.float32), (sure | ~doubt).astype(np.float32)


def clean_masks(length: int) -> dict[str, np.ndarray]:
    """Nothing missing, no gaps."""
    return {
        "frame_present": np.ones((length, 2), np.float32), "audio_present": np.ones(length, np.float32),
        "dt": np.full((length, 1), SNIPPET_SECONDS, np.float32),
        "frame_offset": np.tile(np.float32([0.24, 0.72]), (length, 1)),
    }  # fmt: skip


def patch_presence(heard: np.ndarray, dt: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Presence of sound [T] -> of its patches [T, 2]: the early one needs the snippet before, without a gap; a track's
    first snippet has none."""
    early = heard.copy()
    early[0] = 0.0
    early[1:] *= heard[:-1] * (np.abs(dt[1:, 0] - SNIPPET_SECONDS) < GAPLESS)
    return np.stack([early * (places > 0), heard], axis=1).astype(np.float32)


def draw_scene(
    rng: np.random.Generator, pool: Pool, length: int, audio_track: int | None = None
) -> dict[str, np.ndarray]:
    """Tokens, masks and truth of one scene; a given `audio_track` is played from its start and nothing is missing."""
    tracks, places = stream(rng, len(pool.audio["tokens"]), length)
    if audio_track is not None:
        tracks, places = np.full(length, audio_track), np.arange(length)
    audible, audible_weight = pool.audio["audible"][tracks, places], pool.audio["audible_weight"][tracks, places]
    aligned = aligned_stream(rng, pool, audible) if rng.random() < 0.5 else None
    video_tracks, snippets = aligned or stream(rng, len(pool.video["tokens"]), length)
    frames = np.stack([2 * snippets, 2 * snippets + 1], axis=1)
    mask = masks(rng, length) if audio_track is None else clean_masks(length)
    per_frame = [pool.video[name][video_tracks[:, None], frames] for name in ("visible", "visible_weight")]
    seen, seen_weight = snippet_truth(*per_frame, mask["frame_present"])
    seen_weight = forgive_wild_cats(seen, seen_weight)
    source, source_weight = source_truth(seen, seen_weight, pool.makers)
    heard = mask["audio_present"][:, None]
    mask["audio_present"] = patch_presence(heard[:, 0], mask["dt"], places)
    return mask | {
        "audio": pool.audio["tokens"][tracks, places].astype(np.float32) * mask["audio_present"][..., None, None],
        "video": pool.video["tokens"][video_tracks[:, None], frames] * mask["frame_present"][..., None, None],
        "audible": audible * heard,
        "audible_weight": np.where(heard > 0, audible_weight, 1.0).astype(np.float32),
        "visible": seen, "visible_weight": seen_weight, "source": source, "source_weight": source_weight,
    }  # fmt: skip


def collate(batch: list[dict[str, np.ndarray]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.stack([scene[name] for scene in batch])) for name in batch[0]}


def moved(batch: dict[str, Tensor] | None, where: torch.device) -> dict[str, Tensor] | None:
    return batch and {name: value.to(where) for name, value in batch.items()}


def story(scene: dict[str, np.ndarray]) -> stories.Truth:
    """What sentences of a drawn scene can be made of."""
    present = np.stack([scene["audio_present"][:, 1] > 0, (scene["frame_present"] > 0).any(axis=1)], axis=1)
    return stories.Truth(*(scene[name] for name in stories.TRUTH), scene["dt"][:, 0].cumsum(), present)


def draw_texts(
    rng: np.random.Generator, batch: list[dict[str, np.ndarray]], make: stories.Maker = stories.sample,
    claims: list[stories.Truth] | None = None, count: int = TEXTS_PER_SCENE,
) -> dict[str, Tensor] | None:  # fmt: skip
    """Prompts and answers at random moments: scene and moment indices, tokens, targets (-100 = no loss)."""
    rows = []
    for b, scene in enumerate(batch):
        truth = story(scene)
        for t in rng.integers(len(scene["dt"]), size=count):
            made = make(rng, truth, int(t), claims and claims[b])
            if made:
                rows.append((b, int(t), *made))
    if not rows:
        return None
    width = max(len(prompt) + len(answer) - 1 for _, _, prompt, answer in rows)
    tokens, target = np.zeros((len(rows), width), np.int64), np.full((len(rows), width), -100, np.int64)
    for i, (_, _, prompt, answer) in enumerate(rows):
        sequence = prompt + answer
        tokens[i, : len(sequence) - 1] = sequence[:-1]
        target[i, len(prompt) - 1 : len(sequence) - 1] = answer
    index = np.array([row[:2] for row in rows])
    return {name: torch.from_numpy(value) for name, value in
            (("scene", index[:, 0]), ("moment", index[:, 1]), ("tokens", tokens), ("target", target))}  # fmt: skip


def text_logits(fusion: Fusion, out: dict[str, Tensor], texts: dict[str, Tensor]) -> Tensor:
    """Decoder logits over each text's own window."""
    b, t = texts["scene"], texts["moment"]
    start = out["start"]
    places = torch.arange(start.shape[1], device=start.device)
    valid = ((places <= t[:, None]) & (places > t[:, None] - fusion.config.window)).float()
    age = (start[b, t][:, None] - start[b]).clamp(min=0.0)
    cross = [out[name][b].transpose(1, 2) for name in ("cross_k", "cross_v")]
    return fusion.decoder.sequence(texts["tokens"], *cross, age, valid)


def masked_bce(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Sum over labels, mean over snippets."""
    loss = nn.functional.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="none")
    return loss.sum(-1).mean()


def losses(
    fusion: Fusion, batch: dict[str, Tensor], texts: dict[str, Tensor] | None, teachers: Sequence[Fusion] = ()
) -> dict[str, Tensor]:
    out = fusion.scene(batch)
    found = {name: masked_bce(out[name], batch[name], batch[f"{name}_weight"]) for name in HEADS}
    steady = ((batch["dt"][:, 1:, 0] - SNIPPET_SECONDS).abs() < GAPLESS).float()
    error = (out["next_tokens"][:, :-1] - out["tokens"][:, 1:].detach()).pow(2).mean((2, 3))
    found["next"] = (error * steady).sum() / steady.sum().clamp(min=1.0)
    logits = text_logits(fusion, out, texts) if texts is not None else None
    if logits is not None:
        found["text"] = nn.functional.cross_entropy(logits.flatten(0, 1), texts["target"].flatten(), ignore_index=-100)
    if teachers:
        found |= taught(teachers, batch, texts, out, logits)
    return found


def taught(
    teachers: Sequence[Fusion], batch: dict[str, Tensor], texts: dict[str, Tensor] | None, out: dict[str, Tensor],
    logits: Tensor | None,
) -> dict[str, Tensor]:  # fmt: skip
    """What the student's outputs lack of the mean of its teachers', per label head and for the text."""
    with torch.no_grad():
        models = [teacher.scene(batch) for teacher in teachers]
    found = {}
    for name in HEADS:
        soft = torch.stack([torch.sigmoid(model[name]) for model in models]).mean(dim=0)
        found[f"taught_{name}"] = masked_bce(out[name], soft, torch.ones_like(soft))
    if texts is not None:
        spoken = texts["target"] >= 0
        with torch.no_grad():
            said = [text_logits(teacher, model, texts)[spoken] for teacher, model in zip(teachers, models, strict=True)]
        theirs = torch.stack([torch.softmax(x, dim=-1) for x in said]).mean(dim=0)
        ours = nn.functional.log_softmax(logits[spoken], dim=-1)
        found["taught_text"] = nn.functional.kl_div(ours, theirs, reduction="batchmean")
    return found


def total_loss(found: dict[str, Tensor]) -> Tensor:
    """Weighted sum; the teachers' part replaces its share of the truth's."""
    total = torch.zeros((), device=next(iter(found.values())).device)
    for name, weight in LOSS_WEIGHTS.items():
        if name not in found:
            continue
        lesson = found.get(f"taught_{name}")
        own = found[name] if lesson is None else (1.0 - TEACHER_SHARE) * found[name] + TEACHER_SHARE * lesson
        total = total + weight * own
    return total


def parameter_groups(fusion: Fusion) -> list[dict]:
    decayed = [p for p in fusion.parameters() if p.ndim >= 2]
    plain = [p for p in fusion.parameters() if p.ndim < 2]
    return [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]


@dataclass
class Run:
    """State of a training run, saved whole so that it can be resumed."""

    fusion: Fusion
    average: Fusion
    optimiser: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    teachers: list[str] = field(default_factory=list)  # hashes of the checkpoints that it learns from
    begun: dict[str, Any] = field(default_factory=dict)  # how the training that it goes on from was made

    @classmethod
    def start(cls, init: pathlib.Path | None, geometry: FusionConfig, decoder_only: bool = False) -> Run:
        torch.manual_seed(0)
        fusion, begun = Fusion(geometry).to(device.best()), {}
        if init is not None:
            saved = torch.load(init, map_location="cpu", weights_only=True)
            weights = saved["average"]
            if decoder_only:
                weights = {name: value for name, value in weights.items() if name.startswith("decoder.")}
            elif "restored" not in saved:
                begun = {name: saved[name] for name in ("step", "teachers", "runs", "mixed") if name in saved}
            fusion.load_state_dict(weights, strict=not decoder_only)
        optimiser = torch.optim.AdamW(parameter_groups(fusion), lr=LEARNING_RATE, betas=(0.9, 0.98))
        return cls(fusion, copy.deepcopy(fusion), optimiser, begun=begun)

    def save(self, path: pathlib.Path, key: str) -> None:
        save_atomically({
            "key": key, "config": self.fusion.config.as_dict(), "step": self.step, "seconds": self.seconds,
            "teachers": self.teachers, "begun": self.begun,
            "fusion": self.fusion.state_dict(), "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }, path)  # fmt: skip

    def resume(self, path: pathlib.Path, key: str) -> bool:
        """Load the checkpoint if it belongs to the same tokens and settings."""
        if not path.exists():
            return False
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if saved["key"] != key:
            return False
        self.fusion.load_state_dict(saved["fusion"])
        self.average.load_state_dict(saved["average"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.step, self.seconds = saved["step"], saved["seconds"]
        return True

    @torch.no_grad()
    def update_average(self) -> None:
        decay = min(EMA, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.average.parameters(), self.fusion.parameters(), strict=True):
            mean.lerp_(value, 1.0 - decay)


def rate(progress: float, step: int) -> float:
    """Linear warm-up, then a half cosine to 2 %."""
    return min(1.0, (step + 1) / WARMUP) * (0.02 + 0.49 * (1.0 + math.cos(math.pi * min(1.0, progress))))


def train(
    pool: Pool, path: pathlib.Path, key: str, steps: int, minutes: float = 1e9, init: pathlib.Path | None = None,
    geometry: FusionConfig | None = None, taught_by: Sequence[pathlib.Path] = (), decoder_only: bool = False,
    peak_rate: float = LEARNING_RATE, quantised: bool = False,
) -> None:  # fmt: skip
    """Train until `steps` or `minutes` (the schedule follows whichever is nearer); resumes from `path`. `taught_by` are
    the teachers' checkpoints. With `decoder_only` no more than the decoder starts as in `init`. With `quantised` the
    last steps are quantisation-aware: losses and gradients are those of rounded weights (arXiv 1712.05877)."""
    torch.set_flush_denormal(True)
    run, where = Run.start(init, geometry or config(), decoder_only), device.best()
    teachers = [load_fusion(checkpoint).to(where) for checkpoint in taught_by]
    run.teachers = [scenes.file_hash(checkpoint) for checkpoint in taught_by]
    if run.resume(path, key):
        print(f"train: resumed at step {run.step}", flush=True)
        if run.step >= steps or run.seconds >= minutes * 60:
            return  # not written again: what is made from this file is keyed by its hash
    history: dict[str, float] = {}
    log = path.with_suffix(".log")
    while run.step < steps and run.seconds < minutes * 60:
        began = time.monotonic()
        rng = np.random.default_rng([17, zlib.crc32(key.encode()), run.step])  # another start meets other scenes
        length = int(rng.choice(LENGTHS, p=LENGTH_SHARES))
        drawn = [draw_scene(rng, pool, length) for _ in range(max(2, BATCH * 32 // length))]
        batch = collate(drawn)
        torch.manual_seed(run.step)
        for name in ("audio", "video"):
            batch[name] = batch[name] + TOKEN_NOISE * torch.randn_like(batch[name])
        run.fusion.train()
        progress = max(run.step / steps, run.seconds / (minutes * 60))
        for group in run.optimiser.param_groups:
            group["lr"] = peak_rate * rate(progress, run.step)
        run.optimiser.zero_grad()
        late = quantised and progress >= 1.0 - QUANTISED_SHARE
        with quantised_weights(run.fusion) if late else contextlib.nullcontext():
            found = losses(run.fusion, moved(batch, where), moved(draw_texts(rng, drawn), where), teachers)
            total_loss(found).backward()
        nn.utils.clip_grad_norm_(run.fusion.parameters(), 2.0)
        run.optimiser.step()
        run.step += 1
        run.update_average()
        run.seconds += time.monotonic() - began
        for name, value in found.items():
            history[name] = 0.95 * history.get(name, float(value)) + 0.05 * float(value)
        if run.step % 20 == 0:
            line = {"step": run.step, "seconds": round(run.seconds), **{n: round(v, 4) for n, v in history.items()}}
            print(json.dumps(line), flush=True)
            with log.open("a") as out:
                out.write(json.dumps(line) + os.linesep)
        if run.step % CHECKPOINT_EVERY == 0:
            run.save(path, key)
    run.save(path, key)


def average(path: pathlib.Path, others: list[pathlib.Path]) -> None:
    """Replace the averaged weights of a training by their mean with those of others (arXiv 2203.05482). All start from
    the same random weights, which makes the mean as good as its parts, or better; they have met other scenes. One that
    is given twice weighs twice."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    rest = [torch.load(other, map_location="cpu", weights_only=True) for other in others]
    for name, value in saved["average"].items():
        saved["average"][name] = torch.stack([value, *(other["average"][name] for other in rest)]).mean(dim=0)
    saved["runs"] = saved.get("runs", 1) + len(set(others))
    if any(bool(other.get("teachers")) != bool(saved.get("teachers")) for other in rest):
        saved["mixed"] = True  # some were taught, some learned from the truth alone
    save_atomically(saved, path)


def load_fusion(path: pathlib.Path) -> Fusion:
    """The averaged weights, in eval mode."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    fusion = Fusion(FusionConfig(**saved["config"]))
    fusion.load_state_dict(saved["average"])
    return fusion.eval()
