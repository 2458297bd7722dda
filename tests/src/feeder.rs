//! `girasol-feeder` as a child process, to be killed and started again.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::wait_until;

/// A device that publishes numbered events. Killed when dropped.
#[derive(Debug)]
pub struct Feeder {
    /// Its configuration, log and state.
    dir: PathBuf,
    total: u64,
    rate: f64,
    child: Option<Child>,
    starts: u32,
    /// Words before the program's name: `ip netns exec …`.
    prefix: Vec<String>,
    preload: Option<PathBuf>,
}

/// How things stand with it.
#[derive(Clone, Debug, Default)]
pub struct Status(Value);

impl Status {
    /// A number that it reports, 0 if it has not.
    #[must_use]
    pub fn number(&self, key: &str) -> u64 {
        self.0[key].as_u64().unwrap_or(0)
    }

    /// Seconds to the next try after the last fault.
    #[must_use]
    pub fn retry_in(&self) -> Duration {
        Duration::try_from_secs_f64(self.0["retry_in"].as_f64().unwrap_or(0.0)).unwrap_or(Duration::MAX)
    }

    /// A text that it reports, empty if it has not.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or("")
    }

    /// Whether it is connected.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.0["connected"] == true
    }
}

impl Feeder {
    /// Prepares a device that publishes `total` events, `rate` a second. `config` is the rest of its configuration; its
    /// state is in `state` below `dir`.
    ///
    /// # Panics
    /// When `dir` cannot be written.
    #[must_use]
    pub fn new(dir: &Path, total: u64, rate: f64, config: &str) -> Self {
        let config = format!(
            "[device]\nname = \"porch\"\n\n[state]\ndirectory = \"{}\"\n\n[outbox]\nsize_mib = 16\n{config}",
            dir.join("state").display()
        );
        fs::write(dir.join("girasol.toml"), config).expect("a configuration");
        let (child, starts, prefix, preload) = (None, 0, Vec::new(), None);
        Self { dir: dir.into(), total, rate, child, starts, prefix, preload }
    }

    /// Runs it by another program: `["ip", "netns", "exec", "name"]`.
    #[must_use]
    pub fn by(mut self, prefix: &[&str]) -> Self {
        self.prefix = prefix.iter().map(|&word| word.into()).collect();
        self
    }

    /// Runs it with a library in front of the C library.
    #[must_use]
    pub fn preloading(mut self, library: PathBuf) -> Self {
        self.preload = Some(library);
        self
    }

    /// Starts it, or starts it again after its end.
    ///
    /// # Panics
    /// When it is not built.
    pub fn start(&mut self) {
        self.kill();
        self.starts += 1;
        let out = File::create(self.said()).expect("a file for its output");
        let test = std::env::current_exe().expect("the path of this test");
        let profile = test.parent().and_then(Path::parent).expect("a test in target/<profile>/deps");
        let program = profile.join("girasol-feeder");
        let mut command = match self.prefix.split_first() {
            None => Command::new(&program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(&program);
                command
            }
        };
        if let Some(library) = &self.preload {
            command.env("LD_PRELOAD", library).env("CLOCK_OFFSET_FILE", self.dir.join("offset"));
        }
        command.arg(self.dir.join("girasol.toml")).arg(self.total.to_string()).arg(self.rate.to_string());
        command.arg(&self.dir).stdin(Stdio::null()).stdout(out).env_remove("STATE_DIRECTORY");
        command.stderr(File::create(self.dir.join("stderr")).expect("a file for its errors"));
        let child = command.spawn();
        self.child =
            Some(child.unwrap_or_else(|e| panic!("{}: {e}: test the whole workspace", program.display())));
    }

    fn said(&self) -> PathBuf {
        self.dir.join(format!("said.{}", self.starts))
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// How often it was started.
    #[must_use]
    pub fn starts(&self) -> u32 {
        self.starts
    }

    /// What it said last.
    #[must_use]
    pub fn status(&self) -> Status {
        let said = fs::read_to_string(self.said()).unwrap_or_default();
        let whole = said.rfind('\n').map_or("", |end| &said[..end]);
        whole
            .lines()
            .next_back()
            .and_then(|line| serde_json::from_str(line).ok())
            .map(Status)
            .unwrap_or_default()
    }

    /// Waits until it says so.
    ///
    /// # Panics
    /// When it does not within `within`.
    pub fn wait(&self, within: Duration, done: impl Fn(&Status) -> bool) -> Status {
        let waited = wait_until(within, || done(&self.status()));
        assert!(waited.is_ok(), "after {within:?}: {:?}", self.status());
        self.status()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// Processor time that it has used since its start. Of the program itself, not of a `prefix`.
    #[must_use]
    pub fn cpu(&self) -> Duration {
        let Some(child) = &self.child else { return Duration::ZERO };
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or("");
        let ticks =
            |n: usize| after_name.split_whitespace().nth(n).and_then(|t| t.parse::<u64>().ok()).unwrap_or(0);
        // Fields 14 and 15 of the line, in hundredths of a second.
        Duration::from_millis((ticks(11) + ticks(12)) * 10)
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.kill();
    }
}
