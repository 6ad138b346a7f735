//! How much a client can make a shard hold, and what happens at each border. All of it is a setting; what is the same for
//! every server stands in `limits`, with the defaults of these.
//! Refuses to know connections: they ask.

use crate::limits;

/// The bounds of one shard. In bytes unless the name says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// One request of an open session; a longer one is refused and its connection closed.
    pub frame_bytes_max: usize,
    /// The same for setWatches and setWatches2, if that is more.
    pub set_watches_bytes_max: usize,
    /// Requests of one connection that wait for a transaction; it is not read on beyond them.
    pub requests_per_connection_max: usize,
    /// Their frames, as far as they are answered here; one more may be taken in below it.
    pub held_bytes_max: usize,
    /// Replies of one connection that it has not read; its requests are not executed beyond them.
    pub output_bytes_max: usize,
    /// Watch events of one connection that were not handed to its socket; it is closed beyond them.
    pub event_bytes_max: usize,
    /// The encoded identities of one connection; one more is refused and the connection closed.
    pub identities_bytes_max: usize,
    /// Input of all connections that is not a whole request yet. Beyond it, the connection that adds to a long one is closed.
    pub unparsed_bytes_max: usize,
    /// Output and held requests of all connections. Beyond it each connection has [`SQUEEZED_BYTES`] for its own.
    pub queued_bytes_max: usize,
    /// Watches of one connection; more are refused with SYSTEMERROR.
    pub watches_per_connection_max: usize,
    /// Watches of all connections; more are refused with SYSTEMERROR.
    pub watches_max: usize,
    /// Sessions of the whole server; a handshake for one more is closed without an answer. 0 for no limit.
    pub sessions_max: usize,
}

/// What each connection may have even when all of them together have too much.
pub const SQUEEZED_BYTES: usize = limits::INPUT_SLACK_BYTES;

impl Bounds {
    /// Output beyond which requests are not executed, when all connections together have `queued_bytes`.
    pub fn output_bytes(&self, queued_bytes: u64) -> usize {
        if queued_bytes > self.queued_bytes_max as u64 { SQUEEZED_BYTES.min(self.output_bytes_max) } else { self.output_bytes_max }
    }
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds {
            frame_bytes_max: limits::FRAME_BYTES_MAX,
            set_watches_bytes_max: limits::SET_WATCHES_BYTES_MAX,
            requests_per_connection_max: limits::PENDING_REQUESTS_MAX,
            held_bytes_max: limits::HELD_BYTES_MAX,
            output_bytes_max: limits::OUTPUT_BYTES_MAX,
            event_bytes_max: limits::EVENT_BYTES_MAX,
            identities_bytes_max: limits::IDENTITIES_BYTES_MAX,
            unparsed_bytes_max: limits::UNPARSED_BYTES_MAX,
            queued_bytes_max: limits::QUEUED_BYTES_MAX,
            watches_per_connection_max: limits::WATCHES_PER_CONNECTION_MAX,
            watches_max: limits::WATCHES_PER_SHARD_MAX,
            sessions_max: limits::SESSIONS_MAX,
        }
    }
}
