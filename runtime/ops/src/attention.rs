//! Softmax attention in f32 over keys and values that lie in several pieces, as a window and its newest part do.
//!
//! Nothing is gathered, joined, transposed or packed: scores, softmax and weighted sums are computed from where keys and
//! values lie. Of many queries eight at a time are the lanes; of a single one, as a decoder has, eight columns and eight
//! keys are.

use crate::{
    Kernel,
    error::Error,
    lanes::{LANES, Lanes, exp, fused, on_each_family, total},
};

/// Attention of `queries` rows with `heads` heads of `dim` values.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    kernel: Kernel,
    queries: usize,
    heads: usize,
    dim: usize,
    keys: usize,
    /// Neighbouring keys that have a value in common; 0: none have.
    group: usize,
    scale: f32,
}

/// What a run reads. `width` is heads * dim.
#[derive(Clone, Copy, Debug)]
pub struct Operands<'a> {
    /// [queries, width].
    pub query: &'a [f32],
    /// Pieces of [keys, width] in their order.
    pub keys: &'a [&'a [f32]],
    /// Pieces of [keys, width] in their order.
    pub values: &'a [&'a [f32]],
    /// [keys / group, width], added to the values of the group's keys; empty without groups.
    pub of_groups: &'a [f32],
    /// [heads, keys], added to the scores. A bias of -1e9 leaves a key out.
    pub bias: &'a [f32],
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
        Ok(Self { kernel: kernel.check()?, queries, heads, dim, keys, group: 0, scale })
    }

    /// Each `group` neighbouring keys have a value in common, beside their own.
    ///
    /// # Errors
    /// Keys that are no whole groups.
    pub fn in_groups(self, group: usize) -> Result<Self, Error> {
        if group == 0 || !self.keys.is_multiple_of(group) {
            return Err(Error::Shape { what: "group", found: group });
        }
        Ok(Self { group, ..self })
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

    fn groups(&self) -> usize {
        self.keys.checked_div(self.group).unwrap_or(0)
    }

    /// Multiply-accumulates of one run.
    #[must_use]
    pub fn macs(&self) -> usize {
        self.queries * (2 * self.keys + self.groups()) * self.width()
    }

    /// Values of scratch memory that a run needs.
    #[must_use]
    pub fn scratch_len(&self) -> usize {
        match self.queries {
            1 => self.keys.next_multiple_of(LANES) + self.groups(),
            _ => (self.dim + self.keys + self.groups()) * LANES,
        }
    }

    /// `output` is [queries, width].
    ///
    /// # Panics
    /// Unless all lengths fit.
    pub fn run(&self, operands: &Operands<'_>, scratch: &mut [f32], output: &mut [f32]) {
        let rows = |pieces: &[&[f32]]| {
            let each = |piece: &&[f32]| {
                assert_eq!(piece.len() % self.width(), 0, "whole rows");
                piece.len() / self.width()
            };
            pieces.iter().map(each).sum::<usize>()
        };
        let Operands { query, keys, values, of_groups, bias } = operands;
        assert_eq!(query.len(), self.queries * self.width(), "queries' length");
        assert_eq!(output.len(), query.len(), "output's length");
        assert_eq!(bias.len(), self.heads * self.keys, "bias's length");
        assert_eq!(scratch.len(), self.scratch_len(), "scratch's length");
        assert_eq!((rows(keys), rows(values)), (self.keys, self.keys), "keys and values");
        assert_eq!(of_groups.len(), self.groups() * self.width(), "groups' values");
        if self.queries == 1 {
            let op = self;
            on_each_family!(
                self.kernel,
                attend_alone,
                (op: &Attention, operands: &Operands<'_>, scratch: &mut [f32], output: &mut [f32])
            );
        } else {
            self.attend(operands, scratch, output);
        }
    }

    fn attend(&self, operands: &Operands<'_>, scratch: &mut [f32], output: &mut [f32]) {
        let width = self.width();
        let (turned, scores) = scratch.as_chunks_mut::<LANES>().0.split_at_mut(self.dim);
        let all = scores;
        for (query, output) in operands.query.chunks(LANES * width).zip(output.chunks_mut(LANES * width)) {
            for (head, bias) in operands.bias.chunks_exact(self.keys).enumerate() {
                let (scores, groups) = all.split_at_mut(self.keys);
                let first = head * self.dim;
                turn(query, width, first, turned);
                let (mut left, mut bias) = (&mut *scores, bias);
                for piece in operands.keys {
                    let (now, later) = left.split_at_mut(piece.len() / width);
                    let (own, others) = bias.split_at(now.len());
                    self.score(turned, piece, first, own, now);
                    (left, bias) = (later, others);
                }
                let mut sums = [0.0; LANES];
                self.weigh(scores, &mut sums);
                for (sum, weights) in groups.iter_mut().zip(scores.chunks_exact(self.group.max(1))) {
                    *sum = weights.iter().fold([0.0; LANES], |sum, weight| {
                        std::array::from_fn(|lane| sum[lane] + weight[lane])
                    });
                }
                for at in (first..first + self.dim).step_by(LANES) {
                    let mut results = [[0.0; LANES]; LANES];
                    // In one place, so that the compiler keeps the sums in registers.
                    let mut left = &*all;
                    for piece in operands.values.iter().chain([&operands.of_groups]) {
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

/// A single query: lanes are its columns where it is multiplied, and keys where its scores become weights.
#[inline(always)]
fn attend_alone(op: &Attention, operands: &Operands<'_>, scratch: &mut [f32], output: &mut [f32]) {
    let width = op.width();
    let (scores, groups) = scratch.split_at_mut(op.keys.next_multiple_of(LANES));
    for (head, bias) in operands.bias.chunks_exact(op.keys).enumerate() {
        let first = head * op.dim;
        let query = operands.query[first..][..op.dim].as_chunks::<LANES>().0;
        let (mut left, mut bias) = (&mut *scores, bias);
        for piece in operands.keys {
            let (now, later) = left.split_at_mut(piece.len() / width);
            let (own, others) = bias.split_at(now.len());
            score_alone(query, piece, width, first, op.scale, own, now);
            (left, bias) = (later, others);
        }
        // What fills up the last lanes becomes 0.
        left.fill(f32::NEG_INFINITY);
        let sum = weights_alone(scores.as_chunks_mut::<LANES>().0);
        let weights = &scores[..op.keys];
        for (sum, weights) in groups.iter_mut().zip(weights.chunks_exact(op.group.max(1))) {
            *sum = weights.iter().fold(0.0, |sum, weight| sum + weight);
        }
        let head = Head { width, first, dim: op.dim, weights, groups, sum };
        match op.dim / LANES % 4 {
            0 => head.add_up::<4>(operands, output),
            _ => head.add_up::<1>(operands, output),
        }
    }
}

#[inline(always)]
fn score_alone(
    query: &[Lanes],
    rows: &[f32],
    width: usize,
    first: usize,
    scale: f32,
    bias: &[f32],
    scores: &mut [f32],
) {
    let finish = |sum: Lanes, bias: f32| total(sum).mul_add(scale, bias);
    let (blocks, rest) = scores.as_chunks_mut::<KEYS>();
    let (biases, rest_bias) = bias.as_chunks::<KEYS>();
    let mut four = rows.chunks_exact(KEYS * width);
    for ((rows, scores), bias) in (&mut four).zip(blocks).zip(biases) {
        let sums = products_alone::<KEYS>(query, rows, width, first);
        *scores = std::array::from_fn(|row| finish(sums[row], bias[row]));
    }
    for ((row, score), &bias) in four.remainder().chunks_exact(width).zip(rest).zip(rest_bias) {
        let [sum] = products_alone::<1>(query, row, width, first);
        *score = finish(sum, bias);
    }
}

/// Products of one query and `N` rows of keys, whose lanes are still to be added up.
#[inline(always)]
fn products_alone<const N: usize>(query: &[Lanes], rows: &[f32], width: usize, first: usize) -> [Lanes; N] {
    let mut sums = [[0.0; LANES]; N];
    let rows: [&[Lanes]; N] =
        std::array::from_fn(|row| &rows[row * width + first..].as_chunks().0[..query.len()]);
    for (step, query) in query.iter().enumerate() {
        for (sum, row) in sums.iter_mut().zip(&rows) {
            *sum = fused(*query, row[step], *sum);
        }
    }
    sums
}

/// Scores to weights; returns their sum, by which they are still to be divided.
#[inline(always)]
fn weights_alone(scores: &mut [Lanes]) -> f32 {
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    let mut most = [f32::NEG_INFINITY; LANES];
    for score in scores.iter() {
        most = std::array::from_fn(|lane| greater(most[lane], score[lane]));
    }
    let most = most.into_iter().fold(f32::NEG_INFINITY, greater);
    let mut sum = [0.0; LANES];
    for score in scores {
        *score = std::array::from_fn(|lane| exp(score[lane] - most));
        sum = std::array::from_fn(|lane| sum[lane] + score[lane]);
    }
    total(sum)
}

/// One head of a single query, its weights known.
struct Head<'a> {
    width: usize,
    first: usize,
    dim: usize,
    weights: &'a [f32],
    groups: &'a [f32],
    sum: f32,
}

impl Head<'_> {
    /// The weighted sums of the values, `N` times eight columns at a time.
    #[inline(always)]
    fn add_up<const N: usize>(&self, operands: &Operands<'_>, output: &mut [f32]) {
        for at in (self.first..self.first + self.dim).step_by(N * LANES) {
            let mut sums = [[0.0; LANES]; N];
            let mut left = self.weights;
            for piece in operands.values {
                let (now, later) = left.split_at(piece.len() / self.width);
                self.add_rows(now, piece, at, &mut sums);
                left = later;
            }
            self.add_rows(self.groups, operands.of_groups, at, &mut sums);
            for (result, sum) in output[at..].as_chunks_mut::<LANES>().0.iter_mut().zip(sums) {
                *result = std::array::from_fn(|lane| sum[lane] / self.sum);
            }
        }
    }

    #[inline(always)]
    fn add_rows<const N: usize>(&self, weights: &[f32], rows: &[f32], at: usize, results: &mut [Lanes; N]) {
        let mut sums = *results;
        for (row, &weight) in rows.chunks_exact(self.width).zip(weights) {
            if let Some(values) = row[at..].as_chunks::<LANES>().0.first_chunk::<N>() {
                for (sum, values) in sums.iter_mut().zip(values) {
                    *sum = fused([weight; LANES], *values, *sum);
                }
            }
        }
        *results = sums;
    }
}
