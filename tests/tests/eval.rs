//! `girasol eval`: every score of every snippet, and a truth file that decides.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, path::Path};

use girasol_tests::{Outcome, bundle, eager_config, girasol, json_lines, labels, manifest, media, run};
use serde_json::Value;

/// Two clips of three snippets: a pair, and a sound alone in a subfolder.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let _ = media::write_pair(dir.path(), "pair", 3, 20);
    fs::create_dir(dir.path().join("sounds")).unwrap();
    media::write_wav(&dir.path().join("sounds/alone.wav"), &media::tones(3, 21));
    fs::write(dir.path().join("notes.txt"), "not a clip").unwrap();
    dir
}

fn eval(dir: &Path, arguments: &[&str]) -> Outcome {
    let mut command = girasol(["eval", "--bundle"]);
    run(command.arg(bundle()).arg(dir).args(arguments))
}

fn report(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|e| panic!("{e}: {}", outcome.stdout))
}

#[test]
fn predictions_hold_every_label_of_every_snippet_and_are_the_same_again() {
    let dir = folder();
    let file = dir.path().join("predictions.jsonl");
    let predictions = || {
        let _ = eval(dir.path(), &["--predictions", file.to_str().unwrap()]).success();
        fs::read_to_string(&file).unwrap()
    };
    let text = predictions();
    let lines = json_lines(&text);
    let clips: Vec<_> = lines.iter().map(|l| l["clip"].as_str().unwrap()).collect();
    assert_eq!(
        clips,
        ["pair.y4m", "pair.y4m", "pair.y4m", "sounds/alone.wav", "sounds/alone.wav", "sounds/alone.wav"]
    );
    let [audible, visible] = labels();
    for (n, line) in lines.iter().enumerate() {
        assert_eq!(line["t"], 0.96 * (n % 3) as f64);
        assert!(!line["text"].as_str().unwrap().is_empty());
        let scores = line["labels"].as_object().unwrap();
        assert_eq!(scores.len(), 2 * audible.len() + visible.len() + 1);
        let names = audible.iter().flat_map(|a| [format!("hear:{a}"), format!("source:{a}")]);
        for name in names.chain(visible.iter().map(|v| format!("see:{v}"))).chain(["source_visible".into()]) {
            let score = scores[&name].as_f64().unwrap_or_else(|| panic!("{name}: {line}"));
            assert!((0.0..=1.0).contains(&score), "{name}: {score}");
        }
    }
    // Each clip starts from nothing, so the order of clips cannot matter; and the run repeats to the byte.
    assert_eq!(text, predictions());
    let alone = eval(&dir.path().join("sounds"), &["--predictions", "-"]).success();
    let of = |lines: &[Value]| -> Vec<Value> { lines.iter().map(|l| l["labels"].clone()).collect() };
    assert_eq!(of(&json_lines(&alone.stdout)), of(&lines[3..]));
}

#[test]
fn a_truth_file_is_scored() {
    let dir = folder();
    let [audible, visible] = labels();
    let (heard, seen) = (&audible[0], &visible[0]);
    let truth = dir.path().join("truth.tsv");
    let rows = format!(
        "clip\tstart\tend\tlabel\ttext\n\
         pair.y4m\t0\t1.92\thear:{heard}\npair.y4m\t1.92\t\t?see:{seen}\nsounds/alone\t\t\t\n\
         pair.y4m\t1\t\task:what time is it?\ti don't know\npair.y4m\t0\t\thear:no_such_label\n"
    );
    fs::write(&truth, rows).unwrap();
    let config = dir.path().join("girasol.toml");
    fs::write(&config, eager_config(1)).unwrap();
    let arguments = ["--truth", truth.to_str().unwrap(), "--config", config.to_str().unwrap()];
    let json = report(&eval(dir.path(), &[&arguments[..], &["--json"]].concat()).success());
    assert_eq!((&json["clips"], &json["snippets"]), (&2.into(), &6.into()));
    let of = |label: String| {
        json["labels"].as_array().unwrap().iter().find(|r| r["label"] == *label).unwrap().clone()
    };
    let row = of(format!("hear:{heard}"));
    assert_eq!((&row["positive"], &row["snippets"], &row["clips"]), (&2.into(), &6.into(), &1.into()));
    // The eager configuration raises an event of this label in every clip: found in one, false in the other.
    let events = &row["events"];
    assert_eq!((&events["found"], &events["there"]), (&1.into(), &1.into()), "{events}");
    assert!(
        events["false_without"].as_u64() > Some(0)
            && events["false_per_hour_bound_95"].as_f64() > Some(1_000.0)
    );
    let ap = row["ap"].as_f64().unwrap();
    assert!(ap > 0.0 && ap <= 1.0);
    // Not known from 1.92 s on, and the sound alone has no picture.
    let row = of(format!("see:{seen}"));
    assert_eq!((&row["positive"], &row["snippets"], &row["ap"]), (&0.into(), &2.into(), &Value::Null));
    assert_eq!(json["questions"]["asked"], 1);
    assert_eq!(json["unknown_labels"], serde_json::json!(["hear:no_such_label"]));
    let table = eval(dir.path(), &arguments).success().stdout;
    assert!(table.contains(&format!("hear:{heard}")) && table.contains("hear_map"), "{table}");
}

#[test]
fn without_truth_the_table_says_what_was_heard_and_seen() {
    let dir = folder();
    let table = eval(dir.path(), &[]).success().stdout;
    for kind in ["audible", "visible"] {
        for label in manifest()["labels"][kind].as_array().unwrap() {
            assert!(table.contains(label["id"].as_str().unwrap()), "{table}");
        }
    }
    assert!(table.contains("2 clips, 6 snippets"), "{table}");
}

#[test]
fn what_is_wrong_is_said_and_the_rest_is_evaluated() {
    let dir = folder();
    fs::write(dir.path().join("broken.wav"), b"RIFF nonsense").unwrap();
    media::write_wav(&dir.path().join("short.wav"), &media::tones(3, 1)[..3_000]);
    let outcome = eval(dir.path(), &["--json"]);
    assert_eq!(outcome.code, Some(65), "{}", outcome.stderr);
    let json = report(&outcome);
    assert_eq!(json["snippets"], 6);
    let faults: Vec<_> = json["faults"].as_array().unwrap().iter().map(|f| f["clip"].clone()).collect();
    assert_eq!(faults, ["broken.wav", "short.wav"]);
    assert!(outcome.complaint().contains("broken.wav"), "{}", outcome.complaint());

    let truth = dir.path().join("truth.tsv");
    for (rows, complaint) in [
        ("clip\tstart\tend\tlabel\nelsewhere.wav\t\t\thear:x\n", "elsewhere.wav"),
        ("clip\tstart\tend\tlabel\npair\t3\t2\thear:x\n", "truth.tsv:2"),
        ("clip\tstart\tend\tlabel\npair\t\t\t\npair.y4m\t\t\t\n", "named twice"),
    ] {
        fs::write(&truth, rows).unwrap();
        let outcome = eval(dir.path(), &["--truth", truth.to_str().unwrap()]);
        assert_eq!(outcome.code, Some(65));
        assert!(outcome.complaint().contains(complaint), "{}", outcome.complaint());
    }
    let empty = tempfile::tempdir().unwrap();
    let outcome = eval(empty.path(), &[]);
    assert_eq!(outcome.code, Some(69));
    assert!(outcome.complaint().contains("no clips"), "{}", outcome.complaint());
}
