//! The harness for what replication asks of the log: a follower that appends, is cut back, promises, and is given another
//! history by a snapshot. The model knows what may be on the disk after a crash: the history as it is, and every former one
//! on which nothing has been confirmed since.

use super::power;
use super::world::{CLUSTER, CONFIG, FORMAT, batch_with, snapshot_of, write, write_snapshot};
use crate::limits::BLOCK_BYTES;
use crate::log::disk::{Disk, Errno};
use crate::log::feed::{self, FeedError, ReaderMap};
use crate::log::incoming::IncomingSnapshot;
use crate::log::outgoing::OutgoingSnapshots;
use crate::log::recovery::{Recovered, RecoveryError};
use crate::log::snapshot::{BadSnapshot, SnapshotPointer};
use crate::log::{Effect, Failure, Frame, Job, Journal, OpId, Promise};
use crate::sim::disk::SimDisk;
use crate::sim::random::Dice;
use crate::wire::batch::{Batch, Position};

type Entry = (Position, Vec<u8>);

fn count_to(history: &[Entry], position: Position) -> Option<usize> {
    if position == Position::default() {
        return Some(0);
    }
    history.iter().position(|entry| entry.0 == position).map(|index| index + 1)
}

fn end(history: &[Entry], count: usize) -> Position {
    count.checked_sub(1).map_or(Position::default(), |last| history[last].0)
}

/// One history, and how much of it was reported durable.
#[derive(Clone, Default)]
pub struct Truth {
    pub history: Vec<Entry>,
    pub acked: usize,
}

/// See the module.
#[derive(Clone)]
pub struct Model {
    pub now: Truth,
    pub former: Vec<Truth>,
    /// How much of the history is committed. Never cut.
    pub committed: usize,
    /// Reported durable.
    pub promised: Promise,
    /// Asked for since, in order.
    pub asked: Vec<Promise>,
    pub formatted: bool,
    pub tally: Tally,
}

/// What happened, so that a story without a plot is noticed.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    pub cuts: u32,
    pub cuts_in_flight: u32,
    pub promises: u32,
    pub installs: u32,
    pub snapshots: u32,
    pub fed: u32,
    pub gone: u32,
    pub reverted: u32,
}

impl Default for Model {
    fn default() -> Model {
        let promised = Promise { epoch: 0, to: 0, cluster: CLUSTER, member: FORMAT.member };
        let (now, former, asked) = (Truth::default(), Vec::new(), Vec::new());
        Model { now, former, committed: 0, promised, asked, formatted: false, tally: Tally::default() }
    }
}

/// Everything that a start finds, loaded.
fn load<D: Disk>(disk: &D, found: &Recovered) -> (Position, Vec<Entry>) {
    let start = found.snapshot.map_or(Position::default(), |s| s.position);
    let mut chunks = Vec::new();
    found.load_snapshot(disk, |chunk| chunks.extend_from_slice(chunk), |_, _| ()).unwrap();
    assert_eq!(chunks, if found.snapshot.is_some() { snapshot_of(start) } else { Vec::new() });
    let mut batches = Vec::new();
    let mut take = |batch: &Batch| batches.push((batch.position(), batch.bytes().to_vec()));
    found.replay(disk, found.committed, &mut take, |_, _| ()).unwrap();
    found.pending(disk, found.committed).unwrap().iter().for_each(&mut take);
    assert_eq!(found.tail, batches.last().map_or(start, |last| last.0));
    (start, batches)
}

impl Truth {
    /// How many batches of this history are on the disk; None if what is there is not this history, or too little of it.
    fn count(&self, found: &Recovered, start: Position, batches: &[Entry]) -> Option<usize> {
        let from = count_to(&self.history, start)?;
        let count = from + batches.len();
        let same = self.history.get(from..count)? == batches && count >= self.acked;
        let ends = found.positions();
        let first = count_to(&self.history, ends[0])?;
        assert_eq!(first + ends.len() - 1, count, "the positions go on to the tail");
        assert!(!same || ends[1..].iter().zip(&self.history[first..count]).all(|(end, entry)| *end == entry.0));
        same.then_some(count)
    }
}

impl Model {
    pub fn tail(&self) -> Position {
        end(&self.now.history, self.now.history.len())
    }

