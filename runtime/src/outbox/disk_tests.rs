use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use proptest::prelude::*;

use super::{
    super::{
        OutboxSettings, file,
        format::{BadHeader, Record, recover},
        open,
    },
    *,
};
use crate::clock::{RealClock, SimClock};

const BOOT: [u8; 16] = [1; 16];
const SYNC: Duration = Duration::from_secs(5);

/// A disk in memory that remembers what has not been synchronised.
#[derive(Debug, Default)]
struct Platter {
    /// As a power cut would find it if nothing since the last sync had got through.
    safe: Vec<u8>,
    /// As the program sees it.
    image: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
    syncs: u64,
    failing: bool,
}

#[derive(Clone, Debug, Default)]
struct FakeDisk(Arc<Mutex<Platter>>);

impl FakeDisk {
    fn with(image: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Platter { safe: image.clone(), image, ..Platter::default() })))
    }

    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap()
    }
}

impl Storage for FakeDisk {
    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let (mut platter, at) = (self.platter(), usize::try_from(at).unwrap());
        if platter.failing {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        platter.image[at..at + bytes.len()].copy_from_slice(bytes);
        platter.unsynced.push((at, bytes.to_vec()));
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut platter = self.platter();
        if platter.failing {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        platter.syncs += 1;
        platter.safe = platter.image.clone();
        platter.unsynced.clear();
        Ok(())
    }
}

fn fresh(slots: u32) -> Header {
    Header { generation: 0, slots, salt: 7, seq_limit: 0, clock_ns: 0, mono_ns: 0, boot: BOOT }
}

/// An outbox without its thread: the test does the thread's work when it likes.
struct Bench {
    shared: Shared,
    writer: Writer,
    disk: FakeDisk,
    clock: Arc<SimClock>,
}

impl Bench {
    fn new(slots: u32) -> Self {
        Self::on(file::compact(fresh(slots), Vec::new()).0, BOOT, Arc::default())
    }

    /// From a disk's bytes, as at a start.
    fn on(image: Vec<u8>, boot: [u8; 16], clock: Arc<SimClock>) -> Self {
        let found = recover(&image).unwrap();
        let (image, found) = match file::in_ring_order(&found) {
            true => (image, found),
            false => file::compact(Header { seq_limit: found.next_seq, ..found.header }, found.live),
        };
        let disk = FakeDisk::with(image);
        let (front, mut writer) =
            assemble(Box::new(disk.clone()), found, boot, SYNC, Arc::clone(&clock) as Arc<dyn Clock>);
        let shared = Shared { front: Mutex::new(front), work: Condvar::new(), ended: Condvar::new() };
        writer.reserve(&shared).unwrap();
        Self { shared, writer, disk, clock }
    }

    /// The program is killed and started again.
    fn killed(self) -> Self {
        let image = self.disk.platter().image.clone();
        Self::on(image, BOOT, self.clock)
    }

    fn accept(&self, message: Message) -> u64 {
        self.shared.lock().accept(message, self.clock.now()).unwrap().seq
    }

    fn hand_out(&self) -> Option<Outgoing> {
        self.shared.lock().next(self.clock.now())
    }

    fn acknowledge(&self, seq: u64) {
        self.shared.lock().settle(|queue| queue.acknowledged(seq));
    }

    fn poison(&self, seq: u64) {
        self.shared.lock().settle(|queue| queue.poisoned(seq));
    }

    fn work(&mut self) {
        self.writer.work(&self.shared);
    }

    fn counts(&self) -> OutboxCounts {
        self.shared.lock().counts()
    }

