//! Pixels of any camera format → small RGB frame → model input, in exact integers (decision 0003).
//!
//! The resize is an area average per component. It runs in two passes over precomputed overlap tables: rows first,
//! over whole interleaved rows (contiguous; `girasol_ops::rows`), then columns. With `W·H` at most
//! [`MAX_PIXELS`] every sum fits in 32 bits. [`Resizer::convert`] allocates nothing.

// Pixel positions and sums are bounded by MAX_PIXELS, and every narrowing follows a clamp or an average of bytes.
#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_possible_wrap)]

use girasol_ops::{
    Kernel,
    rows::{RowSpan, RowSums},
};

use crate::source::{FRAME_BYTES, FRAME_HEIGHT, FRAME_WIDTH, Frame, SourceError, SourceErrorKind};

/// Most pixels of a source picture (4096 × 4096).
pub const MAX_PIXELS: usize = 1 << 24;
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

/// Source interval that one output pixel covers, in one dimension.
#[derive(Clone, Copy)]
struct Span {
    /// First source position touched.
    start: usize,
    /// How many are touched.
    len: usize,
    /// Weight of the first; the others between first and last weigh `inner`.
    first: u32,
    /// Weight of the last (unused when `len` is 1).
    last: u32,
    /// Weight of those between.
    inner: u32,
}

