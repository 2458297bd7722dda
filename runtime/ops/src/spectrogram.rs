//! Samples to the logarithm of a filter bank over their spectrum: window, Fourier transform, magnitude, filters, ln.
//!
//! Several frames are computed side by side, one to a lane: every step is then the same for all lanes, none is idle, and
//! nothing has to be shuffled but the samples on their way in. The transform of 512 real values is one of 256 complex ones
//! (even samples real, odd ones imaginary), radix 4 and in place, which are then taken apart. Every lane runs in the same fixed order,
//! so that the same bits come out on every kernel.

use std::f64::consts::PI;

use crate::{Kernel, error::Error, lanes::on_each_family, vector::Vector};

/// Real values of a transform.
pub const TRANSFORM: usize = 512;
/// Bins of a spectrum, the last at half the sampling rate.
pub const BINS: usize = TRANSFORM / 2 + 1;

/// Frames that are computed side by side.
const FRAMES: usize = Vector::LANES;
/// Real and imaginary parts.
type Complex = [Vector; 2];

/// Complex values of the transform, 4^4.
const POINTS: usize = TRANSFORM / 2;
const DIGITS: u32 = 4;
/// Cosines and sines of three points' turns.
type Twiddles = [[f32; 4]; 2];
/// Of all stages but the first: 4 + 16 + 64.
const TWIDDLES: usize = 84;

/// A filter: its weights on the bins from `first` on.
#[derive(Clone, Debug)]
pub struct Band {
    /// The first bin that it weighs.
    pub first: usize,
    /// The weights.
    pub weights: Vec<f32>,
}

/// Computes spectrograms.
#[derive(Clone, Debug)]
pub struct Spectrogram {
    kernel: Kernel,
    hop: usize,
    offset: f32,
    /// Halved, since taking the transform apart doubles it, and divided by 32768.
    window: Vec<[f32; 4]>,
    bands: Vec<Band>,
    /// Bins from here on, and those as far from the last, are needed.
    lowest: usize,
    /// Where the points `n`, `n + 64`, `n + 128` and `n + 192` lie for the transform: `n` with its base-4 digits reversed.
    places: Vec<usize>,
    /// Of `2 pi k / m` for `k = j, 2j, 3j`, for each stage's `m` (16, 64, 256) and `j`.
    twiddles: Box<[Twiddles; TWIDDLES]>,
    /// Cosine and sine of `2 pi k / 512`.
    turns: Box<[[f32; 2]; POINTS / 2 + 1]>,
    points: Box<[Complex; POINTS]>,
    magnitudes: Box<[Vector; BINS]>,
}

impl Spectrogram {
    /// Frames of `window.len()` samples every `hop`, each filled up with zeros to [`TRANSFORM`]; a result is
    /// `ln(offset + sum)` of a band.
    ///
    /// # Errors
    /// A window that is empty, longer than the transform or no multiple of 4; a hop of 0; a band beyond the last bin; an offset that is not
    /// a normal positive number; another CPU's kernel.
    pub fn new(
        kernel: Kernel,
        window: &[f32],
        hop: usize,
        bands: Vec<Band>,
        offset: f32,
    ) -> Result<Self, Error> {
        if window.is_empty() || window.len() > TRANSFORM || !window.len().is_multiple_of(4) {
            return Err(Error::Shape { what: "window", found: window.len() });
        }
        if hop == 0 {
            return Err(Error::Shape { what: "hop", found: hop });
        }
        if let Some(band) = bands.iter().find(|band| band.first + band.weights.len() > BINS) {
            return Err(Error::Shape { what: "bins", found: band.first + band.weights.len() });
        }
        if !(offset.is_normal() && offset > 0.0) {
            return Err(Error::Scale { found: offset });
        }
        let low = bands.iter().map(|band| band.first).min().unwrap_or(0);
        let high = bands.iter().map(|band| band.first + band.weights.len()).max().unwrap_or(BINS);
        Ok(Self {
            kernel: kernel.check()?,
            hop,
            offset,
            window: window.as_chunks::<4>().0.iter().map(|four| four.map(|w| w * (0.5 / 32_768.0))).collect(),
            lowest: low.min(BINS - high.min(BINS)).min(BINS / 2),
            bands,
            places: (0..POINTS / 4).map(reversed).collect(),
            twiddles: Box::new(twiddles()),
            turns: Box::new(std::array::from_fn(|k| unit(k, TRANSFORM))),
            points: Box::new([[Vector::splat(0.0); 2]; POINTS]),
            magnitudes: Box::new([Vector::splat(0.0); BINS]),
        })
    }

