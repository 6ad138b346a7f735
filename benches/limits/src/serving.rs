//! One thread of the canned server: accepts, receives, answers and sends on one ring. Refuses to look into frames.

use crate::answers::Answers;
use falconer::runtime::Bell;
use falconer::runtime::ring::{Event, Filled, RECEIVE_BUFFER_BYTES, RECEIVE_BUFFERS, Ring, Token};
use slab::Slab;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

/// ENOBUFS: all receive buffers were full for a moment.
const NO_BUFFERS: i32 = 105;

struct Conn {
    socket: TcpStream,
    token: Token,
    greeted: bool,
    /// A frame that is not whole yet.
    partial: Vec<u8>,
    /// Replies that were not sent yet, and what the last send left of its buffer.
    out: Vec<u8>,
    spare: Vec<u8>,
    sending: bool,
    /// The peer is gone; the place is free once nothing is being sent.
    ended: bool,
}

/// See the module heading.
pub struct Serving {
    ring: Ring,
    answers: Answers,
    conns: Slab<Conn>,
    accepted: u32,
    /// Connections with replies that were made in this turn.
    dirty: Vec<usize>,
}

impl Serving {
    pub fn new(answers: Answers) -> io::Result<Serving> {
        let ring = Ring::new(Arc::new(Bell::new()?), RECEIVE_BUFFERS, RECEIVE_BUFFER_BYTES)?;
        Ok(Serving { ring, answers, conns: Slab::new(), accepted: 0, dirty: Vec::new() })
    }

    /// Serves whoever connects, until the process ends.
    pub fn run(mut self, listener: &TcpListener) -> io::Result<()> {
        self.ring.accept(listener.as_raw_fd());
        let mut events = Vec::new();
        loop {
            self.ring.enter(Some(Duration::from_secs(1)))?;
            self.ring.reap(&mut events)?;
            for event in events.drain(..) {
                self.take(event, listener);
            }
            while let Some(slot) = self.dirty.pop() {
                self.send(slot);
            }
        }
    }

    fn take(&mut self, event: Event, listener: &TcpListener) {
        match event {
            Event::Accepted { socket, more } => {
                self.open(socket);
                if !more {
                    self.ring.accept(listener.as_raw_fd());
                }
            }
            Event::AcceptEnded(errno) => {
                eprintln!("canned-server: accepting: {}", io::Error::from_raw_os_error(errno));
                std::thread::sleep(Duration::from_millis(10));
                self.ring.accept(listener.as_raw_fd());
            }
            Event::Received { token, data, more } => self.received(token, data, more),
            Event::ReceiveEnded { token, errno: NO_BUFFERS } => self.receive(token),
            Event::ReceiveEnded { token, .. } => self.ended(token),
            Event::Sent { token, errno, buffer } => self.sent(token, errno, buffer),
            Event::Bell => {}
            Event::LinkSent { .. } | Event::LinkReceived { .. } => unreachable!("only servers of an ensemble have links"),
        }
    }

    fn open(&mut self, socket: OwnedFd) {
        let socket = TcpStream::from(socket);
        let entry = self.conns.vacant_entry();
        let token = Token { slot: entry.key() as u32, generation: self.accepted & 0x0fff_ffff };
        self.accepted = self.accepted.wrapping_add(1);
        // A socket that is gone already says so when it is read from.
        let _ = socket.set_nodelay(true);
        entry.insert(Conn {
            socket,
            token,
            greeted: false,
            partial: Vec::new(),
            out: Vec::new(),
            spare: Vec::new(),
            sending: false,
            ended: false,
        });
        self.receive(token);
    }

    fn conn(&mut self, token: Token) -> Option<&mut Conn> {
        self.conns.get_mut(token.slot as usize).filter(|conn| conn.token == token && !conn.ended)
    }

    fn receive(&mut self, token: Token) {
        if let Some(conn) = self.conn(token) {
            let socket = conn.socket.as_raw_fd();
            self.ring.receive(socket, token);
        }
    }

    fn received(&mut self, token: Token, data: Filled, more: bool) {
        if let Some(conn) = self.conns.get_mut(token.slot as usize).filter(|conn| conn.token == token && !conn.ended) {
            let fresh = self.ring.bytes(&data);
            let whole = conn.partial.is_empty();
            if !whole {
                conn.partial.extend_from_slice(fresh);
            }
            let bytes = if whole { fresh } else { &conn.partial };
            match self.answers.answer_all(bytes, &mut conn.greeted, &mut conn.out) {
                Ok(taken) if whole => conn.partial.extend_from_slice(&fresh[taken..]),
                Ok(taken) => drop(conn.partial.drain(..taken)),
                // The end of the receive follows.
                Err(_) => drop(conn.socket.shutdown(Shutdown::Both)),
            }
            self.dirty.push(token.slot as usize);
        }
        self.ring.give_back(data);
        if !more {
            self.receive(token);
        }
    }

    fn send(&mut self, slot: usize) {
        let Some(conn) = self.conns.get_mut(slot) else { return };
        if conn.sending || conn.out.is_empty() || conn.ended {
            return;
        }
        conn.sending = true;
        let buffer = std::mem::replace(&mut conn.out, std::mem::take(&mut conn.spare));
        self.ring.send(conn.socket.as_raw_fd(), conn.token, buffer);
    }

    fn sent(&mut self, token: Token, errno: i32, mut buffer: Vec<u8>) {
        // A place is not used again before its send has ended.
        let conn = &mut self.conns[token.slot as usize];
        buffer.clear();
        (conn.sending, conn.spare) = (false, buffer);
        match (conn.ended, errno) {
            (true, _) => drop(self.conns.remove(token.slot as usize)),
            (false, 0) => self.dirty.push(token.slot as usize),
            // The end of the receive follows.
            (false, _) => drop(conn.socket.shutdown(Shutdown::Both)),
        }
    }

    fn ended(&mut self, token: Token) {
        let Some(conn) = self.conn(token) else { return };
        conn.ended = true;
        if !conn.sending {
            self.conns.remove(token.slot as usize);
        }
    }
}
