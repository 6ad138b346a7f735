//! Hands the recovered history out: first the snapshot's chunks, then every batch after it. Each shard does this for
//! itself, on its own thread, from the same [`Recovered`].
//! Refuses to know what a State is: the caller's closures do.

use super::disk::Disk;
use super::recovery::{Recovered, RecoveryError, judge};
use super::scan::{FaultKind, ScanFault, SegmentReader, Step, Walk};
use super::segment::file_name;
use super::snapshot;
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
        let mut reached = self.snapshot.map_or(Position::default(), |s| s.position);
        let mut spare = AlignedBuf::with_capacity(crate::limits::BATCH_BYTES_POOLED);
        for header in &self.segments[self.first_segment..] {
            let slot = header.slot;
            let fault = |at, fault| judge(disk, slot, at, fault);
            let opened = SegmentReader::open(disk, slot, self.superblock.segment_bytes).map_err(|errno| RecoveryError::Io {
                path: disk.path(&file_name(slot)),
                offset: 0,
                errno,
            })?;
            let mut reader = opened.expect("recovery has read this file");
            let mut walk = Walk::new(*header);
            while let Step::Batch(batch, frame) = walk.next(&mut reader).map_err(|f| fault(reached.zxid, f))? {
                if batch.first_zxid > reached.zxid {
                    let (offset, frame_bytes) = (walk.offset - frame.len() as u64, frame.len() as u64);
                    let checked = Batch::check(copy(frame, spare))
                        .map_err(|bad| fault(reached.zxid, ScanFault { offset, kind: FaultKind::Batch(bad) }))?;
                    on_batch(&checked);
                    reached = checked.position();
                    spare = checked.into_buffer();
                    progress(done + offset + frame_bytes, total);
                }
            }
            done += self.superblock.segment_bytes;
        }
        assert_eq!(reached, self.tail, "replay ends where recovery said the log ends");
        progress(total, total);
        Ok(())
    }
}

fn copy(frame: &[u8], spare: AlignedBuf) -> AlignedBuf {
    let mut buf = if frame.len() <= spare.len() { spare } else { AlignedBuf::with_capacity(frame.len()) };
    buf[..frame.len()].copy_from_slice(frame);
    buf
}
