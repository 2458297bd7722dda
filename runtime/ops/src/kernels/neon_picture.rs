//! Pictures on NEON, for all aarch64 families: narrow sums of rows, their turning, columns, and colours.

use std::{
    arch::{
        aarch64::{
            int16x8_t, int32x4_t, uint8x8_t, uint8x8x3_t, uint8x16_t, uint16x4_t, uint16x8_t, uint16x8x4_t,
            uint32x4_t, vaddq_s16, vcombine_s16, vcombine_u8, vcombine_u16, vdup_n_u8, vdupq_n_u8,
            vdupq_n_u32, vget_high_s16, vget_high_u8, vget_low_s16, vget_low_u8, vget_low_u16, vld1_u16,
            vld1q_u8, vld1q_u8_x4, vld1q_u16, vmlal_high_lane_u16, vmlal_high_u8, vmlal_lane_u16,
            vmlal_n_s16, vmlal_u8, vmlsl_n_s16, vmovn_u16, vmull_high_u8, vmull_n_s16, vmull_u8,
            vqdmulhq_n_s32, vqmovn_u16, vqmovun_s16, vqrshrun_n_s32, vreinterpretq_s16_u16,
            vreinterpretq_s32_u32, vreinterpretq_u16_s32, vrshrn_n_s32, vst1_u8, vst1q_u16, vst1q_u16_x4,
            vst3_u8, vsubl_u8, vsubq_s16, vuzp1q_u16, vzip1q_u8, vzip1q_u16, vzip2q_u8, vzip2q_u16,
        },
        asm,
    },
    array::from_fn,
};

use crate::{
    picture::{Columns, STRIP},
    rows::{BLOCK, RowSpan, each},
    semantics::Colours,
};

/// As [`crate::rows::add_rows`] with sums of 16 bits, 64 columns in 8 registers: for 64 bytes one load and 8 UMLAL.
///
/// # Safety
/// `data` must have as many bytes of every row as there are sums.
#[target_feature(enable = "neon")]
pub(crate) unsafe fn add_rows(data: &[u8], stride: usize, span: RowSpan, sums: &mut [u16]) {
    let width = sums.len();
    if width < BLOCK || span.len == 0 {
        return each(data, stride, span, sums);
    }
    for start in (0..width).step_by(BLOCK) {
        let start = start.min(width - BLOCK);
        // SAFETY: the block ends within the row, and the rows are there by the caller's promise; so do its sums.
        unsafe {
            let mut row = data.as_ptr().add(start);
            let mut acc = weigh(None, row, span.first);
            for _ in 1..span.len - usize::from(span.len > 1) {
                row = row.add(stride);
                acc = weigh(Some(acc), row, span.inner);
            }
            if span.len > 1 {
                acc = weigh(Some(acc), row.add(stride), span.last);
            }
            let sums = sums.as_mut_ptr().add(start);
            vst1q_u16_x4(sums, uint16x8x4_t(acc[0], acc[1], acc[2], acc[3]));
            vst1q_u16_x4(sums.add(BLOCK / 2), uint16x8x4_t(acc[4], acc[5], acc[6], acc[7]));
        }
    }
}

/// A byte in all lanes, anew each time. (What the compiler may keep it takes apart outside of the loop, and then each of the values
/// in it, an instruction each.)
#[inline]
#[target_feature(enable = "neon")]
fn broadcast(x: u8) -> uint8x16_t {
    let lanes;
    // SAFETY: it touches registers alone.
    unsafe {
        asm!("dup {lanes:v}.16b, {x:w}", lanes = lateout(vreg) lanes, x = in(reg) u32::from(x),
            options(nomem, nostack, preserves_flags));
    }
    lanes
}

/// 64 bytes from `row` on, times their weight, to the sums.
///
/// # Safety
/// There must be 64 bytes.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn weigh(acc: Option<[uint16x8_t; 8]>, row: *const u8, weight: u8) -> [uint16x8_t; 8] {
    let weight = broadcast(weight);
    // SAFETY: the caller's promise.
    let values = unsafe { vld1q_u8_x4(row) };
    let values = [values.0, values.1, values.2, values.3];
    match acc {
        None => from_fn(|i| match i % 2 {
            0 => vmull_u8(vget_low_u8(values[i / 2]), vget_low_u8(weight)),
            _ => vmull_high_u8(values[i / 2], weight),
        }),
        Some(acc) => from_fn(|i| match i % 2 {
            0 => vmlal_u8(acc[i], vget_low_u8(values[i / 2]), vget_low_u8(weight)),
            _ => vmlal_high_u8(acc[i], values[i / 2], weight),
        }),
    }
}

