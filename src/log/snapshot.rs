//! The bytes of `snapshot.<zxid>`: the state at one batch end as a stream of chunks. What is in a chunk is the tree's
//! business; here it is opaque, summed and counted.
//!
//! ```text
//! header   64   magic u32   format u32   cluster u128   zxid u64   chain u128   zeros   crc32c u32 (at 60)
//! chunk    16   magic u32   index u32    length u32     crc32c u32 over the 12 bytes before and the payload
//!               payload
//! trailer  64   magic u32   zero u32     chunks u64     payload bytes u64   digest u128 over all before   zeros   crc32c u32 (at 60)
//! ```
//! The file is written under its final name: only the superblock makes it count, and without a good trailer it is nothing.
//! Refuses to hand out a chunk before its sum held; whether the whole is good is known only at the trailer.

use super::disk::{Disk, Errno};
use crate::wire::batch::Position;
use crc32c::{crc32c, crc32c_append};
use xxhash_rust::xxh3::Xxh3;

const HEADER_MAGIC: u32 = u32::from_le_bytes(*b"FSNP");
const CHUNK_MAGIC: u32 = u32::from_le_bytes(*b"FCHK");
const TRAILER_MAGIC: u32 = u32::from_le_bytes(*b"FEND");
const FORMAT: u32 = 1;
const END_BYTES: usize = 64;
const CHUNK_HEADER_BYTES: usize = 16;
/// The largest payload of one chunk.
pub const CHUNK_BYTES_MAX: usize = 256 << 20;
/// Bytes handed to the disk in one write, and at most that many dirty before a sync.
const WRITE_BYTES: usize = 1 << 20;
const SYNC_BYTES: u64 = 16 << 20;

/// Names one complete snapshot and proves that a file is it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotPointer {
    /// The batch end it was cut at.
    pub position: Position,
    /// Length of the file.
    pub bytes: u64,
    /// xxh3-128 over everything before the trailer.
    pub digest: u128,
}

impl SnapshotPointer {
    pub fn file_name(&self) -> String {
        file_name(self.position.zxid)
    }
}

/// The name of the snapshot cut at `zxid`.
pub fn file_name(zxid: u64) -> String {
    format!("snapshot.{zxid:016x}")
}

/// The zxid of a snapshot's file name, if it is one.
pub fn zxid_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("snapshot.")?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

/// Why a file is not the snapshot it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadSnapshot {
    #[error("there is no such file")]
    Missing,
    #[error("its header is not that of this snapshot")]
    Header,
    #[error("written by a newer version (format {0})")]
    Format(u32),
    #[error("chunk {0} is damaged")]
    Chunk(u32),
    #[error("its end is missing or does not match the rest")]
    Trailer,
    #[error("it is not the file the superblock names, or not the one that was announced")]
    Other,
    /// A piece of an incoming one: the next must start at this offset.
    #[error("a piece of it does not go on at byte {0}")]
    Misplaced(u64),
    #[error(transparent)]
    Io(#[from] Errno),
}

impl BadSnapshot {
    /// As an error of the disk: a file that reads back differently is as bad as one that cannot be read.
    pub fn errno(self) -> Errno {
        if let BadSnapshot::Io(errno) = self { errno } else { Errno::EIO }
    }
}

fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a fixed-size range")
}

/// Turns chunks into the bytes of the file. Pure: appends to a buffer that the caller empties.
pub struct Encoder {
    position: Position,
    hash: Xxh3,
    chunks: u32,
    payload_bytes: u64,
    bytes: u64,
}

