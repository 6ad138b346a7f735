//! One core's io_uring: sockets, log writes, wake-ups and the wait. It owns every buffer that the kernel may touch, from the
//! submission to the completion, so that its users need no `unsafe`. An operation's `user_data` says what it is and for whom:
//!
//! ```text
//! kind u4 | generation u28 | slot u32
//! ```
//! Refuses to know what the bytes mean, to close sockets, and to retry: every end of an operation is an [`Event`].

mod provided;
mod vectored;

use crate::log::Frame;
use crate::peer::Room;
use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
pub use provided::Filled;
use provided::Provided;
use vectored::Vectored;
pub use vectored::{PIECES_MAX, Piece};

use super::sys::Bell;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// Operations queued between two enters, at most; more are submitted early.
const SQ_ENTRIES: u32 = 512;
/// Completions that can wait; beyond this the kernel keeps them aside.
const CQ_ENTRIES: u32 = 4096;
/// Completions handled in one turn, at most.
pub const EVENTS_MAX: usize = 512;
/// Receive buffers of a core that serves clients, and the size of each: what one turn can take in.
pub const RECEIVE_BUFFERS: u16 = 256;
pub const RECEIVE_BUFFER_BYTES: u32 = 16 << 10;
/// The buffer group of the provided receive buffers.
const RECEIVE_GROUP: u16 = 0;
/// Log writes in flight, at most.
pub const WRITES_MAX: usize = 4;

const RECEIVE: u64 = 1;
const SEND: u64 = 2;
const ACCEPT: u64 = 3;
const WRITE: u64 = 4;
const BELL: u64 = 5;
const WOKEN: u64 = 6;
const UNWATCHED: u64 = 7;
const LINK_SEND: u64 = 8;
const LINK_RECEIVE: u64 = 9;

/// A socket of this ring: the user's slot and how often the slot was used before, so that late completions are recognised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token {
    pub slot: u32,
    /// Only the low 28 bits travel.
    pub generation: u32,
}

impl Token {
    fn data(self, kind: u64) -> u64 {
        kind << 60 | u64::from(self.generation & 0x0fff_ffff) << 32 | u64::from(self.slot)
    }

    fn of(data: u64) -> Token {
        Token { slot: data as u32, generation: (data >> 32) as u32 & 0x0fff_ffff }
    }
}

/// Where a log write goes.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    pub file: RawFd,
    pub offset: u64,
    /// The file was not opened with O_DSYNC: ask for it with this write.
    pub dsync: bool,
}

/// Something that happened, in the order of the kernel.
#[derive(Debug)]
pub enum Event {
    /// A client connected. `more`: accepting is still armed.
    Accepted { socket: OwnedFd, more: bool },
    /// Accepting stopped with this errno; it has to be armed again.
    AcceptEnded(i32),
    /// Bytes arrived. `more`: the receive is still armed.
    Received { token: Token, data: Filled, more: bool },
    /// The receive ended: 0 for the end of the stream, or an errno (ENOBUFS, ECANCELED, or the connection is broken).
    ReceiveEnded { token: Token, errno: i32 },
    /// A send ended; its buffer comes back. Errno 0: everything is with the kernel.
    Sent { token: Token, errno: i32, buffer: Vec<u8> },
    /// A send on a link between servers ended. Errno 0: everything is with the kernel.
    LinkSent { token: Token, errno: i32 },
    /// A receive on a link ended: so many bytes of the room are filled. None and errno 0: the end of the stream.
    LinkReceived { token: Token, room: Room, bytes: usize, errno: i32 },
    /// Another thread rang the bell.
    Bell,
}

/// The end of a log write. Errno 0: all of it is on the medium.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    pub op: u64,
    pub errno: i32,
}

struct Sending {
    buffer: Vec<u8>,
    socket: RawFd,
    token: Token,
    sent: usize,
}

struct Writing {
    op: u64,
    /// Keeps the bytes alive for the kernel.
    frame: Frame,
}

