//! The bytes of `log.NNNN`: a header block, then frames. Buffers in, buffers out, plus the one job that makes a new file.
//!
//! ```text
//! block 0   segment header at byte 0 and again at byte 2048, see `SegmentHeader`
//! block 1.. frames, one after the other, each a whole number of blocks:
//!             batch: local header 64, batch bytes, zeros        mark: local header 64, zeros
//! then      whatever the file held before: zeros, or frames of an older generation
//! ```
//! Refuses to judge: it says what a block is, `scan` says where the log ends and `recovery` what that means.

use super::disk::{Disk, Errno};
use crate::limits::{BLOCK_BYTES, SEGMENT_BYTES, TXN_BYTES_MAX};
use crate::wire::aligned::AlignedBuf;
use crate::wire::batch::{Batch, LOCAL_HEADER_BYTES, Position};
use crc32c::{crc32c, crc32c_append};
use std::ops::Range;

/// Where the first frame of every segment starts.
pub const FIRST_FRAME: u64 = BLOCK_BYTES as u64;
/// The smallest segment that makes sense: header, one frame, one mark, one more frame.
pub const SEGMENT_BYTES_MIN: u64 = 4 * BLOCK_BYTES as u64;
/// The smallest segment a server may be formatted with: the largest transaction fits with its header and a mark.
pub const SEGMENT_BYTES_SERVING_MIN: u64 = 16 << 20;
const _: () = assert!((TXN_BYTES_MAX + 4 * BLOCK_BYTES) as u64 <= SEGMENT_BYTES_SERVING_MIN);
const _: () = assert!(SEGMENT_BYTES as u64 >= SEGMENT_BYTES_SERVING_MIN);
/// File names have four digits.
pub const SLOTS_MAX: u32 = 10_000;

const SEGMENT_MAGIC: u32 = u32::from_le_bytes(*b"FSEG");
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"FLOG");
const SEGMENT_FORMAT: u32 = 1;
const SECOND_COPY: usize = 2048;
const ZERO_FILL_BYTES: usize = 1 << 20;

/// The name of a slot's file, the same for ever.
pub fn file_name(slot: u32) -> String {
    format!("log.{slot:04}")
}

/// The slot of a file name, if it is a segment's.
pub fn slot_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("log.")?;
    (digits.len() == 4).then(|| digits.parse().ok()).flatten()
}

/// A place in the log: sequence number of the segment, then byte offset in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Place {
    pub sequence: u64,
    pub offset: u64,
}

/// Block 0 of a segment. Rewritten, durably, before the first frame of every new use of the file.
///
/// ```text
///  0 magic u32   4 format u32   8 cluster u128   24 server u64   32 sequence u64   40 generation u64   48 salt u64
/// 56 base zxid u64   64 base chain u128   80 previous generation u64   88 slot u32   92 crc32c u32 over the 92 bytes before
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    pub cluster: u128,
    pub server: u64,
    /// Position of the segment in the log: 1, 2, 3, ... without gaps.
    pub sequence: u64,
    /// Raised at every use of any segment, never repeated. The segment with the highest one is the end of the log.
    pub generation: u64,
    /// 64 random bits, so that no client can write something that looks like a frame.
    pub salt: u64,
    /// The last batch before this segment.
    pub base: Position,
    /// Generation of the segment before, which may have been reused since; 0 if there was none. After a truncation several
    /// segments of one sequence number may be on disk: this says which of them the log goes back to.
    pub previous: u64,
    pub slot: u32,
}

const SEGMENT_HEADER_BYTES: usize = 96;

fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a fixed-size range")
}

impl SegmentHeader {
    /// The whole of block 0.
    pub fn block(&self) -> AlignedBuf {
        let mut block = AlignedBuf::with_capacity(BLOCK_BYTES);
        let mut out = [0; SEGMENT_HEADER_BYTES];
        out[0..4].copy_from_slice(&SEGMENT_MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&SEGMENT_FORMAT.to_le_bytes());
        out[8..24].copy_from_slice(&self.cluster.to_le_bytes());
        out[24..32].copy_from_slice(&self.server.to_le_bytes());
        out[32..40].copy_from_slice(&self.sequence.to_le_bytes());
        out[40..48].copy_from_slice(&self.generation.to_le_bytes());
        out[48..56].copy_from_slice(&self.salt.to_le_bytes());
        out[56..64].copy_from_slice(&self.base.zxid.to_le_bytes());
        out[64..80].copy_from_slice(&self.base.chain.to_le_bytes());
        out[80..88].copy_from_slice(&self.previous.to_le_bytes());
        out[88..92].copy_from_slice(&self.slot.to_le_bytes());
        let crc = crc32c(&out[..92]);
        out[92..96].copy_from_slice(&crc.to_le_bytes());
        block[..SEGMENT_HEADER_BYTES].copy_from_slice(&out);
        block[SECOND_COPY..SECOND_COPY + SEGMENT_HEADER_BYTES].copy_from_slice(&out);
        block
    }

