"""Measures of the audio encoder: heads on its tokens, clip scores, mixtures, onset phase. Used by `train_audio`.

Two kinds of numbers: `head` is the label head that was trained together with the encoder; `ridge` refits a plain linear
regression on frozen features, the same for the tokens and for YAMNet's own embedding, so that the two can be compared.
"""
from __future__ import annotations

import copy
import itertools
import pathlib

import numpy as np
import torch
from torch import nn

from . import audio_data as ad
from . import audio_patches as ap
from .audio_encoder import (
    EMBEDDING,
    TOKEN_WIDTH,
    YAMNET_CLASSES,
    AudioEncoder,
    count_parameters,
    load_audio_encoder,
    load_yamnet,
)
from .frontend import CARRY_SAMPLES, PATCH_SAMPLES, SNIPPET_SAMPLES, log_mel
from .quant import fake_quant_weights

# (seed, clips) of the synthetic rings and alarms of each split.
SYNTHETIC = {"train": (11, 320), "val": (12, 40), "test": (13, 80)}
CLIP_HOP = PATCH_SAMPLES // 2
PHASES, SHORT_SECONDS = 8, 0.5


class Heads(nn.Module):
    """Linear heads on [mean, max] of the tokens: 40 labels, YAMNet's scores and its embedding."""

    def __init__(self):
        super().__init__()
        self.labels = nn.Linear(2 * TOKEN_WIDTH, len(ad.AUDIO_LABELS))
        self.scores = nn.Linear(2 * TOKEN_WIDTH, YAMNET_CLASSES)
        self.embedding = nn.Linear(2 * TOKEN_WIDTH, EMBEDDING)
        nn.init.constant_(self.labels.bias, -3.0)
        nn.init.constant_(self.scores.bias, -5.0)

    def forward(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        pooled = pool(tokens)
        return self.labels(pooled), self.scores(pooled), self.embedding(pooled)


def pool(tokens: torch.Tensor) -> torch.Tensor:
    """[B, 6, 128] -> [B, 256]: mean and maximum over the tokens."""
    return torch.cat([tokens.mean(1), tokens.amax(1)], dim=1)


# ---------------------------------------------------------------- clean clips


def clip_patches(clips: list[ad.Clip], hop: int = CLIP_HOP) -> tuple[np.ndarray, np.ndarray]:
    """(log-mel of all patches, first patch of each clip and the total); half-overlapping unless told otherwise."""
    mels, offsets = [], [0]
    for clip in clips:
        wave = clip.wave()
        last = max(0, len(wave) - PATCH_SAMPLES // 2)
        mels += [log_mel(ap.cut(wave, start)) for start in range(0, last + 1, hop)]
        offsets.append(len(mels))
    return np.stack(mels), np.array(offsets)


@torch.no_grad()
def in_batches(function, mel: np.ndarray, size: int = 128) -> np.ndarray:
    return np.concatenate([function(torch.from_numpy(mel[i: i + size])).numpy() for i in range(0, len(mel), size)])


def per_clip(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """[patches, C] -> [clips, 2C]: mean and maximum over each clip's patches."""
    parts = [values[a:b] for a, b in itertools.pairwise(offsets)]
    return np.stack([np.concatenate([p.mean(0), p.max(0)]) for p in parts])


def class_of(clips: list[ad.Clip]) -> np.ndarray:
    return np.array([ap.INDEX[c.label] for c in clips])


def ridge(features: np.ndarray, targets: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Linear regression with a penalty relative to the mean variance; returns (mean, weights, bias)."""
    mean, centre = features.mean(0), targets.mean(0)
    x = (features - mean).astype(np.float64)
    gram = x.T @ x / len(x)
    gram[np.diag_indices_from(gram)] += strength * np.trace(gram) / len(gram)
    weights = np.linalg.solve(gram, x.T @ (targets - centre) / len(x))
    return mean, weights, centre


def ridge_scores(model: tuple[np.ndarray, np.ndarray, np.ndarray], features: np.ndarray) -> np.ndarray:
    mean, weights, centre = model
    return (features - mean) @ weights + centre


def accuracy(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Accuracy and mean recall over the classes that occur."""
    right = scores.argmax(1) == truth
    recalls = [right[truth == k].mean() for k in np.unique(truth)]
    return {"accuracy": float(right.mean()), "macro_recall": float(np.mean(recalls)), "clips": len(truth)}


def head_scores(encoder: AudioEncoder, heads: Heads, mel: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """[clips, 39] from the label head: mean plus maximum over the clip's patches."""
    logits = in_batches(lambda x: heads.labels(pool(encoder(x))), mel)
    both = per_clip(logits, offsets)
    half = both.shape[1] // 2
    return (both[:, :half] + both[:, half:])[:, : len(ad.AUDIO_CLASSES)]


# ---------------------------------------------------------------- the test split


def evaluate(data: pathlib.Path, work: pathlib.Path, mixtures: int) -> dict:
    """Everything on the test split; the ridge anchor is refitted here from the stored YAMNet embeddings."""
    encoder = load_audio_encoder(work / "audio_encoder.pt")
    heads = Heads().eval()
    heads.load_state_dict(torch.load(work / "audio_heads.pt", map_location="cpu", weights_only=True))
    clips = {s: ad.load_clips(data, work, s) for s in ("train", "val", "test")}
    fitted = [*clips["train"], *clips["val"]]
    rounded = fake_quant_weights(copy.deepcopy(encoder))
    result: dict = {"parameters": count_parameters([encoder])}
    result["clean_test"], tokens = _clean(encoder, rounded, heads, fitted, clips["test"])
    result["clean_test"]["ridge_yamnet_embedding_stored"] = _yamnet_anchor(data, fitted, clips["test"])
    result["tokens"] = {"rms": float(np.sqrt(np.mean(tokens**2))), "finite": bool(np.isfinite(tokens).all())}
    result["onset_phase"] = _onset_phase(encoder, heads, clips["test"])
    result["phone_ring"] = _phone_ring(encoder, heads, clips["test"])
    result["mixtures_0_15_db"] = _mixtures(data, encoder, rounded, heads, clips, mixtures)
    return result


def _clean(encoder, rounded, heads, fitted, test) -> tuple[dict, np.ndarray]:
    mel, offsets = clip_patches(test)
    truth = class_of(test)
    scores = head_scores(encoder, heads, mel, offsets)
    out = {"head_f32": accuracy(scores, truth), "head_int8": accuracy(head_scores(rounded, heads, mel, offsets), truth)}
    chosen = scores.argmax(1)
    out["per_class"] = {
        name: {"clips": int((truth == k).sum()), "recall": float((chosen[truth == k] == k).mean())}
        for k, name in enumerate(ad.AUDIO_CLASSES)
    }
    fit_mel, fit_offsets = clip_patches(fitted, PATCH_SAMPLES)
    onehot = np.eye(len(ad.AUDIO_CLASSES))[class_of(fitted)]
    linear = ridge(per_clip(in_batches(lambda x: pool(encoder(x)), fit_mel), fit_offsets), onehot, 0.02)
    for name, model in (("ridge_tokens_f32", encoder), ("ridge_tokens_int8", rounded)):
        features = per_clip(in_batches(lambda x, m=model: pool(m(x)), mel), offsets)
        out[name] = accuracy(ridge_scores(linear, features), truth)
    return out, in_batches(encoder, mel[:1024])


def _yamnet_anchor(data: pathlib.Path, fitted: list[ad.Clip], test: list[ad.Clip]) -> dict:
    """The kit's own anchor: ridge on mean and maximum of YAMNet's embeddings."""
    with np.load(data / "teacher-labels" / "audio_yamnet.npz") as stored:
        offsets, scale = stored["offsets"], float(stored["embedding_scale"])
        values, row = stored["embeddings_int8"], {str(f): k for k, f in enumerate(stored["files"])}

    def features(clips: list[ad.Clip]) -> np.ndarray:
        rows = [row[c.file] for c in clips]
        parts = [(values[offsets[r]: offsets[r + 1]].astype(np.float32) + 128.0) * scale for r in rows]
        return np.stack([np.concatenate([p.mean(0), p.max(0)]) for p in parts])

    onehot = np.eye(len(ad.AUDIO_CLASSES))[class_of(fitted)]
    return accuracy(ridge_scores(ridge(features(fitted), onehot, 0.1), features(test)), class_of(test))


def _phone_ring(encoder: AudioEncoder, heads: Heads, test: list[ad.Clip]) -> dict:
    """Average precision of `phone_ring`: unseen synthetic rings against all test clips and synthetic alarms."""
    clips = [*test, *ad.synthetic_clips(*SYNTHETIC["test"])]
    mel, offsets = clip_patches(clips)
    logits = in_batches(lambda x: heads.labels(pool(encoder(x))), mel)
    score = per_clip(logits, offsets)[:, len(ad.AUDIO_LABELS) + ap.INDEX[ad.PHONE_RING]]
    truth = class_of(clips) == ap.INDEX[ad.PHONE_RING]
    return {"average_precision": average_precision(truth, score), "rings": int(truth.sum()),
            "others": int((~truth).sum()), "note": "synthetic rings on both sides of the split"}  # fmt: skip


def _onset_phase(encoder: AudioEncoder, heads: Heads, test: list[ad.Clip]) -> dict:
    """Does it matter where in a snippet a short sound begins?

    Short test sounds in a quiet room, begun at eight phases; the maximum over the onset's snippet and the next one,
    `background` left out (it is what the other snippet holds).
    """
    limit = SHORT_SECONDS * ad.SAMPLE_RATE
    short = [c for c in test if c.label != "background" and ad.activity(c).sum() * ap.BLOCK <= limit]
    mels = []
    for clip in short:
        wave = clip.wave()
        wave = wave[int(np.argmax(ad.activity(clip))) * ap.BLOCK:][: round((SHORT_SECONDS + 0.1) * ad.SAMPLE_RATE)]
        for phase in range(PHASES):
            onset = CARRY_SAMPLES + phase * SNIPPET_SAMPLES // PHASES
            room = 1e-4 * ad.coloured_noise(np.random.default_rng(phase), 2 * SNIPPET_SAMPLES + CARRY_SAMPLES, 1.0)
            room[onset: onset + len(wave)] += wave[: len(room) - onset]
            mels += [log_mel(room[k * SNIPPET_SAMPLES:][:PATCH_SAMPLES]) for k in range(2)]
    logits = in_batches(lambda x: heads.labels(pool(encoder(x))), np.stack(mels))
    logits = logits.reshape(len(short), PHASES, 2, -1).max(2)[..., : len(ad.AUDIO_CLASSES)]
    logits[..., ap.INDEX["background"]] = -np.inf
    truth = class_of(short)
    right = logits.argmax(-1) == truth[:, None]
    ever = right.any(1)
    return {
        "sounds": len(short),
        "longest_s": SHORT_SECONDS,
        "onset_s": [round(0.96 * p / PHASES, 2) for p in range(PHASES)],
        "top1": right.mean(0).tolist(),
        "missed_of_those_ever_right": (1.0 - right[ever].mean(0)).tolist(),
    }


def average_precision(truth: np.ndarray, score: np.ndarray) -> float:
    order = np.argsort(-score, kind="stable")
    hits = truth[order].astype(np.float64)
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float((precision * hits).sum() / max(1.0, hits.sum()))


def mean_average_precision(score: np.ndarray, target: np.ndarray, weight: np.ndarray) -> dict:
    """Over labels with at least five positives; patches of weight 0 are left out label by label."""
    values = {}
    for k, name in enumerate(ad.AUDIO_LABELS):
        known = weight[:, k] > 0
        truth = target[known, k] > 0
        if truth.sum() >= 5:
            values[name] = average_precision(truth, score[known, k])
    return {"mAP": float(np.mean(list(values.values()))), "labels": len(values), "per_label": values}


def _mixtures(data, encoder, rounded, heads, clips, count: int) -> dict:
    """Patches composed of test clips at 0-15 dB. For a fair comparison the same kind of ridge is fitted on training
    mixtures over the student's pooled tokens and over YAMNet's embedding (its extracted weights)."""
    teacher, rirs = load_yamnet(data), ad.load_rirs(data)
    scores = ap.TeacherScores(data)
    sets = {}
    real = {"fit": [*clips["train"], *clips["val"]], "test": clips["test"]}
    for name, rings, seed, size in (("fit", "train", 101, 2 * count), ("test", "test", 102, count)):
        sources = ap.make_sources([*real[name], *ad.synthetic_clips(*SYNTHETIC[rings])], scores)
        sets[name] = ap.Composer(sources, rirs, snr_db=(0.0, 15.0)).batch(np.random.default_rng(seed), size)
    mel, target, weight = sets["test"]
    out = {"patches": len(mel)}
    for name, model in (("head_f32", encoder), ("head_int8", rounded)):
        out[name] = mean_average_precision(in_batches(lambda x, m=model: heads.labels(pool(m(x))), mel), target, weight)
    for name, function in (("ridge_tokens", lambda x: pool(encoder(x))), ("ridge_yamnet", lambda x: teacher(x)[1])):
        model = ridge(in_batches(function, sets["fit"][0]), sets["fit"][1] * sets["fit"][2], 0.05)
        out[name] = mean_average_precision(ridge_scores(model, in_batches(function, mel)), target, weight)
    return out
