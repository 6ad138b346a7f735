//! The plain threads for work that blocks. One runs the Journal's jobs, one at a time: preparing segments in slices, writing
//! superblocks, removing files; a promise never waits for anything longer. One writes snapshot files, our own a bounded
//! number of chunks behind the walk, a peer's piece by piece. One reads for peers: old batches and pieces of our snapshot.
//! What is done is posted to the pipeline's core.
//! Refuses to decide what is due: the Journal and the Node do.

use super::core::{PipelineMail, Server};
use super::files::FileDisk;
use super::pipeline::die;
use crate::limits::{FEED_BYTES, SNAPSHOT_CHUNK_BYTES};
use crate::log::disk::{Disk, Errno};
use crate::log::feed::{self, FeedError, ReaderMap};
use crate::log::incoming::IncomingSnapshot;
use crate::log::outgoing::OutgoingSnapshots;
use crate::log::snapshot::{BadSnapshot, SnapshotFile, SnapshotPointer};
use crate::log::{Failure, Job};
use crate::wire::batch::{Batch, Position};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

/// Chunks that may wait to be written.
const CHUNKS_WAITING_MAX: usize = 8;

/// Work for the threads.
pub enum Task {
    Job(Job),
    /// A snapshot of our own cut here begins; its chunks follow.
    BeginSnapshot {
        position: Position,
        cluster: u128,
        flow: Arc<Flow>,
    },
    SnapshotChunk(Vec<u8>),
    EndSnapshot,
    /// The State that was walked is gone, or about to go: remove what was written.
    CancelSnapshot,
    /// The next piece of a peer's snapshot.
    WriteIncoming(Piece),
    /// Batches after this position, for a peer that lags.
    Feed {
        log: ReaderMap,
        after: Position,
        token: u64,
    },
    /// A piece of our snapshot, for a peer that has none of its history in our log.
    ReadSnapshot {
        peer: u16,
        pointer: SnapshotPointer,
        cluster: u128,
        offset: u64,
    },
}

/// A piece of a snapshot that comes from a peer.
pub struct Piece {
    pub pointer: SnapshotPointer,
    pub cluster: u128,
    pub offset: u64,
    pub bytes: Vec<u8>,
    pub last: bool,
}

/// Between the core that walks and the thread that writes: how far ahead the walk is, and whether it is in vain.
#[derive(Default)]
pub struct Flow {
    waiting: AtomicUsize,
    failed: AtomicBool,
}

