//! Promises, and the other things that only the superblock says: the ensemble, membership, a snapshot in place of the log.

use super::straight::{log, run};
use super::world::{self, CLUSTER, CONFIG, FORMAT, SEGMENT_BYTES, batch_in, batch_of};
use crate::log::disk::Disk;
use crate::log::incoming::IncomingSnapshot;
use crate::log::recovery::{self, Format, inspect, open};
use crate::log::{Effect, Job, Journal, LogConfig, Promise};
use crate::sim::disk::SimDisk;
use crate::wire::batch::Position;

fn promise(epoch: u32, to: u64) -> Promise {
    Promise { epoch, to, cluster: CLUSTER, member: true }
}

fn fresh(disk: &SimDisk, format: Format, config: LogConfig) -> Journal {
    recovery::format(disk, &format).unwrap();
    Journal::new(&open(disk).unwrap(), config, 1)
}

fn job(out: &mut Vec<Effect>) -> Job {
    let mut jobs = out.extract_if(.., |effect| matches!(effect, Effect::Background(_)));
    let Some(Effect::Background(job)) = jobs.next() else { panic!("a job is due") };
    job
}

fn promised(out: &mut Vec<Effect>) -> Vec<Promise> {
    let mut found = Vec::new();
    for effect in out.drain(..) {
        match effect {
            Effect::Promised(promise) => found.push(promise),
            Effect::Background(_) => panic!("nothing else is due"),
            _ => {}
        }
    }
    found
}

#[test]
fn a_promise_waits_for_one_slice_of_a_new_segment_at_most() {
    let disk = SimDisk::new(1);
    let bytes = 16 << 20;
    let mut journal = fresh(&disk, Format { segment_bytes: bytes, ..FORMAT }, LogConfig::default());
    let mut out = Vec::new();
    journal.tick(0, &mut out);
    let mut slices = 0;
    for epoch in 1..6 {
        let Job::PrepareSegment { from, to, .. } = job(&mut out) else { panic!("a segment is being prepared") };
        assert!(to - from <= 4 << 20);
        slices += 1;
        journal.promise(promise(epoch, 3), &mut out);
        assert!(out.is_empty(), "not before it is on the medium");
        Job::PrepareSegment { slot: 2, bytes, from, to }.run(&disk).unwrap();
        journal.background_done(Ok(()), 0, &mut out);
        let write = job(&mut out);
        assert!(matches!(write, Job::WriteSuperblock(_)));
        write.run(&disk).unwrap();
        assert_eq!(inspect(&disk).unwrap().promise(), promise(epoch, 3));
        journal.background_done(Ok(()), 0, &mut out);
        assert!(out.iter().any(|effect| matches!(effect, Effect::Promised(p) if *p == promise(epoch, 3))));
        out.retain(|effect| matches!(effect, Effect::Background(_)));
    }
    assert_eq!(slices, 5, "four for the first, and the next has begun");
    assert_eq!(inspect(&disk).unwrap().superblock.slots, 3);
}

#[test]
fn a_promise_that_replaces_another_is_reported_in_its_turn() {
    let disk = SimDisk::new(1);
    let mut journal = fresh(&disk, FORMAT, LogConfig { slots: 2, slots_for_peers: 2, ..CONFIG });
    let mut out = Vec::new();
    let (first, second, third) = (promise(1, 1), promise(2, 1), promise(2, 2));
    journal.promise(first, &mut out);
    let write = job(&mut out);
    journal.promise(second, &mut out);
    journal.promise(third, &mut out);
    journal.promise(third, &mut out);
    write.run(&disk).unwrap();
    journal.background_done(Ok(()), 0, &mut out);
    let write = job(&mut out);
    assert_eq!(promised(&mut out), [first]);
    write.run(&disk).unwrap();
    journal.background_done(Ok(()), 0, &mut out);
    assert_eq!(promised(&mut out), [third], "the one between was never made");
    journal.promise(third, &mut out);
    assert_eq!(promised(&mut out), [third], "made already: at once");
    assert_eq!(open(&disk).unwrap().promise(), third);
}

#[test]
#[should_panic(expected = "a promise is never taken back")]
fn an_epoch_that_goes_back_is_refused() {
    let disk = SimDisk::new(1);
    let mut journal = fresh(&disk, FORMAT, CONFIG);
    journal.promise(promise(2, 1), &mut Vec::new());
    journal.promise(promise(1, 1), &mut Vec::new());
}

