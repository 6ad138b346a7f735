//! Looking for a leader, and standing for it. The pre-vote round asks without promising anything, so a server that nobody
//! misses disturbs nobody; then one durable promise per epoch decides. Of equals the one with the highest id goes first.
//! Refuses to stand while the disk owes an answer: what is told must be on the medium.

use super::message::{Message, Term};
use super::positions::epoch as epoch_of;
use super::{Change, Effect, Role, Zab};
use crate::log::Promise;
use crate::mutant;
use crate::wire::batch::Position;
use std::collections::BTreeMap;

/// No promise may jump further: a broken or hostile peer cannot use up the epochs.
const EPOCH_JUMP_MAX: u32 = 1 << 20;

/// What a peer said to our pre-vote.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reply {
    pub granted: bool,
    pub member: bool,
    pub cluster: u128,
    pub promised: u32,
    pub last: Position,
}

/// A granted AckEpoch.
#[derive(Clone, Debug)]
pub(super) struct Vote {
    pub attempt: u64,
    pub member: bool,
    pub table: Vec<Position>,
}

pub(super) struct Looking {
    /// When to ask (again); the end of time: never.
    pub fire_ms: u64,
    asked_ms: Option<u64>,
    round: u64,
    replies: BTreeMap<u16, Reply>,
}

impl Looking {
    pub fn new(fire_ms: u64) -> Looking {
        Looking { fire_ms, asked_ms: None, round: 0, replies: BTreeMap::new() }
    }

    /// Votes for others and never asks.
    pub fn retired() -> Looking {
        Looking::new(u64::MAX)
    }
}

/// To whom a pre-vote was given: for as long as a heartbeat nobody else gets one who has no more and goes no earlier.
pub(super) struct Loan {
    to: (u64, u16),
    until_ms: u64,
}

pub(super) struct Candidate {
    pub epoch: u32,
    term: Term,
    /// It leads already, since this epoch, and only wants the next one.
    pub renews: Option<u32>,
    /// Whose promise is on the medium, with what they have.
    granted: BTreeMap<u16, Vote>,
    called: bool,
    /// When to call again those who have not answered, and when to give up.
    pub next_ms: u64,
    pub until_ms: u64,
}

impl Zab {
    fn is_voter(&self) -> bool {
        self.config.ensemble.is_voter(self.me())
    }

    /// Whether there is no history here.
    fn is_empty(&self) -> bool {
        self.appended().zxid == 0
    }

    pub(super) fn looking_tick(&mut self) {
        let Role::Looking(looking) = &self.role else { return };
        if self.now_ms >= looking.fire_ms && self.promising.is_none() {
            self.ask();
        }
    }

    /// Starts a round of pre-votes. An observer asks too: nobody answers, but a leader that took it for a follower notices.
    fn ask(&mut self) {
        let half_ms = self.config.election_timeout_ms / 2;
        let wait_ms = half_ms + self.roll(half_ms);
        let settled = self.settled() || mutant!(M07);
        let last = if mutant!(M07) { self.appended() } else { self.durable };
        let Promise { epoch: promised, cluster, .. } = self.promise;
        let member = self.promise.member || mutant!(M24);
        let (now_ms, me, round_seed) = (self.now_ms, self.me(), self.roll(u64::MAX));
        let Role::Looking(looking) = &mut self.role else { return };
        looking.fire_ms = now_ms + wait_ms;
        if !settled {
            return;
        }
        looking.asked_ms = Some(now_ms);
        looking.round = round_seed;
        looking.replies.clear();
        looking.replies.insert(me, Reply { granted: true, member, cluster, promised, last });
        self.broadcast(&Message::PreVote { round: round_seed, last }, |_| true);
        if self.is_voter() {
            self.weigh_replies();
        }
    }

    /// A connection came about in the middle of a round.
    pub(super) fn ask_too(&mut self, peer: u16) {
        let (settled, last) = (self.settled(), self.durable);
        let Role::Looking(looking) = &self.role else { return };
        if looking.asked_ms.is_some() && settled {
            let round = looking.round;
            self.send(peer, &Message::PreVote { round, last });
        }
    }

