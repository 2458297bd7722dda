//! The engine on made-up scores.

use std::{collections::BTreeMap, sync::Arc};

use girasol_model::Manifest;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::clock::SimClock;

/// A manifest with two audible labels (`dog_bark`, which a `dog` can make, and `rain`, which nothing can be seen to
/// make) and two visible ones.
fn manifest() -> Manifest {
    let graph = json!({"file": "g.onnx", "sha256": "0", "bytes": 0, "parameters": 0, "macs": 0});
    let label = |id: &str, min: u32| {
        let point = json!({"on": 0.6, "off": 0.4});
        json!({"id": id, "name": format!("{id} (name)"), "enabled": true, "experimental": false,
               "thresholds": {"low_false_alarm": point, "best_f1": {"on": 0.5, "off": 0.3}}, "min_snippets": min})
    };
    let manifest = json!({
        "format": 2, "name": "test", "version": "0", "created": "2026-11-22", "min_runtime": "0.1.0", "licence": "MIT",
        "geometry": girasol_model::Geometry::FORMAT_2,
        "graphs": {"video_encoder": graph, "audio_encoder": graph, "combiner": graph, "latent": graph,
                   "decoder": graph},
        "labels": {"audible": [label("dog_bark", 1), label("rain", 2)], "visible": [label("dog", 1), label("cat", 2)]},
        "sources": {"dog_bark": ["dog"]},
        "text": {"vocab": ["<pad>"], "pad": 0, "bos": 0, "eos": 0, "unk": 0, "max_output": 1, "max_question": 20,
                 "prompts": {"event": [], "caption": [], "ask": []}},
        "quantisation": {}, "training": {},
    });
    serde_json::from_value(manifest).unwrap()
}

fn identity() -> EventIdentity {
    let origin = Origin::Replay { clip: "clip".into(), bundle: "bundle".into() };
    EventIdentity { device: "porch".into(), origin }
}

fn engine(settings: EventSettings) -> EventEngine {
    EventEngine::new(&manifest(), settings, identity()).unwrap()
}

fn info(index: u64) -> SnippetInfo {
    let start = MonoTime(i64::try_from(index).unwrap() * 960_000_000);
    SnippetInfo {
        index,
        start,
        end: MonoTime(start.0 + 960_000_000),
        dt: 0.96,
        audio_present: true,
        frames_present: 2,
        sync_error_ms: Some(1.234_56),
    }
}

struct Counting(u32);

impl Narrator for Counting {
    fn sentence(&mut self, label: LabelRef) -> Sentence {
        self.0 += 1;
        Sentence { text: format!("{:?} {} #{}", label.sense, label.index, self.0), confidence: 0.5 }
    }
}

/// One snippet with the given scores for dog_bark, rain, dog, cat and the bark's source.
fn step(
    engine: &mut EventEngine,
    info: &SnippetInfo,
    scores: [f32; 5],
    narrator: &mut Counting,
) -> Vec<Event> {
    let mut events = Vec::new();
    let source = [scores[4], 0.9];
    let scores =
        Scores { audible: &scores[..2], visible: &scores[2..4], source: &source, surprise: Some(0.123_45) };
    engine.step(info, &scores, narrator, &mut |event| events.push(event));
    events
}

#[test]
fn an_event_is_new_then_updated_then_ended_under_one_id() {
    let (mut engine, mut narrator) = (engine(EventSettings::default()), Counting(0));
    let mut story = Vec::new();
    for index in 0..16 {
        let bark = if index < 13 { 0.7 } else { 0.1 };
        story.extend(step(&mut engine, &info(index), [bark, 0.0, 0.0, 0.0, 0.9], &mut narrator));
    }
    let kinds: Vec<_> = story.iter().map(|e| e.kind).collect();
    assert_eq!(kinds, [EventType::New, EventType::Update, EventType::End]);
    assert!(story.iter().all(|e| e.id == story[0].id && e.id.len() == 32));
    assert_eq!(story.iter().map(|e| e.seq).collect::<Vec<_>>(), [0, 1, 2]);
    let (new, end) = (&story[0], &story[2]);
    assert_eq!((new.start, new.time, new.duration, new.snippet), (0.0, 0.96, 0.96, 0));
    assert_eq!((end.start, end.time, end.duration), (0.0, 14.4, 12.48));
    assert_eq!((new.in_view, new.degraded, end.reason), (Some(true), None, Some(EndReason::Faded)));
    // A periodic update brings no news, so nothing was written anew.
    assert_eq!(narrator.0, 1);
}

