//! Stories of several faults that follow each other at just the right distance, for bugs that faults rolled one by one meet
//! too rarely. Each is a plan like any other; most seeds tell one.
//! Refuses to be exact: every time in it is rolled, so that a story is told in many ways.

use super::plan::{Fault, Focus, Plan};
use super::random::Dice;
use serde::{Deserialize, Serialize};

/// What can be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Story {
    PingPong,
    ReplacedDisk,
    DeposedLeader,
    LeftBehind,
    Flapping,
    SlowLeader,
}

pub const STORIES: [Story; 6] =
    [Story::PingPong, Story::ReplacedDisk, Story::DeposedLeader, Story::LeftBehind, Story::Flapping, Story::SlowLeader];

impl Story {
    /// A story, or none: then faults are rolled.
    pub(super) fn roll(dice: &mut Dice) -> Option<Story> {
        use Story::*;
        // The rarer the moment that a story is after, the more often it is told.
        let often = [PingPong, PingPong, ReplacedDisk, ReplacedDisk, DeposedLeader, DeposedLeader, DeposedLeader];
        let others = [LeftBehind, LeftBehind, Flapping, SlowLeader];
        dice.chance(60).then(|| if dice.chance(64) { *dice.pick(&often) } else { *dice.pick(&others) })
    }

    /// Adds the story to a plan, and fits the plan to it.
    pub(super) fn tell(self, plan: &mut Plan, dice: &mut Dice) {
        match self {
            Story::PingPong => ping_pong(plan, dice),
            Story::ReplacedDisk => replaced_disk(plan, dice),
            Story::DeposedLeader => deposed_leader(plan, dice),
            Story::LeftBehind => left_behind(plan, dice),
            Story::Flapping => flapping(plan, dice),
            Story::SlowLeader => slow_leader(plan, dice),
        }
    }
}

/// `percent` of a span, and up to as much again.
fn about(dice: &mut Dice, ms: u64, percent: u64) -> u64 {
    let least = ms * percent / 100;
    least + dice.below(least as usize + 1) as u64
}

fn voter(plan: &Plan, dice: &mut Dice) -> u16 {
    1 + dice.below(usize::from(plan.voters)) as u16
}

/// A voter that is none of these.
fn another(plan: &Plan, dice: &mut Dice, but: &[u16]) -> u16 {
    let others: Vec<u16> = (1..=plan.voters).filter(|server| !but.contains(server)).collect();
    *dice.pick(&others)
}

impl Plan {
    fn strikes(&mut self, at_ms: u64, fault: Fault) {
        self.faults.push((at_ms, fault));
    }
}

/// Leaders that last for a moment each, on disks of different speed: what one left with a minority meets the next one's.
fn ping_pong(plan: &mut Plan, dice: &mut Dice) {
    plan.voters = 3;
    plan.election_timeout_ms = *dice.pick(&[60, 60, 120]);
    plan.duration_ms = 3000 + dice.below(3000) as u64;
    plan.strikes(300 + dice.below(300) as u64, Fault::Usurp { for_ms: plan.duration_ms });
    let mut at_ms = 300;
    while at_ms < plan.duration_ms {
        let (server, for_ms) = (voter(plan, dice), 100 + dice.below(600) as u64);
        plan.strikes(at_ms, Fault::SlowDisk { server, factor: *dice.pick(&[5, 20, 60]), for_ms });
        at_ms += dice.below(400) as u64 + 50;
    }
}

/// A disk is replaced while another voter lags behind; then the only one that has everything is gone for a while.
fn replaced_disk(plan: &mut Plan, dice: &mut Dice) {
    plan.voters = 3;
    plan.clients = plan.clients.max(3);
    plan.election_timeout_ms = 300;
    plan.snapshot_txns = *dice.pick(&[60, 100_000, 100_000]);
    // Of equals the highest number leads first.
    let knows = if dice.chance(80) { 3 } else { voter(plan, dice) };
    let lags = another(plan, dice, &[knows]);
    let replaced = another(plan, dice, &[knows, lags]);
    let lags_ms = 700 + dice.below(600) as u64;
    let wiped_ms = lags_ms + 330 + dice.below(300) as u64;
    // The replaced disk has joined by then, and is slow to take the history.
    let gone_ms = wiped_ms + 100 + dice.below(300) as u64;
    plan.strikes(lags_ms, Fault::Isolate { server: lags, for_ms: gone_ms - lags_ms - 3 });
    plan.strikes(wiped_ms, Fault::Wipe { server: replaced, down_ms: 1 });
    plan.strikes(wiped_ms + 2, Fault::SlowDisk { server: replaced, factor: *dice.pick(&[10, 30, 80]), for_ms: 2500 });
    plan.strikes(gone_ms, Fault::Isolate { server: knows, for_ms: 1500 + dice.below(1000) as u64 });
    plan.duration_ms = gone_ms + 2500;
}

