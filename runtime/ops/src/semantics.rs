//! The one integer semantics, bit for bit. `docs/design/ops.md` explains the choices; the Python twin is
//! `models/train/girasol_train/int8.py`.
//!
//! - A value is `scale * (q - zero_point)`, `q` an i8. Activations have any zero point, weights have zero point 0, stay
//!   in [-127, 127] and have one scale per output channel.
//! - A sum of products is exact in i32: packing refuses a channel whose worst case exceeds ±2^30 ([`ACC_LIMIT`]).
//! - Requantisation multiplies by `mantissa * 2^-(31 + shift)` and rounds once, halves upwards ([`Multiplier`]).
//! - The output's zero point is added, the result clamped to i8 and to the activation's bounds ([`Clamp`]), then looked
//!   up in the activation's table if it has one ([`Table`]).

use crate::{
    depthwise::{DepthwiseSpec, FloatDepthwiseSpec},
    error::Error,
    linear::LinearSpec,
    window::Window,
};

/// Bound on the absolute value of every accumulator, bias included.
pub const ACC_LIMIT: i64 = 1 << 30;

/// How a tensor's i8 values stand for real ones: `scale * (q - zero_point)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct QuantParams {
    /// Distance between two neighbouring values; positive and finite.
    pub scale: f32,
    /// The i8 value that stands for 0.
    pub zero_point: i8,
}

impl QuantParams {
    pub(crate) fn check(self) -> Result<Self, Error> {
        check_scale(self.scale)?;
        Ok(self)
    }

    /// Rounds to nearest, halves to even, and saturates. NaN becomes the zero point.
    #[must_use]
    #[inline]
    pub fn quantise(self, x: f32) -> i8 {
        quantise_scaled(x * (1.0 / self.scale), i32::from(self.zero_point))
    }

    /// The real value of `q`.
    #[must_use]
    #[inline]
    pub fn dequantise(self, q: i8) -> f32 {
        f32::from(i16::from(q) - i16::from(self.zero_point)) * self.scale
    }
}

pub(crate) fn check_scale(scale: f32) -> Result<(), Error> {
    if scale.is_finite() && scale > 0.0 { Ok(()) } else { Err(Error::Scale { found: scale }) }
}

/// `x` in units of the scale. The clamp keeps the cast in range and changes no result: i8 saturates far earlier.
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "clamped; NaN becomes 0")]
pub(crate) fn quantise_scaled(x: f32, zero_point: i32) -> i8 {
    let q = x.clamp(-1024.0, 1024.0).round_ties_even() as i32;
    saturate(q + zero_point)
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "clamped")]
pub(crate) fn saturate(q: i32) -> i8 {
    q.clamp(-128, 127) as i8
}

/// A factor in fixed point, `mantissa * 2^-(31 + shift)`.
///
/// `mantissa` is in [2^30, 2^31) and `shift` in [1, 30], so factors lie in [2^-31, 1/2); smaller ones are stored as 0,
/// which changes no result, since no accumulator times such a factor reaches one half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multiplier {
    /// The factor's leading 31 bits.
    pub mantissa: i32,
    /// The right shift that follows the doubling high multiplication.
    pub shift: i32,
}

impl Multiplier {
    /// Factors must stay below this.
    pub const LIMIT: f64 = 0.5;

    /// The nearest fixed-point factor.
    ///
    /// # Errors
    /// [`Error::Rescale`] unless the factor is positive and rounds to less than one half.
    pub fn new(factor: f64) -> Result<Self, Error> {
        let refuse = Err(Error::Rescale { found: factor, limit: Self::LIMIT });
        if !(factor.is_finite() && factor > 0.0) {
            return refuse;
        }
        let (mantissa, exponent) = normalise(factor, 31);
        match -exponent {
            shift if shift < 1 => refuse,
            shift if shift > 30 => Ok(Self { mantissa: 0, shift: 1 }),
            shift => Ok(Self { mantissa, shift }),
        }
    }

    /// `floor(acc * mantissa / 2^(31 + shift) + 1/2)`: one rounding, halves upwards.
    #[must_use]
    #[inline]
    #[allow(
        clippy::cast_possible_truncation,
        reason = "the factor is below one half, so the result fits i32"
    )]
    pub fn apply(self, acc: i32) -> i32 {
        let product = i64::from(acc) * i64::from(self.mantissa);
        ((product + (1i64 << (30 + self.shift))) >> (31 + self.shift)) as i32
    }
}

/// `(m, e)` with `x = m * 2^(e - bits)` to the nearest `m` (halves to even) in `[2^(bits - 1), 2^bits)`.
#[allow(clippy::cast_possible_truncation, reason = "x is a normal number: factors come from f32 scales")]
fn normalise(x: f64, bits: i32) -> (i32, i32) {
    let mut exponent = ((x.to_bits() >> 52) & 0x7ff) as i32 - 1022;
    let mut mantissa = (x * f64::powi(2.0, bits - exponent)).round_ties_even() as i64;
    if mantissa == 1 << bits {
        mantissa >>= 1;
        exponent += 1;
    }
    (mantissa as i32, exponent)
}