    /// What a start has found must be allowed; from then on it is what is.
    pub fn restart<D: Disk>(&mut self, disk: &D, found: &Recovered) {
        let (start, batches) = load(disk, found);
        let count = self.now.count(found, start, &batches);
        if count.is_none() {
            let reverted = self.former.iter().find(|truth| truth.count(found, start, &batches).is_some());
            self.now = reverted.expect("a history that was, or the one that is").clone();
            self.tally.reverted += 1;
        }
        let count = self.now.count(found, start, &batches).expect("it was just found");
        self.now.history.truncate(count);
        self.now.acked = count;
        self.former.clear();
        let at_snapshot = count_to(&self.now.history, start).expect("it was just found");
        assert!(self.committed <= count, "what was committed is there");
        assert!(count_to(&self.now.history, end(&self.now.history, count_to_zxid(&self.now.history, found.committed))).is_some());
        self.committed = self.committed.max(at_snapshot);
        let known = count_to_zxid(&self.now.history, found.committed);
        assert!(known <= self.committed && known >= at_snapshot, "nothing else is believed to be committed");
        assert!(found.promise() == self.promised || self.asked.contains(&found.promise()), "{:?} {:?}", found.promise(), self);
        self.promised = found.promise();
        self.asked.clear();
    }
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "promised {:?}, asked {:?}, {:?}", self.promised, self.asked, self.tally)
    }
}

/// Batches up to and including this zxid.
fn count_to_zxid(history: &[Entry], zxid: u64) -> usize {
    history.iter().take_while(|entry| entry.0.zxid <= zxid).count()
}

/// Opens the directory, formatting it first if need be.
pub fn start<D: Disk>(disk: &D, model: &mut Model) -> Result<Recovered, RecoveryError> {
    power::open(disk, &FORMAT, &mut model.formatted)
}

/// A running follower. The simulator's loop around it runs one thing at a time, in random order.
pub struct Follower<'d> {
    disk: &'d SimDisk,
    pub journal: Journal,
    now_ms: u64,
    epoch: u64,
    write: Option<(OpId, u32, u64, Frame)>,
    job: Option<Job>,
    dice: Dice,
    snapshot: Option<Position>,
    installing: Option<Truth>,
    maps: Vec<(ReaderMap, Vec<Entry>)>,
}

fn fatal(errno: Errno) -> Failure {
    Failure { file: "background".to_string(), offset: 0, errno }
}

