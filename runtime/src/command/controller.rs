//! The state machine: requests in, settings checked, saved and put in force, responses out.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use girasol_model::{Label, Labels};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Command, Control, Fault, FaultCode, Incoming, Live, Order, Outcome, Paused, Report, Response, Store,
    Ticket,
    limit::{Limit, Verdict},
    request,
    schedule::{self, Hours},
};
use crate::{
    Result,
    clock::MonoTime,
    config::{Config, Overrides, settable},
    event::{Sense, SenseSettings},
    mqtt::{MAX_CORRELATION_BYTES, is_topic},
};

/// Responses that are remembered, so that a repeated request is not carried out twice.
const MAX_RECENT: usize = 32;
/// For how long.
const RECENT: Duration = Duration::from_secs(60);
/// Orders that may be under way.
const MAX_UNDER_WAY: usize = 4;
/// An order without a report after this is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a controller is made from.
pub struct Setup {
    /// Device name.
    pub device: String,
    /// Labels of the bundle.
    pub labels: Labels,
    /// The configuration file as it was read.
    pub file: Config,
    /// Keys that the file sets.
    pub written: BTreeSet<String>,
    /// Where settings are kept.
    pub store: Box<dyn Store>,
    /// The handle to the pipeline.
    pub control: Arc<Control>,
    /// Reads the configuration file again.
    pub reload: Box<dyn FnMut() -> Result<(Config, BTreeSet<String>)> + Send>,
    /// Milliseconds since the Unix epoch; `None` while the clock has not been set.
    pub wall: Box<dyn Fn() -> Option<i64> + Send>,
}

/// How settings stand, for the `state` topic.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Standing {
    /// Setting → value in force.
    pub settings: BTreeMap<String, Value>,
    /// Setting → where that comes from.
    pub origins: BTreeMap<String, String>,
    /// Audible label → what is in force for it.
    pub hear: BTreeMap<String, LabelState>,
    /// Visible label → what is in force for it.
    pub see: BTreeMap<String, LabelState>,
    /// Whether it is a quiet hour for all labels; null where the clock has not been set.
    pub quiet: Option<bool>,
    /// Commands so far.
    pub commands: Tally,
}

/// What is in force for a label.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LabelState {
    /// Whether it raises events.
    pub enabled: bool,
    /// Probability at which an event begins.
    pub on: f64,
    /// Probability below which it ends.
    pub off: f64,
    /// Whether it is a quiet hour of its own.
    pub quiet: bool,
}

/// Commands so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Carried out, or under way.
    pub accepted: u64,
    /// Answered with an error.
    pub refused: u64,
    /// Repetitions, answered as before.
    pub repeated: u64,
    /// Neither carried out nor answered: too many.
    pub dropped: u64,
}

/// Settings in force, made from file and overrides.
struct Effective {
    config: Config,
    zone: TimeZone,
    quiet: Vec<Hours>,
    /// Audible, then visible labels.
    quiet_labels: Vec<Vec<Hours>>,
    hear: BTreeMap<String, LabelState>,
    see: BTreeMap<String, LabelState>,
}

/// Where a response goes.
#[derive(Clone, Debug)]
struct Sender {
    name: String,
    id: Option<String>,
    topic: Option<String>,
    correlation: Option<Vec<u8>>,
}

/// A request that was seen, and its response once there is one.
struct Recent {
    request: Incoming,
    at: MonoTime,
    ticket: Option<Ticket>,
    payload: Option<Vec<u8>>,
}

struct UnderWay {
    ticket: Ticket,
    sender: Sender,
    question: Option<String>,
    since: MonoTime,
}

/// See the module's description.
pub struct Controller {
    setup: Setup,
    overrides: Overrides,
    effective: Effective,
    limit: Limit,
    recent: VecDeque<Recent>,
    under_way: Vec<UnderWay>,
    next_ticket: Ticket,
    tally: Tally,
    sent: Option<Live>,
}

