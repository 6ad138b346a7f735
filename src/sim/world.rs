//! One server of several cores, its disk, and clients, in one thread under one seed. Every step moves something: bytes to
//! or from a client, a shard's turn, the pipeline's turn, a disk completion, time, now and then a power cut. Each step
//! keeps the order that the real loops keep (a shard applies what is published before it reads), everything else is random.
//! Refuses to decide what is right: the checker and the digests do.

use super::checker::{Checker, ConnKey, Judged, Settings};
use super::client::{Client, Tally};
use super::disk::SimDisk;
use super::model::access::{self, SUPER};
use super::random::Dice;
use crate::log::disk::Disk;
use crate::log::recovery::{self, Format, Recovered, RecoveryError};
use crate::log::segment::file_name;
use crate::log::snapshot::SnapshotFile;
use crate::log::{Effect, Frame, Job, Journal, LogConfig, OpId};
use crate::pipeline::auth::AuthConfig;
use crate::pipeline::message::{ConnId, Down, Up};
use crate::pipeline::node::{Node, NodeConfig, NodeEffect, ReapConfig};
use crate::pipeline::prepare::PrepareConfig;
use crate::pipeline::replica::{Action, Census, Replica, ReplicaConfig};
use crate::tree::State;
use crate::tree::snapshot::Loader;
use crate::wire::batch::{Batch, Position};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// The shape of a run.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub shards: usize,
    pub clients: usize,
    pub steps: u64,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub tally: Tally,
    pub judged: Judged,
    pub power_cuts: u64,
    pub batches: u64,
    pub snapshots: u64,
    pub loads_from_snapshot: u64,
    /// Of all that clients received: equal seeds give equal traces.
    pub trace: u64,
}

const SEGMENT_BYTES: u64 = 1 << 20;

struct Shard {
    replica: Replica,
    /// Batches of `published` already applied.
    applied: usize,
    /// Records on their way to the pipeline.
    ring: VecDeque<Vec<u8>>,
    downs: VecDeque<Down>,
}

/// The running process.
struct Running {
    shards: Vec<Shard>,
    node: Node,
    journal: Journal,
    published: Vec<Arc<Batch>>,
    write: Option<(OpId, u32, u64, Frame)>,
    jobs: VecDeque<Job>,
    snapshot: Option<Walk>,
    boot: u32,
}

/// A snapshot that a shard is walking through.
struct Walk {
    shard: usize,
    position: Position,
    chunks: Vec<Vec<u8>>,
}

/// A client's connection: shard, connection, bytes on their way to the client.
struct Link {
    shard: usize,
    conn: ConnId,
    to_client: Vec<u8>,
}

/// Everything.
pub struct World {
    plan: Plan,
    dice: Dice,
    disk: SimDisk,
    running: Running,
    clients: Vec<Client>,
    links: Vec<Option<Link>>,
    checker: Checker,
    digests: BTreeMap<u64, u128>,
    chains: BTreeMap<u64, u128>,
    now_ms: u64,
    report: Report,
}

/// Runs a plan to its end; panics at the first violation.
pub fn run(plan: Plan) -> Report {
    let mut world = World::new(plan);
    for _ in 0..plan.steps {
        world.step();
    }
    world.finish()
}

impl World {
    fn new(plan: Plan) -> World {
        let disk = SimDisk::new(plan.seed);
        let format = Format { cluster: 7, server: 1, incarnation: 1, segment_bytes: SEGMENT_BYTES, member: true };
        recovery::format(&disk, &format).expect("an empty disk can be formatted");
        let (mut checker, mut digests, mut chains) = (Checker::new(Settings::default()), BTreeMap::new(), BTreeMap::new());
        let running = Running::start(&plan, &disk, 0, &mut checker, &mut digests, &mut chains);
        let mut dice = Dice::new(plan.seed ^ 0x5eed);
        World {
            plan,
            clients: (0..plan.clients).map(|id| Client::new(id as u64, &mut dice)).collect(),
            dice,
            disk,
            running,
            links: (0..plan.clients).map(|_| None).collect(),
            checker,
            digests,
            chains,
            now_ms: 0,
            report: Report::default(),
        }
    }

