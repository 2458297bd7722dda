"""Vocabulary, tokenizer and sentences."""

from __future__ import annotations

import numpy as np
import pytest

from girasol_train import stories, text
from girasol_train.labels import AUDIBLE_IDS, AUDIBLE_INDEX, SOURCES, VISIBLE_IDS, VISIBLE_INDEX


def test_vocabulary_is_small_and_unique():
    vocabulary = text.vocabulary()
    assert len(set(vocabulary)) == len(vocabulary) < 512
    assert vocabulary[:4] == ("<pad>", "<bos>", "<eos>", "<unk>")


@pytest.mark.parametrize("line", ["a dog barks, off camera", "is anyone speaking?", "a zebra's xylophone.", "42 cats"])
def test_any_lower_case_text_survives(line: str):
    ids = text.encode(line)
    assert text.UNK not in ids
    assert text.decode(ids) == line


def test_unknown_characters_separate_words():
    assert text.decode(text.encode("Dog — BARKS!")) == "dog barks"


def test_event_sentences():
    assert text.event_sentence("dog_bark", {"dog_bark"}, set(), False) == "a dog barks, off camera"
    assert text.event_sentence("dog_bark", {"dog_bark"}, {"dog"}, True) == "a dog barks, in view"
    assert text.event_sentence("glass_break", {"glass_break", "music"}, set(), False) == "glass breaks over music"
    ringing = text.event_sentence("phone_ring", {"phone_ring"}, {"person"}, False)
    assert ringing == "a phone rings while a person is in view"
    assert text.sight_sentence("cat", set(), {"cat"}) == "a cat is in view, silent"
    assert text.caption(set(), set(), set()) == "nothing happens"


def test_every_sentence_fits_and_is_in_the_vocabulary():
    for label in AUDIBLE_IDS:
        for seen in (set(), {"person"}, set(SOURCES.get(label, []))):
            for heard in ({label}, {label, "appliance"}):
                ids = text.encode(text.event_sentence(label, heard, seen, bool(seen & set(SOURCES.get(label, [])))))
                assert len(ids) <= text.MAX_OUTPUT
                assert text.UNK not in ids
    prompts = [text.prompt_ids("ask", question=q) for kind in text.QUESTIONS.values() for q in kind]
    assert max(map(len, prompts)) <= text.MAX_QUESTION + 2


def truth() -> stories.Truth:
    audible, visible = np.zeros((10, len(AUDIBLE_IDS))), np.zeros((10, len(VISIBLE_IDS)))
    audible[4, AUDIBLE_INDEX["dog_bark"]] = 1.0
    visible[8:, VISIBLE_INDEX["person"]] = 1.0
    return stories.Truth(audible, np.ones_like(audible), visible, np.ones_like(visible), np.arange(10) * 0.96)


def test_answers_look_back():
    t = truth()
    assert t.last_heard(9, "dog_bark") == pytest.approx(4.8)
    assert t.last_heard(3, "dog_bark") is None
    assert text.answer_heard("dog_bark", 4.8) == "not now, but a few seconds ago"
    assert text.answer_seen("person", 0.0) == "yes, a person is in view"


def test_what_may_have_been_is_neither_denied_nor_dated():
    t = truth()
    t.audible_weight[6, AUDIBLE_INDEX["dog_bark"]] = 0.0
    assert stories.answer(t, 5, "heard", "dog_bark") == "yes, a dog barks"
    assert stories.answer(t, 9, "heard", "dog_bark") is None
    assert stories.answer(t, 9, "when", "dog_bark") is None
    assert stories.answer(t, 9, "heard", "speech") == "no, not in the last minute"
    assert stories.answer(t, 6, "hear", "") is None
    assert stories.answer(t, 9, "happened", "") is None
    t.audible[8, AUDIBLE_INDEX["dog_bark"]] = 1.0
    assert stories.answer(t, 9, "heard", "dog_bark") == "yes, a dog barks"
    # Where there was no sound at all, weights say nothing and the minute had none of it.
    silent = truth()
    silent.audible_weight[7:] = 0.0
    silent.present = np.ones((10, 2))
    silent.present[7:, 0] = 0.0
    assert stories.answer(silent, 9, "heard", "speech") == "no, not in the last minute"


def test_samples_end_in_eos_and_unknown_sights_are_not_told():
    t, rng = truth(), np.random.default_rng(0)
    made = [stories.sample(rng, t, int(k)) for k in rng.integers(10, size=100)]
    assert all(answer[-1] == text.EOS for _, answer in filter(None, made))
    t.visible_weight[:] = 0.0
    t.visible[:] = 0.0
    assert stories.event(rng, t, 4) is None
