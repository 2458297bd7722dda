"""Figures over clips or scenes with 95 % bootstrap intervals, paired where systems saw the same ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .calibrate import average_precision


def mean_ap(score: np.ndarray, target: np.ndarray, weight: np.ndarray, skip: frozenset[int] = frozenset()) -> float:
    """Over the labels that occur; arrays [clips, snippets, labels]."""
    values = []
    for label in range(score.shape[-1]):
        known = weight[..., label] >= 0.5
        true = target[..., label][known] >= 0.5
        if label not in skip and true.any():
            values.append(average_precision(score[..., label][known], true))
    return float(np.mean(values)) if values else float("nan")


def f1(said: np.ndarray, true: np.ndarray) -> float:
    return float(2.0 * (said & true).sum() / max(1, said.sum() + true.sum()))


def macro_f1(said: np.ndarray, target: np.ndarray, weight: np.ndarray) -> float:
    """Over the labels that occur; arrays [clips, snippets, labels]."""
    values = []
    for label in range(said.shape[-1]):
        known = weight[..., label] >= 0.5
        true = target[..., label][known] >= 0.5
        if true.any():
            values.append(f1(said[..., label][known], true))
    return float(np.mean(values)) if values else float("nan")


def intervals(figures: dict[str, Callable[[np.ndarray], float]], count: int, pairs: Sequence[tuple[str, str]],
              resamples: int, seed: int = 37) -> dict[str, dict[str, float]]:  # fmt: skip
    """Each figure over all clips with its 95 % bootstrap interval, and the paired differences of `pairs`.

    A figure takes the indices of the clips to use; all figures see the same resamples.
    """
    rng = np.random.default_rng(seed)
    everything = np.arange(count)
    drawn = {name: [] for name in figures}
    for _ in range(resamples):
        picked = rng.integers(count, size=count)
        for name, figure in figures.items():
            drawn[name].append(figure(picked))
    whole = {name: figure(everything) for name, figure in figures.items()}

    def entry(value: float, values: np.ndarray) -> dict[str, float]:
        low, high = np.nanpercentile(values, [2.5, 97.5]) if np.isfinite(values).any() else (np.nan, np.nan)
        return {"value": value, "low": float(low), "high": float(high)}

    table = {name: entry(whole[name], np.array(values)) for name, values in drawn.items()}
    for a, b in pairs:
        table[f"{a} - {b}"] = entry(whole[a] - whole[b], np.array(drawn[a]) - np.array(drawn[b]))
    return table
