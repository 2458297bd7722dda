"""Trains the video encoder: `python -m girasol_train.train_video init|train|average|eval`.

init   lite0's weights and a PCA projection: usable tokens at once.
train  distillation on synthetic views: masked multi-label loss on our visible labels (human labels where there are
       any, teachers elsewhere), what lite0 says of the very same view (a consistent teacher: arXiv 2106.05237), which
       keeps knowledge of what the kit shows rarely (cats), and the true motion in each token's cell, which gives the
       luma difference a use. First the heads, then everything, then the late blocks (three times cheaper a step);
       progress is measured in time (`--minutes`), because the training shares its machine. Can be stopped and started
       again.
average  the mean of this encoder's weights and of another's that it was trained on from (`--other`): what a further
       training has won, with less of what it has forgotten (arXiv 2203.05482; cats, of which the kit has few).
eval   scores on the kit's test split against human labels and against YOLOX-nano; writes video_eval.json.
"""
from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from . import device
from .frontend import frame_tensor
from .quant import fake_quant_weights
from .video_data import (
    INDEX,
    VISIBLE,
    Picture,
    backgrounds,
    default_data,
    default_work,
    index_by_label,
    load_images,
    render_view,
    scoring_labels,
    whole_view,
)
from .video_encoder import (
    D,
    VideoEncoder,
    encoder_from_lite0,
    load_lite0,
    load_video_encoder,
    macs_per_frame,
    save_atomically,
    save_video_encoder,
)

LITE0_FILE = "teachers/efficientnet-lite0/efficientnet-lite0.onnx"
CHECKPOINT, STATE, REPORT = "video_encoder.pt", "video_train.pt", "video_eval.json"
HEADS_UNTIL, EVERYTHING_UNTIL = 0.05, 0.6  # shares of the time budget
FIRST_LATE_BLOCK = 5
EMA_DECAY = 0.99
MOTION_GAIN = 20.0
SAVE_SECONDS, SCORE_SECONDS = 60.0, 300.0
LABEL_WEIGHT, IMAGENET_WEIGHT, LOGITS_WEIGHT, MOTION_WEIGHT = 4.0, 0.6, 4.0, 1.0
# Of lite0's distribution and ours: what it holds a picture to be *beside* its best guess tells of things that the
# kit shows rarely (arXiv 1503.02531).
TEMPERATURE = 2.0
# lite0 was made for 224 x 224: twice the frame's size it is much nearer to what it says of the picture itself
# (Kullback-Leibler divergence 0.64 against 5.1, validation pictures). In small chunks its maps stay in the cache.
TEACHER_ENLARGES, TEACHER_CHUNK = 2, 8
# A dozen pictures would only be learnt by heart, and their tokens would then be too clear to learn a cat from.
LEFT_TO_LITE0 = ("cat",)
REAL_SCENES = ("COCO-2017", "OpenImages-personcar", "OpenImages-V4-sample")


