//! The publisher's inside: connects, sends, waits, says goodbye.
//!
//! Each connection has a client of its own that is thrown away with it, so the outbox is the only place from which
//! anything is sent again, and at most `in_flight` messages are ever on their way.

use std::{sync::Arc, time::Duration};

use rumqttc::{
    AsyncClient, ClientError, ConnAck, ConnectionError, Event, EventLoop, Packet, PublishNoticeError,
    PublishOptions, PublishProperties, QoS, RetainForwardRule, StateError, SubscribeFilter,
    SubscribeReasonCode,
};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tracing::{debug, error, info, warn};

use super::{
    Arrived, BrokerUrl, Fault, FaultKind, Listener, Message, MqttSettings, OFFLINE, Qos, Topics,
    backoff::Backoff,
    connection,
    publisher::{Shared, Task, Ticket, needs_operator},
};

/// Bytes of a PUBLISH packet beside topic and payload, at most.
const PACKET_OVERHEAD: usize = 16;
/// Kept back from the time for a clean end, for `offline` and the closing of the connection.
const FAREWELL: Duration = Duration::from_millis(700);

/// Connections closed by the broker in a row, without any acknowledgement, before the oldest message is blamed for it.
const STRIKES: u32 = 5;
/// From here on messages are sent one at a time, so that the right one is blamed.
const STRIKES_CAREFUL: u32 = 2;
/// Short connections closed by the broker in a row before another client with our id is suspected.
const EARLY_ENDS: u32 = 4;
/// A connection shorter than this is short.
const EARLY: Duration = Duration::from_secs(60);
/// A broker that closes the connection this soon after it refused a message does so because of the message.
const REFUSAL: Duration = Duration::from_secs(2);
/// Longest wait between tries while stopping.
const LAST_TRIES: Duration = Duration::from_millis(100);

/// The publisher is to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    /// Until then what is left is sent.
    flush_by: Instant,
    /// Until then everything is over.
    end_by: Instant,
}

impl Stop {
    /// From now on.
    pub(super) fn within(within: Duration) -> Self {
        let end_by = Instant::now() + within;
        Self { flush_by: end_by - FAREWELL.min(within / 2), end_by }
    }
}

/// How the connections of late have ended.
#[derive(Debug, Default)]
pub(super) struct History {
    strikes: u32,
    early_ends: u32,
}

/// The thread's state.
pub(super) struct Driver {
    pub(super) history: History,
    pub(super) settings: MqttSettings,
    pub(super) url: BrokerUrl,
    pub(super) topics: Topics,
    pub(super) shared: Arc<Shared>,
    /// Becomes `Some` when the publisher is to end.
    pub(super) stopped: watch::Receiver<Option<Stop>>,
    /// Wants to know what others publish.
    pub(super) listener: Option<Arc<dyn Listener>>,
}

/// How a connection, or a try, ended.
enum End {
    Stopped,
    /// No connection came about.
    Unwelcome(Fault),
    /// The connection is gone that stood for so long.
    Lost(Fault, Duration),
    /// The broker hung up on a message that it refused, which is settled and will not be sent again.
    Refused(Fault),
}

/// What the broker did with the outbox's messages on a connection that has ended.
#[derive(Clone, Copy, Debug, Default)]
struct Verdict {
    /// Some were acknowledged or refused.
    progress: bool,
    /// One was refused just before the end.
    refused: bool,
    /// The broker said why it ended the connection.
    said_why: bool,
    /// The oldest that was not.
    oldest: Option<Ticket>,
}

