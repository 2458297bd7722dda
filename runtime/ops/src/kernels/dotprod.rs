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
    neon::{STEP, load_i32x4, next_pair, row_pointers},
    neon_tile::{Ends, Resident, Tile, for_steps, four_rows, load_second, tile_asm},
    neon_wide::{NARROW, PANEL, for_panels, quads},
};
use crate::linear::Linear;

/// Weights are [outputs / 16][inputs / 4][16][4], inputs padded to 16; the last panel may have 8 channels.
#[target_feature(enable = "dotprod")]
pub(crate) fn linear(op: &Linear, input: &[i8], output: &mut [i8]) {
    let ends = Ends::new(op.clamp);
    let padded = op.inputs.next_multiple_of(STEP);
    let constants = [&op.channels.bias, &op.channels.mantissa, &op.channels.left_shift];
    let outputs = op.outputs.next_multiple_of(NARROW);
    assert!(op.weights.len() == outputs * padded && constants.iter().all(|of| of.len() >= outputs));
    let left = four_rows::<PANEL>(op, (input, output), true, |tile, first, count, out| {
        let panels = Panels {
            count,
            weights: op.weights.as_ptr().wrapping_add(first * PANEL * padded),
            constants: constants.map(|values| values.as_ptr().wrapping_add(first * PANEL)),
            ends: &ends,
            out,
        };
        // SAFETY: the rows are the input's, weights and constants have so many panels, or half a one, as was checked
        // above, and `out` has room for them.
        unsafe {
            match (op.inputs <= Tile::RESIDENT, count == 0) {
                (true, false) => resident(tile, op.inputs, panels),
                (true, true) => resident_narrow(tile, op.inputs, panels),
                (false, false) => any(tile, op.inputs, panels),
                (false, true) => any_narrow(tile, op.inputs, panels),
            }
        }
    });
    let left = row_blocks::<2>(op, left, |rows, results| few_rows::<2>(op, rows, results));
    row_blocks::<1>(op, left, |rows, results| few_rows::<1>(op, rows, results));
}

/// One or two rows.
#[inline]
#[target_feature(enable = "dotprod")]
fn few_rows<const R: usize>(op: &Linear, input: &[i8], output: &mut [i8]) {
    assert_eq!(output.len(), R * op.outputs);
    let rows = row_pointers::<R>(input, op.inputs);
    let tails = tails::<R, STEP>(input, op.inputs);
    for_panels!(op, output, R,
    // SAFETY: the rows have `inputs` values each, and `weights` is a whole panel of as many, padded to whole steps.
    wide(weights, channels) => unsafe {
        panel_sums::<R, 4, PANEL>(rows, weights, op.inputs, &tails, channels)
    },
    // SAFETY: as above; a narrow panel is half as long.
    narrow(weights, channels) => unsafe {
        panel_sums::<R, 2, NARROW>(rows, weights, op.inputs, &tails, channels)
    });
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
    // SAFETY: the caller's promise; each step is one of the panel's, the other half of the last would only add zeros.
    for_steps!((rows, tails, inputs), R, values,
    whole => unsafe { dot_step(&mut acc, values, &mut weights) },
    half => unsafe {
        dot_group::<R, Q, 0>(&mut acc, values, &mut weights);
        dot_group::<R, Q, 1>(&mut acc, values, &mut weights);
    });
    acc
}

/// Four inputs of four rows, those of a lane, times four (`wide`) or two quads of channels, whose weights lie in v8 or
/// v12 on. The sums of row r and quad q are in v(16 + 4 r + q).
macro_rules! lane {
    (@quad $lane:literal, [$a:literal, $b:literal, $c:literal, $d:literal], $w:literal, [$e:literal, $f:literal, $g:literal, $h:literal]) => {
        concat!(
            "sdot v", $e, ".4s, v", $w, ".16b, v", $a, ".4b[", $lane, "]\n",
            "sdot v", $f, ".4s, v", $w, ".16b, v", $b, ".4b[", $lane, "]\n",
            "sdot v", $g, ".4s, v", $w, ".16b, v", $c, ".4b[", $lane, "]\n",
            "sdot v", $h, ".4s, v", $w, ".16b, v", $d, ".4b[", $lane, "]\n",
        )
    };
    (narrow $lane:literal, $rows:tt, [$i:literal, $j:literal, $k:literal, $l:literal]) => {
        concat!(
            "ldp q", $i, ", q", $j, ", [{weights}], #32\n",
            lane!(@quad $lane, $rows, $i, ["16", "20", "24", "28"]),
            lane!(@quad $lane, $rows, $j, ["17", "21", "25", "29"]),
        )
    };
    (wide $lane:literal, $rows:tt, [$i:literal, $j:literal, $k:literal, $l:literal]) => {
        concat!(
            "ldp q", $i, ", q", $j, ", [{weights}], #32\n",
            "ldp q", $k, ", q", $l, ", [{weights}], #32\n",
            lane!(@quad $lane, $rows, $i, ["16", "20", "24", "28"]),
            lane!(@quad $lane, $rows, $j, ["17", "21", "25", "29"]),
            lane!(@quad $lane, $rows, $k, ["18", "22", "26", "30"]),
            lane!(@quad $lane, $rows, $l, ["19", "23", "27", "31"]),
        )
    };
}

