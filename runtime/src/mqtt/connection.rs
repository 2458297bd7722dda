//! The client's options, made anew for each connection: files (password, certificates) may have changed since the last.

use std::{
    ffi::OsString,
    fs::File,
    io::Read,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use rumqttc::{LastWill, MqttOptions, QoS, Transport};

use super::{BrokerUrl, Fault, FaultKind, MqttSettings};

/// No file of ours is larger.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// No packet that we take is larger.
const MAX_PACKET_BYTES: u32 = 256 << 10;
/// Where systems keep the certificate authorities that they trust.
const SYSTEM_CA: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Options for one connection as `client_id`, which is given up if the broker has not welcomed us after `patience`: name
/// look-up, TCP, TLS and CONNACK together.
pub(super) fn options(
    settings: &MqttSettings,
    url: &BrokerUrl,
    client_id: &str,
    will: Option<LastWill>,
    patience: Duration,
) -> Result<MqttOptions, Fault> {
    let mut options = MqttOptions::new(client_id, (url.host.clone(), url.port));
    options
        .set_clean_start(true)
        .set_keep_alive(u16::try_from(settings.keep_alive.as_secs()).unwrap_or(u16::MAX))
        .set_connect_timeout(patience)
        .set_max_packet_size(Some(MAX_PACKET_BYTES))
        .set_outgoing_inflight_upper_limit(settings.in_flight);
    if let Some(will) = will {
        options.set_last_will(will);
    }
    match (&settings.username, &settings.password_file) {
        (Some(name), Some(file)) => {
            options.set_credentials(name.clone(), password(file)?);
        }
        (Some(name), None) => {
            options.set_username(name.clone());
        }
        (None, _) => {}
    }
    if url.tls {
        options.set_transport(tls(settings)?);
    }
    Ok(options)
}

/// A last will that is retained.
pub(super) fn retained_will(topic: String, payload: &str) -> LastWill {
    LastWill::new(topic, payload, QoS::AtLeastOnce, true, None)
}

fn tls(settings: &MqttSettings) -> Result<Transport, Fault> {
    let ca = match &settings.ca_file {
        Some(file) => read(file)?,
        None => system_ca()?,
    };
    let client = match (&settings.client_cert_file, &settings.client_key_file) {
        (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
        _ => None,
    };
    Ok(Transport::tls(ca, client, None))
}

fn system_ca() -> Result<Vec<u8>, Fault> {
    let found = SYSTEM_CA.iter().map(Path::new).find(|path| path.exists());
    let missing = "no certificate authorities on this system: install ca-certificates, or set ca_file";
    found.map_or_else(|| Err(Fault::new(FaultKind::Setup, missing)), read)
}

fn password(file: &Path) -> Result<Vec<u8>, Fault> {
    let mut bytes = read(file)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    Ok(bytes)
}

/// Says which files with secrets everybody may read.
pub(super) fn warn_of_open_secrets(settings: &MqttSettings) {
    for path in [&settings.password_file, &settings.client_key_file].into_iter().flatten() {
        let path = located(path, credentials_directory());
        if path.metadata().is_ok_and(|m| m.permissions().mode() & 0o007 != 0) {
            tracing::warn!("mqtt: {}: everybody may read this secret: chmod 600", path.display());
        }
    }
}

/// Where systemd puts what LoadCredential= names.
fn credentials_directory() -> Option<OsString> {
    std::env::var_os("CREDENTIALS_DIRECTORY").filter(|directory| !directory.is_empty())
}

/// A relative path is one below the credentials' directory, where there is one.
fn located(path: &Path, credentials: Option<OsString>) -> PathBuf {
    credentials.map_or_else(|| path.into(), |directory| Path::new(&directory).join(path))
}

fn read(path: impl AsRef<Path>) -> Result<Vec<u8>, Fault> {
    let path = &located(path.as_ref(), credentials_directory());
    let fault = |reason: String| Fault::new(FaultKind::Setup, format!("{}: {reason}", path.display()));
    let file = File::open(path).map_err(|e| fault(e.to_string()))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|e| fault(e.to_string()))?;
    if bytes.len() as u64 > MAX_FILE_BYTES { Err(fault("too large".into())) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_are_credentials_under_systemd() {
        let located =
            |path: &str, directory: Option<&str>| located(Path::new(path), directory.map(Into::into));
        assert_eq!(located("mqtt-password", None), Path::new("mqtt-password"));
        assert_eq!(
            located("mqtt-password", Some("/run/credentials/x")),
            Path::new("/run/credentials/x/mqtt-password")
        );
        assert_eq!(located("/etc/girasol/password", Some("/run/x")), Path::new("/etc/girasol/password"));
    }

    #[test]
    fn a_password_file_may_end_with_a_newline() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "s3cret\n").unwrap();
        assert_eq!(password(&file).unwrap(), b"s3cret");
        let fault = password(&dir.path().join("none")).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Setup);
        assert!(fault.text.contains("none"), "{}", fault.text);
    }
}
