//! Helpers shared by the whole-program tests: a mosquitto of our own, generated clips, the program under test.

mod broker;
mod certificates;
mod feeder;
pub mod media;
mod program;
mod relay;
mod schema;

pub use broker::{Broker, Received, Subscriber, wait_until};
pub use certificates::{
    have_openssl, make_authority, make_client, make_expired_server, make_future_server, make_server,
};
pub use feeder::{Feeder, Status};
pub use program::{
    Outcome, Running, bundle, eager_config, girasol, json_lines, labels, manifest, program, replay, run,
};
pub use relay::{Manner, Relay};
pub use schema::keeps_to_schema;