impl Encoder {
    /// Appends the header.
    pub fn new(cluster: u128, position: Position, out: &mut Vec<u8>) -> Encoder {
        let mut header = [0; END_BYTES];
        header[0..4].copy_from_slice(&HEADER_MAGIC.to_le_bytes());
        header[4..8].copy_from_slice(&FORMAT.to_le_bytes());
        header[8..24].copy_from_slice(&cluster.to_le_bytes());
        header[24..32].copy_from_slice(&position.zxid.to_le_bytes());
        header[32..48].copy_from_slice(&position.chain.to_le_bytes());
        let crc = crc32c(&header[..60]);
        header[60..64].copy_from_slice(&crc.to_le_bytes());
        let mut encoder = Encoder { position, hash: Xxh3::new(), chunks: 0, payload_bytes: 0, bytes: 0 };
        encoder.emit(&header, out);
        encoder
    }

    fn emit(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        out.extend_from_slice(bytes);
    }

    /// Appends one chunk; loading hands out exactly the same slices. At most [`CHUNK_BYTES_MAX`] bytes.
    pub fn chunk(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        assert!(payload.len() <= CHUNK_BYTES_MAX, "the walk of the tree is cut into slices");
        let mut header = [0; CHUNK_HEADER_BYTES];
        header[0..4].copy_from_slice(&CHUNK_MAGIC.to_le_bytes());
        header[4..8].copy_from_slice(&self.chunks.to_le_bytes());
        header[8..12].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        let crc = crc32c_append(crc32c(&header[..12]), payload);
        header[12..16].copy_from_slice(&crc.to_le_bytes());
        self.emit(&header, out);
        self.emit(payload, out);
        self.chunks += 1;
        self.payload_bytes += payload.len() as u64;
    }

    /// Appends the trailer.
    pub fn finish(mut self, out: &mut Vec<u8>) -> SnapshotPointer {
        let digest = self.hash.digest128();
        let mut trailer = [0; END_BYTES];
        trailer[0..4].copy_from_slice(&TRAILER_MAGIC.to_le_bytes());
        trailer[8..16].copy_from_slice(&u64::from(self.chunks).to_le_bytes());
        trailer[16..24].copy_from_slice(&self.payload_bytes.to_le_bytes());
        trailer[24..40].copy_from_slice(&digest.to_le_bytes());
        let crc = crc32c(&trailer[..60]);
        trailer[60..64].copy_from_slice(&crc.to_le_bytes());
        self.emit(&trailer, out);
        SnapshotPointer { position: self.position, bytes: self.bytes, digest }
    }
}

/// A snapshot file on its way to the disk, for the background thread. Dropped unfinished it leaves a file that counts for
/// nothing; [`SnapshotFile::abandon`] removes it.
pub struct SnapshotFile<'d, D: Disk> {
    disk: &'d D,
    file: D::File,
    name: String,
    cluster: u128,
    encoder: Encoder,
    pending: Vec<u8>,
    written: u64,
    synced: u64,
}

