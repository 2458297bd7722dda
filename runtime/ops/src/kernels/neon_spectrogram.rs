//! Samples of four frames side by side, on NEON.

use std::arch::aarch64::{
    vcombine_s16, vcvtq_f32_s32, vget_low_s16, vld1_s16, vmovl_high_s16, vmovl_s16, vreinterpretq_s16_s32,
    vreinterpretq_s32_s16, vst1q_f32, vzip1q_s16, vzip1q_s32, vzip2q_s32,
};

/// Four samples of each frame, as many frames of each sample.
#[inline(always)]
pub(crate) fn turn(frames: [[i16; 4]; 4]) -> [[f32; 4]; 4] {
    let mut samples = [[0.0; 4]; 4];
    // SAFETY: NEON is part of the target; the references cover the 8 bytes read and the 16 bytes written each time.
    unsafe {
        let wide = |frame: &[i16; 4]| {
            let frame = vld1_s16(frame.as_ptr());
            vcombine_s16(frame, frame)
        };
        // Samples 0 of the first two frames, samples 1, ...
        let first = vreinterpretq_s32_s16(vzip1q_s16(wide(&frames[0]), wide(&frames[1])));
        let second = vreinterpretq_s32_s16(vzip1q_s16(wide(&frames[2]), wide(&frames[3])));
        let pairs = [vzip1q_s32(first, second), vzip2q_s32(first, second)].map(|x| vreinterpretq_s16_s32(x));
        for (pair, samples) in pairs.into_iter().zip(samples.as_chunks_mut::<2>().0) {
            let values = [vmovl_s16(vget_low_s16(pair)), vmovl_high_s16(pair)];
            for (values, samples) in values.into_iter().zip(samples) {
                vst1q_f32(samples.as_mut_ptr(), vcvtq_f32_s32(values));
            }
        }
    }
    samples
}
