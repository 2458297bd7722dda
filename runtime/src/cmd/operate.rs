//! What a command that runs the pipeline in real time needs beside it: the publisher, the controller and their thread.

use std::{collections::BTreeSet, path::PathBuf, sync::Arc};

use girasol::{
    Result,
    clock::Clock,
    command::{Control, Controller, FileStore, NoStore, Outlet, Response, Service, Setup, Standing, Store},
    config::Config,
    event::{ClockWall, WallClock},
    mqtt::{CommandListener, MqttOutlet, MqttPublisher, Topics},
};
use girasol_model::Labels;

/// Where settings come from.
pub(super) struct Settings {
    /// The configuration file as it was read.
    pub(super) config: Config,
    /// Where it was named, to read it again.
    pub(super) path: Option<PathBuf>,
    /// The bundle that the command line names.
    pub(super) bundle: Option<PathBuf>,
    /// Labels of the bundle.
    pub(super) labels: Labels,
    /// Whether settings made by command are loaded and kept.
    pub(super) keep: bool,
}

/// Ends the controller's thread when dropped; the publisher is the caller's to end.
pub(super) struct Operations {
    pub(super) control: Arc<Control>,
    _service: Service,
}

impl Operations {
    /// Starts the controller and, unless `publish` is false, the publisher.
    pub(super) fn start(
        settings: &Settings,
        clock: &Arc<dyn Clock>,
        publish: bool,
    ) -> Result<(Self, Option<MqttPublisher>)> {
        let (control, config) = (Arc::new(Control::default()), &settings.config);
        // First of all, so that a pause is in force before anything is taken in.
        let controller = controller(settings, clock, &control)?;
        let mqtt = config.mqtt_settings();
        let topics = Topics::new(&mqtt.prefix, &mqtt.device)?;
        let publisher = match publish {
            true => {
                let listener = CommandListener::new(config, &topics, Arc::clone(&control));
                Some(MqttPublisher::start_listening(mqtt, Arc::clone(clock), Some(Arc::new(listener)))?)
            }
            false => None,
        };
        let outlet: Box<dyn Outlet> = match &publisher {
            Some(p) => Box::new(MqttOutlet { handle: p.handle(), topics, labels: settings.labels.clone() }),
            None => Box::new(Nowhere),
        };
        let service = Service::start(controller, Arc::clone(&control), Arc::clone(clock), outlet)?;
        Ok((Self { control, _service: service }, publisher))
    }
}

/// How settings stand where nothing can change them.
pub(super) fn standing(settings: &Settings, clock: &Arc<dyn Clock>) -> Result<Standing> {
    let control = Arc::new(Control::default());
    controller(settings, clock, &control)?;
    Ok(control.standing())
}

fn controller(settings: &Settings, clock: &Arc<dyn Clock>, control: &Arc<Control>) -> Result<Controller> {
    let Settings { config, path, bundle, labels, keep } = settings;
    let store: Box<dyn Store> = match config.state.located().filter(|_| *keep) {
        Some(directory) => Box::new(FileStore::new(directory)),
        None => Box::new(NoStore),
    };
    let (again, bundle, wall) = (path.clone(), bundle.clone(), ClockWall(Arc::clone(clock)));
    let now = Arc::clone(clock);
    let setup = Setup {
        device: config.device.name.clone(),
        labels: labels.clone(),
        file: config.clone(),
        written: written(path),
        store,
        control: Arc::clone(control),
        reload: Box::new(move || {
            let mut config = Config::load(again.as_deref())?;
            if let Some(bundle) = &bundle {
                config.model.bundle.clone_from(bundle);
            }
            Ok((config, written(&again)))
        }),
        wall: Box::new(move || wall.at(now.now()).ms),
    };
    Controller::new(setup, clock.now())
}

/// Keys that the file sets.
fn written(path: &Option<PathBuf>) -> BTreeSet<String> {
    let path = path.clone().unwrap_or_else(|| girasol::config::DEFAULT_PATH.into());
    Config::written(&std::fs::read_to_string(path).unwrap_or_default())
}

/// Without a broker there is nobody to answer.
struct Nowhere;

impl Outlet for Nowhere {
    fn respond(&mut self, _: Response) {}
    fn configured(&mut self, _: &Config) {}
}
