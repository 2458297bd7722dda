//! How much of the work is done.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The declared steps, lightest load last. Each says what it leaves out of the full work of two pictures and the sound
/// of every snippet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duty {
    /// Everything.
    #[default]
    Full,
    /// One picture in each snippet.
    FewerFrames,
    /// One picture, and every other snippet only; the model is told the gap.
    AlternateSnippets,
    /// The sound of every snippet, no picture.
    AudioOnly,
}

impl Duty {
    /// Every step, full work first.
    pub const ALL: [Self; 4] = [Self::Full, Self::FewerFrames, Self::AlternateSnippets, Self::AudioOnly];

    /// Pictures taken in each snippet, of two.
    #[must_use]
    pub fn frames(self) -> usize {
        match self {
            Self::Full => 2,
            Self::FewerFrames | Self::AlternateSnippets => 1,
            Self::AudioOnly => 0,
        }
    }

    /// Whether snippet number `index` is worked on.
    #[must_use]
    pub fn takes(self, index: u64) -> bool {
        self != Self::AlternateSnippets || index.is_multiple_of(2)
    }

    /// The next lighter step; itself at the last.
    #[must_use]
    pub fn lighter(self) -> Self {
        Self::ALL[(self.position() + 1).min(Self::ALL.len() - 1)]
    }

    /// The next heavier step; itself at full work.
    #[must_use]
    pub fn heavier(self) -> Self {
        Self::ALL[self.position().saturating_sub(1)]
    }

    fn position(self) -> usize {
        Self::ALL.iter().position(|d| *d == self).unwrap_or(0)
    }
}

impl fmt::Display for Duty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::FewerFrames => "fewer frames",
            Self::AlternateSnippets => "alternate snippets",
            Self::AudioOnly => "audio only",
        })
    }
}
