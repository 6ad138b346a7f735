//! Falconer: a coordination server that speaks the ZooKeeper client protocol. The library behind the
//! binaries: brains (plain deterministic code that decides) and loops (thin glue that moves bytes).
//!
//! ```text
//! client ── socket ──> shard (one per core): Conn: frame -> request ── read ──> this core's Replica -> reply
//!                         │ write: Submit, byte ring, raw jute                      ^
//!                         v                                                         │ commit ring: one `published`
//! pipeline core: Node: prepare (checks -> Txn, zxid) -> batch ──> Journal (one O_DSYNC write) -> publish
//! ```
//!
//! Modules in reading order; arrows only point down (`tests/tidy.rs` holds the table).
//! `limits` uses nothing. `wire`, `tree`, `watch`, `log` are nouns: data and formats. `peer` is what a link
//! between servers carries and whom it trusts. `pipeline` is the path of a
//! request. `config`, `admin`, `client`, `cli`, `runtime` and `sim` are shells.

pub mod limits;

pub mod marks;

pub mod wire;

pub mod tree;
pub mod watch;

pub mod log;

pub mod peer;
pub mod zab;

pub mod pipeline;

pub mod admin;
pub mod cli;
pub mod client;
pub mod config;
pub mod runtime;
pub mod sim;
