//! The connections of a shard: how they come and go, who borrows one, what they hold all together.
//! Refuses to look at requests.

use super::super::bounds::SQUEEZED_BYTES;
use super::super::conn::{Conn, Phase};
use super::super::message::{ConnId, Up};
use super::notices::Limit;
use super::{Action, Census, Replica};
use std::net::SocketAddr;

impl Replica {
    /// A new socket. None: too many connections; close it.
    pub fn accept(&mut self, peer: SocketAddr, census: Census, entropy: [u8; 16]) -> Option<ConnId> {
        if let Some(why) = self.refusal(peer, census) {
            self.figures.connections_rejected += 1;
            self.notice(Limit::Connections, peer, || format!("refused, {why}"));
            return None;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.generations.push(0);
            (self.conns.len() - 1) as u32
        });
        let id = ConnId::new(slot, self.generations[slot as usize]);
        self.conns[slot as usize] = Some(Box::new(Conn::new(id, peer, entropy, self.now_ms)));
        self.handshaking.push_back((self.now_ms + self.config.handshake_timeout_ms, id));
        self.figures.connections += 1;
        Some(id)
    }

    /// Why a new connection is too many, if it is.
    fn refusal(&self, peer: SocketAddr, census: Census) -> Option<String> {
        let config = &self.config;
        let exempt = config.loopback_exempt && peer.ip().to_canonical().is_loopback();
        let per_address = if exempt { 0 } else { config.connections_per_address_max };
        if per_address > 0 && census.from_address >= per_address {
            return Some(format!("too many connections from this address (maxClientCnxns {per_address})"));
        }
        let most = config.connections_max;
        (most > 0 && census.total >= most).then(|| format!("too many connections (maxCnxns {most})"))
    }

    /// The socket is gone.
    pub fn closed(&mut self, id: ConnId) {
        let Some(conn) = self.take(id) else { return };
        self.forget(&conn);
        self.figures.unparsed_bytes -= conn.unparsed() as u64;
        self.figures.queued_bytes -= conn.queued() as u64;
        self.generations[id.slot()] = self.generations[id.slot()].wrapping_add(1);
        self.free.push(id.slot() as u32);
        self.figures.connections -= 1;
    }

    /// A connection is of no use any more: its watches and its claim on the session go at once. That the session was heard
    /// of is still told.
    fn forget(&mut self, conn: &Conn) {
        if conn.touched {
            Up::Touch { session: conn.session }.encode(&mut self.submits);
        }
        if self.sessions.get(&conn.session) == Some(&conn.id) {
            self.sessions.remove(&conn.session);
        }
        self.watches.drop_conn(conn.id);
        self.figures.outstanding -= conn.pending.len() as u64;
    }

    pub(super) fn close(&mut self, conn: &mut Conn) {
        if conn.phase != Phase::Closing {
            self.forget(conn);
            conn.drop_requests();
            conn.phase = Phase::Closing;
            self.actions.push_back(Action::Close(conn.id));
        }
    }

    fn take(&mut self, id: ConnId) -> Option<Box<Conn>> {
        let slot = self.conns.get_mut(id.slot())?;
        if slot.as_ref()?.id == id { slot.take() } else { None }
    }

    pub(super) fn conn_mut(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(id.slot())?.as_deref_mut().filter(|conn| conn.id == id)
    }

    fn put(&mut self, conn: Box<Conn>) {
        let slot = conn.id.slot();
        debug_assert!(self.conns[slot].is_none());
        self.conns[slot] = Some(conn);
    }

    /// Runs `f` on a connection that is still there, and queues what it made it send.
    pub(super) fn with_conn(&mut self, id: ConnId, f: impl FnOnce(&mut Replica, &mut Conn)) {
        let Some(mut conn) = self.take(id) else { return };
        self.weigh(&conn, u64::wrapping_sub);
        f(self, &mut conn);
        self.weigh(&conn, u64::wrapping_add);
        self.queue_flush(&mut conn);
        self.put(conn);
    }

    /// Takes what the connection holds out of the sums while it is worked on, or in again.
    fn weigh(&mut self, conn: &Conn, change: fn(u64, u64) -> u64) {
        self.figures.unparsed_bytes = change(self.figures.unparsed_bytes, conn.unparsed() as u64);
        self.figures.queued_bytes = change(self.figures.queued_bytes, conn.queued() as u64);
    }

    fn queue_flush(&mut self, conn: &mut Conn) {
        if !conn.output.is_empty() && conn.in_flight == 0 && !conn.flush_queued {
            conn.flush_queued = true;
            self.actions.push_back(Action::Flush(conn.id));
        }
    }

    /// Takes the bytes to send, in order. Nothing more is given out for this connection until `sent`.
    pub fn take_output(&mut self, id: ConnId) -> Vec<u8> {
        let Some(conn) = self.conn_mut(id) else { return Vec::new() };
        conn.flush_queued = false;
        conn.event_bytes = 0;
        let output = std::mem::take(&mut conn.output);
        conn.in_flight = output.len();
        output
    }

    /// The bytes of `take_output` are with the kernel; their buffer comes back.
    pub fn sent(&mut self, id: ConnId, mut buffer: Vec<u8>) {
        if self.spare_outputs.len() < 64 && buffer.capacity() <= 256 << 10 {
            buffer.clear();
            self.spare_outputs.push(buffer);
        }
        self.with_conn(id, |replica, conn| {
            conn.in_flight = 0;
            replica.run(conn);
        });
    }

    /// A connection that is about to answer gets a buffer that another one has used before.
    pub(super) fn lend_output(&mut self, conn: &mut Conn) {
        if conn.output.capacity() == 0 {
            conn.output = self.spare_outputs.pop().unwrap_or_default();
        }
    }

    /// Long requests that do not come to their end have a budget in common: who adds to one beyond it has to go.
    pub(super) fn bound_unparsed(&mut self, conn: &mut Conn) {
        let all = self.figures.unparsed_bytes + conn.unparsed() as u64;
        let most = self.config.bounds.unparsed_bytes_max;
        if all > most as u64 && conn.unparsed() > SQUEEZED_BYTES && !conn.paused {
            self.figures.partial_requests_closed += 1;
            let own = conn.unparsed();
            self.notice(Limit::Unparsed, conn.peer, || {
                format!("has {own} bytes of an unfinished request, closed: all have {all}, beyond unparsed_bytes_max ({most})")
            });
            self.close(conn);
        }
    }
}
