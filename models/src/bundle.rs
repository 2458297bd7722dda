//! Opening a bundle: every file's size and hash is checked before anything of it is used.

use std::{
    fmt,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::manifest::{FORMAT, Manifest};

/// No manifest is larger; a larger file is refused before it is read.
const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// No graph is larger: bounds what a damaged bundle can make us allocate.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Why a bundle is refused: the file and the reason.
#[derive(Debug)]
pub struct BundleError {
    /// The file or directory at fault.
    pub path: PathBuf,
    /// What is wrong and, where we know, what to do.
    pub reason: String,
    /// Whether the file is absent rather than wrong.
    pub missing: bool,
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.reason)
    }
}

impl std::error::Error for BundleError {}

/// A checked bundle. Graph bytes are read (and checked) one at a time by [`Bundle::read`], so that at most one
/// file's bytes are held.
#[derive(Debug)]
pub struct Bundle {
    dir: PathBuf,
    manifest: Manifest,
    id: String,
}

impl Bundle {
    /// Opens the bundle in `dir`, to be run by runtime version `runtime` (`MAJOR.MINOR.PATCH`).
    pub fn open(dir: impl AsRef<Path>, runtime: &str) -> Result<Self, BundleError> {
        let dir = dir.as_ref().to_path_buf();
        let path = dir.join("manifest.json");
        let bytes = read_bounded(&path, MAX_MANIFEST_BYTES)?;
        let wrong = |reason: String| BundleError { path: path.clone(), reason, missing: false };

        // The format is looked at first, so that a newer bundle is called newer and not malformed.
        let value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|e| wrong(format!("not valid JSON: {e}")))?;
        match value.get("format").and_then(serde_json::Value::as_u64) {
            Some(f) if f == u64::from(FORMAT) => {}
            Some(f) if f > u64::from(FORMAT) => {
                return Err(wrong(format!(
                    "bundle format {f} is newer than this runtime understands ({FORMAT}): upgrade girasol"
                )));
            }
            Some(f) => {
                return Err(wrong(format!(
                    "bundle format {f} is older than this runtime takes ({FORMAT}): install the bundle that comes with it"
                )));
            }
            None => return Err(wrong("no `format` number: not a girasol bundle".into())),
        }
        let manifest: Manifest = serde_json::from_value(value).map_err(|e| wrong(e.to_string()))?;
        check_runtime(&manifest.min_runtime, runtime).map_err(wrong)?;
        manifest.validate().map_err(wrong)?;

        let bundle = Self { dir, manifest, id: hex(&Sha256::digest(&bytes)) };
        for (name, file) in bundle.manifest.graphs.all() {
            let path = bundle.file(&file.file)?;
            let size = std::fs::metadata(&path).map_err(|e| unreadable(&path, &e))?.len();
            if size != file.bytes {
                return Err(BundleError {
                    path,
                    reason: format!(
                        "{name} has {size} bytes, the manifest says {}: copy the bundle again",
                        file.bytes
                    ),
                    missing: false,
                });
            }
        }
        Ok(bundle)
    }

    /// The manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The same bundle, to be run in f32 throughout.
    #[must_use]
    pub fn in_f32(mut self) -> Self {
        self.manifest.quantisation.nodes.clear();
        self
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// SHA-256 of the manifest, hexadecimal: since the manifest holds every file's hash, it names the whole bundle.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The bytes of a listed file, refused unless its SHA-256 is `sha256`.
    pub fn read(&self, file: &str, sha256: &str) -> Result<Vec<u8>, BundleError> {
        let path = self.file(file)?;
        let bytes = read_bounded(&path, MAX_FILE_BYTES)?;
        let actual = hex(&Sha256::digest(&bytes));
        if !actual.eq_ignore_ascii_case(sha256) {
            return Err(BundleError {
                path,
                reason: format!(
                    "damaged: SHA-256 is {}…, the manifest says {}…: copy the bundle again",
                    &actual[..12],
                    sha256.get(..12).unwrap_or(sha256)
                ),
                missing: false,
            });
        }
        Ok(bytes)
    }

    /// Path of a listed file; a name that leaves the directory is refused.
    fn file(&self, name: &str) -> Result<PathBuf, BundleError> {
        let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\']);
        if plain {
            Ok(self.dir.join(name))
        } else {
            let path = self.dir.join("manifest.json");
            Err(BundleError { path, reason: format!("`{name}` is not a plain file name"), missing: false })
        }
    }
}

fn unreadable(path: &Path, error: &std::io::Error) -> BundleError {
    let missing = error.kind() == std::io::ErrorKind::NotFound;
    let reason =
        if missing { "file not found: is this a complete bundle?".into() } else { error.to_string() };
    BundleError { path: path.to_path_buf(), reason, missing }
}

fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, BundleError> {
    let file = File::open(path).map_err(|e| unreadable(path, &e))?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| unreadable(path, &e))?;
    if bytes.len() as u64 > limit {
        let reason = format!("larger than {limit} bytes");
        return Err(BundleError { path: path.to_path_buf(), reason, missing: false });
    }
    Ok(bytes)
}

fn version(text: &str) -> Option<[u64; 3]> {
    let mut parts = text.split('.').map(|p| p.parse().ok());
    let version = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(version)
}

fn check_runtime(needed: &str, runtime: &str) -> Result<(), String> {
    let needs = version(needed).ok_or_else(|| format!("min_runtime `{needed}` is not MAJOR.MINOR.PATCH"))?;
    let has =
        version(runtime).ok_or_else(|| format!("runtime version `{runtime}` is not MAJOR.MINOR.PATCH"))?;
    if has < needs {
        return Err(format!("needs girasol {needed} or newer, this is {runtime}: upgrade girasol"));
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}
