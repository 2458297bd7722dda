//! Many boards on one mosquitto: the real publisher and event engine, synthetic scores. `make test` starts 20 of them,
//! `make test-fleet` 500 (`FLEET_BOARDS`).
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test: it may panic, and says what it measured"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
    time::Duration,
};

use girasol::{
    clock::{MonoTime, RealClock},
    event::{
        ClockWall, EndReason, EventEngine, EventIdentity, EventSettings, Origin, Scores, Silent, SnippetInfo,
    },
    mqtt::{Message, MqttPublisher, MqttSettings, Publisher, Topics},
};
use girasol_model::{Bundle, Manifest};
use girasol_tests::{Broker, Received, Subscriber, bundle, keeps_to_schema};
use serde_json::Value;

/// A minute of life each.
const SNIPPETS: i64 = 64;
const PATIENCE: Duration = Duration::from_secs(300);

/// Every client may write below its own name only, as in docs/guide/fleet.md; subscribers read.
const BROKER: &str = "allow_anonymous true\nacl_file {dir}/acl\n";
const ACL: &str = "pattern write girasol/%c/#\ntopic read girasol/#\n";

struct Board {
    name: String,
    topics: Topics,
    engine: EventEngine,
    publisher: MqttPublisher,
    said: Vec<String>,
    bytes: usize,
}

impl Board {
    fn start(number: usize, url: &str, manifest: &Manifest) -> Self {
        let name = format!("board-{number:03}");
        let wall = Box::new(ClockWall(Arc::new(RealClock)));
        let origin = Origin::Live { boot_id: format!("boot-{number}"), wall };
        let identity = EventIdentity { device: name.clone(), origin };
        let engine = EventEngine::new(manifest, EventSettings::default(), identity).unwrap();
        let settings = MqttSettings {
            url: url.into(),
            device: name.clone(),
            client_id: Some(name.clone()),
            ..MqttSettings::default()
        };
        let publisher = MqttPublisher::start(settings, Arc::new(RealClock)).unwrap();
        let topics = Topics::new("girasol", &name).unwrap();
        Self { name, topics, engine, publisher, said: Vec::new(), bytes: 0 }
    }

    /// One snippet: each board hears something of its own, on and off.
    fn step(&mut self, index: i64, number: usize, manifest: &Manifest) {
        let labels = &manifest.labels;
        let mut audible = vec![0.01; labels.audible.len()];
        let enabled: Vec<_> = (0..audible.len()).filter(|&n| labels.audible[n].enabled).collect();
        if (index + i64::try_from(number).unwrap()) % 16 < 6 {
            audible[enabled[number % enabled.len()]] = 0.999;
        }
        let (visible, source) = (vec![0.01; labels.visible.len()], vec![0.5; labels.audible.len()]);
        let start = MonoTime(index * 960_000_000);
        let info = SnippetInfo {
            index: index.unsigned_abs(),
            start,
            end: MonoTime(start.0 + 960_000_000),
            dt: 0.96,
            audio_present: true,
            frames_present: 2,
            sync_error_ms: Some(1.0),
        };
        let scores = Scores { audible: &audible, visible: &visible, source: &source, surprise: None };
        let mut events = Vec::new();
        self.engine.step(&info, &scores, &mut Silent, &mut |e| events.push(e));
        if index + 1 == SNIPPETS {
            self.engine.finish(EndReason::Shutdown, info.end, &mut |e| events.push(e));
        }
        for event in events {
            let message = Message::json(self.topics.event(), &event).unwrap();
            self.bytes += message.payload.len() + message.topic.len();
            self.said.push(String::from_utf8(message.payload.clone()).unwrap());
            self.publisher.publish(message.expires_after(Duration::from_secs(3_600))).unwrap();
        }
    }
}

