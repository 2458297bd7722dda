//! What the families with dot products have in common: panels of sixteen channels, whose sums lie four channels to a
//! register, and their end.

#![allow(clippy::needless_range_loop, reason = "rows and channels index several arrays at once")]

use std::arch::aarch64::{int32x4_t, vcombine_s16, vdupq_n_s16};

use super::{
    ChannelBlock, array,
    blocks::store_block,
    neon::{ClampRegisters, Requantise, bytes},
};
use crate::linear::Linear;

/// Channels of a panel; the last one has [`NARROW`] if that is enough.
pub(super) const PANEL: usize = 16;
/// Channels of a narrow panel.
pub(super) const NARROW: usize = 8;

/// Runs over the panels of `R` rows in intrinsics: binds a panel's weights and constants, and takes its sums, bias
/// included, from `$wide`, or from `$narrow` for a last one of 8 channels. (A macro, since closures are not inlined
/// across instruction sets.)
macro_rules! for_panels {
    ($op:expr, $output:expr, $R:ident,
     wide($weights:ident, $channels:ident) => $wide:expr, narrow($nweights:ident, $nchannels:ident) => $narrow:expr) => {{
        use $crate::kernels::{ChannelBlock, neon::ClampRegisters, neon_wide};
        let clamp = ClampRegisters::new($op.clamp);
        let padded = $op.inputs.next_multiple_of(STEP);
        let panels = $op.weights.chunks_exact(PANEL * padded);
        let last = panels.remainder();
        let wholes = panels.len();
        for ((panel, weights), $channels) in panels.enumerate().zip($op.channels.blocks::<PANEL>()) {
            let $weights = weights.as_ptr();
            let sums = $wide;
            neon_wide::finish::<$R, 4, PANEL>($op, clamp, $channels, sums, $output, panel * PANEL);
        }
        if !last.is_empty() {
            assert_eq!(last.len(), NARROW * padded);
            let $nchannels: ChannelBlock<'_, NARROW> = $op.channels.at(wholes * PANEL);
            let $nweights = last.as_ptr();
            let sums = $narrow;
            neon_wide::finish::<$R, 2, NARROW>($op, clamp, $nchannels, sums, $output, wholes * PANEL);
        }
    }};
}
pub(super) use for_panels;

/// Four channels each.
#[inline(always)]
pub(super) fn quads<const N: usize>(channels: ChannelBlock<'_, N>, quad: usize) -> ChannelBlock<'_, 4> {
    ChannelBlock {
        bias: array(channels.bias, 4 * quad),
        mantissa: array(channels.mantissa, 4 * quad),
        shift: array(channels.shift, 4 * quad),
        left_shift: array(channels.left_shift, 4 * quad),
    }
}

/// Requantises `Q` quads of sums, bias included, of `R` rows and writes them from channel `first` on.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn finish<const R: usize, const Q: usize, const N: usize>(
    op: &Linear,
    clamp: ClampRegisters,
    channels: ChannelBlock<'_, N>,
    sums: [[int32x4_t; Q]; R],
    output: &mut [i8],
    first: usize,
) {
    let left = op.outputs - first;
    let mut requantise = [Requantise::load(quads(channels, 0)); Q];
    for quad in 1..Q {
        requantise[quad] = Requantise::load(quads(channels, quad));
    }
    for row in 0..R {
        let mut q = [vdupq_n_s16(0); 2];
        for pair in 0..Q / 2 {
            q[pair] = vcombine_s16(
                requantise[2 * pair].apply(sums[row][2 * pair]),
                requantise[2 * pair + 1].apply(sums[row][2 * pair + 1]),
            );
        }
        let results: [i8; N] = *array(&bytes(clamp.apply(q)), 0);
        store_block(output, row * op.outputs + first, left, &results);
    }
}