impl Controller {
    /// Loads the settings made by command and puts everything in force.
    ///
    /// What was saved and no longer fits (another bundle, another version) is left out with a warning. If the file
    /// cannot be read at all, both senses start paused: it may have said just that.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) when the configuration file alone makes no sense.
    pub fn new(mut setup: Setup, now: MonoTime) -> Result<Self> {
        let loaded = setup.store.load().unwrap_or_else(|error| {
            tracing::error!(%error, "settings made by command cannot be read: both senses start paused until `resume`");
            ["hear.paused", "see.paused"].map(|key| (key.to_owned(), json!(true))).into()
        });
        let mut overrides = Overrides::new();
        for (key, value) in loaded {
            let mut more = overrides.clone();
            more.insert(key.clone(), value);
            let fits = settable(&key, &setup.labels).and_then(|()| Effective::new(&setup, &more).map(drop));
            match fits {
                Ok(()) => overrides = more,
                Err(what) => {
                    tracing::warn!(key, what, "a setting made by command no longer fits and is left out")
                }
            }
        }
        let effective = Effective::new(&setup, &overrides)
            .map_err(|what| crate::Error::new(crate::ErrorKind::Config, what))?;
        let mut controller = Self {
            limit: Limit::new(now),
            recent: VecDeque::with_capacity(MAX_RECENT),
            under_way: Vec::with_capacity(MAX_UNDER_WAY),
            next_ticket: 0,
            tally: Tally::default(),
            sent: None,
            setup,
            overrides,
            effective,
        };
        controller.put_in_force();
        Ok(controller)
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.effective.config
    }

    /// Takes a request at time `now`; a response may come at once, later from [`Self::report`] or [`Self::tick`], or,
    /// in a flood, never.
    pub fn handle(&mut self, incoming: Incoming, now: MonoTime) -> Option<Response> {
        let mut sender = Sender {
            name: incoming.name.clone(),
            id: None,
            topic: incoming.response_topic.clone().filter(|topic| may_respond_to(topic)),
            correlation: incoming.correlation.clone().filter(|c| c.len() <= MAX_CORRELATION_BYTES),
        };
        match self.limit.judge(now) {
            Verdict::Take => {}
            Verdict::Complain => {
                let fault =
                    Fault::new(FaultCode::RateLimited, "too many commands: at most 2 a second, 10 at once");
                return Some(self.respond(&sender, Err(fault)));
            }
            Verdict::Drop => {
                self.tally.dropped += 1;
                self.stand();
                return None;
            }
        }
        if incoming.retained {
            let text = "commands are not for keeping: publish without the retain flag";
            return Some(self.respond(&sender, Err(Fault::new(FaultCode::Retained, text))));
        }
        let (id, command) = request::parse(&incoming.name, &incoming.payload);
        sender.id = id;
        // Without an id or correlation data two equal requests are two requests.
        let repeatable = sender.id.is_some() || sender.correlation.is_some();
        if repeatable && let Some(known) = self.repeated(&incoming, now) {
            self.tally.repeated += 1;
            self.stand();
            let Sender { topic, correlation, .. } = sender;
            return known.map(|payload| Response { topic, correlation, payload });
        }
        let ticket = self.next_ticket;
        let response = match command.and_then(|command| self.carry_out(command, &sender, now)) {
            Ok(Some(result)) => Some(self.respond(&sender, Ok(result))),
            Ok(None) => {
                self.tally.accepted += 1;
                self.stand();
                None
            }
            Err(fault) => Some(self.respond(&sender, Err(fault))),
        };
        if repeatable {
            if self.recent.len() == MAX_RECENT {
                self.recent.pop_front();
            }
            let payload = response.as_ref().map(|r| r.payload.clone());
            let ticket = payload.is_none().then_some(ticket);
            self.recent.push_back(Recent { request: incoming, at: now, ticket, payload });
        }
        response
    }

    /// Takes the report on an order.
    pub fn report(&mut self, report: Report) -> Option<Response> {
        let place = self.under_way.iter().position(|u| u.ticket == report.ticket)?;
        let UnderWay { sender, question, .. } = self.under_way.swap_remove(place);
        let outcome = match report.outcome {
            Outcome::Answer(answer) if answer.snippets == 0 || answer.sentence.text.is_empty() => {
                Err(Fault::new(FaultCode::NoData, "no answer: the last minute was forgotten meanwhile"))
            }
            Outcome::Answer(answer) => Ok(json!({
                "question": question, "answer": answer.sentence.text,
                "confidence": rounded(answer.sentence.confidence.clamp(0.0, 1.0)),
                "from": seconds(answer.from), "to": seconds(answer.to), "snippets": answer.snippets,
            })),
            Outcome::NoData => {
                Err(Fault::new(FaultCode::NoData, "nothing was heard or seen in the last minute"))
            }
            Outcome::Tested(Some(test)) => Ok(json!({
                "snippets": test.snippets, "sentences": test.sentences,
                "max_difference": f64::from(test.max_difference), "tolerance": f64::from(test.tolerance),
            })),
            Outcome::Tested(None) => Err(Fault::new(FaultCode::Failed, "the bundle has no golden snippets")),
            Outcome::Failed(what) => Err(Fault::new(FaultCode::Failed, what)),
        };
        Some(self.settle(report.ticket, &sender, &outcome))
    }

