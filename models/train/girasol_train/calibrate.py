"""Turn logits into decisions: calibration per label, thresholds, and which labels may make events at all.

Measured on validation scenes: every audio track once, beside a random video track, nothing missing. A *false event* is
a stretch of hysteresis (`on`, `off`) that touches no snippet where the label is true or unknown, nor the next to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from . import scenes
from .fusion import SNIPPET_SECONDS, Fusion
from .labels import AMBIENCE, AUDIBLE_IDS, VISIBLE_IDS
from .train_fusion import Pool, collate, draw_scene, maker_matrix

# False alarms allowed per hour of composed scenes, which hold about a thousand other sounds and five hundred cuts an
# hour, far more than a home: most for what people want to know about, less for the rest. Of what they want, a label
# that cannot keep to its rate is off, with thresholds of the last rate for who switches it on.
FALSE_PER_HOUR = {"audible": 0.5, "visible": 0.5}
WANTED_PER_HOUR, AT_MOST_PER_HOUR = 1.0, 3.0
WANTED = frozenset({"alarm", "baby_cry", "cat_meow", "cough", "dog_bark", "glass_break", "knock", "phone_ring", "siren",
                    "speech", "person", "face", "dog", "cat"})  # fmt: skip
LOWEST_ON, HIGHEST_ON = 0.3, 0.995
HEAD_MUST_ADD = 0.005  # AP over the rule, which is simpler and can be explained; less is chance between two trainings
OFF_SHARE = 0.6
# Snippets, of what is heard and of what is seen: the runtime's default settings. Nothing begins in those that start
# within the cooldown of 2 s or 5 s after an end.
RELEASE = {True: 2, False: 4}
COOLING = {True: 3, False: 6}
# A label is reliable if so many events, of which at least this share is found, have shown that it is.
MIN_EVENTS, MIN_RECALL = 8, 0.25
# Sounds that last may be confirmed by a second snippet, where validation finds more of them so; short ones must fire at
# once. Things seen may wait, too: views last.
LASTING = frozenset({*AMBIENCE, "aircraft", "breathing_snoring", "clock_tick", "fire_crackle", "household", "saw",
                       "sea_waves", "train", "typing_click", "footsteps", "phone_ring"})  # fmt: skip
# Off unless switched on: not an event, of no use around a home, or (a face) the same thing as another label again.
NEVER = frozenset({"background", "household", "wild_animal", "face"})


@dataclass
class Outcome:
    """Logits and truth [scenes, T, labels] of one kind of label."""

    ids: tuple[str, ...]
    logits: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    heard: bool = True

    def probability(self) -> np.ndarray:
        return 1.0 / (1.0 + np.exp(-self.logits))

    def only(self, label: int) -> Outcome:
        """The same for one label."""
        one = slice(label, label + 1)
        return Outcome(self.ids[one], self.logits[..., one], self.target[..., one], self.weight[..., one], self.heard)


@torch.no_grad()
def run_scenes(fusion: Fusion, pool: Pool, seed: int, repeats: int = 1) -> dict[str, Outcome]:
    """Clean scenes over the whole pool; each audio track `repeats` times, in order."""
    rng = np.random.default_rng(seed)
    tracks = list(range(len(pool.audio["tokens"]))) * repeats
    found: dict[str, list[np.ndarray]] = {}
    for first in range(0, len(tracks), 8):
        drawn = [draw_scene(rng, pool, scenes.SNIPPETS, audio_track=k) for k in tracks[first : first + 8]]
        out = fusion.scene(collate(drawn))
        for name in ("audible", "visible", "source"):
            found.setdefault(name, []).append(out[name].numpy())
            for suffix in ("", "_weight"):
                found.setdefault(f"true_{name}{suffix}", []).append(np.stack([d[name + suffix] for d in drawn]))
    joined = {name: np.concatenate(parts) for name, parts in found.items()}
    return {
        name: Outcome(ids, joined[name], joined[f"true_{name}"], joined[f"true_{name}_weight"], name != "visible")
        for name, ids in (("audible", AUDIBLE_IDS), ("visible", VISIBLE_IDS), ("source", AUDIBLE_IDS))
    }


# ---------------------------------------------------------------- calibration


def platt(logits: np.ndarray, target: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    """(scale, offset) of the logit, by damped Newton steps with a prior towards (1, 0); never worse than that."""
    x, y = logits[weight > 0].astype(np.float64), (target[weight > 0] >= 0.5).astype(np.float64)
    best = np.array([1.0, 0.0])
    if y.sum() < MIN_EVENTS:
        return 1.0, 0.0

    def cost(at: np.ndarray) -> float:
        z = at[0] * x + at[1]
        return float((np.logaddexp(0.0, z) - y * z).sum() + 2.5 * (at[0] - 1.0) ** 2 + at[1] ** 2)

    for _ in range(20):
        p = 1.0 / (1.0 + np.exp(-np.clip(best[0] * x + best[1], -30, 30)))
        v = p * (1.0 - p)
        gradient = np.array([(p - y) @ x + 5.0 * (best[0] - 1.0), (p - y).sum() + 2.0 * best[1]])
        hessian = np.array([[v @ (x * x) + 5.0, v @ x], [v @ x, v.sum() + 2.0]])
        step = np.linalg.solve(hessian, gradient)
        tries = [np.clip(best - step * 0.5**k, [0.5, -4.0], [2.0, 4.0]) for k in range(6)]
        better = next((t for t in tries if cost(t) < cost(best) - 1e-9), None)
        if better is None:
            break
        best = better
    return float(best[0]), float(best[1])


@torch.no_grad()
def fold_calibration(fusion: Fusion, outcomes: dict[str, Outcome]) -> dict[str, list[tuple[float, float]]]:
    """Fit every label on `outcomes` and fold the result into the head's weights."""
    used = {}
    for name, outcome in outcomes.items():
        columns = [np.moveaxis(v, -1, 0) for v in (outcome.logits, outcome.target, outcome.weight)]
        pairs = [platt(*label) for label in zip(*columns, strict=True)]
        scale, offset = (torch.tensor(v, dtype=torch.float32) for v in zip(*pairs, strict=True))
        head = fusion.latent.heads[name]
        head.weight.mul_(scale[:, None])
        head.bias.mul_(scale).add_(offset)
        outcome.logits = outcome.logits * scale.numpy() + offset.numpy()
        used[name] = pairs
    return used