#[test]
fn an_empty_disk_joins_another_ensemble() {
    let disk = SimDisk::new(1);
    let mut journal = fresh(&disk, Format { member: false, ..FORMAT }, CONFIG);
    assert!(!journal.superblock().member);
    // What was written for the old one and given up again is not in the way.
    let batch = batch_of(Position::default(), 1 << 32, &[10]);
    run(&disk, &mut journal, |journal, out| {
        journal.append(batch, out);
    });
    run(&disk, &mut journal, |journal, out| journal.truncate(Position::default(), out));
    let other = Promise { epoch: 1, to: 2, cluster: CLUSTER + 1, member: false };
    let mut out = Vec::new();
    journal.promise(other, &mut out);
    assert!(!journal.ready(), "not in the old one any more, nor in the new one yet");
    run(&disk, &mut journal, |_, effects| effects.append(&mut out));
    assert!(journal.ready() && journal.superblock().cluster == other.cluster);
    let found = open(&disk).unwrap();
    assert_eq!((found.promise(), found.tail), (other, Position::default()));
    let batch = batch_in(other.cluster, Position::default(), 2 << 32, &[10], 0);
    let tail = batch.position();
    run(&disk, &mut journal, |journal, out| {
        journal.append(batch, out);
    });
    assert_eq!(open(&disk).unwrap().tail, tail);
}

#[test]
#[should_panic(expected = "a history belongs to one ensemble")]
fn a_server_with_a_history_stays_where_it_is() {
    let disk = SimDisk::new(1);
    let (mut journal, _) = log(&disk, SEGMENT_BYTES, CONFIG, 1, 10);
    journal.promise(Promise { cluster: CLUSTER + 1, ..promise(1, 1) }, &mut Vec::new());
}

#[test]
fn a_snapshot_takes_the_place_of_the_log() {
    let disk = SimDisk::new(1);
    let (mut journal, ends) = log(&disk, SEGMENT_BYTES, CONFIG, 20, 5000);
    let leader = SimDisk::new(2);
    // Behind our own end: what we have beyond it was never committed.
    let at = Position { zxid: ends[10].zxid, chain: 99 };
    let pointer = world::write_snapshot(&leader, at).unwrap();
    assert!(journal.receivable(&pointer));
    let mut incoming = IncomingSnapshot::create(&disk, CLUSTER, pointer).unwrap();
    incoming.write(0, &leader.contents(&pointer.file_name())).unwrap();
    assert_eq!(incoming.finish(), Ok(pointer));
    let crashed = disk.fork();
    assert_eq!(open(&crashed).unwrap().tail, ends[20], "nothing is changed before it is installed");

    let mut out = Vec::new();
    journal.install(pointer, &mut out);
    assert!(!journal.ready());
    run(&disk, &mut journal, |_, effects| effects.append(&mut out));
    assert!(journal.ready() && !journal.receivable(&pointer));
    assert_eq!((journal.appended(), journal.durable(), journal.log_base()), (at, at, at));
    let found = open(&disk).unwrap();
    assert_eq!((found.tail, found.committed, found.positions()), (at, at.zxid, &[at][..]));
    // Once more, after a start: the same one may be installed again.
    let mut journal = Journal::new(&found, CONFIG, 3);
    run(&disk, &mut journal, |journal, out| journal.install(pointer, out));
    let batch = batch_of(at, 2 << 32, &[10]);
    let tail = batch.position();
    run(&disk, &mut journal, |journal, out| {
        journal.append(batch, out);
    });
    let found = open(&disk).unwrap();
    assert_eq!((found.tail, found.positions()), (tail, &[at, tail][..]));
    assert!(found.pending(&disk, at.zxid).unwrap().len() == 1 && found.snapshot == Some(pointer));
}

#[test]
fn a_snapshot_of_our_own_that_ends_too_late_is_dropped() {
    let disk = SimDisk::new(1);
    let (mut journal, ends) = log(&disk, SEGMENT_BYTES, LogConfig { snapshot_txns: 5, ..CONFIG }, 10, 50);
    assert!(journal.wants_snapshot());
    journal.snapshot_started();
    let own = world::write_snapshot(&disk, ends[8]).unwrap();
    let pointer = world::write_snapshot(&disk, Position { zxid: 5 << 32, chain: 7 }).unwrap();
    run(&disk, &mut journal, |journal, out| journal.install(pointer, out));
    run(&disk, &mut journal, |journal, out| journal.snapshot_written(Ok(own), 0, out));
    assert_eq!(journal.superblock().snapshot, Some(pointer));
    assert!(disk.open(&own.file_name()).unwrap().is_none() && disk.open(&pointer.file_name()).unwrap().is_some());
}
