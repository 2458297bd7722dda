//! Commands: what an operator may ask of a device that runs, and what becomes of it.
//!
//! The [`Controller`] is a state machine without network and threads: a request goes in, settings are checked and saved,
//! and a response comes out. The [`Control`] is the handle between it and the thread that works on snippets: pause flags
//! that the sources look at, orders, and reports. A [`Service`] runs the controller on a thread of its own, because
//! saving waits for the disk. How requests arrive is none of their business; `mqtt` brings them, and docs/reference/
//! mqtt.md describes them.

mod control;
mod controller;
mod limit;
mod request;
pub mod schedule;
mod service;
mod store;

pub use control::{Control, Inbox, Incoming, Live, Order, Outcome, Paused, Report, Ticket};
pub use controller::{Controller, LabelState, Setup, Standing, Tally};
pub use request::{COMMANDS, Command, Fault, FaultCode, MAX_REQUEST_BYTES, Response, parse};
pub use service::{Outlet, Service};
pub use store::{FileStore, NoStore, Store};
