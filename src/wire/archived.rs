//! Transactions as bytes: written once by prepare, read in place by everybody after that.
//! The only place that touches rkyv's unchecked access. Refuses bytes that were not checked where they entered
//! the process: a batch is either built here or passed through [`check`] first.

use super::txn::{ArchivedTxn, Txn};
use rkyv::api::low::LowSerializer;
use rkyv::rancor::Failure;
use rkyv::ser::allocator::{Arena, ArenaHandle};
use rkyv::ser::{Positional, Serializer, writer::Buffer};
use rkyv::{Serialize, api::serialize_using};

/// Scratch memory for serialisation, kept between calls.
pub struct Scratch(Arena);

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch(Arena::with_capacity(4096))
    }
}

/// Archives `txn` at the start of `room`, which must be 8-aligned. Returns its length in bytes, or None if it does not fit.
pub fn write(txn: &Txn<'_>, room: &mut [u8], scratch: &mut Scratch) -> Option<usize> {
    debug_assert!(room.as_ptr().addr().is_multiple_of(8));
    let mut serializer = Serializer::new(Buffer::from(room), scratch.0.acquire(), ());
    serialize(txn, &mut serializer)?;
    Some(serializer.into_writer().pos())
}

fn serialize<'b, 'a>(txn: &Txn<'_>, serializer: &mut Serializer<Buffer<'b>, ArenaHandle<'a>, ()>) -> Option<()>
where
    for<'t> Txn<'t>: Serialize<LowSerializer<Buffer<'b>, ArenaHandle<'a>, Failure>>,
{
    serialize_using::<_, Failure>(txn, serializer).ok().map(|_| ())
}

/// Whether `bytes` are a well-formed archive: every pointer inside, every string UTF-8, every tag known.
pub fn check(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(8) && rkyv::access::<ArchivedTxn<'_>, Failure>(bytes).is_ok()
}

/// Reads a transaction in place.
///
/// Only for bytes that [`write`] made in this process or that [`check`] accepted; `Batch` guarantees that.
pub(super) fn access(bytes: &[u8]) -> &ArchivedTxn<'_> {
    assert!(bytes.len() >= size_of::<ArchivedTxn<'_>>());
    // SAFETY: `Batch` hands in only ranges that `write` filled or that passed `check`, at 8-aligned offsets.
    unsafe { rkyv::access_unchecked::<ArchivedTxn<'_>>(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::aligned::AlignedBuf;
    use crate::wire::txn::{AclRef, ArchivedChange, ArchivedOp, Change, Op, Origin};

    #[test]
    fn a_transaction_survives_and_damage_is_noticed() {
        let mut buf = AlignedBuf::with_capacity(4096);
        let acl = AclRef { perms: 31, scheme: "digest", id: "bob:x" };
        let change = Change::Create {
            path: "/a",
            path_hash: 7,
            data: Some(b"hello"),
            acl: Some(vec![acl]),
            owner: 0,
            parent_creates: 3,
            with_stat: true,
        };
        let origin = Origin { conn: 5, sequence: 9, boot: 2, server: 1, shard: 0 };
        let txn = Txn { zxid: 1 << 32 | 4, time_ms: 1, session: -3, origin, op: Op::Change(change) };
        let len = write(&txn, &mut buf, &mut Scratch::default()).unwrap();
        assert!(check(&buf[..len]));
        let read = access(&buf[..len]);
        assert_eq!(read.zxid.to_native(), 1 << 32 | 4);
        let ArchivedOp::Change(ArchivedChange::Create { path, data, acl, .. }) = &read.op else { panic!() };
        assert_eq!((&**path, data.as_ref().map(|d| &**d)), ("/a", Some(&b"hello"[..])));
        assert_eq!(&*acl.as_ref().unwrap()[0].scheme, "digest");
        assert!(!check(&buf[..len - 8]));
        assert!(write(&txn, &mut buf[..64], &mut Scratch::default()).is_none());
    }
}
