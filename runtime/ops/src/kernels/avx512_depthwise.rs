//! Depthwise convolutions on AVX-512: VPDPBUSD, four rows of a column and a channel in one lane.
//!
//! Rows are in the ring as `x + 128` already. A register of each of four rows (three, and one again whose weights are 0)
//! becomes four registers of columns in eight UNPCK, and stays for all outputs that look at it. The lanes of those four
//! registers are in such an order that packing the results puts their channels in place.

#![allow(clippy::needless_range_loop, reason = "rows and columns index several arrays at once")]

use std::arch::x86_64::{
    __m512i, _mm_loadu_si128, _mm256_loadu_si256, _mm512_castsi128_si512, _mm512_castsi256_si512,
    _mm512_dpbusd_epi32, _mm512_inserti32x4, _mm512_inserti64x4, _mm512_loadu_si512, _mm512_unpackhi_epi8,
    _mm512_unpackhi_epi16, _mm512_unpacklo_epi8, _mm512_unpacklo_epi16,
};

use super::{
    Channels,
    avx512::{Bounds, Ends, halves, load, quarters, store16, store32, store64},
};
use crate::{depthwise::Depthwise, window::Window};

/// Bytes of a register.
const WIDE: usize = 64;

/// Four registers with 64 lanes of an i32.
type Four = [__m512i; 4];

/// Channels that are done together. Where there are fewer than a register holds, its halves or quarters are as many
/// segments of a row of outputs.
#[derive(Clone, Copy)]
struct Part {
    first: usize,
    segments: usize,
}

impl Part {
    /// The channel of lane `lane` of register `register`.
    const fn channel(self, register: usize, lane: usize) -> usize {
        self.first + (lane / 4 * 16 + register * 4 + lane % 4) % (WIDE / self.segments)
    }
}

/// All of `padded` channels, a multiple of 16.
fn parts(padded: usize) -> impl Iterator<Item = Part> {
    let whole = padded / WIDE;
    let part = |first, segments| Some(Part { first, segments });
    let rest = match padded % WIDE {
        16 => [part(whole * WIDE, 4), None],
        32 => [part(whole * WIDE, 2), None],
        // Some channels twice cost less than 48 in two parts.
        48 if whole > 0 => [part(padded - WIDE, 1), None],
        48 => [part(0, 2), part(32, 4)],
        _ => [None, None],
    };
    (0..whole).map(|block| Part { first: block * WIDE, segments: 1 }).chain(rest.into_iter().flatten())
}

/// Products of a lane: the columns of up to four rows, and for a fifth row its first four columns and its last.
const fn groups(size: usize) -> usize {
    if size == 3 { 3 } else { 7 }
}

/// The tap (row, column) that byte `byte` of a lane multiplies in `group`.
const fn tap(window: &Window, group: usize, byte: usize) -> Option<(usize, usize)> {
    let Window { size, stride, .. } = *window;
    match group {
        _ if group < size => {
            if byte < size {
                Some((byte, group))
            } else {
                None
            }
        }
        5 => Some((4, byte)),
        // The next output's group 5 looks at this column too.
        _ => {
            if byte == 4 - stride {
                Some((4, 4))
            } else {
                None
            }
        }
    }
}

/// Weights [size, size, channels] as [part][group][register][lane][byte], and what else channels have as
/// [part][register][lane].
pub(crate) fn pack(window: &Window, weights: &[i8], channels: &Channels) -> (Vec<i8>, Channels) {
    let padded = channels.bias.len();
    let mut packed = Vec::new();
    let lanes =
        |part: Part| (0..4).flat_map(move |register| (0..16).map(move |lane| part.channel(register, lane)));
    for part in parts(padded) {
        for group in 0..groups(window.size) {
            for channel in lanes(part) {
                packed.extend((0..4).map(|byte| {
                    tap(window, group, byte)
                        .filter(|_| channel < window.channels)
                        .map_or(0, |(row, column)| {
                            weights[(row * window.size + column) * window.channels + channel]
                        })
                }));
            }
        }
    }
    let order: Vec<usize> = parts(padded).flat_map(lanes).collect();
    let pick = |values: &[i32]| order.iter().map(|&channel| values[channel]).collect();
    let channels = Channels {
        bias: pick(&channels.bias),
        mantissa: pick(&channels.mantissa),
        shift: pick(&channels.shift),
        left_shift: pick(&channels.left_shift),
        coarse: channels.coarse,
    };
    (packed, channels)
}

