//! Batches out of the old log, for a peer that lags behind what is kept in memory. Runs beside the Journal, on another
//! thread: a [`ReaderMap`] says what the log was when it was made, and reading finds out whether that still holds.
//! Refuses to hand out what is not durable, or anything of a segment that is another one by now.

use super::disk::{Disk, Errno};
use super::load::copy;
use super::scan::{End, FaultKind, ScanFault, Segment, SegmentReader, Step, Walk};
use super::segment::file_name;
use crate::wire::aligned::AlignedBuf;
use crate::wire::batch::{Batch, Position};
use std::sync::Arc;

/// The segments of the log in order, and how far it was durable. Cheap to clone and to send.
#[derive(Clone, Debug)]
pub struct ReaderMap {
    pub(super) segments: Arc<[Segment]>,
    pub(super) segment_bytes: u64,
    pub(super) durable: Position,
}

impl ReaderMap {
    /// How far [`read`] gets with it.
    pub fn durable(&self) -> Position {
        self.durable
    }
}

/// Why nothing could be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FeedError {
    /// The position is not in the log, or not any more: the peer needs a snapshot, or the caller a newer map.
    #[error("the log does not hold this position any more")]
    Gone,
    #[error("{path}: {errno} at byte {offset}")]
    Io { path: String, offset: u64, errno: Errno },
    /// What was durable cannot be read back.
    #[error("{path}: damaged at byte {offset}")]
    Corrupt { path: String, offset: u64 },
}

/// The batches that follow `after`, in order, each checked in full: as many as fit into `bytes_max`, but at least one if
/// there is any. None: `after` is the end of what was durable when the map was made.
///
/// A map outlives a truncation: what was read with an old one may have been cut off since. Who cuts the log throws away
/// what was read before.
pub fn read<D: Disk>(disk: &D, map: &ReaderMap, after: Position, bytes_max: usize) -> Result<Vec<Batch>, FeedError> {
    let mut feed = Feed { disk, map, at: after, bytes_max, bytes: 0, batches: Vec::new() };
    if after == map.durable {
        return Ok(feed.batches);
    }
    let holder = map.segments.iter().rposition(|segment| segment.header.base.zxid <= after.zxid).ok_or(FeedError::Gone)?;
    for (index, segment) in map.segments.iter().enumerate().skip(holder) {
        let until = map.segments.get(index + 1).map_or(map.durable, |next| next.header.base);
        if !feed.segment(segment, until)? || feed.at == map.durable {
            break;
        }
    }
    Ok(feed.batches)
}

struct Feed<'d, D: Disk> {
    disk: &'d D,
    map: &'d ReaderMap,
    /// The last batch handed out, or the one to go on from.
    at: Position,
    bytes_max: usize,
    bytes: usize,
    batches: Vec<Batch>,
}

impl<D: Disk> Feed<'_, D> {
    /// Reads on to `until`. False: there is no room for more.
    fn segment(&mut self, segment: &Segment, until: Position) -> Result<bool, FeedError> {
        let slot = segment.header.slot;
        let opened = SegmentReader::open(self.disk, slot, self.map.segment_bytes).map_err(|errno| self.io(slot, 0, errno))?;
        let mut reader = opened.ok_or_else(|| FeedError::Corrupt { path: self.disk.path(&file_name(slot)), offset: 0 })?;
        self.in_use(segment, &reader)?;
        let walk = Walk::resume(segment.header, Some(until), segment.seek(self.at.zxid));
        match self.walk(walk, &mut reader, until) {
            Ok(more) => more.ok_or(FeedError::Gone),
            // It may have been taken into another use meanwhile.
            Err(fault) => self.in_use(segment, &reader).and(Err(self.fault(slot, fault))),
        }
    }

    /// A segment that was taken into another use has a header of a later generation, because that is written first. Any other
    /// header than the one that is known is damage.
    fn in_use(&self, segment: &Segment, reader: &SegmentReader<'_, D>) -> Result<(), FeedError> {
        let slot = segment.header.slot;
        match reader.header().map_err(|fault| self.fault(slot, fault))? {
            Some(header) if header == segment.header => Ok(()),
            Some(header) if header.slot == slot && header.generation > segment.header.generation => Err(FeedError::Gone),
            _ => Err(FeedError::Corrupt { path: self.disk.path(&file_name(slot)), offset: 0 }),
        }
    }

    /// None: the position to go on from is not in it.
    fn walk(&mut self, mut walk: Walk, reader: &mut SegmentReader<'_, D>, until: Position) -> Result<Option<bool>, ScanFault> {
        let ends_too_soon = |offset| ScanFault { offset, kind: FaultKind::Misfit("the log ends too soon") };
        while walk.position.zxid < self.at.zxid {
            match walk.next(reader)? {
                Step::Batch(..) => {}
                Step::End(End::Continued) => return Ok(None),
                Step::End(_) => return Err(ends_too_soon(walk.offset)),
            }
        }
        if walk.position != self.at {
            return Ok(None);
        }
        while self.at != until {
            let offset = walk.offset;
            let Step::Batch(header, frame) = walk.next(reader)? else { return Err(ends_too_soon(offset)) };
            let bytes = header.bytes as usize;
            if !self.batches.is_empty() && self.bytes + bytes > self.bytes_max {
                return Ok(Some(false));
            }
            let checked = Batch::check(copy(frame, AlignedBuf::with_capacity(frame.len())));
            let batch = checked.map_err(|bad| ScanFault { offset, kind: FaultKind::Batch(bad) })?;
            self.bytes += bytes;
            self.at = batch.position();
            self.batches.push(batch);
        }
        Ok(Some(true))
    }

    fn io(&self, slot: u32, offset: u64, errno: Errno) -> FeedError {
        FeedError::Io { path: self.disk.path(&file_name(slot)), offset, errno }
    }

    fn fault(&self, slot: u32, fault: ScanFault) -> FeedError {
        match fault.kind {
            FaultKind::Io(errno) => self.io(slot, fault.offset, errno),
            FaultKind::Misfit(_) | FaultKind::Batch(_) => {
                FeedError::Corrupt { path: self.disk.path(&file_name(slot)), offset: fault.offset }
            }
        }
    }
}
