//! girasol-ops: the int8 operators that carry girasol's networks, with one meaning on every CPU.
//!
//! [`semantics`] defines the arithmetic bit for bit, with a scalar reference for every operator. The operators
//! ([`linear`], [`convolution`], [`depthwise`], [`elementwise`]) pack their weights once and then run without allocating,
//! on a [`Kernel`] chosen at run time. Every kernel equals the reference exactly; `tests/` holds them to it.
//!
//! What stays in f32 between integer products is here too ([`attention`], [`pointwise`]), with the same bits on every kernel.
//!
//! So is what makes a network's input: [`filter`] and [`spectrogram`] for sound, [`picture`] and [`pixels`] for pictures.
//!
//! Tensors are plain slices: activations in NHWC, one image at a time.
//!
//! ```
//! use girasol_ops::{Kernel, linear::{Linear, LinearSpec}, semantics::{Activation, QuantParams}};
//!
//! let spec = LinearSpec {
//!     inputs: 2,
//!     outputs: 1,
//!     weights: &[127, -64],
//!     bias: &[0],
//!     weight_scales: &[0.01],
//!     input: QuantParams { scale: 0.1, zero_point: 0 },
//!     output: QuantParams { scale: 0.1, zero_point: 0 },
//!     activation: Activation::Relu,
//! };
//! let linear = Linear::new(Kernel::best(), &spec)?;
//! let mut y = [0i8; 1];
//! linear.run(&[100, 20], &mut y);
//! assert_eq!(y, [114]); // (127 * 100 - 64 * 20) * 0.01 = 114.2
//! # Ok::<(), girasol_ops::Error>(())
//! ```

pub mod attention;
pub mod convolution;
pub mod depthwise;
pub mod elementwise;
mod error;
pub mod filter;
#[cfg_attr(
    not(any(target_arch = "aarch64", target_arch = "x86_64")),
    allow(dead_code, reason = "what the SIMD kernels share; there are none for this CPU")
)]
mod kernels;
mod lanes;
pub mod linear;
pub mod picture;
pub mod pixels;
pub mod pointwise;
pub mod rows;
pub mod semantics;
pub mod spectrogram;
mod vector;
pub mod window;

pub use error::Error;
pub use kernels::Kernel;
