"""The demo's judgement itself: `python3 -m unittest discover tests/demo`. Needs nothing but Python."""

import unittest

from demo import judge

TRUTH = {
    "expected": [
        {
            "name": "a phone rings",
            "sense": "hear",
            "any_of": ["phone_ring", "alarm"],
            "in_view": False,
            "onset_s": 10.0,
            "end_s": 13.0,
        }
    ],
    "allowed": [{"sense": "see", "label": "motorbike", "from_s": 5.0, "to_s": 20.0, "why": "it is in view"}],
}


def event(label: str, start: float, sense: str = "hear", kind: str = "new") -> dict:
    return {"type": kind, "sense": sense, "label": label, "start": start}


class Judge(unittest.TestCase):
    def test_an_event_within_a_snippet_of_its_onset_passes(self):
        for start in (9.05, 10.0, 10.95):
            with self.subTest(start=start):
                self.assertTrue(judge(TRUTH, [event("alarm", start)]).passed)

    def test_an_event_later_than_a_snippet_after_its_onset_fails(self):
        verdict = judge(TRUTH, [event("alarm", 11.0)])
        self.assertFalse(verdict.passed)
        self.assertEqual(len(verdict.late), 1)

    def test_no_event_fails(self):
        self.assertEqual(judge(TRUTH, []).missed, TRUTH["expected"])

    def test_the_wrong_sense_or_an_untrue_label_is_unexpected(self):
        for wrong in (event("alarm", 10.0, sense="see"), event("dog_bark", 10.0)):
            with self.subTest(wrong=wrong):
                verdict = judge(TRUTH, [event("phone_ring", 10.0), wrong])
                self.assertFalse(verdict.passed)
                self.assertEqual(verdict.unexpected, [wrong])

    def test_a_true_label_at_a_false_time_is_unexpected(self):
        for start in (8.9, 14.0):
            with self.subTest(start=start):
                wrong = event("alarm", start)
                self.assertEqual(judge(TRUTH, [event("phone_ring", 10.0), wrong]).unexpected, [wrong])

    def test_repeats_and_allowed_events_are_true(self):
        events = [event("alarm", 10.0), event("phone_ring", 12.0), event("motorbike", 5.0, sense="see")]
        verdict = judge(TRUTH, events)
        self.assertTrue(verdict.passed)
        self.assertEqual(verdict.also_true, events[1:])

    def test_updates_and_ends_do_not_count(self):
        events = [event("alarm", 10.0), event("siren", 1.0, kind="update"), event("siren", 1.0, kind="end")]
        self.assertTrue(judge(TRUTH, events).passed)


if __name__ == "__main__":
    unittest.main()
