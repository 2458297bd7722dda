//! A camera's picture to a small RGB picture: an area average of every component, then colours, in exact integers.
//!
//! Nothing of the picture's own size is ever written. Eight rows of the result, a *strip*, are made side by side:
//!
//! 1. the rows of the picture that each of them covers are weighted and added up ([`crate::rows`]), at most [`TILE`] bytes
//!    of a row at a time, so that what follows stays in the first-level cache;
//! 2. these sums are turned, so that a column's eight sums are eight lanes;
//! 3. columns are weighted, added up and divided by the area, component by component: no lane is idle, whatever the
//!    picture's format and size;
//! 4. colours are computed, turned back and interleaved.

use std::ops::Range;

#[cfg(target_arch = "aarch64")]
use crate::kernels::neon_picture;
use crate::{
    Kernel,
    error::Error,
    lanes::on_each_family,
    rows::{NARROW, RowSpan, Sum, add_rows, check_rows},
    semantics,
};

pub use crate::semantics::Colours;

/// Rows of the result that are made side by side.
pub const STRIP: usize = 8;
/// Most pixels of a picture: sums fit 32 bits.
pub const MAX_PIXELS: usize = 1 << 24;
/// Bytes of a row that are looked at before the next row, if a pixel of the result does not cover more.
const TILE: usize = 768;

/// One component (Y, U, R, ...) inside a plane of interleaved bytes.
#[derive(Clone, Copy, Debug)]
pub struct Component {
    /// Which of the three components of the result it is.
    pub index: usize,
    /// Offset of its first sample in a row.
    pub offset: usize,
    /// Bytes from one sample to the next.
    pub step: usize,
    /// Samples of a row.
    pub width: usize,
}

/// A plane of interleaved bytes.
#[derive(Clone, Copy, Debug)]
pub struct PlaneSpec<'a> {
    /// Rows.
    pub height: usize,
    /// What a row holds.
    pub components: &'a [Component],
}

impl PlaneSpec<'_> {
    /// Bytes of a row that are looked at.
    #[must_use]
    pub fn row_bytes(&self) -> usize {
        self.components.iter().map(|c| c.offset + (c.width - 1) * c.step + 1).max().unwrap_or(0)
    }
}

/// Resizes pictures of one geometry.
#[derive(Clone, Debug)]
pub struct Picture {
    kernel: Kernel,
    width: usize,
    height: usize,
    planes: Vec<Plane>,
    narrow: Buffers<u16>,
    wide: Buffers<u32>,
    strip: [Vec<[u8; STRIP]>; 3],
}

#[derive(Clone, Debug)]
struct Plane {
    row_bytes: usize,
    height: usize,
    rows: Vec<Span>,
    /// Sums of rows fit 16 bits.
    narrow: bool,
    tiles: Vec<Tile>,
    averages: Vec<Average>,
}

/// Columns of the result, and the bytes of a row that they cover.
#[derive(Clone, Debug)]
struct Tile {
    columns: Range<usize>,
    bytes: Range<usize>,
}

/// How a component's columns are averaged.
#[derive(Clone, Debug)]
pub(crate) struct Average {
    pub(crate) index: usize,
    pub(crate) offset: usize,
    pub(crate) step: usize,
    pub(crate) columns: Vec<Span>,
    pub(crate) area: Divider,
}

/// The samples that one pixel of the result covers, in one dimension.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) len: usize,
    /// Of the first, of those between, of the last unless it is the first, and 0.
    pub(crate) weights: [u16; 4],
}

/// Sums of a strip's rows in a tile, row by row, and the same turned.
#[derive(Clone, Debug, Default)]
struct Buffers<T> {
    sums: Vec<T>,
    turned: Vec<[T; STRIP]>,
}

impl<T: Sum> Buffers<T> {
    fn fit(&mut self, columns: usize) {
        let columns = columns.next_multiple_of(STRIP).max(self.turned.len());
        self.sums.resize(columns * STRIP, T::ZERO);
        self.turned.resize(columns, [T::ZERO; STRIP]);
    }
}

