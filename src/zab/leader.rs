//! Leading: every follower's log is made a prefix of ours and kept so, what a quorum has on its media is committed, and a
//! leader that hears no quorum gives up. A slow follower never slows the rest: beyond a window it is fed from the log.
//! Refuses to count anything but what an acknowledgement says is durable.

mod room;

use super::election::Vote;
use super::message::{Message, Outgoing, Sync, Term};
use super::plan::{Plan, plan};
use super::{Effect, Role, Zab};
use crate::limits::PEER_WINDOW_BYTES;
use crate::log::snapshot::SnapshotPointer;
use crate::mutant;
use crate::wire::batch::{Batch, Position};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// Heartbeats whose times are remembered, for touches and barriers.
const ROUNDS_KEPT: usize = 64;

enum Stage {
    /// Gets everything after `cursor`.
    Live,
    /// Fetches this snapshot.
    Snapshot(SnapshotPointer),
}

/// A server that follows us, as we know it.
pub(super) struct Learner {
    /// Its acknowledgements count.
    counts: bool,
    /// Its name for this try to follow.
    attempt: u64,
    stage: Stage,
    /// The last batch sent.
    cursor: Position,
    /// The last batch it has on its medium, of those that it has from us or that we share.
    acked: u64,
    /// Sent and not acknowledged: zxid and bytes.
    in_flight: VecDeque<(u64, usize)>,
    in_flight_bytes: usize,
    /// A read from the log is under way for it, by this token.
    feeding: Option<u64>,
    round: u64,
    heard_ms: u64,
    /// When it confirmed something, or had nothing to confirm.
    progress_ms: u64,
    /// The commit that it was last told.
    told: u64,
    /// Its disk has no room for growth.
    full: bool,
}

pub(super) struct Leader {
    pub epoch: u32,
    /// The first epoch that this server has led without a gap up to this one: requests forwarded since then are good.
    pub first: u32,
    pub established: bool,
    pub renew_to: Option<u32>,
    pub learners: BTreeMap<u16, Learner>,
    /// Heartbeats sent so far, and when the last ones were.
    round: u64,
    rounds: VecDeque<(u64, u64)>,
    beat_wanted: bool,
    pub next_beat_ms: u64,
    /// Nothing is proposed since then, so that others have everything and one of them can lead.
    yielding_since_ms: Option<u64>,
    /// Or: since when this server has led without trying that.
    kept_since_ms: u64,
}

impl Leader {
    pub fn new(epoch: u32, first: u32, now_ms: u64) -> Leader {
        Leader {
            epoch,
            first,
            established: false,
            renew_to: None,
            learners: BTreeMap::new(),
            round: 0,
            rounds: VecDeque::new(),
            beat_wanted: true,
            next_beat_ms: now_ms,
            yielding_since_ms: None,
            kept_since_ms: now_ms,
        }
    }
}

impl Zab {
    fn leader(&mut self) -> Option<&mut Leader> {
        if let Role::Leader(leader) = &mut self.role { Some(leader) } else { None }
    }

    fn learner(&mut self, peer: u16) -> Option<&mut Learner> {
        self.leader()?.learners.get_mut(&peer)
    }

    pub(super) fn leader_tick(&mut self) {
        let (now_ms, beat_ms) = (self.now_ms, self.config.heartbeat_ms);
        if self.disk_lags() {
            crate::mark!("a leader hands over because its disk lags");
            return self.look(false);
        }
        if !self.hears_quorum() {
            return self.look(false);
        }
        self.consider_yielding();
        let Some(leader) = self.leader().filter(|l| now_ms >= l.next_beat_ms) else { return };
        leader.next_beat_ms = now_ms + beat_ms;
        leader.beat_wanted = true;
        self.drop_stuck_learners();
        for peer in self.up.iter().copied().collect::<Vec<_>>() {
            self.invite(peer);
        }
    }

