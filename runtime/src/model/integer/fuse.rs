//! Finds what of an ONNX graph can run as one operator in f32, and puts placeholders in: layer norms, GELUs as the
//! exporter writes them, and attention with the gathering and joining of its keys and values.
//!
//! A pattern that is not there word for word is left to tract.

use std::collections::{HashMap, HashSet};

use girasol_model::Geometry;
use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TensorProto, tensor_proto::DataType};

use super::rewrite::{attribute, floats};

/// What a placeholder stands for.
#[derive(Clone, Debug)]
pub(super) enum Fused {
    /// Over the last axis.
    LayerNorm { weight: Vec<f32>, bias: Vec<f32>, epsilon: f32 },
    /// Over the last axis.
    Softmax,
    /// By the tanh approximation.
    Gelu,
    /// Inputs: queries, pieces of keys, as many pieces of values, bias, and what the keys of a group have in common if they
    /// come in groups. A piece is a whole tensor or one layer of it.
    Attention { heads: usize, scale: f32, layers: Vec<Option<usize>>, group: Option<usize> },
}

/// Replaces the patterns; returns what each placeholder, by its node's name, stands for.
pub(super) fn fuse(proto: &mut ModelProto) -> Result<HashMap<String, Fused>, String> {
    let graph = proto.graph.as_mut().ok_or("the file holds no graph")?;
    let found: HashMap<String, (Fused, Vec<String>)> = {
        let finder = Finder::new(graph);
        let each = |node: &NodeProto| {
            let fused = finder
                .layer_norm(node)
                .or_else(|| finder.gelu(node))
                .or_else(|| finder.attention(node))
                .or_else(|| softmax(node))?;
            Some((node.name.clone(), fused))
        };
        graph.node.iter().filter_map(each).collect()
    };
    for node in &mut graph.node {
        if let Some((_, inputs)) = found.get(&node.name) {
            node.op_type = "Girasol".to_owned();
            node.input.clone_from(inputs);
            node.attribute.clear();
        }
    }
    drop_unread(graph);
    let left: HashSet<&str> = graph.node.iter().map(|n| &*n.name).collect();
    Ok(found
        .into_iter()
        .filter(|(name, _)| left.contains(&**name))
        .map(|(name, (fused, _))| (name, fused))
        .collect())
}

struct Finder<'a> {
    constants: HashMap<&'a str, &'a TensorProto>,
    makers: HashMap<&'a str, &'a NodeProto>,
    readers: HashMap<&'a str, usize>,
}

/// Attention's keys or values: names of tensors, and which layer of each.
type Pieces = Vec<(String, Option<usize>)>;

impl<'a> Finder<'a> {
    fn new(graph: &'a GraphProto) -> Self {
        let mut readers = HashMap::new();
        let outputs = graph.output.iter().map(|o| &*o.name);
        for name in graph.node.iter().flat_map(|n| &n.input).map(|n| &**n).chain(outputs) {
            *readers.entry(name).or_default() += 1;
        }
        let makers = graph.node.iter().filter_map(|n| Some((&**n.output.first()?, n))).collect();
        let constants = graph.initializer.iter().map(|t| (&*t.name, t)).collect();
        Self { constants, makers, readers }
    }

