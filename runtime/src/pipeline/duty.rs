//! The thermal governor in the pipeline: asked once for each snippet what of it is to be worked on.
//!
//! The sensors are read every few seconds at most, on the caller's thread, without allocating.

use std::{path::Path, sync::Arc, time::Duration};

use girasol_board::{Board, Change, Duty, Governor, Power, Reading, Reason, Sensors};

use crate::{
    clock::{Clock, MonoTime},
    config::BoardConfig,
    mqtt::BoardState,
    timeline::Snippet,
};

/// The sensors are not read more often; a board warms more slowly.
const READ_EVERY: Duration = Duration::from_secs(2);

/// Decides about each snippet.
pub struct DutyControl {
    governor: Option<Governor>,
    sensors: Sensors,
    clock: Arc<dyn Clock>,
    next: MonoTime,
    reading: Reading,
    power: Power,
    /// Seconds of snippets left out since the last that was worked on.
    gap: f32,
    shed: u64,
    duty: Duty,
}

impl DutyControl {
    /// For a board that was recognised below `root`. With `board.governor = false` only the heaviest load counts.
    #[must_use]
    pub fn new(board: &Board, root: &Path, config: &BoardConfig, clock: Arc<dyn Clock>) -> Self {
        let settings = config.over(board.governor_config());
        Self {
            governor: config.governor.then(|| Governor::new(settings)),
            sensors: board.sensors(root),
            next: clock.now(),
            clock,
            reading: Reading::default(),
            power: Power::default(),
            gap: 0.0,
            shed: 0,
            duty: settings.heaviest,
        }
    }

    /// The load in force; a source may leave out early what [`Self::admit`] would leave out anyway.
    #[must_use]
    pub fn duty(&self) -> Duty {
        self.duty
    }

    /// How things stand.
    #[must_use]
    pub fn status(&self) -> BoardState {
        BoardState {
            duty: self.duty,
            shed: self.shed,
            temperature: self.reading.hottest_c,
            under_voltage: self.power.under_voltage,
            throttled: self.power.throttled,
        }
    }

    /// To be called once for each snippet, before the work. Takes away the frames that the load does not allow; false:
    /// the snippet is left out, and the gap is added to the next one's `dt`. A change is logged; the state should then
    /// be published.
    pub fn admit(&mut self, snippet: &mut Snippet) -> bool {
        self.look();
        if !self.duty.takes(snippet.index) {
            self.gap += snippet.dt;
            self.shed += 1;
            return false;
        }
        snippet.dt += std::mem::take(&mut self.gap);
        let allowed = self.duty.frames();
        let mut there = snippet.frame_present.iter().filter(|p| **p).count();
        // The later frame is worth more: it is nearer to now.
        for present in &mut snippet.frame_present {
            if there > allowed && *present {
                *present = false;
                there -= 1;
            }
        }
        true
    }

    fn look(&mut self) {
        let now = self.clock.now();
        if now < self.next {
            return;
        }
        self.next = now + READ_EVERY;
        let (reading, power) = self.sensors.read();
        if power.under_voltage == Some(true) && self.power.under_voltage != Some(true) {
            tracing::warn!("the supply voltage is too low: the board may slow down or lose USB devices");
        }
        (self.reading, self.power) = (reading, power);
        let Some(governor) = &mut self.governor else { return };
        let time = Duration::from_nanos(u64::try_from(now.0).unwrap_or(0));
        if let Some(change) = governor.step(time, reading) {
            announce(&change);
        }
        self.duty = governor.duty();
    }
}

