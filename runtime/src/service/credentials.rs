//! Secrets that systemd hands over (`LoadCredential=`, systemd 247 and later).

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

/// The file of credential `name`, if the service manager gave one and it is not empty. Older systemd gives none: then
/// the configuration names a file that only the service's user can read.
#[must_use]
pub fn credential(name: &str) -> Option<PathBuf> {
    find(std::env::var_os("CREDENTIALS_DIRECTORY").as_deref(), name)
}

fn find(directory: Option<&OsStr>, name: &str) -> Option<PathBuf> {
    let path = Path::new(directory?).join(name);
    let size = std::fs::metadata(&path).ok()?.len();
    (size > 0).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_or_absent_credential_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mqtt-password");
        let look = || find(Some(dir.path().as_os_str()), "mqtt-password");
        assert_eq!(find(None, "mqtt-password"), None);
        assert_eq!(look(), None);
        std::fs::write(&path, "").unwrap();
        assert_eq!(look(), None);
        std::fs::write(&path, "secret\n").unwrap();
        assert_eq!(look(), Some(path));
    }
}
