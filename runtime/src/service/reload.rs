//! SIGHUP: the TOML file is read again. A file that is wrong changes nothing.

use std::path::Path;

use crate::{Result, config::Config};

/// Keys below these take effect at once; every other needs a restart.
const LIVE: [&str; 4] = ["events.", "hear.", "see.", "model.thresholds"];

/// What differs between two configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys that take effect at once.
    pub live: Vec<String>,
    /// Keys that take effect after a restart only.
    pub restart: Vec<String>,
}

impl Changes {
    /// From `old` to `new`.
    #[must_use]
    pub fn between(old: &Config, new: &Config) -> Self {
        let table = |c: &Config| toml::Value::try_from(c).unwrap_or(toml::Value::Boolean(false));
        let mut changes = Self::default();
        collect(Some(&table(old)), Some(&table(new)), "", &mut changes);
        changes
    }

    /// Nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty() && self.restart.is_empty()
    }
}

fn collect(old: Option<&toml::Value>, new: Option<&toml::Value>, path: &str, to: &mut Changes) {
    if old == new {
        return;
    }
    let (a, b) = (old.and_then(toml::Value::as_table), new.and_then(toml::Value::as_table));
    if a.is_none() && b.is_none() {
        let list = if LIVE.iter().any(|l| path.starts_with(l)) { &mut to.live } else { &mut to.restart };
        list.push(path.to_owned());
        return;
    }
    let mut keys: Vec<&String> = a.into_iter().chain(b).flat_map(|t| t.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        collect(a.and_then(|t| t.get(key)), b.and_then(|t| t.get(key)), &path, to);
    }
}

/// Reads the file that `path` names (as [`Config::load`] does) and puts it in place of `config`, if it is right and
/// `check` agrees (labels that the bundle knows). Returns what changed; on an error `config` is what it was, and both
/// outcomes are logged.
pub fn reread(
    path: Option<&Path>,
    config: &mut Config,
    check: impl FnOnce(&Config) -> Result<()>,
) -> Result<Changes> {
    let read = Config::load(path).and_then(|new| check(&new).map(|()| new));
    let mut new = match read {
        Ok(new) => new,
        Err(error) => {
            tracing::error!(%error, "the configuration stays as it was");
            return Err(error);
        }
    };
    // What the command line says stands above the file.
    new.model.bundle.clone_from(&config.model.bundle);
    let changes = Changes::between(config, &new);
    *config = new;
    match changes.is_empty() {
        true => tracing::info!("the configuration is unchanged"),
        false => tracing::info!(changed = changes.live.join(" "), "the configuration was read again"),
    }
    if !changes.restart.is_empty() {
        tracing::warn!(
            keys = changes.restart.join(" "),
            "these take effect after a restart: systemctl restart girasol"
        );
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Error, ErrorKind};

    fn file(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("girasol.toml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn a_good_file_is_taken_and_says_what_needs_a_restart() {
        let (_dir, path) = file(
            "[see]\ncool_down = \"7s\"\n[hear.labels.speech]\non = 0.7\n[mqtt]\nurl = \"mqtt://other\"\n",
        );
        let mut config = Config::default();
        let changes = reread(Some(&path), &mut config, |_| Ok(())).unwrap();
        assert_eq!(changes.live, ["hear.labels.speech.on", "see.cool_down"]);
        assert_eq!(changes.restart, ["mqtt.url"]);
        assert_eq!(config.see.cool_down.get().as_secs(), 7);
        assert!(reread(Some(&path), &mut config, |_| Ok(())).unwrap().is_empty());
    }

    #[test]
    fn a_bad_file_leaves_the_old_configuration() {
        let mut config = Config::default();
        config.device.name = "porch".into();
        let before = config.clone();
        for text in ["[see]\ncool_down = 2\n", "not toml at all [", "[mqtt]\nqueue = 1\n"] {
            let (_dir, path) = file(text);
            assert_eq!(reread(Some(&path), &mut config, |_| Ok(())).unwrap_err().kind(), ErrorKind::Config);
            assert_eq!(config, before);
        }
        assert!(reread(Some(Path::new("/nonexistent.toml")), &mut config, |_| Ok(())).is_err());
        let (_dir, path) = file("[see]\ncool_down = \"7s\"\n");
        let refuse = |_: &Config| Err(Error::new(ErrorKind::Config, "no such label"));
        assert!(reread(Some(&path), &mut config, refuse).is_err());
        assert_eq!(config, before);
    }
}
