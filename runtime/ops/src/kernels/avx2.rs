//! AVX2: values and weights widened to i16, then VPMADDWD, 16 products in one instruction. (VPMADDUBSW would halve the
//! count, but its u8 side needs a sign correction for each pair of operands, and it saturates.)

#![allow(clippy::needless_range_loop, reason = "rows and channels index several arrays at once")]

use std::arch::x86_64::{
    __m128i, __m256i, _mm_add_epi32, _mm_adds_epi16, _mm_blend_epi16, _mm_loadu_si128, _mm_max_epi8,
    _mm_min_epi8, _mm_mul_epi32, _mm_packs_epi16, _mm_packs_epi32, _mm_set1_epi8, _mm_set1_epi16,
    _mm_set1_epi32, _mm_slli_epi64, _mm_sllv_epi32, _mm_srav_epi32, _mm_srli_epi64, _mm_storeu_si128,
    _mm_sub_epi32, _mm256_add_epi32, _mm256_castsi256_si128, _mm256_cvtepi8_epi16, _mm256_extracti128_si256,
    _mm256_hadd_epi32, _mm256_madd_epi16, _mm256_setzero_si256, _mm256_unpackhi_epi16, _mm256_unpacklo_epi16,
};

use super::{
    ChannelBlock, Rows, array,
    blocks::{row_blocks, store_block},
    scalar,
};
use crate::{
    depthwise::{CHANNEL_BLOCK, Depthwise, FloatDepthwise},
    linear::Linear,
    semantics::Clamp,
};

/// Rows and channels of a GEMM block: 12 of the 16 registers accumulate.
const ROWS: usize = 3;
const PANEL: usize = 4;

#[inline]
#[target_feature(enable = "avx2")]
fn load_i16x16(values: &[i8; 16]) -> __m256i {
    // SAFETY: the reference covers the 16 bytes read; the load needs no alignment.
    _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(values.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_i32x4(values: &[i32; 4]) -> __m128i {
    // SAFETY: the reference covers the 16 bytes read; the load needs no alignment.
    unsafe { _mm_loadu_si128(values.as_ptr().cast()) }
}

/// `Multiplier::apply` on four channels: the doubling high product (bits 31 to 62 of the 64-bit one), then the rounding
/// shift. Accumulators stay within ±2^30, so that adding the rounding constant cannot overflow.
#[inline]
#[target_feature(enable = "avx2")]
fn requantise(sum: __m128i, channels: ChannelBlock<'_, 4>) -> __m128i {
    let acc = _mm_add_epi32(sum, load_i32x4(channels.bias));
    let mantissa = load_i32x4(channels.mantissa);
    let even = _mm_mul_epi32(acc, mantissa);
    let odd = _mm_mul_epi32(_mm_srli_epi64::<32>(acc), _mm_srli_epi64::<32>(mantissa));
    let product = _mm_blend_epi16::<0b1100_1100>(_mm_srli_epi64::<31>(even), _mm_slli_epi64::<1>(odd));
    let shift = load_i32x4(channels.shift);
    let one = _mm_set1_epi32(1);
    let half = _mm_sllv_epi32(one, _mm_sub_epi32(shift, one));
    _mm_srav_epi32(_mm_add_epi32(product, half), shift)
}

/// Adds the zero point and clamps 16 values, given as i32.
#[inline]
#[target_feature(enable = "avx2")]
fn finish(q: [__m128i; 4], clamp: Clamp) -> [i8; 16] {
    let zero_point = _mm_set1_epi16(i16::from(clamp.zero_point));
    let low = _mm_adds_epi16(_mm_packs_epi32(q[0], q[1]), zero_point);
    let high = _mm_adds_epi16(_mm_packs_epi32(q[2], q[3]), zero_point);
    let bounded = _mm_max_epi8(_mm_packs_epi16(low, high), _mm_set1_epi8(clamp.low));
    let mut results = [0; 16];
    // SAFETY: `results` has the 16 bytes written; the store needs no alignment.
    unsafe {
        _mm_storeu_si128(results.as_mut_ptr().cast(), _mm_min_epi8(bounded, _mm_set1_epi8(clamp.high)))
    };
    results
}

/// Weights are [outputs / 4][inputs / 16][4][16].
#[target_feature(enable = "avx2")]
pub(crate) fn linear(op: &Linear, input: &[i8], output: &mut [i8]) {
    let left =
        row_blocks::<ROWS>(op, (input, output), |rows, results| linear_rows::<ROWS>(op, rows, results));
    row_blocks::<1>(op, left, |rows, results| linear_rows::<1>(op, rows, results));
}

#[inline]
#[target_feature(enable = "avx2")]
fn linear_rows<const R: usize>(op: &Linear, input: &[i8], output: &mut [i8]) {
    let rows = Rows::<R, 16>::new(input, op.inputs);
    let panel_len = PANEL * op.inputs.next_multiple_of(16);
    for (panel, weights) in op.weights.chunks_exact(panel_len).enumerate() {
        let first = panel * PANEL;
        let sums = panel_sums(&rows, weights.as_chunks().0);
        let mut q = [_mm_set1_epi32(0); 4];
        for row in 0..R {
            q[row] = requantise(sums[row], op.channels.at(first));
        }
        let results = finish(q, op.clamp);
        let count = PANEL.min(op.outputs - first);
        for row in 0..R {
            output[row * op.outputs + first..][..count].copy_from_slice(&results[row * PANEL..][..count]);
        }
    }
}

/// The sums of a panel's four channels, for each row.
#[inline]
#[target_feature(enable = "avx2")]
fn panel_sums<const R: usize>(rows: &Rows<'_, R, 16>, weights: &[[i8; 64]]) -> [__m128i; R] {
    let mut acc = [[_mm256_setzero_si256(); PANEL]; R];
    let whole = rows.steps[0].len();
    let (body, last) = weights.split_at(whole);
    for (index, weights) in body.iter().enumerate() {
        dot_step(&mut acc, rows.step(index), weights);
    }
    if let (Some(tail), Some(weights)) = (&rows.tail, last.first()) {
        dot_step(&mut acc, tail.each_ref(), weights);
    }
    let mut sums = [_mm_set1_epi32(0); R];
    for (sum, acc) in sums.iter_mut().zip(acc) {
        *sum = horizontal_sums(acc);
    }
    sums
}

/// Sixteen inputs of each row times four channels.
#[inline]
#[target_feature(enable = "avx2")]
fn dot_step<const R: usize>(acc: &mut [[__m256i; PANEL]; R], values: [&[i8; 16]; R], weights: &[i8; 64]) {
    let mut registers = [_mm256_setzero_si256(); R];
    for (register, values) in registers.iter_mut().zip(values) {
        *register = load_i16x16(values);
    }
    for channel in 0..PANEL {
        let weight = load_i16x16(array(weights, channel * 16));
        for row in 0..R {
            let products = _mm256_madd_epi16(registers[row], weight);
            acc[row][channel] = _mm256_add_epi32(acc[row][channel], products);
        }
    }
}

/// One sum for each of four registers.
#[inline]
#[target_feature(enable = "avx2")]
fn horizontal_sums(acc: [__m256i; 4]) -> __m128i {
    let pairs = _mm256_hadd_epi32(_mm256_hadd_epi32(acc[0], acc[1]), _mm256_hadd_epi32(acc[2], acc[3]));
    _mm_add_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs))
}

