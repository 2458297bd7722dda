//! Depthwise convolutions on NEON, int8 and f32, for all aarch64 families.
//!
//! int8: sixteen channels and up to two neighbouring pixels at a time. Products of two taps are added as i16 (they fit,
//! see [`super::neon`]), pairs as i32, starting from the bias. f32: four channels and up to four pixels.

#![allow(clippy::needless_range_loop, reason = "pixels and taps index several arrays at once")]

use std::arch::{
    aarch64::{
        float32x4_t, int8x16_t, int16x8_t, int32x4_t, vaddw_high_s16, vaddw_s16, vcombine_s16, vdupq_n_f32,
        vdupq_n_s8, vfmaq_f32, vget_low_s8, vget_low_s16, vld1q_f32, vld1q_s8, vmaxnmq_f32, vminnmq_f32,
        vmlal_s8, vmull_s8, vreinterpretq_f32_s8, vst1q_f32, vst1q_s8,
    },
    asm,
};

use super::{
    ChannelBlock, array,
    neon::{ClampRegisters, Requantise, bytes, load_i32x4},
};
use crate::depthwise::{CHANNEL_BLOCK, Depthwise, FloatDepthwise};

/// Padded input rows from one output's first tap on.
#[derive(Clone, Copy)]
pub(super) struct Taps<T, const SIZE: usize> {
    pub(super) rows: [*const T; SIZE],
}

impl<T, const SIZE: usize> Taps<T, SIZE> {
    /// Checks once that `pixels` outputs of a stride can be computed: every tap of the last one exists.
    pub(super) fn new(rows: &[&[T]], pitch: usize, stride: usize, pixels: usize) -> Self {
        let rows: [&[T]; SIZE] = std::array::from_fn(|row| rows[row]);
        let needed = ((pixels - 1) * stride + SIZE) * pitch;
        assert!(rows.iter().all(|row| row.len() >= needed), "padded rows of {needed} values");
        Self { rows: rows.map(<[T]>::as_ptr) }
    }

    /// The taps so many values further on. (They may lie behind the last output, if they are not looked at then.)
    #[inline(always)]
    pub(super) fn skip(self, values: usize) -> Self {
        Self { rows: self.rows.map(|row| row.wrapping_add(values)) }
    }
}

/// Bytes from an output's first column to its others.
#[inline(always)]
fn offsets<T, const COLUMNS: usize>(pitch: usize) -> [usize; COLUMNS] {
    std::array::from_fn(|column| column * pitch * size_of::<T>())
}

