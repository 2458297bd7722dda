//! Between the state machines and the service manager.

use std::{sync::Arc, time::Duration};

use super::{
    notify::{Notice, Notify},
    progress::{Late, Part, Progress},
};
use crate::clock::{Clock, MonoTime};

/// The status line is not sent more often.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// systemd's limit is far above; a line is for people.
const STATUS_BYTES: usize = 200;

/// Says READY once, feeds the watchdog while every part makes progress, passes on the status line.
pub struct Supervisor<N> {
    progress: Progress,
    notify: N,
    clock: Arc<dyn Clock>,
    /// Interval of feeding: a third of what the manager allows.
    interval: Option<Duration>,
    next: MonoTime,
    ready: bool,
    late: bool,
    status: String,
    status_next: MonoTime,
}

impl<N: Notify> Supervisor<N> {
    /// For `notify`, whose watchdog decides how often it is fed.
    pub fn new(clock: Arc<dyn Clock>, notify: N) -> Self {
        let interval = notify.watchdog().map(|w| w / 3);
        let now = clock.now();
        Self {
            progress: Progress::new(Arc::clone(&clock)),
            notify,
            clock,
            interval,
            next: now,
            ready: false,
            late: false,
            status: String::new(),
            status_next: now,
        }
    }

    /// Adds a part that must make progress; see [`Progress::register`].
    pub fn register(&mut self, name: &'static str, deadline: Duration) -> Arc<Part> {
        self.progress.register(name, deadline)
    }

    /// The loop runs, with or without devices. Said once.
    pub fn ready(&mut self, status: &str) {
        if !std::mem::replace(&mut self.ready, true) {
            self.notify.tell(&Notice::Ready);
            tracing::info!(watchdog_ms = self.interval.map(|i| i.as_millis() * 3), "ready");
        }
        self.status(status);
    }

    /// To be called from the loop, often; returns who is late. The watchdog is fed only if nobody is.
    pub fn turn(&mut self) -> Option<Late> {
        let now = self.clock.now();
        if now < self.next {
            return None;
        }
        self.next = now + self.interval.unwrap_or(STATUS_EVERY);
        let late = self.progress.late();
        match &late {
            None => {
                if self.interval.is_some() && self.ready {
                    self.notify.tell(&Notice::Watchdog);
                }
                if std::mem::take(&mut self.late) {
                    tracing::info!("progress again");
                }
            }
            Some(late) => {
                if !std::mem::replace(&mut self.late, true) {
                    tracing::error!("{late}; the watchdog is not fed until there is");
                }
            }
        }
        late
    }

    /// One line about how things stand, for `systemctl status`. Sent when it changed, not more than every five seconds.
    pub fn status(&mut self, line: &str) {
        let now = self.clock.now();
        let line = line.lines().next().unwrap_or_default();
        let end = (0..=STATUS_BYTES.min(line.len())).rev().find(|&i| line.is_char_boundary(i)).unwrap_or(0);
        let line = &line[..end];
        if line == self.status || now < self.status_next {
            return;
        }
        self.status.clear();
        self.status.push_str(line);
        self.status_next = now + STATUS_EVERY;
        self.notify.tell(&Notice::Status(&self.status));
    }

