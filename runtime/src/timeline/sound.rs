//! Sound on the timeline's grid of 16 kHz: where each block's samples go.
//!
//! Inside one run of blocks samples follow each other untouched. The time stamps steer only slowly: their distance
//! from the run is smoothed over [`SMOOTHING`] samples (with the measured drift fed forward), and when it exceeds
//! [`DEADBAND`] a block is stretched or squeezed by a few samples, by linear interpolation. A distance beyond
//! [`RESYNC`], or a block marked as a discontinuity, starts a new run at its own time stamp. All memory is a ring
//! of fixed size.

// Grid positions come from times within the ring; ring indices are remainders.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)]

use super::{
    assembler::{AssemblerCounters, Push, WINDOW},
    drift::{Drift, DriftEstimator},
    snippet::{CARRY_SAMPLES, SNIPPET_SAMPLES},
};
use crate::{clock::MonoTime, frontend::mel::PATCH_SAMPLES, source::Block};

/// Nanoseconds of one sample.
const SAMPLE_NANOS: i64 = 62_500;
/// Samples in the ring: the snippets in hand and the past that a patch carries.
const RING: usize = (WINDOW + 1) * SNIPPET_SAMPLES;
/// Time constant of the steering, in samples (2 s).
const SMOOTHING: f64 = 32_000.0;
/// Samples off before anything is inserted or dropped (125 µs).
const DEADBAND: f64 = 2.0;
/// Most that one time stamp may count for, in samples (5 ms): an outlier steers no more than that.
const CLAMP: f64 = 80.0;
/// Samples off beyond which it is no jitter (15 ms).
const RESYNC: f64 = 240.0;
/// One sample in so many may be inserted or dropped.
const MAX_CORRECTION: usize = 128;
/// So many blocks from the past in a row are a clock that was set back.
const LATE_LIMIT: u32 = 25;
/// The drift is used once it is known this well, in ppm.
const TRUSTED_SIGMA: f64 = 50.0;

/// A run of blocks that follow each other.
struct Run {
    /// Grid position of the next sample.
    cursor: i64,
    /// Samples since the run began.
    count: u64,
    blocks: u32,
    last_time: MonoTime,
    /// Smoothed distance of the time stamps from the cursor, in samples.
    error: f64,
}

/// The sound's side of the assembler.
pub(super) struct Sound {
    samples: Box<[i16]>,
    known: Box<[bool]>,
    /// First grid position kept.
    base: i64,
    run: Option<Run>,
    late_blocks: u32,
    /// Just after the last sample placed.
    end: i64,
    /// Sound before this position is in hand or will not come.
    mark: i64,
    /// Mean square of the time stamps' scatter, in samples².
    scatter: f64,
    drift: DriftEstimator,
}

impl Sound {
    pub(super) fn new() -> Self {
        Self {
            samples: vec![0; RING].into(),
            known: vec![false; RING].into(),
            base: -(CARRY_SAMPLES as i64),
            run: None,
            late_blocks: 0,
            end: i64::MIN,
            mark: i64::MIN,
            scatter: 0.0,
            drift: DriftEstimator::new(),
        }
    }

    /// Places a block that begins `offset` nanoseconds after the grid's origin.
    pub(super) fn push(&mut self, block: &Block, offset: i64, counters: &mut AssemblerCounters) -> Push {
        let target = offset as f64 / SAMPLE_NANOS as f64;
        let length = block.len();
        if length == 0 {
            return Push::Accepted;
        }
        if target + (length + length / MAX_CORRECTION + 2) as f64 >= (self.base + RING as i64) as f64 {
            self.mark = self.mark.max(offset / SAMPLE_NANOS);
            return Push::Full;
        }
        if self.is_late(block, target) {
            self.late_blocks += 1;
            self.place(target.round() as i64, length, block.samples(), counters);
            return Push::Accepted;
        }
        self.late_blocks = 0;
        let (at, placed) = self.follow(block, target, counters);
        self.place(at, placed, block.samples(), counters);
        Push::Accepted
    }

    /// A block from the past (late, repeated, reordered), which is placed without moving the run.
    fn is_late(&self, block: &Block, target: f64) -> bool {
        let Some(run) = &self.run else { return false };
        if block.discontinuity || self.late_blocks >= LATE_LIMIT {
            return false;
        }
        let distance = target - run.cursor as f64;
        distance < -RESYNC || (block.time <= run.last_time && distance <= -(block.len() as f64) / 2.0)
    }

    /// Continues the run with a block or starts a new one; where it goes and how many samples it becomes.
    fn follow(&mut self, block: &Block, target: f64, counters: &mut AssemblerCounters) -> (i64, usize) {
        let length = block.len();
        let continues = |run: &Run| !block.discontinuity && (target - run.cursor as f64).abs() <= RESYNC;
        if !self.run.as_ref().is_some_and(continues) {
            counters.audio_resyncs += u64::from(self.run.is_some());
            self.drift.restart();
            let cursor = target.round() as i64;
            self.run = Some(Run { cursor, count: 0, blocks: 0, last_time: block.time, error: 0.0 });
        }
        let feed = match self.drift.estimate() {
            Some(d) if d.sigma_ppm < TRUSTED_SIGMA => -d.ppm.clamp(-1_000.0, 1_000.0) * 1e-6,
            _ => 0.0,
        };
        let Some(run) = &mut self.run else { return (0, 0) };
        self.drift.observe(run.count, block.time);
        run.blocks = run.blocks.saturating_add(1);
        // A plain mean at first, a sliding one later.
        let gain = (length as f64 / (length as f64 + SMOOTHING)).max(1.0 / f64::from(run.blocks));
        let distance = (target - run.cursor as f64).clamp(-CLAMP, CLAMP);
        run.error += gain * (distance - run.error);
        self.scatter += gain * ((distance - run.error).powi(2) - self.scatter);
        let correction = correction(run.error, length);
        run.error += feed * length as f64 - correction as f64;
        let (at, placed) = (run.cursor, (length as i64 + correction) as usize);
        counters.audio_inserted += correction.max(0) as u64;
        counters.audio_dropped += (-correction).max(0) as u64;
        run.cursor += placed as i64;
        run.count += length as u64;
        run.last_time = block.time;
        (at, placed)
    }

