//! Sessions as every replica sees them: who they belong to and which ephemeral nodes they own.
//! Refuses to know deadlines: silence is judged by the pipeline, never by a replica.

use crate::wire::txn::{ArchivedOrigin, Origin};
use std::collections::BTreeSet;

/// One session.
#[derive(Clone, Debug)]
pub struct Session {
    /// The negotiated timeout.
    pub timeout_ms: i32,
    /// Random bytes that a client must show to take the session over.
    pub password: [u8; 16],
    /// The connection that created the session or attached to it last.
    pub owner: Origin,
    /// Slots of its ephemeral nodes.
    pub(super) ephemerals: BTreeSet<u32>,
}

impl Session {
    /// How many ephemeral nodes it owns.
    pub fn ephemeral_count(&self) -> usize {
        self.ephemerals.len()
    }
}

pub(super) fn native(origin: &ArchivedOrigin) -> Origin {
    Origin {
        conn: origin.conn.to_native(),
        sequence: origin.sequence.to_native(),
        boot: origin.boot.to_native(),
        server: origin.server.to_native(),
        shard: origin.shard.to_native(),
    }
}
