//! What may go wrong between the device and its subscribers, against a real mosquitto: nothing is lost, copies are known
//! by their number, the order holds, and it is over soon after the fault is.
//!
//! Each kind of trouble is a test. `make test` gives each a few hundred events and the shorter stops; `make test-faults`
//! 10 000 (`FAULT_EVENTS`) and the longer ones, one after the other, and shows what was measured as a table.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test: it may panic, and it measures real time"
)]

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use girasol_tests::{
    Broker, Feeder, Manner, Outcome, Received, Relay, Status, Subscriber, bundle, eager_config, girasol,
    have_openssl, json_lines, make_authority, make_expired_server, make_server,
    media::{self, Dice},
    run, wait_until,
};
use serde_json::Value;

/// More than any case takes.
const PATIENCE: Duration = Duration::from_secs(300);
/// The promise: so long after the back-off at the end of the fault everything flows again.
const RECOVERY: Duration = Duration::from_secs(1);
/// The device says how things stand ten times a second, and when its back-off changes; this is surely later.
const SAID: f64 = 0.15;
/// Numbers of this size are the long form, with stops as long as SPECIFICATION.md says.
const LONG: u64 = 5_000;

/// A broker that saves after every message takes few of them a second.
const QUICK: &str = "allow_anonymous true\nautosave_on_changes false\n";

/// Events of each case.
fn total() -> u64 {
    std::env::var("FAULT_EVENTS").ok().and_then(|n| n.parse().ok()).unwrap_or(500)
}

/// Events a second: the faults fall midway.
fn rate() -> f64 {
    if total() >= LONG { 500.0 } else { 100.0 }
}

/// How long a fault lasts.
fn seconds(long: f64, short: f64) -> f64 {
    if total() >= LONG { long } else { short }
}

/// What subscribers saw, against what the device says.
#[derive(Debug, Default)]
struct Seen {
    copies: usize,
    out_of_order: usize,
    replayed: usize,
    missing: Vec<u64>,
    unique: BTreeSet<u64>,
}

fn number(received: &Received) -> Option<u64> {
    serde_json::from_str::<Value>(&received.payload).ok()?.get("n")?.as_u64()
}

/// `may_miss` says which numbers the device never had safe.
fn compare(received: &[Received], total: u64, may_miss: &BTreeSet<u64>) -> Seen {
    let (mut seen, mut newest) = (Seen::default(), None);
    for (message, n) in received.iter().filter_map(|r| Some((r, number(r)?))) {
        seen.replayed += usize::from(message.topic.ends_with("/event/replayed"));
        if !seen.unique.insert(n) {
            seen.copies += 1;
        } else if newest.is_some_and(|newest| n < newest) {
            seen.out_of_order += 1;
        } else {
            newest = Some(n);
        }
    }
    seen.missing = (0..total).filter(|n| !seen.unique.contains(n) && !may_miss.contains(n)).collect();
    seen
}

impl Seen {
    /// Seen by two: missing is what neither has; order and copies are each one's own.
    fn or(self, other: Self) -> Self {
        Self {
            copies: self.copies.max(other.copies),
            out_of_order: self.out_of_order + other.out_of_order,
            replayed: self.replayed.max(other.replayed),
            missing: self.missing.into_iter().filter(|n| other.missing.contains(n)).collect(),
            unique: &self.unique | &other.unique,
        }
    }
}

/// A case under way.
struct Case {
    name: &'static str,
    dir: tempfile::TempDir,
    broker: Broker,
    subscribers: Vec<Subscriber>,
    total: u64,
    /// Events a second.
    rate: f64,
}

/// A line of the table.
struct Row {
    name: &'static str,
    events: u64,
    seen: Seen,
    connections: u64,
    /// From the end of the fault to the first acknowledgement, and the back-off at that time.
    recovery: Option<(Duration, Duration)>,
    /// Processor time per second while the fault lasted.
    cpu: Option<f64>,
    /// Processor time of the whole run.
    used: Duration,
    note: String,
}

impl Case {
    /// With a broker that saves its state once a second and when it is stopped in order.
    fn new(name: &'static str) -> Self {
        Self::with(name, Broker::start_with(QUICK))
    }

