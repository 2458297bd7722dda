//! Helpers shared by the whole-program tests: a mosquitto of our own, generated clips, the program under test.

mod broker;
mod certificates;
pub mod media;
mod program;
mod schema;

pub use broker::{Broker, Received, Relay, Subscriber, wait_until};
pub use certificates::{have_openssl, make_authority, make_server};
pub use program::{
    Outcome, Running, bundle, eager_config, girasol, json_lines, labels, manifest, program, replay, run,
};
pub use schema::keeps_to_schema;
