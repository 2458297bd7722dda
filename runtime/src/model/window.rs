//! The ring of the last snippets: which slots are valid, how old they are, and where the next one goes.

use girasol_model::Geometry;

use crate::clock::MonoTime;

/// Snippets that the latent model and the decoder look back on (docs/decisions/0004-graph-abi.md: W).
pub(crate) const WINDOW: usize = Geometry::FORMAT_2.window;

/// Book-keeping of the ring; the keys and values themselves live in the graphs' input tensors.
#[derive(Debug)]
pub(crate) struct Window {
    starts: [Option<MonoTime>; WINDOW],
    next: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self { starts: [None; WINDOW], next: 0 }
    }
}

impl Window {
    /// The slot that the coming snippet will take.
    pub(crate) fn next_slot(&self) -> usize {
        self.next
    }

    /// Puts a snippet that started at `start` into the next slot.
    pub(crate) fn push(&mut self, start: MonoTime) {
        self.starts[self.next] = Some(start);
        self.next = (self.next + 1) % WINDOW;
    }

    /// Ages in seconds seen from `now`, and validity; `except` is passed over as if empty.
    pub(crate) fn ages(&self, now: MonoTime, except: Option<usize>, age: &mut [f32], valid: &mut [f32]) {
        for (slot, start) in self.starts.iter().enumerate() {
            let start = start.filter(|_| except != Some(slot));
            valid[slot] = if start.is_some() { 1.0 } else { 0.0 };
            age[slot] = start.map_or(0.0, |s| self::age(now, s));
        }
    }

    /// Start of the snippet in each slot.
    pub(crate) fn starts(&self) -> &[Option<MonoTime>; WINDOW] {
        &self.starts
    }

    /// Number of snippets held.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.starts.iter().flatten().count()
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Seconds from `start` to `now`.
#[allow(clippy::cast_possible_truncation, reason = "seconds within a window: f32 holds them to 4 µs")]
pub(crate) fn age(now: MonoTime, start: MonoTime) -> f32 {
    (now.since(start) as f64 / 1e9) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snippet_sees_itself_and_at_most_63_before_it() {
        let mut window = Window::default();
        let (mut age, mut valid) = ([0.0; WINDOW], [0.0; WINDOW]);
        for i in 0..100i64 {
            let now = MonoTime(i * 960_000_000);
            window.ages(now, Some(window.next_slot()), &mut age, &mut valid);
            let count = valid.iter().filter(|&&v| v == 1.0).count();
            assert_eq!(count, usize::try_from(i).unwrap().min(WINDOW - 1));
            assert!(valid.iter().zip(age).all(|(&v, a)| if v == 1.0 {
                a > 0.9 && a < 61.0
            } else {
                a == 0.0
            }));
            window.push(now);
        }
        assert_eq!(window.len(), WINDOW);
        window.clear();
        assert_eq!(window.len(), 0);
    }
}
