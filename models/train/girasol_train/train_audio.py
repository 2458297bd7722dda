"""Distil the audio encoder from YAMNet on augmented clips and mixtures; measure it.

    python -m girasol_train.train_audio init                 YAMNet's trunk + label and principal directions
    python -m girasol_train.train_audio train --minutes 40   distil; resumes by itself; keeps the best checkpoint
    python -m girasol_train.train_audio eval                 test split and mixtures -> audio_eval.json

All take `--data KIT` (or GIRASOL_DATA) and `--work DIR` (or GIRASOL_WORK). The encoder lands in
`WORK/audio_encoder.pt`.

Losses on heads over the mean and maximum of the six tokens (the heads serve training only): weak labels, YAMNet's 521
scores and its embedding, both computed on the very same augmented patch. Trunk layers that are still frozen are shared
with the teacher, so they are computed once.
"""
from __future__ import annotations

import argparse
import copy
import json
import math
import os
import pathlib
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from . import audio_data as ad
from . import audio_patches as ap
from . import device
from .audio_encoder import (
    TOKEN_WIDTH,
    AudioEncoder,
    YamNet,
    count_parameters,
    from_yamnet,
    load_audio_encoder,
    load_yamnet,
    save_audio_encoder,
)
from .audio_eval import (
    SYNTHETIC,
    Heads,
    accuracy,
    class_of,
    clip_patches,
    evaluate,
    head_scores,
    in_batches,
    mean_average_precision,
    pool,
    ridge,
)
from .frontend import PATCH_SAMPLES

# Sounds so often present beside the labelled one that the teacher's word is enough not to deny them.
COMMON_COMPANIONS = ("speech", "music", "bird", "wind", "water", "rain", "footsteps", "engine", "laughter",
                     "insect_frog", "background", "clapping", "bell", "appliance", "train")  # fmt: skip
COMPANION_SCORE = 0.3
VALIDATION_MIXTURES, VALIDATION_SEED = 600, 103


@dataclass(frozen=True)
class Recipe:
    """What shapes the result of a training run."""

    batch: int = 64
    frozen_layers: int = 0  # of the trunk, for whom it is the teacher's still
    heads_until: float = 0.05  # share of the time for which the heads, new at every start, learn alone
    unfreeze_at: float = 1.0
    trunk_rate: float = 2.0e-4
    head_rate: float = 2.0e-3
    weight_decay: float = 0.01
    label_weight: float = 1.0
    choice_weight: float = 0.5
    score_weight: float = 0.15
    embedding_weight: float = 2.0
    average: float = 0.995
    masked_share: float = 0.5  # of the student's patches
    seed: int = 1


# ---------------------------------------------------------------- init


def init(data: pathlib.Path, work: pathlib.Path) -> None:
    """A first, untrained checkpoint whose tokens already tell sounds apart."""
    if (work / "audio_encoder.pt").exists():
        raise SystemExit("audio_encoder.pt exists already; remove it first")
    encoder = initial_encoder(data, work)
    save_audio_encoder(encoder, work / "audio_encoder.pt", {"stage": "init"})


def initial_encoder(data: pathlib.Path, work: pathlib.Path) -> AudioEncoder:
    """YAMNet's trunk and a projection to 40 label directions and 88 principal ones, each of unit variance."""
    encoder = from_yamnet(load_yamnet(data)).eval()
    clips = [*ad.load_clips(data, work, "train")[::2], *ad.synthetic_clips(*SYNTHETIC["train"])[:40]]
    mel, offsets = clip_patches(clips)
    with torch.no_grad():
        maps = in_batches(lambda x: encoder.trunk(x[:, None]).flatten(2).transpose(1, 2), mel)
    truth = np.repeat(class_of(clips), np.diff(offsets))
    labels = len(ad.AUDIO_LABELS)
    _, towards, _ = ridge(maps.mean(1), np.eye(labels)[truth], 0.1)
    points = maps.reshape(-1, maps.shape[-1])
    mean = points.mean(0)
    _, vectors = np.linalg.eigh(np.cov(points[:: 3], rowvar=False))
    matrix = np.concatenate([towards, vectors[:, ::-1][:, : TOKEN_WIDTH - labels]], axis=1)
    matrix /= np.maximum(((points - mean) @ matrix).std(0), 1e-6)
    with torch.no_grad():
        encoder.project.weight.copy_(torch.from_numpy(matrix.T[:, :, None, None].astype(np.float32)))
        encoder.project.bias.copy_(torch.from_numpy((-mean @ matrix).astype(np.float32)))
    return encoder


