"""Test the shipped arm64 package on an emulated board: real V4L2, ALSA, MQTT and systemd, no hardware.

    board.py --deb girasol_VERSION_arm64.deb [CASE...]

Each case boots the stock Debian arm64 kernel under QEMU (run.sh, image.sh), where a script runs the program from the
package, with a camera and a microphone that see and hear what the script plays (player.c). What is judged is what
arrived at a mosquitto on this machine's loopback, at which guest time. Cases without `real` run in virtual time: each
guest instruction takes the same time, whatever else this machine does. Speed on a board cannot be told from it.

Standard library only. Exit status: 0 if every case passed, 1 if not, 2 if a case could not be run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tests/demo"))
from demo import free_port, judge, mosquitto  # noqa: E402

CACHE = ROOT / ".cache/vm"
DEVICE = "board"
# The guest's own time runs slower or faster than the broker's: no keep-alive, or the broker hangs up.
CONFIG = """\
[device]
name = "board"
[mqtt]
url = "mqtt://10.0.2.100:1883"
keep_alive = "1h"
{more}
"""
BROKER_CONFIG = """\
listener {port} 127.0.0.1
{access}
persistence true
persistence_location {folder}/
autosave_on_changes true
autosave_interval 1
log_dest file {folder}/broker.log
log_type all
"""
# What decides the clip of a cat and a dog.
SEED = 1


class Failed(Exception):
    """Something is not as it must be."""


def check(holds: bool, what: str) -> None:
    if not holds:
        raise Failed(what)


def say(text: str) -> None:
    print(text, flush=True)


def wait_until(holds, what: str) -> None:
    deadline = time.monotonic() + 60.0
    while not holds():
        check(time.monotonic() < deadline, what)
        time.sleep(0.1)


class Broker:
    """mosquitto and a subscriber to everything, on loopback."""

    def __init__(self, folder: Path, password: str | None = None):
        self.port = free_port()
        self._folder = folder
        self._login = ["-u", "board", "-P", password] if password else []
        access = "allow_anonymous true"
        if password:
            subprocess.run(["mosquitto_passwd", "-b", "-c", folder / "users", "board", password], check=True)
            # mosquitto gives up root's rights.
            (folder / "users").chmod(0o644)
            access = f"allow_anonymous false\npassword_file {folder}/users"
        text = BROKER_CONFIG.format(port=self.port, folder=folder, access=access)
        (folder / "broker.conf").write_text(text)
        folder.chmod(0o777)
        self._broker = self._subscriber = None
        self.start()

    def start(self) -> None:
        self._broker = subprocess.Popen(
            [mosquitto(), "-c", self._folder / "broker.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT
        )
        command = ["mosquitto_sub", "-V", "mqttv5", "-h", "127.0.0.1", "-p", str(self.port), "-t", "girasol/#"]
        # A session that outlives the broker: what is published before the subscriber is back waits for it.
        command += ["-i", "judge", "-q", "1", "-c", *self._login]
        before = self._subscriptions()
        wait_until(self._listens, "mosquitto does not start")
        with (self._folder / "messages").open("a") as out:
            self._subscriber = subprocess.Popen([*command, "-F", "%U %r %t %p"], stdout=out)
        # The first time, nothing may be published before the subscription stands.
        wait_until(lambda: self._subscriptions() > before, "mosquitto_sub does not subscribe")

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except OSError:
            return False
        return True

    def _subscriptions(self) -> int:
        file = self._folder / "broker.log"
        return file.read_text().count("Sending SUBACK") if file.exists() else 0

    def stop(self, kill: bool = False) -> None:
        for process in (self._subscriber, self._broker):
            if process and process.poll() is None:
                process.kill() if kill else process.terminate()
                process.wait()


@dataclass
class Message:
    arrived: float  # our clock
    retained: bool
    topic: str
    payload: str

    @property
    def json(self) -> dict:
        return json.loads(self.payload)


@dataclass
class Result:
    """What a run left behind."""

    folder: Path
    status: int
    output: str
    took_s: float
    measured: list[str] = field(default_factory=list)

    def marks(self, word: str | None = None) -> list[tuple[float, str]]:
        """(seconds since boot, words) in order; of one kind only, without its word."""
        file = self.folder / "share/marks"
        pairs = [line.split(" ", 1) for line in file.read_text().splitlines()] if file.exists() else []
        found = [(float(at), words) for at, words in pairs]
        if word is None:
            return found
        return [(at, words[len(word) :].strip()) for at, words in found if words.split(" ")[0] == word]

    def mark(self, word: str) -> float:
        found = self.marks(word)
        check(bool(found), f"the guest never got to `{word}`:\n{self.tail()}")
        return found[0][0]

    def messages(self, topic: str | None = None) -> list[Message]:
        file = self.folder / "messages"
        lines = [line.split(" ", 3) for line in file.read_text().splitlines()]
        found = [Message(float(at), retained == "1", where, what) for at, retained, where, what in lines]
        return [m for m in found if topic is None or m.topic == f"girasol/{DEVICE}/{topic}"]

    def events(self) -> list[dict]:
        return [m.json for m in self.messages() if "/event" in m.topic]

    def states(self) -> list[dict]:
        """Each distinct state, with `at`: seconds since boot."""
        begun = self.mark("running")
        found = []
        for message in self.messages("state"):
            state = message.json
            state["at"] = begun + state["uptime"]
            if not found or found[-1]["uptime"] != state["uptime"]:
                found.append(state)
        return found

    def log(self) -> str:
        file = self.folder / "share/log"
        return file.read_text(errors="replace") if file.exists() else ""

    def played(self, word: str) -> list[list[int]]:
        """Numbers of the player's lines of one kind; times are nanoseconds since boot."""
        lines = (self.folder / "share/played").read_text().splitlines()
        return [[int(n) for n in line.split()[1:]] for line in lines if line.split(" ")[0] == word]

    def used(self, name: str) -> tuple[float, int, int]:
        """When, processor time in ticks of 10 ms, and resident KiB."""
        for at, words in self.marks("used"):
            ticks, rss, what = words.split(" ", 2)
            if what == name:
                return at, int(ticks), int(rss)
        raise Failed(f"the guest never measured `{name}`")

    def share_of_core(self, since: str, until: str) -> float:
        (a, before, _), (b, after, _) = self.used(since), self.used(until)
        return (after - before) / 100.0 / (b - a)

    def tail(self) -> str:
        parts = [self.output[-1500:]]
        parts += [line for line in self.log().splitlines()[-15:]]
        return "\n".join(parts)

    def measure(self, text: str) -> None:
        self.measured.append(text)
        say(f"      {text}")


