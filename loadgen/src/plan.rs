//! One measured run from an empty root to an empty root: prepares the tree, loads, looks whether everything is there,
//! tidies. Works only below one root node, and refuses to start where that already holds something.

use crate::access::Access;
use crate::actions::{Action, judge_recovery};
use crate::args::{Fill as FillArgs, Load, Target};
use crate::conductor::{Beside, Measured, Phases, Row, RunError, Until, run};
use crate::content::{Directories, Paths, Sizes};
use crate::control::{Control, ControlError};
use crate::pace::Schedule;
use crate::process::Watched;
use crate::spec::{Recipe, Spec};
use crate::tally::{Miss, Violation};
use crate::worker::Settings;
use crate::workload::{Fill, Holders, Idle, Lock, Mix, MixPlan, Queue, Registry, Storm, Sweep, Workload};
use falconer::runtime::raise_open_files;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Duration;

/// How filling and looking is pipelined: connections, requests outstanding on each.
const PIPELINED: (u32, u32) = (4, 250);
/// Directories of keys when many are made at once.
const FILL_PER_DIR: u32 = 1000;

/// Why a run has no result.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("{root} exists and has {children} children; --force deletes them")]
    NotEmpty { root: String, children: usize },
    #[error("pre-filling: {0}")]
    Prefill(String),
    #[error("{0}")]
    Refused(String),
}

/// What somebody wants to see while it runs, and how to stop it.
pub struct Witness<'a> {
    pub on_row: &'a mut dyn FnMut(&Row),
    pub interrupted: &'a AtomicBool,
}

/// One run of one workload on one service.
#[derive(Clone)]
pub struct Plan<'a> {
    pub target: &'a Target,
    pub spec: &'a Spec,
    pub load: &'a Load,
    pub schedule: Option<Schedule>,
    pub actions: &'a [Action],
    /// Servers that answer when they are asked for their numbers.
    pub talkative: Vec<SocketAddr>,
}

/// What a run has found.
pub struct Findings {
    pub measured: Measured,
    /// Nodes and directories that were looked at after the load.
    pub checked_at_end: Option<u64>,
}

fn connect(target: &Target) -> Result<Control, ControlError> {
    Control::connect(target.servers[0], target.reply_timeout_ms)
}

/// Makes sure that the root exists and is empty, then creates `directories` in it.
fn prepare(target: &Target, directories: &[String]) -> Result<(), PlanError> {
    let mut control = connect(target)?;
    let root = target.root.as_str();
    match control.children(root)? {
        Some(children) if !children.is_empty() && !target.force => {
            return Err(PlanError::NotEmpty { root: root.into(), children: children.len() });
        }
        Some(_) => drop(control.remove_tree(root)?),
        None => {}
    }
    let parents = root.match_indices('/').skip(1).map(|(at, _)| root[..at].to_string());
    control.create_all(&parents.chain([root.to_string()]).collect::<Vec<_>>())?;
    control.create_all(directories)?;
    Ok(control.close()?)
}

/// Deletes the root and all below it. Returns how many nodes are gone.
pub fn remove_root(target: &Target) -> Result<u64, PlanError> {
    let mut control = connect(target)?;
    let gone = control.remove_tree(&target.root)?;
    control.close()?;
    Ok(gone)
}

/// The paths that `write` makes from every number.
fn paths(numbers: Range<u32>, write: impl Fn(&mut String, u32)) -> impl Iterator<Item = String> {
    numbers.map(move |number| {
        let mut path = String::new();
        write(&mut path, number);
        path
    })
}

/// The `part`-th of `parts` almost equal pieces of 0..total.
fn share(total: u32, part: u32, parts: u32) -> Range<u32> {
    let cut = |part: u32| (u64::from(total) * u64::from(part) / u64::from(parts)) as u32;
    cut(part)..cut(part + 1)
}

