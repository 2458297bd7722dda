//! Why an event was sent, or was not.
//!
//! One record for each event and for each excursion above the `off` threshold that came to no event, so that "it did
//! not ring" can be answered with a number. Off by default; bounded: the oldest record makes room and is counted.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::Sense;

/// What became of an excursion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// An event was sent.
    Emitted,
    /// It never reached the `on` threshold.
    BelowThreshold,
    /// It was above the threshold for too few snippets.
    TooShort,
    /// It came too soon after the last event of this label.
    CoolingDown,
    /// The label is switched off.
    Disabled,
    /// Quiet hours, or muted.
    Quiet,
}

/// One record. Serialises as the payload of the `why` topic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// Version of the payload: 1.
    pub v: u32,
    /// Device name.
    pub device: String,
    /// Time of the decision on the timeline, in seconds.
    pub time: f64,
    /// Snippet of the decision.
    pub snippet: u64,
    /// The label's id.
    pub label: String,
    /// Heard or seen.
    pub sense: Sense,
    /// Highest probability.
    pub score: f64,
    /// The `on` threshold that it was held against.
    pub threshold: f64,
    /// What became of it.
    pub decision: Decision,
    /// Id of the event, where there is one.
    pub event: Option<String>,
}

/// The newest records.
#[derive(Debug)]
pub struct WhyLog {
    records: VecDeque<Why>,
    capacity: usize,
    dropped: u64,
}

impl WhyLog {
    /// Holds at most `capacity` records.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { records: VecDeque::with_capacity(capacity), capacity, dropped: 0 }
    }

    /// Appends; the oldest record makes room.
    pub fn push(&mut self, why: Why) {
        if self.capacity == 0 {
            self.dropped += 1;
            return;
        }
        if self.records.len() == self.capacity {
            self.records.pop_front();
            self.dropped += 1;
        }
        self.records.push_back(why);
    }

    /// Takes the oldest record.
    pub fn pop(&mut self) -> Option<Why> {
        self.records.pop_front()
    }

    /// Records lost because nobody took them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_and_counts_the_rest() {
        let mut log = WhyLog::new(2);
        for snippet in 0..5 {
            log.push(Why {
                v: 1,
                device: "d".into(),
                time: 0.0,
                snippet,
                label: "dog_bark".into(),
                sense: Sense::Hear,
                score: 0.5,
                threshold: 0.6,
                decision: Decision::BelowThreshold,
                event: None,
            });
        }
        assert_eq!(log.dropped(), 3);
        assert_eq!(log.pop().map(|w| w.snippet), Some(3));
        assert_eq!(log.pop().map(|w| w.snippet), Some(4));
        assert_eq!(log.pop(), None);
    }
}
