//! One running server in the simulator: its shards, Node and Journal as they ship, with the loops' few rules around them (a
//! shard takes its answers and applies what is published before it reads; the pipeline's shard does so before anything is
//! prepared). What reaches beyond the process comes out as [`Out`]. Refuses to touch the disk but for starting.

use super::disk::SimDisk;
use super::model::access::{self, SUPER};
use crate::limits::DISK_LAG_BYTES_MAX;
use crate::log::disk::Errno;
use crate::log::outgoing::OutgoingSnapshots;
use crate::log::recovery::{Recovered, RecoveryError};
use crate::log::snapshot::{BadSnapshot, SnapshotPointer};
use crate::log::{Effect, Frame, Job, Journal, LogConfig, OpId, Promise};
use crate::pipeline::auth::AuthConfig;
use crate::pipeline::message::{ConnId, Down, Up};
use crate::pipeline::node::{Node, NodeConfig, NodeEffect, WaitingConfig};
use crate::pipeline::prepare::PrepareConfig;
use crate::pipeline::replica::{Action, Replica, ReplicaConfig};
use crate::tree::State;
use crate::tree::snapshot::Loader;
use crate::wire::batch::{Batch, Position};
use crate::zab::message::Outgoing;
use crate::zab::positions::Positions;
use crate::zab::quorum::Ensemble;
use crate::zab::{Start, ZabConfig};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// How often shards report to the pipeline, and sessions are looked at.
const TICK_MS: u64 = 50;
/// Nodes per slice of a snapshot.
const SLICE_NODES: usize = 4;

/// The settings of a server that differ between runs.
#[derive(Clone, Debug)]
pub struct Settings {
    pub server: u16,
    pub ensemble: Ensemble,
    pub shards: usize,
    pub election_timeout_ms: u64,
    pub counter_max: u32,
    pub snapshot_txns: u64,
    pub linearizable_reads: bool,
    /// Little may wait anywhere.
    pub tight: bool,
    pub seed: u64,
}

/// What the world has to do for a process.
pub enum Out {
    Send {
        peer: u16,
        message: Outgoing,
    },
    Disconnect {
        peer: u16,
        why: &'static str,
    },
    Took(Arc<Batch>),
    Published(Arc<Batch>),
    Promised(Promise),
    Truncated(Position),
    Feed {
        after: Position,
        token: u64,
    },
    ReadSnapshot {
        peer: u16,
        pointer: SnapshotPointer,
        offset: u64,
    },
    WriteSnapshot {
        pointer: SnapshotPointer,
        offset: u64,
        bytes: Vec<u8>,
        last: bool,
    },
    Installed(SnapshotPointer),
    /// A snapshot was walked through: write its file.
    Snapshot {
        position: Position,
        chunks: Vec<Vec<u8>>,
    },
    /// Bytes for the client behind a connection; `close` ends it behind them.
    Client {
        shard: usize,
        conn: ConnId,
        bytes: Vec<u8>,
        close: bool,
    },
    /// The disk failed: the process ends.
    Died,
}

/// A write to the log that the disk has not confirmed.
pub struct Write {
    pub op: OpId,
    pub slot: u32,
    pub offset: u64,
    pub frame: Frame,
}

pub struct Shard {
    pub replica: Replica,
    /// Batches of `published` already applied, and where that has brought its State.
    applied: usize,
    position: Position,
    ring: VecDeque<Vec<u8>>,
    downs: VecDeque<Down>,
    /// What clients sent, by connection.
    pub inbox: VecDeque<(ConnId, Vec<u8>)>,
    next_tick_ms: u64,
    /// When its next turn is due, in us.
    pub turn_us: Option<u64>,
}

/// A snapshot that a shard cuts: as soon as it has applied so far.
struct Walk {
    from_zxid: u64,
    /// Where it was cut.
    position: Option<Position>,
    chunks: Vec<Vec<u8>>,
}