/// Eight rows of sums to columns of eight: three rounds of interleaving the first half of the registers with the second.
#[target_feature(enable = "neon")]
pub(crate) fn turn(sums: &[u16], turned: &mut [[u16; STRIP]]) {
    let pitch = turned.len();
    assert!(pitch.is_multiple_of(STRIP) && sums.len() == pitch * STRIP, "whole blocks");
    for start in (0..pitch).step_by(STRIP) {
        // SAFETY: eight values from `start` on are within each of the eight rows of `pitch`.
        let mut block: [uint16x8_t; 8] =
            from_fn(|row| unsafe { vld1q_u16(sums.as_ptr().add(row * pitch + start)) });
        for _ in 0..3 {
            block = from_fn(|i| match i % 2 {
                0 => vzip1q_u16(block[i / 2], block[i / 2 + 4]),
                _ => vzip2q_u16(block[i / 2], block[i / 2 + 4]),
            });
        }
        for (column, lanes) in turned[start..start + STRIP].iter_mut().zip(block) {
            // SAFETY: the reference covers the 16 bytes written.
            unsafe { vst1q_u16(column.as_mut_ptr(), lanes) };
        }
    }
}

/// As `average_columns` in [`crate::picture`]: for each column of a span one load and 2 UMLAL, for eight results.
#[target_feature(enable = "neon")]
pub(crate) fn average(columns: &Columns<'_, u16>, results: &mut [[u8; STRIP]]) {
    let area = columns.area;
    let (half, small) = (vdupq_n_u32(area.half), area.small.cast_signed());
    for (result, span) in results.iter_mut().zip(columns.spans) {
        // From the span's first column to its last.
        let touched = columns.touched(span);
        let mut column = touched.as_ptr().cast::<u16>();
        let step = columns.step * STRIP;
        // SAFETY: the reference covers the 8 bytes read.
        let weights = unsafe { vld1_u16(span.weights.as_ptr()) };
        // SAFETY: `touched` has the span's `len` columns, `step` values apart: `len - 1` steps are within it.
        let sums = unsafe {
            let mut sums = add::<0>([half; 2], column, weights);
            for _ in 2..span.len {
                column = column.add(step);
                sums = add::<1>(sums, column, weights);
            }
            if span.len > 1 {
                sums = add::<2>(sums, column.add(step), weights);
            }
            sums
        };
        if small == 0 {
            *result = large(sums, columns);
            continue;
        }
        // Twice the product's upper half: a shift by 31.
        let quotients =
            sums.map(|sums| vreinterpretq_u16_s32(vqdmulhq_n_s32(vreinterpretq_s32_u32(sums), small)));
        // SAFETY: the reference covers the 8 bytes written.
        unsafe { vst1_u8(result.as_mut_ptr(), vmovn_u16(vuzp1q_u16(quotients[0], quotients[1]))) };
    }
}

/// A column times its weight, to the sums.
///
/// # Safety
/// There must be eight values.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn add<const WEIGHT: i32>(
    sums: [uint32x4_t; 2],
    column: *const u16,
    weights: uint16x4_t,
) -> [uint32x4_t; 2] {
    // SAFETY: the caller's promise.
    let values = unsafe { vld1q_u16(column) };
    [
        vmlal_lane_u16::<WEIGHT>(sums[0], vget_low_u16(values), weights),
        vmlal_high_lane_u16::<WEIGHT>(sums[1], values, weights),
    ]
}

/// Divides sums, half the area included, by a large area.
#[inline(never)]
#[target_feature(enable = "neon")]
fn large(sums: [uint32x4_t; 2], columns: &Columns<'_, u16>) -> [u8; STRIP] {
    let area = columns.area;
    let mut values = [[0u32; 4]; 2];
    for (values, sums) in values.iter_mut().zip(sums) {
        // SAFETY: the reference covers the 16 bytes written.
        unsafe { std::arch::aarch64::vst1q_u32(values.as_mut_ptr(), sums) };
    }
    from_fn(|lane| area.round(values[lane / 4][lane % 4] - area.half))
}