    /// The end has begun.
    pub fn stopping(&mut self) {
        self.notify.tell(&Notice::Stopping);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::{clock::SimClock, service::Idle};

    #[derive(Clone)]
    struct Recorder(Arc<Mutex<Vec<String>>>, Option<Duration>);

    impl Notify for Recorder {
        fn tell(&self, notice: &Notice<'_>) {
            self.0.lock().unwrap().push(format!("{notice:?}"));
        }
        fn watchdog(&self) -> Option<Duration> {
            self.1
        }
    }

    struct Bench {
        clock: Arc<SimClock>,
        told: Arc<Mutex<Vec<String>>>,
        supervisor: Supervisor<Recorder>,
    }

    fn bench(watchdog: Option<Duration>) -> Bench {
        let (clock, told) = (Arc::new(SimClock::default()), Arc::default());
        let recorder = Recorder(Arc::clone(&told), watchdog);
        Bench { supervisor: Supervisor::new(clock.clone(), recorder), clock, told }
    }

    impl Bench {
        /// Turns the loop 20 times a second for `seconds`, with `work` at each turn; returns what was told meanwhile.
        fn turns(&mut self, seconds: u64, mut work: impl FnMut(u64)) -> Vec<String> {
            self.told.lock().unwrap().clear();
            for turn in 0..seconds * 20 {
                self.clock.advance(Duration::from_millis(50));
                work(turn);
                self.supervisor.turn();
            }
            self.told.lock().unwrap().clone()
        }
    }

    const WATCHDOG: Option<Duration> = Some(Duration::from_secs(30));
    const DEADLINE: Duration = Duration::from_secs(10);

    #[test]
    fn snippets_feed_the_watchdog_three_times_as_often_as_needed() {
        let mut bench = bench(WATCHDOG);
        let part = bench.supervisor.register("pipeline", DEADLINE);
        bench.supervisor.ready("");
        let told = bench.turns(300, |turn| {
            if turn % 20 == 0 {
                part.completed();
            }
        });
        assert_eq!(told, vec!["Watchdog"; 30]);
    }

    #[test]
    fn a_loop_that_turns_without_achieving_anything_does_not_feed_it() {
        let mut bench = bench(WATCHDOG);
        let part = bench.supervisor.register("pipeline", DEADLINE);
        bench.supervisor.ready("");
        part.completed();
        let told = bench.turns(300, |_| {});
        assert!(told.len() <= 2, "fed after the deadline: {told:?}");
        part.completed();
        assert!(!bench.turns(10, |_| part.completed()).is_empty(), "fed again when there is progress");
    }

    #[test]
    fn one_late_part_is_enough() {
        let mut bench = bench(WATCHDOG);
        let part = bench.supervisor.register("pipeline", DEADLINE);
        let _stuck = bench.supervisor.register("outbox", DEADLINE);
        bench.supervisor.ready("");
        let told = bench.turns(300, |_| part.completed());
        assert!(told.len() <= 2, "{told:?}");
        assert_eq!(bench.supervisor.progress.late().unwrap().part, "outbox");
    }

    #[test]
    fn hours_without_devices_are_served() {
        let mut bench = bench(WATCHDOG);
        let part = bench.supervisor.register("pipeline", DEADLINE);
        bench.supervisor.ready("");
        let told = bench.turns(7200, |_| part.serving(Idle::Waiting));
        assert_eq!(told.len(), 720);
    }

    #[test]
    fn nothing_is_fed_before_ready_or_when_nobody_asks() {
        let mut bench1 = bench(WATCHDOG);
        let part = bench1.supervisor.register("pipeline", DEADLINE);
        assert!(bench1.turns(100, |_| part.completed()).is_empty());
        let mut bench2 = bench(None);
        let part = bench2.supervisor.register("pipeline", DEADLINE);
        bench2.supervisor.ready("");
        assert!(bench2.turns(100, |_| part.completed()).is_empty());
    }

    #[test]
    fn status_lines_are_sent_when_they_change_and_not_too_often() {
        let mut bench = bench(None);
        bench.supervisor.ready("waiting\nsecond line");
        for n in 0..200 {
            bench.clock.advance(Duration::from_millis(50));
            bench.supervisor.status(&format!("snippet {n}"));
        }
        bench.supervisor.status(&"ü".repeat(300));
        bench.supervisor.stopping();
        let told = bench.told.lock().unwrap().clone();
        let expected =
            ["Ready", "Status(\"waiting\")", "Status(\"snippet 99\")", "Status(\"snippet 199\")", "Stopping"];
        assert_eq!(told, expected);
    }
}
