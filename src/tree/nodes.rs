//! Where znodes live: one 64-byte record per node in a slab, its name and data side by side in the arena, and a second
//! record only for nodes that have had children, belong to somebody or changed their ACL. Nodes are found by the hash
//! of their full path, verified component by component along the parent links; only the last component is stored.
//! Data beyond 1 KiB is an allocation that several replicas could share. Knows the shape of the tree and nothing of
//! transactions: refuses (panics on) what breaks the shape.

use super::arena::{Arena, INLINE_BYTES_MAX};
use super::children::Children;
use super::index::Index;
use super::slab::Slab;
use std::sync::Arc;

/// The slot of `/`.
pub(super) const ROOT: u32 = 0;
/// No extra record.
const NONE: u32 = u32::MAX;
/// The data length that stands for null data.
const NULL: u32 = u32::MAX;

/// A znode, one cache line.
#[derive(Clone, Copy, Default)]
pub(super) struct Node {
    pub(super) czxid: u64,
    pub(super) mzxid: u64,
    pub(super) ctime_ms: i64,
    pub(super) mtime_ms: i64,
    pub(super) version: i32,
    pub(super) acl: u32,
    pub(super) parent: u32,
    /// Half of the path's hash: what the index asks for when it grows.
    hash: u32,
    /// Where name and data are: a handle of the arena, or a slot of the large ones.
    payload: u32,
    data_len: u32,
    extra: u32,
    /// Of names up to 1 KiB; a large payload knows its name itself.
    name_len: u16,
    large: bool,
}

const _: () = assert!(size_of::<Node>() == 64);

/// What most nodes do without.
#[derive(Clone, Default)]
pub(super) struct Extra {
    pub(super) pzxid: u64,
    /// ZooKeeper's encoding, see [`super::owner`].
    pub(super) owner: i64,
    /// How many children were ever created: ZooKeeper's internal cversion.
    pub(super) creates: u32,
    pub(super) aversion: i32,
    /// Children now.
    pub(super) count: u32,
    /// All nodes below now.
    pub(super) descendants: u32,
    children: Children,
}

/// A name and data that do not fit the arena.
#[derive(Clone, Default)]
struct Large {
    name: Box<str>,
    /// May be longer than the node's data.
    data: Option<Arc<[u8]>>,
}

/// What a node is born with.
pub(super) struct Birth<'a> {
    pub(super) parent: u32,
    pub(super) name: &'a str,
    pub(super) path_hash: u64,
    pub(super) data: Option<&'a [u8]>,
    pub(super) zxid: u64,
    pub(super) time_ms: i64,
    pub(super) acl: u32,
    pub(super) owner: i64,
}

pub(super) struct Nodes {
    slab: Slab<Node>,
    extras: Slab<Extra>,
    large: Slab<Large>,
    arena: Arena,
    index: Index,
}

/// The part of [`Nodes`] that knows names, so that a child set can be changed while names are looked up.
#[derive(Clone, Copy)]
struct Names<'a> {
    slab: &'a Slab<Node>,
    large: &'a Slab<Large>,
    arena: &'a Arena,
}

impl<'a> Names<'a> {
    fn name(self, slot: u32) -> &'a [u8] {
        let node = self.slab.get(slot);
        if node.large { self.large.get(node.payload).name.as_bytes() } else { &self.arena.get(node.payload)[..node.name_len as usize] }
    }
}

fn short(path_hash: u64) -> u32 {
    path_hash as u32
}

impl Nodes {
    pub(super) fn new() -> Nodes {
        Nodes { slab: Slab::new(), extras: Slab::new(), large: Slab::new(), arena: Arena::new(), index: Index::new() }
    }

    /// Nodes in the tree.
    pub(super) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Every slot in use is below this.
    pub(super) fn slots(&self) -> u32 {
        self.slab.slots()
    }

    pub(super) fn contains(&self, slot: u32) -> bool {
        self.slab.contains(slot)
    }

    /// Whether no slot in the same chunk is in use.
    pub(super) fn chunk_is_empty(&self, slot: u32) -> bool {
        self.slab.chunk_is_empty(slot)
    }