    /// Who confirms nothing of what it was sent starts over. One without room would not get further by that, and one that fetches
    /// a snapshot does so at its own pace.
    fn drop_stuck_learners(&mut self) {
        let (now_ms, join_ms, ack_ms) = (self.now_ms, self.config.join_stall_ms, self.config.ack_stall_ms);
        let Role::Leader(leader) = &mut self.role else { return };
        let first = u64::from(leader.epoch) << 32;
        for (peer, learner) in &mut leader.learners {
            let stall_ms = if learner.acked >= first { ack_ms } else { join_ms };
            if learner.in_flight.is_empty() || learner.full || matches!(learner.stage, Stage::Snapshot(_)) {
                learner.progress_ms = now_ms;
            } else if now_ms >= learner.progress_ms + stall_ms {
                crate::mark!("a follower that confirms nothing starts over");
                learner.progress_ms = now_ms;
                self.effects.push_back(Effect::Disconnect { peer: *peer, why: "it confirms nothing of what it is sent" });
            }
        }
    }

    fn hears_quorum(&self) -> bool {
        let Role::Leader(leader) = &self.role else { return true };
        let (me, silent_ms) = (self.me(), self.config.election_timeout_ms);
        let hears = |s: u16| leader.learners.get(&s).is_some_and(|l| l.counts && self.now_ms < l.heard_ms + silent_ms);
        self.config.ensemble.is_quorum(|server| server == me || hears(server))
    }

    /// Whether our own disk is too far behind to lead. A leader alone with its disk has nobody to hand over to.
    pub fn disk_lags(&self) -> bool {
        let long = self.lag_ms() >= self.config.disk_stall_ms;
        let lags = long || self.unconfirmed_bytes > self.config.disk_lag_bytes_max;
        lags && !self.config.ensemble.is_alone() && !mutant!(M83)
    }

    /// For how long a leader's disk has owed a confirmation.
    pub fn lag_ms(&self) -> u64 {
        let leads = matches!(self.role, Role::Leader(_)) && !self.config.ensemble.is_alone();
        self.unconfirmed.front().filter(|_| leads).map_or(0, |(_, since_ms, _)| self.now_ms.saturating_sub(*since_ms))
    }

    /// Asks a server that does not follow yet to do so.
    pub(super) fn invite(&mut self, peer: u16) {
        let Role::Leader(leader) = &self.role else { return };
        if !leader.learners.contains_key(&peer) {
            let term = if leader.established { Term::Established } else { Term::Vote };
            let (epoch, cluster, last) = (leader.epoch, self.promise.cluster, self.durable);
            self.send(peer, &Message::NewEpoch { epoch, term, cluster, last });
        }
    }

    /// It asks for votes: it does not follow us, whatever it did before.
    pub(super) fn forget_learner(&mut self, peer: u16) {
        if let Some(leader) = self.leader() {
            leader.learners.remove(&peer);
        }
    }

    /// A server has promised our epoch and says what it has.
    pub(super) fn start_sync(&mut self, peer: u16, vote: &Vote) {
        let Vote { attempt, member, table } = vote;
        if peer == self.me() {
            return;
        }
        let counts = *member && self.config.ensemble.is_voter(peer);
        let plan = plan(&self.positions, table);
        let last = *table.last().expect("a table has an entry: decoding checks it");
        let (sync, cursor) = match plan {
            Plan::Diff => (Sync::Diff, last),
            Plan::Trunc(to) => (Sync::Trunc(to), to),
            Plan::Snap => (Sync::Diff, Position::default()),
        };
        let learner = Learner {
            counts,
            attempt: *attempt,
            stage: Stage::Live,
            cursor,
            acked: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            feeding: None,
            round: 0,
            heard_ms: self.now_ms,
            progress_ms: self.now_ms,
            told: 0,
            full: false,
        };
        let Some(leader) = self.leader() else { return };
        let epoch = leader.epoch;
        leader.learners.insert(peer, learner);
        leader.beat_wanted = true;
        match plan {
            Plan::Diff => crate::mark!("sync by diff"),
            Plan::Trunc(_) => crate::mark!("sync by truncation"),
            Plan::Snap => return self.start_snapshot(peer),
        }
        self.send(peer, &Message::SyncStart { epoch, attempt: *attempt, sync });
        self.pump(peer);
    }

