//! `manifest.json`, format 2.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::questions::Questions;

/// The manifest format that this crate reads.
pub const FORMAT: u32 = 2;

/// The whole manifest. Unknown keys are refused: a bundle that says more than we understand is not ours to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Manifest format, [`FORMAT`].
    pub format: u32,
    /// Name of the model.
    pub name: String,
    /// Version of the model.
    pub version: String,
    /// Date of its making, ISO 8601.
    pub created: String,
    /// Oldest runtime version that may run it.
    pub min_runtime: String,
    /// SPDX licence expression of the weights.
    pub licence: String,
    /// Shapes and rates.
    pub geometry: Geometry,
    /// The five graphs.
    pub graphs: Graphs,
    /// What can be heard and seen.
    pub labels: Labels,
    /// Audible label → visible labels that can make this sound.
    pub sources: BTreeMap<String, Vec<String>>,
    /// Where the scores "a matching source is in view" come from.
    #[serde(default)]
    pub in_view: InView,
    /// Vocabulary and prompts of the text decoder.
    pub text: Text,
    /// Questions that are answered from the label history; without them the text decoder answers all.
    #[serde(default)]
    pub questions: Option<Questions>,
    /// What runs in int8, and at which scales; without nodes everything runs in f32.
    pub quantisation: Quantisation,
    /// What it was trained on, in short.
    pub training: serde_json::Value,
    /// Inputs with known outputs, for the self-test.
    #[serde(default)]
    pub golden: Option<GoldenFile>,
}

/// Shapes and rates (docs/decisions/0004-graph-abi.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "named as in the decision record")]
pub struct Geometry {
    pub sample_rate: usize,
    pub snippet_samples: usize,
    pub patch_samples: usize,
    pub mel_frames: usize,
    pub mel_bins: usize,
    pub frames_per_snippet: usize,
    pub frame_width: usize,
    pub frame_height: usize,
    pub dim: usize,
    pub video_tokens: usize,
    pub audio_patches: usize,
    pub audio_tokens: usize,
    pub memory_tokens: usize,
    pub snippet_tokens: usize,
    pub window: usize,
    pub latent_layers: usize,
    pub decoder_layers: usize,
    pub decoder_context: usize,
}

impl Geometry {
    /// The geometry of format 2.
    pub const FORMAT_2: Self = Self {
        sample_rate: 16_000,
        snippet_samples: 15_360,
        patch_samples: 15_600,
        mel_frames: 96,
        mel_bins: 64,
        frames_per_snippet: 2,
        frame_width: 128,
        frame_height: 96,
        dim: 128,
        video_tokens: 12,
        audio_patches: 2,
        audio_tokens: 6,
        memory_tokens: 16,
        snippet_tokens: 8,
        window: 64,
        latent_layers: 2,
        decoder_layers: 2,
        decoder_context: 48,
    };
}

/// One ONNX file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GraphFile {
    /// File name inside the bundle.
    pub file: String,
    /// SHA-256, hexadecimal.
    pub sha256: String,
    /// Size in bytes.
    pub bytes: u64,
    /// Number of weights.
    pub parameters: u64,
    /// Multiply-accumulates of one call.
    pub macs: u64,
}

/// The five graphs of the ABI.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "named as in the decision record")]
pub struct Graphs {
    pub video_encoder: GraphFile,
    pub audio_encoder: GraphFile,
    pub combiner: GraphFile,
    pub latent: GraphFile,
    pub decoder: GraphFile,
}

impl Graphs {
    /// Name and file of each.
    #[must_use]
    pub fn all(&self) -> [(&'static str, &GraphFile); 5] {
        [
            ("video_encoder", &self.video_encoder),
            ("audio_encoder", &self.audio_encoder),
            ("combiner", &self.combiner),
            ("latent", &self.latent),
            ("decoder", &self.decoder),
        ]
    }
}

/// Integer arithmetic (docs/decisions/0005-int8-contract.md).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quantisation {
    /// How the files hold weights; informative.
    pub weights: Option<String>,
    /// How activations are held between quantised nodes; informative.
    pub activations: Option<String>,
    /// By graph, then by the ONNX node's name. A node that is not named runs in f32.
    pub nodes: BTreeMap<String, BTreeMap<String, QuantisedNode>>,
}