/// A strip's components to rows of R, G, B: 64 pixels at a time, turned back as in [`turn`].
#[target_feature(enable = "neon")]
pub(crate) fn finish(components: [&[[u8; STRIP]]; 3], colours: Colours, rgb: &mut [u8]) {
    let width = components[0].len();
    assert!(components.iter().all(|c| c.len() == width) && width.is_multiple_of(8), "whole blocks");
    assert_eq!(rgb.len(), width * STRIP * 3, "a strip");
    for start in (0..width).step_by(8) {
        let mut blocks = [[vdupq_n_u8(0); 3]; 4];
        for (pair, pixels) in blocks.iter_mut().enumerate() {
            let load = |component: &[[u8; STRIP]]| {
                let columns = &component[start + 2 * pair..start + 2 * pair + 2];
                // SAFETY: the slice covers the 16 bytes read.
                unsafe { vld1q_u8(columns.as_ptr().cast()) }
            };
            *pixels = convert(components.map(load), colours);
        }
        let [red, green, blue] =
            from_fn(|c| turn_back([blocks[0][c], blocks[1][c], blocks[2][c], blocks[3][c]]));
        for pair in 0..4 {
            for half in 0..2 {
                let of = |channel: [uint8x16_t; 4]| match half {
                    0 => vget_low_u8(channel[pair]),
                    _ => vget_high_u8(channel[pair]),
                };
                let row = &mut rgb[((2 * pair + half) * width + start) * 3..][..24];
                // SAFETY: the reference covers the 24 bytes written.
                unsafe { vst3_u8(row.as_mut_ptr(), uint8x8x3_t(of(red), of(green), of(blue))) };
            }
        }
    }
}

/// Eight columns of eight bytes, two to a register, to eight rows.
#[inline]
#[target_feature(enable = "neon")]
fn turn_back(mut block: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
    for _ in 0..3 {
        block = from_fn(|i| match i % 2 {
            0 => vzip1q_u8(block[i / 2], block[i / 2 + 2]),
            _ => vzip2q_u8(block[i / 2], block[i / 2 + 2]),
        });
    }
    block
}

/// Sixteen pixels to R, G, B, as [`crate::semantics::rgb`].
#[inline]
#[target_feature(enable = "neon")]
fn convert([a, b, c]: [uint8x16_t; 3], colours: Colours) -> [uint8x16_t; 3] {
    let difference = |x, zero: u8| {
        let zero = vdup_n_u8(zero);
        [vsubl_u8(vget_low_u8(x), zero), vsubl_u8(vget_high_u8(x), zero)].map(|x| vreinterpretq_s16_u16(x))
    };
    match colours {
        Colours::Rgb => [a, b, c],
        Colours::Grey => [a; 3],
        Colours::Limited => {
            let (y, u, v) = (difference(a, 16), difference(b, 128), difference(c, 128));
            join(from_fn(|half| limited(y[half], u[half], v[half])))
        }
        Colours::Full => {
            let (u, v) = (difference(b, 128), difference(c, 128));
            let y = difference(a, 0);
            join(from_fn(|half| full(y[half], u[half], v[half])))
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn join([low, high]: [[uint8x8_t; 3]; 2]) -> [uint8x16_t; 3] {
    from_fn(|channel| vcombine_u8(low[channel], high[channel]))
}

/// Limited range, eight pixels. SQRSHRUN adds the half, shifts, and makes 0 of what is negative.
#[inline]
#[target_feature(enable = "neon")]
fn limited(y: int16x8_t, u: int16x8_t, v: int16x8_t) -> [uint8x8_t; 3] {
    let four = |y, u, v| {
        let y = vmull_n_s16(y, 298);
        let red = vmlal_n_s16(y, v, 409);
        let green = vmlsl_n_s16(vmlsl_n_s16(y, u, 100), v, 208);
        let blue = vmlal_n_s16(y, u, 516);
        [red, green, blue].map(|x: int32x4_t| vqrshrun_n_s32::<8>(x))
    };
    let low = four(vget_low_s16(y), vget_low_s16(u), vget_low_s16(v));
    let high = four(vget_high_s16(y), vget_high_s16(u), vget_high_s16(v));
    from_fn(|channel| vqmovn_u16(vcombine_u16(low[channel], high[channel])))
}

/// Full range, eight pixels: what is added to the luma fits 16 bits.
#[inline]
#[target_feature(enable = "neon")]
fn full(y: int16x8_t, u: int16x8_t, v: int16x8_t) -> [uint8x8_t; 3] {
    let four = |u, v| {
        let red = vmull_n_s16(v, 359);
        let green = vmlal_n_s16(vmull_n_s16(u, 88), v, 183);
        let blue = vmull_n_s16(u, 454);
        [red, green, blue].map(|x: int32x4_t| vrshrn_n_s32::<8>(x))
    };
    let low = four(vget_low_s16(u), vget_low_s16(v));
    let high = four(vget_high_s16(u), vget_high_s16(v));
    let [red, green, blue] = from_fn(|channel| vcombine_s16(low[channel], high[channel]));
    [vaddq_s16(y, red), vsubq_s16(y, green), vaddq_s16(y, blue)].map(|x| vqmovun_s16(x))
}
