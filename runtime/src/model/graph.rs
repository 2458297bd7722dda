//! One ONNX file of the bundle, loaded into tract and checked against the frozen ABI.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use girasol_ops::semantics::QuantParams;
use tract_onnx::{
    prelude::*,
    tract_core::{
        ops::{konst::Const, source::TypedSource},
        plan::{self, SimpleState},
    },
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

/// A graph or a part of one, and which of the graph's inputs it reads.
struct Part {
    state: SimpleState<TypedFact, Box<dyn TypedOp>>,
    reads: Vec<usize>,
}

impl Part {
    fn new(model: TypedModel, reads: Vec<usize>) -> TractResult<Self> {
        Ok(Self { state: model.into_runnable()?.spawn()?, reads })
    }

    /// What it is run on: those of the graph's inputs that it reads, the held ones as they were, then what was computed.
    fn values(&self, inputs: &[Arc<Tensor>], held: &Held) -> TVec<TValue> {
        let read = self.reads.iter().map(|&index| {
            let kept = held.inputs.iter().find(|(kept, _)| *kept == index);
            TValue::from_const(Arc::clone(kept.map_or(&inputs[index], |(_, tensor)| tensor)))
        });
        read.chain(held.computed.iter().cloned()).collect()
    }
}

/// A graph ready to run, with its input tensors. The inputs are allocated once; a caller writes into them, runs, and
/// writes again.
///
/// A graph that runs many times on inputs of which some stay the same can be split ([`Self::split_at`]): what rests on
/// those alone is then computed once, by [`Self::hold`], and used by each [`Self::run_on`]. A held input that is written to
/// meanwhile is copied first.
pub(crate) struct Graph {
    name: &'static str,
    /// What rests on the held inputs alone.
    prelude: Option<Part>,
    /// Held inputs that the rest reads as they are.
    kept: Vec<usize>,
    /// Everything, or what the prelude leaves.
    rest: Part,
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
        let rest = Part::new(model, (0..inputs.len()).collect()).map_err(|e| internal(name, &e))?;
        let inputs = inputs.iter().map(Port::zeros).collect::<Result<_>>()?;
        Ok(Self { name, prelude: None, kept: Vec::new(), rest, inputs, stop: None })
    }

    /// Splits off what rests on the `held` inputs alone.
    pub(crate) fn split_at(mut self, held: &[usize]) -> Result<Self> {
        let (prelude, rest) = split(self.rest.state.model(), held).map_err(|e| internal(self.name, &e))?;
        self.kept = held.iter().copied().filter(|index| rest.reads.contains(index)).collect();
        self.prelude = Some(prelude);
        self.rest = rest;
        Ok(self)
    }

    /// From now on the first input is the int8 image in units of `params` that the graph would make of it, if it makes
    /// one and nothing else of it; false if not.
    pub(crate) fn take_int8(&mut self, params: QuantParams) -> Result<bool> {
        let wrong = |e: TractError| internal(self.name, &e);
        let Some(model) = without_entry(self.rest.state.model(), params).map_err(wrong)? else {
            return Ok(false);
        };
        let fact = model.input_fact(0).map_err(wrong)?;
        let shape = fact.shape.as_concrete().unwrap_or_default();
        let input = Tensor::zero_dt(fact.datum_type, shape).map_err(wrong)?;
        let reads = self.rest.reads.clone();
        self.rest = Part::new(model, reads).map_err(wrong)?;
        self.inputs[0] = Arc::new(input);
        Ok(true)
    }

    /// The input's values, to be written.
    pub(crate) fn input(&mut self, index: usize) -> Result<&mut [f32]> {
        self.typed_input(index)
    }

    /// The input's values, to be written.
    pub(crate) fn input_i8(&mut self, index: usize) -> Result<&mut [i8]> {
        self.typed_input(index)
    }

    /// The input's values, to be written.
    pub(crate) fn input_i64(&mut self, index: usize) -> Result<&mut [i64]> {
        self.typed_input(index)
    }

    fn typed_input<D: Datum>(&mut self, index: usize) -> Result<&mut [D]> {
        if self.kept.contains(&index) && Arc::get_mut(&mut self.inputs[index]).is_none() {
            // Whoever holds it keeps it as it was.
            self.inputs[index] = Arc::new(Tensor::clone(&self.inputs[index]));
        }
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
        self.nodes().filter(|n| n.op_as::<IntegerOp>().is_some()).count()
    }

    /// The nodes that it runs.
    fn nodes(&self) -> impl Iterator<Item = &TypedNode> {
        self.prelude.iter().chain([&self.rest]).flat_map(|part| {
            let (model, order) = (part.state.model(), part.state.plan().order_without_consts());
            order.iter().map(|&id| model.node(id))
        })
    }

    /// Times each node over `iterations` runs on the current inputs, those of the prelude too.
    pub(crate) fn profile(&mut self, iterations: usize, clock: &dyn Clock) -> Result<Vec<NodeCost>> {
        let held = self.hold()?;
        let mut costs = Vec::new();
        let nothing = Held::default();
        for (part, held) in self.prelude.iter_mut().map(|p| (p, &nothing)).chain([(&mut self.rest, &held)]) {
            let inputs = part.values(&self.inputs, held);
            let of_part = profile(self.name, part, &inputs, iterations, clock);
            costs.extend(of_part.map_err(|e| internal(self.name, &e))?);
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
        self.nodes().map(|n| n.op().name().to_string()).collect()
    }

    /// From now on nothing more is run once `stop` is set.
    pub(crate) fn give_up_at(&mut self, stop: &Arc<AtomicBool>) {
        self.stop = Some(Arc::clone(stop));
    }

    /// Computes what rests on the held inputs alone, as they are now. Of a graph that was not split that is nothing.
    pub(crate) fn hold(&mut self) -> Result<Held> {
        self.check_stop()?;
        let Some(prelude) = &mut self.prelude else { return Ok(Held::default()) };
        let values = prelude.values(&self.inputs, &Held::default());
        let computed = prelude.state.run(values).map_err(|e| internal(self.name, &e))?;
        let inputs = self.kept.iter().map(|&index| (index, Arc::clone(&self.inputs[index]))).collect();
        Ok(Held { computed, inputs })
    }

    /// Runs the graph on the current inputs, the held ones as they were at [`Self::hold`].
    pub(crate) fn run_on(&mut self, held: &Held) -> Result<Outputs> {
        self.check_stop()?;
        let inputs = self.rest.values(&self.inputs, held);
        let values = self.rest.state.run(inputs).map_err(|e| internal(self.name, &e))?;
        Ok(Outputs { name: self.name, values })
    }

    /// Runs the graph on the current inputs.
    pub(crate) fn run(&mut self) -> Result<Outputs> {
        let held = self.hold()?;
        self.run_on(&held)
    }

    fn check_stop(&self) -> Result<()> {
        if self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return Err(Error::new(ErrorKind::Unavailable, format!("{}: given up for the end", self.name)));
        }
        Ok(())
    }
}

