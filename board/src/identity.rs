//! Who made the board.

use std::{fmt, path::Path};

use serde::Serialize;

use crate::files;

/// Name and compatibility list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// As the maker writes it; empty if nothing tells.
    pub model: String,
    /// Device-tree `compatible` strings, most specific first; empty on machines without a device tree.
    pub compatible: Vec<String>,
}

impl Identity {
    pub(crate) fn read(root: &Path) -> Self {
        let tree = |leaf: &str| {
            files::text(root, &format!("proc/device-tree/{leaf}"))
                .or_else(|| files::text(root, &format!("sys/firmware/devicetree/base/{leaf}")))
        };
        let model = tree("model").or_else(|| files::text(root, "sys/class/dmi/id/product_name"));
        let compatible = tree("compatible").unwrap_or_default();
        Self {
            model: model.unwrap_or_default(),
            compatible: compatible.split('\0').filter(|s| !s.is_empty()).map(str::to_owned).collect(),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.model.is_empty() { "unknown" } else { &self.model })?;
        match self.compatible.first() {
            Some(first) => write!(f, " [{first}]"),
            None => Ok(()),
        }
    }
}