    /// Somebody asks whether we would vote for it.
    pub(super) fn pre_vote(&mut self, peer: u16, round: u64, last: Position) {
        if matches!(self.role, Role::Leader(_)) {
            self.forget_learner(peer);
            return self.invite(peer);
        }
        let granted = self.would_vote(peer, last) && self.yields_to(peer, last);
        if !granted && last.zxid < self.durable.zxid {
            self.ask_instead(peer);
        }
        let (member, promised, durable) = (self.promise.member || mutant!(M24), self.promise.epoch, self.durable);
        let cluster = self.promise.cluster;
        self.send(peer, &Message::PreVoteReply { round, granted, member, cluster, promised, last: durable });
    }

    /// Whether nothing has come from the leader for so long that one who misses it for the whole timeout is believed.
    fn suspects_leader(&self) -> bool {
        let suspicious_ms = self.config.election_timeout_ms * 2 / 3;
        matches!(&self.role, Role::Follower(f) if self.now_ms >= f.heard_ms + suspicious_ms)
    }

    /// Whether a vote for `peer` would be right: its history is not shorter, and no leader is alive.
    fn would_vote(&self, peer: u16, last: Position) -> bool {
        let live = match &self.role {
            Role::Follower(f) => f.leader != peer && !self.suspects_leader(),
            Role::Leader(_) => true,
            Role::Looking(_) | Role::Candidate(_) => false,
        };
        let fork = last.zxid == self.durable.zxid && last.chain != self.durable.chain;
        if fork {
            tracing::error!("server {peer} has another history up to the same zxid 0x{:x}: one of the two disks lies", last.zxid);
        }
        let ours = if mutant!(M12) { self.published } else { self.durable.zxid };
        let as_long = last.zxid >= ours || mutant!(M03);
        self.is_voter() && self.config.ensemble.is_voter(peer) && !live && !fork && as_long
    }

    /// Whether `peer`, which has no less than we have, goes first. Of two that ask at the same time and have the same it is the
    /// one with the higher id, if that has room; a third lets who asked first try alone.
    fn yields_to(&mut self, peer: u16, last: Position) -> bool {
        let (now_ms, beat_ms) = (self.now_ms, self.config.heartbeat_ms);
        let until_ms = now_ms + beat_ms;
        let goes_first = last.zxid == self.durable.zxid && peer < self.me() && !self.full;
        match &self.role {
            Role::Looking(looking) if goes_first && looking.asked_ms.is_some_and(|asked_ms| now_ms < asked_ms + beat_ms) => return false,
            Role::Candidate(_) => return false,
            _ => {}
        }
        let asker = (last.zxid, peer);
        if self.loan.as_ref().is_some_and(|loan| now_ms < loan.until_ms && asker < loan.to) {
            return false;
        }
        self.loan = Some(Loan { to: asker, until_ms });
        if let Role::Looking(looking) = &mut self.role {
            looking.fire_ms = looking.fire_ms.max(until_ms);
        }
        true
    }

    /// Somebody who has less than we have misses the leader. So may we: then it is ours to stand.
    fn ask_instead(&mut self, peer: u16) {
        if self.suspects_leader() && self.config.ensemble.is_voter(peer) {
            self.look(true);
        }
        let now_ms = self.now_ms;
        if let Role::Looking(looking) = &mut self.role
            && looking.asked_ms.is_none()
            && looking.fire_ms != u64::MAX
            && !self.full
        {
            looking.fire_ms = now_ms;
        }
    }

    pub(super) fn pre_vote_reply(&mut self, peer: u16, round: u64, reply: Reply) {
        let Role::Looking(looking) = &mut self.role else { return };
        if looking.round == round && looking.round != 0 && self.config.ensemble.is_voter(self.config.server) {
            looking.replies.insert(peer, reply);
            self.weigh_replies();
        }
    }

