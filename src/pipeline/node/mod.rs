//! The brain of the pipeline core. On a leader it orders writes: requests come up from the shards and from followers, prepare
//! turns each into a transaction with the next zxid, transactions gather in the open batch, and what a quorum has made
//! durable is published. On a follower it forwards requests to the leader and publishes what the leader says is committed.
//! Without a leader requests wait here, within a bound. Replication itself is `zab`'s; an ensemble of one is no exception.
//! Refuses to touch the log, the mesh and the clock: its effects are values.

mod replication;
mod requests;
mod waiting;

pub use requests::same_password;

use super::deadlines::{Deadlines, Holder};
use super::message::{Answer, ConnId, Down, Submit, Up};
use super::prepare::{Prepare, PrepareConfig};
use crate::limits::{BATCH_BYTES_POOLED, FORWARDED_BYTES_MAX, PARKED_BYTES_MAX, PROPOSED_BYTES_MAX};
use crate::log::Promise;
use crate::log::snapshot::SnapshotPointer;
use crate::mutant;
use crate::tree::State;
use crate::wire::aligned::AlignedBuf;
use crate::wire::batch::{Batch, BatchBuilder, Full, Position};
use crate::wire::txn::{Op, Origin, Txn};
use crate::zab::message::Outgoing;
use crate::zab::quorum::Ensemble;
use crate::zab::{LearnerFigures, Standing, Start, Zab, ZabConfig};
use replication::{Pending, Touches};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::Arc;
use waiting::{Forwarded, Parked};

/// What a Node must know before it starts.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Names this run of this server, see `Recovered::run`; part of every origin.
    pub boot: u32,
    pub shards: usize,
    /// A pause of the loop longer than this does not count against sessions.
    pub tick_ms: u64,
    /// Without a leader for longer than this all client connections close.
    pub leaderless_ms: u64,
    /// Counters of an epoch beyond which the leader goes on to the next epoch.
    pub counter_max: u32,
    pub waiting: WaitingConfig,
    pub prepare: PrepareConfig,
    pub reap: ReapConfig,
    pub zab: ZabConfig,
}

/// Leaves room for what is under way when an epoch's counter runs out.
const COUNTER_MAX: u32 = u32::MAX - (1 << 20);

impl NodeConfig {
    /// An ensemble of one, in its first run.
    pub fn alone(server: u16, shards: usize) -> NodeConfig {
        NodeConfig {
            boot: 1,
            shards,
            tick_ms: 1000,
            leaderless_ms: 4000,
            counter_max: COUNTER_MAX,
            waiting: WaitingConfig::default(),
            prepare: PrepareConfig::default(),
            reap: ReapConfig::default(),
            zab: ZabConfig::new(server, Ensemble::alone(server)),
        }
    }
}

/// How much may wait on a server before it leaves its rings alone, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct WaitingConfig {
    /// Proposed by this leader and not committed.
    pub proposed_bytes_max: usize,
    /// Requests on their way to the leader.
    pub forwarded_bytes_max: usize,
    /// Requests for which there is no leader.
    pub parked_bytes_max: usize,
}

impl Default for WaitingConfig {
    fn default() -> WaitingConfig {
        WaitingConfig {
            proposed_bytes_max: PROPOSED_BYTES_MAX,
            forwarded_bytes_max: FORWARDED_BYTES_MAX,
            parked_bytes_max: PARKED_BYTES_MAX,
        }
    }
}

