"""Sounds for training: the kit's clips, room responses, synthetic rings and alarms, and augmentation helpers.

Everything random takes a `numpy.random.Generator`, so a seed fixes the result. Clips are decoded once into one int16
file in the work directory and then only mapped. Clips of the kit's `train` split are divided again, by source id, into
`train` and `val` (12 %); `test` is left alone until evaluation, and its part `final` until the last one (splits.py).

Waveforms are mono f32 at 16 kHz, full scale = 1.
"""
from __future__ import annotations

import csv
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.fft
import scipy.signal
import soundfile

from .frontend import SAMPLE_RATE
from .splits import is_final

Maker = Callable[[np.random.Generator, np.ndarray], np.ndarray]

AUDIO_CLASSES = (
    "aircraft", "alarm", "appliance", "baby_cry", "background", "bell", "bird", "breathing_snoring", "car_horn",
    "cat_meow", "clapping", "clock_tick", "cough", "dog_bark", "door", "engine", "explosion", "farm_animal",
    "fire_crackle", "footsteps", "glass_break", "household", "insect_frog", "knock", "laughter", "music", "rain",
    "rooster", "saw", "scream", "sea_waves", "siren", "sneeze", "speech", "thunder", "train", "typing_click", "water",
    "wind",
)  # fmt: skip
PHONE_RING = "phone_ring"
AUDIO_LABELS = (*AUDIO_CLASSES, PHONE_RING)

# Long, steady sounds that serve as the bed under an event.
BED_CLASSES = frozenset({"background", "rain", "wind", "engine", "appliance", "sea_waves", "water", "fire_crackle",
                         "insect_frog", "aircraft", "train"})  # fmt: skip

VALIDATION_SALT, VALIDATION_SHARE = "avkit-val-1:", 0.12
SPED_SHARE, SPED_MOST = 0.5, 1.15
ACTIVITY_HOP = SAMPLE_RATE // 10
ACTIVITY_RANGE_DB, ACTIVITY_FLOOR_DB = 26.0, -66.0
CACHE_SAMPLES, CACHE_INDEX = "audio_16k.i16", "audio_16k.json"


@dataclass(frozen=True)
class Clip:
    """One labelled clip; `samples` is an int16 slice of the mapped cache."""

    file: str
    label: str
    source_id: str
    detail: str
    synthetic: bool
    samples: np.ndarray

    def wave(self) -> np.ndarray:
        """f32 copy in [-1, 1)."""
        return self.samples.astype(np.float32) / 32768.0


# ---------------------------------------------------------------- clips


def data_dir(option: str | os.PathLike | None = None) -> pathlib.Path:
    """The kit: the option if given, else GIRASOL_DATA."""
    return _directory(option, "GIRASOL_DATA", "--data")


def work_dir(option: str | os.PathLike | None = None) -> pathlib.Path:
    """Caches and checkpoints: the option if given, else GIRASOL_WORK; created when missing."""
    path = _directory(option, "GIRASOL_WORK", "--work")
    path.mkdir(parents=True, exist_ok=True)
    return path


def _directory(option: str | os.PathLike | None, variable: str, flag: str) -> pathlib.Path:
    value = option or os.environ.get(variable)
    if not value:
        raise SystemExit(f"give {flag} DIR or set {variable}")
    return pathlib.Path(value)


