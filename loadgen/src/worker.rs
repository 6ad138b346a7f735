//! One thread's event loop: opens its connections, begins operations when one has ended (closed loop) or when the
//! schedule wants it (open loop), hands replies to the workload, and closes its sessions. Follows the stage that the
//! conductor has set; refuses to decide when a phase ends, and to hide a lost connection.

use crate::clock::now_ns;
use crate::failure::{Cause, WorkerError};
use crate::link::{Link, Timer};
use crate::meter::{Meter, Second, Shared, Stage};
use crate::pace::{Pace, Schedule};
use crate::process::thread_run_wait_ns;
use crate::session::{Broken, Incoming, Session, Span};
use crate::tally::{Op, Tally, ThreadTime};
use crate::workload::{Ledger, Port, Workload};
use mio::{Events, Poll, Token};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Handshakes under way at once while the load has not begun: servers have short accept queues.
const OPENING_MAX: usize = 32;
const READ_BYTES: usize = 256 << 10;
const MS: u64 = 1_000_000;
const TICK_NS: u64 = 500_000_000;
/// How often a worker looks at the stage though nothing happens.
const LOOK_NS: u64 = 10_000_000;
/// Below this the thread does not go to sleep if it may spin.
const SPIN_NS: u64 = 200_000;
/// The error code that client libraries give for requests whose connection is lost.
const CONNECTION_LOSS: i32 = -4;
/// The token of the timer; connections count from 0.
const TIMER: Token = Token(usize::MAX - 1);

/// How a worker is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    pub servers: Vec<SocketAddr>,
    /// The number of its first connection among all; the connection with number n goes to server n modulo their count.
    pub first_number: u32,
    pub connections: usize,
    /// Operations under way per connection.
    pub outstanding: usize,
    /// Session timeout to ask for.
    pub timeout_ms: i32,
    /// A reply that takes longer is lost.
    pub reply_timeout_ms: u64,
    /// Measured operations after which this worker is done; None: when it is told.
    pub ops_max: Option<u64>,
    /// Take up sessions again whose connection is lost.
    pub reconnect: bool,
    /// Open another session in the place of one that was closed, until the drain.
    pub storm: bool,
    /// Drop all connections this often and take the sessions up again; 0: never.
    pub herd_ns: u64,
    /// When operations are due; None: when one has ended.
    pub schedule: Option<Schedule>,
    /// This worker's share of the schedule: which part of how many.
    pub part: (u32, u32),
    pub seed: u64,
    /// Burn a core rather than be some 50 us late.
    pub spin: bool,
}

/// What a worker tells the conductor while it runs.
pub enum Event {
    /// All its sessions are open.
    Opened,
    /// `ops_max` is reached, or the workload has come to its end.
    Finished,
    Second(Second),
    Failed(WorkerError),
}

/// What a worker leaves.
pub struct Outcome {
    pub tally: Tally,
    pub ledger: Ledger,
}

/// An event loop with its connections.
pub struct Worker<W: Workload> {
    settings: Settings,
    workload: W,
    shared: Arc<Shared>,
    meter: Meter,
    poll: Poll,
    timer: Timer,
    links: Vec<Link<W::Sent>>,
    /// Sessions that are open, and that have been closed for good.
    open: usize,
    closed: usize,
    stage: Stage,
    /// No more operations: the workload has ended or `ops_max` is reached.
    finished: bool,
    /// When the drain ends though some sessions could not be taken up again to be closed.
    give_up_ns: u64,
    /// When all connections are dropped next.
    next_herd_ns: u64,
    pace: Option<Pace>,
    /// When operations were due that no connection had room for.
    backlog: VecDeque<u64>,
    /// The connection that gets the next scheduled operation.
    next_link: usize,
    /// Connections with output that the socket has not been offered yet.
    dirty: Vec<usize>,
    /// CPU time of the thread at the start of the measured phase, and when that was seen.
    thread_before: Option<((u64, u64), u64)>,
    scratch: Vec<u8>,
}

