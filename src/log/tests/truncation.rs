//! Cutting the log back, step by step: what is found before and after the cut is on the medium, wherever it is.

use super::follower::{self, Follower};
use super::straight::{log, run};
use super::world::{self, CONFIG, SEGMENT_BYTES, batch_of};
use crate::limits::BLOCK_BYTES;
use crate::log::disk::Disk;
use crate::log::loss::describe_loss;
use crate::log::recovery::{RecoveryError, inspect, open};
use crate::log::segment::file_name;
use crate::log::{Journal, LogConfig};
use crate::sim::disk::SimDisk;
use crate::wire::batch::Position;

/// Room for many segments, so that nothing of the history goes.
const ROOMY: LogConfig = LogConfig { slots: 12, snapshot_payload_bytes: 1 << 30, snapshot_txns: 1 << 30, ..CONFIG };

/// Three segments and a bit.
fn three_segments(disk: &SimDisk) -> (Journal, Vec<Position>) {
    log(disk, SEGMENT_BYTES, ROOMY, 22, 5000)
}

fn append(disk: &SimDisk, journal: &mut Journal, ends: &mut Vec<Position>, zxid: u64) {
    let batch = batch_of(ends[ends.len() - 1], zxid, &[5000]);
    ends.push(batch.position());
    run(disk, journal, |journal, out| {
        journal.append(batch, out);
    });
}

fn cut(disk: &SimDisk, journal: &mut Journal, ends: &mut Vec<Position>, count: usize) {
    run(disk, journal, |journal, out| journal.truncate(ends[count], out));
    ends.truncate(count + 1);
    assert_eq!((journal.appended(), journal.durable()), (ends[count], ends[count]));
    assert!(journal.ready());
}

fn found(disk: &SimDisk, ends: &[Position]) {
    let found = inspect(disk).unwrap();
    assert_eq!(found.positions(), ends);
    assert_eq!(found.tail, ends[ends.len() - 1]);
    let mut replayed = vec![Position::default()];
    found.replay(disk, found.tail.zxid, |batch| replayed.push(batch.position()), |_, _| ()).unwrap();
    assert_eq!(replayed, ends);
}

#[test]
fn at_every_batch_end() {
    let disk = SimDisk::new(1);
    let (_, ends) = three_segments(&disk);
    assert!(inspect(&disk).unwrap().segments.len() >= 3);
    for count in 0..ends.len() {
        let disk = disk.fork();
        let mut journal = Journal::new(&open(&disk).unwrap(), ROOMY, 9);
        run(&disk, &mut journal, |journal, out| journal.tick(0, out));
        let mut now = ends.clone();
        cut(&disk, &mut journal, &mut now, count);
        found(&disk, &ends);
        for i in 0..10 {
            append(&disk, &mut journal, &mut now, 2 << 32 | i);
            found(&disk, &now);
        }
    }
}

#[test]
fn twice_with_something_between_or_nothing() {
    let disk = SimDisk::new(1);
    let (_, ends) = three_segments(&disk);
    for (first, second) in [(20, 19), (20, 3), (9, 8), (8, 1), (1, 0), (15, 0)] {
        for between in [0, 1, 9] {
            let disk = disk.fork();
            let mut journal = Journal::new(&open(&disk).unwrap(), ROOMY, 9);
            run(&disk, &mut journal, |journal, out| journal.tick(0, out));
            let mut now = ends.clone();
            cut(&disk, &mut journal, &mut now, first);
            (0..between).for_each(|i| append(&disk, &mut journal, &mut now, 2 << 32 | i));
            let before = if between == 0 { ends.clone() } else { now.clone() };
            cut(&disk, &mut journal, &mut now, second);
            found(&disk, &before);
            for i in 0..9 {
                append(&disk, &mut journal, &mut now, 3 << 32 | i);
                found(&disk, &now);
            }
        }
    }
}

#[test]
fn what_was_cut_off_is_used_again() {
    let disk = SimDisk::new(1);
    let (mut journal, mut ends) = log(&disk, SEGMENT_BYTES, CONFIG, 20, 5000);
    for epoch in 2..60 {
        let count = ends.len() - 15;
        cut(&disk, &mut journal, &mut ends, count);
        (0..14).for_each(|i| append(&disk, &mut journal, &mut ends, epoch << 32 | i));
        found(&disk, &ends);
    }
    let slots = journal.superblock().slots;
    assert!(slots <= 7, "{slots} files hold 20 batches");
}

