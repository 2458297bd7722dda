//! Do picture and sound arrive together? Flashes and clicks that belong together, and the time between them.
//!
//! Camera and sound card each take their own time before they stamp what they deliver, and nobody tells how long. A
//! video of flashes with beeps, played in front of the board, shows the difference. Only the times are kept.

use std::{fmt, time::Duration};

use super::{Block, Frame, SAMPLE_RATE};
use crate::clock::MonoTime;

/// Most onsets that are kept of either.
const MAX_ONSETS: usize = 256;
/// After an onset nothing counts for so long: echoes, and the light going off again.
const REFRACTORY: Duration = Duration::from_millis(300);
/// A flash makes the picture so much brighter from one frame to the next, of the whole range.
const FLASH: f64 = 0.12;
/// A click is so loud, of full scale, and so many times louder than what was heard before.
const CLICK: f64 = 0.05;
const CLICK_OVER_NOISE: f64 = 8.0;
/// What was heard before is forgotten in about a second.
const NOISE_KEPT: f64 = 1.0 - 1.0 / SAMPLE_RATE as f64;
/// A flash and a click farther apart do not belong together.
const REACH: Duration = Duration::from_millis(400);

/// Moments at which something began.
#[derive(Debug, Default)]
pub struct Onsets(Vec<MonoTime>);

impl Onsets {
    fn add(&mut self, at: MonoTime) {
        let clear = self.0.last().is_none_or(|&last| at >= last + REFRACTORY);
        if clear && self.0.len() < MAX_ONSETS {
            self.0.push(at);
        }
    }
}

/// Finds flashes of light.
#[derive(Debug, Default)]
pub struct FlashMeter {
    light: Option<f64>,
    last: Option<MonoTime>,
    shortest: Option<Duration>,
    flashes: Onsets,
}

impl FlashMeter {
    /// Takes the next frame.
    pub fn add(&mut self, frame: &Frame) {
        let sum: u64 = frame.rgb().iter().map(|&v| u64::from(v)).sum();
        let light = sum as f64 / (frame.rgb().len() as f64 * 255.0);
        if self.light.is_some_and(|before| light > before + FLASH) {
            self.flashes.add(frame.time);
        }
        if let Some(last) = self.last {
            let step = Duration::from_nanos(u64::try_from(frame.time.since(last)).unwrap_or(0));
            self.shortest = Some(self.shortest.map_or(step, |shortest| shortest.min(step)));
        }
        (self.light, self.last) = (Some(light), Some(frame.time));
    }
}

/// Finds clicks and beeps.
#[derive(Debug, Default)]
pub struct ClickMeter {
    noise: f64,
    clicks: Onsets,
}

impl ClickMeter {
    /// Takes the next block.
    pub fn add(&mut self, block: &Block) {
        for (i, &sample) in block.samples().iter().enumerate() {
            let level = f64::from(sample).abs() / 32_768.0;
            if level > CLICK && level > CLICK_OVER_NOISE * self.noise {
                let nanos = i as u64 * 1_000_000_000 / u64::from(SAMPLE_RATE);
                self.clicks.add(block.time + Duration::from_nanos(nanos));
            }
            self.noise = self.noise * NOISE_KEPT + level * (1.0 - NOISE_KEPT);
        }
    }
}

/// What flashes and clicks say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SyncReading {
    /// Flashes, clicks, and pairs of them.
    pub found: (usize, usize, usize),
    /// Time by which the sound comes after the picture, in milliseconds: median, least, most; of the pairs.
    pub sound_after_picture_ms: Option<(f64, f64, f64)>,
    /// Between two frames: what is shorter cannot be seen.
    pub frame_ms: Option<f64>,
}

