//! AVX2: values and weights widened to i16, then VPMADDWD, 16 products in one instruction. (VPMADDUBSW would halve the
//! count, but its u8 side needs a sign correction for each pair of operands, and it saturates.)
//!
//! Each 32-bit lane is a channel from the first product to the last rounding: no sum is ever added up across a register.

#![allow(clippy::needless_range_loop, reason = "rows and channels index several arrays at once")]

use std::{
    arch::x86_64::{
        __m128i, __m256i, _CMP_ORD_Q, _mm_loadl_epi64, _mm_loadu_si128, _mm_unpackhi_epi8, _mm_unpacklo_epi8,
        _mm256_add_epi32, _mm256_adds_epi16, _mm256_and_ps, _mm256_blend_epi32, _mm256_cmp_ps,
        _mm256_cvtepi8_epi16, _mm256_cvtepi8_epi32, _mm256_cvtps_epi32, _mm256_loadu_ps, _mm256_loadu_si256,
        _mm256_madd_epi16, _mm256_max_epi8, _mm256_max_ps, _mm256_min_epi8, _mm256_min_ps, _mm256_mul_epi32,
        _mm256_mul_ps, _mm256_packs_epi16, _mm256_packs_epi32, _mm256_permutevar8x32_epi32, _mm256_set1_epi8,
        _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setr_epi32, _mm256_setzero_si256,
        _mm256_slli_epi32, _mm256_slli_epi64, _mm256_sllv_epi32, _mm256_srav_epi32, _mm256_srli_epi32,
        _mm256_srli_epi64, _mm256_storeu_si256, _mm256_sub_epi32,
    },
    hint::black_box,
};

use super::{
    ChannelBlock, Rows, array,
    blocks::{row_blocks, store_block},
    scalar,
};
use crate::{
    depthwise::{CHANNEL_BLOCK, Depthwise, FloatDepthwise},
    linear::Linear,
    semantics::{Clamp, QuantParams},
};

/// Rows of a GEMM block: with two panels, 12 of the 16 registers accumulate.
const ROWS: usize = 6;
/// Channels of a panel: one register of sums.
const PANEL: usize = 8;
/// Inputs that are widened at a time.
const STEP: usize = 16;

