//! A frame on its way into the video encoder.
//!
//! Where the encoder's graph begins by making int8 of the whole frame, in the units in which pixels are exact, that conversion
//! is taken out of the graph and the int8 tensor is made of the pixels themselves.

use girasol_ops::{
    Kernel,
    elementwise::{Quantise, channels_last},
    pixels::{CHANNELS, Pixels},
    semantics::QuantParams,
};

use super::{FRAME_VALUES, graph::Graph};
use crate::{Error, ErrorKind, Result, frontend::video::frame_tensor, source::Frame};

/// A frame for the video encoder.
#[derive(Clone, Copy)]
pub enum FrameInput<'a> {
    /// Its tensor [4, 96, 128], [`FRAME_VALUES`] values.
    Values(&'a [f32]),
    /// A picture, and the one given before it, if there is one.
    Picture {
        /// The picture.
        now: &'a Frame,
        /// What its luma is compared with.
        before: Option<&'a Frame>,
    },
}

/// What [`Pixels`] makes of (v - 127) / 128: v - 128.
const PIXELS: QuantParams = QuantParams { scale: 1.0 / 128.0, zero_point: -1 };

/// Writes frames into the encoder's input.
pub(super) struct FrameEntry {
    /// Where the input is int8.
    int8: Option<Int8Entry>,
}

struct Int8Entry {
    pixels: Pixels,
    quantise: Quantise,
    planes: Vec<i8>,
}

impl FrameEntry {
    /// Takes the conversion out of `video`, if it begins with one.
    pub(super) fn new(video: &mut Graph, kernel: Kernel) -> Result<Self> {
        if !video.take_int8(PIXELS)? {
            return Ok(Self { int8: None });
        }
        let internal = |e: girasol_ops::Error| Error::new(ErrorKind::Internal, e.to_string());
        Ok(Self {
            int8: Some(Int8Entry {
                pixels: Pixels::new(kernel).map_err(internal)?,
                quantise: Quantise::new(kernel, PIXELS).map_err(internal)?,
                planes: vec![0; FRAME_VALUES],
            }),
        })
    }

    /// Whether the input is int8.
    #[cfg(test)]
    pub(super) fn is_int8(&self) -> bool {
        self.int8.is_some()
    }

    /// Writes `frame` into the input of `video`.
    pub(super) fn write(&mut self, video: &mut Graph, frame: FrameInput<'_>) -> Result<()> {
        match (&mut self.int8, frame) {
            (None, FrameInput::Values(values)) => video.input(0)?.copy_from_slice(values),
            (None, FrameInput::Picture { now, before }) => frame_tensor(now, before, video.input(0)?),
            (Some(entry), FrameInput::Values(values)) => {
                entry.quantise.run(values, &mut entry.planes);
                channels_last(CHANNELS, &entry.planes, video.input_i8(0)?);
            }
            (Some(entry), FrameInput::Picture { now, before }) => {
                let before = before.map(|frame| &frame.rgb()[..]);
                entry.pixels.run(now.rgb(), before, video.input_i8(0)?);
            }
        }
        Ok(())
    }
}
