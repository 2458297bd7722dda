"""An encoder of the bundle as an int8 LiteRT model: the same layers, weights and scales, for comparing costs.

    python convert.py BUNDLE GRAPH OUT.tflite

needs onnx and ai-edge-litert. Kept as LiteRT likes it: input and output channels-last. What follows the last
convolution (a transposition and a layer norm over the tokens, in f32) is left out. Padding is SAME, which at even sizes
and stride 2 puts the padding at the other end than the video encoder does; that changes values, not costs.
"""

import json
import pathlib
import sys

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import numpy_helper

ACTIVATIONS = {
    "none": schema.ActivationFunctionType.NONE,
    "relu": schema.ActivationFunctionType.RELU,
    "relu6": schema.ActivationFunctionType.RELU6,
}


class Builder:
    """Collects tensors and operators of one subgraph."""

    def __init__(self):
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.buffers = [schema.BufferT()]
        self.model.operatorCodes = []
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.codes = {}

    def tensor(self, name, shape, kind, scales=None, zero_point=0, axis=0, data=None):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, list(shape), kind
        if scales is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = [float(s) for s in np.atleast_1d(scales)]
            tensor.quantization.zeroPoint = [int(zero_point)] * len(tensor.quantization.scale)
            tensor.quantization.quantizedDimension = axis
        tensor.buffer = 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def operator(self, name, version, inputs, output, kind=None, options=None):
        code = getattr(schema.BuiltinOperator, name)
        if code not in self.codes:
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), version
            self.codes[code] = len(self.model.operatorCodes)
            self.model.operatorCodes.append(entry)
        operator = schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = self.codes[code], inputs, [output]
        if options is not None:
            operator.builtinOptionsType, operator.builtinOptions = getattr(schema.BuiltinOptions, kind), options
        self.graph.operators.append(operator)

    def finish(self, inputs, outputs):
        self.graph.inputs, self.graph.outputs = inputs, outputs
        self.model.subgraphs = [self.graph]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


class Converter:
    """Follows the ONNX graph's quantised nodes in order."""

    def __init__(self, bundle, name):
        graph = onnx.load(bundle / f"{name}.onnx").graph
        self.nodes = graph.node
        self.quantised = json.loads((bundle / "manifest.json").read_text())["quantisation"]["nodes"][name]
        self.constants = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
        self.dequantised = {n.output[0]: n for n in graph.node if n.op_type == "DequantizeLinear"}
        self.by_name = {n.name: n for n in graph.node}
        self.builder = Builder()
        self.shapes, self.tensors = {}, {}
        source = graph.input[0]
        dims = [d.dim_value for d in source.type.tensor_type.shape.dim]
        channels, height, width = ([1] * (4 - len(dims)) + dims)[-3:] if len(dims) == 4 else [1, *dims[1:]]
        self.source = (height, width, channels)

    def weights(self, name):
        """int8 values and one scale for each output channel."""
        if name in self.dequantised:
            values, scales = (self.constants[n] for n in self.dequantised[name].input[:2])
            return values, scales.reshape(-1)
        values = self.constants[name]
        scales = np.abs(values).reshape(len(values), -1).max(1) / 127
        scales = np.where(scales == 0, 1, scales)
        return np.rint(values / scales.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8), scales

    def run(self):
        builder = self.builder
        first = next(n for n in self.nodes if n.name in self.quantised)
        affine = self.quantised[first.name]["inputs"][0]
        real = builder.tensor("input", (1, *self.source), schema.TensorType.FLOAT32)
        self.shapes[first.input[0]] = self.source
        self.tensors[first.input[0]] = builder.tensor(
            "quantised", (1, *self.source), schema.TensorType.INT8, affine["scale"], affine["zero_point"]
        )
        builder.operator(
            "QUANTIZE", 1, [real], self.tensors[first.input[0]], "QuantizeOptions", schema.QuantizeOptionsT()
        )
        for node in self.nodes:
            if node.name in self.quantised:
                last = getattr(self, node.op_type.lower())(node, self.quantised[node.name])
        out = builder.tensor("output", (1, *self.shapes[last]), schema.TensorType.FLOAT32)
        builder.operator("DEQUANTIZE", 2, [self.tensors[last]], out, "DequantizeOptions", schema.DequantizeOptionsT())
        return builder.finish([real], [out])

    def result(self, node, quantised, shape):
        """The tensor that the node and those fused into it make."""
        name = self.by_name[quantised["fused"][-1]].output[0] if quantised.get("fused") else node.output[0]
        affine = quantised["output"]
        self.shapes[name] = shape
        self.tensors[name] = self.builder.tensor(
            name, (1, *shape), schema.TensorType.INT8, affine["scale"], affine["zero_point"]
        )
        return name

    def conv(self, node, quantised):
        attributes = {a.name: list(a.ints) or a.i for a in node.attribute}
        values, scales = self.weights(node.input[1])
        height, width, _ = self.shapes[node.input[0]]
        stride, depthwise = attributes["strides"][0], attributes["group"] > 1
        outputs = len(values)
        # Depthwise: [channels, 1, h, w] to [1, h, w, channels]; else [outputs, inputs, h, w] to [outputs, h, w, inputs].
        values = np.ascontiguousarray(values.transpose(1, 2, 3, 0) if depthwise else values.transpose(0, 2, 3, 1))
        bias = self.constants[node.input[2]].astype(np.float64)
        bias_scales = quantised["inputs"][0]["scale"] * scales.astype(np.float64)
        builder = self.builder
        inputs = [
            self.tensors[node.input[0]],
            builder.tensor(f"{node.name}.w", values.shape, schema.TensorType.INT8, scales, 0, 3 if depthwise else 0, values),
            builder.tensor(f"{node.name}.b", (outputs,), schema.TensorType.INT32, bias_scales, 0, 0,
                           np.rint(bias / bias_scales).clip(-(2**30), 2**30).astype(np.int32)),
        ]  # fmt: skip
        name = self.result(node, quantised, (-(-height // stride), -(-width // stride), outputs))
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.padding = schema.Padding.SAME
        options.strideH = options.strideW = stride
        options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = ACTIVATIONS[quantised.get("activation", "none")]
        if depthwise:
            options.depthMultiplier = 1
            builder.operator("DEPTHWISE_CONV_2D", 3, inputs, self.tensors[name], "DepthwiseConv2DOptions", options)
        else:
            builder.operator("CONV_2D", 3, inputs, self.tensors[name], "Conv2DOptions", options)
        return name

    def add(self, node, quantised):
        name = self.result(node, quantised, self.shapes[node.input[0]])
        inputs = [self.tensors[n] for n in node.input]
        self.builder.operator("ADD", 2, inputs, self.tensors[name], "AddOptions", schema.AddOptionsT())
        return name


if __name__ == "__main__":
    bundle, graph, out = sys.argv[1:]
    pathlib.Path(out).write_bytes(Converter(pathlib.Path(bundle), graph).run())
