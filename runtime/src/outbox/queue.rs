//! What every outbox has in its middle: messages in the order of their numbers, handed out, removed and counted.

use std::collections::VecDeque;

use super::{Message, OutboxCounts, Outgoing};
use crate::clock::MonoTime;

/// Messages in the order of their numbers; `P` says where else a message is kept.
#[derive(Debug)]
pub(super) struct Queue<P> {
    entries: VecDeque<Entry<P>>,
    next_seq: u64,
    /// Number of the first message that has not been handed out.
    cursor: u64,
    pub(super) counts: OutboxCounts,
}

#[derive(Debug)]
pub(super) struct Entry<P> {
    pub(super) seq: u64,
    pub(super) message: Message,
    pub(super) accepted: MonoTime,
    pub(super) expires: Option<MonoTime>,
    pub(super) place: P,
}

impl<P> Entry<P> {
    /// Bytes of topic and payload.
    pub(super) fn bytes(&self) -> usize {
        self.message.topic.len() + self.message.payload.len()
    }
}

impl<P> Queue<P> {
    pub(super) fn new(next_seq: u64) -> Self {
        Self { entries: VecDeque::new(), next_seq, cursor: 0, counts: OutboxCounts::default() }
    }

    /// Number of the next message.
    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Puts a message that has a number already at the end, below every number to come.
    pub(super) fn recover(&mut self, entry: Entry<P>) {
        self.counts.recovered += 1;
        self.entries.push_back(entry);
    }

    /// Takes a message at time `now`.
    pub(super) fn push(&mut self, message: Message, now: MonoTime, place: P) -> u64 {
        let seq = self.next_seq;
        let expires = message.expiry.map(|expiry| now + expiry);
        self.entries.push_back(Entry { seq, message, accepted: now, expires, place });
        self.next_seq += 1;
        seq
    }

    pub(super) fn oldest(&self) -> Option<&Entry<P>> {
        self.entries.front()
    }

    pub(super) fn newest(&self) -> Option<&Entry<P>> {
        self.entries.back()
    }

    /// The first message whose number is at least `seq`.
    pub(super) fn from(&mut self, seq: u64) -> Option<&mut Entry<P>> {
        let place = self.entries.partition_point(|e| e.seq < seq);
        self.entries.get_mut(place)
    }

    /// How many messages have numbers of at least `seq`.
    pub(super) fn count_from(&self, seq: u64) -> usize {
        self.entries.len() - self.entries.partition_point(|e| e.seq < seq)
    }

    /// Makes room.
    pub(super) fn drop_oldest(&mut self) -> Option<Entry<P>> {
        let entry = self.entries.pop_front()?;
        self.counts.dropped += 1;
        Some(entry)
    }

    pub(super) fn acknowledged(&mut self, seq: u64) -> Option<Entry<P>> {
        let entry = self.remove(seq)?;
        self.counts.acked += 1;
        Some(entry)
    }

    pub(super) fn poisoned(&mut self, seq: u64) -> Option<Entry<P>> {
        let entry = self.remove(seq)?;
        self.counts.poison += 1;
        Some(entry)
    }

    /// Hands out the next message; those whose time is up are given to `expired`.
    pub(super) fn next(&mut self, now: MonoTime, mut expired: impl FnMut(Entry<P>)) -> Option<Outgoing> {
        loop {
            let place = self.entries.partition_point(|e| e.seq < self.cursor);
            let entry = self.entries.get(place)?;
            if entry.expires.is_none_or(|at| now < at) {
                self.cursor = entry.seq + 1;
                let (message, accepted, expires) = (entry.message.clone(), entry.accepted, entry.expires);
                return Some(Outgoing { seq: entry.seq, message, accepted, expires });
            }
            if let Some(entry) = self.entries.remove(place) {
                self.counts.expired += 1;
                expired(entry);
            }
        }
    }

    pub(super) fn rewind(&mut self) {
        self.cursor = 0;
    }

    fn remove(&mut self, seq: u64) -> Option<Entry<P>> {
        let place = self.entries.binary_search_by_key(&seq, |e| e.seq).ok()?;
        self.entries.remove(place)
    }
}
