//! [`crate::vector`] on NEON: four f32.
#![allow(
    unused_unsafe,
    reason = "NEON is part of the target, so that intrinsics need no `unsafe` in newer compilers"
)]

use std::arch::aarch64::{
    float32x4_t, vaddq_f32, vaddq_s32, vandq_s32, vcombine_s16, vcvtq_f32_s32, vdupq_n_f32, vdupq_n_s32,
    vfmaq_f32, vfmaq_n_f32, vfmsq_n_f32, vget_low_s16, vld1_s16, vmovl_high_s16, vmovl_s16, vmulq_f32,
    vmulq_n_f32, vreinterpretq_f32_s32, vreinterpretq_s16_s32, vreinterpretq_s32_f32, vreinterpretq_s32_s16,
    vshrq_n_s32, vsqrtq_f32, vst1q_f32, vsubq_f32, vsubq_s32, vzip1q_s16, vzip1q_s32, vzip2q_s32,
};

use crate::lanes::{HALF_ROOT, L, LN2};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Vector(float32x4_t);

// SAFETY of all blocks: NEON is part of the target, and references cover what is read and written.
#[allow(clippy::undocumented_unsafe_blocks, reason = "one reason for all")]
impl Vector {
    pub(crate) const LANES: usize = 4;

    #[inline(always)]
    pub(crate) fn splat(x: f32) -> Self {
        Self(unsafe { vdupq_n_f32(x) })
    }

    /// As many samples of each frame as there are results.
    #[inline(always)]
    pub(crate) fn turn(frames: [[i16; 4]; 4]) -> [Self; 4] {
        unsafe {
            let [a, b, c, d] = frames.each_ref().map(|frame| {
                let frame = vld1_s16(frame.as_ptr());
                vcombine_s16(frame, frame)
            });
            // The first two frames' samples 0, their samples 1, ...
            let [low, high] = [vzip1q_s16(a, b), vzip1q_s16(c, d)].map(|x| vreinterpretq_s32_s16(x));
            let [even, odd] =
                [vzip1q_s32(low, high), vzip2q_s32(low, high)].map(|x| vreinterpretq_s16_s32(x));
            let samples = [
                vmovl_s16(vget_low_s16(even)),
                vmovl_high_s16(even),
                vmovl_s16(vget_low_s16(odd)),
                vmovl_high_s16(odd),
            ];
            samples.map(|x| Self(vcvtq_f32_s32(x)))
        }
    }

    #[inline(always)]
    pub(crate) fn store(self) -> [f32; 4] {
        let mut lanes = [0.0; 4];
        unsafe { vst1q_f32(lanes.as_mut_ptr(), self.0) };
        lanes
    }

    #[inline(always)]
    pub(crate) fn add(self, other: Self) -> Self {
        Self(unsafe { vaddq_f32(self.0, other.0) })
    }

    #[inline(always)]
    pub(crate) fn sub(self, other: Self) -> Self {
        Self(unsafe { vsubq_f32(self.0, other.0) })
    }

    #[inline(always)]
    pub(crate) fn scale(self, factor: f32) -> Self {
        Self(unsafe { vmulq_n_f32(self.0, factor) })
    }

    /// `self + factor * other`.
    #[inline(always)]
    pub(crate) fn plus(self, factor: f32, other: Self) -> Self {
        Self(unsafe { vfmaq_n_f32(self.0, other.0, factor) })
    }

    /// `self - factor * other`.
    #[inline(always)]
    pub(crate) fn minus(self, factor: f32, other: Self) -> Self {
        Self(unsafe { vfmsq_n_f32(self.0, other.0, factor) })
    }

    /// `sqrt(self^2 + other^2)`.
    #[inline(always)]
    pub(crate) fn hypotenuse(self, other: Self) -> Self {
        Self(unsafe { vsqrtq_f32(vfmaq_f32(vmulq_f32(other.0, other.0), self.0, self.0)) })
    }

    /// Of normal positive numbers: [`crate::lanes::ln`].
    #[inline(always)]
    pub(crate) fn ln(self) -> Self {
        unsafe {
            let root = vdupq_n_s32(HALF_ROOT.cast_signed());
            let bits = vsubq_s32(vreinterpretq_s32_f32(self.0), root);
            let exponent = vcvtq_f32_s32(vshrq_n_s32::<23>(bits));
            let mantissa = vaddq_s32(vandq_s32(bits, vdupq_n_s32(0x7f_ffff)), root);
            let x = vsubq_f32(vreinterpretq_f32_s32(mantissa), vdupq_n_f32(1.0));
            let mut l = vdupq_n_f32(L[0]);
            for &coefficient in &L[1..] {
                l = vfmaq_f32(vdupq_n_f32(coefficient), l, x);
            }
            let square = vmulq_f32(x, x);
            let small = vfmaq_n_f32(vmulq_n_f32(exponent, LN2[1]), square, -0.5);
            let rest = vfmaq_f32(small, l, vmulq_f32(x, square));
            Self(vfmaq_n_f32(vaddq_f32(x, rest), exponent, LN2[0]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes;

    #[test]
    fn ln_is_the_same_as_elsewhere() {
        for bits in (f32::MIN_POSITIVE.to_bits()..=f32::MAX.to_bits()).step_by(9_973) {
            let x = f32::from_bits(bits);
            assert_eq!(Vector::splat(x).ln().store().map(f32::to_bits), [lanes::ln(x).to_bits(); 4], "{x}");
        }
    }
}
