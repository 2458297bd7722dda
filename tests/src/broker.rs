//! A mosquitto of our own on a free loopback port, to be killed and restarted at will.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Where Debian puts it, which is not in everybody's path.
const MOSQUITTO: [&str; 2] = ["/usr/sbin/mosquitto", "mosquitto"];

/// A running (or killed) broker; stopped and removed when dropped.
#[derive(Debug)]
pub struct Broker {
    dir: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl Broker {
    /// Starts a broker that lets anybody in and keeps its state on disk after every change.
    ///
    /// # Panics
    /// When mosquitto cannot be started: without it these tests mean nothing.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with("allow_anonymous true\n")
    }

    /// Starts a broker with these lines in its configuration. `{dir}` stands for its directory.
    ///
    /// # Panics
    /// As [`Broker::start`].
    #[must_use]
    pub fn start_with(lines: &str) -> Self {
        let mut broker = Self::prepare(lines);
        broker.restart();
        broker
    }

    /// Chooses a port and writes the configuration, but starts nothing yet.
    ///
    /// # Panics
    /// When there is no free port or the temporary directory cannot be written.
    #[must_use]
    pub fn prepare(lines: &str) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut broker = Self { dir, port: free_port(), child: None };
        broker.configure(lines);
        broker
    }

    /// Replaces the configuration; takes effect with the next [`Broker::restart`].
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn configure(&mut self, lines: &str) {
        let dir = self.dir.path().display().to_string();
        // Started by root it would become another user, who may not write here.
        // A limit of 0 (none) on queued messages would make mosquitto before 2.0.22 hang up on every refused message.
        let config = format!(
            "user root\nlistener {} 127.0.0.1\npersistence true\npersistence_location {dir}/\nautosave_on_changes true\n\
             autosave_interval 1\nmax_queued_messages 1000000\nmax_inflight_messages 0\n\
             log_type error\nlog_type warning\nlog_type notice\nlog_type information\nlog_type subscribe\nlog_dest file {dir}/log\n{}",
            self.port,
            lines.replace("{dir}", &dir)
        );
        fs::write(self.dir.path().join("mosquitto.conf"), config).expect("mosquitto.conf");
    }

    /// The port, the same after a restart.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `mqtt://127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Directory of its configuration, state and log.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Starts it, on the same port and with the state on disk.
    ///
    /// # Panics
    /// When it does not listen within ten seconds.
    pub fn restart(&mut self) {
        self.stop();
        let config = self.dir.path().join("mosquitto.conf");
        let spawn = |program: &&str| {
            let mut command = Command::new(program);
            command.arg("-c").arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().ok()
        };
        self.child = MOSQUITTO.iter().find_map(spawn);
        assert!(self.child.is_some(), "mosquitto is not installed: apt-get install mosquitto");
        wait_until(Duration::from_secs(10), || TcpStream::connect(self.address()).is_ok())
            .unwrap_or_else(|()| panic!("mosquitto does not listen: {}", self.log()));
    }

    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it in order (SIGTERM), so that its state is saved.
    pub fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status();
        if wait_until(Duration::from_secs(5), || child.try_wait().is_ok_and(|s| s.is_some())).is_err() {
            let _ = child.kill();
        }
        let _ = child.wait();
    }

    /// Freezes it (SIGSTOP) or lets it go on (SIGCONT).
    pub fn freeze(&self, frozen: bool) {
        if let Some(child) = &self.child {
            let signal = if frozen { "-STOP" } else { "-CONT" };
            let _ = Command::new("kill").arg(signal).arg(child.id().to_string()).status();
        }
    }

    /// Deletes its saved state; to be called while it is not running.
    pub fn wipe(&self) {
        let _ = fs::remove_file(self.state_file());
    }

    fn state_file(&self) -> PathBuf {
        self.dir.path().join("mosquitto.db")
    }

    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.freeze(false);
        self.kill();
    }
}

/// `mosquitto_sub` with a session that the broker keeps: sees everything, across restarts of the broker.
#[derive(Debug)]
pub struct Subscriber {
    child: Child,
    file: PathBuf,
}

/// A message as a subscriber saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its topic.
    pub topic: String,
    /// Whether it was an old one that the broker kept.
    pub retained: bool,
    /// Its content.
    pub payload: String,
}

impl Subscriber {
    /// Subscribes as `name` and returns when the broker knows.
    ///
    /// # Panics
    /// When mosquitto_sub is not installed or does not come to subscribe.
    #[must_use]
    pub fn new(broker: &Broker, name: &str, filter: &str) -> Self {
        let file = broker.dir().join(format!("{name}.received"));
        let out = fs::File::create(&file).expect("a file for what is received");
        let child = Command::new("mosquitto_sub")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &broker.port().to_string(),
                "-V",
                "5",
                "-q",
                "1",
                "-c",
                "-x",
                "3600",
            ])
            .args(["-i", name, "-t", filter, "-F", "%t\t%r\t%p"])
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(Stdio::null())
            .spawn()
            .expect("mosquitto_sub is not installed: apt-get install mosquitto-clients");
        let line = format!("{name} 1 {filter}");
        wait_until(Duration::from_secs(10), || broker.log().contains(&line)).expect("a subscription");
        Self { child, file }
    }

    /// What has come so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        let text = fs::read_to_string(&self.file).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().filter_map(Received::parse).collect()
    }

    /// Waits until `enough` of what has come.
    ///
    /// # Panics
    /// When it is not enough after `within`.
    pub fn wait(&self, within: Duration, mut enough: impl FnMut(&[Received]) -> bool) -> Vec<Received> {
        let waited = wait_until(within, || enough(&self.received()));
        let received = self.received();
        let tail = &received[received.len().saturating_sub(5)..];
        assert!(waited.is_ok(), "after {within:?} {} messages have come; the last: {tail:?}", received.len());
        received
    }
}

impl Received {
    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.splitn(3, '\t');
        let (topic, retained, payload) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Self { topic: topic.into(), retained: retained == "1", payload: payload.into() })
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Asks every 10 ms until `done`.
///
/// # Errors
/// When it is not done after `within`.
#[allow(
    clippy::disallowed_methods,
    clippy::result_unit_err,
    reason = "tests against real programs wait in real time"
)]
pub fn wait_until(within: Duration, mut done: impl FnMut() -> bool) -> Result<(), ()> {
    let begun = Instant::now();
    while !done() {
        if begun.elapsed() > within {
            return Err(());
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
