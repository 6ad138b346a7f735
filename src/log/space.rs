//! Where the next frames can go: which slots are blank, which segments the snapshot has made superfluous, when the next
//! snapshot is due, and the background jobs that keep it so. One job at a time; the loop runs it and says how it ended.
//! Refuses to reuse a segment before the superblock that makes it superfluous is on the medium.

use super::disk::{Disk, Errno};
use super::recovery::{Recovered, Since};
use super::segment::{self, SLOTS_MAX, SegmentHeader};
use super::snapshot::{self, SnapshotPointer};
use super::superblock::{COPIES, FILE_NAME, Superblock};
use super::{Effect, Failure};
use crate::wire::batch::{Header, Position};
use std::collections::{BTreeSet, VecDeque};
use xxhash_rust::xxh3::xxh3_64;

/// Slots that are kept ready for the next rotations.
const READY_SLOTS: usize = 2;
/// A log of many small, padded frames is cut short when it is this many times longer than its payload may be.
const PADDING_FACTOR: u64 = 8;

/// What a user may choose. Sizes of segments are fixed when the directory is formatted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogConfig {
    /// Segment files to have in any case; more are made when needed. They hold the history that may be kept.
    pub slots: u32,
    /// A snapshot is due after this much payload, or as much as the last snapshot is long, whichever is more.
    pub snapshot_payload_bytes: u64,
    /// A snapshot is also due after this many transactions, as long as snapshots are shorter than the bytes above.
    pub snapshot_txns: u64,
    /// Complete snapshots to keep, at least 1.
    pub snapshots_retained: usize,
    /// Idle time after which a mark says that the last batch is durable.
    pub mark_idle_ms: u64,
    /// Pause before something that failed for want of room is tried again.
    pub retry_ms: u64,
}

impl Default for LogConfig {
    fn default() -> LogConfig {
        LogConfig {
            slots: 4,
            snapshot_payload_bytes: 64 << 20,
            snapshot_txns: 1_000_000,
            snapshots_retained: 3,
            mark_idle_ms: 5,
            retry_ms: 2_000,
        }
    }
}

/// Work for the background thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Job {
    /// Make the file of a new slot.
    PrepareSegment {
        slot: u32,
        bytes: u64,
    },
    WriteSuperblock(Superblock),
    RemoveSnapshot {
        zxid: u64,
    },
}

impl Job {
    /// Does it, start to end. May take as long as writing one segment.
    pub fn run<D: Disk>(&self, disk: &D) -> Result<(), Errno> {
        match self {
            Job::PrepareSegment { slot, bytes } => segment::prepare(disk, *slot, *bytes),
            Job::WriteSuperblock(superblock) => superblock.write(disk, COPIES - 1),
            Job::RemoveSnapshot { zxid } => {
                disk.remove(&snapshot::file_name(*zxid))?;
                disk.sync_names()
            }
        }
    }

    fn file_name(&self) -> String {
        match self {
            Job::PrepareSegment { slot, .. } => segment::file_name(*slot),
            Job::WriteSuperblock(_) => FILE_NAME.to_string(),
            Job::RemoveSnapshot { zxid } => snapshot::file_name(*zxid),
        }
    }
}

pub(super) struct Space {
    config: LogConfig,
    seed: u128,
    /// As it is on the medium.
    superblock: Superblock,
    /// Oldest first; the last one is being written.
    segments: VecDeque<SegmentHeader>,
    blank: BTreeSet<u32>,
    generation: u64,
    job: Option<Job>,
    /// A slot whose file is ready but which the superblock does not count yet.
    prepared: bool,
    /// A complete snapshot that the superblock does not name yet.
    incoming: Option<SnapshotPointer>,
    snapshots: VecDeque<u64>,
    remove: VecDeque<u64>,
    since: Since,
    /// What had been logged when the snapshot that is under way was cut.
    before_cut: Option<Since>,
    /// The last start had to do without the newest snapshot.
    overdue: bool,
    segment_refused: bool,
    snapshot_refused: bool,
    retry_at_ms: u64,
}

