//! Reading the state: nodes as clients see them, sessions, lists, counts, and what is due to be reaped.
//! Refuses to change anything.

use super::owner::Owner;
use super::{AclId, Session, State, nodes, path};
use crate::wire::record::{Acl, Stat};

/// One znode.
#[derive(Clone, Copy)]
pub struct NodeRef<'a> {
    state: &'a State,
    slot: u32,
}

impl State {
    /// The zxid of the last transaction applied, 0 before the first.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// The node at `path`. Any string may be asked for: what is not a valid path does not exist.
    pub fn find(&self, path: &str) -> Option<NodeRef<'_>> {
        self.find_hashed(path, path::hash(path))
    }

    /// As [`State::find`], with `hash` = [`path::hash`] of `path`.
    pub fn find_hashed(&self, path: &str, hash: u64) -> Option<NodeRef<'_>> {
        self.nodes.find(path, hash).map(|slot| self.node(slot))
    }

    pub(super) fn node(&self, slot: u32) -> NodeRef<'_> {
        NodeRef { state: self, slot }
    }

    pub fn session(&self, id: i64) -> Option<&Session> {
        self.sessions.get(&id)
    }

    /// All sessions by id.
    pub fn sessions(&self) -> impl ExactSizeIterator<Item = (i64, &Session)> {
        self.sessions.iter().map(|(id, session)| (*id, session))
    }

    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Paths of the session's ephemeral nodes, sorted; none for an unknown session.
    pub fn ephemerals(&self, session: i64) -> Vec<String> {
        let slots = self.sessions.get(&session).into_iter().flat_map(|s| &s.ephemerals);
        let mut paths: Vec<String> = slots.map(|slot| self.node(*slot).path()).collect();
        paths.sort_unstable();
        paths
    }

    /// The list behind a number that a node or a change of the last transaction named.
    pub fn acl(&self, id: AclId) -> &[Acl] {
        self.acls.get(id)
    }

    /// Znodes, the four system nodes included. ZooKeeper counts its root twice and shows one more.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    pub fn ephemeral_count(&self) -> usize {
        self.ephemeral_count
    }

    /// Bytes of all paths and data: ZooKeeper's approximate data size.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Containers that have had children and have none now.
    pub fn idle_containers(&self) -> impl Iterator<Item = NodeRef<'_>> {
        self.reap.containers().map(|slot| self.node(slot))
    }

    /// Containers created before `before_ms` (wall clock, ms since 1970) that never had a child, oldest first.
    pub fn unused_containers(&self, before_ms: i64) -> impl Iterator<Item = NodeRef<'_>> {
        self.reap.unused_before(before_ms).map(|slot| self.node(slot))
    }

    /// TTL nodes without children whose time ran out before `now_ms` (wall clock, ms since 1970), oldest first.
    pub fn expired_ttl(&self, now_ms: i64) -> impl Iterator<Item = NodeRef<'_>> {
        self.reap.expired_before(now_ms).map(|slot| self.node(slot))
    }
}

impl<'a> NodeRef<'a> {
    fn extra(&self) -> Option<&'a nodes::Extra> {
        self.state.nodes.extra(self.slot)
    }

    /// None is null, which clients tell from empty.
    pub fn data(&self) -> Option<&'a [u8]> {
        self.state.nodes.data(self.slot)
    }

    /// The Stat as a client sees it: cversion counts creations and deletions of children, and only an ephemeral has an owner.
    pub fn stat(&self) -> Stat {
        let (node, children) = (self.state.nodes.get(self.slot), self.num_children() as i32);
        Stat {
            czxid: node.czxid as i64,
            mzxid: node.mzxid as i64,
            ctime: node.ctime_ms,
            mtime: node.mtime_ms,
            version: node.version,
            cversion: (self.creates() as i32).wrapping_mul(2).wrapping_sub(children),
            aversion: self.aversion(),
            ephemeral_owner: if let Owner::Session(id) = Owner::of(self.owner()) { id } else { 0 },
            data_length: node.data_bytes() as i32,
            num_children: children,
            pzxid: self.pzxid() as i64,
        }
    }

    /// Bytes of data; 0 for null.
    pub fn data_bytes(&self) -> usize {
        self.state.nodes.get(self.slot).data_bytes() as usize
    }

    pub fn version(&self) -> i32 {
        self.state.nodes.get(self.slot).version
    }

    pub fn aversion(&self) -> i32 {
        self.extra().map_or(0, |e| e.aversion)
    }

    /// How many children were ever created here: the number of the next sequential child.
    pub fn creates(&self) -> u32 {
        self.extra().map_or(0, |e| e.creates)
    }

    pub fn num_children(&self) -> u32 {
        self.extra().map_or(0, |e| e.count)
    }

    /// All nodes below.
    pub fn descendants(&self) -> u32 {
        self.extra().map_or(0, |e| e.descendants)
    }

    /// The raw owner field; [`Owner::of`] reads it.
    pub fn owner(&self) -> i64 {
        self.extra().map_or(0, |e| e.owner)
    }

    pub fn acl_id(&self) -> AclId {
        AclId(self.state.nodes.get(self.slot).acl)
    }

    pub fn czxid(&self) -> u64 {
        self.state.nodes.get(self.slot).czxid
    }

    pub fn mzxid(&self) -> u64 {
        self.state.nodes.get(self.slot).mzxid
    }

    /// The last change of the set of children, or the node's creation.
    pub fn pzxid(&self) -> u64 {
        self.extra().map_or_else(|| self.czxid(), |e| e.pzxid)
    }

    /// Wall clock of the creation, ms since 1970.
    pub fn ctime_ms(&self) -> i64 {
        self.state.nodes.get(self.slot).ctime_ms
    }

    /// Wall clock of the last change of the data, ms since 1970.
    pub fn mtime_ms(&self) -> i64 {
        self.state.nodes.get(self.slot).mtime_ms
    }

    /// Names of the children, ordered by their bytes.
    pub fn children(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let nodes = &self.state.nodes;
        nodes.children(self.slot).map(|slot| nodes.name(slot))
    }

    /// As [`NodeRef::children`], from the first name greater than `name` on.
    pub fn children_after(&self, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        let nodes = &self.state.nodes;
        nodes.children_after(self.slot, name).map(|slot| nodes.name(slot))
    }

    /// The children, ordered by their names.
    pub fn child_nodes(&self) -> impl Iterator<Item = NodeRef<'a>> + use<'a> {
        let state = self.state;
        state.nodes.children(self.slot).map(|slot| state.node(slot))
    }

    /// The last component of the path, empty for the root.
    pub fn name(&self) -> &'a str {
        self.state.nodes.name(self.slot)
    }

    /// The full path.
    pub fn path(&self) -> String {
        let mut path = String::new();
        self.state.nodes.push_path(self.slot, &mut path);
        path
    }
}
