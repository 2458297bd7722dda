//! The text decoder: one token at a time, cross-attending to the window of latents.

use girasol_model::{Bundle, Text, Tokenizer};
use girasol_ops::Kernel;

use super::{
    G, Span, TOKEN_BLOCK,
    graph::{Graph, Held, Port},
    known::Known,
    load,
    window::{self, WINDOW, Window},
    write_slot,
};
use crate::{Result, clock::MonoTime, event::Sentence};

/// What the decoder is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Prompt<'a> {
    /// A sentence about a label that is heard now.
    Heard(&'a str),
    /// A sentence about a label that is seen now.
    Seen(&'a str),
    /// A sentence about the newest snippet as a whole.
    Caption,
    /// An answer from the last minute.
    Ask(&'a str),
}

/// Input indices of `decoder.onnx`.
mod port {
    pub(super) const TOKEN: usize = 0;
    pub(super) const POSITION: usize = 1;
    pub(super) const SELF_K: usize = 2;
    pub(super) const SELF_V: usize = 3;
    pub(super) const SELF_VALID: usize = 4;
    pub(super) const CROSS_K: usize = 5;
    pub(super) const CROSS_V: usize = 6;
    pub(super) const AGE: usize = 7;
    pub(super) const VALID: usize = 8;
}

/// A text in the making.
struct Draft {
    prompt: Vec<u32>,
    /// Tokens of prompt and text that have been run.
    ran: usize,
    written: Vec<u32>,
    log_probability: f32,
    choices: f32,
}

impl Draft {
    fn next_token(&self) -> Option<u32> {
        let written = self.ran.checked_sub(self.prompt.len());
        written.map_or_else(|| self.prompt.get(self.ran), |n| self.written.get(n)).copied()
    }

    /// Geometric mean of the chosen tokens' probabilities.
    fn confidence(&self) -> f32 {
        if self.choices > 0.0 { (self.log_probability / self.choices).exp() } else { 0.0 }
    }
}

/// A text that is written a token at a time, between snippets. It rests on the window as it was at its beginning.
pub(super) struct Writing {
    draft: Draft,
    starts: [Option<MonoTime>; WINDOW],
    now: MonoTime,
    pub(super) span: Span,
    /// What the decoder made of that window, from the first token on.
    held: Option<Held>,
    self_k: Vec<f32>,
    self_v: Vec<f32>,
}

/// The decoder graph with its tokenizer and windows.
pub(crate) struct Decoder {
    pub(super) graph: Graph,
    tokenizer: Tokenizer,
    text: Text,
    known: Known,
    logits: Vec<f32>,
}

impl Decoder {
    pub(crate) fn load(bundle: &Bundle, kernel: Kernel) -> Result<Self> {
        let manifest = bundle.manifest();
        // What rests on the ages of the window's snippets is computed once a text, and the text on the window as it was.
        let of_window = [port::CROSS_K, port::CROSS_V, port::AGE, port::VALID];
        let graph = Self::graph(bundle, kernel)?.split_at(&of_window)?;
        let tokenizer = Tokenizer::new(&manifest.text);
        let known = Known::new(manifest, &tokenizer);
        let logits = vec![0.0; manifest.text.vocab.len()];
        Ok(Self { graph, tokenizer, text: manifest.text.clone(), known, logits })
    }

    /// The graph in one piece.
    pub(super) fn graph(bundle: &Bundle, kernel: Kernel) -> Result<Graph> {
        let manifest = bundle.manifest();
        let vocabulary = manifest.text.vocab.len();
        let (d, m, t, layers) = (G.dim, G.snippet_tokens, G.decoder_context, G.decoder_layers);
        load(
            bundle,
            kernel,
            "decoder",
            &manifest.graphs.decoder,
            &[
                Port::i64("token", [1]),
                Port::i64("position", [1]),
                Port::f32("self_k", [1, layers, t, d]),
                Port::f32("self_v", [1, layers, t, d]),
                Port::f32("self_valid", [1, t]),
                Port::f32("cross_k", [1, layers, WINDOW, m, d]),
                Port::f32("cross_v", [1, layers, WINDOW, m, d]),
                Port::f32("age", [1, WINDOW]),
                Port::f32("valid", [1, WINDOW]),
            ],
            &[
                Port::f32("logits", [1, vocabulary]),
                Port::f32("self_k_new", [1, layers, d]),
                Port::f32("self_v_new", [1, layers, d]),
            ],
        )
    }

    /// What the newest snippet's scores claim is the context of what is written about it.
    pub(super) fn known(&mut self) -> &mut Known {
        &mut self.known
    }

    /// Keeps the cross-attention keys and values of the snippet in `slot`.
    pub(crate) fn remember(&mut self, k: &[f32], v: &[f32], slot: usize) -> Result<()> {
        debug_assert_eq!(k.len(), G.decoder_layers * TOKEN_BLOCK);
        write_slot(self.graph.input(port::CROSS_K)?, k, slot);
        write_slot(self.graph.input(port::CROSS_V)?, v, slot);
        Ok(())
    }

    pub(crate) fn clear_window(&mut self) -> Result<()> {
        self.graph.input(port::CROSS_K)?.fill(0.0);
        self.graph.input(port::CROSS_V)?.fill(0.0);
        self.known.clear();
        Ok(())
    }

    /// Greedy decoding. Special tokens cannot be written, nor a continuation at the start.
    pub(crate) fn write(&mut self, prompt: &Prompt<'_>, window: &Window, now: MonoTime) -> Result<Sentence> {
        let prompt = self.prompt_tokens(prompt);
        let (written, confidence) = self.rewrite(&prompt, window, now)?;
        Ok(Sentence { text: self.tokenizer.decode(&written), confidence })
    }

    /// [`Self::write`] from a prompt in tokens, to tokens.
    pub(crate) fn rewrite(
        &mut self,
        prompt: &[u32],
        window: &Window,
        now: MonoTime,
    ) -> Result<(Vec<u32>, f32)> {
        let (mut age, mut valid) = ([0.0; WINDOW], [0.0; WINDOW]);
        window.ages(now, None, &mut age, &mut valid);
        self.graph.input(port::AGE)?.copy_from_slice(&age);
        self.graph.input(port::VALID)?.copy_from_slice(&valid);
        self.continue_prompt(prompt)
    }

    /// Runs the prompt and writes on; returns the tokens and the geometric mean of their probabilities.
    fn continue_prompt(&mut self, prompt: &[u32]) -> Result<(Vec<u32>, f32)> {
        self.graph.input(port::SELF_VALID)?.fill(0.0);
        let held = self.graph.hold()?;
        let mut draft = self.draft(prompt.to_vec());
        while !self.advance(&mut draft, &held)? {}
        let confidence = draft.confidence();
        Ok((draft.written, confidence))
    }

    fn draft(&self, prompt: Vec<u32>) -> Draft {
        let written = Vec::with_capacity(self.text.max_output);
        Draft { prompt, ran: 0, written, log_probability: 0.0, choices: 0.0 }
    }

    /// Runs one token of the draft. Returns whether it is finished.
    fn advance(&mut self, draft: &mut Draft, held: &Held) -> Result<bool> {
        let Some(token) = draft.next_token() else { return Ok(true) };
        self.run(token, draft.ran, held)?;
        draft.ran += 1;
        if draft.ran < draft.prompt.len() {
            return Ok(false);
        }
        let (token, p) = self.choose(draft.written.is_empty());
        draft.log_probability += p.ln();
        draft.choices += 1.0;
        if token == self.text.eos {
            return Ok(true);
        }
        draft.written.push(token);
        let room = G.decoder_context - draft.prompt.len();
        Ok(draft.written.len() >= self.text.max_output.min(room))
    }

    /// Begins a text about the snippets of `starts`, to be written a token at a time; `None` while there are none.
    pub(super) fn begin(
        &self,
        prompt: &Prompt<'_>,
        starts: [Option<MonoTime>; WINDOW],
        now: MonoTime,
    ) -> Option<Writing> {
        let span = Span::of(&starts)?;
        let values = G.decoder_layers * G.decoder_context * G.dim;
        Some(Writing {
            draft: self.draft(self.prompt_tokens(prompt)),
            now,
            span,
            starts,
            held: None,
            self_k: vec![0.0; values],
            self_v: vec![0.0; values],
        })
    }

    /// Gets the window ready, then writes one token more with each call. `Ok(None)` while it goes on; a text whose window
    /// has been forgotten meanwhile is empty.
    pub(super) fn resume(&mut self, asking: &mut Writing, window: &Window) -> Result<Option<Sentence>> {
        if !asking.starts.iter().zip(window.starts()).any(|(was, is)| was.is_some() && was == is) {
            return Ok(Some(Sentence::default()));
        }
        let Some(held) = &asking.held else {
            asking.held = Some(self.hold(asking, window)?);
            return Ok(None);
        };
        // Sentences of events use the same graph in between.
        self.graph.input(port::SELF_K)?.copy_from_slice(&asking.self_k);
        self.graph.input(port::SELF_V)?.copy_from_slice(&asking.self_v);
        for (position, valid) in self.graph.input(port::SELF_VALID)?.iter_mut().enumerate() {
            *valid = if position < asking.draft.ran { 1.0 } else { 0.0 };
        }
        let finished = self.advance(&mut asking.draft, held)?;
        asking.self_k.copy_from_slice(self.graph.input(port::SELF_K)?);
        asking.self_v.copy_from_slice(self.graph.input(port::SELF_V)?);
        Ok(finished.then(|| Sentence {
            text: self.tokenizer.decode(&asking.draft.written),
            confidence: asking.draft.confidence(),
        }))
    }

    fn hold(&mut self, asking: &Writing, window: &Window) -> Result<Held> {
        let (mut age, mut valid) = ([0.0; WINDOW], [0.0; WINDOW]);
        for (slot, (&was, &is)) in asking.starts.iter().zip(window.starts()).enumerate() {
            // A slot that a newer snippet has taken since is passed over.
            let Some(start) = was.filter(|_| was == is) else { continue };
            (age[slot], valid[slot]) = (window::age(asking.now, start), 1.0);
        }
        self.graph.input(port::AGE)?.copy_from_slice(&age);
        self.graph.input(port::VALID)?.copy_from_slice(&valid);
        self.graph.hold()
    }

    /// Prompt of the task, ended by `bos`; always leaves room for at least one written token.
    fn prompt_tokens(&self, prompt: &Prompt<'_>) -> Vec<u32> {
        let prompts = &self.text.prompts;
        let (template, label, question) = match prompt {
            Prompt::Heard(id) => (&prompts.event, format!("<hear:{id}>"), ""),
            Prompt::Seen(id) => (&prompts.event, format!("<see:{id}>"), ""),
            Prompt::Caption => (&prompts.caption, String::new(), ""),
            Prompt::Ask(question) => (&prompts.ask, String::new(), *question),
        };
        let mut tokens = Vec::with_capacity(G.decoder_context);
        for piece in template {
            match piece.as_str() {
                "{label}" => tokens.push(self.tokenizer.id(&label).unwrap_or(self.text.unk)),
                "{known}" => tokens.extend(self.known.tokens()),
                "{question}" => tokens.extend(self.tokenizer.encode(question, self.text.max_question)),
                literal => tokens.push(self.tokenizer.id(literal).unwrap_or(self.text.unk)),
            }
        }
        tokens.truncate(G.decoder_context - 2);
        tokens.push(self.text.bos);
        tokens
    }

    /// One step of the graph; leaves its logits in `self.logits`.
    fn run(&mut self, token: u32, position: usize, held: &Held) -> Result<()> {
        self.graph.input_i64(port::TOKEN)?[0] = i64::from(token);
        self.graph.input_i64(port::POSITION)?[0] = i64::try_from(position).unwrap_or(i64::MAX);
        let out = self.graph.run_on(held)?;
        self.logits.copy_from_slice(out.get(0)?);
        for (index, new) in [(port::SELF_K, 1), (port::SELF_V, 2)] {
            let cache = self.graph.input(index)?;
            for (layer, values) in out.get(new)?.chunks_exact(G.dim).enumerate() {
                let at = (layer * G.decoder_context + position) * G.dim;
                cache[at..at + G.dim].copy_from_slice(values);
            }
        }
        self.graph.input(port::SELF_VALID)?[position] = 1.0;
        Ok(())
    }

    /// The likeliest allowed token and its probability among the allowed ones.
    fn choose(&self, first: bool) -> (u32, f32) {
        let allowed = |id: u32| {
            id == self.text.eos
                || !(self.tokenizer.is_special(id) || first && self.tokenizer.is_continuation(id))
        };
        let candidates = || (0u32..).zip(&self.logits).filter(|&(id, _)| allowed(id));
        let (best, &top) =
            candidates().max_by(|a, b| a.1.total_cmp(b.1)).unwrap_or((self.text.eos, &f32::NEG_INFINITY));
        let sum: f32 = candidates().map(|(_, l)| (l - top).exp()).sum();
        // A NaN in the logits (a broken state) must not become a confidence.
        let p = 1.0 / sum;
        (best, if p.is_finite() { p } else { 0.0 })
    }
}