# ---------------------------------------------------------------- events


def evidence(p: np.ndarray) -> np.ndarray:
    """[..., T] probability that a snippet or the one before has the label."""
    out = p.copy()
    out[..., 1:] = 1.0 - (1.0 - p[..., 1:]) * (1.0 - p[..., :-1])
    return out


def deciding(p: np.ndarray, confirm: int, heard: bool) -> np.ndarray:
    """[..., T] what has to reach `on`: of a sound for which one snippet is enough, together with the one before."""
    return evidence(p) if heard and confirm <= 1 else p


def stretches(p: np.ndarray, on: float, off: float, confirm: int = 1, heard: bool = True) -> list[tuple[int, int]]:
    """Events of one scene: [first, last] snippets, as the runtime's gate makes them (runtime/src/event/gate.rs).

    One begins after `confirm` snippets in a row at or above `on`, ends before `RELEASE` snippets in a row below `off`,
    and leaves `COOLING` snippets in which nothing begins and which count for nothing.
    """
    found, first, run, below, free = [], None, 0, 0, 0
    release, both = RELEASE[heard], deciding(p, confirm, heard)
    for t, own in enumerate(p):
        if first is None:
            if t < free:
                continue
            run = run + 1 if (both[t] if t > free else own) >= on else 0
            first, below = (t if run >= confirm else None), 0
            continue
        below = below + 1 if own < off else 0
        if below == release:
            found.append((first, t - release))
            first, run, free = None, 0, t + 1 + COOLING[heard]
    return found + ([(first, len(p) - 1)] if first is not None else [])


