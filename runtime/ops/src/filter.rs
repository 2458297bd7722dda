//! Dot products of a filter's coefficients with windows of samples, four at a time: what resampling consists of.
//!
//! Each sum is kept in eight lanes (taps `i`, `i + 8`, ... in lane `i`), which are added up at the end. So a window gives
//! the same bits on every kernel, and whatever the others of its group are.

#[cfg(target_arch = "aarch64")]
use crate::kernels::neon_filter;
use crate::{
    Kernel,
    error::Error,
    lanes::{LANES, Lanes, multiply_add, on_each_family, total},
};

/// Windows of a group.
pub const GROUP: usize = 4;
/// The number of taps is a multiple of this; shorter filters are padded with zeros.
pub const STEP: usize = 2 * LANES;

/// Runs filters over windows.
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    kernel: Kernel,
}

impl Filter {
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

    /// One filter over four windows.
    ///
    /// # Panics
    /// Unless all slices have the same length, a multiple of [`STEP`].
    #[must_use]
    pub fn run(&self, filter: &[f32], windows: [&[f32]; GROUP]) -> [f32; GROUP] {
        check(filter.len(), [filter; GROUP], windows);
        let mut sums = [0.0; GROUP];
        let results = &mut sums;
        match self.kernel {
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `new` has checked that this CPU has `neon`; `check`, that all slices have one length.
            Kernel::Neon | Kernel::NeonDotprod | Kernel::NeonI8mm => unsafe {
                neon_filter::one(filter, windows, results);
            },
            _ => {
                on_each_family!(self.kernel, one, (filter: &[f32], windows: [&[f32]; GROUP], results: &mut [f32; GROUP]));
            }
        }
        sums
    }

    /// A filter of its own over each of four windows.
    ///
    /// # Panics
    /// Unless all slices have the same length, a multiple of [`STEP`].
    #[must_use]
    pub fn run_each(&self, filters: [&[f32]; GROUP], windows: [&[f32]; GROUP]) -> [f32; GROUP] {
        check(filters[0].len(), filters, windows);
        let mut sums = [0.0; GROUP];
        let results = &mut sums;
        match self.kernel {
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `new` has checked that this CPU has `neon`; `check`, that all slices have one length.
            Kernel::Neon | Kernel::NeonDotprod | Kernel::NeonI8mm => unsafe {
                neon_filter::each(filters, windows, results);
            },
            _ => {
                on_each_family!(self.kernel, each, (filters: [&[f32]; GROUP], windows: [&[f32]; GROUP], results: &mut [f32; GROUP]));
            }
        }
        sums
    }
}

fn check(taps: usize, filters: [&[f32]; GROUP], windows: [&[f32]; GROUP]) {
    assert!(taps.is_multiple_of(STEP), "whole steps");
    assert!(filters.iter().chain(&windows).all(|values| values.len() == taps), "one length");
}

#[inline(always)]
fn one(filter: &[f32], windows: [&[f32]; GROUP], results: &mut [f32; GROUP]) {
    each([filter; GROUP], windows, results);
}

#[inline(always)]
fn each(filters: [&[f32]; GROUP], windows: [&[f32]; GROUP], results: &mut [f32; GROUP]) {
    let (filters, windows) = (filters.map(lanes), windows.map(lanes));
    let mut sums = [[0.0; LANES]; GROUP];
    for step in 0..filters[0].len() {
        for (index, sum) in sums.iter_mut().enumerate() {
            let (filter, window): (&Lanes, &Lanes) = (&filters[index][step], &windows[index][step]);
            *sum = std::array::from_fn(|lane| multiply_add(filter[lane], window[lane], sum[lane]));
        }
    }
    *results = sums.map(total);
}

#[inline(always)]
fn lanes(values: &[f32]) -> &[Lanes] {
    values.as_chunks().0
}
