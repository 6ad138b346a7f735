//! Feeding lagging peers from old segments: everything that is durable can be read, and nothing else.

use super::follower::{Follower, Model, start};
use super::straight::{log, run};
use crate::limits::BLOCK_BYTES;
use crate::log::feed::{self, FeedError};
use crate::log::tests::world::{self, CONFIG, batch_of};
use crate::log::{Effect, Journal, LogConfig, recovery};
use crate::sim::disk::SimDisk;
use crate::wire::batch::Position;

#[test]
fn every_position_can_be_read_on_from() {
    let disk = SimDisk::new(1);
    // Segments long enough that reading starts in their middle.
    let (mut journal, ends) = log(&disk, 4 << 20, LogConfig { prepare_bytes: 1 << 20, ..CONFIG }, 1000, 10_000);
    for recovered in [false, true] {
        if recovered {
            let found = recovery::open(&disk).unwrap();
            assert_eq!(found.positions(), ends);
            journal = Journal::new(&found, CONFIG, 2);
        }
        let map = journal.reader_map();
        assert!(map.segments.iter().all(|segment| segment.seeks.len() >= 2 || segment.header.sequence == 3));
        for (index, after) in ends.iter().enumerate() {
            let batches = feed::read(&disk, &map, *after, 25_000).unwrap();
            let read: Vec<Position> = batches.iter().map(|batch| batch.position()).collect();
            assert_eq!(read, ends[index + 1..ends.len().min(index + 3)], "position {index}");
        }
        let all: Vec<Position> = feed::read(&disk, &map, ends[0], usize::MAX).unwrap().iter().map(|b| b.position()).collect();
        assert_eq!(all, ends[1..]);
        assert_eq!(journal.log_base(), Position::default());
    }
}

#[test]
fn positions_that_are_not_in_the_log_are_gone() {
    let disk = SimDisk::new(1);
    let (journal, ends) = log(&disk, world::SEGMENT_BYTES, CONFIG, 20, 5000);
    let map = journal.reader_map();
    let gone = |after: Position| assert_eq!(feed::read(&disk, &map, after, 1000).err(), Some(FeedError::Gone), "{after:?}");
    ends.iter().for_each(|end| gone(Position { chain: end.chain ^ 1, ..*end }));
    gone(Position { zxid: 5, ..ends[3] });
    gone(Position { zxid: (1 << 32) - 1, ..ends[3] });
    gone(Position { zxid: 1 << 32 | 21, ..ends[20] });
}

#[test]
fn what_is_not_durable_is_not_read() {
    let disk = SimDisk::new(1);
    let (mut journal, ends) = log(&disk, world::SEGMENT_BYTES, CONFIG, 4, 5000);
    let mut effects = Vec::new();
    let batch = batch_of(ends[4], 1 << 32 | 5, &[10]);
    journal.append(batch, &mut effects);
    let write = effects.drain(..).find(|effect| matches!(effect, Effect::Write { .. }));
    let Some(Effect::Write { op, slot, offset, frame }) = write else { panic!("a batch is written") };
    world::write(&disk, slot, offset, frame.bytes()).unwrap();
    assert_eq!(feed::read(&disk, &journal.reader_map(), ends[3], 1 << 20).unwrap().len(), 1);
    journal.written(op, Ok(()), 0, &mut effects);
    assert_eq!(feed::read(&disk, &journal.reader_map(), ends[3], 1 << 20).unwrap().len(), 2);
}

