"""Write a bundle: five ONNX files with int8 weights, a golden run, and the manifest.

Everything is built in a fresh folder beside the destination and moved into place at the end, so a reader never sees
half a bundle. Each file is asserted to agree with the torch module whose weights were rounded to the same int8 values.

Golden run (`golden.json`, `golden.bin`): GOLDEN_SNIPPETS snippets of generated input. The encoders' tokens come from
the files; everything after them from torch, which computes the whole sequence at once under the banded mask. So whoever
steps through the snippets and agrees with it has shown that streaming equals the batch run. The files are held against
it here, snippet by snippet, before it is written.
`golden.json` lists `tensors` {name: {dtype, shape, offset}} (little-endian, in `golden.bin`) and `decodes`
[{prompt, tokens}] run after the last snippet: `prompt` with `<bos>`, `tokens` as written greedily, `<eos>` excluded.
Inputs: `mel` f16 [S, 96, 64]; `pixels` u8 [S, 2, 12, 16, 3], each standing for 8 x 8 pixels of a frame (128 x 96);
`frame_present`, `heard`, `frame_offset`, `dt` f32. The difference channel follows decision 0003.
Outputs, f32: `tokens`, `audible`, `visible`, `source`, `next_tokens`, one row per snippet. `int8` holds `tensors` and
`decodes` once more, as they come out with the manifest's quantised nodes in integers (`integer_graph.py`).
"""

from __future__ import annotations

import copy
import datetime
import hashlib
import json
import os
import pathlib
import shutil
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from . import activations, frontend, questions, text
from .count import count
from .fold import fold_constants
from .fusion import GAPLESS, SNIPPET_SECONDS, Decoder, Fusion, FusionConfig, Latent, Ring
from .integer_graph import IntegerGraph
from .labels import AUDIBLE, SOURCES, VISIBLE
from .quant import fake_quant_weights, onnx_session, parity, quantise_weights_onnx

FORMAT = 2  # of the bundle, docs/decisions/0004-graph-abi.md
OPSET = 17
TOLERANCE = 1e-4
GOLDEN_SNIPPETS = 4
GRAPH_NAMES = ("video_encoder", "audio_encoder", "combiner", "latent", "decoder")
LATENT_OUTPUTS = ("latents", "next_tokens", "audible", "visible", "source", "k_new", "v_new", "cross_k", "cross_v")
DEFAULT_THRESHOLDS = {"low_false_alarm": {"on": 0.9, "off": 0.6}, "best_f1": {"on": 0.5, "off": 0.35}}


@dataclass
class Parts:
    """What a bundle is made of. `rules` holds what was measured per label: enabled, experimental, thresholds."""

    video_encoder: nn.Module
    audio_encoder: nn.Module
    fusion: Fusion
    rules: dict[str, dict[str, dict[str, Any]]] = field(default_factory=lambda: {"audible": {}, "visible": {}})
    training: dict[str, Any] = field(default_factory=dict)
    version: str = "0.1.0"
    in_view: str = "head"  # or "rule": one of a sound's sources is seen


class LatentStep(nn.Module):
    def __init__(self, latent: Latent) -> None:
        super().__init__()
        self.latent = latent

    def forward(
        self, tokens: Tensor, k_window: Tensor, v_window: Tensor, age: Tensor, valid: Tensor
    ) -> tuple[Tensor, ...]:
        out = self.latent.step(tokens, k_window, v_window, age, valid)
        return tuple(out[name] for name in LATENT_OUTPUTS)


class DecoderStep(nn.Module):
    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.decoder.step(*inputs)


@dataclass
class Graph:
    module: nn.Module
    inputs: dict[str, tuple[int, ...]]
    outputs: tuple[str, ...]