/// Loads 16 bytes. The compiler would turn offsets that a loop does not change into as many pointers that it moves.
///
/// # Safety
/// The 16 bytes must be readable.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn load_at<T>(base: *const T, offset: usize) -> int8x16_t {
    let value;
    // SAFETY: the instruction reads the 16 bytes that the caller promises.
    unsafe {
        asm!(
            "ldr {value:q}, [{base}, {offset}]",
            base = in(reg) base,
            offset = in(reg) offset,
            value = lateout(vreg) value,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    value
}

/// One block's weights, 16 bytes for each tap. (Always inlined, which rules out `target_feature`: blocks of constants
/// must not travel through memory.)
///
/// # Safety
/// The CPU must have `neon`.
///
/// # Panics
/// Unless `weights` has the block.
#[inline(always)]
unsafe fn block_weights<T, const SIZE: usize>(weights: &[T], block: usize) -> [[int8x16_t; SIZE]; SIZE] {
    let per_tap = 16 / size_of::<T>();
    let taps = weights[block * SIZE * SIZE * per_tap..][..SIZE * SIZE * per_tap].as_ptr().cast::<i8>();
    // SAFETY: the slice has `SIZE * SIZE` times 16 bytes, and any bits are valid.
    let load = |tap: usize| unsafe { vld1q_s8(taps.add(16 * tap)) };
    std::array::from_fn(|row| std::array::from_fn(|column| load(row * SIZE + column)))
}

/// One row of outputs.
#[target_feature(enable = "neon")]
pub(crate) fn depthwise_row(op: &Depthwise, rows: &[&[i8]], output: &mut [i8]) {
    match (op.window.size, op.window.stride) {
        (3, 1) => depthwise_sized::<3, 1>(op, rows, output),
        (3, _) => depthwise_sized::<3, 2>(op, rows, output),
        (_, 1) => depthwise_sized::<5, 1>(op, rows, output),
        _ => depthwise_sized::<5, 2>(op, rows, output),
    }
}

#[inline(never)]
#[target_feature(enable = "neon")]
fn depthwise_sized<const SIZE: usize, const STRIDE: usize>(
    op: &Depthwise,
    rows: &[&[i8]],
    output: &mut [i8],
) {
    let channels = op.window.channels;
    let pixels = output.len() / channels;
    assert_eq!(output.len(), pixels * channels);
    let pitch = op.padded_channels;
    let taps = Taps::<i8, SIZE>::new(rows, pitch, STRIDE, pixels);
    let clamp = ClampRegisters::new(op.clamp);
    let (blocks, pairs) = (channels / CHANNEL_BLOCK, pixels / 2);
    let mut done = 0;
    if let (3, Some(rows)) = (SIZE, taps.rows.first_chunk())
        && blocks > 0
        && pairs > 0
    {
        // SAFETY: the taps and the output are those of all pixels.
        unsafe { pairs_of_three_by_three::<STRIDE>(op, Taps { rows: *rows }, clamp, output, blocks, pairs) };
        done = 2 * pairs;
        if done == pixels && channels.is_multiple_of(CHANNEL_BLOCK) {
            return;
        }
    }
    for channel in (0..channels).step_by(CHANNEL_BLOCK) {
        // SAFETY: this function requires `neon`.
        let block = unsafe { DepthwiseBlock::<SIZE>::load(op, channel, clamp) };
        let mut taps = taps.skip(channel);
        if channels - channel < CHANNEL_BLOCK {
            for pixel in 0..pixels {
                // SAFETY: the pixel exists and so does the block of sixteen channels, to which rows are padded.
                let [result] = unsafe { block.pixels::<STRIDE, 1>(taps) };
                let results = &mut output[pixel * channels..][..channels][channel..];
                results.copy_from_slice(&bytes(result)[..results.len()]);
                taps = taps.skip(STRIDE * pitch);
            }
            continue;
        }
        let mut target = output[channel..].as_mut_ptr();
        if done == 0 {
            // SAFETY: as above, for all pairs of pixels, which have these sixteen channels in the output too.
            unsafe { block.pairs::<STRIDE>(taps, target, channels, pairs) };
        }
        if pixels % 2 == 1 {
            taps = taps.skip((pixels - 1) * STRIDE * pitch);
            target = target.wrapping_add((pixels - 1) * channels);
            // SAFETY: as above, for the last pixel.
            unsafe {
                let [result] = block.pixels::<STRIDE, 1>(taps);
                vst1q_s8(target, result);
            }
        }
    }
}

/// Products of two taps with sixteen channels of two pixels, added to sums that begin with those named first.
macro_rules! two_taps {
    ($w:literal: $p:literal, $q:literal; $w2:literal: $r:literal, $s:literal; $a:literal, $b:literal, $c:literal, $d:literal; $e:literal, $f:literal, $g:literal, $h:literal) => {
        concat!(
            "smull v20.8h, v", $p, ".8b, v", $w, ".8b\n",
            "smull2 v21.8h, v", $p, ".16b, v", $w, ".16b\n",
            "smull v22.8h, v", $q, ".8b, v", $w, ".8b\n",
            "smull2 v23.8h, v", $q, ".16b, v", $w, ".16b\n",
            "smlal v20.8h, v", $r, ".8b, v", $w2, ".8b\n",
            "smlal2 v21.8h, v", $r, ".16b, v", $w2, ".16b\n",
            "smlal v22.8h, v", $s, ".8b, v", $w2, ".8b\n",
            "smlal2 v23.8h, v", $s, ".16b, v", $w2, ".16b\n",
            add_products!($a, $b, $c, $d; $e, $f, $g, $h),
        )
    };
}

/// Adds the products of two pixels to their sums.
macro_rules! add_products {
    ($a:literal, $b:literal, $c:literal, $d:literal; $e:literal, $f:literal, $g:literal, $h:literal) => {
        concat!(
            "saddw v24.4s, v",
            $a,
            ".4s, v20.4h\n",
            "saddw2 v25.4s, v",
            $b,
            ".4s, v20.8h\n",
            "saddw v26.4s, v",
            $c,
            ".4s, v21.4h\n",
            "saddw2 v27.4s, v",
            $d,
            ".4s, v21.8h\n",
            "saddw v28.4s, v",
            $e,
            ".4s, v22.4h\n",
            "saddw2 v29.4s, v",
            $f,
            ".4s, v22.8h\n",
            "saddw v30.4s, v",
            $g,
            ".4s, v23.4h\n",
            "saddw2 v31.4s, v",
            $h,
            ".4s, v23.8h\n",
        )
    };
}

/// Blocks of channels, and pairs of pixels of a row, under a 3x3, in assembly because the compiler spills registers here and splits SMULL2.
/// v0-v8 hold weights, v9 the zero point, v10 and v11 the bounds, v12-v19 values and constants, v20-v23 products,
/// v24-v31 sums. Strides differ in the columns that the second pixel looks at, and stride 2 in a fifth column.
macro_rules! three_by_three {
    (
        $op:expr, $taps:expr, $target:expr, $blocks:expr, $count:expr, $stride:expr, $clamp:expr;
        first: $a0:literal, $a1:literal; $fifth_a:literal; second: $b0:literal; $b1:literal, $b2:literal; $fifth_b:literal;
        third: $c0:literal, $c1:literal, $c2:literal; $fifth_c:literal
    ) => {{
        let offsets: [usize; 5] = offsets::<i8, 5>($op.padded_channels);
        let step = 2 * $stride * $op.padded_channels;
        asm!(
            "2:",
            "ldp q0, q1, [{weights}], #32",
            "ldp q2, q3, [{weights}], #32",
            "ldp q4, q5, [{weights}], #32",
            "ldp q6, q7, [{weights}], #32",
            "ldr q8, [{weights}], #16",
            "mov {pixel}, {target}",
            "mov {left}, {count}",
            "3:",
            "ldp q16, q17, [{bias}]",
            "ldp q18, q19, [{bias}, #32]",
            "ldr q12, [{a}]",
            "ldr q13, [{a}, {o1}]",
            "ldr q14, [{a}, {o2}]",
            "ldr q15, [{a}, {o3}]",
            two_taps!("0": "12", $a0; "1": "13", $a1; "16", "17", "18", "19"; "16", "17", "18", "19"),
            $fifth_a,
            "add {a}, {a}, {step}",
            "ldr q16, [{b}]",
            "ldr q17, [{b}, {o1}]",
            "ldr q18, [{b}, {o2}]",
            "ldr q19, [{b}, {o3}]",
            two_taps!("2": "14", "15"; "3": "16", $b0; "24", "25", "26", "27"; "28", "29", "30", "31"),
            $fifth_b,
            "add {b}, {b}, {step}",
            two_taps!("4": "17", $b1; "5": "18", $b2; "24", "25", "26", "27"; "28", "29", "30", "31"),
            "ldr q12, [{c}]",
            "ldr q13, [{c}, {o1}]",
            "ldr q14, [{c}, {o2}]",
            "ldr q15, [{c}, {o3}]",
            $fifth_c,
            "add {c}, {c}, {step}",
            two_taps!("6": "12", $c0; "7": "13", $c1; "24", "25", "26", "27"; "28", "29", "30", "31"),
            "smull v20.8h, v14.8b, v8.8b",
            "smull2 v21.8h, v14.16b, v8.16b",
            concat!("smull v22.8h, v", $c2, ".8b, v8.8b"),
            concat!("smull2 v23.8h, v", $c2, ".16b, v8.16b"),
            add_products!("24", "25", "26", "27"; "28", "29", "30", "31"),
            "ldp q12, q13, [{mantissa}]",
            "ldp q14, q15, [{mantissa}, #32]",
            "ldp q16, q17, [{left_shift}]",
            "ldp q18, q19, [{left_shift}, #32]",
            "sqdmulh v24.4s, v24.4s, v12.4s",
            "sqdmulh v25.4s, v25.4s, v13.4s",
            "sqdmulh v26.4s, v26.4s, v14.4s",
            "sqdmulh v27.4s, v27.4s, v15.4s",
            "sqdmulh v28.4s, v28.4s, v12.4s",
            "sqdmulh v29.4s, v29.4s, v13.4s",
            "sqdmulh v30.4s, v30.4s, v14.4s",
            "sqdmulh v31.4s, v31.4s, v15.4s",
            "srshl v24.4s, v24.4s, v16.4s",
            "srshl v25.4s, v25.4s, v17.4s",
            "srshl v26.4s, v26.4s, v18.4s",
            "srshl v27.4s, v27.4s, v19.4s",
            "srshl v28.4s, v28.4s, v16.4s",
            "srshl v29.4s, v29.4s, v17.4s",
            "srshl v30.4s, v30.4s, v18.4s",
            "srshl v31.4s, v31.4s, v19.4s",
            "sqxtn v20.4h, v24.4s",
            "sqxtn v21.4h, v26.4s",
            "sqxtn v22.4h, v28.4s",
            "sqxtn v23.4h, v30.4s",
            "sqxtn2 v20.8h, v25.4s",
            "sqxtn2 v21.8h, v27.4s",
            "sqxtn2 v22.8h, v29.4s",
            "sqxtn2 v23.8h, v31.4s",
            "sqadd v20.8h, v20.8h, v9.8h",
            "sqadd v21.8h, v21.8h, v9.8h",
            "sqadd v22.8h, v22.8h, v9.8h",
            "sqadd v23.8h, v23.8h, v9.8h",
            "sqxtn v20.8b, v20.8h",
            "sqxtn v22.8b, v22.8h",
            "sqxtn2 v20.16b, v21.8h",
            "sqxtn2 v22.16b, v23.8h",
            "smax v20.16b, v20.16b, v10.16b",
            "smax v22.16b, v22.16b, v10.16b",
            "smin v20.16b, v20.16b, v11.16b",
            "smin v22.16b, v22.16b, v11.16b",
            "str q20, [{pixel}]",
            "str q22, [{pixel}, {channels}]",
            "add {pixel}, {pixel}, {channels}, lsl #1",
            "subs {left}, {left}, #1",
            "b.ne 3b",
            "add {a}, {a}, {back}",
            "add {b}, {b}, {back}",
            "add {c}, {c}, {back}",
            "add {bias}, {bias}, #64",
            "add {mantissa}, {mantissa}, #64",
            "add {left_shift}, {left_shift}, #64",
            "add {target}, {target}, #16",
            "subs {blocks}, {blocks}, #1",
            "b.ne 2b",
            a = inout(reg) $taps.rows[0] => _,
            b = inout(reg) $taps.rows[1] => _,
            c = inout(reg) $taps.rows[2] => _,
            o1 = in(reg) offsets[1],
            o2 = in(reg) offsets[2],
            o3 = in(reg) offsets[3],
            o4 = in(reg) offsets[4],
            step = in(reg) step,
            // From behind the last pair to the first one of the next block.
            back = in(reg) CHANNEL_BLOCK.wrapping_sub($count * step),
            weights = inout(reg) $op.weights.as_ptr() => _,
            bias = inout(reg) $op.channels.bias.as_ptr() => _,
            mantissa = inout(reg) $op.channels.mantissa.as_ptr() => _,
            left_shift = inout(reg) $op.channels.left_shift.as_ptr() => _,
            target = inout(reg) $target => _,
            pixel = out(reg) _,
            left = out(reg) _,
            channels = in(reg) $op.window.channels,
            count = in(reg) $count,
            blocks = inout(reg) $blocks => _,
            in("v9") $clamp.zero_point, in("v10") $clamp.low, in("v11") $clamp.high,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _,
            out("v12") _, out("v13") _, out("v14") _, out("v15") _, out("v16") _, out("v17") _, out("v18") _,
            out("v19") _, out("v20") _, out("v21") _, out("v22") _, out("v23") _, out("v24") _, out("v25") _,
            out("v26") _, out("v27") _, out("v28") _, out("v29") _, out("v30") _, out("v31") _,
            options(nostack),
        );
    }};
}

/// Sixteen channels' constants along a row.
struct DepthwiseBlock<'a, const SIZE: usize> {
    /// For each tap; those of a 3x3 stay in registers.
    weights: [[int8x16_t; SIZE]; SIZE],
    /// Distance between two pixels.
    pitch: usize,
    channels: ChannelBlock<'a, CHANNEL_BLOCK>,
    clamp: ClampRegisters,
}

