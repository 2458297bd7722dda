//! When something begins and when it ends: hysteresis with memory, for one label.
//!
//! A probability wavers around any threshold, a modality drops out, a camera moves. The gate turns that into at most
//! one event at a time: it opens after `min_snippets` in a row at or above `on`, and closes after `release_snippets`
//! in a row below `off`, after `max_duration`, or when the modality has been away for longer than `hold`. While the
//! modality is away nothing begins, and what is open is held. The gate is pure and allocates nothing.
//!
//! A short sound may fall half into one snippet and half into the next, and be half as clear in both. So for sounds of
//! which one snippet is enough (`min_snippets` 1), what has to reach `on` is the probability that this snippet *or* the
//! one before has it, `1 - (1 - p)(1 - p')`. The thresholds for few false alarms in a bundle were chosen under these
//! rules (`models/train/girasol_train/calibrate.py`), those for the best F1 snippet by snippet.
//!
//! A board that is hot or slow leaves out every other snippet. So one that is missing between two does not break a
//! row, or nothing that asks for two would ever be told; halves of one sound have to touch, though.

use std::time::Duration;

use super::{Decision, EndReason};
use crate::clock::MonoTime;

/// The gate's numbers; `0 < off <= on < 1`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GateSettings {
    /// Probability at which an event begins.
    pub on: f32,
    /// Probability below which it ends.
    pub off: f32,
    /// Snippets in a row (one may be missing between two) at or above `on` before it begins; 0 counts as 1.
    pub min_snippets: u32,
    /// Where one snippet is enough, it is taken together with the one before.
    pub together: bool,
    /// Snippets in a row below `off` before it ends; 0 counts as 1.
    pub release_snippets: u32,
    /// Time after an end in which nothing begins.
    pub cooldown: Duration,
    /// Longest event.
    pub max_duration: Duration,
    /// Longest absence of the modality, or gap in the snippets, that an open event is held over.
    pub hold: Duration,
}

/// What a snippet says about the label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Observation {
    /// The modality was not there.
    Absent,
    /// The probability; one that is not finite counts as absent.
    Score(f32),
}

impl Observation {
    fn score(self) -> Option<f32> {
        match self {
            Self::Score(score) if score.is_finite() => Some(score),
            _ => None,
        }
    }
}

/// Whether new events may begin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Permission {
    /// They may.
    #[default]
    Granted,
    /// The label is switched off.
    Disabled,
    /// Quiet hours, or muted.
    Quiet,
}

/// Something at or above `off` that came to no event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suppressed {
    /// Highest probability of the excursion.
    pub peak: f32,
    /// What held it back.
    pub decision: Decision,
}

/// What a snippet did to the gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// Nothing to tell.
    Closed,
    /// An excursion above `off` is over and came to nothing.
    Suppressed(Suppressed),
    /// An event begins; its onset may lie `min_snippets - 1` snippets back.
    Opened,
    /// The event goes on.
    Open,
    /// The event is over.
    Ended(EndReason),
}

/// The event in hand, or the run of snippets that may become one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Span {
    /// Index of the first snippet at or above `on`.
    pub onset_index: u64,
    /// Its start.
    pub onset: MonoTime,
    /// End of the newest snippet at or above `off`.
    pub active_until: MonoTime,
    /// Highest probability so far.
    pub peak: f32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    Closed { run: Option<(Span, u32)>, excursion: Option<Suppressed> },
    Open { span: Span, below: u32 },
}

impl State {
    const IDLE: Self = Self::Closed { run: None, excursion: None };
}

/// Hysteresis for one label.
#[derive(Clone, Debug)]
pub struct Gate {
    settings: GateSettings,
    state: State,
    cool_until: Option<MonoTime>,
    /// End of the newest snippet in which the modality was there.
    sensed_until: Option<MonoTime>,
    /// End of the newest snippet.
    seen_until: Option<MonoTime>,
    /// Probability in the newest snippet, if an event could have begun there.
    before: Option<f32>,
}

