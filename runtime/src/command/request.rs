//! Requests as they come and responses as they go.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::event::Sense;

/// No request is larger.
pub const MAX_REQUEST_BYTES: usize = 4_096;
/// No id is longer.
const MAX_ID_BYTES: usize = 64;
/// No question is longer.
const MAX_QUESTION_BYTES: usize = 200;

/// Names of the commands: the last level of the topic.
pub const COMMANDS: [&str; 8] = ["pause", "resume", "set", "unset", "debug", "self_test", "reload", "ask"];

/// A command that makes sense.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Take nothing in by this sense, or by either.
    Pause(Option<Sense>),
    /// Take in again.
    Resume(Option<Sense>),
    /// Change a setting.
    Set {
        /// Its dotted key, as in the configuration file.
        key: String,
        /// Its value, as in the configuration file.
        value: Value,
    },
    /// Go back to what file, bundle or default say.
    Unset {
        /// The setting's dotted key.
        key: String,
    },
    /// Switch `why` records.
    Debug(bool),
    /// Run the bundle's golden snippets.
    SelfTest,
    /// Read the configuration file again.
    Reload,
    /// Answer a question from the last minute.
    Ask(String),
}

/// Why a command was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// For programs.
    pub code: FaultCode,
    /// For people: what is wrong and what to do.
    pub text: String,
}

/// Sort of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultCode {
    /// Not a JSON object, or not with these members.
    Malformed,
    /// Larger than [`MAX_REQUEST_BYTES`].
    TooLarge,
    /// There is no such command.
    UnknownCommand,
    /// A setting or value that is not allowed.
    Invalid,
    /// A command must not be retained.
    Retained,
    /// Too many commands.
    RateLimited,
    /// Too many questions under way.
    Busy,
    /// The setting could not be saved, and is not in force.
    NotSaved,
    /// Nothing was heard or seen in the last minute.
    NoData,
    /// It was tried and failed.
    Failed,
    /// No answer came in time.
    TimedOut,
}

impl Fault {
    pub(super) fn new(code: FaultCode, text: impl Into<String>) -> Self {
        Self { code, text: crate::event::bounded(&text.into(), 300) }
    }
}

/// A response on its way to whoever asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// Where to; `None` is the device's `response` topic.
    pub topic: Option<String>,
    /// Goes back as it came.
    pub correlation: Option<Vec<u8>>,
    /// JSON (docs/reference/schemas/response.json).
    pub payload: Vec<u8>,
}

/// A request taken apart: its id, if it has one, and the command or what is wrong with it.
///
/// # Errors
/// In the second part: what is answered in place of carrying it out.
pub fn parse(name: &str, payload: &[u8]) -> (Option<String>, Result<Command, Fault>) {
    if payload.len() > MAX_REQUEST_BYTES {
        let text = format!("{} bytes; at most {MAX_REQUEST_BYTES} are taken", payload.len());
        return (None, Err(Fault::new(FaultCode::TooLarge, text)));
    }
    let mut body = match object(payload) {
        Ok(body) => body,
        Err(fault) => return (None, Err(fault)),
    };
    match body.remove("id") {
        None | Some(Value::Null) => (None, command(name, body)),
        Some(Value::String(id)) if id.len() <= MAX_ID_BYTES => (Some(id), command(name, body)),
        Some(_) => {
            let text = format!("`id` must be a text of at most {MAX_ID_BYTES} bytes");
            (None, Err(Fault::new(FaultCode::Malformed, text)))
        }
    }
}