impl History {
    /// Looks for a message that makes the broker close the connection (older brokers do not announce their largest
    /// packet) and for a client with our id (older brokers do not say so). A refused message explains the end.
    fn judge(&mut self, mut fault: Fault, verdict: Verdict, lasted: Duration, shared: &Shared) -> End {
        if verdict.progress || verdict.refused {
            self.strikes = 0;
        }
        if fault.kind != FaultKind::Closed || verdict.refused || verdict.said_why {
            self.early_ends = 0;
        }
        if fault.kind != FaultKind::Closed {
            return End::Lost(fault, lasted);
        }
        if verdict.refused {
            fault.text.push_str(" after the broker refused a message: may we publish to that topic?");
            return End::Refused(fault);
        }
        match verdict.oldest {
            Some(ticket) if !verdict.progress => self.strike(ticket, shared),
            None if lasted < EARLY && !verdict.said_why => self.early_ends += 1,
            _ => self.early_ends = 0,
        }
        if self.early_ends >= EARLY_ENDS {
            fault.kind = FaultKind::TakenOver;
            fault.text.push_str(
                " without a word, again and again, by a broker that is there: does another client use our client id?",
            );
        }
        End::Lost(fault, lasted)
    }

    /// No connection came about. A broker that is gone explains why the last one ended.
    fn no_welcome(&mut self, fault: &Fault) {
        if fault.kind == FaultKind::Unreachable {
            self.early_ends = 0;
        }
    }

    fn strike(&mut self, ticket: Ticket, shared: &Shared) {
        self.strikes += 1;
        if self.strikes >= STRIKES {
            warn!("mqtt: {ticket:?} makes the broker close the connection: given up");
            shared.settle(ticket, true);
            self.strikes = STRIKES_CAREFUL;
        }
    }
}