def graphs(parts: Parts, rounded: bool = True) -> dict[str, Graph]:
    """The five modules, with int8-rounded weights or as they were trained, under the names and shapes of the ABI."""
    c = parts.fusion.config
    fusion = copy.deepcopy(parts.fusion).eval()
    # Untied: the output layer becomes int8, the look-up table stays f32.
    fusion.decoder.out.weight = nn.Parameter(fusion.decoder.out.weight.detach().clone())
    video, audio = copy.deepcopy(parts.video_encoder).eval(), copy.deepcopy(parts.audio_encoder).eval()
    if rounded:
        for module in (fusion, video, audio):
            fake_quant_weights(module)
    ring = (c.window, c.snippet_tokens, c.dim)
    latent_ring, cross_ring, own = (
        (1, c.latent_layers, *ring),
        (1, c.decoder_layers, *ring),
        (1, c.decoder_layers, c.context, c.dim),
    )
    tokens = (1, c.snippet_tokens, c.dim)
    return {
        "video_encoder": Graph(video, {"frame": (1, 4, frontend.FRAME_HEIGHT, frontend.FRAME_WIDTH)}, ("tokens",)),
        "audio_encoder": Graph(audio, {"mel": (1, frontend.MEL_FRAMES, frontend.MEL_BINS)}, ("tokens",)),
        "combiner": Graph(fusion.combiner, {
            "video_tokens": (1, c.frames, c.video_tokens, c.dim), "audio_tokens": (1, c.patches, c.audio_tokens, c.dim),
            "frame_present": (1, c.frames), "audio_present": (1, c.patches), "frame_offset": (1, c.frames),
            "dt": (1, 1), "memory": (1, c.memory, c.dim),
        }, ("tokens", "memory_out")),
        "latent": Graph(LatentStep(fusion.latent).eval(), {
            "tokens": tokens, "k_window": latent_ring, "v_window": latent_ring,
            "age": (1, c.window), "valid": (1, c.window),
        }, LATENT_OUTPUTS),
        "decoder": Graph(DecoderStep(fusion.decoder).eval(), {
            "token": (1,), "position": (1,), "self_k": own, "self_v": own, "self_valid": (1, c.context),
            "cross_k": cross_ring, "cross_v": cross_ring, "age": (1, c.window), "valid": (1, c.window),
        }, ("logits", "self_k_new", "self_v_new")),
    }  # fmt: skip


def random_feed(graph: Graph, config: FusionConfig, seed: int) -> dict[str, np.ndarray]:
    """Inputs in the range that the runtime gives: masks 0/1, ages positive, ids within their tables."""
    rng = np.random.default_rng(seed)
    feed = {}
    for name, shape in graph.inputs.items():
        if name in ("token", "position"):
            feed[name] = rng.integers(0, config.vocabulary if name == "token" else config.context, shape).astype(
                np.int64
            )
        elif name.endswith(("present", "valid")):
            feed[name] = (rng.random(shape) < 0.6).astype(np.float32)
        elif name in ("age", "dt", "frame_offset"):
            feed[name] = rng.uniform(0.0, 60.0 if name == "age" else 1.0, shape).astype(np.float32)
        else:
            feed[name] = rng.standard_normal(shape).astype(np.float32)
    return feed


def export_graph(graph: Graph, config: FusionConfig, path: pathlib.Path, int8: bool = True) -> dict[str, Any]:
    """One ONNX file, with int8 weights if not told otherwise, checked against torch; returns its manifest entry."""
    feed = random_feed(graph, config, 0)
    inputs = tuple(torch.from_numpy(v) for v in feed.values())
    plain = path.with_suffix(".float.onnx")
    with torch.no_grad():
        torch.onnx.export(
            graph.module, inputs, str(plain), input_names=list(graph.inputs), output_names=list(graph.outputs),
            opset_version=OPSET, dynamo=False, do_constant_folding=True,
        )  # fmt: skip
    with torch.no_grad():
        shapes = [tuple(value.shape) for value in as_tuple(graph.module(*inputs))]
    fold_constants(plain, dict(zip(graph.outputs, shapes, strict=True)))
    if int8:
        quantise_weights_onnx(plain, path)
        plain.unlink()
    else:
        plain.replace(path)
    error = parity(path, graph.module, [random_feed(graph, config, seed) for seed in range(1, 4)], TOLERANCE)
    size = count(path)
    numbers = f"{size['parameters']:,} parameters, {size['macs']:,} MAC, {size['bytes']:,} bytes"
    print(f"export {path.name}: {numbers}, error {error:.1e}")
    return {"file": path.name, **fingerprint(path), "parameters": size["parameters"], "macs": size["macs"]}


