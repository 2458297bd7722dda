"""Make a CUDA build of torch importable on a machine without CUDA libraries.

The wheel on PyPI links the CUDA libraries (several GB of wheels) although CPU-only training never calls them. This
writes tiny stand-ins (same sonames, same symbol versions, every function returns 35, cudaErrorInsufficientDriver) next
to torch's own libraries. Run it with the environment's own interpreter, once after `pip install --no-deps torch`. With
real CUDA libraries present it does nothing.
"""

from __future__ import annotations

import collections
import pathlib
import re
import subprocess
import sys
import sysconfig
import tempfile


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def main() -> int:
    site = pathlib.Path(sysconfig.get_paths()["purelib"])
    lib = site / "torch" / "lib"
    if not lib.is_dir():
        print(
            f"cpu_torch: no torch in {site}: pip install --no-deps torch first",
            file=sys.stderr,
        )
        return 1
    own = {p.name for p in lib.iterdir()}
    system = run("ldconfig", "-p") if pathlib.Path("/sbin/ldconfig").exists() else ""
    missing: set[str] = set()
    symbols: dict[str, dict[str, set[str]]] = collections.defaultdict(
        lambda: collections.defaultdict(set)
    )
    unversioned: set[str] = set()
    defined: set[str] = set()
    for so in sorted(lib.glob("*.so*")):
        dump = run("objdump", "-p", str(so))
        needed = re.findall(r"NEEDED\s+(\S+)", dump)
        missing |= {n for n in needed if n not in own and f"\t{n} " not in system}
        version_of: dict[str, str] = {}
        for soname, block in re.findall(
            r"required from (\S+):\n((?:\s+0x.*\n)+)", dump
        ):
            for version in re.findall(r"\s(\S+)\n", block):
                version_of[version] = soname
        for line in run("nm", "-D", str(so)).splitlines():
            kind, name = line.split()[-2:]
            if kind not in "Uw":
                defined.add(name.split("@")[0])
                continue
            name, _, version = name.partition("@")
            version = version.lstrip("@")
            if version in version_of:
                symbols[version_of[version]][version].add(name)
            elif not version:
                unversioned.add(name)
    if not missing:
        print("cpu_torch: nothing is missing")
        return 0
    loose = sorted(
        n
        for n in unversioned - defined
        if re.match(r"^_?(cu|nccl|nvsh|nvrtc|nvJit|nvtx|nvml|cusp|cudss)", n)
    )
    for index, soname in enumerate(sorted(missing)):
        with tempfile.TemporaryDirectory() as tmp:
            source, script = pathlib.Path(tmp, "stub.c"), pathlib.Path(tmp, "stub.map")
            names = {n for group in symbols[soname].values() for n in group} | (
                set(loose) if index == 0 else set()
            )
            source.write_text(
                "".join(f"long {n}(void) {{ return 35; }}\n" for n in sorted(names))
            )
            script.write_text(
                "".join(
                    f"{v} {{ global: {'; '.join(sorted(g))}; }};\n"
                    for v, g in symbols[soname].items()
                )
            )
            argv = [
                "cc",
                "-shared",
                "-fPIC",
                "-w",
                "-fno-builtin",
                f"-Wl,-soname,{soname}",
                "-o",
                str(lib / soname),
                str(source),
            ]
            if symbols[soname]:
                argv.append(f"-Wl,--version-script={script}")
            subprocess.run(argv, check=True)
    print(f"cpu_torch: wrote stand-ins for {', '.join(sorted(missing))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
