//! Scores and events of clips against their truth, label by label.

use girasol_model::{Label, Manifest};

use super::{
    ClipTruth, Counts, Kind, LabelKey, State, Truth,
    statistics::{average_precision, rate_bound, wilson},
};
use crate::{
    Result,
    event::{EventSettings, Sense},
};

/// An event and a stretch belong together when they come nearer than one snippet.
const SLACK_SECONDS: f64 = 0.96;
/// The source of a sound counts as in view from this probability on, as in events.
const IN_VIEW: f32 = 0.5;

/// What the model said of one snippet; labels in the manifest's order.
#[derive(Clone, Debug, Default)]
pub struct SnippetScores {
    /// Start on the clip's timeline, in seconds.
    pub start: f64,
    /// End.
    pub end: f64,
    /// Whether there was sound.
    pub audio: bool,
    /// Whether there was a frame.
    pub video: bool,
    /// Per audible label.
    pub audible: Vec<f32>,
    /// Per visible label.
    pub visible: Vec<f32>,
    /// Per audible label: a matching source is in view.
    pub source: Vec<f32>,
}

/// An event that was raised.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// Of which label.
    pub label: LabelKey,
    /// Its onset in seconds.
    pub start: f64,
    /// End of the newest snippet in which it was sensed.
    pub end: f64,
}

/// All that was said of one clip.
#[derive(Clone, Debug, Default)]
pub struct ClipResult {
    /// In order of time.
    pub snippets: Vec<SnippetScores>,
    /// In order of onset.
    pub made: Vec<Made>,
}

/// What one label came to. Snippets are scored where the modality is there and the truth is known.
#[derive(Clone, Debug)]
pub struct LabelRow {
    /// The label.
    pub label: LabelKey,
    /// Whether it raises events with these settings.
    pub enabled: bool,
    /// Where its events begin.
    pub on: f32,
    /// Snippets scored.
    pub snippets: u64,
    /// Of them true.
    pub positive: u64,
    /// Clips with at least one true snippet.
    pub clips: u64,
    /// Average precision over snippets.
    pub ap: Option<f64>,
    /// Snippets at the threshold `on`.
    pub at_on: Counts,
    /// Snippets at the bundle's best-F1 threshold.
    pub at_best_f1: Counts,
    /// Stretches that there are, and of them found by an event.
    pub there: u64,
    /// Found.
    pub found: u64,
    /// 95 % Wilson interval of their ratio.
    pub recall_bounds: (f64, f64),
    /// Events made.
    pub made: u64,
    /// Events near no stretch of the label, known or not.
    pub false_events: u64,
    /// Hours of the clips that hold no stretch of the label.
    pub hours_without: f64,
    /// Events in them.
    pub false_without: u64,
    /// One-sided 95 % upper bound of false events an hour in them.
    pub false_per_hour_bound: f64,
}

impl LabelRow {
    /// Share of the stretches that was found.
    #[must_use]
    pub fn event_recall(&self) -> Option<f64> {
        (self.there > 0).then(|| self.found as f64 / self.there as f64)
    }

    /// False events an hour in clips without the label.
    #[must_use]
    pub fn false_per_hour(&self) -> Option<f64> {
        (self.hours_without > 0.0).then(|| self.false_without as f64 / self.hours_without)
    }
}

/// "A matching source is in view" over all labels that have one, where the sound is truly there.
#[derive(Clone, Copy, Debug, Default)]
pub struct SourceRow {
    /// Pairs of snippet and label scored.
    pub pairs: u64,
    /// Of them true.
    pub positive: u64,
    /// Average precision of the model's own score.
    pub ap: Option<f64>,
    /// The model's own score at 0.5.
    pub at_half: Counts,
    /// Average precision of the rule "its source is seen": the highest score of the visible labels that make the sound.
    pub rule_ap: Option<f64>,
    /// The rule at 0.5.
    pub rule_at_half: Counts,
}