impl SyncReading {
    /// Pairs each flash with the nearest click.
    #[must_use]
    pub fn of(flash: &FlashMeter, click: &ClickMeter) -> Self {
        let (flashes, clicks) = (&flash.flashes.0, &click.clicks.0);
        let nearest = |f: &MonoTime| clicks.iter().map(|c| c.since(*f)).min_by_key(|d| d.unsigned_abs());
        let reach = REACH.as_nanos();
        let mut apart: Vec<i64> =
            flashes.iter().filter_map(nearest).filter(|d| u128::from(d.unsigned_abs()) <= reach).collect();
        apart.sort_unstable();
        let ms = |i: usize| apart[i] as f64 / 1e6;
        Self {
            found: (flashes.len(), clicks.len(), apart.len()),
            sound_after_picture_ms: (!apart.is_empty())
                .then(|| (ms(apart.len() / 2), ms(0), ms(apart.len() - 1))),
            frame_ms: flash.shortest.map(|d| d.as_secs_f64() * 1e3),
        }
    }
}

impl fmt::Display for SyncReading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (flashes, clicks, pairs) = self.found;
        match self.sound_after_picture_ms {
            Some((median, least, most)) => {
                write!(
                    f,
                    "sound {median:+.1} ms after the picture (median of {pairs} flashes with a click, "
                )?;
                write!(f, "{least:+.1} to {most:+.1}")?;
                if let Some(frame) = self.frame_ms {
                    write!(f, "; a frame every {frame:.1} ms")?;
                }
                f.write_str(")")
            }
            None => write!(f, "{flashes} flashes and {clicks} clicks, none together: play a sync-test video"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    /// Frames every 40 ms, bright for 120 ms at each of `flashes`.
    fn see(flashes: &[i64]) -> FlashMeter {
        let (mut meter, mut frame) = (FlashMeter::default(), Frame::new());
        for n in 0..100 {
            let at = n * 40_000_000;
            let bright = flashes.iter().any(|&f| at >= f && at < f + 120_000_000);
            frame.rgb_mut().fill(if bright { 230 } else { 40 + u8::try_from(n % 5).unwrap() });
            frame.time = MonoTime(at);
            meter.add(&frame);
        }
        meter
    }

    /// Noise of 1 % and a decaying click at each of `clicks`.
    fn hear(clicks: &[i64]) -> ClickMeter {
        let (mut meter, mut block) = (ClickMeter::default(), Block::new());
        for n in 0..400i64 {
            let start = n * SECOND / 100;
            block.time = MonoTime(start);
            let samples = block.samples_mut();
            samples.clear();
            for i in 0..160i64 {
                let at = start + i * SECOND / 16_000;
                let noise = i16::try_from(i * 7_919 % 655 - 327).unwrap();
                let ring = clicks.iter().find(|&&c| at >= c && at < c + 20_000_000);
                // Halves every 5 ms.
                let click = ring.map_or(0, |c| 16_000 >> ((at - c) / 5_000_000));
                let _ = samples.push(noise + click);
            }
            meter.add(&block);
        }
        meter
    }

    #[test]
    fn the_distance_of_pairs_is_measured_with_its_sign() {
        let flashes = [SECOND, 2 * SECOND, 3 * SECOND];
        for late in [-100_000_000, 0, 35_000_000] {
            let reading = SyncReading::of(&see(&flashes), &hear(&flashes.map(|f| f + late)));
            assert_eq!(reading.found, (3, 3, 3));
            let (median, least, most) = reading.sound_after_picture_ms.unwrap();
            let expected = late as f64 / 1e6;
            assert!((median - expected).abs() < 0.1 && most - least < 0.1, "{late}: {reading}");
            assert_eq!(reading.frame_ms, Some(40.0));
        }
    }

    #[test]
    fn what_is_far_apart_is_no_pair() {
        let reading = SyncReading::of(&see(&[SECOND]), &hear(&[3 * SECOND]));
        assert_eq!((reading.found, reading.sound_after_picture_ms), ((1, 1, 0), None));
        assert_eq!(SyncReading::of(&FlashMeter::default(), &ClickMeter::default()).found, (0, 0, 0));
    }
}
