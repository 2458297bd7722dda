//! One thread per source: fills pool slots and hands them over a bounded queue; never waits for the consumer.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::Thread,
    time::Duration,
};

use heapless::spsc::{Consumer, Producer, Queue};

use crate::{
    source::{Read, SourceError},
    timeline::{Pool, Slot},
};

/// Blocks or frames under way: more than two seconds of either. (`heapless` keeps one place free.)
pub(super) const QUEUE: usize = 64;
/// A source looks this often whether it should stop.
const TIMEOUT: Duration = Duration::from_millis(100);

/// The queue of one source.
pub(super) type Slots<T> = Queue<Slot<T>, QUEUE>;

/// What a source's thread tells its consumer beside data.
#[derive(Default)]
pub(super) struct Status {
    ended: AtomicBool,
    dropped: AtomicU64,
    error: Mutex<Option<SourceError>>,
}

impl Status {
    /// Nothing more will come.
    pub(super) fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Items for which there was no slot.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Why it ended, if by an error; once.
    pub(super) fn take_error(&self) -> Option<SourceError> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Reads a source until it ends or `stop` is set. While `paused` is set nothing is handed on: what comes is read into a
/// place of its own, that no other thread ever sees, and overwritten by the next.
pub(super) fn pump<T: Default>(
    mut read: impl FnMut(&mut T, Duration) -> Result<Read, SourceError>,
    mut out: Producer<'_, Slot<T>>,
    status: &Status,
    (stop, paused): (&AtomicBool, &AtomicBool),
    consumer: &Thread,
) {
    let pool = Pool::<T>::new(QUEUE);
    // Where data go that nobody has room for: the device must be drained all the same.
    let mut spare = T::default();
    let mut slot = None;
    while !stop.load(Ordering::Relaxed) {
        slot = if paused.load(Ordering::Acquire) { None } else { slot.or_else(|| pool.take()) };
        let target = slot.as_deref_mut().unwrap_or(&mut spare);
        match read(target, TIMEOUT) {
            // Once more, for what was on its way when the pause began.
            Ok(Read::Data) if paused.load(Ordering::Acquire) => {}
            Ok(Read::Data) => {
                let sent = slot.take().is_some_and(|slot| out.enqueue(slot).is_ok());
                if !sent {
                    status.dropped.fetch_add(1, Ordering::Relaxed);
                }
                consumer.unpark();
            }
            Ok(Read::Timeout) => {}
            Ok(Read::End) => break,
            Err(error) => {
                *status.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                break;
            }
        }
    }
    status.ended.store(true, Ordering::Release);
    consumer.unpark();
}

/// The consumer's end: hands each waiting item to `take`. Returns true once, when the source has ended and everything
/// was handed over.
pub(super) fn drain<T>(
    queue: &mut Consumer<'_, Slot<T>>,
    status: &Status,
    over: &mut bool,
    mut take: impl FnMut(&T),
) -> bool {
    // Looked at first: what was queued before the flag was set is certain to be seen below.
    let ended = status.ended();
    while let Some(slot) = queue.dequeue() {
        take(&slot);
    }
    let now_over = ended && !*over;
    *over |= ended;
    now_over
}
