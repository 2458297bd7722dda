"""The examples' handling of messages, without a broker: copies, damage, order."""

import json
import pathlib
import sys
import unittest

EXAMPLES = pathlib.Path(__file__).parent.parent.parent / "docs" / "examples"
sys.path.insert(0, str(EXAMPLES))

import events  # noqa: E402
import record  # noqa: E402


def message(kind="new", seq=0, **more):
    event = {"v": 1, "device": "porch", "id": "0f", "type": kind, "seq": seq, "label": "dog_bark", "sense": "hear",
             "text": "a dog barks", "confidence": 0.5, "start": 1.0, "duration": 0.96}
    return json.dumps({**event, **more}).encode()


class Examples(unittest.TestCase):
    def test_copies_are_told_apart(self):
        copies = events.Copies(remembered=2)
        new, end = (events.parse(message(kind, seq)) for kind, seq in (("new", 0), ("end", 1)))
        self.assertEqual([copies.is_new(e) for e in (new, new, end, end)], [True, False, True, False])
        self.assertEqual(events.describe(new), "porch: new    dog_bark: a dog barks")

    def test_damage_is_left_out(self):
        for payload in (b"", b"\xff", b"[]", b"{}", b'{"v":2}'):
            self.assertIsNone(events.parse(payload))
            self.assertFalse(record.keep(record.open_database(":memory:"), "girasol/porch/event", payload))

    def test_every_message_is_kept_once_and_an_event_is_one_row(self):
        database = record.open_database(":memory:")
        topics = ("girasol/porch/event", "girasol/porch/event/replayed")
        first, last = message(), message("end", 1, duration=2.88, confidence=0.9, reason="faded")
        self.assertEqual([record.keep(database, t, first) for t in topics], [True, False])
        self.assertTrue(record.keep(database, topics[1], last))
        rows = database.execute("SELECT device, label, confidence, start, duration, reason FROM events").fetchall()
        self.assertEqual(rows, [("porch", "dog_bark", 0.9, 1.0, 2.88, "faded")])

    def test_the_flow_is_whole_and_names_labels_of_the_bundle(self):
        nodes = json.loads((EXAMPLES / "node-red.json").read_text(encoding="utf-8"))
        ids = {node["id"] for node in nodes}
        wired = {to for node in nodes for port in node.get("wires", []) for to in port}
        self.assertEqual(wired - ids, set())
        manifest = EXAMPLES.parent.parent / "models" / "bundle" / "manifest.json"
        labels = {label["id"] for label in json.loads(manifest.read_text(encoding="utf-8"))["labels"]["audible"]}
        chosen = next(node for node in nodes if node["id"] == "girasol-label")["rules"]
        self.assertEqual({rule["v"] for rule in chosen} - labels, set())


if __name__ == "__main__":
    unittest.main()