    /// The kernel that runs.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Writes the bands of each frame of `samples`, frame by frame: as many frames as `output` has rows.
    ///
    /// # Panics
    /// Unless `output` has whole rows and `samples` all their frames.
    pub fn run(&mut self, samples: &[i16], output: &mut [f32]) {
        let frames = output.len() / self.bands.len().max(1);
        assert_eq!(frames * self.bands.len(), output.len(), "whole rows");
        if frames > 0 {
            assert!(samples.len() >= (frames - 1) * self.hop + 4 * self.window.len(), "all frames");
            let (kernel, op) = (self.kernel, self);
            on_each_family!(kernel, run, (op: &mut Spectrogram, samples: &[i16], output: &mut [f32]));
        }
    }
}

/// `cos` and `sin` of `2 pi k / m`.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "computed in f64, used in f32"
)]
fn unit(k: usize, m: usize) -> [f32; 2] {
    let (sin, cos) = (2.0 * PI * k as f64 / m as f64).sin_cos();
    [cos as f32, sin as f32]
}

/// An index of a point with its base-4 digits reversed.
fn reversed(index: usize) -> usize {
    (0..DIGITS).fold(0, |sum, digit| sum * 4 + index / 4_usize.pow(digit) % 4)
}

fn twiddles() -> [Twiddles; TWIDDLES] {
    let stages =
        (1..DIGITS).flat_map(|stage| (0..4_usize.pow(stage)).map(move |j| (j, 4_usize.pow(stage + 1))));
    let mut all = [[[0.0; 4]; 2]; TWIDDLES];
    for ([cosines, sines], (j, m)) in all.iter_mut().zip(stages) {
        for (factor, (cos, sin)) in (1..4).zip(cosines.iter_mut().zip(sines)) {
            [*cos, *sin] = unit(factor * j, m);
        }
    }
    all
}

#[inline(always)]
fn run(op: &mut Spectrogram, samples: &[i16], output: &mut [f32]) {
    let width = op.bands.len();
    let frames = output.len() / width;
    for first in (0..frames).step_by(FRAMES) {
        // Lanes without a frame of their own repeat the last one.
        let starts: [usize; FRAMES] = std::array::from_fn(|lane| (first + lane).min(frames - 1) * op.hop);
        load(op, samples, starts);
        transform(&mut op.points, &op.twiddles);
        magnitudes(op);
        let rows = &mut output[first * width..];
        for (index, band) in op.bands.iter().enumerate() {
            let mut sum = Vector::splat(0.0);
            for (&weight, &magnitude) in band.weights.iter().zip(&op.magnitudes[band.first..]) {
                sum = sum.plus(weight, magnitude);
            }
            let results = sum.add(Vector::splat(op.offset)).ln().store();
            for (row, result) in rows.chunks_exact_mut(width).zip(results) {
                row[index] = result;
            }
        }
    }
}

