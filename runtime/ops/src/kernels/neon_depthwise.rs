//! Depthwise convolutions on NEON, int8 and f32, for all aarch64 families.
//!
//! int8: sixteen channels and up to two neighbouring pixels at a time. Products of two taps are added as i16 (they fit,
//! see [`super::neon`]), pairs as i32, starting from the bias. f32: four channels and up to four pixels.

#![allow(clippy::needless_range_loop, reason = "pixels and taps index several arrays at once")]

use std::arch::aarch64::{
    float32x4_t, int8x16_t, int16x8_t, int32x4_t, vaddw_high_s16, vaddw_s16, vcombine_s16, vdupq_n_f32,
    vdupq_n_s8, vfmaq_f32, vget_low_s8, vget_low_s16, vld1q_f32, vld1q_s8, vmaxnmq_f32, vminnmq_f32,
    vmlal_high_s8, vmlal_s8, vmull_high_s8, vmull_s8, vst1q_f32, vst1q_s8,
};

use super::{
    ChannelBlock, array,
    neon::{ClampRegisters, Requantise, bytes, load_i8x16, load_i32x4},
};
use crate::depthwise::{CHANNEL_BLOCK, Depthwise, FloatDepthwise};

/// Padded input rows and where to look in them.
#[derive(Clone, Copy)]
struct Taps<T, const SIZE: usize> {
    rows: [*const T; SIZE],
    /// Distance between two pixels.
    pitch: usize,
}

impl<T, const SIZE: usize> Taps<T, SIZE> {
    /// Checks once that `pixels` outputs of a stride can be computed: every tap of the last one exists.
    fn new(rows: &[&[T]], pitch: usize, stride: usize, pixels: usize) -> Self {
        let rows: [&[T]; SIZE] = std::array::from_fn(|row| rows[row]);
        let needed = ((pixels - 1) * stride + SIZE) * pitch;
        assert!(rows.iter().all(|row| row.len() >= needed), "padded rows of {needed} values");
        Self { rows: rows.map(<[T]>::as_ptr), pitch }
    }

    /// From this pixel and channel on.
    ///
    /// # Safety
    /// The pixel must lie under an output given to [`Self::new`], or one pixel behind, and `channel` below the pitch.
    #[inline(always)]
    unsafe fn at(&self, pixel: usize, channel: usize) -> Self {
        // SAFETY: the caller's promise, and the length that `new` has checked.
        Self {
            rows: self.rows.map(|row| unsafe { row.add(pixel * self.pitch + channel) }),
            pitch: self.pitch,
        }
    }

    /// The tap of a row and a column.
    ///
    /// # Safety
    /// The column must lie under an output given to [`Self::new`].
    #[inline(always)]
    unsafe fn tap(&self, row: usize, column: usize) -> *const T {
        // SAFETY: the caller's promise.
        unsafe { self.rows[row].add(column * self.pitch) }
    }
}

/// One row of outputs.
#[target_feature(enable = "neon")]
pub(crate) fn depthwise_row(op: &Depthwise, rows: &[&[i8]], output: &mut [i8]) {
    match (op.window.size, op.window.stride) {
        (3, 1) => depthwise_sized::<3, 1, 4>(op, rows, output),
        (3, _) => depthwise_sized::<3, 2, 5>(op, rows, output),
        (_, 1) => depthwise_sized::<5, 1, 6>(op, rows, output),
        _ => depthwise_sized::<5, 2, 7>(op, rows, output),
    }
}

/// Two outputs look at `COLUMNS` columns.
#[target_feature(enable = "neon")]
fn depthwise_sized<const SIZE: usize, const STRIDE: usize, const COLUMNS: usize>(
    op: &Depthwise,
    rows: &[&[i8]],
    output: &mut [i8],
) {
    let channels = op.window.channels;
    let pixels = output.len() / channels;
    assert_eq!(output.len(), pixels * channels);
    let taps = Taps::<i8, SIZE>::new(rows, op.padded_channels, STRIDE, pixels);
    let clamp = ClampRegisters::new(op.clamp);
    for channel in (0..channels).step_by(CHANNEL_BLOCK) {
        let block = DepthwiseBlock::<SIZE>::load(op, channel, clamp);
        let left = channels - channel;
        let mut pixel = 0;
        while pixel + 2 <= pixels {
            // SAFETY: both pixels exist and so does the block of sixteen channels, to which rows are padded.
            let results = unsafe { block.pixels::<STRIDE, 2, COLUMNS>(&taps.at(pixel * STRIDE, channel)) };
            for (index, result) in results.into_iter().enumerate() {
                // SAFETY: the pixel's `left` channels from `channel` on.
                unsafe { store(output, (pixel + index) * channels + channel, left, result) };
            }
            pixel += 2;
        }
        if pixel < pixels {
            // SAFETY: as above.
            let [result] = unsafe { block.pixels::<STRIDE, 1, SIZE>(&taps.at(pixel * STRIDE, channel)) };
            // SAFETY: as above.
            unsafe { store(output, pixel * channels + channel, left, result) };
        }
    }
}