/// What waits on a server, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waits {
    pub proposed_bytes: usize,
    pub forwarded_bytes: usize,
    /// The longest of what was forwarded.
    pub longest_bytes: usize,
    pub parked_bytes: usize,
    /// For how long a leader's own disk has owed a confirmation.
    pub lag_ms: u64,
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
    /// Committed: every shard may apply it. Answers that were given before it have come before it.
    Publish(Arc<Batch>),
    Down {
        shard: u16,
        message: Down,
    },
    /// The next message for the connection to that server.
    Send {
        peer: u16,
        message: Outgoing,
    },
    /// Close the connection to that server; a new one may follow at once.
    Disconnect {
        peer: u16,
        why: &'static str,
    },
    /// Give it to the Journal, then call [`Node::promised`].
    Promise(Promise),
    /// Give it to the Journal.
    Truncate(Position),
    /// Read batches after this position in the background, then call [`Node::fed`].
    Feed {
        after: Position,
        token: u64,
    },
    /// Read a part of our snapshot in the background, then call [`Node::snapshot_read`].
    ReadSnapshot {
        peer: u16,
        pointer: SnapshotPointer,
        offset: u64,
    },
    /// Write a part of a peer's snapshot in the background, then call [`Node::snapshot_wrote`]; after the last one verify
    /// it, have the Journal install it, give every shard the new State, and call [`Node::installed`].
    WriteSnapshot {
        pointer: SnapshotPointer,
        offset: u64,
        bytes: Vec<u8>,
        last: bool,
    },
}

/// See [`Node::figures`].
#[derive(Clone, Debug, Default)]
pub struct NodeFigures {
    pub epoch: u32,
    /// Answers that wait for proof that this server still leads.
    pub barriers_waiting: usize,
    /// Of a leader: who follows it.
    pub learners: Vec<LearnerFigures>,
}

type FixedHash = BuildHasherDefault<DefaultHasher>;

/// The pipeline's brain. See the module heading.
pub struct Node {
    config: NodeConfig,
    zab: Zab,
    prepare: Prepare,
    deadlines: Deadlines,
    builder: BatchBuilder,
    /// Closed because they were full, waiting for the log.
    closed: VecDeque<Batch>,
    /// Sent to the followers before our own log could take them; it gets them in this order.
    ahead: VecDeque<Arc<Batch>>,
    forwarded: Forwarded,
    spares: Vec<AlignedBuf>,
    /// Bytes of batches that were given to the log and are not published, by zxid.
    proposed: VecDeque<(u64, usize)>,
    proposed_bytes: usize,
    last_proposed: u64,
    chain: u128,
    /// Some: leads this epoch. `.1`: its (e,0) is applied here, so requests are taken.
    leading: Option<(u32, bool)>,
    /// The deadlines are those of this leadership.
    clocks_run: bool,
    /// The number of the way to a leader; rises when one is lost.
    route: u32,
    parked: Parked,
    pending: VecDeque<Pending>,
    touches: Touches,
    leaderless_since_ms: Option<u64>,
    /// Whether client connections were closed because requests would not be answered here.
    shut: bool,
    /// Sessions that end, or begin or move, by a transaction not yet applied here.
    closing: HashMap<i64, u64, FixedHash>,
    moved: HashMap<i64, (u64, Origin), FixedHash>,
    /// The server is about to stop: it proposes nothing more.
    leaving: bool,
    next_reap_ms: u64,
    effects: VecDeque<NodeEffect>,
}

impl Node {
    /// A Node whose medium says `start`.
    pub fn new(config: NodeConfig, start: Start, now_ms: u64) -> Node {
        let zab = Zab::new(config.zab.clone(), start, now_ms);
        let tail = zab.appended();
        Node {
            prepare: Prepare { config: config.prepare.clone(), ..Prepare::default() },
            deadlines: Deadlines::new(config.shards, config.tick_ms),
            builder: BatchBuilder::default(),
            closed: VecDeque::new(),
            ahead: VecDeque::new(),
            forwarded: Forwarded::default(),
            spares: Vec::new(),
            proposed: VecDeque::new(),
            proposed_bytes: 0,
            last_proposed: tail.zxid,
            chain: tail.chain,
            leading: None,
            clocks_run: false,
            route: 0,
            parked: Parked::default(),
            pending: VecDeque::new(),
            touches: Touches::new(config.shards),
            leaderless_since_ms: Some(now_ms),
            // One that has never had a leader is no better than one without for long.
            shut: !config.zab.ensemble.is_alone(),
            closing: HashMap::default(),
            moved: HashMap::default(),
            leaving: false,
            next_reap_ms: now_ms + config.reap.interval_ms,
            effects: VecDeque::new(),
            zab,
            config,
        }
    }

