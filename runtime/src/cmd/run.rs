//! `girasol run`: the service. Camera and microphone in, events out, for months.

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use girasol::{
    Result,
    clock::{Clock, MonoTime, RealClock},
    config::Config,
    event::{ClockWall, EventIdentity, Origin},
    mqtt::{MqttPublisher, Publisher, SourceState, State, Surprise, Topics},
    pipeline::{
        Ages, Emitter, LiveListener, LiveSource, LiveSources, LiveStatus, Processor, Product, Progress,
        Report, run_live,
    },
    source::{
        alsa::Microphone,
        liveness::{LivenessConfig, State as Liveness, Supervised},
        v4l2::Camera,
    },
};

use super::{
    replay::{bundle_state, round, stop_on_signals},
    rss_kib,
};

/// The state is published at least so often.
const STATE_EVERY: Duration = Duration::from_secs(30);
/// Shedding is declared for so long after the last skipped snippet.
const SHEDDING: Duration = Duration::from_secs(30);
/// At the end the broker gets so long to take what is left; then so long for the farewell.
const LAST_FLUSH: Duration = Duration::from_millis(800);
const FAREWELL: Duration = Duration::from_millis(800);
/// A device that comes back is noticed within four seconds, whatever its history.
const LIVENESS: Duration = Duration::from_secs(3);

/// Capture from camera and microphone and publish events until SIGTERM; missing devices are waited for
#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    config: super::ConfigArgs,
    /// Publish nothing
    #[arg(long)]
    no_mqtt: bool,
    /// Write each event as a line of JSON to this file; - is standard output
    #[arg(long, value_name = "FILE")]
    events: Option<std::path::PathBuf>,
}

impl Run {
    pub(super) fn run(self) -> Result<ExitCode> {
        let config = self.config.load()?;
        // First, so that a signal during the loading of the model is not lost.
        let stop = stop_on_signals()?;
        let clock: Arc<dyn Clock> = Arc::new(RealClock);
        let bundle = self.config.open_bundle(&config)?;
        let identity = |_: &str| EventIdentity {
            device: config.device.name.clone(),
            origin: Origin::Live { boot_id: boot_id(), wall: Box::new(ClockWall(Arc::clone(&clock))) },
        };
        let mut processor = Processor::new(&bundle, config.event_settings(), identity, Arc::clone(&clock))?;
        drop(bundle);
        let publisher = match self.no_mqtt {
            true => None,
            false => Some(MqttPublisher::start(config.mqtt_settings(), Arc::clone(&clock))?),
        };
        let settings = config.mqtt_settings();
        let topics = Topics::new(&settings.prefix, &settings.device)?;
        let ages = Ages { event: settings.event_expiry, why: settings.why_expiry };
        let mut emitter = Emitter::new(topics, ages, publisher.as_ref().map(|p| p as &dyn Publisher));
        if let Some(path) = &self.events {
            emitter = emitter.also_to(path.display().to_string(), super::replay::open_lines(path)?);
        }
        let mut service = Service::new(&config, emitter, publisher.as_ref(), &clock);
        service.state.bundle = Some(bundle_state(&processor));
        tracing::info!(version = env!("CARGO_PKG_VERSION"), device = config.device.name, "running");
        let outcome = run_live(sources(&config, &clock), &mut processor, &clock, &stop, &mut service);
        let events = service.emitter.events();
        drop(service);
        if let Some(publisher) = publisher {
            publisher.shutdown(FAREWELL);
        }
        let status = outcome?;
        tracing::info!(
            snippets = status.counters.delivered,
            skipped = status.counters.skipped,
            dropped = status.dropped,
            events,
            rss_kib = rss_kib(),
            "stopped"
        );
        Ok(ExitCode::SUCCESS)
    }
}

/// The boot's id, for event ids; empty where the kernel does not tell.
fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Camera and microphone as configured, supervised; nothing is opened yet.
fn sources(config: &Config, clock: &Arc<dyn Clock>) -> LiveSources {
    let liveness = |seed| LivenessConfig { backoff_max: LIVENESS, seed, ..LivenessConfig::default() };
    let video = config.camera.enabled.then(|| {
        let (settings, own) = (config.camera.settings(), Arc::clone(clock));
        let open = move || Camera::open(&settings, Arc::clone(&own));
        Box::new(Supervised::new("camera", open, Arc::clone(clock), liveness(1))) as Box<dyn LiveSource<_>>
    });
    let audio = config.microphone.enabled.then(|| {
        let (settings, own) = (config.microphone.settings(), Arc::clone(clock));
        let open = move || Microphone::open(&settings, Arc::clone(&own));
        Box::new(Supervised::new("microphone", open, Arc::clone(clock), liveness(2)))
            as Box<dyn LiveSource<_>>
    });
    LiveSources { video, audio }
}