impl Flow {
    /// Whether the walk may go on.
    pub fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < CHUNKS_WAITING_MAX
    }

    /// A chunk was sent.
    pub fn sent(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Writing has failed: the walk can stop.
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

/// Sends tasks to the threads. They end when the last of these is gone.
#[derive(Clone)]
pub struct Background {
    journal: mpsc::Sender<Task>,
    snapshots: mpsc::Sender<Task>,
    peers: mpsc::Sender<Task>,
}

impl Background {
    /// Starts the threads.
    pub fn start(disk: &Arc<FileDisk>, server: &Arc<Server>) -> std::io::Result<Background> {
        let spawn = |name| spawn(name, disk.clone(), server.clone());
        Ok(Background { journal: spawn("journal")?, snapshots: spawn("snapshots")?, peers: spawn("feed")? })
    }

    pub fn send(&self, task: Task) {
        let lane = match &task {
            Task::Job(_) => &self.journal,
            Task::Feed { .. } | Task::ReadSnapshot { .. } => &self.peers,
            _ => &self.snapshots,
        };
        lane.send(task).expect("the background threads end after the cores");
    }
}

fn spawn(name: &str, disk: Arc<FileDisk>, server: Arc<Server>) -> std::io::Result<mpsc::Sender<Task>> {
    let (sender, tasks) = mpsc::channel();
    thread::Builder::new().name(name.into()).spawn(move || {
        let mut worker = Worker { disk: &disk, own: None, incoming: None, outgoing: OutgoingSnapshots::default() };
        for task in tasks {
            if let Some(mail) = worker.run(task) {
                server.post_pipeline(mail);
            }
        }
    })?;
    Ok(sender)
}

struct Worker<'d> {
    disk: &'d FileDisk,
    own: Option<(SnapshotFile<'d, FileDisk>, Arc<Flow>)>,
    incoming: Option<IncomingSnapshot<'d, FileDisk>>,
    outgoing: OutgoingSnapshots,
}

impl<'d> Worker<'d> {
    /// Does the task; returns what the pipeline's core has to know.
    fn run(&mut self, task: Task) -> Option<PipelineMail> {
        match task {
            Task::Job(job) => return Some(PipelineMail::JobDone(job.run(self.disk))),
            Task::BeginSnapshot { position, cluster, flow } => match SnapshotFile::create(self.disk, cluster, position) {
                Ok(file) => self.own = Some((file, flow)),
                Err(errno) => return Some(failed(&flow, errno)),
            },
            Task::SnapshotChunk(chunk) => return self.write(&chunk),
            Task::EndSnapshot => return self.finish().map(PipelineMail::SnapshotWritten),
            Task::CancelSnapshot => return Some(self.cancel()),
            Task::WriteIncoming(piece) => return Some(self.write_incoming(&piece)),
            Task::Feed { log, after, token } => return Some(PipelineMail::Fed { token, batches: self.feed(&log, after) }),
            Task::ReadSnapshot { peer, pointer, cluster, offset } => {
                let bytes = self.read_snapshot(peer, &pointer, cluster, offset);
                return Some(PipelineMail::SnapshotRead { peer, pointer, offset, bytes });
            }
        }
        None
    }

    // ---- our own snapshots

    fn write(&mut self, chunk: &[u8]) -> Option<PipelineMail> {
        // After a failure the rest of the walk may still be under way.
        let (file, flow) = self.own.as_mut()?;
        flow.waiting.fetch_sub(1, Ordering::Relaxed);
        let errno = file.push(chunk).err()?;
        let (file, flow) = self.own.take().expect("it was there");
        // If even removing it fails, the next start does: the superblock does not name it.
        let _ = file.abandon();
        Some(failed(&flow, errno))
    }

    fn finish(&mut self) -> Option<Result<SnapshotPointer, Errno>> {
        let (file, _) = self.own.take()?;
        Some(file.finish().map_err(|bad| bad.errno()))
    }

    fn cancel(&mut self) -> PipelineMail {
        if let Some((file, _)) = self.own.take() {
            // As above.
            let _ = file.abandon();
        }
        PipelineMail::SnapshotCancelled
    }

    // ---- a peer's snapshot

    fn write_incoming(&mut self, piece: &Piece) -> PipelineMail {
        let pointer = piece.pointer;
        match self.store(piece) {
            Ok(end) if piece.last => self.verify(end),
            Ok(end) => PipelineMail::SnapshotWrote { pointer, end: Some(end) },
            Err(bad) => {
                self.refuse(bad, &pointer);
                PipelineMail::SnapshotWrote { pointer, end: None }
            }
        }
    }

    /// Where the next piece begins.
    fn store(&mut self, piece: &Piece) -> Result<u64, BadSnapshot> {
        if piece.offset == 0 {
            self.incoming = Some(IncomingSnapshot::create(self.disk, piece.cluster, piece.pointer)?);
        }
        let file = self.incoming.as_mut().filter(|file| file.pointer() == piece.pointer).ok_or(BadSnapshot::Misplaced(0))?;
        file.write(piece.offset, &piece.bytes)?;
        Ok(file.received())
    }

    fn verify(&mut self, end: u64) -> PipelineMail {
        let file = self.incoming.take().expect("a piece of it was just written");
        let pointer = file.pointer();
        match file.finish() {
            Ok(pointer) => PipelineMail::SnapshotReceived(pointer),
            Err(bad) => {
                tracing::warn!("the snapshot from the leader is not usable after {end} bytes: {bad}; it is fetched again");
                self.refuse(bad, &pointer);
                PipelineMail::SnapshotWrote { pointer, end: None }
            }
        }
    }

    /// What was stored so far is of no use. No room is a reason to try again later, another error of the disk is the end.
    fn refuse(&mut self, bad: BadSnapshot, pointer: &SnapshotPointer) {
        if let BadSnapshot::Io(errno) = bad
            && !errno.is_full()
        {
            die(&Failure { file: pointer.file_name(), offset: 0, errno });
        }
        if let Some(file) = self.incoming.take() {
            // If even removing it fails, the next start does: the superblock does not name it.
            let _ = file.abandon();
        }
    }

    // ---- for peers

    /// None: the log does not hold this position (any more), the peer needs a snapshot.
    fn feed(&self, log: &ReaderMap, after: Position) -> Option<Vec<Batch>> {
        match feed::read(self.disk, log, after, FEED_BYTES) {
            Ok(batches) => Some(batches),
            Err(FeedError::Gone) => None,
            Err(failed @ (FeedError::Io { .. } | FeedError::Corrupt { .. })) => die(&failed),
        }
    }

    /// None: a newer one has replaced it.
    fn read_snapshot(&mut self, peer: u16, pointer: &SnapshotPointer, cluster: u128, offset: u64) -> Option<Vec<u8>> {
        let mut bytes = vec![0; SNAPSHOT_CHUNK_BYTES];
        match self.outgoing.read(self.disk, cluster, peer, pointer, offset, &mut bytes) {
            Ok(len) => {
                bytes.truncate(len);
                Some(bytes)
            }
            Err(BadSnapshot::Missing) => None,
            Err(bad) => die(&format_args!("{}: {bad}, found at byte {offset} for server {peer}", self.disk.path(&pointer.file_name()))),
        }
    }
}

fn failed(flow: &Flow, errno: Errno) -> PipelineMail {
    flow.failed.store(true, Ordering::Relaxed);
    PipelineMail::SnapshotWritten(Err(errno))
}