fn announce(change: &Change) {
    let (from, to) = (change.from, change.to);
    let celsius = change.at_c.unwrap_or(f32::NAN);
    match change.reason {
        Reason::Cool => tracing::info!("cool again ({celsius:.0} °C): load from {from} to {to}"),
        Reason::Throttled => {
            tracing::warn!(
                "the processor is slowed down by heat ({celsius:.0} °C): load from {from} to {to}"
            );
        }
        Reason::Warm | Reason::Hot => {
            tracing::warn!("near the temperature limit ({celsius:.0} °C): load from {from} to {to}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::clock::SimClock;

    struct Bench {
        root: tempfile::TempDir,
        clock: Arc<SimClock>,
        control: DutyControl,
        index: u64,
    }

    fn bench(config: &BoardConfig) -> Bench {
        let root = tempfile::tempdir().unwrap();
        let zone = root.path().join("sys/class/thermal/thermal_zone0");
        fs::create_dir_all(&zone).unwrap();
        fs::write(zone.join("type"), "cpu-thermal\n").unwrap();
        fs::write(zone.join("temp"), "40000\n").unwrap();
        let board = Board::recognise(root.path(), &config.profiles().unwrap());
        let clock = Arc::new(SimClock::default());
        let control = DutyControl::new(&board, root.path(), config, clock.clone());
        Bench { root, clock, control, index: 0 }
    }

    impl Bench {
        fn celsius(&self, celsius: u32) {
            let path = self.root.path().join("sys/class/thermal/thermal_zone0/temp");
            fs::write(path, format!("{}\n", celsius * 1000)).unwrap();
        }

        /// The next snippet, with both frames; what is left of it: frames and dt, if it is worked on.
        fn snippet(&mut self) -> Option<(usize, f32)> {
            self.clock.advance(Duration::from_millis(960));
            let mut snippet = Snippet::new();
            (snippet.index, snippet.frame_present) = (self.index, [true; 2]);
            self.index += 1;
            let taken = self.control.admit(&mut snippet);
            taken.then(|| (snippet.frame_present.iter().filter(|p| **p).count(), snippet.dt))
        }
    }

    #[test]
    fn heat_takes_frames_then_snippets_then_the_picture_and_cold_gives_them_back() {
        let mut bench = bench(&BoardConfig::default());
        assert_eq!(bench.snippet(), Some((2, 0.96)));
        bench.celsius(77);
        let mut seen = Vec::new();
        for _ in 0..80 {
            let left = bench.snippet();
            let duty = bench.control.duty();
            match duty {
                Duty::Full => assert_eq!(left, Some((2, 0.96))),
                Duty::FewerFrames => assert_eq!(left, Some((1, 0.96))),
                Duty::AlternateSnippets => {
                    assert!(matches!(left, None | Some((1, 0.96 | 1.92))), "{left:?}");
                }
                Duty::AudioOnly => assert!(matches!(left, Some((0, 0.96 | 1.92))), "{left:?}"),
            }
            if seen.last() != Some(&duty) {
                seen.push(duty);
            }
        }
        assert_eq!(seen, Duty::ALL);
        let status = bench.control.status();
        assert_eq!((status.duty, status.temperature), (Duty::AudioOnly, Some(77.0)));
        assert!((9..=12).contains(&status.shed), "{status:?}");
        bench.celsius(50);
        for _ in 0..200 {
            bench.snippet();
        }
        assert_eq!(bench.control.duty(), Duty::Full);
        assert_eq!(bench.snippet(), Some((2, 0.96)));
    }

    #[test]
    fn without_the_governor_only_the_configured_load_counts() {
        let config = BoardConfig { governor: false, heaviest: Duty::FewerFrames, ..BoardConfig::default() };
        let mut bench = bench(&config);
        bench.celsius(99);
        for _ in 0..100 {
            assert_eq!(bench.snippet(), Some((1, 0.96)));
        }
        assert_eq!(bench.control.status().temperature, Some(99.0));
    }

    #[test]
    fn the_later_frame_is_kept() {
        let config = BoardConfig { heaviest: Duty::FewerFrames, ..BoardConfig::default() };
        let mut control = bench(&config).control;
        let mut admit = |present: [bool; 2]| {
            let mut snippet = Snippet::new();
            snippet.frame_present = present;
            assert!(control.admit(&mut snippet));
            snippet.frame_present
        };
        assert_eq!(admit([true, true]), [false, true]);
        assert_eq!(admit([true, false]), [true, false]);
        assert_eq!(admit([false, false]), [false, false]);
    }
}
