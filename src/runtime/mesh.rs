//! Bounded queues between two cores: a ring of byte records (requests on their way to the pipeline) and a ring of plain
//! values (answers on their way back), one writer and one reader each, and the flag by which a sleeping core asks to be woken.
//! Both rings write many entries and publish them with one store. Records stand in the ring at 8-aligned offsets:
//!
//! ```text
//! len u32 | payload | up to 8      WRAP u32: the rest up to the end is unused      LARGE u32: the next one of the side queue
//! ```
//! Refuses to grow and to block: what does not fit stays with the writer.

use super::atomic::{AtomicU32, AtomicU64, Ordering, Padded, UnsafeCell};
use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex};

/// Instead of a length: continue at the start of the ring.
const WRAP: u32 = u32::MAX;
/// Instead of a length: the record was too large for the ring and waits in the side queue.
const LARGE: u32 = u32::MAX - 1;
/// The length in front of a record, and the alignment of records.
const LEN_BYTES: usize = 4;
const ALIGN: usize = 8;
/// Bytes of the side queue beyond which a writer has to wait: a few of the largest requests.
const LARGE_BYTES_MAX: usize = 64 << 20;

// ---- sleeping

/// Whether a core sleeps. The reader calls `announce`, looks once more for news, and only then waits; the writer publishes,
/// then calls `claim`. Every access is a swap, so they stand in one order and each sees what came before the last:
/// either the announcing reader sees what was published, or the publishing writer sees the announcement.
pub struct Sleep(Padded<AtomicU32>);

impl Default for Sleep {
    fn default() -> Sleep {
        Sleep(Padded(AtomicU32::new(0)))
    }
}

impl Sleep {
    /// The reader is about to sleep; it has to look for news once more after this.
    pub fn announce(&self) {
        self.0.0.swap(1, Ordering::AcqRel);
    }

    /// The reader is awake again.
    pub fn awake(&self) {
        self.0.0.swap(0, Ordering::AcqRel);
    }

    /// The writer has published. True: the reader sleeps and this writer has to wake it; nobody else will.
    pub fn claim(&self) -> bool {
        self.0.0.swap(0, Ordering::AcqRel) == 1
    }
}

// ---- bytes

/// The memory of a byte ring, in words so that records are aligned and the model checker sees what is touched.
struct Words(Box<[UnsafeCell<u64>]>);

impl Words {
    fn new(bytes: usize) -> Words {
        Words((0..bytes / 8).map(|_| UnsafeCell::new(0)).collect())
    }

    /// Copies `bytes` to offset `at`.
    ///
    /// # Safety
    /// The range is inside, and nobody else reads or writes it meanwhile.
    #[cfg(not(feature = "loom"))]
    unsafe fn write(&self, at: usize, bytes: &[u8]) {
        debug_assert!(at + bytes.len() <= self.0.len() * 8);
        let base = UnsafeCell::raw_get(self.0.as_ptr()).cast::<u8>();
        // SAFETY: the range is inside the allocation that `base` was derived from; exclusive by the caller's promise.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), base.add(at), bytes.len()) }
    }

    /// Lends `len` bytes at offset `at`.
    ///
    /// # Safety
    /// The range is inside, and nobody writes it meanwhile.
    #[cfg(not(feature = "loom"))]
    unsafe fn with<R>(&self, at: usize, len: usize, f: impl FnOnce(&[u8]) -> R) -> R {
        debug_assert!(at + len <= self.0.len() * 8);
        let base = UnsafeCell::raw_get(self.0.as_ptr()).cast::<u8>();
        // SAFETY: inside the allocation and initialised; not written meanwhile by the caller's promise.
        f(unsafe { std::slice::from_raw_parts(base.add(at), len) })
    }

    #[cfg(feature = "loom")]
    unsafe fn write(&self, at: usize, bytes: &[u8]) {
        for (i, byte) in bytes.iter().enumerate() {
            // SAFETY: one byte of a word that the cell lends.
            self.0[(at + i) / 8].with_mut(|word| unsafe { *word.cast::<u8>().add((at + i) % 8) = *byte });
        }
    }

    #[cfg(feature = "loom")]
    unsafe fn with<R>(&self, at: usize, len: usize, f: impl FnOnce(&[u8]) -> R) -> R {
        // SAFETY: one byte of a word that the cell lends.
        let byte = |i: usize| self.0[i / 8].with(|word| unsafe { *word.cast::<u8>().add(i % 8) });
        f(&(at..at + len).map(byte).collect::<Vec<u8>>())
    }
}

/// Positions count bytes since the start and never wrap: 2^64 bytes are centuries.
struct ByteRing {
    words: Words,
    capacity: usize,
    written: Padded<AtomicU64>,
    read: Padded<AtomicU64>,
    large: Mutex<Large>,
}

#[derive(Default)]
struct Large {
    records: VecDeque<Box<[u8]>>,
    bytes: usize,
}

