//! Softmax attention in f32 over keys and values that lie in several pieces, as a window and its newest part do.
//!
//! Nothing is gathered, joined, transposed or packed: scores, softmax and weighted sums are computed from where keys and
//! values lie, eight queries at a time.

use crate::{
    Kernel,
    error::Error,
    lanes::{LANES, Lanes, exp, fused, on_each_family},
};

/// Attention of `queries` rows with `heads` heads of `dim` values.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    kernel: Kernel,
    queries: usize,
    heads: usize,
    dim: usize,
    keys: usize,
    scale: f32,
}

/// Keys that are scored at once.
const KEYS: usize = 4;

impl Attention {
    /// Over `keys` keys; `scale` multiplies products of queries and keys.
    ///
    /// # Errors
    /// A dimension of 0, a head whose width is no multiple of 8, or another CPU's kernel.
    pub fn new(
        kernel: Kernel,
        queries: usize,
        heads: usize,
        dim: usize,
        keys: usize,
        scale: f32,
    ) -> Result<Self, Error> {
        for (what, found) in [("queries", queries), ("heads", heads), ("keys", keys)] {
            if found == 0 {
                return Err(Error::Shape { what, found });
            }
        }
        if dim == 0 || !dim.is_multiple_of(LANES) {
            return Err(Error::Shape { what: "head width", found: dim });
        }
        Ok(Self { kernel: kernel.check()?, queries, heads, dim, keys, scale })
    }

    /// The kernel that runs.
    #[must_use]
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Values of a row: all heads beside each other.
    #[must_use]
    pub fn width(&self) -> usize {
        self.heads * self.dim
    }

    /// Multiply-accumulates of one run.
    #[must_use]
    pub fn macs(&self) -> usize {
        2 * self.queries * self.keys * self.width()
    }

    /// Values of scratch memory that a run needs.
    #[must_use]
    pub fn scratch_len(&self) -> usize {
        (self.dim + self.keys) * LANES
    }

    /// `query` and `output` are [queries, heads * dim]; `keys` and `values` are pieces of [keys, heads * dim] in their
    /// order; `bias`, [heads, keys], is added to the scores. A bias of -1e9 leaves a key out.
    ///
    /// # Panics
    /// Unless all lengths fit.
    pub fn run(
        &self,
        query: &[f32],
        keys: &[&[f32]],
        values: &[&[f32]],
        bias: &[f32],
        scratch: &mut [f32],
        output: &mut [f32],
    ) {
        let rows = |pieces: &[&[f32]]| {
            let each = |piece: &&[f32]| {
                assert_eq!(piece.len() % self.width(), 0, "whole rows");
                piece.len() / self.width()
            };
            pieces.iter().map(each).sum::<usize>()
        };
        assert_eq!(query.len(), self.queries * self.width(), "queries' length");
        assert_eq!(output.len(), query.len(), "output's length");
        assert_eq!(bias.len(), self.heads * self.keys, "bias's length");
        assert_eq!(scratch.len(), self.scratch_len(), "scratch's length");
        assert_eq!((rows(keys), rows(values)), (self.keys, self.keys), "keys and values");
        self.attend(query, keys, values, bias, scratch, output);
    }

    fn attend(
        &self,
        query: &[f32],
        keys: &[&[f32]],
        values: &[&[f32]],
        bias: &[f32],
        scratch: &mut [f32],
        output: &mut [f32],
    ) {
        let width = self.width();
        let (turned, scores) = scratch.as_chunks_mut::<LANES>().0.split_at_mut(self.dim);
        for (query, output) in query.chunks(LANES * width).zip(output.chunks_mut(LANES * width)) {
            for (head, bias) in bias.chunks_exact(self.keys).enumerate() {
                let first = head * self.dim;
                turn(query, width, first, turned);
                let (mut left, mut bias) = (&mut *scores, bias);
                for piece in keys {
                    let (now, later) = left.split_at_mut(piece.len() / width);
                    let (own, others) = bias.split_at(now.len());
                    self.score(turned, piece, first, own, now);
                    (left, bias) = (later, others);
                }
                let mut sums = [0.0; LANES];
                self.weigh(scores, &mut sums);
                for at in (first..first + self.dim).step_by(LANES) {
                    let mut results = [[0.0; LANES]; LANES];
                    let mut left = &*scores;
                    for piece in values {
                        let (now, later) = left.split_at(piece.len() / width);
                        self.add_up(now, piece, at, &mut results);
                        left = later;
                    }
                    for ((result, sum), row) in results.iter().zip(sums).zip(output.chunks_exact_mut(width)) {
                        for (value, result) in row[at..].iter_mut().zip(result) {
                            *value = result / sum;
                        }
                    }
                }
            }
        }
    }