    fn step(&mut self) {
        match self.dice.below(1000) {
            0..250 => self.client_acts(),
            250..500 => self.shard_turn(),
            500..650 => self.pipeline_turn(),
            650..800 => self.disk_completes(),
            800..900 => self.client_receives(),
            900..960 => self.pass_time(),
            960..985 => self.job_runs(),
            985..998 => self.cut_connection(),
            _ => self.cut_power(),
        }
    }

    fn client_acts(&mut self) {
        let i = self.dice.below(self.clients.len());
        if self.clients[i].wants_connection(self.now_ms) {
            return self.connect(i);
        }
        for _ in 0..1 + self.dice.below(4) {
            self.clients[i].act(&mut self.dice, &mut self.checker, self.now_ms);
        }
    }

    fn connect(&mut self, i: usize) {
        let shard = self.dice.below(self.plan.shards);
        let mut entropy = [0; 16];
        entropy[..8].copy_from_slice(&self.dice.roll().to_be_bytes());
        let peer = "127.0.0.1:1000".parse().expect("an address");
        let replica = &mut self.running.shards[shard].replica;
        let conn = replica.accept(peer, Census::default(), entropy).expect("there is no limit");
        self.links[i] = Some(Link { shard, conn, to_client: Vec::new() });
        let link = self.clients[i].connect(&mut self.checker, self.now_ms);
        let boot = self.running.boot;
        self.checker.accepted(link, ConnKey { server: 1, boot, shard: shard as u16, conn: conn.0 });
    }

    /// As the loop does: apply what is published, take answers, receive, act.
    fn shard_turn(&mut self) {
        let k = self.dice.below(self.plan.shards);
        self.running.shards[k].replica.begin_turn(self.now_ms);
        self.running.drain(k, &mut self.digests);
        for i in 0..self.clients.len() {
            let Some(link) = self.links[i].as_ref().filter(|l| l.shard == k) else { continue };
            let outgoing = &mut self.clients[i].outgoing;
            let len = if self.dice.chance(70) { outgoing.len() } else { self.dice.below(outgoing.len() + 1) };
            let bytes: Vec<u8> = outgoing.drain(..len).collect();
            if !bytes.is_empty() {
                self.running.shards[k].replica.receive(link.conn, &bytes);
                let name = self.clients[i].link().expect("it is connected");
                self.checker.delivered(name, bytes.len(), self.now_ms, true);
            }
        }
        self.act(k);
        self.walk(k);
    }

    /// A slice of a snapshot, between two turns; the file is written when the walk is done.
    fn walk(&mut self, k: usize) {
        let running = &mut self.running;
        if running.snapshot.is_none() && running.journal.wants_snapshot() {
            let shard = &mut running.shards[k];
            let Some(last) = shard.applied.checked_sub(1).map(|i| running.published[i].position()) else { return };
            shard.replica.state_mut().begin_snapshot();
            running.journal.snapshot_started();
            running.snapshot = Some(Walk { shard: k, position: last, chunks: Vec::new() });
        }
        let Some(walk) = running.snapshot.as_mut().filter(|w| w.shard == k) else { return };
        let mut chunk = Vec::new();
        let done = running.shards[k].replica.state_mut().snapshot_slice(1 + self.dice.below(3), &mut chunk);
        walk.chunks.push(chunk);
        if done {
            self.write_snapshot();
        }
    }

