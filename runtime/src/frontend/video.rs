//! Pixels of any camera format → small RGB frame → model input, in exact integers (decision 0003).
//!
//! The resize is an area average per component, and the colours come after it (`girasol_ops::picture`).
//! [`Resizer::convert`] allocates nothing.

use girasol_ops::{
    Kernel,
    picture::{Colours, Component, Picture, PlaneSpec},
    semantics,
};

use crate::source::{FRAME_HEIGHT, FRAME_WIDTH, Frame, SourceError, SourceErrorKind};

/// Most pixels of a source picture (4096 × 4096).
pub const MAX_PIXELS: usize = girasol_ops::picture::MAX_PIXELS;
/// Values of one video encoder input: R, G, B and luma difference.
pub const TENSOR_VALUES: usize = 4 * PIXELS;
const PIXELS: usize = FRAME_WIDTH * FRAME_HEIGHT;

/// Layout of a source picture in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PixelFormat {
    /// `Y U Y V`, chroma halved horizontally.
    Yuyv,
    /// `U Y V Y`, chroma halved horizontally.
    Uyvy,
    /// A luma plane, then a plane of `U V` pairs halved both ways.
    Nv12,
    /// Planes Y, U, V; chroma halved both ways (I420, C420).
    Yuv420,
    /// Planes Y, U, V; chroma halved horizontally (C422).
    Yuv422,
    /// Planes Y, U, V of equal size (C444).
    Yuv444,
    /// Luma only.
    Grey,
    /// `R G B`.
    Rgb24,
    /// `B G R`.
    Bgr24,
}

/// What the numbers of a YUV picture mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Range {
    /// 16 … 235, as television and most cameras.
    #[default]
    Limited,
    /// 0 … 255, as JPEG.
    Full,
}

/// A plane in memory.
struct Plane {
    /// Bytes of one row that are looked at.
    row_bytes: usize,
    height: usize,
    components: Vec<Component>,
}

impl Plane {
    /// `parts`: (output component, offset, step, width) of each component.
    fn new(row_bytes: usize, height: usize, parts: &[(usize, usize, usize, usize)]) -> Self {
        let component = |&(index, offset, step, width)| Component { index, offset, step, width };
        Self { row_bytes, height, components: parts.iter().map(component).collect() }
    }

    /// Bytes needed of a buffer with rows `stride` apart.
    fn bytes(&self, stride: usize) -> usize {
        stride * (self.height - 1) + self.row_bytes
    }
}

/// Resizes pictures of one geometry into [`Frame`]s.
pub struct Resizer {
    format: PixelFormat,
    width: usize,
    height: usize,
    planes: Vec<Plane>,
    picture: Picture,
}

impl Resizer {
    /// Precomputes the overlap tables for pictures of `width` × `height` in `format`.
    ///
    /// # Errors
    /// A side is 0, or the picture has more than [`MAX_PIXELS`].
    pub fn new(format: PixelFormat, width: usize, height: usize) -> Result<Self, SourceError> {
        Self::with_output(format, width, height, [FRAME_WIDTH, FRAME_HEIGHT])
    }

    /// As [`Self::new`], for a picture that is to be turned by a quarter: columns and rows of the output change places.
    pub(crate) fn on_its_side(format: PixelFormat, width: usize, height: usize) -> Result<Self, SourceError> {
        Self::with_output(format, width, height, [FRAME_HEIGHT, FRAME_WIDTH])
    }

    fn with_output(
        format: PixelFormat,
        width: usize,
        height: usize,
        out: [usize; 2],
    ) -> Result<Self, SourceError> {
        if width == 0 || height == 0 || width.saturating_mul(height) > MAX_PIXELS {
            let message = format!("a picture of {width} × {height} pixels");
            return Err(SourceError::new(SourceErrorKind::Unsupported, message)
                .help("1 × 1 to 16 777 216 pixels in all are possible"));
        }
        let planes = planes(format, width, height);
        let specs: Vec<_> =
            planes.iter().map(|p| PlaneSpec { height: p.height, components: &p.components }).collect();
        let picture = Picture::new(Kernel::best(), &specs, out[0], out[1])
            .map_err(|e| SourceError::new(SourceErrorKind::Unsupported, e.to_string()))?;
        Ok(Self { format, width, height, planes, picture })
    }

    /// The format it was made for.
    #[must_use]
    pub fn format(&self) -> PixelFormat {
        self.format
    }

    /// Width and height it was made for.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// Bytes of one picture without padding.
    #[must_use]
    pub fn packed_len(&self) -> usize {
        self.planes.iter().map(|p| p.row_bytes * p.height).sum()
    }

