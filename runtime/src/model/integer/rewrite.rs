//! Takes quantised nodes out of an ONNX graph and puts placeholders in.
//!
//! Tensors that exist in int8 are called `NAME.int8`; where an f32 node wants one, it is converted once, under its old
//! name.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use girasol_model::{Affine, FusedActivation, QuantisedNode};
use girasol_ops::semantics::{Activation, QuantParams, quantise_bias, quantise_weights};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, tensor_proto::DataType,
};

/// What a placeholder stands for. Images are [1, height, width, channels] in int8, [1, channels, height, width] in f32.
#[derive(Clone, Debug)]
pub(super) enum Layer {
    /// f32 to int8.
    Quantise { params: QuantParams },
    /// int8 to f32.
    Dequantise { params: QuantParams },
    /// A convolution of any kind.
    Convolution(Box<Convolution>),
    /// A residual addition.
    Add { left: QuantParams, right: QuantParams, output: QuantParams },
}

/// A convolution: weights [outputs, inputs / groups, size, size].
#[derive(Clone, Debug)]
pub(super) struct Convolution {
    pub(super) depthwise: bool,
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    pub(super) size: usize,
    pub(super) stride: usize,
    pub(super) padding: [usize; 4],
    pub(super) weights: Vec<i8>,
    pub(super) weight_scales: Vec<f32>,
    pub(super) bias: Vec<i32>,
    pub(super) input: QuantParams,
    pub(super) output: QuantParams,
    pub(super) activation: Activation,
}

/// Rewrites the graph; returns what each placeholder, by its node's name, stands for.
pub(super) fn rewrite(
    proto: &mut ModelProto,
    quantised: &BTreeMap<String, QuantisedNode>,
) -> Result<HashMap<String, Layer>, String> {
    let graph = proto.graph.as_mut().ok_or("the file holds no graph")?;
    let mut rewriter = Rewriter::new(graph, quantised)?;
    for node in &graph.node {
        rewriter.take(node)?;
    }
    for output in &graph.output {
        rewriter.dequantise(&output.name);
    }
    let Rewriter { nodes, layers, .. } = rewriter;
    graph.node = nodes;
    drop_unused_constants(graph);
    Ok(layers)
}

struct Rewriter<'a> {
    quantised: &'a BTreeMap<String, QuantisedNode>,
    constants: HashMap<&'a str, &'a TensorProto>,
    /// Weight-only DequantizeLinear nodes by their output.
    dequantised: HashMap<&'a str, &'a NodeProto>,
    by_name: HashMap<&'a str, &'a NodeProto>,
    fused: HashSet<&'a str>,
    /// Tensors that exist in int8.
    int8: HashMap<String, Affine>,
    /// Of these, the ones that do not exist in f32.
    int8_only: BTreeSet<String>,
    nodes: Vec<NodeProto>,
    layers: HashMap<String, Layer>,
}

impl<'a> Rewriter<'a> {
    fn new(graph: &'a GraphProto, quantised: &'a BTreeMap<String, QuantisedNode>) -> Result<Self, String> {
        let by_name: HashMap<&str, &NodeProto> = graph.node.iter().map(|n| (&*n.name, n)).collect();
        let fused: HashSet<&str> = quantised.values().flat_map(|q| &q.fused).map(|n| &**n).collect();
        if let Some(name) =
            quantised.keys().map(|k| &**k).chain(fused.iter().copied()).find(|n| !by_name.contains_key(n))
        {
            return Err(format!("quantisation names node `{name}`, which the graph does not have"));
        }
        Ok(Self {
            quantised,
            constants: graph.initializer.iter().map(|t| (&*t.name, t)).collect(),
            dequantised: graph
                .node
                .iter()
                .filter(|n| n.op_type == "DequantizeLinear")
                .filter_map(|n| Some((&**n.output.first()?, n)))
                .collect(),
            by_name,
            fused,
            int8: HashMap::new(),
            int8_only: BTreeSet::new(),
            nodes: Vec::new(),
            layers: HashMap::new(),
        })
    }

