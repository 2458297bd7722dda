//! One snippet from pixels and samples to events: frontends, model, event engine. Runs on one thread.

use std::sync::Arc;

use girasol_model::{Bundle, InView, Manifest};

use crate::{
    ErrorKind, Result,
    clock::{Clock, MonoTime},
    event::{
        EndReason, Event, EventEngine, EventIdentity, EventSettings, LabelRef, Narrator, Scores, Sense,
        Sentence, SnippetInfo, Why,
    },
    frontend::mel::LogMel,
    model::{FRAMES, FrameInput, Input, MEL_VALUES, Model, Output, Prompt, SelfTest},
    source::Frame,
    timeline::Snippet,
};

/// What comes out of the processor.
#[derive(Debug)]
pub enum Product {
    /// Something began, went on or ended.
    Event(Event),
    /// Why an event was or was not raised.
    Why(Why),
    /// A sentence about the newest snippet as a whole.
    Caption(Caption),
}

/// A sentence about the newest snippet as a whole, on the `caption` topic.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Caption {
    /// Version of the payload: 1.
    pub v: u32,
    /// Device name.
    pub device: String,
    /// End of the newest snippet that it rests on, in seconds on the timeline.
    pub time: f64,
    /// The sentence.
    pub text: String,
    /// Geometric mean of its tokens' probabilities.
    pub confidence: f64,
}

/// What one snippet cost and said.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// Number of the snippet.
    pub index: u64,
    /// Its end on the timeline.
    pub end: MonoTime,
    /// Time from the first pixel to the last event.
    pub cost: std::time::Duration,
    /// How unusual it was (z-score), where defined.
    pub surprise: Option<f32>,
    /// Drift of the sound card's clock in parts per million, once known.
    pub drift_ppm: Option<f32>,
    /// Resets of the model's state so far.
    pub resets: u64,
}

/// Frontends, model and event engine with their buffers; allocates nothing of its own per snippet but the events.
pub struct Processor {
    mel: LogMel,
    patch: Box<[f32; MEL_VALUES]>,
    /// The last frame given to the model, for the difference channel.
    previous: Frame,
    has_previous: bool,
    model: Model,
    /// Visible labels that can make each audible one, where the bundle asks for the rule.
    makers: Option<Vec<Vec<usize>>>,
    engine: EventEngine,
    clock: Arc<dyn Clock>,
}

impl Processor {
    /// Loads the bundle and gets ready for the first snippet. `identity` is made from the bundle's id.
    pub fn new(
        bundle: &Bundle,
        settings: EventSettings,
        identity: impl FnOnce(&str) -> EventIdentity,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        Self::with_model(Model::load(bundle)?, settings, identity, clock)
    }

    /// [`Self::new`] with a model that is loaded already.
    pub(crate) fn with_model(
        model: Model,
        settings: EventSettings,
        identity: impl FnOnce(&str) -> EventIdentity,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        let engine = EventEngine::new(model.manifest(), settings, identity(model.bundle_id()))?;
        Ok(Self {
            mel: LogMel::new(),
            patch: Box::new([0.0; MEL_VALUES]),
            previous: Frame::new(),
            has_previous: false,
            makers: (model.manifest().in_view == InView::Rule).then(|| makers(model.manifest())),
            model,
            engine,
            clock,
        })
    }

    /// Sets the number of the next event message, so that numbers go on after a restart of the program.
    pub fn set_next_seq(&mut self, seq: u64) {
        self.engine.set_next_seq(seq);
    }

    /// The model, for its manifest and counters.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What the model said of the newest snippet.
    #[must_use]
    pub fn output(&self) -> &Output {
        self.model.output()
    }

    /// A sentence about the newest snippet, or an answer about the last minute.
    pub fn write(&mut self, prompt: &Prompt<'_>) -> Result<Sentence> {
        self.model.write(prompt)
    }

    /// Forgets everything, for the next recording. What is still open gets no `end`: call [`Self::finish`] before.
    pub fn restart(&mut self, settings: EventSettings, identity: EventIdentity) -> Result<()> {
        self.model.reset()?;
        self.engine = EventEngine::new(self.model.manifest(), settings, identity)?;
        self.has_previous = false;
        Ok(())
    }

    /// Takes one snippet; what it says goes to `sink`.
    pub fn step(&mut self, snippet: &Snippet, sink: &mut dyn FnMut(Product)) -> Result<Report> {
        self.step_with(snippet, sink, &mut |_, _| {})
    }

    /// [`Self::step`], with a look at every score before events are made of them.
    pub fn step_with(
        &mut self,
        snippet: &Snippet,
        sink: &mut dyn FnMut(Product),
        look: &mut dyn FnMut(&Manifest, &Output),
    ) -> Result<Report> {
        let started = self.clock.now();
        if snippet.audio_present {
            self.mel.compute(snippet.patch(), &mut self.patch);
        }
        let mut before = self.has_previous.then_some(&self.previous);
        let frames = std::array::from_fn(|k| {
            let now = snippet.frame(k)?;
            let before = before.replace(now);
            Some(FrameInput::Picture { now, before })
        });
        let input = Input {
            start: snippet.start,
            dt: snippet.dt,
            mel: snippet.audio_present.then_some(&self.patch[..]),
            frames,
            frame_offset: snippet.frame_offset,
        };
        let stepped = self.model.step(&input).map(drop);
        if let Some(last) = (0..FRAMES).rev().find_map(|k| snippet.frame(k)) {
            self.previous.copy_from(last);
            self.has_previous = true;
        }
        stepped?;
        // The scores are moved out (and back below) so that the narrator can use the model meanwhile.
        let mut output = self.model.take_output();
        if let Some(makers) = &self.makers {
            apply_rule(makers, &mut output);
        }
        look(self.model.manifest(), &output);
        let end = snippet.end();
        if output.reset {
            tracing::warn!(
                snippet = snippet.index,
                resets = self.model.resets(),
                "model state was not finite: reset"
            );
            self.engine.finish(EndReason::Reset, end, &mut |event| sink(Product::Event(event)));
        } else {
            self.raise(snippet, &output, sink);
        }
        let surprise = output.surprise;
        self.model.return_output(output);
        let cost =
            std::time::Duration::from_nanos(u64::try_from(self.clock.now().since(started)).unwrap_or(0));
        let resets = self.model.resets();
        Ok(Report { index: snippet.index, end, cost, surprise, drift_ppm: snippet.drift_ppm, resets })
    }

