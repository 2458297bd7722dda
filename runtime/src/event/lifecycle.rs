//! Events from scores: one gate per label, and the story of each event from `new` to `end`.

use std::time::Duration;

use girasol_model::{Label, Manifest};

use super::{
    Decision, Degraded, EndReason, Event, EventIdentity, EventSettings, EventType, Gate, LabelRef,
    MAX_TEXT_BYTES, Narrator, Observation, Outcome, Permission, Scores, Sense, SnippetInfo, Why, WhyLog,
    gate::Span,
    message::{bounded, rounded, seconds},
};
use crate::{Result, clock::MonoTime};

/// Records of `why` that are kept until somebody takes them.
const WHY_RECORDS: usize = 256;

/// Turns scores into [`Event`]s. Each `new` is followed by exactly one `end`, at the latest by [`EventEngine::finish`].
pub struct EventEngine {
    tracks: Vec<Track>,
    audible: usize,
    identity: EventIdentity,
    settings: EventSettings,
    quiet: bool,
    seq: u64,
    last: Option<SnippetInfo>,
    why: WhyLog,
}

/// One label: its gate and, while an event is open, what was last said about it.
struct Track {
    label: LabelRef,
    id: String,
    name: String,
    enabled: bool,
    /// Its own quiet hours.
    quiet: bool,
    /// Whether something visible can make this sound.
    has_source: bool,
    gate: Gate,
    /// Smoothed probability that the source is in view, while frames are there.
    source: Option<f32>,
    told: Option<Told>,
}

/// What was last published about an open event.
struct Told {
    id: String,
    text: String,
    text_confidence: f32,
    confidence: f32,
    in_view: Option<bool>,
    at: MonoTime,
}

/// The message in the making: everything but the label's own part.
#[derive(Clone, Copy)]
struct Moment {
    snippet: u64,
    time: MonoTime,
    degraded: Option<Degraded>,
    sync_error_ms: Option<f32>,
    surprise: Option<f32>,
}

impl EventEngine {
    /// An engine for the labels of `manifest`.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) when the settings name an unknown label or contradict
    /// themselves.
    pub fn new(manifest: &Manifest, settings: EventSettings, identity: EventIdentity) -> Result<Self> {
        let labels = &manifest.labels;
        settings.hear.check("hear", &labels.audible)?;
        settings.see.check("see", &labels.visible)?;
        let mut tracks = Vec::with_capacity(labels.audible.len() + labels.visible.len());
        for (index, label) in labels.audible.iter().enumerate() {
            let has_source = manifest.sources.get(&label.id).is_some_and(|seen| !seen.is_empty());
            tracks.push(Track::new(LabelRef { sense: Sense::Hear, index }, label, has_source, &settings)?);
        }
        for (index, label) in labels.visible.iter().enumerate() {
            tracks.push(Track::new(LabelRef { sense: Sense::See, index }, label, true, &settings)?);
        }
        let why = WhyLog::new(if settings.why { WHY_RECORDS } else { 0 });
        let (audible, identity) = (labels.audible.len(), identity.bounded());
        Ok(Self { tracks, audible, identity, settings, quiet: false, seq: 0, last: None, why })
    }

    /// Sets the number of the next message, so that numbers go on after a restart.
    pub fn set_next_seq(&mut self, seq: u64) {
        self.seq = seq;
    }

    /// Switches quiet hours: while on, no event begins; open ones go on to their end.
    pub fn set_quiet(&mut self, quiet: bool) {
        self.quiet = quiet;
    }

    /// Sets which labels have quiet hours of their own just now; `true` in the order of the manifest's audible and
    /// then visible labels. What is missing is not quiet.
    pub fn set_quiet_labels(&mut self, quiet: &[bool]) {
        for (place, track) in self.tracks.iter_mut().enumerate() {
            track.quiet = quiet.get(place).copied().unwrap_or(false);
        }
    }

