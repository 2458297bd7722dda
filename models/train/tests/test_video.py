"""Video data, encoder and scores. What needs the data kit or its caches is skipped without them."""
from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from girasol_train import video_data as vd
from girasol_train import video_encoder as ve
from girasol_train.frontend import frame_tensor, resize_rgb
from girasol_train.train_video import Sampler, ViewTeacher, average_precision, precision_recall_f1, roc_auc

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
LITE0 = vd.default_data() / "teachers/efficientnet-lite0/efficientnet-lite0.onnx"
needs_kit = pytest.mark.skipif(not LITE0.exists(), reason="no data kit (GIRASOL_DATA)")


def picture(tags: str = "", tag_source: str = "dataset label", person: int | None = 0, objects=(), **labels: float,
            ) -> vd.Picture:
    """A striped picture with the given training labels."""
    rgb = np.tile(np.linspace(0, 255, 200).astype(np.uint8)[None, :, None], (150, 1, 3))
    target = np.zeros(len(vd.VISIBLE), np.float32)
    for label, value in labels.items():
        target[vd.INDEX[label]] = value
    return vd.Picture(
        file="x.jpg", rgb=rgb, row=0, source_id="x", dataset="Caltech-101", split="train", tags=frozenset(tags.split()),
        tag_source=tag_source, detector_tags=frozenset(), person=person, classes=np.array([], "U14"),
        scores=np.zeros(0, np.float32), boxes=np.zeros((0, 4), np.float32), lite0_logits=np.zeros(1000, np.float16),
        target=target, weight=np.ones_like(target), objects=tuple(objects))


def test_unknown_labels_have_no_weight() -> None:
    target, weight = vd.training_labels(picture("car", person=None))
    assert target[vd.INDEX["car"]] == weight[vd.INDEX["car"]] == 1.0
    assert weight[vd.INDEX["person"]] == weight[vd.INDEX["face"]] == 0.0


def test_catalogue_pictures_show_one_animal() -> None:
    dog = picture("dog")
    object.__setattr__(dog, "classes", np.array(["giraffe"]))
    object.__setattr__(dog, "scores", np.array([0.9], np.float32))
    target, weight = vd.training_labels(dog)
    assert target[vd.INDEX["dog"]] == 1.0
    assert target[vd.INDEX["wild_animal"]] == 0.0 and weight[vd.INDEX["wild_animal"]] == 1.0


@pytest.mark.parametrize("score", [0.3, 0.9])
def test_a_detector_alone_does_not_outvote_the_catalogue(score: float) -> None:
    """YOLOX-nano's half-hearted cats: dandelions, lamps, cougars."""
    seen = {"classes": np.array(["cat"]), "scores": np.array([score], np.float32)}
    lite0 = np.full(1000, -9.0, np.float16)
    lite0[985] = 9.0  # daisy
    labels = {}
    for tag_source in ("folder label", "detector only"):
        p = picture("", tag_source)
        for name, value in {**seen, "lite0_logits": lite0}.items():
            object.__setattr__(p, name, value)
        target, weight = vd.training_labels(p)
        labels[tag_source] = (float(target[vd.INDEX["cat"]]), float(weight[vd.INDEX["cat"]]))
    assert labels["folder label"] == (0.0, pytest.approx(0.3))
    assert labels["detector only"] == ((1.0, 1.0) if score >= 0.5 else (pytest.approx(0.3), pytest.approx(0.5)))


def test_scoring_uses_human_words_only() -> None:
    coco = vd.scoring_labels(picture("person", "COCO human annotation (80 classes)"))
    assert coco[vd.INDEX["person"]] == 1.0 and coco[vd.INDEX["dog"]] == 0.0
    assert np.isnan(coco[vd.INDEX["face"]]) and np.isnan(coco[vd.INDEX["musical_instrument"]])
    assert np.isnan(vd.scoring_labels(picture("dog"))[vd.INDEX["cat"]])
    assert vd.scoring_labels(picture("dog"), assumed_negatives=True)[vd.INDEX["cat"]] == 0.0
    assert np.isnan(vd.scoring_labels(picture("unlabelled", "detector only"))).all()


def test_a_source_is_in_one_part_only() -> None:
    assert vd.part_of("anything", "test") == "test"
    parts = [vd.part_of(f"source {i}", "train") for i in range(2000)]
    assert parts == [vd.part_of(f"source {i}", "train") for i in range(2000)]
    assert 0.09 < parts.count("val") / len(parts) < 0.15


