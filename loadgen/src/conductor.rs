//! Runs one phase plan over all workers: opens, warms up, measures between two looks at the processes, drains.
//! Refuses to run longer than its limit.

use crate::process::{Look, ProcessError, Watched};
use crate::tally::Tally;
use crate::worker::{Baton, Event, Settings, Stage, Worker, WorkerError};
use crate::workload::Workload;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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
    #[error("a worker has died")]
    Died,
}

/// A finished run.
pub struct Measured {
    pub tally: Tally,
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
}

/// One entry of `workers` is one thread.
pub fn run(workers: Vec<(Settings, Workload)>, phases: Phases, watched: &Watched) -> Result<Measured, RunError> {
    let before = watched.look()?;
    let begin = Instant::now();
    let mut crew = Crew::start(workers)?;
    let result = crew.measure(phases, watched, before, begin);
    crew.baton.set(Stage::Drain);
    match result {
        Ok(mut measured) => {
            measured.tally = crew.join(phases.limit)?;
            Ok(measured)
        }
        // The process ends with this error; workers that still wait for a server end with it.
        Err(error) => Err(error),
    }
}

struct Crew {
    baton: Baton,
    events: Receiver<Event>,
    threads: Vec<JoinHandle<Tally>>,
}

impl Crew {
    fn start(workers: Vec<(Settings, Workload)>) -> Result<Crew, RunError> {
        let baton = Baton::default();
        let (tell, events) = channel();
        let mut threads = Vec::new();
        for (settings, workload) in workers {
            let worker = Worker::new(settings, workload, baton.clone())?;
            let tell = tell.clone();
            // The receiver is gone only when the run has failed already.
            let body = move || worker.run(|event| drop(tell.send(event)));
            threads.push(std::thread::Builder::new().name("worker".into()).spawn(body)?);
        }
        Ok(Crew { baton, events, threads })
    }

    fn measure(&mut self, phases: Phases, watched: &Watched, before: Look, begin: Instant) -> Result<Measured, RunError> {
        self.all_report("opening the sessions", phases.limit)?;
        let opening = begin.elapsed();
        let opened = watched.look()?;
        if !phases.warm_up.is_zero() {
            self.baton.set(Stage::WarmUp);
            self.pause(phases.warm_up)?;
        }
        let (start, started) = (watched.look()?, Instant::now());
        self.baton.set(Stage::Measure);
        match phases.until {
            Until::Elapsed(duration) => self.pause(duration)?,
            Until::Finished => self.all_report("the measured phase", phases.limit)?,
        }
        // The look comes first: workers that have drained are gone, and their CPU time with them.
        let after = watched.look()?;
        self.baton.set(Stage::Drain);
        Ok(Measured { tally: Tally::default(), opening, elapsed: started.elapsed(), before, opened, start, after })
    }

    /// Waits until every worker has told its next event.
    fn all_report(&self, phase: &'static str, limit: Duration) -> Result<(), RunError> {
        let end = Instant::now() + limit;
        for _ in 0..self.threads.len() {
            match self.events.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Event::Failed(error)) => return Err(error.into()),
                Ok(Event::Opened | Event::Finished) => {}
                Err(RecvTimeoutError::Timeout) => return Err(RunError::TooLong { phase, limit }),
                Err(RecvTimeoutError::Disconnected) => return Err(RunError::Died),
            }
        }
        Ok(())
    }

    /// Waits while the workers work.
    fn pause(&self, duration: Duration) -> Result<(), RunError> {
        let end = Instant::now() + duration;
        loop {
            match self.events.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Event::Failed(error)) => return Err(error.into()),
                Ok(Event::Opened | Event::Finished) => {}
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err(RunError::Died),
            }
        }
    }

    /// Waits for the drain and adds up what the workers have.
    fn join(&mut self, limit: Duration) -> Result<Tally, RunError> {
        let end = Instant::now() + limit;
        let mut tally = Tally::default();
        for thread in self.threads.drain(..) {
            while !thread.is_finished() {
                if Instant::now() > end {
                    return Err(RunError::TooLong { phase: "closing the sessions", limit });
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            tally.add(&thread.join().map_err(|_| RunError::Died)?);
        }
        match self.events.try_iter().find_map(|event| if let Event::Failed(error) = event { Some(error) } else { None }) {
            Some(error) => Err(error.into()),
            None => Ok(tally),
        }
    }
}
