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

ALL = "all"
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

    shipped, right = play("int8", ())
    asked = len(json.loads((folder / "questions.json").read_text()))
    result: dict[str, Any] = {"clips": count, "asked": asked, "right": right, "rows": {}}
    result["already_rounded"] = already_rounded(parts)
    for name, graphs in {**{g: (g,) for g in export.GRAPH_NAMES}, ALL: export.GRAPH_NAMES}.items():
        plain, plain_right = play(name, graphs)
        both = {f"{m} int8": f for m, f in shipped.items()} | {f"{m} f32": f for m, f in plain.items()}
        table = intervals(both, count, [(f"{m} int8", f"{m} f32") for m in shipped], final.RESAMPLES)
        result["int8"] = {m: table[f"{m} int8"] for m in shipped}
        differences = {m: table[f"{m} int8 - {m} f32"] for m in shipped}
        result["rows"][name] = {"differences": differences, "right": plain_right}
        print(f"int8 {name}: " + ", ".join(f"{m} {v['value']:+.4f}" for m, v in differences.items()), flush=True)
    return result