    // ---- what it knows

    fn server(&self) -> u16 {
        self.zab.server()
    }

    /// Whether requests of clients can be taken on: as the leader, or on the way to one.
    pub fn serves(&self) -> bool {
        match self.zab.standing() {
            Standing::Leading { .. } => matches!(self.leading, Some((_, true))),
            Standing::Following { serving, .. } => serving,
            Standing::Looking => false,
        }
    }

    /// Whether clients are let in: requests of theirs will be answered.
    pub fn takes_clients(&self) -> bool {
        self.serves() && !self.shut
    }

    pub fn standing(&self) -> Standing {
        self.zab.standing()
    }

    /// Whether our log has this batch end, with this history before it.
    pub fn has(&self, position: Position) -> bool {
        self.zab.has(position)
    }

    pub fn committed(&self) -> u64 {
        self.zab.committed()
    }

    /// Whether everything that was proposed is in the log and committed.
    fn is_settled(&self) -> bool {
        self.builder.is_empty() && self.closed.is_empty() && self.ahead.is_empty() && self.zab.appended().zxid == self.zab.committed()
    }

    /// After [`Node::leave`]: nobody waits for this server any more.
    pub fn has_left(&self) -> bool {
        match self.zab.standing() {
            Standing::Leading { .. } => self.zab.is_alone() && self.is_settled(),
            Standing::Following { .. } | Standing::Looking => self.leaving,
        }
    }

    /// What operators want to know about the other servers.
    pub fn figures(&self) -> NodeFigures {
        NodeFigures { epoch: self.zab.epoch(), barriers_waiting: self.pending.len(), learners: self.zab.learners() }
    }

    /// False: leave the rings alone until the disk, the leader, or a new leader, has caught up.
    pub fn admits(&self) -> bool {
        self.has_room() && self.forwards_more() && self.parked.bytes() < self.config.waiting.parked_bytes_max
    }

    /// Whether this leader may propose more.
    fn has_room(&self) -> bool {
        self.proposed_bytes < self.config.waiting.proposed_bytes_max
    }

    /// What waits here.
    pub fn waits(&self) -> Waits {
        Waits {
            proposed_bytes: self.proposed_bytes,
            forwarded_bytes: self.forwarded.bytes(),
            longest_bytes: self.forwarded.longest_bytes(),
            parked_bytes: self.parked.bytes(),
            lag_ms: self.zab.lag_ms(),
        }
    }

    /// For how long a leader's own disk may owe one.
    pub fn disk_stall_ms(&self) -> u64 {
        self.config.zab.disk_stall_ms
    }

    /// When [`Node::tick`] has something to do at the latest, for replication's sake.
    pub fn deadline_ms(&self) -> u64 {
        self.zab.deadline_ms()
    }

    /// Sessions with the time (of `now_ms`) at which they expire unless they are heard from, by id. Only a leader knows.
    pub fn session_expiries(&self) -> Vec<(i64, u64)> {
        let mut all: Vec<_> = self.deadlines.all().collect();
        all.sort_unstable();
        all
    }

    // ---- inputs

    /// The server is about to stop. Proposes nothing more; once everything proposed is committed a leader of others says
    /// farewell, so that they need not wait until they miss it.
    pub fn leave(&mut self) {
        self.leaving = true;
    }

    /// The disk has no room for growth, or has some again. Requests that make the tree grow are refused if too few disks have.
    pub fn set_space_low(&mut self, space_low: bool) {
        self.zab.set_full(space_low);
    }