    fn take(&mut self, node: &'a NodeProto) -> Result<(), String> {
        if let Some(quantised) = self.quantised.get(&node.name) {
            return self.replace(node, quantised).map_err(|e| format!("quantised node `{}`: {e}", node.name));
        }
        if self.fused.contains(&*node.name) {
            return Ok(());
        }
        for input in &node.input {
            self.dequantise(input);
        }
        self.nodes.push(node.clone());
        Ok(())
    }

    fn replace(&mut self, node: &'a NodeProto, quantised: &QuantisedNode) -> Result<(), String> {
        let last = self.last_of(node, quantised)?;
        let layer = match &*node.op_type {
            "Conv" => self.convolution(node, quantised)?,
            "Add" => add(quantised)?,
            other => return Err(format!("operator {other} has no int8 form")),
        };
        let dynamic = if node.op_type == "Conv" { &node.input[..1] } else { &node.input[..] };
        if dynamic.len() != quantised.inputs.len() {
            return Err(format!("{} inputs, scales for {}", dynamic.len(), quantised.inputs.len()));
        }
        let mut inputs = Vec::new();
        for (name, affine) in dynamic.iter().zip(&quantised.inputs) {
            inputs.push(self.quantise(name, *affine)?);
        }
        self.push(node.name.clone(), layer, inputs, int8_name(&last));
        self.int8.insert(last.clone(), quantised.output);
        self.int8_only.insert(last);
        Ok(())
    }

    /// Name of the tensor that the node and those fused into it make. Each must be the only reader of the one before.
    fn last_of(&self, node: &NodeProto, quantised: &QuantisedNode) -> Result<String, String> {
        let mut last = node.output.first().ok_or("it has no output")?;
        for name in &quantised.fused {
            let next = self.by_name[&**name];
            let readers = self.by_name.values().filter(|n| n.input.contains(last)).count();
            if next.input.first() != Some(last) || readers != 1 {
                return Err(format!("`{name}` does not follow it alone"));
            }
            self.check_fused(next, &quantised.activation)?;
            last = next.output.first().ok_or("a fused node has no output")?;
        }
        if quantised.fused.is_empty() != (quantised.activation == FusedActivation::None) {
            return Err("its activation and the nodes fused into it do not agree".into());
        }
        Ok(last.clone())
    }

    /// Whether the node is the activation that it is said to be.
    fn check_fused(&self, node: &NodeProto, activation: &FusedActivation) -> Result<(), String> {
        let bound = |index: usize| {
            let constant = node.input.get(index).and_then(|name| self.constants.get(&**name));
            constant.and_then(|t| floats(t).ok()).and_then(|v| v.first().copied())
        };
        let fits = match activation {
            FusedActivation::None => false,
            FusedActivation::Relu => node.op_type == "Relu",
            FusedActivation::Relu6 => {
                node.op_type == "Clip" && bound(1) == Some(0.0) && bound(2) == Some(6.0)
            }
        };
        if fits { Ok(()) } else { Err(format!("`{}` is not {activation:?}", node.name)) }
    }

    /// Makes sure that the tensor exists in f32.
    fn dequantise(&mut self, name: &str) {
        if self.int8_only.remove(name) {
            let params = self.int8[name];
            let layer = Layer::Dequantise { params: params_of(params) };
            self.push(format!("{name}.dequantise"), layer, vec![int8_name(name)], name.to_owned());
        }
    }

    /// Makes sure that the tensor exists in int8; returns its name there.
    fn quantise(&mut self, name: &str, affine: Affine) -> Result<String, String> {
        match self.int8.get(name) {
            Some(found) if *found == affine => {}
            Some(found) => return Err(format!("reads `{name}` as {affine:?}, but it is made as {found:?}")),
            None => {
                let layer = Layer::Quantise { params: params_of(affine) };
                self.push(format!("{name}.quantise"), layer, vec![name.to_owned()], int8_name(name));
                self.int8.insert(name.to_owned(), affine);
            }
        }
        Ok(int8_name(name))
    }

