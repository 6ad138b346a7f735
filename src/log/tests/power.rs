//! What every story does with a disk: open the directory as a start of the server does, and give the power back after a cut,
//! now and then cutting it again in the middle of the start. Refuses to know what a story checks.

use crate::log::disk::Disk;
use crate::log::recovery::{self, Format, Recovered, RecoveryError};
use crate::sim::disk::{Fault, SimDisk};
use crate::sim::random::Dice;

/// Opens the directory, formatting it first if need be. `formatted`: whether that was seen to be done.
pub fn open<D: Disk>(disk: &D, format: &Format, formatted: &mut bool) -> Result<Recovered, RecoveryError> {
    match recovery::open(disk) {
        Err(RecoveryError::Unformatted { .. }) => {
            assert!(!*formatted, "a formatted directory stays one");
            recovery::format(disk, format)?;
            *formatted = true;
            recovery::open(disk)
        }
        other => {
            *formatted |= other.is_ok();
            other
        }
    }
}

fn back(disk: &SimDisk, dice: &mut Dice) {
    match dice.below(4) {
        0 => disk.power_on_worst(),
        _ => disk.power_on(dice.roll()),
    }
}

/// Turns the power on and, one time in two, off again at one of the first operations of the next start.
pub fn on(disk: &SimDisk, dice: &mut Dice, mut restart: impl FnMut(&SimDisk)) {
    back(disk, dice);
    while dice.below(2) == 0 {
        disk.strike(disk.ops() + 1 + dice.below(8) as u64, Fault::PowerCut);
        restart(disk);
        back(disk, dice);
    }
}
