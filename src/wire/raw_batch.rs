//! A batch on its way in from another server: header and body in the buffer that the log will write, behind room for the
//! local header, so that nothing is copied between a socket and a disk. Nothing in it is believed: [`RawBatch::check`]
//! makes a [`Batch`] of it or refuses. Refuses to be read as anything else.

use super::aligned::AlignedBuf;
use super::batch::{BadBatch, Batch, HEADER_BYTES, LOCAL_HEADER_BYTES};

/// See the module heading.
pub struct RawBatch {
    /// Zeros behind the batch: the log writes whole blocks.
    buf: AlignedBuf,
    bytes: usize,
}

impl RawBatch {
    /// Room for a batch of so many bytes, header and body.
    pub fn with_room(bytes: usize) -> RawBatch {
        RawBatch { buf: AlignedBuf::with_capacity(LOCAL_HEADER_BYTES + bytes), bytes }
    }

    /// A batch that arrived in pieces or among other bytes.
    pub fn copy_of(bytes: &[u8]) -> RawBatch {
        let mut raw = RawBatch::with_room(bytes.len());
        raw.bytes_mut().copy_from_slice(bytes);
        raw
    }

    pub fn bytes(&self) -> &[u8] {
        &self.buf[LOCAL_HEADER_BYTES..LOCAL_HEADER_BYTES + self.bytes]
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buf[LOCAL_HEADER_BYTES..LOCAL_HEADER_BYTES + self.bytes]
    }

    /// Checks everything, and that the batch is as long as what was received.
    pub fn check(self) -> Result<Batch, BadBatch> {
        if self.bytes < HEADER_BYTES {
            return Err(BadBatch::Shape);
        }
        let batch = Batch::check(self.buf)?;
        if batch.bytes().len() == self.bytes { Ok(batch) } else { Err(BadBatch::Shape) }
    }
}

impl PartialEq for RawBatch {
    fn eq(&self, other: &RawBatch) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for RawBatch {}

impl std::fmt::Debug for RawBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RawBatch({} bytes)", self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::batch::BatchBuilder;
    use crate::wire::txn::{Op, Origin, Txn};

    fn batch() -> Batch {
        let mut builder = BatchBuilder::default();
        let txn = Txn { zxid: 1 << 32, time_ms: 0, session: 0, origin: Origin::default(), op: Op::NewEpoch { leader: 1 } };
        builder.push(&txn).unwrap();
        builder.close(7, 0, 0, AlignedBuf::with_capacity(4096))
    }

    #[test]
    fn what_was_received_whole_becomes_a_batch() {
        let sent = batch();
        let received = RawBatch::copy_of(sent.bytes()).check().unwrap();
        assert!(received.bytes() == sent.bytes() && received.position() == sent.position());
        assert!(received.frame()[LOCAL_HEADER_BYTES + sent.bytes().len()..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_batch_that_is_shorter_or_longer_than_it_says_is_refused() {
        let sent = batch();
        for len in [0, HEADER_BYTES - 1, HEADER_BYTES, sent.bytes().len() - 1] {
            assert!(RawBatch::copy_of(&sent.bytes()[..len]).check().is_err(), "{len}");
        }
        let longer = [sent.bytes(), &[0]].concat();
        assert!(matches!(RawBatch::copy_of(&longer).check(), Err(BadBatch::Shape)));
    }
}
