//! The loops: one ring per core, who runs what, and everything that touches the world. Sockets, files, threads, clocks and
//! glommio are used only here. Executes what the brains say. Refuses to decide anything about data or protocol.
//!
//! ```text
//! start ──> core_thread (one per core, pinned) ──> core_loop ──┬── shard: sockets <──> Replica
//!                                                              └── pipeline, on one core: Node, Journal, log writes
//! between cores: mesh (requests up, answers down) and commit_ring (transactions, to everybody)
//! to other servers: links (threads that dial, listen and check who is there) ──> peers, on the pipeline's core
//! beside them: background (files that take long), questions (four-letter words), signals
//! ```

mod atomic;
mod background;
pub mod commit_ring;
mod core;
mod core_loop;
mod core_thread;
pub mod files;
mod install;
pub mod links;
mod listener;
pub mod mesh;
pub mod peers;
mod pipeline;
mod placement;
mod probe;
mod questions;
mod report;
pub mod ring;
mod shard;
mod sockets;
mod start;
mod sys;

pub use probe::{ProbeError, probe};
pub use start::{StartError, serve};
pub use sys::{Bell, Limit, die_with_parent, locked_memory, open_files, raise_open_files, terminate};
