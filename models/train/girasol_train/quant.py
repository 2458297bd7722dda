"""Weight-only int8 for the exported graphs (docs/decisions/0004, rule 3), and its twin in torch.

The file keeps its float arithmetic: every large Conv / MatMul / Gemm weight becomes an int8 initialiser behind a
`DequantizeLinear` with one symmetric scale per output channel. `fake_quant_weights` rounds a module's weights by the
same formula, so the torch module and the exported file agree to float rounding.
"""
from __future__ import annotations

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

MIN_ELEMENTS = 1024
LEVELS = 127
WEIGHT_OPS = ("Conv", "MatMul", "Gemm")


# ---------------------------------------------------------------- one formula, two libraries


def channel_scales(weight: np.ndarray, axis: int) -> np.ndarray:
    """f32 scale per channel: largest magnitude / 127; 1 for a channel of zeros."""
    other = tuple(a for a in range(weight.ndim) if a != axis)
    top = np.abs(weight.astype(np.float32)).max(axis=other)
    return np.where(top > 0, top / np.float32(LEVELS), np.float32(1.0)).astype(np.float32)


def quantise(weight: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """(int8 weight in [-127, 127], f32 scales); rounds half to even."""
    scales = channel_scales(weight, axis)
    shape = [-1 if a == axis else 1 for a in range(weight.ndim)]
    q = np.clip(np.rint(weight.astype(np.float32) / scales.reshape(shape)), -LEVELS, LEVELS)
    return q.astype(np.int8), scales


def round_weight(weight: torch.Tensor, axis: int = 0) -> torch.Tensor:
    """The weight as the int8 file will hold it, with a straight-through gradient."""
    other = [a for a in range(weight.dim()) if a != axis]
    top = weight.detach().abs().amax(dim=other, keepdim=True)
    scale = torch.where(top > 0, top / LEVELS, torch.ones_like(top))
    rounded = (weight.detach() / scale).round().clamp(-LEVELS, LEVELS) * scale
    return weight + (rounded - weight).detach()


# ---------------------------------------------------------------- torch side


def quantisable(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Sub-modules whose `weight` the exporter turns into int8: convolutions and linear layers, large enough."""
    for name, child in module.named_modules():
        if isinstance(child, nn.Conv1d | nn.Conv2d | nn.Linear) and child.weight.numel() >= MIN_ELEMENTS:
            yield name, child


@torch.no_grad()
def fake_quant_weights(module: nn.Module, extra: Sequence[nn.Parameter] = ()) -> nn.Module:
    """Round the weights in place (channel axis 0, as torch lays them out); returns the module.

    `extra` names bare parameters [out, in] that the graph multiplies by (`in_proj_weight` of an attention).
    Apply it to a copy, right before export or evaluation.
    """
    for _, child in quantisable(module):
        child.weight.copy_(round_weight(child.weight))
    for parameter in extra:
        if parameter.numel() >= MIN_ELEMENTS:
            parameter.copy_(round_weight(parameter))
    return module


@contextlib.contextmanager
def quantised_weights(module: nn.Module) -> Iterator[None]:
    """Inside the block the forward and backward pass see rounded weights; afterwards the float ones are back.

    For quantisation-aware fine-tuning: run forward and backward inside, the optimiser's step outside.
    """
    layers = [child for _, child in quantisable(module)]
    saved = [child.weight.detach().clone() for child in layers]
    with torch.no_grad():
        for child in layers:
            child.weight.copy_(round_weight(child.weight))
    try:
        yield
    finally:
        with torch.no_grad():
            for child, weight in zip(layers, saved, strict=True):
                child.weight.copy_(weight)


# ---------------------------------------------------------------- ONNX side


def output_axis(node: onnx.NodeProto, rank: int) -> int:
    """Axis of the output channels in the weight of a Conv, MatMul or Gemm."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in node.attribute) else 1
    return rank - 1


def quantise_weights_onnx(path_in: str | os.PathLike, path_out: str | os.PathLike) -> dict[str, np.ndarray]:
    """Rewrite a float ONNX file with int8 weights; returns the scales of each rewritten node by its name.

    Only weights used by a single kind of channel axis are touched; biases, norms, tables and small weights stay f32.
    """
    model = onnx.load(path_in)
    graph = model.graph
    tensors = {t.name: t for t in graph.initializer}
    wanted = _weights_to_rewrite(graph, tensors)
    nodes, scales = [], {}
    for name, (axis, users) in wanted.items():
        q, scale = quantise(numpy_helper.to_array(tensors[name]), axis)
        graph.initializer.remove(tensors[name])
        graph.initializer.extend([
            numpy_helper.from_array(q, f"{name}_q"),
            numpy_helper.from_array(scale, f"{name}_scale"),
            numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{name}_zero"),
        ])
        inputs = [f"{name}_q", f"{name}_scale", f"{name}_zero"]
        nodes.append(helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}_dequantize", axis=axis))
        scales.update(dict.fromkeys(users, scale))
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes + body)
    onnx.checker.check_model(model)
    _save(model, pathlib.Path(path_out))
    return scales


def _weights_to_rewrite(
    graph: onnx.GraphProto, tensors: dict[str, onnx.TensorProto]
) -> dict[str, tuple[int, list[str]]]:
    """Initialiser name -> (channel axis, names of the nodes that use it)."""
    used_elsewhere, wanted = set(), {}
    for index, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
        for position, name in enumerate(node.input):
            tensor = tensors.get(name)
            if tensor is None or tensor.data_type != TensorProto.FLOAT or int(np.prod(tensor.dims)) < MIN_ELEMENTS:
                continue
            if node.op_type not in WEIGHT_OPS or position != 1 or len(tensor.dims) < 2:
                used_elsewhere.add(name)
                continue
            axis = output_axis(node, len(tensor.dims))
            if wanted.setdefault(name, (axis, []))[0] != axis:
                used_elsewhere.add(name)
            wanted[name][1].append(node.name)
    return {k: v for k, v in wanted.items() if k not in used_elsewhere}


def _save(model: onnx.ModelProto, path: pathlib.Path) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    onnx.save(model, temporary)
    os.replace(temporary, path)


# ---------------------------------------------------------------- parity


def onnx_session(path: str | os.PathLike):
    """An ONNX Runtime session without graph optimisation (with it, int8 weights are fused inexactly) or telemetry."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def parity(
    onnx_path: str | os.PathLike,
    torch_fn: Callable[..., torch.Tensor | Sequence[torch.Tensor]],
    inputs: dict[str, np.ndarray] | Sequence[dict[str, np.ndarray]],
    tol: float = 1e-4,
) -> float:
    """Largest error of the file against `torch_fn(*inputs in graph order)`, each output relative to max(1, its peak).

    Raises when it exceeds `tol` or when anything is not finite.
    """
    session = onnx_session(onnx_path)
    names = [i.name for i in session.get_inputs()]
    worst = 0.0
    for feed in [inputs] if isinstance(inputs, dict) else inputs:
        got = session.run(None, feed)
        with torch.no_grad():
            want = torch_fn(*(torch.from_numpy(np.ascontiguousarray(feed[n])) for n in names))
        want = [want] if isinstance(want, torch.Tensor) else list(want)
        if len(want) != len(got):
            raise AssertionError(f"{onnx_path}: {len(got)} outputs, torch gives {len(want)}")
        for output, a, b in zip(session.get_outputs(), got, want, strict=True):
            b = b.numpy()
            error = float(np.max(np.abs(a - b)) / max(1.0, float(np.max(np.abs(b)))))
            if a.shape != b.shape or not error <= tol:
                raise AssertionError(f"{onnx_path}: {output.name}: error {error:.3g}, shapes {a.shape} {b.shape}")
            worst = max(worst, error)
    return worst
