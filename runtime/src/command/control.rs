//! The handle between commands and the thread that works on snippets.

use std::{
    collections::VecDeque,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use super::Standing;
use crate::{
    event::{EventSettings, Sense},
    model::{Answer, SelfTest},
};

/// Orders that can wait; [`Order::Configure`] takes the place of an older one.
const MAX_ORDERS: usize = 8;
/// Requests that can wait.
const MAX_INCOMING: usize = 32;

/// Names an order in its report.
pub type Ticket = u64;

/// Which senses are paused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paused {
    /// Nothing is heard.
    pub hear: bool,
    /// Nothing is seen.
    pub see: bool,
}

/// What is in force from now on.
#[derive(Clone, Debug, PartialEq)]
pub struct Live {
    /// Thresholds and the like.
    pub events: EventSettings,
    /// Quiet hours for all labels.
    pub quiet: bool,
    /// Quiet hours per label, in the order of the manifest's audible and then visible labels.
    pub quiet_labels: Vec<bool>,
    /// Which senses are paused.
    pub paused: Paused,
    /// How often a caption is written; zero is never.
    pub caption_every: Duration,
}

/// What the thread that works on snippets is told.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    /// Take these settings over.
    Configure(Box<Live>),
    /// Answer a question.
    Ask {
        /// Comes back in the report.
        ticket: Ticket,
        /// The question.
        question: String,
    },
    /// Run the golden snippets.
    SelfTest {
        /// Comes back in the report.
        ticket: Ticket,
    },
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// The order's.
    pub ticket: Ticket,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of an order.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// An answer.
    Answer(Answer),
    /// There was nothing to answer from.
    NoData,
    /// The self-test passed; `None` if the bundle has none.
    Tested(Option<SelfTest>),
    /// It failed, for this reason.
    Failed(String),
}

/// A request as it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Incoming {
    /// Name of the command.
    pub name: String,
    /// Content.
    pub payload: Vec<u8>,
    /// Whether it was published to be kept by the broker.
    pub retained: bool,
    /// Where the response is wanted.
    pub response_topic: Option<String>,
    /// Goes back with the response.
    pub correlation: Option<Vec<u8>>,
}

/// Shared by the controller, the sources and the thread that works on snippets. Every queue is bounded.
#[derive(Debug, Default)]
pub struct Control {
    hear_paused: AtomicBool,
    see_paused: AtomicBool,
    orders: Mutex<VecDeque<Order>>,
    /// Something about the device's state has changed and is worth publishing.
    news: AtomicBool,
    standing: Mutex<Standing>,
    /// Where reports and requests wait for the controller.
    pub inbox: Inbox,
}

impl Control {
    /// The pause flag of a sense. A source looks at it for every block or frame and hands nothing on while it is set.
    #[must_use]
    pub fn paused_flag(&self, sense: Sense) -> &AtomicBool {
        match sense {
            Sense::Hear => &self.hear_paused,
            Sense::See => &self.see_paused,
        }
    }

    /// Which senses are paused.
    #[must_use]
    pub fn paused(&self) -> Paused {
        let (hear, see) = (&self.hear_paused, &self.see_paused);
        Paused { hear: hear.load(Ordering::Acquire), see: see.load(Ordering::Acquire) }
    }

    /// Sets the pause flags; in force for the next block or frame.
    pub fn set_paused(&self, paused: Paused) {
        self.hear_paused.store(paused.hear, Ordering::Release);
        self.see_paused.store(paused.see, Ordering::Release);
    }

    /// Gives an order. Returns whether there was room.
    pub fn order(&self, order: Order) -> bool {
        let mut orders = lock(&self.orders);
        if matches!(order, Order::Configure(_)) {
            // The newest settings replace those that nobody has taken yet, at their place.
            if let Some(older) = orders.iter_mut().find(|o| matches!(o, Order::Configure(_))) {
                *older = order;
                return true;
            }
        } else if orders.len() >= MAX_ORDERS {
            return false;
        }
        orders.push_back(order);
        true
    }

    /// The oldest order that `fits`.
    pub fn next_order(&self, fits: impl Fn(&Order) -> bool) -> Option<Order> {
        let mut orders = lock(&self.orders);
        let place = orders.iter().position(fits)?;
        orders.remove(place)
    }

    /// Says how settings stand.
    pub fn stand(&self, standing: Standing) {
        let mut now = lock(&self.standing);
        if *now != standing {
            *now = standing;
            self.news.store(true, Ordering::Release);
        }
    }

    /// How settings stand.
    #[must_use]
    pub fn standing(&self) -> Standing {
        lock(&self.standing).clone()
    }

    /// Whether there is something new to publish; once.
    pub fn take_news(&self) -> bool {
        self.news.swap(false, Ordering::AcqRel)
    }
}

/// Where requests and reports wait for the controller's thread.
#[derive(Debug, Default)]
pub struct Inbox {
    items: Mutex<Items>,
    wake: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Items {
    incoming: VecDeque<Incoming>,
    /// At most one for each order.
    reports: VecDeque<Report>,
    closed: bool,
}

/// What the controller's thread finds.
#[derive(Debug)]
pub(super) enum Item {
    Incoming(Incoming),
    Report(Report),
    Nothing,
    Closed,
}

impl Inbox {
    /// Takes a request. Never waits: with too many waiting it is dropped and counted.
    pub fn offer(&self, incoming: Incoming) {
        let mut items = lock(&self.items);
        if items.incoming.len() >= MAX_INCOMING {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        items.incoming.push_back(incoming);
        self.wake.notify_one();
    }

    /// Takes a report.
    pub fn report(&self, report: Report) {
        lock(&self.items).reports.push_back(report);
        self.wake.notify_one();
    }

    /// Requests dropped for lack of room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn close(&self) {
        lock(&self.items).closed = true;
        self.wake.notify_all();
    }

    /// Waits for at most `within`.
    pub(super) fn wait(&self, within: Duration) -> Item {
        let empty = |i: &mut Items| i.incoming.is_empty() && i.reports.is_empty() && !i.closed;
        let waited = self.wake.wait_timeout_while(lock(&self.items), within, empty);
        let (mut items, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(report) = items.reports.pop_front() {
            return Item::Report(report);
        }
        if items.closed {
            return Item::Closed;
        }
        items.incoming.pop_front().map_or(Item::Nothing, Item::Incoming)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change is complete when the lock is released, so a panic elsewhere does not matter.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_bounded_and_requests_too() {
        let control = Control::default();
        assert!((0..8).all(|ticket| control.order(Order::SelfTest { ticket })));
        assert!(!control.order(Order::SelfTest { ticket: 8 }));
        for _ in 0..40 {
            control.inbox.offer(Incoming::default());
        }
        assert_eq!(control.inbox.dropped(), 8);
    }

    #[test]
    fn only_the_newest_settings_wait() {
        let control = Control::default();
        let live = |quiet| {
            let events = EventSettings::default();
            let (paused, caption_every) = (Paused::default(), Duration::ZERO);
            Order::Configure(Box::new(Live {
                events,
                quiet,
                quiet_labels: Vec::new(),
                paused,
                caption_every,
            }))
        };
        assert!(control.order(live(false)) && control.order(live(true)));
        assert_eq!(control.next_order(|_| true), Some(live(true)));
        assert_eq!(control.next_order(|_| true), None);
    }
}
