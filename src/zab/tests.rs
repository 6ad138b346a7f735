//! Replication step by step, on a harness without time of its own: messages arrive at once and in order, a disk confirms when
//! the test says so. The simulator covers what nobody thinks of; these stories say what is meant.

use super::message::Term;
use super::*;
use crate::wire::aligned::AlignedBuf;
use crate::wire::batch::BatchBuilder;
use crate::wire::raw_batch::RawBatch;
use crate::wire::txn::{Op, Origin, Txn};
use std::collections::BTreeMap;

struct Server {
    zab: Zab,
    /// Given to the log and not confirmed yet.
    writing: VecDeque<Arc<Batch>>,
    published: Vec<u64>,
    changes: Vec<Change>,
    truncated: Vec<Position>,
    /// What its log holds, and how often it was read for others.
    log: Vec<Arc<Batch>>,
    fed: usize,
}

struct Net {
    servers: BTreeMap<u16, Server>,
    now_ms: u64,
    /// Servers whose disk confirms nothing, and servers whose log takes nothing.
    stuck: BTreeSet<u16>,
    stalled: BTreeSet<u16>,
    /// Connections that were given up: by whom, with whom; None: that is not expected.
    given_up: Option<Vec<(u16, u16)>>,
    cut: BTreeSet<u16>,
}

fn start(positions: &[Position], epoch: u32) -> Start {
    let fresh = Start::fresh(7);
    let promise = Promise { epoch, ..fresh.promise };
    Start { promise, positions: Positions::new(positions.iter().copied()), ..fresh }
}

impl Net {
    fn new(voters: u16, observers: u16, starts: impl Fn(u16) -> Start) -> Net {
        let ensemble = Ensemble::majority(1..=voters, voters + 1..=voters + observers);
        let server = |id: u16| {
            let zab = Zab::new(ZabConfig::new(id, ensemble.clone()), starts(id), 0);
            let (writing, published, changes) = (VecDeque::new(), Vec::new(), Vec::new());
            let server = Server { zab, writing, published, changes, truncated: Vec::new(), log: Vec::new(), fed: 0 };
            (id, server)
        };
        let servers = (1..=voters + observers).map(server).collect();
        let mut net = Net { servers, now_ms: 0, stuck: BTreeSet::new(), stalled: BTreeSet::new(), given_up: None, cut: BTreeSet::new() };
        let ids: Vec<u16> = net.servers.keys().copied().collect();
        for a in &ids {
            ids.iter().filter(|b| a != *b).for_each(|b| net.servers.get_mut(a).unwrap().zab.peer_up(*b, 0));
        }
        net
    }

    fn zab(&mut self, server: u16) -> &mut Zab {
        &mut self.servers.get_mut(&server).unwrap().zab
    }

