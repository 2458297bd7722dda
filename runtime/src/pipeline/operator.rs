//! What the thread that works on snippets does for commands, between snippets.
//!
//! A text is written one token at a time, and only while no snippet is due, so a question costs none. One text is under
//! way at a time; the next question waits in the order queue.

use std::{sync::Arc, time::Duration};

use girasol_model::Bundle;

use super::{Caption, Processor, Product};
use crate::{
    Result,
    clock::MonoTime,
    command::{Control, Live, Order, Outcome, Paused, Report, Ticket},
    event::Sense,
    model::{Answer, Asking, Prompt},
};

/// Carries out what the [`Control`] orders.
pub struct Operator {
    control: Arc<Control>,
    bundle: Bundle,
    device: String,
    writing: Option<(Purpose, Asking)>,
    paused: Paused,
    caption_every: Duration,
    next_caption: Option<MonoTime>,
}

/// What a text is for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Question(Ticket),
    Caption,
}

impl Operator {
    /// Takes orders from `control`; `bundle` is for self-tests.
    #[must_use]
    pub fn new(control: Arc<Control>, bundle: Bundle, device: String) -> Self {
        Self {
            control,
            bundle,
            device,
            writing: None,
            paused: Paused::default(),
            caption_every: Duration::ZERO,
            next_caption: None,
        }
    }

    /// Whose orders it takes.
    #[must_use]
    pub fn control(&self) -> &Arc<Control> {
        &self.control
    }

    /// Carries out what is ordered, and writes at most one token of a text. `now` is on the snippets' timeline. Returns
    /// whether there is more to write; to be called again as soon as no snippet is due.
    ///
    /// # Errors
    /// When a graph cannot be run, which is a bug.
    pub fn serve(
        &mut self,
        processor: &mut Processor,
        now: MonoTime,
        sink: &mut dyn FnMut(Product),
    ) -> Result<bool> {
        let idle = self.writing.is_none();
        while let Some(order) = self.control.next_order(|o| idle || matches!(o, Order::Configure(_))) {
            match order {
                Order::Configure(live) => self.configure(processor, &live, now, sink),
                Order::SelfTest { ticket } => self.self_test(processor, ticket, now, sink),
                Order::Ask { ticket, question } => {
                    match processor.model().begin(&Prompt::Ask(&question), now) {
                        Some(asking) => self.writing = Some((Purpose::Question(ticket), asking)),
                        None => self.report(ticket, Outcome::NoData),
                    }
                    break;
                }
            }
        }
        self.begin_caption(processor, now);
        let Some((purpose, asking)) = &mut self.writing else { return Ok(false) };
        let purpose = *purpose;
        if let Some(answer) = processor.model_mut().resume(asking)? {
            self.writing = None;
            self.deliver(purpose, answer, sink);
        }
        Ok(self.writing.is_some())
    }

    fn configure(
        &mut self,
        processor: &mut Processor,
        live: &Live,
        now: MonoTime,
        sink: &mut dyn FnMut(Product),
    ) {
        if let Err(error) = processor.configure(live.events.clone(), live.quiet, &live.quiet_labels) {
            // The controller has checked them: a bug, but no reason to stop.
            tracing::error!(%error, "settings were not taken over");
        }
        let newly = [
            (Sense::Hear, live.paused.hear && !self.paused.hear),
            (Sense::See, live.paused.see && !self.paused.see),
        ];
        let senses: Vec<_> = newly.iter().filter(|(_, newly)| *newly).map(|(sense, _)| *sense).collect();
        if !senses.is_empty() {
            // What is not sensed any more cannot go on: no snippet may come to say so.
            processor.finish_senses(&senses, now, sink);
        }
        self.paused = live.paused;
        if live.caption_every != self.caption_every {
            self.caption_every = live.caption_every;
            self.next_caption = (!live.caption_every.is_zero()).then(|| now + live.caption_every);
        }
    }

    fn self_test(
        &mut self,
        processor: &mut Processor,
        ticket: Ticket,
        now: MonoTime,
        sink: &mut dyn FnMut(Product),
    ) {
        let outcome = match processor.self_test(&self.bundle, now, sink) {
            Ok(test) => Outcome::Tested(test),
            Err(error) => Outcome::Failed(error.to_string()),
        };
        self.report(ticket, outcome);
    }

    fn begin_caption(&mut self, processor: &Processor, now: MonoTime) {
        if self.writing.is_some() || self.next_caption.is_none_or(|due| now < due) {
            return;
        }
        self.next_caption = Some(now + self.caption_every);
        let asking = processor.model().begin(&Prompt::Caption, now);
        self.writing = asking.map(|asking| (Purpose::Caption, asking));
    }

    fn deliver(&self, purpose: Purpose, answer: Answer, sink: &mut dyn FnMut(Product)) {
        match purpose {
            Purpose::Question(ticket) => self.report(ticket, Outcome::Answer(answer)),
            Purpose::Caption if answer.sentence.text.is_empty() => {}
            Purpose::Caption => {
                let (time, confidence) = (answer.to.as_secs_f64(), f64::from(answer.sentence.confidence));
                let (time, confidence) = ((time * 1e3).round() / 1e3, (confidence * 1e3).round() / 1e3);
                let (device, text) = (self.device.clone(), answer.sentence.text);
                sink(Product::Caption(Caption { v: 1, device, time, text, confidence }));
            }
        }
    }

    fn report(&self, ticket: Ticket, outcome: Outcome) {
        self.control.inbox.report(Report { ticket, outcome });
    }
}
