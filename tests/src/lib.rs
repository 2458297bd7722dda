//! Helpers shared by the whole-program tests: a mosquitto of our own, generated clips, the program under test.

mod broker;

pub use broker::{Broker, Received, Relay, Subscriber, wait_until};
