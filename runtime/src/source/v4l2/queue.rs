//! The capture queue: buffers go to the driver, come back filled, and go again.
//!
//! Every wait has an end, a signal never shows, and each error has one meaning: lost, busy, unusable or failed. Frames
//! that the driver flags as damaged or leaves empty go straight back and count as lost.

use std::{io, sync::Arc, time::Duration};

use super::node::{BUFFER_PLANES, Device, Ready};
use crate::{
    clock::{Clock, MonoTime},
    source::{SourceError, SourceErrorKind},
};

/// Buffers asked for: one with us, one being filled, two for when we are late.
const BUFFERS: u32 = 4;

/// A buffer that is ours until it is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) index: u32,
    pub(super) time: MonoTime,
    /// Frames lost just before it.
    pub(super) dropped_before: u32,
    /// Bytes used of each memory plane.
    pub(super) used: [usize; BUFFER_PLANES],
}

/// A stamp further from the clock than this is nonsense.
const PLAUSIBLE: Duration = Duration::from_secs(5);

pub(super) struct Queue<D: Device> {
    device: D,
    name: String,
    clock: Arc<dyn Clock>,
    buffers: u32,
    last_sequence: Option<u32>,
    /// Lost since the last frame handed out.
    lost: u32,
    stamps_are_wrong: bool,
}

impl<D: Device> Queue<D> {
    /// Takes buffers and starts streaming. The format is set already.
    pub(super) fn start(mut device: D, name: &str, clock: Arc<dyn Clock>) -> Result<Self, SourceError> {
        let failed = |doing: &str, e: &io::Error| fault(name, doing, e);
        let buffers = device.request(BUFFERS).map_err(|e| failed("buffers", &e))?.min(BUFFERS);
        if buffers < 2 {
            return Err(SourceError::new(
                SourceErrorKind::Failed,
                format!("{name}: the driver gives {buffers} buffers, two are needed"),
            ));
        }
        for index in 0..buffers {
            device.map(index).map_err(|e| failed("mapping a buffer", &e))?;
        }
        for index in 0..buffers {
            device.enqueue(index).map_err(|e| failed("queueing a buffer", &e))?;
        }
        device.stream(true).map_err(|e| failed("starting the stream", &e))?;
        let name = name.to_owned();
        Ok(Self { device, name, clock, buffers, last_sequence: None, lost: 0, stamps_are_wrong: false })
    }

    /// The next good frame; `None` after `timeout`.
    pub(super) fn next(&mut self, timeout: Duration) -> Result<Option<Held>, SourceError> {
        let deadline = self.clock.now() + timeout;
        loop {
            let left = u64::try_from(deadline.since(self.clock.now())).unwrap_or(0);
            match self.device.wait(Duration::from_nanos(left)) {
                Ok(Ready::Timeout) => return Ok(None),
                Ok(Ready::Frame) => {}
                // Dequeuing tells what is wrong; if it does not, the error stands for itself.
                Ok(Ready::Error) => {
                    let error = match self.device.dequeue() {
                        Err(e) if e.kind() != io::ErrorKind::WouldBlock => e,
                        _ => io::Error::from_raw_os_error(libc::EIO),
                    };
                    return Err(self.fault("capturing", &error));
                }
                Ok(Ready::Changed) => {
                    let what = format!("{}: the signal has another format now; opening it again", self.name);
                    return Err(SourceError::new(SourceErrorKind::Lost, what));
                }
                Ok(Ready::Gone) => {
                    return Err(self.fault("capturing", &io::Error::from_raw_os_error(libc::ENODEV)));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                    if left == 0 {
                        return Ok(None);
                    }
                    continue;
                }
                Err(e) => return Err(self.fault("waiting", &e)),
            }
            if let Some(held) = self.take()? {
                return Ok(Some(held));
            }
            if self.clock.now() >= deadline {
                return Ok(None);
            }
        }
    }