    /// Takes new settings over. Open events go on under the new numbers, those of a label switched off to their end.
    ///
    /// # Errors
    /// As [`EventEngine::new`]; then nothing is changed.
    pub fn reconfigure(&mut self, manifest: &Manifest, settings: EventSettings) -> Result<()> {
        let labels = &manifest.labels;
        settings.hear.check("hear", &labels.audible)?;
        settings.see.check("see", &labels.visible)?;
        let heard = labels.audible.iter().map(|label| (Sense::Hear, &settings.hear, label));
        let seen = labels.visible.iter().map(|label| (Sense::See, &settings.see, label));
        let gates = heard.chain(seen).map(|(sense, own, label)| own.gate(sense, settings.thresholds, label));
        let gates = gates.collect::<Result<Vec<_>>>()?;
        for (track, (gate, enabled)) in self.tracks.iter_mut().zip(gates) {
            track.gate.set_settings(gate);
            track.enabled = enabled;
        }
        if settings.why != self.settings.why {
            self.why = WhyLog::new(if settings.why { WHY_RECORDS } else { 0 });
        }
        self.settings = settings;
        Ok(())
    }

    /// Number of open events.
    #[must_use]
    pub fn open(&self) -> usize {
        self.tracks.iter().filter(|t| t.told.is_some()).count()
    }

    /// The oldest `why` record that nobody has taken yet.
    pub fn pop_why(&mut self) -> Option<Why> {
        self.why.pop()
    }

    /// `why` records lost because nobody took them; 0 while they are off.
    #[must_use]
    pub fn why_dropped(&self) -> u64 {
        if self.settings.why { self.why.dropped() } else { 0 }
    }

    /// Takes one snippet. Scores that are missing count as absent.
    pub fn step(
        &mut self,
        info: &SnippetInfo,
        scores: &Scores<'_>,
        narrator: &mut dyn Narrator,
        sink: &mut dyn FnMut(Event),
    ) {
        for place in 0..self.tracks.len() {
            self.expire(place, info, sink);
            self.step_label(place, info, scores, narrator, sink);
        }
        self.last = Some(*info);
    }

    /// Ends every open event at `now`.
    pub fn finish(&mut self, reason: EndReason, now: MonoTime, sink: &mut dyn FnMut(Event)) {
        self.finish_senses(&[Sense::Hear, Sense::See], reason, now, sink);
    }

    /// Ends every open event of `senses` at `now`.
    pub fn finish_senses(
        &mut self,
        senses: &[Sense],
        reason: EndReason,
        now: MonoTime,
        sink: &mut dyn FnMut(Event),
    ) {
        let moment = Moment::after(self.last.as_ref(), now);
        for place in 0..self.tracks.len() {
            let Some(track) = self.tracks.get_mut(place) else { continue };
            if !senses.contains(&track.label.sense) {
                continue;
            }
            let span = track.gate.open();
            match (track.gate.finish(reason, now), span) {
                (Outcome::Ended(reason), Some(span)) => self.end(place, span, reason, moment, sink),
                (Outcome::Suppressed(what), _) => self.explain(place, what.peak, what.decision, moment, None),
                _ => {}
            }
        }
    }

    /// Ends an event whose modality stayed away, before the snippet after the gap is looked at.
    fn expire(&mut self, place: usize, info: &SnippetInfo, sink: &mut dyn FnMut(Event)) {
        let track = &mut self.tracks[place];
        let span = track.gate.open();
        if let (Some(reason), Some(span)) = (track.gate.expire(info.start), span) {
            let moment = Moment::of(info, None);
            self.end(place, span, reason, moment, sink);
        }
    }

