//! The scenarios: prepare the tree, run, tidy, hand over what there is to report. Works only below one root node, and
//! refuses to start where that already holds something.

use crate::args::{Fill, Idle, Load, Scenario, Target};
use crate::conductor::{Measured, Phases, RunError, Until, run};
use crate::content::{KEYS_PER_DIR, ROOT, write_dir_path, write_own_dir_path};
use crate::control::{Control, ControlError};
use crate::process::Watched;
use crate::report::{Extra, Report};
use crate::worker::Settings;
use crate::workload::{Kind, Workload};
use std::ops::Range;
use std::time::{Duration, Instant};

/// How pre-filling is pipelined: connections, requests outstanding on each.
const PREFILL: (u32, u32) = (4, 250);

/// Why a scenario has no result.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("{ROOT} exists and has {0} children; --force deletes them")]
    NotEmpty(usize),
    #[error("pre-filling: {0}")]
    Prefill(String),
}

/// Runs a scenario to its report.
pub fn play(scenario: &Scenario) -> Result<Report, ScenarioError> {
    match scenario {
        Scenario::Get(load) => closed_loop("get", Kind::Get, load),
        Scenario::Set(load) => closed_loop("set", Kind::Set, load),
        Scenario::Create(load) => closed_loop("create", Kind::Create, load),
        Scenario::Mixed(load) => closed_loop("mixed", Kind::Mixed { read_percent: load.read_percent }, load),
        Scenario::Fill(options) => fill(options),
        Scenario::Idle(options) => idle(options),
        Scenario::Clean(target) => clean(target),
    }
}

fn connect(target: &Target) -> Result<Control, ControlError> {
    Control::connect(target.server, target.reply_timeout_ms)
}

/// Makes sure that the root exists and is empty, then creates `directories` in it.
fn prepare(target: &Target, directories: &[String]) -> Result<(), ScenarioError> {
    let mut control = connect(target)?;
    match control.children(ROOT)? {
        Some(children) if !children.is_empty() && !target.force => return Err(ScenarioError::NotEmpty(children.len())),
        Some(_) => drop(control.remove_tree(ROOT)?),
        None => {}
    }
    control.create_all(&[ROOT.to_string()])?;
    control.create_all(directories)?;
    Ok(control.close()?)
}

fn remove_root(target: &Target) -> Result<u64, ScenarioError> {
    let mut control = connect(target)?;
    let gone = control.remove_tree(ROOT)?;
    control.close()?;
    Ok(gone)
}

/// Paths made by `write` from every number.
fn paths(numbers: impl Iterator<Item = u32>, write: fn(&mut String, u32)) -> Vec<String> {
    numbers
        .map(|number| {
            let mut path = String::new();
            write(&mut path, number);
            path
        })
        .collect()
}

fn key_directories(keys: u32) -> Vec<String> {
    paths((0..keys).step_by(KEYS_PER_DIR as usize), write_dir_path)
}

/// The `part`-th of `parts` almost equal pieces of 0..total.
fn share(total: u32, part: u32, parts: u32) -> Range<u32> {
    let cut = |part: u32| (u64::from(total) * u64::from(part) / u64::from(parts)) as u32;
    cut(part)..cut(part + 1)
}

/// What all threads of a run have in common.
struct Shape<'a> {
    target: &'a Target,
    kind: Kind,
    size: u32,
    keys: u32,
    connections: u32,
    outstanding: u32,
    threads: u32,
    ops: Option<u64>,
    seed: u64,
}

impl Shape<'_> {
    /// Splits connections, keys and operations over the threads.
    fn workers(&self) -> Vec<(Settings, Workload)> {
        // Every connection needs a key to write: split the keys where the connections are split.
        let key_at = |number: u32| (u64::from(self.keys) * u64::from(number) / u64::from(self.connections)) as u32;
        let one = |part| {
            let numbers = share(self.connections, part, self.threads);
            let settings = Settings {
                server: self.target.server,
                connections: numbers.len(),
                outstanding: self.outstanding as usize,
                timeout_ms: self.target.session_timeout_ms,
                reply_timeout_ms: self.target.reply_timeout_ms,
                ops_max: self.ops.map(|ops| (ops * numbers.len() as u64).div_ceil(u64::from(self.connections))),
            };
            let keys = key_at(numbers.start)..key_at(numbers.end);
            (settings, Workload::new(self.kind, self.size as usize, keys, numbers, self.seed))
        };
        (0..self.threads).map(one).collect()
    }
}

