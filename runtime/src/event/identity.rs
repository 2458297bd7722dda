//! Who speaks and on which clock: what makes event ids stable and times meaningful.

use std::{fmt, fmt::Write as _, sync::Arc};

use sha2::{Digest, Sha256};

use super::{ClockStamp, Sense, message::bounded};
use crate::clock::{Clock, MonoTime};

/// The device and where its timeline comes from.
pub struct EventIdentity {
    /// Device name, at most 64 bytes.
    pub device: String,
    /// Where the timeline comes from.
    pub origin: Origin,
}

/// Where the timeline comes from.
pub enum Origin {
    /// A recording: ids and times depend on it and on the bundle only.
    Replay {
        /// Id of the recording.
        clip: String,
        /// Id of the bundle.
        bundle: String,
    },
    /// A board.
    Live {
        /// The kernel's boot id (`/proc/sys/kernel/random/boot_id`).
        boot_id: String,
        /// The wall clock.
        wall: Box<dyn WallClock>,
    },
}

/// The wall clock's reading, and whether it can be relied on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wall {
    /// Milliseconds since the Unix epoch; `None` while the clock has not been set.
    pub ms: Option<i64>,
    /// Whether it can be relied on.
    pub synced: bool,
}

/// Wall-clock time of a point on the timeline.
pub trait WallClock: Send {
    /// The wall clock at `time`.
    fn at(&self, time: MonoTime) -> Wall;
}

/// [`WallClock`] over a [`Clock`]: a reading from before 2026 means that the clock has not been set.
pub struct ClockWall(pub Arc<dyn Clock>);

/// 2026-01-01T00:00:00Z in milliseconds since the Unix epoch: earlier than any girasol.
const PLAUSIBLE_MS: i64 = 1_767_225_600_000;

impl WallClock for ClockWall {
    fn at(&self, time: MonoTime) -> Wall {
        let now = self.0.wall_ms();
        if now < PLAUSIBLE_MS {
            return Wall::default();
        }
        Wall { ms: Some(now - self.0.now().since(time) / 1_000_000), synced: true }
    }
}

impl fmt::Debug for EventIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = match &self.origin {
            Origin::Replay { clip, .. } => clip,
            Origin::Live { boot_id, .. } => boot_id,
        };
        f.debug_struct("EventIdentity").field("device", &self.device).field("origin", origin).finish()
    }
}

impl EventIdentity {
    /// Bounds the strings.
    pub(super) fn bounded(mut self) -> Self {
        self.device = bounded(&self.device, 64);
        match &mut self.origin {
            Origin::Replay { clip, .. } => *clip = bounded(clip, 128),
            Origin::Live { boot_id, .. } => *boot_id = bounded(boot_id, 64),
        }
        self
    }

    /// Id of the event of `label` that began at `onset` with snippet `index`: the first 16 bytes of a SHA-256.
    pub(super) fn event_id(&self, sense: Sense, label: &str, index: u64, onset: MonoTime) -> String {
        let (tag, whence, by) = match &self.origin {
            Origin::Replay { clip, bundle } => (b'r', clip, bundle),
            Origin::Live { boot_id, .. } => (b'l', boot_id, &self.device),
        };
        let mut hash = Sha256::new();
        hash.update([tag, u8::from(sense == Sense::See)]);
        for part in [whence, by, label] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        hash.update(index.to_le_bytes());
        // Live snippets count from the start of the process; the time keeps two processes of one boot apart.
        hash.update(onset.0.to_le_bytes());
        let digest = hash.finalize();
        digest.iter().take(16).fold(String::with_capacity(32), |mut id, byte| {
            let _ = write!(id, "{byte:02x}");
            id
        })
    }

    pub(super) fn stamp(&self, time: MonoTime) -> ClockStamp {
        match &self.origin {
            Origin::Replay { clip, .. } => ClockStamp::Replay { clip: clip.clone() },
            Origin::Live { boot_id, wall } => {
                let reading = wall.at(time);
                ClockStamp::Live {
                    mono_ms: time.0.div_euclid(1_000_000),
                    boot_id: (!boot_id.is_empty()).then(|| boot_id.clone()),
                    wall: reading.ms.map(rfc3339),
                    synced: reading.synced,
                }
            }
        }
    }
}

/// RFC 3339 in UTC with milliseconds.
pub(crate) fn rfc3339(ms: i64) -> String {
    let (days, of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (hours, minutes, seconds) = (of_day / 3_600_000, of_day / 60_000 % 60, of_day / 1_000 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hours:02}:{minutes:02}:{seconds:02}.{:03}Z", of_day % 1_000)
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
///
/// Years are taken to begin in March, so that the leap day is the last one and a month's first day is a linear
/// function of its number, rounded down.
fn civil(days: i64) -> (i64, i64, i64) {
    const ERA: i64 = 146_097; // days in 400 years
    let since_era0 = days + 719_468; // from 0000-03-01
    let (era, day) = (since_era0.div_euclid(ERA), since_era0.rem_euclid(ERA));
    let year = (day - day / 1_460 + day / 36_524 - day / (ERA - 1)) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day_of_month = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year + i64::from(month <= 2), month, day_of_month)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SimClock;

    fn replay() -> EventIdentity {
        EventIdentity { device: "d".into(), origin: Origin::Replay { clip: "c".into(), bundle: "b".into() } }
    }

    #[test]
    fn ids_depend_on_every_part_and_on_nothing_else() {
        let id = |sense, label, index, onset| replay().event_id(sense, label, index, MonoTime(onset));
        let first = id(Sense::Hear, "dog", 3, 5);
        assert_eq!(first.len(), 32);
        assert_eq!(first, id(Sense::Hear, "dog", 3, 5));
        let others = [
            id(Sense::See, "dog", 3, 5),
            id(Sense::Hear, "dot", 3, 5),
            id(Sense::Hear, "dog", 4, 5),
            id(Sense::Hear, "dog", 3, 6),
        ];
        assert!(others.iter().all(|other| *other != first));
    }

    #[test]
    fn wall_times_read_as_rfc_3339() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(1_795_369_541_250), "2026-11-22T17:45:41.250Z");
        assert_eq!(rfc3339(4_107_542_399_999), "2100-02-28T23:59:59.999Z");
        assert_eq!(rfc3339(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
    }

    #[test]
    fn a_clock_that_was_never_set_gives_no_wall_time() {
        let wall = ClockWall(Arc::new(SimClock::default()));
        assert_eq!(wall.at(MonoTime(0)), Wall::default());
    }
}
