//! The recipes of docs/guide/fleet.md, run as they stand there but for addresses.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use girasol::{
    clock::RealClock,
    mqtt::{Message, MqttPublisher, MqttSettings, Publisher},
};
use girasol_tests::{Broker, Subscriber, have_openssl, wait_until};

const SOON: Duration = Duration::from_secs(60);

/// The code block of the guide that has `mark` in it.
fn block(mark: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guide/fleet.md");
    let guide = std::fs::read_to_string(path).unwrap();
    let block = guide.split("```").skip(1).step_by(2).find(|block| block.contains(mark)).unwrap();
    block.split_once('\n').unwrap().1.to_owned()
}

fn settings(url: String, device: &str) -> MqttSettings {
    MqttSettings { url, device: device.into(), ..MqttSettings::default() }
}

#[test]
fn each_board_has_a_certificate_and_only_its_own_voice() {
    if !have_openssl() {
        println!("skipped: no openssl program");
        return;
    }
    let mut broker = Broker::prepare("");
    let dir = broker.dir().to_owned();
    let recipe = block("certify broker").replace("IP:192.0.2.1", "IP:127.0.0.1");
    let made = Command::new("bash").args(["-euc", &recipe]).current_dir(&dir).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::write(dir.join("acl"), block("pattern write")).unwrap();
    broker.configure(
        "require_certificate true\nuse_identity_as_username true\ncafile {dir}/fleet.pem\n\
         certfile {dir}/broker.pem\nkeyfile {dir}/broker.key\nacl_file {dir}/acl\n",
    );
    broker.restart();
    let start = |of: Option<&str>| {
        let file = |end: &str| of.map(|name| dir.join(format!("{name}.{end}")));
        let settings = MqttSettings {
            ca_file: Some(dir.join("fleet.pem")),
            client_cert_file: file("pem"),
            client_key_file: file("key"),
            ..settings(format!("mqtts://127.0.0.1:{}", broker.port()), "board-001")
        };
        MqttPublisher::start(settings, Arc::new(RealClock)).unwrap()
    };
    let board = start(Some("board-001"));
    board.publish(Message::new("girasol/board-001/event", "{}")).unwrap();
    board.publish(Message::new("girasol/board-002/event", "{}")).unwrap();
    assert!(board.flush(SOON), "{:?}\n{}", board.status(), broker.log());
    let counts = board.status().outbox;
    assert_eq!((counts.acked, counts.poison), (1, 1), "a forged event is refused");
    let stranger = start(None);
    wait_until(SOON, || stranger.status().last_fault.is_some()).unwrap();
    assert_eq!(stranger.status().connections, 0);
}

#[test]
fn a_bridge_takes_events_up_and_commands_down_and_keeps_what_the_centre_missed() {
    let mut centre = Broker::start();
    let bridge = block("connection centre");
    let bridge: Vec<_> = bridge.lines().filter(|line| !line.starts_with("bridge_cafile")).collect();
    let bridge = bridge.join("\n").replace("centre.example:8883", &format!("127.0.0.1:{}", centre.port()));
    // Without a limit on messages in flight, as these brokers have it, mosquitto 2.0.11's bridge sends a wrong CONNECT.
    let site = format!("max_inflight_messages 20\nallow_anonymous true\n{bridge}\nrestart_timeout 1\n");
    let site = Broker::start_with(&site);
    let (up, down) = (Subscriber::new(&centre, "keeper", "#"), Subscriber::new(&site, "board", "girasol/#"));
    let publisher = MqttPublisher::start(settings(site.url(), "board-042"), Arc::new(RealClock)).unwrap();
    let say = |n: &str| {
        publisher.publish(Message::new("girasol/board-042/event", n)).unwrap();
        assert!(publisher.flush(SOON));
    };
    say("before");
    let at_centre = |n: &str| {
        let topic = "plant-7/girasol/board-042/event";
        up.received().iter().filter(|r| r.topic == topic && r.payload == n).count()
    };
    wait_until(SOON, || at_centre("before") == 1).unwrap();
    let ask = ["-t", "plant-7/girasol/board-042/command/ask", "-m", "{}"];
    let port = centre.port().to_string();
    let sent = Command::new("mosquitto_pub").args(["-V", "5", "-q", "1", "-p", &port]).args(ask).status();
    assert!(sent.unwrap().success());
    down.wait(SOON, |r| r.iter().any(|r| r.topic == "girasol/board-042/command/ask"));
    // Whatever the bridge sent back would come before this. Looked at before the kill: a broker that is killed may send its
    // subscribers again what they have acknowledged.
    say("after");
    wait_until(SOON, || at_centre("after") == 1).unwrap();
    let commands = |of: &Subscriber| of.received().iter().filter(|r| r.topic.contains("/command/")).count();
    assert_eq!((commands(&up), commands(&down)), (1, 1), "a command does not go round");
    centre.kill();
    say("meanwhile");
    centre.restart();
    wait_until(SOON, || at_centre("meanwhile") >= 1).unwrap();
}
