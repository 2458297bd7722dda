//! Every kernel that this CPU can run equals the scalar reference bit for bit.

#![allow(clippy::cast_possible_truncation, reason = "values are reduced to the type's range first")]

use girasol_ops::{
    Kernel,
    convolution::Convolution,
    depthwise::{Depthwise, DepthwiseSpec, FloatDepthwise, FloatDepthwiseSpec},
    elementwise::{Add, Quantise, channels_first, channels_last},
    linear::{Linear, LinearSpec},
    semantics::{self, Activation, QuantParams, Table, hard_swish},
    window::Window,
};
use proptest::{collection::vec, prelude::*};

/// Half as much for Miri, for which drawing the values takes longer than the kernels.
fn at_most(size: usize) -> usize {
    if cfg!(miri) { size / 2 } else { size }
}

/// Any value, the extremes often.
fn values() -> impl Strategy<Value = i8> {
    prop_oneof![3 => any::<i8>(), 1 => Just(i8::MIN), 1 => Just(i8::MAX)]
}

/// Symmetric weights, the extremes often.
fn weights() -> impl Strategy<Value = i8> {
    prop_oneof![3 => -127..=127i8, 1 => Just(-127i8), 1 => Just(127i8)]
}

fn params() -> impl Strategy<Value = QuantParams> {
    (0.01f32..0.2, values()).prop_map(|(scale, zero_point)| QuantParams { scale, zero_point })
}

fn activations() -> impl Strategy<Value = Activation> {
    let table = vec(any::<i8>(), 256).prop_map(|table| {
        Activation::Table(Table(table.into_boxed_slice().try_into().expect("256 entries")))
    });
    prop_oneof![Just(Activation::None), Just(Activation::Relu), Just(Activation::Relu6), table]
}

/// What linear layers and depthwise convolutions have in common, for `channels` channels.
#[derive(Clone, Debug)]
struct Ends {
    bias: Vec<i32>,
    weight_scales: Vec<f32>,
    input: QuantParams,
    output: QuantParams,
    activation: Activation,
}

fn ends(channels: usize) -> impl Strategy<Value = Ends> {
    let bias = prop_oneof![4 => -60_000..60_000i32, 1 => -(1 << 28)..(1 << 28)];
    (vec(bias, channels), vec(1e-4f32..0.02, channels), params(), params(), activations()).prop_map(
        |(bias, weight_scales, input, output, activation)| Ends {
            bias,
            weight_scales,
            input,
            output,
            activation,
        },
    )
}

#[derive(Clone, Debug)]
struct LinearCase {
    inputs: usize,
    weights: Vec<i8>,
    values: Vec<i8>,
    ends: Ends,
}

impl LinearCase {
    fn spec(&self) -> LinearSpec<'_> {
        LinearSpec {
            inputs: self.inputs,
            outputs: self.ends.bias.len(),
            weights: &self.weights,
            bias: &self.ends.bias,
            weight_scales: &self.ends.weight_scales,
            input: self.ends.input,
            output: self.ends.output,
            activation: self.ends.activation.clone(),
        }
    }
}

fn linear_case() -> impl Strategy<Value = LinearCase> {
    // Long rows are worked on in parts of 1024 inputs.
    let inputs = if cfg!(miri) {
        (1..80usize).boxed()
    } else {
        prop_oneof![8 => 1..150usize, 1 => 1_020..2_100usize].boxed()
    };
    (1..at_most(20), inputs, 1..40usize).prop_flat_map(|(rows, inputs, outputs)| {
        (vec(weights(), inputs * outputs), vec(values(), rows * inputs), ends(outputs))
            .prop_map(move |(weights, values, ends)| LinearCase { inputs, weights, values, ends })
    })
}

