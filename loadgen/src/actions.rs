//! Commands on the time line of a run (`--at 10s 'command'`), and how long the load took to recover from each.
//! Refuses to wait for a command: it may run for as long as it likes, and what it prints goes to standard error.

use crate::tally::TICK_NS;
use serde::{Deserialize, Serialize};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Throughput counts as recovered at this share of what it was before.
const RECOVERED: f64 = 0.9;
/// Throughput is judged over this many tenths of a second.
const WINDOW_TICKS: usize = 5;

/// A command and when to start it, after the start of the measured phase.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Action {
    pub at: Duration,
    pub command: String,
}

/// What became of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ActionDone {
    pub command: String,
    /// When it was started, seconds after the start of the measured phase.
    pub at_s: f64,
    /// None if it was still running at the end of the phase.
    pub exit: Option<i32>,
    /// From its start until throughput stayed above 90 % of what it was before; None if it never did.
    pub recovery_s: Option<f64>,
}

/// The commands of a run, in the order of their times.
pub struct Actions<'a> {
    waiting: Vec<&'a Action>,
    started: Vec<(ActionDone, Option<Child>)>,
}

impl<'a> Actions<'a> {
    pub fn new(actions: &'a [Action]) -> Actions<'a> {
        let mut waiting: Vec<&Action> = actions.iter().collect();
        waiting.sort_by_key(|action| action.at);
        Actions { waiting, started: Vec::new() }
    }

    /// Starts what is due.
    pub fn start_due(&mut self, elapsed: Duration) {
        while self.waiting.first().is_some_and(|action| action.at <= elapsed) {
            let action = self.waiting.remove(0);
            let mut command = Command::new("sh");
            command.args(["-c", &action.command]).stdin(Stdio::null()).stdout(std::io::stderr());
            let child = command.spawn();
            if let Err(error) = &child {
                eprintln!("falconer-loadgen: --at {:?}: {error}", action.at);
            }
            let done = ActionDone { command: action.command.clone(), at_s: elapsed.as_secs_f64(), exit: None, recovery_s: None };
            self.started.push((done, child.ok()));
        }
    }

    /// What was started, with the exit status of what has ended.
    pub fn finish(self) -> Vec<ActionDone> {
        let finish = |(mut done, child): (ActionDone, Option<Child>)| {
            done.exit = child.and_then(|mut child| child.try_wait().ok().flatten()).and_then(|status| status.code());
            done
        };
        self.started.into_iter().map(finish).collect()
    }
}

/// Fills in the recovery times; `ticks` are operations per tenth of a second.
pub fn judge_recovery(actions: &mut [ActionDone], ticks: &[u32]) {
    let tick_s = TICK_NS as f64 / 1e9;
    let starts: Vec<usize> = actions.iter().map(|action| (action.at_s / tick_s) as usize).collect();
    for (at, action) in actions.iter_mut().enumerate() {
        let from = starts[at];
        let end = starts.get(at + 1).map_or(ticks.len(), |&next| next.min(ticks.len()));
        let before = &ticks[..from.min(ticks.len())];
        if before.is_empty() || from >= end {
            continue;
        }
        let mean = before.iter().map(|&ops| f64::from(ops)).sum::<f64>() / before.len() as f64;
        let windows = ticks[from..end].windows(WINDOW_TICKS);
        let is_low = |window: &[u32]| window.iter().sum::<u32>() as f64 / (WINDOW_TICKS as f64) < RECOVERED * mean;
        let last_low = windows.clone().rposition(is_low);
        action.recovery_s = match last_low {
            None => Some(0.0),
            // The end of the last low window is where throughput came back.
            Some(low) if low + 1 < windows.len() => Some((low + WINDOW_TICKS) as f64 * tick_s),
            Some(_) => None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action(at_s: f64) -> ActionDone {
        ActionDone { command: "x".into(), at_s, exit: None, recovery_s: None }
    }

    #[test]
    fn recovery_is_when_throughput_stays_up() {
        let mut ticks = vec![100; 100];
        ticks[32..45].fill(0);
        let mut actions = [action(3.0), action(7.0)];
        judge_recovery(&mut actions, &ticks);
        let recovery = actions[0].recovery_s.unwrap();
        assert!((1.5..2.1).contains(&recovery), "{recovery}");
        assert_eq!(actions[1].recovery_s, Some(0.0));
        ticks[80..].fill(10);
        judge_recovery(&mut actions, &ticks);
        assert_eq!(actions[1].recovery_s, None);
    }

    #[test]
    fn commands_start_when_they_are_due() {
        let list = [Action { at: Duration::from_secs(2), command: "exit 3".into() }, Action { at: Duration::ZERO, command: "true".into() }];
        let mut actions = Actions::new(&list);
        actions.start_due(Duration::from_secs(1));
        assert_eq!((actions.waiting.len(), actions.started.len()), (1, 1));
        actions.start_due(Duration::from_secs(2));
        std::thread::sleep(Duration::from_millis(300));
        let done = actions.finish();
        assert_eq!(done.iter().map(|done| done.exit).collect::<Vec<_>>(), [Some(0), Some(3)]);
    }
}
