"""The manifest's table of questions: all that `stories.pose` can ask, about the right label."""

from __future__ import annotations

import json
import pathlib

import numpy as np
from test_text import truth

from girasol_train import export, questions, stories, text
from girasol_train.labels import AUDIBLE_IDS, VISIBLE_IDS

BUNDLE = pathlib.Path(__file__).resolve().parents[2] / "bundle"


def asked() -> dict[str, tuple[str, str]]:
    return {words: (form["kind"], form.get("label", "")) for form in questions.forms() for words in form["words"]}


def test_the_table_covers_the_grammar():
    table, rng, t = asked(), np.random.default_rng(0), truth()
    assert sum(len(form["words"]) for form in questions.forms()) == len(table), "the same words twice"
    posed = set()
    for moment in rng.integers(10, size=8000):
        kind, label, words = stories.pose(rng, t, int(moment))
        assert table[words] == ("seen" if kind == "anyone" else kind, label), words
        posed.add(words)
    assert posed == set(table)


def test_phrases_and_replies_are_whole():
    table = questions.table()
    assert (tuple(table["hear"]), tuple(table["see"])) == (AUDIBLE_IDS, VISIBLE_IDS)
    assert table["unlisted"] == ["background"]
    phrases = [*table["hear"].values(), *table["see"].values(), *(phrase for phrase, _ in table["ages"])]
    for words in [*phrases, *(reply.replace("{}", "a dog") for reply in table["replies"].values())]:
        assert text.UNK not in text.encode(words), words


def test_the_shipped_manifest_has_this_table():
    assert json.loads((BUNDLE / "manifest.json").read_text())["questions"] == questions.table()


def test_renewing_changes_nothing_else(tmp_path: pathlib.Path):
    body = json.loads((BUNDLE / "manifest.json").read_text())
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({key: value for key, value in body.items() if key != "questions"}))
    export.renew_questions(tmp_path)
    assert path.read_bytes() == (BUNDLE / "manifest.json").read_bytes()
