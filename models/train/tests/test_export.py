"""A bundle of random weights: shapes of the ABI, parity (asserted by the export itself), golden run, manifest."""

from __future__ import annotations

import copy
import hashlib
import json
import pathlib

import numpy as np
import pytest
import torch

from girasol_train import export, int8_cost, restore, train_fusion
from girasol_train.audio_encoder import AudioEncoder, load_audio_encoder
from girasol_train.fusion import Fusion
from girasol_train.quant import fake_quant_weights, onnx_session
from girasol_train.video_encoder import VideoEncoder, load_video_encoder


@pytest.fixture(scope="module")
def fusion() -> Fusion:
    torch.manual_seed(0)
    made = Fusion(train_fusion.config()).eval()
    with torch.no_grad():
        for parameter in made.parameters():  # as after training: no two norms are the same, and kept as one
            parameter.add_(0.01 * torch.randn_like(parameter))
    return made


@pytest.fixture(scope="module")
def parts(fusion: Fusion) -> export.Parts:
    torch.manual_seed(1)
    return export.Parts(VideoEncoder().eval(), AudioEncoder().eval(), fusion)


@pytest.fixture(scope="module")
def bundle(parts: export.Parts, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("bundle") / "out"
    export.export_bundle(parts, folder)
    return folder


def test_limits_and_hashes(bundle: pathlib.Path):
    body = json.loads((bundle / "manifest.json").read_text())
    graphs = body["graphs"].values()
    assert sum(g["parameters"] for g in graphs) <= 5_000_000
    assert sum(p.stat().st_size for p in bundle.iterdir()) <= 6_000_000
    macs = {name: g["macs"] for name, g in body["graphs"].items()}
    encoders = 2 * macs["video_encoder"] + 2 * macs["audio_encoder"]
    assert encoders + macs["combiner"] + macs["latent"] <= 250_000_000
    for graph in graphs:
        assert hashlib.sha256((bundle / graph["file"]).read_bytes()).hexdigest() == graph["sha256"]
    assert (bundle / "golden.bin").stat().st_size < 100_000


def test_only_named_operators(bundle: pathlib.Path):
    import onnx

    allowed = {
        "Conv", "Gemm", "MatMul", "Add", "Mul", "Sub", "Div", "Clip", "Relu", "Softmax", "ReduceMean", "Sqrt", "Tanh",
        "Sigmoid", "Exp", "Log", "Reshape", "Transpose", "Concat", "Slice", "Gather", "Unsqueeze", "Squeeze",
        "DequantizeLinear", "LayerNormalization", "Pad", "Expand",
    }  # fmt: skip
    for path in bundle.glob("*.onnx"):
        assert {n.op_type for n in onnx.load(path).graph.node} <= allowed, path.name


def test_golden_run_repeats(fusion: Fusion, bundle: pathlib.Path):
    golden, config = json.loads((bundle / "golden.json").read_text()), train_fusion.config()
    blob = (bundle / "golden.bin").read_bytes()
    kinds = {"f16": np.float16, "f32": np.float32, "u8": np.uint8}
    tensors = {
        name: np.frombuffer(blob, kinds[t["dtype"]], int(np.prod(t["shape"])), t["offset"]).reshape(t["shape"])
        for name, t in golden["tensors"].items()
    }
    assert tensors["audible"].shape == (golden["snippets"], config.audible)
    session = onnx_session(bundle / "audio_encoder.onnx")
    tokens = session.run(None, {"mel": tensors["mel"][:1].astype(np.float32)})[0]
    assert np.isfinite(tokens).all()
    again = export.write_golden(bundle, config, fake_quant_weights(copy.deepcopy(fusion)))
    assert (bundle / "golden.bin").read_bytes() == blob
    assert again["sha256"] == json.loads((bundle / "manifest.json").read_text())["golden"]["sha256"]


def test_a_bundle_gives_its_weights_back(bundle: pathlib.Path, fusion: Fusion, tmp_path: pathlib.Path):
    audio, video, rest = (tmp_path / f"{name}.pt" for name in ("audio", "video", "rest"))
    restore.restore(bundle, audio, video, rest, train_fusion.config())  # asserts parity with every file
    again, rounded = train_fusion.load_fusion(rest), fake_quant_weights(copy.deepcopy(fusion))
    for name, value in rounded.latent.state_dict().items():
        torch.testing.assert_close(again.latent.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(again.decoder.embedding.weight, fusion.decoder.embedding.weight)
    assert load_audio_encoder(audio).blocks and load_video_encoder(video).positions


def test_one_graph_in_f32_and_the_rest_as_shipped(parts: export.Parts, bundle: pathlib.Path, tmp_path: pathlib.Path):
    int8_cost.check_origin(parts, bundle)
    copied = int8_cost.in_f32(parts, bundle, ["combiner"], tmp_path / "copy")
    body, shipped = (json.loads((folder / "manifest.json").read_text()) for folder in (copied, bundle))
    assert "questions" not in body and "questions" in shipped
    for name, entry in body["graphs"].items():
        assert hashlib.sha256((copied / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
        assert (entry == shipped["graphs"][name]) == (name != "combiner")
    assert int8_cost.already_rounded(parts) == []
    rounded = copy.deepcopy(parts)
    fake_quant_weights(rounded.video_encoder)
    assert int8_cost.already_rounded(rounded) == ["video_encoder"]
    with torch.no_grad():
        for parameter in rounded.video_encoder.parameters():
            parameter.add_(0.1)
    with pytest.raises(SystemExit, match="video_encoder"):
        int8_cost.check_origin(rounded, bundle)
