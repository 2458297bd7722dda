//! Baseline NEON: SMULL, SMLAL2 and SADALP, 16 products in three instructions (Cortex-A53, A57, A72).
//!
//! Weights never are -128, so two products of one i16 lane stay within 2 * 127 * 128 = 32512 and cannot overflow.

#![allow(clippy::needless_range_loop, reason = "rows and channels index several arrays at once")]

use std::arch::aarch64::{
    float32x4_t, int8x8_t, int8x16_t, int16x4_t, int16x8_t, int32x4_t, vaddq_s32, vaddw_high_s16, vaddw_s16,
    vcombine_s8, vcombine_s16, vdup_n_s8, vdupq_n_f32, vdupq_n_s8, vdupq_n_s16, vdupq_n_s32, vfmaq_f32,
    vget_low_s8, vget_low_s16, vld1_s8, vld1q_f32, vld1q_s8, vld1q_s32, vmaxnmq_f32, vmaxq_s8, vminnmq_f32,
    vminq_s8, vmlal_high_s8, vmlal_s8, vmull_s8, vnegq_s32, vpadalq_s16, vpaddq_s32, vqaddq_s16,
    vqdmulhq_s32, vqmovn_s16, vqmovn_s32, vrshlq_s32, vst1_s8, vst1q_f32, vst1q_s8,
};

use super::{ChannelBlock, Rows, array};
use crate::{
    depthwise::{Depthwise, FloatDepthwise},
    linear::Linear,
    semantics::Clamp,
};

/// Rows and channels of a GEMM block.
const ROWS: usize = 4;
const PANEL: usize = 4;

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

#[inline]
#[target_feature(enable = "neon")]
pub(super) fn load_rows<const R: usize>(values: [&[i8; 16]; R]) -> [int8x16_t; R] {
    let mut registers = [vdupq_n_s8(0); R];
    for (register, values) in registers.iter_mut().zip(values) {
        *register = load_i8x16(values);
    }
    registers
}

#[inline]
#[target_feature(enable = "neon")]
fn load_f32x4(values: &[f32; 4]) -> float32x4_t {
    // SAFETY: the reference covers the 16 bytes read.
    unsafe { vld1q_f32(values.as_ptr()) }
}

