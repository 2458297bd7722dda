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
    neon::{STEP, load_i32x4, next_pair, row_pointers},
    neon_tile::for_steps,
    neon_wide::{NARROW, PANEL, for_panels, quads},
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
    for_panels!(op, output, R,
    // SAFETY: the rows have `inputs` values each, and `weights` is a whole panel of as many, padded to whole steps.
    wide(weights, channels) => unsafe {
        panel_sums::<R, P, 4, 8, PANEL>(rows, weights, op.inputs, &tails, channels)
    },
    // SAFETY: as above; a narrow panel is half as long.
    narrow(weights, channels) => unsafe {
        panel_sums::<R, P, 2, 4, NARROW>(rows, weights, op.inputs, &tails, channels)
    });
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
    let mut left = inputs;
    let double_steps = inputs / (2 * STEP);
    if double_steps > 0
        && let (Some(rows), Some([low, high])) = (rows.first_chunk_mut::<4>(), acc.first_chunk_mut::<2>())
        && let (Some(low), Some(high)) = (low.first_chunk_mut::<8>(), high.first_chunk_mut::<8>())
    {
        // SAFETY: so many double steps of the rows and the panel are left.
        unsafe { double_steps_of_four(low, high, rows, &mut weights, double_steps) };
        left = inputs % (2 * STEP);
    }
    // SAFETY: the caller's promise; each step is one of the panel's, the other half of the last would only add zeros.
    for_steps!((rows, tails, left), R, values,
        whole => unsafe { step::<R, P, C>(&mut acc, values, &mut weights, 2) },
        half => unsafe { step::<R, P, C>(&mut acc, values, &mut weights, 1) });
    let mut sums = [[vdupq_n_s32(0); Q]; R];
    for row in 0..R {
        for quad in 0..Q {
            sums[row][quad] = zip(acc[row / 2][2 * quad], acc[row / 2][2 * quad + 1])[row % 2];
        }
    }
    sums
}

/// Eight inputs of two pairs of rows times eight pairs of channels.
macro_rules! half {
    ($low:literal, $high:literal) => {
        concat!(
            "ldp q0, q1, [{weights}], #32\n",
            "ldp q2, q3, [{weights}], #32\n",
            "ldp q4, q5, [{weights}], #32\n",
            "ldp q6, q7, [{weights}], #32\n",
            "smmla v16.4s, v",
            $low,
            ".16b, v0.16b\n",
            "smmla v24.4s, v",
            $high,
            ".16b, v0.16b\n",
            "smmla v17.4s, v",
            $low,
            ".16b, v1.16b\n",
            "smmla v25.4s, v",
            $high,
            ".16b, v1.16b\n",
            "smmla v18.4s, v",
            $low,
            ".16b, v2.16b\n",
            "smmla v26.4s, v",
            $high,
            ".16b, v2.16b\n",
            "smmla v19.4s, v",
            $low,
            ".16b, v3.16b\n",
            "smmla v27.4s, v",
            $high,
            ".16b, v3.16b\n",
            "smmla v20.4s, v",
            $low,
            ".16b, v4.16b\n",
            "smmla v28.4s, v",
            $high,
            ".16b, v4.16b\n",
            "smmla v21.4s, v",
            $low,
            ".16b, v5.16b\n",
            "smmla v29.4s, v",
            $high,
            ".16b, v5.16b\n",
            "smmla v22.4s, v",
            $low,
            ".16b, v6.16b\n",
            "smmla v30.4s, v",
            $high,
            ".16b, v6.16b\n",
            "smmla v23.4s, v",
            $low,
            ".16b, v7.16b\n",
            "smmla v31.4s, v",
            $high,
            ".16b, v7.16b\n",
        )
    };
}

/// `count` times 32 inputs of four rows times sixteen channels. In assembly because the compiler spills registers here:
/// 16 hold sums, 8 values, 8 weights.
///
/// # Safety
/// `count` must be at least 1, each row must have `32 * count` values left, and the panel `512 * count` weights.
#[inline]
#[target_feature(enable = "neon,i8mm")]
unsafe fn double_steps_of_four(
    low: &mut [Tile; 8],
    high: &mut [Tile; 8],
    rows: &mut [*const i8; 4],
    weights: &mut *const i8,
    count: usize,
) {
    // SAFETY: each round reads 32 values of each row and 512 weights, which the caller promises, and moves the pointers
    // on by as many. Nothing else is read, nothing written but the registers named.
    unsafe {
        asm!(
            "2:",
            "ldp q0, q1, [{a}], #32",
            "ldp q2, q3, [{b}], #32",
            "ldp q4, q5, [{c}], #32",
            "ldp q6, q7, [{d}], #32",
            "zip1 v8.2d, v0.2d, v2.2d",
            "zip2 v9.2d, v0.2d, v2.2d",
            "zip1 v10.2d, v1.2d, v3.2d",
            "zip2 v11.2d, v1.2d, v3.2d",
            "zip1 v12.2d, v4.2d, v6.2d",
            "zip2 v13.2d, v4.2d, v6.2d",
            "zip1 v14.2d, v5.2d, v7.2d",
            "zip2 v15.2d, v5.2d, v7.2d",
            half!("8", "12"),
            half!("9", "13"),
            half!("10", "14"),
            half!("11", "15"),
            "subs {count}, {count}, #1",
            "b.ne 2b",
            a = inout(reg) rows[0],
            b = inout(reg) rows[1],
            c = inout(reg) rows[2],
            d = inout(reg) rows[3],
            weights = inout(reg) *weights,
            count = inout(reg) count => _,
            inout("v16") low[0], inout("v17") low[1], inout("v18") low[2], inout("v19") low[3],
            inout("v20") low[4], inout("v21") low[5], inout("v22") low[6], inout("v23") low[7],
            inout("v24") high[0], inout("v25") high[1], inout("v26") high[2], inout("v27") high[3],
            inout("v28") high[4], inout("v29") high[5], inout("v30") high[6], inout("v31") high[7],
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _,
            out("v12") _, out("v13") _, out("v14") _, out("v15") _,
            options(readonly, nostack),
        );
    }
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
