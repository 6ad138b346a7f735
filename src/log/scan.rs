//! Walks the frames of one segment from its first frame to where they end, and says why they end there.
//! Used by recovery (checksums and chain) and by replay (which also hands out the batches).
//! Refuses to decide whether an end is a torn tail or damage: it collects the evidence, `recovery` judges.

use super::disk::{Disk, Errno};
use super::segment::{FIRST_FRAME, LocalHeader, Place, SegmentHeader, file_name};
use crate::limits::BLOCK_BYTES;
use crate::wire::aligned::AlignedBuf;
use crate::wire::batch::{BadBatch, Header, LOCAL_HEADER_BYTES, Position};
use std::sync::Arc;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Bytes read at a time: enough for the full speed of a disk.
const READ_BYTES: usize = 1 << 20;

/// A reading that did not work out, at a byte offset of the segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ScanFault {
    pub offset: u64,
    pub kind: FaultKind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FaultKind {
    Io(Errno),
    /// A frame whose checksum holds is not what may follow.
    Misfit(&'static str),
    Batch(BadBatch),
}

/// Forward reading of one segment file in large pieces.
pub(super) struct SegmentReader<'d, D: Disk> {
    disk: &'d D,
    file: D::File,
    bytes: u64,
    buf: AlignedBuf,
    start: u64,
    filled: usize,
}

impl<'d, D: Disk> SegmentReader<'d, D> {
    /// None if the file is missing or not `bytes` long.
    pub fn open(disk: &'d D, slot: u32, bytes: u64) -> Result<Option<SegmentReader<'d, D>>, Errno> {
        let Some(file) = disk.open(&file_name(slot))? else { return Ok(None) };
        if disk.len(&file)? != bytes {
            return Ok(None);
        }
        let buf = AlignedBuf::with_capacity(READ_BYTES.min(bytes as usize));
        Ok(Some(SegmentReader { disk, file, bytes, buf, start: 0, filled: 0 }))
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The header as it is in the file now, whatever has been read before.
    pub fn header(&self) -> Result<Option<SegmentHeader>, ScanFault> {
        let mut block = AlignedBuf::with_capacity(BLOCK_BYTES);
        let read = self.disk.read_at(&self.file, 0, &mut block);
        read.map_err(|errno| ScanFault { offset: 0, kind: FaultKind::Io(errno) })?;
        Ok(SegmentHeader::decode(&block))
    }

    /// `len` bytes at `offset`, both whole blocks and inside the file.
    pub fn view(&mut self, offset: u64, len: usize) -> Result<&[u8], ScanFault> {
        assert!(offset + len as u64 <= self.bytes, "the caller stays inside the segment");
        let inside = offset >= self.start && offset + len as u64 <= self.start + self.filled as u64;
        if !inside {
            self.fill(offset, len)?;
        }
        let at = (offset - self.start) as usize;
        Ok(&self.buf[at..at + len])
    }

    fn fill(&mut self, offset: u64, len: usize) -> Result<(), ScanFault> {
        if len > self.buf.len() {
            self.buf = AlignedBuf::with_capacity(len);
        }
        let want = (self.buf.len() as u64).min(self.bytes - offset) as usize;
        self.filled = 0;
        let read = self.disk.read_at(&self.file, offset, &mut self.buf[..want]);
        read.map_err(|errno| ScanFault { offset, kind: FaultKind::Io(errno) })?;
        (self.start, self.filled) = (offset, want);
        Ok(())
    }
}

/// A place in a segment from which a walk may start: the frame at `offset` is the one after the batch `after`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Seek {
    pub after: Position,
    pub offset: u64,
}

/// A segment of the log, and places in it, about [`SEEK_BYTES`] apart and in order, from which reading may start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Segment {
    pub header: SegmentHeader,
    pub seeks: Arc<Vec<Seek>>,
}

/// How far apart the places are from which reading may start.
const SEEK_BYTES: u64 = 1 << 20;

impl Segment {
    pub fn new(header: SegmentHeader) -> Segment {
        Segment { header, seeks: Arc::default() }
    }

    /// The frame at `offset` follows the batch `after`; it is behind those told before.
    pub fn note(&mut self, after: Position, offset: u64) {
        let last = self.seeks.last().map_or(FIRST_FRAME, |seek| seek.offset);
        if offset >= last + SEEK_BYTES {
            Arc::make_mut(&mut self.seeks).push(Seek { after, offset });
        }
    }

    /// The last place that is not behind the batch `after`.
    pub fn seek(&self, after: u64) -> Seek {
        let first = Seek { after: self.header.base, offset: FIRST_FRAME };
        self.seeks.iter().copied().take_while(|seek| seek.after.zxid <= after).last().unwrap_or(first)
    }
}

/// Why a walk ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    /// The next segment goes on from here. Frames behind this place were cut off by a truncation.
    Continued,
    /// Zeros, or the end of the file.
    Clean,
    /// A frame of an earlier use of the file.
    Stale,
    /// A frame of this use whose batch is not what was written.
    Torn,
    /// Anything else.
    Garbage,
}

/// What a walk found next.
pub(super) enum Step<'a> {
    /// A batch: its header, and the whole frame, local header first.
    Batch(Header, &'a [u8]),
    End(End),
}

/// A walk over one segment.
pub(super) struct Walk {
    segment: SegmentHeader,
    /// Where the next segment goes on.
    until: Option<Position>,
    /// Where the next frame would start.
    pub offset: u64,
    /// The last batch passed.
    pub position: Position,
    /// Whether the last frame passed was a mark.
    pub marked: bool,
}

