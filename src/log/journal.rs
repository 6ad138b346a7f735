//! The Journal: the brain of the log while the server runs. Batches go in, writes come out; completions go in, and only
//! they make anything durable.
//!
//! ```text
//! append(batch) ── stamps the local header ──> Write ──> written(Ok) ──> Durable(position)
//!          └── no room: Write(header of the next segment) ──> written(Ok) ──> Write(the batch)
//! idle for 5 ms ──> Write(mark): the next start knows that the last batch was durable
//! snapshot_written ──> Background(WriteSuperblock), once our own log reaches as far ──> older segments may be reused
//! promise ──> Background(WriteSuperblock) ──> Promised
//! truncate ── nothing is written: the next append begins a segment that goes on from the cut
//! install ──> Background(WriteSuperblock): another snapshot and none of the old log ──> Installed
//! ```
//! One write is in flight at most. Refuses to retry anything: a failed write ends the process. Has no clock and reads nothing.

use super::Job;
use super::disk::Errno;
use super::feed::ReaderMap;
use super::recovery::Recovered;
use super::segment::{FIRST_FRAME, LocalHeader, Place, SegmentHeader, file_name};
use super::snapshot::SnapshotPointer;
use super::space::{LogConfig, Space};
use super::superblock::{Promise, Superblock};
use crate::limits::BLOCK_BYTES;
use crate::wire::aligned::AlignedBuf;
use crate::wire::batch::{Batch, Position};
use std::sync::Arc;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// Names one write until its completion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpId(pub u64);

/// Bytes to be written, whole blocks at a block boundary of memory and file.
#[derive(Clone)]
pub enum Frame {
    Batch(Arc<Batch>),
    /// A segment header or a mark.
    Block(Arc<AlignedBuf>),
}

impl Frame {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Frame::Batch(batch) => batch.frame(),
            Frame::Block(block) => block,
        }
    }
}

/// A disk operation that failed; the process ends with the exit code for it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{file}: writing at byte {offset} failed: {errno}")]
pub struct Failure {
    pub file: String,
    pub offset: u64,
    pub errno: Errno,
}

/// What the loop has to do.
pub enum Effect {
    /// Write the frame to the slot's file, durably (O_DSYNC), then call [`Journal::written`]. A short write is an error.
    Write { op: OpId, slot: u32, offset: u64, frame: Frame },
    /// Every batch up to this one is on the medium.
    Durable(Position),
    /// Run [`Job::run`] on a thread where nothing slower waits, then call [`Journal::background_done`].
    Background(Job),
    /// The promise is on the medium: it may be acted upon.
    Promised(Promise),
    /// The snapshot is this server's history now; [`Journal::appended`] and [`Journal::durable`] are its position.
    Installed(SnapshotPointer),
    /// End the process: nothing that depends on this disk may be said any more.
    Fatal(Failure),
}

enum What {
    /// A segment header; the batch follows.
    Header(Arc<Batch>),
    Batch,
    Mark,
}

/// The write under way.
struct Flight {
    op: OpId,
    what: What,
    slot: u32,
    offset: u64,
    /// The log was cut or replaced meanwhile: what it writes is no part of it.
    void: bool,
}

/// See the module.
pub struct Journal {
    space: Space,
    config: LogConfig,
    /// Where the next frame goes in the current segment.
    end: u64,
    appended: Position,
    durable: Position,
    flight: Option<Flight>,
    next_op: u64,
    /// Since when the last batch has been durable without any frame saying so.
    unmarked_since_ms: Option<u64>,
    now_ms: u64,
    failed: bool,
}

impl Journal {
    /// `seed`: random bits of this start, never shown to anybody; they salt the segments.
    pub fn new(recovered: &Recovered, config: LogConfig, seed: u128) -> Journal {
        Journal {
            space: Space::new(recovered, config, seed),
            config,
            end: recovered.end,
            appended: recovered.tail,
            durable: recovered.tail,
            flight: None,
            next_op: 0,
            unmarked_since_ms: (!recovered.marked).then_some(0),
            now_ms: 0,
            failed: false,
        }
    }