    fn write_snapshot(&mut self) {
        let walk = self.running.snapshot.take().expect("a walk has ended");
        let mut file = SnapshotFile::create(&self.disk, 7, walk.position).expect("the disk works");
        walk.chunks.iter().for_each(|chunk| file.push(chunk).expect("the disk works"));
        let pointer = file.finish().expect("what was written reads back");
        let mut effects = Vec::new();
        self.running.journal.snapshot_written(Ok(pointer), self.now_ms, &mut effects);
        self.running.take(effects);
        self.report.snapshots += 1;
    }

    fn act(&mut self, k: usize) {
        let shard = &mut self.running.shards[k];
        shard.take_submits();
        shard.replica.resume();
        while let Some(action) = shard.replica.next_action() {
            let (conn, closes) = match action {
                Action::Flush(conn) => (conn, false),
                Action::Close(conn) => (conn, true),
                Action::Pause(_) | Action::Resume(_) | Action::FourLetter(..) => continue,
            };
            let bytes = shard.replica.take_output(conn);
            let owner = self.links.iter().position(|l| l.as_ref().is_some_and(|l| l.shard == k && l.conn == conn));
            if let Some(link) = owner.and_then(|i| self.links[i].as_mut()) {
                link.to_client.extend_from_slice(&bytes);
            }
            shard.replica.sent(conn, bytes);
            if closes {
                shard.replica.closed(conn);
                if let Some(i) = owner {
                    self.deliver(i, usize::MAX);
                    self.links[i] = None;
                    self.clients[i].disconnected(&mut self.checker, self.now_ms);
                }
                return self.act(k);
            }
        }
    }

    fn deliver(&mut self, i: usize, at_most: usize) {
        let Some(link) = self.links[i].as_mut() else { return };
        let len = at_most.min(link.to_client.len());
        let bytes: Vec<u8> = link.to_client.drain(..len).collect();
        for byte in &bytes {
            self.report.trace = self.report.trace.rotate_left(5).wrapping_mul(0x100_0000_01b3) ^ u64::from(*byte);
        }
        self.clients[i].receive(&bytes, &mut self.checker, self.now_ms);
    }

    fn client_receives(&mut self) {
        let i = self.dice.below(self.clients.len());
        if !self.clients[i].reads(self.now_ms) {
            return;
        }
        let waiting = self.links[i].as_ref().map_or(0, |l| l.to_client.len());
        let len = if self.dice.chance(70) { waiting } else { self.dice.below(waiting + 1) };
        self.deliver(i, len);
    }

    fn pipeline_turn(&mut self) {
        self.running.drain(0, &mut self.digests);
        self.act(0);
        let running = &mut self.running;
        running.node.applied(running.shards[0].replica.applied());
        let wall_ms = 1_000_000 + self.now_ms as i64;
        for k in 0..running.shards.len() {
            let take = self.dice.below(running.shards[k].ring.len() + 1);
            for record in running.shards[k].ring.drain(..take).collect::<Vec<_>>() {
                running.node.up(k as u16, Up::decode(&record), running.shards[0].replica.state(), self.now_ms, wall_ms);
            }
        }
        running.node.tick(running.shards[0].replica.state(), self.now_ms, wall_ms);
        running.append(self.now_ms);
        running.effects(&mut self.checker, &mut self.chains, self.now_ms);
    }

    fn disk_completes(&mut self) {
        if let Some((op, slot, offset, frame)) = self.running.write.take() {
            let file = self.disk.open(&file_name(slot)).expect("the disk works").expect("the slot exists");
            self.disk.write_at(&file, offset, frame.bytes()).and_then(|()| self.disk.sync(&file)).expect("the disk works");
            self.running.written(op, self.now_ms);
            self.running.effects(&mut self.checker, &mut self.chains, self.now_ms);
        }
    }

    fn job_runs(&mut self) {
        if let Some(job) = self.running.jobs.pop_front() {
            job.run(&self.disk).expect("the disk works");
            let mut effects = Vec::new();
            self.running.journal.background_done(Ok(()), self.now_ms, &mut effects);
            self.running.take(effects);
        }
    }

