//! Small recordings made from a seed, so that the tests need no files and are the same everywhere.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

/// Frames per second of every picture made here, unless said otherwise.
pub const FPS: u32 = 10;
/// Samples per second of every sound made here, unless said otherwise.
pub const RATE: u32 = 16_000;

/// Evenly spread numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same seed gives the same numbers.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.roll().to_le_bytes()[7]
    }

    /// The next sample, over the whole range.
    pub fn sample(&mut self) -> i16 {
        let [.., a, b] = self.roll().to_le_bytes();
        i16::from_le_bytes([a, b])
    }
}

/// Seconds of tones that come and go over soft noise.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "the sum stays within 16 bits")]
pub fn tones(seconds: u32, seed: u64) -> Vec<i16> {
    let mut dice = Dice::new(seed);
    let mut samples = Vec::new();
    let mut hertz = 0.0;
    for n in 0..seconds * RATE {
        if n % (RATE / 4) == 0 {
            hertz = f64::from(200 + u32::from(dice.byte()) * 12);
        }
        let tone = (f64::from(n) * hertz * std::f64::consts::TAU / f64::from(RATE)).sin();
        samples.push((tone * 9_000.0) as i16 + dice.sample() / 32);
    }
    samples
}

/// Writes a 16-bit mono WAV file at [`RATE`].
///
/// # Panics
/// When it cannot be written.
pub fn write_wav(path: &Path, samples: &[i16]) {
    let data: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
    write_pcm(path, RATE, 16, &data);
}

/// Writes a mono WAV file of sample bytes as they are.
///
/// # Panics
/// When it cannot be written, or is too long for the format.
pub fn write_pcm(path: &Path, rate: u32, bits: u16, data: &[u8]) {
    let size = u32::try_from(data.len()).expect("less than 4 GiB");
    let mut file = BufWriter::new(File::create(path).expect("a .wav file"));
    let mut put = |bytes: &[u8]| file.write_all(bytes).expect("room for the .wav file");
    put(b"RIFF");
    put(&(size + 36).to_le_bytes());
    put(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    put(&rate.to_le_bytes());
    put(&(rate * u32::from(bits / 8)).to_le_bytes());
    put(&(bits / 8).to_le_bytes());
    put(&bits.to_le_bytes());
    put(b"data");
    put(&size.to_le_bytes());
    put(data);
}

/// Geometry of a picture.
#[derive(Clone, Copy, Debug)]
pub struct Picture {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Frames per second.
    pub fps: u32,
}

/// Writes `frames` frames of YUV 4:2:0, full range, grey; `luma` says how bright pixel `(frame, x, y)` is.
///
/// # Panics
/// When it cannot be written.
pub fn write_y4m(path: &Path, picture: Picture, frames: usize, luma: impl Fn(usize, usize, usize) -> u8) {
    let Picture { width, height, fps } = picture;
    let mut file = BufWriter::new(File::create(path).expect("a .y4m file"));
    let mut put = |bytes: &[u8]| file.write_all(bytes).expect("room for the .y4m file");
    put(format!("YUV4MPEG2 W{width} H{height} F{fps}:1 Ip A1:1 C420jpeg XCOLORRANGE=FULL\n").as_bytes());
    let grey = vec![128; 2 * width.div_ceil(2) * height.div_ceil(2)];
    for frame in 0..frames {
        put(b"FRAME\n");
        let pixels: Vec<u8> = (0..width * height).map(|i| luma(frame, i % width, i / width)).collect();
        put(&pixels);
        put(&grey);
    }
}

/// Writes seconds of a gradient that moves.
///
/// # Panics
/// When it cannot be written.
pub fn write_gradient(path: &Path, seconds: u32) {
    let picture = Picture { width: 64, height: 48, fps: FPS };
    let luma = |frame: usize, x: usize, y: usize| ((4 * x + 2 * y + 9 * frame) % 256).to_le_bytes()[0];
    write_y4m(path, picture, (seconds * FPS) as usize, luma);
}

/// Writes `<stem>.y4m` and `<stem>.wav` into `dir`; returns the picture's path, which opens both.
///
/// # Panics
/// When they cannot be written.
#[must_use]
pub fn write_pair(dir: &Path, stem: &str, seconds: u32, seed: u64) -> PathBuf {
    let path = dir.join(stem).with_extension("y4m");
    write_gradient(&path, seconds);
    write_wav(&path.with_extension("wav"), &tones(seconds, seed));
    path
}