#[test]
fn damage_is_told_from_a_slot_in_another_use() {
    let disk = SimDisk::new(1);
    let (mut journal, ends) = log(&disk, world::SEGMENT_BYTES, CONFIG, 12, 5000);
    let map = journal.reader_map();
    let first = map.segments[0].header.slot;
    disk.flip(&crate::log::segment::file_name(first), 3 * BLOCK_BYTES as u64 + 100, 1);
    assert!(matches!(feed::read(&disk, &map, ends[0], 1 << 20), Err(FeedError::Corrupt { .. })));
    disk.flip(&crate::log::segment::file_name(first), 3 * BLOCK_BYTES as u64 + 100, 1);
    assert_eq!(feed::read(&disk, &map, ends[0], 1 << 20).unwrap().len(), 12);
    // A header that is gone, and one of another slot, where nothing was taken into another use.
    let copy = disk.fork();
    copy.zero(&crate::log::segment::file_name(first), 0, BLOCK_BYTES as u64);
    assert!(matches!(feed::read(&copy, &map, ends[0], 1 << 20), Err(FeedError::Corrupt { .. })));
    copy.overwrite(&crate::log::segment::file_name(first), 0, &map.segments[1].header.block());
    assert!(matches!(feed::read(&copy, &map, ends[0], 1 << 20), Err(FeedError::Corrupt { .. })));
    // Another history, in the same files.
    let pointer = world::write_snapshot(&disk, Position { zxid: 9 << 32, chain: 7 }).unwrap();
    run(&disk, &mut journal, |journal, out| journal.install(pointer, out));
    assert_eq!((journal.log_base(), journal.durable()), (pointer.position, pointer.position));
    assert_eq!(feed::read(&disk, &journal.reader_map(), pointer.position, 1).unwrap().len(), 0);
    let mut after = pointer.position;
    for zxid in 1..30 {
        let batch = batch_of(after, 9 << 32 | zxid, &[5000]);
        after = batch.position();
        run(&disk, &mut journal, |journal, out| {
            journal.append(batch, out);
        });
    }
    assert_eq!(feed::read(&disk, &map, ends[0], 1 << 20).err(), Some(FeedError::Gone));
    assert_eq!(feed::read(&disk, &journal.reader_map(), pointer.position, usize::MAX).unwrap().len(), 29);
}

#[test]
fn damage_in_segments_that_only_peers_need_costs_only_them() {
    let (disk, mut model) = (SimDisk::new(3), Model::default());
    let mut seed = 0;
    // A life in which older segments are still there behind the snapshot.
    let found = loop {
        seed += 1;
        Follower::run(&disk, &mut model, seed, 120).unwrap();
        let found = start(&disk, &mut model).unwrap();
        model.restart(&disk, &found);
        if found.first_segment > 0 {
            break found;
        }
        assert!(seed < 50);
    };
    let header = found.segments[0].header;
    disk.flip(&crate::log::segment::file_name(header.slot), BLOCK_BYTES as u64 + 80, 1);
    let again = recovery::inspect(&disk).unwrap();
    assert_eq!((again.tail, again.first_segment), (found.tail, found.first_segment - 1));
    assert!(again.positions().len() < found.positions().len() && found.positions().ends_with(again.positions()));
    assert!(again.blank.contains(&header.slot));
}

/// How far back the log reaches after many batches and snapshots, with or without a peer that lags.
fn reach(config: LogConfig, lags: bool) -> u64 {
    let disk = SimDisk::new(1);
    let (mut journal, mut ends) = log(&disk, world::SEGMENT_BYTES, config, 5, 5000);
    journal.retain(lags.then_some(ends[1].zxid));
    for zxid in 6..120 {
        assert!(journal.ready(), "the log never waits for a peer");
        let batch = batch_of(ends[ends.len() - 1], 1 << 32 | zxid, &[5000]);
        ends.push(batch.position());
        run(&disk, &mut journal, |journal, out| {
            journal.append(batch, out);
        });
        if journal.wants_snapshot() {
            journal.snapshot_started();
            let pointer = world::write_snapshot(&disk, ends[ends.len() - 1]).unwrap();
            run(&disk, &mut journal, |journal, out| journal.snapshot_written(Ok(pointer), 0, out));
        }
    }
    let base = journal.log_base();
    assert_eq!(feed::read(&disk, &journal.reader_map(), base, usize::MAX).unwrap().last().unwrap().position(), ends[ends.len() - 1]);
    assert!(journal.superblock().slots <= config.slots_for_peers.max(config.slots + 2), "within the budget");
    base.zxid & 0xffff_ffff
}

#[test]
fn what_a_lagging_peer_needs_is_kept_within_the_budget() {
    let large = LogConfig { slots_for_peers: 60, ..CONFIG };
    assert!(reach(large, false) > 60, "reused as soon as it may be");
    assert!(reach(large, true) <= 1, "all is kept");
    let small = reach(LogConfig { slots_for_peers: 8, ..CONFIG }, true);
    assert!((20..115).contains(&small), "{small}: kept as far as the budget goes");
}
