//! Where the next frames can go: which slots are blank, which segments the snapshot has made superfluous, when the next
//! snapshot is due, and the background jobs that keep it so. One job at a time; the loop runs it and says how it ended.
//! Refuses to reuse a segment before what makes it superfluous is on the medium: a superblock, or the header of the
//! segment that replaces what was cut off.

use super::disk::Errno;
use super::feed::ReaderMap;
use super::follow::Since;
use super::recovery::Recovered;
use super::scan::Segment;
use super::segment::{SLOTS_MAX, SegmentHeader};
use super::snapshot::SnapshotPointer;
use super::superblock::{Promise, Superblock};
use super::{Effect, Failure, Job};
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
    /// Up to so many segment files are made to keep what lagging peers still need; see `Journal::retain`.
    pub slots_for_peers: u32,
    /// Bytes of a new segment that are written in one job. A promise waits for one job at most.
    pub prepare_bytes: u64,
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
            slots_for_peers: 16,
            prepare_bytes: 4 << 20,
            snapshot_payload_bytes: 64 << 20,
            snapshot_txns: 1_000_000,
            snapshots_retained: 3,
            mark_idle_ms: 5,
            retry_ms: 2_000,
        }
    }
}

/// What a superblock that is on the medium now has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Switched {
    pub promised: Option<Promise>,
    pub installed: Option<SnapshotPointer>,
}

