//! AVX-512 with VNNI: VPDPBUSD, 64 products in one instruction. Here are linear layers, the end that they share with
//! depthwise convolutions (`avx512_depthwise.rs`), and residual additions.
//!
//! VPDPBUSD wants u8 on one side. The values are it: `x + 128` with a zero point that is higher by as much, which
//! [`fold`](crate::linear) has put into the bias, so that nothing is left to correct. A block of rows is made unsigned once,
//! for all panels, and then broadcast from there, four values at a time.

#![allow(clippy::needless_range_loop, reason = "rows and channels index several arrays at once")]

use std::{
    arch::x86_64::{
        __m128i, __m256i, __m512i, _mm_loadu_si128, _mm_mask_storeu_epi8, _mm_storeu_si128,
        _mm256_mask_storeu_epi8, _mm256_storeu_si256, _mm512_adds_epi16, _mm512_castsi512_si128,
        _mm512_castsi512_si256, _mm512_cvtepi8_epi32, _mm512_dpbusd_epi32, _mm512_dpwssd_epi32,
        _mm512_extracti32x4_epi32, _mm512_extracti64x4_epi64, _mm512_loadu_si512, _mm512_mask_blend_epi32,
        _mm512_mask_shuffle_epi32, _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8, _mm512_max_epi8,
        _mm512_min_epi8, _mm512_mul_epi32, _mm512_packs_epi16, _mm512_packs_epi32, _mm512_permutexvar_epi32,
        _mm512_set1_epi8, _mm512_set1_epi16, _mm512_set1_epi32, _mm512_setr_epi32, _mm512_setzero_si512,
        _mm512_slli_epi64, _mm512_srai_epi16, _mm512_srav_epi32, _mm512_srli_epi64, _mm512_storeu_si512,
        _mm512_sub_epi32, _mm512_xor_si512,
    },
    mem::MaybeUninit,
};

use super::{
    ChannelBlock, array,
    blocks::{Left, row_blocks},
    scalar,
};
use crate::{
    linear::Linear,
    semantics::{AddRescale, Clamp},
};

/// Rows of a GEMM block: with two panels, 16 of the 32 registers accumulate.
const ROWS: usize = 8;
/// Channels of a panel: one register of sums.
const PANEL: usize = 16;
/// Inputs of a row that are made unsigned at a time: a block of them is a sixth of the first-level cache.
const CHUNK: usize = 1024;

/// A block's values as `x + 128`, row after row, and room for the last store. (To clear it would take longer than a small
/// layer.)
#[repr(align(64))]
struct Unsigned([MaybeUninit<u8>; ROWS * CHUNK + 64]);

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load<T>(values: &[T]) -> __m512i {
    assert!(size_of_val(values) >= 64);
    // SAFETY: the slice covers the 64 bytes read, any bits are valid, and the load needs no alignment.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

/// Up to 64 values, the rest zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_part(values: &[i8]) -> __m512i {
    // SAFETY: only bytes that the slice has are read.
    unsafe { _mm512_maskz_loadu_epi8(first_bits(values.len()), values.as_ptr()) }
}

/// The lowest `count` bits, up to all 64.
#[inline]
const fn first_bits(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// Copies values as `x + 128`.
///
/// # Panics
/// Unless both slices have the same length.
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) fn copy_unsigned(source: &[i8], target: &mut [i8]) {
    assert_eq!(source.len(), target.len(), "target's length");
    let sign = _mm512_set1_epi8(i8::MIN);
    let ((blocks, rest), (targets, target)) = (source.as_chunks::<64>(), target.as_chunks_mut::<64>());
    for (block, target) in blocks.iter().zip(targets) {
        store64(target, 64, _mm512_xor_si512(load(block), sign));
    }
    if !rest.is_empty() {
        store64(target, rest.len(), _mm512_xor_si512(load_part(rest), sign));
    }
}

