//! What was heard and seen in the window, and answers from it to the manifest's closed list of questions.
//!
//! The scores of each snippet are kept in the slot that the [`Window`](super::window::Window) gives it; whose slot is empty
//! there, what is here does not count. All memory is taken at load.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
};

use girasol_model::{Label, Manifest, QuestionKind, Questions, Tokenizer, normalise};

use super::window::WINDOW;
use crate::{clock::MonoTime, event::Sentence};

/// The scores of one sense.
struct Track {
    /// Best-F1 threshold of each label.
    on: Vec<f32>,
    /// What each label is called in an answer.
    phrases: Vec<String>,
    /// `[WINDOW, labels]`.
    scores: Vec<f32>,
    /// Whether the sense was there at all.
    present: [bool; WINDOW],
}

impl Track {
    fn new(labels: &[Label], phrases: &BTreeMap<String, String>) -> Self {
        Self {
            on: labels.iter().map(|l| l.thresholds.best_f1.on).collect(),
            phrases: labels.iter().map(|l| phrases.get(&l.id).cloned().unwrap_or_default()).collect(),
            scores: vec![0.0; WINDOW * labels.len()],
            present: [false; WINDOW],
        }
    }

    fn put(&mut self, slot: usize, scores: &[f32], present: bool) {
        let labels = self.on.len();
        self.scores[slot * labels..(slot + 1) * labels].copy_from_slice(scores);
        self.present[slot] = present;
    }

    fn score(&self, slot: usize, label: usize) -> f32 {
        self.scores[slot * self.on.len() + label]
    }

    fn is_on(&self, slot: usize, label: usize) -> bool {
        self.present[slot] && self.score(slot, label) >= self.on[label]
    }

    /// Probability that none of `labels` was there in any of `slots`, by the highest score; 0 where nothing was taken in.
    fn absence(&self, slots: &[Slot], labels: impl Iterator<Item = usize> + Clone) -> f32 {
        let taken = || slots.iter().filter(|s| self.present[s.place]);
        let scores = taken().flat_map(|s| labels.clone().map(|label| self.score(s.place, label)));
        taken().next().map_or(0.0, |_| 1.0 - scores.fold(0.0, f32::max))
    }

    /// Names the first labels of `found` (label and the slot of its score), as many as answers do.
    fn list(&self, questions: &Questions, found: &[(usize, usize)]) -> (String, f32) {
        let named = &found[..found.len().min(questions.most)];
        let names: Vec<&str> = named.iter().map(|&(label, _)| self.phrases[label].as_str()).collect();
        let least = named.iter().map(|&(label, slot)| self.score(slot, label)).fold(1.0, f32::min);
        (names.join(&questions.replies.and), least)
    }
}

/// A snippet of the window.
#[derive(Clone, Copy)]
struct Slot {
    start: MonoTime,
    place: usize,
}

/// The history of scores, and what can be asked about it.
pub(crate) struct History {
    questions: Questions,
    /// By normalised question: what is asked, and the place of its label (0 where there is none).
    forms: HashMap<String, (QuestionKind, usize)>,
    hear: Track,
    see: Track,
    /// Places of the audible labels that answers name.
    listed: Vec<usize>,
    /// Of these, those that happen, by their ids: what is as old is named in this order.
    happening: Vec<usize>,
    tokenizer: Tokenizer,
    max_output: usize,
}

impl History {
    /// `None` for a manifest without questions.
    pub(crate) fn new(manifest: &Manifest) -> Option<Self> {
        let questions = manifest.questions.clone()?;
        let (audible, visible) = (&manifest.labels.audible, &manifest.labels.visible);
        let mut forms = HashMap::new();
        for form in &questions.forms {
            let labels = if form.kind == QuestionKind::Seen { visible } else { audible };
            let place = |id: &String| labels.iter().position(|l| l.id == *id);
            let label = form.label.as_ref().and_then(place).unwrap_or(0);
            forms.extend(form.words.iter().map(|words| (normalise(words), (form.kind, label))));
        }
        let without = |left_out: &[String], places: &[usize]| -> Vec<usize> {
            places.iter().copied().filter(|&l| !left_out.contains(&audible[l].id)).collect()
        };
        let listed = without(&questions.unlisted, &(0..audible.len()).collect::<Vec<_>>());
        let mut happening = without(&questions.not_happened, &listed);
        happening.sort_by(|&a, &b| audible[a].id.cmp(&audible[b].id));
        Some(Self {
            forms,
            hear: Track::new(audible, &questions.hear),
            see: Track::new(visible, &questions.see),
            listed,
            happening,
            tokenizer: Tokenizer::new(&manifest.text),
            max_output: manifest.text.max_output,
            questions,
        })
    }