    fn step_label(
        &mut self,
        place: usize,
        info: &SnippetInfo,
        scores: &Scores<'_>,
        narrator: &mut dyn Narrator,
        sink: &mut dyn FnMut(Event),
    ) {
        let quiet = self.quiet;
        let track = &mut self.tracks[place];
        let observation = track.observe(info, scores);
        let permission = match (track.enabled, quiet || track.quiet) {
            (false, _) => Permission::Disabled,
            (true, true) => Permission::Quiet,
            (true, false) => Permission::Granted,
        };
        let before = track.gate.open();
        let outcome = track.gate.step(info.index, (info.start, info.end), observation, permission);
        track.look(info, scores, matches!(outcome, Outcome::Open));
        let moment = Moment::of(info, scores.surprise);
        match (outcome, before.or(track.gate.open())) {
            (Outcome::Opened, Some(span)) => self.begin(place, span, moment, narrator, sink),
            (Outcome::Open, _) => self.maybe_update(place, moment, narrator, sink),
            (Outcome::Ended(reason), Some(span)) => self.end(place, span, reason, moment, sink),
            (Outcome::Suppressed(what), _) => self.explain(place, what.peak, what.decision, moment, None),
            _ => {}
        }
    }

    fn begin(
        &mut self,
        place: usize,
        span: Span,
        moment: Moment,
        narrator: &mut dyn Narrator,
        sink: &mut dyn FnMut(Event),
    ) {
        let track = &mut self.tracks[place];
        let id = self.identity.event_id(track.label.sense, &track.id, span.onset_index, span.onset);
        let (text, text_confidence) = track.narrate(narrator);
        let in_view = track.in_view();
        let told = Told { id, text, text_confidence, confidence: span.peak, in_view, at: moment.time };
        track.told = Some(told);
        self.emit(place, EventType::New, span, None, moment, sink);
        if self.settings.why {
            let id = self.tracks[place].told.as_ref().map(|told| told.id.clone());
            self.explain(place, span.peak, Decision::Emitted, moment, id);
        }
    }

    fn maybe_update(
        &mut self,
        place: usize,
        moment: Moment,
        narrator: &mut dyn Narrator,
        sink: &mut dyn FnMut(Event),
    ) {
        let track = &mut self.tracks[place];
        let (Some(span), in_view) = (track.gate.open(), track.in_view()) else { return };
        let Some(told) = &track.told else { return };
        let since = Duration::from_nanos(u64::try_from(moment.time.since(told.at)).unwrap_or(0));
        let news = span.peak >= told.confidence + self.settings.update_growth || in_view != told.in_view;
        let due = since >= self.settings.update_every || (news && since >= self.settings.update_min);
        if !due {
            return;
        }
        let sentence = news.then(|| track.narrate(narrator));
        if let Some(told) = &mut track.told {
            if let Some((text, confidence)) = sentence {
                (told.text, told.text_confidence) = (text, confidence);
            }
            (told.confidence, told.in_view, told.at) = (span.peak, in_view, moment.time);
        }
        self.emit(place, EventType::Update, span, None, moment, sink);
    }

    fn end(
        &mut self,
        place: usize,
        span: Span,
        reason: EndReason,
        moment: Moment,
        sink: &mut dyn FnMut(Event),
    ) {
        self.emit(place, EventType::End, span, Some(reason), moment, sink);
        self.tracks[place].told = None;
        self.tracks[place].source = None;
    }

    fn emit(
        &mut self,
        place: usize,
        kind: EventType,
        span: Span,
        reason: Option<EndReason>,
        moment: Moment,
        sink: &mut dyn FnMut(Event),
    ) {
        let track = &self.tracks[place];
        let Some(told) = &track.told else { return };
        sink(Event {
            v: 1,
            kind,
            id: told.id.clone(),
            seq: self.seq,
            device: self.identity.device.clone(),
            label: track.id.clone(),
            sense: track.label.sense,
            text: told.text.clone(),
            confidence: rounded(span.peak),
            text_confidence: rounded(told.text_confidence.clamp(0.0, 1.0)),
            in_view: told.in_view,
            start: seconds(span.onset),
            time: seconds(moment.time),
            duration: seconds(MonoTime(span.active_until.since(span.onset))),
            snippet: moment.snippet,
            degraded: moment.degraded,
            sync_error_ms: moment.sync_error_ms.map(rounded),
            surprise: moment.surprise.map(rounded),
            reason,
            clock: self.identity.stamp(moment.time),
        });
        self.seq += 1;
    }