    /// Converts a picture whose planes follow each other in one buffer, as V4L2's single-planar formats do.
    /// `stride` is the first plane's bytes per row, 0 when rows are not padded; chroma rows are padded in proportion.
    ///
    /// # Errors
    /// `data` is too short ([`SourceErrorKind::Truncated`]) or `stride` is less than a row.
    pub fn convert(
        &mut self,
        data: &[u8],
        stride: usize,
        range: Range,
        out: &mut Frame,
    ) -> Result<(), SourceError> {
        let mut parts: [(&[u8], usize); 3] = [(&[], 0); 3];
        let mut rest = data;
        for (part, plane) in parts.iter_mut().zip(&self.planes) {
            let own = match stride {
                0 => plane.row_bytes,
                _ => chroma_stride(stride, plane.row_bytes, self.planes[0].row_bytes),
            };
            *part = (rest, own);
            rest = rest.get(own * plane.height..).unwrap_or(&[]);
        }
        self.convert_planes(&parts[..self.planes.len()], range, out)
    }

    /// Converts a picture whose planes lie anywhere: `(data, stride)` of each, in the format's order.
    ///
    /// # Errors
    /// A plane is missing or too short ([`SourceErrorKind::Truncated`]), or a stride is less than a row.
    pub fn convert_planes(
        &mut self,
        planes: &[(&[u8], usize)],
        range: Range,
        out: &mut Frame,
    ) -> Result<(), SourceError> {
        if planes.len() < self.planes.len() {
            return Err(truncated(planes.len(), self.planes.len(), "planes"));
        }
        for (plane, &(data, stride)) in self.planes.iter().zip(planes) {
            if stride < plane.row_bytes {
                return Err(truncated(stride, plane.row_bytes, "bytes of a row"));
            }
            if data.len() < plane.bytes(stride) {
                return Err(truncated(data.len(), plane.bytes(stride), "bytes of a plane"));
            }
        }
        self.picture.run(&planes[..self.planes.len()], colours(self.format, range), out.rgb_mut());
        Ok(())
    }
}

fn truncated(got: usize, need: usize, what: &str) -> SourceError {
    SourceError::new(SourceErrorKind::Truncated, format!("incomplete picture: {got} of {need} {what}"))
}

/// Stride of a plane whose unpadded row is `row` when the first plane's row `first_row` is padded to `stride`.
fn chroma_stride(stride: usize, row: usize, first_row: usize) -> usize {
    if row >= first_row { stride.max(row) } else { (stride / 2).max(row) }
}

/// The planes of a format, with where each component lies.
fn planes(format: PixelFormat, width: usize, height: usize) -> Vec<Plane> {
    let (half_w, half_h) = (width.div_ceil(2), height.div_ceil(2));
    let planar = |w: usize, h: usize| {
        vec![
            Plane::new(width, height, &[(0, 0, 1, width)]),
            Plane::new(w, h, &[(1, 0, 1, w)]),
            Plane::new(w, h, &[(2, 0, 1, w)]),
        ]
    };
    match format {
        PixelFormat::Yuyv => {
            vec![Plane::new(half_w * 4, height, &[(0, 0, 2, width), (1, 1, 4, half_w), (2, 3, 4, half_w)])]
        }
        PixelFormat::Uyvy => {
            vec![Plane::new(half_w * 4, height, &[(0, 1, 2, width), (1, 0, 4, half_w), (2, 2, 4, half_w)])]
        }
        PixelFormat::Nv12 => vec![
            Plane::new(width, height, &[(0, 0, 1, width)]),
            Plane::new(half_w * 2, half_h, &[(1, 0, 2, half_w), (2, 1, 2, half_w)]),
        ],
        PixelFormat::Yuv420 => planar(half_w, half_h),
        PixelFormat::Yuv422 => planar(half_w, height),
        PixelFormat::Yuv444 => planar(width, height),
        PixelFormat::Grey => vec![Plane::new(width, height, &[(0, 0, 1, width)])],
        PixelFormat::Rgb24 => {
            vec![Plane::new(width * 3, height, &[(0, 0, 3, width), (1, 1, 3, width), (2, 2, 3, width)])]
        }
        PixelFormat::Bgr24 => {
            vec![Plane::new(width * 3, height, &[(0, 2, 3, width), (1, 1, 3, width), (2, 0, 3, width)])]
        }
    }
}

/// How a format's components become R, G, B.
fn colours(format: PixelFormat, range: Range) -> Colours {
    match (format, range) {
        (PixelFormat::Grey, _) => Colours::Grey,
        (PixelFormat::Rgb24 | PixelFormat::Bgr24, _) => Colours::Rgb,
        (_, Range::Limited) => Colours::Limited,
        (_, Range::Full) => Colours::Full,
    }
}

/// Luma of one RGB pixel.
fn luma(rgb: [u8; 3]) -> i16 {
    i16::from(semantics::luma(rgb))
}

