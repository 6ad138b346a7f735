//! Replication: the brain that decides who leads, what every log holds and what is committed. ZAB with the papers' phases
//! and guarantees and fewer moving parts: the epoch is a record in the log, election and discovery are one exchange,
//! synchronisation and broadcast one stream. docs/zab.md has the messages, the durable state and the invariants.
//!
//! ```text
//! Looking ── pre-votes ──> Candidate ── a quorum has promised ──> Leader: Establish ── (e,0) committed ──> Broadcast
//!    ^                                                              │
//!    └── silence, reset ── Follower: promise -> ack -> cut or snapshot -> appends, acks
//! ```
//! An ensemble of one goes the same way, without messages. Time, the disk and the network are inputs, everything to be
//! done is an [`Effect`]. Positions told to others come from what the disk has confirmed, never from memory.
//! Refuses to know what a transaction is: it moves batches.

mod election;
mod follower;
mod leader;
pub mod message;
pub mod plan;
pub mod positions;
pub mod quorum;

#[cfg(test)]
mod message_tests;
#[cfg(test)]
mod tests;

use crate::limits::DISK_LAG_BYTES_MAX;
use crate::log::Promise;
use crate::log::snapshot::SnapshotPointer;
use crate::mutant;
use crate::wire::batch::{Batch, Position};
use crate::wire::txn::Origin;
use election::{Candidate, Loan, Looking};
use follower::Follower;
use leader::Leader;
pub use leader::LearnerFigures;
use message::{AnswerCode, Message, Outgoing};
use positions::{Positions, epoch};
use quorum::Ensemble;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

/// What a server knows before it starts.
#[derive(Clone, Debug)]
pub struct ZabConfig {
    pub server: u16,
    pub ensemble: Ensemble,
    /// Silence of a leader (or of a quorum, for a leader) after which it counts as gone.
    pub election_timeout_ms: u64,
    /// How often a leader is heard at least. Well below `election_timeout_ms`.
    pub heartbeat_ms: u64,
    /// A batch that the own disk does not confirm for so long, or more bytes of them, make a leader hand over: it lags behind.
    pub disk_stall_ms: u64,
    pub disk_lag_bytes_max: usize,
    /// A follower that catches up and gets no further for so long starts over, on a new connection.
    pub join_stall_ms: u64,
    /// So does one that has caught up and confirms nothing of what it was sent.
    pub ack_stall_ms: u64,
    /// Random bits, different at every start: they spread election timers.
    pub seed: u64,
}

impl ZabConfig {
    /// With the timeouts of a local network.
    pub fn new(server: u16, ensemble: Ensemble) -> ZabConfig {
        ZabConfig {
            server,
            ensemble,
            election_timeout_ms: 300,
            heartbeat_ms: 50,
            disk_stall_ms: 1000,
            disk_lag_bytes_max: DISK_LAG_BYTES_MAX,
            join_stall_ms: 20_000,
            ack_stall_ms: 10_000,
            seed: u64::from(server),
        }
    }
}

/// What the medium said at start.
pub struct Start {
    pub promise: Promise,
    /// Every batch end of the log, the base first.
    pub positions: Positions,
    /// Up to here the history is known to be committed; the State has it.
    pub committed: u64,
    /// The batches after that.
    pub pending: Vec<Arc<Batch>>,
    /// The newest usable snapshot.
    pub snapshot: Option<SnapshotPointer>,
}

impl Start {
    /// A member without any history.
    pub fn fresh(cluster: u128) -> Start {
        let promise = Promise { epoch: 0, to: 0, cluster, member: true };
        let positions = Positions::new([Position::default()]);
        Start { promise, positions, committed: 0, pending: Vec::new(), snapshot: None }
    }
}

