//! Frames side by side, for [`crate::spectrogram`]: one register of NEON, which is part of every aarch64 target, or eight f32
//! elsewhere, which the compiler makes registers of. (Of arrays, it made registers on aarch64 only where products are.)
//!
//! The same operations in the same order give the same bits in both.

#[cfg(not(target_arch = "aarch64"))]
pub(crate) use plain::Vector;

#[cfg(target_arch = "aarch64")]
pub(crate) use crate::kernels::neon_vector::Vector;

#[cfg(not(target_arch = "aarch64"))]
mod plain {
    use std::array::from_fn;

    use crate::lanes::{self, multiply_add};

    const LANES: usize = 8;

    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Vector([f32; LANES]);

    impl Vector {
        pub(crate) const LANES: usize = LANES;

        #[inline(always)]
        pub(crate) fn splat(x: f32) -> Self {
            Self([x; LANES])
        }

        /// As many samples of each frame as there are results.
        #[inline(always)]
        pub(crate) fn turn(frames: [[i16; 4]; LANES]) -> [Self; 4] {
            from_fn(|sample| Self(frames.map(|frame| f32::from(frame[sample]))))
        }

        #[inline(always)]
        pub(crate) fn store(self) -> [f32; LANES] {
            self.0
        }

        #[inline(always)]
        pub(crate) fn add(self, other: Self) -> Self {
            Self(from_fn(|lane| self.0[lane] + other.0[lane]))
        }

        #[inline(always)]
        pub(crate) fn sub(self, other: Self) -> Self {
            Self(from_fn(|lane| self.0[lane] - other.0[lane]))
        }

        #[inline(always)]
        pub(crate) fn scale(self, factor: f32) -> Self {
            Self(self.0.map(|x| x * factor))
        }

        /// `self + factor * other`.
        #[inline(always)]
        pub(crate) fn plus(self, factor: f32, other: Self) -> Self {
            Self(from_fn(|lane| multiply_add(other.0[lane], factor, self.0[lane])))
        }

        /// `self - factor * other`.
        #[inline(always)]
        pub(crate) fn minus(self, factor: f32, other: Self) -> Self {
            Self(from_fn(|lane| multiply_add(-other.0[lane], factor, self.0[lane])))
        }

        /// `sqrt(self^2 + other^2)`.
        #[inline(always)]
        pub(crate) fn hypotenuse(self, other: Self) -> Self {
            Self(from_fn(|lane| {
                multiply_add(self.0[lane], self.0[lane], other.0[lane] * other.0[lane]).sqrt()
            }))
        }

        /// Of normal positive numbers: [`lanes::ln`].
        #[inline(always)]
        pub(crate) fn ln(self) -> Self {
            Self(self.0.map(lanes::ln))
        }
    }
}
