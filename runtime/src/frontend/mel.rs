//! Log-mel patch of one snippet: YAMNet's, so that its labels and weights fit (decision 0002).
//!
//! 15 600 samples → 96 frames of 400 samples every 160 → periodic Hann → FFT 512 → magnitude → 64 triangular mel
//! bands → `ln(x + 0.001)`. The arithmetic is `girasol_ops::spectrogram`; everything is allocated in [`LogMel::new`].

use girasol_ops::{
    Kernel,
    spectrogram::{BINS, Band, Spectrogram, TRANSFORM},
};

use crate::source::SAMPLE_RATE;

/// Samples of one patch: 240 carried over from the past and the snippet's own 15 360.
pub const PATCH_SAMPLES: usize = 15_600;
/// Analysis frames of one patch.
pub const MEL_FRAMES: usize = 96;
/// Mel bands.
pub const MEL_BINS: usize = 64;

const FRAME_SAMPLES: usize = 400;
const HOP_SAMPLES: usize = 160;
const MEL_LOW_HZ: f64 = 125.0;
const MEL_HIGH_HZ: f64 = 7_500.0;
const LOG_OFFSET: f32 = 0.001;

/// Computes log-mel patches; keeps its plan and scratch memory.
pub struct LogMel(Spectrogram);

impl LogMel {
    /// Plans the transform and the filters.
    ///
    /// # Panics
    /// Never: the shapes are constants that fit.
    #[must_use]
    pub fn new() -> Self {
        let bands = (0..MEL_BINS).map(mel_band).collect();
        let spectrogram = Spectrogram::new(Kernel::best(), &hann_window(), HOP_SAMPLES, bands, LOG_OFFSET);
        Self(spectrogram.expect("constant shapes"))
    }

    /// Writes the patch's `[96, 64]` log-mel, time-major. Allocates nothing.
    pub fn compute(&mut self, patch: &[i16; PATCH_SAMPLES], out: &mut [f32; MEL_FRAMES * MEL_BINS]) {
        self.0.run(patch, out);
    }
}

impl Default for LogMel {
    fn default() -> Self {
        Self::new()
    }
}

/// Periodic Hann window.
#[allow(clippy::cast_possible_truncation, reason = "computed in f64, used in f32")]
fn hann_window() -> Vec<f32> {
    let step = 2.0 * std::f64::consts::PI / FRAME_SAMPLES as f64;
    (0..FRAME_SAMPLES).map(|n| (0.5 - 0.5 * (step * n as f64).cos()) as f32).collect()
}

/// HTK mel scale.
fn hertz_to_mel(hertz: f64) -> f64 {
    1127.0 * (hertz / 700.0).ln_1p()
}

/// Filter `index`: a triangle in mel space, no normalisation; the DC bin is zero.
#[allow(clippy::cast_possible_truncation, reason = "computed in f64, used in f32")]
fn mel_band(index: usize) -> Band {
    let (low, high) = (hertz_to_mel(MEL_LOW_HZ), hertz_to_mel(MEL_HIGH_HZ));
    let edge = |i: usize| low + (high - low) * i as f64 / (MEL_BINS + 1) as f64;
    let (lower, centre, upper) = (edge(index), edge(index + 1), edge(index + 2));
    let weight = |bin: usize| {
        let mel = hertz_to_mel(bin as f64 * f64::from(SAMPLE_RATE) / TRANSFORM as f64);
        ((mel - lower) / (centre - lower)).min((upper - mel) / (upper - centre)).max(0.0) as f32
    };
    let touched = |bin: &usize| weight(*bin) > 0.0;
    let first = (1..BINS).find(touched).unwrap_or(1);
    let last = (1..BINS).rfind(touched).unwrap_or(first);
    Band { first, weights: (first..=last).map(weight).collect() }
}

#[cfg(test)]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_the_log_of_the_offset() {
        let mut out = [0.0; MEL_FRAMES * MEL_BINS];
        LogMel::new().compute(&[0; PATCH_SAMPLES], &mut out);
        assert!(out.iter().all(|&v| (v - LOG_OFFSET.ln()).abs() < 1e-6));
    }

    #[test]
    fn a_call_leaves_nothing_behind_for_the_next() {
        let mut mel = LogMel::new();
        let noisy: [i16; PATCH_SAMPLES] = std::array::from_fn(|i| ((i * 7919) % 20_011) as i16);
        let (mut first, mut again) = ([0.0; MEL_FRAMES * MEL_BINS], [0.0; MEL_FRAMES * MEL_BINS]);
        mel.compute(&noisy, &mut first);
        mel.compute(&[i16::MAX; PATCH_SAMPLES], &mut again);
        mel.compute(&noisy, &mut again);
        assert_eq!(first, again);
    }
}
