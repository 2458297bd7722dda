"""The runtime's integer arithmetic, bit for bit: the numpy twin of `runtime/ops/src/semantics.rs`.

A value is `scale * (q - zero_point)`. Weights are int8 in [-127, 127] with one scale per output channel. Sums of
products are exact, requantisation rounds once with halves upwards, edges from f32 round halves to even: see
docs/design/ops.md.

`python -m girasol_train.int8 FILE` writes the goldens that the Rust tests read.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np

ACC_LIMIT, BIAS_LIMIT = 1 << 30, 1 << 29


@dataclass(frozen=True)
class QuantParams:
    scale: float
    zero_point: int


def quantise(x: np.ndarray, params: QuantParams) -> np.ndarray:
    """f32 -> int8, saturated; NaN becomes the zero point. The inverse scale is rounded to f32, as in the runtime."""
    inverse = np.float32(1.0) / np.float32(params.scale)
    scaled = np.clip(np.asarray(x, np.float32) * inverse, np.float32(-1024.0), np.float32(1024.0))
    q = np.nan_to_num(np.rint(scaled), nan=0.0).astype(np.int32) + params.zero_point
    return np.clip(q, -128, 127).astype(np.int8)


def dequantise(q: np.ndarray, params: QuantParams) -> np.ndarray:
    return (q.astype(np.int16) - params.zero_point).astype(np.float32) * np.float32(params.scale)


def _normalise(x: float, bits: int) -> tuple[int, int]:
    """(m, e) with x = m * 2**(e - bits) to the nearest m (halves to even) in [2**(bits - 1), 2**bits)."""
    fraction, exponent = math.frexp(x)
    mantissa = round(math.ldexp(fraction, bits))
    return (mantissa >> 1, exponent + 1) if mantissa == 1 << bits else (mantissa, exponent)


def multiplier(factor: float) -> tuple[int, int]:
    """(mantissa, shift) of a factor below 1/2: mantissa * 2**-(31 + shift)."""
    mantissa, exponent = _normalise(factor, 31)
    shift = -exponent
    if not (math.isfinite(factor) and factor > 0 and shift >= 1):
        raise ValueError(f"rescaling by {factor} must be positive and stay below 1/2")
    return (0, 1) if shift > 30 else (mantissa, shift)


def multipliers(input: QuantParams, weight_scales: np.ndarray, output: QuantParams) -> tuple[np.ndarray, np.ndarray]:
    scale_in, scale_out = float(np.float32(input.scale)), float(np.float32(output.scale))
    pairs = [multiplier(scale_in * float(np.float32(w)) / scale_out) for w in weight_scales]
    mantissas, shifts = zip(*pairs, strict=True)
    return np.array(mantissas, np.int64), np.array(shifts, np.int64)


def requantise(acc: np.ndarray, mantissa: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """floor(acc * mantissa / 2**(31 + shift) + 1/2), channels last."""
    return (acc.astype(np.int64) * mantissa + (np.int64(1) << (30 + shift))) >> (31 + shift)


def bounds(output: QuantParams, activation: str) -> tuple[int, int]:
    """Least and greatest output of `none`, `relu` or `relu6`."""
    if activation == "none":
        return -128, 127
    high = 127 if activation == "relu" else int(quantise(np.float32(6.0), output))
    return output.zero_point, high


def _finish(acc, input, weight_scales, output, activation, table):
    q = requantise(acc, *multipliers(input, weight_scales, output)) + output.zero_point
    q = np.clip(np.clip(q, -128, 127), *bounds(output, activation))
    return q.astype(np.int8) if table is None else np.asarray(table, np.int8)[q + 128]


def quantise_bias(bias: np.ndarray, input: QuantParams, weight_scales: np.ndarray) -> np.ndarray:
    """A real bias in units of the accumulator: nearest, halves to even."""
    unit = float(np.float32(input.scale)) * np.asarray(weight_scales, np.float32).astype(np.float64)
    q = np.rint(np.asarray(bias, np.float32).astype(np.float64) / unit).astype(np.int64)
    if np.abs(q).max(initial=0) >= ACC_LIMIT:
        raise ValueError("a bias exceeds the accumulator's range of 2**30")
    return q


def fit_channels(weights, scales, bias, input: QuantParams, output: QuantParams) -> tuple[np.ndarray, np.ndarray]:
    """A coarser scale where a channel's weights are all 0, or next to 0 beside its bias.

    One for which a fixed-point factor exists, and in which the bias fits the accumulator.
    """
    weights, scales = weights.copy(), np.array(scales, np.float32)
    scale_in, scale_out = np.float32(input.scale), np.float32(output.scale)
    for channel, (w, b) in enumerate(zip(weights, bias, strict=True)):
        if not w.any():
            scales[channel] = scale_out / scale_in / np.float32(1024)
        steps, coarser = abs(float(b) / (float(scale_in) * float(scales[channel]))), 1.0
        while steps / coarser > BIAS_LIMIT:
            coarser *= 2.0
        scales[channel] *= np.float32(coarser)
        weights[channel] = np.rint(w / coarser).astype(np.int8)
    return weights, scales


def linear(x, weights, bias, weight_scales, input, output, activation="none", table=None) -> np.ndarray:
    """int8 [rows, inputs], int8 [outputs, inputs], int32 [outputs] -> int8 [rows, outputs].

    The products are summed in f64, exactly: no sum reaches 2**31.
    """
    acc = ((x.astype(np.float64) - input.zero_point) @ weights.astype(np.float64).T).astype(np.int64) + bias
    return _finish(acc, input, weight_scales, output, activation, table)


def convolution(
    x, weights, bias, weight_scales, input, output, stride=1, padding=(0, 0, 0, 0), activation="none", table=None
) -> np.ndarray:
    """int8 [height, width, channels], int8 [outputs, size, size, channels]; padding: top, left, bottom, right."""
    top, left, bottom, right = padding
    padded = np.pad(x, ((top, bottom), (left, right), (0, 0)), constant_values=input.zero_point)
    size = weights.shape[1]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(0, 1))[::stride, ::stride]
    rows = windows.transpose(0, 1, 3, 4, 2).reshape(windows.shape[0] * windows.shape[1], -1)
    flat = weights.reshape(len(weights), -1)
    y = linear(rows, flat, bias, weight_scales, input, output, activation, table)
    return y.reshape(*windows.shape[:2], -1)


def depthwise(
    x, weights, bias, weight_scales, input, output, stride=1, padding=(1, 1, 1, 1), activation="none", table=None
) -> np.ndarray:
    """int8 [height, width, channels], int8 [size, size, channels]; padding: top, left, bottom, right."""
    top, left, bottom, right = padding
    padded = np.pad(x.astype(np.int64) - input.zero_point, ((top, bottom), (left, right), (0, 0)))
    size = weights.shape[0]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(0, 1))[::stride, ::stride]
    taps = [windows[..., i, j] * weights[i, j].astype(np.int64) for i in range(size) for j in range(size)]
    acc = sum(taps) + bias
    return _finish(acc, input, weight_scales, output, activation, table)


def add(a, b, left: QuantParams, right: QuantParams, output: QuantParams) -> np.ndarray:
    """Residual addition with factors of 15 bits under a common shift."""
    scale_a, scale_b, scale_out = (float(np.float32(p.scale)) for p in (left, right, output))
    shift = 15 - _normalise(max(scale_a, scale_b) / scale_out, 15)[1]
    if not 1 <= shift <= 29:
        raise ValueError("the larger factor is outside [2**-15, 2**14)")
    m_a, m_b = (round(math.ldexp(scale / scale_out, shift)) for scale in (scale_a, scale_b))
    total = (a.astype(np.int64) - left.zero_point) * m_a + (b.astype(np.int64) - right.zero_point) * m_b
    q = ((total + (1 << (shift - 1))) >> shift) + output.zero_point
    return np.clip(q, -128, 127).astype(np.int8)


def quantise_weights(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f32 [channels, ...] -> int8 in [-127, 127] and one f32 scale per channel, as decision 0005 has it."""
    peak = np.abs(weights.reshape(len(weights), -1)).max(axis=1).astype(np.float32)
    scales = np.where(peak > 0, peak / np.float32(127.0), np.float32(1.0)).astype(np.float32)
    q = np.rint(weights / scales.reshape(-1, *[1] * (weights.ndim - 1)))
    return np.clip(q, -127, 127).astype(np.int8), scales


