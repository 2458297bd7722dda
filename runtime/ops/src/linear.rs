//! int8 linear layers and 1x1 convolutions: `[rows, inputs] x [inputs, outputs]`, requantised and activated.
//!
//! A 1x1 convolution of an NHWC image is a linear layer with one row per pixel. One row alone takes a path of its own
//! (GEMV) in every family.

#[cfg(target_arch = "x86_64")]
use crate::kernels::{avx2, avx512};
#[cfg(target_arch = "aarch64")]
use crate::kernels::{dotprod, i8mm, neon};
use crate::{
    error::{Error, check_length},
    kernels::{Channels, Kernel, scalar},
    semantics::{ACC_LIMIT, Activation, Clamp, Multiplier, QuantParams, Table, multipliers},
};

/// A linear layer as the bundle describes it.
#[derive(Clone, Debug)]
pub struct LinearSpec<'a> {
    /// Values in a row of input.
    pub inputs: usize,
    /// Output channels.
    pub outputs: usize,
    /// [outputs, inputs], each in [-127, 127].
    pub weights: &'a [i8],
    /// One per output, in units of `input.scale * weight_scale`; see [`crate::semantics::quantise_bias`].
    pub bias: &'a [i32],
    /// One per output.
    pub weight_scales: &'a [f32],
    /// The input's parameters.
    pub input: QuantParams,
    /// The output's parameters, those of the table's input if the activation is a table.
    pub output: QuantParams,
    /// What follows the requantisation.
    pub activation: Activation,
}

/// A linear layer with its weights packed for one kernel.
#[derive(Clone, Debug)]
pub struct Linear {
    kernel: Kernel,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
    /// In panels of [`Layout::panel`] outputs, each in steps of [`Layout::step`] inputs.
    pub(crate) weights: Vec<i8>,
    pub(crate) channels: Channels,
    pub(crate) clamp: Clamp,
    table: Option<Table>,
}

impl Linear {
    /// Checks the description and packs the weights for `kernel`.
    ///
    /// # Errors
    /// Whatever [`Error`] lists: lengths, weights of -128, scales, accumulators out of range, another CPU's kernel.
    pub fn new(kernel: Kernel, spec: &LinearSpec<'_>) -> Result<Self, Error> {
        let kernel = kernel.check()?;
        check_shape(spec)?;
        let layout = Layout::of(kernel);
        let rows: Vec<&[i8]> = spec.weights.chunks_exact(spec.inputs).collect();
        let sums = rows.iter().map(|weights| ChannelSums::of(weights.iter().copied()));
        let factors = multipliers(spec.input, spec.weight_scales, spec.output)?;
        let channels = fold(
            spec.bias,
            sums,
            &factors,
            zero_point(kernel, spec.input),
            layout.panel.max(layout.outputs),
        )?;
        Ok(Self {
            kernel,
            inputs: spec.inputs,
            outputs: spec.outputs,
            weights: layout.pack(&rows, spec.inputs),
            channels,
            clamp: Clamp::new(spec.output, &spec.activation),
            table: spec.activation.table().cloned(),
        })
    }

    /// The kernel that runs.
    #[must_use]
    pub const fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Values in a row of input.
    #[must_use]
    pub const fn inputs(&self) -> usize {
        self.inputs
    }

    /// Output channels.
    #[must_use]
    pub const fn outputs(&self) -> usize {
        self.outputs
    }

