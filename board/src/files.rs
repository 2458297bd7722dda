//! Small files of `/proc` and `/sys`.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

/// Nothing that is read here is longer.
const MAX_BYTES: u64 = 256 * 1024;

/// The content below `root`, without NULs and spaces at its end; absent if it cannot be read.
pub(crate) fn text(root: &Path, path: &str) -> Option<String> {
    read(&root.join(path))
}

pub(crate) fn read(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    Some(text.trim_end_matches(['\0', '\n', ' ']).to_owned())
}

/// A decimal number in a file; allocates nothing, so that it may be read all the time.
pub(crate) fn number(path: &Path) -> Option<i64> {
    with_short_text(path, |text| text.parse().ok())
}

/// A hexadecimal number, with or without `0x`; allocates nothing.
pub(crate) fn hex(path: &Path) -> Option<i64> {
    with_short_text(path, |text| i64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok())
}

fn with_short_text<T>(path: &Path, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    let mut bytes = [0_u8; 32];
    let n = File::open(path).ok()?.read(&mut bytes).ok()?;
    parse(std::str::from_utf8(&bytes[..n]).ok()?.trim())
}

/// Folders in `dir` (below `root`) whose names are `prefix` and a number, in the order of that number.
pub(crate) fn numbered(root: &Path, dir: &str, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(root.join(dir)) else { return Vec::new() };
    let mut found: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|e| {
            let name = e.file_name().into_string().ok()?;
            Some((name.strip_prefix(prefix)?.parse().ok()?, e.path()))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(_, path)| path).collect()
}
