//! Writing a snapshot in slices while transactions go on. The walk visits node slots in order; whatever is about to
//! change and was not visited yet is written first, as it was. So the records are the state at the zxid where the walk
//! began, and only what changes meanwhile waits in memory, until the next slice.
//! Refuses to run twice at once.

use super::{encode_acl, encode_end, encode_head, encode_node, encode_session};
use crate::tree::slab::CHUNK_ENTRIES;
use crate::tree::{AclId, State};
use std::collections::BTreeSet;
use std::ops::Bound;

/// A slice ends early when it has produced so many bytes per unit of its budget.
const BYTES_PER_UNIT: usize = 256;

/// Numbers seen so far, one bit each.
#[derive(Default)]
struct Seen(Vec<u64>);

impl Seen {
    /// Whether `at` is new.
    fn insert(&mut self, at: u32) -> bool {
        let (word, bit) = (at as usize / 64, 1 << (at % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }
}

/// A snapshot at work.
pub(in crate::tree) struct Walk {
    zxid: u64,
    digest: Option<u128>,
    /// Nodes and sessions at the cut, and how many of them still have to be written.
    nodes: u64,
    sessions: u64,
    nodes_left: u64,
    sessions_left: u64,
    /// Slots at the cut: whatever lies beyond was created later.
    slots: u32,
    /// The next slot to visit.
    next: u32,
    /// Slots from `next` on that need no visit: written already, or taken after the cut.
    done: Seen,
    acls: Seen,
    /// The last session visited.
    last_session: Option<i64>,
    /// Sessions beyond it that need no visit.
    sessions_done: BTreeSet<i64>,
    /// Records of what has changed since the last slice.
    early: Vec<u8>,
}

impl State {
    /// Starts a snapshot of the state as it is now. Costs one bit per slot.
    pub fn begin_snapshot(&mut self) {
        assert!(self.walk.is_none(), "one snapshot at a time");
        let (nodes, sessions, slots) = (self.nodes.len() as u64, self.sessions.len() as u64, self.nodes.slots());
        let mut early = Vec::new();
        encode_head(&mut early, self.applied);
        self.walk = Some(Box::new(Walk {
            zxid: self.applied,
            digest: self.digest,
            nodes,
            sessions,
            nodes_left: nodes,
            sessions_left: sessions,
            slots,
            next: 0,
            done: Seen(vec![0; (slots as usize).div_ceil(64)]),
            acls: Seen::default(),
            last_session: None,
            sessions_done: BTreeSet::new(),
            early,
        }));
    }

    /// The zxid of the snapshot being written.
    pub fn snapshot_zxid(&self) -> Option<u64> {
        self.walk.as_ref().map(|walk| walk.zxid)
    }

    /// Gives the snapshot up.
    pub fn cancel_snapshot(&mut self) {
        self.walk = None;
    }

    /// Appends whole records to `out` and says whether the snapshot is complete. Looks at no more than `budget` (at least
    /// one) nodes and sessions and stops early after 256 bytes for each of them; what changed since the last slice and the
    /// record at the border come on top.
    pub fn snapshot_slice(&mut self, budget: usize, out: &mut Vec<u8>) -> bool {
        let mut walk = self.walk.take().expect("begin_snapshot was called");
        if out.is_empty() {
            std::mem::swap(out, &mut walk.early);
        } else {
            out.append(&mut walk.early);
        }
        let full = out.len() + budget * BYTES_PER_UNIT;
        let mut units = budget.max(1);
        while units > 0 && out.len() < full && (walk.next < walk.slots || walk.sessions_left > 0) {
            units -= 1;
            if walk.next < walk.slots { walk.visit_slot(self, out) } else { walk.visit_session(self, out) }
        }
        if walk.next < walk.slots || walk.sessions_left > 0 {
            self.walk = Some(walk);
            return false;
        }
        assert_eq!(walk.nodes_left, 0, "the snapshot at {:#x} has every node", walk.zxid);
        encode_end(out, walk.nodes, walk.sessions, walk.digest);
        true
    }

    /// The node is about to change.
    pub(in crate::tree) fn keep_old_node(&mut self, slot: u32) {
        let Some(mut walk) = self.walk.take() else { return };
        if slot >= walk.next && slot < walk.slots && walk.done.insert(slot) {
            let mut early = std::mem::take(&mut walk.early);
            walk.write_node(self, slot, &mut early);
            walk.early = early;
        }
        self.walk = Some(walk);
    }

    /// The slot was taken after the cut.
    pub(in crate::tree) fn skip_new_node(&mut self, slot: u32) {
        if let Some(walk) = &mut self.walk
            && slot >= walk.next
            && slot < walk.slots
        {
            walk.done.insert(slot);
        }
    }

    /// The session is about to change.
    pub(in crate::tree) fn keep_old_session(&mut self, id: i64) {
        if let Some(walk) = &mut self.walk
            && walk.last_session.is_none_or(|last| id > last)
            && walk.sessions_done.insert(id)
        {
            walk.sessions_left -= 1;
            encode_session(&mut walk.early, id, &self.sessions[&id]);
        }
    }

    /// The session was created after the cut.
    pub(in crate::tree) fn skip_new_session(&mut self, id: i64) {
        if let Some(walk) = &mut self.walk
            && walk.last_session.is_none_or(|last| id > last)
        {
            walk.sessions_done.insert(id);
        }
    }
}

impl Walk {
    fn visit_slot(&mut self, state: &State, out: &mut Vec<u8>) {
        let slot = self.next;
        if state.nodes.chunk_is_empty(slot) {
            self.next = (slot / CHUNK_ENTRIES as u32 + 1) * CHUNK_ENTRIES as u32;
            return;
        }
        self.next = slot + 1;
        if state.nodes.contains(slot) && self.done.insert(slot) {
            self.write_node(state, slot, out);
        }
    }

    fn write_node(&mut self, state: &State, slot: u32, out: &mut Vec<u8>) {
        let acl = AclId(state.nodes.get(slot).acl);
        if acl != AclId::OPEN && self.acls.insert(acl.0) {
            encode_acl(out, state, acl);
        }
        encode_node(out, state, slot);
        self.nodes_left -= 1;
    }

    fn visit_session(&mut self, state: &State, out: &mut Vec<u8>) {
        let after = self.last_session.map_or(Bound::Unbounded, Bound::Excluded);
        let (id, session) = state.sessions.range((after, Bound::Unbounded)).next().expect("sessions of the cut are left");
        self.last_session = Some(*id);
        if !self.sessions_done.remove(id) {
            self.sessions_left -= 1;
            encode_session(out, *id, session);
        }
    }
}
