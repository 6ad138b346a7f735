//! The part of a core's loop around the Node and the Journal: requests from all shards and messages of other servers in, one
//! log write at a time out, what is committed onto the commit ring, refusals back down. Runs on exactly one core.
//! Refuses to decide: the Node orders, the Journal places, this moves bytes between them.

mod cores;
mod ensemble;
mod standing;

use super::background::{Background, Task};
use super::commit_ring::CommitProducer;
use super::core::{Mail, Now, PipelineMail, Server};
use super::files::FileDisk;
use super::links::{Identity, Link};
use super::mesh::{ByteConsumer, SlotProducer};
use super::peers::Peers;
use super::ring::{Ring, Target};
use super::start::Milestone;
use crate::log::disk::Errno;
use crate::log::{Effect, Failure, Frame, Journal, OpId};
use crate::pipeline::message::{Down, Up};
use crate::pipeline::node::{Node, NodeEffect};
use crate::tree::State;
use crate::wire::batch::Batch;
use cores::{BEHIND_MS, Lane};
use ensemble::Installing;
use standing::Record;
use std::collections::VecDeque;
use std::fmt::Display;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::{Arc, mpsc};

/// Requests taken from one shard in one turn: preparing one takes about a microsecond.
const REQUESTS_PER_TURN: usize = 256;
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
    /// What handshakes with other servers say of this one: kept up to date here.
    pub introduction: Arc<Identity>,
    /// Told once when clients can be served first, and once when everything is written after a stop.
    pub milestones: mpsc::Sender<Milestone>,
}

