//! A blocking connection for one command: the first server of a list that answers, then one request at a time.
//! Refuses to reconnect: a command that lost its server says so, and whether to try again is the user's choice.

use super::Exit;
use crate::client::{Event, Pending, ProtocolError, Reply, Session, Ticket};
use crate::wire::jute::Malformed;
use crate::wire::request::Request;
use crate::wire::response::code;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Why a command did not do what it was asked. `Display` is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("{0}")]
    Usage(String),
    #[error("no server answers: {0}")]
    NoServer(String),
    #[error("the server closed the connection")]
    Closed,
    #[error("no answer within {0} s")]
    Timeout(u64),
    #[error("the session is gone")]
    Expired,
    #[error("this is not a ZooKeeper-compatible server: {0}")]
    Protocol(#[from] ProtocolError),
    #[error("{}", refusal(*.code, .path))]
    Refused { code: i32, path: String },
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl From<Malformed> for CliError {
    fn from(_: Malformed) -> CliError {
        CliError::Protocol(ProtocolError::Malformed)
    }
}

impl CliError {
    /// The exit code that goes with it.
    pub fn exit(&self) -> Exit {
        if matches!(self, CliError::Usage(_)) { Exit::Usage } else { Exit::Failed }
    }

    /// Whether whoever read our output has had enough, as `head` has.
    pub fn is_closed_pipe(&self) -> bool {
        matches!(self, CliError::Io(error) if error.kind() == ErrorKind::BrokenPipe)
    }
}

/// The sentences of ZooKeeper's own command line, where it has one.
fn refusal(code: i32, path: &str) -> String {
    match code {
        code::NO_NODE => format!("Node does not exist: {path}"),
        code::NODE_EXISTS => format!("Node already exists: {path}"),
        code::NOT_EMPTY => format!("Node not empty: {path}"),
        code::BAD_VERSION => format!("version No is not valid : {path}"),
        code::NO_AUTH => format!("Insufficient permission : {path}"),
        code::NO_CHILDREN_FOR_EPHEMERALS => format!("Ephemerals cannot have children: {path}"),
        code::BAD_ARGUMENTS => format!("Not a valid path or argument: {path}"),
        code::QUOTA_EXCEEDED => format!("Quota has exceeded : {path}"),
        code::UNIMPLEMENTED => format!("The server does not do this: {path}"),
        code::AUTH_FAILED => "Authentication failed".into(),
        code => format!("{} ({code}): {path}", code::name(code)),
    }
}

/// A reply that outlives the next request.
pub struct Answer {
    to: Pending,
    zxid: i64,
    body: Vec<u8>,
}

impl Answer {
    /// The reply, to be taken apart.
    pub fn reply(&self) -> Reply<'_> {
        Reply { to: self.to, zxid: self.zxid, err: code::OK, body: &self.body }
    }
}

/// One session over one socket.
pub struct Connection {
    stream: TcpStream,
    session: Session,
    timeout: Duration,
    /// Put before every path; empty or starting with `/`.
    chroot: String,
}

impl Connection {
    /// Connects to the first server of `HOST:PORT,...[/CHROOT]` that answers; a port may be left out.
    pub fn open(servers: &str, timeout: Duration) -> Result<Connection, CliError> {
        let (list, chroot) = match servers.find('/') {
            Some(at) => (&servers[..at], servers[at..].trim_end_matches('/')),
            None => (servers, ""),
        };
        let mut reasons = Vec::new();
        for server in list.split(',').map(str::trim).filter(|server| !server.is_empty()) {
            match dial(server, timeout) {
                Ok(stream) => match Connection::greet(stream, timeout, chroot) {
                    Err(CliError::Closed) => reasons.push(format!("{server}: closes the connection")),
                    Err(CliError::Timeout(_)) => reasons.push(format!("{server}: accepts, but does not answer")),
                    done => return done,
                },
                Err(error) => reasons.push(format!("{server}: {error}")),
            }
        }
        if reasons.is_empty() {
            return Err(CliError::Usage("--server: HOST:PORT is missing".into()));
        }
        Err(CliError::NoServer(reasons.join("; ")))
    }