    /// Stands for election once enough would vote.
    fn weigh_replies(&mut self) {
        let Role::Looking(looking) = &self.role else { return };
        let ensemble = &self.config.ensemble;
        let replies = &looking.replies;
        // Two bootstraps that were broken off may have left members of two ensembles: those vote for none of the other.
        let ours = self.promise.cluster;
        let member = |server| replies.get(&server).is_some_and(|r| r.granted && r.member && r.cluster == ours);
        let nobody_has_any = |server| replies.get(&server).is_some_and(|r| r.granted && r.last.zxid == 0);
        // As long as there is no history at all everybody has to agree, so that nobody is left out for good.
        let term = if self.promise.member && !self.is_empty() && ensemble.is_quorum(member) {
            Term::Vote
        } else if self.is_empty() && ensemble.voters().all(nobody_has_any) {
            Term::Bootstrap
        } else {
            return;
        };
        let highest = replies.values().map(|r| r.promised).max().unwrap_or(0).max(self.promise.epoch);
        if highest - self.promise.epoch <= EPOCH_JUMP_MAX && self.promising.is_none() {
            self.stand(highest + 1, term, None);
        }
    }

    /// Promises the epoch to itself; the call goes out when that is on the medium.
    pub(super) fn stand(&mut self, epoch: u32, term: Term, renews: Option<u32>) {
        crate::mark!("stands for election");
        let until_ms = self.now_ms + 2 * self.config.election_timeout_ms;
        let next_ms = self.now_ms + self.config.heartbeat_ms;
        self.role = Role::Candidate(Candidate { epoch, term, renews, granted: BTreeMap::new(), called: false, next_ms, until_ms });
        let member = self.promise.member || term == Term::Bootstrap;
        self.start_promise(Promise { epoch, to: u64::from(self.me()), cluster: self.promise.cluster, member });
    }

    pub(super) fn candidate_tick(&mut self) {
        let (now_ms, beat_ms) = (self.now_ms, self.config.heartbeat_ms);
        let Role::Candidate(candidate) = &mut self.role else { return };
        if now_ms >= candidate.until_ms {
            return self.look(false);
        }
        if now_ms >= candidate.next_ms {
            candidate.next_ms = now_ms + beat_ms;
            self.call_all();
        }
    }

    /// Calls for votes, once our own is on the medium and with it everything that we claim to have.
    pub(super) fn call_all(&mut self) {
        let (promised, settled) = (self.promise.epoch, self.settled());
        let (me, table) = (self.me(), self.positions.epochs());
        let Role::Candidate(candidate) = &mut self.role else { return };
        if promised != candidate.epoch || !settled {
            return;
        }
        candidate.called = true;
        candidate.granted.insert(me, Vote { attempt: 0, member: true, table });
        for peer in self.up.iter().copied().collect::<Vec<_>>() {
            self.call(peer);
        }
        self.count_votes();
    }

    pub(super) fn call(&mut self, peer: u16) {
        let Role::Candidate(candidate) = &self.role else { return };
        if candidate.called && !candidate.granted.contains_key(&peer) && self.config.ensemble.is_voter(peer) {
            let (epoch, term) = (candidate.epoch, candidate.term);
            let (cluster, last) = (self.promise.cluster, self.durable);
            self.send(peer, &Message::NewEpoch { epoch, term, cluster, last });
        }
    }

