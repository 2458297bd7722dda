//! What a question that the decoder answers costs: pieces that a snippet hardly waits for, and no more of them in all
//! than two snippets leave time for, on any board that works on a snippet in half of the time that it lasts: there
//! they leave 2 (2 - 1) times the cost of one. (How many times it is depends on the machine: the faster its integer
//! kernels make a snippet, the dearer is the decoder, which computes in f32, beside it.)
//!
//! Counted in processor time of the one thread, in one run, so that the machine and what else it does hardly matter.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test: it may panic, and says what it measured"
)]

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use girasol::{
    Result,
    clock::{Clock, MonoTime, RealClock},
    command::{Control, Order},
    event::{EventIdentity, EventSettings, Origin},
    pipeline::{Listener, Operator, Processor, Product, Replay, Report, Speed},
    source::clip::{Clip, Want},
    timeline::{AssemblerCounters, Snippet},
};
use girasol_model::Bundle;
use girasol_tests::{bundle, media};

/// Snippets before the first question: there is something to answer from.
const WARM: u64 = 8;

/// Processor time of this thread.
fn used() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec to where `time` is.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(time.tv_sec.try_into().unwrap(), time.tv_nsec.try_into().unwrap())
}

/// Asks after each snippet and counts what that costs.
struct Asking {
    operator: Operator,
    control: Arc<Control>,
    at: Duration,
    snippets: Vec<Duration>,
    /// Of each answer, its pieces.
    answers: Vec<Vec<Duration>>,
}

impl Listener for Asking {
    fn product(&mut self, _: Product) {}

    fn inspect(&mut self, processor: &mut Processor, snippet: &Snippet) -> Result<()> {
        self.snippets.push(used().saturating_sub(self.at));
        if snippet.index >= WARM {
            let question = "is anyone speaking to you?".to_owned();
            assert!(self.control.order(Order::Ask { ticket: snippet.index, question }));
            let mut pieces = Vec::new();
            loop {
                let (before, now) = (used(), snippet.end());
                let more = self.operator.serve(processor, now, &mut |_| {})?;
                pieces.push(used().saturating_sub(before));
                if !more {
                    break;
                }
            }
            self.answers.push(pieces);
        }
        self.at = used();
        Ok(())
    }

    fn report(&mut self, _: &Report, _: &AssemblerCounters) -> Result<()> {
        Ok(())
    }
}

fn median(mut of: Vec<Duration>) -> Duration {
    of.sort();
    of[of.len() / 2]
}

#[test]
fn a_question_costs_less_than_two_snippets_leave_and_comes_in_small_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let clip = Clip::open(&media::write_pair(dir.path(), "clip", 30, 5), Want { audio: true, video: true });
    let bundle = Bundle::open(bundle(), env!("CARGO_PKG_VERSION")).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(RealClock);
    let identity = |bundle: &str| EventIdentity {
        device: "porch".into(),
        origin: Origin::Replay { clip: String::new(), bundle: bundle.to_owned() },
    };
    let mut processor =
        Processor::new(&bundle, EventSettings::default(), identity, Arc::clone(&clock)).unwrap();
    let control = Arc::new(Control::default());
    let operator = Operator::new(Arc::clone(&control), bundle, "porch".into());
    let mut asking = Asking { operator, control, at: used(), snippets: Vec::new(), answers: Vec::new() };
    let stop = AtomicBool::new(false);
    let player = Replay::new(clip.unwrap(), &mut processor, clock);
    player.run(Speed::Full, MonoTime(0), &stop, &mut asking).unwrap();

    let snippet = median(asking.snippets);
    let answer = median(asking.answers.iter().map(|pieces| pieces.iter().sum()).collect());
    let piece = median(asking.answers.iter().map(|pieces| *pieces.iter().max().unwrap()).collect());
    let pieces = asking.answers.iter().map(Vec::len).max().unwrap();
    println!(
        "{} answers: {answer:.1?} each, in at most {pieces} pieces, the longest of them {piece:.1?}; a snippet: {snippet:.1?}",
        asking.answers.len()
    );
    assert!(asking.answers.len() >= 20 && pieces > 1);
    assert!(piece < snippet / 2, "a snippet waits {piece:?} for a piece of an answer");
    assert!(answer < 2 * snippet, "{answer:?} do not fit beside two snippets of {snippet:?}");
}
