//! The shape of a run: how many servers, cores and clients, and every fault with its time. A seed makes a plan; a plan runs
//! the same way every time, so a failing one can be made smaller and kept as a file.
//! Refuses to leave the promised fault model: at most one disk is ever damaged or replaced, and only where there are others.

use super::random::Dice;
use super::scenario::Story;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What goes wrong. Servers are numbered from 1, and 0 is whoever leads when it strikes; times are in ms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
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
    /// Nothing gets from a server to any other; it still hears them.
    Mute { server: u16, for_ms: u64 },
    /// Nothing gets from any other server to this one; they still hear it.
    Deafen { server: u16, for_ms: u64 },
    /// For a while every new leader is cut off, or dies, soon after it has begun.
    Usurp { for_ms: u64 },
    /// For a while whoever installs a snapshot dies soon afterwards.
    Interrupt { for_ms: u64 },
    /// Every disk operation takes longer.
    SlowDisk { server: u16, factor: u64, for_ms: u64 },
    /// The next log write, or the next background job, fails: the process has to end.
    DiskError { server: u16, job: bool },
    /// The process dies, and when it starts again this one of its reads fails. The start after that one works.
    BadStart { server: u16, down_ms: u64, read: u64 },
    /// There is no room on the disk for anything new.
    DiskFull { server: u16, for_ms: u64 },
    /// Bits flip on the medium; `pick` chooses which.
    Rot { server: u16, pick: u32 },
    /// Bits flip in the newest snapshot.
    RotSnapshot { server: u16, pick: u32 },
    /// A block was written to another place than it should have been; `pick` chooses both.
    Misdirect { server: u16, pick: u32 },
    /// The disk is replaced by an empty one.
    Wipe { server: u16, down_ms: u64 },
    /// The wall clock jumps. Nothing but times in Stats, and what lives by them, may change.
    ClockStep { server: u16, by_ms: i64 },
    /// The link to a client breaks.
    Client { client: usize },
}

/// What clients do most.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Focus {
    /// Everything, each client with weights of its own.
    Everything,
    /// Registers and syncs: what a stale answer shows at once.
    Registers,
    /// Locks, elections, queues and counters, each client one of them.
    Recipes,
}

/// A run. See the module heading.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub seed: u64,
    /// What the faults tell together, if they do.
    pub story: Option<Story>,
    pub voters: u16,
    pub observers: u16,
    pub shards: usize,
    pub clients: usize,
    pub focus: Focus,
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
    /// How much faster or slower than real time a server's clock runs, at most, in millionths.
    pub drift_ppm: u32,
    /// Little may wait anywhere.
    pub tight: bool,
    /// Every read waits for a leader's proof that it misses nothing.
    #[serde(default)]
    pub linearizable_reads: bool,
    /// When each fault strikes, in ms, in order.
    pub faults: Vec<(u64, Fault)>,
}

/// Faults that are rolled one by one.
const KINDS: usize = 20;

impl Plan {
    /// The plan that a seed stands for. Small ensembles and dense faults find most.
    pub fn of_seed(seed: u64) -> Plan {
        let mut dice = Dice::new(seed ^ 0xfa17);
        let voters = *dice.pick(&[1, 3, 3, 3, 3, 3, 5]);
        let observers = if voters > 1 && dice.chance(25) { 1 } else { 0 };
        let duration_ms = 1500 + dice.below(5000) as u64;
        let mut plan = Plan {
            seed,
            story: Story::roll(&mut dice).filter(|_| voters > 1),
            voters,
            observers,
            shards: 1 + dice.below(2),
            clients: 1 + dice.below(5),
            focus: if dice.chance(15) { Focus::Recipes } else { Focus::Everything },
            duration_ms,
            events_max: 50_000,
            election_timeout_ms: *dice.pick(&[60, 120, 300]),
            counter_max: if dice.chance(10) { 20 + dice.below(200) as u32 } else { u32::MAX - (1 << 20) },
            snapshot_txns: *dice.pick(&[15, 60, 100_000]),
            drift_ppm: *dice.pick(&[0, 200, 1000, 20_000]),
            tight: dice.chance(25),
            linearizable_reads: false,
            faults: Vec::new(),
        };
        match plan.story {
            Some(story) => story.tell(&mut plan, &mut dice),
            None => plan.roll_faults(&mut dice),
        }
        plan.faults.sort_by_key(|(at_ms, _)| *at_ms);
        // What a full disk refuses and what only waits cannot be told apart then.
        let refuses = plan.faults.iter().any(|(_, fault)| matches!(fault, Fault::DiskFull { .. }));
        plan.linearizable_reads = dice.chance(20) && !refuses;
        plan
    }

    pub fn servers(&self) -> u16 {
        self.voters + self.observers
    }

