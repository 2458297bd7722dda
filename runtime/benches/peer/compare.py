"""girasol beside the peer: the same material, one core, in turn; prints CPU per snippet and RSS side by side.

The first five snippets of each run are left out on both sides. CPU is user and system time of all threads of
the process; RSS is what stands in /proc at the end of the run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WARM_UP = 5
HERE = Path(__file__).resolve().parent


def prepare(clip: Path, out: Path) -> None:
    """The demo's clip as a USB camera would deliver it: raw for the peer, y4m and wav for girasol."""
    scale = ["-vf", "scale=640:480", "-r", "15"]
    for name, arguments in {
        "bench.yuyv": [*scale, "-an", "-pix_fmt", "yuyv422", "-f", "rawvideo"],
        "bench.s16": ["-vn", "-ac", "1", "-ar", "48000", "-f", "s16le"],
        "bench.y4m": [*scale, "-an", "-pix_fmt", "yuv420p"],
        "bench.wav": ["-vn", "-ac", "1", "-ar", "48000"],
    }.items():
        source = clip.with_suffix(".y4m" if "-an" in arguments else ".wav")
        subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", source, *arguments, out / name], check=True)


def broker(folder: Path) -> tuple[subprocess.Popen, int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "mosquitto.conf").write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
    )
    (folder / "girasol.toml").write_text(
        f'[device]\nname = "bench"\n\n[mqtt]\nurl = "mqtt://127.0.0.1:{port}"\n'
    )
    program = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")
    if program is None:
        raise SystemExit("compare: mosquitto is not installed: run `make setup`")
    process = subprocess.Popen([program, "-c", folder / "mosquitto.conf"], stderr=subprocess.DEVNULL)
    time.sleep(1.0)
    return process, port


def cpu_s(pid: int) -> float:
    """On-CPU time of all threads of a process so far."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9


def run_peer(options: argparse.Namespace, folder: Path, port: int) -> dict:
    command = [sys.executable, HERE / "peer.py", "--models", options.models, "--port", str(port)]
    command += [
        "--video",
        folder / "bench.yuyv",
        "--audio",
        folder / "bench.s16",
        "--core",
        str(options.core),
    ]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(output.stdout.splitlines()[-1])


def run_girasol(options: argparse.Namespace, folder: Path) -> dict:
    command = ["taskset", "--cpu-list", str(options.core), options.program, "replay", folder / "bench.y4m"]
    command += ["--bundle", options.bundle, "--config", folder / "girasol.toml"]
    command += ["--full-speed", "--progress", "json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    steps, warm_s = [], 0.0
    for line in process.stderr:
        if line.startswith("{") and "position_s" in (step := json.loads(line)):
            steps.append(step)
            if len(steps) == WARM_UP:
                warm_s = cpu_s(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or len(steps) <= WARM_UP:
        raise SystemExit(
            f"compare: girasol ended with status {process.returncode} after {len(steps)} snippets"
        )
    steady_s = usage.ru_utime + usage.ru_stime - warm_s
    count = len(steps) - WARM_UP
    return {"snippets": count, "cpu_ms": 1000 * steady_s / count, "rss_kb": steps[-1]["rss_kb"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, required=True, help="folder with yamnet/ and nanodet-m/")
    parser.add_argument("--clip", type=Path, required=True, help="demo.y4m with demo.wav beside it")
    parser.add_argument("--program", type=Path, default=Path("target/release/girasol"))
    parser.add_argument("--bundle", type=Path, default=Path("models/bundle"))
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="girasol-peer-") as name:
        folder = Path(name)
        prepare(options.clip, folder)
        process, port = broker(folder)
        try:
            # In turn, so that a busy machine is busy for both.
            rounds = [
                (run_girasol(options, folder), run_peer(options, folder, port)) for _ in range(options.rounds)
            ]
        finally:
            process.terminate()
            process.wait()

    print(f"{'':24}{'girasol':>10}{'peer':>10}{'ratio':>10}")
    for title, key, unit, divisor in (("CPU per snippet", "cpu_ms", "ms", 1), ("RSS", "rss_kb", "MiB", 1024)):
        ours, theirs = (statistics.median(run[side][key] for run in rounds) / divisor for side in (0, 1))
        print(f"{f'{title} ({unit})':24}{ours:10.1f}{theirs:10.1f}{ours / theirs:10.2f}")
    print(f"median of {options.rounds} rounds of {rounds[0][0]['snippets']} snippets, core {options.core}")


if __name__ == "__main__":
    main()
