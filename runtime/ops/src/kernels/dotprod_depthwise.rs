//! int8 depthwise convolutions with `sdot`, sixteen channels at a time.
//!
//! Four rows (three and a zero for 3x3) of a column are interleaved, so that the four values of a channel lie side by
//! side and one instruction multiplies and adds them for four channels. An interleaved column serves as many outputs
//! as the square is wide: a ring of them stays in registers. A fifth row is interleaved by its own columns instead, four
//! of them, and the last tap is a plain product.

#![allow(clippy::needless_range_loop, reason = "columns and quads index several arrays at once")]

use std::arch::{
    aarch64::{
        int8x16_t, int32x4_t, vaddw_high_s16, vaddw_s16, vcombine_s16, vdupq_n_s8, vget_low_s8, vget_low_s16,
        vld1q_s8, vmull_high_s8, vmull_s8, vqdmulhq_s32, vqmovn_s32, vreinterpretq_s8_s16,
        vreinterpretq_s16_s8, vreinterpretq_s32_s8, vrshlq_s32, vst1q_s8, vzip1q_s8, vzip1q_s16, vzip2q_s8,
        vzip2q_s16,
    },
    asm,
};

use super::{
    neon::ClampRegisters,
    neon_depthwise::{Taps, load_at},
};
use crate::depthwise::{CHANNEL_BLOCK, Depthwise};

/// Sixteen channels, four of them in each.
type Quads<T> = [T; 4];

/// Bytes of a block's weights: interleaved columns; of a fifth row, four columns interleaved, and the last tap.
const fn block_len(size: usize) -> usize {
    size * 64 + if size == 5 { 64 + CHANNEL_BLOCK } else { 0 }
}

/// Weights [size * size][16] of each block of channels as this kernel wants them.
pub(crate) fn pack(size: usize, taps_first: &[i8]) -> Vec<i8> {
    let mut packed = Vec::with_capacity(taps_first.len() / (size * size * CHANNEL_BLOCK) * block_len(size));
    for block in taps_first.chunks_exact(size * size * CHANNEL_BLOCK) {
        let weight = |row: usize, column: usize, channel: usize| {
            if row < size { block[(row * size + column) * CHANNEL_BLOCK + channel] } else { 0 }
        };
        for column in 0..size {
            for channel in 0..CHANNEL_BLOCK {
                packed.extend((0..4).map(|row| weight(row, column, channel)));
            }
        }
        if size == 5 {
            for channel in 0..CHANNEL_BLOCK {
                packed.extend((0..4).map(|column| weight(4, column, channel)));
            }
            packed.extend((0..CHANNEL_BLOCK).map(|channel| weight(4, 4, channel)));
        }
    }
    packed
}

/// One row of outputs of an operator packed by [`pack`].
#[target_feature(enable = "dotprod")]
pub(crate) fn depthwise_row(op: &Depthwise, rows: &[&[i8]], output: &mut [i8]) {
    match (op.window.size, op.window.stride) {
        (3, 1) => depthwise_sized::<3, 1>(op, rows, output),
        (_, 1) => depthwise_sized::<5, 1>(op, rows, output),
        _ => depthwise_sized::<5, 2>(op, rows, output),
    }
}

#[inline(never)]
#[target_feature(enable = "dotprod")]
fn depthwise_sized<const SIZE: usize, const STRIDE: usize>(
    op: &Depthwise,
    rows: &[&[i8]],
    output: &mut [i8],
) {
    let channels = op.window.channels;
    assert!(channels.is_multiple_of(CHANNEL_BLOCK) && output.len().is_multiple_of(channels));
    let pixels = output.len() / channels;
    let taps = Taps::<i8, SIZE>::new(rows, channels, STRIDE, pixels);
    let clamp = ClampRegisters::new(op.clamp);
    for (block, weights) in op.weights.chunks_exact(block_len(SIZE)).enumerate() {
        let first = block * CHANNEL_BLOCK;
        let constants = [&op.channels.bias, &op.channels.mantissa, &op.channels.left_shift];
        let constants = constants.map(|values| values[first..][..CHANNEL_BLOCK].as_ptr());
        let out = output[first..].as_mut_ptr();
        // SAFETY: the taps of all pixels exist, weights and constants are a block's, and `out` has sixteen places for
        // each pixel, `channels` apart.
        unsafe {
            block_of_row::<SIZE, STRIDE>(taps.skip(first), pixels, channels, weights, constants, clamp, out);
        }
    }
}

