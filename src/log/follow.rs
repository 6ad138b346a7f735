//! Follows the frames of the log from the snapshot to the end and says what is there: where it ends and whether it may end
//! there. Segments from before the snapshot are read too, for the sake of peers that lag behind; what is damaged in them
//! is given up, because loading does not need it. Refuses to change anything.

use super::disk::Disk;
use super::recovery::{RecoveryError, corrupt, io, judge};
use super::scan::{End, ScanFault, Segment, SegmentReader, Step, Walk, any_headers};
use super::segment::{FIRST_FRAME, Place, SegmentHeader, file_name};
use super::superblock::Superblock;
use crate::wire::batch::{Header, Position};

/// What has been logged since the snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Since {
    pub payload_bytes: u64,
    pub frame_bytes: u64,
    pub txns: u64,
}

impl Since {
    pub fn add(&mut self, batch: &Header, frame_bytes: u64) {
        self.payload_bytes += u64::from(batch.bytes);
        self.frame_bytes += frame_bytes;
        self.txns += u64::from(batch.count);
    }
}

/// What the log holds from the snapshot on.
pub(super) struct Log {
    pub tail: Position,
    /// The highest watermark in any batch.
    pub committed: u64,
    pub end: u64,
    pub marked: bool,
    pub since: Since,
    pub cut: Option<(String, u64)>,
    pub segments: Vec<Segment>,
    /// Every batch end, the one that the first segment starts from included.
    pub positions: Vec<Position>,
}

fn open<'d, D: Disk>(disk: &'d D, superblock: &Superblock, slot: u32) -> Result<SegmentReader<'d, D>, RecoveryError> {
    let opened = SegmentReader::open(disk, slot, superblock.segment_bytes).map_err(|e| io(disk, &file_name(slot), 0, e))?;
    Ok(opened.expect("its header was just read"))
}

/// Follows checksums and chain from the first segment needed to the end of the last one. `floor`: where the snapshot was
/// cut, or the beginning.
pub(super) fn follow<D: Disk>(disk: &D, superblock: &Superblock, run: &[SegmentHeader], floor: Position) -> Result<Log, RecoveryError> {
    let mut log = Log {
        tail: floor,
        committed: floor.zxid,
        end: FIRST_FRAME,
        marked: true,
        since: Since::default(),
        cut: None,
        segments: Vec::new(),
        positions: vec![run.first().map_or(floor, |first| first.base)],
    };
    for (index, header) in run.iter().enumerate() {
        log.segment(disk, superblock, header, run.get(index + 1), floor)?;
    }
    match run.last() {
        Some(last) if log.tail.zxid < floor.zxid => {
            Err(corrupt(disk, last.slot, log.end, log.tail.zxid, "the log ends before the snapshot"))
        }
        _ => Ok(log),
    }
}

impl Log {
    fn segment<D: Disk>(
        &mut self,
        disk: &D,
        superblock: &Superblock,
        header: &SegmentHeader,
        next: Option<&SegmentHeader>,
        floor: Position,
    ) -> Result<(), RecoveryError> {
        let slot = header.slot;
        let mut reader = open(disk, superblock, slot)?;
        let mut walk = Walk::new(*header, next.map(|next| next.base));
        let mut segment = Segment::new(*header);
        check_floor(disk, header, walk.place(), walk.position, floor)?;
        let end = loop {
            match walk.next(&mut reader).map_err(|fault| judge(disk, slot, walk.position.zxid, fault))? {
                Step::End(end) => break end,
                Step::Batch(batch, frame) => {
                    if batch.first_zxid > floor.zxid {
                        self.since.add(&batch, frame.len() as u64);
                    } else if batch.last_zxid > floor.zxid {
                        return Err(corrupt(disk, slot, walk.offset, floor.zxid, "the snapshot was cut inside this batch"));
                    }
                    check_floor(disk, header, walk.place(), walk.position, floor)?;
                    self.committed = self.committed.max(batch.committed);
                    self.positions.push(walk.position);
                    segment.note(walk.position, walk.offset);
                }
            }
        };
        judge_end(disk, &mut reader, &walk, end, next.is_some(), slot)?;
        (self.tail, self.end, self.marked) = (walk.position, walk.offset, walk.marked);
        let torn = next.is_none() && matches!(end, End::Torn | End::Garbage);
        self.cut = torn.then(|| (disk.path(&file_name(slot)), walk.offset));
        self.segments.push(segment);
        Ok(())
    }

