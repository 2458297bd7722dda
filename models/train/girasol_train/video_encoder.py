"""Video encoder: one 128 x 96 frame with a luma-difference channel -> 12 tokens of width 128.

The body is EfficientNet-lite0 (ReLU6, no squeeze-and-excitation: made for int8), initialised from the weights of the
data kit's ONNX file, whose batch norms are already folded. Of its 16 blocks nine are kept: the one step to stride 32
makes the 4 x 3 token grid of a 128 x 96 frame, and as that block ends in a linear 1 x 1 convolution, the projection to
token width is merged into it. Which blocks: probed on lite0's weights as they are (ridge regression on whole pictures,
validation part, mean AP over the visible labels), this body scored 0.79 at 50 M MAC; with both residual 80-channel
blocks in place of the residual 112-channel one 0.75; with a 2 x 2 patchify convolution in place of the step to
stride 32 0.70 at 53 M MAC.

lite0 pads like TensorFlow ("SAME"), which is asymmetric at stride 2. `Lite0` keeps that, for parity; the student
pads symmetrically: that only moves what it sees by a pixel per stride and leaves no Pad node in the graph.
"""
from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

D = 128
TOKENS = 12
FORMAT = 1


@dataclass(frozen=True)
class BlockSpec:
    """An inverted residual block: expand (unless 1), depthwise, project; residual when the shape is kept."""

    inputs: int
    expand: int
    outputs: int
    kernel: int
    stride: int


def _stage(inputs: int, outputs: int, expand: int, kernel: int, stride: int, repeats: int) -> list[BlockSpec]:
    first = BlockSpec(inputs, expand, outputs, kernel, stride)
    return [first] + [BlockSpec(outputs, expand, outputs, kernel, 1)] * (repeats - 1)


STEM_CHANNELS = 32
LITE0_BLOCKS = (
    _stage(32, 16, 1, 3, 1, 1) + _stage(16, 24, 6, 3, 2, 2) + _stage(24, 40, 6, 5, 2, 2) + _stage(40, 80, 6, 3, 2, 3)
    + _stage(80, 112, 6, 5, 1, 3) + _stage(112, 192, 6, 5, 2, 4) + _stage(192, 320, 6, 3, 1, 1)
)
STUDENT_BLOCKS = (0, 1, 2, 3, 4, 5, 8, 9, 11)  # positions in LITE0_BLOCKS; the last one makes the tokens


class SameConv(nn.Conv2d):
    """Convolution padded so that size divides by the stride: TensorFlow's way (more at the end) or symmetrically."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, tf_same: bool = False):
        asymmetric = tf_same and stride == 2
        super().__init__(inputs, outputs, kernel, stride, 0 if asymmetric else kernel // 2, groups=groups)
        before = (kernel - 2) // 2
        self.tf_pad = (before, kernel - 2 - before) * 2 if asymmetric else None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.tf_pad is None else functional.pad(x, self.tf_pad))


class Block(nn.Module):
    """Inverted residual block of EfficientNet-lite."""

    def __init__(self, spec: BlockSpec, tf_same: bool):
        super().__init__()
        hidden = spec.inputs * spec.expand
        layers: list[nn.Module] = []
        if spec.expand != 1:
            layers += [nn.Conv2d(spec.inputs, hidden, 1), nn.ReLU6()]
        layers += [SameConv(hidden, hidden, spec.kernel, spec.stride, hidden, tf_same), nn.ReLU6(),
                   nn.Conv2d(hidden, spec.outputs, 1)]
        self.layers = nn.Sequential(*layers)
        self.residual = spec.stride == 1 and spec.inputs == spec.outputs

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        return x + y if self.residual else y


class Lite0(nn.Module):
    """The whole EfficientNet-lite0: [B, 3, 224, 224] -> 1000 logits. Teacher and proof that the import is right."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(SameConv(3, STEM_CHANNELS, 3, 2, tf_same=True), nn.ReLU6())
        self.blocks = nn.ModuleList(Block(s, True) for s in LITE0_BLOCKS)
        self.head = nn.Sequential(nn.Conv2d(320, 1280, 1), nn.ReLU6())
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.head(x).mean((2, 3)))


