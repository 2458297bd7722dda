"""Makes one small ONNX graph for each kind of operator and writes down what ONNX Runtime computes for it in f32. Run from
the repository's root, with `onnx` and `onnxruntime` installed:

    ORT_DISABLE_TELEMETRY=1 python runtime/tests/goldens/operators.py

Inputs and weights are values that int8 holds exactly, so that an operator in int8 may differ by the rounding of its
result alone. `operators.json` says what a manifest would: the scales. `operators.f32` holds inputs and outputs, graph by
graph, in little-endian f32.
"""
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

HERE = Path(__file__).parent
RNG = np.random.default_rng(5)
X, SUM = {"scale": 0.05, "zero_point": -7}, {"scale": 0.08, "zero_point": 11}


def real(affine: dict, shape: list[int]) -> np.ndarray:
    """Values that int8 holds exactly."""
    q = RNG.integers(-128, 128, shape)
    return ((q - affine["zero_point"]) * np.float32(affine["scale"])).astype(np.float32)


def constant(name: str, value: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(value, name)


def numbers(name: str, *value: int) -> onnx.TensorProto:
    return constant(name, np.array(value, np.int64))


def scalar(name: str, value: float) -> onnx.TensorProto:
    return constant(name, np.array(value, np.float32))


def convolution(shape, outputs, size, stride, pads, activation, depthwise=False):
    """A convolution with what follows it; the output's scale fits what comes out."""
    channels = shape[1]
    q = RNG.integers(-127, 128, [outputs, 1 if depthwise else channels, size, size])
    q.reshape(outputs, -1)[:, 0] = 127
    scales = RNG.uniform(0.5, 1.5, [outputs, 1, 1, 1]) / (60 * np.sqrt(q[0].size))
    weights = (q * scales).astype(np.float32)
    constants = [constant("w", weights), constant("b", RNG.normal(0, 1, outputs).astype(np.float32))]
    group = channels if depthwise else 1
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], "op", kernel_shape=[size, size], group=group,
                              strides=[stride, stride], pads=pads)]  # fmt: skip
    match activation:
        case "relu6":
            constants += [scalar("low", 0), scalar("high", 6)]
            nodes.append(helper.make_node("Clip", ["c", "low", "high"], ["y"], "after"))
        case "relu":
            nodes.append(helper.make_node("Relu", ["c"], ["y"], "after"))
        case "none":
            nodes[0].output[0] = "y"
    fused = [] if activation == "none" else ["after"]
    quantised = {"op": {"inputs": [X], "output": SUM, "activation": activation, "fused": fused}}
    return nodes, constants, {"x": real(X, shape)}, quantised


def add():
    left, right = X, {"scale": 0.07, "zero_point": 90}
    quantised = {"op": {"inputs": [left, right], "output": SUM, "activation": "none"}}
    shape = [1, 19, 5, 3]
    return [helper.make_node("Add", ["x", "z"], ["y"], "op")], [], {"x": real(left, shape), "z": real(right, shape)}, quantised


def layer_norm():
    weight, bias = (constant(n, RNG.normal(0, 1, 40).astype(np.float32)) for n in "wb")
    node = helper.make_node("LayerNormalization", ["x", "w", "b"], ["y"], "op", axis=-1, epsilon=1e-5)
    return [node], [weight, bias], {"x": RNG.normal(1, 2, [1, 5, 40]).astype(np.float32)}, {}


def softmax():
    x = RNG.normal(0, 3, [1, 5, 21]).astype(np.float32)
    x[0, :, 3::5] = -1e9
    return [helper.make_node("Softmax", ["x"], ["y"], "op", axis=-1)], [], {"x": x}, {}


def gelu():
    """As the exporter writes it."""
    constants = [scalar("half", 0.5), scalar("cubic", 0.044714998453855515), scalar("slope", 0.7978845834732056),
                 scalar("one", 1)]  # fmt: skip
    steps = [("Mul", ["x", "half"]), ("Mul", ["x", "cubic"]), ("Mul", ["1", "x"]), ("Mul", ["2", "x"]), ("Add", ["x", "3"]),
             ("Mul", ["4", "slope"]), ("Tanh", ["5"]), ("Add", ["6", "one"]), ("Mul", ["0", "7"])]  # fmt: skip
    nodes = [helper.make_node(kind, inputs, [str(i)], f"op{i}") for i, (kind, inputs) in enumerate(steps)]
    nodes[-1].output[0] = "y"
    return nodes, constants, {"x": RNG.normal(0, 3, [1, 7, 11]).astype(np.float32)}, {}


