//! Baseline NEON: SMULL, SMLAL2 and SADALP, 16 products in three instructions (Cortex-A53, A57, A72); and what the
//! other aarch64 families share with it.
//!
//! Weights never are -128, so two products of one i16 lane stay within 2 * 127 * 128 = 32512 and cannot overflow.

#![allow(clippy::needless_range_loop, reason = "rows and channels index several arrays at once")]

use std::arch::{
    aarch64::{
        int8x16_t, int16x4_t, int16x8_t, int32x4_t, vaddq_s32, vcombine_s8, vcombine_s16, vdupq_n_s8,
        vdupq_n_s16, vdupq_n_s32, vget_low_s8, vld1q_s8, vld1q_s32, vmaxq_s8, vminq_s8, vmlal_high_s8,
        vmull_s8, vnegq_s32, vpadalq_s16, vpaddq_s32, vqaddq_s16, vqdmulhq_s32, vqmovn_s16, vqmovn_s32,
        vrshlq_s32, vst1q_s8,
    },
    asm,
};

use super::{
    ChannelBlock,
    blocks::{row_blocks, tails},
};
use crate::{linear::Linear, semantics::Clamp};

/// Channels of a GEMM panel.
const PANEL: usize = 4;
/// Inputs of one step.
pub(super) const STEP: usize = 16;

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_i8x16(values: &[i8; 16]) -> int8x16_t {
    // SAFETY: the reference covers the 16 bytes read.
    unsafe { vld1q_s8(values.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_i32x4(values: &[i32; 4]) -> int32x4_t {
    // SAFETY: the reference covers the 16 bytes read.
    unsafe { vld1q_s32(values.as_ptr()) }
}

/// Loads 16 bytes and moves the pointer on.
///
/// # Safety
/// 16 bytes from `pointer` on must be readable and within one allocation.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn next(pointer: &mut *const i8) -> int8x16_t {
    // SAFETY: the caller's promise.
    let value = unsafe { vld1q_s8(*pointer) };
    // SAFETY: as above; the end of the allocation may be pointed to.
    *pointer = unsafe { pointer.add(16) };
    value
}

/// Loads 32 bytes and moves the pointer on, in one instruction: LDP with write-back, which the compiler rarely chooses.
///
/// # Safety
/// 32 bytes from `pointer` on must be readable and within one allocation.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn next_pair(pointer: &mut *const i8) -> [int8x16_t; 2] {
    let (low, high);
    // SAFETY: the instruction reads the 32 bytes that the caller promises, and leaves the pointer at their end.
    unsafe {
        asm!(
            "ldp {low:q}, {high:q}, [{pointer}], #32",
            pointer = inout(reg) *pointer,
            low = lateout(vreg) low,
            high = lateout(vreg) high,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    [low, high]
}

/// Where each of `R` rows of `inputs` values begins.
///
/// # Panics
/// Unless `block` has those rows.
#[inline(always)]
pub(super) fn row_pointers<const R: usize>(block: &[i8], inputs: usize) -> [*const i8; R] {
    assert_eq!(block.len(), R * inputs);
    std::array::from_fn(|row| block[row * inputs..].as_ptr())
}

/// Requantisation constants of four channels, in registers.
#[derive(Clone, Copy)]
pub(super) struct Requantise {
    pub(super) bias: int32x4_t,
    mantissa: int32x4_t,
    left_shift: int32x4_t,
}

impl Requantise {
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn load(channels: ChannelBlock<'_, 4>) -> Self {
        Self {
            bias: load_i32x4(channels.bias),
            mantissa: load_i32x4(channels.mantissa),
            left_shift: vnegq_s32(load_i32x4(channels.shift)),
        }
    }

    /// SQDMULH floors and SRSHL rounds halves upwards: together the one rounding of `Multiplier::apply`. Narrowing to
    /// i16 saturates far outside i8. `acc` includes the bias.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn apply(self, acc: int32x4_t) -> int16x4_t {
        vqmovn_s32(vrshlq_s32(vqdmulhq_s32(acc, self.mantissa), self.left_shift))
    }
}

/// The output's zero point and bounds, in registers.
#[derive(Clone, Copy)]
pub(super) struct ClampRegisters {
    zero_point: int16x8_t,
    low: int8x16_t,
    high: int8x16_t,
}

impl ClampRegisters {
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn new(clamp: Clamp) -> Self {
        Self {
            zero_point: vdupq_n_s16(i16::from(clamp.zero_point)),
            low: vdupq_n_s8(clamp.low),
            high: vdupq_n_s8(clamp.high),
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn apply(self, q: [int16x8_t; 2]) -> int8x16_t {
        let low = vqmovn_s16(vqaddq_s16(q[0], self.zero_point));
        let high = vqmovn_s16(vqaddq_s16(q[1], self.zero_point));
        vminq_s8(vmaxq_s8(vcombine_s8(low, high), self.low), self.high)
    }
}

/// The bytes of a register.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn bytes(values: int8x16_t) -> [i8; 16] {
    let mut bytes = [0; 16];
    // SAFETY: `bytes` has the 16 bytes written.
    unsafe { vst1q_s8(bytes.as_mut_ptr(), values) };
    bytes
}

/// Weights are [outputs / 4][inputs / 16][4][16].
#[target_feature(enable = "neon")]
pub(crate) fn linear(op: &Linear, input: &[i8], output: &mut [i8]) {
    let left = row_blocks::<4>(op, (input, output), |rows, results| linear_rows::<4>(op, rows, results));
    let left = row_blocks::<2>(op, left, |rows, results| linear_rows::<2>(op, rows, results));
    row_blocks::<1>(op, left, |rows, results| linear_rows::<1>(op, rows, results));
}

#[inline]
#[target_feature(enable = "neon")]
fn linear_rows<const R: usize>(op: &Linear, input: &[i8], output: &mut [i8]) {
    assert_eq!(output.len(), R * op.outputs);
    let rows = row_pointers::<R>(input, op.inputs);
    let tails = tails::<R, STEP>(input, op.inputs);
    let clamp = ClampRegisters::new(op.clamp);
    let panels = op.weights.chunks_exact(PANEL * op.inputs.next_multiple_of(STEP));
    for ((panel, weights), channels) in panels.enumerate().zip(op.channels.blocks::<PANEL>()) {
        // SAFETY: the rows have `inputs` values each, and `weights` is a whole panel of as many, padded to whole steps.
        let sums = unsafe { panel_sums(rows, weights.as_ptr(), op.inputs, &tails) };
        let requantise = Requantise::load(channels);
        let mut q = [vdupq_n_s16(0); 2];
        for pair in 0..R.div_ceil(2) {
            let finish = |row: usize| requantise.apply(vaddq_s32(sums[row], requantise.bias));
            let low = finish(2 * pair);
            q[pair] = vcombine_s16(low, if 2 * pair + 1 < R { finish(2 * pair + 1) } else { low });
        }
        let results = bytes(clamp.apply(q));
        let first = panel * PANEL;
        let left = op.outputs - first;
        if left >= PANEL {
            for row in 0..R {
                let values: &[i8; PANEL] = super::array(&results, row * PANEL);
                // SAFETY: `output` has `R` rows of `outputs` values, of which at least four follow `first`.
                unsafe {
                    output.as_mut_ptr().add(row * op.outputs + first).cast::<[i8; PANEL]>().write(*values);
                }
            }
        } else {
            for row in 0..R {
                output[row * op.outputs + first..][..left].copy_from_slice(&results[row * PANEL..][..left]);
            }
        }
    }
}

/// The sums of a panel's four channels, for each row.
///
/// # Safety
/// Each row must have `inputs` values, and the panel at `weights` four times as many, padded to whole steps.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn panel_sums<const R: usize>(
    mut rows: [*const i8; R],
    mut weights: *const i8,
    inputs: usize,
    tails: &[[i8; STEP]; R],
) -> [int32x4_t; R] {
    let mut acc = [[vdupq_n_s32(0); PANEL]; R];
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
            // SAFETY: as above.
            unsafe { dot_half_step(&mut acc, values, &mut weights) };
        }
    }
    let mut sums = [vdupq_n_s32(0); R];
    for row in 0..R {
        let [a, b, c, d] = acc[row];
        sums[row] = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
    }
    sums
}