def as_tuple(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else value


def fingerprint(path: pathlib.Path) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}


# ---------------------------------------------------------------- golden run


class Streamer:
    """The five files run as the runtime runs them; also used for evaluation of a finished bundle."""

    def __init__(
        self, folder: pathlib.Path, config: FusionConfig, nodes: dict[str, dict[str, Any]] | None = None
    ) -> None:
        """With `nodes`, the manifest's quantised ones, those run in int8 and the rest as the files say."""
        self.config = config
        nodes = nodes or {}
        self.sessions = {name: onnx_session(folder / f"{name}.onnx") for name in GRAPH_NAMES if name not in nodes}
        self.integers = {name: IntegerGraph(folder / f"{name}.onnx", of) for name, of in nodes.items()}
        self.reset()

    def reset(self) -> None:
        self.ring = Ring.empty(self.config)
        self.mel: np.ndarray | None = None  # of the snippet before

    def call(self, graph: str, **feed: np.ndarray) -> dict[str, np.ndarray]:
        if graph in self.integers:
            return self.integers[graph].run(feed)
        session = self.sessions[graph]
        return dict(zip((o.name for o in session.get_outputs()), session.run(None, feed), strict=True))

    def encode(
        self, frames: list[np.ndarray | None], mel: np.ndarray | None, dt: float = SNIPPET_SECONDS
    ) -> dict[str, np.ndarray]:
        """Frame tensors [4, 96, 128] and a patch [96, 64], None where missing -> the Combiner's token inputs.

        The patch that begins half a snippet early is made of this one and the one before, where nothing is between.
        """
        c = self.config
        video, audio = (
            np.zeros((1, c.frames, c.video_tokens, c.dim), np.float32),
            np.zeros((1, c.patches, c.audio_tokens, c.dim), np.float32),
        )
        whole = mel is not None and self.mel is not None and abs(dt - SNIPPET_SECONDS) < GAPLESS
        patches = [frontend.early_patches(np.stack([self.mel, mel]))[0] if whole else None, mel]
        self.mel = mel
        for k, frame in enumerate(frames):
            if frame is not None:
                video[:, k] = self.call("video_encoder", frame=frame[None])["tokens"]
        for k, patch in enumerate(patches):
            if patch is not None:
                audio[:, k] = self.call("audio_encoder", mel=patch[None])["tokens"]
        return {
            "video_tokens": video, "audio_tokens": audio,
            "frame_present": np.array([[f is not None for f in frames]], np.float32),
            "audio_present": np.array([[p is not None for p in patches]], np.float32),
        }  # fmt: skip

    def snippet(self, inputs: dict[str, np.ndarray], frame_offset: np.ndarray, dt: float) -> dict[str, np.ndarray]:
        """Combiner and latent model for one snippet; state moves on."""
        ring = self.ring
        ring.advance(dt)
        combined = self.call(
            "combiner", **inputs, frame_offset=frame_offset[None].astype(np.float32), dt=np.array([[dt]], np.float32),
            memory=ring.memory.numpy(),
        )  # fmt: skip
        ring.memory = torch.from_numpy(combined["memory_out"])
        out = self.call(
            "latent", tokens=combined["tokens"], k_window=ring.k.numpy(), v_window=ring.v.numpy(),
            age=ring.age().numpy(), valid=ring.valid.numpy(),
        )  # fmt: skip
        ring.store({name: torch.from_numpy(value) for name, value in out.items()})
        return out | {"tokens": combined["tokens"]}

    def write(self, prompt: list[int]) -> list[int]:
        """Greedy decoding of one prompt (which ends in `<bos>`) over the present window."""
        c, written, tokens = self.config, [], list(prompt)
        k, v = (np.zeros((1, c.decoder_layers, c.context, c.dim), np.float32) for _ in range(2))
        valid = np.zeros((1, c.context), np.float32)
        cross = {"cross_k": self.ring.cross_k.numpy(), "cross_v": self.ring.cross_v.numpy()}
        for position in range(c.context):
            out = self.call(
                "decoder", token=np.array([tokens[position]], np.int64), position=np.array([position], np.int64),
                self_k=k, self_v=v, self_valid=valid, **cross,
                age=self.ring.age().numpy(), valid=self.ring.valid.numpy(),
            )  # fmt: skip
            k[:, :, position], v[:, :, position], valid[:, position] = out["self_k_new"], out["self_v_new"], 1.0
            if position + 1 < len(tokens):
                continue
            best = int(np.where(writable(first=not written), out["logits"][0], -np.inf).argmax())
            if best == text.EOS or len(written) == text.MAX_OUTPUT:
                break
            written.append(best)
            tokens.append(best)
        return written