/// Samples of each lane's frame, times the window, to where the transform wants them, and the transform's first stage: that
/// of the points `n`, `n + 64`, `n + 128` and `n + 192`, for two `n` at a time.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "a quarter is part of both groups")]
fn load(op: &mut Spectrogram, samples: &[i16], starts: [usize; FRAMES]) {
    const QUARTER: usize = POINTS / 4;
    let steps = op.window.len();
    let mut frames: [&[[i16; 4]]; FRAMES] = [&[]; FRAMES];
    for (frame, start) in frames.iter_mut().zip(starts) {
        *frame = samples[start..start + 4 * steps].as_chunks().0;
    }
    for first in (0..QUARTER).step_by(2) {
        let mut groups = [[[Vector::splat(0.0); 2]; 4]; 2];
        for quarter in 0..4 {
            let step = (first + quarter * QUARTER) / 2;
            // Zeros follow the window.
            if step < steps {
                let mut values = [[0; 4]; FRAMES];
                for (values, frame) in values.iter_mut().zip(frames) {
                    *values = frame[step];
                }
                let (window, [a, b, c, d]) = (op.window[step], Vector::turn(values));
                groups[0][quarter] = [a.scale(window[0]), b.scale(window[1])];
                groups[1][quarter] = [c.scale(window[2]), d.scale(window[3])];
            }
        }
        for (group, &place) in groups.into_iter().zip(&op.places[first..first + 2]) {
            op.points[place..place + 4].copy_from_slice(&butterfly(group));
        }
    }
}

/// All stages but the first.
#[inline(always)]
fn transform(points: &mut [Complex; POINTS], twiddles: &[Twiddles; TWIDDLES]) {
    stage::<4, 16>(points, &twiddles[..4]);
    stage::<16, 64>(points, &twiddles[4..20]);
    stage::<64, 256>(points, &twiddles[20..]);
}

/// Groups of `M` points, four times `QUARTER`.
#[inline(always)]
fn stage<const QUARTER: usize, const M: usize>(points: &mut [Complex; POINTS], twiddles: &[Twiddles]) {
    for (j, &[cos, sin]) in (0..QUARTER).zip(twiddles) {
        for group in points.as_chunks_mut::<M>().0 {
            let [a, b, c, d] = [0, 1, 2, 3].map(|i| group[j + i * QUARTER]);
            let results = butterfly([
                a,
                rotate(b, cos[0], sin[0]),
                rotate(c, cos[1], sin[1]),
                rotate(d, cos[2], sin[2]),
            ]);
            for (i, result) in results.into_iter().enumerate() {
                group[j + i * QUARTER] = result;
            }
        }
    }
}

/// The transform of four points.
#[inline(always)]
fn butterfly([a, b, c, d]: [Complex; 4]) -> [Complex; 4] {
    let (even, odd) = ([a[0].add(c[0]), a[1].add(c[1])], [a[0].sub(c[0]), a[1].sub(c[1])]);
    let (sum, difference) = ([b[0].add(d[0]), b[1].add(d[1])], [b[0].sub(d[0]), b[1].sub(d[1])]);
    [
        [even[0].add(sum[0]), even[1].add(sum[1])],
        [odd[0].add(difference[1]), odd[1].sub(difference[0])],
        [even[0].sub(sum[0]), even[1].sub(sum[1])],
        [odd[0].sub(difference[1]), odd[1].add(difference[0])],
    ]
}

/// Times `cos - i sin`.
#[inline(always)]
fn rotate([re, im]: Complex, cos: f32, sin: f32) -> Complex {
    [re.scale(cos).plus(sin, im), im.scale(cos).minus(sin, re)]
}

/// The magnitudes of the real transform. Of bins `k` and `256 - k`, the even samples' part is the sum of the points `k` and
/// `256 - k` (the latter conjugated), that of the odd ones their difference, turned.
#[inline(always)]
fn magnitudes(op: &mut Spectrogram) {
    for (k, &[cos, sin]) in op.turns.iter().enumerate().skip(op.lowest) {
        let (a, b) = (op.points[k % POINTS], op.points[(POINTS - k) % POINTS]);
        let even = [a[0].add(b[0]), a[1].sub(b[1])];
        // Times -i, then times cos - i sin.
        let odd = rotate([a[1].add(b[1]), b[0].sub(a[0])], cos, sin);
        op.magnitudes[k] = even[0].add(odd[0]).hypotenuse(even[1].add(odd[1]));
        op.magnitudes[POINTS - k] = even[0].sub(odd[0]).hypotenuse(even[1].sub(odd[1]));
    }
}