impl Picture {
    /// For pictures of `planes`, to `width` x `height` pixels.
    ///
    /// # Errors
    /// A side of the result that is no multiple of 8 or above 248, a component that is none of three or has no samples, more
    /// than [`MAX_PIXELS`], or another CPU's kernel.
    pub fn new(kernel: Kernel, planes: &[PlaneSpec<'_>], width: usize, height: usize) -> Result<Self, Error> {
        for side in [width, height] {
            if side == 0 || !side.is_multiple_of(STRIP) || side > usize::from(u8::MAX) {
                return Err(Error::Shape { what: "side of the result", found: side });
            }
        }
        let mut new = Self {
            kernel: kernel.check()?,
            width,
            height,
            planes: planes.iter().map(|spec| Plane::new(spec, width, height)).collect::<Result<_, _>>()?,
            narrow: Buffers::default(),
            wide: Buffers::default(),
            strip: std::array::from_fn(|_| vec![[0; STRIP]; width]),
        };
        for plane in &new.planes {
            let widest = plane.tiles.iter().map(|tile| tile.bytes.len()).max().unwrap_or(0);
            if plane.narrow { new.narrow.fit(widest) } else { new.wide.fit(widest) }
        }
        Ok(new)
    }

    /// The kernel that runs.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Averages the picture whose planes are `(data, stride)`, and writes `R G B` of each pixel, row by row.
    ///
    /// # Panics
    /// Unless there are all planes with all rows, and `rgb` has `width * height * 3` bytes.
    pub fn run(&mut self, planes: &[(&[u8], usize)], colours: Colours, rgb: &mut [u8]) {
        assert_eq!(rgb.len(), self.width * self.height * 3, "the result's length");
        assert_eq!(planes.len(), self.planes.len(), "all planes");
        for (plane, &(data, stride)) in self.planes.iter().zip(planes) {
            assert!(data.len() >= stride * (plane.height - 1) + plane.row_bytes, "all rows");
        }
        let strips = rgb.chunks_exact_mut(self.width * STRIP * 3);
        for (first, rgb) in (0..self.height).step_by(STRIP).zip(strips) {
            for (plane, &(data, stride)) in self.planes.iter().zip(planes) {
                let rows = &plane.rows[first..first + STRIP];
                for tile in &plane.tiles {
                    let work = TileWork { rows, tile, averages: &plane.averages, data, stride };
                    let strip = &mut self.strip;
                    if plane.narrow {
                        narrow_tile(self.kernel, work, &mut self.narrow, strip);
                    } else {
                        let buffers = &mut self.wide;
                        on_each_family!(self.kernel, plain_tile::<u32>, (work: TileWork<'_>, buffers: &mut Buffers<u32>, strip: &mut [Vec<[u8; STRIP]>; 3]));
                    }
                }
            }
            finish(self.kernel, &self.strip, colours, rgb);
        }
    }
}

impl Plane {
    fn new(spec: &PlaneSpec<'_>, width: usize, height: usize) -> Result<Self, Error> {
        let (rows, row_total) = spans(spec.height, height)?;
        let mut averages = Vec::new();
        for component in spec.components {
            if component.index > 2 || component.step == 0 {
                return Err(Error::Shape { what: "component", found: component.index });
            }
            let (columns, total) = spans(component.width, width)?;
            if component.width.saturating_mul(spec.height) > MAX_PIXELS {
                return Err(Error::Shape { what: "width of a plane", found: component.width });
            }
            averages.push(Average {
                index: component.index,
                offset: component.offset,
                step: component.step,
                columns,
                area: Divider::new(total * row_total),
            });
        }
        let row_bytes = spec.row_bytes();
        let count = row_bytes.div_ceil(TILE).clamp(1, width);
        let tiles = (0..count).map(|i| tile(&averages, i * width / count..(i + 1) * width / count)).collect();
        Ok(Self { row_bytes, height: spec.height, rows, narrow: row_total <= NARROW, tiles, averages })
    }
}

fn tile(averages: &[Average], columns: Range<usize>) -> Tile {
    let first = |c: &Average| c.position(c.columns[columns.start].start);
    let last = |c: &Average| {
        let span = c.columns[columns.end - 1];
        c.position(span.start + span.len - 1)
    };
    let start = averages.iter().map(first).min().unwrap_or(0);
    let end = averages.iter().map(last).max().map_or(start, |last| last + 1);
    Tile { columns, bytes: start..end }
}

impl Average {
    /// Where in a row a sample lies.
    fn position(&self, sample: usize) -> usize {
        self.offset + sample * self.step
    }
}

/// Overlaps of `dst` pixels of the result with `src` samples, in the largest unit in which all are whole; and what each
/// pixel's sum to. (In a smaller unit all averages would be the same: their rounding is exact.)
#[allow(clippy::cast_possible_truncation, reason = "weights are at most `dst`, which fits a byte")]
fn spans(src: usize, dst: usize) -> Result<(Vec<Span>, usize), Error> {
    if src == 0 || src > MAX_PIXELS {
        return Err(Error::Shape { what: "side of a plane", found: src });
    }
    let unit = greatest_common_divisor(src, dst);
    // Lengths of a pixel of the result and of a sample.
    let (out_len, src_len) = (src / unit, dst / unit);
    let overlap = |lo: usize, hi: usize, s: usize| (hi.min((s + 1) * src_len) - lo.max(s * src_len)) as u16;
    let span = |out: usize| {
        let (lo, hi) = (out * out_len, (out + 1) * out_len);
        let (start, end) = (lo / src_len, hi.div_ceil(src_len));
        let weights = [overlap(lo, hi, start), src_len as u16, overlap(lo, hi, end - 1), 0];
        Span { start, len: end - start, weights }
    };
    Ok(((0..dst).map(span).collect(), out_len))
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

impl Span {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "weights are at most the result's side, which fits a byte"
    )]
    pub(crate) fn rows(&self) -> RowSpan {
        let [first, inner, last, _] = self.weights.map(|weight| weight as u8);
        RowSpan { len: self.len, first, inner, last }
    }
}

/// Exact `(x + ⌊d/2⌋) / d` for `x ≤ 255·d` and `d ≤ 2²⁴`, by one multiplication.
///
/// With `m = ⌊2ˢ/d⌋ + 1` and `e = m·d − 2ˢ ≤ d`, `n·m / 2ˢ` exceeds `n/d` by `n·e / (d·2ˢ)`, which never reaches the next
/// quotient while `n·e < 2ˢ`; and `n·e ≤ 255.5·d²`. That is below 2⁵⁶ for any `d` (and `n·m < 2⁶⁴`), and below 2³¹ up to
/// [`Divider::SMALL`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Divider {
    pub(crate) half: u32,
    /// For 31 bits; 0 if the divisor is too large (or 1).
    pub(crate) small: u32,
    magic: u64,
}

impl Divider {
    const SMALL: usize = 2_898;

