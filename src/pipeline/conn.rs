//! One client connection: bytes in, frames out of them, the FIFO of requests that wait, bytes to send. It knows the
//! handshake's phases and its own bounds, nothing of trees or sockets. Refuses to hold more than its limits: the
//! Replica asks `may_execute` before every frame and the loop stops receiving when told to.

use super::bounds::Bounds;
use super::latency::Latency;
use super::message::ConnId;
use crate::limits::{HANDSHAKE_BYTES_MAX, INPUT_SLACK_BYTES};
use crate::wire::jute;
use crate::wire::record::{ConnectRequest, Id};
use crate::wire::request::opcode;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

/// How far a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Nothing but four-letter words or a ConnectRequest is understood.
    Handshake,
    /// The client has seen a zxid that is not applied here yet; its request waits until then or until `until_ms`.
    Parked {
        until_ms: u64,
        request: Connect,
    },
    /// The session's transaction is on its way.
    Attaching,
    Open,
    /// A four-letter word waits for its answer.
    FourLetter,
    /// Nothing more is read; the socket goes once the output is sent.
    Closing,
}

/// What a parked handshake needs later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connect {
    pub last_zxid_seen: u64,
    pub timeout_ms: i32,
    pub session: i64,
    pub password: [u8; 16],
    /// Whether the request had the readOnly byte; the reply has it then too.
    pub read_only_field: bool,
}

impl Connect {
    pub fn of(request: &ConnectRequest<'_>) -> Connect {
        let mut password = [0; 16];
        if request.password.len() == 16 {
            password.copy_from_slice(request.password);
        }
        Connect {
            last_zxid_seen: request.last_zxid_seen as u64,
            timeout_ms: request.timeout_ms,
            session: request.session,
            password,
            read_only_field: request.read_only.is_some(),
        }
    }
}

/// The identities of a connection, with the encoding that travels with its writes.
pub struct Identities {
    pub list: Vec<Id>,
    pub encoded: Vec<u8>,
}

impl Identities {
    pub fn new(list: Vec<Id>) -> Identities {
        let mut encoded = Vec::new();
        jute::write_i32(&mut encoded, list.len() as i32);
        for id in &list {
            jute::write_string(&mut encoded, &id.scheme);
            jute::write_string(&mut encoded, &id.id);
        }
        Identities { list, encoded }
    }

    /// These and the ones that are new in `added`.
    pub fn with(&self, added: Vec<Id>) -> Identities {
        let mut list = self.list.clone();
        for id in added {
            if !list.contains(&id) {
                list.push(id);
            }
        }
        Identities::new(list)
    }
}

/// A request that could not be answered when it was read.
pub enum Pending {
    /// In the pipeline's hands; answered when its transaction is applied.
    Submitted(Submitted),
    /// Answered here, once everything before it is. Its frame is the next `bytes` of the held bytes.
    Held { bytes: usize, reply_bytes: usize, ids: Rc<Identities>, at_ms: u64 },
}

/// What is remembered of a submit until its answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Submitted {
    pub sequence: u32,
    pub xid: i32,
    pub opcode: i32,
    pub at_ms: u64,
    /// The next so many held bytes are the record of the reply (sync repeats its path).
    pub echo_bytes: usize,
}

/// Figures of one connection, for `cons`. What is said of the last reply means nothing while `sent` is 0.
#[derive(Clone, Copy, Default, Debug)]
pub struct ConnFigures {
    pub received: u64,
    pub sent: u64,
    pub last_opcode: i32,
    pub last_xid: i32,
    pub last_zxid: u64,
    pub last_response_ms: u64,
    pub last_latency_ms: u64,
    pub latency: Latency,
}

/// What stands at the start of the unread bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A whole frame, without its length.
    Whole(&'a [u8]),
    /// More bytes are needed.
    Partial,
    /// A four-letter word and the number that follows it, 0 for most.
    FourLetter([u8; 4], i64),
    /// The length is negative or beyond the limit; `xid` if it can be read already.
    TooLong { len: i32, xid: Option<i32> },
}

