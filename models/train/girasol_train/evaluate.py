"""Evaluation of a finished bundle on the kit's test split, through the shipped files themselves where it matters, in
the arithmetic that the runtime uses (int8 where the manifest has scales).

- composed test scenes (torch, int8-rounded weights): AP, F1 and events per label, with counts;
- staged scenes, through the ONNX files: a few events in a known order, as a person would stage a demonstration;
- clean test clips, through the ONNX files: one label per clip;
- human-labelled test pictures, through the ONNX files: AP per visible label;
- sentences: exact match and label F1 against the composed truth, and samples.
"""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import torch

from . import audio_data as ad
from . import calibrate, intervals, scenes, stories, text
from . import video_data as vd
from .export import Streamer
from .frontend import CARRY_SAMPLES, PATCH_SAMPLES, SNIPPET_SAMPLES, frame_tensor, log_mel
from .fusion import SNIPPET_SECONDS, Fusion
from .labels import AUDIBLE_IDS, AUDIBLE_INDEX, VISIBLE_IDS
from .quant import fake_quant_weights
from .train_fusion import Pool, collate, draw_scene, story

OFFSETS = np.array([0.24, 0.72], np.float32)
STAGED_SNIPPETS = 40
# Visible labels that COCO has classes for.
DETECTED = frozenset({"person", "dog", "cat", "bird", "farm_animal", "wild_animal", "car", "motorbike", "train",
                      "aircraft", "boat", "screen"})  # fmt: skip
Rules = dict[str, dict[str, dict[str, Any]]]


def rounded(fusion: Fusion) -> Fusion:
    """A copy with the weights that the int8 files hold."""
    return fake_quant_weights(copy.deepcopy(fusion)).eval()


# ---------------------------------------------------------------- composed scenes


def scene_table(outcomes: dict[str, calibrate.Outcome], rules: Rules) -> list[dict]:
    """One row per label: counts, snippet AP and F1, events at the default thresholds."""
    rows = []
    for kind in ("audible", "visible"):
        outcome = outcomes[kind]
        probability = outcome.probability()
        for i, name in enumerate(outcome.ids):
            rule = rules[kind][name]
            known = outcome.weight[..., i] >= 0.5
            true = outcome.target[..., i][known] >= 0.5
            on, off = rule["thresholds"]["low_false_alarm"]["on"], rule["thresholds"]["low_false_alarm"]["off"]
            counts = calibrate.count_events(outcome, i, on, off, rule["min_snippets"])
            rows.append({
                "kind": kind, "label": name, "enabled": rule["enabled"],
                "experimental": rule["experimental"], "snippets": int(true.sum()),
                "ap": calibrate.average_precision(probability[..., i][known], true),
                "f1": calibrate.snippet_f1(outcome, i, rule["thresholds"]["best_f1"]["on"]),
                "events": counts["there"], "found": counts["found"], "made": counts["true"] + counts["false"],
                "false": counts["false"], "false_per_hour": counts["false"] / calibrate.hours(outcome),
            })  # fmt: skip
    return rows


def curves(outcomes: dict[str, calibrate.Outcome], points: int = 40) -> dict[str, Any]:
    """Numbers behind the plots: reliability and precision-recall over all labels, confusion of what is heard."""
    result: dict[str, Any] = {}
    for kind in ("audible", "visible"):
        outcome = outcomes[kind]
        known = outcome.weight >= 0.5
        p, true = outcome.probability()[known], outcome.target[known] >= 0.5
        place = np.clip((p * 10).astype(int), 0, 9)
        bins = [place == k for k in range(10)]
        rows = [[float(p[b].mean()), float(true[b].mean()), int(b.sum())] for b in bins if b.any()]
        result[f"{kind}_reliability"] = rows
        order = np.argsort(-p, kind="stable")
        hits = np.cumsum(true[order])
        at = np.unique(np.linspace(0, len(p) - 1, 4000).astype(int))
        recall, precision = hits[at] / max(1, hits[-1]), hits[at] / (at + 1)
        grid = np.linspace(0.0, 1.0, points)
        best = [float(precision[recall >= r].max(initial=0.0)) for r in grid]
        result[f"{kind}_precision_recall"] = [[float(r), b] for r, b in zip(grid, best, strict=True)]
    outcome = outcomes["audible"]
    alone = ((outcome.target >= 0.5) & (outcome.weight > 0)).sum(-1) == 1
    true, said = outcome.target[alone].argmax(-1), outcome.probability()[alone].argmax(-1)
    matrix = np.zeros((len(outcome.ids), len(outcome.ids)), int)
    np.add.at(matrix, (true, said), 1)
    result["confusion"] = matrix.tolist()
    return result