    fn with(name: &'static str, broker: Broker) -> Self {
        let subscribers = vec![Subscriber::new(&broker, "keeper", "girasol/#")];
        Self { name, dir: tempfile::tempdir().unwrap(), broker, subscribers, total: total(), rate: rate() }
    }

    fn feeder(&self, url: &str, more: &str) -> Feeder {
        let config = format!("\n[mqtt]\nurl = \"{url}\"\nkeep_alive = \"5s\"\n{more}");
        Feeder::new(self.dir.path(), self.total, self.rate, &config)
    }

    /// Lets `fault` happen once a fifth of the events has arrived; it returns when the way to the broker is free again.
    /// Then waits for the rest.
    fn run(&mut self, feeder: &mut Feeder, fault: impl FnOnce(&mut Self, &mut Feeder)) -> Row {
        feeder.start();
        let fifth = self.total / 5;
        feeder.wait(PATIENCE, |s| s.number("acked") >= fifth);
        let (begun, cpu) = (Instant::now(), feeder.cpu());
        fault(self, feeder);
        let (lasted, used) = (begun.elapsed(), feeder.cpu().saturating_sub(cpu));
        let (over, backoff) = (Instant::now(), feeder.status().retry_in());
        // Acknowledgements from before the end are told by then, and a try that had just begun.
        pause(SAID);
        let before = feeder.status();
        let backoff = backoff.max(before.retry_in());
        // Some troubles let everything through all the same.
        let all_done = feeder.has_ended();
        let recovered = wait_until(PATIENCE, || {
            feeder.status().number("acked") > before.number("acked") || feeder.has_ended()
        });
        assert!(recovered.is_ok(), "{}: {:?}", self.name, feeder.status());
        let recovery = over.elapsed();
        let mut row = self.finish(feeder);
        row.recovery = (!all_done).then_some((recovery, backoff));
        row.cpu = (lasted > Duration::from_secs(1)).then(|| used.as_secs_f64() / lasted.as_secs_f64());
        row
    }

    /// Waits until the device is done and the subscriber has everything.
    fn finish(&self, feeder: &mut Feeder) -> Row {
        let mut used = Duration::ZERO;
        let ended = wait_until(PATIENCE, || {
            used = used.max(feeder.cpu());
            feeder.has_ended()
        });
        let status = feeder.status();
        assert!(ended.is_ok(), "{}: {status:?}", self.name);
        assert_eq!((status.number("queued"), status.number("dropped")), (0, 0), "{}: {status:?}", self.name);
        let row = self.row(self.seen(&BTreeSet::new()), used);
        Row { connections: status.number("connections"), ..row }
    }

    fn seen(&self, may_miss: &BTreeSet<u64>) -> Seen {
        let all = || {
            let each = self.subscribers.iter().map(|s| compare(&s.received(), self.total, may_miss));
            each.reduce(Seen::or).unwrap()
        };
        let _ = wait_until(Duration::from_secs(20), || all().missing.is_empty());
        all()
    }

    fn row(&self, seen: Seen, used: Duration) -> Row {
        let (name, events) = (self.name, self.total);
        Row { name, events, seen, connections: 0, recovery: None, cpu: None, used, note: String::new() }
    }

    fn skipped(&self, why: &str) -> Row {
        self.row(Seen::default(), Duration::ZERO).note(format!("skipped: {why}"))
    }
}

impl Row {
    fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Nothing lost, copies only of what was in flight, in order, soon over, without a spin.
    fn check(self, disturbances: usize) -> Self {
        self.print();
        let missing = &self.seen.missing;
        let some = &missing[..missing.len().min(9)];
        assert!(missing.is_empty(), "{}: {} lost: {some:?}", self.name, missing.len());
        assert_eq!(self.seen.out_of_order, 0, "{}", self.name);
        assert!(self.seen.copies <= 32 * disturbances, "{}: {} copies", self.name, self.seen.copies);
        if let Some((took, backoff)) = self.recovery {
            assert!(took <= backoff + RECOVERY, "{}: {took:?}, back-off {backoff:?}", self.name);
        }
        if let Some(cpu) = self.cpu {
            assert!(cpu < 0.5, "{}: {cpu} of a processor", self.name);
        }
        self
    }

