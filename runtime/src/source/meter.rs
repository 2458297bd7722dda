//! Is the microphone really hearing and the camera really seeing? Numbers about the signal, never the signal.
//!
//! [`SoundMeter`] and [`PictureMeter`] take media as it comes, keep sums, and give a verdict in words. Thresholds are
//! deliberately wide: a verdict other than "good" is meant to be certain.

use std::fmt;

use super::{Block, FRAME_HEIGHT, FRAME_WIDTH, Frame, SAMPLE_RATE};

/// Mains frequencies and the overtones of each that are looked at.
const MAINS: [f64; 2] = [50.0, 60.0];
const OVERTONES: usize = 4;
/// Full scale of a sample.
const FULL: f64 = 32_768.0;

/// Measures the level and the faults of a microphone's signal.
pub struct SoundMeter {
    samples: u64,
    sum: f64,
    squares: f64,
    peak: i32,
    clipped: u64,
    /// Goertzel states of the mains' overtones.
    tones: [[Tone; OVERTONES]; 2],
}

/// The power at one frequency, by Goertzel's recurrence.
#[derive(Clone, Copy)]
struct Tone {
    factor: f64,
    s1: f64,
    s2: f64,
}

impl Tone {
    fn new(frequency: f64) -> Self {
        let w = std::f64::consts::TAU * frequency / f64::from(SAMPLE_RATE);
        Self { factor: 2.0 * w.cos(), s1: 0.0, s2: 0.0 }
    }

    fn add(&mut self, x: f64) {
        let s = x + self.factor * self.s1 - self.s2;
        (self.s2, self.s1) = (self.s1, s);
    }

    /// Mean square of the sine at this frequency.
    fn power(&self, samples: f64) -> f64 {
        let magnitude = self.s1 * self.s1 + self.s2 * self.s2 - self.factor * self.s1 * self.s2;
        2.0 * magnitude / (samples * samples)
    }
}

/// What a [`SoundMeter`] found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SoundReading {
    /// Seconds measured.
    pub seconds: f64,
    /// Root mean square without the offset, in dB below full scale.
    pub level_db: f64,
    /// Largest sample, in dB below full scale.
    pub peak_db: f64,
    /// Mean, as a share of full scale.
    pub offset: f64,
    /// Share of samples at full scale.
    pub clipped: f64,
    /// Share of the power at multiples of 50 or 60 Hz, whichever is larger.
    pub hum: f64,
    /// What to make of it.
    pub verdict: SoundVerdict,
}

/// What to make of a microphone's signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoundVerdict {
    /// Nothing was measured.
    Nothing,
    /// It looks like sound.
    Good,
    /// Exactly zero, or nothing above the converter's last bits: muted, or no microphone in the socket.
    Silent,
    /// Samples at full scale: the gain is too high.
    Clipped,
    /// A large constant offset: a fault of the sound card.
    Offset,
    /// Mostly mains hum: a cable or the supply.
    Hum,
}

impl fmt::Display for SoundVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing was heard in time",
            Self::Good => "good",
            Self::Silent => "silent: is it muted, its gain at zero, or the plug out? (alsamixer, F4)",
            Self::Clipped => "clipped: lower the capture gain (alsamixer, F4)",
            Self::Offset => "a constant offset: try another sound card or port",
            Self::Hum => "mostly mains hum: check cable, ground and power supply",
        })
    }
}

impl fmt::Display for SoundReading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "level {:.0} dB, peak {:.0} dB, clipped {:.2} %, offset {:.2} %, hum {:.0} %: {}",
            self.level_db,
            self.peak_db,
            self.clipped * 100.0,
            self.offset * 100.0,
            self.hum * 100.0,
            self.verdict
        )
    }
}

impl Default for SoundMeter {
    fn default() -> Self {
        Self {
            samples: 0,
            sum: 0.0,
            squares: 0.0,
            peak: 0,
            clipped: 0,
            tones: MAINS.map(|f| std::array::from_fn(|k| Tone::new(f * (k + 1) as f64))),
        }
    }
}

impl SoundMeter {
    /// Takes a block.
    pub fn add(&mut self, block: &Block) {
        for &sample in block.samples() {
            let x = f64::from(sample) / FULL;
            self.samples += 1;
            self.sum += x;
            self.squares += x * x;
            self.peak = self.peak.max(i32::from(sample).abs());
            self.clipped += u64::from(sample == i16::MAX || sample == i16::MIN);
            self.tones.iter_mut().flatten().for_each(|tone| tone.add(x));
        }
    }