    /// Time passes, and everything that follows from it happens.
    fn wait(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.now_ms += 10;
            let now_ms = self.now_ms;
            self.servers.values_mut().for_each(|s| s.zab.tick(now_ms));
            self.settle();
        }
    }

    fn settle(&mut self) {
        for _ in 0..200 {
            for id in self.servers.keys().copied().collect::<Vec<_>>() {
                self.turn(id);
            }
        }
    }

    fn turn(&mut self, id: u16) {
        let (now_ms, stuck, stalled) = (self.now_ms, self.stuck.contains(&id), self.stalled.contains(&id));
        let server = self.servers.get_mut(&id).unwrap();
        while !stalled && let Some(batch) = server.zab.next_batch() {
            let batch = Arc::new(batch);
            server.zab.log_took(batch.clone());
            server.log.push(batch.clone());
            server.writing.push_back(batch);
        }
        while let Some(batch) = server.writing.pop_front_if(|_| !stuck) {
            server.zab.durable(batch.position(), now_ms);
        }
        if server.writing.is_empty() {
            server.zab.yield_to_others(now_ms);
        }
        server.zab.flush(now_ms);
        while let Some(effect) = self.servers.get_mut(&id).unwrap().zab.next_effect() {
            self.effect(id, effect);
        }
    }

    fn effect(&mut self, id: u16, effect: Effect) {
        let now_ms = self.now_ms;
        let cut = self.cut.contains(&id);
        let server = self.servers.get_mut(&id).unwrap();
        match effect {
            Effect::Send { peer, message } if !cut && !self.cut.contains(&peer) => {
                let frame = message.to_frame();
                let message = Message::decode(&frame[4..]).unwrap();
                self.zab(peer).receive(id, message, now_ms);
            }
            Effect::Send { .. } => {}
            Effect::Promise(promise) => {
                server.zab.promised_durably(promise, now_ms);
            }
            Effect::Truncate(to) => server.truncated.push(to),
            Effect::Commit(batch) => server.published.push(batch.position().zxid),
            Effect::Feed { after, token } => {
                server.fed += 1;
                let log: Vec<Batch> = server.log.iter().filter(|b| b.position().zxid > after.zxid).map(|b| copy(b)).collect();
                server.zab.fed(token, Some(log), now_ms);
            }
            Effect::Change(Change::Lead { epoch }) => {
                server.changes.push(Change::Lead { epoch });
                self.propose(id, u64::from(epoch) << 32);
            }
            Effect::Change(change) => server.changes.push(change),
            Effect::Disconnect { peer, why } => {
                self.given_up.as_mut().unwrap_or_else(|| panic!("server {id} disconnects: {why}")).push((id, peer));
                for (one, other) in [(id, peer), (peer, id)] {
                    self.zab(one).peer_down(other, now_ms);
                    self.zab(one).peer_up(other, now_ms);
                }
            }
            Effect::ReadSnapshot { .. } | Effect::WriteSnapshot { .. } => panic!("there are no snapshots here"),
        }
    }

    /// The leader logs one transaction.
    fn propose(&mut self, leader: u16, zxid: u64) {
        let server = self.servers.get_mut(&leader).unwrap();
        let batch = Arc::new(batch(zxid, server.zab.appended().chain, server.zab.committed()));
        server.zab.log_took(batch.clone());
        server.log.push(batch.clone());
        server.writing.push_back(batch);
    }

    fn leader(&self) -> Option<(u16, u32)> {
        let leads = |(id, s): (&u16, &Server)| match s.zab.standing() {
            Standing::Leading { epoch, established: true } => Some((*id, epoch)),
            _ => None,
        };
        self.servers.iter().find_map(leads)
    }
}

fn copy(batch: &Batch) -> Batch {
    RawBatch::copy_of(batch.bytes()).check().unwrap()
}

fn batch(zxid: u64, chain: u128, committed: u64) -> Batch {
    let mut builder = BatchBuilder::default();
    let op = if zxid as u32 == 0 { Op::NewEpoch { leader: 1 } } else { Op::Error { code: -1 } };
    builder.push(&Txn { zxid, time_ms: 0, session: 0, origin: Origin::default(), op }).unwrap();
    builder.close(7, committed, chain, AlignedBuf::with_capacity(4096))
}

#[test]
fn what_a_quorum_has_on_its_media_is_committed() {
    let mut net = Net::new(3, 0, |_| Start::fresh(7));
    net.wait(500);
    let (leader, epoch) = net.leader().unwrap();
    let first = u64::from(epoch) << 32;
    net.stuck = (1..=3).filter(|id| *id != leader).collect();
    net.propose(leader, first | 1);
    net.settle();
    assert_eq!(net.servers[&leader].published.last(), Some(&first), "one medium is no quorum");
    net.stuck.pop_first();
    net.settle();
    for server in net.servers.values() {
        assert_eq!(server.published.last(), Some(&(first | 1)));
    }
}

#[test]
fn the_longer_log_leads_and_the_other_is_cut() {
    let zero = Position::default();
    let (first, second) = (batch(1 << 32, 0, 0), batch(1 << 32 | 1, batch(1 << 32, 0, 0).position().chain, 0));
    let garbage = batch(2 << 32, first.position().chain, 0).position();
    let mut net = Net::new(3, 0, |id| match id {
        1 => start(&[zero, first.position(), second.position()], 2),
        2 => start(&[zero, first.position()], 2),
        _ => start(&[zero, first.position(), garbage], 2),
    });
    net.servers.get_mut(&1).unwrap().log = vec![Arc::new(copy(&first)), Arc::new(copy(&second))];
    net.cut = BTreeSet::from([3]);
    net.wait(2000);
    assert_eq!(net.leader().unwrap().0, 1, "it has what server 2 lacks");
    assert!(net.servers[&1].fed > 0, "what is not in memory comes from the log");
    net.cut.clear();
    net.wait(2000);
    let (leader, _) = net.leader().unwrap();
    assert_ne!(leader, 3, "an epoch that nobody else has is not enough");
    assert_eq!(net.servers[&3].truncated, [first.position()]);
    assert_eq!(net.zab(3).committed(), net.zab(leader).committed());
}