/// One row of outputs; `rows` have `x + 128`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(crate) fn depthwise_row(op: &Depthwise, rows: &[&[i8]], output: &mut [i8]) {
    match (op.window.size, op.window.stride) {
        (3, 1) => all_parts::<3, 1>(op, rows, output),
        (3, _) => all_parts::<3, 2>(op, rows, output),
        (_, 1) => all_parts::<5, 1>(op, rows, output),
        _ => all_parts::<5, 2>(op, rows, output),
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn all_parts<const SIZE: usize, const STRIDE: usize>(op: &Depthwise, rows: &[&[i8]], output: &mut [i8]) {
    let mut given = [rows[0]; SIZE];
    given.copy_from_slice(rows);
    for (index, part) in parts(op.padded_channels).enumerate() {
        match (part.segments, op.channels.coarse) {
            (1, false) => one_part::<SIZE, STRIDE, 1, false>(op, &given, output, index, part.first),
            (2, false) => one_part::<SIZE, STRIDE, 2, false>(op, &given, output, index, part.first),
            (_, false) => one_part::<SIZE, STRIDE, 4, false>(op, &given, output, index, part.first),
            (1, true) => one_part::<SIZE, STRIDE, 1, true>(op, &given, output, index, part.first),
            (2, true) => one_part::<SIZE, STRIDE, 2, true>(op, &given, output, index, part.first),
            (_, true) => one_part::<SIZE, STRIDE, 4, true>(op, &given, output, index, part.first),
        }
    }
}

/// Part `index`, whose channels begin at `first`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn one_part<const SIZE: usize, const STRIDE: usize, const SEGMENTS: usize, const COARSE: bool>(
    op: &Depthwise,
    rows: &[&[i8]; SIZE],
    output: &mut [i8],
    index: usize,
    first: usize,
) {
    /// Where interleaved columns are kept: those of a square, and a power of two.
    const RING: usize = 8;
    let channels = op.window.channels;
    let width = output.len() / channels;
    let length = width.div_ceil(SEGMENTS);
    // Where the width is no multiple, the last segments share outputs, and compute them alike.
    let mut starts = [0; SEGMENTS];
    for segment in 0..SEGMENTS {
        starts[segment] = (segment * length).min(width - length);
    }
    let columns = (length - 1) * STRIDE + SIZE;
    let source = Source::<SIZE, SEGMENTS>::new(op, rows, starts.map(|start| start * STRIDE), first, columns);
    let at = |register: usize| op.channels.at::<16>((index * 4 + register) * 16);
    let ends: [Ends<COARSE>; 4] = [Ends::new(at(0)), Ends::new(at(1)), Ends::new(at(2)), Ends::new(at(3))];
    let bias = [load(at(0).bias), load(at(1).bias), load(at(2).bias), load(at(3).bias)];
    let bounds = Bounds::new(op.clamp);
    let (weights, _) = op.weights.as_chunks::<WIDE>();
    let (weights, _) = weights[index * groups(SIZE) * 4..][..groups(SIZE) * 4].as_chunks::<4>();
    // Three columns stay in registers, five do not.
    let mut near = [bias; 3];
    let mut ring = [bias; RING];
    for column in 0..SIZE - STRIDE {
        // SAFETY: those before the first output's last are fewer than `columns`, which `source` was told.
        let values = unsafe { source.column(column) };
        if SIZE == 3 {
            near[STRIDE + column] = values;
        } else {
            ring[column] = values;
        }
    }
    // SAFETY: there is a fifth row, and the first square has five columns.
    let mut fifth = if SIZE == 5 { unsafe { source.fifth(0) } } else { bias };
    for x in 0..length {
        let mut acc = bias;
        if SIZE == 3 {
            for column in 0..SIZE - STRIDE {
                near[column] = near[STRIDE + column];
            }
            for column in SIZE - STRIDE..SIZE {
                // SAFETY: the last output's last column is `columns - 1`.
                near[column] = unsafe { source.column(x * STRIDE + column) };
            }
            for column in 0..SIZE {
                dot(&mut acc, &near[column], &weights[column]);
            }
        } else {
            for column in 0..SIZE - STRIDE {
                dot(&mut acc, &ring[(x * STRIDE + column) % RING], &weights[column]);
            }
            for column in SIZE - STRIDE..SIZE {
                // SAFETY: as above.
                let values = unsafe { source.column(x * STRIDE + column) };
                ring[(x * STRIDE + column) % RING] = values;
                dot(&mut acc, &values, &weights[column]);
            }
            dot(&mut acc, &fifth, &weights[5]);
            // SAFETY: there is a fifth row, and `STRIDE + 2` is at most the last column of this output's square.
            fifth = unsafe { source.fifth((x + 1) * STRIDE) };
            dot(&mut acc, &fifth, &weights[6]);
        }
        for register in 0..4 {
            acc[register] = ends[register].scale(acc[register]);
        }
        let results = bounds.finish(acc);
        let place = |segment: usize| (starts[segment] + x) * channels + first..;
        let left = channels - first;
        match SEGMENTS {
            1 => store64(&mut output[place(0)], left, results),
            2 => {
                for (segment, half) in halves(results).into_iter().enumerate() {
                    store32(&mut output[place(segment)], left, half);
                }
            }
            _ => {
                for (segment, quarter) in quarters(results).into_iter().enumerate() {
                    store16(&mut output[place(segment)], left, quarter);
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dot(acc: &mut Four, values: &Four, weights: &[[i8; WIDE]; 4]) {
    for register in 0..4 {
        acc[register] = _mm512_dpbusd_epi32(acc[register], values[register], load(&weights[register]));
    }
}

/// Where a part's values are, as long as the rows live.
struct Source<const SIZE: usize, const SEGMENTS: usize> {
    /// The first segment's first column in each row.
    rows: [*const i8; SIZE],
    /// From there to the other segments'.
    segments: [usize; SEGMENTS],
    pitch: usize,
    columns: usize,
}

impl<const SIZE: usize, const SEGMENTS: usize> Source<SIZE, SEGMENTS> {
    /// `columns` from each of `starts` on.
    #[inline]
    fn new(
        op: &Depthwise,
        rows: &[&[i8]; SIZE],
        starts: [usize; SEGMENTS],
        first: usize,
        columns: usize,
    ) -> Self {
        let pitch = op.padded_channels;
        let segments = starts.map(|start| start * pitch);
        let farthest = segments[SEGMENTS - 1] + (columns - 1) * pitch + WIDE / SEGMENTS;
        let mut from = [std::ptr::null(); SIZE];
        for (from, row) in from.iter_mut().zip(rows) {
            // The last of `starts` is the greatest: this is all that can be read.
            *from = row[first..][..farthest].as_ptr();
        }
        Self { rows: from, segments, pitch, columns }
    }

    /// The values of column `column` of a row, of all segments.
    ///
    /// # Safety
    /// The column is one of those that [`Self::new`] was told of.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn values(&self, row: usize, column: usize) -> __m512i {
        // SAFETY: the caller's promise: `new` has found that many bytes in the row from there on.
        let at = |segment: usize| unsafe { self.rows[row].add(self.segments[segment] + column * self.pitch) };
        // SAFETY: as above; loads need no alignment.
        unsafe {
            match SEGMENTS {
                1 => _mm512_loadu_si512(at(0).cast()),
                2 => {
                    let low = _mm512_castsi256_si512(_mm256_loadu_si256(at(0).cast()));
                    _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(at(1).cast()))
                }
                _ => {
                    let all = _mm512_castsi128_si512(_mm_loadu_si128(at(0).cast()));
                    let all = _mm512_inserti32x4::<1>(all, _mm_loadu_si128(at(1).cast()));
                    let all = _mm512_inserti32x4::<2>(all, _mm_loadu_si128(at(2).cast()));
                    _mm512_inserti32x4::<3>(all, _mm_loadu_si128(at(3).cast()))
                }
            }
        }
    }

    /// Up to four rows of a column, interleaved.
    ///
    /// # Safety
    /// As [`Self::values`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn column(&self, column: usize) -> Four {
        // SAFETY: the caller's promise.
        unsafe {
            let third = self.values(2, column);
            let fourth = if SIZE > 3 { self.values(3, column) } else { third };
            interleave([self.values(0, column), self.values(1, column), third, fourth])
        }
    }

    /// Four columns of the fifth row, interleaved. The last may be no column of this part's; it meets weights of 0.
    ///
    /// # Safety
    /// There is a fifth row, and the first three columns are as [`Self::values`] wants them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn fifth(&self, column: usize) -> Four {
        let last = (column + 3).min(self.columns - 1);
        // SAFETY: the caller's promise, and the last is bounded.
        unsafe {
            interleave([
                self.values(SIZE - 1, column),
                self.values(SIZE - 1, column + 1),
                self.values(SIZE - 1, column + 2),
                self.values(SIZE - 1, last),
            ])
        }
    }
}

/// Bytes of four registers, side by side: in each 128 bits, the first result has the first four, and so on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn interleave([a, b, c, d]: Four) -> Four {
    let (low, high) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
    let (low_rest, high_rest) = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
    [
        _mm512_unpacklo_epi16(low, low_rest),
        _mm512_unpackhi_epi16(low, low_rest),
        _mm512_unpacklo_epi16(high, high_rest),
        _mm512_unpackhi_epi16(high, high_rest),
    ]
}
