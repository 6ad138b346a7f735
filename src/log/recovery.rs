//! Start-up: from the files of a data directory to what this server knows and where its log ends. Reads everything that
//! is needed, judges it by the rule in `log`, and only then changes anything: cuts a torn tail, counts the start.
//!
//! ```text
//! inspect: superblock -> slots -> newest usable snapshot -> frames from there to the end -> is the end torn or damaged?
//! open:    inspect -> sync what was read -> cut -> superblock{boot + 1}
//! ```
//! Refuses to repair damage and to start behind it: a server without peers has nobody to ask.

use super::disk::{Disk, Errno};
use super::scan::{End, FaultKind, ScanFault, SegmentReader, Step, Walk, any_headers};
use super::segment::{self, FIRST_FRAME, LocalHeader, Place, SEGMENT_BYTES_MIN, SLOTS_MAX, SegmentHeader, file_name, slot_of};
use super::snapshot::{self, BadSnapshot, SnapshotPointer};
use super::superblock::{self, BadSuperblock, Superblock};
use crate::limits::BLOCK_BYTES;
use crate::wire::aligned::AlignedBuf;
use crate::wire::batch::{BadBatch, Header, Position};

/// Segments that exist before the first start may serve.
pub const SLOTS_AT_FORMAT: u32 = 2;

/// Why the data directory cannot be used as it is. Nothing has been changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecoveryError {
    #[error("{directory} holds no data yet")]
    Unformatted { directory: String },
    #[error("{directory} holds data already")]
    Formatted { directory: String },
    #[error("{path}: {bad}, though the directory holds a log or snapshots")]
    Superblock { path: String, bad: BadSuperblock },
    #[error("{path}: {errno} at byte {offset}")]
    Io { path: String, offset: u64, errno: Errno },
    #[error("{path} belongs to {what}")]
    Foreign { path: String, what: &'static str },
    #[error("{path}: written by a newer version")]
    Newer { path: String },
    #[error("{0}")]
    Corrupt(Corruption),
    #[error("{path}: {bad}, and the log does not reach back far enough to do without it")]
    Snapshot { path: String, bad: BadSnapshot },
}

/// Durable data that cannot be read back: the place, what is still good, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Corruption {
    pub slot: u32,
    pub path: String,
    pub directory: String,
    pub offset: u64,
    /// The last zxid before the damage.
    pub after: u64,
    pub why: &'static str,
}

impl std::fmt::Display for Corruption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Corruption { path, offset, after, why, directory, .. } = self;
        write!(f, "{path}: damaged at byte {offset}, after zxid 0x{after:x}: {why}. Nothing was changed. ")?;
        write!(f, "`falconer recover --data-dir {directory} --show` shows what would be lost by going on without it")
    }
}

/// Identity and geometry of a new data directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Format {
    pub cluster: u128,
    pub server: u64,
    pub incarnation: u128,
    /// Size of a segment, whole blocks. At least [`SEGMENT_BYTES_MIN`]; a server uses `segment::SEGMENT_BYTES_SERVING_MIN`
    /// or more, so that the largest transaction fits.
    pub segment_bytes: u64,
}

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

/// What the data directory holds. Cheap to clone: each shard may load its own State from it, on its own thread.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// As it is on disk now; after [`open`] its `boot` is this start's number.
    pub superblock: Superblock,
    /// The end of the history: the last batch in the log.
    pub tail: Position,
    /// Where loading starts; None: with an empty state.
    pub snapshot: Option<SnapshotPointer>,
    /// A torn tail that was cut off: file and offset. Nothing acknowledged was in it.
    pub cut: Option<(String, u64)>,
    /// The superblock's snapshot could not be used, an older one is: what was wrong with it.
    pub fell_back: Option<(String, BadSnapshot)>,
    /// Every segment of the log in order, the one being written last.
    pub(super) segments: Vec<SegmentHeader>,
    /// Slots with nothing in them.
    pub(super) blank: Vec<u32>,
    /// The highest generation ever given to a segment.
    pub(super) generation: u64,
    /// Where the log is needed from: index in `segments`.
    pub(super) first_segment: usize,
    /// Where the next frame goes in the last segment.
    pub(super) end: u64,
    pub(super) marked: bool,
    pub(super) since: Since,
    /// Snapshots on disk that may serve as a fallback, oldest first, `snapshot` included.
    pub(super) snapshots: Vec<u64>,
    /// Snapshot files that never counted.
    pub(super) garbage: Vec<u64>,
    spare: usize,
}

