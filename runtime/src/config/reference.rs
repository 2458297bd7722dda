//! The configuration reference, made from one table that a test holds against the types.

use std::fmt::Write as _;

use super::Config;

/// Key, type or allowed values, meaning.
const KEYS: &[(&str, &str, &str)] = &[
    ("device.name", "1–64 of `a-z A-Z 0-9 _ - .`", "Name of this board in topics and events."),
    ("model.bundle", "path", "Directory of the model bundle."),
    (
        "model.thresholds",
        "`low_false_alarm` or `best_f1`",
        "Operating point of every label: about one false alarm per hour or fewer, or the best balance.",
    ),
    (
        "model.arithmetic",
        "`int8` or `f32`",
        "What the bundle's quantised nodes compute with; `f32` is slower and a little more exact.",
    ),
    ("camera.enabled", "`true` or `false`", "Whether there is a camera to be used."),
    (
        "camera.device",
        "path or name",
        "Which camera: a name from `girasol devices` (below `/dev/v4l/by-id` or `by-path`) or a path; empty means the \
         first.",
    ),
    (
        "camera.format",
        "four characters, like `YUYV` or `MJPG`",
        "Pixel format to insist on; empty means the one that costs the least.",
    ),
    ("camera.width", "0–8192", "Width to ask for; 0 means the smallest that is large enough."),
    ("camera.height", "0–8192", "Height to ask for; given together with the width."),
    (
        "camera.fps",
        "1–60",
        "Frames a second to ask for; of what comes, only frames near the model's two instants per snippet are decoded.",
    ),
    ("camera.rotate", "0, 90, 180 or 270", "Clockwise turn of the picture in degrees."),
    (
        "camera.crop",
        "`[left, top, width, height]`, fractions 0–1",
        "The part of the camera's picture that is used, before it is turned.",
    ),
    (
        "camera.masks",
        "list of `[left, top, width, height]`",
        "Rectangles of the camera's picture that are blacked out before anything else sees it, in fractions of the \
         picture as the camera delivers it; at most 32.",
    ),
    ("microphone.enabled", "`true` or `false`", "Whether there is a microphone to be used."),
    (
        "microphone.device",
        "ALSA name",
        "Which microphone, like `hw:CARD=C920,DEV=0` from `girasol devices`; empty means the first.",
    ),
    ("mqtt.url", "`mqtt://host[:1883]` or `mqtts://host[:8883]`", "The broker."),
    ("mqtt.topic_prefix", "text", "First part of every topic."),
    (
        "mqtt.client_id",
        "text",
        "MQTT client id; empty means `girasol-<device.name>`. Must be unique at the broker.",
    ),
    ("mqtt.username", "text", "User name; empty means none."),
    (
        "mqtt.password_file",
        "path",
        "File with the password; without it, `mqtt-password` in `$CREDENTIALS_DIRECTORY` where that is not empty. This and the files below are read at each connection; a relative path is one below \
         `$CREDENTIALS_DIRECTORY` where systemd sets that.",
    ),
    ("mqtt.ca_file", "path", "Certificate authority (PEM) for `mqtts`; without it, the system's."),
    ("mqtt.client_cert_file", "path", "Client certificate chain (PEM) for `mqtts`."),
    ("mqtt.client_key_file", "path", "Client private key (PEM) for `mqtts`."),
    ("mqtt.keep_alive", "duration, 5s–1h", "Interval after which a silent connection is probed."),
    (
        "mqtt.queue",
        "16–100000",
        "Messages held in memory while the broker is away, without a state directory; when full the oldest are dropped \
         and counted.",
    ),
    (
        "outbox.size_mib",
        "1–256",
        "Size on disk, taken at once; in memory up to twice that while the broker is away. When full the oldest \
         messages are dropped and counted.",
    ),
    (
        "outbox.sync_every",
        "duration, 1s–10min",
        "A message that the broker has not acknowledged is safe from a power cut after this time; less wears the disk.",
    ),
    ("outbox.event_age", "duration, ≥ 1s", "An event that could not be delivered is dropped at this age."),
    ("outbox.why_age", "duration, ≥ 1s", "The same for `why` records."),
    (
        "outbox.replay_after",
        "duration, ≥ 1s",
        "An event that is older when it is sent goes to `event/replayed`.",
    ),
    ("events.update_every", "duration", "An open event is updated at least this often."),
    (
        "events.why",
        "`true` or `false`",
        "Publish a record for every event that was raised or nearly raised, and why.",
    ),
    ("hear.enabled", "`true` or `false`", "Whether this sense raises events at all."),
    ("hear.release_snippets", "1–60", "Snippets (0.96 s) in a row below the threshold that end an event."),
    ("hear.cool_down", "duration", "Least time between the end of an event and the next of the same label."),
    (
        "hear.max_duration",
        "duration, ≥ 1s",
        "An event that lasts longer is ended; a new one begins if it goes on.",
    ),
    ("hear.hold", "duration", "How long an open event outlives the loss of its microphone."),
    (
        "hear.labels.<label>.enabled",
        "`true` or `false`",
        "Whether this sound raises events; default from the bundle.",
    ),
    ("hear.labels.<label>.on", "0–1", "Probability at which an event begins; default from the bundle."),
    ("hear.labels.<label>.off", "0–1", "Probability below which it ends; default from the bundle."),
    (
        "hear.labels.<label>.min_snippets",
        "1–60",
        "Snippets in a row (one may be missing between two) above `on` before an event begins; at 1 a snippet and the one before count together; default from the bundle.",
    ),
    ("see.enabled", "`true` or `false`", "Whether this sense raises events at all."),
    ("see.release_snippets", "1–60", "Snippets (0.96 s) in a row below the threshold that end an event."),
    ("see.cool_down", "duration", "Least time between the end of an event and the next of the same label."),
    (
        "see.max_duration",
        "duration, ≥ 1s",
        "An event that lasts longer is ended; a new one begins if it goes on.",
    ),
    ("see.hold", "duration", "How long an open event outlives the loss of its camera."),
    (
        "see.labels.<label>.enabled",
        "`true` or `false`",
        "Whether this sight raises events; default from the bundle.",
    ),
    ("see.labels.<label>.on", "0–1", "Probability at which an event begins; default from the bundle."),
    ("see.labels.<label>.off", "0–1", "Probability below which it ends; default from the bundle."),
    (
        "see.labels.<label>.min_snippets",
        "1–60",
        "Snippets in a row (one may be missing between two) above `on` before an event begins; default from the bundle.",
    ),
    (
        "board.profile",
        "`auto`, a name or a path",
        "What is known about the board beforehand; `girasol board` shows what was recognised.",
    ),
    ("board.governor", "`true` or `false`", "Whether the load is lowered in steps when the board gets hot."),
    (
        "board.limit_c",
        "0 or 30–120",
        "Temperature at which the board slows itself down; 0: as its profile or its trip points say.",
    ),
    (
        "board.heaviest",
        "`full`, `fewer_frames`, `alternate_snippets` or `audio_only`",
        "The heaviest load ever allowed, also when it is cool.",
    ),
    (
        "hear.paused",
        "`true` or `false`",
        "Whether nothing is heard at all: samples are thrown away as they come from the device.",
    ),
    (
        "see.paused",
        "`true` or `false`",
        "Whether nothing is seen at all: frames are thrown away as they come from the device.",
    ),
    ("hear.labels.<label>.quiet", "list of times", "When this sound begins no event; see `quiet.hours`."),
    ("see.labels.<label>.quiet", "list of times", "When this sight begins no event; see `quiet.hours`."),
    (
        "events.caption_every",
        "duration, 0s or ≥ 2s",
        "Publish a sentence about what goes on this often; `0s` never. It is written between snippets.",
    ),
    (
        "quiet.hours",
        "list of times like `\"22:00-07:00\"`, `\"sat,sun 13:00-15:00\"`, `\"mon-fri 00:00-24:00\"`",
        "When no event begins. A time that ends before it begins lasts until the next day. Applied only while the clock \
         is known to be set.",
    ),
    (
        "quiet.time_zone",
        "IANA name",
        "Time zone of all quiet hours, like `Europe/Berlin`; empty means the system's.",
    ),
    (
        "commands.enabled",
        "`true` or `false`",
        "Whether commands are taken over MQTT. Whoever may publish to the command topics can then operate the device.",
    ),
    (
        "homeassistant.discovery",
        "`true` or `false`",
        "Whether the device announces itself to Home Assistant.",
    ),
    ("homeassistant.prefix", "text", "First part of Home Assistant's discovery topics."),
    (
        "state.directory",
        "path",
        "Directory of what must survive a restart: settings made by command (`commands.json`) and messages that the \
         broker does not have yet (`outbox.ring`). Without it `$STATE_DIRECTORY`, which systemd sets; without both \
         nothing is kept, and messages wait in memory. One process each.",
    ),
    ("log.level", "`error`, `warn`, `info`, `debug` or `trace`", "Least severe level that is written."),
    ("log.format", "`text` or `json`", "Form of the log lines."),
];