/// Two snippets further apart than this are not in a row: one may be missing between them.
const ROW_GAP: Duration = Duration::from_millis(1_440);
/// Two snippets further apart than this do not hold halves of one sound.
const JOINT_GAP: Duration = Duration::from_millis(480);

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn new(settings: GateSettings) -> Self {
        Self {
            settings,
            state: State::IDLE,
            cool_until: None,
            sensed_until: None,
            seen_until: None,
            before: None,
        }
    }

    /// Its numbers.
    #[must_use]
    pub fn settings(&self) -> &GateSettings {
        &self.settings
    }

    /// Takes new numbers over; what is open goes on under them.
    pub fn set_settings(&mut self, settings: GateSettings) {
        self.settings = settings;
    }

    /// The open event.
    #[must_use]
    pub fn open(&self) -> Option<Span> {
        match self.state {
            State::Open { span, .. } => Some(span),
            State::Closed { .. } => None,
        }
    }

    /// Ends an open event whose modality has been away for too long by the time `start`, at which the next snippet
    /// begins. To be called before each [`Gate::step`], so that what comes after a long gap is a new event.
    pub fn expire(&mut self, start: MonoTime) -> Option<EndReason> {
        let State::Open { .. } = self.state else { return None };
        let away_since = self.sensed_until?;
        (start > away_since + self.settings.hold).then(|| self.close(EndReason::SourceLost, start))
    }

    /// Takes the snippet `index` from `start` to `end`.
    pub fn step(
        &mut self,
        index: u64,
        (start, end): (MonoTime, MonoTime),
        observation: Observation,
        permission: Permission,
    ) -> Outcome {
        let within = |gap| self.seen_until.is_some_and(|until| start <= until + gap);
        let (in_a_row, joint) = (within(ROW_GAP), within(JOINT_GAP));
        self.seen_until = Some(end);
        let together = joint && self.settings.together && self.settings.min_snippets <= 1;
        let before = self.before.take().filter(|_| together);
        let Some(score) = observation.score() else { return self.absent() };
        self.sensed_until = Some(end);
        match self.state {
            State::Open { span, below } => self.step_open(span, below, end, score),
            State::Closed { run, excursion } => {
                let run = if in_a_row { run } else { None };
                // What was held back must not come as news with the next snippet.
                let free = permission == Permission::Granted && !self.cooling(start);
                self.before = free.then_some(score);
                let together = before.map_or(score, |before| 1.0 - (1.0 - score) * (1.0 - before));
                let begun = Span { onset_index: index, onset: start, active_until: end, peak: together };
                self.step_closed(run, excursion, begun, score, permission)
            }
        }
    }

    /// Ends an open event for a reason outside of the scores.
    pub fn finish(&mut self, reason: EndReason, now: MonoTime) -> Outcome {
        match self.state {
            State::Open { .. } => Outcome::Ended(self.close(reason, now)),
            State::Closed { excursion, .. } => {
                self.state = State::IDLE;
                excursion.map_or(Outcome::Closed, Outcome::Suppressed)
            }
        }
    }

    fn absent(&mut self) -> Outcome {
        match self.state {
            State::Open { .. } => Outcome::Open,
            State::Closed { excursion, .. } => {
                self.state = State::IDLE;
                excursion.map_or(Outcome::Closed, Outcome::Suppressed)
            }
        }
    }

    fn step_open(&mut self, mut span: Span, below: u32, end: MonoTime, score: f32) -> Outcome {
        let below = if score < self.settings.off { below + 1 } else { 0 };
        if below == 0 {
            span.active_until = end;
            span.peak = span.peak.max(score);
        }
        self.state = State::Open { span, below };
        if below >= self.settings.release_snippets.max(1) {
            return Outcome::Ended(self.close(EndReason::Faded, end));
        }
        if end >= span.onset + self.settings.max_duration {
            return Outcome::Ended(self.close(EndReason::MaxDuration, end));
        }
        Outcome::Open
    }

    fn step_closed(
        &mut self,
        run: Option<(Span, u32)>,
        excursion: Option<Suppressed>,
        begun: Span,
        own: f32,
        permission: Permission,
    ) -> Outcome {
        let score = begun.peak;
        if own < self.settings.off && score < self.settings.on {
            self.state = State::IDLE;
            return excursion.map_or(Outcome::Closed, Outcome::Suppressed);
        }
        let (mut excursion, run) = (excursion.unwrap_or(Suppressed::NONE), run.unwrap_or((begun, 0)));
        excursion.peak = excursion.peak.max(score);
        if score < self.settings.on {
            self.state = State::Closed { run: None, excursion: Some(excursion) };
            return Outcome::Closed;
        }
        let span = Span { active_until: begun.active_until, peak: run.0.peak.max(score), ..run.0 };
        let length = run.1 + 1;
        let obstacle = match permission {
            Permission::Disabled => Some(Decision::Disabled),
            Permission::Quiet => Some(Decision::Quiet),
            Permission::Granted if self.cooling(begun.onset) => Some(Decision::CoolingDown),
            Permission::Granted if length < self.settings.min_snippets => Some(Decision::TooShort),
            Permission::Granted => None,
        };
        let Some(obstacle) = obstacle else {
            self.state = State::Open { span, below: 0 };
            return Outcome::Opened;
        };
        excursion.decision = obstacle;
        // A run that was not allowed to become an event does not count towards a later one.
        let run = (obstacle == Decision::TooShort).then_some((span, length));
        self.state = State::Closed { run, excursion: Some(excursion) };
        Outcome::Closed
    }

    fn cooling(&self, start: MonoTime) -> bool {
        self.cool_until.is_some_and(|until| start < until)
    }

    fn close(&mut self, reason: EndReason, now: MonoTime) -> EndReason {
        self.state = State::IDLE;
        self.cool_until = Some(now + self.settings.cooldown);
        reason
    }
}