impl Space {
    pub fn new(recovered: &Recovered, config: LogConfig, seed: u128) -> Space {
        assert!(config.snapshots_retained > 0, "config checks it");
        Space {
            config,
            seed,
            superblock: recovered.superblock,
            segments: recovered.segments.iter().copied().collect(),
            blank: recovered.blank.iter().copied().collect(),
            generation: recovered.generation,
            job: None,
            prepared: false,
            incoming: None,
            snapshots: recovered.snapshots.iter().copied().collect(),
            remove: recovered.garbage.iter().copied().collect(),
            since: recovered.since,
            before_cut: None,
            overdue: recovered.fell_back.is_some(),
            segment_refused: false,
            snapshot_refused: false,
            retry_at_ms: 0,
        }
    }

    pub fn segment_bytes(&self) -> u64 {
        self.superblock.segment_bytes
    }

    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The segment being written.
    pub fn current(&self) -> Option<&SegmentHeader> {
        self.segments.back()
    }

    fn floor(&self) -> u64 {
        self.superblock.snapshot.map_or(0, |s| s.position.zxid)
    }

    /// Slots that may be taken now: blank ones and segments that lie wholly before the snapshot. Counts no further than
    /// anyone asks.
    pub fn available(&self) -> usize {
        let superfluous = self.segments.iter().skip(1).take(READY_SLOTS).take_while(|next| next.base.zxid <= self.floor());
        self.blank.len() + superfluous.count()
    }

    /// The next segment: a blank slot, else the oldest that nobody needs, so that history is kept as long as there is room.
    pub fn take(&mut self, base: Position) -> SegmentHeader {
        assert!(self.available() > 0, "the journal is not ready");
        let slot = self.blank.pop_first().unwrap_or_else(|| self.segments.pop_front().expect("available").slot);
        self.generation += 1;
        let mut salted = [0; 24];
        salted[..16].copy_from_slice(&self.seed.to_le_bytes());
        salted[16..].copy_from_slice(&self.generation.to_le_bytes());
        let header = SegmentHeader {
            cluster: self.superblock.cluster,
            server: self.superblock.server,
            sequence: self.segments.back().map_or(1, |last| last.sequence + 1),
            generation: self.generation,
            salt: xxh3_64(&salted),
            base,
            slot,
        };
        self.segments.push_back(header);
        header
    }

    /// A batch goes into the log.
    pub fn count(&mut self, batch: &Header, frame_bytes: u64) {
        self.since.add(batch, frame_bytes);
    }

    /// Whether it is time to cut one.
    pub fn wants_snapshot(&self, now_ms: u64) -> bool {
        let busy = self.before_cut.is_some() || (self.snapshot_refused && now_ms < self.retry_at_ms);
        if busy || self.since.txns == 0 {
            return false;
        }
        let last_bytes = self.superblock.snapshot.map_or(0, |s| s.bytes);
        let due_bytes = self.config.snapshot_payload_bytes.max(last_bytes);
        let small = last_bytes <= self.config.snapshot_payload_bytes;
        self.overdue
            || self.since.payload_bytes >= due_bytes
            || self.since.frame_bytes / PADDING_FACTOR >= due_bytes
            || (small && self.since.txns >= self.config.snapshot_txns)
            || (self.segment_refused && self.available() == 0)
    }

    pub fn snapshot_started(&mut self) {
        assert!(self.before_cut.is_none(), "never two snapshots at once");
        self.before_cut = Some(std::mem::take(&mut self.since));
    }

    /// The file is complete, synced and verified.
    pub fn snapshot_written(&mut self, pointer: SnapshotPointer) {
        assert!(self.before_cut.is_some() && self.incoming.is_none(), "it was started");
        assert!(pointer.position.zxid > self.floor(), "a snapshot moves forward");
        self.snapshot_refused = false;
        self.incoming = Some(pointer);
    }

