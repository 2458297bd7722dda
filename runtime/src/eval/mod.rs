//! Evaluation: what the program says of recordings, held against what somebody wrote down about them.
//!
//! [`Truth`] is read from a table (docs/reference/eval.md); [`Scoreboard`] takes each clip's scores and events and gives
//! counts, average precision, recall and false alarms per label. Nothing here reads media or runs the model.

mod score;
mod statistics;
mod truth;

pub use score::{ClipResult, LabelRow, Made, Scoreboard, SnippetScores, SourceRow};
pub use statistics::{Counts, average_precision, rate_bound, wilson};
pub use truth::{ClipTruth, Interval, Kind, LabelKey, Question, State, Truth};