    /// This core's State has applied everything up to its `applied`. Comes before `up` in every turn.
    pub fn applied(&mut self, state: &State, now_ms: u64, wall_ms: i64) {
        let zxid = state.applied();
        self.prepare.applied(zxid);
        if !self.closing.is_empty() {
            self.closing.retain(|_, at| *at > zxid);
        }
        if !self.moved.is_empty() {
            self.moved.retain(|_, (at, _)| *at > zxid);
        }
        if let Some((epoch, false)) = self.leading
            && zxid >= u64::from(epoch) << 32
            && self.zab.committed() >= u64::from(epoch) << 32
        {
            self.leading = Some((epoch, true));
            // Who only renews its epoch has watched the sessions all the time.
            if !std::mem::replace(&mut self.clocks_run, true) {
                self.restart_clocks(state, now_ms);
            }
        }
        self.unpark(state, now_ms, wall_ms);
    }

    /// A new leader gives every session its full timeout.
    fn restart_clocks(&mut self, state: &State, now_ms: u64) {
        self.deadlines = Deadlines::new(self.config.shards, self.config.tick_ms);
        let ours_ms = self.deadlines.turn(now_ms);
        for (id, session) in state.sessions() {
            let owner = session.owner;
            let holder = match owner {
                _ if owner.server != self.server() => Holder::Server(owner.server),
                _ if owner.boot == self.config.boot => Holder::Shard(owner.shard),
                _ => Holder::Nobody,
            };
            self.deadlines.start(id, session.timeout_ms as u64, holder, ours_ms);
        }
    }

    /// One record from a shard's ring.
    pub fn up(&mut self, shard: u16, up: Up<'_>, state: &State, now_ms: u64, wall_ms: i64) {
        match up {
            Up::Submit(submit) if submit.route != self.route => {}
            Up::Submit(submit) => self.request(shard, &submit, state, now_ms, wall_ms),
            Up::Touch { session } if self.leading.is_some() => {
                let ours_ms = self.deadlines.turn(now_ms);
                self.deadlines.touch(session, Holder::Shard(shard), ours_ms);
            }
            Up::Touch { session } => self.touches.heard(session),
            Up::Report { at_ms } => {
                self.deadlines.report(Holder::Shard(shard), at_ms);
                self.touches.drained(shard, at_ms);
            }
        }
    }

    /// Time passed: sessions expire, and nodes that nobody uses any more go.
    pub fn tick(&mut self, state: &State, now_ms: u64, wall_ms: i64) {
        self.zab.tick(now_ms);
        self.collect(now_ms);
        self.shut_if_useless(now_ms);
        if !self.proposes() {
            return;
        }
        let ours_ms = self.deadlines.turn(now_ms);
        while let Some(session) = self.deadlines.due(ours_ms, |server| self.zab.is_followed_by(server)) {
            self.deadlines.remove(session);
            self.close_session(session, Origin::default(), state, wall_ms);
        }
        if now_ms >= self.next_reap_ms {
            self.next_reap_ms = now_ms + self.config.reap.interval_ms;
            self.reap(state, wall_ms);
        }
    }

    // ---- proposals

    /// Whether transactions may be proposed now.
    fn proposes(&self) -> bool {
        // While it renews its epoch a leader is none, for replication.
        let leads = matches!(self.zab.standing(), Standing::Leading { .. }) || mutant!(M47);
        leads
            && matches!(self.leading, Some((_, applied)) if applied || mutant!(M40))
            && !self.zab.wants_renewal()
            && !self.zab.is_yielding()
            && !self.leaving
    }

    /// Proposes (e,0), the first record of this epoch. Nothing is served before it is committed.
    fn begin_epoch(&mut self, epoch: u32) {
        assert!(self.ahead.is_empty(), "who stands for election has everything on its medium");
        let tail = self.zab.appended();
        self.leading = Some((epoch, false));
        self.chain = tail.chain;
        self.last_proposed = u64::from(epoch) << 32;
        self.drop_proposals();
        let op = Op::NewEpoch { leader: self.server() };
        let txn = Txn { zxid: self.last_proposed, time_ms: 0, session: 0, origin: Origin::default(), op };
        self.builder.push(&txn).expect("an empty batch takes any small transaction");
        self.close_open_batch();
    }