impl<W: Workload> Worker<W> {
    pub fn new(settings: Settings, workload: W, shared: Arc<Shared>) -> io::Result<Worker<W>> {
        let poll = Poll::new()?;
        let timer = Timer::new(poll.registry(), TIMER)?;
        let open_loop = settings.schedule.is_some();
        let (part, parts) = settings.part;
        Ok(Worker {
            workload,
            meter: Meter::new(settings.servers.len(), open_loop, settings.ops_max, shared.clone()),
            shared,
            poll,
            timer,
            links: Vec::new(),
            open: 0,
            closed: 0,
            stage: Stage::Open,
            finished: false,
            give_up_ns: u64::MAX,
            next_herd_ns: u64::MAX,
            pace: settings.schedule.clone().map(|schedule| Pace::new(schedule, part, parts, settings.seed)),
            backlog: VecDeque::new(),
            next_link: 0,
            dirty: Vec::new(),
            thread_before: None,
            scratch: vec![0; READ_BYTES],
            settings,
        })
    }

    /// Runs to the end of the drain. `tell` gets at most one event of each kind but [`Event::Second`].
    pub fn run(mut self, mut tell: impl FnMut(Event)) -> Outcome {
        let result = self.turns(&mut tell);
        let tally = self.meter.tally;
        match result {
            Ok(()) => Outcome { tally, ledger: self.workload.ledger() },
            Err(error) => {
                tell(Event::Failed(error));
                // Nobody knows what the server should hold now.
                Outcome { tally, ledger: Ledger::default() }
            }
        }
    }

    fn turns(&mut self, tell: &mut impl FnMut(Event)) -> Result<(), WorkerError> {
        let mut events = Events::with_capacity(1024);
        let mut next_tick_ns = now_ns() + TICK_NS;
        let (mut told_opened, mut told_finished) = (false, false);
        while self.closed < self.settings.connections && now_ns() < self.give_up_ns {
            self.open_more()?;
            let timeout = self.time_to_sleep()?;
            if let Err(error) = self.poll.poll(&mut events, Some(timeout))
                && error.kind() != ErrorKind::Interrupted
            {
                return Err(error.into());
            }
            for event in events.iter().filter(|event| event.token() != TIMER) {
                self.serve(event.token().0, event.is_readable() || event.is_read_closed(), event.is_read_closed())?;
            }
            let now_ns = now_ns();
            self.follow_stage(now_ns)?;
            self.begin_due(now_ns);
            if now_ns >= self.next_herd_ns {
                self.next_herd_ns += self.settings.herd_ns;
                self.drop_all()?;
            }
            self.flush_dirty()?;
            if now_ns > next_tick_ns {
                self.tick(now_ns)?;
                next_tick_ns = now_ns + TICK_NS;
            }
            self.meter.turn(now_ns);
            self.meter.passed_seconds().for_each(|second| tell(Event::Second(second)));
            if self.open == self.settings.connections && !std::mem::replace(&mut told_opened, true) {
                tell(Event::Opened);
            }
            if self.finished && self.links.iter().all(|link| link.running == 0) && !std::mem::replace(&mut told_finished, true) {
                tell(Event::Finished);
            }
        }
        Ok(())
    }

    /// How long to wait for sockets; arms the timer for what is due before that.
    fn time_to_sleep(&mut self) -> Result<Duration, WorkerError> {
        let Some(pace) = &self.pace else { return Ok(Duration::from_nanos(LOOK_NS)) };
        let wait_ns = pace.next_ns().saturating_sub(now_ns());
        if wait_ns == 0 || (self.settings.spin && wait_ns < SPIN_NS) {
            return Ok(Duration::ZERO);
        }
        if wait_ns < LOOK_NS {
            self.timer.arm(wait_ns)?;
        }
        Ok(Duration::from_nanos(LOOK_NS))
    }