fn closed_loop(name: &'static str, kind: Kind, load: &Load) -> Result<Report, ScenarioError> {
    let has_keys = kind != Kind::Create;
    let directories = if has_keys { key_directories(load.keys) } else { paths(0..load.connections, write_own_dir_path) };
    prepare(&load.target, &directories)?;
    let result = prefilled_loop(kind, load, has_keys);
    if !load.keep {
        // A run that has failed reports its own error, whatever tidying says.
        let tidied = remove_root(&load.target);
        if result.is_ok() {
            tidied?;
        }
    }
    let title = format!(
        "{name} on {}: {} connections x {} outstanding, {} B, {} thread(s)",
        load.target.server, load.connections, load.outstanding, load.size, load.threads
    );
    Ok(Report::new(name, title, &result?, Extra::None))
}

fn prefilled_loop(kind: Kind, load: &Load, has_keys: bool) -> Result<Measured, ScenarioError> {
    let mut shape = Shape {
        target: &load.target,
        kind: Kind::Fill,
        size: load.size,
        keys: load.keys,
        connections: PREFILL.0,
        outstanding: PREFILL.1,
        threads: 1,
        ops: None,
        seed: load.seed,
    };
    let limit = load.target.limit;
    if has_keys {
        let phases = Phases { warm_up: Duration::ZERO, until: Until::Finished, limit };
        let filled = run(shape.workers(), phases, &Watched { servers: Vec::new() })?;
        if let Some(example) = filled.tally.examples.first() {
            return Err(ScenarioError::Prefill(example.clone()));
        }
    }
    shape = Shape { kind, connections: load.connections, outstanding: load.outstanding, threads: load.threads, ops: load.ops, ..shape };
    let until = if load.ops.is_some() { Until::Finished } else { Until::Elapsed(load.duration) };
    let watched = Watched { servers: load.target.server_pids.clone() };
    Ok(run(shape.workers(), Phases { warm_up: load.warmup, until, limit }, &watched)?)
}

fn fill(options: &Fill) -> Result<Report, ScenarioError> {
    prepare(&options.target, &key_directories(options.nodes))?;
    let shape = Shape {
        target: &options.target,
        kind: Kind::Fill,
        size: options.size,
        keys: options.nodes,
        connections: options.connections,
        outstanding: options.outstanding,
        threads: options.threads,
        ops: None,
        seed: 1,
    };
    let watched = Watched { servers: options.target.server_pids.clone() };
    let phases = Phases { warm_up: Duration::ZERO, until: Until::Finished, limit: options.target.limit };
    let measured = run(shape.workers(), phases, &watched)?;
    let title = format!(
        "fill on {}: {} nodes of {} B, {} connections x {} outstanding",
        options.target.server, options.nodes, options.size, options.connections, options.outstanding
    );
    Ok(Report::new("fill", title, &measured, Extra::Nodes(options.nodes)))
}

fn idle(options: &Idle) -> Result<Report, ScenarioError> {
    let shape = Shape {
        target: &options.target,
        kind: Kind::Idle,
        size: 0,
        keys: 0,
        connections: options.sessions,
        outstanding: 0,
        threads: options.threads,
        ops: None,
        seed: 1,
    };
    let watched = Watched { servers: options.target.server_pids.clone() };
    let phases = Phases { warm_up: Duration::ZERO, until: Until::Elapsed(options.duration), limit: options.target.limit };
    let measured = run(shape.workers(), phases, &watched)?;
    let title = format!("idle on {}: {} sessions held for {:?}", options.target.server, options.sessions, options.duration);
    Ok(Report::new("idle", title, &measured, Extra::Sessions(options.sessions)))
}

fn clean(target: &Target) -> Result<Report, ScenarioError> {
    let begin = Instant::now();
    let gone = remove_root(target)?;
    Ok(Report::cleaned(format!("clean on {}", target.server), gone, begin.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn the_directories_of_a_tree() {
        assert_eq!(key_directories(2001), ["/falconer-loadgen/d0000", "/falconer-loadgen/d0001", "/falconer-loadgen/d0002"]);
    }
}
