//! The batch: the only unit of replication, durability, commit, hash chain and repair. Immutable bytes, the same on
//! every server, in the log, on the wire and in memory, in one 4 KiB-aligned buffer:
//!
//! ```text
//!   0   local header   64   what is true of one disk only; stamped by the log, never sent
//!  64   header        128   see `Header`
//! 192   transactions        each an rkyv archive at an 8-aligned offset
//!       offset table        count x (start u32, end u32), relative to the buffer
//!       zeros               to the next multiple of 4096, never sent
//! ```
//! All integers are little endian. Refuses to split, merge or change a batch once closed.

use super::aligned::AlignedBuf;
use super::archived::{self, Scratch};
use super::txn::{ArchivedTxn, Txn};
use crate::limits::{BATCH_BYTES_POOLED, BATCH_TXNS_MAX, BLOCK_BYTES, TXN_BYTES_MAX};
use xxhash_rust::xxh3::Xxh3;

/// Bytes in front of the header, for what belongs to one server's disk.
pub const LOCAL_HEADER_BYTES: usize = 64;
/// Bytes of the header proper.
pub const HEADER_BYTES: usize = 128;
/// Where the first transaction starts.
pub const BODY_START: usize = LOCAL_HEADER_BYTES + HEADER_BYTES;
/// "FBAT", little endian.
pub const MAGIC: u32 = u32::from_le_bytes(*b"FBAT");
/// The newest format this code writes, and the oldest it reads.
pub const FORMAT: u16 = 1;

/// A place in the history: the last zxid of a batch and the chain hash that covers everything up to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Position {
    pub zxid: u64,
    pub chain: u128,
}

/// The fixed part of a batch, at byte 64 of its buffer.
///
/// ```text
///   0 magic u32   4 format u16   6 zero u16   8 cluster u128   24 epoch u32   28 count u32
///  32 first_zxid u64   40 last_zxid u64   48 committed u64 (watermark at creation)
///  56 bytes u32 (header + transactions + table)   60 table u32 (its start in the buffer)
///  64 prev chain u128   80 chain u128   96 zeros
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub cluster: u128,
    pub epoch: u32,
    pub count: u32,
    pub first_zxid: u64,
    pub last_zxid: u64,
    pub committed: u64,
    pub bytes: u32,
    pub table: u32,
    pub prev_chain: u128,
    pub chain: u128,
}

/// Why bytes are not a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadBatch {
    #[error("not the start of a batch")]
    Magic,
    #[error("written by a newer version (format {0})")]
    Format(u16),
    #[error("lengths or counts do not add up")]
    Shape,
    #[error("the chain hash does not match the bytes")]
    Chain,
    #[error("transaction {0} is malformed")]
    Txn(u32),
}

/// Little-endian fields at fixed offsets; callers have checked the length.
fn get<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a fixed-size range")
}

impl Header {
    /// Reads the header from `bytes`, which start at the header, and checks what can be checked without the body.
    pub fn decode(bytes: &[u8]) -> Result<Header, BadBatch> {
        if bytes.len() < HEADER_BYTES || u32::from_le_bytes(get(bytes, 0)) != MAGIC {
            return Err(BadBatch::Magic);
        }
        let format = u16::from_le_bytes(get(bytes, 4));
        if format != FORMAT {
            return Err(BadBatch::Format(format));
        }
        let header = Header {
            cluster: u128::from_le_bytes(get(bytes, 8)),
            epoch: u32::from_le_bytes(get(bytes, 24)),
            count: u32::from_le_bytes(get(bytes, 28)),
            first_zxid: u64::from_le_bytes(get(bytes, 32)),
            last_zxid: u64::from_le_bytes(get(bytes, 40)),
            committed: u64::from_le_bytes(get(bytes, 48)),
            bytes: u32::from_le_bytes(get(bytes, 56)),
            table: u32::from_le_bytes(get(bytes, 60)),
            prev_chain: u128::from_le_bytes(get(bytes, 64)),
            chain: u128::from_le_bytes(get(bytes, 80)),
        };
        header.check_shape()?;
        Ok(header)
    }

