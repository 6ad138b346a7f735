//! The sockets of one shard: which receives are armed, what is being sent, and the order of closing.
//!
//! ```text
//! Open ── close ──> Flushing ── output gone ──> Draining ── the client has closed, or 1 s ──> gone
//!   └── the client closed, or an error ──> Broken ──────── last completion ──────────────────> gone
//! ```
//! Draining: our side is shut down for writing and what still arrives is thrown away, because closing a socket with unread
//! bytes resets the connection and may destroy the answer on its way. A descriptor is closed only after the last completion
//! of every operation on it. Refuses to look at the bytes.

use super::ring::{Ring, Token};
use crate::pipeline::message::ConnId;
use socket2::SockRef;
use std::collections::VecDeque;
use std::net::{IpAddr, Shutdown};
use std::os::fd::{AsRawFd, OwnedFd};

/// How long a connection may take to close after it was told to.
const CLOSE_MS: u64 = 1000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Open,
    Flushing,
    Draining,
    Broken,
}

struct Socket {
    fd: OwnedFd,
    conn: ConnId,
    address: IpAddr,
    phase: Phase,
    /// A receive is with the kernel.
    armed: bool,
    /// Whether one should be: false while the connection is paused.
    wanted: bool,
    /// A send is with the kernel.
    sending: bool,
    /// The client has sent everything it will.
    ended: bool,
    /// An answer to a four-letter word is due: the client may have closed its side and still wants it.
    asked: bool,
}

/// A socket that is gone: the connection to forget, and where it came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gone {
    pub conn: ConnId,
    pub address: IpAddr,
}

/// See the module heading. Indexed by the connection's slot.
#[derive(Default)]
pub struct Sockets {
    slots: Vec<Option<Socket>>,
    /// Receives that ended for want of buffers or by their own limit; armed again at the end of the turn.
    rearm: Vec<ConnId>,
    /// Clients that have closed their side in this turn.
    ended: Vec<ConnId>,
    /// Closing connections in the order of their deadline.
    deadlines: VecDeque<(u64, ConnId)>,
    gone: Vec<Gone>,
}

fn token(conn: ConnId) -> Token {
    Token { slot: conn.slot() as u32, generation: (conn.0 >> 32) as u32 }
}

impl Sockets {
    /// Takes the socket of a new connection and starts to receive.
    pub fn insert(&mut self, ring: &mut Ring, conn: ConnId, fd: OwnedFd, address: IpAddr) {
        let slot = conn.slot();
        if slot >= self.slots.len() {
            self.slots.resize_with(slot + 1, || None);
        }
        assert!(self.slots[slot].is_none(), "a slot is used again only after its socket is gone");
        ring.receive(fd.as_raw_fd(), token(conn));
        let phase = Phase::Open;
        let socket = Socket { fd, conn, address, phase, armed: true, wanted: true, sending: false, ended: false, asked: false };
        self.slots[slot] = Some(socket);
    }

    /// The socket an operation was for: it is there until its last completion.
    fn of(&mut self, of: Token) -> &mut Socket {
        let socket = self.slots[of.slot as usize].as_mut().expect("a socket outlives its operations");
        assert_eq!(token(socket.conn).generation & 0x0fff_ffff, of.generation, "a socket outlives its operations");
        socket
    }

    /// The socket of a connection, unless it is gone.
    fn get(&mut self, conn: ConnId) -> Option<&mut Socket> {
        self.slots.get_mut(conn.slot())?.as_mut().filter(|socket| socket.conn == conn)
    }

    // ---- completions

    /// Bytes have arrived. Some: they are for this connection. None: nobody wants them any more.
    pub fn received(&mut self, of: Token, more: bool) -> Option<ConnId> {
        let socket = self.of(of);
        socket.armed = more;
        let conn = socket.conn;
        let open = socket.phase == Phase::Open;
        if !more {
            self.rearm.push(conn);
        }
        open.then_some(conn)
    }

    /// A receive has ended with this errno, 0 at the end of the stream.
    pub fn receive_ended(&mut self, of: Token, errno: i32) {
        let socket = self.of(of);
        socket.armed = false;
        let conn = socket.conn;
        match errno {
            libc::ENOBUFS | libc::ECANCELED => self.rearm.push(conn),
            0 => {
                socket.ended = true;
                self.ended.push(conn);
            }
            _ => self.break_off(conn),
        }
        self.settle(conn);
    }

    /// A send has ended. True: go on with the connection's next output.
    pub fn sent(&mut self, of: Token, errno: i32) -> Option<ConnId> {
        let socket = self.of(of);
        socket.sending = false;
        let conn = socket.conn;
        if errno != 0 {
            self.break_off(conn);
        }
        self.settle(conn);
        self.get(conn).map(|socket| socket.conn)
    }