/// Stores the first `count` of 64 results.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn store64(output: &mut [i8], count: usize, results: __m512i) {
    if count >= 64 {
        let target: &mut [i8; 64] = output.first_chunk_mut().expect("room for all results");
        // SAFETY: the target has the 64 bytes written; the store needs no alignment.
        unsafe { _mm512_storeu_si512(target.as_mut_ptr().cast(), results) };
    } else {
        let target = &mut output[..count];
        // SAFETY: only bytes that the target has are written.
        unsafe { _mm512_mask_storeu_epi8(target.as_mut_ptr(), first_bits(count), results) };
    }
}

/// Stores the first `count` of 32 results.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[allow(clippy::cast_possible_truncation, reason = "fewer than 32 bits")]
pub(super) fn store32(output: &mut [i8], count: usize, results: __m256i) {
    if count >= 32 {
        let target: &mut [i8; 32] = output.first_chunk_mut().expect("room for all results");
        // SAFETY: the target has the 32 bytes written; the store needs no alignment.
        unsafe { _mm256_storeu_si256(target.as_mut_ptr().cast(), results) };
    } else {
        let target = &mut output[..count];
        // SAFETY: only bytes that the target has are written.
        unsafe { _mm256_mask_storeu_epi8(target.as_mut_ptr(), first_bits(count) as u32, results) };
    }
}

/// Stores the first `count` of 16 results.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
#[allow(clippy::cast_possible_truncation, reason = "fewer than 16 bits")]
pub(super) fn store16(output: &mut [i8], count: usize, results: __m128i) {
    if count >= 16 {
        let target: &mut [i8; 16] = output.first_chunk_mut().expect("room for all results");
        // SAFETY: the target has the 16 bytes written; the store needs no alignment.
        unsafe { _mm_storeu_si128(target.as_mut_ptr().cast(), results) };
    } else {
        let target = &mut output[..count];
        // SAFETY: only bytes that the target has are written.
        unsafe { _mm_mask_storeu_epi8(target.as_mut_ptr(), first_bits(count) as u16, results) };
    }
}

/// The quarters of a register.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn quarters(values: __m512i) -> [__m128i; 4] {
    [
        _mm512_castsi512_si128(values),
        _mm512_extracti32x4_epi32::<1>(values),
        _mm512_extracti32x4_epi32::<2>(values),
        _mm512_extracti32x4_epi32::<3>(values),
    ]
}

/// The halves of a register.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn halves(values: __m512i) -> [__m256i; 2] {
    [_mm512_castsi512_si256(values), _mm512_extracti64x4_epi64::<1>(values)]
}

/// What 16 channels need at the end, ready for [`Ends::scale`].
///
/// A product of 64 bits is to be shifted by `31 + shift`. Its upper half is there for nothing, so 32 are; one less than
/// the rest is shifted, and the last bit rounds in [`finish`]. A factor of a quarter or more (`shift` 1) leaves no such
/// bit: an operator with one is `COARSE`, and starts from the product shifted by 31.
#[derive(Clone, Copy)]
pub(super) struct Ends<const COARSE: bool> {
    mantissa: __m512i,
    /// Every second channel's, where the even ones' was.
    odd_mantissa: __m512i,
    shift: __m512i,
}

impl<const COARSE: bool> Ends<COARSE> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn new(channels: ChannelBlock<'_, 16>) -> Self {
        let mantissa = load(channels.mantissa);
        let less = _mm512_set1_epi32(if COARSE { 1 } else { 2 });
        Self {
            mantissa,
            odd_mantissa: _mm512_srli_epi64::<32>(mantissa),
            // Below 0 (factors of 0 only), the count is out of range and leaves the product's sign: 0.
            shift: _mm512_sub_epi32(load(channels.shift), less),
        }
    }

    /// Twice `Multiplier::apply`, before its rounding: `floor(acc * mantissa / 2^(30 + shift))`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn scale(&self, acc: __m512i) -> __m512i {
        let even = _mm512_mul_epi32(acc, self.mantissa);
        let odd = _mm512_mul_epi32(_mm512_srli_epi64::<32>(acc), self.odd_mantissa);
        let product = if COARSE {
            _mm512_mask_blend_epi32(0xaaaa, _mm512_srli_epi64::<31>(even), _mm512_slli_epi64::<1>(odd))
        } else {
            // The even products' upper halves, moved below the odd ones'.
            _mm512_mask_shuffle_epi32::<0b11_11_01_01>(odd, 0x5555, even)
        };
        _mm512_srav_epi32(product, self.shift)
    }
}

