//! Keeps a live source alive: notices silence, closes what hangs, reopens with back-off, and never spins.
//!
//! [`Liveness`] is the state machine, pure: events and the time go in, the next action comes out. [`Supervised`]
//! drives it with a [`Clock`] and is itself a source, so the rest of the pipeline sees one that may pause but never
//! fails.
//!
//! ```text
//! waiting ──open──▶ reopening ──data──▶ healthy ──no data──▶ stalled ──no data──▶ lost ──back-off──▶ reopening
//!    ▲                  │                  ▲                    │ data
//!    └──── failed ──────┘                  └────────────────────┘
//! ```
//!
//! Deadlines are on *data*, not on calls: a device whose reads return at once with nothing is stalled like one whose
//! reads hang. Every path that brings no data is paced: at most one fruitless action per
//! [`LivenessConfig::min_interval`].

use std::{sync::Arc, time::Duration};

use super::{AudioSource, Block, Frame, Read, SourceError, SourceErrorKind, VideoSource};
use crate::{
    clock::{Clock, MonoTime},
    timeline::FrameChoice,
};

/// How a source fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Never seen so far; looking for it.
    Waiting,
    /// Being opened, or open and no data yet.
    Reopening,
    /// Data come.
    Healthy,
    /// Open, but no data for a while.
    Stalled,
    /// Was there; closed until the next attempt.
    Lost,
}

/// Deadlines and intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LivenessConfig {
    /// Without data for so long, a source is stalled.
    pub stall_after: Duration,
    /// Without data for so long, it is closed and opened again.
    pub lose_after: Duration,
    /// First pause before opening again; doubles with each failure.
    pub backoff_first: Duration,
    /// Longest such pause (before jitter).
    pub backoff_max: Duration,
    /// Healthy for so long, and the back-off begins anew.
    pub settle: Duration,
    /// Shortest time between two actions that brought nothing.
    pub min_interval: Duration,
    /// Varies the jitter between sources; the same seed gives the same pauses.
    pub seed: u64,
}

impl Default for LivenessConfig {
    fn default() -> Self {
        Self {
            stall_after: Duration::from_secs(1),
            lose_after: Duration::from_secs(5),
            backoff_first: Duration::from_millis(500),
            backoff_max: Duration::from_secs(30),
            settle: Duration::from_secs(30),
            min_interval: Duration::from_millis(20),
            seed: 0,
        }
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing before this time.
    Wait(MonoTime),
    /// Open the source.
    Open,
    /// Read from it, waiting until this time at most.
    Read(MonoTime),
    /// Close it.
    Close,
}

/// What came of the last action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is open.
    Opened,
    /// It could not be opened.
    OpenFailed,
    /// A read brought data.
    Data,
    /// A read brought nothing.
    Nothing,
    /// A read brought a damaged piece; the next may be whole.
    Damaged,
    /// A read failed.
    Failed,
    /// It is closed.
    Closed,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LivenessCounters {
    /// Times it was opened.
    pub opens: u64,
    /// Times it could not be opened.
    pub open_failures: u64,
    /// Reads that failed.
    pub failures: u64,
    /// Damaged pieces.
    pub damaged: u64,
    /// Times it stalled.
    pub stalls: u64,
    /// Times it was given up and closed.
    pub losses: u64,
}

/// The state machine. Ask [`Liveness::action`], do it, and tell [`Liveness::event`].
#[derive(Debug)]
pub struct Liveness {
    config: LivenessConfig,
    state: State,
    since: MonoTime,
    open: bool,
    /// The data deadlines count from here: the last data, or the opening.
    alive_at: MonoTime,
    healthy_since: Option<MonoTime>,
    seen: bool,
    attempts: u32,
    /// Not before this time: the back-off when closed, the pace when open.
    not_before: MonoTime,
    counters: LivenessCounters,
}

impl Liveness {
    /// A source that was never seen; the first attempt is due at once.
    #[must_use]
    pub fn new(config: LivenessConfig, now: MonoTime) -> Self {
        Self {
            config,
            state: State::Waiting,
            since: now,
            open: false,
            alive_at: now,
            healthy_since: None,
            seen: false,
            attempts: 0,
            not_before: now,
            counters: LivenessCounters::default(),
        }
    }

