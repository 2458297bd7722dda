//! `[board]`

use std::path::Path;

use girasol_board::{Duty, GovernorConfig, Profile, builtin_profiles};
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// `[board]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BoardConfig {
    /// `auto`, the name of a built-in profile, or the path of a profile's TOML file.
    pub profile: String,
    /// Whether the load is lowered when it gets hot.
    pub governor: bool,
    /// Where the board slows itself down, in °C; 0: as the profile or the trip points say.
    pub limit_c: f32,
    /// The heaviest load ever allowed.
    pub heaviest: Duty,
}

impl Default for BoardConfig {
    fn default() -> Self {
        Self { profile: "auto".into(), governor: true, limit_c: 0.0, heaviest: Duty::Full }
    }
}

impl BoardConfig {
    /// What the types cannot say; returns the key and what is wrong.
    pub(super) fn validate(&self) -> Result<(), (&'static str, &'static str)> {
        if self.profile.is_empty() {
            return Err((
                "board.profile",
                "`auto`, a name that `girasol board` lists, or a path starting with /",
            ));
        }
        if self.limit_c != 0.0 && !(30.0..=120.0).contains(&self.limit_c) {
            return Err(("board.limit_c", "allowed are 30 to 120 °C, or 0 for what the board says"));
        }
        Ok(())
    }

    /// The profiles to choose from: all that are built in, or the one that is named.
    pub fn profiles(&self) -> Result<Vec<Profile>> {
        let all = builtin_profiles();
        if self.profile == "auto" {
            return Ok(all);
        }
        let fault = |what: String| Error::new(ErrorKind::Config, format!("key `board.profile`: {what}"));
        if self.profile.contains('/') {
            let path = Path::new(&self.profile);
            let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
            return Profile::parse(&text, &self.profile).map(|p| vec![p]).map_err(|e| fault(e.to_string()));
        }
        let names: Vec<_> = all.iter().map(|p| p.name.clone()).collect();
        match all.into_iter().find(|p| p.name == self.profile) {
            Some(profile) => Ok(vec![profile]),
            None => Err(fault(format!("there is no profile `{}`", self.profile))
                .help(format!("there are {}, or give a path", names.join(", ")))),
        }
    }

    /// Puts what is configured in place of what the board says.
    #[must_use]
    pub fn over(&self, board: GovernorConfig) -> GovernorConfig {
        GovernorConfig {
            limit_c: if self.limit_c == 0.0 { board.limit_c } else { self.limit_c },
            heaviest: board.heaviest.max(self.heaviest),
            ..board
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(profile: &str) -> BoardConfig {
        BoardConfig { profile: profile.into(), ..BoardConfig::default() }
    }

    #[test]
    fn a_profile_is_found_by_name_or_path_or_refused() {
        assert!(named("auto").profiles().unwrap().len() > 1);
        assert_eq!(named("jetson-nano").profiles().unwrap()[0].name, "jetson-nano");
        let e = named("toaster").profiles().unwrap_err().to_string();
        assert!(e.contains("no profile `toaster`") && e.contains("raspberry-pi-4"), "{e}");
        assert!(
            named("/nonexistent/p.toml").profiles().unwrap_err().to_string().contains("/nonexistent/p.toml")
        );
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "name = \"porch\"\ntitle = \"t\"\nlimit_c = 5.0\n").unwrap();
        let e = named(file.path().to_str().unwrap()).profiles().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Config);
        assert!(e.to_string().contains("limit_c: allowed are 30 to 120"), "{e}");
    }

    #[test]
    fn the_configuration_stands_above_the_profile() {
        let config = BoardConfig { limit_c: 70.0, heaviest: Duty::FewerFrames, ..BoardConfig::default() };
        let governor = config.over(GovernorConfig::default());
        assert_eq!((governor.limit_c, governor.heaviest), (70.0, Duty::FewerFrames));
        assert_eq!(BoardConfig::default().over(GovernorConfig::default()), GovernorConfig::default());
    }
}