    /// From [rows, inputs] to [rows, outputs].
    ///
    /// # Panics
    /// Unless `input` is whole rows and `output` has a place for each of their results.
    pub fn run(&self, input: &[i8], output: &mut [i8]) {
        assert!(input.len().is_multiple_of(self.inputs), "input of {} is not whole rows", input.len());
        assert_eq!(output.len(), input.len() / self.inputs * self.outputs, "output's length");
        match self.kernel {
            Kernel::Scalar => scalar::linear(self, input, output),
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `new` has checked that this CPU has `neon`.
            Kernel::Neon => unsafe { neon::linear(self, input, output) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `new` has checked that this CPU has `dotprod`.
            Kernel::NeonDotprod => unsafe { dotprod::linear(self, input, output) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `new` has checked that this CPU has `i8mm`.
            Kernel::NeonI8mm => unsafe { i8mm::linear(self, input, output) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `new` has checked that this CPU has `avx2`.
            Kernel::Avx2 => unsafe { avx2::linear(self, input, output) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `new` has checked that this CPU has `avx512f`, `avx512bw`, `avx512vl` and
            // `avx512vnni`.
            Kernel::Avx512Vnni => unsafe { avx512::linear(self, input, output) },
            #[allow(unreachable_patterns, reason = "the other CPUs' kernels")]
            _ => unreachable!("`new` refuses the kernels of other CPUs"),
        }
        if let Some(table) = &self.table {
            table.apply(output);
        }
    }
}

fn check_shape(spec: &LinearSpec<'_>) -> Result<(), Error> {
    for (what, found) in [("inputs", spec.inputs), ("outputs", spec.outputs)] {
        if found == 0 {
            return Err(Error::Shape { what, found });
        }
    }
    check_length("weights", spec.inputs * spec.outputs, spec.weights.len())?;
    check_length("bias", spec.outputs, spec.bias.len())?;
    check_length("weight scales", spec.outputs, spec.weight_scales.len())?;
    check_weights(spec.weights)
}

pub(crate) fn check_weights(weights: &[i8]) -> Result<(), Error> {
    if weights.contains(&i8::MIN) { Err(Error::Weight) } else { Ok(()) }
}

/// Sums over one channel's weights.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ChannelSums {
    signed: i64,
    absolute: i64,
}

impl ChannelSums {
    pub(crate) fn of(weights: impl Iterator<Item = i8>) -> Self {
        weights.map(i64::from).fold(Self::default(), |sums, w| Self {
            signed: sums.signed + w,
            absolute: sums.absolute + w.abs(),
        })
    }
}

/// The zero point of what a kernel multiplies: AVX-512 takes `x + 128`.
pub(crate) fn zero_point(kernel: Kernel, input: QuantParams) -> i32 {
    i32::from(input.zero_point) + if kernel == Kernel::Avx512Vnni { 128 } else { 0 }
}

/// Folds the input's zero point into the bias: `sum((x - z) * w) = sum(x * w) - z * sum(w)`. Refuses channels whose
/// accumulator could exceed [`ACC_LIMIT`] on the way or at the end. Pads to whole panels.
pub(crate) fn fold(
    bias: &[i32],
    sums: impl Iterator<Item = ChannelSums>,
    factors: &[Multiplier],
    zero_point: i32,
    panel: usize,
) -> Result<Channels, Error> {
    let padded = bias.len().next_multiple_of(panel);
    let mut channels = Channels {
        bias: vec![0; padded],
        mantissa: vec![0; padded],
        shift: vec![1; padded],
        left_shift: vec![-1; padded],
        coarse: factors.iter().any(|factor| factor.mantissa != 0 && factor.shift == 1),
    };
    for (channel, ((&bias, sums), factor)) in bias.iter().zip(sums).zip(factors).enumerate() {
        let folded = i64::from(bias) - i64::from(zero_point) * sums.signed;
        let worst = i64::from(bias).abs() + 256 * sums.absolute;
        channels.bias[channel] = match i32::try_from(folded) {
            Ok(folded) if worst <= ACC_LIMIT => folded,
            _ => return Err(Error::Accumulator { channel }),
        };
        channels.mantissa[channel] = factor.mantissa;
        channels.shift[channel] = factor.shift;
        channels.left_shift[channel] = -factor.shift;
    }
    Ok(channels)
}

/// How a family wants the weights of a GEMM.
#[derive(Clone, Copy)]
struct Layout {
    /// Outputs that lie together; fewer in the last panel.
    panel: usize,
    /// Outputs are padded to a multiple of this.
    outputs: usize,
    /// Inputs to which each panel is padded.
    step: usize,
    /// Neighbouring inputs of one output that lie together within a step.
    group: usize,
}

impl Layout {
    const fn of(kernel: Kernel) -> Self {
        let (panel, outputs, step, group) = match kernel {
            Kernel::Scalar => (1, 1, 1, 1),
            Kernel::Neon => (4, 8, 16, 16),
            Kernel::Avx2 => (8, 8, 2, 2),
            Kernel::NeonDotprod => (16, 8, 16, 4),
            Kernel::NeonI8mm => (16, 8, 16, 8),
            Kernel::Avx512Vnni => (16, 16, 4, 4),
        };
        Self { panel, outputs, step, group }
    }

    /// [outputs / panel][inputs / group][panel][group], padded with zero weights.
    fn pack(self, rows: &[&[i8]], inputs: usize) -> Vec<i8> {
        let (outputs, padded) =
            (rows.len().next_multiple_of(self.outputs), inputs.next_multiple_of(self.step));
        let mut packed = Vec::with_capacity(outputs * padded);
        for panel in (0..outputs).step_by(self.panel) {
            for first in (0..padded).step_by(self.group) {
                for output in panel..outputs.min(panel + self.panel) {
                    for input in first..first + self.group {
                        packed.push(rows.get(output).and_then(|row| row.get(input)).copied().unwrap_or(0));
                    }
                }
            }
        }
        packed
    }
}