/// Makes an empty data directory. Refuses one that holds data.
pub fn format<D: Disk>(disk: &D, format: &Format) -> Result<(), RecoveryError> {
    let whole = format.segment_bytes.is_multiple_of(BLOCK_BYTES as u64);
    assert!(whole && (SEGMENT_BYTES_MIN..=1 << 31).contains(&format.segment_bytes), "config checks the segment size");
    match read_superblock(disk) {
        Err(RecoveryError::Unformatted { .. }) => {}
        Err(other) => return Err(other),
        Ok(_) => return Err(RecoveryError::Formatted { directory: disk.directory() }),
    }
    refuse_foreign_files(disk)?;
    claim_names(disk).map_err(|e| io(disk, FORMAT_MARKER, 0, e))?;
    for slot in 0..SLOTS_AT_FORMAT {
        segment::prepare(disk, slot, format.segment_bytes).map_err(|e| io(disk, &file_name(slot), 0, e))?;
    }
    let first = Superblock {
        sequence: 1,
        parent: 0,
        cluster: format.cluster,
        server: format.server,
        incarnation: format.incarnation,
        promised_epoch: 0,
        boot: 0,
        segment_bytes: format.segment_bytes,
        slots: SLOTS_AT_FORMAT,
        snapshot: None,
    };
    first.create(disk).map_err(|e| io(disk, superblock::FILE_NAME, 0, e))?;
    disk.remove(FORMAT_MARKER).map_err(|e| io(disk, FORMAT_MARKER, 0, e))
}

/// Present from the first step of formatting on, so that an interrupted format can be told from somebody else's files.
const FORMAT_MARKER: &str = "formatting";

/// Files under our names without a superblock are what an interrupted format left, or somebody's: those are not overwritten.
fn claim_names<D: Disk>(disk: &D) -> Result<(), Errno> {
    if disk.open(FORMAT_MARKER)?.is_none() {
        disk.create(FORMAT_MARKER)?;
    }
    disk.sync_names()
}

fn refuse_foreign_files<D: Disk>(disk: &D) -> Result<(), RecoveryError> {
    let names = disk.list().map_err(|e| io(disk, "", 0, e))?;
    if names.iter().any(|name| name == FORMAT_MARKER) {
        return Ok(());
    }
    match names.iter().find(|name| slot_of(name).is_some() || snapshot::zxid_of(name).is_some()) {
        Some(name) => Err(RecoveryError::Foreign { path: disk.path(name), what: "something else: there is no superblock beside it" }),
        None => Ok(()),
    }
}

/// Reads the directory, makes sure that what was read is on the medium, cuts a torn tail and counts the start.
pub fn open<D: Disk>(disk: &D) -> Result<Recovered, RecoveryError> {
    let mut found = inspect(disk)?;
    disk.sync_names().map_err(|e| io(disk, superblock::FILE_NAME, 0, e))?;
    if let Some(last) = found.segments.last() {
        let name = file_name(last.slot);
        settle_tail(disk, &name, found.cut.as_ref().map(|cut| cut.1)).map_err(|e| io(disk, &name, found.end, e))?;
    }
    let next = Superblock { boot: found.superblock.boot + 1, snapshot: found.snapshot, ..found.superblock.successor() };
    next.write(disk, found.spare).map_err(|e| io(disk, superblock::FILE_NAME, 0, e))?;
    found.superblock = next;
    Ok(found)
}