/// Writes sixteen channels, or as many as are left.
///
/// # Safety
/// `output` must have `left` values from `offset` on.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store(output: &mut [i8], offset: usize, left: usize, results: int8x16_t) {
    if left >= CHANNEL_BLOCK {
        debug_assert!(offset + CHANNEL_BLOCK <= output.len());
        // SAFETY: the caller's promise.
        unsafe { vst1q_s8(output.as_mut_ptr().add(offset), results) };
    } else {
        output[offset..][..left].copy_from_slice(&bytes(results)[..left]);
    }
}

/// Sixteen channels' constants along a row.
struct DepthwiseBlock<'a, const SIZE: usize> {
    /// For each tap; those of a 3x3 stay in registers.
    weights: [[int8x16_t; SIZE]; SIZE],
    channels: ChannelBlock<'a, CHANNEL_BLOCK>,
    clamp: ClampRegisters,
}

impl<'a, const SIZE: usize> DepthwiseBlock<'a, SIZE> {
    #[inline]
    #[target_feature(enable = "neon")]
    fn load(op: &'a Depthwise, channel: usize, clamp: ClampRegisters) -> Self {
        let mut weights = [[vdupq_n_s8(0); SIZE]; SIZE];
        for row in 0..SIZE {
            for column in 0..SIZE {
                let first = (row * SIZE + column) * op.padded_channels + channel;
                weights[row][column] = load_i8x16(array(&op.weights, first));
            }
        }
        Self { weights, channels: op.channels.at(channel), clamp }
    }

    /// `PIXELS` neighbouring outputs, the first one at `taps`.
    ///
    /// # Safety
    /// Sixteen channels of all their taps must exist.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn pixels<const STRIDE: usize, const PIXELS: usize, const COLUMNS: usize>(
        &self,
        taps: &Taps<i8, SIZE>,
    ) -> [int8x16_t; PIXELS] {
        let mut acc = [self.bias(); PIXELS];
        // The value and weight of an even tap wait for those of the next one.
        let mut waiting = [vdupq_n_s8(0); PIXELS];
        for row in 0..SIZE {
            let mut columns = [vdupq_n_s8(0); COLUMNS];
            for column in 0..COLUMNS {
                // SAFETY: the caller's promise; these columns lie under the outputs.
                columns[column] = unsafe { vld1q_s8(taps.tap(row, column)) };
            }
            for column in 0..SIZE {
                let tap = row * SIZE + column;
                for pixel in 0..PIXELS {
                    let value = columns[pixel * STRIDE + column];
                    let weight = self.weights[row][column];
                    if tap % 2 == 1 {
                        let before = self.weights[(tap - 1) / SIZE][(tap - 1) % SIZE];
                        accumulate(&mut acc[pixel], multiply_pair([waiting[pixel], value], [before, weight]));
                    } else if tap == SIZE * SIZE - 1 {
                        accumulate(&mut acc[pixel], multiply(value, weight));
                    } else {
                        waiting[pixel] = value;
                    }
                }
            }
        }
        let mut results = waiting;
        for pixel in 0..PIXELS {
            results[pixel] = self.finish(acc[pixel]);
        }
        results
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

/// Sixteen products.
#[inline]
#[target_feature(enable = "neon")]
fn multiply(value: int8x16_t, weight: int8x16_t) -> [int16x8_t; 2] {
    [vmull_s8(vget_low_s8(value), vget_low_s8(weight)), vmull_high_s8(value, weight)]
}

/// Sixteen sums of two products.
#[inline]
#[target_feature(enable = "neon")]
fn multiply_pair(values: [int8x16_t; 2], weights: [int8x16_t; 2]) -> [int16x8_t; 2] {
    let [low, high] = multiply(values[0], weights[0]);
    [
        vmlal_s8(low, vget_low_s8(values[1]), vget_low_s8(weights[1])),
        vmlal_high_s8(high, values[1], weights[1]),
    ]
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
        (3, 1) => float_sized::<3, 1, 4, 6>(op, rows, output),
        (3, _) => float_sized::<3, 2, 4, 9>(op, rows, output),
        (_, 1) => float_sized::<5, 1, 4, 8>(op, rows, output),
        _ => float_sized::<5, 2, 2, 7>(op, rows, output),
    }
}