def attention(fusion: Fusion, pool: Pool, scenes_: int = 16) -> dict[str, list[list[float]]]:
    """What the Combiner's summaries read: mean weight of each output token on each token of its own modality."""
    combiner = fusion.combiner
    if not hasattr(combiner, "read_video"):
        return {}
    rng = np.random.default_rng(41)
    sums: dict[str, list[np.ndarray]] = {"video": [], "audio": []}
    with torch.no_grad():
        for k in range(min(scenes_, len(pool.audio["tokens"]))):
            batch = collate([draw_scene(rng, pool, scenes.SNIPPETS, audio_track=k)])
            names = ("video", "audio", "frame_present", "audio_present", "frame_offset")
            video, audio, seen, heard = combiner.stamp(*(batch[name].flatten(0, 1) for name in names))
            for name, tokens, reader in (("video", video, combiner.read_video), ("audio", audio, combiner.read_audio)):
                sums[name].append(torch.softmax(reader.scores(tokens), dim=1).mean(0).T.numpy())
    return {name: np.mean(values, axis=0).round(4).tolist() for name, values in sums.items()}


# ---------------------------------------------------------------- staged scenes


def staged_scene(rng: np.random.Generator, sounds: scenes.AudioBank, views: scenes.VideoBank) -> dict[str, Any]:
    """Five acts in random order with pauses: a person in view speaks, a phone rings off camera, a cat or dog is in view
    and silent, a dog barks off camera, glass breaks. Room noise below, an empty or plain view between."""
    acts = ["speech", "phone_ring", "silent", "dog_bark", "glass_break"]
    rng.shuffle(acts)
    track, frames = scenes.AudioTrack(STAGED_SNIPPETS), []
    track.wave = ad.add_noise(track.wave, rng, rng.uniform(-68.0, -52.0), rng.choice([1.0, 1.5, 2.0]))
    animal = "cat" if views.by_label["cat"] and rng.random() < 0.5 else "dog"
    heard, seen = [], []
    for act in acts:
        pause, length = int(rng.integers(4, 8)), int(rng.integers(6, 10))
        subject = {"speech": "face" if rng.random() < 0.5 else "person", "silent": animal}.get(act)
        frames += list(_view(rng, views, None, pause))
        begin = len(frames) * SNIPPET_SECONDS / 2
        frames += list(_view(rng, views, subject, length))
        if act != "silent":
            group = sounds.groups[act]
            source = group[rng.integers(len(group))]
            wave = source.clip.wave()[: int(length * SNIPPET_SECONDS / 2 * ad.SAMPLE_RATE)]
            wave = wave * scenes.gain(rng, wave, -32.0, -16.0)
            at = int((begin + rng.uniform(0.0, 0.9)) * ad.SAMPLE_RATE)
            track.place(source, wave, at, sounds.others(source.clip, len(source.active)))
            heard.append(act)
        if subject:
            seen.append("person" if subject == "face" else subject)
    frames = frames[: 2 * STAGED_SNIPPETS] + [frames[-1]] * max(0, 2 * STAGED_SNIPPETS - len(frames))
    wave = np.lib.stride_tricks.sliding_window_view(ad.to_pcm(track.wave), PATCH_SAMPLES)[::SNIPPET_SAMPLES]
    return {"mel": log_mel(wave), "frames": np.stack(frames), "heard": heard, "seen": seen}


