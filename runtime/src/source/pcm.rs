//! Decoded samples waiting to be handed out as blocks of equal size.

use std::collections::VecDeque;

use super::{Block, Read, wav::sample_time};

/// Samples per block of a recording (20 ms).
pub(super) const BLOCK_SAMPLES: usize = 320;

/// A queue of 16 kHz samples that stamps blocks by their position; the first sample is at time 0.
pub(super) struct PcmQueue {
    samples: VecDeque<i16>,
    /// Samples handed out so far.
    position: u64,
}

impl PcmQueue {
    /// A queue for `capacity` samples beyond one block; it grows only if its user breaks that promise.
    pub(super) fn new(capacity: usize) -> Self {
        Self { samples: VecDeque::with_capacity(capacity + BLOCK_SAMPLES), position: 0 }
    }

    pub(super) fn push(&mut self, sample: i16) {
        self.samples.push_back(sample);
    }

    /// Whether a whole block waits.
    pub(super) fn has_block(&self) -> bool {
        self.samples.len() >= BLOCK_SAMPLES
    }

    /// Moves the next block, or what is left, into `out`.
    pub(super) fn take(&mut self, out: &mut Block) -> Read {
        if self.samples.is_empty() {
            return Read::End;
        }
        let count = self.samples.len().min(BLOCK_SAMPLES);
        out.time = sample_time(self.position);
        out.discontinuity = false;
        let buffer = out.samples_mut();
        buffer.clear();
        buffer.extend(self.samples.drain(..count));
        self.position += count as u64;
        Read::Data
    }
}