#[derive(Debug)]
struct Tally {
    label: LabelKey,
    index: usize,
    enabled: bool,
    on: f32,
    best_f1: f32,
    /// Visible labels that make the sound, for `source`.
    makers: Vec<usize>,
    points: Vec<(f32, bool)>,
    clips: u64,
    there: u64,
    found: u64,
    made: u64,
    false_events: u64,
    hours_without: f64,
    false_without: u64,
}

/// Collects clips; keeps 8 bytes per snippet and label.
#[derive(Debug)]
pub struct Scoreboard {
    tallies: Vec<Tally>,
    source: Vec<(f32, bool)>,
    rule: Vec<(f32, bool)>,
}

impl Scoreboard {
    /// For the labels that both the truth and the bundle know. `settings` say at which threshold an event begins.
    pub fn new(manifest: &Manifest, settings: &EventSettings, truth: &Truth) -> Result<Self> {
        let labels = &manifest.labels;
        let mut tallies = Vec::new();
        for key in &truth.labels {
            let (sense, list, own) = match key.kind {
                Kind::Hear | Kind::Source => (Sense::Hear, &labels.audible, &settings.hear),
                Kind::See => (Sense::See, &labels.visible, &settings.see),
            };
            let Some(index) = list.iter().position(|l: &Label| l.id == key.id) else { continue };
            let (gate, enabled) = own.gate(sense, settings.thresholds, &list[index])?;
            let seen = manifest.sources.get(&key.id).map_or(&[][..], Vec::as_slice);
            let is_maker = |id: &String| labels.visible.iter().position(|l| l.id == *id);
            let source = key.kind == Kind::Source;
            tallies.push(Tally {
                label: key.clone(),
                index,
                enabled: enabled && !source,
                on: if source { IN_VIEW } else { gate.on },
                best_f1: if source { IN_VIEW } else { list[index].thresholds.best_f1.on },
                makers: if source { seen.iter().filter_map(is_maker).collect() } else { Vec::new() },
                points: Vec::new(),
                clips: 0,
                there: 0,
                found: 0,
                made: 0,
                false_events: 0,
                hours_without: 0.0,
                false_without: 0,
            });
        }
        Ok(Self { tallies, source: Vec::new(), rule: Vec::new() })
    }

    /// Takes a clip.
    pub fn add(&mut self, truth: &ClipTruth, result: &ClipResult) {
        for tally in &mut self.tallies {
            if tally.label.kind == Kind::Source {
                tally.add_sources(truth, result, &mut self.source, &mut self.rule);
            } else {
                tally.add_snippets(truth, result);
                tally.add_events(truth, result);
            }
        }
    }

    /// One row per label, in the order of the keys.
    #[must_use]
    pub fn rows(&self) -> Vec<LabelRow> {
        self.tallies.iter().map(Tally::row).collect()
    }

    /// "In view" over all labels.
    #[must_use]
    pub fn source(&self) -> SourceRow {
        SourceRow {
            pairs: self.source.len() as u64,
            positive: positives(&self.source),
            ap: average_precision(&self.source),
            at_half: Counts::at(&self.source, IN_VIEW),
            rule_ap: average_precision(&self.rule),
            rule_at_half: Counts::at(&self.rule, IN_VIEW),
        }
    }
}

fn positives(points: &[(f32, bool)]) -> u64 {
    points.iter().filter(|p| p.1).count() as u64
}

impl Tally {
    fn add_snippets(&mut self, truth: &ClipTruth, result: &ClipResult) {
        let before = positives(&self.points);
        for snippet in &result.snippets {
            let (there, scores) = match self.label.kind {
                Kind::See => (snippet.video, &snippet.visible),
                Kind::Hear | Kind::Source => (snippet.audio, &snippet.audible),
            };
            if !there {
                continue;
            }
            match truth.state(&self.label, snippet.start, snippet.end) {
                State::Unknown => {}
                state => self.points.push((scores[self.index], state == State::True)),
            }
        }
        self.clips += u64::from(positives(&self.points) > before);
    }