    fn waiting(&self) -> Vec<(u64, Vec<u8>)> {
        self.shared.lock().queue.rewind();
        std::iter::from_fn(|| self.hand_out()).map(|o| (o.seq, o.message.payload)).collect()
    }
}

fn message(payload: impl Into<Vec<u8>>) -> Message {
    Message::new("girasol/porch/event", payload)
}

fn live(image: &[u8]) -> Vec<u64> {
    recover(image).unwrap().live.iter().map(|r| r.seq).collect()
}

#[test]
fn a_write_cut_at_any_byte_loses_nothing_that_was_there_before() {
    let mut bench = Bench::new(16);
    // Slots 0 to 14, the first half of them settled; then a record of three slots that wraps around.
    let seqs: Vec<_> = (0..15).map(|n| bench.accept(message([n; 90]))).collect();
    bench.work();
    for &seq in &seqs[..8] {
        bench.acknowledge(seq);
    }
    bench.work();
    bench.disk.sync().unwrap();
    let new = bench.accept(message([0xee; 600]));
    bench.work();
    bench.acknowledge(seqs[8]);
    bench.work();
    bench.shared.lock().queue.push(message("unused"), MonoTime(0), Place { slot: 0 });
    bench.writer.write_header().unwrap();

    let platter = bench.disk.platter();
    let old: Vec<u64> = seqs[8..].to_vec();
    let (mut image, mut outcomes) = (platter.safe.clone(), BTreeSet::new());
    assert_eq!(live(&image), old);
    assert_eq!(platter.unsynced.len(), 4, "two parts of the record, the mark, the header");
    for (at, bytes) in &platter.unsynced {
        for cut in 0..=bytes.len() {
            image[*at..at + cut].copy_from_slice(&bytes[..cut]);
            let found = recover(&image).unwrap();
            let seqs: Vec<_> = found.live.iter().map(|r| r.seq).collect();
            let older = if seqs.first() == Some(&old[0]) { &old[..] } else { &old[1..] };
            assert!(seqs.starts_with(older), "{seqs:?} at {at}, cut {cut}");
            let newer = &seqs[older.len()..];
            assert!(newer.is_empty() || newer == [new], "{seqs:?}");
            assert!(found.live.iter().all(|r| r.message.payload.iter().all(|b| *b == r.message.payload[0])));
            outcomes.insert((older.len(), newer.len()));
        }
    }
    assert_eq!(
        outcomes,
        BTreeSet::from([(7, 0), (7, 1), (6, 1)]),
        "each write shows, and only when it is whole"
    );
}

#[test]
fn what_is_accepted_survives_a_kill_and_numbers_are_never_given_twice() {
    let mut bench = Bench::new(64);
    for n in 0..6u8 {
        bench.accept(message([n]));
    }
    bench.work();
    let unsaved = bench.accept(message("too late"));
    assert_eq!(bench.counts().unsaved, 1);
    bench.acknowledge(1);
    bench.poison(2);
    let marked = |bench: &mut Bench| bench.work();
    // The marks are written, and so is the seventh message.
    marked(&mut bench);
    bench.accept(message("not written"));
    let bench = bench.killed();
    let seqs: Vec<_> = bench.waiting().into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(seqs, [0, 3, 4, 5, unsaved]);
    assert_eq!(bench.counts().recovered, 5);
    let next = bench.accept(message("next"));
    assert!(next > unsaved + 1, "the number that was not written is not given again: {next}");
    assert_eq!(bench.shared.lock().first_seq, next);
}

#[test]
fn a_clean_end_leaves_no_gap_in_the_numbers() {
    let mut bench = Bench::new(64);
    bench.accept(message("a"));
    bench.writer.close(&bench.shared);
    assert_eq!(bench.killed().accept(message("b")), 1);
}

#[test]
fn with_a_broker_at_hand_nothing_is_forced_to_the_medium() {
    let mut bench = Bench::new(64);
    bench.work();
    let syncs = |bench: &Bench| bench.disk.platter().syncs;
    let before = syncs(&bench);
    for _ in 0..100 {
        let seq = bench.accept(message("soon acknowledged"));
        bench.work();
        bench.acknowledge(seq);
        bench.clock.advance(Duration::from_secs(1));
        bench.work();
    }
    assert_eq!(syncs(&bench), before, "no fsync per event, and none at all");
    for _ in 0..50 {
        bench.accept(message("not acknowledged"));
        bench.work();
        bench.clock.advance(Duration::from_millis(500));
        bench.work();
    }
    let forced = syncs(&bench) - before;
    assert!((4..=5).contains(&forced), "{forced} in 25 s");
}

#[test]
fn age_counts_over_restarts_and_boots_but_not_while_the_board_is_off() {
    let hour = Duration::from_secs(3_600);
    let mut bench = Bench::new(64);
    bench.clock.advance(hour);
    bench.accept(message("old").expires_after(hour));
    bench.accept(message("kept").expires_after(3 * hour));
    bench.work();
    bench.clock.advance(hour / 2);
    // Killed, same boot: to the nanosecond.
    let mut bench = bench.killed();
    bench.clock.advance(hour / 2 - Duration::from_nanos(1));
    assert_eq!(bench.waiting().len(), 2);
    bench.work();
    bench.writer.write_header().unwrap();
    // Another boot: the clock starts at zero, the age does not.
    let image = bench.disk.platter().image.clone();
    let bench = Bench::on(image, [2; 16], Arc::default());
    assert_eq!(bench.waiting().len(), 2);
    bench.clock.advance(Duration::from_nanos(1));
    assert_eq!(bench.waiting(), [(1, b"kept".to_vec())]);
    assert_eq!(bench.counts().expired, 1);
    let accepted = {
        bench.shared.lock().queue.rewind();
        bench.hand_out().unwrap().accepted
    };
    assert!(accepted < MonoTime(0), "before this boot: {accepted:?}");
    bench.clock.advance(2 * hour);
    assert_eq!(bench.waiting(), []);
}

#[test]
fn a_disk_that_fails_holds_up_nothing_and_gets_everything_when_it_heals() {
    let mut bench = Bench::new(64);
    bench.accept(message("before"));
    bench.work();
    bench.disk.platter().failing = true;
    bench.accept(message("during"));
    bench.acknowledge(0);
    let mut tries = 0;
    for _ in 0..600 {
        bench.work();
        bench.clock.advance(Duration::from_millis(100));
        tries = bench.counts().disk_faults;
    }
    assert!((5..=7).contains(&tries), "{tries} tries in a minute");
    let fault = bench.shared.lock().fault.clone().unwrap();
    assert!(fault.contains("cannot be written"), "{fault}");
    assert_eq!(bench.waiting(), [(1, b"during".to_vec())]);
    assert_eq!(bench.counts().unsaved, 1);
    bench.disk.platter().failing = false;
    bench.clock.advance(RETRY_MAX);
    bench.work();
    assert_eq!(bench.shared.lock().fault, None);
    assert_eq!(bench.counts().unsaved, 0);
    assert_eq!(bench.killed().waiting(), [(1, b"during".to_vec())]);
}

#[test]
fn what_does_not_fit_is_refused_and_the_oldest_make_room() {
    let bench = Bench::new(4);
    assert_eq!(bench.shared.lock().accept(message([0; 2_000]), MonoTime(0)), Err(Full));
    for n in 0..6u8 {
        bench.accept(message([n]));
    }
    let payloads: Vec<_> = bench.waiting().into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(payloads, [[2], [3], [4], [5]]);
    assert_eq!((bench.counts().dropped, bench.counts().queued), (2, 4));
}

/// Blocks each write until it is let go.
struct Stalled(Arc<AtomicBool>, FakeDisk);

impl Storage for Stalled {
    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        while self.0.load(Ordering::SeqCst) {
            RealClock.sleep(Duration::from_millis(5));
        }
        self.1.write_at(at, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.1.sync()
    }
}

#[test]
fn a_disk_that_stalls_holds_up_nobody() {
    let (stalled, image) = (Arc::new(AtomicBool::new(false)), file::compact(fresh(256), Vec::new()).0);
    let disk = FakeDisk::with(image.clone());
    let storage = Box::new(Stalled(Arc::clone(&stalled), disk.clone()));
    let found = recover(&image).unwrap();
    let mut outbox = DiskOutbox::start(storage, found, BOOT, SYNC, Arc::new(RealClock)).unwrap();
    stalled.store(true, Ordering::SeqCst);
    let begun = RealClock.now();
    for _ in 0..5_000 {
        let seq = outbox.accept(message("x"), RealClock.now()).unwrap().seq;
        assert_eq!(outbox.next(RealClock.now()).unwrap().seq, seq);
        outbox.acknowledged(seq);
    }
    let last = outbox.accept(message("last"), RealClock.now()).unwrap().seq;
    assert!(
        RealClock.now().since(begun) < 2_000_000_000,
        "5 000 messages passed by a disk that does not move"
    );
    assert_eq!((outbox.counts().acked, outbox.counts().unsaved), (5_000, 1));
    assert!(outbox.shared.lock().done.len() < 10, "what was never written need not be marked");
    stalled.store(false, Ordering::SeqCst);
    drop(outbox);
    assert_eq!(live(&disk.platter().image), [last]);
}

fn settings(directory: &Path) -> OutboxSettings {
    OutboxSettings { directory: Some(directory.into()), disk_bytes: 1 << 20, ..OutboxSettings::default() }
}

fn real_clock() -> Arc<dyn Clock> {
    Arc::new(RealClock)
}

fn fill(outbox: &mut dyn Outbox, count: u32) {
    for n in 0..count {
        outbox.accept(message(n.to_le_bytes()), RealClock.now()).unwrap();
    }
}

fn drain(outbox: &mut dyn Outbox) -> Vec<u32> {
    let payload = |o: Outgoing| u32::from_le_bytes(o.message.payload.try_into().unwrap());
    std::iter::from_fn(|| outbox.next(RealClock.now())).map(payload).collect()
}

#[test]
fn a_directory_is_one_process_s_at_a_time_and_keeps_what_was_left() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made/when/missing");
    let mut outbox = open(&settings(&path), &real_clock()).unwrap();
    fill(&mut *outbox, 100);
    let error = open(&settings(&path), &real_clock()).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("in use by another girasol"), "{error}");
    drop(outbox);
    let mut outbox = open(&settings(&path), &real_clock()).unwrap();
    assert_eq!(drain(&mut *outbox), (0..100).collect::<Vec<_>>());
    assert_eq!((outbox.counts().recovered, outbox.first_seq()), (100, 100));
}

