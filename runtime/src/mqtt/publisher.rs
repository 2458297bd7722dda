//! The publisher's outside: takes messages from any thread, and tells how things stand.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::{Notify, watch};

use super::{
    BrokerUrl, Fault, FaultKind, Listener, MAX_PAYLOAD_BYTES, Message, MqttSettings, ONLINE, Publisher, Qos,
    Refused, Topics, connection, driver, topics::is_topic,
};
use crate::{
    Error, ErrorKind, Result,
    clock::{Clock, MonoTime},
    outbox::{self, Outbox, OutboxCounts},
};

/// Most retained topics of one publisher.
const MAX_RETAINED: usize = 64;
/// No retained payload is larger. Home Assistant's discovery with the longest names needs more than the outbox takes.
pub(super) const MAX_RETAINED_BYTES: usize = 256 << 10;
/// Most responses to commands waiting.
const MAX_REPLIES: usize = 32;
/// Most QoS-0 messages waiting.
const MAX_VOLATILE: usize = 64;
/// Longest clean end when nobody says otherwise.
const FAREWELL: Duration = Duration::from_secs(2);

/// How things stand with the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MqttStatus {
    /// Whether the broker has welcomed us and the connection holds.
    pub connected: bool,
    /// The last fault; stays when the connection is back.
    pub last_fault: Option<Fault>,
    /// The back-off: from the last fault, or from the beginning of the try under way, to the next try. A broker that is
    /// back is found before it is over.
    pub retry_in: Duration,
    /// Connections so far.
    pub connections: u64,
    /// What has become of the messages at QoS 1.
    pub outbox: OutboxCounts,
    /// QoS-0 messages dropped because the broker was away or slow.
    pub volatile_dropped: u64,
    /// Retained messages that the broker refused for good.
    pub retained_poison: u64,
    /// Messages not taken ([`Refused`]).
    pub refused: u64,
    /// Why messages are not kept on disk although they should be, in one line.
    pub outbox_fault: Option<String>,
}

impl MqttStatus {
    /// Connections after the first.
    #[must_use]
    pub fn reconnects(&self) -> u64 {
        self.connections.saturating_sub(1)
    }
}

/// Publishes through a running [`MqttPublisher`]; may be cloned and given away.
#[derive(Clone, Debug)]
pub struct MqttHandle(Arc<Shared>);

impl MqttHandle {
    /// Answers a command, at QoS 1 on the connection that stands: whoever asked is no longer waiting on another.
    pub fn respond(&self, topic: String, payload: Vec<u8>, correlation: Option<Vec<u8>>) {
        self.0.respond(Reply { topic, payload, correlation });
    }
}

impl Publisher for MqttHandle {
    fn publish(&self, message: Message) -> Result<(), Refused> {
        self.0.publish(message)
    }
}

/// Publishes to a broker from one thread of its own. Dropping it says goodbye within two seconds.
#[derive(Debug)]
pub struct MqttPublisher {
    shared: Arc<Shared>,
    stop: watch::Sender<Option<driver::Stop>>,
    thread: Option<JoinHandle<()>>,
}

/// What the publisher and its thread share.
pub(super) struct Shared {
    inner: Mutex<Inner>,
    /// Something can be sent.
    pub(super) wake: Notify,
    /// Something has been settled.
    settled: Condvar,
    clock: Arc<dyn Clock>,
    /// Age from which an event is no longer news.
    replay_after: Duration,
}

struct Inner {
    outbox: Box<dyn Outbox>,
    retained: Vec<Retained>,
    volatile: VecDeque<Message>,
    replies: VecDeque<Reply>,
    status: MqttStatus,
    closed: bool,
}

/// A response to a command; lost with the connection.
struct Reply {
    topic: String,
    payload: Vec<u8>,
    correlation: Option<Vec<u8>>,
}

/// The newest message of a retained topic.
struct Retained {
    message: Message,
    version: u64,
    /// The version that has been handed out on this connection.
    sent: Option<u64>,
    /// The version that the broker has, or has refused for good.
    settled: Option<u64>,
    /// The version that the broker has refused for good: it is not sent again.
    refused: Option<u64>,
}