impl<'a, const SIZE: usize> DepthwiseBlock<'a, SIZE> {
    /// # Safety
    /// The CPU must have `neon`.
    #[inline(always)]
    unsafe fn load(op: &'a Depthwise, channel: usize, clamp: ClampRegisters) -> Self {
        // SAFETY: the caller's promise.
        let weights = unsafe { block_weights::<i8, SIZE>(&op.weights, channel / CHANNEL_BLOCK) };
        Self { weights, pitch: op.padded_channels, channels: op.channels.at(channel), clamp }
    }

    /// `count` pairs of neighbouring outputs, the first one at `taps`, written to `target` and on.
    ///
    /// # Safety
    /// Sixteen channels of all their taps must exist, and places for them, `channels` apart, at `target`.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn pairs<const STRIDE: usize>(
        &self,
        taps: Taps<i8, SIZE>,
        target: *mut i8,
        channels: usize,
        count: usize,
    ) {
        let mut taps = taps;
        let mut target = target;
        for _ in 0..count {
            // SAFETY: the caller's promise.
            unsafe {
                let [first, second] = self.pixels::<STRIDE, 2>(taps);
                vst1q_s8(target, first);
                vst1q_s8(target.wrapping_add(channels), second);
            }
            target = target.wrapping_add(2 * channels);
            taps = taps.skip(2 * STRIDE * self.pitch);
        }
    }

    /// `PIXELS` neighbouring outputs, the first one at `taps`.
    ///
    /// # Safety
    /// Sixteen channels of all their taps must exist.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn pixels<const STRIDE: usize, const PIXELS: usize>(
        &self,
        taps: Taps<i8, SIZE>,
    ) -> [int8x16_t; PIXELS] {
        let mut acc = [self.bias(); PIXELS];
        // Written out, because loops of this length are not unrolled.
        macro_rules! taps {
            ($($pair:literal)*) => {$(
                if 2 * $pair + 1 < SIZE * SIZE {
                    // SAFETY: the caller's promise.
                    unsafe { self.two_taps::<STRIDE, PIXELS>(taps, [2 * $pair, 2 * $pair + 1], &mut acc) };
                } else if 2 * $pair < SIZE * SIZE {
                    for pixel in 0..PIXELS {
                        // SAFETY: the caller's promise.
                        let value = unsafe { self.tap::<STRIDE>(taps, 2 * $pair, pixel) };
                        accumulate(&mut acc[pixel], multiply(value, self.weights[SIZE - 1][SIZE - 1]));
                    }
                }
            )*};
        }
        taps!(0 1 2 3 4 5 6 7 8 9 10 11 12);
        let mut results = [vdupq_n_s8(0); PIXELS];
        for pixel in 0..PIXELS {
            results[pixel] = self.finish(acc[pixel]);
        }
        results
    }

    /// Adds the products of two taps.
    ///
    /// # Safety
    /// Sixteen channels of them must exist.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn two_taps<const STRIDE: usize, const PIXELS: usize>(
        &self,
        taps: Taps<i8, SIZE>,
        pair: [usize; 2],
        acc: &mut [[int32x4_t; 4]; PIXELS],
    ) {
        let weights = pair.map(|tap| self.weights[tap / SIZE][tap % SIZE]);
        for pixel in 0..PIXELS {
            // SAFETY: the caller's promise.
            let values = unsafe {
                [self.tap::<STRIDE>(taps, pair[0], pixel), self.tap::<STRIDE>(taps, pair[1], pixel)]
            };
            accumulate(&mut acc[pixel], multiply_pair(values, weights));
        }
    }

    /// The values of one tap of one pixel.
    ///
    /// # Safety
    /// They must exist.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn tap<const STRIDE: usize>(&self, taps: Taps<i8, SIZE>, tap: usize, pixel: usize) -> int8x16_t {
        // SAFETY: the caller's promise.
        unsafe { load_at(taps.rows[tap / SIZE], (pixel * STRIDE + tap % SIZE) * self.pitch) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn quad(&self, quad: usize) -> ChannelBlock<'_, 4> {
        super::neon_wide::quads(self.channels, quad)
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn bias(&self) -> [int32x4_t; 4] {
        let load = |quad: usize| load_i32x4(self.quad(quad).bias);
        [load(0), load(1), load(2), load(3)]
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn finish(&self, acc: [int32x4_t; 4]) -> int8x16_t {
        let q = |quad: usize| Requantise::load(self.quad(quad)).apply(acc[quad]);
        self.clamp.apply([vcombine_s16(q(0), q(1)), vcombine_s16(q(2), q(3))])
    }
}

/// `count` pairs of outputs in each of `blocks` blocks of channels, from the first pixel and channel on.
///
/// # Safety
/// `taps` must be those of as many outputs, and `output` have them; there must be so many whole blocks, at least one,
/// and at least one pair.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn pairs_of_three_by_three<const STRIDE: usize>(
    op: &Depthwise,
    taps: Taps<i8, 3>,
    clamp: ClampRegisters,
    output: &mut [i8],
    blocks: usize,
    count: usize,
) {
    assert!(
        op.weights.len() >= 9 * CHANNEL_BLOCK * blocks
            && op.channels.left_shift.len() >= CHANNEL_BLOCK * blocks
    );
    let target = output.as_mut_ptr();
    // SAFETY: for each block, 144 weights and 16 constants of three arrays are read, whose lengths are checked above
    // (the three are equally long). Each round reads sixteen channels of four (stride 2: five) columns of three rows,
    // which lie under the two outputs, and writes sixteen channels of these; the caller promises that they exist.
    unsafe {
        if STRIDE == 1 {
            three_by_three!(
                op, taps, target, blocks, count, STRIDE, clamp;
                first: "13", "14"; "/* {o4} */"; second: "17"; "18", "19"; "";
                third: "13", "14", "15"; ""
            );
        } else {
            three_by_three!(
                op, taps, target, blocks, count, STRIDE, clamp;
                first: "14", "15"; "ldr q15, [{a}, {o4}]"; second: "18"; "19", "12"; "ldr q12, [{b}, {o4}]";
                third: "14", "15", "16"; "ldr q16, [{c}, {o4}]"
            );
        }
    }
}

