"""Run the real pipeline on the composed clip and judge it by the broker's side of the wire.

Starts a mosquitto on a free loopback port, subscribes with `girasol watch`, replays the clip with
`girasol replay`, shows progress and every event as it arrives, and compares what arrived with truth.json.
Standard library only.

Exit status: 0 if every expected event came within one snippet of its true onset and nothing unexpected came;
1 if not; 2 if the run itself failed.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

SNIPPET_S = 0.96
CONFIG = """\
[device]
name = "demo"

[mqtt]
url = "mqtt://127.0.0.1:{port}"
"""
BROKER_CONFIG = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
log_dest stderr
log_type all
"""


class RunFailed(Exception):
    """The demo could not be run to its end; says why and what to do."""


@dataclass
class Run:
    """Everything that the broker and the program told us."""

    paced: bool
    events: list[tuple[float, dict]] = field(default_factory=list)  # (arrival by our clock, payload)
    progress: list[dict] = field(default_factory=list)
    epoch: float | None = None  # our clock at the clip's second 0; unknown at full speed
    log: list[str] = field(default_factory=list)

    def latencies(self) -> list[float]:
        """Seconds from the end of the snippet that caused a message to the message's arrival."""
        if self.epoch is None:
            return []
        return [
            arrival - self.epoch - event["time"] for arrival, event in self.events if event["type"] == "new"
        ]


@dataclass
class Verdict:
    """What of the truth was reported, and what was reported that is not true."""

    found: list[tuple[dict, dict]] = field(default_factory=list)  # (expected, event)
    late: list[tuple[dict, dict]] = field(default_factory=list)
    missed: list[dict] = field(default_factory=list)
    also_true: list[dict] = field(default_factory=list)
    unexpected: list[dict] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not (self.late or self.missed or self.unexpected)


def judge(truth: dict, events: list[dict]) -> Verdict:
    """Compare the `new` events with the truth.

    An event belongs to the expected one whose sense and labels fit and whose time, widened by a snippet at
    both ends, holds its start. The first of them must start within a snippet of the onset; further ones are
    repeats, which are true. The same widening holds for what is allowed.
    """
    verdict = Verdict()
    rest = sorted((event for event in events if event["type"] == "new"), key=lambda event: event["start"])
    for expected in truth["expected"]:
        span = (expected["onset_s"] - SNIPPET_S, expected["end_s"] + SNIPPET_S)
        mine = [
            event
            for event in rest
            if event["sense"] == expected["sense"]
            and event["label"] in expected["any_of"]
            and span[0] <= event["start"] <= span[1]
        ]
        rest = [event for event in rest if event not in mine]
        verdict.also_true += mine[1:]
        if not mine:
            verdict.missed.append(expected)
        elif abs(mine[0]["start"] - expected["onset_s"]) <= SNIPPET_S:
            verdict.found.append((expected, mine[0]))
        else:
            verdict.late.append((expected, mine[0]))
    for event in rest:
        true = any(
            event["sense"] == allowed["sense"]
            and event["label"] == allowed["label"]
            and allowed["from_s"] - SNIPPET_S <= event["start"] <= allowed["to_s"] + SNIPPET_S
            for allowed in truth["allowed"]
        )
        (verdict.also_true if true else verdict.unexpected).append(event)
    return verdict


