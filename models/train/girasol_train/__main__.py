"""`python -m girasol_train STAGE --data KIT --work DIR`: one command per stage, and one for all.

    verify     the kit's files against the hashes of its manifests
    encoders   the two encoders, distilled from YAMNet and from EfficientNet-lite0 with YOLOX-nano (hours)
    scenes     compose tracks and encode them with the two encoders: the token cache
    teacher    Combiner, latent model and decoder at more than four times the student's size
    distil     the student, from the truth and from the teacher (and from those of --teachers, on the mean)
    train      the student from the truth alone, instead of `teacher` and `distil`
    text       the decoder alone, on the context text that the runtime gives it
    export     calibration, thresholds and the bundle, each file held against torch
    evaluate   the bundle on the test sources; writes evaluation.json into the folder reports
    final      composed clips of the final sources through `girasol eval`, beside its peers; writes final.json
    int8       what int8 costs, graph by graph, on the same clips; writes int8.json
    ablate     what each part is worth, at student size on a short schedule; writes ablation.json
    card       MODEL_CARD.md, ATTRIBUTION.md and the plots beside the bundle
    all        verify, encoders, scenes, teacher, distil, text, export, evaluate, final, int8, ablate, card

`combiners` trains three Combiners from scratch on the student's whole schedule (hours); `card` shows their table.
`average` takes the mean of the student's weights and those of other trainings of it (`--others`).
Three more work on a finished bundle: `activations` calibrates its int8 again, `questions` writes the manifest's table
of questions again, `restore` makes checkpoints of it in a work directory that has none (`--init restored.pt` starts
the student from them).

A stage skips what it finds done for the same inputs (hashes of files), and resumes what was interrupted; everything is
seeded. Encoders that are in the work directory are used as they are. `final` needs the girasol program (`make build`).
Training uses a GPU if torch sees one (so far tried with fake tensors only). Defaults of --data and --work are
GIRASOL_DATA and GIRASOL_WORK.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import hashlib
import json
import pathlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from . import (
    ablate,
    calibrate,
    card,
    evaluate,
    export,
    final,
    int8_cost,
    plots,
    restore,
    scenes,
    train_fusion,
    train_text,
)
from . import audio_data as ad
from . import train_audio as ta
from . import train_video as tv
from . import video_data as vd
from .audio_encoder import load_audio_encoder
from .fusion import Fusion
from .video_encoder import load_video_encoder

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
SHARDS = {"audio": {"train": 360, "val": 24, "test": 10}, "video": {"train": 160, "val": 16, "test": 8}}
ALL = ("verify", "encoders", "scenes", "teacher", "distil", "text", "export", "evaluate", "final", "int8", "ablate",
       "card")  # fmt: skip
STAGED = {"scenes": 24, "seed": 11}
VERSION = "0.8.0"
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
    teacher_steps: int = 1500
    teacher_minutes: float = 1e9
    teacher_init: pathlib.Path | None = None
    rate: float = train_fusion.LEARNING_RATE
    encoder_minutes: float = 80.0
    ablation_steps: int = ablate.STEPS
    text_steps: int = train_text.STEPS
    decoder_only: bool = False  # the start that `init` is
    others: tuple[pathlib.Path, ...] = ()  # trainings of the student, for `average`
    more_teachers: tuple[pathlib.Path, ...] = ()  # beside the teacher-size model, for `distil`
    small: bool = False  # a few of everything, to see that all stages run

    @property
    def audio_checkpoint(self) -> pathlib.Path:
        return self.work / "audio_encoder.pt"

    @property
    def video_checkpoint(self) -> pathlib.Path:
        return self.work / "video_encoder.pt"

    @property
    def fusion_checkpoint(self) -> pathlib.Path:
        return self.work / "fusion.pt"

    @property
    def decoder_checkpoint(self) -> pathlib.Path:
        return self.work / "decoder.pt"

    @property
    def restored_checkpoint(self) -> pathlib.Path:
        return self.work / "restored.pt"

    @property
    def teacher_checkpoint(self) -> pathlib.Path:
        return self.work / "teacher.pt"

    @property
    def reports(self) -> pathlib.Path:
        """What was measured, beside the bundle: the card can be written again without the work directory."""
        return self.bundle.parent / "reports"

    @property
    def scored_scenes(self) -> int:
        return 2 if self.small else ablate.SCENES

    def shards(self, kind: str, split: str) -> int:
        return 1 if self.small else SHARDS[kind][split]

    def folders(self) -> tuple[pathlib.Path, pathlib.Path]:
        checkpoints = (self.audio_checkpoint, self.video_checkpoint)
        return tuple(scenes.tokens_folder(self.work, path) for path in checkpoints)

    def tokens_key(self) -> str:
        return "+".join(f.name for f in self.folders())

    def key(self, steps: int, *files: pathlib.Path | None) -> str:
        """Changes with the encoders, the schedule and the files that training starts from."""
        text = f"{self.tokens_key()}+{steps}+{'decoder+' * self.decoder_only}"
        text += "+".join(str(f and scenes.file_hash(f)) for f in files)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def pool(self, split: str) -> train_fusion.Pool:
        return train_fusion.Pool.load(self.work, *self.folders(), split)


def run_verify(job: Job) -> None:
    """Every file of the kit is there and is what its manifest says."""
    note, wrong, count = job.work / "verify.done", [], 0
    manifests = [job.data / kind / "manifest.csv" for kind in ("audio", "images")]
    if note.exists() and note.read_text() == " ".join(map(scenes.file_hash, manifests)):
        print("verify: nothing has changed")
        return
    for manifest in manifests:
        with manifest.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                path, count = job.data / row["file"], count + 1
                if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
                    wrong.append(row["file"])
    if wrong:
        raise SystemExit(f"{job.data}: {len(wrong)} of {count} files are missing or changed, the first is {wrong[0]}")
    note.write_text(" ".join(map(scenes.file_hash, manifests)))
    print(f"verify: {count} files as in the manifests")


def run_encoders(job: Job) -> None:
    if not job.audio_checkpoint.exists() or job.audio_checkpoint.with_suffix(".begun").exists():
        job.audio_checkpoint.with_suffix(".begun").touch()
        if not job.audio_checkpoint.exists():
            ta.init(job.data, job.work)
        ta.Trainer(job.data, job.work, ta.Recipe()).run(job.encoder_minutes)
        job.audio_checkpoint.with_suffix(".begun").unlink()
    if not job.video_checkpoint.exists() or job.video_checkpoint.with_suffix(".begun").exists():
        job.video_checkpoint.with_suffix(".begun").touch()
        if not job.video_checkpoint.exists():
            tv.init(job.data, job.work)
        tv.train(job.data, job.work, job.encoder_minutes, 32, 2e-3)
        job.video_checkpoint.with_suffix(".begun").unlink()
    made = (job.audio_checkpoint, job.video_checkpoint)
    print("encoders: " + ", ".join(f"{path.name} {scenes.file_hash(path)}" for path in made))


def run_scenes(job: Job) -> None:
    encoders = {
        "audio": (job.audio_checkpoint, load_audio_encoder),
        "video": (job.video_checkpoint, lambda p: load_video_encoder(p).to(memory_format=torch.channels_last)),
    }
    for kind, (checkpoint, load) in encoders.items():
        for split in job.splits:
            scenes.write_tracks(job.data, job.work, kind, split, job.shards(kind, split))
        scenes.write_tokens(job.work, kind, checkpoint, load(checkpoint), job.splits)


def measure_once(job: Job, name: str, checkpoint: pathlib.Path) -> None:
    """Note in the report of teacher and students how `name` does on validation scenes, unless it has been noted."""
    path, hash_ = job.reports / "students.json", scenes.file_hash(checkpoint)
    report = json.loads(path.read_text()) if path.exists() else {}
    if report.get(name, {}).get("checkpoint") == hash_:
        return
    model = train_fusion.load_fusion(checkpoint)
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    report[name] = {
        "checkpoint": hash_, "teachers": saved.get("teachers", []), "steps": saved["step"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "validation": ablate.measure_whole(model, job.pool("val"), job.scored_scenes),
    }  # fmt: skip
    ad.write_atomic(path, json.dumps(report, indent=1).encode())
    print(f"{name}: {report[name]}")


def run_teacher(job: Job) -> None:
    train_fusion.train(
        job.pool("train"), job.teacher_checkpoint, job.key(job.teacher_steps, job.teacher_init), job.teacher_steps,
        job.teacher_minutes, job.teacher_init, geometry=train_fusion.teacher_config(),
        peak_rate=train_fusion.TEACHER_RATE,
    )  # fmt: skip
    measure_once(job, "teacher", job.teacher_checkpoint)


def run_train(job: Job) -> None:
    key = job.key(job.steps, job.init)
    train_fusion.train(
        job.pool("train"), job.fusion_checkpoint, key, job.steps, job.minutes, job.init,
        decoder_only=job.decoder_only, peak_rate=job.rate, quantised=True,
    )  # fmt: skip
    measure_once(job, "further" if job.init and not job.decoder_only else "alone", job.fusion_checkpoint)


def run_average(job: Job) -> None:
    if not job.others:
        raise SystemExit("average: --others names the other trainings' fusion.pt")
    train_fusion.average(job.fusion_checkpoint, list(job.others))
    measure_once(job, "mean", job.fusion_checkpoint)


def run_distil(job: Job) -> None:
    if not job.teacher_checkpoint.exists():
        raise SystemExit(f"{job.teacher_checkpoint} is missing: run the stage `teacher` first, or `train` instead")
    teachers = job.teacher_checkpoint, *job.more_teachers
    key = job.key(job.steps, job.init, *teachers)
    train_fusion.train(
        job.pool("train"), job.fusion_checkpoint, key, job.steps, job.minutes, job.init, taught_by=teachers,
        decoder_only=job.decoder_only, peak_rate=job.rate, quantised=True,
    )  # fmt: skip
    measure_once(job, "taught", job.fusion_checkpoint)


def run_ablate(job: Job) -> None:
    seeds, count = ablate.SEEDS[:1] if job.small else ablate.SEEDS, job.scored_scenes
    pools = job.pool("train"), job.pool("val")
    path = job.reports / "ablation.json"
    rows = ablate.run(*pools, path, job.tokens_key(), job.ablation_steps, seeds=seeds, scenes=count)
    print(card.ablation_table(rows))


def run_combiners(job: Job) -> None:
    pools = job.pool("train"), job.pool("val")
    rows = ablate.full(*pools, job.work, job.tokens_key(), job.steps, scenes=job.scored_scenes)
    ad.write_atomic(job.reports / "combiners.json", json.dumps({"steps": job.steps, "rows": rows}, indent=1).encode())


def run_final(job: Job) -> None:
    if reported(job, "final.json"):
        print("final: nothing has changed")
        return
    rules = manifest_rules(json.loads((job.bundle / "manifest.json").read_text()))
    count, shards = (4, 1) if job.small else (final.CLIPS, 12)
    report = final.evaluate_final(job.data, job.work, job.bundle, rules, count=count, shards=shards)
    report["manifest"] = scenes.file_hash(job.bundle / "manifest.json")
    ad.write_atomic(job.reports / "final.json", json.dumps(report, indent=1).encode())


def run_int8(job: Job) -> None:
    if reported(job, "int8.json"):
        print("int8: nothing has changed")
        return
    rules = manifest_rules(json.loads((job.bundle / "manifest.json").read_text()))
    encoders = load_video_encoder(job.video_checkpoint), load_audio_encoder(job.audio_checkpoint)
    parts = export.Parts(*encoders, calibrated(job, job.pool("val")))
    report = int8_cost.measure(parts, job.data, job.work, job.bundle, rules, 4 if job.small else final.CLIPS)
    report["manifest"] = scenes.file_hash(job.bundle / "manifest.json")
    ad.write_atomic(job.reports / "int8.json", json.dumps(report, indent=1).encode())


def calibrated(job: Job, pool: train_fusion.Pool, decoder: bool = True) -> Fusion:
    """The trained fusion model with calibration on `pool` folded in; with the decoder of the stage `text`. Of a work
    directory in which nothing was trained, what was restored from a bundle: that has both in it."""
    if not job.fusion_checkpoint.exists() and job.restored_checkpoint.exists():
        return train_fusion.load_fusion(job.restored_checkpoint)
    fusion = train_fusion.load_fusion(job.fusion_checkpoint)
    calibrate.fold_calibration(fusion, calibrate.run_scenes(evaluate.rounded(fusion), pool, seed=3))
    if decoder:
        saved = torch.load(job.decoder_checkpoint, map_location="cpu", weights_only=True)
        fusion.decoder.load_state_dict(saved["average"])
    return fusion


def rules_for(fusion: Fusion, pool: train_fusion.Pool, test: train_fusion.Pool | None = None) -> evaluate.Rules:
    """Thresholds on `pool`, the validation part; `test`, if given, tells of labels that validation has no events of
    whether they are on."""
    exact = evaluate.rounded(fusion)
    found = calibrate.run_scenes(exact, pool, seed=4, repeats=2)
    return calibrate.label_rules(found, calibrate.run_scenes(exact, test, seed=4) if test else found)


def run_text(job: Job) -> None:
    key = job.key(job.text_steps, job.fusion_checkpoint)
    if train_text.finished(job.decoder_checkpoint, key, job.text_steps):
        print("text: nothing has changed")
        return
    pool = job.pool("val")
    fusion = calibrated(job, pool, decoder=False)
    pools = job.pool("train"), pool
    train_text.train(fusion, rules_for(fusion, pool), pools, job.decoder_checkpoint, key, job.text_steps)


def unchanged(job: Job, stage: str, inputs: list[pathlib.Path], results: list[pathlib.Path]) -> bool:
    """True when the stage was finished for the same inputs and its results are still there; else note it as begun."""
    note = job.work / f"{stage}.done"
    key = " ".join(scenes.file_hash(path) for path in inputs)
    if note.exists() and note.read_text() == key and all(path.exists() for path in results):
        print(f"{stage}: nothing has changed")
        return True
    note.unlink(missing_ok=True)
    return False


def reported(job: Job, report: str) -> dict[str, Any] | None:
    """A whole report of this very bundle, if there is one."""
    path = job.reports / report
    found = json.loads(path.read_text()) if path.exists() else {}
    return found if found.get("manifest") == scenes.file_hash(job.bundle / "manifest.json") else None


def of_this_bundle(job: Job, stage: str, report: str) -> dict[str, Any]:
    """The report that a stage has written; SystemExit if it is of another bundle."""
    found = reported(job, report)
    if found is None:
        raise SystemExit(f"{job.reports / report} is not of the bundle in {job.bundle}: run the stage `{stage}` first")
    return found


def finished(job: Job, stage: str, inputs: list[pathlib.Path]) -> None:
    (job.work / f"{stage}.done").write_text(" ".join(scenes.file_hash(path) for path in inputs))


def lineage(saved: dict[str, Any]) -> dict[str, Any]:
    """How a checkpoint was trained, for the manifest."""
    return {
        "fusion_steps": saved["step"], "teachers": saved.get("teachers", []),
        "fusion_runs": saved.get("runs", 1), "fusion_runs_mixed": saved.get("mixed", False),
    }  # fmt: skip


def run_export(job: Job) -> None:
    if not job.decoder_checkpoint.exists():
        raise SystemExit(f"{job.decoder_checkpoint} is missing: run the stage `text` first")
    inputs = [job.fusion_checkpoint, job.decoder_checkpoint, job.audio_checkpoint, job.video_checkpoint]
    if unchanged(job, "export", inputs, [job.bundle / "manifest.json", job.reports / "standing.json"]):
        return
    pool = job.pool("val")
    fusion = calibrated(job, pool)
    rules = rules_for(fusion, pool, job.pool("test"))
    saved = torch.load(job.fusion_checkpoint, map_location="cpu", weights_only=True)
    init = torch.load(job.init, map_location="cpu", weights_only=True) if job.init else {}
    begun = lineage(saved["begun"]) if saved.get("begun") else {}
    shipped = {kind: {name: {k: v for k, v in rule.items() if k != "evidence"} for name, rule in table.items()}
               for kind, table in rules.items()}  # fmt: skip
    in_view = calibrate.source_choice(calibrate.run_scenes(evaluate.rounded(fusion), pool, seed=5))
    training = {
        "in_view": in_view,
        **lineage(saved),
        "data": "girasol audio-video training kit, train split without validation sources (the decoder's last "
        "stage hears and sees those, too); synthetic rings and alarms",
        "licences": LICENCES,
        "date": datetime.date.today().isoformat(),
        "encoders": {"audio": scenes.file_hash(job.audio_checkpoint), "video": scenes.file_hash(job.video_checkpoint)},
        "snippets": {
            kind: sum((folder / path.name).exists() for path in scenes.shard_paths(job.work, kind, "train"))
            * scenes.SHARD * scenes.SNIPPETS
            for kind, folder in zip(SHARDS, job.folders(), strict=True)
        },
        "begun": begun,
        "warm_start_steps": begun.get("fusion_steps", init.get("step", 0)),
        "restored": init.get("restored") and init["restored"] | ({"parts": "decoder"} if job.decoder_only else {}),
        "seeds": {"scenes": scenes.VERSION, "fusion": 17},
    }
    parts = export.Parts(
        load_video_encoder(job.video_checkpoint), load_audio_encoder(job.audio_checkpoint), fusion, shipped, training,
        version=VERSION, in_view=in_view["shipped"],
    )  # fmt: skip
    export.export_bundle(parts, job.bundle, job.work)
    standing = {"rules": rules, "manifest": scenes.file_hash(job.bundle / "manifest.json")}
    ad.write_atomic(job.reports / "standing.json", json.dumps(standing, indent=1).encode())
    finished(job, "export", inputs)


def manifest_rules(body: dict[str, Any]) -> evaluate.Rules:
    return {kind: {entry["id"]: entry for entry in body["labels"][kind]} for kind in ("audible", "visible")}


def run_evaluate(job: Job) -> None:
    if reported(job, "evaluation.json"):
        print("evaluate: nothing has changed")
        return
    body = json.loads((job.bundle / "manifest.json").read_text())
    rules = manifest_rules(body)
    streamer = export.Streamer(job.bundle, train_fusion.config(), body["quantisation"]["nodes"])
    report: dict[str, Any] = {}

    def note(name: str, value: Any) -> None:
        report[name] = value
        ad.write_atomic(job.reports / "evaluation.json", json.dumps(report, indent=1).encode())
        print(f"evaluate: {name}", flush=True)

    fusion, pool = calibrated(job, job.pool("val")), job.pool("test")
    outcomes = calibrate.run_scenes(evaluate.rounded(fusion), pool, seed=6)
    note("scenes", evaluate.scene_table(outcomes, rules))
    note("curves", evaluate.curves(outcomes))
    note("attention", evaluate.attention(fusion, pool))
    sounds = scenes.AudioBank.load(job.data, job.work, "test")
    views = scenes.VideoBank.load(job.data, job.work, "test")
    seeds = [[STAGED["seed"], n] for n in range(2 if job.small else STAGED["scenes"])]
    made = [evaluate.staged_scene(np.random.default_rng(seed), sounds, views) for seed in seeds]
    logits = [evaluate.stream_scene(streamer, scene["mel"], scene["frames"]) for scene in made]
    note("staged", {mode: evaluate.staged_report(made, logits, rules, mode) for mode in ("low_false_alarm", "best_f1")})
    count = 2 if job.small else QUIET["scenes"]
    note("quiet", evaluate.quiet_report(streamer, sounds, views, rules, count, QUIET["seed"]))
    note("sentences", evaluate.sentence_scores(streamer, pool, rules, 5 if job.small else 200))
    note("pictures", evaluate.picture_scores(streamer, vd.load_images(job.data, job.work, "test"), rules))
    clips = {split: ad.load_clips(job.data, job.work, split)[: 10 if job.small else None] for split in ("test", "val")}
    note("clips", evaluate.clip_accuracy(streamer, clips["test"], clips["val"]))
    unheard = scenes.AudioBank.load(job.data, job.work, "val")  # by the encoder, too: five test clips tell little
    both = {label: sounds.groups[label] + unheard.groups.get(label, []) for label in sounds.groups}
    if job.small:
        both = {label: sources[:1] for label, sources in both.items()}
    note("onset", evaluate.onset_sweep(streamer, both, rules, phases=2 if job.small else 8))
    note("manifest", scenes.file_hash(job.bundle / "manifest.json"))  # last: now it is whole


def run_restore(job: Job) -> None:
    made = [job.audio_checkpoint, job.video_checkpoint, job.restored_checkpoint]
    there = [path.name for path in made if path.exists()]
    if there:
        raise SystemExit(f"{job.work}: {', '.join(there)} would be overwritten: move it away, or use another --work")
    restore.restore(job.bundle, *made, train_fusion.config())


def run_activations(job: Job) -> None:
    export.requantise_bundle(job.bundle, job.work, train_fusion.config())


def run_questions(job: Job) -> None:
    export.renew_questions(job.bundle)


def run_card(job: Job) -> None:
    report = of_this_bundle(job, "evaluate", "evaluation.json")
    for stage in ("final", "int8"):
        report[stage] = of_this_bundle(job, stage, f"{stage}.json")
    report["standing"] = of_this_bundle(job, "export", "standing.json")["rules"]
    for name in ("ablation", "combiners", "students"):
        path = job.reports / f"{name}.json"
        if path.exists():
            report[name] = json.loads(path.read_text())
    logs = {name: job.work / f"{name}.log" for name in ("teacher", "fusion")}
    plots.write(report, {name: path for name, path in logs.items() if path.exists()}, job.bundle.parent / "plots")
    card.write_card(job.bundle, report, job.bundle.parent / "MODEL_CARD.md")
    card.write_attribution(job.data, job.bundle.parent / "ATTRIBUTION.md")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m girasol_train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("stage", choices=(*STAGES, "all"))
    made.add_argument("--data", help="the training kit")
    made.add_argument("--work", help="caches and checkpoints")
    made.add_argument("--bundle", type=pathlib.Path, default=REPOSITORY / "models" / "bundle")
    made.add_argument("--steps", type=int, default=3000, help="training steps of the student")
    made.add_argument("--rate", type=float, default=train_fusion.LEARNING_RATE, help="highest, of the student")
    made.add_argument("--minutes", type=float, default=1e9, help="stop the student after this long, schedule included")
    made.add_argument("--teacher-steps", type=int, default=1500)
    made.add_argument("--teacher-minutes", type=float, default=1e9)
    made.add_argument("--teacher-init", type=pathlib.Path, help="start the teacher from this one, of other tokens")
    made.add_argument("--encoder-minutes", type=float, default=80.0, help="of each encoder")
    made.add_argument("--ablation-steps", type=int, default=ablate.STEPS, help="about 0.5 s of one core each, 36 runs")
    made.add_argument("--text-steps", type=int, default=train_text.STEPS, help="of the decoder alone")
    made.add_argument("--init", type=pathlib.Path, help="start the student from this fusion checkpoint")
    made.add_argument("--decoder-only", action="store_true", help="take no more than the decoder from --init")
    made.add_argument("--teachers", type=pathlib.Path, nargs="+", help="checkpoints that `distil` learns from, too")
    made.add_argument("--others", type=pathlib.Path, nargs="+", help="fusion.pt of the trainings that `average` adds")
    made.add_argument("--threads", type=int, default=2)
    made.add_argument("--splits", default=",".join(scenes.SPLITS), help="splits that `scenes` works on")
    made.add_argument("--small", action="store_true", help="a few of everything: only to see that the stages run")
    return made


STAGES = {
    "verify": run_verify, "encoders": run_encoders, "scenes": run_scenes, "teacher": run_teacher,
    "distil": run_distil, "train": run_train, "text": run_text, "export": run_export,
    "evaluate": run_evaluate, "final": run_final, "int8": run_int8, "ablate": run_ablate, "combiners": run_combiners,
    "card": run_card,
    "activations": run_activations, "questions": run_questions, "restore": run_restore, "average": run_average,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    job = Job(
        ad.data_dir(options.data), ad.work_dir(options.work), options.bundle, options.steps, options.minutes,
        options.init, tuple(options.splits.split(",")), options.teacher_steps, options.teacher_minutes,
        options.teacher_init, options.rate, options.encoder_minutes, options.ablation_steps, options.text_steps,
        options.decoder_only, tuple(options.others or ()), tuple(options.teachers or ()), options.small,
    )  # fmt: skip
    for stage in ALL if options.stage == "all" else (options.stage,):
        print(f"== {stage}", flush=True)
        STAGES[stage](job)


if __name__ == "__main__":
    main()