/// One connection. See the module heading.
pub struct Conn {
    pub id: ConnId,
    pub peer: SocketAddr,
    pub phase: Phase,
    pub session: i64,
    pub timeout_ms: i32,
    pub read_only_field: bool,
    pub entropy: [u8; 16],
    pub established_ms: u64,
    pub ids: Rc<Identities>,
    pub pending: VecDeque<Pending>,
    pub next_sequence: u32,
    pub output: Vec<u8>,
    /// Of those, watch events: a client cannot be kept from causing them by not reading from it.
    pub event_bytes: usize,
    /// Bytes handed to the socket and not yet reported as sent.
    pub in_flight: usize,
    pub flush_queued: bool,
    pub paused: bool,
    pub stalled: bool,
    pub touched: bool,
    /// The turn in which reads were last put behind a barrier.
    pub barrier_turn: u64,
    pub figures: ConnFigures,
    input: Vec<u8>,
    held: VecDeque<u8>,
    held_reply_bytes: usize,
}

impl Conn {
    pub fn new(id: ConnId, peer: SocketAddr, entropy: [u8; 16], now_ms: u64) -> Conn {
        let ids = vec![Id { scheme: "ip".into(), id: peer.ip().to_canonical().to_string() }];
        Conn {
            id,
            peer,
            phase: Phase::Handshake,
            session: 0,
            timeout_ms: 0,
            read_only_field: false,
            entropy,
            established_ms: now_ms,
            ids: Rc::new(Identities::new(ids)),
            pending: VecDeque::new(),
            next_sequence: 0,
            output: Vec::new(),
            event_bytes: 0,
            in_flight: 0,
            flush_queued: false,
            paused: false,
            stalled: false,
            touched: false,
            barrier_turn: u64::MAX,
            figures: ConnFigures::default(),
            input: Vec::new(),
            held: VecDeque::new(),
            held_reply_bytes: 0,
        }
    }

