//! The commit ring: the only way in which committed batches reach the cores. One writer (the pipeline core), one reader per
//! shard, one `published` index: a batch is there for everybody with one store, and every core reads the same bytes in place.
//! Each reader's cursor says what it has applied; a batch that all cursors have passed is given back for reuse.
//! Refuses to drop, copy or reorder batches, and to overwrite one that a shard has not passed: when it is full, publishing fails.

use super::atomic::{AtomicU64, Ordering, Padded, UnsafeCell};
use std::sync::Arc;

struct Shared<T> {
    slots: Box<[UnsafeCell<Option<Arc<T>>>]>,
    published: Padded<AtomicU64>,
    cursors: Box<[Padded<AtomicU64>]>,
}

// SAFETY: a slot is written only by the one producer, either at or beyond `published`, or below all cursors; readers look
// only between their cursor and `published`. Release stores and Acquire loads of both order the accesses. The batches are
// read from several threads and dropped on one of them, hence Send + Sync.
unsafe impl<T: Send + Sync> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

/// The writing end, on the pipeline core.
pub struct CommitProducer<T> {
    shared: Arc<Shared<T>>,
    published: u64,
    reclaimed: u64,
}

/// One shard's reading end.
pub struct CommitReader<T> {
    shared: Arc<Shared<T>>,
    shard: usize,
    cursor: u64,
}

/// A ring of `slots` batches (a power of two) with one reader for each of `shards`, which is at least 1.
pub fn commit_ring<T: Send + Sync>(slots: usize, shards: usize) -> (CommitProducer<T>, Vec<CommitReader<T>>) {
    assert!(slots.is_power_of_two() && shards > 0, "a commit ring has 2^n slots and at least one reader");
    let shared = Arc::new(Shared {
        slots: (0..slots).map(|_| UnsafeCell::new(None)).collect(),
        published: Padded(AtomicU64::new(0)),
        cursors: (0..shards).map(|_| Padded(AtomicU64::new(0))).collect(),
    });
    let readers = (0..shards).map(|shard| CommitReader { shared: shared.clone(), shard, cursor: 0 }).collect();
    (CommitProducer { shared, published: 0, reclaimed: 0 }, readers)
}

/// Exclusive access to a slot, whichever kind of cell it is.
fn with_mut<T, R>(slot: &UnsafeCell<Option<Arc<T>>>, f: impl FnOnce(*mut Option<Arc<T>>) -> R) -> R {
    #[cfg(not(feature = "loom"))]
    return f(slot.get());
    #[cfg(feature = "loom")]
    return slot.with_mut(f);
}

/// Shared access to a slot, whichever kind of cell it is.
fn with<T, R>(slot: &UnsafeCell<Option<Arc<T>>>, f: impl FnOnce(*const Option<Arc<T>>) -> R) -> R {
    #[cfg(not(feature = "loom"))]
    return f(slot.get());
    #[cfg(feature = "loom")]
    return slot.with(f);
}

impl<T: Send + Sync> CommitProducer<T> {
    fn slot(&self, index: u64) -> &UnsafeCell<Option<Arc<T>>> {
        &self.shared.slots[(index & (self.shared.slots.len() as u64 - 1)) as usize]
    }

    /// Makes the batch visible to every shard. Gives it back when the slowest shard is a whole ring behind (`reclaim` makes
    /// room): the caller keeps it, in order, and stops admitting.
    pub fn publish(&mut self, batch: Arc<T>) -> Result<(), Arc<T>> {
        if self.published - self.reclaimed == self.shared.slots.len() as u64 {
            return Err(batch);
        }
        // SAFETY: the slot is at `published`, which no reader passes, and was emptied by `reclaim`.
        with_mut(self.slot(self.published), |slot| unsafe { *slot = Some(batch) });
        self.published += 1;
        self.shared.published.0.store(self.published, Ordering::Release);
        Ok(())
    }

    /// Hands out, oldest first, the batches that every shard has passed.
    pub fn reclaim(&mut self, mut f: impl FnMut(Arc<T>)) {
        let passed = self.shared.cursors.iter().map(|c| c.0.load(Ordering::Acquire)).min().expect("at least one reader");
        while self.reclaimed < passed {
            // SAFETY: every reader's cursor is beyond this slot, and the Acquire loads order their reads before this.
            let batch = with_mut(self.slot(self.reclaimed), |slot| unsafe { (*slot).take() });
            self.reclaimed += 1;
            f(batch.expect("a published slot holds a batch"));
        }
    }

    /// How many published batches the shard has not applied yet.
    pub fn behind(&self, shard: usize) -> u64 {
        self.published - self.shared.cursors[shard].0.load(Ordering::Relaxed)
    }

