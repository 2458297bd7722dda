//! NEON with `sdot`: 16 products in one instruction (Cortex-A76, A78AE).
//!
//! The intrinsic is unstable, hence the inline assembly. A weight register holds four inputs of four channels; the
//! instruction's lane picks the same four inputs of a row.

#![allow(clippy::needless_range_loop, reason = "rows and channels index several arrays at once")]

use std::arch::{
    aarch64::{int8x16_t, int32x4_t, vdupq_n_s8, vdupq_n_s32},
    asm,
};

use super::{
    ChannelBlock,
    blocks::{row_blocks, tails},
    neon::{ClampRegisters, STEP, load_i8x16, load_i32x4, next, next_pair, row_pointers},
    neon_wide::{NARROW, PANEL, finish, panels, quads},
};
use crate::linear::Linear;

/// Weights are [outputs / 16][inputs / 4][16][4], inputs padded to 16; the last panel may have 8 channels.
#[target_feature(enable = "dotprod")]
pub(crate) fn linear(op: &Linear, input: &[i8], output: &mut [i8]) {
    let left = row_blocks::<4>(op, (input, output), |rows, results| linear_rows::<4>(op, rows, results));
    let left = row_blocks::<2>(op, left, |rows, results| linear_rows::<2>(op, rows, results));
    row_blocks::<1>(op, left, |rows, results| linear_rows::<1>(op, rows, results));
}

#[inline]
#[target_feature(enable = "dotprod")]
fn linear_rows<const R: usize>(op: &Linear, input: &[i8], output: &mut [i8]) {
    assert_eq!(output.len(), R * op.outputs);
    let rows = row_pointers::<R>(input, op.inputs);
    let tails = tails::<R, STEP>(input, op.inputs);
    let clamp = ClampRegisters::new(op.clamp);
    let panel_len = PANEL * op.inputs.next_multiple_of(STEP);
    let (whole, narrow) = panels(op.outputs);
    let (weights, last) = op.weights.split_at(whole * panel_len);
    let channels = op.channels.blocks::<PANEL>();
    for ((panel, weights), channels) in weights.chunks_exact(panel_len).enumerate().zip(channels) {
        // SAFETY: the rows have `inputs` values each, and `weights` is a whole panel of as many, padded to whole steps.
        let sums = unsafe { panel_sums::<R, 4, PANEL>(rows, weights.as_ptr(), op.inputs, &tails, channels) };
        finish(op, clamp, channels, sums, output, panel * PANEL);
    }
    if narrow {
        assert_eq!(last.len(), panel_len / 2);
        let channels: ChannelBlock<'_, NARROW> = op.channels.at(whole * PANEL);
        // SAFETY: as above; a narrow panel is half as long.
        let sums = unsafe { panel_sums::<R, 2, NARROW>(rows, last.as_ptr(), op.inputs, &tails, channels) };
        finish(op, clamp, channels, sums, output, whole * PANEL);
    }
}

/// The sums of a panel's `Q` quads of channels for each row, with the bias.
///
/// # Safety
/// Each row must have `inputs` values, and the panel at `weights` `4 * Q` times as many, padded to whole steps.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn panel_sums<const R: usize, const Q: usize, const N: usize>(
    mut rows: [*const i8; R],
    mut weights: *const i8,
    inputs: usize,
    tails: &[[i8; STEP]; R],
    channels: ChannelBlock<'_, N>,
) -> [[int32x4_t; Q]; R] {
    let mut bias = [vdupq_n_s32(0); Q];
    for quad in 0..Q {
        bias[quad] = load_i32x4(quads(channels, quad).bias);
    }
    let mut acc = [bias; R];
    for _ in 0..inputs / (2 * STEP) {
        let mut values = [[vdupq_n_s8(0); 2]; R];
        for row in 0..R {
            // SAFETY: a whole double step of the row is left.
            values[row] = unsafe { next_pair(&mut rows[row]) };
        }
        // SAFETY: so is one of the panel, and so is the second of its steps.
        unsafe { dot_step(&mut acc, values.map(|values| values[0]), &mut weights) };
        // SAFETY: as above.
        unsafe { dot_step(&mut acc, values.map(|values| values[1]), &mut weights) };
    }
    if inputs & STEP != 0 {
        let mut values = [vdupq_n_s8(0); R];
        for row in 0..R {
            // SAFETY: a whole step of the row is left.
            values[row] = unsafe { next(&mut rows[row]) };
        }
        // SAFETY: so is one of the panel.
        unsafe { dot_step(&mut acc, values, &mut weights) };
    }
    let rest = inputs % STEP;
    if rest > 0 {
        let mut values = [vdupq_n_s8(0); R];
        for row in 0..R {
            values[row] = load_i8x16(&tails[row]);
        }
        if rest > STEP / 2 {
            // SAFETY: the panel is padded to whole steps.
            unsafe { dot_step(&mut acc, values, &mut weights) };
        } else {
            // SAFETY: as above; the other half would only add zeros.
            unsafe {
                dot_group::<R, Q, 0>(&mut acc, values, &mut weights);
                dot_group::<R, Q, 1>(&mut acc, values, &mut weights);
            }
        }
    }
    acc
}

/// Sixteen inputs of each row times `Q` quads of channels.
///
/// # Safety
/// `64 * Q` weights must be left.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn dot_step<const R: usize, const Q: usize>(
    acc: &mut [[int32x4_t; Q]; R],
    values: [int8x16_t; R],
    weights: &mut *const i8,
) {
    // SAFETY: the caller's promise, a quarter each.
    unsafe {
        dot_group::<R, Q, 0>(acc, values, weights);
        dot_group::<R, Q, 1>(acc, values, weights);
        dot_group::<R, Q, 2>(acc, values, weights);
        dot_group::<R, Q, 3>(acc, values, weights);
    }
}

/// Four inputs of each row, those of `LANE`, times `Q` quads of channels.
///
/// # Safety
/// `16 * Q` weights must be left.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn dot_group<const R: usize, const Q: usize, const LANE: usize>(
    acc: &mut [[int32x4_t; Q]; R],
    values: [int8x16_t; R],
    weights: &mut *const i8,
) {
    for pair in 0..Q / 2 {
        // SAFETY: the caller's promise.
        let pair_weights = unsafe { next_pair(weights) };
        for half in 0..2 {
            for row in 0..R {
                let acc = &mut acc[row][2 * pair + half];
                *acc = sdot_lane::<LANE>(*acc, pair_weights[half], values[row]);
            }
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
