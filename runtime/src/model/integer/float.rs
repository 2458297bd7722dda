//! The operators of girasol-ops that stay in f32, as tract operators.

use std::sync::Arc;

use girasol_ops::{
    Kernel,
    attention::{Attention, Operands},
    pointwise::{Gelu, LayerNorm, Softmax},
};
use tract_onnx::{
    prelude::*,
    tract_hir::{
        infer::{InferenceResult, Solver, TensorProxy},
        internal::{
            Cost, EvalContext, EvalOp, Expansion, LaneId, Op, OpState, StaticName, TDim, TypedOp, as_op,
            bail, format_err, not_out_of_plan, op_as_typed_op,
        },
    },
};

use super::{fuse::Fused, op::slice, op::slice_mut};

/// Stands in the graph until tract knows the shapes; then becomes a [`FloatOp`].
#[derive(Clone, Debug)]
pub(super) struct FloatPlaceholder {
    pub(super) fused: Fused,
    pub(super) kernel: Kernel,
}

impl Expansion for FloatPlaceholder {
    fn name(&self) -> StaticName {
        "GirasolF32".into()
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let shapes = inputs
            .iter()
            .map(|&input| {
                let shape = model.outlet_fact(input)?.shape.as_concrete().map(<[usize]>::to_vec);
                shape.ok_or_else(|| format_err!("the shape of an input is not fixed"))
            })
            .collect::<TractResult<Vec<_>>>()?;
        let op = FloatOp::new(&self.fused, self.kernel, &shapes)?;
        model.wire_node(prefix, op, inputs)
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        for input in inputs {
            solver.equals(&input.datum_type, f32::datum_type())?;
        }
        solver.equals(&outputs[0].datum_type, f32::datum_type())?;
        solver.equals(&outputs[0].shape, &inputs[0].shape)
    }
}

/// An operator in f32 whose result has the shape of its first input.
#[derive(Clone, Debug)]
pub(in crate::model) struct FloatOp {
    work: Arc<Work>,
    shape: TVec<usize>,
}

#[derive(Debug)]
enum Work {
    LayerNorm(LayerNorm),
    Softmax(Softmax),
    Gelu(Gelu),
    /// The keys' pieces come first. `groups`: a last input is what groups of keys have in common.
    Attention {
        op: Attention,
        pieces: Vec<Piece>,
        bias: Bias,
        groups: bool,
    },
}

/// A part of a tensor: the `index`-th of `of`.
#[derive(Clone, Copy, Debug)]
struct Piece {
    index: usize,
    of: usize,
}

/// How a bias of [own_heads, own_keys] is spread over heads and keys.
#[derive(Clone, Copy, Debug)]
struct Bias {
    heads: usize,
    keys: usize,
    own_heads: usize,
    own_keys: usize,
}

impl FloatOp {
    fn new(fused: &Fused, kernel: Kernel, shapes: &[Vec<usize>]) -> TractResult<Self> {
        let work = match fused {
            Fused::LayerNorm { weight, bias, epsilon } => {
                let op = LayerNorm::new(kernel, weight, bias, *epsilon)?;
                if shapes[0].last() != Some(&op.width()) {
                    bail!("rows of {:?} are not {} long", shapes[0], op.width());
                }
                Work::LayerNorm(op)
            }
            Fused::Softmax => Work::Softmax(Softmax::new(kernel, shapes[0].last().copied().unwrap_or(0))?),
            Fused::Gelu => Work::Gelu(Gelu::new(kernel)?),
            Fused::Attention { heads, scale, layers, group } => {
                attention(kernel, *heads, *scale, layers, *group, shapes)?
            }
        };
        Ok(Self { work: Arc::new(work), shape: shapes[0].iter().copied().collect() })
    }

    /// The kernel that runs.
    pub(in crate::model) fn kernel(&self) -> Kernel {
        match &*self.work {
            Work::LayerNorm(op) => op.kernel(),
            Work::Softmax(op) => op.kernel(),
            Work::Gelu(op) => op.kernel(),
            Work::Attention { op, .. } => op.kernel(),
        }
    }

    fn scratch_len(&self) -> usize {
        match &*self.work {
            Work::Attention { op, bias, .. } => op.scratch_len() + bias.spread_len(),
            _ => 0,
        }
    }

    fn run(&self, inputs: &[TValue], scratch: &mut [f32], output: &mut Tensor) -> TractResult<()> {
        let (input, output) = (slice::<f32>(&inputs[0])?, slice_mut::<f32>(output)?);
        match &*self.work {
            Work::LayerNorm(op) => op.run(input, output),
            Work::Softmax(op) => op.run(input, output),
            Work::Gelu(op) => op.run(input, output),
            Work::Attention { op, pieces, bias, groups } => {
                let mut found = TVec::<&[f32]>::new();
                for (piece, tensor) in pieces.iter().zip(&inputs[1..]) {
                    let values = slice::<f32>(tensor)?;
                    let len = values.len() / piece.of;
                    found.push(&values[piece.index * len..][..len]);
                }
                let (keys, values) = found.split_at(pieces.len() / 2);
                let of_groups = if *groups { slice(&inputs[2 + pieces.len()])? } else { &[] };
                let (spread, scratch) = scratch.split_at_mut(bias.spread_len());
                let bias = bias.spread(slice(&inputs[1 + pieces.len()])?, spread);
                op.run(&Operands { query: input, keys, values, of_groups, bias }, scratch, output);
            }
        }
        Ok(())
    }
}