def pull_the_plug(ancestor: int) -> None:
    """Kills the emulator below the process `ancestor`: what the guest had not written is gone."""
    processes = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, rest = stat.read_text().split(" (", 1)
        except OSError:
            continue
        name, fields = rest.rsplit(")", 1)
        processes[int(pid)] = (name, int(fields.split()[1]))
    for pid, (name, parent) in processes.items():
        while parent in processes and parent != ancestor:
            parent = processes[parent][1]
        if parent == ancestor and name.startswith("qemu-system"):
            os.kill(pid, signal.SIGKILL)


class Board:
    """Boots the board for one case."""

    def __init__(self, options: argparse.Namespace, name: str):
        self.deb = options.deb
        self.folder = CACHE / "results" / name
        shutil.rmtree(self.folder, ignore_errors=True)
        self.share = self.folder / "share"
        self.share.mkdir(parents=True)
        subprocess.run(["dpkg-deb", "-x", options.deb, self.share / "root"], check=True)
        shutil.copy(HERE / "guest.sh", self.share)
        shutil.copy(player(), self.share / "player")
        self.broker = Broker(self.folder, PASSWORD if name in WITH_PASSWORD else None)

    def system(self) -> list[str]:
        """Options that boot a fresh copy of the system with systemd, on which the package can be installed."""
        built = subprocess.run(["bash", HERE / "system.sh"], check=True, stdout=subprocess.PIPE, text=True)
        disk = self.folder / "disk"
        if not disk.exists():
            subprocess.run(["cp", "--sparse=always", built.stdout.strip(), disk], check=True)
            shutil.copy(self.deb, self.share / "girasol.deb")
        return ["--disk", str(disk), "--system", "--memory", "1024"]

    def config(self, more: str = "") -> None:
        (self.share / "girasol.toml").write_text(CONFIG.format(more=more))

    def clip(self, folder: Path) -> None:
        shutil.copytree(folder, self.share / "clip")

    def cat_and_dog(self, more: str = "") -> dict:
        """Sets up the clip that most cases play, and the configuration; returns the truth about the clip."""
        clip, truth = short_clip()
        self.clip(clip)
        self.config(more)
        return truth

    def boot(self, script: str, timeout: int, *options: str, meanwhile=None, cut: bool = False) -> Result:
        """Runs `script` in the guest to its end; `meanwhile` is called twice a second until then. With `cut` the power
        goes when the guest has marked `cut`."""
        (self.share / "case.sh").write_text("#!/bin/sh\n. /share/guest.sh\n" + script)
        command = ["bash", str(HERE / "run.sh"), "--share", str(self.share), "--timeout", str(timeout)]
        command += ["--broker", str(self.broker.port), *options, "sh", "/share/case.sh"]
        begun = time.monotonic()
        with (self.folder / "run.log").open("w") as log:
            run = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            try:
                while run.poll() is None:
                    if meanwhile:
                        meanwhile()
                    marks = self.share / "marks"
                    if cut and marks.exists() and " cut" in marks.read_text():
                        pull_the_plug(run.pid)
                    time.sleep(0.2)
            finally:
                if run.poll() is None:
                    run.terminate()
                    run.wait()
        time.sleep(1.0)
        output = (self.folder / "run.log").read_text(errors="replace")
        result = Result(self.folder, run.returncode, output, time.monotonic() - begun)
        failed = [words for _, words in result.marks() if words.startswith("failed")]
        check(not failed, f"{'; '.join(failed)}\n{result.tail()}")
        check(run.returncode == 0 or cut, f"the guest ended with status {run.returncode}:\n{result.tail()}")
        return result

    def close(self) -> None:
        self.broker.stop()


def cached(name: str, sources: list[Path], make) -> Path:
    """A file or folder below .cache/vm that is made again when its sources change."""
    import hashlib

    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    target = CACHE / f"{name}-{digest}"
    if not target.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix="part-", dir=CACHE))
        made = make(part)
        made.rename(target)
        shutil.rmtree(part, ignore_errors=True)
    return target


def player() -> Path:
    def build(part: Path) -> Path:
        out = part / "player"
        command = ["aarch64-linux-gnu-gcc", "-O2", "-Wall", "-Wextra", "-o", out, HERE / "player.c"]
        subprocess.run([*command, "-lasound", "-lpthread"], check=True)
        return out

    return cached("player", [HERE / "player.c"], build)


def ffmpeg(*arguments: object) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, arguments)], check=True)


