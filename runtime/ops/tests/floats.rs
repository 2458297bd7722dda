//! The operators that stay in f32: every kernel gives the same bits, and they are near the exact result.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use girasol_ops::{
    Kernel,
    attention::{Attention, Operands},
    pointwise::{Gelu, LayerNorm, Softmax},
};
use proptest::{collection::vec, prelude::*};

fn exact(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| f64::from(x)).collect()
}

/// Attention as it is defined, in f64.
fn attention(case: &AttentionCase) -> Vec<f64> {
    let (width, keys) = (case.heads * case.dim, case.keys.len() / (case.heads * case.dim));
    let [query, key, value, bias] = [&case.query, &case.keys, &case.values, &case.bias].map(|v| exact(v));
    let of_groups = exact(&case.of_groups);
    let value = |row: usize, column: usize| {
        let shared = (case.group > 0).then(|| of_groups[row / case.group * width + column]);
        value[row * width + column] + shared.unwrap_or(0.0)
    };
    let mut output = vec![0.0; query.len()];
    for (query, output) in query.chunks_exact(width).zip(output.chunks_exact_mut(width)) {
        for head in 0..case.heads {
            let columns = head * case.dim..(head + 1) * case.dim;
            let score = |row: usize| {
                let key = &key[row * width..][columns.clone()];
                let product: f64 = query[columns.clone()].iter().zip(key).map(|(q, k)| q * k).sum();
                product * f64::from(case.scale) + bias[head * keys + row]
            };
            let scores: Vec<f64> = (0..keys).map(score).collect();
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
            let sum: f64 = weights.iter().sum();
            for column in columns {
                output[column] =
                    weights.iter().enumerate().map(|(row, w)| w / sum * value(row, column)).sum();
            }
        }
    }
    output
}

#[derive(Clone, Debug)]
struct AttentionCase {
    heads: usize,
    dim: usize,
    scale: f32,
    query: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
    bias: Vec<f32>,
    /// After this many keys a new piece begins.
    cut: usize,
    /// Keys that share a value; 0: none do.
    group: usize,
    of_groups: Vec<f32>,
}

impl AttentionCase {
    fn run(&self, kernel: Kernel) -> Vec<f32> {
        let width = self.heads * self.dim;
        let keys = self.keys.len() / width;
        let queries = self.query.len() / width;
        let mut op = Attention::new(kernel, queries, self.heads, self.dim, keys, self.scale).unwrap();
        if self.group > 0 {
            op = op.in_groups(self.group).unwrap();
        }
        let (mut scratch, mut output) = (vec![9.0; op.scratch_len()], vec![9.0; self.query.len()]);
        let [keys, values] = [&self.keys, &self.values].map(|rows| rows.split_at(self.cut * width));
        let operands = Operands {
            query: &self.query,
            keys: &[keys.0, keys.1],
            values: &[values.0, values.1],
            of_groups: &self.of_groups,
            bias: &self.bias,
        };
        op.run(&operands, &mut scratch, &mut output);
        output
    }
}

/// Biases leave keys out, but never all of them. A single query, which takes a way of its own, is as frequent as several;
/// keys come in groups in half of the cases, heads of four registers in some.
fn attention_cases() -> impl Strategy<Value = AttentionCase> {
    let queries = prop_oneof![Just(1usize), 2..=10usize];
    let keys = prop_oneof![(Just(0usize), 1..=20usize), (1..=5usize, 1..=5usize)];
    (queries, 1..=3usize, 1..=4usize, keys, 0.05f32..0.5).prop_flat_map(
        |(queries, heads, eights, (group, count), scale)| {
            let (dim, keys) = (8 * eights, group.max(1) * count);
            let rows = |count: usize| vec(-3.0f32..3.0, count * heads * dim);
            let bias = vec(prop_oneof![3 => -2.0f32..2.0, 1 => Just(-1e9f32)], heads * keys);
            let of_groups = rows(if group > 0 { count } else { 0 });
            (rows(queries), rows(keys), rows(keys), of_groups, bias, 0..=keys).prop_map(
                move |(query, keys, values, of_groups, mut bias, cut)| {
                    let count = bias.len() / heads;
                    bias.iter_mut().step_by(count).for_each(|first| *first = first.max(-2.0));
                    AttentionCase { heads, dim, scale, query, keys, values, bias, cut, group, of_groups }
                },
            )
        },
    )
}