/// What is to be done for the brain.
pub enum Effect {
    /// Hand the bytes to the connection, in this order.
    Send { peer: u16, message: Outgoing },
    /// What came from there makes no sense; a new connection starts afresh.
    Disconnect { peer: u16, why: &'static str },
    /// Make it durable, then call [`Zab::promised`].
    Promise(Promise),
    /// Cut the log. Takes effect at once for what is appended next.
    Truncate(Position),
    /// Every shard may apply it. In order, each batch once.
    Commit(Arc<Batch>),
    /// Read batches after a position from the log, then call [`Zab::fed`] with the token.
    Feed { after: Position, token: u64 },
    /// Read a part of our snapshot for a peer, then call [`Zab::snapshot_read`].
    ReadSnapshot { peer: u16, pointer: SnapshotPointer, offset: u64 },
    /// Store a part of a snapshot that comes from the leader, then call [`Zab::snapshot_wrote`]; after the last part
    /// verify and install it, then call [`Zab::installed`].
    WriteSnapshot { pointer: SnapshotPointer, offset: u64, bytes: Vec<u8>, last: bool },
    /// See [`Change`].
    Change(Change),
}

/// What became of this server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Propose (epoch,0) next, then transactions once it is committed.
    Lead { epoch: u32 },
    /// The leader's history is here up to its (epoch,0): requests may be forwarded.
    Follow { epoch: u32, leader: u16 },
    /// The way to a leader, or the leadership, is gone: what was under way may or may not have happened.
    Lost,
}

enum Role {
    Looking(Looking),
    Candidate(Candidate),
    Leader(Box<Leader>),
    Follower(Follower),
}

/// What a server is right now, for operators and for the Node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    Looking,
    /// Follows; `serving`: the leader's history up to its (e,0) is committed here.
    Following {
        leader: u16,
        serving: bool,
    },
    /// Leads; `established`: (e,0) is committed.
    Leading {
        epoch: u32,
        established: bool,
    },
}

/// The replication brain of one server. See the module heading.
pub struct Zab {
    config: ZabConfig,
    role: Role,
    /// On the medium.
    promise: Promise,
    /// On its way there.
    promising: Option<Promise>,
    up: BTreeSet<u16>,
    positions: Positions,
    durable: Position,
    committed: u64,
    /// The last batch handed out as committed.
    published: u64,
    /// Received, not yet given to the log, and since when the log has taken none of them.
    queue: VecDeque<Batch>,
    queued_since_ms: u64,
    /// In the log's hands or waiting for them, and not yet both durable and published.
    recent: VecDeque<Arc<Batch>>,
    snapshot: Option<SnapshotPointer>,
    /// A snapshot that has come in part, and how far.
    incoming: Option<(SnapshotPointer, u64)>,
    /// A part of it is being written, or the whole of it takes the place of the log: what this server has is in between.
    storing: bool,
    /// The own disk has no room for growth.
    full: bool,
    loan: Option<Loan>,
    /// Batches that the log has not confirmed: zxid, since when, and bytes.
    unconfirmed: VecDeque<(u64, u64, usize)>,
    unconfirmed_bytes: usize,
    dice: u64,
    /// Names reads from the log, over all epochs: what was read for an earlier one is of no use.
    next_token: u64,
    now_ms: u64,
    effects: VecDeque<Effect>,
}

impl Zab {
    pub fn new(config: ZabConfig, start: Start, now_ms: u64) -> Zab {
        let last = start.positions.last();
        assert!(epoch(last.zxid) <= start.promise.epoch, "a history never goes beyond the promise");
        let role = Role::Looking(Looking::new(now_ms));
        Zab {
            role,
            promise: start.promise,
            promising: None,
            up: BTreeSet::new(),
            durable: last,
            committed: start.committed,
            published: start.committed,
            positions: start.positions,
            queue: VecDeque::new(),
            queued_since_ms: now_ms,
            recent: start.pending.into(),
            snapshot: start.snapshot,
            incoming: None,
            storing: false,
            full: false,
            loan: None,
            unconfirmed: VecDeque::new(),
            unconfirmed_bytes: 0,
            dice: config.seed,
            next_token: 0,
            now_ms,
            effects: VecDeque::new(),
            config,
        }
    }

    // ---- what it knows

    pub fn server(&self) -> u16 {
        self.config.server
    }

    /// The cluster that this server is in; changes once at most, while the log is empty.
    pub fn cluster(&self) -> u128 {
        self.promise.cluster
    }

    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// The last batch given to the log.
    pub fn appended(&self) -> Position {
        self.positions.last()
    }

    pub fn standing(&self) -> Standing {
        match &self.role {
            Role::Looking(_) | Role::Candidate(_) => Standing::Looking,
            Role::Leader(leader) => Standing::Leading { epoch: leader.epoch, established: leader.established },
            Role::Follower(follower) => Standing::Following { leader: follower.leader, serving: follower.serving },
        }
    }

    /// Whether the log has this batch end, with this history before it.
    pub fn has(&self, position: Position) -> bool {
        self.positions.has(position)
    }

