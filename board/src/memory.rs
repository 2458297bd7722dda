//! Main memory.

use std::{fmt, path::Path};

use serde::Serialize;

use crate::files;

/// From `/proc/meminfo`, in KiB; 0 where it does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// What the kernel manages.
    pub total_kib: u64,
    /// What programs can still get.
    pub available_kib: u64,
    /// Swap space, zram included.
    pub swap_kib: u64,
}

impl Memory {
    pub(crate) fn read(root: &Path) -> Self {
        let text = files::text(root, "proc/meminfo").unwrap_or_default();
        let field = |name: &str| {
            let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
            value.and_then(|v| v.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0)
        };
        Self {
            total_kib: field("MemTotal"),
            available_kib: field("MemAvailable"),
            swap_kib: field("SwapTotal"),
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |kib: u64| kib / 1024;
        write!(
            f,
            "{} MiB, {} available, {} swap",
            mib(self.total_kib),
            mib(self.available_kib),
            mib(self.swap_kib)
        )
    }
}