    /// Ends every open event.
    pub fn finish(&mut self, reason: EndReason, now: MonoTime, sink: &mut dyn FnMut(Product)) {
        self.engine.finish(reason, now, &mut |event| sink(Product::Event(event)));
        self.drain_why(sink);
    }

    /// Ends the open events of `senses`.
    pub fn finish_senses(&mut self, senses: &[Sense], now: MonoTime, sink: &mut dyn FnMut(Product)) {
        self.engine.finish_senses(senses, EndReason::Paused, now, &mut |event| sink(Product::Event(event)));
        self.drain_why(sink);
    }

    /// Takes new settings and quiet hours over.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for settings that make no sense; then nothing is changed.
    pub fn configure(&mut self, settings: EventSettings, quiet: bool, quiet_labels: &[bool]) -> Result<()> {
        self.engine.reconfigure(self.model.manifest(), settings)?;
        self.engine.set_quiet(quiet);
        self.engine.set_quiet_labels(quiet_labels);
        Ok(())
    }

    /// The model, for questions between snippets.
    pub fn model_mut(&mut self) -> &mut Model {
        &mut self.model
    }

    /// Runs the bundle's golden snippets on the model in use, which ends every open event and forgets the last minute.
    ///
    /// # Errors
    /// When the results are not those that the bundle was made with.
    pub fn self_test(
        &mut self,
        bundle: &Bundle,
        now: MonoTime,
        sink: &mut dyn FnMut(Product),
    ) -> Result<Option<SelfTest>> {
        self.finish(EndReason::Reset, now, sink);
        self.has_previous = false;
        self.model.self_test(bundle)
    }

    fn raise(&mut self, snippet: &Snippet, output: &Output, sink: &mut dyn FnMut(Product)) {
        let info = SnippetInfo {
            index: snippet.index,
            start: snippet.start,
            end: snippet.end(),
            dt: snippet.dt,
            audio_present: snippet.audio_present,
            frames_present: snippet.frame_present.iter().map(|&p| u8::from(p)).sum(),
            sync_error_ms: snippet.sync_error_ms,
        };
        let scores = Scores {
            audible: &output.audible,
            visible: &output.visible,
            source: &output.source,
            surprise: output.surprise,
        };
        let mut narrator = ModelNarrator(&mut self.model);
        self.engine.step(&info, &scores, &mut narrator, &mut |event| sink(Product::Event(event)));
        self.drain_why(sink);
    }

    fn drain_why(&mut self, sink: &mut dyn FnMut(Product)) {
        while let Some(why) = self.engine.pop_why() {
            sink(Product::Why(why));
        }
    }
}

/// Places in `labels.visible` of what can make each audible label's sound.
fn makers(manifest: &Manifest) -> Vec<Vec<usize>> {
    let labels = &manifest.labels;
    let place = |id: &String| labels.visible.iter().position(|l| l.id == *id);
    let of = |id: &String| {
        manifest.sources.get(id).map_or_else(Vec::new, |m| m.iter().filter_map(place).collect())
    };
    labels.audible.iter().map(|label| of(&label.id)).collect()
}

/// "A matching source is in view" from what is seen, in place of the model's own scores.
fn apply_rule(makers: &[Vec<usize>], output: &mut Output) {
    for (score, makers) in output.source.iter_mut().zip(makers) {
        *score = makers.iter().map(|&v| output.visible[v]).fold(0.0, f32::max);
    }
}

/// The text decoder as narrator of events.
struct ModelNarrator<'a>(&'a mut Model);

impl Narrator for ModelNarrator<'_> {
    fn sentence(&mut self, label: LabelRef) -> Sentence {
        let labels = &self.0.manifest().labels;
        let list = match label.sense {
            Sense::Hear => &labels.audible,
            Sense::See => &labels.visible,
        };
        let Some(id) = list.get(label.index).map(|l| l.id.clone()) else { return Sentence::default() };
        let prompt = match label.sense {
            Sense::Hear => Prompt::Heard(&id),
            Sense::See => Prompt::Seen(&id),
        };
        match self.0.write(&prompt) {
            Ok(sentence) => sentence,
            // The program is about to end.
            Err(error) if error.kind() == ErrorKind::Unavailable => Sentence::default(),
            Err(error) => {
                // The event is worth more than its sentence; the engine falls back to the label's name.
                tracing::error!(%error, label = id, "no sentence");
                Sentence::default()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_takes_the_likeliest_source() {
        let makers = vec![vec![0, 2], vec![1], vec![]];
        let mut output = Output { visible: vec![0.1, 0.2, 0.7], source: vec![0.9; 3], ..Output::default() };
        apply_rule(&makers, &mut output);
        assert_eq!(output.source, [0.7, 0.2, 0.0]);
    }
}
