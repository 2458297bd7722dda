//! `girasol watch`: events from the broker, for people or as JSON.

use std::{io::Write, ops::ControlFlow, process::ExitCode};

use clap::Args;
use girasol::{
    Error, Result,
    config::Config,
    mqtt::{Seen, describe, watch},
};

/// Subscribe to a broker and print the events as they come
#[derive(Debug, Args)]
pub(super) struct Watch {
    #[command(flatten)]
    config: super::ConfigArgs,
    /// Broker; overrides `mqtt.url`
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Only this device; without it, all below the topic prefix
    #[arg(long, value_name = "NAME")]
    device: Option<String>,
    /// Print payloads as they come, one a line
    #[arg(long)]
    json: bool,
    /// Stop after this many events
    #[arg(long, value_name = "N")]
    count: Option<u64>,
}

impl Watch {
    pub(super) fn run(self) -> Result<ExitCode> {
        let mut config: Config = self.config.load()?;
        if let Some(url) = &self.url {
            config.mqtt.url.clone_from(url);
        }
        let mut settings = config.mqtt_settings();
        // A watcher must not take over the device's own session.
        settings.client_id = Some(format!("girasol-watch-{}", std::process::id()));
        let device = self.device.as_deref().unwrap_or("+");
        let filter = format!("{}/{device}/event", settings.prefix);

        let mut out = std::io::stdout();
        let (mut left, mut fault) = (self.count, None);
        watch(&settings, &[filter], &mut |seen| {
            let line = match seen {
                Seen::Subscribed => {
                    tracing::info!(url = settings.url, "subscribed");
                    return ControlFlow::Continue(());
                }
                Seen::Lost(why) => {
                    tracing::warn!(why = why.text, "no connection; trying again");
                    return ControlFlow::Continue(());
                }
                Seen::Idle => return ControlFlow::Continue(()),
                Seen::Message { payload, .. } if self.json => String::from_utf8_lossy(payload).into_owned(),
                Seen::Message { topic, payload, .. } => describe(topic, payload),
            };
            if let Err(e) = writeln!(out, "{line}").and_then(|()| out.flush()) {
                if e.kind() != std::io::ErrorKind::BrokenPipe {
                    fault = Some(Error::io("standard output", e));
                }
                return ControlFlow::Break(());
            }
            left = left.map(|n| n.saturating_sub(1));
            if left == Some(0) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        fault.map_or(Ok(ExitCode::SUCCESS), Err)
    }
}
