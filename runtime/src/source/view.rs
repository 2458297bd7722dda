//! What of a camera's picture is used: privacy masks, crop and rotation, on the way to the small frame.
//!
//! Masked rectangles are blacked out in the camera's own buffer, before anything else looks at the picture. All
//! rectangles are fractions of the picture as the camera delivers it, before it is cropped and turned, so they stay
//! where they are when the camera's resolution changes. A mask is widened to whole chroma samples, never narrowed.

// Positions are bounded by the picture's sides, and fractions of them are rounded inside [0, side].
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]

use serde::{Deserialize, Serialize};

use super::{FRAME_BYTES, FRAME_HEIGHT, FRAME_WIDTH, Frame, SourceError};
use crate::frontend::video::{PixelFormat, Range, Resizer};

/// A rectangle in fractions of the picture: left, top, width, height.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f32; 4]", into = "[f32; 4]")]
pub struct Area {
    /// Left edge.
    pub left: f32,
    /// Top edge.
    pub top: f32,
    /// Width.
    pub width: f32,
    /// Height.
    pub height: f32,
}

impl From<[f32; 4]> for Area {
    fn from([left, top, width, height]: [f32; 4]) -> Self {
        Self { left, top, width, height }
    }
}

impl From<Area> for [f32; 4] {
    fn from(area: Area) -> Self {
        [area.left, area.top, area.width, area.height]
    }
}

impl Area {
    /// The whole picture.
    pub const WHOLE: Self = Self { left: 0.0, top: 0.0, width: 1.0, height: 1.0 };

    /// Whether it lies inside the picture and is not empty.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let inside = |from: f32, length: f32| from >= 0.0 && length > 0.0 && from + length <= 1.0001;
        inside(self.left, self.width) && inside(self.top, self.height)
    }
}

/// Clockwise turn of the picture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rotation {
    /// As the camera delivers it.
    #[default]
    None,
    /// By a quarter.
    Quarter,
    /// Upside down.
    Half,
    /// By three quarters.
    ThreeQuarters,
}

impl Rotation {
    /// From degrees clockwise; `None` if it is not a multiple of a quarter.
    #[must_use]
    pub fn from_degrees(degrees: u16) -> Option<Self> {
        match degrees {
            0 => Some(Self::None),
            90 => Some(Self::Quarter),
            180 => Some(Self::Half),
            270 => Some(Self::ThreeQuarters),
            _ => None,
        }
    }
}

/// What of the camera's picture is used.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// Blacked out before anything else.
    pub masks: Vec<Area>,
    /// The part that is used.
    pub crop: Area,
    /// How it is turned after that.
    pub rotation: Rotation,
}

impl Default for View {
    fn default() -> Self {
        Self { masks: Vec::new(), crop: Area::WHOLE, rotation: Rotation::None }
    }
}

/// A rectangle in pixels; `right` and `bottom` lie outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rect {
    left: usize,
    top: usize,
    right: usize,
    bottom: usize,
}

/// How one plane of a format is built: `bytes` for each group of `wide` × `high` pixels.
struct Layout {
    wide: usize,
    high: usize,
    bytes: usize,
    /// A black group in limited and in full range.
    black: [[u8; 4]; 2],
}

const fn layout(wide: usize, high: usize, bytes: usize, limited: [u8; 4], full: [u8; 4]) -> Layout {
    Layout { wide, high, bytes, black: [limited, full] }
}

const LUMA: Layout = layout(1, 1, 1, [16; 4], [0; 4]);
const CHROMA: [u8; 4] = [128; 4];

fn layouts(format: PixelFormat) -> &'static [Layout] {
    const YUYV: &[Layout] = &[layout(2, 1, 4, [16, 128, 16, 128], [0, 128, 0, 128])];
    const UYVY: &[Layout] = &[layout(2, 1, 4, [128, 16, 128, 16], [128, 0, 128, 0])];
    const NV12: &[Layout] = &[LUMA, layout(2, 2, 2, CHROMA, CHROMA)];
    const YUV420: &[Layout] = &[LUMA, layout(2, 2, 1, CHROMA, CHROMA), layout(2, 2, 1, CHROMA, CHROMA)];
    const YUV422: &[Layout] = &[LUMA, layout(2, 1, 1, CHROMA, CHROMA), layout(2, 1, 1, CHROMA, CHROMA)];
    const YUV444: &[Layout] = &[LUMA, layout(1, 1, 1, CHROMA, CHROMA), layout(1, 1, 1, CHROMA, CHROMA)];
    const GREY: &[Layout] = &[layout(1, 1, 1, [0; 4], [0; 4])];
    const RGB: &[Layout] = &[layout(1, 1, 3, [0; 4], [0; 4])];
    match format {
        PixelFormat::Yuyv => YUYV,
        PixelFormat::Uyvy => UYVY,
        PixelFormat::Nv12 => NV12,
        PixelFormat::Yuv420 => YUV420,
        PixelFormat::Yuv422 => YUV422,
        PixelFormat::Yuv444 => YUV444,
        PixelFormat::Grey => GREY,
        PixelFormat::Rgb24 | PixelFormat::Bgr24 => RGB,
    }
}