/// The first or second eight inputs of a step.
macro_rules! half {
    (first $width:ident $rows:tt) => {
        concat!(
            lane!($width "0", $rows, ["8", "9", "10", "11"]),
            lane!($width "1", $rows, ["12", "13", "14", "15"]),
        )
    };
    (second $width:ident $rows:tt) => {
        concat!(
            lane!($width "2", $rows, ["8", "9", "10", "11"]),
            lane!($width "3", $rows, ["12", "13", "14", "15"]),
        )
    };
}

/// Begins a panel's sums with the bias.
macro_rules! begin {
    (wide) => {
        concat!(
            "ldp q18, q19, [{bias}, #32]\n",
            "ldp q22, q23, [{bias}, #32]\n",
            "ldp q26, q27, [{bias}, #32]\n",
            "ldp q30, q31, [{bias}, #32]\n",
            "ldp q16, q17, [{bias}]\n",
            "ldp q20, q21, [{bias}]\n",
            "ldp q24, q25, [{bias}]\n",
            "ldp q28, q29, [{bias}], #64\n",
        )
    };
    (narrow) => {
        concat!(
            "ldp q16, q17, [{bias}]\n",
            "ldp q20, q21, [{bias}]\n",
            "ldp q24, q25, [{bias}]\n",
            "ldp q28, q29, [{bias}]\n",
        )
    };
}

/// All inputs of four rows.
macro_rules! sums_any {
    ($width:ident) => {
        concat!(
            begin!($width),
            "mov {ta}, {a}\n",
            "mov {tb}, {b}\n",
            "mov {tc}, {c}\n",
            "mov {td}, {d}\n",
            "tbz {steps}, #0, 2f\n",
            "ldr q0, [{ta}], #16\n",
            "ldr q2, [{tb}], #16\n",
            "ldr q4, [{tc}], #16\n",
            "ldr q6, [{td}], #16\n",
            half!(first $width ["0", "2", "4", "6"]),
            half!(second $width ["0", "2", "4", "6"]),
            "2:\n",
            "lsr {n}, {steps}, #1\n",
            "cbz {n}, 4f\n",
            "3:\n",
            "ldp q0, q1, [{ta}], #32\n",
            "ldp q2, q3, [{tb}], #32\n",
            "ldp q4, q5, [{tc}], #32\n",
            "ldp q6, q7, [{td}], #32\n",
            half!(first $width ["0", "2", "4", "6"]),
            half!(second $width ["0", "2", "4", "6"]),
            half!(first $width ["1", "3", "5", "7"]),
            half!(second $width ["1", "3", "5", "7"]),
            "subs {n}, {n}, #1\n",
            "b.ne 3b\n",
            "4:\n",
            "cbz {rest}, 6f\n",
            "ldp q0, q2, [{tails}]\n",
            "ldp q4, q6, [{tails}, #32]\n",
            half!(first $width ["0", "2", "4", "6"]),
            "cmp {rest}, #8\n",
            "b.ls 5f\n",
            half!(second $width ["0", "2", "4", "6"]),
            "b 6f\n",
            // Weights of 8 inputs that need not be multiplied.
            "5:\n",
            "add {weights}, {weights}, {skip}\n",
            "6:\n",
        )
    };
}

/// As [`sums_any`] with rows in registers, 16 inputs and `halves` times 8.
macro_rules! sums_resident {
    ($width:ident) => {
        concat!(
            begin!($width),
            half!(first $width ["0", "2", "4", "6"]),
            half!(second $width ["0", "2", "4", "6"]),
            "cbz {halves}, 6f\n",
            half!(first $width ["1", "3", "5", "7"]),
            "tbnz {halves}, #0, 5f\n",
            half!(second $width ["1", "3", "5", "7"]),
            "b 6f\n",
            "5:\n",
            "add {weights}, {weights}, {skip}\n",
            "6:\n",
        )
    };
}

