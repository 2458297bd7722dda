//! The audio-video model, one snippet at a time, through tract.
//!
//! Shapes and the meaning of every tensor are frozen in docs/decisions/0004-graph-abi.md. The graphs are pure; all
//! state lives here, has a constant size and is bounded in time by the window of 64 snippets and in value by the
//! normalised memory. Any value that is not finite resets the state and is counted.

mod decoder;
mod frame;
mod golden;
mod graph;
mod history;
mod integer;
mod known;
mod profile;
mod surprise;
mod window;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use girasol_model::{Bundle, Geometry, GraphFile, Manifest};
use girasol_ops::Kernel;

pub use crate::event::Sentence;
pub use decoder::Prompt;
pub use frame::FrameInput;
pub use golden::SelfTest;
pub use graph::NodeCost;
pub use profile::{StageCost, median_time};

use self::{
    decoder::{Decoder, Writing},
    frame::FrameEntry,
    graph::{Graph, Port},
    history::History,
    integer::Integers,
    surprise::{Surprise, prediction_error},
    window::{WINDOW, Window},
};
pub use crate::timeline::snippet::{FRAMES, SNIPPET_SECONDS};
use crate::{
    Error, ErrorKind, Result,
    clock::MonoTime,
    frontend::{
        mel::{MEL_BINS, MEL_FRAMES, PATCH_SAMPLES},
        video::TENSOR_VALUES,
    },
    timeline::snippet::SNIPPET_SAMPLES,
};

const G: Geometry = Geometry::FORMAT_2;
/// Values of one frame's input tensor: [4, 96, 128].
pub const FRAME_VALUES: usize = TENSOR_VALUES;
/// Values of one log-mel patch: [96, 64].
pub const MEL_VALUES: usize = MEL_FRAMES * MEL_BINS;

// The frontends and the timeline make what the graphs of format 2 take.
const _: () = assert!(
    FRAMES == G.frames_per_snippet
        && FRAME_VALUES == 4 * G.frame_height * G.frame_width
        && MEL_FRAMES == G.mel_frames
        && MEL_BINS == G.mel_bins
        && PATCH_SAMPLES == G.patch_samples
        && SNIPPET_SAMPLES == G.snippet_samples
);

const HALF_PATCH: usize = MEL_VALUES / 2;
/// Patches of sound that a snippet without gaps before it is heard by, one every half snippet.
pub const PATCHES: usize = G.audio_patches;
const TOKEN_BLOCK: usize = G.snippet_tokens * G.dim;
/// Of the sound's two patches, the place of the one that begins half a snippet early, and of the snippet's own.
const PATCH_EARLY: usize = 0;
const PATCH_OWN: usize = 1;
/// Seconds that `dt` may be off a snippet's length where nothing is left out.
const GAPLESS: f32 = 1e-3;

/// What a snippet brings to the model. A modality that is absent is `None`.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// Start of the snippet on the timeline.
    pub start: MonoTime,
    /// Seconds since the start of the previous snippet given to the model; [`SNIPPET_SECONDS`] without gaps.
    pub dt: f32,
    /// Log-mel patch, [`MEL_VALUES`] values.
    pub mel: Option<&'a [f32]>,
    /// Frames.
    pub frames: [Option<FrameInput<'a>>; FRAMES],
    /// Each frame's time in seconds from the snippet's start.
    pub frame_offset: [f32; FRAMES],
}

/// What the model says of a snippet. Probabilities are in the order of the manifest's labels.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// The label is heard.
    pub audible: Vec<f32>,
    /// The label is seen.
    pub visible: Vec<f32>,
    /// A visible thing that can make this sound is in view; per audible label.
    pub source: Vec<f32>,
    /// Prediction error as a z-score; `None` while it is undefined.
    pub surprise: Option<f32>,
    /// The state was found broken and reset in this step; the probabilities are all 0.
    pub reset: bool,
}

/// What the model computes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arithmetic {
    /// Nodes of all graphs that run in int8; 0 if the bundle has no activation scales, or by configuration.
    pub int8_nodes: usize,
    /// The integer kernels, or `tract` if everything runs in f32.
    pub kernel: &'static str,
}

