//! The children of one node: slots ordered by name (by bytes, which for UTF-8 is by code point), as a B+ tree whose
//! smallest form is one sorted list. Costs nothing when empty and 4-6 bytes per child when large. Adding and removing
//! takes O(log n) comparisons; adding behind the last child, as sequential nodes do, takes one per level.
//! Keeps no names: the caller tells the name of a slot. Refuses (panics on) a name that is added twice or is missing.

use std::cmp::Ordering;

/// Entries of one list at most.
const FAN: usize = 128;
/// Below this a list looks for a neighbour to merge with.
const FAN_LOW: usize = FAN / 4;
/// Merged lists stay at or below this, so that the next insertion does not split them again.
const FAN_MERGED: usize = FAN * 3 / 4;

/// A sorted list of slots, or of subtrees. All leaves of a tree are at the same depth.
#[derive(Clone)]
pub(super) enum Children {
    Leaf(Vec<u32>),
    Inner(Vec<Branch>),
}

#[derive(Clone)]
pub(super) struct Branch {
    /// The slot with the smallest name below.
    first: u32,
    below: Box<Children>,
}

impl Default for Children {
    fn default() -> Children {
        Children::Leaf(Vec::new())
    }
}

impl Children {
    /// Adds `slot` under `key`, its name.
    pub(super) fn insert<'n>(&mut self, slot: u32, key: &[u8], name: impl Fn(u32) -> &'n [u8] + Copy) {
        if let Some(right) = self.insert_below(slot, key, name, true) {
            let left = Branch::of(std::mem::take(self));
            *self = Children::Inner(vec![left, right]);
        }
    }

    /// Returns the upper part when this list had to split. `last`: no list stands to the right of this one.
    fn insert_below<'n>(&mut self, slot: u32, key: &[u8], name: impl Fn(u32) -> &'n [u8] + Copy, last: bool) -> Option<Branch> {
        match self {
            Children::Leaf(slots) => {
                let at = position(slots, key, name, |s| *s);
                let grown = insert_at(slots, at, slot, last);
                (!grown.is_empty()).then(|| Branch::of(Children::Leaf(grown)))
            }
            Children::Inner(branches) => {
                let at = position(branches, key, name, |b| b.first).saturating_sub(1);
                let last = last && at == branches.len() - 1;
                let right = branches[at].below.insert_below(slot, key, name, last);
                if at == 0 && key < name(branches[0].first) {
                    branches[0].first = slot;
                }
                let grown = insert_at(branches, at + 1, right?, last);
                (!grown.is_empty()).then(|| Branch::of(Children::Inner(grown)))
            }
        }
    }

    /// Takes `slot` out, whose name is `key`.
    pub(super) fn remove<'n>(&mut self, slot: u32, key: &[u8], name: impl Fn(u32) -> &'n [u8] + Copy) {
        self.remove_below(slot, key, name);
        while let Children::Inner(branches) = self
            && branches.len() == 1
        {
            let only = branches.pop().expect("one branch");
            *self = *only.below;
        }
    }

    fn remove_below<'n>(&mut self, slot: u32, key: &[u8], name: impl Fn(u32) -> &'n [u8] + Copy) {
        match self {
            Children::Leaf(slots) => {
                let at = slots.binary_search_by(|s| if *s == slot { Ordering::Equal } else { name(*s).cmp(key) });
                slots.remove(at.unwrap_or_else(|_| panic!("slot {slot} is not among its parent's children")));
                if slots.capacity() > 8 && slots.len() < slots.capacity() / 4 {
                    slots.shrink_to(slots.len() * 2);
                }
            }
            Children::Inner(branches) => {
                let at = branches.partition_point(|b| b.first == slot || name(b.first) <= key).saturating_sub(1);
                branches[at].below.remove_below(slot, key, name);
                tidy(branches, at);
            }
        }
    }

    /// Builds from slots that are sorted by name, with full lists: as small as it gets.
    pub(super) fn from_sorted(slots: &[u32]) -> Children {
        if slots.len() <= FAN {
            return Children::Leaf(slots.to_vec());
        }
        let mut level: Vec<Branch> = slots.chunks(FAN).map(|c| Branch::of(Children::Leaf(c.to_vec()))).collect();
        while level.len() > FAN {
            level = level.chunks(FAN).map(|c| Branch::of(Children::Inner(c.to_vec()))).collect();
        }
        Children::Inner(level)
    }

    /// All slots in name order.
    pub(super) fn iter(&self) -> Slots<'_> {
        let mut slots = Slots::default();
        slots.descend(self);
        slots
    }

    /// The slots whose names come after `key`, in name order, found in O(log n).
    pub(super) fn iter_after<'n>(&self, key: &[u8], name: impl Fn(u32) -> &'n [u8] + Copy) -> Slots<'_> {
        let mut slots = Slots::default();
        let mut below = self;
        loop {
            match below {
                Children::Leaf(leaf) => {
                    slots.leaf = leaf[leaf.partition_point(|s| name(*s) <= key)..].iter();
                    return slots;
                }
                Children::Inner(branches) => {
                    let at = branches.partition_point(|b| name(b.first) <= key).saturating_sub(1);
                    slots.inner.push(branches[at + 1..].iter());
                    below = &branches[at].below;
                }
            }
        }
    }

    /// The slot with the smallest name. Not for an empty set.
    fn first(&self) -> u32 {
        match self {
            Children::Leaf(slots) => slots[0],
            Children::Inner(branches) => branches[0].first,
        }
    }

    fn len(&self) -> usize {
        match self {
            Children::Leaf(slots) => slots.len(),
            Children::Inner(branches) => branches.len(),
        }
    }
}