#[test]
fn another_size_keeps_the_newest_messages() {
    let dir = tempfile::tempdir().unwrap();
    let small = OutboxSettings { disk_bytes: 50 * SLOT, ..settings(dir.path()) };
    fill(&mut *open(&settings(dir.path()), &real_clock()).unwrap(), 100);
    assert_eq!(drain(&mut *open(&small, &real_clock()).unwrap()), (50..100).collect::<Vec<_>>());
    let mut grown = open(&settings(dir.path()), &real_clock()).unwrap();
    assert_eq!(drain(&mut *grown), (50..100).collect::<Vec<_>>());
    let length = |dir: &Path| std::fs::metadata(dir.join("outbox.ring")).unwrap().len();
    assert_eq!(length(dir.path()), DATA as u64 + (1 << 20));
}

#[test]
fn a_file_that_cannot_be_used_is_named_and_what_was_in_it_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (ring, aside) = (dir.path().join("outbox.ring"), dir.path().join("outbox.ring.damaged"));
    std::fs::write(&ring, "something else").unwrap();
    let mut outbox = open(&settings(dir.path()), &real_clock()).unwrap();
    assert_eq!(std::fs::read(&aside).unwrap(), b"something else");
    fill(&mut *outbox, 3);
    drop(outbox);

    let mut newer = std::fs::read(&ring).unwrap();
    for at in [0, 4_096] {
        newer[at + 16] = 2;
    }
    std::fs::write(&ring, &newer).unwrap();
    let mut outbox = open(&settings(dir.path()), &real_clock()).unwrap();
    let fault = outbox.fault().unwrap();
    assert!(fault.contains("made by a later girasol") && fault.contains("outbox.ring"), "{fault}");
    fill(&mut *outbox, 3);
    assert_eq!(drain(&mut *outbox), [0, 1, 2], "it goes on in memory");
    assert_eq!(std::fs::read(&ring).unwrap(), newer);

    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let fault = open(&settings(&file.join("sub")), &real_clock()).unwrap().fault().unwrap();
    assert!(fault.contains("file/sub"), "{fault}");
}