    /// The last batch that is on the medium.
    pub fn durable(&self) -> Position {
        self.durable
    }

    /// The last batch given to [`Journal::append`].
    pub fn appended(&self) -> Position {
        self.appended
    }

    /// The superblock on the medium.
    pub fn superblock(&self) -> &Superblock {
        self.space.superblock()
    }

    /// Bytes of the largest frame that fits a segment.
    pub fn frame_bytes_max(&self) -> u64 {
        self.space.segment_bytes() - 2 * BLOCK
    }

    /// The oldest position from which [`super::feed::read`] can go on.
    pub fn log_base(&self) -> Position {
        self.space.base().unwrap_or(self.appended)
    }

    /// The log as it is now, for [`super::feed::read`] on another thread.
    pub fn reader_map(&self) -> ReaderMap {
        self.space.reader_map(self.durable)
    }

    /// Keeps the batches after this zxid for a peer that lags, as long as no more than `LogConfig::slots_for_peers` segments
    /// are needed and the disk has room for them. Never stops the log: when there is no other slot, the oldest goes.
    pub fn retain(&mut self, after: Option<u64>) {
        self.space.retain_for_peers(after);
    }

    /// Whether a batch of any size may be appended: no write is in flight, the log is not being replaced, and there is room.
    pub fn ready(&self) -> bool {
        let free = !self.failed && self.flight.is_none() && !self.space.switching();
        free && (self.space.available() > 0 || self.fits(self.frame_bytes_max()))
    }

    /// A frame fits if a mark fits behind it.
    fn fits(&self, frame_bytes: u64) -> bool {
        self.space.current().is_some() && self.end + frame_bytes + BLOCK <= self.space.segment_bytes()
    }

    /// Whether disk space is short: requests that make the tree grow are to be refused. Goes away by itself.
    pub fn space_low(&self) -> bool {
        self.space.low()
    }

    /// When [`Journal::tick`] has something to do, in the caller's clock.
    pub fn deadline_ms(&self) -> Option<u64> {
        let mark = self.unmarked_since_ms.filter(|_| self.flight.is_none()).map(|since| since + self.config.mark_idle_ms);
        [mark, self.space.retry_at_ms(self.now_ms)].into_iter().flatten().min()
    }

    /// Stamps the local header and starts the write. Call only when [`Journal::ready`]; the batch must follow
    /// [`Journal::appended`] and its frame must not be longer than [`Journal::frame_bytes_max`].
    pub fn append(&mut self, mut batch: Batch, out: &mut Vec<Effect>) -> Arc<Batch> {
        assert!(self.ready(), "the caller waits for a free write slot");
        let header = *batch.header();
        assert_eq!(header.prev_chain, self.appended.chain, "a batch continues the one before it");
        assert!(header.first_zxid > self.appended.zxid && header.cluster == self.space.superblock().cluster);
        let frame_bytes = batch.frame().len() as u64;
        assert!(frame_bytes <= self.frame_bytes_max(), "prepare refuses what does not fit");
        let rotates = !self.fits(frame_bytes);
        let segment = if rotates { self.rotate() } else { *self.space.current().expect("it fits") };
        // With one write in flight everything before a frame is durable when it is issued.
        let here = Place { sequence: segment.sequence, offset: self.end };
        LocalHeader::new(&segment, self.end, header.bytes, here).stamp(&mut batch);
        self.space.note(self.appended, self.end);
        let batch = Arc::new(batch);
        self.appended = batch.position();
        self.space.count(&header, frame_bytes);
        self.unmarked_since_ms = None;
        if rotates {
            let block = Frame::Block(Arc::new(segment.block()));
            self.issue(What::Header(batch.clone()), &segment, 0, block, out);
            self.space.pump(self.durable.zxid, self.now_ms, out);
        } else {
            self.issue(What::Batch, &segment, self.end, Frame::Batch(batch.clone()), out);
        }
        batch
    }