#[test]
fn a_leader_without_a_quorum_gives_up_and_its_successor_takes_the_next_epoch() {
    let mut net = Net::new(3, 0, |_| Start::fresh(7));
    net.wait(500);
    let (old, _) = net.leader().unwrap();
    net.cut = BTreeSet::from([old]);
    net.wait(2000);
    let (new, epoch) = net.leader().unwrap();
    assert!(new != old && epoch > 1);
    assert_eq!(net.servers[&old].changes.last(), Some(&Change::Lost));
    net.cut.clear();
    net.wait(1000);
    assert_eq!(net.leader(), Some((new, epoch)), "who comes back disturbs nobody");
    assert_eq!(net.servers[&old].changes.last(), Some(&Change::Follow { epoch, leader: new }));
}

#[test]
fn a_leader_that_leaves_is_succeeded_before_it_is_missed() {
    let mut net = Net::new(3, 0, |_| Start::fresh(7));
    net.wait(500);
    let (old, epoch) = net.leader().unwrap();
    let now_ms = net.now_ms;
    net.zab(old).step_down(now_ms);
    net.wait(100);
    let (new, later) = net.leader().expect("well within an election timeout");
    assert!(new != old && later > epoch);
    net.wait(1000);
    assert_eq!(net.leader(), Some((new, later)));
    assert_eq!(net.servers[&old].changes.last(), Some(&Change::Follow { epoch: later, leader: new }));
    assert!(net.zab(new).learners().iter().all(|l| l.synced && l.counts && l.behind_txns == 0));
}

#[test]
fn a_leader_that_falls_silent_is_succeeded_soon_after_it_is_missed() {
    for phase in 0..20 {
        let mut net = Net::new(if phase % 2 == 0 { 3 } else { 5 }, 0, |_| Start::fresh(7));
        net.wait(1000 + 10 * phase);
        let (old, epoch) = net.leader().unwrap();
        net.cut = BTreeSet::from([old]);
        let ZabConfig { election_timeout_ms, heartbeat_ms, .. } = ZabConfig::new(1, Ensemble::alone(1));
        net.wait(election_timeout_ms + 2 * heartbeat_ms);
        let successor = net.servers.iter().find(|(id, s)| **id != old && matches!(s.zab.standing(), Standing::Leading { .. }));
        let (_, successor) = successor.expect("nobody waits for a second timeout");
        assert_eq!(successor.zab.epoch(), epoch + 1, "at the first attempt");
    }
}

#[test]
fn who_comes_in_the_middle_of_a_round_is_asked_too() {
    let mut net = Net::new(3, 0, |_| Start::fresh(7));
    let asked = |zab: &mut Zab| match zab.next_effect() {
        Some(Effect::Send { peer, message }) => match Message::decode(&message.head[4..]).unwrap() {
            Message::PreVote { round, .. } => Some((peer, round)),
            _ => None,
        },
        _ => None,
    };
    let zab = net.zab(1);
    zab.peer_down(3, 0);
    zab.tick(0);
    let (peer, round) = asked(zab).unwrap();
    assert_eq!((peer, asked(zab)), (2, None));
    zab.peer_up(3, 20);
    assert_eq!(asked(zab), Some((3, round)));
}

#[test]
fn who_misses_the_leader_is_believed_by_who_has_not_heard_it_for_a_while() {
    let mut net = Net::new(3, 0, |_| Start::fresh(7));
    net.wait(1000);
    let (leader, _) = net.leader().unwrap();
    let (one, two) = (1 + leader % 3, 1 + (leader + 1) % 3);
    let last = net.zab(one).appended();
    let heard_ms = net.now_ms;
    let mut ask = |at_ms| {
        net.zab(two).receive(one, Message::PreVote { round: at_ms, last }, at_ms);
        let Some(Effect::Send { message, .. }) = net.zab(two).next_effect() else { panic!("a question is answered") };
        matches!(Message::decode(&message.head[4..]).unwrap(), Message::PreVoteReply { granted: true, .. })
    };
    assert!(!ask(heard_ms + 140), "a few heartbeats may be late");
    assert!(ask(heard_ms + 200));
    let behind = Position::default();
    net.zab(two).receive(one, Message::PreVote { round: 1, last: behind }, heard_ms + 210);
    assert_eq!(net.zab(two).standing(), Standing::Looking, "who asks has less: it stands itself");
    assert!(net.zab(two).deadline_ms() <= heard_ms + 210);
}

