//! The brain of the pipeline core: orders writes. Requests come up from the shards, prepare turns each into a transaction
//! with the next zxid, transactions gather in the open batch, and what is durable on a quorum is published.
//! The quorum is this server alone for now: durable here is committed; replication will stand between `appended` and
//! publishing, and nothing else changes. Refuses to touch the log, the mesh and the clock: its effects are values.

use super::deadlines::Deadlines;
use super::message::{Answer, ConnId, Down, Submit, Up, op};
use super::prepare::{Asker, Planned, Prepare, PrepareConfig};
use crate::limits::{BATCH_BYTES_POOLED, PROPOSED_BYTES_MAX};
use crate::tree::State;
use crate::wire::aligned::AlignedBuf;
use crate::wire::batch::{Batch, BatchBuilder, Full, Position};
use crate::wire::request::{Request, opcode};
use crate::wire::response::code;
use crate::wire::txn::{Change, Op, Origin, Txn};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;

#[cfg(test)]
#[path = "tests/epochs.rs"]
mod epochs;

/// What a Node must know before it starts.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    pub cluster: u128,
    pub server: u16,
    /// Counts the starts of this server; part of every origin.
    pub boot: u32,
    /// The epoch of this run: promised durably, above every epoch in the log.
    pub epoch: u32,
    pub shards: usize,
    /// A pause of the loop longer than this does not count against sessions.
    pub tick_ms: u64,
    pub prepare: PrepareConfig,
    pub reap: ReapConfig,
}

/// When the server deletes containers and TTL nodes by itself (ZooKeeper's `znode.container.*`).
#[derive(Clone, Copy, Debug)]
pub struct ReapConfig {
    pub interval_ms: u64,
    /// Deletions per minute, at most.
    pub per_minute_max: usize,
    /// A container that never had a child goes after this; 0: never.
    pub never_used_ms: i64,
}

impl Default for ReapConfig {
    fn default() -> ReapConfig {
        ReapConfig { interval_ms: 60_000, per_minute_max: 10_000, never_used_ms: 0 }
    }
}

/// What the loop has to do for the Node.
pub enum NodeEffect {
    /// Committed: every shard may apply it.
    Publish(Arc<Batch>),
    Down {
        shard: u16,
        message: Down,
    },
}

type FixedHash = BuildHasherDefault<DefaultHasher>;

/// The pipeline's brain. See the module heading.
pub struct Node {
    config: NodeConfig,
    prepare: Prepare,
    deadlines: Deadlines,
    builder: BatchBuilder,
    /// Closed because they were full, waiting for the log.
    closed: VecDeque<Batch>,
    /// In the log's hands, not yet durable.
    appended: VecDeque<Arc<Batch>>,
    spares: Vec<AlignedBuf>,
    proposed_bytes: usize,
    last_proposed: u64,
    chain: u128,
    committed: u64,
    /// Sessions that end, or moved, by a transaction not yet applied here.
    closing: HashMap<i64, u64, FixedHash>,
    moved: HashMap<i64, (u64, Origin), FixedHash>,
    space_low: bool,
    next_reap_ms: u64,
    effects: VecDeque<NodeEffect>,
}

impl Node {
    /// A Node whose history ends at `tail`, with the State recovered up to there.
    pub fn new(config: NodeConfig, tail: Position, state: &State, now_ms: u64) -> Node {
        assert!(u64::from(config.epoch) > tail.zxid >> 32, "an epoch is never used twice");
        let mut deadlines = Deadlines::new(config.shards, config.tick_ms);
        let ours_ms = deadlines.turn(now_ms);
        for (id, session) in state.sessions() {
            deadlines.start(id, session.timeout_ms as u64, None, ours_ms);
        }
        Node {
            prepare: Prepare { config: config.prepare.clone(), ..Prepare::default() },
            deadlines,
            builder: BatchBuilder::default(),
            closed: VecDeque::new(),
            appended: VecDeque::new(),
            spares: Vec::new(),
            proposed_bytes: 0,
            last_proposed: tail.zxid,
            chain: tail.chain,
            committed: tail.zxid,
            closing: HashMap::default(),
            moved: HashMap::default(),
            space_low: false,
            next_reap_ms: now_ms + config.reap.interval_ms,
            effects: VecDeque::new(),
            config,
        }
    }

