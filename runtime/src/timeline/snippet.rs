//! One snippet: 0.96 s of sound and two frames, with what is known about their presence and time.
//!
//! The privacy promise, as examples that must not compile:
//!
//! ```compile_fail,E0599
//! let _ = girasol::timeline::Snippet::new().clone();
//! ```
//! ```compile_fail,E0277
//! println!("{}", girasol::timeline::Snippet::new());
//! ```
//! ```compile_fail,E0277
//! fn written<T: serde::Serialize>(_: &T) {}
//! written(&girasol::timeline::Snippet::new());
//! ```
//! ```compile_fail,E0624
//! let _ = girasol::timeline::Snippet::new().patch();
//! ```
//! ```compile_fail,E0624
//! let _ = girasol::timeline::Snippet::new().frame(0);
//! ```
//! ```compile_fail,E0616
//! let _ = girasol::timeline::Snippet::new().patch;
//! ```
//! ```compile_fail,E0603
//! use girasol::frontend::video::frame_tensor;
//! ```

use std::fmt;

use crate::{
    clock::MonoTime,
    frontend::mel::PATCH_SAMPLES,
    source::{Frame, SAMPLE_RATE},
};

/// Samples of one snippet.
pub const SNIPPET_SAMPLES: usize = 15_360;
/// Samples of the patch that come from before the snippet's start.
pub const CARRY_SAMPLES: usize = PATCH_SAMPLES - SNIPPET_SAMPLES;
/// Frames of one snippet.
pub const FRAMES: usize = 2;
/// Length of one snippet in nanoseconds.
pub const SNIPPET_NANOS: i64 = 960_000_000;
/// Length of one snippet in seconds.
pub const SNIPPET_SECONDS: f32 = 0.96;
/// Where the frames should stand, in nanoseconds after the snippet's start.
pub const FRAME_TARGETS: [i64; FRAMES] = [240_000_000, 720_000_000];

const _: () =
    assert!(SNIPPET_SAMPLES as u64 * 1_000_000_000 == SNIPPET_NANOS.unsigned_abs() * SAMPLE_RATE as u64);

/// What the model gets at a time. A privacy type: no `Clone`, no `Serialize`, no content in `Debug`, samples and
/// pixels readable inside this crate only. Made once (it is 100 KB) and filled again and again.
pub struct Snippet {
    /// Number on the timeline's grid; skipped snippets leave gaps.
    pub index: u64,
    /// Time of its first own sample.
    pub start: MonoTime,
    /// Seconds since the start of the snippet delivered before; 0.96 at the first and without gaps.
    pub dt: f32,
    /// At least half of its sound is there.
    pub audio_present: bool,
    /// Share of its own samples that are there, 0 to 1; the others are zeros.
    pub audio_coverage: f32,
    /// Which of the frames are there.
    pub frame_present: [bool; FRAMES],
    /// Seconds from the snippet's start to each frame; the nominal instant where it is missing.
    pub frame_offset: [f32; FRAMES],
    /// How fast the sound card's clock runs, in parts per million, once known.
    pub drift_ppm: Option<f32>,
    /// How far sound is off its true place on the timeline, in milliseconds (one sigma), while sound is there.
    pub sync_error_ms: Option<f32>,
    pub(super) patch: Box<[i16; PATCH_SAMPLES]>,
    pub(super) frames: [Frame; FRAMES],
}

impl Snippet {
    /// An empty snippet; allocates, so make it once.
    #[must_use]
    pub fn new() -> Self {
        Self {
            index: 0,
            start: MonoTime(0),
            dt: SNIPPET_SECONDS,
            audio_present: false,
            audio_coverage: 0.0,
            frame_present: [false; FRAMES],
            frame_offset: [0.24, 0.72],
            drift_ppm: None,
            sync_error_ms: None,
            patch: Box::new([0; PATCH_SAMPLES]),
            frames: [Frame::new(), Frame::new()],
        }
    }

    /// Time just after its last sample.
    #[must_use]
    pub fn end(&self) -> MonoTime {
        MonoTime(self.start.0.saturating_add(SNIPPET_NANOS))
    }

    /// The samples for the log-mel patch: 240 of the past, then its own; zeros where nothing is known.
    pub(crate) fn patch(&self) -> &[i16; PATCH_SAMPLES] {
        &self.patch
    }

    /// Frame `k`, if it is there.
    pub(crate) fn frame(&self, k: usize) -> Option<&Frame> {
        self.frames.get(k).filter(|_| self.frame_present[k])
    }
}

impl Default for Snippet {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Snippet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snippet")
            .field("index", &self.index)
            .field("start", &self.start)
            .field("dt", &self.dt)
            .field("audio_coverage", &self.audio_coverage)
            .field("frame_present", &self.frame_present)
            .finish_non_exhaustive()
    }
}

impl Drop for Snippet {
    fn drop(&mut self) {
        self.patch.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_prints_no_content() {
        let mut snippet = Snippet::new();
        snippet.patch.fill(1_234);
        assert!(!format!("{snippet:?}").contains("1234"));
        assert!(snippet.frame(0).is_none() && snippet.frame(7).is_none());
    }
}
