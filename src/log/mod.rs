//! What is on disk, and the only code that decides about it. `docs/data-files.md` draws the bytes.
//!
//! ```text
//! superblock            who we are, what we promised, the snapshot that counts, how many segments there are
//! log.0000 .. log.NNNN  segments: fixed files, written in a circle; sequence numbers give their order
//! snapshot.<zxid>       the state at one batch end
//! ```
//! Who removes what: segments are never removed, they are reused once they lie wholly before the superblock's snapshot;
//! snapshots go when enough newer ones are complete; a snapshot that the superblock never named goes at the next start.
//! The log may be cut back to what a leader has, and may be replaced by a peer's snapshot; neither changes anything in place.
//!
//! The recovery rule. The log is followed from the newest good snapshot, frame by frame, by checksum, generation and hash
//! chain. Where no further frame follows, the log ends. That end is
//! - given, if the next segment goes on from there, whatever is behind;
//! - clean, if nothing but zeros or frames of an older generation are there;
//! - torn, if something else is there: the write that was in flight at a crash. It is cut: nobody was told of it;
//! - damage, if what should be there was durable: some frame of the same generation there or further on says so, even one
//!   that went astray, or the next segment continues from a later batch. Then a server without peers refuses to start.
//!
//! One write is in flight at a time, so at most one frame can be torn. `Journal` runs while the server does, `recovery` and
//! `load` before; `feed`, `outgoing` and `incoming` serve and are served by other servers, on another thread. Refuses to know what
//! transactions and snapshots mean.

pub mod disk;
pub mod feed;
mod follow;
mod format;
pub mod incoming;
mod job;
pub mod journal;
mod load;
pub mod loss;
pub mod outgoing;
pub mod recovery;
mod scan;
pub mod segment;
mod slots;
pub mod snapshot;
pub mod space;
pub mod superblock;

#[cfg(test)]
pub(crate) mod tests;

pub use job::Job;
pub use journal::{Effect, Failure, Frame, Journal, OpId};
pub use space::LogConfig;
pub use superblock::Promise;
