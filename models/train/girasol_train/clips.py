"""Composed scenes as files: sound, picture and truth, for `girasol eval` and for anybody who wants to look at them.

A folder per split and seed: `NNN.wav` and `NNN.y4m` (128 x 96, each frame twice, so that the frame nearest to the two
instants the runtime looks for is the composed one), `truth.tsv` (docs/reference/eval.md) and `truth.npz` with the same
truth per snippet. A tenth of the clips has no picture and a tenth no sound. Half of the others are aligned: something
that can make one of the sounds is in view while it sounds.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import wave

import cv2
import numpy as np

from . import scenes, stories, text
from .frontend import CARRY_SAMPLES, SAMPLE_RATE
from .fusion import SNIPPET_SECONDS
from .labels import AUDIBLE_IDS, SOURCES, VISIBLE_IDS
from .train_fusion import Pool, aligned_stream, forgive_wild_cats, maker_matrix, snippet_truth, source_truth

MOMENTS_TRIED = 30
QUESTIONS_PER_CLIP = 4
TRUTH = ("audible", "visible", "source")


def folder(work: pathlib.Path, split: str, count: int, seed: int) -> pathlib.Path:
    return work / f"clips-{split}-v{scenes.VERSION}-{seed}-{count}"


def compose(data: pathlib.Path, work: pathlib.Path, split: str, count: int, seed: int) -> pathlib.Path:
    """The folder of `count` clips of `split`, made if it is not there."""
    destination = folder(work, split, count, seed)
    if (destination / "truth.tsv").exists():
        return destination
    part = destination.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    sounds, views = scenes.AudioBank.load(data, work, split), scenes.VideoBank.load(data, work, split)
    tracks = [scenes.video_track(np.random.default_rng([seed, 1, n]), views) for n in range(max(2, count // 2))]
    video = {name: np.stack([t[name] for t in tracks]) for name in tracks[0]}
    pool = Pool({}, video | {"tokens": video["frames"]})
    rows, truths, asked = ["clip\tstart\tend\tlabel\ttext"], [], []
    for n in range(count):
        name, rng = f"{n:04d}", np.random.default_rng([seed, 2, n])
        made = clip(rng, sounds, pool)
        kind = n % 10  # of ten clips one has no picture, one no sound
        truth = made["truth"]
        if kind == 8:
            for key in ("visible", "source"):
                truth[key], truth[f"{key}_weight"] = np.zeros_like(truth[key]), np.ones_like(truth[key])
        if kind == 9:
            truth["audible"], truth["audible_weight"] = np.zeros_like(truth["audible"]), np.ones_like(truth["audible"])
        if kind != 9:
            write_wav(part / f"{name}.wav", made["wave"][CARRY_SAMPLES:])
        if kind != 8:
            write_y4m(part / f"{name}.y4m", made["frames"])
        file = f"{name}.wav" if kind == 8 else f"{name}.y4m"
        rows += truth_rows(file, truth, audio=kind != 9, video=kind != 8)
        questions = pose(rng, truth) if kind < 8 else []
        rows += [f"{file}\t{q['time']:.2f}\t\task:{q['question']}\t{q['answer']}" for q in questions]
        asked += [{"clip": file, **q} for q in questions]
        truths.append(truth | {"present": np.array([kind != 9, kind != 8])})
    np.savez_compressed(part / "truth.npz", **{k: np.stack([t[k] for t in truths]) for k in truths[0]})
    (part / "questions.json").write_text(json.dumps(asked, indent=1))
    (part / "truth.tsv").write_text("\n".join(rows) + "\n")
    shutil.rmtree(destination, ignore_errors=True)
    part.rename(destination)
    return destination


def clip(rng: np.random.Generator, sounds: scenes.AudioBank, pool: Pool) -> dict:
    """Waveform, frames and truth per snippet of one clip."""
    wave_, audible, audible_weight = scenes.sound(rng, sounds)
    aligned = aligned_stream(rng, pool, audible) if rng.random() < 0.5 else None
    if aligned is None:
        track = int(rng.integers(len(pool.video["tokens"])))
        aligned = np.full(scenes.SNIPPETS, track), np.arange(scenes.SNIPPETS)
    tracks, snippets = aligned
    places = np.stack([2 * snippets, 2 * snippets + 1], axis=1)
    frames = pool.video["frames"][tracks[:, None], places].reshape(-1, *pool.video["frames"].shape[2:])
    both = np.ones((scenes.SNIPPETS, 2), np.float32)
    seen, weight = snippet_truth(*(pool.video[k][tracks[:, None], places] for k in ("visible", "visible_weight")), both)
    weight = forgive_wild_cats(seen, weight)
    source, source_weight = source_truth(seen, weight, maker_matrix())
    truth = {"audible": audible, "audible_weight": audible_weight, "visible": seen, "visible_weight": weight,
             "source": source, "source_weight": source_weight}  # fmt: skip
    return {"wave": wave_, "frames": frames, "truth": truth}


def pose(rng: np.random.Generator, truth: dict[str, np.ndarray]) -> list[dict]:
    """Questions of every kind as often, each about a moment for which the truth tells the answer: where a sound may or
    may not be there, nobody can say what happened."""
    start = np.arange(scenes.SNIPPETS) * SNIPPET_SECONDS
    story, out = stories.Truth(*(truth[name] for name in stories.TRUTH), start), []
    for kind in rng.choice(list(text.QUESTIONS), QUESTIONS_PER_CLIP):
        for t in rng.integers(8, scenes.SNIPPETS, MOMENTS_TRIED):
            _, label, question = stories.pose(rng, story, int(t), str(kind))
            right = stories.answer(story, int(t), str(kind), label)
            if right is not None:
                out.append({"snippet": int(t), "time": float(start[t] + 0.5), "kind": str(kind), "label": label,
                            "question": question,
                            "answer": text.decode(text.encode(right)[: text.MAX_OUTPUT])})  # fmt: skip
                break
    return sorted(out, key=lambda question: question["snippet"])


# ---------------------------------------------------------------- files


def write_wav(path: pathlib.Path, samples: np.ndarray) -> None:
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        out.writeframes((samples * 32768.0).round().clip(-32768, 32767).astype("<i2").tobytes())


def write_y4m(path: pathlib.Path, frames: np.ndarray) -> None:
    """u8 [F, H, W, 3] RGB, 0.48 s apart, each written twice at 0.24 s."""
    height, width = frames.shape[1:3]
    with path.open("wb") as out:
        out.write(f"YUV4MPEG2 W{width} H{height} F25:6 Ip A1:1 C420jpeg\n".encode())
        for frame in frames:
            planes = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2YUV_I420).tobytes()
            out.write((b"FRAME\n" + planes) * 2)


def truth_rows(name: str, truth: dict[str, np.ndarray], audio: bool, video: bool) -> list[str]:
    """Stretches of what is there, and of what is not known."""
    rows = [f"{name}\t\t\t"]
    makers = maker_matrix().sum(axis=1) > 0
    heard = (truth["audible"] >= 0.5) & (truth["audible_weight"] > 0)
    for kind, key, ids, there in (("hear", "audible", AUDIBLE_IDS, audio), ("see", "visible", VISIBLE_IDS, video),
                                  ("source", "source", AUDIBLE_IDS, audio and video)):  # fmt: skip
        if not there:
            continue
        for i, label in enumerate(ids):
            if kind == "source" and not (makers[i] and label in SOURCES):
                continue
            true = (truth[key][:, i] >= 0.5) & (truth[f"{key}_weight"][:, i] > 0)
            unknown = ~true & (truth[f"{key}_weight"][:, i] < 0.5)
            if kind == "source":
                true, unknown = true & heard[:, i], unknown & heard[:, i]
            for mark, column in (("", true), ("?", unknown)):
                rows += [f"{name}\t{a * SNIPPET_SECONDS:.2f}\t{b * SNIPPET_SECONDS:.2f}\t{mark}{kind}:{label}"
                         for a, b in stretches(column)]  # fmt: skip
    return rows


def stretches(column: np.ndarray) -> list[tuple[int, int]]:
    """[first, end) of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], column.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
