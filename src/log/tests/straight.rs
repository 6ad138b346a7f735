//! A Journal all of whose wishes are granted at once, for stories that are told step by step.

use super::world::{FORMAT, batch_of, write};
use crate::log::{Effect, Journal, LogConfig, recovery};
use crate::sim::disk::SimDisk;
use crate::wire::batch::Position;

/// Runs everything that the Journal asks for at once.
pub fn run(disk: &SimDisk, journal: &mut Journal, act: impl FnOnce(&mut Journal, &mut Vec<Effect>)) {
    let mut effects = Vec::new();
    act(journal, &mut effects);
    while let Some(effect) = effects.pop() {
        match effect {
            Effect::Write { op, slot, offset, frame } => {
                write(disk, slot, offset, frame.bytes()).unwrap();
                journal.written(op, Ok(()), 0, &mut effects);
            }
            Effect::Background(job) => journal.background_done(job.run(disk), 0, &mut effects),
            Effect::Durable(_) | Effect::Promised(_) | Effect::Installed(_) => {}
            Effect::Fatal(failure) => panic!("{failure}"),
        }
    }
}

/// A log with `count` batches of `bytes`, in segments of `segment_bytes`.
pub fn log(disk: &SimDisk, segment_bytes: u64, config: LogConfig, count: u64, bytes: usize) -> (Journal, Vec<Position>) {
    recovery::format(disk, &recovery::Format { segment_bytes, ..FORMAT }).unwrap();
    let found = recovery::open(disk).unwrap();
    let mut journal = Journal::new(&found, config, 1);
    run(disk, &mut journal, |journal, out| journal.tick(0, out));
    let mut ends = vec![Position::default()];
    for zxid in 1..=count {
        let batch = batch_of(ends[ends.len() - 1], 1 << 32 | zxid, &[bytes]);
        ends.push(batch.position());
        run(disk, &mut journal, |journal, out| {
            journal.append(batch, out);
        });
    }
    (journal, ends)
}
