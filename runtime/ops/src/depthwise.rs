//! Depthwise convolutions, 3x3 and 5x5, stride 1 or 2, in int8 and f32.
//!
//! Input rows are copied into a ring of padded rows in the caller's scratch, as many as the kernel is high. Kernels
//! therefore see neither borders nor incomplete blocks of channels, and the rows in work stay in the first-level cache.

#[cfg(target_arch = "x86_64")]
use crate::kernels::{avx2, avx512, avx512_depthwise};
#[cfg(target_arch = "aarch64")]
use crate::kernels::{dotprod_depthwise, neon_depthwise};
use crate::{
    error::{Error, check_length},
    kernels::{Channels, Kernel, blocks::copy, scalar},
    linear::{ChannelSums, check_weights, fold, zero_point},
    semantics::{Activation, Clamp, QuantParams, Table, multipliers},
    window::Window,
};

/// Blocks of channels that every kernel may touch as a whole.
pub(crate) const CHANNEL_BLOCK: usize = 16;

/// Depthwise convolutions give one channel out for each channel in, with squares of 3 or 5 and steps of 1 or 2.
impl Window {
    fn check_depthwise(&self) -> Result<(), Error> {
        if ![3, 5].contains(&self.size) {
            return Err(Error::Shape { what: "size", found: self.size });
        }
        if ![1, 2].contains(&self.stride) {
            return Err(Error::Shape { what: "stride", found: self.stride });
        }
        self.check()
    }

    /// Values of a depthwise convolution's output.
    #[must_use]
    pub const fn output_len(&self) -> usize {
        self.output_pixels() * self.channels
    }

    const fn padded_channels(&self) -> usize {
        self.channels.next_multiple_of(CHANNEL_BLOCK)
    }

    /// Scratch values that a depthwise convolution needs: `size` padded rows.
    #[must_use]
    pub const fn scratch_len(&self) -> usize {
        self.size * self.padded_width() * self.padded_channels()
    }

    /// Weights in blocks of channels: [padded channels / block][size * size][block].
    fn pack<T: Copy + Default>(&self, weights: &[T], block: usize) -> Vec<T> {
        let mut packed = Vec::with_capacity(self.size * self.size * self.padded_channels());
        for first in (0..self.padded_channels()).step_by(block) {
            for tap in weights.chunks_exact(self.channels) {
                let channel = |channel: usize| tap.get(channel).copied().unwrap_or_default();
                packed.extend((first..first + block).map(channel));
            }
        }
        packed
    }

    /// Slides over the image: `run_row` gets the padded rows under each row of outputs, as `copy` puts them there.
    fn slide<T: Copy>(
        &self,
        input: &[T],
        padding: T,
        copy: impl Fn(&[T], &mut [T]),
        scratch: &mut [T],
        output: &mut [T],
        run_row: impl Fn(&[&[T]], &mut [T]),
    ) {
        assert_eq!(input.len(), self.input_len(), "input's length");
        assert_eq!(output.len(), self.output_len(), "output's length");
        let scratch = &mut scratch[..self.scratch_len()];
        let row_len = self.padded_width() * self.padded_channels();
        for row in scratch.chunks_exact_mut(row_len) {
            self.fill_border(padding, row);
        }
        let mut filled = 0;
        for (y, results) in output.chunks_exact_mut(self.output_width() * self.channels).enumerate() {
            let first = y * self.stride;
            for row in filled.max(first)..first + self.size {
                let target = &mut scratch[row % self.size * row_len..][..row_len];
                self.fill_row(input, padding, &copy, row, target);
            }
            filled = first + self.size;
            let at = |row: usize| &scratch[(first + row) % self.size * row_len..][..row_len];
            let rows: [&[T]; 5] = std::array::from_fn(|row| at(row % self.size));
            run_row(&rows[..self.size], results);
        }
    }

    /// Pads what [`Self::fill_row`] leaves alone: columns at both ends, and channels.
    fn fill_border<T: Copy>(&self, padding: T, row: &mut [T]) {
        let padded = self.padded_channels();
        if padded == self.channels {
            row[..self.padding[1] * padded].fill(padding);
            row[(self.padding[1] + self.width) * padded..].fill(padding);
        } else {
            row.fill(padding);
        }
    }

    /// Copies a row of the padded image; the padding of columns and channels is in place already.
    fn fill_row<T: Copy>(
        &self,
        input: &[T],
        padding: T,
        copy: impl Fn(&[T], &mut [T]),
        row: usize,
        target: &mut [T],
    ) {
        let Some(source) = self.input_row(input, row) else {
            return target.fill(padding);
        };
        let padded = self.padded_channels();
        let target = &mut target[self.padding[1] * padded..][..self.width * padded];
        if padded == self.channels {
            return copy(source, target);
        }
        for (pixel, target) in source.chunks_exact(self.channels).zip(target.chunks_exact_mut(padded)) {
            copy(pixel, &mut target[..self.channels]);
        }
    }
}

