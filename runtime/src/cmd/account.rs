//! What `run` and `replay` tell about themselves: events, the state, and how unusual each snippet was.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::Arc,
    time::Duration,
};

use girasol::{
    Error, Result,
    clock::{Clock, MonoTime},
    config::Config,
    mqtt::{BundleState, MqttPublisher, Publisher, State, Surprise, Topics},
    pipeline::{Ages, Emitter, Processor, Report},
    timeline::AssemblerCounters,
};

use super::rss_kib;

/// The way out for everything that a pipeline makes, and the state that is published beside it.
pub(super) struct Account<'a> {
    /// Events go through this.
    pub(super) emitter: Emitter<'a>,
    /// What is published next; what is not counted here is the caller's to fill in.
    pub(super) state: State,
    publisher: Option<&'a MqttPublisher>,
    clock: &'a Arc<dyn Clock>,
    started: MonoTime,
    busy: Duration,
}

impl<'a> Account<'a> {
    /// Publishes through `publisher`, if there is one, and writes events to the file `events`, too.
    ///
    /// # Errors
    /// When that file cannot be made.
    pub(super) fn new(
        config: &Config,
        processor: &Processor,
        publisher: Option<&'a MqttPublisher>,
        clock: &'a Arc<dyn Clock>,
        events: Option<&Path>,
    ) -> Result<Self> {
        let settings = config.mqtt_settings();
        let topics = Topics::new(&settings.prefix, &settings.device)?;
        let ages = Ages { event: settings.event_expiry, why: settings.why_expiry };
        let mut emitter = Emitter::new(topics, ages, publisher.map(|p| p as &dyn Publisher));
        if let Some(path) = events {
            emitter = emitter.also_to(path.display().to_string(), open_lines(path)?);
        }
        let state = State {
            v: 1,
            device: config.device.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            bundle: Some(bundle_state(processor)),
            kernels: Some(processor.model().arithmetic().kernel.into()),
            ..State::default()
        };
        Ok(Self { emitter, state, publisher, clock, started: clock.now(), busy: Duration::ZERO })
    }

    /// Mean work per snippet over the time that it lasts.
    pub(super) fn realtime_factor(&self) -> f64 {
        self.busy.as_secs_f64() / (self.state.counters.snippets.max(1) as f64 * 0.96)
    }

    /// A snippet is done.
    pub(super) fn snippet(&mut self, report: &Report, counters: &AssemblerCounters) {
        self.busy += report.cost;
        let counted = &mut self.state.counters;
        (counted.snippets, counted.skipped, counted.resets) =
            (counters.delivered, counters.skipped, report.resets);
        self.state.realtime_factor = Some(round(self.realtime_factor()));
        self.state.drift_ppm = report.drift_ppm.map(|ppm| round(f64::from(ppm)));
        if let Some(z) = report.surprise {
            self.emitter.surprise(&Surprise {
                v: 1,
                device: self.state.device.clone(),
                time: round(report.end.as_secs_f64()),
                snippet: report.index,
                surprise: round(f64::from(z)),
            });
        }
    }

    /// Publishes the state as it is now.
    pub(super) fn publish(&mut self) {
        let Some(publisher) = self.publisher else { return };
        let status = publisher.status();
        let counters = &mut self.state.counters;
        counters.queued = status.outbox.queued;
        counters.acked = status.outbox.acked;
        counters.dropped = status.outbox.dropped;
        counters.expired = status.outbox.expired;
        counters.poison = status.outbox.poison;
        counters.reconnects = status.reconnects();
        self.state.outbox_fault = status.outbox_fault;
        self.state.rss_kib = Some(rss_kib());
        self.state.uptime = round(self.clock.now().since(self.started) as f64 / 1e9);
        self.emitter.state(&self.state);
    }
}

fn open_lines(path: &Path) -> Result<Box<dyn Write>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdout().lock()));
    }
    let file = File::create(path).map_err(|e| Error::io(path, e))?;
    Ok(Box::new(BufWriter::new(file)))
}

fn bundle_state(processor: &Processor) -> BundleState {
    let manifest = processor.model().manifest();
    BundleState {
        name: manifest.name.clone(),
        version: manifest.version.clone(),
        id: processor.model().bundle_id().to_owned(),
    }
}

/// To a thousandth.
pub(super) fn round(x: f64) -> f64 {
    (x * 1000.0).round() / 1000.0
}
