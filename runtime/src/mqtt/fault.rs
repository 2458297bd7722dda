//! Names for what can go wrong with a broker, and what to do about it.

use std::io;

use rumqttc::{
    ConnectReturnCode, ConnectionError, DisconnectReasonCode, StateError, TlsError, mqttbytes,
    tokio_rustls::rustls::{self, AlertDescription},
};

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
        if let Some(tls) = rustls_error(error) {
            return Self::encryption(tls, &at);
        }
        match error {
            ConnectionError::Tls(TlsError::Io(e)) => {
                Self::new(FaultKind::Tls, format!("{at}: no encrypted connection: {e}"))
            }
            // Said before anything was sent: it is about files of ours, or about a name that cannot be one of a server.
            ConnectionError::Tls(e) => Self::new(
                FaultKind::Setup,
                format!(
                    "{at}: {e}: check the files ca_file, client_cert_file and client_key_file, and the broker's name"
                ),
            ),
            ConnectionError::Io(e) => Self::new(FaultKind::Unreachable, format!("{at}: {e}")),
            ConnectionError::Timeout(_) => Self::new(FaultKind::Unreachable, format!("{at}: no answer")),
            ConnectionError::ConnectionRefused(code) => Self::refused(*code, &at),
            ConnectionError::MqttState(StateError::ConnFail { reason }) => Self::refused(*reason, &at),
            ConnectionError::MqttState(state) => Self::broken(state, &at),
            other => Self::new(FaultKind::Protocol, format!("{at}: {other}")),
        }
    }

    /// What broke an encrypted connection, or kept it from coming about.
    fn encryption(error: &rustls::Error, at: &str) -> Self {
        use rustls::{
            CertificateError::{NotValidYet, NotValidYetContext},
            Error::{AlertReceived, InvalidCertificate},
        };
        match error {
            InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => Self::not_valid_yet(at),
            AlertReceived(alert) if is_about_our_certificate(*alert) => Self::new(
                FaultKind::Auth,
                format!(
                    "{at}: the broker does not accept our certificate ({alert:?}): check client_cert_file, and which \
                     authority the broker trusts"
                ),
            ),
            error => Self::new(FaultKind::Tls, format!("{at}: no encrypted connection: {error}")),
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

/// rustls reports its errors as I/O errors, of the handshake or of what is read after it.
fn rustls_error(error: &ConnectionError) -> Option<&rustls::Error> {
    let error: &io::Error = match error {
        ConnectionError::Io(e)
        | ConnectionError::Tls(TlsError::Io(e))
        | ConnectionError::MqttState(
            StateError::Io(e) | StateError::Deserialization(mqttbytes::Error::Io(e)),
        ) => e,
        _ => return None,
    };
    error.get_ref()?.downcast_ref()
}

/// What a server says of a client's certificate, or of a missing one (RFC 8446, section 6.2).
fn is_about_our_certificate(alert: AlertDescription) -> bool {
    use AlertDescription as A;
    matches!(
        alert,
        A::BadCertificate
            | A::UnsupportedCertificate
            | A::CertificateRevoked
            | A::CertificateExpired
            | A::CertificateUnknown
            | A::UnknownCA
            | A::AccessDenied
            | A::CertificateRequired
    )
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
    fn each_trouble_with_encryption_has_its_name() {
        let broken = |inner: rustls::Error| io::Error::new(io::ErrorKind::InvalidData, inner);
        let handshake = |inner| ConnectionError::Tls(TlsError::Io(broken(inner)));
        let certificate = rustls::Error::InvalidCertificate;
        let of = |error| Fault::of(&error, &url());
        let future = of(handshake(certificate(rustls::CertificateError::NotValidYet)));
        assert_eq!(future.kind, FaultKind::Clock);
        assert!(future.text.contains("waiting for the clock"), "{}", future.text);
        assert_eq!(of(handshake(certificate(rustls::CertificateError::Expired))).kind, FaultKind::Tls);
        // With TLS 1.3 the broker's verdict on our certificate comes after the handshake.
        let refused = rustls::Error::AlertReceived(AlertDescription::UnknownCA);
        let late = of(ConnectionError::MqttState(StateError::Io(broken(refused.clone()))));
        let early = of(handshake(refused));
        assert_eq!((late.kind, &late), (FaultKind::Auth, &early));
        assert!(late.text.contains("client_cert_file"), "{}", late.text);
        let file = of(ConnectionError::Tls(TlsError::NoValidClientCertInChain));
        assert_eq!(file.kind, FaultKind::Setup);
    }

    #[test]
    fn texts_are_bounded() {
        assert!(Fault::new(FaultKind::Closed, "ä".repeat(400)).text.len() <= 300);
    }
}
