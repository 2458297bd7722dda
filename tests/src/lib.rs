//! Helpers shared by the whole-program tests: a mosquitto of our own, generated clips, the program under test.

mod broker;
mod certificates;

pub use broker::{Broker, Received, Relay, Subscriber, wait_until};
pub use certificates::{have_openssl, make_authority, make_server};
