//! What can be wrong with an operator's description. Everything is checked when weights are packed, nothing at run time.

use std::fmt;

use crate::Kernel;

/// Why an operator cannot be built.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A slice does not have the length that the shape asks for.
    Length {
        /// Which slice.
        what: &'static str,
        /// What the shape asks for.
        expected: usize,
        /// What it has.
        found: usize,
    },
    /// A dimension is zero or outside what the operator supports.
    Shape {
        /// Which dimension.
        what: &'static str,
        /// Its value.
        found: usize,
    },
    /// A weight of -128: weights are symmetric, in [-127, 127].
    Weight,
    /// A scale is not a positive finite number.
    Scale {
        /// The scale.
        found: f32,
    },
    /// A rescaling factor is too large for the fixed-point format: the output's scale is far too small.
    Rescale {
        /// The factor.
        found: f64,
        /// The limit it must stay below.
        limit: f64,
    },
    /// A channel's sum could leave the accumulator's guaranteed range, ±2^30.
    Accumulator {
        /// The channel.
        channel: usize,
    },
    /// This CPU cannot run the kernel.
    Unavailable(Kernel),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length { what, expected, found } => {
                write!(f, "{what}: {expected} values expected, {found} found")
            }
            Self::Shape { what, found } => write!(f, "{what} = {found} is not supported"),
            Self::Weight => write!(f, "a weight is -128; int8 weights are symmetric, in [-127, 127]"),
            Self::Scale { found } => write!(f, "scale {found} is not a positive finite number"),
            Self::Rescale { found, limit } => {
                write!(f, "rescaling by {found} must stay below {limit}; give the output a larger scale")
            }
            Self::Accumulator { channel } => {
                write!(f, "channel {channel}: bias and inputs could exceed the accumulator's range of 2^30")
            }
            Self::Unavailable(kernel) => {
                write!(f, "this CPU has no {kernel} kernel; Kernel::best() picks one")
            }
        }
    }
}

impl std::error::Error for Error {}

/// Checks a slice's length.
pub(crate) fn check_length(what: &'static str, expected: usize, found: usize) -> Result<(), Error> {
    if expected == found { Ok(()) } else { Err(Error::Length { what, expected, found }) }
}
