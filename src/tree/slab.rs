//! Fixed-size entries addressed by a u32 slot, in chunks, so that growing never moves an entry and an emptied chunk
//! gives its memory back. The lowest free slot is taken first, so slots depend on what is stored and not on how it
//! came about: a replica that loaded a snapshot numbers on like one that never stopped.
//! Refuses to hand out an entry that is not in use (it panics: only our own bugs ask for one).

/// Entries per chunk.
pub(crate) const CHUNK_ENTRIES: usize = 512;
const CHUNK_WORDS: usize = CHUNK_ENTRIES / 64;
/// Slots stay below this, so that larger numbers can mean something else.
pub(crate) const SLOTS_MAX: u32 = u32::MAX - (CHUNK_ENTRIES as u32 - 1);

/// Which entries of one chunk are taken.
#[derive(Default)]
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

struct Chunk<T> {
    taken: Taken,
    entries: [T; CHUNK_ENTRIES],
}

/// Which chunks are not full, those without memory included. Finds the lowest from where it was last.
#[derive(Default)]
struct Room {
    words: Vec<u64>,
    /// No word before this one has a bit.
    from: usize,
}

impl Room {
    fn insert(&mut self, chunk: usize) {
        if self.words.len() <= chunk / 64 {
            self.words.resize(chunk / 64 + 1, 0);
        }
        self.words[chunk / 64] |= 1 << (chunk % 64);
        self.from = self.from.min(chunk / 64);
    }

    fn remove(&mut self, chunk: usize) {
        self.words[chunk / 64] &= !(1 << (chunk % 64));
    }

    fn lowest(&mut self) -> Option<usize> {
        let skipped = self.words[self.from..].iter().position(|w| *w != 0)?;
        self.from += skipped;
        Some(self.from * 64 + self.words[self.from].trailing_zeros() as usize)
    }
}

/// Entries of one type. A free entry is `T::default()`.
pub(crate) struct Slab<T> {
    chunks: Vec<Option<Box<Chunk<T>>>>,
    room: Room,
    len: usize,
}

impl<T: Default> Slab<T> {
    pub(crate) fn new() -> Slab<T> {
        Slab { chunks: Vec::new(), room: Room::default(), len: 0 }
    }

    /// Entries in use.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// One more than the highest slot that was ever in use, rounded up to a chunk.
    pub(crate) fn slots(&self) -> u32 {
        (self.chunks.len() * CHUNK_ENTRIES) as u32
    }

    fn chunk(&self, slot: u32) -> Option<&Chunk<T>> {
        self.chunks.get(split(slot).0).and_then(Option::as_deref)
    }

    pub(crate) fn contains(&self, slot: u32) -> bool {
        self.chunk(slot).is_some_and(|c| c.taken.has(split(slot).1))
    }

    /// Whether nothing in `slot`'s chunk is in use.
    pub(crate) fn chunk_is_empty(&self, slot: u32) -> bool {
        self.chunk(slot).is_none_or(|c| c.taken.count == 0)
    }

    pub(crate) fn get(&self, slot: u32) -> &T {
        let (chunk, at) = split(slot);
        let chunk = self.chunks[chunk].as_deref().expect("a slot in use has memory");
        debug_assert!(chunk.taken.has(at));
        &chunk.entries[at]
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> &mut T {
        let (chunk, at) = split(slot);
        let chunk = self.chunks[chunk].as_deref_mut().expect("a slot in use has memory");
        debug_assert!(chunk.taken.has(at));
        &mut chunk.entries[at]
    }

    /// Stores `entry` in the lowest free slot.
    pub(crate) fn insert(&mut self, entry: T) -> u32 {
        let chunk = match self.room.lowest() {
            Some(chunk) => chunk,
            None => self.add_chunk(),
        };
        let at = self.chunks[chunk].as_ref().map_or(0, |c| c.taken.lowest_free());
        let slot = (chunk * CHUNK_ENTRIES + at) as u32;
        self.insert_at(slot, entry);
        slot
    }

    /// Stores `entry` in `slot`, which must be free and below [`SLOTS_MAX`], whatever lies before it.
    pub(crate) fn insert_at(&mut self, slot: u32, entry: T) {
        let (at_chunk, at) = split(slot);
        while self.chunks.len() <= at_chunk {
            self.add_chunk();
        }
        let chunk = self.chunks[at_chunk].get_or_insert_with(Chunk::empty);
        chunk.taken.set(at);
        chunk.entries[at] = entry;
        if chunk.taken.is_full() {
            self.room.remove(at_chunk);
        }
        self.len += 1;
    }

    /// Frees `slot` and hands back what was in it.
    pub(crate) fn remove(&mut self, slot: u32) -> T {
        let (at_chunk, at) = split(slot);
        let chunk = self.chunks[at_chunk].as_deref_mut().expect("a slot in use has memory");
        chunk.taken.clear(at);
        let entry = std::mem::take(&mut chunk.entries[at]);
        self.len -= 1;
        let empty = chunk.taken.count == 0;
        self.room.insert(at_chunk);
        // The chunk that is filled next keeps its memory, or a create and a delete in turn would allocate each time.
        if empty && self.room.lowest() != Some(at_chunk) {
            self.chunks[at_chunk] = None;
        }
        entry
    }

    fn add_chunk(&mut self) -> usize {
        let chunk = self.chunks.len();
        assert!(chunk < SLOTS_MAX as usize / CHUNK_ENTRIES, "more than 4 billion entries");
        self.chunks.push(None);
        self.room.insert(chunk);
        chunk
    }
}

impl<T: Default> Chunk<T> {
    fn empty() -> Box<Chunk<T>> {
        Box::new(Chunk { taken: Taken::default(), entries: std::array::from_fn(|_| T::default()) })
    }
}

fn split(slot: u32) -> (usize, usize) {
    (slot as usize / CHUNK_ENTRIES, slot as usize % CHUNK_ENTRIES)
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
        assert_eq!(slab.chunks.iter().filter(|c| c.is_some()).count(), 1);
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
