//! `girasol replay`: the real pipeline on a recording.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::{Args, ValueEnum};
use girasol::{
    Error, ErrorKind, Result,
    clock::{Clock, MonoTime, RealClock},
    command::{Control, Standing},
    config::Config,
    event::{EventIdentity, Origin},
    mqtt::{MqttPublisher, SourceState},
    pipeline::{Listener, Operator, Processor, Product, Replay as Player, Report, Speed, Summary},
    service::Signals,
    source::clip::{Clip, Want},
    timeline::AssemblerCounters,
};

use super::{
    account::{Account, round},
    operate::{self, Operations, Settings},
    rss_kib,
};

/// Snippets between two publications of the state: about half a minute.
const STATE_EVERY: u64 = 32;
/// How long the broker gets to take what is left at the end.
const FAREWELL: Duration = Duration::from_secs(10);

/// Run the pipeline on a recording: .wav and .y4m natively (clip.y4m together with clip.wav), anything else through ffmpeg
#[derive(Debug, Args)]
pub(super) struct Replay {
    /// The recording
    clip: PathBuf,
    #[command(flatten)]
    config: super::ConfigArgs,
    /// As fast as it goes instead of in real time; never skips
    #[arg(long)]
    full_speed: bool,
    /// Leave the picture out
    #[arg(long, conflicts_with = "video_only")]
    audio_only: bool,
    /// Leave the sound out
    #[arg(long)]
    video_only: bool,
    /// Publish nothing
    #[arg(long)]
    no_mqtt: bool,
    /// Write each event as a line of JSON to this file; - is standard output
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// What to say on standard error after each snippet
    #[arg(long, value_enum, default_value_t = Progress::Auto)]
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Progress {
    /// A line that is rewritten, on a terminal; nothing elsewhere
    Auto,
    /// A line that is rewritten
    Plain,
    /// A line of JSON per snippet
    Json,
    /// Nothing
    None,
}

impl Replay {
    pub(super) fn run(self) -> Result<ExitCode> {
        let config = self.config.load()?;
        let clock: Arc<dyn Clock> = Arc::new(RealClock);
        let want = self.want(&config)?;
        let clip = Clip::open(&self.clip, want)?;
        let bundle = self.config.open_bundle(&config)?;
        let settings = Settings {
            config: config.clone(),
            path: self.config.config.clone(),
            bundle: self.config.bundle.clone(),
            labels: bundle.manifest().labels.clone(),
            keep: config.commands.enabled && !self.full_speed,
        };
        let identity = |bundle: &str| EventIdentity {
            device: config.device.name.clone(),
            origin: Origin::Replay { clip: clip.id_hex(), bundle: bundle.to_owned() },
        };
        let mut processor = Processor::new(&bundle, config.event_settings(), identity, Arc::clone(&clock))?;

        let mqtt = config.mqtt_settings();
        let on_disk = mqtt.outbox.directory.is_some();
        // What runs faster than life cannot be operated, and is no device for Home Assistant.
        let (mut operator, publisher) = match (self.full_speed, self.no_mqtt) {
            (true, true) => (None, None),
            (true, false) => (None, Some(MqttPublisher::start(mqtt, Arc::clone(&clock))?)),
            (false, no_mqtt) => {
                let (operations, publisher) = Operations::start(&settings, &clock, !no_mqtt)?;
                let control = Arc::clone(&operations.control);
                let operator = Operator::new(control, bundle, config.device.name.clone());
                (Some((operator, operations)), publisher)
            }
        };
        let standing = match &operator {
            Some((_, operations)) => operations.control.standing(),
            None => operate::standing(&settings, &clock)?,
        };
        let operator_only = operator.as_mut().map(|(operator, _)| operator);
        let stage = Stage { clock: &clock, publisher: publisher.as_ref(), operator: operator_only, standing };
        let (summary, events) = self.play(&config, clip, &mut processor, stage)?;
        drop(operator);
        let unsent = publisher.map_or(0, |p| {
            // Also for a broker that is not there yet, for which `shutdown` would not wait.
            let _ = p.flush(FAREWELL);
            let status = p.shutdown(FAREWELL);
            let counts = status.outbox;
            let kept = if on_disk && status.outbox_fault.is_none() { counts.queued } else { 0 };
            if kept > 0 {
                tracing::warn!("{kept} messages did not reach the broker: they wait in the outbox");
            }
            counts.queued - kept + counts.dropped + counts.expired + counts.poison
        });
        self.report(&config, &summary, events, unsent)
    }

