//! Fixed-size entries addressed by a u32 slot, in chunks, so that growing never moves an entry and an emptied chunk
//! gives its memory back. The lowest free slot is taken first, so slots depend on what is stored and not on how it
//! came about: a replica that loaded a snapshot numbers on like one that never stopped.
//! Refuses to hand out an entry that is not in use (it panics: only our own bugs ask for one).

use std::collections::BTreeSet;

/// Entries per chunk.
pub(super) const CHUNK_ENTRIES: usize = 512;
const CHUNK_WORDS: usize = CHUNK_ENTRIES / 64;

/// Which entries of one chunk are taken.
#[derive(Clone, Default)]
struct Taken {
    words: [u64; CHUNK_WORDS],
    count: u16,
}

impl Taken {
    fn has(&self, at: usize) -> bool {
        self.words[at / 64] >> (at % 64) & 1 == 1
    }

    fn set(&mut self, at: usize) {
        assert!(!self.has(at), "entry {at} is free");
        self.words[at / 64] |= 1 << (at % 64);
        self.count += 1;
    }

    fn clear(&mut self, at: usize) {
        assert!(self.has(at), "entry {at} is in use");
        self.words[at / 64] &= !(1 << (at % 64));
        self.count -= 1;
    }

    fn lowest_free(&self) -> usize {
        let word = self.words.iter().position(|w| *w != u64::MAX).expect("a chunk with room");
        word * 64 + self.words[word].trailing_ones() as usize
    }

    fn is_full(&self) -> bool {
        self.count as usize == CHUNK_ENTRIES
    }
}

/// Entries of one type. A free entry is `T::default()`.
pub(super) struct Slab<T> {
    chunks: Vec<Option<Box<[T; CHUNK_ENTRIES]>>>,
    taken: Vec<Taken>,
    /// Chunks that are not full, those without memory included.
    room: BTreeSet<u32>,
    len: usize,
}

impl<T: Default + Clone> Slab<T> {
    pub(super) fn new() -> Slab<T> {
        Slab { chunks: Vec::new(), taken: Vec::new(), room: BTreeSet::new(), len: 0 }
    }

    /// Entries in use.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// One more than the highest slot that was ever in use, rounded up to a chunk.
    pub(super) fn slots(&self) -> u32 {
        (self.chunks.len() * CHUNK_ENTRIES) as u32
    }

    pub(super) fn contains(&self, slot: u32) -> bool {
        let (chunk, at) = split(slot);
        self.taken.get(chunk).is_some_and(|t| t.has(at))
    }

    /// Whether nothing in `slot`'s chunk is in use.
    pub(super) fn chunk_is_empty(&self, slot: u32) -> bool {
        self.taken.get(split(slot).0).is_none_or(|t| t.count == 0)
    }

    pub(super) fn get(&self, slot: u32) -> &T {
        let (chunk, at) = split(slot);
        debug_assert!(self.taken[chunk].has(at));
        &self.chunks[chunk].as_deref().expect("a slot in use has memory")[at]
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> &mut T {
        let (chunk, at) = split(slot);
        debug_assert!(self.taken[chunk].has(at));
        &mut self.chunks[chunk].as_deref_mut().expect("a slot in use has memory")[at]
    }

    /// Stores `entry` in the lowest free slot.
    pub(super) fn insert(&mut self, entry: T) -> u32 {
        let chunk = match self.room.first() {
            Some(chunk) => *chunk as usize,
            None => self.add_chunk(),
        };
        let slot = (chunk * CHUNK_ENTRIES + self.taken[chunk].lowest_free()) as u32;
        self.insert_at(slot, entry);
        slot
    }

    /// Stores `entry` in `slot`, which must be free, whatever lies below it.
    pub(super) fn insert_at(&mut self, slot: u32, entry: T) {
        let (chunk, at) = split(slot);
        while self.chunks.len() <= chunk {
            self.add_chunk();
        }
        self.taken[chunk].set(at);
        if self.taken[chunk].is_full() {
            self.room.remove(&(chunk as u32));
        }
        self.chunks[chunk].get_or_insert_with(empty_chunk)[at] = entry;
        self.len += 1;
    }

    /// Frees `slot` and hands back what was in it.
    pub(super) fn remove(&mut self, slot: u32) -> T {
        let (chunk, at) = split(slot);
        self.taken[chunk].clear(at);
        self.len -= 1;
        let entry = std::mem::take(&mut self.chunks[chunk].as_deref_mut().expect("a slot in use has memory")[at]);
        self.room.insert(chunk as u32);
        // The only chunk with room keeps its memory, or a create and a delete in turn would allocate each time.
        if self.taken[chunk].count == 0 && self.room.len() > 1 {
            self.chunks[chunk] = None;
        }
        entry
    }

    fn add_chunk(&mut self) -> usize {
        let chunk = self.chunks.len();
        assert!(chunk < (u32::MAX as usize - 1) / CHUNK_ENTRIES, "more than 4 billion entries");
        self.chunks.push(None);
        self.taken.push(Taken::default());
        self.room.insert(chunk as u32);
        chunk
    }
}

fn split(slot: u32) -> (usize, usize) {
    (slot as usize / CHUNK_ENTRIES, slot as usize % CHUNK_ENTRIES)
}

fn empty_chunk<T: Default + Clone>() -> Box<[T; CHUNK_ENTRIES]> {
    vec![T::default(); CHUNK_ENTRIES].try_into().ok().expect("as many entries as asked for")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_slot_is_reused_first() {
        let mut slab = Slab::new();
        for i in 0..2000u64 {
            assert_eq!(u64::from(slab.insert(i)), i);
        }
        assert_eq!((slab.remove(1500), slab.remove(3), slab.remove(700)), (1500, 3, 700));
        assert!(!slab.contains(3) && slab.contains(4));
        assert_eq!([slab.insert(0), slab.insert(0), slab.insert(0), slab.insert(0)], [3, 700, 1500, 2000]);
        assert_eq!(slab.len(), 2001);
    }

    #[test]
    fn empty_chunks_give_their_memory_back() {
        let mut slab = Slab::new();
        for i in 0..5000u64 {
            slab.insert(i);
        }
        for slot in 0..5000 {
            slab.remove(slot);
        }
        assert_eq!(slab.len(), 0);
        assert_eq!(slab.chunks.iter().filter(|c| c.is_some()).count(), 0);
        assert!(slab.chunk_is_empty(4000) && slab.chunk_is_empty(1 << 30));
        assert_eq!(slab.insert(1), 0);
    }

    #[test]
    fn filling_by_slot_leaves_the_same_numbering() {
        let mut slab = Slab::new();
        for slot in [9000, 0, 2] {
            slab.insert_at(slot, u64::from(slot));
        }
        assert_eq!([slab.insert(7), slab.insert(7)], [1, 3]);
        assert_eq!((*slab.get(9000), slab.contains(8999)), (9000, false));
    }
}