class ViewHead(nn.Module):
    """Heads for training and scoring only: visible labels from mean and strongest token, ImageNet from the mean,
    motion from each token."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Linear(D, len(VISIBLE))
        self.local = nn.Linear(D, len(VISIBLE))
        self.imagenet = nn.Linear(D, 1000)
        self.motion = nn.Linear(D, 1)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pooled = tokens.mean(1)
        strongest = torch.logsumexp(self.local(tokens), 1) - math.log(tokens.shape[1])
        return self.mean(pooled) + strongest, self.imagenet(pooled), self.motion(tokens).squeeze(-1)


# ---------------------------------------------------------------------------------------------------- samples


@dataclass(frozen=True)
class Sample:
    """One frame with its luma difference, its labels and the true motion."""

    frame: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    motion: np.ndarray


class Sampler:
    """Draws training views: balanced over labels, real scenes weighted up, catalogue objects pasted elsewhere."""

    def __init__(self, pictures: Sequence[Picture], seed: int):
        self.pictures, self.rng = pictures, np.random.default_rng(seed)
        shown = {label: rows for label, rows in index_by_label(pictures).items() if rows}
        self.by_label = list(shown.values())
        share = np.array([len(rows) ** 0.5 for rows in shown.values()])
        self.label_share = share / share.sum()
        self.taught = np.array([label not in LEFT_TO_LITE0 for label in VISIBLE], np.float32)
        self.empty = backgrounds(pictures)
        self.scenes = [n for n, p in enumerate(pictures) if p.dataset in REAL_SCENES]

    def _of(self, rows: Sequence[int]) -> Picture:
        return self.pictures[rows[self.rng.integers(len(rows))]]

    def _balanced(self) -> Picture:
        return self._of(self.by_label[self.rng.choice(len(self.by_label), p=self.label_share)])

    def _any(self) -> Picture:
        return self._of(self.scenes) if self.rng.random() < 0.45 else self._of(range(len(self.pictures)))

    def draw(self) -> Sample:
        """One sample; the frame before it is rendered too unless it is the first after a start."""
        kind, n = self.rng.random(), 2 if self.rng.random() < 0.75 else 1
        if kind < 0.62:
            picture = self._balanced() if self.rng.random() < 0.5 else self._any()
            return self._sample([picture], None, n, whole=kind < 0.2)
        subjects = [self._balanced() for _ in range(self.rng.choice([1, 1, 1, 2]))]
        if kind < 0.87:
            return self._sample(subjects, self._of(self.empty) if self.rng.random() < 0.7 else self._any(), n)
        if kind < 0.93:
            return self._sample(subjects[:self.rng.integers(2)] or [self._of(self.empty)], None, n)
        return self._sample([], self._of(self.empty) if self.rng.random() < 0.6 else None, n)

    def _sample(self, subjects: list[Picture], background: Picture | None, n: int, whole: bool = False) -> Sample:
        view = render_view(self.rng, subjects, n, background, whole=whole)
        frame = frame_tensor(view.frames[-1], view.frames[0] if n > 1 else None)
        return Sample(frame, view.target[-1], view.weight[-1] * self.taught, view.motion[-1])

    def batch(self, size: int) -> tuple[Tensor, ...]:
        """frames, target, weight, motion."""
        samples = [self.draw() for _ in range(size)]
        columns = [np.stack([np.asarray(getattr(s, name), np.float32) for s in samples])
                   for name in ("frame", "target", "weight", "motion")]
        return tuple(torch.from_numpy(c) for c in columns)


def whole_frames(pictures: Sequence[Picture]) -> Tensor:
    """Whole pictures squeezed to the frame, at rest: [n, 4, 96, 128]."""
    return torch.from_numpy(np.stack([frame_tensor(whole_view(p), None) for p in pictures]))


# ---------------------------------------------------------------------------------------------------- scores


def average_precision(truth: np.ndarray, score: np.ndarray) -> float:
    """Mean precision at each positive, by falling score."""
    ranked = truth[np.argsort(-score, kind="stable")]
    return float((np.cumsum(ranked) / np.arange(1, len(ranked) + 1))[ranked > 0].mean()) if ranked.any() else math.nan


def roc_auc(truth: np.ndarray, score: np.ndarray) -> float:
    """Probability that a positive scores above a negative (ties count half)."""
    pos, neg = score[truth > 0], score[truth == 0]
    if not len(pos) or not len(neg):
        return math.nan
    above = (pos[:, None] > neg[None]).mean() + 0.5 * (pos[:, None] == neg[None]).mean()
    return float(above)


def precision_recall_f1(truth: np.ndarray, said: np.ndarray) -> dict[str, float]:
    """Precision, recall and F1 of a yes/no answer."""
    hit, yes, real = float((truth * said).sum()), float(said.sum()), float(truth.sum())
    precision, recall = hit / max(yes, 1.0), hit / max(real, 1.0)
    return {"precision": precision, "recall": recall, "f1": 2 * precision * recall / max(precision + recall, 1e-9)}


def best_threshold(truth: np.ndarray, score: np.ndarray) -> float:
    """The score with the best F1."""
    grid = np.unique(np.quantile(score, np.linspace(0.0, 1.0, 200)))
    return float(max(grid, key=lambda t: precision_recall_f1(truth, score >= t)["f1"]))


@torch.no_grad()
def visible_scores(encoder: VideoEncoder, head: ViewHead, frames: Tensor) -> np.ndarray:
    """[n, V] logits of the visible labels."""
    parts = frames.contiguous(memory_format=torch.channels_last).split(64)
    return torch.cat([head(encoder(part))[0] for part in parts]).numpy()


VALIDATION_VIEWS = 600


class Validation:
    """A fixed set of validation frames: whole pictures, and synthetic views with motion."""

    def __init__(self, pictures: Sequence[Picture]):
        sampler = Sampler(pictures, seed=7)
        frames, target, weight, self.motion = sampler.batch(VALIDATION_VIEWS)
        self.frames = [whole_frames(pictures), frames]
        self.target = [np.stack([p.target for p in pictures]), target.numpy()]
        self.weight = [np.stack([p.weight for p in pictures]), weight.numpy()]

    def score(self, encoder: VideoEncoder, head: ViewHead) -> dict[str, object]:
        """Mean average precision of both sets over the labels with at least 3 positives, and each label's."""
        out: dict[str, object] = {}
        for name, frames, target, weight in zip(("whole", "views"), self.frames, self.target, self.weight, strict=True):
            logits = visible_scores(encoder, head, frames)
            ap = {}
            for i, label in enumerate(VISIBLE):
                sure = (weight[:, i] > 0.4) & ((target[:, i] < 0.1) | (target[:, i] > 0.9))
                if (target[sure, i] > 0.5).sum() >= 3:
                    ap[label] = round(average_precision(target[sure, i] > 0.5, logits[sure, i]), 3)
            out[name], out[f"{name}_ap"] = float(np.mean(list(ap.values()))), ap
        out["motion_correlation"] = self._motion_correlation(encoder, head)
        return out

    @torch.no_grad()
    def _motion_correlation(self, encoder: VideoEncoder, head: ViewHead) -> float:
        said = torch.cat([head(encoder(part))[2] for part in self.frames[1].split(64)])
        both = torch.stack([said.flatten(), torch.log1p(MOTION_GAIN * self.motion).flatten()])
        return float(torch.corrcoef(both)[0, 1])


