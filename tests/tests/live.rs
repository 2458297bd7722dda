//! `girasol run` on a machine whose devices are not there: waiting is a state like any other.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests, in real time")]

use std::time::{Duration, Instant};

use girasol_tests::{Broker, Running, Subscriber, bundle, girasol, run, wait_until};
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
    assert!(used <= 20, "{used} ticks of 1/100 s in 4 s of waiting");

    let asked = Instant::now();
    running.terminate();
    let outcome = running.finish().success();
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}: {}", asked.elapsed(), outcome.stderr);
    let last = subscriber.wait(Duration::from_secs(10), |r| {
        r.last().is_some_and(|m| m.topic.ends_with("/availability") && m.payload == "offline")
    });
    assert!(!last.iter().any(|m| m.topic.ends_with("/event")));
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