/// Reading proves nothing, a block may sit in a volatile cache: sync. A torn frame loses its first block, so that no later
/// write, torn itself, can complete it. That is enough because only one frame is ever in flight.
fn settle_tail<D: Disk>(disk: &D, name: &str, cut: Option<u64>) -> Result<(), Errno> {
    let file = disk.open(name)?.ok_or(Errno::EIO)?;
    if let Some(offset) = cut {
        disk.write_at(&file, offset, &AlignedBuf::with_capacity(BLOCK_BYTES))?;
    }
    disk.sync(&file)
}

/// Reads and judges the directory without changing anything.
pub fn inspect<D: Disk>(disk: &D) -> Result<Recovered, RecoveryError> {
    let (superblock, spare) = read_superblock(disk)?;
    let slots = Slots::read(disk, &superblock)?;
    let snapshots = Snapshots::list(disk, &superblock)?;
    let start = choose_start(disk, &superblock, &slots, &snapshots)?;
    let log = scan_log(disk, &superblock, &slots.run[start.first_segment..], start.snapshot)?;
    let mut blank = slots.blank.clone();
    for slot in slots.unreadable {
        refuse_hidden_frames(disk, &superblock, slot, &slots.run, log.tail.zxid)?;
        blank.push(slot);
    }
    blank.sort_unstable();
    let used = start.snapshot.map_or(0, |s| s.position.zxid);
    Ok(Recovered {
        superblock,
        tail: log.tail,
        snapshot: start.snapshot,
        cut: log.cut,
        fell_back: start.fell_back,
        segments: slots.run,
        blank,
        generation: slots.generation,
        first_segment: start.first_segment,
        end: log.end,
        marked: log.marked,
        since: log.since,
        snapshots: snapshots.zxids.iter().copied().filter(|zxid| *zxid <= used).collect(),
        garbage: snapshots.zxids.iter().copied().filter(|zxid| *zxid > used).collect(),
        spare,
    })
}

fn io<D: Disk>(disk: &D, name: &str, offset: u64, errno: Errno) -> RecoveryError {
    RecoveryError::Io { path: disk.path(name), offset, errno }
}

fn corrupt<D: Disk>(disk: &D, slot: u32, offset: u64, after: u64, why: &'static str) -> RecoveryError {
    let path = disk.path(&file_name(slot));
    RecoveryError::Corrupt(Corruption { slot, path, directory: disk.directory(), offset, after, why })
}

/// A fault of a walk, as what it means for the server.
pub(super) fn judge<D: Disk>(disk: &D, slot: u32, after: u64, fault: ScanFault) -> RecoveryError {
    let path = disk.path(&file_name(slot));
    match fault.kind {
        FaultKind::Io(errno) => RecoveryError::Io { path, offset: fault.offset, errno },
        FaultKind::Batch(BadBatch::Format(_)) => RecoveryError::Newer { path },
        FaultKind::Batch(_) => corrupt(disk, slot, fault.offset, after, "a batch with a good checksum makes no sense"),
        FaultKind::Misfit(why) => corrupt(disk, slot, fault.offset, after, why),
    }
}

fn read_superblock<D: Disk>(disk: &D) -> Result<(Superblock, usize), RecoveryError> {
    let path = disk.path(superblock::FILE_NAME);
    match Superblock::read(disk) {
        Ok(Some(found)) => Ok(found),
        Err(BadSuperblock::Io(errno)) => Err(RecoveryError::Io { path, offset: 0, errno }),
        Err(bad @ (BadSuperblock::Fork(_) | BadSuperblock::Format(_))) => Err(RecoveryError::Superblock { path, bad }),
        // Formatting writes the superblock last: without one, and without traces of use, it simply did not finish.
        Ok(None) | Err(BadSuperblock::Lost) if !was_used(disk)? => Err(RecoveryError::Unformatted { directory: disk.directory() }),
        Ok(None) | Err(BadSuperblock::Lost) => Err(RecoveryError::Superblock { path, bad: BadSuperblock::Lost }),
    }
}

