//! What the configuration says about the broker.

use std::{path::PathBuf, time::Duration};

use crate::{Error, ErrorKind, Result, outbox::OutboxSettings};

/// The broker and how to speak to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MqttSettings {
    /// `mqtt://host[:1883]` or `mqtts://host[:8883]`.
    pub url: String,
    /// Must be unique at the broker; `girasol-<device>` when not set.
    pub client_id: Option<String>,
    /// First levels of every topic.
    pub prefix: String,
    /// Device name, one level of every topic.
    pub device: String,
    /// User name.
    pub username: Option<String>,
    /// File with the password; one newline at its end is ignored. Read at each connection. Like that of the other
    /// files, a relative path is one below `$CREDENTIALS_DIRECTORY` where systemd sets that.
    pub password_file: Option<PathBuf>,
    /// PEM file of the certificate authorities to trust in place of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file of our certificate chain.
    pub client_cert_file: Option<PathBuf>,
    /// PEM file of our private key.
    pub client_key_file: Option<PathBuf>,
    /// Time without traffic after which the connection is probed; it is given up after twice that.
    pub keep_alive: Duration,
    /// First back-off: from the beginning of a try to that of the next, and so also the longest that a try may take;
    /// doubles with each failure.
    pub retry_first: Duration,
    /// Longest back-off.
    pub retry_max: Duration,
    /// First wait after another client has taken our client id; doubles up to ten times that.
    pub retry_taken_over: Duration,
    /// Messages sent and not yet acknowledged.
    pub in_flight: u16,
    /// Where messages are kept until the broker has them.
    pub outbox: OutboxSettings,
    /// Age from which an event is no longer news and goes to `event/replayed`.
    pub replay_after: Duration,
    /// Age at which an event is no longer worth sending.
    pub event_expiry: Duration,
    /// Age at which a `why` record is no longer worth sending.
    pub why_expiry: Duration,
}

impl Default for MqttSettings {
    fn default() -> Self {
        Self {
            url: "mqtt://localhost:1883".into(),
            client_id: None,
            prefix: "girasol".into(),
            device: "girasol".into(),
            username: None,
            password_file: None,
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            keep_alive: Duration::from_secs(15),
            retry_first: Duration::from_secs(1),
            retry_max: Duration::from_secs(30),
            retry_taken_over: Duration::from_secs(60),
            in_flight: 32,
            outbox: OutboxSettings::default(),
            replay_after: Duration::from_secs(10),
            event_expiry: Duration::from_secs(24 * 3_600),
            why_expiry: Duration::from_secs(3_600),
        }
    }
}

impl MqttSettings {
    /// The client id in use.
    #[must_use]
    pub fn client_id(&self) -> String {
        self.client_id.clone().unwrap_or_else(|| format!("girasol-{}", self.device))
    }

    /// Checks what can be checked without the network.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for what makes no sense.
    pub fn check(&self) -> Result<()> {
        super::Topics::new(&self.prefix, &self.device)?;
        let url = BrokerUrl::parse(&self.url)?;
        let wrong =
            |what: &str, help: &str| Err(Error::new(ErrorKind::Config, format!("mqtt: {what}")).help(help));
        if self.client_cert_file.is_some() != self.client_key_file.is_some() {
            return wrong(
                "a client certificate needs its key",
                "set client_cert_file and client_key_file, or neither",
            );
        }
        if !url.tls && (self.ca_file.is_some() || self.client_cert_file.is_some()) {
            return wrong("certificates are set but the URL is not encrypted", "use mqtts://");
        }
        if self.password_file.is_some() && self.username.is_none() {
            return wrong("a password needs a user name", "set username");
        }
        if self.keep_alive < Duration::from_secs(5) || self.keep_alive > Duration::from_secs(3_600) {
            return wrong("keep_alive is out of range", "5 s to 1 h");
        }
        if self.in_flight == 0 || self.outbox.memory_messages == 0 {
            return wrong("in_flight and the outbox must not be empty", "32 and 4096 are the defaults");
        }
        Ok(())
    }
}

/// A broker's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerUrl {
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Host name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl BrokerUrl {
    /// From `mqtt://host[:port]` or `mqtts://host[:port]`; an IPv6 address stands in brackets.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for anything else. A password in the URL is refused, and not repeated in the error.
    pub fn parse(url: &str) -> Result<Self> {
        if url.contains('@') {
            return Err(Error::new(ErrorKind::Config, "mqtt: url: user and password do not belong there")
                .help("set username and password_file"));
        }
        Self::parts(url).ok_or_else(|| {
            Error::new(ErrorKind::Config, format!("mqtt: url: `{url}` is not understood"))
                .help("mqtt://host:1883 or mqtts://host:8883")
        })
    }

    fn parts(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let tls = match scheme {
            "mqtt" => false,
            "mqtts" => true,
            _ => return None,
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']')?;
                (host, if after.is_empty() { None } else { Some(after.strip_prefix(':')?) })
            }
            None => rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port))),
        };
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%');
        if host.is_empty() || host.len() > 253 || !host.chars().all(legal) {
            return None;
        }
        let port = match port {
            Some(port) => port.parse().ok().filter(|&port| port != 0)?,
            None if tls => 8883,
            None => 1883,
        };
        Some(Self { tls, host: host.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_scheme_host_and_port() {
        let parse = |url| BrokerUrl::parse(url).map(|u| (u.tls, u.host, u.port)).ok();
        assert_eq!(parse("mqtt://localhost"), Some((false, "localhost".into(), 1883)));
        assert_eq!(parse("mqtts://broker.example:8884/"), Some((true, "broker.example".into(), 8884)));
        assert_eq!(parse("mqtt://[::1]:99"), Some((false, "::1".into(), 99)));
        for bad in [
            "localhost",
            "http://a",
            "mqtt://",
            "mqtt://a:b",
            "mqtt://a:0",
            "mqtt://a/b",
            "mqtt://[::1",
            "mqtt://a b",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_refused_and_not_repeated() {
        let error = BrokerUrl::parse("mqtt://me:secret@host").unwrap_err().to_string();
        assert!(error.contains("password_file") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn contradictions_are_found() {
        assert!(MqttSettings::default().check().is_ok());
        let plain_with_ca = MqttSettings { ca_file: Some("ca.pem".into()), ..MqttSettings::default() };
        assert!(plain_with_ca.check().unwrap_err().to_string().contains("mqtts://"));
        let no_key = MqttSettings {
            url: "mqtts://h".into(),
            client_cert_file: Some("c.pem".into()),
            ..MqttSettings::default()
        };
        assert!(no_key.check().is_err());
    }
}
