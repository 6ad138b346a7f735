//! What the server does beyond ZooKeeper: ClickHouse Keeper's operations and pages of children, and the two nodes by which
//! Keeper's clients find out. `docs/extensions.md` says what each does and where it differs from Keeper.
//! Refuses to change anything that a stock client can see: the nodes are in no list, no count, no digest and no snapshot,
//! and a real node of the same path hides them.

mod reads;
mod writes;

pub(super) use reads::kind_in_multi_read;

use crate::wire::record::Stat;

/// What of Keeper's list of features is here, one bit each from the top bit of the first byte on: filtered list, multiRead,
/// check-not-exists, create-if-not-exists, remove-recursive, (not watches in a multiRead, which ZooKeeper ignores),
/// check-stat, (not persistent watches: ours are ZooKeeper's); create with Stat, try-remove, list with Stats and data.
const FEATURES: [u8; 2] = [0b1111_1010, 0b1110_0000];

/// The data of a node that is not in the tree but can be read: what Keeper's clients ask for when they connect. Those from
/// before the features were bits read a version instead; 3 is the last, up to check-not-exists.
pub(super) fn virtual_node(path: &str) -> Option<&'static [u8]> {
    match path {
        "/keeper/feature_flags" => Some(&FEATURES),
        "/keeper/api_version" => Some(b"3"),
        _ => None,
    }
}

/// The Stat of a virtual node: it was never created.
pub(super) fn virtual_stat(data: &[u8]) -> Stat {
    Stat { data_length: data.len() as i32, ..Stat::default() }
}

/// Whether a Stat is as wanted; fields of -1 may be anything.
fn stat_matches(stat: &Stat, wanted: &Stat) -> bool {
    let long = |is: i64, wanted: i64| wanted == -1 || wanted == is;
    let int = |is: i32, wanted: i32| wanted == -1 || wanted == is;
    long(stat.czxid, wanted.czxid)
        && long(stat.mzxid, wanted.mzxid)
        && long(stat.ctime, wanted.ctime)
        && long(stat.mtime, wanted.mtime)
        && int(stat.version, wanted.version)
        && int(stat.cversion, wanted.cversion)
        && int(stat.aversion, wanted.aversion)
        && long(stat.ephemeral_owner, wanted.ephemeral_owner)
        && int(stat.data_length, wanted.data_length)
        && int(stat.num_children, wanted.num_children)
        && long(stat.pzxid, wanted.pzxid)
}
