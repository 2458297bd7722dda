//! Where pictures and sound come from, behind two small traits.
//!
//! A source hands out media in two *privacy types*, [`Frame`] and [`Block`]: they cannot be cloned, serialised or
//! printed, and their content can be read inside this crate only. Recordings ([`clip`]) and live devices implement
//! the same traits; [`pace`] plays a recording in real time and [`liveness`] keeps a live device alive.
//!
//! The promise, as examples that must not compile (nightly compilers check the error codes too):
//!
//! ```compile_fail,E0599
//! let frame = girasol::source::Frame::new();
//! let _ = frame.clone();
//! ```
//! ```compile_fail,E0599
//! let block = girasol::source::Block::new();
//! let _ = block.clone();
//! ```
//! ```compile_fail,E0277
//! println!("{}", girasol::source::Frame::new());
//! ```
//! ```compile_fail,E0277
//! println!("{}", girasol::source::Block::new());
//! ```
//! ```compile_fail,E0277
//! fn written<T: serde::Serialize>(_: &T) {}
//! written(&girasol::source::Frame::new());
//! ```
//! ```compile_fail,E0277
//! fn written<T: serde::Serialize>(_: &T) {}
//! written(&girasol::source::Block::new());
//! ```
//! ```compile_fail,E0624
//! let _ = girasol::source::Frame::new().rgb();
//! ```
//! ```compile_fail,E0616
//! let _ = girasol::source::Frame::new().rgb;
//! ```
//! ```compile_fail,E0624
//! let _ = girasol::source::Block::new().samples();
//! ```
//! ```compile_fail,E0616
//! let _ = girasol::source::Block::new().samples;
//! ```
//! What is public compiles:
//!
//! ```
//! let (frame, block) = (girasol::source::Frame::new(), girasol::source::Block::new());
//! println!("{frame:?} {:?} {}", block.time, block.len());
//! ```

pub mod alsa;
pub mod clip;
pub mod ffmpeg;
pub mod liveness;
pub mod meter;
pub mod pace;
mod pcm;
pub mod sync;
pub mod v4l2;
pub mod view;
pub mod wav;
pub mod y4m;

use std::{fmt, time::Duration};

use crate::{
    clock::MonoTime,
    error::{Error, ErrorKind},
    timeline::FrameChoice,
};

/// Nominal sample rate of every [`Block`], in Hz.
pub const SAMPLE_RATE: u32 = 16_000;
/// Most samples one [`Block`] holds (0.1 s).
pub const BLOCK_CAPACITY: usize = 1_600;
/// Width of every [`Frame`], in pixels.
pub const FRAME_WIDTH: usize = 128;
/// Height of every [`Frame`], in pixels.
pub const FRAME_HEIGHT: usize = 96;
/// Bytes of every [`Frame`]: interleaved R, G, B, row by row.
pub const FRAME_BYTES: usize = FRAME_WIDTH * FRAME_HEIGHT * 3;

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The buffer was filled.
    Data,
    /// Nothing came within the timeout.
    Timeout,
    /// The recording is over; live sources never say this.
    End,
}

/// A picture source.
pub trait VideoSource: Send {
    /// What it is, for people: a path or a device name.
    fn describe(&self) -> &str;

    /// Fills `out` with the next frame. Live sources wait at most `timeout`; recordings may take as long as the
    /// decoder does. After an error a live source is reopened; a recording is over.
    ///
    /// # Errors
    /// The source is gone, or what it delivers cannot be used.
    fn read(&mut self, out: &mut Frame, timeout: Duration) -> Result<Read, SourceError>;

    /// From now on only what `choice` wants need be converted; of other frames only the time counts.
    fn choose(&mut self, choice: FrameChoice);

    /// What was wrong with the data but tolerated ("the last frame is incomplete"); complete after [`Read::End`].
    fn warning(&self) -> Option<&str> {
        None
    }
}

/// A sound source: mono, 16 kHz nominal.
pub trait AudioSource: Send {
    /// What it is, for people: a path or a device name.
    fn describe(&self) -> &str;

    /// Fills `out` with the next samples; never with none. Otherwise as [`VideoSource::read`].
    ///
    /// # Errors
    /// The source is gone, or what it delivers cannot be used.
    fn read(&mut self, out: &mut Block, timeout: Duration) -> Result<Read, SourceError>;

    /// What was wrong with the data but tolerated ("samples are missing at the end"); complete after [`Read::End`].
    fn warning(&self) -> Option<&str> {
        None
    }
}

impl<S: VideoSource + ?Sized> VideoSource for Box<S> {
    fn describe(&self) -> &str {
        (**self).describe()
    }
    fn read(&mut self, out: &mut Frame, timeout: Duration) -> Result<Read, SourceError> {
        (**self).read(out, timeout)
    }
    fn choose(&mut self, choice: FrameChoice) {
        (**self).choose(choice);
    }
    fn warning(&self) -> Option<&str> {
        (**self).warning()
    }
}

impl<S: AudioSource + ?Sized> AudioSource for Box<S> {
    fn describe(&self) -> &str {
        (**self).describe()
    }
    fn read(&mut self, out: &mut Block, timeout: Duration) -> Result<Read, SourceError> {
        (**self).read(out, timeout)
    }
    fn warning(&self) -> Option<&str> {
        (**self).warning()
    }
}