/// See the module heading. Made, used and dropped on one thread.
pub struct Ring {
    uring: IoUring,
    provided: Provided,
    /// By socket slot: at most one send in flight for each.
    sends: Vec<Option<Sending>>,
    sends_in_flight: usize,
    writes: [Option<Writing>; WRITES_MAX],
    written: Vec<Written>,
    /// Slots whose send took only a part.
    short_sends: Vec<u32>,
    vectored: Vectored,
    bell: Arc<Bell>,
    bell_count: Box<u64>,
    bell_armed: bool,
}

impl Ring {
    /// A ring for the calling thread, listening to `bell`, with `buffers` receive buffers of `buffer_bytes` each.
    pub fn new(bell: Arc<Bell>, buffers: u16, buffer_bytes: u32) -> io::Result<Ring> {
        let uring = Ring::builder().build(SQ_ENTRIES)?;
        let provided = Provided::register(&uring, RECEIVE_GROUP, buffers, buffer_bytes)?;
        let mut ring = Ring {
            uring,
            provided,
            sends: Vec::new(),
            sends_in_flight: 0,
            writes: [const { None }; WRITES_MAX],
            written: Vec::new(),
            short_sends: Vec::new(),
            vectored: Vectored::default(),
            bell,
            bell_count: Box::new(0),
            bell_armed: false,
        };
        ring.arm_bell();
        Ok(ring)
    }

    /// The set-up that this ring needs; the start-up probe tries the same.
    pub fn builder() -> io_uring::Builder {
        let mut builder = IoUring::builder();
        builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag().setup_cqsize(CQ_ENTRIES).dontfork();
        builder
    }

    /// What other rings wake this one by.
    pub fn fd(&self) -> RawFd {
        self.uring.as_raw_fd()
    }

    // ---- operations