def short_clip() -> tuple[Path, dict]:
    """A cat and a dog in some 13 seconds, as the player wants it, and the truth about it."""
    composer = ROOT / "tests/demo/compose.py"

    def build(part: Path) -> Path:
        media = ROOT / ".cache/demo/media"
        subprocess.run(["bash", str(ROOT / "tests/demo/media.sh"), str(media)], check=True)
        command = ["/usr/bin/python3", composer, "--media", media, "--out", part / "demo", "--short"]
        subprocess.run([*command, "--seed", str(SEED)], check=True)
        clip = part / "clip"
        clip.mkdir()
        ffmpeg("-i", part / "demo/demo.y4m", "-f", "rawvideo", "-pix_fmt", "yuyv422", clip / "picture.yuyv")
        ffmpeg("-i", part / "demo/demo.wav", "-f", "s16le", "-ac", 1, "-ar", 16000, clip / "sound.s16")
        shutil.copy(part / "demo/truth.json", clip)
        return clip

    clip = cached(f"clip-{SEED}", [composer], build)
    return clip, json.loads((clip / "truth.json").read_text())


def sync_clip(folder: Path) -> Path:
    """Seven seconds: every second from 1.5 s on a flash of 133 ms and at its beginning a click of 5 ms."""
    width, height, fps, rate = 320, 240, 15, 16_000
    seconds, first, every = 7, 1.6, 1.0
    onsets = [first + n * every for n in range(5)]
    folder.mkdir()
    stripes = bytes(v for x in range(width // 2) for v in (40 + x // 8 % 2 * 80, 128) * 2) * height
    bright = bytes(v for x in range(width // 2) for v in (150 + x // 8 % 2 * 80, 128) * 2) * height
    with (folder / "picture.yuyv").open("wb") as out:
        for n in range(seconds * fps):
            lit = any(onset - 1e-6 <= n / fps < onset + 2 / fps - 1e-6 for onset in onsets)
            out.write(bright if lit else stripes)
    samples = bytearray()
    for n in range(seconds * rate):
        since = [n / rate - onset for onset in onsets if 0 <= n / rate - onset < 0.005]
        noise = (n * 7919 % 65) - 32
        value = (16_000 if int(since[0] * 2000) % 2 == 0 else -16_000) if since else noise
        samples += int(value).to_bytes(2, "little", signed=True)
    (folder / "sound.s16").write_bytes(samples)
    return folder


def virtual(shift: int) -> list[str]:
    return ["--icount", str(shift)]


# Each case: what it proves, in its docstring; the board that it boots; what must hold of the result.


def sees_and_hears(board: Board) -> Result:
    """A cat in view, then a dog off camera: each expected event within a snippet, none unexpected."""
    truth = board.cat_and_dog()
    result = board.boot(
        """
play
start
opened 30 camera microphone
sleep 2
used begin
play_to_end
sleep 3
used end
stop
""",
        900,
        *virtual(SHIFT),
    )
    ((begin,),) = result.played("begin")
    events = [{**e, "start": e["start"] - begin / 1e9} for e in result.events()]
    check(not result.played("underrun"), "the player was late: the microphone heard a pause")
    verdict = judge(truth, events)
    for expected, event in verdict.found:
        result.measure(f"{expected['name']}: {event['start'] - expected['onset_s']:+.2f} s, {event['text']!r}")
    check(not verdict.missed, f"missed: {[e['name'] for e in verdict.missed]}\n{result.tail()}")
    check(not verdict.late, f"not within 0.96 s: {[(e['name'], v['start'] - e['onset_s']) for e, v in verdict.late]}")
    check(not verdict.unexpected, f"unexpected: {[(e['label'], e['start']) for e in verdict.unexpected]}")
    degraded = [e for e in events if e["degraded"]]
    check(not degraded, f"degraded though both devices work: {degraded}")
    check(not any(s["shedding"] for s in result.states()), "load was shed")
    last = re.search(r"stopped snippets=(\d+) skipped=(\d+) dropped=(\d+) .*rss_kib=(\d+)", result.log())
    check(bool(last), f"no last words\n{result.tail()}")
    snippets, skipped, dropped, rss = map(int, last.groups())
    check(skipped == dropped == 0, f"{skipped} snippets skipped, {dropped} blocks or frames dropped")
    result.measure(f"{snippets} snippets, none skipped; {rss / 1024:.1f} MiB")
    ended(result)
    return result


def ended(result: Result) -> None:
    """Every event ended, `offline` said by the program itself, within two seconds."""
    took = result.mark("stopped") - result.mark("term")
    check(result.marks("stopped")[0][1] == "0", f"exit status {result.marks('stopped')[0][1]}")
    ids = {kind: [e["id"] for e in result.events() if e["type"] == kind] for kind in ("new", "end")}
    check(set(ids["new"]) == set(ids["end"]), "an event has no end")
    last = result.messages("availability")[-1].payload
    check(last == "offline", f"the last availability is {last}")
    check(f"Received DISCONNECT from girasol-{DEVICE}" in (result.folder / "broker.log").read_text(), "no farewell")
    result.measure(f"SIGTERM to the end: {took:.2f} s")
    check(took <= 2.0, f"the end took {took:.2f} s")


def together(board: Board) -> Result:
    """Flash and click: the distance that is measured is that which was played, within 40 ms."""
    board.clip(sync_clip(board.folder / "clip"))
    board.config()
    result = board.boot(
        """
play
cp /share/root/usr/bin/girasol /tmp/girasol
/tmp/girasol check --no-mqtt --sync 9 --config /share/girasol.toml --bundle /share/root/usr/share/girasol/bundle \
    > /share/checked 2> /share/log &
checking=$!
opened 60 camera
opened 10 microphone
play_clip
wait $checking
echo "status $?" >> /share/checked
""",
        900,
        *virtual(SHIFT),
    )
    checked = (board.share / "checked").read_text()
    line = next((line for line in checked.splitlines() if "together:" in line), "")
    found = re.search(r"sound ([-+.\d]+) ms after .*of (\d+) flashes", line)
    check(bool(found), f"no flash with a click:\n{checked}{result.log()}")
    measured, pairs = float(found[1]), int(found[2])
    ((begin,),) = result.played("begin")
    cuts = [(n, at) for n, at in result.played("cut")]
    # Every second cut is the light going off.
    apart = [(begin + n * 1e9 / 15 - at) / 1e6 for n, at in cuts[::2]]
    played = statistics.median(apart)
    result.measure(f"{line.split(':', 1)[1].strip()}; played {played:+.1f} ms apart")
    check(pairs >= 4, f"{pairs} pairs of 5")
    check(abs(measured - played) <= 40.0, f"measured {measured:+.1f} ms, played {played:+.1f} ms")
    for what in ("camera", "microphone"):
        verdict = next(line for line in checked.splitlines() if f" {what}:" in line)
        check(verdict.startswith("ok ") and verdict.endswith("good"), f"verdict: {verdict}")
        result.measure(" ".join(verdict.split()[1:]))
    return result


def verdicts(board: Board) -> Result:
    """What `girasol check` says of black pictures, of one bright picture that stays, of digital silence; `girasol devices`."""
    for name, luma in (("clip", (16, 16)), ("still", (60, 180))):
        folder = board.share / name
        folder.mkdir()
        line = bytes(v for x in range(160) for v in (luma[x // 8 % 2], 128) * 2)
        (folder / "picture.yuyv").write_bytes(line * 240)
        (folder / "sound.s16").write_bytes(bytes(32_000))
    board.config()
    result = board.boot(
        """
cp /share/root/usr/bin/girasol /tmp/girasol
check='/tmp/girasol check --no-mqtt --config /share/girasol.toml --bundle /share/root/usr/share/girasol/bundle'
look() { # FOLDER
    play "$1"
    $check > "$1/checked" 2>> /share/log
}
look /share/clip
/tmp/girasol devices > /share/devices
play_no_more
look /share/still
script --quiet --command "$check --seconds 3 2>> /share/log" /share/terminal > /dev/null
""",
        900,
        *virtual(SHIFT),
    )
    checked = {name: (board.share / name / "checked").read_text() for name in ("clip", "still")}
    devices = (board.share / "devices").read_text()
    for name, what, word in (
        ("clip", "camera", "too dark"),
        ("clip", "microphone", "silent"),
        ("still", "camera", "frozen"),
    ):
        line = next((line for line in checked[name].splitlines() if f" {what}:" in line), "")
        check(line.startswith("note") and word in line, f"{what}: {checked[name]}")
        result.measure(" ".join(line.split()[1:]))
    check("YUYV" in devices and "hw:CARD=Loopback,DEV=0" in devices, f"devices: {devices}")
    # The loop takes what is played into it, and that alone; its other end is open to all.
    played, free = (["", ""] + [line for line in devices.splitlines() if "channel(s)" in line])[-2:]
    check(played.split() == ["S16_LE", "1", "channel(s)", "16000", "Hz"], f"formats of the microphone: {devices}")
    check("S32_LE" in free and "48000" in free, f"formats of a microphone that is free: {devices}")
    result.measure(f"the microphone's formats: {played.strip()}")
    # What a terminal shows: a line that is drawn over and over, and is gone before the verdicts.
    # (As bytes: reading as text turns a carriage return into a new line.)
    terminal = (board.share / "terminal").read_bytes().decode()
    drawn = re.findall(r"\r\x1b\[K([^\r\n]*)", terminal)
    meters = [line for line in drawn if re.fullmatch(r"sound \[[#.|!]+\] -120 dB   light \[[#.]+\] +\d+ %, .*", line)]
    check(len(meters) >= 20, f"no level and light on a terminal: {drawn}")
    verdict = re.search(r"\r\x1b\[K(?:note|ok) +camera: .*frozen", terminal)
    check(bool(verdict), f"the verdict does not begin a line of its own: {terminal}")
    check(not any("\x1b" in text for text in checked.values()), "a file gets what is meant for a terminal")
    result.measure(f"on a terminal {len(meters)} drawings in 3 s, like {meters[-1]!r}")
    return result


def drift(board: Board) -> Result:
    """A sound card that runs 150 ppm slow, then one 150 ppm fast: found to within 10 ppm in a minute."""
    board.config("[camera]\nenabled = false")
    result = board.boot(
        """
rate_shift() { amixer -q -c Loopback cset "iface=PCM,name='PCM Rate Shift 100000',device=0" "$1" || die 'rate shift'; }
# Nothing is played: with both ends running, rounding in snd-aloop moves the rate away from the one that was set.
for rate in 100015 99985; do
    rate_shift $rate
    n=$(count 'microphone open')
    start
    until_true 30 'the microphone is open' again "$n" 'microphone open'
    sleep 65
    stop
done
""",
        1800,
        *virtual(SHIFT),
    )
    runs: list[list[dict]] = []
    for state in (message.json for message in result.messages("state")):
        if not runs or state["uptime"] < runs[-1][-1]["uptime"]:
            runs.append([])
        runs[-1].append(state)
    check(len(runs) == 2, f"{len(runs)} runs told their state")
    for shift, states in zip((100_015, 99_985), runs, strict=True):
        told = [s for s in states if s["drift_ppm"] is not None]
        check(bool(told), f"no drift was told\n{result.tail()}")
        ppm, at = told[-1]["drift_ppm"], told[-1]["uptime"]
        # The driver's clock takes so many parts for 100 000 of ours.
        played = (100_000 / shift - 1) * 1e6
        result.measure(f"the card runs {played:+.1f} ppm fast, told {ppm:+.1f} after {at:.0f} s")
        check(abs(ppm - played) <= 10.0, "not within 10 ppm")
    return result


def unplugged(board: Board) -> Result:
    """Camera, then microphone, unplugged and plugged in again; then both for two minutes."""
    board.cat_and_dog()
    result = board.boot(
        """
play
start
opened 30 camera microphone
sleep 5
used healthy
sleep 5
used camera-pulled
mark gone camera
unplug_camera
sleep 1
play_to_end
used camera-away
n=$(count 'camera open')
plug_camera
mark back camera
until_true 20 'the camera is open again' again $n 'camera open'
sleep 8
used microphone-pulled
mark gone microphone
unplug_microphone
sleep 12
used microphone-away
n=$(count 'microphone open')
plug_microphone
mark back microphone
until_true 20 'the microphone is open again' again $n 'microphone open'
sleep 8
mark gone both
unplug_camera
unplug_microphone
sleep 6
used both-pulled
sleep 120
used both-away
alive || die 'girasol has ended'
n=$(count 'camera open')
m=$(count 'microphone open')
plug_microphone
plug_camera
mark back both
until_true 20 'the camera is open again' again $n 'camera open'
until_true 20 'the microphone is open again' again $m 'microphone open'
sleep 8
used end
stop
""",
        3600,
        *virtual(SHIFT),
    )
    states = result.states()
    gone = {name: at for at, name in result.marks("gone")}
    back = {name: at for at, name in result.marks("back")}
    for name, devices in (("camera", ["camera"]), ("microphone", ["microphone"]), ("both", ["camera", "microphone"])):
        for device in devices:
            noticed = next((s for s in states if s["at"] > gone[name] and s[device] != "healthy"), None)
            check(bool(noticed), f"nobody was told that the {device} is gone")
            healthy = next((s for s in states if s["at"] > back[name] and s[device] == "healthy"), None)
            check(bool(healthy), f"the {device} did not come back")
            took = healthy["at"] - back[name]
            result.measure(f"{name}: {device} gone: told after {noticed['at'] - gone[name]:.1f} s; back: after {took:.1f} s")
            check(took <= 5.0, f"the {device} took {took:.1f} s to come back")
    # The microphone went on while the camera was away, and the dog was heard.
    away = [e for e in result.events() if gone["camera"] < e["start"] < back["camera"]]
    heard = [e for e in away if e["type"] == "new" and e["sense"] == "hear" and e["label"] == "dog_bark"]
    check(bool(heard), f"the dog was not heard while the camera was away: {[(e['label'], e['start']) for e in away]}")
    check(all(e["degraded"] == "audio_only" for e in heard), f"not said to be degraded: {heard}")
    check(not any(e["sense"] == "see" and e["type"] == "new" for e in away), "something was seen without a camera")
    # What was not looked at is neither on nor off camera.
    said = [e["text"] for e in heard]
    result.measure(f"heard without a camera: {said}")
    check(all(e["in_view"] is None for e in heard) and not any("camera" in text for text in said), f"{heard}")
    snippets = [s["counters"]["snippets"] for s in states]
    check(snippets == sorted(snippets), "it was started anew")
    check(result.log().count(" running ") == 1, "it was started anew")
    both = [a for a in result.messages("availability") if a.payload == "offline"]
    check(len(both) == 1, "it went offline in between")
    healthy = result.share_of_core("healthy", "camera-pulled")
    for name, since, until in (
        ("camera away", "camera-pulled", "camera-away"),
        ("microphone away", "microphone-pulled", "microphone-away"),
        ("both away", "both-pulled", "both-away"),
    ):
        share = result.share_of_core(since, until)
        result.measure(f"{name}: {share * 100:.1f} % of a core ({healthy * 100:.1f} % when healthy)")
        check(share <= healthy * 1.1, f"{name}: {share * 100:.1f} % of a core")
    check(result.share_of_core("both-pulled", "both-away") <= 0.05, "looking for devices costs more than 5 %")
    grown = result.used("end")[2] / result.used("healthy")[2]
    result.measure(f"resident at the end: {grown:.3f} of that at the beginning")
    check(grown < 1.1, "memory has grown")
    ended(result)
    return result


def faults(board: Board) -> Result:
    """A camera that is busy, disconnected, fails, drops, changes its format; an overrun of the microphone."""
    # Of overruns only some are warnings; here every one must be told, or the one that is made could go unseen.
    board.cat_and_dog('[log]\nlevel = "debug"')
    result = board.boot(
        """
play
v4l2-ctl -d "$(node cap)" --stream-mmap > /dev/null 2>&1 &
holder=$!
sleep 1
start
until_true 20 'the camera is said to be busy' grep -q 'another program uses the camera' /share/log
opened 20 microphone
sleep 3
mark fault busy camera
kill $holder
opened 20 camera
mark over busy
sleep 4
fault() { # NAME MICROPHONE-OR-CAMERA PATTERN COMMAND...
    name=$1 device=$2 pattern=$3
    shift 3
    n=$(count "$pattern")
    used "before $name"
    mark fault "$name" "$device"
    "$@"
    until_true 20 "after $name" again "$n" "$pattern"
    mark over "$name"
    sleep 6
    used "after $name"
}
control() { v4l2-ctl -d "$(node cap)" -c "$1"; }
fault error camera 'camera open' control inject_fatal_streaming_error=1
fault disconnect camera 'camera open' control disconnect=1
mark fault dropped camera
control percentage_of_dropped_buffers=50
sleep 8
control percentage_of_dropped_buffers=0
mark over dropped
sleep 3
overrun() { kill -STOP $girasol; sleep 3; kill -CONT $girasol; }
fault overrun microphone 'overrun: sound was lost' overrun
# That the microphone hears again is not said by any line: it hears.
mark listen
play_to_end
mark listened
# The receiver sees another signal now: selected timings, not those that were set.
fault format camera 'camera open' control dv_timings_signal_mode=4
sleep 3
used end
stop
""",
        3600,
        *virtual(SHIFT),
    )
    states = result.states()
    over = {words: at for at, words in result.marks("over")}
    for at, words in result.marks("fault"):
        name, device = words.split(" ")
        if name == "dropped":
            between = [s for s in states if at <= s["at"] <= over[name]]
            check(all(s["camera"] == "healthy" for s in between), f"half the frames are enough: {between}")
            continue
        since = at if name != "overrun" else at + 3.0
        healthy = next((s for s in states if s["at"] > since and s[device] == "healthy"), None)
        check(bool(healthy), f"{name}: not healthy again\n{result.tail()}")
        took = over[name] - since
        result.measure(f"{name}: the {device} was open again after {took:.1f} s")
        check(took <= 5.0, f"{name}: {took:.1f} s")
        if f"before {name}" in [w.split(" ", 2)[2] for _, w in result.marks("used")]:
            share = result.share_of_core(f"before {name}", f"after {name}")
            check(share < 0.95, f"{name}: {share * 100:.0f} % of a core")
    listening = [e for e in result.events() if result.mark("listen") < e["start"] < result.mark("listened")]
    heard = [e for e in listening if e["type"] == "new" and e["label"] == "dog_bark"]
    check(bool(heard), f"deaf after an overrun: {[(e['label'], e['start']) for e in listening]}")
    check(not any(e["degraded"] for e in heard), f"degraded after an overrun: {heard}")
    overruns = len(re.findall(r"overrun: sound was lost", result.log()))
    result.measure(f"overrun: then heard {heard[0]['text']!r}; {overruns} overrun(s) in all")
    check(result.log().count(" running ") == 1, "it was started anew")
    last = states[-1]
    check(last["camera"] == last["microphone"] == "healthy", f"at the end: {last}")
    ended(result)
    return result


def broker_cut(board: Board) -> Result:
    """The broker killed for ten seconds and more while a dog barks: every event message arrives, in order."""
    board.cat_and_dog()
    cut = {"done": False, "back": False}

    def meanwhile() -> None:
        marks = (board.share / "marks").read_text() if (board.share / "marks").exists() else ""
        if "broker away" in marks and not cut["done"]:
            board.broker.stop(kill=True)
            cut["done"] = True
            (board.share / "broker-is-away").touch()
        if "broker back" in marks and not cut["back"]:
            board.broker.start()
            cut["back"] = True
            (board.share / "broker-is-back").touch()

    result = board.boot(
        """
play
start
opened 30 camera microphone
sleep 3
play_to_end
sleep 2
mark broker away
until_true 600 'the broker is away' test -e /share/broker-is-away
play_to_end
sleep 2
used away
n=$(count 'mqtt: connected')
mark broker back
until_true 600 'the broker is back' test -e /share/broker-is-back
until_true 60 'connected again' again $n 'mqtt: connected'
mark connected
sleep 5
stop
""",
        3600,
        *virtual(SHIFT),
        meanwhile=meanwhile,
    )
    events = result.events()
    # At least once: a copy may come, and later than others.
    numbers = list(dict.fromkeys(e["seq"] for e in events))
    check(numbers == list(range(numbers[0], numbers[0] + len(numbers))), f"missing or out of order: {numbers}")
    away = {words: at for at, words in result.marks("broker")}
    during = [e for e in events if e["type"] == "new" and away["away"] < e["start"] < away["back"]]
    check(len(during) >= 1, "nothing happened while the broker was away")
    last = result.states()[-1]["counters"]
    check(last["dropped"] == last["expired"] == 0, f"lost: {last}")
    copies = len(events) - len(numbers)
    result.measure(f"{len(numbers)} event messages, none missing, {copies} copies, {last['reconnects']} reconnects")
    result.measure(f"{len(during)} events begun while it was away")
    result.measure(f"connected again {result.mark('connected') - away['back']:.1f} s after it was back")
    ended(result)
    return result


def slow_board(board: Board) -> Result:
    """One core of 125 million instructions a second with two other busy programs: load is shed and said so, memory is flat, times
    are true."""
    truth = board.cat_and_dog()
    result = board.boot(
        """
play
start
opened 60 camera microphone
for n in 1 2; do while :; do :; done & done
sleep 10
used begin
play_to_end 120
sleep 30
used end
stop
""",
        3600,
        *virtual(3),
    )
    last = result.states()[-1]
    counters = last["counters"]
    result.measure(f"{counters['snippets']} snippets, {counters['skipped']} skipped")
    check(counters["skipped"] > 0, "nothing was skipped: the board is not slow enough")
    check(any(s["shedding"] for s in result.states()), "shedding was not declared")
    grown = result.used("end")[2] / result.used("begin")[2]
    result.measure(f"resident at the end: {grown:.3f} of that at the beginning")
    check(grown < 1.1, "memory has grown")
    begin = result.played("begin")[0][0] / 1e9
    check(not result.played("underrun"), "the player was late: what was played is not what the truth says")
    events = [{**e, "start": e["start"] - begin} for e in result.events()]
    lies = [(e["label"], e["start"]) for e in judge(truth, events).unexpected]
    check(not lies, f"events at times at which it was not: {lies}")
    took = result.mark("stopped") - result.mark("term")
    result.measure(f"SIGTERM to the end: {took:.2f} s")
    return result


# In the guest, with systemd: what the journal says of girasol goes to /share/log.
SYSTEM = """
property() { systemctl show --property "$1" --value girasol; }
girasol_pid() { girasol=$(property MainPID); [ "$girasol" != 0 ]; }
follow() { journalctl --unit girasol --follow --lines all --output short-monotonic > /share/log 2>&1 & }
active() { [ "$(property ActiveState)" = active ] && girasol_pid; }
restarted() { [ "$(property NRestarts)" -gt "$1" ] && active; }
install() { dpkg --force-confold --install "$1" || die "dpkg --install $1"; }
"""


def service(board: Board) -> Result:
    """Install, enable, capture; watchdog, kill, memory limit; upgrade and rollback; the sandbox; the end."""
    board.cat_and_dog('username = "board"')
    options = board.system()
    raw = board.folder / "next"
    subprocess.run(["dpkg-deb", "--raw-extract", board.deb, raw], check=True)
    control = raw / "DEBIAN/control"
    control.write_text(re.sub(r"(?m)^(Version: .*)$", r"\1+next", control.read_text()))
    next_deb = board.share / "next.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "--build", raw, next_deb], check=True)
    shutil.rmtree(raw)
    result = board.boot(
        SYSTEM
        + """
follow
mark installing
install /share/girasol.deb
mark installed
[ "$(systemctl is-enabled girasol)" = enabled ] || die 'not enabled'
until_true 90 'started by the installation' active
mark running
cp /share/girasol.toml /etc/girasol/girasol.toml
printf 'PASSWORD' > /etc/girasol/mqtt-password
systemctl stop girasol
play
systemctl start girasol
until_true 90 'connected' grep -q 'mqtt: connected' /share/log
opened 60 camera microphone
girasol_pid
sleep 10
play_to_end
used calm
mark locked $(awk '/VmLck/ { print $2 }' /proc/$girasol/status)
mark limit $(cat /sys/fs/cgroup/system.slice/girasol.service/memory.max)
mark peak $(cat /sys/fs/cgroup/system.slice/girasol.service/memory.peak)
mark user $(stat -c %U /proc/$girasol) $(awk '/^CapEff|^NoNewPrivs|^Seccomp:/ { print $2 }' /proc/$girasol/status)
mark state $(stat -c %a:%U /var/lib/girasol) $(ls /var/lib/private/girasol /var/lib/girasol 2> /dev/null | tr '\n' ' ')
systemd-analyze security --no-pager girasol.service > /share/security
mark status $(systemctl status girasol | grep Status:)

n=$(property NRestarts)
m=$(count 'camera open')
mark stall
kill -STOP $girasol
until_true 90 'the watchdog restarts it' restarted $n
mark after-stall $(journalctl --unit girasol | grep -c 'Watchdog timeout')
until_true 60 'captures again' again $m 'camera open'
sleep 10
n=$(property NRestarts)
girasol_pid
mark kill
kill -KILL $girasol
until_true 60 'restarted after a kill' restarted $n
mark after-kill
sleep 15
mark squeeze
systemctl set-property --runtime girasol MemoryMax=16M
limited() { journalctl --unit girasol | grep -q oom-kill; }
until_true 120 'the limit kills it' limited
systemctl set-property --runtime girasol MemoryMax=256M
until_true 90 'it is back' active
mark after-squeeze
sleep 15

mark upgrade
install /share/next.deb
until_true 90 'runs after the upgrade' active
mark upgraded $(dpkg-query --show --showformat '${Version}' girasol)
grep -q 10.0.2.100 /etc/girasol/girasol.toml || die 'the configuration is gone'
sleep 15
install /share/girasol.deb
until_true 90 'runs after the rollback' active
mark rolled-back $(dpkg-query --show --showformat '${Version}' girasol)
sleep 20
mark term
systemctl stop girasol
mark stopped
[ "$(property Result)" = success ] || die "the end: $(property Result)"
journalctl --unit girasol > /share/journal
""".replace("PASSWORD", PASSWORD),
        5400,
        *options,
        *virtual(SHIFT),
    )
    (board.folder / "disk").unlink()
    seconds = result.mark("installed") - result.mark("installing")
    result.measure(f"installed in {seconds:.0f} s")
    locked, peak = int(result.marks("locked")[0][1]), int(result.marks("peak")[0][1])
    result.measure(f"locked: {locked / 1024:.0f} MiB of address space; peak of the cgroup {peak / 2**20:.0f} MiB")
    check(locked > 10_000, "memory is not locked")
    check(result.marks("limit")[0][1] == str(256 * 2**20), "no memory limit")
    user = result.marks("user")[0][1].split()
    check(user[0] == "girasol" and int(user[1], 16) == 0 and user[2:] == ["1", "2"], f"not in its sandbox: {user}")
    security = (board.share / "security").read_text()
    level = float(re.search(r"Overall exposure level for .*: ([\d.]+)", security)[1])
    result.measure(f"exposure level on the board: {level}")
    check(level <= 2.0, f"exposure level {level}")
    check(any(e["type"] == "new" for e in result.events()), "nothing was seen or heard")
    check(int(result.marks("after-stall")[0][1]) >= 1, "it was not the watchdog")
    for word, after in (("stall", "after-stall"), ("kill", "after-kill"), ("squeeze", "after-squeeze")):
        result.measure(f"{word}: back after {result.mark(after) - result.mark(word):.0f} s")
    said = [m.payload for m in result.messages("availability") if not m.retained]
    result.measure(f"availability: {', '.join(said)}")
    ups = "".join("1" if payload == "online" else "0" for payload in said)
    check(re.fullmatch(r"(1+0+){5,}", ups) is not None, f"availability: {said}")
    check(result.marks("upgraded")[0][1].endswith("+next"), "no upgrade")
    check(not result.marks("rolled-back")[0][1].endswith("+next"), "no rollback")
    took = result.mark("stopped") - result.mark("term")
    result.measure(f"systemctl stop: {took:.2f} s")
    check(took <= 2.0, f"the end took {took:.2f} s")
    return result


def power_cut(board: Board) -> Result:
    """The power goes while events are kept for a broker that is away: what is older than the window arrives later."""
    board.cat_and_dog('username = "board"')
    (board.share / "accepted").mkdir(mode=0o777)
    (board.share / "accepted").chmod(0o777)
    options = board.system()
    board.broker.stop()
    first = board.boot(
        SYSTEM
        + """
mkdir -p /etc/systemd/system/girasol.service.d
printf '[Service]\nReadWritePaths=/share/accepted\nExecStart=\nExecStart=/usr/bin/girasol run --events /share/accepted/events\n' \
    > /etc/systemd/system/girasol.service.d/case.conf
install /share/girasol.deb
cp /share/girasol.toml /etc/girasol/girasol.toml
printf 'PASSWORD' > /etc/girasol/mqtt-password
sync
systemctl stop girasol
play
systemctl start girasol
follow
opened 90 camera
opened 60 microphone
mark running
sleep 4
play_to_end
play_to_end
mark cut
sleep 600
""".replace("PASSWORD", PASSWORD),
        3600,
        *options,
        *virtual(SHIFT),
        cut=True,
    )
    cut = first.mark("cut")
    lines = (board.share / "accepted/events").read_text().splitlines()
    accepted = [json.loads(line) for line in lines if line.endswith("}")]
    check(len(accepted) >= 4, f"too little has happened: {lines}")
    (board.share / "marks").unlink()
    board.broker.start()
    second = board.boot(
        SYSTEM
        + """
follow
until_true 120 'started by itself' active
mark running
until_true 120 'connected' grep -q 'mqtt: connected' /share/log
sleep 10
girasol_pid
mark term
systemctl stop girasol
mark stopped
""",
        3600,
        *options,
        *virtual(SHIFT),
    )
    (board.folder / "disk").unlink()
    arrived = {(e["id"], e["type"], e["seq"]) for e in second.events()}
    lost = [e for e in accepted if (e["id"], e["type"], e["seq"]) not in arrived]
    old = [e for e in lost if e["time"] < cut - WINDOW]
    second.measure(f"{len(accepted)} event messages accepted before the cut, {len(lost)} lost, {len(old)} of them older than {WINDOW} s")
    check(not old, f"lost: {[(e['label'], e['type'], cut - e['time']) for e in old]}")
    # Events from before the boot are no news, however young.
    ids = {e["id"] for e in accepted}
    topics = [m.topic for m in second.messages() if "/event" in m.topic and m.json["id"] in ids]
    replayed = sum(topic.endswith("/event/replayed") for topic in topics)
    second.measure(f"{replayed} of {len(topics)} that arrived came as replayed")
    check(replayed == len(topics) > 0, f"came as news: {[t for t in topics if not t.endswith('/event/replayed')]}")
    return second


# What has been accepted is safe from a power cut after `outbox.sync_every` (5 s) and a sync.
WINDOW = 6.0
PASSWORD = "not-a-secret"
WITH_PASSWORD = ["service", "power-cut"]
# An instruction takes 2^SHIFT ns.
SHIFT = 0
CASES = {"sees-and-hears": sees_and_hears, "together": together, "verdicts": verdicts, "drift": drift}
CASES |= {"unplugged": unplugged, "faults": faults, "broker-cut": broker_cut, "slow-board": slow_board}
CASES |= {"service": service, "power-cut": power_cut}
SHORT = ["sees-and-hears"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--deb", type=Path, required=True, help="the arm64 package")
    parser.add_argument("case", nargs="*", help=f"of {', '.join(CASES)}; all; default: {', '.join(SHORT)}")
    options = parser.parse_args()
    names = list(CASES) if options.case == ["all"] else options.case or SHORT
    worst = 0
    for name in names:
        if name not in CASES:
            print(f"board: no case {name}; there are: {', '.join(CASES)}", file=sys.stderr)
            return 2
        say(f"==> {name}: {CASES[name].__doc__}")
        board = Board(options, name)
        begun = time.monotonic()
        try:
            CASES[name](board)
            say(f"  ok  {name} ({time.monotonic() - begun:.0f} s)")
        except Failed as failed:
            say(f"  FAILED  {name}: {failed}")
            worst = max(worst, 1)
        except (OSError, ValueError, subprocess.SubprocessError):
            traceback.print_exc()
            worst = 2
        finally:
            board.close()
    return worst


if __name__ == "__main__":
    sys.exit(main())