def _view(rng: np.random.Generator, views: scenes.VideoBank, subject: str | None, count: int) -> np.ndarray:
    if subject is None:
        back = views.nothing(rng) if rng.random() < 0.3 else None
        picture = [] if back is None else [back]
        return vd.render_view(rng, picture, count, degrade=False, still=True).frames
    where = views.by_label[subject]
    picture = views.pictures[where[rng.integers(len(where))]]
    return vd.render_view(rng, [picture], count, degrade=False, whole=True).frames


def stream_scene(streamer: Streamer, mel: np.ndarray | None, frames: np.ndarray | None) -> dict[str, np.ndarray]:
    """Logits per snippet of a scene through the files, from fresh state."""
    streamer.reset()
    rows: dict[str, list[np.ndarray]] = {"audible": [], "visible": [], "source": []}
    previous, count = None, len(mel) if mel is not None else len(frames) // 2
    for s in range(count):
        tensors: list[np.ndarray | None] = [None, None]
        if frames is not None:
            for k in range(2):
                tensors[k] = frame_tensor(frames[2 * s + k], previous)
                previous = frames[2 * s + k]
        inputs = streamer.encode(tensors, None if mel is None else mel[s].astype(np.float32))
        out = streamer.snippet(inputs, OFFSETS, SNIPPET_SECONDS)
        for name, values in rows.items():
            values.append(out[name][0])
    return {name: np.stack(values) for name, values in rows.items()}


def made_events(logits: dict[str, np.ndarray], rules: Rules, mode: str) -> list[tuple[str, int]]:
    """(label, first snippet) of every event that enabled labels make."""
    found = []
    for kind, ids in (("audible", AUDIBLE_IDS), ("visible", VISIBLE_IDS)):
        probability = 1.0 / (1.0 + np.exp(-logits[kind]))
        for i, name in enumerate(ids):
            rule = rules[kind][name]
            if rule["enabled"]:
                limits = rule["thresholds"][mode]
                limits = (limits["on"], limits["off"], rule["min_snippets"])
                stretches = calibrate.stretches(probability[:, i], *limits, heard=kind == "audible")
                found += [(f"{kind}:{name}", first) for first, _ in stretches]
    return found


def staged_report(
    scenes_made: list[dict[str, Any]], logits: list[dict[str, np.ndarray]], rules: Rules, mode: str = "low_false_alarm"
) -> dict[str, Any]:
    """How many staged events were made, and what else was."""
    expected = found = extra = perfect = 0
    missed: dict[str, int] = {}
    unexpected: dict[str, int] = {}
    for scene, out in zip(scenes_made, logits, strict=True):
        wanted = {f"audible:{a}" for a in scene["heard"]} | {f"visible:{v}" for v in scene["seen"]}
        allowed = wanted | ({"visible:face"} if "person" in scene["seen"] else set())
        made = {name for name, _ in made_events(out, rules, mode)}
        expected, found, extra = expected + len(wanted), found + len(wanted & made), extra + len(made - allowed)
        perfect += wanted <= made <= allowed
        for name in wanted - made:
            missed[name] = missed.get(name, 0) + 1
        for name in made - allowed:
            unexpected[name] = unexpected.get(name, 0) + 1
    return {"scenes": len(scenes_made), "expected": expected, "found": found, "extra": extra, "perfect": perfect,
            "missed": missed, "unexpected": unexpected}  # fmt: skip


