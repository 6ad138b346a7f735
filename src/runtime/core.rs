//! What the threads of one server share: how to reach each core, how many clients there are, whether clients are served.
//! A core is reached by its ring if the caller has one too, else by its bell; rare messages go through its mailbox.
//! Refuses to carry requests and transactions: those have rings of their own.

use super::links::{Link, Links};
use super::listener::Admission;
use super::mesh::Sleep;
use super::ring::Ring;
use super::sys::Bell;
use crate::admin::{ConnectionStats, Lists, Replication};
use crate::log::disk::Errno;
use crate::log::snapshot::SnapshotPointer;
use crate::pipeline::message::ConnId;
use crate::pipeline::replica::ShardFigures;
use crate::tree::State;
use crate::wire::batch::{Batch, Position};
use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Rare messages to a core.
pub enum Mail {
    /// Accept clients on this listener.
    Serve(RawFd),
    /// A connection that another core accepted.
    Adopt(OwnedFd),
    /// The text for a four-letter word.
    Answer(ConnId, String),
    /// Say how you are, with the details that one four-letter word needs.
    Report { to: mpsc::Sender<CoreReport>, word: [u8; 4] },
    /// Write a snapshot of your State, once it has come at least this far.
    Snapshot { from_zxid: u64, cluster: u128 },
    /// If you still walk, leave off: the snapshot is not wanted any more.
    CancelSnapshot,
    /// Close all client connections, then say so: another State comes.
    Evict,
    /// This is your State now, at this batch end.
    Swap(Box<State>, Position),
    /// For the pipeline.
    Pipeline(PipelineMail),
    /// Take nothing new; finish what is under way.
    Stop,
    /// Leave the loop.
    Exit,
}

/// Rare messages to the core that runs the pipeline.
pub enum PipelineMail {
    /// Every core has its State: the log may be written.
    Begin,
    /// Links come about from now on.
    Links(Links),
    /// One has. It may come before the message above.
    Link(Link),
    /// The Journal's background job ended.
    JobDone(Result<(), Errno>),
    /// Our own snapshot's file is complete, or failed.
    SnapshotWritten(Result<SnapshotPointer, Errno>),
    /// The walk, or its file, was broken off as it was asked for.
    SnapshotCancelled,
    /// See `NodeEffect::Feed`.
    Fed { token: u64, batches: Option<Vec<Batch>> },
    /// See `NodeEffect::ReadSnapshot`.
    SnapshotRead { peer: u16, pointer: SnapshotPointer, offset: u64, bytes: Option<Vec<u8>> },
    /// See `NodeEffect::WriteSnapshot`. `end`: where the next piece begins; None: it could not be stored.
    SnapshotWrote { pointer: SnapshotPointer, end: Option<u64> },
    /// A peer's snapshot is complete and verified.
    SnapshotReceived(SnapshotPointer),
    /// A core has closed its client connections.
    Evicted,
    /// The State for one core, from the snapshot that was installed.
    StateLoaded { core: usize, state: Box<State> },
    /// A core has taken its new State.
    Swapped,
}

/// What one core knows about itself, for operators.
#[derive(Clone, Debug, Default)]
pub struct CoreReport {
    pub core: usize,
    pub figures: ShardFigures,
    pub zxid: u64,
    pub nodes: u64,
    pub ephemerals: u64,
    pub data_bytes: u64,
    pub sessions: u64,
    pub watches: u64,
    pub data_watches: u64,
    pub watched_paths: u64,
    pub watching_connections: u64,
    pub connections: Vec<ConnectionStats>,
    /// As far as this core knows them: sessions and their nodes are told by the pipeline's.
    pub lists: Lists,
    /// Of a member of an ensemble, from the pipeline's core.
    pub replication: Option<Replication>,
}

/// How others reach one core's loop.
pub struct Core {
    pub sleep: Sleep,
    pub bell: Arc<Bell>,
    /// Whether anybody watches anything there.
    pub watching: AtomicBool,
    ring: OnceLock<RawFd>,
    mail: Mutex<Vec<Mail>>,
}

impl Core {
    pub fn new() -> io::Result<Core> {
        Ok(Core {
            sleep: Sleep::default(),
            bell: Arc::new(Bell::new()?),
            watching: AtomicBool::new(false),
            ring: OnceLock::new(),
            mail: Mutex::default(),
        })
    }

    /// The core's thread has made its ring.
    pub fn set_ring(&self, ring: RawFd) {
        self.ring.set(ring).expect("a core has one ring");
    }

    /// Wakes the core, if it sleeps, with the caller's ring. To be called after something was published for it.
    pub fn wake(&self, with: &mut Ring) {
        if self.sleep.claim() {
            match self.ring.get() {
                Some(ring) => with.wake(*ring),
                None => self.bell.ring(),
            }
        }
    }

    /// Leaves a message and makes sure that it is read soon.
    pub fn post(&self, mail: Mail) {
        self.mail.lock().expect("no panic under this lock").push(mail);
        self.bell.ring();
    }

    /// Everything that was posted, in order.
    pub fn take_mail(&self) -> Vec<Mail> {
        std::mem::take(&mut *self.mail.lock().expect("no panic under this lock"))
    }
}

/// A reading of both clocks, once per turn.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Since this process started. Never goes back.
    pub ms: u64,
    /// Since 1970.
    pub wall_ms: i64,
}

/// One server's threads.
pub struct Server {
    pub cores: Vec<Core>,
    /// Which core runs the pipeline: the first, or one behind those that serve clients.
    pub pipeline: usize,
    /// How many of the cores, from the first, serve clients.
    pub shards: usize,
    pub admission: Admission,
    /// There is a leader, and its epoch is committed here: clients are served.
    pub serving: AtomicBool,
    /// Requests in progress on all shards; kept only while there is a limit.
    pub outstanding: AtomicU64,
    started: Instant,
}

impl Server {
    /// `shards` cores for clients, and one more for the pipeline if it is `dedicated`.
    pub fn new(shards: usize, dedicated: bool) -> io::Result<Server> {
        let count = shards + usize::from(dedicated);
        Ok(Server {
            cores: (0..count).map(|_| Core::new()).collect::<io::Result<_>>()?,
            pipeline: if dedicated { shards } else { 0 },
            shards,
            admission: Admission::new(shards),
            serving: AtomicBool::new(false),
            outstanding: AtomicU64::new(0),
            started: Instant::now(),
        })
    }

    pub fn now(&self) -> Now {
        // A wall clock before 1970 is a machine without a clock: 0 is as good as anything.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { ms: self.started.elapsed().as_millis() as u64, wall_ms: wall.as_millis() as i64 }
    }

    /// The core that runs the pipeline.
    pub fn pipeline_core(&self) -> &Core {
        &self.cores[self.pipeline]
    }

    pub fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Acquire)
    }

    /// Posts to the core that runs the pipeline.
    pub fn post_pipeline(&self, mail: PipelineMail) {
        self.cores[self.pipeline].post(Mail::Pipeline(mail));
    }

    /// Posts to every core.
    pub fn post_all(&self, mail: impl Fn() -> Mail) {
        self.cores.iter().for_each(|core| core.post(mail()));
    }
}