/// All outputs of sixteen channels.
///
/// # Safety
/// The taps of `pixels` outputs must exist, columns `pitch` apart; constants must be 16 values each; `out` must have 16
/// writable places every `pitch` for each output.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn block_of_row<const SIZE: usize, const STRIDE: usize>(
    taps: Taps<i8, SIZE>,
    pixels: usize,
    pitch: usize,
    weights: &[i8],
    [bias, mantissa, left_shift]: [*const i32; 3],
    clamp: ClampRegisters,
    mut out: *mut i8,
) {
    assert_eq!(weights.len(), block_len(SIZE));
    let weights = weights.as_ptr();
    // Those of 3x3 fit into registers beside the ring.
    let mut resident = [[vdupq_n_s8(0); 4]; SIZE];
    if SIZE == 3 {
        for column in 0..SIZE {
            // SAFETY: the block's weights.
            resident[column] = unsafe { load_quads(weights.add(64 * column)) };
        }
    }
    let mut offset = 0;
    let mut ring = [[vdupq_n_s8(0); 4]; SIZE];
    for column in 0..SIZE - STRIDE {
        // SAFETY: the first output's column.
        ring[column] = unsafe { interleaved_column(taps.rows, offset) };
        offset += pitch;
    }
    let mut left = pixels;
    // The n-th output of as many as the ring has places. (Written out, so that each place has a register.)
    macro_rules! turn {
        ($turn:literal) => {
            if left == 0 {
                return;
            }
            left -= 1;
            for new in SIZE - STRIDE..SIZE {
                // SAFETY: the output exists, and so do its columns.
                ring[($turn * STRIDE + new) % SIZE] = unsafe { interleaved_column(taps.rows, offset) };
                offset += pitch;
            }
            // SAFETY: sixteen constants.
            let mut acc = unsafe { load_quads::<int32x4_t>(bias.cast()) };
            for column in 0..SIZE {
                let weights = match SIZE {
                    3 => resident[column],
                    // SAFETY: the block's weights.
                    _ => unsafe { load_quads::<int8x16_t>(weights.add(64 * column)) },
                };
                dot(&mut acc, ring[($turn * STRIDE + column) % SIZE], weights);
            }
            if SIZE == 5 {
                // SAFETY: the output's fifth row, and the weights behind the columns'.
                unsafe {
                    fifth_row(
                        &mut acc,
                        taps.rows[SIZE - 1],
                        offset - SIZE * pitch,
                        pitch,
                        weights.add(64 * SIZE),
                    );
                }
            }
            // SAFETY: sixteen constants.
            let mantissa = unsafe { load_quads(mantissa.cast()) };
            for quad in 0..4 {
                acc[quad] = vqdmulhq_s32(acc[quad], mantissa[quad]);
            }
            // SAFETY: sixteen constants.
            let shift = unsafe { load_quads(left_shift.cast()) };
            let narrow = |quad: usize| vqmovn_s32(vrshlq_s32(acc[quad], shift[quad]));
            let q = clamp.apply([vcombine_s16(narrow(0), narrow(1)), vcombine_s16(narrow(2), narrow(3))]);
            // SAFETY: sixteen places for this output.
            unsafe { vst1q_s8(out, q) };
            out = out.wrapping_add(pitch);
        };
    }
    loop {
        turn!(0);
        turn!(1);
        turn!(2);
        if SIZE == 5 {
            turn!(3);
            turn!(4);
        }
    }
}

/// A column's first four rows (or three and zeros), the values of a channel side by side.
///
/// # Safety
/// Each row must have 16 readable values at `offset`.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn interleaved_column<const SIZE: usize>(rows: [*const i8; SIZE], offset: usize) -> Quads<int8x16_t> {
    let mut values = [vdupq_n_s8(0); 4];
    for row in 0..SIZE.min(4) {
        // SAFETY: the caller's promise.
        values[row] = unsafe { load_at(rows[row], offset) };
    }
    interleave(values)
}

