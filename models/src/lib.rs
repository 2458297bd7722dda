//! The model bundle: what a directory of graphs, labels and words must look like to be run.
//!
//! A bundle is a directory with a `manifest.json` and the files that it lists, each with its size and SHA-256.
//! [`Bundle::open`] checks everything before anything is run and refuses what it does not understand: a newer format,
//! a runtime too old, a geometry other than the frozen one (docs/decisions/0004-graph-abi.md), a damaged file.

mod bundle;
mod manifest;
mod questions;
mod text;

pub use bundle::{Bundle, BundleError};
pub use manifest::{
    Absent, Affine, FORMAT, FusedActivation, Geometry, GoldenFile, GraphFile, Graphs, InView, Label, Labels,
    Manifest, Prompts, Quantisation, QuantisedNode, Text, Threshold, ThresholdChoice, Thresholds,
};
pub use questions::{QuestionForm, QuestionKind, Questions, Replies, normalise};
pub use text::Tokenizer;
