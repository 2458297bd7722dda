"""Every stage on a tiny generated kit, to see that they run: `python -m girasol_train.smoke` (`make model-smoke`).

The kit is noise: a few one-second sounds per class, coloured rectangles for pictures, teachers with random weights and
no opinions. What comes out is a bundle that knows nothing, made by the same code as the real one, exported, held
against torch, played by the girasol program and described in a card - all in a temporary folder. Fails if any stage
fails, if the bundle does not agree with torch, or if a second run of `all` has anything left to do.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import io
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import cv2
import numpy as np
import soundfile
import torch

from . import __main__ as stages
from . import ablate, final, scenes, splits, train_audio, train_fusion, train_video
from . import audio_data as ad
from . import video_data as vd
from .audio_encoder import YamNet
from .video_encoder import Lite0

# Sources per class or label: (split of the kit, part of it, how many).
PARTS = (("train", "train", 2), ("train", "val", 1), ("test", "test", 1), ("test", "final", 1))
AUDIO_COLUMNS = ("file", "class", "detail", "dataset", "source_id", "split", "licence", "attribution", "seconds",
                 "synthetic", "sha256")  # fmt: skip
IMAGE_COLUMNS = ("file", "tags", "tag_source", "detector_tags", "person", "dataset", "source_id", "split", "licence",
                 "attribution", "width", "height", "sha256")  # fmt: skip


def sources(name: str) -> list[tuple[str, str, str]]:
    """(source id, split, part) as `PARTS` wants them: ids are counted up until their hash falls right."""
    out = []
    for split, part, count in PARTS:
        ids = (f"smoke-{split}-{part}-{name}-{k}" for k in itertools.count())
        fitting = (i for i in ids if split == "test" or vd.part_of(i, split) == part)
        out += [(i, split, part) for i in itertools.islice(fitting, count)]
    return out


def write_rows(path: pathlib.Path, columns: tuple[str, ...], rows: list[dict[str, str]], data: pathlib.Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for row in rows:
            digest = hashlib.sha256((data / row["file"]).read_bytes()).hexdigest()
            writer.writerow({"licence": "CC0-1.0", "attribution": "generated", **row, "sha256": digest})


def write_sounds(data: pathlib.Path, rng: np.random.Generator) -> list[str]:
    (data / "audio" / "clips").mkdir(parents=True)
    (data / "audio" / "rir").mkdir()
    rows, last = [], []
    for c, name in enumerate(ad.AUDIO_CLASSES):
        for k, (source, split, part) in enumerate(sources(name)):
            t = np.arange(ad.SAMPLE_RATE) / ad.SAMPLE_RATE
            tone = np.sin(2 * np.pi * (150.0 + 90.0 * c) * t) * np.sin(2 * np.pi * (1.0 + c % 7) * t) ** 2
            wave = 0.3 * tone + 0.02 * rng.standard_normal(len(t))
            file = f"audio/clips/{name}-{k}.flac"
            soundfile.write(data / file, wave.astype(np.float32), ad.SAMPLE_RATE)
            rows.append({"file": file, "class": name, "detail": name, "dataset": "generated", "source_id": source,
                         "split": split, "seconds": "1.0", "synthetic": "1"})  # fmt: skip
            last += [source] if part == "final" else []
    write_rows(data / "audio" / "manifest.csv", AUDIO_COLUMNS, rows, data)
    decay = np.exp(-np.arange(1600) / 300.0) * rng.standard_normal(1600)
    decay[0] = 4.0
    soundfile.write(data / "audio" / "rir" / "0.flac", (decay / 5.0).astype(np.float32), ad.SAMPLE_RATE)
    files = [row["file"] for row in rows]
    np.savez(
        data / "teacher-labels" / "audio_yamnet.npz", files=files, offsets=np.arange(len(files) + 1),
        scores=np.zeros((len(files), 521), np.float16), embeddings_int8=np.zeros((len(files), 1024), np.int8),
        embedding_scale=0.02, hop_seconds=0.48,
    )  # fmt: skip
    names = {n: {"yamnet_indices": [] if n == "background" else [c]} for c, n in enumerate(ad.AUDIO_CLASSES)}
    (data / "teacher-labels" / "class_to_yamnet.json").write_text(json.dumps(names))
    return last


def write_pictures(data: pathlib.Path, rng: np.random.Generator) -> list[str]:
    (data / "images" / "files").mkdir(parents=True)
    rows, last = [], []
    for c, name in enumerate((*vd.VISIBLE, "none", "none")):
        tags = {"aircraft": "airplane", "screen": "laptop"}.get(name, name)
        for k, (source, split, part) in enumerate(sources(f"{name}{c}")):
            picture = rng.integers(0, 80, (96, 128, 3), dtype=np.uint8)
            if name != "none":
                cv2.rectangle(picture, (30, 20), (100, 80), [int(v) for v in rng.integers(90, 255, 3)], -1)
            file = f"images/files/{name}-{c}-{k}.jpg"
            cv2.imwrite(str(data / file), picture)
            person = "1" if name in ("person", "face") else "0"
            rows.append({"file": file, "tags": tags, "tag_source": "COCO human annotation (80 classes)",
                         "person": person, "dataset": "COCO-2017", "source_id": source, "split": split,
                         "width": "128", "height": "96"})  # fmt: skip
            last += [source] if part == "final" else []
    write_rows(data / "images" / "manifest.csv", IMAGE_COLUMNS, rows, data)
    count, labels = len(rows), data / "teacher-labels"
    logits = np.zeros((count, 1000), np.float16)
    logits[:, 999] = 20.0
    boxes = {f"yolox_nano_{k}": v for k, v in (
        ("offsets", np.zeros(count + 1, int)), ("scores", np.zeros(0)), ("classes", np.zeros(0, int)),
        ("boxes", np.zeros((0, 4))))}  # fmt: skip
    files = [row["file"] for row in rows]
    np.savez(labels / "images_detector.npz", files=files, coco_names=np.array(["person"]), **boxes)
    np.savez(labels / "images_efficientnet_lite0.npz", files=files, logits=logits)
    return last


def make_kit(data: pathlib.Path) -> None:
    rng = np.random.default_rng(1)
    (data / "teacher-labels").mkdir(parents=True)
    last = write_sounds(data, rng) + write_pictures(data, rng)
    (data / "final.txt").write_text("\n".join(map(splits.source_hash, last)) + "\n")


def random_yamnet(_: pathlib.Path) -> YamNet:
    """With weights that keep a signal's size from layer to layer: the norm of the tokens would else enlarge what float
    rounding leaves."""
    torch.manual_seed(5)
    teacher = YamNet().eval().requires_grad_(False)
    for layer in teacher.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return teacher


def random_lite0(_: pathlib.Path) -> Lite0:
    torch.manual_seed(6)
    return Lite0().eval()


def shrink(data: pathlib.Path) -> None:
    """Teachers with random weights, the kit's own final list, and a few of everything."""
    splits.LIST = data / "final.txt"
    splits.final_hashes.cache_clear()
    train_audio.load_yamnet = final.load_yamnet = random_yamnet
    train_video.load_lite0 = random_lite0
    train_audio.SYNTHETIC = {"train": (11, 8), "val": (12, 4), "test": (13, 4)}
    train_audio.VALIDATION_MIXTURES, train_video.VALIDATION_VIEWS = 16, 16
    scenes.RINGS, scenes.OTHER_RINGS, scenes.SHARD = 8, 2, 2
    train_fusion.BATCH, train_fusion.LENGTHS, train_fusion.LENGTH_SHARES = 2, (8, 16), (0.5, 0.5)
    ablate.SNIPPETS_PER_STEP, ablate.LENGTHS = 32, (16, 32)
    final.RESAMPLES = 20