pub(super) struct Space {
    config: LogConfig,
    seed: u128,
    /// As it is on the medium.
    superblock: Superblock,
    /// Oldest first; the last one is being written.
    segments: VecDeque<Segment>,
    /// The last segment takes no more frames: it was truncated, and what is behind the cut stays.
    sealed: bool,
    /// Slots of segments that were cut off. Until the header of what replaces them is on the medium they are still what a
    /// start would find, so nothing may touch them.
    cut: Vec<u32>,
    /// Sequence number of the next segment if there is none.
    sequence: u64,
    blank: BTreeSet<u32>,
    generation: u64,
    job: Option<Job>,
    /// How much of the next slot's file is ready; the superblock does not count it yet.
    prepared: u64,
    /// Asked for and not on the medium yet.
    promise: Option<Promise>,
    install: Option<SnapshotPointer>,
    /// Peers still need the batches after this zxid.
    retained: Option<u64>,
    /// A complete snapshot of our own that the superblock does not name yet.
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
            segments: recovered.segments.iter().cloned().collect(),
            sealed: false,
            cut: Vec::new(),
            sequence: 1,
            blank: recovered.blank.iter().copied().collect(),
            generation: recovered.generation,
            job: None,
            prepared: 0,
            promise: None,
            install: None,
            retained: None,
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
        self.segments.back().filter(|_| !self.sealed).map(|segment| &segment.header)
    }

    /// The last batch before the oldest segment.
    pub fn base(&self) -> Option<Position> {
        self.segments.front().map(|segment| segment.header.base)
    }

    /// Zxid of the superblock's snapshot.
    pub fn floor(&self) -> u64 {
        self.superblock.snapshot.map_or(0, |s| s.position.zxid)
    }

    /// Slots that may be taken now: blank ones and segments that lie wholly before the snapshot. Counts no further than
    /// anyone asks.
    pub fn available(&self) -> usize {
        self.before(self.floor())
    }

    /// Blank slots and segments that hold nothing after `zxid`.
    fn before(&self, zxid: u64) -> usize {
        let superfluous = self.segments.iter().skip(1).take(READY_SLOTS).take_while(|next| next.header.base.zxid <= zxid);
        self.blank.len() + superfluous.count()
    }

    /// The next segment: a blank slot, else the oldest that loading does not need, so that history is kept as long as there
    /// is room.
    pub fn take(&mut self, base: Position) -> SegmentHeader {
        assert!(self.available() > 0, "the journal is not ready");
        let slot = self.blank.pop_first().unwrap_or_else(|| self.segments.pop_front().expect("available").header.slot);
        self.generation += 1;
        let mut salted = [0; 24];
        salted[..16].copy_from_slice(&self.seed.to_le_bytes());
        salted[16..].copy_from_slice(&self.generation.to_le_bytes());
        let last = self.segments.back().map(|last| last.header);
        let header = SegmentHeader {
            cluster: self.superblock.cluster,
            server: self.superblock.server,
            sequence: last.map_or(self.sequence, |last| last.sequence + 1),
            generation: self.generation,
            salt: xxh3_64(&salted),
            base,
            previous: last.map_or(0, |last| last.generation),
            slot,
        };
        self.segments.push_back(Segment::new(header));
        self.sealed = false;
        header
    }

    /// The header of the segment taken last is on the medium: it is the end of the log now, whatever was cut off before.
    pub fn begun(&mut self) {
        self.blank.extend(self.cut.drain(..));
    }

    /// The log ends with the batch `to` from now on.
    pub fn truncate(&mut self, to: Position) {
        assert!(to.zxid >= self.floor(), "what a snapshot holds was committed");
        assert!(self.incoming.is_none_or(|pointer| pointer.position.zxid <= to.zxid), "a snapshot holds what was committed");
        while let Some(last) = self.segments.pop_back_if(|last| last.header.base.zxid >= to.zxid) {
            assert!(last.header.base.zxid > to.zxid || last.header.base == to, "a batch of this log");
            self.cut.push(last.header.slot);
            self.sequence = last.header.sequence;
        }
        self.sealed = true;
    }

    /// The frame at `offset` of the current segment follows the batch `after`.
    pub fn note(&mut self, after: Position, offset: u64) {
        self.segments.back_mut().expect("a segment is being written").note(after, offset);
    }

    pub fn reader_map(&self, durable: Position) -> ReaderMap {
        ReaderMap { segments: self.segments.iter().cloned().collect(), segment_bytes: self.segment_bytes(), durable }
    }

    /// See `Journal::retain`.
    pub fn retain_for_peers(&mut self, after: Option<u64>) {
        self.retained = after;
    }

    /// A batch goes into the log.
    pub fn count(&mut self, batch: &Header, frame_bytes: u64) {
        self.since.add(batch, frame_bytes);
    }

    /// Whether it is time to cut one. Not while files are to be removed: one of them might have the new one's name.
    pub fn wants_snapshot(&self, now_ms: u64) -> bool {
        let refused = self.snapshot_refused && now_ms < self.retry_at_ms;
        let removing = !self.remove.is_empty() || matches!(self.job, Some(Job::RemoveSnapshot { .. }));
        if self.before_cut.is_some() || self.install.is_some() || refused || removing || self.since.txns == 0 {
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
        self.snapshot_refused = false;
        match self.install {
            None if pointer.position.zxid > self.floor() => self.incoming = Some(pointer),
            _ => self.overtaken(pointer),
        }
    }

    /// A snapshot of our own is of no use any more: a newer one came from a peer.
    fn overtaken(&mut self, pointer: SnapshotPointer) {
        self.before_cut = None;
        let names = [self.install, self.superblock.snapshot].map(|named| named.map(|p| p.position.zxid));
        if !names.contains(&Some(pointer.position.zxid)) {
            self.remove.push_back(pointer.position.zxid);
        }
    }

    /// See `Journal::receivable`.
    pub fn receivable(&self, pointer: &SnapshotPointer) -> bool {
        let zxid = pointer.position.zxid;
        let named_like_ours = self.incoming.is_some_and(|own| own.position.zxid == zxid);
        zxid > self.floor() && !named_like_ours && !self.remove.contains(&zxid) && self.job != Some(Job::RemoveSnapshot { zxid })
    }

    /// See `Journal::install`.
    pub fn install(&mut self, pointer: SnapshotPointer) {
        assert!(self.install.is_none(), "one at a time");
        assert!(pointer.position.zxid >= self.floor(), "a server never goes back behind its snapshot");
        self.install = Some(pointer);
    }

    /// See `Journal::promise`. True: it is on the medium already.
    pub fn promise(&mut self, promise: Promise, log_is_empty: bool) -> bool {
        let last = self.promise.unwrap_or(self.superblock.promise());
        assert!(promise.epoch >= last.epoch, "a promise is never taken back");
        assert!(promise.cluster == last.cluster || log_is_empty, "a history belongs to one ensemble");
        if self.promise.is_none() && !matches!(self.job, Some(Job::WriteSuperblock(_))) && promise == last {
            return true;
        }
        self.promise = Some(promise);
        false
    }

    /// Whether the log is about to be another one: nothing can be appended meanwhile.
    pub fn switching(&self) -> bool {
        self.install.is_some() || self.promise.is_some_and(|promise| promise.cluster != self.superblock.cluster)
    }

    /// Whether there has never been a snapshot and none is under way.
    pub fn without_snapshot(&self) -> bool {
        self.superblock.snapshot.is_none() && self.incoming.is_none() && self.install.is_none() && self.before_cut.is_none()
    }

    /// What the snapshot would have made superfluous is still needed.
    pub fn snapshot_cancelled(&mut self) {
        let before = self.before_cut.take().expect("it was started");
        self.since.payload_bytes += before.payload_bytes;
        self.since.frame_bytes += before.frame_bytes;
        self.since.txns += before.txns;
    }

    /// The file could not be written for want of room: the older snapshots give way, and it is tried again later.
    pub fn snapshot_refused(&mut self, now_ms: u64) {
        self.snapshot_cancelled();
        self.overdue = true;
        self.snapshot_refused = true;
        self.retry_at_ms = now_ms + self.config.retry_ms;
        self.retain(1);
    }

    pub fn low(&self) -> bool {
        self.snapshot_refused || (self.segment_refused && self.available() < READY_SLOTS)
    }

    /// When something that was refused is to be tried again.
    pub fn retry_at_ms(&self, now_ms: u64) -> Option<u64> {
        let waits = (self.segment_refused || self.snapshot_refused) && self.retry_at_ms > now_ms;
        waits.then_some(self.retry_at_ms)
    }

    /// Starts the next job, if one is due and none is under way.
    pub fn pump(&mut self, durable_zxid: u64, now_ms: u64, out: &mut Vec<Effect>) {
        if self.job.is_none() {
            self.job = self.next_job(durable_zxid, now_ms);
            out.extend(self.job.map(Effect::Background));
        }
    }

    fn next_job(&mut self, durable_zxid: u64, now_ms: u64) -> Option<Job> {
        let arrived = self.incoming.filter(|pointer| pointer.position.zxid <= durable_zxid && self.install.is_none());
        let prepared = self.prepared == self.segment_bytes();
        if prepared || arrived.is_some() || self.install.is_some() || self.promise.is_some() {
            let slots = self.superblock.slots + u32::from(prepared);
            let snapshot = self.install.or(arrived).or(self.superblock.snapshot);
            let next = self.superblock.successor().promising(self.promise.unwrap_or(self.superblock.promise()));
            let mut log_floor = self.superblock.log_floor;
            if self.switching() {
                // Above every segment there is, and above every floor there was.
                self.generation += 1;
                log_floor = if crate::mutant!(M33) { log_floor } else { self.generation };
            }
            return Some(Job::WriteSuperblock(Superblock { slots, snapshot, log_floor, ..next }));
        }
        if let Some(zxid) = self.remove.pop_front() {
            return Some(Job::RemoveSnapshot { zxid });
        }
        let slot = self.superblock.slots;
        // What was cut off is free as soon as a segment begins, for which one slot is needed.
        let few_before = |zxid| self.before(zxid) == 0 || self.before(zxid) + self.cut.len() < READY_SLOTS;
        let kept = self.retained.map_or(self.floor(), |after| after.min(self.floor()));
        let for_peers = slot < self.config.slots_for_peers && few_before(kept);
        let few = slot < self.config.slots || few_before(self.floor()) || for_peers || self.prepared > 0;
        let may = slot < SLOTS_MAX && !(self.segment_refused && now_ms < self.retry_at_ms);
        (few && may).then(|| {
            let (bytes, from) = (self.segment_bytes(), self.prepared);
            Job::PrepareSegment { slot, bytes, from, to: bytes.min(from + self.config.prepare_bytes) }
        })
    }

    /// The job under way ended. Err: the process must end.
    pub fn job_done(&mut self, result: Result<(), Errno>, now_ms: u64) -> Result<Switched, Failure> {
        let job = self.job.take().expect("a job is under way");
        match (job, result) {
            (Job::PrepareSegment { to, .. }, Ok(())) => {
                self.segment_refused = false;
                self.prepared = to;
            }
            (Job::PrepareSegment { .. }, Err(errno)) if errno.is_full() => {
                self.segment_refused = true;
                self.prepared = 0;
                self.retry_at_ms = now_ms + self.config.retry_ms;
            }
            (Job::WriteSuperblock(written), Ok(())) => return Ok(self.switch(written)),
            (Job::RemoveSnapshot { .. }, Ok(())) => {}
            (_, Err(errno)) => return Err(Failure { file: job.file_name(), offset: 0, errno }),
        }
        Ok(Switched::default())
    }

    fn switch(&mut self, written: Superblock) -> Switched {
        assert_eq!(written.sequence, self.superblock.sequence + 1);
        let before = std::mem::replace(&mut self.superblock, written);
        if written.slots > before.slots {
            self.blank.insert(before.slots);
            self.prepared = 0;
        }
        if written.log_floor > before.log_floor {
            self.discard_log();
        }
        let installed = self.install.take_if(|pointer| written.log_floor > before.log_floor && written.snapshot == Some(*pointer));
        if let Some(pointer) = installed {
            self.since = Since::default();
            if let Some(own) = self.incoming.take() {
                self.overtaken(own);
            }
            self.named(pointer, 1);
        } else if let Some(pointer) = written.snapshot.filter(|new| Some(*new) != before.snapshot) {
            assert_eq!(self.incoming.take(), Some(pointer));
            self.before_cut = None;
            self.named(pointer, self.config.snapshots_retained);
        }
        let asked = self.promise.take_if(|promise| *promise == written.promise());
        let promised = asked.or(Some(written.promise()).filter(|promise| *promise != before.promise()));
        Switched { promised, installed }
    }

    /// The superblock names a new snapshot.
    fn named(&mut self, pointer: SnapshotPointer, count: usize) {
        self.overdue = false;
        self.snapshots.retain(|zxid| *zxid != pointer.position.zxid);
        self.snapshots.push_back(pointer.position.zxid);
        self.retain(count);
    }

    /// All segments are below the floor: they are nothing any more.
    fn discard_log(&mut self) {
        self.blank.extend(self.segments.drain(..).map(|segment| segment.header.slot));
        self.begun();
        self.sealed = false;
        self.sequence = 1;
    }

    fn retain(&mut self, count: usize) {
        while self.snapshots.len() > count {
            self.remove.extend(self.snapshots.pop_front());
        }
    }
}
