//! Finds node slots by path hash: extendible hashing over small tables of slots, so that growth is paid in splits of
//! one small table (at most [`PART_ENTRIES_MAX`] entries, some 50 us when cold) and never in one rehash of everything.
//! Keeps no paths and no hashes: the caller compares, and tells the hash of a slot when a table grows.
//! Refuses to notice duplicates: whoever inserts has looked first.

use hashbrown::HashTable;

/// Entries of one table when it splits: what fits 2048 buckets.
const PART_ENTRIES_MAX: usize = 1792;
/// Past 2^20 tables (1.8 billion nodes) tables grow instead of splitting.
const DIRECTORY_BITS_MAX: u32 = 20;

struct Part {
    /// How many of the hash's top bits all entries share.
    bits: u32,
    table: HashTable<u32>,
}

/// The index. A hash here is 32 bits of the path's hash; the top ones choose the table.
pub(crate) struct Index {
    directory: Vec<u32>,
    bits: u32,
    parts: Vec<Part>,
}

/// Spreads a 32-bit hash so that the table's tag (top bits) differs from its bucket (low bits).
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl Index {
    pub(crate) fn new() -> Index {
        Index { directory: vec![0], bits: 0, parts: vec![Part { bits: 0, table: HashTable::new() }] }
    }

    fn part(&self, hash: u32) -> usize {
        self.directory[(u64::from(hash) >> (32 - self.bits)) as usize] as usize
    }

    /// The slot under `hash` that `is_it` accepts.
    pub(crate) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.parts[self.part(hash)].table.find(spread(hash), |slot| is_it(*slot)).copied()
    }

    /// Adds `slot`, which is not in here; `hash_of` tells the hash of slots that are.
    pub(crate) fn insert(&mut self, hash: u32, slot: u32, hash_of: impl Fn(u32) -> u32) {
        loop {
            let at = self.part(hash);
            let part = &mut self.parts[at];
            if part.table.len() < PART_ENTRIES_MAX || part.bits == DIRECTORY_BITS_MAX {
                part.table.insert_unique(spread(hash), slot, |s| spread(hash_of(*s)));
                return;
            }
            self.split(at, hash, &hash_of);
        }
    }

    /// Takes `slot` out, which must be in here.
    pub(crate) fn remove(&mut self, hash: u32, slot: u32) {
        let at = self.part(hash);
        match self.parts[at].table.find_entry(spread(hash), |s| *s == slot) {
            Ok(entry) => drop(entry.remove()),
            Err(_) => panic!("slot {slot} is not indexed"),
        }
    }

    /// Splits the table `at`, where `hash` belongs, by the next bit of the hashes.
    fn split(&mut self, at: usize, hash: u32, hash_of: &impl Fn(u32) -> u32) {
        let bits = self.parts[at].bits + 1;
        if bits > self.bits {
            self.directory = self.directory.iter().flat_map(|part| [*part, *part]).collect();
            self.bits = bits;
        }
        let old = std::mem::take(&mut self.parts[at].table);
        let (mut low, mut high) = (Vec::with_capacity(PART_ENTRIES_MAX), Vec::with_capacity(PART_ENTRIES_MAX));
        for slot in old {
            let hash = hash_of(slot);
            let side = if hash >> (32 - bits) & 1 == 0 { &mut low } else { &mut high };
            side.push((spread(hash), slot));
        }
        self.parts[at] = Part { bits, table: table_of(&low) };
        self.parts.push(Part { bits, table: table_of(&high) });
        // Directory entries that share the old table's bits: the upper half now names the new table.
        let span = 1 << (self.bits - bits);
        let prefix = (u64::from(hash) >> (32 - bits) | 1) as usize;
        self.directory[prefix * span..(prefix + 1) * span].fill(self.parts.len() as u32 - 1);
    }
}

fn table_of(entries: &[(u64, u32)]) -> HashTable<u32> {
    let mut table = HashTable::with_capacity(entries.len());
    for (spread, slot) in entries {
        // Sized for all of them: never grows, so no other hash is ever asked for.
        table.insert_unique(*spread, *slot, |_| unreachable!("the table was sized for all"));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_found_through_all_splits() {
        let hash_of = |slot: u32| xxhash_rust::xxh3::xxh3_64(&slot.to_le_bytes()) as u32;
        let mut index = Index::new();
        for slot in 0..100_000 {
            index.insert(hash_of(slot), slot, hash_of);
        }
        assert!(index.parts.len() > 50 && index.parts.iter().all(|p| p.table.len() <= PART_ENTRIES_MAX));
        for slot in (0..100_000).step_by(3) {
            index.remove(hash_of(slot), slot);
        }
        for slot in 0..100_000 {
            let found = index.find(hash_of(slot), |s| s == slot);
            assert_eq!(found, (slot % 3 != 0).then_some(slot));
        }
        assert_eq!(index.parts.iter().map(|p| p.table.len()).sum::<usize>(), 66_666);
    }

    #[test]
    fn equal_hashes_do_not_split_for_ever() {
        let mut index = Index::new();
        for slot in 0..3000 {
            index.insert(7, slot, |_| 7);
        }
        assert_eq!(index.find(7, |s| s == 2999), Some(2999));
    }
}
