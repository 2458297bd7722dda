//! Four rows against all channels in assembly: what the families' kernels for it have in common. And the way over the
//! inputs of fewer rows, in intrinsics.
//!
//! With few inputs what a compiler adds around the products costs more than they do; with many it spills registers.

use super::{
    blocks::tails,
    neon::{STEP, row_pointers},
};
use crate::{linear::Linear, semantics::Clamp};

/// What the end of a panel in assembly reads: the output's zero point, as i16, and its bounds.
#[repr(C)]
pub(super) struct Ends {
    zero_point: [i16; 8],
    low: [i8; 16],
    high: [i8; 16],
}

impl Ends {
    fn new(clamp: Clamp) -> Self {
        Self { zero_point: [clamp.zero_point.into(); 8], low: [clamp.low; 16], high: [clamp.high; 16] }
    }
}

/// Four rows and what all their channels share.
pub(super) struct Tile {
    /// Where each row begins.
    pub(super) rows: [*const i8; 4],
    /// What does not fill a step, padded with zeros.
    pub(super) tails: [[i8; STEP]; 4],
    /// The end of each panel.
    pub(super) ends: Ends,
}

/// Where the values are that stay in registers from panel to panel.
pub(super) struct Resident {
    /// The first sixteen of each row.
    pub(super) first: [*const i8; 4],
    /// The second; 16 values can be read in any case.
    pub(super) second: [*const i8; 4],
    /// How many halves of a step the second are: 0, 1 or 2.
    pub(super) halves: usize,
}

impl Tile {
    /// Most inputs of a row that stay in registers.
    pub(super) const RESIDENT: usize = 2 * STEP;

    /// `block` holds four rows.
    pub(super) fn new(op: &Linear, block: &[i8]) -> Self {
        Self {
            rows: row_pointers::<4>(block, op.inputs),
            tails: tails::<4, STEP>(block, op.inputs),
            ends: Ends::new(op.clamp),
        }
    }

    /// For up to [`Self::RESIDENT`] inputs.
    #[inline]
    pub(super) fn resident(&self, inputs: usize) -> Resident {
        assert!(0 < inputs && inputs <= Self::RESIDENT);
        let tails = self.tails.each_ref().map(|tail| tail.as_ptr());
        let (first, second) = match inputs {
            ..STEP => (tails, tails),
            STEP => (self.rows, self.rows),
            // Within the row, which is as long.
            Self::RESIDENT => (self.rows, self.rows.map(|row| row.wrapping_add(STEP))),
            _ => (self.rows, tails),
        };
        Resident { first, second, halves: inputs.saturating_sub(STEP).div_ceil(STEP / 2) }
    }

    /// Covers four rows of `output` with groups of `W` channels: `run` gets the first group, how many, and where each
    /// row's results belong, with room for as many whole groups.
    #[inline]
    pub(super) fn cover<const W: usize>(
        op: &Linear,
        output: &mut [i8],
        run: impl Fn(usize, usize, [*mut i8; 4]),
    ) {
        assert_eq!(output.len(), 4 * op.outputs);
        let (whole, rest) = (op.outputs / W, op.outputs % W);
        if whole > 0 {
            run(0, whole, std::array::from_fn(|row| output[row * op.outputs..].as_mut_ptr()));
        }
        if rest > 0 {
            let mut last = [[0; W]; 4];
            run(whole, 1, last.each_mut().map(|row| row.as_mut_ptr()));
            for (row, values) in last.iter().enumerate() {
                output[row * op.outputs + whole * W..][..rest].copy_from_slice(&values[..rest]);
            }
        }
    }
}

/// Inline assembly that may use every vector register.
macro_rules! tile_asm {
    ($($body:tt)*) => {
        std::arch::asm!(
            $($body)*
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _,
            out("v7") _, out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _,
            out("v14") _, out("v15") _, out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _,
            out("v21") _, out("v22") _, out("v23") _, out("v24") _, out("v25") _, out("v26") _, out("v27") _,
            out("v28") _, out("v29") _, out("v30") _, out("v31") _,
            options(nostack),
        )
    };
}
pub(super) use tile_asm;

/// Runs over the steps of `R` rows in intrinsics: binds their values to `$values`, then runs `$whole`, or `$half` when
/// only the first eight inputs of a last step can differ from zero. (A macro, since closures are not inlined across
/// instruction sets.) The rows must have `$inputs` values left each.
macro_rules! for_steps {
    (($rows:ident, $tails:expr, $inputs:expr), $R:ident, $values:ident,
     whole => $whole:expr, half => $half:expr) => {{
        use $crate::kernels::neon::{STEP, load_i8x16, next, next_pair};
        for _ in 0..$inputs / (2 * STEP) {
            let mut pairs = [[vdupq_n_s8(0); 2]; $R];
            for row in 0..$R {
                // SAFETY: a whole double step of the row is left.
                pairs[row] = unsafe { next_pair(&mut $rows[row]) };
            }
            let $values = pairs.map(|values| values[0]);
            $whole;
            let $values = pairs.map(|values| values[1]);
            $whole;
        }
        let mut $values = [vdupq_n_s8(0); $R];
        if $inputs & STEP != 0 {
            for row in 0..$R {
                // SAFETY: a whole step of the row is left.
                $values[row] = unsafe { next(&mut $rows[row]) };
            }
            $whole;
        }
        let rest = $inputs % STEP;
        if rest > 0 {
            for row in 0..$R {
                $values[row] = load_i8x16(&$tails[row]);
            }
            if rest > STEP / 2 {
                $whole;
            } else {
                $half;
            }
        }
    }};
}
pub(super) use for_steps;