    /// Dequeues one buffer; `None` if there was none or it was not worth handing on.
    fn take(&mut self) -> Result<Option<Held>, SourceError> {
        let filled = match self.device.dequeue() {
            Ok(filled) => filled,
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(None);
            }
            Err(e) => return Err(self.fault("capturing", &e)),
        };
        if filled.index >= self.buffers {
            return Err(SourceError::new(
                SourceErrorKind::Failed,
                format!("{}: the driver gives back a buffer that was never queued", self.name),
            ));
        }
        self.lost = self.lost.saturating_add(gap(self.last_sequence, filled.sequence));
        self.last_sequence = Some(filled.sequence);
        if filled.error || filled.used[0] == 0 {
            self.lost = self.lost.saturating_add(1);
            self.release(filled.index)?;
            return Ok(None);
        }
        let time = self.stamp(filled.monotonic);
        let dropped_before = std::mem::take(&mut self.lost);
        Ok(Some(Held { index: filled.index, time, dropped_before, used: filled.used }))
    }

    /// The driver's stamp if it is on our clock, else the time of arrival.
    fn stamp(&mut self, monotonic: Option<i64>) -> MonoTime {
        let now = self.clock.now();
        let plausible =
            monotonic.filter(|&t| u128::from(now.since(MonoTime(t)).unsigned_abs()) <= PLAUSIBLE.as_nanos());
        if plausible.is_none() && !self.stamps_are_wrong {
            self.stamps_are_wrong = true;
            tracing::warn!(camera = self.name, "no monotonic time stamps: the time of arrival is used");
        }
        plausible.map_or(now, MonoTime)
    }

    /// The memory planes of a held buffer.
    pub(super) fn planes(&mut self, held: &Held) -> [&mut [u8]; BUFFER_PLANES] {
        self.device.planes(held.index)
    }

    /// Gives a buffer back to the driver.
    pub(super) fn release(&mut self, index: u32) -> Result<(), SourceError> {
        match self.device.enqueue(index) {
            Ok(()) => Ok(()),
            Err(e) => Err(self.fault("queueing a buffer", &e)),
        }
    }

    fn fault(&self, doing: &str, error: &io::Error) -> SourceError {
        fault(&self.name, doing, error)
    }
}

impl<D: Device> Drop for Queue<D> {
    fn drop(&mut self) {
        // An error means that the device is gone, and with it the stream.
        let _ = self.device.stream(false);
    }
}

/// Frames missing between two sequence numbers. Drivers that do not count, or count anew, lose none.
fn gap(last: Option<u32>, sequence: u32) -> u32 {
    let Some(last) = last else { return 0 };
    let missing = sequence.wrapping_sub(last).wrapping_sub(1);
    if missing > u32::MAX / 2 { 0 } else { missing }
}

/// What a kernel error means for a camera.
pub(super) fn fault(name: &str, doing: &str, error: &io::Error) -> SourceError {
    let (kind, help) = match error.raw_os_error() {
        Some(libc::ENODEV | libc::ENXIO | libc::ENOENT) => (SourceErrorKind::Lost, None),
        Some(libc::EBUSY) => {
            (SourceErrorKind::Busy, Some("another program uses the camera; girasol takes it when it is free"))
        }
        Some(libc::EACCES | libc::EPERM) => {
            (SourceErrorKind::Failed, Some("the user that runs girasol must be in the group `video`"))
        }
        Some(libc::EINVAL | libc::ENOTTY) => {
            (SourceErrorKind::Unsupported, Some("`girasol devices` lists what can be used"))
        }
        Some(libc::ENOSPC) => (
            SourceErrorKind::Failed,
            Some("the USB bus is full: another port, or a smaller camera.width and camera.height, may help"),
        ),
        _ => (SourceErrorKind::Failed, None),
    };
    let what = match kind {
        SourceErrorKind::Lost => format!("{name}: the camera is gone"),
        _ => format!("{name}: {doing}: {error}"),
    };
    let fault = SourceError::new(kind, what);
    match help {
        Some(help) => fault.help(help),
        None => fault,
    }
}
