//! The shape of a run: how many servers, cores and clients, and every fault with its time. A seed makes a plan; a plan runs
//! the same way every time, so a failing one can be made smaller by leaving faults out.
//! Refuses to leave the promised fault model: at most a minority of the voters is ever damaged for good.

use super::random::Dice;
use std::fmt;

/// What goes wrong. Servers are numbered from 1; times are in ms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The process dies; what it wrote without syncing stays visible.
    Kill { server: u16, down_ms: u64 },
    /// The machine loses power: what was not synced may be gone, whole or in part.
    PowerCut { server: u16, down_ms: u64 },
    /// All machines at once.
    Blackout { down_ms: u64 },
    /// The process stands still; disk and network go on.
    Pause { server: u16, for_ms: u64 },
    /// The connection between two servers breaks.
    Reset { a: u16, b: u16 },
    /// Nothing gets from one server to another. Reconnecting is of no use.
    Cut { from: u16, to: u16, for_ms: u64 },
    /// A server's links to all others, both ways.
    Isolate { server: u16, for_ms: u64 },
    /// Every disk operation takes longer.
    SlowDisk { server: u16, factor: u64, for_ms: u64 },
    /// The next log write fails: the process has to end.
    DiskError { server: u16 },
    /// The disk is replaced by an empty one.
    Wipe { server: u16, down_ms: u64 },
    /// The link to a client breaks.
    Client { client: usize },
}

/// A run. See the module heading.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    pub seed: u64,
    pub voters: u16,
    pub observers: u16,
    pub shards: usize,
    pub clients: usize,
    /// Faults come and clients work for this long; then everything heals and has to settle.
    pub duration_ms: u64,
    /// The run goes on to its end early after so many events.
    pub events_max: u64,
    /// Silence after which a leader, or a quorum, counts as gone.
    pub election_timeout_ms: u64,
    /// Transactions after which a leader goes on to the next epoch.
    pub counter_max: u32,
    /// Transactions after which a server cuts a snapshot.
    pub snapshot_txns: u64,
    pub faults: Vec<(u64, Fault)>,
}

impl Plan {
    /// The plan that a seed stands for. Small ensembles and dense faults find most.
    pub fn of_seed(seed: u64) -> Plan {
        let mut dice = Dice::new(seed ^ 0xfa17);
        let voters = *dice.pick(&[1, 3, 3, 3, 3, 3, 5]);
        let observers = if voters > 1 && dice.chance(25) { 1 } else { 0 };
        let duration_ms = 1500 + dice.below(5000) as u64;
        let mut plan = Plan {
            seed,
            voters,
            observers,
            shards: 1 + dice.below(2),
            clients: 1 + dice.below(5),
            duration_ms,
            events_max: 50_000,
            election_timeout_ms: *dice.pick(&[60, 120, 300]),
            counter_max: if dice.chance(10) { 20 + dice.below(200) as u32 } else { u32::MAX - (1 << 20) },
            snapshot_txns: *dice.pick(&[15, 60, 100_000]),
            faults: Vec::new(),
        };
        plan.roll_faults(&mut dice);
        plan
    }

    /// Drops faults by their number.
    pub fn leave_out(&mut self, numbers: &[usize]) {
        let mut number = 0;
        self.faults.retain(|_| {
            number += 1;
            !numbers.contains(&(number - 1))
        });
    }

    pub fn servers(&self) -> u16 {
        self.voters + self.observers
    }

    fn roll_faults(&mut self, dice: &mut Dice) {
        let every_ms = *dice.pick(&[30, 100, 300, 1000]);
        let kinds: Vec<usize> = (0..11).filter(|_| dice.chance(50)).collect();
        let mut at_ms = 100 + dice.below(600) as u64;
        let mut wiped = false;
        while at_ms < self.duration_ms && !kinds.is_empty() {
            let kind = *dice.pick(&kinds);
            let fault = self.roll_fault(kind, dice);
            if !matches!(fault, Fault::Wipe { .. }) || !std::mem::replace(&mut wiped, true) && self.voters > 2 {
                self.faults.push((at_ms, fault));
            }
            at_ms += 1 + dice.below(2 * every_ms) as u64;
        }
    }

    fn roll_fault(&self, kind: usize, dice: &mut Dice) -> Fault {
        let server = 1 + dice.below(usize::from(self.servers())) as u16;
        let other = 1 + dice.below(usize::from(self.servers())) as u16;
        let down_ms = *dice.pick(&[1, 20, 100, 400, 1500]);
        let for_ms = *dice.pick(&[10, 60, 150, 400, 1200]);
        match kind {
            0 => Fault::Kill { server, down_ms },
            1 => Fault::PowerCut { server, down_ms },
            2 => Fault::Blackout { down_ms },
            3 => Fault::Pause { server, for_ms },
            4 => Fault::Reset { a: server, b: other },
            5 => Fault::Cut { from: server, to: other, for_ms },
            6 => Fault::Isolate { server, for_ms },
            7 => Fault::SlowDisk { server, factor: *dice.pick(&[10, 100, 1000]), for_ms },
            8 => Fault::DiskError { server },
            9 if dice.chance(60) => Fault::Wipe { server: 1 + dice.below(usize::from(self.voters)) as u16, down_ms },
            _ => Fault::Client { client: dice.below(self.clients) },
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { seed, voters, observers, shards, clients, duration_ms, counter_max, snapshot_txns, .. } = self;
        writeln!(f, "seed {seed}: {voters} voters, {observers} observers, {shards} shards, {clients} clients, {duration_ms} ms")?;
        writeln!(f, "epochs of {counter_max} transactions, a snapshot every {snapshot_txns}")?;
        self.faults.iter().enumerate().try_for_each(|(n, (at_ms, fault))| writeln!(f, "{n:>4} {at_ms:>7} ms {fault:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_always_the_same_plan() {
        assert_eq!(Plan::of_seed(7), Plan::of_seed(7));
        let wiped = |plan: &Plan| plan.faults.iter().filter(|(_, f)| matches!(f, Fault::Wipe { .. })).count();
        let plans: Vec<Plan> = (0..200).map(Plan::of_seed).collect();
        assert!(plans.iter().all(|plan| wiped(plan) <= 1) && plans.iter().any(|plan| wiped(plan) == 1));
        assert!(plans.iter().any(|plan| plan.faults.len() > 20));
    }
}
