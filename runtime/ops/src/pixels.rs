//! A small RGB picture to the int8 tensor that the video encoder reads, without f32 in between.

#[cfg(target_arch = "aarch64")]
use crate::kernels::neon_pixels;
use crate::{Kernel, error::Error, lanes::on_each_family, semantics};

/// Values of a pixel: R, G, B and what its luma changed by.
pub const CHANNELS: usize = 4;

/// Makes the tensor [height, width, 4] of a picture.
#[derive(Clone, Copy, Debug)]
pub struct Pixels {
    kernel: Kernel,
}

impl Pixels {
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

    /// [`semantics::pixel`] of each pixel of `rgb`, beside the same of the picture `before` it, or else beside itself.
    ///
    /// # Panics
    /// Unless all are of as many pixels.
    pub fn run(&self, rgb: &[u8], before: Option<&[u8]>, tensor: &mut [i8]) {
        let before = before.unwrap_or(rgb);
        let ([rgb, before], rest) = ([rgb, before].map(<[u8]>::as_chunks::<3>), rgb.len() % 3);
        let (tensor, rest_of_tensor) = tensor.as_chunks_mut::<CHANNELS>();
        assert!(rest == 0 && before.1.is_empty() && rest_of_tensor.is_empty(), "whole pixels");
        let (rgb, before) = (rgb.0, before.0);
        assert!(rgb.len() == tensor.len() && before.len() == tensor.len(), "as many pixels");
        match self.kernel {
            #[cfg(target_arch = "aarch64")]
            // SAFETY: `new` has checked that this CPU has `neon`.
            Kernel::Neon | Kernel::NeonDotprod | Kernel::NeonI8mm => unsafe {
                neon_pixels::run(rgb, before, tensor);
            },
            _ => {
                on_each_family!(self.kernel, run, (rgb: &[[u8; 3]], before: &[[u8; 3]], tensor: &mut [[i8; CHANNELS]]));
            }
        }
    }
}

#[inline(always)]
pub(crate) fn run(rgb: &[[u8; 3]], before: &[[u8; 3]], tensor: &mut [[i8; CHANNELS]]) {
    for ((pixel, &now), &then) in tensor.iter_mut().zip(rgb).zip(before) {
        *pixel = semantics::pixel(now, then);
    }
}
