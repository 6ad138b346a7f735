//! Which containers and TTL nodes could be deleted by the server itself: only nodes without children stand in here,
//! so that finding the due ones never walks over the others.
//! Refuses to decide: age and emptiness are checked again when the deletion is prepared.

use super::owner::Owner;
use std::collections::BTreeSet;

/// Where an empty node stands in the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// A container that has had children.
    Now,
    /// A container that never had any: its ctime, ms.
    Unused(i64),
    /// A TTL node: mtime + TTL, ms.
    At(i64),
}

impl Due {
    /// None for nodes that the server never deletes by itself.
    pub(super) fn of(owner: Owner, creates: u32, ctime_ms: i64, mtime_ms: i64) -> Option<Due> {
        match owner {
            Owner::None | Owner::Session(_) => None,
            Owner::Container if creates > 0 => Some(Due::Now),
            Owner::Container => Some(Due::Unused(ctime_ms)),
            Owner::Ttl(ttl_ms) => Some(Due::At(mtime_ms.saturating_add(ttl_ms))),
        }
    }
}

#[derive(Default)]
pub(super) struct ReapIndex {
    containers: BTreeSet<u32>,
    unused: BTreeSet<(i64, u32)>,
    ttl: BTreeSet<(i64, u32)>,
}

impl ReapIndex {
    pub(super) fn insert(&mut self, slot: u32, due: Due) {
        let new = match due {
            Due::Now => self.containers.insert(slot),
            Due::Unused(ctime_ms) => self.unused.insert((ctime_ms, slot)),
            Due::At(deadline_ms) => self.ttl.insert((deadline_ms, slot)),
        };
        assert!(new, "slot {slot} was not due before");
    }

    pub(super) fn remove(&mut self, slot: u32, due: Due) {
        let there = match due {
            Due::Now => self.containers.remove(&slot),
            Due::Unused(ctime_ms) => self.unused.remove(&(ctime_ms, slot)),
            Due::At(deadline_ms) => self.ttl.remove(&(deadline_ms, slot)),
        };
        assert!(there, "slot {slot} was due");
    }

    pub(super) fn containers(&self) -> impl Iterator<Item = u32> {
        self.containers.iter().copied()
    }

    /// Never used and created before `ms`, oldest first.
    pub(super) fn unused_before(&self, ms: i64) -> impl Iterator<Item = u32> {
        self.unused.range(..(ms, 0)).map(|(_, slot)| *slot)
    }

    /// TTL nodes whose time ran out before `ms`, oldest first.
    pub(super) fn expired_before(&self, ms: i64) -> impl Iterator<Item = u32> {
        self.ttl.range(..(ms, 0)).map(|(_, slot)| *slot)
    }
}