/// Quiet settings for what surrounds the load: `part` of `parts` threads with `connections` in all.
fn surrounding(target: &Target, (part, parts): (u32, u32), connections: u32, outstanding: u32) -> Settings {
    let numbers = share(connections, part, parts);
    Settings {
        servers: target.servers.clone(),
        first_number: numbers.start,
        connections: numbers.len(),
        outstanding: outstanding as usize,
        timeout_ms: target.session_timeout_ms,
        reply_timeout_ms: target.reply_timeout_ms,
        ops_max: None,
        reconnect: false,
        storm: false,
        herd_ns: 0,
        schedule: None,
        part: (part, parts),
        seed: 0,
        spin: false,
        auth: None,
    }
}

/// Files that are open besides connections: standard streams, the poll of each thread, what is read from /proc.
const OTHER_FILES: u64 = 30;

/// Raises the limit of open files as far as it goes, and refuses connections that do not fit.
fn make_room(connections: u32, threads: u32) -> Result<(), PlanError> {
    let (limit, others) = (raise_open_files(), OTHER_FILES + 3 * u64::from(threads));
    match u64::from(connections) + others <= limit {
        true => Ok(()),
        false => Err(PlanError::Refused(format!(
            "{connections} connections: the limit of open files is {limit} and allows {}; raise it with `ulimit -Hn`",
            limit.saturating_sub(others)
        ))),
    }
}

/// Runs something to its end that is not measured.
fn run_through<W: Workload>(target: &Target, workers: Vec<(Settings, W)>, interrupted: &AtomicBool) -> Result<Measured, RunError> {
    let phases = Phases { warm_up: Duration::ZERO, until: Until::Finished, limit: target.limit };
    let watched = Watched::default();
    run(workers, phases, &mut Beside { watched: &watched, actions: &[], on_row: &mut |_| {}, interrupted })
}

