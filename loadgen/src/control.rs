//! One blocking connection for what surrounds a run: making directories, looking, deleting. Deep pipelining where there
//! is much to do. Refuses to be fast for single calls, and to wait for ever.

use crate::clock::now_ns;
use crate::session::{Broken, Incoming, Session, Span};
use falconer::wire::jute::{Malformed, Reader};
use falconer::wire::request::{Create, MultiOps, OPEN_ACL, Request};
use falconer::wire::response::code;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Requests on their way at once.
const DEPTH: usize = 200;
/// Deletes in one transaction.
const DELETES_PER_MULTI: usize = 200;
const SESSION_TIMEOUT_MS: i32 = 30_000;

/// Why the server could not be prepared or tidied.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("no connection to {server}: {error}")]
    Connect { server: SocketAddr, error: io::Error },
    #[error("connection to the server: {0}")]
    Socket(#[from] io::Error),
    #[error("session: {0}")]
    Session(#[from] Broken),
    #[error("a reply does not parse")]
    Malformed(#[from] Malformed),
    #[error("{action} {path}: error {code} ({})", code::name(*code))]
    Code { action: &'static str, path: String, code: i32 },
}

/// Error code and body of one reply.
type Answer = (i32, Vec<u8>);

/// A blocking session.
pub struct Control {
    stream: TcpStream,
    session: Session<()>,
    answers: VecDeque<Answer>,
    scratch: Vec<u8>,
}

impl Control {
    /// Opens a session; no wait for the server is longer than `reply_timeout_ms`.
    pub fn connect(server: SocketAddr, reply_timeout_ms: u64) -> Result<Control, ControlError> {
        let limit = Duration::from_millis(reply_timeout_ms);
        let stream = TcpStream::connect_timeout(&server, limit).map_err(|error| ControlError::Connect { server, error })?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        let session = Session::new(SESSION_TIMEOUT_MS, now_ns());
        let mut control = Control { stream, session, answers: VecDeque::new(), scratch: vec![0; 256 << 10] };
        control.flush()?;
        while !control.session.is_open() {
            control.read()?;
        }
        Ok(control)
    }

    fn flush(&mut self) -> Result<(), ControlError> {
        self.stream.write_all(&self.session.output)?;
        self.session.output.clear();
        Ok(())
    }

    fn read(&mut self) -> Result<(), ControlError> {
        let count = match self.stream.read(&mut self.scratch) {
            Ok(0) => return Ok(self.session.closed_by_peer()?),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let answers = &mut self.answers;
        self.session.receive(&self.scratch[..count], |_, incoming| {
            if let Incoming::Reply(reply) = incoming {
                answers.push_back((reply.header.err, reply.body.to_vec()));
            }
        })?;
        Ok(())
    }

    /// Sends `count` requests, the i-th made by `request(i, send)`, and hands every answer to `answered(i, answer)`.
    fn pipeline(
        &mut self,
        count: usize,
        mut request: impl FnMut(usize, &mut dyn FnMut(&Request<'_>)),
        mut answered: impl FnMut(usize, Answer) -> Result<(), ControlError>,
    ) -> Result<(), ControlError> {
        let (mut sent, mut done) = (0, 0);
        while done < count {
            while sent < count && sent - done < DEPTH {
                let now_ns = now_ns();
                let span = Span { due_ns: now_ns, begun_ns: now_ns };
                request(sent, &mut |request| self.session.send(request, (), span, now_ns));
                sent += 1;
            }
            self.flush()?;
            while self.answers.is_empty() {
                self.read()?;
            }
            while let Some(answer) = self.answers.pop_front() {
                answered(done, answer)?;
                done += 1;
            }
        }
        Ok(())
    }

    /// Creates empty nodes; one that exists is fine.
    pub fn create_all(&mut self, paths: &[String]) -> Result<(), ControlError> {
        self.pipeline(
            paths.len(),
            |i, send| send(&Request::Create(Create { path: paths[i].as_str().into(), data: Some(&[]), acl: OPEN_ACL, flags: 0 })),
            |i, (err, _)| match err {
                code::OK | code::NODE_EXISTS => Ok(()),
                code => Err(ControlError::Code { action: "create", path: paths[i].clone(), code }),
            },
        )
    }

    /// Whether a node exists.
    pub fn exists(&mut self, path: &str) -> Result<bool, ControlError> {
        let mut exists = false;
        let answered = |_, (err, _): Answer| match err {
            code::OK | code::NO_NODE => {
                exists = err == code::OK;
                Ok(())
            }
            code => Err(ControlError::Code { action: "exists", path: path.into(), code }),
        };
        self.pipeline(1, |_, send| send(&Request::Exists { path: path.into(), watch: false }), answered)?;
        Ok(exists)
    }

    /// The children's names; None if the node does not exist.
    pub fn children(&mut self, path: &str) -> Result<Option<Vec<String>>, ControlError> {
        let mut names = None;
        let answered = |_, (err, body): Answer| match err {
            code::NO_NODE => Ok(()),
            code::OK => {
                let mut reader = Reader::new(&body);
                let count = reader.vector(4)?.unwrap_or(0);
                names = Some((0..count).map(|_| Ok(reader.required()?.into_owned())).collect::<Result<Vec<_>, Malformed>>()?);
                Ok(())
            }
            code => Err(ControlError::Code { action: "list", path: path.into(), code }),
        };
        self.pipeline(1, |_, send| send(&Request::GetChildren { path: path.into(), watch: false }), answered)?;
        Ok(names)
    }

    /// Deletes `path` and all below it; fine if it does not exist. Returns how many nodes are gone.
    pub fn remove_tree(&mut self, path: &str) -> Result<u64, ControlError> {
        let Some(names) = self.children(path)? else { return Ok(0) };
        let children: Vec<String> = names.iter().map(|name| format!("{path}/{name}")).collect();
        let mut gone = 0;
        for inner in self.delete_batched(&children, &mut gone)? {
            gone += self.remove_tree(&inner)?;
        }
        let left = self.delete_each(&[path.to_string()], &mut gone)?;
        assert!(left.is_empty() || left == [path]);
        match left.is_empty() {
            true => Ok(gone),
            false => Err(ControlError::Code { action: "delete", path: path.into(), code: code::NOT_EMPTY }),
        }
    }

    /// Deletes what has no children, many in one transaction. Returns the paths that have some.
    fn delete_batched(&mut self, paths: &[String], gone: &mut u64) -> Result<Vec<String>, ControlError> {
        let batches: Vec<&[String]> = paths.chunks(DELETES_PER_MULTI).collect();
        let mut refused = Vec::new();
        let request = |i: usize, send: &mut dyn FnMut(&Request<'_>)| {
            let ops: Vec<_> = batches[i].iter().map(|path| Request::Delete { path: path.as_str().into(), version: -1 }).collect();
            let raw = MultiOps::encode_ops(&ops);
            send(&Request::Multi(MultiOps::from_encoded(&raw).expect("just encoded")));
        };
        self.pipeline(batches.len(), request, |i, (err, body)| {
            // The first result tells: in a refused multi all of them are errors (type -1).
            if err == code::OK && Reader::new(&body).i32()? != -1 {
                *gone += batches[i].len() as u64;
            } else {
                refused.push(i);
            }
            Ok(())
        })?;
        let mut inner = Vec::new();
        for i in refused {
            inner.extend(self.delete_each(batches[i], gone)?);
        }
        Ok(inner)
    }

    /// Deletes one by one. Returns the paths that have children.
    fn delete_each(&mut self, paths: &[String], gone: &mut u64) -> Result<Vec<String>, ControlError> {
        let mut inner = Vec::new();
        self.pipeline(
            paths.len(),
            |i, send| send(&Request::Delete { path: paths[i].as_str().into(), version: -1 }),
            |i, (err, _)| {
                match err {
                    code::OK => *gone += 1,
                    code::NO_NODE => {}
                    code::NOT_EMPTY => inner.push(paths[i].clone()),
                    code => return Err(ControlError::Code { action: "delete", path: paths[i].clone(), code }),
                }
                Ok(())
            },
        )?;
        Ok(inner)
    }

    /// Ends the session.
    pub fn close(mut self) -> Result<(), ControlError> {
        self.session.close(now_ns());
        self.flush()?;
        while !self.session.is_closed() {
            self.read()?;
        }
        Ok(())
    }
}
