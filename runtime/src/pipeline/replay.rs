//! Replay of a recording, in real time or as fast as it goes.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    Processor, Product, Report,
    feed::{Slots, Status, drain, pump},
};
use crate::{
    Result,
    clock::{Clock, MonoTime},
    event::EndReason,
    source::{AudioSource, Block, Frame, Read, SourceError, VideoSource, clip::Clip, pace::Paced},
    timeline::{Assembler, AssemblerConfig, AssemblerCounters, Poll, Push, Snippet},
};

/// How fast a recording is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speed {
    /// As fast as it goes, one thread, nothing skipped: the same clip gives the same bytes.
    Full,
    /// As it was recorded, with threads and queues as with live devices; what comes too late is skipped and counted.
    RealTime,
}

/// What a replay came to.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// What the assembler counted.
    pub counters: AssemblerCounters,
    /// Blocks and frames dropped because nobody took them in time (real time only).
    pub dropped: u64,
    /// Sum of the snippets' costs.
    pub busy: Duration,
    /// What was wrong with the recording but tolerated.
    pub warnings: Vec<String>,
    /// End of the last snippet.
    pub end: MonoTime,
}

/// A recording about to be replayed.
pub struct Replay<'a> {
    clip: Clip,
    processor: &'a mut Processor,
    clock: Arc<dyn Clock>,
    assembler: Assembler,
    snippet: Box<Snippet>,
    summary: Summary,
}

/// Who listens: products as they come, a report after each snippet.
pub trait Listener {
    /// Something to publish.
    fn product(&mut self, product: Product);
    /// A snippet is done; `counters` are the assembler's so far. An error ends the replay.
    fn report(&mut self, report: &Report, counters: &AssemblerCounters) -> Result<()>;
}

impl<'a> Replay<'a> {
    /// Of `clip` through `processor`.
    #[must_use]
    pub fn new(mut clip: Clip, processor: &'a mut Processor, clock: Arc<dyn Clock>) -> Self {
        let config = AssemblerConfig {
            audio: clip.audio.is_some(),
            video: clip.video.is_some(),
            ..AssemblerConfig::default()
        };
        let assembler = Assembler::new(config).starting_at(MonoTime(0));
        if let Some(video) = &mut clip.video {
            video.choose(assembler.frame_choice());
        }
        Self { clip, processor, clock, assembler, snippet: Box::default(), summary: Summary::default() }
    }

    /// Plays it to its end. `epoch` is where the clip's time 0 stands on the clock (real time only); `stop` ends it
    /// early. Every open event is ended.
    pub fn run(
        mut self,
        speed: Speed,
        epoch: MonoTime,
        stop: &AtomicBool,
        to: &mut dyn Listener,
    ) -> Result<Summary> {
        match speed {
            Speed::Full => self.run_full_speed(stop, to)?,
            Speed::RealTime => self.run_real_time(epoch, stop, to)?,
        }
        let reason = if stop.load(Ordering::Relaxed) { EndReason::Shutdown } else { EndReason::ClipEnd };
        self.processor.finish(reason, self.summary.end, &mut |product| to.product(product));
        self.summary.counters = self.assembler.counters();
        for warning in &self.summary.warnings {
            tracing::warn!("{warning}");
        }
        Ok(self.summary)
    }

    fn run_full_speed(&mut self, stop: &AtomicBool, to: &mut dyn Listener) -> Result<()> {
        let mut audio = Puller::new(self.clip.audio.take());
        let mut video = Puller::new(self.clip.video.take());
        while !stop.load(Ordering::Relaxed) {
            match self.assembler.poll(None, &mut self.snippet) {
                Poll::Ready => self.process(to)?,
                Poll::Ended => break,
                Poll::Pending => {
                    // Whichever is behind; `None` (nothing yet) is furthest behind.
                    let audio_first = self.assembler.audio_mark() <= self.assembler.video_mark();
                    if audio.is_live() && (audio_first || !video.is_live()) {
                        audio.pull(&mut self.assembler, &mut self.summary.warnings);
                    } else {
                        video.pull(&mut self.assembler, &mut self.summary.warnings);
                    }
                }
            }
        }
        Ok(())
    }

