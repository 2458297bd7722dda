//! Life under a service manager: readiness and progress (`sd_notify`), signals, credentials,
//! log lines for the journal, memory that is neither swapped nor dumped.
//!
//! A live run does this, in this order:
//!
//! ```no_run
//! # use std::{sync::Arc, time::Duration};
//! # use girasol::{clock::RealClock, service::{self, Idle, Signals, Supervisor, Systemd}};
//! # fn main() -> girasol::Result<()> {
//! service::keep_media_in_memory();
//! let signals = Signals::install()?;
//! let mut supervisor = Supervisor::new(Arc::new(RealClock), Systemd);
//! let pipeline = supervisor.register("pipeline", Duration::from_secs(15));
//! // ... load the bundle, start the threads; the loop runs from here on, with or without devices:
//! supervisor.ready("waiting for a camera and a microphone");
//! while !signals.stopping() {
//!     pipeline.serving(Idle::Waiting); // or, after a snippet: pipeline.completed()
//!     supervisor.turn();               // many times a second; feeds the watchdog only if every part is in time
//! #   break;
//! }
//! supervisor.stopping();
//! # Ok(())
//! # }
//! ```

mod credentials;
mod journal;
mod memory;
mod notify;
mod progress;
mod signals;
mod supervisor;

pub use self::{
    credentials::credential,
    journal::{Journal, to_journal},
    memory::keep_media_in_memory,
    notify::{Notice, Notify, Systemd},
    progress::{Idle, Late, Part, Progress},
    signals::Signals,
    supervisor::Supervisor,
};
