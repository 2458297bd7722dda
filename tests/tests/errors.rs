//! What goes wrong is said in one line that names the place and the remedy, with the exit status that fits; or it is
//! tolerated as declared.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use girasol_tests::{
    Broker, Outcome, Received, Running, Subscriber, bundle, eager_config, girasol, json_lines, labels,
    manifest, media, replay, run,
};
use serde_json::Value;

// Exit statuses after sysexits.h.
const USAGE: i32 = 64;
const DATA: i32 = 65;
const UNAVAILABLE: i32 = 69;
const IO: i32 = 74;
const CONFIG: i32 = 78;

/// The program ended with `code`, said why in exactly one line that begins with its name, and that line has `words`.
fn fails(outcome: &Outcome, code: i32, words: &[&str]) {
    let complaints: Vec<_> = outcome.stderr.lines().filter(|line| line.starts_with("girasol: ")).collect();
    assert_eq!((outcome.code, complaints.len()), (Some(code), 1), "{}", outcome.stderr);
    let complaint = outcome.complaint();
    for word in words {
        assert!(complaint.contains(word), "no `{word}` in: {complaint}");
    }
    assert!(complaint.len() < 1_000, "{complaint}");
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
}

/// A directory with a short clip in it.
fn with_clip() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let clip = dir.path().join("clip.wav");
    media::write_wav(&clip, &media::tones(2, 1));
    (dir, clip)
}

/// A copy of the bundle, changed by `change`, which gets the directory.
fn broken_bundle(change: impl FnOnce(&Path)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in fs::read_dir(bundle()).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), dir.path().join(file.file_name())).unwrap();
    }
    change(dir.path());
    dir
}

/// A copy of the bundle with another manifest.
fn with_manifest(change: impl FnOnce(&mut Value)) -> tempfile::TempDir {
    broken_bundle(|dir| {
        let mut manifest = manifest();
        change(&mut manifest);
        fs::write(dir.join("manifest.json"), manifest.to_string()).unwrap();
    })
}

fn replay_with(bundle: &Path, clip: &Path) -> Outcome {
    run(girasol(["replay", "--full-speed", "--no-mqtt", "--bundle"]).arg(bundle).arg(clip))
}

