//! Which of the segment files are the log: reads every slot's header block and follows them from the end backwards.
//! The header with the highest generation is the end; each names the generation of the one before it. What is not met on
//! the way is blank: never used, superfluous and out of order, cut off by a truncation, or below the superblock's floor.
//! Refuses to look at frames: `follow` does.

use super::disk::Disk;
use super::recovery::{RecoveryError, corrupt, io, judge};
use super::scan::SegmentReader;
use super::segment::{SLOTS_MAX, SegmentHeader, file_name};
use super::superblock::Superblock;
use crate::limits::BLOCK_BYTES;
use std::collections::BTreeMap;

/// What the header blocks of all slots say.
pub(super) struct Slots {
    /// The segments of the log, oldest first, as far back as they follow each other.
    pub run: Vec<SegmentHeader>,
    pub blank: Vec<u32>,
    /// No intact header, though there is something in the file.
    pub unreadable: Vec<u32>,
    /// The highest generation ever given to a segment, as far as is known.
    pub generation: u64,
}

impl Slots {
    pub fn read<D: Disk>(disk: &D, superblock: &Superblock) -> Result<Slots, RecoveryError> {
        assert!(superblock.slots <= SLOTS_MAX);
        // Also above every floor there was: the next floor has to be higher.
        let generation = superblock.log_floor;
        let mut slots = Slots { run: Vec::new(), blank: Vec::new(), unreadable: Vec::new(), generation };
        let mut headers = BTreeMap::new();
        for slot in 0..superblock.slots {
            let Some(header) = slots.read_one(disk, superblock, slot)? else { continue };
            if headers.insert(header.generation, header).is_some() {
                return Err(corrupt(disk, slot, 0, header.base.zxid, "two segments have the same generation"));
            }
        }
        slots.follow(headers);
        Ok(slots)
    }

    /// The header of a segment that may be a part of the log; everything else is put where it belongs.
    fn read_one<D: Disk>(&mut self, disk: &D, superblock: &Superblock, slot: u32) -> Result<Option<SegmentHeader>, RecoveryError> {
        let name = file_name(slot);
        let opened = SegmentReader::open(disk, slot, superblock.segment_bytes).map_err(|e| io(disk, &name, 0, e))?;
        let Some(mut reader) = opened else {
            return Err(corrupt(disk, slot, 0, 0, "the file is missing or has the wrong length"));
        };
        let blocks = reader.view(0, 2 * BLOCK_BYTES).map_err(|fault| judge(disk, slot, 0, fault))?;
        let Some(header) = SegmentHeader::decode(&blocks[..BLOCK_BYTES]) else {
            let clean = blocks.iter().all(|byte| *byte == 0);
            if clean {
                self.blank.push(slot)
            } else {
                self.unreadable.push(slot)
            }
            return Ok(None);
        };
        self.generation = self.generation.max(header.generation);
        if header.generation < superblock.log_floor && !crate::mutant!(M68) {
            self.blank.push(slot);
            return Ok(None);
        }
        if header.cluster != superblock.cluster || header.server != superblock.server {
            return Err(RecoveryError::Foreign { path: disk.path(&name), what: "another server" });
        }
        if header.slot != slot {
            return Err(RecoveryError::Foreign { path: disk.path(&name), what: "another slot: it was renamed or copied" });
        }
        Ok(Some(header))
    }

    fn follow(&mut self, mut headers: BTreeMap<u64, SegmentHeader>) {
        let mut next = headers.pop_last().map(|(_, last)| last);
        while let Some(header) = next {
            self.run.push(header);
            let before = headers.get(&header.previous);
            let continues = before.is_some_and(|before| before.sequence.checked_add(1) == Some(header.sequence));
            next = if continues { headers.remove(&header.previous) } else { None };
        }
        self.run.reverse();
        self.blank.extend(headers.into_values().map(|header| header.slot));
    }

    /// The segment in which the batch after `zxid` is, or would be.
    pub fn reaching(&self, zxid: u64) -> Option<usize> {
        self.run.iter().rposition(|header| header.base.zxid <= zxid)
    }
}