    fn number(&self, index: usize) -> u32 {
        self.settings.first_number + index as u32
    }

    fn error(&self, index: usize, cause: impl Into<Cause>) -> WorkerError {
        let open = self.links.get(index).is_some_and(|link| link.was_open);
        WorkerError::Connection { number: self.number(index), open, cause: cause.into() }
    }

    /// Starts more connections while few are under way, and tries again those that are lost.
    fn open_more(&mut self) -> Result<(), WorkerError> {
        while self.links.len() < self.settings.connections && self.links.len() - self.open < OPENING_MAX {
            let index = self.links.len();
            let server = self.number(index) as usize % self.settings.servers.len();
            let session = Session::new(self.settings.timeout_ms, now_ns());
            self.links.push(Link::new(server, session, now_ns()));
            self.connect(index)?;
        }
        if self.open < self.links.len() && self.settings.reconnect {
            let now_ns = now_ns();
            for index in 0..self.links.len() {
                if self.links[index].retry_ns <= now_ns {
                    self.connect(index)?;
                }
            }
        }
        Ok(())
    }

    fn connect(&mut self, index: usize) -> Result<(), WorkerError> {
        let link = &mut self.links[index];
        match link.connect(self.settings.servers[link.server], self.poll.registry(), Token(index)) {
            Ok(()) => Ok(()),
            Err(error) => self.broken(index, error.into()),
        }
    }

    /// A connection has ended: fatal, or the session is to be taken up again on the next server.
    fn broken(&mut self, index: usize, cause: Cause) -> Result<(), WorkerError> {
        if !self.settings.reconnect || !cause.is_lost_connection() {
            return Err(self.error(index, cause));
        }
        let link = &mut self.links[index];
        for what in link.session.take_unanswered() {
            self.workload.lost(index, what);
            *self.meter.tally.codes.entry(CONNECTION_LOSS).or_default() += 1;
        }
        self.open -= usize::from(link.session.is_open());
        if link.is_up() {
            self.meter.tally.disconnects += 1;
        }
        let expired = matches!(cause, Cause::Session(Broken::Expired));
        if expired {
            self.meter.tally.expiries += 1;
            self.workload.expired(index);
        }
        let session = match link.session.identity() {
            identity if identity.session == 0 || expired => Session::new(self.settings.timeout_ms, now_ns()),
            identity => Session::resume(identity, self.settings.timeout_ms, now_ns()),
        };
        link.give_up(session, self.settings.servers.len(), now_ns());
        Ok(())
    }

    /// What a restarted proxy does to its clients: every connection is gone at once, every session is to be resumed.
    fn drop_all(&mut self) -> Result<(), WorkerError> {
        for index in 0..self.links.len() {
            if self.links[index].session.is_open() {
                let unanswered = self.links[index].session.outstanding();
                self.broken(index, Broken::ClosedByServer { unanswered }.into())?;
                self.links[index].retry_ns = 0;
            }
        }
        Ok(())
    }

    /// A storm opens the next session where one was closed.
    fn reopen(&mut self, index: usize, now_ns: u64) -> Result<(), WorkerError> {
        self.open -= 1;
        let session = Session::new(self.settings.timeout_ms, now_ns);
        self.links[index].reopen(session, self.settings.schedule.is_some(), now_ns);
        self.connect(index)
    }

