//! Which cameras there are, and the names under which they stay the same across reboots and ports.

use std::path::{Path, PathBuf};

use super::{
    format::{FourCc, encoding},
    node::{Capabilities, Node},
    queue::fault,
};
use crate::source::{SourceError, SourceErrorKind};

/// Drivers of nodes that capture pictures but are no cameras: parts of a system's own image processing.
const NOT_CAMERAS: [&str; 6] =
    ["bcm2835-codec", "bcm2835-isp", "pispbe", "rpivid", "rpi-hevc-dec", "tegra-video-enc"];

/// A camera that could be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CameraInfo {
    /// `/dev/videoN`; N changes.
    pub node: PathBuf,
    /// A link that stays, by serial number or by port.
    pub stable: Option<PathBuf>,
    /// What the device says of itself.
    pub capabilities: Capabilities,
    /// Formats with their sizes (a range by its two ends); those that are not understood too.
    pub formats: Vec<(FourCc, Vec<(u32, u32)>)>,
}

impl CameraInfo {
    /// Whether girasol understands one of its formats.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.formats.iter().any(|(code, _)| encoding(*code).is_some())
    }
}

/// All nodes that capture pictures, those most likely to be the camera first: USB before others, then by number.
#[must_use]
pub fn cameras() -> Vec<CameraInfo> {
    let mut found: Vec<_> = nodes().iter().filter_map(|path| look(path).ok().flatten()).collect();
    found.sort_by_key(|camera| (!camera.is_usable(), camera.capabilities.driver != "uvcvideo"));
    found
}

/// The node that `device` names: a path, a name below `/dev/v4l/by-id` or `by-path`, or, if empty, the first camera.
///
/// # Errors
/// There is none.
pub fn find(device: &str) -> Result<PathBuf, SourceError> {
    if device.is_empty() {
        return first();
    }
    let candidates = [
        PathBuf::from(device),
        Path::new("/dev/v4l/by-id").join(device),
        Path::new("/dev/v4l/by-path").join(device),
    ];
    let found = candidates.into_iter().find(|path| path.is_absolute() && path.exists());
    found.ok_or_else(|| {
        SourceError::new(SourceErrorKind::Lost, format!("{device}: there is no such camera now"))
            .help("`girasol devices` lists cameras; camera.device takes a name from there")
    })
}

fn first() -> Result<PathBuf, SourceError> {
    let mut refused = None;
    let mut found: Vec<CameraInfo> = Vec::new();
    for path in nodes() {
        match look(&path) {
            Ok(camera) => found.extend(camera.filter(CameraInfo::is_usable)),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    found.sort_by_key(|camera| camera.capabilities.driver != "uvcvideo");
    match (found.into_iter().next(), refused) {
        (Some(camera), _) => Ok(camera.node),
        (None, Some(error)) if error.kind != SourceErrorKind::Lost => Err(error),
        (None, _) => Err(SourceError::new(SourceErrorKind::Lost, "no camera found")
            .help("plug one in; `girasol devices` lists what is there")),
    }
}

/// `/dev/video*` by number.
fn nodes() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir("/dev") else { return Vec::new() };
    let mut numbers: Vec<u32> = entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("video")?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers.into_iter().map(|n| PathBuf::from(format!("/dev/video{n}"))).collect()
}

/// Opens a node only to ask; `None` if it is no camera.
fn look(path: &Path) -> Result<Option<CameraInfo>, SourceError> {
    let name = path.display().to_string();
    let node = Node::open(path).map_err(|e| fault(&name, "opening", &e))?;
    let capabilities = node.capabilities().map_err(|e| fault(&name, "asking what it is", &e))?;
    if !capabilities.captures || NOT_CAMERAS.iter().any(|d| capabilities.driver.starts_with(d)) {
        return Ok(None);
    }
    let formats = node.formats().into_iter().map(|code| (code, node.sizes(code))).collect();
    Ok(Some(CameraInfo { node: path.to_owned(), stable: stable_name(path), capabilities, formats }))
}

/// A link below `/dev/v4l` that leads to the node.
fn stable_name(path: &Path) -> Option<PathBuf> {
    ["/dev/v4l/by-id", "/dev/v4l/by-path"].iter().find_map(|folder| {
        let mut links: Vec<_> =
            std::fs::read_dir(folder).ok()?.filter_map(|e| Some(e.ok()?.path())).collect();
        links.sort();
        links.into_iter().find(|link| std::fs::canonicalize(link).is_ok_and(|target| target == path))
    })
}