    fn noticed(self) -> Self {
        assert!(self.connections >= 2, "{}: not even noticed", self.name);
        self
    }

    fn print(&self) {
        let seconds = |d: Duration| format!("{:.1} s", d.as_secs_f64());
        let (took, backoff) =
            self.recovery.map_or(("–".into(), "–".into()), |(a, b)| (seconds(a), seconds(b)));
        let cpu = self.cpu.map_or("–".into(), |cpu| format!("{:.0} %", cpu * 100.0));
        let row = format!(
            "| {} | {} | {} | {} | {} | {} | {} | {took} | {backoff} | {cpu} | {:.1} s | {} |",
            self.name,
            self.events,
            self.seen.missing.len(),
            self.seen.copies,
            self.seen.out_of_order,
            self.seen.replayed,
            self.connections,
            self.used.as_secs_f64(),
            self.note
        );
        println!("{row}");
        if let Some(table) = std::env::var_os("FAULT_TABLE") {
            let file = fs::OpenOptions::new().create(true).append(true).open(table);
            writeln!(file.unwrap(), "{row}").unwrap();
        }
    }
}

fn pause(seconds: f64) {
    let _ = wait_until(Duration::from_secs_f64(seconds), || false);
}

/// A network namespace with a wire to ours; gone when dropped.
struct Namespace {
    name: String,
    here: String,
    there: String,
    peer: (Ipv4Addr, Ipv4Addr),
}

impl Namespace {
    /// `None` where we may not make one. Names and addresses are this process's own, so that what a run that was broken off
    /// has left cannot be met; it is removed here.
    fn new() -> Option<Self> {
        let id = std::process::id();
        for left in namespaces().filter(|other| !Path::new(&format!("/proc/{other}")).exists()) {
            ip(&format!("netns del girasol{left}"));
        }
        let name = format!("girasol{id}");
        let (here, there) = (format!("gs{id}a"), format!("gs{id}b"));
        // Four addresses of 10.212.0.0/14 for each number of a process, which has at most 22 bits; modulo is enough.
        let first = u32::from(Ipv4Addr::new(10, 212, 0, 0)) + id % (1 << 16) * 4;
        let peer = (Ipv4Addr::from(first + 1), Ipv4Addr::from(first + 2));
        let namespace = Self { name, here, there, peer };
        let Self { name, here, there, .. } = &namespace;
        let made = ip(&format!("netns add {name}"))
            && ip(&format!("link add {here} type veth peer name {there} netns {name}"))
            && ip(&format!("addr add {}/30 dev {here}", peer.0))
            && ip(&format!("link set {here} up"))
            && ip(&format!("-n {name} addr add {}/30 dev {there}", peer.1))
            && ip(&format!("-n {name} link set {there} up"));
        made.then_some(namespace)
    }

    /// Packets go nowhere, both ways, and nobody is told: each side sends to a card that is not there.
    fn cut(&self, cut: bool) {
        let Self { name, here, there, peer } = self;
        if cut {
            let nowhere = "lladdr 02:00:00:00:00:99 nud permanent";
            assert!(ip(&format!("neigh replace {} dev {here} {nowhere}", peer.1)));
            assert!(ip(&format!("-n {name} neigh replace {} dev {there} {nowhere}", peer.0)));
        } else {
            assert!(ip(&format!("neigh del {} dev {here}", peer.1)));
            assert!(ip(&format!("-n {name} neigh del {} dev {there}", peer.0)));
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&format!("link del {}", self.here));
        ip(&format!("netns del {}", self.name));
    }
}

/// Numbers of the processes that made namespaces as ours.
fn namespaces() -> impl Iterator<Item = u32> {
    let listed =
        Command::new("ip").args(["netns", "list"]).output().map(|out| out.stdout).unwrap_or_default();
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let number = |line: &str| line.split_whitespace().next()?.strip_prefix("girasol")?.parse().ok();
    listed.lines().filter_map(number).collect::<Vec<_>>().into_iter()
}

