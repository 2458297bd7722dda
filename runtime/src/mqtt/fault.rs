//! Names for what can go wrong with a broker, and what to do about it.

use rumqttc::{ConnectReturnCode, ConnectionError, DisconnectReasonCode, StateError, tokio_rustls::rustls};

use super::BrokerUrl;
use crate::{
    clock::{Clock, RealClock},
    event::rfc3339,
};

/// Sort of fault; a change of it is worth a line in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// A file of ours cannot be used.
    Setup,
    /// Nobody answers.
    Unreachable,
    /// No encrypted connection comes about.
    Tls,
    /// A certificate is not valid yet: our clock has not been set, or the certificate is wrong.
    Clock,
    /// User name, password or certificate is not accepted.
    Auth,
    /// Another client has connected with our client id.
    TakenOver,
    /// The broker does not want us for another reason.
    Refused,
    /// The connection broke, or the broker closed it.
    Closed,
    /// The broker fell silent.
    Silent,
    /// The broker does not keep to the protocol.
    Protocol,
}

/// A fault in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Its sort.
    pub kind: FaultKind,
    /// What happened, and what to do about it.
    pub text: String,
}

impl Fault {
    pub(super) fn new(kind: FaultKind, text: impl Into<String>) -> Self {
        let mut text = text.into();
        let end = (0..=text.len().min(300)).rev().find(|&n| text.is_char_boundary(n)).unwrap_or(0);
        text.truncate(end);
        Self { kind, text }
    }

    /// From the client's error.
    pub(super) fn of(error: &ConnectionError, url: &BrokerUrl) -> Self {
        let at = format!("{}:{}", url.host, url.port);
        match error {
            ConnectionError::Io(e) if is_not_valid_yet(e) => Self::not_valid_yet(&at),
            ConnectionError::Io(e) if is_tls(e) => {
                Self::new(FaultKind::Tls, format!("{at}: no encrypted connection: {e}"))
            }
            ConnectionError::Tls(e) => {
                Self::new(FaultKind::Tls, format!("{at}: no encrypted connection: {e}"))
            }
            ConnectionError::Io(e) => Self::new(FaultKind::Unreachable, format!("{at}: {e}")),
            ConnectionError::Timeout(_) => Self::new(FaultKind::Unreachable, format!("{at}: no answer")),
            ConnectionError::ConnectionRefused(code) => Self::refused(*code, &at),
            ConnectionError::MqttState(StateError::ConnFail { reason }) => Self::refused(*reason, &at),
            ConnectionError::MqttState(state) => Self::broken(state, &at),
            other => Self::new(FaultKind::Protocol, format!("{at}: {other}")),
        }
    }

    /// Boards without a battery come up with a clock of the past, until they are told the time.
    fn not_valid_yet(at: &str) -> Self {
        let clock = rfc3339(RealClock.wall_ms());
        let text = format!(
            "{at}: the broker's certificate is not valid yet, by our clock ({clock}): waiting for the clock to be set; \
             is a time server reachable?"
        );
        Self::new(FaultKind::Clock, text)
    }

    fn refused(code: ConnectReturnCode, at: &str) -> Self {
        match code {
            ConnectReturnCode::BadUserNamePassword
            | ConnectReturnCode::NotAuthorized
            | ConnectReturnCode::BadAuthenticationMethod
            | ConnectReturnCode::Banned => Self::new(
                FaultKind::Auth,
                format!(
                    "{at}: the broker does not let us in ({code:?}): check username, password_file and its ACL"
                ),
            ),
            ConnectReturnCode::RetainNotSupported => Self::new(
                FaultKind::Refused,
                format!(
                    "{at}: the broker keeps no retained messages: enable them (mosquitto: retain_available)"
                ),
            ),
            ConnectReturnCode::UnsupportedProtocolVersion | ConnectReturnCode::RefusedProtocolVersion => {
                Self::new(FaultKind::Refused, format!("{at}: the broker does not speak MQTT 5: update it"))
            }
            code => {
                Self::new(FaultKind::Refused, format!("{at}: the broker refused the connection: {code:?}"))
            }
        }
    }

    fn broken(state: &StateError, at: &str) -> Self {
        match state {
            StateError::ServerDisconnect { reason_code: DisconnectReasonCode::SessionTakenOver, .. } => {
                Self::new(
                    FaultKind::TakenOver,
                    format!(
                        "{at}: another client has taken our client id: give each device a name of its own"
                    ),
                )
            }
            StateError::ServerDisconnect { reason_code, .. } => Self::new(
                FaultKind::Closed,
                format!("{at}: the broker ended the connection: {reason_code:?}"),
            ),
            StateError::AwaitPingResp => {
                Self::new(FaultKind::Silent, format!("{at}: the broker fell silent"))
            }
            StateError::ConnectionAborted => Self::new(FaultKind::Closed, format!("{at}: connection closed")),
            StateError::Deserialization(e) if e.to_string().starts_with("IO") => {
                Self::new(FaultKind::Closed, format!("{at}: {e}"))
            }
            StateError::Io(e) => Self::new(FaultKind::Closed, format!("{at}: {e}")),
            other => Self::new(FaultKind::Protocol, format!("{at}: {other}")),
        }
    }
}

/// rustls reports its errors as I/O errors of invalid data.
fn rustls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

fn is_tls(error: &std::io::Error) -> bool {
    rustls_error(error).is_some()
}

fn is_not_valid_yet(error: &std::io::Error) -> bool {
    use rustls::{
        CertificateError::{NotValidYet, NotValidYetContext},
        Error::InvalidCertificate,
    };
    let error = rustls_error(error);
    matches!(error, Some(InvalidCertificate(NotValidYet | NotValidYetContext { .. })))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url() -> BrokerUrl {
        BrokerUrl { tls: false, host: "h".into(), port: 1 }
    }

    #[test]
    fn faults_that_need_an_operator_are_named() {
        let auth = ConnectionError::ConnectionRefused(ConnectReturnCode::NotAuthorized);
        assert_eq!(Fault::of(&auth, &url()).kind, FaultKind::Auth);
        let taken = ConnectionError::MqttState(StateError::ServerDisconnect {
            reason_code: DisconnectReasonCode::SessionTakenOver,
            reason_string: None,
        });
        let fault = Fault::of(&taken, &url());
        assert_eq!(fault.kind, FaultKind::TakenOver);
        assert!(fault.text.contains("client id"), "{}", fault.text);
    }

    #[test]
    fn a_certificate_of_the_future_is_blamed_on_the_clock() {
        let error = |what| {
            let inner = rustls::Error::InvalidCertificate(what);
            ConnectionError::Io(std::io::Error::new(std::io::ErrorKind::InvalidData, inner))
        };
        let fault = Fault::of(&error(rustls::CertificateError::NotValidYet), &url());
        assert_eq!(fault.kind, FaultKind::Clock);
        assert!(fault.text.contains("waiting for the clock"), "{}", fault.text);
        assert_eq!(Fault::of(&error(rustls::CertificateError::Expired), &url()).kind, FaultKind::Tls);
    }

    #[test]
    fn texts_are_bounded() {
        assert!(Fault::new(FaultKind::Closed, "ä".repeat(400)).text.len() <= 300);
    }
}