    fn push(&mut self, name: String, layer: Layer, input: Vec<String>, output: String) {
        let op_type = "Girasol".to_owned();
        self.nodes.push(NodeProto {
            name: name.clone(),
            op_type,
            input,
            output: vec![output],
            ..NodeProto::default()
        });
        self.layers.insert(name, layer);
    }

    fn convolution(&self, node: &NodeProto, quantised: &QuantisedNode) -> Result<Layer, String> {
        let weight = node.input.get(1).ok_or("it has no weights")?;
        let (dims, mut weights, mut weight_scales) = self.weights(weight)?;
        let [outputs, inputs, size, size_too] = dims[..] else {
            return Err(format!("weights of shape {dims:?} are not those of an image's convolution"));
        };
        let groups = single(node, "group", 1)?;
        let stride = single(node, "strides", 1)?;
        let depthwise = groups > 1;
        if size != size_too
            || (depthwise && (groups != outputs || inputs != 1))
            || single(node, "dilations", 1)? != 1
        {
            return Err("only square convolutions of one group or depthwise ones have an int8 form".into());
        }
        let padding = match attribute(node, "pads") {
            None => [0; 4],
            Some(a) => {
                let pads: Vec<usize> = a.ints.iter().filter_map(|&p| usize::try_from(p).ok()).collect();
                pads.try_into().map_err(|_| "its padding is not four numbers")?
            }
        };
        if attribute(node, "auto_pad").is_some_and(|a| a.s != b"NOTSET") {
            return Err("automatic padding has no int8 form".into());
        }
        let input = params_of(*quantised.inputs.first().ok_or("it has no input")?);
        let output = params_of(quantised.output);
        let bias = match node.input.get(2).filter(|name| !name.is_empty()) {
            None => vec![0.0; outputs],
            Some(name) => floats(self.constants.get(&**name).ok_or("its bias is no constant")?)?,
        };
        fit_channels(&mut weights, &mut weight_scales, &bias, input, output);
        let bias = quantise_bias(&bias, input, &weight_scales).map_err(|e| e.to_string())?;
        Ok(Layer::Convolution(Box::new(Convolution {
            depthwise,
            inputs: inputs * groups,
            outputs,
            size,
            stride,
            padding,
            weights,
            weight_scales,
            bias,
            input,
            output,
            activation: match quantised.activation {
                FusedActivation::None => Activation::None,
                FusedActivation::Relu => Activation::Relu,
                FusedActivation::Relu6 => Activation::Relu6,
            },
        })))
    }

    /// Shape, values and channel scales: as the file holds them, or rounded here if it holds few and therefore f32.
    fn weights(&self, name: &str) -> Result<Weights, String> {
        let constant =
            |name: &str| self.constants.get(name).copied().ok_or(format!("`{name}` is no constant"));
        if let Some(node) = self.dequantised.get(name) {
            let (Some(q), Some(scales)) = (node.input.first(), node.input.get(1)) else {
                return Err(format!("`{name}` has no scales"));
            };
            if attribute(node, "axis").is_some_and(|a| a.i != 0) {
                return Err(format!("the scales of `{name}` are not one per output channel"));
            }
            let q = constant(q)?;
            return Ok((dims(q)?, bytes(q)?, floats(constant(scales)?)?));
        }
        let tensor = constant(name)?;
        let dims = dims(tensor)?;
        let (q, scales) = quantise_weights(&floats(tensor)?, dims.first().copied().unwrap_or(0));
        Ok((dims, q, scales))
    }
}

/// Shape, values and channel scales.
type Weights = (Vec<usize>, Vec<i8>, Vec<f32>);

/// Largest bias in units of the accumulator; leaves room for the products.
const BIAS_LIMIT: f64 = (1 << 29) as f64;

