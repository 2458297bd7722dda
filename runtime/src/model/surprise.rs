//! Surprise: how far the latent model's prediction of this snippet was off, against what is usual here.

use heapless::HistoryBuf;

/// Errors remembered: about eight minutes.
const WINDOW: usize = 512;
/// Fewer errors than this say nothing about what is usual.
const WARM_UP: usize = 32;

/// Running z-score of the prediction error. Bounded; nothing of it is media.
#[derive(Debug, Default)]
pub(crate) struct Surprise {
    errors: HistoryBuf<f32, WINDOW>,
}

impl Surprise {
    /// Z-score of `error` against the window before it, then adds it. `None` while warming up.
    pub(crate) fn score(&mut self, error: f32) -> Option<f32> {
        let z = (self.errors.len() >= WARM_UP).then(|| {
            let n = self.errors.len() as f32;
            let mean = self.errors.as_slice().iter().sum::<f32>() / n;
            let variance = self.errors.as_slice().iter().map(|e| (e - mean).powi(2)).sum::<f32>() / n;
            // The floor keeps a perfectly predictable scene (a test pattern) from dividing by nothing.
            (error - mean) / variance.sqrt().max(1e-3)
        });
        self.errors.write(error);
        z
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.errors.clear();
    }
}

/// Mean squared difference of two equally long token sets.
pub(crate) fn prediction_error(predicted: &[f32], actual: &[f32]) -> f32 {
    let sum: f32 = predicted.iter().zip(actual).map(|(p, a)| (p - a).powi(2)).sum();
    sum / actual.len().max(1) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_stands_out_and_only_after_the_warm_up() {
        let mut surprise = Surprise::default();
        for i in 0..WARM_UP {
            let wobble = if i % 2 == 0 { 0.01 } else { -0.01 };
            assert_eq!(surprise.score(1.0 + wobble), None);
        }
        let z = surprise.score(1.2).unwrap();
        assert!((z - 20.0).abs() < 0.5, "{z}");
        surprise.clear();
        assert_eq!(surprise.score(1.0), None);
    }

    #[test]
    fn the_error_is_a_mean_square() {
        assert_eq!(prediction_error(&[1.0, 2.0], &[0.0, 4.0]), 2.5);
    }
}