/// The end of an integer operator: zero point and bounds of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clamp {
    /// The output's zero point.
    pub zero_point: i8,
    /// The least output.
    pub low: i8,
    /// The greatest output.
    pub high: i8,
}

impl Clamp {
    /// The bounds of `activation` in the units of `output`.
    #[must_use]
    pub fn new(output: QuantParams, activation: &Activation) -> Self {
        let zero_point = output.zero_point;
        let (low, high) = match activation {
            Activation::None | Activation::Table(_) => (i8::MIN, i8::MAX),
            Activation::Relu => (zero_point, i8::MAX),
            Activation::Relu6 => (zero_point, output.quantise(6.0)),
        };
        Self { zero_point, low, high }
    }

    /// From a rescaled accumulator to the output.
    #[must_use]
    #[inline]
    pub fn apply(self, q: i32) -> i8 {
        saturate(q.saturating_add(i32::from(self.zero_point))).max(self.low).min(self.high)
    }
}

/// An activation as a table over all 256 inputs, -128 first. The table is data and belongs to the model: it holds what
/// the exporter computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table(pub Box<[i8; 256]>);

impl Table {
    /// Tabulates `f` from values in units of `input` to values in units of `output`.
    #[must_use]
    pub fn from_fn(input: QuantParams, output: QuantParams, f: impl Fn(f32) -> f32) -> Self {
        let mut table = Box::new([0; 256]);
        for (slot, q) in table.iter_mut().zip(i8::MIN..=i8::MAX) {
            *slot = output.quantise(f(input.dequantise(q)));
        }
        Self(table)
    }

    /// The entry of `q`.
    #[must_use]
    #[inline]
    pub fn get(&self, q: i8) -> i8 {
        self.0[usize::from(q.cast_unsigned() ^ 0x80)]
    }

    /// Replaces every value by its entry.
    pub fn apply(&self, values: &mut [i8]) {
        for value in values {
            *value = self.get(*value);
        }
    }
}

/// Hard-swish, `x * relu6(x + 3) / 6`.
#[must_use]
pub fn hard_swish(x: f32) -> f32 {
    x * (x + 3.0).clamp(0.0, 6.0) / 6.0
}

/// GELU by the tanh approximation, computed in f64.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "rounds to f32")]
pub fn gelu_tanh(x: f32) -> f32 {
    let x = f64::from(x);
    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
    (0.5 * x * (1.0 + inner.tanh())) as f32
}

/// What follows the requantisation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Nothing but saturation to i8.
    None,
    /// Not below 0.
    Relu,
    /// Between 0 and 6.
    Relu6,
    /// Any function. The operator's output parameters are then those of the table's input.
    Table(Table),
}

impl Activation {
    /// The table, if it is one.
    #[must_use]
    pub fn table(&self) -> Option<&Table> {
        if let Self::Table(table) = self { Some(table) } else { None }
    }

    fn finish(&self, q: i8) -> i8 {
        self.table().map_or(q, |table| table.get(q))
    }
}

/// One requantisation factor per channel: `input * weight / output`.
///
/// # Errors
/// A scale that is not positive and finite, or a factor that [`Multiplier`] cannot hold.
pub fn multipliers(
    input: QuantParams,
    weight_scales: &[f32],
    output: QuantParams,
) -> Result<Vec<Multiplier>, Error> {
    input.check()?;
    output.check()?;
    let factor = |&scale: &f32| {
        check_scale(scale)?;
        Multiplier::new(f64::from(input.scale) * f64::from(scale) / f64::from(output.scale))
    };
    weight_scales.iter().map(factor).collect()
}

/// A real bias in units of the accumulator: nearest, halves to even.
///
/// # Errors
/// [`Error::Accumulator`] if one does not fit.
#[allow(clippy::cast_possible_truncation, reason = "checked against ACC_LIMIT")]
pub fn quantise_bias(bias: &[f32], input: QuantParams, weight_scales: &[f32]) -> Result<Vec<i32>, Error> {
    let quantise = |(channel, (&bias, &scale)): (usize, (&f32, &f32))| {
        let q = (f64::from(bias) / (f64::from(input.scale) * f64::from(scale))).round_ties_even();
        if q.abs() < ACC_LIMIT as f64 { Ok(q as i32) } else { Err(Error::Accumulator { channel }) }
    };
    bias.iter().zip(weight_scales).enumerate().map(quantise).collect()
}