#[test]
fn the_payload_is_bounded_and_reproducible() {
    let once = || {
        let (mut engine, mut narrator) = (engine(EventSettings::default()), Counting(0));
        let events = step(&mut engine, &info(3), [0.87654, 0.0, 0.0, 0.0, 0.2], &mut narrator);
        serde_json::to_string(&events[0]).unwrap()
    };
    assert_eq!(once(), once());
    assert_eq!(
        once().split_once(",\"device\"").unwrap().1,
        ":\"porch\",\"label\":\"dog_bark\",\"sense\":\"hear\",\"text\":\"Hear 0 #1\",\"confidence\":0.877,\
         \"text_confidence\":0.5,\"in_view\":false,\"start\":2.88,\"time\":3.84,\"duration\":0.96,\"snippet\":3,\
         \"degraded\":null,\"sync_error_ms\":1.235,\"surprise\":0.123,\"clock\":{\"clip\":\"clip\"}}"
    );
}

#[test]
fn an_event_without_words_carries_the_labels_name() {
    let mut engine = engine(EventSettings::default());
    let scores = Scores { audible: &[0.9, 0.0], visible: &[0.0, 0.0], source: &[], surprise: None };
    let mut texts = Vec::new();
    engine.step(&info(0), &scores, &mut Silent, &mut |e| texts.push((e.text, e.text_confidence, e.in_view)));
    assert_eq!(texts, [("dog_bark (name)".to_owned(), 0.0, None)]);
}

#[test]
fn in_view_is_null_without_frames_or_without_a_visible_source() {
    let (mut engine, mut narrator) = (engine(EventSettings::default()), Counting(0));
    let blind = SnippetInfo { frames_present: 0, ..info(0) };
    let events = step(&mut engine, &blind, [0.9, 0.0, 0.9, 0.0, 0.9], &mut narrator);
    assert_eq!(events.len(), 1, "nothing is seen without frames");
    assert_eq!((events[0].in_view, events[0].degraded), (None, Some(Degraded::AudioOnly)));
    step(&mut engine, &info(1), [0.0, 0.9, 0.0, 0.0, 0.0], &mut narrator);
    let events = step(&mut engine, &info(2), [0.0, 0.9, 0.0, 0.0, 0.0], &mut narrator);
    let rain = events.iter().find(|e| e.label == "rain").unwrap();
    assert_eq!(rain.in_view, None);
}

#[test]
fn a_source_that_comes_into_view_updates_the_event() {
    let (mut engine, mut narrator) = (engine(EventSettings::default()), Counting(0));
    step(&mut engine, &info(0), [0.9, 0.0, 0.0, 0.0, 0.1], &mut narrator);
    let mut updates = Vec::new();
    for index in 1..6 {
        updates.extend(step(&mut engine, &info(index), [0.9, 0.0, 0.0, 0.0, 0.9], &mut narrator));
    }
    assert_eq!(updates.len(), 1);
    assert_eq!((updates[0].kind, updates[0].in_view), (EventType::Update, Some(true)));
    assert_eq!(narrator.0, 2, "the text may have changed");
}

#[test]
fn growing_confidence_updates_at_most_every_two_snippets() {
    let (mut engine, mut narrator) = (engine(EventSettings::default()), Counting(0));
    let count: usize = [0.6, 0.75, 0.9, 0.95, 0.99, 0.99]
        .iter()
        .zip(0..)
        .map(|(&p, i)| step(&mut engine, &info(i), [p, 0.0, 0.0, 0.0, 0.0], &mut narrator).len())
        .sum();
    assert_eq!(count, 2, "new, and one update when 0.9 was reached");
}

