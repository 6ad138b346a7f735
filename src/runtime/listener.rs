//! The socket that clients connect to, and who may come in: how many connections there are, from where, and which core
//! takes the next. Every core accepts on the one listener; a core that is well over its fair share hands the connection
//! to the one that has fewest. Refuses to share the port: a second server on it fails with a clear line.

use crate::pipeline::replica::Census;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Why clients cannot be served there.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    #[error("{0} is taken: another process listens there (`ss -ltnp` shows which); choose another with --client-port")]
    Taken(SocketAddr),
    #[error("{0} is not an address of this machine: set client.address to one, or to 0.0.0.0")]
    NotOurs(SocketAddr),
    #[error("{0} needs privileges: ports below 1024 are for root")]
    Forbidden(SocketAddr),
    #[error("{0}: {1}")]
    Other(SocketAddr, io::Error),
}

/// A bound socket. Connections are refused until [`Listener::listen`].
pub struct Listener {
    socket: Socket,
    address: SocketAddr,
}

/// How long a taken port is tried again: the kernel gives a killed server's listener back only when it has wound up that
/// process's rings, which takes a moment after the process is gone.
const BIND_PATIENCE: Duration = Duration::from_secs(2);
const BIND_PAUSE: Duration = Duration::from_millis(10);

impl Listener {
    /// Binds. SO_REUSEADDR, so that a restart does not wait for old connections; never SO_REUSEPORT.
    pub fn bind(address: SocketAddr) -> Result<Listener, ListenError> {
        let start = Instant::now();
        loop {
            match Listener::bind_once(address) {
                Err(ListenError::Taken(_)) if start.elapsed() < BIND_PATIENCE => std::thread::sleep(BIND_PAUSE),
                outcome => return outcome,
            }
        }
    }

    fn bind_once(address: SocketAddr) -> Result<Listener, ListenError> {
        let attempt = || {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            let bound = socket.local_addr()?.as_socket().unwrap_or(address);
            Ok(Listener { socket, address: bound })
        };
        attempt().map_err(|error| refused(address, error))
    }

    /// Takes connections, up to `backlog` of them before they are accepted.
    pub fn listen(&self, backlog: u32) -> Result<(), ListenError> {
        self.socket.listen(backlog.min(i32::MAX as u32) as i32).map_err(|error| refused(self.address, error))
    }

    /// Waits for the next connection, on a thread that may.
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (socket, from) = self.socket.accept()?;
        let from = from.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok((socket.into(), from))
    }

    /// Ends the wait of a thread in [`Listener::accept`], and every later one.
    pub fn interrupt(&self) {
        // It fails only if it does not listen, and then nobody waits.
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Where it is bound, the port chosen by the kernel included.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

fn refused(address: SocketAddr, error: io::Error) -> ListenError {
    match error.kind() {
        io::ErrorKind::AddrInUse => ListenError::Taken(address),
        io::ErrorKind::AddrNotAvailable => ListenError::NotOurs(address),
        io::ErrorKind::PermissionDenied => ListenError::Forbidden(address),
        _ => ListenError::Other(address, error),
    }
}

/// Makes a fresh connection ready: no delay of small replies. Returns the client's address, or None if it is gone already.
pub fn welcome(socket: &impl AsFd) -> Option<SocketAddr> {
    let socket = SockRef::from(socket);
    socket.set_tcp_nodelay(true).ok()?;
    socket.peer_addr().ok()?.as_socket()
}

/// Who is connected: per core and per address. Touched when connections come and go, never per request.
pub struct Admission(Mutex<Present>);

struct Present {
    per_core: Vec<usize>,
    per_address: HashMap<IpAddr, usize>,
    total: usize,
}

impl Admission {
    /// For `cores` cores that serve clients.
    pub fn new(cores: usize) -> Admission {
        Admission(Mutex::new(Present { per_core: vec![0; cores], per_address: HashMap::new(), total: 0 }))
    }

    fn present(&self) -> std::sync::MutexGuard<'_, Present> {
        self.0.lock().expect("no panic under this lock")
    }

    /// The core for a connection that `acceptor` accepted: itself, unless it is well over its fair share. The place is
    /// taken from now on; `leave` frees it.
    pub fn place(&self, acceptor: usize) -> usize {
        let mut present = self.present();
        let (fewest, least) = present.per_core.iter().copied().enumerate().min_by_key(|(_, n)| *n).expect("at least one core");
        let over = present.per_core[acceptor] > least + least / 16;
        let core = if over { fewest } else { acceptor };
        present.per_core[core] += 1;
        core
    }

    /// Counts a connection in; returns how many there were before.
    pub fn enter(&self, address: IpAddr) -> Census {
        let mut present = self.present();
        let total = present.total;
        present.total += 1;
        let here = present.per_address.entry(address.to_canonical()).or_default();
        *here += 1;
        Census { from_address: *here - 1, total }
    }

    /// A connection that was placed on `core` is gone; `address` if it was counted in.
    pub fn leave(&self, core: usize, address: Option<IpAddr>) {
        let mut present = self.present();
        present.per_core[core] -= 1;
        let Some(address) = address.map(|a| a.to_canonical()) else { return };
        present.total -= 1;
        let here = present.per_address.get_mut(&address).expect("it was counted in");
        *here -= 1;
        if *here == 0 {
            present.per_address.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any_port(host: &str) -> SocketAddr {
        format!("{host}:0").parse().unwrap()
    }

    #[test]
    fn a_second_server_on_the_port_is_refused_by_name() {
        let first = Listener::bind(any_port("127.0.0.1")).unwrap();
        first.listen(16).unwrap();
        let second = Listener::bind(first.address()).and_then(|second| second.listen(16));
        let text = second.unwrap_err().to_string();
        assert!(text.starts_with(&format!("{} is taken", first.address())), "{text}");
        assert!(matches!(Listener::bind("192.0.2.1:0".parse().unwrap()), Err(ListenError::NotOurs(_))));
    }

    #[test]
    fn clients_connect_by_both_protocols() {
        for host in ["127.0.0.1", "[::1]"] {
            let Ok(listener) = Listener::bind(any_port(host)) else { continue };
            listener.listen(16).unwrap();
            let client = TcpStream::connect(listener.address()).unwrap();
            let (accepted, _) = listener.socket.accept().unwrap();
            assert_eq!(welcome(&accepted), Some(client.local_addr().unwrap()));
            assert!(accepted.tcp_nodelay().unwrap());
        }
    }

    #[test]
    fn connections_spread_whoever_accepts_them() {
        let admission = Admission::new(3);
        let placed: Vec<usize> = (0..300).map(|_| admission.place(0)).collect();
        for core in 0..3 {
            let share = placed.iter().filter(|p| **p == core).count();
            assert!((90..=110).contains(&share), "{share}");
        }
        let address: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        admission.enter(address);
        let census = admission.enter("10.0.0.1".parse().unwrap());
        assert_eq!((census.from_address, census.total), (1, 1));
        admission.leave(0, Some(address));
        admission.leave(1, None);
        assert_eq!(admission.enter(address).total, 1);
    }
}
