//! The capture device: what is used of ALSA, one method each.
//!
//! [`Card`] is the only place that calls the library. The capture above it works on the [`Pcm`] trait, so every fault
//! can be tested without a sound card.

use std::{cell::RefCell, ffi::CString, rc::Rc, time::Duration};

use alsa::{
    Direction, Output, PCM, ValueOr,
    pcm::{Access, Format, Frames, HwParams, State, TstampType},
};

/// An errno, positive.
pub(super) type Errno = i32;

/// What the driver says about the stream at one instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status {
    /// The stream stopped because nobody read in time.
    pub(super) overrun: bool,
    /// Frames that wait to be read.
    pub(super) waiting: u64,
    /// Frames between the microphone and the reader.
    pub(super) delay: u64,
    /// When `waiting` was true, on the monotonic clock in nanoseconds; 0 where the driver does not say.
    pub(super) stamp: i64,
}

/// What capturing needs. Errors are errnos.
pub(super) trait Pcm: Send {
    /// Frames per second.
    fn rate(&self) -> u32;
    /// Waits until a period can be read; false if the time was over.
    fn wait(&mut self, timeout: Duration) -> Result<bool, Errno>;
    /// Position and time.
    fn status(&mut self) -> Result<Status, Errno>;
    /// Reads frames, mixed down to one channel, in [−1, 1]; as many as there are, at most `out` holds.
    fn read(&mut self, out: &mut [f32]) -> Result<usize, Errno>;
    /// Makes the stream ready again after an overrun, and starts it.
    fn restart(&mut self) -> Result<(), Errno>;
    /// Wakes the stream after a suspend; `EAGAIN` while the hardware is not back yet.
    fn resume(&mut self) -> Result<(), Errno>;
}

/// Sample formats that are read as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sample {
    S16,
    S32,
    F32,
}

const FORMATS: [(Sample, Format); 3] =
    [(Sample::S16, Format::S16LE), (Sample::S32, Format::S32LE), (Sample::F32, Format::FloatLE)];
/// Rates that are resampled as they are, best first.
const RATES: [u32; 4] = [16_000, 48_000, 44_100, 32_000];
/// Rates that sound cards have.
const USUAL_RATES: [u32; 9] = [8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000];
/// More channels than this are not mixed down.
const MAX_CHANNELS: u32 = 8;
/// A read wakes up about so often.
const PERIOD_MICROS: u32 = 40_000;
/// So long nobody need read before sound is lost.
const BUFFER_MICROS: u32 = 500_000;
/// Reads a second: so many frames are read at a time that their samples fill half a block.
pub(super) const READS: u32 = 20;

/// What a device can capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// ALSA's names of its sample formats; those that are not read as they are too.
    pub formats: Vec<String>,
    /// Fewest and most channels.
    pub channels: (u32, u32),
    /// Of the usual rates those that it has, in Hz.
    pub rates: Vec<u32>,
}

impl Offer {
    /// Opens a device only to ask.
    pub(super) fn ask(name: &str) -> Result<Self, Errno> {
        let _quiet = Quiet::new();
        let name = CString::new(name).map_err(|_| libc::EINVAL)?;
        let pcm = PCM::open(&name, Direction::Capture, true).map_err(errno)?;
        let hw = HwParams::any(&pcm).map_err(errno)?;
        // ALSA ends the program when it is asked about the format that is none.
        let named = Format::all().iter().filter(|format| **format != Format::Unknown);
        let formats = named.filter(|format| hw.test_format(**format).is_ok());
        let rates = USUAL_RATES.into_iter().filter(|rate| hw.test_rate(*rate).is_ok());
        Ok(Self {
            formats: formats.map(ToString::to_string).collect(),
            channels: (hw.get_channels_min().map_err(errno)?, hw.get_channels_max().map_err(errno)?),
            rates: rates.collect(),
        })
    }
}

/// An open sound card that captures.
pub(super) struct Card {
    pcm: PCM,
    sample: Sample,
    channels: usize,
    rate: u32,
    bytes: Vec<u8>,
}