    pub(super) fn get(&self, slot: u32) -> &Node {
        self.slab.get(slot)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> &mut Node {
        self.slab.get_mut(slot)
    }

    pub(super) fn extra(&self, slot: u32) -> Option<&Extra> {
        let at = self.slab.get(slot).extra;
        (at != NONE).then(|| self.extras.get(at))
    }

    /// The extra record, made if there is none.
    pub(super) fn extra_mut(&mut self, slot: u32) -> &mut Extra {
        let node = self.slab.get_mut(slot);
        if node.extra == NONE {
            node.extra = self.extras.insert(Extra { pzxid: node.czxid, ..Extra::default() });
        }
        self.extras.get_mut(node.extra)
    }

    fn names(&self) -> Names<'_> {
        Names { slab: &self.slab, large: &self.large, arena: &self.arena }
    }

    /// The last component of the node's path; empty for the root.
    pub(super) fn name(&self, slot: u32) -> &str {
        std::str::from_utf8(self.names().name(slot)).expect("names come from strings")
    }

    pub(super) fn data(&self, slot: u32) -> Option<&[u8]> {
        let node = self.slab.get(slot);
        if node.data_len == NULL {
            return None;
        }
        let (start, len) = (node.name_len as usize, node.data_len as usize);
        if node.large {
            self.large.get(node.payload).data.as_ref().map(|d| &d[..len])
        } else {
            Some(&self.arena.get(node.payload)[start..start + len])
        }
    }

    /// The node at `path`, whose hash is `path_hash`.
    pub(super) fn find(&self, path: &str, path_hash: u64) -> Option<u32> {
        let hash = short(path_hash);
        self.index.find(hash, |slot| self.slab.get(slot).hash == hash && self.is_at(slot, path))
    }

    fn is_at(&self, mut slot: u32, path: &str) -> bool {
        if path == super::path::ROOT {
            return slot == ROOT;
        }
        let names = self.names();
        let mut rest = path.as_bytes();
        while slot != ROOT {
            let name = names.name(slot);
            let Some(head) = rest.strip_suffix(name).and_then(|head| head.strip_suffix(b"/")) else { return false };
            (rest, slot) = (head, self.slab.get(slot).parent);
        }
        rest.is_empty() && !path.is_empty()
    }

    /// Appends the full path to `out`.
    pub(super) fn push_path(&self, slot: u32, out: &mut String) {
        if slot == ROOT {
            out.push('/');
            return;
        }
        let (mut lineage, mut at) = (Vec::with_capacity(8), slot);
        while at != ROOT {
            lineage.push(at);
            at = self.slab.get(at).parent;
        }
        for slot in lineage.iter().rev() {
            out.push('/');
            out.push_str(self.name(*slot));
        }
    }

    /// Adds a node under its parent. The caller has made sure that there is none of this path.
    pub(super) fn create(&mut self, birth: &Birth<'_>) -> u32 {
        let slot = self.slab.insert(Node::default());
        self.fill(slot, birth);
        if slot != ROOT {
            self.adopt(slot, birth.parent);
        }
        self.index.insert(short(birth.path_hash), slot, |s| self.slab.get(s).hash);
        slot
    }

    /// Puts a node where a snapshot says it stands. It is nobody's child and not found by its path before [`Nodes::link`].
    pub(super) fn place(&mut self, slot: u32, birth: &Birth<'_>) {
        self.slab.insert_at(slot, Node::default());
        self.fill(slot, birth);
    }

    fn fill(&mut self, slot: u32, birth: &Birth<'_>) {
        let (payload, large) = self.store(birth.name, birth.data);
        *self.slab.get_mut(slot) = Node {
            czxid: birth.zxid,
            mzxid: birth.zxid,
            ctime_ms: birth.time_ms,
            mtime_ms: birth.time_ms,
            version: 0,
            acl: birth.acl,
            parent: birth.parent,
            hash: short(birth.path_hash),
            payload,
            data_len: data_len(birth.data),
            extra: NONE,
            name_len: if large { 0 } else { birth.name.len() as u16 },
            large,
        };
        if birth.owner != 0 {
            self.extra_mut(slot).owner = birth.owner;
        }
    }

    fn adopt(&mut self, slot: u32, parent: u32) {
        self.extra_mut(parent).count += 1;
        let names = Names { slab: &self.slab, large: &self.large, arena: &self.arena };
        let extra = self.extras.get_mut(self.slab.get(parent).extra);
        extra.children.insert(slot, names.name(slot), |s| names.name(s));
        self.for_ancestors(slot, |extra| extra.descendants += 1);
    }

    fn for_ancestors(&mut self, slot: u32, change: impl Fn(&mut Extra)) {
        let mut at = slot;
        while at != ROOT {
            at = self.slab.get(at).parent;
            change(self.extra_mut(at));
        }
    }