// SAFETY: a byte is written only by the one producer while it lies outside read..written, and read only by the one consumer
// while inside; the Release stores and Acquire loads of the two positions order the accesses.
unsafe impl Send for ByteRing {}
// SAFETY: as above.
unsafe impl Sync for ByteRing {}

/// The writing end of a byte ring.
pub struct ByteProducer {
    ring: Arc<ByteRing>,
    written: u64,
    read_seen: u64,
}

/// The reading end of a byte ring.
pub struct ByteConsumer {
    ring: Arc<ByteRing>,
    read: u64,
}

/// A ring of `capacity` bytes, a power of two of at least 64.
pub fn byte_ring(capacity: usize) -> (ByteProducer, ByteConsumer) {
    assert!(capacity.is_power_of_two() && capacity >= 64, "a ring's capacity is a power of two");
    let ring = Arc::new(ByteRing {
        words: Words::new(capacity),
        capacity,
        written: Padded(AtomicU64::new(0)),
        read: Padded(AtomicU64::new(0)),
        large: Mutex::default(),
    });
    (ByteProducer { ring: ring.clone(), written: 0, read_seen: 0 }, ByteConsumer { ring, read: 0 })
}

fn footprint(len: usize) -> usize {
    (LEN_BYTES + len).next_multiple_of(ALIGN)
}

impl ByteProducer {
    /// Moves whole records (each behind its length, u32 little endian) from the front of `records` into the ring, as many as
    /// fit, and publishes them together. Returns how many; the rest stays in `records`.
    pub fn push_all(&mut self, records: &mut Vec<u8>) -> usize {
        let (mut used, mut count) = (0, 0);
        while used < records.len() {
            let (len, rest) = records[used..].split_first_chunk::<LEN_BYTES>().expect("whole records");
            let record = &rest[..u32::from_le_bytes(*len) as usize];
            if !self.push(record) {
                break;
            }
            used += LEN_BYTES + record.len();
            count += 1;
        }
        if count > 0 {
            self.ring.written.0.store(self.written, Ordering::Release);
            records.drain(..used);
        }
        count
    }

    /// Writes one record without publishing it. False if there is no room.
    fn push(&mut self, record: &[u8]) -> bool {
        if record.len() > self.ring.capacity / 4 {
            return self.push_large(record);
        }
        let Some(at) = self.reserve(footprint(record.len())) else { return false };
        // SAFETY: `reserve` returned a range inside the ring that the consumer has left and does not see before `written` moves.
        unsafe {
            self.ring.words.write(at, &(record.len() as u32).to_le_bytes());
            self.ring.words.write(at + LEN_BYTES, record);
        }
        true
    }

    /// A record that would fill the ring on its own travels beside it, and a mark keeps its place.
    fn push_large(&mut self, record: &[u8]) -> bool {
        if self.ring.large.lock().expect("no panic under this lock").bytes >= LARGE_BYTES_MAX {
            return false;
        }
        let Some(at) = self.reserve(footprint(0)) else { return false };
        // SAFETY: as in `push`.
        unsafe { self.ring.words.write(at, &LARGE.to_le_bytes()) };
        let mut large = self.ring.large.lock().expect("no panic under this lock");
        large.bytes += record.len();
        large.records.push_back(record.into());
        true
    }

    /// Room for `need` contiguous bytes: their offset, with a wrap mark left behind where needed.
    fn reserve(&mut self, need: usize) -> Option<usize> {
        let capacity = self.ring.capacity;
        let at = self.written as usize & (capacity - 1);
        let skip = if need > capacity - at { capacity - at } else { 0 };
        let end = self.written + (skip + need) as u64;
        if end - self.read_seen > capacity as u64 {
            self.read_seen = self.ring.read.0.load(Ordering::Acquire);
            if end - self.read_seen > capacity as u64 {
                return None;
            }
        }
        if skip > 0 {
            // SAFETY: offsets are 8-aligned, so at least 8 bytes are left before the end; the consumer has left them.
            unsafe { self.ring.words.write(at, &WRAP.to_le_bytes()) };
        }
        self.written = end;
        Some((at + skip) & (capacity - 1))
    }
}

impl ByteConsumer {
    /// Whether something is published that was not read yet.
    pub fn has_news(&self) -> bool {
        self.ring.written.0.load(Ordering::Acquire) != self.read
    }

    /// Hands up to `max` records to `f`, in order, until it returns false (that record counts as read). Returns how many.
    pub fn drain(&mut self, max: usize, mut f: impl FnMut(&[u8]) -> bool) -> usize {
        let written = self.ring.written.0.load(Ordering::Acquire);
        let start = self.read;
        let (mut count, mut go) = (0, true);
        while go && count < max && self.read != written {
            if let Some(more) = self.read_one(&mut f) {
                count += 1;
                go = more;
            }
        }
        if self.read != start {
            self.ring.read.0.store(self.read, Ordering::Release);
        }
        count
    }

