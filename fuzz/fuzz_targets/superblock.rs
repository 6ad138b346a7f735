//! The superblock: four copies, those named by the bits of the first byte with a sum that holds.
#![no_main]

use falconer::limits::BLOCK_BYTES;
use falconer::log::disk::Disk;
use falconer::log::superblock::{COPIES, FILE_NAME, Superblock};
use falconer::sim::disk::SimDisk;
use falconer_fuzz::sums;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((how, data)) = data.split_first() else { return };
    let mut file = vec![0; COPIES * BLOCK_BYTES];
    let piece = (data.len() / COPIES).clamp(1, BLOCK_BYTES);
    for (copy, bytes) in data.chunks(piece).take(COPIES).enumerate() {
        let block = &mut file[copy * BLOCK_BYTES..(copy + 1) * BLOCK_BYTES];
        block[..bytes.len()].copy_from_slice(bytes);
        if how >> copy & 1 == 1 {
            sums::superblock(block);
        }
    }
    let disk = SimDisk::new(1);
    let handle = disk.create(FILE_NAME).expect("no fault");
    disk.write_at(&handle, 0, &file).expect("no fault");
    if let Ok(Some((superblock, copy))) = Superblock::read(&disk) {
        assert!(copy < COPIES);
        if superblock.sequence == u64::MAX {
            return; // no server writes that often: nothing follows
        }
        superblock.successor().write(&disk, copy).expect("no fault");
        assert_eq!(Superblock::read(&disk).map(|found| found.map(|f| f.0)), Ok(Some(superblock.successor())));
    }
});
