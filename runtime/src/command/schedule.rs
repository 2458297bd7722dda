//! Quiet hours: times of the week in a time zone.
//!
//! They are read off the wall: a time from 22:00 to 07:00 ends when the clock on the wall says 07:00, however many hours
//! that night has. So on the days of the change the hour that comes twice is quiet twice, and the one that is left out
//! is missed.

use jiff::{Timestamp, civil, tz::TimeZone};

/// Most entries of one list.
const MAX_ENTRIES: usize = 32;
const DAY: u16 = 24 * 60;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// One entry, like `mon-fri 22:00-07:00`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hours {
    /// On which days it begins; Monday first.
    days: [bool; 7],
    /// Minutes of the day.
    from: u16,
    to: u16,
}

impl Hours {
    /// From `[days ]HH:MM-HH:MM`; days like `mon`, `mon-fri`, `sat,sun`. One that ends at or before its beginning lasts
    /// into the next day.
    ///
    /// # Errors
    /// What is wrong, for the operator.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::parts(text).ok_or_else(|| {
            let shown: String = text.chars().filter(|c| !c.is_control()).take(40).collect();
            format!("`{shown}` is no time: write \"22:00-07:00\", \"mon-fri 22:00-07:00\" or \"sat,sun 13:00-15:00\"")
        })
    }

    fn parts(text: &str) -> Option<Self> {
        let text = text.trim();
        let (days, times) = text.rsplit_once(' ').map_or((None, text), |(days, times)| (Some(days), times));
        let days = days.map_or(Some([true; 7]), parse_days)?;
        let (from, to) = times.split_once('-')?;
        let (from, to) = (minutes(from)?, minutes(to)?);
        (from < DAY && from != to).then_some(Self { days, from, to })
    }

    /// Whether the wall clock at `now` is within.
    #[must_use]
    pub fn contains(&self, now: civil::DateTime) -> bool {
        let today = usize::from(now.weekday().to_monday_zero_offset().unsigned_abs());
        let minute = u16::from(now.hour().unsigned_abs()) * 60 + u16::from(now.minute().unsigned_abs());
        if self.from < self.to {
            return self.days[today] && (self.from..self.to).contains(&minute);
        }
        (self.days[today] && minute >= self.from) || (self.days[(today + 6) % 7] && minute < self.to)
    }
}

fn parse_days(text: &str) -> Option<[bool; 7]> {
    let day = |name: &str| DAYS.iter().position(|d| *d == name.trim());
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut at, last) = (day(first)?, day(last)?);
        loop {
            days[at] = true;
            if at == last {
                break;
            }
            at = (at + 1) % 7;
        }
    }
    Some(days)
}

/// Minutes of the day of `HH:MM`, at most 24:00.
fn minutes(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number =
        |s: &str| (s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse().ok()).flatten();
    let (hours, minutes): (u16, u16) = (number(hours)?, number(minutes)?);
    let all = hours * 60 + minutes;
    (minutes < 60 && all <= DAY).then_some(all)
}

/// All entries of a list.
///
/// # Errors
/// As [`Hours::parse`].
pub fn parse_all(entries: &[String]) -> Result<Vec<Hours>, String> {
    if entries.len() > MAX_ENTRIES {
        return Err(format!("at most {MAX_ENTRIES} times"));
    }
    entries.iter().map(|entry| Hours::parse(entry)).collect()
}

/// The time zone called `name`; the system's if it is empty.
///
/// # Errors
/// When the system knows no such zone.
pub fn time_zone(name: &str) -> Result<TimeZone, String> {
    if name.is_empty() {
        return Ok(TimeZone::system());
    }
    TimeZone::get(name).map_err(|_| {
        let shown: String = name.chars().filter(|c| !c.is_control()).take(40).collect();
        format!(
            "the system knows no time zone `{shown}`: use a name like Europe/Berlin; is tzdata installed?"
        )
    })
}

