//! Hands the recovered history out: first the snapshot's chunks, then every batch after it. Each shard does this for
//! itself, on its own thread, from the same [`Recovered`].
//! Refuses to know what a State is: the caller's closures do.

use super::disk::Disk;
use super::recovery::{Recovered, RecoveryError, judge};
use super::scan::{FaultKind, ScanFault, SegmentReader, Step, Walk};
use super::segment::{SegmentHeader, file_name};
use super::snapshot;
use crate::limits::BATCH_BYTES_POOLED;
use crate::wire::aligned::AlignedBuf;
use crate::wire::batch::{Batch, Position};

impl Recovered {
    /// Bytes that [`Recovered::load_snapshot`] and [`Recovered::replay`] read together.
    pub fn bytes_to_load(&self) -> u64 {
        let segments = &self.segments[self.first_segment..];
        let log = (segments.len() as u64).saturating_sub(1) * self.superblock.segment_bytes;
        self.snapshot_bytes() + log + if segments.is_empty() { 0 } else { self.end }
    }

    fn snapshot_bytes(&self) -> u64 {
        self.snapshot.map_or(0, |s| s.bytes)
    }

    /// Calls `on_chunk` with each chunk of the snapshot, if there is one, and `progress` with bytes done and bytes in all.
    /// What was handed out counts only if this returns Ok.
    pub fn load_snapshot<D: Disk>(
        &self,
        disk: &D,
        on_chunk: impl FnMut(&[u8]),
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), RecoveryError> {
        let Some(pointer) = self.snapshot else { return Ok(()) };
        let (mut done, total) = (0, self.bytes_to_load());
        let name = pointer.file_name();
        let read = snapshot::read(disk, &name, self.superblock.cluster, on_chunk, |bytes| {
            done += bytes;
            progress(done, total);
        });
        let path = disk.path(&name);
        match read {
            Ok(found) if found == pointer => Ok(()),
            Ok(_) => Err(RecoveryError::Snapshot { path, bad: snapshot::BadSnapshot::Other }),
            Err(bad) => Err(RecoveryError::Snapshot { path, bad }),
        }
    }

    /// Calls `on_batch` with every batch after the snapshot, in order, each checked in full, and `progress` as before.
    pub fn replay<D: Disk>(
        &self,
        disk: &D,
        mut on_batch: impl FnMut(&Batch),
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), RecoveryError> {
        let total = self.bytes_to_load();
        let mut done = self.snapshot_bytes();
        let start = self.snapshot.map_or(Position::default(), |s| s.position);
        let mut replay = Replay { reached: start, spare: AlignedBuf::with_capacity(BATCH_BYTES_POOLED) };
        for header in &self.segments[self.first_segment..] {
            let opened = SegmentReader::open(disk, header.slot, self.superblock.segment_bytes).map_err(|errno| RecoveryError::Io {
                path: disk.path(&file_name(header.slot)),
                offset: 0,
                errno,
            })?;
            let reader = opened.expect("recovery has read this file");
            let run = replay.segment(header, reader, &mut on_batch, |offset| progress(done + offset, total));
            run.map_err(|fault| judge(disk, header.slot, replay.reached.zxid, fault))?;
            done += self.superblock.segment_bytes;
        }
        assert_eq!(replay.reached, self.tail, "replay ends where recovery said the log ends");
        progress(total, total);
        Ok(())
    }
}

struct Replay {
    /// The last batch that State has.
    reached: Position,
    spare: AlignedBuf,
}

impl Replay {
    fn segment<D: Disk>(
        &mut self,
        header: &SegmentHeader,
        mut reader: SegmentReader<'_, D>,
        on_batch: &mut impl FnMut(&Batch),
        mut progress: impl FnMut(u64),
    ) -> Result<(), ScanFault> {
        let mut walk = Walk::new(*header);
        while let Step::Batch(batch, frame) = walk.next(&mut reader)? {
            if batch.first_zxid <= self.reached.zxid {
                continue;
            }
            let offset = walk.offset - frame.len() as u64;
            let spare = std::mem::replace(&mut self.spare, AlignedBuf::with_capacity(0));
            let checked = Batch::check(copy(frame, spare)).map_err(|bad| ScanFault { offset, kind: FaultKind::Batch(bad) })?;
            on_batch(&checked);
            self.reached = checked.position();
            self.spare = checked.into_buffer();
            progress(walk.offset);
        }
        Ok(())
    }
}

fn copy(frame: &[u8], spare: AlignedBuf) -> AlignedBuf {
    let mut buf = if frame.len() <= spare.len() { spare } else { AlignedBuf::with_capacity(frame.len()) };
    buf[..frame.len()].copy_from_slice(frame);
    buf
}
