//! Which frames are worth converting: of fifteen a second a snippet uses two, and converting one costs more than
//! anything else that is done to it.
//!
//! The instants stand half a snippet apart on the assembler's grid. A frame is worth it if it is the first after an
//! instant and nearer than the frame chosen before it, or so shortly before one that the next frame, if it comes when
//! the last ones did, may be farther off. Where frames come regularly the nearest is always among the chosen.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use super::snippet::{FRAME_TARGETS, SNIPPET_NANOS};
use crate::clock::MonoTime;

/// Nanoseconds from one instant to the next.
const STEP: i64 = FRAME_TARGETS[1] - FRAME_TARGETS[0];
const _: () = assert!(FRAME_TARGETS.len() == 2 && 2 * STEP == SNIPPET_NANOS);

/// Where the assembler's grid begins; known once the first data have come.
#[derive(Clone, Debug)]
pub(super) struct Origin(Arc<AtomicI64>);

impl Origin {
    pub(super) fn unknown() -> Self {
        Self(Arc::new(AtomicI64::new(i64::MIN)))
    }

    pub(super) fn get(&self) -> Option<MonoTime> {
        Some(self.0.load(Ordering::Relaxed)).filter(|&origin| origin > i64::MIN).map(MonoTime)
    }

    /// Sets it to `time` unless it is known already; returns it.
    pub(super) fn get_or_set(&self, time: MonoTime) -> MonoTime {
        self.get().unwrap_or_else(|| {
            self.0.store(time.0, Ordering::Relaxed);
            time
        })
    }
}

/// Tells a source which frames may be used. Fed with the time of every frame, in order.
#[derive(Clone, Debug)]
pub struct FrameChoice {
    origin: Origin,
    previous: Option<MonoTime>,
    /// The latest frame chosen.
    chosen: Option<MonoTime>,
}

impl FrameChoice {
    pub(super) fn new(origin: Origin) -> Self {
        Self { origin, previous: None, chosen: None }
    }

    /// Whether the frame of this time may be the nearest to an instant.
    pub fn wants(&mut self, time: MonoTime) -> bool {
        let wanted = self.may_be_nearest(time);
        self.previous = Some(time);
        if wanted {
            self.chosen = Some(time);
        }
        wanted
    }

    fn may_be_nearest(&self, time: MonoTime) -> bool {
        let (Some(origin), Some(previous)) = (self.origin.get(), self.previous) else { return true };
        let period = time.0.saturating_sub(previous.0);
        if period <= 0 || period >= STEP {
            return true;
        }
        let since_instant = (time.0.saturating_sub(origin.0) - FRAME_TARGETS[0]).rem_euclid(STEP);
        let is_first_after = since_instant < period;
        let distance_before = |chosen: MonoTime| since_instant - time.0.saturating_sub(chosen.0);
        let nearer = self.chosen.is_none_or(|chosen| since_instant < distance_before(chosen).abs());
        // Half the distance would do for frames that come to the nanosecond.
        (is_first_after && nearer) || STEP - since_instant <= period * 3 / 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Distance of the nearest of `times` to the instant at `target`, if within half a step.
    fn nearest(times: &[i64], target: i64) -> Option<i64> {
        times.iter().map(|t| (t - target).abs()).min().filter(|&d| d < STEP / 2)
    }

    fn chosen(times: &[i64], origin: i64) -> Vec<i64> {
        let known = Origin::unknown();
        known.get_or_set(MonoTime(origin));
        let mut choice = FrameChoice::new(known);
        times.iter().copied().filter(|&t| choice.wants(MonoTime(t))).collect()
    }

    #[test]
    fn without_an_origin_every_frame_is_wanted() {
        let mut choice = FrameChoice::new(Origin::unknown());
        assert!((0..30).all(|i| choice.wants(MonoTime(i * 66_666_667))));
    }

    #[test]
    fn a_clock_that_jumps_back_loses_nothing() {
        let times = [1_000_000_000, 1_033_000_000, 500_000_000];
        assert!(chosen(&times, 0).contains(&500_000_000));
    }

    #[test]
    fn a_camera_of_fifteen_frames_a_second_needs_under_two_per_instant() {
        let times: Vec<i64> = (0..1_500).map(|i| i * 66_666_667).collect();
        let instants = 100_000_000_000 / STEP;
        let count = i64::try_from(chosen(&times, 0).len()).unwrap();
        assert!(count >= instants && count < instants * 2, "{count} of 1500 for {instants} instants");
    }

    proptest! {
        /// Regular frames with a fifth of a period's jitter: exactly the nearest ones remain.
        #[test]
        fn the_nearest_frame_is_always_chosen(
            period in 16_000_000_i64..300_000_000,
            origin in -1_000_000_000_i64..1_000_000_000,
            jitter in prop::collection::vec(-0.1_f64..0.1, 200),
        ) {
            #[allow(clippy::cast_possible_truncation, reason = "nanoseconds of a fraction of a second")]
            let times: Vec<i64> = (0..200_i64)
                .zip(&jitter)
                .map(|(i, j)| i * period + (*j * period as f64) as i64)
                .collect();
            let chosen = chosen(&times, origin);
            let last = times[199] - STEP;
            let mut target = origin + FRAME_TARGETS[0];
            while target < last {
                if target > times[1] {
                    prop_assert_eq!(nearest(&chosen, target), nearest(&times, target));
                }
                target += STEP;
            }
        }

        /// Lost frames: the first one after an instant is there, or a nearer one.
        #[test]
        fn a_gap_leaves_the_first_frame_after_it(
            lost in prop::collection::vec(prop::bool::ANY, 300),
            origin in 0_i64..480_000_000,
        ) {
            let times: Vec<i64> =
                (0..300_i64).zip(&lost).filter(|(_, lost)| !**lost).map(|(i, _)| i * 40_000_000).collect();
            let chosen = chosen(&times, origin);
            for pair in times.windows(2) {
                let steps = |t: i64| (t - origin - FRAME_TARGETS[0]).div_euclid(STEP);
                if steps(pair[1]) > steps(pair[0]) && pair[0] > origin {
                    let target = steps(pair[1]) * STEP + origin + FRAME_TARGETS[0];
                    let after = pair[1] - target;
                    prop_assert!(after >= STEP / 2 || nearest(&chosen, target).is_some_and(|d| d <= after));
                }
            }
        }
    }
}
