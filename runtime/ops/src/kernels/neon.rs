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
    neon_tile::{Ends, Resident, Tile, for_steps, four_rows, load_second, tile_asm},
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

/// 16 inputs of four rows (or 8) times four channels. The sums of row r and channel c are in v(16 + 4 r + c).
macro_rules! four_channels {
    (half $rows:tt) => {
        concat!(
            "ldp q8, q9, [{weights}], #32\n",
            channel!(half "8", $rows, ["16", "20", "24", "28"]),
            channel!(half "9", $rows, ["17", "21", "25", "29"]),
            "ldp q8, q9, [{weights}], #32\n",
            channel!(half "8", $rows, ["18", "22", "26", "30"]),
            channel!(half "9", $rows, ["19", "23", "27", "31"]),
        )
    };
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

/// All inputs of four rows times a panel of four channels. A first step begins the sums; with rows that are not in
/// registers a second makes the rest even, and a loop takes two at a time.
macro_rules! sums_any {
    () => {
        concat!(
            "mov {ta}, {a}\n",
            "mov {tb}, {b}\n",
            "mov {tc}, {c}\n",
            "mov {td}, {d}\n",
            "ldr q0, [{ta}], #16\n",
            "ldr q2, [{tb}], #16\n",
            "ldr q4, [{tc}], #16\n",
            "ldr q6, [{td}], #16\n",
            four_channels!("saddlp", ["0", "2", "4", "6"]),
            "tbz {steps}, #0, 2f\n",
            "ldr q0, [{ta}], #16\n",
            "ldr q2, [{tb}], #16\n",
            "ldr q4, [{tc}], #16\n",
            "ldr q6, [{td}], #16\n",
            four_channels!("sadalp", ["0", "2", "4", "6"]),
            "2:\n",
            "lsr {n}, {steps}, #1\n",
            "cbz {n}, 4f\n",
            "3:\n",
            "ldp q0, q1, [{ta}], #32\n",
            "ldp q2, q3, [{tb}], #32\n",
            "ldp q4, q5, [{tc}], #32\n",
            "ldp q6, q7, [{td}], #32\n",
            four_channels!("sadalp", ["0", "2", "4", "6"]),
            four_channels!("sadalp", ["1", "3", "5", "7"]),
            "subs {n}, {n}, #1\n",
            "b.ne 3b\n",
            "4:\n",
            "cbz {rest}, 6f\n",
            "ldp q0, q2, [{tails}]\n",
            "ldp q4, q6, [{tails}, #32]\n",
            "cmp {rest}, #8\n",
            "b.ls 5f\n",
            four_channels!("sadalp", ["0", "2", "4", "6"]),
            "b 6f\n",
            "5:\n",
            four_channels!(half ["0", "2", "4", "6"]),
            "6:\n",
        )
    };
}

/// As [`sums_any`] with rows in registers, 16 inputs and `halves` times 8.
macro_rules! sums_resident {
    () => {
        concat!(
            four_channels!("saddlp", ["0", "2", "4", "6"]),
            "cbz {halves}, 6f\n",
            "tbnz {halves}, #0, 5f\n",
            four_channels!("sadalp", ["1", "3", "5", "7"]),
            "b 6f\n",
            "5:\n",
            four_channels!(half ["1", "3", "5", "7"]),
            "6:\n",
        )
    };
}

/// A panel's sums, four channels of a row in each of v16, v20, v24 and v28.
macro_rules! panel {
    ($sums:ident) => {
        concat!(
            $sums!(),
            "addp v16.4s, v16.4s, v17.4s\n",
            "addp v18.4s, v18.4s, v19.4s\n",
            "addp v20.4s, v20.4s, v21.4s\n",
            "addp v22.4s, v22.4s, v23.4s\n",
            "addp v24.4s, v24.4s, v25.4s\n",
            "addp v26.4s, v26.4s, v27.4s\n",
            "addp v28.4s, v28.4s, v29.4s\n",
            "addp v30.4s, v30.4s, v31.4s\n",
            "addp v16.4s, v16.4s, v18.4s\n",
            "addp v20.4s, v20.4s, v22.4s\n",
            "addp v24.4s, v24.4s, v26.4s\n",
            "addp v28.4s, v28.4s, v30.4s\n",
        )
    };
}

/// Requantises a panel's sums (see [`Requantise::apply`]) and bounds them: 16 bytes, row by row.
macro_rules! finish {
    ($to:literal) => {
        concat!(
            "ldr q8, [{bias}], #16\n",
            "ldr q9, [{mantissa}], #16\n",
            "ldr q10, [{shift}], #16\n",
            "add v16.4s, v16.4s, v8.4s\n",
            "add v20.4s, v20.4s, v8.4s\n",
            "add v24.4s, v24.4s, v8.4s\n",
            "add v28.4s, v28.4s, v8.4s\n",
            "sqdmulh v16.4s, v16.4s, v9.4s\n",
            "sqdmulh v20.4s, v20.4s, v9.4s\n",
            "sqdmulh v24.4s, v24.4s, v9.4s\n",
            "sqdmulh v28.4s, v28.4s, v9.4s\n",
            "srshl v16.4s, v16.4s, v10.4s\n",
            "srshl v20.4s, v20.4s, v10.4s\n",
            "srshl v24.4s, v24.4s, v10.4s\n",
            "srshl v28.4s, v28.4s, v10.4s\n",
            "ldp q8, q9, [{ends}]\n",
            "sqxtn v11.4h, v16.4s\n",
            "sqxtn v12.4h, v24.4s\n",
            "sqxtn2 v11.8h, v20.4s\n",
            "sqxtn2 v12.8h, v28.4s\n",
            "sqadd v11.8h, v11.8h, v14.8h\n",
            "sqadd v12.8h, v12.8h, v14.8h\n",
            "sqxtn v11.8b, v11.8h\n",
            "sqxtn2 v11.16b, v12.8h\n",
            "smax v11.16b, v11.16b, v8.16b\n",
            "smin v",
            $to,
            ".16b, v11.16b, v9.16b\n",
        )
    };
}

/// Writes what two panels made, in v15 and v11: eight channels of each row.
macro_rules! store_pair {
    () => {
        concat!(
            "zip1 v16.4s, v15.4s, v11.4s\n",
            "zip2 v17.4s, v15.4s, v11.4s\n",
            "str d16, [{o0}], #8\n",
            "st1 {{v16.d}}[1], [{o1}], #8\n",
            "str d17, [{o2}], #8\n",
            "st1 {{v17.d}}[1], [{o3}], #8\n",
        )
    };
}

/// Weights are [outputs / 4][inputs / 16][4][16], outputs padded to 8.
#[target_feature(enable = "neon")]
pub(crate) fn linear(op: &Linear, input: &[i8], output: &mut [i8]) {
    let ends = Ends::new(op.clamp);
    let pair_len = PAIR * op.inputs.next_multiple_of(STEP);
    let constants = [&op.channels.bias, &op.channels.mantissa, &op.channels.left_shift];
    let pairs = op.outputs.div_ceil(PAIR);
    assert!(op.weights.len() == pairs * pair_len && constants.iter().all(|of| of.len() == pairs * PAIR));
    let left = four_rows::<PAIR>(op, (input, output), false, |tile, first, pairs, out| {
        let panels = Panels {
            pairs,
            weights: op.weights.as_ptr().wrapping_add(first * pair_len),
            constants: constants.map(|values| values.as_ptr().wrapping_add(first * PAIR)),
            ends: &ends,
            out,
        };
        if op.inputs <= Tile::RESIDENT {
            // SAFETY: the rows are the input's, weights and constants have so many pairs, as was checked above, and
            // `out` has room for them.
            unsafe { run_resident(tile, op.inputs, panels) };
        } else {
            // SAFETY: as above.
            unsafe { run_any(tile, op.inputs, panels) };
        }
    });
    let left = row_blocks::<2>(op, left, |rows, results| few_rows::<2>(op, rows, results));
    row_blocks::<1>(op, left, |rows, results| few_rows::<1>(op, rows, results));
}

/// One or two rows.
#[inline]
#[target_feature(enable = "neon")]
fn few_rows<const R: usize>(op: &Linear, input: &[i8], output: &mut [i8]) {
    const { assert!(R <= 2) };
    assert_eq!(output.len(), R * op.outputs);
    let rows = row_pointers::<R>(input, op.inputs);
    let tails = tails::<R, STEP>(input, op.inputs);
    let clamp = ClampRegisters::new(op.clamp);
    let panels = op.weights.chunks_exact(PANEL * op.inputs.next_multiple_of(STEP));
    let panels = panels.take(op.outputs.div_ceil(PANEL)).enumerate();
    for ((panel, weights), channels) in panels.zip(op.channels.blocks::<PANEL>()) {
        // SAFETY: the rows have `inputs` values each, and `weights` is a whole panel of as many, padded to whole steps.
        let sums = unsafe { panel_sums(rows, weights.as_ptr(), op.inputs, &tails) };
        let requantise = Requantise::load(channels);
        let finish = |row: usize| requantise.apply(vaddq_s32(sums[row], requantise.bias));
        let low = finish(0);
        let q = vcombine_s16(low, if R > 1 { finish(1) } else { low });
        let results = bytes(clamp.apply([q, vdupq_n_s16(0)]));
        let first = panel * PANEL;
        let left = op.outputs - first;
        for row in 0..R {
            let values: &[i8; PANEL] = super::array(&results, row * PANEL);
            if left >= PANEL {
                // SAFETY: `output` has `R` rows of `outputs` values, of which at least four follow `first`.
                unsafe {
                    output.as_mut_ptr().add(row * op.outputs + first).cast::<[i8; PANEL]>().write(*values);
                }
            } else {
                output[row * op.outputs + first..][..left].copy_from_slice(&values[..left]);
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
    // SAFETY: the caller's promise; each step is one of the panel's.
    for_steps!((rows, tails, inputs), R, values,
        whole => unsafe { dot_step(&mut acc, values, &mut weights) },
        half => unsafe { dot_half_step(&mut acc, values, &mut weights) });
    let mut sums = [vdupq_n_s32(0); R];
    for row in 0..R {
        let [a, b, c, d] = acc[row];
        sums[row] = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
    }
    sums
}

/// Channels that leave together: two panels.
const PAIR: usize = 2 * PANEL;

/// Pairs of panels for four rows, one at least.
#[derive(Clone, Copy)]
struct Panels<'a> {
    pairs: usize,
    /// Padded to whole steps.
    weights: *const i8,
    /// Bias, mantissa and left shift of each channel.
    constants: [*const i32; 3],
    ends: &'a Ends,
    /// Room for 8 channels of each pair in each row.
    out: [*mut i8; 4],
}

/// 16 inputs or more. 16 registers hold sums, 8 values, 2 weights, 4 products, one the zero point, one the results of a
/// pair's first panel.
///
/// # Safety
/// The rows of `tile` must have `inputs` values, and `panels` must be what its fields say.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn run_any(tile: Tile, inputs: usize, panels: Panels<'_>) {
    assert!(inputs >= STEP);
    let Panels { pairs, weights, constants: [bias, mantissa, left_shift], ends, out } = panels;
    // SAFETY: each panel reads `inputs / 16 * 16` values of each row and as many weights of each of its channels; a
    // rest of the inputs is read from `tails`, and its weights are there because panels are padded to whole steps.
    // Each pair writes 8 values to each row. All of that the caller promises; no other memory is touched.
    unsafe {
        tile_asm!(
            "ldr q14, [{ends}], #16",
            "7:",
            panel!(sums_any),
            finish!("15"),
            panel!(sums_any),
            finish!("11"),
            store_pair!(),
            "subs {pairs}, {pairs}, #1",
            "b.ne 7b",
            a = in(reg) tile.rows[0],
            b = in(reg) tile.rows[1],
            c = in(reg) tile.rows[2],
            d = in(reg) tile.rows[3],
            ta = out(reg) _,
            tb = out(reg) _,
            tc = out(reg) _,
            td = out(reg) _,
            n = out(reg) _,
            steps = in(reg) inputs / STEP - 1,
            rest = in(reg) inputs % STEP,
            tails = in(reg) tile.tails,
            ends = inout(reg) &raw const *ends => _,
            weights = inout(reg) weights => _,
            bias = inout(reg) bias => _,
            mantissa = inout(reg) mantissa => _,
            shift = inout(reg) left_shift => _,
            pairs = inout(reg) pairs => _,
            o0 = inout(reg) out[0] => _,
            o1 = inout(reg) out[1] => _,
            o2 = inout(reg) out[2] => _,
            o3 = inout(reg) out[3] => _,
        );
    }
}

/// 32 inputs or fewer: the rows are loaded once.
///
/// # Safety
/// As [`run_any`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn run_resident(tile: Tile, inputs: usize, panels: Panels<'_>) {
    let Resident { first, second, halves } = tile.resident(inputs);
    let Panels { pairs, weights, constants: [bias, mantissa, left_shift], ends, out } = panels;
    // SAFETY: 16 values are read at each of the first pointers to rows and `8 * halves` at the second, which point to as
    // many. Each panel reads its
    // weights, which are padded to whole steps, and each pair writes 8 values to each row, as the caller promises.
    // No other memory is touched.
    unsafe {
        tile_asm!(
            "ldr q14, [{ends}], #16",
            "ldr q0, [{a}]",
            "ldr q2, [{b}]",
            "ldr q4, [{c}]",
            "ldr q6, [{d}]",
            load_second!(),
            "7:",
            panel!(sums_resident),
            finish!("15"),
            panel!(sums_resident),
            finish!("11"),
            store_pair!(),
            "subs {pairs}, {pairs}, #1",
            "b.ne 7b",
            a = in(reg) first[0],
            b = in(reg) first[1],
            c = in(reg) first[2],
            d = in(reg) first[3],
            ta = in(reg) second[0],
            tb = in(reg) second[1],
            tc = in(reg) second[2],
            td = in(reg) second[3],
            halves = in(reg) halves,
            ends = inout(reg) &raw const *ends => _,
            weights = inout(reg) weights => _,
            bias = inout(reg) bias => _,
            mantissa = inout(reg) mantissa => _,
            shift = inout(reg) left_shift => _,
            pairs = inout(reg) pairs => _,
            o0 = inout(reg) out[0] => _,
            o1 = inout(reg) out[1] => _,
            o2 = inout(reg) out[2] => _,
            o3 = inout(reg) out[3] => _,
        );
    }
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