/// docs/reference/config.md.
#[must_use]
pub fn reference() -> String {
    let defaults = toml::Value::try_from(Config::default()).unwrap_or(toml::Value::Boolean(false));
    let mut out = String::from(
        "# Configuration reference\n\n\
         One TOML file, `/etc/girasol/girasol.toml` unless `--config` names another. Every key is optional; an empty\n\
         file is valid. Durations are a whole number with its unit: `250ms`, `5s`, `10min`, `1h`. An unknown key, a\n\
         wrong unit or a value out of range is refused with file, line, key and what is allowed.\n\n\
         This page is made by `girasol config-reference`; a test holds it to the code.\n\n\
         | key | default | allowed | meaning |\n| --- | --- | --- | --- |\n",
    );
    for (key, allowed, meaning) in KEYS {
        let default = lookup(&defaults, key).map_or_else(|| "–".to_owned(), |v| format!("`{v}`"));
        let _ = writeln!(out, "| `{key}` | {default} | {allowed} | {meaning} |");
    }
    out
}

fn lookup<'a>(value: &'a toml::Value, key: &str) -> Option<&'a toml::Value> {
    key.split('.').try_fold(value, |v, part| v.get(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(value: &toml::Value, path: &str, out: &mut Vec<String>) {
        match value.as_table() {
            Some(table) => {
                for (key, value) in table {
                    leaves(value, &format!("{path}.{key}"), out);
                }
            }
            None => out.push(path.trim_start_matches('.').to_owned()),
        }
    }

    /// Every key set, so that the optional ones are seen too.
    fn full() -> Config {
        let mut config = Config::default();
        let path = || Some("/x".into());
        config.mqtt.password_file = path();
        config.mqtt.ca_file = path();
        config.mqtt.client_cert_file = path();
        config.mqtt.client_key_file = path();
        config.state.directory = path();
        let label = super::super::LabelConfig {
            enabled: Some(true),
            on: Some(0.5),
            off: Some(0.25),
            min_snippets: Some(2),
            quiet: vec!["22:00-07:00".into()],
        };
        config.hear.labels.insert("<label>".into(), label.clone());
        config.see.labels.insert("<label>".into(), label);
        config
    }

    #[test]
    fn the_table_lists_exactly_the_keys_that_exist() {
        let mut code = Vec::new();
        leaves(&toml::Value::try_from(full()).unwrap(), "", &mut code);
        let mut table: Vec<_> = KEYS.iter().map(|(key, ..)| (*key).to_owned()).collect();
        code.sort();
        table.sort();
        assert_eq!(table, code);
    }

    #[test]
    fn the_page_is_up_to_date() {
        let page =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/config.md"));
        assert_eq!(
            page.unwrap_or_default(),
            reference(),
            "run: girasol config-reference >docs/reference/config.md"
        );
    }

    #[test]
    fn the_full_configuration_is_read_back() {
        let text = toml::to_string(&full()).unwrap();
        assert_eq!(Config::parse(&text, "x").unwrap(), full());
    }
}