/// Channels whose weights are all 0, or next to 0 beside their bias, need a coarser scale than the exporter's: one for
/// which a fixed-point factor exists and in which the bias fits the accumulator.
#[allow(clippy::cast_possible_truncation, reason = "a weight divided by a power of two stays a weight")]
fn fit_channels(
    weights: &mut [i8],
    scales: &mut [f32],
    bias: &[f32],
    input: QuantParams,
    output: QuantParams,
) {
    let len = (weights.len() / scales.len().max(1)).max(1);
    for ((channel, scale), bias) in weights.chunks_exact_mut(len).zip(scales).zip(bias) {
        if channel.iter().all(|&w| w == 0) {
            *scale = output.scale / input.scale / 1024.0;
        }
        let steps = (f64::from(*bias) / (f64::from(input.scale) * f64::from(*scale))).abs();
        let mut coarser = 1.0f32;
        while steps / f64::from(coarser) > BIAS_LIMIT && coarser < 1e30 {
            coarser *= 2.0;
        }
        if coarser > 1.0 {
            *scale *= coarser;
            channel.iter_mut().for_each(|w| *w = (f32::from(*w) / coarser).round_ties_even() as i8);
        }
    }
}

fn add(quantised: &QuantisedNode) -> Result<Layer, String> {
    let [left, right] = quantised.inputs[..] else { return Err("an addition has two inputs".into()) };
    if quantised.activation != FusedActivation::None {
        return Err("an addition has no activation in int8".into());
    }
    let [left, right, output] = [left, right, quantised.output].map(params_of);
    Ok(Layer::Add { left, right, output })
}

/// Weights that only quantised nodes read, and their DequantizeLinear nodes, would otherwise be loaded once more.
fn drop_unused_constants(graph: &mut GraphProto) {
    let read = |nodes: &[NodeProto]| -> HashSet<String> {
        nodes.iter().flat_map(|n| n.input.iter().cloned()).collect()
    };
    let used = read(&graph.node);
    graph.node.retain(|n| n.op_type != "DequantizeLinear" || n.output.iter().any(|o| used.contains(o)));
    let mut used = read(&graph.node);
    used.extend(graph.output.iter().map(|o| o.name.clone()));
    graph.initializer.retain(|t| used.contains(&t.name));
}

fn params_of(affine: Affine) -> QuantParams {
    QuantParams { scale: affine.scale, zero_point: affine.zero_point }
}

fn int8_name(name: &str) -> String {
    format!("{name}.int8")
}

pub(super) fn attribute<'n>(node: &'n NodeProto, name: &str) -> Option<&'n AttributeProto> {
    node.attribute.iter().find(|a| a.name == name)
}

/// An attribute that is one number, or the same number for each axis.
fn single(node: &NodeProto, name: &str, default: usize) -> Result<usize, String> {
    let Some(a) = attribute(node, name) else { return Ok(default) };
    let first = a.ints.first().copied().unwrap_or(a.i);
    match usize::try_from(first) {
        Ok(value) if a.ints.iter().all(|&other| other == first) => Ok(value),
        _ => Err(format!("attribute {name} differs between axes")),
    }
}

pub(super) fn dims(tensor: &TensorProto) -> Result<Vec<usize>, String> {
    let dims = tensor.dims.iter().map(|&d| usize::try_from(d)).collect::<Result<Vec<_>, _>>();
    dims.map_err(|_| format!("`{}` has a negative dimension", tensor.name))
}

fn check_len(tensor: &TensorProto, found: usize) -> Result<(), String> {
    let expected: usize = dims(tensor)?.iter().product();
    if found == expected {
        Ok(())
    } else {
        Err(format!("`{}` holds {found} of {expected} values", tensor.name))
    }
}

pub(super) fn floats(tensor: &TensorProto) -> Result<Vec<f32>, String> {
    if tensor.data_type != DataType::Float as i32 {
        return Err(format!("`{}` is not f32", tensor.name));
    }
    let values = if tensor.raw_data.is_empty() {
        tensor.float_data.clone()
    } else {
        tensor.raw_data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    };
    check_len(tensor, values.len())?;
    Ok(values)
}

fn bytes(tensor: &TensorProto) -> Result<Vec<i8>, String> {
    if tensor.data_type != DataType::Int8 as i32 || tensor.raw_data.is_empty() {
        return Err(format!("`{}` is not int8", tensor.name));
    }
    check_len(tensor, tensor.raw_data.len())?;
    Ok(tensor.raw_data.iter().map(|b| b.cast_signed()).collect())
}