/// Sixteen products.
#[inline]
#[target_feature(enable = "neon")]
fn multiply(value: int8x16_t, weight: int8x16_t) -> [int16x8_t; 2] {
    let high;
    // SAFETY: the instruction touches registers only. (As an intrinsic it is split into two.)
    unsafe {
        asm!(
            "smull2 {high:v}.8h, {value:v}.16b, {weight:v}.16b",
            high = lateout(vreg) high,
            value = in(vreg) value,
            weight = in(vreg) weight,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    [vmull_s8(vget_low_s8(value), vget_low_s8(weight)), high]
}

/// Sixteen sums of two products.
#[inline]
#[target_feature(enable = "neon")]
fn multiply_pair(values: [int8x16_t; 2], weights: [int8x16_t; 2]) -> [int16x8_t; 2] {
    let [low, mut high] = multiply(values[0], weights[0]);
    // SAFETY: as in `multiply`.
    unsafe {
        asm!(
            "smlal2 {high:v}.8h, {value:v}.16b, {weight:v}.16b",
            high = inout(vreg) high,
            value = in(vreg) values[1],
            weight = in(vreg) weights[1],
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    [vmlal_s8(low, vget_low_s8(values[1]), vget_low_s8(weights[1])), high]
}

#[inline]
#[target_feature(enable = "neon")]
fn accumulate(acc: &mut [int32x4_t; 4], products: [int16x8_t; 2]) {
    let [low, high] = products;
    *acc = [
        vaddw_s16(acc[0], vget_low_s16(low)),
        vaddw_high_s16(acc[1], low),
        vaddw_s16(acc[2], vget_low_s16(high)),
        vaddw_high_s16(acc[3], high),
    ];
}

/// One row of outputs.
#[target_feature(enable = "neon")]
pub(crate) fn float_depthwise_row(op: &FloatDepthwise, rows: &[&[f32]], output: &mut [f32]) {
    match (op.window.size, op.window.stride) {
        (3, 1) => float_sized::<3, 1, 2, 4>(op, rows, output),
        (3, _) => float_sized::<3, 2, 4, 9>(op, rows, output),
        (_, 1) => float_sized::<5, 1, 4, 8>(op, rows, output),
        _ => float_sized::<5, 2, 2, 7>(op, rows, output),
    }
}

/// The outputs that look at one column of a row, each at its own tap: the column's value times those weights.
macro_rules! column {
    ($row:literal, $offset:literal, $value:literal, $($acc:literal * $weight:literal),*) => {
        concat!(
            "ldr q", $value, ", [{", $row, "}", $offset, "]\n",
            $("fmla v", $acc, ".4s, v", $value, ".4s, v", $weight, ".4s\n",)*
        )
    };
}

/// Nine columns of a row under seven outputs, v16 to v22.
macro_rules! nine_columns {
    ($row:literal, $w0:literal, $w1:literal, $w2:literal) => {
        concat!(
            column!($row, "", "12", "16" * $w0),
            column!($row, ", {o1}", "13", "16" * $w1, "17" * $w0),
            column!($row, ", {o2}", "14", "16" * $w2, "17" * $w1, "18" * $w0),
            column!($row, ", {o3}", "15", "17" * $w2, "18" * $w1, "19" * $w0),
            column!($row, ", {o4}", "12", "18" * $w2, "19" * $w1, "20" * $w0),
            column!($row, ", {o5}", "13", "19" * $w2, "20" * $w1, "21" * $w0),
            column!($row, ", {o6}", "14", "20" * $w2, "21" * $w1, "22" * $w0),
            column!($row, ", {o7}", "15", "21" * $w2, "22" * $w1),
            column!($row, ", {o8}", "12", "22" * $w2),
            "add {",
            $row,
            "}, {",
            $row,
            "}, {step}\n",
        )
    };
}

/// A 3x3 of stride 1: `count` times seven outputs in each of `blocks` blocks of four channels, from the first pixel and
/// channel on. In assembly because the compiler turns every column into a pointer of its own.
///
/// # Safety
/// `taps` must be those of as many outputs, and `output` have them; there must be so many whole blocks, at least one,
/// and `count` at least 1.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn sevens_of_three_by_three(
    op: &FloatDepthwise,
    taps: Taps<f32, 3>,
    output: &mut [f32],
    blocks: usize,
    count: usize,
) {
    assert!(op.weights.len() >= 36 * blocks && op.bias.len() >= 4 * blocks);
    let offsets: [usize; 9] = offsets::<f32, 9>(op.padded_channels);
    let step = 7 * size_of::<f32>() * op.padded_channels;
    // SAFETY: for each block, 36 weights and 4 biases are read, of which there are as many. Each round reads four
    // channels of nine columns of three rows, which lie under seven outputs, and writes four channels of these; the
    // caller promises that they exist.
    unsafe {
        asm!(
            "2:",
            "ldp q0, q1, [{weights}], #32",
            "ldp q2, q3, [{weights}], #32",
            "ldp q4, q5, [{weights}], #32",
            "ldp q6, q7, [{weights}], #32",
            "ldr q8, [{weights}], #16",
            "ldr q9, [{bias}], #16",
            "mov {pixel}, {target}",
            "mov {left}, {count}",
            "3:",
            "mov v16.16b, v9.16b",
            "mov v17.16b, v9.16b",
            "mov v18.16b, v9.16b",
            "mov v19.16b, v9.16b",
            "mov v20.16b, v9.16b",
            "mov v21.16b, v9.16b",
            "mov v22.16b, v9.16b",
            nine_columns!("a", "0", "1", "2"),
            nine_columns!("b", "3", "4", "5"),
            nine_columns!("c", "6", "7", "8"),
            "fmaxnm v16.4s, v16.4s, v10.4s",
            "fmaxnm v17.4s, v17.4s, v10.4s",
            "fmaxnm v18.4s, v18.4s, v10.4s",
            "fmaxnm v19.4s, v19.4s, v10.4s",
            "fmaxnm v20.4s, v20.4s, v10.4s",
            "fmaxnm v21.4s, v21.4s, v10.4s",
            "fmaxnm v22.4s, v22.4s, v10.4s",
            "fminnm v16.4s, v16.4s, v11.4s",
            "fminnm v17.4s, v17.4s, v11.4s",
            "fminnm v18.4s, v18.4s, v11.4s",
            "fminnm v19.4s, v19.4s, v11.4s",
            "fminnm v20.4s, v20.4s, v11.4s",
            "fminnm v21.4s, v21.4s, v11.4s",
            "fminnm v22.4s, v22.4s, v11.4s",
            "st1 {{v16.4s}}, [{pixel}], {channels}",
            "st1 {{v17.4s}}, [{pixel}], {channels}",
            "st1 {{v18.4s}}, [{pixel}], {channels}",
            "st1 {{v19.4s}}, [{pixel}], {channels}",
            "st1 {{v20.4s}}, [{pixel}], {channels}",
            "st1 {{v21.4s}}, [{pixel}], {channels}",
            "st1 {{v22.4s}}, [{pixel}], {channels}",
            "subs {left}, {left}, #1",
            "b.ne 3b",
            "add {a}, {a}, {back}",
            "add {b}, {b}, {back}",
            "add {c}, {c}, {back}",
            "add {target}, {target}, #16",
            "subs {blocks}, {blocks}, #1",
            "b.ne 2b",
            a = inout(reg) taps.rows[0] => _,
            b = inout(reg) taps.rows[1] => _,
            c = inout(reg) taps.rows[2] => _,
            o1 = in(reg) offsets[1],
            o2 = in(reg) offsets[2],
            o3 = in(reg) offsets[3],
            o4 = in(reg) offsets[4],
            o5 = in(reg) offsets[5],
            o6 = in(reg) offsets[6],
            o7 = in(reg) offsets[7],
            o8 = in(reg) offsets[8],
            step = in(reg) step,
            // From behind the last seven pixels to the first ones of the next block.
            back = in(reg) 16usize.wrapping_sub(count * step),
            weights = inout(reg) op.weights.as_ptr() => _,
            bias = inout(reg) op.bias.as_ptr() => _,
            target = inout(reg) output.as_mut_ptr() => _,
            pixel = out(reg) _,
            left = out(reg) _,
            channels = in(reg) size_of::<f32>() * op.window.channels,
            count = in(reg) count,
            blocks = inout(reg) blocks => _,
            in("v10") vdupq_n_f32(op.low), in("v11") vdupq_n_f32(op.high),
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _, out("v9") _, out("v12") _, out("v13") _, out("v14") _, out("v15") _,
            out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _, out("v21") _, out("v22") _,
            options(nostack),
        );
    }
}

/// `PIXELS` outputs at once, which look at `COLUMNS` columns.
#[inline(never)]
#[target_feature(enable = "neon")]
fn float_sized<const SIZE: usize, const STRIDE: usize, const PIXELS: usize, const COLUMNS: usize>(
    op: &FloatDepthwise,
    rows: &[&[f32]],
    output: &mut [f32],
) {
    let channels = op.window.channels;
    let pixels = output.len() / channels;
    assert_eq!(output.len(), pixels * channels);
    let pitch = op.padded_channels;
    let taps = Taps::<f32, SIZE>::new(rows, pitch, STRIDE, pixels);
    let offsets = offsets::<f32, COLUMNS>(pitch);
    let (blocks, sevens) = (channels / 4, pixels / 7);
    let mut done = 0;
    if let (3, 1, Some(rows)) = (SIZE, STRIDE, taps.rows.first_chunk())
        && blocks > 0
        && sevens > 0
    {
        // SAFETY: the taps and the output are those of all pixels.
        unsafe { sevens_of_three_by_three(op, Taps { rows: *rows }, output, blocks, sevens) };
        done = 7 * sevens;
        if done == pixels && channels.is_multiple_of(4) {
            return;
        }
    }
    for channel in (0..channels).step_by(4) {
        // SAFETY: this function requires `neon`.
        let block = unsafe { FloatBlock::<SIZE>::load(op, channel) };
        let mut taps = taps.skip(channel);
        if channels - channel < 4 {
            for pixel in 0..pixels {
                // SAFETY: the pixel exists and so does the block of four channels, to which rows are padded.
                let [result] = unsafe { block.pixels::<STRIDE, 1, SIZE>(taps, offsets.first_chunk()) };
                let mut values = [0.0; 4];
                // SAFETY: `values` has the 4 values written.
                unsafe { vst1q_f32(values.as_mut_ptr(), result) };
                let results = &mut output[pixel * channels..][..channels][channel..];
                results.copy_from_slice(&values[..results.len()]);
                taps = taps.skip(STRIDE * pitch);
            }
            continue;
        }
        if done == pixels {
            continue;
        }
        let mut target = output[done * channels..][channel..].as_mut_ptr();
        taps = taps.skip(done * STRIDE * pitch);
        for _ in 0..(pixels - done) / PIXELS {
            // SAFETY: as above, for all these pixels, which have these four channels in the output too.
            unsafe {
                for result in block.pixels::<STRIDE, PIXELS, COLUMNS>(taps, Some(&offsets)) {
                    vst1q_f32(target, result);
                    target = target.wrapping_add(channels);
                }
            }
            taps = taps.skip(PIXELS * STRIDE * pitch);
        }
        // One by one, out of line of the loop above, whose registers they would spill.
        for _ in 0..(pixels - done) % PIXELS {
            // SAFETY: as above, for one pixel.
            unsafe {
                let [result] = block.pixels::<STRIDE, 1, SIZE>(taps, offsets.first_chunk());
                vst1q_f32(target, result);
            }
            target = target.wrapping_add(channels);
            taps = taps.skip(STRIDE * pitch);
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_f32x4(values: &[f32; 4]) -> float32x4_t {
    // SAFETY: the reference covers the 16 bytes read.
    unsafe { vld1q_f32(values.as_ptr()) }
}

/// Four channels' constants, kept in registers along a row.
struct FloatBlock<const SIZE: usize> {
    /// The bits of four weights for each tap.
    weights: [[int8x16_t; SIZE]; SIZE],
    bias: float32x4_t,
    low: float32x4_t,
    high: float32x4_t,
}

impl<const SIZE: usize> FloatBlock<SIZE> {
    /// # Safety
    /// The CPU must have `neon`.
    #[inline(always)]
    unsafe fn load(op: &FloatDepthwise, channel: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            Self {
                weights: block_weights::<f32, SIZE>(&op.weights, channel / 4),
                bias: load_f32x4(array(&op.bias, channel)),
                low: vdupq_n_f32(op.low),
                high: vdupq_n_f32(op.high),
            }
        }
    }

    /// `PIXELS` neighbouring outputs, the first one at `taps`, with the offsets of their columns.
    ///
    /// # Safety
    /// Four channels of all their taps must exist.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn pixels<const STRIDE: usize, const PIXELS: usize, const COLUMNS: usize>(
        &self,
        taps: Taps<f32, SIZE>,
        offsets: Option<&[usize; COLUMNS]>,
    ) -> [float32x4_t; PIXELS] {
        let offsets = offsets.expect("as many as columns");
        let mut acc = [self.bias; PIXELS];
        for row in 0..SIZE {
            for column in 0..COLUMNS {
                // SAFETY: the caller's promise; these columns lie under the outputs.
                let value = vreinterpretq_f32_s8(unsafe { load_at(taps.rows[row], offsets[column]) });
                // The outputs that look at this column, each at its own tap; taps of a row follow in order.
                for pixel in 0..PIXELS {
                    if column >= pixel * STRIDE && column - pixel * STRIDE < SIZE {
                        let weight = vreinterpretq_f32_s8(self.weights[row][column - pixel * STRIDE]);
                        acc[pixel] = vfmaq_f32(acc[pixel], value, weight);
                    }
                }
            }
        }
        for acc in &mut acc {
            *acc = vminnmq_f32(vmaxnmq_f32(*acc, self.low), self.high);
        }
        acc
    }
}
