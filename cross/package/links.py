"""Are the relative links of all Markdown pages below a folder good, headings included?

    links.py FOLDER

Prints those that are not; exit status 1 if there is one, or no page at all.
"""

import re
import sys
from pathlib import Path

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?![a-z]+:)([^)#\s]*)(?:#([^)\s]*))?\)")


def anchors(page: str) -> set[str]:
    """The names that a forge gives the headings of a page."""
    names: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.*)$", FENCE.sub("", page), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        names[name] = names.get(name, 0) + 1
    return {name if n == 0 else f"{name}-{n}" for name, count in names.items() for n in range(count)}


def main() -> int:
    folder = Path(sys.argv[1]).resolve()
    pages = sorted(folder.rglob("*.md"))
    links, bad = 0, []
    for page in pages:
        for target, anchor in LINK.findall(FENCE.sub("", page.read_text())):
            links += 1
            path = (page.parent / target).resolve() if target else page
            good = path.exists() and path.is_relative_to(folder)
            if good and anchor:
                good = path.suffix == ".md" and anchor in anchors(path.read_text())
            if not good:
                bad.append(f"{page.relative_to(folder)}: {target}{'#' if anchor else ''}{anchor}")
    print(f"{len(pages)} pages, {links} relative links, {len(bad)} of them lead nowhere", *bad, sep="\n  ")
    return 1 if bad or not links else 0


if __name__ == "__main__":
    sys.exit(main())
