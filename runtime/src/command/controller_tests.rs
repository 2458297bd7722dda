use std::sync::{
    Mutex,
    atomic::{AtomicI64, Ordering},
};

use girasol_model::Bundle;

use super::*;
use crate::{Error, ErrorKind, event::Sentence, model::Answer};

/// Keeps in memory, or fails.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<(Overrides, bool)>>);

impl Store for Memory {
    fn load(&mut self) -> Result<Overrides> {
        let kept = self.0.lock().unwrap();
        if kept.1 { Err(Error::new(ErrorKind::Data, "damaged")) } else { Ok(kept.0.clone()) }
    }

    fn save(&mut self, overrides: &Overrides) -> Result<()> {
        let mut kept = self.0.lock().unwrap();
        if kept.1 {
            return Err(Error::new(ErrorKind::Io, "commands.json: no space left on device"));
        }
        kept.0.clone_from(overrides);
        Ok(())
    }
}

struct Bench {
    controller: Controller,
    control: Arc<Control>,
    store: Memory,
    wall: Arc<AtomicI64>,
    now: MonoTime,
}

fn labels() -> Labels {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/bundle");
    Bundle::open(dir, env!("CARGO_PKG_VERSION")).unwrap().manifest().labels.clone()
}

impl Bench {
    fn new(file: &str) -> Self {
        Self::over(file, Memory::default())
    }

    fn over(file: &str, store: Memory) -> Self {
        let (control, wall) = (Arc::new(Control::default()), Arc::new(AtomicI64::new(0)));
        let read = |text: &str| (Config::parse(text, "girasol.toml").unwrap(), Config::written(text));
        let (config, written) = read(file);
        let clock = Arc::clone(&wall);
        let setup = Setup {
            device: "porch".into(),
            labels: labels(),
            file: config,
            written,
            store: Box::new(store.clone()),
            control: Arc::clone(&control),
            reload: Box::new(move || Ok(read("[events]\nwhy = true\n[mqtt]\nqueue = 99\n"))),
            wall: Box::new(move || Some(clock.load(Ordering::SeqCst)).filter(|ms| *ms > 0)),
        };
        let controller = Controller::new(setup, MonoTime(0)).unwrap();
        Self { controller, control, store, wall, now: MonoTime(0) }
    }

    fn send(&mut self, name: &str, payload: &str) -> Option<Response> {
        // Slow enough for the rate limit.
        self.now = self.now + Duration::from_secs(1);
        let (name, payload) = (name.to_owned(), payload.as_bytes().to_vec());
        self.controller.handle(Incoming { name, payload, ..Incoming::default() }, self.now)
    }

    /// Sends a command that is answered at once.
    fn ask(&mut self, name: &str, payload: &str) -> Value {
        value(&self.send(name, payload).unwrap())
    }

    fn configured(&self) -> Live {
        match self.control.next_order(|o| matches!(o, Order::Configure(_))) {
            Some(Order::Configure(live)) => *live,
            other => panic!("{other:?}"),
        }
    }
}

fn value(response: &Response) -> Value {
    serde_json::from_slice(&response.payload).unwrap()
}

fn code(value: &Value) -> &str {
    assert_eq!(value["ok"], false, "{value}");
    value["error"]["code"].as_str().unwrap()
}