impl<'d> Follower<'d> {
    pub fn new(disk: &'d SimDisk, found: &Recovered, seed: u64) -> Follower<'d> {
        Follower {
            disk,
            journal: Journal::new(found, CONFIG, u128::from(seed)),
            now_ms: 1000,
            epoch: (found.tail.zxid >> 32).max(u64::from(found.promise().epoch)) + 1,
            write: None,
            job: None,
            dice: Dice::new(seed),
            snapshot: None,
            installing: None,
            maps: Vec::new(),
        }
    }

    /// A start and `steps` random steps. Err when the process would end.
    pub fn run(disk: &'d SimDisk, model: &mut Model, seed: u64, steps: u32) -> Result<Follower<'d>, Failure> {
        let failed = |error: RecoveryError| Failure { file: format!("start: {error}"), offset: 0, errno: Errno::EIO };
        let found = start(disk, model).map_err(failed)?;
        model.restart(disk, &found);
        let mut follower = Follower::new(disk, &found, seed);
        follower.tick(model)?;
        for _ in 0..steps {
            follower.step(model)?;
        }
        Ok(follower)
    }

    pub fn step(&mut self, model: &mut Model) -> Result<(), Failure> {
        match self.dice.below(64) {
            0..=19 => self.append(model),
            20..=37 => self.complete(model),
            38..=47 => self.background(model),
            48..=50 => self.tick(model),
            51..=53 => self.snapshot(model),
            54 | 55 => self.promise(model),
            56..=59 => self.truncate(model),
            60 => self.install(model),
            _ => self.feed(model),
        }
    }

    /// Lets everything under way end.
    pub fn settle(&mut self, model: &mut Model) -> Result<(), Failure> {
        for _ in 0..40 {
            self.complete(model)?;
            self.background(model)?;
        }
        self.tick(model)
    }

    fn call(&mut self, model: &mut Model, act: impl FnOnce(&mut Journal, &mut Vec<Effect>)) -> Result<(), Failure> {
        let mut effects = Vec::new();
        act(&mut self.journal, &mut effects);
        for effect in effects {
            match effect {
                Effect::Write { op, slot, offset, frame } => {
                    assert!(self.write.is_none(), "one write at a time");
                    self.write = Some((op, slot, offset, frame));
                }
                Effect::Background(job) => assert!(self.job.replace(job).is_none(), "one job at a time"),
                Effect::Durable(position) => self.durable(model, position),
                Effect::Promised(promise) => {
                    if promise != model.promised {
                        let asked = model.asked.iter().position(|asked| *asked == promise).expect("it was asked for");
                        model.asked.drain(..=asked);
                    }
                    model.promised = promise;
                    model.tally.promises += 1;
                }
                Effect::Installed(pointer) => {
                    model.now = self.installing.take().expect("it was asked for");
                    model.former.clear();
                    model.committed = model.now.history.len();
                    assert_eq!((model.tail(), self.journal.appended()), (pointer.position, self.journal.durable()));
                    model.tally.installs += 1;
                }
                Effect::Fatal(failure) => return Err(failure),
            }
        }
        assert!(self.installing.is_some() || self.journal.appended() == model.tail());
        Ok(())
    }

    fn durable(&mut self, model: &mut Model, position: Position) {
        assert!(self.installing.is_none(), "the log is being replaced");
        model.now.acked = count_to(&model.now.history, position).expect("it was not cut off");
        model.former.clear();
    }

    pub fn append(&mut self, model: &mut Model) -> Result<(), Failure> {
        if !self.journal.ready() {
            return Ok(());
        }
        let sizes: Vec<usize> = match self.dice.below(8) {
            0 => vec![20_000 + self.dice.below(30_000)],
            1 | 2 => vec![10; 1 + self.dice.below(20)],
            _ => vec![self.dice.below(6000)],
        };
        let tail = model.tail();
        let first = if tail.zxid >> 32 == self.epoch { tail.zxid + 1 } else { self.epoch << 32 };
        let batch = batch_with(tail, first, &sizes, end(&model.now.history, model.committed).zxid);
        model.now.history.push((batch.position(), batch.bytes().to_vec()));
        self.call(model, |journal, out| {
            journal.append(batch, out);
        })
    }

    pub fn complete(&mut self, model: &mut Model) -> Result<(), Failure> {
        if self.installing.is_none() && self.dice.chance(40) && model.committed < model.now.acked {
            model.committed += self.dice.below(model.now.acked - model.committed + 1);
        }
        let Some((op, slot, offset, frame)) = self.write.take() else { return Ok(()) };
        let result = write(self.disk, slot, offset, frame.bytes());
        let now_ms = self.now_ms;
        self.call(model, |journal, out| journal.written(op, result, now_ms, out))
    }

    pub fn background(&mut self, model: &mut Model) -> Result<(), Failure> {
        let Some(job) = self.job.take() else { return Ok(()) };
        let (result, now_ms) = (job.run(self.disk), self.now_ms);
        self.call(model, |journal, out| journal.background_done(result, now_ms, out))
    }

    pub fn tick(&mut self, model: &mut Model) -> Result<(), Failure> {
        self.now_ms += 10;
        let now_ms = self.now_ms;
        self.call(model, |journal, out| journal.tick(now_ms, out))
    }

    pub fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    /// Cuts a snapshot of committed state when one is wanted; writes it at the next call, when the log has gone on.
    pub fn snapshot(&mut self, model: &mut Model) -> Result<(), Failure> {
        let Some(position) = self.snapshot.take() else {
            let floor = self.journal.superblock().snapshot.map_or(0, |s| s.position.zxid);
            let committed = end(&model.now.history, model.committed);
            if self.installing.is_none() && committed.zxid > floor && self.journal.wants_snapshot() {
                self.journal.snapshot_started();
                self.snapshot = Some(committed);
            }
            return Ok(());
        };
        let result = write_snapshot(self.disk, position).map_err(|bad| bad.errno());
        model.tally.snapshots += u32::from(result.is_ok());
        let now_ms = self.now_ms;
        self.call(model, |journal, out| journal.snapshot_written(result, now_ms, out))
    }

    pub fn promise(&mut self, model: &mut Model) -> Result<(), Failure> {
        let last = model.asked.last().copied().unwrap_or(model.promised);
        let epoch = last.epoch + self.dice.below(3) as u32;
        let promise = Promise { epoch, to: self.dice.below(5) as u64, member: self.dice.chance(80), ..last };
        model.asked.push(promise);
        self.epoch = self.epoch.max(u64::from(epoch));
        self.call(model, |journal, out| journal.promise(promise, out))
    }

    /// Cuts back to some batch end that is not committed, or to all that is.
    pub fn truncate(&mut self, model: &mut Model) -> Result<(), Failure> {
        let uncommitted = model.now.history.len() - model.committed;
        if self.installing.is_some() || uncommitted == 0 {
            return Ok(());
        }
        let keep = if self.dice.chance(30) { 0 } else { self.dice.below(uncommitted) };
        self.cut(model, model.committed + keep)
    }

    /// Cuts back to so many batches; whatever comes next is of a new epoch.
    pub fn cut(&mut self, model: &mut Model, count: usize) -> Result<(), Failure> {
        let to = end(&model.now.history, count);
        model.tally.cuts += 1;
        model.tally.cuts_in_flight += u32::from(self.write.is_some());
        model.former.push(model.now.clone());
        model.now.history.truncate(count);
        model.now.acked = model.now.acked.min(count);
        self.epoch += 1;
        self.call(model, |journal, out| journal.truncate(to, out))?;
        assert_eq!(self.journal.durable(), to);
        Ok(())
    }

    /// A leader with a history of its own behind what is committed sends its snapshot.
    pub fn install(&mut self, model: &mut Model) -> Result<(), Failure> {
        if self.installing.is_some() || self.dice.chance(60) {
            return Ok(());
        }
        let mut history = model.now.history[..model.committed].to_vec();
        let snapshot = self.journal.superblock().snapshot.map_or(0, |s| s.position.zxid);
        for i in 0..1 + self.dice.below(4) as u64 {
            let after = end(&history, history.len());
            let batch = batch_with(after, (self.epoch + 1) << 32 | i, &[100], snapshot);
            history.push((batch.position(), batch.bytes().to_vec()));
        }
        self.epoch += 1;
        let leader = SimDisk::new(1);
        let pointer = write_snapshot(&leader, end(&history, history.len())).unwrap();
        assert!(self.journal.receivable(&pointer), "nothing of this name was ever here");
        match receive(self.disk, &leader, pointer) {
            Ok(()) => {}
            Err(BadSnapshot::Io(errno)) if errno.is_full() => return Ok(()),
            Err(bad) => return Err(fatal(bad.errno())),
        }
        let acked = history.len();
        let truth = Truth { history, acked };
        model.former.push(truth.clone());
        self.installing = Some(truth);
        self.call(model, |journal, out| journal.install(pointer, out))
    }

    /// Reads the log as a feeding thread does, with a map that may be old. What comes is what was there when it was made.
    pub fn feed(&mut self, model: &mut Model) -> Result<(), Failure> {
        if self.installing.is_none() && (self.maps.is_empty() || self.dice.chance(50)) {
            let acked = model.now.acked;
            if self.maps.len() == 8 {
                self.maps.remove(0);
            }
            self.maps.push((self.journal.reader_map(), model.now.history[..acked].to_vec()));
            assert_eq!(self.journal.reader_map().durable(), end(&model.now.history, acked));
            let after = self.dice.chance(50).then(|| self.dice.roll() % (model.tail().zxid + 1));
            self.journal.retain(after);
        }
        if self.maps.is_empty() {
            return Ok(());
        }
        let newest = self.maps.len() - 1;
        let index = if self.dice.chance(50) { newest } else { self.dice.below(newest + 1) };
        let (map, history) = &self.maps[index];
        let base = self.journal.log_base();
        let from = self.dice.below(history.len() + 1);
        let after = end(history, from);
        let room = *self.dice.pick(&[0, 10_000, 1 << 20]);
        match feed::read(self.disk, map, after, room) {
            Ok(batches) => {
                let read: Vec<Entry> = batches.iter().map(|batch| (batch.position(), batch.bytes().to_vec())).collect();
                assert_eq!(read, history[from..from + read.len()]);
                assert!(from == history.len() || !read.is_empty());
                assert!(room < 1 << 20 || from + read.len() == history.len(), "all of it fits");
                model.tally.fed += 1;
            }
            Err(FeedError::Gone) => {
                let still = index == newest && map.durable() == self.journal.durable() && self.journal.appended() == model.tail();
                assert!(!still || after.zxid < base.zxid, "it is in the log");
                model.tally.gone += 1;
            }
            Err(other) => panic!("{other}"),
        }
        Ok(())
    }
}

fn receive(disk: &SimDisk, leader: &SimDisk, pointer: SnapshotPointer) -> Result<(), BadSnapshot> {
    let mut incoming = IncomingSnapshot::create(disk, CLUSTER, pointer)?;
    let (mut outgoing, mut buf) = (OutgoingSnapshots::default(), [0; BLOCK_BYTES]);
    while incoming.received() < pointer.bytes {
        let len = outgoing.read(leader, CLUSTER, 1, &pointer, incoming.received(), &mut buf)?;
        match incoming.write(incoming.received(), &buf[..len]) {
            Err(BadSnapshot::Io(errno)) if errno.is_full() => {
                incoming.abandon()?;
                return Err(BadSnapshot::Io(errno));
            }
            other => other?,
        }
    }
    incoming.finish().map(|_| ())
}
