//! int8 convolutions over all input channels: a network's first layer, patches, and whatever else is neither 1x1 nor
//! depthwise.
//!
//! A row of output pixels at a time, the pixels below the square are gathered into rows of a linear layer. That copies
//! each input value up to `size^2 / stride^2` times, which is little beside the layer's own work.

use crate::{
    error::Error,
    kernels::Kernel,
    linear::{Linear, LinearSpec},
    window::Window,
};

/// A convolution with its weights packed.
#[derive(Clone, Debug)]
pub struct Convolution {
    linear: Linear,
    window: Window,
    padding: i8,
}

impl Convolution {
    /// Checks the description and packs the weights for `kernel`; the layer's inputs are in the order
    /// [row, column, channel].
    ///
    /// # Errors
    /// [`Error::Shape`] for a window that does not fit, and what [`Linear::new`] refuses.
    pub fn new(kernel: Kernel, window: Window, spec: &LinearSpec<'_>) -> Result<Self, Error> {
        window.check()?;
        if spec.inputs != window.taps_len() {
            return Err(Error::Shape { what: "inputs", found: spec.inputs });
        }
        Ok(Self { linear: Linear::new(kernel, spec)?, window, padding: spec.input.zero_point })
    }

    /// The kernel that runs.
    #[must_use]
    pub const fn kernel(&self) -> Kernel {
        self.linear.kernel()
    }

    /// Where it looks.
    #[must_use]
    pub const fn window(&self) -> &Window {
        &self.window
    }

    /// Output channels.
    #[must_use]
    pub const fn outputs(&self) -> usize {
        self.linear.outputs()
    }

    /// Scratch values that a run needs: a band of padded rows, and a row of gathered squares.
    #[must_use]
    pub const fn scratch_len(&self) -> usize {
        let w = &self.window;
        w.size * w.padded_width() * w.channels + w.output_width() * w.taps_len()
    }

    /// Values of the output.
    #[must_use]
    pub const fn output_len(&self) -> usize {
        self.window.output_pixels() * self.linear.outputs()
    }

    /// From [height, width, channels] to [output height, output width, outputs].
    ///
    /// # Panics
    /// Unless the slices have the lengths that the square asks for; `scratch` may be longer.
    pub fn run(&self, input: &[i8], scratch: &mut [i8], output: &mut [i8]) {
        let w = &self.window;
        assert_eq!(input.len(), w.input_len(), "input's length");
        assert_eq!(output.len(), self.output_len(), "output's length");
        let row_len = w.padded_width() * w.channels;
        let (band, squares) = scratch[..self.scratch_len()].split_at_mut(w.size * row_len);
        band.fill(self.padding);
        for (y, results) in output.chunks_exact_mut(w.output_width() * self.linear.outputs()).enumerate() {
            for (row, target) in band.chunks_exact_mut(row_len).enumerate() {
                self.fill_row(input, y * w.stride + row, target);
            }
            self.gather(band, squares);
            self.linear.run(squares, results);
        }
    }

    /// Copies row `row` of the padded image; the padding at its ends is in place already.
    fn fill_row(&self, input: &[i8], row: usize, target: &mut [i8]) {
        let w = &self.window;
        let start = w.padding[1] * w.channels;
        match w.input_row(input, row) {
            Some(source) => target[start..][..source.len()].copy_from_slice(source),
            None => target.fill(self.padding),
        }
    }

    /// From `size` padded rows to one row of squares.
    fn gather(&self, band: &[i8], squares: &mut [i8]) {
        match self.window.size * self.window.channels {
            // First layers over pictures and spectrograms: a general copy of so few bytes costs several times as much.
            3 => self.gather_parts(3, band, squares),
            9 => self.gather_parts(9, band, squares),
            12 => self.gather_parts(12, band, squares),
            part => self.gather_parts(part, band, squares),
        }
    }

    /// `part` values of each row at a time. (Inlined, so that the compiler knows it where the caller does.)
    #[inline(always)]
    fn gather_parts(&self, part: usize, band: &[i8], squares: &mut [i8]) {
        let w = &self.window;
        let (step, row_len) = (w.stride * w.channels, w.padded_width() * w.channels);
        for (row, values) in band.chunks_exact(row_len).enumerate() {
            for (index, square) in squares.chunks_exact_mut(w.taps_len()).enumerate() {
                square[row * part..][..part].copy_from_slice(&values[index * step..][..part]);
            }
        }
    }
}
