//! Time, injectable: everything that waits or stamps takes a [`Clock`], so tests run under simulated time.

use std::{
    ops::{Add, Sub},
    sync::{
        Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// A point on the one monotonic timeline, in nanoseconds. On a board the origin is boot (`CLOCK_MONOTONIC`); in a
/// replay it is the clip's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MonoTime(pub i64);

impl MonoTime {
    /// From seconds; saturates far outside any real timeline.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, reason = "float to int casts saturate")]
    pub fn from_secs_f64(seconds: f64) -> Self {
        Self((seconds * 1e9).round() as i64)
    }

    /// In seconds.
    #[must_use]
    pub fn as_secs_f64(self) -> f64 {
        self.0 as f64 / 1e9
    }

    /// Signed distance `self - earlier` in nanoseconds.
    #[must_use]
    pub fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for MonoTime {
    type Output = Self;
    fn add(self, rhs: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(rhs.as_nanos()).unwrap_or(i64::MAX)))
    }
}

impl Sub<Duration> for MonoTime {
    type Output = Self;
    fn sub(self, rhs: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(rhs.as_nanos()).unwrap_or(i64::MAX)))
    }
}

/// Source of time.
pub trait Clock: Send + Sync {
    /// Now on the monotonic timeline.
    fn now(&self) -> MonoTime;
    /// Wall clock, milliseconds since the Unix epoch. May be wrong on a board whose clock is not yet set.
    fn wall_ms(&self) -> i64;
    /// Returns at `deadline` or later; at once if it has passed.
    fn sleep_until(&self, deadline: MonoTime);
    /// Returns after `duration`.
    fn sleep(&self, duration: Duration) {
        self.sleep_until(self.now() + duration);
    }
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> MonoTime {
        read(libc::CLOCK_MONOTONIC)
    }

    #[allow(clippy::disallowed_methods, reason = "this is the one place that reads the wall clock")]
    fn wall_ms(&self) -> i64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
    }

    #[allow(clippy::disallowed_methods, reason = "this is the one place that sleeps")]
    fn sleep_until(&self, deadline: MonoTime) {
        let wait = deadline.since(self.now());
        if let Ok(nanos) = u64::try_from(wait) {
            std::thread::sleep(Duration::from_nanos(nanos));
        }
    }
}

fn read(clock: libc::clockid_t) -> MonoTime {
    let mut ts = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `ts` is a valid, writable timespec, and the clocks that are read here always exist on Linux.
    unsafe { libc::clock_gettime(clock, &mut ts) };
    #[allow(clippy::useless_conversion, reason = "time_t and c_long are 32 bits wide on armv7")]
    MonoTime(i64::from(ts.tv_sec) * 1_000_000_000 + i64::from(ts.tv_nsec))
}

/// The processor time of the calling thread: what a computation costs, whatever else the machine does meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub struct ThreadClock;

impl Clock for ThreadClock {
    fn now(&self) -> MonoTime {
        read(libc::CLOCK_THREAD_CPUTIME_ID)
    }

    fn wall_ms(&self) -> i64 {
        RealClock.wall_ms()
    }

    /// Sleeps for as long as it would take to compute until then.
    fn sleep_until(&self, deadline: MonoTime) {
        let wait = u64::try_from(deadline.since(self.now())).unwrap_or(0);
        RealClock.sleep(Duration::from_nanos(wait));
    }
}

/// A clock that only moves when told to or slept on; for tests.
#[derive(Debug, Default)]
pub struct SimClock {
    now: AtomicI64,
    wall: Mutex<i64>,
}

impl SimClock {
    /// Starts at `now`, wall clock at the Unix epoch.
    #[must_use]
    pub fn new(now: MonoTime) -> Self {
        Self { now: AtomicI64::new(now.0), wall: Mutex::new(0) }
    }

    /// Moves time forward.
    pub fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
        self.now.fetch_add(by, Ordering::SeqCst);
        *self.wall.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += by / 1_000_000;
    }
}

impl Clock for SimClock {
    fn now(&self) -> MonoTime {
        MonoTime(self.now.load(Ordering::SeqCst))
    }

    fn wall_ms(&self) -> i64 {
        *self.wall.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn sleep_until(&self, deadline: MonoTime) {
        let wait = deadline.since(self.now());
        if let Ok(nanos) = u64::try_from(wait) {
            self.advance(Duration::from_nanos(nanos));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn simulated_sleep_advances_both_clocks() {
        let clock = SimClock::new(MonoTime(5));
        clock.sleep(Duration::from_millis(20));
        assert_eq!(clock.now(), MonoTime(20_000_005));
        assert_eq!(clock.wall_ms(), 20);
        clock.sleep_until(MonoTime(0));
        assert_eq!(clock.now(), MonoTime(20_000_005));
    }

    #[test]
    fn a_thread_that_sleeps_costs_nothing() {
        let a = ThreadClock.now();
        ThreadClock.sleep(Duration::from_millis(20));
        assert!((0..10_000_000).contains(&ThreadClock.now().since(a)));
    }

    #[test]
    fn real_clock_does_not_go_back() {
        let a = RealClock.now();
        RealClock.sleep(Duration::from_millis(1));
        assert!(RealClock.now().since(a) >= 1_000_000);
    }
}
