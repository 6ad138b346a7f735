//! Every bound of the server, with its unit in the name, asserted against the others at compile time.
//! A bound that a user may change is a default here and a key in `config`.
//! Uses nothing and computes nothing: it refuses to hold anything that is not a number.

/// One disk block: the unit of log writes, of padding and of alignment.
pub const BLOCK_BYTES: usize = 4096;

/// The largest client frame by default: ZooKeeper's `jute.maxbuffer`, 0xfffff.
pub const FRAME_BYTES_MAX: usize = 0xfffff;
/// The largest value that `jute.maxbuffer` may be set to.
pub const FRAME_BYTES_CEILING: usize = 8 << 20;
/// The largest frame before a session exists: a ConnectRequest is 45 bytes.
pub const HANDSHAKE_BYTES_MAX: usize = 4096;
/// A connection without a session is closed after this, as in ZooKeeper (`zookeeper.nio.sessionlessCnxnTimeout`).
pub const HANDSHAKE_TIMEOUT_MS: u64 = 10_000;
/// `setWatches` frames may be longer than other requests: the C client never splits them.
pub const SET_WATCHES_BYTES_MAX: usize = 16 << 20;

/// A batch up to this size, local header included, lives in a pooled buffer.
pub const BATCH_BYTES_POOLED: usize = 256 << 10;
/// The largest transaction, alone in a batch of its own.
pub const TXN_BYTES_MAX: usize = 12 << 20;
/// The most transactions in one batch.
pub const BATCH_TXNS_MAX: usize = 8192;
/// One log segment.
pub const SEGMENT_BYTES: usize = 64 << 20;

/// Requests of one connection that wait for a transaction, at most.
pub const PENDING_REQUESTS_MAX: usize = 1000;
/// Frames of one connection that wait for a transaction, in bytes; one more frame may be taken in below it.
pub const HELD_BYTES_MAX: usize = 256 << 10;
/// Unparsed input of one connection beyond one frame, at most.
pub const INPUT_SLACK_BYTES: usize = 64 << 10;
/// Unsent output of one connection beyond which its requests are not executed.
pub const OUTPUT_BYTES_MAX: usize = 4 << 20;
/// Proposed but not yet durable bytes beyond which no request is admitted.
pub const PROPOSED_BYTES_MAX: usize = 64 << 20;
/// Batches that a leader's own disk has not confirmed yet, beyond which it hands over leadership.
pub const DISK_LAG_BYTES_MAX: usize = 64 << 20;
/// Requests of one server that are on their way to the leader, beyond which its rings are left alone.
pub const FORWARDED_BYTES_MAX: usize = 8 << 20;
/// Requests that wait on a server for a leader, beyond which the rings are left alone.
pub const PARKED_BYTES_MAX: usize = 8 << 20;
/// Watch events for one connection that were not handed to its socket yet; it is closed beyond them.
pub const EVENT_BYTES_MAX: usize = 16 << 20;
/// The encoded identities of one connection (what `addauth` adds up to): they travel with every write.
pub const IDENTITIES_BYTES_MAX: usize = 64 << 10;
/// Different entries in one access control list.
pub const ACL_ENTRIES_MAX: usize = 1000;
/// An access control list as stored, when `auth` has become all identities.
pub const ACL_BYTES_MAX: usize = 1 << 20;
/// Operations in one multi, at most.
pub const MULTI_OPS_MAX: usize = 100_000;
/// Nodes that a recursive removal takes, at most; all removals of a multi together.
pub const REMOVE_NODES_MAX: usize = 100_000;
/// What one reply gathers from several nodes, at most: Stats and data of a list, results of a multiRead.
pub const GATHERED_BYTES_MAX: usize = 64 << 20;
/// Names in one page of children, encoded, at most: below the reply bound of every client by default.
pub const PAGE_BYTES_MAX: usize = 512 << 10;
/// Shards (client cores) of one server, at most.
pub const SHARDS_MAX: usize = 256;
/// Batches that are durable but not yet applied by the slowest shard, at most (slots of the commit ring).
pub const COMMIT_RING_SLOTS: usize = 4096;
/// Submits of one shard that its ring has not taken yet, beyond which it executes no request.
pub const SUBMITS_BYTES_MAX: usize = 1 << 20;
/// Watches of one shard, at most.
pub const WATCHES_PER_SHARD_MAX: usize = 10_000_000;
/// Watches of one connection, at most.
pub const WATCHES_PER_CONNECTION_MAX: usize = 1_000_000;
/// Input of all connections that is not a whole request yet, on the whole server.
pub const UNPARSED_BYTES_MAX: usize = 256 << 20;
/// Output and held requests of all connections, on the whole server, beyond which each has little of its own.
pub const QUEUED_BYTES_MAX: usize = 1 << 30;
/// Sessions of one server, at most.
pub const SESSIONS_MAX: usize = 1_000_000;
/// Bytes of the ring that carries requests from one shard to the pipeline.
pub const SUBMIT_RING_BYTES: usize = 4 << 20;
/// Messages in the ring from the pipeline to one shard.
pub const DOWN_RING_SLOTS: usize = 8192;
/// Bytes of a snapshot in one message between servers.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;
/// The largest message between servers: one batch and a few fields.
pub const PEER_FRAME_BYTES_MAX: usize = TXN_BYTES_MAX + BATCH_BYTES_POOLED + BLOCK_BYTES;
/// Batches that were sent to a peer and not acknowledged, beyond which it is fed from the log instead.
pub const PEER_WINDOW_BYTES: usize = 8 << 20;
/// Batches that a peer gets from the log in one go.
pub const FEED_BYTES: usize = 1 << 20;
/// Messages that are queued for one peer, beyond which its link is closed.
pub const PEER_QUEUE_BYTES_MAX: usize = 64 << 20;
/// What is read from a link in one go beyond what has a place already.
pub const PEER_READ_AHEAD_BYTES: usize = 16 << 10;
/// Handshakes of servers under way, at most.
pub const PEER_HANDSHAKES_MAX: usize = 64;
/// Of these from one address.
pub const PEER_HANDSHAKES_PER_ADDRESS_MAX: usize = 8;

const _: () = assert!(FRAME_BYTES_MAX < FRAME_BYTES_CEILING);
// A peer's window, one batch beyond it, what it is fed and what was forwarded to it fit its queue.
const _: () = assert!(PEER_WINDOW_BYTES + PEER_FRAME_BYTES_MAX + FEED_BYTES + PARKED_BYTES_MAX < PEER_QUEUE_BYTES_MAX);
const _: () = assert!(FRAME_BYTES_CEILING + ACL_BYTES_MAX + (1 << 20) < TXN_BYTES_MAX);
const _: () = assert!(TXN_BYTES_MAX + 2 * BLOCK_BYTES < SEGMENT_BYTES / 4);
const _: () = assert!(BATCH_BYTES_POOLED.is_multiple_of(BLOCK_BYTES) && SEGMENT_BYTES.is_multiple_of(BLOCK_BYTES));
const _: () = assert!(COMMIT_RING_SLOTS.is_power_of_two() && DOWN_RING_SLOTS.is_power_of_two() && SUBMIT_RING_BYTES.is_power_of_two());
