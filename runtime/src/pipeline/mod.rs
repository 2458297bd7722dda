//! The stations joined: recordings or live devices → timeline → processor → publisher.
//!
//! At full speed everything happens on the caller's thread and nothing is ever skipped. In real time each source has a
//! thread that hands pool slots over bounded queues; the caller's thread assembles and infers. Why: docs/decisions/
//! 0006-threads-and-queues.md.

mod emit;
mod feed;
mod live;
mod processor;
mod replay;

pub use emit::{Ages, Emitter};
pub use live::{LiveListener, LiveSource, LiveSources, LiveStatus, Progress, run_live};
pub use processor::{Processor, Product, Report};
pub use replay::{Listener, Replay, Speed, Summary};