    /// Plays the clip; returns what it came to and the number of events.
    fn play(
        &self,
        config: &Config,
        clip: Clip,
        processor: &mut Processor,
        Stage { clock, publisher, operator, standing }: Stage<'_>,
    ) -> Result<(Summary, u64)> {
        let (speed, epoch) = match self.full_speed {
            true => (Speed::Full, MonoTime(0)),
            false => (Speed::RealTime, clock.now() + Duration::from_millis(100)),
        };
        let progress =
            ProgressLine::new(self.progress, clip.duration, clock, (!self.full_speed).then_some(epoch));
        let there = [clip.video.is_some(), clip.audio.is_some()].map(source_state);
        let mut account = Account::new(config, processor, publisher, clock, self.events.as_deref())?;
        (account.state.camera, account.state.microphone) = (there[0], there[1]);
        account.state.standing = standing;
        let control = operator.as_ref().map(|o| Arc::clone(o.control()));
        let mut playing = Playing { account, publisher, progress, speed, control, there };
        playing.publish_state();
        let stop = Signals::stop_flag()?;
        let player = Player::new(clip, processor, Arc::clone(clock)).operated_by(operator);
        let summary = player.run(speed, epoch, &stop, &mut playing)?;
        playing.close();
        playing.account.emitter.flush()?;
        playing.progress.finish();
        Ok((summary, playing.account.emitter.events()))
    }

    /// What of the recording is taken in. In real time a pause is the sources' business and may end.
    fn want(&self, config: &Config) -> Result<Want> {
        let paused = |paused: bool| self.full_speed && paused;
        let audio = !self.video_only && !paused(config.hear.paused);
        let video = !self.audio_only && !paused(config.see.paused);
        if audio || video {
            return Ok(Want { audio, video });
        }
        Err(Error::new(ErrorKind::Config, "nothing to replay: hear.paused and see.paused are set")
            .help("set one of them to false"))
    }

    fn report(&self, config: &Config, summary: &Summary, events: u64, unsent: u64) -> Result<ExitCode> {
        let c = &summary.counters;
        let position = summary.end.as_secs_f64();
        tracing::info!(
            snippets = c.delivered,
            skipped = c.skipped,
            dropped = summary.dropped,
            events,
            seconds = position,
            busy_ms = u64::try_from(summary.busy.as_millis()).unwrap_or(u64::MAX),
            rss_kib = rss_kib(),
            "replay done"
        );
        if c.delivered == 0 {
            return Err(Error::new(
                ErrorKind::Data,
                format!("{}: shorter than one snippet", self.clip.display()),
            )
            .help("a recording needs at least half a second"));
        }
        if unsent > 0 {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("{unsent} messages did not reach the broker at {}", config.mqtt.url),
            )
            .help(
                "is it running? `girasol check` tries the connection; --no-mqtt replays without a broker",
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What a replay plays on.
struct Stage<'a> {
    clock: &'a Arc<dyn Clock>,
    publisher: Option<&'a MqttPublisher>,
    operator: Option<&'a mut Operator>,
    standing: Standing,
}

/// Hands products to the emitter and says how it goes.
struct Playing<'a> {
    account: Account<'a>,
    publisher: Option<&'a MqttPublisher>,
    progress: ProgressLine<'a>,
    speed: Speed,
    control: Option<Arc<Control>>,
    /// Camera and microphone when they are not paused.
    there: [SourceState; 2],
}

impl Playing<'_> {
    fn publish_state(&mut self) {
        let state = &mut self.account.state;
        if let Some(control) = &self.control {
            state.standing = control.standing();
            let paused = control.paused();
            let sources = [&mut state.camera, &mut state.microphone];
            for ((source, there), paused) in
                sources.into_iter().zip(self.there).zip([paused.see, paused.hear])
            {
                let muted = paused && there == SourceState::Healthy;
                *source = if muted { SourceState::Muted } else { there };
            }
        }
        self.account.publish();
    }

