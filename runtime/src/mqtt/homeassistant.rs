//! Home Assistant's MQTT device discovery: one retained message that describes the device and all its entities.
//!
//! <https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload>; what is sent is held against
//! docs/reference/schemas/homeassistant.json, which was written from that page. An entity that is no longer wanted stays
//! in the message with nothing but its platform, which removes it from Home Assistant, whenever that next looks.

use std::fmt::Write as _;

use girasol_model::{Label, Labels};
use serde_json::{Map, Value, json};

use super::{Message, Topics};
use crate::{Result, config::Config, event::Sense};

/// The topic on which Home Assistant says that it is back, below its prefix; a retained message is not waited for.
pub const BIRTH: &str = "status";
/// Its payload then.
pub const ONLINE: &[u8] = b"online";

/// What the message is about, beside the configuration.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Version of the program.
    pub version: &'a str,
    /// Labels of the bundle.
    pub labels: &'a Labels,
}

/// The discovery message of the device that `config` describes.
///
/// # Errors
/// [`ErrorKind::Config`](crate::ErrorKind::Config) when prefix and device make no topic.
pub fn discovery(config: &Config, about: &About<'_>) -> Result<Message> {
    let id = object_id(&config.device.name);
    let topics = Topics::new(&config.mqtt.topic_prefix, &config.device.name)?;
    let mut entities = Entities { id: id.clone(), topics: topics.clone(), all: Map::new() };
    for sense in [Sense::Hear, Sense::See] {
        entities.of_sense(config, sense, about.labels);
    }
    entities.diagnostics();
    if config.commands.enabled {
        entities.controls();
    }
    let body = json!({
        "dev": { "ids": [id], "name": config.device.name, "mf": "girasol", "mdl": "Edge audio-video events",
                 "sw": about.version },
        "o": { "name": "girasol", "sw": about.version, "url": env!("CARGO_PKG_REPOSITORY") },
        "avty_t": topics.availability(),
        "qos": 1,
        "cmps": entities.all,
    });
    Message::json(topic(config), &body).map(Message::retained)
}

/// Where it is published.
#[must_use]
pub fn topic(config: &Config) -> String {
    format!("{}/device/{}/config", config.homeassistant.prefix, object_id(&config.device.name))
}

/// Letters, digits, `_` and `-` are all that Home Assistant takes; anything else becomes its number.
fn object_id(device: &str) -> String {
    device.bytes().fold(String::from("girasol_"), |mut id, byte| {
        if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
            id.push(char::from(byte));
        } else {
            let _ = write!(id, "-{byte:02x}");
        }
        id
    })
}

struct Entities {
    id: String,
    topics: Topics,
    all: Map<String, Value>,
}

impl Entities {
    fn add(&mut self, key: &str, platform: &str, name: &str, rest: Value) {
        let mut entity = json!({ "p": platform, "uniq_id": format!("{}_{key}", self.id), "name": name });
        if let (Value::Object(entity), Value::Object(rest)) = (&mut entity, rest) {
            entity.extend(rest);
        }
        self.all.insert(key.to_owned(), entity);
    }

    fn remove(&mut self, key: &str, platform: &str) {
        self.all.insert(key.to_owned(), json!({ "p": platform }));
    }