/// Writes the video encoder's input `[4, 96, 128]`: `(v − 127) / 128` of R, G, B, then the luma difference to the
/// previous *sampled* frame `/ 128`, zeros when there is none.
///
/// # Panics
/// When `out` does not hold [`TENSOR_VALUES`].
pub(crate) fn frame_tensor(current: &Frame, previous: Option<&Frame>, out: &mut [f32]) {
    assert_eq!(out.len(), TENSOR_VALUES, "one [4, {FRAME_HEIGHT}, {FRAME_WIDTH}] tensor");
    let pixels = current.rgb().as_chunks::<3>().0;
    let (colours, difference) = out.split_at_mut(3 * PIXELS);
    for (channel, values) in colours.chunks_exact_mut(PIXELS).enumerate() {
        for (value, pixel) in values.iter_mut().zip(pixels) {
            *value = (f32::from(pixel[channel]) - 127.0) / 128.0;
        }
    }
    match previous {
        None => difference.fill(0.0),
        Some(previous) => {
            let before = previous.rgb().as_chunks::<3>().0;
            for ((value, now), then) in difference.iter_mut().zip(pixels).zip(before) {
                *value = f32::from(luma(*now) - luma(*then)) / 128.0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, written out.
    fn slow_resize(plane: &[u8], width: usize, height: usize) -> Vec<u8> {
        let overlap = |o: usize, src: usize, dst: usize, s: usize| {
            let (lo, hi) = ((o * src).max(s * dst), ((o + 1) * src).min((s + 1) * dst));
            hi.saturating_sub(lo) as u64
        };
        let area = (width * height) as u64;
        let pixel = |oy: usize, ox: usize| {
            let mut sum = 0;
            for y in 0..height {
                for x in 0..width {
                    let weight = overlap(oy, height, FRAME_HEIGHT, y) * overlap(ox, width, FRAME_WIDTH, x);
                    sum += weight * u64::from(plane[y * width + x]);
                }
            }
            u8::try_from((sum + area / 2) / area).unwrap()
        };
        (0..PIXELS).map(|i| pixel(i / FRAME_WIDTH, i % FRAME_WIDTH)).collect()
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let step = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..len).map(step).collect()
    }

    #[test]
    fn grey_equals_the_definition_at_odd_sizes() {
        for (w, h) in [(1, 1), (5, 3), (128, 96), (131, 97), (60, 200)] {
            let plane = noise(w * h);
            let mut frame = Frame::new();
            let mut resizer = Resizer::new(PixelFormat::Grey, w, h).unwrap();
            resizer.convert(&plane, 0, Range::Limited, &mut frame).unwrap();
            let want = slow_resize(&plane, w, h);
            let got: Vec<u8> = frame.rgb().as_chunks::<3>().0.iter().map(|p| p[0]).collect();
            assert!(got == want, "{w} × {h}");
        }
    }

    #[test]
    fn stride_padding_is_ignored() {
        let (w, h, stride) = (320, 180, 700);
        let tight = noise(w * 2 * h);
        let mut padded = vec![0xAA; stride * h];
        for y in 0..h {
            padded[y * stride..y * stride + w * 2].copy_from_slice(&tight[y * w * 2..(y + 1) * w * 2]);
        }
        let (mut a, mut b) = (Frame::new(), Frame::new());
        let mut resizer = Resizer::new(PixelFormat::Yuyv, w, h).unwrap();
        resizer.convert(&tight, 0, Range::Limited, &mut a).unwrap();
        resizer.convert(&padded, stride, Range::Limited, &mut b).unwrap();
        assert!(a.rgb() == b.rgb());
    }

    #[test]
    fn short_data_is_truncated_not_a_panic() {
        for format in [PixelFormat::Yuyv, PixelFormat::Nv12, PixelFormat::Yuv420, PixelFormat::Rgb24] {
            let mut resizer = Resizer::new(format, 33, 17).unwrap();
            let data = noise(resizer.packed_len());
            let mut frame = Frame::new();
            assert!(resizer.convert(&data, 0, Range::Full, &mut frame).is_ok());
            let error = resizer.convert(&data[1..], 0, Range::Full, &mut frame).unwrap_err();
            assert_eq!(error.kind, SourceErrorKind::Truncated);
        }
    }

    #[test]
    fn white_stays_white_at_the_largest_size() {
        for (w, h) in [(4096, 4096), (1 << 24, 1), (1, 1 << 24)] {
            let mut resizer = Resizer::new(PixelFormat::Grey, w, h).unwrap();
            let mut frame = Frame::new();
            resizer.convert(&vec![255; w * h], 0, Range::Full, &mut frame).unwrap();
            assert!(frame.rgb().iter().all(|&v| v == 255), "{w} × {h}");
        }
        assert!(Resizer::new(PixelFormat::Grey, 4097, 4096).is_err());
    }

    #[test]
    fn the_tensor_has_no_motion_without_a_previous_frame() {
        let mut frame = Frame::new();
        frame.rgb_mut().fill(255);
        let mut out = vec![9.0; TENSOR_VALUES];
        frame_tensor(&frame, None, &mut out);
        assert!(out[..3 * PIXELS].iter().all(|&v| v == 1.0));
        assert!(out[3 * PIXELS..].iter().all(|&v| v == 0.0));
        frame_tensor(&frame, Some(&Frame::new()), &mut out);
        assert!(out[3 * PIXELS..].iter().all(|&v| v == 255.0 / 128.0));
    }
}