/// Requantisation constants of four channels, in registers.
#[derive(Clone, Copy)]
pub(super) struct Requantise {
    bias: int32x4_t,
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
    /// i16 saturates far outside i8.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn apply(self, sum: int32x4_t) -> int16x4_t {
        self.apply_biased(vaddq_s32(sum, self.bias))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn apply_biased(self, acc: int32x4_t) -> int16x4_t {
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

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn apply_half(self, q: int16x8_t) -> int8x8_t {
        let q = vqmovn_s16(vqaddq_s16(q, self.zero_point));
        vget_low_s8(vminq_s8(vmaxq_s8(vcombine_s8(q, q), self.low), self.high))
    }
}

/// Writes the first values of `results` that still belong to the row at `offset`.
#[inline(always)]
pub(super) fn store_block<const N: usize>(output: &mut [i8], offset: usize, left: usize, results: &[i8]) {
    if left >= N {
        output[offset..][..N].copy_from_slice(&results[..N]);
    } else {
        output[offset..][..left].copy_from_slice(&results[..left]);
    }
}

/// Weights are [outputs / 4][inputs / 16][4][16].
#[target_feature(enable = "neon")]
pub(crate) fn linear(op: &Linear, input: &[i8], output: &mut [i8]) {
    let whole = input.len() / (ROWS * op.inputs);
    let (input, rest) = input.split_at(whole * ROWS * op.inputs);
    let (output, rest_output) = output.split_at_mut(whole * ROWS * op.outputs);
    for (rows, results) in
        input.chunks_exact(ROWS * op.inputs).zip(output.chunks_exact_mut(ROWS * op.outputs))
    {
        linear_rows::<ROWS>(op, rows, results);
    }
    for (row, results) in rest.chunks_exact(op.inputs).zip(rest_output.chunks_exact_mut(op.outputs)) {
        linear_rows::<1>(op, row, results);
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn linear_rows<const R: usize>(op: &Linear, input: &[i8], output: &mut [i8]) {
    let rows = Rows::<R, 16>::new(input, op.inputs);
    let clamp = ClampRegisters::new(op.clamp);
    let panel_len = PANEL * op.inputs.next_multiple_of(16);
    for (panel, weights) in op.weights.chunks_exact(panel_len).enumerate() {
        let first = panel * PANEL;
        let sums = panel_sums(&rows, weights.as_chunks().0);
        let requantise = Requantise::load(op.channels.at(first));
        let mut q = [vdupq_n_s16(0); 2];
        for pair in 0..R.div_ceil(2) {
            let high = if 2 * pair + 1 < R { sums[2 * pair + 1] } else { sums[2 * pair] };
            q[pair] = vcombine_s16(requantise.apply(sums[2 * pair]), requantise.apply(high));
        }
        let mut results = [0; 16];
        // SAFETY: `results` has the 16 bytes written.
        unsafe { vst1q_s8(results.as_mut_ptr(), clamp.apply(q)) };
        for row in 0..R {
            let left = op.outputs - first;
            store_block::<PANEL>(output, row * op.outputs + first, left, &results[row * PANEL..][..PANEL]);
        }
    }
}

/// The sums of a panel's four channels, for each row.
#[inline]
#[target_feature(enable = "neon")]
fn panel_sums<const R: usize>(rows: &Rows<'_, R, 16>, weights: &[[i8; 64]]) -> [int32x4_t; R] {
    let mut acc = [[vdupq_n_s32(0); PANEL]; R];
    let whole = rows.steps[0].len();
    let (body, last) = weights.split_at(whole);
    for (index, weights) in body.iter().enumerate() {
        dot_step(&mut acc, rows.step(index), weights);
    }
    if let (Some(tail), Some(weights)) = (&rows.tail, last.first()) {
        dot_step(&mut acc, tail.each_ref(), weights);
    }
    acc.map(|acc| vpaddq_s32(vpaddq_s32(acc[0], acc[1]), vpaddq_s32(acc[2], acc[3])))
}

/// Sixteen inputs of each row times four channels.
#[inline]
#[target_feature(enable = "neon")]
fn dot_step<const R: usize>(acc: &mut [[int32x4_t; PANEL]; R], values: [&[i8; 16]; R], weights: &[i8; 64]) {
    let values = load_rows(values);
    for channel in 0..PANEL {
        let weight = load_i8x16(array(weights, channel * 16));
        for row in 0..R {
            let products = vmull_s8(vget_low_s8(values[row]), vget_low_s8(weight));
            let products = vmlal_high_s8(products, values[row], weight);
            acc[row][channel] = vpadalq_s16(acc[row][channel], products);
        }
    }
}

/// Padded input rows and where to look in them.
#[derive(Clone, Copy)]
struct Taps<'a, T, const SIZE: usize> {
    rows: [&'a [T]; SIZE],
    /// Distance between two pixels.
    pitch: usize,
}

impl<'a, T, const SIZE: usize> Taps<'a, T, SIZE> {
    /// Checks once that `pixels` outputs of a stride can be computed: every tap of the last one exists.
    fn new(rows: &[&'a [T]], pitch: usize, stride: usize, pixels: usize) -> Self {
        let rows: [&[T]; SIZE] = std::array::from_fn(|row| rows[row]);
        let needed = ((pixels - 1) * stride + SIZE) * pitch;
        assert!(rows.iter().all(|row| row.len() >= needed), "padded rows of {needed} values");
        Self { rows, pitch }
    }

    /// # Safety
    /// The pixel must lie under an output given to [`Self::new`], and `channel` below the pitch.
    #[inline(always)]
    unsafe fn at(&self, row: usize, pixel: usize, channel: usize) -> *const T {
        // SAFETY: the caller's promise, and the length that `new` has checked.
        unsafe { self.rows[row].as_ptr().add(pixel * self.pitch + channel) }
    }
}

/// One row of outputs.
#[target_feature(enable = "neon")]
pub(crate) fn depthwise_row(op: &Depthwise, rows: &[&[i8]], output: &mut [i8]) {
    match (op.window.size, op.window.stride) {
        (3, 1) => depthwise_sized::<3, 1, 4, 6>(op, rows, output),
        (3, _) => depthwise_sized::<3, 2, 2, 5>(op, rows, output),
        (_, 1) => depthwise_sized::<5, 1, 2, 6>(op, rows, output),
        _ => depthwise_sized::<5, 2, 1, 5>(op, rows, output),
    }
}

/// `PIXELS` outputs at once, which look at `COLUMNS` columns.
#[target_feature(enable = "neon")]
fn depthwise_sized<const SIZE: usize, const STRIDE: usize, const PIXELS: usize, const COLUMNS: usize>(
    op: &Depthwise,
    rows: &[&[i8]],
    output: &mut [i8],
) {
    let pixels = output.len() / op.window.channels;
    let taps = Taps::<i8, SIZE>::new(rows, op.padded_channels, STRIDE, pixels);
    assert_eq!(op.weights.len(), SIZE * SIZE * op.padded_channels);
    for channel in (0..op.window.channels).step_by(8) {
        let block = DepthwiseBlock::<SIZE>::load(op, channel);
        let left = op.window.channels - channel;
        let mut pixel = 0;
        while pixel + PIXELS <= pixels {
            // SAFETY: all pixels exist and so does the block of eight channels: channels are padded to 16.
            let results = unsafe { block.pixels::<STRIDE, PIXELS, COLUMNS>(&taps, pixel, channel) };
            for (index, result) in results.into_iter().enumerate() {
                store_eight(output, (pixel + index) * op.window.channels + channel, left, result);
            }
            pixel += PIXELS;
        }
        while pixel < pixels {
            // SAFETY: as above.
            let [result] = unsafe { block.pixels::<STRIDE, 1, SIZE>(&taps, pixel, channel) };
            store_eight(output, pixel * op.window.channels + channel, left, result);
            pixel += 1;
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn store_eight(output: &mut [i8], offset: usize, left: usize, results: int8x8_t) {
    let mut bytes = [0; 8];
    // SAFETY: `bytes` has the 8 bytes written.
    unsafe { vst1_s8(bytes.as_mut_ptr(), results) };
    store_block::<8>(output, offset, left, &bytes);
}

/// Eight channels' constants, kept in registers along a row.
struct DepthwiseBlock<const SIZE: usize> {
    weights: [[int8x8_t; SIZE]; SIZE],
    requantise: [Requantise; 2],
    clamp: ClampRegisters,
}

impl<const SIZE: usize> DepthwiseBlock<SIZE> {
    #[inline]
    #[target_feature(enable = "neon")]
    fn load(op: &Depthwise, channel: usize) -> Self {
        let mut weights = [[vdup_n_s8(0); SIZE]; SIZE];
        for (row, weights) in weights.iter_mut().enumerate() {
            for (column, weight) in weights.iter_mut().enumerate() {
                let first = (row * SIZE + column) * op.padded_channels + channel;
                let values: &[i8; 8] = array(&op.weights, first);
                // SAFETY: the reference covers the 8 bytes read.
                *weight = unsafe { vld1_s8(values.as_ptr()) };
            }
        }
        Self {
            weights,
            requantise: [
                Requantise::load(op.channels.at(channel)),
                Requantise::load(op.channels.at(channel + 4)),
            ],
            clamp: ClampRegisters::new(op.clamp),
        }
    }

    /// # Safety
    /// As [`Taps::at`], for `PIXELS` outputs from `pixel` on and eight channels from `channel` on.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn pixels<const STRIDE: usize, const PIXELS: usize, const COLUMNS: usize>(
        &self,
        taps: &Taps<'_, i8, SIZE>,
        pixel: usize,
        channel: usize,
    ) -> [int8x8_t; PIXELS] {
        let mut columns = [[vdup_n_s8(0); COLUMNS]; SIZE];
        for (row, columns) in columns.iter_mut().enumerate() {
            for (column, value) in columns.iter_mut().enumerate() {
                // SAFETY: the caller's promise; these columns lie under the outputs.
                *value = unsafe { vld1_s8(taps.at(row, pixel * STRIDE + column, channel)) };
            }
        }
        let mut results = [vdup_n_s8(0); PIXELS];
        for (index, result) in results.iter_mut().enumerate() {
            *result = self.finish::<STRIDE, COLUMNS>(&columns, index);
        }
        results
    }

    /// One output: products of two taps are added as i16, the pairs as i32.
    #[inline]
    #[target_feature(enable = "neon")]
    fn finish<const STRIDE: usize, const COLUMNS: usize>(
        &self,
        columns: &[[int8x8_t; COLUMNS]; SIZE],
        index: usize,
    ) -> int8x8_t {
        let [low, high] = self.requantise;
        let mut acc = [low.bias, high.bias];
        for pair in 0..SIZE * SIZE / 2 {
            let [a, b] = [2 * pair, 2 * pair + 1];
            let products =
                vmull_s8(columns[a / SIZE][index * STRIDE + a % SIZE], self.weights[a / SIZE][a % SIZE]);
            let value = columns[b / SIZE][index * STRIDE + b % SIZE];
            let products = vmlal_s8(products, value, self.weights[b / SIZE][b % SIZE]);
            acc = [vaddw_s16(acc[0], vget_low_s16(products)), vaddw_high_s16(acc[1], products)];
        }
        // The number of taps is odd.
        let last = columns[SIZE - 1][index * STRIDE + SIZE - 1];
        let products = vmull_s8(last, self.weights[SIZE - 1][SIZE - 1]);
        acc = [vaddw_s16(acc[0], vget_low_s16(products)), vaddw_high_s16(acc[1], products)];
        self.clamp.apply_half(vcombine_s16(low.apply_biased(acc[0]), high.apply_biased(acc[1])))
    }
}

/// One row of outputs.
#[target_feature(enable = "neon")]
pub(crate) fn float_depthwise_row(op: &FloatDepthwise, rows: &[&[f32]], output: &mut [f32]) {
    match (op.window.size, op.window.stride) {
        (3, 1) => float_sized::<3, 1, 4, 6>(op, rows, output),
        (3, _) => float_sized::<3, 2, 2, 5>(op, rows, output),
        (_, 1) => float_sized::<5, 1, 2, 6>(op, rows, output),
        _ => float_sized::<5, 2, 1, 5>(op, rows, output),
    }
}

#[target_feature(enable = "neon")]
fn float_sized<const SIZE: usize, const STRIDE: usize, const PIXELS: usize, const COLUMNS: usize>(
    op: &FloatDepthwise,
    rows: &[&[f32]],
    output: &mut [f32],
) {
    let pixels = output.len() / op.window.channels;
    let taps = Taps::<f32, SIZE>::new(rows, op.padded_channels, STRIDE, pixels);
    for channel in (0..op.window.channels).step_by(4) {
        let block = FloatBlock::<SIZE>::load(op, channel);
        let left = op.window.channels - channel;
        let mut pixel = 0;
        while pixel + PIXELS <= pixels {
            // SAFETY: all pixels exist and so does the block of four channels: channels are padded to 16.
            let results = unsafe { block.pixels::<STRIDE, PIXELS, COLUMNS>(&taps, pixel, channel) };
            for (index, result) in results.into_iter().enumerate() {
                store_four(output, (pixel + index) * op.window.channels + channel, left, result);
            }
            pixel += PIXELS;
        }
        while pixel < pixels {
            // SAFETY: as above.
            let [result] = unsafe { block.pixels::<STRIDE, 1, SIZE>(&taps, pixel, channel) };
            store_four(output, pixel * op.window.channels + channel, left, result);
            pixel += 1;
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn store_four(output: &mut [f32], offset: usize, left: usize, results: float32x4_t) {
    let mut values = [0.0; 4];
    // SAFETY: `values` has the 4 values written.
    unsafe { vst1q_f32(values.as_mut_ptr(), results) };
    let count = left.min(4);
    if count == 4 {
        output[offset..][..4].copy_from_slice(&values);
    } else {
        output[offset..][..count].copy_from_slice(&values[..count]);
    }
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
        for (row, weights) in weights.iter_mut().enumerate() {
            for (column, weight) in weights.iter_mut().enumerate() {
                let first = (row * SIZE + column) * op.padded_channels + channel;
                *weight = load_f32x4(array(&op.weights, first));
            }
        }
        Self {
            weights,
            bias: load_f32x4(array(&op.bias, channel)),
            low: vdupq_n_f32(op.low),
            high: vdupq_n_f32(op.high),
        }
    }

    /// # Safety
    /// As [`Taps::at`], for `PIXELS` outputs from `pixel` on and four channels from `channel` on.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn pixels<const STRIDE: usize, const PIXELS: usize, const COLUMNS: usize>(
        &self,
        taps: &Taps<'_, f32, SIZE>,
        pixel: usize,
        channel: usize,
    ) -> [float32x4_t; PIXELS] {
        let mut acc = [self.bias; PIXELS];
        for row in 0..SIZE {
            let mut columns = [vdupq_n_f32(0.0); COLUMNS];
            for (column, value) in columns.iter_mut().enumerate() {
                // SAFETY: the caller's promise; these columns lie under the outputs.
                *value = unsafe { vld1q_f32(taps.at(row, pixel * STRIDE + column, channel)) };
            }
            for (index, acc) in acc.iter_mut().enumerate() {
                for column in 0..SIZE {
                    *acc = vfmaq_f32(*acc, columns[index * STRIDE + column], self.weights[row][column]);
                }
            }
        }
        for acc in &mut acc {
            *acc = vminnmq_f32(vmaxnmq_f32(*acc, self.low), self.high);
        }
        acc
    }
}
