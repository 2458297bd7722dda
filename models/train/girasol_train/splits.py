"""Which sources are kept for the last evaluation: the *final* list, a fixed part of the kit's test sources.

`final_sources.txt` holds a hash per source and is what counts. `python -m girasol_train.splits KIT` derives it again:
within each audio class, and within each group of pictures (data set + tags; COCO as one group), the test sources are
sorted by the hash of `SALT` + source id, and the first 40 % (rounded) are final; a source that is final in one group is
final in all. Everything else of `test` may be looked at while the model is being made.

The list was drawn after the first bundle (0.1.0) had been measured on all of `test`; no decision was taken by source.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import pathlib
import sys
from collections import defaultdict

SALT, SHARE = "girasol-final-1:", 0.4
LIST = pathlib.Path(__file__).with_name("final_sources.txt")


def source_hash(source_id: str) -> str:
    return hashlib.sha256((SALT + source_id).encode()).hexdigest()[:16]


@functools.cache
def final_hashes() -> frozenset[str]:
    return frozenset(line for line in LIST.read_text().split("\n") if line and not line.startswith("#"))


def is_final(source_id: str) -> bool:
    """Of a test source: is it kept for the last evaluation?"""
    return source_hash(source_id) in final_hashes()


def derive(data: pathlib.Path) -> list[str]:
    """The list, from the kit's manifests."""
    groups: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for kind in ("audio", "images"):
        with (data / kind / "manifest.csv").open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["split"] == "test":
                    own = (row["class"],) if kind == "audio" else (row["dataset"], row["tags"])
                    group = ("COCO",) if kind == "images" and row["dataset"].startswith("COCO") else own
                    groups[(kind, *group)].add(source_hash(row["source_id"]))
    final: set[str] = set()
    for hashes in groups.values():
        final |= set(sorted(hashes)[: int(SHARE * len(hashes) + 0.5)])
    return sorted(final)


if __name__ == "__main__":
    head = "# Sources kept for the last evaluation; see splits.py.\n"
    LIST.write_text(head + "\n".join(derive(pathlib.Path(sys.argv[1]))) + "\n")