    #[allow(clippy::cast_possible_truncation, reason = "a divisor of 2^24 at most; 2^31 / 2 + 1 at most")]
    fn new(divisor: usize) -> Self {
        let small = match divisor {
            2..=Self::SMALL => (1 << 31) / divisor as u32 + 1,
            _ => 0,
        };
        Self { half: (divisor / 2) as u32, small, magic: (1 << 56) / divisor as u64 + 1 }
    }

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "an average of bytes")]
    pub(crate) fn round(self, x: u32) -> u8 {
        ((u64::from(x) + u64::from(self.half)).wrapping_mul(self.magic) >> 56) as u8
    }

    #[inline(always)]
    #[allow(clippy::cast_possible_truncation, reason = "an average of bytes")]
    fn round_small(self, x: u32) -> u8 {
        ((u64::from(x + self.half) * u64::from(self.small)) >> 31) as u8
    }
}

/// A strip's part in one tile of one plane.
#[derive(Clone, Copy)]
struct TileWork<'a> {
    rows: &'a [Span],
    tile: &'a Tile,
    averages: &'a [Average],
    data: &'a [u8],
    stride: usize,
}

type Strip = [Vec<[u8; STRIP]>; 3];

/// Columns whose average goes to `results`: turned sums from `turned` on, the component's samples `step` apart.
pub(crate) struct Columns<'a, T> {
    pub(crate) spans: &'a [Span],
    /// What a sample's position is relative to, less the component's offset.
    pub(crate) offset: isize,
    pub(crate) step: usize,
    pub(crate) area: Divider,
    pub(crate) turned: &'a [[T; STRIP]],
}

