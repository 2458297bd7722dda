//! One ONNX file of the bundle, loaded into tract and checked against the frozen ABI.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tract_onnx::{
    prelude::*,
    tract_core::plan::{self, SimpleState},
    tract_hir::{infer::Factoid as _, internal::Cost},
};

use super::integer::{self, FloatOp, IntegerOp, Integers};
use crate::{Error, ErrorKind, Result, clock::Clock};

/// Name and shape of an input or output, as the ABI has it.
#[derive(Clone, Debug)]
pub(crate) struct Port {
    name: &'static str,
    shape: Vec<usize>,
    datum: DatumType,
}

impl Port {
    /// An f32 tensor.
    pub(crate) fn f32<const N: usize>(name: &'static str, shape: [usize; N]) -> Self {
        Self { name, shape: shape.to_vec(), datum: f32::datum_type() }
    }

    /// An i64 tensor.
    pub(crate) fn i64<const N: usize>(name: &'static str, shape: [usize; N]) -> Self {
        Self { name, shape: shape.to_vec(), datum: i64::datum_type() }
    }

    /// A zeroed tensor of this shape, ready to be an input.
    pub(crate) fn zeros(&self) -> Result<Arc<Tensor>> {
        Tensor::zero_dt(self.datum, &self.shape).map(Arc::new).map_err(|e| internal(self.name, &e))
    }
}

/// A graph ready to run, with its input tensors. The inputs are allocated once; a caller writes into them, runs, and
/// writes again.
pub(crate) struct Graph {
    name: &'static str,
    state: SimpleState<TypedFact, Box<dyn TypedOp>>,
    inputs: Vec<Arc<Tensor>>,
    stop: Option<Arc<AtomicBool>>,
}

impl Graph {
    /// Loads `bytes`; `file` names it in errors. A graph whose inputs or outputs differ from the ABI is refused, and so
    /// is one whose quantised nodes cannot run in int8.
    pub(crate) fn load(
        name: &'static str,
        file: &str,
        bytes: &[u8],
        integers: Option<Integers<'_>>,
        inputs: &[Port],
        outputs: &[Port],
    ) -> Result<Self> {
        let refuse = |what: String| {
            Error::new(ErrorKind::Data, format!("{file}: {what}"))
                .help("the bundle does not fit this runtime: install the bundle that came with it")
        };
        let onnx = tract_onnx::onnx();
        let unreadable = |e: TractError| refuse(format!("not a readable ONNX graph: {e:#}"));
        let proto = onnx.proto_model_for_read(&mut std::io::Cursor::new(bytes)).map_err(unreadable)?;
        let mut model = match integers {
            Some(integers) => integer::parse(proto, integers).map_err(refuse)?,
            None => onnx.model_for_proto_model(&proto).map_err(unreadable)?,
        };
        check_names(&model, inputs, outputs).map_err(refuse)?;
        for (index, port) in inputs.iter().enumerate() {
            let declared = model.input_fact(index).map_err(|e| internal(name, &e))?;
            let fact = InferenceFact::dt_shape(port.datum, &port.shape);
            if declared.unify(&fact).is_err() {
                return Err(refuse(format!("input `{}` is {declared:?}, not {:?}", port.name, port.shape)));
            }
            model.set_input_fact(index, fact).map_err(|e| internal(name, &e))?;
        }
        let model = model
            .into_typed()
            .and_then(TypedModel::into_optimized)
            .map_err(|e| refuse(format!("tract cannot run it: {e:#}")))?;
        for (index, port) in outputs.iter().enumerate() {
            let fact = model.output_fact(index).map_err(|e| internal(name, &e))?;
            let shape = fact.shape.as_concrete();
            if shape != Some(&port.shape[..]) || fact.datum_type != port.datum {
                return Err(refuse(format!("output `{}` is {fact:?}, not {:?}", port.name, port.shape)));
            }
        }
        let plan = model.into_runnable().map_err(|e| internal(name, &e))?;
        let state = plan.spawn().map_err(|e| internal(name, &e))?;
        let inputs = inputs.iter().map(Port::zeros).collect::<Result<_>>()?;
        Ok(Self { name, state, inputs, stop: None })
    }

    /// The input's values, to be written.
    pub(crate) fn input(&mut self, index: usize) -> Result<&mut [f32]> {
        self.typed_input(index)
    }

    /// The input's values, to be written.
    pub(crate) fn input_i64(&mut self, index: usize) -> Result<&mut [i64]> {
        self.typed_input(index)
    }

    fn typed_input<D: Datum>(&mut self, index: usize) -> Result<&mut [D]> {
        // tract drops its references when a run returns, so this is the only one left.
        Arc::get_mut(&mut self.inputs[index])
            .ok_or_else(|| {
                Error::new(ErrorKind::Internal, format!("{}: input {index} still in use", self.name))
            })?
            .to_plain_array_view_mut::<D>()
            .map_err(|e| internal(self.name, &e))?
            .into_slice()
            .ok_or_else(|| {
                Error::new(ErrorKind::Internal, format!("{}: input {index} is strided", self.name))
            })
    }

    /// Nodes that run in int8.
    pub(crate) fn int8_nodes(&self) -> usize {
        self.state.model().nodes().iter().filter(|n| n.op_as::<IntegerOp>().is_some()).count()
    }

