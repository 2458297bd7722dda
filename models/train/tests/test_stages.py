"""The parts around training: final list, clips as files, intervals, distillation, ablation rows, plots."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import wave

import numpy as np
import pytest
import torch

from girasol_train import __main__ as stages
from girasol_train import (
    ablate,
    calibrate,
    card,
    clips,
    final,
    fusion,
    intervals,
    plots,
    quant,
    scenes,
    splits,
    stories,
    train_fusion,
)
from girasol_train.labels import AUDIBLE_IDS, AUDIBLE_INDEX, VISIBLE_IDS, VISIBLE_INDEX

KIT = os.environ.get("GIRASOL_DATA")
needs_kit = pytest.mark.skipif(not KIT, reason="needs the media kit: set GIRASOL_DATA")


@needs_kit
def test_the_final_list_is_the_derived_one():
    assert set(splits.derive(pathlib.Path(KIT))) == splits.final_hashes()


def test_final_hashes_are_hashes():
    assert len(splits.final_hashes()) > 100
    assert all(len(h) == 16 and int(h, 16) >= 0 for h in splits.final_hashes())
    assert not splits.is_final("no such source")


def truth_of(snippets: int = 8) -> dict[str, np.ndarray]:
    """A dog barks in snippets 2 to 4, in view from 3 on; a bird may be heard in 6."""
    out = {}
    for name, count in (("audible", len(AUDIBLE_IDS)), ("visible", len(VISIBLE_IDS)), ("source", len(AUDIBLE_IDS))):
        out[name] = np.zeros((snippets, count), np.float32)
        out[f"{name}_weight"] = np.ones((snippets, count), np.float32)
    dog = AUDIBLE_INDEX["dog_bark"]
    out["audible"][2:5, dog] = 1.0
    out["visible"][3:, VISIBLE_INDEX["dog"]] = 1.0
    out["source"][3:, dog] = 1.0
    out["audible_weight"][6, AUDIBLE_INDEX["bird"]] = 0.0
    return out


def test_truth_rows_say_what_is_there_and_what_is_not_known():
    rows = clips.truth_rows("c.y4m", truth_of(), audio=True, video=True)
    assert "c.y4m\t1.92\t4.80\thear:dog_bark" in rows
    assert "c.y4m\t5.76\t6.72\t?hear:bird" in rows
    assert "c.y4m\t2.88\t7.68\tsee:dog" in rows
    assert "c.y4m\t2.88\t4.80\tsource:dog_bark" in rows, "a source needs its sound"
    assert rows[0] == "c.y4m\t\t\t" and len(rows) == 5
    only_sound = clips.truth_rows("c.wav", truth_of(), audio=True, video=False)
    assert not [r for r in only_sound if "see:" in r or "source:" in r]


def test_files_hold_what_was_composed(tmp_path: pathlib.Path):
    rng = np.random.default_rng(0)
    samples = rng.uniform(-0.5, 0.5, 1_000).astype(np.float32)
    clips.write_wav(tmp_path / "a.wav", samples)
    with wave.open(str(tmp_path / "a.wav")) as file:
        read = np.frombuffer(file.readframes(2_000), "<i2") / 32768.0
    np.testing.assert_allclose(read, samples, atol=1e-4)
    frames = np.full((3, 96, 128, 3), 60, np.uint8)
    frames[1, :, 64:] = (200, 40, 90)
    clips.write_y4m(tmp_path / "a.y4m", frames)
    again = final.read_y4m(tmp_path / "a.y4m")[::2]
    assert again.shape == frames.shape
    assert np.abs(again.astype(int) - frames).max() <= 4


def test_the_label_history_answers_from_predictions():
    truth = truth_of()
    story = stories.Truth(*(truth[name] for name in stories.TRUTH), np.arange(8) * 0.96)
    assert stories.answer(story, 4, "heard", "dog_bark") == "yes, a dog barks"
    assert stories.answer(story, 7, "heard", "dog_bark") == "not now, but a few seconds ago"
    assert stories.answer(story, 7, "heard", "speech") == "no, not in the last minute"
    assert stories.answer(story, 7, "anyone", "person") == "no, not in the last minute"
    assert stories.answer(story, 7, "see", "") == "a dog"


def test_intervals_cover_and_pairs_cancel_what_is_shared():
    rng = np.random.default_rng(0)
    shared = rng.normal(0.0, 10.0, 200)
    better = shared + 1.0 + 0.1 * rng.standard_normal(200)
    figures = {"a": lambda p: float(better[p].mean()), "b": lambda p: float(shared[p].mean())}
    found = intervals.intervals(figures, 200, [("a", "b")], 200)
    assert found["a"]["low"] < found["a"]["value"] < found["a"]["high"]
    assert 0.9 < found["a - b"]["low"] < found["a - b"]["high"] < 1.1
    assert found["a"]["high"] - found["a"]["low"] > 1.0


def test_mean_ap_looks_at_known_labels_only():
    score = np.array([[[0.9, 0.2], [0.1, 0.8]]])
    target = np.array([[[1.0, 0.0], [0.0, 0.0]]])
    assert intervals.mean_ap(score, target, np.ones_like(score)) == 1.0
    assert np.isnan(intervals.mean_ap(score, np.zeros_like(score), np.ones_like(score)))


def test_the_head_ships_only_where_it_is_better_than_the_rule():
    truth = truth_of()
    logit = {name: np.where(truth[name] >= 0.5, 4.0, -4.0)[None] for name in ("audible", "visible", "source")}

    def choice(**other: np.ndarray) -> str:
        ids = {"audible": AUDIBLE_IDS, "visible": VISIBLE_IDS, "source": AUDIBLE_IDS}
        logits = logit | other
        made = {n: calibrate.Outcome(ids[n], logits[n], truth[n][None], truth[f"{n}_weight"][None]) for n in ids}
        return calibrate.source_choice(made)["shipped"]

    assert choice() == "rule", "as good as the rule: no reason to ship it"
    assert choice(source=-logit["source"]) == "rule"
    assert choice(visible=-logit["visible"]) == "head"


SMALL = fusion.FusionConfig(audible=len(AUDIBLE_IDS), visible=len(VISIBLE_IDS),
                            vocabulary=train_fusion.config().vocabulary, window=4)  # fmt: skip


def pool() -> train_fusion.Pool:
    rng = np.random.default_rng(2)

    def tracks(tokens: tuple[int, ...], name: str, labels: int, steps: int) -> dict[str, np.ndarray]:
        target = (rng.random((3, steps, labels)) < 0.2).astype(np.float32)
        return {"tokens": rng.standard_normal((3, steps, *tokens)).astype(np.float16), name: target,
                f"{name}_weight": np.ones_like(target)}  # fmt: skip

    audio = tracks((2, 6, 128), "audible", len(AUDIBLE_IDS), scenes.SNIPPETS)
    return train_fusion.Pool(audio, tracks((12, 128), "visible", len(VISIBLE_IDS), scenes.FRAMES))


def test_a_student_learns_from_its_teachers():
    torch.manual_seed(0)
    teachers = [fusion.Fusion(dataclasses.replace(SMALL, dim=160)).eval(),
                fusion.Fusion(dataclasses.replace(SMALL, combiner="summary", late=True)).eval()]  # fmt: skip
    student = fusion.Fusion(dataclasses.replace(SMALL, dropout=0.0))
    source = pool()
    rng = np.random.default_rng(1)
    drawn = [train_fusion.draw_scene(rng, source, 8) for _ in range(2)]
    batch, texts = train_fusion.collate(drawn), train_fusion.draw_texts(rng, drawn)
    optimiser = torch.optim.Adam(student.parameters(), 1e-3)
    lessons = []
    for _ in range(6):
        found = train_fusion.losses(student, batch, texts, teachers)
        optimiser.zero_grad()
        sum(found[name] for name in found if name.startswith("taught")).backward()
        optimiser.step()
        lessons.append({name: float(found[name].detach()) for name in found if name.startswith("taught")})
    assert set(lessons[0]) == {"taught_audible", "taught_visible", "taught_source", "taught_text"}
    assert all(lessons[-1][name] < lessons[0][name] for name in lessons[0])
    assert all(p.grad is None for teacher in teachers for p in teacher.parameters())


def test_what_is_taught_is_the_mean_of_the_teachers():
    torch.manual_seed(0)
    source, rng = pool(), np.random.default_rng(1)
    drawn = [train_fusion.draw_scene(rng, source, 8)]
    batch = train_fusion.collate(drawn)
    student, *teachers = (fusion.Fusion(dataclasses.replace(SMALL, dropout=0.0)).eval() for _ in range(3))
    with torch.no_grad():
        out = student.scene(batch)
        mean = sum(torch.sigmoid(teacher.scene(batch)["audible"]) for teacher in teachers) / 2
        found = train_fusion.losses(student, batch, None, teachers)["taught_audible"]
        expected = torch.nn.functional.binary_cross_entropy_with_logits(out["audible"], mean, reduction="none")
    assert torch.allclose(found, expected.sum(-1).mean(), rtol=1e-5)


def test_the_teacher_is_more_than_four_times_the_student():
    sizes = [sum(p.numel() for p in fusion.Fusion(c).parameters())
             for c in (train_fusion.config(), train_fusion.teacher_config())]  # fmt: skip
    assert sizes[1] >= 4 * sizes[0]


def test_an_ablation_is_resumed_and_has_a_row_per_configuration(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ablate, "SNIPPETS_PER_STEP", 16)
    monkeypatch.setattr(ablate, "LENGTHS", (16,))
    monkeypatch.setattr(ablate, "SCENE_LENGTH", 16)
    no_video, window = ablate.Variant("audio only", without="video"), ablate.Variant("window 8", {"window": 8})
    variants = (ablate.VARIANTS[0], no_video, window)
    source, path = pool(), tmp_path / "ablation.json"

    def table() -> list[dict]:
        return ablate.run(source, source, path, "key", steps=1, variants=variants, seeds=(0,), scenes=1)

    first = table()
    assert [r["name"] for r in first] == [v.name for v in variants]
    assert all(r["parameters"] > 500_000 and r["macs"] > 1_000_000 and r["tokens"] == 8 for r in first)
    assert first[2]["macs"] < first[0]["macs"]
    monkeypatch.setattr(ablate, "fit", lambda *_: pytest.fail("what is done must not be run again"))
    assert repr(table()) == repr(first), "not a number equals itself in print only"


def test_combiners_are_trained_whole_and_measured(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ablate, "SCENE_LENGTH", 16)
    monkeypatch.setattr(ablate, "FULL", (ablate.VARIANTS[0].name, "late fusion"))
    source = pool()
    rows = ablate.full(source, source, tmp_path, "key", 1, scenes=1, seeds=(0, 1))
    assert [r["name"] for r in rows] == list(ablate.FULL)
    assert rows[1]["parameters"] < rows[0]["parameters"]
    found = [r["all_audible_map"] for r in rows]
    assert all(f["low"] <= f["mean"] <= f["high"] for f in found)
    made = {path.name for path in tmp_path.glob("*.pt")}
    assert made == {"ttm-0.pt", "ttm-1.pt", "summary-0.pt", "summary-1.pt"}
    first, second = (train_fusion.load_fusion(tmp_path / f"ttm-{k}.pt").combiner.memory_place for k in (0, 1))
    assert not torch.equal(first, second)
    assert "late fusion" in card.combiners_section({"steps": 1, "rows": rows})


def test_teacher_and_students_are_measured_once_each(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ablate, "SCENE_LENGTH", 16)
    job, source = stages.Job(tmp_path, tmp_path, tmp_path / "bundle", 1, 1.0, None, (), small=True), pool()
    monkeypatch.setattr(stages.Job, "pool", lambda *_: source)
    job.reports.mkdir()
    train_fusion.train(source, job.teacher_checkpoint, "teacher", 1, geometry=dataclasses.replace(SMALL, dim=160))
    stages.measure_once(job, "teacher", job.teacher_checkpoint)
    train_fusion.train(source, job.fusion_checkpoint, "student", 1, taught_by=[job.teacher_checkpoint])
    stages.measure_once(job, "taught", job.fusion_checkpoint)
    report = json.loads((job.reports / "students.json").read_text())
    mark = scenes.file_hash(job.teacher_checkpoint)
    assert report["taught"]["teachers"] == [mark] and report["teacher"]["checkpoint"] == mark
    table = card.students_section(report, {"teachers": [mark]})
    assert f"{report['teacher']['parameters']:,}" in table and "The student that was taught ships" in table
    further = tmp_path / "further.pt"
    train_fusion.train(source, further, "further", 1, init=job.fusion_checkpoint)
    assert torch.load(further, weights_only=True)["begun"] == {"step": 1, "teachers": [mark]}
    training = {"begun": {"fusion_steps": 1, "teachers": [mark], "fusion_runs": 3, "fusion_runs_mixed": True}}
    said = card.begun({"students": report}, training)
    assert "half of its label and text losses from a teacher" in said and "3 such trainings, not all" in said
    assert card.taught({"students": report}, training) == ""
    monkeypatch.setattr(ablate, "measure_whole", lambda *_: pytest.fail("what is measured must not be again"))
    stages.measure_once(job, "taught", job.fusion_checkpoint)


def test_the_last_steps_of_the_student_see_rounded_weights_and_leave_it_unrounded(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
    seen, losses = [], train_fusion.losses

    def noted(fusion, *rest):
        weight = fusion.latent.heads["audible"].weight
        seen.append(torch.equal(weight, quant.round_weight(weight)))
        return losses(fusion, *rest)

    monkeypatch.setattr(train_fusion, "losses", noted)
    train_fusion.train(pool(), tmp_path / "fusion.pt", "student", 10, quantised=True)
    assert seen == [False] * 9 + [True]
    weight = train_fusion.load_fusion(tmp_path / "fusion.pt").latent.heads["audible"].weight
    assert not torch.equal(weight, quant.round_weight(weight))


def test_plots_are_small_and_well_formed(tmp_path: pathlib.Path):
    import xml.etree.ElementTree as tree

    log = tmp_path / "fusion.log"
    log.write_text('{"step": 20, "seconds": 1, "audible": 2.0}\n{"step": 40, "seconds": 2, "audible": 1.0}\n')
    curve = [[0.0, 0.1, 3], [1.0, 0.9, 5]]
    curves = {f"{k}_reliability": curve for k in ("audible", "visible")}
    curves |= {f"{k}_precision_recall": [[0.0, 1.0], [1.0, 0.5]] for k in ("audible", "visible")}
    curves["confusion"] = np.eye(len(AUDIBLE_IDS), dtype=int).tolist()
    report = {"curves": curves, "attention": {"audio": [[0.5, 0.5]]}}
    names = plots.write(report, {"fusion": log}, tmp_path / "plots")
    assert names == ["attention-audio.svg", "confusion.svg", "precision-recall.svg", "reliability.svg",
                     "training-fusion.svg"]  # fmt: skip
    for name in names:
        assert tree.parse(tmp_path / "plots" / name).getroot().tag.endswith("svg")
        assert (tmp_path / "plots" / name).stat().st_size < 40_000


def test_the_card_is_written_from_reports_of_its_own_bundle_only(tmp_path: pathlib.Path):
    job = stages.Job(tmp_path, tmp_path, tmp_path / "bundle", 1, 1.0, None, ())
    job.bundle.mkdir()
    (job.bundle / "manifest.json").write_text("{}")
    with pytest.raises(SystemExit, match="run the stage `evaluate` first"):
        stages.of_this_bundle(job, "evaluate", "evaluation.json")
    mark = scenes.file_hash(job.bundle / "manifest.json")
    job.reports.mkdir()
    (job.reports / "evaluation.json").write_text(json.dumps({"manifest": mark, "scenes": []}))
    assert stages.of_this_bundle(job, "evaluate", "evaluation.json")["scenes"] == []
    (job.bundle / "manifest.json").write_text('{"version": "another"}')
    with pytest.raises(SystemExit, match="is not of the bundle"):
        stages.of_this_bundle(job, "evaluate", "evaluation.json")


def test_what_is_or_may_be_a_wild_animal_is_no_proof_against_a_cat():
    cat, wild = VISIBLE_INDEX["cat"], VISIBLE_INDEX["wild_animal"]
    seen, weight = np.zeros((4, len(VISIBLE_IDS)), np.float32), np.ones((4, len(VISIBLE_IDS)), np.float32)
    seen[1, wild], weight[2, wild] = 1.0, 0.0
    seen[3, [cat, wild]] = 1.0
    assert train_fusion.forgive_wild_cats(seen, weight)[:, cat].tolist() == [1.0, 0.0, 0.0, 1.0]
    assert weight[1, cat] == 1.0


def test_the_mean_of_trainings_has_the_mean_of_their_weights(tmp_path: pathlib.Path):
    paths = [tmp_path / "fusion.pt", tmp_path / "other.pt", tmp_path / "third.pt"]
    for n, path in enumerate(paths):
        torch.save({"average": {"w": torch.full((2,), 3.0 * n)}, "step": n, "teachers": ["x"] * (n < 2)}, path)
    train_fusion.average(paths[0], paths[1:])
    saved = torch.load(paths[0], weights_only=True)
    assert saved["average"]["w"].tolist() == [3.0, 3.0]
    assert (saved["step"], saved["runs"], saved["mixed"]) == (0, 3, True)