    fn rotate(&mut self) -> SegmentHeader {
        self.end = FIRST_FRAME;
        self.space.take(self.appended)
    }

    fn issue(&mut self, what: What, segment: &SegmentHeader, offset: u64, frame: Frame, out: &mut Vec<Effect>) {
        assert!(self.flight.is_none(), "one write in flight");
        let op = OpId(self.next_op);
        self.next_op += 1;
        if offset > 0 {
            assert_eq!(offset, self.end);
            self.end += frame.bytes().len() as u64;
            assert!(self.end <= self.space.segment_bytes());
        }
        self.flight = Some(Flight { op, what, slot: segment.slot, offset, void: false });
        out.push(Effect::Write { op, slot: segment.slot, offset, frame });
    }

    /// The write `op` ended. Only this makes batches durable.
    pub fn written(&mut self, op: OpId, result: Result<(), Errno>, now_ms: u64, out: &mut Vec<Effect>) {
        self.now_ms = now_ms;
        let Flight { op: expected, what, slot, offset, void } = self.flight.take().expect("a write is in flight");
        assert_eq!(op, expected);
        if let Err(errno) = result
            && !crate::mutant!(M16)
        {
            return self.fail(Failure { file: file_name(slot), offset, errno }, out);
        }
        match what {
            _ if void => self.space.pump(self.durable.zxid, now_ms, out),
            What::Header(batch) => {
                self.space.begun();
                let segment = *self.space.current().expect("it was just begun");
                self.issue(What::Batch, &segment, self.end, Frame::Batch(batch), out);
            }
            What::Mark => self.unmarked_since_ms = None,
            What::Batch => {
                self.durable = self.appended;
                self.unmarked_since_ms = Some(now_ms);
                out.push(Effect::Durable(self.durable));
                self.space.pump(self.durable.zxid, now_ms, out);
            }
        }
    }

    /// Cuts the log back to the batch end `to`, which is one of this log's and not before the snapshot: batches behind it
    /// were never committed. Takes effect at once, but on the medium only with the first segment header that is written
    /// after it: until then a crash brings the longer log back, of which nothing may have been built upon. A write that is
    /// in flight is waited for, and not reported durable.
    pub fn truncate(&mut self, to: Position, out: &mut Vec<Effect>) {
        assert!(!self.space.switching(), "the log is being replaced");
        if self.failed || to == self.appended {
            return;
        }
        assert!(to.zxid < self.appended.zxid && to.zxid <= self.durable.zxid, "at most the batch in flight is not durable");
        assert!(to.zxid != self.durable.zxid || to == self.durable, "a batch of this log");
        self.space.truncate(to);
        (self.appended, self.durable) = (to, to);
        self.abandon_flight();
        self.space.pump(self.durable.zxid, self.now_ms, out);
    }

    /// What is being written belongs to the log no more, and there is no batch that a mark could vouch for.
    fn abandon_flight(&mut self) {
        self.unmarked_since_ms = None;
        if let Some(flight) = &mut self.flight {
            flight.void = true;
        }
    }

    /// Binds this server. Reported by [`Effect::Promised`] when it is on the medium, at once if it is there already; a
    /// promise that is replaced before its turn came is never reported. The epoch never goes back, and the cluster changes
    /// only while there is no history: no batch, no snapshot. [`Journal::ready`] is false while it does.
    pub fn promise(&mut self, promise: Promise, out: &mut Vec<Effect>) {
        if self.failed {
            return;
        }
        let empty = self.appended == Position::default() && self.flight.is_none() && self.space.without_snapshot();
        if self.space.promise(promise, empty) {
            out.push(Effect::Promised(promise));
        }
        self.space.pump(self.durable.zxid, self.now_ms, out);
    }