/// Zero point, rounding and bounds.
#[derive(Clone, Copy)]
pub(super) struct Bounds {
    offset: __m512i,
    low: __m512i,
    high: __m512i,
}

impl Bounds {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn new(clamp: Clamp) -> Self {
        Self {
            offset: _mm512_set1_epi16(2 * i16::from(clamp.zero_point) + 1),
            low: _mm512_set1_epi8(clamp.low),
            high: _mm512_set1_epi8(clamp.high),
        }
    }

    /// Rounds what [`Ends::scale`] made, `floor((t + 1) / 2)`, adds the zero point and clamps. What saturates on the way is
    /// far beyond i8 on the same side, and remains so. Each 128 bits have four results of each register, in turn.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn finish(&self, t: [__m512i; 4]) -> __m512i {
        let half = |first, second| _mm512_adds_epi16(_mm512_packs_epi32(first, second), self.offset);
        let first = _mm512_srai_epi16::<1>(half(t[0], t[1]));
        let second = _mm512_srai_epi16::<1>(half(t[2], t[3]));
        let packed = _mm512_packs_epi16(first, second);
        _mm512_min_epi8(_mm512_max_epi8(packed, self.low), self.high)
    }
}

/// From what [`Bounds::finish`] makes to the results of one register after the other.
#[inline]
#[target_feature(enable = "avx512f")]
fn in_order(results: __m512i) -> __m512i {
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    _mm512_permutexvar_epi32(order, results)
}

/// Weights are [outputs / 16][inputs / 4][16][4].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) fn linear(op: &Linear, input: &[i8], output: &mut [i8]) {
    let values = &mut Unsigned([MaybeUninit::uninit(); ROWS * CHUNK + 64]);
    let left = linear_blocks::<ROWS>(op, (input, output), values);
    let left = linear_blocks::<6>(op, left, values);
    let left = linear_blocks::<4>(op, left, values);
    let left = linear_blocks::<2>(op, left, values);
    linear_blocks::<1>(op, left, values);
}

/// All whole blocks of `R` rows. (Not inlined: together, the sizes would spill each other's registers.)
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn linear_blocks<'a, 'b, const R: usize>(
    op: &Linear,
    left: Left<'a, 'b>,
    values: &mut Unsigned,
) -> Left<'a, 'b> {
    row_blocks::<R>(op, left, |rows, results| linear_rows::<R>(op, rows, values, results))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn linear_rows<const R: usize>(op: &Linear, input: &[i8], values: &mut Unsigned, output: &mut [i8]) {
    assert_eq!(output.len(), R * op.outputs, "a block's results");
    if op.inputs <= CHUNK {
        make_unsigned::<R>(input, op.inputs, 0, values);
    }
    let panels = op.outputs.div_ceil(PANEL);
    let mut panel = 0;
    while panel + 2 <= panels {
        one_tile::<R, 2>(op, input, values, output, panel);
        panel += 2;
    }
    if panel < panels {
        one_tile::<R, 1>(op, input, values, output, panel);
    }
}

/// `P` panels, from values to results.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn one_tile<const R: usize, const P: usize>(
    op: &Linear,
    input: &[i8],
    values: &mut Unsigned,
    output: &mut [i8],
    panel: usize,
) {
    let sums = panel_sums::<R, P>(op, input, values, panel);
    if op.channels.coarse {
        store_panels::<R, P, true>(op, output, panel, sums);
    } else {
        store_panels::<R, P, false>(op, output, panel, sums);
    }
}

