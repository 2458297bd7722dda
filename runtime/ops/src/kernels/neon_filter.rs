//! Filters on NEON, for all aarch64 families: two registers of sums for each of four windows, sixteen taps a round.
//!
//! With one filter a round loads 10 pairs of registers for 64 products in 16 FMLA.

#![allow(clippy::needless_range_loop, reason = "windows index several arrays at once")]

use std::{
    arch::{
        aarch64::{
            float32x4_t, vaddq_f32, vdupq_n_f32, vfmaq_f32, vpaddq_f32, vreinterpretq_f32_f64,
            vreinterpretq_f64_f32, vst1q_f32, vzip1q_f64, vzip2q_f64,
        },
        asm,
    },
    array::from_fn,
};

use crate::filter::{GROUP, STEP};

/// One filter over four windows.
///
/// # Safety
/// All slices must have the same length, a multiple of [`STEP`].
#[target_feature(enable = "neon")]
pub(crate) unsafe fn one(filter: &[f32], windows: [&[f32]; GROUP], results: &mut [f32; GROUP]) {
    let mut coefficients = filter.as_ptr();
    let mut samples = windows.map(<[f32]>::as_ptr);
    let mut sums = [[vdupq_n_f32(0.0); 2]; GROUP];
    for _ in 0..filter.len() / STEP {
        for _ in 0..2 {
            // SAFETY: half a step is left, twice.
            let filter = unsafe { next_pair(&mut coefficients) };
            for index in 0..GROUP {
                // SAFETY: as above; windows are as long as the filter.
                let window = unsafe { next_pair(&mut samples[index]) };
                sums[index] = from_fn(|half| vfmaq_f32(sums[index][half], window[half], filter[half]));
            }
        }
    }
    total(sums, results);
}

/// A filter of its own over each of four windows.
///
/// # Safety
/// All slices must have the same length, a multiple of [`STEP`].
#[target_feature(enable = "neon")]
pub(crate) unsafe fn each(filters: [&[f32]; GROUP], windows: [&[f32]; GROUP], results: &mut [f32; GROUP]) {
    let (mut coefficients, mut samples) = (filters.map(<[f32]>::as_ptr), windows.map(<[f32]>::as_ptr));
    let mut sums = [[vdupq_n_f32(0.0); 2]; GROUP];
    for _ in 0..filters[0].len() / STEP {
        for _ in 0..2 {
            for index in 0..GROUP {
                // SAFETY: half a step is left, twice, of every slice.
                let [filter, window] =
                    unsafe { [next_pair(&mut coefficients[index]), next_pair(&mut samples[index])] };
                sums[index] = from_fn(|half| vfmaq_f32(sums[index][half], window[half], filter[half]));
            }
        }
    }
    total(sums, results);
}

/// Adds up the lanes as [`crate::lanes::total`] does.
#[inline]
#[target_feature(enable = "neon")]
fn total(sums: [[float32x4_t; 2]; GROUP], results: &mut [f32; GROUP]) {
    let [a, b, c, d] = sums.map(|[low, high]| vreinterpretq_f64_f32(vaddq_f32(low, high)));
    let pair =
        |a, b| vaddq_f32(vreinterpretq_f32_f64(vzip1q_f64(a, b)), vreinterpretq_f32_f64(vzip2q_f64(a, b)));
    // SAFETY: the reference covers the 16 bytes written.
    unsafe { vst1q_f32(results.as_mut_ptr(), vpaddq_f32(pair(a, b), pair(c, d))) };
}

/// Loads 32 bytes and moves the pointer on, in one instruction ([`super::neon::next_pair`], of f32).
///
/// # Safety
/// 32 bytes from `pointer` on must be readable and within one allocation.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn next_pair(pointer: &mut *const f32) -> [float32x4_t; 2] {
    let (low, high);
    // SAFETY: the instruction reads the 32 bytes that the caller promises, and leaves the pointer at their end.
    unsafe {
        asm!(
            "ldp {low:q}, {high:q}, [{pointer}], #32",
            pointer = inout(reg) *pointer,
            low = lateout(vreg) low,
            high = lateout(vreg) high,
            options(pure, readonly, nostack, preserves_flags),
        );
    }
    [low, high]
}
