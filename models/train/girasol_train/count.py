"""Parameters, multiply-accumulates and bytes of ONNX files: `python -m girasol_train.count FILE...`.

Counts what the graph really does: shapes come from ONNX shape inference, so batch and lengths must be fixed.
Parameters are the weights of the network (int8 or float); scales and zero points of int8 weights are left out.
"""
from __future__ import annotations

import argparse
import json
import os
import pathlib

import numpy as np
import onnx
from onnx import TensorProto

INT8 = (TensorProto.INT8, TensorProto.UINT8)
NUMBERS = (TensorProto.FLOAT, TensorProto.FLOAT16, *INT8)


def count(path: str | os.PathLike) -> dict[str, int]:
    """`parameters`, `int8_parameters`, `macs` and `bytes` of one file."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True)
    graph = model.graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
              for v in (*graph.value_info, *graph.input, *graph.output)}  # fmt: skip
    shapes |= {t.name: list(t.dims) for t in graph.initializer}
    shapes |= {n.output[0]: list(n.attribute[0].t.dims) for n in graph.node if n.op_type == "Constant"}
    helpers = {name for n in graph.node if n.op_type == "DequantizeLinear" for name in n.input[1:]}
    weights = [t for t in graph.initializer if t.data_type in NUMBERS and t.name not in helpers]
    return {
        "parameters": sum(int(np.prod(t.dims)) for t in weights),
        "int8_parameters": sum(int(np.prod(t.dims)) for t in weights if t.data_type in INT8),
        "macs": sum(_macs(n, shapes) for n in graph.node),
        "bytes": pathlib.Path(path).stat().st_size,
    }


def _macs(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> int:
    if node.op_type == "Conv":
        weight = shapes[node.input[1]]
        return int(np.prod(shapes[node.output[0]])) * int(np.prod(weight[1:]))
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return int(np.prod(shapes[node.output[0]])) * shapes[node.input[0]][0 if transposed else 1]
    if node.op_type == "MatMul":
        return int(np.prod(shapes[node.output[0]])) * shapes[node.input[0]][-1]
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--json", action="store_true", help="print one JSON object by file name")
    arguments = parser.parse_args()
    rows = {pathlib.Path(f).name: count(f) for f in arguments.files}
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    keys = ("parameters", "int8_parameters", "macs", "bytes")
    print(f"{'file':32}" + "".join(f"{k:>18}" for k in keys))
    for name, row in rows.items():
        print(f"{name:32}" + "".join(f"{row[k]:>18,}" for k in keys))
    if len(rows) > 1:
        print(f"{'total':32}" + "".join(f"{sum(r[k] for r in rows.values()):>18,}" for k in keys))


if __name__ == "__main__":
    main()
