//! `girasol check`: is everything in order, and if not, what to do.

mod devices;
mod meter;

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use girasol::{
    Error, ErrorKind, Result,
    clock::{Clock, RealClock},
    config::Config,
    event::{EventEngine, EventIdentity, Origin},
    model::Model,
    mqtt::{FaultKind, MqttPublisher},
};
use girasol_model::Bundle;

/// Check configuration, model bundle, camera, microphone and broker, and say what to do about each fault
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    config: super::ConfigArgs,
    /// Leave the broker out
    #[arg(long)]
    no_mqtt: bool,
    /// Leave camera and microphone out
    #[arg(long)]
    no_devices: bool,
    /// Look and listen for so many seconds instead of two; a terminal shows level and light meanwhile
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600), conflicts_with = "sync")]
    seconds: Option<u64>,
    /// Measure for so many seconds, and how far flashes are from the clicks that belong to them (sync-test video)
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=600))]
    sync: Option<u64>,
}

/// Prints one line per check and remembers the first fault's kind.
#[derive(Default)]
struct Verdicts {
    first_fault: Option<ErrorKind>,
}

impl Verdicts {
    fn add(&mut self, what: &str, result: &Result<String>) {
        match result {
            Ok(detail) => println!("ok     {what}: {detail}"),
            Err(error) => {
                println!("FAULT  {what}: {error}");
                self.first_fault.get_or_insert(error.kind());
            }
        }
    }
}

impl Verdicts {
    /// Something that the operator should see, but that is no fault: girasol runs and waits.
    fn note(&mut self, what: &str, detail: &str) {
        println!("note   {what}: {detail}");
    }
}

impl Check {
    pub(super) fn run(self) -> Result<ExitCode> {
        let mut verdicts = Verdicts::default();
        let config = self.config.load();
        verdicts.add("configuration", &config.as_ref().map(describe_config).map_err(clone_error));
        if let Ok(config) = config {
            let bundle = self.config.open_bundle(&config);
            verdicts.add("model bundle", &bundle.and_then(|bundle| check_bundle(&config, &bundle)));
            verdicts.add("ffmpeg", &Ok(check_ffmpeg()));
            if !self.no_devices {
                let length = self.sync.or(self.seconds).map(Duration::from_secs);
                devices::check(&config, length, self.sync.is_some(), &mut verdicts);
            }
            if !self.no_mqtt {
                verdicts.add("broker", &check_broker(&config));
            }
        }
        Ok(verdicts.first_fault.map_or(ExitCode::SUCCESS, |kind| ExitCode::from(kind.exit_code())))
    }
}

fn clone_error(error: &Error) -> Error {
    Error::new(error.kind(), error.to_string())
}

fn describe_config(config: &Config) -> String {
    format!("device `{}`, broker {}", config.device.name, config.mqtt.url)
}

/// Every file's hash, the ABI, the labels that the configuration names, and the golden run.
fn check_bundle(config: &Config, bundle: &Bundle) -> Result<String> {
    let mut model = Model::load(bundle)?;
    let origin = Origin::Replay { clip: String::new(), bundle: String::new() };
    let identity = EventIdentity { device: config.device.name.clone(), origin };
    EventEngine::new(model.manifest(), config.event_settings(), identity)?;
    let test = match model.self_test(bundle)? {
        Some(test) => format!("self-test within {:.0e} of the reference", test.max_difference),
        None => "no self-test in it".into(),
    };
    let manifest = model.manifest();
    Ok(format!(
        "{} {}, {} audible and {} visible labels, {test}",
        manifest.name,
        manifest.version,
        manifest.labels.audible.len(),
        manifest.labels.visible.len()
    ))
}

/// Not a fault: needed only for recordings other than .wav and .y4m.
fn check_ffmpeg() -> String {
    let version = std::process::Command::new("ffmpeg").arg("-version").output();
    match version {
        Ok(out) if out.status.success() => {
            String::from_utf8_lossy(&out.stdout).lines().next().unwrap_or("found").chars().take(40).collect()
        }
        _ => "not found; only .wav and .y4m recordings can be replayed (apt install ffmpeg)".into(),
    }
}

const BROKER_AWAY: &str = "events wait in the queue meanwhile; check mqtt.url and that the broker runs";

fn check_broker(config: &Config) -> Result<String> {
    let clock: Arc<dyn Clock> = Arc::new(RealClock);
    let mut settings = config.mqtt_settings();
    // The running service must not be thrown out by a client of the same id.
    settings.client_id = Some(format!("girasol-check-{}", std::process::id()));
    settings.device = format!("{}-check-{}", settings.device, std::process::id());
    // Nor its outbox.
    settings.outbox.directory = None;
    let publisher = MqttPublisher::start(settings, clock)?;
    let connected = publisher.wait_connected(Duration::from_secs(5));
    let status = publisher.shutdown(Duration::from_secs(1));
    if connected {
        return Ok(format!("connected to {}", config.mqtt.url));
    }
    let error = Error::new(ErrorKind::Unavailable, format!("{}: no connection", config.mqtt.url));
    let Some(fault) = status.last_fault else {
        return Err(error.cause("no answer within 5 s").help(BROKER_AWAY));
    };
    let error = error.cause(fault.text);
    // The others say themselves what to do.
    Err(if fault.kind == FaultKind::Unreachable { error.help(BROKER_AWAY) } else { error })
}