impl Suppressed {
    const NONE: Self = Self { peak: 0.0, decision: Decision::BelowThreshold };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SNIPPET: Duration = Duration::from_millis(960);

    fn settings() -> GateSettings {
        GateSettings {
            on: 0.6,
            off: 0.4,
            min_snippets: 2,
            together: true,
            release_snippets: 2,
            cooldown: Duration::from_secs(2),
            max_duration: Duration::from_secs(20),
            hold: Duration::from_secs(5),
        }
    }

    fn at(index: u64) -> (MonoTime, MonoTime) {
        let start = MonoTime(0) + SNIPPET * u32::try_from(index).unwrap();
        (start, start + SNIPPET)
    }

    /// Runs a gate over scores (NaN: absent) and returns the outcomes.
    fn run(settings: GateSettings, scores: &[f32]) -> Vec<Outcome> {
        let mut gate = Gate::new(settings);
        let mut outcomes = Vec::new();
        for (index, &score) in (0u64..).zip(scores) {
            let ended = gate.expire(at(index).0).map(Outcome::Ended);
            let step = gate.step(index, at(index), Observation::Score(score), Permission::Granted);
            outcomes.push(ended.unwrap_or(step));
        }
        outcomes
    }

    #[test]
    fn opens_after_min_snippets_and_closes_after_release() {
        use Outcome::*;
        let outcomes = run(settings(), &[0.1, 0.7, 0.5, 0.7, 0.8, 0.5, 0.3, 0.5, 0.3, 0.2, 0.1]);
        let ended = Ended(EndReason::Faded);
        assert_eq!(outcomes, [Closed, Closed, Closed, Closed, Opened, Open, Open, Open, Open, ended, Closed]);
    }

    #[test]
    fn where_one_snippet_is_enough_two_halves_of_a_sound_count_together() {
        use Outcome::*;
        let one = GateSettings { min_snippets: 1, ..settings() };
        // 1 - .6 * .6 = .64, and alone below `off` at once.
        assert_eq!(run(one, &[0.4, 0.4, 0.1, 0.1])[..3], [Closed, Opened, Open]);
        assert_eq!(
            run(settings(), &[0.4, 0.4, 0.1])[1],
            Closed,
            "each has to reach it where two are asked for"
        );
        let apart = GateSettings { together: false, ..one };
        assert_eq!(run(apart, &[0.4, 0.4, 0.1])[1], Closed);
        assert_eq!(run(one, &[0.4, f32::NAN, 0.4])[2], Closed, "nothing was heard between");
        let mut gate = Gate::new(one);
        for index in [0, 2] {
            let outcome = gate.step(index, at(index), Observation::Score(0.4), Permission::Granted);
            assert_eq!(outcome, Closed, "not in a row");
        }
    }