    fn greet(stream: TcpStream, timeout: Duration, chroot: &str) -> Result<Connection, CliError> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(timeout))?;
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        let session = Session::new(Ticket::default(), timeout_ms);
        let mut connection = Connection { stream, session, timeout, chroot: chroot.into() };
        connection.flush()?;
        connection.wait(|event| match event {
            Event::Connected { .. } => Some(Ok(())),
            Event::Expired => Some(Err(CliError::Expired)),
            _ => None,
        })?;
        Ok(connection)
    }

    /// The path as the server knows it.
    pub fn full_path(&self, path: &str) -> String {
        match path {
            "/" if !self.chroot.is_empty() => self.chroot.clone(),
            _ => format!("{}{path}", self.chroot),
        }
    }

    /// A path of the server's as the user knows it.
    pub fn shown_path<'p>(&self, path: &'p str) -> &'p str {
        path.strip_prefix(&self.chroot).filter(|rest| !rest.is_empty()).unwrap_or(path)
    }

    /// Adds an identity, `scheme:credentials`.
    pub fn authenticate(&mut self, auth: &str) -> Result<(), CliError> {
        let (scheme, credentials) =
            auth.split_once(':').ok_or_else(|| CliError::Usage(format!("--auth: {auth:?} has no colon after the scheme")))?;
        let request = Request::Auth { scheme: scheme.into(), credentials: Some(credentials.as_bytes()) };
        self.call(&request, scheme).map(drop)
    }

    /// Sends one request and waits for its reply; `path` is for the error.
    pub fn call(&mut self, request: &Request<'_>, path: &str) -> Result<Answer, CliError> {
        let xid = self.session.send(request);
        self.flush()?;
        self.wait(|event| match event {
            Event::Reply(reply) if reply.to.xid == xid && reply.is_ok() => {
                Some(Ok(Answer { to: reply.to, zxid: reply.zxid, body: reply.body.to_vec() }))
            }
            Event::Reply(reply) if reply.to.xid == xid => Some(Err(CliError::Refused { code: reply.err, path: path.into() })),
            _ => None,
        })
    }

    /// Ends the session, so that the server need not wait for it to expire.
    pub fn close(mut self) {
        // The command is done: a server that cannot say goodbye changes nothing about it.
        let _ = self.call(&Request::CloseSession, "");
    }

    fn flush(&mut self) -> Result<(), CliError> {
        let written = self.stream.write_all(self.session.output());
        self.session.output().clear();
        match written {
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => Err(CliError::Closed),
            other => Ok(other?),
        }
    }

    /// Reads until `done` has what it waits for. The timeout runs anew with every byte that arrives.
    fn wait<T>(&mut self, mut done: impl FnMut(Event<'_>) -> Option<Result<T, CliError>>) -> Result<T, CliError> {
        self.stream.set_read_timeout(Some(self.timeout))?;
        let mut buffer = [0; 64 << 10];
        loop {
            while let Some(event) = self.session.next_event()? {
                if let Some(result) = done(event) {
                    return result;
                }
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(CliError::Closed),
                Ok(count) => self.session.receive(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(CliError::Timeout(self.timeout.as_secs()));
                }
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Err(CliError::Closed),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Tries every address of a name. Without a port it is ZooKeeper's.
fn dial(server: &str, timeout: Duration) -> std::io::Result<TcpStream> {
    let has_port =
        server.rsplit_once(':').is_some_and(|(host, port)| port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']')));
    let bare = server.trim_start_matches('[').trim_end_matches(']');
    let addresses = if has_port { server.to_socket_addrs()? } else { (bare, 2181).to_socket_addrs()? };
    let mut last = std::io::Error::new(ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
