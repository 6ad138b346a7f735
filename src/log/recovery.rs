//! Start-up: from the files of a data directory to what this server knows and where its log ends. Reads everything that
//! is needed, judges it by the rule in `log`, and only then changes anything: cuts a torn tail, counts the start.
//!
//! ```text
//! inspect: superblock -> slots -> newest usable snapshot -> frames from there to the end -> is the end torn or damaged?
//! open:    inspect -> sync what was read -> cut -> superblock{boot + 1}
//! ```
//! Refuses to repair damage and to start behind it: a server without peers has nobody to ask.

use super::disk::{Disk, Errno};
use super::follow::{Since, follow, refuse_hidden_frames};
use super::scan::{FaultKind, ScanFault, Segment};
use super::segment::{LocalHeader, SegmentHeader, file_name, slot_of};
use super::slots::Slots;
use super::snapshot::{self, BadSnapshot, SnapshotPointer};
use super::superblock::{self, BadSuperblock, Promise, Superblock};
use crate::limits::BLOCK_BYTES;
use crate::wire::aligned::AlignedBuf;
use crate::wire::batch::{BadBatch, Position};

pub use super::format::{Format, SLOTS_AT_FORMAT, format};

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

/// What the data directory holds. Each shard may load its own State from it, on its own thread.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recovered {
    /// As it is on disk now; after [`open`] its `boot` is this start's number.
    pub superblock: Superblock,
    /// The end of the history: the last batch in the log. A server with peers learns from them how much of it counts.
    pub tail: Position,
    /// Everything up to this zxid is known to be committed: the snapshot's, or the highest watermark in the log.
    pub committed: u64,
    /// Where loading starts; None: with an empty state.
    pub snapshot: Option<SnapshotPointer>,
    /// A torn tail that was cut off: file and offset. Nothing acknowledged was in it.
    pub cut: Option<(String, u64)>,
    /// The superblock's snapshot could not be used, an older one is: what was wrong with it.
    pub fell_back: Option<(String, BadSnapshot)>,
    /// Every segment of the log in order, the one being written last.
    pub(super) segments: Vec<Segment>,
    positions: Vec<Position>,
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

impl Recovered {
    /// Names this run of this data directory in the origins of transactions: two runs never have the same name, not even
    /// when the disk was replaced in between and starts are counted from one again.
    pub fn run(&self) -> u32 {
        let mut bytes = [0; 20];
        bytes[..16].copy_from_slice(&self.superblock.incarnation.to_le_bytes());
        bytes[16..].copy_from_slice(&self.superblock.boot.to_le_bytes());
        if crate::mutant!(M46) { self.superblock.boot } else { xxhash_rust::xxh3::xxh3_64(&bytes) as u32 }
    }

    /// Whether something on the disk says that the last batch was durable.
    pub fn marked(&self) -> bool {
        self.marked
    }

    /// What this server has bound itself to.
    pub fn promise(&self) -> Promise {
        self.superblock.promise()
    }

    /// Every batch end that the log holds, oldest first; the first is the one that its oldest segment starts from. Goes
    /// back further than the snapshot where older segments are still there and good.
    pub fn positions(&self) -> &[Position] {
        &self.positions
    }
}

/// Reads the directory, makes sure that what was read is on the medium, cuts a torn tail and counts the start.
pub fn open<D: Disk>(disk: &D) -> Result<Recovered, RecoveryError> {
    settle(disk)?;
    let mut found = inspect(disk)?;
    if let Some(last) = found.segments.last() {
        let name = file_name(last.header.slot);
        cut_tail(disk, &name, found.cut.as_ref().map(|cut| cut.1)).map_err(|e| io(disk, &name, found.end, e))?;
    }
    let next = Superblock { boot: found.superblock.boot + 1, snapshot: found.snapshot, ..found.superblock.successor() };
    next.write(disk, found.spare).map_err(|e| io(disk, superblock::FILE_NAME, 0, e))?;
    found.superblock = next;
    Ok(found)
}