    pub(super) fn need_snapshot(&mut self, peer: u16, epoch: u32) {
        if self.leads(epoch) {
            self.start_snapshot(peer);
        }
    }

    /// The follower fetches our newest snapshot, piece by piece, at its own pace.
    fn start_snapshot(&mut self, peer: u16) {
        let Some(pointer) = self.snapshot else {
            // Our log reaches back to the beginning, so whatever differs is not ours: only its operator can tell.
            tracing::error!("server {peer} has a history that is not ours; it needs a new, empty data directory");
            self.forget_learner(peer);
            return self.effects.push_back(Effect::Disconnect { peer, why: "its history is not ours" });
        };
        crate::mark!("sync by snapshot");
        let Some(leader) = self.leader() else { return };
        let epoch = leader.epoch;
        let Some(learner) = leader.learners.get_mut(&peer) else { return };
        learner.stage = Stage::Snapshot(pointer);
        learner.feeding = None;
        learner.in_flight.clear();
        learner.in_flight_bytes = 0;
        let attempt = learner.attempt;
        self.send(peer, &Message::SyncStart { epoch, attempt, sync: Sync::Snap(pointer) });
    }

    pub(super) fn snapshot_wanted(&mut self, peer: u16, epoch: u32, zxid: u64, offset: u64) {
        if !self.leads(epoch) {
            return;
        }
        let Some(learner) = self.learner(peer) else { return };
        match learner.stage {
            Stage::Snapshot(pointer) if pointer.position.zxid == zxid && offset < pointer.bytes => {
                self.effects.push_back(Effect::ReadSnapshot { peer, pointer, offset });
            }
            _ => self.start_snapshot(peer),
        }
    }

    /// The part of our snapshot that [`Effect::ReadSnapshot`] asked for; None: the file is gone.
    pub fn snapshot_read(&mut self, peer: u16, pointer: SnapshotPointer, offset: u64, bytes: Option<&[u8]>) {
        let Some(leader) = self.leader() else { return };
        let epoch = leader.epoch;
        if !leader.learners.get(&peer).is_some_and(|l| matches!(l.stage, Stage::Snapshot(p) if p == pointer)) {
            return;
        }
        match bytes {
            Some(bytes) => self.send(peer, &Message::SnapshotChunk { epoch, zxid: pointer.position.zxid, offset, bytes }),
            None if self.snapshot == Some(pointer) => {
                self.effects.push_back(Effect::Disconnect { peer, why: "our snapshot cannot be read" })
            }
            None => self.start_snapshot(peer),
        }
    }

    // ---- batches on their way

    pub(super) fn pump_all(&mut self) {
        let Some(leader) = self.leader() else { return };
        for peer in leader.learners.keys().copied().collect::<Vec<_>>() {
            self.pump(peer);
        }
    }

    /// Sends what the follower may have and its window takes.
    fn pump(&mut self, peer: u16) {
        let (limit, committed) = (self.send_limit(peer), self.committed);
        let Role::Leader(leader) = &mut self.role else { return };
        let (epoch, round) = (leader.epoch, leader.round);
        let Some(learner) = leader.learners.get_mut(&peer).filter(|l| matches!(l.stage, Stage::Live)) else { return };
        while learner.cursor.zxid < limit && learner.in_flight_bytes < PEER_WINDOW_BYTES && learner.feeding.is_none() {
            let next = self.recent.partition_point(|b| b.position().zxid <= learner.cursor.zxid);
            match self.recent.get(next).filter(|b| mutant!(M06) || b.header().prev_chain == learner.cursor.chain) {
                Some(batch) if batch.position().zxid > limit => return,
                Some(batch) => {
                    let message = learner.send(epoch, committed, round, batch.clone());
                    self.effects.push_back(Effect::Send { peer, message });
                }
                None => {
                    crate::mark!("a follower is fed from the log");
                    self.next_token += 1;
                    learner.feeding = Some(self.next_token);
                    self.effects.push_back(Effect::Feed { after: learner.cursor, token: self.next_token });
                }
            }
        }
    }