    /// What was found so far.
    #[must_use]
    pub fn reading(&self) -> SoundReading {
        let n = self.samples.max(1) as f64;
        let offset = self.sum / n;
        let power = (self.squares / n - offset * offset).max(0.0);
        let hum = self.tones.iter().map(|tones| tones.iter().map(|t| t.power(n)).sum::<f64>());
        let hum = if power > 0.0 { (hum.fold(0.0, f64::max) / power).min(1.0) } else { 0.0 };
        let clipped = self.clipped as f64 / n;
        let (level_db, peak_db) = (decibels(power.sqrt()), decibels(f64::from(self.peak) / FULL));
        let verdict = if self.samples == 0 {
            SoundVerdict::Nothing
        } else if offset.abs() > 0.1 {
            SoundVerdict::Offset
        } else if level_db < -84.0 {
            SoundVerdict::Silent
        } else if clipped > 0.001 {
            SoundVerdict::Clipped
        } else if hum > 0.7 && level_db > -66.0 {
            SoundVerdict::Hum
        } else {
            SoundVerdict::Good
        };
        let seconds = self.samples as f64 / f64::from(SAMPLE_RATE);
        SoundReading { seconds, level_db, peak_db, offset, clipped, hum, verdict }
    }
}

/// Decibels of an amplitude; −120 at least.
fn decibels(amplitude: f64) -> f64 {
    20.0 * amplitude.max(1e-6).log10()
}

/// Measures light, sharpness and motion of a camera's picture.
pub struct PictureMeter {
    frames: u32,
    /// Sums of each frame's mean luma, share of dark and of blown-out pixels, and sharpness.
    light: f64,
    dark: f64,
    blown: f64,
    sharpness: f64,
    contrast: f64,
    /// Frames that are exactly like the one before.
    same: u32,
    previous: Frame,
}

/// What a [`PictureMeter`] found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PictureReading {
    /// Frames measured.
    pub frames: u32,
    /// Mean luma, 0 to 1.
    pub light: f64,
    /// Share of pixels that are nearly black.
    pub dark: f64,
    /// Share of pixels that are nearly white.
    pub blown: f64,
    /// Mean difference of neighbouring pixels over their spread: small when out of focus.
    pub sharpness: f64,
    /// What to make of it.
    pub verdict: PictureVerdict,
}

/// What to make of a camera's picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PictureVerdict {
    /// No picture came.
    Nothing,
    /// It looks like a picture.
    Good,
    /// Every frame is exactly the same: a live sensor has noise.
    Frozen,
    /// Too dark to see anything.
    Dark,
    /// Too bright to see anything.
    Blown,
    /// One grey surface: something covers the lens.
    Covered,
    /// Out of focus, or a dirty lens.
    Blurred,
}

impl fmt::Display for PictureVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "no picture came in time",
            Self::Good => "good",
            Self::Frozen => "frozen: every frame is the same; unplug the camera and plug it in again",
            Self::Dark => "too dark: is the lens covered, is there light?",
            Self::Blown => "too bright: turn the camera away from the light or lower its exposure",
            Self::Covered => "one even surface: is the lens covered?",
            Self::Blurred => "blurred: focus or clean the lens",
        })
    }
}

impl fmt::Display for PictureReading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} frames, light {:.0} %, dark {:.0} %, blown out {:.0} %, sharpness {:.2}: {}",
            self.frames,
            self.light * 100.0,
            self.dark * 100.0,
            self.blown * 100.0,
            self.sharpness,
            self.verdict
        )
    }
}

impl Default for PictureMeter {
    fn default() -> Self {
        Self {
            frames: 0,
            light: 0.0,
            dark: 0.0,
            blown: 0.0,
            sharpness: 0.0,
            contrast: 0.0,
            same: 0,
            previous: Frame::new(),
        }
    }
}

impl PictureMeter {
    /// Takes a frame.
    pub fn add(&mut self, frame: &Frame) {
        let luma = |p: &[u8; 3]| {
            (77.0 * f64::from(p[0]) + 150.0 * f64::from(p[1]) + 29.0 * f64::from(p[2])) / 65_280.0
        };
        let pixels = frame.rgb().as_chunks::<3>().0;
        let (mut sum, mut squares, mut dark, mut blown, mut steps) = (0.0, 0.0, 0u32, 0u32, 0.0);
        for row in pixels.chunks_exact(FRAME_WIDTH) {
            let mut left = None;
            for y in row.iter().map(luma) {
                sum += y;
                squares += y * y;
                dark += u32::from(y < 0.06);
                blown += u32::from(y > 0.97);
                if let Some(left) = left.replace(y) {
                    let step: f64 = y - left;
                    steps += step * step;
                }
            }
        }
        let n = (FRAME_WIDTH * FRAME_HEIGHT) as f64;
        let mean = sum / n;
        let variance = (squares / n - mean * mean).max(0.0);
        self.light += mean;
        self.dark += f64::from(dark) / n;
        self.blown += f64::from(blown) / n;
        self.contrast += variance.sqrt();
        // Mean squared step to the neighbour over the variance: 2 for noise, towards 0 the smoother the picture is.
        self.sharpness += if variance > 1e-7 { steps / n / variance } else { 0.0 };
        self.same += u32::from(self.frames > 0 && self.previous.rgb() == frame.rgb());
        self.previous.copy_from(frame);
        self.frames += 1;
    }

