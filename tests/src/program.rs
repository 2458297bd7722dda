//! The program under test: found beside the tests, run with bounded patience, its output kept.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::wait_until;

/// No run of the program in these tests takes longer, on any machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// `target/<profile>/girasol`, which `cargo test --workspace` builds before it runs any test.
///
/// # Panics
/// When it is not there.
#[must_use]
pub fn program() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test.parent().and_then(Path::parent).expect("a test in target/<profile>/deps");
    let program = profile.join("girasol");
    assert!(
        program.is_file(),
        "{} is not built: run `cargo build -p girasol` with the same profile, or test the whole workspace",
        program.display()
    );
    program
}

/// The shipped model bundle, or the one that `GIRASOL_BUNDLE` names.
#[must_use]
pub fn bundle() -> PathBuf {
    let shipped = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/bundle");
    std::env::var_os("GIRASOL_BUNDLE").map_or_else(shipped, PathBuf::from)
}

/// The manifest of [`bundle`].
///
/// # Panics
/// When there is none.
#[must_use]
pub fn manifest() -> Value {
    let path = bundle().join("manifest.json");
    let text = fs::read_to_string(&path);
    let text = text.unwrap_or_else(|e| panic!("{}: {e}: a model bundle is needed", path.display()));
    serde_json::from_str(&text).expect("a manifest")
}

/// Ids of the bundle's labels: audible, visible.
///
/// # Panics
/// As [`manifest`].
#[must_use]
pub fn labels() -> [Vec<String>; 2] {
    let manifest = manifest();
    ["audible", "visible"].map(|kind| {
        let list = manifest["labels"][kind].as_array().expect("labels");
        list.iter().filter_map(|label| label["id"].as_str()).map(str::to_owned).collect()
    })
}

/// A configuration that raises events whatever the bundle makes of the clip: the first labels of each sense begin at
/// almost any probability, are updated every second and ended after three.
#[must_use]
pub fn eager_config(labels_per_sense: usize) -> String {
    let mut text =
        String::from("[device]\nname = \"porch\"\n\n[events]\nwhy = true\nupdate_every = \"1s\"\n");
    for (sense, labels) in ["hear", "see"].into_iter().zip(labels()) {
        text += &format!("\n[{sense}]\ncool_down = \"500ms\"\nmax_duration = \"3s\"\n");
        for label in labels.iter().take(labels_per_sense) {
            let gate = "enabled = true\non = 0.000002\noff = 0.000001\nmin_snippets = 1";
            text += &format!("\n[{sense}.labels.{label}]\n{gate}\n");
        }
    }
    text
}

/// `girasol` with arguments, not yet started; nothing on its standard input.
#[must_use]
pub fn girasol<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::null());
    command
}

/// `girasol replay` of `clip` with [`bundle`] at full speed, without a broker. More arguments can be added.
#[must_use]
pub fn replay(clip: &Path) -> Command {
    let mut command = girasol(["replay", "--full-speed", "--no-mqtt", "--bundle"]);
    command.arg(bundle()).arg(clip);
    command
}

/// A program under way. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: File,
    stderr: File,
}

/// What a program came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Exit status; none if it was killed.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it said on standard error.
    pub stderr: String,
    /// Most memory that was ever resident, in KiB: the highest mark that was seen until shortly before its end.
    pub high_water_kib: u64,
}

impl Running {
    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let [stdout, stderr] = [(); 2].map(|()| tempfile::tempfile().expect("a temporary file"));
        let [out, err] = [&stdout, &stderr].map(|file| file.try_clone().expect("a second handle"));
        let child = command.stdout(out).stderr(err).spawn().expect("girasol starts");
        Self { child, stdout, stderr }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has said on standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// Waits until it has said `words` on standard error.
    ///
    /// # Panics
    /// When it has not after two minutes, or ended without.
    pub fn wait_for(&mut self, words: &str) {
        let mut ended = false;
        let said = wait_until(PATIENCE, || {
            ended |= self.child.try_wait().is_ok_and(|status| status.is_some());
            self.stderr().contains(words) || ended
        });
        assert!(said.is_ok() && self.stderr().contains(words), "not said: {words}: {}", self.stderr());
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends it a signal: `TERM`, `HUP` …
    pub fn signal(&self, name: &str) {
        let _ = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
    }

    /// Waits for its end, at most two minutes.
    ///
    /// # Panics
    /// When it goes on longer.
    #[must_use]
    pub fn finish(self) -> Outcome {
        self.finish_within(PATIENCE)
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it goes on longer than `limit`.
    #[must_use]
    pub fn finish_within(mut self, limit: Duration) -> Outcome {
        let (mut code, mut high_water_kib) = (None, 0);
        let ended = wait_until(limit, || {
            // The kernel updates the mark from counts by CPU that it has not all added up, so that it may fall again.
            high_water_kib = high_water_kib.max(high_water(self.child.id()).unwrap_or(0));
            let status = self.child.try_wait().expect("a child of ours");
            code = status.and_then(|status| status.code());
            status.is_some()
        });
        assert!(ended.is_ok(), "still running after {limit:?}: {}", tail(&self.stderr()));
        Outcome { code, stdout: text(&self.stdout), stderr: self.stderr(), high_water_kib }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs it to its end.
///
/// # Panics
/// When it cannot be started or takes longer than two minutes.
#[must_use]
pub fn run(command: &mut Command) -> Outcome {
    Running::start(command).finish()
}

impl Outcome {
    /// The same, if it ended well.
    ///
    /// # Panics
    /// When it did not.
    #[must_use]
    pub fn success(self) -> Self {
        assert_eq!(self.code, Some(0), "{}{}", tail(&self.stdout), tail(&self.stderr));
        self
    }

    /// The last line on standard error: where the program says why it failed.
    #[must_use]
    pub fn complaint(&self) -> &str {
        self.stderr.lines().last().unwrap_or_default()
    }
}

/// Lines of JSON.
///
/// # Panics
/// When a line is none.
#[must_use]
pub fn json_lines(text: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    text.lines().map(parse).collect()
}

/// Read by position: the program's own place in the file must not move.
fn text(file: &File) -> String {
    let size = file.metadata().expect("a file of ours").len();
    let mut bytes = vec![0; usize::try_from(size).expect("a short text")];
    file.read_exact_at(&mut bytes, 0).expect("what the program wrote");
    String::from_utf8_lossy(&bytes).into_owned()
}

fn tail(text: &str) -> &str {
    let start = text.char_indices().rev().nth(2_000).map_or(0, |(at, _)| at);
    &text[start..]
}

/// `VmHWM` of a process, in KiB.
fn high_water(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    value.trim().strip_suffix("kB")?.trim().parse().ok()
}