/// A leader that others have given up goes on believing for a while, because their last words come late. Clients of both
/// sides look at the same registers.
fn deposed_leader(plan: &mut Plan, dice: &mut Dice) {
    plan.focus = Focus::Registers;
    plan.clients = 3 + dice.below(3);
    plan.election_timeout_ms = *dice.pick(&[120, 120, 300]);
    let timeout_ms = plan.election_timeout_ms;
    let mut at_ms = 2 * timeout_ms + dice.below(100) as u64;
    while at_ms < plan.duration_ms {
        let late_ms = about(dice, timeout_ms, 45);
        let muted_ms = at_ms + dice.below(late_ms as usize / 2 + 1) as u64;
        let for_ms = about(dice, timeout_ms, 200);
        plan.strikes(at_ms, Fault::Deafen { server: 0, for_ms: late_ms });
        plan.strikes(muted_ms, Fault::Mute { server: 0, for_ms });
        plan.strikes(at_ms + late_ms + 1 + dice.below(3) as u64, Fault::Deafen { server: 0, for_ms });
        if dice.chance(30) {
            plan.strikes(muted_ms, Fault::Pause { server: 0, for_ms: about(dice, timeout_ms, 60) });
        }
        at_ms += for_ms + about(dice, timeout_ms, 80);
    }
}

/// A leader is cut off with what only it has, until the others' logs do not reach back to it any more; what it fetches
/// then is followed by a crash, or is damaged on the disk of the one that has it.
fn left_behind(plan: &mut Plan, dice: &mut Dice) {
    plan.voters = 3;
    plan.snapshot_txns = 15;
    plan.clients = plan.clients.max(3);
    if dice.chance(60) {
        plan.strikes(300, Fault::Interrupt { for_ms: plan.duration_ms });
    }
    let mut at_ms = 400 + dice.below(400) as u64;
    let mut rots = dice.chance(50);
    while at_ms < plan.duration_ms {
        let for_ms = 800 + dice.below(1000) as u64;
        let server = if dice.chance(70) { 0 } else { voter(plan, dice) };
        plan.strikes(at_ms, Fault::Isolate { server, for_ms });
        at_ms += for_ms;
        if std::mem::take(&mut rots) {
            // Whoever comes back now is about to ask for it.
            plan.strikes(at_ms - dice.below(20) as u64, Fault::RotSnapshot { server: 0, pick: dice.roll() as u32 });
        }
        for _ in 0..dice.below(4) {
            at_ms += 30 + dice.below(150) as u64;
            let (server, down_ms) = (voter(plan, dice), 1 + dice.below(30) as u64);
            let dies = if dice.chance(50) { Fault::Kill { server, down_ms } } else { Fault::PowerCut { server, down_ms } };
            plan.strikes(at_ms, dies);
        }
        at_ms += 100 + dice.below(400) as u64;
    }
}

/// The links between one voter and its leader come and go, each way at its own pace, about as fast as anybody gives up.
fn flapping(plan: &mut Plan, dice: &mut Dice) {
    plan.voters = 3;
    plan.election_timeout_ms = *dice.pick(&[60, 60, 120]);
    let (flaps, timeout_ms) = (voter(plan, dice), plan.election_timeout_ms);
    for towards in [true, false] {
        let mut at_ms = 400 + dice.below(100) as u64;
        while at_ms < plan.duration_ms {
            let for_ms = about(dice, timeout_ms, *dice.clone().pick(&[60, 120, 200]));
            let (from, to) = if towards { (flaps, 0) } else { (0, flaps) };
            plan.strikes(at_ms, Fault::Cut { from, to, for_ms });
            at_ms += for_ms + *dice.pick(&[1, 2, 5, 12, 40]);
        }
    }
    if dice.chance(50) {
        plan.strikes(800 + dice.below(1500) as u64, Fault::Isolate { server: 0, for_ms: about(dice, timeout_ms, 200) });
    }
}

/// The leader's disk is slow, or stands still for a while; the others' are not.
fn slow_leader(plan: &mut Plan, dice: &mut Dice) {
    plan.clients = plan.clients.max(3);
    let mut at_ms = 500 + dice.below(300) as u64;
    while at_ms < plan.duration_ms {
        let for_ms = 100 + dice.below(1500) as u64;
        plan.strikes(at_ms, Fault::SlowDisk { server: 0, factor: *dice.pick(&[20, 100, 1000, 5000]), for_ms });
        at_ms += for_ms + 100 + dice.below(600) as u64;
        if dice.chance(40) {
            let (server, down_ms) = (*dice.pick(&[0, 1, 2]), 1 + dice.below(200) as u64);
            plan.strikes(at_ms - dice.below(300) as u64, Fault::PowerCut { server, down_ms });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_story_is_told_within_its_time() {
        for story in STORIES {
            for seed in 0..50 {
                let mut plan = Plan { faults: Vec::new(), voters: 3, ..Plan::of_seed(seed) };
                story.tell(&mut plan, &mut Dice::new(seed));
                let servers = plan.servers();
                let first = plan.faults.iter().map(|(at_ms, _)| *at_ms).min();
                assert!(first.is_some_and(|at_ms| at_ms < plan.duration_ms), "{plan}");
                let damages = plan.faults.iter().filter(|(_, fault)| fault.damages()).count();
                assert!(damages <= 1 && servers <= 6, "{plan}");
            }
        }
    }
}