impl Card {
    /// Opens, negotiates and starts. On error also says what was being done.
    pub(super) fn open(name: &str) -> Result<Self, (Errno, &'static str)> {
        let _quiet = Quiet::new();
        let at = |doing: &'static str| move |e: alsa::Error| (e.errno().abs(), doing);
        let text = CString::new(name).map_err(|_| (libc::EINVAL, "opening"))?;
        let pcm = PCM::open(&text, Direction::Capture, true).map_err(at("opening"))?;
        let (sample, channels, rate) = negotiate(&pcm).map_err(at("choosing a format"))?;
        software(&pcm).map_err(at("asking for time stamps"))?;
        pcm.prepare().map_err(at("preparing"))?;
        pcm.start().map_err(at("starting"))?;
        let width = if sample == Sample::S16 { 2 } else { 4 };
        let bytes = vec![0; (rate / READS) as usize * channels * width];
        Ok(Self { pcm, sample, channels, rate, bytes })
    }

    /// What was negotiated, for people.
    pub(super) fn mode(&self) -> String {
        format!("{} Hz, {} channel(s), {:?}", self.rate, self.channels, self.sample)
    }
}

/// Format, channels and rate; of each the best that the card has.
fn negotiate(pcm: &PCM) -> alsa::Result<(Sample, usize, u32)> {
    let hw = HwParams::any(pcm)?;
    hw.set_access(Access::RWInterleaved)?;
    let (sample, format) = FORMATS
        .into_iter()
        .find(|(_, format)| hw.test_format(*format).is_ok())
        .ok_or_else(|| alsa::Error::unsupported("format"))?;
    hw.set_format(format)?;
    let channels = (1..=MAX_CHANNELS)
        .find(|&n| hw.test_channels(n).is_ok())
        .ok_or_else(|| alsa::Error::unsupported("channels"))?;
    hw.set_channels(channels)?;
    match RATES.into_iter().find(|&rate| hw.test_rate(rate).is_ok()) {
        Some(rate) => hw.set_rate(rate, ValueOr::Nearest)?,
        None => _ = hw.set_rate_near(48_000, ValueOr::Nearest)?,
    }
    hw.set_period_time_near(PERIOD_MICROS, ValueOr::Nearest)?;
    hw.set_buffer_time_near(BUFFER_MICROS, ValueOr::Nearest)?;
    pcm.hw_params(&hw)?;
    Ok((sample, channels as usize, hw.get_rate()?))
}

/// Time stamps on the monotonic clock, and a start only when we say so.
fn software(pcm: &PCM) -> alsa::Result<()> {
    let sw = pcm.sw_params_current()?;
    sw.set_start_threshold(sw.get_boundary()?)?;
    sw.set_avail_min(pcm.hw_params_current()?.get_period_size()?)?;
    sw.set_tstamp_mode(true)?;
    // Some plugins have no choice of clock; a stamp that is off is noticed later.
    let _ = sw.set_tstamp_type(TstampType::Monotonic);
    pcm.sw_params(&sw)
}

fn errno(error: alsa::Error) -> Errno {
    error.errno().abs()
}

fn count(frames: Frames) -> u64 {
    u64::try_from(frames).unwrap_or(0)
}

impl Pcm for Card {
    fn rate(&self) -> u32 {
        self.rate
    }