    fn pass_time(&mut self) {
        self.now_ms += self.dice.below(100) as u64;
        for k in 0..self.plan.shards {
            // A report says that the sockets were drained: it must follow the receiving of the same turn.
            self.running.shards[k].replica.begin_turn(self.now_ms);
            self.running.drain(k, &mut self.digests);
            self.act(k);
            if self.dice.chance(50) {
                self.running.shards[k].replica.tick();
                self.running.shards[k].take_submits();
            }
        }
        self.clients.iter_mut().for_each(|client| client.tick(&mut self.checker, self.now_ms));
        let mut effects = Vec::new();
        self.running.journal.tick(self.now_ms, &mut effects);
        self.running.take(effects);
    }

    fn cut_connection(&mut self) {
        let i = self.dice.below(self.clients.len());
        if let Some(link) = self.links[i].take() {
            self.running.shards[link.shard].replica.closed(link.conn);
            self.clients[i].disconnected(&mut self.checker, self.now_ms);
        }
    }

    /// Everything in memory is gone, and any part of what was not synced.
    fn cut_power(&mut self) {
        if !self.dice.chance(20) {
            return;
        }
        if let Some((_, slot, offset, frame)) = self.running.write.take() {
            let file = self.disk.open(&file_name(slot)).expect("the disk works").expect("the slot exists");
            self.disk.write_at(&file, offset, frame.bytes()).expect("the disk works");
        }
        self.disk.power_on(self.dice.roll());
        self.report.power_cuts += 1;
        self.report.batches += self.running.published.len() as u64;
        self.running = Running::start(&self.plan, &self.disk, self.now_ms, &mut self.checker, &mut self.digests, &mut self.chains);
        self.report.loads_from_snapshot += u64::from(self.running.journal.superblock().snapshot.is_some());
        let tail = self.running.node.last_proposed();
        let acknowledged = self.checker.acknowledged();
        assert!(acknowledged < tail, "B2: zxid 0x{acknowledged:x} was acknowledged and is lost");
        self.links.iter_mut().for_each(|link| *link = None);
        self.clients.iter_mut().for_each(|client| client.disconnected(&mut self.checker, self.now_ms));
    }

    /// Faults stop, everything under way ends, and all shards agree.
    fn finish(mut self) -> Report {
        for _ in 0..3000 {
            match self.dice.below(4) {
                0 => self.shard_turn(),
                1 => self.pipeline_turn(),
                2 => self.disk_completes(),
                _ => (0..self.clients.len()).for_each(|i| self.deliver(i, usize::MAX)),
            }
        }
        let applied: Vec<u64> = self.running.shards.iter().map(|s| s.replica.applied()).collect();
        assert!(applied.iter().all(|z| *z == self.running.node.last_proposed()), "everything proposed is applied: {applied:x?}");
        for client in &self.clients {
            let t = &client.tally;
            let sum = &mut self.report.tally;
            sum.replies += t.replies;
            sum.writes_acknowledged += t.writes_acknowledged;
            sum.reads_checked += t.reads_checked;
            sum.events += t.events;
            sum.sessions += t.sessions;
            sum.resumed += t.resumed;
            sum.expired += t.expired;
            sum.unknown += t.unknown;
        }
        for i in 0..self.clients.len() {
            self.deliver(i, usize::MAX);
            if let (Some(link), Some(name)) = (&self.links[i], self.clients[i].link()) {
                self.checker.caught_up(name, applied[link.shard]);
            }
        }
        self.running.shards.iter().for_each(|shard| self.checker.same_state(shard.replica.state()));
        self.everybody_leaves();
        self.checker.registers.finish();
        self.report.judged = self.checker.judged();
        self.report.batches += self.running.published.len() as u64;
        self.report
    }