/// Publishes what the pipeline makes and how it fares.
struct Service<'a> {
    emitter: Emitter<'a>,
    publisher: Option<&'a MqttPublisher>,
    clock: &'a Arc<dyn Clock>,
    state: State,
    started: MonoTime,
    published_at: Option<MonoTime>,
    skipped_at: Option<MonoTime>,
    busy: Duration,
}

impl<'a> Service<'a> {
    fn new(
        config: &Config,
        emitter: Emitter<'a>,
        publisher: Option<&'a MqttPublisher>,
        clock: &'a Arc<dyn Clock>,
    ) -> Self {
        let state = State {
            v: 1,
            device: config.device.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..State::default()
        };
        Self {
            emitter,
            publisher,
            clock,
            state,
            started: clock.now(),
            published_at: None,
            skipped_at: None,
            busy: Duration::ZERO,
        }
    }

    /// Publishes the state when it is due or when something that people wait for has changed.
    fn publish_state(&mut self, status: &LiveStatus, now: MonoTime) {
        let (camera, microphone) = (source_state(status.video), source_state(status.audio));
        let skipped = status.counters.skipped;
        if skipped > self.state.counters.skipped {
            self.skipped_at = Some(now);
        }
        let shedding = self.skipped_at.is_some_and(|at| now < at + SHEDDING);
        let changed = delivers(camera) != delivers(self.state.camera)
            || delivers(microphone) != delivers(self.state.microphone)
            || shedding != self.state.shedding;
        if shedding && !self.state.shedding {
            tracing::warn!(skipped, "the board is too slow or too busy: snippets are skipped");
        }
        (self.state.camera, self.state.microphone) = (camera, microphone);
        self.state.shedding = shedding;
        self.state.counters.skipped = skipped;
        self.state.counters.snippets = status.counters.delivered;
        let due = self.published_at.is_none_or(|at| now >= at + STATE_EVERY);
        if changed || due {
            self.send_state(now);
        }
    }

    fn send_state(&mut self, now: MonoTime) {
        self.published_at = Some(now);
        self.state.rss_kib = Some(rss_kib());
        self.state.uptime = round(now.since(self.started) as f64 / 1e9);
        if let Some(publisher) = self.publisher {
            let status = publisher.status();
            let counters = &mut self.state.counters;
            counters.queued = status.outbox.queued;
            counters.acked = status.outbox.acked;
            counters.dropped = status.outbox.dropped;
            counters.expired = status.outbox.expired;
            counters.poison = status.outbox.poison;
            counters.reconnects = status.reconnects();
        }
        self.emitter.state(&self.state);
    }
}

impl LiveListener for Service<'_> {
    fn product(&mut self, product: Product) {
        self.emitter.take(&product);
    }

    fn report(&mut self, report: &Report, status: &LiveStatus) {
        self.busy += report.cost;
        let snippets = status.counters.delivered.max(1) as f64;
        self.state.realtime_factor = Some(round(self.busy.as_secs_f64() / (snippets * 0.96)));
        self.state.drift_ppm = report.drift_ppm.map(|ppm| round(f64::from(ppm)));
        self.state.counters.resets = report.resets;
        if let Some(z) = report.surprise {
            self.emitter.surprise(&Surprise {
                v: 1,
                device: self.state.device.clone(),
                time: round(report.end.as_secs_f64()),
                snippet: report.index,
                surprise: round(f64::from(z)),
            });
        }
        if let Err(error) = self.emitter.flush() {
            tracing::error!("{error}");
        }
    }

    fn turn(&mut self, status: &LiveStatus) {
        self.publish_state(status, self.clock.now());
    }

    /// Where systemd's watchdog is fed: the first call is READY, each is WATCHDOG, and `closing` is STOPPING.
    fn progress(&mut self, _progress: Progress) {}

    fn closing(&mut self, status: &LiveStatus) {
        if let Err(error) = self.emitter.flush() {
            tracing::error!("{error}");
        }
        self.publish_state(status, self.clock.now());
        if let Some(publisher) = self.publisher
            && publisher.status().connected
        {
            let _ = publisher.flush(LAST_FLUSH);
        }
    }
}

fn source_state(state: Option<Liveness>) -> SourceState {
    match state {
        None => SourceState::Absent,
        Some(Liveness::Waiting) => SourceState::Waiting,
        Some(Liveness::Reopening) => SourceState::Reopening,
        Some(Liveness::Healthy) => SourceState::Healthy,
        Some(Liveness::Stalled) => SourceState::Stalled,
        Some(Liveness::Lost) => SourceState::Lost,
    }
}

/// Attempts to open it again every few seconds are not worth a message each.
fn delivers(state: SourceState) -> u8 {
    match state {
        SourceState::Healthy => 2,
        SourceState::Stalled => 1,
        _ => 0,
    }
}