class Screen:
    """One line of progress under a growing list of events; without a terminal, a line every ten seconds."""

    def __init__(self, duration_s: float, quiet: bool):
        self._duration_s, self._quiet = duration_s, quiet
        self._live = sys.stdout.isatty() and not quiet
        self._width = shutil.get_terminal_size().columns - 1
        self._next_line_s = 0.0

    def _colour(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if sys.stdout.isatty() else text

    def line(self, text: str = "") -> None:
        if self._quiet:
            return
        print(("\r\033[K" if self._live else "") + text, flush=True)

    def progress(self, step: dict) -> None:
        position = step["position_s"]
        done = round(24 * min(position / self._duration_s, 1.0))
        text = (
            f"  {position:5.1f} / {self._duration_s:.1f} s  [{'#' * done}{'.' * (24 - done)}]"
            f"  snippet {step['cost_ms']:5.1f} ms  {step['rtf']:.3f} of real time"
            f"  {step['rss_kb'] / 1024:.1f} MiB"
        )
        if self._live:
            print("\r\033[K" + text[: self._width], end="", flush=True)
        elif position >= self._next_line_s:
            self._next_line_s = position + 10.0
            self.line(text)

    def event(self, event: dict, latency_s: float | None) -> None:
        kind = {"new": self._colour("1;32", "new   "), "end": self._colour("2", "end   ")}.get(
            event["type"], "update"
        )
        view = {True: "in view", False: "off camera", None: ""}[event.get("in_view")]
        after = f"  +{latency_s * 1000:.0f} ms" if latency_s is not None else ""
        sense = "heard" if event["sense"] == "hear" else "seen"
        self.line(
            f"  {kind} {event['start']:5.1f} s  {sense:5} {event['label']:12} {event['confidence']:.2f}"
            f"  {view:10}  {event['text']!r}{after}"
        )

    def good(self, text: str) -> str:
        return self._colour("32", text)

    def bad(self, text: str) -> str:
        return self._colour("1;31", text)


def summary(screen: Screen, truth: dict, run: Run, verdict: Verdict) -> None:
    """Expected, seen and unexpected, side by side."""
    screen.line()
    screen.line(f"  {'expected':28} {'at':>6}   reported")
    seen = [(e, event, screen.good("ok")) for e, event in verdict.found]
    seen += [(e, event, screen.bad("not within 0.96 s")) for e, event in verdict.late]
    seen += [(e, None, screen.bad("missed")) for e in verdict.missed]
    for expected, event, result in sorted(seen, key=lambda row: row[0]["onset_s"]):
        reported = f"{event['label']:12} {event['start'] - expected['onset_s']:+.2f} s  " if event else ""
        screen.line(f"  {expected['name']:28} {expected['onset_s']:5.1f} s   {reported}{result}")
    for event in verdict.also_true:
        screen.line(f"  {'(also true)':28} {event['start']:5.1f} s   {event['sense']} {event['label']}")
    for event in verdict.unexpected:
        wrong = screen.bad(
            f"unexpected: {event['sense']} {event['label']} {event['confidence']:.2f} {event['text']!r}"
        )
        screen.line(f"  {'-':28} {event['start']:5.1f} s   {wrong}")
    heard = [(e, event) for e, event in verdict.found + verdict.late if e["sense"] == "hear"]
    view_right = sum(event.get("in_view") == expected["in_view"] for expected, event in heard)
    screen.line()
    screen.line(
        f"  {len(verdict.found)} of {len(truth['expected'])} expected events,"
        f" {len(verdict.unexpected)} unexpected;"
        f" source in view or not right for {view_right} of {len(heard)} sounds"
    )
    latencies = run.latencies()
    if latencies:
        screen.line(
            f"  end of snippet to arrival: p50 {statistics.median(latencies) * 1000:.0f} ms,"
            f" max {max(latencies) * 1000:.0f} ms ({len(latencies)} events)"
        )
    if run.progress:
        costs = [step["cost_ms"] for step in run.progress]
        rss = max(step["rss_kb"] for step in run.progress) / 1024
        screen.line(
            f"  snippet cost: p50 {statistics.median(costs):.1f} ms, max {max(costs):.1f} ms;"
            f" RSS {rss:.1f} MiB"
        )


def pump(stream, kind: str, into: queue.Queue) -> None:
    """Forward a process's lines with the time of their arrival, then one None."""

    def forward() -> None:
        for line in stream:
            into.put((kind, time.time(), line.rstrip("\n")))
        into.put((kind, time.time(), None))

    threading.Thread(target=forward, daemon=True).start()


def start(stack: ExitStack, command: list, **pipes) -> subprocess.Popen:
    """Start a process that ends with us."""
    try:
        process = subprocess.Popen([str(part) for part in command], text=True, **pipes)
    except OSError as error:
        raise RunFailed(f"cannot start {command[0]}: {error.strerror}") from None

    def stop() -> None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()

    stack.callback(stop)
    return process


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(lines: queue.Queue, kind: str, text: str, what: str) -> None:
    """Take lines until one from `kind` holds `text`."""
    deadline = time.monotonic() + 10.0
    seen = []
    while (left := deadline - time.monotonic()) > 0:
        try:
            source, _, line = lines.get(timeout=left)
        except queue.Empty:
            break
        if source == kind and line is not None and text in line:
            return
        seen.append(str(line))
    raise RunFailed(f"{what} within 10 s; last lines:\n" + "\n".join(seen[-10:]))


def mosquitto() -> str:
    # Debian installs it where an ordinary user's PATH does not look.
    found = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if found is None:
        raise RunFailed("mosquitto is not installed: run `make setup`")
    return found


def replay(options: argparse.Namespace, screen: Screen) -> Run:
    """Broker, subscriber, replay: in this order, and back."""
    run = Run(paced=not options.full_speed)
    lines: queue.Queue = queue.Queue()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="girasol-demo-")))
        port = free_port()
        (folder / "mosquitto.conf").write_text(BROKER_CONFIG.format(port=port))
        (folder / "girasol.toml").write_text(CONFIG.format(port=port))
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        broker = start(stack, [mosquitto(), "-c", folder / "mosquitto.conf"], **both)
        pump(broker.stdout, "broker", lines)
        wait_for(lines, "broker", "running", "mosquitto did not start")
        screen.line(f"  mosquitto listens on 127.0.0.1:{port}")

        url = f"mqtt://127.0.0.1:{port}"
        watch = start(stack, [options.program, "watch", "--url", url, "--json"], stdout=subprocess.PIPE)
        pump(watch.stdout, "watch", lines)
        # Nothing may be published before the subscription stands; the broker knows best.
        wait_for(lines, "broker", "Sending SUBACK", "`girasol watch` did not subscribe")

        command = [options.program, "replay", options.clip / "demo.mp4", "--bundle", options.bundle]
        command += ["--config", folder / "girasol.toml", "--progress", "json"]
        if options.full_speed:
            command.append("--full-speed")
        program = start(stack, command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        pump(program.stderr, "replay", lines)

        ended = False
        while True:
            try:
                # Events follow the program's end by milliseconds: a second of silence after it is the end.
                kind, at, line = lines.get(timeout=1.0 if ended else 60.0)
            except queue.Empty:
                if ended:
                    break
                raise RunFailed(
                    "the program has been silent for a minute:\n" + "\n".join(run.log[-20:])
                ) from None
            if kind == "watch" and line is None:
                raise RunFailed(f"`girasol watch` ended with status {watch.wait()}")
            if kind == "watch":
                take_event(run, screen, at, line)
            elif kind == "replay" and line is None:
                ended = True
            elif kind == "replay":
                take_progress(run, screen, line)
        if program.wait() != 0:
            raise RunFailed(
                f"`girasol replay` ended with status {program.returncode}:\n" + "\n".join(run.log[-20:])
            )
    return run


def take_event(run: Run, screen: Screen, at: float, line: str) -> None:
    event = json.loads(line)
    if "type" not in event:
        return
    run.events.append((at, event))
    screen.event(event, at - run.epoch - event["time"] if run.epoch is not None else None)


def take_progress(run: Run, screen: Screen, line: str) -> None:
    """A line of the program's standard error: progress in JSON, or a message of its log."""
    try:
        step = json.loads(line)
    except ValueError:
        step = None
    if isinstance(step, dict) and "epoch_unix_ms" in step:
        # At full speed the clip's seconds are not ours, and nothing can be late.
        if run.paced:
            run.epoch = step["epoch_unix_ms"] / 1000.0
    elif isinstance(step, dict) and "position_s" in step:
        run.progress.append(step)
        screen.progress(step)
    else:
        run.log.append(line)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", type=Path, default="target/release/girasol")
    parser.add_argument("--bundle", type=Path, default=Path("models/bundle"))
    parser.add_argument("--clip", type=Path, required=True, help="folder that compose.py wrote")
    parser.add_argument("--full-speed", action="store_true", help="no pacing; latency is not measured")
    parser.add_argument("--quiet", action="store_true", help="one line with the verdict")
    options = parser.parse_args()

    options.program = options.program.resolve()  # Popen looks a bare name up in PATH
    truth = json.loads((options.clip / "truth.json").read_text())
    screen = Screen(truth["duration_s"], options.quiet)
    pace = "at full speed" if options.full_speed else "in real time"
    screen.line(f"\n  clip {truth['seed']}: {truth['duration_s']:.0f} s, {pace}")
    try:
        run = replay(options, screen)
    except RunFailed as failure:
        print(f"\ndemo: {failure}", file=sys.stderr)
        return 2
    verdict = judge(truth, [event for _, event in run.events])
    summary(screen, truth, run, verdict)
    faults = [f"missed: {e['name']}" for e in verdict.missed]
    faults += [f"not within 0.96 s: {e['name']} {v['start'] - e['onset_s']:+.2f} s" for e, v in verdict.late]
    faults += [f"unexpected: {v['sense']} {v['label']} at {v['start']:.1f} s" for v in verdict.unexpected]
    result = screen.good("PASSED") if verdict.passed else screen.bad("FAILED")
    print(
        f"\n  seed {truth['seed']}: {result}" if not options.quiet else f"seed {truth['seed']}: {result}",
        end="",
    )
    print(f"  ({'; '.join(faults)})" if faults else "")
    return 0 if verdict.passed else 1


if __name__ == "__main__":
    sys.exit(main())
