//! Settings made by command, on disk: written whole or not at all.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result, config::Overrides};

/// No file is larger.
const MAX_BYTES: u64 = 256 << 10;
/// Version of the file.
const FORMAT: u32 = 1;

/// Where settings made by command are kept.
pub trait Store: Send {
    /// What was kept last; nothing if nothing was.
    ///
    /// # Errors
    /// When it is there but cannot be read.
    fn load(&mut self) -> Result<Overrides>;

    /// Keeps `overrides` in place of what was kept.
    ///
    /// # Errors
    /// When it cannot; then the older ones are still there.
    fn save(&mut self, overrides: &Overrides) -> Result<()>;
}

/// Keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoStore;

impl Store for NoStore {
    fn load(&mut self) -> Result<Overrides> {
        Ok(Overrides::new())
    }

    fn save(&mut self, _: &Overrides) -> Result<()> {
        Ok(())
    }
}

/// `commands.json` in a directory.
#[derive(Clone, Debug)]
pub struct FileStore {
    dir: PathBuf,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    format: u32,
    settings: Overrides,
}

impl FileStore {
    /// In `dir`, which is made when the first setting is saved.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("commands.json")
    }

    fn write(&self, bytes: &[u8]) -> std::io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let new = self.dir.join("commands.json.new");
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, self.path())?;
        // The new name itself must survive a power cut, too.
        File::open(&self.dir)?.sync_all()
    }
}

impl Store for FileStore {
    fn load(&mut self) -> Result<Overrides> {
        let path = self.path();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Overrides::new()),
            Err(e) => return Err(Error::io(&path, e)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(|e| Error::io(&path, e))?;
        let wrong = |what: String| Error::new(ErrorKind::Data, format!("{}: {what}", path.display()));
        if bytes.len() as u64 > MAX_BYTES {
            return Err(wrong("too large".into()));
        }
        let kept: Kept = serde_json::from_slice(&bytes).map_err(|e| wrong(e.to_string()))?;
        if kept.format != FORMAT {
            return Err(wrong(format!("format {} is not known", kept.format)));
        }
        Ok(kept.settings)
    }

    fn save(&mut self, overrides: &Overrides) -> Result<()> {
        let kept = Kept { format: FORMAT, settings: overrides.clone() };
        let bytes = serde_json::to_vec_pretty(&kept)
            .map_err(|e| Error::new(ErrorKind::Internal, "commands.json").cause(e))?;
        self.write(&bytes).map_err(|e| {
            Error::io(self.path(), e).help("is state.directory there, writable, and the disk not full?")
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_saved_is_loaded_and_a_leftover_of_a_cut_write_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = FileStore::new(dir.path().join("made"));
        assert!(store.load().unwrap().is_empty());
        let overrides = Overrides::from([("hear.paused".to_owned(), json!(true))]);
        store.save(&overrides).unwrap();
        fs::write(dir.path().join("made/commands.json.new"), "{\"form").unwrap();
        assert_eq!(store.load().unwrap(), overrides);
        store.save(&Overrides::new()).unwrap();
        assert!(store.load().unwrap().is_empty());
    }

    #[test]
    fn damage_is_an_error_that_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = FileStore::new(dir.path().into());
        for text in ["", "{", "{\"format\":2,\"settings\":{}}"] {
            fs::write(dir.path().join("commands.json"), text).unwrap();
            assert!(store.load().unwrap_err().to_string().contains("commands.json"), "{text}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut store = FileStore::new(file.path().join("below"));
        assert!(store.save(&Overrides::new()).unwrap_err().to_string().contains("state.directory"));
    }
}
