//! The operators of girasol-ops as tract operators.

use std::sync::Arc;

use girasol_ops::{
    Kernel, convolution,
    depthwise::{Depthwise, DepthwiseSpec},
    elementwise::{Add, Quantise, channels_first, channels_last, dequantise},
    linear::{Linear, LinearSpec},
    semantics::QuantParams,
    window::Window,
};
use tract_onnx::{
    prelude::*,
    tract_hir::{
        infer::{InferenceResult, Solver, TensorProxy},
        internal::{
            Cost, DimLike, EvalContext, EvalOp, Expansion, LaneId, Op, OpState, ShapeFactoid, StaticName,
            TDim, TypedOp, as_op, bail, format_err, not_out_of_plan, op_as_typed_op,
        },
    },
};

use super::rewrite::{self, Layer};

/// Stands in the graph until tract knows the shapes; then becomes an [`IntegerOp`].
#[derive(Clone, Debug)]
pub(super) struct Placeholder {
    layer: Layer,
    kernel: Kernel,
}

impl Placeholder {
    pub(super) fn new(layer: Layer, kernel: Kernel) -> Self {
        Self { layer, kernel }
    }
}

impl Expansion for Placeholder {
    fn name(&self) -> StaticName {
        "GirasolInt8".into()
    }

    fn wire(&self, prefix: &str, model: &mut TypedModel, inputs: &[OutletId]) -> TractResult<TVec<OutletId>> {
        let shape = model.outlet_fact(inputs[0])?.shape.as_concrete().map(<[usize]>::to_vec);
        let shape = shape.ok_or_else(|| format_err!("the shape of its input is not fixed"))?;
        let op = IntegerOp::new(&self.layer, self.kernel, &shape)?;
        model.wire_node(prefix, op, inputs)
    }

    fn rules<'r, 'p: 'r, 's: 'r>(
        &'s self,
        solver: &mut Solver<'r>,
        inputs: &'p [TensorProxy],
        outputs: &'p [TensorProxy],
    ) -> InferenceResult {
        let (from, to) = match self.layer {
            Layer::Quantise { .. } => (f32::datum_type(), i8::datum_type()),
            Layer::Dequantise { .. } => (i8::datum_type(), f32::datum_type()),
            _ => (i8::datum_type(), i8::datum_type()),
        };
        for input in inputs {
            solver.equals(&input.datum_type, from)?;
        }
        solver.equals(&outputs[0].datum_type, to)?;
        solver.given(&inputs[0].shape, move |solver, shape| {
            let shape: Vec<usize> = shape.iter().map(TDim::to_usize).collect::<Result<_, _>>()?;
            let (_, out) = image(&self.layer, &shape)?;
            solver.equals(
                &outputs[0].shape,
                ShapeFactoid::from(out.iter().map(TDim::from).collect::<TVec<_>>()),
            )
        })
    }
}

/// An image's height, width and channels.
type Extent = [usize; 3];

/// The input image's extent, and the output's shape.
fn image(layer: &Layer, shape: &[usize]) -> TractResult<(Extent, [usize; 4])> {
    let &[1, a, b, c] = shape else { bail!("{shape:?} is not the shape of one image") };
    Ok(match layer {
        Layer::Quantise { .. } => ([b, c, a], [1, b, c, a]),
        Layer::Dequantise { .. } => ([a, b, c], [1, c, a, b]),
        Layer::Add { .. } => ([a, b, c], [1, a, b, c]),
        Layer::Convolution(conv) => {
            if conv.inputs != c {
                bail!("{c} channels come in, {} are expected", conv.inputs);
            }
            let [top, left, bottom, right] = conv.padding;
            let side = |inside: usize, before: usize, after: usize| {
                let padded = inside + before + after;
                if padded < conv.size || conv.stride == 0 {
                    bail!("an image of {a} x {b} is smaller than the convolution");
                }
                Ok((padded - conv.size) / conv.stride + 1)
            };
            ([a, b, c], [1, side(a, top, bottom)?, side(b, left, right)?, conv.outputs])
        }
    })
}

