//! Pixels to the encoder's tensor on NEON, for all aarch64 families, sixteen at a time: LD3 and ST4 do the interleaving.

use std::arch::aarch64::{
    int8x16_t, int8x16x4_t, uint8x16_t, uint8x16x3_t, uint16x8_t, vcombine_s8, vcombine_u8, vdup_n_u8,
    vdupq_n_s16, vdupq_n_u8, veorq_u8, vget_high_u8, vget_low_u8, vld3q_u8, vmlal_u8, vmull_u8, vqmovn_s16,
    vreinterpretq_s8_u8, vreinterpretq_s16_u16, vrshrn_n_u16, vst4q_s8, vsubl_u8, vsubq_s16,
};

use crate::pixels::{self, CHANNELS};

/// As [`crate::semantics::pixel`] for each pixel.
///
/// # Panics
/// Unless all are of the same length.
#[target_feature(enable = "neon")]
pub(crate) fn run(rgb: &[[u8; 3]], before: &[[u8; 3]], tensor: &mut [[i8; CHANNELS]]) {
    let ((rgb, rgb_rest), (before, before_rest)) = (rgb.as_chunks::<16>(), before.as_chunks::<16>());
    let (tensor, tensor_rest) = tensor.as_chunks_mut::<16>();
    assert!(rgb.len() == tensor.len() && before.len() == tensor.len(), "as many blocks");
    for ((pixels, now), then) in tensor.iter_mut().zip(rgb).zip(before) {
        // SAFETY: the references cover the 48 bytes read.
        let (now, then) = unsafe { (vld3q_u8(now.as_ptr().cast()), vld3q_u8(then.as_ptr().cast())) };
        let (bright, dark) = (luma(now), luma(then));
        let difference = |bright, dark| {
            vqmovn_s16(vsubq_s16(vreinterpretq_s16_u16(vsubl_u8(bright, dark)), vdupq_n_s16(1)))
        };
        let change = vcombine_s8(
            difference(vget_low_u8(bright), vget_low_u8(dark)),
            difference(vget_high_u8(bright), vget_high_u8(dark)),
        );
        let values = int8x16x4_t(centred(now.0), centred(now.1), centred(now.2), change);
        // SAFETY: the reference covers the 64 bytes written.
        unsafe { vst4q_s8(pixels.as_mut_ptr().cast(), values) };
    }
    pixels::run(rgb_rest, before_rest, tensor_rest);
}

/// Less 128.
#[inline]
#[target_feature(enable = "neon")]
fn centred(x: uint8x16_t) -> int8x16_t {
    vreinterpretq_s8_u8(veorq_u8(x, vdupq_n_u8(128)))
}

/// At most 255 * 256 before the shift.
#[inline]
#[target_feature(enable = "neon")]
fn luma(uint8x16x3_t(red, green, blue): uint8x16x3_t) -> uint8x16_t {
    let eight = |red, green, blue| {
        let sum: uint16x8_t = vmull_u8(red, vdup_n_u8(77));
        vrshrn_n_u16::<8>(vmlal_u8(vmlal_u8(sum, green, vdup_n_u8(150)), blue, vdup_n_u8(29)))
    };
    let low = eight(vget_low_u8(red), vget_low_u8(green), vget_low_u8(blue));
    vcombine_u8(low, eight(vget_high_u8(red), vget_high_u8(green), vget_high_u8(blue)))
}
