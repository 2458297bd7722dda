//! A bundle's manifest: refused with a reason, or whole.
#![no_main]

use std::{fs, path::PathBuf, sync::OnceLock};

use girasol_model::Bundle;
use libfuzzer_sys::fuzz_target;

/// In memory, one for each process.
fn directory() -> &'static PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let directory = PathBuf::from(format!("/dev/shm/girasol-fuzz-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        directory
    })
}

fuzz_target!(|data: &[u8]| {
    fs::write(directory().join("manifest.json"), data).unwrap();
    // There are no graphs beside it, so a manifest that is understood ends with their absence.
    let error = Bundle::open(directory(), "0.1.0").unwrap_err();
    assert!(!error.to_string().is_empty());
});
