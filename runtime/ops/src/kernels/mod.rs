//! The kernels, one module per CPU family, and the choice between them at run time.
//!
//! A packed operator holds its [`Kernel`], and [`Kernel::check`] has admitted it: whoever runs the operator therefore
//! knows that the CPU has the kernel's instructions. The `unsafe` calls into the families rest on that.

use std::fmt;

use crate::error::Error;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512_depthwise;
pub(crate) mod blocks;
#[cfg(target_arch = "aarch64")]
pub(crate) mod dotprod;
#[cfg(target_arch = "aarch64")]
pub(crate) mod dotprod_depthwise;
#[cfg(target_arch = "aarch64")]
pub(crate) mod i8mm;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon_depthwise;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon_elementwise;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon_filter;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon_picture;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon_pixels;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon_tile;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon_vector;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon_wide;
pub(crate) mod scalar;

/// A family of kernels, named for the instructions that it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kernel {
    /// Plain Rust, anywhere.
    Scalar,
    /// aarch64 without dot products: Cortex-A53, A57, A72.
    Neon,
    /// aarch64 with `sdot`: Cortex-A76, A78AE.
    NeonDotprod,
    /// aarch64 with `smmla` and `sdot`: Cortex-A510, A710, Neoverse V1.
    NeonI8mm,
    /// x86-64 with AVX2 and FMA.
    Avx2,
    /// x86-64 with AVX-512 F, BW, VL and VNNI (and AVX2 with FMA).
    Avx512Vnni,
}

impl Kernel {
    /// All kernels, the slowest first.
    pub const ALL: [Self; 6] =
        [Self::Scalar, Self::Neon, Self::NeonDotprod, Self::NeonI8mm, Self::Avx2, Self::Avx512Vnni];

    /// The fastest kernel that this CPU can run.
    #[must_use]
    pub fn best() -> Self {
        Self::ALL.into_iter().rev().find(|kernel| kernel.is_available()).unwrap_or(Self::Scalar)
    }

    /// The kernels that this CPU can run, the slowest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|kernel| kernel.is_available())
    }

    /// Whether this CPU can run the kernel.
    #[must_use]
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonDotprod => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            Self::NeonI8mm => {
                std::arch::is_aarch64_feature_detected!("dotprod")
                    && std::arch::is_aarch64_feature_detected!("i8mm")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Vnni => {
                has_avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[allow(unreachable_patterns, reason = "the other CPUs' kernels")]
            _ => false,
        }
    }

    /// The name in logs and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::NeonDotprod => "neon-dotprod",
            Self::NeonI8mm => "neon-i8mm",
            Self::Avx2 => "avx2",
            Self::Avx512Vnni => "avx512-vnni",
        }
    }

    /// Admits a kernel that this CPU can run.
    pub(crate) fn check(self) -> Result<Self, Error> {
        if self.is_available() { Ok(self) } else { Err(Error::Unavailable(self)) }
    }
}

#[cfg(target_arch = "x86_64")]
fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the end of an integer operator needs for each channel, padded with zeros to whole panels of channels.
#[derive(Clone, Debug)]
pub(crate) struct Channels {
    /// With the input's zero point folded in.
    pub(crate) bias: Vec<i32>,
    pub(crate) mantissa: Vec<i32>,
    pub(crate) shift: Vec<i32>,
    /// `-shift`, as NEON wants it.
    pub(crate) left_shift: Vec<i32>,
    /// Whether a factor is a quarter or more, and a product of 64 bits therefore shifted by only 32.
    #[allow(dead_code, reason = "for AVX-512")]
    pub(crate) coarse: bool,
}

impl Channels {
    /// The constants of `N` channels from `first` on.
    #[inline(always)]
    pub(crate) fn at<const N: usize>(&self, first: usize) -> ChannelBlock<'_, N> {
        ChannelBlock {
            bias: array(&self.bias, first),
            mantissa: array(&self.mantissa, first),
            shift: array(&self.shift, first),
            left_shift: array(&self.left_shift, first),
        }
    }

    /// The constants of all whole blocks of `N` channels.
    #[allow(dead_code, reason = "for NEON")]
    #[inline(always)]
    pub(crate) fn blocks<const N: usize>(&self) -> impl Iterator<Item = ChannelBlock<'_, N>> {
        let blocks =
            [&self.bias, &self.mantissa, &self.shift, &self.left_shift].map(|values| values.as_chunks().0);
        let [bias, mantissa, shift, left_shift] = blocks;
        let pairs = bias.iter().zip(mantissa).zip(shift.iter().zip(left_shift));
        pairs.map(|((bias, mantissa), (shift, left_shift))| ChannelBlock {
            bias,
            mantissa,
            shift,
            left_shift,
        })
    }
}

/// The constants of one block of channels.
#[derive(Clone, Copy)]
pub(crate) struct ChannelBlock<'a, const N: usize> {
    pub(crate) bias: &'a [i32; N],
    pub(crate) mantissa: &'a [i32; N],
    pub(crate) shift: &'a [i32; N],
    #[allow(dead_code, reason = "for NEON")]
    pub(crate) left_shift: &'a [i32; N],
}

/// `N` values from `first` on.
#[inline(always)]
pub(crate) fn array<T, const N: usize>(values: &[T], first: usize) -> &[T; N] {
    values[first..].first_chunk().expect("padded to whole blocks")
}

/// Rows of one GEMM block, cut into steps of `S` values along the inner dimension. The last, incomplete step is copied
/// and padded with zeros, so that no kernel reads past a row.
#[allow(dead_code, reason = "the scalar kernel, the only one on other CPUs, needs no steps")]
pub(crate) struct Rows<'a, const R: usize, const S: usize> {
    pub(crate) steps: [&'a [[i8; S]]; R],
    pub(crate) tail: Option<[[i8; S]; R]>,
}

#[allow(dead_code, reason = "the scalar kernel, the only one on other CPUs, needs no steps")]
impl<'a, const R: usize, const S: usize> Rows<'a, R, S> {
    /// `block` holds `R` rows of `inputs` values.
    #[inline(always)]
    pub(crate) fn new(block: &'a [i8], inputs: usize) -> Self {
        let split = |row: usize| block[row * inputs..][..inputs].as_chunks::<S>();
        let steps = std::array::from_fn(|row| split(row).0);
        let tail = (!inputs.is_multiple_of(S)).then(|| {
            std::array::from_fn(|row| {
                let rest = split(row).1;
                let mut padded = [0; S];
                padded[..rest.len()].copy_from_slice(rest);
                padded
            })
        });
        Self { steps, tail }
    }

    /// The values of one whole step, for each row. (No closure of a kernel's own: those are not inlined across
    /// instruction sets.)
    #[inline(always)]
    pub(crate) fn step(&self, index: usize) -> [&[i8; S]; R] {
        std::array::from_fn(|row| &self.steps[row][index])
    }
}