/// Sixteen inputs of each row times four channels.
///
/// # Safety
/// 64 weights must be left.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn dot_step<const R: usize>(
    acc: &mut [[int32x4_t; PANEL]; R],
    values: [int8x16_t; R],
    weights: &mut *const i8,
) {
    for pair in 0..PANEL / 2 {
        // SAFETY: the caller's promise.
        let pair_weights = unsafe { next_pair(weights) };
        for half in 0..2 {
            let weight = pair_weights[half];
            for row in 0..R {
                let products = vmull_s8(vget_low_s8(values[row]), vget_low_s8(weight));
                let products = vmlal_high_s8(products, values[row], weight);
                let acc = &mut acc[row][2 * pair + half];
                *acc = vpadalq_s16(*acc, products);
            }
        }
    }
}

/// As [`dot_step`], where only the first eight inputs can differ from zero.
///
/// # Safety
/// 64 weights must be left.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn dot_half_step<const R: usize>(
    acc: &mut [[int32x4_t; PANEL]; R],
    values: [int8x16_t; R],
    weights: &mut *const i8,
) {
    for pair in 0..PANEL / 2 {
        // SAFETY: the caller's promise.
        let pair_weights = unsafe { next_pair(weights) };
        for half in 0..2 {
            for row in 0..R {
                let products = vmull_s8(vget_low_s8(values[row]), vget_low_s8(pair_weights[half]));
                let acc = &mut acc[row][2 * pair + half];
                *acc = vpadalq_s16(*acc, products);
            }
        }
    }
}