    /// With all clients gone every session ends, and in time.
    fn everybody_leaves(&mut self) {
        /// What ticks, reports and commits take beyond a timeout.
        const BOUND_MS: u64 = 3000;
        let longest_ms = Settings::default().session_timeout_ms_max as u64;
        for i in 0..self.clients.len() {
            if let Some(link) = self.links[i].take() {
                self.running.shards[link.shard].replica.closed(link.conn);
                self.clients[i].disconnected(&mut self.checker, self.now_ms);
            }
        }
        let end_ms = self.now_ms + longest_ms + BOUND_MS;
        while self.now_ms < end_ms {
            self.pass_time();
            self.pipeline_turn();
            self.disk_completes();
            self.job_runs();
            self.checker.none_overdue(self.now_ms, BOUND_MS);
        }
        assert_eq!(self.checker.open_sessions(), 0, "G4: every session ends");
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

impl Running {
    /// A start of the server: recover, load every shard's State, begin a new epoch.
    fn start(
        plan: &Plan,
        disk: &SimDisk,
        now_ms: u64,
        checker: &mut Checker,
        digests: &mut BTreeMap<u64, u128>,
        chains: &mut BTreeMap<u64, u128>,
    ) -> Running {
        let found = match recovery::open(disk) {
            Ok(found) => found,
            Err(RecoveryError::Unformatted { .. }) => unreachable!("the disk was formatted"),
            Err(error) => panic!("a power cut is survived: {error}"),
        };
        let shards: Vec<Shard> = (0..plan.shards)
            .map(|k| {
                let state = load(disk, &found, now_ms, checker, digests, chains);
                let replica = Replica::new(replica_config(k as u16, found.superblock.boot), state);
                Shard { replica, applied: 0, ring: VecDeque::new(), downs: VecDeque::new() }
            })
            .collect();
        let log = LogConfig { slots: 3, snapshot_payload_bytes: 20_000, snapshot_txns: 100, ..LogConfig::default() };
        let journal = Journal::new(&found, log, u128::from(plan.seed) + u128::from(found.superblock.boot));
        let mut node = Node::new(node_config(plan, &found), found.tail, shards[0].replica.state(), now_ms);
        node.start(1_000_000 + now_ms as i64);
        let mut running = Running {
            shards,
            node,
            journal,
            published: Vec::new(),
            write: None,
            jobs: VecDeque::new(),
            snapshot: None,
            boot: found.superblock.boot,
        };
        running.append(now_ms);
        running
    }

    fn append(&mut self, now_ms: u64) {
        let mut effects = Vec::new();
        self.journal.tick(now_ms, &mut effects);
        if self.journal.ready()
            && let Some(batch) = self.node.close_batch()
        {
            let batch = self.journal.append(batch, &mut effects);
            self.node.appended(batch);
        }
        self.take(effects);
    }

    fn written(&mut self, op: OpId, now_ms: u64) {
        let mut effects = Vec::new();
        self.journal.written(op, Ok(()), now_ms, &mut effects);
        self.take(effects);
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Write { op, slot, offset, frame } => self.write = Some((op, slot, offset, frame)),
                Effect::Durable(position) => self.node.durable(position.zxid),
                Effect::Background(job) => self.jobs.push_back(job),
                Effect::Promised(_) | Effect::Installed(_) => unreachable!("a server without peers asks for neither"),
                Effect::Fatal(failure) => panic!("the disk works: {failure}"),
            }
        }
    }

    fn effects(&mut self, checker: &mut Checker, chains: &mut BTreeMap<u64, u128>, now_ms: u64) {
        while let Some(effect) = self.node.next_effect() {
            match effect {
                NodeEffect::Publish(batch) => {
                    checker.observe(&batch, now_ms);
                    chains.insert(batch.position().zxid, batch.position().chain);
                    self.published.push(batch);
                }
                NodeEffect::Down { shard, message } => self.shards[usize::from(shard)].downs.push_back(message),
            }
        }
    }