    /// The newer of the two copies that are intact; a write torn between them leaves the older, which then still holds.
    pub fn decode(block: &[u8]) -> Option<SegmentHeader> {
        let copies = [Self::decode_copy(&block[..SECOND_COPY]), Self::decode_copy(&block[SECOND_COPY..])];
        copies.into_iter().flatten().max_by_key(|header| header.generation)
    }

    fn decode_copy(bytes: &[u8]) -> Option<SegmentHeader> {
        let known = u32::from_le_bytes(get(bytes, 0)) == SEGMENT_MAGIC && u32::from_le_bytes(get(bytes, 4)) == SEGMENT_FORMAT;
        if !known || u32::from_le_bytes(get(bytes, 92)) != crc32c(&bytes[..92]) {
            return None;
        }
        Some(SegmentHeader {
            cluster: u128::from_le_bytes(get(bytes, 8)),
            server: u64::from_le_bytes(get(bytes, 24)),
            sequence: u64::from_le_bytes(get(bytes, 32)),
            generation: u64::from_le_bytes(get(bytes, 40)),
            salt: u64::from_le_bytes(get(bytes, 48)),
            base: Position { zxid: u64::from_le_bytes(get(bytes, 56)), chain: u128::from_le_bytes(get(bytes, 64)) },
            previous: u64::from_le_bytes(get(bytes, 80)),
            slot: u32::from_le_bytes(get(bytes, 88)),
        })
    }
}

/// What is true of a frame on this disk only; the 64 bytes in front of every batch, or alone in a mark.
///
/// ```text
///  0 magic u32   4 zero u32   8 generation u64   16 salt u64   24 sequence u64   32 offset u32
/// 36 length u32 (batch bytes, 0: a mark)   40 durable sequence u64   48 durable offset u32   52 zero u32
/// 56 crc32c u32 over bytes 0..56 and the batch   60 crc32c u32 over bytes 0..60
/// ```
/// The second sum lets a header speak for what was durable before it even if its own batch is torn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalHeader {
    pub generation: u64,
    pub salt: u64,
    pub at: Place,
    /// Bytes of the batch that follows, 0 for a mark.
    pub length: u32,
    /// Everything before this place was on the medium when the frame was issued.
    pub durable_upto: Place,
    body_crc: u32,
}

impl LocalHeader {
    pub fn new(segment: &SegmentHeader, offset: u64, length: u32, durable_upto: Place) -> LocalHeader {
        let at = Place { sequence: segment.sequence, offset };
        LocalHeader { generation: segment.generation, salt: segment.salt, at, length, durable_upto, body_crc: 0 }
    }

