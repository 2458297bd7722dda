"""What int8 costs, graph by graph: the shipped bundle against copies in which one of its graphs, or all of them, is the
f32 network that it was rounded from, in weights and in arithmetic.

Everything runs through `girasol eval` on the composed clips of the *final* sources, with the decoder answering every
question. Differences are int8 less f32, paired, with 95 % intervals from resampled clips.
"""

from __future__ import annotations

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from . import clips, evaluate, export, final, restore
from .intervals import intervals, macro_f1, mean_ap
from .labels import AUDIBLE_IDS, VISIBLE_IDS

SHIPPED, ALL = "int8", "all"
Figure = Callable[[np.ndarray], float]


def check_origin(parts: export.Parts, bundle: pathlib.Path) -> None:
    """SystemExit unless the bundle is what comes of rounding `parts`."""
    for name, graph in export.graphs(parts).items():
        restore.check(graph, parts.fusion.config, bundle / f"{name}.onnx")


def already_rounded(parts: export.Parts) -> list[str]:
    """Graphs whose checkpoint holds no more than the rounded weights (`restore`): only their arithmetic is measured."""
    plain, rounded = export.graphs(parts, rounded=False), export.graphs(parts)
    same = lambda a, b: all(torch.allclose(v, b[k], rtol=1e-6, atol=0.0) for k, v in a.items())  # noqa: E731
    return [name for name in plain if same(plain[name].module.state_dict(), rounded[name].module.state_dict())]


def in_f32(parts: export.Parts, bundle: pathlib.Path, names: Sequence[str], copy: pathlib.Path) -> pathlib.Path:
    """A copy of the bundle in which the graphs of `names` are in f32."""
    path = final.without_history(bundle, copy) / "manifest.json"
    body, plain = json.loads(path.read_text()), export.graphs(parts, rounded=False)
    for name in names:
        body["graphs"][name] = export.export_graph(plain[name], parts.fusion.config, copy / f"{name}.onnx", int8=False)
        body["quantisation"]["nodes"].pop(name, None)
    export.write_manifest(path, body)
    return copy


def figures(table: final.Table, truth: final.Table, rules: evaluate.Rules, names: list[str]) -> dict[str, Figure]:
    """Mean AP and macro F1 (at the `best_f1` thresholds) of what is heard and seen, and label F1 of captions."""
    found: dict[str, Figure] = {}
    for kind, ids in (("audible", AUDIBLE_IDS), ("visible", VISIBLE_IDS)):
        score, target, weight = table[kind], truth[kind], truth[f"{kind}_weight"]
        skip = frozenset({final.BACKGROUND} if kind == "audible" else ())
        said = score >= np.array([rules[kind][name]["thresholds"]["best_f1"]["on"] for name in ids])
        found[f"{kind} mAP"] = lambda p, s=score, t=target, w=weight, k=skip: mean_ap(s[p], t[p], w[p], k)
        found[f"{kind} macro F1"] = lambda p, s=said, t=target, w=weight: macro_f1(s[p], t[p], w[p])
    return found | {"caption F1": final.caption_f1(final.captions(table, truth, rules, names))}


def measure(parts: export.Parts, data: pathlib.Path, work: pathlib.Path, bundle: pathlib.Path, rules: evaluate.Rules,
            count: int = final.CLIPS) -> dict[str, Any]:  # fmt: skip
    """`rows`: per graph, and for all of them, the differences; `int8`: the shipped bundle's own figures; right answers
    of the decoder in both."""
    check_origin(parts, bundle)
    folder, out = clips.compose(data, work, "final", count, final.SEED), work / "int8-cost"
    names, truth = final.true_of(folder)

    def play(name: str, graphs: Sequence[str]) -> tuple[dict[str, Figure], int]:
        copy = in_f32(parts, bundle, graphs, out / name)
        report, lines = final.run_program(folder, copy, out)
        return figures(final.as_table(lines, names), truth, rules, names), report["questions"]["right"]

    played = {SHIPPED: (), **{name: (name,) for name in export.GRAPH_NAMES}, ALL: export.GRAPH_NAMES}
    systems = {name: play(name, graphs) for name, graphs in played.items()}
    asked = len(json.loads((folder / "questions.json").read_text()))
    metrics = list(systems[SHIPPED][0])
    every = {f"{m} {name}": figure for name, (own, _) in systems.items() for m, figure in own.items()}
    pairs = {(name, m): (f"{m} {SHIPPED}", f"{m} {name}") for name in systems if name != SHIPPED for m in metrics}
    table = intervals(every, count, list(pairs.values()), final.RESAMPLES)
    result: dict[str, Any] = {"clips": count, "asked": asked, "right": systems[SHIPPED][1], "rows": {}}
    result["already_rounded"] = already_rounded(parts)
    result["int8"] = {m: table[f"{m} {SHIPPED}"] for m in metrics}
    for name in (*export.GRAPH_NAMES, ALL):
        differences = {m: table[" - ".join(pairs[name, m])] for m in metrics}
        result["rows"][name] = {"differences": differences, "right": systems[name][1]}
    return result