    fn explain(
        &mut self,
        place: usize,
        score: f32,
        decision: Decision,
        moment: Moment,
        event: Option<String>,
    ) {
        if !self.settings.why {
            return;
        }
        let track = &self.tracks[place];
        self.why.push(Why {
            v: 1,
            device: self.identity.device.clone(),
            time: seconds(moment.time),
            snippet: moment.snippet,
            label: track.id.clone(),
            sense: track.label.sense,
            score: rounded(score),
            threshold: rounded(track.gate.settings().on),
            decision,
            event,
        });
    }

    /// Number of audible labels, the first in the engine's order.
    #[must_use]
    pub fn audible(&self) -> usize {
        self.audible
    }
}

impl Track {
    fn new(label: LabelRef, spec: &Label, has_source: bool, settings: &EventSettings) -> Result<Self> {
        let own = match label.sense {
            Sense::Hear => &settings.hear,
            Sense::See => &settings.see,
        };
        let (gate, enabled) = own.gate(label.sense, settings.thresholds, spec)?;
        Ok(Self {
            label,
            id: spec.id.clone(),
            name: bounded(&spec.name, MAX_TEXT_BYTES),
            enabled,
            quiet: false,
            has_source,
            gate: Gate::new(gate),
            source: None,
            told: None,
        })
    }

    fn observe(&self, info: &SnippetInfo, scores: &Scores<'_>) -> Observation {
        let (present, list) = match self.label.sense {
            Sense::Hear => (info.audio_present, scores.audible),
            Sense::See => (info.frames_present > 0, scores.visible),
        };
        match list.get(self.label.index) {
            Some(&score) if present => Observation::Score(score),
            _ => Observation::Absent,
        }
    }

    /// Follows the probability that the source is in view: this snippet's, and while an event is open the mean of it
    /// and what was known before, so that one bad frame does not turn the answer.
    fn look(&mut self, info: &SnippetInfo, scores: &Scores<'_>, open: bool) {
        let score = scores.source.get(self.label.index).copied().filter(|s| s.is_finite());
        self.source = match score {
            Some(score) if self.label.sense == Sense::Hear && info.frames_present > 0 => {
                Some(if open { self.source.map_or(score, |known| (known + score) / 2.0) } else { score })
            }
            _ => None,
        };
    }

    fn in_view(&self) -> Option<bool> {
        match self.label.sense {
            Sense::See => Some(true),
            Sense::Hear if self.has_source => self.source.map(|p| p >= 0.5),
            Sense::Hear => None,
        }
    }

    fn narrate(&self, narrator: &mut dyn Narrator) -> (String, f32) {
        let sentence = narrator.sentence(self.label);
        let text = bounded(&sentence.text, MAX_TEXT_BYTES);
        if text.is_empty() { (self.name.clone(), 0.0) } else { (text, sentence.confidence) }
    }
}

impl Moment {
    fn of(info: &SnippetInfo, surprise: Option<f32>) -> Self {
        Self {
            snippet: info.index,
            time: info.end,
            degraded: Degraded::from_presence(info.audio_present, info.frames_present > 0),
            sync_error_ms: info.sync_error_ms,
            surprise,
        }
    }

    /// At `now`, after the snippet `last`.
    fn after(last: Option<&SnippetInfo>, now: MonoTime) -> Self {
        let unknown = Self { snippet: 0, time: now, degraded: None, sync_error_ms: None, surprise: None };
        let Some(last) = last else { return unknown };
        Self { time: now.max(last.end), ..Self::of(last, None) }
    }
}