/// See the module heading.
pub struct Process {
    pub incarnation: u64,
    pub shards: Vec<Shard>,
    pub node: Node,
    pub journal: Journal,
    published: Vec<Arc<Batch>>,
    pub write: Option<Write>,
    /// The disk is at it.
    pub writing: bool,
    pub jobs: VecDeque<Job>,
    walk: Option<Walk>,
    /// A snapshot of our own is being walked or written.
    walking: bool,
    /// The snapshot that comes from the leader.
    pub incoming: Vec<u8>,
    /// It is this server's history by now, and the States are still those of before.
    installing: bool,
    pub outgoing: OutgoingSnapshots,
    pub inbox: BTreeMap<u16, Vec<u8>>,
    /// Connections to other servers, by generation.
    pub links: BTreeMap<u16, u64>,
    next_tick_ms: u64,
    /// When the pipeline's next turn is due, in us.
    pub turn_us: Option<u64>,
    pub outs: Vec<Out>,
}

impl Process {
    /// Starts on what recovery found; `State` is loaded for every shard up to what is known to be committed.
    pub fn start(settings: &Settings, disk: &SimDisk, found: &Recovered, incarnation: u64, now_ms: u64) -> Result<Process, RecoveryError> {
        let boot = found.run();
        let committed = found.committed;
        let known = found.positions().iter().copied().chain(found.snapshot.map(|s| s.position));
        let position = known.into_iter().find(|p| p.zxid == committed).expect("what is committed is a batch end");
        let shards = (0..settings.shards)
            .map(|k| {
                let replica = Replica::new(replica_config(settings, k as u16, boot), load(disk, found, committed)?);
                Ok(Shard {
                    replica,
                    applied: 0,
                    position,
                    ring: VecDeque::new(),
                    downs: VecDeque::new(),
                    inbox: VecDeque::new(),
                    next_tick_ms: 0,
                    turn_us: None,
                })
            })
            .collect::<Result<_, RecoveryError>>()?;
        let log = LogConfig { slots: 3, snapshot_payload_bytes: 1 << 30, snapshot_txns: settings.snapshot_txns, ..LogConfig::default() };
        let journal = Journal::new(found, log, u128::from(settings.seed) + u128::from(boot));
        let pending = found.pending(disk, committed)?;
        let start = Start {
            promise: found.promise(),
            positions: Positions::new(found.positions().iter().copied()),
            committed,
            pending: pending.into_iter().map(Arc::new).collect(),
            snapshot: found.snapshot,
        };
        let mut process = Process {
            incarnation,
            shards,
            node: Node::new(node_config(settings, boot), start, now_ms),
            journal,
            published: Vec::new(),
            write: None,
            writing: false,
            jobs: VecDeque::new(),
            walk: None,
            walking: false,
            incoming: Vec::new(),
            installing: false,
            outgoing: OutgoingSnapshots::default(),
            inbox: BTreeMap::new(),
            links: BTreeMap::new(),
            next_tick_ms: now_ms,
            turn_us: None,
            outs: Vec::new(),
        };
        let mut effects = Vec::new();
        process.journal.tick(now_ms, &mut effects);
        process.journal_effects(effects, now_ms);
        Ok(process)
    }

    // ---- a shard

    /// Takes answers and applies everything published, in this order: answers belong between transactions.
    fn drain(&mut self, k: usize, now_ms: u64, mut applied: impl FnMut(&State)) {
        let shard = &mut self.shards[k];
        shard.replica.begin_turn(now_ms);
        while let Some(message) = shard.downs.pop_front() {
            shard.replica.down(message);
        }
        while let Some(batch) = self.published.get(shard.applied) {
            shard.replica.apply(batch);
            shard.applied += 1;
            shard.position = batch.position();
            applied(shard.replica.state());
        }
    }

    /// Whether something waits for a shard's turn.
    pub fn has_news(&self, k: usize) -> bool {
        self.shards[k].applied < self.published.len() || !self.shards[k].downs.is_empty()
    }

    /// One turn of a shard. True: the pipeline has news.
    pub fn shard_turn(&mut self, k: usize, now_ms: u64, applied: impl FnMut(&State)) -> bool {
        self.drain(k, now_ms, applied);
        let shard = &mut self.shards[k];
        while let Some((conn, bytes)) = shard.inbox.pop_front() {
            shard.replica.receive(conn, &bytes);
        }
        if now_ms >= shard.next_tick_ms {
            shard.next_tick_ms = now_ms + TICK_MS;
            shard.replica.tick();
        }
        self.act(k);
        self.walk(k);
        !self.shards[k].ring.is_empty()
    }

