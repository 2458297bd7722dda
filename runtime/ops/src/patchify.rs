//! Convolutions whose stride equals their size: each patch of the image is one row of a linear layer.

use crate::{
    error::Error,
    kernels::Kernel,
    linear::{Linear, LinearSpec},
};

/// Cuts an NHWC image into square patches without overlap and runs a linear layer on each.
///
/// The layer's inputs are a patch's values in the order [row, column, channel]. Rows and columns that do not fill a
/// patch are left out.
#[derive(Clone, Debug)]
pub struct Patchify {
    linear: Linear,
    size: usize,
    channels: usize,
}

impl Patchify {
    /// Patches of `size` x `size` pixels.
    ///
    /// # Errors
    /// [`Error::Shape`] unless the layer's inputs are whole pixels of a patch, and what [`Linear::new`] refuses.
    pub fn new(kernel: Kernel, size: usize, spec: &LinearSpec<'_>) -> Result<Self, Error> {
        let area = size * size;
        if area == 0 || !spec.inputs.is_multiple_of(area) {
            return Err(Error::Shape { what: "patch size", found: size });
        }
        Ok(Self { linear: Linear::new(kernel, spec)?, size, channels: spec.inputs / area })
    }

    /// Scratch that [`Self::run`] needs for an image: one row of patches.
    #[must_use]
    pub fn scratch_len(&self, width: usize) -> usize {
        width / self.size * self.linear.inputs()
    }

    /// Values that [`Self::run`] writes for an image.
    #[must_use]
    pub fn output_len(&self, height: usize, width: usize) -> usize {
        (height / self.size) * (width / self.size) * self.linear.outputs()
    }

    /// From [height, width, channels] to [height / size, width / size, outputs].
    ///
    /// # Panics
    /// Unless the slices have the lengths that the image asks for; `scratch` may be longer.
    pub fn run(&self, height: usize, width: usize, input: &[i8], scratch: &mut [i8], output: &mut [i8]) {
        assert_eq!(input.len(), height * width * self.channels, "input's length");
        assert_eq!(output.len(), self.output_len(height, width), "output's length");
        let scratch = &mut scratch[..self.scratch_len(width)];
        if output.is_empty() {
            return;
        }
        let results = output.chunks_exact_mut(width / self.size * self.linear.outputs());
        let bands = input.chunks_exact(width * self.channels * self.size);
        for (band, results) in bands.zip(results) {
            self.gather(band, width, scratch);
            self.linear.run(scratch, results);
        }
    }

    /// From `size` rows of pixels to one row of patches.
    fn gather(&self, band: &[i8], width: usize, patches: &mut [i8]) {
        let part = self.size * self.channels;
        for (index, patch) in patches.chunks_exact_mut(self.linear.inputs()).enumerate() {
            for (row, target) in band.chunks_exact(width * self.channels).zip(patch.chunks_exact_mut(part)) {
                target.copy_from_slice(&row[index * part..][..part]);
            }
        }
    }
}