/// What a graph computed from its held inputs, and those that are read as they are, by their index.
#[derive(Default)]
pub(crate) struct Held {
    computed: TVec<TValue>,
    inputs: TVec<(usize, Arc<Tensor>)>,
}

/// The graph without the conversion of its first input to int8 in units of `params`; `None` if it does not begin so.
fn without_entry(model: &TypedModel, params: QuantParams) -> TractResult<Option<TypedModel>> {
    let input = model.inputs[0];
    let [reader] = model.outlet_successors(input) else { return Ok(None) };
    let quantises = model.node(reader.node).op_as::<IntegerOp>().and_then(IntegerOp::quantises);
    if quantises != Some(params) || model.outputs.contains(&input) {
        return Ok(None);
    }
    let mut model = model.clone();
    let converted = OutletId::new(reader.node, 0);
    let fact = model.outlet_fact(converted)?.clone();
    for inlet in model.outlet_successors(converted).to_vec() {
        model.add_edge(input, inlet)?;
    }
    let source = model.node_mut(input.node);
    source.outputs[0].successors.retain(|inlet| inlet.node != reader.node);
    source.op = Box::new(TypedSource::new(fact.clone()));
    model.set_outlet_fact(input, fact)?;
    model.compact()?;
    Ok(Some(model))
}

