//! What a shard counts for operators, and how counting starts again.
//! Refuses to decide anything by these numbers, but for the one of requests in progress.

use super::super::conn::{Conn, ConnFigures};
use super::super::latency::Latency;
use super::Replica;
use crate::wire::response::code;

/// Figures of a shard, for the admin plane.
#[derive(Clone, Copy, Default, Debug)]
pub struct ShardFigures {
    pub connections: u64,
    pub received: u64,
    pub sent: u64,
    pub outstanding: u64,
    pub latency: Latency,
    /// Bytes of all frames, lengths included.
    pub bytes_received: u64,
    pub connection_requests: u64,
    pub connections_rejected: u64,
    pub auth_failures: u64,
    /// Connections that did not shake hands in time.
    pub sessionless_expired: u64,
    pub watch_bytes: u64,
    /// Bytes of all connections' input that wait, and of their output and requests that wait.
    pub unparsed_bytes: u64,
    pub queued_bytes: u64,
    /// Times that a connection was not read on because it had met a limit.
    pub receive_pauses: u64,
    /// Connections closed because their request was beyond the largest frame.
    pub large_requests_rejected: u64,
    /// Connections closed because all had too many bytes of unfinished requests.
    pub partial_requests_closed: u64,
    /// Connections closed because they did not read their watch events.
    pub watchers_closed: u64,
    /// Handshakes closed because there were too many sessions.
    pub sessions_refused: u64,
    /// Requests refused because there were too many watches.
    pub watches_refused: u64,
    pub writes_refused: WritesRefused,
}

/// Writes of this shard's clients that failed with a code that limits give too.
#[derive(Clone, Copy, Default, Debug)]
pub struct WritesRefused {
    /// Among others: what would take room on a full disk, sequential creates when the numbers have run out.
    pub system_error: u64,
    /// Among others: multis beyond the largest transaction.
    pub bad_arguments: u64,
    /// Among others: lists beyond `acl_entries_max` and `acl_bytes_max`.
    pub invalid_acl: u64,
    pub quota_exceeded: u64,
}

impl WritesRefused {
    pub(super) fn count(&mut self, refused: i32) {
        match refused {
            code::SYSTEM_ERROR => self.system_error += 1,
            code::BAD_ARGUMENTS => self.bad_arguments += 1,
            code::INVALID_ACL => self.invalid_acl += 1,
            code::QUOTA_EXCEEDED => self.quota_exceeded += 1,
            _ => {}
        }
    }
}

impl Replica {
    pub fn figures(&self) -> ShardFigures {
        self.figures
    }

    /// Forgets latencies and counters (`srst`).
    pub fn reset_figures(&mut self) {
        let ShardFigures { connections, outstanding, unparsed_bytes, queued_bytes, .. } = self.figures;
        self.figures = ShardFigures { connections, outstanding, unparsed_bytes, queued_bytes, ..Default::default() };
    }

    /// Forgets what each connection's figures say (`crst`).
    pub fn reset_conn_figures(&mut self) {
        self.conns.iter_mut().flatten().for_each(|conn| conn.figures = ConnFigures::default());
    }

    pub(super) fn answered(&mut self, conn: &mut Conn, xid: i32, op: i32, at_ms: u64) {
        let latency_ms = conn.answered(xid, op, self.state.applied(), at_ms, self.now_ms);
        self.figures.sent += 1;
        self.figures.latency.record(latency_ms);
    }
}
