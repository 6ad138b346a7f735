//! The replicated state of one core: znodes, access control lists, sessions, and what is due to be reaped, as of one
//! zxid. [`State::apply`] is the only way forward; the rest reads. Everything in here is a function of the history, so
//! replicas that applied the same transactions answer alike, which [`State::digest`] checks.
//!
//! ```text
//! State ── Nodes ──── slab: 64 bytes per node, u32 slots      index: path hash -> slot
//!   │        │        extras: only parents, owned nodes        arena: name + data up to 1 KiB
//!   │        └─ Children: slots ordered by name
//!   ├── AclTable, sessions, ReapIndex, Quotas
//!   └── Walk: a snapshot being written, exact at the zxid where it began
//! ```
//! No clock, no I/O, no randomness. Applying cannot fail: prepare has decided everything, so what does not fit is our
//! own bug and panics. Refuses to check permissions, versions or quotas; it counts for the last.

mod acl;
mod apply;
mod arena;
mod children;
mod digest;
pub(crate) mod index;
#[cfg(test)]
mod model;
mod nodes;
pub mod owner;
pub mod path;
mod quota;
#[cfg(test)]
mod quota_tests;
mod reap;
mod session;
pub(crate) mod slab;
pub mod snapshot;
mod view;

pub use acl::{AclId, PERMS_ALL};
pub use apply::{Applied, ChangeKind, Changed, OpResult, Want};
pub use quota::{Quota, Track};
pub use session::Session;
pub use view::NodeRef;

use acl::AclTable;
use nodes::{Birth, Nodes};
use quota::Quotas;
use reap::{Due, ReapIndex};
use std::collections::BTreeMap;

/// The replicated state as of [`State::applied`].
pub struct State {
    nodes: Nodes,
    acls: AclTable,
    sessions: BTreeMap<i64, Session>,
    reap: ReapIndex,
    quotas: Quotas,
    /// Kept only where somebody asks for it: it costs a few hashes per change.
    digest: Option<u128>,
    /// The snapshot being written.
    walk: Option<Box<snapshot::Walk>>,
    applied: u64,
    ephemeral_count: usize,
    /// Bytes of all paths and data.
    data_bytes: u64,
}

impl State {
    /// The state before the first transaction: `/`, `/zookeeper`, `/zookeeper/quota` and `/zookeeper/config`, all with
    /// empty data and zero stats like ZooKeeper's; the last one is readable only and has aversion -1.
    pub fn new(with_digest: bool) -> State {
        let mut state = State::empty(with_digest);
        let read_only = state.acls.intern_read_only();
        let mut parent = nodes::ROOT;
        for path in ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"] {
            let acl = if path == "/zookeeper/config" { read_only } else { state.acls.add_ref(AclId::OPEN) };
            let slot = state.nodes.create(&Birth {
                parent,
                name: path::name(path),
                path_hash: path::hash(path),
                data: Some(b""),
                zxid: 0,
                time_ms: 0,
                acl: acl.0,
                owner: 0,
            });
            state.data_bytes += path.len() as u64;
            match path {
                "/zookeeper" => parent = slot,
                "/zookeeper/config" => state.nodes.extra_mut(slot).aversion = -1,
                _ => {}
            }
        }
        state.digest = with_digest.then(|| state.compute_digest());
        state
    }

    fn empty(with_digest: bool) -> State {
        State {
            nodes: Nodes::new(),
            acls: AclTable::new(),
            sessions: BTreeMap::new(),
            reap: ReapIndex::default(),
            quotas: Quotas::default(),
            digest: with_digest.then_some(0),
            walk: None,
            applied: 0,
            ephemeral_count: 0,
            data_bytes: 0,
        }
    }

    /// The sum of all items, kept up to date. None without `with_digest`.
    pub fn digest(&self) -> Option<u128> {
        self.digest
    }

    /// The same sum from scratch: walks everything.
    pub fn compute_digest(&self) -> u128 {
        let (mut sum, mut path) = (0u128, String::new());
        for slot in (0..self.nodes.slots()).filter(|s| self.nodes.contains(*s)) {
            path.clear();
            self.nodes.push_path(slot, &mut path);
            let hash = path::hash(&path);
            sum = sum.wrapping_add(self.stat_item(slot, hash)).wrapping_add(self.data_item(slot, &path, hash));
        }
        self.sessions.iter().fold(sum, |sum, (id, session)| sum.wrapping_add(digest::session_item(*id, session)))
    }

    fn stat_item(&self, slot: u32, path_hash: u64) -> u128 {
        let node = self.nodes.get(slot);
        digest::stat_item(path_hash, node, self.nodes.extra(slot), self.acls.hash(AclId(node.acl)))
    }

    /// 0 for what the server keeps in place, outside of the history.
    fn data_item(&self, slot: u32, path: &str, path_hash: u64) -> u128 {
        if quota::is_stats(path) { 0 } else { digest::data_item(path_hash, self.nodes.data(slot)) }
    }

    /// Where the node stands in the reap index: nowhere while it has children.
    fn due(&self, slot: u32) -> Option<Due> {
        let extra = self.nodes.extra(slot).filter(|e| e.count == 0)?;
        let node = self.nodes.get(slot);
        Due::of(owner::Owner::of(extra.owner), extra.creates, node.ctime_ms, node.mtime_ms)
    }
}
