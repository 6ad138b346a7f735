//! One connection's socket around its session, and the timer that wakes a worker to the microsecond. Refuses to decide
//! what a lost connection means.

use crate::meter::Meter;
use crate::session::{Session, Span};
use crate::workload::Port;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime};
use socket2::{Domain, SockRef, Socket, Type};
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// How long after a lost connection the next try comes.
const RETRY_NS: u64 = 20_000_000;
/// Connections to this machine's own 127.0.0.1 that come from one address. The kernel looks for a free port one by one, first
/// among the half of one parity (14,116 by default): with that half taken, every connection costs as many look-ups.
const CONNECTIONS_PER_SOURCE: u32 = 4000;

/// Where a connection to a loopback server comes from, if not from where the kernel says: 127.0.0.2 and so on.
fn source(server: SocketAddr, number: u32) -> Option<SocketAddr> {
    let block = number / CONNECTIONS_PER_SOURCE;
    (server.is_ipv4() && server.ip().is_loopback() && block > 0)
        .then(|| SocketAddr::from((Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + block), 0)))
}

fn connect_from(source: SocketAddr, server: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
    socket.bind(&source.into())?;
    match socket.connect(&server.into()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(TcpStream::from_std(socket.into())),
    }
}

/// A session and its socket.
pub struct Link<S> {
    /// None between a lost connection and the next try.
    pub stream: Option<TcpStream>,
    pub session: Session<S>,
    /// How many sockets there have been.
    pub sockets: u64,
    /// Bytes of the session's output that the socket has taken.
    written: usize,
    /// Its place in the list of servers.
    pub server: usize,
    /// Operations begun that have not ended.
    pub running: u32,
    /// Since when the session is being opened or taken up again.
    pub opening: Span,
    /// When the last operation that was begun here was due.
    pub asked: Span,
    /// The session has just been closed.
    pub just_closed: bool,
    /// Whether this session has been open before.
    pub was_open: bool,
    /// When to try again; `u64::MAX` while there is a socket.
    pub retry_ns: u64,
}

impl<S> Link<S> {
    pub fn new(server: usize, session: Session<S>, now_ns: u64) -> Link<S> {
        let opening = Span { due_ns: now_ns, begun_ns: now_ns };
        Link {
            stream: None,
            session,
            sockets: 0,
            written: 0,
            server,
            running: 0,
            opening,
            asked: opening,
            just_closed: false,
            was_open: false,
            retry_ns: u64::MAX,
        }
    }

    /// Begins to connect; `number` is this connection's among all of the run.
    pub fn connect(&mut self, server: SocketAddr, number: u32, registry: &Registry, token: Token) -> io::Result<()> {
        self.retry_ns = u64::MAX;
        self.sockets += 1;
        let mut stream = match source(server, number) {
            Some(source) => connect_from(source, server)?,
            None => TcpStream::connect(server)?,
        };
        stream.set_nodelay(true)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        self.stream = Some(stream);
        Ok(())
    }

    pub fn is_up(&self) -> bool {
        self.stream.is_some()
    }

    /// Whether a socket whose other side is closed may still hold something to read.
    pub fn expects_more(&self) -> bool {
        self.is_up() && !self.session.is_closed()
    }

    /// Drops the socket and whatever was under way; the next try is for the next server.
    pub fn give_up(&mut self, session: Session<S>, servers: usize, now_ns: u64) {
        if self.session.is_open() {
            self.opening = Span { due_ns: now_ns, begun_ns: now_ns };
        }
        self.stream = None;
        self.session = session;
        self.written = 0;
        self.running = 0;
        self.server = (self.server + 1) % servers;
        self.retry_ns = now_ns + RETRY_NS;
    }

    /// Puts a new session in the place of one that was closed; with a schedule its opening was due when the closing was.
    pub fn reopen(&mut self, session: Session<S>, scheduled: bool, now_ns: u64) {
        if let Some(stream) = &self.stream {
            // All answers are here. A reset in the place of a goodbye leaves no port in TIME_WAIT, of which a storm would have
            // none left within seconds. It is no loss if the other side has gone first.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
        self.opening = Span { due_ns: if scheduled { self.asked.due_ns } else { now_ns }, begun_ns: now_ns };
        (self.stream, self.session, self.written, self.was_open) = (None, session, 0, false);
    }

    /// Writes as much output as the socket takes.
    pub fn flush(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while self.written < self.session.output.len() {
            match stream.write(&self.session.output[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.session.output.clear();
        self.written = 0;
        Ok(())
    }

    /// The connection as the workload sees it.
    pub fn port<'a>(&'a mut self, index: usize, meter: &'a mut Meter, now_ns: u64) -> Port<'a, S> {
        Port { index, server: self.server, now_ns, session: &mut self.session, meter, running: &mut self.running }
    }
}

/// Wakes a poll after a time in ns: epoll's own timeout knows only milliseconds.
pub struct Timer(OwnedFd);

impl Timer {
    pub fn new(registry: &Registry, token: Token) -> io::Result<Timer> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        Ok(Timer(timer))
    }

    /// Replaces what was armed before; `wait_ns` is above 0 and below a second.
    pub fn arm(&self, wait_ns: u64) -> io::Result<()> {
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec { tv_sec: 0, tv_nsec: wait_ns as _ };
        timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: none, it_value: value })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_connections_to_this_machine_come_from_several_addresses() {
        let here: SocketAddr = "127.0.0.1:2181".parse().unwrap();
        let from = |server, number| source(server, number).map(|source| source.to_string());
        assert_eq!(from(here, 3999), None);
        assert_eq!(from(here, 4000).as_deref(), Some("127.0.0.2:0"));
        assert_eq!(from(here, 15_000).as_deref(), Some("127.0.0.4:0"));
        assert_eq!(from("[::1]:2181".parse().unwrap(), 15_000), None);
        assert_eq!(from("192.0.2.1:2181".parse().unwrap(), 15_000), None);
    }

    #[test]
    fn a_connection_comes_from_where_it_should() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = connect_from("127.0.0.3:0".parse().unwrap(), listener.local_addr().unwrap()).unwrap();
        let (_, from) = listener.accept().unwrap();
        assert_eq!(from.ip(), Ipv4Addr::new(127, 0, 0, 3));
        assert_eq!(from, stream.local_addr().unwrap());
    }
}