    fn run_real_time(&mut self, epoch: MonoTime, stop: &AtomicBool, to: &mut dyn Listener) -> Result<()> {
        let (mut audio_queue, mut video_queue) = (Slots::<Block>::new(), Slots::<Frame>::new());
        let (audio_in, mut audio_out) = audio_queue.split();
        let (video_in, mut video_out) = video_queue.split();
        let (audio_status, video_status) = (Status::default(), Status::default());
        let (mut audio_over, mut video_over) = (self.clip.audio.is_none(), self.clip.video.is_none());
        let halt = AtomicBool::new(false);
        let consumer = thread::current();
        let clock = Arc::clone(&self.clock);
        let outcome = thread::scope(|scope| {
            if let Some(source) = self.clip.audio.take() {
                let mut source: Paced<_, Block> = Paced::new(source, Arc::clone(&clock), epoch);
                let (status, halt, consumer) = (&audio_status, &halt, consumer.clone());
                scope.spawn(move || pump(|b, t| source.read(b, t), audio_in, status, halt, &consumer));
            }
            if let Some(source) = self.clip.video.take() {
                let mut source: Paced<_, Frame> = Paced::new(source, Arc::clone(&clock), epoch);
                let (status, halt, consumer) = (&video_status, &halt, consumer.clone());
                scope.spawn(move || pump(|f, t| source.read(f, t), video_in, status, halt, &consumer));
            }
            let mut work = || -> Result<()> {
                while !stop.load(Ordering::Relaxed) {
                    let assembler = &mut self.assembler;
                    if drain(&mut audio_out, &audio_status, &mut audio_over, |b| _ = assembler.push_audio(b))
                    {
                        assembler.audio_ended();
                    }
                    if drain(&mut video_out, &video_status, &mut video_over, |f| _ = assembler.push_frame(f))
                    {
                        assembler.video_ended();
                    }
                    let now = MonoTime(clock.now().since(epoch));
                    match self.assembler.poll(Some(now), &mut self.snippet) {
                        Poll::Ready => self.process(to)?,
                        Poll::Ended => break,
                        Poll::Pending => thread::park_timeout(Duration::from_millis(20)),
                    }
                }
                Ok(())
            };
            let outcome = work();
            halt.store(true, Ordering::Relaxed);
            outcome
        });
        self.summary.dropped = audio_status.dropped() + video_status.dropped();
        let errors = [audio_status.take_error(), video_status.take_error()];
        self.summary.warnings.extend(errors.into_iter().flatten().map(|e| e.to_string()));
        outcome
    }

    fn process(&mut self, to: &mut dyn Listener) -> Result<()> {
        let report = self.processor.step(&self.snippet, &mut |product| to.product(product))?;
        self.summary.busy += report.cost;
        self.summary.end = report.end;
        to.report(&report, &self.assembler.counters())
    }
}

/// A source read on demand, with one item in hand that the assembler may not have had room for.
struct Puller<S, T> {
    source: Option<S>,
    item: T,
    pending: bool,
}

impl<S, T: Default> Puller<S, T> {
    fn new(source: Option<S>) -> Self {
        Self { source, item: T::default(), pending: false }
    }

    fn is_live(&self) -> bool {
        self.source.is_some()
    }

    /// Reads if nothing is in hand and pushes. Returns true when the source is over.
    fn pull_with(
        &mut self,
        read: impl FnOnce(&mut S, &mut T) -> Result<Read, SourceError>,
        warning: impl FnOnce(&S) -> Option<&str>,
        push: impl FnOnce(&T) -> Push,
        warnings: &mut Vec<String>,
    ) -> bool {
        let Some(source) = &mut self.source else { return false };
        if !self.pending {
            match read(source, &mut self.item) {
                Ok(Read::Data) => self.pending = true,
                Ok(Read::Timeout) => return false,
                Ok(Read::End) => {
                    warnings.extend(warning(source).map(str::to_owned));
                    self.source = None;
                    return true;
                }
                Err(error) => {
                    warnings.push(error.to_string());
                    self.source = None;
                    return true;
                }
            }
        }
        self.pending = push(&self.item) == Push::Full;
        false
    }
}

/// A recording's decoder gets as long as it needs.
const PATIENCE: Duration = Duration::from_secs(60);

impl Puller<Box<dyn AudioSource>, Block> {
    fn pull(&mut self, to: &mut Assembler, warnings: &mut Vec<String>) {
        let over = self.pull_with(
            |s, b| s.read(b, PATIENCE),
            |s| s.warning(),
            |block| to.push_audio(block),
            warnings,
        );
        if over {
            to.audio_ended();
        }
    }
}

impl Puller<Box<dyn VideoSource>, Frame> {
    fn pull(&mut self, to: &mut Assembler, warnings: &mut Vec<String>) {
        let over = self.pull_with(
            |s, f| s.read(f, PATIENCE),
            |s| s.warning(),
            |frame| to.push_frame(frame),
            warnings,
        );
        if over {
            to.video_ended();
        }
    }
}