class VideoEncoder(nn.Module):
    """The student: [B, 4, 96, 128] -> [B, 12, 128], tokens row by row, each normalised."""

    def __init__(self, positions: tuple[int, ...] = STUDENT_BLOCKS):
        super().__init__()
        specs = [LITE0_BLOCKS[i] for i in positions]
        specs[-1] = replace(specs[-1], outputs=D)
        self.positions = positions
        self.stem = nn.Sequential(SameConv(4, STEM_CHANNELS, 3, 2), nn.ReLU6())
        self.blocks = nn.ModuleList(Block(s, False) for s in specs)
        self.norm = nn.LayerNorm(D)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x.reshape(-1, D, TOKENS).transpose(1, 2))


def _onnx_layers(path: Path) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, Tensor]]:
    """(weight, bias) of every convolution in order of use, and of the classifier."""
    graph = onnx.load(str(path)).graph
    constants = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in graph.initializer}
    convs = [(constants[n.input[1]], constants[n.input[2]]) for n in graph.node if n.op_type == "Conv"]
    gemm = next(n for n in graph.node if n.op_type == "Gemm")
    return convs, (constants[gemm.input[1]], constants[gemm.input[2]])


def _fill(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)


def load_lite0(path: Path) -> Lite0:
    """Rebuilds EfficientNet-lite0 from the ONNX file; agrees with ONNX Runtime to 1e-4 (see the tests)."""
    model = Lite0()
    convs, classifier = _onnx_layers(path)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    for layer, (weight, bias) in zip(layers, convs, strict=True):
        _fill(layer, weight, bias)
    _fill(model.classifier, *classifier)
    return model.eval()


@torch.no_grad()
def encoder_from_lite0(lite0: Lite0, frames: Tensor, positions: tuple[int, ...] = STUDENT_BLOCKS) -> VideoEncoder:
    """A student with lite0's weights; the luma-difference channel starts without influence.

    The last projection keeps the leading principal components (whitened) of lite0's own one over `frames`, so that an
    untrained encoder's tokens already hold as much of its map as 128 numbers can.
    """
    model = VideoEncoder(positions)
    stem = lite0.stem[0]
    _fill(model.stem[0], torch.cat([stem.weight, torch.zeros_like(stem.weight[:, :1])], 1), stem.bias)
    for target, position in zip(model.blocks[:-1], positions[:-1], strict=True):
        target.load_state_dict(lite0.blocks[position].state_dict())
    last, source = model.blocks[-1].layers, lite0.blocks[positions[-1]].layers
    for target, layer in zip(last[:-1], source[:-1], strict=True):
        target.load_state_dict(layer.state_dict())
    trunk = nn.Sequential(model.stem, *model.blocks[:-1], *last[:-1])
    wide = torch.cat([source[-1](trunk(part)).flatten(2).transpose(1, 2).flatten(0, 1) for part in frames.split(64)])
    mean = wide.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov((wide - mean).T))
    basis = (vectors[:, -D:] / values[-D:].clamp_min(1e-6).sqrt()).T
    _fill(last[-1], (basis @ source[-1].weight.flatten(1))[..., None, None], basis @ (source[-1].bias - mean))
    return model


def macs_per_frame(model: VideoEncoder) -> int:
    """Multiply-accumulates of the convolutions for one frame."""
    total = 0

    def count(layer: nn.Conv2d, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += output.shape[2] * output.shape[3] * layer.weight.numel()

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        model(torch.zeros(1, 4, 96, 128))
    for hook in hooks:
        hook.remove()
    return total


def save_atomically(content: object, path: Path) -> None:
    """torch.save that never leaves a half-written file under the final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    torch.save(content, part)
    part.replace(path)


def save_video_encoder(model: VideoEncoder, path: Path, **extra: object) -> None:
    """Writes the checkpoint that `load_video_encoder` reads; `extra` travels along (heads, step, scores)."""
    content = {"format": FORMAT, "positions": list(model.positions), "encoder": model.state_dict()}
    save_atomically({**content, **extra}, path)


def load_video_encoder(path: Path | str) -> VideoEncoder:
    """The encoder in eval mode: [B, 4, 96, 128] -> [B, 12, 128]."""
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content["format"] != FORMAT:
        raise ValueError(f"{path}: checkpoint format {content['format']}, expected {FORMAT}")
    model = VideoEncoder(tuple(content["positions"]))
    model.load_state_dict(content["encoder"])
    return model.eval()
