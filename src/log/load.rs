//! Hands the recovered history out: first the snapshot's chunks, then every batch after it. Each shard does this for
//! itself, on its own thread, from the same [`Recovered`].
//! Refuses to know what a State is: the caller's closures do.

use super::disk::Disk;
use super::recovery::{Recovered, RecoveryError, io, judge};
use super::scan::{FaultKind, ScanFault, SegmentReader, Step, Walk};
use super::segment::file_name;
use super::snapshot;
use crate::limits::BATCH_BYTES_POOLED;
use crate::wire::aligned::AlignedBuf;
use crate::wire::batch::Batch;

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

    /// Calls `on_batch` with every batch after the snapshot whose last zxid is not above `until`, in order, each checked in
    /// full, and `progress` as before. A server without peers passes the tail's zxid.
    pub fn replay<D: Disk>(
        &self,
        disk: &D,
        until: u64,
        mut on_batch: impl FnMut(&Batch),
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), RecoveryError> {
        let total = self.bytes_to_load();
        let start = self.snapshot.map_or(0, |s| s.position.zxid);
        let (mut replay, snapshot_bytes) = (Replay::new(start, until), self.snapshot_bytes());
        let take = |batch: Batch| {
            on_batch(&batch);
            Some(batch.into_buffer())
        };
        replay.run(self, disk, self.first_segment, take, |done| progress(snapshot_bytes + done, total))?;
        assert!(until < self.tail.zxid || replay.reached == self.tail.zxid, "replay ends where recovery said the log ends");
        progress(total, total);
        Ok(())
    }

    /// The batches after zxid `after`, a batch end not before the snapshot, up to the tail: what is in the log and not
    /// known to be committed when `after` is [`Recovered::committed`]. All of them are in memory at once.
    pub fn pending<D: Disk>(&self, disk: &D, after: u64) -> Result<Vec<Batch>, RecoveryError> {
        let reaching = self.segments.iter().rposition(|segment| segment.header.base.zxid <= after);
        let mut batches = Vec::new();
        let take = |batch: Batch| {
            batches.push(batch);
            None
        };
        Replay::new(after, u64::MAX).run(self, disk, reaching.unwrap_or(self.first_segment), take, |_| ())?;
        Ok(batches)
    }
}

/// Reads batches from one zxid to another, whole batches only.
struct Replay {
    /// The last zxid that was handed out.
    reached: u64,
    until: u64,
    spare: AlignedBuf,
}

impl Replay {
    fn new(after: u64, until: u64) -> Replay {
        Replay { reached: after, until, spare: AlignedBuf::with_capacity(BATCH_BYTES_POOLED) }
    }

    /// `take` may give the buffer back. `progress`: bytes of the segments from `first` on that are done.
    fn run<D: Disk>(
        &mut self,
        found: &Recovered,
        disk: &D,
        first: usize,
        mut take: impl FnMut(Batch) -> Option<AlignedBuf>,
        mut progress: impl FnMut(u64),
    ) -> Result<(), RecoveryError> {
        let bytes = found.superblock.segment_bytes;
        for (index, segment) in found.segments.iter().enumerate().skip(first) {
            let slot = segment.header.slot;
            let next = found.segments.get(index + 1).map(|next| next.header.base);
            let opened = SegmentReader::open(disk, slot, bytes).map_err(|errno| io(disk, &file_name(slot), 0, errno))?;
            let reader = opened.expect("recovery has read this file");
            let done = (index - first) as u64 * bytes;
            let run = self.segment(Walk::new(segment.header, next), reader, &mut take, |offset| progress(done + offset));
            run.map_err(|fault| judge(disk, slot, self.reached, fault))?;
        }
        Ok(())
    }

    fn segment<D: Disk>(
        &mut self,
        mut walk: Walk,
        mut reader: SegmentReader<'_, D>,
        take: &mut impl FnMut(Batch) -> Option<AlignedBuf>,
        mut progress: impl FnMut(u64),
    ) -> Result<(), ScanFault> {
        while let Step::Batch(batch, frame) = walk.next(&mut reader)? {
            if batch.first_zxid <= self.reached {
                continue;
            }
            if batch.last_zxid > self.until {
                break;
            }
            let offset = walk.offset - frame.len() as u64;
            let spare = std::mem::replace(&mut self.spare, AlignedBuf::with_capacity(0));
            let checked = Batch::check(copy(frame, spare)).map_err(|bad| ScanFault { offset, kind: FaultKind::Batch(bad) })?;
            self.reached = batch.last_zxid;
            self.spare = take(checked).unwrap_or_else(|| AlignedBuf::with_capacity(0));
            progress(walk.offset);
        }
        Ok(())
    }
}

/// A copy of a frame, in `spare` if it is large enough.
pub(super) fn copy(frame: &[u8], spare: AlignedBuf) -> AlignedBuf {
    let mut buf = if frame.len() <= spare.len() { spare } else { AlignedBuf::with_capacity(frame.len()) };
    buf[..frame.len()].copy_from_slice(frame);
    buf
}
