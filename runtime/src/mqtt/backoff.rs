//! How long to wait before the next try, and how long a try may take.

use std::time::Duration;

use super::{FaultKind, MqttSettings};

/// A connection that lasted this long counts as good: the waits start again from the first.
const STABLE: Duration = Duration::from_secs(10);

/// Waits that double with each failure, each between half and all of its nominal length, so that many boards do not
/// come back at once.
///
/// A wait counts from the beginning of a try to that of the next: a try that nobody answers is given up when the wait is
/// over. So whenever the broker is back, the next try, or the end of the one under way, is no further off than the wait.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    max: Duration,
    taken_over: Duration,
    failures: u32,
    takeovers: u32,
    random: u64,
}

impl Backoff {
    /// `seed` sets the jitter; any number will do.
    pub(super) fn new(settings: &MqttSettings, seed: u64) -> Self {
        Self {
            first: settings.retry_first,
            max: settings.retry_max,
            taken_over: settings.retry_taken_over,
            failures: 0,
            takeovers: 0,
            random: seed | 1,
        }
    }

    /// The wait from the beginning of the next try to that of the one after it, if no connection comes of it.
    pub(super) fn for_try(&mut self) -> Duration {
        let wait = self.jitter(doubled(self.first, self.failures, self.max));
        self.failures += 1;
        wait
    }

    /// The wait after a connection that stood for `lasted` and ended with `fault`.
    pub(super) fn after(&mut self, fault: FaultKind, lasted: Duration) -> Duration {
        if fault == FaultKind::TakenOver {
            // Coming back at once would take the id away from the other client, which would do the same.
            self.takeovers += 1;
            return self.jitter(doubled(self.taken_over, self.takeovers - 1, self.taken_over * 10));
        }
        if lasted >= STABLE {
            (self.failures, self.takeovers) = (0, 0);
        }
        // The try that this connection came of has been counted.
        self.failures = self.failures.max(1);
        self.jitter(doubled(self.first, self.failures - 1, self.max))
    }

    /// The wait after the broker hung up on a message that it refused: short, and it does not grow, because each of
    /// these connections leaves one message less to send.
    pub(super) fn after_refusal(&mut self) -> Duration {
        self.jitter(self.first / 8)
    }

    fn jitter(&mut self, nominal: Duration) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let part = u32::try_from(self.random % 1_000).unwrap_or(0);
        nominal / 2 + nominal / 2 * part / 1_000
    }
}

fn doubled(first: Duration, times: u32, max: Duration) -> Duration {
    first.saturating_mul(1u32.checked_shl(times.min(16)).unwrap_or(u32::MAX)).min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_with_jitter_from_a_second_at_most_to_the_longest() {
        for seed in 0..50 {
            let mut backoff = Backoff::new(&MqttSettings::default(), seed);
            for nominal in [1, 2, 4, 8, 16, 30, 30, 30] {
                let wait = backoff.for_try();
                let nominal = Duration::from_secs(nominal);
                assert!(wait >= nominal / 2 && wait <= nominal, "{wait:?} of {nominal:?}");
            }
        }
    }

    #[test]
    fn connections_that_do_not_last_are_failures_too() {
        let mut backoff = Backoff::new(&MqttSettings::default(), 7);
        for nominal in [1, 2, 4, 8, 16, 30, 30] {
            backoff.for_try();
            let wait = backoff.after(FaultKind::Closed, Duration::from_secs(1));
            let nominal = Duration::from_secs(nominal);
            assert!(wait >= nominal / 2 && wait <= nominal, "{wait:?} of {nominal:?}");
        }
    }

    #[test]
    fn a_good_connection_starts_over() {
        let mut backoff = Backoff::new(&MqttSettings::default(), 7);
        for _ in 0..5 {
            backoff.for_try();
        }
        assert!(backoff.after(FaultKind::Closed, STABLE) <= Duration::from_secs(1));
    }

    #[test]
    fn a_refused_message_costs_little_and_is_no_failure() {
        let mut backoff = Backoff::new(&MqttSettings::default(), 7);
        assert!((0..20).all(|_| backoff.after_refusal() <= Duration::from_millis(125)));
        assert!(backoff.for_try() <= Duration::from_secs(1));
    }

    #[test]
    fn a_stolen_client_id_waits_long() {
        let mut backoff = Backoff::new(&MqttSettings::default(), 7);
        let waits = [(); 6].map(|()| backoff.after(FaultKind::TakenOver, Duration::from_secs(3_600)));
        assert!(waits[0] >= Duration::from_secs(30) && waits[5] >= Duration::from_secs(300));
        assert!(waits[5] <= Duration::from_secs(600));
    }
}