/// File names of the five graphs.
fn graphs() -> Vec<String> {
    let manifest = manifest();
    let graphs = manifest["graphs"].as_object().unwrap();
    graphs.values().map(|graph| graph["file"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_graph_that_is_cut_changed_or_missing_is_named() {
    let (_dir, clip) = with_clip();
    for file in graphs() {
        let cut = broken_bundle(|dir| {
            let graph = fs::read(dir.join(&file)).unwrap();
            fs::write(dir.join(&file), &graph[..graph.len() / 2]).unwrap();
        });
        fails(&replay_with(cut.path(), &clip), DATA, &[&file, "the manifest says", "copy the bundle again"]);
        let changed = broken_bundle(|dir| {
            let mut graph = fs::read(dir.join(&file)).unwrap();
            let middle = graph.len() / 2;
            graph[middle] ^= 1;
            fs::write(dir.join(&file), graph).unwrap();
        });
        fails(&replay_with(changed.path(), &clip), DATA, &[&file, "damaged", "copy the bundle again"]);
        let missing = broken_bundle(|dir| fs::remove_file(dir.join(&file)).unwrap());
        fails(&replay_with(missing.path(), &clip), UNAVAILABLE, &[&file, "not found"]);
    }
}

#[test]
fn a_manifest_that_is_cut_newer_or_strange_is_refused() {
    let (_dir, clip) = with_clip();
    let refused = |bundle: &tempfile::TempDir, words: &[&str]| {
        let outcome = replay_with(bundle.path(), &clip);
        fails(&outcome, DATA, &[&["manifest.json"], words].concat());
    };
    let cut = broken_bundle(|dir| {
        let path = dir.join("manifest.json");
        let text = fs::read(&path).unwrap();
        fs::write(&path, &text[..text.len() / 2]).unwrap();
    });
    refused(&cut, &["not valid JSON"]);
    refused(&with_manifest(|m| m["format"] = 99.into()), &["format 99", "newer", "upgrade girasol"]);
    refused(&with_manifest(|m| m["format"] = 1.into()), &["format 1", "older", "install the bundle"]);
    refused(&with_manifest(|m| m["min_runtime"] = "99.0.0".into()), &["99.0.0", "upgrade girasol"]);
    refused(&with_manifest(|m| m["surprise"] = 1.into()), &["unknown field `surprise`"]);
    refused(&with_manifest(|m| m["geometry"]["dim"] = 64.into()), &["geometry"]);
    refused(
        &with_manifest(|m| m["questions"]["forms"][0]["label"] = "yeti".into()),
        &["questions.forms", "yeti"],
    );
    refused(
        &with_manifest(|m| m["graphs"]["latent"]["file"] = "../latent.onnx".into()),
        &["not a plain file name"],
    );
    let none = broken_bundle(|dir| fs::remove_file(dir.join("manifest.json")).unwrap());
    fails(&replay_with(none.path(), &clip), UNAVAILABLE, &["manifest.json", "not found", "complete bundle"]);
}

#[test]
fn a_graph_of_another_shape_is_refused_though_its_hash_is_right() {
    let (_dir, clip) = with_clip();
    let latent = manifest()["graphs"]["latent"].clone();
    let swapped = with_manifest(|m| m["graphs"]["decoder"] = latent);
    fails(
        &replay_with(swapped.path(), &clip),
        DATA,
        &["latent.onnx", "inputs are", "does not fit this runtime"],
    );
    // A file that is no graph at all, though size and hash are right.
    let noise = with_manifest(|m| {
        m["graphs"]["latent"]["bytes"] = 4.into();
        m["graphs"]["latent"]["sha256"] =
            "d19b2ae00a5691e536d8460b5d9bb8e62146c0ef515fd186d9b2332084a76dbd".into();
    });
    fs::write(noise.path().join("latent.onnx"), "ONNX").unwrap();
    fails(&replay_with(noise.path(), &clip), DATA, &["latent.onnx", "not a readable ONNX graph"]);
}

#[test]
fn a_damaged_self_test_is_found_by_check() {
    let golden = manifest()["golden"].clone();
    let Some(file) = golden["bin"].as_str() else { return println!("skipped: this bundle has no self-test") };
    let changed = broken_bundle(|dir| {
        let mut bytes = fs::read(dir.join(file)).unwrap();
        bytes[0] ^= 1;
        fs::write(dir.join(file), bytes).unwrap();
    });
    let outcome = run(girasol(["check", "--no-mqtt", "--bundle"]).arg(changed.path()));
    let fault = outcome.stdout.lines().find(|line| line.starts_with("FAULT  model bundle: ")).unwrap();
    assert!(fault.contains(file) && fault.contains("copy the bundle again"), "{fault}");
    assert_eq!(outcome.code, Some(DATA));
}

#[test]
fn a_wrong_command_line_has_a_status_of_its_own() {
    for line in [&["run", "--no-such-option"][..], &["no-such-command"], &[]] {
        let outcome = run(&mut girasol(line));
        assert_eq!(outcome.code, Some(USAGE), "{line:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("Usage: girasol"), "{}", outcome.stderr);
    }
    for line in [&["--version"][..], &["--help"], &["run", "--help"]] {
        let outcome = run(&mut girasol(line));
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{line:?}");
    }
}

#[test]
fn a_wrong_configuration_is_named_with_file_line_key_and_what_is_allowed() {
    let (dir, clip) = with_clip();
    let config = dir.path().join("girasol.toml");
    let [audible, _] = labels();
    for (text, line, words) in [
        ("[device]\nname = \"a\"\ncolour = 1\n", 3, &["`device.colour`", "unknown field", "`name`"][..]),
        ("[hear]\ncool_down = \"2 parsecs\"\n", 2, &["`hear.cool_down`", "ms, s, min, h"]),
        ("\n\n[mqtt]\nqueue = 3\n", 4, &["`mqtt.queue`", "16 to 100000"]),
        ("[log]\nlevel = \"loud\"\n", 2, &["`log.level`", "`trace`"]),
        ("[hear.labels.unicorn]\non = 0.5\n", 1, &["`hear.labels.unicorn`", "no such label", &audible[0]]),
        (
            "[see.labels.a]\non = 0.5\n[see.labels.b]\noff = 7\n",
            4,
            &["`see.labels.b.off`", "between 0 and 1"],
        ),
        ("[mqtt]\nurl = \"nonsense\n", 2, &[]),
    ] {
        fs::write(&config, text).unwrap();
        let outcome = run(replay(&clip).arg("--config").arg(&config));
        let place = format!("{}:{line}: ", config.display());
        fails(&outcome, CONFIG, &[&[place.as_str()], words].concat());
    }
    let outcome = run(replay(&clip).args(["--config", "/nowhere/girasol.toml"]));
    fails(&outcome, UNAVAILABLE, &["/nowhere/girasol.toml"]);
}

#[test]
fn a_clip_that_is_none_is_named_with_a_remedy() {
    let (dir, _clip) = with_clip();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("empty.wav"), "").unwrap();
    fs::write(at("text.wav"), "this is a letter, not a recording").unwrap();
    fs::write(at("text.y4m"), "this is a letter, not a recording").unwrap();
    media::write_wav(&at("short.wav"), &[0; 1_000]);
    media::write_wav(&at("silent.wav"), &[]);
    for (name, code, words) in [
        ("missing.wav", UNAVAILABLE, "No such file"),
        ("missing.mp4", UNAVAILABLE, "No such file"),
        ("empty.wav", DATA, "is it a WAV recording?"),
        ("text.wav", DATA, "not a RIFF WAVE file"),
        ("text.y4m", DATA, "convert it"),
        ("short.wav", DATA, "shorter than one snippet"),
        ("silent.wav", DATA, "no sound in it"),
    ] {
        fails(&run(&mut replay(&at(name))), code, &[name, words]);
    }
    fails(&run(replay(&at("short.wav")).arg("--video-only")), DATA, &["short.wav", "no picture in it"]);
}

#[test]
fn a_clip_that_was_cut_is_played_as_far_as_it_goes_with_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    let clip = media::write_pair(dir.path(), "clip", 4, 1);
    for file in [clip.clone(), clip.with_extension("wav")] {
        let bytes = fs::read(&file).unwrap();
        fs::write(&file, &bytes[..bytes.len() * 3 / 4 - 7]).unwrap();
    }
    let outcome = run(&mut replay(&clip)).success();
    let warning =
        |words: &str| outcome.stderr.lines().any(|line| line.contains("WARN") && line.contains(words));
    assert!(warning("bytes of sound are missing at the end"), "{}", outcome.stderr);
    assert!(warning("is incomplete"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("snippets=3 skipped=0"), "{}", outcome.stderr);
}

#[test]
fn without_ffmpeg_a_container_is_refused_and_native_clips_still_play() {
    let (dir, clip) = with_clip();
    let (container, nothing) = (dir.path().join("clip.mp4"), dir.path().join("nothing"));
    fs::write(&container, "whatever").unwrap();
    fs::create_dir(&nothing).unwrap();
    let outcome = run(replay(&container).env("PATH", &nothing));
    fails(&outcome, UNAVAILABLE, &["clip.mp4", "was not found", "install ffmpeg", ".wav"]);
    let _ = run(replay(&clip).env("PATH", &nothing)).success();
    let check =
        run(girasol(["check", "--no-mqtt", "--bundle"]).arg(bundle()).env("PATH", &nothing)).success();
    assert!(check.stdout.contains("ok     ffmpeg: not found; only .wav and .y4m"), "{}", check.stdout);
}

/// Needs the ffmpeg program.
#[test]
fn a_container_without_sound_and_picture_or_that_is_none_is_refused() {
    if !Command::new("ffmpeg").arg("-version").output().is_ok_and(|out| out.status.success()) {
        println!("skipped: no ffmpeg program");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (words, noise) = (dir.path().join("words.srt"), dir.path().join("noise.mp4"));
    fs::write(&words, "1\n00:00:00,000 --> 00:00:02,000\nonly words\n").unwrap();
    fs::write(&noise, "not a film at all").unwrap();
    let neither = ["words.srt", "neither sound nor picture", "give a recording"];
    fails(&run(&mut replay(&words)), DATA, &neither);
    fails(&run(&mut replay(&noise)), DATA, &["noise.mp4", "is it a whole audio or video file?"]);
}

#[test]
fn a_full_disk_is_said_and_ends_the_replay() {
    let dir = tempfile::tempdir().unwrap();
    let clip = media::write_pair(dir.path(), "clip", 3, 1);
    let config = dir.path().join("girasol.toml");
    fs::write(&config, eager_config(3)).unwrap();
    let outcome = run(replay(&clip).arg("--config").arg(&config).args(["--events", "/dev/full"]));
    fails(&outcome, IO, &["/dev/full", "No space left", "is the disk full?"]);
    let outcome = run(replay(&clip).args(["--events", "/nowhere/events"]));
    fails(&outcome, UNAVAILABLE, &["/nowhere/events", "No such file"]);
}

/// The eager configuration with a broker.
fn config_for(dir: &Path, url: &str) -> PathBuf {
    let config = dir.join("girasol.toml");
    fs::write(&config, format!("{}\n[mqtt]\nurl = \"{url}\"\n", eager_config(3))).unwrap();
    config
}

/// Replays two seconds in real time; `at_the_start` and `after_a_snippet` do something to the broker. In the end it
/// has every event; what was in flight may have come twice.
fn survives(at_the_start: fn(&mut Broker), after_a_snippet: fn(&mut Broker)) {
    let (dir, clip) = with_clip();
    let mut broker = Broker::start();
    let seen = Subscriber::new(&broker, "keeper", "girasol/porch/event");
    at_the_start(&mut broker);
    let (config, events) = (config_for(dir.path(), &broker.url()), dir.path().join("events"));
    let mut command = girasol(["replay", "--progress", "json", "--bundle"]);
    command.arg(bundle()).arg(&clip).arg("--config").arg(&config).arg("--events").arg(&events);
    let mut running = Running::start(&mut command);
    running.wait_for("\"snippet\":");
    after_a_snippet(&mut broker);
    let _ = running.finish().success();
    let expected = json_lines(&fs::read_to_string(&events).unwrap());
    assert!(!expected.is_empty());
    let once = |received: &[Received]| -> Vec<Value> {
        let payloads: Vec<_> = received.iter().map(|r| r.payload.as_str()).collect();
        let mut events = json_lines(&payloads.join("\n"));
        events.sort_by_key(|event| event["seq"].as_u64());
        events.dedup();
        events
    };
    let received = seen.wait(Duration::from_secs(20), |received| once(received).len() >= expected.len());
    assert_eq!(once(&received), expected);
}

#[test]
fn a_broker_that_comes_while_the_clip_plays_gets_every_event() {
    survives(Broker::stop, Broker::restart);
}

#[test]
fn a_broker_that_is_killed_while_the_clip_plays_gets_every_event() {
    survives(
        |_| (),
        |broker| {
            broker.kill();
            broker.restart();
        },
    );
}

#[test]
fn a_broker_that_never_comes_is_said_at_the_end() {
    let (dir, clip) = with_clip();
    let broker = Broker::prepare("");
    let config = config_for(dir.path(), &broker.url());
    let events = dir.path().join("events");
    let mut command = girasol(["replay", "--full-speed", "--bundle"]);
    command.arg(bundle()).arg(&clip).arg("--config").arg(&config).arg("--events").arg(&events);
    let outcome = run(&mut command);
    fails(&outcome, UNAVAILABLE, &[&broker.url(), "did not reach the broker", "girasol check", "--no-mqtt"]);
    assert!(fs::read_to_string(&events).unwrap().lines().count() > 0, "the file has them all the same");
}

#[test]
fn check_has_a_verdict_for_each_part_and_the_first_fault_decides_the_exit_status() {
    let dir = tempfile::tempdir().unwrap();
    let mut broker = Broker::start();
    let config = config_for(dir.path(), &broker.url());
    let check = |bundle: &Path| run(girasol(["check", "--config"]).arg(&config).arg("--bundle").arg(bundle));
    let verdict = |outcome: &Outcome, start: &str| {
        assert!(outcome.stdout.lines().any(|line| line.starts_with(start)), "{start}: {}", outcome.stdout);
    };
    let well = check(&bundle()).success();
    for part in ["configuration", "model bundle", "ffmpeg", "broker"] {
        verdict(&well, &format!("ok     {part}: "));
    }
    broker.stop();
    let lonely = check(&bundle());
    verdict(&lonely, &format!("FAULT  broker: {}: no connection: ", broker.url()));
    verdict(&lonely, "ok     model bundle: ");
    assert_eq!(lonely.code, Some(UNAVAILABLE));
    let empty = check(dir.path());
    verdict(&empty, &format!("FAULT  model bundle: {}/manifest.json: file not found", dir.path().display()));
    assert_eq!(empty.code, Some(UNAVAILABLE));
    fs::write(&config, "[devise]\n").unwrap();
    let wrong = check(&bundle());
    verdict(&wrong, &format!("FAULT  configuration: {}:1: ", config.display()));
    assert_eq!((wrong.code, wrong.stdout.lines().count()), (Some(CONFIG), 1));
}

#[test]
fn watch_prints_as_many_events_as_asked_for_and_ends() {
    let (dir, clip) = with_clip();
    let broker = Broker::start();
    let config = config_for(dir.path(), &broker.url());
    let watch = |arguments: &[&str]| {
        let mut command = girasol(["watch", "--url", &broker.url()]);
        let mut running = Running::start(command.args(arguments));
        running.wait_for("subscribed");
        running
    };
    let (json, people) = (watch(&["--count", "3", "--json"]), watch(&["--count", "1", "--device", "porch"]));
    let mut command = girasol(["replay", "--full-speed", "--bundle"]);
    let _ = run(command.arg(bundle()).arg(&clip).arg("--config").arg(&config)).success();
    let events = json_lines(&json.finish().success().stdout);
    assert_eq!(events.iter().map(|event| event["seq"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    let line = people.finish().success().stdout;
    assert!(line.lines().count() == 1 && line.contains(events[0]["text"].as_str().unwrap()), "{line}");
}

#[test]
fn completions_man_pages_and_the_configuration_reference_are_generated() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&mut girasol(["completions", shell])).success().stdout;
        assert!(script.contains("girasol") && script.contains("full-speed"), "{shell}");
    }
    let dir = tempfile::tempdir().unwrap();
    let _ = run(girasol(["man"]).arg(dir.path().join("man1"))).success();
    for page in ["girasol.1", "girasol-replay.1", "girasol-check.1", "girasol-watch.1", "girasol-bench.1"] {
        let text = fs::read_to_string(dir.path().join("man1").join(page)).unwrap();
        assert!(text.contains(".TH"), "{page}");
    }
    let reference = run(&mut girasol(["config-reference"])).success().stdout;
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/config.md");
    assert_eq!(reference, fs::read_to_string(page).unwrap());
    let usage = run(&mut girasol(["replay"]));
    assert!(usage.code != Some(0) && usage.stderr.contains("Usage: girasol replay"), "{}", usage.stderr);
}
