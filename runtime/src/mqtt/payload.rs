//! Payloads beside events: availability, state and surprise, version 1.

use serde::{Deserialize, Serialize};

use crate::command::Standing;

/// Availability while connected. Plain text, as Home Assistant expects it.
pub const ONLINE: &str = "online";
/// Availability after a clean end, and the last will.
pub const OFFLINE: &str = "offline";

/// What the device is and does; retained on the `state` topic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Version of the payload: 1.
    pub v: u32,
    /// Device name.
    pub device: String,
    /// Version of the program.
    pub version: String,
    /// The bundle in use; null while there is none.
    pub bundle: Option<BundleState>,
    /// State of the camera.
    pub camera: SourceState,
    /// State of the microphone.
    pub microphone: SourceState,
    /// Mean time to work on a snippet over the time that it lasts; below 1 it keeps up.
    pub realtime_factor: Option<f64>,
    /// Snippets were skipped in the last half minute because the work was late.
    #[serde(default)]
    pub shedding: bool,
    /// Resident memory in KiB.
    pub rss_kib: Option<u64>,
    /// Kernels of the matrix products, as chosen for this CPU.
    pub kernels: Option<String>,
    /// Profile of the board; null in a replay.
    #[serde(default)]
    pub profile: Option<String>,
    /// Load and heat of the board; null in a replay.
    pub board: Option<BoardState>,
    /// Drift of the microphone's clock against the monotonic one, in parts per million.
    pub drift_ppm: Option<f64>,
    /// Seconds since the start of the program.
    pub uptime: f64,
    /// What has been counted since then.
    pub counters: Counters,
    /// Why messages are not kept on disk although they should be; null if they are, or need not.
    #[serde(default)]
    pub outbox_fault: Option<String>,
    /// Settings in force and where they come from.
    #[serde(flatten)]
    pub standing: Standing,
}

/// The bundle in use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleState {
    /// Name.
    pub name: String,
    /// Version.
    pub version: String,
    /// SHA-256 of its manifest.
    pub id: String,
}

/// Load and heat of the board.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BoardState {
    /// How much of the work is done: `full`, `fewer_frames`, `alternate_snippets` or `audio_only`.
    pub duty: girasol_board::Duty,
    /// Snippets left out because of that.
    pub shed: u64,
    /// Temperature of the hottest zone in use, in °C.
    pub temperature: Option<f32>,
    /// The supply voltage is too low; null where nothing tells.
    pub under_voltage: Option<bool>,
    /// The processor is slowed down by heat; null where nothing tells.
    pub throttled: Option<bool>,
}

/// State of a source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceState {
    /// Not configured, or not part of the recording.
    #[default]
    Absent,
    /// Never seen so far; looked for.
    Waiting,
    /// Data comes.
    Healthy,
    /// Data is late.
    Stalled,
    /// The device is gone.
    Lost,
    /// It is being opened again.
    Reopening,
    /// Switched off.
    Muted,
    /// The recording is over.
    Ended,
}

impl SourceState {
    /// The word for it in the state message.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Waiting => "waiting",
            Self::Healthy => "healthy",
            Self::Stalled => "stalled",
            Self::Lost => "lost",
            Self::Reopening => "reopening",
            Self::Muted => "muted",
            Self::Ended => "ended",
        }
    }
}

/// What has been counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Snippets worked on.
    pub snippets: u64,
    /// Snippets skipped because the work was late.
    pub skipped: u64,
    /// Resets of the model's state.
    pub resets: u64,
    /// Messages waiting or not yet acknowledged.
    pub queued: u64,
    /// Messages acknowledged.
    pub acked: u64,
    /// Messages dropped to make room.
    pub dropped: u64,
    /// Messages dropped because of their age.
    pub expired: u64,
    /// Messages refused for good by the broker.
    pub poison: u64,
    /// Connections to the broker after the first.
    pub reconnects: u64,
}

/// How unusual a snippet was, on the `surprise` topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Surprise {
    /// Version of the payload: 1.
    pub v: u32,
    /// Device name.
    pub device: String,
    /// End of the snippet on the timeline, in seconds.
    pub time: f64,
    /// Index of the snippet.
    pub snippet: u64,
    /// Error of the prediction as a z-score over the last minutes.
    pub surprise: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_s_state_has_one_word() {
        use SourceState::{Absent, Ended, Healthy, Lost, Muted, Reopening, Stalled, Waiting};
        for state in [Absent, Waiting, Healthy, Stalled, Lost, Reopening, Muted, Ended] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
    }
}