impl Plan<'_> {
    fn paths(&self) -> Paths {
        let directories = Directories::new(&self.spec.keys_per_directory, self.spec.keys);
        Paths { root: self.target.root.clone(), directories, names: self.spec.name.clone() }
    }

    fn access(&self) -> Access {
        Access::new(&self.spec.acl).expect("the workload was validated")
    }

    /// As [`surrounding`], with the sessions authenticated as the workload says.
    fn surrounding(&self, part: (u32, u32), connections: u32, outstanding: u32) -> Settings {
        Settings { auth: self.spec.auth.clone(), ..surrounding(self.target, part, connections, outstanding) }
    }

    fn reconnects(&self) -> bool {
        self.load.reconnect || !self.actions.is_empty() || self.spec.herd_ms > 0
    }

    /// Runs it all.
    pub fn play(&self, witness: &mut Witness<'_>) -> Result<Findings, PlanError> {
        if self.reconnects() && !matches!(self.spec.recipe, Recipe::Mix | Recipe::Idle) {
            let text = "--reconnect and --at: only for mixes and idle sessions; the recipes do not survive a lost connection";
            return Err(PlanError::Refused(text.into()));
        }
        make_room(self.spec.connections, self.load.threads)?;
        prepare(self.target, &self.directories())?;
        let result = self.loaded(witness);
        if !self.load.keep {
            // A run that has failed reports its own error, whatever tidying says.
            let tidied = remove_root(self.target);
            if result.is_ok() {
                tidied?;
            }
        }
        result
    }

    fn directories(&self) -> Vec<String> {
        let (names, spec) = (self.paths(), self.spec);
        let mut all: Vec<String> = paths(0..names.directories.count(spec.keys), |out, number| names.dir(out, number)).collect();
        if spec.has_own_nodes() {
            all.extend(paths(0..spec.connections, |out, number| names.own_dir(out, number)));
        }
        all.extend(paths(0..spec.line_count(), |out, number| names.line(out, number)));
        all
    }

    fn loaded(&self, witness: &mut Witness<'_>) -> Result<Findings, PlanError> {
        self.prefill(witness.interrupted)?;
        let mut measured = match self.spec.recipe {
            Recipe::Mix => self.measure(|plan, part| Mix::new(plan.mix(part)), witness)?,
            Recipe::Idle => self.measure(|_, _| Idle, witness)?,
            Recipe::Storm => self.measure(|_, _| Storm, witness)?,
            Recipe::Lock => {
                let holders: Holders = Arc::new((0..self.spec.lines).map(|_| AtomicU32::new(0)).collect());
                self.measure(|plan, part| Lock::new(plan.paths(), plan.numbers(part), holders.clone(), plan.load.seed), witness)?
            }
            Recipe::Queue => self.measure(Plan::queue, witness)?,
            Recipe::Registry => self.measure(Plan::registry, witness)?,
        };
        judge_recovery(&mut measured.actions, &measured.tally.ticks);
        let checked_at_end = if self.load.skip_final_check { None } else { self.look_at_end(&mut measured, witness.interrupted)? };
        Ok(Findings { measured, checked_at_end })
    }

    fn prefill(&self, interrupted: &AtomicBool) -> Result<(), PlanError> {
        let spec = self.spec;
        if spec.keys == 0 && spec.population == 0 {
            return Ok(());
        }
        let parts = self.load.threads;
        let worker = |part| {
            let settings = self.surrounding((part, parts), PIPELINED.0.max(parts), PIPELINED.1);
            let (keys, numbers) = (share(spec.keys, part, parts), share(spec.connections, part, parts));
            (settings, Fill::new(self.paths(), spec.size.clone(), keys, numbers, spec.population).with_access(self.access()))
        };
        let filled = run_through(self.target, (0..parts).map(worker).collect(), interrupted)?;
        match filled.tally.examples.first() {
            Some(example) => Err(PlanError::Prefill(example.clone())),
            None if filled.ended_early.is_some() => Err(RunError::Interrupted.into()),
            None => Ok(()),
        }
    }

    /// The keys that the connections `numbers` write: split where the connections are split.
    fn keys_of(&self, numbers: &Range<u32>) -> Range<u32> {
        let at = |number: u32| (u64::from(self.spec.keys) * u64::from(number) / u64::from(self.spec.connections)) as u32;
        at(numbers.start)..at(numbers.end)
    }

    /// The connections of a thread.
    fn numbers(&self, part: u32) -> Range<u32> {
        share(self.spec.connections, part, self.load.threads)
    }

    fn queue(&self, part: u32) -> Queue {
        Queue::new(self.paths(), self.spec.size.clone(), self.numbers(part), self.spec.lines, self.load.seed)
    }

    fn registry(&self, part: u32) -> Registry {
        let numbers = self.numbers(part);
        let keys = self.keys_of(&numbers);
        Registry::new(self.paths(), self.spec.size.clone(), keys, numbers.len(), self.spec.watches)
    }

    fn mix(&self, part: u32) -> MixPlan {
        let numbers = self.numbers(part);
        MixPlan {
            paths: self.paths(),
            sizes: self.spec.size.clone(),
            keys: self.keys_of(&numbers),
            keys_total: self.spec.keys,
            numbers,
            population: self.spec.population,
            operations: self.spec.operation.clone(),
            pick: self.spec.pick,
            watch: self.spec.watch,
            access: self.access(),
            one_server: self.target.servers.len() == 1,
            seed: self.load.seed,
        }
    }

    fn measure<W: Workload>(&self, workload: impl Fn(&Self, u32) -> W, witness: &mut Witness<'_>) -> Result<Measured, RunError> {
        let (load, parts) = (self.load, self.load.threads);
        let connections = self.spec.connections;
        let worker = |part| {
            let surrounding = self.surrounding((part, parts), connections, self.spec.outstanding);
            let count = surrounding.connections as u64;
            let settings = Settings {
                ops_max: load.ops.map(|ops| (ops * count).div_ceil(u64::from(connections))),
                reconnect: self.reconnects(),
                storm: self.spec.recipe == Recipe::Storm,
                herd_ns: u64::from(self.spec.herd_ms) * 1_000_000,
                schedule: self.schedule.clone(),
                seed: load.seed,
                spin: load.spin,
                ..surrounding
            };
            (settings, workload(self, part))
        };
        let until = if load.ops.is_some() { Until::Finished } else { Until::Elapsed(load.duration) };
        let watched =
            Watched { servers: self.target.server_pids.clone(), mntr: self.talkative.clone(), pages: self.target.metrics.clone() };
        let phases = Phases { warm_up: load.warmup, until, limit: self.target.limit };
        let Witness { on_row, interrupted } = witness;
        let mut beside = Beside { watched: &watched, actions: self.actions, on_row: *on_row, interrupted };
        run((0..parts).map(worker).collect(), phases, &mut beside)
    }

    /// Whether the server holds what it has acknowledged. Returns how much was looked at.
    fn look_at_end(&self, measured: &mut Measured, interrupted: &AtomicBool) -> Result<Option<u64>, PlanError> {
        let mut ledger = std::mem::take(&mut measured.ledger);
        for (path, number) in ledger.repeated_sequences() {
            let text = format!("{path}: sequence number {number} was given twice");
            measured.tally.violation(Violation::new(Miss::Sequence, text));
        }
        if ledger.is_empty() {
            return Ok(None);
        }
        // Every server is looked at by at least one connection.
        let connections = PIPELINED.0.max(self.target.servers.len() as u32);
        let parts = self.load.threads.min(connections);
        let ledgers = ledger.split(parts as usize).into_iter().enumerate();
        let worker = |(part, ledger)| {
            let settings = self.surrounding((part as u32, parts), connections, PIPELINED.1);
            (settings, Sweep::new(self.paths(), self.spec.size.clone(), ledger))
        };
        let swept = run_through(self.target, ledgers.map(worker).collect(), interrupted)?;
        measured.tally.add_misses(&swept.tally);
        Ok(swept.ended_early.is_none().then(|| swept.tally.count()))
    }
}

