//! Makes a plan that violates a promise shorter, as long as it still does: fewer faults, fewer clients, less of everything
//! else. Each try is a process of its own. Refuses to take longer than a minute.

use super::Args;
use falconer::sim::plan::Plan;
use falconer::sim::regressions::Regression;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const SHRINK_FOR: Duration = Duration::from_secs(60);

struct Shrink<'a> {
    args: &'a Args,
    best: Plan,
    file: PathBuf,
    until: Instant,
}

/// The shortest plan found.
pub fn shrink(args: &Args, plan: Plan) -> Plan {
    let file = std::env::temp_dir().join(format!("falconer-sim-{}.toml", std::process::id()));
    let mut shrink = Shrink { args, best: plan, file, until: Instant::now() + SHRINK_FOR };
    shrink.leave_faults_out();
    shrink.simplify();
    shrink.leave_faults_out();
    // Whether a file of a try stays behind is no matter.
    let _ = std::fs::remove_file(&shrink.file);
    shrink.best
}

impl Shrink<'_> {
    /// Takes a candidate if it still fails. False: it does not, or time is up.
    fn take(&mut self, candidate: Plan) -> bool {
        let better = candidate != self.best && Instant::now() < self.until && self.fails(&candidate);
        if better {
            self.best = candidate;
        }
        better
    }

    /// First half of the faults at a time, then fewer.
    fn leave_faults_out(&mut self) {
        let mut chunk = self.best.faults.len().div_ceil(2).max(1);
        loop {
            let mut start = 0;
            while start < self.best.faults.len() {
                let mut candidate = self.best.clone();
                candidate.faults.drain(start..(start + chunk).min(candidate.faults.len()));
                if !self.take(candidate) {
                    start += chunk;
                }
            }
            if chunk == 1 {
                return;
            }
            chunk = chunk.div_ceil(2);
        }
    }

    fn simplify(&mut self) {
        for clients in 1..self.best.clients {
            if self.take(Plan { clients, ..self.best.clone() }) {
                break;
            }
        }
        self.take(Plan { observers: 0, ..self.best.clone() });
        self.take(Plan { shards: 1, ..self.best.clone() });
        self.take(Plan { drift_ppm: 0, ..self.best.clone() });
        for part in [2, 4, 8, 16] {
            let last_ms = self.best.faults.last().map_or(0, |(at_ms, _)| *at_ms);
            let duration_ms = self.best.duration_ms - (self.best.duration_ms - last_ms.min(self.best.duration_ms)) / part;
            self.take(Plan { duration_ms, ..self.best.clone() });
            self.take(Plan { events_max: self.best.events_max / 2, ..self.best.clone() });
        }
    }

    fn fails(&self, candidate: &Plan) -> bool {
        let kept = Regression { what: String::new(), mutant: None, plan: candidate.clone() };
        if kept.write(&self.file).is_err() {
            return false;
        }
        let mut command = Command::new(std::env::current_exe().expect("it runs"));
        command.arg("--no-shrink").arg("--plan").arg(&self.file);
        #[cfg(feature = "mutants")]
        command.args(self.args.mutant.iter().flat_map(|name| ["--mutant", name]));
        command.args(self.args.events.iter().flat_map(|n| ["--events".to_string(), n.to_string()]));
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.code() == Some(1))
    }
}
