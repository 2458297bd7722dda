//! girasol-ops inside tract: the nodes that the bundle gives scales for run in int8, and attention, layer norms and GELUs
//! on operators in f32.
//!
//! [`rewrite`] works on the ONNX graph, before tract sees it: it takes each named node out, with its weights and the
//! activation behind it, and puts a placeholder in, with conversions where f32 meets int8. [`op`] is what replaces the
//! placeholders in tract: operators with prepacked weights, which tract's optimiser leaves alone. Between two of them
//! a tensor stays int8 and channels-last.
//!
//! [`fuse`] finds the patterns of f32 nodes, [`float`] has the operators.

mod float;
mod fuse;
mod op;
mod rewrite;

use std::collections::BTreeMap;

use girasol_model::QuantisedNode;
use girasol_ops::Kernel;
use tract_onnx::{pb::ModelProto, prelude::*, tract_hir::internal::expand};

pub(super) use float::FloatOp;
pub(super) use op::IntegerOp;

/// What of a graph runs in int8, and on which kernels.
#[derive(Clone, Copy)]
pub(crate) struct Integers<'a> {
    /// By the ONNX node's name.
    pub(crate) nodes: &'a BTreeMap<String, QuantisedNode>,
    /// The kernels.
    pub(crate) kernel: Kernel,
}

/// Parses `proto` with the named nodes and the patterns of f32 nodes replaced. Says in words what does not fit.
pub(super) fn parse(mut proto: ModelProto, integers: Integers<'_>) -> Result<InferenceModel, String> {
    let mut layers = rewrite::rewrite(&mut proto, integers.nodes)?;
    let mut fused = fuse::fuse(&mut proto)?;
    let mut model = tract_onnx::onnx()
        .model_for_proto_model(&proto)
        .map_err(|e| format!("not a readable ONNX graph: {e:#}"))?;
    for node in model.nodes_mut() {
        if let Some(layer) = layers.remove(&node.name) {
            node.op = expand(op::Placeholder::new(layer, integers.kernel));
        } else if let Some(fused) = fused.remove(&node.name) {
            node.op = expand(float::FloatPlaceholder { fused, kernel: integers.kernel });
        }
    }
    match layers.keys().chain(fused.keys()).next() {
        None => Ok(model),
        Some(name) => Err(format!("tract renamed node `{name}`")),
    }
}
