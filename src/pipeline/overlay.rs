//! What has been proposed but not yet applied here: the nodes that prepare must see differently from the State.
//! An entry lives until this core's State has applied its last change. Refuses to read or change the State.

use crate::tree::AclId;
use crate::tree::owner::Owner;
use crate::wire::record::{Acl, Stat};
use hashbrown::HashTable;
use std::collections::VecDeque;
use std::sync::Arc;

/// The access control list of a node that may not be applied yet.
#[derive(Clone, Debug)]
pub enum AclView {
    /// In the State's table.
    Interned(AclId),
    /// Proposed with the node or by a setACL.
    Proposed(Arc<[Acl]>),
}

/// A node as prepare sees it.
#[derive(Clone, Debug)]
pub struct NodeView {
    pub version: i32,
    pub aversion: i32,
    pub czxid: u64,
    pub mzxid: u64,
    pub pzxid: u64,
    /// ms since 1970.
    pub ctime_ms: i64,
    /// Children ever created under it (ZooKeeper's internal cversion).
    pub creates: u32,
    pub num_children: u32,
    /// 0, a session, or an encoded container or TTL.
    pub owner: i64,
    /// ms since 1970.
    pub mtime_ms: i64,
    /// Bytes of data.
    pub data_bytes: usize,
    pub acl: AclView,
}

impl NodeView {
    /// The Stat that a client would see once everything proposed is applied.
    pub fn stat(&self) -> Stat {
        Stat {
            czxid: self.czxid as i64,
            mzxid: self.mzxid as i64,
            ctime: self.ctime_ms,
            mtime: self.mtime_ms,
            version: self.version,
            cversion: (self.creates as i32).wrapping_mul(2).wrapping_sub(self.num_children as i32),
            aversion: self.aversion,
            ephemeral_owner: if let Owner::Session(id) = Owner::of(self.owner) { id } else { 0 },
            data_length: self.data_bytes as i32,
            num_children: self.num_children as i32,
            pzxid: self.pzxid as i64,
        }
    }
}

struct Entry {
    hash: u64,
    path: Box<str>,
    /// The last transaction that touched it.
    zxid: u64,
    /// None: deleted.
    node: Option<NodeView>,
}

/// Proposed changes by path.
#[derive(Default)]
pub struct Overlay {
    table: HashTable<Entry>,
    /// Which entries may go once a zxid is applied, in zxid order.
    order: VecDeque<(u64, u64)>,
    /// While a multi is prepared: how to take back what it changed.
    undo: Option<Vec<Undo>>,
}

/// A path and what the overlay said of it before.
type Undo = (u64, Box<str>, Option<Entry>);

impl Overlay {
    /// None: the overlay says nothing. Some(None): proposed to be deleted.
    pub fn get(&self, hash: u64, path: &str) -> Option<Option<&NodeView>> {
        let entry = self.table.find(hash, |e| e.hash == hash && *e.path == *path);
        entry.filter(|_| !crate::mutant!(M41)).map(|e| e.node.as_ref())
    }

    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Sets what `path` will be once `zxid` is applied.
    pub fn set(&mut self, hash: u64, path: &str, zxid: u64, node: Option<NodeView>) {
        self.order.push_back((zxid, hash));
        if let Some(entry) = self.table.find_mut(hash, |e| e.hash == hash && *e.path == *path) {
            let old = Entry { hash, path: path.into(), zxid: entry.zxid, node: std::mem::replace(&mut entry.node, node) };
            entry.zxid = zxid;
            if let Some(undo) = &mut self.undo {
                undo.push((hash, path.into(), Some(old)));
            }
            return;
        }
        if let Some(undo) = &mut self.undo {
            undo.push((hash, path.into(), None));
        }
        self.table.insert_unique(hash, Entry { hash, path: path.into(), zxid, node }, |e| e.hash);
    }

    /// From here on changes can be taken back.
    pub fn begin(&mut self) {
        assert!(self.undo.is_none(), "one multi at a time");
        self.undo = Some(Vec::new());
    }

    /// Keeps what was set since `begin`.
    pub fn keep(&mut self) {
        self.undo.take().expect("keep follows begin");
    }

    /// Takes back what was set since `begin`.
    pub fn take_back(&mut self) {
        for (hash, path, old) in self.undo.take().expect("take_back follows begin").into_iter().rev() {
            let found = self.table.find_entry(hash, |e| e.hash == hash && *e.path == *path);
            let Ok(mut found) = found else { unreachable!("what was set is there") };
            match old {
                Some(old) => *found.get_mut() = old,
                None => drop(found.remove()),
            }
        }
    }

    /// Forgets entries whose last change is applied.
    pub fn applied(&mut self, zxid: u64) {
        while let Some(&(at, hash)) = self.order.front() {
            if at > zxid {
                break;
            }
            self.order.pop_front();
            while let Ok(found) = self.table.find_entry(hash, |e| e.hash == hash && e.zxid <= zxid) {
                found.remove();
            }
        }
    }

    /// Paths that it says something of.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Paths of the proposed nodes among `root` and what is below it, in no order that means anything.
    pub fn subtree(&self, root: &str) -> Vec<String> {
        let within = |path: &str| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.table.iter().filter(|e| e.node.is_some() && within(&e.path)).map(|e| e.path.to_string()).collect()
    }

    /// Proposed nodes of one owner, by path.
    pub fn owned_by(&self, owner: i64) -> Vec<String> {
        let owned = self.table.iter().filter(|e| e.node.as_ref().is_some_and(|n| n.owner == owner));
        let mut paths: Vec<String> = owned.map(|e| e.path.to_string()).collect();
        paths.sort_unstable();
        paths
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(version: i32) -> Option<NodeView> {
        let acl = AclView::Interned(AclId::OPEN);
        let (czxid, mzxid, pzxid, ctime_ms) = (0, 0, 0, 0);
        Some(NodeView {
            version,
            aversion: 0,
            czxid,
            mzxid,
            pzxid,
            ctime_ms,
            creates: 0,
            num_children: 0,
            owner: 7,
            mtime_ms: 0,
            data_bytes: 0,
            acl,
        })
    }

    fn version(overlay: &Overlay, path: &str) -> Option<Option<i32>> {
        overlay.get(1, path).map(|n| n.map(|n| n.version))
    }

    #[test]
    fn entries_go_only_when_their_last_change_is_applied() {
        let mut overlay = Overlay::default();
        overlay.set(1, "/a", 10, node(1));
        overlay.set(1, "/b", 11, node(2));
        overlay.set(1, "/a", 12, None);
        overlay.applied(11);
        assert_eq!((version(&overlay, "/a"), version(&overlay, "/b")), (Some(None), None));
        overlay.applied(12);
        assert!(overlay.is_empty());
    }

    #[test]
    fn a_refused_multi_leaves_no_trace() {
        let mut overlay = Overlay::default();
        overlay.set(1, "/a", 10, node(1));
        overlay.begin();
        overlay.set(1, "/a", 11, None);
        overlay.set(1, "/b", 11, node(1));
        overlay.set(1, "/b", 11, node(2));
        overlay.take_back();
        assert_eq!((version(&overlay, "/a"), version(&overlay, "/b")), (Some(Some(1)), None));
        assert_eq!(overlay.owned_by(7), ["/a"]);
        overlay.begin();
        overlay.set(1, "/a", 11, None);
        overlay.keep();
        assert_eq!(version(&overlay, "/a"), Some(None));
        overlay.applied(11);
        assert!(overlay.is_empty());
    }
}
