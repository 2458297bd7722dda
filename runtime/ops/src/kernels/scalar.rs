//! Plain Rust on packed weights: the fallback anywhere, and what the compiler vectorises where that is good enough.

use crate::{
    depthwise::{Depthwise, FloatDepthwise},
    linear::Linear,
    semantics::{AddRescale, Clamp, Multiplier, QuantParams, quantise_scaled},
};

/// Weights are [outputs, inputs].
pub(crate) fn linear(op: &Linear, input: &[i8], output: &mut [i8]) {
    for (row, results) in input.chunks_exact(op.inputs).zip(output.chunks_exact_mut(op.outputs)) {
        for (channel, (weights, result)) in op.weights.chunks_exact(op.inputs).zip(results).enumerate() {
            let sum: i32 = row.iter().zip(weights).map(|(&x, &w)| i32::from(x) * i32::from(w)).sum();
            *result = finish(&op.channels, op.clamp, channel, sum);
        }
    }
}

fn finish(channels: &super::Channels, clamp: Clamp, channel: usize, sum: i32) -> i8 {
    let multiplier = Multiplier { mantissa: channels.mantissa[channel], shift: channels.shift[channel] };
    clamp.apply(multiplier.apply(channels.bias[channel] + sum))
}

/// One row of outputs; `rows` are the padded input rows under the kernel's rows.
pub(crate) fn depthwise_row(op: &Depthwise, rows: &[&[i8]], output: &mut [i8]) {
    let window = &op.window;
    let stride = op.padded_channels;
    for (x, results) in output.chunks_exact_mut(window.channels).enumerate() {
        for (channel, result) in results.iter_mut().enumerate() {
            let mut sum = 0;
            for (ky, row) in rows.iter().enumerate() {
                for kx in 0..window.size {
                    let value = row[(x * window.stride + kx) * stride + channel];
                    sum += i32::from(value) * i32::from(op.weight(ky * window.size + kx, channel));
                }
            }
            *result = finish(&op.channels, op.clamp, channel, sum);
        }
    }
}

/// One row of outputs; `rows` are the padded input rows under the kernel's rows. Inlined into each family, so that
/// `mul_add` becomes the family's instruction.
#[inline(always)]
pub(crate) fn float_depthwise_row(op: &FloatDepthwise, rows: &[&[f32]], output: &mut [f32]) {
    let window = &op.window;
    let stride = op.padded_channels;
    for (x, results) in output.chunks_exact_mut(window.channels).enumerate() {
        results.copy_from_slice(&op.bias[..window.channels]);
        for (ky, row) in rows.iter().enumerate() {
            for kx in 0..window.size {
                let values = &row[(x * window.stride + kx) * stride..][..window.channels];
                let weights = &op.weights[(ky * window.size + kx) * stride..][..window.channels];
                for ((result, &value), &weight) in results.iter_mut().zip(values).zip(weights) {
                    *result = value.mul_add(weight, *result);
                }
            }
        }
        for result in results {
            *result = result.max(op.low).min(op.high);
        }
    }
}

/// `left + right`, rescaled.
#[inline(always)]
pub(crate) fn add(
    rescale: AddRescale,
    zero_points: [i8; 2],
    clamp: Clamp,
    operands: [&[i8]; 2],
    output: &mut [i8],
) {
    let [left_zero, right_zero] = zero_points.map(i32::from);
    for ((&a, &b), y) in operands[0].iter().zip(operands[1]).zip(output) {
        *y = clamp.apply(rescale.apply(i32::from(a) - left_zero, i32::from(b) - right_zero));
    }
}

/// Real values to i8.
#[inline(always)]
pub(crate) fn quantise(params: QuantParams, input: &[f32], output: &mut [i8]) {
    let (inverse, zero_point) = (1.0 / params.scale, i32::from(params.zero_point));
    for (&x, y) in input.iter().zip(output) {
        *y = quantise_scaled(x * inverse, zero_point);
    }
}

/// i8 to real values.
#[inline(always)]
pub(crate) fn dequantise(params: QuantParams, input: &[i8], output: &mut [f32]) {
    for (&q, y) in input.iter().zip(output) {
        *y = params.dequantise(q);
    }
}