    /// The node that makes the tensor, if it is of this type.
    fn made(&self, tensor: &str, op_type: &str) -> Option<&'a NodeProto> {
        self.makers.get(tensor).copied().filter(|n| n.op_type == op_type)
    }

    fn is(&self, tensor: &str, value: f32) -> bool {
        self.number(tensor).is_some_and(|found| (found - value).abs() <= 1e-6 * value.abs())
    }

    /// A constant of one f32.
    fn number(&self, tensor: &str) -> Option<f32> {
        match floats(self.constants.get(tensor)?).ok()?[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    /// A constant of integers.
    fn integers(&self, tensor: &str) -> Option<Vec<i64>> {
        let tensor = self.constants.get(tensor)?;
        if tensor.data_type != DataType::Int64 as i32 {
            return None;
        }
        let raw = tensor.raw_data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b));
        Some(raw.chain(tensor.int64_data.iter().copied()).collect())
    }

    fn layer_norm(&self, node: &NodeProto) -> Option<(Fused, Vec<String>)> {
        let [x, weight, bias] = &node.input[..] else { return None };
        let (weight, bias) =
            (floats(self.constants.get(&**weight)?).ok()?, floats(self.constants.get(&**bias)?).ok()?);
        let fits = node.op_type == "LayerNormalization"
            && node.output.len() == 1
            && attribute(node, "axis").is_none_or(|a| a.i == -1)
            && weight.len() == bias.len()
            && weight.len().is_multiple_of(8);
        let epsilon = attribute(node, "epsilon").map_or(1e-5, |a| a.f);
        fits.then(|| (Fused::LayerNorm { weight, bias, epsilon }, vec![x.clone()]))
    }

    /// `(x * 0.5) * (tanh((x + ((x * 0.044715) * x) * x) * sqrt(2 / pi)) + 1)`.
    fn gelu(&self, node: &NodeProto) -> Option<(Fused, Vec<String>)> {
        let [half, outer] = inputs(node, "Mul")?;
        let [x, value] = inputs(self.made(half, "Mul")?, "Mul")?;
        let [tanh, one] = inputs(self.made(outer, "Add")?, "Add")?;
        let [sum, slope] = inputs(self.made(self.made(tanh, "Tanh")?.input.first()?, "Mul")?, "Mul")?;
        let [same, cube] = inputs(self.made(sum, "Add")?, "Add")?;
        let [square, third] = inputs(self.made(cube, "Mul")?, "Mul")?;
        let [scaled, second] = inputs(self.made(square, "Mul")?, "Mul")?;
        let [first, factor] = inputs(self.made(scaled, "Mul")?, "Mul")?;
        let fits = [same, third, second, first].iter().all(|&name| name == x)
            && self.is(value, 0.5)
            && self.is(one, 1.0)
            && self.is(slope, (2.0 * std::f32::consts::FRAC_1_PI).sqrt())
            && self.is(factor, 0.044_715);
        fits.then(|| (Fused::Gelu, vec![x.to_owned()]))
    }

    /// From the last Reshape backwards: heads side by side again, weighted values (and those of groups), softmax, bias,
    /// scaled products.
    fn attention(&self, node: &NodeProto) -> Option<(Fused, Vec<String>)> {
        let [joined, _] = inputs(node, "Reshape")?;
        let read = self.turned(joined, [0, 2, 1, 3])?;
        let (own, shared) = match inputs(read, "Add") {
            Some([own, shared]) => (self.made(own, "MatMul")?, Some(self.made(shared, "MatMul")?)),
            None => (read, None),
        };
        let [weights, values] = inputs(own, "MatMul")?;
        let readers = if shared.is_some() { 2 } else { 1 };
        let softmax =
            self.made(weights, "Softmax").filter(|_| self.readers.get(weights) == Some(&readers))?;
        if attribute(softmax, "axis").is_some_and(|a| a.i != -1) {
            return None;
        }
        let [scaled, bias] = inputs(self.made(softmax.input.first()?, "Add")?, "Add")?;
        let [product, scale] = inputs(self.made(scaled, "Mul")?, "Mul")?;
        let [query, keys] = inputs(self.made(product, "MatMul")?, "MatMul")?;
        let scale = self.number(scale)?;
        let (query, heads) = self.split(query, [0, 2, 1, 3])?;
        let (keys, key_heads) = self.split(keys, [0, 2, 3, 1])?;
        let (values, value_heads) = self.split(values, [0, 2, 1, 3])?;
        let width = Geometry::FORMAT_2.dim;
        if key_heads != heads || value_heads != heads || !width.is_multiple_of(8 * heads) {
            return None;
        }
        let (keys, values) = (self.pieces(keys), self.pieces(values));
        if keys.len() != values.len() {
            return None;
        }
        let (mut names, mut layers) = (vec![query.to_owned()], Vec::new());
        for (name, layer) in keys.into_iter().chain(values) {
            names.push(name);
            layers.push(layer);
        }
        names.push(bias.to_owned());
        let mut group = None;
        if let Some(shared) = shared {
            let (size, values) = self.of_groups(shared, weights, heads)?;
            names.push(values.to_owned());
            group = Some(size);
        }
        Some((Fused::Attention { heads, scale, layers, group }, names))
    }

    /// The weights of each group's keys added up, as their mean times their number, and multiplied with the group's
    /// values: how many keys a group has, and its values.
    fn of_groups(&self, product: &'a NodeProto, weights: &str, heads: usize) -> Option<(usize, &'a str)> {
        let [sums, values] = inputs(product, "MatMul")?;
        let [means, count] = inputs(self.made(sums, "Mul")?, "Mul")?;
        let mean = self.made(means, "ReduceMean")?;
        let [grouped, shape] = inputs(self.made(mean.input.first()?, "Reshape")?, "Reshape")?;
        let [1, of_heads, _, _, size] = self.integers(shape)?[..] else { return None };
        let (values, value_heads) = self.split(values, [0, 2, 1, 3])?;
        let fits = grouped == weights
            && mean.input.len() == 1
            && attribute(mean, "axes").is_some_and(|a| a.ints == [-1])
            && attribute(mean, "keepdims").is_some_and(|a| a.i == 0)
            && self.number(count) == u16::try_from(size).ok().map(f32::from)
            && usize::try_from(of_heads) == Ok(heads)
            && value_heads == heads;
        fits.then_some((usize::try_from(size).ok()?, values))
    }

    /// What is read by the Transpose that makes the tensor.
    fn turned(&self, tensor: &str, order: [i64; 4]) -> Option<&'a NodeProto> {
        let node = self.made(tensor, "Transpose")?;
        let fits = attribute(node, "perm").is_some_and(|a| a.ints == order);
        self.makers.get(&**node.input.first()?).copied().filter(|_| fits)
    }

    /// [1, rows, width] behind a Reshape to [1, rows, heads, width / heads] and a Transpose; and the heads.
    fn split(&self, tensor: &str, order: [i64; 4]) -> Option<(&'a str, usize)> {
        let [whole, shape] = inputs(self.turned(tensor, order)?, "Reshape")?;
        let [1, _, heads, _] = self.integers(shape)?[..] else { return None };
        Some((whole, usize::try_from(heads).ok().filter(|&heads| heads > 0)?))
    }

    /// The rows as they lie before they are joined: [1, rows, width].
    fn pieces(&self, tensor: &str) -> Pieces {
        match self.made(tensor, "Concat").filter(|n| attribute(n, "axis").is_some_and(|a| a.i == 1)) {
            Some(concat) => concat.input.iter().map(|part| self.piece(part)).collect(),
            None => vec![self.piece(tensor)],
        }
    }

    /// A layer of a larger tensor, its rows in one line, or a tensor as it is.
    fn piece(&self, tensor: &str) -> (String, Option<usize>) {
        let layer = || {
            let [tensor, shape] = match self.made(tensor, "Reshape") {
                Some(node) => inputs(node, "Reshape")?,
                None => [tensor, ""],
            };
            let width = i64::try_from(Geometry::FORMAT_2.dim).ok()?;
            let in_line = shape.is_empty() || self.integers(shape).is_some_and(|s| s == [1, -1, width]);
            let gather = self
                .made(tensor, "Gather")
                .filter(|n| in_line && attribute(n, "axis").is_some_and(|a| a.i == 1))?;
            let [whole, index] = inputs(gather, "Gather")?;
            match self.integers(index)?[..] {
                [index] if self.constants.get(index_name(gather)).is_some_and(|t| t.dims.is_empty()) => {
                    Some((whole.to_owned(), Some(usize::try_from(index).ok()?)))
                }
                _ => None,
            }
        };
        layer().unwrap_or_else(|| (tensor.to_owned(), None))
    }
}

/// One that attention has not taken: what nobody reads any more is dropped.
fn softmax(node: &NodeProto) -> Option<(Fused, Vec<String>)> {
    let fits = node.op_type == "Softmax" && attribute(node, "axis").is_none_or(|a| a.i == -1);
    fits.then(|| (Fused::Softmax, node.input.clone()))
}

fn index_name(gather: &NodeProto) -> &str {
    gather.input.get(1).map_or("", |name| name)
}

/// The two inputs of a node of this type.
fn inputs<'n>(node: &'n NodeProto, op_type: &str) -> Option<[&'n str; 2]> {
    match &node.input[..] {
        [a, b] if node.op_type == op_type => Some([a, b]),
        _ => None,
    }
}

/// Nodes whose results nobody reads any more.
fn drop_unread(graph: &mut GraphProto) {
    loop {
        let mut read: HashSet<String> = graph.node.iter().flat_map(|n| n.input.iter().cloned()).collect();
        read.extend(graph.output.iter().map(|o| o.name.clone()));
        let before = graph.node.len();
        graph.node.retain(|n| n.output.iter().any(|o| read.contains(o)));
        if graph.node.len() == before {
            graph.initializer.retain(|t| read.contains(&t.name));
            return;
        }
    }
}
