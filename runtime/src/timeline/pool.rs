//! A fixed number of slots for large things (snippets, frames, blocks), made once and handed from thread to thread.
//!
//! A [`Slot`] goes back to its pool when it is dropped, wherever that happens. Nothing is allocated after
//! [`Pool::new`], and an empty pool is an answer (`None`), not a wait: the producer counts and drops.

use std::{
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Snippet;

/// Free slots. The lock is held for the move of one pointer.
struct Shared<T> {
    free: Mutex<Vec<Box<T>>>,
}

impl<T> Shared<T> {
    fn free(&self) -> MutexGuard<'_, Vec<Box<T>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pool of `T`; clones share the same slots.
pub struct Pool<T> {
    shared: Arc<Shared<T>>,
}

/// A pool of snippets.
pub type SnippetPool = Pool<Snippet>;

impl<T> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T: Default> Pool<T> {
    /// Makes `slots` of them.
    #[must_use]
    pub fn new(slots: usize) -> Self {
        let free = (0..slots).map(|_| Box::default()).collect();
        Self { shared: Arc::new(Shared { free: Mutex::new(free) }) }
    }
}

impl<T> Pool<T> {
    /// A slot with whatever its last user left in it; `None` when all are out.
    #[must_use]
    pub fn take(&self) -> Option<Slot<T>> {
        let item = self.shared.free().pop()?;
        Some(Slot { item: Some(item), shared: Arc::clone(&self.shared) })
    }

    /// How many slots are free now.
    #[must_use]
    pub fn available(&self) -> usize {
        self.shared.free().len()
    }
}

/// A `T` on loan from a [`Pool`].
pub struct Slot<T> {
    /// Always there until `drop`.
    item: Option<Box<T>>,
    shared: Arc<Shared<T>>,
}

impl<T> Deref for Slot<T> {
    type Target = T;
    #[allow(clippy::expect_used, reason = "only drop takes the item")]
    fn deref(&self) -> &T {
        self.item.as_ref().expect("a slot holds its item until it is dropped")
    }
}

impl<T> DerefMut for Slot<T> {
    #[allow(clippy::expect_used, reason = "only drop takes the item")]
    fn deref_mut(&mut self) -> &mut T {
        self.item.as_mut().expect("a slot holds its item until it is dropped")
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        if let Some(item) = self.item.take() {
            // Never more than were made, so the vector never grows.
            self.shared.free().push(item);
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_back_from_any_thread() {
        let pool = SnippetPool::new(2);
        let mut first = pool.take().unwrap();
        first.index = 7;
        let second = pool.take().unwrap();
        assert!(pool.take().is_none());
        std::thread::spawn(move || drop(first)).join().unwrap();
        assert_eq!(pool.available(), 1);
        assert_eq!(pool.take().unwrap().index, 7);
        drop(second);
        assert_eq!(pool.available(), 2);
    }
}