impl Walk {
    /// From the first frame to the batch at `until`, or to where the frames end.
    pub fn new(segment: SegmentHeader, until: Option<Position>) -> Walk {
        Walk { segment, until, offset: FIRST_FRAME, position: segment.base, marked: true }
    }

    /// As [`Walk::new`], but from `seek` on.
    pub fn resume(segment: SegmentHeader, until: Option<Position>, seek: Seek) -> Walk {
        Walk { offset: seek.offset, position: seek.after, ..Walk::new(segment, until) }
    }

    pub fn place(&self) -> Place {
        Place { sequence: self.segment.sequence, offset: self.offset }
    }

    fn fault(&self, kind: FaultKind) -> ScanFault {
        ScanFault { offset: self.offset, kind }
    }

    /// The next batch, marks skipped.
    pub fn next<'a, D: Disk>(&mut self, reader: &'a mut SegmentReader<'_, D>) -> Result<Step<'a>, ScanFault> {
        loop {
            if self.until == Some(self.position) {
                return Ok(Step::End(End::Continued));
            }
            let frame_bytes = match self.header_here(reader)? {
                Err(end) => return Ok(Step::End(end)),
                Ok(local) if local.length == 0 => {
                    self.offset += BLOCK;
                    self.marked = true;
                    continue;
                }
                Ok(local) => local.frame_bytes(),
            };
            let frame = reader.view(self.offset, frame_bytes as usize)?;
            let header = Header::decode(&frame[LOCAL_HEADER_BYTES..]).map_err(|bad| self.fault(FaultKind::Batch(bad)))?;
            self.check_follows(&header, frame_bytes)?;
            self.offset += frame_bytes;
            self.position = Position { zxid: header.last_zxid, chain: header.chain };
            self.marked = false;
            return Ok(Step::Batch(header, frame));
        }
    }

    /// The local header of an intact frame at the current offset, or why there is none.
    fn header_here<D: Disk>(&self, reader: &mut SegmentReader<'_, D>) -> Result<Result<LocalHeader, End>, ScanFault> {
        if self.offset + BLOCK > reader.bytes() {
            return Ok(Err(End::Clean));
        }
        let block = reader.view(self.offset, BLOCK_BYTES)?;
        let Some(local) = LocalHeader::decode(block) else {
            let clean = block.iter().all(|byte| *byte == 0);
            return Ok(Err(if clean { End::Clean } else { End::Garbage }));
        };
        if !local.belongs(&self.segment, self.offset) {
            return Ok(Err(End::Stale));
        }
        if self.offset + local.frame_bytes() > reader.bytes() {
            return Err(self.fault(FaultKind::Misfit("a frame is longer than its segment")));
        }
        let frame = reader.view(self.offset, local.frame_bytes() as usize)?;
        Ok(if local.body_intact(frame) { Ok(local) } else { Err(End::Torn) })
    }

    fn check_follows(&self, header: &Header, frame_bytes: u64) -> Result<(), ScanFault> {
        let misfit = |why| Err(self.fault(FaultKind::Misfit(why)));
        let length = (LOCAL_HEADER_BYTES as u64 + u64::from(header.bytes)).next_multiple_of(BLOCK);
        let (last, first) = (self.position.zxid, header.first_zxid);
        if header.cluster != self.segment.cluster {
            return misfit("a batch of another cluster");
        }
        if length != frame_bytes {
            return misfit("a batch and its frame differ in length");
        }
        if header.prev_chain != self.position.chain {
            return misfit("a batch does not continue the one before it");
        }
        if first != last + 1 && first >> 32 <= last >> 32 {
            return misfit("zxids are missing");
        }
        Ok(())
    }

    /// What the frames of this use of the segment, from the current offset on, have against the log's ending here: one calls
    /// something durable that is not before it, or lies where another one should. Such a write went astray, over what was
    /// there, and what belongs in its own place is not there: a mark over the batch that it vouches for still vouches for it.
    pub fn objection<D: Disk>(&self, reader: &mut SegmentReader<'_, D>) -> Result<Option<&'static str>, ScanFault> {
        let mut offset = self.offset;
        while offset + BLOCK <= reader.bytes() {
            let block = reader.view(offset, BLOCK_BYTES)?;
            if let Some(local) = LocalHeader::decode(block).filter(|local| local.is_of(&self.segment)) {
                if local.at.offset != offset {
                    return Ok(Some("a frame of this segment lies there or behind, and belongs elsewhere in it"));
                }
                if local.durable_upto > self.place() {
                    return Ok(Some("a later frame says that what was here was durable"));
                }
            }
            offset += BLOCK;
        }
        Ok(None)
    }
}

/// Every local header in the file whose own sum holds, whatever use of the segment it is from.
pub(super) fn any_headers<D: Disk>(
    reader: &mut SegmentReader<'_, D>,
    mut found: impl FnMut(LocalHeader, Option<Header>),
) -> Result<(), ScanFault> {
    let mut offset = FIRST_FRAME;
    while offset + BLOCK <= reader.bytes() {
        let block = reader.view(offset, BLOCK_BYTES)?;
        if let Some(local) = LocalHeader::decode(block).filter(|local| local.at.offset == offset) {
            found(local, Header::decode(&block[LOCAL_HEADER_BYTES..]).ok());
        }
        offset += BLOCK;
    }
    Ok(())
}
