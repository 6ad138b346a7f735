//! Runs one phase plan over all workers: opens, warms up, measures between two looks at the processes, drains. Puts the
//! workers' seconds together and starts commands on the time line. Refuses to run longer than its limit; a server that
//! breaks the protocol ends the run early, and what was measured until then is kept.

use crate::actions::{Action, ActionDone, Actions};
use crate::clock::now_ns;
use crate::failure::WorkerError;
use crate::meter::{Second, Shared, Stage};
use crate::process::{Look, ProcessError, Watched};
use crate::tally::{Tally, Violation};
use crate::worker::{Event, Outcome, Settings, Worker};
use crate::workload::{Ledger, Workload};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the conductor looks up from waiting for its workers.
const LOOK: Duration = Duration::from_millis(50);

/// When the measured phase ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// After this time.
    Elapsed(Duration),
    /// When every worker has finished: it has reached its `ops_max`, or its workload has ended.
    Finished,
}

/// What surrounds the measured phase.
#[derive(Clone, Copy, Debug)]
pub struct Phases {
    pub warm_up: Duration,
    pub until: Until,
    /// No phase may take longer.
    pub limit: Duration,
}

/// What happens beside the load.
pub struct Beside<'a> {
    pub watched: &'a Watched,
    /// Commands, by their time since the start of the measured phase.
    pub actions: &'a [Action],
    /// Gets every second as soon as it is over.
    pub on_row: &'a mut dyn FnMut(&Row),
    /// Ends the measured phase when it becomes true.
    pub interrupted: &'a AtomicBool,
}

/// Why a run has no result.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("starting a worker: {0}")]
    Start(#[from] io::Error),
    #[error("{phase} took longer than {limit:?}")]
    TooLong { phase: &'static str, limit: Duration },
    #[error("interrupted before the measured phase")]
    Interrupted,
    #[error("a worker has died")]
    Died,
}

/// One second of a run.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Row {
    /// Seconds since the start of the measured phase.
    pub second: u32,
    /// Operations that ended in it.
    pub ops: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
    pub wrong: u64,
    pub disconnects: u64,
}

impl Row {
    fn of(second: &Second) -> Row {
        let us = |ns: u64| ns as f64 / 1000.0;
        Row {
            second: second.index,
            ops: second.latencies.len(),
            p50_us: us(second.latencies.value_at_quantile(0.5)),
            p99_us: us(second.latencies.value_at_quantile(0.99)),
            max_us: us(second.latencies.max()),
            wrong: second.wrong,
            disconnects: second.disconnects,
        }
    }
}

/// A finished run.
pub struct Measured {
    pub tally: Tally,
    pub ledger: Ledger,
    /// From the first connection to the last handshake.
    pub opening: Duration,
    /// The measured phase.
    pub elapsed: Duration,
    /// Before the first connection, when all are open, at the end of the measured phase.
    pub before: Look,
    pub opened: Look,
    pub after: Look,
    /// At the start of the measured phase.
    pub start: Look,
    pub rows: Vec<Row>,
    /// The longest time in which no operation ended: seconds since the start, and how long.
    pub stall: (f64, Duration),
    pub actions: Vec<ActionDone>,
    /// Why the measured phase is shorter than it should be.
    pub ended_early: Option<String>,
}

/// One entry of `workers` is one thread.
pub fn run<W: Workload>(workers: Vec<(Settings, W)>, phases: Phases, beside: &mut Beside<'_>) -> Result<Measured, RunError> {
    let before = beside.watched.look()?;
    let begin = Instant::now();
    let mut crew = Crew::start(workers)?;
    let result = crew.measure(phases, beside, before, begin);
    crew.shared.set(Stage::Drain);
    // On an error the process ends with it; workers that still wait for a server end with it.
    let mut measured = result?;
    crew.join(phases.limit, &mut measured, beside)?;
    Ok(measured)
}

struct Crew {
    shared: Arc<Shared>,
    events: Receiver<Event>,
    threads: Vec<JoinHandle<Outcome>>,
    servers: usize,
    /// Seconds that some workers have told and others not yet.
    seconds: BTreeMap<u32, (usize, Second)>,
    rows: Vec<Row>,
    /// What a server did that ended a worker.
    failure: Option<WorkerError>,
}

impl Crew {
    fn start<W: Workload>(workers: Vec<(Settings, W)>) -> Result<Crew, RunError> {
        let shared = Arc::new(Shared::default());
        let (tell, events) = channel();
        let mut threads = Vec::new();
        let servers = workers.first().map_or(1, |(settings, _)| settings.servers.len());
        for (settings, workload) in workers {
            let worker = Worker::new(settings, workload, shared.clone())?;
            let tell = tell.clone();
            // The receiver is gone only when the run has failed already.
            let body = move || worker.run(|event| drop(tell.send(event)));
            threads.push(std::thread::Builder::new().name("worker".into()).spawn(body)?);
        }
        Ok(Crew { shared, events, threads, servers, seconds: BTreeMap::new(), rows: Vec::new(), failure: None })
    }