    fn encode(&self, body: &[u8]) -> [u8; LOCAL_HEADER_BYTES] {
        let mut out = [0; LOCAL_HEADER_BYTES];
        out[0..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
        out[8..16].copy_from_slice(&self.generation.to_le_bytes());
        out[16..24].copy_from_slice(&self.salt.to_le_bytes());
        out[24..32].copy_from_slice(&self.at.sequence.to_le_bytes());
        out[32..36].copy_from_slice(&(self.at.offset as u32).to_le_bytes());
        out[36..40].copy_from_slice(&self.length.to_le_bytes());
        out[40..48].copy_from_slice(&self.durable_upto.sequence.to_le_bytes());
        out[48..52].copy_from_slice(&(self.durable_upto.offset as u32).to_le_bytes());
        let crc = crc32c_append(crc32c(&out[..56]), body);
        out[56..60].copy_from_slice(&crc.to_le_bytes());
        let crc = crc32c(&out[..60]);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Fills the slot in front of `batch`.
    pub fn stamp(&self, batch: &mut Batch) {
        assert_eq!(self.length as usize, batch.bytes().len());
        let bytes = self.encode(batch.bytes());
        batch.local_header_mut().copy_from_slice(&bytes);
    }

    /// A block with this header and nothing else.
    pub fn mark(&self) -> AlignedBuf {
        assert_eq!(self.length, 0, "a mark has no batch");
        let mut block = AlignedBuf::with_capacity(BLOCK_BYTES);
        block[..LOCAL_HEADER_BYTES].copy_from_slice(&self.encode(&[]));
        block
    }

    /// The header at the start of `block`, if its own sum holds.
    pub fn decode(block: &[u8]) -> Option<LocalHeader> {
        let intact = u32::from_le_bytes(get(block, 0)) == FRAME_MAGIC && u32::from_le_bytes(get(block, 60)) == crc32c(&block[..60]);
        intact.then(|| LocalHeader {
            generation: u64::from_le_bytes(get(block, 8)),
            salt: u64::from_le_bytes(get(block, 16)),
            at: Place { sequence: u64::from_le_bytes(get(block, 24)), offset: u64::from(u32::from_le_bytes(get(block, 32))) },
            length: u32::from_le_bytes(get(block, 36)),
            durable_upto: Place { sequence: u64::from_le_bytes(get(block, 40)), offset: u64::from(u32::from_le_bytes(get(block, 48))) },
            body_crc: u32::from_le_bytes(get(block, 56)),
        })
    }

    /// Whether it was written in this use of the segment, at this offset.
    pub fn belongs(&self, segment: &SegmentHeader, offset: u64) -> bool {
        self.is_of(segment) && self.at.offset == offset
    }

    /// Whether it was written in this use of the segment. Where it lies says nothing: a write may have gone astray.
    pub fn is_of(&self, segment: &SegmentHeader) -> bool {
        self.at.sequence == segment.sequence && self.generation == segment.generation && self.salt == segment.salt
    }

    /// Blocks of the whole frame, in bytes.
    pub fn frame_bytes(&self) -> u64 {
        (LOCAL_HEADER_BYTES as u64 + u64::from(self.length)).next_multiple_of(BLOCK_BYTES as u64)
    }

    /// Whether `frame`, which starts with this header, holds the batch that was written.
    pub fn body_intact(&self, frame: &[u8]) -> bool {
        let body = &frame[LOCAL_HEADER_BYTES..LOCAL_HEADER_BYTES + self.length as usize];
        crc32c_append(crc32c(&frame[..56]), body) == self.body_crc
    }
}

/// Makes the file of a new slot: zeros written and synced, so that later writes change no metadata. Leaves nothing behind
/// when the disk is full.
pub fn prepare<D: Disk>(disk: &D, slot: u32, bytes: u64) -> Result<(), Errno> {
    prepare_slice(disk, slot, bytes, 0..bytes)
}

/// One step of [`prepare`]: the zeros of `slice`, which starts where the step before ended. The file exists for good when
/// the slice that ends at `bytes` is done.
pub fn prepare_slice<D: Disk>(disk: &D, slot: u32, bytes: u64, slice: Range<u64>) -> Result<(), Errno> {
    let name = file_name(slot);
    let result = fill(disk, &name, bytes, slice);
    if result.is_err_and(Errno::is_full) {
        disk.remove(&name)?;
        disk.sync_names()?;
    }
    result
}

fn fill<D: Disk>(disk: &D, name: &str, bytes: u64, slice: Range<u64>) -> Result<(), Errno> {
    let file = if slice.start == 0 {
        let file = disk.create(name)?;
        disk.allocate(&file, bytes)?;
        file
    } else {
        disk.open(name)?.ok_or(Errno::EIO)?
    };
    let zeros = AlignedBuf::with_capacity(ZERO_FILL_BYTES.min((slice.end - slice.start) as usize));
    let mut offset = slice.start;
    while offset < slice.end {
        let len = (slice.end - offset).min(zeros.len() as u64);
        disk.write_at(&file, offset, &zeros[..len as usize])?;
        offset += len;
    }
    disk.sync(&file)?;
    if slice.end == bytes { disk.sync_names() } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader {
            cluster: 1,
            server: 2,
            sequence: 3,
            generation: 4,
            salt: 5,
            base: Position { zxid: 6, chain: 7 },
            previous: 9,
            slot: 8,
        }
    }

    /// The layout that `docs/data-files.md` promises.
    #[test]
    fn every_field_has_its_place() {
        let mut expected = [0; SEGMENT_HEADER_BYTES];
        let fields: [(usize, u64); 9] =
            [(0, u64::from(SEGMENT_MAGIC) | 1 << 32), (8, 1), (24, 2), (32, 3), (40, 4), (48, 5), (56, 6), (64, 7), (80, 9)];
        fields.iter().for_each(|(at, value)| expected[*at..at + 8].copy_from_slice(&value.to_le_bytes()));
        expected[88] = 8;
        let sum = crc32c(&expected[..92]).to_le_bytes();
        expected[92..].copy_from_slice(&sum);
        assert_eq!(header().block()[..SEGMENT_HEADER_BYTES], expected);
    }

    #[test]
    fn a_segment_header_survives_one_bad_copy() {
        let mut block = header().block();
        assert_eq!(SegmentHeader::decode(&block), Some(header()));
        block[40] ^= 1;
        assert_eq!(SegmentHeader::decode(&block), Some(header()));
        block[SECOND_COPY + 40] ^= 1;
        assert_eq!(SegmentHeader::decode(&block), None);
    }

    #[test]
    fn the_newer_copy_of_a_torn_header_wins() {
        let newer = SegmentHeader { generation: 9, sequence: 10, ..header() };
        let mut block = header().block();
        block[..512].copy_from_slice(&newer.block()[..512]);
        assert_eq!(SegmentHeader::decode(&block), Some(newer));
    }

    #[test]
    fn a_mark_belongs_to_one_place_and_generation() {
        let local = LocalHeader::new(&header(), 8192, 0, Place { sequence: 3, offset: 8192 });
        let mark = local.mark();
        let read = LocalHeader::decode(&mark).unwrap();
        assert!(read.belongs(&header(), 8192) && read.body_intact(&mark));
        assert_eq!((read.durable_upto, read.frame_bytes()), (local.durable_upto, 4096));
        assert!(!read.belongs(&header(), 4096));
        assert!(!read.belongs(&SegmentHeader { salt: 6, ..header() }, 8192));
    }

    #[test]
    fn slots_and_names() {
        assert_eq!((file_name(7).as_str(), slot_of("log.0007")), ("log.0007", Some(7)));
        assert_eq!((slot_of("log.7"), slot_of("log.00x7"), slot_of("snapshot.0")), (None, None, None));
    }
}
