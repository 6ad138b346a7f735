//! The medium changes what was durable: that is reported, never dropped in silence. What was not durable is cut.

use super::world::{Model, SEGMENT_BYTES, Server, batch_of, start};
use crate::limits::BLOCK_BYTES;
use crate::log::disk::Disk;
use crate::log::loss::describe_loss;
use crate::log::recovery::{RecoveryError, inspect, open};
use crate::log::segment::file_name;
use crate::sim::disk::SimDisk;

/// A history that ended quietly: everything acknowledged, and a mark that says so.
fn quiet(seed: u64, steps: u32) -> (SimDisk, Model) {
    let (disk, mut model) = (SimDisk::new(seed), Model::default());
    let mut server = Server::run(&disk, &mut model, seed, steps).unwrap();
    server.tick(&mut model, 1000).unwrap();
    assert_eq!(model.acked, model.history.len());
    (disk, model)
}

/// Either the start is refused, or nothing is missing.
fn refused_or_whole(disk: &SimDisk, model: &Model, what: &str) -> bool {
    match inspect(disk) {
        Err(RecoveryError::Corrupt(corruption)) => {
            assert!(corruption.to_string().contains("falconer recover --data-dir sim --show"));
            true
        }
        Err(RecoveryError::Snapshot { .. } | RecoveryError::Foreign { .. }) => true,
        Err(other) => panic!("{what}: {other}"),
        Ok(found) => {
            assert_eq!(model.check(disk, &found), model.history.len(), "{what}: dropped in silence");
            false
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_in_the_log_is_found() {
    let (disk, model) = quiet(2, 90);
    let slots = inspect(&disk).unwrap().superblock.slots;
    let mut refused = 0;
    for slot in 0..slots {
        for at in (0..SEGMENT_BYTES).step_by(61) {
            disk.flip(&file_name(slot), at, 1 << (at % 8));
            refused += u32::from(refused_or_whole(&disk, &model, &format!("slot {slot} byte {at}")));
            disk.flip(&file_name(slot), at, 1 << (at % 8));
        }
    }
    assert!(refused > 100, "{refused}");
}

#[test]
fn a_block_that_reads_as_zero_is_found() {
    let (disk, model) = quiet(3, 90);
    let slots = inspect(&disk).unwrap().superblock.slots;
    let mut refused = 0;
    for slot in 0..slots {
        for block in 0..SEGMENT_BYTES / BLOCK_BYTES as u64 {
            let copy = disk.fork();
            copy.zero(&file_name(slot), block * BLOCK_BYTES as u64, BLOCK_BYTES as u64);
            refused += u32::from(refused_or_whole(&copy, &model, &format!("slot {slot} block {block}")));
        }
    }
    assert!(refused > 10, "{refused}");
}

/// Blocks of the log with something in them: slot and offset.
fn used_blocks(disk: &SimDisk) -> Vec<(u32, u64)> {
    let slots = 0..inspect(disk).unwrap().superblock.slots;
    let offsets = (0..SEGMENT_BYTES).step_by(BLOCK_BYTES);
    let all = slots.flat_map(|slot| offsets.clone().map(move |at| (slot, at)));
    all.filter(|(slot, at)| block_at(disk, *slot, *at).iter().any(|byte| *byte != 0)).collect()
}

fn block_at(disk: &SimDisk, slot: u32, at: u64) -> Vec<u8> {
    disk.contents(&file_name(slot))[at as usize..at as usize + BLOCK_BYTES].to_vec()
}

/// A disk whose write of the block `from` went to `to` instead: `from` holds zeros as it did before. None: it was written
/// before `to`, and would have been written over.
fn misdirected(disk: &SimDisk, from: (u32, u64), to: (u32, u64)) -> Option<SimDisk> {
    let written = |(slot, at): (u32, u64)| disk.written(&file_name(slot), at);
    let copy = disk.fork();
    copy.overwrite(&file_name(to.0), to.1, &block_at(disk, from.0, from.1));
    copy.zero(&file_name(from.0), from.1, BLOCK_BYTES as u64);
    (written(from) > written(to)).then_some(copy)
}

#[test]
fn a_mark_over_the_batch_that_it_vouches_for_is_found() {
    let (disk, model) = quiet(2, 3);
    let found = inspect(&disk).unwrap();
    assert!(found.marked());
    let (slot, mark) = (found.segments.last().unwrap().header.slot, found.end - BLOCK_BYTES as u64);
    let copy = misdirected(&disk, (slot, mark), (slot, mark - BLOCK_BYTES as u64)).unwrap();
    assert!(refused_or_whole(&copy, &model, "the mark vouches for what it destroyed"));
}

#[test]
fn no_single_stray_write_loses_more_than_a_last_batch_without_a_mark() {
    let (mut refused, mut lost) = (0, 0);
    for seed in 1..5 {
        let (disk, mut model) = (SimDisk::new(seed), Model::default());
        let mut server = Server::run(&disk, &mut model, seed, 14).unwrap();
        if seed.is_multiple_of(2) {
            server.tick(&mut model, 1000).unwrap();
        }
        let (before, blocks) = (inspect(&disk).unwrap(), used_blocks(&disk));
        for (from, to) in blocks.iter().flat_map(|from| blocks.iter().map(move |to| (*from, *to))) {
            let Some(copy) = misdirected(&disk, from, to) else { continue };
            match inspect(&copy) {
                Ok(found) if found.tail == before.tail => {}
                Ok(found) => {
                    assert!(!before.marked(), "{from:x?} went to {to:x?}: a mark vouches for {:x?}", before.tail);
                    assert_eq!(model.count_to(found.tail) + 1, model.history.len(), "{from:x?} went to {to:x?}");
                    lost += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 100, "{refused} refused, {lost} lost");
}

#[test]
fn a_missing_or_short_segment_is_found() {
    let (disk, model) = quiet(2, 60);
    for slot in 0..inspect(&disk).unwrap().superblock.slots {
        let copy = disk.fork();
        copy.remove(&file_name(slot)).unwrap();
        assert!(refused_or_whole(&copy, &model, "removed"));
        let copy = disk.fork();
        copy.cut(&file_name(slot), SEGMENT_BYTES - 1);
        assert!(refused_or_whole(&copy, &model, "cut"));
    }
}

#[test]
fn a_lost_superblock_is_not_an_empty_directory() {
    let (disk, _) = quiet(2, 20);
    disk.remove("superblock").unwrap();
    assert!(matches!(inspect(&disk), Err(RecoveryError::Superblock { .. })));
}

#[test]
fn damage_that_was_found_says_what_would_be_lost() {
    let (disk, model) = quiet(5, 12);
    assert!(describe_loss(&disk).unwrap().is_ok());
    disk.flip("log.0000", BLOCK_BYTES as u64 + 70, 1);
    let loss = describe_loss(&disk).unwrap().unwrap_err();
    let text = loss.to_string();
    assert!(text.contains("sim/log.0000: damaged at byte"), "{text}");
    assert!(loss.batches > 0 && loss.last_zxid == model.tail().zxid, "{text}");
    assert!(matches!(open(&disk), Err(RecoveryError::Corrupt(_))), "and a start is refused");
}

#[test]
fn damage_in_a_tail_that_nobody_vouches_for_is_cut() {
    let (disk, mut model) = (SimDisk::new(7), Model::default());
    let mut server = Server::run(&disk, &mut model, 7, 0).unwrap();
    for _ in 0..3 {
        server.append_random(&mut model).unwrap();
    }
    // The last frame was the one in flight: it was never reported durable.
    model.acked -= 1;
    let end = inspect(&disk).unwrap().end;
    let last = end - (64 + model.history.last().unwrap().1.len() as u64).next_multiple_of(BLOCK_BYTES as u64);
    for at in (last..end).step_by(37) {
        let copy = disk.fork();
        copy.flip("log.0000", at, 4);
        let mut model = model.clone();
        let found = open(&copy).unwrap();
        model.restart(&copy, &found);
        assert!(found.cut.is_some() || found.tail == model.tail());
        Server::run(&copy, &mut model, 8, 20).unwrap();
    }
}

#[test]
fn a_frame_that_was_cut_never_comes_back() {
    let (disk, mut model) = (SimDisk::new(7), Model::default());
    let mut server = Server::run(&disk, &mut model, 7, 0).unwrap();
    let before = inspect(&disk).unwrap();
    let batch = batch_of(model.tail(), model.tail().zxid + 1, &[3000]);
    server.append(&mut model, batch).unwrap();
    let torn_at = before.end + 2000;
    disk.flip("log.0000", torn_at, 1);
    assert_eq!(open(&disk).unwrap().cut, Some(("sim/log.0000".to_string(), before.end)));
    // The next write at this place is torn too, and just the sector that was missing arrives.
    disk.flip("log.0000", torn_at, 1);
    assert_eq!(open(&disk).unwrap().tail, before.tail);
}

#[test]
fn a_bad_snapshot_is_replaced_by_an_older_one_if_the_log_allows() {
    let (mut fell_back, mut refused) = (0, 0);
    for seed in 1..12 {
        let (disk, mut model) = quiet(seed, 80);
        let Some(pointer) = inspect(&disk).unwrap().snapshot else { continue };
        disk.flip(&pointer.file_name(), pointer.bytes / 2, 1);
        match start(&disk, &mut model) {
            Err(RecoveryError::Snapshot { .. }) => refused += 1,
            Err(other) => panic!("{other}"),
            Ok(found) => {
                assert!(found.fell_back.is_some());
                assert_eq!(model.check(&disk, &found), model.history.len());
                let server = Server::run(&disk, &mut model, seed, 60).unwrap();
                assert_ne!(server.journal.superblock().snapshot, found.snapshot, "a new one was made");
                fell_back += 1;
            }
        }
    }
    assert!(fell_back > 0 && fell_back + refused > 5, "{fell_back} {refused}");
}

#[test]
fn files_of_another_server_and_renamed_files_are_refused() {
    let (disk, _) = quiet(2, 30);
    let (first, second) = (disk.contents("log.0000"), disk.contents("log.0001"));
    let replace = |bytes: &[u8]| {
        let copy = disk.fork();
        let file = copy.open("log.0000").unwrap().unwrap();
        copy.write_at(&file, 0, bytes).unwrap();
        inspect(&copy)
    };
    assert!(replace(&first).is_ok());
    assert!(matches!(replace(&second), Err(RecoveryError::Foreign { .. })));
}