    /// Observers see only what is committed.
    fn send_limit(&self, peer: u16) -> u64 {
        if self.config.ensemble.is_voter(peer) || mutant!(M18) { self.appended().zxid } else { self.committed.min(self.appended().zxid) }
    }

    /// Batches from the log for a peer; None: the log does not reach back so far any more.
    pub fn fed(&mut self, token: u64, batches: Option<Vec<Batch>>, now_ms: u64) {
        self.now_ms = now_ms;
        let Some(leader) = self.leader() else { return };
        let Some(peer) = leader.learners.iter().find(|(_, l)| l.feeding == Some(token)).map(|(peer, _)| *peer) else { return };
        let limit = self.send_limit(peer);
        let committed = self.committed;
        let Role::Leader(leader) = &mut self.role else { return };
        let (epoch, round) = (leader.epoch, leader.round);
        let Some(learner) = leader.learners.get_mut(&peer) else { return };
        learner.feeding = None;
        let Some(batches) = batches.filter(|b| !b.is_empty()) else { return self.start_snapshot(peer) };
        for batch in batches {
            assert_eq!(batch.header().prev_chain, learner.cursor.chain, "the log is read on from where the peer is");
            if batch.position().zxid > limit {
                break;
            }
            let message = learner.send(epoch, committed, round, Arc::new(batch));
            self.effects.push_back(Effect::Send { peer, message });
        }
        self.pump(peer);
    }

    pub(super) fn ack(&mut self, peer: u16, epoch: u32, upto: Position, round: u64, full: bool) {
        if !self.leads(epoch) {
            return;
        }
        let (now_ms, known, base) = (self.now_ms, self.positions.has(upto), self.positions.base());
        let Some(learner) = self.learner(peer) else { return };
        learner.heard_ms = now_ms;
        learner.round = learner.round.max(round);
        learner.full = full;
        if upto.zxid == 0 {
            return self.pump(peer); // it has nothing of ours yet
        }
        match learner.stage {
            Stage::Snapshot(pointer) if pointer.position == upto => {
                learner.stage = Stage::Live;
                learner.cursor = upto;
            }
            Stage::Snapshot(_) => return,
            Stage::Live if !known && upto.zxid > base.zxid => {
                tracing::error!("server {peer} acknowledges 0x{:x} of a history that is not ours", upto.zxid);
                self.forget_learner(peer);
                return self.effects.push_back(Effect::Disconnect { peer, why: "it acknowledges what we never sent" });
            }
            Stage::Live => {}
        }
        if upto.zxid > learner.acked {
            learner.progress_ms = now_ms;
        }
        learner.acknowledge(upto.zxid);
        self.advance_commit();
        self.pump(peer);
    }

    // ---- commit

    pub(super) fn advance_commit(&mut self) {
        let durable = if mutant!(M53) { self.appended().zxid } else { self.durable.zxid };
        let me = self.me();
        let Role::Leader(leader) = &mut self.role else { return };
        let counted = |server: u16| {
            if server == me { durable } else { leader.learners.get(&server).filter(|l| l.counts).map_or(0, |l| l.acked) }
        };
        let reached = self.config.ensemble.reached(counted);
        let first = u64::from(leader.epoch) << 32;
        if (reached >= first || mutant!(M20)) && reached > self.committed {
            self.committed = reached;
            if !leader.established {
                leader.established = true;
                leader.beat_wanted = true;
            }
            self.publish();
            self.pump_observers();
        }
    }

    fn pump_observers(&mut self) {
        let Role::Leader(leader) = &self.role else { return };
        let observers: Vec<u16> = leader.learners.keys().copied().filter(|p| !self.config.ensemble.is_voter(*p)).collect();
        observers.into_iter().for_each(|peer| self.pump(peer));
    }

    /// The end of a turn: followers hear of new commits, and of a new heartbeat if one is due or a barrier waits for it.
    pub fn flush(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        match &self.role {
            Role::Leader(_) => self.flush_leader(),
            Role::Follower(_) => self.flush_follower(),
            Role::Looking(_) | Role::Candidate(_) => {}
        }
    }