    fn wait(&mut self, timeout: Duration) -> Result<bool, Errno> {
        let millis = u32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX);
        self.pcm.wait(Some(millis)).map_err(errno)
    }

    fn status(&mut self) -> Result<Status, Errno> {
        let status = self.pcm.status().map_err(errno)?;
        match self.pcm.state() {
            State::Disconnected => return Err(libc::ENODEV),
            State::Suspended => return Err(libc::ESTRPIPE),
            _ => {}
        }
        let stamp = status.get_htstamp();
        #[allow(clippy::useless_conversion, reason = "time_t and c_long are 32 bits wide on armv7")]
        let stamp = i64::from(stamp.tv_sec) * 1_000_000_000 + i64::from(stamp.tv_nsec);
        Ok(Status {
            overrun: status.get_state() == State::XRun,
            waiting: count(status.get_avail()),
            delay: count(status.get_delay()),
            stamp,
        })
    }

    fn read(&mut self, out: &mut [f32]) -> Result<usize, Errno> {
        let width = if self.sample == Sample::S16 { 2 } else { 4 };
        let frame = width * self.channels;
        let wanted = (out.len() * frame).min(self.bytes.len());
        // One at a time, as the library wants it.
        let io = self.pcm.io_bytes();
        let frames = io.readi(&mut self.bytes[..wanted]).map_err(errno)?;
        let bytes = &self.bytes[..frames.min(out.len()) * frame];
        match self.sample {
            Sample::S16 => {
                mix(bytes, self.channels, out, |b: [u8; 2]| f32::from(i16::from_le_bytes(b)) / 32_768.0)
            }
            Sample::S32 => {
                mix(bytes, self.channels, out, |b: [u8; 4]| i32::from_le_bytes(b) as f32 / 2_147_483_648.0);
            }
            Sample::F32 => mix(bytes, self.channels, out, f32::from_le_bytes),
        }
        Ok(bytes.len() / frame)
    }

    fn restart(&mut self) -> Result<(), Errno> {
        let _quiet = Quiet::new();
        self.pcm.prepare().map_err(errno)?;
        self.pcm.start().map_err(errno)
    }

    fn resume(&mut self) -> Result<(), Errno> {
        self.pcm.resume().map_err(errno)
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        self.bytes.fill(0);
    }
}

/// Mean of the channels; a value that is no number counts as silence.
fn mix<const N: usize>(bytes: &[u8], channels: usize, out: &mut [f32], value: impl Fn([u8; N]) -> f32) {
    let samples = bytes.as_chunks::<N>().0;
    for (out, frame) in out.iter_mut().zip(samples.chunks_exact(channels)) {
        let sum: f32 = frame
            .iter()
            .map(|&b| value(b))
            .map(|v| if v.is_finite() { v.clamp(-1.0, 1.0) } else { 0.0 })
            .sum();
        *out = sum / channels as f32;
    }
}

/// While it lives, what the library would print to standard error on this thread is kept from there: our own error
/// says it once.
pub(super) struct Quiet(Option<Rc<RefCell<Output>>>);

impl Quiet {
    pub(super) fn new() -> Self {
        Self(Output::local_error_handler().ok())
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // What was caught is let go: a fresh, empty buffer takes its place.
        if self.0.take().is_some() {
            let _ = Output::local_error_handler();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_tells_what_it_can() {
        // ALSA's own device for nothing can do everything.
        let offer = Offer::ask("null").unwrap();
        assert!(["S16_LE", "S24_3LE", "FLOAT_LE"].iter().all(|f| offer.formats.iter().any(|o| o == f)));
        assert_eq!((offer.channels.0, &offer.rates[..]), (1, &USUAL_RATES[..]));
        assert!(Offer::ask("hw:CARD=none").is_err());
    }

    #[test]
    fn every_format_is_mixed_to_the_same_value() {
        let mut out = [0.0f32; 2];
        let stereo: Vec<u8> =
            [16_384i16, -16_384, 8_192, 8_192].iter().flat_map(|v| v.to_le_bytes()).collect();
        mix(&stereo, 2, &mut out, |b: [u8; 2]| f32::from(i16::from_le_bytes(b)) / 32_768.0);
        assert_eq!(out, [0.0, 0.25]);
        let mono: Vec<u8> = [i32::MIN, 1 << 29].iter().flat_map(|v| v.to_le_bytes()).collect();
        mix(&mono, 1, &mut out, |b: [u8; 4]| i32::from_le_bytes(b) as f32 / 2_147_483_648.0);
        assert_eq!(out, [-1.0, 0.25]);
        let floats: Vec<u8> = [f32::NAN, 3.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        mix(&floats, 1, &mut out, f32::from_le_bytes);
        assert_eq!(out, [0.0, 1.0]);
    }
}
