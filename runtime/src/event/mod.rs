//! From scores to events: what the model sensed in each snippet becomes `new`, `update` and `end`.
//!
//! A [`Gate`] per label decides when something begins and ends; the [`EventEngine`] turns that into [`Event`]s with a
//! stable id and guarantees that each `new` is followed by exactly one `end`; a [`Why`] record says for each event,
//! and for each one held back, which number decided it. Nothing here waits, blocks or reads a clock: the same
//! snippets give the same events, to the byte.

mod gate;
mod identity;
mod lifecycle;
mod message;
mod settings;
mod why;

#[cfg(test)]
mod tests;

pub use gate::{Gate, GateSettings, Observation, Outcome, Permission, Suppressed};
pub(crate) use identity::rfc3339;
pub use identity::{ClockWall, EventIdentity, Origin, Wall, WallClock};
pub use lifecycle::EventEngine;
pub use message::{ClockStamp, Degraded, EndReason, Event, EventType, MAX_TEXT_BYTES};
pub use settings::{EventSettings, LabelSettings, SenseSettings};
pub use why::{Decision, Why, WhyLog};

use serde::{Deserialize, Serialize};

use crate::clock::MonoTime;

/// What is known of a snippet beside its scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SnippetInfo {
    /// Number of the snippet; grows by one, or by more where snippets were skipped.
    pub index: u64,
    /// Start on the timeline.
    pub start: MonoTime,
    /// End on the timeline.
    pub end: MonoTime,
    /// Seconds from the previous snippet's start to this one's.
    pub dt: f32,
    /// Whether there was sound.
    pub audio_present: bool,
    /// Number of video frames that were there.
    pub frames_present: u8,
    /// Residual offset between sound and picture in milliseconds, when both are there.
    pub sync_error_ms: Option<f32>,
}

/// Probabilities of one snippet, in the order of the manifest's labels.
#[derive(Clone, Copy, Debug)]
pub struct Scores<'a> {
    /// Per audible label: it is heard.
    pub audible: &'a [f32],
    /// Per visible label: it is seen.
    pub visible: &'a [f32],
    /// Per audible label: a visible thing that can make this sound is in view.
    pub source: &'a [f32],
    /// How unusual the snippet was (z-score), where defined.
    pub surprise: Option<f32>,
}

/// The sense that an event comes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sense {
    /// By sound.
    Hear,
    /// By picture.
    See,
}

/// A label of the manifest: `index` counts in `labels.audible` or in `labels.visible`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelRef {
    /// Which of the two lists.
    pub sense: Sense,
    /// Place in the list.
    pub index: usize,
}

/// A sentence about an event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sentence {
    /// The text; empty when none could be written.
    pub text: String,
    /// Mean token probability, 0 to 1.
    pub confidence: f32,
}

/// Writes the sentence of an event, from the model's state after the current snippet.
pub trait Narrator {
    /// A sentence for `label`. Costs a decoder run, so it is asked only for new events and for updates whose text may
    /// have changed.
    fn sentence(&mut self, label: LabelRef) -> Sentence;
}

/// A narrator without words: every event gets its label's name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Narrator for Silent {
    fn sentence(&mut self, _: LabelRef) -> Sentence {
        Sentence::default()
    }
}