# ---------------------------------------------------------------- train


class Trainer:
    """State of a run that can be put away and taken up again."""

    def __init__(self, data: pathlib.Path, work: pathlib.Path, recipe: Recipe):
        self.data, self.work, self.recipe, self.device = data, work, recipe, device.best()
        self.teacher: YamNet = load_yamnet(data).to(self.device)
        resumed = self.state_file.exists()
        checkpoint = work / "audio_encoder.pt"
        begun = AudioEncoder() if resumed else load_audio_encoder(checkpoint) if checkpoint.exists() else None
        self.encoder = (begun or initial_encoder(data, work)).to(self.device)
        self.heads = Heads().to(self.device)
        self.encoder.train().requires_grad_(True)
        self.average = copy.deepcopy(nn.ModuleList([self.encoder, self.heads]))
        rates = ((self.encoder.trunk, recipe.trunk_rate), (self.encoder.project, recipe.head_rate),
                 (self.heads, recipe.head_rate))  # fmt: skip
        groups = [{"params": list(m.parameters()), "lr": rate, "top": rate} for m, rate in rates]
        self.optimiser = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
        self.step, self.spent = 0, 0.0
        self.embedding_std = 1.0
        sources = (*ad.load_clips(data, work, "train"), *ad.synthetic_clips(*SYNTHETIC["train"]))
        scores, rirs = ap.TeacherScores(data), ad.load_rirs(data)
        self.composer = ap.Composer(ap.make_sources(sources, scores), rirs)
        self.companions = companion_map(data)
        self.validation = [*ad.load_clips(data, work, "val"), *ad.synthetic_clips(*SYNTHETIC["val"])]
        self.validation_mel = clip_patches(self.validation, PATCH_SAMPLES)
        unheard = ap.Composer(ap.make_sources(self.validation, scores), rirs, snr_db=(0.0, 15.0))
        self.validation_mixtures = unheard.batch(np.random.default_rng(VALIDATION_SEED), VALIDATION_MIXTURES)
        self.best = 0.0
        if resumed:
            self._restore()

    @property
    def state_file(self) -> pathlib.Path:
        return self.work / "audio_train.pt"

    def _restore(self) -> None:
        saved = torch.load(self.state_file, map_location="cpu", weights_only=True)
        self.encoder.load_state_dict(saved["encoder"])
        self.heads.load_state_dict(saved["heads"])
        self.average.load_state_dict(saved["average"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.step, self.spent, self.best = saved["step"], saved["spent"], saved["best"]
        self.embedding_std = saved["embedding_std"]

    def save(self) -> None:
        state = {"encoder": self.encoder.state_dict(), "heads": self.heads.state_dict(),
                 "average": self.average.state_dict(), "optimiser": self.optimiser.state_dict(), "step": self.step,
                 "spent": self.spent, "best": self.best, "embedding_std": self.embedding_std}  # fmt: skip
        temporary = self.state_file.with_suffix(f".{os.getpid()}.tmp")
        torch.save(state, temporary)
        os.replace(temporary, self.state_file)

    def run(self, minutes: float, every: float = 330.0) -> None:
        """Train until `minutes` of training are spent, over all runs; the rate falls by a cosine of that time.

        A run that finds nothing left to do validates once more.
        """
        total, losses, reported = minutes * 60.0, [], time.monotonic()
        if self.spent >= total:
            self._report(np.full(4, np.nan))
        while self.spent < total:
            begun = time.monotonic()
            losses.append(self._one(self.spent / total))
            self.spent += time.monotonic() - begun
            if time.monotonic() - reported > every or self.spent >= total:
                self._report(np.mean(losses, axis=0))
                losses, reported = [], time.monotonic()

    def _one(self, progress: float) -> list[float]:
        recipe = self.recipe
        frozen = recipe.frozen_layers if progress < recipe.unfreeze_at else 0
        warm = min(1.0, (self.step + 1) / 50)
        for group in self.optimiser.param_groups:
            group["lr"] = group["top"] * warm * (0.02 + 0.49 * (1.0 + math.cos(math.pi * progress)))
        rng = np.random.default_rng([recipe.seed, self.step])
        mel, target, weight = (torch.from_numpy(a).to(self.device) for a in self.composer.batch(rng, recipe.batch))
        seen = masked(rng, mel, recipe.masked_share)
        tokens, scores, embedding = self._forward(mel[:, None], seen[:, None], frozen, progress >= recipe.heads_until)
        if self.step == 0:
            self.embedding_std = float(embedding.std())
        parts = self._losses(tokens, target, weight, scores, embedding / self.embedding_std)
        factors = (recipe.label_weight, recipe.choice_weight, recipe.score_weight, recipe.embedding_weight)
        loss = sum(f * p for f, p in zip(factors, parts, strict=True))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for g in self.optimiser.param_groups for p in g["params"]], 5.0)
        self.optimiser.step()
        self.step += 1
        self._update_average()
        return [float(p) for p in parts]

    def _forward(
        self, x: torch.Tensor, seen: torch.Tensor, frozen: int, encoder_learns: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens of the student for `seen`, scores and embedding of the teacher for `x`; both [n, 1, 96, 64].

        The first `frozen` layers are the teacher's; with any, the student's input is the teacher's too.
        """
        with torch.no_grad():
            shared = self.teacher.trunk(x, 0, frozen)
            logits, embedding = self.teacher.head(self.teacher.trunk(shared, frozen))
            if not frozen:
                shared = seen
        with torch.set_grad_enabled(encoder_learns):
            tokens = self.encoder.tokens(self.encoder.trunk(shared, frozen))
        return tokens, torch.sigmoid(logits), embedding

    def _losses(self, tokens, target, weight, scores, embedding) -> list[torch.Tensor]:
        labels, own_scores, own_embedding = self.heads(tokens)
        heard = torch.stack([scores[:, i].amax(1) for i in self.companions.values()], dim=1) > COMPANION_SCORE
        weight = weight.clone()
        columns = list(self.companions)
        weight[:, columns] *= ((target[:, columns] > 0) | ~heard).float()
        label_loss = (F.binary_cross_entropy_with_logits(labels, target, reduction="none") * weight).sum(1).mean()
        share = target * weight
        some = share.sum(1) > 0
        share = share[some] / share[some].sum(1, keepdim=True)
        masked = labels[some].masked_fill(weight[some] == 0, -1e4)
        choice_loss = -(share * masked.log_softmax(1)).sum(1).mean()
        score_loss = F.binary_cross_entropy_with_logits(own_scores, scores, reduction="none").sum(1).mean()
        return [label_loss, choice_loss, score_loss, F.mse_loss(own_embedding, embedding)]

    @torch.no_grad()
    def _update_average(self) -> None:
        keep = min(self.recipe.average, self.step / (self.step + 10))
        current = (*self.encoder.parameters(), *self.heads.parameters())
        for mean, now in zip(self.average.parameters(), current, strict=True):
            mean.lerp_(now, 1.0 - keep)

    def _report(self, losses: np.ndarray) -> None:
        """Validate the averaged weights; the best so far becomes the encoder's checkpoint."""
        encoder, heads = device.on_cpu(self.average)
        encoder.eval()
        truth = class_of(self.validation)
        real = truth < len(ad.AUDIO_CLASSES)
        result = accuracy(head_scores(encoder, heads, *self.validation_mel)[real], truth[real])
        mel, target, weight = self.validation_mixtures
        logits = in_batches(lambda x: heads.labels(pool(encoder(x))), mel)
        result["mixture_mAP"] = mean_average_precision(logits, target, weight)["mAP"]
        quality = (result["accuracy"] + result["macro_recall"]) / 2.0 + result["mixture_mAP"]
        kept = quality >= self.best
        if kept:
            self.best = quality
            metrics = {"stage": "train", "step": self.step, "minutes": round(self.spent / 60, 2), "validation": result,
                       "recipe": asdict(self.recipe), "parameters": count_parameters([encoder])}  # fmt: skip
            save_audio_encoder(encoder, self.work / "audio_encoder.pt", metrics)
            _save_heads(heads, self.work)
        self.save()
        told = " ".join(f"{result[k]:.4f}" for k in ("accuracy", "macro_recall", "mixture_mAP")) + " kept" * kept
        parts = np.round(losses, 4).tolist()
        print(f"step {self.step} minutes {self.spent / 60:.1f} losses {parts} val {told}", flush=True)


def masked(rng: np.random.Generator, mel: torch.Tensor, share: float) -> torch.Tensor:
    """Log-mel patches [n, 96, 64] of which `share` have bands and a moment set to the patch's mean.

    SpecAugment (arXiv 1904.08779) with masks as narrow as the sounds are short: up to two of up to 12 mel bands, one
    of up to 0.12 s. The teacher hears the patch as it was, so the student learns to fill in.
    """
    out = mel.clone()
    for patch in out:
        if rng.random() >= share:
            continue
        mean = patch.mean()
        for _ in range(rng.integers(1, 3)):
            width = int(rng.integers(2, 13))
            low = int(rng.integers(0, patch.shape[1] - width + 1))
            patch[:, low: low + width] = mean
        width = int(rng.integers(0, 13))
        start = int(rng.integers(0, patch.shape[0] - width + 1))
        patch[start: start + width] = mean
    return out


def companion_map(data: pathlib.Path) -> dict[int, list[int]]:
    """Label index -> YAMNet classes, for the labels that the teacher may excuse."""
    names = json.loads((data / "teacher-labels" / "class_to_yamnet.json").read_text())
    return {ap.INDEX[label]: names[label]["yamnet_indices"] for label in COMMON_COMPANIONS
            if names.get(label, {}).get("yamnet_indices")}  # fmt: skip


def _save_heads(heads: Heads, work: pathlib.Path) -> None:
    temporary = work / f"audio_heads.{os.getpid()}.tmp"
    torch.save(heads.state_dict(), temporary)
    os.replace(temporary, work / "audio_heads.pt")


# ---------------------------------------------------------------- command line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=("init", "train", "eval"))
    parser.add_argument("--data", help="the kit; default GIRASOL_DATA")
    parser.add_argument("--work", help="caches and checkpoints; default GIRASOL_WORK")
    parser.add_argument("--minutes", type=float, default=40.0, help="training time in all, over resumed runs")
    parser.add_argument("--batch", type=int, default=Recipe.batch)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--mixtures", type=int, default=1500, help="test mixtures in eval")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    data, work = ad.data_dir(arguments.data), ad.work_dir(arguments.work)
    if arguments.stage == "init":
        init(data, work)
    elif arguments.stage == "train":
        Trainer(data, work, Recipe(batch=arguments.batch, seed=arguments.seed)).run(arguments.minutes)
    else:
        result = {"command": "python -m girasol_train.train_audio eval", **evaluate(data, work, arguments.mixtures)}
        ad.write_atomic(work / "audio_eval.json", json.dumps(result, indent=1).encode())
        print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