    /// Keeps the scores of the snippet in `slot`; `heard`, `seen`: whether there was sound, and a picture.
    pub(crate) fn put(&mut self, slot: usize, audible: &[f32], visible: &[f32], heard: bool, seen: bool) {
        self.hear.put(slot, audible, heard);
        self.see.put(slot, visible, seen);
    }

    /// The answer from the snippets of `starts` (their starts by slot), seen from the newest of them; `None` for a question
    /// that is not in the list, or without a snippet.
    pub(crate) fn answer(&self, question: &str, starts: &[Option<MonoTime>; WINDOW]) -> Option<Sentence> {
        let &(kind, label) = self.forms.get(&normalise(question))?;
        let given = starts.iter().enumerate();
        let mut slots: Vec<Slot> =
            given.filter_map(|(place, start)| start.map(|start| Slot { start, place })).collect();
        slots.sort_by_key(|slot| Reverse(slot.start));
        let newest = *slots.first()?;
        let replies = &self.questions.replies;
        let track = match kind {
            QuestionKind::Seen | QuestionKind::See => Some(&self.see),
            QuestionKind::Unknown => None,
            _ => Some(&self.hear),
        };
        // Of what was never there nothing is known: without a camera, nobody can say that nobody is there.
        let known = track.is_some_and(|track| slots.iter().any(|slot| track.present[slot.place]));
        let (text, confidence) = match kind {
            _ if !known => (replies.unknown.clone(), 1.0),
            QuestionKind::Heard => self.whether(&self.hear, &replies.heard, label, &slots),
            QuestionKind::Seen => self.whether(&self.see, &replies.seen, label, &slots),
            QuestionKind::When => match last(&self.hear, label, &slots) {
                Some(slot) => {
                    (self.age_phrase(age(newest, slot)).to_owned(), self.hear.score(slot.place, label))
                }
                None => (replies.never.clone(), self.hear.absence(&slots, label..=label)),
            },
            QuestionKind::Hear => self.now(&self.hear, newest, self.listed.iter().copied()),
            QuestionKind::See => self.now(&self.see, newest, 0..self.see.on.len()),
            QuestionKind::Happened => self.happened(&slots),
            QuestionKind::Unknown => (replies.unknown.clone(), 1.0),
        };
        // As long as the decoder's longest, and written as it writes.
        let text = self.tokenizer.decode(&self.tokenizer.encode(&text, self.max_output));
        Some(Sentence { text, confidence })
    }

    fn whether(&self, track: &Track, yes: &str, label: usize, slots: &[Slot]) -> (String, f32) {
        let replies = &self.questions.replies;
        let Some(slot) = last(track, label, slots) else {
            return (replies.no.clone(), track.absence(slots, label..=label));
        };
        let age = age(slots[0], slot);
        let text = if age < self.questions.now_seconds {
            yes.replacen("{}", &track.phrases[label], 1)
        } else {
            replies.earlier.replacen("{}", self.age_phrase(age), 1)
        };
        (text, track.score(slot.place, label))
    }

    fn now(&self, track: &Track, newest: Slot, labels: impl Iterator<Item = usize> + Clone) -> (String, f32) {
        let on = labels.clone().filter(|&label| track.is_on(newest.place, label));
        let found: Vec<_> = on.map(|label| (label, newest.place)).collect();
        if found.is_empty() {
            return (self.questions.replies.nothing.clone(), track.absence(&[newest], labels));
        }
        track.list(&self.questions, &found)
    }

    fn happened(&self, slots: &[Slot]) -> (String, f32) {
        let labels = || self.happening.iter().copied();
        let mut found: Vec<_> =
            labels().filter_map(|label| Some((label, last(&self.hear, label, slots)?))).collect();
        if found.is_empty() {
            return (self.questions.replies.nothing.clone(), self.hear.absence(slots, labels()));
        }
        // Stable: what is as old stays in the order of `happening`.
        found.sort_by_key(|(_, slot)| Reverse(slot.start));
        let found: Vec<_> = found.iter().map(|&(label, slot)| (label, slot.place)).collect();
        self.hear.list(&self.questions, &found)
    }

    fn age_phrase(&self, seconds: f64) -> &str {
        let fits = self.questions.ages.iter().find(|(_, limit)| seconds <= *limit);
        fits.map_or(&self.questions.replies.older, |(phrase, _)| phrase)
    }
}

/// The newest of `slots`, which are in the order of their age, in which the label was on.
fn last(track: &Track, label: usize, slots: &[Slot]) -> Option<Slot> {
    slots.iter().copied().find(|slot| track.is_on(slot.place, label))
}

