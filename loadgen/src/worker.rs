//! One thread's event loop: opens its connections, begins operations when one has ended (closed loop) or when the
//! schedule wants it (open loop), hands replies to the workload, and closes its sessions. Follows the stage that the
//! conductor has set; refuses to decide when a phase ends.

mod connecting;
mod operating;
mod receiving;

use crate::clock::now_ns;
use crate::failure::{Cause, WorkerError};
use crate::link::{Link, Timer};
use crate::meter::{Meter, Second, Shared, Stage};
use crate::pace::{Pace, Schedule};
use crate::process::thread_run_wait_ns;
use crate::tally::{Tally, ThreadTime};
use crate::workload::{Ledger, Workload};
use mio::{Events, Poll, Token};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

const MS: u64 = 1_000_000;
const TICK_NS: u64 = 500_000_000;
/// How often a worker looks at the stage though nothing happens.
const LOOK_NS: u64 = 10_000_000;
/// Below this the thread does not go to sleep if it may spin.
const SPIN_NS: u64 = 200_000;
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
    /// USER:PASSWORD with which sessions authenticate first of all.
    pub auth: Option<String>,
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
            scratch: vec![0; receiving::READ_BYTES],
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