    fn flush_leader(&mut self) {
        let (now_ms, committed) = (self.now_ms, self.committed);
        let Role::Leader(leader) = &mut self.role else { return };
        let beat = std::mem::take(&mut leader.beat_wanted);
        if beat {
            leader.round += 1;
            leader.rounds.push_back((leader.round, now_ms));
            if leader.rounds.len() > ROUNDS_KEPT {
                leader.rounds.pop_front();
            }
        }
        let message = Message::Append { epoch: leader.epoch, committed, round: leader.round, batch: None };
        let mut concerned = BTreeSet::new();
        for (peer, learner) in leader.learners.iter_mut().filter(|(_, l)| beat || l.told < committed) {
            learner.told = committed;
            concerned.insert(*peer);
        }
        if !concerned.is_empty() {
            self.broadcast(&message, |peer| concerned.contains(&peer));
        }
    }

    // ---- barriers and clocks, for the Node

    /// Asks for proof that this server still leads: from [`Zab::confirmed`] on reaching the returned round it did, at some
    /// time after this call.
    pub fn barrier(&mut self) -> u64 {
        let leader = self.leader().expect("only a leader is asked for barriers");
        leader.beat_wanted = true;
        leader.round + 1
    }

    /// The highest round that a quorum has answered.
    pub fn confirmed(&self) -> u64 {
        let Role::Leader(leader) = &self.role else { return 0 };
        let me = self.me();
        let counted = |server: u16| {
            if server == me { leader.round } else { leader.learners.get(&server).filter(|l| l.counts).map_or(0, |l| l.round) }
        };
        self.config.ensemble.reached(counted)
    }

    /// When heartbeat `round` was sent; None: too long ago, or never.
    pub fn round_sent_ms(&self, round: u64) -> Option<u64> {
        let Role::Leader(leader) = &self.role else { return None };
        leader.rounds.iter().find(|(r, _)| *r == round).map(|(_, sent_ms)| *sent_ms)
    }

    /// Whether `peer` follows us now: sessions that it holds may be alive without our hearing of them.
    pub fn is_followed_by(&self, peer: u16) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.learners.contains_key(&peer))
    }
}

/// A server that follows this leader, for operators.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LearnerFigures {
    pub server: u16,
    /// Of the ensemble's voters, and whether its acknowledgements count: not those of one that has lost its disk.
    pub is_voter: bool,
    pub counts: bool,
    /// It has our (e,0) on its medium.
    pub synced: bool,
    /// Transactions it has not confirmed, as far as they are of this epoch.
    pub behind_txns: u64,
    /// Bytes sent to it and not confirmed.
    pub in_flight_bytes: u64,
}

impl Zab {
    /// Who follows this leader; nobody follows another server.
    pub fn learners(&self) -> Vec<LearnerFigures> {
        let Role::Leader(leader) = &self.role else { return Vec::new() };
        let (first, last) = (u64::from(leader.epoch) << 32, self.appended().zxid);
        let figures = |(server, learner): (&u16, &Learner)| LearnerFigures {
            server: *server,
            is_voter: self.config.ensemble.is_voter(*server),
            counts: learner.counts,
            synced: matches!(learner.stage, Stage::Live) && learner.acked >= first,
            behind_txns: last - learner.acked.clamp(first.min(last), last),
            in_flight_bytes: learner.in_flight_bytes as u64,
        };
        leader.learners.iter().map(figures).collect()
    }
}

impl Learner {
    /// The message with the next batch for this peer.
    fn send(&mut self, epoch: u32, committed: u64, round: u64, batch: Arc<Batch>) -> Outgoing {
        self.cursor = batch.position();
        self.told = committed;
        let message = Outgoing::append(epoch, committed, round, batch);
        self.in_flight.push_back((self.cursor.zxid, message.bytes()));
        self.in_flight_bytes += message.bytes();
        message
    }

    fn acknowledge(&mut self, zxid: u64) {
        self.acked = self.acked.max(zxid);
        while let Some((_, bytes)) = self.in_flight.pop_front_if(|(sent, _)| *sent <= zxid) {
            self.in_flight_bytes -= bytes;
        }
    }
}