/// Rounds f32 weights as the exporter does (docs/decisions/0005): [channels, ...] to int8 in [-127, 127] and one scale
/// per channel.
#[must_use]
#[allow(clippy::cast_possible_truncation, reason = "clamped to [-127, 127]; NaN becomes 0")]
pub fn quantise_weights(weights: &[f32], channels: usize) -> (Vec<i8>, Vec<f32>) {
    let mut q = Vec::with_capacity(weights.len());
    let mut scales = Vec::with_capacity(channels);
    for channel in weights.chunks_exact((weights.len() / channels.max(1)).max(1)) {
        let peak = channel.iter().fold(0.0f32, |peak, w| peak.max(w.abs()));
        let scale = if peak > 0.0 { peak / 127.0 } else { 1.0 };
        q.extend(channel.iter().map(|w| (w / scale).round_ties_even().clamp(-127.0, 127.0) as i8));
        scales.push(scale);
    }
    (q, scales)
}

/// Residual addition in fixed point: `floor((a' * left + b' * right) / 2^shift + 1/2)` with `a'` and `b'` freed of
/// their zero points. The larger factor has 15 bits, so every product fits the 16-bit multipliers of SIMD units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddRescale {
    /// Factor of the left operand, at most 2^15 - 1.
    pub left: i16,
    /// Factor of the right operand, at most 2^15 - 1.
    pub right: i16,
    /// The common right shift, in [1, 29].
    pub shift: i32,
}

impl AddRescale {
    /// The factors `left / output` and `right / output`.
    ///
    /// # Errors
    /// [`Error::Scale`] or [`Error::Rescale`] if the larger factor is outside [2^-15, 2^14).
    pub fn new(left: f32, right: f32, output: f32) -> Result<Self, Error> {
        for scale in [left, right, output] {
            check_scale(scale)?;
        }
        let factor = f64::from(left.max(right)) / f64::from(output);
        let shift = 15 - normalise(factor, 15).1;
        if !(1..=29).contains(&shift) {
            return Err(Error::Rescale { found: factor, limit: 16384.0 });
        }
        let fixed = |scale: f32| fixed15(f64::from(scale) / f64::from(output), shift);
        Ok(Self { left: fixed(left), right: fixed(right), shift })
    }

    /// The sum of two values that are already free of their zero points.
    #[must_use]
    #[inline(always)]
    pub fn apply(self, a: i32, b: i32) -> i32 {
        let sum = a * i32::from(self.left) + b * i32::from(self.right);
        (sum + (1 << (self.shift - 1))) >> self.shift
    }
}

#[allow(clippy::cast_possible_truncation, reason = "below 2^15: the larger factor was normalised to 15 bits")]
fn fixed15(factor: f64, shift: i32) -> i16 {
    (factor * f64::powi(2.0, shift)).round_ties_even() as i16
}

/// Reference of [`crate::linear::Linear`]: `input` is [rows, inputs], the result [rows, outputs].
///
/// # Errors
/// Scales that cannot be represented.
pub fn linear(spec: &LinearSpec<'_>, input: &[i8]) -> Result<Vec<i8>, Error> {
    let multipliers = multipliers(spec.input, spec.weight_scales, spec.output)?;
    let clamp = Clamp::new(spec.output, &spec.activation);
    let zero_point = i32::from(spec.input.zero_point);
    let mut output = Vec::with_capacity(input.len() / spec.inputs * spec.outputs);
    for row in input.chunks_exact(spec.inputs) {
        for (channel, weights) in spec.weights.chunks_exact(spec.inputs).enumerate() {
            let products = row.iter().zip(weights).map(|(&x, &w)| (i32::from(x) - zero_point) * i32::from(w));
            let acc = spec.bias[channel] + products.sum::<i32>();
            output.push(spec.activation.finish(clamp.apply(multipliers[channel].apply(acc))));
        }
    }
    Ok(output)
}

/// Reference of [`crate::depthwise::Depthwise`]: `input` is [height, width, channels].
///
/// # Errors
/// Scales that cannot be represented.
pub fn depthwise(spec: &DepthwiseSpec<'_>, input: &[i8]) -> Result<Vec<i8>, Error> {
    let multipliers = multipliers(spec.input, spec.weight_scales, spec.output)?;
    let clamp = Clamp::new(spec.output, &spec.activation);
    let zero_point = i32::from(spec.input.zero_point);
    let window = &spec.window;
    let mut output = Vec::with_capacity(window.output_len());
    for (y, x) in window.output_positions() {
        for channel in 0..window.channels {
            let mut acc = spec.bias[channel];
            for (tap, position) in window.taps(y, x).enumerate() {
                let Some(position) = position else { continue };
                let value = i32::from(input[position * window.channels + channel]) - zero_point;
                acc += value * i32::from(spec.weights[tap * window.channels + channel]);
            }
            output.push(spec.activation.finish(clamp.apply(multipliers[channel].apply(acc))));
        }
    }
    Ok(output)
}

