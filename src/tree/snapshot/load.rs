//! Reading a snapshot back: records fill the slots they name, then the tree is linked, counted and indexed from the
//! root. Every byte is doubted: what does not add up is refused with the offset of the record, never with a panic.

use super::{ACL, END, HEAD, NODE, NULL, SESSION, VERSION};
use crate::tree::nodes::{Birth, ROOT};
use crate::tree::owner::Owner;
use crate::tree::session::Session;
use crate::tree::slab::SLOTS_MAX;
use crate::tree::{AclId, State, digest, path};
use crate::wire::record::Acl;
use crate::wire::txn::Origin;
use std::collections::BTreeSet;

/// Why bytes are not a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("snapshot record at byte {offset}: {what}")]
pub struct BadSnapshot {
    /// Where the record starts, counted over everything pushed; the end for what only shows there.
    pub offset: u64,
    pub what: &'static str,
}

type Checked<T> = Result<T, &'static str>;

/// The unread part of a record.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, len: usize) -> Checked<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len).ok_or("shorter than its fields")?;
        self.0 = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Checked<[u8; N]> {
        Ok(self.bytes(N)?.try_into().expect("as many bytes as asked for"))
    }

    fn u16(&mut self) -> Checked<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Checked<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Checked<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self, len: u32) -> Checked<&'a str> {
        std::str::from_utf8(self.bytes(len as usize)?).map_err(|_| "text that is not UTF-8")
    }

    fn end(&self) -> Checked<()> {
        if self.0.is_empty() { Ok(()) } else { Err("longer than its fields") }
    }
}

struct End {
    nodes: u64,
    sessions: u64,
    digest: Option<u128>,
}

/// Builds a [`State`] from the records of a snapshot.
pub struct Loader {
    state: State,
    offset: u64,
    zxid: Option<u64>,
    end: Option<End>,
    /// (parent, slot) of every node but the root.
    links: Vec<(u32, u32)>,
}

impl Loader {
    /// `with_digest` as for [`State::new`]; with it the digest is compared, if the snapshot carries one.
    pub fn new(with_digest: bool) -> Loader {
        Loader { state: State::empty(with_digest), offset: 0, zxid: None, end: None, links: Vec::new() }
    }

    /// Takes the next whole records.
    pub fn push(&mut self, records: &[u8]) -> Result<(), BadSnapshot> {
        let mut rest = Fields(records);
        while !rest.0.is_empty() {
            let before = rest.0.len();
            self.one(&mut rest).map_err(|what| BadSnapshot { offset: self.offset, what })?;
            self.offset += (before - rest.0.len()) as u64;
        }
        Ok(())
    }

    fn one(&mut self, rest: &mut Fields<'_>) -> Checked<()> {
        let len = rest.u32().map_err(|_| "cut off")?;
        let mut fields = Fields(rest.bytes(len as usize).map_err(|_| "cut off")?);
        let [tag] = fields.array()?;
        if self.end.is_some() {
            return Err("follows the end");
        }
        match (tag, self.zxid) {
            (HEAD, None) => self.head(&mut fields)?,
            (ACL, Some(_)) => self.acl(&mut fields)?,
            (NODE, Some(zxid)) => self.node(&mut fields, zxid)?,
            (SESSION, Some(_)) => self.session(&mut fields)?,
            (END, Some(_)) => self.last(&mut fields)?,
            (HEAD..=END, _) => return Err("the head is not the first record or not the only one"),
            _ => return Err("unknown kind"),
        }
        fields.end()
    }

    fn head(&mut self, fields: &mut Fields<'_>) -> Checked<()> {
        if fields.u16()? != VERSION {
            return Err("written in a version that is not known here");
        }
        self.zxid = Some(fields.u64()?);
        Ok(())
    }

