//! Runs every operator once and then three times, with a line on standard output before, between and after.
//!
//! `make count` runs this under an emulator that prefixes each line with the instructions executed so far; what two
//! runs cost is then exact, whatever stands around them. Shapes: the reference shapes of docs/design/ops.md, then those
//! of the shipped encoders (`models/bundle`, one picture and one patch of sound), each as often as it occurs.

#![allow(clippy::print_stdout, reason = "the marks are what it is for")]
#![allow(clippy::unwrap_used, reason = "the shapes are constant and valid")]

use std::hint::black_box;

use girasol_ops::{
    Kernel,
    attention::{Attention, Operands},
    convolution::Convolution,
    depthwise::{Depthwise, DepthwiseSpec, FloatDepthwise, FloatDepthwiseSpec},
    elementwise::{Add, Quantise, channels_first, channels_last, dequantise},
    filter::Filter,
    linear::{Linear, LinearSpec},
    picture::{Colours, Component, Picture, PlaneSpec},
    pixels::{CHANNELS, Pixels},
    pointwise::{Gelu, LayerNorm, Softmax},
    rows::{RowSpan, RowSums},
    semantics::{Activation, QuantParams},
    spectrogram::{Band, Spectrogram},
    window::Window,
};

mod shapes;

use shapes::{AUDIO_DEPTHWISE, AUDIO_LINEAR, VIDEO_ADD, VIDEO_DEPTHWISE, VIDEO_LINEAR};

const PARAMS: QuantParams = QuantParams { scale: 0.05, zero_point: -5 };

fn main() {
    let kernel = Kernel::best();
    println!("kernel {kernel}");
    // `ops_count frontend`: these alone.
    if std::env::args().nth(1).as_deref() == Some("frontend") {
        pictures(kernel);
        return sounds(kernel);
    }
    reference(kernel);
    edges(kernel);
    floats(kernel);
    pictures(kernel);
    sounds(kernel);
    let first =
        |height, width, channels, padding| Window { height, width, channels, size: 3, stride: 2, padding };
    ends("video", kernel, first(96, 128, 4, [1; 4]), 12);
    ends("audio", kernel, first(96, 64, 1, [0, 0, 1, 1]), 6);
    for (pixels, channels) in VIDEO_ADD {
        add("video", kernel, pixels * channels);
    }
    for (pixels, inputs, outputs, times) in VIDEO_LINEAR {
        linear("video", kernel, pixels, inputs, outputs, times);
    }
    for (height, width, channels, size, stride) in VIDEO_DEPTHWISE {
        let padding = [size / 2; 4];
        depthwise("video", kernel, Window { height, width, channels, size, stride, padding }, 1);
    }
    for (pixels, inputs, outputs, times) in AUDIO_LINEAR {
        linear("audio", kernel, pixels, inputs, outputs, times);
    }
    for (height, width, channels, stride, times) in AUDIO_DEPTHWISE {
        let padding = if stride == 1 { [1; 4] } else { [0, 0, 1, 1] };
        depthwise("audio", kernel, Window { height, width, channels, size: 3, stride, padding }, times);
    }
}

fn reference(kernel: Kernel) {
    linear("reference", kernel, 196, 112, 672, 1);
    linear("reference", kernel, 196, 672, 112, 1);
    linear("reference", kernel, 1, 256, 1024, 1);
    for (size, stride) in [(3, 1), (3, 2), (5, 1), (5, 2)] {
        let window = Window { height: 14, width: 14, channels: 672, size, stride, padding: [size / 2; 4] };
        depthwise("reference", kernel, window, 1);
        float_depthwise("reference", kernel, window);
    }
}

/// The ends of an integer stretch of a graph; "MACs" are elements here.
fn edges(kernel: Kernel) {
    const LEN: usize = 12 * 16 * 240;
    let values = pattern(LEN);
    let real: Vec<f32> = values.iter().map(|&x| f32::from(x) * 0.05).collect();
    let (mut bytes, mut floats) = (vec![0; LEN], vec![0.0; LEN]);
    let quantise = Quantise::new(kernel, PARAMS).unwrap();
    measure("reference", "quantise", LEN, 1, || quantise.run(black_box(&real), black_box(&mut bytes)));
    measure("reference", "dequantise", LEN, 1, || {
        dequantise(PARAMS, black_box(&values), black_box(&mut floats));
    });
    add("reference", kernel, LEN);
}