/// An answer, and what it rests on.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The text, and how sure it is: the geometric mean of its tokens' probabilities where the decoder wrote it; what a
    /// score says where it comes from the history of scores (docs/reference/mqtt.md). An empty text when the window was
    /// forgotten (a reset) while it was being written.
    pub sentence: Sentence,
    /// Start of the oldest snippet in the window.
    pub from: MonoTime,
    /// End of the newest.
    pub to: MonoTime,
    /// Number of snippets.
    pub snippets: usize,
}

/// An answer or a caption in the making. It rests on the window as it was at its beginning.
pub struct Asking(Task);

enum Task {
    /// From the history of scores, at once.
    Known(Answer),
    /// By the decoder, a token at a time.
    Written(Box<Writing>),
}

/// What the window covers when no snippet is missing.
const LAST_MINUTE: Duration = Duration::from_millis(960 * WINDOW as u64);

/// The model with its state.
pub struct Model {
    manifest: Manifest,
    bundle_id: String,
    kernel: Kernel,
    video: Graph,
    entry: FrameEntry,
    audio: Graph,
    combiner: Graph,
    latent: Graph,
    decoder: Decoder,
    window: Window,
    /// The last half of the log-mel patch of the newest snippet that had one.
    before: Box<[f32; HALF_PATCH]>,
    /// Whether that was the previous snippet.
    heard: bool,
    /// Where the bundle has a table of questions.
    history: Option<History>,
    surprise: Surprise,
    /// Prediction of the next snippet's tokens, when the last step made one.
    predicted: Option<Box<[f32; TOKEN_BLOCK]>>,
    output: Output,
    now: MonoTime,
    resets: u64,
}

impl Model {
    /// Loads and optimises the five graphs, on the fastest integer kernels of this CPU.
    pub fn load(bundle: &Bundle) -> Result<Self> {
        Self::load_on(bundle, Kernel::best())
    }

    /// [`Self::load`] on integer kernels of choice. All of them compute the same, bit for bit.
    pub fn load_on(bundle: &Bundle, kernel: Kernel) -> Result<Self> {
        let manifest = bundle.manifest().clone();
        let (audible, visible) = (manifest.labels.audible.len(), manifest.labels.visible.len());
        let graphs = &manifest.graphs;
        let (d, m) = (G.dim, G.snippet_tokens);
        let mut video = load(
            bundle,
            kernel,
            "video_encoder",
            &graphs.video_encoder,
            &[Port::f32("frame", [1, 4, G.frame_height, G.frame_width])],
            &[Port::f32("tokens", [1, G.video_tokens, d])],
        )?;
        let entry = FrameEntry::new(&mut video, kernel)?;
        let audio = load(
            bundle,
            kernel,
            "audio_encoder",
            &graphs.audio_encoder,
            &[Port::f32("mel", [1, G.mel_frames, G.mel_bins])],
            &[Port::f32("tokens", [1, G.audio_tokens, d])],
        )?;
        let combiner = load(
            bundle,
            kernel,
            "combiner",
            &graphs.combiner,
            &[
                Port::f32("video_tokens", [1, FRAMES, G.video_tokens, d]),
                Port::f32("audio_tokens", [1, PATCHES, G.audio_tokens, d]),
                Port::f32("frame_present", [1, FRAMES]),
                Port::f32("audio_present", [1, PATCHES]),
                Port::f32("frame_offset", [1, FRAMES]),
                Port::f32("dt", [1, 1]),
                Port::f32("memory", [1, G.memory_tokens, d]),
            ],
            &[Port::f32("tokens", [1, m, d]), Port::f32("memory_out", [1, G.memory_tokens, d])],
        )?;
        let latent = load(
            bundle,
            kernel,
            "latent",
            &graphs.latent,
            &[
                Port::f32("tokens", [1, m, d]),
                Port::f32("k_window", [1, G.latent_layers, WINDOW, m, d]),
                Port::f32("v_window", [1, G.latent_layers, WINDOW, m, d]),
                Port::f32("age", [1, WINDOW]),
                Port::f32("valid", [1, WINDOW]),
            ],
            &[
                Port::f32("latents", [1, m, d]),
                Port::f32("next_tokens", [1, m, d]),
                Port::f32("audible", [1, audible]),
                Port::f32("visible", [1, visible]),
                Port::f32("source", [1, audible]),
                Port::f32("k_new", [1, G.latent_layers, m, d]),
                Port::f32("v_new", [1, G.latent_layers, m, d]),
                Port::f32("cross_k", [1, G.decoder_layers, m, d]),
                Port::f32("cross_v", [1, G.decoder_layers, m, d]),
            ],
        )?;
        let decoder = Decoder::load(bundle, kernel)?;
        give_back_memory();
        let output = Output {
            audible: vec![0.0; audible],
            visible: vec![0.0; visible],
            source: vec![0.0; audible],
            surprise: None,
            reset: false,
        };
        let model = Self {
            bundle_id: bundle.id().to_owned(),
            kernel,
            history: History::new(&manifest),
            manifest,
            video,
            entry,
            audio,
            combiner,
            latent,
            decoder,
            window: Window::default(),
            before: Box::new([0.0; HALF_PATCH]),
            heard: false,
            surprise: Surprise::default(),
            predicted: None,
            output,
            now: MonoTime::default(),
            resets: 0,
        };
        let Arithmetic { int8_nodes, kernel } = model.arithmetic();
        tracing::info!(int8_nodes, kernel, "model loaded");
        Ok(model)
    }