fn was_used<D: Disk>(disk: &D) -> Result<bool, RecoveryError> {
    for name in disk.list().map_err(|e| io(disk, superblock::FILE_NAME, 0, e))? {
        let used = match slot_of(&name) {
            Some(_) => segment_was_used(disk, &name).map_err(|e| io(disk, &name, 0, e))?,
            None => snapshot::zxid_of(&name).is_some(),
        };
        if used {
            return Ok(true);
        }
    }
    Ok(false)
}

fn segment_was_used<D: Disk>(disk: &D, name: &str) -> Result<bool, Errno> {
    let Some(file) = disk.open(name)? else { return Ok(false) };
    let mut blocks = AlignedBuf::with_capacity(2 * BLOCK_BYTES);
    if disk.len(&file)? < blocks.len() as u64 {
        return Ok(false);
    }
    disk.read_at(&file, 0, &mut blocks)?;
    Ok(SegmentHeader::decode(&blocks[..BLOCK_BYTES]).is_some() || LocalHeader::decode(&blocks[BLOCK_BYTES..]).is_some())
}

/// What the header blocks of all slots say.
struct Slots {
    /// The segments with the highest sequence numbers that follow each other without a gap.
    run: Vec<SegmentHeader>,
    blank: Vec<u32>,
    /// No intact header, though there is something in the file.
    unreadable: Vec<u32>,
    generation: u64,
}

impl Slots {
    fn read<D: Disk>(disk: &D, superblock: &Superblock) -> Result<Slots, RecoveryError> {
        assert!(superblock.slots <= SLOTS_MAX);
        let mut slots = Slots { run: Vec::new(), blank: Vec::new(), unreadable: Vec::new(), generation: 0 };
        for slot in 0..superblock.slots {
            slots.read_one(disk, superblock, slot)?;
        }
        slots.run.sort_unstable_by_key(|header| header.sequence);
        if let Some(pair) = slots.run.windows(2).find(|pair| pair[0].sequence == pair[1].sequence) {
            return Err(corrupt(disk, pair[1].slot, 0, pair[1].base.zxid, "two segments have the same sequence number"));
        }
        let gap = slots.run.windows(2).rposition(|pair| pair[0].sequence + 1 != pair[1].sequence);
        let older = slots.run.drain(..gap.map_or(0, |at| at + 1));
        slots.blank.extend(older.map(|header| header.slot));
        Ok(slots)
    }

    fn read_one<D: Disk>(&mut self, disk: &D, superblock: &Superblock, slot: u32) -> Result<(), RecoveryError> {
        let name = file_name(slot);
        let opened = SegmentReader::open(disk, slot, superblock.segment_bytes).map_err(|e| io(disk, &name, 0, e))?;
        let Some(mut reader) = opened else {
            return Err(corrupt(disk, slot, 0, 0, "the file is missing or has the wrong length"));
        };
        let blocks = reader.view(0, 2 * BLOCK_BYTES).map_err(|fault| judge(disk, slot, 0, fault))?;
        match SegmentHeader::decode(&blocks[..BLOCK_BYTES]) {
            Some(header) if header.cluster != superblock.cluster || header.server != superblock.server => {
                return Err(RecoveryError::Foreign { path: disk.path(&name), what: "another server" });
            }
            Some(header) if header.slot != slot => {
                return Err(RecoveryError::Foreign { path: disk.path(&name), what: "another slot: it was renamed or copied" });
            }
            Some(header) => {
                self.generation = self.generation.max(header.generation);
                self.run.push(header);
            }
            None if blocks.iter().all(|byte| *byte == 0) => self.blank.push(slot),
            None => self.unreadable.push(slot),
        }
        Ok(())
    }
}