/// Creates many nodes and leaves them there.
pub fn fill(options: &FillArgs, witness: &mut Witness<'_>) -> Result<Measured, PlanError> {
    let directories = Directories::Even(FILL_PER_DIR);
    let names = Paths { root: options.target.root.clone(), directories, names: Sizes::Fixed(0) };
    let directories: Vec<String> = paths(0..options.nodes.div_ceil(FILL_PER_DIR), |out, number| names.dir(out, number)).collect();
    prepare(&options.target, &directories)?;
    let worker = |part| {
        let settings = surrounding(&options.target, (part, options.threads), options.connections, options.outstanding);
        let keys = share(options.nodes, part, options.threads);
        (settings, Fill::new(names.clone(), Sizes::Fixed(options.size), keys, 0..0, 0))
    };
    let phases = Phases { warm_up: Duration::ZERO, until: Until::Finished, limit: options.target.limit };
    let watched = Watched { servers: options.target.server_pids.clone(), ..Watched::default() };
    let Witness { on_row, interrupted } = witness;
    let mut beside = Beside { watched: &watched, actions: &[], on_row: *on_row, interrupted };
    Ok(run((0..options.threads).map(worker).collect(), phases, &mut beside)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_connections_than_files_are_refused_before_anything_is_touched() {
        assert!(make_room(1, 1).is_ok());
        // No machine has so many, unless there is no limit at all.
        let refused = make_room(u32::MAX, 1).err().map(|error| error.to_string());
        assert!(refused.is_none_or(|text| text.contains("allows") && text.contains("ulimit")));
    }

    #[test]
    fn shares_cover_everything_once() {
        for (total, parts) in [(10, 3), (7, 7), (50, 4), (1, 1), (0, 2)] {
            let mut next = 0;
            for part in 0..parts {
                let range = share(total, part, parts);
                assert_eq!(range.start, next);
                next = range.end;
            }
            assert_eq!(next, total);
        }
    }
}
