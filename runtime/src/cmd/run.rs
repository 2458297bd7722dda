//! `girasol run`: the service. Camera and microphone in, events out, for months.

use std::{
    path::Path,
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use clap::Args;
use girasol::{
    Result,
    clock::{Clock, MonoTime, RealClock},
    command::{Control, Incoming},
    config::Config,
    event::{ClockWall, EventIdentity, Origin, Sense},
    mqtt::{MqttPublisher, Publisher, SourceState, State, Surprise, Topics},
    pipeline::{
        Ages, Crew, DutyControl, Emitter, LiveListener, LiveSource, LiveSources, LiveStatus, Operator,
        Processor, Product, Progress, Report, run_live,
    },
    service::{self, Idle, Part, Signals, Supervisor, Systemd},
    source::{
        alsa::Microphone,
        liveness::{LivenessConfig, State as Liveness, Supervised},
        v4l2::Camera,
    },
};
use girasol_board::Board;

use super::{
    operate::{Operations, Settings},
    replay::{bundle_state, round},
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
/// The loop is late, for the watchdog, when it has neither worked on a snippet nor served an idle state for so long.
const PATIENCE: Duration = Duration::from_secs(15);

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
        let signals = Signals::install()?;
        service::keep_media_in_memory();
        let clock: Arc<dyn Clock> = Arc::new(RealClock);
        let board = Board::recognise(Path::new("/"), &config.board.profiles()?);
        let duty = DutyControl::new(&board, Path::new("/"), &config.board, Arc::clone(&clock));
        let bundle = self.config.open_bundle(&config)?;
        let identity = |_: &str| EventIdentity {
            device: config.device.name.clone(),
            origin: Origin::Live { boot_id: boot_id(), wall: Box::new(ClockWall(Arc::clone(&clock))) },
        };
        let mut processor = Processor::new(&bundle, config.event_settings(), identity, Arc::clone(&clock))?;
        let settings = Settings {
            config: config.clone(),
            path: self.config.config.clone(),
            bundle: self.config.bundle.clone(),
            labels: bundle.manifest().labels.clone(),
            keep: true,
        };
        let (operations, publisher) = Operations::start(&settings, &clock, !self.no_mqtt)?;
        let control = Arc::clone(&operations.control);
        processor.model_mut().give_up_at(signals.stop());
        if let Some(publisher) = &publisher {
            processor.set_next_seq(publisher.first_seq());
        }
        let operator = Operator::new(Arc::clone(&control), bundle, config.device.name.clone());
        let settings = config.mqtt_settings();
        let topics = Topics::new(&settings.prefix, &settings.device)?;
        let ages = Ages { event: settings.event_expiry, why: settings.why_expiry };
        let mut emitter = Emitter::new(topics, ages, publisher.as_ref().map(|p| p as &dyn Publisher));
        if let Some(path) = &self.events {
            emitter = emitter.also_to(path.display().to_string(), super::replay::open_lines(path)?);
        }
        let mut service = Service::new(&config, emitter, publisher.as_ref(), &clock, (&control, &signals));
        let arithmetic = processor.model().arithmetic();
        service.state.bundle = Some(bundle_state(&processor));
        service.state.kernels = Some(arithmetic.kernel.into());
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            device = config.device.name,
            board = board.identity.model,
            kernel = arithmetic.kernel,
            int8_nodes = arithmetic.int8_nodes,
            "running"
        );
        service.supervisor.ready("looking for camera and microphone");
        let (devices, crew) = (sources(&config, &clock), Crew { operator, duty });
        let outcome = run_live(devices, &mut processor, crew, &clock, signals.stop(), &mut service);
        let events = service.emitter.events();
        drop(service);
        drop(operations);
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
    control: &'a Control,
    signals: &'a Signals,
    supervisor: Supervisor<Systemd>,
    pipeline: Arc<Part>,
}

impl<'a> Service<'a> {
    fn new(
        config: &Config,
        emitter: Emitter<'a>,
        publisher: Option<&'a MqttPublisher>,
        clock: &'a Arc<dyn Clock>,
        (control, signals): (&'a Control, &'a Signals),
    ) -> Self {
        let mut supervisor = Supervisor::new(Arc::clone(clock), Systemd);
        let pipeline = supervisor.register("pipeline", PATIENCE);
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
            control,
            signals,
            supervisor,
            pipeline,
        }
    }

    /// Publishes the state when it is due or when something that people wait for has changed.
    fn publish_state(&mut self, status: &LiveStatus, now: MonoTime) {
        let muted = |sense| self.control.paused_flag(sense).load(Ordering::Relaxed);
        let camera = source_state(status.video, muted(Sense::See));
        let microphone = source_state(status.audio, muted(Sense::Hear));
        let skipped = status.counters.skipped;
        if skipped > self.state.counters.skipped {
            self.skipped_at = Some(now);
        }
        let shedding = self.skipped_at.is_some_and(|at| now < at + SHEDDING);
        let changed = delivers(camera) != delivers(self.state.camera)
            || delivers(microphone) != delivers(self.state.microphone)
            || shedding != self.state.shedding
            || self.state.board.is_some_and(|board| board.duty != status.board.duty)
            || self.control.take_news();
        self.state.board = Some(status.board);
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
        self.state.standing = self.control.standing();
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
        if self.signals.take_reload() {
            self.control.inbox.offer(Incoming { name: "reload".into(), ..Incoming::default() });
        }
        self.publish_state(status, self.clock.now());
        let line = format!("camera {}, microphone {}", word(self.state.camera), word(self.state.microphone));
        self.supervisor.status(&line);
        self.supervisor.turn();
    }

    fn progress(&mut self, progress: Progress) {
        match progress {
            Progress::Snippet => self.pipeline.completed(),
            Progress::Waiting => self.pipeline.serving(Idle::Waiting),
            Progress::Muted => self.pipeline.serving(Idle::Muted),
        }
    }

    fn closing(&mut self, status: &LiveStatus) {
        self.supervisor.stopping();
        if let Err(error) = self.emitter.flush() {
            tracing::error!("{error}");
        }
        let now = self.clock.now();
        self.publish_state(status, now);
        // In any case: the last counters are worth it.
        self.send_state(now);
        if let Some(publisher) = self.publisher
            && publisher.status().connected
        {
            let _ = publisher.flush(LAST_FLUSH);
        }
    }
}

/// For the status line; `healthy` and the like, as in the state message.
fn word(state: SourceState) -> String {
    serde_json::to_value(state).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn source_state(state: Option<Liveness>, muted: bool) -> SourceState {
    match state {
        None => SourceState::Absent,
        Some(Liveness::Healthy) if muted => SourceState::Muted,
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
