//! Settings made by command: dotted keys laid over the configuration file.
//!
//! They go through the same types and the same checks as the file, so whatever the file may not say, a command may not.

use std::collections::{BTreeMap, BTreeSet};

use girasol_model::Labels;
use serde_json::Value;

use super::Config;

/// Dotted key → value, as in the file.
pub type Overrides = BTreeMap<String, Value>;

/// Keys that a command may set.
const PLAIN: [&str; 7] = [
    "hear.paused",
    "see.paused",
    "hear.enabled",
    "see.enabled",
    "events.why",
    "quiet.hours",
    "quiet.time_zone",
];
/// Keys that a command may set for a label.
const OF_LABEL: [&str; 5] = ["enabled", "on", "off", "min_snippets", "quiet"];

/// Whether a command may set `key`, for the labels of the bundle in use.
///
/// # Errors
/// What is wrong with the key, for the operator.
pub fn settable(key: &str, labels: &Labels) -> Result<(), String> {
    if PLAIN.contains(&key) {
        return Ok(());
    }
    let parts: Vec<_> = key.split('.').collect();
    let [sense, "labels", label, leaf] = parts[..] else {
        return Err(format!(
            "may be {}, or (hear|see).labels.<label>.({})",
            PLAIN.join(", "),
            OF_LABEL.join("|")
        ));
    };
    let known = match sense {
        "hear" => &labels.audible,
        "see" => &labels.visible,
        _ => return Err("begins with neither `hear` nor `see`".into()),
    };
    if known.iter().all(|l| l.id != label) {
        return Err("the bundle has no such label".into());
    }
    if !OF_LABEL.contains(&leaf) {
        return Err(format!("of a label may be set: {}", OF_LABEL.join(", ")));
    }
    Ok(())
}

impl Config {
    /// This configuration under `overrides`.
    ///
    /// # Errors
    /// The first key that is wrong, and what is wrong with it.
    pub fn with(&self, overrides: &Overrides) -> Result<Self, String> {
        let mut tree = serde_json::to_value(self).map_err(|e| e.to_string())?;
        for (key, value) in overrides {
            put(&mut tree, key, value.clone());
        }
        let config: Self = serde_json::from_value(tree).map_err(|e| e.to_string())?;
        config.validate().map_err(|(key, what)| format!("`{key}`: {what}"))?;
        Ok(config)
    }

    /// Dotted keys that a configuration file sets; none if it is not TOML.
    #[must_use]
    pub fn written(text: &str) -> BTreeSet<String> {
        fn walk(table: &toml::Table, prefix: &str, keys: &mut BTreeSet<String>) {
            for (key, value) in table {
                let key = format!("{prefix}{key}");
                match value {
                    toml::Value::Table(table) => walk(table, &format!("{key}."), keys),
                    _ => _ = keys.insert(key),
                }
            }
        }
        let mut keys = BTreeSet::new();
        walk(&toml::from_str(text).unwrap_or_default(), "", &mut keys);
        keys
    }

    /// The value of the dotted `key`; `None` where nothing says one (a label's comes from the bundle then).
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Value> {
        let tree = serde_json::to_value(self).ok()?;
        key.split('.').try_fold(&tree, |at, part| at.get(part)).cloned()
    }
}

fn put(tree: &mut Value, key: &str, value: Value) {
    let mut at = tree;
    for part in key.split('.') {
        let Value::Object(map) = at else { return };
        at = map.entry(part).or_insert_with(|| Value::Object(serde_json::Map::new()));
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(key: &str, value: Value) -> Result<Config, String> {
        Config::default().with(&Overrides::from([(key.to_owned(), value)]))
    }

    #[test]
    fn overrides_keep_to_the_types_and_the_checks_of_the_file() {
        let config = with("hear.labels.dog_bark.on", json!(0.7)).unwrap();
        assert_eq!(config.hear.labels["dog_bark"].on, Some(0.7));
        assert_eq!(config.get("hear.labels.dog_bark.enabled"), None);
        assert_eq!(config.get("hear.paused"), Some(json!(false)));
        assert!(with("see.paused", json!(true)).unwrap().see.paused);
        assert!(with("hear.paused", json!("yes")).unwrap_err().contains("bool"));
        assert!(with("hear.labels.dog_bark.on", json!(7)).unwrap_err().contains("between 0 and 1"));
        assert!(with("quiet.hours", json!(["25:00-26:00"])).unwrap_err().contains("quiet.hours"));
        assert!(with("quiet.time_zone", json!("Mars/Base")).unwrap_err().contains("quiet.time_zone"));
    }

    #[test]
    fn nothing_laid_over_changes_nothing() {
        let text = "[hear.labels.dog_bark]\non = 0.7\n[see]\ncool_down = \"250ms\"\n";
        let config = Config::parse(text, "x").unwrap();
        assert_eq!(config.with(&Overrides::new()).unwrap(), config);
    }
}
