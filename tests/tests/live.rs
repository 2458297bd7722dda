//! `girasol run` on a machine whose devices are not there: waiting is a state like any other.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests, in real time, that say what they measured"
)]

use std::time::{Duration, Instant};

use girasol_tests::{Broker, Received, Running, Subscriber, bundle, girasol, run, wait_until};
use serde_json::Value;

/// A configuration whose devices are on no machine.
fn without_devices(broker: &Broker) -> String {
    format!(
        "[camera]\ndevice = \"/dev/v4l/by-id/none\"\n[microphone]\ndevice = \"hw:CARD=none\"\n\
         [mqtt]\nurl = \"{}\"\n",
        broker.url()
    )
}

/// Clock ticks that a process has used so far.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    after_name.split_whitespace().skip(11).take(2).map(|t| t.parse::<u64>().unwrap()).sum()
}

#[test]
fn without_devices_it_waits_says_so_and_ends_in_time() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(&broker, "home", "girasol/#");
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("girasol.toml");
    std::fs::write(&config, without_devices(&broker)).unwrap();
    let mut running = Running::start(girasol(["run", "--config"]).arg(&config).arg("--bundle").arg(bundle()));
    running.wait_for("/dev/v4l/by-id/none: there is no such camera now");
    running.wait_for("hw:CARD=none: there is no such microphone now");
    let received =
        subscriber.wait(Duration::from_secs(60), |r| r.iter().any(|m| m.topic.ends_with("/state")));
    let state = received.iter().find(|m| m.topic.ends_with("/state")).unwrap();
    let state: Value = serde_json::from_str(&state.payload).unwrap();
    assert_eq!((&state["camera"], &state["microphone"]), (&"waiting".into(), &"waiting".into()));
    assert_eq!(state["shedding"], Value::Bool(false));

    // Looking for devices must not cost anything worth mentioning: under 5 % of a core.
    let before = ticks(running.pid());
    let _ = wait_until(Duration::from_secs(4), || false);
    let used = ticks(running.pid()) - before;
    println!("waiting: {used} ticks of 1/100 s in 4 s");
    assert!(used <= 20, "{used} ticks of 1/100 s in 4 s of waiting");

    let asked = Instant::now();
    running.terminate();
    let outcome = running.finish().success();
    let took = asked.elapsed();
    println!("SIGTERM to the end: {took:.2?}");
    assert!(took < Duration::from_secs(2), "{took:?}: {}", outcome.stderr);
    let last = subscriber.wait(Duration::from_secs(10), |r| {
        r.last().is_some_and(|m| m.topic.ends_with("/availability") && m.payload == "offline")
    });
    assert!(!last.iter().any(|m| m.topic.ends_with("/event")));
}

/// The newest state message.
fn newest_state(received: &[Received]) -> Option<Value> {
    let state = received.iter().rev().find(|m| m.topic.ends_with("/state"))?;
    serde_json::from_str(&state.payload).ok()
}

#[test]
fn sighup_reads_the_file_again_and_keeps_the_old_settings_if_it_is_wrong() {
    let broker = Broker::start();
    let subscriber = Subscriber::new(&broker, "home", "girasol/#");
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("girasol.toml");
    let state = format!("[state]\ndirectory = \"{}\"\n", dir.path().display());
    let good = format!("{}{state}", without_devices(&broker));
    std::fs::write(&config, &good).unwrap();
    let mut running = Running::start(girasol(["run", "--config"]).arg(&config).arg("--bundle").arg(bundle()));
    let why = |received: &[Received]| newest_state(received).map(|s| s["settings"]["events.why"].clone());
    subscriber.wait(Duration::from_secs(60), |r| why(r) == Some(Value::Bool(false)));

    std::fs::write(&config, format!("{good}[events]\nwhy = 7\n")).unwrap();
    running.signal("HUP");
    running.wait_for("girasol.toml");
    running.wait_for("events.why");
    assert_eq!(why(&subscriber.received()), Some(Value::Bool(false)));

    std::fs::write(&config, format!("{good}[events]\nwhy = true\n")).unwrap();
    running.signal("HUP");
    running.wait_for("the configuration was read again");
    subscriber.wait(Duration::from_secs(10), |r| why(r) == Some(Value::Bool(true)));
    running.terminate();
    let _ = running.finish().success();
}

#[test]
fn systemd_is_told_of_readiness_progress_and_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let (config, socket) = (dir.path().join("girasol.toml"), dir.path().join("notify"));
    std::fs::write(&config, "[camera]\nenabled = false\n[microphone]\ndevice = \"hw:CARD=none\"\n").unwrap();
    let manager = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut command = girasol(["run", "--no-mqtt", "--config"]);
    command.arg(&config).arg("--bundle").arg(bundle());
    command.env("NOTIFY_SOCKET", &socket).env("WATCHDOG_USEC", "3000000");
    let running = Running::start(&mut command);
    let mut heard = Vec::new();
    let mut hear_until = |word: &str| {
        let mut buffer = [0; 4_096];
        while !heard.iter().any(|h: &String| h.contains(word)) {
            let length = manager.recv(&mut buffer).unwrap();
            heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        heard.iter().position(|h| h.contains(word)).unwrap()
    };
    let ready = hear_until("READY=1");
    assert!(hear_until("WATCHDOG=1") > ready, "the watchdog is fed by the loop, not by the start");
    running.terminate();
    hear_until("STOPPING=1");
    let _ = running.finish().success();
}

#[test]
fn devices_lists_what_there_is_even_if_that_is_nothing() {
    let outcome = run(&mut girasol(["devices"])).success();
    assert!(
        outcome.stdout.contains("cameras: ") && outcome.stdout.contains("microphones: "),
        "{}",
        outcome.stdout
    );
}

#[test]
fn check_names_a_configured_device_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("girasol.toml");
    std::fs::write(&config, "[camera]\ndevice = \"/dev/video99\"\n[microphone]\ndevice = \"hw:CARD=none\"\n")
        .unwrap();
    let outcome = run(girasol(["check", "--no-mqtt", "--config"]).arg(&config).arg("--bundle").arg(bundle()));
    assert_eq!(outcome.code, Some(69), "{}", outcome.stdout);
    assert!(
        outcome.stdout.contains("FAULT  camera: /dev/video99: there is no such camera now"),
        "{}",
        outcome.stdout
    );
    assert!(outcome.stdout.contains("FAULT  microphone: hw:CARD=none: there is no such microphone now"));
}