    pub fn is_alone(&self) -> bool {
        self.config.ensemble.is_alone()
    }

    /// The epoch of its leader, or the last one it has promised.
    pub fn epoch(&self) -> u32 {
        match &self.role {
            Role::Looking(_) | Role::Candidate(_) => self.promise.epoch,
            Role::Leader(leader) => leader.epoch,
            Role::Follower(follower) => follower.epoch,
        }
    }

    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When [`Zab::tick`] has something to do at the latest.
    pub fn deadline_ms(&self) -> u64 {
        match &self.role {
            Role::Looking(looking) => looking.fire_ms,
            Role::Candidate(candidate) => candidate.next_ms.min(candidate.until_ms),
            Role::Leader(leader) => leader.next_beat_ms,
            Role::Follower(follower) => follower.heard_ms + self.config.election_timeout_ms,
        }
    }

    // ---- inputs: time, links, messages

    pub fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        match &self.role {
            Role::Looking(_) => self.looking_tick(),
            Role::Candidate(_) => self.candidate_tick(),
            Role::Leader(_) => self.leader_tick(),
            Role::Follower(_) => self.follower_tick(),
        }
    }

    /// A connection to `peer` is there, in both directions, with nothing sent or received on it.
    pub fn peer_up(&mut self, peer: u16, now_ms: u64) {
        self.now_ms = now_ms;
        self.up.insert(peer);
        match &self.role {
            Role::Leader(_) => self.invite(peer),
            Role::Candidate(_) => self.call(peer),
            Role::Looking(_) => self.ask_too(peer),
            Role::Follower(_) => {}
        }
    }

    /// The connection to `peer` is gone, and what was on it.
    pub fn peer_down(&mut self, peer: u16, now_ms: u64) {
        self.now_ms = now_ms;
        self.up.remove(&peer);
        match &mut self.role {
            Role::Leader(leader) => drop(leader.learners.remove(&peer)),
            Role::Follower(follower) if follower.leader == peer => self.look(true),
            _ => {}
        }
    }

    /// A message from `peer`. What is for the Node is given back: forwarded requests to a leader that takes them, answers
    /// and touches of the right epoch.
    pub fn receive<'a>(&mut self, peer: u16, message: Message<'a>, now_ms: u64) -> Option<Message<'a>> {
        self.now_ms = now_ms;
        match message {
            Message::PreVote { round, last } => self.pre_vote(peer, round, last),
            Message::PreVoteReply { round, granted, member, cluster, promised, last } => {
                let reply = election::Reply { granted, member, cluster, promised, last };
                self.pre_vote_reply(peer, round, reply);
            }
            Message::NewEpoch { epoch, term, cluster, last } => self.new_epoch(peer, epoch, term, cluster, last),
            Message::AckEpoch { epoch, attempt, granted: true, member, table, .. } => {
                self.epoch_granted(peer, epoch, election::Vote { attempt, member, table });
            }
            Message::AckEpoch { epoch, granted: false, promised, .. } => self.epoch_refused(peer, epoch, promised),
            Message::SyncStart { epoch, attempt, sync } => self.sync_start(peer, epoch, attempt, sync),
            Message::NeedSnapshot { epoch } => self.need_snapshot(peer, epoch),
            Message::SnapshotWanted { epoch, zxid, offset } => self.snapshot_wanted(peer, epoch, zxid, offset),
            Message::SnapshotChunk { epoch, zxid, offset, bytes } => self.snapshot_chunk(peer, epoch, zxid, offset, bytes),
            Message::Append { epoch, committed, round, batch } => self.append(peer, epoch, committed, round, batch),
            Message::Ack { epoch, upto, round, full } => self.ack(peer, epoch, upto, round, full),
            Message::StepDown if self.follows(peer) => self.look(true),
            Message::StepDown => {}
            Message::Touch { epoch, .. } => return self.leads(epoch).then_some(message),
            Message::Forward { epoch, .. } => return self.has_led_since(epoch).then_some(message),
            Message::Answer { .. } => return self.follows(peer).then_some(message),
        }
        None
    }

    // ---- inputs: the log

    /// The next batch for the log, received from the leader. Call when the log is ready for one.
    pub fn next_batch(&mut self) -> Option<Batch> {
        self.queued_since_ms = self.now_ms;
        self.queue.pop_front()
    }

    /// For how long the log has taken nothing of what has come for it: its disk hangs, or has no room at all.
    pub fn log_stalls_ms(&self) -> u64 {
        if self.queue.is_empty() { 0 } else { self.now_ms.saturating_sub(self.queued_since_ms) }
    }

    /// The disk has no room for growth, or has some again.
    pub fn set_full(&mut self, full: bool) {
        if std::mem::replace(&mut self.full, full) != full
            && let Role::Follower(follower) = &mut self.role
        {
            follower.ack_due = true;
        }
    }

    /// The log has taken a batch: one of [`Zab::next_batch`], or one that this leader proposes. It may also get the latter
    /// later, in the same order: followers have them at once, so that a leader's slow disk is nobody else's.
    pub fn log_took(&mut self, batch: Arc<Batch>) {
        self.positions.push(batch.position());
        let bytes = batch.frame().len();
        self.unconfirmed.push_back((batch.position().zxid, self.now_ms, bytes));
        self.unconfirmed_bytes += bytes;
        self.recent.push_back(batch);
        match &self.role {
            Role::Leader(_) => self.pump_all(),
            Role::Follower(_) => self.advance_follower(),
            _ => {}
        }
    }

    /// The batches from this zxid on were never given to the log, and are not committed: this server does not lead any more.
    pub fn forget_from(&mut self, first_zxid: u64) {
        let to = self.positions.before(first_zxid);
        assert!(to.zxid >= self.committed && to.zxid >= self.durable.zxid, "what is committed or durable is not forgotten");
        self.forget_after(to);
        self.ack_epoch();
    }

    /// The log ends here.
    fn forget_after(&mut self, to: Position) {
        self.positions.truncate(to);
        while self.recent.pop_back_if(|batch| batch.position().zxid > to.zxid).is_some() {}
        while let Some((_, _, bytes)) = self.unconfirmed.pop_back_if(|(zxid, ..)| *zxid > to.zxid) {
            self.unconfirmed_bytes -= bytes;
        }
    }

    /// Everything up to `position` is on the medium.
    pub fn durable(&mut self, position: Position, now_ms: u64) {
        self.now_ms = now_ms;
        assert!(self.positions.has(position), "the log confirms what it was given");
        self.durable = position;
        while let Some((_, _, bytes)) = self.unconfirmed.pop_front_if(|(zxid, ..)| *zxid <= position.zxid) {
            self.unconfirmed_bytes -= bytes;
        }
        match &mut self.role {
            Role::Leader(_) => self.advance_commit(),
            Role::Follower(follower) => {
                follower.ack_due = true;
                self.ack_epoch();
            }
            Role::Candidate(_) => self.call_all(),
            Role::Looking(_) => {}
        }
        self.drop_settled();
    }

    /// A promise is on the medium.
    pub fn promised_durably(&mut self, promise: Promise, now_ms: u64) {
        self.now_ms = now_ms;
        assert_eq!(self.promising, Some(promise), "one promise at a time");
        self.promising = None;
        self.promise = promise;
        match &self.role {
            Role::Candidate(candidate) if candidate.epoch == promise.epoch => self.call_all(),
            Role::Follower(_) => self.ack_epoch(),
            _ => {}
        }
    }

    /// A snapshot of our own was switched in, or the log lost its oldest segments.
    pub fn log_kept(&mut self, base: Position, snapshot: Option<SnapshotPointer>) {
        if (base, snapshot) == (self.positions.base(), self.snapshot) {
            return;
        }
        self.positions.trim(base);
        self.snapshot = snapshot;
    }

    // ---- shared steps

    fn me(&self) -> u16 {
        self.config.server
    }

    /// Whether nothing is between memory and medium.
    fn settled(&self) -> bool {
        self.durable == self.appended() && self.queue.is_empty() && !self.storing
    }

    fn leads(&self, epoch: u32) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.epoch == epoch)
    }

    /// Whether this server leads, or renews its epoch, and has done so without a gap since `epoch`: a request that was
    /// forwarded then is not overtaken by a later one.
    fn has_led_since(&self, epoch: u32) -> bool {
        match &self.role {
            Role::Leader(leader) if mutant!(M48) => leader.epoch == epoch,
            Role::Leader(leader) => (leader.first..=leader.epoch).contains(&epoch),
            Role::Candidate(Candidate { renews: Some(first), epoch: next, .. }) => (*first..*next).contains(&epoch),
            Role::Looking(_) | Role::Follower(_) | Role::Candidate(_) => false,
        }
    }

    fn follows(&self, peer: u16) -> bool {
        matches!(&self.role, Role::Follower(follower) if follower.leader == peer)
    }

    fn send(&mut self, peer: u16, message: &Message<'_>) {
        if self.up.contains(&peer) {
            self.effects.push_back(Effect::Send { peer, message: Outgoing::new(message) });
        }
    }

    /// To everybody in the ensemble with a connection.
    fn broadcast(&mut self, message: &Message<'_>, to: impl Fn(u16) -> bool) {
        let message = Outgoing::new(message);
        for peer in self.up.iter().copied().filter(|peer| to(*peer)) {
            self.effects.push_back(Effect::Send { peer, message: message.clone() });
        }
    }

    fn start_promise(&mut self, promise: Promise) {
        assert!(self.promising.is_none() && promise.epoch >= self.promise.epoch);
        self.promising = Some(promise);
        self.effects.push_back(Effect::Promise(promise));
    }

    /// 0..n, from the server's own dice.
    fn roll(&mut self, n: u64) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.dice ^ (self.dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 31)) % n.max(1)
    }

    /// Hands out what is committed and in the log's hands.
    fn publish(&mut self) {
        let from = self.recent.partition_point(|b| b.position().zxid <= self.published);
        for batch in self.recent.iter().skip(from) {
            if batch.position().zxid > self.committed {
                break;
            }
            self.published = batch.position().zxid;
            self.effects.push_back(Effect::Commit(batch.clone()));
        }
        self.drop_settled();
    }

    /// What is durable and published is found in the log from now on.
    fn drop_settled(&mut self) {
        let upto = self.durable.zxid.min(self.published);
        while self.recent.pop_front_if(|batch| batch.position().zxid <= upto).is_some() {}
    }

    /// Whatever this server was, it has no leader now. `at_once`: nobody else is expected to stand first. Who has no room for growth
    /// leaves it to others to stand first.
    fn look(&mut self, at_once: bool) {
        let spread_ms = if at_once { self.config.heartbeat_ms } else { self.config.election_timeout_ms };
        let yields_ms = if self.full { self.config.election_timeout_ms } else { 0 };
        let fire_ms = self.now_ms + yields_ms + self.roll(spread_ms);
        let old = std::mem::replace(&mut self.role, Role::Looking(Looking::new(fire_ms)));
        self.queue.clear();
        match old {
            // Also to those who have not heard of the last renewal yet: they follow all the same.
            Role::Leader(_) | Role::Candidate(Candidate { renews: Some(_), .. }) => {
                self.broadcast(&Message::StepDown, |_| true);
                self.effects.push_back(Effect::Change(Change::Lost));
            }
            Role::Follower(_) => self.effects.push_back(Effect::Change(Change::Lost)),
            Role::Looking(_) | Role::Candidate(_) => {}
        }
    }

    // ---- for the Node

    /// A leader of others that is about to stop, with everything committed: they look for another one at once, and this
    /// server does not stand against them.
    pub fn step_down(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        if matches!(self.role, Role::Leader(_)) && !self.is_alone() {
            self.look(true);
            self.role = Role::Looking(Looking::retired());
        }
    }

    /// Sends a request of ours to the leader that we follow.
    pub fn forward(&mut self, boot: u32, shard: u16, submit: &[u8]) {
        let Role::Follower(follower) = &self.role else { unreachable!("only a follower forwards") };
        let (leader, epoch) = (follower.leader, follower.epoch);
        self.send(leader, &Message::Forward { epoch, boot, shard, submit });
    }

    /// The answer to a forwarded request, for where it came from. It goes before all that is to be done still: some of that may
    /// tell of a commit that belongs behind it.
    pub fn answer(&self, origin: &Origin, after: u64, code: AnswerCode) -> Option<Outgoing> {
        let Role::Leader(leader) = &self.role else { return None };
        let (epoch, Origin { conn, sequence, boot, server, shard }) = (leader.epoch, *origin);
        let message = Message::Answer { epoch, boot, shard, conn, sequence, after, code };
        self.up.contains(&server).then(|| Outgoing::new(&message))
    }

    /// Tells the leader whom we heard from, and that all sockets were drained after its heartbeat `round`.
    pub fn touch(&mut self, round: u64, sessions: Vec<i64>) {
        if let Role::Follower(follower) = &self.role {
            let (leader, epoch) = (follower.leader, follower.epoch);
            self.send(leader, &Message::Touch { epoch, round, sessions });
        }
    }
}