    /// How the source fares.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when.
    #[must_use]
    pub fn since(&self) -> MonoTime {
        self.since
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> LivenessCounters {
        self.counters
    }

    /// What to do now.
    pub fn action(&mut self, now: MonoTime) -> Action {
        self.check_deadlines(now);
        if self.open && self.state == State::Lost {
            return Action::Close;
        }
        if now < self.not_before {
            return Action::Wait(self.not_before);
        }
        if self.open {
            return Action::Read(self.deadline());
        }
        self.enter(State::Reopening, now);
        Action::Open
    }

    /// Takes note of what the last action brought.
    pub fn event(&mut self, now: MonoTime, event: Event) {
        match event {
            Event::Opened => {
                self.counters.opens += 1;
                self.open = true;
                self.alive_at = now;
                self.pace(now);
            }
            Event::OpenFailed => {
                self.counters.open_failures += 1;
                self.enter(if self.seen { State::Lost } else { State::Waiting }, now);
                self.back_off(now);
            }
            Event::Data => self.data(now),
            Event::Nothing => self.pace(now),
            Event::Damaged => {
                self.counters.damaged += 1;
                self.pace(now);
            }
            Event::Failed => {
                self.counters.failures += 1;
                self.lose(now);
            }
            Event::Closed => {
                self.open = false;
                self.back_off(now);
            }
        }
    }

    fn data(&mut self, now: MonoTime) {
        self.seen = true;
        self.alive_at = now;
        let since = *self.healthy_since.get_or_insert(now);
        if now >= since + self.config.settle {
            self.attempts = 0;
        }
        self.enter(State::Healthy, now);
    }

    /// Stalled and lost come from the clock alone.
    fn check_deadlines(&mut self, now: MonoTime) {
        if !self.open || self.state == State::Lost {
            return;
        }
        if now >= self.alive_at + self.config.lose_after {
            self.lose(now);
        } else if self.state == State::Healthy && now >= self.alive_at + self.config.stall_after {
            self.counters.stalls += 1;
            self.enter(State::Stalled, now);
        }
    }

    /// When the next deadline on data falls.
    fn deadline(&self) -> MonoTime {
        let limit =
            if self.state == State::Healthy { self.config.stall_after } else { self.config.lose_after };
        self.alive_at + limit
    }

    fn lose(&mut self, now: MonoTime) {
        self.counters.losses += 1;
        self.healthy_since = None;
        self.enter(State::Lost, now);
    }

    fn enter(&mut self, state: State, now: MonoTime) {
        if self.state != state {
            (self.state, self.since) = (state, now);
        }
    }

    /// After something that brought no data: a breath before the next.
    fn pace(&mut self, now: MonoTime) {
        self.not_before = now + self.config.min_interval;
    }

    /// Doubling pause with jitter (75 % to 125 %) before the next attempt to open.
    fn back_off(&mut self, now: MonoTime) {
        let doubled = self.config.backoff_first.saturating_mul(1 << self.attempts.min(16));
        let pause = doubled.min(self.config.backoff_max).max(self.config.min_interval);
        let percent = 75 + hash(self.config.seed, self.attempts) % 51;
        self.not_before = now + pause * u32::try_from(percent).unwrap_or(100) / 100;
        self.attempts = self.attempts.saturating_add(1);
    }
}

/// A well mixed number of a seed and a counter (the finaliser of `splitmix64`).
fn hash(seed: u64, n: u32) -> u64 {
    let mut x = seed.wrapping_add(u64::from(n).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// Done to each device after it is opened.
type Preparation<S> = Box<dyn Fn(&mut S) + Send>;

/// A source that is opened, watched and reopened. Its reads never fail; while it is lost they time out.
pub struct Supervised<S, F> {
    name: String,
    open: F,
    source: Option<S>,
    machine: Liveness,
    clock: Arc<dyn Clock>,
    last_error: Option<SourceError>,
    /// No data since it was opened: what comes first does not follow what came before.
    fresh: bool,
    /// What a device is told when it is opened.
    prepare: Option<Preparation<S>>,
}

impl<S, F: FnMut() -> Result<S, SourceError>> Supervised<S, F> {
    /// Supervises what `open` opens; nothing is opened before the first read.
    pub fn new(name: impl Into<String>, open: F, clock: Arc<dyn Clock>, config: LivenessConfig) -> Self {
        let machine = Liveness::new(config, clock.now());
        let (name, source, last_error) = (name.into(), None, None);
        Self { name, open, source, machine, clock, last_error, fresh: true, prepare: None }
    }

    /// How the source fares; compare after each read to notice a change.
    #[must_use]
    pub fn state(&self) -> State {
        self.machine.state()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> LivenessCounters {
        self.machine.counters()
    }

    /// The last error on opening or reading.
    #[must_use]
    pub fn last_error(&self) -> Option<&SourceError> {
        self.last_error.as_ref()
    }

    /// Does what the machine says until there are data or `timeout` is over.
    fn drive(
        &mut self,
        timeout: Duration,
        mut read: impl FnMut(&mut S, Duration) -> Result<Read, SourceError>,
    ) -> Read {
        let deadline = self.clock.now() + timeout;
        loop {
            let now = self.clock.now();
            match self.machine.action(now) {
                Action::Wait(until) => {
                    self.clock.sleep_until(until.min(deadline));
                    if self.clock.now() < until {
                        return Read::Timeout;
                    }
                }
                Action::Open => self.reopen(),
                Action::Close => {
                    self.source = None;
                    self.machine.event(self.clock.now(), Event::Closed);
                }
                Action::Read(until) => {
                    let Some(source) = &mut self.source else {
                        self.machine.event(now, Event::Failed);
                        continue;
                    };
                    let wait = u64::try_from(until.min(deadline).since(now)).unwrap_or(0);
                    let result = read(source, Duration::from_nanos(wait));
                    if let Some(read) = self.note(result) {
                        return read;
                    }
                }
            }
            if self.clock.now() >= deadline {
                return Read::Timeout;
            }
        }
    }

    /// Tells the machine what a read brought; what to hand on, if anything.
    fn note(&mut self, result: Result<Read, SourceError>) -> Option<Read> {
        let now = self.clock.now();
        let event = match result {
            Ok(Read::Data) => Event::Data,
            Ok(Read::Timeout) => Event::Nothing,
            Ok(Read::End) => return Some(Read::End),
            Err(error) if error.kind == SourceErrorKind::Truncated => Event::Damaged,
            Err(error) => {
                tracing::warn!("{error}");
                self.last_error = Some(error);
                Event::Failed
            }
        };
        self.machine.event(now, event);
        (event == Event::Data).then_some(Read::Data)
    }

    fn reopen(&mut self) {
        let opened = (self.open)();
        let now = self.clock.now();
        match opened {
            Ok(mut source) => {
                if let Some(prepare) = &self.prepare {
                    prepare(&mut source);
                }
                self.source = Some(source);
                self.fresh = true;
                self.machine.event(now, Event::Opened);
            }
            Err(error) => {
                // The same complaint every half minute, for months, helps nobody.
                if self.last_error.as_ref() != Some(&error) {
                    tracing::warn!("{error}");
                }
                self.last_error = Some(error);
                self.machine.event(now, Event::OpenFailed);
            }
        }
    }
}

impl<S: VideoSource, F: FnMut() -> Result<S, SourceError> + Send> VideoSource for Supervised<S, F> {
    fn describe(&self) -> &str {
        self.source.as_ref().map_or(&self.name, |s| s.describe())
    }
    fn read(&mut self, out: &mut Frame, timeout: Duration) -> Result<Read, SourceError> {
        Ok(self.drive(timeout, |source, wait| source.read(out, wait)))
    }
    fn choose(&mut self, choice: FrameChoice) {
        let prepare = move |source: &mut S| source.choose(choice.clone());
        self.source.iter_mut().for_each(&prepare);
        self.prepare = Some(Box::new(prepare));
    }
}

impl<S: AudioSource, F: FnMut() -> Result<S, SourceError> + Send> AudioSource for Supervised<S, F> {
    fn describe(&self) -> &str {
        self.source.as_ref().map_or(&self.name, |s| s.describe())
    }
    fn read(&mut self, out: &mut Block, timeout: Duration) -> Result<Read, SourceError> {
        let read = self.drive(timeout, |source, wait| match source.read(out, wait) {
            Ok(Read::Data) if out.is_empty() => Ok(Read::Timeout),
            other => other,
        });
        if read == Read::Data {
            out.discontinuity |= std::mem::take(&mut self.fresh);
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::clock::SimClock;

    /// What the simulated device does.
    #[derive(Clone, Copy, PartialEq)]
    enum Mode {
        /// A frame every 40 ms.
        Runs,
        /// Waits and brings nothing.
        Hangs,
        /// Brings nothing, at once.
        Nothing,
        /// Fails, at once.
        Fails,
        /// Damaged pieces, at once.
        Damaged,
        /// Cannot be opened.
        Absent,
    }

    #[derive(Clone)]
    struct World {
        clock: Arc<SimClock>,
        mode: Arc<Mutex<Mode>>,
        calls: Arc<Mutex<u64>>,
    }

    struct Device(World);

    fn error(kind: SourceErrorKind) -> SourceError {
        SourceError::new(kind, "cam0: simulated")
    }

    impl World {
        fn new(mode: Mode) -> Self {
            let clock = Arc::new(SimClock::new(MonoTime(0)));
            Self { clock, mode: Arc::new(Mutex::new(mode)), calls: Arc::default() }
        }

        fn set(&self, mode: Mode) {
            *self.mode.lock().unwrap() = mode;
        }

        fn mode(&self) -> Mode {
            *self.calls.lock().unwrap() += 1;
            *self.mode.lock().unwrap()
        }

        fn supervised(
            &self,
        ) -> Supervised<Device, impl FnMut() -> Result<Device, SourceError> + Send + use<>> {
            let world = self.clone();
            let open = move || match world.mode() {
                Mode::Absent => Err(error(SourceErrorKind::Lost)),
                _ => Ok(Device(world.clone())),
            };
            Supervised::new("cam0", open, self.clock.clone(), LivenessConfig::default())
        }
    }

    impl VideoSource for Device {
        fn describe(&self) -> &str {
            "cam0"
        }
        fn choose(&mut self, _choice: FrameChoice) {}
        fn read(&mut self, out: &mut Frame, timeout: Duration) -> Result<Read, SourceError> {
            match self.0.mode() {
                Mode::Runs => {
                    self.0.clock.advance(Duration::from_millis(40).min(timeout));
                    out.time = self.0.clock.now();
                    Ok(if timeout < Duration::from_millis(40) { Read::Timeout } else { Read::Data })
                }
                Mode::Hangs => {
                    self.0.clock.advance(timeout);
                    Ok(Read::Timeout)
                }
                Mode::Nothing => Ok(Read::Timeout),
                Mode::Damaged => Err(error(SourceErrorKind::Truncated)),
                Mode::Fails | Mode::Absent => Err(error(SourceErrorKind::Failed)),
            }
        }
    }

    /// Reads for so many simulated seconds; how many frames came.
    fn run(source: &mut impl VideoSource, world: &World, seconds: i64) -> usize {
        let (end, mut frame, mut frames) = (world.clock.now().0 + seconds * 1_000_000_000, Frame::new(), 0);
        while world.clock.now().0 < end {
            if source.read(&mut frame, Duration::from_millis(200)).unwrap() == Read::Data {
                frames += 1;
            }
        }
        frames
    }

    #[test]
    fn a_working_device_is_healthy() {
        let world = World::new(Mode::Runs);
        let mut source = world.supervised();
        assert_eq!(source.state(), State::Waiting);
        assert!(run(&mut source, &world, 10) >= 245);
        assert_eq!(source.state(), State::Healthy);
        assert_eq!(source.counters(), LivenessCounters { opens: 1, ..Default::default() });
    }

    #[test]
    fn silence_is_a_stall_then_a_loss_then_a_reopening() {
        for silent in [Mode::Hangs, Mode::Nothing, Mode::Damaged] {
            let world = World::new(Mode::Runs);
            let mut source = world.supervised();
            run(&mut source, &world, 2);
            world.set(silent);
            run(&mut source, &world, 2);
            assert_eq!(source.state(), State::Stalled);
            run(&mut source, &world, 4);
            assert_eq!(source.counters().losses, 1);
            world.set(Mode::Runs);
            assert!(run(&mut source, &world, 4) > 25);
            assert_eq!(source.state(), State::Healthy);
        }
    }

    #[test]
    fn a_short_stall_recovers_without_reopening() {
        let world = World::new(Mode::Runs);
        let mut source = world.supervised();
        run(&mut source, &world, 2);
        world.set(Mode::Hangs);
        run(&mut source, &world, 3);
        world.set(Mode::Runs);
        run(&mut source, &world, 1);
        assert_eq!(source.state(), State::Healthy);
        assert_eq!((source.counters().opens, source.counters().stalls), (1, 1));
    }

    #[test]
    fn an_absent_device_is_waited_for_with_growing_pauses() {
        let world = World::new(Mode::Absent);
        let mut source = world.supervised();
        run(&mut source, &world, 600);
        assert_eq!(source.state(), State::Waiting);
        let tries = source.counters().open_failures;
        assert!((20..35).contains(&tries), "{tries} attempts in ten minutes");
        world.set(Mode::Runs);
        assert!(run(&mut source, &world, 40) > 0);
    }

    #[test]
    fn an_unplugged_device_is_lost_and_comes_back() {
        let world = World::new(Mode::Runs);
        let mut source = world.supervised();
        run(&mut source, &world, 2);
        world.set(Mode::Absent);
        run(&mut source, &world, 5);
        assert_eq!(source.state(), State::Lost);
        assert!(source.last_error().is_some());
        world.set(Mode::Runs);
        assert!(run(&mut source, &world, 6) > 0);
        assert_eq!(source.state(), State::Healthy);
    }

    #[test]
    fn no_fault_makes_it_spin() {
        for mode in [Mode::Fails, Mode::Nothing, Mode::Damaged, Mode::Absent, Mode::Hangs] {
            let world = World::new(mode);
            let mut source = world.supervised();
            run(&mut source, &world, 100);
            let calls = *world.calls.lock().unwrap();
            // 50 a second at 20 ms each.
            assert!(calls <= 5_000 + 10, "{calls} calls in 100 s");
        }
    }

    #[test]
    fn a_flapping_device_does_not_reset_the_back_off() {
        let world = World::new(Mode::Runs);
        let mut source = world.supervised();
        for _ in 0..60 {
            world.set(Mode::Runs);
            run(&mut source, &world, 1);
            world.set(Mode::Fails);
            run(&mut source, &world, 1);
        }
        assert!(source.counters().opens < 16, "{:?}", source.counters());
    }

    #[test]
    fn jitter_is_the_same_for_the_same_seed_and_bounded() {
        let mut machine = Liveness::new(LivenessConfig { seed: 3, ..Default::default() }, MonoTime(0));
        let mut again = Liveness::new(LivenessConfig { seed: 3, ..Default::default() }, MonoTime(0));
        for _ in 0..40 {
            machine.event(MonoTime(0), Event::OpenFailed);
            again.event(MonoTime(0), Event::OpenFailed);
            assert_eq!(machine.not_before, again.not_before);
            assert!(machine.not_before.0 <= 37_500_000_000);
        }
    }
}
