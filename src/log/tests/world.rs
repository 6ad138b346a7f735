//! The harness: a model of the history, and a server that runs the shipped Journal and start-up code on a `SimDisk`.
//! The model knows every batch that was appended and how many of them were reported durable.

use super::power;
use crate::limits::BLOCK_BYTES;
use crate::log::disk::{Disk, Errno};
use crate::log::recovery::{Format, Recovered, RecoveryError};
use crate::log::segment::file_name;
use crate::log::snapshot::{BadSnapshot, SnapshotFile};
use crate::log::{Effect, Failure, Job, Journal, LogConfig};
use crate::sim::random::Dice;
use crate::wire::aligned::AlignedBuf;
use crate::wire::batch::{Batch, BatchBuilder, Position};
use crate::wire::txn::{Change, Op, Origin, Txn};

pub const CLUSTER: u128 = 0xc1;
pub const SEGMENT_BYTES: u64 = 16 * BLOCK_BYTES as u64;

pub const FORMAT: Format = Format { cluster: CLUSTER, server: 1, incarnation: 77, segment_bytes: SEGMENT_BYTES, member: true };

pub const CONFIG: LogConfig = LogConfig {
    slots: 3,
    slots_for_peers: 5,
    prepare_bytes: 6 * BLOCK_BYTES as u64,
    snapshot_payload_bytes: 70 << 10,
    snapshot_txns: 50,
    snapshots_retained: 2,
    mark_idle_ms: 5,
    retry_ms: 100,
};

/// Every batch of the history so far: its position and its bytes.
#[derive(Clone, Default)]
pub struct Model {
    pub history: Vec<(Position, Vec<u8>)>,
    /// How many of them were reported durable.
    pub acked: usize,
    pub formatted: bool,
}

impl Model {
    pub fn tail(&self) -> Position {
        self.history.last().map_or(Position::default(), |b| b.0)
    }

    /// Batches up to and including `position`.
    pub fn count_to(&self, position: Position) -> usize {
        if position == Position::default() {
            return 0;
        }
        1 + self.history.iter().position(|b| b.0 == position).expect("a position of the history")
    }

    /// Loads everything and compares: nothing acknowledged is missing, nothing is there that was not appended.
    pub fn check<D: Disk>(&self, disk: &D, found: &Recovered) -> usize {
        let start = found.snapshot.map_or(Position::default(), |s| s.position);
        let mut chunks = Vec::new();
        found.load_snapshot(disk, |chunk| chunks.extend_from_slice(chunk), |_, _| ()).unwrap();
        assert_eq!(chunks, if found.snapshot.is_some() { snapshot_of(start) } else { Vec::new() });
        let mut count = self.count_to(start);
        let mut progress = 0;
        let replay = |batch: &Batch| {
            assert_eq!((batch.position(), batch.bytes()), (self.history[count].0, &self.history[count].1[..]));
            count += 1;
        };
        found.replay(disk, found.tail.zxid, replay, |done, total| progress = total - done).unwrap();
        assert_eq!(progress, 0);
        assert_eq!(count, self.count_to(found.tail));
        assert!(count >= self.acked, "{} batches were durable, {count} are left", self.acked);
        count
    }

    /// A restart: what was not acknowledged and not found never was.
    pub fn restart<D: Disk>(&mut self, disk: &D, found: &Recovered) {
        let count = self.check(disk, found);
        self.history.truncate(count);
        self.acked = count;
    }
}

/// Stands for the state: what matters is that the right one comes back.
pub fn snapshot_of(position: Position) -> Vec<u8> {
    let mut bytes = position.chain.to_le_bytes().to_vec();
    bytes.resize(100 + (position.zxid % 3000) as usize, position.zxid as u8);
    bytes
}

pub fn batch_of(after: Position, first_zxid: u64, sizes: &[usize]) -> Batch {
    batch_with(after, first_zxid, sizes, 0)
}

/// A batch that says that everything up to `committed` was committed when it was made.
pub fn batch_with(after: Position, first_zxid: u64, sizes: &[usize], committed: u64) -> Batch {
    batch_in(CLUSTER, after, first_zxid, sizes, committed)
}

/// A batch of some ensemble.
pub fn batch_in(cluster: u128, after: Position, first_zxid: u64, sizes: &[usize], committed: u64) -> Batch {
    let mut builder = BatchBuilder::default();
    for (zxid, size) in (first_zxid..).zip(sizes) {
        let data = vec![zxid as u8; *size];
        let change = Change::SetData { path: "/x", path_hash: 1, data: Some(&data), version: 1 };
        let txn = Txn { zxid, time_ms: 5, session: 1, origin: Origin::default(), op: Op::Change(change) };
        builder.push(&txn).unwrap();
    }
    builder.close(cluster, committed, after.chain, AlignedBuf::with_capacity(BLOCK_BYTES))
}

/// Opens the directory, formatting it first if need be, as a start of the server does.
pub fn start<D: Disk>(disk: &D, model: &mut Model) -> Result<Recovered, RecoveryError> {
    power::open(disk, &FORMAT, &mut model.formatted)
}

/// A running server.
pub struct Server<'d, D: Disk> {
    pub disk: &'d D,
    pub journal: Journal,
    pub now_ms: u64,
    jobs: Vec<Job>,
    dice: Dice,
    snapshot: Option<Position>,
}

