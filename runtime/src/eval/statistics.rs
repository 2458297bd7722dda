//! Figures from counts and scores, with their bounds.

/// Two-sided 95 % of the normal distribution.
const Z: f64 = 1.959_964;
/// What a one-sided bound leaves to chance.
const TAIL: f64 = 0.05;

/// Decisions at one threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// True and said.
    pub hits: u64,
    /// True and not said.
    pub misses: u64,
    /// Said and not true.
    pub false_alarms: u64,
}

impl Counts {
    /// Of scored snippets (score, truth) at a threshold.
    #[must_use]
    pub fn at(points: &[(f32, bool)], threshold: f32) -> Self {
        let mut counts = Self::default();
        for &(score, truth) in points {
            match (truth, score >= threshold) {
                (true, true) => counts.hits += 1,
                (true, false) => counts.misses += 1,
                (false, true) => counts.false_alarms += 1,
                (false, false) => {}
            }
        }
        counts
    }

    /// Share of what is true that was said; `None` where nothing is true.
    #[must_use]
    pub fn recall(&self) -> Option<f64> {
        ratio(self.hits, self.hits + self.misses)
    }

    /// Share of what was said that is true; `None` where nothing was said.
    #[must_use]
    pub fn precision(&self) -> Option<f64> {
        ratio(self.hits, self.hits + self.false_alarms)
    }

    /// Harmonic mean of the two; `None` where nothing is true.
    #[must_use]
    pub fn f1(&self) -> Option<f64> {
        self.recall()?;
        ratio(2 * self.hits, 2 * self.hits + self.misses + self.false_alarms)
    }
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Average precision: the mean, over what is true, of the precision at its score. Of equal scores the true ones come
/// last. `None` where nothing is true.
#[must_use]
pub fn average_precision(points: &[(f32, bool)]) -> Option<f64> {
    let mut order: Vec<_> = points.iter().collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let (mut hits, mut sum) = (0u64, 0.0);
    for (rank, (_, truth)) in (1u64..).zip(order) {
        if *truth {
            hits += 1;
            sum += hits as f64 / rank as f64;
        }
    }
    (hits > 0).then(|| sum / hits as f64)
}

/// 95 % Wilson interval of a share; (0, 1) when nothing was counted.
#[must_use]
pub fn wilson(part: u64, whole: u64) -> (f64, f64) {
    if whole == 0 {
        return (0.0, 1.0);
    }
    let (n, p) = (whole as f64, part as f64 / whole as f64);
    let middle = p + Z * Z / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    (((middle - half) / scale).max(0.0), ((middle + half) / scale).min(1.0))
}

/// One-sided 95 % upper bound of a rate (Poisson, exact): `count` in `hours`; infinite without hours.
#[must_use]
pub fn rate_bound(count: u64, hours: f64) -> f64 {
    if hours <= 0.0 {
        return f64::INFINITY;
    }
    let (mut low, mut high) = (count as f64, 2.0 * count as f64 + 10.0);
    for _ in 0..60 {
        let middle = 0.5 * (low + high);
        if poisson_at_most(count, middle) > TAIL { low = middle } else { high = middle }
    }
    high / hours
}

/// Probability of at most `count` events where `mean` are expected.
fn poisson_at_most(count: u64, mean: f64) -> f64 {
    let (mut logarithm, mut sum) = (-mean, (-mean).exp());
    for k in 1..=count {
        logarithm += mean.ln() - (k as f64).ln();
        sum += logarithm.exp();
    }
    sum
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn average_precision_by_hand() {
        let points = [(0.9, true), (0.8, false), (0.7, true), (0.1, false)];
        assert!((average_precision(&points).unwrap() - (1.0 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
        assert_eq!(average_precision(&[(0.5, false)]), None);
        // No credit for an order among equals.
        assert!((average_precision(&[(0.5, true), (0.5, false)]).unwrap() - 0.5).abs() < 1e-12);
    }

    #[test]
    fn counts_by_hand() {
        let points = [(0.9, true), (0.8, false), (0.7, true), (0.1, false)];
        let counts = Counts::at(&points, 0.75);
        assert_eq!(counts, Counts { hits: 1, misses: 1, false_alarms: 1 });
        assert_eq!((counts.recall(), counts.precision(), counts.f1()), (Some(0.5), Some(0.5), Some(0.5)));
        assert_eq!(Counts::default().f1(), None);
    }

    #[test]
    fn bounds_as_in_the_tables() {
        let (low, high) = wilson(8, 10);
        assert!((low - 0.4902).abs() < 1e-4 && (high - 0.9433).abs() < 1e-4, "{low} {high}");
        assert_eq!(wilson(0, 0), (0.0, 1.0));
        for (count, bound) in [(0, 2.9957), (1, 4.7439), (3, 7.7537), (10, 16.9622)] {
            assert!((rate_bound(count, 1.0) - bound).abs() < 1e-3, "{count}: {}", rate_bound(count, 1.0));
        }
        assert!((rate_bound(0, 3.0) - 0.9986).abs() < 1e-3);
        assert!(rate_bound(2, 0.0).is_infinite());
    }

    proptest! {
        #[test]
        fn figures_stay_in_range(points in prop::collection::vec((0.0f32..1.0, any::<bool>()), 0..60), on in 0.0f32..1.0) {
            let counts = Counts::at(&points, on);
            let there = points.iter().filter(|p| p.1).count() as u64;
            prop_assert_eq!(counts.hits + counts.misses, there);
            prop_assert_eq!(average_precision(&points).is_some(), there > 0);
            for figure in [average_precision(&points), counts.f1(), counts.recall(), counts.precision()] {
                prop_assert!(figure.is_none_or(|f| (0.0..=1.0).contains(&f)));
            }
        }
    }
}
