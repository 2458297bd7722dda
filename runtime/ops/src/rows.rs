//! The first half of an area average: rows of bytes, weighted and added up.

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

    fn total(&self) -> usize {
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
const BLOCK: usize = 64;
/// The largest sum of weights whose sums fit an u16.
const NARROW: usize = 257;

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
        assert!(span.len == 0 || data.len() >= (span.len - 1) * stride + sums.len(), "all rows");
        if span.total() <= NARROW {
            on_each_family!(self.kernel, narrow, (data: &[u8], stride: usize, span: RowSpan, sums: &mut [u32]));
        } else {
            on_each_family!(self.kernel, wide, (data: &[u8], stride: usize, span: RowSpan, sums: &mut [u32]));
        }
    }
}

/// For sums that fit an u16.
#[inline(always)]
fn narrow(data: &[u8], stride: usize, span: RowSpan, sums: &mut [u32]) {
    let (blocks, rest) = sums.as_chunks_mut::<BLOCK>();
    for (index, block) in blocks.iter_mut().enumerate() {
        let mut acc = [0u16; BLOCK];
        for row in 0..span.len {
            let weight = u16::from(span.weight(row));
            if let Some(values) = data[row * stride + index * BLOCK..].first_chunk::<BLOCK>() {
                for (acc, &value) in acc.iter_mut().zip(values) {
                    *acc += weight * u16::from(value);
                }
            }
        }
        *block = acc.map(u32::from);
    }
    each(data, stride, span, blocks.len() * BLOCK, rest);
}

/// For any sums.
#[inline(always)]
fn wide(data: &[u8], stride: usize, span: RowSpan, sums: &mut [u32]) {
    let (blocks, rest) = sums.as_chunks_mut::<BLOCK>();
    for (index, block) in blocks.iter_mut().enumerate() {
        let mut acc = [0u32; BLOCK];
        for row in 0..span.len {
            let weight = u16::from(span.weight(row));
            if let Some(values) = data[row * stride + index * BLOCK..].first_chunk::<BLOCK>() {
                for (acc, &value) in acc.iter_mut().zip(values) {
                    *acc += u32::from(weight * u16::from(value));
                }
            }
        }
        *block = acc;
    }
    each(data, stride, span, blocks.len() * BLOCK, rest);
}

/// What does not fill a block, column by column: the definition.
#[inline(always)]
fn each(data: &[u8], stride: usize, span: RowSpan, first: usize, sums: &mut [u32]) {
    for (column, sum) in sums.iter_mut().enumerate() {
        let value = |row: usize| u32::from(data[row * stride + first + column]);
        *sum = (0..span.len).map(|row| u32::from(span.weight(row)) * value(row)).sum();
    }
}
