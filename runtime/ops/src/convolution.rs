//! int8 convolutions over all input channels: a network's first layer, patches, and whatever else is neither 1x1 nor
//! depthwise.
//!
//! A row of output pixels at a time, the pixels below the square are gathered into rows of a linear layer. That copies
//! each input value up to `size^2 / stride^2` times, which is little beside the layer's own work.

use crate::{
    error::Error,
    kernels::Kernel,
    linear::{Linear, LinearSpec},
};

/// Where a convolution looks: an image and a sliding square.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Square {
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

impl Square {
    fn check(&self) -> Result<(), Error> {
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
        if self.height + self.padding[0] + self.padding[2] < self.size {
            return refuse("height", self.height);
        }
        if self.padded_width() < self.size {
            return refuse("width", self.width);
        }
        Ok(())
    }

    const fn padded_width(&self) -> usize {
        self.width + self.padding[1] + self.padding[3]
    }

    /// Rows of the output.
    #[must_use]
    pub const fn output_height(&self) -> usize {
        (self.height + self.padding[0] + self.padding[2] - self.size) / self.stride + 1
    }

    /// Columns of the output.
    #[must_use]
    pub const fn output_width(&self) -> usize {
        (self.padded_width() - self.size) / self.stride + 1
    }

    /// Inputs of the linear layer, in the order [row, column, channel].
    #[must_use]
    pub const fn inputs(&self) -> usize {
        self.size * self.size * self.channels
    }
}

/// A convolution with its weights packed.
#[derive(Clone, Debug)]
pub struct Convolution {
    linear: Linear,
    square: Square,
    padding: i8,
}

impl Convolution {
    /// Checks the description and packs the weights for `kernel`; the layer's inputs are in the order
    /// [row, column, channel].
    ///
    /// # Errors
    /// [`Error::Shape`] for a square that does not fit, and what [`Linear::new`] refuses.
    pub fn new(kernel: Kernel, square: Square, spec: &LinearSpec<'_>) -> Result<Self, Error> {
        square.check()?;
        if spec.inputs != square.inputs() {
            return Err(Error::Shape { what: "inputs", found: spec.inputs });
        }
        Ok(Self { linear: Linear::new(kernel, spec)?, square, padding: spec.input.zero_point })
    }

    /// The kernel that runs.
    #[must_use]
    pub const fn kernel(&self) -> Kernel {
        self.linear.kernel()
    }

    /// Where it looks.
    #[must_use]
    pub const fn square(&self) -> &Square {
        &self.square
    }

    /// Output channels.
    #[must_use]
    pub const fn outputs(&self) -> usize {
        self.linear.outputs()
    }

    /// Scratch values that a run needs: a band of padded rows, and a row of gathered squares.
    #[must_use]
    pub const fn scratch_len(&self) -> usize {
        let s = &self.square;
        s.size * s.padded_width() * s.channels + s.output_width() * s.inputs()
    }

    /// Values of the output.
    #[must_use]
    pub const fn output_len(&self) -> usize {
        self.square.output_height() * self.square.output_width() * self.linear.outputs()
    }

    /// From [height, width, channels] to [output height, output width, outputs].
    ///
    /// # Panics
    /// Unless the slices have the lengths that the square asks for; `scratch` may be longer.
    pub fn run(&self, input: &[i8], scratch: &mut [i8], output: &mut [i8]) {
        let s = &self.square;
        assert_eq!(input.len(), s.height * s.width * s.channels, "input's length");
        assert_eq!(output.len(), self.output_len(), "output's length");
        let row_len = s.padded_width() * s.channels;
        let (band, squares) = scratch[..self.scratch_len()].split_at_mut(s.size * row_len);
        band.fill(self.padding);
        for (y, results) in output.chunks_exact_mut(s.output_width() * self.linear.outputs()).enumerate() {
            for (row, target) in band.chunks_exact_mut(row_len).enumerate() {
                self.fill_row(input, y * s.stride + row, target);
            }
            self.gather(band, squares);
            self.linear.run(squares, results);
        }
    }

    /// Copies row `row` of the padded image; the padding at its ends is in place already.
    fn fill_row(&self, input: &[i8], row: usize, target: &mut [i8]) {
        let s = &self.square;
        let (start, len) = (s.padding[1] * s.channels, s.width * s.channels);
        match row.checked_sub(s.padding[0]).filter(|&row| row < s.height) {
            Some(row) => target[start..][..len].copy_from_slice(&input[row * len..][..len]),
            None => target.fill(self.padding),
        }
    }

    /// From `size` padded rows to one row of squares.
    fn gather(&self, band: &[i8], squares: &mut [i8]) {
        let s = &self.square;
        let (part, step) = (s.size * s.channels, s.stride * s.channels);
        let row_len = s.padded_width() * s.channels;
        for (index, square) in squares.chunks_exact_mut(s.inputs()).enumerate() {
            for (row, target) in band.chunks_exact(row_len).zip(square.chunks_exact_mut(part)) {
                target.copy_from_slice(&row[index * step..][..part]);
            }
        }
    }
}