/// Reference of [`crate::convolution::Convolution`]: `input` is [height, width, channels].
///
/// # Errors
/// Scales that cannot be represented.
pub fn convolution(window: &Window, spec: &LinearSpec<'_>, input: &[i8]) -> Result<Vec<i8>, Error> {
    let mut rows = Vec::new();
    for (y, x) in window.output_positions() {
        for pixel in window.taps(y, x) {
            rows.extend((0..window.channels).map(|channel| {
                pixel.map_or(spec.input.zero_point, |pixel| input[pixel * window.channels + channel])
            }));
        }
    }
    linear(spec, &rows)
}

/// Reference of [`crate::depthwise::FloatDepthwise`]. Products are fused into the sum one after the other, tap by tap,
/// padding included, so that the result is the same on every CPU.
#[must_use]
pub fn float_depthwise(spec: &FloatDepthwiseSpec<'_>, input: &[f32]) -> Vec<f32> {
    let window = &spec.window;
    let mut output = Vec::with_capacity(window.output_len());
    for (y, x) in window.output_positions() {
        for channel in 0..window.channels {
            let mut acc = spec.bias[channel];
            for (tap, position) in window.taps(y, x).enumerate() {
                let value = position.map_or(0.0, |position| input[position * window.channels + channel]);
                acc = value.mul_add(spec.weights[tap * window.channels + channel], acc);
            }
            output.push(acc.max(spec.low).min(spec.high));
        }
    }
    output
}

/// How the three components of a picture become R, G and B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colours {
    /// Y, U, V of limited range (16 ... 235) by BT.601.
    Limited,
    /// Y, U, V of full range by BT.601.
    Full,
    /// Y alone.
    Grey,
    /// R, G, B themselves.
    Rgb,
}

/// R, G, B of one pixel.
#[must_use]
#[inline(always)]
pub fn rgb(colours: Colours, [a, b, c]: [u8; 3]) -> [u8; 3] {
    let (y, d, e) = (i32::from(a), i32::from(b) - 128, i32::from(c) - 128);
    match colours {
        Colours::Grey => [a; 3],
        Colours::Rgb => [a, b, c],
        Colours::Limited => {
            let y = 298 * (y - 16) + 128;
            [y + 409 * e, y - 100 * d - 208 * e, y + 516 * d].map(|x| byte(x >> 8))
        }
        Colours::Full => {
            [y + ((359 * e + 128) >> 8), y - ((88 * d + 183 * e + 128) >> 8), y + ((454 * d + 128) >> 8)]
                .map(byte)
        }
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
#[inline(always)]
fn byte(x: i32) -> u8 {
    x.clamp(0, 255) as u8
}

/// Luma of one pixel.
#[must_use]
#[inline(always)]
pub fn luma(rgb: [u8; 3]) -> u8 {
    let [r, g, b] = rgb.map(u16::from);
    // At most 255 * 256 + 128.
    let [sum, _] = (77 * r + 150 * g + 29 * b + 128).to_be_bytes();
    sum
}

/// Reference of [`crate::pixels::Pixels`], for one pixel and the same of the picture before: in units of 1 / 128 with zero
/// point -1 (so that all of (v - 127) / 128 fits), R, G and B, and the difference in luma, saturated.
#[must_use]
#[inline(always)]
pub fn pixel(now: [u8; 3], before: [u8; 3]) -> [i8; 4] {
    let [r, g, b] = now.map(|value| saturate(i32::from(value) - 128));
    [r, g, b, saturate(i32::from(luma(now)) - i32::from(luma(before)) - 1)]
}

/// Reference of [`crate::picture::Picture`], for one component of `input` width times height: each result is the average of
/// the area that it covers, rounded, halves upwards.
#[must_use]
pub fn area_average(samples: &[u8], input: [usize; 2], output: [usize; 2]) -> Vec<u8> {
    // The samples that a result covers of one dimension, and how much of each, in units of 1 / dst sample.
    let covered = |result: usize, src: usize, dst: usize| {
        let (low, high) = (result * src, (result + 1) * src);
        let samples = low / dst..high.div_ceil(dst);
        samples.map(move |sample| (sample, (high.min((sample + 1) * dst) - low.max(sample * dst)) as u64))
    };
    let area = (input[0] * input[1]) as u64;
    let mut results = Vec::with_capacity(output[0] * output[1]);
    for row in 0..output[1] {
        for column in 0..output[0] {
            let mut sum = 0;
            for (y, high) in covered(row, input[1], output[1]) {
                for (x, wide) in covered(column, input[0], output[0]) {
                    sum += high * wide * u64::from(samples[y * input[0] + x]);
                }
            }
            results.push(u8::try_from((sum + area / 2) / area).unwrap_or(u8::MAX));
        }
    }
    results
}
