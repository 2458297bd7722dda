//! Configuration: one TOML file, every key optional.
//!
//! Precedence: built-in defaults < bundle (thresholds) < TOML file < settings persisted by MQTT command.
//! docs/reference/config.md is [`reference`]'s output; a test holds it to the code.

mod board;
mod devices;
mod overrides;
mod reference;
mod span;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use girasol_model::{Labels, ThresholdChoice};
use serde::{Deserialize, Deserializer, Serialize};

pub use self::{
    board::BoardConfig,
    devices::{CameraConfig, MicrophoneConfig},
    overrides::{Overrides, settable},
    reference::reference,
    span::Span,
};
use crate::{
    Error, ErrorKind, Result,
    command::schedule,
    event::{EventSettings, LabelSettings, SenseSettings},
    mqtt::MqttSettings,
    outbox::OutboxSettings,
    service::credential,
};

/// Where the configuration is looked for when none is named.
pub const DEFAULT_PATH: &str = "/etc/girasol/girasol.toml";
/// No configuration is larger.
const MAX_BYTES: u64 = 1 << 20;

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// This board.
    pub device: Device,
    /// Which model.
    pub model: ModelConfig,
    /// The camera.
    pub camera: CameraConfig,
    /// The microphone.
    pub microphone: MicrophoneConfig,
    /// The broker.
    pub mqtt: Mqtt,
    /// What the broker does not have yet.
    pub outbox: Outbox,
    /// When events begin and end.
    pub events: Events,
    /// What is heard.
    #[serde(deserialize_with = "hear_table")]
    pub hear: SenseConfig,
    /// What is seen.
    #[serde(deserialize_with = "see_table")]
    pub see: SenseConfig,
    /// The board's profile and thermal governor.
    pub board: BoardConfig,
    /// When nothing is to be said.
    pub quiet: Quiet,
    /// Commands over MQTT.
    pub commands: Commands,
    /// Home Assistant.
    pub homeassistant: HomeAssistant,
    /// What must survive a restart.
    pub state: StateConfig,
    /// Logging.
    pub log: Log,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            device: Device::default(),
            model: ModelConfig::default(),
            camera: CameraConfig::default(),
            microphone: MicrophoneConfig::default(),
            mqtt: Mqtt::default(),
            outbox: Outbox::default(),
            events: Events::default(),
            hear: SenseSettings::hear().into(),
            see: SenseSettings::see().into(),
            board: BoardConfig::default(),
            quiet: Quiet::default(),
            commands: Commands::default(),
            homeassistant: HomeAssistant::default(),
            state: StateConfig::default(),
            log: Log::default(),
        }
    }
}

/// `[device]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Device {
    /// Name in topics and events.
    pub name: String,
}

impl Default for Device {
    fn default() -> Self {
        Self { name: "girasol".into() }
    }
}

/// `[model]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Directory of the bundle.
    pub bundle: PathBuf,
    /// Operating point.
    pub thresholds: ThresholdChoice,
    /// What the bundle's quantised nodes compute with.
    pub arithmetic: Arithmetic,
}

/// `model.arithmetic`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arithmetic {
    /// Integers, where the bundle has scales for them.
    #[default]
    Int8,
    /// Floating point throughout.
    F32,
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self {
            bundle: "/usr/share/girasol/bundle".into(),
            thresholds: ThresholdChoice::default(),
            arithmetic: Arithmetic::default(),
        }
    }
}

/// `[mqtt]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mqtt {
    /// `mqtt://host[:1883]` or `mqtts://host[:8883]`.
    pub url: String,
    /// First part of every topic.
    pub topic_prefix: String,
    /// MQTT client id; empty: `girasol-<device.name>`.
    pub client_id: String,
    /// User name; empty: none.
    pub username: String,
    /// File that holds the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    /// PEM file of the certificate authority; none: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert_file: Option<PathBuf>,
    /// PEM file of the client's private key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_file: Option<PathBuf>,
    /// Keep-alive interval.
    pub keep_alive: Span,
    /// Messages held in memory while the broker is away, without a state directory; the oldest are dropped and counted.
    pub queue: u32,
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            url: "mqtt://localhost:1883".into(),
            topic_prefix: "girasol".into(),
            client_id: String::new(),
            username: String::new(),
            password_file: None,
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            keep_alive: Span::from_secs(15),
            queue: 4096,
        }
    }
}

