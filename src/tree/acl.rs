//! Access control lists, each kept once and named by a small number. Numbers are a function of the history: every
//! replica gives the same list the same number. A list that nobody refers to stays readable until the next
//! transaction, because events about a deleted node are filtered by its list.
//! Refuses to judge: who may do what is decided where requests are prepared and answered.

use super::slab::Slab;
use crate::wire::record::Acl;
use hashbrown::HashTable;
use xxhash_rust::xxh3::Xxh3;

/// Names an interned list within one State.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AclId(pub u32);

impl AclId {
    /// `world:anyone` with all permissions. Never freed.
    pub const OPEN: AclId = AclId(0);
}

/// The permissions of [`AclId::OPEN`]: READ 1, WRITE 2, CREATE 4, DELETE 8, ADMIN 16.
pub const PERMS_ALL: i32 = 31;

/// One borrowed entry: permissions, scheme, id.
pub(super) type Entry<'a> = (i32, &'a str, &'a str);

#[derive(Default)]
struct Interned {
    list: Box<[Acl]>,
    hash: u64,
    /// Nodes that refer to it.
    refs: u32,
}

pub(super) struct AclTable {
    lists: Slab<Interned>,
    by_content: HashTable<u32>,
    /// Lists that lost their last reference in the current transaction.
    unused: Vec<u32>,
}

fn world(perms: i32) -> Acl {
    Acl { perms, scheme: "world".into(), id: "anyone".into() }
}

fn entry(acl: &Acl) -> Entry<'_> {
    (acl.perms, &acl.scheme, &acl.id)
}

fn is_list<'a>(list: &[Acl], entries: impl Iterator<Item = Entry<'a>>) -> bool {
    let mut rest = list.iter();
    entries.into_iter().all(|wanted| rest.next().is_some_and(|acl| entry(acl) == wanted)) && rest.next().is_none()
}

fn content_hash<'a>(entries: impl Iterator<Item = Entry<'a>>) -> u64 {
    let mut hash = Xxh3::new();
    for (perms, scheme, id) in entries {
        hash.update(&perms.to_le_bytes());
        for text in [scheme, id] {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
    }
    hash.digest()
}

impl AclTable {
    pub(super) fn new() -> AclTable {
        let mut table = AclTable { lists: Slab::new(), by_content: HashTable::new(), unused: Vec::new() };
        let open = table.intern([(PERMS_ALL, "world", "anyone")].into_iter());
        assert_eq!(open, AclId::OPEN);
        table
    }

    pub(super) fn get(&self, id: AclId) -> &[Acl] {
        &self.lists.get(id.0).list
    }

    /// A hash of the list's content, the same in every State.
    pub(super) fn hash(&self, id: AclId) -> u64 {
        self.lists.get(id.0).hash
    }

    /// The number of this list with one more reference.
    pub(super) fn intern<'a>(&mut self, entries: impl Iterator<Item = Entry<'a>> + Clone) -> AclId {
        let hash = content_hash(entries.clone());
        let lists = &self.lists;
        let same = |id: &u32| lists.get(*id).hash == hash && is_list(&lists.get(*id).list, entries.clone());
        let id = match self.by_content.find(hash, same).copied() {
            Some(id) => id,
            None => {
                let list = entries.map(|(perms, scheme, id)| Acl { perms, scheme: scheme.into(), id: id.into() }).collect();
                let id = self.lists.insert(Interned { list, hash, refs: 0 });
                self.index(id, hash);
                id
            }
        };
        self.add_ref(AclId(id))
    }

    fn index(&mut self, id: u32, hash: u64) {
        let lists = &self.lists;
        self.by_content.insert_unique(hash, id, |id| lists.get(*id).hash);
    }

    /// Puts a list where a snapshot says it stands, without references. False if the number or the list is taken.
    pub(super) fn define(&mut self, id: AclId, list: Vec<Acl>) -> bool {
        let hash = content_hash(list.iter().map(entry));
        let lists = &self.lists;
        if self.contains(id) || self.by_content.find(hash, |id| *lists.get(*id).list == list).is_some() {
            return false;
        }
        self.lists.insert_at(id.0, Interned { list: list.into(), hash, refs: 0 });
        self.index(id.0, hash);
        true
    }

    pub(super) fn contains(&self, id: AclId) -> bool {
        self.lists.contains(id.0)
    }

    /// Whether some node refers to each list.
    pub(super) fn all_used(&self) -> bool {
        self.by_content.iter().all(|id| self.lists.get(*id).refs > 0)
    }

    pub(super) fn add_ref(&mut self, id: AclId) -> AclId {
        self.lists.get_mut(id.0).refs += 1;
        id
    }

    pub(super) fn drop_ref(&mut self, id: AclId) {
        let interned = self.lists.get_mut(id.0);
        assert!(interned.refs > 0, "ACL {} is referred to", id.0);
        interned.refs -= 1;
        if interned.refs == 0 && id != AclId::OPEN {
            self.unused.push(id.0);
        }
    }

    /// Frees what the last transaction left without references. Called between transactions.
    pub(super) fn free_unused(&mut self) {
        while let Some(id) = self.unused.pop() {
            if !self.lists.contains(id) || self.lists.get(id).refs > 0 {
                continue;
            }
            let interned = self.lists.remove(id);
            self.by_content.find_entry(interned.hash, |i| *i == id).expect("every list is indexed").remove();
        }
    }

    /// The list of `/zookeeper/config`.
    pub(super) fn intern_read_only(&mut self) -> AclId {
        let read = world(1);
        self.intern([entry(&read)].into_iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lists_share_a_number_that_is_reused() {
        let mut table = AclTable::new();
        let bob = [(31, "digest", "bob:x")];
        let id = table.intern(bob.into_iter());
        assert_eq!((id, table.intern(bob.into_iter())), (AclId(1), id));
        assert_eq!(table.intern([(31, "world", "anyone")].into_iter()), AclId::OPEN);
        assert_eq!(table.intern([(31, "digest", "bo"), (1, "ip", "b:x")].into_iter()), AclId(2));
        table.drop_ref(id);
        table.free_unused();
        assert_eq!(table.get(id)[0].id, "bob:x");
        table.drop_ref(id);
        assert_eq!(table.get(id)[0].id, "bob:x");
        table.free_unused();
        assert!(!table.contains(id));
        assert_eq!(table.intern([(1, "ip", "10.0.0.1")].into_iter()), id);
    }

    #[test]
    fn a_list_used_again_in_the_same_transaction_stays() {
        let mut table = AclTable::new();
        let id = table.intern([(31, "digest", "bob:x")].into_iter());
        table.drop_ref(id);
        assert_eq!(table.intern([(31, "digest", "bob:x")].into_iter()), id);
        table.free_unused();
        assert!(table.contains(id));
    }

    #[test]
    fn a_snapshot_may_leave_gaps_between_numbers() {
        let mut table = AclTable::new();
        let list = vec![Acl { perms: 1, scheme: "ip".into(), id: "10.0.0.1".into() }];
        assert!(table.define(AclId(3), list.clone()));
        assert!(!table.define(AclId(4), list) && !table.define(AclId(3), vec![]));
        assert_eq!(table.intern([(2, "ip", "10.0.0.1")].into_iter()), AclId(1));
        assert_eq!(table.lists.len(), 3);
    }
}