    /// What was found so far.
    #[must_use]
    pub fn reading(&self) -> PictureReading {
        let n = f64::from(self.frames.max(1));
        let (light, dark, blown) = (self.light / n, self.dark / n, self.blown / n);
        let (sharpness, contrast) = (self.sharpness / n, self.contrast / n);
        let verdict = if self.frames == 0 {
            PictureVerdict::Nothing
        } else if dark > 0.95 {
            PictureVerdict::Dark
        } else if blown > 0.8 {
            PictureVerdict::Blown
        } else if self.frames >= 5 && self.same + 1 == self.frames {
            PictureVerdict::Frozen
        } else if contrast < 0.015 {
            PictureVerdict::Covered
        } else if sharpness < 0.004 {
            PictureVerdict::Blurred
        } else {
            PictureVerdict::Good
        };
        PictureReading { frames: self.frames, light, dark, blown, sharpness, verdict }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict on two seconds of `signal(t)`.
    fn sound(signal: impl Fn(f64, u32) -> f64) -> SoundReading {
        let mut meter = SoundMeter::default();
        let mut noise = 1u32;
        let mut at = 0u32;
        for _ in 0..100 {
            let mut block = Block::new();
            for _ in 0..320 {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let x = signal(f64::from(at) / 16_000.0, noise >> 16) * 32_768.0;
                #[allow(clippy::cast_possible_truncation, reason = "a test signal")]
                block.samples_mut().push(x.clamp(-32_768.0, 32_767.0) as i16).unwrap();
                at += 1;
            }
            meter.add(&block);
        }
        meter.reading()
    }

    fn white(n: u32) -> f64 {
        f64::from(n) / 32_768.0 - 1.0
    }

    #[test]
    fn each_fault_of_a_microphone_has_its_verdict() {
        assert_eq!(SoundMeter::default().reading().verdict, SoundVerdict::Nothing);
        assert_eq!(sound(|_, _| 0.0).verdict, SoundVerdict::Silent);
        assert_eq!(sound(|_, n| 0.05 * white(n)).verdict, SoundVerdict::Good);
        assert_eq!(sound(|_, n| 3.0 * white(n)).verdict, SoundVerdict::Clipped);
        assert_eq!(sound(|_, n| 0.3 + 0.01 * white(n)).verdict, SoundVerdict::Offset);
        for mains in [50.0, 60.0, 120.0] {
            let hum = |t: f64, n| 0.05 * (std::f64::consts::TAU * mains * t).sin() + 0.005 * white(n);
            assert_eq!(sound(hum).verdict, SoundVerdict::Hum, "{mains}");
        }
        let tone = sound(|t, _| 0.1 * (std::f64::consts::TAU * 440.0 * t).sin());
        assert_eq!(tone.verdict, SoundVerdict::Good);
        assert!((tone.level_db + 23.0).abs() < 0.1, "{}", tone.level_db);
    }

    /// The verdict on ten frames of `pixel(frame, x, y, noise)`.
    fn picture(pixel: impl Fn(u32, usize, usize, u8) -> u8) -> PictureVerdict {
        let mut meter = PictureMeter::default();
        let mut noise = 1u32;
        for f in 0..10 {
            let mut frame = Frame::new();
            for (i, p) in frame.rgb_mut().as_chunks_mut::<3>().0.iter_mut().enumerate() {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let n = noise.to_be_bytes()[0];
                *p = [pixel(f, i % FRAME_WIDTH, i / FRAME_WIDTH, n); 3];
            }
            meter.add(&frame);
        }
        meter.reading().verdict
    }

    #[test]
    fn each_fault_of_a_camera_has_its_verdict() {
        let scene = |x: usize, y: usize| if (x / 8 + y / 8).is_multiple_of(2) { 60u8 } else { 160 };
        assert_eq!(PictureMeter::default().reading().verdict, PictureVerdict::Nothing);
        assert_eq!(picture(|_, x, y, n| scene(x, y) + n / 64), PictureVerdict::Good);
        assert_eq!(picture(|_, x, y, _| scene(x, y)), PictureVerdict::Frozen);
        assert_eq!(picture(|_, _, _, n| n / 64), PictureVerdict::Dark);
        assert_eq!(picture(|_, _, _, n| 252 + n / 64), PictureVerdict::Blown);
        assert_eq!(picture(|_, _, _, n| 100 + n / 64), PictureVerdict::Covered);
        let smooth = |f: u32, x: usize, _: usize, _: u8| u8::try_from(40 + x + f as usize).unwrap_or(255);
        assert_eq!(picture(smooth), PictureVerdict::Blurred);
    }
}