def timed(name: str, function: Callable[[], None]) -> None:
    began = time.monotonic()
    function()
    print(f"smoke: {name} {time.monotonic() - began:.1f} s", flush=True)


def main() -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="girasol-smoke-") as folder:
        root = pathlib.Path(folder)
        data, work, bundle = root / "kit", root / "work", root / "models" / "bundle"
        timed("kit", lambda: make_kit(data))
        shrink(data)
        bundle.parent.mkdir()
        options = ["--data", str(data), "--work", str(work), "--bundle", str(bundle), "--steps", "2",
                   "--teacher-steps", "1", "--encoder-minutes", "0.02", "--text-steps", "2", "--ablation-steps", "1",
                   "--small"]  # fmt: skip
        for stage in stages.ALL:
            timed(stage, functools.partial(stages.main, [stage, *options]))
        program = final.program()
        subprocess.run([program, "check", "--no-mqtt", "--bundle", str(bundle)], check=True)
        for name in ("MODEL_CARD.md", "ATTRIBUTION.md", "plots/reliability.svg"):
            if not (bundle.parent / name).stat().st_size:
                raise SystemExit(f"smoke: {name} is empty")
        again = io.StringIO()
        with contextlib.redirect_stdout(again):
            stages.main(["all", *options])
        work_lines = ("step ", "scenes ", "tokens ", "export ")
        redone = [line for line in again.getvalue().splitlines() if line.startswith(work_lines)]
        if redone:
            raise SystemExit(f"smoke: a second run had work left: {redone[:3]}")
    print(f"smoke: all stages in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