    /// To be called at least every few seconds: quiet hours begin and end, and orders without a report are given up.
    pub fn tick(&mut self, now: MonoTime) -> Vec<Response> {
        self.put_in_force();
        let late = |u: &UnderWay| now.since(u.since) > i64::try_from(PATIENCE.as_nanos()).unwrap_or(i64::MAX);
        let mut responses = Vec::new();
        while let Some(place) = self.under_way.iter().position(late) {
            let UnderWay { ticket, sender, .. } = self.under_way.swap_remove(place);
            let text = format!("no result within {} s: the device is too busy", PATIENCE.as_secs());
            responses.push(self.settle(ticket, &sender, &Err(Fault::new(FaultCode::TimedOut, text))));
        }
        responses
    }

    fn carry_out(
        &mut self,
        command: Command,
        sender: &Sender,
        now: MonoTime,
    ) -> Result<Option<Value>, Fault> {
        match command {
            Command::Pause(sense) => self.pause(sense, true).map(Some),
            Command::Resume(sense) => self.pause(sense, false).map(Some),
            Command::Debug(on) => {
                self.change(&[("events.why".to_owned(), Some(json!(on)))])?;
                Ok(Some(json!({ "on": on })))
            }
            Command::Set { key, value } => {
                self.change(&[(key.clone(), Some(value))])?;
                Ok(Some(self.describe(&key)))
            }
            Command::Unset { key } => {
                self.change(&[(key.clone(), None)])?;
                Ok(Some(self.describe(&key)))
            }
            Command::Reload => self.reload().map(Some),
            Command::SelfTest => self.order(sender, None, now, |ticket| Order::SelfTest { ticket }),
            Command::Ask(question) => {
                let asked = question.clone();
                self.order(sender, Some(asked), now, |ticket| Order::Ask { ticket, question })
            }
        }
    }

    fn pause(&mut self, sense: Option<Sense>, paused: bool) -> Result<Value, Fault> {
        let keys = match sense {
            Some(Sense::Hear) => &["hear.paused"][..],
            Some(Sense::See) => &["see.paused"],
            None => &["hear.paused", "see.paused"],
        };
        let changes: Vec<_> = keys.iter().map(|key| ((*key).to_owned(), Some(json!(paused)))).collect();
        self.change(&changes)?;
        let Paused { hear, see } = self.setup.control.paused();
        Ok(json!({ "hear": hear, "see": see }))
    }

    /// Checks, saves and puts in force, in this order: what could not be saved is not in force either.
    fn change(&mut self, changes: &[(String, Option<Value>)]) -> Result<(), Fault> {
        let mut overrides = self.overrides.clone();
        for (key, value) in changes {
            settable(key, &self.setup.labels)
                .map_err(|what| Fault::new(FaultCode::Invalid, format!("`{key}`: {what}")))?;
            match value {
                Some(value) => _ = overrides.insert(key.clone(), value.clone()),
                None => _ = overrides.remove(key),
            }
        }
        if overrides == self.overrides {
            return Ok(());
        }
        let effective =
            Effective::new(&self.setup, &overrides).map_err(|what| Fault::new(FaultCode::Invalid, what))?;
        self.setup.store.save(&overrides).map_err(|e| Fault::new(FaultCode::NotSaved, e.to_string()))?;
        (self.overrides, self.effective) = (overrides, effective);
        self.put_in_force();
        Ok(())
    }

