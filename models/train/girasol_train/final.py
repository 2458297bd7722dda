"""The last evaluation: composed clips of the *final* sources through the shipped bundle and the Rust runtime.

`girasol eval` gives every score of every snippet (docs/reference/eval.md). Everything is scored from that file, with
95 % intervals from resampled clips, paired where two systems saw the same clips:

- the same head on YAMNet's embedding, fitted on the composed training tracks, and YAMNet as it comes (zero-shot);
- YOLOX-nano on the same frames, for persons and for the other tags it knows;
- "source in view" by the model and by the rule "one of its sources is seen";
- the decoder's captions against a template over the same scores, its answers against the history of the same scores.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from . import clips as cl
from . import evaluate, scenes, stories, text
from .audio_encoder import load_yamnet
from .calibrate import average_precision
from .count import count as count_macs
from .frontend import CARRY_SAMPLES, PATCH_SAMPLES, SNIPPET_SAMPLES, log_mel
from .fusion import SNIPPET_SECONDS
from .intervals import f1, intervals, mean_ap
from .labels import AUDIBLE_IDS, AUDIBLE_INDEX, VISIBLE_IDS, VISIBLE_INDEX
from .train_fusion import maker_matrix

CLIPS, SEED = 100, 31
RESAMPLES = 300
BACKGROUND = AUDIBLE_INDEX["background"]
# COCO names that count as the visible labels.
COCO = {
    "person": ("person",), "dog": ("dog",), "cat": ("cat",), "bird": ("bird",), "car": ("car", "bus", "truck"),
    "farm_animal": ("horse", "sheep", "cow"), "wild_animal": ("elephant", "bear", "zebra", "giraffe"),
    "motorbike": ("motorcycle", "bicycle"), "train": ("train",), "aircraft": ("airplane",), "boat": ("boat",),
    "screen": ("tv", "laptop", "cell_phone", "cell phone"),
}  # fmt: skip
YOLOX, YOLOX_SCORE = pathlib.Path("teachers") / "yolox-nano" / "yolox_nano.onnx", 0.3
Table = dict[str, np.ndarray]


# ---------------------------------------------------------------- the runtime


def program() -> str:
    """The `girasol` program: GIRASOL_PROGRAM, else what `make build` made, else the one in the path."""
    named = os.environ.get("GIRASOL_PROGRAM")
    root = pathlib.Path(__file__).resolve().parents[3]
    built = [root / "target" / profile / "girasol" for profile in ("release", "debug")]
    found = named or next((str(p) for p in built if p.exists()), None) or shutil.which("girasol")
    if not found:
        raise SystemExit("the girasol program is needed for evaluation: run `make build`, or set GIRASOL_PROGRAM")
    return found


def run_program(folder: pathlib.Path, bundle: pathlib.Path, out: pathlib.Path) -> tuple[dict[str, Any], list[dict]]:
    """`girasol eval` on a folder of clips: its report and its predictions."""
    predictions, settings = out / "predictions.jsonl", out / "settings.toml"
    settings.write_text("")  # the defaults, whatever this machine is configured for
    command = [program(), "eval", str(folder), "--config", str(settings), "--bundle", str(bundle),
               "--truth", str(folder / "truth.tsv"), "--predictions", str(predictions), "--json"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"girasol eval failed ({done.returncode}): {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout), [json.loads(line) for line in predictions.read_text().splitlines()]


def without_history(bundle: pathlib.Path, copy: pathlib.Path) -> pathlib.Path:
    """A copy of the bundle without the manifest's table of questions, so that the decoder answers all of them."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(bundle, copy)
    path = copy / "manifest.json"
    body = json.loads(path.read_text())
    body.pop("questions", None)
    path.write_text(json.dumps(body))
    return copy


def true_of(folder: pathlib.Path) -> tuple[list[str], Table]:
    """Names of the clips, and their truth; what could not be heard or seen has no weight."""
    with np.load(folder / "truth.npz") as stored:
        truth = {key: stored[key] for key in stored.files}
    names = [f"{n:04d}.wav" if not there[1] else f"{n:04d}.y4m" for n, there in enumerate(truth["present"])]
    for sense, kind in enumerate(("audible", "visible")):
        truth[f"{kind}_weight"] = truth[f"{kind}_weight"] * truth["present"][:, sense, None, None]
    return names, truth


