//! What may go wrong between the device and its subscribers, against a real mosquitto: nothing is lost, copies are known
//! by their number, the order holds, and it is over soon after the fault is.
//!
//! The quick tests run with `make test`; `make test-faults` runs the whole matrix and prints it as a table.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test: it may panic, and it measures real time"
)]

use std::{
    collections::BTreeSet,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use girasol_tests::{
    Broker, Feeder, Manner, Outcome, Received, Relay, Subscriber, bundle, eager_config, girasol,
    have_openssl, json_lines, make_authority, make_expired_server, make_server,
    media::{self, Dice},
    run, wait_until,
};
use serde_json::Value;

const TOTAL: u64 = 10_000;
/// Events a second: the faults fall midway.
const RATE: f64 = 500.0;
/// More than any case takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// A broker that saves after every message takes few of them a second.
const QUICK: &str = "allow_anonymous true\nautosave_on_changes false\n";

/// What subscribers saw, against what the device says.
#[derive(Debug, Default)]
struct Seen {
    unique: usize,
    copies: usize,
    out_of_order: usize,
    replayed: usize,
    missing: Vec<u64>,
}

fn number(received: &Received) -> Option<u64> {
    serde_json::from_str::<Value>(&received.payload).ok()?.get("n")?.as_u64()
}

/// `may_miss` says which numbers the device never had safe.
fn compare(received: &[Received], total: u64, may_miss: &BTreeSet<u64>) -> Seen {
    let (mut seen, mut unique, mut newest) = (Seen::default(), BTreeSet::new(), None);
    for (message, n) in received.iter().filter_map(|r| Some((r, number(r)?))) {
        seen.replayed += usize::from(message.topic.ends_with("/event/replayed"));
        if !unique.insert(n) {
            seen.copies += 1;
        } else if newest.is_some_and(|newest| n < newest) {
            seen.out_of_order += 1;
        } else {
            newest = Some(n);
        }
    }
    seen.unique = unique.len();
    seen.missing = (0..total).filter(|n| !unique.contains(n) && !may_miss.contains(n)).collect();
    seen
}

/// A case under way.
struct Case {
    name: &'static str,
    dir: tempfile::TempDir,
    broker: Broker,
    subscriber: Option<Subscriber>,
    total: u64,
}

/// A line of the table.
struct Row {
    name: &'static str,
    seen: Seen,
    connections: u64,
    /// From the end of the fault to the first acknowledgement, and what it may be.
    recovery: Option<(Duration, Duration)>,
    /// Processor time per second while the fault lasted.
    cpu: Option<f64>,
    note: String,
}

impl Case {
    /// With a broker that saves its state once a second and when it is stopped in order.
    fn new(name: &'static str) -> Self {
        Self::with(name, Broker::start_with(QUICK))
    }

    fn with(name: &'static str, broker: Broker) -> Self {
        let subscriber = Some(Subscriber::new(&broker, "keeper", "girasol/#"));
        Self { name, dir: tempfile::tempdir().unwrap(), broker, subscriber, total: TOTAL }
    }

    fn feeder(&self, url: &str, more: &str) -> Feeder {
        let config = format!("\n[mqtt]\nurl = \"{url}\"\nkeep_alive = \"5s\"\n{more}");
        Feeder::new(self.dir.path(), self.total, RATE, &config)
    }

    /// Lets `fault` happen once a fifth of the events has arrived; it returns when the way to the broker is free again.
    /// Then waits for the rest.
    fn run(&mut self, feeder: &mut Feeder, fault: impl FnOnce(&mut Broker, &mut Feeder)) -> Row {
        feeder.start();
        let fifth = self.total / 5;
        feeder.wait(PATIENCE, |s| s.number("acked") >= fifth);
        let (begun, cpu) = (Instant::now(), feeder.cpu());
        fault(&mut self.broker, feeder);
        let (lasted, used) = (begun.elapsed(), feeder.cpu().saturating_sub(cpu));
        let over = Instant::now();
        let before = feeder.status();
        let acked = before.number("acked");
        let recovered = wait_until(PATIENCE, || {
            let status = feeder.status();
            status.number("acked") > acked || status.number("done") > 0 || feeder.has_ended()
        });
        assert!(recovered.is_ok(), "{}: {:?}", self.name, feeder.status());
        let recovery = over.elapsed();
        // A try that was under way when the fault ended may still fail; then the wait after it counts.
        let backoff = before.retry_in().max(feeder.status().retry_in());
        let mut row = self.finish(feeder);
        row.recovery = Some((recovery, backoff + Duration::from_secs(1)));
        row.cpu = (lasted > Duration::from_secs(3)).then(|| used.as_secs_f64() / lasted.as_secs_f64());
        row
    }

    /// Waits until the device is done and the subscriber has everything.
    fn finish(&mut self, feeder: &mut Feeder) -> Row {
        let ended = wait_until(PATIENCE, || feeder.has_ended());
        let status = feeder.status();
        assert!(ended.is_ok(), "{}: {status:?}", self.name);
        assert_eq!((status.number("queued"), status.number("dropped")), (0, 0), "{}: {status:?}", self.name);
        let seen = self.seen(&BTreeSet::new());
        let connections = status.number("connections");
        Row { name: self.name, seen, connections, recovery: None, cpu: None, note: String::new() }
    }

    fn seen(&self, may_miss: &BTreeSet<u64>) -> Seen {
        let subscriber = self.subscriber.as_ref().unwrap();
        let all = || compare(&subscriber.received(), self.total, may_miss);
        let _ = wait_until(Duration::from_secs(20), || all().missing.is_empty());
        all()
    }
}

impl Row {
    fn note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// Nothing lost, copies only of what was in flight, in order, soon over, without a spin.
    fn check(&self, disturbances: usize) {
        let missing = &self.seen.missing;
        assert!(
            missing.is_empty(),
            "{}: {} lost: {:?}",
            self.name,
            missing.len(),
            &missing[..missing.len().min(9)]
        );
        assert_eq!(self.seen.out_of_order, 0, "{}", self.name);
        assert!(self.seen.copies <= 32 * disturbances, "{}: {} copies", self.name, self.seen.copies);
        if let Some((took, bound)) = self.recovery {
            // A try that was under way when the fault ended may last five seconds more, and the status is read ten times a
            // second.
            let late = Duration::from_millis(5_500);
            assert!(took <= bound + late, "{}: {took:?} of {bound:?}", self.name);
        }
        if let Some(cpu) = self.cpu {
            assert!(cpu < 0.5, "{}: {cpu} of a processor", self.name);
        }
    }

    fn print(&self) {
        let seconds = |d: Duration| format!("{:.1} s", d.as_secs_f64());
        let (took, bound) =
            self.recovery.map_or(("–".into(), "–".into()), |(a, b)| (seconds(a), seconds(b)));
        let cpu = self.cpu.map_or("–".into(), |cpu| format!("{:.0} %", cpu * 100.0));
        println!(
            "| {} | {} | {} | {} | {} | {} | {took} | {bound} | {cpu} | {} |",
            self.name,
            self.seen.missing.len(),
            self.seen.copies,
            self.seen.out_of_order,
            self.seen.replayed,
            self.connections,
            self.note
        );
    }
}

fn pause(seconds: f64) {
    let _ = wait_until(Duration::from_secs_f64(seconds), || false);
}

fn broker_killed() -> Row {
    let mut case = Case::with("broker killed, back after 5 s", Broker::start());
    let mut feeder = case.feeder(&case.broker.url(), "");
    let row = case.run(&mut feeder, |broker, _| {
        broker.kill();
        pause(5.0);
        broker.restart();
    });
    row.check(1);
    row
}

fn broker_frozen() -> Row {
    let mut case = Case::new("broker frozen (SIGSTOP) for 20 s");
    let mut feeder = case.feeder(&case.broker.url(), "");
    let row = case.run(&mut feeder, |broker, _| {
        broker.freeze(true);
        pause(20.0);
        broker.freeze(false);
    });
    row.check(3);
    row
}

fn session_wiped() -> Row {
    let mut case = Case::with("broker killed, its state wiped", Broker::start());
    let mut feeder = case.feeder(&case.broker.url(), "");
    let mut late = None;
    let subscriber = case.subscriber.take();
    let row = case.run_wiped(&mut feeder, &mut late, subscriber);
    row.check(1);
    row
}

impl Case {
    /// The broker forgets the subscriber's session, too: another subscribes before the device comes back, and what the
    /// two have seen is taken together.
    fn run_wiped(
        &mut self,
        feeder: &mut Feeder,
        late: &mut Option<Subscriber>,
        first: Option<Subscriber>,
    ) -> Row {
        let first = first.unwrap();
        let gate = Relay::to(&self.broker);
        let config = fs::read_to_string(self.dir.path().join("girasol.toml")).unwrap();
        let through = config.replace(&self.broker.url(), &gate.url());
        fs::write(self.dir.path().join("girasol.toml"), through).unwrap();
        self.subscriber = Some(first);
        feeder.start();
        feeder.wait(PATIENCE, |s| s.number("acked") >= self.total / 5);
        gate.set(Manner::Stall);
        // The subscriber gets what the broker has; for a killed broker's last words to it may be lost with its session.
        pause(2.0);
        self.broker.kill();
        self.broker.wipe();
        self.broker.restart();
        *late = Some(Subscriber::new(&self.broker, "later", "girasol/#"));
        gate.cut();
        gate.set(Manner::Pass);
        let over = Instant::now();
        let before = feeder.status();
        let recovered = wait_until(PATIENCE, || {
            let status = feeder.status();
            status.number("acked") > before.number("acked") || feeder.has_ended()
        });
        assert!(recovered.is_ok());
        let recovery = (over.elapsed(), Duration::from_secs(2));
        let ended = wait_until(PATIENCE, || feeder.has_ended());
        assert!(ended.is_ok(), "{:?}", feeder.status());
        let both = || {
            let mut all = self.subscriber.as_ref().unwrap().received();
            all.extend(late.as_ref().unwrap().received());
            compare(&all, self.total, &BTreeSet::new())
        };
        let _ = wait_until(Duration::from_secs(20), || both().missing.is_empty());
        let mut seen = both();
        // The first subscriber comes back by itself and sees what the second one sees: order and copies are each one's own.
        let each = [self.subscriber.as_ref(), late.as_ref()]
            .map(|s| s.map(Subscriber::received).unwrap_or_default());
        let each = each.map(|received| compare(&received, self.total, &BTreeSet::new()));
        seen.out_of_order = each.iter().map(|seen| seen.out_of_order).sum();
        seen.copies = each.iter().map(|seen| seen.copies).max().unwrap_or(0);
        seen.replayed = each.iter().map(|seen| seen.replayed).max().unwrap_or(0);
        let connections = feeder.status().number("connections");
        let note = String::new();
        Row { name: self.name, seen, connections, recovery: Some(recovery), cpu: None, note }
    }
}

/// A network namespace with a wire to ours; gone when dropped.
struct Namespace {
    name: String,
    here: String,
    there: String,
    peer: (Ipv4Addr, Ipv4Addr),
}

impl Namespace {
    /// `None` where we may not make one.
    fn new() -> Option<Self> {
        let id = std::process::id() % 10_000;
        let name = format!("girasol{id}");
        let (here, there) = (format!("gs{id}a"), format!("gs{id}b"));
        let peer = (Ipv4Addr::new(10, 213, 77, 1), Ipv4Addr::new(10, 213, 77, 2));
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

fn ip(arguments: &str) -> bool {
    let mut command = Command::new("ip");
    command.args(arguments.split_whitespace()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn half_open() -> Row {
    let mut case = Case::new("half-open: packets dropped for 24 s");
    let fault = |cut: &dyn Fn(bool)| {
        cut(true);
        pause(24.0);
        cut(false);
    };
    let row = match Namespace::new() {
        Some(namespace) => {
            let relay = Relay::listening(namespace.peer.0, &case.broker);
            let url = format!("mqtt://{}:{}", namespace.peer.0, relay.port());
            let mut feeder = case.feeder(&url, "").by(&["ip", "netns", "exec", &namespace.name]);
            case.run(&mut feeder, |_, _| fault(&|cut| namespace.cut(cut))).note("in a network namespace")
        }
        None => {
            let relay = Relay::to(&case.broker);
            let mut feeder = case.feeder(&relay.url(), "");
            let swallow = |cut| relay.set(if cut { Manner::Swallow } else { Manner::Pass });
            case.run(&mut feeder, |_, _| fault(&swallow)).note("no network namespace: a relay that swallows")
        }
    };
    row.check(3);
    row
}

fn peer_stops_reading() -> Row {
    let mut case = Case::new("a peer that stops reading for 20 s");
    let relay = Relay::to(&case.broker);
    let mut feeder = case.feeder(&relay.url(), "");
    let row = case.run(&mut feeder, |_, _| {
        relay.set(Manner::Stall);
        pause(20.0);
        relay.set(Manner::Pass);
    });
    row.check(3);
    row
}

fn malformed_packets() -> Row {
    let mut case = Case::new("malformed packets, 8 times");
    let relay = Relay::to(&case.broker);
    let mut feeder = case.feeder(&relay.url(), "");
    let garbage: [&[u8]; 8] = [
        &[0x00, 0x00],
        &[0xf0, 0xff, 0xff, 0xff, 0xff, 0xff],
        &[0x40, 0x01, 0x00],
        &[0x40, 0x02, 0x00, 0x00],
        &[0x20, 0x7f, 0x01],
        &[0x30, 0x05, 0xff, 0xff, b'a', b'b', b'c'],
        &[0xff; 64],
        &[0x90, 0x03, 0x00, 0x01, 0xff],
    ];
    let row = case.run(&mut feeder, |_, feeder| {
        for bytes in garbage {
            let acked = feeder.status().number("acked");
            relay.inject(bytes);
            let done = |s: &girasol_tests::Status| s.number("acked") > acked + 100 || s.number("queued") == 0;
            feeder.wait(PATIENCE, done);
        }
        // A packet that promises more than it holds is only noticed when the broker falls silent.
        relay.cut();
    });
    row.check(garbage.len() + 1);
    row
}

fn duplicate_client_id() -> Row {
    let mut case = Case::new("another client with our id for 30 s");
    let mut feeder = case.feeder(&case.broker.url(), "");
    let other = tempfile::tempdir().unwrap();
    let mut named = String::new();
    let mut row = case.run(&mut feeder, |broker, feeder| {
        let config = format!("\n[mqtt]\nurl = \"{}\"\ntopic_prefix = \"intruder\"\n", broker.url());
        let mut intruder = Feeder::new(other.path(), 1_000_000, 1.0, &config);
        intruder.start();
        pause(30.0);
        named = [&*feeder, &intruder].map(|f| f.status().text("fault").to_owned()).join(", ");
    });
    row.note = format!("named: {named}");
    assert!(row.note.contains("TakenOver"), "{}", row.note);
    assert!(row.connections < 30, "a ping-pong: {} connections", row.connections);
    row.check(30);
    row
}

fn auth_refused() -> Row {
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
    let row = case.run(&mut feeder, |broker, feeder| {
        broker.stop();
        broker.configure(&format!("{QUICK}password_file {{dir}}/passwd\n"));
        broker.restart();
        let refused = feeder.wait(PATIENCE, |s| s.text("fault") == "Auth");
        assert!(refused.text("fault_text").contains("password_file"), "{refused:?}");
        pause(6.0);
        fs::write(&password, "right\n").unwrap();
    });
    row.check(1);
    row
}

fn certificate_expired() -> Row {
    let mut case = Case::new("certificate expired for 6 s, then renewed");
    if !have_openssl() {
        return case.skipped("no openssl program");
    }
    let dir = case.broker.dir().to_owned();
    make_authority(&dir, "ours");
    make_server(&dir, "ours", "IP:127.0.0.1");
    let tls = case.broker.port() + 1;
    let lines =
        format!("{QUICK}listener {tls} 127.0.0.1\ncertfile {{dir}}/server.pem\nkeyfile {{dir}}/server.key\n");
    case.broker.configure(&lines);
    case.broker.restart();
    let ca = format!("ca_file = \"{}\"\n", dir.join("ours.pem").display());
    let mut feeder = case.feeder(&format!("mqtts://127.0.0.1:{tls}"), &ca);
    let row = case.run(&mut feeder, |broker, feeder| {
        broker.stop();
        make_expired_server(&dir, "ours", "IP:127.0.0.1");
        pause(1.5);
        broker.restart();
        let refused = feeder.wait(PATIENCE, |s| s.text("fault") == "Tls");
        assert!(refused.text("fault_text").contains("expired"), "{refused:?}");
        pause(6.0);
        broker.stop();
        make_server(&dir, "ours", "IP:127.0.0.1");
        broker.restart();
    });
    row.check(1);
    row
}

fn disk_full() -> Row {
    let mut case = Case::new("disk full from midway on, the device killed and restarted on it");
    let mount = case.dir.path().join("outbox");
    fs::create_dir(&mount).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=20m", "none"]).arg(&mount).status();
    if !mounted.is_ok_and(|s| s.success()) {
        return case.skipped("may not mount a small disk");
    }
    let mut feeder = case.feeder(&case.broker.url(), "");
    feeder.start();
    feeder.wait(PATIENCE, |s| s.number("acked") >= case.total / 5);
    case.broker.stop();
    assert!(fs::write(mount.join("junk"), vec![1; 24 << 20]).is_err(), "the disk is full");
    pause(3.0);
    let safe = feeder.status().number("saved");
    feeder.kill();
    let tried = fs::metadata(case.dir.path().join("tried")).unwrap().len();
    feeder.start();
    pause(2.0);
    case.broker.restart();
    let _ = wait_until(PATIENCE, || feeder.has_ended());
    let status = feeder.status();
    assert_eq!((status.text("outbox_fault"), status.number("disk_faults")), ("", 0), "{status:?}");
    let may_miss: BTreeSet<_> = (safe..tried).collect();
    let seen = case.seen(&may_miss);
    let connections = status.number("connections");
    drop(feeder);
    let _ = Command::new("umount").arg(&mount).status();
    let note = "the ring has its place from the start".into();
    let row = Row { name: case.name, seen, connections, recovery: None, cpu: None, note };
    row.check(2);
    row
}

/// `None` without a C compiler.
fn clock_shim(dir: &Path) -> Option<PathBuf> {
    let (source, library) =
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clock.c"), dir.join("clock.so"));
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).status();
    built.is_ok_and(|status| status.success()).then_some(library)
}

fn clock_jumps() -> Row {
    let mut case = Case::new("wall clock jumps: +10 years, 1970, back");
    let Some(shim) = clock_shim(case.dir.path()) else { return case.skipped("no C compiler") };
    let mut feeder = case.feeder(&case.broker.url(), "").preloading(shim);
    let offset = case.dir.path().join("offset");
    let row = case.run(&mut feeder, |broker, feeder| {
        for seconds in ["315360000", "-1790000000", "0"] {
            fs::write(&offset, seconds).unwrap();
            let acked = feeder.status().number("acked");
            feeder.wait(PATIENCE, |s| s.number("acked") > acked + 200 || s.number("queued") == 0);
        }
        fs::write(&offset, "315360000").unwrap();
        broker.stop();
        broker.restart();
    });
    row.check(1);
    row
}

/// Kills the device `kills` times at random moments; what it had not yet on disk may be missing.
fn killed_at_random(case: Case, seed: u64) -> Row {
    let mut feeder = case.feeder(&case.broker.url(), "");
    let (mut dice, mut may_miss, mut kills) = (Dice::new(seed), BTreeSet::new(), 0);
    loop {
        feeder.start();
        let life = Duration::from_millis(300 + dice.roll() % 1_500);
        if wait_until(life, || feeder.has_ended()).is_ok() {
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
    let received = case.subscriber.as_ref().unwrap().received();
    let never_safe = compare(&received, case.total, &BTreeSet::new()).missing.len() - seen.missing.len();
    let note = format!("{kills} kills; {never_safe} numbers not yet on disk when killed");
    let connections = u64::from(feeder.starts());
    let row = Row { name: case.name, seen, connections, recovery: None, cpu: None, note };
    row.check(kills + 1);
    assert!(
        never_safe <= 3 * kills,
        "{never_safe} in {kills} kills: that is more than what was just being written"
    );
    row
}

impl Case {
    fn skipped(&self, why: &str) -> Row {
        let note = format!("skipped: {why}");
        Row { name: self.name, seen: Seen::default(), connections: 0, recovery: None, cpu: None, note }
    }
}

#[test]
#[ignore = "ten minutes: make test-faults"]
fn the_fault_matrix() {
    type Kind = (&'static str, fn() -> Row);
    let cases: [Kind; 12] = [
        ("kill", broker_killed),
        ("freeze", broker_frozen),
        ("half-open", half_open),
        ("stall", peer_stops_reading),
        ("malformed", malformed_packets),
        ("wipe", session_wiped),
        ("duplicate", duplicate_client_id),
        ("auth", auth_refused),
        ("certificate", certificate_expired),
        ("disk", disk_full),
        ("clock", clock_jumps),
        ("ourselves", || killed_at_random(Case::new("our own process killed at random moments"), 7)),
    ];
    let only = std::env::var("FAULT").unwrap_or_default();
    println!("{TOTAL} events at QoS 1, {RATE} a second\n");
    println!(
        "| fault | lost | copies | out of order | replayed | connections | recovery | bound | CPU meanwhile | |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for (_, case) in cases.iter().filter(|(name, _)| only.is_empty() || *name == only) {
        case().print();
    }
}

#[test]
fn nothing_that_is_on_disk_is_lost_when_we_are_killed() {
    let case = Case { total: 1_000, ..Case::new("killed") };
    killed_at_random(case, 3).print();
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
    row.check(0);
    assert_eq!(row.seen.replayed, 300);
}

/// Replays two seconds with an outbox in `directory`; returns how it went and what events there were.
fn replay(dir: &Path, clip: &Path, url: &str, directory: &Path) -> (Outcome, Vec<Value>) {
    let outbox = format!("[outbox]\ndirectory = \"{}\"\n", directory.display());
    let config = format!("{}\n[mqtt]\nurl = \"{url}\"\n\n{outbox}", eager_config(2));
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
    let (clip, state) = (media::write_pair(dir.path(), "clip", 2, 1), dir.path().join("outbox"));
    let broker = Broker::start();
    let mut feeder =
        Feeder::new(dir.path(), 1_000_000, 1.0, &format!("\n[mqtt]\nurl = \"{}\"\n", broker.url()));
    feeder.start();
    feeder.wait(PATIENCE, girasol_tests::Status::connected);
    let (outcome, _) = replay(dir.path(), &clip, &broker.url(), &state);
    assert_eq!(outcome.code, Some(69), "{}", outcome.stderr);
    assert!(outcome.complaint().contains("in use by another girasol"), "{}", outcome.stderr);
    feeder.kill();
    let (outcome, _) = replay(dir.path(), &clip, &broker.url(), Path::new("/proc/nowhere"));
    assert!(outcome.clone().success().stderr.contains("kept in memory"), "{}", outcome.stderr);
}
