//! girasol: camera and microphone in, text events over MQTT out.
//!
//! One module per station on the data's way:
//! [`source`] → [`timeline`] → [`frontend`] → [`model`] → [`event`] → [`outbox`] → [`mqtt`];
//! [`pipeline`] joins them by threads and bounded queues. Beside them [`clock`], [`config`], [`error`] and [`service`];
//! [`eval`] holds what comes out against what was there.

pub mod clock;
pub mod command;
pub mod config;
pub mod error;
pub mod eval;
pub mod event;
pub mod frontend;
pub mod model;
pub mod mqtt;
pub mod outbox;
pub mod pipeline;
pub mod service;
pub mod source;
pub mod timeline;

pub use error::{Error, ErrorKind, Result};