    fn act(&mut self, k: usize) {
        let shard = &mut self.shards[k];
        shard.take_submits();
        shard.replica.resume();
        shard.take_submits();
        while let Some(action) = shard.replica.next_action() {
            let (conn, close) = match action {
                Action::Flush(conn) => (conn, false),
                Action::Close(conn) => (conn, true),
                Action::Pause(_) | Action::Resume(_) | Action::FourLetter(..) => continue,
            };
            let bytes = shard.replica.take_output(conn);
            self.outs.push(Out::Client { shard: k, conn, bytes: bytes.clone(), close });
            shard.replica.sent(conn, bytes);
            if close {
                shard.replica.closed(conn);
            }
            shard.take_submits();
        }
    }

    /// The last shard walks, a slice between two turns.
    fn walk(&mut self, k: usize) {
        let last = k + 1 == self.shards.len();
        let shard = &mut self.shards[k];
        let Some(walk) = self.walk.as_mut().filter(|walk| last && shard.position.zxid >= walk.from_zxid) else { return };
        let state = shard.replica.state_mut();
        let position = *walk.position.get_or_insert_with(|| {
            state.begin_snapshot();
            shard.position
        });
        let mut chunk = Vec::new();
        let done = state.snapshot_slice(SLICE_NODES, &mut chunk);
        walk.chunks.push(chunk);
        if done {
            let Walk { chunks, .. } = self.walk.take().expect("it has just ended");
            self.outs.push(Out::Snapshot { position, chunks });
        }
    }

    /// Two files of one name must not be; what this server has is not worth a snapshot any more. One that is walked through
    /// already is waited for.
    fn cancel_walk(&mut self) {
        if let Some(walk) = self.walk.take() {
            if walk.position.is_some() {
                self.shards.last_mut().expect("a server has a shard").replica.state_mut().cancel_snapshot();
            }
            self.walking = false;
            self.journal.snapshot_cancelled();
        }
    }

    /// The file of [`Out::Snapshot`] is complete.
    pub fn snapshot_file_done(&mut self, written: Result<SnapshotPointer, Errno>, now_ms: u64) {
        self.walking = false;
        let mut effects = Vec::new();
        self.journal.snapshot_written(written, now_ms, &mut effects);
        self.journal_effects(effects, now_ms);
    }

    // ---- the pipeline

    /// One turn of the pipeline's core.
    pub fn pipeline_turn(&mut self, now_ms: u64, wall_ms: i64, applied: impl FnMut(&State)) {
        self.drain(0, now_ms, applied);
        self.act(0);
        self.node.applied(self.shards[0].replica.state(), now_ms, wall_ms);
        for (peer, bytes) in std::mem::take(&mut self.inbox) {
            self.peer_bytes(peer, bytes, now_ms, wall_ms);
        }
        self.take_requests(now_ms, wall_ms);
        if now_ms >= self.next_tick_ms || now_ms >= self.node.deadline_ms() {
            self.next_tick_ms = now_ms + TICK_MS;
            self.node.tick(self.shards[0].replica.state(), now_ms, wall_ms);
        }
        self.node_effects(now_ms);
        self.append(now_ms);
        self.node.flush(now_ms);
        self.node_effects(now_ms);
        let mut effects = Vec::new();
        if self.journal.deadline_ms().is_some_and(|at_ms| at_ms <= now_ms) {
            self.journal.tick(now_ms, &mut effects);
        }
        self.journal_effects(effects, now_ms);
        self.node.set_space_low(self.journal.space_low());
        if !self.installing {
            self.keep_log();
        }
    }

    /// What the log holds, and whether it is time for a snapshot.
    fn keep_log(&mut self) {
        let snapshot = self.journal.superblock().snapshot;
        self.node.log_kept(self.journal.log_base(), snapshot);
        // What is committed reaches every shard; a follower's log may hold more.
        let from_zxid = self.journal.durable().zxid.min(self.node.committed());
        let floor = snapshot.map_or(0, |s| s.position.zxid);
        if from_zxid > floor && self.node.serves() && self.journal.wants_snapshot() {
            self.journal.snapshot_started();
            self.walking = true;
            self.walk = Some(Walk { from_zxid, position: None, chunks: Vec::new() });
        }
    }

