//! Real-time replay of a recording: data come out when the clock says so, not when the decoder is ready.
//!
//! A frame is released at `epoch + time`; a block when its last sample would have been captured. Nothing is dropped
//! here and time stamps stay the clip's own, so the position on the timeline is `clock.now() − epoch`.

use std::{sync::Arc, time::Duration};

use super::{AudioSource, Block, Frame, Read, SourceError, VideoSource};
use crate::{
    clock::{Clock, MonoTime},
    timeline::FrameChoice,
};

/// A recording played in real time. `T` is what it delivers, [`Frame`] or [`Block`].
pub struct Paced<S, T> {
    inner: S,
    clock: Arc<dyn Clock>,
    epoch: MonoTime,
    /// Read ahead by one; valid when `waiting`.
    next: T,
    waiting: bool,
}

impl<S, T: Default> Paced<S, T> {
    /// Plays `inner` so that its time 0 is at `epoch` on `clock`.
    pub fn new(inner: S, clock: Arc<dyn Clock>, epoch: MonoTime) -> Self {
        Self { inner, clock, epoch, next: T::default(), waiting: false }
    }

    /// Reads ahead, waits until `due(next)` but at most `timeout`, then swaps it out.
    fn deliver(
        &mut self,
        out: &mut T,
        timeout: Duration,
        read: impl FnOnce(&mut S, &mut T) -> Result<Read, SourceError>,
        due: impl FnOnce(&T) -> MonoTime,
    ) -> Result<Read, SourceError> {
        let deadline = self.clock.now() + timeout;
        if !self.waiting {
            match read(&mut self.inner, &mut self.next)? {
                Read::Data => self.waiting = true,
                other => return Ok(other),
            }
        }
        let due = MonoTime(due(&self.next).0.saturating_add(self.epoch.0));
        self.clock.sleep_until(due.min(deadline));
        if self.clock.now() < due {
            return Ok(Read::Timeout);
        }
        self.waiting = false;
        std::mem::swap(out, &mut self.next);
        Ok(Read::Data)
    }
}

impl<S: VideoSource> VideoSource for Paced<S, Frame> {
    fn describe(&self) -> &str {
        self.inner.describe()
    }
    fn read(&mut self, out: &mut Frame, timeout: Duration) -> Result<Read, SourceError> {
        self.deliver(out, timeout, |s, next| s.read(next, timeout), |frame| frame.time)
    }
    fn choose(&mut self, choice: FrameChoice) {
        self.inner.choose(choice);
    }
    fn warning(&self) -> Option<&str> {
        self.inner.warning()
    }
}

impl<S: AudioSource> AudioSource for Paced<S, Block> {
    fn describe(&self) -> &str {
        self.inner.describe()
    }
    fn read(&mut self, out: &mut Block, timeout: Duration) -> Result<Read, SourceError> {
        self.deliver(out, timeout, |s, next| s.read(next, timeout), Block::end)
    }
    fn warning(&self) -> Option<&str> {
        self.inner.warning()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::SimClock, source::y4m};

    #[test]
    fn frames_come_when_they_are_due() {
        let file = y4m::tests::y4m("W2 H2 F10:1 Cmono", 4, 3);
        let inner = y4m::Y4mSource::new("clip".to_owned(), &file[..]).unwrap();
        let clock = Arc::new(SimClock::new(MonoTime(5_000_000_000)));
        let mut source: Paced<_, Frame> = Paced::new(inner, clock.clone(), MonoTime(5_000_000_000));
        let mut frame = Frame::new();
        let mut read = |ms| source.read(&mut frame, Duration::from_millis(ms)).unwrap();
        assert_eq!(read(0), Read::Data);
        assert_eq!(read(60), Read::Timeout);
        assert_eq!(clock.now(), MonoTime(5_060_000_000));
        assert_eq!(read(60), Read::Data);
        assert_eq!(clock.now(), MonoTime(5_100_000_000));
        // A late reader gets everything, at once.
        clock.advance(Duration::from_secs(9));
        assert_eq!(read(0), Read::Data);
        assert_eq!(read(0), Read::End);
    }
}
