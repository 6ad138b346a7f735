//! Work of the Journal that may take a while, for a thread of its own: one job at a time, start to end.
//! A job is short enough for a promise to wait behind it: a segment is prepared in slices. Refuses to decide what is due.

use super::disk::{Disk, Errno};
use super::segment;
use super::snapshot;
use super::superblock::{COPIES, FILE_NAME, Superblock};

/// One piece of background work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Job {
    /// Write the zeros `from..to` of the file of a new slot that is to be `bytes` long. From 0: make the file.
    PrepareSegment {
        slot: u32,
        bytes: u64,
        from: u64,
        to: u64,
    },
    WriteSuperblock(Superblock),
    RemoveSnapshot {
        zxid: u64,
    },
}

impl Job {
    /// Does it, start to end.
    pub fn run<D: Disk>(&self, disk: &D) -> Result<(), Errno> {
        match self {
            Job::PrepareSegment { slot, bytes, from, to } => segment::prepare_slice(disk, *slot, *bytes, *from..*to),
            Job::WriteSuperblock(superblock) => superblock.write(disk, COPIES - 1),
            Job::RemoveSnapshot { zxid } => {
                disk.remove(&snapshot::file_name(*zxid))?;
                disk.sync_names()
            }
        }
    }

    pub(super) fn file_name(&self) -> String {
        match self {
            Job::PrepareSegment { slot, .. } => segment::file_name(*slot),
            Job::WriteSuperblock(_) => FILE_NAME.to_string(),
            Job::RemoveSnapshot { zxid } => snapshot::file_name(*zxid),
        }
    }
}
