//! Closes snippets: waits for what may still come, but never for what will not.
//!
//! A snippet is ready when sound has reached its end and no later frame can be nearer to its instants. A lost source
//! holds nothing up. In real time ([`Assembler::poll`] with `Some(now)`) a snippet is also closed at its end plus a
//! grace, and a consumer that falls behind skips whole snippets; at full speed (`None`) nothing is ever skipped.
//! Stretches in which nothing at all is known bring no snippet; `dt` of the next one tells.

use std::time::Duration;

use super::{
    choice::{FrameChoice, Origin},
    drift::Drift,
    picture::Picture,
    snippet::{SNIPPET_NANOS, SNIPPET_SAMPLES, SNIPPET_SECONDS, Snippet},
    sound::Sound,
};
use crate::{
    clock::MonoTime,
    source::{Block, Frame},
};

/// Snippets that can be in hand at a time.
pub const WINDOW: usize = 6;
/// Snippets that may be due before the older ones are skipped.
const MAX_BACKLOG: u64 = 2;

/// No time stamp is further from zero, in nanoseconds (36 years): sums of a few of them cannot overflow.
const LATEST: i64 = 1 << 60;

/// What there is to assemble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AssemblerConfig {
    /// There is a sound source.
    pub audio: bool,
    /// There is a picture source.
    pub video: bool,
    /// How long after its end a snippet waits for late data, in real time.
    pub grace: Duration,
}

impl Default for AssemblerConfig {
    fn default() -> Self {
        Self { audio: true, video: true, grace: Duration::from_millis(250) }
    }
}

/// What became of pushed data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// Taken (or counted as late or repeated).
    Accepted,
    /// Too far ahead of the snippet in hand; nothing was taken. Poll, then push it again (full speed) or let it go.
    Full,
}

/// What a poll brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poll {
    /// The snippet was filled.
    Ready,
    /// Not yet.
    Pending,
    /// All sources have ended and everything was delivered.
    Ended,
}

/// A driver that gives nonsense must not be able to stop the timeline.
fn is_plausible(time: MonoTime) -> bool {
    time.0.unsigned_abs() <= LATEST.unsigned_abs()
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AssemblerCounters {
    /// Snippets delivered.
    pub delivered: u64,
    /// Snippets skipped because the consumer was late.
    pub skipped: u64,
    /// Snippets in which nothing was known.
    pub empty: u64,
    /// Last snippets of a recording that were too short.
    pub partial: u64,
    /// Times that sound started anew at its time stamp (gaps, jumps, reordering).
    pub audio_resyncs: u64,
    /// Samples inserted against drift.
    pub audio_inserted: u64,
    /// Samples dropped against drift.
    pub audio_dropped: u64,
    /// Samples that came after their snippet was delivered.
    pub audio_late_samples: u64,
    /// Samples for times that had some already.
    pub audio_duplicate_samples: u64,
    /// Frames that came after their snippet was delivered.
    pub frames_late: u64,
    /// Frames that the device or driver lost.
    pub frames_lost_by_source: u64,
    /// Pushes refused with [`Push::Full`].
    pub full: u64,
    /// Pieces whose time stamp was decades away; left out.
    pub implausible: u64,
}

/// What is known about one source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Supply {
    /// There is none.
    Absent,
    /// Data are to come.
    Live,
    /// Gone for now.
    Lost,
    /// Over for good.
    Ended,
}

impl Supply {
    fn new(there: bool) -> Self {
        if there { Self::Live } else { Self::Absent }
    }
}

/// Puts sound and pictures together. Holds a few snippets in fixed memory and allocates nothing after `new`.
pub struct Assembler {
    config: AssemblerConfig,
    origin: Origin,
    /// The snippet in hand.
    next: u64,
    sound: Sound,
    picture: Picture,
    audio: Supply,
    video: Supply,
    last_start: Option<MonoTime>,
    counters: AssemblerCounters,
}

impl Assembler {
    /// An assembler whose grid begins with the first data pushed.
    #[must_use]
    pub fn new(config: AssemblerConfig) -> Self {
        Self {
            config,
            origin: Origin::unknown(),
            next: 0,
            sound: Sound::new(),
            picture: Picture::new(),
            audio: Supply::new(config.audio),
            video: Supply::new(config.video),
            last_start: None,
            counters: AssemblerCounters::default(),
        }
    }

