//! The first half of an area average: rows of bytes, weighted and added up.

#[cfg(target_arch = "aarch64")]
use crate::kernels::neon_picture;
use crate::{Kernel, error::Error, lanes::on_each_family};

/// Rows that one row of results covers: their weights are `first`, `inner` for all between, and `last`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowSpan {
    /// How many rows.
    pub len: usize,
    /// Weight of the first.
    pub first: u8,
    /// Weight of those between first and last.
    pub inner: u8,
    /// Weight of the last, unless it is the first, too.
    pub last: u8,
}

impl RowSpan {
    /// Weight of the `index`-th row.
    #[must_use]
    #[inline(always)]
    pub fn weight(&self, index: usize) -> u8 {
        match index {
            0 => self.first,
            _ if index + 1 == self.len => self.last,
            _ => self.inner,
        }
    }

    /// Sum of all weights.
    pub(crate) fn total(&self) -> usize {
        let weight = |index| usize::from(self.weight(index));
        match self.len {
            0 => 0,
            1 => weight(0),
            len => weight(0) + weight(len - 1) + (len - 2) * usize::from(self.inner),
        }
    }
}

/// Adds up rows of bytes.
#[derive(Clone, Copy, Debug)]
pub struct RowSums {
    kernel: Kernel,
}

/// Columns that are added up in registers.
pub(crate) const BLOCK: usize = 64;
/// The largest sum of weights whose sums fit an u16.
pub const NARROW: usize = 257;

impl RowSums {
    /// # Errors
    /// Another CPU's kernel.
    pub fn new(kernel: Kernel) -> Result<Self, Error> {
        Ok(Self { kernel: kernel.check()? })
    }

    /// `sums[x]` becomes the weighted sum of `data[y * stride + x]` over the rows of `span`.
    ///
    /// # Panics
    /// Unless `data` has the rows, and their weights add up to no more than 2^24.
    pub fn run(&self, data: &[u8], stride: usize, span: RowSpan, sums: &mut [u32]) {
        assert!(span.total() <= 1 << 24, "a sum fits 32 bits");
        check_rows(data, stride, span, sums.len());
        on_each_family!(self.kernel, add_rows::<u32>, (data: &[u8], stride: usize, span: RowSpan, sums: &mut [u32]));
    }

    /// [`Self::run`] for sums that fit 16 bits.
    ///
    /// # Panics
    /// Unless `data` has the rows, and their weights add up to no more than [`NARROW`].
    pub fn run_narrow(&self, data: &[u8], stride: usize, span: RowSpan, sums: &mut [u16]) {
        assert!(span.total() <= NARROW, "a sum fits 16 bits");
        check_rows(data, stride, span, sums.len());
        match self.kernel {
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `new` has checked that this CPU has `neon`, and `check_rows` that the rows are there.
            Kernel::Neon | Kernel::NeonDotprod | Kernel::NeonI8mm => unsafe {
                neon_picture::add_rows(data, stride, span, sums);
            },
            _ => {
                on_each_family!(self.kernel, add_rows::<u16>, (data: &[u8], stride: usize, span: RowSpan, sums: &mut [u16]));
            }
        }
    }
}

/// Panics unless `data` has `width` bytes of every row.
pub(crate) fn check_rows(data: &[u8], stride: usize, span: RowSpan, width: usize) {
    assert!(span.len == 0 || data.len() >= (span.len - 1) * stride + width, "all rows");
}

/// A sum of weighted bytes, wide enough by the caller's choice.
pub(crate) trait Sum: Copy + Into<u32> {
    const ZERO: Self;
    fn add(self, weight: u8, value: u8) -> Self;
}

impl Sum for u16 {
    const ZERO: Self = 0;
    #[inline(always)]
    fn add(self, weight: u8, value: u8) -> Self {
        self + Self::from(weight) * Self::from(value)
    }
}

impl Sum for u32 {
    const ZERO: Self = 0;
    #[inline(always)]
    fn add(self, weight: u8, value: u8) -> Self {
        self + Self::from(u16::from(weight) * u16::from(value))
    }
}

/// Block by block; the last one begins where it ends with the row, so that some columns are added up twice.
#[inline(always)]
pub(crate) fn add_rows<T: Sum>(data: &[u8], stride: usize, span: RowSpan, sums: &mut [T]) {
    let width = sums.len();
    if width < BLOCK {
        return each(data, stride, span, sums);
    }
    for start in (0..width).step_by(BLOCK) {
        let start = start.min(width - BLOCK);
        let mut acc = [T::ZERO; BLOCK];
        for row in 0..span.len {
            let weight = span.weight(row);
            if let Some(values) = data[row * stride + start..].first_chunk::<BLOCK>() {
                for (acc, &value) in acc.iter_mut().zip(values) {
                    *acc = acc.add(weight, value);
                }
            }
        }
        sums[start..start + BLOCK].copy_from_slice(&acc);
    }
}

/// Column by column: the definition.
#[inline(always)]
pub(crate) fn each<T: Sum>(data: &[u8], stride: usize, span: RowSpan, sums: &mut [T]) {
    for (column, sum) in sums.iter_mut().enumerate() {
        *sum = (0..span.len).fold(T::ZERO, |sum, row| sum.add(span.weight(row), data[row * stride + column]));
    }
}