#[test]
fn losing_the_sound_holds_the_event_and_then_ends_it() {
    let (mut engine, mut narrator) = (engine(EventSettings::default()), Counting(0));
    step(&mut engine, &info(0), [0.9, 0.0, 0.0, 0.0, 0.0], &mut narrator);
    let mut ends = Vec::new();
    for index in 1..12 {
        let deaf = SnippetInfo { audio_present: false, ..info(index) };
        ends.extend(step(&mut engine, &deaf, [0.9, 0.0, 0.0, 0.0, 0.0], &mut narrator));
    }
    let end = ends.last().unwrap();
    assert_eq!((end.kind, end.reason), (EventType::End, Some(EndReason::SourceLost)));
    assert_eq!((end.degraded, end.duration), (Some(Degraded::VideoOnly), 0.96));
}

#[test]
fn finish_ends_everything_and_the_engine_goes_on() {
    for reason in [EndReason::Shutdown, EndReason::ClipEnd, EndReason::Reset] {
        let (mut engine, mut narrator) = (engine(EventSettings::default()), Counting(0));
        step(&mut engine, &info(0), [0.9, 0.0, 0.9, 0.0, 0.0], &mut narrator);
        assert_eq!(engine.open(), 2);
        let mut ends = Vec::new();
        engine.finish(reason, MonoTime(0), &mut |e| ends.push((e.kind, e.reason, e.time)));
        assert_eq!(ends, [(EventType::End, Some(reason), 0.96); 2]);
        assert_eq!(engine.open(), 0);
        engine.finish(reason, MonoTime(0), &mut |_| panic!("ended twice"));
        let later = step(&mut engine, &info(9), [0.9, 0.0, 0.0, 0.0, 0.0], &mut narrator);
        assert_eq!(later.len(), 1);
    }
}

#[test]
fn why_tells_of_what_was_sent_and_what_was_not() {
    let mut settings = EventSettings { why: true, ..EventSettings::default() };
    settings
        .see
        .labels
        .insert("cat".into(), LabelSettings { enabled: Some(false), ..LabelSettings::default() });
    let (mut engine, mut narrator) = (engine(settings), Counting(0));
    step(&mut engine, &info(0), [0.9, 0.9, 0.5, 0.9, 0.0], &mut narrator);
    step(&mut engine, &info(1), [0.9, 0.0, 0.0, 0.0, 0.0], &mut narrator);
    let mut told = BTreeMap::new();
    while let Some(why) = engine.pop_why() {
        told.insert(why.label.clone(), (why.decision, why.score, why.event.is_some()));
    }
    let expected = [
        ("cat", (Decision::Disabled, 0.9, false)),
        ("dog", (Decision::BelowThreshold, 0.5, false)),
        ("dog_bark", (Decision::Emitted, 0.9, true)),
        ("rain", (Decision::TooShort, 0.9, false)),
    ];
    assert_eq!(told, expected.map(|(label, rest)| (label.to_owned(), rest)).into());
}

#[test]
fn quiet_hours_begin_nothing_and_cut_nothing_off() {
    let (mut engine, mut narrator) = (engine(EventSettings::default()), Counting(0));
    step(&mut engine, &info(0), [0.9, 0.0, 0.0, 0.0, 0.0], &mut narrator);
    engine.set_quiet(true);
    assert_eq!(step(&mut engine, &info(1), [0.9, 0.0, 0.9, 0.0, 0.0], &mut narrator), []);
    assert_eq!(engine.open(), 1);
}

#[test]
fn new_settings_are_taken_over_whole_or_not_at_all() {
    let (mut engine, mut narrator) = (engine(EventSettings::default()), Counting(0));
    let mut settings = EventSettings::default();
    settings
        .hear
        .labels
        .insert("dog_bark".into(), LabelSettings { enabled: Some(false), ..LabelSettings::default() });
    let mut wrong = settings.clone();
    wrong.see.labels.insert("cat".into(), LabelSettings { on: Some(1.5), ..LabelSettings::default() });
    assert!(engine.reconfigure(&manifest(), wrong).is_err());
    assert!(!step(&mut engine, &info(0), [0.9, 0.0, 0.0, 0.0, 0.0], &mut narrator).is_empty());
    engine.reconfigure(&manifest(), settings).unwrap();
    assert_eq!(engine.open(), 1, "an open event goes on");
    engine.finish_senses(&[Sense::See], EndReason::Paused, MonoTime(0), &mut |_| ());
    assert_eq!(engine.open(), 1, "another sense");
    engine.finish_senses(&[Sense::Hear], EndReason::Paused, MonoTime(0), &mut |_| ());
    assert_eq!(engine.open(), 0);
    for index in 10..14 {
        assert_eq!(step(&mut engine, &info(index), [0.9, 0.0, 0.0, 0.0, 0.0], &mut narrator), []);
    }
}