/// Requantises quads of a row (see `Requantise::apply`), with mantissas from v8 and shifts from v12 on, narrows them to
/// i16 and adds the zero point.
macro_rules! requantise {
    (narrow [$a:literal, $b:literal, $c:literal, $d:literal]) => {
        concat!(
            "sqdmulh v", $a, ".4s, v", $a, ".4s, v8.4s\n",
            "sqdmulh v", $b, ".4s, v", $b, ".4s, v9.4s\n",
            "srshl v", $a, ".4s, v", $a, ".4s, v12.4s\n",
            "srshl v", $b, ".4s, v", $b, ".4s, v13.4s\n",
            "sqxtn v", $a, ".4h, v", $a, ".4s\n",
            "sqxtn2 v", $a, ".8h, v", $b, ".4s\n",
        )
    };
    (wide [$a:literal, $b:literal, $c:literal, $d:literal]) => {
        concat!(
            requantise!(narrow [$a, $b, $c, $d]),
            "sqdmulh v", $c, ".4s, v", $c, ".4s, v10.4s\n",
            "sqdmulh v", $d, ".4s, v", $d, ".4s, v11.4s\n",
            "srshl v", $c, ".4s, v", $c, ".4s, v14.4s\n",
            "srshl v", $d, ".4s, v", $d, ".4s, v15.4s\n",
            "sqxtn v", $c, ".4h, v", $c, ".4s\n",
            "sqxtn2 v", $c, ".8h, v", $d, ".4s\n",
        )
    };
}

/// Adds the zero point (v8), narrows two registers to one and bounds it by v9 and v10.
macro_rules! bound {
    ($a:literal, $b:literal) => {
        concat!(
            "sqadd v",
            $a,
            ".8h, v",
            $a,
            ".8h, v8.8h\n",
            "sqadd v",
            $b,
            ".8h, v",
            $b,
            ".8h, v8.8h\n",
            "sqxtn v",
            $a,
            ".8b, v",
            $a,
            ".8h\n",
            "sqxtn2 v",
            $a,
            ".16b, v",
            $b,
            ".8h\n",
            "smax v",
            $a,
            ".16b, v",
            $a,
            ".16b, v9.16b\n",
            "smin v",
            $a,
            ".16b, v",
            $a,
            ".16b, v10.16b\n",
        )
    };
}

/// Requantises a panel's sums, bounds them and writes them.
macro_rules! finish {
    (wide) => {
        concat!(
            "ldp q8, q9, [{mantissa}], #32\n",
            "ldp q12, q13, [{shift}], #32\n",
            "ldp q10, q11, [{mantissa}], #32\n",
            "ldp q14, q15, [{shift}], #32\n",
            requantise!(wide ["16", "17", "18", "19"]),
            requantise!(wide ["20", "21", "22", "23"]),
            requantise!(wide ["24", "25", "26", "27"]),
            requantise!(wide ["28", "29", "30", "31"]),
            "ldp q8, q9, [{ends}]\n",
            "ldr q10, [{ends}, #32]\n",
            bound!("16", "18"),
            bound!("20", "22"),
            bound!("24", "26"),
            bound!("28", "30"),
            "str q16, [{o0}], #16\n",
            "str q20, [{o1}], #16\n",
            "str q24, [{o2}], #16\n",
            "str q28, [{o3}], #16\n",
        )
    };
    (narrow) => {
        concat!(
            "ldp q8, q9, [{mantissa}]\n",
            "ldp q12, q13, [{shift}]\n",
            requantise!(narrow ["16", "17", "18", "19"]),
            requantise!(narrow ["20", "21", "22", "23"]),
            requantise!(narrow ["24", "25", "26", "27"]),
            requantise!(narrow ["28", "29", "30", "31"]),
            "ldp q8, q9, [{ends}]\n",
            "ldr q10, [{ends}, #32]\n",
            bound!("16", "20"),
            bound!("24", "28"),
            "str d16, [{o0}]\n",
            "st1 {{v16.d}}[1], [{o1}]\n",
            "str d24, [{o2}]\n",
            "st1 {{v24.d}}[1], [{o3}]\n",
        )
    };
}