impl<'d, D: Disk> Server<'d, D> {
    pub fn new(disk: &'d D, found: &Recovered, seed: u64) -> Server<'d, D> {
        let journal = Journal::new(found, CONFIG, u128::from(seed));
        Server { disk, journal, now_ms: 1000, jobs: Vec::new(), dice: Dice::new(seed), snapshot: None }
    }

    /// A start and `steps` random steps. Err when the process would end.
    pub fn run(disk: &'d D, model: &mut Model, seed: u64, steps: u32) -> Result<Server<'d, D>, Failure> {
        let failed = |error: RecoveryError| Failure { file: format!("start: {error}"), offset: 0, errno: Errno::EIO };
        let found = start(disk, model).map_err(failed)?;
        model.restart(disk, &found);
        let mut server = Server::new(disk, &found, seed);
        server.new_epoch(model)?;
        for _ in 0..steps {
            server.step(model)?;
        }
        Ok(server)
    }

    /// The record that every start appends first.
    fn new_epoch(&mut self, model: &mut Model) -> Result<(), Failure> {
        let zxid = ((model.tail().zxid >> 32) + 1) << 32;
        self.append(model, batch_of(model.tail(), zxid, &[0]))
    }

    fn step(&mut self, model: &mut Model) -> Result<(), Failure> {
        match self.dice.below(16) {
            0..=8 => self.append_random(model),
            9 | 10 => self.tick(model, 10),
            11..=14 => self.background(model),
            _ => self.snapshot(model),
        }
    }

    pub fn append_random(&mut self, model: &mut Model) -> Result<(), Failure> {
        let sizes: Vec<usize> = match self.dice.below(8) {
            0 => vec![20_000 + self.dice.below(30_000)],
            1 | 2 => vec![10; 1 + self.dice.below(20)],
            _ => vec![self.dice.below(6000)],
        };
        let zxid = model.tail().zxid + 1;
        self.append(model, batch_of(model.tail(), zxid, &sizes))
    }

    /// Appends if the journal is ready.
    pub fn append(&mut self, model: &mut Model, batch: Batch) -> Result<(), Failure> {
        if !self.journal.ready() {
            return Ok(());
        }
        model.history.push((batch.position(), batch.bytes().to_vec()));
        let mut effects = Vec::new();
        self.journal.append(batch, &mut effects);
        self.execute(model, effects)
    }

    pub fn tick(&mut self, model: &mut Model, passed_ms: u64) -> Result<(), Failure> {
        self.now_ms += passed_ms;
        let mut effects = Vec::new();
        self.journal.tick(self.now_ms, &mut effects);
        self.execute(model, effects)
    }

    /// Runs the job that waits, if any.
    pub fn background(&mut self, model: &mut Model) -> Result<(), Failure> {
        let Some(job) = self.jobs.pop() else { return Ok(()) };
        let result = job.run(self.disk);
        let mut effects = Vec::new();
        self.journal.background_done(result, self.now_ms, &mut effects);
        self.execute(model, effects)
    }

    /// Cuts a snapshot when one is wanted; writes it at the next call, when the log has gone on.
    pub fn snapshot(&mut self, model: &mut Model) -> Result<(), Failure> {
        let Some(position) = self.snapshot.take() else {
            if self.journal.wants_snapshot() {
                self.journal.snapshot_started();
                self.snapshot = Some(model.tail());
            }
            return Ok(());
        };
        let result = write_snapshot(self.disk, position);
        let mut effects = Vec::new();
        self.journal.snapshot_written(result.map_err(|bad| bad.errno()), self.now_ms, &mut effects);
        self.execute(model, effects)
    }

    fn execute(&mut self, model: &mut Model, mut effects: Vec<Effect>) -> Result<(), Failure> {
        while !effects.is_empty() {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    Effect::Write { op, slot, offset, frame } => {
                        let result = write(self.disk, slot, offset, frame.bytes());
                        self.journal.written(op, result, self.now_ms, &mut effects);
                    }
                    Effect::Durable(position) => model.acked = model.count_to(position),
                    Effect::Background(job) => {
                        assert!(self.jobs.is_empty(), "one job at a time");
                        self.jobs.push(job);
                    }
                    Effect::Promised(_) | Effect::Installed(_) => {}
                    Effect::Fatal(failure) => return Err(failure),
                }
            }
        }
        Ok(())
    }
}

pub fn write<D: Disk>(disk: &D, slot: u32, offset: u64, bytes: &[u8]) -> Result<(), Errno> {
    let file = disk.open(&file_name(slot))?.expect("a slot that exists");
    assert!(offset + bytes.len() as u64 <= disk.len(&file)?, "a segment never grows");
    disk.write_at(&file, offset, bytes)?;
    disk.sync(&file)
}

pub fn write_snapshot<D: Disk>(disk: &D, position: Position) -> Result<crate::log::snapshot::SnapshotPointer, BadSnapshot> {
    let mut file = SnapshotFile::create(disk, CLUSTER, position)?;
    let state = snapshot_of(position);
    let (first, rest) = state.split_at(50);
    let pushed = file.push(first).and_then(|()| file.push(rest));
    match pushed {
        Ok(()) => file.finish(),
        Err(errno) => {
            file.abandon()?;
            Err(BadSnapshot::Io(errno))
        }
    }
}
