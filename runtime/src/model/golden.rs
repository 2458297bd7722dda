//! Self-test: runs the bundle's golden snippets and compares with what the reference runtime gave.
//!
//! A bundle that passes computes here what it computed where it was made; one that does not (another CPU's kernel gone
//! wrong, a damaged optimiser, a bundle made for other operators) must not be put to work.

use std::collections::BTreeMap;

use girasol_model::Bundle;
use serde::Deserialize;
use tract_onnx::prelude::f16;

use super::{FRAME_VALUES, FRAMES, FrameInput, G, Input, MEL_VALUES, Model, SNIPPET_SECONDS};
use crate::{Error, ErrorKind, Result, clock::MonoTime};

/// Edge of the square of equal pixels that stands in the file as one.
const PIXEL_BLOCK: usize = 8;

/// What the self-test found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SelfTest {
    /// Snippets run.
    pub snippets: usize,
    /// Sentences written.
    pub sentences: usize,
    /// Largest absolute difference of a probability or predicted token value.
    pub max_difference: f32,
    /// What is allowed.
    pub tolerance: f32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Index {
    #[allow(dead_code, reason = "named in the format, same as the manifest's")]
    format: u32,
    #[allow(dead_code, reason = "named in the format, the manifest says it too")]
    bin: String,
    snippets: usize,
    tolerance: f32,
    tensors: BTreeMap<String, TensorInfo>,
    decodes: Vec<Decode>,
    /// What comes out instead where the manifest's quantised nodes run in int8.
    int8: Option<Results>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Results {
    tensors: BTreeMap<String, TensorInfo>,
    decodes: Vec<Decode>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TensorInfo {
    dtype: String,
    shape: Vec<usize>,
    offset: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Decode {
    prompt: Vec<u32>,
    tokens: Vec<u32>,
}

struct Golden {
    /// With the results that fit the model's arithmetic.
    index: Index,
    bytes: Vec<u8>,
    path: String,
}

impl Golden {
    fn open(bundle: &Bundle, int8: bool) -> Result<Option<Self>> {
        let Some(files) = &bundle.manifest().golden else { return Ok(None) };
        let path = bundle.dir().join(&files.file).display().to_string();
        let mut index: Index = serde_json::from_slice(&bundle.read(&files.file, &files.sha256)?)
            .map_err(|e| Error::new(ErrorKind::Data, path.clone()).cause(e))?;
        if int8 {
            let results = index.int8.take().ok_or_else(|| {
                Error::new(
                    ErrorKind::Data,
                    format!("{path}: no results in int8, but the manifest has quantised nodes"),
                )
                .help("make the bundle again, or set model.arithmetic = \"f32\"")
            })?;
            index.tensors.extend(results.tensors);
            index.decodes = results.decodes;
        }
        let bytes = bundle.read(&files.bin, &files.bin_sha256)?;
        Ok(Some(Self { index, bytes, path }))
    }

    fn wrong(&self, what: impl std::fmt::Display) -> Error {
        Error::new(ErrorKind::Data, format!("{}: {what}", self.path))
    }

    /// One snippet's values of a tensor, as f32.
    fn row(&self, name: &str, snippet: usize) -> Result<Vec<f32>> {
        let info = self.index.tensors.get(name).ok_or_else(|| self.wrong(format!("no tensor `{name}`")))?;
        let count: usize = info.shape.iter().skip(1).product();
        let size = match info.dtype.as_str() {
            "f32" => 4,
            "f16" => 2,
            "u8" => 1,
            other => return Err(self.wrong(format!("tensor `{name}` has unknown type `{other}`"))),
        };
        let at = info.offset + snippet * count * size;
        let bytes = self
            .bytes
            .get(at..at + count * size)
            .ok_or_else(|| self.wrong(format!("`{name}` is cut short")))?;
        Ok(match size {
            4 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            2 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            _ => bytes.iter().map(|&b| f32::from(b)).collect(),
        })
    }

    /// The frame tensors of a snippet; the difference channel refers to the last present frame.
    fn frames(&self, snippet: usize, previous: &mut Option<Vec<f32>>) -> Result<[Option<Vec<f32>>; FRAMES]> {
        let pixels = self.row("pixels", snippet)?;
        let present = self.row("frame_present", snippet)?;
        let per_frame = pixels.len() / FRAMES;
        if per_frame * PIXEL_BLOCK * PIXEL_BLOCK != G.frame_width * G.frame_height * 3 {
            return Err(self.wrong("`pixels` has another geometry"));
        }
        let mut frames = [const { None }; FRAMES];
        for (k, small) in pixels.chunks_exact(per_frame).enumerate() {
            if present[k] == 1.0 {
                frames[k] = Some(frame_tensor(small, previous));
            }
        }
        Ok(frames)
    }
}

/// Decision 0003 on pixels that each stand for a block of 8 × 8.
fn frame_tensor(small: &[f32], previous: &mut Option<Vec<f32>>) -> Vec<f32> {
    let plane = G.frame_width * G.frame_height;
    let mut out = vec![0.0; FRAME_VALUES];
    let mut luma = vec![0.0; plane];
    for y in 0..G.frame_height {
        for x in 0..G.frame_width {
            let from = (y / PIXEL_BLOCK * (G.frame_width / PIXEL_BLOCK) + x / PIXEL_BLOCK) * 3;
            let at = y * G.frame_width + x;
            let rgb = [small[from], small[from + 1], small[from + 2]];
            for (channel, v) in rgb.iter().enumerate() {
                out[channel * plane + at] = (v - 127.0) / 128.0;
            }
            luma[at] = ((77.0 * rgb[0] + 150.0 * rgb[1] + 29.0 * rgb[2] + 128.0) / 256.0).floor();
        }
    }
    if let Some(before) = previous {
        for (d, (now, then)) in out[3 * plane..].iter_mut().zip(luma.iter().zip(before.iter())) {
            *d = (now - then) / 128.0;
        }
    }
    *previous = Some(luma);
    out
}

impl Model {
    /// Runs the bundle's golden snippets from a fresh state and leaves a fresh state behind. `Ok(None)` if the bundle
    /// has none; an error if the results differ.
    pub fn self_test(&mut self, bundle: &Bundle) -> Result<Option<SelfTest>> {
        let Some(golden) = Golden::open(bundle, self.arithmetic().int8_nodes > 0)? else { return Ok(None) };
        self.reset()?;
        let result = self.run_golden(&golden);
        self.reset()?;
        result.map(Some)
    }

    fn run_golden(&mut self, golden: &Golden) -> Result<SelfTest> {
        let tolerance = golden.index.tolerance;
        let mut max_difference = 0.0f32;
        let mut previous = None;
        let mut start = MonoTime::default();
        for snippet in 0..golden.index.snippets {
            let mel = golden.row("mel", snippet)?;
            let heard = golden.row("heard", snippet)?[0] == 1.0 && mel.len() == MEL_VALUES;
            let frames = golden.frames(snippet, &mut previous)?;
            let offsets = golden.row("frame_offset", snippet)?;
            let dt = golden.row("dt", snippet)?[0];
            if snippet > 0 {
                start = start + std::time::Duration::from_secs_f32(dt.clamp(0.0, 1e6));
            }
            let input = Input {
                start,
                dt: if snippet == 0 { SNIPPET_SECONDS } else { dt },
                mel: heard.then_some(&mel[..]),
                frames: [0, 1].map(|k: usize| frames[k].as_deref().map(FrameInput::Values)),
                frame_offset: [offsets[0], offsets[1]],
            };
            let out = self.step(&input)?;
            for (name, scores) in
                [("audible", &out.audible), ("visible", &out.visible), ("source", &out.source)]
            {
                for (logit, p) in golden.row(name, snippet)?.iter().zip(scores) {
                    max_difference = max_difference.max((super::sigmoid(*logit) - p).abs());
                }
            }
            let predicted = self.predicted.as_ref().map_or(&[][..], |p| &p[..]);
            for (wanted, got) in golden.row("next_tokens", snippet)?.iter().zip(predicted) {
                max_difference = max_difference.max((wanted - got).abs());
            }
        }
        // `max` passes over NaN, so a broken state is looked for by its counter.
        if max_difference > tolerance || self.output.reset {
            return Err(golden
                .wrong(format!("self-test failed: results differ by {max_difference}, allowed is {tolerance}"))
                .help("the bundle does not compute here what it was made to: install it again, or report this CPU"));
        }
        for decode in &golden.index.decodes {
            let (tokens, _) = self.decoder.rewrite(&decode.prompt, &self.window, self.now)?;
            if tokens != decode.tokens {
                return Err(golden
                    .wrong(format!("self-test failed: wrote {tokens:?} instead of {:?}", decode.tokens))
                    .help("install the bundle again, or report this CPU"));
            }
        }
        let sentences = golden.index.decodes.len();
        Ok(SelfTest { snippets: golden.index.snippets, sentences, max_difference, tolerance })
    }
}