    fn check_shape(&self) -> Result<(), BadBatch> {
        let (count, bytes, table) = (self.count as usize, self.bytes as usize, self.table as usize);
        let fits = (1..=BATCH_TXNS_MAX).contains(&count)
            && bytes <= TXN_BYTES_MAX + BLOCK_BYTES + BATCH_BYTES_POOLED
            && table >= BODY_START
            && table.is_multiple_of(8)
            && table + count * 8 == LOCAL_HEADER_BYTES + bytes;
        // Only a count that fits may be reckoned with: the header is not covered by a sum yet.
        let zxids = || {
            let last = self.first_zxid.checked_add(u64::from(self.count) - 1);
            self.first_zxid >> 32 == u64::from(self.epoch) && last == Some(self.last_zxid)
        };
        if fits && zxids() { Ok(()) } else { Err(BadBatch::Shape) }
    }

    fn encode(&self, out: &mut [u8]) {
        out[..HEADER_BYTES].fill(0);
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4..6].copy_from_slice(&FORMAT.to_le_bytes());
        out[8..24].copy_from_slice(&self.cluster.to_le_bytes());
        out[24..28].copy_from_slice(&self.epoch.to_le_bytes());
        out[28..32].copy_from_slice(&self.count.to_le_bytes());
        out[32..40].copy_from_slice(&self.first_zxid.to_le_bytes());
        out[40..48].copy_from_slice(&self.last_zxid.to_le_bytes());
        out[48..56].copy_from_slice(&self.committed.to_le_bytes());
        out[56..60].copy_from_slice(&self.bytes.to_le_bytes());
        out[60..64].copy_from_slice(&self.table.to_le_bytes());
        out[64..80].copy_from_slice(&self.prev_chain.to_le_bytes());
        out[80..96].copy_from_slice(&self.chain.to_le_bytes());
    }
}

/// The chain hash: xxh3-128 over the previous hash and everything sent, with the chain field itself read as zero.
fn chain_hash(buf: &[u8], bytes: usize) -> u128 {
    let all = &buf[LOCAL_HEADER_BYTES..LOCAL_HEADER_BYTES + bytes];
    let mut hash = Xxh3::new();
    hash.update(&all[..80]);
    hash.update(&[0; 16]);
    hash.update(&all[96..]);
    hash.digest128()
}

/// A batch that is still growing on the pipeline core.
pub struct BatchBuilder {
    buf: AlignedBuf,
    end: usize,
    offsets: Vec<(u32, u32)>,
    first_zxid: u64,
    last_zxid: u64,
    scratch: Scratch,
}

/// A transaction did not fit the open batch: close it and try again, or give it a batch of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Full;

impl Default for BatchBuilder {
    fn default() -> BatchBuilder {
        BatchBuilder {
            buf: AlignedBuf::with_capacity(BATCH_BYTES_POOLED),
            end: BODY_START,
            offsets: Vec::with_capacity(256),
            first_zxid: 0,
            last_zxid: 0,
            scratch: Scratch::default(),
        }
    }
}

impl BatchBuilder {
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Transactions in it so far.
    pub fn count(&self) -> usize {
        self.offsets.len()
    }

    /// Appends a transaction; its zxid must follow the last one. An empty builder grows to take one large transaction.
    pub fn push(&mut self, txn: &Txn<'_>) -> Result<(), Full> {
        assert!(self.is_empty() || txn.zxid == self.last_zxid + 1, "zxids in a batch are consecutive");
        loop {
            let table_bytes = (self.offsets.len() + 1) * 8 + 8;
            let limit = self.buf.len().saturating_sub(table_bytes);
            let room = if self.end < limit { &mut self.buf[self.end..limit] } else { &mut [] };
            if self.offsets.len() < BATCH_TXNS_MAX
                && let Some(len) = archived::write(txn, room, &mut self.scratch)
            {
                self.accept(txn.zxid, len);
                return Ok(());
            }
            if !self.is_empty() || self.buf.len() > TXN_BYTES_MAX {
                return Err(Full);
            }
            self.buf = AlignedBuf::with_capacity((self.buf.len() * 4).min(TXN_BYTES_MAX + BLOCK_BYTES));
        }
    }

    /// Forgets what was pushed: the leader that proposed it is none any more.
    pub fn clear(&mut self) {
        self.offsets.clear();
        self.end = BODY_START;
    }