/// Inputs: queries, pieces of keys, as many of values, bias, values of groups if there are groups.
fn attention(
    kernel: Kernel,
    heads: usize,
    scale: f32,
    layers: &[Option<usize>],
    group: Option<usize>,
    shapes: &[Vec<usize>],
) -> TractResult<Work> {
    let &[1, queries, width] = &shapes[0][..] else { bail!("queries of shape {:?}", shapes[0]) };
    let (mut pieces, mut rows) = (Vec::new(), Vec::new());
    for (shape, &layer) in shapes[1..].iter().zip(layers) {
        let (index, of) = layer.map_or((0, 1), |layer| (layer, shape.get(1).copied().unwrap_or(0)));
        if shape.first() != Some(&1) || shape.last() != Some(&width) || index >= of {
            bail!("keys or values of shape {shape:?}");
        }
        pieces.push(Piece { index, of });
        rows.push(shape.iter().product::<usize>() / of / width);
    }
    let (keys, values) = rows.split_at(rows.len() / 2);
    if heads == 0 || width % heads != 0 || keys != values {
        bail!("{heads} heads on {width} values; keys in pieces of {keys:?} rows, values of {values:?}");
    }
    let keys = keys.iter().sum();
    let shape = shapes.get(1 + layers.len()).map_or(&[][..], |shape| shape);
    let (&[1, own_heads, 1, own_keys] | &[1, own_heads, 1, 1, own_keys]) = shape else {
        bail!("a bias of shape {shape:?}")
    };
    if (own_heads != 1 && own_heads != heads) || (own_keys != 1 && own_keys != keys) {
        bail!("a bias of shape {shape:?} for {heads} heads and {keys} keys");
    }
    let mut op = Attention::new(kernel, queries, heads, width / heads, keys, scale)?;
    if let Some(group) = group {
        op = op.in_groups(group)?;
        let shape = shapes.get(2 + layers.len()).map_or(&[][..], |shape| shape);
        if shape != [1, keys / group, width] {
            bail!("values of groups of shape {shape:?} for {keys} keys in groups of {group}");
        }
    }
    Ok(Work::Attention {
        op,
        pieces,
        bias: Bias { heads, keys, own_heads, own_keys },
        groups: group.is_some(),
    })
}

impl Bias {
    /// Scratch values that spreading needs; none where nothing is to be spread.
    fn spread_len(self) -> usize {
        if (self.own_heads, self.own_keys) == (self.heads, self.keys) { 0 } else { self.heads * self.keys }
    }

    /// The bias of each head and key: `bias` itself or, spread, `to`.
    fn spread<'a>(self, bias: &'a [f32], to: &'a mut [f32]) -> &'a [f32] {
        if to.is_empty() {
            return bias;
        }
        for (head, row) in to.chunks_exact_mut(self.keys).enumerate() {
            let bias = &bias[head % self.own_heads * self.own_keys..][..self.own_keys];
            row.iter_mut().zip(bias.iter().cycle()).for_each(|(to, &from)| *to = from);
        }
        to
    }
}

/// Two operators are the same only if they are one.
impl PartialEq for FloatOp {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.work, &other.work)
    }
}

impl Eq for FloatOp {}

impl Op for FloatOp {
    fn name(&self) -> StaticName {
        match &*self.work {
            Work::LayerNorm(_) => "F32LayerNorm",
            Work::Softmax(_) => "F32Softmax",
            Work::Gelu(_) => "F32Gelu",
            Work::Attention { .. } => "F32SoftmaxAttention",
        }
        .into()
    }

    op_as_typed_op!();
}

impl EvalOp for FloatOp {
    not_out_of_plan!();

    fn state(&self, _: &EvalContext<'_>) -> TractResult<Option<Box<dyn OpState>>> {
        let output = Arc::new(Tensor::zero::<f32>(&self.shape)?);
        Ok(Some(Box::new(FloatState { op: self.clone(), scratch: vec![0.0; self.scratch_len()], output })))
    }
}

impl TypedOp for FloatOp {
    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(f32::fact(&self.shape)))
    }

    fn cost(&self, _: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let macs = match &*self.work {
            Work::Attention { op, .. } => op.macs(),
            _ => 0,
        };
        Ok(tvec!((Cost::FMA(f32::datum_type()), macs.into())))
    }

    as_op!();
}

/// An operator's buffers. They are kept from run to run, so that a run allocates nothing.
#[derive(Clone, Debug)]
struct FloatState {
    op: FloatOp,
    scratch: Vec<f32>,
    output: Arc<Tensor>,
}

impl OpState for FloatState {
    fn eval(&mut self, _: &EvalContext<'_>, _: &dyn Op, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        // Whoever still holds the last run's result keeps it.
        if Arc::get_mut(&mut self.output).is_none() {
            self.output = Arc::new(Tensor::zero::<f32>(&self.op.shape)?);
        }
        let output = Arc::get_mut(&mut self.output).ok_or_else(|| format_err!("a new tensor is in use"))?;
        self.op.run(&inputs, &mut self.scratch, output)?;
        Ok(tvec!(TValue::from_const(Arc::clone(&self.output))))
    }

    /// Nothing is carried from one run to the next.
    fn reset_lanes(&mut self, _: &[LaneId]) -> TractResult<()> {
        Ok(())
    }
}