impl<'d, D: Disk> SnapshotFile<'d, D> {
    /// Starts the file of the snapshot at `position`.
    pub fn create(disk: &'d D, cluster: u128, position: Position) -> Result<SnapshotFile<'d, D>, Errno> {
        let name = file_name(position.zxid);
        let file = disk.create(&name)?;
        let mut pending = Vec::with_capacity(2 * WRITE_BYTES);
        let encoder = Encoder::new(cluster, position, &mut pending);
        Ok(SnapshotFile { disk, file, name, cluster, encoder, pending, written: 0, synced: 0 })
    }

    /// Bytes of the file so far, for a rate limit.
    pub fn bytes(&self) -> u64 {
        self.encoder.bytes
    }

    /// Adds one chunk.
    pub fn push(&mut self, payload: &[u8]) -> Result<(), Errno> {
        self.encoder.chunk(payload, &mut self.pending);
        if self.pending.len() < WRITE_BYTES {
            return Ok(());
        }
        self.flush()?;
        if self.written - self.synced >= SYNC_BYTES {
            self.disk.sync(&self.file)?;
            self.synced = self.written;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Errno> {
        self.disk.write_at(&self.file, self.written, &self.pending)?;
        self.written += self.pending.len() as u64;
        self.pending.clear();
        Ok(())
    }

    /// Writes the end, syncs file and name, and reads everything back. Only after this may the journal be told.
    pub fn finish(self) -> Result<SnapshotPointer, BadSnapshot> {
        let SnapshotFile { disk, file, name, cluster, encoder, mut pending, written, .. } = self;
        let pointer = encoder.finish(&mut pending);
        disk.write_at(&file, written, &pending)?;
        disk.sync(&file)?;
        disk.sync_names()?;
        let read = read(disk, &name, cluster, |_| (), |_| ())?;
        if read == pointer { Ok(pointer) } else { Err(BadSnapshot::Other) }
    }

    /// Removes what was written so far.
    pub fn abandon(self) -> Result<(), Errno> {
        self.disk.remove(&self.name)?;
        self.disk.sync_names()
    }
}

/// Reads a snapshot from start to end, handing out each chunk, and says what it was. `progress` is told of every so many
/// bytes read. The chunks handed out mean nothing unless this returns Ok.
pub fn read<D: Disk>(
    disk: &D,
    name: &str,
    cluster: u128,
    mut on_chunk: impl FnMut(&[u8]),
    mut progress: impl FnMut(u64),
) -> Result<SnapshotPointer, BadSnapshot> {
    let file = disk.open(name)?.ok_or(BadSnapshot::Missing)?;
    let bytes = disk.len(&file)?;
    if bytes < 2 * END_BYTES as u64 {
        return Err(BadSnapshot::Trailer);
    }
    let mut header = [0; END_BYTES];
    disk.read_at(&file, 0, &mut header)?;
    let position = decode_header(&header, cluster)?;
    let mut hash = Xxh3::new();
    hash.update(&header);
    let (mut offset, mut chunks, mut payload_bytes) = (END_BYTES as u64, 0u32, 0u64);
    let mut chunk = Vec::new();
    let end = bytes - END_BYTES as u64;
    while offset < end {
        read_chunk(disk, &file, chunks, offset, end, &mut chunk)?;
        let payload = &chunk[CHUNK_HEADER_BYTES..];
        on_chunk(payload);
        hash.update(&chunk);
        offset += chunk.len() as u64;
        chunks += 1;
        payload_bytes += payload.len() as u64;
        progress(chunk.len() as u64);
    }
    let mut trailer = [0; END_BYTES];
    disk.read_at(&file, end, &mut trailer)?;
    let digest = hash.digest128();
    check_trailer(&trailer, chunks, payload_bytes, digest)?;
    Ok(SnapshotPointer { position, bytes, digest })
}

/// Checks the bytes of a snapshot file as they pass, in order and in pieces of any size.
#[derive(Clone)]
pub(super) struct Checker {
    cluster: u128,
    pointer: SnapshotPointer,
    passed: u64,
    /// Over everything before the trailer.
    hash: Xxh3,
    chunks: u32,
    payload_bytes: u64,
    /// The header or trailer that is passing, as far as it has come.
    head: Vec<u8>,
    /// Of the chunk that is passing: what is to come of its payload, its sum so far, and the sum that it should have.
    left: usize,
    crc: u32,
    sum: u32,
}

impl Checker {
    pub fn new(cluster: u128, pointer: SnapshotPointer) -> Result<Checker, BadSnapshot> {
        if pointer.bytes < 2 * END_BYTES as u64 {
            return Err(BadSnapshot::Trailer);
        }
        let (hash, head) = (Xxh3::new(), Vec::new());
        Ok(Checker { cluster, pointer, passed: 0, hash, chunks: 0, payload_bytes: 0, head, left: 0, crc: 0, sum: 0 })
    }

    /// Bytes so far.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// The next bytes. Everything is known to be good once `pointer.bytes` have passed.
    pub fn pass(&mut self, mut bytes: &[u8]) -> Result<(), BadSnapshot> {
        while !bytes.is_empty() {
            let len = if self.left > 0 { self.payload(bytes)? } else { self.heading(bytes)? };
            self.passed += len as u64;
            bytes = &bytes[len..];
        }
        Ok(())
    }

    fn payload(&mut self, bytes: &[u8]) -> Result<usize, BadSnapshot> {
        let part = &bytes[..self.left.min(bytes.len())];
        self.hash.update(part);
        self.crc = crc32c_append(self.crc, part);
        self.payload_bytes += part.len() as u64;
        self.left -= part.len();
        self.end_chunk()?;
        Ok(part.len())
    }

    /// Does nothing before the last byte of its payload.
    fn end_chunk(&mut self) -> Result<(), BadSnapshot> {
        if self.left == 0 {
            if self.crc != self.sum {
                return Err(BadSnapshot::Chunk(self.chunks));
            }
            self.chunks += 1;
        }
        Ok(())
    }

    fn heading(&mut self, bytes: &[u8]) -> Result<usize, BadSnapshot> {
        let start = self.passed - self.head.len() as u64;
        let end = self.pointer.bytes - END_BYTES as u64;
        let whole = if start == 0 || start == end { END_BYTES } else { CHUNK_HEADER_BYTES };
        let part = &bytes[..(whole - self.head.len()).min(bytes.len())];
        self.head.extend_from_slice(part);
        if self.head.len() == whole {
            let head = std::mem::take(&mut self.head);
            match start {
                0 if decode_header(&head, self.cluster)? != self.pointer.position => return Err(BadSnapshot::Other),
                0 => self.hash.update(&head),
                _ if start == end => self.end(&head)?,
                _ => self.begin_chunk(&head, end.checked_sub(start + whole as u64))?,
            }
        }
        Ok(part.len())
    }

    /// `room`: how long its payload may be; None: not even its header fits.
    fn begin_chunk(&mut self, head: &[u8], room: Option<u64>) -> Result<(), BadSnapshot> {
        self.left = chunk_len(head, self.chunks, room.ok_or(BadSnapshot::Chunk(self.chunks))?)?;
        self.hash.update(head);
        (self.crc, self.sum) = (crc32c(&head[..12]), u32::from_le_bytes(get(head, 12)));
        self.end_chunk()
    }

    fn end(&self, trailer: &[u8]) -> Result<(), BadSnapshot> {
        let digest = self.hash.digest128();
        check_trailer(trailer, self.chunks, self.payload_bytes, digest)?;
        if digest == self.pointer.digest { Ok(()) } else { Err(BadSnapshot::Other) }
    }
}

fn decode_header(header: &[u8], cluster: u128) -> Result<Position, BadSnapshot> {
    let intact = u32::from_le_bytes(get(header, 0)) == HEADER_MAGIC && u32::from_le_bytes(get(header, 60)) == crc32c(&header[..60]);
    if !intact {
        return Err(BadSnapshot::Header);
    }
    match u32::from_le_bytes(get(header, 4)) {
        FORMAT if u128::from_le_bytes(get(header, 8)) != cluster => Err(BadSnapshot::Header),
        FORMAT => Ok(Position { zxid: u64::from_le_bytes(get(header, 24)), chain: u128::from_le_bytes(get(header, 32)) }),
        newer => Err(BadSnapshot::Format(newer)),
    }
}

/// Reads the chunk at `offset` into `chunk`, header first, and checks its sum.
fn read_chunk<D: Disk>(disk: &D, file: &D::File, index: u32, offset: u64, end: u64, chunk: &mut Vec<u8>) -> Result<(), BadSnapshot> {
    let payload_at = offset + CHUNK_HEADER_BYTES as u64;
    if payload_at > end {
        return Err(BadSnapshot::Chunk(index));
    }
    chunk.resize(CHUNK_HEADER_BYTES, 0);
    disk.read_at(file, offset, chunk)?;
    let len = chunk_len(chunk, index, end - payload_at)?;
    chunk.resize(CHUNK_HEADER_BYTES + len, 0);
    disk.read_at(file, payload_at, &mut chunk[CHUNK_HEADER_BYTES..])?;
    let crc = crc32c_append(crc32c(&chunk[..12]), &chunk[CHUNK_HEADER_BYTES..]);
    if crc == u32::from_le_bytes(get(chunk, 12)) { Ok(()) } else { Err(BadSnapshot::Chunk(index)) }
}

fn chunk_len(header: &[u8], index: u32, left: u64) -> Result<usize, BadSnapshot> {
    let len = u32::from_le_bytes(get(header, 8)) as usize;
    let sane = u32::from_le_bytes(get(header, 0)) == CHUNK_MAGIC && u32::from_le_bytes(get(header, 4)) == index;
    if sane && len <= CHUNK_BYTES_MAX && len as u64 <= left { Ok(len) } else { Err(BadSnapshot::Chunk(index)) }
}

fn check_trailer(trailer: &[u8], chunks: u32, payload_bytes: u64, digest: u128) -> Result<(), BadSnapshot> {
    let matches = u32::from_le_bytes(get(trailer, 0)) == TRAILER_MAGIC
        && u32::from_le_bytes(get(trailer, 60)) == crc32c(&trailer[..60])
        && u64::from_le_bytes(get(trailer, 8)) == u64::from(chunks)
        && u64::from_le_bytes(get(trailer, 16)) == payload_bytes
        && u128::from_le_bytes(get(trailer, 24)) == digest;
    if matches { Ok(()) } else { Err(BadSnapshot::Trailer) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::disk::SimDisk;

    fn write(disk: &SimDisk, chunks: &[&[u8]]) -> SnapshotPointer {
        let mut file = SnapshotFile::create(disk, 5, Position { zxid: 0x1_0000_0007, chain: 9 }).unwrap();
        for chunk in chunks {
            file.push(chunk).unwrap();
        }
        file.finish().unwrap()
    }

    #[test]
    fn chunks_read_back_as_they_were() {
        let disk = SimDisk::new(1);
        let large = vec![3; 3 << 20];
        let pointer = write(&disk, &[b"one", b"", &large, b"four"]);
        assert_eq!(pointer.file_name(), "snapshot.0000000100000007");
        let mut chunks = Vec::new();
        let mut bytes = 0;
        let read = read(&disk, &pointer.file_name(), 5, |c| chunks.push(c.to_vec()), |b| bytes += b).unwrap();
        assert_eq!(read, pointer);
        assert_eq!(bytes + 2 * END_BYTES as u64, pointer.bytes);
        assert_eq!(chunks, [b"one".to_vec(), vec![], large, b"four".to_vec()]);
    }

    #[test]
    fn every_flipped_bit_and_every_short_file_is_noticed() {
        let disk = SimDisk::new(1);
        let pointer = write(&disk, &[b"some state", b"and more"]);
        for at in 0..pointer.bytes {
            disk.flip(&pointer.file_name(), at, 1 << (at % 8));
            assert!(read(&disk, &pointer.file_name(), 5, |_| (), |_| ()).is_err(), "byte {at}");
            disk.flip(&pointer.file_name(), at, 1 << (at % 8));
        }
        for len in 0..pointer.bytes {
            let copy = disk.fork();
            copy.cut(&pointer.file_name(), len);
            assert!(read(&copy, &pointer.file_name(), 5, |_| (), |_| ()).is_err(), "length {len}");
        }
        assert!(read(&disk, &pointer.file_name(), 5, |_| (), |_| ()).is_ok());
    }

    #[test]
    fn names() {
        assert_eq!(zxid_of("snapshot.00000001000000ff"), Some(0x1_0000_00ff));
        assert_eq!((zxid_of("snapshot.1"), zxid_of("log.0000")), (None, None));
    }
}
