"""Prompts and answers for one moment of a scene, from its truth.

Unknown truth (weight 0) is never asserted: a moment whose sentence would depend on it gives no sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import text
from .labels import AMBIENCE, AUDIBLE_IDS, SOURCES, VISIBLE_IDS, VISIBLE_INDEX

SHARES = {"event": 0.6, "caption": 0.2, "ask": 0.2}
TRUTH = ("audible", "audible_weight", "visible", "visible_weight")
LISTED = [a for a in AUDIBLE_IDS if a != "background"]


@dataclass
class Truth:
    """A scene's truth: target and weight [T, labels] of both kinds, snippet starts in seconds, and whether there were
    sound and picture [T, 2] (always, if it is not said)."""

    audible: np.ndarray
    audible_weight: np.ndarray
    visible: np.ndarray
    visible_weight: np.ndarray
    start: np.ndarray
    present: np.ndarray | None = None

    def there(self, t: int) -> tuple[bool, bool]:
        """Whether snippet t has sound, and a picture."""
        return (True, True) if self.present is None else (bool(self.present[t, 0]), bool(self.present[t, 1]))

    def ever(self, t: int, sense: int) -> bool:
        """Whether there has been sound (0) or a picture (1) up to t."""
        return self.present is None or bool(self.present[: t + 1, sense].any())

    def known(self, t: int) -> list[int]:
        """The decoder's context text, if this is what scores claim."""
        return text.known_ids(self.heard(t), self.seen(t), *self.there(t))

    def heard(self, t: int) -> set[str]:
        return {AUDIBLE_IDS[i] for i in np.flatnonzero((self.audible[t] >= 0.5) & (self.audible_weight[t] > 0))}

    def seen(self, t: int) -> set[str]:
        return {VISIBLE_IDS[i] for i in np.flatnonzero((self.visible[t] >= 0.5) & (self.visible_weight[t] > 0))}

    def sight_known(self, t: int, labels: list[str]) -> bool:
        """True when one of the labels is seen, or all of them are known not to be."""
        index = [VISIBLE_INDEX[v] for v in labels]
        seen = (self.visible[t, index] >= 0.5) & (self.visible_weight[t, index] > 0)
        return bool(seen.any() or (self.visible_weight[t, index] > 0).all())

    def in_view(self, t: int, label: str) -> bool | None:
        """None without a picture."""
        return bool(self.seen(t) & set(SOURCES.get(label, []))) if self.there(t)[1] else None

    def require(self, t: int, sense: int) -> None:
        """Raise Unknown if not everything about sound (0) or picture (1) in snippet t is known, if there was one."""
        if self.there(t)[sense] and not ((self.audible_weight, self.visible_weight)[sense][t] > 0).all():
            raise Unknown

    def last_heard(self, t: int, label: str) -> float | None:
        """Seconds since the sound was last there, at or before t. Raises Unknown if it may have been since then."""
        return self._last(t, 0, AUDIBLE_IDS.index(label))

    def last_seen(self, t: int, label: str) -> float | None:
        return self._last(t, 1, VISIBLE_INDEX[label])

    def _last(self, t: int, sense: int, column: int) -> float | None:
        target, weight = ((self.audible, self.audible_weight), (self.visible, self.visible_weight))[sense]
        target, known = target[: t + 1, column] >= 0.5, weight[: t + 1, column] > 0
        there = np.ones(t + 1, bool) if self.present is None else self.present[: t + 1, sense] > 0
        times = np.flatnonzero(known & target)
        if (there & ~known)[times[-1] + 1 if len(times) else 0 :].any():
            raise Unknown
        return float(self.start[t] - self.start[times[-1]]) if len(times) else None


class Unknown(Exception):
    """The answer would depend on what is not known to be true or false."""


Maker = Callable[..., tuple[list[int], list[int]] | None]


def sample(rng: np.random.Generator, truth: Truth, t: int, claims: Truth | None = None
           ) -> tuple[list[int], list[int]] | None:  # fmt: skip
    """(prompt with `<bos>`, answer with `<eos>`) for moment t, or None when the truth does not tell. With `claims`,
    what the scores say, events and captions have their context text."""
    kind = rng.choice(list(SHARES), p=list(SHARES.values()))
    if kind == "ask":
        return question(rng, truth, t)
    return _encoded({"event": event, "caption": caption}[kind](rng, truth, t, claims and claims.known(t)))


def question(rng: np.random.Generator, truth: Truth, t: int, _: Truth | None = None
             ) -> tuple[list[int], list[int]] | None:  # fmt: skip
    """As `sample`, questions only."""
    return _encoded(ask(rng, truth, t))


def _encoded(made: tuple[list[int], str] | None) -> tuple[list[int], list[int]] | None:
    if made is None:
        return None
    prompt, answer = made
    return prompt, [*text.encode(answer)[: text.MAX_OUTPUT], text.EOS]


