"""Which parts earn their place: `python -m girasol_train ablate`, on cached tokens.

Every configuration gets the same short schedule at student size, from scratch, with the same scenes in the same order,
three seeds each; it is scored on the same validation scenes of 64 snippets. One row per configuration: parameters,
multiply-accumulates per snippet and tokens per snippet of Combiner + latent model, and the mean over the seeds with
their range. The short schedule ranks what is learned quickly; it is no substitute for the full one.

A step is 128 snippets (8 x 16, 4 x 32 or 2 x 64 in turn): about 0.5 s of one 2.5 GHz core, so the 36 runs cost about
36 x (steps x 0.5 s + 8 s): 25 minutes at the default of 60 steps, and some more for `concat`, which keeps 36 tokens.
Results are kept after each run in ablation.json; what is there for the same tokens and schedule is not run again.

`python -m girasol_train combiners` trains the Combiners that the choice is between on the student's whole schedule
(`full`), and measures them on all validation tracks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from . import device, stories
from .audio_data import write_atomic
from .calibrate import average_precision, run_scenes
from .fusion import Fusion, FusionConfig
from .labels import AUDIBLE_INDEX
from .train_fusion import (
    LEARNING_RATE,
    LOSS_WEIGHTS,
    TOKEN_NOISE,
    Pool,
    collate,
    config,
    draw_scene,
    draw_texts,
    load_fusion,
    losses,
    moved,
    parameter_groups,
    text_logits,
    total_loss,
)
from .train_fusion import train as train_whole

SEEDS = (0, 1, 2)
STEPS, WARMUP = 60, 8
SNIPPETS_PER_STEP, LENGTHS = 128, (16, 32, 64)
SCENES, SCENE_LENGTH = 24, 64
METRICS = {"audible_map": "audible mAP", "visible_map": "visible mAP", "source_ap": "source AP",
           "answer_accuracy": "answers", "words": "words"}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """A row: what differs from the student."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    without: str = ""  # the modality that is missing throughout
    next_loss: bool = True


VARIANTS = (
    Variant("Token Turing Machine, m = 8, window 64"),
    Variant("causal Transformer", {"combiner": "causal"}),
    Variant("mean pooling", {"combiner": "mean"}),
    Variant("concatenation", {"combiner": "concat", "snippet_tokens": 36}),
    Variant("late fusion", {"combiner": "summary", "late": True}),
    Variant("audio only", without="video"),
    Variant("video only", without="audio"),
    Variant("m = 4", {"snippet_tokens": 4, "read_video": 2}),
    Variant("m = 16", {"snippet_tokens": 16, "read_video": 8}),
    Variant("no next-snippet prediction", next_loss=False),
    Variant("window 1", {"window": 1}),
    Variant("window 8", {"window": 8}),
)
FULL, FULL_SEEDS = ("Token Turing Machine, m = 8, window 64", "causal Transformer", "late fusion"), (0, 1)
WHOLE_METRICS = {"all_audible_map": "audible mAP", "all_visible_map": "visible mAP", "source_ap": "source AP",
                 "words": "words right", "answer_accuracy": "answers right"}  # fmt: skip


def geometry(variant: Variant) -> FusionConfig:
    return dataclasses.replace(config(), **variant.changes)


# ---------------------------------------------------------------- cost of a row