/// One row of outputs, 16 channels at a time.
#[target_feature(enable = "avx2")]
pub(crate) fn depthwise_row(op: &Depthwise, rows: &[&[i8]], output: &mut [i8]) {
    if let Some(rows) = rows.first_chunk::<5>() {
        depthwise_channels(op, rows, output, 0);
    } else if let Some(rows) = rows.first_chunk::<3>() {
        depthwise_channels(op, rows, output, 0);
    }
}

/// Channels from `first` on, a multiple of 16.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn depthwise_channels<const SIZE: usize>(
    op: &Depthwise,
    rows: &[&[i8]; SIZE],
    output: &mut [i8],
    first: usize,
) {
    let channels = op.window.channels;
    for channel in (first..channels).step_by(CHANNEL_BLOCK) {
        for (x, results) in output.chunks_exact_mut(channels).enumerate() {
            let block = depthwise_block(op, rows, x * op.window.stride, channel);
            store_block(results, channel, channels - channel, &block);
        }
    }
}

/// Sixteen channels of one output. Two taps are interleaved and multiplied at once; the interleaving within halves
/// leaves channels 0-3 and 8-11 in one sum, 4-7 and 12-15 in the other.
#[inline]
#[target_feature(enable = "avx2")]
fn depthwise_block<const SIZE: usize>(
    op: &Depthwise,
    rows: &[&[i8]; SIZE],
    column: usize,
    channel: usize,
) -> [i8; 16] {
    let from = column * op.padded_channels + channel;
    let rows = rows.map(|row| &row[from..][..(SIZE - 1) * op.padded_channels + CHANNEL_BLOCK]);
    let weights = &op.weights[channel * SIZE * SIZE..][..SIZE * SIZE * CHANNEL_BLOCK];
    let tap = |tap: usize| {
        let value = array(rows[tap / SIZE], tap % SIZE * op.padded_channels);
        (load_i16x16(value), load_i16x16(array(weights, tap * CHANNEL_BLOCK)))
    };
    let mut acc = [_mm256_setzero_si256(); 2];
    for first in (0..SIZE * SIZE).step_by(2) {
        let (x0, w0) = tap(first);
        let (x1, w1) = if first + 1 < SIZE * SIZE { tap(first + 1) } else { (_mm256_setzero_si256(), w0) };
        let low = _mm256_madd_epi16(_mm256_unpacklo_epi16(x0, x1), _mm256_unpacklo_epi16(w0, w1));
        let high = _mm256_madd_epi16(_mm256_unpackhi_epi16(x0, x1), _mm256_unpackhi_epi16(w0, w1));
        acc = [_mm256_add_epi32(acc[0], low), _mm256_add_epi32(acc[1], high)];
    }
    let sums = [
        _mm256_castsi256_si128(acc[0]),
        _mm256_castsi256_si128(acc[1]),
        _mm256_extracti128_si256::<1>(acc[0]),
        _mm256_extracti128_si256::<1>(acc[1]),
    ];
    let mut q = sums;
    for (index, q) in q.iter_mut().enumerate() {
        *q = requantise(sums[index], op.channels.at(channel + 4 * index));
    }
    finish(q, op.clamp)
}

/// One row of outputs; the compiler vectorises it with fused products.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn float_depthwise_row(op: &FloatDepthwise, rows: &[&[f32]], output: &mut [f32]) {
    scalar::float_depthwise_row(op, rows, output);
}