# ---------------------------------------------------------------------------------------------------- stages


def init(data: Path, work: Path) -> None:
    """Writes the untrained checkpoint: lite0's weights, PCA projection, heads at zero."""
    lite0 = load_lite0(data / LITE0_FILE)
    pictures = load_images(data, work, "train")
    encoder = encoder_from_lite0(lite0, whole_frames(pictures[::3]))
    save_video_encoder(encoder, work / CHECKPOINT, head=ViewHead().state_dict(), trained_minutes=0.0)
    parameters = sum(p.numel() for p in encoder.parameters())
    print(f"init: {macs_per_frame(encoder) / 1e6:.1f} M MAC per frame, {parameters} parameters")


class ViewTeacher:
    """lite0 on the colours of our frames: [B, 4, 96, 128] -> logits [B, 1000]; bfloat16 where that is quicker."""

    def __init__(self, path: Path, on: torch.device):
        quick = on.type != "cpu" or torch.cpu.get_capabilities().get("avx512_bf16", False)
        self.dtype = torch.bfloat16 if quick else torch.float32
        self.lite0 = load_lite0(path).to(on, self.dtype, memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> Tensor:
        enlarged = functional.interpolate(frames[:, :3], scale_factor=TEACHER_ENLARGES, mode="bilinear")
        enlarged = enlarged.to(self.dtype, memory_format=torch.channels_last)
        return torch.cat([self.lite0(part) for part in enlarged.split(TEACHER_CHUNK)]).float()


def loss_of(encoder: nn.Module, head: ViewHead, teacher: ViewTeacher, batch: tuple[Tensor, ...]) -> Tensor:
    """Masked label loss, what lite0 says of the same view, and motion per token (log scale).

    lite0 teaches twice: its softened distribution, which is about the likely classes, and all its logits (arXiv
    1312.6184), of which every view tells: a dog's says how little of a cat it has.
    """
    frames, target, weight, motion = batch
    visible, imagenet, moved = head(encoder(frames.contiguous(memory_format=torch.channels_last)))
    labels = functional.binary_cross_entropy_with_logits(visible, target, weight, reduction="sum") / weight.sum()
    logits = teacher(frames)
    taught, said = (functional.log_softmax(z / TEMPERATURE, -1) for z in (logits, imagenet))
    imagenet_loss = TEMPERATURE**2 * functional.kl_div(said, taught, reduction="batchmean", log_target=True)
    logits, imagenet = (z - z.mean(-1, keepdim=True) for z in (logits, imagenet))
    unexplained = functional.mse_loss(imagenet, logits) / (logits - logits.mean(0)).square().mean().clamp_min(1e-6)
    motion_loss = functional.mse_loss(moved, torch.log1p(MOTION_GAIN * motion))
    lite0 = IMAGENET_WEIGHT * imagenet_loss + LOGITS_WEIGHT * unexplained
    return LABEL_WEIGHT * labels + lite0 + MOTION_WEIGHT * motion_loss


def set_trainable(encoder: VideoEncoder, progress: float) -> None:
    """The heads first, which are new at every start, then everything, then the late blocks only."""
    everything = HEADS_UNTIL <= progress < EVERYTHING_UNTIL
    encoder.stem.requires_grad_(everything)
    for i, block in enumerate(encoder.blocks):
        block.requires_grad_(everything or (progress >= EVERYTHING_UNTIL and i >= FIRST_LATE_BLOCK))
    for layer in (encoder.blocks[-1].layers[-1], encoder.norm):
        layer.requires_grad_(progress >= HEADS_UNTIL)


def learning_rate(progress: float) -> float:
    """Relative: a short warm-up, then a cosine to nothing."""
    return min(1.0, progress / 0.01 + 0.02) * 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))


