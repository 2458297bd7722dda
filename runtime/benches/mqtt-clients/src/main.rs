//! What becomes of 10 000 QoS-1 messages when the broker is killed midway?
//!
//! `mqtt-clients <client> <kill|wipe>` starts mosquitto on a free loopback port, publishes with 32 messages in flight,
//! kills the broker with SIGKILL after 4 000 acknowledgements (with `wipe`: deletes its state too), restarts it a second
//! later, and waits until everything is acknowledged or nothing has happened for 30 s. What really arrived is read from
//! the broker's own log: each message has a topic of its own. Clients that tell of a failed message get it again.

use std::{
    collections::HashMap,
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::{sync::Semaphore, time::sleep};

const COUNT: u64 = 10_000;
const KILL_AT: u64 = 4_000;
const WINDOW: usize = 32;
const QUIET: Duration = Duration::from_secs(30);

struct Broker {
    dir: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Broker {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let dir = std::env::temp_dir().join(format!("mqtt-clients-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a temporary directory");
        let text = format!(
            "user root\nlistener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location {0}/\n\
             autosave_on_changes true\nautosave_interval 1\nlog_dest file {0}/log\nlog_type all\n",
            dir.display()
        );
        fs::write(dir.join("conf"), text).expect("a configuration");
        Self { dir, port, child: None }
    }

    fn start(&mut self) {
        let mut command = Command::new("/usr/sbin/mosquitto");
        command.arg("-c").arg(self.dir.join("conf")).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().expect("mosquitto"));
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Number of arrivals of each message, from the broker's log.
fn arrivals(dir: &Path) -> HashMap<u64, u64> {
    let mut seen = HashMap::new();
    let log = fs::read(dir.join("log")).unwrap_or_default();
    for line in String::from_utf8_lossy(&log).lines().filter(|l| l.contains("Received PUBLISH")) {
        let number = line.split("'bench/").nth(1).and_then(|rest| rest.split('\'').next()?.parse().ok());
        *seen.entry(number.unwrap_or(u64::MAX)).or_insert(0) += 1;
    }
    seen
}

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let (client, wipe) = (args.next().unwrap_or_default(), args.next().as_deref() == Some("wipe"));
    let mut broker = Broker::new();
    broker.start();
    let (acked, port) = (Arc::new(AtomicU64::new(0)), broker.port);
    let work = match client.as_str() {
        "rumqttc" => tokio::spawn(rumqttc_v4(port, true, acked.clone())),
        "rumqttc-session" => tokio::spawn(rumqttc_v4(port, false, acked.clone())),
        "rumqttc-v5-next" => tokio::spawn(v5_next(port, acked.clone())),
        "mqtt5" => tokio::spawn(mqtt5_crate(port, acked.clone())),
        "mqtt-async-client" => tokio::spawn(async_client(port, acked.clone())),
        _ => panic!("rumqttc | rumqttc-session | rumqttc-v5-next | mqtt5 | mqtt-async-client"),
    };
    let begun = Instant::now();
    let (mut killed, mut last, mut since) = (false, 0, Instant::now());
    while last < COUNT && since.elapsed() < QUIET {
        sleep(Duration::from_millis(2)).await;
        let now = acked.load(SeqCst);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if now >= KILL_AT && !killed {
            killed = true;
            broker.kill();
            if wipe {
                let _ = fs::remove_file(broker.dir.join("mosquitto.db"));
            }
            sleep(Duration::from_secs(1)).await;
            broker.start();
        }
    }
    let took = since.duration_since(begun).as_secs_f32();
    work.abort();
    sleep(Duration::from_millis(300)).await;
    let seen = arrivals(&broker.dir);
    let lost = (0..COUNT).filter(|n| !seen.contains_key(n)).count();
    let twice: u64 = seen.values().map(|n| n - 1).sum();
    println!(
        "{client:<18} {:<5} acknowledged {last:>6}  lost {lost:>6}  twice {twice:>4}  {took:6.1} s",
        if wipe { "wipe" } else { "kill" }
    );
}

fn topic(n: u64) -> String {
    format!("bench/{n}")
}

async fn rumqttc_v4(port: u16, clean: bool, acked: Arc<AtomicU64>) {
    let mut options = rumqttc_old::MqttOptions::new("bench", "127.0.0.1", port);
    options.set_clean_session(clean).set_inflight(WINDOW as u16);
    let (client, mut events) = rumqttc_old::AsyncClient::new(options, 100);
    tokio::spawn(async move {
        loop {
            match events.poll().await {
                Ok(rumqttc_old::Event::Incoming(rumqttc_old::Packet::PubAck(_))) => {
                    acked.fetch_add(1, SeqCst);
                }
                Ok(_) => {}
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    });
    for n in 0..COUNT {
        client.publish(topic(n), rumqttc_old::QoS::AtLeastOnce, false, "x").await.expect("a queue");
    }
    std::future::pending::<()>().await;
}

async fn v5_next(port: u16, acked: Arc<AtomicU64>) {
    use rumqttc_next::{AsyncClient, MqttOptions, PublishOptions};
    let mut options = MqttOptions::new("bench", ("127.0.0.1", port));
    options.set_clean_start(true);
    let (client, mut events) = AsyncClient::builder(options).capacity(WINDOW).build();
    tokio::spawn(async move {
        loop {
            if events.poll().await.is_err() {
                sleep(Duration::from_millis(200)).await;
            }
        }
    });
    let window = Arc::new(Semaphore::new(WINDOW));
    for n in 0..COUNT {
        let slot = window.clone().acquire_owned().await.expect("open");
        let (client, acked) = (client.clone(), acked.clone());
        tokio::spawn(async move {
            loop {
                let sent = client.publish_tracked(topic(n), "x", PublishOptions::at_least_once()).await;
                if sent.expect("a queue").wait_async().await.is_ok() {
                    break;
                }
            }
            acked.fetch_add(1, SeqCst);
            drop(slot);
        });
    }
    std::future::pending::<()>().await;
}

async fn mqtt5_crate(port: u16, acked: Arc<AtomicU64>) {
    use mqtt5::{ConnectOptions, MqttClient, PublishOutcome};
    let options = ConnectOptions::new("bench")
        .with_clean_start(true)
        .with_automatic_reconnect(true)
        .with_reconnect_delay(Duration::from_millis(200), Duration::from_secs(1));
    let client = MqttClient::with_options(options);
    client.connect(&format!("mqtt://127.0.0.1:{port}")).await.expect("a broker");
    let window = Arc::new(Semaphore::new(WINDOW));
    for n in 0..COUNT {
        let slot = window.clone().acquire_owned().await.expect("open");
        let (client, acked) = (client.clone(), acked.clone());
        tokio::spawn(async move {
            loop {
                match client.publish_qos1(topic(n), "x").await {
                    Ok(result) if matches!(result.clone().outcome().await, PublishOutcome::Delivered(_)) => {
                        break;
                    }
                    _ => sleep(Duration::from_millis(100)).await,
                }
            }
            acked.fetch_add(1, SeqCst);
            drop(slot);
        });
    }
    std::future::pending::<()>().await;
}

async fn async_client(port: u16, acked: Arc<AtomicU64>) {
    use mqtt_async_client::client::{Client, Publish, QoS};
    let mut builder = Client::builder();
    builder.set_url_string(&format!("mqtt://127.0.0.1:{port}")).expect("a URL");
    builder.set_client_id(Some("bench".into())).set_automatic_connect(true);
    builder.set_connect_retry_delay(Duration::from_millis(200)).set_operation_timeout(Duration::from_secs(5));
    let mut client = builder.build().expect("a client");
    client.connect().await.expect("a broker");
    let (client, window) = (Arc::new(client), Arc::new(Semaphore::new(WINDOW)));
    for n in 0..COUNT {
        let slot = window.clone().acquire_owned().await.expect("open");
        let (client, acked) = (client.clone(), acked.clone());
        tokio::spawn(async move {
            let mut message = Publish::new(topic(n), b"x".to_vec());
            message.set_qos(QoS::AtLeastOnce);
            while client.publish(&message).await.is_err() {
                sleep(Duration::from_millis(100)).await;
            }
            acked.fetch_add(1, SeqCst);
            drop(slot);
        });
    }
    std::future::pending::<()>().await;
}