    fn measure(&mut self, phases: Phases, beside: &mut Beside<'_>, before: Look, begin: Instant) -> Result<Measured, RunError> {
        let mut nothing = Actions::new(&[]);
        self.wait("opening the sessions", Wait::Reports(phases.limit), &mut nothing, beside)?;
        let opening = begin.elapsed();
        let opened = beside.watched.look()?;
        if !phases.warm_up.is_zero() && self.failure.is_none() {
            self.shared.set(Stage::WarmUp);
            self.wait("the warm-up", Wait::Pause(phases.warm_up), &mut nothing, beside)?;
        }
        if beside.interrupted.load(Ordering::Relaxed) {
            return Err(RunError::Interrupted);
        }
        let start = beside.watched.look_closely()?;
        let length = if let Until::Elapsed(duration) = phases.until { Some(duration.as_nanos() as u64) } else { None };
        self.shared.begin(now_ns(), length);
        let mut actions = Actions::new(beside.actions);
        let wait = match phases.until {
            Until::Elapsed(duration) => Wait::Pause(duration),
            Until::Finished => Wait::Reports(phases.limit),
        };
        self.wait("the measured phase", wait, &mut actions, beside)?;
        // The look comes first: workers that have drained are gone, and their CPU time with them.
        let mut after = beside.watched.look()?;
        let (from_ns, to_ns) = self.shared.end(now_ns());
        // Asking takes a while; it is not part of what is measured.
        after.figures = beside.watched.look_closely()?.figures;
        let (stall_from_ns, stall_ns) = self.shared.longest_stall();
        Ok(Measured {
            tally: Tally::new(self.servers),
            ledger: Ledger::default(),
            opening,
            elapsed: Duration::from_nanos(to_ns - from_ns),
            before,
            opened,
            start,
            after,
            rows: Vec::new(),
            stall: (stall_from_ns.saturating_sub(from_ns) as f64 / 1e9, Duration::from_nanos(stall_ns)),
            actions: actions.finish(),
            ended_early: beside.interrupted.load(Ordering::Relaxed).then(|| "interrupted".to_string()),
        })
    }

    /// Waits for every worker's next report, or for a time; ends early when a worker fails or somebody interrupts.
    fn wait(&mut self, phase: &'static str, wait: Wait, actions: &mut Actions<'_>, beside: &mut Beside<'_>) -> Result<(), RunError> {
        let begin = Instant::now();
        let length = match wait {
            Wait::Pause(length) | Wait::Reports(length) => length,
        };
        let mut missing = self.threads.len();
        loop {
            actions.start_due(begin.elapsed());
            let left = length.saturating_sub(begin.elapsed());
            match self.events.recv_timeout(left.min(LOOK)) {
                Ok(event) => missing -= usize::from(self.take(event, beside)?),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) if self.failure.is_none() => return Err(RunError::Died),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            let reports = matches!(wait, Wait::Reports(_));
            if self.failure.is_some() || beside.interrupted.load(Ordering::Relaxed) || (reports && missing == 0) {
                return Ok(());
            }
            if begin.elapsed() >= length {
                return if reports { Err(RunError::TooLong { phase, limit: length }) } else { Ok(()) };
            }
        }
    }

    /// Takes in what a worker tells. True if it is a report that somebody may wait for.
    fn take(&mut self, event: Event, beside: &mut Beside<'_>) -> Result<bool, RunError> {
        match event {
            Event::Opened | Event::Finished => return Ok(true),
            Event::Failed(error) if error.miss().is_none() => return Err(error.into()),
            Event::Failed(error) => self.failure = self.failure.take().or(Some(error)),
            Event::Second(second) => self.add_second(second, beside),
        }
        Ok(false)
    }

    fn add_second(&mut self, second: Second, beside: &mut Beside<'_>) {
        let index = second.index;
        match self.seconds.get_mut(&index) {
            Some((told, sum)) => {
                *told += 1;
                sum.add(&second);
            }
            None => drop(self.seconds.insert(index, (1, second))),
        }
        while let Some(entry) = self.seconds.first_entry().filter(|entry| entry.get().0 == self.threads.len()) {
            let row = Row::of(&entry.remove().1);
            (beside.on_row)(&row);
            self.rows.push(row);
        }
    }

    /// Waits for the drain and adds up what the workers have.
    fn join(&mut self, limit: Duration, measured: &mut Measured, beside: &mut Beside<'_>) -> Result<(), RunError> {
        let end = Instant::now() + limit;
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            if Instant::now() > end {
                return Err(RunError::TooLong { phase: "closing the sessions", limit });
            }
            if let Ok(event) = self.events.recv_timeout(Duration::from_millis(1)) {
                self.take(event, beside)?;
            }
        }
        while let Ok(event) = self.events.try_recv() {
            self.take(event, beside)?;
        }
        for thread in self.threads.drain(..) {
            let outcome = thread.join().map_err(|_| RunError::Died)?;
            measured.tally.add(&outcome.tally);
            measured.ledger.add(outcome.ledger);
        }
        measured.rows = std::mem::take(&mut self.rows);
        if let Some(failure) = self.failure.take() {
            let text = failure.to_string();
            let miss = failure.miss().expect("the others are errors");
            measured.tally.violation(Violation::new(miss, text.clone()));
            measured.ended_early = Some(text);
            measured.ledger = Ledger::default();
        }
        Ok(())
    }
}

/// What ends a wait, and how long it may or shall last.
#[derive(Clone, Copy)]
enum Wait {
    Reports(Duration),
    Pause(Duration),
}
