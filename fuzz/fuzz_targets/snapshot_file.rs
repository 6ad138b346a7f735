//! A snapshot file, its sums made right unless the first byte is odd: reading it ends with chunks or an error.
#![no_main]

use falconer::log::disk::Disk;
use falconer::log::snapshot;
use falconer::sim::disk::SimDisk;
use falconer_fuzz::{history, sums};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((how, data)) = data.split_first() else { return };
    let mut bytes = data.to_vec();
    if how % 2 == 0 {
        sums::snapshot(&mut bytes);
    }
    let disk = SimDisk::new(1);
    let name = snapshot::file_name(7);
    let file = disk.create(&name).expect("no fault");
    disk.write_at(&file, 0, &bytes).expect("no fault");
    let mut payload = 0;
    let read = snapshot::read(&disk, &name, history::CLUSTER, |chunk| payload += chunk.len(), |_| ());
    assert!(payload <= bytes.len());
    if let Ok(pointer) = read {
        assert_eq!(pointer.bytes, bytes.len() as u64);
    }
});