def quiet_report(
    streamer: Streamer, sounds: scenes.AudioBank, views: scenes.VideoBank, rules: Rules, count: int, seed: int
) -> dict[str, Any]:
    """Events made while nothing happens: recorded or synthetic room noise, views of things that have no label.

    Recorded noise holds birds and voices; what YAMNet hears in it too is counted apart, as `heard_by_teacher`.
    """
    made: dict[str, int] = {}
    heard: dict[str, int] = {}
    for n in range(count):
        rng = np.random.default_rng([seed, n])
        track = scenes.AudioTrack()
        scenes.bed(rng, sounds, track)
        wave = np.lib.stride_tricks.sliding_window_view(ad.to_pcm(track.wave), PATCH_SAMPLES)[::SNIPPET_SAMPLES]
        frames = vd.render_view(rng, [views.nothing(rng)], scenes.FRAMES, degrade=bool(rng.random() < 0.5)).frames
        for name, _ in made_events(stream_scene(streamer, log_mel(wave), frames), rules, "low_false_alarm"):
            label = AUDIBLE_INDEX[name.split(":")[1]] if name.startswith("audible:") else None
            counts = heard if label is not None and track.unknown[:, label].any() else made
            counts[name] = counts.get(name, 0) + 1
    length = count * scenes.SNIPPETS * SNIPPET_SECONDS / 3600.0
    return {"hours": length, "events": made, "per_hour": sum(made.values()) / length, "heard_by_teacher": heard}


# ---------------------------------------------------------------- clips and pictures


# Ways to make one score of a clip out of the logits of its snippets [T, labels].
POOLS = {
    "mean probability": lambda x: (1.0 / (1.0 + np.exp(-x))).mean(axis=0),
    "mean logit": lambda x: 1.0 / (1.0 + np.exp(-x.mean(axis=0))),
    "highest probability": lambda x: 1.0 / (1.0 + np.exp(-x.max(axis=0))),
}