#[test]
fn a_follower_that_confirms_nothing_starts_over() {
    for full in [false, true] {
        let mut net = Net::new(3, 0, |_| Start::fresh(7));
        net.wait(1000);
        let (leader, epoch) = net.leader().unwrap();
        let follower = 1 + leader % 3;
        net.zab(follower).set_full(full);
        net.stalled = BTreeSet::from([follower]);
        net.propose(leader, u64::from(epoch) << 32 | 1);
        let ack_stall_ms = net.zab(leader).config.ack_stall_ms;
        net.wait(ack_stall_ms - 100);
        net.given_up = Some(Vec::new());
        net.wait(200);
        let expected = if full { vec![] } else { vec![(leader, follower)] };
        assert_eq!(net.given_up, Some(expected), "one without room would get no further");
        net.stalled.clear();
        net.wait(500);
        assert_eq!(net.servers[&follower].published.last(), net.servers[&leader].published.last());
        assert_eq!(net.leader(), Some((leader, epoch)));
    }
}

#[test]
fn a_follower_whose_leader_sends_nothing_starts_over() {
    let mut net = Net::new(3, 0, |_| Start::fresh(7));
    let call = Message::NewEpoch { epoch: 5, term: Term::Established, cluster: 7, last: Position::default() };
    net.zab(1).receive(2, call, 0);
    let Some(Effect::Promise(promise)) = net.zab(1).next_effect() else { panic!("a promise comes first") };
    net.zab(1).promised_durably(promise, 0);
    assert!(matches!(net.zab(1).next_effect(), Some(Effect::Send { peer: 2, .. })), "it says what it has");
    let zab = net.zab(1);
    let mut heard = |at_ms| {
        zab.receive(2, Message::Append { epoch: 5, committed: 0, round: at_ms, batch: None }, at_ms);
        zab.tick(at_ms);
        zab.next_effect()
    };
    let stall_ms = ZabConfig::new(1, Ensemble::alone(1)).join_stall_ms;
    assert!((0..stall_ms).step_by(50).all(|at_ms| heard(at_ms).is_none()), "the leader is there");
    assert!(matches!(heard(stall_ms), Some(Effect::Disconnect { peer: 2, .. })));
    assert!(heard(stall_ms + 50).is_none(), "once is enough");
}

/// Long enough for a leader to try to get rid of its place.
const KEPT_MS: u64 = 2000;

#[test]
fn a_leader_without_room_is_succeeded_by_one_that_has_some() {
    let mut net = Net::new(3, 0, |_| Start::fresh(7));
    net.wait(KEPT_MS);
    let (old, epoch) = net.leader().unwrap();
    net.zab(old).set_full(true);
    assert!(!net.zab(old).lacks_room(), "the others are a quorum");
    net.wait(500);
    let (new, later) = net.leader().unwrap();
    assert!(new != old && later == epoch + 1);
    assert_eq!(net.servers[&old].changes.last(), Some(&Change::Follow { epoch: later, leader: new }));
    net.wait(3 * KEPT_MS);
    assert_eq!(net.leader(), Some((new, later)), "it stays");
    assert!(!net.zab(new).lacks_room());
}

#[test]
fn leadership_is_not_passed_around_among_full_disks() {
    let mut net = Net::new(3, 0, |_| Start::fresh(7));
    net.wait(KEPT_MS);
    let (old, epoch) = net.leader().unwrap();
    let (one, two) = (1 + old % 3, 1 + (old + 1) % 3);
    net.zab(one).set_full(true);
    net.wait(100);
    assert!(!net.zab(old).lacks_room(), "two of three have room");
    net.zab(old).set_full(true);
    net.wait(2 * KEPT_MS);
    assert_eq!(net.leader(), Some((old, epoch)), "the third alone would be no better off");
    assert!(net.zab(old).lacks_room());
    net.zab(one).set_full(false);
    net.wait(500);
    let (new, _) = net.leader().unwrap();
    assert!(new == one || new == two);
    [one, two].iter().for_each(|server| net.zab(*server).set_full(true));
    net.wait(2 * KEPT_MS);
    assert_eq!(net.leader().unwrap().0, new, "all are full");
    net.zab(old).set_full(false);
    net.zab(new).set_full(false);
    net.wait(100);
    assert!(!net.zab(new).lacks_room(), "there is room again");
}

#[test]
fn what_grows_is_refused_when_it_would_rest_on_full_disks() {
    let mut net = Net::new(3, 0, |_| Start::fresh(7));
    net.wait(500);
    let (leader, _) = net.leader().unwrap();
    let (one, two) = (1 + leader % 3, 1 + (leader + 1) % 3);
    net.zab(one).set_full(true);
    net.wait(100);
    net.zab(leader).peer_down(two, 600);
    assert!(net.zab(leader).lacks_room(), "of two that are there one is full");
    net.zab(one).set_full(false);
    net.wait(100);
    assert!(!net.zab(leader).lacks_room(), "nobody is full, however few are there");
}