    /// A shard takes its answers and applies everything published, in this order: answers belong between transactions.
    fn drain(&mut self, k: usize, digests: &mut BTreeMap<u64, u128>) {
        let shard = &mut self.shards[k];
        while let Some(message) = shard.downs.pop_front() {
            shard.replica.down(message);
        }
        while let Some(batch) = self.published.get(shard.applied) {
            shard.replica.apply(batch);
            shard.applied += 1;
            agree(digests, shard.replica.state());
        }
    }
}

/// Equal zxids, equal states.
fn agree(digests: &mut BTreeMap<u64, u128>, state: &State) {
    let digest = state.digest().expect("the simulator keeps digests");
    let known = *digests.entry(state.applied()).or_insert(digest);
    assert_eq!(known, digest, "two states at zxid 0x{:x} differ", state.applied());
}

fn load(
    disk: &SimDisk,
    found: &Recovered,
    now_ms: u64,
    checker: &mut Checker,
    digests: &mut BTreeMap<u64, u128>,
    chains: &mut BTreeMap<u64, u128>,
) -> State {
    let mut loader = Loader::new(true);
    found.load_snapshot(disk, |chunk| loader.push(chunk).expect("the file was verified"), |_, _| ()).expect("the file was verified");
    let mut state = match found.snapshot {
        Some(_) => loader.finish().expect("a snapshot is whole"),
        None => State::new(true),
    };
    if found.snapshot.is_some() {
        agree(digests, &state);
    }
    let replayed = found.replay(
        disk,
        found.tail.zxid,
        |batch| {
            let position = batch.position();
            if let Some(chain) = chains.get(&position.zxid) {
                assert_eq!(*chain, position.chain, "what was published at 0x{:x} came back different", position.zxid);
            } else {
                checker.observe(batch, now_ms);
                chains.insert(position.zxid, position.chain);
            }
            let mut applied = Default::default();
            for txn in batch.txns() {
                state.apply(txn, &mut applied, Default::default());
            }
            agree(digests, &state);
        },
        |_, _| (),
    );
    replayed.expect("what recovery found can be replayed");
    state
}

fn auth_config() -> AuthConfig {
    AuthConfig { digest_enabled: true, super_digest: Some(access::digest_id(SUPER)), ..AuthConfig::default() }
}

fn replica_config(shard: u16, boot: u32) -> ReplicaConfig {
    ReplicaConfig { shard, boot, auth: auth_config(), ..ReplicaConfig::default() }
}

fn node_config(plan: &Plan, found: &Recovered) -> NodeConfig {
    NodeConfig {
        cluster: found.superblock.cluster,
        server: 1,
        boot: found.superblock.boot,
        epoch: (found.tail.zxid >> 32) as u32 + 1,
        shards: plan.shards,
        tick_ms: 1000,
        prepare: PrepareConfig { auth: auth_config(), extended_types_enabled: true, ..PrepareConfig::default() },
        reap: ReapConfig::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_seeds_keep_every_promise() {
        let mut total = Report::default();
        for seed in 0..60 {
            let report = run(Plan { seed, shards: 1 + seed as usize % 3, clients: 4, steps: 6000 });
            total.power_cuts += report.power_cuts;
            total.snapshots += report.snapshots;
            total.loads_from_snapshot += report.loads_from_snapshot;
            total.tally.events += report.tally.events;
            total.tally.reads_checked += report.tally.reads_checked;
            total.tally.writes_acknowledged += report.tally.writes_acknowledged;
            total.tally.expired += report.tally.expired;
        }
        let t = total.tally;
        assert!(
            total.power_cuts > 50 && t.events > 100 && t.reads_checked > 1000 && t.writes_acknowledged > 1000 && t.expired > 5,
            "{total:?}"
        );
    }

    #[test]
    fn a_seed_repeats_itself() {
        let plan = Plan { seed: 42, shards: 2, clients: 3, steps: 5000 };
        assert_eq!(run(plan), run(plan));
    }
}
