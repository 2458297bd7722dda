//! Pictures on the timeline: for each snippet the frames nearest to its two instants.
//!
//! Only the best candidates are kept, so memory is fixed and order does not matter.

use super::{
    assembler::{AssemblerCounters, Push, WINDOW},
    snippet::{FRAME_TARGETS, FRAMES, SNIPPET_NANOS, Snippet},
};
use crate::source::Frame;

/// Most that a frame may be off its instant; half the distance between two of them.
const REACH: i64 = 240_000_000;

/// The best frame so far for one instant.
#[derive(Default)]
struct Candidate {
    /// Nanoseconds after the snippet's start, if there is a frame.
    offset: Option<i64>,
    frame: Frame,
}

impl Candidate {
    fn distance(&self, k: usize) -> i64 {
        self.offset.map_or(REACH, |offset| (offset - FRAME_TARGETS[k]).abs())
    }
}

/// The picture's side of the assembler.
pub(super) struct Picture {
    /// Candidates of snippet `i` at `i % WINDOW`.
    candidates: [[Candidate; FRAMES]; WINDOW],
    /// First snippet kept.
    base: u64,
    /// Offset from the origin of the latest frame placed.
    end: i64,
    /// Frames before this offset are in hand or will not come.
    mark: i64,
}

impl Picture {
    pub(super) fn new() -> Self {
        Self { candidates: Default::default(), base: 0, end: i64::MIN, mark: i64::MIN }
    }

    /// Takes a frame that stands `offset` nanoseconds after the grid's origin.
    pub(super) fn push(&mut self, frame: &Frame, offset: i64, counters: &mut AssemblerCounters) -> Push {
        counters.frames_lost_by_source += u64::from(frame.dropped_before);
        let index = u64::try_from(offset.div_euclid(SNIPPET_NANOS)).ok().filter(|&i| i >= self.base);
        let Some(index) = index else {
            counters.frames_late += 1;
            return Push::Accepted;
        };
        if index >= self.base + WINDOW as u64 {
            self.mark = self.mark.max(offset);
            counters.frames_lost_by_source -= u64::from(frame.dropped_before);
            return Push::Full;
        }
        let within = offset.rem_euclid(SNIPPET_NANOS);
        let k = usize::from(within >= SNIPPET_NANOS / 2);
        let candidate = &mut self.candidates[slot(index)][k];
        if !frame.has_pixels {
            // Not worth converting, but time goes on.
        } else if candidate.offset.is_none() || (within - FRAME_TARGETS[k]).abs() < candidate.distance(k) {
            candidate.offset = Some(within);
            candidate.frame.copy_from(frame);
        }
        self.end = self.end.max(offset);
        self.mark = self.mark.max(offset);
        Push::Accepted
    }

    /// Whether no later frame can be nearer to the instants of snippet `index`, which starts at `start`.
    pub(super) fn is_certain(&self, index: u64, start: i64) -> bool {
        let candidates = &self.candidates[slot(index)];
        (0..FRAMES).all(|k| self.mark >= start + FRAME_TARGETS[k] + candidates[k].distance(k))
    }

    /// Fills in the frames of snippet `index`.
    pub(super) fn frames(&self, index: u64, out: &mut Snippet) {
        for (k, candidate) in self.candidates[slot(index)].iter().enumerate() {
            out.frame_present[k] = candidate.offset.is_some();
            let offset = candidate.offset.unwrap_or(FRAME_TARGETS[k]);
            #[allow(clippy::cast_possible_truncation, reason = "less than a second, in seconds")]
            let seconds = (offset as f64 / 1e9) as f32;
            out.frame_offset[k] = seconds;
            if candidate.offset.is_some() {
                out.frames[k].copy_from(&candidate.frame);
            }
        }
    }

    /// Forgets all snippets before `index`.
    pub(super) fn forget_before(&mut self, index: u64) {
        for old in self.base.max(index.saturating_sub(WINDOW as u64))..index {
            for candidate in &mut self.candidates[slot(old)] {
                candidate.offset = None;
            }
        }
        self.base = self.base.max(index);
    }

    /// Nanoseconds after the origin before which frames are in hand or will not come.
    pub(super) fn mark(&self) -> i64 {
        self.mark
    }

    /// Nanoseconds after the origin of the latest frame placed.
    pub(super) fn end(&self) -> i64 {
        self.end
    }
}

#[allow(clippy::cast_possible_truncation, reason = "a remainder by WINDOW")]
fn slot(index: u64) -> usize {
    (index % WINDOW as u64) as usize
}