    fn add_sources(
        &mut self,
        truth: &ClipTruth,
        result: &ClipResult,
        source: &mut Vec<(f32, bool)>,
        rule: &mut Vec<(f32, bool)>,
    ) {
        let heard = LabelKey { kind: Kind::Hear, id: self.label.id.clone() };
        let before = positives(&self.points);
        for snippet in result.snippets.iter().filter(|s| s.audio && s.video) {
            if truth.state(&heard, snippet.start, snippet.end) != State::True {
                continue;
            }
            let state = truth.state(&self.label, snippet.start, snippet.end);
            if state == State::Unknown {
                continue;
            }
            let seen = self.makers.iter().map(|&v| snippet.visible[v]).fold(0.0, f32::max);
            let point = (snippet.source[self.index], state == State::True);
            self.points.push(point);
            source.push(point);
            rule.push((seen, point.1));
        }
        self.clips += u64::from(positives(&self.points) > before);
    }

    fn add_events(&mut self, truth: &ClipTruth, result: &ClipResult) {
        let intervals = truth.intervals(&self.label);
        let made: Vec<_> = result.made.iter().filter(|m| m.label == self.label).collect();
        let end = result.snippets.last().map_or(0.0, |s| s.end);
        self.made += made.len() as u64;
        for event in &made {
            let near = intervals.iter().any(|i| i.is_near(event.start, event.end, SLACK_SECONDS));
            self.false_events += u64::from(!near);
        }
        for interval in intervals.iter().filter(|i| i.known && i.start < end) {
            self.there += 1;
            self.found += u64::from(made.iter().any(|m| interval.is_near(m.start, m.end, SLACK_SECONDS)));
        }
        if intervals.is_empty() {
            self.hours_without += result.snippets.iter().map(|s| s.end - s.start).sum::<f64>() / 3600.0;
            self.false_without += made.len() as u64;
        }
    }

