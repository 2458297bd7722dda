//! Certificates for a test, made by the openssl program.

use std::{fs, path::Path, process::Command};

/// Whether there is an openssl program to make them with.
#[must_use]
pub fn have_openssl() -> bool {
    Command::new("openssl").arg("version").output().is_ok_and(|o| o.status.success())
}

/// Makes an authority: `<name>.pem` and `<name>.key` in `dir`.
///
/// # Panics
/// When openssl fails.
pub fn make_authority(dir: &Path, name: &str) {
    let config = "[req]\nprompt = no\ndistinguished_name = dn\nx509_extensions = ca\n[dn]\nCN = girasol test authority\n\
                  [ca]\nbasicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign\n";
    fs::write(dir.join(format!("{name}.cnf")), config).expect("a configuration");
    openssl(
        dir,
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 \
             -config {name}.cnf -keyout {name}.key -out {name}.pem"
        ),
    );
}

/// Makes a server's certificate for `subject` (as `IP:127.0.0.1`), signed by `authority`: `server.pem` and `server.key`.
///
/// # Panics
/// When openssl fails.
pub fn make_server(dir: &Path, authority: &str, subject: &str) {
    make_server_for(dir, authority, subject, 2);
}

/// Makes a server's certificate as [`make_server`] does, that has just expired.
///
/// # Panics
/// When openssl fails.
pub fn make_expired_server(dir: &Path, authority: &str, subject: &str) {
    make_server_for(dir, authority, subject, 0);
}

/// Makes a server's certificate as [`make_server`] does, that is not valid before the year 2090: what a board sees whose
/// clock has not been set.
///
/// # Panics
/// When openssl fails.
pub fn make_future_server(dir: &Path, authority: &str, subject: &str) {
    make_server(dir, authority, subject);
    let config = "[ca]\ndefault_ca = authority\n[authority]\ndatabase = issued\nnew_certs_dir = .\nrand_serial = yes\ndefault_md = sha256\n\
                  policy = policy\n[policy]\ncommonName = supplied\n";
    fs::write(dir.join("issue.cnf"), config).expect("a configuration");
    fs::write(dir.join("issued"), "").expect("a list of certificates");
    openssl(
        dir,
        &format!(
            "ca -batch -notext -config issue.cnf -cert {authority}.pem -keyfile {authority}.key -in server.csr \
             -startdate 20900101000000Z -enddate 20910101000000Z -extfile server.cnf -extensions extensions \
             -out server.pem"
        ),
    );
}

/// Makes a client's certificate, signed by `authority`: `client.pem` and `client.key`.
///
/// # Panics
/// When openssl fails.
pub fn make_client(dir: &Path, authority: &str) {
    make_certificate(dir, authority, "client", "clientAuth", "DNS:porch", 2);
}

fn make_server_for(dir: &Path, authority: &str, subject: &str, days: u32) {
    make_certificate(dir, authority, "server", "serverAuth", subject, days);
}

fn make_certificate(dir: &Path, authority: &str, name: &str, usage: &str, subject: &str, days: u32) {
    let config = format!(
        "[req]\nprompt = no\ndistinguished_name = dn\n[dn]\nCN = {name}\n[extensions]\nbasicConstraints = CA:FALSE\n\
         extendedKeyUsage = {usage}\nsubjectAltName = {subject}\n"
    );
    fs::write(dir.join(format!("{name}.cnf")), config).expect("a configuration");
    openssl(
        dir,
        &format!(
            "req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -config {name}.cnf \
             -keyout {name}.key -out {name}.csr"
        ),
    );
    openssl(
        dir,
        &format!(
            "x509 -req -in {name}.csr -CA {authority}.pem -CAkey {authority}.key -CAcreateserial -days {days} \
             -extfile {name}.cnf -extensions extensions -out {name}.pem"
        ),
    );
}

fn openssl(dir: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split_whitespace()).current_dir(dir).output();
    let output = output.expect("the openssl program");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}
