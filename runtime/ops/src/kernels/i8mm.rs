//! NEON with `smmla`: 32 products in one instruction (Cortex-A510, A710, X2, Neoverse V1 and N2).
//!
//! The intrinsic is unstable, hence the inline assembly. The instruction multiplies two rows by two channels, eight
//! inputs each; two rows are interleaved as they are loaded, weights lie so from packing.

#![allow(clippy::needless_range_loop, reason = "rows and channels index several arrays at once")]

use std::arch::{
    aarch64::{
        int8x16_t, int32x4_t, vdupq_n_s8, vdupq_n_s32, vreinterpretq_s8_s64, vreinterpretq_s32_s64,
        vreinterpretq_s64_s8, vreinterpretq_s64_s32, vzip1q_s64, vzip2q_s64,
    },
    asm,
};

use super::{
    ChannelBlock,
    blocks::{row_blocks, tails},
    neon::{ClampRegisters, STEP, load_i8x16, load_i32x4, next, next_pair, row_pointers},
    neon_wide::{NARROW, PANEL, finish, panels, quads},
};
use crate::linear::Linear;

/// Weights are [outputs / 16][inputs / 8][16][8], inputs padded to 16; the last panel may have 8 channels.
#[target_feature(enable = "neon,i8mm")]
pub(crate) fn linear(op: &Linear, input: &[i8], output: &mut [i8]) {
    let left = row_blocks::<4>(op, (input, output), |rows, results| linear_rows::<4, 2>(op, rows, results));
    let left = row_blocks::<2>(op, left, |rows, results| linear_rows::<2, 1>(op, rows, results));
    row_blocks::<1>(op, left, |rows, results| linear_rows::<1, 1>(op, rows, results));
}

/// `R` rows are `P` pairs; a single one is paired with itself.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn linear_rows<const R: usize, const P: usize>(op: &Linear, input: &[i8], output: &mut [i8]) {
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
        let sums =
            unsafe { panel_sums::<R, P, 4, 8, PANEL>(rows, weights.as_ptr(), op.inputs, &tails, channels) };
        finish(op, clamp, channels, sums, output, panel * PANEL);
    }
    if narrow {
        assert_eq!(last.len(), panel_len / 2);
        let channels: ChannelBlock<'_, NARROW> = op.channels.at(whole * PANEL);
        // SAFETY: as above; a narrow panel is half as long.
        let sums =
            unsafe { panel_sums::<R, P, 2, 4, NARROW>(rows, last.as_ptr(), op.inputs, &tails, channels) };
        finish(op, clamp, channels, sums, output, whole * PANEL);
    }
}

/// Sums of two rows and two channels.
type Tile = int32x4_t;

/// The sums of a panel's `Q` quads (`C` pairs) of channels for each row, with the bias.
///
/// # Safety
/// Each row must have `inputs` values, and the panel at `weights` `4 * Q` times as many, padded to whole steps.
#[inline]
#[target_feature(enable = "neon,i8mm")]
unsafe fn panel_sums<const R: usize, const P: usize, const Q: usize, const C: usize, const N: usize>(
    mut rows: [*const i8; R],
    mut weights: *const i8,
    inputs: usize,
    tails: &[[i8; STEP]; R],
    channels: ChannelBlock<'_, N>,
) -> [[int32x4_t; Q]; R] {
    let mut bias = [vdupq_n_s32(0); C];
    for quad in 0..Q {
        let four = load_i32x4(quads(channels, quad).bias);
        let [low, high] = zip(four, four);
        bias[2 * quad] = low;
        bias[2 * quad + 1] = high;
    }
    let mut acc = [bias; P];
    for _ in 0..inputs / (2 * STEP) {
        let mut values = [[vdupq_n_s8(0); 2]; R];
        for row in 0..R {
            // SAFETY: a whole double step of the row is left.
            values[row] = unsafe { next_pair(&mut rows[row]) };
        }
        // SAFETY: so is one of the panel, and so is the second of its steps.
        unsafe { step::<R, P, C>(&mut acc, values.map(|values| values[0]), &mut weights, 2) };
        // SAFETY: as above.
        unsafe { step::<R, P, C>(&mut acc, values.map(|values| values[1]), &mut weights, 2) };
    }
    if inputs & STEP != 0 {
        let mut values = [vdupq_n_s8(0); R];
        for row in 0..R {
            // SAFETY: a whole step of the row is left.
            values[row] = unsafe { next(&mut rows[row]) };
        }
        // SAFETY: so is one of the panel.
        unsafe { step::<R, P, C>(&mut acc, values, &mut weights, 2) };
    }
    let rest = inputs % STEP;
    if rest > 0 {
        let mut values = [vdupq_n_s8(0); R];
        for row in 0..R {
            values[row] = load_i8x16(&tails[row]);
        }
        // SAFETY: the panel is padded to whole steps; the other half of a short rest would only add zeros.
        unsafe { step::<R, P, C>(&mut acc, values, &mut weights, if rest > STEP / 2 { 2 } else { 1 }) };
    }
    let mut sums = [[vdupq_n_s32(0); Q]; R];
    for row in 0..R {
        for quad in 0..Q {
            sums[row][quad] = zip(acc[row / 2][2 * quad], acc[row / 2][2 * quad + 1])[row % 2];
        }
    }
    sums
}

/// Eight or sixteen (`halves`) inputs of each row times `C` pairs of channels.
///
/// # Safety
/// `16 * C` weights must be left for each half.
#[inline]
#[target_feature(enable = "neon,i8mm")]
unsafe fn step<const R: usize, const P: usize, const C: usize>(
    acc: &mut [[Tile; C]; P],
    values: [int8x16_t; R],
    weights: &mut *const i8,
    halves: usize,
) {
    let mut pairs = [[values[0]; 2]; P];
    for pair in 0..P {
        pairs[pair] = zip_bytes(values[2 * pair], values[(2 * pair + 1).min(R - 1)]);
    }
    for half in 0..halves {
        for columns in 0..C / 2 {
            // SAFETY: the caller's promise.
            let pair_weights = unsafe { next_pair(weights) };
            for side in 0..2 {
                for pair in 0..P {
                    let acc = &mut acc[pair][2 * columns + side];
                    *acc = smmla(*acc, pairs[pair][half], pair_weights[side]);
                }
            }
        }
    }
}

/// The lower halves of both, the upper halves of both.
#[inline]
#[target_feature(enable = "neon")]
fn zip(a: int32x4_t, b: int32x4_t) -> [int32x4_t; 2] {
    let (a, b) = (vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b));
    [vreinterpretq_s32_s64(vzip1q_s64(a, b)), vreinterpretq_s32_s64(vzip2q_s64(a, b))]
}

#[inline]
#[target_feature(enable = "neon")]
fn zip_bytes(a: int8x16_t, b: int8x16_t) -> [int8x16_t; 2] {
    let (a, b) = (vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b));
    [vreinterpretq_s8_s64(vzip1q_s64(a, b)), vreinterpretq_s8_s64(vzip2q_s64(a, b))]
}

/// `acc` plus two rows times two channels, eight inputs each.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn smmla(acc: Tile, rows: int8x16_t, channels: int8x16_t) -> Tile {
    let mut acc = acc;
    // SAFETY: the instruction touches registers only, and this function requires `i8mm`.
    unsafe {
        asm!(
            "smmla {acc:v}.4s, {rows:v}.16b, {channels:v}.16b",
            acc = inout(vreg) acc,
            rows = in(vreg) rows,
            channels = in(vreg) channels,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}