/// An operator on int8 images, with its weights packed.
#[derive(Clone, Debug)]
pub(in crate::model) struct IntegerOp {
    work: Arc<Work>,
    shape: [usize; 4],
    macs: u64,
}

#[derive(Debug)]
enum Work {
    Quantise { op: Quantise, extent: Extent, kernel: Kernel },
    Dequantise { params: QuantParams, extent: Extent },
    Pointwise(Linear),
    Convolution(convolution::Convolution),
    Depthwise { op: Depthwise, scratch: usize },
    Add { op: Add, kernel: Kernel },
}

impl IntegerOp {
    fn new(layer: &Layer, kernel: Kernel, shape: &[usize]) -> TractResult<Self> {
        let (extent, out) = image(layer, shape)?;
        let pixels = (out[1] * out[2]) as u64;
        let (work, macs) = match layer {
            &Layer::Quantise { params } => {
                (Work::Quantise { op: Quantise::new(kernel, params)?, extent, kernel }, 0)
            }
            &Layer::Dequantise { params } => (Work::Dequantise { params, extent }, 0),
            &Layer::Add { left, right, output } => {
                (Work::Add { op: Add::new(kernel, left, right, output)?, kernel }, 0)
            }
            Layer::Convolution(conv) => {
                let taps = conv.weights.len() / conv.outputs.max(1);
                (convolve(conv, kernel, extent)?, pixels * (conv.outputs * taps) as u64)
            }
        };
        Ok(Self { work: Arc::new(work), shape: out, macs })
    }

    /// The kernel that runs.
    pub(in crate::model) fn kernel(&self) -> Kernel {
        match &*self.work {
            Work::Quantise { kernel, .. } | Work::Add { kernel, .. } => *kernel,
            Work::Dequantise { .. } => Kernel::Scalar,
            Work::Pointwise(op) => op.kernel(),
            Work::Convolution(op) => op.kernel(),
            Work::Depthwise { op, .. } => op.kernel(),
        }
    }

    /// The units of the image that it makes of an f32 tensor, if that is what it does.
    pub(in crate::model) fn quantises(&self) -> Option<QuantParams> {
        match &*self.work {
            Work::Quantise { op, .. } => Some(op.params()),
            _ => None,
        }
    }

    fn scratch_len(&self) -> usize {
        match &*self.work {
            Work::Quantise { extent, .. } | Work::Dequantise { extent, .. } => extent.iter().product(),
            Work::Convolution(op) => op.scratch_len(),
            Work::Depthwise { scratch, .. } => *scratch,
            Work::Pointwise(_) | Work::Add { .. } => 0,
        }
    }

    fn datum_type(&self) -> DatumType {
        if matches!(*self.work, Work::Dequantise { .. }) { f32::datum_type() } else { i8::datum_type() }
    }

    fn run(&self, inputs: &[TValue], scratch: &mut [i8], output: &mut Tensor) -> TractResult<()> {
        if let Work::Dequantise { params, extent } = &*self.work {
            let output = slice_mut::<f32>(output)?;
            channels_first(extent[2], slice(&inputs[0])?, scratch);
            dequantise(*params, scratch, output);
            return Ok(());
        }
        let output = slice_mut::<i8>(output)?;
        match &*self.work {
            Work::Quantise { op, extent, .. } => {
                op.run(slice(&inputs[0])?, scratch);
                channels_last(extent[2], scratch, output);
            }
            Work::Dequantise { .. } => {}
            Work::Pointwise(op) => op.run(slice(&inputs[0])?, output),
            Work::Convolution(op) => op.run(slice(&inputs[0])?, scratch, output),
            Work::Depthwise { op, .. } => op.run(slice(&inputs[0])?, scratch, output),
            Work::Add { op, .. } => op.run(slice(&inputs[0])?, slice(&inputs[1])?, output),
        }
        Ok(())
    }
}

