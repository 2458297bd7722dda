//! Quantisation and residual addition on NEON, for all aarch64 families, sixteen values at a time.

use std::arch::aarch64::{
    float32x4_t, int8x16_t, int16x4_t, int16x8_t, vcombine_s8, vcombine_s16, vcvtnq_s32_f32, vdup_n_s8,
    vdup_n_s16, vdupq_n_s8, vdupq_n_s16, vdupq_n_s32, vget_high_s8, vget_high_s16, vget_low_s8, vget_low_s16,
    vld1q_f32, vld1q_s8, vmaxq_s8, vminq_s8, vmlal_s16, vmull_s16, vmulq_n_f32, vqaddq_s16, vqmovn_s16,
    vqmovn_s32, vrshlq_s32, vst1q_s8, vsubl_s8,
};

use super::scalar;
use crate::semantics::{AddRescale, Clamp, QuantParams};

/// As the scalar kernel. FCVTNS rounds halves to even, saturates and makes 0 of NaN, and narrowing saturates, so that
/// the scalar kernel's clamp is not needed.
#[target_feature(enable = "neon")]
pub(crate) fn quantise(params: QuantParams, input: &[f32], output: &mut [i8]) {
    let inverse = 1.0 / params.scale;
    let zero_point = vdupq_n_s16(i16::from(params.zero_point));
    let (blocks, rest) = input.as_chunks::<16>();
    let (results, rest_output) = output.as_chunks_mut::<16>();
    for (block, results) in blocks.iter().zip(results) {
        let mut q = [vdup_n_s16(0); 4];
        for (q, values) in q.iter_mut().zip(block.as_chunks::<4>().0) {
            // SAFETY: the reference covers the 16 bytes read.
            let values: float32x4_t = unsafe { vld1q_f32(values.as_ptr()) };
            *q = vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(values, inverse)));
        }
        let low = vqaddq_s16(vcombine_s16(q[0], q[1]), zero_point);
        let high = vqaddq_s16(vcombine_s16(q[2], q[3]), zero_point);
        // SAFETY: the reference covers the 16 bytes written.
        unsafe { vst1q_s8(results.as_mut_ptr(), vcombine_s8(vqmovn_s16(low), vqmovn_s16(high))) };
    }
    scalar::quantise(params, rest, rest_output);
}

/// As the scalar kernel. SRSHL rounds halves upwards; sums stay below 2 * 255 * 2^15.
#[target_feature(enable = "neon")]
pub(crate) fn add(
    rescale: AddRescale,
    zero_points: [i8; 2],
    clamp: Clamp,
    operands: [&[i8]; 2],
    output: &mut [i8],
) {
    let adder = Adder { rescale, zero_points, clamp };
    let [(left, left_rest), (right, right_rest)] = operands.map(<[i8]>::as_chunks::<16>);
    let (results, rest_output) = output.as_chunks_mut::<16>();
    for ((left, right), results) in left.iter().zip(right).zip(results) {
        // SAFETY: the references cover the 16 bytes read or written.
        unsafe {
            let sums = adder.sixteen(vld1q_s8(left.as_ptr()), vld1q_s8(right.as_ptr()));
            vst1q_s8(results.as_mut_ptr(), sums);
        }
    }
    scalar::add(rescale, zero_points, clamp, [left_rest, right_rest], rest_output);
}

struct Adder {
    rescale: AddRescale,
    zero_points: [i8; 2],
    clamp: Clamp,
}

impl Adder {
    #[inline]
    #[target_feature(enable = "neon")]
    fn sixteen(&self, left: int8x16_t, right: int8x16_t) -> int8x16_t {
        let [a, b] = self.zero_points.map(|zero_point| vdup_n_s8(zero_point));
        let low = self.eight(vsubl_s8(vget_low_s8(left), a), vsubl_s8(vget_low_s8(right), b));
        let high = self.eight(vsubl_s8(vget_high_s8(left), a), vsubl_s8(vget_high_s8(right), b));
        let q = vcombine_s8(vqmovn_s16(low), vqmovn_s16(high));
        vminq_s8(vmaxq_s8(q, vdupq_n_s8(self.clamp.low)), vdupq_n_s8(self.clamp.high))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn eight(&self, left: int16x8_t, right: int16x8_t) -> int16x8_t {
        let low = self.four(vget_low_s16(left), vget_low_s16(right));
        let high = self.four(vget_high_s16(left), vget_high_s16(right));
        vqaddq_s16(vcombine_s16(low, high), vdupq_n_s16(i16::from(self.clamp.zero_point)))
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn four(&self, left: int16x4_t, right: int16x4_t) -> int16x4_t {
        let sum = vmull_s16(left, vdup_n_s16(self.rescale.left));
        let sum = vmlal_s16(sum, right, vdup_n_s16(self.rescale.right));
        vqmovn_s32(vrshlq_s32(sum, vdupq_n_s32(-self.rescale.shift)))
    }
}