fn ip(arguments: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments.split_whitespace()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// `None` without a C compiler.
fn clock_shim(dir: &Path) -> Option<PathBuf> {
    let (source, library) =
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clock.c"), dir.join("clock.so"));
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    built.is_ok_and(|status| status.success()).then_some(library)
}

/// The tests of the table.
mod matrix {
    use super::*;

    #[test]
    fn broker_killed() {
        let mut case = Case::with("broker killed (SIGKILL), back after 5 s", Broker::start());
        let mut feeder = case.feeder(&case.broker.url(), "");
        let row = case.run(&mut feeder, |case, _| {
            case.broker.kill();
            pause(5.0);
            case.broker.restart();
        });
        // The broker, too, sends its subscriber again what that had not acknowledged.
        row.check(2).noticed();
    }

    #[test]
    fn broker_frozen() {
        let mut case = Case::new("broker frozen (SIGSTOP) for 20 s");
        let mut feeder = case.feeder(&case.broker.url(), "");
        let row = case.run(&mut feeder, |case, _| {
            case.broker.freeze(true);
            pause(seconds(20.0, 13.0));
            case.broker.freeze(false);
        });
        row.check(3).noticed();
    }

    /// The broker forgets the subscriber's session, too: another subscribes before the device comes back, and what the
    /// two have seen is taken together.
    #[test]
    fn broker_wiped() {
        let mut case = Case::with("broker killed, its state wiped", Broker::start());
        let gate = Relay::to(&case.broker);
        let mut feeder = case.feeder(&gate.url(), "");
        let row = case.run(&mut feeder, |case, _| {
            gate.set(Manner::Stall);
            // The subscriber gets what the broker has; for a killed broker's last words to it may be lost with its session.
            pause(2.0);
            case.broker.kill();
            case.broker.wipe();
            case.broker.restart();
            case.subscribers.push(Subscriber::new(&case.broker, "later", "girasol/#"));
            gate.cut();
            gate.set(Manner::Pass);
        });
        row.check(1).noticed();
    }

    #[test]
    fn half_open() {
        let mut case = Case::new("half-open: packets dropped for 24 s");
        let stop = seconds(24.0, 14.0);
        let row = match Namespace::new() {
            Some(namespace) => {
                let relay = Relay::listening(namespace.peer.0, &case.broker);
                let url = format!("mqtt://{}:{}", namespace.peer.0, relay.port());
                let mut feeder = case.feeder(&url, "").by(&["ip", "netns", "exec", &namespace.name]);
                let row = case.run(&mut feeder, |_, _| {
                    namespace.cut(true);
                    pause(stop);
                    namespace.cut(false);
                });
                row.note("in a network namespace")
            }
            None => {
                let relay = Relay::to(&case.broker);
                let mut feeder = case.feeder(&relay.url(), "");
                let row = case.run(&mut feeder, |_, _| {
                    relay.set(Manner::Swallow);
                    pause(stop);
                    relay.set(Manner::Pass);
                });
                row.note("no network namespace: a relay that swallows")
            }
        };
        row.check(3).noticed();
    }

    #[test]
    fn peer_stops_reading() {
        let mut case = Case::new("a peer that stops reading for 20 s");
        let relay = Relay::to(&case.broker);
        let mut feeder = case.feeder(&relay.url(), "");
        let row = case.run(&mut feeder, |_, _| {
            relay.set(Manner::Stall);
            pause(seconds(20.0, 13.0));
            relay.set(Manner::Pass);
        });
        row.check(3).noticed();
    }

    #[test]
    fn malformed_packets() {
        let mut case = Case::new("malformed packets, of 8 kinds");
        let relay = Relay::to(&case.broker);
        let mut feeder = case.feeder(&relay.url(), "");
        let garbage: [&[u8]; 8] = [
            &[0x00, 0x00],
            &[0xf0, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x40, 0x01, 0x00],
            &[0x20, 0x7f, 0x01],
            &[0x30, 0x05, 0xff, 0xff, b'a', b'b', b'c'],
            &[0x40, 0x02, 0x00, 0x00],
            &[0xff; 64],
            &[0x90, 0x03, 0x00, 0x01, 0xff],
        ];
        // The back-off doubles: all eight take a minute.
        let garbage = if total() >= LONG { &garbage[..] } else { &garbage[..4] };
        let row = case.run(&mut feeder, |case, feeder| {
            for bytes in garbage {
                let acked = feeder.status().number("acked");
                relay.inject(bytes);
                let enough = acked + case.total / 100;
                feeder.wait(PATIENCE, |s| s.number("acked") > enough || s.number("queued") == 0);
            }
            // A packet that promises more than it holds is only noticed when the broker falls silent.
            relay.cut();
        });
        row.check(garbage.len() + 1).noticed();
    }

    #[test]
    fn duplicate_client_id() {
        let mut case = Case::new("another client with our id until that is named, and 10 s more");
        // It takes four short connections.
        case.rate = if total() >= LONG { 140.0 } else { 20.0 };
        let mut feeder = case.feeder(&case.broker.url(), "");
        let other = tempfile::tempdir().unwrap();
        let mut named = String::new();
        let row = case.run(&mut feeder, |case, feeder| {
            let config = format!("\n[mqtt]\nurl = \"{}\"\ntopic_prefix = \"intruder\"\n", case.broker.url());
            let mut intruder = Feeder::new(other.path(), 1_000_000, 1.0, &config);
            intruder.start();
            let faults = |feeder: &Feeder| [feeder, &intruder].map(|f| f.status().text("fault").to_owned());
            let _ = wait_until(Duration::from_secs(60), || {
                named = faults(feeder).join(", ");
                named.contains("TakenOver")
            });
            pause(seconds(10.0, 1.0));
        });
        assert!(named.contains("TakenOver"), "{named}");
        assert!(row.connections < 30, "a ping-pong: {} connections", row.connections);
        row.note(format!("named: {named}")).check(30).noticed();
    }

    #[test]
    fn auth_refused() {
        let mut case = Case::new("login refused for 6 s, then the password file put right");
        let (password, dir) = (case.dir.path().join("password"), case.broker.dir().to_owned());
        fs::write(&password, "wrong\n").unwrap();
        let made = Command::new("mosquitto_passwd")
            .args(["-b", "-c"])
            .arg(dir.join("passwd"))
            .args(["porch", "right"])
            .status();
        assert!(made.is_ok_and(|status| status.success()), "mosquitto_passwd is not installed");
        let login = format!("username = \"porch\"\npassword_file = \"{}\"\n", password.display());
        let mut feeder = case.feeder(&case.broker.url(), &login);
        // The subscriber has no name and is let in; who gives one must know the password.
        let row = case.run(&mut feeder, |case, feeder| {
            case.broker.stop();
            case.broker.configure(&format!("{QUICK}password_file {{dir}}/passwd\n"));
            case.broker.restart();
            let refused = feeder.wait(PATIENCE, |s| s.text("fault") == "Auth");
            assert!(refused.text("fault_text").contains("password_file"), "{refused:?}");
            pause(seconds(6.0, 2.0));
            fs::write(&password, "right\n").unwrap();
        });
        row.check(1).noticed();
    }

    #[test]
    fn certificate_expired() {
        let mut case = Case::new("certificate expired for 6 s, then renewed");
        if !have_openssl() {
            return case.skipped("no openssl program").print();
        }
        let dir = case.broker.dir().to_owned();
        make_authority(&dir, "ours");
        make_server(&dir, "ours", "IP:127.0.0.1");
        let tls = case.broker.port() + 1;
        let lines = format!(
            "{QUICK}listener {tls} 127.0.0.1\ncertfile {{dir}}/server.pem\nkeyfile {{dir}}/server.key\n"
        );
        case.broker.configure(&lines);
        case.broker.restart();
        let ca = format!("ca_file = \"{}\"\n", dir.join("ours.pem").display());
        let mut feeder = case.feeder(&format!("mqtts://127.0.0.1:{tls}"), &ca);
        let row = case.run(&mut feeder, |case, feeder| {
            case.broker.stop();
            make_expired_server(&dir, "ours", "IP:127.0.0.1");
            pause(1.5);
            case.broker.restart();
            let refused = feeder.wait(PATIENCE, |s| s.text("fault") == "Tls");
            assert!(refused.text("fault_text").contains("expired"), "{refused:?}");
            pause(seconds(6.0, 2.0));
            case.broker.stop();
            make_server(&dir, "ours", "IP:127.0.0.1");
            case.broker.restart();
        });
        row.check(1).noticed();
    }

    #[test]
    fn disk_full() {
        let case = Case::new("disk full from midway on, the device killed and restarted on it");
        let mount = case.dir.path().join("state");
        fs::create_dir(&mount).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=20m", "none"]).arg(&mount).status();
        if !mounted.is_ok_and(|s| s.success()) {
            case.skipped("may not mount a small disk").print();
            return;
        }
        let mut feeder = case.feeder(&case.broker.url(), "");
        full_disk(case, &mut feeder, &mount);
        drop(feeder);
        let _ = Command::new("umount").arg(&mount).status();
    }

    fn full_disk(mut case: Case, feeder: &mut Feeder, mount: &Path) {
        feeder.start();
        feeder.wait(PATIENCE, |s| s.number("acked") >= case.total / 5);
        let cpu = feeder.cpu();
        case.broker.stop();
        assert!(fs::write(mount.join("junk"), vec![1; 24 << 20]).is_err(), "the disk is full");
        pause(3.0);
        let (safe, used) = (feeder.status().number("saved"), feeder.cpu());
        feeder.kill();
        let tried = fs::metadata(case.dir.path().join("tried")).unwrap().len();
        assert!(tried < case.total, "everything was over before the fault was");
        feeder.start();
        pause(2.0);
        case.broker.restart();
        let (over, before) = (Instant::now(), feeder.status());
        let recovered = wait_until(PATIENCE, || feeder.status().number("acked") > 0);
        assert!(recovered.is_ok(), "{:?}", feeder.status());
        let recovery = Some((over.elapsed(), before.retry_in()));
        let row = case.finish(feeder);
        let status = feeder.status();
        assert_eq!((status.text("outbox_fault"), status.number("disk_faults")), ("", 0), "{status:?}");
        let seen = case.seen(&(safe..tried).collect());
        let never_safe = row.seen.missing.len() - seen.missing.len();
        let note = format!("the ring has its place from the start; {never_safe} not yet written when killed");
        let cpu = Some((used - cpu).as_secs_f64() / 3.0);
        Row { seen, cpu, used: row.used + used, recovery, ..row }.note(note).check(2);
    }

    #[test]
    fn clock_jumps() {
        let mut case = Case::new("wall clock jumps: +10 years, to 1970, back, with a broker restart");
        let Some(shim) = clock_shim(case.dir.path()) else {
            return case.skipped("no C compiler").print();
        };
        let mut feeder = case.feeder(&case.broker.url(), "").preloading(shim);
        let offset = case.dir.path().join("offset");
        let row = case.run(&mut feeder, |case, feeder| {
            for seconds in ["315360000", "-1790000000", "0"] {
                fs::write(&offset, seconds).unwrap();
                let enough = feeder.status().number("acked") + case.total / 50;
                feeder.wait(PATIENCE, |s| s.number("acked") > enough || s.number("queued") == 0);
            }
            fs::write(&offset, "315360000").unwrap();
            case.broker.stop();
            case.broker.restart();
        });
        row.check(1).noticed();
    }

    /// What is not yet on disk at the time may be missing.
    #[test]
    fn our_own_end() {
        let case = Case::new("our own process killed (SIGKILL) at random moments");
        let mut feeder = case.feeder(&case.broker.url(), "");
        let (mut dice, mut may_miss, mut kills, mut used) =
            (Dice::new(7), BTreeSet::new(), 0, Duration::ZERO);
        loop {
            feeder.start();
            let life = Duration::from_millis(300 + dice.roll() % 1_500);
            let mut this = Duration::ZERO;
            let ended = wait_until(life, || {
                this = this.max(feeder.cpu());
                feeder.has_ended()
            });
            used += this;
            if ended.is_ok() {
                break;
            }
            feeder.kill();
            kills += 1;
            // What it said last was up to a tenth of a second before the end.
            let saved = feeder.status().number("saved");
            let tried = fs::metadata(case.dir.path().join("tried")).map_or(0, |m| m.len());
            may_miss.extend(saved.min(tried)..tried);
        }
        let seen = case.seen(&may_miss);
        let never_safe = (0..case.total).filter(|n| !seen.unique.contains(n)).count() - seen.missing.len();
        let note = format!("{kills} kills; {never_safe} numbers not yet on disk when killed");
        let row = case.row(seen, used).note(note);
        Row { connections: u64::from(feeder.starts()), ..row }.check(kills + 1);
        assert!(kills >= 3, "{kills} kills");
        assert!(
            never_safe <= 3 * kills,
            "{never_safe} in {kills} kills: more than what was just being written"
        );
    }
}

#[test]
fn what_waited_longer_than_ten_seconds_comes_as_replayed_and_in_order() {
    let mut case = Case { total: 300, ..Case::new("late") };
    case.broker.stop();
    let mut feeder = case.feeder(&case.broker.url(), "");
    feeder.start();
    feeder.wait(PATIENCE, |s| s.number("tried") == 300);
    pause(1.0);
    feeder.kill();
    pause(10.0);
    case.broker.restart();
    feeder.start();
    let row = case.finish(&mut feeder);
    assert_eq!(row.check(0).seen.replayed, 300);
}

/// Replays two seconds with an outbox in `directory`; returns how it went and what events there were.
fn replay(dir: &Path, clip: &Path, url: &str, directory: &Path) -> (Outcome, Vec<Value>) {
    let state = format!("[state]\ndirectory = \"{}\"\n", directory.display());
    let config = format!("{}\n[mqtt]\nurl = \"{url}\"\n\n{state}", eager_config(2));
    let (file, events) = (dir.join("girasol.toml"), dir.join("events"));
    fs::write(&file, config).unwrap();
    let mut command = girasol(["replay", "--full-speed", "--bundle"]);
    command.arg(bundle()).arg(clip).arg("--config").arg(file).arg("--events").arg(&events);
    let outcome = run(&mut command);
    (outcome, json_lines(&fs::read_to_string(events).unwrap_or_default()))
}

#[test]
fn a_replay_without_a_broker_leaves_its_events_to_the_next_one() {
    let dir = tempfile::tempdir().unwrap();
    let (clip, state) = (media::write_pair(dir.path(), "clip", 2, 1), dir.path().join("state"));
    let mut broker = Broker::start();
    let seen = Subscriber::new(&broker, "keeper", "girasol/porch/event/#");
    broker.stop();
    let (outcome, first) = replay(dir.path(), &clip, &broker.url(), &state);
    assert!(outcome.success().stderr.contains("they wait in the outbox") && !first.is_empty());
    broker.restart();
    let (outcome, second) = replay(dir.path(), &clip, &broker.url(), &state);
    let _ = outcome.success();
    let received = seen.wait(Duration::from_secs(20), |r| r.len() >= first.len() + second.len());
    let payloads = |suffix: &str| -> Vec<Value> {
        let of = received.iter().filter(|r| r.topic.ends_with(suffix)).map(|r| r.payload.as_str());
        json_lines(&of.collect::<Vec<_>>().join("\n"))
    };
    assert_eq!(payloads("/event/replayed"), first, "they are more than ten seconds old by then");
    assert_eq!(payloads("/event"), second);
}

#[test]
fn two_programs_on_one_outbox_are_refused_and_a_broken_disk_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (clip, state) = (media::write_pair(dir.path(), "clip", 2, 1), dir.path().join("state"));
    let broker = Broker::start();
    let mut feeder =
        Feeder::new(dir.path(), 1_000_000, 1.0, &format!("\n[mqtt]\nurl = \"{}\"\n", broker.url()));
    feeder.start();
    feeder.wait(PATIENCE, Status::connected);
    let (outcome, _) = replay(dir.path(), &clip, &broker.url(), &state);
    assert_eq!(outcome.code, Some(69), "{}", outcome.stderr);
    assert!(outcome.complaint().contains("in use by another girasol"), "{}", outcome.stderr);
    feeder.kill();
    let (outcome, _) = replay(dir.path(), &clip, &broker.url(), Path::new("/proc/nowhere"));
    assert!(outcome.clone().success().stderr.contains("kept in memory"), "{}", outcome.stderr);
}
