//! The capture above a sound card that does what a test tells it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use super::{pcm::Status, *};
use crate::clock::SimClock;

/// What the next wait brings.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many frames wait.
    Frames(usize),
    /// The wait fails.
    Fails(Errno),
    /// The wait succeeds and the state says overrun.
    Overrun,
    /// The wait succeeds and the read fails.
    ReadFails(Errno),
    /// Nothing for the whole wait.
    Nothing,
}

#[derive(Default)]
struct Script {
    steps: VecDeque<Step>,
    /// What `resume` and `restart` answer; `Ok` when empty.
    resumes: VecDeque<Errno>,
    restart: Option<Errno>,
    restarts: u32,
    stamped: bool,
    waits: u32,
    /// Next sample of a ramp, so that continuity can be seen.
    counter: u32,
}

struct Fake {
    rate: u32,
    script: Arc<Mutex<Script>>,
    clock: Arc<SimClock>,
    step: Option<Step>,
}

impl Pcm for Fake {
    fn rate(&self) -> u32 {
        self.rate
    }
    fn wait(&mut self, timeout: Duration) -> Result<bool, Errno> {
        let mut script = self.script.lock().unwrap();
        script.waits += 1;
        let step = script.steps.pop_front().unwrap_or(Step::Nothing);
        match step {
            Step::Nothing => {
                self.clock.advance(timeout);
                return Ok(false);
            }
            Step::Fails(errno) => return Err(errno),
            Step::Frames(n) => {
                self.clock.advance(Duration::from_nanos(nanos(n as u64, self.rate.into()).unsigned_abs()))
            }
            Step::Overrun | Step::ReadFails(_) => {}
        }
        self.step = Some(step);
        Ok(true)
    }
    fn status(&mut self) -> Result<Status, Errno> {
        let waiting = if let Some(Step::Frames(n)) = self.step { n as u64 } else { 0 };
        let stamp = if self.script.lock().unwrap().stamped { self.clock.now().0 } else { 0 };
        Ok(Status { overrun: matches!(self.step, Some(Step::Overrun)), waiting, delay: waiting, stamp })
    }
    fn read(&mut self, out: &mut [f32]) -> Result<usize, Errno> {
        let mut script = self.script.lock().unwrap();
        match self.step.take() {
            Some(Step::Frames(n)) => {
                for sample in &mut out[..n] {
                    *sample = (script.counter % 1_000) as f32 / 32_768.0;
                    script.counter += 1;
                }
                Ok(n)
            }
            Some(Step::ReadFails(errno)) => Err(errno),
            other => unreachable!("{other:?} is not read"),
        }
    }
    fn restart(&mut self) -> Result<(), Errno> {
        let mut script = self.script.lock().unwrap();
        script.restarts += 1;
        script.restart.map_or(Ok(()), Err)
    }
    fn resume(&mut self) -> Result<(), Errno> {
        self.script.lock().unwrap().resumes.pop_front().map_or(Ok(()), Err)
    }
}

struct World {
    script: Arc<Mutex<Script>>,
    clock: Arc<SimClock>,
    capture: Capture<Fake>,
}

const START: MonoTime = MonoTime(50_000_000_000);

fn world(rate: u32, steps: impl IntoIterator<Item = Step>) -> World {
    let script = Script { steps: steps.into_iter().collect(), stamped: true, ..Script::default() };
    let (script, clock) = (Arc::new(Mutex::new(script)), Arc::new(SimClock::new(START)));
    let fake = Fake { rate, script: Arc::clone(&script), clock: Arc::clone(&clock), step: None };
    let capture =
        Capture::new(fake, "mic".into(), String::new(), Arc::clone(&clock) as Arc<dyn Clock>).unwrap();
    World { script, clock, capture }
}

impl World {
    fn read(&mut self, block: &mut Block) -> Result<Read, SourceError> {
        self.capture.read(block, Duration::from_millis(100))
    }
}

#[test]
fn sound_at_16_khz_passes_bit_for_bit_with_exact_times() {
    let mut world = world(16_000, [320; 30].map(Step::Frames));
    let mut block = Block::new();
    for n in 0..30u16 {
        assert_eq!(world.read(&mut block), Ok(Read::Data));
        assert_eq!(block.time, MonoTime(START.0 + i64::from(n) * 20_000_000));
        let expected: Vec<i16> =
            (0..320u32).map(|i| i16::try_from((u32::from(n) * 320 + i) % 1_000).unwrap()).collect();
        assert_eq!(block.samples(), expected);
        assert!(!block.discontinuity);
    }
}