    /// What was proposed and is not in the log never happened, and what is in the log needs no overlay.
    fn drop_proposals(&mut self) {
        self.builder.clear();
        self.closed.clear();
        self.proposed.clear();
        self.proposed_bytes = 0;
        self.closing.clear();
        self.moved.clear();
        self.prepare.reset();
    }

    /// The zxid of the next transaction.
    fn next_zxid(&mut self) -> u64 {
        if self.last_proposed as u32 >= self.config.counter_max {
            self.zab.renew_soon();
        }
        assert!((self.last_proposed as u32) < u32::MAX, "the next epoch comes well before the counter ends");
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

    fn close_open_batch(&mut self) {
        if self.builder.is_empty() {
            return;
        }
        let spare = self.spares.pop().unwrap_or_else(|| AlignedBuf::with_capacity(BATCH_BYTES_POOLED));
        let batch = self.builder.close(self.zab.cluster(), self.zab.committed(), self.chain, spare);
        self.chain = batch.header().chain;
        self.proposed_bytes += batch.frame().len();
        self.proposed.push_back((batch.position().zxid, batch.frame().len()));
        self.closed.push_back(batch);
    }

    // ---- the log

    /// The next batch for the log, or None. Call when the log is ready for one.
    pub fn next_batch(&mut self) -> Option<Batch> {
        if let Some(batch) = self.ahead.pop_front() {
            return Some(batch.copy(self.spares.pop().unwrap_or_else(|| AlignedBuf::with_capacity(0))));
        }
        if self.leading.is_none() {
            return self.zab.next_batch();
        }
        if self.closed.is_empty() {
            self.close_open_batch();
        }
        self.closed.pop_front()
    }

    /// The log has taken the batch.
    pub fn log_took(&mut self, batch: Arc<Batch>, now_ms: u64) {
        if batch.position().zxid > self.zab.appended().zxid {
            self.zab.log_took(batch);
            self.collect(now_ms);
        }
    }

    /// While our own log is busy, a batch goes to the followers as soon as the one before it is committed: a leader's slow
    /// disk does not stop the ensemble. How far the disk may lag behind is replication's to say.
    fn send_ahead(&mut self, now_ms: u64) {
        let alone = self.config.zab.ensemble.is_alone();
        let follows_up = |zab: &Zab| zab.appended().zxid <= zab.committed() && !zab.disk_lags();
        while self.leading.is_some() && !alone && follows_up(&self.zab) {
            if self.closed.is_empty() {
                self.close_open_batch();
            }
            let Some(batch) = self.closed.pop_front().map(Arc::new) else { return };
            crate::mark!("a batch is sent ahead of the leader's own log");
            self.ahead.push_back(batch.clone());
            self.zab.log_took(batch);
            self.collect(now_ms);
        }
    }

    /// Leadership is over. What was sent ahead and is committed still goes into our log; the rest never was in it.
    fn drop_ahead(&mut self) {
        let committed = self.zab.committed();
        let kept = self.ahead.partition_point(|batch| batch.position().zxid <= committed);
        if let Some(first) = self.ahead.get(kept) {
            crate::mark!("what was sent ahead is forgotten with the leadership");
            self.zab.forget_from(first.header().first_zxid);
            self.ahead.truncate(kept);
        }
    }

    /// Everything up to `position` is durable here.
    pub fn durable(&mut self, position: Position, now_ms: u64) {
        self.zab.durable(position, now_ms);
        self.collect(now_ms);
    }

    /// A promise is durable.
    pub fn promised(&mut self, promise: Promise, now_ms: u64) {
        self.zab.promised_durably(promise, now_ms);
        self.collect(now_ms);
    }

    /// The Journal switched snapshots, or dropped old segments.
    pub fn log_kept(&mut self, base: Position, snapshot: Option<SnapshotPointer>) {
        self.zab.log_kept(base, snapshot);
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
}
