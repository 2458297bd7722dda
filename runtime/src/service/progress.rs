//! Who has achieved something lately. What feeds the watchdog is progress, never the mere passing of time.
//!
//! Each state machine registers as a [`Part`] with its own deadline. It reports either that it completed a piece of work
//! ([`Part::completed`]) or that it serves a declared idle state ([`Part::serving`]). A loop that turns without doing
//! either is as late as one that hangs. The broker is no part: its absence is no fault of this process.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::clock::{Clock, MonoTime};

/// A declared state in which no work is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// No device delivers; they are being looked for.
    Waiting,
    /// Switched off by the user.
    Muted,
    /// Quiet hours.
    Quiet,
}

const WORKING: u8 = 0;

impl Idle {
    fn code(self) -> u8 {
        match self {
            Self::Waiting => 1,
            Self::Muted => 2,
            Self::Quiet => 3,
        }
    }

    fn decode(code: u8) -> Option<Self> {
        [Self::Waiting, Self::Muted, Self::Quiet].into_iter().find(|i| i.code() == code)
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting",
            Self::Muted => "muted",
            Self::Quiet => "quiet",
        })
    }
}

/// One state machine with its deadline. Shared with the thread that runs it; reporting is lock-free.
pub struct Part {
    name: &'static str,
    deadline: Duration,
    clock: Arc<dyn Clock>,
    last: AtomicI64,
    doing: AtomicU8,
    completed: AtomicU64,
}

impl Part {
    /// A piece of work is done.
    pub fn completed(&self) {
        self.completed.fetch_add(1, Ordering::Relaxed);
        self.report(WORKING);
    }

    /// No work is due, for this reason, and the machine is awake.
    pub fn serving(&self, idle: Idle) {
        self.report(idle.code());
    }

    /// Pieces of work so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.completed.load(Ordering::Relaxed)
    }

    /// The idle state that it serves, if it does.
    #[must_use]
    pub fn idle(&self) -> Option<Idle> {
        Idle::decode(self.doing.load(Ordering::Relaxed))
    }

    fn report(&self, doing: u8) {
        self.doing.store(doing, Ordering::Relaxed);
        self.last.store(self.clock.now().0, Ordering::Release);
    }

    fn age(&self, now: MonoTime) -> Duration {
        let nanos = now.since(MonoTime(self.last.load(Ordering::Acquire)));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
    }
}

/// A part that did not meet its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    /// Which.
    pub part: &'static str,
    /// How long it has reported nothing.
    pub silent: Duration,
    /// What it was allowed.
    pub deadline: Duration,
}

impl fmt::Display for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (silent, deadline) = (self.silent.as_secs_f32(), self.deadline.as_secs_f32());
        write!(f, "{}: no progress for {silent:.1} s, allowed are {deadline:.1} s", self.part)
    }
}

/// All parts.
pub struct Progress {
    clock: Arc<dyn Clock>,
    parts: Vec<Arc<Part>>,
}

impl Progress {
    /// Without parts.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, parts: Vec::new() }
    }

    /// Adds a part; its first deadline counts from now.
    pub fn register(&mut self, name: &'static str, deadline: Duration) -> Arc<Part> {
        let part = Arc::new(Part {
            name,
            deadline,
            clock: Arc::clone(&self.clock),
            last: AtomicI64::new(self.clock.now().0),
            doing: AtomicU8::new(WORKING),
            completed: AtomicU64::new(0),
        });
        self.parts.push(Arc::clone(&part));
        part
    }

    /// The part that is furthest past its deadline. Without any part nothing is achieved, which is late, too.
    #[must_use]
    pub fn late(&self) -> Option<Late> {
        let now = self.clock.now();
        if self.parts.is_empty() {
            return Some(Late { part: "nothing", silent: Duration::ZERO, deadline: Duration::ZERO });
        }
        let late = self.parts.iter().filter_map(|p| {
            let silent = p.age(now);
            (silent > p.deadline).then_some(Late { part: p.name, silent, deadline: p.deadline })
        });
        late.max_by_key(|l| l.silent - l.deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SimClock;

    fn progress() -> (Arc<SimClock>, Progress) {
        let clock = Arc::new(SimClock::default());
        (Arc::clone(&clock), Progress::new(clock))
    }

    #[test]
    fn every_part_must_meet_its_own_deadline() {
        let (clock, mut progress) = progress();
        let loop_part = progress.register("pipeline", Duration::from_secs(10));
        let disk = progress.register("outbox", Duration::from_secs(60));
        for _ in 0..50 {
            clock.advance(Duration::from_secs(1));
            loop_part.completed();
        }
        assert_eq!(progress.late(), None);
        clock.advance(Duration::from_secs(10));
        loop_part.completed();
        assert_eq!(progress.late(), None, "exactly at the deadline");
        clock.advance(Duration::from_secs(1));
        let late = progress.late().unwrap();
        assert_eq!((late.part, late.silent), ("outbox", Duration::from_secs(61)));
        disk.completed();
        assert_eq!(progress.late(), None);
        clock.advance(Duration::from_secs(11));
        let late = progress.late().unwrap();
        assert_eq!(late.to_string(), "pipeline: no progress for 12.0 s, allowed are 10.0 s");
        assert_eq!((loop_part.count(), disk.count()), (51, 1));
    }

    #[test]
    fn an_idle_state_must_be_served_again_and_again() {
        let (clock, mut progress) = progress();
        let part = progress.register("pipeline", Duration::from_secs(10));
        for idle in [Idle::Waiting, Idle::Muted, Idle::Quiet] {
            for _ in 0..1000 {
                clock.advance(Duration::from_secs(9));
                part.serving(idle);
                assert_eq!((progress.late(), part.idle()), (None, Some(idle)));
            }
        }
        clock.advance(Duration::from_secs(11));
        assert!(progress.late().is_some(), "it said that it waits, and then nothing");
        part.completed();
        assert_eq!((progress.late(), part.idle()), (None, None));
    }

    #[test]
    fn without_parts_there_is_no_progress() {
        assert!(progress().1.late().is_some());
    }
}