#[inline]
#[target_feature(enable = "avx2")]
fn load_i8x16(values: &[i8; 16]) -> __m128i {
    // SAFETY: the reference covers the 16 bytes read; the load needs no alignment.
    unsafe { _mm_loadu_si128(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_i8x8(values: &[i8; 8]) -> __m128i {
    // SAFETY: the reference covers the 8 bytes read; the load needs no alignment.
    unsafe { _mm_loadl_epi64(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_i32x8(values: &[i32; 8]) -> __m256i {
    // SAFETY: the reference covers the 32 bytes read; the load needs no alignment.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

/// What eight channels need at the end, ready for [`Ends::requantise`].
#[derive(Clone, Copy)]
struct Ends {
    mantissa: __m256i,
    /// Every second channel's, where the even ones' was.
    odd_mantissa: __m256i,
    shift: __m256i,
    half: __m256i,
}

impl Ends {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new(channels: ChannelBlock<'_, 8>) -> Self {
        let (mantissa, shift) = (load_i32x8(channels.mantissa), load_i32x8(channels.shift));
        let one = _mm256_set1_epi32(1);
        Self {
            mantissa,
            odd_mantissa: _mm256_srli_epi64::<32>(mantissa),
            shift,
            half: _mm256_sllv_epi32(one, _mm256_sub_epi32(shift, one)),
        }
    }

    /// `Multiplier::apply` on eight channels, the bias included: the doubling high product (bits 31 to 62 of the 64-bit
    /// one), then the rounding shift. Accumulators stay within ±2^30, so that adding the rounding constant cannot overflow.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn requantise(&self, acc: __m256i) -> __m256i {
        let even = _mm256_mul_epi32(acc, self.mantissa);
        let odd = _mm256_mul_epi32(_mm256_srli_epi64::<32>(acc), self.odd_mantissa);
        let product =
            _mm256_blend_epi32::<0b1010_1010>(_mm256_srli_epi64::<31>(even), _mm256_slli_epi64::<1>(odd));
        _mm256_srav_epi32(_mm256_add_epi32(product, self.half), self.shift)
    }
}

/// Adds the zero point and clamps two results of 16 channels each, given as i32.
#[inline]
#[target_feature(enable = "avx2")]
fn finish(q: [[__m256i; 2]; 2], clamp: Clamp) -> [[i8; 16]; 2] {
    let zero_point = _mm256_set1_epi16(i16::from(clamp.zero_point));
    let [first, second] = q;
    let first = _mm256_adds_epi16(_mm256_packs_epi32(first[0], first[1]), zero_point);
    let second = _mm256_adds_epi16(_mm256_packs_epi32(second[0], second[1]), zero_point);
    // Packing works within halves: both results' channels 0 to 3 and 8 to 11 came to lie first.
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let packed = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(first, second), order);
    let bounded = _mm256_max_epi8(packed, _mm256_set1_epi8(clamp.low));
    let bounded = _mm256_min_epi8(bounded, _mm256_set1_epi8(clamp.high));
    let mut results = [[0; 16]; 2];
    // SAFETY: `results` has the 32 bytes written; the store needs no alignment.
    unsafe { _mm256_storeu_si256(results.as_mut_ptr().cast(), bounded) };
    results
}

/// Weights are [outputs / 8][inputs / 2][8][2].
#[target_feature(enable = "avx2")]
pub(crate) fn linear(op: &Linear, input: &[i8], output: &mut [i8]) {
    let left =
        row_blocks::<ROWS>(op, (input, output), |rows, results| linear_rows::<ROWS>(op, rows, results));
    let left = row_blocks::<2>(op, left, |rows, results| linear_rows::<2>(op, rows, results));
    row_blocks::<1>(op, left, |rows, results| linear_rows::<1>(op, rows, results));
}

#[inline]
#[target_feature(enable = "avx2")]
fn linear_rows<const R: usize>(op: &Linear, input: &[i8], output: &mut [i8]) {
    let rows = Rows::<R, STEP>::new(input, op.inputs);
    let panel_len = PANEL * op.inputs.next_multiple_of(2);
    let panels = op.weights.len() / panel_len;
    let weights = |panel: usize| op.weights[panel * panel_len..][..panel_len].as_chunks::<16>().0;
    let mut panel = 0;
    while panel + 2 <= panels {
        let sums = panel_sums(op, &rows, panel, [weights(panel), weights(panel + 1)]);
        store_panels::<R, 16>(op, output, panel, sums);
        panel += 2;
    }
    if panel < panels {
        let sums = panel_sums(op, &rows, panel, [weights(panel)]);
        store_panels::<R, PANEL>(op, output, panel, sums.map(|[sums]| [sums, sums]));
    }
}

/// The sums of `P` panels from the bias on, for each row.
#[inline]
#[target_feature(enable = "avx2")]
fn panel_sums<const R: usize, const P: usize>(
    op: &Linear,
    rows: &Rows<'_, R, STEP>,
    panel: usize,
    weights: [&[[i8; 16]]; P],
) -> [[__m256i; P]; R] {
    const PAIRS: usize = STEP / 2;
    let mut bias = [_mm256_setzero_si256(); P];
    for (index, bias) in bias.iter_mut().enumerate() {
        *bias = load_i32x8(array(&op.channels.bias, (panel + index) * PANEL));
    }
    let mut acc = [bias; R];
    let whole = rows.steps[0].len();
    for index in 0..whole {
        dot_step(&mut acc, rows.step(index), from(weights, index * PAIRS, PAIRS));
    }
    if let Some(tail) = &rows.tail {
        let left = weights[0].len() - whole * PAIRS;
        dot_step(&mut acc, tail.each_ref(), from(weights, whole * PAIRS, left));
    }
    acc
}

/// `count` pairs of inputs of each panel. (Not a closure: see [`Rows::step`].)
#[inline(always)]
fn from<const P: usize>(weights: [&[[i8; 16]]; P], first: usize, count: usize) -> [&[[i8; 16]]; P] {
    weights.map(|weights| &weights[first..][..count])
}

/// Up to sixteen inputs of each row, as many pairs as there are weights, times the channels of `P` panels.
#[inline]
#[target_feature(enable = "avx2")]
fn dot_step<const R: usize, const P: usize>(
    acc: &mut [[__m256i; P]; R],
    values: [&[i8; STEP]; R],
    weights: [&[[i8; 16]]; P],
) {
    // Pairs of inputs, to be broadcast from memory.
    let mut pairs = [[0i32; STEP / 2]; R];
    for (pairs, values) in pairs.iter_mut().zip(values) {
        let wide = _mm256_cvtepi8_epi16(load_i8x16(values));
        // SAFETY: `pairs` has the 32 bytes written; the store needs no alignment.
        unsafe { _mm256_storeu_si256(pairs.as_mut_ptr().cast(), wide) };
    }
    // The compiler would broadcast from register to register, which takes two shuffles instead of a load, and spill.
    let pairs = black_box(&pairs);
    for pair in 0..weights[0].len() {
        let mut registers = [_mm256_setzero_si256(); P];
        for (register, weights) in registers.iter_mut().zip(weights) {
            *register = _mm256_cvtepi8_epi16(load_i8x16(&weights[pair]));
        }
        for row in 0..R {
            let value = _mm256_set1_epi32(pairs[row][pair]);
            for (acc, &weights) in acc[row].iter_mut().zip(&registers) {
                *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(value, weights));
            }
        }
    }
}

/// Stores the first `N` of two panels' results, two rows at a time; the last of an odd number beside itself.
#[inline]
#[target_feature(enable = "avx2")]
fn store_panels<const R: usize, const N: usize>(
    op: &Linear,
    output: &mut [i8],
    panel: usize,
    sums: [[__m256i; 2]; R],
) {
    let first = panel * PANEL;
    let low = Ends::new(op.channels.at(first));
    let high = if N > PANEL { Ends::new(op.channels.at(first + PANEL)) } else { low };
    for row in (0..R).step_by(2) {
        let mut q = [[_mm256_setzero_si256(); 2]; 2];
        for (index, q) in q.iter_mut().enumerate() {
            let sums = sums[(row + index).min(R - 1)];
            *q = [low.requantise(sums[0]), high.requantise(sums[1])];
        }
        for (row, results) in (row..R).zip(&finish(q, op.clamp)) {
            let results: &[i8; N] = array(results, 0);
            store_block(output, row * op.outputs + first, op.outputs - first, results);
        }
    }
}

/// One row of outputs, 16 channels at a time.
#[target_feature(enable = "avx2")]
pub(crate) fn depthwise_row(op: &Depthwise, rows: &[&[i8]], output: &mut [i8]) {
    depthwise_channels(op, rows, output, 0);
}

/// Channels from `first` on, a multiple of 16.
#[target_feature(enable = "avx2")]
pub(super) fn depthwise_channels(op: &Depthwise, rows: &[&[i8]], output: &mut [i8], first: usize) {
    match (op.window.size, op.window.stride) {
        (3, 1) => depthwise_sized::<3, 2, 1>(op, rows, output, first),
        (3, _) => depthwise_sized::<3, 2, 2>(op, rows, output, first),
        (_, 1) => depthwise_sized::<5, 3, 1>(op, rows, output, first),
        _ => depthwise_sized::<5, 3, 2>(op, rows, output, first),
    }
}

/// `PAIRS` are the pairs of rows that `SIZE` rows make, the last with nothing.
#[inline]
#[target_feature(enable = "avx2")]
fn depthwise_sized<const SIZE: usize, const PAIRS: usize, const STRIDE: usize>(
    op: &Depthwise,
    rows: &[&[i8]],
    output: &mut [i8],
    first: usize,
) {
    let channels = op.window.channels;
    let rows: [&[i8]; SIZE] = std::array::from_fn(|row| rows[row]);
    let width = output.len() / channels;
    for channel in (first..channels).step_by(CHANNEL_BLOCK) {
        let block = Block::<SIZE, PAIRS>::load(op, channel);
        let mut x = 0;
        // Four outputs share most of their columns when they overlap.
        while x + 4 <= width {
            block.outputs::<STRIDE, 4>(op, &rows, x, channel, output);
            x += 4;
        }
        if x + 2 <= width {
            block.outputs::<STRIDE, 2>(op, &rows, x, channel, output);
            x += 2;
        }
        if x < width {
            block.outputs::<STRIDE, 1>(op, &rows, x, channel, output);
        }
    }
}

/// Sixteen channels' weights, two rows interleaved as i16, so that the sum of two products comes out of one
/// instruction; eight channels to a register.
struct Block<const SIZE: usize, const PAIRS: usize> {
    weights: [[[__m256i; 2]; PAIRS]; SIZE],
    bias: [__m256i; 2],
    ends: [Ends; 2],
}

impl<const SIZE: usize, const PAIRS: usize> Block<SIZE, PAIRS> {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn load(op: &Depthwise, channel: usize) -> Self {
        let taps = op.weights[channel * SIZE * SIZE..].as_chunks::<CHANNEL_BLOCK>().0;
        let mut weights = [[[_mm256_setzero_si256(); 2]; PAIRS]; SIZE];
        for column in 0..SIZE {
            for pair in 0..PAIRS {
                let upper = &taps[2 * pair * SIZE + column];
                weights[column][pair] = if 2 * pair + 1 < SIZE {
                    interleave(load_i8x16(upper), load_i8x16(&taps[(2 * pair + 1) * SIZE + column]))
                } else {
                    // Alone in its pair, a weight has its sign beside it, which must not multiply anything.
                    let [low, high] = widen(upper);
                    [
                        _mm256_srli_epi32::<16>(_mm256_slli_epi32::<16>(low)),
                        _mm256_srli_epi32::<16>(_mm256_slli_epi32::<16>(high)),
                    ]
                };
            }
        }
        let at = |half: usize| channel + 8 * half;
        Self {
            weights,
            bias: [load_i32x8(array(&op.channels.bias, at(0))), load_i32x8(array(&op.channels.bias, at(1)))],
            ends: [Ends::new(op.channels.at(at(0))), Ends::new(op.channels.at(at(1)))],
        }
    }

    /// `COUNT` neighbouring outputs from `x` on.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn outputs<const STRIDE: usize, const COUNT: usize>(
        &self,
        op: &Depthwise,
        rows: &[&[i8]; SIZE],
        x: usize,
        channel: usize,
        output: &mut [i8],
    ) {
        let pitch = op.padded_channels;
        let columns = (COUNT - 1) * STRIDE + SIZE;
        let first = x * STRIDE * pitch + channel;
        let mut from = [std::ptr::null(); SIZE];
        for row in 0..SIZE {
            from[row] = rows[row][first..][..(columns - 1) * pitch + CHANNEL_BLOCK].as_ptr();
        }
        let mut acc = [self.bias; COUNT];
        // Column by column, without a loop: the compiler would not unroll it.
        macro_rules! columns {
            ($($column:literal)*) => {$(
                if $column < columns {
                    // SAFETY: the slices above hold 16 values from each of the columns on.
                    unsafe { self.column::<STRIDE, COUNT, $column>(&from, pitch, &mut acc) };
                }
            )*};
        }
        columns!(0 1 2 3 4 5 6 7 8 9 10);
        for first in (0..COUNT).step_by(2) {
            let mut q = [[_mm256_setzero_si256(); 2]; 2];
            for (index, q) in q.iter_mut().enumerate() {
                let acc = acc[(first + index).min(COUNT - 1)];
                *q = [self.ends[0].requantise(acc[0]), self.ends[1].requantise(acc[1])];
            }
            for (index, block) in (first..COUNT).zip(&finish(q, op.clamp)) {
                let channels = op.window.channels;
                store_block(output, (x + index) * channels + channel, channels - channel, block);
            }
        }
    }

    /// Adds what one column gives to each output that it lies under.
    ///
    /// # Safety
    /// 16 values can be read at each of `from` plus `COLUMN * pitch`.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn column<const STRIDE: usize, const COUNT: usize, const COLUMN: usize>(
        &self,
        from: &[*const i8; SIZE],
        pitch: usize,
        acc: &mut [[__m256i; 2]; COUNT],
    ) {
        let mut values = [[_mm256_setzero_si256(); 2]; PAIRS];
        for pair in 0..PAIRS {
            // SAFETY: the caller's promise; the pointers come from slices, and an array needs no alignment.
            let value = |row: usize| unsafe { &*from[row].add(COLUMN * pitch).cast::<[i8; CHANNEL_BLOCK]>() };
            let upper = value(2 * pair);
            values[pair] = if 2 * pair + 1 < SIZE {
                interleave(load_i8x16(upper), load_i8x16(value(2 * pair + 1)))
            } else {
                widen(upper)
            };
        }
        for output in 0..COUNT {
            let Some(tap) = COLUMN.checked_sub(output * STRIDE).filter(|&tap| tap < SIZE) else {
                continue;
            };
            for pair in 0..PAIRS {
                for half in 0..2 {
                    let products = _mm256_madd_epi16(values[pair][half], self.weights[tap][pair][half]);
                    acc[output][half] = _mm256_add_epi32(acc[output][half], products);
                }
            }
        }
    }
}

/// Sixteen values of each of two rows as pairs of i16, eight pairs to a register.
#[inline]
#[target_feature(enable = "avx2")]
fn interleave(a: __m128i, b: __m128i) -> [__m256i; 2] {
    [_mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b)), _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(a, b))]
}

