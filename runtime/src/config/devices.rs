//! `[camera]` and `[microphone]`.

use serde::{Deserialize, Serialize};

use crate::source::{
    alsa::MicrophoneSettings,
    v4l2::{CameraSettings, FourCc},
    view::{Area, Rotation, View},
};

/// Most privacy masks.
const MAX_MASKS: usize = 32;

/// `[camera]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CameraConfig {
    /// Whether there is one to be used.
    pub enabled: bool,
    /// Name or path; empty: the first.
    pub device: String,
    /// Pixel format to insist on; empty: any.
    pub format: String,
    /// Width to ask for; 0: the smallest that is large enough.
    pub width: u32,
    /// Height to ask for; 0: as the width.
    pub height: u32,
    /// Frames a second to ask for.
    pub fps: u32,
    /// Clockwise turn in degrees.
    pub rotate: u16,
    /// The part that is used.
    pub crop: Area,
    /// Blacked out before anything else sees the picture.
    pub masks: Vec<Area>,
}

impl Default for CameraConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            device: String::new(),
            format: String::new(),
            width: 0,
            height: 0,
            fps: CameraSettings::default().fps,
            rotate: 0,
            crop: Area::WHOLE,
            masks: Vec::new(),
        }
    }
}

impl CameraConfig {
    /// What the types cannot say; returns the key and what is wrong.
    pub(super) fn validate(&self) -> Result<(), (&'static str, &'static str)> {
        if !(self.format.is_empty() || self.code().is_some()) {
            return Err(("format", "four characters, like YUYV or MJPG"));
        }
        if self.width > 8192 {
            return Err(("width", "allowed are 0 to 8192"));
        }
        if self.height > 8192 || (self.width == 0) != (self.height == 0) {
            return Err(("height", "allowed are 0 to 8192, and width and height are given together"));
        }
        if !(1..=60).contains(&self.fps) {
            return Err(("fps", "allowed are 1 to 60"));
        }
        if Rotation::from_degrees(self.rotate).is_none() {
            return Err(("rotate", "allowed are 0, 90, 180 and 270"));
        }
        if !self.crop.is_valid() {
            return Err(("crop", "must be [left, top, width, height] inside 0 to 1"));
        }
        if self.masks.len() > MAX_MASKS || !self.masks.iter().all(Area::is_valid) {
            return Err(("masks", "at most 32 rectangles [left, top, width, height] inside 0 to 1"));
        }
        Ok(())
    }

    fn code(&self) -> Option<FourCc> {
        <[u8; 4]>::try_from(self.format.as_bytes()).ok().filter(|c| c.is_ascii()).map(FourCc)
    }

    /// What the camera needs to know.
    #[must_use]
    pub fn settings(&self) -> CameraSettings {
        CameraSettings {
            device: self.device.clone(),
            size: (self.width > 0).then_some((self.width, self.height)),
            format: self.code(),
            fps: self.fps,
            view: View {
                masks: self.masks.clone(),
                crop: self.crop,
                rotation: Rotation::from_degrees(self.rotate).unwrap_or_default(),
            },
        }
    }
}

/// `[microphone]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MicrophoneConfig {
    /// Whether there is one to be used.
    pub enabled: bool,
    /// ALSA's name; empty: the first.
    pub device: String,
}

impl Default for MicrophoneConfig {
    fn default() -> Self {
        Self { enabled: true, device: String::new() }
    }
}

impl MicrophoneConfig {
    /// What the microphone needs to know.
    #[must_use]
    pub fn settings(&self) -> MicrophoneSettings {
        MicrophoneSettings { device: self.device.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_camera_is_read_with_its_masks() {
        let text = "[camera]\nrotate = 90\nwidth = 640\nheight = 480\nformat = \"MJPG\"\nmasks = [[0.0, 0.5, 0.25, 0.5]]\n";
        let settings = Config::parse(text, "x").unwrap().camera.settings();
        assert_eq!(settings.size, Some((640, 480)));
        assert_eq!(settings.format, Some(FourCc(*b"MJPG")));
        assert_eq!(settings.view.rotation, Rotation::Quarter);
        assert_eq!(settings.view.masks, [Area { left: 0.0, top: 0.5, width: 0.25, height: 0.5 }]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_key() {
        for (line, key) in [
            ("rotate = 45", "rotate"),
            ("crop = [0.5, 0.0, 0.6, 1.0]", "crop"),
            ("masks = [[0.0, 0.0, 1.5, 1.0]]", "masks"),
            ("format = \"YUYV2\"", "format"),
            ("width = 640", "height"),
            ("fps = 0", "fps"),
        ] {
            let error = Config::parse(&format!("[camera]\n{line}\n"), "x").unwrap_err().to_string();
            assert!(error.contains(&format!("key `camera.{key}`")), "{line}: {error}");
        }
    }
}
