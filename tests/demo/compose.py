"""Compose the demo clip: real photographs and recordings, in an order and at times that the seed decides.

Runs on Debian's own Python with numpy and PIL; ffmpeg decodes the sounds and encodes the clip.
Writes into --out:

    demo.y4m    320x240, 15 frames per second, 4:2:0
    demo.wav    48 kHz mono, 16 bit
    demo.mp4    both of them, H.264 and AAC (what `make demo` replays)
    truth.json  what happens when; the only thing that demo.py believes

Five things happen, each after at least three seconds of room noise: a person in view speaks, a phone rings
off camera, a silent cat is in view, a dog barks off camera, glass breaks off camera. Times are drawn
continuously, so that their phase against the model's 0.96 s snippets is random.

With --short only the cat and the dog, after two seconds each: for places where every second is dear.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

WIDTH, HEIGHT, FPS = 320, 240, 15
RATE = 48_000
NOISE_DBFS = -55.0
TURN_S = 0.5  # the camera turns from one view to the next


@dataclass(frozen=True)
class View:
    """A photograph, and the 4:3 window (left, top, width) the camera looks through at first and at last."""

    photo: str
    first: tuple[float, float, float]
    last: tuple[float, float, float]
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)


# Windows leave out what is beside the point: the flag and the space shuttle model behind the astronaut.
PERSON = View("astronaut.png", (88, 0, 265), (100, 0, 250))
CAT = View("chelsea.png", (0, 0, 400), (70, 20, 330))
MOTORBIKE = View("motorcycle_left.png", (0, 0, 640), (90, 20, 620))
# Grey textures get a colour, as a camera would see them.
NEUTRAL = (
    View("brick.png", (0, 40, 400), (100, 120, 380), (1.0, 0.72, 0.62)),
    View("gravel.png", (100, 0, 380), (20, 150, 400), (1.0, 0.97, 0.92)),
    View("grass.png", (0, 0, 420), (90, 120, 380), (0.75, 1.0, 0.55)),
    View("coffee.png", (0, 0, 520), (90, 10, 480)),
)


@dataclass
class Expected:
    """An event that must be reported, by one of these labels."""

    name: str
    sense: str
    any_of: list[str]
    in_view: bool
    onset_s: float
    end_s: float


@dataclass
class Allowed:
    """An event that may be reported because it is true, and need not be."""

    sense: str
    label: str
    from_s: float
    to_s: float
    why: str


@dataclass
class Script:
    """The clip before it is rendered: views with their first second, sounds with theirs, and the truth."""

    seed: int
    duration_s: float = 0.0
    views: list[tuple[float, View]] = field(default_factory=list)
    sounds: list[tuple[float, float, np.ndarray]] = field(default_factory=list)  # (second, peak, samples)
    expected: list[Expected] = field(default_factory=list)
    allowed: list[Allowed] = field(default_factory=list)


def trimmed(samples: np.ndarray, floor: float = 0.02) -> np.ndarray:
    """Without what is fainter than `floor` at both ends; the peak is 1."""
    samples = samples / np.abs(samples).max()
    loud = np.flatnonzero(np.abs(samples) > floor)
    return samples[loud[0] : loud[-1] + 1]


class Sounds:
    """The recordings, decoded once, without the silence around them (so that an onset is an onset)."""

    def __init__(self, folder: Path):
        self._folder = folder

    def load(self, name: str, floor: float = 0.02) -> np.ndarray:
        command = ["ffmpeg", "-v", "error", "-i", str(self._folder / name)]
        command += ["-f", "f32le", "-ac", "1", "-ar", str(RATE), "-"]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        samples = np.frombuffer(output, np.float32)
        return trimmed(samples, floor)

    def sequence(self, names: list[str], pauses_s: list[float]) -> np.ndarray:
        """Recordings one after the other; `pauses_s` has one entry less than `names`."""
        parts = [self.load(names[0])]
        for name, pause in zip(names[1:], pauses_s, strict=True):
            parts += [np.zeros(round(pause * RATE), np.float32), self.load(name)]
        return np.concatenate(parts)

    def shatter(self, rng: np.random.Generator) -> np.ndarray:
        """A glass breaks: 120 shards, each the recording of a struck glass at its own pitch and moment.

        That recording alone is a clink, which over room noise passes for a bell.
        """
        clink = self.load("glass.ogg", 0.003)
        total = np.zeros(round(1.2 * RATE))
        for shard in range(120):
            speed = np.exp(rng.uniform(np.log(0.5), np.log(2.5)))
            samples = np.interp(np.arange(0, len(clink) - 1, speed), np.arange(len(clink)), clink)
            # The first few hit the floor together; the rest bounce, ever fainter.
            delay = 0.0 if shard < 3 else min(rng.exponential(0.2), 0.7)
            gain = 1.0 if shard < 3 else rng.uniform(0.1, 0.8) * np.exp(-delay / 0.35)
            first = round(delay * RATE)
            samples = samples[: len(total) - first]
            total[first : first + len(samples)] += gain * samples
        return trimmed(total)


def write_script(seed: int, sounds: Sounds, short: bool = False) -> Script:
    """Decide what happens when. A `short` script has a sight and a sound, and less of nothing between them."""
    rng = np.random.default_rng(seed)
    script = Script(seed)
    now = 0.0
    neutral = list(rng.permutation(len(NEUTRAL)))

    def look(view: View, at: float) -> None:
        script.views.append((at, view))

    def seen(begin: float, end: float) -> tuple[float, float]:
        """The camera turns for half a second: what it turns to is seen from the middle of the turn."""
        return begin + TURN_S / 2 if begin > 0.0 else 0.0, end + TURN_S / 2

    def next_neutral() -> View:
        neutral.append(neutral.pop(0))
        return NEUTRAL[neutral[-1]]

    def sound(samples: np.ndarray, at: float) -> float:
        """Place it and return its end."""
        script.sounds.append((at, 10 ** (rng.uniform(-11, -5) / 20), samples))
        return at + len(samples) / RATE

    def expect(name: str, sense: str, any_of: list[str], in_view: bool, onset: float, end: float) -> None:
        script.expected.append(Expected(name, sense, any_of, in_view, onset, end))

    def person_speaks(at: float) -> float:
        words = ["Front_Center", "Front_Left", "Front_Right", "Rear_Center", "Rear_Left", "Rear_Right"]
        names = [f"{word}.wav" for word in rng.permutation(words)[:3]]
        look(PERSON, at)
        first_word = at + rng.uniform(1.5, 2.5)
        last_word = sound(sounds.sequence(names, list(rng.uniform(0.2, 0.4, 2))), first_word)
        end = last_word + rng.uniform(0.7, 1.5)
        expect("a person is in view", "see", ["person"], True, *seen(at, end))
        expect("the person speaks", "hear", ["speech"], True, first_word, last_word)
        script.allowed.append(Allowed("see", "face", *seen(at, end), "she looks into the camera"))
        return end

    def phone_rings(at: float) -> float:
        end = sound(sounds.sequence(["phone-incoming-call.oga"] * 2, [rng.uniform(0.3, 0.5)]), at)
        expect("a phone rings off camera", "hear", ["phone_ring", "alarm", "bell"], False, at, end)
        return end

    def cat_is_silent(at: float) -> float:
        look(CAT, at)
        end = at + rng.uniform(4.5, 6.0)
        expect("a silent cat is in view", "see", ["cat"], True, *seen(at, end))
        return end

    def dog_barks(at: float) -> float:
        times = int(rng.integers(2, 4))
        end = sound(sounds.sequence(["bark.ogg"] * times, list(rng.uniform(0.15, 0.4, times - 1))), at)
        expect("a dog barks off camera", "hear", ["dog_bark"], False, at, end)
        return end

    def glass_breaks(at: float) -> float:
        end = sound(sounds.shatter(rng), at)
        expect("glass breaks off camera", "hear", ["glass_break"], False, at, end)
        return end

    # Each returns when it is over: when the camera turns away from what is seen, when a sound ends.
    scenes = [person_speaks, phone_rings, cat_is_silent, dog_barks, glass_breaks]
    before, after = (3.3, 4.6), 3.5
    if short:
        scenes, before, after = [cat_is_silent, dog_barks], (2.0, 2.6), 2.0
    for index in rng.permutation(len(scenes)):
        begin, now = now, now + rng.uniform(*before)
        if scenes[index] is dog_barks:
            # A thing in view that does not make the sound.
            look(MOTORBIKE, begin)
            now = dog_barks(now)
            script.allowed.append(Allowed("see", "motorbike", *seen(begin, now), "a motorbike is in view"))
        else:
            look(next_neutral(), begin)
            now = scenes[index](now)
    look(next_neutral(), now)
    script.duration_s = round((now + after) * FPS) / FPS
    script.allowed.append(Allowed("hear", "background", 0.0, script.duration_s, "room noise throughout"))
    return script


def smooth(x: float) -> float:
    """0 to 1 with zero slope at both ends."""
    x = min(max(x, 0.0), 1.0)
    return x * x * (3.0 - 2.0 * x)


class Camera:
    """Renders a script's frames: eased pan and zoom, the sway of a hand, and turns between views."""

    def __init__(self, script: Script, photos: Path):
        self._script = script
        self._photos = {
            view.photo: Image.open(photos / view.photo).convert("RGB") for _, view in script.views
        }
        rng = np.random.default_rng(script.seed + 1)
        self._sway = rng.uniform(0.0, 2 * np.pi, 2)
        self._turn_left = rng.integers(0, 2, len(script.views)).astype(bool)

    def _through(self, number: int, at: float) -> np.ndarray:
        """What is seen of view `number`, without any turn."""
        begin, view = self._script.views[number]
        later = self._script.views[number + 1 :]
        end = later[0][0] + TURN_S if later else self._script.duration_s
        part = smooth((at - begin) / (end - begin))
        left, top, width = (a + (b - a) * part for a, b in zip(view.first, view.last, strict=True))
        height = width * HEIGHT / WIDTH
        photo = self._photos[view.photo]
        left += 0.008 * width * np.sin(2 * np.pi * 0.31 * at + self._sway[0])
        top += 0.008 * width * np.sin(2 * np.pi * 0.23 * at + self._sway[1])
        left = min(max(left, 0.0), photo.width - width)
        top = min(max(top, 0.0), photo.height - height)
        box = (left, top, left + width, top + height)
        frame = np.asarray(photo.resize((WIDTH, HEIGHT), Image.BILINEAR, box=box), np.float32)
        return (frame * np.float32(view.tint)).astype(np.uint8)

    def frame(self, at: float) -> np.ndarray:
        number = max(i for i, (begin, _) in enumerate(self._script.views) if begin <= at)
        new = self._through(number, at)
        turned = smooth((at - self._script.views[number][0]) / TURN_S)
        if number == 0 or turned >= 1.0:
            return new
        old = self._through(number - 1, at)
        split = round(turned * WIDTH)
        if self._turn_left[number]:
            return np.concatenate([new[:, WIDTH - split :], old[:, : WIDTH - split]], axis=1)
        return np.concatenate([old[:, split:], new[:, :split]], axis=1)


