//! How fast a sound card's clock runs against the timeline, in parts per million.
//!
//! Every second of samples gives one point: the median of `time stamp − samples / 16 000` over its blocks. A line
//! through the last [`POINTS`] points, fitted twice (the second time without outliers), has the drift as its slope.
//! Memory and time per block are bounded.

use crate::{clock::MonoTime, source::SAMPLE_RATE};

/// Points kept: the last two minutes or so.
pub const POINTS: usize = 128;
/// Points needed before anything is said.
const MIN_POINTS: usize = 6;
/// Blocks of one second that are looked at.
const BUCKET: usize = 128;
/// Points further off than this many robust standard deviations are left out of the second fit.
const OUTLIER: f64 = 3.5;
/// Least uncertainty claimed, in ppm: the timeline's own clock is no better.
const FLOOR_PPM: f64 = 0.5;

/// What is known about a clock.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drift {
    /// Rate of the device's clock against the timeline: positive when it delivers more than 16 000 samples a second.
    pub ppm: f64,
    /// Standard error of `ppm`.
    pub sigma_ppm: f64,
}

#[derive(Clone, Copy, Default)]
struct Point {
    /// Device time: samples counted / 16 000, in seconds.
    x: f64,
    /// Time stamp minus device time, in seconds.
    y: f64,
}

/// Estimates the drift of one device.
pub struct DriftEstimator {
    points: heapless::Deque<Point, POINTS>,
    bucket: heapless::Vec<f64, BUCKET>,
    bucket_start: u64,
    origin: Option<MonoTime>,
    estimate: Option<Drift>,
}

impl Default for DriftEstimator {
    fn default() -> Self {
        Self::new()
    }
}

impl DriftEstimator {
    /// Knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            points: heapless::Deque::new(),
            bucket: heapless::Vec::new(),
            bucket_start: 0,
            origin: None,
            estimate: None,
        }
    }

    /// Sample number `count` (since the last [`Self::restart`]) has the time stamp `time`.
    pub fn observe(&mut self, count: u64, time: MonoTime) {
        let origin = *self.origin.get_or_insert(time);
        if count >= self.bucket_start + u64::from(SAMPLE_RATE) {
            self.close_bucket();
            self.bucket_start = count;
        }
        let y = time.since(origin) as f64 / 1e9 - seconds(count);
        // More blocks than this in one second add nothing.
        let _ = self.bucket.push(y);
    }

    /// Samples were lost: what was counted no longer fits the time. The last estimate stays until a new one is ready.
    pub fn restart(&mut self) {
        self.points.clear();
        self.bucket.clear();
        self.bucket_start = 0;
        self.origin = None;
    }

    /// The drift, once a few seconds have been seen.
    #[must_use]
    pub fn estimate(&self) -> Option<Drift> {
        self.estimate
    }

    fn close_bucket(&mut self) {
        if self.bucket.is_empty() {
            return;
        }
        let y = median(&mut self.bucket);
        self.bucket.clear();
        if self.points.is_full() {
            self.points.pop_front();
        }
        let _ = self.points.push_back(Point { x: seconds(self.bucket_start) + 0.5, y });
        if self.points.len() >= MIN_POINTS {
            self.estimate = self.fit().or(self.estimate);
        }
    }

    /// Two least-squares fits, the second one without the first one's outliers.
    fn fit(&self) -> Option<Drift> {
        let mut points: heapless::Vec<Point, POINTS> = self.points.iter().copied().collect();
        let first = Line::through(&points)?;
        let mut residuals: heapless::Vec<f64, POINTS> =
            points.iter().map(|p| first.residual(*p).abs()).collect();
        // 1.4826 turns a median deviation into a standard deviation; a microsecond is always tolerated.
        let limit = (OUTLIER * 1.4826 * median(&mut residuals)).max(1e-6);
        points.retain(|p| first.residual(*p).abs() <= limit);
        let line = Line::through(&points)?;
        Some(Drift { ppm: -line.slope * 1e6, sigma_ppm: line.sigma * 1e6 + FLOOR_PPM })
    }
}

/// A regression line.
struct Line {
    mean: Point,
    slope: f64,
    /// Standard error of the slope.
    sigma: f64,
}

impl Line {
    fn through(points: &[Point]) -> Option<Self> {
        let n = points.len() as f64;
        if points.len() < 3 {
            return None;
        }
        let mean = Point {
            x: points.iter().map(|p| p.x).sum::<f64>() / n,
            y: points.iter().map(|p| p.y).sum::<f64>() / n,
        };
        let sxx: f64 = points.iter().map(|p| (p.x - mean.x).powi(2)).sum();
        let sxy: f64 = points.iter().map(|p| (p.x - mean.x) * (p.y - mean.y)).sum();
        if sxx <= 0.0 {
            return None;
        }
        let mut line = Self { mean, slope: sxy / sxx, sigma: 0.0 };
        let squares: f64 = points.iter().map(|p| line.residual(*p).powi(2)).sum();
        line.sigma = (squares / (n - 2.0) / sxx).sqrt();
        Some(line)
    }

    fn residual(&self, p: Point) -> f64 {
        p.y - self.mean.y - self.slope * (p.x - self.mean.x)
    }
}

fn seconds(count: u64) -> f64 {
    count as f64 / f64::from(SAMPLE_RATE)
}

/// The (upper) median; reorders the values, which are not empty.
fn median(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    *values.select_nth_unstable_by(middle, f64::total_cmp).1
}

#[cfg(test)]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(ppm: f64, jitter: &[f64], outlier_every: usize, seconds: u64) -> Drift {
        let mut estimator = DriftEstimator::new();
        for i in 0..seconds * 50 {
            let count = i * 320;
            let mut t = count as f64 / 16_000.0 / (1.0 + ppm * 1e-6);
            t += jitter[(i as usize * 7) % jitter.len()];
            if outlier_every > 0 && (i as usize).is_multiple_of(outlier_every) {
                t += 0.05;
            }
            estimator.observe(count, MonoTime::from_secs_f64(1_000.0 + t));
        }
        estimator.estimate().unwrap()
    }

    #[test]
    fn exact_stamps_give_the_exact_drift() {
        for ppm in [-500.0, -20.0, 0.0, 100.0, 500.0] {
            let drift = run(ppm, &[0.0], 0, 20);
            assert!((drift.ppm - ppm).abs() < 0.6, "{drift:?}, want {ppm}");
        }
    }

    #[test]
    fn outliers_do_not_matter() {
        let drift = run(80.0, &[0.0, 2e-4, -1e-4, 1e-4], 9, 60);
        assert!((drift.ppm - 80.0).abs() < 3.0, "{drift:?}");
    }

    #[test]
    fn too_little_is_no_estimate() {
        let mut estimator = DriftEstimator::new();
        for i in 0..200 {
            estimator.observe(i * 320, MonoTime::from_secs_f64(i as f64 * 0.02));
        }
        assert!(estimator.estimate().is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_drift_is_within_its_stated_error(
            ppm in -500.0..500.0_f64,
            jitter in prop::collection::vec(-2e-3..2e-3_f64, 997),
        ) {
            let drift = run(ppm, &jitter, 0, 100);
            prop_assert!((drift.ppm - ppm).abs() <= 4.0 * drift.sigma_ppm + 1.0, "{:?}, want {}", drift, ppm);
            prop_assert!(drift.sigma_ppm < 20.0);
        }
    }
}