/// A field of `/proc/<pid>/status` in KiB, or the processor seconds of `/proc/<pid>/stat`.
fn resident_kib(pid: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

fn cpu_seconds(pid: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // User and system time in clock ticks of a hundredth of a second, as Linux has them on every architecture we build for.
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn events(received: &[Received]) -> Vec<&Received> {
    received.iter().filter(|r| r.topic.ends_with("/event")).collect()
}

fn boards_wanted() -> usize {
    std::env::var("FLEET_BOARDS").ok().and_then(|n| n.parse().ok()).unwrap_or(20)
}

/// Five hundred need some 3 000 file descriptors.
#[test]
fn boards_keep_apart_and_every_event_arrives_once() {
    let wanted = boards_wanted();
    let mut broker = Broker::prepare(BROKER);
    fs::write(broker.dir().join("acl"), ACL).unwrap();
    broker.restart();
    let seen = Subscriber::new(&broker, "keeper", "girasol/+/event");
    let halves = ["left", "right"].map(|name| Subscriber::new(&broker, name, "$share/pool/girasol/+/event"));
    let manifest = Bundle::open(bundle(), env!("CARGO_PKG_VERSION")).unwrap().manifest().clone();

    let before = (resident_kib("self"), cpu_seconds("self"));
    let url = broker.url();
    let mut boards: Vec<_> = (0..wanted).map(|n| Board::start(n, &url, &manifest)).collect();
    for board in &boards {
        assert!(board.publisher.wait_connected(PATIENCE), "{}: {:?}", board.name, board.publisher.status());
    }
    let connected = (resident_kib("self"), cpu_seconds("self"));
    for index in 0..SNIPPETS {
        for (number, board) in boards.iter_mut().enumerate() {
            board.step(index, number, &manifest);
        }
    }
    for board in &boards {
        assert!(board.publisher.flush(PATIENCE), "{}: {:?}", board.name, board.publisher.status());
    }
    let done = (resident_kib("self"), cpu_seconds("self"));
    // One board speaks with another's voice: the broker refuses, and nobody hears it.
    let foreign = Message::new(boards[1].topics.event(), "{\"forged\":true}");
    boards[0].publisher.publish(foreign).unwrap();
    assert!(boards[0].publisher.flush(PATIENCE));
    assert_eq!(boards[0].publisher.status().outbox.poison, 1);

    let total: usize = boards.iter().map(|b| b.said.len()).sum();
    assert!(total > wanted * 4, "{total}");
    let received = seen.wait(PATIENCE, |r| events(r).len() >= total);
    let mut heard = BTreeMap::<String, Vec<String>>::new();
    let mut ids = BTreeSet::new();
    for message in events(&received) {
        let event: Value = serde_json::from_str(&message.payload).unwrap();
        // Making the validator anew each time takes longer than everything else here.
        if ids.len() < 200 {
            assert!(keeps_to_schema("event", &event).is_empty(), "{event}");
        }
        let device = event["device"].as_str().unwrap_or_default().to_owned();
        assert_eq!(message.topic, format!("girasol/{device}/event"), "cross-talk");
        assert!(
            ids.insert((device.clone(), event["id"].to_string(), event["seq"].to_string())),
            "twice: {event}"
        );
        heard.entry(device).or_default().push(message.payload.clone());
    }
    for board in &boards {
        assert!(board.said.len() >= 4, "{} has little to say: {:?}", board.name, board.said);
        assert_eq!(heard.get(&board.name), Some(&board.said), "{}: all, in order", board.name);
    }
    let across: BTreeSet<_> = boards.iter().flat_map(|b| &b.said).collect();
    assert_eq!(across.len(), total, "no two boards say the same");
    // A shared subscription: each message went to one of the two.
    let count = || halves.iter().map(|h| events(&h.received()).len()).collect::<Vec<_>>();
    let _ = halves[0].wait(PATIENCE, |_| count().iter().sum::<usize>() >= total);
    let shares = count();
    assert_eq!(shares.iter().sum::<usize>(), total, "{shares:?}");

    let (messages, bytes) = (total as f64, boards.iter().map(|b| b.bytes).sum::<usize>() as f64);
    println!(
        "{wanted} boards, {total} messages, shared {shares:?}: per board {:.0} KiB and {:.2} ms of CPU to connect; per message \
         {:.0} bytes of topic and payload, {:.0} us of CPU for event, queue, TCP and acknowledgement; {:.0} KiB a board at the end",
        (connected.0 - before.0) / wanted as f64,
        (connected.1 - before.1) * 1e3 / wanted as f64,
        bytes / messages,
        (done.1 - connected.1) * 1e6 / messages,
        (done.0 - before.0) / wanted as f64,
    );
}