/// `[outbox]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Outbox {
    /// Size on disk.
    pub size_mib: u32,
    /// Power-cut window.
    pub sync_every: Span,
    /// Age at which an event that has not been delivered is dropped.
    pub event_age: Span,
    /// The same for `why` records.
    pub why_age: Span,
    /// Age from which an event goes to `event/replayed`.
    pub replay_after: Span,
}

impl Default for Outbox {
    fn default() -> Self {
        let (outbox, mqtt) = (OutboxSettings::default(), MqttSettings::default());
        Self {
            size_mib: 4,
            sync_every: Span::new(outbox.sync_every),
            event_age: Span::new(mqtt.event_expiry),
            why_age: Span::new(mqtt.why_expiry),
            replay_after: Span::new(mqtt.replay_after),
        }
    }
}

impl Outbox {
    fn settings(&self, directory: Option<PathBuf>, memory_messages: u32) -> OutboxSettings {
        OutboxSettings {
            directory,
            disk_bytes: (self.size_mib as usize) << 20,
            sync_every: self.sync_every.get(),
            memory_messages: memory_messages as usize,
            ..OutboxSettings::default()
        }
    }

    /// Returns the key and what is wrong.
    fn validate(&self) -> Result<(), (String, String)> {
        let fault = |key: &str, message: &str| Err((format!("outbox.{key}"), message.to_owned()));
        if !(1..=256).contains(&self.size_mib) {
            return fault("size_mib", "allowed are 1 to 256");
        }
        if !(1..=600).contains(&self.sync_every.get().as_secs()) {
            return fault("sync_every", "allowed are 1s to 10min");
        }
        if self.event_age.get().as_secs() < 1 {
            return fault("event_age", "must be at least 1s");
        }
        if self.why_age.get().as_secs() < 1 {
            return fault("why_age", "must be at least 1s");
        }
        if self.replay_after.get().as_secs() < 1 {
            return fault("replay_after", "must be at least 1s");
        }
        Ok(())
    }
}

/// `[events]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Events {
    /// An open event is updated at least this often.
    pub update_every: Span,
    /// Publish a record for every event that was raised or nearly raised, and why.
    pub why: bool,
    /// A sentence about what goes on is published this often; 0 never.
    pub caption_every: Span,
}

impl Default for Events {
    fn default() -> Self {
        Self { update_every: Span::from_secs(10), why: false, caption_every: Span::from_secs(0) }
    }
}

/// `[quiet]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quiet {
    /// IANA name of the time zone that all quiet hours are in; empty: the system's.
    pub time_zone: String,
    /// When no event begins, whatever its label.
    pub hours: Vec<String>,
}

/// `[commands]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Commands {
    /// Whether commands are taken over MQTT at all.
    pub enabled: bool,
}

/// `[homeassistant]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HomeAssistant {
    /// Whether the device announces itself.
    pub discovery: bool,
    /// First part of Home Assistant's discovery topics.
    pub prefix: String,
}

impl Default for HomeAssistant {
    fn default() -> Self {
        Self { discovery: true, prefix: "homeassistant".into() }
    }
}

/// `[state]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StateConfig {
    /// Directory of what must survive a restart; none: `$STATE_DIRECTORY`, which systemd sets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub directory: Option<PathBuf>,
}

impl StateConfig {
    /// The directory in use; `None` where nothing is kept.
    #[must_use]
    pub fn located(&self) -> Option<PathBuf> {
        self.or_systemd(std::env::var_os("STATE_DIRECTORY"))
    }