    /// Puts segments from before the snapshot in front, as far back as they are good. Returns the slots of the others.
    pub fn reach_back<D: Disk>(&mut self, disk: &D, superblock: &Superblock, older: &[SegmentHeader]) -> Vec<u32> {
        for (index, header) in older.iter().enumerate().rev() {
            let base = self.positions[0];
            let Some((segment, ends)) = read_older(disk, superblock, header, base) else {
                return older[..=index].iter().map(|header| header.slot).collect();
            };
            self.segments.insert(0, segment);
            self.positions.splice(0..1, ends);
        }
        Vec::new()
    }
}

/// All batch ends of a segment that loading does not need, its base first, `until` last. None: it cannot be read whole.
fn read_older<D: Disk>(disk: &D, superblock: &Superblock, header: &SegmentHeader, until: Position) -> Option<(Segment, Vec<Position>)> {
    let mut reader = SegmentReader::open(disk, header.slot, superblock.segment_bytes).ok()??;
    let mut walk = Walk::new(*header, Some(until));
    let (mut segment, mut ends) = (Segment::new(*header), vec![header.base]);
    loop {
        match walk.next(&mut reader).ok()? {
            Step::Batch(..) => {
                ends.push(walk.position);
                segment.note(walk.position, walk.offset);
            }
            Step::End(End::Continued) => return Some((segment, ends)),
            Step::End(_) => return None,
        }
    }
}

/// A snapshot is cut at a batch end: the walk must meet it, with the same chain.
fn check_floor<D: Disk>(disk: &D, segment: &SegmentHeader, at: Place, now: Position, floor: Position) -> Result<(), RecoveryError> {
    if now.zxid == floor.zxid && now.chain != floor.chain {
        return Err(corrupt(disk, segment.slot, at.offset, now.zxid, "the log and the snapshot hold different histories"));
    }
    Ok(())
}

/// Whether frames may end where they do. In the middle of the log the next segment knows; at its end, whatever any frame
/// beyond calls durable must lie before it.
fn judge_end<D: Disk>(
    disk: &D,
    reader: &mut SegmentReader<'_, D>,
    walk: &Walk,
    end: End,
    in_the_middle: bool,
    slot: u32,
) -> Result<(), RecoveryError> {
    let after = walk.position.zxid;
    if end == End::Continued {
        return Ok(());
    }
    if in_the_middle {
        return Err(corrupt(disk, slot, walk.offset, after, "the next segment continues a batch that is not here"));
    }
    match walk.objection(reader).map_err(|fault: ScanFault| judge(disk, slot, after, fault))? {
        Some(why) => Err(corrupt(disk, slot, walk.offset, after, why)),
        None => Ok(()),
    }
}

/// A slot whose header is gone is blank if the header was torn while the slot was taken into use: then nothing of that use
/// is in it. Frames of a later use than that of any segment whose header is known prove damage.
pub(super) fn refuse_hidden_frames<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    slot: u32,
    last: Option<&SegmentHeader>,
    tail_zxid: u64,
) -> Result<(), RecoveryError> {
    let mut reader = open(disk, superblock, slot)?;
    let last = last.map_or(superblock.log_floor.saturating_sub(1), |header| header.generation);
    let mut hidden = false;
    any_headers(&mut reader, |local, _| hidden |= local.generation > last).map_err(|fault| judge(disk, slot, tail_zxid, fault))?;
    if hidden {
        return Err(corrupt(disk, slot, 0, tail_zxid, "the segment's header is unreadable, and there are batches behind it"));
    }
    Ok(())
}
