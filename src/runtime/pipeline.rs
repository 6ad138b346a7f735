//! The part of a core's loop around the Node and the Journal: requests from all shards in, one log write at a time out,
//! what is durable onto the commit ring, refusals back down. Runs on exactly one core.
//! Refuses to decide: the Node orders, the Journal places, this moves bytes between them.

use super::background::{Background, Task};
use super::commit_ring::CommitProducer;
use super::core::{Core, Mail, Now, Server};
use super::files::FileDisk;
use super::mesh::{ByteConsumer, SlotProducer};
use super::ring::{Ring, Target};
use super::start::Milestone;
use crate::limits::{COMMIT_RING_SLOTS, SHARDS_MAX};
use crate::log::disk::Errno;
use crate::log::{Effect, Failure, Frame, Journal, OpId};
use crate::pipeline::message::{Down, Up};
use crate::pipeline::node::{Node, NodeEffect};
use crate::tree::State;
use crate::wire::batch::Batch;
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};

/// Requests taken from one shard in one turn: preparing one takes about a microsecond.
const REQUESTS_PER_TURN: usize = 256;
/// A core that sleeps behind the others is woken after this, so that buffers come back.
const BEHIND_MS: u64 = 5;
/// Batches that every core has passed and that somebody still refers to: beyond this, the oldest are not waited for.
const RETIRED_MAX: usize = 64;
/// What did not fit into a ring is tried again after this.
const RETRY_MS: u64 = 1;
/// Exit code of a process whose disk has failed. Service managers rely on it.
pub const EXIT_DISK_FAILED: i32 = 4;

/// The pipeline's ends of the rings, one of each per core, and what it reaches others by.
pub struct Ends {
    pub server: Arc<Server>,
    pub commits: CommitProducer<Batch>,
    pub ups: Vec<ByteConsumer>,
    pub downs: Vec<SlotProducer<Down>>,
    pub disk: Arc<FileDisk>,
    pub background: Background,
    /// Told once when clients can be served, and once when everything is written after a stop.
    pub milestones: mpsc::Sender<Milestone>,
}

/// Answers that wait for room in a core's ring.
struct Lane {
    ring: SlotProducer<Down>,
    waiting: VecDeque<Down>,
}

/// See the module heading.
pub struct Pipeline {
    server: Arc<Server>,
    node: Node,
    journal: Journal,
    commits: CommitProducer<Batch>,
    ups: Vec<ByteConsumer>,
    lanes: Vec<Lane>,
    disk: Arc<FileDisk>,
    background: Background,
    milestones: mpsc::Sender<Milestone>,
    /// Boot and server number, by which origins of this run are told.
    identity: (u32, u16),
    /// Committed batches for which the commit ring had no room.
    unpublished: VecDeque<Arc<Batch>>,
    /// Batches that every core has passed and that something else still refers to.
    retired: VecDeque<Arc<Batch>>,
    /// By slot.
    segments: Vec<Option<File>>,
    effects: Vec<Effect>,
    snapshot_core: usize,
    next_tick_ms: u64,
    tick_ms: u64,
    nudge_ms: u64,
    /// Every core has its State.
    begun: bool,
    stopping: bool,
    settled: bool,
}

impl Pipeline {
    /// `identity`: (boot, server) as in the Node's configuration. `tick_ms`: how often session clocks are looked at.
    pub fn new(ends: Ends, node: Node, journal: Journal, identity: (u32, u16), tick_ms: u64) -> Pipeline {
        let Ends { server, commits, ups, downs, disk, background, milestones } = ends;
        // The snapshot is walked by a core that has no pipeline, if there is one.
        let snapshot_core = (0..server.cores.len()).rev().find(|core| *core != server.pipeline).unwrap_or(server.pipeline);
        Pipeline {
            node,
            journal,
            commits,
            ups,
            lanes: downs.into_iter().map(|ring| Lane { ring, waiting: VecDeque::new() }).collect(),
            disk,
            background,
            milestones,
            identity,
            unpublished: VecDeque::new(),
            retired: VecDeque::new(),
            segments: Vec::new(),
            effects: Vec::new(),
            snapshot_core,
            next_tick_ms: 0,
            tick_ms,
            nudge_ms: 0,
            begun: false,
            stopping: false,
            settled: false,
            server,
        }
    }