/// Runs over the panels of one width: `any` or `resident` rows. 16 registers hold sums, 8 values, 8 weights or what the
/// end of a panel needs. (Half a panel counts as 0: one round, since 0 - 1 borrows and is not higher.)
macro_rules! panels {
    (any $width:ident, $panels:expr, $tile:expr, $inputs:expr, $skip:literal) => {
        tile_asm!(
            "7:",
            sums_any!($width),
            finish!($width),
            "subs {count}, {count}, #1",
            "b.hi 7b",
            a = in(reg) $tile.rows[0],
            b = in(reg) $tile.rows[1],
            c = in(reg) $tile.rows[2],
            d = in(reg) $tile.rows[3],
            ta = out(reg) _,
            tb = out(reg) _,
            tc = out(reg) _,
            td = out(reg) _,
            n = out(reg) _,
            steps = in(reg) $inputs / STEP,
            rest = in(reg) $inputs % STEP,
            tails = in(reg) $tile.tails,
            skip = const $skip,
            ends = in(reg) &raw const *$panels.ends,
            weights = inout(reg) $panels.weights => _,
            bias = inout(reg) $panels.constants[0] => _,
            mantissa = inout(reg) $panels.constants[1] => _,
            shift = inout(reg) $panels.constants[2] => _,
            count = inout(reg) $panels.count => _,
            o0 = inout(reg) $panels.out[0] => _,
            o1 = inout(reg) $panels.out[1] => _,
            o2 = inout(reg) $panels.out[2] => _,
            o3 = inout(reg) $panels.out[3] => _,
        )
    };
    (resident $width:ident, $panels:expr, $tile:expr, $inputs:expr, $skip:literal) => {{
        let Resident { first, second, halves } = $tile.resident($inputs);
        tile_asm!(
            "ldr q0, [{a}]",
            "ldr q2, [{b}]",
            "ldr q4, [{c}]",
            "ldr q6, [{d}]",
            load_second!(),
            "7:",
            sums_resident!($width),
            finish!($width),
            "subs {count}, {count}, #1",
            "b.hi 7b",
            a = in(reg) first[0],
            b = in(reg) first[1],
            c = in(reg) first[2],
            d = in(reg) first[3],
            ta = in(reg) second[0],
            tb = in(reg) second[1],
            tc = in(reg) second[2],
            td = in(reg) second[3],
            halves = in(reg) halves,
            skip = const $skip,
            ends = in(reg) &raw const *$panels.ends,
            weights = inout(reg) $panels.weights => _,
            bias = inout(reg) $panels.constants[0] => _,
            mantissa = inout(reg) $panels.constants[1] => _,
            shift = inout(reg) $panels.constants[2] => _,
            count = inout(reg) $panels.count => _,
            o0 = inout(reg) $panels.out[0] => _,
            o1 = inout(reg) $panels.out[1] => _,
            o2 = inout(reg) $panels.out[2] => _,
            o3 = inout(reg) $panels.out[3] => _,
        )
    }};
}

/// Panels for four rows.
#[derive(Clone, Copy)]
struct Panels<'a> {
    /// How many; 0 is half a one.
    count: usize,
    /// Padded to whole steps.
    weights: *const i8,
    /// Bias, mantissa and left shift of each channel.
    constants: [*const i32; 3],
    ends: &'a Ends,
    /// Room for each panel's channels in each row.
    out: [*mut i8; 4],
}

/// Whole panels.
///
/// # Safety
/// The rows of `tile` must have `inputs` values, and `panels` must be what its fields say.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn any(tile: Tile, inputs: usize, panels: Panels<'_>) {
    // SAFETY: each panel reads `inputs / 16 * 16` values of each row and as many weights of each of its channels; a rest
    // of the inputs is read from `tails`, and its weights are there because panels are padded to whole steps. Each panel
    // writes 16 values to each row. All of that the caller promises; no other memory is touched.
    unsafe { panels!(any wide, panels, tile, inputs, 128) };
}

/// A narrow panel.
///
/// # Safety
/// As [`any`]; half as many weights and constants are read, 8 values written to each row.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn any_narrow(tile: Tile, inputs: usize, panels: Panels<'_>) {
    // SAFETY: as above.
    unsafe { panels!(any narrow, panels, tile, inputs, 64) };
}

/// Whole panels, 32 inputs or fewer.
///
/// # Safety
/// As [`any`].
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn resident(tile: Tile, inputs: usize, panels: Panels<'_>) {
    // SAFETY: 16 values are read at each of the first pointers to rows and `8 * halves` at the second, which point to as
    // many; the rest as in `any`.
    unsafe { panels!(resident wide, panels, tile, inputs, 128) };
}

/// A narrow panel, 32 inputs or fewer.
///
/// # Safety
/// As [`any_narrow`].
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn resident_narrow(tile: Tile, inputs: usize, panels: Panels<'_>) {
    // SAFETY: as above.
    unsafe { panels!(resident narrow, panels, tile, inputs, 64) };
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
