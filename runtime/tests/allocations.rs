//! Our own stations allocate nothing per snippet once they run: sources, timeline, frontends, gates, event engine.
//!
//! Counted by an allocator of this test's own, per thread. The graphs are left out: tract allocates on each run
//! (docs/decisions/0005-int8-contract.md), and so is the emission of an event, which makes strings.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use girasol::{
    clock::{MonoTime, RealClock},
    event::{
        EventEngine, EventIdentity, EventSettings, Gate, GateSettings, Observation, Origin, Permission,
        Scores, Silent, SnippetInfo,
    },
    frontend,
    source::{AudioSource, Block, Frame, Read, VideoSource, wav::WavSource, y4m::Y4mSource},
    timeline::{Assembler, AssemblerConfig, Poll, Push, Snippet},
};
use girasol_model::Bundle;

/// The system's allocator, counting what each thread asks of it.
struct Counting;

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // While a thread ends there is no counter any more.
    let _ = CALLS.try_with(|calls| calls.set(calls.get() + 1));
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(old, layout, size) }
    }
    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(old, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Calls of the allocator that `work` makes on this thread.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = CALLS.with(Cell::get);
    work();
    CALLS.with(Cell::get) - before
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(7)))), 1);
    assert_eq!(allocations(|| ()), 0);
}

/// Half a minute of sound and picture; the picture's path.
fn clip(dir: &Path) -> PathBuf {
    const SECONDS: u32 = 30;
    let path = dir.join("clip.y4m");
    let mut picture = std::fs::File::create(&path).unwrap();
    writeln!(picture, "YUV4MPEG2 W64 H48 F10:1 C420jpeg").unwrap();
    for frame in 0..SECONDS * 10 {
        picture.write_all(b"FRAME\n").unwrap();
        picture.write_all(&vec![frame.to_le_bytes()[0]; 64 * 48 * 3 / 2]).unwrap();
    }
    let mut sound = std::fs::File::create(path.with_extension("wav")).unwrap();
    let (rate, bytes) = (44_100u32, SECONDS * 44_100 * 2);
    sound.write_all(b"RIFF").unwrap();
    sound.write_all(&(bytes + 36).to_le_bytes()).unwrap();
    sound.write_all(b"WAVEfmt \x10\0\0\0\x01\0\x01\0").unwrap();
    sound.write_all(&rate.to_le_bytes()).unwrap();
    sound.write_all(&(rate * 2).to_le_bytes()).unwrap();
    sound.write_all(b"\x02\0\x10\0data").unwrap();
    sound.write_all(&bytes.to_le_bytes()).unwrap();
    let samples: Vec<u8> =
        (0..bytes).map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
    sound.write_all(&samples).unwrap();
    path
}

/// A recording read into an assembler, as a replay does it.
struct Timeline {
    audio: WavSource,
    video: Y4mSource<std::io::BufReader<std::fs::File>>,
    block: Block,
    frame: Frame,
    assembler: Assembler,
    snippet: Snippet,
}

impl Timeline {
    fn open(clip: &Path) -> Self {
        Self {
            audio: WavSource::open(&clip.with_extension("wav")).unwrap(),
            video: Y4mSource::open(clip).unwrap(),
            block: Block::new(),
            frame: Frame::new(),
            assembler: Assembler::new(AssemblerConfig::default()).starting_at(MonoTime(0)),
            snippet: Snippet::new(),
        }
    }

    /// One more snippet.
    fn advance(&mut self) {
        while self.assembler.poll(None, &mut self.snippet) != Poll::Ready {
            if self.assembler.audio_mark() <= self.assembler.video_mark() {
                assert_eq!(self.audio.read(&mut self.block, Duration::ZERO).unwrap(), Read::Data);
                assert_eq!(self.assembler.push_audio(&self.block), Push::Accepted);
            } else {
                assert_eq!(self.video.read(&mut self.frame, Duration::ZERO).unwrap(), Read::Data);
                assert_eq!(self.assembler.push_frame(&self.frame), Push::Accepted);
            }
        }
    }
}

#[test]
fn reading_resizing_resampling_and_assembling_allocate_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut timeline = Timeline::open(&clip(dir.path()));
    // The first snippets fill the reader's and the resizer's buffers.
    (0..3).for_each(|_| timeline.advance());
    assert_eq!(allocations(|| (0..20).for_each(|_| timeline.advance())), 0);
}

/// The bench runs resizer, frame tensor and log-mel; what it allocates to get ready does not depend on how often.
#[test]
fn the_frontends_allocate_nothing_however_often_they_run() {
    let of = |iterations| allocations(|| drop(frontend::bench::profile(iterations, &RealClock).unwrap()));
    let _ = of(2);
    assert_eq!(of(2), of(12));
}

#[test]
fn a_gate_allocates_nothing_whatever_comes() {
    let mut gate = Gate::new(GateSettings {
        on: 0.6,
        off: 0.4,
        min_snippets: 2,
        together: true,
        release_snippets: 2,
        cooldown: Duration::from_secs(2),
        max_duration: Duration::from_secs(20),
        hold: Duration::from_secs(5),
    });
    let steps = |gate: &mut Gate| {
        for n in 0..1_000u32 {
            let (start, score) =
                (MonoTime(i64::from(n) * 960_000_000), [0.1, 0.7, 0.7, 0.5, 0.9][(n / 3 % 5) as usize]);
            let seen = if n % 17 == 0 { Observation::Absent } else { Observation::Score(score) };
            let _ =
                gate.step(n.into(), (start, start + Duration::from_millis(960)), seen, Permission::Granted);
        }
    };
    assert_eq!(allocations(|| steps(&mut gate)), 0);
}

/// The shipped bundle, or the one that `GIRASOL_BUNDLE` names.
fn bundle() -> Bundle {
    let shipped = || concat!(env!("CARGO_MANIFEST_DIR"), "/../models/bundle").into();
    Bundle::open(std::env::var("GIRASOL_BUNDLE").unwrap_or_else(|_| shipped()), env!("CARGO_PKG_VERSION"))
        .unwrap()
}

#[test]
fn the_event_engine_allocates_nothing_while_nothing_happens() {
    let bundle = bundle();
    let labels = &bundle.manifest().labels;
    let origin = Origin::Replay { clip: "clip".into(), bundle: "bundle".into() };
    let identity = EventIdentity { device: "porch".into(), origin };
    let mut engine = EventEngine::new(bundle.manifest(), EventSettings::default(), identity).unwrap();
    // Below every threshold, now and then without one of the senses.
    let low =
        [vec![0.0; labels.audible.len()], vec![0.0; labels.visible.len()], vec![0.5; labels.audible.len()]];
    let steps = |engine: &mut EventEngine| {
        for index in 0..500u32 {
            let start = MonoTime(i64::from(index) * 960_000_000);
            let info = SnippetInfo {
                index: index.into(),
                start,
                end: start + Duration::from_millis(960),
                dt: 0.96,
                audio_present: index % 7 != 0,
                frames_present: if index % 5 == 0 { 0 } else { 2 },
                sync_error_ms: Some(0.5),
            };
            let scores = Scores { audible: &low[0], visible: &low[1], source: &low[2], surprise: Some(0.1) };
            engine.step(&info, &scores, &mut Silent, &mut |event| panic!("{event:?}"));
        }
    };
    assert_eq!(allocations(|| steps(&mut engine)), 0);
}