fn convolve(conv: &rewrite::Convolution, kernel: Kernel, extent: Extent) -> TractResult<Work> {
    let [height, width, channels] = extent;
    let &rewrite::Convolution { size, stride, padding, input, output, .. } = conv;
    let window = Window { height, width, channels, size, stride, padding };
    if conv.depthwise {
        let spec = DepthwiseSpec {
            window,
            weights: &taps_first(&conv.weights, conv.outputs),
            bias: &conv.bias,
            weight_scales: &conv.weight_scales,
            input,
            output,
            activation: conv.activation.clone(),
        };
        return Ok(Work::Depthwise { op: Depthwise::new(kernel, &spec)?, scratch: window.scratch_len() });
    }
    let taps = size * size;
    let reordered: Vec<i8> =
        conv.weights.chunks_exact((channels * taps).max(1)).flat_map(|w| taps_first(w, channels)).collect();
    let spec = LinearSpec {
        inputs: channels * taps,
        outputs: conv.outputs,
        weights: &reordered,
        bias: &conv.bias,
        weight_scales: &conv.weight_scales,
        input,
        output,
        activation: conv.activation.clone(),
    };
    if size == 1 && stride == 1 && padding == [0; 4] {
        return Ok(Work::Pointwise(Linear::new(kernel, &spec)?));
    }
    Ok(Work::Convolution(convolution::Convolution::new(kernel, window, &spec)?))
}

/// [channels, taps] to [taps, channels].
fn taps_first(weights: &[i8], channels: usize) -> Vec<i8> {
    let taps = weights.len() / channels.max(1);
    (0..taps).flat_map(|tap| (0..channels).map(move |channel| weights[channel * taps + tap])).collect()
}

pub(super) fn slice<D: Datum>(tensor: &Tensor) -> TractResult<&[D]> {
    tensor.try_as_plain_ram()?.as_slice::<D>()
}

pub(super) fn slice_mut<D: Datum>(tensor: &mut Tensor) -> TractResult<&mut [D]> {
    tensor.to_plain_array_view_mut::<D>()?.into_slice().ok_or_else(|| format_err!("a strided output"))
}

/// Two operators are the same only if they are one.
impl PartialEq for IntegerOp {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.work, &other.work)
    }
}

impl Eq for IntegerOp {}

impl Op for IntegerOp {
    fn name(&self) -> StaticName {
        match &*self.work {
            Work::Quantise { .. } => "Int8Quantise",
            Work::Dequantise { .. } => "Int8Dequantise",
            Work::Pointwise(_) => "Int8Pointwise",
            Work::Convolution(_) => "Int8Convolution",
            Work::Depthwise { .. } => "Int8Depthwise",
            Work::Add { .. } => "Int8Add",
        }
        .into()
    }

    fn info(&self) -> TractResult<Vec<String>> {
        Ok(vec![format!("kernel {}, {} MAC", self.kernel(), self.macs)])
    }

    op_as_typed_op!();
}

impl EvalOp for IntegerOp {
    not_out_of_plan!();

    fn state(&self, _: &EvalContext<'_>) -> TractResult<Option<Box<dyn OpState>>> {
        let output = Arc::new(Tensor::zero_dt(self.datum_type(), &self.shape)?);
        Ok(Some(Box::new(IntegerState { op: self.clone(), scratch: vec![0; self.scratch_len()], output })))
    }
}

impl TypedOp for IntegerOp {
    fn output_facts(&self, _: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        Ok(tvec!(self.datum_type().fact(self.shape)))
    }

    fn cost(&self, _: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        Ok(tvec!((Cost::FMA(i8::datum_type()), self.macs.into())))
    }

    as_op!();
}

/// An operator's buffers. They are kept from run to run, so that a run allocates nothing.
#[derive(Clone, Debug)]
struct IntegerState {
    op: IntegerOp,
    scratch: Vec<i8>,
    output: Arc<Tensor>,
}

impl OpState for IntegerState {
    fn eval(&mut self, _: &EvalContext<'_>, _: &dyn Op, inputs: TVec<TValue>) -> TractResult<TVec<TValue>> {
        // Whoever still holds the last run's result keeps it.
        if Arc::get_mut(&mut self.output).is_none() {
            self.output = Arc::new(Tensor::zero_dt(self.op.datum_type(), &self.op.shape)?);
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
