//! Makes damaged bytes plausible: recomputes the sums of every format on disk, so that decoders see the damage itself.
//! The offsets are those of `docs/data-files.md`. Refuses to touch anything but sums (and the magic where it says so).

use crc32c::{crc32c, crc32c_append};
use falconer::wire::batch::LOCAL_HEADER_BYTES;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// The `u32` at `at`, or 0 past the end.
fn u32_at(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes(b.try_into().expect("four bytes")) as usize)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(room) = bytes.get_mut(at..at + value.len()) {
        room.copy_from_slice(value);
    }
}

/// The chain hash of a batch that has 64 bytes of local header in front; its length is as its header says.
pub fn batch(frame: &mut [u8]) {
    let len = u32_at(frame, LOCAL_HEADER_BYTES + 56);
    let Some(all) = frame.get(LOCAL_HEADER_BYTES..LOCAL_HEADER_BYTES + len).filter(|all| all.len() >= 96) else { return };
    let mut hash = Xxh3::new();
    hash.update(&all[..80]);
    hash.update(&[0; 16]);
    hash.update(&all[96..]);
    let sum = hash.digest128().to_le_bytes();
    put(frame, LOCAL_HEADER_BYTES + 80, &sum);
}

/// Both sums of the frame at the start of `bytes`, and the batch in it.
pub fn frame(bytes: &mut [u8]) {
    let len = u32_at(bytes, 36);
    batch(bytes);
    let Some(body) = bytes.get(LOCAL_HEADER_BYTES..LOCAL_HEADER_BYTES + len) else { return };
    let sum = crc32c_append(crc32c(&bytes[..56]), body).to_le_bytes();
    put(bytes, 56, &sum);
    let sum = crc32c(&bytes[..60]).to_le_bytes();
    put(bytes, 60, &sum);
}

/// The first copy of a segment header.
pub fn segment(block: &mut [u8]) {
    if block.len() >= 96 {
        let sum = crc32c(&block[..92]).to_le_bytes();
        put(block, 92, &sum);
    }
}

/// One copy of the superblock.
pub fn superblock(block: &mut [u8]) {
    if block.len() >= 512 {
        put(block, 0, b"FALCONER");
        put(block, 16, &[0; 16]);
        let sum = xxh3_128(&block[..512]).to_le_bytes();
        put(block, 16, &sum);
    }
}

/// Header, chunks and trailer of a snapshot file, as far as the lengths of its chunks lead.
pub fn snapshot(file: &mut [u8]) {
    const END: usize = 64;
    let Some(end) = file.len().checked_sub(END).filter(|end| *end >= END) else { return };
    let sum = crc32c(&file[..60]).to_le_bytes();
    put(file, 60, &sum);
    let (mut at, mut chunks, mut payload_bytes) = (END, 0u64, 0u64);
    while at + 16 <= end {
        let len = u32_at(file, at + 8);
        if len > end - at - 16 {
            break;
        }
        let sum = crc32c_append(crc32c(&file[at..at + 12]), &file[at + 16..at + 16 + len]).to_le_bytes();
        put(file, at + 12, &sum);
        (at, chunks, payload_bytes) = (at + 16 + len, chunks + 1, payload_bytes + len as u64);
    }
    let digest = xxh3_128(&file[..end]).to_le_bytes();
    put(file, end + 8, &chunks.to_le_bytes());
    put(file, end + 16, &payload_bytes.to_le_bytes());
    put(file, end + 24, &digest);
    let sum = crc32c(&file[end..end + 60]).to_le_bytes();
    put(file, end + 60, &sum);
}