    /// Scaled products of the queries and the rows of a piece, from column `first` on, with the bias.
    fn score(&self, turned: &[Lanes], rows: &[f32], first: usize, bias: &[f32], scores: &mut [Lanes]) {
        let (width, scale) = (self.width(), self.scale);
        on_each_family!(
            self.kernel,
            score_rows,
            (
                turned: &[Lanes],
                rows: &[f32],
                width: usize,
                first: usize,
                scale: f32,
                bias: &[f32],
                scores: &mut [Lanes]
            )
        );
    }

    /// Scores to weights that are not yet divided by their sums.
    fn weigh(&self, scores: &mut [Lanes], sums: &mut Lanes) {
        on_each_family!(self.kernel, weights, (scores: &mut [Lanes], sums: &mut Lanes));
    }

    /// Adds the weighted rows of a piece, eight columns from `at` on.
    fn add_up(&self, weights: &[Lanes], rows: &[f32], at: usize, results: &mut [Lanes; LANES]) {
        let width = self.width();
        on_each_family!(
            self.kernel,
            add_rows,
            (weights: &[Lanes], rows: &[f32], width: usize, at: usize, results: &mut [Lanes; LANES])
        );
    }
}

/// The queries' values from column `first` on, a lane for each query; lanes without one are 0.
fn turn(query: &[f32], width: usize, first: usize, turned: &mut [Lanes]) {
    turned.fill([0.0; LANES]);
    for (lane, row) in query.chunks_exact(width).enumerate() {
        for (turned, &value) in turned.iter_mut().zip(&row[first..]) {
            turned[lane] = value;
        }
    }
}

#[inline(always)]
fn score_rows(
    turned: &[Lanes],
    rows: &[f32],
    width: usize,
    first: usize,
    scale: f32,
    bias: &[f32],
    scores: &mut [Lanes],
) {
    let finish = |sum: Lanes, bias: f32| fused(sum, [scale; LANES], [bias; LANES]);
    let (blocks, rest) = scores.as_chunks_mut::<KEYS>();
    let (biases, rest_bias) = bias.as_chunks::<KEYS>();
    let mut four = rows.chunks_exact(KEYS * width);
    for ((rows, scores), bias) in (&mut four).zip(blocks).zip(biases) {
        let sums = products::<KEYS>(turned, rows, width, first);
        *scores = std::array::from_fn(|row| finish(sums[row], bias[row]));
    }
    for ((row, score), &bias) in four.remainder().chunks_exact(width).zip(rest).zip(rest_bias) {
        let [sum] = products::<1>(turned, row, width, first);
        *score = finish(sum, bias);
    }
}

/// Products of the queries and `N` rows of keys.
#[inline(always)]
fn products<const N: usize>(turned: &[Lanes], rows: &[f32], width: usize, first: usize) -> [Lanes; N] {
    let mut sums = [[0.0; LANES]; N];
    let turned = turned.as_chunks::<4>().0;
    let rows: [&[[f32; 4]]; N] =
        std::array::from_fn(|row| &rows[row * width + first..].as_chunks().0[..turned.len()]);
    for (step, queries) in turned.iter().enumerate() {
        for (sum, row) in sums.iter_mut().zip(&rows) {
            let keys = row[step];
            for (query, key) in queries.iter().zip(keys) {
                *sum = fused(*query, [key; LANES], *sum);
            }
        }
    }
    sums
}

#[inline(always)]
fn weights(scores: &mut [Lanes], sums: &mut Lanes) {
    let mut most = [f32::NEG_INFINITY; LANES];
    for score in scores.iter() {
        most = std::array::from_fn(|lane| if score[lane] > most[lane] { score[lane] } else { most[lane] });
    }
    for score in scores.iter_mut() {
        *score = std::array::from_fn(|lane| exp(score[lane] - most[lane]));
        *sums = std::array::from_fn(|lane| sums[lane] + score[lane]);
    }
}

#[inline(always)]
fn add_rows(weights: &[Lanes], rows: &[f32], width: usize, at: usize, results: &mut [Lanes; LANES]) {
    let mut sums = *results;
    for (row, weights) in rows.chunks_exact(width).zip(weights) {
        if let Some(value) = row[at..].first_chunk::<LANES>() {
            for (sum, &weight) in sums.iter_mut().zip(weights) {
                *sum = fused([weight; LANES], *value, *sum);
            }
        }
    }
    *results = sums;
}
