"""Lists the crates that are linked into girasol for a target, with the licence texts that they carry.

    third_party.py TRIPLE

Equal texts are printed once, with the crates that carry them.
"""

import json
import pathlib
import subprocess
import sys

NAMES = ("license", "licence", "copying", "notice", "unlicense")


def linked(triple: str) -> list[dict]:
    """Packages from a registry that the program depends on, neither for building nor for tests."""
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--filter-platform", triple]
    graph = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    packages = {p["id"]: p for p in graph["packages"]}
    edges = {
        node["id"]: [
            dep["pkg"] for dep in node["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])
        ]
        for node in graph["resolve"]["nodes"]
    }
    todo = [p["id"] for p in graph["packages"] if p["name"] == "girasol" and p["source"] is None]
    seen = set(todo)
    while todo:
        for package in edges[todo.pop()]:
            if package not in seen:
                seen.add(package)
                todo.append(package)
    found = [packages[i] for i in seen if packages[i]["source"]]
    return sorted(found, key=lambda p: (p["name"], p["version"]))


def main() -> None:
    """Prints the list, then the texts."""
    packages = linked(sys.argv[1])
    texts: dict[str, list[str]] = {}
    print("Libraries linked into girasol\n")
    for package in packages:
        name = f"{package['name']} {package['version']}"
        print(f"{name}: {package['license'] or 'see its text'}; {package['repository'] or 'no address'}")
        folder = pathlib.Path(package["manifest_path"]).parent
        for file in sorted(folder.iterdir()):
            if file.is_file() and file.name.lower().startswith(NAMES):
                text = file.read_text(encoding="utf-8", errors="replace").strip()
                texts.setdefault(text, []).append(f"{name} ({file.name})")
    for text, owners in texts.items():
        print(f"\n{'=' * 80}\n{', '.join(owners)}\n{'-' * 80}\n{text}")


if __name__ == "__main__":
    main()
