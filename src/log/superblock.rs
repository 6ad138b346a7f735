//! The file `superblock`: who this server is, what it promised, which snapshot counts, how many segments there are and
//! from which on they count.
//! Four copies of one block, rewritten in place, two at a time with a sync after each two: at every moment at least two
//! copies are not being written, so no rename is ever needed.
//!
//! ```text
//!   0 magic u64   8 format u32   12 zero u32   16 checksum u128 over the first 512 bytes with this field zero
//!  32 parent u128 (checksum of the sequence before)   48 sequence u64   56 cluster u128   72 server u64
//!  80 incarnation u128   96 promised epoch u32   100 boot u32   104 segment bytes u64   112 slots u32
//! 116 has snapshot u32   120 snapshot zxid u64   128 chain u128   144 length u64   152 digest u128
//! 168 promised to u64    176 log floor u64       184 member u32
//! ```
//! Everything is in the first 512 bytes, which no disk tears: a torn copy is then either old, new or bad for good, and a
//! later write, torn in its turn, cannot complete an abandoned one.
//! Refuses to guess: copies of one sequence that differ, or no good copy at all, are errors.

use super::disk::{Disk, Errno};
use super::snapshot::SnapshotPointer;
use crate::limits::BLOCK_BYTES;
use crate::wire::aligned::AlignedBuf;
use crate::wire::batch::Position;
use xxhash_rust::xxh3::xxh3_128;

/// Its file name.
pub const FILE_NAME: &str = "superblock";
/// How many copies the file holds.
pub const COPIES: usize = 4;
/// The newest format this code writes, and the oldest it reads.
pub const FORMAT: u32 = 1;

const SECTOR_BYTES: usize = 512;
const MAGIC: u64 = u64::from_le_bytes(*b"FALCONER");

/// What a server has bound itself to; never forgotten once it was reported durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Promise {
    /// No leader of a lower epoch is followed. Never goes back.
    pub epoch: u32,
    /// The server that this epoch was promised to.
    pub to: u64,
    /// The ensemble. Changes only while there is no history.
    pub cluster: u128,
    /// Whether this server's promises and acknowledgements count. An empty disk that was never admitted is no member.
    pub member: bool,
}

/// One state of the superblock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// Counts the writes; the highest intact one is the state of the server.
    pub sequence: u64,
    /// Checksum of the state before this one.
    pub parent: u128,
    pub cluster: u128,
    pub server: u64,
    /// New whenever the data directory is formatted: a wiped server is not the one that made the old promises.
    pub incarnation: u128,
    pub promised_epoch: u32,
    /// The server that the epoch was promised to.
    pub promised_to: u64,
    /// See [`Promise::member`].
    pub member: bool,
    /// Segments of a lower generation do not count: their history was replaced by the snapshot.
    pub log_floor: u64,
    /// Counts the starts.
    pub boot: u32,
    /// Size of every segment file.
    pub segment_bytes: u64,
    /// Segment files that exist: `log.0000` up to this number. A missing one is noticed.
    pub slots: u32,
    /// The newest snapshot that is complete, verified and not ahead of the log.
    pub snapshot: Option<SnapshotPointer>,
}

/// Why the file cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadSuperblock {
    #[error("none of the four copies is intact")]
    Lost,
    #[error("copies with sequence number {0} differ")]
    Fork(u64),
    #[error("written by a newer version (format {0})")]
    Format(u32),
    #[error(transparent)]
    Io(#[from] Errno),
}

fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a fixed-size range")
}

fn checksum(block: &[u8]) -> u128 {
    let mut copy = [0; SECTOR_BYTES];
    copy.copy_from_slice(&block[..SECTOR_BYTES]);
    copy[16..32].fill(0);
    xxh3_128(&copy)
}

