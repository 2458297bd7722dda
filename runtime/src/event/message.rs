//! The event as it is published: version 1 of the payload (docs/reference/schemas/event.json).
//!
//! Numbers are rounded to a fixed number of decimals, so that the same snippets serialise to the same bytes.

use serde::{Deserialize, Serialize};

use super::Sense;
use crate::clock::MonoTime;

/// No text in an event is longer.
pub const MAX_TEXT_BYTES: usize = 200;

/// One message about an event.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Version of the payload: 1.
    pub v: u32,
    /// Where in its life the event is.
    #[serde(rename = "type")]
    pub kind: EventType,
    /// Stable over the event's life and over replays; 32 hexadecimal digits.
    pub id: String,
    /// Number of this message; grows by one with each message of the process.
    pub seq: u64,
    /// Device name.
    pub device: String,
    /// The label's id.
    pub label: String,
    /// Heard or seen.
    pub sense: Sense,
    /// A sentence about it, or the label's name.
    pub text: String,
    /// Highest probability so far.
    pub confidence: f64,
    /// How sure the model was of the sentence; 0 when the text is the label's name.
    pub text_confidence: f64,
    /// Whether the source of a sound is in view; null when that cannot be known. True for what is seen.
    pub in_view: Option<bool>,
    /// Beginning on the timeline, in seconds.
    pub start: f64,
    /// Time of this message on the timeline, in seconds: the end of the snippet that caused it.
    pub time: f64,
    /// Seconds from the beginning to the newest snippet in which it was sensed.
    pub duration: f64,
    /// Index of the snippet that caused the message.
    pub snippet: u64,
    /// Which modalities were missing; null when none was.
    pub degraded: Option<Degraded>,
    /// Residual offset between sound and picture in milliseconds.
    pub sync_error_ms: Option<f64>,
    /// How unusual the snippet was (z-score).
    pub surprise: Option<f64>,
    /// Why it ended; only with `end`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<EndReason>,
    /// How the timeline relates to other clocks.
    pub clock: ClockStamp,
}

/// Where in its life an event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    /// It begins.
    New,
    /// Something about it changed, or it goes on.
    Update,
    /// It is over.
    End,
}

/// Why an event ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// It is sensed no more.
    Faded,
    /// It lasted as long as an event may.
    MaxDuration,
    /// Its modality was away for too long.
    SourceLost,
    /// The program stops.
    Shutdown,
    /// The recording is over.
    ClipEnd,
    /// The model's state was reset.
    Reset,
    /// Its sense was paused by command.
    Paused,
}

/// Which modality was missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Degraded {
    /// There was no picture.
    AudioOnly,
    /// There was no sound.
    VideoOnly,
    /// There was neither: only an `end` can say so.
    NoInput,
}

impl Degraded {
    /// From what was there; `None` when both were.
    #[must_use]
    pub fn from_presence(audio: bool, video: bool) -> Option<Self> {
        match (audio, video) {
            (true, true) => None,
            (true, false) => Some(Self::AudioOnly),
            (false, true) => Some(Self::VideoOnly),
            (false, false) => Some(Self::NoInput),
        }
    }
}

/// How the timeline of an event relates to other clocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ClockStamp {
    /// A recording: times count from its start.
    Replay {
        /// Id of the recording.
        clip: String,
    },
    /// A board: times count from boot.
    Live {
        /// `time` in milliseconds of the monotonic clock.
        mono_ms: i64,
        /// Which boot, where known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        boot_id: Option<String>,
        /// `time` on the wall clock, RFC 3339 in UTC; null while the clock has not been set.
        wall: Option<String>,
        /// Whether the wall clock can be relied on.
        synced: bool,
    },
}

/// Seconds with three decimals.
pub(super) fn seconds(time: MonoTime) -> f64 {
    round(time.as_secs_f64(), 1e3)
}

/// A probability, z-score or number of milliseconds with three decimals; what is not finite becomes 0.
pub(super) fn rounded(value: f32) -> f64 {
    round(f64::from(value), 1e3)
}

fn round(value: f64, scale: f64) -> f64 {
    // Adding zero turns −0 into 0.
    if value.is_finite() { (value * scale).round() / scale + 0.0 } else { 0.0 }
}

/// `text` on one line, without control characters, at most `limit` bytes.
pub(crate) fn bounded(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    for c in text.trim().chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > limit {
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_bounded_decimals() {
        assert_eq!(serde_json::to_string(&rounded(0.873_46)).unwrap(), "0.873");
        assert_eq!(serde_json::to_string(&rounded(-0.000_01)).unwrap(), "0.0");
        assert_eq!(serde_json::to_string(&rounded(f32::NAN)).unwrap(), "0.0");
        assert_eq!(serde_json::to_string(&seconds(MonoTime(1_234_567_890))).unwrap(), "1.235");
    }

    #[test]
    fn text_is_one_bounded_line() {
        assert_eq!(bounded(" a dog\nbarks\u{7} ", 200), "a dogbarks");
        assert_eq!(bounded("äää", 5), "ää");
    }
}
