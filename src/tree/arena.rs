//! Small byte strings in size classes, addressed by a u32 handle: a znode's name and data cost their length rounded
//! up by at most an eighth, and neither a heap header nor a fat pointer. An emptied chunk goes back to the allocator.
//! Refuses strings longer than [`INLINE_BYTES_MAX`]: they get allocations of their own elsewhere.

use std::collections::BTreeSet;

/// The longest string kept here.
pub(super) const INLINE_BYTES_MAX: usize = 1024;

const CHUNK_BYTES: usize = 32 << 10;
/// Bits of a handle that number the place within its chunk: 2048 places of the smallest class.
const PLACE_BITS: u32 = 11;
const PLACE_MASK: u32 = (1 << PLACE_BITS) - 1;

/// Bytes per place: steps of 8 up to 128, 16 up to 256, 32 up to 512, 64 up to 1024.
const STRIDES: [u16; 39] = {
    let mut strides = [0u16; 39];
    let (mut i, mut stride) = (0, 16);
    while i < strides.len() {
        strides[i] = stride;
        stride += if stride < 128 {
            8
        } else if stride < 256 {
            16
        } else if stride < 512 {
            32
        } else {
            64
        };
        i += 1;
    }
    strides
};
const _: () = assert!(STRIDES[STRIDES.len() - 1] as usize == INLINE_BYTES_MAX);
const _: () = assert!(CHUNK_BYTES / STRIDES[0] as usize == 1 << PLACE_BITS);

/// The smallest class that holds `len` bytes.
fn class_of(len: usize) -> usize {
    debug_assert!(len <= INLINE_BYTES_MAX);
    match len {
        0..=16 => 0,
        17..=128 => (len - 9) / 8,
        129..=256 => 14 + (len - 113) / 16,
        257..=512 => 22 + (len - 225) / 32,
        _ => 30 + (len - 449) / 64,
    }
}

/// Which places of one chunk are taken.
struct Places {
    words: Box<[u64]>,
    free: u16,
}

impl Places {
    fn new(stride: usize) -> Places {
        let count = CHUNK_BYTES / stride;
        let mut words = vec![0; count.div_ceil(64)].into_boxed_slice();
        if !count.is_multiple_of(64) {
            words[count / 64] = u64::MAX << (count % 64); // places past the end are never free
        }
        Places { words, free: count as u16 }
    }

    fn take_lowest(&mut self) -> u32 {
        let word = self.words.iter().position(|w| *w != u64::MAX).expect("a chunk with room");
        let bit = self.words[word].trailing_ones();
        self.words[word] |= 1 << bit;
        self.free -= 1;
        word as u32 * 64 + bit
    }

    fn give_back(&mut self, place: u32) {
        let word = &mut self.words[place as usize / 64];
        assert!(*word >> (place % 64) & 1 == 1, "place {place} is in use");
        *word &= !(1 << (place % 64));
        self.free += 1;
    }
}

/// All small strings of one replica, up to 64 GiB.
pub(super) struct Arena {
    chunks: Vec<Option<Box<[u8; CHUNK_BYTES]>>>,
    /// Bytes per place of each chunk; kept apart because every read needs it.
    strides: Vec<u16>,
    places: Vec<Places>,
    /// Per class, chunks with a free place.
    room: Vec<BTreeSet<u32>>,
    /// Chunk numbers without memory, for any class.
    absent: BTreeSet<u32>,
}

impl Arena {
    pub(super) fn new() -> Arena {
        let room = vec![BTreeSet::new(); STRIDES.len()];
        Arena { chunks: Vec::new(), strides: Vec::new(), places: Vec::new(), room, absent: BTreeSet::new() }
    }

