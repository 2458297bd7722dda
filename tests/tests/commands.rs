//! Commands and Home Assistant's discovery: the program, replaying in real time, operated through a real mosquitto.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test: it may panic, measures real time, and says what it measured"
)]

use std::{
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use girasol_tests::{
    Broker, Received, Running, Subscriber, bundle, eager_config, girasol, keeps_to_schema, media, wait_until,
};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(60);
/// In which a question must be answered.
const TWO_SNIPPETS: Duration = Duration::from_millis(1_920);

/// A device that replays a clip of several minutes, and somebody who sees and says things.
struct Scene {
    running: Running,
    seen: Subscriber,
    broker: Broker,
    dir: tempfile::TempDir,
}

impl Scene {
    fn start(more: &str) -> Self {
        let (broker, dir) = (Broker::start(), tempfile::tempdir().unwrap());
        let seen = Subscriber::new(&broker, "keeper", "#");
        let _ = media::write_pair(dir.path(), "clip", 150, 7);
        write_config(dir.path(), &broker, more);
        let running = run(dir.path());
        Self { running, seen, broker, dir }
    }

    /// The same device again.
    fn restart(self) -> Self {
        let Self { running, seen, broker, dir } = self;
        running.terminate();
        let _ = running.finish().success();
        let running = run(dir.path());
        Self { running, seen, broker, dir }
    }

    fn send(&self, topic: &str, payload: &str, more: &[&str]) {
        let mut command = Command::new("mosquitto_pub");
        command.args([
            "-V",
            "5",
            "-q",
            "1",
            "-p",
            &self.broker.port().to_string(),
            "-t",
            topic,
            "-m",
            payload,
        ]);
        assert!(command.args(more).status().unwrap().success());
    }

    fn on(&self, topic: &str) -> Vec<Value> {
        on(&self.seen.received(), topic)
    }

    /// Waits until something on `topic`, from the message `from` on, is as wanted.
    fn wait(&self, topic: &str, from: usize, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = |r: &[Received]| on(r, topic).into_iter().skip(from).find(&wanted);
        let received = self.seen.wait(SOON, |r| found(r).is_some());
        found(&received).unwrap()
    }

    /// Sends a command and waits for its response on the device's own topic.
    fn command(&self, name: &str, payload: &str) -> Value {
        let before = self.on("girasol/porch/response").len();
        self.send(&format!("girasol/porch/command/{name}"), payload, &[]);
        self.wait("girasol/porch/response", before, |r| r["command"] == name)
    }

    fn snippets(&self) -> usize {
        self.running.stderr().matches("\"snippet\":").count()
    }
}

fn on(received: &[Received], topic: &str) -> Vec<Value> {
    received.iter().filter(|r| r.topic == topic).map(|r| serde_json::from_str(&r.payload).unwrap()).collect()
}

fn write_config(dir: &Path, broker: &Broker, more: &str) {
    let text = format!(
        "{}\n[mqtt]\nurl = \"{}\"\n[state]\ndirectory = \"{}\"\n{more}\n",
        eager_config(2),
        broker.url(),
        dir.join("state").display()
    );
    fs::write(dir.join("girasol.toml"), text).unwrap();
}

fn run(dir: &Path) -> Running {
    let mut command = girasol(["replay", "--progress", "json", "--bundle"]);
    command.arg(bundle()).arg(dir.join("clip.y4m")).arg("--config").arg(dir.join("girasol.toml"));
    let mut running = Running::start(&mut command);
    running.wait_for("\"snippet\":");
    running
}

fn holds(schema: &str, payload: &Value) {
    let faults = keeps_to_schema(schema, payload);
    assert!(faults.is_empty(), "{schema}: {payload}: {faults:?}");
}

/// Every message that came, against the schema of its topic.
fn everything_keeps_to_its_schema(received: &[Received]) {
    let mut schemas = std::collections::BTreeSet::new();
    for message in received {
        let schema = match message.topic.strip_prefix("girasol/porch/") {
            Some("event/replayed") => "event",
            Some("availability") | None => continue,
            Some(what) if what.starts_with("command/") => continue,
            Some(what) => what,
        };
        holds(schema, &serde_json::from_str(&message.payload).unwrap());
        schemas.insert(schema.to_owned());
    }
    for needed in ["event", "state", "why", "response", "caption"] {
        assert!(schemas.contains(needed), "no message on {needed}: {schemas:?}");
    }
}

#[test]
fn a_device_is_operated_over_mqtt_and_remembers_it() {
    let caption = "[commands]\nenabled = true\n";
    let mut scene = Scene::start(caption);
    // The eager configuration has an [events] table already.
    let file = scene.dir.path().join("girasol.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("update_every = \"1s\"", "update_every = \"1s\"\ncaption_every = \"3s\""))
        .unwrap();
    let reloaded = scene.command("reload", "");
    assert_eq!(reloaded["result"]["needs_restart"], json!([]), "{reloaded}");
    let caption = scene.wait("girasol/porch/caption", 0, |_| true);
    assert!(!caption["text"].as_str().unwrap().is_empty());

    a_pause_ends_what_is_heard_and_nothing_new_is(&scene);
    a_question_is_answered_in_time(&scene);
    wrong_commands_have_their_outcomes(&scene);
    let tested = scene.command("self_test", r#"{"id":"t"}"#);
    assert_eq!((&tested["ok"], &tested["id"]), (&json!(true), &json!("t")), "{tested}");

    let states = scene.on("girasol/porch/state").len();
    let set = scene.command("set", r#"{"key":"see.labels.person.on","value":0.77}"#);
    assert_eq!(set["result"]["origin"], "command", "{set}");
    let state = scene.wait("girasol/porch/state", states, |s| s["see"]["person"]["on"] == 0.77);
    assert_eq!(state["origins"]["see.labels.person.on"], "command");

    // A restart: what was set by command is in force before anything is taken in.
    let (states, heard) = (scene.on("girasol/porch/state").len(), new_heard(&scene));
    scene = scene.restart();
    let state = scene.wait("girasol/porch/state", states, |s| s["counters"]["snippets"].as_u64() == Some(0));
    assert_eq!(
        (&state["settings"]["hear.paused"], &state["see"]["person"]["on"]),
        (&json!(true), &json!(0.77))
    );
    scene.running.wait_for("\"snippet\":4");
    assert_eq!(new_heard(&scene), heard, "nothing is heard after the restart either");
    let resumed = scene.command("resume", r#"{"sense":"hear"}"#);
    assert_eq!(resumed["result"], json!({"hear": false, "see": false}));
    let receives =
        |r: &[Received]| on(r, "girasol/porch/event").iter().filter(|e| is_new_heard(e)).count() > heard;
    everything_keeps_to_its_schema(&scene.seen.wait(SOON, receives));
}

fn is_new_heard(event: &Value) -> bool {
    event["type"] == "new" && event["sense"] == "hear"
}

fn new_heard(scene: &Scene) -> usize {
    scene.on("girasol/porch/event").iter().filter(|e| is_new_heard(e)).count()
}

fn a_pause_ends_what_is_heard_and_nothing_new_is(scene: &Scene) {
    scene.wait("girasol/porch/event", 0, is_new_heard);
    let states = scene.on("girasol/porch/state").len();
    let paused = scene.command("pause", r#"{"sense":"hear"}"#);
    assert_eq!(paused["result"], json!({"hear": true, "see": false}), "{paused}");
    let state = scene.wait("girasol/porch/state", states, |s| s["microphone"] == "muted");
    assert_eq!((&state["camera"], &state["origins"]["hear.paused"]), (&json!("healthy"), &json!("command")));
    let (events, heard) = (scene.on("girasol/porch/event").len(), new_heard(scene));
    // Sight goes on, and says that there is no sound.
    scene.wait("girasol/porch/event", events, |e| e["type"] == "new" && e["degraded"] == "video_only");
    scene.wait("girasol/porch/event", events + 6, |e| e["sense"] == "see");
    assert_eq!(new_heard(scene), heard);
    let mut open = std::collections::BTreeSet::new();
    for event in scene.on("girasol/porch/event").iter().filter(|e| e["sense"] == "hear") {
        let id = event["id"].as_str().unwrap().to_owned();
        _ = if event["type"] == "end" { open.remove(&id) } else { open.insert(id) };
    }
    assert!(open.is_empty(), "what was heard is over: {open:?}");
}

/// Within two snippets; on a machine that does other things, in one of a few tries.
fn a_question_is_answered_in_time(scene: &Scene) {
    let mut took = Vec::new();
    for _ in 0..5 {
        let before = scene.snippets();
        let answer = scene.command("ask", r#"{"question":"is anyone there?"}"#);
        took.push(scene.snippets() - before);
        let result = &answer["result"];
        assert!(result["from"].as_f64() < result["to"].as_f64(), "{answer}");
        if took.last().is_some_and(|&n| n <= 2) {
            break;
        }
    }
    assert!(took.iter().any(|&n| n <= 2), "{took:?} snippets");
    // MQTT 5: response topic and correlation data.
    let port = scene.broker.port().to_string();
    let asked = Command::new("mosquitto_rr")
        .args(["-V", "5", "-p", &port, "-q", "1", "-t", "girasol/porch/command/ask", "-e", "app/answers"])
        .args(["-D", "publish", "correlation-data", "c0ffee", "-W", "30", "-F", "%D %p"])
        .args(["-m", r#"{"question":"what is seen?"}"#])
        .output()
        .unwrap();
    let answered = String::from_utf8(asked.stdout).unwrap();
    let (correlation, payload) = answered.split_once(' ').unwrap_or_else(|| panic!("no answer: {answered}"));
    assert_eq!(correlation, "c0ffee");
    holds("response", &serde_json::from_str(payload.trim()).unwrap());
}

/// How late the snippets were done, in milliseconds after their ends, and how many were left out among them.
struct Lateness {
    median: f64,
    worst: f64,
    skipped: u64,
}

impl Scene {
    /// Of the snippets from number `from` of those reported.
    fn lateness(&self, from: usize) -> Lateness {
        let said = self.running.stderr();
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        let steps = whole.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
        let steps = steps.filter_map(|s| Some((s["snippet"].as_u64()?, s["late_ms"].as_f64()?)));
        let steps: Vec<_> = steps.skip(from).collect();
        let mut late: Vec<_> = steps.iter().map(|(_, late)| *late).collect();
        late.sort_by(f64::total_cmp);
        let span = steps.last().unwrap().0 - steps[0].0 + 1;
        let skipped = span - u64::try_from(steps.len()).unwrap();
        Lateness { median: late[late.len() / 2], worst: late[late.len() - 1], skipped }
    }

    /// Asks for as long as `snippets` last, the next question as soon as one is answered (twice a second at most: more is
    /// not listened to); returns how long each answer took.
    fn storm(&self, snippets: usize) -> Vec<Duration> {
        let mut asker = Command::new("mosquitto_pub")
            .args(["-V", "5", "-q", "1", "-p", &self.broker.port().to_string(), "-l"])
            .args(["-t", "girasol/porch/command/ask"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let mut to = asker.stdin.take().unwrap();
        let (end, mut took) = (self.snippets() + snippets, Vec::new());
        while self.snippets() < end {
            let (id, asked) = (format!("storm-{end}-{}", took.len()), Instant::now());
            writeln!(to, "{}", json!({"id": id, "question": "is anyone speaking to you?"})).unwrap();
            let answer = self.wait("girasol/porch/response", 0, |r| r["id"] == id.as_str());
            took.push(asked.elapsed());
            assert_eq!(answer["ok"], true, "{answer}");
            let _ = wait_until(Duration::from_millis(500).saturating_sub(asked.elapsed()), || false);
        }
        drop(to);
        let _ = asker.wait();
        took
    }
}

/// Beside the same program a moment before, without questions; on a machine that does other things, in one of a few tries.
/// What an answer costs on any machine is in `ask.rs`.
#[test]
fn questions_for_the_decoder_are_answered_within_two_snippets_and_cost_none() {
    const SNIPPETS: usize = 8;
    let scene = Scene::start("[commands]\nenabled = true\n");
    let good = (0..5).any(|_| {
        let from = scene.snippets();
        wait_until(SOON, || scene.snippets() >= from + SNIPPETS).unwrap();
        let (without, from) = (scene.lateness(from), scene.snippets());
        let mut took = scene.storm(SNIPPETS);
        let with = scene.lateness(from);
        took.sort();
        let (answers, median, longest) = (took.len(), took[took.len() / 2], took[took.len() - 1]);
        println!(
            "{answers} answers after {median:.1?}, at most {longest:.1?}; snippets done {:.0} ms (at most {:.0}) after their \
             ends, {:.0} (at most {:.0}) without questions; {} skipped, {} without",
            with.median, with.worst, without.median, without.worst, with.skipped, without.skipped
        );
        let in_time = longest < TWO_SNIPPETS;
        in_time && with.skipped == 0 && with.median < without.median + 100.0 && answers > 1
    });
    assert!(good);
}

fn wrong_commands_have_their_outcomes(scene: &Scene) {
    let code = |response: Value| response["error"]["code"].as_str().unwrap_or("none").to_owned();
    let patient = || std::process::Command::new("sleep").arg("0.6").status().map(drop).unwrap();
    assert_eq!(code(scene.command("ask", "nonsense")), "malformed");
    patient();
    assert_eq!(code(scene.command("ask", &"x".repeat(10_000))), "too_large");
    patient();
    assert_eq!(code(scene.command("format_disk", "")), "unknown_command");
    patient();
    assert_eq!(code(scene.command("set", r#"{"key":"mqtt.url","value":"mqtt://elsewhere"}"#)), "invalid");
    patient();
    let before = scene.on("girasol/porch/response").len();
    scene.send("girasol/porch/command/resume", "{}", &["-r"]);
    assert_eq!(code(scene.wait("girasol/porch/response", before, |r| r["command"] == "resume")), "retained");
    // The same request twice is carried out once.
    patient();
    let first = scene.command("debug", r#"{"id":"d1","on":false}"#);
    patient();
    let _ = scene.command("debug", r#"{"on":true}"#);
    patient();
    assert_eq!(scene.command("debug", r#"{"id":"d1","on":false}"#), first);
    let state = scene.wait("girasol/porch/state", 0, |s| s["commands"]["repeated"].as_u64() > Some(0));
    assert_eq!(state["settings"]["events.why"], true);
}

#[test]
fn home_assistant_finds_the_device_and_is_told_again_when_it_comes_back() {
    let topic = "homeassistant/device/girasol_porch/config";
    let scene = Scene::start("[commands]\nenabled = true\n");
    let found = scene.wait(topic, 0, |_| true);
    holds("homeassistant", &found);
    let [audible, _] = girasol_tests::labels();
    let label = &audible[0];
    let sensor = format!("hear_{label}");
    assert_eq!(found["cmps"][&sensor]["p"], "binary_sensor");
    assert!(found["cmps"][&sensor]["stat_t"] == "girasol/porch/event");

    let before = scene.on(topic).len();
    let states = scene.on("girasol/porch/state").len();
    scene.send("homeassistant/status", "online", &[]);
    assert_eq!(scene.wait(topic, before, |_| true), found);
    scene.wait("girasol/porch/state", states, |_| true);

    let before = scene.on(topic).len();
    let off = format!("{{\"key\":\"hear.labels.{label}.enabled\",\"value\":false}}");
    assert_eq!(scene.command("set", &off)["ok"], true);
    let changed = scene.wait(topic, before, |_| true);
    holds("homeassistant", &changed);
    assert_eq!(changed["cmps"][&sensor], json!({"p": "binary_sensor"}), "removed");
    let late = Subscriber::new(&scene.broker, "late", topic);
    let kept = late.wait(SOON, |r| !r.is_empty());
    assert!(kept[0].retained && on(&kept, topic) == [changed]);
}

#[test]
fn without_leave_nothing_is_taken_and_discovery_can_be_switched_off() {
    let scene = Scene::start("[homeassistant]\ndiscovery = false\n");
    scene.send("girasol/porch/command/pause", "{}", &[]);
    scene.send("girasol/porch/command/ask", r#"{"question":"anyone?"}"#, &[]);
    scene.wait("girasol/porch/event", 8, |_| true);
    assert!(scene.on("girasol/porch/response").is_empty());
    assert!(scene.on("girasol/porch/state").iter().all(|s| s["settings"]["hear.paused"] == false));
    assert!(scene.seen.received().iter().all(|r| !r.topic.starts_with("homeassistant/")));
    assert!(!scene.broker.log().contains("porch/command"), "not even subscribed");
}

/// With `GIRASOL_HOMEASSISTANT_PYTHON`, an interpreter that has Home Assistant (`make test-homeassistant` makes one), its
/// own MQTT integration takes the device in and operates it; without, nothing is tried.
#[test]
fn home_assistants_own_integration_takes_the_device_and_operates_it() {
    let Some(python) = std::env::var_os("GIRASOL_HOMEASSISTANT_PYTHON") else {
        println!("GIRASOL_HOMEASSISTANT_PYTHON is not set: Home Assistant itself is not tried");
        return;
    };
    let scene = Scene::start("[commands]\nenabled = true\n");
    let driver = concat!(env!("CARGO_MANIFEST_DIR"), "/homeassistant/drive.py");
    let port = scene.broker.port().to_string();
    let output = Command::new(python).arg(driver).arg(port).stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("Home Assistant {}", told["home_assistant"]);

    // Every entity of the message is there; what is off by default there is known and disabled.
    let sent = scene.wait("homeassistant/device/girasol_porch/config", 0, |_| true);
    let wanted: Vec<_> =
        sent["cmps"].as_object().unwrap().iter().filter(|(_, e)| e.get("uniq_id").is_some()).collect();
    assert!(wanted.len() > 50);
    for (key, entity) in &wanted {
        let known = &told["entities"][key.as_str()];
        let id =
            known["entity"].as_str().unwrap_or_else(|| panic!("Home Assistant has no `{key}`: {errors}"));
        assert_eq!(id.split('.').next(), entity["p"].as_str(), "{key}");
        assert_eq!(known["enabled"], entity.get("en") != Some(&json!(false)), "{key}");
    }
    assert_eq!(told["entities"].as_object().unwrap().len(), wanted.len());
    assert_eq!(told["listen"], "off");
    // The device itself may have heard glass meanwhile.
    let notified: Vec<_> = told["notified"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
    let of_ours = notified.iter().filter(|n| n.contains('_'));
    assert_eq!(of_ours.collect::<Vec<_>>(), [&"new glass_break (90 %)"], "{notified:?}");
    assert!(!told["answer"].as_str().unwrap().is_empty());
    let label = told["removed"].as_str().unwrap().strip_prefix("hear_").unwrap();
    let settings = scene.on("girasol/porch/state");
    assert_eq!(settings.last().unwrap()["hear"][label]["enabled"], false, "the switch reached the device");
    assert!(!errors.contains("ERROR"), "{errors}");
}
