//! Live microphones by ALSA: any card that captures 16 or 32 bit integers or floats, resampled to 16 kHz mono.
//!
//! [`pcm`] calls the library, [`discover`] finds microphones and their stable names. The time of each block comes from
//! the driver's time stamp and the frames that wait at that instant. After an overrun or a suspend the stream is started
//! again (without that it would be silent for ever) and the next block says that sound was lost before it.

mod discover;
mod pcm;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use self::pcm::{Card, Errno, Pcm};
pub use self::{
    discover::{MicrophoneInfo, find, microphones},
    pcm::Offer,
};
use super::{AudioSource, BLOCK_CAPACITY, Block, Read, SAMPLE_RATE, SourceError, SourceErrorKind};
use crate::{
    clock::{Clock, MonoTime},
    frontend::resample::Resampler,
};

/// A stamp further from the clock than this is nonsense.
const PLAUSIBLE_NANOS: u64 = 5_000_000_000;
/// After a suspend the hardware gets so many reads to come back.
const MAX_RESUMES: u32 = 100;

/// How a microphone is to be used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MicrophoneSettings {
    /// ALSA's name, like `hw:CARD=C920,DEV=0` or `plughw:CARD=C920`; empty: the first microphone.
    pub device: String,
}

/// An open microphone.
pub struct Microphone(Capture<Card>);

impl Microphone {
    /// Finds, opens, negotiates and starts.
    ///
    /// # Errors
    /// There is no such microphone, or somebody else captures from it.
    pub fn open(settings: &MicrophoneSettings, clock: Arc<dyn Clock>) -> Result<Self, SourceError> {
        let name = find(&settings.device)?;
        let card = match Card::open(&name) {
            // Formats that we do not read (24 bits in three bytes) are converted by ALSA's own plugin.
            Err((libc::EINVAL | libc::ENOTSUP, _)) if name.starts_with("hw:") => {
                Card::open(&format!("plug{name}"))
            }
            other => other,
        };
        let card = card.map_err(|(errno, doing)| fault(&name, doing, errno))?;
        let mode = card.mode();
        tracing::info!(microphone = name, mode, "microphone open");
        Capture::new(card, name, mode, clock).map(Self)
    }

    /// What was negotiated, for people: "48000 Hz, 2 channel(s), S16".
    #[must_use]
    pub fn mode(&self) -> &str {
        &self.0.mode
    }
}

impl AudioSource for Microphone {
    fn describe(&self) -> &str {
        &self.0.name
    }
    fn read(&mut self, out: &mut Block, timeout: Duration) -> Result<Read, SourceError> {
        self.0.read(out, timeout)
    }
}

/// A capturing card, its resampler and its place on the timeline.
struct Capture<P: Pcm> {
    name: String,
    mode: String,
    pcm: P,
    clock: Arc<dyn Clock>,
    resampler: Resampler,
    input: Vec<f32>,
    /// Frames read and samples made since the resampler was new.
    frames: u64,
    samples: u64,
    /// Sound was lost before what comes next.
    lost: bool,
    resumes: u32,
    overruns: u64,
    stamps_are_wrong: bool,
}

impl<P: Pcm> Capture<P> {
    fn new(pcm: P, name: String, mode: String, clock: Arc<dyn Clock>) -> Result<Self, SourceError> {
        let rate = pcm.rate();
        let resampler = Resampler::new(rate).ok_or_else(|| {
            SourceError::new(SourceErrorKind::Unsupported, format!("{name}: {rate} Hz cannot be resampled"))
                .help("8000 to 192000 Hz can")
        })?;
        // Half a block at a time: what waits in the resampler may come on top.
        const { assert!(SAMPLE_RATE as usize / pcm::READS as usize == BLOCK_CAPACITY / 2) };
        let frames = (rate / pcm::READS) as usize;
        Ok(Self {
            name,
            mode,
            pcm,
            clock,
            resampler,
            input: vec![0.0; frames],
            frames: 0,
            samples: 0,
            lost: false,
            resumes: 0,
            overruns: 0,
            stamps_are_wrong: false,
        })
    }

    fn read(&mut self, out: &mut Block, timeout: Duration) -> Result<Read, SourceError> {
        let deadline = self.clock.now() + timeout;
        loop {
            match self.attempt(out, deadline) {
                Ok(true) => return Ok(Read::Data),
                Ok(false) => {}
                Err(errno) => {
                    if let Some(read) = self.recover(errno)? {
                        return Ok(read);
                    }
                }
            }
            if self.clock.now() >= deadline {
                return Ok(Read::Timeout);
            }
        }
    }

