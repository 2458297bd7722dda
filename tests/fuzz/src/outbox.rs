//! The outbox's file: whatever it holds, reading it does not panic, takes no more memory than the file is long, and what
//! it finds can be written and read back.
//!
//! The first byte says how many checksums are put right before reading: a fuzzer does not guess them.
#![no_main]

use libfuzzer_sys::fuzz_target;

/// The runtime's own source, without the rest of it, so that this builds in seconds.
#[path = "."]
mod outbox {
    /// As in the runtime.
    pub const MAX_PAYLOAD_BYTES: usize = 64 << 10;

    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct Message {
        pub topic: String,
        pub payload: Vec<u8>,
    }

    impl Message {
        pub fn new(topic: impl Into<String>, payload: impl Into<Vec<u8>>) -> Self {
            Self { topic: topic.into(), payload: payload.into() }
        }
    }

    #[path = "../../../runtime/src/outbox/format.rs"]
    #[allow(dead_code)]
    mod format;

    use format::{DATA, Header, MAX_SEQ, SLOT, encode, recover, slots_for};
    use sha2::{Digest, Sha256};

    fn seal(salt: u64, parts: &[&[u8]]) -> [u8; 8] {
        let mut hash = Sha256::new();
        hash.update(salt.to_le_bytes());
        parts.iter().for_each(|part| hash.update(part));
        hash.finalize()[..8].try_into().unwrap()
    }

    fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
        let mut word = [0; 8];
        word[..N].copy_from_slice(&bytes[at..at + N]);
        u64::from_le_bytes(word)
    }

    /// A whole header, then slots from `data`; with valid checksums where a record begins.
    fn image(data: &[u8], repaired: usize) -> Vec<u8> {
        let slots = u32::try_from(data.len().div_ceil(SLOT).clamp(1, 1 << 12)).unwrap();
        let header = Header {
            generation: 0,
            slots,
            salt: 7,
            seq_limit: 1_000,
            clock_ns: 0,
            mono_ns: 0,
            boot: [1; 16],
        };
        let mut image = header.encode().to_vec();
        image.resize(DATA, 0);
        image.extend(&data[..data.len().min(slots as usize * SLOT)]);
        image.resize(DATA + slots as usize * SLOT, 0);
        for slot in 0..repaired.min(slots as usize) {
            let at = DATA + slot * SLOT;
            let whole = 56 + number::<2>(&image, at + 48) as usize + number::<4>(&image, at + 52) as usize;
            if whole > slots as usize * SLOT {
                continue;
            }
            let first = &image[at..image.len().min(at + whole)];
            let second = &image[DATA..DATA + whole - first.len()];
            let sum = seal(7, &[&first[24..], second]);
            image[at + 16..at + 24].copy_from_slice(&sum);
        }
        image
    }

    pub fn run(data: &[u8]) {
        let _ = recover(data);
        let Some((&repaired, data)) = data.split_first() else { return };
        let image = image(data, usize::from(repaired));
        let found = recover(&image).unwrap();
        assert!(found.live.is_sorted_by(|a, b| a.seq < b.seq));
        assert!(found.tail < found.header.slots && found.next_seq <= MAX_SEQ);
        let kept: usize = found.live.iter().map(|r| r.message.topic.len() + r.message.payload.len()).sum();
        for record in &found.live {
            assert_eq!(record.slots as usize, slots_for(&record.message));
            assert!(record.slots <= found.header.slots && record.seq < found.next_seq);
        }
        // Records may lie over each other in a forged file, each at most as long as the file.
        assert!(kept <= image.len() * found.header.slots as usize);
        if let Some(record) = found.live.last() {
            let bytes =
                encode(7, record.seq, record.accepted_ns, record.expires_ns, &record.message).unwrap();
            let mut again = image[..DATA].to_vec();
            again.extend(&bytes);
            again.resize(image.len(), 0);
            let read = recover(&again).unwrap().live;
            assert_eq!(read.len(), 1);
            assert_eq!(read[0].message, record.message);
        }
    }
}

fuzz_target!(|data: &[u8]| outbox::run(data));