/// Most planes a picture has.
pub(super) const MAX_PLANES: usize = 3;

/// Turns pictures of one geometry into frames, through a [`View`]. Allocates only when it is made.
pub(super) struct Converter {
    format: PixelFormat,
    masks: Vec<Rect>,
    crop: Rect,
    rotation: Rotation,
    resizer: Resizer,
    scratch: Box<[u8; FRAME_BYTES]>,
}

impl Converter {
    /// For pictures of `width` × `height` in `format`.
    ///
    /// # Errors
    /// As [`Resizer::new`].
    pub(super) fn new(
        format: PixelFormat,
        width: usize,
        height: usize,
        view: &View,
    ) -> Result<Self, SourceError> {
        let crop = crop_rect(view.crop, width, height);
        let size = (crop.right - crop.left, crop.bottom - crop.top);
        let resizer = match view.rotation {
            Rotation::None | Rotation::Half => Resizer::new(format, size.0, size.1)?,
            Rotation::Quarter | Rotation::ThreeQuarters => Resizer::on_its_side(format, size.0, size.1)?,
        };
        Ok(Self {
            format,
            masks: view.masks.iter().map(|&area| mask_rect(area, width, height)).collect(),
            crop,
            rotation: view.rotation,
            resizer,
            scratch: Box::new([0; FRAME_BYTES]),
        })
    }

    /// Number of planes that [`Self::convert`] wants.
    pub(super) fn planes(&self) -> usize {
        layouts(self.format).len()
    }

    /// Blacks out the masks in `planes`, then crops, resizes and turns. `(data, stride)` of each plane.
    ///
    /// # Errors
    /// A plane is missing or too short ([`super::SourceErrorKind::Truncated`]). The masks are black all the same.
    pub(super) fn convert(
        &mut self,
        planes: &mut [(&mut [u8], usize)],
        range: Range,
        out: &mut Frame,
    ) -> Result<(), SourceError> {
        let layouts = layouts(self.format);
        for mask in &self.masks {
            for ((data, stride), layout) in planes.iter_mut().zip(layouts) {
                blacken(data, *stride, layout, range, *mask);
            }
        }
        let mut cut: [(&[u8], usize); MAX_PLANES] = [(&[], 0); MAX_PLANES];
        for ((cut, (data, stride)), layout) in cut.iter_mut().zip(planes.iter()).zip(layouts) {
            let from = self.crop.top / layout.high * stride + self.crop.left / layout.wide * layout.bytes;
            *cut = (data.get(from..).unwrap_or(&[]), *stride);
        }
        self.resizer.convert_planes(&cut[..planes.len().min(MAX_PLANES)], range, out)?;
        self.turn(out);
        Ok(())
    }

    fn turn(&mut self, out: &mut Frame) {
        if self.rotation == Rotation::None {
            return;
        }
        self.scratch.copy_from_slice(out.rgb());
        let source = self.scratch.as_chunks::<3>().0;
        let target = out.rgb_mut().as_chunks_mut::<3>().0;
        for (i, pixel) in target.iter_mut().enumerate() {
            let (x, y) = (i % FRAME_WIDTH, i / FRAME_WIDTH);
            let from = match self.rotation {
                Rotation::None => i,
                Rotation::Half => FRAME_WIDTH * FRAME_HEIGHT - 1 - i,
                // The source lies on its side: FRAME_HEIGHT wide, FRAME_WIDTH high.
                Rotation::Quarter => (FRAME_WIDTH - 1 - x) * FRAME_HEIGHT + y,
                Rotation::ThreeQuarters => x * FRAME_HEIGHT + (FRAME_HEIGHT - 1 - y),
            };
            *pixel = source[from];
        }
    }
}

impl Drop for Converter {
    fn drop(&mut self) {
        self.scratch.fill(0);
    }
}

/// The even pixel at or before `fraction` of `side`.
fn even_floor(fraction: f32, side: usize) -> usize {
    let at = (f64::from(fraction) * side as f64).floor().clamp(0.0, side as f64) as usize;
    at & !1
}