#[test]
fn nothing_is_cut_where_nothing_is() {
    let disk = SimDisk::new(1);
    let (mut journal, mut ends) = three_segments(&disk);
    let sequence = inspect(&disk).unwrap().segments.len();
    cut(&disk, &mut journal, &mut ends, 22);
    append(&disk, &mut journal, &mut ends, 1 << 32 | 23);
    found(&disk, &ends);
    assert_eq!(inspect(&disk).unwrap().segments.len(), sequence, "the segment goes on");
}

#[test]
#[should_panic(expected = "what a snapshot holds was committed")]
fn a_cut_behind_the_snapshot_is_refused() {
    let disk = SimDisk::new(1);
    let (mut journal, ends) = log(&disk, SEGMENT_BYTES, LogConfig { snapshot_txns: 10, ..CONFIG }, 10, 50);
    assert!(journal.wants_snapshot());
    journal.snapshot_started();
    let pointer = world::write_snapshot(&disk, ends[8]).unwrap();
    run(&disk, &mut journal, |journal, out| journal.snapshot_written(Ok(pointer), 0, out));
    run(&disk, &mut journal, |journal, out| journal.truncate(ends[7], out));
}

/// A life with cuts, promises and foreign snapshots, at the end of which everything is confirmed and marked.
fn quiet(seed: u64) -> (SimDisk, follower::Model) {
    let (disk, mut model) = (SimDisk::new(seed), follower::Model::default());
    let mut follower = Follower::run(&disk, &mut model, seed, 400).unwrap();
    follower.settle(&mut model).unwrap();
    for _ in 0..4 {
        follower.append(&mut model).unwrap();
        follower.settle(&mut model).unwrap();
    }
    follower.settle(&mut model).unwrap();
    assert!(model.former.is_empty() && model.now.acked == model.now.history.len());
    (disk, model)
}

/// Either the start is refused or it finds just what is: nothing is missing and nothing that was cut off comes back.
fn refused_or_whole(disk: &SimDisk, model: &follower::Model, what: &str) -> bool {
    match inspect(disk) {
        Err(RecoveryError::Corrupt(_) | RecoveryError::Snapshot { .. }) => true,
        Err(other) => panic!("{what}: {other}"),
        Ok(found) => {
            assert_eq!(found.tail, model.tail(), "{what}: dropped or brought back in silence");
            model.clone().restart(disk, &found);
            false
        }
    }
}

#[test]
fn damage_brings_nothing_back() {
    let (mut refused, mut cuts) = (0, 0);
    for seed in 1..9 {
        let (disk, model) = quiet(seed);
        cuts += model.tally.cuts;
        for slot in 0..inspect(&disk).unwrap().superblock.slots {
            for block in 0..SEGMENT_BYTES / BLOCK_BYTES as u64 {
                let copy = disk.fork();
                copy.zero(&file_name(slot), block * BLOCK_BYTES as u64, BLOCK_BYTES as u64);
                refused += u32::from(refused_or_whole(&copy, &model, &format!("seed {seed} slot {slot} block {block} zero")));
            }
            for at in (0..SEGMENT_BYTES).step_by(251) {
                disk.flip(&file_name(slot), at, 1 << (at % 8));
                refused += u32::from(refused_or_whole(&disk, &model, &format!("seed {seed} slot {slot} byte {at}")));
                disk.flip(&file_name(slot), at, 1 << (at % 8));
            }
        }
    }
    assert!(refused > 100 && cuts > 50, "{refused} {cuts}");
}

#[test]
fn what_was_cut_off_is_no_loss() {
    let disk = SimDisk::new(1);
    let (mut journal, mut ends) = three_segments(&disk);
    cut(&disk, &mut journal, &mut ends, 10);
    append(&disk, &mut journal, &mut ends, 2 << 32);
    append(&disk, &mut journal, &mut ends, 2 << 32 | 1);
    // The last batch before the cut; the two after it can still be seen.
    let holder = inspect(&disk).unwrap().segments.iter().rev().nth(1).unwrap().header;
    let inside = ends.iter().filter(|end| end.zxid > holder.base.zxid && end.zxid < 2 << 32).count() as u64;
    disk.flip(&file_name(holder.slot), (1 + 2 * (inside - 1)) * BLOCK_BYTES as u64 + 200, 1);
    let loss = describe_loss(&disk).unwrap().unwrap_err();
    assert_eq!((loss.damage.after, loss.last_zxid), (ends[9].zxid, ends[12].zxid));
    // Frames behind the cut in that segment are of the same use: they cannot be told apart from what is lost.
    assert!(loss.batches >= 3, "{loss}");
    let cut_off = disk.list().unwrap().iter().filter(|name| name.starts_with("log.")).count();
    assert!(loss.batches < 8, "{} of {cut_off} files", loss.batches);
}
