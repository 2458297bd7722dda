//! What the configuration says about events.

use std::{collections::BTreeMap, time::Duration};

use girasol_model::{Label, ThresholdChoice};

use super::{GateSettings, Sense};
use crate::{Error, ErrorKind, Result};

/// Everything about events.
#[derive(Clone, Debug, PartialEq)]
pub struct EventSettings {
    /// Which of the bundle's operating points is used where `on` and `off` are not set.
    pub thresholds: ThresholdChoice,
    /// Events by sound.
    pub hear: SenseSettings,
    /// Events by picture.
    pub see: SenseSettings,
    /// Longest silence about an open event: an update is sent at least this often.
    pub update_every: Duration,
    /// Shortest time between two updates of an event.
    pub update_min: Duration,
    /// Growth of the confidence that is worth an update.
    pub update_growth: f32,
    /// Whether [`Why`](super::Why) records are kept.
    pub why: bool,
}

/// What holds for all labels of a sense, and the exceptions.
#[derive(Clone, Debug, PartialEq)]
pub struct SenseSettings {
    /// Whether this sense raises events at all.
    pub enabled: bool,
    /// Snippets in a row below `off` before an event ends.
    pub release_snippets: u32,
    /// Time after an end in which the label raises no event.
    pub cooldown: Duration,
    /// Longest event.
    pub max_duration: Duration,
    /// Longest absence of the modality that an open event is held over.
    pub hold: Duration,
    /// Exceptions by label id.
    pub labels: BTreeMap<String, LabelSettings>,
}

/// Exceptions of one label; what is not set comes from the bundle or the sense.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelSettings {
    /// Whether it raises events.
    pub enabled: Option<bool>,
    /// Probability at which an event begins.
    pub on: Option<f32>,
    /// Probability below which it ends.
    pub off: Option<f32>,
    /// Snippets in a row above `on` before an event begins.
    pub min_snippets: Option<u32>,
    /// As in [`SenseSettings`].
    pub release_snippets: Option<u32>,
    /// As in [`SenseSettings`].
    pub cooldown: Option<Duration>,
    /// As in [`SenseSettings`].
    pub max_duration: Option<Duration>,
}

impl Default for EventSettings {
    fn default() -> Self {
        Self {
            thresholds: ThresholdChoice::default(),
            hear: SenseSettings::hear(),
            see: SenseSettings::see(),
            update_every: Duration::from_secs(10),
            update_min: Duration::from_millis(1_900),
            update_growth: 0.1,
            why: false,
        }
    }
}

impl SenseSettings {
    /// Sounds come and go: two snippets below `off` end one.
    #[must_use]
    pub fn hear() -> Self {
        Self {
            enabled: true,
            release_snippets: 2,
            cooldown: Duration::from_secs(2),
            max_duration: Duration::from_secs(300),
            hold: Duration::from_secs(5),
            labels: BTreeMap::new(),
        }
    }

    /// Things in view turn and are hidden for moments: four snippets below `off` end one, and the cool-down is longer.
    #[must_use]
    pub fn see() -> Self {
        Self {
            release_snippets: 4,
            cooldown: Duration::from_secs(5),
            max_duration: Duration::from_secs(1_800),
            ..Self::hear()
        }
    }

    /// The gate of one label, and whether it is enabled.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] when the thresholds do not satisfy `0 < off <= on < 1`.
    pub(crate) fn gate(
        &self,
        sense: Sense,
        choice: ThresholdChoice,
        label: &Label,
    ) -> Result<(GateSettings, bool)> {
        let own = self.labels.get(&label.id).cloned().unwrap_or_default();
        let bundle = label.thresholds.get(choice);
        let on = own.on.unwrap_or(bundle.on.max(own.off.unwrap_or(0.0)));
        let off = own.off.unwrap_or(bundle.off.min(on));
        if !(off > 0.0 && off <= on && on < 1.0) {
            return Err(Error::new(
                ErrorKind::Config,
                format!("events: label `{}`: on {on}, off {off}", label.id),
            )
            .help("thresholds must satisfy 0 < off <= on < 1"));
        }
        let settings = GateSettings {
            on,
            off,
            min_snippets: own.min_snippets.unwrap_or(label.min_snippets),
            together: sense == Sense::Hear,
            release_snippets: own.release_snippets.unwrap_or(self.release_snippets),
            cooldown: own.cooldown.unwrap_or(self.cooldown),
            max_duration: own.max_duration.unwrap_or(self.max_duration),
            hold: self.hold,
        };
        Ok((settings, self.enabled && own.enabled.unwrap_or(label.enabled)))
    }

    /// Refuses exceptions for labels that the bundle does not know.
    pub(crate) fn check(&self, sense: &str, labels: &[Label]) -> Result<()> {
        let Some(unknown) = self.labels.keys().find(|id| labels.iter().all(|l| l.id != **id)) else {
            return Ok(());
        };
        let known: Vec<_> = labels.iter().map(|l| l.id.as_str()).collect();
        Err(Error::new(ErrorKind::Config, format!("events: {sense}: the bundle has no label `{unknown}`"))
            .help(format!("it has {}", known.join(", "))))
    }
}
