//! The ring's bytes: two copies of a header, then slots; a record takes one or more of them and may wrap around.
//!
//! ```text
//! 0      header, copy A (96 bytes used)      the copy of the higher generation whose checksum holds is valid
//! 4096   header, copy B
//! 8192   slot 0 | slot 1 | ...               256 bytes each
//! ```
//!
//! All numbers are little-endian. A record's checksum covers everything but its `done` word, and begins with a random
//! number that is chosen when the ring is made: neither what an earlier ring has left nor a payload that looks like a
//! record passes for one. `done` is written when the message is settled, to a value that only this record can have; so
//! half-written or damaged it means "not settled", and the worst that follows is that a message comes twice.

use sha2::{Digest, Sha256};

use super::Message;

/// Bytes of a slot.
pub(super) const SLOT: usize = 256;
/// Bytes between the two copies of the header, a page each.
pub(super) const HEADER_PAGE: usize = 4_096;
/// Where slot 0 begins.
pub(super) const DATA: usize = 2 * HEADER_PAGE;
/// Offset of the `done` word in a record.
pub(super) const DONE_AT: usize = 8;
/// Most slots of a ring: 256 MiB.
pub(super) const MAX_SLOTS: u32 = 1 << 20;

/// Numbers are smaller.
pub(super) const MAX_SEQ: u64 = 1 << 53;
const VERSION: u32 = 1;
const FILE_MAGIC: [u8; 16] = *b"girasol outbox\r\n";
const HEADER_BYTES: usize = 96;
/// No UTF-8 text begins like this.
const RECORD_MAGIC: [u8; 4] = [0xf5, b'G', b'o', 0xfa];
const RECORD_HEAD: usize = 56;
const NEVER: i64 = i64::MAX;

/// What is known about the ring as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Grows by one with each writing.
    pub(super) generation: u64,
    /// Number of slots.
    pub(super) slots: u32,
    /// Begins every checksum.
    pub(super) salt: u64,
    /// No message has had this number or a larger one; below 2⁵³, so that it is a whole number in JSON.
    pub(super) seq_limit: u64,
    /// The outbox's own time when this was written: it counts while the board is on, over all boots.
    pub(super) clock_ns: i64,
    /// The monotonic clock at that time.
    pub(super) mono_ns: i64,
    /// Which boot that was.
    pub(super) boot: [u8; 16],
}

/// Why a file is no ring that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadHeader {
    /// Made by a later version of the program.
    Newer(u32),
    /// Neither copy of the header is whole.
    Damaged,
}

/// A record and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) seq: u64,
    pub(super) slot: u32,
    pub(super) slots: u32,
    /// In the outbox's own time.
    pub(super) accepted_ns: i64,
    /// In the outbox's own time.
    pub(super) expires_ns: Option<i64>,
    pub(super) done: bool,
    pub(super) message: Message,
}

/// What a ring's file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recovered {
    pub(super) header: Header,
    /// Not yet settled, in the order of their numbers.
    pub(super) live: Vec<Record>,
    /// The slot after the newest record, settled or not.
    pub(super) tail: u32,
    /// Larger than the number of any record.
    pub(super) next_seq: u64,
    /// Records that are half-written or damaged.
    pub(super) damaged: u64,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        put(&FILE_MAGIC);
        put(&VERSION.to_le_bytes());
        put(&u32::try_from(SLOT).unwrap_or(0).to_le_bytes());
        put(&self.slots.to_le_bytes());
        put(&[0; 4]);
        put(&self.generation.to_le_bytes());
        put(&self.salt.to_le_bytes());
        put(&self.seq_limit.to_le_bytes());
        put(&self.clock_ns.to_le_bytes());
        put(&self.mono_ns.to_le_bytes());
        put(&self.boot);
        let sum = checksum(0, &[&out[..HEADER_BYTES - 8]]);
        out[HEADER_BYTES - 8..].copy_from_slice(&sum);
        out
    }

    fn decode(bytes: &[u8]) -> Result<Self, BadHeader> {
        let bytes = bytes.get(..HEADER_BYTES).ok_or(BadHeader::Damaged)?;
        if bytes[..16] != FILE_MAGIC {
            return Err(BadHeader::Damaged);
        }
        let version = u32_at(bytes, 16);
        if version > VERSION {
            return Err(BadHeader::Newer(version));
        }
        let slots = u32_at(bytes, 24);
        let whole = checksum(0, &[&bytes[..HEADER_BYTES - 8]]) == bytes[HEADER_BYTES - 8..];
        let fits = version == VERSION
            && u32_at(bytes, 20) as usize == SLOT
            && (1..=MAX_SLOTS).contains(&slots)
            && u64_at(bytes, 48) <= MAX_SEQ;
        if !whole || !fits {
            return Err(BadHeader::Damaged);
        }
        Ok(Self {
            generation: u64_at(bytes, 32),
            slots,
            salt: u64_at(bytes, 40),
            seq_limit: u64_at(bytes, 48),
            clock_ns: i64_at(bytes, 56),
            mono_ns: i64_at(bytes, 64),
            boot: array_at(bytes, 72),
        })
    }

    /// Where this generation is written: the copies take turns.
    pub(super) fn place(&self) -> usize {
        if self.generation.is_multiple_of(2) { 0 } else { HEADER_PAGE }
    }
}

/// Slots that a message takes.
pub(super) fn slots_for(message: &Message) -> usize {
    (RECORD_HEAD + message.topic.len() + message.payload.len()).div_ceil(SLOT)
}