impl Branch {
    fn of(below: Children) -> Branch {
        Branch { first: below.first(), below: Box::new(below) }
    }
}

/// Where `key` belongs. Tries the end first: names often ascend.
fn position<'n, T>(entries: &[T], key: &[u8], name: impl Fn(u32) -> &'n [u8], slot: impl Fn(&T) -> u32) -> usize {
    if entries.last().is_none_or(|e| name(slot(e)) < key) {
        return entries.len();
    }
    entries.partition_point(|e| name(slot(e)) < key)
}

/// Inserts, and splits off the upper part if the list was full; otherwise returns an empty list. The last list splits
/// behind its end when something is appended, so that ascending names leave full lists behind.
fn insert_at<T>(entries: &mut Vec<T>, at: usize, entry: T, last: bool) -> Vec<T> {
    if entries.len() < FAN {
        if entries.len() == entries.capacity() {
            entries.reserve_exact(entries.len().max(2).min(FAN - entries.len()));
        }
        entries.insert(at, entry);
        return Vec::new();
    }
    if last && at == FAN {
        return vec![entry];
    }
    let mut upper = entries.split_off(FAN / 2);
    if at <= FAN / 2 {
        entries.insert(at, entry);
    } else {
        upper.insert(at - FAN / 2, entry);
    }
    entries.shrink_to(FAN * 3 / 4);
    upper
}

/// After a removal below `branches[at]`: drops it if empty, merges it with a neighbour if small, and corrects `first`.
fn tidy(branches: &mut Vec<Branch>, at: usize) {
    let len = branches[at].below.len();
    if len == 0 {
        branches.remove(at);
        return;
    }
    branches[at].first = branches[at].below.first();
    if len >= FAN_LOW {
        return;
    }
    let left = if at > 0 { at - 1 } else { at };
    if left + 1 < branches.len() && branches[left].below.len() + branches[left + 1].below.len() <= FAN_MERGED {
        let right = branches.remove(left + 1);
        match (&mut *branches[left].below, *right.below) {
            (Children::Leaf(into), Children::Leaf(from)) => into.extend(from),
            (Children::Inner(into), Children::Inner(from)) => into.extend(from),
            _ => unreachable!("all leaves are at the same depth"),
        }
    }
}