/// Up to [`CHUNK`] values of each row from `first` on, as `x + 128`, each row padded to whole steps; what is in the
/// padding meets weights of 0. All that [`dot`] reads of as many steps is written.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn make_unsigned<const R: usize>(input: &[i8], inputs: usize, first: usize, values: &mut Unsigned) {
    let sign = _mm512_set1_epi8(i8::MIN);
    let mut run = |source: &[i8], start: usize| {
        let target = &mut values.0[start..][..source.len().next_multiple_of(64)];
        let mut store = |index: usize, values: __m512i| {
            let target = &mut target[64 * index..][..64];
            // SAFETY: the target has the 64 bytes written; the store needs no alignment.
            unsafe { _mm512_storeu_si512(target.as_mut_ptr().cast(), _mm512_xor_si512(values, sign)) };
        };
        let (blocks, rest) = source.as_chunks::<64>();
        for (index, block) in blocks.iter().enumerate() {
            store(index, load(block));
        }
        if !rest.is_empty() {
            store(blocks.len(), load_part(rest));
        }
    };
    let len = CHUNK.min(inputs - first);
    if len == inputs && len.is_multiple_of(4) {
        return run(&input[..R * inputs], 0);
    }
    for row in 0..R {
        run(&input[row * inputs + first..][..len], row * len.next_multiple_of(4));
    }
}

/// The sums of `P` panels from the bias on, for each row.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn panel_sums<const R: usize, const P: usize>(
    op: &Linear,
    input: &[i8],
    values: &mut Unsigned,
    panel: usize,
) -> [[__m512i; P]; R] {
    let mut bias = [_mm512_setzero_si512(); P];
    for (index, bias) in bias.iter_mut().enumerate() {
        *bias = load::<i32>(array::<_, PANEL>(&op.channels.bias, (panel + index) * PANEL));
    }
    let mut acc = [bias; R];
    let panel_steps = op.inputs.div_ceil(4);
    let weights = &op.weights.as_chunks::<64>().0[panel * panel_steps..][..P * panel_steps];
    if op.inputs <= CHUNK {
        dot(&mut acc, values, weights, panel_steps, panel_steps);
        return acc;
    }
    for first in (0..op.inputs).step_by(CHUNK) {
        make_unsigned::<R>(input, op.inputs, first, values);
        let steps = CHUNK.min(op.inputs - first).div_ceil(4);
        dot(&mut acc, values, &weights[first / 4..], steps, panel_steps);
    }
    acc
}

/// `steps` of four inputs, of each row, times the channels of `P` panels, which are `panel_steps` apart.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dot<const R: usize, const P: usize>(
    acc: &mut [[__m512i; P]; R],
    values: &Unsigned,
    weights: &[[i8; 64]],
    steps: usize,
    panel_steps: usize,
) {
    assert!(R * steps * 4 <= values.0.len() && (P - 1) * panel_steps + steps <= weights.len());
    for step in 0..steps {
        let mut registers = [_mm512_setzero_si512(); P];
        for (panel, register) in registers.iter_mut().enumerate() {
            // SAFETY: `panel < P` and `step < steps`, so that the assertion above bounds the index.
            *register = load(unsafe { weights.get_unchecked(panel * panel_steps + step) });
        }
        for row in 0..R {
            let index = 4 * (row * steps + step);
            // SAFETY: `row < R` and `step < steps`, so that `index + 4` is at most the length asserted above, and
            // `make_unsigned` has written those four bytes; any value is an i32, and the read needs no alignment.
            let value = unsafe { values.0.as_ptr().add(index).cast::<i32>().read_unaligned() };
            let value = _mm512_set1_epi32(value);
            for (acc, &weights) in acc[row].iter_mut().zip(&registers) {
                *acc = _mm512_dpbusd_epi32(*acc, value, weights);
            }
        }
    }
}

