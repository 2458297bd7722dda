//! Any sample rate → 16 kHz, by a fixed polyphase windowed sinc.
//!
//! One filter per output phase, computed once: a sinc cut off at 95 % of the lower Nyquist frequency under a Kaiser
//! window (β 8, about −80 dB), 32 zero crossings to each side. Output sample `n` stands at exactly input position
//! `n · in / 16 000`: the filter's delay is compensated, so time stamps need no correction. Sums are made in a fixed
//! order (`girasol_ops::filter`), so the same build gives the same samples. At 16 kHz the input passes through untouched.

// Phases and positions are bounded by the rate limits; samples are clamped before they are narrowed.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use girasol_ops::{
    Kernel,
    filter::{Filter, GROUP, STEP},
};

use crate::source::SAMPLE_RATE;

/// Lowest input rate, Hz.
pub const MIN_RATE: u32 = 8_000;
/// Highest input rate, Hz.
pub const MAX_RATE: u32 = 192_000;

const CROSSINGS: f64 = 32.0;
const CUTOFF: f64 = 0.95;
const KAISER_BETA: f64 = 8.0;
/// More phases than this are interpolated between this many.
const MAX_PHASES: usize = 1_024;
/// Input samples taken at a time.
const CHUNK: usize = 1_024;

/// Converts one stream of samples to 16 kHz. Allocates only in [`Resampler::new`].
pub struct Resampler {
    /// Output positions advance by `step / phases` input samples.
    step: usize,
    phases: usize,
    /// Taps to each side, with zeros at the ends that make them whole steps of the kernel.
    half: usize,
    /// Rows of `2·half` coefficients; one row per phase, or `MAX_PHASES + 1` rows to interpolate between.
    table: Vec<f32>,
    rows: usize,
    /// Input not yet done with; `history[i]` is input sample `first + i` with `half` zeros before the start.
    history: Vec<f32>,
    /// Next output: integer position in `history` of its first tap, and its phase.
    position: usize,
    phase: usize,
    filter: Filter,
    bypass: bool,
}

impl Resampler {
    /// A resampler from `rate` Hz; `None` outside [`MIN_RATE`] … [`MAX_RATE`].
    #[must_use]
    pub fn new(rate: u32) -> Option<Self> {
        if !(MIN_RATE..=MAX_RATE).contains(&rate) {
            return None;
        }
        let common = greatest_common_divisor(rate, SAMPLE_RATE);
        let (step, phases) = ((rate / common) as usize, (SAMPLE_RATE / common) as usize);
        // The cut-off in cycles per input sample, times two.
        let cutoff = CUTOFF * (f64::from(SAMPLE_RATE) / f64::from(rate)).min(1.0);
        let width = (CROSSINGS / cutoff).ceil();
        let half = (width as usize).next_multiple_of(STEP / 2);
        let rows = phases.min(MAX_PHASES);
        let mut table = Vec::with_capacity((rows + 1) * 2 * half);
        for row in 0..=rows {
            push_filter(&mut table, half, width, cutoff, row as f64 / rows as f64);
        }
        let mut history = Vec::with_capacity(2 * half + CHUNK);
        // Zeros before the start, so that the first output is centred on the first input.
        history.resize(half - 1, 0.0);
        let bypass = rate == SAMPLE_RATE;
        let filter = Filter::new(Kernel::best()).ok()?;
        Some(Self { step, phases, half, table, rows, history, position: 0, phase: 0, filter, bypass })
    }

    /// Takes samples in [−1, 1] and hands every output sample that is ready to `sink`.
    pub fn process(&mut self, input: &[f32], mut sink: impl FnMut(i16)) {
        if self.bypass {
            input.iter().for_each(|&x| sink(quantise(x)));
            return;
        }
        for chunk in input.chunks(CHUNK) {
            self.history.extend_from_slice(chunk);
            self.drain(&mut sink);
        }
    }

    /// Ends the stream: hands out what still waited for samples to come, as if zeros followed.
    pub fn finish(&mut self, mut sink: impl FnMut(i16)) {
        if self.bypass {
            return;
        }
        let zeros = [0.0; CHUNK];
        let mut missing = self.half;
        while missing > 0 {
            let now = missing.min(CHUNK);
            self.history.extend_from_slice(&zeros[..now]);
            self.drain(&mut sink);
            missing -= now;
        }
    }

    /// Produces while a whole filter fits, then forgets the input that no filter needs any more.
    fn drain(&mut self, sink: &mut impl FnMut(i16)) {
        loop {
            let mut group = [(0, 0); GROUP];
            let mut count = 0;
            while count < GROUP && self.position + 2 * self.half <= self.history.len() {
                group[count] = (self.position, self.phase);
                count += 1;
                self.phase += self.step;
                self.position += self.phase / self.phases;
                self.phase %= self.phases;
            }
            // What does not fill a group is computed beside itself.
            for rest in count.max(1)..GROUP {
                group[rest] = group[0];
            }
            match count {
                0 => break,
                _ => self.outputs(group).into_iter().take(count).for_each(|x| sink(quantise(x))),
            }
        }
        let done = self.position.min(self.history.len());
        self.history.drain(..done);
        self.position -= done;
    }

