//! Times every operator on every kernel that this CPU can run: `cargo run --release --example ops_bench`.
//!
//! The shapes are the reference shapes of docs/design/ops.md, then, with their totals, those of the shipped encoders
//! (`ops_bench encoders`: these alone; any further words: only kernels of these names). Each figure is the fastest of several batches, so that
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
    attention::{Attention, Operands},
    convolution::Convolution,
    depthwise::{Depthwise, DepthwiseSpec, FloatDepthwise, FloatDepthwiseSpec},
    elementwise::{Add, Quantise, channels_first, channels_last, dequantise},
    linear::{Linear, LinearSpec},
    pointwise::{Gelu, LayerNorm, Softmax},
    rows::{RowSpan, RowSums},
    semantics::{Activation, QuantParams},
    window::Window,
};

mod shapes;

use shapes::{AUDIO_DEPTHWISE, AUDIO_LINEAR, VIDEO_ADD, VIDEO_DEPTHWISE, VIDEO_LINEAR};

const BATCHES: usize = 99;
const PARAMS: QuantParams = QuantParams { scale: 0.05, zero_point: -5 };

fn main() {
    println!("{:<27} {:<13} {:>10} {:>11} {:>9}", "operator", "kernel", "MACs", "time", "GMAC/s");
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (encoders_alone, names) = match words.split_first() {
        Some((first, names)) if first == "encoders" => (true, names),
        _ => (false, &words[..]),
    };
    for kernel in Kernel::available() {
        if !names.is_empty() && !names.iter().any(|name| name == kernel.name()) {
            continue;
        }
        if encoders_alone {
            bench_encoders(kernel);
            continue;
        }
        for (rows, inputs, outputs) in [(196, 112, 672), (196, 672, 112), (1, 672, 112), (1, 256, 1024)] {
            bench_linear(kernel, rows, inputs, outputs);
        }
        for (size, stride) in [(3, 1), (3, 2), (5, 1), (5, 2)] {
            bench_depthwise(kernel, window(size, stride));
        }
        bench_edges(kernel);
        bench_float_depthwise(kernel);
        bench_floats(kernel);
        bench_encoders(kernel);
    }
}

/// Every operator of the shipped encoders but their ends in f32.
fn bench_encoders(kernel: Kernel) {
    for (encoder, linears) in [("video", &VIDEO_LINEAR[..]), ("audio", &AUDIO_LINEAR[..])] {
        let mut total = Duration::ZERO;
        for &(rows, inputs, outputs, times) in linears {
            total += bench_linear(kernel, rows, inputs, outputs) * times.try_into().unwrap_or(1);
        }
        report(&format!("{encoder}, all 1x1"), kernel, linear_macs(linears), total);
    }
    let video = VIDEO_DEPTHWISE.map(|(height, width, channels, size, stride)| {
        (Window { height, width, channels, size, stride, padding: [size / 2; 4] }, 1)
    });
    let audio = AUDIO_DEPTHWISE.map(|(height, width, channels, stride, times)| {
        let padding = if stride == 1 { [1; 4] } else { [0, 0, 1, 1] };
        (Window { height, width, channels, size: 3, stride, padding }, times)
    });
    for (encoder, windows) in [("video", &video[..]), ("audio", &audio[..])] {
        let (mut total, mut macs) = (Duration::ZERO, 0);
        for &(window, times) in windows {
            total += bench_depthwise(kernel, window) * times.try_into().unwrap_or(1);
            macs += window.output_len() * window.size * window.size * times;
        }
        report(&format!("{encoder}, all depthwise"), kernel, macs, total);
    }
    bench_first_layer(kernel, [96, 128, 4]);
    bench_first_layer(kernel, [96, 64, 1]);
    let lens = VIDEO_ADD.map(|(pixels, channels)| pixels * channels);
    report("video, all add", kernel, lens.iter().sum(), lens.iter().map(|&len| bench_add(kernel, len)).sum());
}

fn linear_macs(linears: &[(usize, usize, usize, usize)]) -> usize {
    linears.iter().map(|(rows, inputs, outputs, times)| rows * inputs * outputs * times).sum()
}

fn bench_linear(kernel: Kernel, rows: usize, inputs: usize, outputs: usize) -> Duration {
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
    time
}

fn window(size: usize, stride: usize) -> Window {
    Window { height: 14, width: 14, channels: 672, size, stride, padding: [size / 2; 4] }
}