#[test]
fn a_log_that_takes_nothing_is_noticed() {
    let mut net = Net::new(3, 0, |_| Start::fresh(7));
    net.wait(500);
    let (leader, epoch) = net.leader().unwrap();
    let follower = 1 + leader % 3;
    net.wait(500);
    assert_eq!(net.zab(follower).log_stalls_ms(), 0, "nothing has come for it");
    net.stalled = BTreeSet::from([follower]);
    net.propose(leader, u64::from(epoch) << 32 | 1);
    net.wait(700);
    assert!((680..=700).contains(&net.zab(follower).log_stalls_ms()));
    net.stalled.clear();
    net.settle();
    assert_eq!(net.zab(follower).log_stalls_ms(), 0);
}

#[test]
fn a_vote_is_given_once_and_survives() {
    let mut net = Net::new(3, 0, |_| Start::fresh(7));
    let call = |epoch| Message::NewEpoch { epoch, term: Term::Vote, cluster: 7, last: Position::default() };
    let now_ms = 0;
    net.zab(1).receive(2, call(5), now_ms);
    let Some(Effect::Promise(promise)) = net.zab(1).next_effect() else { panic!("a promise comes first") };
    assert_eq!((promise.epoch, promise.to), (5, 2));
    assert!(net.zab(1).next_effect().is_none(), "nothing is said before it is durable");
    net.zab(1).promised_durably(promise, now_ms);
    let granted = |effect| match effect {
        Some(Effect::Send { message, peer }) => match Message::decode(&message.head[4..]).unwrap() {
            Message::AckEpoch { granted, .. } => Some((peer, granted)),
            _ => None,
        },
        _ => None,
    };
    assert_eq!(granted(net.zab(1).next_effect()), Some((2, true)));
    net.zab(1).receive(3, call(5), now_ms);
    assert_eq!(granted(net.zab(1).next_effect()), Some((3, false)));
}

#[test]
fn a_replaced_disk_follows_and_does_not_count() {
    let history = [Position::default(), batch(1 << 32, 0, 0).position()];
    let mut net = Net::new(3, 0, |id| {
        if id == 1 {
            let fresh = Start::fresh(99);
            return Start { promise: Promise { member: false, ..fresh.promise }, ..fresh };
        }
        start(&history, 1)
    });
    [2, 3].iter().for_each(|id| net.servers.get_mut(id).unwrap().log = vec![Arc::new(batch(1 << 32, 0, 0))]);
    net.cut = BTreeSet::from([2]);
    net.wait(2000);
    assert_eq!(net.leader(), None, "two of three, and one of them remembers nothing");
    net.cut.clear();
    net.wait(2000);
    let (leader, epoch) = net.leader().unwrap();
    assert_ne!(leader, 1);
    let before = net.zab(leader).committed();
    net.cut = BTreeSet::from([5 - leader]);
    net.propose(leader, u64::from(epoch) << 32 | 1);
    net.settle();
    assert_eq!(net.zab(leader).committed(), before, "its acknowledgement does not commit");
}

#[test]
fn observers_see_only_what_is_committed() {
    let mut net = Net::new(3, 1, |_| Start::fresh(7));
    net.wait(1000);
    let (leader, epoch) = net.leader().unwrap();
    net.stuck = (1..=3).filter(|id| *id != leader).collect();
    let zxid = u64::from(epoch) << 32 | 1;
    net.propose(leader, zxid);
    net.settle();
    assert!(net.zab(4).appended().zxid < zxid);
    net.stuck.clear();
    net.settle();
    assert_eq!(net.servers[&4].published.last(), Some(&zxid));
}

#[test]
fn a_batch_that_does_not_continue_the_log_is_refused() {
    let mut net = Net::new(3, 0, |_| Start::fresh(7));
    net.wait(500);
    let (leader, epoch) = net.leader().unwrap();
    let (follower, first) = (1 + leader % 3, u64::from(epoch) << 32);
    let stray = batch(first | 1, 12345, 0);
    let append = Message::Append { epoch, committed: 0, round: 1, batch: Some(RawBatch::copy_of(stray.bytes())) };
    net.zab(follower).receive(leader, append, 500);
    assert!(matches!(net.zab(follower).next_effect(), Some(Effect::Disconnect { .. })));
    assert_eq!(net.zab(follower).appended().zxid, first);
}
