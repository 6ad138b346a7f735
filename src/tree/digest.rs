//! A digest of the whole state that follows every change at the cost of the change: the sum of one hash per item.
//! Items are each node's stat with its ACL, each node's data (but not the sums of quotas), and each session. Slots and ACL
//! numbers are not part of it, only what clients and operators could see, so replicas that differ in memory layout agree.
//! Refuses to be a proof against forgery: it finds bugs and bad memory, not attackers.

use super::nodes::{Extra, Node};
use super::session::Session;
use xxhash_rust::xxh3::xxh3_128_with_seed;

const STAT: u8 = 1;
const DATA_NULL: u8 = 2;
const DATA: u8 = 3;
const SESSION: u8 = 4;

/// Fixed-size little-endian fields, filled from the front.
struct Fields<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Fields<N> {
    fn new(tag: u8) -> Fields<N> {
        let mut fields = Fields { bytes: [0; N], len: 0 };
        fields.put(&[tag]);
        fields
    }

    fn put(&mut self, field: &[u8]) {
        self.bytes[self.len..self.len + field.len()].copy_from_slice(field);
        self.len += field.len();
    }

    fn hash(&self, seed: u64) -> u128 {
        debug_assert_eq!(self.len, N);
        xxh3_128_with_seed(&self.bytes, seed)
    }
}

/// The node's stat, owner and ACL; `acl` is the hash of the list.
pub(super) fn stat_item(path_hash: u64, node: &Node, extra: Option<&Extra>, acl: u64) -> u128 {
    let (pzxid, owner, aversion, creates, count) =
        extra.map_or((node.czxid, 0, 0, 0, 0), |e| (e.pzxid, e.owner, e.aversion, e.creates, e.count));
    let mut fields = Fields::<73>::new(STAT);
    for field in [node.czxid, node.mzxid, pzxid, acl] {
        fields.put(&field.to_le_bytes());
    }
    for field in [node.ctime_ms, node.mtime_ms, owner] {
        fields.put(&field.to_le_bytes());
    }
    for field in [node.version as u32, aversion as u32, creates, count] {
        fields.put(&field.to_le_bytes());
    }
    fields.hash(path_hash)
}

pub(super) fn data_item(path_hash: u64, data: Option<&[u8]>) -> u128 {
    let tag = if data.is_some() { DATA } else { DATA_NULL };
    xxh3_128_with_seed(data.unwrap_or_default(), path_hash ^ u64::from(tag) << 56)
}

pub(super) fn session_item(id: i64, session: &Session) -> u128 {
    let (owner, mut fields) = (session.owner, Fields::<49>::new(SESSION));
    fields.put(&id.to_le_bytes());
    fields.put(&session.timeout_ms.to_le_bytes());
    fields.put(&session.password);
    fields.put(&owner.conn.to_le_bytes());
    fields.put(&owner.sequence.to_le_bytes());
    fields.put(&owner.boot.to_le_bytes());
    fields.put(&owner.server.to_le_bytes());
    fields.put(&owner.shard.to_le_bytes());
    fields.hash(0)
}
