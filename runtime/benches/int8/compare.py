"""The shipped graphs against ONNX Runtime's int8 and f32: one thread, in turn, processor time of that thread, so that a
busy machine is unfair to nobody. Prints medians and their ratios; it is no test.

    ORT_DISABLE_TELEMETRY=1 python compare.py GIRASOL BUNDLE [ROUNDS]

GIRASOL is the program, built in release. ONNX Runtime's int8 is its own static quantisation of the same networks (QDQ,
per channel, in both u8 and s8 activations, all graph optimisations; the faster one counts). Its scales come from noise:
they decide no speed.

`decoder` is one token. `decoder, a text` is a whole text of as many tokens, prompt included, as the texts of the bundle's
golden run have on average, with what girasol computes once a text; ONNX Runtime runs its graph for each token.
"""

from __future__ import annotations

import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

GRAPHS = ("video_encoder", "audio_encoder", "combiner", "latent", "decoder")
CALLS = 20


def with_float_weights(path: pathlib.Path, out: pathlib.Path) -> None:
    """The file with its weight-only DequantizeLinear nodes folded, which ONNX Runtime's quantiser wants."""
    model = onnx.load(path)
    graph, constants = model.graph, {t.name: t for t in model.graph.initializer}
    for node in [n for n in graph.node if n.op_type == "DequantizeLinear"]:
        q, scale = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
        axis = next(a.i for a in node.attribute if a.name == "axis")
        weight = q.astype(np.float32) * np.expand_dims(scale, [d for d in range(q.ndim) if d != axis])
        graph.initializer.append(numpy_helper.from_array(weight, node.output[0]))
        graph.node.remove(node)
    read = {name for node in graph.node for name in node.input}
    for tensor in [t for t in graph.initializer if t.name not in read]:
        graph.initializer.remove(tensor)
    onnx.save(model, out)


def noise(path: pathlib.Path, seed: int) -> dict[str, np.ndarray]:
    """A value for each input: reals around 0; integers (tokens, positions), masks and times are 1."""
    rng, feed = np.random.default_rng(seed), {}
    for port in onnx.load(path).graph.input:
        shape = [d.dim_value for d in port.type.tensor_type.shape.dim]
        if port.type.tensor_type.elem_type == onnx.TensorProto.INT64:
            feed[port.name] = np.ones(shape, np.int64)
        elif port.name.split("_")[-1] in ("present", "valid", "age", "offset", "dt"):
            feed[port.name] = np.ones(shape, np.float32)
        else:
            feed[port.name] = rng.normal(0, 1, shape).astype(np.float32)
    return feed


class Noise(CalibrationDataReader):
    def __init__(self, path: pathlib.Path) -> None:
        self.left = [noise(path, seed) for seed in range(4)]

    def get_next(self):
        return self.left.pop() if self.left else None


def session(path: pathlib.Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def peers(bundle: pathlib.Path, folder: pathlib.Path, graph: str) -> dict[str, onnxruntime.InferenceSession]:
    plain = folder / f"{graph}.onnx"
    with_float_weights(bundle / f"{graph}.onnx", plain)
    found = {"ort f32": session(plain)}
    for kind, activation in (("u8", QuantType.QUInt8), ("s8", QuantType.QInt8)):
        path = folder / f"{graph}.{kind}.onnx"
        quantize_static(str(plain), str(path), Noise(plain), quant_format=QuantFormat.QDQ, per_channel=True,
                        activation_type=activation, weight_type=QuantType.QInt8)  # fmt: skip
        found[f"ort int8 {kind}"] = session(path)
    return found


def ort_ms(peer: onnxruntime.InferenceSession, feed: dict[str, np.ndarray]) -> float:
    times = []
    for _ in range(CALLS):
        start = time.thread_time()
        peer.run(None, feed)
        times.append(time.thread_time() - start)
    return 1e3 * statistics.median(times)


def girasol_ms(program: str, bundle: pathlib.Path, arithmetic: str) -> dict[str, float]:
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
        config.write(f"[model]\nbundle = {json.dumps(str(bundle))}\narithmetic = \"{arithmetic}\"\n")
        config.flush()
        command = [program, "bench", "--json", "--iterations", str(CALLS), "--config", config.name]
        report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {stage["stage"]: stage["median_ms"] for stage in report["stages"]}


def text_tokens(bundle: pathlib.Path) -> float:
    """Tokens of a text, prompt included: the mean of the golden run's."""
    decodes = json.loads((bundle / "golden.json").read_text())["decodes"]
    return statistics.mean(len(d["prompt"]) + len(d["tokens"]) for d in decodes)


def main() -> None:
    program, bundle, rounds = sys.argv[1], pathlib.Path(sys.argv[2]).resolve(), int((sys.argv + ["5"])[3])
    found: dict[tuple[str, str], list[float]] = {}
    tokens, text = text_tokens(bundle), "decoder, a text"
    with tempfile.TemporaryDirectory() as folder:
        all_peers = {graph: peers(bundle, pathlib.Path(folder), graph) for graph in GRAPHS}
        for _ in range(rounds):
            for arithmetic in ("int8", "f32"):
                times = girasol_ms(program, bundle, arithmetic)
                times[text] = times["decoder_window"] + tokens * times["decoder"]
                for graph in (*GRAPHS, text):
                    found.setdefault((graph, f"girasol {arithmetic}"), []).append(times[graph])
            for graph, sessions in all_peers.items():
                for name, peer in sessions.items():
                    found.setdefault((graph, name), []).append(ort_ms(peer, noise(bundle / f"{graph}.onnx", 1)))
    for (of, name), times in list(found.items()):
        if of == "decoder" and name.startswith("ort"):
            found[text, name] = [tokens * time for time in times]
    for graph in (*GRAPHS, text):
        print(graph if graph != text else f"{text} of {tokens:g} tokens")
        ours = found[graph, "girasol int8"]
        peers_int8 = [times for (of, name), times in found.items() if of == graph and name.startswith("ort int8")]
        best = [min(pair) for pair in zip(*peers_int8, strict=True)]
        ratio = statistics.median(a / b for a, b in zip(ours, best, strict=True))
        print(f"  girasol as it ships takes {ratio:.2f} times ONNX Runtime's best int8")
        for (of, name), times in found.items():
            if of == graph:
                # Round by round: what else runs on the machine changes from round to round.
                ratio = statistics.median(a / b for a, b in zip(ours, times, strict=True))
                print(f"  {name:<14} best {min(times):8.3f} ms  median {statistics.median(times):8.3f} ms"
                      f"  girasol int8 takes {ratio:.2f} times that")  # fmt: skip


if __name__ == "__main__":
    main()
