"""Activation scales for int8 (docs/decisions/0005): which nodes run in integers, and at which scales.

Calibration runs the exported encoders in f32 over inputs of composed training scenes, takes a sample of every tensor at
a node's border, and chooses the range that makes the least squared rounding error: wide enough for what is frequent,
narrow enough that one outlier does not cost everybody resolution. The result goes into the manifest's
`quantisation.nodes`.

Convolutions (with the Clip behind them) and residual additions between them are quantised; that is 94 % of a snippet's
multiply-accumulates. Combiner, latent model and decoder stay in f32.

`python -m girasol_train activations` does it again for a bundle that exists, and remakes its golden run.
"""

from __future__ import annotations

import os
import pathlib
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from . import scenes
from .frontend import frame_tensor
from .int8 import QuantParams

GRAPHS = ("video_encoder", "audio_encoder")
INPUTS_PER_GRAPH = 320
SAMPLE = 256  # values kept of each tensor and input
SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 1.0)
# The frame tensor is (pixel - 127) / 128: at this scale pixels are exact. Differences of luma beyond 127 saturate.
FRAME = QuantParams(1 / 128, -1)


def calibration_inputs(work: pathlib.Path, graph: str, count: int, seed: int = 31) -> list[np.ndarray]:
    """Inputs of a graph from the training split's tracks, evenly from all shards."""
    kind = "video" if graph == "video_encoder" else "audio"
    paths, rng = scenes.shard_paths(work, kind, "train"), np.random.default_rng(seed)
    if not paths:
        raise FileNotFoundError(f"{scenes.tracks_folder(work)}: no {kind} tracks; run the stage `scenes` first")
    inputs: list[np.ndarray] = []
    for index, path in enumerate(paths):
        wanted = (index + 1) * count // len(paths) - len(inputs)
        if not wanted:
            continue
        with np.load(path) as shard:
            values = shard["frames" if kind == "video" else "mel"]
        for _ in range(wanted):
            track, at = rng.integers(values.shape[0]), rng.integers(values.shape[1])
            if kind == "audio":
                inputs.append(values[track, at].astype(np.float32)[None])
            else:
                before = values[track, at - 1] if at else None
                inputs.append(frame_tensor(values[track, at], before)[None])
    return inputs


# ---------------------------------------------------------------- which nodes


def fused_clip(graph: onnx.GraphProto, node: onnx.NodeProto) -> onnx.NodeProto | None:
    """The node behind `node` if it is its only reader and clips to [0, 6]."""
    readers = [n for n in graph.node if node.output[0] in n.input]
    if len(readers) != 1 or readers[0].op_type != "Clip":
        return None
    constants = {t.name: t for t in graph.initializer}
    bounds = [float(numpy_helper.to_array(constants[name])) for name in readers[0].input[1:] if name in constants]
    return readers[0] if bounds == [0.0, 6.0] else None


def quantisable_nodes(graph: onnx.GraphProto) -> list[tuple[onnx.NodeProto, list[str], str, list[str]]]:
    """(node, inputs that are no constants, output, names of fused nodes) of each node that can run in int8."""
    found, made = [], set()
    for node in graph.node:
        if node.op_type == "Conv":
            clip = fused_clip(graph, node)
            output = clip.output[0] if clip else node.output[0]
            found.append((node, [node.input[0]], output, [clip.name] if clip else []))
        elif node.op_type == "Add" and set(node.input) <= made:
            found.append((node, list(node.input), node.output[0], []))
        else:
            continue
        made.add(found[-1][2])
    return found


# ---------------------------------------------------------------- ranges


def params(low: float, high: float) -> QuantParams:
    """The range [low, high], widened to hold 0, as a scale (f32) and a zero point; 0 is exact."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32(max(high - low, 1e-6) / 255.0)
    return QuantParams(float(scale), int(np.clip(np.rint(-128.0 - low / float(scale)), -128, 127)))


def best_params(sample: np.ndarray, low: float, high: float) -> QuantParams:
    """The part of [low, high] with the least squared error on the sample."""

    def error(candidate: QuantParams) -> float:
        q = np.clip(np.rint(sample / candidate.scale) + candidate.zero_point, -128, 127)
        return float(np.square((q - candidate.zero_point) * candidate.scale - sample).mean())

    # One-sided ranges have one end to choose; there both loops find the same.
    lows = SHARES if low < 0 else (1.0,)
    candidates = [params(low * a, high * b) for a in lows for b in SHARES]
    return min(candidates, key=error)


def tensor_params(path: pathlib.Path, names: list[str], inputs: list[np.ndarray]) -> dict[str, QuantParams]:
    """Ranges of the named tensors over `inputs`."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    model = onnx.load(path)
    source = model.graph.input[0].name
    inner = [name for name in names if name != source]
    present = {o.name for o in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in inner if n not in present)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(5)
    samples: dict[str, list[np.ndarray]] = {name: [] for name in names}
    ranges = dict.fromkeys(names, (0.0, 0.0))
    for value in inputs:
        values = dict(zip(inner, session.run(inner, {source: value}), strict=True)) | {source: value}
        for name in names:
            flat = values[name].ravel()
            ranges[name] = (min(ranges[name][0], float(flat.min())), max(ranges[name][1], float(flat.max())))
            samples[name].append(rng.choice(flat, min(SAMPLE, flat.size), replace=False))
    return {name: best_params(np.concatenate(samples[name]).astype(np.float64), *ranges[name]) for name in names}


# ---------------------------------------------------------------- manifest


def affine(p: QuantParams) -> dict[str, Any]:
    return {"scale": p.scale, "zero_point": p.zero_point}


def graph_entry(path: pathlib.Path, inputs: list[np.ndarray]) -> dict[str, Any]:
    """The manifest's entry of one graph: by node name, scales of inputs and output, activation, fused nodes."""
    graph = onnx.load(path).graph
    nodes = quantisable_nodes(graph)
    names = list(dict.fromkeys(name for _, ins, out, _ in nodes for name in (*ins, out)))
    ranges = tensor_params(path, names, inputs)
    if "frame" in ranges:
        ranges["frame"] = FRAME
    return {
        node.name: {
            "inputs": [affine(ranges[name]) for name in ins],
            "output": affine(ranges[out]),
            "activation": "relu6" if fused else "none",
            "fused": fused,
        }
        for node, ins, out, fused in nodes
    }


def quantisation(folder: pathlib.Path, work: pathlib.Path) -> dict[str, Any]:
    """`quantisation` of the manifest for the files in `folder`."""
    nodes = {
        name: graph_entry(folder / f"{name}.onnx", calibration_inputs(work, name, INPUTS_PER_GRAPH))
        for name in GRAPHS
    }
    print("activations:", ", ".join(f"{len(entry)} nodes of {name}" for name, entry in nodes.items()))
    return {"weights": "int8-per-channel", "activations": "int8-per-tensor", "nodes": nodes}
