"""The numpy twin of the runtime's integer arithmetic, and graphs run in it."""

from __future__ import annotations

import json
import pathlib

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from girasol_train import activations, int8
from girasol_train.int8 import QuantParams
from girasol_train.integer_graph import Convolution, IntegerGraph
from girasol_train.quant import onnx_session

BUNDLE = pathlib.Path(__file__).resolve().parents[2] / "bundle"
GOLDENS = pathlib.Path(__file__).resolve().parents[3] / "runtime" / "ops" / "tests" / "goldens" / "int8.txt"


def test_the_goldens_of_the_rust_tests_are_this_modules():
    assert GOLDENS.read_text() == "".join(line + "\n" for line in int8._golden_lines())


def test_rescaling_rounds_once_and_halves_upwards():
    mantissa, shift = int8.multiplier(0.25)
    acc = np.array([-6, -2, -1, 1, 2, 6, 2**30 - 1, -(2**30)])
    assert int8.requantise(acc, np.int64(mantissa), np.int64(shift)).tolist() == [-1, 0, 0, 0, 1, 2, 2**28, -(2**28)]
    with pytest.raises(ValueError, match="below 1/2"):
        int8.multiplier(0.5)


@pytest.mark.parametrize("low, high", [(0.0, 6.0), (-1.5, 2.5), (-3.0, 0.0), (0.0, 0.0)])
def test_zero_is_exact_and_the_ends_fit(low: float, high: float):
    p = activations.params(low, high)
    q = int8.quantise(np.array([0.0, low, high], np.float32), p)
    back = int8.dequantise(q, p)
    assert back[0] == 0.0 and np.abs(back - [0.0, low, high]).max() <= p.scale


def test_a_rare_outlier_does_not_set_the_range():
    sample = np.concatenate([np.random.default_rng(1).normal(0, 1, 200_000), [20.0]])
    low = float(sample.min())
    assert activations.best_params(sample, low, 20.0).scale < 0.9 * activations.params(low, 20.0).scale


def test_pixels_are_exact_in_the_frames_scale():
    pixels = (np.arange(256, dtype=np.float32) - 127) / 128
    assert (int8.dequantise(int8.quantise(pixels, activations.FRAME), activations.FRAME) == pixels).all()


def test_convolution_and_depthwise_agree_where_they_mean_the_same():
    rng = np.random.default_rng(2)
    x = rng.integers(-128, 128, (7, 6, 1)).astype(np.int8)
    w = rng.integers(-127, 128, (3, 3, 1)).astype(np.int8)
    ends = (np.array([300]), np.array([0.004], np.float32), QuantParams(0.05, -9), QuantParams(0.3, 4), 2, (0, 0, 1, 1))
    whole = int8.convolution(x, w.transpose(2, 0, 1)[..., None], *ends)
    assert (whole == int8.depthwise(x, w, *ends)).all()


def test_channels_next_to_dead_keep_their_bias():
    weights = np.array([[0, 0], [1, -127], [50, 60]], np.int8)
    scales, bias = np.array([1.0, 1e-12, 0.01], np.float32), np.array([0.7, 0.5, 0.1], np.float32)
    p_in, p_out = QuantParams(0.02, -128), QuantParams(0.02, -128)
    w, s = int8.fit_channels(weights, scales, bias, p_in, p_out)
    y = int8.linear(np.full((1, 2), 100, np.int8), w, int8.quantise_bias(bias, p_in, s), s, p_in, p_out)
    real = int8.dequantise(y, p_out)[0]
    exact = bias + (weights * scales[:, None]).sum(1) * 228 * 0.02
    assert np.abs(real - np.minimum(exact, 255 * 0.02)).max() <= 0.011
    assert (w[2] == weights[2]).all() and s[2] == scales[2]


