"""Makes `answers.json`: score histories, questions and what the Python reference answers. From the repository's root:

    PYTHONPATH=models/train python runtime/tests/goldens/answers.py

A history's scores are `low` but for those listed as [snippet, label, score]; `absent` lists [snippet, sense].
Thresholds are the file's own, so that another bundle's do not matter.
"""

import json
from pathlib import Path

import numpy as np

from girasol_train import questions, stories, text
from girasol_train.labels import AUDIBLE_IDS, VISIBLE_IDS

HERE = Path(__file__).parent
WINDOW, LOW = 64, 0.05
# Snippets of each history; the longest ones are longer than the window.
LENGTHS = (1, 2, 8, 20, 40, 64, 65, 90)
ASKED = 45
SENSES = {"hear": AUDIBLE_IDS, "see": VISIBLE_IDS}
ON = {sense: [round(0.3 + 0.05 * (i % 9), 2) for i in range(len(ids))] for sense, ids in SENSES.items()}
OTHER = ("what is seen?", "is a dog happy?", "speaking?", "when?")


def history(rng: np.random.Generator, count: int, missing: str = "") -> dict:
    gaps = np.where(rng.random(count) < 0.05, rng.integers(1, 12, count), 1)
    scores, absent = [], []
    for k in range(count):
        for sense, ids in SENSES.items():
            if rng.random() < 0.1 or sense == missing:
                absent.append([k, sense])
            for i in rng.choice(len(ids), rng.integers(0, 3), replace=False):
                # Two of three near the threshold, on either side or at it.
                near = rng.choice([-0.01, 0.0, 0.01, 0.2, -0.2, 0.3])
                scores.append([k, f"{sense}:{ids[i]}", round(ON[sense][i] + float(near), 2)])
    return {"starts_ms": (np.cumsum(gaps) * 960).tolist(), "scores": scores, "absent": absent}


def decisions(made: dict) -> stories.Truth:
    """The last `WINDOW` snippets as decisions, as `evaluate.claim` makes them of predictions."""
    count, tables = len(made["starts_ms"]), {}
    present = np.ones((count, 2), bool)
    for place, (sense, ids) in enumerate(SENSES.items()):
        table = np.full((count, len(ids)), LOW)
        for k, label, score in made["scores"]:
            if label.startswith(f"{sense}:"):
                table[k, ids.index(label.split(":")[1])] = score
        table = (table >= np.array(ON[sense])).astype(np.float32)
        for k, absent in made["absent"]:
            if absent == sense:
                table[k], present[k, place] = 0.0, False
        tables[sense] = table[-WINDOW:]
    ones = {sense: np.ones_like(table) for sense, table in tables.items()}
    start = np.array(made["starts_ms"][-WINDOW:]) / 1e3
    return stories.Truth(tables["hear"], ones["hear"], tables["see"], ones["see"], start, present[-WINDOW:])


def main() -> None:
    rng = np.random.default_rng(7)
    forms = [(form["kind"], form.get("label", ""), words) for form in questions.forms() for words in form["words"]]
    cases = []
    for count, missing in [*((count, "") for count in LENGTHS), (20, "hear"), (20, "see")]:
        made = history(rng, count, missing)
        truth = decisions(made)
        # The long histories are asked everything.
        chosen = range(len(forms)) if count == max(LENGTHS) else sorted(rng.choice(len(forms), ASKED, replace=False))
        asked = []
        for kind, label, words in (forms[n] for n in chosen):
            said = stories.answer(truth, len(truth.start) - 1, kind, label)
            asked.append([words, text.decode(text.encode(said)[: text.MAX_OUTPUT])])
        cases.append(made | {"asked": asked + [[words, None] for words in OTHER]})
    labels = {sense: [[label, on] for label, on in zip(ids, ON[sense], strict=True)] for sense, ids in SENSES.items()}
    rows = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    head = json.dumps({"low": LOW, "labels": labels}, separators=(",", ":"))
    (HERE / "answers.json").write_text(f'{head[:-1]},"cases":[\n{rows}\n]}}\n')


if __name__ == "__main__":
    main()
