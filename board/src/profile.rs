//! What is known about a family of boards beforehand: `profiles/*.toml`.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Duty, GovernorConfig, Identity};

/// A profile. In TOML only `name`, `title` and what differs from the defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Short name, as in the configuration.
    pub name: String,
    /// What people call the board.
    pub title: String,
    /// It fits if one of these stands in the device tree's `compatible`.
    #[serde(default)]
    pub compatible: Vec<String>,
    /// Thermal zones to watch; empty: all.
    #[serde(default)]
    pub zones: Vec<String>,
    /// Thermal zones to leave out: sensors that do not measure the processor.
    #[serde(default)]
    pub ignore_zones: Vec<String>,
    /// Where the board slows itself down, in °C, if its trip points do not tell.
    #[serde(default)]
    pub limit_c: Option<f32>,
    /// The load is lowered so many degrees before.
    #[serde(default = "default_margin")]
    pub margin_c: f32,
    /// The load is raised so many degrees below that.
    #[serde(default = "default_margin")]
    pub hysteresis_c: f32,
    /// Seconds that it must be cool before the load is raised.
    #[serde(default = "default_recover")]
    pub recover_s: u32,
    /// The heaviest load ever allowed.
    #[serde(default)]
    pub heaviest: Duty,
}

fn default_margin() -> f32 {
    5.0
}

fn default_recover() -> u32 {
    60
}

/// A profile that is not one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileError(String);

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ProfileError {}

/// Name and text of each profile in the program; the generic one last.
const BUILTIN: [(&str, &str); 6] = [
    ("raspberry-pi-5", include_str!("../profiles/raspberry-pi-5.toml")),
    ("raspberry-pi-4", include_str!("../profiles/raspberry-pi-4.toml")),
    ("raspberry-pi-zero-2-w", include_str!("../profiles/raspberry-pi-zero-2-w.toml")),
    ("jetson-nano", include_str!("../profiles/jetson-nano.toml")),
    ("jetson-orin", include_str!("../profiles/jetson-orin.toml")),
    ("generic", include_str!("../profiles/generic.toml")),
];

/// The profiles in the program. A test holds the files to be valid.
#[must_use]
pub fn builtin_profiles() -> Vec<Profile> {
    BUILTIN.iter().filter_map(|(name, text)| Profile::parse(text, name).ok()).collect()
}

impl Profile {
    /// Parses a profile; `file` names it in the error, which is one line.
    pub fn parse(text: &str, file: &str) -> Result<Self, ProfileError> {
        let fault = |what: &str| Err(ProfileError(format!("{file}: {what}")));
        let profile: Self = match toml::from_str(text) {
            Ok(profile) => profile,
            Err(e) => return fault(&e.message().trim().replace('\n', " ")),
        };
        if profile.limit_c.is_some_and(|c| !(30.0..=120.0).contains(&c)) {
            return fault("limit_c: allowed are 30 to 120 °C");
        }
        for (key, value) in [("margin_c", profile.margin_c), ("hysteresis_c", profile.hysteresis_c)] {
            if !(1.0..=30.0).contains(&value) {
                return fault(&format!("{key}: allowed are 1 to 30 °C"));
            }
        }
        if !(5..=3600).contains(&profile.recover_s) {
            return fault("recover_s: allowed are 5 to 3600 s");
        }
        Ok(profile)
    }

    /// The first that fits, else the generic one.
    #[must_use]
    pub fn choose(profiles: &[Self], identity: &Identity) -> Self {
        let fits = |p: &&Self| p.compatible.iter().any(|c| identity.compatible.contains(c));
        profiles.iter().find(fits).or_else(|| profiles.last()).cloned().unwrap_or_else(Self::generic)
    }

    fn generic() -> Self {
        Self {
            name: "generic".into(),
            title: "any Linux board".into(),
            compatible: Vec::new(),
            zones: Vec::new(),
            ignore_zones: Vec::new(),
            limit_c: None,
            margin_c: default_margin(),
            hysteresis_c: default_margin(),
            recover_s: default_recover(),
            heaviest: Duty::Full,
        }
    }

    /// Whether a zone of this name is watched.
    #[must_use]
    pub fn uses_zone(&self, kind: &str) -> bool {
        let named = |list: &[String]| list.iter().any(|z| z == kind);
        (self.zones.is_empty() || named(&self.zones)) && !named(&self.ignore_zones)
    }

    /// The governor's settings but for the limit, which the board's trip points may give.
    #[must_use]
    pub fn governor(&self) -> GovernorConfig {
        GovernorConfig {
            margin_c: self.margin_c,
            hysteresis_c: self.hysteresis_c,
            recover: Duration::from_secs(self.recover_s.into()),
            heaviest: self.heaviest,
            ..GovernorConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_profile_is_valid_and_the_generic_one_is_last() {
        for (name, text) in BUILTIN {
            let profile = Profile::parse(text, name).unwrap();
            assert_eq!(profile.name, name);
        }
        let all = builtin_profiles();
        assert_eq!(all.len(), BUILTIN.len());
        assert_eq!(all.last().unwrap(), &Profile::generic());
    }

    #[test]
    fn a_bad_profile_is_refused_with_what_is_wrong() {
        let parse = |text: &str| Profile::parse(text, "p.toml").unwrap_err().to_string();
        let e = parse("name = \"x\"\ntitle = \"x\"\ncolour = 1\n");
        assert!(e.starts_with("p.toml: unknown field `colour`") && !e.contains('\n'), "{e}");
        assert_eq!(
            parse("name = \"x\"\ntitle = \"x\"\nlimit_c = 500.0\n"),
            "p.toml: limit_c: allowed are 30 to 120 °C"
        );
        assert!(parse("name = \"x\"\ntitle = \"x\"\nmargin_c = 0.0\n").contains("margin_c"));
        assert!(parse("name = \"x\"\ntitle = \"x\"\nrecover_s = 1\n").contains("recover_s"));
    }
}