/// The even pixel at or after `fraction` of `side`, or the side's end.
fn even_ceil(fraction: f32, side: usize) -> usize {
    let at = (f64::from(fraction) * side as f64).ceil().clamp(0.0, side as f64) as usize;
    at.next_multiple_of(2).min(side)
}

/// Widened to whole groups of two by two pixels.
fn mask_rect(area: Area, width: usize, height: usize) -> Rect {
    Rect {
        left: even_floor(area.left, width),
        top: even_floor(area.top, height),
        right: even_ceil(area.left + area.width, width),
        bottom: even_ceil(area.top + area.height, height),
    }
}

/// Begins at an even pixel and has at least one.
fn crop_rect(area: Area, width: usize, height: usize) -> Rect {
    let side = |from: f32, length: f32, side: usize| {
        let last = side.saturating_sub(1) & !1;
        let start = even_floor(from, side).min(last);
        let end = (f64::from(from + length) * side as f64).round().clamp(0.0, side as f64) as usize;
        (start, end.max(start + 1).min(side.max(1)))
    };
    let (left, right) = side(area.left, area.width, width);
    let (top, bottom) = side(area.top, area.height, height);
    Rect { left, top, right, bottom }
}

/// Blacks out `rect` in one plane, as far as there are data.
fn blacken(data: &mut [u8], stride: usize, layout: &Layout, range: Range, rect: Rect) {
    let black = &layout.black[usize::from(range == Range::Full)][..layout.bytes];
    let from = rect.left / layout.wide * layout.bytes;
    let to = rect.right.div_ceil(layout.wide) * layout.bytes;
    for row in rect.top / layout.high..rect.bottom.div_ceil(layout.high) {
        let start = row.saturating_mul(stride).saturating_add(from).min(data.len());
        let end = row.saturating_mul(stride).saturating_add(to).min(data.len());
        for group in data[start..end].chunks_mut(layout.bytes) {
            group.copy_from_slice(&black[..group.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::source::SourceErrorKind;

    const FORMATS: [PixelFormat; 9] = [
        PixelFormat::Yuyv,
        PixelFormat::Uyvy,
        PixelFormat::Nv12,
        PixelFormat::Yuv420,
        PixelFormat::Yuv422,
        PixelFormat::Yuv444,
        PixelFormat::Grey,
        PixelFormat::Rgb24,
        PixelFormat::Bgr24,
    ];

    /// Planes of a picture with padded rows; content from `seed`.
    fn picture(
        format: PixelFormat,
        width: usize,
        height: usize,
        pad: usize,
        seed: u64,
    ) -> Vec<(Vec<u8>, usize)> {
        let mut state = seed | 1;
        layouts(format)
            .iter()
            .map(|l| {
                let stride = width.div_ceil(l.wide) * l.bytes + pad;
                let data = (0..stride * height.div_ceil(l.high))
                    .map(|_| {
                        state = state
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1_442_695_040_888_963_407);
                        (state >> 56) as u8
                    })
                    .collect();
                (data, stride)
            })
            .collect()
    }

    fn convert(
        view: &View,
        format: PixelFormat,
        size: (usize, usize),
        planes: &mut [(Vec<u8>, usize)],
    ) -> Result<Frame, SourceError> {
        let mut frame = Frame::new();
        let mut planes: Vec<_> = planes.iter_mut().map(|(d, s)| (&mut d[..], *s)).collect();
        Converter::new(format, size.0, size.1, view)?.convert(&mut planes, Range::Limited, &mut frame)?;
        Ok(frame)
    }

    fn area() -> impl Strategy<Value = Area> {
        (0.0f32..0.9, 0.0f32..0.9, 0.02f32..1.0, 0.02f32..1.0).prop_map(|(left, top, w, h)| Area {
            left,
            top,
            width: w.min(1.0 - left),
            height: h.min(1.0 - top),
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Two pictures that differ only under the mask give the same frame, whatever the format, stride and view.
        #[test]
        fn nothing_under_a_mask_gets_through(
            format in prop::sample::select(&FORMATS[..]),
            width in 1usize..90, height in 1usize..70, pad in 0usize..9,
            mask in area(), crop in area(), turn in 0u16..4, seed: u64,
        ) {
            let rotation = Rotation::from_degrees(turn * 90).unwrap();
            let view = View { masks: vec![mask], crop, rotation };
            let mut one = picture(format, width, height, pad, seed);
            let mut two = one.iter().map(|(d, s)| (d.clone(), *s)).collect::<Vec<_>>();
            // Other content for every pixel whose centre or edge the mask touches.
            let other = picture(format, width, height, pad, !seed);
            let (l, r) = (mask.left * width as f32, (mask.left + mask.width) * width as f32);
            let (t, b) = (mask.top * height as f32, (mask.top + mask.height) * height as f32);
            for ((plane, from), layout) in two.iter_mut().zip(&other).zip(layouts(format)) {
                for y in 0..height {
                    for x in 0..width {
                        let inside = (x as f32) < r && (x + 1) as f32 > l && (y as f32) < b && (y + 1) as f32 > t;
                        if inside {
                            let at = y / layout.high * plane.1 + x / layout.wide * layout.bytes;
                            plane.0[at..at + layout.bytes].copy_from_slice(&from.0[at..at + layout.bytes]);
                        }
                    }
                }
            }
            let one = convert(&view, format, (width, height), &mut one).unwrap();
            let two = convert(&view, format, (width, height), &mut two).unwrap();
            prop_assert!(one.rgb() == two.rgb());
        }

        /// Cropping then converting is converting the cut-out picture; bit for bit, odd sizes and padded rows included.
        #[test]
        fn a_crop_is_the_cut_out_picture(
            width in 2usize..90, height in 2usize..70, pad in 0usize..9, crop in area(), seed: u64,
        ) {
            let mut whole = picture(PixelFormat::Rgb24, width, height, pad, seed);
            let rect = crop_rect(crop, width, height);
            let mut cut = Vec::new();
            for y in rect.top..rect.bottom {
                let row = y * whole[0].1;
                cut.extend_from_slice(&whole[0].0[row + rect.left * 3..row + rect.right * 3]);
            }
            let size = (rect.right - rect.left, rect.bottom - rect.top);
            let mut cut = vec![(cut, size.0 * 3)];
            let view = View { crop, ..View::default() };
            let a = convert(&view, PixelFormat::Rgb24, (width, height), &mut whole).unwrap();
            let b = convert(&View::default(), PixelFormat::Rgb24, size, &mut cut).unwrap();
            prop_assert!(a.rgb() == b.rgb());
        }

        /// Turning the small frame is converting the turned picture.
        #[test]
        fn a_turn_is_the_turned_picture(width in 1usize..60, height in 1usize..60, turns in 0u16..4, seed: u64) {
            let mut source = picture(PixelFormat::Rgb24, width, height, 0, seed);
            let (mut data, mut w, mut h) = (source[0].0.clone(), width, height);
            for _ in 0..turns {
                // A quarter clockwise: the left column becomes the top row, from bottom to top.
                let mut turned = Vec::with_capacity(data.len());
                for x in 0..w {
                    for y in (0..h).rev() {
                        turned.extend_from_slice(&data[(y * w + x) * 3..(y * w + x) * 3 + 3]);
                    }
                }
                (data, w, h) = (turned, h, w);
            }
            let view = View { rotation: Rotation::from_degrees(turns * 90).unwrap(), ..View::default() };
            let a = convert(&view, PixelFormat::Rgb24, (width, height), &mut source).unwrap();
            let b = convert(&View::default(), PixelFormat::Rgb24, (w, h), &mut [(data, w * 3)]).unwrap();
            prop_assert!(a.rgb() == b.rgb());
        }
    }

    #[test]
    fn a_mask_over_everything_is_black() {
        for format in FORMATS {
            let view = View { masks: vec![Area::WHOLE], ..View::default() };
            let mut planes = picture(format, 33, 17, 5, 9);
            let frame = convert(&view, format, (33, 17), &mut planes).unwrap();
            assert!(frame.rgb().iter().all(|&v| v == 0), "{format:?}");
        }
    }

    #[test]
    fn a_short_picture_is_refused_and_masked_all_the_same() {
        let view = View { masks: vec![Area::WHOLE], ..View::default() };
        let mut planes = picture(PixelFormat::Grey, 64, 48, 0, 3);
        planes[0].0.truncate(64 * 20);
        let error = convert(&view, PixelFormat::Grey, (64, 48), &mut planes).unwrap_err();
        assert_eq!(error.kind, SourceErrorKind::Truncated);
        assert!(planes[0].0.iter().all(|&v| v == 0));
    }

    #[test]
    fn areas_outside_the_picture_are_not_valid() {
        assert!(Area::WHOLE.is_valid());
        for bad in
            [[0.5, 0.0, 0.6, 1.0], [-0.1, 0.0, 0.5, 0.5], [0.0, 0.0, 0.0, 1.0], [0.0, f32::NAN, 1.0, 1.0]]
        {
            assert!(!Area::from(bad).is_valid(), "{bad:?}");
        }
    }
}