/// Reading proves nothing: a block may sit in a volatile cache, and after a sync that failed the next one says that all is
/// well though nothing was written. So everything is synced, and then what is read comes from the medium.
fn settle<D: Disk>(disk: &D) -> Result<(), RecoveryError> {
    if crate::mutant!(M32) {
        return Ok(());
    }
    for name in disk.list().map_err(|e| io(disk, "", 0, e))? {
        let synced = disk.open(&name).and_then(|file| match file {
            Some(file) => disk.sync(&file).and_then(|()| disk.forget_cache(&file)),
            None => Ok(()),
        });
        synced.map_err(|e| io(disk, &name, 0, e))?;
    }
    disk.sync_names().map_err(|e| io(disk, superblock::FILE_NAME, 0, e))
}

/// A torn frame loses its first block, so that no later write, torn itself, can complete it. That is enough because only
/// one frame is ever in flight.
fn cut_tail<D: Disk>(disk: &D, name: &str, cut: Option<u64>) -> Result<(), Errno> {
    let Some(offset) = cut else { return Ok(()) };
    let file = disk.open(name)?.ok_or(Errno::EIO)?;
    disk.write_at(&file, offset, &AlignedBuf::with_capacity(BLOCK_BYTES))?;
    disk.sync(&file)
}

/// Reads and judges the directory without changing anything.
pub fn inspect<D: Disk>(disk: &D) -> Result<Recovered, RecoveryError> {
    let (superblock, spare) = read_superblock(disk)?;
    let slots = Slots::read(disk, &superblock)?;
    let snapshots = Snapshots::list(disk, &superblock)?;
    let start = choose_start(disk, &superblock, &slots, &snapshots)?;
    let floor = start.snapshot.map_or(Position::default(), |s| s.position);
    let (older, needed) = slots.run.split_at(start.first_segment);
    let mut log = follow(disk, &superblock, needed, floor)?;
    for slot in &slots.unreadable {
        refuse_hidden_frames(disk, &superblock, *slot, slots.run.last(), log.tail.zxid)?;
    }
    let needed = log.segments.len();
    let given_up = log.reach_back(disk, &superblock, older);
    let mut blank = [slots.blank, slots.unreadable, given_up].concat();
    blank.sort_unstable();
    let known = superblock.snapshot.map_or(0, |s| s.position.zxid);
    Ok(Recovered {
        superblock,
        tail: log.tail,
        committed: log.committed.max(known).min(log.tail.zxid),
        snapshot: start.snapshot,
        cut: log.cut,
        fell_back: start.fell_back,
        first_segment: log.segments.len() - needed,
        segments: log.segments,
        positions: log.positions,
        blank,
        generation: slots.generation,
        end: log.end,
        marked: log.marked,
        since: log.since,
        snapshots: snapshots.zxids.iter().copied().filter(|zxid| *zxid <= floor.zxid).collect(),
        garbage: snapshots.zxids.iter().copied().filter(|zxid| *zxid > floor.zxid).collect(),
        spare,
    })
}

pub(super) fn io<D: Disk>(disk: &D, name: &str, offset: u64, errno: Errno) -> RecoveryError {
    RecoveryError::Io { path: disk.path(name), offset, errno }
}

pub(super) fn corrupt<D: Disk>(disk: &D, slot: u32, offset: u64, after: u64, why: &'static str) -> RecoveryError {
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

pub(super) fn read_superblock<D: Disk>(disk: &D) -> Result<(Superblock, usize), RecoveryError> {
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
            // A snapshot that came from a peer and replaced the whole log has none of its own yet.
            let alone = slots.run.is_empty() && superblock.log_floor > 0;
            let reaching = slots.reaching(pointer.position.zxid).or(alone.then_some(0));
            let first_segment = reaching.ok_or_else(|| lost_log(disk, slots, pointer.position.zxid))?;
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
        if let (Some(first_segment), Ok(found)) = (slots.reaching(*zxid), verify(disk, superblock, *zxid)) {
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
