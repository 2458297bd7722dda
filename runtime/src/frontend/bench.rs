//! What the frontends cost on this machine; for `girasol bench`.

use girasol_ops::{Kernel, pixels::Pixels};

use super::{
    mel::{LogMel, MEL_BINS, MEL_FRAMES, PATCH_SAMPLES},
    resample::Resampler,
    video::{PixelFormat, Range, Resizer, TENSOR_VALUES},
};
use crate::{
    Error, ErrorKind, Result,
    clock::Clock,
    model::{StageCost, median_time},
    source::Frame,
};

/// A common camera picture.
const CAMERA: (usize, usize) = (640, 480);

/// A common microphone's rate, and a snippet's samples at it.
const MICROPHONE: (u32, usize) = (48_000, 46_080);

/// Times each frontend over `iterations` calls on generated input.
pub fn profile(iterations: usize, clock: &dyn Clock) -> Result<Vec<StageCost>> {
    let mut costs = Vec::new();
    let mut time = |stage, calls, run: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        costs.push(StageCost { stage, calls, macs: 0, median: median_time(iterations, clock, run)? });
        Ok(())
    };

    let picture: Vec<u8> = (0..CAMERA.0 * CAMERA.1 * 2).map(|i| (i % 251).to_le_bytes()[0]).collect();
    let mut resizer = Resizer::new(PixelFormat::Yuyv, CAMERA.0, CAMERA.1)?;
    let mut frame = Frame::new();
    // At fifteen pictures a second `FrameChoice` wants 2.5 of a snippet's 14.4.
    time("resize_yuyv_vga", 3, &mut || Ok(resizer.convert(&picture, 0, Range::Limited, &mut frame)?))?;

    let mut resizer = Resizer::new(PixelFormat::Nv12, CAMERA.0, CAMERA.1)?;
    // Instead of the other: counted for comparison only.
    time("resize_nv12_vga", 0, &mut || Ok(resizer.convert(&picture, 0, Range::Limited, &mut frame)?))?;

    // As for an encoder in int8.
    let pixels = Pixels::new(Kernel::best()).map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
    let mut tensor = vec![0; TENSOR_VALUES];
    let previous = Frame::new();
    time("frame_tensor", 2, &mut || {
        pixels.run(frame.rgb(), Some(previous.rgb()), &mut tensor);
        Ok(())
    })?;

    let mut resampler = Resampler::new(MICROPHONE.0)
        .ok_or_else(|| Error::new(ErrorKind::Internal, "48 kHz is not within the resampler's limits"))?;
    let samples: Vec<f32> = (0..MICROPHONE.1).map(|i| (i % 2001) as f32 / 4000.0 - 0.25).collect();
    time("resample_48k", 1, &mut || {
        resampler.process(&samples, |sample| {
            std::hint::black_box(sample);
        });
        Ok(())
    })?;

    let mut mel = LogMel::new();
    let patch: Box<[i16; PATCH_SAMPLES]> =
        Box::new(std::array::from_fn(|i| i16::try_from(i % 2001).unwrap_or(0) - 1000));
    let mut out = Box::new([0.0; MEL_FRAMES * MEL_BINS]);
    time("log_mel", 1, &mut || {
        mel.compute(&patch, &mut out);
        Ok(())
    })?;
    Ok(costs)
}