proptest! {
    #[test]
    fn attention_is_near_its_definition_and_the_same_on_every_kernel(case in attention_cases()) {
        let result = case.run(Kernel::Scalar);
        for (&got, want) in result.iter().zip(attention(&case)) {
            prop_assert!((f64::from(got) - want).abs() < 1e-5, "{got}, {want}");
        }
        for kernel in Kernel::available() {
            prop_assert_eq!(&case.run(kernel), &result, "{}", kernel);
        }
    }

    #[test]
    fn layer_norm_is_near_its_definition_and_the_same_on_every_kernel(
        (weight, bias, rows) in (1..=20usize, 1..=3usize).prop_flat_map(|(eights, rows)| {
            let values = |count: usize| vec(-4.0f32..4.0, count);
            (values(8 * eights), values(8 * eights), values(8 * eights * rows))
        }),
        epsilon in 1e-6f32..1e-3,
    ) {
        let run = |kernel| {
            let mut output = vec![9.0; rows.len()];
            LayerNorm::new(kernel, &weight, &bias, epsilon).unwrap().run(&rows, &mut output);
            output
        };
        let (result, width) = (run(Kernel::Scalar), weight.len());
        for (row, got) in rows.chunks_exact(width).zip(result.chunks_exact(width)) {
            let row = exact(row);
            let mean = row.iter().sum::<f64>() / width as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
            for (column, x) in row.iter().enumerate() {
                let normal = (x - mean) / (variance + f64::from(epsilon)).sqrt();
                let want = normal * f64::from(weight[column]) + f64::from(bias[column]);
                prop_assert!((f64::from(got[column]) - want).abs() < 1e-4, "{}, {want}", got[column]);
            }
        }
        for kernel in Kernel::available() {
            prop_assert_eq!(&run(kernel), &result, "{}", kernel);
        }
    }

    #[test]
    fn softmax_is_near_its_definition_and_the_same_on_every_kernel(
        (width, values) in (1..40usize, 1..4usize).prop_flat_map(|(width, rows)| {
            (Just(width), vec(prop_oneof![4 => -9.0f32..9.0, 1 => Just(-1e9f32)], width * rows))
        }),
    ) {
        let run = |kernel| {
            let mut output = vec![9.0; values.len()];
            Softmax::new(kernel, width).unwrap().run(&values, &mut output);
            output
        };
        let result = run(Kernel::Scalar);
        for (row, got) in values.chunks_exact(width).zip(result.chunks_exact(width)) {
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let powers: Vec<f64> = row.iter().map(|x| (f64::from(*x) - f64::from(most)).exp()).collect();
            let sum: f64 = powers.iter().sum();
            for (power, &got) in powers.iter().zip(got) {
                prop_assert!((f64::from(got) - power / sum).abs() < 1e-6, "{row:?}");
            }
        }
        for kernel in Kernel::available() {
            prop_assert_eq!(&run(kernel), &result, "{}", kernel);
        }
    }

    #[test]
    fn gelu_is_near_its_definition_and_the_same_on_every_kernel(
        values in vec(prop_oneof![8 => -9.0f32..9.0, 1 => -1e4f32..1e4], 0..40),
    ) {
        let run = |kernel| {
            let mut output = vec![9.0; values.len()];
            Gelu::new(kernel).unwrap().run(&values, &mut output);
            output
        };
        let result = run(Kernel::Scalar);
        for (&x, &got) in values.iter().zip(&result) {
            let want = girasol_ops::semantics::gelu_tanh(x);
            prop_assert!((got - want).abs() <= 1e-6 * (1.0 + x.abs()), "{x}: {got}, {want}");
        }
        for kernel in Kernel::available() {
            prop_assert_eq!(&run(kernel), &result, "{}", kernel);
        }
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    assert!(Attention::new(Kernel::Scalar, 1, 1, 12, 4, 1.0).is_err());
    assert!(Attention::new(Kernel::Scalar, 1, 1, 8, 0, 1.0).is_err());
    let six_keys = Attention::new(Kernel::Scalar, 1, 1, 8, 6, 1.0).unwrap();
    assert!(
        six_keys.in_groups(3).is_ok() && six_keys.in_groups(4).is_err() && six_keys.in_groups(0).is_err()
    );
    assert!(Softmax::new(Kernel::Scalar, 0).is_err());
    assert!(LayerNorm::new(Kernel::Scalar, &[1.0; 9], &[0.0; 9], 1e-5).is_err());
    assert!(LayerNorm::new(Kernel::Scalar, &[1.0; 8], &[0.0; 7], 1e-5).is_err());
}