def clip_scores(streamer: Streamer, clips: list[ad.Clip]) -> dict[str, np.ndarray]:
    """[clips, labels] by each of POOLS: over each clip alone, from fresh state, without a camera."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name in POOLS}
    for clip in clips:
        count = max(1, -(-len(clip.samples) // SNIPPET_SAMPLES))
        wave = np.zeros(CARRY_SAMPLES + count * SNIPPET_SAMPLES, np.float32)
        wave[CARRY_SAMPLES : CARRY_SAMPLES + len(clip.samples)] = clip.wave()
        mel = log_mel(np.lib.stride_tricks.sliding_window_view(wave, PATCH_SAMPLES)[::SNIPPET_SAMPLES])
        logits = stream_scene(streamer, mel, None)["audible"]
        for name, pooled in POOLS.items():
            rows[name].append(pooled(logits))
    return {name: np.stack(values) for name, values in rows.items()}


def named(score: np.ndarray, silence: float) -> list[str]:
    """The loudest class; `background`, which a scene can have beside anything, where no other reaches `silence`."""
    classes = [i for i, name in enumerate(AUDIBLE_IDS) if name not in (ad.PHONE_RING, "background")]
    best = score[:, classes].argmax(axis=1)
    reached = score[:, classes].max(axis=1) >= silence
    return [AUDIBLE_IDS[classes[b]] if there else "background" for b, there in zip(best, reached, strict=True)]


def clip_accuracy(streamer: Streamer, clips: list[ad.Clip], validation: list[ad.Clip]) -> dict[str, Any]:
    """One of 39 classes per clip. The pool, and what counts as nothing but background, are set on validation clips."""
    score, known = clip_scores(streamer, validation), [clip.label for clip in validation]

    def right(choice: tuple[str, float]) -> float:
        said = named(score[choice[0]], choice[1])
        return float(np.mean([a == b for a, b in zip(said, known, strict=True)]))

    choices = [(pool, float(silence)) for pool in POOLS for silence in np.linspace(0.02, 0.6, 30)]
    pool, silence = max(choices, key=right)
    hits: dict[str, list[bool]] = {}
    for clip, said in zip(clips, named(clip_scores(streamer, clips)[pool], silence), strict=True):
        hits.setdefault(clip.label, []).append(said == clip.label)
    flat = [h for rows in hits.values() for h in rows]
    recall = {label: float(np.mean(rows)) for label, rows in hits.items()}
    return {"clips": len(flat), "accuracy": float(np.mean(flat)), "macro_recall": float(np.mean(list(recall.values()))),
            "pool": pool, "silence": silence, "validation_accuracy": right((pool, silence)),
            "recall": recall}  # fmt: skip


def picture_scores(streamer: Streamer, pictures: list[vd.Picture], rules: Rules) -> dict[str, dict[str, float]]:
    """AP per visible label over whole test pictures shown still for one snippet, sound missing.

    Twice: against human labels alone, where negatives are few, and with assumed negatives (catalogue pictures of
    something else in which the detector finds nothing of the label). F1 on human labels alone, at the `best_f1`
    threshold, beside YOLOX-nano's at 0.3 on the full-size picture for the labels it knows.
    """
    stills = [vd.whole_view(picture) for picture in pictures]
    score = np.stack([stream_scene(streamer, None, np.stack([still, still]))["visible"][0] for still in stills])
    human, assumed = (np.stack([vd.scoring_labels(p, more) for p in pictures]) for more in (False, True))
    table: dict[str, dict[str, float]] = {}
    for i, name in enumerate(VISIBLE_IDS):
        table[name] = {}
        for key, truth in (("human", human[:, i]), ("assumed", assumed[:, i])):
            known = np.isfinite(truth)
            true = truth[known] >= 0.5
            table[name] |= {"positive": int(true.sum()), f"{key}_negative": int((~true).sum()),
                            f"{key}_ap": calibrate.average_precision(score[known, i], true)}  # fmt: skip
        known = np.isfinite(human[:, i])
        true, said = human[known, i] >= 0.5, 1.0 / (1.0 + np.exp(-score[known, i]))
        table[name]["f1"] = intervals.f1(said >= rules["visible"][name]["thresholds"]["best_f1"]["on"], true)
        if name in DETECTED:
            detector = np.array([picture.detector_score(name) for picture in pictures])[known]
            table[name]["yolox_f1"] = intervals.f1(detector >= 0.3, true)
    return table


# ---------------------------------------------------------------- sentences


CLAUSES = {**{f"hear:{a}": c for a, c in text.HEARD.items()}, **{f"see:{v}": c for v, c in text.SEEN.items()},
           **{f"over:{a}": f"over {c}" for a, c in text.OVER.items()}, "off camera": "off camera"}  # fmt: skip


def mentioned(sentence: str) -> set[str]:
    """Labels that a sentence speaks of."""
    found = {name for name, clause in CLAUSES.items() if re.search(rf"\b{re.escape(clause)}\b", sentence)}
    if ", in view" in sentence:
        found.add("in view")
    return found


def label_f1(said: str, right: str) -> float:
    """F1 of the things that a sentence names; of sentences that name nothing, whether they are the same."""
    a, b = mentioned(said), mentioned(right)
    return 2.0 * len(a & b) / (len(a) + len(b)) if a or b else float(said == right)


def claim(rules: Rules, outcomes: dict[str, np.ndarray], truth: stories.Truth) -> stories.Truth:
    """What probabilities [T, labels] claim at the `best_f1` thresholds, in the form of a truth."""
    said = {}
    for sense, (kind, ids) in enumerate((("audible", AUDIBLE_IDS), ("visible", VISIBLE_IDS))):
        on = np.array([rules[kind][name]["thresholds"]["best_f1"]["on"] for name in ids])
        said[kind] = (outcomes[kind] >= on).astype(np.float32)
        if truth.present is not None:
            said[kind] *= truth.present[: len(said[kind]), sense : sense + 1]
    ones = [np.ones_like(said[kind]) for kind in ("audible", "visible")]
    return stories.Truth(said["audible"], ones[0], said["visible"], ones[1], truth.start, truth.present)


def sentence_scores(streamer: Streamer, pool: Pool, rules: Rules, count: int, seed: int = 5) -> dict[str, Any]:
    """Greedy sentences for random moments of test scenes, per kind of prompt."""
    rng = np.random.default_rng(seed)
    result: dict[str, dict[str, list[float]]] = {}
    samples = []
    while sum(len(v["exact"]) for v in result.values()) < count:
        track = int(rng.integers(len(pool.audio["tokens"])))
        scene = draw_scene(rng, pool, scenes.SNIPPETS, audio_track=track)
        truth, scores = story(scene), {kind: [] for kind in ("audible", "visible")}
        streamer.reset()
        for t in range(scenes.SNIPPETS):
            feed = {"video_tokens": scene["video"][None, t], "audio_tokens": scene["audio"][None, t],
                    "frame_present": scene["frame_present"][None, t], "audio_present": scene["audio_present"][None, t]}
            out = streamer.snippet({k: v.astype(np.float32) for k, v in feed.items()}, OFFSETS, SNIPPET_SECONDS)
            for kind, rows in scores.items():
                rows.append(1.0 / (1.0 + np.exp(-out[kind][0])))
            if t % 6 != 5:
                continue
            claims = claim(rules, {kind: np.stack(rows) for kind, rows in scores.items()}, truth)
            made = stories.sample(rng, truth, t, claims)
            if made is None:
                continue
            prompt, answer = made
            kind = next(k for k in stories.SHARES if text.token_ids()[f"<{k}>"] in prompt)
            said, wanted = text.decode(streamer.write(prompt)), text.decode(answer)
            row = result.setdefault(kind, {"exact": [], "f1": [], "template_f1": []})
            row["exact"].append(float(said == wanted))
            row["f1"].append(label_f1(said, wanted))
            if kind != "ask":
                label = next((text.vocabulary()[i] for i in reversed(prompt[:-1])), "")
                composed = kind == "caption"
                template = stories.caption_text(claims, t) if composed else stories.event_text(claims, t, label)
                row["template_f1"].append(label_f1(template, wanted))
            samples.append({"prompt": text.decode(prompt) or _prompt_name(prompt), "said": said, "truth": wanted})
    table = {kind: {"count": len(v["exact"]), "exact": float(np.mean(v["exact"])), "label_f1": float(np.mean(v["f1"])),
                    "template_f1": float(np.mean(v["template_f1"])) if v["template_f1"] else None}
             for kind, v in result.items()}  # fmt: skip
    return {"table": table, "samples": samples}


def _prompt_name(prompt: list[int]) -> str:
    return " ".join(text.vocabulary()[i] for i in prompt[:-1])


# ---------------------------------------------------------------- onset phase


def onset_sweep(streamer: Streamer, groups: dict[str, list[scenes.Source]], rules: Rules, phases: int = 8,
                labels: tuple[str, ...] = ("dog_bark", "glass_break", "knock", "cough", "door"),
                ) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Recall at the default threshold by the place of a sound's onset within a snippet, over faint room noise."""
    table = {}
    for label in labels:
        rule, column = rules["audible"][label], AUDIBLE_INDEX[label]
        limits, recall = rule["thresholds"]["low_false_alarm"], []
        for phase in range(phases):
            hits = []
            for n, source in enumerate(groups[label]):
                rng = np.random.default_rng([phase, n])
                track = scenes.AudioTrack(8)
                track.wave = ad.add_noise(track.wave, rng, -65.0)
                wave = source.clip.wave()
                wave = wave[int(np.flatnonzero(source.active)[0]) * scenes.BLOCK :]
                at = CARRY_SAMPLES + 2 * SNIPPET_SAMPLES + phase * SNIPPET_SAMPLES // phases
                wave = wave * scenes.gain(rng, wave, -25.0, -24.0)
                track.place(source, wave, at, np.zeros((1, len(AUDIBLE_IDS)), bool))
                mel = log_mel(np.lib.stride_tricks.sliding_window_view(track.wave, PATCH_SAMPLES)[::SNIPPET_SAMPLES])
                p = 1.0 / (1.0 + np.exp(-stream_scene(streamer, mel, None)["audible"][:, column]))
                hits.append(bool(calibrate.stretches(p, limits["on"], limits["off"], rule["min_snippets"])))
            recall.append(float(np.mean(hits)))
        table[label] = {"clips": len(groups[label]), "recall": recall}
    return table
