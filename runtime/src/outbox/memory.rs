//! An outbox in memory: survives the broker, not the process.

use super::{Accepted, Full, Message, Outbox, OutboxCounts, Outgoing, queue::Queue};
use crate::clock::MonoTime;

/// Bounded by a number of messages and by the bytes of their topics and payloads.
#[derive(Debug)]
pub struct MemoryOutbox {
    queue: Queue<()>,
    capacity: usize,
    max_bytes: usize,
    bytes: usize,
    fault: Option<String>,
}

impl MemoryOutbox {
    /// Holds at most `capacity` messages of together `max_bytes` bytes.
    #[must_use]
    pub fn new(capacity: usize, max_bytes: usize) -> Self {
        Self { queue: Queue::new(0), capacity, max_bytes, bytes: 0, fault: None }
    }

    /// Stands in for a disk that cannot be used because of `fault`.
    #[must_use]
    pub fn with_fault(self, fault: String) -> Self {
        Self { fault: Some(fault), ..self }
    }

    fn make_room(&mut self, bytes: usize) {
        while self.queue.len() >= self.capacity || self.bytes + bytes > self.max_bytes {
            let Some(entry) = self.queue.drop_oldest() else { return };
            self.bytes -= entry.bytes();
        }
    }
}

impl Outbox for MemoryOutbox {
    fn accept(&mut self, message: Message, now: MonoTime) -> Result<Accepted, Full> {
        let bytes = message.topic.len() + message.payload.len();
        if self.capacity == 0 || bytes > self.max_bytes {
            return Err(Full);
        }
        self.make_room(bytes);
        self.bytes += bytes;
        Ok(Accepted { seq: self.queue.push(message, now, ()) })
    }

    fn next(&mut self, now: MonoTime) -> Option<Outgoing> {
        self.queue.next(now, |entry| self.bytes -= entry.bytes())
    }

    fn acknowledged(&mut self, seq: u64) {
        if let Some(entry) = self.queue.acknowledged(seq) {
            self.bytes -= entry.bytes();
        }
    }

    fn poisoned(&mut self, seq: u64) {
        if let Some(entry) = self.queue.poisoned(seq) {
            self.bytes -= entry.bytes();
        }
    }

    fn rewind(&mut self) {
        self.queue.rewind();
    }

    fn counts(&self) -> OutboxCounts {
        let queued = self.queue.len() as u64;
        OutboxCounts { queued, unsaved: queued, ..self.queue.counts }
    }

    fn fault(&self) -> Option<String> {
        self.fault.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const T0: MonoTime = MonoTime(0);

    fn message(payload: &str) -> Message {
        Message::new("t", payload)
    }

    fn numbers(outbox: &mut MemoryOutbox) -> Vec<u64> {
        std::iter::from_fn(|| outbox.next(T0)).map(|o| o.seq).collect()
    }

    #[test]
    fn hands_out_in_order_and_again_after_a_rewind() {
        let mut outbox = MemoryOutbox::new(8, 1_000);
        for _ in 0..3 {
            outbox.accept(message("x"), T0).unwrap();
        }
        assert_eq!(numbers(&mut outbox), [0, 1, 2]);
        outbox.acknowledged(1);
        outbox.acknowledged(1);
        assert!(numbers(&mut outbox).is_empty());
        outbox.rewind();
        assert_eq!(numbers(&mut outbox), [0, 2]);
        assert_eq!(
            outbox.counts(),
            OutboxCounts { queued: 2, unsaved: 2, acked: 1, ..OutboxCounts::default() }
        );
    }

    #[test]
    fn the_oldest_make_room_and_are_counted() {
        let mut outbox = MemoryOutbox::new(2, 10);
        for _ in 0..4 {
            outbox.accept(message("x"), T0).unwrap();
        }
        assert_eq!(numbers(&mut outbox), [2, 3]);
        outbox.accept(message("12345678"), T0).unwrap();
        assert_eq!(
            outbox.counts(),
            OutboxCounts { queued: 1, unsaved: 1, dropped: 4, ..OutboxCounts::default() }
        );
        assert_eq!(outbox.accept(message("1234567890"), T0), Err(Full));
        assert_eq!(outbox.counts().queued, 1, "what cannot fit drops nothing");
    }

    #[test]
    fn expired_messages_are_counted_and_not_handed_out() {
        let mut outbox = MemoryOutbox::new(8, 1_000);
        outbox.accept(Message { expiry: Some(Duration::from_secs(1)), ..message("old") }, T0).unwrap();
        outbox.accept(message("kept"), T0).unwrap();
        assert_eq!(outbox.next(MonoTime(1_000_000_000)).map(|o| o.seq), Some(1));
        assert_eq!(outbox.counts().expired, 1);
    }

    proptest! {
        #[test]
        fn every_accepted_message_is_accounted_for(actions in prop::collection::vec(0u8..6, 0..400)) {
            let mut outbox = MemoryOutbox::new(5, 60);
            let (mut accepted, mut handed, mut newest) = (0u64, Vec::new(), None);
            for (time, action) in (0i64..).zip(actions) {
                let now = MonoTime(time);
                match action {
                    0 | 1 => {
                        let expiry = (action == 0).then(|| Duration::from_nanos(9));
                        let seq = outbox.accept(Message { expiry, ..message("0123456789") }, now).unwrap().seq;
                        prop_assert_eq!(seq, accepted);
                        accepted += 1;
                    }
                    2 => {
                        if let Some(out) = outbox.next(now) {
                            prop_assert!(newest.is_none_or(|n| out.seq > n));
                            newest = Some(out.seq);
                            handed.push(out.seq);
                        }
                    }
                    3 => if let Some(seq) = handed.pop() { outbox.acknowledged(seq) },
                    4 => if let Some(seq) = handed.pop() { outbox.poisoned(seq) },
                    _ => { outbox.rewind(); newest = None; }
                }
                let counts = outbox.counts();
                prop_assert_eq!(counts.queued + counts.acked + counts.dropped + counts.expired + counts.poison, accepted);
                prop_assert!(counts.queued <= 5 && outbox.bytes <= 60);
            }
        }
    }
}
