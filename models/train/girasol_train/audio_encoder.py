"""Audio encoder: YAMNet's MobileNetV1 trunk without its last block, and a projection to six tokens.

YAMNet (Apache-2.0) reaches us as an int8 tflite file with batch norms folded in; its weights are dequantised into plain
convolutions with bias and ReLU6. The whole network is the teacher (521 scores, 1024-d embedding); its first 13 layers
initialise the student. Left out: layer 14 (depthwise + 1024 x 1024), a quarter of the parameters.

The log-mel patch [96, 64] shrinks by 32 to a 3 x 2 map: three steps in time by two bands, which become the six tokens
in time-major order (docs/decisions/0004).
"""
from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tflite
import torch
import torch.nn.functional as F
from torch import nn

TOKENS, TOKEN_WIDTH = 6, 128
YAMNET_FILE = pathlib.Path("teachers") / "yamnet" / "yamnet_spectra_in.tflite"
YAMNET_CLASSES, EMBEDDING = 521, 1024

# (output channels, stride of the depthwise convolution) of the 13 separable blocks after the first convolution.
STEM = 32
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1), (512, 1), (512, 1), (512, 1), (512, 1),
          (1024, 2), (1024, 1))  # fmt: skip
STUDENT_BLOCKS = 12


class EndPaddedConv(torch.autograd.Function):
    """Stride-2 convolution with one row and one column of zeros at the end, exported as a single ONNX `Conv`.

    Used in export only: torch's own convolution has no uneven padding, and its exporter writes `Pad` as eight nodes.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, groups: int) -> torch.Tensor:
        return F.conv2d(F.pad(x, (0, 1, 0, 1)), weight, bias, stride=2, groups=groups)

    @staticmethod
    def symbolic(g, x, weight, bias, groups: int):
        return g.op("Conv", x, weight, bias, kernel_shape_i=[3, 3], strides_i=[2, 2], pads_i=[0, 0, 1, 1],
                    dilations_i=[1, 1], group_i=groups)  # fmt: skip


class SameConv(nn.Module):
    """3x3 or 1x1 convolution with bias and ReLU6, padded as TensorFlow's SAME.

    At stride 2 on even sizes SAME adds one row and one column at the end only.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, depthwise: bool = False):
        super().__init__()
        self.uneven = stride == 2
        padding = kernel // 2 if stride == 1 else 0
        groups = inputs if depthwise else 1
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.uneven:
            return F.relu6(self.conv(x))
        if torch.onnx.is_in_onnx_export():
            return F.relu6(EndPaddedConv.apply(x, self.conv.weight, self.conv.bias, self.conv.groups))
        return F.relu6(self.conv(F.pad(x, (0, 1, 0, 1))))


class Trunk(nn.Module):
    """Stem and the first `blocks` separable blocks of YAMNet; [B, 1, 96, 64] -> [B, C, 3, 2]."""

    def __init__(self, blocks: int):
        super().__init__()
        layers, width = [SameConv(1, STEM, 3, 2)], STEM
        for outputs, stride in BLOCKS[:blocks]:
            layers += [SameConv(width, width, 3, stride, depthwise=True), SameConv(width, outputs, 1)]
            width = outputs
        self.layers = nn.ModuleList(layers)
        self.width = width

    def forward(self, x: torch.Tensor, first: int = 0, last: int | None = None) -> torch.Tensor:
        for layer in self.layers[first:last]:
            x = layer(x)
        return x