    /// What computes it: for logs and reports.
    #[must_use]
    pub fn arithmetic(&self) -> Arithmetic {
        let int8_nodes = self.graphs().iter().map(|graph| graph.int8_nodes()).sum();
        Arithmetic { int8_nodes, kernel: if int8_nodes == 0 { "tract" } else { self.kernel.name() } }
    }

    fn graphs(&self) -> [&Graph; 5] {
        [&self.video, &self.audio, &self.combiner, &self.latent, &self.decoder.graph]
    }

    /// Once `stop` is set, whatever is under way fails before its next graph: nobody waits for a slow board at the end.
    pub fn give_up_at(&mut self, stop: &Arc<AtomicBool>) {
        let Self { video, audio, combiner, latent, decoder, .. } = self;
        for graph in [video, audio, combiner, latent, &mut decoder.graph] {
            graph.give_up_at(stop);
        }
    }

    /// The bundle's manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// SHA-256 of the bundle's manifest, hexadecimal.
    #[must_use]
    pub fn bundle_id(&self) -> &str {
        &self.bundle_id
    }

    /// How often the state was found broken and reset.
    #[must_use]
    pub fn resets(&self) -> u64 {
        self.resets
    }

    /// Runs one snippet through encoders, Combiner and latent model, and advances the state.
    pub fn step(&mut self, input: &Input<'_>) -> Result<&Output> {
        self.now = input.start;
        self.encode(input)?;
        if !self.combine(input)? || !self.look_back(input)? {
            self.reset()?;
            self.resets += 1;
            self.output.reset = true;
        }
        Ok(&self.output)
    }

    /// The scores of the last step.
    #[must_use]
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Moves the scores of the last step out; [`Self::return_output`] must bring the buffers back before the next.
    pub(crate) fn take_output(&mut self) -> Output {
        std::mem::take(&mut self.output)
    }

    /// Brings back what [`Self::take_output`] took.
    pub(crate) fn return_output(&mut self, output: Output) {
        self.output = output;
    }

    /// Forgets everything heard and seen.
    pub fn reset(&mut self) -> Result<()> {
        self.combiner.input(combiner::MEMORY)?.fill(0.0);
        for index in [latent::K_WINDOW, latent::V_WINDOW] {
            self.latent.input(index)?.fill(0.0);
        }
        self.decoder.clear_window()?;
        self.window.clear();
        self.surprise.clear();
        self.predicted = None;
        self.heard = false;
        for scores in [&mut self.output.audible, &mut self.output.visible, &mut self.output.source] {
            scores.fill(0.0);
        }
        self.output.surprise = None;
        Ok(())
    }