    // ---- the two halves of a turn

    /// First in a turn: log writes that have ended, and what they commit.
    pub fn complete_writes(&mut self, ring: &mut Ring, now: Now) {
        while let Some(written) = ring.next_written() {
            let result = if written.errno == 0 { Ok(()) } else { Err(Errno(written.errno)) };
            self.journal.written(OpId(written.op), result, now.ms, &mut self.effects);
            self.run_effects(ring, now);
        }
        self.publish_waiting(ring);
    }

    /// After this core's requests were read: orders what has come up and starts the next write. `state` is this core's,
    /// with everything applied that was published.
    pub fn order(&mut self, ring: &mut Ring, state: &State, now: Now) {
        self.node.applied(state, now.ms, now.wall_ms);
        self.reclaim();
        if !self.stopping {
            self.take_requests(state, now);
        }
        self.tick(state, now);
        self.run_node_effects(ring, now);
        self.append(ring, now);
        self.node.flush(now.ms);
        self.run_node_effects(ring, now);
        self.keep_space(ring, now);
        self.hand_down(ring);
        self.nudge(ring, now);
    }

    fn take_requests(&mut self, state: &State, now: Now) {
        let Pipeline { node, ups, unpublished, .. } = self;
        if !unpublished.is_empty() {
            return;
        }
        for (shard, up) in ups.iter_mut().enumerate() {
            if !node.admits() {
                return;
            }
            up.drain(REQUESTS_PER_TURN, |record| {
                node.up(shard as u16, Up::decode(record), state, now.ms, now.wall_ms);
                node.admits()
            });
        }
    }

    fn tick(&mut self, state: &State, now: Now) {
        if now.ms >= self.next_tick_ms && self.begun && !self.stopping {
            self.next_tick_ms = now.ms + self.tick_ms;
            self.node.tick(state, now.ms, now.wall_ms);
        }
    }

    /// Gives the next batch to the Journal if it can take one.
    fn append(&mut self, ring: &mut Ring, now: Now) {
        while self.journal.ready()
            && let Some(batch) = self.node.next_batch()
        {
            let batch = self.journal.append(batch, &mut self.effects);
            self.node.log_took(batch, now.ms);
            self.run_effects(ring, now);
        }
    }

    /// Marks, snapshots, and whether the disk has room.
    fn keep_space(&mut self, ring: &mut Ring, now: Now) {
        if self.journal.deadline_ms().is_some_and(|deadline_ms| deadline_ms <= now.ms) {
            self.journal.tick(now.ms, &mut self.effects);
            self.run_effects(ring, now);
        }
        self.node.set_space_low(self.journal.space_low());
        let floor = self.journal.superblock().snapshot.map_or(0, |s| s.position.zxid);
        let durable = self.journal.durable().zxid;
        if !self.stopping && durable > floor && self.journal.wants_snapshot() {
            self.journal.snapshot_started();
            self.server.cores[self.snapshot_core].post(Mail::Snapshot { from_zxid: durable });
        }
    }

    // ---- effects

