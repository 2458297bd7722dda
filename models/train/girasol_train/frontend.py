"""Reference frontends: samples -> log-mel patch, pixels -> video encoder input.

The runtime (runtime/src/frontend) must agree: log-mel to 1e-4, pixels bit for bit.
Definitions: docs/decisions/0002-snippet-and-mel-window.md and 0003-video-geometry.md.
"""

from __future__ import annotations

import functools

import numpy as np

SAMPLE_RATE = 16_000
SNIPPET_SAMPLES = 15_360
PATCH_SAMPLES = 15_600
CARRY_SAMPLES = PATCH_SAMPLES - SNIPPET_SAMPLES
FRAME_SAMPLES, HOP_SAMPLES, FFT_SIZE = 400, 160, 512
MEL_FRAMES, MEL_BINS = 96, 64
MEL_LOW_HZ, MEL_HIGH_HZ = 125.0, 7_500.0
LOG_OFFSET = 0.001
FRAME_WIDTH, FRAME_HEIGHT, FRAMES_PER_SNIPPET = 128, 96, 2


@functools.cache
def mel_matrix() -> np.ndarray:
    """[257, 64] triangular filters in HTK mel space; the DC bin is zero."""

    def mel(hz):
        return 1127.0 * np.log1p(np.asarray(hz, np.float64) / 700.0)

    bins = mel(np.linspace(0.0, SAMPLE_RATE / 2, FFT_SIZE // 2 + 1))
    edges = np.linspace(mel(MEL_LOW_HZ), mel(MEL_HIGH_HZ), MEL_BINS + 2)
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    up = (bins[:, None] - lower) / (centre - lower)
    down = (upper - bins[:, None]) / (upper - centre)
    weights = np.maximum(0.0, np.minimum(up, down))
    weights[0, :] = 0.0
    return weights.astype(np.float32)


@functools.cache
def hann_window() -> np.ndarray:
    """Periodic Hann window of one analysis frame."""
    n = np.arange(FRAME_SAMPLES, dtype=np.float64)
    return (0.5 - 0.5 * np.cos(2.0 * np.pi * n / FRAME_SAMPLES)).astype(np.float32)


def log_mel(samples: np.ndarray) -> np.ndarray:
    """f32 samples [..., 400 + 160 * (n - 1)] in [-1, 1] -> natural-log mel [..., n, 64]."""
    x = np.asarray(samples, np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(x, FRAME_SAMPLES, axis=-1)[
        ..., ::HOP_SAMPLES, :
    ]
    magnitude = np.abs(np.fft.rfft(frames * hann_window(), FFT_SIZE, axis=-1)).astype(
        np.float32
    )
    return np.log(magnitude @ mel_matrix() + np.float32(LOG_OFFSET)).astype(np.float32)


def early_patches(mel: np.ndarray) -> np.ndarray:
    """Patches [n, 96, 64] of snippets in a row -> [n - 1, 96, 64]: those that begin half a snippet before the second,
    the third, ...: the last half of one and the first half of the next, as a snippet is 96 hops long.
    """
    half = MEL_FRAMES // 2
    return np.concatenate([mel[:-1, half:], mel[1:, :half]], axis=1)


@functools.lru_cache(maxsize=256)
def _overlap(src: int, dst: int) -> np.ndarray:
    """[dst, src] integer overlaps in units of 1/dst source pixel; each row sums to src."""
    lo = np.arange(dst)[:, None] * src
    s = np.arange(src)[None, :] * dst
    return np.clip(np.minimum(lo + src, s + dst) - np.maximum(lo, s), 0, None).astype(
        np.int64
    )


def resize_plane(
    plane: np.ndarray, width: int = FRAME_WIDTH, height: int = FRAME_HEIGHT
) -> np.ndarray:
    """u8 [H, W] -> u8 [height, width], exact integer area average.

    Float64 products are exact here: every sum stays below 2**53.
    """
    h, w = plane.shape
    acc = (
        _overlap(h, height).astype(np.float64)
        @ plane.astype(np.float64)
        @ _overlap(w, width).T.astype(np.float64)
    )
    area = h * w
    return ((acc.astype(np.int64) + area // 2) // area).astype(np.uint8)


def resize_rgb(rgb: np.ndarray) -> np.ndarray:
    """u8 [H, W, 3] -> u8 [96, 128, 3]."""
    return np.stack([resize_plane(rgb[..., c]) for c in range(3)], axis=-1)


def yuv_to_rgb(
    y: np.ndarray, u: np.ndarray, v: np.ndarray, full_range: bool = False
) -> np.ndarray:
    """Equal-sized u8 planes -> u8 [H, W, 3], BT.601 in integers."""
    y, d, e = y.astype(np.int32), u.astype(np.int32) - 128, v.astype(np.int32) - 128
    if full_range:
        r = y + ((359 * e + 128) >> 8)
        g = y - ((88 * d + 183 * e + 128) >> 8)
        b = y + ((454 * d + 128) >> 8)
    else:
        c = y - 16
        r = (298 * c + 409 * e + 128) >> 8
        g = (298 * c - 100 * d - 208 * e + 128) >> 8
        b = (298 * c + 516 * d + 128) >> 8
    return np.stack([r, g, b], axis=-1).clip(0, 255).astype(np.uint8)


def luma(rgb: np.ndarray) -> np.ndarray:
    """u8 [..., 3] -> u8 [...]."""
    c = rgb.astype(np.int32)
    return ((77 * c[..., 0] + 150 * c[..., 1] + 29 * c[..., 2] + 128) >> 8).astype(
        np.uint8
    )


def frame_tensor(rgb: np.ndarray, previous: np.ndarray | None) -> np.ndarray:
    """Small u8 frame [96, 128, 3] and the previous sampled one -> f32 [4, 96, 128]."""
    out = np.empty((4, FRAME_HEIGHT, FRAME_WIDTH), np.float32)
    out[:3] = (rgb.transpose(2, 0, 1).astype(np.float32) - 127.0) / 128.0
    if previous is None:
        out[3] = 0.0
    else:
        out[3] = (
            luma(rgb).astype(np.float32) - luma(previous).astype(np.float32)
        ) / 128.0
    return out