    /// The recording is over: says so.
    fn close(&mut self) {
        let state = &mut self.account.state;
        for source in self.there.iter_mut().chain([&mut state.camera, &mut state.microphone]) {
            if *source != SourceState::Absent {
                *source = SourceState::Ended;
            }
        }
        self.publish_state();
    }
}

fn source_state(there: bool) -> SourceState {
    if there { SourceState::Healthy } else { SourceState::Absent }
}

impl Listener for Playing<'_> {
    fn product(&mut self, product: Product) {
        self.account.emitter.take(&product);
    }

    fn idle(&mut self) {
        if self.control.as_ref().is_some_and(|control| control.take_news()) {
            self.publish_state();
        }
    }

    fn report(&mut self, report: &Report, counters: &AssemblerCounters) -> Result<()> {
        self.account.snippet(report, counters);
        self.progress.show(report, self.account.realtime_factor());
        if counters.delivered.is_multiple_of(STATE_EVERY) {
            self.publish_state();
        }
        if self.speed == Speed::Full
            && let Some(publisher) = self.publisher
            && let status = publisher.status()
            && status.connected
            && status.outbox.queued > 512
        {
            // Nothing may be dropped from the queue only because the clip runs faster than life.
            let _ = publisher.flush(FAREWELL);
        }
        self.account.emitter.check()
    }
}

/// The progress line, or lines of JSON.
struct ProgressLine<'a> {
    style: Progress,
    duration: Option<Duration>,
    clock: &'a Arc<dyn Clock>,
    /// Where the clip's time 0 stands on the clock, in real time.
    epoch: Option<MonoTime>,
    shown: bool,
}

impl<'a> ProgressLine<'a> {
    fn new(
        style: Progress,
        duration: Option<Duration>,
        clock: &'a Arc<dyn Clock>,
        epoch: Option<MonoTime>,
    ) -> Self {
        let style = match style {
            Progress::Auto if std::io::stderr().is_terminal() => Progress::Plain,
            Progress::Auto => Progress::None,
            style => style,
        };
        if style == Progress::Json {
            let ahead = epoch.map_or(0, |epoch| epoch.since(clock.now()) / 1_000_000);
            eprintln!("{}", serde_json::json!({ "epoch_unix_ms": clock.wall_ms() + ahead }));
        }
        Self { style, duration, clock, epoch, shown: false }
    }

    fn show(&mut self, report: &Report, factor: f64) {
        self.shown = true;
        let position = report.end.as_secs_f64();
        let cost_ms = report.cost.as_secs_f64() * 1e3;
        match self.style {
            Progress::Json => {
                // From the end of the snippet to the end of the work on it.
                let late = |epoch: MonoTime| self.clock.now().since(epoch) - report.end.0;
                let late_ms = self.epoch.map(|epoch| round(late(epoch) as f64 / 1e6));
                let line = serde_json::json!({
                    "snippet": report.index, "position_s": position, "cost_ms": round(cost_ms), "late_ms": late_ms,
                    "rtf": round(factor), "rss_kb": rss_kib(),
                });
                eprintln!("{line}");
            }
            Progress::Plain => {
                let of = self.duration.map_or(String::new(), |d| format!(" of {:.1}", d.as_secs_f64()));
                eprint!(
                    "\r{position:7.1} s{of}  snippet {cost_ms:6.1} ms  real-time factor {factor:.3}  RSS {:.1} MB ",
                    rss_kib() as f64 / 1024.0
                );
            }
            Progress::Auto | Progress::None => {}
        }
    }

    fn finish(&self) {
        if self.style == Progress::Plain && self.shown {
            eprintln!();
        }
    }
}