/// Snapshot files in the directory, oldest first.
struct Snapshots {
    zxids: Vec<u64>,
}

impl Snapshots {
    fn list<D: Disk>(disk: &D, superblock: &Superblock) -> Result<Snapshots, RecoveryError> {
        let names = disk.list().map_err(|e| io(disk, superblock::FILE_NAME, 0, e))?;
        let mut zxids: Vec<u64> = names.iter().filter_map(|name| snapshot::zxid_of(name)).collect();
        zxids.extend(superblock.snapshot.map(|pointer| pointer.position.zxid));
        zxids.sort_unstable();
        zxids.dedup();
        Ok(Snapshots { zxids })
    }
}

struct Start {
    snapshot: Option<SnapshotPointer>,
    first_segment: usize,
    fell_back: Option<(String, BadSnapshot)>,
}

/// The newest snapshot that is good and that the log continues: the superblock's, else an older one, else none at all if
/// the log still reaches back to the beginning.
fn choose_start<D: Disk>(disk: &D, superblock: &Superblock, slots: &Slots, files: &Snapshots) -> Result<Start, RecoveryError> {
    let Some(pointer) = superblock.snapshot else {
        let start = Start { snapshot: None, first_segment: 0, fell_back: None };
        return match slots.run.first() {
            Some(first) if first.base != Position::default() => Err(gap(disk, slots, first)),
            _ => Ok(start),
        };
    };
    let bad = match verify(disk, superblock, pointer.position.zxid) {
        Ok(found) if found == pointer => {
            let first_segment = reaching(slots, pointer.position.zxid).ok_or_else(|| lost_log(disk, slots, pointer.position.zxid))?;
            return Ok(Start { snapshot: Some(pointer), first_segment, fell_back: None });
        }
        Ok(_) => BadSnapshot::Other,
        Err(bad) => bad,
    };
    let path = disk.path(&pointer.file_name());
    if let BadSnapshot::Format(_) = bad {
        return Err(RecoveryError::Newer { path });
    }
    let older = files.zxids.iter().rev().filter(|zxid| **zxid < pointer.position.zxid);
    for zxid in older {
        if let (Some(first_segment), Ok(found)) = (reaching(slots, *zxid), verify(disk, superblock, *zxid)) {
            return Ok(Start { snapshot: Some(found), first_segment, fell_back: Some((path, bad)) });
        }
    }
    match slots.run.first() {
        Some(first) if first.base == Position::default() => Ok(Start { snapshot: None, first_segment: 0, fell_back: Some((path, bad)) }),
        _ => Err(RecoveryError::Snapshot { path, bad }),
    }
}

fn verify<D: Disk>(disk: &D, superblock: &Superblock, zxid: u64) -> Result<SnapshotPointer, BadSnapshot> {
    let found = snapshot::read(disk, &snapshot::file_name(zxid), superblock.cluster, |_| (), |_| ())?;
    if found.position.zxid == zxid { Ok(found) } else { Err(BadSnapshot::Header) }
}

/// The segment in which the batch after `zxid` is, or would be.
fn reaching(slots: &Slots, zxid: u64) -> Option<usize> {
    slots.run.iter().rposition(|header| header.base.zxid <= zxid)
}

fn gap<D: Disk>(disk: &D, slots: &Slots, first: &SegmentHeader) -> RecoveryError {
    let slot = slots.unreadable.first().copied().unwrap_or(first.slot);
    corrupt(disk, slot, 0, first.base.zxid, "the log between the snapshot and this segment is missing or unreadable")
}

fn lost_log<D: Disk>(disk: &D, slots: &Slots, zxid: u64) -> RecoveryError {
    match slots.run.first() {
        Some(first) => gap(disk, slots, first),
        None => {
            let slot = slots.unreadable.first().copied().unwrap_or(0);
            corrupt(disk, slot, 0, zxid, "the log that the snapshot was cut from is missing or unreadable")
        }
    }
}