#[test]
fn a_ring_cut_short_gives_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    fill(&mut *open(&settings(dir.path()), &real_clock()).unwrap(), 100);
    let ring = std::fs::OpenOptions::new().write(true).open(dir.path().join("outbox.ring")).unwrap();
    ring.set_len((DATA + 60 * SLOT + 10) as u64).unwrap();
    let mut outbox = open(&settings(dir.path()), &real_clock()).unwrap();
    assert_eq!(drain(&mut *outbox), (0..60).collect::<Vec<_>>());
    assert!(outbox.first_seq() >= 100);
}

#[derive(Clone, Debug)]
enum Step {
    Accept(usize),
    Next,
    Settle(usize, bool),
    Rewind,
    Work,
    Wait,
    Kill,
    /// Of each write since the last sync, sector by sector, whether it got through.
    PowerCut(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0usize..900).prop_map(Step::Accept),
        4 => Just(Step::Next),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(which, poison)| Step::Settle(which, poison)),
        1 => Just(Step::Rewind),
        6 => Just(Step::Work),
        2 => Just(Step::Wait),
        1 => Just(Step::Kill),
        1 => any::<u64>().prop_map(Step::PowerCut),
    ];
    prop::collection::vec(step, 0..200)
}

/// What a power cut leaves: sectors of 64 bytes, each old or new.
fn after_power_cut(platter: &Platter, mut random: u64) -> Vec<u8> {
    let mut image = platter.safe.clone();
    for (at, bytes) in &platter.unsynced {
        for (n, sector) in bytes.chunks(64).enumerate() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if random >> 63 == 0 {
                image[at + n * 64..at + n * 64 + sector.len()].copy_from_slice(sector);
            }
        }
    }
    image
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The model: what was accepted, by number; and of that, what has not been settled or dropped.
    #[test]
    fn keeps_what_the_model_keeps(steps in steps()) {
        let mut bench = Bench::new(16);
        let mut accepted: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let (mut waiting, mut handed): (BTreeSet<u64>, Vec<u64>) = Default::default();
        let (mut in_run, mut newest) = (0u64, None);
        for step in steps {
            let restart = match step {
                Step::Accept(size) => {
                    let payload = vec![u8::try_from(accepted.len() % 251).unwrap(); size];
                    let seq = bench.accept(message(payload.clone()));
                    prop_assert!(accepted.keys().all(|&known| known < seq));
                    accepted.insert(seq, payload);
                    waiting.insert(seq);
                    in_run += 1;
                    None
                }
                Step::Next => {
                    if let Some(out) = bench.hand_out() {
                        prop_assert!(newest.is_none_or(|n| out.seq > n));
                        prop_assert_eq!(&out.message.payload, &accepted[&out.seq]);
                        newest = Some(out.seq);
                        handed.push(out.seq);
                    }
                    None
                }
                Step::Settle(which, poison) => {
                    if !handed.is_empty() {
                        let seq = handed.swap_remove(which % handed.len());
                        if poison { bench.poison(seq) } else { bench.acknowledge(seq) }
                        waiting.remove(&seq);
                    }
                    None
                }
                Step::Rewind => { bench.shared.lock().queue.rewind(); newest = None; None }
                Step::Work => { bench.work(); None }
                Step::Wait => { bench.clock.advance(Duration::from_secs(3)); None }
                Step::Kill => {
                    let safe = bench.shared.lock().written_to;
                    let image = bench.disk.platter().image.clone();
                    Some((safe, image))
                }
                Step::PowerCut(random) => {
                    let safe = bench.writer.synced_to.min(bench.shared.lock().written_to);
                    let image = after_power_cut(&bench.disk.platter(), random);
                    Some((safe, image))
                }
            };
            // The oldest make room.
            while waiting.len() > bench.shared.lock().queue.len() {
                waiting.pop_first();
            }
            if let Some((safe, image)) = restart {
                bench = Bench::on(image, BOOT, bench.clock);
                let left: BTreeMap<_, _> = bench.waiting().into_iter().collect();
                for seq in waiting.iter().filter(|&&seq| seq < safe) {
                    prop_assert!(left.contains_key(seq), "{} is lost", seq);
                }
                for (seq, payload) in &left {
                    prop_assert_eq!(payload, &accepted[seq], "{} is not what was accepted", seq);
                }
                waiting = left.into_keys().collect();
                prop_assert!(accepted.keys().all(|&known| known < bench.shared.lock().first_seq));
                (in_run, newest) = (0, None);
                bench.shared.lock().queue.rewind();
                handed.clear();
            }
            let counts = bench.counts();
            let sum = counts.queued + counts.acked + counts.dropped + counts.expired + counts.poison;
            prop_assert_eq!(sum, counts.recovered + in_run);
            prop_assert_eq!(counts.queued, waiting.len() as u64);
        }
    }

    /// Whatever the disk holds: no panic, nothing that was not written, and what is whole is found.
    #[test]
    fn damage_costs_only_what_it_hits(places in prop::collection::vec((0usize..(DATA + 40 * SLOT), any::<u8>()), 1..20)) {
        let mut bench = Bench::new(40);
        let seqs: Vec<_> = (0..30u8).map(|n| bench.accept(message([n; 150]))).collect();
        bench.work();
        let mut image = bench.disk.platter().image.clone();
        let hit: BTreeSet<_> = places.iter().filter(|(at, _)| *at >= DATA).map(|(at, _)| (at - DATA) / SLOT).collect();
        for (at, byte) in places {
            image[at] = byte;
        }
        match recover(&image) {
            Ok(found) => {
                let whole = |r: &Record| r.message.payload == [u8::try_from(r.seq).unwrap(); 150];
                prop_assert!(found.live.iter().all(whole));
                for (slot, seq) in seqs.iter().enumerate().filter(|(slot, _)| !hit.contains(slot)) {
                    prop_assert!(found.live.iter().any(|r| r.seq == *seq), "slot {} is lost", slot);
                }
            }
            Err(bad) => prop_assert!(matches!(bad, BadHeader::Damaged | BadHeader::Newer(_))),
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        let _ = recover(&bytes);
        let mut image = fresh(4).encode().to_vec();
        image.resize(DATA, 0);
        image.extend(bytes);
        let found = recover(&image).unwrap();
        prop_assert!(found.live.is_empty());
    }
}