/// An int8 depthwise convolution as the bundle describes it.
#[derive(Clone, Debug)]
pub struct DepthwiseSpec<'a> {
    /// Image and square.
    pub window: Window,
    /// [size, size, channels], each in [-127, 127].
    pub weights: &'a [i8],
    /// One per channel, in units of `input.scale * weight_scale`.
    pub bias: &'a [i32],
    /// One per channel.
    pub weight_scales: &'a [f32],
    /// The input's parameters; padding has its zero point.
    pub input: QuantParams,
    /// The output's parameters, those of the table's input if the activation is a table.
    pub output: QuantParams,
    /// What follows the requantisation.
    pub activation: Activation,
}

/// An int8 depthwise convolution with its weights packed.
#[derive(Clone, Debug)]
pub struct Depthwise {
    kernel: Kernel,
    pub(crate) window: Window,
    pub(crate) padded_channels: usize,
    /// [padded channels / 16][size * size][16], or as the kernel with dot products wants them.
    pub(crate) weights: Vec<i8>,
    /// In order, or as AVX-512 wants them.
    pub(crate) channels: Channels,
    pub(crate) clamp: Clamp,
    /// The input's zero point, as the kernel's rows have it.
    padding: i8,
    table: Option<Table>,
}

impl Depthwise {
    /// Checks the description and packs the weights for `kernel`.
    ///
    /// # Errors
    /// Whatever [`Error`] lists.
    pub fn new(kernel: Kernel, spec: &DepthwiseSpec<'_>) -> Result<Self, Error> {
        let window = spec.window;
        window.check_depthwise()?;
        check_length("weights", window.size * window.size * window.channels, spec.weights.len())?;
        check_length("bias", window.channels, spec.bias.len())?;
        check_length("weight scales", window.channels, spec.weight_scales.len())?;
        check_weights(spec.weights)?;
        let column = |channel: usize| spec.weights[channel..].iter().step_by(window.channels).copied();
        let sums = (0..window.channels).map(|channel| ChannelSums::of(column(channel)));
        let factors = multipliers(spec.input, spec.weight_scales, spec.output)?;
        let kernel = kernel.check()?;
        let zero_point = zero_point(kernel, spec.input);
        let channels = fold(spec.bias, sums, &factors, zero_point, CHANNEL_BLOCK)?;
        let (weights, channels) = pack(kernel, &window, spec.weights, channels);
        Ok(Self {
            kernel,
            window,
            padded_channels: window.padded_channels(),
            weights,
            channels,
            clamp: Clamp::new(spec.output, &spec.activation),
            padding: zero_point.to_le_bytes()[0].cast_signed(),
            table: spec.activation.table().cloned(),
        })
    }

    /// The kernel that runs.
    #[must_use]
    pub const fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// From [height, width, channels] to [output height, output width, channels].
    ///
    /// # Panics
    /// Unless the slices have the window's lengths; `scratch` may be longer.
    pub fn run(&self, input: &[i8], scratch: &mut [i8], output: &mut [i8]) {
        let fill = |source: &[i8], target: &mut [i8]| {
            #[cfg(target_arch = "x86_64")]
            if self.kernel == Kernel::Avx512Vnni {
                // SAFETY: `new` has checked that this CPU has `avx512f` and `avx512bw`.
                return unsafe { avx512::copy_unsigned(source, target) };
            }
            copy(source, target);
        };
        let run_row = |rows: &[&[i8]], results: &mut [i8]| self.run_row(rows, results);
        self.window.slide(input, self.padding, fill, scratch, output, run_row);
        if let Some(table) = &self.table {
            table.apply(output);
        }
    }

    /// The weight of a tap and a channel.
    pub(crate) fn weight(&self, tap: usize, channel: usize) -> i8 {
        let taps = self.window.size * self.window.size;
        self.weights[(channel / CHANNEL_BLOCK * taps + tap) * CHANNEL_BLOCK + channel % CHANNEL_BLOCK]
    }

