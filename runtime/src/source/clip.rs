//! A recording with sound, picture or both, opened by its file name.
//!
//! `.wav` and `.y4m` are read natively, `clip.y4m` together with a `clip.wav` beside it; anything else goes through
//! the ffmpeg program. A clip's identity is the SHA-256 of its content, so what is derived from it (event ids) is
//! the same on every machine.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use sha2::{Digest, Sha256};

use super::{
    AudioSource, SourceError, SourceErrorKind, VideoSource,
    ffmpeg::{self, FfmpegAudio, FfmpegVideo},
    wav::WavSource,
    y4m::Y4mSource,
};

/// Which halves of a clip are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// The sound.
    pub audio: bool,
    /// The picture.
    pub video: bool,
}

impl Want {
    /// Whatever there is.
    pub const BOTH: Self = Self { audio: true, video: true };
}

/// An opened recording. Its time stamps start at `MonoTime(0)`.
pub struct Clip {
    /// SHA-256 of the content (of the digests of picture and sound file, for a pair).
    pub id: [u8; 32],
    /// How long it plays, where known beforehand.
    pub duration: Option<Duration>,
    /// The sound, if wanted and there.
    pub audio: Option<Box<dyn AudioSource>>,
    /// The picture, if wanted and there.
    pub video: Option<Box<dyn VideoSource>>,
}

impl Clip {
    /// Opens the recording at `path`.
    ///
    /// # Errors
    /// It cannot be read or understood, or holds nothing of what is wanted.
    pub fn open(path: &Path, want: Want) -> Result<Self, SourceError> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
        let clip = match extension.as_str() {
            "wav" => Self::open_wav(path, want)?,
            "y4m" => Self::open_y4m(path, want)?,
            _ => Self::open_container(path, want)?,
        };
        if clip.audio.is_none() && clip.video.is_none() {
            return Err(nothing_in(path, want));
        }
        Ok(clip)
    }

    /// [`Clip::id`] in hexadecimal.
    #[must_use]
    pub fn id_hex(&self) -> String {
        self.id.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn open_wav(path: &Path, want: Want) -> Result<Self, SourceError> {
        let mut clip = Self { id: digest(path)?, duration: None, audio: None, video: None };
        if want.audio {
            clip.add_wav(path)?;
        }
        Ok(clip)
    }

    fn open_y4m(path: &Path, want: Want) -> Result<Self, SourceError> {
        let mut clip = Self { id: digest(path)?, duration: None, audio: None, video: None };
        if want.video {
            let video = Y4mSource::open(path)?;
            clip.extend(video.duration());
            clip.video = Some(Box::new(video));
        }
        let Some(sound) = sound_beside(path) else { return Ok(clip) };
        clip.id = Sha256::new().chain_update(clip.id).chain_update(digest(&sound)?).finalize().into();
        if want.audio {
            clip.add_wav(&sound)?;
        }
        Ok(clip)
    }

    fn open_container(path: &Path, want: Want) -> Result<Self, SourceError> {
        // First, so that a missing file is not blamed on a missing program.
        let id = digest(path)?;
        let probe = ffmpeg::probe(path)?;
        let mut clip = Self { id, duration: probe.duration, audio: None, video: None };
        if want.audio && probe.audio {
            clip.audio = Some(Box::new(FfmpegAudio::open(path)?));
        }
        if let Some(fps) = probe.video_fps.filter(|_| want.video) {
            clip.video = Some(Box::new(FfmpegVideo::open(path, fps)?));
        }
        Ok(clip)
    }

    fn add_wav(&mut self, path: &Path) -> Result<(), SourceError> {
        let audio = WavSource::open(path)?;
        self.extend(Some(audio.duration()));
        self.audio = Some(Box::new(audio));
        Ok(())
    }

    /// A clip is as long as its longer half.
    fn extend(&mut self, duration: Option<Duration>) {
        self.duration = self.duration.max(duration);
    }
}

/// `clip.wav` for `clip.y4m`, if it exists.
fn sound_beside(path: &Path) -> Option<PathBuf> {
    ["wav", "WAV"].iter().map(|e| path.with_extension(e)).find(|p| p.is_file())
}

fn nothing_in(path: &Path, want: Want) -> SourceError {
    let what = match (want.audio, want.video) {
        (true, false) => "no sound",
        (false, true) => "no picture",
        _ => "neither sound nor picture",
    };
    SourceError::new(SourceErrorKind::Unsupported, format!("{}: {what} in it", path.display()))
        .help("give a recording with sound, picture or both")
}

