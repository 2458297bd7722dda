//! Counts the instructions of every stage of a snippet, with the encoders in int8 and in f32, and of the start.
//!
//! `make count` runs this under an emulator that prefixes each line on standard output with the instructions executed
//! so far, and `cross/count/snippet.py` sends that number back on standard input: a clock whose nanoseconds are
//! instructions. Lines to be kept begin with `count`: part, stage, multiply-accumulates, calls a snippet, instructions
//! of one call.
//!
//! usage: `snippet_count BUNDLE [nodes]`

#![allow(clippy::print_stdout, reason = "the marks are what it is for")]
#![allow(clippy::unwrap_used, reason = "a fault must end it")]

use std::{io::Write, sync::Arc, time::Duration};

use girasol::{
    clock::{Clock, MonoTime},
    config::Config,
    event::{EventIdentity, Origin},
    frontend::bench as frontend,
    model::{FRAMES, Model},
    pipeline::Processor,
    timeline::Snippet,
};
use girasol_model::Bundle;

/// Runs of each stage; the median counts.
const RUNS: usize = 3;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().expect("usage: snippet_count BUNDLE [nodes]");
    let each_node = arguments.next().is_some();
    let clock: Arc<dyn Clock> = Arc::new(Instructions);
    let open = || Bundle::open(&directory, env!("CARGO_PKG_VERSION")).unwrap();

    // What two readings of the clock cost.
    let (a, b) = (clock.now(), clock.now());
    let report = |part: &str, stage: &str, macs: u64, calls: u32, count: Duration| {
        let own = u64::try_from(count.as_nanos()).unwrap().saturating_sub(b.since(a).unsigned_abs());
        println!("count {part} {stage} {macs} {calls} {own}");
    };
    let since = |start| Duration::from_nanos(clock.now().since(start).unsigned_abs());

    for stage in frontend::profile(RUNS, &*clock).unwrap() {
        report("frontend", stage.stage, stage.macs, stage.calls, stage.median);
    }
    for part in ["int8", "f32"] {
        let start = clock.now();
        let bundle = if part == "f32" { open().in_f32() } else { open() };
        // The second time is the same but for where things lie in memory.
        if part == "int8" {
            report(part, "open", 0, 0, since(start));
        }
        let start = clock.now();
        let mut model = Model::load(&bundle).unwrap();
        report(part, "load", 0, 0, since(start));
        if each_node {
            for node in model.profile_nodes(RUNS, &*clock).unwrap() {
                let name = format!("{}:{}:{}:{}", node.graph, node.operator, node.kernel, node.node);
                report(part, &name.replace(' ', "_"), node.macs, 1, node.median);
            }
            continue;
        }
        for stage in model.profile(RUNS, &*clock).unwrap() {
            report(part, stage.stage, stage.macs, stage.calls, stage.median);
        }
        drop(model);
        report(part, "snippet", 0, 1, snippet(&bundle, &clock));
    }
}

/// One snippet from 16 kHz samples and small frames to scores and events.
fn snippet(bundle: &Bundle, clock: &Arc<dyn Clock>) -> Duration {
    let identity = |bundle: &str| EventIdentity {
        device: "count".into(),
        origin: Origin::Replay { clip: "count".into(), bundle: bundle.to_owned() },
    };
    let settings = Config::default().event_settings();
    let mut processor = Processor::new(bundle, settings, identity, Arc::clone(clock)).unwrap();
    let mut snippet = Snippet::new();
    snippet.audio_present = true;
    snippet.frame_present = [true; FRAMES];
    let mut counts: Vec<i64> = (0..RUNS)
        .map(|_| {
            let start = clock.now();
            processor.step(&snippet, &mut drop).unwrap();
            clock.now().since(start)
        })
        .collect();
    counts.sort_unstable();
    Duration::from_nanos(counts[RUNS / 2].unsigned_abs())
}

/// Instructions executed so far, as the counting emulator tells them.
struct Instructions;

impl Clock for Instructions {
    fn now(&self) -> MonoTime {
        let mut out = std::io::stdout().lock();
        out.write_all(b"mark\n").unwrap();
        out.flush().unwrap();
        let mut answer = String::with_capacity(32);
        std::io::stdin().read_line(&mut answer).unwrap();
        MonoTime(answer.trim().parse().expect("the count, as snippet.py sends it"))
    }

    fn wall_ms(&self) -> i64 {
        0
    }

    fn sleep_until(&self, _: MonoTime) {}
}
