//! AVX-512 with VNNI: VPDPBUSD, 64 products in one instruction.
//!
//! The instruction wants u8 on one side. The weights are it, packed as `w + 128`: `sum((w + 128) * x)` exceeds the
//! wanted sum by `128 * sum(x)`, which is computed once for each row and subtracted at the end. Values are then used as
//! they are, four of a row broadcast from memory.

#![allow(clippy::needless_range_loop, reason = "rows and channels index several arrays at once")]

use std::arch::x86_64::{
    __m512i, _mm_storeu_si128, _mm512_add_epi32, _mm512_cvtepi32_epi8, _mm512_dpbusd_epi32,
    _mm512_loadu_si512, _mm512_mask_blend_epi32, _mm512_max_epi32, _mm512_min_epi32, _mm512_mul_epi32,
    _mm512_set1_epi32, _mm512_setzero_si512, _mm512_slli_epi64, _mm512_sllv_epi32, _mm512_srav_epi32,
    _mm512_srli_epi64, _mm512_sub_epi32,
};

use super::{ChannelBlock, Rows, blocks::row_blocks};
use crate::{linear::Linear, semantics::Clamp};

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
        let count = PANEL.min(op.outputs - first);
        for row in 0..R {
            let sum = _mm512_sub_epi32(sums[row][index], _mm512_set1_epi32(excess[row]));
            let results = finish(requantise(sum, channels), op.clamp);
            output[row * op.outputs + first..][..count].copy_from_slice(&results[..count]);
        }
    }
}

/// `Multiplier::apply` on 16 channels; see the AVX2 kernel.
#[inline]
#[target_feature(enable = "avx512f")]
fn requantise(sum: __m512i, channels: ChannelBlock<'_, 16>) -> __m512i {
    let acc = _mm512_add_epi32(sum, load(channels.bias));
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
