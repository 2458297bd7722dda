//! Live devices: one thread per source, assembly and inference on the caller's.
//!
//! A source that is away holds nothing up: snippets carry what there is, and with neither camera nor microphone the loop
//! waits. When the work is late, whole snippets are skipped and counted. The loop says what it achieves
//! ([`LiveListener::progress`]): that, and never a bare timer, may feed a watchdog.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use heapless::spsc::Consumer;

use super::{
    DutyControl, Operator, Processor, Product, Report,
    feed::{Slots, Status, drain, pump},
};
use crate::{
    Result,
    clock::{Clock, MonoTime},
    command::Control,
    event::{EndReason, Sense},
    mqtt::BoardState,
    source::{
        AudioSource, Block, Frame, Read, SourceError, VideoSource,
        liveness::{State, Supervised},
    },
    timeline::{Assembler, AssemblerConfig, AssemblerCounters, FrameChoice, Poll, Slot, Snippet},
};

/// The loop looks for signals and lost sources at least so often.
const NAP: Duration = Duration::from_millis(50);

/// A supervised device: pauses, but never fails.
pub trait LiveSource<T>: Send {
    /// The next piece of data; at most `timeout`.
    fn next(&mut self, out: &mut T, timeout: Duration) -> Result<Read, SourceError>;
    /// How it fares.
    fn state(&self) -> State;
    /// Which pictures are worth converting; nothing to a sound source.
    fn choose(&mut self, _choice: FrameChoice) {}
}

impl<S: VideoSource, F: FnMut() -> Result<S, SourceError> + Send> LiveSource<Frame> for Supervised<S, F> {
    fn next(&mut self, out: &mut Frame, timeout: Duration) -> Result<Read, SourceError> {
        VideoSource::read(self, out, timeout)
    }
    fn choose(&mut self, choice: FrameChoice) {
        VideoSource::choose(self, choice);
    }
    fn state(&self) -> State {
        Supervised::state(self)
    }
}

impl<S: AudioSource, F: FnMut() -> Result<S, SourceError> + Send> LiveSource<Block> for Supervised<S, F> {
    fn next(&mut self, out: &mut Block, timeout: Duration) -> Result<Read, SourceError> {
        AudioSource::read(self, out, timeout)
    }
    fn state(&self) -> State {
        Supervised::state(self)
    }
}

/// What there is to listen and look with; `None` where it is switched off.
#[derive(Default)]
pub struct LiveSources {
    /// The camera.
    pub video: Option<Box<dyn LiveSource<Frame>>>,
    /// The microphone.
    pub audio: Option<Box<dyn LiveSource<Block>>>,
}

/// Who has a say in what is worked on.
pub struct Crew {
    /// Carries out commands between snippets.
    pub operator: Operator,
    /// Leaves work out when the board is hot.
    pub duty: DutyControl,
}

/// How things stand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LiveStatus {
    /// The camera; `None` when it is switched off.
    pub video: Option<State>,
    /// The microphone; `None` when it is switched off.
    pub audio: Option<State>,
    /// What the assembler counted.
    pub counters: AssemblerCounters,
    /// Blocks and frames dropped because nobody took them in time.
    pub dropped: u64,
    /// Load and heat of the board.
    pub board: BoardState,
}

/// What the loop achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A snippet was worked on, or left out because the board is hot.
    Snippet,
    /// There is nothing to work on: no source delivers, and both are being looked for.
    Waiting,
    /// There is nothing to work on: what delivers is paused.
    Muted,
}

/// Who listens to a live run. All calls come from the loop's thread.
pub trait LiveListener {
    /// Something to publish.
    fn product(&mut self, product: Product);
    /// A snippet is done.
    fn report(&mut self, report: &Report, status: &LiveStatus);
    /// Called at every turn of the loop, some twenty times a second: for what is due by the clock.
    fn turn(&mut self, _status: &LiveStatus) {}
    /// Something was achieved; a watchdog may be fed.
    fn progress(&mut self, _progress: Progress) {}
    /// The last products have come; sources may still be closing.
    fn closing(&mut self, _status: &LiveStatus) {}
}

