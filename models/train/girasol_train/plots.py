"""Small SVG plots of what the other stages measured: no library, one file each, a few kilobytes."""

from __future__ import annotations

import json
import pathlib
from typing import Any

from .labels import AUDIBLE_IDS

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 460, 300, 54, 40, 28, 130
COLOURS = ("#1b6ca8", "#d1495b", "#3a7d44", "#edae49", "#6b4e9b", "#444444")
Series = dict[str, list[tuple[float, float]]]


def frame(title: str, width: int, height: int, body: list[str]) -> str:
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        'font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="17" font-size="13">{title}</text>', *body, "</svg>", "",
    ])  # fmt: skip


def lines(title: str, x_name: str, y_name: str, series: Series, square: bool = False) -> str:
    """Line plot; `square`: both axes from 0 to 1 with the diagonal."""
    points = [p for values in series.values() for p in values]
    x0, x1 = (0.0, 1.0) if square else (min(p[0] for p in points), max(p[0] for p in points))
    y0, y1 = (0.0, 1.0) if square else (0.0, max(p[1] for p in points))
    right, base = WIDTH - RIGHT, HEIGHT - BOTTOM

    def place(x: float, y: float) -> str:
        across = LEFT + (x - x0) / ((x1 - x0) or 1.0) * (right - LEFT)
        return f"{across:.1f},{base - (y - y0) / ((y1 - y0) or 1.0) * (base - TOP):.1f}"

    body = [f'<path d="M{LEFT},{TOP}V{base}H{right}" fill="none" stroke="black"/>']
    for k in range(5):
        x, y = x0 + k / 4 * (x1 - x0), y0 + k / 4 * (y1 - y0)
        (ax, _), (_, ay) = place(x, y0).split(","), place(x0, y).split(",")
        body.append(f'<text x="{ax}" y="{base + 14}" text-anchor="middle">{x:.4g}</text>')
        body.append(f'<text x="{LEFT - 5}" y="{ay}" text-anchor="end" dominant-baseline="middle">{y:.3g}</text>')
    body.append(f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{x_name}</text>')
    middle = (TOP + base) / 2
    body.append(f'<text transform="translate(13,{middle}) rotate(-90)" text-anchor="middle">{y_name}</text>')
    if square:
        body.append(f'<path d="M{place(0, 0)}L{place(1, 1)}" stroke="#bbbbbb" stroke-dasharray="4"/>')
    for k, (name, values) in enumerate(series.items()):
        colour = COLOURS[k % len(COLOURS)]
        path = "L".join(place(*p) for p in values)
        body.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        body.append(f'<text x="{right + 8}" y="{TOP + 14 * k + 8}" fill="{colour}">{name}</text>')
    return frame(title, WIDTH, HEIGHT, body)


def heat(title: str, matrix: list[list[float]], rows: list[str], columns: list[str], cell: int = 11) -> str:
    """Shares by colour; each row is scaled to its sum."""
    left, top = 120, 120
    body = []
    for i, row in enumerate(matrix):
        total = sum(row) or 1.0
        y = top + i * cell
        body.append(f'<text x="{left - 4}" y="{y + cell - 2}" text-anchor="end" font-size="9">{rows[i]}</text>')
        for j, value in enumerate(row):
            share = value / total
            if share >= 0.01:
                shade = round(255 * (1.0 - share))
                body.append(f'<rect x="{left + j * cell}" y="{y}" width="{cell}" height="{cell}" '
                            f'fill="rgb({shade},{shade},255)"/>')  # fmt: skip
    for j, name in enumerate(columns):
        x = left + j * cell + cell - 2
        body.append(f'<text transform="translate({x},{top - 4}) rotate(-90)" font-size="9">{name}</text>')
    width, height = left + len(columns) * cell, top + len(rows) * cell
    size = f'width="{width - left}" height="{height - top}"'
    body.append(f'<rect x="{left}" y="{top}" {size} fill="none" stroke="black"/>')
    return frame(title, width + 12, height + 12, body)


def training_series(log: pathlib.Path) -> Series:
    """Losses over steps; each scaled to its value at the start."""
    entries = [json.loads(line) for line in log.read_text().splitlines() if line.strip()]
    latest: dict[int, dict[str, float]] = {e["step"]: e for e in entries}  # a resumed run may say a step twice
    steps = sorted(latest)
    names = [n for n in latest[steps[0]] if n not in ("step", "seconds")] if steps else []
    names = [n for n in names if not n.startswith("taught")]
    first = {n: latest[steps[0]][n] or 1.0 for n in names}
    return {n: [(float(s), latest[s][n] / first[n]) for s in steps if n in latest[s]] for n in names}


def write(report: dict[str, Any], logs: dict[str, pathlib.Path], folder: pathlib.Path) -> list[str]:
    """All plots for which there are numbers; returns the file names."""
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, str] = {}
    for name, log in logs.items():
        series = training_series(log)
        if series:
            title = "Student" if name == "fusion" else "Teacher"
            made[f"training-{name}.svg"] = lines(f"{title}: losses, first value = 1", "step", "loss", series)
    curves = report.get("curves", {})
    kinds = [k for k in ("audible", "visible") if f"{k}_reliability" in curves]
    if kinds:
        reliability = {k: [(p, share) for p, share, _ in curves[f"{k}_reliability"]] for k in kinds}
        made["reliability.svg"] = lines("Reliability", "probability said", "share true", reliability, square=True)
        precision = {k: [tuple(p) for p in curves[f"{k}_precision_recall"]] for k in kinds}
        made["precision-recall.svg"] = lines("Precision and recall", "recall", "precision", precision, square=True)
        names = list(AUDIBLE_IDS)
        made["confusion.svg"] = heat("Heard (row: truth, column: highest score)", curves["confusion"], names, names)
    for kind, matrix in report.get("attention", {}).items():
        columns = [f"{kind} {k}" for k in range(len(matrix[0]))]
        title = f"What the Combiner's {kind} summaries read"
        made[f"attention-{kind}.svg"] = heat(title, matrix, [f"summary {k}" for k in range(len(matrix))], columns, 16)
    for name, content in made.items():
        (folder / name).write_text(content)
    return sorted(made)