    fn run_row(&self, rows: &[&[i8]], results: &mut [i8]) {
        match self.kernel {
            Kernel::Scalar => scalar::depthwise_row(self, rows, results),
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `new` has checked that this CPU has `dotprod` (with `i8mm` it always does).
            Kernel::NeonDotprod | Kernel::NeonI8mm if takes_dot_products(self.kernel, &self.window) => unsafe {
                dotprod_depthwise::depthwise_row(self, rows, results);
            },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `new` has checked that this CPU has `neon`.
            Kernel::Neon | Kernel::NeonDotprod | Kernel::NeonI8mm => unsafe {
                neon_depthwise::depthwise_row(self, rows, results);
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `new` has checked that this CPU has `avx2`.
            Kernel::Avx2 => unsafe { avx2::depthwise_row(self, rows, results) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `new` has checked that this CPU has `avx512f`, `avx512bw`, `avx512vl` and
            // `avx512vnni`.
            Kernel::Avx512Vnni => unsafe { avx512_depthwise::depthwise_row(self, rows, results) },
            #[allow(unreachable_patterns, reason = "the other CPUs' kernels")]
            _ => unreachable!("`new` refuses the kernels of other CPUs"),
        }
    }
}

/// Whether the kernel with dot products takes it: whole blocks of channels, and not where three interleaved columns
/// serve little more than one output.
#[cfg(target_arch = "aarch64")]
fn takes_dot_products(kernel: Kernel, window: &Window) -> bool {
    matches!(kernel, Kernel::NeonDotprod | Kernel::NeonI8mm)
        && window.channels.is_multiple_of(CHANNEL_BLOCK)
        && (window.size, window.stride) != (3, 2)
}

/// Weights, and what else channels have, as the kernel wants them.
fn pack(kernel: Kernel, window: &Window, weights: &[i8], channels: Channels) -> (Vec<i8>, Channels) {
    #[cfg(target_arch = "x86_64")]
    if kernel == Kernel::Avx512Vnni {
        return avx512_depthwise::pack(window, weights, &channels);
    }
    let packed = window.pack(weights, CHANNEL_BLOCK);
    #[cfg(target_arch = "aarch64")]
    if takes_dot_products(kernel, window) {
        return (dotprod_depthwise::pack(window.size, &packed), channels);
    }
    #[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
    let _ = kernel;
    (packed, channels)
}

/// An f32 depthwise convolution.
#[derive(Clone, Debug)]
pub struct FloatDepthwiseSpec<'a> {
    /// Image and square.
    pub window: Window,
    /// [size, size, channels].
    pub weights: &'a [f32],
    /// One per channel.
    pub bias: &'a [f32],
    /// The least output; `f32::NEG_INFINITY` for no bound.
    pub low: f32,
    /// The greatest output; `f32::INFINITY` for no bound.
    pub high: f32,
}

/// Channels whose weights lie together: one register's on NEON, all for the code that the compiler vectorises.
const fn float_block(kernel: Kernel, window: &Window) -> usize {
    match kernel {
        Kernel::Neon | Kernel::NeonDotprod | Kernel::NeonI8mm => 4,
        _ => window.padded_channels(),
    }
}

/// An f32 depthwise convolution with its weights packed.
#[derive(Clone, Debug)]
pub struct FloatDepthwise {
    kernel: Kernel,
    pub(crate) window: Window,
    pub(crate) padded_channels: usize,
    /// [padded channels / block][size * size][block]; see [`float_block`].
    pub(crate) weights: Vec<f32>,
    pub(crate) bias: Vec<f32>,
    pub(crate) low: f32,
    pub(crate) high: f32,
}

impl FloatDepthwise {
    /// Checks the description and packs the weights for `kernel`.
    ///
    /// # Errors
    /// Lengths, shapes, or another CPU's kernel.
    pub fn new(kernel: Kernel, spec: &FloatDepthwiseSpec<'_>) -> Result<Self, Error> {
        let window = spec.window;
        window.check_depthwise()?;
        check_length("weights", window.size * window.size * window.channels, spec.weights.len())?;
        check_length("bias", window.channels, spec.bias.len())?;
        let mut bias = spec.bias.to_vec();
        bias.resize(window.padded_channels(), 0.0);
        Ok(Self {
            kernel: kernel.check()?,
            window,
            padded_channels: window.padded_channels(),
            weights: window.pack(spec.weights, float_block(kernel, &window)),
            bias,
            low: spec.low,
            high: spec.high,
        })
    }

    /// From [height, width, channels] to [output height, output width, channels].
    ///
    /// # Panics
    /// Unless the slices have the window's lengths; `scratch` may be longer.
    pub fn run(&self, input: &[f32], scratch: &mut [f32], output: &mut [f32]) {
        self.window.slide(input, 0.0, copy, scratch, output, |rows, results| self.run_row(rows, results));
    }

    fn run_row(&self, rows: &[&[f32]], results: &mut [f32]) {
        match self.kernel {
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `new` has checked that this CPU has `neon`.
            Kernel::Neon | Kernel::NeonDotprod | Kernel::NeonI8mm => unsafe {
                neon_depthwise::float_depthwise_row(self, rows, results);
            },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `new` has checked that this CPU has `avx2` and `fma`.
            Kernel::Avx2 | Kernel::Avx512Vnni => unsafe { avx2::float_depthwise_row(self, rows, results) },
            _ => scalar::float_depthwise_row(self, rows, results),
        }
    }
}