/// One source as the loop sees it.
struct Feed<'q, T> {
    queue: Consumer<'q, Slot<T>>,
    status: &'q Status,
    health: &'q AtomicU8,
    /// Nothing is to be taken from it.
    paused: &'q AtomicBool,
    there: bool,
    /// The assembler waits for it.
    live: bool,
    over: bool,
}

impl<T> Feed<'_, T> {
    fn state(&self) -> Option<State> {
        self.there.then(|| decode(self.health.load(Ordering::Acquire)))
    }

    fn delivers(&self) -> bool {
        matches!(self.state(), Some(State::Healthy | State::Stalled))
    }

    /// Hands on what waits; then what changed: `Some(true)` it is back, `Some(false)` it is lost.
    fn take(&mut self, mut take: impl FnMut(&T)) -> Option<bool> {
        // Looked at first: what was queued before the state changed is certain to be seen below.
        let paused = self.paused.load(Ordering::Acquire);
        let live = self.delivers() && !paused;
        let take_unless_paused = |item: &T| {
            if !paused {
                take(item);
            }
        };
        drain(&mut self.queue, self.status, &mut self.over, take_unless_paused);
        (live != self.live).then(|| {
            self.live = live;
            live
        })
    }
}

fn encode(state: State) -> u8 {
    match state {
        State::Waiting => 0,
        State::Reopening => 1,
        State::Healthy => 2,
        State::Stalled => 3,
        State::Lost => 4,
    }
}

fn decode(state: u8) -> State {
    match state {
        1 => State::Reopening,
        2 => State::Healthy,
        3 => State::Stalled,
        4 => State::Lost,
        _ => State::Waiting,
    }
}

/// Runs until `stop` is set, then ends every open event.
///
/// # Errors
/// The model failed; that is a bug or a damaged machine, and only a restart helps.
pub fn run_live(
    mut sources: LiveSources,
    processor: &mut Processor,
    crew: Crew,
    clock: &Arc<dyn Clock>,
    stop: &AtomicBool,
    to: &mut dyn LiveListener,
) -> Result<LiveStatus> {
    let control: Arc<Control> = Arc::clone(crew.operator.control());
    let (mut audio_queue, mut video_queue) = (Slots::<Block>::new(), Slots::<Frame>::new());
    let (audio_in, audio_out) = audio_queue.split();
    let (video_in, video_out) = video_queue.split();
    let (audio_status, video_status) = (Status::default(), Status::default());
    let (audio_health, video_health) = (AtomicU8::new(0), AtomicU8::new(0));
    let audio = Feed {
        queue: audio_out,
        status: &audio_status,
        health: &audio_health,
        paused: control.paused_flag(Sense::Hear),
        there: sources.audio.is_some(),
        live: false,
        over: false,
    };
    let video = Feed {
        queue: video_out,
        status: &video_status,
        health: &video_health,
        paused: control.paused_flag(Sense::See),
        there: sources.video.is_some(),
        live: false,
        over: false,
    };
    let assembler = waiting_assembler(audio.there, video.there);
    if let Some(video) = &mut sources.video {
        video.choose(assembler.frame_choice());
    }
    let halt = AtomicBool::new(false);
    let consumer = thread::current();
    thread::scope(|scope| {
        // Also when the loop below panics: a scope waits for its threads.
        let _halt = Halt(&halt);
        if let Some(mut source) = sources.audio {
            let (status, health, consumer) = (&audio_status, &audio_health, consumer.clone());
            let flags = (&halt, control.paused_flag(Sense::Hear));
            scope.spawn(move || {
                let read = |block: &mut Block, timeout| watched(&mut *source, block, timeout, health);
                pump(read, audio_in, status, flags, &consumer);
            });
        }
        if let Some(mut source) = sources.video {
            let (status, health, consumer) = (&video_status, &video_health, consumer.clone());
            let flags = (&halt, control.paused_flag(Sense::See));
            scope.spawn(move || {
                let read = |frame: &mut Frame, timeout| watched(&mut *source, frame, timeout, health);
                pump(read, video_in, status, flags, &consumer);
            });
        }
        let mut run = Run { assembler, snippet: Box::default(), audio, video, crew, clock, end: clock.now() };
        run.until(stop, processor, to)?;
        let end = run.end;
        processor.finish(EndReason::Shutdown, end, &mut |product| to.product(product));
        let status = run.status();
        to.closing(&status);
        Ok(status)
    })
}