impl Superblock {
    fn encode(&self, out: &mut [u8]) {
        out.fill(0);
        out[0..8].copy_from_slice(&MAGIC.to_le_bytes());
        out[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        out[32..48].copy_from_slice(&self.parent.to_le_bytes());
        out[48..56].copy_from_slice(&self.sequence.to_le_bytes());
        out[56..72].copy_from_slice(&self.cluster.to_le_bytes());
        out[72..80].copy_from_slice(&self.server.to_le_bytes());
        out[80..96].copy_from_slice(&self.incarnation.to_le_bytes());
        out[96..100].copy_from_slice(&self.promised_epoch.to_le_bytes());
        out[100..104].copy_from_slice(&self.boot.to_le_bytes());
        out[104..112].copy_from_slice(&self.segment_bytes.to_le_bytes());
        out[112..116].copy_from_slice(&self.slots.to_le_bytes());
        if let Some(snapshot) = &self.snapshot {
            out[116..120].copy_from_slice(&1u32.to_le_bytes());
            out[120..128].copy_from_slice(&snapshot.position.zxid.to_le_bytes());
            out[128..144].copy_from_slice(&snapshot.position.chain.to_le_bytes());
            out[144..152].copy_from_slice(&snapshot.bytes.to_le_bytes());
            out[152..168].copy_from_slice(&snapshot.digest.to_le_bytes());
        }
        out[168..176].copy_from_slice(&self.promised_to.to_le_bytes());
        out[176..184].copy_from_slice(&self.log_floor.to_le_bytes());
        out[184..188].copy_from_slice(&u32::from(self.member).to_le_bytes());
        let sum = checksum(out);
        out[16..32].copy_from_slice(&sum.to_le_bytes());
    }

    fn decode(block: &[u8]) -> Result<Option<Superblock>, BadSuperblock> {
        let intact = u64::from_le_bytes(get(block, 0)) == MAGIC && u128::from_le_bytes(get(block, 16)) == checksum(block);
        if !intact {
            return Ok(None);
        }
        let format = u32::from_le_bytes(get(block, 8));
        if format != FORMAT {
            return Err(BadSuperblock::Format(format));
        }
        let snapshot = (u32::from_le_bytes(get(block, 116)) != 0).then(|| SnapshotPointer {
            position: Position { zxid: u64::from_le_bytes(get(block, 120)), chain: u128::from_le_bytes(get(block, 128)) },
            bytes: u64::from_le_bytes(get(block, 144)),
            digest: u128::from_le_bytes(get(block, 152)),
        });
        Ok(Some(Superblock {
            sequence: u64::from_le_bytes(get(block, 48)),
            parent: u128::from_le_bytes(get(block, 32)),
            cluster: u128::from_le_bytes(get(block, 56)),
            server: u64::from_le_bytes(get(block, 72)),
            incarnation: u128::from_le_bytes(get(block, 80)),
            promised_epoch: u32::from_le_bytes(get(block, 96)),
            promised_to: u64::from_le_bytes(get(block, 168)),
            member: u32::from_le_bytes(get(block, 184)) != 0,
            log_floor: u64::from_le_bytes(get(block, 176)),
            boot: u32::from_le_bytes(get(block, 100)),
            segment_bytes: u64::from_le_bytes(get(block, 104)),
            slots: u32::from_le_bytes(get(block, 112)),
            snapshot,
        }))
    }

    fn checksum(&self) -> u128 {
        let mut block = [0; BLOCK_BYTES];
        self.encode(&mut block);
        u128::from_le_bytes(get(&block, 16))
    }

    /// The state that may follow this one, equal except for sequence and parent; the caller changes what it wants.
    pub fn successor(&self) -> Superblock {
        Superblock { sequence: self.sequence + 1, parent: self.checksum(), ..*self }
    }

    /// What it says this server has promised.
    pub fn promise(&self) -> Promise {
        Promise { epoch: self.promised_epoch, to: self.promised_to, cluster: self.cluster, member: self.member }
    }

    /// The same state with another promise.
    pub fn promising(self, promise: Promise) -> Superblock {
        let Promise { epoch, to, cluster, member } = promise;
        Superblock { promised_epoch: epoch, promised_to: to, cluster, member, ..self }
    }

    /// Reads the file; None if there is none. The first copy that holds the result is second.
    pub fn read<D: Disk>(disk: &D) -> Result<Option<(Superblock, usize)>, BadSuperblock> {
        let Some(file) = disk.open(FILE_NAME)? else { return Ok(None) };
        let mut all = AlignedBuf::with_capacity(COPIES * BLOCK_BYTES);
        if disk.len(&file)? < all.len() as u64 {
            return Err(BadSuperblock::Lost);
        }
        disk.read_at(&file, 0, &mut all)?;
        let mut copies = Vec::with_capacity(COPIES);
        for (index, block) in all.chunks_exact(BLOCK_BYTES).enumerate() {
            copies.extend(Superblock::decode(block)?.map(|found| (found, index)));
        }
        let best = copies.iter().copied().reduce(|best, next| if next.0.sequence > best.0.sequence { next } else { best });
        let (best, index) = best.ok_or(BadSuperblock::Lost)?;
        for (copy, _) in &copies {
            let forked = copy.sequence == best.sequence && *copy != best;
            let orphaned = copy.sequence.checked_add(1) == Some(best.sequence) && copy.checksum() != best.parent;
            if forked || orphaned {
                return Err(BadSuperblock::Fork(copy.sequence));
            }
        }
        Ok(Some((best, index)))
    }

    /// Makes this the state of the server: two copies, sync, the other two, sync. `spare` is a copy that is overwritten
    /// last, so that what was read stays until what replaces it is safe.
    pub fn write<D: Disk>(&self, disk: &D, spare: usize) -> Result<(), Errno> {
        let file = disk.open(FILE_NAME)?.ok_or(Errno::EIO)?;
        self.write_to(disk, &file, spare)
    }

    fn write_to<D: Disk>(&self, disk: &D, file: &D::File, spare: usize) -> Result<(), Errno> {
        let mut block = AlignedBuf::with_capacity(BLOCK_BYTES);
        self.encode(&mut block);
        let pairs = if spare < 2 { [[2, 3], [0, 1]] } else { [[0, 1], [2, 3]] };
        for pair in pairs {
            for copy in pair {
                disk.write_at(file, (copy * BLOCK_BYTES) as u64, &block)?;
            }
            disk.sync(file)?;
        }
        Ok(())
    }

    /// The last step of formatting: the file with its first state.
    pub fn create<D: Disk>(&self, disk: &D) -> Result<(), Errno> {
        let file = disk.create(FILE_NAME)?;
        disk.allocate(&file, (COPIES * BLOCK_BYTES) as u64)?;
        self.write_to(disk, &file, COPIES - 1)?;
        disk.sync_names()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::disk::{Fault, SimDisk};

    fn first() -> Superblock {
        Superblock {
            sequence: 1,
            parent: 0,
            cluster: 11,
            server: 2,
            incarnation: 3,
            promised_epoch: 4,
            promised_to: 12,
            member: true,
            log_floor: 13,
            boot: 5,
            segment_bytes: 6,
            slots: 7,
            snapshot: Some(SnapshotPointer { position: Position { zxid: 8, chain: 9 }, bytes: 10, digest: 11 }),
        }
    }

    /// The layout that `docs/data-files.md` promises.
    #[test]
    fn every_field_has_its_place() {
        let mut block = [0xff; BLOCK_BYTES];
        first().encode(&mut block);
        let mut expected = [0; BLOCK_BYTES];
        let fields: [(usize, u64); 17] = [
            (0, MAGIC),
            (8, 1),
            (48, 1),
            (56, 11),
            (72, 2),
            (80, 3),
            (96, 4 | 5 << 32),
            (104, 6),
            (112, 7 | 1 << 32),
            (120, 8),
            (128, 9),
            (144, 10),
            (152, 11),
            (168, 12),
            (176, 13),
            (184, 1),
            (192, 0),
        ];
        fields.iter().for_each(|(at, value)| expected[*at..at + 8].copy_from_slice(&value.to_le_bytes()));
        let sum = xxh3_128(&expected[..SECTOR_BYTES]).to_le_bytes();
        expected[16..32].copy_from_slice(&sum);
        assert_eq!(block, expected);
        assert_eq!(Superblock::decode(&block), Ok(Some(first())));
        let promise = Promise { epoch: 5, to: 6, cluster: 7, member: false };
        assert_eq!(first().promising(promise).promise(), promise);
    }

    #[test]
    fn the_newest_intact_copy_counts() {
        let disk = SimDisk::new(1);
        assert_eq!(Superblock::read(&disk), Ok(None));
        first().create(&disk).unwrap();
        assert_eq!(Superblock::read(&disk), Ok(Some((first(), 0))));
        let second = Superblock { boot: 6, ..first().successor() };
        second.write(&disk, 0).unwrap();
        assert_eq!(Superblock::read(&disk), Ok(Some((second, 0))));
        (0..COPIES).for_each(|copy| disk.flip(FILE_NAME, (copy * BLOCK_BYTES + SECTOR_BYTES) as u64, 1));
        assert_eq!(Superblock::read(&disk), Ok(Some((second, 0))), "nothing counts but the first sector");
        for copy in 0..3 {
            disk.flip(FILE_NAME, copy * BLOCK_BYTES as u64 + 100, 1);
        }
        assert_eq!(Superblock::read(&disk), Ok(Some((second, 3))));
        disk.flip(FILE_NAME, 3 * BLOCK_BYTES as u64 + 500, 1);
        assert_eq!(Superblock::read(&disk), Err(BadSuperblock::Lost));
    }

    #[test]
    fn a_power_cut_leaves_the_old_state_or_the_new_one() {
        for at in 1..=6 {
            let disk = SimDisk::new(1);
            first().create(&disk).unwrap();
            let second = Superblock { boot: 6, ..first().successor() };
            disk.strike(disk.ops() + at, Fault::PowerCut);
            assert!(second.write(&disk, 0).is_err());
            disk.power_on_worst();
            let (found, _) = Superblock::read(&disk).unwrap().unwrap();
            assert_eq!(found, if at <= 3 { first() } else { second }, "operation {at}");
        }
    }

    #[test]
    fn the_last_good_copy_is_not_overwritten_first() {
        for good in 0..COPIES {
            let disk = SimDisk::new(1);
            first().create(&disk).unwrap();
            (0..COPIES).filter(|copy| *copy != good).for_each(|copy| disk.zero(FILE_NAME, (copy * BLOCK_BYTES) as u64, 512));
            let (found, spare) = Superblock::read(&disk).unwrap().unwrap();
            disk.strike(disk.ops() + 3, Fault::PowerCut);
            assert!(found.successor().write(&disk, spare).is_err());
            disk.power_on_worst();
            assert_eq!(Superblock::read(&disk).unwrap().unwrap().0, first());
        }
    }

    #[test]
    fn copies_that_contradict_each_other_are_refused() {
        let disk = SimDisk::new(1);
        first().create(&disk).unwrap();
        let file = disk.open(FILE_NAME).unwrap().unwrap();
        let mut block = AlignedBuf::with_capacity(BLOCK_BYTES);
        Superblock { server: 99, ..first() }.encode(&mut block);
        disk.write_at(&file, 0, &block).unwrap();
        assert_eq!(Superblock::read(&disk), Err(BadSuperblock::Fork(1)));
        Superblock { parent: 99, ..first().successor() }.encode(&mut block);
        disk.write_at(&file, 0, &block).unwrap();
        assert_eq!(Superblock::read(&disk), Err(BadSuperblock::Fork(1)));
    }

    #[test]
    fn the_highest_sequence_beside_a_lower_one_is_read() {
        let disk = SimDisk::new(1);
        let before = Superblock { sequence: u64::MAX - 1, ..first() };
        before.create(&disk).unwrap();
        let last = before.successor();
        let file = disk.open(FILE_NAME).unwrap().unwrap();
        let mut block = AlignedBuf::with_capacity(BLOCK_BYTES);
        last.encode(&mut block);
        disk.write_at(&file, 0, &block).unwrap();
        disk.write_at(&file, BLOCK_BYTES as u64, &block).unwrap();
        assert_eq!(Superblock::read(&disk), Ok(Some((last, 0))));
    }
}