    /// Proposes (e,0), the first record of this epoch. Nothing is served before it is committed.
    pub fn start(&mut self, wall_ms: i64) {
        let zxid = u64::from(self.config.epoch) << 32;
        let op = Op::NewEpoch { leader: self.config.server };
        let txn = Txn { zxid, time_ms: wall_ms, session: 0, origin: Origin::default(), op };
        self.builder.push(&txn).expect("an empty batch takes any small transaction");
        self.last_proposed = zxid;
        self.close_open_batch();
    }

    /// Whether this epoch is established.
    pub fn serves(&self) -> bool {
        self.committed >> 32 == u64::from(self.config.epoch)
    }

    pub fn committed(&self) -> u64 {
        self.committed
    }

    pub fn last_proposed(&self) -> u64 {
        self.last_proposed
    }

    /// False: leave the rings alone until the disk has caught up.
    pub fn admits(&self) -> bool {
        self.proposed_bytes < PROPOSED_BYTES_MAX
    }

    /// The disk has (or has again) no room for growth: only deletes and closes go through.
    pub fn set_space_low(&mut self, space_low: bool) {
        self.space_low = space_low;
    }

    /// This core's State has applied everything up to `zxid`. Comes before `up` in every turn.
    pub fn applied(&mut self, zxid: u64) {
        self.prepare.applied(zxid);
        if !self.closing.is_empty() {
            self.closing.retain(|_, at| *at > zxid);
        }
        if !self.moved.is_empty() {
            self.moved.retain(|_, (at, _)| *at > zxid);
        }
    }

    /// One record from a shard's ring.
    pub fn up(&mut self, shard: u16, up: Up<'_>, state: &State, now_ms: u64, wall_ms: i64) {
        match up {
            Up::Submit(submit) => self.submit(shard, &submit, state, now_ms, wall_ms),
            Up::Touch { session } => {
                let ours_ms = self.deadlines.turn(now_ms);
                self.deadlines.touch(session, shard, ours_ms);
            }
            Up::Report { at_ms } => self.deadlines.report(shard, at_ms),
        }
    }

    /// Time passed: sessions expire, and nodes that nobody uses any more go.
    pub fn tick(&mut self, state: &State, now_ms: u64, wall_ms: i64) {
        let ours_ms = self.deadlines.turn(now_ms);
        while let Some(session) = self.deadlines.due(ours_ms) {
            self.deadlines.remove(session);
            self.close_session(session, Origin::default(), state, wall_ms);
        }
        if now_ms >= self.next_reap_ms {
            self.next_reap_ms = now_ms + self.config.reap.interval_ms;
            self.reap(state, wall_ms);
        }
    }

    /// Deletes what is due; age and emptiness are checked once more against what is proposed.
    fn reap(&mut self, state: &State, wall_ms: i64) {
        let ReapConfig { interval_ms, per_minute_max, never_used_ms } = self.config.reap;
        let most = (per_minute_max as u64 * interval_ms / 60_000).max(1) as usize;
        let unused_before_ms = if never_used_ms > 0 { wall_ms - never_used_ms } else { i64::MIN };
        let candidates = state.idle_containers().chain(state.unused_containers(unused_before_ms)).chain(state.expired_ttl(wall_ms));
        let paths: Vec<String> = candidates.take(most).map(|node| node.path()).collect();
        for path in &paths {
            let zxid = self.next_zxid(wall_ms);
            let asker = Asker { state, session: 0, auth: &[], zxid, time_ms: wall_ms };
            if let Some(planned) = self.prepare.reap(&asker, path) {
                self.propose(zxid, wall_ms, 0, &Origin::default(), Op::Change(planned.change()));
            }
        }
    }