    /// systemd gives a list where a unit has several; the first is ours.
    fn or_systemd(&self, given: Option<OsString>) -> Option<PathBuf> {
        self.directory.clone().or_else(|| {
            let given = given?.into_string().ok()?;
            given.split(':').next().filter(|first| !first.is_empty()).map(PathBuf::from)
        })
    }
}

/// `[hear]` and `[see]`. What is not set comes from that sense's own defaults.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SenseConfig {
    /// Whether this sense raises events at all.
    pub enabled: bool,
    /// Whether nothing is taken in by this sense: what the device gives is thrown away at once.
    pub paused: bool,
    /// Snippets in a row below the threshold that end an event.
    pub release_snippets: u32,
    /// Least time between the end of an event and the next of the same label.
    pub cool_down: Span,
    /// An event that lasts longer is ended; a new one begins if it goes on.
    pub max_duration: Span,
    /// An open event outlives the loss of its camera or microphone for this long.
    pub hold: Span,
    /// Per label: what differs from the bundle.
    pub labels: BTreeMap<String, LabelConfig>,
}

impl From<SenseSettings> for SenseConfig {
    fn from(s: SenseSettings) -> Self {
        Self {
            enabled: s.enabled,
            paused: false,
            release_snippets: s.release_snippets,
            cool_down: Span::new(s.cooldown),
            max_duration: Span::new(s.max_duration),
            hold: Span::new(s.hold),
            labels: BTreeMap::new(),
        }
    }
}

/// A `[hear]` or `[see]` table as it is written: every key optional.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SensePatch {
    enabled: Option<bool>,
    paused: Option<bool>,
    release_snippets: Option<u32>,
    cool_down: Option<Span>,
    max_duration: Option<Span>,
    hold: Option<Span>,
    #[serde(default)]
    labels: BTreeMap<String, LabelConfig>,
}

impl SensePatch {
    fn over(self, base: SenseSettings) -> SenseConfig {
        let base = SenseConfig::from(base);
        SenseConfig {
            enabled: self.enabled.unwrap_or(base.enabled),
            paused: self.paused.unwrap_or(base.paused),
            release_snippets: self.release_snippets.unwrap_or(base.release_snippets),
            cool_down: self.cool_down.unwrap_or(base.cool_down),
            max_duration: self.max_duration.unwrap_or(base.max_duration),
            hold: self.hold.unwrap_or(base.hold),
            labels: self.labels,
        }
    }
}

fn hear_table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SenseConfig, D::Error> {
    SensePatch::deserialize(deserializer).map(|patch| patch.over(SenseSettings::hear()))
}

fn see_table<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SenseConfig, D::Error> {
    SensePatch::deserialize(deserializer).map(|patch| patch.over(SenseSettings::see()))
}

impl SenseConfig {
    fn settings(&self) -> SenseSettings {
        SenseSettings {
            enabled: self.enabled,
            release_snippets: self.release_snippets,
            cooldown: self.cool_down.get(),
            max_duration: self.max_duration.get(),
            hold: self.hold.get(),
            labels: self.labels.iter().map(|(id, label)| (id.clone(), label.settings())).collect(),
        }
    }
}

/// `[hear.labels.<label>]`, `[see.labels.<label>]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LabelConfig {
    /// Whether it raises events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
    /// Probability at which an event begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on: Option<f32>,
    /// Probability below which it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub off: Option<f32>,
    /// Snippets in a row above `on` before an event begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_snippets: Option<u32>,
    /// When it begins no event.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub quiet: Vec<String>,
}

impl LabelConfig {
    fn settings(&self) -> LabelSettings {
        LabelSettings {
            enabled: self.enabled,
            on: self.on,
            off: self.off,
            min_snippets: self.min_snippets,
            ..LabelSettings::default()
        }
    }
}

/// `[log]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Least severe level that is written.
    pub level: LogLevel,
    /// Form of the lines.
    pub format: LogFormat,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: LogLevel::Info, format: LogFormat::Text }
    }
}