    /// Lets the grid begin at `origin` (a clip's start) instead.
    #[must_use]
    pub fn starting_at(self, origin: MonoTime) -> Self {
        self.origin.get_or_set(origin);
        self
    }

    /// For the picture source, so that it converts those frames only that can be used.
    #[must_use]
    pub fn frame_choice(&self) -> FrameChoice {
        FrameChoice::new(self.origin.clone())
    }

    /// Takes samples, in any order, split in any way.
    pub fn push_audio(&mut self, block: &Block) -> Push {
        if !is_plausible(block.time) {
            self.counters.implausible += 1;
            return Push::Accepted;
        }
        let origin = self.origin.get_or_set(block.time);
        let push = self.sound.push(block, block.time.since(origin), &mut self.counters);
        self.counters.full += u64::from(push == Push::Full);
        push
    }

    /// Takes a frame, in any order.
    pub fn push_frame(&mut self, frame: &Frame) -> Push {
        if !is_plausible(frame.time) {
            self.counters.implausible += 1;
            return Push::Accepted;
        }
        let origin = self.origin.get_or_set(frame.time);
        let push = self.picture.push(frame, frame.time.since(origin), &mut self.counters);
        self.counters.full += u64::from(push == Push::Full);
        push
    }

    /// The sound source is gone for now: do not wait for it.
    pub fn audio_lost(&mut self) {
        self.audio = Supply::Lost;
        self.sound.interrupt();
    }

    /// The sound source is back.
    pub fn audio_back(&mut self) {
        self.audio = Supply::Live;
    }

    /// The recording's sound is over; everything was pushed.
    pub fn audio_ended(&mut self) {
        self.audio = Supply::Ended;
    }

    /// The picture source is gone for now: do not wait for it.
    pub fn video_lost(&mut self) {
        self.video = Supply::Lost;
    }

    /// The picture source is back.
    pub fn video_back(&mut self) {
        self.video = Supply::Live;
    }

    /// The recording's picture is over; everything was pushed.
    pub fn video_ended(&mut self) {
        self.video = Supply::Ended;
    }

    /// Sound before this time is in hand. At full speed, read whichever source is behind.
    #[must_use]
    pub fn audio_mark(&self) -> Option<MonoTime> {
        let origin = self.origin.get()?;
        (self.sound.mark() > i64::MIN).then(|| MonoTime(origin.0.saturating_add(self.sound.mark())))
    }

    /// Frames before this time are in hand.
    #[must_use]
    pub fn video_mark(&self) -> Option<MonoTime> {
        let origin = self.origin.get()?;
        (self.picture.mark() > i64::MIN).then(|| MonoTime(origin.0.saturating_add(self.picture.mark())))
    }

