//! Names of the topics: `<prefix>/<device>/<what>`.

use crate::{Error, ErrorKind, Result};

/// Longest topic.
pub(super) const MAX_TOPIC_BYTES: usize = 256;

/// The topics of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    base: String,
}

impl Topics {
    /// Topics below `prefix/device`. The prefix may have several levels, the device name is one.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when either is empty, too long or holds `+`, `#`, `$` in front, or control characters.
    pub fn new(prefix: &str, device: &str) -> Result<Self> {
        let base = format!("{prefix}/{device}");
        let levels = prefix.split('/').all(|level| !level.is_empty());
        let device_fits = !device.is_empty() && device.len() <= 64 && !device.contains('/');
        if !levels || !device_fits || base.len() > 128 || base.starts_with('$') || !is_topic(&base) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("mqtt: `{prefix}` / `{device}` makes no topic"),
            )
            .help("no empty level, no `+` or `#`, at most 64 bytes for the device and 128 in all"));
        }
        Ok(Self { base })
    }

    /// Retained: `online` or `offline`; the last will.
    #[must_use]
    pub fn availability(&self) -> String {
        self.topic("availability")
    }

    /// Retained: what the device is and does.
    #[must_use]
    pub fn state(&self) -> String {
        self.topic("state")
    }

    /// Events, never retained.
    #[must_use]
    pub fn event(&self) -> String {
        self.topic("event")
    }

    /// Events that are no news any more when they are sent: nothing that acts on events should listen there.
    #[must_use]
    pub fn event_replayed(&self) -> String {
        self.topic("event/replayed")
    }

    /// Where a message on `topic` goes when it is no news any more; `None`: to the same. Goes by the topic's end, since a
    /// message may be from a time when the device had another name.
    pub(super) fn replayed(topic: &str) -> Option<String> {
        topic.ends_with("/event").then(|| format!("{topic}/replayed"))
    }

    /// Why events were sent or not.
    #[must_use]
    pub fn why(&self) -> String {
        self.topic("why")
    }

    /// How unusual each snippet was.
    #[must_use]
    pub fn surprise(&self) -> String {
        self.topic("surprise")
    }

    /// Matches all of them.
    #[must_use]
    pub fn all(&self) -> String {
        self.topic("#")
    }

    fn topic(&self, what: &str) -> String {
        format!("{}/{what}", self.base)
    }
}

/// Whether a message can be published to `topic`.
pub(super) fn is_topic(topic: &str) -> bool {
    !topic.is_empty()
        && topic.len() <= MAX_TOPIC_BYTES
        && !topic.contains(['+', '#'])
        && !topic.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_are_below_prefix_and_device() {
        let topics = Topics::new("home/girasol", "porch").unwrap();
        assert_eq!(topics.event(), "home/girasol/porch/event");
        assert_eq!(Topics::replayed(&topics.event()), Some(topics.event_replayed()));
        assert_eq!(Topics::replayed(&topics.event_replayed()), None);
        assert_eq!(topics.all(), "home/girasol/porch/#");
    }

    #[test]
    fn names_that_make_no_topic_are_refused() {
        for (prefix, device) in
            [("", "a"), ("a", ""), ("a//b", "c"), ("a", "b/c"), ("a+", "b"), ("a", "#"), ("$SYS", "b")]
        {
            assert!(Topics::new(prefix, device).is_err(), "{prefix} {device}");
        }
        assert!(Topics::new("a", &"x".repeat(65)).is_err());
    }
}
