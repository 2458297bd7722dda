//! Where a convolution looks.

use crate::error::Error;

/// An image and a square that slides over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The image's rows.
    pub height: usize,
    /// The image's columns.
    pub width: usize,
    /// Channels of each pixel.
    pub channels: usize,
    /// Side of the square.
    pub size: usize,
    /// Step of the square; equal to `size` for patches.
    pub stride: usize,
    /// Padding as ONNX orders it: top, left, bottom, right; less than `size` each.
    pub padding: [usize; 4],
}

impl Window {
    pub(crate) fn check(&self) -> Result<(), Error> {
        let refuse = |what, found| Err(Error::Shape { what, found });
        for (what, found) in [
            ("size", self.size),
            ("stride", self.stride),
            ("channels", self.channels),
            ("height", self.height),
            ("width", self.width),
        ] {
            if found == 0 {
                return refuse(what, found);
            }
        }
        if let Some(&padding) = self.padding.iter().find(|&&padding| padding >= self.size) {
            return refuse("padding", padding);
        }
        if self.padded_height() < self.size {
            return refuse("height", self.height);
        }
        if self.padded_width() < self.size {
            return refuse("width", self.width);
        }
        Ok(())
    }

    pub(crate) const fn padded_height(&self) -> usize {
        self.height + self.padding[0] + self.padding[2]
    }

    pub(crate) const fn padded_width(&self) -> usize {
        self.width + self.padding[1] + self.padding[3]
    }

    /// Rows of the output.
    #[must_use]
    pub const fn output_height(&self) -> usize {
        (self.padded_height() - self.size) / self.stride + 1
    }

    /// Columns of the output.
    #[must_use]
    pub const fn output_width(&self) -> usize {
        (self.padded_width() - self.size) / self.stride + 1
    }

    /// Pixels of the output.
    #[must_use]
    pub const fn output_pixels(&self) -> usize {
        self.output_height() * self.output_width()
    }

    /// Values of the input.
    #[must_use]
    pub const fn input_len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Values under the square, in the order [row, column, channel].
    #[must_use]
    pub const fn taps_len(&self) -> usize {
        self.size * self.size * self.channels
    }

    /// The input row that is row `row` of the padded image, of `input`; `None` in the padding.
    pub(crate) fn input_row<'a, T>(&self, input: &'a [T], row: usize) -> Option<&'a [T]> {
        let row = row.checked_sub(self.padding[0]).filter(|&row| row < self.height)?;
        let len = self.width * self.channels;
        Some(&input[row * len..][..len])
    }

    /// All positions of the output, row by row.
    pub(crate) fn output_positions(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let width = self.output_width();
        (0..self.output_height()).flat_map(move |y| (0..width).map(move |x| (y, x)))
    }

    /// The input's pixels under the square of one output; `None` in the padding.
    pub(crate) fn taps(&self, y: usize, x: usize) -> impl Iterator<Item = Option<usize>> + '_ {
        let tap = move |index: usize| {
            let row = (y * self.stride + index / self.size).checked_sub(self.padding[0])?;
            let column = (x * self.stride + index % self.size).checked_sub(self.padding[1])?;
            (row < self.height && column < self.width).then_some(row * self.width + column)
        };
        (0..self.size * self.size).map(tap)
    }
}