    /// A place for `len` bytes, with whatever was in it before.
    pub(super) fn alloc(&mut self, len: usize) -> u32 {
        let class = class_of(len);
        let chunk = match self.room[class].first() {
            Some(chunk) => *chunk,
            None => self.add_chunk(class),
        };
        let places = &mut self.places[chunk as usize];
        let place = places.take_lowest();
        if places.free == 0 {
            self.room[class].remove(&chunk);
        }
        chunk << PLACE_BITS | place
    }

    fn add_chunk(&mut self, class: usize) -> u32 {
        let chunk = self.absent.pop_first().unwrap_or(self.chunks.len() as u32);
        assert!(chunk < u32::MAX >> PLACE_BITS, "more than 64 GiB of small data");
        let stride = STRIDES[class];
        let memory = Some(vec![0; CHUNK_BYTES].try_into().expect("as many bytes as asked for"));
        let places = Places::new(stride as usize);
        if chunk as usize == self.chunks.len() {
            self.chunks.push(memory);
            self.strides.push(stride);
            self.places.push(places);
        } else {
            self.chunks[chunk as usize] = memory;
            self.strides[chunk as usize] = stride;
            self.places[chunk as usize] = places;
        }
        self.room[class].insert(chunk);
        chunk
    }

    pub(super) fn free(&mut self, handle: u32) {
        let chunk = handle >> PLACE_BITS;
        let stride = self.strides[chunk as usize] as usize;
        let class = class_of(stride);
        let places = &mut self.places[chunk as usize];
        places.give_back(handle & PLACE_MASK);
        let empty = places.free as usize == CHUNK_BYTES / stride;
        self.room[class].insert(chunk);
        // The only chunk with room keeps its memory, or a create and a delete in turn would allocate each time.
        if empty && self.room[class].len() > 1 {
            self.room[class].remove(&chunk);
            self.chunks[chunk as usize] = None;
            self.places[chunk as usize].words = Box::default();
            self.absent.insert(chunk);
        }
    }

    /// Bytes of the place, at least what was asked for.
    pub(super) fn capacity(&self, handle: u32) -> usize {
        self.strides[(handle >> PLACE_BITS) as usize] as usize
    }

    pub(super) fn get(&self, handle: u32) -> &[u8] {
        let (chunk, stride) = ((handle >> PLACE_BITS) as usize, self.capacity(handle));
        let start = (handle & PLACE_MASK) as usize * stride;
        &self.chunks[chunk].as_deref().expect("a place in use has memory")[start..start + stride]
    }

    pub(super) fn get_mut(&mut self, handle: u32) -> &mut [u8] {
        let (chunk, stride) = ((handle >> PLACE_BITS) as usize, self.capacity(handle));
        let start = (handle & PLACE_MASK) as usize * stride;
        &mut self.chunks[chunk].as_deref_mut().expect("a place in use has memory")[start..start + stride]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_gets_the_smallest_class() {
        for len in 0..=INLINE_BYTES_MAX {
            let class = class_of(len);
            assert!(STRIDES[class] as usize >= len, "{len}");
            assert!(class == 0 || (STRIDES[class - 1] as usize) < len, "{len}");
        }
    }

    #[test]
    fn strings_keep_apart_and_places_come_back() {
        let mut arena = Arena::new();
        let lens = |i: usize| i * 37 % (INLINE_BYTES_MAX + 1);
        let handles: Vec<u32> = (0..4000).map(|i| arena.alloc(lens(i))).collect();
        for (i, handle) in handles.iter().enumerate() {
            arena.get_mut(*handle)[..lens(i)].fill(i as u8);
        }
        for (i, handle) in handles.iter().enumerate() {
            assert!(arena.get(*handle)[..lens(i)].iter().all(|b| *b == i as u8));
        }
        handles.iter().for_each(|h| arena.free(*h));
        let kept = arena.chunks.iter().filter(|c| c.is_some()).count();
        assert!(kept <= STRIDES.len(), "{kept} chunks for nothing");
        assert_eq!(arena.alloc(lens(0)), handles[0]);
    }
}