    fn acl(&mut self, fields: &mut Fields<'_>) -> Checked<()> {
        let (id, count) = (fields.u32()?, fields.u32()?);
        if id >= SLOTS_MAX || count as usize > fields.0.len() / 12 {
            return Err("an ACL out of bounds");
        }
        let mut list = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let (perms, scheme_len, id_len) = (fields.u32()? as i32, fields.u32()?, fields.u32()?);
            list.push(Acl { perms, scheme: fields.text(scheme_len)?.into(), id: fields.text(id_len)?.into() });
        }
        if self.state.acls.define(AclId(id), list) { Ok(()) } else { Err("an ACL that is there already") }
    }

    fn node(&mut self, fields: &mut Fields<'_>, zxid: u64) -> Checked<()> {
        let (slot, parent) = (fields.u32()?, fields.u32()?);
        let (czxid, mzxid, pzxid) = (fields.u64()?, fields.u64()?, fields.u64()?);
        let (ctime_ms, mtime_ms, owner) = (fields.u64()? as i64, fields.u64()? as i64, fields.u64()? as i64);
        let (version, aversion) = (fields.u32()? as i32, fields.u32()? as i32);
        let (creates, acl) = (fields.u32()?, fields.u32()?);
        let (data_len, name_len) = (fields.u32()?, fields.u32()?);
        let name = fields.text(name_len)?;
        let data = if data_len == NULL { None } else { Some(fields.bytes(data_len as usize)?) };
        if slot >= SLOTS_MAX || parent >= SLOTS_MAX || self.state.nodes.contains(slot) {
            return Err("a node's slot is taken or out of bounds");
        }
        if (slot == ROOT) != name.is_empty() || (slot == ROOT) != (slot == parent) || name.contains('/') {
            return Err("a node's name is not one");
        }
        if !self.state.acls.contains(AclId(acl)) || czxid.max(mzxid).max(pzxid) > zxid {
            return Err("a node refers to an ACL or a zxid that is not there");
        }
        let birth = Birth { parent, name, path_hash: 0, data, zxid: czxid, time_ms: ctime_ms, acl, owner };
        self.state.acls.add_ref(AclId(acl));
        self.state.nodes.place(slot, &birth);
        let node = self.state.nodes.get_mut(slot);
        (node.mzxid, node.mtime_ms, node.version) = (mzxid, mtime_ms, version);
        if aversion != 0 || creates != 0 || pzxid != czxid {
            let extra = self.state.nodes.extra_mut(slot);
            (extra.aversion, extra.creates, extra.pzxid) = (aversion, creates, pzxid);
        }
        if slot != ROOT {
            self.links.push((parent, slot));
        }
        Ok(())
    }

    fn session(&mut self, fields: &mut Fields<'_>) -> Checked<()> {
        let (id, timeout_ms) = (fields.u64()? as i64, fields.u32()? as i32);
        let password = fields.array()?;
        let (conn, sequence, boot) = (fields.u64()?, fields.u32()?, fields.u32()?);
        let owner = Origin { conn, sequence, boot, server: fields.u16()?, shard: fields.u16()? };
        let session = Session { timeout_ms, password, owner, ephemerals: BTreeSet::new() };
        if !matches!(Owner::of(id), Owner::Session(_)) || self.state.sessions.insert(id, session).is_some() {
            return Err("a session's id is taken or is none");
        }
        Ok(())
    }

    fn last(&mut self, fields: &mut Fields<'_>) -> Checked<()> {
        let (nodes, sessions, [has_digest]) = (fields.u64()?, fields.u64()?, fields.array()?);
        let digest = u128::from_le_bytes(fields.array()?);
        self.end = Some(End { nodes, sessions, digest: (has_digest != 0).then_some(digest) });
        Ok(())
    }

    /// Links and indexes everything. The state is as of the snapshot's zxid.
    pub fn finish(mut self) -> Result<State, BadSnapshot> {
        self.complete().map_err(|what| BadSnapshot { offset: self.offset, what })?;
        Ok(self.state)
    }

    fn complete(&mut self) -> Checked<()> {
        let (Some(zxid), Some(end)) = (self.zxid, self.end.take()) else { return Err("the snapshot has no end") };
        if self.state.nodes.len() as u64 != end.nodes || self.state.sessions.len() as u64 != end.sessions {
            return Err("not as many nodes or sessions as were written");
        }
        if !self.state.nodes.contains(ROOT) {
            return Err("there is no root");
        }
        self.link()?;
        self.walk_down()?;
        if !self.state.acls.all_used() {
            return Err("an ACL belongs to no node");
        }
        for (id, session) in &self.state.sessions {
            self.state.digest = self.state.digest.map(|sum| sum.wrapping_add(digest::session_item(*id, session)));
        }
        if self.state.digest.is_some_and(|sum| end.digest.is_some_and(|written| written != sum)) {
            return Err("the digest does not match");
        }
        self.state.applied = zxid;
        Ok(())
    }

    /// Sorts the links by parent and name and builds the child sets from them.
    fn link(&mut self) -> Checked<()> {
        let nodes = &mut self.state.nodes;
        self.links.sort_unstable();
        for siblings in self.links.chunk_by_mut(|a, b| a.0 == b.0) {
            let parent = siblings[0].0;
            if !nodes.contains(parent) {
                return Err("a node's parent is not there");
            }
            if nodes.extra(parent).is_some_and(|e| matches!(Owner::of(e.owner), Owner::Session(_))) {
                return Err("an ephemeral node has children");
            }
            siblings.sort_unstable_by(|a, b| nodes.name_bytes(a.1).cmp(nodes.name_bytes(b.1)));
            if siblings.windows(2).any(|pair| nodes.name_bytes(pair[0].1) == nodes.name_bytes(pair[1].1)) {
                return Err("two nodes have the same path");
            }
            let slots: Vec<u32> = siblings.iter().map(|link| link.1).collect();
            nodes.link(parent, &slots);
        }
        Ok(())
    }

    /// Visits every node from the root, with its path. What is not reached hangs in a circle.
    fn walk_down(&mut self) -> Checked<()> {
        struct Level {
            slot: u32,
            path_len: usize,
            links: std::ops::Range<usize>,
            seen: u32,
        }
        let links = std::mem::take(&mut self.links);
        let children = |slot: u32| links.partition_point(|l| l.0 < slot)..links.partition_point(|l| l.0 <= slot);
        let (mut path, mut seen) = (String::new(), 1);
        self.arrive(ROOT, path::ROOT)?;
        let mut stack = vec![Level { slot: ROOT, path_len: 0, links: children(ROOT), seen }];
        while let Some(level) = stack.last_mut() {
            path.truncate(level.path_len);
            let Some(at) = level.links.next() else {
                if seen > level.seen {
                    self.state.nodes.extra_mut(level.slot).descendants = seen - level.seen;
                }
                stack.pop();
                continue;
            };
            let slot = links[at].1;
            path.push('/');
            path.push_str(self.state.nodes.name(slot));
            seen += 1;
            self.arrive(slot, &path)?;
            if self.state.nodes.extra(slot).is_some_and(|e| e.count > 0) {
                stack.push(Level { slot, path_len: path.len(), links: children(slot), seen });
            }
        }
        if seen as usize == self.state.nodes.len() { Ok(()) } else { Err("nodes are not connected to the root") }
    }

    /// Indexes and counts one node.
    fn arrive(&mut self, slot: u32, path: &str) -> Checked<()> {
        let (state, hash) = (&mut self.state, path::hash(path));
        state.nodes.index(slot, hash);
        state.data_bytes += path.len() as u64 + u64::from(state.nodes.get(slot).data_bytes());
        state.quotas.node_created(path);
        if let Some(due) = state.due(slot) {
            state.reap.insert(slot, due);
        }
        if let Owner::Session(id) = Owner::of(state.node(slot).owner()) {
            let session = state.sessions.get_mut(&id).ok_or("an ephemeral node's session is not there")?;
            session.ephemerals.insert(slot);
            state.ephemeral_count += 1;
        }
        if let Some(sum) = state.digest {
            let items = state.stat_item(slot, hash).wrapping_add(state.data_item(slot, path, hash));
            state.digest = Some(sum.wrapping_add(items));
        }
        Ok(())
    }
}