    /// Batches in the ring that were not reclaimed.
    pub fn held(&self) -> u64 {
        self.published - self.reclaimed
    }
}

impl<T: Send + Sync> CommitReader<T> {
    /// Whether batches are published that this shard has not passed.
    pub fn has_news(&self) -> bool {
        self.published() != self.cursor
    }

    /// How far the ring is published. Everything that was sent to this core before is visible after this.
    pub fn published(&self) -> u64 {
        self.shared.published.0.load(Ordering::Acquire)
    }

    /// Hands every batch before `published`, an earlier answer of [`CommitReader::published`], to `f`, in order, and moves
    /// the cursor. Returns how many.
    pub fn drain(&mut self, published: u64, mut f: impl FnMut(&Arc<T>)) -> u64 {
        let count = published - self.cursor;
        let mask = self.shared.slots.len() as u64 - 1;
        while self.cursor < published {
            let slot = &self.shared.slots[(self.cursor & mask) as usize];
            // SAFETY: the slot lies between cursor and published: the producer wrote it before the Release store that the
            // Acquire load saw, and takes it out only when this cursor has passed.
            with(slot, |batch| f(unsafe { (*batch).as_ref() }.expect("a published slot holds a batch")));
            self.cursor += 1;
            self.shared.cursors[self.shard].0.store(self.cursor, Ordering::Release);
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain_all<T: Send + Sync>(reader: &mut CommitReader<T>, f: impl FnMut(&Arc<T>)) -> u64 {
        let published = reader.published();
        reader.drain(published, f)
    }

    #[cfg(not(feature = "loom"))]
    #[test]
    fn a_full_ring_refuses_and_the_slowest_reader_makes_room() {
        let (mut producer, mut readers) = commit_ring::<u64>(4, 2);
        for i in 0..4 {
            producer.publish(Arc::new(i)).unwrap();
        }
        assert_eq!(*producer.publish(Arc::new(4)).unwrap_err(), 4);
        assert_eq!(drain_all(&mut readers[0], |_| ()), 4);
        producer.reclaim(|_| panic!("one reader has not moved"));
        assert_eq!((producer.behind(0), producer.behind(1), producer.held()), (0, 4, 4));
        let mut expected = 0;
        drain_all(&mut readers[1], |batch| {
            assert_eq!(**batch, expected);
            expected += 1;
        });
        let mut back = Vec::new();
        producer.reclaim(|batch| back.push(Arc::try_unwrap(batch).expect("nobody else holds it")));
        assert_eq!(back, [0, 1, 2, 3]);
        producer.publish(Arc::new(4)).unwrap();
        assert!(readers[0].has_news());
    }

    #[cfg(not(feature = "loom"))]
    #[test]
    fn three_threads_see_every_batch_in_order() {
        const COUNT: u64 = 300_000;
        let (mut producer, readers) = commit_ring::<u64>(64, 3);
        let threads: Vec<_> = readers
            .into_iter()
            .map(|mut reader| {
                std::thread::spawn(move || {
                    let mut expected = 0;
                    while expected < COUNT {
                        let drained = drain_all(&mut reader, |batch| {
                            assert_eq!(**batch, expected);
                            expected += 1;
                        });
                        if drained == 0 {
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut back = 0;
        let mut count = |batch: Arc<u64>| {
            assert_eq!(Arc::try_unwrap(batch), Ok(back));
            back += 1;
        };
        for i in 0..COUNT {
            let mut batch = Arc::new(i);
            while let Err(same) = producer.publish(batch) {
                batch = same;
                std::thread::yield_now();
                producer.reclaim(&mut count);
            }
        }
        threads.into_iter().for_each(|t| t.join().unwrap());
        producer.reclaim(&mut count);
        assert_eq!(back, COUNT);
    }

    /// Two readers of different speed, a ring of one slot less than batches: publishing, refusing and reclaiming interleave.
    #[cfg(feature = "loom")]
    #[test]
    fn loom_commit_ring() {
        loom::model(|| {
            let (mut producer, readers) = commit_ring::<u64>(1, 2);
            let threads: Vec<_> = readers
                .into_iter()
                .zip([1, 2])
                .map(|(mut reader, drains)| {
                    loom::thread::spawn(move || {
                        let mut expected = 0;
                        for _ in 0..drains {
                            drain_all(&mut reader, |batch| {
                                assert_eq!(**batch, expected);
                                expected += 1;
                            });
                        }
                    })
                })
                .collect();
            producer.publish(Arc::new(0)).unwrap();
            producer.reclaim(|batch| assert_eq!(Arc::try_unwrap(batch), Ok(0)));
            if producer.publish(Arc::new(1)).is_err() {
                assert_eq!(producer.held(), 1);
            }
            threads.into_iter().for_each(|t| t.join().unwrap());
        });
    }
}