    fn take_requests(&mut self, now_ms: u64, wall_ms: i64) {
        for k in 0..self.shards.len() {
            while self.node.admits()
                && let Some(record) = self.shards[k].ring.pop_front()
            {
                self.node.up(k as u16, Up::decode(&record), self.shards[0].replica.state(), now_ms, wall_ms);
            }
        }
    }

    fn peer_bytes(&mut self, peer: u16, mut bytes: Vec<u8>, now_ms: u64, wall_ms: i64) {
        match self.node.peer_bytes(peer, &bytes, self.shards[0].replica.state(), now_ms, wall_ms) {
            Some(used) => {
                bytes.drain(..used);
                self.inbox.insert(peer, bytes);
            }
            None => self.outs.push(Out::Disconnect { peer, why: "no message" }),
        }
    }

    fn append(&mut self, now_ms: u64) {
        while self.journal.ready()
            && let Some(batch) = self.node.next_batch()
        {
            let mut effects = Vec::new();
            let batch = self.journal.append(batch, &mut effects);
            self.outs.push(Out::Took(batch.clone()));
            self.node.log_took(batch, now_ms);
            self.journal_effects(effects, now_ms);
            self.node_effects(now_ms);
        }
    }

    /// Does what the Journal wants, as far as it is in the process.
    pub fn journal_effects(&mut self, effects: Vec<Effect>, now_ms: u64) {
        for effect in effects {
            match effect {
                Effect::Write { op, slot, offset, frame } => self.write = Some(Write { op, slot, offset, frame }),
                Effect::Durable(position) => self.node.durable(position, now_ms),
                Effect::Background(job) => self.jobs.push_back(job),
                Effect::Promised(promise) => {
                    self.outs.push(Out::Promised(promise));
                    self.node.promised(promise, now_ms);
                }
                Effect::Installed(pointer) => self.outs.push(Out::Installed(pointer)),
                Effect::Fatal(_) => self.outs.push(Out::Died),
            }
            self.node_effects(now_ms);
        }
    }

    /// Does what the Node wants, as far as it is in the process.
    pub fn node_effects(&mut self, now_ms: u64) {
        while let Some(effect) = self.node.next_effect() {
            match effect {
                NodeEffect::Publish(batch) => {
                    self.published.push(batch.clone());
                    self.outs.push(Out::Published(batch));
                }
                NodeEffect::Down { shard, message } => self.shards[usize::from(shard)].downs.push_back(message),
                NodeEffect::Send { peer, message } => self.outs.push(Out::Send { peer, message }),
                NodeEffect::Disconnect { peer, why } => self.outs.push(Out::Disconnect { peer, why }),
                NodeEffect::Promise(promise) => {
                    let mut effects = Vec::new();
                    self.journal.promise(promise, &mut effects);
                    self.journal_effects(effects, now_ms);
                }
                NodeEffect::Truncate(to) => {
                    self.outs.push(Out::Truncated(to));
                    let mut effects = Vec::new();
                    self.journal.truncate(to, &mut effects);
                    self.journal_effects(effects, now_ms);
                }
                NodeEffect::Feed { after, token } => self.outs.push(Out::Feed { after, token }),
                NodeEffect::ReadSnapshot { peer, pointer, offset } => self.outs.push(Out::ReadSnapshot { peer, pointer, offset }),
                NodeEffect::WriteSnapshot { pointer, .. } if self.walking => {
                    crate::mark!("a snapshot of our own gives way to the leader's");
                    self.cancel_walk();
                    self.node.snapshot_wrote(pointer, None, now_ms);
                }
                NodeEffect::WriteSnapshot { pointer, offset, bytes, last } => {
                    self.outs.push(Out::WriteSnapshot { pointer, offset, bytes, last });
                }
            }
        }
    }

    /// The leader's snapshot is this server's history: every shard closes its clients, and goes on with its old State until
    /// the new one is loaded.
    pub fn evict(&mut self) {
        assert!(!std::mem::replace(&mut self.installing, true), "the Node waits for one before it fetches another");
        for k in 0..self.shards.len() {
            self.shards[k].replica.evict();
            self.act(k);
        }
    }