impl Driver {
    /// Runs until told to stop.
    pub(super) fn run(mut self) {
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                runtime.block_on(self.drive());
                // A name look-up that hangs must not hold up the end.
                runtime.shutdown_background();
            }
            Err(e) => {
                error!("mqtt: no runtime: {e}");
                self.shared.lost(&Fault::new(FaultKind::Setup, e.to_string()), Duration::MAX);
            }
        }
    }

    async fn drive(&mut self) {
        let mut backoff = Backoff::new(&self.settings, self.seed());
        loop {
            let (begun, turn) = (Instant::now(), backoff.for_try());
            self.shared.trying(turn);
            let (fault, wait) = match self.connect(turn).await {
                End::Stopped => break,
                End::Unwelcome(fault) => {
                    let wait = turn.saturating_sub(begun.elapsed());
                    self.report(&fault, wait);
                    (fault, wait)
                }
                End::Lost(fault, lasted) => {
                    let wait = backoff.after(fault.kind, lasted);
                    self.report(&fault, wait);
                    (fault, wait)
                }
                End::Refused(fault) => {
                    // The refused message has been logged: that says it all.
                    debug!("mqtt: {}", fault.text);
                    let wait = backoff.after_refusal();
                    self.shared.lost(&fault, wait);
                    (fault, wait)
                }
            };
            if !self.pause(fault.kind, wait).await {
                break;
            }
        }
        self.shared.closed();
    }

    /// Waits before the next try. Returns whether there is to be one.
    async fn pause(&self, fault: FaultKind, wait: Duration) -> bool {
        let mut stopped = self.stopped.clone();
        let stop = tokio::select! {
            biased;
            stop = stopped.wait_for(Option::is_some) => stop.ok().and_then(|stop| *stop),
            () = sleep(wait) => return true,
        };
        match stop {
            // The broker may well be there: what is left can still be sent.
            Some(stop) if fault == FaultKind::Closed && self.shared.has_unsent() => {
                timeout_at(stop.flush_by, sleep(wait.min(LAST_TRIES))).await.is_ok()
            }
            _ => false,
        }
    }

    /// Returns when there is no use any more in waiting for the broker's welcome.
    async fn given_up(&self) {
        let mut stopped = self.stopped.clone();
        let stop = stopped.wait_for(Option::is_some).await.ok().and_then(|stop| *stop);
        if let Some(stop) = stop
            && self.shared.has_unsent()
        {
            sleep_until(stop.flush_by).await;
        }
    }

    /// Differs from device to device and from start to start.
    fn seed(&self) -> u64 {
        let name =
            self.settings.client_id().bytes().fold(0u64, |seed, b| seed.wrapping_mul(31) ^ u64::from(b));
        name ^ self.shared.now().0.unsigned_abs()
    }

    /// Says a fault once, until it changes or the connection was back.
    fn report(&self, fault: &Fault, wait: Duration) {
        let next = wait.as_secs_f32();
        match (self.shared.lost(fault, wait), needs_operator(fault.kind)) {
            (true, true) => error!("mqtt: {}; next try in {next:.1} s", fault.text),
            (true, false) => warn!("mqtt: {}; next try in {next:.1} s", fault.text),
            (false, _) => debug!("mqtt: {}; next try in {next:.1} s", fault.text),
        }
    }

    /// One connection, from CONNECT to its end. The broker's welcome is waited for `patience` long.
    async fn connect(&mut self, patience: Duration) -> End {
        let will = connection::retained_will(self.topics.availability(), OFFLINE);
        let id = self.settings.client_id();
        let options = match connection::options(&self.settings, &self.url, &id, Some(will), patience) {
            Ok(options) => options,
            Err(fault) => return End::Unwelcome(fault),
        };
        let capacity = usize::from(self.settings.in_flight) + 8;
        let (client, mut events) = AsyncClient::builder(options).capacity(capacity).build();
        let welcome = tokio::select! {
            biased;
            () = self.given_up() => return End::Stopped,
            welcome = welcome(&mut events) => welcome,
        };
        let connack = match welcome {
            Ok(connack) => connack,
            Err(e) => {
                let fault = Fault::of(&e, &self.url);
                self.history.no_welcome(&fault);
                return End::Unwelcome(fault);
            }
        };
        info!("mqtt: connected to {}:{} as {id}", self.url.host, self.url.port);
        self.shared.connected();
        let begun = Instant::now();
        let ears = self.listener.as_ref().map(|listener| {
            subscribe(&client, &listener.filters());
            Ears { listener: Arc::clone(listener), shared: Arc::clone(&self.shared) }
        });
        let mut session = Session::new(client, events, ears, &self.shared, &self.settings, &connack);
        if self.history.strikes >= STRIKES_CAREFUL {
            session.window = 1;
        }
        let mut stopped = self.stopped.clone();
        let stop = tokio::select! {
            biased;
            stop = stopped.wait_for(Option::is_some) => Some(stop.ok().and_then(|stop| *stop)),
            () = session.work(false) => None,
        };
        if let Some(stop) = stop {
            let stop = stop.unwrap_or_else(|| Stop::within(Duration::ZERO));
            session.farewell(self.topics.availability(), stop).await;
        }
        match session.end.take() {
            Some(e) => {
                let (fault, verdict) = (Fault::of(&e, &self.url), session.verdict(&e));
                self.history.judge(fault, verdict, begun.elapsed(), &self.shared)
            }
            None => End::Stopped,
        }
    }
}

/// Polls until the broker's welcome.
async fn welcome(events: &mut EventLoop) -> Result<ConnAck, ConnectionError> {
    loop {
        if let Event::Incoming(Packet::ConnAck(connack)) = events.poll().await? {
            return Ok(connack);
        }
    }
}

/// Where incoming messages go.
struct Ears {
    listener: Arc<dyn Listener>,
    shared: Arc<Shared>,
}