    /// Writes a sentence about the newest snippet, or answers a question about the window.
    pub fn write(&mut self, prompt: &Prompt<'_>) -> Result<Sentence> {
        if let Some(sentence) = self.known(prompt, self.window.starts()) {
            return Ok(sentence);
        }
        self.decoder.write(prompt, &self.window, self.now)
    }

    /// Begins to answer `prompt` from the minute before `now`; `None` when nothing was heard or seen in it.
    #[must_use]
    pub fn begin(&self, prompt: &Prompt<'_>, now: MonoTime) -> Option<Asking> {
        let since = now.max(self.now) - LAST_MINUTE;
        let starts = self.window.starts().map(|start| start.filter(|&s| s > since));
        if let Some(sentence) = self.known(prompt, &starts) {
            let span = Span::of(&starts)?;
            return Some(Asking(Task::Known(span.answer(sentence))));
        }
        let writing = self.decoder.begin(prompt, starts, self.now)?;
        Some(Asking(Task::Written(Box::new(writing))))
    }

    /// Writes one token of the answer; `Ok(None)` while it goes on. Snippets and sentences may come in between.
    pub fn resume(&mut self, asking: &mut Asking) -> Result<Option<Answer>> {
        match &mut asking.0 {
            Task::Known(answer) => Ok(Some(answer.clone())),
            Task::Written(writing) => {
                let sentence = self.decoder.resume(writing, &self.window)?;
                Ok(sentence.map(|sentence| writing.span.answer(sentence)))
            }
        }
    }

    /// The answer to a question of the bundle's table, from the scores of the snippets of `starts`; `None` for all else.
    fn known(&self, prompt: &Prompt<'_>, starts: &[Option<MonoTime>; WINDOW]) -> Option<Sentence> {
        let Prompt::Ask(question) = prompt else { return None };
        self.history.as_ref()?.answer(question, starts)
    }

    /// Encoders: each modality's tokens into the Combiner's inputs; zeros where there is nothing.
    fn encode(&mut self, input: &Input<'_>) -> Result<()> {
        let per_frame = G.video_tokens * G.dim;
        for (index, &frame) in input.frames.iter().enumerate() {
            let range = index * per_frame..(index + 1) * per_frame;
            match frame {
                Some(frame) => {
                    self.entry.write(&mut self.video, frame)?;
                    let tokens = self.video.run()?;
                    self.combiner.input(combiner::VIDEO_TOKENS)?[range].copy_from_slice(tokens.get(0)?);
                }
                None => self.combiner.input(combiner::VIDEO_TOKENS)?[range].fill(0.0),
            }
            self.combiner.input(combiner::FRAME_PRESENT)?[index] = presence(frame.is_some());
            self.combiner.input(combiner::FRAME_OFFSET)?[index] = input.frame_offset[index];
        }
        let halves = input.mel.map(|mel| mel.split_at(HALF_PATCH));
        // A sound that the border between two snippets cuts in two is whole in the patch that lies across it.
        let across =
            halves.filter(|_| self.heard && gapless(input.dt)).map(|(first, _)| (&self.before[..], first));
        for (index, patch) in [(PATCH_EARLY, across), (PATCH_OWN, halves)] {
            hear(&mut self.audio, &mut self.combiner, index, patch)?;
        }
        self.heard = halves.is_some();
        if let Some((_, last)) = halves {
            self.before.copy_from_slice(last);
        }
        self.combiner.input(combiner::DT)?[0] = input.dt;
        Ok(())
    }

    /// Combiner: tokens into the latent model's input, memory back into its own. False if anything is not finite.
    fn combine(&mut self, input: &Input<'_>) -> Result<bool> {
        let combined = self.combiner.run()?;
        if !combined.all_finite()? {
            return Ok(false);
        }
        let tokens = combined.get(0)?;
        self.latent.input(latent::TOKENS)?.copy_from_slice(tokens);
        self.combiner.input(combiner::MEMORY)?.copy_from_slice(combined.get(1)?);
        // The prediction assumed that nothing is left out between the snippets.
        let error =
            self.predicted.as_ref().filter(|_| gapless(input.dt)).map(|p| prediction_error(&p[..], tokens));
        self.output.surprise = error.and_then(|e| self.surprise.score(e));
        Ok(true)
    }

