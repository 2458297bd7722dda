//! Element by element: the edges between f32 and int8, and residual addition.
//!
//! Most are written once and compiled for each family; the compiler vectorises them.

#[cfg(target_arch = "aarch64")]
use crate::kernels::neon_elementwise;
#[cfg(target_arch = "x86_64")]
use crate::kernels::{avx2, avx512};
use crate::{
    error::Error,
    kernels::{Kernel, scalar},
    semantics::{AddRescale, Clamp, QuantParams},
};

/// f32 to int8 at the entry of an integer stretch of the graph.
#[derive(Clone, Copy, Debug)]
pub struct Quantise {
    kernel: Kernel,
    params: QuantParams,
}

impl Quantise {
    /// To values in units of `params`.
    ///
    /// # Errors
    /// A scale that is not positive and finite, or another CPU's kernel.
    pub fn new(kernel: Kernel, params: QuantParams) -> Result<Self, Error> {
        Ok(Self { kernel: kernel.check()?, params: params.check()? })
    }

    /// The units of what it makes.
    #[must_use]
    pub fn params(&self) -> QuantParams {
        self.params
    }

    /// Rounds to nearest, halves to even, and saturates; NaN becomes the zero point.
    ///
    /// # Panics
    /// Unless both slices have the same length.
    pub fn run(&self, input: &[f32], output: &mut [i8]) {
        assert_eq!(input.len(), output.len(), "output's length");
        match self.kernel {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `new` has checked that this CPU has `avx2`.
            Kernel::Avx2 | Kernel::Avx512Vnni => unsafe { avx2::quantise(self.params, input, output) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `new` has checked that this CPU has `neon`.
            Kernel::Neon | Kernel::NeonDotprod | Kernel::NeonI8mm => unsafe {
                neon_elementwise::quantise(self.params, input, output);
            },
            _ => scalar::quantise(self.params, input, output),
        }
    }
}

/// [channels, pixels] to [pixels, channels], as integer operators want an image.
///
/// # Panics
/// Unless both slices have the same length, a multiple of `channels`.
pub fn channels_last<T: Copy>(channels: usize, planes: &[T], pixels: &mut [T]) {
    assert_eq!(planes.len(), pixels.len(), "output's length");
    let count = planes.len() / channels;
    assert_eq!(count * channels, planes.len(), "whole pixels");
    match channels {
        1 => pixels.copy_from_slice(planes),
        4 => {
            let (first, rest) = planes.split_at(count);
            let (second, rest) = rest.split_at(count);
            let (third, fourth) = rest.split_at(count);
            let planes = first.iter().zip(second).zip(third).zip(fourth);
            for (pixel, (((&a, &b), &c), &d)) in pixels.as_chunks_mut::<4>().0.iter_mut().zip(planes) {
                *pixel = [a, b, c, d];
            }
        }
        _ => {
            for (channel, plane) in planes.chunks_exact(count.max(1)).enumerate() {
                for (pixel, value) in pixels.chunks_exact_mut(channels).zip(plane) {
                    pixel[channel] = *value;
                }
            }
        }
    }
}

/// [pixels, channels] to [channels, pixels].
///
/// # Panics
/// Unless both slices have the same length, a multiple of `channels`.
pub fn channels_first<T: Copy>(channels: usize, pixels: &[T], planes: &mut [T]) {
    assert_eq!(planes.len(), pixels.len(), "output's length");
    let count = planes.len() / channels;
    assert_eq!(count * channels, planes.len(), "whole pixels");
    for (channel, plane) in planes.chunks_exact_mut(count.max(1)).enumerate() {
        for (value, pixel) in plane.iter_mut().zip(pixels.chunks_exact(channels)) {
            *value = pixel[channel];
        }
    }
}

/// int8 to f32 at the exit.
///
/// # Panics
/// Unless both slices have the same length.
pub fn dequantise(params: QuantParams, input: &[i8], output: &mut [f32]) {
    assert_eq!(input.len(), output.len(), "output's length");
    scalar::dequantise(params, input, output);
}

/// Residual addition: two int8 tensors with parameters of their own, summed into a third.
#[derive(Clone, Copy, Debug)]
pub struct Add {
    kernel: Kernel,
    rescale: AddRescale,
    zero_points: [i8; 2],
    clamp: Clamp,
}

impl Add {
    /// `left + right` in units of `output`, saturated.
    ///
    /// # Errors
    /// Scales out of range, or another CPU's kernel.
    pub fn new(
        kernel: Kernel,
        left: QuantParams,
        right: QuantParams,
        output: QuantParams,
    ) -> Result<Self, Error> {
        Ok(Self {
            kernel: kernel.check()?,
            rescale: AddRescale::new(left.scale, right.scale, output.scale)?,
            zero_points: [left.zero_point, right.zero_point],
            clamp: Clamp { zero_point: output.zero_point, low: i8::MIN, high: i8::MAX },
        })
    }

    /// Adds two tensors.
    ///
    /// # Panics
    /// Unless all slices have the same length.
    pub fn run(&self, left: &[i8], right: &[i8], output: &mut [i8]) {
        assert_eq!(left.len(), output.len(), "left operand's length");
        assert_eq!(right.len(), output.len(), "right operand's length");
        match self.kernel {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `new` has checked that this CPU has `avx2`.
            Kernel::Avx2 => unsafe { self.run_avx2(left, right, output) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `new` has checked that this CPU has `avx512f`, `avx512bw` and `avx512vnni`.
            Kernel::Avx512Vnni => unsafe {
                avx512::add(self.rescale, self.zero_points, self.clamp, [left, right], output);
            },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `new` has checked that this CPU has `neon`.
            Kernel::Neon | Kernel::NeonDotprod | Kernel::NeonI8mm => unsafe {
                let (rescale, zero_points, clamp) = (self.rescale, self.zero_points, self.clamp);
                neon_elementwise::add(rescale, zero_points, clamp, [left, right], output);
            },
            _ => scalar::add(self.rescale, self.zero_points, self.clamp, [left, right], output),
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn run_avx2(&self, left: &[i8], right: &[i8], output: &mut [i8]) {
        scalar::add(self.rescale, self.zero_points, self.clamp, [left, right], output);
    }
}