    /// Takes over a new stage and does what its start asks for.
    fn follow_stage(&mut self, now_ns: u64) -> Result<(), WorkerError> {
        let stage = self.shared.stage();
        if stage == self.stage {
            return Ok(());
        }
        let idle = self.stage == Stage::Open;
        self.stage = stage;
        self.meter.turn(now_ns);
        match (stage, &mut self.pace) {
            (Stage::WarmUp, Some(pace)) => pace.hold(now_ns),
            (Stage::Measure, Some(pace)) => pace.start(now_ns),
            (Stage::Drain, pace) => {
                *pace = None;
                if self.settings.reconnect {
                    self.give_up_ns = now_ns + self.settings.reply_timeout_ms * MS;
                }
                let op = self.workload.usual_op();
                self.backlog.drain(..).for_each(|due_ns| self.meter.unsent(op, due_ns, now_ns));
            }
            _ => {}
        }
        match stage {
            Stage::Measure => {
                self.thread_before = thread_run_wait_ns().map(|time| (time, now_ns));
                self.next_herd_ns = if self.settings.herd_ns > 0 { now_ns + self.settings.herd_ns } else { u64::MAX };
            }
            Stage::Drain => {
                self.meter.tally.thread = self.thread_time(now_ns);
                self.next_herd_ns = u64::MAX;
            }
            _ => {}
        }
        for index in 0..self.links.len() {
            match stage {
                Stage::Open => {}
                Stage::WarmUp | Stage::Measure if idle => self.refill(index, now_ns),
                Stage::WarmUp | Stage::Measure => {}
                Stage::Drain => self.close_if_idle(index, now_ns),
            }
            self.flush(index)?;
        }
        Ok(())
    }

    fn thread_time(&self, now_ns: u64) -> ThreadTime {
        match (self.thread_before, thread_run_wait_ns()) {
            (Some(((running, waiting), since_ns)), Some((running_now, waiting_now))) => {
                ThreadTime { running: running_now - running, waiting: waiting_now - waiting, elapsed: now_ns - since_ns }
            }
            _ => ThreadTime::default(),
        }
    }

    /// Begins the operations that are due, as far as connections have room.
    fn begin_due(&mut self, now_ns: u64) {
        let Some(pace) = &mut self.pace else { return };
        while pace.next_ns() <= now_ns {
            self.meter.noticed(pace.next_ns(), now_ns);
            self.backlog.push_back(pace.next_ns());
            pace.advance();
        }
        self.spread_backlog(now_ns);
    }

    /// Gives the operations that wait to connections with room, one each in turn.
    fn spread_backlog(&mut self, now_ns: u64) {
        let mut full = 0;
        while !self.backlog.is_empty() && full < self.links.len() && !self.finished {
            let index = self.next_link;
            self.next_link = (index + 1) % self.links.len();
            if !self.has_room(index) {
                full += 1;
                continue;
            }
            full = 0;
            let due_ns = self.backlog.pop_front().expect("just seen");
            self.begin(index, Span { due_ns, begun_ns: now_ns }, now_ns);
            self.dirty.push(index);
        }
    }

    fn has_room(&self, index: usize) -> bool {
        let link = &self.links[index];
        link.session.is_open() && (link.running as usize) < self.settings.outstanding
    }

    fn begin(&mut self, index: usize, span: Span, now_ns: u64) {
        let link = &mut self.links[index];
        link.running += 1;
        link.asked = span;
        let mut port = link.port(index, &mut self.meter, now_ns);
        if !self.workload.issue(&mut port, span) {
            self.links[index].running -= 1;
            self.finished = true;
        }
    }

    /// Begins what the connection has room for.
    fn refill(&mut self, index: usize, now_ns: u64) {
        if self.settings.schedule.is_none() {
            while !self.finished && self.has_room(index) {
                self.begin(index, Span { due_ns: now_ns, begun_ns: now_ns }, now_ns);
            }
            return;
        }
        while !self.finished && self.has_room(index) {
            let Some(due_ns) = self.backlog.pop_front() else { break };
            self.begin(index, Span { due_ns, begun_ns: now_ns }, now_ns);
        }
    }

    fn close_if_idle(&mut self, index: usize, now_ns: u64) {
        let link = &mut self.links[index];
        if link.session.is_open() && link.running == 0 && link.session.outstanding() == 0 {
            let mut port = link.port(index, &mut self.meter, now_ns);
            if self.workload.settle(&mut port) {
                link.session.close(now_ns);
            }
        }
    }

