//! What happens to bytes that lie on a disk: bits flip, and a block turns up where another one should be. Which bytes follows
//! from a number, so that a plan can name them. Refuses to know what the bytes mean.

use super::disk::SimDisk;
use super::random::Dice;
use crate::limits::BLOCK_BYTES;
use crate::log::disk::Disk;
use crate::log::snapshot::zxid_of;

/// Blocks with something in them: file and offset.
fn used_blocks(disk: &SimDisk) -> Vec<(String, u64)> {
    let names = disk.list().unwrap_or_default();
    let blocks = |name: &String| {
        let bytes = disk.contents(name);
        let used = |(_, block): &(usize, &[u8])| block.iter().any(|byte| *byte != 0);
        let at = |(index, _)| (name.clone(), (index * BLOCK_BYTES) as u64);
        bytes.chunks(BLOCK_BYTES).enumerate().filter(used).map(at).collect::<Vec<_>>()
    };
    names.iter().flat_map(blocks).collect()
}

/// Flips a few bits of one block. False: there is nothing on the disk.
pub fn rot(disk: &SimDisk, pick: u32) -> bool {
    rot_one_of(disk, &used_blocks(disk), pick)
}

/// As [`rot`], in the newest snapshot. False: there is none.
pub fn rot_snapshot(disk: &SimDisk, pick: u32) -> bool {
    let snapshots: Vec<_> = used_blocks(disk).into_iter().filter(|(name, _)| zxid_of(name).is_some()).collect();
    let newest = snapshots.last().map(|(name, _)| name.clone());
    let blocks: Vec<_> = snapshots.into_iter().filter(|(name, _)| Some(name) == newest.as_ref()).collect();
    rot_one_of(disk, &blocks, pick)
}

fn rot_one_of(disk: &SimDisk, blocks: &[(String, u64)], pick: u32) -> bool {
    let mut dice = Dice::new(u64::from(pick));
    if blocks.is_empty() {
        return false;
    }
    let (name, offset) = dice.pick(blocks);
    let len = (disk.contents(name).len() as u64 - offset).min(BLOCK_BYTES as u64) as usize;
    // Most of a block is often padding: a flip there must do no harm either.
    let most = *dice.clone().pick(&[len, len, 600.min(len), 100.min(len)]);
    for _ in 0..1 + dice.below(3) {
        disk.flip(name, offset + dice.below(most) as u64, 1 << dice.below(8));
    }
    true
}

/// A block lies where another one should be; its own place holds what was written there, or zeros. The latter only if it was
/// written after the block that it hit: one that had come later would have hit it in turn.
pub fn misdirect(disk: &SimDisk, pick: u32) -> bool {
    let mut dice = Dice::new(u64::from(pick));
    let blocks: Vec<_> = used_blocks(disk).into_iter().filter(|(name, _)| name.starts_with("log.")).collect();
    if blocks.len() < 2 {
        return false;
    }
    let ((from, from_at), (to, to_at)) = (dice.pick(&blocks).clone(), dice.pick(&blocks).clone());
    let block = disk.contents(&from)[from_at as usize..from_at as usize + BLOCK_BYTES].to_vec();
    disk.overwrite(&to, to_at, &block);
    if dice.chance(50) && disk.written(&from, from_at) > disk.written(&to, to_at) {
        disk.zero(&from, from_at, BLOCK_BYTES as u64);
    }
    true
}