class Training:
    """Everything that a restart needs."""

    def __init__(self, encoder: VideoEncoder, teacher: Path, rate: float):
        self.device = device.best()
        self.teacher = ViewTeacher(teacher, self.device)
        self.encoder, self.head = encoder.to(self.device).train(), ViewHead().to(self.device)
        self.ema = copy.deepcopy(nn.ModuleList([self.encoder, self.head])).requires_grad_(False).eval()
        projection = list(encoder.blocks[-1].layers[-1].parameters()) + list(encoder.norm.parameters())
        fresh = {id(p) for p in projection}
        body = [p for p in encoder.parameters() if id(p) not in fresh]
        self.base = [rate * 0.12, rate * 0.5, rate]
        self.optimiser = torch.optim.AdamW(
            [{"params": body}, {"params": projection}, {"params": self.head.parameters()}], lr=rate, weight_decay=0.01)
        self.seconds, self.step = 0.0, 0

    def one_step(self, batch: tuple[Tensor, ...], progress: float) -> float:
        set_trainable(self.encoder, progress)
        for group, base in zip(self.optimiser.param_groups, self.base, strict=True):
            group["lr"] = base * learning_rate(progress)
        loss = loss_of(self.encoder, self.head, self.teacher, tuple(part.to(self.device) for part in batch))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*self.encoder.parameters(), *self.head.parameters()], 2.0)
        self.optimiser.step()
        self.step += 1
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            live = nn.ModuleList([self.encoder, self.head])
            for slow, fast in zip(self.ema.parameters(), live.parameters(), strict=True):
                slow.lerp_(fast, 1.0 - decay)
        return float(loss.detach())

    def save(self, path: Path) -> None:
        save_atomically({"encoder": self.encoder.state_dict(), "head": self.head.state_dict(),
                         "ema": self.ema.state_dict(), "optimiser": self.optimiser.state_dict(),
                         "seconds": self.seconds, "step": self.step}, path)

    def load(self, path: Path) -> None:
        content = torch.load(path, map_location="cpu", weights_only=True)
        self.encoder.load_state_dict(content["encoder"])
        self.head.load_state_dict(content["head"])
        self.ema.load_state_dict(content["ema"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.seconds, self.step = content["seconds"], content["step"]


def train(data: Path, work: Path, minutes: float, batch_size: int, rate: float, seed: int = 1) -> None:
    """Runs to the end of the time budget (time of earlier runs counts) and then writes the encoder.

    A further training of a finished encoder wants another `seed`, or it draws the same views again.
    """
    encoder = load_video_encoder(work / CHECKPOINT).to(memory_format=torch.channels_last)
    run = Training(encoder, data / LITE0_FILE, rate)
    if (work / STATE).exists():
        run.load(work / STATE)
    validation = Validation(load_images(data, work, "val"))
    sampler = Sampler(load_images(data, work, "train"), seed=seed + run.step)
    losses: list[float] = []
    last, saved, checked = time.monotonic(), run.seconds, run.seconds
    while run.seconds < 60.0 * minutes:
        losses.append(run.one_step(sampler.batch(batch_size), run.seconds / (60.0 * minutes)))
        now = time.monotonic()
        run.seconds, last = run.seconds + now - last, now
        if run.seconds - saved > SAVE_SECONDS:
            saved = run.seconds
            run.save(work / STATE)
        if run.seconds - checked > SCORE_SECONDS:
            checked = run.seconds
            score = validation.score(*device.on_cpu(run.ema))
            print(f"{run.seconds / 60:.1f} min, step {run.step}: loss {np.mean(losses):.3f}, "
                  f"val mAP whole {score['whole']:.3f} views {score['views']:.3f}, "
                  f"motion {score['motion_correlation']:.2f}", flush=True)
            losses = []
    run.save(work / STATE)
    publish(work, *device.on_cpu(run.ema), run.seconds, validation)


def publish(work: Path, encoder: VideoEncoder, head: ViewHead, seconds: float, validation: Validation) -> None:
    """Writes the encoder's checkpoint and reports its validation score."""
    score = validation.score(encoder, head)
    save_video_encoder(encoder, work / CHECKPOINT, head=head.state_dict(), trained_minutes=seconds / 60.0)
    print(json.dumps(score))


def average(work: Path, other: Path) -> None:
    """Replaces the encoder by the mean of its weights and the other's; its training heads, which do not fit, go."""
    encoder, start = load_video_encoder(work / CHECKPOINT), load_video_encoder(other)
    with torch.no_grad():
        for mine, theirs in zip(encoder.parameters(), start.parameters(), strict=True):
            mine.lerp_(theirs, 0.5)
    save_video_encoder(encoder, work / CHECKPOINT)


def load_head(path: Path) -> ViewHead:
    """The training heads stored beside the encoder."""
    head = ViewHead()
    head.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["head"])
    return head.eval()


def truth_of(pictures: Sequence[Picture], assumed_negatives: bool) -> np.ndarray:
    """[n, V] of 1 / 0 / NaN, see `scoring_labels`."""
    return np.stack([scoring_labels(p, assumed_negatives) for p in pictures])


def person_report(pictures: Sequence[Picture], truth: np.ndarray, logits: np.ndarray, threshold: float) -> dict:
    """Ours at a threshold from validation, and YOLOX-nano's stored detections at 0.3, on the same pictures.

    `truth` must hold human labels only: assumed negatives are chosen by YOLOX-nano's silence, so it cannot err there.
    """
    sure = ~np.isnan(truth)
    real, ours = truth[sure] > 0.5, logits[sure]
    yolox = np.array([p.detector_score("person") for p in pictures], np.float32)[sure]
    answers = {"ours": (ours, threshold), "yolox_nano_0.3": (yolox, 0.3)}
    return {"positives": int(real.sum()), "negatives": int((~real).sum()),
            **{name: binary_report(real, score, limit) for name, (score, limit) in answers.items()}}


def binary_report(real: np.ndarray, score: np.ndarray, threshold: float) -> dict[str, float]:
    """AUC and AP of a score; precision, recall and F1 at a threshold."""
    return {"auc": roc_auc(real, score), "ap": average_precision(real, score),
            **precision_recall_f1(real, score >= threshold)}


def label_report(truth: np.ndarray, logits: np.ndarray, thresholds: dict[str, float]) -> dict[str, dict]:
    """AP, AUC and F1 per label, with counts; labels without 8 human-labelled positives are only counted."""
    out: dict[str, dict] = {}
    for i, label in enumerate(VISIBLE):
        sure = ~np.isnan(truth[:, i])
        real, score = truth[sure, i] > 0.5, logits[sure, i]
        entry: dict = {"positives": int(real.sum()), "negatives": int((~real).sum())}
        if entry["positives"] >= 8 and entry["negatives"]:
            entry |= binary_report(real, score, thresholds[label])
        out[label] = entry
    return out


def thresholds_from(pictures: Sequence[Picture], logits: np.ndarray) -> dict[str, float]:
    """Best-F1 threshold per label on validation pictures (0 where there is no positive)."""
    truth = truth_of(pictures, True)
    out = {}
    for i, label in enumerate(VISIBLE):
        sure = ~np.isnan(truth[:, i])
        real = truth[sure, i] > 0.5
        out[label] = best_threshold(real, logits[sure, i]) if real.any() else 0.0
    return out


def rounded(value: object) -> object:
    """Floats to 4 digits, through dictionaries."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def evaluate(data: Path, work: Path) -> None:
    """Scores the checkpoint on the test split, with f32 and with int8 weights."""
    head = load_head(work / CHECKPOINT)
    validation, test = load_images(data, work, "val"), load_images(data, work, "test")
    coco = [n for n, p in enumerate(test) if p.dataset == "COCO-2017"]
    report: dict[str, object] = {"trained_minutes": torch.load(work / CHECKPOINT, weights_only=True)["trained_minutes"]}
    for name in ("f32", "int8_weights"):
        encoder = load_video_encoder(work / CHECKPOINT).to(memory_format=torch.channels_last)
        if name != "f32":
            fake_quant_weights(encoder)
        report |= {"macs_per_frame": macs_per_frame(encoder),
                   "parameters": sum(p.numel() for p in encoder.parameters())}
        limits = thresholds_from(validation, visible_scores(encoder, head, whole_frames(validation)))
        logits = visible_scores(encoder, head, whole_frames(test))
        human, assumed, person = truth_of(test, False), truth_of(test, True), INDEX["person"]
        report[name] = {
            "person_human": person_report(test, human[:, person], logits[:, person], limits["person"]),
            "person_human_coco": person_report([test[n] for n in coco], human[coco, person], logits[coco, person],
                                               limits["person"]),
            "labels_assumed_negatives": label_report(assumed, logits, limits),
            "labels_human": label_report(human, logits, limits),
        }
    (work / REPORT).write_text(json.dumps(rounded(report), indent=1) + "\n")
    print(json.dumps(rounded(report)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["init", "train", "average", "eval"])
    parser.add_argument("--data", type=Path, default=default_data(), help="data kit (GIRASOL_DATA)")
    parser.add_argument("--work", type=Path, default=default_work(), help="caches and checkpoints (GIRASOL_WORK)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=40.0, help="training time, earlier runs included")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1, help="of the views that are drawn")
    parser.add_argument("--other", type=Path, help="the encoder to take the mean with")
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate of the heads; the body's is 0.12 of it")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    torch.manual_seed(1)
    if options.stage == "init":
        init(options.data, options.work)
    elif options.stage == "train":
        train(options.data, options.work, options.minutes, options.batch, options.rate, options.seed)
    elif options.stage == "average":
        average(options.work, options.other or parser.error("average needs --other"))
    else:
        evaluate(options.data, options.work)


if __name__ == "__main__":
    main()
