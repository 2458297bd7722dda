//! One monotonic timeline for sound and picture, cut into snippets of 0.96 s.
//!
//! [`assembler`] places samples and frames by their time stamps and closes snippets; [`choice`] tells
//! which frames are worth converting; [`drift`] measures how far a sound card's clock is off; [`snippet`] is what comes out, [`pool`] where its memory comes from. Reasons and
//! budgets: `docs/design/time.md`.

pub mod assembler;
pub mod choice;
pub mod drift;
mod picture;
pub mod pool;
pub mod snippet;
mod sound;

pub use assembler::{Assembler, AssemblerConfig, AssemblerCounters, Poll, Push};
pub use choice::FrameChoice;
pub use drift::{Drift, DriftEstimator};
pub use pool::{Pool, Slot, SnippetPool};
pub use snippet::Snippet;

#[cfg(test)]
mod property_tests;
