//! Sends and receives of links between servers: several pieces of memory in one operation, so that a batch goes out of the
//! buffer that the log was written from, and into the one that it will be written from. The ring owns every piece from the
//! submission to the completion. Refuses to order operations: one of each kind per socket, its user sees to that.

use super::{Event, LINK_RECEIVE, LINK_SEND, Ring, Token};
use crate::peer::Room;
use crate::wire::batch::Batch;
use io_uring::opcode;
use io_uring::types::Fd;
use slab::Slab;
use std::os::fd::RawFd;
use std::sync::Arc;

/// Memory to be sent. It stays where it is while it is owned here, and nobody changes it.
pub enum Piece {
    Own(Vec<u8>),
    Shared(Arc<Vec<u8>>),
    Batch(Arc<Batch>),
}

impl Piece {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Piece::Own(bytes) => bytes,
            Piece::Shared(bytes) => bytes,
            Piece::Batch(batch) => batch.bytes(),
        }
    }
}

/// Pieces in one operation, at most: the kernel takes 1024.
pub const PIECES_MAX: usize = 1024;

struct Sending {
    token: Token,
    socket: RawFd,
    pieces: Vec<Piece>,
    sent: usize,
    bytes: usize,
    /// What the kernel reads to find the pieces: both live in this box until the completion.
    vectors: Vec<libc::iovec>,
    header: libc::msghdr,
}

struct Receiving {
    token: Token,
    room: Room,
    vectors: [libc::iovec; 3],
}

/// Operations under way.
#[derive(Default)]
pub(super) struct Vectored {
    sends: Slab<Box<Sending>>,
    receives: Slab<Box<Receiving>>,
    /// Sends that took only a part.
    short: Vec<usize>,
}

fn vector(bytes: &[u8]) -> libc::iovec {
    libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
}

impl Sending {
    /// Points at what is not sent yet.
    fn aim(&mut self) {
        let mut skip = self.sent;
        self.vectors.clear();
        for piece in &self.pieces {
            let bytes = piece.bytes();
            let skipped = skip.min(bytes.len());
            skip -= skipped;
            if skipped < bytes.len() {
                self.vectors.push(vector(&bytes[skipped..]));
            }
        }
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = self.vectors.len() as _;
    }
}

impl Vectored {
    pub(super) fn is_idle(&self) -> bool {
        self.sends.is_empty() && self.receives.is_empty()
    }

    /// Sends that took a part and were not started again are not with the kernel.
    pub(super) fn give_up_short_sends(&mut self) {
        for index in std::mem::take(&mut self.short) {
            self.sends.remove(index);
        }
    }

    /// Memory that the kernel may still touch is never freed.
    pub(super) fn leak(&mut self) {
        std::mem::forget(std::mem::take(self));
    }
}

impl Ring {
    /// Sends all pieces, in order; one [`Event::LinkSent`] follows. At most [`PIECES_MAX`], and one send in flight per socket.
    pub fn link_send(&mut self, socket: RawFd, token: Token, pieces: Vec<Piece>) {
        assert!(pieces.len() <= PIECES_MAX, "the kernel takes no more pieces");
        let bytes = pieces.iter().map(|piece| piece.bytes().len()).sum();
        // SAFETY: a plain structure of integers and pointers, for which all zeros is a value.
        let header = unsafe { std::mem::zeroed() };
        let sending = Box::new(Sending { token, socket, pieces, sent: 0, bytes, vectors: Vec::new(), header });
        let index = self.vectored.sends.insert(sending);
        self.push_link_send(index);
    }

    fn push_link_send(&mut self, index: usize) {
        let sending = &mut self.vectored.sends[index];
        sending.aim();
        // Header, vectors and pieces are kept in a box until the completion, and none of them moves with it.
        let entry = opcode::SendMsg::new(Fd(sending.socket), &raw const sending.header)
            .flags((libc::MSG_NOSIGNAL | libc::MSG_WAITALL) as u32)
            .build()
            .user_data(LINK_SEND << 60 | index as u64);
        self.push(&entry);
    }

    /// Receives into `room`, as much as there is; one [`Event::LinkReceived`] follows. One receive in flight per socket.
    pub fn link_receive(&mut self, socket: RawFd, token: Token, mut room: Room) {
        let vectors = room.parts_mut().map(|part| vector(part));
        let index = self.vectored.receives.insert(Box::new(Receiving { token, room, vectors }));
        let vectors = &self.vectored.receives[index].vectors;
        // The room and the vectors are kept in a box until the completion; the room's memory does not move with it.
        let entry = opcode::Readv::new(Fd(socket), vectors.as_ptr(), vectors.len() as u32).build();
        self.push(&entry.user_data(LINK_RECEIVE << 60 | index as u64));
    }

    pub(super) fn link_sent(&mut self, index: usize, result: i32) -> Option<Event> {
        let sending = &mut self.vectored.sends[index];
        sending.sent += result.max(0) as usize;
        if result > 0 && sending.sent < sending.bytes {
            self.vectored.short.push(index);
            return None;
        }
        let sending = self.vectored.sends.remove(index);
        Some(Event::LinkSent { token: sending.token, errno: -result.min(0) })
    }

    pub(super) fn link_received(&mut self, index: usize, result: i32) -> Event {
        let Receiving { token, room, .. } = *self.vectored.receives.remove(index);
        Event::LinkReceived { token, room, bytes: result.max(0) as usize, errno: -result.min(0) }
    }

    /// Goes on with sends that took only a part.
    pub(super) fn continue_link_sends(&mut self) {
        for index in std::mem::take(&mut self.vectored.short) {
            self.push_link_send(index);
        }
    }
}