/// One node that runs in int8.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuantisedNode {
    /// Of each input that is not a constant, in order.
    pub inputs: Vec<Affine>,
    /// Of the output, behind the activation.
    pub output: Affine,
    /// What the node does with its sums beside rescaling them.
    pub activation: FusedActivation,
    /// Names of the nodes that follow and whose work `activation` (and the rescaling) does; the last one's output is
    /// this node's.
    #[serde(default)]
    pub fused: Vec<String>,
}

/// How an int8 tensor stands for real values: `scale * (q - zero_point)`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Affine {
    /// Distance of two neighbouring values; positive and finite.
    pub scale: f32,
    /// The value that stands for 0.
    pub zero_point: i8,
}

/// An activation at the end of a quantised node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FusedActivation {
    /// Nothing but saturation.
    None,
    /// Not below 0.
    Relu,
    /// Between 0 and 6.
    Relu6,
}

/// What can be heard and what can be seen; the order is that of the latent graph's outputs.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "said above")]
pub struct Labels {
    pub audible: Vec<Label>,
    pub visible: Vec<Label>,
}

/// One label.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Label {
    /// Stable identifier, `[a-z0-9_]+`.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// Whether it raises events unless the configuration says otherwise.
    pub enabled: bool,
    /// Whether its measured quality is too poor to rely on.
    pub experimental: bool,
    /// Operating points.
    pub thresholds: Thresholds,
    /// Snippets in a row above threshold before an event begins.
    pub min_snippets: u32,
}

/// The two operating points of a label.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// About one false alarm per hour or fewer; the default.
    pub low_false_alarm: Threshold,
    /// Best F1.
    pub best_f1: Threshold,
}

/// Which operating point to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ThresholdChoice {
    /// [`Thresholds::low_false_alarm`].
    #[default]
    LowFalseAlarm,
    /// [`Thresholds::best_f1`].
    BestF1,
}

impl Thresholds {
    /// The chosen one.
    #[must_use]
    pub fn get(&self, choice: ThresholdChoice) -> Threshold {
        match choice {
            ThresholdChoice::LowFalseAlarm => self.low_false_alarm,
            ThresholdChoice::BestF1 => self.best_f1,
        }
    }
}

/// Where the scores "a matching source is in view" come from; whichever was better on the validation part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InView {
    /// The model's own head.
    #[default]
    Head,
    /// The highest score of the visible labels that can make the sound; 0 where there are none.
    Rule,
}

/// Hysteresis: probability at which an event begins, and below which it ends; `0 < off ≤ on < 1`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "said above")]
pub struct Threshold {
    pub on: f32,
    pub off: f32,
}

/// Vocabulary of the decoder; a token's id is its index.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// Word pieces: whole words, `##` continuations, `<special>` tokens.
    pub vocab: Vec<String>,
    /// Padding token.
    pub pad: u32,
    /// Last token of a prompt: the logits after it choose the first written token.
    pub bos: u32,
    /// End of the written text.
    pub eos: u32,
    /// Unknown piece.
    pub unk: u32,
    /// Most tokens that the decoder writes.
    pub max_output: usize,
    /// Most tokens of a question that enter a prompt.
    pub max_question: usize,
    /// Most labels of each sense in a prompt's context text.
    #[serde(default)]
    pub max_known: usize,
    /// What the context text says of a sense that is not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub absent: Option<Absent>,
    /// Prompts by task.
    pub prompts: Prompts,
}

/// What the context text says of a snippet without sound, and of one without a picture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "said above")]
pub struct Absent {
    pub sound: String,
    pub picture: String,
}

impl Absent {
    /// Most tokens of either that enter a prompt.
    pub const MOST_TOKENS: usize = 3;
}

/// Prompts by task. `{label}` stands for `<hear:ID>` or `<see:ID>`, `{question}` for the question's pieces, `{known}` for
/// the context text: `<hear:ID>` and `<see:ID>` of what the newest snippet's scores claim, at the best-F1 thresholds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "said above")]
pub struct Prompts {
    pub event: Vec<String>,
    pub caption: Vec<String>,
    pub ask: Vec<String>,
}

/// Files of the self-test: generated inputs with the outputs that the reference gave for them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenFile {
    /// Index (JSON), file name inside the bundle.
    pub file: String,
    /// SHA-256 of the index, hexadecimal.
    pub sha256: String,
    /// Size of the index in bytes.
    pub bytes: u64,
    /// Tensors (little-endian), file name inside the bundle.
    pub bin: String,
    /// SHA-256 of the tensors, hexadecimal.
    pub bin_sha256: String,
    /// Size of the tensors in bytes.
    pub bin_bytes: u64,
}

