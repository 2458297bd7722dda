"""An exported graph as the runtime runs it: the nodes named in the manifest in int8, bit for bit, the rest in f32.

Not fast: for goldens, tests and measurements of what the rounding costs.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

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
        images: dict[str, np.ndarray] = {}
        for node in self.region:
            entry = self.nodes[node.name]
            inputs = []
            for name, params in zip(self._dynamic(node), entry["inputs"], strict=True):
                if name not in images:
                    images[name] = int8.quantise(real[name][0].transpose(1, 2, 0), _params(params))
                inputs.append(images[name])
            images[self.outputs[node.name]] = self._node(node, entry, inputs)
        for name in self.exits:
            maker = next(n for n in self.region if self.outputs[n.name] == name)
            real[name] = int8.dequantise(images[name], _params(self.nodes[maker.name]["output"])).transpose(2, 0, 1)[
                None
            ]
        values = self.after.run(None, {name: np.ascontiguousarray(real[name]) for name in self.exits})
        return dict(zip(self.result_names, values, strict=True))

    def _node(self, node: onnx.NodeProto, entry: dict[str, Any], inputs: list[np.ndarray]) -> np.ndarray:
        params, output = [_params(p) for p in entry["inputs"]], _params(entry["output"])
        if node.op_type == "Add":
            return int8.add(*inputs, *params, output)
        weights, scales = self._weights(node.input[1])
        bias = self.constants[node.input[2]] if len(node.input) > 2 else np.zeros(len(scales), np.float32)
        weights, scales = int8.fit_channels(weights, scales, bias, params[0], output)
        quantised = int8.quantise_bias(bias, params[0], scales)
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        stride, (top, left, bottom, right) = attributes["strides"][0], attributes["pads"]
        call = int8.depthwise if attributes["group"] > 1 else int8.convolution
        kernel = weights[:, 0].transpose(1, 2, 0) if attributes["group"] > 1 else weights.transpose(0, 2, 3, 1)
        return call(inputs[0], kernel, quantised, scales, params[0], output, stride, (top, left, bottom, right),
                    entry["activation"])  # fmt: skip