/// Iterates over slots in name order.
#[derive(Default)]
pub(super) struct Slots<'a> {
    inner: Vec<std::slice::Iter<'a, Branch>>,
    leaf: std::slice::Iter<'a, u32>,
}

impl<'a> Slots<'a> {
    fn descend(&mut self, mut below: &'a Children) {
        loop {
            match below {
                Children::Leaf(slots) => {
                    self.leaf = slots.iter();
                    return;
                }
                Children::Inner(branches) => {
                    let mut rest = branches.iter();
                    below = &rest.next().expect("an inner list is never empty").below;
                    self.inner.push(rest);
                }
            }
        }
    }
}

impl Iterator for Slots<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        loop {
            if let Some(slot) = self.leaf.next() {
                return Some(*slot);
            }
            match self.inner.last_mut()?.next() {
                Some(branch) => self.descend(&branch.below),
                None => drop(self.inner.pop()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::seq::SliceRandom;
    use rand::{RngExt, SeedableRng};
    use std::collections::BTreeSet;

    fn check_shape(children: &Children, root: bool) -> usize {
        match children {
            Children::Leaf(slots) => {
                assert!(slots.len() <= FAN && (root || !slots.is_empty()));
                0
            }
            Children::Inner(branches) => {
                assert!(branches.len() <= FAN && (!root || branches.len() > 1));
                let depths: BTreeSet<usize> = branches.iter().map(|b| check_shape(&b.below, false)).collect();
                assert_eq!(depths.len(), 1);
                assert!(branches.iter().all(|b| b.below.iter().next() == Some(b.first)));
                depths.first().unwrap() + 1
            }
        }
    }

    /// Slot i is named by i as ten digits, so that slot order is name order.
    fn names(count: u32) -> Vec<String> {
        (0..count).map(|i| format!("{i:010}")).collect()
    }

    #[test]
    fn ascending_names_fill_their_lists() {
        let names = names(50_000);
        let name = |s: u32| names[s as usize].as_bytes();
        let mut children = Children::default();
        (0..50_000).for_each(|s| children.insert(s, name(s), name));
        assert_eq!(check_shape(&children, true), 2);
        assert!(children.iter().eq(0..50_000));
        let Children::Inner(branches) = &children else { panic!() };
        assert_eq!(branches[0].below.len(), FAN);
    }

    #[test]
    fn it_agrees_with_an_ordered_set() {
        let mut rng = StdRng::seed_from_u64(7);
        let names = names(30_000);
        let name = |s: u32| names[s as usize].as_bytes();
        let (mut children, mut model) = (Children::default(), BTreeSet::new());
        let mut order: Vec<u32> = (0..30_000).collect();
        for round in 0..4 {
            order.shuffle(&mut rng);
            for (i, slot) in order.iter().enumerate() {
                if model.insert(*slot) {
                    children.insert(*slot, name(*slot), name);
                } else if round % 2 == 1 || rng.random_bool(0.3) {
                    model.remove(slot);
                    children.remove(*slot, name(*slot), name);
                }
                if i % 5000 == 0 {
                    check_shape(&children, true);
                    assert!(children.iter().eq(model.iter().copied()));
                }
            }
            let from = rng.random_range(0..30_000);
            assert!(children.iter_after(name(from), name).eq(model.range(from + 1..).copied()));
            assert!(children.iter_after(b"", name).eq(model.iter().copied()));
        }
        for slot in model {
            children.remove(slot, name(slot), name);
        }
        assert!(matches!(&children, Children::Leaf(slots) if slots.is_empty()));
    }

    #[test]
    fn bulk_building_is_the_same_set() {
        for count in [0, 1, FAN as u32, FAN as u32 + 1, 20_000] {
            let slots: Vec<u32> = (0..count).collect();
            let children = Children::from_sorted(&slots);
            check_shape(&children, true);
            assert!(children.iter().eq(0..count));
        }
    }
}
