"""The manifest's `questions`: the closed grammar of `text.QUESTIONS`, and what its answers are made of, as data.

The runtime answers these from the history of the labels' scores, word for word as `stories.answer` does from the same
decisions; any other question goes to the decoder.
"""

from __future__ import annotations

from typing import Any

from . import text
from .labels import AMBIENCE, AUDIBLE_IDS, VISIBLE_IDS
from .stories import LISTED


def forms() -> list[dict[str, Any]]:
    """What can be asked: `words`, each a whole question, with what they ask about."""
    out: list[dict[str, Any]] = []
    for kind, words in text.QUESTIONS.items():
        if kind in ("heard", "when"):
            out += [{"kind": kind, "label": label, "words": [w.format(asked=asked) for w in words]}
                    for label, asked in text.ASKED.items()]  # fmt: skip
        elif kind == "seen":
            out += [{"kind": kind, "label": label, "words": [w.format(seen=text.SEEN[label]) for w in words]}
                    for label in VISIBLE_IDS]  # fmt: skip
        elif kind == "anyone":
            out.append({"kind": "seen", "label": "person", "words": list(words)})
        else:
            out.append({"kind": kind, "words": list(words)})
    return out


def table() -> dict[str, Any]:
    return {
        "forms": forms(),
        "hear": {label: text.HEARD[label] for label in AUDIBLE_IDS},
        "see": {label: text.SEEN[label] for label in VISIBLE_IDS},
        "unlisted": [label for label in AUDIBLE_IDS if label not in LISTED],
        "not_happened": list(AMBIENCE),
        "ages": [[phrase, limit] for phrase, limit in text.AGES],
        "now_seconds": text.NOW_SECONDS,
        "most": text.MOST,
        "replies": text.REPLIES,
    }