    /// The file could not be written for want of room: the older snapshots give way, and it is tried again later.
    pub fn snapshot_refused(&mut self, now_ms: u64) {
        let before = self.before_cut.take().expect("it was started");
        self.since.payload_bytes += before.payload_bytes;
        self.since.frame_bytes += before.frame_bytes;
        self.since.txns += before.txns;
        self.overdue = true;
        self.snapshot_refused = true;
        self.retry_at_ms = now_ms + self.config.retry_ms;
        self.retain(1);
    }

    pub fn low(&self) -> bool {
        self.snapshot_refused || (self.segment_refused && self.available() < READY_SLOTS)
    }

    /// When something that was refused is to be tried again.
    pub fn retry_at_ms(&self) -> Option<u64> {
        (self.segment_refused || self.snapshot_refused).then_some(self.retry_at_ms)
    }

    /// Starts the next job, if one is due and none is under way.
    pub fn pump(&mut self, durable_zxid: u64, now_ms: u64, out: &mut Vec<Effect>) {
        if self.job.is_none() {
            self.job = self.next_job(durable_zxid, now_ms);
            out.extend(self.job.map(Effect::Background));
        }
    }

    fn next_job(&mut self, durable_zxid: u64, now_ms: u64) -> Option<Job> {
        let arrived = self.incoming.filter(|pointer| pointer.position.zxid <= durable_zxid);
        if self.prepared || arrived.is_some() {
            let slots = self.superblock.slots + u32::from(self.prepared);
            let snapshot = arrived.or(self.superblock.snapshot);
            return Some(Job::WriteSuperblock(Superblock { slots, snapshot, ..self.superblock.successor() }));
        }
        if let Some(zxid) = self.remove.pop_front() {
            return Some(Job::RemoveSnapshot { zxid });
        }
        let slot = self.superblock.slots;
        let few = slot < self.config.slots || self.available() < READY_SLOTS;
        let may = slot < SLOTS_MAX && !(self.segment_refused && now_ms < self.retry_at_ms);
        (few && may).then(|| Job::PrepareSegment { slot, bytes: self.segment_bytes() })
    }

    /// The job under way ended. Err: the process must end.
    pub fn job_done(&mut self, result: Result<(), Errno>, now_ms: u64) -> Result<(), Failure> {
        let job = self.job.take().expect("a job is under way");
        match (job, result) {
            (Job::PrepareSegment { .. }, Ok(())) => {
                self.segment_refused = false;
                self.prepared = true;
            }
            (Job::PrepareSegment { .. }, Err(errno)) if errno.is_full() => {
                self.segment_refused = true;
                self.retry_at_ms = now_ms + self.config.retry_ms;
            }
            (Job::WriteSuperblock(written), Ok(())) => self.switch(written),
            (Job::RemoveSnapshot { .. }, Ok(())) => {}
            (_, Err(errno)) => return Err(Failure { file: job.file_name(), offset: 0, errno }),
        }
        Ok(())
    }

    fn switch(&mut self, written: Superblock) {
        assert_eq!(written.sequence, self.superblock.sequence + 1);
        if written.slots > self.superblock.slots {
            self.blank.insert(self.superblock.slots);
            self.prepared = false;
        }
        let snapshot = written.snapshot.filter(|new| Some(*new) != self.superblock.snapshot);
        self.superblock = written;
        if let Some(pointer) = snapshot {
            assert_eq!(self.incoming.take(), Some(pointer));
            self.before_cut = None;
            self.overdue = false;
            self.snapshots.push_back(pointer.position.zxid);
            self.retain(self.config.snapshots_retained);
        }
    }

    fn retain(&mut self, count: usize) {
        while self.snapshots.len() > count {
            self.remove.extend(self.snapshots.pop_front());
        }
    }
}