/// Levels of `tracing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "tracing's own names")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// Reads `path`; without one, [`DEFAULT_PATH`] if it exists, else the defaults.
    pub fn load(path: Option<&Path>) -> Result<Self> {
        match path {
            Some(path) => Self::read(path),
            None if Path::new(DEFAULT_PATH).exists() => Self::read(Path::new(DEFAULT_PATH)),
            None => Ok(Self::default()),
        }
    }

    fn read(path: &Path) -> Result<Self> {
        let size = std::fs::metadata(path).map_err(|e| Error::io(path, e))?.len();
        if size > MAX_BYTES {
            return Err(Error::new(
                ErrorKind::Config,
                format!("{}: larger than {MAX_BYTES} bytes", path.display()),
            ));
        }
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Parses `text`; `file` names it in errors, which are one line: file, line, key, what is wrong.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        let config: Self = toml::from_str(text).map_err(|e| {
            let (line, key) = e.span().map_or((1, String::new()), |span| locate(text, span.start));
            let message = e.message().trim().replace('\n', " ");
            let key = if key.is_empty() { key } else { format!("key `{key}`: ") };
            Error::new(ErrorKind::Config, format!("{file}:{line}: {key}{message}"))
        })?;
        config.validate().map_err(|(key, message)| {
            let line = find_line(text, &key);
            Error::new(ErrorKind::Config, format!("{file}:{line}: key `{key}`: {message}"))
        })?;
        Ok(config)
    }

    /// What the types cannot say; returns the key and what is wrong.
    fn validate(&self) -> Result<(), (String, String)> {
        let plain = |s: &str| {
            (1..=64).contains(&s.len())
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let fault = |key: &str, message: &str| Err((key.to_owned(), message.to_owned()));
        if !plain(&self.device.name) {
            return fault("device.name", "use 1 to 64 of the characters a-z A-Z 0-9 _ - .");
        }
        self.camera.validate().map_err(|(key, message)| (format!("camera.{key}"), message.to_owned()))?;
        let prefix = &self.mqtt.topic_prefix;
        if prefix.is_empty()
            || prefix.len() > 128
            || prefix.contains(['+', '#', '\0'])
            || prefix.starts_with('/')
        {
            return fault(
                "mqtt.topic_prefix",
                "use 1 to 128 characters without `+` and `#`, not starting with `/`",
            );
        }
        if !(self.mqtt.url.starts_with("mqtt://") || self.mqtt.url.starts_with("mqtts://")) {
            return fault("mqtt.url", "must start with mqtt:// or mqtts://, like mqtt://localhost:1883");
        }
        let prefix = &self.homeassistant.prefix;
        if prefix.is_empty() || prefix.len() > 64 || !crate::mqtt::is_topic(prefix) || prefix.starts_with('$')
        {
            return fault("homeassistant.prefix", "use 1 to 64 characters without `+` and `#`");
        }
        if let Err(what) = schedule::time_zone(&self.quiet.time_zone) {
            return fault("quiet.time_zone", &what);
        }
        if let Err(what) = schedule::parse_all(&self.quiet.hours) {
            return fault("quiet.hours", &what);
        }
        let caption = self.events.caption_every.get();
        if !caption.is_zero() && caption.as_secs() < 2 {
            return fault("events.caption_every", "allowed are 0s (never) and 2s or more");
        }
        if !(16..=100_000).contains(&self.mqtt.queue) {
            return fault("mqtt.queue", "allowed are 16 to 100000 messages");
        }
        if !(5..=3600).contains(&self.mqtt.keep_alive.get().as_secs()) {
            return fault("mqtt.keep_alive", "allowed are 5s to 1h");
        }
        if let Err((key, message)) = self.board.validate() {
            return fault(key, message);
        }
        self.outbox.validate()?;
        for (name, sense) in [("hear", &self.hear), ("see", &self.see)] {
            if !(1..=60).contains(&sense.release_snippets) {
                return fault(&format!("{name}.release_snippets"), "allowed are 1 to 60 snippets");
            }
            if sense.max_duration.get().as_secs() < 1 {
                return fault(&format!("{name}.max_duration"), "must be at least 1s");
            }
            for (id, label) in &sense.labels {
                let key = |leaf: &str| format!("{name}.labels.{id}.{leaf}");
                for (leaf, value) in [("on", label.on), ("off", label.off)] {
                    if value.is_some_and(|v| !(v > 0.0 && v < 1.0)) {
                        return fault(&key(leaf), "allowed is a number between 0 and 1");
                    }
                }
                if matches!((label.on, label.off), (Some(on), Some(off)) if off > on) {
                    return fault(&key("off"), "must not be above `on`");
                }
                if let Err(what) = schedule::parse_all(&label.quiet) {
                    return fault(&key("quiet"), &what);
                }
                if label.min_snippets.is_some_and(|n| !(1..=60).contains(&n)) {
                    return fault(&key("min_snippets"), "allowed are 1 to 60 snippets");
                }
            }
        }
        Ok(())
    }

    /// What the MQTT client needs to know.
    #[must_use]
    pub fn mqtt_settings(&self) -> MqttSettings {
        let some = |text: &String| (!text.is_empty()).then(|| text.clone());
        let mqtt = &self.mqtt;
        MqttSettings {
            url: mqtt.url.clone(),
            client_id: some(&mqtt.client_id),
            prefix: mqtt.topic_prefix.clone(),
            device: self.device.name.clone(),
            username: some(&mqtt.username),
            password_file: mqtt.password_file.clone().or_else(|| credential("mqtt-password")),
            ca_file: mqtt.ca_file.clone(),
            client_cert_file: mqtt.client_cert_file.clone(),
            client_key_file: mqtt.client_key_file.clone(),
            keep_alive: mqtt.keep_alive.get(),
            outbox: self.outbox.settings(self.state.located(), mqtt.queue),
            replay_after: self.outbox.replay_after.get(),
            event_expiry: self.outbox.event_age.get(),
            why_expiry: self.outbox.why_age.get(),
            ..MqttSettings::default()
        }
    }

    /// What the event engine needs to know.
    #[must_use]
    pub fn event_settings(&self) -> EventSettings {
        EventSettings {
            thresholds: self.model.thresholds,
            hear: self.hear.settings(),
            see: self.see.settings(),
            update_every: self.events.update_every.get(),
            why: self.events.why,
            ..EventSettings::default()
        }
    }

    /// Refuses a label that the bundle does not know. `path` is where the configuration was read from, as in
    /// [`Self::load`]: the error names file, line and key.
    pub fn check_labels(&self, labels: &Labels, path: Option<&Path>) -> Result<()> {
        for (name, sense, known) in
            [("hear", &self.hear, &labels.audible), ("see", &self.see, &labels.visible)]
        {
            let Some(unknown) = sense.labels.keys().find(|id| known.iter().all(|l| l.id != **id)) else {
                continue;
            };
            let file = path.unwrap_or(Path::new(DEFAULT_PATH));
            let text = std::fs::read_to_string(file).unwrap_or_default();
            let key = format!("{name}.labels.{unknown}");
            let (line, file) = (find_table(&text, &key), file.display());
            let known: Vec<_> = known.iter().map(|l| l.id.as_str()).collect();
            let what = format!("{file}:{line}: key `{key}`: the bundle has no such label");
            return Err(Error::new(ErrorKind::Config, what).help(format!("it has {}", known.join(", "))));
        }
        Ok(())
    }
}