    fn of_sense(&mut self, config: &Config, sense: Sense, labels: &Labels) {
        let (tag, verb, title, list, of) = match sense {
            Sense::Hear => ("hear", "Hears", "Heard", &labels.audible, &config.hear),
            Sense::See => ("see", "Sees", "Seen", &labels.visible, &config.see),
        };
        let enabled = |label: &Label| {
            of.enabled && of.labels.get(&label.id).and_then(|own| own.enabled).unwrap_or(label.enabled)
        };
        let chosen: Vec<_> = list.iter().filter(|l| enabled(l)).map(|l| l.id.clone()).collect();
        if chosen.is_empty() {
            self.remove(tag, "event");
        } else {
            // An empty result is ignored; Home Assistant wants `event_type` in the payload.
            let template = format!(
                "{{% if value_json.type == 'new' and value_json.sense == '{tag}' %}}\
                 {{{{ dict(value_json, event_type=value_json.label) | tojson }}}}{{% endif %}}"
            );
            let event = json!({ "stat_t": self.topics.event(), "event_types": chosen, "val_tpl": template });
            self.add(tag, "event", title, event);
        }
        // Without word of it for three intervals an event is over, whatever became of the device.
        let off_delay = config.events.update_every.get().as_secs() * 3 + 5;
        for label in list {
            self.of_label(tag, verb, label, enabled(label), off_delay, config.commands.enabled);
        }
    }

    fn of_label(&mut self, tag: &str, verb: &str, label: &Label, on: bool, off_delay: u64, commands: bool) {
        let Label { id, name, .. } = label;
        let (sensor, number, switch) =
            (format!("{tag}_{id}"), format!("{tag}_{id}_on"), format!("{tag}_{id}_enabled"));
        let template = format!(
            "{{% if value_json.label == '{id}' and value_json.sense == '{tag}' %}}\
             {{{{ 'OFF' if value_json.type == 'end' else 'ON' }}}}{{% endif %}}"
        );
        if on {
            let mut entity =
                json!({ "stat_t": self.topics.event(), "val_tpl": template, "off_dly": off_delay });
            if tag == "hear" {
                entity["dev_cla"] = "sound".into();
            }
            self.add(&sensor, "binary_sensor", &format!("{verb} {name}"), entity);
        } else {
            self.remove(&sensor, "binary_sensor");
        }
        if commands && on {
            let entity = json!({
                "stat_t": self.topics.state(), "val_tpl": format!("{{{{ value_json.{tag}.{id}.on }}}}"),
                "cmd_t": self.topics.command("set"),
                "cmd_tpl": format!("{{\"key\":\"{tag}.labels.{id}.on\",\"value\":{{{{ value }}}}}}"),
                "min": 0.01, "max": 0.99, "step": 0.01, "mode": "box", "ent_cat": "config", "en": false,
            });
            self.add(&number, "number", &format!("{verb} {name}: threshold"), entity);
        } else {
            self.remove(&number, "number");
        }
        if commands {
            let key = format!("{tag}.labels.{id}.enabled");
            let template = format!("{{{{ 'ON' if value_json.{tag}.{id}.enabled else 'OFF' }}}}");
            self.switch(&switch, &format!("{verb} {name}: enabled"), &key, (true, false), &template);
        } else {
            self.remove(&switch, "switch");
        }
    }

    /// A switch that sets `key` to the first value when on and to the second when off.
    fn switch(&mut self, entity: &str, name: &str, key: &str, (on, off): (bool, bool), template: &str) {
        let payload = |value: bool| json!({ "key": key, "value": value }).to_string();
        let rest = json!({
            "stat_t": self.topics.state(), "val_tpl": template, "stat_on": "ON", "stat_off": "OFF",
            "cmd_t": self.topics.command("set"), "pl_on": payload(on), "pl_off": payload(off), "ent_cat": "config",
        });
        self.add(entity, "switch", name, rest);
    }