impl Ears {
    fn take(&self, event: &Event) {
        match event {
            Event::Incoming(Packet::Publish(publish)) => {
                let Ok(topic) = std::str::from_utf8(&publish.topic) else { return };
                let properties = publish.properties.as_ref();
                let forgotten = self.listener.arrived(Arrived {
                    topic,
                    payload: &publish.payload,
                    retained: publish.retain,
                    response_topic: properties.and_then(|p| p.response_topic.as_deref()),
                    correlation: properties.and_then(|p| p.correlation_data.as_deref()),
                });
                if forgotten {
                    self.shared.resend_retained();
                }
            }
            Event::Incoming(Packet::SubAck(ack)) => {
                let refused = |code: &&SubscribeReasonCode| !matches!(code, SubscribeReasonCode::Success(_));
                if let Some(code) = ack.return_codes.iter().find(refused) {
                    warn!(
                        "mqtt: the broker does not let us subscribe ({code:?}): no commands; check its ACL"
                    );
                }
            }
            _ => {}
        }
    }
}

/// Asks for messages as they are published, with their retain flag, and for none that are kept.
fn subscribe(client: &AsyncClient, filters: &[String]) {
    let filter = |path: &String| SubscribeFilter {
        path: path.clone(),
        qos: QoS::AtLeastOnce,
        nolocal: true,
        preserve_retain: true,
        retain_forward_rule: RetainForwardRule::Never,
    };
    if let Err(e) = client.try_subscribe_many(filters.iter().map(filter)) {
        error!("mqtt: cannot subscribe, so no commands: {e}");
    }
}

type Settled = (Ticket, Result<(), PublishNoticeError>);

/// A standing connection.
struct Session<'a> {
    client: AsyncClient,
    shared: &'a Shared,
    window: usize,
    max_packet: usize,
    in_flight: JoinSet<Settled>,
    poller: JoinHandle<ConnectionError>,
    /// Why the connection has ended, from the poller; which must not be asked again.
    end: Option<ConnectionError>,
    /// Messages on their way, oldest first.
    outstanding: Vec<Ticket>,
    progress: bool,
    refused: Option<Instant>,
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        self.poller.abort();
    }
}