/// Line number (from 1) and dotted key at byte `at` of a TOML text, for error messages.
fn locate(text: &str, at: usize) -> (usize, String) {
    let at = at.min(text.len());
    let line = text[..at].matches('\n').count() + 1;
    let mut table = String::new();
    for l in text.lines().take(line) {
        let l = l.trim();
        if let Some(name) = l.strip_prefix('[').and_then(|l| l.split(']').next()) {
            table = name.trim_start_matches('[').trim().to_owned();
        }
    }
    let own = text.lines().nth(line - 1).and_then(|l| l.split_once('=')).map(|(k, _)| k.trim().to_owned());
    let key = match (table.is_empty(), own) {
        (_, None) => table,
        (true, Some(own)) => own,
        (false, Some(own)) => format!("{table}.{own}"),
    };
    (line, key)
}

/// The first line of the table `key` or of a key in it; 1 if it is not written in the usual form.
fn find_table(text: &str, key: &str) -> usize {
    let mut at = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let here = locate(text, at).1;
        if here.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
            return number + 1;
        }
        at += line.len();
    }
    1
}

/// The line that sets the dotted `key`; 1 if it is not set in the usual form.
fn find_line(text: &str, key: &str) -> usize {
    let mut at = 0;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if line.contains('=') && locate(text, at).1 == key {
            return number + 1;
        }
        at += line.len();
    }
    1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn error(text: &str) -> String {
        Config::parse(text, "girasol.toml").unwrap_err().to_string()
    }

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(Config::parse("", "x").unwrap(), Config::default());
    }

    #[test]
    fn a_sense_keeps_its_own_defaults_for_what_is_not_set() {
        let config = Config::parse("[see]\nenabled = false\n", "x").unwrap();
        assert_eq!(config.see, SenseConfig { enabled: false, ..SenseSettings::see().into() });
        assert_eq!(config.hear, SenseSettings::hear().into());
    }

    #[test]
    fn unknown_keys_name_file_line_and_what_is_allowed() {
        let e = error("[device]\nname = \"porch\"\n\n[hear]\ncooldown = \"2s\"\n");
        assert!(e.starts_with("girasol.toml:5: key `hear.cooldown`: unknown field `cooldown`"), "{e}");
        assert!(e.contains("`cool_down`"), "{e}");
        assert!(!e.contains('\n'));
    }

    #[test]
    fn wrong_units_are_explained() {
        let e = error("[see]\ncool_down = \"2 parsecs\"\n");
        assert!(e.starts_with("girasol.toml:2: key `see.cool_down`:"), "{e}");
        assert!(e.contains("ms, s, min, h"), "{e}");
        let e = error("[see]\ncool_down = 2\n");
        assert!(e.contains("like \"5s\""), "{e}");
    }

    #[test]
    fn values_out_of_range_name_their_line() {
        let e = error("[mqtt]\nurl = \"http://broker\"\n");
        assert_eq!(
            e,
            "girasol.toml:2: key `mqtt.url`: must start with mqtt:// or mqtts://, like mqtt://localhost:1883"
        );
        let e = error("[hear.labels.dog_bark]\nenabled = true\non = 1.5\n");
        assert_eq!(e, "girasol.toml:3: key `hear.labels.dog_bark.on`: allowed is a number between 0 and 1");
        let e = error("[model]\nthresholds = \"loose\"\n");
        assert!(e.contains("low_false_alarm") && e.contains("best_f1") && e.contains(":2:"), "{e}");
    }

    #[test]
    fn there_is_one_directory_of_state() {
        let located = |text: &str, given: Option<&str>| {
            Config::parse(text, "x").unwrap().state.or_systemd(given.map(Into::into))
        };
        assert_eq!(located("", None), None);
        assert_eq!(located("", Some("")), None);
        assert_eq!(located("", Some("/var/lib/girasol:/var/lib/other")), Some("/var/lib/girasol".into()));
        assert_eq!(located("[state]\ndirectory = \"/srv/g\"\n", Some("/x")), Some("/srv/g".into()));
    }

    #[test]
    fn a_missing_file_is_named() {
        let e = Config::load(Some(Path::new("/nonexistent/girasol.toml"))).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Unavailable);
        assert!(e.to_string().contains("/nonexistent/girasol.toml"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,200}") {
            let _ = Config::parse(&text, "x");
        }

        #[test]
        fn errors_are_one_line(key in "[a-z_\\[\\]\\.\n\"=]{0,40}") {
            if let Err(e) = Config::parse(&key, "x") {
                prop_assert!(!e.to_string().contains('\n'), "{}", e);
            }
        }
    }
}
