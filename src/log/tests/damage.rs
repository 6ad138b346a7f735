//! The medium changes what was durable: that is reported, never dropped in silence. What was not durable is cut.

use super::world::{Model, SEGMENT_BYTES, Server, start};
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
        Err(RecoveryError::Snapshot { .. }) => true,
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