    /// Latent model: scores, prediction, and the window's new slot. False if anything is not finite.
    fn look_back(&mut self, input: &Input<'_>) -> Result<bool> {
        let slot = self.window.next_slot();
        let (mut age, mut valid) = ([0.0; WINDOW], [0.0; WINDOW]);
        self.window.ages(input.start, Some(slot), &mut age, &mut valid);
        self.latent.input(latent::AGE)?.copy_from_slice(&age);
        self.latent.input(latent::VALID)?.copy_from_slice(&valid);
        let out = self.latent.run()?;
        if !out.all_finite()? {
            return Ok(false);
        }
        let Output { audible, visible, source, reset, .. } = &mut self.output;
        for (scores, index) in [(&mut *audible, 2), (&mut *visible, 3), (source, 4)] {
            for (p, &logit) in scores.iter_mut().zip(out.get(index)?) {
                *p = sigmoid(logit);
            }
        }
        *reset = false;
        self.predicted.get_or_insert_with(|| Box::new([0.0; TOKEN_BLOCK])).copy_from_slice(out.get(1)?);
        for (window, new) in [(latent::K_WINDOW, 5), (latent::V_WINDOW, 6)] {
            write_slot(self.latent.input(window)?, out.get(new)?, slot);
        }
        let (heard, seen) = (input.mel.is_some(), input.frames.iter().any(Option::is_some));
        if let Some(history) = &mut self.history {
            history.put(slot, audible, visible, heard, seen);
        }
        self.decoder.known().put(audible, visible, heard, seen);
        self.decoder.remember(out.get(7)?, out.get(8)?, slot)?;
        self.window.push(input.start);
        Ok(true)
    }
}

/// The snippets that an answer rests on.
#[derive(Clone, Copy)]
struct Span {
    from: MonoTime,
    last: MonoTime,
    snippets: usize,
}

impl Span {
    /// `None` without any snippet.
    fn of(starts: &[Option<MonoTime>; WINDOW]) -> Option<Self> {
        let given = || starts.iter().flatten().copied();
        Some(Self { from: given().min()?, last: given().max()?, snippets: given().count() })
    }

    fn answer(self, sentence: Sentence) -> Answer {
        let to = self.last + Duration::from_millis(960);
        Answer { sentence, from: self.from, to, snippets: self.snippets }
    }
}

/// Input indices of `combiner.onnx`.
mod combiner {
    pub(super) const VIDEO_TOKENS: usize = 0;
    pub(super) const AUDIO_TOKENS: usize = 1;
    pub(super) const FRAME_PRESENT: usize = 2;
    pub(super) const AUDIO_PRESENT: usize = 3;
    pub(super) const FRAME_OFFSET: usize = 4;
    pub(super) const DT: usize = 5;
    pub(super) const MEMORY: usize = 6;
}

/// Input indices of `latent.onnx`.
mod latent {
    pub(super) const TOKENS: usize = 0;
    pub(super) const K_WINDOW: usize = 1;
    pub(super) const V_WINDOW: usize = 2;
    pub(super) const AGE: usize = 3;
    pub(super) const VALID: usize = 4;
}

/// Parsing and optimising leaves tens of megabytes of freed memory with the allocator; a board has better use for it.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes no pointer, may be called at any time from any thread, and only returns free pages.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn load(
    bundle: &Bundle,
    kernel: Kernel,
    name: &'static str,
    file: &GraphFile,
    inputs: &[Port],
    outputs: &[Port],
) -> Result<Graph> {
    let bytes = bundle.read(&file.file, &file.sha256)?;
    let path = bundle.dir().join(&file.file);
    // Without any scales, or in f32 by configuration, everything runs on stock tract.
    let (quantised, none) = (&bundle.manifest().quantisation.nodes, std::collections::BTreeMap::new());
    let nodes = quantised.get(name).unwrap_or(&none);
    let integers = (!quantised.is_empty()).then_some(Integers { nodes, kernel });
    Graph::load(name, &path.display().to_string(), &bytes, integers, inputs, outputs)
}