    fn roll_faults(&mut self, dice: &mut Dice) {
        let every_ms = *dice.pick(&[30, 100, 300, 1000]);
        let kinds: Vec<usize> = (0..KINDS).filter(|_| dice.chance(50)).collect();
        let mut at_ms = 100 + dice.below(600) as u64;
        let mut damaged = false;
        while at_ms < self.duration_ms && !kinds.is_empty() {
            let kind = *dice.pick(&kinds);
            let fault = self.roll_fault(kind, dice);
            if !fault.damages() || !std::mem::replace(&mut damaged, true) && self.voters > 2 {
                self.faults.push((at_ms, fault));
            }
            at_ms += 1 + dice.below(2 * every_ms) as u64;
        }
    }

    /// Any server, or whoever leads.
    fn roll_server(&self, dice: &mut Dice) -> u16 {
        if dice.chance(20) { 0 } else { 1 + dice.below(usize::from(self.servers())) as u16 }
    }

    fn roll_fault(&self, kind: usize, dice: &mut Dice) -> Fault {
        let (server, other) = (self.roll_server(dice), self.roll_server(dice));
        let voter = 1 + dice.below(usize::from(self.voters)) as u16;
        let down_ms = *dice.pick(&[1, 20, 100, 400, 1500]);
        let for_ms = *dice.pick(&[10, 60, 150, 400, 1200]);
        let pick = dice.roll() as u32;
        match kind {
            0 => Fault::Kill { server, down_ms },
            1 => Fault::PowerCut { server, down_ms },
            2 => Fault::Blackout { down_ms },
            3 => Fault::Pause { server, for_ms },
            4 => Fault::Reset { a: server, b: other },
            5 => Fault::Cut { from: server, to: other, for_ms },
            6 => Fault::Isolate { server, for_ms },
            7 => Fault::SlowDisk { server, factor: *dice.pick(&[10, 100, 1000]), for_ms },
            8 => Fault::DiskError { server, job: dice.chance(30) },
            9 if dice.chance(60) => Fault::Wipe { server: voter, down_ms },
            10 => Fault::Mute { server, for_ms },
            11 => Fault::Deafen { server, for_ms },
            12 if dice.chance(30) => Fault::Usurp { for_ms: 3 * for_ms },
            13 if dice.chance(60) => Fault::DiskFull { server, for_ms: 2 * for_ms },
            14 if dice.chance(60) => Fault::Rot { server: voter, pick },
            15 if dice.chance(60) => Fault::Misdirect { server: voter, pick },
            16 => Fault::Interrupt { for_ms: 2 * for_ms },
            17 => Fault::ClockStep { server, by_ms: *dice.pick(&[-3_600_000, -500, -3, 3, 500, 3_600_000]) },
            18 => Fault::BadStart { server, down_ms, read: dice.below(60) as u64 },
            _ => Fault::Client { client: dice.below(self.clients) },
        }
    }
}

impl Fault {
    /// Whether a disk is not what it was for good.
    pub fn damages(&self) -> bool {
        matches!(self, Fault::Wipe { .. } | Fault::Rot { .. } | Fault::RotSnapshot { .. } | Fault::Misdirect { .. })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { seed, voters, observers, shards, clients, focus, duration_ms, .. } = self;
        let Plan { counter_max, snapshot_txns, election_timeout_ms, drift_ppm, tight, linearizable_reads, story, .. } = self;
        writeln!(
            f,
            "seed {seed}: {voters} voters, {observers} observers, {shards} shards, {clients} clients ({focus:?}), {duration_ms} ms"
        )?;
        writeln!(
            f,
            "election after {election_timeout_ms} ms, epochs of {counter_max} transactions, a snapshot every {snapshot_txns}, clocks {drift_ppm} ppm off, tight {tight}, linearizable reads {linearizable_reads}, story {story:?}"
        )?;
        self.faults.iter().enumerate().try_for_each(|(n, (at_ms, fault))| writeln!(f, "{n:>4} {at_ms:>7} ms {fault:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_always_the_same_plan() {
        assert_eq!(Plan::of_seed(7), Plan::of_seed(7));
        let damaged = |plan: &Plan| plan.faults.iter().filter(|(_, f)| f.damages()).count();
        let plans: Vec<Plan> = (0..300).map(Plan::of_seed).collect();
        assert!(plans.iter().all(|plan| damaged(plan) <= 1) && plans.iter().any(|plan| damaged(plan) == 1));
        assert!(plans.iter().any(|plan| plan.faults.len() > 20));
        assert!(plans.iter().all(|plan| plan.faults.is_sorted_by_key(|(at_ms, _)| *at_ms)));
    }

    #[test]
    fn a_plan_can_be_kept_as_text() {
        for plan in (0..50).map(Plan::of_seed) {
            let text = toml::to_string(&plan).unwrap();
            assert_eq!(toml::from_str::<Plan>(&text).unwrap(), plan);
        }
    }
}
