//! Start-up over a damaged data directory: the input says which bytes of which file are overwritten and whether the sums
//! are made to hold again. Recovery, loading and the report of a loss must end with an answer, whatever it is.
#![no_main]

use falconer::limits::BLOCK_BYTES;
use falconer::log::disk::Disk;
use falconer::log::{loss, recovery};
use falconer::sim::disk::SimDisk;
use falconer::tree::snapshot::Loader;
use falconer_fuzz::input::Input;
use falconer_fuzz::{history, sums};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static SOUND: SimDisk = history::disk();
}

fn overwrite(disk: &SimDisk, name: &str, bytes: &[u8]) {
    let file = disk.create(name).expect("no fault");
    disk.write_at(&file, 0, bytes).expect("no fault");
    disk.sync(&file).expect("no fault");
}

fn damage(disk: &SimDisk, input: &mut Input<'_>) {
    let names = disk.list().expect("no fault");
    let choice = usize::from(input.u8());
    // Nothing is left when the script has removed every file.
    let Some(name) = choice.checked_rem(names.len()).map(|at| &names[at]) else { return };
    let mut bytes = disk.contents(name);
    let how = input.u8();
    if how == 0xff {
        return disk.remove(name).expect("no fault");
    }
    let block = usize::from(input.u8()) * BLOCK_BYTES % bytes.len().max(1);
    let at = (block + usize::from(input.u16()) % BLOCK_BYTES).min(bytes.len());
    let new = input.bytes(usize::from(how & 0x3f));
    let new = &new[..new.len().min(bytes.len() - at)];
    bytes[at..at + new.len()].copy_from_slice(new);
    if how & 0x40 != 0 {
        match name.split('.').next() {
            Some("superblock") => sums::superblock(&mut bytes[block..]),
            Some("snapshot") => sums::snapshot(&mut bytes),
            _ if block == 0 => sums::segment(&mut bytes),
            _ => sums::frame(&mut bytes[block..]),
        }
    }
    if how & 0x80 != 0 {
        bytes.truncate(at);
    }
    overwrite(disk, name, &bytes);
}

fuzz_target!(|data: &[u8]| {
    let disk = SOUND.with(SimDisk::fork);
    let mut input = Input(data);
    while !input.is_empty() {
        damage(&disk, &mut input);
    }
    let _ = loss::describe_loss(&disk);
    if let Ok(found) = recovery::open(&disk) {
        let mut loader = Loader::new(true);
        let mut good = true;
        let loaded = found.load_snapshot(&disk, |chunk| good &= good && loader.push(chunk).is_ok(), |_, _| ());
        if loaded.is_ok() && good {
            let _ = loader.finish();
        }
        let _ = found.replay(&disk, found.tail.zxid, |batch| assert!(batch.txns().len() > 0), |_, _| ());
    }
});