/// Copies a snippet's block of each layer, `[layers, block]`, into slot `slot` of a ring `[layers, WINDOW, block]`.
fn write_slot(ring: &mut [f32], new: &[f32], slot: usize) {
    for (layer, block) in new.chunks_exact(TOKEN_BLOCK).enumerate() {
        let at = (layer * WINDOW + slot) * TOKEN_BLOCK;
        ring[at..at + TOKEN_BLOCK].copy_from_slice(block);
    }
}

/// Tokens of one patch of sound, given in two halves, into the Combiner's inputs; zeros without one.
fn hear(
    audio: &mut Graph,
    combiner: &mut Graph,
    index: usize,
    patch: Option<(&[f32], &[f32])>,
) -> Result<()> {
    let per_patch = G.audio_tokens * G.dim;
    let range = index * per_patch..(index + 1) * per_patch;
    match patch {
        Some((first, last)) => {
            let mel = audio.input(0)?;
            mel[..HALF_PATCH].copy_from_slice(first);
            mel[HALF_PATCH..].copy_from_slice(last);
            let tokens = audio.run()?;
            combiner.input(combiner::AUDIO_TOKENS)?[range].copy_from_slice(tokens.get(0)?);
        }
        None => combiner.input(combiner::AUDIO_TOKENS)?[range].fill(0.0),
    }
    combiner.input(combiner::AUDIO_PRESENT)?[index] = presence(patch.is_some());
    Ok(())
}

/// Whether nothing is left out between a snippet and the one before.
fn gapless(dt: f32) -> bool {
    (dt - SNIPPET_SECONDS).abs() < GAPLESS
}

