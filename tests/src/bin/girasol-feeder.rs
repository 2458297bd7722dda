//! A device that publishes numbered events: the real configuration, outbox and publisher, without a model. To be killed
//! and started again at will: `girasol-feeder CONFIG TOTAL RATE DIRECTORY`.
//!
//! It goes on where it stopped: `DIRECTORY/tried` says which numbers have been published, whatever became of them. How
//! things stand is written to standard output as a line of JSON, ten times a second and when the back-off changes; `saved` is the first number that
//! is not known to be on disk or acknowledged.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test program in real time"
)]

use std::{
    env, fs,
    io::{Read, Write},
    path::Path,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use girasol::{
    clock::RealClock,
    config::Config,
    mqtt::{Message, MqttPublisher, Publisher, Topics},
};
use serde_json::json;

fn main() {
    let arguments: Vec<_> = env::args().collect();
    let [_, config, total, rate, directory] = &arguments[..] else { panic!("CONFIG TOTAL RATE DIRECTORY") };
    let (total, rate): (u64, f64) = (total.parse().unwrap(), rate.parse().unwrap());
    let settings = Config::load(Some(Path::new(config))).unwrap().mqtt_settings();
    let topics = Topics::new(&settings.prefix, &settings.device).unwrap();
    let expiry = settings.event_expiry;
    let publisher = match MqttPublisher::start(settings, Arc::new(RealClock)) {
        Ok(publisher) => publisher,
        Err(e) => {
            println!("{}", json!({"error": e.to_string()}));
            std::process::exit(1);
        }
    };

    let path = Path::new(directory).join("tried");
    let mut tried = fs::OpenOptions::new().create(true).append(true).read(true).open(path).unwrap();
    let mut known = Vec::new();
    tried.read_to_end(&mut known).unwrap();
    let first = known.len() as u64;
    let (mut next, begun) = (first, Instant::now());
    let (mut said, mut backoff) = (begun, Duration::ZERO);
    loop {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few thousand events")]
        let due = first + (begun.elapsed().as_secs_f64() * rate) as u64;
        while next < total.min(due) {
            tried.write_all(b".").unwrap();
            let event = json!({"n": next, "filler": "x".repeat(300)});
            publisher.publish(Message::json(topics.event(), &event).unwrap().expires_after(expiry)).unwrap();
            next += 1;
        }
        let status = publisher.status();
        let done = next == total && status.outbox.queued == 0;
        if done || backoff != status.retry_in || said.elapsed() > Duration::from_millis(100) {
            (said, backoff) = (Instant::now(), status.retry_in);
            let fault = status.last_fault.as_ref();
            let line = json!({
                "saved": next - status.outbox.unsaved.min(next),
                "tried": next,
                "acked": status.outbox.acked,
                "queued": status.outbox.queued,
                "dropped": status.outbox.dropped + status.outbox.expired + status.outbox.poison,
                "connected": status.connected,
                "connections": status.connections,
                "fault": fault.map(|f| format!("{:?}", f.kind)),
                "fault_text": fault.map(|f| &f.text),
                "retry_in": status.retry_in.as_secs_f64(),
                "outbox_fault": status.outbox_fault,
                "disk_faults": status.outbox.disk_faults,
                "done": done,
            });
            println!("{line}");
        }
        if done {
            break;
        }
        thread::sleep(Duration::from_millis(2));
    }
    publisher.shutdown(Duration::from_secs(5));
}
