//! The controller on a thread of its own.

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use super::{Control, Controller, Response, control::Item};
use crate::{Error, ErrorKind, Result, clock::Clock, config::Config};

/// Quiet hours are looked at this often.
const TICK: Duration = Duration::from_secs(1);

/// Where responses go, and who wants to know of new settings.
pub trait Outlet: Send {
    /// Sends a response; it may be lost with the connection.
    fn respond(&mut self, response: Response);
    /// Other settings are in force than before.
    fn configured(&mut self, config: &Config);
}

/// Stops when dropped.
#[derive(Debug)]
pub struct Service {
    control: Arc<Control>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts the thread.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when there can be no thread.
    pub fn start(
        mut controller: Controller,
        control: Arc<Control>,
        clock: Arc<dyn Clock>,
        mut outlet: Box<dyn Outlet>,
    ) -> Result<Self> {
        let shared = Arc::clone(&control);
        let work = move || {
            let mut known = controller.config().clone();
            outlet.configured(&known);
            loop {
                match shared.inbox.wait(TICK) {
                    Item::Incoming(incoming) => {
                        let response = controller.handle(incoming, clock.now());
                        // First the settings, then word of them.
                        if *controller.config() != known {
                            known = controller.config().clone();
                            outlet.configured(&known);
                        }
                        response.into_iter().for_each(|r| outlet.respond(r));
                    }
                    Item::Report(report) => {
                        controller.report(report).into_iter().for_each(|r| outlet.respond(r))
                    }
                    Item::Nothing => {}
                    Item::Closed => break,
                }
                controller.tick(clock.now()).into_iter().for_each(|r| outlet.respond(r));
            }
        };
        let thread = std::thread::Builder::new()
            .name("command".into())
            .spawn(work)
            .map_err(|e| Error::new(ErrorKind::Internal, "command: no thread").cause(e))?;
        Ok(Self { control, thread: Some(thread) })
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.control.inbox.close();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