fn window() -> impl Strategy<Value = Window> {
    // AVX-512, which Miri does not have, has ways of its own for each number of sixteens beyond a block of 64.
    let many = prop_oneof![1 => 40..70usize, 1 => (4..=11usize).prop_map(|sixteens| 16 * sixteens)];
    let channels =
        if cfg!(miri) { (1..40usize).boxed() } else { prop_oneof![3 => 1..40usize, 2 => many].boxed() };
    (
        1..at_most(9),
        1..at_most(11),
        channels,
        prop_oneof![Just(3usize), Just(5)],
        1..=2usize,
        [0..3usize, 0..3, 0..3, 0..3],
    )
        .prop_map(|(height, width, channels, size, stride, padding)| Window {
            height: height.max(size),
            width: width.max(size),
            channels,
            size,
            stride,
            padding,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 3 } else { 128 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn linear_equals_the_reference(case in linear_case()) {
        let expected = semantics::linear(&case.spec(), &case.values).unwrap();
        for kernel in Kernel::available() {
            let mut output = vec![99; expected.len()];
            Linear::new(kernel, &case.spec()).unwrap().run(&case.values, &mut output);
            prop_assert_eq!(&output, &expected, "{}", kernel);
        }
    }

    #[test]
    fn depthwise_equals_the_reference(
        (window, weights, values, ends) in window().prop_flat_map(|window| (
            Just(window),
            vec(weights(), window.size * window.size * window.channels),
            vec(values(), window.input_len()),
            ends(window.channels),
        )),
    ) {
        let Ends { bias, weight_scales, input, output, activation } = &ends;
        let spec = DepthwiseSpec {
            window,
            weights: &weights,
            bias,
            weight_scales,
            input: *input,
            output: *output,
            activation: activation.clone(),
        };
        let expected = semantics::depthwise(&spec, &values).unwrap();
        let mut scratch = vec![77; window.scratch_len()];
        for kernel in Kernel::available() {
            let mut output = vec![99; expected.len()];
            Depthwise::new(kernel, &spec).unwrap().run(&values, &mut scratch, &mut output);
            prop_assert_eq!(&output, &expected, "{}", kernel);
        }
    }

    #[test]
    fn float_depthwise_equals_the_reference(
        (window, weights, values, bias) in window().prop_flat_map(|window| (
            Just(window),
            vec(-2.0f32..2.0, window.size * window.size * window.channels),
            vec(-8.0f32..8.0, window.input_len()),
            vec(-1.0f32..1.0, window.channels),
        )),
        (low, high) in prop_oneof![Just((0.0, 6.0)), Just((f32::NEG_INFINITY, f32::INFINITY))],
    ) {
        let spec = FloatDepthwiseSpec { window, weights: &weights, bias: &bias, low, high };
        let expected = semantics::float_depthwise(&spec, &values);
        let mut scratch = vec![7.0; window.scratch_len()];
        for kernel in Kernel::available() {
            let mut output = vec![99.0; expected.len()];
            FloatDepthwise::new(kernel, &spec).unwrap().run(&values, &mut scratch, &mut output);
            prop_assert_eq!(&output, &expected, "{}", kernel);
        }
    }

    #[test]
    fn convolution_equals_the_reference(
        (size, stride, channels) in (1..6usize, 1..4usize, 1..5usize), (rows, columns) in (1..9usize, 1..50usize),
        padding in [0..3usize, 0..3, 0..3, 0..3], seed in values(), ends in ends(9),
    ) {
        let window = Window {
            height: rows.max(size),
            width: columns.max(size),
            channels,
            size,
            stride,
            padding: padding.map(|padding| padding.min(size - 1)),
        };
        let inputs = window.taps_len();
        let mix = |index: usize| ((index * 89 + usize::from(seed.unsigned_abs())) % 255) as u8;
        let image: Vec<i8> =
            (0..window.input_len()).map(|index| mix(index).cast_signed()).collect();
        let weights: Vec<i8> = (0..9 * inputs).map(|index| mix(index + 7).cast_signed().max(-127)).collect();
        let case = LinearCase { inputs, weights, values: Vec::new(), ends };
        let expected = semantics::convolution(&window, &case.spec(), &image).unwrap();
        for kernel in Kernel::available() {
            let convolution = Convolution::new(kernel, window, &case.spec()).unwrap();
            let mut scratch = vec![77; convolution.scratch_len()];
            let mut output = vec![99; convolution.output_len()];
            convolution.run(&image, &mut scratch, &mut output);
            prop_assert_eq!(&output, &expected, "{}", kernel);
        }
    }

    #[test]
    fn layouts_change_there_and_back((channels, planes) in (1..7usize, 1..40usize)
        .prop_flat_map(|(channels, pixels)| (Just(channels), vec(values(), channels * pixels)))) {
        let count = planes.len() / channels;
        let (mut pixels, mut back) = (vec![99; planes.len()], vec![99; planes.len()]);
        channels_last(channels, &planes, &mut pixels);
        for (index, &value) in planes.iter().enumerate() {
            prop_assert_eq!(pixels[index % count * channels + index / count], value);
        }
        channels_first(channels, &pixels, &mut back);
        prop_assert_eq!(back, planes);
    }

    #[test]
    fn addition_is_the_nearest_sum(
        pairs in vec((values(), values()), 0..200), left in params(), right in params(), out in params(),
    ) {
        let (a, b): (Vec<i8>, Vec<i8>) = pairs.into_iter().unzip();
        let mut outputs = Vec::new();
        for kernel in Kernel::available() {
            let mut output = vec![99; a.len()];
            Add::new(kernel, left, right, out).unwrap().run(&a, &b, &mut output);
            outputs.push(output);
        }
        prop_assert!(outputs.windows(2).all(|pair| pair[0] == pair[1]));
        for ((&a, &b), &y) in a.iter().zip(&b).zip(&outputs[0]) {
            let exact = (left.dequantise(a) + right.dequantise(b)) / out.scale + f32::from(out.zero_point);
            // Half a step of rounding, and two factors of 15 bits.
            prop_assert!((exact.clamp(-128.0, 127.0) - f32::from(y)).abs() < 0.55 + 512.0 / 32768.0 * 20.0);
        }
    }

    #[test]
    fn quantising_equals_the_reference(
        values in vec(prop_oneof![8 => -40.0f32..40.0, 1 => any::<f32>(), 1 => Just(f32::NAN)], 0..70), params in params(),
    ) {
        let expected: Vec<i8> = values.iter().map(|&x| params.quantise(x)).collect();
        for kernel in Kernel::available() {
            let mut output = vec![99; values.len()];
            Quantise::new(kernel, params).unwrap().run(&values, &mut output);
            prop_assert_eq!(&output, &expected, "{}", kernel);
        }
    }
}

/// The largest sums of either sign, which would overflow an i16 of three products.
#[test]
fn extreme_values_do_not_overflow() {
    // Miri needs minutes for more.
    let (inputs, rows) = if cfg!(miri) { (40, 7) } else { (1056, 13) };
    for (value, weight) in [(-128, -127), (-128, 127), (127, 127), (127, -127)] {
        let case = LinearCase {
            inputs,
            weights: vec![weight; inputs * 17],
            values: vec![value; inputs * rows],
            ends: Ends {
                bias: vec![0; 17],
                weight_scales: vec![1e-5; 17],
                input: QuantParams { scale: 0.05, zero_point: -128 },
                output: QuantParams { scale: 0.1, zero_point: 3 },
                activation: Activation::None,
            },
        };
        let expected = semantics::linear(&case.spec(), &case.values).unwrap();
        for kernel in Kernel::available() {
            let mut output = vec![0; expected.len()];
            Linear::new(kernel, &case.spec()).unwrap().run(&case.values, &mut output);
            assert_eq!(output, expected, "{kernel}, {value} * {weight}");
        }
    }
}

/// Factors from a quarter on, whose products of 64 bits are shifted by 32 only, beside smaller ones and one that is 0.
#[test]
fn large_factors_are_exact() {
    let scales = [0.499, 0.25, 0.2499, 0.1, 1e-10];
    let weight_scales: Vec<f32> = (0..80).map(|channel| scales[channel % scales.len()]).collect();
    let units = QuantParams { scale: 1.0, zero_point: 7 };
    let mix = |index: usize| (index * index * 31 % 255) as u8;
    let any = |len: usize| (0..len).map(|index| mix(index).cast_signed().max(-127)).collect::<Vec<_>>();
    let bias = (0..80).map(|channel| (channel - 40) * 9).collect::<Vec<_>>();
    let small = |len: usize| any(len).into_iter().map(|x| x / 40).collect::<Vec<_>>();
    let ends = Ends {
        bias: bias.clone(),
        weight_scales: weight_scales.clone(),
        input: units,
        output: units,
        activation: Activation::None,
    };
    let case = LinearCase { inputs: 6, weights: small(6 * 80), values: any(6 * 13), ends };
    let expected = semantics::linear(&case.spec(), &case.values).unwrap();
    let window = Window { height: 5, width: 6, channels: 80, size: 3, stride: 1, padding: [1; 4] };
    let spec = DepthwiseSpec {
        window,
        weights: &small(9 * 80),
        bias: &bias,
        weight_scales: &weight_scales,
        input: units,
        output: units,
        activation: Activation::None,
    };
    let image = any(window.input_len());
    let expected_image = semantics::depthwise(&spec, &image).unwrap();
    let mut scratch = vec![77; window.scratch_len()];
    for kernel in Kernel::available() {
        let mut output = vec![0; expected.len()];
        Linear::new(kernel, &case.spec()).unwrap().run(&case.values, &mut output);
        assert_eq!(output, expected, "{kernel}");
        let mut output = vec![0; expected_image.len()];
        Depthwise::new(kernel, &spec).unwrap().run(&image, &mut scratch, &mut output);
        assert_eq!(output, expected_image, "{kernel}");
    }
}

#[test]
fn hard_swish_by_table_is_hard_swish() {
    let (input, output) =
        (QuantParams { scale: 0.05, zero_point: 4 }, QuantParams { scale: 0.03, zero_point: -100 });
    let table = Table::from_fn(input, output, hard_swish);
    for q in i8::MIN..=i8::MAX {
        assert_eq!(table.get(q), output.quantise(hard_swish(input.dequantise(q))));
    }
}

/// A CI machine, or the emulator's CPU model, names the kernel that it must choose.
#[test]
fn the_expected_kernel_is_chosen() {
    if let Ok(expected) = std::env::var("GIRASOL_EXPECT_KERNEL") {
        assert_eq!(Kernel::best().name(), expected);
    }
}