    /// Writes `samples`, stretched to `placed`, from position `at` on.
    fn place(&mut self, at: i64, placed: usize, samples: &[i16], counters: &mut AssemblerCounters) {
        for i in 0..placed {
            let position = at + i as i64;
            let index = position.rem_euclid(RING as i64) as usize;
            if position < self.base {
                counters.audio_late_samples += 1;
            } else if self.known[index] {
                counters.audio_duplicate_samples += 1;
            } else {
                self.known[index] = true;
                self.samples[index] = stretched(samples, placed, i);
            }
        }
        self.end = self.end.max(at + placed as i64);
        self.mark = self.mark.max(self.end);
    }

    /// Copies the patch of the snippet that begins at position `start`; returns the share of its own samples known.
    pub(super) fn patch(&self, start: i64, out: &mut [i16; PATCH_SAMPLES]) -> f32 {
        let first = start - CARRY_SAMPLES as i64;
        for (i, sample) in out.iter_mut().enumerate() {
            let index = (first + i as i64).rem_euclid(RING as i64) as usize;
            *sample = if self.known[index] { self.samples[index] } else { 0 };
        }
        let own = (start..start + SNIPPET_SAMPLES as i64).map(|p| p.rem_euclid(RING as i64) as usize);
        own.filter(|&i| self.known[i]).count() as f32 / SNIPPET_SAMPLES as f32
    }

    /// Forgets what no snippet from position `start` on needs.
    pub(super) fn forget_before(&mut self, start: i64) {
        let base = start - CARRY_SAMPLES as i64;
        for position in self.base.max(base - RING as i64)..base {
            let index = position.rem_euclid(RING as i64) as usize;
            self.known[index] = false;
            self.samples[index] = 0;
        }
        self.base = self.base.max(base);
    }

    /// The device was closed: what comes next does not follow.
    pub(super) fn interrupt(&mut self) {
        self.run = None;
        self.late_blocks = 0;
        self.drift.restart();
    }

    /// Nanoseconds after the origin before which sound is in hand or will not come.
    pub(super) fn mark(&self) -> i64 {
        self.mark.saturating_mul(SAMPLE_NANOS)
    }

    /// Nanoseconds after the origin of the end of the last sample placed.
    pub(super) fn end(&self) -> i64 {
        self.end.saturating_mul(SAMPLE_NANOS)
    }

    pub(super) fn drift(&self) -> Option<Drift> {
        self.drift.estimate()
    }

    /// How far placed sound is off, in milliseconds: what is not yet corrected, and the smoothed scatter.
    pub(super) fn sync_error_ms(&self) -> Option<f32> {
        let run = self.run.as_ref()?;
        let per_block = run.count as f64 / f64::from(run.blocks.max(1));
        let gain = (per_block / (per_block + SMOOTHING)).max(1.0 / f64::from(run.blocks.max(1)));
        let noise = self.scatter * gain / (2.0 - gain);
        Some(((run.error.powi(2) + noise).sqrt() * SAMPLE_NANOS as f64 / 1e6) as f32)
    }
}

/// Whole samples to insert (or drop, if negative) into a block that is `error` samples early.
fn correction(error: f64, length: usize) -> i64 {
    if error.abs() < DEADBAND {
        return 0;
    }
    let most = (length / MAX_CORRECTION) as i64;
    (error.trunc() as i64).clamp(-most, most)
}

/// Sample `i` of `samples` stretched to `placed`.
fn stretched(samples: &[i16], placed: usize, i: usize) -> i16 {
    if placed == samples.len() || placed < 2 {
        return samples[i];
    }
    // Position i · (n − 1) / (placed − 1), in integers.
    let scaled = i * (samples.len() - 1);
    let (whole, part) = (scaled / (placed - 1), (scaled % (placed - 1)) as i64);
    let low = i64::from(samples[whole]);
    let high = samples.get(whole + 1).map_or(low, |&s| i64::from(s));
    (low + (high - low) * part / (placed - 1) as i64) as i16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretching_keeps_the_ends_and_the_order() {
        let ramp: Vec<i16> = (0..320).map(|i| i * 100).collect();
        for placed in [318, 320, 322] {
            let out: Vec<i16> = (0..placed).map(|i| stretched(&ramp, placed, i)).collect();
            assert_eq!((out[0], out[placed - 1]), (0, 31_900));
            assert!(out.is_sorted());
        }
    }

    #[test]
    fn corrections_are_bounded() {
        assert_eq!(correction(1.9, 320), 0);
        assert_eq!(correction(70.0, 320), 2);
        assert_eq!(correction(-70.0, 1_600), -12);
        assert_eq!(correction(-70.0, 16), 0);
    }
}