    /// Sets the children of a placed node, sorted by name.
    pub(super) fn link(&mut self, parent: u32, sorted: &[u32]) {
        let extra = self.extra_mut(parent);
        extra.children = Children::from_sorted(sorted);
        extra.count = sorted.len() as u32;
    }

    /// Makes a placed node findable.
    pub(super) fn index(&mut self, slot: u32, path_hash: u64) {
        self.slab.get_mut(slot).hash = short(path_hash);
        self.index.insert(short(path_hash), slot, |s| self.slab.get(s).hash);
    }

    /// Takes a node without children out of the tree.
    pub(super) fn remove(&mut self, slot: u32) {
        assert!(slot != ROOT && self.extra(slot).is_none_or(|e| e.count == 0), "only a node without children goes");
        self.for_ancestors(slot, |extra| extra.descendants -= 1);
        let node = *self.slab.get(slot);
        let names = Names { slab: &self.slab, large: &self.large, arena: &self.arena };
        let extra = self.extras.get_mut(self.slab.get(node.parent).extra);
        extra.children.remove(slot, names.name(slot), |s| names.name(s));
        extra.count -= 1;
        self.index.remove(node.hash, slot);
        self.discard(node.payload, node.large);
        if node.extra != NONE {
            self.extras.remove(node.extra);
        }
        self.slab.remove(slot);
    }

    /// Replaces the data; the place is reused when it fits and is not wasted.
    pub(super) fn set_data(&mut self, slot: u32, data: Option<&[u8]>) {
        let node = *self.slab.get(slot);
        self.slab.get_mut(slot).data_len = data_len(data);
        let bytes = data.unwrap_or_default();
        if node.large {
            let large = self.large.get_mut(node.payload);
            if let Some(room) = large.data.as_mut().and_then(Arc::get_mut)
                && bytes.len() <= room.len()
                && bytes.len() > room.len() / 2
            {
                room[..bytes.len()].copy_from_slice(bytes);
                return;
            }
        } else {
            let (start, end, room) = (node.name_len as usize, node.name_len as usize + bytes.len(), self.arena.capacity(node.payload));
            if end <= room && (end > room / 2 || room <= 32) {
                self.arena.get_mut(node.payload)[start..end].copy_from_slice(bytes);
                return;
            }
        }
        self.move_payload(slot, data);
    }

    fn move_payload(&mut self, slot: u32, data: Option<&[u8]>) {
        let old = *self.slab.get(slot);
        let name = self.name(slot).to_owned();
        self.discard(old.payload, old.large);
        let (payload, large) = self.store(&name, data);
        let node = self.slab.get_mut(slot);
        (node.payload, node.large) = (payload, large);
        node.name_len = if large { 0 } else { name.len() as u16 };
    }

    fn store(&mut self, name: &str, data: Option<&[u8]>) -> (u32, bool) {
        let bytes = data.unwrap_or_default();
        let total = name.len() + bytes.len();
        if total > INLINE_BYTES_MAX {
            return (self.large.insert(Large { name: name.into(), data: data.map(Arc::from) }), true);
        }
        let handle = self.arena.alloc(total);
        let room = self.arena.get_mut(handle);
        room[..name.len()].copy_from_slice(name.as_bytes());
        room[name.len()..total].copy_from_slice(bytes);
        (handle, false)
    }

    fn discard(&mut self, payload: u32, large: bool) {
        if large {
            self.large.remove(payload);
        } else {
            self.arena.free(payload);
        }
    }

    /// Child slots in name order.
    pub(super) fn children(&self, slot: u32) -> impl Iterator<Item = u32> + '_ {
        self.extra(slot).into_iter().flat_map(|extra| extra.children.iter())
    }

    /// Child slots whose names come after `name`, in name order.
    pub(super) fn children_after<'a>(&'a self, slot: u32, name: &str) -> impl Iterator<Item = u32> + use<'a> {
        let names = self.names();
        let after = self.extra(slot).map(|extra| extra.children.iter_after(name.as_bytes(), |s| names.name(s)));
        after.into_iter().flatten()
    }

    pub(super) fn name_bytes(&self, slot: u32) -> &[u8] {
        self.names().name(slot)
    }
}

fn data_len(data: Option<&[u8]>) -> u32 {
    data.map_or(NULL, |d| {
        assert!(d.len() < NULL as usize, "data is far below 4 GiB");
        d.len() as u32
    })
}

impl Node {
    /// Bytes of data; 0 for null.
    pub(super) fn data_bytes(&self) -> u32 {
        if self.data_len == NULL { 0 } else { self.data_len }
    }
}