fn presence(present: bool) -> f32 {
    if present { 1.0 } else { 0.0 }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

impl From<girasol_model::BundleError> for Error {
    fn from(error: girasol_model::BundleError) -> Self {
        let kind = if error.missing { ErrorKind::Unavailable } else { ErrorKind::Data };
        Self::new(kind, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shipped bundle, or the one that `GIRASOL_BUNDLE` names.
    fn bundle() -> Bundle {
        let dir = std::env::var("GIRASOL_BUNDLE")
            .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../models/bundle").into());
        Bundle::open(dir, env!("CARGO_PKG_VERSION")).unwrap()
    }

    fn input<'a>(index: i64, mel: &'a [f32], frame: &'a [f32]) -> Input<'a> {
        Input {
            start: MonoTime(index * 960_000_000),
            dt: SNIPPET_SECONDS,
            mel: Some(mel),
            frames: [Some(FrameInput::Values(frame)); FRAMES],
            frame_offset: [0.24, 0.72],
        }
    }

    #[test]
    fn an_answer_in_slices_is_the_answer_in_one_whatever_comes_between() {
        let mut model = Model::load(&bundle()).unwrap();
        let prompt = Prompt::Ask("is anyone speaking to you?");
        assert!(model.begin(&prompt, MonoTime(0)).is_none(), "nothing was heard or seen");
        let mel: Vec<f32> = (0..MEL_VALUES).map(|i| (i % 17) as f32 / 4.0 - 3.0).collect();
        let frame: Vec<f32> = (0..FRAME_VALUES).map(|i| (i % 11) as f32 / 11.0 - 0.5).collect();
        for index in 0..5 {
            model.step(&input(index, &mel, &frame)).unwrap();
        }
        let whole = model.write(&prompt).unwrap();
        let now = MonoTime(5 * 960_000_000);
        let mut asking = model.begin(&prompt, now).unwrap();
        let label = model.manifest().labels.audible[0].id.clone();
        let (mut slices, mut index) = (0, 5);
        let answer = loop {
            slices += 1;
            if let Some(answer) = model.resume(&mut asking).unwrap() {
                break answer;
            }
            // Another snippet and an event's sentence every few tokens.
            if slices % 4 == 0 {
                model.step(&input(index, &mel, &frame)).unwrap();
                model.write(&Prompt::Heard(&label)).unwrap();
                index += 1;
            }
        };
        assert!(slices > 4 && index > 5);
        assert_eq!(answer.sentence, whole);
        assert_eq!((answer.from, answer.to, answer.snippets), (MonoTime(0), now, 5));
        // A minute later there is nothing left to answer from.
        assert!(model.begin(&prompt, MonoTime(200 * 1_000_000_000)).is_none());
        let mut asking = model.begin(&prompt, now).unwrap();
        model.reset().unwrap();
        assert_eq!(model.resume(&mut asking).unwrap().unwrap().sentence, Sentence::default());
    }

    #[test]
    fn an_answer_rests_on_the_minute_as_it_was_however_many_snippets_come_meanwhile() {
        let mut model = Model::load(&bundle()).unwrap();
        let prompt = Prompt::Ask("is anyone speaking to you?");
        let (mel, frame) = (vec![-2.0; MEL_VALUES], vec![0.3; FRAME_VALUES]);
        let other: Vec<f32> = (0..MEL_VALUES).map(|i| (i % 23) as f32 / 3.0 - 4.0).collect();
        for index in 0..66 {
            model.step(&input(index, &other, &frame)).unwrap();
        }
        let now = MonoTime(66 * 960_000_000);
        let mut undisturbed = model.begin(&prompt, now).unwrap();
        let whole = loop {
            if let Some(answer) = model.resume(&mut undisturbed).unwrap() {
                break answer;
            }
        };
        let mut asking = model.begin(&prompt, now).unwrap();
        let mut index = 66;
        let answer = loop {
            if let Some(answer) = model.resume(&mut asking).unwrap() {
                break answer;
            }
            model.step(&input(index, &mel, &frame)).unwrap();
            index += 1;
        };
        // Slots that it rests on have been taken by other snippets since.
        assert!(index > 70);
        assert_eq!(answer, whole);
    }

    #[test]
    fn a_question_of_the_table_is_answered_at_once_from_the_same_minute() {
        let mut model = Model::load(&bundle()).unwrap();
        let prompt = Prompt::Ask("Is anyone speaking?");
        assert!(model.begin(&prompt, MonoTime(0)).is_none(), "nothing was heard or seen");
        let (mel, frame) = (vec![-2.0; MEL_VALUES], vec![0.3; FRAME_VALUES]);
        for index in 0..70 {
            model.step(&input(index, &mel, &frame)).unwrap();
        }
        let now = MonoTime(70 * 960_000_000);
        let mut asking = model.begin(&prompt, now).unwrap();
        let answer = model.resume(&mut asking).unwrap().expect("an answer in one piece");
        // A minute before `now`: the snippet that begins just then is not in it.
        assert_eq!((answer.from, answer.to, answer.snippets), (MonoTime(7 * 960_000_000), now, 63));
        assert!(!answer.sentence.text.is_empty());
        // A moment earlier that snippet is in it, and so all that the window holds.
        let mut asking = model.begin(&prompt, MonoTime(now.0 - 1)).unwrap();
        let answer = model.resume(&mut asking).unwrap().expect("an answer in one piece");
        assert_eq!((answer.from, answer.snippets), (MonoTime(6 * 960_000_000), 64));
        assert_eq!(answer.sentence, model.write(&prompt).unwrap());
        assert!(model.begin(&prompt, MonoTime(300 * 1_000_000_000)).is_none());
        model.reset().unwrap();
        assert!(model.begin(&prompt, now).is_none());
    }

    #[test]
    fn the_shipped_bundle_computes_what_it_was_made_to() {
        let bundle = bundle();
        let mut model = Model::load(&bundle).unwrap();
        let result = model.self_test(&bundle).unwrap().expect("the shipped bundle has a golden run");
        assert!(result.snippets >= 3 && result.sentences >= 1 && result.max_difference <= result.tolerance);
    }

    #[test]
    fn a_value_that_is_not_finite_resets_the_state_and_the_next_snippet_is_as_fresh() {
        let mut model = Model::load(&bundle()).unwrap();
        let (mel, frame) = (vec![-2.0; MEL_VALUES], vec![0.3; FRAME_VALUES]);
        let fresh = model.step(&input(0, &mel, &frame)).unwrap().clone();
        model.combiner.input(combiner::MEMORY).unwrap()[5] = f32::NAN;
        let output = model.step(&input(1, &mel, &frame)).unwrap();
        assert!(output.reset && output.audible.iter().all(|&p| p == 0.0));
        assert_eq!(model.resets(), 1);
        let again = model.step(&input(2, &mel, &frame)).unwrap();
        assert!(!again.reset);
        assert_eq!(again.audible, fresh.audible);
        assert_eq!(again.visible, fresh.visible);
    }

    #[test]
    fn the_patch_across_the_border_needs_the_snippet_before_and_no_gap() {
        let mut model = Model::load(&bundle()).unwrap();
        let frame = vec![0.3; FRAME_VALUES];
        let (mel, other) = (vec![-2.0; MEL_VALUES], vec![-5.0; MEL_VALUES]);
        let presence = |model: &mut Model, input: &Input<'_>| {
            model.step(input).unwrap();
            model.combiner.input(combiner::AUDIO_PRESENT).unwrap().to_vec()
        };
        assert_eq!(
            presence(&mut model, &input(0, &other, &frame)),
            [0.0, 1.0],
            "nothing is before the first"
        );
        assert_eq!(presence(&mut model, &input(1, &mel, &frame)), [1.0, 1.0]);
        let across: Vec<f32> = [&other[..HALF_PATCH], &mel[..HALF_PATCH]].concat();
        model.audio.input(0).unwrap().copy_from_slice(&across);
        let tokens = model.audio.run().unwrap().get(0).unwrap().to_vec();
        assert_eq!(model.combiner.input(combiner::AUDIO_TOKENS).unwrap()[..tokens.len()], tokens);
        let gap = Input { dt: 5.76, ..input(7, &mel, &frame) };
        assert_eq!(presence(&mut model, &gap), [0.0, 1.0], "something was left out");
        assert_eq!(presence(&mut model, &Input { mel: None, ..input(8, &mel, &frame) }), [0.0, 0.0]);
        assert_eq!(
            presence(&mut model, &input(9, &mel, &frame)),
            [0.0, 1.0],
            "the one before was silent to us"
        );
        assert_eq!(presence(&mut model, &input(10, &mel, &frame)), [1.0, 1.0]);
        model.reset().unwrap();
        assert_eq!(presence(&mut model, &input(11, &mel, &frame)), [0.0, 1.0], "all is forgotten");
    }

    #[test]
    fn surprise_is_absent_after_a_gap_and_defined_after_the_warm_up() {
        let mut model = Model::load(&bundle()).unwrap();
        let (mel, frame) = (vec![-2.0; MEL_VALUES], vec![0.3; FRAME_VALUES]);
        for index in 0..40 {
            let surprise = model.step(&input(index, &mel, &frame)).unwrap().surprise;
            assert_eq!(surprise.is_some(), index > 32, "snippet {index}");
        }
        let gap = Input { dt: 5.76, ..input(45, &mel, &frame) };
        assert_eq!(model.step(&gap).unwrap().surprise, None);
    }

    #[test]
    fn without_any_modality_the_model_still_runs() {
        let mut model = Model::load(&bundle()).unwrap();
        let nothing = Input {
            start: MonoTime(0),
            dt: SNIPPET_SECONDS,
            mel: None,
            frames: [None; FRAMES],
            frame_offset: [0.24, 0.72],
        };
        let output = model.step(&nothing).unwrap();
        assert!(!output.reset && output.audible.iter().all(|p| p.is_finite()));
        model.write(&Prompt::Caption).unwrap();
    }

    /// tract 0.23 turns a Softmax between quantise and dequantise nodes into a table: a silent wrong result. And its own
    /// integer products are slow.
    #[test]
    fn no_softmax_is_lost_and_tract_computes_nothing_in_integers() {
        let bundle = bundle();
        let model = Model::load(&bundle).unwrap();
        for (graph, least) in [(&model.combiner, 3), (&model.latent, 2), (&model.decoder.graph, 4)] {
            let names = graph.operators();
            let softmax = names.iter().filter(|n| n.contains("Softmax") || n.contains("softmax")).count();
            assert!(softmax >= least, "{}: {names:?}", graph.name());
        }
        for graph in model.graphs() {
            let names = graph.operators();
            assert!(!names.iter().any(|n| n.contains("Quantize") || n.contains("QMatMul")), "{names:?}");
        }
    }
}

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod operator_conformance;
