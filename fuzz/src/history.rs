//! A data directory with a real history in it: several segments, a snapshot, a torn-off end, all on the simulated disk.
//! Made once per process and then copied. Refuses randomness: every process has the same one.

use crate::server::Server;
use falconer::limits::BLOCK_BYTES;
use falconer::log::disk::Disk;
use falconer::log::recovery::{self, Format};
use falconer::log::segment::file_name;
use falconer::log::snapshot::{SnapshotFile, SnapshotPointer};
use falconer::log::{Effect, Journal, LogConfig};
use falconer::sim::disk::SimDisk;
use falconer::tree::{Applied, State, Want};
use falconer::wire::aligned::AlignedBuf;
use falconer::wire::batch::{Batch, Position};
use falconer::wire::request::{Create, OPEN_ACL, Request};

const SEGMENT_BYTES: u64 = 16 * BLOCK_BYTES as u64;
pub const CLUSTER: u128 = 1;

fn config() -> LogConfig {
    LogConfig { slots: 3, snapshot_payload_bytes: 8 << 10, snapshot_txns: 30, snapshots_retained: 2, retry_ms: 100, ..LogConfig::default() }
}

/// The batches of a short life: a session, many nodes, some changes.
pub fn batches() -> Vec<Batch> {
    let mut server = Server::recording(CLUSTER);
    let client = server.session(0, [7; 16]);
    for i in 0..40 {
        let path = format!("/node-{i}");
        let data = vec![i as u8; 100 * i];
        let create = Create { path: path.as_str().into(), data: Some(&data), acl: OPEN_ACL, flags: i as i32 % 3 };
        server.request(client, i as i32, &Request::Create2(create));
        server.settle();
    }
    server.published().iter().map(|batch| copy(batch.frame())).collect()
}

/// A batch of its own from the bytes of a frame.
pub fn copy(frame: &[u8]) -> Batch {
    let mut buf = AlignedBuf::with_capacity(frame.len());
    buf[..frame.len()].copy_from_slice(frame);
    Batch::check(buf).expect("a copy of a batch is one")
}

/// The records of a snapshot of everything in `batches`.
pub fn snapshot_records(state: &mut State) -> Vec<u8> {
    let mut out = Vec::new();
    state.begin_snapshot();
    while !state.snapshot_slice(1 << 20, &mut out) {}
    out
}

/// The state after `batches`.
pub fn state_of(batches: &[Batch]) -> State {
    let mut state = State::new(true);
    batches.iter().for_each(|batch| apply(&mut state, batch));
    state
}

fn apply(state: &mut State, batch: &Batch) {
    let mut applied = Applied::default();
    batch.txns().for_each(|txn| state.apply(txn, &mut applied, Want { results: false, paths: false }));
}

/// The data directory.
pub fn disk() -> SimDisk {
    let disk = SimDisk::new(1);
    let format = Format { cluster: CLUSTER, server: 1, incarnation: 77, segment_bytes: SEGMENT_BYTES, member: true };
    recovery::format(&disk, &format).expect("an empty disk can be formatted");
    let found = recovery::open(&disk).expect("it was just formatted");
    let mut journal = Journal::new(&found, config(), 5);
    let mut state = State::new(true);
    let mut now_ms = 0;
    for batch in batches() {
        now_ms += 10;
        while !journal.ready() {
            step(&disk, &mut journal, now_ms, |journal, out| journal.tick(now_ms, out));
            now_ms += 100;
        }
        let position = batch.position();
        apply(&mut state, &batch);
        step(&disk, &mut journal, now_ms, |journal, out| {
            journal.append(batch, out);
        });
        step(&disk, &mut journal, now_ms + 6, |journal, out| journal.tick(now_ms + 6, out));
        if journal.wants_snapshot() {
            journal.snapshot_started();
            let written = write_snapshot(&disk, position, &mut state);
            step(&disk, &mut journal, now_ms, |journal, out| journal.snapshot_written(Ok(written), now_ms, out));
        }
    }
    disk
}

fn write_snapshot(disk: &SimDisk, position: Position, state: &mut State) -> SnapshotPointer {
    let mut file = SnapshotFile::create(disk, CLUSTER, position).expect("nothing fails here");
    for chunk in snapshot_records(state).chunks(2000) {
        file.push(chunk).expect("nothing fails here");
    }
    file.finish().expect("nothing fails here")
}

fn step(disk: &SimDisk, journal: &mut Journal, now_ms: u64, act: impl FnOnce(&mut Journal, &mut Vec<Effect>)) {
    let mut effects = Vec::new();
    act(journal, &mut effects);
    while let Some(effect) = effects.pop() {
        match effect {
            Effect::Write { op, slot, offset, frame } => {
                let file = disk.open(&file_name(slot)).expect("no fault").expect("a slot that exists");
                disk.write_at(&file, offset, frame.bytes()).expect("no fault");
                disk.sync(&file).expect("no fault");
                journal.written(op, Ok(()), now_ms, &mut effects);
            }
            Effect::Background(job) => {
                let result = job.run(disk);
                journal.background_done(result, now_ms, &mut effects);
            }
            Effect::Durable(_) | Effect::Promised(_) | Effect::Installed(_) => {}
            Effect::Fatal(failure) => panic!("{failure}"),
        }
    }
}
