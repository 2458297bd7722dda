//! Listening in: what `girasol watch` and the demo see of a device, from the broker.

use std::{
    ops::ControlFlow,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rumqttc::{AsyncClient, Event as Polled, EventLoop, Packet, Publish, QoS, SubscribeReasonCode};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

use super::{
    BrokerUrl, Fault, FaultKind, MqttSettings,
    backoff::Backoff,
    connection,
    payload::{State, Surprise},
};
use crate::{
    Error, ErrorKind, Result,
    event::{Event, EventType, Why},
};

/// How often the callback is called at least.
const IDLE: Duration = Duration::from_millis(200);

/// What the callback of [`watch`] is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// The broker sends from now on what is published.
    Subscribed,
    /// A message.
    Message {
        /// Its topic.
        topic: &'a str,
        /// Its content.
        payload: &'a [u8],
        /// Whether it is an old one that the broker kept.
        retained: bool,
    },
    /// The connection is gone, or none comes about; it is tried again.
    Lost(&'a Fault),
    /// Nothing for 200 ms: time to look whether to stop.
    Idle,
}

/// Subscribes to `filters` and tells `on` what comes, until it breaks. Runs in the calling thread.
///
/// # Errors
/// [`ErrorKind::Config`] for settings that make no sense, [`ErrorKind::Internal`] when the runtime cannot be started.
pub fn watch(
    settings: &MqttSettings,
    filters: &[String],
    on: &mut dyn FnMut(Seen<'_>) -> ControlFlow<()>,
) -> Result<()> {
    settings.check()?;
    let url = BrokerUrl::parse(&settings.url)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new(ErrorKind::Internal, "mqtt: no runtime").cause(e))?;
    runtime.block_on(listen(settings, &url, filters, on));
    runtime.shutdown_background();
    Ok(())
}

async fn listen(
    settings: &MqttSettings,
    url: &BrokerUrl,
    filters: &[String],
    on: &mut dyn FnMut(Seen<'_>) -> ControlFlow<()>,
) {
    let mut backoff = Backoff::new(settings, u64::from(std::process::id()));
    loop {
        let (begun, turn) = (Instant::now(), backoff.for_try());
        let Err(fault) = listen_once(settings, url, filters, turn, on).await else { return };
        let lasted = begun.elapsed();
        let wait = turn.checked_sub(lasted).unwrap_or_else(|| backoff.after(fault.kind, lasted));
        let until = Instant::now() + wait;
        if on(Seen::Lost(&fault)).is_break() {
            return;
        }
        while Instant::now() < until {
            sleep(IDLE.min(until - Instant::now())).await;
            if on(Seen::Idle).is_break() {
                return;
            }
        }
    }
}

/// What the connection's task hands over.
enum Heard {
    Subscribed,
    Message(Publish),
    Ended(Fault),
}

/// One connection. `Ok` when the callback broke.
async fn listen_once(
    settings: &MqttSettings,
    url: &BrokerUrl,
    filters: &[String],
    patience: Duration,
    on: &mut dyn FnMut(Seen<'_>) -> ControlFlow<()>,
) -> Result<(), Fault> {
    let options = connection::options(settings, url, &watcher_id(), None, patience)?;
    let (client, events) = AsyncClient::builder(options).capacity(filters.len() + 8).build();
    for filter in filters {
        client
            .try_subscribe(filter.clone(), QoS::AtLeastOnce)
            .map_err(|e| Fault::new(FaultKind::Setup, format!("`{filter}`: {e}")))?;
    }
    let (send, mut heard) = mpsc::channel(64);
    let poller = tokio::spawn(poll(events, url.clone(), filters.len(), send));
    let ended = hear(&mut heard, on).await;
    poller.abort();
    ended
}

/// Tells the callback until it breaks (`Ok`) or the connection ends.
async fn hear(
    heard: &mut mpsc::Receiver<Heard>,
    on: &mut dyn FnMut(Seen<'_>) -> ControlFlow<()>,
) -> Result<(), Fault> {
    loop {
        let flow = match timeout(IDLE, heard.recv()).await {
            Err(_) => on(Seen::Idle),
            Ok(Some(Heard::Subscribed)) => on(Seen::Subscribed),
            Ok(Some(Heard::Message(message))) => {
                let topic = String::from_utf8_lossy(&message.topic);
                on(Seen::Message { topic: &topic, payload: &message.payload, retained: message.retain })
            }
            Ok(Some(Heard::Ended(fault))) => return Err(fault),
            Ok(None) => return Err(Fault::new(FaultKind::Closed, "connection closed")),
        };
        if flow.is_break() {
            return Ok(());
        }
    }
}

/// Drives the client. A slow callback holds it up, and in the end the broker.
async fn poll(mut events: EventLoop, url: BrokerUrl, filters: usize, send: mpsc::Sender<Heard>) {
    let mut subscribed = 0;
    loop {
        let heard = match events.poll().await {
            Ok(Polled::Incoming(Packet::Publish(message))) => Heard::Message(message),
            Ok(Polled::Incoming(Packet::SubAck(ack))) => {
                subscribed += 1;
                let refused =
                    ack.return_codes.iter().any(|code| !matches!(code, SubscribeReasonCode::Success(_)));
                match (refused, subscribed == filters) {
                    (true, _) => {
                        Heard::Ended(Fault::new(FaultKind::Auth, "the broker does not let us subscribe"))
                    }
                    (false, true) => Heard::Subscribed,
                    (false, false) => continue,
                }
            }
            Ok(_) => continue,
            Err(e) => Heard::Ended(Fault::of(&e, &url)),
        };
        let last = matches!(heard, Heard::Ended(_));
        if send.send(heard).await.is_err() || last {
            return;
        }
    }
}

/// A client id of our own, so that a watcher never takes over a device's.
fn watcher_id() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("girasol-watch-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// A message as one line for people.
#[must_use]
pub fn describe(topic: &str, payload: &[u8]) -> String {
    let (device, what) = topic.rsplit_once('/').unwrap_or(("", topic));
    let device = device.rsplit('/').next().unwrap_or(device);
    let line = match what {
        "event" => serde_json::from_slice(payload).ok().map(|event| describe_event(&event)),
        "why" => serde_json::from_slice(payload).ok().map(|why| describe_why(&why)),
        "surprise" => serde_json::from_slice::<Surprise>(payload)
            .ok()
            .map(|s| format!("{:9.2} s  surprise {:.1}", s.time, s.surprise)),
        "state" => serde_json::from_slice::<State>(payload).ok().map(|s| {
            format!("camera {:?}, microphone {:?}, {} snippets", s.camera, s.microphone, s.counters.snippets)
        }),
        _ => None,
    };
    let line = line.unwrap_or_else(|| plain(payload));
    format!("{device} {what}: {line}")
}

fn describe_event(event: &Event) -> String {
    let kind = match event.kind {
        EventType::New => "new   ",
        EventType::Update => "update",
        EventType::End => "end   ",
    };
    let view = match event.in_view {
        Some(true) => ", in view",
        Some(false) => ", not in view",
        None => "",
    };
    let lasted =
        if event.kind == EventType::End { format!(", {:.1} s", event.duration) } else { String::new() };
    format!(
        "{:9.2} s  {kind} {:<16} {:3.0} %  {}{view}{lasted}",
        event.time,
        event.label,
        event.confidence * 100.0,
        event.text
    )
}

fn describe_why(why: &Why) -> String {
    format!(
        "{:9.2} s  {:<16} {:.2} of {:.2}  {:?}",
        why.time, why.label, why.score, why.threshold, why.decision
    )
}

/// At most 200 bytes of any payload, without control characters.
fn plain(payload: &[u8]) -> String {
    let text = String::from_utf8_lossy(payload.get(..200).unwrap_or(payload));
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_read_as_one_line() {
        let event = r#"{"v":1,"type":"end","id":"00","seq":3,"device":"porch","label":"dog_bark","sense":"hear",
            "text":"a dog barks","confidence":0.87,"text_confidence":0.5,"in_view":false,"start":1.0,"time":12.48,
            "duration":2.88,"snippet":12,"degraded":null,"sync_error_ms":null,"surprise":null,"reason":"faded",
            "clock":{"clip":"c"}}"#;
        let line = describe("girasol/porch/event", event.as_bytes());
        assert_eq!(
            line,
            "porch event:     12.48 s  end    dog_bark          87 %  a dog barks, not in view, 2.9 s"
        );
    }

    #[test]
    fn anything_else_is_shown_bounded_and_without_control_characters() {
        assert_eq!(describe("girasol/porch/availability", b"online"), "porch availability: online");
        assert_eq!(describe("x", b"\x1b[2Jhello"), " x: [2Jhello");
        assert!(describe("g/d/event", &[b'x'; 5_000]).len() < 300);
    }
}