    fn reload(&mut self) -> Result<Value, Fault> {
        let failed = |what: String| Fault::new(FaultCode::Failed, what);
        let (file, written) = (self.setup.reload)().map_err(|e| failed(e.to_string()))?;
        let before = std::mem::replace(&mut self.setup.file, file);
        let effective = match Effective::new(&self.setup, &self.overrides) {
            Ok(effective) => effective,
            Err(what) => {
                self.setup.file = before;
                return Err(failed(what));
            }
        };
        let file = &self.setup.file;
        let restart = [
            ("device", before.device != file.device),
            ("model", before.model != file.model),
            ("camera", before.camera != file.camera),
            ("microphone", before.microphone != file.microphone),
            ("mqtt", before.mqtt != file.mqtt),
            ("outbox", before.outbox != file.outbox),
            ("board", before.board != file.board),
            ("commands", before.commands != file.commands),
            ("homeassistant", before.homeassistant != file.homeassistant),
            ("state", before.state != file.state),
            ("log", before.log != file.log),
        ];
        let restart: Vec<_> =
            restart.iter().filter(|(_, changed)| *changed).map(|(table, _)| *table).collect();
        self.setup.written = written;
        self.effective = effective;
        self.put_in_force();
        tracing::info!(needs_restart = restart.join(" "), "the configuration was read again");
        Ok(json!({ "in_force": ["events", "hear", "see", "quiet"], "needs_restart": restart }))
    }

    fn order(
        &mut self,
        sender: &Sender,
        question: Option<String>,
        now: MonoTime,
        order: impl FnOnce(Ticket) -> Order,
    ) -> Result<Option<Value>, Fault> {
        let busy = || {
            Fault::new(FaultCode::Busy, format!("{MAX_UNDER_WAY} questions are under way: ask again soon"))
        };
        if self.under_way.len() >= MAX_UNDER_WAY {
            return Err(busy());
        }
        let ticket = self.next_ticket;
        if !self.setup.control.order(order(ticket)) {
            return Err(busy());
        }
        self.next_ticket += 1;
        self.under_way.push(UnderWay { ticket, sender: sender.clone(), question, since: now });
        Ok(None)
    }

    fn put_in_force(&mut self) {
        let live = self.effective.live((self.setup.wall)());
        if self.sent.as_ref() != Some(&live) {
            self.setup.control.set_paused(live.paused);
            self.setup.control.order(Order::Configure(Box::new(live.clone())));
            self.sent = Some(live);
        }
        self.stand();
    }

    /// Says how things stand.
    fn stand(&self) {
        let mut standing = Standing {
            hear: self.effective.hear.clone(),
            see: self.effective.see.clone(),
            commands: self.tally,
            ..Standing::default()
        };
        standing.commands.dropped += self.setup.control.inbox.dropped();
        let quiet = (self.setup.wall)().is_some();
        if let Some(live) = &self.sent {
            standing.quiet = quiet.then_some(live.quiet);
            let labels = standing.hear.iter_mut().chain(standing.see.iter_mut());
            // The maps are sorted by name, the list is in the manifest's order.
            let known = &self.setup.labels;
            for (id, state) in labels {
                let place = known.audible.iter().chain(&known.visible).position(|l| l.id == *id);
                state.quiet = place.and_then(|p| live.quiet_labels.get(p)).copied().unwrap_or(false);
            }
        }
        let plain = ["hear.paused", "see.paused", "hear.enabled", "see.enabled", "events.why", "quiet.hours"];
        let plain = plain.iter().copied().chain(["quiet.time_zone", "model.thresholds", "mqtt.url"]);
        let of_labels =
            self.overrides.keys().chain(&self.setup.written).filter(|key| key.contains(".labels."));
        for key in plain.chain(of_labels.map(String::as_str)) {
            let Some(value) = self.effective.config.get(key) else { continue };
            standing.settings.insert(key.to_owned(), value);
            standing.origins.insert(key.to_owned(), self.origin(key).to_owned());
        }
        self.setup.control.stand(standing);
    }

