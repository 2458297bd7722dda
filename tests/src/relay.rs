//! A TCP relay in front of a broker that misbehaves on demand.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    thread,
    time::Duration,
};

use crate::Broker;

/// What the relay does with what it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Manner {
    /// Passes it on.
    Pass,
    /// Does not read it, so that the sender's buffers fill up.
    Stall,
    /// Reads it and throws it away, both ways.
    Swallow,
}

/// Relays from a port of its own to a broker.
#[derive(Debug)]
pub struct Relay {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    manner: AtomicU8,
    /// The clients' sides.
    near: Mutex<Vec<TcpStream>>,
    far: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// Relays from a free loopback port to `broker`.
    ///
    /// # Panics
    /// When there is no free port.
    #[must_use]
    pub fn to(broker: &Broker) -> Self {
        Self::listening(Ipv4Addr::LOCALHOST, broker)
    }

    /// Relays from a free port of `address` to `broker`.
    ///
    /// # Panics
    /// When there is no such address or no free port.
    #[must_use]
    pub fn listening(address: Ipv4Addr, broker: &Broker) -> Self {
        let listener = TcpListener::bind((address, 0)).expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (manner, near, far) = (AtomicU8::new(Manner::Pass as u8), Mutex::default(), Mutex::default());
        let state = Arc::new(State { manner, near, far });
        let (target, shared) = ((Ipv4Addr::LOCALHOST, broker.port()).into(), Arc::clone(&state));
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let shared = Arc::clone(&shared);
                shared.relay(near, target);
            }
        });
        Self { port, state }
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `mqtt://127.0.0.1:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("mqtt://127.0.0.1:{}", self.port)
    }

    /// Changes what it does, at once and for every connection.
    pub fn set(&self, manner: Manner) {
        self.state.manner.store(manner as u8, Ordering::SeqCst);
    }

    /// Sends `bytes` to every client, in between what the broker says.
    ///
    /// # Panics
    /// Not in practice.
    pub fn inject(&self, bytes: &[u8]) {
        for stream in self.state.near.lock().expect("no panic while locked").iter_mut() {
            let _ = stream.write_all(bytes);
        }
    }

    /// Cuts every connection, as when a process dies without a word.
    ///
    /// # Panics
    /// Not in practice.
    pub fn cut(&self) {
        for streams in [&self.state.near, &self.state.far] {
            for stream in streams.lock().expect("no panic while locked").drain(..) {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
        }
    }
}

impl State {
    fn relay(self: Arc<Self>, near: TcpStream, target: SocketAddr) {
        let Ok(far) = TcpStream::connect(target) else { return };
        for (from, to) in [(&near, &far), (&far, &near)] {
            if let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) {
                let state = Arc::clone(&self);
                thread::spawn(move || state.pump(&mut from, &mut to));
            }
        }
        for (streams, stream) in [(&self.near, near), (&self.far, far)] {
            streams.lock().expect("no panic while locked").push(stream);
        }
    }

    fn pump(&self, from: &mut TcpStream, to: &mut TcpStream) {
        let mut buffer = [0; 4_096];
        loop {
            while self.is(Manner::Stall) {
                #[allow(clippy::disallowed_methods, reason = "a test helper in real time")]
                thread::sleep(Duration::from_millis(20));
            }
            let Ok(n @ 1..) = from.read(&mut buffer) else { break };
            if !self.is(Manner::Swallow) && to.write_all(&buffer[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(std::net::Shutdown::Both);
    }

    fn is(&self, manner: Manner) -> bool {
        self.manner.load(Ordering::SeqCst) == manner as u8
    }
}
