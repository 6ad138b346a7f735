//! One thread's event loop: opens its connections, keeps every one of them at the wanted number of outstanding
//! requests, checks and times every reply, and closes its sessions. Follows the stage that the conductor has set;
//! refuses to decide when a phase ends.

use crate::clock::now_ns;
use crate::session::{Broken, Session};
use crate::tally::Tally;
use crate::workload::{Sent, Workload};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// Handshakes under way at once: servers have short accept queues.
const OPENING_MAX: usize = 32;
const READ_BYTES: usize = 256 << 10;
const TICK_NS: u64 = 500_000_000;
const POLL_TIMEOUT: Duration = Duration::from_millis(10);

/// What all workers are to do now; only ever moves forward.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
#[repr(u8)]
pub enum Stage {
    Open,
    WarmUp,
    Measure,
    Drain,
}

/// The stage, shared by the conductor and its workers.
#[derive(Clone, Default)]
pub struct Baton(Arc<AtomicU8>);

impl Baton {
    pub fn set(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Release);
    }

    pub fn stage(&self) -> Stage {
        match self.0.load(Ordering::Acquire) {
            0 => Stage::Open,
            1 => Stage::WarmUp,
            2 => Stage::Measure,
            _ => Stage::Drain,
        }
    }
}

/// How a worker is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    pub server: SocketAddr,
    pub connections: usize,
    /// Requests without a reply per connection.
    pub outstanding: usize,
    /// Session timeout to ask for.
    pub timeout_ms: i32,
    /// A reply that takes longer is lost.
    pub reply_timeout_ms: u64,
    /// Measured operations after which this worker is done; None: when it is told.
    pub ops_max: Option<u64>,
}

/// Why a worker gave up.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("connection {index}: {error}{}", hint(error))]
    Socket { index: usize, error: io::Error },
    #[error("connection {index}: {broken}")]
    Session { index: usize, broken: Broken },
    #[error("waiting for sockets: {0}")]
    Poll(#[from] io::Error),
}

fn hint(error: &io::Error) -> &'static str {
    const EMFILE: i32 = 24;
    match error.raw_os_error() {
        Some(EMFILE) => " (raise `ulimit -n`)",
        _ => "",
    }
}

/// What a worker tells the conductor while it runs.
#[derive(Debug)]
pub enum Event {
    /// All its sessions are open.
    Opened,
    /// `ops_max` is reached, or the workload has come to its end.
    Finished,
    Failed(WorkerError),
}

struct Link {
    stream: TcpStream,
    session: Session<Sent>,
    /// Bytes of the session's output that the socket has taken.
    written: usize,
}

/// An event loop with its connections.
pub struct Worker {
    settings: Settings,
    workload: Workload,
    baton: Baton,
    poll: Poll,
    links: Vec<Link>,
    /// Sessions whose handshake is done.
    open: usize,
    closed: usize,
    stage: Stage,
    /// No more requests: the workload has ended or `ops_max` is reached.
    finished: bool,
    tally: Tally,
    scratch: Vec<u8>,
}

impl Worker {
    pub fn new(settings: Settings, workload: Workload, baton: Baton) -> io::Result<Worker> {
        Ok(Worker {
            settings,
            workload,
            baton,
            poll: Poll::new()?,
            links: Vec::new(),
            open: 0,
            closed: 0,
            stage: Stage::Open,
            finished: false,
            tally: Tally::default(),
            scratch: vec![0; READ_BYTES],
        })
    }

    /// Runs to the end of the drain. `tell` gets at most one event of each kind.
    pub fn run(mut self, mut tell: impl FnMut(Event)) -> Tally {
        if let Err(error) = self.turns(&mut tell) {
            tell(Event::Failed(error));
        }
        self.tally
    }

    fn turns(&mut self, tell: &mut impl FnMut(Event)) -> Result<(), WorkerError> {
        let mut events = Events::with_capacity(1024);
        let mut next_tick_ns = now_ns() + TICK_NS;
        let (mut told_opened, mut told_finished) = (false, false);
        while self.closed < self.settings.connections {
            self.open_more()?;
            if let Err(error) = self.poll.poll(&mut events, Some(POLL_TIMEOUT))
                && error.kind() != ErrorKind::Interrupted
            {
                return Err(error.into());
            }
            for event in &events {
                self.serve(event.token().0, event.is_readable() || event.is_read_closed(), event.is_read_closed())?;
            }
            if now_ns() > next_tick_ns {
                self.tick()?;
                next_tick_ns = now_ns() + TICK_NS;
            }
            if self.open == self.settings.connections && !std::mem::replace(&mut told_opened, true) {
                tell(Event::Opened);
            }
            self.follow_baton()?;
            if self.finished
                && self.links.iter().all(|link| link.session.outstanding() == 0)
                && !std::mem::replace(&mut told_finished, true)
            {
                tell(Event::Finished);
            }
        }
        Ok(())
    }