    /// The output samples at four positions and phases.
    fn outputs(&self, group: [(usize, usize); GROUP]) -> [f32; GROUP] {
        let taps = 2 * self.half;
        let windows = group.map(|(position, _)| &self.history[position..position + taps]);
        let row = |row: usize| &self.table[row * taps..(row + 1) * taps];
        if self.phases == 1 {
            return self.filter.run(row(0), windows);
        }
        if self.rows == self.phases {
            return self.filter.run_each(group.map(|(_, phase)| row(phase)), windows);
        }
        let at = group.map(|(_, phase)| phase as f32 * self.rows as f32 / self.phases as f32);
        let low = self.filter.run_each(at.map(|at| row(at as usize)), windows);
        let high = self.filter.run_each(at.map(|at| row(at as usize + 1)), windows);
        std::array::from_fn(|i| low[i] + at[i].fract() * (high[i] - low[i]))
    }
}

/// Appends the `2·half` coefficients for an output `fraction` of a sample after the tap `half − 1`; they sum to 1, and are 0
/// beyond `width`.
fn push_filter(table: &mut Vec<f32>, half: usize, width: f64, cutoff: f64, fraction: f64) {
    let coefficient = |tap: usize| {
        let distance = tap as f64 - (half as f64 - 1.0) - fraction;
        let x = std::f64::consts::PI * distance * cutoff;
        let sinc = if x.abs() < 1e-12 { 1.0 } else { x.sin() / x };
        sinc * kaiser(distance / width)
    };
    let sum: f64 = (0..2 * half).map(coefficient).sum();
    table.extend((0..2 * half).map(|tap| (coefficient(tap) / sum) as f32));
}

/// Kaiser window at `x` in [−1, 1]; 0 outside.
fn kaiser(x: f64) -> f64 {
    let inside = 1.0 - x * x;
    if inside < 0.0 { 0.0 } else { bessel_i0(KAISER_BETA * inside.sqrt()) / bessel_i0(KAISER_BETA) }
}

/// Modified Bessel function of the first kind and order 0, by its power series.
fn bessel_i0(x: f64) -> f64 {
    let (mut term, mut sum) = (1.0, 1.0);
    for k in 1..64 {
        term *= (x / (2.0 * f64::from(k))).powi(2);
        sum += term;
    }
    sum
}

/// Sample in [−1, 1] → 16 bit, rounded and clamped.
pub(crate) fn quantise(x: f32) -> i16 {
    (x * 32_768.0).round() as i16
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(rate: u32, hertz: f64, seconds: f64) -> Vec<f32> {
        let n = (f64::from(rate) * seconds) as usize;
        let w = 2.0 * std::f64::consts::PI * hertz / f64::from(rate);
        (0..n).map(|i| (0.5 * (w * i as f64).sin()) as f32).collect()
    }

    fn run(rate: u32, input: &[f32], split: usize) -> Vec<i16> {
        let mut out = Vec::new();
        let mut resampler = Resampler::new(rate).unwrap();
        for part in input.chunks(split) {
            resampler.process(part, |s| out.push(s));
        }
        resampler.finish(|s| out.push(s));
        out
    }

    #[test]
    fn a_tone_keeps_its_phase_and_level_at_every_rate() {
        for rate in [8_000, 11_025, 12_345, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000] {
            let hertz = 1_000.0;
            let out = run(rate, &tone(rate, hertz, 0.5), 1_000);
            assert!(out.len().abs_diff(8_000) <= 2, "{rate}: {} samples", out.len());
            for (n, &s) in out.iter().enumerate().skip(200).take(7_500) {
                let want = 0.5 * (2.0 * std::f64::consts::PI * hertz * n as f64 / 16_000.0).sin() * 32_768.0;
                assert!((f64::from(s) - want).abs() < 8.0, "{rate} Hz, sample {n}: {s}, want {want}");
            }
        }
    }

    #[test]
    fn what_would_alias_is_gone() {
        let out = run(48_000, &tone(48_000, 9_000.0, 0.5), 480);
        let peak = out[200..7_800].iter().map(|s| s.unsigned_abs()).max().unwrap();
        assert!(peak < 6, "9 kHz leaves {peak}");
    }

    #[test]
    fn the_split_of_the_input_does_not_matter() {
        let input = tone(44_100, 440.0, 0.3);
        let whole = run(44_100, &input, input.len());
        for split in [1, 7, 160, 4_410] {
            assert!(run(44_100, &input, split) == whole, "split {split}");
        }
    }

    #[test]
    fn sixteen_kilohertz_passes_through() {
        let samples: Vec<i16> = (-500..500).map(|i| i * 65).collect();
        let input: Vec<f32> = samples.iter().map(|&s| f32::from(s) / 32_768.0).collect();
        assert_eq!(run(16_000, &input, 17), samples);
    }

    #[test]
    fn memory_stays_what_it_was() {
        let mut resampler = Resampler::new(44_100).unwrap();
        let before = resampler.history.capacity();
        for _ in 0..50 {
            resampler.process(&[0.1; 5_000], |_| ());
        }
        assert_eq!(resampler.history.capacity(), before);
    }
}