    #[test]
    fn what_was_held_back_does_not_come_with_the_next_snippet() {
        let one = GateSettings { min_snippets: 1, ..settings() };
        // Ended at 2.88 s, cool until 4.88 s: the sound at 3.84 s is held back, and 1 - .95 * .05 is not a sound.
        let outcomes = run(one, &[0.95, 0.05, 0.05, 0.05, 0.95, 0.05, 0.05, 0.05]);
        assert_eq!(outcomes[2], Outcome::Ended(EndReason::Faded));
        assert_eq!(outcomes.iter().filter(|o| **o == Outcome::Opened).count(), 1);
        for held in [Permission::Quiet, Permission::Disabled] {
            let mut gate = Gate::new(one);
            gate.step(0, at(0), Observation::Score(0.95), held);
            let outcome = gate.step(1, at(1), Observation::Score(0.05), Permission::Granted);
            assert!(matches!(outcome, Outcome::Suppressed(_)), "{outcome:?} after {held:?}");
        }
    }

    #[test]
    fn two_in_a_row_are_found_by_a_board_that_takes_every_other_snippet() {
        let mut gate = Gate::new(settings());
        let mut step = |index| gate.step(index, at(index), Observation::Score(0.9), Permission::Granted);
        assert_eq!([step(0), step(2), step(4)], [Outcome::Closed, Outcome::Opened, Outcome::Open]);
    }

    #[test]
    fn a_short_burst_is_suppressed_and_told() {
        let outcomes = run(settings(), &[0.9, 0.1]);
        let told = Suppressed { peak: 0.9, decision: Decision::TooShort };
        assert_eq!(outcomes[1], Outcome::Suppressed(told));
        let outcomes = run(settings(), &[0.5, 0.5, 0.1]);
        let told = Suppressed { peak: 0.5, decision: Decision::BelowThreshold };
        assert_eq!(outcomes[2], Outcome::Suppressed(told));
    }

    #[test]
    fn an_open_event_is_held_while_the_modality_is_away_and_ends_at_the_bound() {
        let nan = f32::NAN;
        let outcomes =
            run(settings(), &[0.9, 0.9, nan, nan, nan, 0.9, nan, nan, nan, nan, nan, nan, nan, 0.9]);
        assert!(outcomes[2..7].iter().all(|o| *o == Outcome::Open));
        // Away from the end of snippet 5 (5.76 s): the first snippet to begin more than 5 s later is number 12.
        assert_eq!(outcomes[12], Outcome::Ended(EndReason::SourceLost));
        assert_eq!(outcomes[11], Outcome::Open);
    }

    #[test]
    fn absence_never_begins_an_event() {
        let outcomes = run(settings(), &[0.9, f32::NAN, 0.9, f32::NAN]);
        assert!(!outcomes.contains(&Outcome::Opened));
    }

    #[test]
    fn cooling_down_delays_the_next_event() {
        let outcomes = run(settings(), &[0.9, 0.9, 0.1, 0.1, 0.9, 0.9, 0.9, 0.9, 0.9]);
        assert_eq!(outcomes[3], Outcome::Ended(EndReason::Faded));
        // Ended at 3.84 s; cool until 5.84 s; snippets 7 (6.72 s) and 8 are the first two that count.
        assert_eq!(outcomes.iter().rposition(|o| *o == Outcome::Opened), Some(8));
    }

    #[test]
    fn a_gap_in_the_snippets_breaks_a_run_and_a_long_one_ends_the_event() {
        let mut gate = Gate::new(settings());
        let score = Observation::Score(0.9);
        assert_eq!(gate.step(0, at(0), score, Permission::Granted), Outcome::Closed);
        assert_eq!(gate.step(3, at(3), score, Permission::Granted), Outcome::Closed);
        assert_eq!(gate.step(4, at(4), score, Permission::Granted), Outcome::Opened);
        assert_eq!(gate.expire(at(9).0), None);
        assert_eq!(gate.expire(at(30).0), Some(EndReason::SourceLost));
    }