    fn controls(&mut self) {
        let paused = |key: &str| format!("{{{{ 'OFF' if value_json.settings['{key}'] else 'ON' }}}}");
        self.switch("listen", "Listen", "hear.paused", (false, true), &paused("hear.paused"));
        self.switch("look", "Look", "see.paused", (false, true), &paused("see.paused"));
        let why = "{{ 'ON' if value_json.settings['events.why'] else 'OFF' }}";
        self.switch("debug", "Explain decisions", "events.why", (true, false), why);
        let response = self.topics.response();
        let asked = |member: &str| {
            format!(
                "{{{{ value_json.result.{member} if value_json.command == 'ask' and value_json.ok else this.state }}}}"
            )
        };
        let question = json!({
            "cmd_t": self.topics.command("ask"), "cmd_tpl": "{{ {'question': value} | tojson }}", "max": 200,
            "stat_t": response, "val_tpl": asked("question"),
        });
        self.add("question", "text", "Question", question);
        self.add("answer", "sensor", "Answer", json!({ "stat_t": response, "val_tpl": asked("answer") }));
        let ask = json!({ "question": "is anyone speaking?" }).to_string();
        let ask = json!({ "cmd_t": self.topics.command("ask"), "pl_prs": ask });
        self.add("ask_speaking", "button", "Is anyone speaking?", ask);
        for (key, name) in [("self_test", "Self-test"), ("reload", "Read the configuration again")] {
            let press = json!({ "cmd_t": self.topics.command(key), "pl_prs": "{}", "ent_cat": "config", "en": false });
            self.add(key, "button", name, press);
        }
    }

    fn diagnostics(&mut self) {
        let state = self.topics.state();
        let mut sensor = |key: &str, name: &str, path: &str, more: Value| {
            let template = format!("{{{{ value_json.{path} }}}}");
            let mut rest = json!({ "stat_t": state, "val_tpl": template, "ent_cat": "diagnostic" });
            if let (Value::Object(rest), Value::Object(more)) = (&mut rest, more) {
                rest.extend(more);
            }
            self.add(key, "sensor", name, rest);
        };
        let measured = |unit: &str| json!({ "unit_of_meas": unit, "stat_cla": "measurement" });
        let counted = || json!({ "stat_cla": "total_increasing", "en": false });
        sensor("camera", "Camera", "camera", json!({}));
        sensor("microphone", "Microphone", "microphone", json!({}));
        sensor("bundle", "Model bundle", "bundle.version", json!({}));
        sensor(
            "realtime_factor",
            "Real-time factor",
            "realtime_factor",
            json!({ "stat_cla": "measurement" }),
        );
        sensor("memory", "Memory", "rss_kib", measured("KiB"));
        sensor("drift", "Clock drift of the microphone", "drift_ppm", measured("ppm"));
        sensor("queued", "Messages waiting", "counters.queued", json!({ "stat_cla": "measurement" }));
        sensor("skipped", "Snippets skipped", "counters.skipped", counted());
        sensor("dropped", "Messages dropped", "counters.dropped", counted());
        sensor("reconnects", "Reconnections", "counters.reconnects", counted());
        let mut temperature = measured("°C");
        temperature["dev_cla"] = "temperature".into();
        // Without a board there is none; Home Assistant logs a warning for each look into nothing.
        sensor("temperature", "Temperature", "board.temperature if value_json.board else None", temperature);
        let surprise = json!({ "stat_t": self.topics.surprise(), "val_tpl": "{{ value_json.surprise }}",
            "stat_cla": "measurement", "en": false });
        self.add("surprise", "sensor", "Surprise", surprise);
    }
}

#[cfg(test)]
mod tests {
    use girasol_model::Bundle;

    use super::{super::publisher::MAX_RETAINED_BYTES, *};

    fn components(file: &str) -> (String, Map<String, Value>) {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/bundle");
        let bundle = Bundle::open(dir, env!("CARGO_PKG_VERSION")).unwrap();
        let config = Config::parse(file, "x").unwrap();
        let message = discovery(&config, &About { version: "1", labels: &bundle.manifest().labels }).unwrap();
        assert!(
            message.retain && message.payload.len() <= MAX_RETAINED_BYTES,
            "{} bytes",
            message.payload.len()
        );
        let body: Value = serde_json::from_slice(&message.payload).unwrap();
        hold_to_schema(&body);
        (message.topic, body["cmps"].as_object().unwrap().clone())
    }

