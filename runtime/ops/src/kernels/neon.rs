//! Baseline NEON: SMULL, SMLAL2 and SADALP, 16 products in three instructions (Cortex-A53, A57, A72); and what the
//! other aarch64 families share with it.
//!
//! Weights never are -128, so two products of one i16 lane stay within 2 * 127 * 128 = 32512 and cannot overflow.

#![allow(clippy::needless_range_loop, reason = "rows and channels index several arrays at once")]

use std::arch::{
    aarch64::{
        int8x16_t, int16x4_t, int16x8_t, int32x4_t, vaddq_s32, vcombine_s8, vcombine_s16, vdupq_n_s8,
        vdupq_n_s16, vdupq_n_s32, vget_low_s8, vld1q_s8, vld1q_s32, vmaxq_s8, vminq_s8, vmlal_high_s8,
        vmull_s8, vpadalq_s16, vpaddq_s32, vqaddq_s16, vqdmulhq_s32, vqmovn_s16, vqmovn_s32, vrshlq_s32,
        vst1q_s8,
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
            left_shift: load_i32x4(channels.left_shift),
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
    pub(super) zero_point: int16x8_t,
    pub(super) low: int8x16_t,
    pub(super) high: int8x16_t,
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
    let mut sums = [vdupq_n_s32(0); R];
    if inputs >= STEP
        && let (Some(rows), Some(four)) = (rows.first_chunk::<4>(), sums.first_chunk_mut::<4>())
    {
        // SAFETY: the caller's promise.
        *four = unsafe { panel_sums_of_four(rows, weights, inputs, tails) };
        return sums;
    }
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
    for row in 0..R {
        let [a, b, c, d] = acc[row];
        sums[row] = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
    }
    sums
}

/// Four rows times one channel, 16 inputs each (or 8): one sum register for each row, begun (SADDLP) or added to
/// (SADALP).
macro_rules! channel {
    (@end $add:literal, [$e:literal, $f:literal, $g:literal, $h:literal]) => {
        concat!(
            $add, " v", $e, ".4s, v10.8h\n", $add, " v", $f, ".4s, v11.8h\n",
            $add, " v", $g, ".4s, v12.8h\n", $add, " v", $h, ".4s, v13.8h\n",
        )
    };
    (@low $weight:literal, [$a:literal, $b:literal, $c:literal, $d:literal]) => {
        concat!(
            "smull v10.8h, v", $a, ".8b, v", $weight, ".8b\n", "smull v11.8h, v", $b, ".8b, v", $weight, ".8b\n",
            "smull v12.8h, v", $c, ".8b, v", $weight, ".8b\n", "smull v13.8h, v", $d, ".8b, v", $weight, ".8b\n",
        )
    };
    (half $weight:literal, $rows:tt, $sums:tt) => {
        concat!(channel!(@low $weight, $rows), channel!(@end "sadalp", $sums))
    };
    ($add:literal, $weight:literal, [$a:literal, $b:literal, $c:literal, $d:literal], $sums:tt) => {
        concat!(
            channel!(@low $weight, [$a, $b, $c, $d]),
            "smlal2 v10.8h, v", $a, ".16b, v", $weight, ".16b\n", "smlal2 v11.8h, v", $b, ".16b, v", $weight, ".16b\n",
            "smlal2 v12.8h, v", $c, ".16b, v", $weight, ".16b\n", "smlal2 v13.8h, v", $d, ".16b, v", $weight, ".16b\n",
            channel!(@end $add, $sums),
        )
    };
}

/// 16 inputs of four rows times four channels. The sums of row r and channel c are in v(16 + 4 r + c).
macro_rules! four_channels {
    ($add:literal, $rows:tt) => {
        concat!(
            "ldp q8, q9, [{weights}], #32\n",
            channel!($add, "8", $rows, ["16", "20", "24", "28"]),
            channel!($add, "9", $rows, ["17", "21", "25", "29"]),
            "ldp q8, q9, [{weights}], #32\n",
            channel!($add, "8", $rows, ["18", "22", "26", "30"]),
            channel!($add, "9", $rows, ["19", "23", "27", "31"]),
        )
    };
}

/// As [`panel_sums`], for four rows of 16 inputs or more. In assembly because the compiler spills registers here: 16
/// hold sums, 8 values, 2 weights, 4 products. A first step begins the sums, a second makes the rest even, and a loop
/// takes two at a time.
///
/// # Safety
/// As [`panel_sums`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn panel_sums_of_four(
    rows: &[*const i8; 4],
    weights: *const i8,
    inputs: usize,
    tails: &[[i8; STEP]],
) -> [int32x4_t; 4] {
    assert!(inputs >= STEP && tails.len() == 4);
    let (a, b, c, d);
    // SAFETY: the steps read `inputs / 16 * 16` values of each row and as many weights of each of the four channels; a
    // rest of the inputs is read from `tails`, and its weights are there because the panel is padded to whole steps.
    // Nothing is written but the registers named.
    unsafe {
        asm!(
            "ldr q0, [{a}], #16",
            "ldr q2, [{b}], #16",
            "ldr q4, [{c}], #16",
            "ldr q6, [{d}], #16",
            four_channels!("saddlp", ["0", "2", "4", "6"]),
            "tbz {steps}, #0, 2f",
            "ldr q0, [{a}], #16",
            "ldr q2, [{b}], #16",
            "ldr q4, [{c}], #16",
            "ldr q6, [{d}], #16",
            four_channels!("sadalp", ["0", "2", "4", "6"]),
            "2:",
            "lsr {steps}, {steps}, #1",
            "cbz {steps}, 4f",
            "3:",
            "ldp q0, q1, [{a}], #32",
            "ldp q2, q3, [{b}], #32",
            "ldp q4, q5, [{c}], #32",
            "ldp q6, q7, [{d}], #32",
            four_channels!("sadalp", ["0", "2", "4", "6"]),
            four_channels!("sadalp", ["1", "3", "5", "7"]),
            "subs {steps}, {steps}, #1",
            "b.ne 3b",
            "4:",
            "cbz {rest}, 6f",
            "ldp q0, q2, [{tails}]",
            "ldp q4, q6, [{tails}, #32]",
            "cmp {rest}, #8",
            "b.ls 5f",
            four_channels!("sadalp", ["0", "2", "4", "6"]),
            "b 6f",
            "5:",
            "ldp q8, q9, [{weights}], #32",
            channel!(half "8", ["0", "2", "4", "6"], ["16", "20", "24", "28"]),
            channel!(half "9", ["0", "2", "4", "6"], ["17", "21", "25", "29"]),
            "ldp q8, q9, [{weights}], #32",
            channel!(half "8", ["0", "2", "4", "6"], ["18", "22", "26", "30"]),
            channel!(half "9", ["0", "2", "4", "6"], ["19", "23", "27", "31"]),
            "6:",
            "addp v16.4s, v16.4s, v17.4s",
            "addp v18.4s, v18.4s, v19.4s",
            "addp v20.4s, v20.4s, v21.4s",
            "addp v22.4s, v22.4s, v23.4s",
            "addp v24.4s, v24.4s, v25.4s",
            "addp v26.4s, v26.4s, v27.4s",
            "addp v28.4s, v28.4s, v29.4s",
            "addp v30.4s, v30.4s, v31.4s",
            "addp v16.4s, v16.4s, v18.4s",
            "addp v20.4s, v20.4s, v22.4s",
            "addp v24.4s, v24.4s, v26.4s",
            "addp v28.4s, v28.4s, v30.4s",
            a = inout(reg) rows[0] => _,
            b = inout(reg) rows[1] => _,
            c = inout(reg) rows[2] => _,
            d = inout(reg) rows[3] => _,
            weights = inout(reg) weights => _,
            steps = inout(reg) inputs / STEP - 1 => _,
            rest = in(reg) inputs % STEP,
            tails = in(reg) tails.as_ptr(),
            out("v16") a, out("v20") b, out("v24") c, out("v28") d,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _,
            out("v17") _, out("v18") _, out("v19") _, out("v21") _, out("v22") _, out("v23") _,
            out("v25") _, out("v26") _, out("v27") _, out("v29") _, out("v30") _, out("v31") _,
            options(readonly, nostack),
        );
    }
    [a, b, c, d]
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