fn bench_depthwise(kernel: Kernel, window: Window) -> Duration {
    let Window { height, width, channels, size, stride, .. } = window;
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
    let name = format!("depthwise {size}/{stride} {height}x{width}x{channels}");
    report(&name, kernel, window.output_len() * size * size, time);
    time
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

/// An encoder's first layer.
fn bench_first_layer(kernel: Kernel, [height, width, channels]: [usize; 3]) {
    let window = Window { height, width, channels, size: 3, stride: 2, padding: [0, 0, 1, 1] };
    let (inputs, outputs) = (window.taps_len(), 32);
    let spec = LinearSpec {
        inputs,
        outputs,
        weights: &pattern(inputs * outputs),
        bias: &vec![100; outputs],
        weight_scales: &vec![0.001; outputs],
        input: PARAMS,
        output: PARAMS,
        activation: Activation::Relu6,
    };
    let convolution = Convolution::new(kernel, window, &spec).unwrap();
    let image = pattern(window.input_len());
    let (mut scratch, mut output) = (vec![0; convolution.scratch_len()], vec![0; convolution.output_len()]);
    let time = fastest(|| convolution.run(black_box(&image), &mut scratch, black_box(&mut output)));
    report(&format!("first layer 3x3/2 {channels}->32"), kernel, convolution.output_len() * inputs, time);
}

/// An encoder's entry (a frame), exit and residual addition. Elements count as MACs.
fn bench_edges(kernel: Kernel) {
    const FRAME: usize = 96 * 128 * 4;
    const LEN: usize = 24 * 32 * 24;
    let real: Vec<f32> = pattern(FRAME).into_iter().map(|x| f32::from(x) * 0.01).collect();
    let (mut planes, mut pixels) = (vec![0; FRAME], vec![0; FRAME]);
    let quantise = Quantise::new(kernel, PARAMS).unwrap();
    let time = fastest(|| quantise.run(black_box(&real), black_box(&mut planes)));
    report("quantise", kernel, FRAME, time);
    let time = fastest(|| channels_last(4, black_box(&planes), black_box(&mut pixels)));
    report("channels last, 4", kernel, FRAME, time);
    let values = pattern(LEN);
    let (mut sums, mut floats) = (vec![0; LEN], vec![0.0; LEN]);
    let time = fastest(|| channels_first(128, black_box(&values), black_box(&mut sums)));
    report("channels first, 128", kernel, LEN, time);
    let time = fastest(|| dequantise(PARAMS, black_box(&values), black_box(&mut floats)));
    report("dequantise", kernel, LEN, time);
    report("add", kernel, LEN, bench_add(kernel, LEN));
}

fn bench_add(kernel: Kernel, len: usize) -> Duration {
    let (values, mut sums) = (pattern(len), vec![0; len]);
    let add = Add::new(kernel, PARAMS, PARAMS, PARAMS).unwrap();
    fastest(|| add.run(black_box(&values), black_box(&values), black_box(&mut sums)))
}

/// Shapes of the latent model and the decoder, and a row of a VGA picture's resize. Elements count as MACs where there
/// are none.
fn bench_floats(kernel: Kernel) {
    const KEYS: usize = 65 * 8;
    let real = |len| pattern(len).into_iter().map(|x| f32::from(x) * 0.01).collect::<Vec<_>>();
    let attention = Attention::new(kernel, 8, 4, 32, KEYS, 0.18).unwrap();
    let (query, window, bias) = (real(8 * 128), real(KEYS * 128), real(4 * KEYS));
    let (mut scratch, mut output) = (vec![0.0; attention.scratch_len()], vec![0.0; 8 * 128]);
    let (new, old) = window.split_at(8 * 128);
    let rows = &[new, old];
    let operands = Operands { query: &query, keys: rows, values: rows, of_groups: &[], bias: &bias };
    let time = fastest(|| attention.run(black_box(&operands), &mut scratch, black_box(&mut output)));
    report("attention 8x520x128 f32", kernel, attention.macs(), time);
    let attention = Attention::new(kernel, 1, 4, 32, 512, 0.18).unwrap().in_groups(8).unwrap();
    let mut scratch = vec![0.0; attention.scratch_len()];
    let rows = &[&window[..512 * 128]];
    let operands = Operands {
        query: &query[..128],
        keys: rows,
        values: rows,
        of_groups: &window[..64 * 128],
        bias: &bias[..4 * 512],
    };
    let time = fastest(|| attention.run(black_box(&operands), &mut scratch, black_box(&mut output[..128])));
    report("attention 1x512x128 f32", kernel, attention.macs(), time);
    let norm = LayerNorm::new(kernel, &real(128), &real(128), 1e-5).unwrap();
    let time = fastest(|| norm.run(black_box(&query), black_box(&mut output)));
    report("layer norm 8x128 f32", kernel, 8 * 128, time);
    let softmax = Softmax::new(kernel, 60).unwrap();
    let (scores, mut shares) = (real(16 * 60), vec![0.0; 16 * 60]);
    let time = fastest(|| softmax.run(black_box(&scores), black_box(&mut shares)));
    report("softmax 16x60 f32", kernel, 16 * 60, time);
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

/// The time of one run, from the fastest batch of about 1 ms: shorter than what the system gives another program at once.
fn fastest(mut run: impl FnMut()) -> Duration {
    let start = Instant::now();
    run();
    let once = start.elapsed().max(Duration::from_nanos(100));
    let runs = u32::try_from(Duration::from_millis(1).as_nanos() / once.as_nanos()).unwrap_or(1).max(1);
    let batch = |_| {
        let start = Instant::now();
        (0..runs).for_each(|_| run());
        start.elapsed() / runs
    };
    (0..BATCHES).map(batch).min().unwrap_or(once)
}

fn report(name: &str, kernel: Kernel, macs: usize, time: Duration) {
    let rate = macs as f64 / time.as_secs_f64() / 1e9;
    println!("{name:<27} {:<13} {macs:>10} {time:>11.2?} {rate:>9.2}", kernel.name());
}