    /// The frame at the start of `bytes`. `word_argument` says how many bytes follow a four-letter word.
    pub fn frame<'a>(&self, bytes: &'a [u8], bounds: &Bounds, word_argument: impl Fn([u8; 4]) -> Option<usize>) -> Frame<'a> {
        let Some((first, rest)) = bytes.split_first_chunk::<4>() else { return Frame::Partial };
        if self.phase == Phase::Handshake
            && let Some(len) = word_argument(*first)
        {
            let argument = rest.get(..len).map(|bytes| bytes.iter().fold(0, |number, byte| number << 8 | i64::from(*byte)));
            return argument.map_or(Frame::Partial, |argument| Frame::FourLetter(*first, argument));
        }
        let len = i32::from_be_bytes(*first);
        let header = |at: usize| bytes.get(at..at + 4).map(|b| i32::from_be_bytes(b.try_into().expect("four bytes")));
        let max = match (self.phase, header(8)) {
            (Phase::Handshake, _) => HANDSHAKE_BYTES_MAX,
            (_, Some(opcode::SET_WATCHES | opcode::SET_WATCHES2)) => bounds.set_watches_bytes_max.max(bounds.frame_bytes_max),
            _ => bounds.frame_bytes_max,
        };
        if len < 0 || len as usize > max {
            // Wait for the opcode: a long setWatches is legal.
            let may_be_watches = (0..=bounds.set_watches_bytes_max as i32).contains(&len);
            if may_be_watches && self.phase == Phase::Open && header(8).is_none() {
                return Frame::Partial;
            }
            return Frame::TooLong { len, xid: header(4).filter(|_| self.phase == Phase::Open) };
        }
        bytes.get(4..4 + len as usize).map_or(Frame::Partial, Frame::Whole)
    }

    /// Whether another request may be executed now: the FIFO and the output, which may be `output_bytes`, are within their
    /// bounds.
    ///
    /// What held requests will answer counts as output already: their answers cannot wait for the client to read, because
    /// they must not see the writes behind them.
    pub fn may_execute(&self, bounds: &Bounds, output_bytes: usize) -> bool {
        self.pending.len() < bounds.requests_per_connection_max
            && self.held.len() < bounds.held_bytes_max
            && self.unsent() + self.held_reply_bytes < output_bytes
    }

    /// Bytes of input that are not a whole request yet, or wait to be executed.
    pub fn unparsed(&self) -> usize {
        self.input.len()
    }

    /// Bytes of output and of requests that wait.
    pub fn queued(&self) -> usize {
        self.unsent() + self.held.len()
    }

    /// Nothing of what the client has sent will be executed any more.
    pub fn drop_requests(&mut self) {
        self.pending.clear();
        self.held = VecDeque::new();
        self.held_reply_bytes = 0;
        self.input = Vec::new();
    }

    pub fn unsent(&self) -> usize {
        self.output.len() + self.in_flight
    }

    /// The bytes received and not yet used; give the rest back with `keep_input`.
    pub fn take_input(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.input)
    }

    pub fn has_input(&self) -> bool {
        !self.input.is_empty()
    }

    /// Adds received bytes behind what waits already.
    pub fn add_input(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Puts back what `take_input` gave, without the first `used` bytes.
    pub fn keep_input(&mut self, mut input: Vec<u8>, used: usize) {
        debug_assert!(self.input.is_empty());
        input.drain(..used);
        if !input.is_empty() {
            self.input = input;
        }
    }

    /// Whether receiving should stop (Some(true)), go on (Some(false)), or stay as it is. To be asked when everything that
    /// may be executed was: if more `may_execute`, the input is at most the beginning of a frame, whose rest must be let in.
    pub fn pause_change(&mut self, may_execute: bool) -> Option<bool> {
        let change = match self.paused {
            false => (!may_execute && self.input.len() >= INPUT_SLACK_BYTES).then_some(true),
            true => (may_execute || self.input.len() < INPUT_SLACK_BYTES / 2).then_some(false),
        };
        self.paused = change.unwrap_or(self.paused);
        change
    }

    /// Keeps a frame until everything before it is answered. `reply_bytes`: about how long its reply will be.
    pub fn hold(&mut self, frame: &[u8], reply_bytes: usize, at_ms: u64) {
        self.held.extend(frame);
        self.held_reply_bytes += reply_bytes;
        self.pending.push_back(Pending::Held { bytes: frame.len(), reply_bytes, ids: self.ids.clone(), at_ms });
    }

    /// The request at the head of the FIFO, if it is a held one: its frame, who asked, and when.
    pub fn next_held(&mut self) -> Option<(Vec<u8>, Rc<Identities>, u64)> {
        let head = self.pending.pop_front_if(|p| matches!(p, Pending::Held { .. }))?;
        let Pending::Held { bytes, reply_bytes, ids, at_ms } = head else { unreachable!("it was looked at") };
        self.held_reply_bytes -= reply_bytes;
        Some((self.take_held(bytes), ids, at_ms))
    }

    /// Remembers a submit whose record went up; `echo` is what its reply will repeat.
    pub fn submitted(&mut self, sequence: u32, xid: i32, opcode: i32, at_ms: u64, echo: &[u8]) {
        self.held.extend(echo);
        self.pending.push_back(Pending::Submitted(Submitted { sequence, xid, opcode, at_ms, echo_bytes: echo.len() }));
    }

    /// The held bytes of what was just taken from the head of the FIFO.
    pub fn take_held(&mut self, bytes: usize) -> Vec<u8> {
        let frame = self.held.drain(..bytes).collect();
        if self.held.is_empty() && self.held.capacity() > INPUT_SLACK_BYTES {
            self.held = VecDeque::new();
        }
        frame
    }

    /// The next number in this connection's FIFO of submits.
    pub fn take_sequence(&mut self) -> u32 {
        let sequence = self.next_sequence;
        self.next_sequence = sequence.wrapping_add(1);
        sequence
    }

    /// Counts an answered request; returns how long it took, in ms.
    pub fn answered(&mut self, xid: i32, opcode: i32, zxid: u64, at_ms: u64, now_ms: u64) -> u64 {
        let latency_ms = now_ms.saturating_sub(at_ms);
        let figures = &mut self.figures;
        figures.sent += 1;
        figures.latency.record(latency_ms);
        figures.last_latency_ms = latency_ms;
        figures.last_response_ms = now_ms;
        (figures.last_opcode, figures.last_xid, figures.last_zxid) = (opcode, xid, zxid);
        latency_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::OUTPUT_BYTES_MAX;

    fn conn(phase: Phase) -> Conn {
        let mut conn = Conn::new(ConnId::new(0, 1), "127.0.0.1:9".parse().unwrap(), [0; 16], 0);
        conn.phase = phase;
        conn
    }

    fn frame(conn: &Conn, bytes: &[u8]) -> String {
        match conn
            .frame(bytes, &Bounds::default(), |w| [(*b"ruok", 0), (*b"stmk", 8)].iter().find(|known| known.0 == w).map(|known| known.1))
        {
            Frame::Whole(b) => format!("whole {}", b.len()),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn frames_are_cut_by_length() {
        let open = conn(Phase::Open);
        assert_eq!(frame(&open, &[0, 0, 0]), "Partial");
        assert_eq!(frame(&open, &[0, 0, 0, 2, 9]), "Partial");
        assert_eq!(frame(&open, &[0, 0, 0, 2, 9, 9, 9]), "whole 2");
        assert_eq!(frame(&open, b"ruok"), "TooLong { len: 1920298859, xid: None }");
        assert_eq!(frame(&open, &[0xff, 0, 0, 0]), "TooLong { len: -16777216, xid: None }");
        let long = [0, 0x20, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1];
        assert_eq!(frame(&open, &long[..8]), "Partial");
        assert_eq!(frame(&open, &long), "TooLong { len: 2097152, xid: Some(7) }");
        assert_eq!(frame(&open, &[0, 0x20, 0, 0, 0, 0, 0, 7, 0, 0, 0, 101]), "Partial");
    }

    #[test]
    fn before_the_handshake_little_is_believed() {
        let new = conn(Phase::Handshake);
        assert_eq!(frame(&new, b"ruok\n"), "FourLetter([114, 117, 111, 107], 0)");
        assert_eq!(frame(&new, b"stmk\0\0\0\0\0\0\x01"), "Partial");
        assert_eq!(frame(&new, b"stmk\0\0\0\0\0\0\x01\x02"), "FourLetter([115, 116, 109, 107], 258)");
        assert_eq!(frame(&new, b"GET / HTTP"), "TooLong { len: 1195725856, xid: None }");
        assert_eq!(frame(&new, &[0, 0, 0x20, 0]), "TooLong { len: 8192, xid: None }");
    }

    #[test]
    fn receiving_stops_and_goes_on_at_the_bounds() {
        let mut conn = conn(Phase::Open);
        let may = |conn: &Conn| conn.may_execute(&Bounds::default(), OUTPUT_BYTES_MAX);
        conn.add_input(&vec![0; INPUT_SLACK_BYTES]);
        assert_eq!(conn.pause_change(may(&conn)), None);
        conn.in_flight = OUTPUT_BYTES_MAX;
        assert_eq!(conn.pause_change(may(&conn)), Some(true));
        assert_eq!(conn.pause_change(may(&conn)), None);
        conn.in_flight = 0;
        assert_eq!(conn.pause_change(may(&conn)), Some(false), "a long frame that has begun is let in");
    }
}
