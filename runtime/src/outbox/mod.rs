//! What has been accepted and not yet acknowledged: the only memory between events and broker.
//!
//! The MQTT client's own queues are thrown away with each connection; whatever is not acknowledged is handed out again
//! from here. So "accepted" means: in the outbox. "Lost" means: accepted, but neither acknowledged nor counted as
//! expired, dropped or poison. [`MemoryOutbox`] survives the broker; [`DiskOutbox`] also the process and the board. No
//! call waits for the disk, which has a thread of its own.

mod disk;
mod file;
mod format;
mod memory;
mod queue;

use std::{path::PathBuf, sync::Arc, time::Duration};

pub use disk::DiskOutbox;
pub use memory::MemoryOutbox;

use crate::{
    Error, ErrorKind, Result,
    clock::{Clock, MonoTime},
};

/// No payload that waits in the outbox is larger.
pub const MAX_PAYLOAD_BYTES: usize = 64 << 10;

/// Delivery promise of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Sent if the broker is connected, else dropped and counted; never in the outbox.
    AtMostOnce,
    /// Kept until the broker acknowledges it; may arrive twice.
    AtLeastOnce,
}

/// A message for the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Full topic.
    pub topic: String,
    /// Content.
    pub payload: Vec<u8>,
    /// Delivery promise.
    pub qos: Qos,
    /// Whether the broker keeps it for later subscribers. Only the newest of each topic is sent.
    pub retain: bool,
    /// Age at which it is dropped, counted on the monotonic clock, here and on the broker.
    pub expiry: Option<Duration>,
}

impl Message {
    /// A message at QoS 1, not retained, that never expires.
    pub fn new(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            qos: Qos::AtLeastOnce,
            retain: false,
            expiry: None,
        }
    }

    /// [`Message::new`] with `value` as JSON.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when `value` cannot be JSON, which is a bug.
    pub fn json(topic: impl Into<String>, value: &impl serde::Serialize) -> Result<Self> {
        let payload =
            serde_json::to_vec(value).map_err(|e| Error::new(ErrorKind::Internal, "payload").cause(e))?;
        Ok(Self::new(topic, payload))
    }

    /// Retained by the broker.
    #[must_use]
    pub fn retained(self) -> Self {
        Self { retain: true, ..self }
    }

    /// At QoS 0: lost when the broker is away.
    #[must_use]
    pub fn volatile(self) -> Self {
        Self { qos: Qos::AtMostOnce, ..self }
    }

    /// Dropped at this age.
    #[must_use]
    pub fn expires_after(self, age: Duration) -> Self {
        Self { expiry: Some(age), ..self }
    }
}

/// The outbox took the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Its number; numbers grow by one with each message.
    pub seq: u64,
}

/// The outbox cannot take the message, not even by dropping older ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A message handed out for sending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Its number.
    pub seq: u64,
    /// The message.
    pub message: Message,
    /// When it was accepted; before boot if it is from an earlier one.
    pub accepted: MonoTime,
    /// When it expires.
    pub expires: Option<MonoTime>,
}

/// What has become of the messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct OutboxCounts {
    /// Waiting or sent, not yet acknowledged.
    pub queued: u64,
    /// Acknowledged by the broker.
    pub acked: u64,
    /// Dropped, oldest first, to make room.
    pub dropped: u64,
    /// Dropped because of their age.
    pub expired: u64,
    /// Refused for good by the broker.
    pub poison: u64,
    /// Left over from an earlier run of the program and found on disk; part of the sum of the above.
    pub recovered: u64,
    /// Of those queued, not yet written to disk: what a crash of the program would lose. Always all of them in memory.
    pub unsaved: u64,
    /// Failed writes to the disk.
    pub disk_faults: u64,
}

/// A bounded queue that forgets a message only when told to, when it must make room, or when its time is up; and
/// counts each of these. No call blocks.
pub trait Outbox: Send {
    /// Takes a message at time `now`; the oldest messages make room.
    ///
    /// # Errors
    /// [`Full`] when the message would not fit into the empty outbox.
    fn accept(&mut self, message: Message, now: MonoTime) -> std::result::Result<Accepted, Full>;

    /// Hands out the oldest message that has not been handed out since the last [`Outbox::rewind`].
    fn next(&mut self, now: MonoTime) -> Option<Outgoing>;

    /// The broker has the message: it is forgotten. A number that is not known is ignored.
    fn acknowledged(&mut self, seq: u64);

    /// The broker refuses the message for good: it is forgotten and counted.
    fn poisoned(&mut self, seq: u64);

    /// The connection is gone: what has not been acknowledged will be handed out again, oldest first.
    fn rewind(&mut self);

    /// What has become of the messages.
    fn counts(&self) -> OutboxCounts;

    /// Number of the first message of this run: larger than any number of earlier runs, as far as that can be known.
    fn first_seq(&self) -> u64 {
        0
    }

    /// Why messages are not kept on disk although they should be, in one line.
    fn fault(&self) -> Option<String> {
        None
    }
}

/// Where and how messages are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxSettings {
    /// Directory of the ring on disk; none: in memory.
    pub directory: Option<PathBuf>,
    /// Size of the ring in bytes.
    pub disk_bytes: usize,
    /// A message that has not been acknowledged is safe from a power cut after this time.
    pub sync_every: Duration,
    /// Most messages in memory, without a directory.
    pub memory_messages: usize,
    /// Most bytes in memory, without a directory.
    pub memory_bytes: usize,
}

impl Default for OutboxSettings {
    fn default() -> Self {
        Self {
            directory: None,
            disk_bytes: 4 << 20,
            sync_every: Duration::from_secs(5),
            memory_messages: 4_096,
            memory_bytes: 4 << 20,
        }
    }
}

/// The outbox that `settings` ask for. When the disk cannot be used, messages are kept in memory, and
/// [`Outbox::fault`] and the log say so: a board with a broken card still tells what it sees.
///
/// # Errors
/// [`ErrorKind::Unavailable`] when another process uses the directory: two of one device are a mistake of the operator.
pub fn open(settings: &OutboxSettings, clock: &Arc<dyn Clock>) -> Result<Box<dyn Outbox>> {
    let memory = || MemoryOutbox::new(settings.memory_messages, settings.memory_bytes);
    let Some(directory) = &settings.directory else { return Ok(Box::new(memory())) };
    match DiskOutbox::open(directory, settings.disk_bytes, settings.sync_every, Arc::clone(clock)) {
        Ok(outbox) => Ok(Box::new(outbox)),
        Err(error) if error.kind() == ErrorKind::Unavailable => Err(error),
        Err(error) => {
            tracing::error!("{error}: messages are kept in memory and will not survive the program");
            Ok(Box::new(memory().with_fault(error.to_string())))
        }
    }
}