/// Tells the source threads to end when it goes.
struct Halt<'a>(&'a AtomicBool);

impl Drop for Halt<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A read, and the source's state for the loop to see.
fn watched<T>(
    source: &mut dyn LiveSource<T>,
    out: &mut T,
    timeout: Duration,
    health: &AtomicU8,
) -> Result<Read, SourceError> {
    let result = source.next(out, timeout);
    health.store(encode(source.state()), Ordering::Release);
    result
}

/// An assembler that waits for nobody until they come.
fn waiting_assembler(audio: bool, video: bool) -> Assembler {
    let mut assembler = Assembler::new(AssemblerConfig { audio, video, ..AssemblerConfig::default() });
    if audio {
        assembler.audio_lost();
    }
    if video {
        assembler.video_lost();
    }
    assembler
}

/// The loop's own things.
struct Run<'q> {
    assembler: Assembler,
    snippet: Box<Snippet>,
    audio: Feed<'q, Block>,
    video: Feed<'q, Frame>,
    crew: Crew,
    clock: &'q Arc<dyn Clock>,
    /// End of the last snippet.
    end: MonoTime,
}

impl Run<'_> {
    fn until(
        &mut self,
        stop: &AtomicBool,
        processor: &mut Processor,
        to: &mut dyn LiveListener,
    ) -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.feed();
            match self.assembler.poll(Some(self.clock.now()), &mut self.snippet) {
                Poll::Ready if !self.crew.duty.admit(&mut self.snippet) => to.progress(Progress::Snippet),
                Poll::Ready => {
                    let report = match processor.step(&self.snippet, &mut |product| to.product(product)) {
                        // Given up half-way (`Model::give_up_at`): the end does not wait for it.
                        Err(_) if stop.load(Ordering::Relaxed) => break,
                        done => done?,
                    };
                    self.end = report.end;
                    to.report(&report, &self.status());
                    to.progress(Progress::Snippet);
                }
                Poll::Pending | Poll::Ended => {
                    if !self.audio.live && !self.video.live {
                        let paused = self.audio.delivers() || self.video.delivers();
                        to.progress(if paused { Progress::Muted } else { Progress::Waiting });
                    }
                    let now = self.clock.now();
                    let served = self.crew.operator.serve(processor, now, &mut |product| to.product(product));
                    let more = match served {
                        Err(_) if stop.load(Ordering::Relaxed) => break,
                        more => more?,
                    };
                    if !more {
                        thread::park_timeout(NAP);
                    }
                }
            }
            to.turn(&self.status());
        }
        Ok(())
    }

    /// Moves what the sources brought into the assembler.
    fn feed(&mut self) {
        let assembler = &mut self.assembler;
        match self.audio.take(|block| _ = assembler.push_audio(block)) {
            Some(true) => self.assembler.audio_back(),
            Some(false) => self.assembler.audio_lost(),
            None => {}
        }
        let assembler = &mut self.assembler;
        match self.video.take(|frame| _ = assembler.push_frame(frame)) {
            Some(true) => self.assembler.video_back(),
            Some(false) => self.assembler.video_lost(),
            None => {}
        }
    }

    fn status(&self) -> LiveStatus {
        LiveStatus {
            video: self.video.state(),
            audio: self.audio.state(),
            counters: self.assembler.counters(),
            dropped: self.audio.status.dropped() + self.video.status.dropped(),
            board: self.crew.duty.status(),
        }
    }
}