/// Damage with the checksums put right, as no accident would, for two seconds or `FUZZ_SECONDS`; `make fuzz` does it with
/// coverage.
#[test]
fn forged_rings_are_survived() {
    static STATE: AtomicU64 = AtomicU64::new(0);
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(2);
    let end = RealClock.now() + Duration::from_secs(seconds);
    STATE.store(RealClock.now().0.unsigned_abs() | 1, Ordering::SeqCst);
    let seed = STATE.load(Ordering::SeqCst);
    let random = |below: usize| {
        let mut x = STATE.load(Ordering::SeqCst);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        STATE.store(x, Ordering::SeqCst);
        usize::try_from(x >> 11).unwrap() % below.max(1)
    };
    let mut runs = 0u64;
    while RealClock.now() < end {
        let slots = 1 + u32::try_from(random(40)).unwrap();
        let mut header = Header { slots, salt: 7, seq_limit: random(1 << 20) as u64, ..fresh(slots) };
        for word in [&mut header.clock_ns, &mut header.mono_ns] {
            *word = [i64::MIN, i64::MAX, 0, -1, 1 << 40][random(5)];
        }
        let mut image = file::compact(header, Vec::new()).0;
        for _ in 0..random(60) {
            let payload = vec![0xf5; random(900)];
            let time = [i64::MIN, i64::MAX, 0, 1 << 50][random(4)];
            let seq = [0, 1, u64::MAX, u64::MAX - 1, random(99) as u64][random(5)];
            let bytes =
                encode(7, seq, time, Some(time).filter(|_| random(2) == 0), &message(payload)).unwrap();
            let at = DATA + random(slots as usize) * SLOT;
            let room = bytes.len().min(image.len() - at);
            image[at..at + room].copy_from_slice(&bytes[..room]);
        }
        for _ in 0..random(6) {
            let at = random(image.len());
            image[at] = [0, 0xff, 1, 0x80][random(4)];
        }
        image.truncate(image.len() - if random(8) == 0 { random(image.len()) } else { 0 });
        runs += 1;
        let Ok(found) = recover(&image) else { continue };
        assert!(
            found.live.iter().all(|r| r.slots <= found.header.slots && r.slot < found.header.slots),
            "seed {seed}"
        );
        let (front, _) = assemble(
            Box::new(FakeDisk::with(image)),
            found,
            [u8::from(random(2) == 0); 16],
            SYNC,
            real_clock(),
        );
        let mut front = front;
        while let Some(out) = front.next(MonoTime(0)) {
            front.settle(|queue| queue.acknowledged(out.seq));
        }
    }
    assert!(runs > 0, "no time for a single image");
}