    fn accept(&mut self, zxid: u64, len: usize) {
        if self.is_empty() {
            self.first_zxid = zxid;
        }
        self.last_zxid = zxid;
        self.offsets.push((self.end as u32, (self.end + len) as u32));
        self.end = (self.end + len).next_multiple_of(8);
    }

    /// Closes the batch. `buffer` becomes the builder's next buffer.
    pub fn close(&mut self, cluster: u128, committed: u64, prev_chain: u128, buffer: AlignedBuf) -> Batch {
        assert!(!self.is_empty(), "an empty batch is never closed");
        let table = self.end;
        let mut buf = std::mem::replace(&mut self.buf, buffer);
        let mut at = table;
        for (start, end) in self.offsets.drain(..) {
            buf[at..at + 4].copy_from_slice(&start.to_le_bytes());
            buf[at + 4..at + 8].copy_from_slice(&end.to_le_bytes());
            at += 8;
        }
        let padded = at.next_multiple_of(BLOCK_BYTES);
        buf[at..padded].fill(0);
        let mut header = Header {
            cluster,
            epoch: (self.first_zxid >> 32) as u32,
            count: ((at - table) / 8) as u32,
            first_zxid: self.first_zxid,
            last_zxid: self.last_zxid,
            committed,
            bytes: (at - LOCAL_HEADER_BYTES) as u32,
            table: table as u32,
            prev_chain,
            chain: 0,
        };
        header.encode(&mut buf[LOCAL_HEADER_BYTES..]);
        header.chain = chain_hash(&buf, header.bytes as usize);
        buf[LOCAL_HEADER_BYTES + 80..LOCAL_HEADER_BYTES + 96].copy_from_slice(&header.chain.to_le_bytes());
        self.end = BODY_START;
        Batch { buf, header }
    }
}

/// A closed batch, checked or built here: reading it needs no further checks.
pub struct Batch {
    buf: AlignedBuf,
    header: Header,
}

impl Batch {
    /// Takes bytes that came from a disk or a peer. `buf` has the local header's 64 bytes in front. Checks the header,
    /// the chain hash, the offset table and every transaction.
    pub fn check(buf: AlignedBuf) -> Result<Batch, BadBatch> {
        let header = Header::decode(buf.get(LOCAL_HEADER_BYTES..).unwrap_or(&[]))?;
        if LOCAL_HEADER_BYTES + header.bytes as usize > buf.len() {
            return Err(BadBatch::Shape);
        }
        if chain_hash(&buf, header.bytes as usize) != header.chain {
            return Err(BadBatch::Chain);
        }
        let batch = Batch { buf, header };
        batch.check_txns()?;
        Ok(batch)
    }

    fn check_txns(&self) -> Result<(), BadBatch> {
        let mut floor = BODY_START;
        for i in 0..self.header.count {
            let (start, end) = self.range(i);
            let ordered = start == floor && start < end && end <= self.header.table as usize;
            if !ordered || !archived::check(&self.buf[start..end]) {
                return Err(BadBatch::Txn(i));
            }
            if archived::access(&self.buf[start..end]).zxid != self.header.first_zxid + u64::from(i) {
                return Err(BadBatch::Txn(i));
            }
            floor = end.next_multiple_of(8);
        }
        Ok(())
    }

    fn range(&self, i: u32) -> (usize, usize) {
        let at = self.header.table as usize + i as usize * 8;
        (u32::from_le_bytes(get(&self.buf, at)) as usize, u32::from_le_bytes(get(&self.buf, at + 4)) as usize)
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn position(&self) -> Position {
        Position { zxid: self.header.last_zxid, chain: self.header.chain }
    }

    /// The same batch in another buffer, for a second owner. `buffer` is used if it is large enough.
    pub fn copy(&self, buffer: AlignedBuf) -> Batch {
        let frame = self.frame();
        let mut buf = if frame.len() <= buffer.len() { buffer } else { AlignedBuf::with_capacity(frame.len()) };
        buf[..frame.len()].copy_from_slice(frame);
        Batch { buf, header: self.header }
    }

    /// The transactions in order, read in place.
    pub fn txns(&self) -> impl ExactSizeIterator<Item = &ArchivedTxn<'_>> {
        (0..self.header.count as usize).map(|i| {
            let (start, end) = self.range(i as u32);
            archived::access(&self.buf[start..end])
        })
    }