/// `PIXELS` outputs at once, which look at `COLUMNS` columns.
#[target_feature(enable = "neon")]
fn float_sized<const SIZE: usize, const STRIDE: usize, const PIXELS: usize, const COLUMNS: usize>(
    op: &FloatDepthwise,
    rows: &[&[f32]],
    output: &mut [f32],
) {
    let channels = op.window.channels;
    let pixels = output.len() / channels;
    assert_eq!(output.len(), pixels * channels);
    let taps = Taps::<f32, SIZE>::new(rows, op.padded_channels, STRIDE, pixels);
    for channel in (0..channels).step_by(4) {
        let block = FloatBlock::<SIZE>::load(op, channel);
        let left = channels - channel;
        let mut pixel = 0;
        while pixel + PIXELS <= pixels {
            // SAFETY: all pixels exist and so does the block of four channels, to which rows are padded.
            let results =
                unsafe { block.pixels::<STRIDE, PIXELS, COLUMNS>(&taps.at(pixel * STRIDE, channel)) };
            for (index, result) in results.into_iter().enumerate() {
                // SAFETY: the pixel's `left` channels from `channel` on.
                unsafe { store_four(output, (pixel + index) * channels + channel, left, result) };
            }
            pixel += PIXELS;
        }
        while pixel < pixels {
            // SAFETY: as above.
            let [result] = unsafe { block.pixels::<STRIDE, 1, SIZE>(&taps.at(pixel * STRIDE, channel)) };
            // SAFETY: as above.
            unsafe { store_four(output, pixel * channels + channel, left, result) };
            pixel += 1;
        }
    }
}

/// Writes four channels, or as many as are left.
///
/// # Safety
/// `output` must have `left` values from `offset` on.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store_four(output: &mut [f32], offset: usize, left: usize, results: float32x4_t) {
    if left >= 4 {
        debug_assert!(offset + 4 <= output.len());
        // SAFETY: the caller's promise.
        unsafe { vst1q_f32(output.as_mut_ptr().add(offset), results) };
    } else {
        let mut values = [0.0; 4];
        // SAFETY: `values` has the 4 values written.
        unsafe { vst1q_f32(values.as_mut_ptr(), results) };
        output[offset..][..left].copy_from_slice(&values[..left]);
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
    weights: [[float32x4_t; SIZE]; SIZE],
    bias: float32x4_t,
    low: float32x4_t,
    high: float32x4_t,
}

impl<const SIZE: usize> FloatBlock<SIZE> {
    #[inline]
    #[target_feature(enable = "neon")]
    fn load(op: &FloatDepthwise, channel: usize) -> Self {
        let mut weights = [[vdupq_n_f32(0.0); SIZE]; SIZE];
        for row in 0..SIZE {
            for column in 0..SIZE {
                let first = (row * SIZE + column) * op.padded_channels + channel;
                weights[row][column] = load_f32x4(array(&op.weights, first));
            }
        }
        Self {
            weights,
            bias: load_f32x4(array(&op.bias, channel)),
            low: vdupq_n_f32(op.low),
            high: vdupq_n_f32(op.high),
        }
    }

    /// `PIXELS` neighbouring outputs, the first one at `taps`.
    ///
    /// # Safety
    /// Four channels of all their taps must exist.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn pixels<const STRIDE: usize, const PIXELS: usize, const COLUMNS: usize>(
        &self,
        taps: &Taps<f32, SIZE>,
    ) -> [float32x4_t; PIXELS] {
        let mut acc = [self.bias; PIXELS];
        for row in 0..SIZE {
            for column in 0..COLUMNS {
                // SAFETY: the caller's promise; these columns lie under the outputs.
                let value = unsafe { vld1q_f32(taps.tap(row, column)) };
                // The outputs that look at this column, each at its own tap; taps of a row follow in order.
                for pixel in 0..PIXELS {
                    if column >= pixel * STRIDE && column - pixel * STRIDE < SIZE {
                        acc[pixel] = vfmaq_f32(acc[pixel], value, self.weights[row][column - pixel * STRIDE]);
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