    /// Holds the message against docs/reference/schemas/homeassistant.json.
    fn hold_to_schema(body: &Value) {
        let text = include_str!("../../../docs/reference/schemas/homeassistant.json");
        let schema: Value = serde_json::from_str(text).unwrap();
        let validator = jsonschema::draft202012::new(&schema).unwrap();
        let faults: Vec<_> =
            validator.iter_errors(body).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(faults.is_empty(), "{faults:#?}");
        // Each entity has an id of its own.
        let entities = body["cmps"].as_object().unwrap();
        let ids: std::collections::BTreeSet<_> =
            entities.values().filter_map(|e| e["uniq_id"].as_str()).collect();
        assert_eq!(ids.len(), entities.values().filter(|e| e.get("uniq_id").is_some()).count());
    }

    #[test]
    fn without_commands_there_is_nothing_to_operate() {
        let (topic, all) = components("[device]\nname = \"porch.1\"\n");
        assert_eq!(topic, "homeassistant/device/girasol_porch-2e1/config");
        let operable = |e: &&Value| e.get("cmd_t").is_some();
        assert_eq!(all.values().filter(operable).count(), 0);
        assert_eq!(all["hear_dog_bark"]["p"], "binary_sensor");
        assert_eq!(all["hear_dog_bark_on"], json!({"p": "number"}));
    }

    #[test]
    fn commands_bring_switches_numbers_and_questions() {
        let (topic, all) = components("[commands]\nenabled = true\n[homeassistant]\nprefix = \"ha\"\n");
        assert_eq!(topic, "ha/device/girasol_girasol/config");
        assert_eq!(all["listen"]["pl_off"], r#"{"key":"hear.paused","value":true}"#);
        assert_eq!(all["question"]["cmd_t"], "girasol/girasol/command/ask");
        let template = all["hear_dog_bark_on"]["cmd_tpl"].as_str().unwrap();
        let sent: Value = serde_json::from_str(&template.replace("{{ value }}", "0.5")).unwrap();
        assert_eq!(sent, json!({"key": "hear.labels.dog_bark.on", "value": 0.5}));
    }

    #[test]
    fn a_label_switched_off_loses_its_entities_but_not_its_switch() {
        let (_, all) = components("[commands]\nenabled = true\n[hear.labels.dog_bark]\nenabled = false\n");
        assert_eq!(all["hear_dog_bark"], json!({"p": "binary_sensor"}));
        assert_eq!(all["hear_dog_bark_on"], json!({"p": "number"}));
        assert_eq!(all["hear_dog_bark_enabled"]["p"], "switch");
        let types = all["hear"]["event_types"].as_array().unwrap();
        assert!(!types.contains(&json!("dog_bark")) && types.contains(&json!("cough")));
    }

    #[test]
    fn with_the_longest_names_and_every_label_the_message_is_still_taken() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/bundle");
        let bundle = Bundle::open(dir, env!("CARGO_PKG_VERSION")).unwrap();
        let labels = &bundle.manifest().labels;
        let all = [("hear", &labels.audible), ("see", &labels.visible)];
        let enabled = all.iter().flat_map(|(sense, labels)| {
            labels.iter().map(move |l| format!("[{sense}.labels.{}]\nenabled = true\n", l.id))
        });
        // Each dot of the name takes three characters in an id.
        let (name, prefix) = (".".repeat(64), "p".repeat(128 - 65));
        let head = format!(
            "[device]\nname = \"{name}\"\n[mqtt]\ntopic_prefix = \"{prefix}\"\n[commands]\nenabled = true\n"
        );
        let (_, entities) = components(&(head + &enabled.collect::<String>()));
        assert!(entities.values().all(|e| e.get("uniq_id").is_some()), "every entity is there");
    }

    #[test]
    fn a_sense_switched_off_has_no_events() {
        let (_, all) = components("[see]\nenabled = false\n");
        assert_eq!(all["see"], json!({"p": "event"}));
        assert_eq!(all["see_person"], json!({"p": "binary_sensor"}));
    }
}
