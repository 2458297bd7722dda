//! From media to model input: pixels → small frame → tensor, samples → 16 kHz → log-mel patch.
//!
//! The arithmetic is fixed by decisions 0002 and 0003 and by the Python reference
//! `models/train/girasol_train/frontend.py`; golden files in `runtime/tests/goldens` hold both to it.

pub mod bench;
pub mod mel;
pub mod resample;
pub mod video;

#[cfg(test)]
mod golden_tests;
