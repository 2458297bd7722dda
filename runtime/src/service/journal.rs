//! Log lines for the journal: it has the time already and takes the severity from a prefix.

use std::{fmt, os::unix::fs::MetadataExt};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// Whether standard error goes to the journal: `$JOURNAL_STREAM` names its device and inode.
#[must_use]
pub fn to_journal() -> bool {
    let Ok(meta) = std::fs::metadata("/proc/self/fd/2") else { return false };
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    stream == format!("{}:{}", meta.dev(), meta.ino())
}

/// Lines as `<4>girasol::source: microphone lost error="unplugged"`: severity as in syslog, then the module, the
/// message, and each field as `name=value`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let meta = event.metadata();
        write!(writer, "<{}>{}: ", severity(*meta.level()), meta.target())?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

fn severity(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_carry_severity_module_and_fields() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .with_ansi(false)
            .event_format(Journal)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(error = "unplugged", "camera lost");
            tracing::warn!("warm");
            tracing::info!(snippet = 3, "done");
            tracing::debug!("detail");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let target = module_path!();
        assert_eq!(
            text,
            format!(
                "<3>{target}: camera lost error=\"unplugged\"\n<4>{target}: warm\n<6>{target}: done snippet=3\n\
                 <7>{target}: detail\n"
            )
        );
    }

    #[test]
    fn a_terminal_or_file_is_not_the_journal() {
        assert!(!to_journal());
    }
}