    #[test]
    fn disabled_and_quiet_hold_back_and_say_so() {
        for (permission, decision) in
            [(Permission::Disabled, Decision::Disabled), (Permission::Quiet, Decision::Quiet)]
        {
            let mut gate = Gate::new(settings());
            for index in 0..4 {
                let outcome = gate.step(index, at(index), Observation::Score(0.9), permission);
                assert_eq!(outcome, Outcome::Closed);
            }
            let outcome = gate.step(4, at(4), Observation::Score(0.0), permission);
            assert_eq!(outcome, Outcome::Suppressed(Suppressed { peak: 0.9, decision }));
        }
    }

    #[test]
    fn an_endless_sound_is_cut_at_the_longest_duration() {
        let outcomes = run(settings(), &[0.9; 60]);
        let ends: Vec<_> =
            (0..60).filter(|&i| outcomes[i] == Outcome::Ended(EndReason::MaxDuration)).collect();
        // 20 s are full at the end of snippet 20; cool for 2 s; opened again with the onset at snippet 24.
        assert_eq!(ends, [20, 44]);
    }

    proptest! {
        #[test]
        fn opens_and_ends_alternate_and_every_bound_holds(
            scores in prop::collection::vec(prop_oneof![3 => 0.0f32..1.0, 1 => Just(f32::NAN)], 0..300),
            gaps in prop::collection::vec(1u64..9, 300),
            min in 0u32..4, release in 0u32..5,
        ) {
            let numbers = GateSettings { min_snippets: min, release_snippets: release, ..settings() };
            let mut gate = Gate::new(numbers);
            let (mut index, mut open, mut last_end): (u64, Option<Span>, Option<MonoTime>) = (0, None, None);
            let mut newest: Option<f32> = None;
            for (&score, &gap) in scores.iter().zip(&gaps) {
                index += if gap < 7 { 1 } else { gap };
                let before = newest.filter(|_| gap < 7);
                newest = (!score.is_nan()).then_some(score);
                let (start, end) = at(index);
                let observation = if score.is_nan() { Observation::Absent } else { Observation::Score(score) };
                if gate.expire(start).is_some() {
                    prop_assert!(open.take().is_some());
                    last_end = Some(start);
                }
                match gate.step(index, (start, end), observation, Permission::Granted) {
                    Outcome::Opened => {
                        let span = gate.open().unwrap();
                        prop_assert!(open.is_none() && span.peak >= numbers.on);
                        let together = before.map_or(score, |before| 1.0 - (1.0 - score) * (1.0 - before));
                        prop_assert!(score >= numbers.on || min <= 1 && together >= numbers.on);
                        prop_assert!(span.peak >= score && span.onset <= start && span.active_until == end);
                        prop_assert!(index - span.onset_index + 1 == u64::from(min.max(1)));
                        if let Some(ended) = last_end {
                            prop_assert!(span.onset >= ended + numbers.cooldown);
                        }
                        open = Some(span);
                    }
                    Outcome::Ended(_) => {
                        prop_assert!(open.take().is_some() && !score.is_nan());
                        last_end = Some(end);
                    }
                    Outcome::Open => {
                        prop_assert!(open.is_some());
                        let span = gate.open().unwrap();
                        let bound = numbers.max_duration + numbers.hold + SNIPPET * 2;
                        prop_assert!(end <= span.onset + bound);
                    }
                    Outcome::Closed | Outcome::Suppressed(_) => prop_assert!(open.is_none()),
                }
                prop_assert_eq!(gate.open().is_some(), open.is_some());
            }
            let ended = matches!(gate.finish(EndReason::Shutdown, at(index + 1).0), Outcome::Ended(_));
            prop_assert_eq!(ended, open.is_some());
            prop_assert!(gate.open().is_none());
        }
    }
}
