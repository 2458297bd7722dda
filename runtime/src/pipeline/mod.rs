//! The stations joined: recordings or live devices → timeline → processor → publisher.
//!
//! At full speed everything happens on the caller's thread and nothing is ever skipped. In real time each source has a
//! thread that hands pool slots over bounded queues; the caller's thread assembles and infers. Why: docs/decisions/
//! 0006-threads-and-queues.md.

mod duty;
mod emit;
mod feed;
mod live;
mod operator;
mod processor;
mod replay;

pub use duty::DutyControl;
pub use emit::{Ages, Emitter};
pub use live::{Crew, LiveListener, LiveSource, LiveSources, LiveStatus, Progress, run_live};
pub use operator::Operator;
pub use processor::{Caption, Processor, Product, Report};
pub use replay::{Listener, Replay, Speed, Summary};

#[cfg(test)]
mod conformance;