    /// Reads what has come, begins what there is room for, and writes what is due.
    fn serve(&mut self, index: usize, readable: bool, read_closed: bool) -> Result<(), WorkerError> {
        if readable {
            // Another socket in the place of this one has events of its own.
            let socket = self.links[index].sockets;
            while self.read_once(index)? == READ_BYTES || (read_closed && self.links[index].expects_more()) {
                if self.links[index].sockets != socket {
                    break;
                }
            }
        }
        self.flush(index)
    }

    /// One read and everything that follows from it. Returns the bytes read; 0 if there was nothing.
    fn read_once(&mut self, index: usize) -> Result<usize, WorkerError> {
        let link = &mut self.links[index];
        let Some(stream) = &mut link.stream else { return Ok(0) };
        let count = match stream.read(&mut self.scratch) {
            Ok(0) => {
                let result = link.session.closed_by_peer();
                return result.or_else(|broken| self.broken(index, broken.into())).map(|()| 0);
            }
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(0),
            Err(_) if link.session.is_closed() => return Ok(0),
            Err(error) => return self.broken(index, error.into()).map(|()| 0),
        };
        let now_ns = now_ns();
        match self.take(index, count, now_ns) {
            Ok(()) => {}
            Err(broken) => return self.broken(index, broken.into()).map(|()| 0),
        }
        self.finished |= self.meter.is_full();
        if std::mem::take(&mut self.links[index].just_closed) {
            if self.settings.storm && self.stage != Stage::Drain && !self.finished {
                return self.reopen(index, now_ns).map(|()| 0);
            }
            self.closed += 1;
        }
        self.after_replies(index, now_ns);
        Ok(count)
    }

    /// Hands what was read to the session, and from there to the workload.
    fn take(&mut self, index: usize, count: usize, now_ns: u64) -> Result<(), Broken> {
        let link = &mut self.links[index];
        let was_closed = link.session.is_closed();
        let (workload, meter, running, server) = (&mut self.workload, &mut self.meter, &mut link.running, link.server);
        let (opening, was_open) = (link.opening, &mut link.was_open);
        let mut opened = 0;
        let result = link.session.receive(&self.scratch[..count], |session, incoming| {
            let mut port = Port { index, server, now_ns, session, meter: &mut *meter, running: &mut *running };
            match incoming {
                Incoming::Opened => {
                    opened += 1;
                    let op = if std::mem::replace(was_open, true) { Op::Reattach } else { Op::Connect };
                    port.meter.done(op, server, opening, now_ns);
                    workload.opened(&mut port);
                }
                Incoming::Reply(reply) => workload.reply(&mut port, &reply),
                Incoming::Event(event) => {
                    port.meter.tally.events += 1;
                    workload.event(&mut port, &event);
                }
            }
        });
        self.open += opened;
        link.just_closed = !was_closed && link.session.is_closed();
        result
    }

    fn after_replies(&mut self, index: usize, now_ns: u64) {
        match self.stage {
            Stage::Open => {}
            Stage::WarmUp | Stage::Measure => self.refill(index, now_ns),
            Stage::Drain => self.close_if_idle(index, now_ns),
        }
    }

    fn flush_dirty(&mut self) -> Result<(), WorkerError> {
        while let Some(index) = self.dirty.pop() {
            self.flush(index)?;
        }
        Ok(())
    }

    /// Writes as much output as the socket takes.
    fn flush(&mut self, index: usize) -> Result<(), WorkerError> {
        match self.links[index].flush() {
            Ok(()) => Ok(()),
            Err(error) => self.broken(index, error.into()),
        }
    }

    fn tick(&mut self, now_ns: u64) -> Result<(), WorkerError> {
        for index in 0..self.links.len() {
            if self.links[index].is_up()
                && let Err(broken) = self.links[index].session.tick(now_ns, self.settings.reply_timeout_ms)
            {
                self.broken(index, broken.into())?;
            }
            self.flush(index)?;
        }
        Ok(())
    }
}