    /// Times each node over `iterations` runs on the current inputs.
    pub(crate) fn profile(&mut self, iterations: usize, clock: &dyn Clock) -> Result<Vec<NodeCost>> {
        let mut times = vec![Vec::with_capacity(iterations); self.state.model().nodes().len()];
        for _ in 0..iterations {
            let inputs = self.inputs.iter().map(|t| TValue::from_const(Arc::clone(t))).collect();
            let timed = self.state.run_plan_with_eval(inputs, |context, state, node, input| {
                let start = clock.now();
                let result = plan::eval(context, state, node, input);
                times[node.id].push(u64::try_from(clock.now().since(start)).unwrap_or(0));
                result
            });
            timed.map_err(|e| internal(self.name, &e))?;
        }
        let model = self.state.model();
        let mut costs = Vec::new();
        for (node, times) in model.nodes().iter().zip(&mut times).filter(|(_, times)| !times.is_empty()) {
            times.sort_unstable();
            let facts = model.node_input_facts(node.id).map_err(|e| internal(self.name, &e))?;
            let cost = node.op.cost(&facts).map_err(|e| internal(self.name, &e))?;
            let products = cost.iter().filter(|(cost, _)| matches!(cost, Cost::FMA(_)));
            costs.push(NodeCost {
                graph: self.name,
                node: node.name.clone(),
                operator: node.op().name().to_string(),
                kernel: own_kernel(node).map_or("tract", girasol_ops::Kernel::name),
                macs: products.filter_map(|(_, count)| u64::try_from(count.to_i64().ok()?).ok()).sum(),
                median: std::time::Duration::from_nanos(times[times.len() / 2]),
            });
        }
        Ok(costs)
    }

    /// Its name in the ABI.
    #[cfg(test)]
    pub(crate) fn name(&self) -> &str {
        self.name
    }

    /// Names of the operators that it came to after optimisation.
    #[cfg(test)]
    pub(crate) fn operators(&self) -> Vec<String> {
        self.state.model().nodes().iter().map(|n| n.op().name().to_string()).collect()
    }

    /// From now on nothing more is run once `stop` is set.
    pub(crate) fn give_up_at(&mut self, stop: &Arc<AtomicBool>) {
        self.stop = Some(Arc::clone(stop));
    }

    /// Runs the graph on the current inputs.
    pub(crate) fn run(&mut self) -> Result<Outputs> {
        if self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return Err(Error::new(ErrorKind::Unavailable, format!("{}: given up for the end", self.name)));
        }
        let inputs = self.inputs.iter().map(|t| TValue::from_const(Arc::clone(t))).collect();
        let values = self.state.run(inputs).map_err(|e| internal(self.name, &e))?;
        Ok(Outputs { name: self.name, values })
    }
}

/// What computes the node, if it is an operator of girasol-ops.
fn own_kernel(node: &TypedNode) -> Option<girasol_ops::Kernel> {
    let float = || node.op_as::<FloatOp>().map(FloatOp::kernel);
    node.op_as::<IntegerOp>().map(IntegerOp::kernel).or_else(float)
}

/// What one node of a graph costs.
#[derive(Clone, Debug)]
pub struct NodeCost {
    /// The graph.
    pub graph: &'static str,
    /// The node.
    pub node: String,
    /// Its operator after optimisation.
    pub operator: String,
    /// What computes it: a kernel of girasol-ops, or `tract` in f32.
    pub kernel: &'static str,
    /// Multiply-accumulates of one run.
    pub macs: u64,
    /// Median time of one run.
    pub median: std::time::Duration,
}

/// What a run returned.
pub(crate) struct Outputs {
    name: &'static str,
    values: TVec<TValue>,
}

impl Outputs {
    /// The output's values.
    pub(crate) fn get(&self, index: usize) -> Result<&[f32]> {
        self.values[index]
            .try_as_plain_ram()
            .and_then(|plain| plain.as_slice::<f32>())
            .map_err(|e| internal(self.name, &e))
    }

    /// Whether every value of every output is finite.
    pub(crate) fn all_finite(&self) -> Result<bool> {
        for index in 0..self.values.len() {
            // A sum is finite only if every term is (or they overflow, which is no better).
            let magnitude: f32 = self.get(index)?.iter().map(|v| v.abs()).sum();
            if !magnitude.is_finite() {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn internal(name: &str, error: &TractError) -> Error {
    Error::new(ErrorKind::Internal, format!("graph {name}")).cause(format!("{error:#}"))
}

fn check_names(model: &InferenceModel, inputs: &[Port], outputs: &[Port]) -> Result<(), String> {
    let found = |outlets: &[OutletId]| -> Vec<String> {
        outlets
            .iter()
            .map(|&o| model.outlet_label(o).unwrap_or(&model.nodes()[o.node].name).to_owned())
            .collect()
    };
    for (kind, ports, outlets) in
        [("inputs", inputs, model.inputs.as_slice()), ("outputs", outputs, &model.outputs)]
    {
        let wanted: Vec<_> = ports.iter().map(|p| p.name).collect();
        let found = found(outlets);
        if found != wanted {
            return Err(format!("{kind} are {found:?}, not {wanted:?}"));
        }
    }
    Ok(())
}
