//! The power goes at every disk operation of a history, and again while the server starts. Every error at every operation.

use super::power;
use super::world::{Model, Server, start};
use crate::log::disk::Errno;
use crate::sim::disk::{Fault, SimDisk};
use crate::sim::random::Dice;

const STEPS: u32 = 180;
const SEEDS: std::ops::Range<u64> = 1..4;

/// Operations of the whole history when nothing goes wrong.
fn ops(seed: u64) -> u64 {
    let disk = SimDisk::new(seed);
    Server::run(&disk, &mut Model::default(), seed, STEPS).unwrap();
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

fn story(seed: u64, at: u64, fault: Fault, subset: u64) {
    let mut model = Model::default();
    let disk = SimDisk::new(subset);
    disk.strike(at, fault);
    assert!(Server::run(&disk, &mut model, seed, STEPS).is_err(), "seed {seed}, operation {at}: {fault:?} went unnoticed");
    let mut dice = Dice::new(at << 32 | subset);
    if fault == Fault::Kill {
        disk.restart();
        let found = start(&disk, &mut model).unwrap();
        model.restart(&disk, &found);
    }
    power_on(&disk, &mut model, &mut dice);
    Server::run(&disk, &mut model, seed + 100, 12).unwrap();
    power_on(&disk, &mut model, &mut dice);
    let found = start(&disk, &mut model).unwrap();
    model.check(&disk, &found);
}

#[test]
fn power_cut_at_every_operation() {
    for seed in SEEDS {
        for at in 1..=ops(seed) {
            (0..4).for_each(|subset| story(seed, at, Fault::PowerCut, subset));
        }
    }
}

#[test]
fn a_process_killed_at_every_operation_claims_nothing_that_a_power_cut_takes_back() {
    for seed in SEEDS {
        for at in 1..=ops(seed) {
            (0..2).for_each(|subset| story(seed, at, Fault::Kill, subset));
        }
    }
}

#[test]
fn an_io_error_at_every_operation_ends_the_process_and_loses_nothing() {
    for seed in SEEDS {
        for at in 1..=ops(seed) {
            (0..2).for_each(|subset| story(seed, at, Fault::Error(Errno::EIO), subset));
        }
    }
}

#[test]
fn the_history_of_these_stories_has_everything_in_it() {
    for seed in SEEDS {
        let (disk, mut model) = (SimDisk::new(seed), Model::default());
        let server = Server::run(&disk, &mut model, seed, STEPS).unwrap();
        let superblock = server.journal.superblock();
        assert!(superblock.snapshot.is_some(), "a snapshot was switched in");
        let found = start(&disk, &mut model).unwrap();
        assert!(found.segments.last().unwrap().header.sequence > u64::from(superblock.slots), "a segment was reused");
    }
}