#[test]
fn other_rates_are_resampled_and_each_sample_keeps_its_time() {
    for rate in [44_100, 48_000, 8_000, 96_000] {
        let frames = rate as usize / 50;
        let mut world = world(rate, std::iter::repeat_n(Step::Frames(frames), 100));
        let (mut block, mut end, mut samples) = (Block::new(), None, 0);
        while world.read(&mut block).unwrap() == Read::Data {
            // The first output stands at the first input, and each block begins where the one before ended.
            let expected = end.unwrap_or(START);
            assert!(block.time.since(expected).abs() < 2_000, "{rate}: {:?} {expected:?}", block.time);
            end = Some(block.end());
            samples += block.len();
        }
        let behind = 32_000 - samples;
        assert!(behind < 700, "{rate}: {behind} samples behind after two seconds");
    }
}

#[test]
fn after_an_overrun_the_stream_is_started_again_and_says_so() {
    for overrun in [Step::Overrun, Step::Fails(libc::EPIPE), Step::ReadFails(libc::EPIPE)] {
        let mut world = world(16_000, [Step::Frames(320), overrun, Step::Frames(320), Step::Frames(320)]);
        let mut block = Block::new();
        assert_eq!(world.read(&mut block), Ok(Read::Data));
        world.clock.advance(Duration::from_secs(3));
        assert_eq!(world.read(&mut block), Ok(Read::Timeout), "{overrun:?}");
        assert_eq!(world.script.lock().unwrap().restarts, 1);
        assert_eq!(world.read(&mut block), Ok(Read::Data));
        assert!(block.discontinuity);
        assert_eq!(block.time, MonoTime(START.0 + 3_020_000_000));
        assert_eq!(world.read(&mut block), Ok(Read::Data));
        assert!(!block.discontinuity);
    }
}

#[test]
fn a_suspend_is_waited_out() {
    let suspended = Step::Fails(libc::ESTRPIPE);
    let mut world = world(16_000, [Step::Frames(320), suspended, suspended, Step::Frames(320)]);
    world.script.lock().unwrap().resumes = [libc::EAGAIN].into();
    let mut block = Block::new();
    let reads: Vec<_> = (0..4).map(|_| world.read(&mut block).unwrap()).collect();
    assert_eq!(reads, [Read::Data, Read::Timeout, Read::Timeout, Read::Data]);
    assert!(block.discontinuity);
    assert_eq!(world.script.lock().unwrap().restarts, 0);
}

#[test]
fn hardware_that_cannot_resume_is_started_again() {
    let mut world = world(16_000, [Step::Fails(libc::ESTRPIPE), Step::Frames(320)]);
    world.script.lock().unwrap().resumes = [libc::ENOSYS].into();
    let mut block = Block::new();
    assert_eq!(world.read(&mut block), Ok(Read::Timeout));
    assert_eq!(world.read(&mut block), Ok(Read::Data));
    assert_eq!(world.script.lock().unwrap().restarts, 1);
}

#[test]
fn each_error_has_one_meaning() {
    for (errno, kind) in [
        (libc::ENODEV, SourceErrorKind::Lost),
        (libc::EBADFD, SourceErrorKind::Lost),
        (libc::EIO, SourceErrorKind::Failed),
        (libc::EBUSY, SourceErrorKind::Busy),
    ] {
        for step in [Step::Fails(errno), Step::ReadFails(errno)] {
            let error = world(16_000, [step]).read(&mut Block::new()).unwrap_err();
            assert_eq!(error.kind, kind, "{step:?}");
            assert!(error.message.starts_with("mic: "), "{error}");
        }
    }
    let mut gone = world(16_000, [Step::Overrun]);
    gone.script.lock().unwrap().restart = Some(libc::ENODEV);
    assert_eq!(gone.read(&mut Block::new()).unwrap_err().kind, SourceErrorKind::Lost);
}

#[test]
fn a_silent_card_times_out_and_a_signal_does_not_show() {
    let mut world = world(16_000, [Step::Fails(libc::EINTR), Step::Frames(320), Step::Nothing]);
    let mut block = Block::new();
    assert_eq!(world.read(&mut block), Ok(Read::Data));
    let before = world.clock.now();
    assert_eq!(world.read(&mut block), Ok(Read::Timeout));
    assert_eq!(world.clock.now().since(before), 100_000_000);
}

#[test]
fn without_a_stamp_the_time_of_reading_less_the_delay_counts() {
    let mut world = world(16_000, [Step::Frames(320)]);
    world.script.lock().unwrap().stamped = false;
    let mut block = Block::new();
    assert_eq!(world.read(&mut block), Ok(Read::Data));
    assert_eq!(block.time, START);
}
