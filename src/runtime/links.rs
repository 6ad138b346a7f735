//! Connections between servers come about here, on plain threads beside the cores: one listens, one dials each server with a
//! lower id, so that two servers have one connection. What comes out is a [`Link`], its other end known and its keys made;
//! from then on it belongs to the pipeline's core. Names are resolved on every attempt: addresses change.
//!
//! ```text
//! listen ── accept ── Handshake, one short-lived thread each ──┐
//! dial, one per peer ── resolve, connect, Handshake ───────────┴──> established(Link)
//!   ^── the link is lost, after 20 ms to 1 s ──┘
//! ```
//! Without a secret nothing but loopback is talked to, whatever the configuration says. Refuses to send or read anything
//! after the handshake.

mod complaints;
mod dial;
mod listen;
mod shake;

use super::listener::{ListenError, Listener};
use crate::peer::{Introduction, Secret, SessionKeys};
use complaints::Complaints;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// What a handshake takes, at most: both ends are on one network.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection whose other end is known.
pub struct Link {
    pub peer: u16,
    pub socket: OwnedFd,
    pub keys: SessionKeys,
    /// Of the peer: different at every start of it.
    pub incarnation: u128,
    /// That the peer belongs to, as it says.
    pub cluster: u128,
}

/// Where another server is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerAddress {
    pub server: u16,
    pub host: String,
    pub port: u16,
}

/// What links are made from.
pub struct LinksConfig {
    pub server: u16,
    pub incarnation: u128,
    pub listen: SocketAddr,
    /// All other servers of the ensemble.
    pub peers: Vec<PeerAddress>,
    /// None: only servers on this machine are talked to.
    pub secret: Option<Secret>,
    /// A link on which nothing was heard for so long is closed.
    pub silence_ms: u64,
}

/// Why there can be no links.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    #[error("servers of this ensemble cannot be listened to: {0} is taken: another process listens there (`ss -ltnp` shows which)")]
    Taken(SocketAddr),
    #[error("servers of this ensemble cannot be listened to: {0}")]
    Listen(ListenError),
    #[error("{0} can be reached from other machines, and there is no secret: set peerSecretFile, the same on all servers")]
    NoSecret(SocketAddr),
    #[error("a thread for links between servers cannot be started: {0}")]
    Thread(io::Error),
}

/// What handshakes say of this server. It changes when the server takes on a cluster, or its first history is durable.
pub struct Identity(Mutex<(u128, bool)>);

impl Identity {
    pub fn new(cluster: u128, has_history: bool) -> Identity {
        Identity(Mutex::new((cluster, has_history)))
    }

    /// What is on the medium now.
    pub fn set(&self, cluster: u128, has_history: bool) {
        *self.0.lock().expect("no panic under this lock") = (cluster, has_history);
    }

    fn get(&self) -> (u128, bool) {
        *self.0.lock().expect("no panic under this lock")
    }
}

/// What all threads know.
struct Shared {
    server: u16,
    incarnation: u128,
    known: Vec<u16>,
    secret: Secret,
    silence: Duration,
    identity: Arc<Identity>,
    established: Box<dyn Fn(Link) + Send + Sync>,
    complaints: Mutex<Complaints>,
    stopped: AtomicBool,
}

impl Shared {
    fn introduction(&self) -> Introduction {
        let (cluster, has_history) = self.identity.get();
        Introduction { server: self.server, cluster, has_history, incarnation: self.incarnation }
    }

    /// Whether the other end may be talked to at all.
    fn trusts(&self, address: IpAddr) -> bool {
        self.secret.is_shared() || address.to_canonical().is_loopback()
    }

    /// Says what went wrong, unless that was said lately.
    fn complain(&self, who: &str, why: &str) {
        let due = self.complaints.lock().expect("no panic under this lock").is_due(who, why, Instant::now());
        if due {
            tracing::warn!("no link with {who}: {why}");
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Hands a link over, ready to be used.
    fn hand_over(&self, stream: TcpStream, established: crate::peer::Established) {
        let peer = established.peer;
        self.complaints.lock().expect("no panic under this lock").forget(&format!("server {}", peer.server));
        if self.is_stopped() {
            return;
        }
        // The timeouts of the handshake end with it. It fails only on a socket that is broken, which its user will see.
        let _ = stream.set_read_timeout(None).and(stream.set_write_timeout(None));
        (self.established)(Link {
            peer: peer.server,
            socket: stream.into(),
            keys: established.keys,
            incarnation: peer.incarnation,
            cluster: peer.cluster,
        });
    }
}

/// Links as they come; when it is dropped no more come. See the module heading.
pub struct Links {
    shared: Arc<Shared>,
    listener: Arc<Listener>,
    /// By peer that is ours to dial: told when its link is lost.
    diallers: BTreeMap<u16, mpsc::Sender<()>>,
    listening: Option<thread::JoinHandle<()>>,
}

impl Links {
    /// Listens, and dials who is ours to dial. `established` is called on any thread; a link for a peer that has one
    /// replaces it: that peer has started again, or has given the old one up.
    pub fn start(
        config: LinksConfig,
        identity: Arc<Identity>,
        established: impl Fn(Link) + Send + Sync + 'static,
    ) -> Result<Links, LinksError> {
        if config.secret.is_none() && !config.listen.ip().to_canonical().is_loopback() {
            return Err(LinksError::NoSecret(config.listen));
        }
        let refused = |error| match error {
            ListenError::Taken(address) => LinksError::Taken(address),
            other => LinksError::Listen(other),
        };
        let listener = Arc::new(Listener::bind(config.listen).map_err(refused)?);
        listener.listen(listen::BACKLOG).map_err(refused)?;
        let shared = Arc::new(Shared {
            server: config.server,
            incarnation: config.incarnation,
            known: config.peers.iter().map(|peer| peer.server).collect(),
            secret: config.secret.unwrap_or_else(Secret::none),
            silence: Duration::from_millis(config.silence_ms),
            identity,
            established: Box::new(established),
            complaints: Mutex::new(Complaints::default()),
            stopped: AtomicBool::new(false),
        });
        let listening = listen::spawn(shared.clone(), listener.clone()).map_err(LinksError::Thread)?;
        let mut links = Links { shared: shared.clone(), listener, diallers: BTreeMap::new(), listening: Some(listening) };
        for peer in config.peers.into_iter().filter(|peer| peer.server < config.server) {
            let server = peer.server;
            let dialler = dial::spawn(shared.clone(), peer).map_err(LinksError::Thread)?;
            links.diallers.insert(server, dialler);
        }
        Ok(links)
    }

    /// Where it listens, the port chosen by the kernel included.
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }

    pub fn silence_ms(&self) -> u64 {
        self.shared.silence.as_millis() as u64
    }

    /// The link with `peer` is gone: it is dialled again, if that is ours to do.
    pub fn lost(&self, peer: u16) {
        if let Some(dialler) = self.diallers.get(&peer) {
            // The thread ends only when this is dropped.
            let _ = dialler.send(());
        }
    }
}

impl Drop for Links {
    /// Diallers end by themselves, at the latest when the attempt they are in does.
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        self.diallers.clear();
        self.listener.interrupt();
        if let Some(listening) = self.listening.take() {
            // It has nothing to say but that it is over.
            let _ = listening.join();
        }
    }
}

#[cfg(test)]
mod tests;
