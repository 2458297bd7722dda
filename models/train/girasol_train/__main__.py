"""`python -m girasol_train STAGE --data KIT --work DIR`: the stages after the encoders, one command each.

    scenes     compose tracks and encode them with the two encoder checkpoints of the work directory
    train      Combiner, latent model and decoder on the cached tokens
    export     calibration, thresholds and the bundle
    evaluate   the bundle on the test split; writes evaluation.json into the work directory
    card       MODEL_CARD.md and ATTRIBUTION.md beside the bundle
    all        the five in order

Encoders come first: `python -m girasol_train.train_audio` and `python -m girasol_train.train_video`. A stage skips what
it finds done for the same inputs (checkpoint hashes), and resumes what was interrupted. Defaults of --data and --work
are GIRASOL_DATA and GIRASOL_WORK.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import pathlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from . import audio_data as ad
from . import calibrate, card, evaluate, export, scenes, train_fusion
from . import video_data as vd
from .audio_encoder import load_audio_encoder
from .fusion import Fusion
from .video_encoder import load_video_encoder

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
SHARDS = {"audio": {"train": 60, "val": 12, "test": 10}, "video": {"train": 50, "val": 8, "test": 8}}
STAGES = ("scenes", "train", "export", "evaluate", "card")
STAGED = {"scenes": 24, "seed": 11}
QUIET = {"scenes": 30, "seed": 12}
LICENCES = (
    "CC0-1.0, public domain, CC-BY-3.0, CC-BY-4.0, CC-BY-2.0, MIT and Apache-2.0 media; teachers Apache-2.0 "
    "(attributions: ATTRIBUTION.md)"
)


@dataclass
class Job:
    """Where things are, and the encoders that everything is keyed by."""

    data: pathlib.Path
    work: pathlib.Path
    bundle: pathlib.Path
    steps: int
    minutes: float
    init: pathlib.Path | None
    splits: tuple[str, ...]

    @property
    def audio_checkpoint(self) -> pathlib.Path:
        return self.work / "audio_encoder.pt"

    @property
    def video_checkpoint(self) -> pathlib.Path:
        return self.work / "video_encoder.pt"

    @property
    def fusion_checkpoint(self) -> pathlib.Path:
        return self.work / "fusion.pt"

    def folders(self) -> tuple[pathlib.Path, pathlib.Path]:
        checkpoints = (self.audio_checkpoint, self.video_checkpoint)
        return tuple(self.work / f"tokens-{scenes.file_hash(path)}" for path in checkpoints)

    def key(self) -> str:
        """Changes with the encoders and the schedule."""
        text = "+".join(f.name for f in self.folders()) + f"+{self.steps}+{self.init and scenes.file_hash(self.init)}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def pool(self, split: str) -> train_fusion.Pool:
        return train_fusion.Pool.load(self.work, *self.folders(), split)


def run_scenes(job: Job) -> None:
    encoders = {
        "audio": (job.audio_checkpoint, load_audio_encoder),
        "video": (job.video_checkpoint, lambda p: load_video_encoder(p).to(memory_format=torch.channels_last)),
    }
    for kind, (checkpoint, load) in encoders.items():
        for split in job.splits:
            scenes.write_tracks(job.data, job.work, kind, split, SHARDS[kind][split])
        scenes.write_tokens(job.work, kind, checkpoint, load(checkpoint), job.splits)


def run_train(job: Job) -> None:
    pool = job.pool("train")
    train_fusion.train(pool, job.fusion_checkpoint, job.key(), job.steps, job.minutes, job.init)


def rules_path(job: Job) -> pathlib.Path:
    return job.work / "rules.json"


def calibrated(job: Job, pool: train_fusion.Pool) -> Fusion:
    """The trained fusion model with calibration on `pool` folded in."""
    fusion = train_fusion.load_fusion(job.fusion_checkpoint)
    calibrate.fold_calibration(fusion, calibrate.run_scenes(evaluate.rounded(fusion), pool, seed=3))
    return fusion


def unchanged(job: Job, stage: str, inputs: list[pathlib.Path], results: list[pathlib.Path]) -> bool:
    """True when the stage was finished for the same inputs and its results are still there; else note it as begun."""
    note = job.work / f"{stage}.done"
    key = " ".join(scenes.file_hash(path) for path in inputs)
    if note.exists() and note.read_text() == key and all(path.exists() for path in results):
        print(f"{stage}: nothing has changed")
        return True
    note.unlink(missing_ok=True)
    return False


def finished(job: Job, stage: str, inputs: list[pathlib.Path]) -> None:
    (job.work / f"{stage}.done").write_text(" ".join(scenes.file_hash(path) for path in inputs))


def run_export(job: Job) -> None:
    inputs = [job.fusion_checkpoint, job.audio_checkpoint, job.video_checkpoint]
    if unchanged(job, "export", inputs, [job.bundle / "manifest.json"]):
        return
    pool = job.pool("val")
    fusion = calibrated(job, pool)
    rules = calibrate.label_rules(calibrate.run_scenes(evaluate.rounded(fusion), pool, seed=4, repeats=2))
    rules_path(job).write_text(json.dumps(rules, indent=1))
    saved = torch.load(job.fusion_checkpoint, map_location="cpu", weights_only=True)
    shipped = {kind: {name: {k: v for k, v in rule.items() if k != "validation"} for name, rule in table.items()}
               for kind, table in rules.items()}  # fmt: skip
    training = {
        "data": "girasol audio-video training kit, train split without validation sources; synthetic rings and alarms",
        "licences": LICENCES,
        "date": datetime.date.today().isoformat(),
        "encoders": {"audio": scenes.file_hash(job.audio_checkpoint), "video": scenes.file_hash(job.video_checkpoint)},
        "snippets": {
            kind: len(list(folder.glob(f"{kind}-train-*.npz"))) * scenes.SHARD * scenes.SNIPPETS
            for kind, folder in zip(SHARDS, job.folders(), strict=True)
        },
        "fusion_steps": saved["step"],
        "warm_start_steps": torch.load(job.init, map_location="cpu", weights_only=True)["step"] if job.init else 0,
        "seeds": {"scenes": scenes.VERSION, "fusion": 17},
    }
    parts = export.Parts(
        load_video_encoder(job.video_checkpoint), load_audio_encoder(job.audio_checkpoint), fusion, shipped, training
    )
    export.export_bundle(parts, job.bundle, job.work)
    finished(job, "export", inputs)


def manifest_rules(body: dict[str, Any]) -> evaluate.Rules:
    return {kind: {entry["id"]: entry for entry in body["labels"][kind]} for kind in ("audible", "visible")}


def run_evaluate(job: Job) -> None:
    inputs = [job.bundle / "manifest.json"]
    if unchanged(job, "evaluate", inputs, [job.work / "evaluation.json"]):
        return
    body = json.loads((job.bundle / "manifest.json").read_text())
    rules = manifest_rules(body)
    streamer = export.Streamer(job.bundle, train_fusion.config(), body["quantisation"]["nodes"])
    report: dict[str, Any] = {"bundle": {k: body[k] for k in ("version", "created")}}

    def note(name: str, value: Any) -> None:
        report[name] = value
        (job.work / "evaluation.json").write_text(json.dumps(report, indent=1))
        print(f"evaluate: {name}", flush=True)

    fusion, pool = calibrated(job, job.pool("val")), job.pool("test")
    note("scenes", evaluate.scene_table(calibrate.run_scenes(evaluate.rounded(fusion), pool, seed=6), rules))
    sounds = scenes.AudioBank.load(job.data, job.work, "test")
    views = scenes.VideoBank.load(job.data, job.work, "test")
    seeds = [[STAGED["seed"], n] for n in range(STAGED["scenes"])]
    made = [evaluate.staged_scene(np.random.default_rng(seed), sounds, views) for seed in seeds]
    logits = [evaluate.stream_scene(streamer, scene["mel"], scene["frames"]) for scene in made]
    note("staged", {mode: evaluate.staged_report(made, logits, rules, mode) for mode in ("low_false_alarm", "best_f1")})
    note("quiet", evaluate.quiet_report(streamer, sounds, views, rules, QUIET["scenes"], QUIET["seed"]))
    note("sentences", evaluate.sentence_scores(streamer, pool, 200))
    note("pictures", evaluate.picture_scores(streamer, vd.load_images(job.data, job.work, "test")))
    note("clips", evaluate.clip_accuracy(streamer, ad.load_clips(job.data, job.work, "test")))
    note("onset", evaluate.onset_sweep(streamer, sounds, rules))
    finished(job, "evaluate", inputs)


def run_activations(job: Job) -> None:
    export.requantise_bundle(job.bundle, job.work, train_fusion.config())


def run_card(job: Job) -> None:
    report = json.loads((job.work / "evaluation.json").read_text())
    card.write_card(job.bundle, report, job.bundle.parent / "MODEL_CARD.md")
    card.write_attribution(job.data, job.bundle.parent / "ATTRIBUTION.md")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=(*STAGES, "all", "activations"))
    parser.add_argument("--data", help="the training kit")
    parser.add_argument("--work", help="caches and checkpoints")
    parser.add_argument("--bundle", type=pathlib.Path, default=REPOSITORY / "models" / "bundle")
    parser.add_argument("--steps", type=int, default=3000, help="training steps")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop training after this long, schedule included")
    parser.add_argument("--init", type=pathlib.Path, help="start training from this fusion checkpoint")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--splits", default=",".join(scenes.SPLITS), help="splits that `scenes` works on")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    job = Job(
        ad.data_dir(options.data), ad.work_dir(options.work), options.bundle, options.steps, options.minutes,
        options.init, tuple(options.splits.split(",")),
    )  # fmt: skip
    stages = dict(zip(STAGES, (run_scenes, run_train, run_export, run_evaluate, run_card), strict=True))
    stages["activations"] = run_activations
    for stage in STAGES if options.stage == "all" else (options.stage,):
        print(f"== {stage}", flush=True)
        stages[stage](job)


if __name__ == "__main__":
    main()