class YamNet(nn.Module):
    """The teacher; mel [B, 96, 64] -> (logits [B, 521], embedding [B, 1024])."""

    def __init__(self):
        super().__init__()
        self.trunk = Trunk(len(BLOCKS))
        self.classifier = nn.Linear(EMBEDDING, YAMNET_CLASSES)

    def forward(self, mel: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.head(self.trunk(mel[:, None]))

    def head(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = features.mean((2, 3))
        return self.classifier(embedding), embedding


class AudioEncoder(nn.Module):
    """mel [B, 96, 64] -> tokens [B, 6, 128], each normalised over its width (mean 0, RMS 1)."""

    def __init__(self, blocks: int = STUDENT_BLOCKS):
        super().__init__()
        self.blocks = blocks
        self.trunk = Trunk(blocks)
        self.project = nn.Conv2d(self.trunk.width, TOKEN_WIDTH, 1)

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        return self.tokens(self.trunk(mel[:, None]))

    def tokens(self, features: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(self.project(features).reshape(-1, TOKEN_WIDTH, TOKENS).transpose(1, 2), (TOKEN_WIDTH,))


# ---------------------------------------------------------------- YAMNet's weights


def load_yamnet(data: str | os.PathLike) -> YamNet:
    """The teacher with the dequantised weights of the kit's tflite file."""
    model = YamNet().eval().requires_grad_(False)
    convolutions, classifier = _read_tflite(pathlib.Path(data) / YAMNET_FILE)
    for layer, (weight, bias) in zip(model.trunk.layers, convolutions, strict=True):
        layer.conv.weight.copy_(torch.from_numpy(weight))
        layer.conv.bias.copy_(torch.from_numpy(bias))
    model.classifier.weight.copy_(torch.from_numpy(classifier[0]))
    model.classifier.bias.copy_(torch.from_numpy(classifier[1]))
    return model


def _read_tflite(path: pathlib.Path) -> tuple[list[tuple[np.ndarray, np.ndarray]], tuple[np.ndarray, np.ndarray]]:
    """Weights and biases in graph order, laid out as torch wants them: convolutions, then the classifier."""
    model = tflite.Model.GetRootAsModel(path.read_bytes(), 0)
    graph = model.Subgraphs(0)
    convolutions, classifier = [], None
    layouts = {tflite.BuiltinOperator.CONV_2D: (0, 3, 1, 2), tflite.BuiltinOperator.DEPTHWISE_CONV_2D: (3, 0, 1, 2)}

    def constants(operator: tflite.Operator) -> tuple[np.ndarray, np.ndarray]:
        weight, bias = (_dequantise(model, graph.Tensors(i)) for i in operator.InputsAsNumpy()[1:3])
        return weight, bias

    for k in range(graph.OperatorsLength()):
        operator = graph.Operators(k)
        code = model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()
        if code == tflite.BuiltinOperator.FULLY_CONNECTED:
            classifier = constants(operator)
        elif code in layouts:
            weight, bias = constants(operator)
            convolutions.append((weight.transpose(layouts[code]).copy(), bias))
    if classifier is None:
        raise ValueError(f"{path}: no classifier layer")
    return convolutions, classifier


def _dequantise(model: tflite.Model, tensor: tflite.Tensor) -> np.ndarray:
    """int8 or int32 constant -> f32, per tensor or per channel."""
    kind = {tflite.TensorType.INT8: np.int8, tflite.TensorType.INT32: np.int32}[tensor.Type()]
    raw = model.Buffers(tensor.Buffer()).DataAsNumpy().view(kind).reshape(tensor.ShapeAsNumpy())
    quantisation = tensor.Quantization()
    shape = [1] * raw.ndim
    shape[quantisation.QuantizedDimension()] = -1
    scale = quantisation.ScaleAsNumpy().astype(np.float64).reshape(shape)
    zero = quantisation.ZeroPointAsNumpy().reshape(shape)
    return ((raw.astype(np.float64) - zero) * scale).astype(np.float32)


def from_yamnet(teacher: YamNet, blocks: int = STUDENT_BLOCKS) -> AudioEncoder:
    """A student whose trunk is the teacher's; the projection is left as torch initialises it."""
    model = AudioEncoder(blocks)
    model.trunk.load_state_dict({k: v for k, v in teacher.trunk.state_dict().items() if k in model.trunk.state_dict()})
    return model


# ---------------------------------------------------------------- checkpoints


def save_audio_encoder(model: AudioEncoder, path: str | os.PathLike, metrics: dict) -> None:
    """Weights and configuration into `path`, metrics into a JSON file beside it; each replaced at once."""
    path = pathlib.Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    torch.save({"format": 1, "config": {"blocks": model.blocks}, "state": model.state_dict()}, temporary)
    os.replace(temporary, path)
    beside = path.with_suffix(".json")
    temporary.write_text(json.dumps(metrics, indent=1))
    os.replace(temporary, beside)


def load_audio_encoder(path: str | os.PathLike) -> AudioEncoder:
    """The saved encoder in eval mode."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model = AudioEncoder(**saved["config"])
    model.load_state_dict(saved["state"])
    return model.eval().requires_grad_(False)


def count_parameters(modules: Sequence[nn.Module]) -> int:
    return sum(p.numel() for m in modules for p in m.parameters())