impl<T> Columns<'_, T> {
    /// The turned sums from a span's first sample to its last.
    #[inline(always)]
    pub(crate) fn touched(&self, span: &Span) -> &[[T; STRIP]] {
        let first = (span.start * self.step).wrapping_add_signed(self.offset);
        &self.turned[first..=first + (span.len - 1) * self.step]
    }
}

impl<'a> TileWork<'a> {
    /// The rows that a row of the strip covers, from the tile's first byte on.
    fn row(&self, span: &Span) -> &'a [u8] {
        let data = &self.data[span.start * self.stride + self.tile.bytes.start..];
        check_rows(data, self.stride, span.rows(), self.tile.bytes.len());
        data
    }

    fn pitch(&self) -> usize {
        self.tile.bytes.len().next_multiple_of(STRIP)
    }

    #[allow(clippy::cast_possible_wrap, reason = "positions in a row of at most 2^24 samples")]
    fn columns<'t, T>(&self, average: &'t Average, turned: &'t [[T; STRIP]]) -> Columns<'t, T> {
        Columns {
            spans: &average.columns[self.tile.columns.clone()],
            offset: average.offset as isize - self.tile.bytes.start as isize,
            step: average.step,
            area: average.area,
            turned,
        }
    }
}

fn narrow_tile(kernel: Kernel, work: TileWork<'_>, buffers: &mut Buffers<u16>, strip: &mut Strip) {
    match kernel {
        #[cfg(target_arch = "aarch64")]
        Kernel::Neon | Kernel::NeonDotprod | Kernel::NeonI8mm => {
            let (width, pitch) = (work.tile.bytes.len(), work.pitch());
            for (span, sums) in work.rows.iter().zip(buffers.sums.chunks_exact_mut(pitch)) {
                let data = work.row(span);
                // SAFETY: an operator's kernel has been checked: this CPU has `neon`. `row` has checked that all rows are there.
                unsafe { neon_picture::add_rows(data, work.stride, span.rows(), &mut sums[..width]) };
            }
            let turned = &mut buffers.turned[..pitch];
            // SAFETY: this CPU has `neon`.
            unsafe { neon_picture::turn(&buffers.sums[..pitch * STRIP], turned) };
            for average in work.averages {
                let results = &mut strip[average.index][work.tile.columns.clone()];
                // SAFETY: this CPU has `neon`.
                unsafe { neon_picture::average(&work.columns(average, turned), results) };
            }
        }
        _ => {
            on_each_family!(kernel, plain_tile::<u16>, (work: TileWork<'_>, buffers: &mut Buffers<u16>, strip: &mut [Vec<[u8; STRIP]>; 3]));
        }
    }
}

#[inline(always)]
fn plain_tile<T: Sum>(work: TileWork<'_>, buffers: &mut Buffers<T>, strip: &mut Strip) {
    let (width, pitch) = (work.tile.bytes.len(), work.pitch());
    for (span, sums) in work.rows.iter().zip(buffers.sums.chunks_exact_mut(pitch)) {
        add_rows(work.row(span), work.stride, span.rows(), &mut sums[..width]);
    }
    let turned = &mut buffers.turned[..pitch];
    turn(&buffers.sums[..pitch * STRIP], turned);
    for average in work.averages {
        average_columns(&work.columns(average, turned), &mut strip[average.index][work.tile.columns.clone()]);
    }
}

/// Eight rows of sums to columns of eight.
#[inline(always)]
fn turn<T: Sum>(sums: &[T], turned: &mut [[T; STRIP]]) {
    let pitch = turned.len();
    for (start, block) in (0..pitch).step_by(STRIP).zip(turned.as_chunks_mut::<STRIP>().0) {
        let row = |row: usize| -> [T; STRIP] {
            let sums = &sums[row * pitch + start..];
            sums.first_chunk().copied().unwrap_or([T::ZERO; STRIP])
        };
        let rows: [_; STRIP] = std::array::from_fn(row);
        *block = std::array::from_fn(|column| rows.map(|row| row[column]));
    }
}

#[inline(always)]
fn average_columns<T: Sum>(columns: &Columns<'_, T>, results: &mut [[u8; STRIP]]) {
    for (result, span) in results.iter_mut().zip(columns.spans) {
        let touched = columns.touched(span);
        let [first, inner, last, _] = span.weights.map(u32::from);
        let mut sums = touched[0].map(|sum| first * sum.into());
        if span.len > 1 {
            let mut add = |weight: u32, column: &[T; STRIP]| {
                for (sum, &value) in sums.iter_mut().zip(column) {
                    *sum += weight * value.into();
                }
            };
            for index in 1..span.len - 1 {
                add(inner, &touched[index * columns.step]);
            }
            add(last, &touched[(span.len - 1) * columns.step]);
        }
        let area = columns.area;
        *result =
            if area.small == 0 { sums.map(|x| area.round(x)) } else { sums.map(|x| area.round_small(x)) };
    }
}

/// A strip's components to rows of R, G, B.
fn finish(kernel: Kernel, strip: &Strip, colours: Colours, rgb: &mut [u8]) {
    let components: [&[[u8; STRIP]]; 3] = [&strip[0], &strip[1], &strip[2]];
    match kernel {
        #[cfg(target_arch = "aarch64")]
        // SAFETY: an operator's kernel has been checked: this CPU has `neon`.
        Kernel::Neon | Kernel::NeonDotprod | Kernel::NeonI8mm => unsafe {
            neon_picture::finish(components, colours, rgb);
        },
        _ => {
            on_each_family!(kernel, plain_finish, (components: [&[[u8; STRIP]]; 3], colours: Colours, rgb: &mut [u8]));
        }
    }
}

#[inline(always)]
fn plain_finish(components: [&[[u8; STRIP]]; 3], colours: Colours, rgb: &mut [u8]) {
    let [first, second, third] = components;
    let width = first.len();
    for (x, ((a, b), c)) in first.iter().zip(second).zip(third).enumerate() {
        for row in 0..STRIP {
            let at = (row * width + x) * 3;
            rgb[at..at + 3].copy_from_slice(&semantics::rgb(colours, [a[row], b[row], c[row]]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_divider_is_exact_at_the_borders() {
        let divisors =
            [1, 2, 3, 7, 25, Divider::SMALL, Divider::SMALL + 1, 97 * 131, MAX_PIXELS - 1, MAX_PIXELS];
        for d in divisors.into_iter().chain(if cfg!(miri) { 20..30 } else { 2..Divider::SMALL }) {
            let divider = Divider::new(d);
            for q in 0..=255 {
                for x in [(q * d).saturating_sub(d / 2 + 1), (q * d).saturating_sub(d / 2), q * d] {
                    let (x, want) = (u32::try_from(x).unwrap(), (x + d / 2) / d);
                    assert_eq!(usize::from(divider.round(x)), want, "{x} / {d}");
                    if divider.small != 0 {
                        assert_eq!(usize::from(divider.round_small(x)), want, "{x} / {d}");
                    }
                }
            }
        }
    }
}