/// What is written into `done` when the message is settled.
pub(super) fn done_word(salt: u64, seq: u64) -> [u8; 8] {
    (salt.rotate_left(17) ^ seq ^ 0x646f_6e65_646f_6e65).to_le_bytes()
}

/// A record, filled up to whole slots. `None` for a message that does not fit the format.
pub(super) fn encode(
    salt: u64,
    seq: u64,
    accepted_ns: i64,
    expires_ns: Option<i64>,
    message: &Message,
) -> Option<Vec<u8>> {
    let topic_len = u16::try_from(message.topic.len()).ok()?;
    let payload_len = u32::try_from(message.payload.len()).ok()?;
    let mut out = Vec::with_capacity(slots_for(message) * SLOT);
    out.extend(RECORD_MAGIC);
    out.extend([0; 4 + 8 + 8]);
    out.extend(seq.to_le_bytes());
    out.extend(accepted_ns.to_le_bytes());
    out.extend(expires_ns.unwrap_or(NEVER).to_le_bytes());
    out.extend(topic_len.to_le_bytes());
    out.extend([0; 2]);
    out.extend(payload_len.to_le_bytes());
    out.extend(message.topic.as_bytes());
    out.extend(&message.payload);
    let sum = checksum(salt, &[&out[24..]]);
    out[16..24].copy_from_slice(&sum);
    out.resize(out.len().div_ceil(SLOT) * SLOT, 0);
    Some(out)
}

/// Reads a whole file. Never panics, whatever it holds; takes memory for what it holds only.
pub(super) fn recover(image: &[u8]) -> Result<Recovered, BadHeader> {
    let header = header(image)?;
    let data = image.get(DATA..).unwrap_or(&[]);
    let slots = header.slots.min(u32::try_from(data.len() / SLOT).unwrap_or(0));
    let data = &data[..slots as usize * SLOT];
    let (mut records, mut damaged, mut slot) = (Vec::new(), 0, 0);
    while slot < slots {
        let mut taken = 1;
        match decode(header.salt, data, slot) {
            None => {}
            Some(None) => damaged += 1,
            Some(Some(record)) => {
                taken = record.slots;
                records.push(record);
            }
        }
        slot += taken;
    }
    records.sort_by_key(|r: &Record| r.seq);
    // Two of one number cannot be, but a file may say so.
    records.dedup_by_key(|r| r.seq);
    let newest = records.last();
    let tail = newest.map_or(0, |r| (r.slot + r.slots) % header.slots);
    let next_seq = newest.map_or(0, |r| r.seq + 1).max(header.seq_limit);
    records.retain(|r| !r.done);
    Ok(Recovered { header, live: records, tail, next_seq, damaged })
}

/// The newer of the two copies that is whole.
fn header(image: &[u8]) -> Result<Header, BadHeader> {
    let copies = [0, HEADER_PAGE].map(|at| image.get(at..).map_or(Err(BadHeader::Damaged), Header::decode));
    let newer = copies.iter().find_map(|copy| copy.err().filter(|e| matches!(e, BadHeader::Newer(_))));
    if let Some(newer) = newer {
        return Err(newer);
    }
    copies.into_iter().flatten().max_by_key(|h| h.generation).ok_or(BadHeader::Damaged)
}

/// The record that begins at `slot`: `None` if none does, `Some(None)` if it is damaged.
fn decode(salt: u64, data: &[u8], slot: u32) -> Option<Option<Record>> {
    let start = slot as usize * SLOT;
    let head = data.get(start..start + RECORD_HEAD)?;
    if head[..4] != RECORD_MAGIC {
        return None;
    }
    Some(decode_body(salt, data, slot, head))
}

fn decode_body(salt: u64, data: &[u8], slot: u32, head: &[u8]) -> Option<Record> {
    let topic_len = usize::from(u16::from_le_bytes(array_at(head, 48)));
    let bytes = topic_len.checked_add(u32_at(head, 52) as usize)?;
    let whole = RECORD_HEAD.checked_add(bytes)?;
    if bytes > super::MAX_PAYLOAD_BYTES + usize::from(u16::MAX) || whole.div_ceil(SLOT) * SLOT > data.len() {
        return None;
    }
    let start = slot as usize * SLOT;
    let first = &data[start..data.len().min(start + whole)];
    let second = &data[..whole - first.len()];
    if checksum(salt, &[&first[24..], second]) != head[16..24] {
        return None;
    }
    let mut body = [&first[RECORD_HEAD..], second].concat();
    let payload = body.split_off(topic_len);
    let seq = u64_at(head, 24);
    if seq >= MAX_SEQ {
        return None;
    }
    let expires = i64_at(head, 40);
    Some(Record {
        seq,
        slot,
        slots: u32::try_from(whole.div_ceil(SLOT)).ok()?,
        accepted_ns: i64_at(head, 32),
        expires_ns: (expires != NEVER).then_some(expires),
        done: head[DONE_AT..DONE_AT + 8] == done_word(salt, seq),
        message: Message::new(String::from_utf8(body).ok()?, payload),
    })
}

fn checksum(salt: u64, parts: &[&[u8]]) -> [u8; 8] {
    let mut hash = Sha256::new();
    hash.update(salt.to_le_bytes());
    for part in parts {
        hash.update(part);
    }
    array_at(&hash.finalize(), 0)
}

/// `N` bytes from `at`; zeros beyond the end, which no caller asks for.
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|b| b.try_into().ok()).unwrap_or([0; N])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    i64::from_le_bytes(array_at(bytes, at))
}
