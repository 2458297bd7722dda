//! AVX-512 with VNNI: VPDPBUSD, 64 products in one instruction, for linear layers; VPDPWSSD, 32 products, for depthwise
//! convolutions.
//!
//! VPDPBUSD wants u8 on one side. The weights are it, packed as `w + 128`: `sum((w + 128) * x)` exceeds the
//! wanted sum by `128 * sum(x)`, which is computed once for each row and subtracted at the end. Values are then used as
//! they are, four of a row broadcast from memory.

#![allow(clippy::needless_range_loop, reason = "rows and channels index several arrays at once")]

use std::arch::x86_64::{
    __m128i, __m512i, _mm_loadu_si128, _mm_storeu_si128, _mm_unpackhi_epi8, _mm_unpacklo_epi8,
    _mm256_set_m128i, _mm512_add_epi32, _mm512_cvtepi8_epi16, _mm512_cvtepi8_epi32, _mm512_cvtepi32_epi8,
    _mm512_dpbusd_epi32, _mm512_dpwssd_epi32, _mm512_loadu_si512, _mm512_mask_blend_epi32, _mm512_max_epi32,
    _mm512_min_epi32, _mm512_mul_epi32, _mm512_set1_epi32, _mm512_setzero_si512, _mm512_slli_epi32,
    _mm512_slli_epi64, _mm512_sllv_epi32, _mm512_srav_epi32, _mm512_srli_epi32, _mm512_srli_epi64,
    _mm512_sub_epi32,
};

use super::{
    ChannelBlock, Rows, array, avx2,
    blocks::{row_blocks, store_block},
};
use crate::{
    depthwise::{CHANNEL_BLOCK, Depthwise},
    linear::Linear,
    semantics::Clamp,
};

/// Channels of a panel: one register of sums.
const PANEL: usize = 16;

#[inline]
#[target_feature(enable = "avx512f")]
fn load<T>(values: &[T]) -> __m512i {
    assert!(size_of_val(values) >= 64);
    // SAFETY: the slice covers the 64 bytes read, any bits are valid, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

/// Weights are [outputs / 16][inputs / 4][16][4], as `w + 128`.
#[target_feature(enable = "avx512f,avx512vnni")]
pub(crate) fn linear(op: &Linear, input: &[i8], output: &mut [i8]) {
    let left = row_blocks::<8>(op, (input, output), |rows, results| linear_rows::<8>(op, rows, results));
    let left = row_blocks::<4>(op, left, |rows, results| linear_rows::<4>(op, rows, results));
    row_blocks::<1>(op, left, |rows, results| linear_rows::<1>(op, rows, results));
}

#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn linear_rows<const R: usize>(op: &Linear, input: &[i8], output: &mut [i8]) {
    let rows = Rows::<R, 4>::new(input, op.inputs);
    let excess: [i32; R] = std::array::from_fn(|row| {
        128 * input[row * op.inputs..][..op.inputs].iter().map(|&x| i32::from(x)).sum::<i32>()
    });
    let panel_len = PANEL * op.inputs.next_multiple_of(4);
    let panels = op.weights.len() / panel_len;
    let weights = |panel: usize| op.weights[panel * panel_len..][..panel_len].as_chunks::<64>().0;
    let mut panel = 0;
    while panel + 2 <= panels {
        let sums = panel_sums(&rows, [weights(panel), weights(panel + 1)]);
        store_panels(op, output, panel, sums, excess);
        panel += 2;
    }
    if panel < panels {
        store_panels(op, output, panel, panel_sums(&rows, [weights(panel)]), excess);
    }
}

/// The sums of `P` panels, for each row, still with the excess.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn panel_sums<const R: usize, const P: usize>(
    rows: &Rows<'_, R, 4>,
    weights: [&[[i8; 64]]; P],
) -> [[__m512i; P]; R] {
    let mut acc = [[_mm512_setzero_si512(); P]; R];
    let whole = rows.steps[0].len();
    for index in 0..whole {
        dot_step(&mut acc, rows.step(index), at(weights, index));
    }
    if let Some(tail) = &rows.tail {
        dot_step(&mut acc, tail.each_ref(), at(weights, whole));
    }
    acc
}

/// One step of each panel. (Not a closure: see [`Rows::step`].)
#[inline(always)]
fn at<const P: usize>(weights: [&[[i8; 64]]; P], index: usize) -> [&[i8; 64]; P] {
    weights.map(|weights| &weights[index])
}

