//! The one error type: what failed, where, and what to do about it.

use std::fmt;

/// What sort of fault it is; decides the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The command line makes no sense.
    Usage,
    /// The configuration file is wrong.
    Config,
    /// Input data (bundle, clip, message) is damaged or not understood.
    Data,
    /// Something needed is not there: file, device, program, broker.
    Unavailable,
    /// Reading or writing failed.
    Io,
    /// A bug of ours.
    Internal,
}

impl ErrorKind {
    /// The process exit status, after `sysexits.h`.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Usage => 64,
            Self::Data => 65,
            Self::Unavailable => 69,
            Self::Internal => 70,
            Self::Io => 74,
            Self::Config => 78,
        }
    }
}

/// An error that an operator can act on. Displays as one line: `what: cause (help)`.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    what: String,
    help: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A new error; `what` names the thing and the place ("clip.wav: no audio data").
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), help: None, source: None }
    }

    /// Adds what the operator can do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds the underlying cause.
    #[must_use]
    pub fn cause(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// An I/O error on `path`; "not found" and "permission denied" become [`ErrorKind::Unavailable`].
    pub fn io(path: impl AsRef<std::path::Path>, error: std::io::Error) -> Self {
        let kind = match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => ErrorKind::Unavailable,
            _ => ErrorKind::Io,
        };
        Self::new(kind, path.as_ref().display().to_string()).cause(error)
    }

    /// What sort of fault it is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(source) = &self.source {
            write!(f, ": {source}")?;
        }
        if let Some(help) = &self.help {
            write!(f, " ({help})")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_on_one_line_with_cause_and_help() {
        let error = Error::new(ErrorKind::Data, "clip.wav").cause("truncated").help("record it again");
        assert_eq!(error.to_string(), "clip.wav: truncated (record it again)");
        assert_eq!(error.kind().exit_code(), 65);
    }
}