#[test]
fn a_label_has_quiet_hours_of_its_own() {
    let (mut engine, mut narrator) = (engine(EventSettings::default()), Counting(0));
    engine.set_quiet_labels(&[true]);
    assert_eq!(step(&mut engine, &info(0), [0.9, 0.0, 0.0, 0.0, 0.0], &mut narrator), []);
    engine.set_quiet_labels(&[]);
    let mut begun = Vec::new();
    for index in 1..4 {
        begun.extend(step(&mut engine, &info(index), [0.9, 0.0, 0.0, 0.0, 0.0], &mut narrator));
    }
    assert!(!begun.is_empty());
}

#[test]
fn settings_that_make_no_sense_are_refused_by_name() {
    let mut settings = EventSettings::default();
    settings.hear.labels.insert("miaow".into(), LabelSettings::default());
    let error = EventEngine::new(&manifest(), settings, identity()).err().unwrap().to_string();
    assert!(error.contains("miaow") && error.contains("dog_bark, rain"), "{error}");
    let mut settings = EventSettings::default();
    settings.see.labels.insert("cat".into(), LabelSettings { on: Some(1.5), ..LabelSettings::default() });
    assert!(EventEngine::new(&manifest(), settings, identity()).is_err());
}

#[test]
fn live_events_carry_boot_id_and_wall_time() {
    let clock = Arc::new(SimClock::new(MonoTime(960_000_000)));
    let origin = Origin::Live { boot_id: "b00t".into(), wall: Box::new(ClockWall(clock)) };
    let identity = EventIdentity { device: "porch".into(), origin };
    let mut engine = EventEngine::new(&manifest(), EventSettings::default(), identity).unwrap();
    let events = step(&mut engine, &info(0), [0.9, 0.0, 0.0, 0.0, 0.0], &mut Counting(0));
    let clock = serde_json::to_value(&events[0].clock).unwrap();
    assert_eq!(clock, json!({"mono_ms": 960, "boot_id": "b00t", "wall": null, "synced": false}));
}

proptest! {
    #[test]
    fn each_new_is_ended_exactly_once_whatever_happens(
        snippets in prop::collection::vec((prop::array::uniform5(0.0f32..1.0), any::<bool>(), 0u8..3, 1u64..12), 1..120)
    ) {
        let (mut engine, mut narrator) = (engine(EventSettings::default()), Counting(0));
        let (mut events, mut index) = (Vec::new(), 0);
        for (scores, audio_present, frames_present, gap) in snippets {
            index += if gap < 10 { 1 } else { gap };
            let info = SnippetInfo { audio_present, frames_present, ..info(index) };
            events.extend(step(&mut engine, &info, scores, &mut narrator));
        }
        engine.finish(EndReason::ClipEnd, info(index).end, &mut |e| events.push(e));
        let mut open: BTreeMap<String, f64> = BTreeMap::new();
        for (event, seq) in events.iter().zip(0u64..) {
            prop_assert_eq!(event.seq, seq);
            prop_assert!(event.time >= event.start && event.duration >= 0.0 && event.duration <= event.time - event.start + 1e-9);
            prop_assert_eq!(event.reason.is_some(), event.kind == EventType::End);
            match event.kind {
                EventType::New => prop_assert!(open.insert(event.id.clone(), event.confidence).is_none()),
                EventType::Update => prop_assert!(open.get(&event.id).is_some_and(|&c| c <= event.confidence)),
                EventType::End => prop_assert!(open.remove(&event.id).is_some()),
            }
        }
        prop_assert!(open.is_empty());
        prop_assert_eq!(engine.open(), 0);
    }
}