@pytest.fixture
def small(tmp_path: pathlib.Path) -> pathlib.Path:
    """Convolution, Clip, depthwise, pointwise, residual addition."""
    rng = np.random.default_rng(3)
    tensors = {
        "w1": rng.normal(0, 0.4, (8, 2, 3, 3)), "b1": rng.normal(0, 0.5, 8),
        "w2": rng.normal(0, 0.4, (8, 1, 3, 3)), "b2": rng.normal(0, 0.5, 8),
        "w3": rng.normal(0, 0.4, (8, 8, 1, 1)), "b3": rng.normal(0, 0.5, 8),
        "low": np.array(0.0), "high": np.array(6.0),
    }  # fmt: skip
    shape = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "dilations": [1, 1]}
    nodes = [
        helper.make_node("Conv", ["frame", "w1", "b1"], ["a"], "first", strides=[2, 2], group=1, **shape),
        helper.make_node("Clip", ["a", "low", "high"], ["b"], "clip"),
        helper.make_node("Conv", ["b", "w2", "b2"], ["c"], "depth", strides=[1, 1], group=8, **shape),
        helper.make_node("Conv", ["c", "w3", "b3"], ["d"], "point", strides=[1, 1], group=1, kernel_shape=[1, 1],
                         pads=[0, 0, 0, 0], dilations=[1, 1]),
        helper.make_node("Add", ["c", "d"], ["e"], "sum"),
        helper.make_node("Softmax", ["e"], ["y"], "end", axis=1),
    ]  # fmt: skip
    value = lambda name, dims: helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)  # noqa: E731
    constants = [numpy_helper.from_array(v.astype(np.float32), name) for name, v in tensors.items()]
    graph = helper.make_graph(nodes, "g", [value("frame", [1, 2, 8, 6])], [value("y", [1, 8, 4, 3])], constants)
    path = tmp_path / "g.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_calibrated_graph_stays_close_to_f32(small: pathlib.Path):
    rng = np.random.default_rng(4)
    inputs = [rng.uniform(-1, 1, (1, 2, 8, 6)).astype(np.float32) for _ in range(12)]
    entry = activations.graph_entry(small, inputs)
    assert list(entry) == ["first", "depth", "point", "sum"]
    assert entry["first"]["fused"] == ["clip"] and entry["first"]["activation"] == "relu6"
    assert entry["sum"]["inputs"] == [entry["depth"]["output"], entry["point"]["output"]]
    session, twin = onnx_session(small), IntegerGraph(small, entry)
    for x in inputs:
        exact, rounded = session.run(None, {"frame": x})[0], twin.run({"frame": x})["y"]
        assert exact.shape == rounded.shape and 0 < np.abs(exact - rounded).max() < 0.1


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("pads", [(0, 0, 1, 1), (1, 1, 1, 1)])
def test_graphs_are_bit_equal_to_the_reference(depthwise: bool, pads: tuple[int, int, int, int]):
    rng = np.random.default_rng(6)
    entry = {"inputs": [{"scale": 0.05, "zero_point": -7}], "output": {"scale": 0.06, "zero_point": -90},
             "activation": "relu6"}  # fmt: skip
    channels = 9
    weights = rng.integers(-127, 128, (channels, 1 if depthwise else 5, 3, 3)).astype(np.int8)
    scales, bias = rng.uniform(5e-4, 8e-3, channels).astype(np.float32), rng.normal(0, 2, channels).astype(np.float32)
    x = rng.integers(-128, 128, (2, channels if depthwise else 5, 6, 8)).astype(np.int8)
    attributes = {"pads": pads, "strides": [2, 2], "group": channels if depthwise else 1}
    made = Convolution.prepare(weights, scales, bias, entry, attributes)(torch.from_numpy(x)).numpy()
    source, output = QuantParams(0.05, -7), QuantParams(0.06, -90)
    call = int8.depthwise if depthwise else int8.convolution
    kernel = weights[:, 0].transpose(1, 2, 0) if depthwise else weights.transpose(0, 2, 3, 1)
    for image, got in zip(x, made, strict=True):
        expected = call(image.transpose(1, 2, 0), kernel, int8.quantise_bias(bias, source, scales), scales, source,
                        output, 2, pads, "relu6")  # fmt: skip
        assert (got == expected.transpose(2, 0, 1)).all()


def test_the_bundles_encoders_run_in_int8():
    nodes = json.loads((BUNDLE / "manifest.json").read_text())["quantisation"]["nodes"]
    assert sorted(nodes) == ["audio_encoder", "video_encoder"]
    rng = np.random.default_rng(5)
    for graph, name, shape in (("audio_encoder", "mel", (1, 96, 64)), ("video_encoder", "frame", (1, 4, 96, 128))):
        path = BUNDLE / f"{graph}.onnx"
        convolutions = [n.name for n in onnx.load(path).graph.node if n.op_type == "Conv"]
        assert set(convolutions) <= set(nodes[graph])
        x = np.round(rng.uniform(-0.9, 0.9, shape) * 128).astype(np.float32) / 128
        exact = onnx_session(path).run(None, {name: x})[0]
        rounded = IntegerGraph(path, nodes[graph]).run({name: x})["tokens"]
        assert np.linalg.norm(exact - rounded) < 0.35 * np.linalg.norm(exact)