/// Four registers of sums at a time: two rows of two panels, or four of one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn store_panels<const R: usize, const P: usize, const COARSE: bool>(
    op: &Linear,
    output: &mut [i8],
    panel: usize,
    sums: [[__m512i; P]; R],
) {
    let bounds = Bounds::new(op.clamp);
    let first = panel * PANEL;
    let low = Ends::<COARSE>::new(op.channels.at(first));
    let high = if P == 2 { Ends::<COARSE>::new(op.channels.at(first + PANEL)) } else { low };
    let left = (op.outputs - first).min(P * PANEL);
    assert!((R - 1) * op.outputs + first + left <= output.len());
    let four = |group: usize| {
        let mut t = [_mm512_setzero_si512(); 4];
        for (index, t) in t.iter_mut().enumerate() {
            let sums = sums[(group * 4 / P + index / P).min(R - 1)];
            *t = if index % P == 0 { low.scale(sums[0]) } else { high.scale(sums[P - 1]) };
        }
        in_order(bounds.finish(t))
    };
    let range = |row: usize| row * op.outputs + first..row * op.outputs + first + left;
    // Without a loop: the compiler would not unroll it, and would put the sums into memory.
    macro_rules! groups {
        ($($group:literal)*) => {$(
            if $group < (R * P).div_ceil(4) {
                let (row, results) = ($group * 4 / P, four($group));
                if P == 2 {
                    for (row, half) in (row..R).zip(halves(results)) {
                        // SAFETY: `row < R`, and the assertion above bounds the last row's range.
                        store32(unsafe { output.get_unchecked_mut(range(row)) }, left, half);
                    }
                } else {
                    for (row, quarter) in (row..R).zip(quarters(results)) {
                        // SAFETY: as above.
                        store16(unsafe { output.get_unchecked_mut(range(row)) }, left, quarter);
                    }
                }
            }
        )*};
    }
    groups!(0 1 2 3);
}

/// Residual addition, 64 values at a time. Factors have 15 bits, so that products with the zero points still in them are far
/// within an i32.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(crate) fn add(
    rescale: AddRescale,
    zero_points: [i8; 2],
    clamp: Clamp,
    operands: [&[i8]; 2],
    output: &mut [i8],
) {
    let [left, right] = [rescale.left, rescale.right].map(i32::from);
    let [left_zero, right_zero] = zero_points.map(i32::from);
    let excess = left_zero * left + right_zero * right;
    let start = _mm512_set1_epi32(-excess);
    // In each pair of i16 the second is a value's sign, which must not multiply anything.
    let factors = [left, right].map(|factor| _mm512_set1_epi32(factor));
    // The last bit rounds at the end.
    let shift = _mm512_set1_epi32(rescale.shift - 1);
    let bounds = Bounds::new(clamp);
    let ([a, a_rest], [b, b_rest]) = (split(operands[0]), split(operands[1]));
    let (results, rest) = output.split_at_mut(a.len());
    for ((a, b), results) in a.chunks_exact(64).zip(b.chunks_exact(64)).zip(results.chunks_exact_mut(64)) {
        let mut t = [_mm512_setzero_si512(); 4];
        for (index, t) in t.iter_mut().enumerate() {
            let values = [a, b].map(|values| array::<_, 16>(values, 16 * index));
            let sum = _mm512_dpwssd_epi32(start, widen(values[0]), factors[0]);
            let sum = _mm512_dpwssd_epi32(sum, widen(values[1]), factors[1]);
            *t = _mm512_srav_epi32(sum, shift);
        }
        store64(results, 64, in_order(bounds.finish(t)));
    }
    scalar::add(rescale, zero_points, clamp, [a_rest, b_rest], rest);
}

/// Whole blocks of 64, and the rest.
fn split(values: &[i8]) -> [&[i8]; 2] {
    let (blocks, rest) = values.split_at(values.len() / 64 * 64);
    [blocks, rest]
}

/// Sixteen values as i32.
#[inline]
#[target_feature(enable = "avx512f")]
fn widen(values: &[i8; 16]) -> __m512i {
    // SAFETY: the reference covers the 16 bytes read; the load needs no alignment.
    _mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(values.as_ptr().cast()) })
}
