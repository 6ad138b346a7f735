//! What replication relies on, with the power cut, the process killed and the disk failing at every operation: a promise
//! is never forgotten, what was cut off never comes back over what replaced it, a snapshot that took the place of the log
//! keeps it.

use super::follower::{Follower, Model, start};
use super::power;
use crate::log::disk::Errno;
use crate::sim::disk::{Fault, SimDisk};
use crate::sim::random::Dice;

const STEPS: u32 = 260;
const SEEDS: std::ops::Range<u64> = 1..5;

fn ops(seed: u64) -> u64 {
    let disk = SimDisk::new(seed);
    Follower::run(&disk, &mut Model::default(), seed, STEPS).unwrap();
    disk.ops()
}

/// See [`power::on`]; a start that gets through is checked.
fn power_on(disk: &SimDisk, model: &mut Model, dice: &mut Dice) {
    power::on(disk, dice, |disk| {
        if let Ok(found) = start(disk, model) {
            model.restart(disk, &found);
        }
    });
}

fn story(seed: u64, at: u64, fault: Fault, subset: u64) -> Model {
    let mut model = Model::default();
    let disk = SimDisk::new(subset);
    disk.strike(at, fault);
    let run = Follower::run(&disk, &mut model, seed, STEPS);
    assert!(run.is_err(), "seed {seed}, operation {at}: {fault:?} went unnoticed");
    let mut dice = Dice::new(at << 32 | subset);
    if fault == Fault::Kill {
        disk.restart();
        let found = start(&disk, &mut model).unwrap();
        model.restart(&disk, &found);
    }
    power_on(&disk, &mut model, &mut dice);
    Follower::run(&disk, &mut model, seed + 100, 40).unwrap();
    power_on(&disk, &mut model, &mut dice);
    let found = start(&disk, &mut model).unwrap();
    model.restart(&disk, &found);
    model
}

fn stories(fault: Fault, subsets: u64) {
    let mut reverted = 0;
    for seed in SEEDS {
        for at in 1..=ops(seed) {
            reverted += (0..subsets).map(|subset| story(seed, at, fault, subset).tally.reverted).sum::<u32>();
        }
    }
    assert!(reverted > 0, "no crash came before a cut was confirmed");
}

#[test]
fn power_cut_at_every_operation() {
    stories(Fault::PowerCut, 3);
}

#[test]
fn kill_at_every_operation() {
    stories(Fault::Kill, 2);
}

#[test]
fn io_error_at_every_operation() {
    stories(Fault::Error(Errno::EIO), 2);
}

#[test]
fn no_room_from_any_operation_on() {
    for at in 1..500 {
        let (disk, mut model) = (SimDisk::new(at), Model::default());
        disk.strike(at, Fault::Full);
        let Ok(mut follower) = Follower::run(&disk, &mut model, 1, 150) else {
            assert!(model.now.history.is_empty(), "only formatting may fail for want of room");
            continue;
        };
        disk.free_space();
        for _ in 0..12 {
            follower.pass(1000);
            follower.settle(&mut model).unwrap();
            follower.snapshot(&mut model).unwrap();
        }
        follower.settle(&mut model).unwrap();
        assert!(follower.journal.ready() && !follower.journal.space_low(), "operation {at}");
        follower.append(&mut model).unwrap();
        follower.settle(&mut model).unwrap();
        assert_eq!(model.now.acked, model.now.history.len());
        disk.power_on(at);
        let found = start(&disk, &mut model).unwrap();
        model.restart(&disk, &found);
    }
}

#[test]
fn many_lives() {
    let mut total = super::follower::Tally::default();
    for seed in 0..30 {
        let (disk, mut model) = (SimDisk::new(seed), Model::default());
        for life in 0..6 {
            Follower::run(&disk, &mut model, seed * 100 + life, 250).unwrap();
            disk.power_on(seed + life);
        }
        let found = start(&disk, &mut model).unwrap();
        model.restart(&disk, &found);
        let t = model.tally;
        total.cuts += t.cuts;
        total.cuts_in_flight += t.cuts_in_flight;
        total.promises += t.promises;
        total.installs += t.installs;
        total.snapshots += t.snapshots;
        total.fed += t.fed;
        total.gone += t.gone;
        total.reverted += t.reverted;
    }
    let enough = total.cuts > 500 && total.cuts_in_flight > 200 && total.promises > 200 && total.installs > 50;
    assert!(enough && total.snapshots > 50 && total.fed > 500 && total.gone > 20 && total.reverted > 5, "{total:?}");
}
