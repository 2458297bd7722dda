//! The Python twin (`models/train/girasol_train/int8.py`) agrees bit for bit. `goldens/int8.txt` is its output.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{collections::HashMap, str::FromStr};

use girasol_ops::{
    Kernel,
    convolution::Convolution,
    depthwise::{Depthwise, DepthwiseSpec},
    elementwise::{Add, Quantise},
    linear::{Linear, LinearSpec},
    semantics::{Activation, QuantParams, Table, hard_swish},
    window::Window,
};

const INPUT: QuantParams = QuantParams { scale: 0.05, zero_point: -7 };
const MIDDLE: QuantParams = QuantParams { scale: 0.07, zero_point: 5 };
const OUTPUT: QuantParams = QuantParams { scale: 0.04, zero_point: -90 };

struct Case {
    name: &'static str,
    fields: HashMap<&'static str, &'static str>,
}

impl Case {
    fn get<T: FromStr>(&self, field: &str) -> Vec<T> {
        let text = self.fields[field];
        let numbers = text.split(',').filter(|number| !number.is_empty());
        numbers
            .map(|number| number.parse().ok().unwrap_or_else(|| panic!("{}: {number}", self.name)))
            .collect()
    }

    fn activation(&self) -> Activation {
        match self.name.split('-').nth(1).unwrap() {
            "none" => Activation::None,
            "relu" => Activation::Relu,
            "relu6" => Activation::Relu6,
            _ => Activation::Table(Table(self.get("table").into_boxed_slice().try_into().unwrap())),
        }
    }

    fn check(&self, kernel: Kernel) {
        let expected: Vec<i8> = self.get("y");
        let mut output = vec![99; expected.len()];
        match self.name.split('-').next().unwrap() {
            "linear" => self.linear(kernel, &mut output),
            "convolution" => self.convolution(kernel, &mut output),
            "depthwise" => self.depthwise(kernel, &mut output),
            "add" => Add::new(kernel, INPUT, MIDDLE, OUTPUT).unwrap().run(
                &self.get::<i8>("x"),
                &self.get::<i8>("w"),
                &mut output,
            ),
            "quantise" => Quantise::new(kernel, INPUT).unwrap().run(&self.get::<f32>("scales"), &mut output),
            other => panic!("{other}: no such operator"),
        }
        assert_eq!(output, expected, "{} on {kernel}", self.name);
    }

    fn linear(&self, kernel: Kernel, output: &mut [i8]) {
        let spec = LinearSpec {
            inputs: 21,
            outputs: 6,
            weights: &self.get::<i8>("w"),
            bias: &self.get::<i32>("bias"),
            weight_scales: &self.get::<f32>("scales"),
            input: INPUT,
            output: MIDDLE,
            activation: self.activation(),
        };
        Linear::new(kernel, &spec).unwrap().run(&self.get::<i8>("x"), output);
    }

    fn convolution(&self, kernel: Kernel, output: &mut [i8]) {
        let window: [usize; 9] = self.get("window").try_into().unwrap();
        let [height, width, channels, size, stride, padding @ ..] = window;
        let window = Window { height, width, channels, size, stride, padding };
        let spec = LinearSpec {
            inputs: window.taps_len(),
            outputs: 7,
            weights: &self.get::<i8>("w"),
            bias: &self.get::<i32>("bias"),
            weight_scales: &self.get::<f32>("scales"),
            input: INPUT,
            output: MIDDLE,
            activation: self.activation(),
        };
        let convolution = Convolution::new(kernel, window, &spec).unwrap();
        let mut scratch = vec![0; convolution.scratch_len()];
        convolution.run(&self.get::<i8>("x"), &mut scratch, output);
    }

    fn depthwise(&self, kernel: Kernel, output: &mut [i8]) {
        let window: [usize; 9] = self.get("window").try_into().unwrap();
        let [height, width, channels, size, stride, padding @ ..] = window;
        let window = Window { height, width, channels, size, stride, padding };
        let spec = DepthwiseSpec {
            window,
            weights: &self.get::<i8>("w"),
            bias: &self.get::<i32>("bias"),
            weight_scales: &self.get::<f32>("scales"),
            input: INPUT,
            output: MIDDLE,
            activation: self.activation(),
        };
        let mut scratch = vec![0; window.scratch_len()];
        Depthwise::new(kernel, &spec).unwrap().run(&self.get::<i8>("x"), &mut scratch, output);
    }
}

fn cases() -> Vec<Case> {
    let case = |line: &'static str| {
        let mut words = line.split(' ');
        let name = words.next().unwrap();
        Case { name, fields: words.map(|word| word.split_once('=').unwrap()).collect() }
    };
    include_str!("goldens/int8.txt").lines().map(case).collect()
}

#[test]
fn every_kernel_agrees_with_the_python_twin() {
    let cases = cases();
    assert_eq!(cases.len(), 21);
    for kernel in Kernel::available() {
        for case in &cases {
            case.check(kernel);
        }
    }
}

#[test]
fn the_twins_hard_swish_table_is_ours() {
    let cases = cases();
    let table: Vec<i8> = cases.iter().find(|case| case.name == "linear-table").unwrap().get("table");
    assert_eq!(Table::from_fn(MIDDLE, OUTPUT, hard_swish).0.as_slice(), table);
}