impl Manifest {
    /// Checks what the types cannot say. Returns the first thing that is wrong.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if self.geometry != Geometry::FORMAT_2 {
            return Err("geometry is not the one of format 2".into());
        }
        for (list, labels) in [("audible", &self.labels.audible), ("visible", &self.labels.visible)] {
            if labels.is_empty() || labels.len() > 256 {
                return Err(format!("labels.{list} must hold 1 to 256 labels"));
            }
            let mut seen = std::collections::BTreeSet::new();
            for label in labels {
                let well_formed = !label.id.is_empty()
                    && label.id.len() <= 32
                    && label.id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
                if !well_formed {
                    return Err(format!("labels.{list}: id `{}` is not [a-z0-9_]{{1,32}}", label.id));
                }
                if !seen.insert(&label.id) {
                    return Err(format!("labels.{list}: `{}` twice", label.id));
                }
                for choice in [ThresholdChoice::LowFalseAlarm, ThresholdChoice::BestF1] {
                    let t = label.thresholds.get(choice);
                    if !(t.off > 0.0 && t.off <= t.on && t.on < 1.0) {
                        return Err(format!(
                            "labels.{list}.{}: thresholds must satisfy 0 < off <= on < 1",
                            label.id
                        ));
                    }
                }
            }
        }
        self.validate_sources()?;
        self.validate_quantisation()?;
        self.validate_text()?;
        self.questions.as_ref().map_or(Ok(()), |questions| questions.validate(&self.labels))
    }

    fn validate_sources(&self) -> Result<(), String> {
        let known = |labels: &[Label], id: &str| labels.iter().any(|l| l.id == id);
        for (heard, seen) in &self.sources {
            if !known(&self.labels.audible, heard) {
                return Err(format!("sources: `{heard}` is no audible label"));
            }
            if let Some(id) = seen.iter().find(|id| !known(&self.labels.visible, id)) {
                return Err(format!("sources.{heard}: `{id}` is no visible label"));
            }
        }
        Ok(())
    }

    fn validate_quantisation(&self) -> Result<(), String> {
        for (graph, nodes) in &self.quantisation.nodes {
            if !self.graphs.all().iter().any(|(name, _)| name == graph) {
                return Err(format!("quantisation.nodes: `{graph}` is no graph"));
            }
            for (name, node) in nodes {
                let mut scales = node.inputs.iter().chain([&node.output]).map(|affine| affine.scale);
                if !scales.all(|scale| scale.is_normal() && scale > 0.0) {
                    return Err(format!("quantisation.nodes.{graph}: scales of `{name}` must be positive"));
                }
            }
        }
        Ok(())
    }

    fn validate_text(&self) -> Result<(), String> {
        let text = &self.text;
        if text.vocab.is_empty() || text.vocab.len() > 65_536 {
            return Err("text.vocab must hold 1 to 65536 pieces".into());
        }
        if let Some(piece) = text.vocab.iter().find(|p| p.is_empty() || p.len() > 64) {
            return Err(format!("text.vocab: piece `{piece}` is empty or longer than 64 bytes"));
        }
        for (name, id) in [("pad", text.pad), ("bos", text.bos), ("eos", text.eos), ("unk", text.unk)] {
            if id as usize >= text.vocab.len() {
                return Err(format!("text.{name} is outside the vocabulary"));
            }
        }
        if text.max_output == 0 || text.max_output >= self.geometry.decoder_context {
            return Err("text.max_output must be between 1 and decoder_context - 1".into());
        }
        if text.max_question == 0 || text.max_question + text.max_output >= self.geometry.decoder_context {
            return Err("text.max_question + text.max_output must be less than decoder_context".into());
        }
        if 2 * (text.max_known + Absent::MOST_TOKENS) + text.max_output + 4 > self.geometry.decoder_context {
            return Err("text.max_known is too large for decoder_context".into());
        }
        let literal = |p: &String| !p.starts_with('{');
        let prompts = [&text.prompts.event, &text.prompts.caption, &text.prompts.ask];
        for piece in prompts.into_iter().flatten().filter(|p| literal(p)) {
            if !text.vocab.contains(piece) {
                return Err(format!("text.prompts: `{piece}` is not in the vocabulary"));
            }
        }
        Ok(())
    }
}