/// One small converted picture, [`FRAME_WIDTH`] × [`FRAME_HEIGHT`] RGB. A privacy type: no `Clone`, no `Serialize`,
/// no content in `Debug`, pixels readable inside this crate only.
pub struct Frame {
    /// When it was exposed (live) or where it stands in the clip.
    pub time: MonoTime,
    /// Frames the device or driver lost just before this one, by its sequence numbers.
    pub dropped_before: u32,
    /// Whether it was converted; otherwise its pixels mean nothing ([`VideoSource::choose`]).
    pub has_pixels: bool,
    rgb: Box<[u8; FRAME_BYTES]>,
}

impl Frame {
    /// A black frame at time 0; allocates, so make it once.
    #[must_use]
    pub fn new() -> Self {
        Self { time: MonoTime(0), dropped_before: 0, has_pixels: true, rgb: Box::new([0; FRAME_BYTES]) }
    }

    /// The pixels.
    pub(crate) fn rgb(&self) -> &[u8; FRAME_BYTES] {
        &self.rgb
    }

    /// The pixels, to be written.
    pub(crate) fn rgb_mut(&mut self) -> &mut [u8; FRAME_BYTES] {
        &mut self.rgb
    }

    /// Overwrites this frame with another one, without allocating.
    pub(crate) fn copy_from(&mut self, other: &Self) {
        self.time = other.time;
        self.dropped_before = other.dropped_before;
        self.has_pixels = other.has_pixels;
        self.rgb.copy_from_slice(&other.rgb[..]);
    }
}

impl Default for Frame {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame").field("time", &self.time).finish_non_exhaustive()
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        self.rgb.fill(0);
    }
}

/// A run of samples: mono, 16 bit, [`SAMPLE_RATE`] nominal, at most [`BLOCK_CAPACITY`]. A privacy type: no `Clone`,
/// no `Serialize`, no content in `Debug`, samples readable inside this crate only.
pub struct Block {
    /// Time of the first sample.
    pub time: MonoTime,
    /// Samples were lost between the previous block and this one; its `time` is to be trusted.
    pub discontinuity: bool,
    samples: heapless::Vec<i16, BLOCK_CAPACITY>,
}

impl Block {
    /// An empty block at time 0.
    #[must_use]
    pub fn new() -> Self {
        Self { time: MonoTime(0), discontinuity: false, samples: heapless::Vec::new() }
    }

    /// How many samples it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.samples.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Time just after its last sample, at the nominal rate.
    #[must_use]
    pub fn end(&self) -> MonoTime {
        self.time + samples_to_duration(self.len())
    }

    /// The samples.
    pub(crate) fn samples(&self) -> &[i16] {
        &self.samples
    }

    /// The sample buffer, to be written; its capacity is [`BLOCK_CAPACITY`].
    pub(crate) fn samples_mut(&mut self) -> &mut heapless::Vec<i16, BLOCK_CAPACITY> {
        &mut self.samples
    }
}

impl Default for Block {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Block").field("time", &self.time).field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.samples.fill(0);
    }
}

/// Nominal duration of so many samples.
pub(crate) fn samples_to_duration(samples: usize) -> Duration {
    Duration::from_nanos((samples as u64).saturating_mul(1_000_000_000) / u64::from(SAMPLE_RATE))
}

/// What sort of fault a source has; decides how liveness treats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceErrorKind {
    /// It is not there (any more): unplugged, no such file or device.
    Lost,
    /// Somebody else holds it.
    Busy,
    /// It delivers something that we cannot use: format, rate, codec.
    Unsupported,
    /// This piece of data is incomplete; the next may be whole.
    Truncated,
    /// A program or driver that it needs is missing.
    Missing,
    /// Anything else.
    Failed,
}

/// Why a source cannot be opened or read, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError {
    /// What sort of fault.
    pub kind: SourceErrorKind,
    /// One line that names the source and the fault.
    pub message: String,
    /// What the operator can do.
    pub help: Option<String>,
}

impl SourceError {
    /// A new error; `message` names the source and the fault.
    pub fn new(kind: SourceErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), help: None }
    }

    /// Adds what the operator can do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// An I/O error on the source called `name`.
    pub(crate) fn io(name: &str, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match error.kind() {
            Io::NotFound => SourceErrorKind::Lost,
            Io::ResourceBusy => SourceErrorKind::Busy,
            Io::UnexpectedEof => SourceErrorKind::Truncated,
            _ => SourceErrorKind::Failed,
        };
        Self::new(kind, format!("{name}: {error}"))
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for SourceError {}

impl From<SourceError> for Error {
    fn from(error: SourceError) -> Self {
        let kind = match error.kind {
            SourceErrorKind::Lost | SourceErrorKind::Busy | SourceErrorKind::Missing => {
                ErrorKind::Unavailable
            }
            SourceErrorKind::Unsupported | SourceErrorKind::Truncated => ErrorKind::Data,
            SourceErrorKind::Failed => ErrorKind::Io,
        };
        let converted = Self::new(kind, error.message);
        match error.help {
            Some(help) => converted.help(help),
            None => converted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_prints_no_content() {
        let mut frame = Frame::new();
        frame.rgb_mut().fill(77);
        assert_eq!(format!("{frame:?}"), "Frame { time: MonoTime(0), .. }");
        let mut block = Block::new();
        block.samples_mut().extend_from_slice(&[77; 5]).unwrap();
        assert_eq!(format!("{block:?}"), "Block { time: MonoTime(0), len: 5, .. }");
    }

    #[test]
    fn source_errors_convert_with_their_help() {
        let error = SourceError::new(SourceErrorKind::Unsupported, "a.wav: no fmt").help("convert it");
        let error = Error::from(error);
        assert_eq!(error.kind(), ErrorKind::Data);
        assert_eq!(error.to_string(), "a.wav: no fmt (convert it)");
    }
}
