"""Checkpoints out of a finished bundle, for whoever has the bundle but not the work directory it was made in.

The files hold every weight: int8 ones behind their scales, everything else in f32. What comes out is the rounded
network that the files are, ready to be trained on; calibration is already in its heads. What only training needs (heads
of the encoders, states of optimisers, the teacher) is not in a bundle and starts anew.
"""

from __future__ import annotations

import json
import pathlib

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from .audio_encoder import AudioEncoder, save_audio_encoder
from .export import Graph, Parts, as_tuple, graphs, random_feed
from .fusion import Fusion, FusionConfig
from .quant import onnx_session
from .video_encoder import VideoEncoder, save_atomically, save_video_encoder

TOLERANCE = 1e-4


def weights(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Parameters by the names that torch has for them, as far as the file tells; linear layers as [out, in]."""
    graph = onnx.load(path).graph
    values = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:
        if node.op_type == "DequantizeLinear":
            q, scale = (values[name] for name in node.input[:2])
            axis = next(a.i for a in node.attribute if a.name == "axis")
            shape = [-1 if a == axis else 1 for a in range(q.ndim)]
            values[node.output[0]] = q.astype(np.float32) * scale.reshape(shape)
    # A product's weight has lost its name; the bias that is added to it has not.
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for bias, product in (node.input, reversed(node.input)):
            weight = values.get(products.get(product, ""))
            if bias.endswith(".bias") and weight is not None:
                values[bias.removesuffix("bias") + "weight"] = np.ascontiguousarray(weight.T)
    return values


def fill(module: nn.Module, path: pathlib.Path, prefix: str = "") -> None:
    """Load every parameter of `module` from the file, where its name has `prefix`.

    KeyError names one that is missing: the exporter keeps equal tensors once, so a network whose norms are untrained
    cannot be restored.
    """
    found = weights(path)
    with torch.no_grad():
        # What two layers share is met once, under its first name: the decoder's embedding, exact in the file.
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(found[prefix + name].copy()).reshape(parameter.shape))


def check(graph: Graph, config: FusionConfig, path: pathlib.Path) -> float:
    """Largest error of the restored module against the file, relative to max(1, peak) of each output."""
    feed, worst = random_feed(graph, config, 1), 0.0
    with torch.no_grad():
        ours = as_tuple(graph.module(*(torch.from_numpy(v) for v in feed.values())))
    for got, want in zip(ours, onnx_session(path).run(None, feed), strict=True):
        worst = max(worst, float(np.abs(got.numpy() - want).max()) / max(1.0, float(np.abs(want).max())))
    if not worst <= TOLERANCE:
        raise SystemExit(f"{path}: its output and that of the weights at hand differ by {worst:.1e}")
    return worst


def restore(
    bundle: pathlib.Path, audio_to: pathlib.Path, video_to: pathlib.Path, fusion_to: pathlib.Path, config: FusionConfig,
) -> None:  # fmt: skip
    """Write the two encoders' checkpoints and that of everything after them, held against the files first."""
    audio, video, fusion = AudioEncoder().eval(), VideoEncoder().eval(), Fusion(config).eval()
    files = {path.stem: path for path in bundle.glob("*.onnx")}
    fill(audio, files["audio_encoder"])
    fill(video, files["video_encoder"])
    fill(fusion.combiner, files["combiner"])
    fill(fusion.latent, files["latent"], "latent.")
    fill(fusion.decoder, files["decoder"], "decoder.")
    for name, graph in graphs(Parts(video, audio, fusion)).items():
        error = check(graph, config, files[name])
        print(f"restore {name}: error {error:.1e}")
    audio_to.parent.mkdir(parents=True, exist_ok=True)
    save_audio_encoder(audio, audio_to, {"stage": "restored"})
    save_video_encoder(video, video_to)
    body = json.loads((bundle / "manifest.json").read_text())
    training = body.get("training", {})
    save_atomically({
        "key": "restored", "config": config.as_dict(), "average": fusion.state_dict(),
        "step": training.get("fusion_steps", 0) + training.get("warm_start_steps", 0),
        "restored": {"version": body["version"], "teacher": bool(training.get("teachers"))},
    }, fusion_to)  # fmt: skip
