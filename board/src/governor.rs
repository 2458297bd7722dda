//! The thermal governor: temperatures and the time go in, a [`Duty`] comes out. Pure, so that it is tested under
//! simulated time.
//!
//! ```text
//! lighter:  limit − margin reached: one step, then `settle` for it to show
//!           limit reached, or the processor slowed down: one step, then `settle_urgent`
//! heavier:  below limit − margin − hysteresis without a break for `recover`: one step
//! ```
//!
//! A step up that is taken back soon doubles `recover` (up to 16 times), so that a board that cannot carry the full
//! work does not swing. An unreadable sensor changes nothing.

use std::time::Duration;

use crate::Duty;

/// Temperatures and times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GovernorConfig {
    /// Where the board slows itself down, in °C.
    pub limit_c: f32,
    /// The load is lowered so many degrees before.
    pub margin_c: f32,
    /// The load is raised so many degrees below that.
    pub hysteresis_c: f32,
    /// Shortest time between two steps down.
    pub settle: Duration,
    /// The same when the limit is reached.
    pub settle_urgent: Duration,
    /// It must be cool for so long before a step up.
    pub recover: Duration,
    /// The heaviest load ever allowed.
    pub heaviest: Duty,
}

impl Default for GovernorConfig {
    fn default() -> Self {
        Self {
            limit_c: 80.0,
            margin_c: 5.0,
            hysteresis_c: 5.0,
            settle: Duration::from_secs(20),
            settle_urgent: Duration::from_secs(5),
            recover: Duration::from_secs(60),
            heaviest: Duty::Full,
        }
    }
}

/// What the sensors say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// The hottest zone in °C; `None` if no sensor can be read.
    pub hottest_c: Option<f32>,
    /// The processor is slowed down because of heat.
    pub throttled: bool,
}

/// Why the load changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Near the limit.
    Warm,
    /// At the limit.
    Hot,
    /// The processor is slowed down already.
    Throttled,
    /// Cool for long enough.
    Cool,
}

/// A change of the load, to be announced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Before.
    pub from: Duty,
    /// Now.
    pub to: Duty,
    /// Why.
    pub reason: Reason,
    /// The temperature that led to it.
    pub at_c: Option<f32>,
}

const LONGEST_RECOVER: u32 = 16;

/// The governor.
#[derive(Clone, Debug)]
pub struct Governor {
    config: GovernorConfig,
    duty: Duty,
    /// Time of the last step down.
    lowered: Option<Duration>,
    /// Time of the last step up.
    raised: Option<Duration>,
    cool_since: Option<Duration>,
    /// Times `recover`.
    patience: u32,
}

impl Governor {
    /// Starts with the heaviest load allowed.
    #[must_use]
    pub fn new(config: GovernorConfig) -> Self {
        Self { config, duty: config.heaviest, lowered: None, raised: None, cool_since: None, patience: 1 }
    }

    /// The load in force.
    #[must_use]
    pub fn duty(&self) -> Duty {
        self.duty
    }

    /// Takes a reading at `now`, a monotonic time; returns the change, if there is one.
    pub fn step(&mut self, now: Duration, reading: Reading) -> Option<Change> {
        let c = &self.config;
        let above = |limit: f32| reading.hottest_c.is_some_and(|t| t >= limit);
        let down = if reading.throttled {
            Some(Reason::Throttled)
        } else if above(c.limit_c) {
            Some(Reason::Hot)
        } else if above(c.limit_c - c.margin_c) {
            Some(Reason::Warm)
        } else {
            None
        };
        if let Some(reason) = down {
            self.cool_since = None;
            let settle = if reason == Reason::Warm { c.settle } else { c.settle_urgent };
            let settled = self.lowered.is_none_or(|t| now.saturating_sub(t) >= settle);
            return if settled { self.lower(now, reason, reading.hottest_c) } else { None };
        }
        if reading.hottest_c.is_none_or(|t| t > c.limit_c - c.margin_c - c.hysteresis_c) {
            self.cool_since = None;
            return None;
        }
        let since = *self.cool_since.get_or_insert(now);
        let recover = c.recover * self.patience;
        if self.duty == c.heaviest {
            // It has carried the whole load for long: what was learnt is forgotten.
            if self.raised.is_some_and(|t| now.saturating_sub(t) >= c.recover * (2 * LONGEST_RECOVER)) {
                self.patience = 1;
            }
            return None;
        }
        if now.saturating_sub(since) < recover {
            return None;
        }
        self.raised = Some(now);
        self.cool_since = Some(now);
        Some(self.change(self.duty.heavier().max(c.heaviest), Reason::Cool, reading.hottest_c))
    }

