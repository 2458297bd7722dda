//! Between the broker and the commands: requests in, responses and Home Assistant's discovery out.

use std::sync::Arc;

use girasol_model::Labels;

use super::{
    Arrived, Listener, MqttHandle, Publisher as _, Topics,
    homeassistant::{self, About},
};
use crate::{
    command::{Control, Incoming, MAX_REQUEST_BYTES, Outlet, Response},
    config::Config,
};

/// Hands requests to the [`Control`]'s inbox, and looks out for Home Assistant.
pub struct CommandListener {
    control: Arc<Control>,
    /// `…/command/`, where commands are enabled.
    commands: Option<String>,
    birth: Option<String>,
}

impl CommandListener {
    /// For the device that `config` describes.
    #[must_use]
    pub fn new(config: &Config, topics: &Topics, control: Arc<Control>) -> Self {
        let birth = format!("{}/{}", config.homeassistant.prefix, homeassistant::BIRTH);
        Self {
            control,
            commands: config.commands.enabled.then(|| topics.command("")),
            birth: config.homeassistant.discovery.then_some(birth),
        }
    }
}

impl Listener for CommandListener {
    fn filters(&self) -> Vec<String> {
        let commands = self.commands.as_ref().map(|base| format!("{base}+"));
        commands.into_iter().chain(self.birth.clone()).collect()
    }

    fn arrived(&self, message: Arrived<'_>) -> bool {
        if self.birth.as_deref() == Some(message.topic) {
            return message.payload == homeassistant::ONLINE;
        }
        let name = self.commands.as_deref().and_then(|base| message.topic.strip_prefix(base));
        if let Some(name) = name {
            // One byte more than is allowed is enough to refuse it by.
            let end = message.payload.len().min(MAX_REQUEST_BYTES + 1);
            self.control.inbox.offer(Incoming {
                name: name.to_owned(),
                payload: message.payload[..end].to_vec(),
                retained: message.retained,
                response_topic: message.response_topic.map(str::to_owned),
                correlation: message.correlation.map(<[u8]>::to_vec),
            });
        }
        false
    }
}

/// Responses and discovery by a running publisher.
pub struct MqttOutlet {
    /// The publisher.
    pub handle: MqttHandle,
    /// The device's topics.
    pub topics: Topics,
    /// Labels of the bundle.
    pub labels: Labels,
}

impl Outlet for MqttOutlet {
    fn respond(&mut self, response: Response) {
        let topic = response.topic.unwrap_or_else(|| self.topics.response());
        self.handle.respond(topic, response.payload, response.correlation);
    }

    fn configured(&mut self, config: &Config) {
        if !config.homeassistant.discovery {
            return;
        }
        let about = About { version: env!("CARGO_PKG_VERSION"), labels: &self.labels };
        match homeassistant::discovery(config, &about).map(|message| self.handle.publish(message)) {
            Ok(Ok(())) => {}
            Ok(Err(refused)) => tracing::warn!(%refused, "Home Assistant's discovery message was not taken"),
            Err(error) => tracing::warn!(%error, "no discovery message for Home Assistant"),
        }
    }
}
