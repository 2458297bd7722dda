"""Constant folding for exported ONNX files: what depends on no input becomes an initialiser.

The exporter leaves shape arithmetic (Shape, Where, ConstantOfShape, ...) and aliases (Identity) behind although every
shape is fixed. Folding them keeps the shipped graphs within the operators named by docs/decisions/0004.
"""

from __future__ import annotations

import os

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator


def fold_constants(path: str | os.PathLike, outputs: dict[str, tuple[int, ...]]) -> None:
    """Rewrite `path` in place and state the shapes of its outputs."""
    model = onnx.load(path)
    while True:
        known = onnx.shape_inference.infer_shapes(model, data_prop=True)
        if not _fold_once(model, _static_shapes(known)):
            break
    graph = model.graph
    used = {name for node in graph.node for name in node.input}
    kept = [t for t in graph.initializer if t.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    for value in graph.output:
        value.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, outputs[value.name]))
    del graph.value_info[:]
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _static_shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Fully known shapes by tensor name."""
    shapes = {}
    for value in (*model.graph.value_info, *model.graph.input):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = [d.dim_value for d in dims]
    return shapes


def _fold_once(model: onnx.ModelProto, shapes: dict[str, list[int]]) -> bool:
    """One pass over the nodes; true when something was folded."""
    graph = model.graph
    constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    results, kept, renamed = {t.name for t in graph.output}, [], {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        values = _evaluate(node, constants, shapes)
        if node.op_type == "Identity" and node.output[0] not in results:
            renamed[node.output[0]] = node.input[0]
        elif values is None or results & set(node.output):
            kept.append(node)
        else:
            for name, value in zip(node.output, values, strict=True):
                constants[name] = value
                graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    changed = len(kept) < len(graph.node)
    del graph.node[:]
    graph.node.extend(kept)
    return changed


def _evaluate(
    node: onnx.NodeProto, constants: dict[str, np.ndarray], shapes: dict[str, list[int]]
) -> list[np.ndarray] | None:
    """The node's outputs if they depend on no input, else None."""
    if node.op_type == "Shape" and node.input[0] in shapes and not node.attribute:
        return [np.array(shapes[node.input[0]], np.int64)]
    if node.op_type == "Identity" or any(name and name not in constants for name in node.input):
        return None
    if node.op_type == "Constant":
        return [numpy_helper.to_array(node.attribute[0].t)]
    feed = {name: constants[name] for name in node.input if name}
    graph = helper.make_graph(
        [node], "fold", [onnx.ValueInfoProto(name=n) for n in feed], [onnx.ValueInfoProto(name=n) for n in node.output]
    )
    single = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    return list(ReferenceEvaluator(single).run(None, feed))
