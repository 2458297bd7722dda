"""An exported graph as the runtime runs it: the nodes named in the manifest in int8, bit for bit, the rest in f32.

For goldens, tests and evaluation. The arithmetic is that of `int8.py`, done by torch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

from . import int8
from .int8 import QuantParams


def _session(model: onnx.ModelProto):
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _params(entry: dict[str, Any]) -> QuantParams:
    return QuantParams(entry["scale"], entry["zero_point"])


@dataclass(frozen=True)
class Convolution:
    """A convolution ready to run; sums of products are exact, as every partial sum is a whole number that f32 (or
    f64, where f32's 2**24 could be passed) holds."""

    zero_point: int
    weights: Tensor
    bias: Tensor
    mantissa: Tensor
    shift: Tensor
    output: QuantParams
    bounds: tuple[int, int]
    stride: int
    padding: tuple[int, int, int, int]  # left, right, top, bottom
    groups: int

    @classmethod
    def prepare(
        cls, weights: np.ndarray, scales: np.ndarray, bias: np.ndarray, entry: dict[str, Any],
        attributes: dict[str, Any],
    ) -> Convolution:  # fmt: skip
        source, output = _params(entry["inputs"][0]), _params(entry["output"])
        weights, scales = int8.fit_channels(weights, scales, bias, source, output)
        reach = 255 * np.abs(weights.astype(np.int64)).reshape(len(weights), -1).sum(axis=1).max()
        real = torch.float32 if reach < 1 << 24 else torch.float64
        mantissa, shift = int8.multipliers(source, scales, output)
        per_channel = lambda x: torch.from_numpy(np.asarray(x, np.int64))[:, None, None]  # noqa: E731
        top, left, bottom, right = attributes["pads"]
        return cls(
            source.zero_point, torch.from_numpy(weights).to(real),
            per_channel(int8.quantise_bias(bias, source, scales)), per_channel(mantissa), per_channel(shift), output,
            int8.bounds(output, entry["activation"]), attributes["strides"][0], (left, right, top, bottom),
            attributes["group"],
        )  # fmt: skip

    def __call__(self, x: Tensor) -> Tensor:
        """int8 [B, C, H, W] -> int8 [B, C, H, W]."""
        centred = functional.pad(x.to(self.weights.dtype) - self.zero_point, self.padding)
        acc = functional.conv2d(centred, self.weights, stride=self.stride, groups=self.groups).to(torch.int64)
        acc += self.bias
        q = (acc * self.mantissa + (1 << (30 + self.shift))) >> (31 + self.shift)
        low, high = self.bounds
        return (q + self.output.zero_point).clamp(max(low, -128), min(high, 127)).to(torch.int8)


class IntegerGraph:
    """`run` takes and returns arrays by name, as an ONNX Runtime session does. Images only: [1, C, H, W]."""

    def __init__(self, path: str | os.PathLike, nodes: dict[str, dict[str, Any]]) -> None:
        model = onnx.load(path)
        graph, self.nodes = model.graph, nodes
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.dequantised = {n.output[0]: n for n in graph.node if n.op_type == "DequantizeLinear"}
        by_name = {n.name: n for n in graph.node}
        self.region = [n for n in graph.node if n.name in nodes]
        fused = {name for entry in nodes.values() for name in entry["fused"]}
        self.outputs = {
            n.name: by_name[nodes[n.name]["fused"][-1]].output[0] if nodes[n.name]["fused"] else n.output[0]
            for n in self.region
        }
        made = set(self.outputs.values())
        dynamic = {name for n in self.region for name in self._dynamic(n)}
        inside = {*nodes, *fused}
        rest = [n for n in graph.node if n.name not in inside and n.op_type != "DequantizeLinear"]
        self.entries = sorted(dynamic - made)
        self.exits = sorted(made & {name for n in rest for name in n.input} | made & {o.name for o in graph.output})
        self.result_names = [o.name for o in graph.output]
        inputs = [i.name for i in graph.input]
        self.before = self._part(model, inputs, [e for e in self.entries if e not in inputs])
        self.after = self._part(model, self.exits, self.result_names)
        self.layers = {n.name: self._convolution(n) for n in self.region if n.op_type == "Conv"}

    def _part(self, model: onnx.ModelProto, inputs: list[str], outputs: list[str]):
        if not outputs:
            return None
        inferred = onnx.shape_inference.infer_shapes(model)
        return _session(onnx.utils.Extractor(inferred).extract_model(inputs, outputs))

    def _dynamic(self, node: onnx.NodeProto) -> list[str]:
        return list(node.input[:1]) if node.op_type == "Conv" else list(node.input)

    def _weights(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        if name in self.dequantised:
            q, scales = self.dequantised[name].input[:2]
            return self.constants[q], self.constants[scales]
        return int8.quantise_weights(self.constants[name])

    def run(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        real = dict(feed)
        if self.before is not None:
            names = [o.name for o in self.before.get_outputs()]
            wanted = {i.name for i in self.before.get_inputs()}
            values = self.before.run(None, {k: v for k, v in feed.items() if k in wanted})
            real |= dict(zip(names, values, strict=True))
        images: dict[str, Tensor] = {}
        for node in self.region:
            entry = self.nodes[node.name]
            inputs = []
            for name, params in zip(self._dynamic(node), entry["inputs"], strict=True):
                if name not in images:
                    images[name] = torch.from_numpy(int8.quantise(real[name], _params(params)))
                inputs.append(images[name])
            images[self.outputs[node.name]] = self._node(node, entry, inputs)
        for name in self.exits:
            maker = next(n for n in self.region if self.outputs[n.name] == name)
            real[name] = int8.dequantise(images[name].numpy(), _params(self.nodes[maker.name]["output"]))
        values = self.after.run(None, {name: real[name] for name in self.exits})
        return dict(zip(self.result_names, values, strict=True))

    def _node(self, node: onnx.NodeProto, entry: dict[str, Any], inputs: list[Tensor]) -> Tensor:
        if node.op_type != "Add":
            return self.layers[node.name](inputs[0])
        params, output = [_params(p) for p in entry["inputs"]], _params(entry["output"])
        return torch.from_numpy(int8.add(*(x.numpy() for x in inputs), *params, output))

    def _convolution(self, node: onnx.NodeProto) -> Convolution:
        weights, scales = self._weights(node.input[1])
        bias = self.constants[node.input[2]] if len(node.input) > 2 else np.zeros(len(scales), np.float32)
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        return Convolution.prepare(weights, scales, bias, self.nodes[node.name], attributes)
