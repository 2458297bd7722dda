"""Copies the documentation into a package: guides, references, examples, what the model is and was made from.

    docs.py REPOSITORY_ADDRESS OUT

Pages link to each other and to files of the source. In the package a link leads to the copy, if there is one, and else
to the repository's address. A link to what is not in the source either is an error.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Folder or file of the source, and where it lies in the package.
SHIPPED = {
    "docs/guide": "guide",
    "docs/reference": "reference",
    "docs/examples": "examples",
    "board/profiles": "examples/profiles",
    "models/MODEL_CARD.md": "model-card.md",
    "models/ATTRIBUTION.md": "attribution.md",
    "models/plots": "plots",
}
# For developers: nothing that it is about is in the package.
LEFT_OUT = {"docs/guide/test-board.md"}
# What a link leads to; not of other protocols, nor within the page.
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def shipped() -> dict[Path, Path]:
    """Files and folders of the source, and their places in the package."""
    found = {}
    for source, target in SHIPPED.items():
        for path in [ROOT / source, *sorted((ROOT / source).rglob("*"))]:
            if str(path.relative_to(ROOT)) not in LEFT_OUT:
                found[path] = Path(target) / path.relative_to(ROOT / source)
    return found


def relative(target: Path, folder: Path) -> str:
    """The way from a folder to a target; `Path.relative_to` goes only down before Python 3.12."""
    common = 0
    while common < min(len(folder.parts), len(target.parts)) and folder.parts[common] == target.parts[common]:
        common += 1
    return "/".join([".."] * (len(folder.parts) - common) + list(target.parts[common:]))


def rewrite(text: str, page: Path, places: dict[Path, Path], address: str) -> str:
    """The page with its links as they must be in the package."""

    def link(match: re.Match) -> str:
        target = (page.parent / match[1]).resolve()
        if not target.exists():
            raise SystemExit(f"{page}: a link to {match[1]}, which is not there")
        if target in places:
            return relative(places[target], places[page].parent)
        return f"{address}/{'tree' if target.is_dir() else 'blob'}/main/{target.relative_to(ROOT)}"

    return LINK.sub(link, text)


def main() -> None:
    address, out = sys.argv[1], Path(sys.argv[2])
    places = shipped()
    for source, place in places.items():
        if source.is_dir():
            continue
        target = out / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            target.write_text(rewrite(source.read_text(), source, places, address))
        else:
            target.write_bytes(source.read_bytes())
        target.chmod(0o644)


if __name__ == "__main__":
    main()