    /// Whether the file of this snapshot may be written, as `IncomingSnapshot` does: it is ahead of our own, and no file of
    /// its name is being removed. Otherwise ask again later, or install the one that is there.
    pub fn receivable(&self, pointer: &SnapshotPointer) -> bool {
        !self.failed && self.space.receivable(pointer)
    }

    /// Makes a snapshot that came from a peer, complete and verified, this server's history, instead of its whole log. In
    /// one step: the superblock names the snapshot and says that no segment so far counts. Nothing can be appended until
    /// [`Effect::Installed`], nothing that is in flight is reported durable. It must not be behind what this server knows
    /// to be committed. A snapshot of our own that is under way ends as usual and is dropped.
    pub fn install(&mut self, pointer: SnapshotPointer, out: &mut Vec<Effect>) {
        if self.failed {
            return;
        }
        self.space.install(pointer);
        self.abandon_flight();
        self.space.pump(self.durable.zxid, self.now_ms, out);
    }

    fn fail(&mut self, failure: Failure, out: &mut Vec<Effect>) {
        self.failed = true;
        out.push(Effect::Fatal(failure));
    }

    /// Time passes: a mark after a pause, and background work that was refused is tried again. Call once after
    /// [`Journal::new`] to start the first jobs, then at [`Journal::deadline_ms`].
    pub fn tick(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        self.now_ms = now_ms;
        if self.failed {
            return;
        }
        self.space.pump(self.durable.zxid, now_ms, out);
        let idle = self.unmarked_since_ms.is_some_and(|since| now_ms >= since + self.config.mark_idle_ms);
        if idle && self.flight.is_none() {
            let segment = *self.space.current().expect("a batch is in it");
            let here = Place { sequence: segment.sequence, offset: self.end };
            let mark = LocalHeader::new(&segment, self.end, 0, here).mark();
            self.issue(What::Mark, &segment, self.end, Frame::Block(Arc::new(mark)), out);
        }
    }

    /// The job of the last [`Effect::Background`] ended.
    pub fn background_done(&mut self, result: Result<(), Errno>, now_ms: u64, out: &mut Vec<Effect>) {
        self.now_ms = now_ms;
        let switched = match self.space.job_done(result, now_ms) {
            Err(failure) => return self.fail(failure, out),
            Ok(_) if self.failed => return,
            Ok(switched) => switched,
        };
        out.extend(switched.promised.map(Effect::Promised));
        if let Some(pointer) = switched.installed {
            (self.appended, self.durable) = (pointer.position, pointer.position);
            out.push(Effect::Installed(pointer));
        }
        self.space.pump(self.durable.zxid, now_ms, out);
    }

    /// Whether a snapshot is due and none is under way.
    pub fn wants_snapshot(&self) -> bool {
        !self.failed && self.durable.zxid > self.space.floor() && self.space.wants_snapshot(self.now_ms)
    }

    /// A shard has cut its state at a committed batch end that is after [`Journal::superblock`]'s snapshot.
    pub fn snapshot_started(&mut self) {
        self.space.snapshot_started();
    }

    /// The snapshot under way was broken off and its file removed: the State that was walked is to be replaced.
    pub fn snapshot_cancelled(&mut self) {
        self.space.snapshot_cancelled();
    }

    /// The snapshot's file ended: complete, synced and read back (see `SnapshotFile::finish`), or failed. No room is not
    /// fatal; anything else is.
    pub fn snapshot_written(&mut self, result: Result<SnapshotPointer, Errno>, now_ms: u64, out: &mut Vec<Effect>) {
        self.now_ms = now_ms;
        match result {
            Ok(pointer) => self.space.snapshot_written(pointer),
            Err(errno) if errno.is_full() => self.space.snapshot_refused(now_ms),
            Err(errno) => {
                let file = "snapshot".to_string();
                return self.fail(Failure { file, offset: 0, errno }, out);
            }
        }
        self.space.pump(self.durable.zxid, now_ms, out);
    }
}