/// A message on its way, and how to settle it.
pub(super) struct Task {
    pub(super) ticket: Ticket,
    pub(super) message: Message,
    /// Remaining life in whole seconds.
    pub(super) expiry_seconds: Option<u32>,
    /// Goes back to whoever gave a command.
    pub(super) correlation: Option<Vec<u8>>,
}

/// What a message on its way stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ticket {
    Outbox(u64),
    Retained { place: usize, version: u64 },
    Volatile,
    Reply,
}

impl MqttPublisher {
    /// Starts publishing with the outbox that the settings ask for. The broker need not be there.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for settings that make no sense; [`ErrorKind::Unavailable`] when another process uses the
    /// outbox; [`ErrorKind::Internal`] when no thread can be started.
    pub fn start(settings: MqttSettings, clock: Arc<dyn Clock>) -> Result<Self> {
        Self::start_listening(settings, clock, None)
    }

    /// Starts publishing likewise, and hands what comes on the topics that `listener` wants over to it.
    ///
    /// # Errors
    /// As [`MqttPublisher::start`].
    pub fn start_listening(
        settings: MqttSettings,
        clock: Arc<dyn Clock>,
        listener: Option<Arc<dyn Listener>>,
    ) -> Result<Self> {
        settings.check()?;
        connection::warn_of_open_secrets(&settings);
        let outbox = outbox::open(&settings.outbox, &clock)?;
        Self::start_all(settings, clock, outbox, listener)
    }

    /// Starts publishing with `outbox`.
    ///
    /// # Errors
    /// As [`MqttPublisher::start`].
    pub fn start_with(
        settings: MqttSettings,
        clock: Arc<dyn Clock>,
        outbox: Box<dyn Outbox>,
    ) -> Result<Self> {
        Self::start_all(settings, clock, outbox, None)
    }

    fn start_all(
        settings: MqttSettings,
        clock: Arc<dyn Clock>,
        outbox: Box<dyn Outbox>,
        listener: Option<Arc<dyn Listener>>,
    ) -> Result<Self> {
        settings.check()?;
        let (url, topics) =
            (BrokerUrl::parse(&settings.url)?, Topics::new(&settings.prefix, &settings.device)?);
        let shared = Arc::new(Shared::new(clock, outbox, settings.replay_after));
        let birth = Message { retain: true, ..Message::new(topics.availability(), ONLINE) };
        let _ = shared.publish(birth);
        let (stop, stopped) = watch::channel(None);
        let (history, shared_too) = (driver::History::default(), Arc::clone(&shared));
        let driver = driver::Driver { history, settings, url, topics, shared: shared_too, stopped, listener };
        let thread = std::thread::Builder::new()
            .name("mqtt".into())
            .spawn(move || driver.run())
            .map_err(|e| Error::new(ErrorKind::Internal, "mqtt: no thread").cause(e))?;
        Ok(Self { shared, stop, thread: Some(thread) })
    }

    /// How things stand.
    #[must_use]
    pub fn status(&self) -> MqttStatus {
        self.shared.status()
    }

    /// Number of the outbox's first message of this run; events numbered from here on have larger numbers than those of
    /// earlier runs.
    #[must_use]
    pub fn first_seq(&self) -> u64 {
        self.shared.lock().outbox.first_seq()
    }

    /// For publishing from elsewhere.
    #[must_use]
    pub fn handle(&self) -> MqttHandle {
        MqttHandle(Arc::clone(&self.shared))
    }