    /// What is sent to peers: header, transactions and table.
    pub fn bytes(&self) -> &[u8] {
        &self.buf[LOCAL_HEADER_BYTES..LOCAL_HEADER_BYTES + self.header.bytes as usize]
    }

    /// What is written to the log: local header, [`Batch::bytes`] and zeros up to a whole block.
    pub fn frame(&self) -> &[u8] {
        &self.buf[..(LOCAL_HEADER_BYTES + self.header.bytes as usize).next_multiple_of(BLOCK_BYTES)]
    }

    /// The slot for the local header, for the log to stamp before the batch is shared.
    pub fn local_header_mut(&mut self) -> &mut [u8] {
        &mut self.buf[..LOCAL_HEADER_BYTES]
    }

    /// Gives the buffer back for reuse.
    pub fn into_buffer(self) -> AlignedBuf {
        self.buf
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::txn::{Change, Op, Origin};

    fn txn(zxid: u64, data: &[u8]) -> Txn<'_> {
        let change = Change::SetData { path: "/x", path_hash: 1, data: Some(data), version: 1 };
        Txn { zxid, time_ms: 5, session: 1, origin: Origin::default(), op: Op::Change(change) }
    }

    fn close(builder: &mut BatchBuilder) -> Batch {
        builder.close(9, 0, 77, AlignedBuf::with_capacity(BATCH_BYTES_POOLED))
    }

    fn copy(batch: &Batch) -> AlignedBuf {
        let mut buf = AlignedBuf::with_capacity(batch.frame().len());
        buf.copy_from_slice(batch.frame());
        buf
    }

    #[test]
    fn a_batch_reads_back_what_was_pushed() {
        let mut builder = BatchBuilder::default();
        for i in 0..100 {
            builder.push(&txn(1 << 32 | (5 + i), &vec![b'a'; i as usize])).unwrap();
        }
        let batch = Batch::check(copy(&close(&mut builder))).unwrap();
        assert_eq!((batch.header().count, batch.header().first_zxid, batch.position().zxid), (100, 1 << 32 | 5, 1 << 32 | 104));
        assert!(batch.txns().zip(0..).all(|(t, i)| t.zxid == (1u64 << 32 | (5 + i))));
        assert!(builder.is_empty());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let mut builder = BatchBuilder::default();
        builder.push(&txn(1 << 32 | 1, b"hello")).unwrap();
        let batch = close(&mut builder);
        for bit in LOCAL_HEADER_BYTES * 8..(LOCAL_HEADER_BYTES + batch.header().bytes as usize) * 8 {
            let mut buf = copy(&batch);
            buf[bit / 8] ^= 1 << (bit % 8);
            assert!(Batch::check(buf).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn counts_and_zxids_that_do_not_add_up_are_refused() {
        let mut builder = BatchBuilder::default();
        builder.push(&txn(1 << 32 | 1, b"hello")).unwrap();
        let sound = *close(&mut builder).header();
        for (epoch, first_zxid, count) in [(0, 0, 0), (u32::MAX, u64::MAX, 2), (1, 1 << 32, u32::MAX)] {
            let mut bytes = [0; HEADER_BYTES];
            Header { epoch, first_zxid, count, ..sound }.encode(&mut bytes);
            assert_eq!(Header::decode(&bytes), Err(BadBatch::Shape));
        }
    }

    #[test]
    fn a_large_transaction_stands_alone() {
        let mut builder = BatchBuilder::default();
        let large = vec![7; 5 << 20];
        builder.push(&txn(1 << 32 | 1, b"small")).unwrap();
        assert_eq!(builder.push(&txn(1 << 32 | 2, &large)), Err(Full));
        close(&mut builder);
        builder.push(&txn(1 << 32 | 2, &large)).unwrap();
        let batch = Batch::check(copy(&close(&mut builder))).unwrap();
        assert_eq!(batch.header().count, 1);
        assert_eq!(builder.push(&txn(1 << 32 | 3, &vec![0; TXN_BYTES_MAX + BLOCK_BYTES])), Err(Full));
    }
}
