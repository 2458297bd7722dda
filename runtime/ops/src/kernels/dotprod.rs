//! NEON with `sdot`: 16 products in one instruction (Cortex-A76, A78AE).
//!
//! The intrinsic is unstable, hence the inline assembly. A weight register holds four inputs of four channels; the
//! instruction's lane picks the same four inputs of a row.

#![allow(clippy::needless_range_loop, reason = "rows and channels index several arrays at once")]

use std::arch::{
    aarch64::{int8x16_t, int32x4_t, vcombine_s16, vdupq_n_s32, vst1_s8},
    asm,
};

use super::{
    Rows, array,
    neon::{ClampRegisters, Requantise, load_i8x16, load_rows, store_block},
};
use crate::linear::Linear;

/// Channels of a panel: two registers of four.
const PANEL: usize = 8;

/// Weights are [outputs / 8][inputs / 4][8][4], inputs padded to 16.
#[target_feature(enable = "dotprod")]
pub(crate) fn linear(op: &Linear, input: &[i8], output: &mut [i8]) {
    let (input, output) = linear_blocks::<8>(op, input, output);
    let (input, output) = linear_blocks::<4>(op, input, output);
    let (input, output) = linear_blocks::<2>(op, input, output);
    linear_blocks::<1>(op, input, output);
}

/// Runs as many whole blocks of `R` rows as there are and returns what is left.
#[inline]
#[target_feature(enable = "dotprod")]
fn linear_blocks<'a, 'b, const R: usize>(
    op: &Linear,
    input: &'a [i8],
    output: &'b mut [i8],
) -> (&'a [i8], &'b mut [i8]) {
    let whole = input.len() / (R * op.inputs);
    let (input, rest) = input.split_at(whole * R * op.inputs);
    let (output, rest_output) = output.split_at_mut(whole * R * op.outputs);
    for (rows, results) in input.chunks_exact(R * op.inputs).zip(output.chunks_exact_mut(R * op.outputs)) {
        linear_rows::<R>(op, rows, results);
    }
    (rest, rest_output)
}

#[inline]
#[target_feature(enable = "dotprod")]
fn linear_rows<const R: usize>(op: &Linear, input: &[i8], output: &mut [i8]) {
    let rows = Rows::<R, 16>::new(input, op.inputs);
    let clamp = ClampRegisters::new(op.clamp);
    let panel_len = PANEL * op.inputs.next_multiple_of(16);
    for (panel, weights) in op.weights.chunks_exact(panel_len).enumerate() {
        let first = panel * PANEL;
        let sums = panel_sums(&rows, weights.as_chunks().0);
        let low = Requantise::load(op.channels.at(first));
        let high = Requantise::load(op.channels.at(first + 4));
        for (row, sums) in sums.into_iter().enumerate() {
            let mut results = [0; PANEL];
            let q = clamp.apply_half(vcombine_s16(low.apply(sums[0]), high.apply(sums[1])));
            // SAFETY: `results` has the 8 bytes written.
            unsafe { vst1_s8(results.as_mut_ptr(), q) };
            store_block::<PANEL>(output, row * op.outputs + first, op.outputs - first, &results);
        }
    }
}

/// The sums of a panel's eight channels, for each row.
#[inline]
#[target_feature(enable = "dotprod")]
fn panel_sums<const R: usize>(rows: &Rows<'_, R, 16>, weights: &[[i8; 128]]) -> [[int32x4_t; 2]; R] {
    let mut acc = [[vdupq_n_s32(0); 2]; R];
    let whole = rows.steps[0].len();
    let (body, last) = weights.split_at(whole);
    for (index, weights) in body.iter().enumerate() {
        dot_step(&mut acc, rows.step(index), weights);
    }
    if let (Some(tail), Some(weights)) = (&rows.tail, last.first()) {
        dot_step(&mut acc, tail.each_ref(), weights);
    }
    acc
}

/// Sixteen inputs of each row times eight channels.
#[inline]
#[target_feature(enable = "dotprod")]
fn dot_step<const R: usize>(acc: &mut [[int32x4_t; 2]; R], values: [&[i8; 16]; R], weights: &[i8; 128]) {
    let values = load_rows(values);
    dot_group::<R, 0>(acc, values, weights);
    dot_group::<R, 1>(acc, values, weights);
    dot_group::<R, 2>(acc, values, weights);
    dot_group::<R, 3>(acc, values, weights);
}

/// Four inputs of each row, those of `LANE`, times eight channels.
#[inline]
#[target_feature(enable = "dotprod")]
fn dot_group<const R: usize, const LANE: usize>(
    acc: &mut [[int32x4_t; 2]; R],
    values: [int8x16_t; R],
    weights: &[i8; 128],
) {
    for half in 0..2 {
        let weight = load_i8x16(array(weights, LANE * 32 + half * 16));
        for row in 0..R {
            acc[row][half] = sdot_lane::<LANE>(acc[row][half], weight, values[row]);
        }
    }
}

/// Each lane of `acc` plus the products of four weights with the four values of `LANE`.
#[inline]
#[target_feature(enable = "dotprod")]
fn sdot_lane<const LANE: usize>(acc: int32x4_t, weights: int8x16_t, values: int8x16_t) -> int32x4_t {
    let mut acc = acc;
    // SAFETY: the instruction touches registers only, and this function requires `dotprod`.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {weights:v}.16b, {values:v}.4b[{lane}]",
            acc = inout(vreg) acc,
            weights = in(vreg) weights,
            values = in(vreg) values,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}