    /// Every shard takes its new State, then the Node goes on. Answers and routes on their way to a shard stay there.
    pub fn swap(&mut self, disk: &SimDisk, pointer: SnapshotPointer, now_ms: u64) -> Result<(), BadSnapshot> {
        assert!(std::mem::take(&mut self.installing) && self.walk.is_none(), "a walk is cancelled before a snapshot is fetched");
        for k in 0..self.shards.len() {
            let state = load_snapshot(disk, &pointer, self.journal.superblock().cluster)?;
            let shard = &mut self.shards[k];
            (shard.applied, shard.position) = (self.published.len(), pointer.position);
            shard.replica.replace_state(state);
            self.act(k);
        }
        self.node.installed(pointer, now_ms);
        self.node_effects(now_ms);
        Ok(())
    }
}

impl Shard {
    /// Moves what the replica submitted into the ring, record by record.
    fn take_submits(&mut self) {
        let submits = std::mem::take(self.replica.submits());
        let mut rest = &submits[..];
        while let Some((len, tail)) = rest.split_first_chunk::<4>() {
            let (record, tail) = tail.split_at(u32::from_le_bytes(*len) as usize);
            self.ring.push_back(record.to_vec());
            rest = tail;
        }
    }
}

/// The State at the batch end `upto`.
fn load(disk: &SimDisk, found: &Recovered, upto: u64) -> Result<State, RecoveryError> {
    let mut loader = Loader::new(true);
    found.load_snapshot(disk, |chunk| loader.push(chunk).expect("the file was verified"), |_, _| ())?;
    let mut state = match found.snapshot {
        Some(_) => loader.finish().expect("a snapshot is whole"),
        None => State::new(true),
    };
    let apply = |batch: &Batch| {
        let mut applied = Default::default();
        batch.txns().for_each(|txn| state.apply(txn, &mut applied, Default::default()));
    };
    found.replay(disk, upto, apply, |_, _| ())?;
    Ok(state)
}

fn load_snapshot(disk: &SimDisk, pointer: &SnapshotPointer, cluster: u128) -> Result<State, BadSnapshot> {
    let mut loader = Loader::new(true);
    let push = |chunk: &[u8]| loader.push(chunk).expect("the sum of the chunk holds");
    let read = crate::log::snapshot::read(disk, &pointer.file_name(), cluster, push, |_| ())?;
    if read != *pointer {
        return Err(BadSnapshot::Other);
    }
    Ok(loader.finish().expect("a snapshot is whole"))
}

fn auth_config() -> AuthConfig {
    AuthConfig { digest_enabled: true, super_digest: Some(access::digest_id(SUPER)), ..AuthConfig::default() }
}

fn replica_config(settings: &Settings, shard: u16, boot: u32) -> ReplicaConfig {
    let alone = settings.ensemble.is_alone();
    let linearizable_reads = settings.linearizable_reads;
    ReplicaConfig { server: settings.server, shard, boot, alone, auth: auth_config(), linearizable_reads, ..ReplicaConfig::default() }
}

/// See [`Settings::tight`].
pub fn waiting_config(tight: bool) -> WaitingConfig {
    match tight {
        true => WaitingConfig { proposed_bytes_max: 32 << 10, forwarded_bytes_max: 400, parked_bytes_max: 2 << 10 },
        false => WaitingConfig::default(),
    }
}

fn zab_config(settings: &Settings, boot: u32) -> ZabConfig {
    let election_timeout_ms = settings.election_timeout_ms;
    ZabConfig {
        seed: settings.seed ^ u64::from(boot),
        election_timeout_ms,
        heartbeat_ms: election_timeout_ms / 6,
        join_stall_ms: 10 * settings.election_timeout_ms,
        ack_stall_ms: 5 * settings.election_timeout_ms,
        disk_lag_bytes_max: if settings.tight { 64 << 10 } else { DISK_LAG_BYTES_MAX },
        ..ZabConfig::new(settings.server, settings.ensemble.clone())
    }
}

fn node_config(settings: &Settings, boot: u32) -> NodeConfig {
    NodeConfig {
        boot,
        counter_max: settings.counter_max,
        waiting: waiting_config(settings.tight),
        prepare: PrepareConfig { auth: auth_config(), extended_types_enabled: true, ..PrepareConfig::default() },
        zab: zab_config(settings, boot),
        ..NodeConfig::alone(settings.server, settings.shards)
    }
}