    fn submit(&mut self, shard: u16, submit: &Submit<'_>, state: &State, now_ms: u64, wall_ms: i64) {
        let origin = Origin { conn: submit.conn.0, sequence: submit.sequence, boot: self.config.boot, server: self.config.server, shard };
        if self.space_low && grows(submit.opcode) {
            return self.answer(&origin, Answer::Refused { code: code::SYSTEM_ERROR });
        }
        match submit.opcode {
            op::CREATE_SESSION => self.create_session(&origin, submit.body, now_ms, wall_ms),
            op::ATTACH_SESSION => self.attach_session(&origin, submit, state, now_ms, wall_ms),
            _ if !self.owns(&origin, submit.session, state) => self.answer(&origin, Answer::Drop),
            opcode::SYNC => self.answer(&origin, Answer::Synced),
            op::CLOSE_SESSION => {
                self.deadlines.remove(submit.session);
                self.close_session(submit.session, origin, state, wall_ms);
            }
            _ => self.write(&origin, submit, state, wall_ms),
        }
    }

    /// Whether the session is known and this connection is its owner, as proposed so far.
    fn owns(&self, origin: &Origin, session: i64, state: &State) -> bool {
        let owner = match self.moved.get(&session) {
            Some((_, owner)) => Some(*owner),
            None => state.session(session).map(|s| s.owner),
        };
        owner.is_some_and(|o| (o.conn, o.boot, o.server, o.shard) == (origin.conn, origin.boot, origin.server, origin.shard))
    }

    fn create_session(&mut self, origin: &Origin, body: &[u8], now_ms: u64, wall_ms: i64) {
        let (timeout, password) = body.split_at(4);
        let timeout_ms = i32::from_be_bytes(timeout.try_into().expect("our own shard's encoding"));
        let password: [u8; 16] = password.try_into().expect("our own shard's encoding");
        let zxid = self.next_zxid(wall_ms);
        let session = session_id(self.config.server, zxid);
        let ours_ms = self.deadlines.turn(now_ms);
        self.deadlines.start(session, timeout_ms as u64, Some(origin.shard), ours_ms);
        self.propose(zxid, wall_ms, session, origin, Op::CreateSession { timeout_ms, password });
    }

    fn attach_session(&mut self, origin: &Origin, submit: &Submit<'_>, state: &State, now_ms: u64, wall_ms: i64) {
        let timeout_ms = i32::from_be_bytes(submit.body.try_into().expect("our own shard's encoding"));
        let zxid = self.next_zxid(wall_ms);
        if state.session(submit.session).is_none() || self.closing.contains_key(&submit.session) {
            return self.propose(zxid, wall_ms, submit.session, origin, Op::Error { code: code::SESSION_EXPIRED });
        }
        let ours_ms = self.deadlines.turn(now_ms);
        self.deadlines.start(submit.session, timeout_ms as u64, Some(origin.shard), ours_ms);
        self.moved.insert(submit.session, (zxid, *origin));
        self.propose(zxid, wall_ms, submit.session, origin, Op::AttachSession { timeout_ms });
    }

    fn close_session(&mut self, session: i64, origin: Origin, state: &State, wall_ms: i64) {
        let zxid = self.next_zxid(wall_ms);
        if self.closing.contains_key(&session) || state.session(session).is_none() && !self.moved.contains_key(&session) {
            return self.propose(zxid, wall_ms, session, &origin, Op::Error { code: code::SESSION_EXPIRED });
        }
        let asker = Asker { state, session, auth: &[], zxid, time_ms: wall_ms };
        self.prepare.close_session(&asker);
        self.closing.insert(session, zxid);
        self.propose(zxid, wall_ms, session, &origin, Op::CloseSession);
    }

    fn write(&mut self, origin: &Origin, submit: &Submit<'_>, state: &State, wall_ms: i64) {
        let zxid = self.next_zxid(wall_ms);
        if self.closing.contains_key(&submit.session) {
            return self.propose(zxid, wall_ms, submit.session, origin, Op::Error { code: code::SESSION_EXPIRED });
        }
        let request = Request::decode(submit.opcode, submit.body).expect("the shard has decoded it before");
        let asker = Asker { state, session: submit.session, auth: submit.auth, zxid, time_ms: wall_ms };
        if let Request::Multi(ops) = &request {
            match self.prepare.multi(&asker, ops.iter()) {
                Ok(planned) => {
                    let changes: Vec<Change<'_>> = planned.iter().map(Planned::change).collect();
                    self.propose(zxid, wall_ms, submit.session, origin, Op::Multi(changes));
                }
                Err(codes) => self.propose(zxid, wall_ms, submit.session, origin, Op::MultiError { codes }),
            }
            return;
        }
        match self.prepare.change(&asker, &request) {
            Ok(planned) => self.propose(zxid, wall_ms, submit.session, origin, Op::Change(planned.change())),
            Err(code) => self.propose(zxid, wall_ms, submit.session, origin, Op::Error { code }),
        }
    }