def writable(first: bool) -> np.ndarray:
    """Which pieces may be written: no special token but `<eos>`, and no continuation at the start."""
    pieces = text.vocabulary()
    special = [p.startswith("<") and p.endswith(">") and len(p) > 2 for p in pieces]
    continuation = [first and p.startswith("##") for p in pieces]
    return np.array([i == text.EOS or not (s or c) for i, (s, c) in enumerate(zip(special, continuation, strict=True))])


def golden_inputs(seed: int = 7) -> dict[str, np.ndarray]:
    """A missing frame in snippet 1, no audio in snippet 2, no picture and a gap in snippet 3."""
    rng, s, k = np.random.default_rng(seed), GOLDEN_SNIPPETS, frontend.FRAMES_PER_SNIPPET
    smooth = rng.standard_normal((s, frontend.MEL_FRAMES, 8)).repeat(frontend.MEL_BINS // 8, axis=2)
    noise = rng.standard_normal((s, frontend.MEL_FRAMES, frontend.MEL_BINS))
    frame_present, heard = np.ones((s, k), np.float32), np.ones((s, 1), np.float32)
    frame_present[1, 1], heard[2, 0], frame_present[3] = 0.0, 0.0, 0.0
    offset, dt = np.tile(np.float32([0.24, 0.72]), (s, 1)), np.full((s, 1), 0.96, np.float32)
    offset[1], offset[2], dt[3] = (0.20, 0.0), (0.25, 0.75), 1.92
    offset *= frame_present
    return {
        "mel": (-3.0 + smooth + 0.5 * noise).astype(np.float16),
        "pixels": rng.integers(0, 256, (s, k, 12, 16, 3), dtype=np.uint8),
        "frame_present": frame_present,
        "heard": heard,
        "frame_offset": offset,
        "dt": dt,
    }


GOLDEN_OUTPUTS = ("tokens", "audible", "visible", "source", "next_tokens")


@torch.no_grad()
def batch_outputs(fusion: Fusion, encoded: list[dict[str, np.ndarray]], inputs: dict[str, np.ndarray]
                  ) -> dict[str, np.ndarray]:  # fmt: skip
    """The golden sequence in one piece: outputs [S, ...] of the module with the files' weights."""
    scene = {name: torch.from_numpy(np.stack([e[f"{name}_tokens"] for e in encoded], axis=1))
             for name in ("video", "audio")}  # fmt: skip
    present = {name: torch.from_numpy(np.stack([e[name] for e in encoded], axis=1))
               for name in ("frame_present", "audio_present")}  # fmt: skip
    times = {name: torch.from_numpy(inputs[name][None]) for name in ("frame_offset", "dt")}
    out = fusion.scene(scene | present | times)
    return {name: out[name][0].numpy() for name in GOLDEN_OUTPUTS}


def golden_results(
    streamer: Streamer, inputs: dict[str, np.ndarray], fusion: Fusion | None
) -> tuple[dict[str, np.ndarray], list[dict]]:
    """Outputs of the golden input, one row per snippet, and what is written afterwards. With `fusion`, which must hold
    the files' rounded weights, the outputs are those of the whole sequence at once."""
    previous = None
    rows: dict[str, list[np.ndarray]] = {name: [] for name in GOLDEN_OUTPUTS}
    encoded: list[dict[str, np.ndarray]] = []
    for s in range(GOLDEN_SNIPPETS):
        frames: list[np.ndarray | None] = []
        for k in range(frontend.FRAMES_PER_SNIPPET):
            if not inputs["frame_present"][s, k]:
                frames.append(None)
                continue
            picture = inputs["pixels"][s, k].repeat(8, axis=0).repeat(8, axis=1)
            frames.append(frontend.frame_tensor(picture, previous))
            previous = picture
        mel = inputs["mel"][s].astype(np.float32) if inputs["heard"][s, 0] else None
        encoded.append(streamer.encode(frames, mel, float(inputs["dt"][s, 0])))
        out = streamer.snippet(encoded[-1], inputs["frame_offset"][s], float(inputs["dt"][s, 0]))
        for name, values in rows.items():
            values.append(out[name][0])
    blind = text.known_ids({"dog_bark", "rain"}, set(), picture=False)
    prompts = [
        text.prompt_ids("event", text.hear("dog_bark"), known=blind),
        text.prompt_ids("event", text.see("cat"), known=text.known_ids(set(), {"cat"})),
        text.prompt_ids("caption", known=[]), text.prompt_ids("ask", question="is anyone speaking?"),
    ]  # fmt: skip
    decodes = [{"prompt": p, "tokens": streamer.write(p)} for p in prompts]
    outputs = {name: np.stack(values) for name, values in rows.items()}
    if fusion is None:
        return outputs, decodes
    batch = batch_outputs(fusion, encoded, inputs)
    error = max(float(np.abs(outputs[name] - batch[name]).max()) for name in GOLDEN_OUTPUTS)
    print(f"export golden: streaming against batch, error {error:.1e}")
    if not error <= TOLERANCE:
        raise ValueError(f"streaming differs from the batch run by {error}")
    return batch, decodes


def write_golden(
    folder: pathlib.Path, config: FusionConfig, fusion: Fusion | None, nodes: dict[str, dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Run the golden input through the files in `folder`, in int8 too if there are `nodes`; the manifest entry."""
    inputs, blob = golden_inputs(), b""

    def store(values: dict[str, np.ndarray]) -> dict[str, Any]:
        nonlocal blob
        tensors = {}
        for name, value in values.items():
            kind = {"float16": "f16", "float32": "f32", "uint8": "u8"}[str(value.dtype)]
            tensors[name] = {"dtype": kind, "shape": list(value.shape), "offset": len(blob)}
            blob += np.ascontiguousarray(value).tobytes()
        return tensors

    outputs, decodes = golden_results(Streamer(folder, config), inputs, fusion)
    body = {
        "format": FORMAT,
        "bin": "golden.bin",
        "snippets": GOLDEN_SNIPPETS,
        "tolerance": 1e-3,
        "tensors": store(inputs | outputs),
        "decodes": decodes,
    }
    if nodes:
        outputs, decodes = golden_results(Streamer(folder, config, nodes), inputs, fusion)
        body["int8"] = {"tensors": store(outputs), "decodes": decodes}
    (folder / "golden.bin").write_bytes(blob)
    (folder / "golden.json").write_text(json.dumps(body, indent=1) + "\n")
    files = {name: fingerprint(folder / name) for name in ("golden.json", "golden.bin")}
    return {"file": "golden.json", **files["golden.json"], "bin": "golden.bin",
            "bin_sha256": files["golden.bin"]["sha256"],
            "bin_bytes": files["golden.bin"]["bytes"]}  # fmt: skip


def requantise_bundle(folder: pathlib.Path, work: pathlib.Path, config: FusionConfig) -> None:
    """Calibrate the files of a finished bundle again; golden run and manifest follow, the graphs stay."""
    path = folder / "manifest.json"
    body = json.loads(path.read_text())
    body["quantisation"] = activations.quantisation(folder, work)
    body["golden"] = write_golden(folder, config, None, body["quantisation"]["nodes"])
    write_manifest(path, body)


def renew_questions(folder: pathlib.Path) -> None:
    """Write the questions' table of a finished bundle again; nothing else changes."""
    path = folder / "manifest.json"
    body = json.loads(path.read_text())
    body.pop("questions", None)
    items = list(body.items())
    place = 1 + list(body).index("text")
    write_manifest(path, dict([*items[:place], ("questions", questions.table()), *items[place:]]))


def write_manifest(path: pathlib.Path, body: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")
    os.replace(temporary, path)


# ---------------------------------------------------------------- manifest


def label_entries(names: dict[str, str], rules: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    default = {"enabled": True, "experimental": False, "thresholds": DEFAULT_THRESHOLDS, "min_snippets": 1}
    return [{"id": key, "name": name, **default, **rules.get(key, {})} for key, name in names.items()]


def geometry(c: FusionConfig) -> dict[str, int]:
    return {
        "sample_rate": frontend.SAMPLE_RATE, "snippet_samples": frontend.SNIPPET_SAMPLES,
        "patch_samples": frontend.PATCH_SAMPLES,
        "mel_frames": frontend.MEL_FRAMES, "mel_bins": frontend.MEL_BINS, "frames_per_snippet": c.frames,
        "frame_width": frontend.FRAME_WIDTH, "frame_height": frontend.FRAME_HEIGHT, "dim": c.dim,
        "video_tokens": c.video_tokens, "audio_patches": c.patches, "audio_tokens": c.audio_tokens,
        "memory_tokens": c.memory,
        "snippet_tokens": c.snippet_tokens, "window": c.window, "latent_layers": c.latent_layers,
        "decoder_layers": c.decoder_layers, "decoder_context": c.context,
    }  # fmt: skip


def manifest(
    parts: Parts, entries: dict[str, Any], golden: dict[str, Any], quantisation: dict[str, Any]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "name": "girasol-av",
        "version": parts.version,
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "min_runtime": "0.1.0",
        "licence": "MIT OR Apache-2.0",
        "geometry": geometry(parts.fusion.config),
        "graphs": entries,
        "golden": golden,
        "labels": {
            "audible": label_entries(AUDIBLE, parts.rules["audible"]),
            "visible": label_entries(VISIBLE, parts.rules["visible"]),
        },
        "sources": SOURCES,
        "in_view": parts.in_view,
        "text": {
            "vocab": list(text.vocabulary()), "pad": text.PAD, "bos": text.BOS, "eos": text.EOS, "unk": text.UNK,
            "max_output": text.MAX_OUTPUT, "max_question": text.MAX_QUESTION, "max_known": text.MAX_KNOWN,
            "absent": text.ABSENT, "prompts": text.PROMPTS,
        },
        "questions": questions.table(),
        "quantisation": quantisation,
        "training": parts.training,
    }  # fmt: skip


def export_bundle(parts: Parts, destination: pathlib.Path, work: pathlib.Path | None = None) -> dict[str, Any]:
    """Build the bundle and move it to `destination` (replaced as a whole); returns the manifest.

    `work` holds the tracks to calibrate activations on; without it everything runs in f32.
    """
    folder = destination.with_name(f".{destination.name}.{os.getpid()}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = parts.fusion.config
    entries = {name: export_graph(graph, config, folder / f"{name}.onnx") for name, graph in graphs(parts).items()}
    quantisation: dict[str, Any] = {"weights": "int8-per-channel", "activations": None, "nodes": {}}
    if work is not None:
        quantisation = activations.quantisation(folder, work)
    rounded = fake_quant_weights(copy.deepcopy(parts.fusion)).eval()
    body = manifest(parts, entries, write_golden(folder, config, rounded, quantisation["nodes"]), quantisation)
    write_manifest(folder / "manifest.json", body)
    if destination.exists():
        old = destination.with_name(f".{destination.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        destination.rename(old)
        folder.rename(destination)
        shutil.rmtree(old)
    else:
        folder.rename(destination)
    total = sum(e["parameters"] for e in entries.values()), sum(e["bytes"] for e in entries.values())
    print(f"export: {destination}: {total[0]:,} parameters, {total[1]:,} bytes")
    return body