/// Cuts an optimised graph in two. The first makes every tensor that rests on the `held` inputs alone and that the rest
/// reads; the second has these as further inputs, in the same order.
fn split(model: &TypedModel, held: &[usize]) -> TractResult<(Part, Part)> {
    let held_sources: Vec<OutletId> = held.iter().map(|&index| model.inputs[index]).collect();
    let mut once = vec![false; model.nodes().len()];
    for id in model.eval_order()? {
        let of = |node: usize| once[node] || model.node(node).op_is::<Const>();
        let node = model.node(id);
        once[id] = if node.op_is::<TypedSource>() {
            held_sources.iter().any(|source| source.node == id)
        } else {
            node.inputs.iter().all(|input| of(input.node)) && node.inputs.iter().any(|i| once[i.node])
        };
    }
    let computed = |id: &usize| once[*id] && !model.node(*id).op_is::<TypedSource>();
    let mut cut = Vec::new();
    for id in model.eval_order()?.into_iter().filter(computed) {
        for (slot, output) in model.node(id).outputs.iter().enumerate() {
            let outlet = OutletId::new(id, slot);
            if model.outputs.contains(&outlet) || output.successors.iter().any(|s| !once[s.node]) {
                cut.push(outlet);
            }
        }
    }
    let (mut prelude, mut rest) = (model.clone(), model.clone());
    prelude.select_output_outlets(&cut)?;
    for &outlet in &cut {
        let fact = model.outlet_fact(outlet)?.without_value();
        let source = rest.add_source(format!("{}.held", model.node(outlet.node).name), fact)?;
        for &reader in model.outlet_successors(outlet).iter().filter(|reader| !once[reader.node]) {
            rest.add_edge(source, reader)?;
        }
        for output in rest.outputs.iter_mut().filter(|output| **output == outlet) {
            *output = source;
        }
    }
    Ok((part(prelude, model.inputs.len())?, part(rest, model.inputs.len())?))
}

/// Leaves out those of the graph's `inputs` that no output needs: tract would keep what it is given for them.
fn part(mut model: TypedModel, inputs: usize) -> TractResult<Part> {
    let needed = model.eval_order()?;
    let reads: Vec<usize> = (0..inputs).filter(|&index| needed.contains(&model.inputs[index].node)).collect();
    let further = model.inputs.split_off(inputs);
    model.inputs = reads.iter().map(|&index| model.inputs[index]).chain(further).collect();
    Part::new(model, reads)
}

/// Times each node of one part of a graph.
fn profile(
    name: &'static str,
    part: &mut Part,
    inputs: &TVec<TValue>,
    iterations: usize,
    clock: &dyn Clock,
) -> TractResult<Vec<NodeCost>> {
    let mut times = vec![Vec::with_capacity(iterations); part.state.model().nodes().len()];
    for _ in 0..iterations {
        part.state.run_plan_with_eval(inputs.clone(), |context, state, node, input| {
            let start = clock.now();
            let result = plan::eval(context, state, node, input);
            times[node.id].push(u64::try_from(clock.now().since(start)).unwrap_or(0));
            result
        })?;
    }
    let model = part.state.model();
    let mut costs = Vec::new();
    for (node, times) in model.nodes().iter().zip(&mut times).filter(|(_, times)| !times.is_empty()) {
        times.sort_unstable();
        let cost = node.op.cost(&model.node_input_facts(node.id)?)?;
        let products = cost.iter().filter(|(cost, _)| matches!(cost, Cost::FMA(_)));
        costs.push(NodeCost {
            graph: name,
            node: node.name.clone(),
            operator: node.op().name().to_string(),
            kernel: own_kernel(node).map_or("tract", girasol_ops::Kernel::name),
            macs: products.filter_map(|(_, count)| u64::try_from(count.to_i64().ok()?).ok()).sum(),
            median: std::time::Duration::from_nanos(times[times.len() / 2]),
        });
    }
    Ok(costs)
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