/// What stays in f32 in the latent model, and a row of a VGA picture's resize; "MACs" of the others are elements.
fn floats(kernel: Kernel) {
    const KEYS: usize = 65 * 8;
    let real = |len| pattern(len).into_iter().map(|x| f32::from(x) * 0.01).collect::<Vec<_>>();
    let attention = Attention::new(kernel, 8, 4, 32, KEYS, 0.18).unwrap();
    let (query, window, bias) = (real(8 * 128), real(KEYS * 128), real(4 * KEYS));
    let (mut scratch, mut output) = (vec![0.0; attention.scratch_len()], vec![0.0; 8 * 128]);
    let (new, old) = window.split_at(8 * 128);
    measure("reference", "attention-8x520x128", attention.macs(), 1, || {
        let rows = &[new, old];
        let operands = Operands { query: &query, keys: rows, values: rows, of_groups: &[], bias: &bias };
        attention.run(&operands, &mut scratch, black_box(&mut output));
    });
    decoder_attention(kernel, &window, &query[..128], &bias);
    let norm = LayerNorm::new(kernel, &real(128), &real(128), 1e-5).unwrap();
    measure("reference", "layer-norm-8x128", 8 * 128, 1, || {
        norm.run(black_box(&query), black_box(&mut output))
    });
    let softmax = Softmax::new(kernel, 60).unwrap();
    let (scores, mut shares) = (real(16 * 60), vec![0.0; 16 * 60]);
    measure("reference", "softmax-16x60", 16 * 60, 1, || {
        softmax.run(black_box(&scores), black_box(&mut shares))
    });
    let gelu = Gelu::new(kernel).unwrap();
    measure("reference", "gelu", 8 * 128, 1, || gelu.run(black_box(&query), black_box(&mut output)));
    let (picture, mut sums) = (vec![200; 5 * 1280], vec![0; 1280]);
    let (rows, span) = (RowSums::new(kernel).unwrap(), RowSpan { len: 5, first: 1, inner: 1, last: 1 });
    measure("reference", "row-sums-5x1280", 5 * 1280, 1, || {
        rows.run_narrow(black_box(&picture), 1280, span, black_box(&mut sums));
    });
}

/// A plane's height, and (component, offset, bytes from one sample to the next, samples of a row).
type Plane<'a> = (usize, &'a [(usize, usize, usize, usize)]);

