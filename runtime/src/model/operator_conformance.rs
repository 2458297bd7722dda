//! Operator by operator: every kernel and stock tract, through the same path as a bundle's graphs, against what ONNX
//! Runtime computes in f32. `runtime/tests/goldens/operators.py` makes graphs and results.

use std::collections::BTreeMap;

use girasol_model::QuantisedNode;
use girasol_ops::Kernel;
use serde::Deserialize;

use super::*;

#[derive(Deserialize)]
struct Case {
    name: String,
    inputs: Vec<(String, Vec<usize>)>,
    output: Vec<usize>,
    quantised: BTreeMap<String, QuantisedNode>,
}

/// The cases, each with the values of its inputs and of the output.
fn cases() -> Vec<(Case, Vec<Vec<f32>>)> {
    let cases: Vec<Case> = serde_json::from_str(include_str!("../../tests/goldens/operators.json")).unwrap();
    let bytes = include_bytes!("../../tests/goldens/operators.f32").as_chunks().0;
    let mut values = bytes.iter().map(|b| f32::from_le_bytes(*b));
    let mut take = |shape: &[usize]| values.by_ref().take(shape.iter().product()).collect();
    let cases = cases.into_iter().map(|case| {
        let tensors = case.inputs.iter().map(|(_, shape)| shape).chain([&case.output]);
        let tensors = tensors.map(|shape| take(shape)).collect();
        (case, tensors)
    });
    let cases = cases.collect();
    assert!(values.next().is_none(), "operators.f32 fits operators.json");
    cases
}

fn port(name: &str, shape: &[usize]) -> Port {
    let name = String::leak(name.to_owned());
    match *shape {
        [a, b, c] => Port::f32(name, [a, b, c]),
        [a, b, c, d] => Port::f32(name, [a, b, c, d]),
        [a, b, c, d, e] => Port::f32(name, [a, b, c, d, e]),
        _ => panic!("{shape:?}"),
    }
}

/// The case's output, on a kernel or on stock tract; and the operators that it came to.
fn run(case: &Case, tensors: &[Vec<f32>], kernel: Option<Kernel>) -> (Vec<f32>, Vec<String>) {
    let path = format!("{}/tests/goldens/operators/{}.onnx", env!("CARGO_MANIFEST_DIR"), case.name);
    let bytes = std::fs::read(&path).unwrap();
    let integers = kernel.map(|kernel| Integers { nodes: &case.quantised, kernel });
    let inputs: Vec<Port> = case.inputs.iter().map(|(name, shape)| port(name, shape)).collect();
    let mut graph =
        Graph::load("case", &path, &bytes, integers, &inputs, &[port("y", &case.output)]).unwrap();
    for (index, values) in tensors[..inputs.len()].iter().enumerate() {
        graph.input(index).unwrap().copy_from_slice(values);
    }
    let operators = graph.operators();
    (graph.run().unwrap().get(0).unwrap().to_vec(), operators)
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// In int8 half a step from rounding the result, and a little from rounding bias and factor; f32 otherwise.
#[test]
fn every_kernel_and_stock_tract_agree_with_onnx_runtime() {
    let cases = cases();
    assert_eq!(cases.len(), 16);
    for (case, tensors) in &cases {
        let expected = tensors.last().unwrap();
        let (stock, operators) = run(case, tensors, None);
        assert!(!operators.iter().any(|name| name.starts_with("Int8") || name.starts_with("F32")));
        let difference = largest_difference(&stock, expected);
        assert!(difference < 2e-5, "{} on tract: {difference}", case.name);
        let step = case.quantised.values().map(|node| node.output.scale).next();
        let tolerance = step.map_or(2e-5, |step| 0.55 * step);
        for kernel in Kernel::available() {
            let (result, operators) = run(case, tensors, Some(kernel));
            let own = |name: &&String| name.starts_with("Int8") || name.starts_with("F32");
            let own: Vec<_> = operators.iter().filter(own).collect();
            assert!(!own.is_empty(), "{}: {operators:?}", case.name);
            // As a whole, and not its softmax alone.
            let attention = case.name.starts_with("attention");
            assert!(!attention || own == ["F32SoftmaxAttention"], "{}: {operators:?}", case.name);
            let difference = largest_difference(&result, expected);
            assert!(difference <= tolerance, "{} on {kernel}: {difference} of {tolerance}", case.name);
        }
    }
}