def runs(target: np.ndarray, weight: np.ndarray) -> list[tuple[int, int]]:
    """True stretches of one scene."""
    true = np.concatenate([[False], (target >= 0.5) & (weight > 0), [False]])
    edges = np.flatnonzero(true[1:] != true[:-1])
    return [(int(a), int(b) - 1) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def count_events(outcome: Outcome, label: int, on: float, off: float, confirm: int) -> dict[str, int]:
    """true / false events made, true events there were, and how many of those were found."""
    p, counts = outcome.probability()[..., label], {"true": 0, "false": 0, "there": 0, "found": 0}
    true = (outcome.target[..., label] >= 0.5).any(axis=1) | (deciding(p, confirm, outcome.heard) >= on).any(axis=1)
    for scene in np.flatnonzero(true):
        target, weight = outcome.target[scene, :, label], outcome.weight[scene, :, label]
        made = stretches(p[scene], on, off, confirm, outcome.heard)
        for first, last in made:
            near = slice(max(0, first - 1), last + 2)
            if ((target[near] >= 0.5) & (weight[near] > 0)).any():
                counts["true"] += 1
            elif (weight[near] >= 0.5).all() and (target[near] < 0.1).all():
                counts["false"] += 1
        for first, last in runs(target, weight):
            counts["there"] += 1
            counts["found"] += any(a <= last + 1 and b >= first - 1 for a, b in made)
    return counts


def hours(outcome: Outcome) -> float:
    return outcome.logits.shape[0] * outcome.logits.shape[1] * SNIPPET_SECONDS / 3600.0


def snippet_f1(outcome: Outcome, label: int, on: float) -> float:
    known = outcome.weight[..., label] >= 0.5
    said, true = outcome.probability()[..., label][known] >= on, outcome.target[..., label][known] >= 0.5
    return float(2.0 * (said & true).sum() / max(1, said.sum() + true.sum()))


def average_precision(score: np.ndarray, true: np.ndarray) -> float:
    order = np.argsort(-score, kind="stable")
    hit = true[order].astype(np.float64)
    return float((np.cumsum(hit) / np.arange(1, len(hit) + 1) * hit).sum() / hit.sum()) if hit.any() else float("nan")


# ---------------------------------------------------------------- source in view


def source_choice(outcomes: dict[str, Outcome]) -> dict[str, Any]:
    """Is a matching source in view: the model's own head, or the rule "one of its sources is seen"? AP and F1 of both
    where the sound truly is there; the rule ships unless the head's AP is clearly better."""
    makers, heard, source = maker_matrix(), outcomes["audible"], outcomes["source"]
    seen = outcomes["visible"].probability()
    rule = np.stack([seen[..., m > 0].max(axis=-1) if m.any() else np.zeros(seen.shape[:2]) for m in makers], axis=-1)
    pairs = (heard.target >= 0.5) & (heard.weight > 0) & (source.weight > 0) & (makers.sum(axis=1) > 0)
    true = source.target[pairs] >= 0.5
    report: dict[str, Any] = {"pairs": int(pairs.sum()), "true": int(true.sum())}
    for name, score in (("head", source.probability()[pairs]), ("rule", rule[pairs])):
        said = score >= 0.5
        f1 = 2.0 * (said & true).sum() / max(1, said.sum() + true.sum())
        # Without a positive there is no AP: 0, since the manifest is JSON and cannot hold "not a number".
        ap = average_precision(score, true) if true.any() else 0.0
        report[name] = {"ap": round(ap, 4), "f1": round(float(f1), 4)}
    report["shipped"] = "head" if report["head"]["ap"] > report["rule"]["ap"] + HEAD_MUST_ADD else "rule"
    return report


# ---------------------------------------------------------------- rules


def operating_point(outcome: Outcome, allowed: float, confirm: int) -> tuple[int, float, dict[str, int], bool]:
    """(confirm, on, events, whether false ones keep to `allowed`) of the lowest threshold that does, for one label."""
    for on in np.concatenate([np.arange(LOWEST_ON, 0.9, 0.02), np.arange(0.9, 0.98, 0.01), [0.98, 0.985, 0.99]]):
        counts = count_events(outcome, 0, on, OFF_SHARE * on, confirm)
        if counts["false"] <= allowed:
            return confirm, float(on), counts, True
    return confirm, HIGHEST_ON, count_events(outcome, 0, HIGHEST_ON, OFF_SHARE * HIGHEST_ON, confirm), False


def label_rule(validation: Outcome, test: Outcome, label: int, kind: str) -> dict[str, Any]:
    """Thresholds and standing of one label, and what they were decided on.

    Thresholds come from `validation`, and so does the standing, unless validation has fewer than `MIN_EVENTS` of it:
    then those of `test` say whether the label is on at all. An unreliable one is experimental, and off.
    """
    name, outcome, others = validation.ids[label], validation.only(label), test.only(label)
    confirms = (1, 2) if kind == "visible" or name in LASTING else (1,)
    per_hour = WANTED_PER_HOUR if name in WANTED else FALSE_PER_HOUR[kind]

    def best_point(per_hour: float) -> tuple[int, float, dict[str, int], bool]:
        points = [operating_point(outcome, per_hour * hours(outcome), n) for n in confirms]
        # Without events to find, nothing tells what waiting for a second snippet costs, but how much lower it lets the
        # threshold be.
        lowest = min(points, key=lambda p: p[1])
        return max(points, key=lambda p: (p[3], p[2]["found"], p is lowest and p[2]["there"] < MIN_EVENTS))

    def reliable(found: dict[str, Any]) -> bool:
        enough = found["there"] >= MIN_EVENTS and found["found"] >= MIN_RECALL * found["there"]
        return enough and found["false"] <= per_hour * found["hours"] and on < HIGHEST_ON

    confirm, on, counts, _ = best_point(per_hour)
    told = {"of": "validation", **counts, "hours": hours(outcome)}
    # Without events to find, the strict rate would ask for certainty, and nothing would say what that costs.
    if name in WANTED and not reliable(told):
        confirm, on, counts, _ = best_point(AT_MOST_PER_HOUR)
        told |= counts
    if told["there"] < MIN_EVENTS:
        told = {"of": "test", **count_events(others, 0, on, OFF_SHARE * on, confirm), "hours": hours(others)}
    usable = reliable(told)
    some = (outcome.target >= 0.5).any()
    best = float(max(np.arange(0.15, 0.9, 0.05), key=lambda c: snippet_f1(outcome, 0, c))) if some else LOWEST_ON
    return {
        "enabled": usable and name not in NEVER,
        "experimental": not usable,
        "thresholds": {
            "low_false_alarm": {"on": round(on, 3), "off": round(OFF_SHARE * on, 3)},
            "best_f1": {"on": round(best, 3), "off": round(OFF_SHARE * best, 3)},
        },
        "min_snippets": confirm,
        "evidence": told | {"hours": round(told["hours"], 2)},
    }


def label_rules(validation: dict[str, Outcome], test: dict[str, Outcome]) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        kind: {name: label_rule(validation[kind], test[kind], i, kind) for i, name in enumerate(validation[kind].ids)}
        for kind in ("audible", "visible")
    }