fn object(payload: &[u8]) -> Result<Map<String, Value>, Fault> {
    if payload.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    match serde_json::from_slice(payload) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(Fault::new(FaultCode::Malformed, "not a JSON object")),
        Err(e) => Err(Fault::new(FaultCode::Malformed, format!("not JSON: {e}"))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfSense {
    sense: Option<Sense>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Setting {
    key: String,
    value: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Switch {
    on: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    question: String,
}

fn command(name: &str, body: Map<String, Value>) -> Result<Command, Fault> {
    match name {
        "pause" => members::<OfSense>(body).map(|of| Command::Pause(of.sense)),
        "resume" => members::<OfSense>(body).map(|of| Command::Resume(of.sense)),
        "set" => members::<Setting>(body).map(|Setting { key, value }| Command::Set { key, value }),
        "unset" => members::<Key>(body).map(|Key { key }| Command::Unset { key }),
        "debug" => members::<Switch>(body).map(|switch| Command::Debug(switch.on)),
        "self_test" => members::<Nothing>(body).map(|_| Command::SelfTest),
        "reload" => members::<Nothing>(body).map(|_| Command::Reload),
        "ask" => members::<Question>(body).and_then(|Question { question }| {
            let question = question.trim();
            if question.is_empty() || question.len() > MAX_QUESTION_BYTES {
                let text = format!("`question` must have 1 to {MAX_QUESTION_BYTES} bytes");
                return Err(Fault::new(FaultCode::Invalid, text));
            }
            Ok(Command::Ask(question.to_owned()))
        }),
        _ => Err(Fault::new(FaultCode::UnknownCommand, format!("there are {}", COMMANDS.join(", ")))),
    }
}

fn members<T: DeserializeOwned>(body: Map<String, Value>) -> Result<T, Fault> {
    serde_json::from_value(Value::Object(body)).map_err(|e| Fault::new(FaultCode::Malformed, e.to_string()))
}

/// The payload of a response.
pub(super) fn payload(device: &str, name: &str, id: Option<&str>, outcome: &Result<Value, Fault>) -> Vec<u8> {
    // The name comes from the topic and may be anything.
    let name = crate::event::bounded(name, 64);
    let mut body = json!({ "v": 1, "device": device, "command": name, "id": id, "ok": outcome.is_ok() });
    match outcome {
        Ok(result) => body["result"] = result.clone(),
        Err(fault) => body["error"] = json!({ "code": fault.code, "text": fault.text }),
    }
    body.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn code(name: &str, payload: &str) -> FaultCode {
        parse(name, payload.as_bytes()).1.unwrap_err().code
    }

    #[test]
    fn commands_are_read() {
        let ok = |name, payload: &str| parse(name, payload.as_bytes()).1.unwrap();
        assert_eq!(ok("pause", ""), Command::Pause(None));
        assert_eq!(ok("resume", r#"{"sense":"hear"}"#), Command::Resume(Some(Sense::Hear)));
        assert_eq!(ok("ask", r#"{"question":" anyone there? "}"#), Command::Ask("anyone there?".into()));
        assert_eq!(ok("unset", r#"{"key":"a.b"}"#), Command::Unset { key: "a.b".into() });
        assert_eq!(parse("debug", br#"{"id":"7","on":true}"#), (Some("7".into()), Ok(Command::Debug(true))));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert_eq!(code("pause", "[1]"), FaultCode::Malformed);
        assert_eq!(code("pause", "{"), FaultCode::Malformed);
        assert_eq!(code("pause", r#"{"sense":"smell"}"#), FaultCode::Malformed);
        assert_eq!(code("pause", r#"{"id":7}"#), FaultCode::Malformed);
        assert_eq!(code("debug", r#"{"on":true,"of":1}"#), FaultCode::Malformed);
        assert_eq!(code("ask", r#"{"question":" "}"#), FaultCode::Invalid);
        assert_eq!(code("format_disk", "{}"), FaultCode::UnknownCommand);
        assert_eq!(code("ask", &" ".repeat(MAX_REQUEST_BYTES + 1)), FaultCode::TooLarge);
        assert_eq!(code("ask", &"[".repeat(MAX_REQUEST_BYTES)), FaultCode::Malformed);
    }

    /// The published schema and the parser take and refuse the same.
    #[test]
    fn the_published_schema_says_what_is_taken() {
        let text = include_str!("../../../docs/reference/schemas/command.json");
        let schema: Value = serde_json::from_str(text).unwrap();
        let mut defined: Vec<_> = schema["$defs"].as_object().unwrap().keys().map(String::as_str).collect();
        defined.sort_unstable();
        let mut commands = COMMANDS;
        commands.sort_unstable();
        assert_eq!(defined, commands);
        let values = [
            json!(null),
            json!(true),
            json!(7),
            json!("hear"),
            json!(" "),
            json!("x".repeat(201)),
            json!([]),
        ];
        let (mut taken, mut refused) = (0, 0);
        for name in COMMANDS {
            let mut of = json!({ "$ref": format!("#/$defs/{name}") });
            of["$defs"] = schema["$defs"].clone();
            let validator = jsonschema::draft202012::new(&of).unwrap();
            let members = ["id", "sense", "key", "value", "on", "question", "more"];
            let one = members.iter().flat_map(|&member| values.iter().map(move |v| vec![(member, v)]));
            let two = values.iter().flat_map(|v| values.iter().map(move |w| vec![("key", v), ("value", w)]));
            for pairs in one.chain(two).chain([vec![]]) {
                let body: Map<_, _> = pairs.into_iter().map(|(k, v)| (k.to_owned(), v.clone())).collect();
                let body = Value::Object(body);
                let outcome = parse(name, body.to_string().as_bytes()).1;
                assert_eq!(validator.is_valid(&body), outcome.is_ok(), "{name} {body}: {outcome:?}");
                *if outcome.is_ok() { &mut taken } else { &mut refused } += 1;
            }
        }
        assert!(taken > 20 && refused > 20, "{taken} taken, {refused} refused");
    }

    proptest! {
        #[test]
        fn nothing_panics_and_faults_are_one_bounded_line(name in "[a-z_]{0,12}", bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let (id, outcome) = parse(&name, &bytes);
            prop_assert!(id.is_none_or(|id| id.len() <= MAX_ID_BYTES));
            if let Err(fault) = outcome {
                prop_assert!(fault.text.len() <= 300 && !fault.text.contains('\n'));
            }
        }
    }
}