def room_noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Pink noise at NOISE_DBFS."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.fft.rfftfreq(samples, 1 / RATE)
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(frequency, 30.0)), samples)
    return noise * (10 ** (NOISE_DBFS / 20) / noise.std())


def mix(script: Script) -> np.ndarray:
    """All sounds over the room noise, as 16-bit samples."""
    total = room_noise(round(script.duration_s * RATE), np.random.default_rng(script.seed + 2))
    for at, peak, samples in script.sounds:
        first = round(at * RATE)
        total[first : first + len(samples)] += peak * samples
    return np.round(total.clip(-1.0, 1.0) * 32767).astype("<i2")


def encode(arguments: list[str], data) -> None:
    """Pipe chunks of bytes through ffmpeg."""
    command = ["ffmpeg", "-v", "error", "-y", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        for chunk in data:
            process.stdin.write(chunk)
        process.stdin.close()
        if process.wait() != 0:
            raise SystemExit(f"compose: ffmpeg failed: {' '.join(command)}")


def render(script: Script, photos: Path, out: Path) -> None:
    camera = Camera(script, photos)
    frames = (camera.frame(i / FPS).tobytes() for i in range(round(script.duration_s * FPS)))
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS), "-i", "-"]
    video, audio, both = (str(out / f"demo.{kind}") for kind in ("y4m", "wav", "mp4"))
    encode([*raw, "-pix_fmt", "yuv420p", video], frames)
    encode(["-f", "s16le", "-ar", str(RATE), "-ac", "1", "-i", "-", audio], [mix(script).tobytes()])
    quality = ["-c:v", "libx264", "-preset", "veryfast", "-crf", "18", "-c:a", "aac", "-b:a", "160k"]
    encode(["-i", video, "-i", audio, *quality, both], [])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--media", type=Path, required=True, help="folder with the photographs and recordings"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--seed", type=int, default=1, help="order and timing (default 1)")
    parser.add_argument("--short", action="store_true", help="one sight and one sound in some 12 seconds")
    options = parser.parse_args()

    options.out.mkdir(parents=True, exist_ok=True)
    script = write_script(options.seed, Sounds(options.media), options.short)
    render(script, options.media, options.out)
    truth = {
        "seed": options.seed,
        "duration_s": script.duration_s,
        "expected": [asdict(event) for event in sorted(script.expected, key=lambda e: e.onset_s)],
        "allowed": [asdict(event) for event in script.allowed],
    }
    # Written last: a folder with truth.json holds a whole clip.
    (options.out / "truth.json").write_text(json.dumps(truth, indent=2) + "\n")


if __name__ == "__main__":
    main()