def event(rng: np.random.Generator, truth: Truth, t: int, known: list[int] | None = None
          ) -> tuple[list[int], str] | None:  # fmt: skip
    if not truth.sight_known(t, ["person", "face"]):
        return None
    heard, seen = truth.heard(t), truth.seen(t)
    choices = [text.hear(a) for a in sorted(heard) if a != "background" and truth.sight_known(t, SOURCES.get(a, []))]
    if not choices or rng.random() < 0.25:
        choices = [text.see(v) for v in sorted(seen)]
    if not choices:
        return None
    label = str(rng.choice(choices))
    prompt = text.prompt_ids("event", label, known=known)
    return prompt, event_text(truth, t, label)


def event_text(truth: Truth, t: int, label: str) -> str:
    """The sentence of an event of `label` (`<hear:ID>` or `<see:ID>`) at t; with claims for truth, the template's."""
    name, heard, seen = label[label.index(":") + 1 : -1], truth.heard(t), truth.seen(t)
    if label.startswith("<hear:"):
        return text.event_sentence(name, heard, seen, truth.in_view(t, name))
    return text.sight_sentence(name, heard, seen)


def caption(_: np.random.Generator | None, truth: Truth, t: int, known: list[int] | None = None
            ) -> tuple[list[int], str] | None:  # fmt: skip
    if (truth.audible_weight[t] == 0).any() or (truth.visible_weight[t] == 0).any():
        return None
    return text.prompt_ids("caption", known=known), caption_text(truth, t)


def caption_text(truth: Truth, t: int) -> str:
    """The sentence for snippet t; with claims for truth, the template's."""
    heard = truth.heard(t)
    return text.caption(heard, truth.seen(t), {a for a in heard if truth.in_view(t, a)}, truth.there(t)[1])


def ask(rng: np.random.Generator, truth: Truth, t: int) -> tuple[list[int], str] | None:
    kind, label, asked = pose(rng, truth, t)
    reply = answer(truth, t, kind, label)
    return None if reply is None else (text.prompt_ids("ask", question=asked), reply)


def pose(rng: np.random.Generator, truth: Truth, t: int, kind: str | None = None) -> tuple[str, str, str]:
    """A question about moment t: its kind (of `text.QUESTIONS`, drawn if not given), its label ("" where there is none)
    and its words."""
    kind = kind or str(rng.choice(list(text.QUESTIONS)))
    words = str(rng.choice(text.QUESTIONS[kind]))
    if kind in ("heard", "when"):
        label = _some_label(rng, list(text.ASKED), AUDIBLE_IDS, truth.audible[: t + 1])
        return kind, label, words.format(asked=text.ASKED[label])
    if kind in ("seen", "anyone"):
        label = "person" if kind == "anyone" else _some_label(rng, VISIBLE_IDS, VISIBLE_IDS, truth.visible[: t + 1])
        return kind, label, words.format(seen=text.SEEN[label])
    return kind, "", words


def answer(truth: Truth, t: int, kind: str, label: str) -> str | None:
    """The right answer, None where the truth does not tell; with predictions in place of the truth, that of the label
    history. Of a sense that was never there nothing is known."""
    try:
        return _answer(truth, t, kind, label)
    except Unknown:
        return None


def _answer(truth: Truth, t: int, kind: str, label: str) -> str:
    if kind != "unknown" and not truth.ever(t, int(kind in ("seen", "anyone", "see"))):
        return text.REPLIES["unknown"]
    if kind in ("heard", "when"):
        age = truth.last_heard(t, label)
        return text.answer_heard(label, age) if kind == "heard" else text.answer_when(age)
    if kind in ("seen", "anyone"):
        return text.answer_seen(label, truth.last_seen(t, label))
    return _open_answer(truth, kind, t)


def _some_label(rng: np.random.Generator, allowed: list[str] | tuple[str, ...], ids: tuple[str, ...],
                target: np.ndarray) -> str:  # fmt: skip
    """A label of the window more often than not, so that "no" is not always right."""
    present = [ids[i] for i in np.flatnonzero((target >= 0.5).any(axis=0)) if ids[i] in allowed]
    return str(rng.choice(present if present and rng.random() < 0.6 else list(allowed)))


def _open_answer(truth: Truth, kind: str, t: int) -> str:
    if kind == "hear":
        truth.require(t, 0)
        return text.answer_list([text.HEARD[a] for a in LISTED if a in truth.heard(t)])
    if kind == "see":
        truth.require(t, 1)
        return text.answer_list([text.SEEN[v] for v in VISIBLE_IDS if v in truth.seen(t)])
    if kind == "happened":
        ages = {a: truth.last_heard(t, a) for a in LISTED if a not in AMBIENCE}
        recent = sorted((age, a) for a, age in ages.items() if age is not None)
        return text.answer_list([text.HEARD[a] for _, a in recent])
    return text.REPLIES["unknown"]