def _golden_lines():
    """One case a line: its name, then fields `name=comma-separated numbers`."""
    rng = np.random.default_rng(20261122)
    int8s = lambda low, *shape: rng.integers(low, 128, shape).astype(np.int8)  # noqa: E731
    p_in, p_mid, p_out = QuantParams(0.05, -7), QuantParams(0.07, 5), QuantParams(0.04, -90)
    table = quantise(_hard_swish(dequantise(np.arange(-128, 128), p_mid)), p_out)

    def line(name, **fields):
        texts = [f"{key}={','.join(str(v) for v in np.ravel(value))}" for key, value in fields.items()]
        return " ".join([name, *texts])

    def ends(channels):
        scales = rng.uniform(5e-4, 8e-3, channels).astype(np.float32)
        return rng.integers(-20_000, 20_000, channels), scales

    for activation, lookup in (("none", None), ("relu", None), ("relu6", None), ("table", table)):
        bound = "none" if activation == "table" else activation
        x, w, (bias, scales) = int8s(-128, 3, 21), int8s(-127, 6, 21), ends(6)
        y = linear(x, w, bias, scales, p_in, p_mid, bound, lookup)
        common = {"table": [] if lookup is None else lookup}
        yield line(f"linear-{activation}", x=x, w=w, bias=bias, scales=scales, y=y, **common)
        for size, stride, padding in ((3, 1, (1, 1, 1, 1)), (3, 2, (0, 0, 1, 1)), (5, 2, (2, 2, 2, 2))):
            x, w, (bias, scales) = int8s(-128, 6, 5, 9), int8s(-127, size, size, 9), ends(9)
            y = depthwise(x, w, bias, scales, p_in, p_mid, stride, padding, bound, lookup)
            shape = {"window": [6, 5, 9, size, stride, *padding], **common}
            yield line(f"depthwise-{activation}", x=x, w=w, bias=bias, scales=scales, y=y, **shape)
    for size, stride, padding in ((3, 2, (0, 0, 1, 1)), (3, 1, (1, 1, 1, 1)), (2, 2, (0, 0, 0, 0))):
        x, w, (bias, scales) = int8s(-128, 6, 5, 4), int8s(-127, 7, size, size, 4), ends(7)
        y = convolution(x, w, bias, scales, p_in, p_mid, stride, padding, "relu6")
        shape = [6, 5, 4, size, stride, *padding]
        yield line("convolution-relu6", x=x, w=w, bias=bias, scales=scales, y=y, window=shape)
    a, b = int8s(-128, 64), int8s(-128, 64)
    yield line("add", x=a, w=b, y=add(a, b, p_in, p_mid, p_out))
    reals = np.concatenate([rng.normal(0, 4, 40), np.arange(-12, 12) * 0.025, [1e9, -1e9]]).astype(np.float32)
    yield line("quantise", scales=reals, y=quantise(reals, p_in))


def _hard_swish(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float32)
    return x * np.clip(x + np.float32(3.0), np.float32(0.0), np.float32(6.0)) / np.float32(6.0)


if __name__ == "__main__":
    with open(sys.argv[1], "w", encoding="ascii") as file:
        file.writelines(line + "\n" for line in _golden_lines())