#[test]
fn a_pause_is_in_force_at_once_saved_and_survives_a_restart() {
    let mut bench = Bench::new("");
    assert!(!bench.configured().paused.hear);
    let done = bench.ask("pause", r#"{"id":"1","sense":"hear"}"#);
    assert_eq!(done["result"], json!({"hear": true, "see": false}), "{done}");
    assert_eq!((&done["id"], &done["command"]), (&json!("1"), &json!("pause")));
    assert_eq!(bench.control.paused(), Paused { hear: true, see: false });
    assert!(bench.configured().paused.hear);
    let again = Bench::over("", bench.store.clone());
    assert_eq!(again.control.paused(), Paused { hear: true, see: false });
    assert_eq!(again.control.standing().origins["hear.paused"], "command");
    let mut again = again;
    assert_eq!(again.ask("resume", "")["result"], json!({"hear": false, "see": false}));
    assert_eq!(again.control.paused(), Paused::default());
}

#[test]
fn the_latest_word_counts_and_every_origin_is_told() {
    let mut bench = Bench::new("[hear.labels.dog_bark]\non = 0.7\n[events]\nwhy = true\n");
    let origin = |bench: &Bench, key: &str| bench.control.standing().origins.get(key).cloned();
    assert_eq!(origin(&bench, "hear.labels.dog_bark.on").as_deref(), Some("file"));
    assert_eq!(origin(&bench, "events.why").as_deref(), Some("file"));
    assert_eq!(origin(&bench, "hear.paused").as_deref(), Some("default"));
    let set = bench.ask("set", r#"{"key":"hear.labels.dog_bark.on","value":0.9}"#);
    assert_eq!(set["result"]["origin"], "command");
    assert_eq!(bench.control.standing().hear["dog_bark"].on, 0.9);
    let live = bench.configured();
    assert_eq!(live.events.hear.labels["dog_bark"].on, Some(0.9));
    let unset = bench.ask("unset", r#"{"key":"hear.labels.dog_bark.on"}"#);
    assert_eq!(
        (&unset["result"]["origin"], bench.control.standing().hear["dog_bark"].on),
        (&json!("file"), 0.7)
    );
    let _ = bench.ask("set", r#"{"key":"hear.labels.cough.enabled","value":false}"#);
    assert!(!bench.control.standing().hear["cough"].enabled);
    let unset = bench.ask("unset", r#"{"key":"hear.labels.cough.enabled"}"#);
    assert_eq!(
        unset["result"],
        json!({"key": "hear.labels.cough.enabled", "value": null, "origin": "bundle"})
    );
    assert!(bench.control.standing().hear["cough"].enabled);
}

#[test]
fn what_makes_no_sense_changes_nothing_and_says_why() {
    let mut bench = Bench::new("");
    for (key, value) in [
        ("mqtt.url", "\"mqtt://evil\""),
        ("hear.labels.unicorn.on", "0.5"),
        ("hear.labels.dog_bark.on", "1.5"),
        ("hear.labels.dog_bark.on", "\"loud\""),
        ("hear.labels.dog_bark.name", "\"x\""),
        ("see.paused", "3"),
        ("quiet.hours", "[\"25:00-26:00\"]"),
        ("quiet.time_zone", "\"../../etc/passwd\""),
        ("", "1"),
    ] {
        let answer = bench.ask("set", &format!("{{\"key\":\"{key}\",\"value\":{value}}}"));
        assert_eq!(code(&answer), "invalid", "{key} {answer}");
    }
    // An `off` that would not fit the bundle's `on` is found, too.
    let _ = bench.ask("set", r#"{"key":"hear.labels.dog_bark.on","value":0.2}"#);
    let answer = bench.ask("set", r#"{"key":"hear.labels.dog_bark.off","value":0.3}"#);
    assert_eq!(code(&answer), "invalid", "{answer}");
    assert_eq!(bench.store.0.lock().unwrap().0.len(), 1);
}

#[test]
fn what_cannot_be_saved_is_not_in_force() {
    let mut bench = Bench::new("");
    let _ = bench.configured();
    bench.store.0.lock().unwrap().1 = true;
    let answer = bench.ask("pause", "");
    assert_eq!(code(&answer), "not_saved");
    assert_eq!(bench.control.paused(), Paused::default());
    assert_eq!(bench.control.next_order(|_| true), None);
}

#[test]
fn a_damaged_file_pauses_both_senses_and_a_setting_that_no_longer_fits_is_left_out() {
    let store = Memory::default();
    store.0.lock().unwrap().1 = true;
    assert_eq!(Bench::over("", store).control.paused(), Paused { hear: true, see: true });
    let store = Memory::default();
    store.0.lock().unwrap().0 = Overrides::from([
        ("hear.labels.unicorn.on".to_owned(), json!(0.5)),
        ("see.paused".to_owned(), json!(true)),
    ]);
    let bench = Bench::over("", store);
    assert_eq!(bench.control.paused(), Paused { hear: false, see: true });
    assert!(!bench.control.standing().settings.contains_key("hear.labels.unicorn.on"));
}

#[test]
fn malformed_large_unknown_and_retained_requests_have_their_codes() {
    let mut bench = Bench::new("");
    assert_eq!(code(&bench.ask("pause", "nonsense")), "malformed");
    assert_eq!(code(&bench.ask("ask", &"x".repeat(5_000))), "too_large");
    assert_eq!(code(&bench.ask("format_disk", "")), "unknown_command");
    let retained = Incoming { name: "pause".into(), retained: true, ..Incoming::default() };
    let answer = bench.controller.handle(retained, bench.now).unwrap();
    assert_eq!(code(&value(&answer)), "retained");
    assert_eq!(bench.control.paused(), Paused::default());
    assert_eq!(bench.control.standing().commands.refused, 4);
}

#[test]
fn a_repeated_request_is_carried_out_once_and_answered_again() {
    let mut bench = Bench::new("");
    let first = bench.send("debug", r#"{"id":"a","on":true}"#).unwrap();
    let _ = bench.ask("debug", r#"{"on":false}"#);
    let again = bench.send("debug", r#"{"id":"a","on":true}"#).unwrap();
    assert_eq!(first.payload, again.payload);
    assert_eq!(bench.control.standing().settings["events.why"], false, "not carried out twice");
    // Another request with the same id is another request; so is the same one much later.
    assert_eq!(bench.ask("debug", r#"{"id":"a","on":false}"#)["result"]["on"], false);
    bench.now = bench.now + RECENT * 2;
    let _ = bench.ask("debug", r#"{"id":"a","on":true}"#);
    assert_eq!(bench.control.standing().settings["events.why"], true);
    assert_eq!(bench.control.standing().commands.repeated, 1);
}

#[test]
fn a_flood_is_answered_once_and_counted() {
    let mut bench = Bench::new("");
    let send = |bench: &mut Bench| {
        let incoming = Incoming { name: "reload".into(), ..Incoming::default() };
        bench.controller.handle(incoming, MonoTime(0)).map(|r| value(&r))
    };
    assert!((0..10).all(|_| send(&mut bench).is_some_and(|v| v["ok"] == true)));
    assert_eq!(code(&send(&mut bench).unwrap()), "rate_limited");
    assert!((0..100).all(|_| send(&mut bench).is_none()));
    assert_eq!(bench.control.standing().commands.dropped, 100);
}

fn answer() -> Outcome {
    let sentence = Sentence { text: "yes".into(), confidence: 0.75 };
    let (from, to) = (MonoTime(960_000_000), MonoTime(2_880_000_000));
    Outcome::Answer(Answer { sentence, from, to, snippets: 2 })
}

#[test]
fn a_question_is_answered_when_the_report_comes() {
    let mut bench = Bench::new("");
    let incoming = Incoming {
        name: "ask".into(),
        payload: br#"{"question":"is anyone speaking?"}"#.to_vec(),
        response_topic: Some("app/7/answers".into()),
        correlation: Some(vec![0, 255]),
        ..Incoming::default()
    };
    assert_eq!(bench.controller.handle(incoming.clone(), bench.now), None);
    assert_eq!(bench.controller.handle(incoming.clone(), bench.now), None, "a repetition waits, too");
    let Some(Order::Ask { ticket, question }) = bench.control.next_order(|o| matches!(o, Order::Ask { .. }))
    else {
        panic!("no order")
    };
    assert_eq!(question, "is anyone speaking?");
    assert_eq!(bench.control.next_order(|o| matches!(o, Order::Ask { .. })), None);
    let response = bench.controller.report(Report { ticket, outcome: answer() }).unwrap();
    assert_eq!(response.topic.as_deref(), Some("app/7/answers"));
    assert_eq!(response.correlation, Some(vec![0, 255]));
    let result = &value(&response)["result"];
    assert_eq!(
        *result,
        json!({"question": "is anyone speaking?", "answer": "yes", "confidence": 0.75, "from": 0.96, "to": 2.88, "snippets": 2})
    );
    assert_eq!(bench.controller.report(Report { ticket, outcome: answer() }), None);
    assert_eq!(bench.controller.handle(incoming, bench.now).unwrap().payload, response.payload);
}

#[test]
fn questions_are_bounded_and_time_out() {
    let mut bench = Bench::new("");
    for n in 0..MAX_UNDER_WAY {
        assert_eq!(bench.send("ask", &format!("{{\"question\":\"{n}?\"}}")), None);
    }
    assert_eq!(code(&bench.ask("ask", r#"{"question":"one more?"}"#)), "busy");
    assert!(bench.controller.tick(bench.now).is_empty());
    bench.now = bench.now + PATIENCE * 2;
    let late = bench.controller.tick(bench.now);
    assert_eq!(late.len(), MAX_UNDER_WAY);
    assert!(late.iter().all(|r| code(&value(r)) == "timed_out"));
    assert_eq!(bench.send("ask", r#"{"question":"again?"}"#), None);
}

#[test]
fn no_data_and_a_failed_self_test_are_said() {
    let mut bench = Bench::new("");
    assert_eq!(bench.send("self_test", ""), None);
    assert_eq!(bench.send("ask", r#"{"question":"why?"}"#), None);
    let failed = Report { ticket: 0, outcome: Outcome::Failed("results differ".into()) };
    assert_eq!(code(&value(&bench.controller.report(failed).unwrap())), "failed");
    let nothing = Report { ticket: 1, outcome: Outcome::NoData };
    assert_eq!(code(&value(&bench.controller.report(nothing).unwrap())), "no_data");
}

#[test]
fn response_topics_that_could_give_commands_are_not_used() {
    for (topic, fine) in [
        ("app/answers", true),
        ("girasol/other/command/reload", false),
        ("homeassistant/device/x/config", false),
        ("$SYS/x", false),
        ("a/#", false),
        ("", false),
    ] {
        assert_eq!(may_respond_to(topic), fine, "{topic}");
    }
}

#[test]
fn quiet_hours_come_and_go_with_the_wall_clock_and_wait_until_it_is_set() {
    let file = "[quiet]\ntime_zone = \"Europe/Berlin\"\nhours = [\"22:00-07:00\"]\n\
                [hear.labels.dog_bark]\nquiet = [\"12:00-13:00\"]\n";
    let mut bench = Bench::new(file);
    assert!(!bench.configured().quiet);
    assert_eq!(bench.control.standing().quiet, None, "the clock has not been set");
    let at = |utc: &str| utc.parse::<jiff::Timestamp>().unwrap().as_millisecond();
    bench.wall.store(at("2026-07-14T20:30:00Z"), Ordering::SeqCst);
    let _ = bench.controller.tick(bench.now);
    assert!(bench.configured().quiet);
    assert_eq!(bench.control.standing().quiet, Some(true));
    bench.wall.store(at("2026-07-15T10:30:00Z"), Ordering::SeqCst);
    let _ = bench.controller.tick(bench.now);
    let live = bench.configured();
    let dog = labels().audible.iter().position(|l| l.id == "dog_bark").unwrap();
    assert!(!live.quiet && live.quiet_labels[dog] && live.quiet_labels.iter().filter(|q| **q).count() == 1);
    assert!(bench.control.standing().hear["dog_bark"].quiet);
}

#[test]
fn a_reload_puts_the_file_in_force_and_says_what_needs_a_restart() {
    let mut bench = Bench::new("");
    let _ = bench.ask("pause", r#"{"sense":"see"}"#);
    let done = bench.ask("reload", "");
    assert_eq!(done["result"]["needs_restart"], json!(["mqtt"]), "{done}");
    let live = bench.configured();
    assert!(live.events.why && live.paused.see, "what was set by command stays in force");
    assert_eq!(bench.control.standing().origins["events.why"], "file");
}