    // ---- commands

    /// Whether output of this connection can be handed to the kernel now.
    pub fn may_send(&mut self, conn: ConnId) -> bool {
        self.get(conn).is_some_and(|socket| !socket.sending && matches!(socket.phase, Phase::Open | Phase::Flushing))
    }

    /// Sends; `may_send` was true.
    pub fn send(&mut self, ring: &mut Ring, conn: ConnId, bytes: Vec<u8>) {
        let socket = self.get(conn).expect("the caller asked before");
        assert!(!socket.sending, "one send at a time");
        socket.sending = true;
        ring.send(socket.fd.as_raw_fd(), token(conn), bytes);
    }

    /// Stops receiving.
    pub fn pause(&mut self, ring: &mut Ring, conn: ConnId) {
        if let Some(socket) = self.get(conn)
            && std::mem::replace(&mut socket.wanted, false)
            && socket.armed
        {
            ring.cancel_receive(token(conn));
        }
    }

    /// Receives again.
    pub fn resume(&mut self, conn: ConnId) {
        if let Some(socket) = self.get(conn) {
            socket.wanted = true;
            self.rearm.push(conn);
        }
    }

    /// The connection waits for the answer to a four-letter word.
    pub fn asked(&mut self, conn: ConnId) {
        if let Some(socket) = self.get(conn) {
            socket.asked = true;
        }
    }

    /// Closes the connection once its output has gone.
    pub fn close(&mut self, conn: ConnId, now_ms: u64) {
        if let Some(socket) = self.get(conn)
            && socket.phase == Phase::Open
        {
            socket.phase = Phase::Flushing;
            self.deadlines.push_back((now_ms + CLOSE_MS, conn));
        }
    }

    /// Whether the connection closes as soon as it has nothing more to send.
    pub fn is_flushing(&mut self, conn: ConnId) -> bool {
        self.get(conn).is_some_and(|socket| socket.phase == Phase::Flushing && !socket.sending)
    }

    /// The last output of a closing connection has gone: tell the client, and wait for it to close too.
    pub fn flushed(&mut self, conn: ConnId) {
        let Some(socket) = self.get(conn) else { return };
        socket.phase = Phase::Draining;
        socket.wanted = true;
        // It fails only if the connection is gone, which its receive reports.
        let _ = SockRef::from(&socket.fd).shutdown(Shutdown::Write);
        if !socket.armed && !socket.ended {
            self.rearm.push(conn);
        }
        self.settle(conn);
    }

    /// Ends every operation on the socket. Their completions come with errors.
    fn break_off(&mut self, conn: ConnId) {
        let Some(socket) = self.get(conn) else { return };
        socket.phase = Phase::Broken;
        // It fails only if the connection is gone: then the operations end by themselves.
        let _ = SockRef::from(&socket.fd).shutdown(Shutdown::Both);
    }

    /// Closes the descriptor if nothing is left to wait for.
    fn settle(&mut self, conn: ConnId) {
        let Some(socket) = self.get(conn) else { return };
        let over = socket.phase == Phase::Broken || (socket.phase == Phase::Draining && socket.ended);
        if over && !socket.armed && !socket.sending {
            let address = socket.address;
            self.slots[conn.slot()] = None;
            self.gone.push(Gone { conn, address });
        }
    }

    // ---- once per turn

    /// After every request of the turn was executed and every receive buffer given back: lets go of clients that have
    /// closed their side, and arms what should be armed.
    pub fn settle_turn(&mut self, ring: &mut Ring) {
        for conn in std::mem::take(&mut self.ended) {
            if self.get(conn).is_some_and(|socket| socket.phase == Phase::Open && !socket.asked) {
                self.break_off(conn);
            }
            self.settle(conn);
        }
        for conn in std::mem::take(&mut self.rearm) {
            if let Some(socket) = self.get(conn)
                && socket.phase != Phase::Broken
                && socket.wanted
                && !socket.armed
                && !socket.ended
            {
                socket.armed = true;
                ring.receive(socket.fd.as_raw_fd(), token(conn));
            }
            self.settle(conn);
        }
    }

    /// Breaks off connections that should have closed by now.
    pub fn expire(&mut self, now_ms: u64) {
        while let Some((_, conn)) = self.deadlines.pop_front_if(|(deadline_ms, _)| *deadline_ms <= now_ms) {
            self.break_off(conn);
            self.settle(conn);
        }
    }

    /// Connections whose sockets are gone since the last call.
    pub fn take_gone(&mut self) -> Vec<Gone> {
        std::mem::take(&mut self.gone)
    }
}

#[cfg(test)]
#[path = "sockets_tests.rs"]
mod tests;
