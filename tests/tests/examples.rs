//! The examples in docs/examples that can be run here: against a real mosquitto, with the real publisher.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use girasol::{
    clock::RealClock,
    mqtt::{Message, MqttPublisher, MqttSettings, Publisher, Topics},
};
use girasol_tests::{Broker, wait_until};
use serde_json::json;

const SOON: Duration = Duration::from_secs(30);
/// For Node-RED to start.
const LONG: Duration = Duration::from_secs(120);

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples").join(name)
}

/// A consumer under way; ended when dropped.
struct Consumer(Child);

impl Drop for Consumer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(command: &mut Command, out: &Path) -> Consumer {
    let out = File::create(out).unwrap();
    Consumer(command.stdin(Stdio::null()).stdout(out).stderr(Stdio::null()).spawn().unwrap())
}

fn publisher(broker: &Broker) -> MqttPublisher {
    let settings = MqttSettings { url: broker.url(), device: "porch".into(), ..MqttSettings::default() };
    MqttPublisher::start(settings, Arc::new(RealClock)).unwrap()
}

fn event(kind: &str, seq: u32) -> Message {
    let body = json!({"v": 1, "type": kind, "id": "0f", "seq": seq, "device": "porch", "label": "dog_bark",
        "sense": "hear", "text": "a dog barks", "confidence": 0.5, "start": 1.0, "duration": 2.88});
    Message::json(Topics::new("girasol", "porch").unwrap().event(), &body).unwrap()
}

/// The broker tells in its log that somebody has subscribed.
fn subscribed(broker: &Broker, filter: &str) {
    wait_until(SOON, || broker.log().contains(filter)).unwrap();
}

#[test]
fn the_shell_line_shows_events() {
    let broker = Broker::start();
    let out = broker.dir().join("out");
    let mut command = Command::new("bash");
    // `exec` in the script makes mosquitto_sub the child that is ended.
    let consumer =
        start(command.arg(example("subscribe.sh")).args(["127.0.0.1", &broker.port().to_string()]), &out);
    subscribed(&broker, "girasol/+/event");
    let publisher = publisher(&broker);
    publisher.publish(event("new", 0)).unwrap();
    assert!(publisher.flush(SOON));
    wait_until(SOON, || fs::read_to_string(&out).unwrap().contains("a dog barks")).unwrap();
    assert!(fs::read_to_string(&out).unwrap().starts_with("girasol/porch/event {"));
    drop(consumer);
}

/// Needs paho-mqtt 2, which is not required of those who build girasol.
#[test]
fn the_python_client_and_the_recorder_take_each_event_once() {
    let paho = "import paho.mqtt, sys; sys.exit(not paho.mqtt.__version__ >= '2')";
    if !Command::new("python3").args(["-c", paho]).stderr(Stdio::null()).status().unwrap().success() {
        println!("skipped: no paho-mqtt 2");
        return;
    }
    let broker = Broker::start();
    let (port, out, db) =
        (broker.port().to_string(), broker.dir().join("out"), broker.dir().join("events.db"));
    let python = || Command::new("python3");
    let printer = start(python().arg("-u").arg(example("events.py")).args(["--port", &port]), &out);
    subscribed(&broker, "girasol/+/event");
    let recorder = start(
        python().arg(example("record.py")).arg(&db).args(["--port", &port]),
        &broker.dir().join("none"),
    );
    subscribed(&broker, "girasol/+/event/replayed");
    let publisher = publisher(&broker);
    for message in [event("new", 0), event("new", 0), event("end", 1)] {
        publisher.publish(message).unwrap();
    }
    assert!(publisher.flush(SOON));
    wait_until(SOON, || fs::read_to_string(&out).unwrap().contains("end ")).unwrap();
    assert_eq!(
        fs::read_to_string(&out).unwrap(),
        "porch: new    dog_bark: a dog barks\nporch: end    dog_bark: a dog barks\n"
    );
    let query = "import sqlite3, sys; d = sqlite3.connect(sys.argv[1]); \
                 print(d.execute('SELECT count(*) FROM messages').fetchone(), d.execute('SELECT * FROM events').fetchall())";
    let kept = || {
        let kept = python().args(["-c", query]).arg(&db).output().unwrap();
        String::from_utf8(kept.stdout).unwrap()
    };
    wait_until(SOON, || kept().starts_with("(2,)")).unwrap();
    assert!(kept().contains("('porch', '0f', 'dog_bark', 'hear', 0.5, 1.0, 2.88, None)"), "{}", kept());
    drop((printer, recorder));
}

/// With `GIRASOL_NODE_RED`, the folder of a Node-RED (`make test-node-red` makes one); without, nothing is tried.
#[test]
fn the_node_red_flow_passes_on_what_is_new_and_chosen_and_nothing_else() {
    let Some(folder) = std::env::var_os("GIRASOL_NODE_RED") else {
        println!("GIRASOL_NODE_RED is not set: Node-RED itself is not tried");
        return;
    };
    let broker = Broker::start();
    let (out, flows) = (broker.dir().join("out"), broker.dir().join("flows.json"));
    // As shipped, but for the broker's address and that the debug node prints.
    let flow = fs::read_to_string(example("node-red.json")).unwrap();
    let flow = flow.replace("\"1883\"", &format!("\"{}\"", broker.port()));
    let flow =
        flow.replace("\"localhost\"", "\"127.0.0.1\"").replace("\"console\": false", "\"console\": true");
    fs::write(&flows, flow).unwrap();
    let mut command = Command::new("node");
    command.arg(Path::new(&folder).join("red.js")).arg("--userDir").arg(broker.dir().join("user"));
    command.args(["--port", "0", "-D", "uiHost=127.0.0.1", "-D", "disableEditor=true"]).arg(&flows);
    let flow = start(&mut command, &out);
    wait_until(LONG, || broker.log().contains("girasol/+/event")).unwrap();
    let publisher = publisher(&broker);
    let said = |kind, seq, label: &str, text: &str| {
        let mut message = event(kind, seq);
        let mut body: serde_json::Value = serde_json::from_slice(&message.payload).unwrap();
        (body["label"], body["text"]) = (label.into(), text.into());
        message.payload = body.to_string().into();
        publisher.publish(message).unwrap();
    };
    said("new", 0, "dog_bark", "a dog barks");
    said("new", 1, "glass_break", "glass breaks");
    said("end", 2, "glass_break", "glass breaks no more");
    said("new", 3, "alarm", "an alarm sounds");
    assert!(publisher.flush(SOON));
    let shown = || -> Vec<String> {
        let out = fs::read_to_string(&out).unwrap();
        out.lines().filter_map(|line| Some(line.split_once("[debug:text] ")?.1.to_owned())).collect()
    };
    wait_until(LONG, || shown().len() >= 2).unwrap();
    assert_eq!(shown(), ["glass breaks", "an alarm sounds"]);
    drop(flow);
}