struct Log {
    tail: Position,
    end: u64,
    marked: bool,
    since: Since,
    cut: Option<(String, u64)>,
}

/// Follows checksums and chain from the first segment needed to the end of the last one.
fn scan_log<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    run: &[SegmentHeader],
    snapshot: Option<SnapshotPointer>,
) -> Result<Log, RecoveryError> {
    let mut log = Log { tail: Position::default(), end: FIRST_FRAME, marked: true, since: Since::default(), cut: None };
    let floor = snapshot.map_or(Position::default(), |s| s.position);
    for (index, header) in run.iter().enumerate() {
        let slot = header.slot;
        let opened = SegmentReader::open(disk, slot, superblock.segment_bytes).map_err(|e| io(disk, &file_name(slot), 0, e))?;
        let mut reader = opened.expect("its header was just read");
        let mut walk = Walk::new(*header);
        check_floor(disk, header, walk.place(), walk.position, floor)?;
        let end = loop {
            match walk.next(&mut reader).map_err(|fault| judge(disk, slot, walk.position.zxid, fault))? {
                Step::End(end) => break end,
                Step::Batch(batch, frame) => {
                    if batch.first_zxid > floor.zxid {
                        log.since.add(&batch, frame.len() as u64);
                    } else if batch.last_zxid > floor.zxid {
                        return Err(corrupt(disk, slot, walk.offset, floor.zxid, "the snapshot was cut inside this batch"));
                    }
                    check_floor(disk, header, walk.place(), walk.position, floor)?;
                }
            }
        };
        judge_end(disk, &mut reader, &walk, run.get(index + 1), slot)?;
        (log.tail, log.end, log.marked) = (walk.position, walk.offset, walk.marked);
        let torn = index + 1 == run.len() && matches!(end, End::Torn | End::Garbage);
        log.cut = torn.then(|| (disk.path(&file_name(slot)), walk.offset));
    }
    match run.last() {
        Some(last) if log.tail.zxid < floor.zxid => {
            Err(corrupt(disk, last.slot, log.end, log.tail.zxid, "the log ends before the snapshot"))
        }
        _ => Ok(log),
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
    next: Option<&SegmentHeader>,
    slot: u32,
) -> Result<(), RecoveryError> {
    let after = walk.position.zxid;
    let evidence = match next {
        Some(next) if next.base == walk.position => return Ok(()),
        Some(_) => return Err(corrupt(disk, slot, walk.offset, after, "the next segment continues a batch that is not here")),
        None => walk.evidence(reader).map_err(|fault| judge(disk, slot, after, fault))?,
    };
    if evidence > walk.place() {
        return Err(corrupt(disk, slot, walk.offset, after, "a later frame says that what was here was durable"));
    }
    Ok(())
}

/// A slot whose header is gone is blank if the header was torn while the slot was taken into use: then nothing of that use
/// is in it. Frames that belong behind the end of the log prove damage.
fn refuse_hidden_frames<D: Disk>(
    disk: &D,
    superblock: &Superblock,
    slot: u32,
    run: &[SegmentHeader],
    tail_zxid: u64,
) -> Result<(), RecoveryError> {
    let opened = SegmentReader::open(disk, slot, superblock.segment_bytes).map_err(|e| io(disk, &file_name(slot), 0, e))?;
    let mut reader = opened.expect("its first blocks were just read");
    let last = run.last().map_or(0, |header| header.sequence);
    let mut hidden = false;
    any_headers(&mut reader, |local, _| hidden |= local.at.sequence > last).map_err(|fault| judge(disk, slot, tail_zxid, fault))?;
    if hidden {
        return Err(corrupt(disk, slot, 0, tail_zxid, "the segment's header is unreadable, and there are batches behind it"));
    }
    Ok(())
}
