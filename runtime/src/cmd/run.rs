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
    mqtt::{MqttPublisher, SourceState},
    pipeline::{
        Crew, DutyControl, LiveListener, LiveSource, LiveSources, LiveStatus, Operator, Processor, Product,
        Progress, Report, run_live,
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
    account::Account,
    operate::{Operations, Settings},
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
        let mut account =
            Account::new(&config, &processor, publisher.as_ref(), &clock, self.events.as_deref())?;
        account.state.profile = Some(board.profile.name.clone());
        let mut service = Service::new(account, publisher.as_ref(), &clock, (&control, &signals));
        let arithmetic = processor.model().arithmetic();
        if config.state.located().is_none() {
            tracing::warn!(
                "no state directory: messages that the broker does not have and settings made by command end with the \
                 program; set state.directory"
            );
        }
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
        let events = service.account.emitter.events();
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
    account: Account<'a>,
    publisher: Option<&'a MqttPublisher>,
    clock: &'a Arc<dyn Clock>,
    published_at: Option<MonoTime>,
    /// Snippets skipped so far, and when that last grew.
    skipped: u64,
    skipped_at: Option<MonoTime>,
    control: &'a Control,
    signals: &'a Signals,
    supervisor: Supervisor<Systemd>,
    pipeline: Arc<Part>,
    /// The supervisor's status line, and what it says of camera and microphone.
    line: String,
    line_says: Option<[SourceState; 2]>,
}

impl<'a> Service<'a> {
    fn new(
        account: Account<'a>,
        publisher: Option<&'a MqttPublisher>,
        clock: &'a Arc<dyn Clock>,
        (control, signals): (&'a Control, &'a Signals),
    ) -> Self {
        let mut supervisor = Supervisor::new(Arc::clone(clock), Systemd);
        let pipeline = supervisor.register("pipeline", PATIENCE);
        Self {
            account,
            publisher,
            clock,
            published_at: None,
            skipped: 0,
            skipped_at: None,
            control,
            signals,
            supervisor,
            pipeline,
            line: String::new(),
            line_says: None,
        }
    }

    /// Publishes the state when it is due or when something that people wait for has changed.
    fn publish_state(&mut self, status: &LiveStatus, now: MonoTime) {
        let muted = |sense| self.control.paused_flag(sense).load(Ordering::Relaxed);
        let camera = source_state(status.video, muted(Sense::See));
        let microphone = source_state(status.audio, muted(Sense::Hear));
        let skipped = status.counters.skipped;
        if skipped > self.skipped {
            (self.skipped, self.skipped_at) = (skipped, Some(now));
        }
        let shedding = self.skipped_at.is_some_and(|at| now < at + SHEDDING);
        let state = &mut self.account.state;
        let changed = delivers(camera) != delivers(state.camera)
            || delivers(microphone) != delivers(state.microphone)
            || shedding != state.shedding
            || state.board.is_some_and(|board| board.duty != status.board.duty)
            || self.control.take_news();
        if shedding && !state.shedding {
            tracing::warn!(skipped, "the board is too slow or too busy: snippets are skipped");
        }
        (state.camera, state.microphone) = (camera, microphone);
        (state.shedding, state.board) = (shedding, Some(status.board));
        (state.counters.skipped, state.counters.snippets) = (skipped, status.counters.delivered);
        let due = self.published_at.is_none_or(|at| now >= at + STATE_EVERY);
        if changed || due {
            self.published_at = Some(now);
            self.account.state.standing = self.control.standing();
            self.account.publish();
        }
    }

    /// Tells the service manager how the sources are. Called many times a second.
    fn tell_status(&mut self) {
        let says = [self.account.state.camera, self.account.state.microphone];
        if self.line_says != Some(says) {
            let [camera, microphone] = says.map(SourceState::as_str);
            self.line = format!("camera {camera}, microphone {microphone}");
            self.line_says = Some(says);
        }
        self.supervisor.status(&self.line);
    }
}

impl LiveListener for Service<'_> {
    fn product(&mut self, product: Product) {
        self.account.emitter.take(&product);
    }

    fn report(&mut self, report: &Report, status: &LiveStatus) {
        self.account.snippet(report, &status.counters);
        if let Err(error) = self.account.emitter.flush() {
            tracing::error!("{error}");
        }
    }

    fn turn(&mut self, status: &LiveStatus) {
        if self.signals.take_reload() {
            self.control.inbox.offer(Incoming { name: "reload".into(), ..Incoming::default() });
        }
        self.publish_state(status, self.clock.now());
        self.tell_status();
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
        if let Err(error) = self.account.emitter.flush() {
            tracing::error!("{error}");
        }
        let now = self.clock.now();
        self.publish_state(status, now);
        // In any case: the last counters are worth it.
        self.account.publish();
        if let Some(publisher) = self.publisher
            && publisher.status().connected
        {
            let _ = publisher.flush(LAST_FLUSH);
        }
    }
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
