//! How many commands are listened to.

use crate::clock::MonoTime;

/// Commands taken at once after a pause.
const BURST: f64 = 10.0;
/// Commands a second in the long run.
const PER_SECOND: f64 = 2.0;
/// A flood is answered this often, in nanoseconds; the rest of it is only counted.
const COMPLAINT: i64 = 1_000_000_000;

/// A token bucket.
#[derive(Debug)]
pub(super) struct Limit {
    tokens: f64,
    filled: MonoTime,
    complained: Option<MonoTime>,
}

/// What is done about a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Take,
    /// Too many: say so.
    Complain,
    /// Too many, and that has been said.
    Drop,
}

impl Limit {
    pub(super) fn new(now: MonoTime) -> Self {
        Self { tokens: BURST, filled: now, complained: None }
    }

    pub(super) fn judge(&mut self, now: MonoTime) -> Verdict {
        let passed = now.since(self.filled).max(0) as f64 / 1e9;
        self.tokens = (self.tokens + passed * PER_SECOND).min(BURST);
        self.filled = now;
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Verdict::Take;
        }
        if self.complained.is_some_and(|at| now.since(at) < COMPLAINT) {
            return Verdict::Drop;
        }
        self.complained = Some(now);
        Verdict::Complain
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_is_answered_once_a_second() {
        let mut limit = Limit::new(MonoTime(0));
        let verdicts: Vec<_> = (0..14).map(|_| limit.judge(MonoTime(0))).collect();
        assert!(verdicts[..10].iter().all(|v| *v == Verdict::Take));
        assert_eq!(verdicts[10..], [Verdict::Complain, Verdict::Drop, Verdict::Drop, Verdict::Drop]);
        let later = MonoTime(0) + Duration::from_millis(1_000);
        let verdicts: Vec<_> = (0..4).map(|_| limit.judge(later)).collect();
        assert_eq!(verdicts, [Verdict::Take, Verdict::Take, Verdict::Complain, Verdict::Drop]);
    }
}
