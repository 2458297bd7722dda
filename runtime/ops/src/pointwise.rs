//! What stands between a transformer's products, in f32: layer norm, softmax and GELU.

use crate::{
    Kernel,
    error::{Error, check_length},
    lanes::{LANES, Lanes, exp, fused, on_each_family, total},
};

/// Layer norm over rows: `(x - mean) / sqrt(variance + epsilon) * weight + bias`.
#[derive(Clone, Debug)]
pub struct LayerNorm {
    kernel: Kernel,
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

impl LayerNorm {
    /// Rows are as long as `weight` and `bias`.
    ///
    /// # Errors
    /// A row whose length is no multiple of 8, a bias of another length, or another CPU's kernel.
    pub fn new(kernel: Kernel, weight: &[f32], bias: &[f32], epsilon: f32) -> Result<Self, Error> {
        if weight.is_empty() || !weight.len().is_multiple_of(LANES) {
            return Err(Error::Shape { what: "row", found: weight.len() });
        }
        check_length("bias", weight.len(), bias.len())?;
        Ok(Self { kernel: kernel.check()?, weight: weight.to_vec(), bias: bias.to_vec(), epsilon })
    }

    /// The kernel that runs.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Values of a row.
    #[must_use]
    pub fn width(&self) -> usize {
        self.weight.len()
    }

    /// Normalises each row.
    ///
    /// # Panics
    /// Unless both slices have the same length, whole rows.
    pub fn run(&self, input: &[f32], output: &mut [f32]) {
        assert_eq!(input.len(), output.len(), "output's length");
        assert_eq!(input.len() % self.width(), 0, "whole rows");
        let op = self;
        on_each_family!(self.kernel, normalise, (op: &LayerNorm, input: &[f32], output: &mut [f32]));
    }
}

#[inline(always)]
#[allow(clippy::cast_precision_loss, reason = "a row is short")]
fn normalise(op: &LayerNorm, input: &[f32], output: &mut [f32]) {
    let width = op.width();
    let (weight, bias) = (op.weight.as_chunks::<LANES>().0, op.bias.as_chunks::<LANES>().0);
    for (row, results) in input.chunks_exact(width).zip(output.chunks_exact_mut(width)) {
        let (row, results) = (row.as_chunks::<LANES>().0, results.as_chunks_mut::<LANES>().0);
        let mut sum = [0.0; LANES];
        for x in row {
            sum = std::array::from_fn(|lane| sum[lane] + x[lane]);
        }
        let mean = total(sum) / width as f32;
        let centred = |x: &Lanes| -> Lanes { std::array::from_fn(|lane| x[lane] - mean) };
        let mut squares = [0.0; LANES];
        for x in row {
            squares = fused(centred(x), centred(x), squares);
        }
        let inverse = 1.0 / (total(squares) / width as f32 + op.epsilon).sqrt();
        for ((result, x), (weight, bias)) in results.iter_mut().zip(row).zip(weight.iter().zip(bias)) {
            let centred = centred(x);
            *result = fused(std::array::from_fn(|lane| centred[lane] * inverse), *weight, *bias);
        }
    }
}

/// Softmax over rows.
#[derive(Clone, Copy, Debug)]
pub struct Softmax {
    kernel: Kernel,
    width: usize,
}

impl Softmax {
    /// Of rows of `width` values.
    ///
    /// # Errors
    /// Rows of no values, or another CPU's kernel.
    pub fn new(kernel: Kernel, width: usize) -> Result<Self, Error> {
        if width == 0 {
            return Err(Error::Shape { what: "row", found: width });
        }
        Ok(Self { kernel: kernel.check()?, width })
    }

    /// The kernel that runs.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Each row to positive values whose sum is 1. What is 80 below a row's greatest value becomes 0.
    ///
    /// # Panics
    /// Unless both slices have the same length, whole rows.
    pub fn run(&self, input: &[f32], output: &mut [f32]) {
        assert_eq!(input.len(), output.len(), "output's length");
        assert_eq!(input.len() % self.width, 0, "whole rows");
        let width = self.width;
        on_each_family!(self.kernel, softmax, (width: usize, input: &[f32], output: &mut [f32]));
    }
}

#[inline(always)]
fn softmax(width: usize, input: &[f32], output: &mut [f32]) {
    for (row, results) in input.chunks_exact(width).zip(output.chunks_exact_mut(width)) {
        let (whole, rest) = row.as_chunks::<LANES>();
        // Padded with what becomes 0.
        let mut last = [f32::NEG_INFINITY; LANES];
        last[..rest.len()].copy_from_slice(rest);
        let greater = |a: f32, b: f32| if b > a { b } else { a };
        let mut most = last;
        for x in whole {
            most = std::array::from_fn(|lane| greater(most[lane], x[lane]));
        }
        let most = most.into_iter().fold(f32::NEG_INFINITY, greater);
        let power = |x: &Lanes| -> Lanes { std::array::from_fn(|lane| exp(x[lane] - most)) };
        let (whole_results, rest_results) = results.as_chunks_mut::<LANES>();
        let last = power(&last);
        let mut sum = last;
        for (result, x) in whole_results.iter_mut().zip(whole) {
            *result = power(x);
            sum = std::array::from_fn(|lane| sum[lane] + result[lane]);
        }
        rest_results.copy_from_slice(&last[..rest.len()]);
        let sum = total(sum);
        results.iter_mut().for_each(|result| *result /= sum);
    }
}

/// GELU by the tanh approximation, as `x / (1 + e^(-2u))` with `u = sqrt(2 / pi) * (x + 0.044715 * x^3)`.
#[derive(Clone, Copy, Debug)]
pub struct Gelu {
    kernel: Kernel,
}

impl Gelu {
    /// # Errors
    /// Another CPU's kernel.
    pub fn new(kernel: Kernel) -> Result<Self, Error> {
        Ok(Self { kernel: kernel.check()? })
    }

    /// The kernel that runs.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Value by value.
    ///
    /// # Panics
    /// Unless both slices have the same length.
    pub fn run(&self, input: &[f32], output: &mut [f32]) {
        assert_eq!(input.len(), output.len(), "output's length");
        on_each_family!(self.kernel, gelu, (input: &[f32], output: &mut [f32]));
    }
}

/// -2 * sqrt(2 / pi).
const SLOPE: f32 = -1.595_769;

#[inline(always)]
fn gelu(input: &[f32], output: &mut [f32]) {
    for (result, &x) in output.iter_mut().zip(input) {
        let inner = (0.044_715 * x * x).mul_add(x, x);
        *result = x / (1.0 + exp(SLOPE * inner));
    }
}