impl<'a> Session<'a> {
    fn new(
        client: AsyncClient,
        mut events: EventLoop,
        ears: Option<Ears>,
        shared: &'a Shared,
        settings: &MqttSettings,
        connack: &ConnAck,
    ) -> Self {
        let properties = connack.properties.as_ref();
        let max_packet = properties.and_then(|p| p.max_packet_size).map_or(usize::MAX, |n| n as usize);
        let window =
            properties.and_then(|p| p.receive_max).map_or(settings.in_flight, |n| n.min(settings.in_flight));
        let poller = tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(event) => ears.iter().for_each(|ears| ears.take(&event)),
                    Err(e) => return e,
                }
            }
        });
        let window = usize::from(window.max(1));
        let (in_flight, outstanding) = (JoinSet::new(), Vec::with_capacity(window));
        let (end, progress, refused) = (None, false, None);
        Self { client, shared, window, max_packet, in_flight, poller, end, outstanding, progress, refused }
    }

    /// Sends and settles until the connection ends or, when that is to be the `last` of it, until nothing is left. May be
    /// dropped at any point.
    async fn work(&mut self, last: bool) {
        while self.end.is_none() {
            if last && self.shared.is_settled() {
                return;
            }
            self.send_what_fits();
            tokio::select! {
                Some(done) = self.in_flight.join_next() => {
                    if let Ok(settled) = done {
                        self.settle(settled);
                    }
                }
                () = self.shared.wake.notified() => {}
                ended = &mut self.poller => self.end = Some(ended.unwrap_or(ConnectionError::RequestsDone)),
            }
        }
        self.settle_the_rest().await;
    }

    /// Takes the acknowledgements that came just before the end: a broker may refuse a message and hang up at once.
    async fn settle_the_rest(&mut self) {
        for _ in 0..=self.in_flight.len() {
            tokio::task::yield_now().await;
            while let Some(Ok(settled)) = self.in_flight.try_join_next() {
                self.settle(settled);
            }
        }
    }

    fn send_what_fits(&mut self) {
        while self.in_flight.len() < self.window {
            let Some(task) = self.shared.next() else { return };
            if task.message.topic.len() + task.message.payload.len() + PACKET_OVERHEAD > self.max_packet {
                self.poison(task.ticket, "larger than the broker takes");
                continue;
            }
            self.send(task);
        }
    }

    fn send(&mut self, Task { ticket, message, expiry_seconds, correlation }: Task) {
        let options = publish_options(&message, expiry_seconds, correlation);
        match self.client.try_publish_tracked(message.topic, message.payload, options) {
            Ok(notice) => {
                self.outstanding.push(ticket);
                // Not `wait_async`, for which a refusal is as good as any other answer.
                self.in_flight.spawn(async move { (ticket, notice.wait_completion_async().await) });
            }
            // The connection is ending: the message is still in the outbox and the poller says why.
            Err(ClientError::RequestChannelDisconnected(_)) => {}
            // Cannot be while the window is smaller than the client's queue; a new connection sends it again.
            Err(ClientError::RequestChannelFull(_)) => self.poller.abort(),
            Err(e) => self.poison(ticket, &e.to_string()),
        }
    }

    fn verdict(&self, end: &ConnectionError) -> Verdict {
        Verdict {
            progress: self.progress,
            refused: self.refused.is_some_and(|at| at.elapsed() < REFUSAL),
            said_why: matches!(end, ConnectionError::MqttState(StateError::ServerDisconnect { .. })),
            oldest: self.outstanding.first().copied(),
        }
    }

    fn settle(&mut self, (ticket, outcome): Settled) {
        match outcome {
            Ok(()) => self.settled(ticket, false),
            Err(PublishNoticeError::V5PubAck(reason)) => {
                self.refused = Some(Instant::now());
                self.poison(ticket, &format!("{reason:?}"));
            }
            Err(PublishNoticeError::RetainNotSupported) => {
                self.poison(ticket, "the broker keeps no retained messages")
            }
            // The connection is ending; what is not acknowledged will be sent on the next.
            Err(e) => debug!("mqtt: {ticket:?} not acknowledged: {e}"),
        }
    }

    fn poison(&mut self, ticket: Ticket, reason: &str) {
        warn!("mqtt: the broker refuses a message for good ({ticket:?}): {reason}");
        self.settled(ticket, true);
    }

    fn settled(&mut self, ticket: Ticket, poison: bool) {
        self.outstanding.retain(|&t| t != ticket);
        self.progress |= matches!(ticket, Ticket::Outbox(_));
        self.shared.settle(ticket, poison);
    }

    /// Sends what is left while time allows, then `offline`, then DISCONNECT; unless the connection ends before.
    async fn farewell(&mut self, availability: String, stop: Stop) {
        if timeout_at(stop.flush_by, self.work(true)).await.is_err() {
            warn!("mqtt: stopped with messages left");
        }
        if self.end.is_some() {
            return;
        }
        let offline = PublishOptions::at_least_once().retained();
        let goodbye = async {
            if let Ok(notice) = self.client.publish_tracked(availability, OFFLINE, offline).await {
                let _ = notice.wait_async().await;
            }
        };
        let _ = timeout_at(stop.flush_by + (stop.end_by - stop.flush_by) / 2, goodbye).await;
        let _ = self.client.try_disconnect_now();
        let _ = timeout_at(stop.end_by, &mut self.poller).await;
    }
}

fn publish_options(
    message: &Message,
    expiry_seconds: Option<u32>,
    correlation: Option<Vec<u8>>,
) -> PublishOptions {
    let qos = match message.qos {
        Qos::AtMostOnce => QoS::AtMostOnce,
        Qos::AtLeastOnce => QoS::AtLeastOnce,
    };
    let options = PublishOptions::new(qos).retain(message.retain);
    match (expiry_seconds, correlation) {
        (None, None) => options,
        (message_expiry_interval, correlation) => options.properties(PublishProperties {
            message_expiry_interval,
            correlation_data: correlation.map(Into::into),
            ..PublishProperties::default()
        }),
    }
}