    /// Starts more connections while few are under way.
    fn open_more(&mut self) -> Result<(), WorkerError> {
        while self.links.len() < self.settings.connections && self.links.len() - self.open < OPENING_MAX {
            let index = self.links.len();
            let error = |error| WorkerError::Socket { index, error };
            let mut stream = TcpStream::connect(self.settings.server).map_err(error)?;
            stream.set_nodelay(true).map_err(error)?;
            self.poll.registry().register(&mut stream, Token(index), Interest::READABLE | Interest::WRITABLE).map_err(error)?;
            self.links.push(Link { stream, session: Session::new(self.settings.timeout_ms, now_ns()), written: 0 });
        }
        Ok(())
    }

    /// Takes over a new stage and does what its start asks for.
    fn follow_baton(&mut self) -> Result<(), WorkerError> {
        let stage = self.baton.stage();
        if stage == self.stage {
            return Ok(());
        }
        let idle = self.stage == Stage::Open;
        self.stage = stage;
        for index in 0..self.links.len() {
            match stage {
                Stage::Open => {}
                Stage::WarmUp | Stage::Measure if idle => self.refill(index, now_ns()),
                Stage::WarmUp | Stage::Measure => {}
                Stage::Drain => self.close_if_idle(index),
            }
            self.flush(index)?;
        }
        Ok(())
    }

    fn refill(&mut self, index: usize, now_ns: u64) {
        let session = &mut self.links[index].session;
        while !self.finished && session.outstanding() < self.settings.outstanding {
            self.finished = !self.workload.issue(index, session, now_ns);
        }
    }

    fn close_if_idle(&mut self, index: usize) {
        let session = &mut self.links[index].session;
        if session.is_open() && session.outstanding() == 0 {
            session.close(Sent::Close, now_ns());
        }
    }

    /// Reads what has come, refills, and writes what is due.
    fn serve(&mut self, index: usize, readable: bool, read_closed: bool) -> Result<(), WorkerError> {
        if readable {
            while self.read_once(index)? == READ_BYTES || (read_closed && !self.links[index].session.is_closed()) {}
        }
        self.flush(index)
    }

    /// One read and everything that follows from it. Returns the bytes read; 0 if there was nothing.
    fn read_once(&mut self, index: usize) -> Result<usize, WorkerError> {
        let link = &mut self.links[index];
        let broken = |broken| WorkerError::Session { index, broken };
        let count = match link.stream.read(&mut self.scratch) {
            Ok(0) => return link.session.closed_by_peer().map(|()| 0).map_err(broken),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(0),
            Err(_) if link.session.is_closed() => return Ok(0),
            Err(error) => return Err(WorkerError::Socket { index, error }),
        };
        let (was_open, was_closed, now_ns) = (link.session.is_open(), link.session.is_closed(), now_ns());
        let measuring = self.stage == Stage::Measure && self.baton.stage() == Stage::Measure;
        let (workload, tally, ops_max) = (&mut self.workload, &mut self.tally, self.settings.ops_max.unwrap_or(u64::MAX));
        let on_reply = |reply: crate::session::Reply<'_, Sent>| {
            if let Err(violation) = workload.check(&reply) {
                tally.violation(&violation);
            }
            if measuring && reply.what != Sent::Close && tally.ops() < ops_max {
                tally.record(reply.what, now_ns.saturating_sub(reply.sent_ns));
            }
        };
        link.session.receive(&self.scratch[..count], on_reply).map_err(broken)?;
        self.open += usize::from(!was_open && link.session.is_open());
        self.closed += usize::from(!was_closed && link.session.is_closed());
        self.finished |= self.tally.ops() >= ops_max;
        self.after_replies(index, now_ns);
        Ok(count)
    }

    fn after_replies(&mut self, index: usize, now_ns: u64) {
        match self.stage {
            Stage::Open => {}
            Stage::WarmUp | Stage::Measure => self.refill(index, now_ns),
            Stage::Drain => self.close_if_idle(index),
        }
    }

    /// Writes as much output as the socket takes.
    fn flush(&mut self, index: usize) -> Result<(), WorkerError> {
        let link = &mut self.links[index];
        while link.written < link.session.output.len() {
            match link.stream.write(&link.session.output[link.written..]) {
                Ok(count) => link.written += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => return Ok(()),
                Err(error) => return Err(WorkerError::Socket { index, error }),
            }
        }
        link.session.output.clear();
        link.written = 0;
        Ok(())
    }

    fn tick(&mut self) -> Result<(), WorkerError> {
        let now_ns = now_ns();
        for index in 0..self.links.len() {
            let result = self.links[index].session.tick(now_ns, self.settings.reply_timeout_ms);
            result.map_err(|broken| WorkerError::Session { index, broken })?;
            self.flush(index)?;
        }
        Ok(())
    }
}
