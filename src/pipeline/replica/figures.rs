//! What a shard counts for operators, and how counting starts again.
//! Refuses to decide anything by these numbers, but for the one of requests in progress.

use super::super::conn::{Conn, ConnFigures};
use super::super::latency::Latency;
use super::Replica;

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
}

impl Replica {
    pub fn figures(&self) -> ShardFigures {
        self.figures
    }

    /// Forgets latencies and counters (`srst`).
    pub fn reset_figures(&mut self) {
        self.figures = ShardFigures { connections: self.figures.connections, outstanding: self.figures.outstanding, ..Default::default() };
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