    /// Waits and reads once; true if it brought samples.
    fn attempt(&mut self, out: &mut Block, deadline: MonoTime) -> Result<bool, Errno> {
        let left = u64::try_from(deadline.since(self.clock.now())).unwrap_or(0);
        if !self.pcm.wait(Duration::from_nanos(left))? {
            return Ok(false);
        }
        let status = self.pcm.status()?;
        if status.overrun {
            return Err(libc::EPIPE);
        }
        let count = self.pcm.read(&mut self.input)?;
        if count == 0 {
            return Ok(false);
        }
        self.resumes = 0;
        let first = self.time_of_oldest(&status);
        let rate = u64::from(self.pcm.rate());
        // The first sample made now stands so far from the first frame read now; before it, while the filter's second
        // half is still to come.
        let offset = nanos(self.samples, u64::from(SAMPLE_RATE)) - nanos(self.frames, rate);
        let samples = out.samples_mut();
        samples.clear();
        self.resampler.process(&self.input[..count], |sample| _ = samples.push(sample));
        self.frames += count as u64;
        self.samples += samples.len() as u64;
        if samples.is_empty() {
            return Ok(false);
        }
        out.time = MonoTime(first.0.saturating_add(offset));
        out.discontinuity = std::mem::take(&mut self.lost);
        Ok(true)
    }

    /// When the oldest waiting frame was captured.
    fn time_of_oldest(&mut self, status: &pcm::Status) -> MonoTime {
        let now = self.clock.now();
        let rate = u64::from(self.pcm.rate());
        let plausible =
            status.stamp != 0 && now.since(MonoTime(status.stamp)).unsigned_abs() <= PLAUSIBLE_NANOS;
        if plausible {
            return MonoTime(status.stamp - nanos(status.waiting, rate));
        }
        if !self.stamps_are_wrong {
            self.stamps_are_wrong = true;
            tracing::warn!(microphone = self.name, "no monotonic time stamps: the time of reading is used");
        }
        MonoTime(now.0 - nanos(status.delay.max(status.waiting), rate))
    }

    /// Starts the stream again where that is possible; what the read brought then.
    fn recover(&mut self, errno: Errno) -> Result<Option<Read>, SourceError> {
        match errno {
            libc::EINTR => Ok(None),
            libc::EAGAIN => Ok(Some(Read::Timeout)),
            libc::EPIPE => {
                self.overruns += 1;
                let (microphone, overruns) = (&self.name, self.overruns);
                // A board that is always late must not fill its log with them.
                if overruns.is_power_of_two() {
                    tracing::warn!(microphone, overruns, "overrun: sound was lost");
                } else {
                    tracing::debug!(microphone, overruns, "overrun: sound was lost");
                }
                self.pcm.restart().map_err(|e| fault(&self.name, "starting again after an overrun", e))?;
                self.start_anew();
                Ok(Some(Read::Timeout))
            }
            libc::ESTRPIPE => {
                self.resumes += 1;
                match self.pcm.resume() {
                    Ok(()) => {}
                    Err(libc::EAGAIN) if self.resumes < MAX_RESUMES => return Ok(Some(Read::Timeout)),
                    // Hardware that cannot resume is started from the beginning.
                    Err(_) => self
                        .pcm
                        .restart()
                        .map_err(|e| fault(&self.name, "starting again after a suspend", e))?,
                }
                tracing::info!(microphone = self.name, "awake again after a suspend");
                self.start_anew();
                Ok(Some(Read::Timeout))
            }
            errno => Err(fault(&self.name, "capturing", errno)),
        }
    }

    /// What comes next does not follow what came before.
    fn start_anew(&mut self) {
        if let Some(resampler) = Resampler::new(self.pcm.rate()) {
            self.resampler = resampler;
        }
        (self.frames, self.samples, self.lost) = (0, 0, true);
    }
}

impl<P: Pcm> Drop for Capture<P> {
    fn drop(&mut self) {
        self.input.fill(0.0);
    }
}

/// Duration of so many units of 1/`rate` s in nanoseconds; exact for centuries.
fn nanos(count: u64, rate: u64) -> i64 {
    let whole = (count / rate).saturating_mul(1_000_000_000);
    i64::try_from(whole + count % rate * 1_000_000_000 / rate).unwrap_or(i64::MAX)
}

/// What an ALSA error means for a microphone.
fn fault(name: &str, doing: &str, errno: Errno) -> SourceError {
    let error = std::io::Error::from_raw_os_error(errno);
    let (kind, help) = match errno {
        libc::ENODEV | libc::ENXIO | libc::ENOENT | libc::EBADFD => (SourceErrorKind::Lost, None),
        libc::EBUSY => (
            SourceErrorKind::Busy,
            Some("another program captures from it; girasol takes it when it is free"),
        ),
        libc::EACCES | libc::EPERM => {
            (SourceErrorKind::Failed, Some("the user that runs girasol must be in the group `audio`"))
        }
        libc::EINVAL | libc::ENOTSUP => {
            (SourceErrorKind::Unsupported, Some("try the same name with `plughw:` instead of `hw:`"))
        }
        _ => (SourceErrorKind::Failed, None),
    };
    let what = match kind {
        SourceErrorKind::Lost => format!("{name}: the microphone is gone"),
        _ => format!("{name}: {doing}: {error}"),
    };
    let fault = SourceError::new(kind, what);
    match help {
        Some(help) => fault.help(help),
        None => fault,
    }
}