/// Overlaps of `dst` output pixels with `src` source pixels, in the largest unit in which all are whole; and what each
/// output pixel's sum to. (In a smaller unit all averages would be the same: their rounding is exact.)
fn spans(src: usize, dst: usize) -> (Vec<Span>, usize) {
    let unit = greatest_common_divisor(src, dst);
    // Lengths of an output pixel and of a source pixel.
    let (out_len, src_len) = (src / unit, dst / unit);
    let overlap = |lo: usize, hi: usize, s: usize| (hi.min((s + 1) * src_len) - lo.max(s * src_len)) as u32;
    let span = |out: usize| {
        let (lo, hi) = (out * out_len, (out + 1) * out_len);
        let (start, end) = (lo / src_len, hi.div_ceil(src_len));
        Span {
            start,
            len: end - start,
            first: overlap(lo, hi, start),
            last: overlap(lo, hi, end - 1),
            inner: src_len as u32,
        }
    };
    ((0..dst).map(span).collect(), out_len)
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

impl Span {
    /// As rows: weights are at most the height or width of the output.
    fn rows(&self) -> RowSpan {
        let &Self { len, first, inner, last, .. } = self;
        RowSpan { len, first: first as u8, inner: inner as u8, last: last as u8 }
    }
}

/// A weight, at most that, fits a byte.
const _: () = assert!(FRAME_WIDTH < 256 && FRAME_HEIGHT < 256);

/// One component (Y, U, R, …) inside a plane of interleaved bytes.
#[derive(Clone, Copy)]
struct Component {
    /// Which of the three output components it is.
    index: usize,
    /// Offset of its first sample in a row.
    offset: usize,
    /// Bytes from one sample to the next.
    step: usize,
    /// Which of the plane's column tables fits its width.
    columns: usize,
}

/// A plane of interleaved bytes that is resized in one go.
struct Plane {
    /// Bytes of one row that are looked at.
    row_bytes: usize,
    height: usize,
    rows: Vec<Span>,
    /// Column tables, one per distinct component width.
    columns: Vec<Vec<Span>>,
    /// Sum of an output pixel's weights, for each table.
    areas: Vec<Divider>,
    components: Vec<Component>,
}

/// Width and height of what comes out.
type Size = (usize, usize);

impl Plane {
    /// `parts`: (output component, offset, step, width) of each component.
    fn new(row_bytes: usize, height: usize, out: Size, parts: &[(usize, usize, usize, usize)]) -> Self {
        let mut widths: Vec<usize> = Vec::new();
        let mut components = Vec::new();
        for &(index, offset, step, width) in parts {
            let columns = widths.iter().position(|&w| w == width).unwrap_or_else(|| {
                widths.push(width);
                widths.len() - 1
            });
            components.push(Component { index, offset, step, columns });
        }
        let (rows, row_total) = spans(height, out.1);
        let (columns, totals): (Vec<_>, Vec<_>) = widths.iter().map(|&w| spans(w, out.0)).unzip();
        let areas = totals.into_iter().map(|total| Divider::new(total * row_total)).collect();
        Self { row_bytes, height, rows, columns, areas, components }
    }

    /// Bytes needed of a buffer with rows `stride` apart.
    fn bytes(&self, stride: usize) -> usize {
        stride * (self.height - 1) + self.row_bytes
    }

    /// Area-averages every component of `data` into its plane of `small`.
    fn resize(
        &self,
        adder: RowSums,
        data: &[u8],
        stride: usize,
        sums: &mut [u32],
        small: &mut [[u8; PIXELS]; 3],
    ) {
        let sums = &mut sums[..self.row_bytes];
        for (y, span) in self.rows.iter().enumerate() {
            adder.run(&data[span.start * stride..], stride, span.rows(), sums);
            for c in &self.components {
                let area = self.areas[c.columns];
                let columns = &self.columns[c.columns];
                let width = columns.len();
                let out = &mut small[c.index][y * width..(y + 1) * width];
                match c.step {
                    1 => average_columns::<1>(&sums[c.offset..], columns, area, out),
                    2 => average_columns::<2>(&sums[c.offset..], columns, area, out),
                    3 => average_columns::<3>(&sums[c.offset..], columns, area, out),
                    _ => average_columns::<4>(&sums[c.offset..], columns, area, out),
                }
            }
        }
    }
}

/// Weighted sums over the columns of one component, `STEP` apart, divided by the source area.
fn average_columns<const STEP: usize>(sums: &[u32], columns: &[Span], area: Divider, out: &mut [u8]) {
    for (out, span) in out.iter_mut().zip(columns) {
        // A loop over so few values costs more than they do.
        let total = match span.len {
            1 => span.first * sums[span.start * STEP],
            2 => weighted::<2, STEP>(sums, span),
            3 => weighted::<3, STEP>(sums, span),
            4 => weighted::<4, STEP>(sums, span),
            5 => weighted::<5, STEP>(sums, span),
            6 => weighted::<6, STEP>(sums, span),
            7 => weighted::<7, STEP>(sums, span),
            8 => weighted::<8, STEP>(sums, span),
            len => {
                let at = span.start * STEP;
                let touched = &sums[at..=at + (len - 1) * STEP];
                let last = touched.len() - 1;
                let inner: u32 = touched[..last].iter().step_by(STEP).skip(1).sum();
                span.first * touched[0] + span.inner * inner + span.last * touched[last]
            }
        };
        *out = area.round(total);
    }
}

/// The weighted sum of `LEN` columns, at least two.
#[inline(always)]
fn weighted<const LEN: usize, const STEP: usize>(sums: &[u32], span: &Span) -> u32 {
    let touched = &sums[span.start * STEP..][..(LEN - 1) * STEP + 1];
    let mut inner = 0;
    for index in 1..LEN - 1 {
        inner += touched[index * STEP];
    }
    span.first * touched[0] + span.inner * inner + span.last * touched[(LEN - 1) * STEP]
}

/// Exact `(x + ⌊d/2⌋) / d` for `x ≤ 255·d` and `d ≤ 2²⁴`, by one multiplication.
///
/// With `m = ⌊2⁵⁶/d⌋ + 1` and `e = m·d − 2⁵⁶ ≤ d`, the error term `n·e ≤ 255.5·d² < 2⁵⁶` never reaches the next
/// quotient, and `n·m < 2⁶⁴`.
#[derive(Clone, Copy)]
struct Divider {
    half: u32,
    magic: u64,
}

impl Divider {
    fn new(divisor: usize) -> Self {
        Self { half: (divisor / 2) as u32, magic: (1 << 56) / divisor as u64 + 1 }
    }

    fn round(self, x: u32) -> u8 {
        ((u64::from(x) + u64::from(self.half)).wrapping_mul(self.magic) >> 56) as u8
    }
}

/// How the three resized components become R, G, B.
#[derive(Clone, Copy)]
enum Colour {
    Yuv,
    Grey,
    Rgb,
}

/// Resizes pictures of one geometry into [`Frame`]s.
pub struct Resizer {
    format: PixelFormat,
    width: usize,
    height: usize,
    planes: Vec<Plane>,
    adder: RowSums,
    colour: Colour,
    sums: Vec<u32>,
    small: Box<[[u8; PIXELS]; 3]>,
}

impl Resizer {
    /// Precomputes the overlap tables for pictures of `width` × `height` in `format`.
    ///
    /// # Errors
    /// A side is 0, or the picture has more than [`MAX_PIXELS`].
    pub fn new(format: PixelFormat, width: usize, height: usize) -> Result<Self, SourceError> {
        Self::with_output(format, width, height, (FRAME_WIDTH, FRAME_HEIGHT))
    }

    /// As [`Self::new`], for a picture that is to be turned by a quarter: columns and rows of the output change places.
    pub(crate) fn on_its_side(format: PixelFormat, width: usize, height: usize) -> Result<Self, SourceError> {
        Self::with_output(format, width, height, (FRAME_HEIGHT, FRAME_WIDTH))
    }

    fn with_output(format: PixelFormat, width: usize, height: usize, out: Size) -> Result<Self, SourceError> {
        if width == 0 || height == 0 || width.saturating_mul(height) > MAX_PIXELS {
            let message = format!("a picture of {width} × {height} pixels");
            return Err(SourceError::new(SourceErrorKind::Unsupported, message)
                .help("1 × 1 to 16 777 216 pixels in all are possible"));
        }
        let planes = planes(format, width, height, out);
        let colour = match format {
            PixelFormat::Grey => Colour::Grey,
            PixelFormat::Rgb24 | PixelFormat::Bgr24 => Colour::Rgb,
            _ => Colour::Yuv,
        };
        let adder = RowSums::new(Kernel::best())
            .map_err(|e| SourceError::new(SourceErrorKind::Unsupported, e.to_string()))?;
        let widest = planes.iter().map(|p| p.row_bytes).max().unwrap_or(0);
        Ok(Self {
            format,
            width,
            height,
            planes,
            adder,
            colour,
            sums: vec![0; widest],
            small: Box::new([[0; PIXELS]; 3]),
        })
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
        for (plane, &(data, stride)) in self.planes.iter().zip(planes) {
            plane.resize(self.adder, data, stride, &mut self.sums, &mut self.small);
        }
        write_rgb(&self.small, self.colour, range, out.rgb_mut());
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
fn planes(format: PixelFormat, width: usize, height: usize, out: Size) -> Vec<Plane> {
    let (half_w, half_h) = (width.div_ceil(2), height.div_ceil(2));
    let planar = |w: usize, h: usize| {
        vec![
            Plane::new(width, height, out, &[(0, 0, 1, width)]),
            Plane::new(w, h, out, &[(1, 0, 1, w)]),
            Plane::new(w, h, out, &[(2, 0, 1, w)]),
        ]
    };
    match format {
        PixelFormat::Yuyv => {
            vec![Plane::new(
                half_w * 4,
                height,
                out,
                &[(0, 0, 2, width), (1, 1, 4, half_w), (2, 3, 4, half_w)],
            )]
        }
        PixelFormat::Uyvy => {
            vec![Plane::new(
                half_w * 4,
                height,
                out,
                &[(0, 1, 2, width), (1, 0, 4, half_w), (2, 2, 4, half_w)],
            )]
        }
        PixelFormat::Nv12 => vec![
            Plane::new(width, height, out, &[(0, 0, 1, width)]),
            Plane::new(half_w * 2, half_h, out, &[(1, 0, 2, half_w), (2, 1, 2, half_w)]),
        ],
        PixelFormat::Yuv420 => planar(half_w, half_h),
        PixelFormat::Yuv422 => planar(half_w, height),
        PixelFormat::Yuv444 => planar(width, height),
        PixelFormat::Grey => vec![Plane::new(width, height, out, &[(0, 0, 1, width)])],
        PixelFormat::Rgb24 => {
            vec![Plane::new(width * 3, height, out, &[(0, 0, 3, width), (1, 1, 3, width), (2, 2, 3, width)])]
        }
        PixelFormat::Bgr24 => {
            vec![Plane::new(width * 3, height, out, &[(0, 2, 3, width), (1, 1, 3, width), (2, 0, 3, width)])]
        }
    }
}

/// Interleaves the three small components as R, G, B.
fn write_rgb(small: &[[u8; PIXELS]; 3], colour: Colour, range: Range, rgb: &mut [u8; FRAME_BYTES]) {
    let [a, b, c] = small;
    let pixels = rgb.as_chunks_mut::<3>().0.iter_mut().zip(a).zip(b).zip(c);
    match (colour, range) {
        (Colour::Grey, _) => pixels.for_each(|(((out, &y), _), _)| *out = [y; 3]),
        (Colour::Rgb, _) => pixels.for_each(|(((out, &r), &g), &b)| *out = [r, g, b]),
        (Colour::Yuv, Range::Limited) => {
            pixels.for_each(|(((out, &y), &u), &v)| *out = limited_to_rgb(y, u, v))
        }
        (Colour::Yuv, Range::Full) => pixels.for_each(|(((out, &y), &u), &v)| *out = full_to_rgb(y, u, v)),
    }
}

fn clamp(v: i32) -> u8 {
    v.clamp(0, 255) as u8
}

/// BT.601, limited range, in integers.
fn limited_to_rgb(y: u8, u: u8, v: u8) -> [u8; 3] {
    let (c, d, e) = (i32::from(y) - 16, i32::from(u) - 128, i32::from(v) - 128);
    [
        clamp((298 * c + 409 * e + 128) >> 8),
        clamp((298 * c - 100 * d - 208 * e + 128) >> 8),
        clamp((298 * c + 516 * d + 128) >> 8),
    ]
}

/// BT.601, full range, in integers.
fn full_to_rgb(y: u8, u: u8, v: u8) -> [u8; 3] {
    let (y, d, e) = (i32::from(y), i32::from(u) - 128, i32::from(v) - 128);
    [
        clamp(y + ((359 * e + 128) >> 8)),
        clamp(y - ((88 * d + 183 * e + 128) >> 8)),
        clamp(y + ((454 * d + 128) >> 8)),
    ]
}

/// Luma of one RGB pixel.
fn luma(rgb: &[u8; 3]) -> i16 {
    let [r, g, b] = rgb.map(u32::from);
    ((77 * r + 150 * g + 29 * b + 128) >> 8) as i16
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
                *value = f32::from(luma(now) - luma(then)) / 128.0;
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
            ((sum + area / 2) / area) as u8
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
    fn the_divider_is_exact_at_the_borders() {
        for d in [1_usize, 2, 3, 7, 97 * 131, 640 * 480, MAX_PIXELS - 1, MAX_PIXELS] {
            for q in 0..=255_u64 {
                for x in [(q * d as u64).saturating_sub(d as u64 / 2 + 1), q * d as u64] {
                    let want = (x + d as u64 / 2) / d as u64;
                    assert_eq!(u64::from(Divider::new(d).round(x as u32)), want, "{x} / {d}");
                }
            }
        }
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