    fn origin(&self, key: &str) -> &'static str {
        if self.overrides.contains_key(key) {
            "command"
        } else if self.setup.written.contains(key) {
            "file"
        } else if key.contains(".labels.") {
            "bundle"
        } else {
            "default"
        }
    }

    /// A setting's key, value and origin; the value is null where the bundle says it.
    fn describe(&self, key: &str) -> Value {
        json!({ "key": key, "value": self.effective.config.get(key), "origin": self.origin(key) })
    }

    /// Whether the request was seen before: its response, if there is one already.
    fn repeated(&mut self, incoming: &Incoming, now: MonoTime) -> Option<Option<Vec<u8>>> {
        let limit = i64::try_from(RECENT.as_nanos()).unwrap_or(i64::MAX);
        self.recent.retain(|r| now.since(r.at) <= limit);
        let same = |r: &&Recent| {
            let (a, b) = (&r.request, incoming);
            a.name == b.name && a.payload == b.payload && a.correlation == b.correlation
        };
        self.recent.iter().find(same).map(|r| r.payload.clone())
    }

    fn settle(&mut self, ticket: Ticket, sender: &Sender, outcome: &Result<Value, Fault>) -> Response {
        let payload = request::payload(&self.setup.device, &sender.name, sender.id.as_deref(), outcome);
        if let Some(recent) = self.recent.iter_mut().find(|r| r.ticket == Some(ticket)) {
            (recent.ticket, recent.payload) = (None, Some(payload.clone()));
        }
        if outcome.is_err() {
            (self.tally.accepted, self.tally.refused) = (self.tally.accepted - 1, self.tally.refused + 1);
        }
        self.stand();
        Response { topic: sender.topic.clone(), correlation: sender.correlation.clone(), payload }
    }

    fn respond(&mut self, sender: &Sender, outcome: Result<Value, Fault>) -> Response {
        match &outcome {
            Ok(_) => self.tally.accepted += 1,
            Err(fault) => {
                tracing::warn!(command = %crate::event::bounded(&sender.name, 64), code = ?fault.code, "{}", fault.text);
                self.tally.refused += 1;
            }
        }
        self.stand();
        let payload = request::payload(&self.setup.device, &sender.name, sender.id.as_deref(), &outcome);
        Response { topic: sender.topic.clone(), correlation: sender.correlation.clone(), payload }
    }
}

/// A response topic that could make us give commands to another device, or feed Home Assistant, is not used.
fn may_respond_to(topic: &str) -> bool {
    let harmless = |level: &str| level != "command" && level != "homeassistant";
    is_topic(topic) && !topic.starts_with('$') && topic.split('/').all(harmless)
}

impl Effective {
    fn new(setup: &Setup, overrides: &Overrides) -> Result<Self, String> {
        let config = setup.file.with(overrides)?;
        let settings = config.event_settings();
        let states = |sense: Sense,
                      own: &SenseSettings,
                      labels: &[Label]|
         -> Result<BTreeMap<String, LabelState>, String> {
            let state = |label: &Label| {
                let (gate, enabled) =
                    own.gate(sense, settings.thresholds, label).map_err(|e| e.to_string())?;
                let (on, off) = (rounded(gate.on), rounded(gate.off));
                Ok((label.id.clone(), LabelState { enabled, on, off, quiet: false }))
            };
            labels.iter().map(state).collect()
        };
        let (hear, see) = (
            states(Sense::Hear, &settings.hear, &setup.labels.audible)?,
            states(Sense::See, &settings.see, &setup.labels.visible)?,
        );
        let of = |sense: &crate::config::SenseConfig, label: &Label| {
            sense.labels.get(&label.id).map_or(Ok(Vec::new()), |own| schedule::parse_all(&own.quiet))
        };
        let heard = setup.labels.audible.iter().map(|label| of(&config.hear, label));
        let seen = setup.labels.visible.iter().map(|label| of(&config.see, label));
        let quiet_labels = heard.chain(seen).collect::<Result<_, _>>()?;
        let (zone, quiet) =
            (schedule::time_zone(&config.quiet.time_zone)?, schedule::parse_all(&config.quiet.hours)?);
        Ok(Self { config, zone, quiet, quiet_labels, hear, see })
    }

    /// What is in force at `wall`; quiet hours only where that is known.
    fn live(&self, wall: Option<i64>) -> Live {
        let quiet = |hours: &[Hours]| wall.is_some_and(|ms| schedule::is_quiet(hours, &self.zone, ms));
        Live {
            events: self.config.event_settings(),
            quiet: quiet(&self.quiet),
            quiet_labels: self.quiet_labels.iter().map(|hours| quiet(hours)).collect(),
            paused: Paused { hear: self.config.hear.paused, see: self.config.see.paused },
            caption_every: self.config.events.caption_every.get(),
        }
    }
}

fn rounded(value: f32) -> f64 {
    (f64::from(value) * 1e6).round() / 1e6
}

fn seconds(time: MonoTime) -> f64 {
    (time.as_secs_f64() * 1e3).round() / 1e3
}

#[cfg(test)]
#[path = "controller_tests.rs"]
mod tests;