    fn run_effects(&mut self, ring: &mut Ring, now: Now) {
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Write { op, slot, offset, frame } => self.write(ring, op, slot, offset, frame),
                Effect::Durable(position) => {
                    self.node.durable(position, now.ms);
                    self.run_node_effects(ring, now);
                }
                Effect::Background(job) => self.background.send(Task::Job(job)),
                Effect::Promised(promise) => {
                    self.node.promised(promise, now.ms);
                    self.run_node_effects(ring, now);
                }
                Effect::Installed(_) => unreachable!("a server without peers installs no snapshot"),
                Effect::Fatal(failure) => die(&failure),
            }
        }
    }

    fn write(&mut self, ring: &mut Ring, op: OpId, slot: u32, offset: u64, frame: Frame) {
        let index = slot as usize;
        if index >= self.segments.len() {
            self.segments.resize_with(index + 1, || None);
        }
        if self.segments[index].is_none() {
            let opened = self.disk.segment(slot);
            let failure = |errno| Failure { file: crate::log::segment::file_name(slot), offset, errno };
            self.segments[index] = Some(opened.unwrap_or_else(|errno| die(&failure(errno))));
        }
        let file = self.segments[index].as_ref().expect("opened above").as_raw_fd();
        ring.write(op.0, Target { file, offset, dsync: true }, frame);
    }

    fn run_node_effects(&mut self, ring: &mut Ring, now: Now) {
        while let Some(effect) = self.node.next_effect() {
            match effect {
                NodeEffect::Publish(batch) => {
                    self.unpublished.push_back(batch);
                    self.publish_waiting(ring);
                }
                NodeEffect::Down { shard, message } => self.lanes[usize::from(shard)].waiting.push_back(message),
                NodeEffect::Promise(promise) => {
                    self.journal.promise(promise, &mut self.effects);
                    self.run_effects(ring, now);
                }
                NodeEffect::Send { .. }
                | NodeEffect::Disconnect { .. }
                | NodeEffect::Truncate(_)
                | NodeEffect::Feed { .. }
                | NodeEffect::ReadSnapshot { .. }
                | NodeEffect::WriteSnapshot { .. } => unreachable!("an ensemble of one has no peers"),
            }
        }
    }

    /// Publishes what there is room for. Answers go first: those that were given before a batch belong before its
    /// transactions, and a core that sees the batch must see them.
    fn publish_waiting(&mut self, ring: &mut Ring) {
        self.hand_down(ring);
        while self.lanes.iter().all(|lane| lane.waiting.is_empty())
            && let Some(batch) = self.unpublished.pop_front()
        {
            if let Err(batch) = self.commits.publish(batch.clone()) {
                self.unpublished.push_front(batch);
                return;
            }
            self.wake_concerned(ring, &batch);
        }
        if self.node.serves() && !self.server.is_serving() {
            self.server.serving.store(true, Ordering::Release);
            // The starting thread waits for this unless it has given up.
            let _ = self.milestones.send(Milestone::Serving);
        }
    }

    // ---- other cores

    fn others(&self) -> impl Iterator<Item = (usize, &Core)> {
        self.server.cores.iter().enumerate().filter(|(core, _)| *core != self.server.pipeline)
    }

    /// Wakes cores that have a reply to give, or watches, or much to catch up with. The others come by themselves.
    fn wake_concerned(&self, ring: &mut Ring, batch: &Batch) {
        if self.server.cores.len() == 1 {
            return;
        }
        let mut origins = [false; SHARDS_MAX + 1];
        for txn in batch.txns() {
            if (txn.origin.boot.to_native(), txn.origin.server.to_native()) == self.identity {
                origins[usize::from(txn.origin.shard.to_native())] = true;
            }
        }
        for (index, core) in self.others() {
            let late = self.commits.behind(index) > COMMIT_RING_SLOTS as u64 / 2;
            if origins[index] || late || core.watching.load(Ordering::Relaxed) {
                core.wake(ring);
            }
        }
    }

    /// Wakes cores that have slept through commits for a while.
    fn nudge(&mut self, ring: &mut Ring, now: Now) {
        if now.ms < self.nudge_ms {
            return;
        }
        self.nudge_ms = now.ms + BEHIND_MS;
        for (index, core) in self.others() {
            if self.commits.behind(index) > 0 {
                core.wake(ring);
            }
        }
    }

    /// Moves answers into the rings of their cores.
    fn hand_down(&mut self, ring: &mut Ring) {
        for (core, lane) in self.lanes.iter_mut().enumerate() {
            if lane.waiting.is_empty() {
                continue;
            }
            while let Some(message) = lane.waiting.pop_front() {
                if let Err(message) = lane.ring.push(message) {
                    lane.waiting.push_front(message);
                    break;
                }
            }
            lane.ring.publish();
            if core != self.server.pipeline {
                self.server.cores[core].wake(ring);
            }
        }
    }

    /// Buffers of batches that every core has passed go back to the Node.
    fn reclaim(&mut self) {
        let Pipeline { commits, retired, node, .. } = self;
        commits.reclaim(|batch| retired.push_back(batch));
        for _ in 0..retired.len() {
            match Arc::try_unwrap(retired.pop_front().expect("counted")) {
                Ok(batch) => node.recycle(batch),
                Err(batch) => retired.push_back(batch),
            }
        }
        // What a slow peer still waits for is freed when it has been sent; others do not wait for that.
        let late = retired.len().saturating_sub(RETIRED_MAX);
        retired.drain(..late);
    }

    // ---- messages and the wait

    /// When each session expires, wall time.
    pub fn session_expiries(&self, now: Now) -> Vec<(i64, i64)> {
        let wall = |at_ms: u64| now.wall_ms + at_ms as i64 - now.ms as i64;
        self.node.session_expiries().into_iter().map(|(session, at_ms)| (session, wall(at_ms))).collect()
    }

    /// A message for the pipeline.
    pub fn mail(&mut self, ring: &mut Ring, mail: Mail, now: Now) {
        match mail {
            Mail::Begin => {
                self.begun = true;
                self.journal.tick(now.ms, &mut self.effects);
            }
            Mail::JobDone(result) => self.journal.background_done(result, now.ms, &mut self.effects),
            Mail::SnapshotWritten(result) => self.journal.snapshot_written(result, now.ms, &mut self.effects),
            Mail::Stop => self.stopping = true,
            _ => unreachable!("the loop gives other mail to the shard"),
        }
        self.run_effects(ring, now);
    }

    /// Whether requests wait in the rings.
    pub fn has_news(&self) -> bool {
        !self.stopping && self.node.admits() && self.unpublished.is_empty() && self.ups.iter().any(ByteConsumer::has_news)
    }

    /// How long this core can sleep if nothing happens, in ms.
    pub fn idle_ms(&self, now: Now) -> u64 {
        if !self.unpublished.is_empty() || self.lanes.iter().any(|lane| !lane.waiting.is_empty()) {
            return RETRY_MS;
        }
        // A deadline that has passed was acted upon in this turn: what it waits for now is a completion.
        let journal = self.journal.deadline_ms().map(|ms| if ms > now.ms { ms } else { now.ms + BEHIND_MS });
        // Until every core has its State there is nothing to look at; a message says when.
        let tick_ms = if self.begun { self.next_tick_ms } else { now.ms + self.tick_ms };
        let deadlines = [Some(tick_ms), journal, (self.commits.held() > 0).then_some(self.nudge_ms)];
        let first = deadlines.into_iter().flatten().min().expect("the tick is always due some time");
        first.saturating_sub(now.ms)
    }

    /// While stopping: says so once when everything proposed is committed and the log says that it was durable.
    pub fn settle(&mut self) {
        let written = self.journal.ready() && self.journal.durable() == self.journal.appended();
        let quiet = self.journal.deadline_ms().is_none() || self.journal.space_low();
        let proposed = self.node.is_settled();
        if self.stopping && !self.settled && written && quiet && proposed && self.unpublished.is_empty() {
            self.settled = true;
            // The stopping thread may have given up.
            let _ = self.milestones.send(Milestone::Settled);
        }
    }
}

/// A failed disk: nothing that depends on it may be said any more, not even a farewell to clients.
fn die(failure: &Failure) -> ! {
    eprintln!("falconer: {failure}. The process ends; nothing acknowledged is lost if the disk keeps what it has confirmed");
    std::process::exit(EXIT_DISK_FAILED)
}