    fn lower(&mut self, now: Duration, reason: Reason, at_c: Option<f32>) -> Option<Change> {
        let to = self.duty.lighter();
        if to == self.duty {
            return None;
        }
        if let Some(raised) = self.raised.take()
            && now.saturating_sub(raised) < self.config.recover * (2 * self.patience)
        {
            self.patience = (self.patience * 2).min(LONGEST_RECOVER);
        }
        self.lowered = Some(now);
        Some(self.change(to, reason, at_c))
    }

    fn change(&mut self, to: Duty, reason: Reason, at_c: Option<f32>) -> Change {
        let from = std::mem::replace(&mut self.duty, to);
        Change { from, to, reason, at_c }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: GovernorConfig = GovernorConfig {
        limit_c: 80.0,
        margin_c: 5.0,
        hysteresis_c: 5.0,
        settle: Duration::from_secs(20),
        settle_urgent: Duration::from_secs(5),
        recover: Duration::from_secs(60),
        heaviest: Duty::Full,
    };

    fn at(celsius: f32) -> Reading {
        Reading { hottest_c: Some(celsius), throttled: false }
    }

    /// A lump of metal: takes `watts(duty)` in, gives heat off to the room; first order, time constant 60 s.
    struct Zone {
        celsius: f32,
        room: f32,
    }

    impl Zone {
        fn pass(&mut self, seconds: f32, duty: Duty) {
            let load = match duty {
                Duty::Full => 1.0,
                Duty::FewerFrames => 0.72,
                Duty::AlternateSnippets => 0.45,
                Duty::AudioOnly => 0.25,
            };
            let settled = self.room + 45.0 * load;
            self.celsius += (settled - self.celsius) * (1.0 - (-seconds / 60.0).exp());
        }
    }

    /// Runs for `minutes`, one reading a second; returns the changes with their times in seconds.
    fn simulate(governor: &mut Governor, zone: &mut Zone, from_s: u64, minutes: u64) -> Vec<(u64, Change)> {
        (from_s..from_s + minutes * 60)
            .filter_map(|s| {
                zone.pass(1.0, governor.duty());
                governor.step(Duration::from_secs(s), at(zone.celsius)).map(|change| (s, change))
            })
            .collect()
    }

    #[test]
    fn a_cool_board_does_everything() {
        let mut governor = Governor::new(CONFIG);
        let mut zone = Zone { celsius: 30.0, room: 20.0 };
        assert!(simulate(&mut governor, &mut zone, 0, 60).is_empty());
        assert_eq!(governor.duty(), Duty::Full);
    }

    #[test]
    fn a_hot_room_is_met_step_by_step_before_the_limit_and_left_again() {
        let mut governor = Governor::new(CONFIG);
        let mut zone = Zone { celsius: 50.0, room: 50.0 };
        let mut hottest = 0.0_f32;
        for s in 0..1800 {
            zone.pass(1.0, governor.duty());
            hottest = hottest.max(zone.celsius);
            governor.step(Duration::from_secs(s), at(zone.celsius));
        }
        assert!(governor.duty() > Duty::Full);
        assert!(hottest < CONFIG.limit_c, "{hottest}");
        zone.room = 20.0;
        let back = simulate(&mut governor, &mut zone, 1800, 90);
        assert_eq!(governor.duty(), Duty::Full);
        for pair in back.windows(2) {
            assert_eq!(pair[0].1.to, pair[1].1.from);
            assert!(pair[1].0 - pair[0].0 >= 60, "{back:?}");
        }
    }

    #[test]
    fn steps_down_are_paced_and_end_at_audio_only() {
        let mut governor = Governor::new(CONFIG);
        let steps: Vec<_> = (0..120)
            .filter_map(|s| governor.step(Duration::from_secs(s), at(76.0)).map(|c| (s, c.to, c.reason)))
            .collect();
        assert_eq!(
            steps,
            [
                (0, Duty::FewerFrames, Reason::Warm),
                (20, Duty::AlternateSnippets, Reason::Warm),
                (40, Duty::AudioOnly, Reason::Warm)
            ]
        );
    }

    #[test]
    fn at_the_limit_or_slowed_down_it_goes_faster() {
        for (reading, reason) in
            [(at(80.0), Reason::Hot), (Reading { hottest_c: Some(60.0), throttled: true }, Reason::Throttled)]
        {
            let mut governor = Governor::new(CONFIG);
            let steps: Vec<_> = (0..30)
                .filter_map(|s| governor.step(Duration::from_secs(s), reading).map(|c| (s, c.reason)))
                .collect();
            assert_eq!(steps, [(0, reason), (5, reason), (10, reason)]);
        }
    }

    #[test]
    fn between_the_thresholds_nothing_changes() {
        let mut governor = Governor::new(CONFIG);
        governor.step(Duration::ZERO, at(76.0));
        for s in 1..3600 {
            assert_eq!(governor.step(Duration::from_secs(s), at(72.0)), None);
        }
        assert_eq!(governor.duty(), Duty::FewerFrames);
    }

    #[test]
    fn a_break_in_the_cool_time_starts_it_anew() {
        let mut governor = Governor::new(CONFIG);
        governor.step(Duration::ZERO, at(76.0));
        for s in 1..=59 {
            assert_eq!(governor.step(Duration::from_secs(s), at(60.0)), None);
        }
        assert_eq!(governor.step(Duration::from_secs(60), at(71.0)), None);
        assert_eq!(governor.step(Duration::from_secs(61), at(60.0)), None);
        assert_eq!(governor.step(Duration::from_secs(120), at(60.0)), None);
        let change = governor.step(Duration::from_secs(121), at(60.0)).unwrap();
        assert_eq!((change.to, change.reason), (Duty::Full, Reason::Cool));
    }

    #[test]
    fn a_board_that_cannot_carry_the_load_swings_ever_more_slowly() {
        let mut governor = Governor::new(CONFIG);
        // Full work would settle at 83 °C, fewer frames at 70 °C: just cool enough to try again.
        let mut zone = Zone { celsius: 38.0, room: 37.5 };
        let changes = simulate(&mut governor, &mut zone, 0, 240);
        let ups: Vec<_> = changes.iter().filter(|(_, c)| c.reason == Reason::Cool).map(|(s, _)| *s).collect();
        assert!(ups.len() >= 3, "{changes:?}");
        let pauses: Vec<_> = ups.windows(2).map(|w| w[1] - w[0]).collect();
        assert!(pauses.last() > pauses.first(), "{pauses:?}");
        assert!(ups.len() < 25, "{ups:?}");
    }

    #[test]
    fn an_unreadable_sensor_changes_nothing() {
        let mut governor = Governor::new(CONFIG);
        governor.step(Duration::ZERO, at(76.0));
        for s in 1..3600 {
            assert_eq!(governor.step(Duration::from_secs(s), Reading::default()), None);
        }
        assert_eq!(governor.duty(), Duty::FewerFrames);
    }

    #[test]
    fn the_heaviest_load_allowed_is_never_exceeded() {
        let mut governor = Governor::new(GovernorConfig { heaviest: Duty::FewerFrames, ..CONFIG });
        for s in 0..600 {
            governor.step(Duration::from_secs(s), at(40.0));
            assert_eq!(governor.duty(), Duty::FewerFrames);
        }
    }
}
