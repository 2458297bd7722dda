//! Four rows against all channels in assembly: what the families' kernels for it have in common. And the way over the
//! inputs of fewer rows, in intrinsics.
//!
//! With few inputs what a compiler adds around the products costs more than they do; with many it spills registers.

use super::{
    blocks::{self, Left, row_blocks},
    neon::STEP,
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
    pub(super) fn new(clamp: Clamp) -> Self {
        Self { zero_point: [clamp.zero_point.into(); 8], low: [clamp.low; 16], high: [clamp.high; 16] }
    }
}

/// Where the values of four rows are.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// Where each row begins.
    pub(super) rows: [*const i8; 4],
    /// Where the values after the last whole step are, padded with zeros to 16; anywhere if there are none.
    pub(super) tails: *const i8,
}

/// Where the values are that stay in registers from panel to panel.
pub(super) struct Resident {
    /// The first sixteen of each row.
    pub(super) first: [*const i8; 4],
    /// What follows, padded with zeros to whole halves.
    pub(super) second: [*const i8; 4],
    /// How many halves of a step the second are: 0, 1 or 2.
    pub(super) halves: usize,
}

impl Tile {
    /// Most inputs of a row that stay in registers.
    pub(super) const RESIDENT: usize = 2 * STEP;

    /// For up to [`Self::RESIDENT`] inputs.
    #[inline(always)]
    pub(super) fn resident(self, inputs: usize) -> Resident {
        assert!(0 < inputs && inputs <= Self::RESIDENT);
        let tails = std::array::from_fn(|row| self.tails.wrapping_add(row * STEP));
        // Whole halves are within the rows.
        let next = self.rows.map(|row| row.wrapping_add(STEP));
        let (first, second) = match inputs {
            ..STEP => (tails, tails),
            _ if inputs.is_multiple_of(STEP / 2) => (self.rows, next),
            _ => (self.rows, tails),
        };
        Resident { first, second, halves: inputs.saturating_sub(STEP).div_ceil(STEP / 2) }
    }
}

/// Covers rows, four at a time, with groups of `W` channels and, where they suffice, half a group: `run` gets a tile,
/// the first group, how many there are (0: half a one), and where each row's results belong, with room for them.
/// Returns the rows that are left.
#[inline(always)]
pub(super) fn four_rows<'a, 'b, const W: usize>(
    op: &Linear,
    left: Left<'a, 'b>,
    halves: bool,
    run: impl Fn(Tile, usize, usize, [*mut i8; 4]),
) -> Left<'a, 'b> {
    let (inputs, outputs) = (op.inputs, op.outputs);
    let (whole, rest) = (outputs / W, outputs % W);
    row_blocks::<4>(op, left, |rows, results| {
        assert!(rows.len() == 4 * inputs && results.len() == 4 * outputs);
        let mut padded = [[0; STEP]; 4];
        let mut tails = rows.as_ptr();
        if !inputs.is_multiple_of(STEP) {
            padded = blocks::tails::<4, STEP>(rows, inputs);
            tails = padded.as_ptr().cast();
        }
        let row = |row: usize| rows.as_ptr().wrapping_add(row * inputs);
        let tile = Tile { rows: [row(0), row(1), row(2), row(3)], tails };
        let base = results.as_mut_ptr();
        let place = |row: usize, channel: usize| base.wrapping_add(row * outputs + channel);
        let places = |channel| [place(0, channel), place(1, channel), place(2, channel), place(3, channel)];
        if whole > 0 {
            run(tile, 0, whole, places(0));
        }
        if halves && rest == W / 2 {
            run(tile, whole, 0, places(whole * W));
        } else if rest > 0 {
            let mut last = [[0; W]; 4];
            let count = usize::from(!halves || rest > W / 2);
            run(tile, whole, count, last.each_mut().map(|row| row.as_mut_ptr()));
            for (row, values) in last.iter().enumerate() {
                results[row * outputs + whole * W..][..rest].copy_from_slice(&values[..rest]);
            }
        }
        let _ = &padded;
    })
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

/// Loads what [`Resident::second`] points to.
macro_rules! load_second {
    () => {
        concat!(
            "cbz {halves}, 9f\n",
            "tbz {halves}, #0, 8f\n",
            "ldr d1, [{ta}]\n",
            "ldr d3, [{tb}]\n",
            "ldr d5, [{tc}]\n",
            "ldr d7, [{td}]\n",
            "b 9f\n",
            "8:\n",
            "ldr q1, [{ta}]\n",
            "ldr q3, [{tb}]\n",
            "ldr q5, [{tc}]\n",
            "ldr q7, [{td}]\n",
            "9:\n",
        )
    };
}
pub(super) use load_second;

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
