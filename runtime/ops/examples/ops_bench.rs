//! Times every operator on every kernel that this CPU can run: `cargo run --release --example ops_bench`.
//!
//! The shapes are the reference shapes of docs/design/ops.md. Each figure is the fastest of several batches, so that
//! other work on the machine disturbs it little. Under emulation the times mean nothing.

#![allow(clippy::print_stdout, reason = "a report for a person")]
#![allow(clippy::disallowed_methods, reason = "real time is what is measured")]
#![allow(clippy::unwrap_used, reason = "the shapes are constant and valid")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use girasol_ops::{
    Kernel,
    attention::Attention,
    depthwise::{Depthwise, DepthwiseSpec, FloatDepthwise, FloatDepthwiseSpec},
    linear::{Linear, LinearSpec},
    pointwise::{Gelu, LayerNorm},
    rows::{RowSpan, RowSums},
    semantics::{Activation, QuantParams},
    window::Window,
};

const BATCHES: usize = 9;
const PARAMS: QuantParams = QuantParams { scale: 0.05, zero_point: -5 };

fn main() {
    println!("{:<26} {:<13} {:>10} {:>11} {:>9}", "operator", "kernel", "MACs", "time", "GMAC/s");
    for kernel in Kernel::available() {
        for (rows, inputs, outputs) in [(196, 112, 672), (196, 672, 112), (1, 672, 112), (1, 256, 1024)] {
            bench_linear(kernel, rows, inputs, outputs);
        }
        for (size, stride) in [(3, 1), (3, 2), (5, 1), (5, 2)] {
            bench_depthwise(kernel, size, stride);
        }
        bench_float_depthwise(kernel);
        bench_floats(kernel);
    }
}

fn bench_linear(kernel: Kernel, rows: usize, inputs: usize, outputs: usize) {
    let linear = Linear::new(
        kernel,
        &LinearSpec {
            inputs,
            outputs,
            weights: &pattern(inputs * outputs),
            bias: &vec![100; outputs],
            weight_scales: &vec![0.001; outputs],
            input: PARAMS,
            output: PARAMS,
            activation: Activation::Relu6,
        },
    )
    .unwrap();
    let input = pattern(rows * inputs);
    let mut output = vec![0; rows * outputs];
    let time = fastest(|| linear.run(black_box(&input), black_box(&mut output)));
    report(&format!("linear {rows}x{inputs}x{outputs}"), kernel, rows * inputs * outputs, time);
}

fn window(size: usize, stride: usize) -> Window {
    Window { height: 14, width: 14, channels: 672, size, stride, padding: [size / 2; 4] }
}

fn bench_depthwise(kernel: Kernel, size: usize, stride: usize) {
    let window = window(size, stride);
    let depthwise = Depthwise::new(
        kernel,
        &DepthwiseSpec {
            window,
            weights: &pattern(size * size * window.channels),
            bias: &vec![100; window.channels],
            weight_scales: &vec![0.001; window.channels],
            input: PARAMS,
            output: PARAMS,
            activation: Activation::Relu6,
        },
    )
    .unwrap();
    let input = pattern(window.input_len());
    let mut scratch = vec![0; window.scratch_len()];
    let mut output = vec![0; window.output_len()];
    let time = fastest(|| depthwise.run(black_box(&input), &mut scratch, black_box(&mut output)));
    let name = format!("depthwise {size}x{size}/{stride} int8");
    report(&name, kernel, window.output_len() * size * size, time);
}

fn bench_float_depthwise(kernel: Kernel) {
    let window = window(3, 1);
    let real = |len| pattern(len).into_iter().map(f32::from).collect::<Vec<_>>();
    let depthwise = FloatDepthwise::new(
        kernel,
        &FloatDepthwiseSpec {
            window,
            weights: &real(9 * window.channels),
            bias: &real(window.channels),
            low: 0.0,
            high: 6.0,
        },
    )
    .unwrap();
    let input = real(window.input_len());
    let mut scratch = vec![0.0; window.scratch_len()];
    let mut output = vec![0.0; window.output_len()];
    let time = fastest(|| depthwise.run(black_box(&input), &mut scratch, black_box(&mut output)));
    report("depthwise 3x3/1 f32", kernel, window.output_len() * 9, time);
}

/// Shapes of the latent model, and a row of a VGA picture's resize. Elements count as MACs where there are none.
fn bench_floats(kernel: Kernel) {
    const KEYS: usize = 65 * 8;
    let real = |len| pattern(len).into_iter().map(|x| f32::from(x) * 0.01).collect::<Vec<_>>();
    let attention = Attention::new(kernel, 8, 4, 32, KEYS, 0.18).unwrap();
    let (query, window, bias) = (real(8 * 128), real(KEYS * 128), real(4 * KEYS));
    let (mut scratch, mut output) = (vec![0.0; attention.scratch_len()], vec![0.0; 8 * 128]);
    let (new, old) = window.split_at(8 * 128);
    let time = fastest(|| {
        attention.run(
            black_box(&query),
            &[new, old],
            &[new, old],
            &bias,
            &mut scratch,
            black_box(&mut output),
        );
    });
    report("attention 8x520x128 f32", kernel, attention.macs(), time);
    let norm = LayerNorm::new(kernel, &real(128), &real(128), 1e-5).unwrap();
    let time = fastest(|| norm.run(black_box(&query), black_box(&mut output)));
    report("layer norm 8x128 f32", kernel, 8 * 128, time);
    let gelu = Gelu::new(kernel).unwrap();
    let time = fastest(|| gelu.run(black_box(&query), black_box(&mut output)));
    report("GELU 8x128 f32", kernel, 8 * 128, time);
    let (picture, mut sums) = (vec![200; 5 * 1280], vec![0; 1280]);
    let (rows, span) = (RowSums::new(kernel).unwrap(), RowSpan { len: 5, first: 1, inner: 1, last: 1 });
    let time = fastest(|| rows.run(black_box(&picture), 1280, span, black_box(&mut sums)));
    report("row sums 5x1280", kernel, 5 * 1280, time);
}

/// Values in [-127, 127] without structure.
fn pattern(len: usize) -> Vec<i8> {
    let mix = |index: usize| i8::try_from(index * index * 31 % 255).unwrap_or(-127);
    (0..len).map(mix).collect()
}

/// The time of one run, from the fastest batch of about 10 ms.
fn fastest(mut run: impl FnMut()) -> Duration {
    let start = Instant::now();
    run();
    let once = start.elapsed().max(Duration::from_nanos(100));
    let runs = u32::try_from(Duration::from_millis(10).as_nanos() / once.as_nanos()).unwrap_or(1).max(1);
    let batch = |_| {
        let start = Instant::now();
        (0..runs).for_each(|_| run());
        start.elapsed() / runs
    };
    (0..BATCHES).map(batch).min().unwrap_or(once)
}

fn report(name: &str, kernel: Kernel, macs: usize, time: Duration) {
    let rate = macs as f64 / time.as_secs_f64() / 1e9;
    println!("{name:<26} {:<13} {macs:>10} {time:>11.2?} {rate:>9.2}", kernel.name());
}