    /// How fast the sound card's clock runs, once known.
    #[must_use]
    pub fn sound_drift(&self) -> Option<Drift> {
        self.sound.drift()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> AssemblerCounters {
        self.counters
    }

    /// Number of the next snippet on the grid.
    #[must_use]
    pub fn next_index(&self) -> u64 {
        self.next
    }

    /// When the next snippet will be closed at the latest, in real time: a consumer need not poll before, unless
    /// data come.
    #[must_use]
    pub fn deadline(&self) -> Option<MonoTime> {
        let origin = self.origin.get()?;
        Some(MonoTime(origin.0.saturating_add(start_of(self.next + 1))) + self.config.grace)
    }

    /// Fills `out` with the next snippet, if there is one. With `None` it waits for the sources however long they
    /// take; with the time of day on the sources' timeline it closes snippets at their end plus grace, and when more
    /// than two are due it skips to the newest.
    pub fn poll(&mut self, now: Option<MonoTime>, out: &mut Snippet) -> Poll {
        let Some(origin) = self.origin.get() else { return self.nothing_yet() };
        let now = now.map(|now| MonoTime(now.0.clamp(-LATEST, LATEST)));
        let due = now.map_or(0, |now| index_of((now - self.config.grace).since(origin)));
        if due > self.next + MAX_BACKLOG && self.data_end() > start_of(self.next) {
            self.counters.skipped += due - 1 - self.next;
            self.advance(due - 1);
        }
        loop {
            let (start, end) = (start_of(self.next), start_of(self.next + 1));
            let (over, dry) = (self.is_over(), self.data_end() <= start);
            if over && dry {
                return Poll::Ended;
            }
            let nobody = self.audio != Supply::Live && self.video != Supply::Live;
            let complete = self.is_complete() && !(nobody && dry);
            if !complete && self.next >= due {
                return Poll::Pending;
            }
            if over && end > self.data_end() && self.data_end() - start < SNIPPET_NANOS / 2 {
                self.counters.partial += 1;
                self.advance(self.next + 1);
                return Poll::Ended;
            }
            if self.fill(origin, out) {
                return Poll::Ready;
            }
            self.counters.empty += 1;
            let to = if dry { self.after_the_hole(due) } else { self.next + 1 };
            self.advance(to);
        }
    }

    fn nothing_yet(&self) -> Poll {
        if self.is_over() { Poll::Ended } else { Poll::Pending }
    }

    /// No source will ever deliver again.
    fn is_over(&self) -> bool {
        [self.audio, self.video].iter().all(|s| matches!(s, Supply::Absent | Supply::Ended))
    }

    /// Nanoseconds after the origin of the end of all data.
    fn data_end(&self) -> i64 {
        self.sound.end().max(self.picture.end())
    }

    /// Whether everything that may come for the snippet in hand has come.
    fn is_complete(&self) -> bool {
        let audio = self.audio != Supply::Live || self.sound.mark() >= start_of(self.next + 1);
        let video = self.video != Supply::Live || self.picture.is_certain(self.next, start_of(self.next));
        audio && video
    }

    /// With nothing in hand: the snippet in which data may begin again.
    fn after_the_hole(&self, due: u64) -> u64 {
        let mut mark = i64::MAX;
        if self.audio == Supply::Live {
            mark = mark.min(self.sound.mark());
        }
        if self.video == Supply::Live {
            mark = mark.min(self.picture.mark());
        }
        let index = if mark == i64::MAX { due } else { index_of(mark).max(due) };
        index.max(self.next + 1)
    }

    /// Fills in the snippet in hand and goes on to the next; `false` if nothing at all is known of it.
    fn fill(&mut self, origin: MonoTime, out: &mut Snippet) -> bool {
        self.picture.frames(self.next, out);
        out.audio_coverage = self.sound.patch(position_of(self.next), &mut out.patch);
        if out.audio_coverage <= 0.0 && out.frame_present.iter().all(|&present| !present) {
            return false;
        }
        out.audio_present = out.audio_coverage >= 0.5;
        out.index = self.next;
        out.start = MonoTime(origin.0.saturating_add(start_of(self.next)));
        out.dt = self.last_start.map_or(SNIPPET_SECONDS, |last| seconds(out.start.since(last)));
        let drift = self.sound.drift();
        #[allow(clippy::cast_possible_truncation, reason = "a few hundred ppm")]
        let ppm = drift.map(|d| d.ppm as f32);
        out.drift_ppm = ppm;
        out.sync_error_ms = self.sound.sync_error_ms().filter(|_| out.audio_present);
        self.last_start = Some(out.start);
        self.counters.delivered += 1;
        self.advance(self.next + 1);
        true
    }

    fn advance(&mut self, index: u64) {
        self.next = index;
        self.sound.forget_before(position_of(index));
        self.picture.forget_before(index);
    }
}

/// Nanoseconds after the origin at which a snippet begins.
fn start_of(index: u64) -> i64 {
    i64::try_from(index).unwrap_or(i64::MAX).saturating_mul(SNIPPET_NANOS)
}

/// Grid position of a snippet's first sample.
fn position_of(index: u64) -> i64 {
    i64::try_from(index.saturating_mul(SNIPPET_SAMPLES as u64)).unwrap_or(i64::MAX)
}

/// The snippet that holds the instant `offset` nanoseconds after the origin; 0 before it.
fn index_of(offset: i64) -> u64 {
    u64::try_from(offset.div_euclid(SNIPPET_NANOS)).unwrap_or(0)
}

#[allow(clippy::cast_possible_truncation, reason = "a distance in seconds")]
fn seconds(nanos: i64) -> f32 {
    (nanos as f64 / 1e9) as f32
}