/// Seconds between the starts of two snippets.
fn age(newest: Slot, slot: Slot) -> f64 {
    newest.start.since(slot.start) as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use girasol_model::Bundle;
    use serde::Deserialize;

    use super::*;
    use crate::model::window::Window;

    fn manifest() -> Manifest {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/bundle");
        Bundle::open(dir, env!("CARGO_PKG_VERSION")).unwrap().manifest().clone()
    }

    /// A history of the shipped labels, all at thresholds of 0.5.
    struct Scene {
        manifest: Manifest,
        history: History,
        window: Window,
        snippets: i64,
    }

    impl Scene {
        fn new() -> Self {
            let mut manifest = manifest();
            for label in manifest.labels.audible.iter_mut().chain(&mut manifest.labels.visible) {
                label.thresholds.best_f1.on = 0.5;
            }
            let history = History::new(&manifest).unwrap();
            Self { manifest, history, window: Window::default(), snippets: 0 }
        }

        /// One more snippet with these scores (`hear:ID` or `see:ID`), all others at 0.1; with sound, with picture.
        fn take_in(&mut self, scores: &[(&str, f32)], heard: bool, seen: bool) {
            let labels = &self.manifest.labels;
            let [audible, visible] =
                [("hear:", &labels.audible), ("see:", &labels.visible)].map(|(sense, list)| {
                    let given =
                        |id: &str| scores.iter().find(|(name, _)| name.strip_prefix(sense) == Some(id));
                    list.iter().map(|l| given(&l.id).map_or(0.1, |s| s.1)).collect::<Vec<_>>()
                });
            self.history.put(self.window.next_slot(), &audible, &visible, heard, seen);
            self.window.push(MonoTime(self.snippets * 960_000_000));
            self.snippets += 1;
        }

        fn wait(&mut self, snippets: usize) {
            (0..snippets).for_each(|_| self.take_in(&[], true, true));
        }

        fn ask(&self, question: &str) -> (String, f32) {
            let said = self.history.answer(question, self.window.starts()).unwrap();
            (said.text, said.confidence)
        }
    }

    fn said(text: &str, confidence: f32) -> (String, f32) {
        (text.to_owned(), confidence)
    }

    #[test]
    fn heard_now_earlier_and_not_any_more() {
        let mut scene = Scene::new();
        scene.take_in(&[("hear:speech", 0.8)], true, true);
        assert_eq!(scene.ask("Is anyone speaking ?"), said("yes, someone speaks", 0.8));
        scene.wait(1);
        assert_eq!(scene.ask("is anyone speaking"), said("yes, someone speaks", 0.8));
        scene.wait(1);
        assert_eq!(scene.ask("is anyone speaking?"), said("not now, but a few seconds ago", 0.8));
        scene.wait(61);
        assert_eq!(scene.ask("is anyone speaking?"), said("not now, but about a minute ago", 0.8));
        scene.wait(1);
        assert_eq!(scene.ask("is anyone speaking?"), said("no, not in the last minute", 0.9));
    }

    #[test]
    fn when_takes_the_last_time() {
        let mut scene = Scene::new();
        scene.take_in(&[("hear:dog_bark", 0.9)], true, true);
        scene.take_in(&[("hear:dog_bark", 0.6)], true, true);
        scene.wait(10);
        assert_eq!(scene.ask("when was a dog barking?"), said("about ten seconds ago", 0.6));
        let (text, confidence) = scene.ask("when did you last hear rain falling?");
        assert_eq!((text.as_str(), confidence), ("i don't know, not in the last minute", 0.9));
    }

    #[test]
    fn seen_is_asked_by_thing_and_by_anyone() {
        let mut scene = Scene::new();
        scene.take_in(&[("see:person", 0.7), ("see:cat", 0.4)], true, true);
        assert_eq!(scene.ask("is anyone there?"), said("yes, a person is in view", 0.7));
        assert_eq!(scene.ask("is a cat in view?"), said("no, not in the last minute", 0.6));
        scene.wait(3);
        assert_eq!(scene.ask("do you see a person?"), said("not now, but a few seconds ago", 0.7));
    }

    #[test]
    fn hear_and_see_name_at_most_three_of_now() {
        let mut scene = Scene::new();
        let all = [("hear:siren", 0.9), ("hear:cough", 0.7), ("hear:rain", 0.8), ("hear:alarm", 0.6)];
        scene.take_in(&all, true, true);
        let three = said("an alarm sounds and someone coughs and rain falls", 0.6);
        assert_eq!(scene.ask("what do you hear?"), three);
        assert_eq!(scene.ask("what do you see?"), said("nothing", 0.9));
        scene.take_in(&[("hear:background", 0.9), ("see:dog", 0.6)], true, true);
        assert_eq!(scene.ask("what was that sound?"), said("nothing", 0.9));
        assert_eq!(scene.ask("what is in view?"), said("a dog", 0.6));
    }

    #[test]
    fn happened_names_the_newest_first_and_no_ambience() {
        let mut scene = Scene::new();
        assert!(scene.history.answer("what happened?", scene.window.starts()).is_none());
        scene.wait(1);
        assert_eq!(scene.ask("what happened?"), said("nothing", 0.9));
        scene.take_in(&[("hear:siren", 0.9), ("hear:rain", 0.9)], true, true);
        scene.take_in(&[("hear:phone_ring", 0.8), ("hear:cough", 0.7)], true, true);
        scene.wait(2);
        let (text, confidence) = scene.ask("what just happened?");
        assert_eq!(text, "someone coughs and a phone rings and a siren wails");
        assert!((confidence - 0.7).abs() < 1e-6);
    }

    #[test]
    fn what_cannot_be_known_is_said_to_be_so_and_other_questions_are_left() {
        let mut scene = Scene::new();
        scene.wait(1);
        assert_eq!(scene.ask("What is your name?"), said("i don't know", 1.0));
        assert!(scene.history.answer("is the dog happy?", scene.window.starts()).is_none());
    }

    #[test]
    fn of_a_sense_that_was_absent_throughout_nothing_is_known() {
        let mut scene = Scene::new();
        scene.take_in(&[("hear:speech", 0.9), ("see:person", 0.9)], false, false);
        assert_eq!(scene.ask("is anyone speaking?"), said("i don't know", 1.0));
        assert_eq!(scene.ask("what do you see?"), said("i don't know", 1.0));
        scene.take_in(&[("see:person", 0.9)], false, true);
        scene.take_in(&[], true, false);
        assert_eq!(scene.ask("is anyone there?"), said("yes, a person is in view", 0.9));
        assert_eq!(scene.ask("is anyone speaking?"), said("no, not in the last minute", 0.9));
        assert_eq!(scene.ask("what do you see?"), said("nothing", 0.0));
    }

    #[test]
    fn a_manifest_without_questions_has_no_history() {
        let manifest = Manifest { questions: None, ..manifest() };
        assert!(History::new(&manifest).is_none());
    }

    /// `tests/goldens/answers.py` says what these are.
    #[derive(Deserialize)]
    struct Goldens {
        low: f32,
        labels: Senses,
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Senses {
        hear: Vec<(String, f32)>,
        see: Vec<(String, f32)>,
    }

    #[derive(Deserialize)]
    struct Case {
        starts_ms: Vec<i64>,
        scores: Vec<(usize, String, f32)>,
        absent: Vec<(usize, String)>,
        asked: Vec<(String, Option<String>)>,
    }

    #[test]
    fn answers_are_those_of_the_python_reference_word_for_word() {
        let goldens: Goldens =
            serde_json::from_str(include_str!("../../tests/goldens/answers.json")).unwrap();
        let mut manifest = manifest();
        let labels = &mut manifest.labels;
        for (list, given) in
            [(&mut labels.audible, &goldens.labels.hear), (&mut labels.visible, &goldens.labels.see)]
        {
            assert_eq!(list.len(), given.len());
            for (label, (id, on)) in list.iter_mut().zip(given) {
                assert_eq!(label.id, *id, "other labels: make the goldens again");
                label.thresholds.best_f1.on = *on;
            }
        }
        let mut asked = 0;
        for case in &goldens.cases {
            let mut history = History::new(&manifest).unwrap();
            let mut window = Window::default();
            for (snippet, ms) in case.starts_ms.iter().enumerate() {
                let scores = |sense: &str, labels: &[Label]| -> Vec<f32> {
                    let given = |id: &str| {
                        let name = format!("{sense}:{id}");
                        case.scores.iter().find(|(k, label, _)| *k == snippet && *label == name)
                    };
                    labels.iter().map(|l| given(&l.id).map_or(goldens.low, |s| s.2)).collect()
                };
                let present = |sense: &str| !case.absent.iter().any(|(k, s)| *k == snippet && s == sense);
                let (audible, visible) =
                    (scores("hear", &manifest.labels.audible), scores("see", &manifest.labels.visible));
                history.put(window.next_slot(), &audible, &visible, present("hear"), present("see"));
                window.push(MonoTime(ms * 1_000_000));
            }
            for (question, answer) in &case.asked {
                let said = history.answer(question, window.starts());
                assert!(said.as_ref().is_none_or(|s| (0.0..=1.0).contains(&s.confidence)), "{question}");
                assert_eq!(said.map(|s| s.text), *answer, "{question}");
                asked += 1;
            }
        }
        assert!(asked > 400);
    }
}
