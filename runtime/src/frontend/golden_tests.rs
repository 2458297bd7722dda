//! The frontends against the Python reference (`runtime/tests/goldens/make.py`, whose formulas are repeated here).

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]

use girasol_ops::{
    Kernel,
    elementwise::{Quantise, channels_last},
    pixels::{CHANNELS, Pixels},
    semantics::QuantParams,
};

use super::{
    mel::{LogMel, MEL_BINS, MEL_FRAMES, PATCH_SAMPLES},
    video::{PixelFormat, Range, Resizer, TENSOR_VALUES, frame_tensor},
};
use crate::source::{FRAME_BYTES, FRAME_HEIGHT, FRAME_WIDTH, Frame};

const LOGMEL: &[u8] = include_bytes!("../../tests/goldens/logmel.f32");
const FRAMES: &[u8] = include_bytes!("../../tests/goldens/frames.rgb");
const TENSOR: &[u8] = include_bytes!("../../tests/goldens/tensor.i16");

/// Bytes of one row of a frame.
const ROW: usize = FRAME_WIDTH * 3;

fn noise(seed: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(seed), |s| Some(s.wrapping_mul(1_664_525).wrapping_add(1_013_904_223))).skip(1)
}

fn scene(width: usize, height: usize, seed: u32) -> Vec<u8> {
    let pixels = (0..height).flat_map(|y| (0..width).map(move |x| x * 3 + y * 2));
    pixels.zip(noise(seed)).map(|(gradient, n)| ((gradient + (n >> 27) as usize) % 256) as u8).collect()
}

/// The pictures of the reference, in its order.
fn pictures() -> [(PixelFormat, usize, usize, Range, Vec<u8>); 5] {
    let yuv420 = [scene(67, 51, 4), scene(34, 26, 5), scene(34, 26, 6)].concat();
    [
        (PixelFormat::Yuyv, 322, 181, Range::Limited, scene(644, 181, 1)),
        (PixelFormat::Nv12, 130, 99, Range::Limited, [scene(130, 99, 2), scene(130, 50, 3)].concat()),
        (PixelFormat::Yuv420, 67, 51, Range::Full, yuv420),
        (PixelFormat::Rgb24, 161, 121, Range::Limited, scene(483, 121, 8)),
        (PixelFormat::Grey, 333, 77, Range::Limited, scene(333, 77, 9)),
    ]
}

fn small(picture: &(PixelFormat, usize, usize, Range, Vec<u8>)) -> Frame {
    let (format, width, height, range, data) = picture;
    let mut frame = Frame::new();
    Resizer::new(*format, *width, *height).unwrap().convert(data, 0, *range, &mut frame).unwrap();
    frame
}

#[test]
fn small_frames_equal_the_reference_bit_by_bit() {
    let goldens = FRAMES.chunks_exact(FRAME_BYTES / 2);
    assert_eq!(goldens.len(), pictures().len());
    for (picture, golden) in pictures().iter().zip(goldens) {
        let frame = small(picture);
        let even_rows: Vec<u8> = frame.rgb().chunks_exact(ROW).step_by(2).flatten().copied().collect();
        assert!(even_rows == golden, "{:?}", picture.0);
    }
}

#[test]
fn the_tensor_equals_the_reference_bit_by_bit() {
    let pictures = pictures();
    let mut tensor = vec![0.0; TENSOR_VALUES];
    frame_tensor(&small(&pictures[3]), Some(&small(&pictures[0])), &mut tensor);
    let rows =
        tensor.chunks_exact(FRAME_WIDTH).enumerate().filter(|(y, _)| (y % FRAME_HEIGHT).is_multiple_of(2));
    let even_rows: Vec<f32> = rows.flat_map(|(_, row)| row.iter().copied()).collect();
    let golden = TENSOR.as_chunks::<2>().0.iter().map(|b| f32::from(i16::from_le_bytes(*b)) / 128.0);
    assert!(even_rows.into_iter().eq(golden));
}

#[test]
fn the_int8_tensor_is_what_the_encoder_makes_of_the_reference() {
    let pictures = pictures();
    let frames = [3, 0, 1].map(|index: usize| small(&pictures[index]));
    for (now, before) in [(&frames[0], None), (&frames[0], Some(&frames[1])), (&frames[1], Some(&frames[2]))]
    {
        let (mut tensor, mut planes) = (vec![0.0; TENSOR_VALUES], vec![0; TENSOR_VALUES]);
        frame_tensor(now, before, &mut tensor);
        let params = QuantParams { scale: 1.0 / 128.0, zero_point: -1 };
        Quantise::new(Kernel::Scalar, params).unwrap().run(&tensor, &mut planes);
        let (mut expected, mut found) = (vec![0; TENSOR_VALUES], vec![1; TENSOR_VALUES]);
        channels_last(CHANNELS, &planes, &mut expected);
        let before = before.map(|frame| &frame.rgb()[..]);
        Pixels::new(Kernel::best()).unwrap().run(now.rgb(), before, &mut found);
        assert!(found == expected);
    }
}

#[test]
fn log_mel_is_within_1e_4_of_the_reference() {
    let mut loud = [0_i16; PATCH_SAMPLES];
    loud.iter_mut().zip(noise(7)).for_each(|(s, n)| *s = ((n >> 16) as u16).cast_signed());
    let square = |n: usize| match n {
        0..5_000 => 0,
        _ if (n / 20).is_multiple_of(2) => 300,
        _ => -300,
    };
    let inputs = [loud, std::array::from_fn(square)];
    let mut mel = LogMel::new();
    let mut out = [0.0; MEL_FRAMES * MEL_BINS];
    for (input, golden) in inputs.iter().zip(LOGMEL.chunks_exact(4 * MEL_FRAMES * MEL_BINS)) {
        mel.compute(input, &mut out);
        let golden = golden.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b));
        let worst = out.iter().zip(golden).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 1e-4, "{worst}");
    }
}
