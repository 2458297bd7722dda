//! An outbox on disk: survives the broker, the program and the board.
//!
//! Every message is in memory, too, so that neither the broker's thread nor inference ever waits for the disk; the ring
//! on disk is read once, at the start. One thread writes: each message as soon as it can, into the page cache, which
//! survives the program; and to the medium (`fdatasync`) only when a message has not been acknowledged for `sync_every`,
//! so that with a broker at hand the medium sees nothing but what the kernel writes back at its leisure.
//!
//! A stalled disk holds up nothing: messages that are acknowledged before they are written are never written, so what
//! waits is bounded by the ring's size. A failing one is tried again after a second, doubling to a minute.

use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use sha2::{Digest, Sha256};
use tracing::{error, info, warn};

use super::{
    Accepted, Full, Message, Outbox, OutboxCounts, Outgoing,
    file::{self, Storage},
    format::{DATA, DONE_AT, Header, MAX_SEQ, Recovered, SLOT, done_word, encode, slots_for},
    queue::{Entry, Queue},
};
use crate::{
    Error, ErrorKind, Result,
    clock::{Clock, MonoTime},
};

/// Numbers that are set aside on disk at a time, so that none is ever given twice.
const SEQ_STEP: u64 = 4_096;
/// How often the outbox's time is put on disk while messages wait.
const SAVE_TIME_EVERY: Duration = Duration::from_secs(600);
/// First wait after a failed write.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// Longest wait after a failed write.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// How long the end waits for the disk.
const LAST_WRITES: Duration = Duration::from_secs(3);

/// A bounded ring in a file, with a thread of its own. Dropping it writes what is left.
#[derive(Debug)]
pub struct DiskOutbox {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the outbox and its thread share. The lock is never held while the disk is used.
#[derive(Debug)]
struct Shared {
    front: Mutex<Front>,
    /// There is something to write, or to stop.
    work: Condvar,
    /// The thread has ended.
    ended: Condvar,
}

/// The half in memory.
#[derive(Debug)]
struct Front {
    queue: Queue<Place>,
    slots: u32,
    /// Where the next record goes.
    tail: u32,
    first_seq: u64,
    /// First number that is not on disk, or on its way there.
    write_from: u64,
    /// First number that may not be on disk yet.
    written_to: u64,
    /// Settled records that are marked neither on disk nor overwritten.
    done: Vec<Mark>,
    disk_faults: u64,
    fault: Option<String>,
    stop: bool,
    ended: bool,
}

/// Where a message is on disk, or will be.
#[derive(Clone, Copy, Debug)]
struct Place {
    slot: u32,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    slot: u32,
    seq: u64,
}

impl DiskOutbox {
    /// Opens or makes the ring in `directory`.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when another process uses it; [`ErrorKind::Io`] and [`ErrorKind::Data`] when it cannot
    /// be used: not writable, full, made by a later version.
    pub fn open(directory: &Path, bytes: usize, sync_every: Duration, clock: Arc<dyn Clock>) -> Result<Self> {
        let boot = boot_id();
        let fresh = Header {
            generation: 0,
            slots: 0,
            salt: file::new_salt(),
            seq_limit: 0,
            clock_ns: 0,
            mono_ns: clock.now().0,
            boot,
        };
        let (ring, found) = file::open(directory, bytes, fresh)?;
        if !found.live.is_empty() || found.damaged > 0 {
            info!(
                "outbox: {}: {} messages left over, {} damaged or half-written",
                directory.display(),
                found.live.len(),
                found.damaged
            );
        }
        Self::start(Box::new(ring), found, boot, sync_every, clock)
    }

    fn start(
        storage: Box<dyn Storage>,
        found: Recovered,
        boot: [u8; 16],
        sync_every: Duration,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let (front, mut writer) = assemble(storage, found, boot, sync_every, clock);
        let shared =
            Arc::new(Shared { front: Mutex::new(front), work: Condvar::new(), ended: Condvar::new() });
        if let Err(e) = writer.reserve(&shared) {
            writer.failed(&shared, &e);
        }
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("outbox-disk".into())
            .spawn(move || writer.run(&for_thread))
            .map_err(|e| Error::new(ErrorKind::Internal, "outbox: no thread").cause(e))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Changes the queue and wakes the thread.
    fn change<T>(&self, change: impl FnOnce(&mut Front) -> T) -> T {
        let result = change(&mut self.shared.lock());
        self.shared.work.notify_one();
        result
    }
}

impl Outbox for DiskOutbox {
    fn accept(&mut self, message: Message, now: MonoTime) -> std::result::Result<Accepted, Full> {
        self.change(|front| front.accept(message, now))
    }