    /// Queues an operation. Every caller in this file makes sure that the memory it names outlives it.
    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: buffers named by entries are owned by `self` and released only at their completion, see each caller.
        while unsafe { self.uring.submission().push(entry) }.is_err() {
            self.enter(None).expect("io_uring takes submissions");
        }
    }

    /// Accepts connections on `listener` until [`Event::AcceptEnded`].
    pub fn accept(&mut self, listener: RawFd) {
        let entry = opcode::AcceptMulti::new(Fd(listener)).flags(libc::SOCK_CLOEXEC).build();
        self.push(&entry.user_data(ACCEPT << 60));
    }

    /// Stops accepting; [`Event::AcceptEnded`] follows.
    pub fn cancel_accept(&mut self) {
        self.cancel(ACCEPT << 60);
    }

    /// Receives into provided buffers until [`Event::ReceiveEnded`] or a [`Event::Received`] without `more`.
    pub fn receive(&mut self, socket: RawFd, token: Token) {
        let entry = opcode::RecvMulti::new(Fd(socket), RECEIVE_GROUP).build();
        self.push(&entry.user_data(token.data(RECEIVE)));
    }

    /// Stops receiving; the end of the receive follows as an event, if it was armed.
    pub fn cancel_receive(&mut self, token: Token) {
        self.cancel(token.data(RECEIVE));
    }

    fn cancel(&mut self, data: u64) {
        let entry = opcode::AsyncCancel::new(data).build().flags(squeue::Flags::SKIP_SUCCESS);
        self.push(&entry.user_data(UNWATCHED << 60));
    }

    /// Sends all of `buffer`; one [`Event::Sent`] follows. At most one send in flight per slot.
    pub fn send(&mut self, socket: RawFd, token: Token, buffer: Vec<u8>) {
        let slot = token.slot as usize;
        if slot >= self.sends.len() {
            self.sends.resize_with(slot + 1, || None);
        }
        assert!(self.sends[slot].is_none(), "one send at a time per socket");
        self.sends[slot] = Some(Sending { buffer, socket, token, sent: 0 });
        self.sends_in_flight += 1;
        self.push_send(slot);
    }

    fn push_send(&mut self, slot: usize) {
        let sending = self.sends[slot].as_ref().expect("a send in flight");
        let rest = &sending.buffer[sending.sent..];
        // The buffer is kept in `sends` until the completion; a Vec's bytes don't move with it.
        let entry = opcode::Send::new(Fd(sending.socket), rest.as_ptr(), rest.len() as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .user_data(sending.token.data(SEND));
        self.push(&entry);
    }

    /// Writes `frame` to the log; `op` comes back in [`Ring::next_written`]. At most [`WRITES_MAX`] in flight.
    pub fn write(&mut self, op: u64, target: Target, frame: Frame) {
        let slot = self.writes.iter().position(Option::is_none).expect("at most WRITES_MAX log writes in flight");
        let bytes = frame.bytes();
        // The frame is kept in `writes` until the completion, and its bytes are an allocation of their own.
        let entry = opcode::Write::new(Fd(target.file), bytes.as_ptr(), bytes.len() as u32)
            .offset(target.offset)
            .rw_flags(if target.dsync { libc::RWF_DSYNC } else { 0 })
            .build()
            .user_data(WRITE << 60 | slot as u64);
        self.writes[slot] = Some(Writing { op, frame });
        self.push(&entry);
    }

    /// Wakes another core's ring out of its wait, or makes its next wait return at once.
    pub fn wake(&mut self, other: RawFd) {
        let entry = opcode::MsgRingData::new(Fd(other), 0, WOKEN << 60, None).build().flags(squeue::Flags::SKIP_SUCCESS);
        self.push(&entry.user_data(UNWATCHED << 60));
    }

    fn arm_bell(&mut self) {
        if std::mem::replace(&mut self.bell_armed, true) {
            return;
        }
        let into: *mut u64 = &mut *self.bell_count;
        // The count is a box of its own, kept until the ring is gone.
        let entry = opcode::Read::new(Fd(self.bell.fd()), into.cast(), 8).build();
        self.push(&entry.user_data(BELL << 60));
    }

    // ---- buffers

    /// The bytes of a receive.
    pub fn bytes(&self, data: &Filled) -> &[u8] {
        self.provided.bytes(data)
    }

    /// Gives a receive buffer back to the kernel. Due in the turn it came.
    pub fn give_back(&mut self, data: Filled) {
        self.provided.give_back(data);
    }

    // ---- the wait and what it brings

    /// Submits what is queued. With `wait`, sleeps until something has completed or the time is over.
    pub fn enter(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.provided.publish();
        let result = match wait {
            None => {
                let queue = self.uring.submission();
                if queue.is_empty() && !queue.taskrun() && !queue.cq_overflow() {
                    return Ok(());
                }
                drop(queue);
                self.uring.submit()
            }
            Some(wait) => {
                let timeout = Timespec::from(wait);
                self.uring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout))
            }
        };
        match result {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Collects what has completed, up to [`EVENTS_MAX`]. The kernel may have more deferred than one enter delivers, so this
    /// enters again, without waiting, as long as it says so and keeps delivering: the flag can outlive the work, when it is
    /// set by another thread just after this one has taken the work.
    pub fn reap(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.collect(events);
        while events.len() < EVENTS_MAX && self.uring.submission().taskrun() {
            self.enter(None)?;
            if self.collect(events) == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Takes what stands in the completion queue; returns how many completions that were.
    fn collect(&mut self, events: &mut Vec<Event>) -> usize {
        let mut count = 0;
        while events.len() < EVENTS_MAX {
            let Some(entry) = self.uring.completion().next() else { break };
            count += 1;
            if let Some(event) = self.translate(&entry) {
                events.push(event);
            }
        }
        for slot in std::mem::take(&mut self.short_sends) {
            self.push_send(slot as usize);
        }
        self.continue_link_sends();
        self.arm_bell();
        count
    }

    /// The next finished log write. Separate from the other events because it comes first in a turn.
    pub fn next_written(&mut self) -> Option<Written> {
        self.written.pop()
    }

    fn translate(&mut self, entry: &cqueue::Entry) -> Option<Event> {
        let (data, result) = (entry.user_data(), entry.result());
        match data >> 60 {
            RECEIVE => Some(self.received(Token::of(data), entry)),
            SEND => self.sent(data as u32, result),
            LINK_SEND => self.link_sent(data as u32 as usize, result),
            LINK_RECEIVE => Some(self.link_received(data as u32 as usize, result)),
            ACCEPT if result < 0 => Some(Event::AcceptEnded(-result)),
            ACCEPT => {
                // SAFETY: a descriptor that the kernel has just made for this accept and that nobody else knows.
                let socket = unsafe { OwnedFd::from_raw_fd(result) };
                Some(Event::Accepted { socket, more: cqueue::more(entry.flags()) })
            }
            WRITE => {
                self.wrote(data as u32 as usize, result);
                None
            }
            BELL => {
                self.bell_armed = false;
                Some(Event::Bell)
            }
            WOKEN | UNWATCHED => None,
            kind => unreachable!("completion of unknown kind {kind}"),
        }
    }

    fn received(&mut self, token: Token, entry: &cqueue::Entry) -> Event {
        let (result, more) = (entry.result(), cqueue::more(entry.flags()));
        match cqueue::buffer_select(entry.flags()) {
            Some(buffer) if result > 0 => Event::Received { token, data: self.provided.filled(buffer, result as u32), more },
            used => {
                // The end of the stream may come with a buffer that holds nothing.
                if let Some(buffer) = used {
                    let empty = self.provided.filled(buffer, 0);
                    self.provided.give_back(empty);
                }
                assert!(!more, "a receive that brings nothing has ended");
                Event::ReceiveEnded { token, errno: -result.min(0) }
            }
        }
    }

    fn sent(&mut self, slot: u32, result: i32) -> Option<Event> {
        let place = &mut self.sends[slot as usize];
        let sending = place.as_mut().expect("a send in flight");
        sending.sent += result.max(0) as usize;
        if result > 0 && sending.sent < sending.buffer.len() {
            self.short_sends.push(slot);
            return None;
        }
        let Sending { buffer, token, .. } = place.take().expect("a send in flight");
        self.sends_in_flight -= 1;
        Some(Event::Sent { token, errno: -result.min(0), buffer })
    }

    /// A short write is an error like any other: nothing below the log knows how to go on after one.
    fn wrote(&mut self, slot: usize, result: i32) {
        let Writing { op, frame } = self.writes[slot].take().expect("a write in flight");
        let errno = match result {
            all if all == frame.bytes().len() as i32 => 0,
            failed if failed < 0 => -failed,
            _ => libc::EIO,
        };
        self.written.push(Written { op, errno });
    }

    fn holds_kernel_buffers(&self) -> bool {
        self.sends_in_flight > 0 || !self.vectored.is_idle() || self.writes.iter().any(Option::is_some) || self.bell_armed
    }
}

impl Ring {
    /// Sends that took a part and were not started again are not with the kernel.
    fn give_up_short_sends(&mut self) {
        for slot in std::mem::take(&mut self.short_sends) {
            self.sends[slot as usize] = None;
            self.sends_in_flight -= 1;
        }
        self.vectored.give_up_short_sends();
    }

    /// Memory that the kernel may still touch is never freed.
    fn leak_buffers(&mut self) {
        std::mem::forget(std::mem::take(&mut self.sends));
        std::mem::forget(std::mem::replace(&mut self.writes, [const { None }; WRITES_MAX]));
        std::mem::forget(std::mem::take(&mut self.bell_count));
        self.vectored.leak();
        self.provided.leak();
    }
}

impl Drop for Ring {
    /// The kernel must be done with every buffer before its memory goes: cancel everything, then wait for the ends.
    fn drop(&mut self) {
        let mut events = Vec::new();
        let second = Duration::from_secs(1);
        let flushed = self.enter(None);
        let cancelled = self.uring.submitter().register_sync_cancel(Some(Timespec::from(second)), CancelBuilder::any().all());
        let nothing_left = matches!(cancelled.as_ref().map_err(io::Error::raw_os_error), Ok(()) | Err(Some(libc::ENOENT)));
        let mut settled = flushed.is_ok() && nothing_left;
        for _ in 0..100 {
            loop {
                let Some(entry) = self.uring.completion().next() else { break };
                events.extend(self.translate(&entry));
            }
            events.clear();
            self.give_up_short_sends();
            if !settled || !self.holds_kernel_buffers() {
                break;
            }
            settled = self.enter(Some(second / 10)).is_ok();
        }
        if !settled || self.holds_kernel_buffers() {
            self.leak_buffers();
        }
    }
}

#[cfg(test)]
mod tests;