    /// The zxid of the next transaction. An epoch whose counter is used up is followed by the next one at once.
    fn next_zxid(&mut self, wall_ms: i64) -> u64 {
        if self.last_proposed as u32 == u32::MAX {
            self.close_open_batch();
            self.config.epoch += 1;
            self.start(wall_ms);
        }
        self.last_proposed + 1
    }

    fn propose(&mut self, zxid: u64, time_ms: i64, session: i64, origin: &Origin, op: Op<'_>) {
        let txn = Txn { zxid, time_ms, session, origin: *origin, op };
        if self.builder.push(&txn) == Err(Full) {
            self.close_open_batch();
            self.builder.push(&txn).expect("a frame's transaction fits a batch of its own: limits assert it");
        }
        self.last_proposed = zxid;
    }

    fn answer(&mut self, origin: &Origin, what: Answer) {
        let message = Down { conn: ConnId(origin.conn), sequence: origin.sequence, after: self.last_proposed, what };
        self.effects.push_back(NodeEffect::Down { shard: origin.shard, message });
    }

    fn close_open_batch(&mut self) {
        if self.builder.is_empty() {
            return;
        }
        let spare = self.spares.pop().unwrap_or_else(|| AlignedBuf::with_capacity(BATCH_BYTES_POOLED));
        let batch = self.builder.close(self.config.cluster, self.committed, self.chain, spare);
        self.chain = batch.header().chain;
        self.proposed_bytes += batch.frame().len();
        self.closed.push_back(batch);
    }

    /// The next batch for the log, or None. Call when the log is ready for one.
    pub fn close_batch(&mut self) -> Option<Batch> {
        if self.closed.is_empty() {
            self.close_open_batch();
        }
        self.closed.pop_front()
    }

    /// The log has taken the batch.
    pub fn appended(&mut self, batch: Arc<Batch>) {
        self.appended.push_back(batch);
    }

    /// Everything up to `zxid` is durable here; with a quorum of one it is committed.
    pub fn durable(&mut self, zxid: u64) {
        while let Some(batch) = self.appended.pop_front_if(|batch| batch.position().zxid <= zxid) {
            self.proposed_bytes -= batch.frame().len();
            self.committed = batch.position().zxid;
            self.effects.push_back(NodeEffect::Publish(batch));
        }
    }

    /// Every shard has passed the batch and the log is done with it: its buffer is used again.
    pub fn recycle(&mut self, batch: Batch) {
        let buffer = batch.into_buffer();
        if buffer.len() == BATCH_BYTES_POOLED && self.spares.len() < 64 {
            self.spares.push(buffer);
        }
    }

    pub fn next_effect(&mut self) -> Option<NodeEffect> {
        self.effects.pop_front()
    }

    /// Sessions with the time (of `now_ms`) at which they expire unless they are heard from, by id.
    pub fn session_expiries(&self) -> Vec<(i64, u64)> {
        let mut all: Vec<_> = self.deadlines.all().collect();
        all.sort_unstable();
        all
    }
}

/// The id of the session that the transaction `zxid` creates: the server in the top byte (1 to 127, so that ids are
/// positive and never look like a TTL), the zxid below, which no other transaction ever has.
fn session_id(server: u16, zxid: u64) -> i64 {
    (i64::from(server & 0x7f) << 56) | (zxid & 0x00ff_ffff_ffff_ffff) as i64
}

/// Whether a request may take room on the disk for good.
fn grows(opcode: i32) -> bool {
    use crate::wire::extension::opcode::{REMOVE_RECURSIVE, TRY_REMOVE};
    !matches!(opcode, opcode::DELETE | REMOVE_RECURSIVE | TRY_REMOVE | opcode::SYNC | op::CLOSE_SESSION | op::ATTACH_SESSION)
}