/// SHA-256 of a file's content.
fn digest(path: &Path) -> Result<[u8; 32], SourceError> {
    let name = path.display().to_string();
    let io = |e: std::io::Error| SourceError::io(&name, &e);
    let mut file = File::open(path).map_err(io)?;
    let mut buffer = vec![0; 1 << 16];
    let mut hash = Sha256::new();
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(n) => hash.update(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(io(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::source::{Block, Frame, Read, wav::tests::wav, y4m::tests::y4m};

    fn count(clip: &mut Clip) -> (usize, usize) {
        let (mut block, mut frame) = (Block::new(), Frame::new());
        let (mut samples, mut frames) = (0, 0);
        if let Some(audio) = &mut clip.audio {
            while audio.read(&mut block, Duration::ZERO).unwrap() == Read::Data {
                samples += block.len();
            }
        }
        if let Some(video) = &mut clip.video {
            while video.read(&mut frame, Duration::ZERO).unwrap() == Read::Data {
                frames += 1;
            }
        }
        (samples, frames)
    }

    #[test]
    fn a_pair_is_opened_together() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clip.y4m");
        std::fs::write(&path, y4m("W4 H4 F10:1 Cmono", 16, 10)).unwrap();
        let mut alone = Clip::open(&path, Want::BOTH).unwrap();
        assert!(alone.audio.is_none());
        assert_eq!(count(&mut alone), (0, 10));
        std::fs::write(path.with_extension("wav"), wav(1, 16, 1, 16_000, &[0; 64_000])).unwrap();
        let mut pair = Clip::open(&path, Want::BOTH).unwrap();
        assert_eq!(count(&mut pair), (32_000, 10));
        assert_eq!(pair.duration, Some(Duration::from_secs(2)));
        assert_ne!(pair.id, alone.id);
        assert_eq!(pair.id_hex().len(), 64);
        let video = Clip::open(&path, Want { audio: false, video: true }).unwrap();
        assert!(video.audio.is_none() && video.id == pair.id);
    }

    #[test]
    fn wanting_what_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clip.wav");
        let error = Clip::open(&path, Want::BOTH).err().unwrap();
        assert_eq!(error.kind, SourceErrorKind::Lost);
        std::fs::write(&path, wav(1, 16, 1, 16_000, &[0; 64])).unwrap();
        let error = Clip::open(&path, Want { audio: false, video: true }).err().unwrap();
        assert!(error.message.ends_with("no picture in it"), "{error}");
    }

    /// Needs the ffmpeg program; without it, there must be a clear error.
    #[test]
    fn a_container_keeps_its_lengths() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clip.mkv");
        let made = Command::new("ffmpeg")
            .args(["-nostdin", "-v", "error", "-f", "lavfi", "-i", "testsrc=size=64x48:rate=10:duration=2"])
            .args(["-f", "lavfi", "-i", "sine=frequency=440:duration=2", "-c:v", "ffv1", "-c:a", "pcm_s16le"])
            .arg(&path)
            .status();
        if !made.is_ok_and(|s| s.success()) {
            std::fs::write(&path, b"anything").unwrap();
            assert!(Clip::open(&path, Want::BOTH).err().unwrap().help.is_some());
            return;
        }
        let mut clip = Clip::open(&path, Want::BOTH).unwrap();
        let (samples, frames) = count(&mut clip);
        assert!(samples.abs_diff(32_000) <= 32, "{samples} samples");
        assert!(frames.abs_diff(20) <= 1, "{frames} frames");
        std::fs::write(&path, b"not a movie at all").unwrap();
        let error = Clip::open(&path, Want::BOTH).err().unwrap();
        assert!(error.message.contains("clip.mkv") && error.help.is_some(), "{error}");
    }

    #[test]
    fn dropping_a_clip_kills_its_decoders() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long.mkv");
        let made = Command::new("ffmpeg")
            .args([
                "-nostdin",
                "-v",
                "error",
                "-f",
                "lavfi",
                "-i",
                "testsrc=size=320x240:rate=15:duration=20",
            ])
            .args(["-c:v", "mpeg4"])
            .arg(&path)
            .status();
        if made.is_ok_and(|s| s.success()) {
            let mut clip = Clip::open(&path, Want::BOTH).unwrap();
            let mut frame = Frame::new();
            assert_eq!(clip.video.as_mut().unwrap().read(&mut frame, Duration::ZERO).unwrap(), Read::Data);
            // Returns although the process is blocked on a full pipe.
            drop(clip);
        }
    }
}