def attention(queries: int):
    """Over a layer of a window and rows of now, as the latent model's."""
    window, rows, width, heads = 6, 3, 128, 4
    keys = window * 2 + rows
    constants = [
        constant("layer", np.array(1, np.int64)), numbers("line", 1, -1, width), numbers("join", 1, queries, -1),
        numbers("split_q", 1, queries, heads, -1), numbers("split_k", 1, keys, heads, -1), scalar("scale", 0.17677669),
    ]  # fmt: skip

    def node(kind, inputs, output, **attributes):
        return helper.make_node(kind, inputs, [output], f"op_{output}", **attributes)

    nodes = []
    for side, order in (("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [
            node("Gather", [f"{side}_window", "layer"], f"{side}_layer", axis=1),
            node("Reshape", [f"{side}_layer", "line"], f"{side}_line"),
            node("Concat", [f"{side}_new", f"{side}_line"], f"{side}_all", axis=1),
            node("Reshape", [f"{side}_all", "split_k"], f"{side}_heads"),
            node("Transpose", [f"{side}_heads"], f"{side}_turned", perm=order),
        ]
    nodes += [
        node("Reshape", ["q", "split_q"], "q_heads"),
        node("Transpose", ["q_heads"], "q_turned", perm=[0, 2, 1, 3]),
        node("MatMul", ["q_turned", "k_turned"], "products"),
        node("Mul", ["products", "scale"], "scaled"),
        node("Add", ["scaled", "bias"], "scores"),
        node("Softmax", ["scores"], "weights", axis=-1),
        node("MatMul", ["weights", "v_turned"], "weighted"),
        node("Transpose", ["weighted"], "rows", perm=[0, 2, 1, 3]),
        node("Reshape", ["rows", "join"], "y"),
    ]
    bias = RNG.normal(0, 1, [1, heads, 1, keys])
    bias[0, :, 0, 4::3] = -1e9
    inputs = {"q": [1, queries, width], "k_window": [1, 2, window, 2, width], "v_window": [1, 2, window, 2, width],
              "k_new": [1, rows, width], "v_new": [1, rows, width]}  # fmt: skip
    feed = {name: RNG.normal(0, 1, shape).astype(np.float32) for name, shape in inputs.items()}
    return nodes, constants, feed | {"bias": bias.astype(np.float32)}, {}


def attention_in_groups(queries: int):
    """Over a layer of a window, with values of its snippets beside those of their tokens, as the decoder's."""
    slots, rows, width, heads = 5, 3, 128, 4
    keys = slots * rows
    constants = [
        constant("layer", np.array(1, np.int64)), numbers("line", 1, -1, width), numbers("join", 1, queries, -1),
        numbers("split_q", 1, queries, heads, -1), numbers("split_k", 1, keys, heads, -1),
        numbers("split_ages", 1, slots, heads, -1), numbers("slots", 1, heads, -1, slots, rows),
        scalar("rows", rows), scalar("scale", 0.17677669),
    ]  # fmt: skip

    def node(kind, inputs, output, **attributes):
        return helper.make_node(kind, inputs, [output], f"op_{output}", **attributes)

    nodes = []
    for side, order in (("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [
            node("Gather", [f"{side}_window", "layer"], f"{side}_layer", axis=1),
            node("Reshape", [f"{side}_layer", "line"], f"{side}_line"),
            node("Reshape", [f"{side}_line", "split_k"], f"{side}_heads"),
            node("Transpose", [f"{side}_heads"], f"{side}_turned", perm=order),
        ]
    nodes += [
        node("Reshape", ["q", "split_q"], "q_heads"),
        node("Transpose", ["q_heads"], "q_turned", perm=[0, 2, 1, 3]),
        node("MatMul", ["q_turned", "k_turned"], "products"),
        node("Mul", ["products", "scale"], "scaled"),
        node("Add", ["scaled", "bias"], "scores"),
        node("Softmax", ["scores"], "weights", axis=-1),
        node("MatMul", ["weights", "v_turned"], "weighted"),
        node("Reshape", ["weights", "slots"], "by_slot"),
        node("ReduceMean", ["by_slot"], "mean", axes=[-1], keepdims=0),
        node("Mul", ["mean", "rows"], "of_slot"),
        node("Reshape", ["ages", "split_ages"], "ages_heads"),
        node("Transpose", ["ages_heads"], "ages_turned", perm=[0, 2, 1, 3]),
        node("MatMul", ["of_slot", "ages_turned"], "weighted_ages"),
        node("Add", ["weighted", "weighted_ages"], "read"),
        node("Transpose", ["read"], "together", perm=[0, 2, 1, 3]),
        node("Reshape", ["together", "join"], "y"),
    ]
    bias = RNG.normal(0, 1, [1, heads, 1, keys])
    bias[0, :, 0, 4::3] = -1e9
    inputs = {"q": [1, queries, width], "k_window": [1, 2, slots, rows, width], "v_window": [1, 2, slots, rows, width],
              "ages": [1, slots, width]}  # fmt: skip
    feed = {name: RNG.normal(0, 1, shape).astype(np.float32) for name, shape in inputs.items()}
    return nodes, constants, feed | {"bias": bias.astype(np.float32)}, {}


CASES = {
    "pointwise": lambda: convolution([1, 40, 3, 5], 24, 1, 1, [0] * 4, "relu6"),
    "pointwise-one-pixel": lambda: convolution([1, 112, 1, 1], 21, 1, 1, [0] * 4, "none"),
    "first-layer": lambda: convolution([1, 4, 9, 8], 24, 3, 2, [0, 0, 1, 1], "relu6"),
    "patches": lambda: convolution([1, 3, 8, 8], 17, 4, 4, [0] * 4, "relu"),
    "depthwise-3x3": lambda: convolution([1, 40, 6, 5], 40, 3, 1, [1] * 4, "relu6", True),
    "depthwise-3x3-2": lambda: convolution([1, 24, 8, 6], 24, 3, 2, [0, 0, 1, 1], "none", True),
    "depthwise-5x5": lambda: convolution([1, 24, 7, 6], 24, 5, 1, [2] * 4, "relu6", True),
    "depthwise-5x5-2": lambda: convolution([1, 40, 8, 8], 40, 5, 2, [1, 1, 2, 2], "relu", True),
    "add": add,
    "layer-norm": layer_norm,
    "softmax": softmax,
    "gelu": gelu,
    "attention": lambda: attention(10),
    "attention-one-query": lambda: attention(1),
    "attention-in-groups": lambda: attention_in_groups(6),
    "attention-in-groups-one-query": lambda: attention_in_groups(1),
}


def port(name: str, shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def main() -> None:
    index, values = [], []
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    for name, build in CASES.items():
        nodes, constants, feed, quantised = build()
        graph = helper.make_graph(nodes, name, [port(n, v.shape) for n, v in feed.items()], [port("y", [])], constants)
        del graph.output[0].type.tensor_type.shape.dim[:]
        graph.output[0].type.tensor_type.ClearField("shape")
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        y = session.run(None, feed)[0]
        graph.output[0].CopyFrom(port("y", y.shape))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, HERE / "operators" / f"{name}.onnx")
        for node in quantised.values():
            # What int8 cannot hold is clipped there and not in f32: the scale must be wide enough.
            node["output"] = {"scale": float(np.float32(max(abs(y.max()), abs(y.min())) / 110)), "zero_point": -3}
            if y.min() >= 0:
                node["output"] = {"scale": float(np.float32(y.max() / 250)), "zero_point": -128}
        inputs = [[n, list(v.shape)] for n, v in feed.items()]
        index.append({"name": name, "inputs": inputs, "output": list(y.shape), "quantised": quantised})
        values += [*feed.values(), y]
    (HERE / "operators.json").write_text(json.dumps(index, indent=1) + "\n")
    (HERE / "operators.f32").write_bytes(b"".join(v.astype("<f4").tobytes() for v in values))


if __name__ == "__main__":
    main()