/// Whether any of `hours` holds at `wall_ms` milliseconds since the Unix epoch.
#[must_use]
pub fn is_quiet(hours: &[Hours], zone: &TimeZone, wall_ms: i64) -> bool {
    let Ok(now) = Timestamp::from_millisecond(wall_ms) else { return false };
    let now = zone.to_datetime(now);
    hours.iter().any(|hours| hours.contains(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Central European rules without the system's database: summer time from the last Sunday in March, 02:00, to the
    /// last Sunday in October, 03:00.
    fn berlin() -> TimeZone {
        TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap()
    }

    fn quiet(entry: &str, utc: &str) -> bool {
        let at: Timestamp = utc.parse().unwrap();
        is_quiet(&[Hours::parse(entry).unwrap()], &berlin(), at.as_millisecond())
    }

    #[test]
    fn a_night_ends_in_the_morning_of_the_next_day() {
        // Wednesday 2026-01-14, winter time: UTC + 1.
        for (utc, expected) in [
            ("20:59:59", false),
            ("21:00:00", true),
            ("23:30:00", true),
            ("05:59:59", true),
            ("06:00:00", false),
        ] {
            assert_eq!(quiet("22:00-07:00", &format!("2026-01-14T{utc}Z")), expected, "{utc}");
        }
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins() {
        assert!(quiet("fri 22:00-07:00", "2026-01-16T22:00:00Z"));
        assert!(quiet("fri 22:00-07:00", "2026-01-17T05:00:00Z"), "Saturday morning");
        assert!(!quiet("fri 22:00-07:00", "2026-01-16T05:00:00Z"), "Friday morning");
        assert!(!quiet("fri 22:00-07:00", "2026-01-17T22:00:00Z"), "Saturday evening");
        assert!(quiet("sun 22:00-07:00", "2026-01-19T05:00:00Z"), "Monday morning");
    }

    #[test]
    fn days_go_round_the_week() {
        let hours = Hours::parse("fri-mon,wed 10:00-11:00").unwrap();
        assert_eq!(hours.days, [true, false, true, false, true, true, true]);
    }

    #[test]
    fn in_summer_it_is_an_hour_earlier_in_utc() {
        assert!(!quiet("22:00-07:00", "2026-07-14T19:59:59Z"));
        assert!(quiet("22:00-07:00", "2026-07-14T20:00:00Z"));
        assert!(quiet("22:00-07:00", "2026-07-15T04:59:59Z"));
        assert!(!quiet("22:00-07:00", "2026-07-15T05:00:00Z"));
    }

    #[test]
    fn the_night_of_the_change_ends_by_the_wall_clock() {
        // Spring: 2026-03-29, 02:00 becomes 03:00; 07:00 is 05:00 UTC, one hour less of night.
        assert!(quiet("22:00-07:00", "2026-03-28T21:00:00Z"));
        assert!(quiet("22:00-07:00", "2026-03-29T04:59:59Z"));
        assert!(!quiet("22:00-07:00", "2026-03-29T05:00:00Z"));
        // Autumn: 2026-10-25, 03:00 becomes 02:00; 22:00 is 20:00 UTC, 07:00 is 06:00 UTC, one hour more.
        assert!(quiet("22:00-07:00", "2026-10-24T20:00:00Z"));
        assert!(quiet("22:00-07:00", "2026-10-25T05:59:59Z"));
        assert!(!quiet("22:00-07:00", "2026-10-25T06:00:00Z"));
    }

    #[test]
    fn the_hour_that_comes_twice_is_quiet_twice_and_the_one_left_out_is_missed() {
        assert!(quiet("02:15-02:45", "2026-10-25T00:30:00Z"), "02:30 summer time");
        assert!(quiet("02:15-02:45", "2026-10-25T01:30:00Z"), "02:30 winter time");
        assert!(!quiet("02:15-02:45", "2026-10-25T02:30:00Z"));
        assert!((0..180).all(|minute| {
            let utc = format!("2026-03-29T{:02}:{:02}:00Z", minute / 60, minute % 60);
            !quiet("02:15-02:45", &utc)
        }));
    }

    #[test]
    fn the_whole_day_and_nonsense() {
        assert!(quiet("00:00-24:00", "2026-01-14T22:59:59Z"));
        for bad in [
            "",
            "22:00",
            "7:00-8:00",
            "24:00-07:00",
            "12:00-12:00",
            "12:60-13:00",
            "noon 1:00-2:00",
            "xx 01:00-02:00",
        ] {
            assert!(Hours::parse(bad).is_err(), "{bad}");
        }
        assert!(parse_all(&vec!["01:00-02:00".to_owned(); 33]).is_err());
        assert!(time_zone("Mars/Base").is_err());
    }
}
