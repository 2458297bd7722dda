//! No picture and no sound leaves the process: a pattern that fills the media is found in no message, no file and no
//! line of the log, in none of the forms in which it would be likely to leak.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, path::Path, time::Duration};

use girasol_tests::{Broker, Subscriber, bundle, eager_config, girasol, media, run};

const SECONDS: u32 = 3;
/// What fills the media: no byte twice, none that JSON or base64 text could hold by chance in a row of eight.
const MARKER: [u8; 16] =
    [0xA7, 0x31, 0xF2, 0x8D, 0x16, 0xC9, 0x5E, 0xB4, 0x03, 0xDB, 0x72, 0x9F, 0x48, 0xE5, 0x2C, 0x81];

/// The marker over and over, as it stands in the media.
fn stream(bytes: usize) -> Vec<u8> {
    MARKER.iter().copied().cycle().take(bytes).collect()
}

fn samples() -> Vec<i16> {
    MARKER.as_chunks::<2>().0.iter().map(|pair| i16::from_le_bytes(*pair)).collect()
}

/// A clip that holds nothing but the marker: as samples, and as the brightness of pixels at the model's own size, so
/// that resizing changes nothing.
fn write_clip(dir: &Path) -> std::path::PathBuf {
    let clip = dir.join("clip.y4m");
    let picture = media::Picture { width: 128, height: 96, fps: media::FPS };
    media::write_y4m(&clip, picture, (SECONDS * media::FPS) as usize, |_, x, _| MARKER[x % 16]);
    media::write_pcm(
        &clip.with_extension("wav"),
        media::RATE,
        16,
        &stream((SECONDS * media::RATE * 2) as usize),
    );
    clip
}

/// The marker in one form, named.
struct Form {
    name: &'static str,
    bytes: Vec<u8>,
}

/// Every form that is searched for.
fn forms() -> Vec<Form> {
    let mut forms = Vec::new();
    let mut add = |name, bytes: Vec<u8>| forms.push(Form { name, bytes });
    let rgb: Vec<u8> = MARKER.iter().flat_map(|&v| [v; 3]).collect();
    let floats =
        |values: &mut dyn Iterator<Item = f32>| values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>();
    add("bytes as they are", MARKER.to_vec());
    add("samples, big-endian", samples().iter().flat_map(|s| s.to_be_bytes()).collect());
    add("samples as floats", floats(&mut samples().iter().map(|&s| f32::from(s) / 32_768.0)));
    add("pixels of the small frame", rgb[..24].to_vec());
    add("pixels as floats to 1", floats(&mut MARKER.iter().map(|&v| f32::from(v) / 255.0)));
    add("pixels as floats to 255", floats(&mut MARKER.iter().map(|&v| f32::from(v))));
    for (name, of) in [("bytes", MARKER.to_vec()), ("pixels", rgb)] {
        let hex: String = of[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        add("lower-case hex", hex.clone().into_bytes());
        add("upper-case hex", hex.to_uppercase().into_bytes());
        let periodic: Vec<u8> = of.iter().copied().cycle().take(96).collect();
        for phase in 0..3 {
            // The first group may hold bytes from before; the period of three bytes and of the marker meet after 48.
            let text = base64(&periodic[phase..phase + 48]);
            add("base64", text.as_bytes()[4..24].to_vec());
        }
        for separator in [", ", ",", " "] {
            let numbers: Vec<_> = of[..8].iter().map(u8::to_string).collect();
            add(name, numbers.join(separator).into_bytes());
        }
    }
    for separator in [", ", ",", " "] {
        let numbers: Vec<_> = samples()[..4].iter().map(i16::to_string).collect();
        add("samples as numbers", numbers.join(separator).into_bytes());
    }
    forms
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = |group: &[u8; 3]| {
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        [18, 12, 6, 0].map(|shift| char::from(DIGITS[(bits >> shift) as usize % 64]))
    };
    bytes.as_chunks::<3>().0.iter().flat_map(digits).collect()
}

/// Names of the forms that are in `bytes`.
fn leaks(bytes: &[u8]) -> Vec<&'static str> {
    let within = |form: &Form| bytes.windows(form.bytes.len()).any(|window| window == form.bytes);
    forms().iter().filter(|form| within(form)).map(|form| form.name).collect()
}

/// Every file below `dir` with its content.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    found
}

#[test]
fn the_search_would_find_each_form() {
    let dir = tempfile::tempdir().unwrap();
    let clip = write_clip(dir.path());
    for file in [clip.clone(), clip.with_extension("wav")] {
        assert_eq!(leaks(&fs::read(&file).unwrap()), ["bytes as they are"], "{}", file.display());
    }
    let rgb: Vec<u8> = stream(64).iter().flat_map(|&v| [v; 3]).collect();
    for start in 0..16 {
        let dump = base64(&stream(200)[start..]);
        assert!(leaks(dump.as_bytes()).contains(&"base64"), "{start}: {dump}");
        let dump: String = rgb[start..].iter().map(|byte| format!("{byte:02X}")).collect();
        assert!(leaks(dump.as_bytes()).contains(&"upper-case hex"), "{start}");
    }
    assert!(leaks(format!("{:?}", stream(64)).as_bytes()).contains(&"bytes"));
    assert!(leaks(format!("{:?}", samples().repeat(2)).as_bytes()).contains(&"samples as numbers"));
}

#[test]
fn nothing_of_the_media_is_in_messages_files_or_logs() {
    let (media, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (clip, broker) = (write_clip(media.path()), Broker::start());
    let seen = Subscriber::new(&broker, "keeper", "#");
    let mut config = eager_config(3);
    config +=
        &format!("\n[mqtt]\nurl = \"{}\"\n\n[log]\nlevel = \"trace\"\nformat = \"json\"\n", broker.url());
    fs::write(home.path().join("girasol.toml"), config).unwrap();
    for argument in ["--full-speed", "--progress=json"] {
        let mut command = girasol(["replay", argument, "--config", "girasol.toml", "--bundle"]);
        command.arg(bundle().canonicalize().unwrap()).arg(&clip).args(["--events", "events"]);
        for variable in ["HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"] {
            command.env(variable, home.path());
        }
        let outcome =
            run(command.current_dir(home.path()).env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full"));
        let outcome = outcome.success();
        assert!(!outcome.stderr.is_empty());
        assert_eq!(leaks(outcome.stderr.as_bytes()), [""; 0]);
        assert_eq!(leaks(outcome.stdout.as_bytes()), [""; 0]);
    }
    // Otherwise nothing was looked at.
    let offline = |r: &girasol_tests::Received| r.payload == "offline";
    let received = seen.wait(Duration::from_secs(20), |r| r.iter().filter(|r| offline(r)).count() == 2);
    assert!(received.iter().filter(|r| r.topic.ends_with("/event")).count() >= 2);
    for message in &received {
        assert_eq!(leaks(message.payload.as_bytes()), [""; 0], "{}", message.topic);
    }
    let written = files(home.path());
    assert!(written.iter().any(|(name, content)| name.ends_with("/events") && !content.is_empty()));
    for (name, content) in written.into_iter().chain(files(broker.dir())) {
        assert_eq!(leaks(&content), [""; 0], "{name}");
    }
}