def test_region_labels_follow_the_box() -> None:
    dog = picture(objects=[(vd.INDEX["dog"], (0.0, 0.0, 0.4, 0.4))], dog=1.0)
    i = vd.INDEX["dog"]
    assert [a[i] for a in vd.region_labels(dog, (0.0, 0.0, 0.5, 0.5))] == [1.0, 1.0]
    assert [a[i] for a in vd.region_labels(dog, (0.6, 0.6, 1.0, 1.0))] == [0.0, 1.0]
    assert vd.region_labels(dog, (0.3, 0.0, 0.9, 0.5))[1][i] == 0.0
    assert vd.region_labels(dog, (0.0, 0.0, 1.0, 1.0), pixels=200.0)[1][i] == 0.0


def test_views_are_seeded_and_still_ones_do_not_move() -> None:
    scene = [picture(objects=[(vd.INDEX["dog"], (0.2, 0.2, 0.6, 0.7))], dog=1.0)]
    for background in (None, picture()):
        a, b = (vd.render_view(np.random.default_rng(5), scene, 3, background) for _ in range(2))
        assert a.frames.shape == (3, 96, 128, 3) and a.frames.dtype == np.uint8
        assert a.target.shape == a.weight.shape == (3, len(vd.VISIBLE))
        assert np.array_equal(a.frames, b.frames)
        still = vd.render_view(np.random.default_rng(6), scene, 3, background, degrade=False, still=True)
        assert (still.frames == still.frames[:1]).all()
        assert (frame_tensor(still.frames[1], still.frames[0])[3] == 0).all() and not still.motion.any()
    moving = vd.render_view(np.random.default_rng(7), scene, 3, degrade=False, still=False)
    assert (moving.frames[0] != moving.frames[2]).any()


def test_whole_view_is_close_to_the_runtime_resize() -> None:
    p = picture()
    assert np.abs(vd.whole_view(p).astype(int) - resize_rgb(p.rgb).astype(int)).max() <= 1


def test_sampler_batches() -> None:
    pictures = [picture(objects=[(vd.INDEX["dog"], vd.CENTRE_BOX)], dog=1.0), picture()]
    object.__setattr__(pictures[1], "dataset", "COCO-2017")
    frames, target, weight, motion = Sampler(pictures, seed=0).batch(12)
    assert frames.shape == (12, 4, 96, 128) and torch.isfinite(frames).all()
    assert target.shape == weight.shape == (12, len(vd.VISIBLE))
    assert motion.shape == (12, 12)
    assert not weight[:, vd.INDEX["cat"]].any() and weight[:, vd.INDEX["dog"]].any(), "cats are left to lite0"


@needs_kit
def test_teacher_of_views_is_lite0_twice_the_size() -> None:
    frames = torch.rand(9, 4, 96, 128) * 2 - 1
    teacher = ViewTeacher(LITE0, torch.device("cpu"))
    with torch.no_grad():
        wanted = ve.load_lite0(LITE0)(torch.nn.functional.interpolate(frames[:, :3], size=(192, 256), mode="bilinear"))
    got = teacher(frames)
    assert got.dtype == torch.float32 and got.shape == (9, 1000)
    assert (got - wanted).norm() < 0.05 * (wanted - wanted.mean()).norm()  # bfloat16, where there is any


def test_student_fits_its_budget() -> None:
    model = ve.VideoEncoder()
    assert ve.macs_per_frame(model) <= 54_000_000
    assert sum(p.numel() for p in model.parameters()) <= 600_000
    assert model(torch.zeros(2, 4, 96, 128)).shape == (2, ve.TOKENS, ve.D)


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    model = ve.VideoEncoder().eval()
    ve.save_video_encoder(model, tmp_path / "e.pt", note=1)
    again = ve.load_video_encoder(tmp_path / "e.pt")
    x = torch.randn(1, 4, 96, 128)
    assert torch.equal(model(x), again(x)) and not again.training
    assert [f.name for f in tmp_path.iterdir()] == ["e.pt"]


def test_scores() -> None:
    truth, score = np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.1])
    assert average_precision(truth, score) == pytest.approx((1 + 2 / 3) / 2)
    assert roc_auc(truth, score) == pytest.approx(0.75)
    assert precision_recall_f1(truth, score >= 0.75)["f1"] == pytest.approx(0.5)


@needs_kit
def test_lite0_equals_onnx_runtime() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    x = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    session = onnxruntime.InferenceSession(str(LITE0), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        ours = ve.load_lite0(LITE0)(x).numpy()
    assert np.abs(session.run(None, {"x": x.numpy()})[0] - ours).max() < 1e-4


@needs_kit
def test_untrained_student_ignores_motion_and_its_tokens_are_normalised() -> None:
    frames = torch.randn(40, 4, 96, 128, generator=torch.Generator().manual_seed(0)) * 0.5
    model = ve.encoder_from_lite0(ve.load_lite0(LITE0), frames).eval()
    with torch.no_grad():
        tokens = model(frames[:2])
        still = frames[:2].clone()
        still[:, 3] = 0
        assert torch.allclose(tokens, model(still), atol=1e-5)
    assert tokens.std() == pytest.approx(1.0, abs=0.1)