    fn row(&self) -> LabelRow {
        LabelRow {
            label: self.label.clone(),
            enabled: self.enabled,
            on: self.on,
            snippets: self.points.len() as u64,
            positive: positives(&self.points),
            clips: self.clips,
            ap: average_precision(&self.points),
            at_on: Counts::at(&self.points, self.on),
            at_best_f1: Counts::at(&self.points, self.best_f1),
            there: self.there,
            found: self.found,
            recall_bounds: wilson(self.found, self.there),
            made: self.made,
            false_events: self.false_events,
            hours_without: self.hours_without,
            false_without: self.false_without,
            false_per_hour_bound: rate_bound(self.false_without, self.hours_without),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use girasol_model::Bundle;

    use super::*;

    fn manifest() -> Manifest {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/bundle");
        Bundle::open(dir, env!("CARGO_PKG_VERSION")).unwrap().manifest().clone()
    }

    /// Ten snippets in which the named labels score 0.9 at the given places and 0.1 elsewhere.
    fn result(manifest: &Manifest, heard: (&str, &[usize]), seen: (&str, &[usize])) -> ClipResult {
        let place = |list: &[Label], id: &str| list.iter().position(|l| l.id == id).unwrap();
        let (h, v) = (place(&manifest.labels.audible, heard.0), place(&manifest.labels.visible, seen.0));
        let snippets = (0..10usize).map(|n| {
            let mut audible = vec![0.1; manifest.labels.audible.len()];
            let mut visible = vec![0.1; manifest.labels.visible.len()];
            audible[h] = if heard.1.contains(&n) { 0.9 } else { 0.1 };
            visible[v] = if seen.1.contains(&n) { 0.9 } else { 0.1 };
            let (start, source) = (n as f64 * 0.96, audible.clone());
            SnippetScores { start, end: start + 0.96, audio: true, video: true, audible, visible, source }
        });
        ClipResult { snippets: snippets.collect(), made: Vec::new() }
    }

    fn made(label: &str, first: u32, last: u32) -> Made {
        let (start, end) = (f64::from(first) * 0.96, f64::from(last + 1) * 0.96);
        Made { label: label.parse().unwrap(), start, end }
    }

    #[test]
    fn snippets_and_events_are_counted() {
        let manifest = manifest();
        let text = "clip\tstart\tend\tlabel\nc\t1.92\t2.88\thear:dog_bark\nc\t5.76\t6.72\thear:dog_bark\n\
                    c\t8.64\t9.6\t?hear:dog_bark\nempty\t\t\t\n";
        let truth = Truth::parse(text).unwrap();
        let settings = EventSettings::default();
        let mut board = Scoreboard::new(&manifest, &settings, &truth).unwrap();
        // Heard in snippets 2 (true), 4 (not true) and 9 (unknown); 6 is missed.
        let mut clip = result(&manifest, ("dog_bark", &[2, 4, 9]), ("dog", &[]));
        clip.made =
            vec![made("hear:dog_bark", 2, 2), made("hear:dog_bark", 4, 4), made("hear:dog_bark", 9, 9)];
        board.add(&truth.clips["c"], &clip);
        let mut empty = result(&manifest, ("dog_bark", &[]), ("dog", &[]));
        empty.made = vec![made("hear:dog_bark", 1, 1), made("see:dog", 1, 1)];
        board.add(&truth.clips["empty"], &empty);
        let rows = board.rows();
        let [row] = &rows[..] else { panic!("{rows:?}") };
        assert_eq!((row.snippets, row.positive, row.clips), (19, 2, 1));
        assert_eq!(row.at_best_f1, Counts { hits: 1, misses: 1, false_alarms: 1 });
        // Snippet 4 lies one snippet from each stretch: not nearer than the slack, so false.
        assert_eq!((row.there, row.found, row.made, row.false_events), (2, 1, 4, 2));
        assert_eq!((row.false_without, row.event_recall()), (1, Some(0.5)));
        assert!((row.hours_without - 9.6 / 3600.0).abs() < 1e-9);
    }

    #[test]
    fn sources_are_scored_where_the_sound_is_and_beside_the_rule() {
        let manifest = manifest();
        let text = "clip\tstart\tend\tlabel\nc\t0\t4.8\thear:dog_bark\nc\t0\t1.92\tsource:dog_bark\n";
        let truth = Truth::parse(text).unwrap();
        let mut board = Scoreboard::new(&manifest, &EventSettings::default(), &truth).unwrap();
        // The model's own score follows the sound (right in 2 of 5), the rule what is seen (right in all).
        let clip = result(&manifest, ("dog_bark", &[0, 1, 2, 3, 4]), ("dog", &[0, 1, 7]));
        board.add(&truth.clips["c"], &clip);
        let source = board.source();
        assert_eq!((source.pairs, source.positive), (5, 2));
        assert_eq!(source.at_half, Counts { hits: 2, misses: 0, false_alarms: 3 });
        assert_eq!(source.rule_at_half, Counts { hits: 2, misses: 0, false_alarms: 0 });
        assert_eq!(source.rule_ap, Some(1.0));
    }

    #[test]
    fn an_absent_modality_is_not_scored() {
        let manifest = manifest();
        let truth =
            Truth::parse("clip\tstart\tend\tlabel\nc\t0\t4\thear:dog_bark\nc\t0\t4\tsee:dog\n").unwrap();
        let mut board = Scoreboard::new(&manifest, &EventSettings::default(), &truth).unwrap();
        let mut clip = result(&manifest, ("dog_bark", &[]), ("dog", &[]));
        clip.snippets.iter_mut().for_each(|s| s.video = false);
        board.add(&truth.clips["c"], &clip);
        let counted: Vec<_> = board.rows().iter().map(|r| (r.label.to_string(), r.snippets)).collect();
        assert_eq!(counted, [("hear:dog_bark".to_owned(), 10), ("see:dog".to_owned(), 0)]);
    }
}