def cost(c: FusionConfig) -> dict[str, int]:
    """Parameters, multiply-accumulates per snippet (matrix products) and tokens per snippet, encoders not counted."""
    fusion = Fusion(c).eval()
    ring = torch.zeros(1, c.latent_layers, c.window, c.snippet_tokens, c.dim)
    age, ones = torch.zeros(1, c.window), torch.ones(1, 1)
    video = torch.zeros(1, c.frames, c.video_tokens, c.token_dim)
    audio = torch.zeros(1, c.patches, c.audio_tokens, c.token_dim)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        tokens, _ = fusion.combiner(
            video, audio, torch.ones(1, c.frames), torch.ones(1, c.patches), torch.zeros(1, c.frames), ones,
            torch.zeros(1, c.memory, c.dim),
        )  # fmt: skip
        fusion.latent.step(tokens, ring, ring, age, age)
    parameters = sum(p.numel() for part in (fusion.combiner, fusion.latent) for p in part.parameters())
    return {"parameters": parameters, "macs": counter.get_total_flops() // 2, "tokens": c.snippet_tokens}


# ---------------------------------------------------------------- one run


def muted(batch: dict[str, Tensor], without: str) -> dict[str, Tensor]:
    """The batch with one modality missing; what can be heard or seen stays the truth."""
    if not without:
        return batch
    present = {"video": "frame_present", "audio": "audio_present"}[without]
    gone = {without: torch.zeros_like(batch[without]), present: torch.zeros_like(batch[present])}
    return batch | gone


def fit(pool: Pool, variant: Variant, seed: int, steps: int) -> Fusion:
    torch.manual_seed(seed)
    where = device.best()
    fusion = Fusion(geometry(variant)).to(where)
    optimiser = torch.optim.AdamW(parameter_groups(fusion), lr=LEARNING_RATE, betas=(0.9, 0.98))
    fusion.train()
    for step in range(steps):
        rng = np.random.default_rng([23, seed, step])
        length = LENGTHS[step % len(LENGTHS)]
        drawn = [draw_scene(rng, pool, length) for _ in range(SNIPPETS_PER_STEP // length)]
        batch = muted(collate(drawn), variant.without)
        noise = torch.Generator().manual_seed(step)
        for name in ("audio", "video"):
            batch[name] = batch[name] + TOKEN_NOISE * torch.randn(batch[name].shape, generator=noise)
        found = losses(fusion, moved(batch, where), moved(draw_texts(rng, drawn), where))
        if not variant.next_loss:
            del found["next"]
        progress = step / steps
        rate = min(1.0, (step + 1) / WARMUP) * (0.02 + 0.49 * (1.0 + np.cos(np.pi * progress)))
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * float(rate)
        optimiser.zero_grad()
        total_loss(found).backward()
        nn.utils.clip_grad_norm_(fusion.parameters(), 2.0)
        optimiser.step()
    return fusion.cpu().eval()


@torch.no_grad()
def measure(fusion: Fusion, pool: Pool, without: str = "", scenes: int = SCENES) -> dict[str, float]:
    """Mean AP of what is heard and seen, AP of "source in view", and how often the right answer is the likeliest.

    `words`: the share of the answer's words predicted right one by one; `answer_accuracy`: all of them.
    """
    found: dict[str, list[np.ndarray]] = {}
    answers, words = [], []
    for k in range(scenes):
        rng = np.random.default_rng([29, k])
        drawn = [draw_scene(rng, pool, SCENE_LENGTH)]
        batch = muted(collate(drawn), without)
        out = fusion.scene(batch)
        for name in ("audible", "visible", "source"):
            kept = {name: out[name], f"true_{name}": batch[name], f"w_{name}": batch[f"{name}_weight"]}
            for key, value in kept.items():
                found.setdefault(key, []).append(value[0].numpy())
        found.setdefault("heard", []).append(batch["audible"][0].numpy())
        texts = draw_texts(rng, drawn, stories.question)
        if texts is not None:
            right = (text_logits(fusion, out, texts).argmax(-1) == texts["target"]) | (texts["target"] < 0)
            answers.append(right.all(dim=1).float().numpy())
            words.append(right[texts["target"] >= 0].float().numpy())
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    result = {f"{name}_map": _map(joined, name) for name in ("audible", "visible")}
    pairs = (joined["heard"] >= 0.5) & (joined["w_source"] > 0) & (pool.makers.sum(axis=1) > 0)
    result["source_ap"] = average_precision(joined["source"][pairs], joined["true_source"][pairs] >= 0.5)
    result |= {"answer_accuracy": float(np.concatenate(answers).mean()), "words": float(np.concatenate(words).mean())}
    return result


def measure_whole(fusion: Fusion, pool: Pool, scenes: int = SCENES) -> dict[str, float]:
    """`measure`, and mean AP over all tracks of the pool (`all_audible_map`, `all_visible_map`)."""
    result = measure(fusion, pool, scenes=scenes)
    outcomes = run_scenes(fusion, pool, seed=4)
    for kind in ("audible", "visible"):
        flat = [v.reshape(-1, v.shape[-1]) for v in (outcomes[kind].logits, outcomes[kind].target,
                                                     outcomes[kind].weight)]  # fmt: skip
        result[f"all_{kind}_map"] = _map(dict(zip((kind, f"true_{kind}", f"w_{kind}"), flat, strict=True)), kind)
    return result


def _map(joined: dict[str, np.ndarray], name: str) -> float:
    values = []
    for label in range(joined[name].shape[-1]):
        if name == "audible" and label == AUDIBLE_INDEX["background"]:
            continue
        known = joined[f"w_{name}"][:, label] >= 0.5
        values.append(average_precision(joined[name][known, label], joined[f"true_{name}"][known, label] >= 0.5))
    return float(np.nanmean(values))


# ---------------------------------------------------------------- the table


def run(train: Pool, validation: Pool, path: pathlib.Path, key: str, steps: int = STEPS,
        variants: tuple[Variant, ...] = VARIANTS, seeds: tuple[int, ...] = SEEDS, scenes: int = SCENES
        ) -> list[dict]:  # fmt: skip
    """Fill `path` run by run; returns the rows."""
    torch.set_flush_denormal(True)
    schedule = {"steps": steps, "snippets_per_step": SNIPPETS_PER_STEP, "loss_weights": LOSS_WEIGHTS, "tokens": key,
                "scenes": scenes, "seeds": list(seeds)}  # fmt: skip
    stamp = hashlib.sha256(json.dumps(schedule, sort_keys=True).encode()).hexdigest()[:16]
    stored = json.loads(path.read_text()) if path.exists() else {}
    if stored.get("stamp") != stamp:
        stored = {"stamp": stamp, "schedule": schedule, "runs": {}}
    for seed in seeds:  # a whole table early, then two more
        for variant in variants:
            name = f"{variant.name} / {seed}"
            if name in stored["runs"]:
                continue
            began = time.process_time()
            scores = measure(fit(train, variant, seed, steps), validation, variant.without, scenes)
            seconds = round(time.process_time() - began, 1)
            stored["runs"][name] = {"cpu_seconds": seconds, **{k: round(v, 4) for k, v in scores.items()}}
            stored["rows"] = rows(stored["runs"], variants, seeds)
            write_atomic(path, json.dumps(stored, indent=1).encode())
            print(f"ablate {name}: {stored['runs'][name]}", flush=True)
    return rows(stored["runs"], variants, seeds)


def full(
    train: Pool, validation: Pool, work: pathlib.Path, key: str, steps: int, scenes: int = SCENES,
    seeds: tuple[int, ...] = FULL_SEEDS,
) -> list[dict[str, Any]]:  # fmt: skip
    """The variants of `FULL`, each trained from scratch as the student is, without a teacher, once per seed (which
    draws other scenes; all start from the same weights): sizes, and mean and range of the measures."""
    out = []
    for variant in (v for v in VARIANTS if v.name in FULL):
        found = []
        for seed in seeds:
            path = work / f"{variant.changes.get('combiner', 'ttm')}-{seed}.pt"
            train_whole(train, path, f"{key}+{steps}+{variant.name}+{seed}", steps, geometry=geometry(variant))
            found.append(measure_whole(load_fusion(path), validation, scenes))
            print(f"combiners {variant.name} / {seed}: {found[-1]}", flush=True)
        row = {"name": variant.name, "seeds": len(found), **cost(geometry(variant))}
        out.append(row | ranges(found, WHOLE_METRICS))
    return out


def ranges(found: list[dict[str, float]], metrics: Iterable[str]) -> dict[str, dict[str, float]]:
    """Mean and range of each measure over several trainings."""
    values = {metric: [one[metric] for one in found] for metric in metrics}
    return {m: {"mean": float(np.mean(v)), "low": float(min(v)), "high": float(max(v))} for m, v in values.items()}


def rows(runs: dict[str, dict], variants: tuple[Variant, ...], seeds: tuple[int, ...]) -> list[dict]:
    """One row per configuration that has run at least once."""
    out = []
    for variant in variants:
        done = [runs[f"{variant.name} / {seed}"] for seed in seeds if f"{variant.name} / {seed}" in runs]
        if not done:
            continue
        out.append({"name": variant.name, "seeds": len(done), **cost(geometry(variant)), **ranges(done, METRICS)})
    return out