/// Cameras' pictures to the encoder's input; "MACs" are bytes of the picture, and values of the input.
fn pictures(kernel: Kernel) {
    const SIZE: (usize, usize) = (128, 96);
    let yuyv: [Plane<'_>; 1] = [(480, &[(0, 0, 2, 640), (1, 1, 4, 320), (2, 3, 4, 320)])];
    let nv12: [Plane<'_>; 2] = [(480, &[(0, 0, 1, 640)]), (240, &[(1, 0, 2, 320), (2, 1, 2, 320)])];
    let large: [Plane<'_>; 2] = [(1080, &[(0, 0, 1, 1920)]), (540, &[(1, 0, 2, 960), (2, 1, 2, 960)])];
    // Cut to a size that has no factor in common with the frame's: sums of 32 bits.
    let odd: [Plane<'_>; 1] = [(479, &[(0, 0, 2, 638), (1, 1, 4, 319), (2, 3, 4, 319)])];
    let rgb: [Plane<'_>; 1] = [(480, &[(0, 0, 3, 640), (1, 1, 3, 640), (2, 2, 3, 640)])];
    let grey: [Plane<'_>; 1] = [(480, &[(0, 0, 1, 640)])];
    let formats: [(&str, &[Plane<'_>], Colours); 6] = [
        ("yuyv-640x480", &yuyv, Colours::Limited),
        ("nv12-640x480", &nv12, Colours::Limited),
        ("nv12-1920x1080", &large, Colours::Full),
        ("yuyv-638x479", &odd, Colours::Limited),
        ("rgb-640x480", &rgb, Colours::Rgb),
        ("grey-640x480", &grey, Colours::Grey),
    ];
    let mut small = vec![0; SIZE.0 * SIZE.1 * 3];
    for (name, planes, colours) in formats {
        let component = |&(index, offset, step, width): &_| Component { index, offset, step, width };
        let parts: Vec<Vec<_>> =
            planes.iter().map(|(_, parts)| parts.iter().map(component).collect()).collect();
        let specs: Vec<_> = planes
            .iter()
            .zip(&parts)
            .map(|(&(height, _), components)| PlaneSpec { height, components })
            .collect();
        let data: Vec<Vec<u8>> = specs
            .iter()
            .map(|spec| (0..spec.height * spec.row_bytes()).map(|i| (i % 251).to_le_bytes()[0]).collect())
            .collect();
        let given: Vec<_> =
            data.iter().zip(&specs).map(|(data, spec)| (&data[..], spec.row_bytes())).collect();
        let mut picture = Picture::new(kernel, &specs, SIZE.0, SIZE.1).unwrap();
        let bytes = data.iter().map(Vec::len).sum();
        measure("frontend", &format!("picture-{name}"), bytes, 1, || {
            picture.run(black_box(&given), colours, black_box(&mut small));
        });
    }
    let (pixels, before) = (Pixels::new(kernel).unwrap(), vec![99; small.len()]);
    let mut tensor = vec![0; SIZE.0 * SIZE.1 * CHANNELS];
    measure("frontend", "pixels-96x128x4", tensor.len(), 1, || {
        pixels.run(black_box(&small), Some(&before), black_box(&mut tensor));
    });
}

/// Four samples from 48 kHz and from 44.1 kHz, and a patch's log-mel; "MACs" of the latter are its values.
fn sounds(kernel: Kernel) {
    const TAPS: usize = 208;
    const FRAMES: usize = 96;
    let samples: Vec<f32> = pattern(2 * TAPS).into_iter().map(|x| f32::from(x) * 0.01).collect();
    let windows = [0, 3, 6, 9].map(|start| &samples[start..start + TAPS]);
    let filter = Filter::new(kernel).unwrap();
    measure("frontend", "filter-one-208x4", 4 * TAPS, 1, || {
        black_box(filter.run(black_box(&samples[TAPS..]), black_box(windows)));
    });
    measure("frontend", "filter-each-208x4", 4 * TAPS, 1, || {
        black_box(filter.run_each(black_box(windows), black_box(windows)));
    });
    // Triangles as wide as the mel bands are at their frequency.
    let band = |index: usize| Band {
        first: index * index / 22 + index * 3 / 5 + 3,
        weights: vec![0.5; 2 + index / 3],
    };
    let window = vec![0.5; 400];
    let mut spectrogram = Spectrogram::new(kernel, &window, 160, (0..64).map(band).collect(), 0.001).unwrap();
    let sound: Vec<i16> = pattern(400 + 160 * (FRAMES - 1)).into_iter().map(|x| i16::from(x) * 99).collect();
    let mut rows = vec![0.0; FRAMES * 64];
    measure("frontend", "spectrogram-96x64", rows.len(), 1, || {
        spectrogram.run(black_box(&sound), black_box(&mut rows));
    });
}

/// One token's attention to the window, with the ages of 64 snippets of 8 keys.
fn decoder_attention(kernel: Kernel, window: &[f32], query: &[f32], bias: &[f32]) {
    let attention = Attention::new(kernel, 1, 4, 32, 512, 0.18).unwrap().in_groups(8).unwrap();
    let rows = &[&window[..512 * 128]];
    let operands =
        Operands { query, keys: rows, values: rows, of_groups: &window[..64 * 128], bias: &bias[..4 * 512] };
    let (mut scratch, mut output) = (vec![0.0; attention.scratch_len()], vec![0.0; 128]);
    measure("reference", "attention-1x512x128", attention.macs(), 1, || {
        attention.run(&operands, &mut scratch, black_box(&mut output));
    });
}

fn add(part: &str, kernel: Kernel, len: usize) {
    let (values, mut sums) = (pattern(len), vec![0; len]);
    let add = Add::new(kernel, PARAMS, PARAMS, PARAMS).unwrap();
    let name = if part == "reference" { "add".into() } else { format!("add-{len}") };
    measure(part, &name, len, 1, || add.run(black_box(&values), black_box(&values), black_box(&mut sums)));
}

/// An encoder's entry (f32 planes to int8 pixels), its first layer, and its exit from `tokens` pixels of 128 channels.
fn ends(part: &str, kernel: Kernel, window: Window, tokens: usize) {
    const OUTPUTS: usize = 32;
    const DIM: usize = 128;
    let Window { height, width, channels, .. } = window;
    let len = window.input_len();
    let real: Vec<f32> = pattern(len).iter().map(|&x| f32::from(x) * 0.05).collect();
    let (mut planes, mut pixels) = (vec![0; len], vec![0; len]);
    let quantise = Quantise::new(kernel, PARAMS).unwrap();
    measure(part, &format!("entry-{height}x{width}x{channels}"), len, 1, || {
        quantise.run(black_box(&real), &mut planes);
        channels_last(channels, &planes, black_box(&mut pixels));
    });
    let inputs = window.taps_len();
    let spec = LinearSpec {
        inputs,
        outputs: OUTPUTS,
        weights: &pattern(inputs * OUTPUTS),
        bias: &[100; OUTPUTS],
        weight_scales: &[0.001; OUTPUTS],
        input: PARAMS,
        output: PARAMS,
        activation: Activation::Relu6,
    };
    let first = Convolution::new(kernel, window, &spec).unwrap();
    let mut scratch = vec![0; first.scratch_len()];
    let mut output = vec![0; first.output_len()];
    let name = format!("convolution-3x3s2-{height}x{width}x{channels}x{OUTPUTS}");
    measure(part, &name, window.output_pixels() * inputs * OUTPUTS, 1, || {
        first.run(black_box(&pixels), &mut scratch, black_box(&mut output));
    });
    let values = pattern(tokens * DIM);
    let (mut planes, mut floats) = (vec![0; values.len()], vec![0.0; values.len()]);
    measure(part, &format!("exit-{tokens}x{DIM}"), values.len(), 1, || {
        channels_first(DIM, black_box(&values), &mut planes);
        dequantise(PARAMS, &planes, black_box(&mut floats));
    });
}

fn linear(part: &str, kernel: Kernel, rows: usize, inputs: usize, outputs: usize, times: usize) {
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
    let linear = Linear::new(kernel, &spec).unwrap();
    let input = pattern(rows * inputs);
    let mut output = vec![0; rows * outputs];
    let name = format!("linear-{rows}x{inputs}x{outputs}");
    measure(part, &name, rows * inputs * outputs, times, || {
        linear.run(black_box(&input), black_box(&mut output));
    });
}

fn depthwise(part: &str, kernel: Kernel, window: Window, times: usize) {
    let Window { height, width, channels, size, stride, .. } = window;
    let spec = DepthwiseSpec {
        window,
        weights: &pattern(size * size * channels),
        bias: &vec![100; channels],
        weight_scales: &vec![0.001; channels],
        input: PARAMS,
        output: PARAMS,
        activation: Activation::Relu6,
    };
    let depthwise = Depthwise::new(kernel, &spec).unwrap();
    let input = pattern(window.input_len());
    let mut scratch = vec![0; window.scratch_len()];
    let mut output = vec![0; window.output_len()];
    let name = format!("depthwise-{size}x{size}s{stride}-{height}x{width}x{channels}");
    measure(part, &name, window.output_len() * size * size, times, || {
        depthwise.run(black_box(&input), &mut scratch, black_box(&mut output));
    });
}

fn float_depthwise(part: &str, kernel: Kernel, window: Window) {
    let Window { height, width, channels, size, stride, .. } = window;
    let real = |len| pattern(len).into_iter().map(f32::from).collect::<Vec<_>>();
    let (weights, bias) = (real(size * size * channels), real(channels));
    let spec = FloatDepthwiseSpec { window, weights: &weights, bias: &bias, low: 0.0, high: 6.0 };
    let depthwise = FloatDepthwise::new(kernel, &spec).unwrap();
    let input = real(window.input_len());
    let mut scratch = vec![0.0; window.scratch_len()];
    let mut output = vec![0.0; window.output_len()];
    let name = format!("depthwise-f32-{size}x{size}s{stride}-{height}x{width}x{channels}");
    measure(part, &name, window.output_len() * size * size, 1, || {
        depthwise.run(black_box(&input), &mut scratch, black_box(&mut output));
    });
}

/// Values in [-127, 127] without structure.
fn pattern(len: usize) -> Vec<i8> {
    let mix = |index: usize| i8::try_from(index * index * 31 % 255).unwrap_or(-127);
    (0..len).map(mix).collect()
}

/// One run, then three. The lines have one length, so that writing them costs the same.
fn measure(part: &str, name: &str, macs: usize, times: usize, mut run: impl FnMut()) {
    println!("{part} {name} {macs} {times} 0");
    run();
    println!("{part} {name} {macs} {times} 1");
    for _ in 0..3 {
        run();
    }
    println!("{part} {name} {macs} {times} 4");
}
