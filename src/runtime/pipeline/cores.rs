//! The pipeline and the cores: committed batches and answers go out to them, buffers come back. Those that have something
//! to say to a client are woken, the others come by themselves. Refuses to decide what is committed.

use super::Pipeline;
use crate::limits::{COMMIT_RING_SLOTS, SHARDS_MAX};
use crate::pipeline::message::Down;
use crate::runtime::core::{Core, Now};
use crate::runtime::mesh::SlotProducer;
use crate::runtime::ring::Ring;
use crate::wire::batch::Batch;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A core that sleeps behind the others is woken after this, so that buffers come back.
pub(super) const BEHIND_MS: u64 = 5;

/// Batches that every core has passed and that somebody still refers to: beyond this, the oldest are not waited for.
const RETIRED_MAX: usize = 64;

/// Answers that wait for room in a core's ring.
pub(super) struct Lane {
    ring: SlotProducer<Down>,
    pub waiting: VecDeque<Down>,
}

impl Lane {
    pub fn new(ring: SlotProducer<Down>) -> Lane {
        Lane { ring, waiting: VecDeque::new() }
    }
}

impl Pipeline {
    /// Publishes what there is room for. Answers go first: those that were given before a batch belong before its
    /// transactions, and a core that sees the batch must see them.
    pub(super) fn publish_waiting(&mut self, ring: &mut Ring) {
        self.hand_down(ring);
        while self.lanes.iter().all(|lane| lane.waiting.is_empty())
            && let Some(batch) = self.unpublished.pop_front()
        {
            if let Err(batch) = self.commits.publish(batch.clone()) {
                self.unpublished.push_front(batch);
                return;
            }
            self.wake_concerned(ring, &batch);
        }
    }

    // ---- other cores

    fn others(&self) -> impl Iterator<Item = (usize, &Core)> {
        self.server.cores.iter().enumerate().filter(|(core, _)| *core != self.server.pipeline)
    }

    /// Wakes cores that have a reply to give, or watches, or much to catch up with. The others come by themselves.
    fn wake_concerned(&self, ring: &mut Ring, batch: &Batch) {
        if self.server.cores.len() == 1 {
            return;
        }
        let mut origins = [false; SHARDS_MAX + 1];
        for txn in batch.txns() {
            if (txn.origin.boot.to_native(), txn.origin.server.to_native()) == self.identity {
                origins[usize::from(txn.origin.shard.to_native())] = true;
            }
        }
        for (index, core) in self.others() {
            let late = self.commits.behind(index) > COMMIT_RING_SLOTS as u64 / 2;
            if origins[index] || late || core.watching.load(Ordering::Relaxed) {
                core.wake(ring);
            }
        }
    }

    /// Wakes cores that have slept through commits for a while.
    pub(super) fn nudge(&mut self, ring: &mut Ring, now: Now) {
        if now.ms < self.nudge_ms {
            return;
        }
        self.nudge_ms = now.ms + BEHIND_MS;
        for (index, core) in self.others() {
            if self.commits.behind(index) > 0 {
                core.wake(ring);
            }
        }
    }

    /// Moves answers into the rings of their cores.
    pub(super) fn hand_down(&mut self, ring: &mut Ring) {
        for (core, lane) in self.lanes.iter_mut().enumerate() {
            if lane.waiting.is_empty() {
                continue;
            }
            while let Some(message) = lane.waiting.pop_front() {
                if let Err(message) = lane.ring.push(message) {
                    lane.waiting.push_front(message);
                    break;
                }
            }
            lane.ring.publish();
            if core != self.server.pipeline {
                self.server.cores[core].wake(ring);
            }
        }
    }

    /// Buffers of batches that every core has passed go back to the Node.
    pub(super) fn reclaim(&mut self) {
        let Pipeline { commits, retired, node, .. } = self;
        commits.reclaim(|batch| retired.push_back(batch));
        for _ in 0..retired.len() {
            match Arc::try_unwrap(retired.pop_front().expect("counted")) {
                Ok(batch) => node.recycle(batch),
                Err(batch) => retired.push_back(batch),
            }
        }
        // What a slow peer still waits for is freed when it has been sent; others do not wait for that.
        let late = retired.len().saturating_sub(RETIRED_MAX);
        retired.drain(..late);
    }
}