/// The n-th values of four registers side by side.
#[inline]
#[target_feature(enable = "dotprod")]
fn interleave([a, b, c, d]: [int8x16_t; 4]) -> Quads<int8x16_t> {
    let pairs = |a, b| [vreinterpretq_s16_s8(vzip1q_s8(a, b)), vreinterpretq_s16_s8(vzip2q_s8(a, b))];
    let ([low_ab, high_ab], [low_cd, high_cd]) = (pairs(a, b), pairs(c, d));
    [
        vreinterpretq_s8_s16(vzip1q_s16(low_ab, low_cd)),
        vreinterpretq_s8_s16(vzip2q_s16(low_ab, low_cd)),
        vreinterpretq_s8_s16(vzip1q_s16(high_ab, high_cd)),
        vreinterpretq_s8_s16(vzip2q_s16(high_ab, high_cd)),
    ]
}

/// Adds the fifth row of a square whose first column is at `offset`.
///
/// # Safety
/// The row must have 16 readable values at `offset` and four more times `pitch` on; there must be 80 weights.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn fifth_row(
    acc: &mut Quads<int32x4_t>,
    row: *const i8,
    offset: usize,
    pitch: usize,
    weights: *const i8,
) {
    let mut values = [vdupq_n_s8(0); 5];
    for column in 0..5 {
        // SAFETY: the caller's promise.
        values[column] = unsafe { load_at(row.wrapping_add(offset), column * pitch) };
    }
    let [a, b, c, d, last] = values;
    // SAFETY: the first 64 weights.
    dot(acc, interleave([a, b, c, d]), unsafe { load_quads(weights) });
    // SAFETY: the last 16.
    let weight = unsafe { vld1q_s8(weights.add(64)) };
    let (low, high) = (vmull_s8(vget_low_s8(last), vget_low_s8(weight)), vmull_high_s8(last, weight));
    *acc = [
        vaddw_s16(acc[0], vget_low_s16(low)),
        vaddw_high_s16(acc[1], low),
        vaddw_s16(acc[2], vget_low_s16(high)),
        vaddw_high_s16(acc[3], high),
    ];
}

/// Adds the products of each channel's four values and weights.
#[inline]
#[target_feature(enable = "dotprod")]
fn dot(acc: &mut Quads<int32x4_t>, values: Quads<int8x16_t>, weights: Quads<int8x16_t>) {
    for quad in 0..4 {
        // SAFETY: the instruction touches registers only, and this function requires `dotprod`.
        unsafe {
            asm!(
                "sdot {acc:v}.4s, {values:v}.16b, {weights:v}.16b",
                acc = inout(vreg) acc[quad],
                values = in(vreg) values[quad],
                weights = in(vreg) weights[quad],
                options(pure, nomem, nostack, preserves_flags),
            );
        }
    }
}

/// Loads 64 bytes. Not marked as pure: the compiler would load them once and then keep them on the stack.
///
/// # Safety
/// 64 bytes must be readable at `pointer`.
#[inline]
#[target_feature(enable = "dotprod")]
unsafe fn load_quads<T: FromRegister>(pointer: *const i8) -> Quads<T> {
    let (a, b, c, d): (int8x16_t, int8x16_t, int8x16_t, int8x16_t);
    // SAFETY: the instructions read the 64 bytes that the caller promises.
    unsafe {
        asm!(
            "ldp {a:q}, {b:q}, [{pointer}]",
            "ldp {c:q}, {d:q}, [{pointer}, #32]",
            pointer = in(reg) pointer,
            a = out(vreg) a,
            b = out(vreg) b,
            c = lateout(vreg) c,
            d = lateout(vreg) d,
            options(readonly, nostack, preserves_flags),
        );
    }
    // SAFETY: this function requires `dotprod`, and with it NEON.
    unsafe { [T::from_register(a), T::from_register(b), T::from_register(c), T::from_register(d)] }
}

/// Vectors that a register's bytes can be taken for.
trait FromRegister {
    /// # Safety
    /// The CPU must have `neon`.
    unsafe fn from_register(bytes: int8x16_t) -> Self;
}

impl FromRegister for int8x16_t {
    #[inline(always)]
    unsafe fn from_register(bytes: int8x16_t) -> Self {
        bytes
    }
}

impl FromRegister for int32x4_t {
    #[inline(always)]
    unsafe fn from_register(bytes: int8x16_t) -> Self {
        // SAFETY: the caller's promise.
        unsafe { vreinterpretq_s32_s8(bytes) }
    }
}
