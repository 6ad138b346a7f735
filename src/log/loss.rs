//! For `falconer recover --show`: what going on without a damaged part of the log would lose. Reads only.
//! Refuses to repair: it counts what can still be seen behind the damage.

use super::disk::Disk;
use super::recovery::{Corruption, Recovered, RecoveryError, inspect, judge};
use super::scan::{SegmentReader, any_headers};
use super::segment::{LocalHeader, file_name};
use super::slots::Slots;
use super::superblock::Superblock;
use std::fmt;

/// What lies behind the first damage. All counts are minima: what is unreadable cannot be counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loss {
    pub damage: Corruption,
    /// Batches and transactions after the damage whose headers can still be read.
    pub batches: u64,
    pub txns: u64,
    /// The highest zxid seen there.
    pub last_zxid: u64,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Corruption { path, offset, after, why, .. } = &self.damage;
        writeln!(f, "{path}: damaged at byte {offset}: {why}")?;
        writeln!(f, "kept: everything up to zxid 0x{after:x}")?;
        if self.batches == 0 {
            return write!(f, "lost: what was logged after that; nothing of it can be read");
        }
        let Loss { batches, txns, last_zxid, .. } = self;
        write!(f, "lost: everything after that, up to zxid 0x{last_zxid:x} at least; ")?;
        write!(f, "behind the damage {batches} batches with {txns} transactions can still be seen")
    }
}

/// None if the directory is sound; otherwise what would be lost. Other errors are passed on.
pub fn describe_loss<D: Disk>(disk: &D) -> Result<Result<Box<Recovered>, Loss>, RecoveryError> {
    let damage = match inspect(disk) {
        Ok(found) => return Ok(Ok(Box::new(found))),
        Err(RecoveryError::Corrupt(damage)) => damage,
        Err(other) => return Err(other),
    };
    let superblock = match Superblock::read(disk) {
        Ok(Some((superblock, _))) => superblock,
        // `inspect` has just read it.
        Ok(None) | Err(_) => return Err(RecoveryError::Unformatted { directory: disk.directory() }),
    };
    let mut loss = Loss { last_zxid: damage.after, damage, batches: 0, txns: 0 };
    // What was cut off from the log before is no loss. If not even the headers agree, everything may be one.
    let slots = Slots::read(disk, &superblock).ok();
    for slot in 0..superblock.slots {
        let use_of = match &slots {
            Some(slots) if slots.blank.contains(&slot) => continue,
            Some(slots) => slots.run.iter().find(|header| header.slot == slot).map(|header| header.generation),
            None => None,
        };
        count_behind(disk, &superblock, slot, use_of, &mut loss)?;
    }
    Ok(Err(loss))
}

/// Counts the batches of one file, of one use of it if that is known.
fn count_behind<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    slot: u32,
    generation: Option<u64>,
    loss: &mut Loss,
) -> Result<(), RecoveryError> {
    let opened = SegmentReader::open(disk, slot, superblock.segment_bytes).map_err(|errno| RecoveryError::Io {
        path: disk.path(&file_name(slot)),
        offset: 0,
        errno,
    })?;
    let Some(mut reader) = opened else { return Ok(()) };
    let after = loss.damage.after;
    let count = |local: LocalHeader, batch: Option<crate::wire::batch::Header>| {
        let counts = generation.is_none_or(|generation| generation == local.generation);
        let Some(batch) = batch.filter(|b| counts && b.cluster == superblock.cluster && b.first_zxid > after) else { return };
        loss.batches += 1;
        loss.txns += u64::from(batch.count);
        loss.last_zxid = loss.last_zxid.max(batch.last_zxid);
    };
    any_headers(&mut reader, count).map_err(|fault| judge(disk, slot, after, fault))
}