def read_manifest(data: pathlib.Path) -> list[dict[str, str]]:
    with open(data / "audio" / "manifest.csv", newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def split_of(row: dict[str, str]) -> str:
    """`train`, `val`, `test` or `final` of a manifest row; decided by the source, never by the clip."""
    if row["split"] == "test":
        return "final" if is_final(row["source_id"]) else "test"
    digest = hashlib.sha256((VALIDATION_SALT + row["source_id"]).encode()).hexdigest()
    return "val" if int(digest[:8], 16) / 2.0**32 < VALIDATION_SHARE else "train"


def load_clips(data: str | os.PathLike, work: str | os.PathLike, split: str) -> list[Clip]:
    """Clips of `train`, `val`, `test` or `final` in manifest order; decodes all of them at the first call."""
    if split not in ("train", "val", "test", "final"):
        raise ValueError(f"no such split: {split}")
    data, work = pathlib.Path(data), pathlib.Path(work)
    rows = read_manifest(data)
    offsets = _decoded(rows, data, work)
    samples = np.memmap(work / CACHE_SAMPLES, np.int16, "r")
    return [
        Clip(r["file"], r["class"], r["source_id"], r["detail"], r["synthetic"] == "1", samples[a:b])
        for r, a, b in zip(rows, offsets, offsets[1:], strict=False)
        if split_of(r) == split
    ]


def _decoded(rows: list[dict[str, str]], data: pathlib.Path, work: pathlib.Path) -> list[int]:
    """Offsets into the cache, one more than there are rows."""
    index = work / CACHE_INDEX
    files = [r["file"] for r in rows]
    if index.exists():
        known = json.loads(index.read_text())
        if known["files"] == files:
            return known["offsets"]
    work.mkdir(parents=True, exist_ok=True)
    offsets = [0]
    temporary = work / f"{CACHE_SAMPLES}.{os.getpid()}.tmp"
    with open(temporary, "wb") as out:
        for name in files:
            x, rate = soundfile.read(data / name, dtype="int16", always_2d=True)
            if rate != SAMPLE_RATE:
                raise ValueError(f"{name}: {rate} Hz instead of {SAMPLE_RATE}")
            out.write(x[:, 0].tobytes())
            offsets.append(offsets[-1] + len(x))
    os.replace(temporary, work / CACHE_SAMPLES)
    write_atomic(index, json.dumps({"files": files, "offsets": offsets}).encode())
    return offsets


def write_atomic(path: pathlib.Path, content: bytes) -> None:
    """Readers see the old file or the new one, never a part. Its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def load_rirs(data: str | os.PathLike) -> list[np.ndarray]:
    """Room responses, the direct sound first, unit energy."""
    out = []
    for path in sorted((pathlib.Path(data) / "audio" / "rir").glob("*.flac")):
        h, _ = soundfile.read(path, dtype="float32")
        h = h[max(0, int(np.argmax(np.abs(h))) - 16):]
        out.append(h / np.sqrt(np.sum(h * h)))
    return out


# ---------------------------------------------------------------- levels and activity


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64)) + 1e-20))


def block_db(x: np.ndarray) -> np.ndarray:
    """RMS level in dBFS of each 0.1 s block; a last, shorter block counts if at least half."""
    x = np.asarray(x)
    scale = 1.0 / 32768.0 if x.dtype == np.int16 else 1.0
    n = max(1, (len(x) + ACTIVITY_HOP // 2) // ACTIVITY_HOP)
    padded = np.zeros(n * ACTIVITY_HOP, np.float32)
    padded[: min(len(x), len(padded))] = x[: len(padded)]
    power = np.mean(np.square(padded.reshape(n, -1) * scale), axis=1)
    return 10.0 * np.log10(power + 1e-12)


def activity(clip: Clip | np.ndarray) -> np.ndarray:
    """bool per 0.1 s: is the labelled sound really audible there?

    A block counts when it is at most 26 dB below the clip's loudest block and above -66 dBFS (levels of the kit as
    recorded: multiply a clip only afterwards). `background` is audible all the time, silence included.
    """
    samples = clip.samples if isinstance(clip, Clip) else clip
    level = block_db(samples)
    if isinstance(clip, Clip) and clip.label == "background":
        return np.ones(len(level), bool)
    return level > max(level.max() - ACTIVITY_RANGE_DB, ACTIVITY_FLOOR_DB)


def active_rms(x: np.ndarray) -> float:
    """RMS over the audible blocks only, so that a short knock is not taken for a faint sound."""
    level = block_db(x)
    loud = level[level > max(level.max() - ACTIVITY_RANGE_DB, ACTIVITY_FLOOR_DB)]
    return float(np.sqrt(np.mean(10.0 ** (loud / 10.0)))) if len(loud) else 0.0


# ---------------------------------------------------------------- augmentation


def draw_speed(rng: np.random.Generator) -> float:
    """Speed at which a sound to train on is played, pitch with it: there are few recordings of each."""
    return SPED_MOST ** rng.uniform(-1.0, 1.0) if rng.random() < SPED_SHARE else 1.0


def mix_at_snr(signal: np.ndarray, noise: np.ndarray, snr_db: float) -> tuple[np.ndarray, float]:
    """signal + gain * noise with the given ratio of active levels; noise is cut or zero-padded. Returns (mix, gain)."""
    s, n = active_rms(signal), active_rms(noise)
    gain = float(s / n * 10.0 ** (-snr_db / 20.0)) if s > 0 and n > 0 else 1.0
    out = signal.astype(np.float32, copy=True)
    m = min(len(out), len(noise))
    out[:m] += np.float32(gain) * noise[:m]
    return out, gain


def apply_rir(x: np.ndarray, rir: np.ndarray) -> np.ndarray:
    """Room response applied; same length, same RMS, no added delay."""
    n = scipy.fft.next_fast_len(len(x) + len(rir) - 1, real=True)
    y = scipy.fft.irfft(scipy.fft.rfft(x, n) * scipy.fft.rfft(rir, n), n)[: len(x)].astype(np.float32)
    return y * np.float32(rms(x) / max(rms(y), 1e-9))


def band_limit(x: np.ndarray, low_hz: float, high_hz: float, order: int = 2) -> np.ndarray:
    """Butterworth-shaped magnitude without phase: what a cheap microphone lets through."""
    n = scipy.fft.next_fast_len(len(x), real=True)
    f = np.arange(n // 2 + 1, dtype=np.float32) * np.float32(SAMPLE_RATE / n)
    shape = 1.0 / np.sqrt((1.0 + (low_hz / np.maximum(f, 1.0)) ** (2 * order)) * (1.0 + (f / high_hz) ** (2 * order)))
    return scipy.fft.irfft(scipy.fft.rfft(x, n) * shape.astype(np.float32), n)[: len(x)].astype(np.float32)


def tilt(x: np.ndarray, db_per_octave: float) -> np.ndarray:
    """Spectral tilt around 1 kHz."""
    n = scipy.fft.next_fast_len(len(x), real=True)
    f = np.arange(n // 2 + 1, dtype=np.float32) * np.float32(SAMPLE_RATE / n)
    shape = (np.clip(f, 60.0, None) / 1000.0) ** (db_per_octave / 6.0206)
    return scipy.fft.irfft(scipy.fft.rfft(x, n) * shape.astype(np.float32), n)[: len(x)].astype(np.float32)


def coloured_noise(rng: np.random.Generator, n: int, exponent: float) -> np.ndarray:
    """Unit-RMS noise with power ~ 1/f**exponent: 0 white, 1 pink, 2 brown."""
    m = scipy.fft.next_fast_len(n, real=True)
    spectrum = (rng.standard_normal(m // 2 + 1, np.float32) + 1j * rng.standard_normal(m // 2 + 1, np.float32))
    f = np.maximum(np.arange(m // 2 + 1, dtype=np.float32), np.float32(20.0 * m / SAMPLE_RATE))
    x = scipy.fft.irfft(spectrum * f ** np.float32(-exponent / 2.0), m)[:n].astype(np.float32)
    return x / np.float32(max(rms(x), 1e-12))


def add_noise(x: np.ndarray, rng: np.random.Generator, level_dbfs: float, exponent: float = 1.0) -> np.ndarray:
    return x + np.float32(10.0 ** (level_dbfs / 20.0)) * coloured_noise(rng, len(x), exponent)


def soft_clip(x: np.ndarray, ceiling: float = 1.0) -> np.ndarray:
    """Smooth limiting at `ceiling`; small signals pass unchanged."""
    return (np.float32(ceiling) * np.tanh(x / np.float32(ceiling))).astype(np.float32)


def to_pcm(x: np.ndarray) -> np.ndarray:
    """What a 16-bit microphone would give: rounded and clipped, still f32."""
    return np.clip(np.round(x * 32768.0), -32768, 32767).astype(np.float32) / np.float32(32768.0)


# ---------------------------------------------------------------- synthetic rings and alarms


def _time(seconds: float) -> np.ndarray:
    return np.arange(round(seconds * SAMPLE_RATE), dtype=np.float64) / SAMPLE_RATE


def _gate(on: np.ndarray, milliseconds: float = 4.0) -> np.ndarray:
    """0/1 gate with its edges rounded off."""
    n = max(1, round(milliseconds * SAMPLE_RATE / 1000))
    kernel = np.hanning(n + 2)[1:-1]
    return np.convolve(on.astype(np.float64), kernel / kernel.sum(), "same")


def _cadence(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """On/off pattern of a ringing bell or bleeper: national cadences and shorter ones, from a random phase."""
    patterns = ((2.0, 4.0), (1.0, 4.0), (0.4, 0.2, 0.4, 2.0), (1.0, 2.0), (1.5, 3.5), (0.8, 0.8), (0.3, 0.15, 0.3, 1.2))
    pattern = np.array(patterns[rng.integers(len(patterns))]) * rng.uniform(0.85, 1.15)
    start = rng.uniform(0.0, pattern[0] * 0.6) if rng.random() < 0.5 else 0.0
    phase = np.mod(t + start, pattern.sum())
    edges = np.cumsum(pattern)
    return _gate(np.searchsorted(edges, phase, side="right") % 2 == 0)


def _tone(rng: np.random.Generator, t: np.ndarray, hz: np.ndarray | float, harmonics: int, fall: float) -> np.ndarray:
    """Harmonic tone of a fixed or varying frequency, partials above 7.6 kHz left out."""
    phase = 2.0 * np.pi * np.cumsum(np.broadcast_to(np.asarray(hz, np.float64), t.shape)) / SAMPLE_RATE
    top = float(np.max(hz))
    out = np.zeros_like(t)
    for k in range(1, harmonics + 1):
        if k * top < 7_600.0:
            out += k**-fall * np.sin(k * phase + rng.uniform(0, 2 * np.pi))
    return out


def _ring_warble(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """Electronic ringer: two tones taking turns 8 to 25 times a second."""
    low = rng.uniform(400.0, 1_800.0)
    high = low * rng.choice([1.2, 1.25, 1.26, 1.333, 1.5]) * rng.uniform(0.99, 1.01)
    turns = np.mod(t * rng.uniform(8.0, 25.0), 1.0) < rng.uniform(0.4, 0.6)
    hz = np.where(turns, high, low)
    return _tone(rng, t, hz, int(rng.integers(1, 6)), rng.uniform(0.5, 1.8)) * _cadence(rng, t)


def _strikes(rng: np.random.Generator, t: np.ndarray, times: np.ndarray, partials: np.ndarray, decay: float):
    """Sum of struck, decaying partials, one burst per strike."""
    impulse = np.zeros(len(t))
    index = (times * SAMPLE_RATE).astype(int)
    index = index[(index >= 0) & (index < len(t))]
    impulse[index] = rng.uniform(0.7, 1.0, len(index))
    body_t = _time(min(1.2, max(0.2, decay * 6)))
    body = np.zeros_like(body_t)
    for k, hz in enumerate(partials):
        if hz < 7_800.0:
            amplitude = rng.uniform(0.3, 1.0) / (1.0 + 0.4 * k)
            rate = (1.0 + 0.35 * k) / decay
            body += amplitude * np.sin(2 * np.pi * hz * body_t + rng.uniform(0, 6.28)) * np.exp(-body_t * rate)
    return scipy.signal.fftconvolve(impulse, body)[: len(t)]


def _ring_bell(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """Mechanical ringer: a clapper between two gongs, 18 to 28 strokes a second."""
    rate = rng.uniform(18.0, 28.0)
    times = np.arange(0.0, len(t) / SAMPLE_RATE, 1.0 / rate)
    times = times + rng.normal(0.0, 0.0015, len(times))
    base = rng.uniform(700.0, 1_500.0)
    ratios = np.array([1.0, 2.0, 2.76, 4.1, 5.4]) * rng.uniform(0.98, 1.02, 5)
    decay = rng.uniform(0.05, 0.25)
    gate = _cadence(rng, t)
    heard = times[gate[np.clip((times * SAMPLE_RATE).astype(int), 0, len(t) - 1)] > 0.5]
    detune = rng.uniform(1.02, 1.25)
    gongs = _strikes(rng, t, heard[::2], base * ratios, decay) + _strikes(
        rng, t, heard[1::2], base * detune * ratios, decay
    )
    clack = _strikes(rng, t, heard, np.array([rng.uniform(2_500.0, 5_000.0)]), 0.002)
    return gongs + rng.uniform(0.0, 0.5) * clack


def _ring_melody(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """Digital ringtone: a short marimba-, beep- or chime-like figure that repeats."""
    scale = np.array([0, 2, 4, 7, 9, 12, 14, 16]) if rng.random() < 0.7 else np.array([0, 3, 5, 7, 10, 12, 15])
    step = rng.uniform(0.07, 0.2)
    figure = rng.choice(scale, int(rng.integers(3, 13)))
    rests = rng.random(len(figure)) < 0.2
    pause = int(rng.integers(0, 8))
    root = rng.uniform(450.0, 1_300.0)
    style = rng.integers(3)
    out = np.zeros(len(t))
    cycle = (len(figure) + pause) * step
    start = -rng.uniform(0.0, 0.5) * cycle
    while start < len(t) / SAMPLE_RATE:
        for k, (note, rest) in enumerate(zip(figure, rests, strict=True)):
            at = round((start + k * step) * SAMPLE_RATE)
            if not rest and at < len(t):
                _place(out, _note(rng, root * 2.0 ** (note / 12.0), step, int(style)), at)
        start += cycle
    return out


def _note(rng: np.random.Generator, hz: float, step: float, style: int) -> np.ndarray:
    """style 0: marimba, 1: beep, 2: chime."""
    if style == 1:
        t = _time(step * 0.85)
        return np.tanh(3.0 * np.sin(2 * np.pi * hz * t)) * _gate(np.r_[0, np.ones(len(t) - 2), 0])
    partials, decays = ([1.0, 3.93, 9.2], [0.14, 0.05, 0.02]) if style == 0 else ([1.0, 2.0, 3.01], [0.3, 0.2, 0.12])
    t = _time(max(0.35, step))
    out = np.zeros_like(t)
    for p, d, a in zip(partials, decays, (1.0, 0.35, 0.15), strict=True):
        if hz * p < 7_800.0:
            out += a * np.sin(2 * np.pi * hz * p * t) * np.exp(-t / (d * rng.uniform(0.8, 1.2)))
    return out


def _place(out: np.ndarray, part: np.ndarray, at: int) -> None:
    """Add `part` into `out` from index `at`, which may be negative."""
    first = max(0, -at)
    n = min(len(part) - first, len(out) - max(0, at))
    if n > 0:
        out[max(0, at): max(0, at) + n] += part[first: first + n]


def _ring_trill(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """One tone, amplitude- or frequency-modulated 12 to 40 times a second."""
    rate = rng.uniform(12.0, 40.0)
    hz = rng.uniform(600.0, 2_600.0)
    if rng.random() < 0.5:
        wave = _tone(rng, t, hz, int(rng.integers(1, 5)), 1.0) * (0.5 + 0.5 * np.sign(np.sin(2 * np.pi * rate * t)))
    else:
        wave = _tone(rng, t, hz * (1.0 + 0.12 * np.sin(2 * np.pi * rate * t)), int(rng.integers(1, 5)), 1.0)
    return wave * _cadence(rng, t)


def _synthesise(rng: np.random.Generator, seconds: float, makers: tuple[Maker, ...]) -> np.ndarray:
    """One of the makers at a random level between -24 and -4 dBFS peak."""
    t = _time(seconds)
    x = makers[rng.integers(len(makers))](rng, t)
    peak = float(np.max(np.abs(x))) or 1.0
    return (x / peak * 10.0 ** (rng.uniform(-24.0, -4.0) / 20.0)).astype(np.float32)


def synth_phone_ring(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """A telephone ringing: mechanical bell, two-tone warble, trill or melodic ringtone."""
    return _synthesise(rng, seconds, (_ring_warble, _ring_bell, _ring_melody, _ring_trill))


def _alarm_smoke(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """Piezo horn near 3.1 kHz: three beeps and a pause, or one beep a second."""
    hz = rng.uniform(2_700.0, 3_500.0)
    on = rng.uniform(0.4, 0.55) if rng.random() < 0.7 else rng.uniform(0.1, 0.2)
    phase = np.mod(t + rng.uniform(0.0, on), on * 8.0)
    gate = (np.mod(phase, 2.0 * on) < on) & (phase < on * 6.0)
    depth = rng.uniform(0.0, 0.08) if rng.random() < 0.3 else 0.0
    sweep = hz * (1.0 + depth * np.mod(t * rng.uniform(3.0, 8.0), 1.0))
    return _tone(rng, t, sweep, 2, rng.uniform(0.5, 2.0)) * _gate(gate, 2.0)


def _alarm_beeper(rng: np.random.Generator, t: np.ndarray) -> np.ndarray:
    """Alarm clock, oven timer or reversing vehicle: regular beeps of one pitch."""
    hz = rng.uniform(900.0, 4_000.0)
    if rng.random() < 0.5:
        period, beeps = rng.uniform(0.5, 1.3), 1
    else:
        period, beeps = rng.uniform(0.8, 1.2), int(rng.integers(2, 5))
    phase = np.mod(t + rng.uniform(0.0, 0.3), period)
    slot = period * rng.uniform(0.5, 0.8) / beeps
    gate = (np.mod(phase, slot) < slot * 0.6) & (phase < slot * beeps)
    return _tone(rng, t, hz, int(rng.integers(1, 6)), rng.uniform(0.7, 1.6)) * _gate(gate, 2.0)


def synth_smoke_alarm(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Label `alarm`."""
    return _synthesise(rng, seconds, (_alarm_smoke,))


def synth_beeper(rng: np.random.Generator, seconds: float) -> np.ndarray:
    """Label `alarm`."""
    return _synthesise(rng, seconds, (_alarm_beeper,))


@functools.lru_cache(maxsize=4)
def synthetic_clips(seed: int, count: int, seconds: float = 4.0) -> tuple[Clip, ...]:
    """Rings and alarms as clips: half `phone_ring`, a quarter each of the two kinds of `alarm`."""
    out = []
    makers = ((PHONE_RING, synth_phone_ring), ("alarm", synth_smoke_alarm), (PHONE_RING, synth_phone_ring),
              ("alarm", synth_beeper))  # fmt: skip
    for k in range(count):
        label, make = makers[k % len(makers)]
        name = f"synthetic:{make.__name__}:{seed}:{k}"
        samples = np.round(make(np.random.default_rng([seed, k]), seconds) * 32767.0).astype(np.int16)
        out.append(Clip(name, label, name, make.__name__, True, samples))
    return tuple(out)