    fn next(&mut self, now: MonoTime) -> Option<Outgoing> {
        self.shared.lock().next(now)
    }

    fn acknowledged(&mut self, seq: u64) {
        self.change(|front| front.settle(|queue| queue.acknowledged(seq)));
    }

    fn poisoned(&mut self, seq: u64) {
        self.change(|front| front.settle(|queue| queue.poisoned(seq)));
    }

    fn rewind(&mut self) {
        self.shared.lock().queue.rewind();
    }

    fn counts(&self) -> OutboxCounts {
        self.shared.lock().counts()
    }

    fn fault(&self) -> Option<String> {
        self.shared.lock().fault.clone()
    }

    fn first_seq(&self) -> u64 {
        self.shared.lock().first_seq
    }
}

impl Drop for DiskOutbox {
    fn drop(&mut self) {
        let mut front = self.shared.lock();
        front.stop = true;
        self.shared.work.notify_one();
        let waited = self.shared.ended.wait_timeout_while(front, LAST_WRITES, |front| !front.ended);
        let ended = waited.unwrap_or_else(PoisonError::into_inner).0.ended;
        match self.thread.take() {
            Some(thread) if ended => drop(thread.join()),
            _ => warn!("outbox: the disk does not answer: stopped without it"),
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Front> {
        // Every change is complete when the lock is released, so a panic elsewhere does not matter.
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The two halves, from what was found on disk.
fn assemble(
    storage: Box<dyn Storage>,
    found: Recovered,
    boot: [u8; 16],
    sync_every: Duration,
    clock: Arc<dyn Clock>,
) -> (Front, Writer) {
    let header = found.header;
    // Within one boot the outbox's time goes on with the monotonic clock; after it, from where it was last seen. The
    // time that the board was off, and since the last writing, is not counted: a message may live longer, never shorter.
    let base = match header.boot == boot && boot != [0; 16] {
        true => header.clock_ns.saturating_sub(header.mono_ns),
        false => header.clock_ns,
    };
    let mut queue = Queue::new(found.next_seq);
    for record in found.live {
        queue.recover(Entry {
            seq: record.seq,
            message: record.message,
            accepted: MonoTime(record.accepted_ns.saturating_sub(base)),
            expires: record.expires_ns.map(|at| MonoTime(at.saturating_sub(base))),
            place: Place { slot: record.slot },
        });
    }
    let front = Front {
        queue,
        slots: header.slots,
        tail: found.tail % header.slots,
        first_seq: found.next_seq,
        write_from: found.next_seq,
        written_to: found.next_seq,
        done: Vec::new(),
        disk_faults: 0,
        fault: None,
        stop: false,
        ended: false,
    };
    let writer = Writer {
        storage,
        header: Header { boot, ..header },
        base,
        clock,
        sync_every,
        synced_to: found.next_seq,
        unsynced_since: None,
        saved_at: None,
        retry: None,
        wait: RETRY_FIRST,
    };
    (front, writer)
}

impl Front {
    fn accept(&mut self, message: Message, now: MonoTime) -> std::result::Result<Accepted, Full> {
        let slots = u32::try_from(slots_for(&message)).map_err(|_| Full)?;
        if slots > self.slots || message.topic.len() > usize::from(u16::MAX) {
            return Err(Full);
        }
        while self.free() < slots {
            // Overwritten on disk, so no mark is needed.
            self.queue.drop_oldest();
        }
        let place = Place { slot: self.tail };
        self.tail = (self.tail + slots) % self.slots;
        Ok(Accepted { seq: self.queue.push(message, now, place) })
    }

    /// Slots from the tail to the oldest message. What was settled between older messages is not free yet.
    fn free(&self) -> u32 {
        match self.queue.oldest() {
            None => self.slots,
            // With the oldest right after the newest the ring is full, not empty.
            Some(oldest) => (oldest.place.slot + self.slots - self.tail) % self.slots,
        }
    }

    fn next(&mut self, now: MonoTime) -> Option<Outgoing> {
        let (done, write_from) = (&mut self.done, self.write_from);
        self.queue.next(now, |entry| mark(done, write_from, &entry))
    }

    fn settle(&mut self, remove: impl FnOnce(&mut Queue<Place>) -> Option<Entry<Place>>) {
        if let Some(entry) = remove(&mut self.queue) {
            mark(&mut self.done, self.write_from, &entry);
        }
    }

    fn counts(&self) -> OutboxCounts {
        let queued = self.queue.len() as u64;
        let unsaved = self.queue.count_from(self.written_to) as u64;
        OutboxCounts { queued, unsaved, disk_faults: self.disk_faults, ..self.queue.counts }
    }
}

/// A settled message that is on disk is to be marked there; one that is not will not be written.
fn mark(done: &mut Vec<Mark>, write_from: u64, entry: &Entry<Place>) {
    if entry.seq < write_from {
        done.push(Mark { slot: entry.place.slot, seq: entry.seq });
    }
}

/// The half that writes.
struct Writer {
    storage: Box<dyn Storage>,
    header: Header,
    /// The outbox's time less the monotonic clock.
    base: i64,
    clock: Arc<dyn Clock>,
    sync_every: Duration,
    /// Every message below this number is on the medium, if it is not settled.
    synced_to: u64,
    /// When the first message was written that is not on the medium.
    unsynced_since: Option<MonoTime>,
    /// When the outbox's time was last put on disk.
    saved_at: Option<MonoTime>,
    /// Not before then is the disk tried again.
    retry: Option<MonoTime>,
    /// The wait after the next failure.
    wait: Duration,
}

/// What is to be written next.
enum Job {
    Marks(Vec<Mark>),
    Record { seq: u64, slot: u32, bytes: Vec<u8> },
}

impl Writer {
    fn run(&mut self, shared: &Shared) {
        let mut stopping = false;
        loop {
            let wait = self.work(shared);
            if stopping {
                break;
            }
            let front = shared.lock();
            let idle = |front: &mut Front| !front.stop && (self.retry.is_some() || !front.has_work());
            let front =
                shared.work.wait_timeout_while(front, wait, idle).unwrap_or_else(PoisonError::into_inner).0;
            stopping = front.stop;
        }
        self.close(shared);
        shared.lock().ended = true;
        shared.ended.notify_all();
    }

    /// Does everything that is due now. Returns how long there is nothing to do unless something comes.
    fn work(&mut self, shared: &Shared) -> Duration {
        let now = self.clock.now();
        if let Some(at) = self.retry.filter(|&at| now < at) {
            return nanos(at.since(now));
        }
        match self.write_all(shared).and_then(|()| self.sync_if_due(shared)) {
            Ok(()) => self.recovered(shared),
            Err(e) => self.failed(shared, &e),
        }
        let now = self.clock.now();
        let until = |at: MonoTime| nanos(at.since(now));
        let sync = self.unsynced_since.map(|since| until(since + self.sync_every));
        let save = self.saved_at.map(|at| until(at + SAVE_TIME_EVERY));
        let waits = [self.retry.map(until), sync, save];
        waits.into_iter().flatten().min().unwrap_or(SAVE_TIME_EVERY)
    }

    fn write_all(&mut self, shared: &Shared) -> std::io::Result<()> {
        self.reserve(shared)?;
        while let Some(job) = self.take(shared) {
            match job {
                Job::Marks(marks) => self.write_marks(shared, &marks)?,
                Job::Record { seq, slot, bytes } => {
                    if let Err(e) = self.write_record(slot, &bytes) {
                        let mut front = shared.lock();
                        front.write_from = front.write_from.min(seq);
                        // There is nothing to mark: the slot may still hold what was there before.
                        front.done.retain(|mark| mark.seq != seq);
                        return Err(e);
                    }
                    shared.lock().written_to = seq + 1;
                    self.unsynced_since.get_or_insert(self.clock.now());
                }
            }
        }
        Ok(())
    }

    /// Marks first: a slot that one names may be what the next record overwrites.
    fn take(&self, shared: &Shared) -> Option<Job> {
        let mut front = shared.lock();
        if !front.done.is_empty() {
            return Some(Job::Marks(std::mem::take(&mut front.done)));
        }
        let (from, salt, base) = (front.write_from, self.header.salt, self.base);
        let entry = front.queue.from(from)?;
        let outbox_time = |at: MonoTime| at.0.saturating_add(base);
        let (accepted, expires) = (outbox_time(entry.accepted), entry.expires.map(outbox_time));
        let bytes = encode(salt, entry.seq, accepted, expires, &entry.message).unwrap_or_default();
        let job = Job::Record { seq: entry.seq, slot: entry.place.slot, bytes };
        front.write_from = entry.seq + 1;
        Some(job)
    }

    fn write_marks(&mut self, shared: &Shared, marks: &[Mark]) -> std::io::Result<()> {
        for (n, mark) in marks.iter().enumerate() {
            let at = slot_at(mark.slot) + DONE_AT as u64;
            if let Err(e) = self.storage.write_at(at, &done_word(self.header.salt, mark.seq)) {
                // What is not marked comes twice after a restart, at worst; so a mark is worth a try, not a place in memory
                // for ever. Before the next try the same slot may have been given to another message.
                let mut front = shared.lock();
                if front.done.len() < front.slots as usize {
                    front.done.extend_from_slice(&marks[n..]);
                }
                return Err(e);
            }
        }
        Ok(())
    }

    fn write_record(&mut self, slot: u32, bytes: &[u8]) -> std::io::Result<()> {
        let room = (self.header.slots - slot) as usize * SLOT;
        let (first, second) = bytes.split_at(bytes.len().min(room));
        self.storage.write_at(slot_at(slot), first)?;
        if second.is_empty() { Ok(()) } else { self.storage.write_at(DATA as u64, second) }
    }

    fn sync_if_due(&mut self, shared: &Shared) -> std::io::Result<()> {
        let now = self.clock.now();
        let (newest, waiting, written) = {
            let front = shared.lock();
            (front.queue.newest().map(|e| e.seq), front.queue.len() > 0, front.write_from)
        };
        if self.unsynced_since.is_some_and(|since| now >= since + self.sync_every) {
            // What has been acknowledged meanwhile needs no safety.
            if newest.is_some_and(|seq| seq >= self.synced_to) {
                self.write_header()?;
                self.storage.sync()?;
            }
            self.synced_to = written;
            self.unsynced_since = None;
        }
        match self.saved_at {
            Some(at) if waiting && now >= at + SAVE_TIME_EVERY => {
                self.write_header()?;
                self.storage.sync()
            }
            None => {
                self.saved_at = Some(now);
                Ok(())
            }
            Some(_) => Ok(()),
        }
    }

    /// Sets numbers aside before they are used up.
    fn reserve(&mut self, shared: &Shared) -> std::io::Result<()> {
        let next = shared.lock().queue.next_seq();
        if next + SEQ_STEP / 4 < self.header.seq_limit || self.header.seq_limit == MAX_SEQ {
            return Ok(());
        }
        let before = self.header.seq_limit;
        self.header.seq_limit = (next + SEQ_STEP).min(MAX_SEQ);
        self.write_header().and_then(|()| self.storage.sync()).inspect_err(|_| self.header.seq_limit = before)
    }

    fn write_header(&mut self) -> std::io::Result<()> {
        let now = self.clock.now();
        self.header.generation += 1;
        (self.header.clock_ns, self.header.mono_ns) = (now.0.saturating_add(self.base), now.0);
        self.storage.write_at(self.header.place() as u64, &self.header.encode())?;
        self.saved_at = Some(now);
        Ok(())
    }

    fn failed(&mut self, shared: &Shared, e: &std::io::Error) {
        self.retry = Some(self.clock.now() + self.wait);
        self.wait = (self.wait * 2).min(RETRY_MAX);
        let mut front = shared.lock();
        front.disk_faults += 1;
        if self.unsynced_since.is_some() {
            // After a failed sync the kernel may have forgotten what was written: all of it is written again.
            front.write_from = front.write_from.min(self.synced_to);
            front.written_to = front.written_to.min(self.synced_to);
        }
        let text = format!("outbox: the disk cannot be written: {e}");
        if front.fault.as_ref() != Some(&text) {
            error!("{text}: messages are kept in memory; it is tried again");
            front.fault = Some(text);
        }
    }

    fn recovered(&mut self, shared: &Shared) {
        self.wait = RETRY_FIRST;
        if self.retry.take().is_some() {
            shared.lock().fault = None;
            info!("outbox: the disk can be written again");
        }
    }

    /// Writes everything, and which number comes next.
    fn close(&mut self, shared: &Shared) {
        let closed = self.write_all(shared).and_then(|()| {
            self.header.seq_limit = shared.lock().queue.next_seq();
            self.write_header()?;
            self.storage.sync()
        });
        if let Err(e) = closed {
            warn!("outbox: {} messages may not survive: {e}", shared.lock().counts().unsaved);
        }
    }
}

impl Front {
    fn has_work(&mut self) -> bool {
        !self.done.is_empty() || self.queue.count_from(self.write_from) > 0
    }
}

fn slot_at(slot: u32) -> u64 {
    DATA as u64 + u64::from(slot) * SLOT as u64
}

/// Not less than a millisecond, so that a wait is one.
fn nanos(nanos: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0)).max(Duration::from_millis(1))
}

/// Which boot this is; zeros where that cannot be known.
fn boot_id() -> [u8; 16] {
    let Ok(id) = std::fs::read_to_string("/proc/sys/kernel/random/boot_id") else { return [0; 16] };
    let digest = Sha256::digest(id.trim().as_bytes());
    let mut boot = [0; 16];
    boot.copy_from_slice(&digest[..16]);
    boot
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