/// What a server is by its settings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    Alone,
    Voter,
    Observer,
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
    /// A snapshot of our own is being walked or written.
    walking: bool,
    /// A peer's snapshot is taking the place of what the cores have.
    installing: Option<Installing>,
    /// Links with the other servers, once every core has its State; and links that came before they could be taken.
    peers: Option<Peers>,
    early: Vec<Link>,
    /// What handshakes say of this server.
    introduction: Arc<Identity>,
    /// This server has no peers.
    alone: bool,
    /// It follows without a vote.
    observes: bool,
    record: Record,
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
    pub fn new(ends: Ends, node: Node, journal: Journal, identity: (u32, u16), tick_ms: u64, role: Role) -> Pipeline {
        let Ends { server, commits, ups, downs, disk, background, introduction, milestones } = ends;
        // The snapshot is walked by a core that has no pipeline, if there is one.
        let snapshot_core = (0..server.cores.len()).rev().find(|core| *core != server.pipeline).unwrap_or(server.pipeline);
        Pipeline {
            node,
            journal,
            commits,
            ups,
            lanes: downs.into_iter().map(Lane::new).collect(),
            disk,
            background,
            milestones,
            identity,
            unpublished: VecDeque::new(),
            retired: VecDeque::new(),
            segments: Vec::new(),
            effects: Vec::new(),
            snapshot_core,
            walking: false,
            installing: None,
            peers: None,
            early: Vec::new(),
            introduction,
            alone: role == Role::Alone,
            observes: role == Role::Observer,
            record: Record::default(),
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
        self.take_news(state, now);
        if !self.stopping {
            self.take_requests(state, now);
        }
        self.tick(state, now);
        self.run_node_effects(ring, now);
        self.append(ring, now);
        self.node.flush(now.ms);
        self.run_node_effects(ring, now);
        self.keep_space(ring, now);
        self.keep_standing(now);
        self.hand_down(ring);
        self.nudge(ring, now);
        self.keep_links(ring, now);
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
        // A server of its own has nobody to keep in step with: its session clocks do.
        let due = now.ms >= self.next_tick_ms || !self.alone && now.ms >= self.node.deadline_ms();
        let stopped = self.stopping && self.alone;
        if due && self.begun && !stopped {
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
        if self.installing.is_some() {
            return;
        }
        let snapshot = self.journal.superblock().snapshot;
        self.node.log_kept(self.journal.log_base(), snapshot);
        // What is committed reaches every core; a follower's log may hold more.
        let from_zxid = self.journal.durable().zxid.min(self.node.committed());
        let floor = snapshot.map_or(0, |s| s.position.zxid);
        if !self.stopping && from_zxid > floor && self.node.serves() && self.journal.wants_snapshot() {
            self.journal.snapshot_started();
            self.walking = true;
            let cluster = self.journal.superblock().cluster;
            self.server.cores[self.snapshot_core].post(Mail::Snapshot { from_zxid, cluster });
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
                Effect::Installed(pointer) => self.begin_install(pointer),
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
                NodeEffect::Truncate(to) => {
                    self.journal.truncate(to, &mut self.effects);
                    self.run_effects(ring, now);
                }
                NodeEffect::Send { peer, message } => self.peers().send(peer, message),
                NodeEffect::Disconnect { peer, why } => self.peers().disconnect(peer, why),
                NodeEffect::Feed { after, token } => {
                    self.background.send(Task::Feed { log: self.journal.reader_map(), after, token });
                }
                NodeEffect::ReadSnapshot { peer, pointer, offset } => {
                    let cluster = self.journal.superblock().cluster;
                    self.background.send(Task::ReadSnapshot { peer, pointer, cluster, offset });
                }
                NodeEffect::WriteSnapshot { pointer, offset, bytes, last } => {
                    self.store_piece(pointer, offset, bytes, last, now);
                }
            }
        }
    }

    // ---- messages and the wait

    /// When each session expires, wall time.
    pub fn session_expiries(&self, now: Now) -> Vec<(i64, i64)> {
        let wall = |at_ms: u64| now.wall_ms + at_ms as i64 - now.ms as i64;
        self.node.session_expiries().into_iter().map(|(session, at_ms)| (session, wall(at_ms))).collect()
    }

    /// A message for the pipeline.
    pub fn mail(&mut self, ring: &mut Ring, mail: PipelineMail, now: Now) {
        match mail {
            PipelineMail::Begin => {
                self.begun = true;
                self.journal.tick(now.ms, &mut self.effects);
            }
            PipelineMail::JobDone(result) => self.journal.background_done(result, now.ms, &mut self.effects),
            PipelineMail::SnapshotWritten(result) => {
                self.walking = false;
                self.journal.snapshot_written(result, now.ms, &mut self.effects);
            }
            PipelineMail::SnapshotCancelled => {
                // It may have come to its end before.
                if std::mem::take(&mut self.walking) {
                    self.journal.snapshot_cancelled();
                }
            }
            other => self.ensemble_mail(other, now),
        }
        self.run_effects(ring, now);
        self.run_node_effects(ring, now);
    }

    /// Nothing new is taken any more.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.node.leave();
    }

    /// Whether requests wait in the rings, or news of peers.
    pub fn has_news(&self) -> bool {
        if self.peers.as_ref().is_some_and(Peers::has_news) {
            return true;
        }
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
        let node = (!self.alone && self.begun).then(|| self.node.deadline_ms());
        let node = node.map(|ms| if ms > now.ms { ms } else { now.ms + BEHIND_MS });
        let links = self.peers.as_ref().map(|peers| peers.deadline_ms().max(now.ms + 1));
        let deadlines = [Some(tick_ms), journal, node, links, (self.commits.held() > 0).then_some(self.nudge_ms)];
        let first = deadlines.into_iter().flatten().min().expect("the tick is always due some time");
        first.saturating_sub(now.ms)
    }

    /// While stopping: says so once when a leader has committed what it proposed and said farewell, and the log says that
    /// everything was durable.
    pub fn settle(&mut self) {
        let written = self.journal.ready() && self.journal.durable() == self.journal.appended();
        let quiet = self.journal.deadline_ms().is_none() || self.journal.space_low();
        if self.stopping && !self.settled && written && quiet && self.node.has_left() && self.unpublished.is_empty() {
            self.settled = true;
            // The stopping thread may have given up.
            let _ = self.milestones.send(Milestone::Settled);
        }
    }
}

/// A failed disk: nothing that depends on it may be said any more, not even a farewell to clients.
pub fn die(failure: &dyn Display) -> ! {
    eprintln!("falconer: {failure}. The process ends; nothing acknowledged is lost if the disk keeps what it has confirmed");
    std::process::exit(EXIT_DISK_FAILED)
}
