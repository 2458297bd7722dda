//! SIGTERM and SIGINT end the run, SIGHUP has the configuration read again.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{Error, ErrorKind, Result};

/// What signals asked for. Handlers only set flags; the loop looks at them at every turn.
#[derive(Clone, Debug, Default)]
pub struct Signals {
    stop: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
}

impl Signals {
    /// Handles all three.
    pub fn install() -> Result<Self> {
        let signals = Self { stop: Self::stop_flag()?, reload: Arc::default() };
        signal_hook::flag::register(SIGHUP, Arc::clone(&signals.reload)).map_err(cannot)?;
        Ok(signals)
    }

    /// A flag that SIGINT and SIGTERM set, so that open events are ended and `offline` is said; a second signal ends
    /// the process at once.
    pub fn stop_flag() -> Result<Arc<AtomicBool>> {
        let stop = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: at the first signal the flag is not yet set when the shutdown looks at it.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
                .map_err(cannot)?;
        }
        Ok(stop)
    }

    /// The run is to end.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The flag itself, for those who wait on it.
    #[must_use]
    pub fn stop(&self) -> &Arc<AtomicBool> {
        &self.stop
    }

    /// The configuration is to be read again; true once per request.
    #[must_use]
    pub fn take_reload(&self) -> bool {
        self.reload.swap(false, Ordering::Relaxed)
    }
}

fn cannot(e: std::io::Error) -> Error {
    Error::new(ErrorKind::Internal, "cannot handle signals").cause(e)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sighup_asks_for_one_reload_and_stops_nothing() {
        let signals = Signals::install().unwrap();
        assert!(!signals.take_reload());
        signal_hook::low_level::raise(SIGHUP).unwrap();
        assert!(signals.take_reload());
        assert!(!signals.take_reload());
        assert!(!signals.stopping());
    }
}
