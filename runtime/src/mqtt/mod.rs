//! MQTT 5: what is published, and how it gets to the broker.
//!
//! The rest of the program sees the narrow [`Publisher`] trait, which never waits. [`MqttPublisher`] runs the client
//! (docs/decisions/0001-mqtt-client.md) on one thread of its own; the [`Outbox`](crate::outbox::Outbox) is its only
//! memory: each connection starts with a fresh client, and what was not acknowledged is sent again. Topics and payloads
//! are described in docs/reference/mqtt.md and held against docs/reference/schemas by the tests.

mod backoff;
mod commands;
mod connection;
mod driver;
mod fault;
pub mod homeassistant;
mod payload;
mod publisher;
mod settings;
mod topics;
mod watch;

pub use self::commands::{CommandListener, MqttOutlet};
pub use crate::outbox::{MAX_PAYLOAD_BYTES, Message, Qos};
pub use fault::{Fault, FaultKind};
pub use payload::{BoardState, BundleState, Counters, OFFLINE, ONLINE, SourceState, State, Surprise};
pub use publisher::{MqttHandle, MqttPublisher, MqttStatus};
pub use settings::{BrokerUrl, MqttSettings};
pub use topics::Topics;
pub(crate) use topics::is_topic;
pub use watch::{Seen, describe, watch};

use std::fmt;

/// No correlation data of a request are longer.
pub const MAX_CORRELATION_BYTES: usize = 128;

/// What came on a topic that a [`Listener`] wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrived<'a> {
    /// Its topic.
    pub topic: &'a str,
    /// Content.
    pub payload: &'a [u8],
    /// Whether it was published to be kept by the broker.
    pub retained: bool,
    /// Where a response is wanted (MQTT 5).
    pub response_topic: Option<&'a str>,
    /// Goes back with the response (MQTT 5).
    pub correlation: Option<&'a [u8]>,
}

/// Wants to know what others publish.
pub trait Listener: Send + Sync {
    /// Topic filters; kept messages are not sent on subscribing.
    fn filters(&self) -> Vec<String>;

    /// Takes a message. Called on the connection's thread: must not block. Returns whether everything retained is to be
    /// published again, because whoever spoke has forgotten it.
    fn arrived(&self, message: Arrived<'_>) -> bool;
}

/// Hands messages over for publishing.
pub trait Publisher: Send + Sync {
    /// Takes `message`. Never blocks and never waits for the broker.
    ///
    /// # Errors
    /// [`Refused`] when the message can never be sent; it is counted.
    fn publish(&self, message: Message) -> Result<(), Refused>;
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The topic is empty, too long, or holds a wildcard.
    Topic,
    /// The payload is larger than [`MAX_PAYLOAD_BYTES`] (retained: four times that) or than the whole queue.
    TooLarge,
    /// There are too many retained topics already.
    TooManyRetained,
    /// The publisher has been shut down.
    ShutDown,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Topic => "not a topic that can be published to",
            Self::TooLarge => "payload too large",
            Self::TooManyRetained => "too many retained topics",
            Self::ShutDown => "the publisher has been shut down",
        })
    }
}

impl std::error::Error for Refused {}