def as_table(lines: list[dict], names: list[str]) -> Table:
    """Predictions as arrays [clips, snippets, labels] in the order of `names`; snippets that are missing are 0."""
    shape = len(names), scenes.SNIPPETS
    out = {"audible": np.zeros((*shape, len(AUDIBLE_IDS))), "source": np.zeros((*shape, len(AUDIBLE_IDS))),
           "visible": np.zeros((*shape, len(VISIBLE_IDS)))}  # fmt: skip
    texts = np.full(shape, "", object)
    place = {name: n for n, name in enumerate(names)}
    for line in lines:
        at = place[line["clip"]], round(line["t"] / SNIPPET_SECONDS)
        if at[1] >= scenes.SNIPPETS:
            continue
        labels = line["labels"]
        out["audible"][at] = [labels[f"hear:{a}"] for a in AUDIBLE_IDS]
        out["source"][at] = [labels[f"source:{a}"] for a in AUDIBLE_IDS]
        out["visible"][at] = [labels[f"see:{v}"] for v in VISIBLE_IDS]
        texts[at] = line["text"]
    return out | {"text": texts}


# ---------------------------------------------------------------- peers


def kept(path: pathlib.Path, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """What a peer says does not depend on our bundle: stored beside what it was made from."""
    if not path.exists():
        scenes.save_npz(path, make())
    with np.load(path) as stored:
        return dict(stored)


def clip_mel(folder: pathlib.Path, names: list[str]) -> np.ndarray:
    """f32 [clips, snippets, 96, 64]; silence where a clip has no sound."""
    import soundfile

    out = []
    for name in names:
        path = (folder / name).with_suffix(".wav")
        samples = np.zeros(CARRY_SAMPLES + scenes.SNIPPETS * SNIPPET_SAMPLES, np.float32)
        if path.exists():
            wave, _ = soundfile.read(path, dtype="float32")
            samples[CARRY_SAMPLES : CARRY_SAMPLES + len(wave)] = wave[: len(samples) - CARRY_SAMPLES]
        out.append(log_mel(np.lib.stride_tricks.sliding_window_view(samples, PATCH_SAMPLES)[::SNIPPET_SAMPLES]))
    return np.stack(out)


@torch.no_grad()
def yamnet_outputs(data: pathlib.Path, mel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(scores [N, 521], embeddings [N, 1024]) of patches [N, 96, 64]."""
    teacher = load_yamnet(data).eval()
    parts = [teacher(torch.from_numpy(np.ascontiguousarray(m))) for m in np.array_split(mel, max(1, len(mel) // 64))]
    return tuple(torch.cat(column).numpy() for column in zip(*parts, strict=True))


def zero_shot(data: pathlib.Path, logits: np.ndarray) -> tuple[np.ndarray, frozenset[int]]:
    """The highest of YAMNet's classes that mean a label, and the labels for which there is none."""
    names = json.loads((data / "teacher-labels" / "class_to_yamnet.json").read_text())
    out, missing = np.zeros((len(logits), len(AUDIBLE_IDS)), np.float32), {BACKGROUND}
    for i, label in enumerate(AUDIBLE_IDS):
        indices = names.get(label, {}).get("yamnet_indices")
        if indices:
            out[:, i] = logits[:, indices].max(axis=1)
        else:
            missing.add(i)
    return out, frozenset(missing)


def embedding_head(data: pathlib.Path, work: pathlib.Path, shards: int = 12) -> Callable[[np.ndarray], np.ndarray]:
    """One linear layer on the logarithm of YAMNet's embedding (a third better than on the embedding itself, which is
    sparse), fitted on the composed training tracks as our own heads are."""
    paths = scenes.shard_paths(work, "audio", "train")[:shards]

    def make() -> dict[str, np.ndarray]:
        columns: dict[str, list[np.ndarray]] = {"embedding": [], "audible": [], "audible_weight": []}
        for path in paths:
            with np.load(path) as shard:
                mel = shard["mel"].astype(np.float32).reshape(-1, *shard["mel"].shape[2:])
                columns["embedding"].append(yamnet_outputs(data, mel)[1])
                for name in ("audible", "audible_weight"):
                    columns[name].append(shard[name].reshape(-1, len(AUDIBLE_IDS)).astype(np.float32))
        return {name: np.concatenate(parts) for name, parts in columns.items()}

    fit = kept(paths[0].parent / f"yamnet-{scenes.stem('audio', 'train')}-{len(paths)}.npz", make)
    shape = lambda e: np.log1p(2.0 * np.maximum(e, 0.0))  # noqa: E731
    x, y, w = (torch.from_numpy(a) for a in (shape(fit["embedding"]), fit["audible"], fit["audible_weight"]))
    torch.manual_seed(0)
    layer = torch.nn.Linear(x.shape[1], y.shape[1])
    torch.nn.init.constant_(layer.bias, -3.0)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=3e-3, weight_decay=0.1)
    for epoch in range(12):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * (1.0 - epoch / 12.0)
        for rows in torch.randperm(len(x)).split(256):
            loss = torch.nn.functional.binary_cross_entropy_with_logits(layer(x[rows]), y[rows], w[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        matrix, bias = layer.weight.numpy().copy(), layer.bias.numpy().copy()
    return lambda e: shape(e) @ matrix.T + bias


def yolox_scores(data: pathlib.Path, folder: pathlib.Path, names: list[str]) -> np.ndarray:
    """[clips, snippets, visible labels]: YOLOX-nano's best score per label over a snippet's two frames.

    It sees what our encoder sees, 128 x 96 scaled up to its own 416 x 416: that is the comparison on equal pictures; on
    full-size pictures see the table of human-labelled ones.
    """
    import cv2
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(data / YOLOX, options)
    coco = (data / "teachers" / "coco80_names.txt").read_text().split("\n")
    columns = {v: [coco.index(n) for n in wanted if n in coco] for v, wanted in COCO.items()}
    out = np.zeros((len(names), scenes.SNIPPETS, len(VISIBLE_IDS)), np.float32)
    for c, name in enumerate(names):
        path = (folder / name).with_suffix(".y4m")
        if not path.exists():
            continue
        for k, frame in enumerate(read_y4m(path)[::2][: scenes.FRAMES]):
            canvas = np.full((416, 416, 3), 114, np.uint8)
            canvas[:312] = cv2.resize(frame[..., ::-1], (416, 312), interpolation=cv2.INTER_CUBIC)
            rows = session.run(None, {session.get_inputs()[0].name: canvas.transpose(2, 0, 1)[None].astype(np.float32)})
            best = (rows[0][0, :, 4:5] * rows[0][0, :, 5:]).max(axis=0)
            for v, indices in columns.items():
                if indices:
                    at = c, k // 2, VISIBLE_INDEX[v]
                    out[at] = max(out[at], best[indices].max())
    return out


def read_y4m(path: pathlib.Path) -> np.ndarray:
    """u8 [F, H, W, 3] RGB of what `clips.write_y4m` wrote."""
    import cv2

    raw = path.read_bytes()
    header, body = raw.split(b"\n", 1)
    fields = {f[:1]: f[1:] for f in header.decode().split()[1:]}
    width, height = int(fields["W"]), int(fields["H"])
    size = width * height * 3 // 2
    frames = np.frombuffer(body, np.uint8).reshape(-1, size + 6)[:, 6:]
    return np.stack([cv2.cvtColor(f.reshape(height * 3 // 2, width), cv2.COLOR_YUV2RGB_I420) for f in frames])


# ---------------------------------------------------------------- sentences


def stories_of(table: Table, truth: Table, rules: evaluate.Rules, clip: int) -> tuple[stories.Truth, stories.Truth]:
    """The truth of a clip, and what the scores alone claim of it at the best-F1 thresholds."""
    present = np.tile(truth["present"][clip], (scenes.SNIPPETS, 1))
    start = np.arange(scenes.SNIPPETS) * SNIPPET_SECONDS
    story = stories.Truth(*(truth[key][clip] for key in stories.TRUTH), start, present)
    return story, evaluate.claim(rules, {kind: table[kind][clip] for kind in ("audible", "visible")}, story)


def captions(table: Table, truth: Table, rules: evaluate.Rules, names: list[str]) -> list[list[dict[str, Any]]]:
    """Per clip: what decoder and template say where the truth gives a caption, and the label F1 of both."""
    out = []
    for c, name in enumerate(names):
        story, claimed = stories_of(table, truth, rules, c)
        rows = []
        for t in range(scenes.SNIPPETS):
            made = stories.caption(None, story, t)
            if made is None:
                continue
            said, template, right = str(table["text"][c, t]), stories.caption_text(claimed, t), made[1]
            rows.append({
                "clip": name, "t": round(float(story.start[t]), 2), "said": said, "template": template, "truth": right,
                "f1": evaluate.label_f1(said, right), "template_f1": evaluate.label_f1(template, right),
            })  # fmt: skip
        out.append(rows)
    return out


def caption_f1(made: list[list[dict[str, Any]]], key: str = "f1") -> Callable[[np.ndarray], float]:
    """Mean label F1 over the captions of the picked clips."""
    values = [[row[key] for row in rows] for rows in made]
    return lambda picked: _mean([x for k in picked for x in values[k]])


def sentences(table: Table, truth: Table, rules: evaluate.Rules, names: list[str]) -> dict[str, Any]:
    """Captions of the decoder and of the template, where the truth allows one; worst samples first."""
    made = captions(table, truth, rules, names)
    rows = [row for clip in made for row in clip]
    unseen = np.flatnonzero(~truth["present"][:, 1].astype(bool))
    blind = ["camera" in said or "view" in said for c in unseen for said in table["text"][c]]
    figures = {"decoder": caption_f1(made), "template": caption_f1(made, "template_f1")}
    rng = np.random.default_rng(3)
    samples = [rows[k] for k in rng.choice(len(rows), min(40, len(rows)), replace=False)] if rows else []
    return {"count": len(rows), "figures": intervals(figures, len(names), [("decoder", "template")], RESAMPLES),
            "without_picture": {"count": len(blind), "speak_of_view": int(np.sum(blind))},
            "samples": sorted(samples, key=lambda r: r["f1"])}  # fmt: skip


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def answers(report: dict, decoder: int, table: Table, truth: Table, rules: evaluate.Rules, names: list[str],
            questions: list[dict]) -> dict[str, Any]:  # fmt: skip
    """Right answers, word for word: the runtime's, the decoder's alone, and those of the label history in Python (which
    the runtime's are to be, but for scores rounded to four decimals here)."""
    right: dict[str, list[bool]] = {}
    for q in questions:
        c = names.index(q["clip"])
        _, claimed = stories_of(table, truth, rules, c)
        said = stories.answer(claimed, q["snippet"], q["kind"], q["label"])
        said = text.decode(text.encode(said)[: text.MAX_OUTPUT])
        right.setdefault(q["kind"], []).append(said == q["answer"])
    flat = [r for values in right.values() for r in values]
    return {"asked": report["questions"]["asked"], "shipped_right": report["questions"]["right"],
            "decoder_right": decoder, "history_right": int(np.sum(flat)),
            "history_by_kind": {k: [int(np.sum(v)), len(v)] for k, v in right.items()}}  # fmt: skip


# ---------------------------------------------------------------- all of it


def evaluate_final(data: pathlib.Path, work: pathlib.Path, bundle: pathlib.Path, rules: evaluate.Rules,
                   split: str = "final", count: int = CLIPS, shards: int = 12) -> dict[str, Any]:  # fmt: skip
    folder = cl.compose(data, work, split, count, SEED)
    report, lines = run_program(folder, bundle, work)
    names, truth = true_of(folder)
    table = as_table(lines, names)

    def teach() -> dict[str, np.ndarray]:
        mel = clip_mel(folder, names)
        return dict(zip(("logits", "embedding"), yamnet_outputs(data, mel.reshape(-1, *mel.shape[2:])), strict=True))

    peer = kept(folder / "yamnet.npz", teach)
    logits, embeddings = peer["logits"], peer["embedding"]
    zero, missing = zero_shot(data, logits)
    head = embedding_head(data, work, shards)(embeddings)
    shape = (*table["audible"].shape[:2], len(AUDIBLE_IDS))
    systems = {"girasol": table["audible"], "head on YAMNet": head.reshape(shape)}
    all_but = frozenset({BACKGROUND})
    audible = {name: (lambda p, s=s: mean_ap(s[p], truth["audible"][p], truth["audible_weight"][p], all_but))
               for name, s in systems.items()}  # fmt: skip
    systems["YAMNet"] = zero.reshape(shape)
    for name in ("girasol", "YAMNet"):
        audible[f"{name}, YAMNet's labels"] = lambda p, s=systems[name]: mean_ap(
            s[p], truth["audible"][p], truth["audible_weight"][p], missing
        )
    pairs = [("girasol", "head on YAMNet"), ("girasol, YAMNet's labels", "YAMNet, YAMNet's labels")]
    result: dict[str, Any] = {"split": split, "clips": count, "runtime": report}
    result["audible_map"] = intervals(audible, count, pairs, RESAMPLES)
    result["visible"] = visible(data, bundle, folder, names, table, truth, rules)
    result["source"] = source(table, truth)
    result["sentences"] = sentences(table, truth, rules, names)
    questions = json.loads((folder / "questions.json").read_text())
    copy = work / "decoder-only"
    decoder = run_program(folder, without_history(bundle, copy / "bundle"), copy)[0]["questions"]["right"]
    result["answers"] = answers(report, decoder, table, truth, rules, names, questions)
    return result


def visible(data: pathlib.Path, bundle: pathlib.Path, folder: pathlib.Path, names: list[str], table: Table,
            truth: Table, rules: evaluate.Rules) -> dict[str, Any]:  # fmt: skip
    """mAP, and F1 per tag and work per frame beside YOLOX-nano's on the same frames (if the kit has that network)."""
    detector = None
    if (data / YOLOX).exists():
        detector = kept(folder / "yolox.npz", lambda: {"score": yolox_scores(data, folder, names)})["score"]
    known = truth["visible_weight"] >= 0.5
    true = truth["visible"] >= 0.5
    figures = {"girasol mAP": lambda p: mean_ap(table["visible"][p], truth["visible"][p], truth["visible_weight"][p])}
    tags = {}
    for label in COCO:
        v = VISIBLE_INDEX[label]
        on = rules["visible"][label]["thresholds"]["best_f1"]["on"]

        def tag_f1(p: np.ndarray, score: np.ndarray, limit: float, v: int = v) -> float:
            scored = known[p, :, v]
            return f1(score[p, :, v][scored] >= limit, true[p, :, v][scored])

        ours = functools.partial(tag_f1, score=table["visible"], limit=on)
        theirs = functools.partial(tag_f1, score=detector, limit=YOLOX_SCORE)
        tags[label] = {"snippets": int((true & known)[..., v].sum())}
        pair = {"girasol": ours} if detector is None else {"girasol": ours, "YOLOX-nano": theirs}
        both = [] if detector is None else [("girasol", "YOLOX-nano")]
        tags[label] |= intervals(pair, len(names), both, RESAMPLES)
    result = {"map": intervals(figures, len(names), [], RESAMPLES), "tags": tags}
    if detector is not None:
        result["macs"] = {"girasol": count_macs(bundle / "video_encoder.onnx")["macs"],
                          "YOLOX-nano": count_macs(data / YOLOX)["macs"]}  # fmt: skip
    return result


def source(table: Table, truth: Table) -> dict[str, Any]:
    """Source in view over all labels that have one, where they are truly heard: the head against the rule."""
    makers = maker_matrix()
    rule = np.stack([table["visible"][..., m > 0].max(axis=-1) if m.any() else np.zeros(table["visible"].shape[:2])
                     for m in makers], axis=-1)  # fmt: skip
    pairs = (truth["audible"] >= 0.5) & (truth["audible_weight"] > 0) & (truth["source_weight"] > 0)
    pairs &= (makers.sum(axis=1) > 0) & truth["present"][:, 1][:, None, None]
    true = truth["source"] >= 0.5

    def ap(score: np.ndarray) -> Callable[[np.ndarray], float]:
        return lambda p: average_precision(score[p][pairs[p]], true[p][pairs[p]])

    def at_half(score: np.ndarray) -> Callable[[np.ndarray], float]:
        return lambda p: f1(score[p][pairs[p]] >= 0.5, true[p][pairs[p]])

    figures = {"shipped AP": ap(table["source"]), "rule AP": ap(rule), "shipped F1": at_half(table["source"]),
               "rule F1": at_half(rule)}  # fmt: skip
    found = intervals(figures, len(true), [("shipped AP", "rule AP"), ("shipped F1", "rule F1")], RESAMPLES)
    return {"pairs": int(pairs.sum()), "true": int((true & pairs).sum()), "figures": found}