/// Sixteen values as i32, eight to a register.
#[inline]
#[target_feature(enable = "avx2")]
fn widen(values: &[i8; 16]) -> [__m256i; 2] {
    [_mm256_cvtepi8_epi32(load_i8x8(array(values, 0))), _mm256_cvtepi8_epi32(load_i8x8(array(values, 8)))]
}

/// f32 to int8, 32 values at a time: NaN becomes 0, the conversion rounds halves to even, and packing saturates.
#[target_feature(enable = "avx2")]
pub(crate) fn quantise(params: QuantParams, input: &[f32], output: &mut [i8]) {
    let (inverse, zero_point) =
        (_mm256_set1_ps(1.0 / params.scale), _mm256_set1_epi32(i32::from(params.zero_point)));
    let (least, most) = (_mm256_set1_ps(-1024.0), _mm256_set1_ps(1024.0));
    let ((blocks, rest), (results, rest_results)) = (input.as_chunks::<32>(), output.as_chunks_mut::<32>());
    for (values, results) in blocks.iter().zip(results) {
        let mut q = [_mm256_setzero_si256(); 4];
        for (q, values) in q.iter_mut().zip(values.as_chunks::<8>().0) {
            // SAFETY: `values` has the 32 bytes read; the load needs no alignment.
            let x = _mm256_mul_ps(unsafe { _mm256_loadu_ps(values.as_ptr()) }, inverse);
            let x = _mm256_and_ps(x, _mm256_cmp_ps::<_CMP_ORD_Q>(x, x));
            let bounded = _mm256_min_ps(_mm256_max_ps(x, least), most);
            *q = _mm256_add_epi32(_mm256_cvtps_epi32(bounded), zero_point);
        }
        let packed = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        // SAFETY: `results` has the 32 bytes written; the store needs no alignment.
        unsafe {
            _mm256_storeu_si256(results.as_mut_ptr().cast(), _mm256_permutevar8x32_epi32(packed, order));
        }
    }
    scalar::quantise(params, rest, rest_results);
}

/// One row of outputs; the compiler vectorises it with fused products.
#[target_feature(enable = "avx2,fma")]
pub(crate) fn float_depthwise_row(op: &FloatDepthwise, rows: &[&[f32]], output: &mut [f32]) {
    scalar::float_depthwise_row(op, rows, output);
}
