//! From products to bytes: events and `why` records as JSON, to the broker and to a file.

use std::{io::Write, time::Duration};

use super::Product;
use crate::{
    Error, Result,
    mqtt::{Message, Publisher, State, Surprise, Topics},
};

/// Ages at which messages are no longer worth sending.
#[derive(Clone, Copy, Debug)]
pub struct Ages {
    /// Of events.
    pub event: Duration,
    /// Of `why` records.
    pub why: Duration,
}

/// Serialises what the processor makes and hands it on.
pub struct Emitter<'a> {
    topics: Topics,
    ages: Ages,
    publisher: Option<&'a dyn Publisher>,
    lines: Option<Box<dyn Write + 'a>>,
    /// What the lines are written to, for errors.
    file: String,
    fault: Option<Error>,
    events: u64,
}

impl<'a> Emitter<'a> {
    /// Publishes below `topics`, if there is a publisher; messages expire at these `ages`.
    #[must_use]
    pub fn new(topics: Topics, ages: Ages, publisher: Option<&'a dyn Publisher>) -> Self {
        Self { topics, ages, publisher, lines: None, file: String::new(), fault: None, events: 0 }
    }

    /// Writes each event as a line of JSON, too; `file` names the place in errors.
    #[must_use]
    pub fn also_to(mut self, file: String, lines: Box<dyn Write + 'a>) -> Self {
        (self.file, self.lines) = (file, Some(lines));
        self
    }

    /// Takes a product. A fault is kept for [`Self::check`]: the processor cannot do anything about it.
    pub fn take(&mut self, product: &Product) {
        let (topic, age, payload) = match product {
            Product::Event(event) => (self.topics.event(), self.ages.event, serde_json::to_vec(event)),
            Product::Why(why) => (self.topics.why(), self.ages.why, serde_json::to_vec(why)),
        };
        let Ok(payload) = payload else {
            tracing::error!("an event could not be written as JSON");
            return;
        };
        if matches!(product, Product::Event(_)) {
            self.events += 1;
            self.write_line(&payload);
        }
        if let Some(publisher) = self.publisher {
            self.send(publisher, Ok(Message::new(topic, payload).expires_after(age)));
        }
    }

    /// Publishes what the device is and does; the broker keeps it.
    pub fn state(&self, state: &State) {
        if let Some(publisher) = self.publisher {
            self.send(publisher, Message::json(self.topics.state(), state).map(Message::retained));
        }
    }

    /// Publishes how unusual a snippet was, if the broker is there to take it.
    pub fn surprise(&self, surprise: &Surprise) {
        if let Some(publisher) = self.publisher {
            self.send(publisher, Message::json(self.topics.surprise(), surprise).map(Message::volatile));
        }
    }

    fn send(&self, publisher: &dyn Publisher, message: Result<Message>) {
        match message.map(|m| publisher.publish(m)) {
            Ok(Ok(())) => {}
            Ok(Err(refused)) => tracing::warn!(%refused, "a message was not taken for publishing"),
            Err(error) => tracing::error!(%error, "a message could not be written as JSON"),
        }
    }

    /// Number of events so far.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The first fault in writing, once.
    pub fn check(&mut self) -> Result<()> {
        self.fault.take().map_or(Ok(()), Err)
    }

    /// Writes out what is buffered.
    pub fn flush(&mut self) -> Result<()> {
        if let Some(lines) = &mut self.lines {
            lines.flush().map_err(|e| lost(&self.file, e))?;
        }
        self.check()
    }

    fn write_line(&mut self, payload: &[u8]) {
        let Some(lines) = &mut self.lines else { return };
        if let Err(e) = lines.write_all(payload).and_then(|()| lines.write_all(b"\n")) {
            // One report, then no more tries: a full disk stays full for a while.
            self.lines = None;
            self.fault.get_or_insert(lost(&self.file, e));
        }
    }
}

fn lost(file: &str, error: std::io::Error) -> Error {
    Error::io(file, error).help("events could not be written there: is the disk full?")
}