    /// Waits until everything accepted so far is settled, for at most `within`. Returns whether it is. Not for the
    /// thread that works on snippets.
    #[must_use]
    pub fn flush(&self, within: Duration) -> bool {
        let inner = self.shared.lock();
        let waiting = self.shared.settled.wait_timeout_while(inner, within, |inner| !inner.is_settled());
        !waiting.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Waits until connected, for at most `within`. Returns whether it is.
    #[must_use]
    pub fn wait_connected(&self, within: Duration) -> bool {
        let inner = self.shared.lock();
        let waiting = self.shared.settled.wait_timeout_while(inner, within, |inner| !inner.status.connected);
        !waiting.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Ends within `within`: sends what is left as far as time allows, then the retained `offline`, then closes the
    /// connection in order. A broker that is only just being connected to, or that hung up, gets another chance as long
    /// as messages are left; one that cannot be reached does not. Returns how things stood at the end.
    pub fn shutdown(mut self, within: Duration) -> MqttStatus {
        self.end(within);
        self.shared.status()
    }

    fn end(&mut self, within: Duration) {
        self.shared.lock().closed = true;
        let _ = self.stop.send(Some(driver::Stop::within(within)));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Publisher for MqttPublisher {
    fn publish(&self, message: Message) -> Result<(), Refused> {
        self.shared.publish(message)
    }
}

impl Drop for MqttPublisher {
    fn drop(&mut self) {
        self.end(FAREWELL);
    }
}

impl Shared {
    fn new(clock: Arc<dyn Clock>, outbox: Box<dyn Outbox>, replay_after: Duration) -> Self {
        let inner = Inner {
            outbox,
            retained: Vec::new(),
            volatile: VecDeque::with_capacity(MAX_VOLATILE),
            replies: VecDeque::with_capacity(MAX_REPLIES),
            status: MqttStatus::default(),
            closed: false,
        };
        Self { inner: Mutex::new(inner), wake: Notify::new(), settled: Condvar::new(), clock, replay_after }
    }

    pub(super) fn now(&self) -> MonoTime {
        self.clock.now()
    }

    pub(super) fn status(&self) -> MqttStatus {
        let inner = self.lock();
        let (outbox, outbox_fault) = (inner.outbox.counts(), inner.outbox.fault());
        MqttStatus { outbox, outbox_fault, ..inner.status.clone() }
    }

    pub(super) fn publish(&self, message: Message) -> Result<(), Refused> {
        let taken = self.lock().take(message, self.clock.now());
        if taken.is_ok() {
            self.wake.notify_one();
        }
        taken
    }

    fn respond(&self, reply: Reply) {
        let mut inner = self.lock();
        if !inner.status.connected || !is_topic(&reply.topic) {
            return;
        }
        if inner.replies.len() >= MAX_REPLIES {
            inner.replies.pop_front();
        }
        inner.replies.push_back(reply);
        drop(inner);
        self.wake.notify_one();
    }

    /// Somebody has forgotten what is retained: it is all sent again.
    pub(super) fn resend_retained(&self) {
        for retained in &mut self.lock().retained {
            (retained.sent, retained.settled) = (None, None);
        }
        self.wake.notify_one();
    }

    /// The next message to send: retained ones first, then the outbox, then what may be lost.
    pub(super) fn next(&self) -> Option<Task> {
        self.lock().next(self.clock.now(), self.replay_after)
    }

    /// A connection stands: everything retained and everything not acknowledged is to be sent.
    pub(super) fn connected(&self) {
        let mut inner = self.lock();
        inner.outbox.rewind();
        for retained in &mut inner.retained {
            (retained.sent, retained.settled) = (None, None);
        }
        inner.status.connected = true;
        inner.status.connections += 1;
        self.settled.notify_all();
    }

    /// A connection is being tried; if none comes about, the next try is so long after the beginning of this one.
    pub(super) fn trying(&self, turn: Duration) {
        self.lock().status.retry_in = turn;
    }

    /// The connection is gone, or none came about. Returns whether that is news.
    pub(super) fn lost(&self, fault: &Fault, retry_in: Duration) -> bool {
        let mut inner = self.lock();
        let news =
            inner.status.connected || inner.status.last_fault.as_ref().map(|f| f.kind) != Some(fault.kind);
        inner.drop_volatile();
        inner.replies.clear();
        inner.status.connected = false;
        inner.status.last_fault = Some(fault.clone());
        inner.status.retry_in = retry_in;
        self.settled.notify_all();
        news
    }

    /// The connection was closed in order.
    pub(super) fn closed(&self) {
        self.lock().status.connected = false;
        self.settled.notify_all();
    }

    /// The broker has the message, or refuses it for good.
    pub(super) fn settle(&self, ticket: Ticket, poison: bool) {
        let mut inner = self.lock();
        match ticket {
            Ticket::Outbox(seq) if poison => inner.outbox.poisoned(seq),
            Ticket::Outbox(seq) => inner.outbox.acknowledged(seq),
            Ticket::Retained { place, version } => {
                inner.status.retained_poison += u64::from(poison);
                if let Some(retained) = inner.retained.get_mut(place) {
                    retained.settled = Some(version);
                    if poison {
                        retained.refused = Some(version);
                    }
                }
            }
            Ticket::Reply => {}
            Ticket::Volatile => inner.status.volatile_dropped += u64::from(poison),
        }
        self.settled.notify_all();
    }

    /// Whether everything accepted has been settled.
    pub(super) fn is_settled(&self) -> bool {
        self.lock().is_settled()
    }

    /// Whether messages are left that must not be lost.
    pub(super) fn has_unsent(&self) -> bool {
        self.lock().outbox.counts().queued > 0
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is complete when the lock is released, so a panic elsewhere does not matter.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Inner {
    fn take(&mut self, message: Message, now: MonoTime) -> Result<(), Refused> {
        let taken = self.try_take(message, now);
        self.status.refused += u64::from(taken.is_err());
        taken
    }

    fn try_take(&mut self, message: Message, now: MonoTime) -> Result<(), Refused> {
        if self.closed {
            return Err(Refused::ShutDown);
        }
        if !is_topic(&message.topic) {
            return Err(Refused::Topic);
        }
        let most = if message.retain { MAX_RETAINED_BYTES } else { MAX_PAYLOAD_BYTES };
        if message.payload.len() > most {
            return Err(Refused::TooLarge);
        }
        match (message.retain, message.qos) {
            (true, _) => self.retain(message),
            (false, Qos::AtLeastOnce) => {
                self.outbox.accept(message, now).map(|_| ()).map_err(|_| Refused::TooLarge)
            }
            (false, Qos::AtMostOnce) => {
                self.push_volatile(message);
                Ok(())
            }
        }
    }

    fn retain(&mut self, message: Message) -> Result<(), Refused> {
        if let Some(known) = self.retained.iter_mut().find(|r| r.message.topic == message.topic) {
            known.message = message;
            known.version += 1;
            return Ok(());
        }
        if self.retained.len() >= MAX_RETAINED {
            return Err(Refused::TooManyRetained);
        }
        self.retained.push(Retained { message, version: 0, sent: None, settled: None, refused: None });
        Ok(())
    }

    fn push_volatile(&mut self, message: Message) {
        if !self.status.connected || self.volatile.len() >= MAX_VOLATILE {
            self.status.volatile_dropped += 1;
            return;
        }
        self.volatile.push_back(message);
    }

    fn drop_volatile(&mut self) {
        self.status.volatile_dropped += self.volatile.len() as u64;
        self.volatile.clear();
    }

    fn next(&mut self, now: MonoTime, replay_after: Duration) -> Option<Task> {
        if let Some(task) = self.next_retained() {
            return Some(task);
        }
        if let Some(Reply { topic, payload, correlation }) = self.replies.pop_front() {
            let message = Message::new(topic, payload);
            return Some(Task { ticket: Ticket::Reply, message, expiry_seconds: None, correlation });
        }
        if let Some(mut outgoing) = self.outbox.next(now) {
            // How long the board was off is not known, so what is from before this boot is no news, whatever its age.
            let before_boot = outgoing.accepted < MonoTime(0);
            if (before_boot || now >= outgoing.accepted + replay_after)
                && let Some(topic) = Topics::replayed(&outgoing.message.topic)
            {
                outgoing.message.topic = topic;
            }
            let life =
                outgoing.expires.map(|at| u64::try_from(at.since(now)).unwrap_or(0).div_ceil(1_000_000_000));
            let expiry_seconds = life.map(|seconds| u32::try_from(seconds).unwrap_or(u32::MAX));
            return Some(Task {
                ticket: Ticket::Outbox(outgoing.seq),
                message: outgoing.message,
                expiry_seconds,
                correlation: None,
            });
        }
        let message = self.volatile.pop_front()?;
        Some(Task { ticket: Ticket::Volatile, message, expiry_seconds: None, correlation: None })
    }

    fn next_retained(&mut self) -> Option<Task> {
        let due = |r: &Retained| r.sent != Some(r.version) && r.refused != Some(r.version);
        let place = self.retained.iter().position(due)?;
        let retained = self.retained.get_mut(place)?;
        retained.sent = Some(retained.version);
        let ticket = Ticket::Retained { place, version: retained.version };
        Some(Task { ticket, message: retained.message.clone(), expiry_seconds: None, correlation: None })
    }

    fn is_settled(&self) -> bool {
        self.outbox.counts().queued == 0
            && self.retained.iter().all(|r| r.settled == Some(r.version) || r.refused == Some(r.version))
    }
}

/// Whether the fault is worth an error in the log rather than a warning: an operator must act.
pub(super) fn needs_operator(kind: FaultKind) -> bool {
    matches!(
        kind,
        FaultKind::Auth | FaultKind::TakenOver | FaultKind::Setup | FaultKind::Tls | FaultKind::Refused
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::SimClock, outbox::MemoryOutbox};

    fn shared() -> Shared {
        shared_at(Arc::new(SimClock::default()))
    }

    fn shared_at(clock: Arc<SimClock>) -> Shared {
        Shared::new(clock, Box::new(MemoryOutbox::new(4, 1_000)), Duration::from_secs(10))
    }

    fn retained(payload: &str) -> Message {
        Message { retain: true, ..Message::new("g/d/state", payload) }
    }

    #[test]
    fn only_the_newest_retained_message_is_sent_and_again_on_each_connection() {
        let shared = shared();
        shared.publish(retained("1")).unwrap();
        shared.publish(retained("2")).unwrap();
        shared.connected();
        let task = shared.next().unwrap();
        assert_eq!(task.message.payload, b"2");
        assert!(shared.next().is_none() && !shared.is_settled());
        shared.settle(task.ticket, false);
        assert!(shared.is_settled());
        shared.connected();
        assert!(!shared.is_settled());
        assert_eq!(shared.next().unwrap().message.payload, b"2");
    }

    #[test]
    fn a_state_published_while_the_older_one_is_on_its_way_is_sent_too() {
        let shared = shared();
        shared.publish(retained("1")).unwrap();
        let first = shared.next().unwrap();
        shared.publish(retained("2")).unwrap();
        shared.settle(first.ticket, false);
        assert!(!shared.is_settled());
        assert_eq!(shared.next().unwrap().message.payload, b"2");
    }

    #[test]
    fn unacknowledged_messages_are_sent_again_and_poison_is_not() {
        let shared = shared();
        for n in ["0", "1", "2"] {
            shared.publish(Message::new("g/d/event", n)).unwrap();
        }
        shared.connected();
        let tickets: Vec<_> = std::iter::from_fn(|| shared.next()).map(|t| t.ticket).collect();
        shared.settle(tickets[0], false);
        shared.settle(tickets[1], true);
        shared.lost(&Fault::new(FaultKind::Closed, "gone"), Duration::ZERO);
        shared.connected();
        let again: Vec<_> = std::iter::from_fn(|| shared.next()).map(|t| t.message.payload).collect();
        assert_eq!(again, [b"2"]);
        let counts = shared.status().outbox;
        assert_eq!((counts.queued, counts.acked, counts.poison), (1, 1, 1));
    }

    #[test]
    fn events_that_are_no_news_any_more_go_to_a_topic_of_their_own() {
        let clock = Arc::new(SimClock::default());
        let shared = shared_at(Arc::clone(&clock));
        let topics = || {
            shared.connected();
            std::iter::from_fn(|| shared.next()).map(|t| t.message.topic).collect::<Vec<_>>()
        };
        for topic in ["g/d/event", "g/d/why"] {
            shared.publish(Message::new(topic, "")).unwrap();
        }
        clock.advance(Duration::from_millis(9_999));
        assert_eq!(topics(), ["g/d/event", "g/d/why"]);
        clock.advance(Duration::from_millis(1));
        assert_eq!(topics(), ["g/d/event/replayed", "g/d/why"]);
    }

    #[test]
    fn what_is_from_before_the_boot_is_no_news_however_young() {
        let clock = Arc::new(SimClock::new(MonoTime(-1_000_000)));
        let shared = shared_at(Arc::clone(&clock));
        shared.publish(Message::new("g/d/event", "")).unwrap();
        clock.advance(Duration::from_millis(2));
        shared.publish(Message::new("g/d/event", "")).unwrap();
        shared.connected();
        let topics: Vec<_> = std::iter::from_fn(|| shared.next()).map(|t| t.message.topic).collect();
        assert_eq!(topics, ["g/d/event/replayed", "g/d/event"]);
    }

    #[test]
    fn responses_are_bounded_and_lost_with_the_connection() {
        let shared = shared();
        let reply =
            |n: usize| Reply { topic: "a".into(), payload: n.to_string().into(), correlation: Some(vec![7]) };
        shared.respond(reply(0));
        assert!(shared.next().is_none(), "nobody waits for it");
        shared.connected();
        (0..MAX_REPLIES + 1).for_each(|n| shared.respond(reply(n)));
        let first = shared.next().unwrap();
        assert_eq!((first.message.payload, first.correlation), (b"1".to_vec(), Some(vec![7])));
        shared.lost(&Fault::new(FaultKind::Closed, "gone"), Duration::ZERO);
        shared.connected();
        assert!(shared.next().is_none());
    }

    #[test]
    fn what_cannot_be_sent_is_refused_and_counted() {
        let shared = shared();
        assert_eq!(shared.publish(Message::new("a/+", "")), Err(Refused::Topic));
        assert_eq!(shared.publish(Message::new("a", vec![0; MAX_PAYLOAD_BYTES + 1])), Err(Refused::TooLarge));
        assert_eq!(shared.publish(Message::new("a", vec![0; 2_000])), Err(Refused::TooLarge));
        let large = |bytes| Message { retain: true, ..Message::new("t0", vec![0; bytes]) };
        assert_eq!(shared.publish(large(MAX_RETAINED_BYTES + 1)), Err(Refused::TooLarge));
        shared.publish(large(MAX_RETAINED_BYTES)).unwrap();
        for n in 0..MAX_RETAINED {
            shared.publish(Message { retain: true, ..Message::new(format!("t{n}"), "") }).unwrap();
        }
        assert_eq!(shared.publish(retained("")), Err(Refused::TooManyRetained));
        assert_eq!(shared.status().refused, 5);
    }

    #[test]
    fn messages_that_may_be_lost_are_lost_while_the_broker_is_away() {
        let shared = shared();
        let message = || Message { qos: Qos::AtMostOnce, ..Message::new("g/d/surprise", "") };
        shared.publish(message()).unwrap();
        assert_eq!(shared.status().volatile_dropped, 1);
        shared.connected();
        shared.publish(message()).unwrap();
        assert_eq!(shared.next().unwrap().ticket, Ticket::Volatile);
    }

    #[test]
    fn only_a_change_of_fault_is_news() {
        let shared = shared();
        let away = Fault::new(FaultKind::Unreachable, "away");
        let lost = |fault: &Fault| shared.lost(fault, Duration::from_secs(1));
        assert!(lost(&away));
        assert!(!lost(&away));
        assert!(lost(&Fault::new(FaultKind::Auth, "no")));
        shared.connected();
        assert!(lost(&Fault::new(FaultKind::Auth, "no")));
    }
}
