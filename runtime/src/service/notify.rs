//! What the service manager is told.

use std::time::Duration;

use sd_notify::NotifyState;

/// A piece of news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice<'a> {
    /// The loop runs.
    Ready,
    /// Everybody makes progress.
    Watchdog,
    /// One line about how things stand.
    Status(&'a str),
    /// The end has begun.
    Stopping,
}

/// A service manager.
pub trait Notify: Send {
    /// Tells it. A manager that is not there or does not listen is no fault.
    fn tell(&self, notice: &Notice<'_>);
    /// How often it wants to hear [`Notice::Watchdog`] at least; `None` if it does not care.
    fn watchdog(&self) -> Option<Duration>;
}

/// systemd, by the socket in `$NOTIFY_SOCKET`; nothing happens where that is not set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Systemd;

impl Notify for Systemd {
    fn tell(&self, notice: &Notice<'_>) {
        let state = match notice {
            Notice::Ready => NotifyState::Ready,
            Notice::Watchdog => NotifyState::Watchdog,
            Notice::Status(text) => NotifyState::Status(text),
            Notice::Stopping => NotifyState::Stopping,
        };
        if let Err(error) = sd_notify::notify(&[state]) {
            tracing::warn!(%error, "the service manager could not be told");
        }
    }

    fn watchdog(&self) -> Option<Duration> {
        sd_notify::watchdog_enabled()
    }
}