    /// Reads one record, or passes a wrap mark (None).
    fn read_one(&mut self, f: &mut impl FnMut(&[u8]) -> bool) -> Option<bool> {
        let at = self.read as usize & (self.ring.capacity - 1);
        // SAFETY: `at` lies before the `written` that was loaded with Acquire, and the producer keeps off until `read` moves.
        let len = unsafe { self.ring.words.with(at, LEN_BYTES, |b| u32::from_le_bytes(b.try_into().expect("four bytes"))) };
        match len {
            WRAP => {
                self.read += (self.ring.capacity - at) as u64;
                None
            }
            LARGE => {
                self.read += footprint(0) as u64;
                Some(f(&self.take_large()))
            }
            len => {
                self.read += footprint(len as usize) as u64;
                // SAFETY: as above; the whole record was published together with its length.
                Some(unsafe { self.ring.words.with(at + LEN_BYTES, len as usize, f) })
            }
        }
    }

    fn take_large(&self) -> Box<[u8]> {
        let mut large = self.ring.large.lock().expect("no panic under this lock");
        let record = large.records.pop_front().expect("a large record is queued before its mark is published");
        large.bytes -= record.len();
        record
    }
}

// ---- values

struct SlotRing<T> {
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    written: Padded<AtomicU64>,
    read: Padded<AtomicU64>,
}

// SAFETY: a slot is written only by the one producer while it lies outside read..written, and read only by the one consumer
// while inside; the positions' Release stores and Acquire loads order the accesses. Values move between threads, hence Send.
unsafe impl<T: Send> Send for SlotRing<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SlotRing<T> {}

/// The writing end of a ring of values.
pub struct SlotProducer<T> {
    ring: Arc<SlotRing<T>>,
    written: u64,
    read_seen: u64,
}

/// The reading end of a ring of values.
pub struct SlotConsumer<T> {
    ring: Arc<SlotRing<T>>,
    read: u64,
}

/// A ring of `slots` values, a power of two.
pub fn slot_ring<T: Copy + Send>(slots: usize) -> (SlotProducer<T>, SlotConsumer<T>) {
    assert!(slots.is_power_of_two(), "a ring's capacity is a power of two");
    let ring = Arc::new(SlotRing {
        slots: (0..slots).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
        written: Padded(AtomicU64::new(0)),
        read: Padded(AtomicU64::new(0)),
    });
    (SlotProducer { ring: ring.clone(), written: 0, read_seen: 0 }, SlotConsumer { ring, read: 0 })
}

/// Runs `f` on the slot's memory, whichever kind of cell it is.
fn with_slot<T, R>(slot: &UnsafeCell<MaybeUninit<T>>, f: impl FnOnce(*mut MaybeUninit<T>) -> R) -> R {
    #[cfg(not(feature = "loom"))]
    return f(slot.get());
    #[cfg(feature = "loom")]
    return slot.with_mut(f);
}

impl<T: Copy + Send> SlotProducer<T> {
    /// Writes a value without publishing it; gives it back if the ring is full.
    pub fn push(&mut self, value: T) -> Result<(), T> {
        let slots = self.ring.slots.len() as u64;
        if self.written - self.read_seen == slots {
            self.read_seen = self.ring.read.0.load(Ordering::Acquire);
            if self.written - self.read_seen == slots {
                return Err(value);
            }
        }
        let slot = &self.ring.slots[(self.written & (slots - 1)) as usize];
        // SAFETY: the slot lies outside read..written, so only this producer touches it.
        with_slot(slot, |memory| unsafe { memory.write(MaybeUninit::new(value)) });
        self.written += 1;
        Ok(())
    }

    /// Makes everything pushed so far visible to the consumer.
    pub fn publish(&mut self) {
        self.ring.written.0.store(self.written, Ordering::Release);
    }
}

impl<T: Copy + Send> SlotConsumer<T> {
    /// Whether something is published that was not read yet.
    pub fn has_news(&self) -> bool {
        self.ring.written.0.load(Ordering::Acquire) != self.read
    }

    /// Hands everything published to `f`, in order.
    pub fn drain(&mut self, mut f: impl FnMut(T)) {
        let written = self.ring.written.0.load(Ordering::Acquire);
        if written == self.read {
            return;
        }
        let mask = self.ring.slots.len() as u64 - 1;
        while self.read != written {
            let slot = &self.ring.slots[(self.read & mask) as usize];
            // SAFETY: the slot lies before the `written` that was loaded with Acquire: it holds a value, and the producer keeps off.
            f(with_slot(slot, |memory| unsafe { (*memory).assume_init() }));
            self.read += 1;
        }
        self.ring.read.0.store(self.read, Ordering::Release);
    }
}

#[cfg(test)]
#[path = "mesh_tests.rs"]
mod tests;