    /// A candidate calls, or a leader invites.
    pub(super) fn new_epoch(&mut self, peer: u16, epoch: u32, term: Term, cluster: u128, last: Position) {
        if matches!(&self.role, Role::Follower(f) if f.epoch == epoch && f.leader == peer) {
            return; // on the way already
        }
        if self.promising.is_some() || !self.config.ensemble.is_voter(peer) {
            return; // it calls again
        }
        let again = epoch == self.promise.epoch && self.promise.to == u64::from(peer);
        let free =
            (epoch > self.promise.epoch || mutant!(M23) && epoch == self.promise.epoch) && epoch - self.promise.epoch <= EPOCH_JUMP_MAX;
        let stranger = cluster != self.promise.cluster;
        let granted = match term {
            Term::Established => epoch >= self.promise.epoch && (!stranger || self.is_empty()),
            Term::Bootstrap => (again || free) && self.is_empty() && self.would_vote(peer, last),
            Term::Vote => (again || free) && !stranger && (self.promise.member || mutant!(M24)) && self.would_vote(peer, last),
        };
        if !granted {
            let (member, promised, table) = (self.promise.member, self.promise.epoch, self.positions.epochs());
            return self.send(peer, &Message::AckEpoch { epoch, attempt: 0, granted: false, member, promised, table });
        }
        self.follow(peer, epoch);
        let member = self.promise.member || term == Term::Bootstrap;
        let promise = Promise { epoch, to: u64::from(peer), cluster, member };
        if promise != self.promise {
            self.start_promise(promise);
        }
        if promise == self.promise || mutant!(M22) {
            self.ack_epoch();
        }
    }

    /// A voter's promise is on its medium.
    pub(super) fn epoch_granted(&mut self, peer: u16, epoch: u32, vote: Vote) {
        match &mut self.role {
            Role::Candidate(candidate) if candidate.epoch == epoch && candidate.called => {
                candidate.granted.insert(peer, vote);
                self.count_votes();
            }
            Role::Leader(leader) if leader.epoch == epoch => self.start_sync(peer, &vote),
            _ => {}
        }
    }

    fn count_votes(&mut self) {
        let Role::Candidate(candidate) = &self.role else { return };
        let ensemble = &self.config.ensemble;
        let voted = |server| candidate.granted.get(&server).is_some_and(|vote| vote.member);
        let enough = match candidate.term {
            Term::Bootstrap => ensemble.voters().all(voted),
            Term::Vote | Term::Established => ensemble.is_quorum(voted) || mutant!(M21),
        };
        if enough {
            let Role::Candidate(candidate) = std::mem::replace(&mut self.role, Role::Looking(Looking::new(0))) else { return };
            self.lead(candidate.epoch, candidate.renews);
            for (peer, vote) in candidate.granted {
                self.start_sync(peer, &vote);
            }
        }
    }

    /// A refusal may show an epoch beyond ours.
    pub(super) fn epoch_refused(&mut self, peer: u16, epoch: u32, promised: u32) {
        match &mut self.role {
            Role::Candidate(candidate) if candidate.epoch == epoch && promised >= epoch => self.look(false),
            Role::Leader(leader) if leader.epoch == epoch && promised > epoch && self.config.ensemble.is_voter(peer) => {
                leader.renew_to = leader.renew_to.max(Some(promised + 1));
            }
            _ => {}
        }
    }

    /// Asks for a leader's next epoch: the counter is nearly used up.
    pub fn renew_soon(&mut self) {
        if let Role::Leader(leader) = &mut self.role {
            leader.renew_to = leader.renew_to.max(Some(leader.epoch + 1));
        }
    }

    /// Whether the leader must go on to another epoch. It proposes nothing more, and once everything proposed is in the log
    /// and durable [`Zab::renew`] is called. No client notices.
    pub fn wants_renewal(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.renew_to.is_some())
    }

    pub fn renew(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        let Role::Leader(leader) = &self.role else { return };
        if let Some(epoch) = leader.renew_to.filter(|_| self.settled() && self.promising.is_none()) {
            crate::mark!("a leader renews its epoch");
            let first = leader.first;
            self.stand(epoch.max(self.promise.epoch + 1), Term::Vote, Some(first));
        }
    }

    fn lead(&mut self, epoch: u32, renews: Option<u32>) {
        assert_eq!((self.promise.epoch, self.promise.to), (epoch, u64::from(self.me())), "a leader's own promise is durable");
        assert!(epoch > epoch_of(self.appended().zxid), "an epoch is never used twice");
        self.role = Role::Leader(Box::new(super::leader::Leader::new(epoch, renews.unwrap_or(epoch), self.now_ms)));
        self.effects.push_back(Effect::Change(Change::Lead { epoch }));
    }
}