/// Four inputs of each row times the channels of `P` panels.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dot_step<const R: usize, const P: usize>(
    acc: &mut [[__m512i; P]; R],
    values: [&[i8; 4]; R],
    weights: [&[i8; 64]; P],
) {
    let mut registers = [_mm512_setzero_si512(); P];
    for (register, weights) in registers.iter_mut().zip(weights) {
        *register = load(weights);
    }
    for (acc, values) in acc.iter_mut().zip(values) {
        let [a, b, c, d] = *values;
        let value = _mm512_set1_epi32(i32::from_ne_bytes([a, b, c, d].map(i8::cast_unsigned)));
        for (acc, &weights) in acc.iter_mut().zip(&registers) {
            *acc = _mm512_dpbusd_epi32(*acc, weights, value);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_panels<const R: usize, const P: usize>(
    op: &Linear,
    output: &mut [i8],
    panel: usize,
    sums: [[__m512i; P]; R],
    excess: [i32; R],
) {
    for index in 0..P {
        let first = (panel + index) * PANEL;
        let channels = op.channels.at(first);
        let bias = load(channels.bias);
        for row in 0..R {
            let bias = _mm512_sub_epi32(bias, _mm512_set1_epi32(excess[row]));
            let results = finish(requantise(_mm512_add_epi32(sums[row][index], bias), channels), op.clamp);
            store_block(output, row * op.outputs + first, op.outputs - first, &results);
        }
    }
}

/// `Multiplier::apply` on 16 channels, the bias included; see the AVX2 kernel.
#[inline]
#[target_feature(enable = "avx512f")]
fn requantise(acc: __m512i, channels: ChannelBlock<'_, 16>) -> __m512i {
    let mantissa = load(channels.mantissa);
    let even = _mm512_mul_epi32(acc, mantissa);
    let odd = _mm512_mul_epi32(_mm512_srli_epi64::<32>(acc), _mm512_srli_epi64::<32>(mantissa));
    let product = _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64::<31>(even), _mm512_slli_epi64::<1>(odd));
    let shift = load(channels.shift);
    let one = _mm512_set1_epi32(1);
    let half = _mm512_sllv_epi32(one, _mm512_sub_epi32(shift, one));
    _mm512_srav_epi32(_mm512_add_epi32(product, half), shift)
}

/// Adds the zero point and clamps; results below 2^30 cannot overflow.
#[inline]
#[target_feature(enable = "avx512f")]
fn finish(q: __m512i, clamp: Clamp) -> [i8; 16] {
    let q = _mm512_add_epi32(q, _mm512_set1_epi32(i32::from(clamp.zero_point)));
    let q = _mm512_max_epi32(q, _mm512_set1_epi32(i32::from(clamp.low)));
    let q = _mm512_min_epi32(q, _mm512_set1_epi32(i32::from(clamp.high)));
    let mut results = [0; 16];
    // SAFETY: `results` has the 16 bytes written; the store needs no alignment.
    unsafe { _mm_storeu_si128(results.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(q)) };
    results
}

/// One row of outputs, sixteen channels at a time.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vnni")]
pub(crate) fn depthwise_row(op: &Depthwise, rows: &[&[i8]], output: &mut [i8]) {
    match (op.window.size, op.window.stride) {
        (3, 1) => depthwise_sized::<3, 2, 1>(op, rows, output),
        (3, _) => depthwise_sized::<3, 2, 2>(op, rows, output),
        (_, 1) => depthwise_sized::<5, 3, 1>(op, rows, output),
        _ => depthwise_sized::<5, 3, 2>(op, rows, output),
    }
}

/// `PAIRS` are the pairs of rows that `SIZE` rows make, the last with nothing.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vnni")]
fn depthwise_sized<const SIZE: usize, const PAIRS: usize, const STRIDE: usize>(
    op: &Depthwise,
    rows: &[&[i8]],
    output: &mut [i8],
) {
    let channels = op.window.channels;
    let rows: [&[i8]; SIZE] = std::array::from_fn(|row| rows[row]);
    let whole = channels / CHANNEL_BLOCK * CHANNEL_BLOCK;
    for channel in (0..whole).step_by(CHANNEL_BLOCK) {
        let block = Block::<SIZE, PAIRS>::load(op, channel);
        // Four outputs share most of their columns when they overlap.
        let mut fours = output.chunks_exact_mut(4 * channels);
        let mut column = 0;
        for results in &mut fours {
            block.outputs::<STRIDE, 4>(op, &rows, column, channel, results);
            column += 4 * STRIDE;
        }
        for results in fours.into_remainder().chunks_exact_mut(channels) {
            block.outputs::<STRIDE, 1>(op, &rows, column, channel, results);
            column += STRIDE;
        }
    }
    if whole < channels {
        avx2::depthwise_channels(op, &rows, output, whole);
    }
}

/// Sixteen channels' weights, two rows interleaved as i16, so that the sum of two products comes out of one
/// instruction.
struct Block<'a, const SIZE: usize, const PAIRS: usize> {
    weights: [[__m512i; PAIRS]; SIZE],
    channels: ChannelBlock<'a, 16>,
}

impl<'a, const SIZE: usize, const PAIRS: usize> Block<'a, SIZE, PAIRS> {
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vnni")]
    fn load(op: &'a Depthwise, channel: usize) -> Self {
        let tap = |row: usize, column: usize| {
            load_i8x16(array(&op.weights, channel * SIZE * SIZE + (row * SIZE + column) * CHANNEL_BLOCK))
        };
        let mut weights = [[_mm512_setzero_si512(); PAIRS]; SIZE];
        for column in 0..SIZE {
            for pair in 0..PAIRS {
                let row = 2 * pair;
                weights[column][pair] = if row + 1 < SIZE {
                    interleave(tap(row, column), tap(row + 1, column))
                } else {
                    _mm512_cvtepi8_epi32(tap(row, column))
                };
            }
        }
        // Alone in its pair, a weight has its sign beside it, which must not multiply anything.
        for column in &mut weights {
            if SIZE % 2 == 1 {
                let last = &mut column[PAIRS - 1];
                *last = _mm512_srli_epi32::<16>(_mm512_slli_epi32::<16>(*last));
            }
        }
        Self { weights, channels: op.channels.at(channel) }
    }

    /// `COUNT` neighbouring outputs from padded column `column` on.
    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vnni")]
    fn outputs<const STRIDE: usize, const COUNT: usize>(
        &self,
        op: &Depthwise,
        rows: &[&[i8]; SIZE],
        column: usize,
        channel: usize,
        results: &mut [i8],
    ) {
        let pitch = op.padded_channels;
        let columns = (COUNT - 1) * STRIDE + SIZE;
        let first = column * pitch + channel;
        let rows: [&[i8]; SIZE] =
            std::array::from_fn(|row| &rows[row][first..][..(columns - 1) * pitch + CHANNEL_BLOCK]);
        let mut acc = [load(self.channels.bias); COUNT];
        for column in 0..columns {
            let value = |row: usize| load_i8x16(array(rows[row], column * pitch));
            let mut values = [_mm512_setzero_si512(); PAIRS];
            for pair in 0..PAIRS {
                let row = 2 * pair;
                values[pair] = if row + 1 < SIZE {
                    interleave(value(row), value(row + 1))
                } else {
                    _mm512_cvtepi8_epi32(value(row))
                };
            }
            for output in 0..COUNT {
                let Some(tap) = column.checked_sub(output * STRIDE).filter(|&tap| tap < SIZE) else {
                    continue;
                };
                for pair in 0..PAIRS {
                    acc[output] = _mm512_dpwssd_epi32(acc[output], values[pair], self.weights[tap][pair]);
                }
            }
        }
        for (acc, result) in acc.into_iter().zip(results.chunks_exact_mut(op.window.channels)) {
            let q = finish(requantise(acc, self.channels), op.clamp);
            result[channel..][..CHANNEL_BLOCK].copy_from_slice(&q);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_i8x16(values: &[i8; 16]) -> __m128i {
    // SAFETY: the reference covers the 16 bytes read; the load needs no alignment.
    unsafe { _mm_loadu_si128(values.as_ptr().cast()) }
}

/// Sixteen pairs of a value of each, as i16.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw")]
fn interleave(a: __m128i, b: __m128i) -> __m512i {
    _mm512_cvtepi8_epi16(_mm256_set_m128i(_mm_unpackhi_epi8(a, b), _mm_unpacklo_epi8(a, b)))
}
