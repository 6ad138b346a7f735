//! The client's side of one session, without a socket: bytes in, events out, requests numbered and matched with their
//! replies. For the command line, the simulator and the load generator.
//! Refuses to reconnect, to wait or to keep time: whoever owns the socket does that, and sends a ping when it is due.

use crate::wire::jute::{Malformed, Reader};
use crate::wire::record::{ConnectRequest, ConnectResponse, Stat, xid};
use crate::wire::request::Request;
use crate::wire::response::{ReplyHeader, code};
use std::borrow::Cow;
use std::collections::VecDeque;

/// The largest reply that is believed; a longer one means that the other side speaks something else. Listing ten
/// million children fits.
pub const REPLY_BYTES_MAX: usize = 512 << 20;
/// Bytes that may be consumed before the rest of the input moves to the front.
const CONSUMED_BYTES_MAX: usize = 256 << 10;

/// What makes a session resumable on another connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ticket {
    /// 0 asks for a new session.
    pub session: i64,
    pub password: [u8; 16],
    /// A server that has not seen this yet does not accept the connection.
    pub last_zxid: i64,
}

/// A request that was sent and not answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pending {
    pub xid: i32,
    pub opcode: i32,
}

/// One connection of a session.
#[derive(Debug)]
pub struct Session {
    ticket: Ticket,
    /// None until the handshake is answered.
    timeout_ms: Option<u32>,
    next_xid: i32,
    pending: VecDeque<Pending>,
    input: Vec<u8>,
    consumed: usize,
    output: Vec<u8>,
}

/// What came from the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<'a> {
    /// The handshake succeeded.
    Connected {
        session: i64,
        timeout_ms: u32,
        read_only: bool,
    },
    /// The server does not know the session: it expired, or the password is wrong. Nothing follows.
    Expired,
    Reply(Reply<'a>),
    /// A watch fired; `kind` as in `wire::record::event`.
    Watch {
        kind: i32,
        path: &'a str,
        zxid: i64,
    },
}

/// The answer to one request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply<'a> {
    pub to: Pending,
    pub zxid: i64,
    /// 0, or ZooKeeper's error number; then there is no record.
    pub err: i32,
    /// The record, in jute.
    pub body: &'a [u8],
}

/// The server broke the protocol; the connection is of no use any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProtocolError {
    #[error("a frame claims {0} bytes")]
    Length(i32),
    #[error("a reply does not parse")]
    Malformed,
    #[error("a reply with number {got} came where {wanted:?} was next")]
    Order { got: i32, wanted: Option<i32> },
}

impl From<Malformed> for ProtocolError {
    fn from(_: Malformed) -> ProtocolError {
        ProtocolError::Malformed
    }
}

impl Session {
    /// Starts with the handshake in the output. `ticket` is a default one for a new session, timeouts are what is asked
    /// for: the server has its own bounds.
    pub fn new(ticket: Ticket, timeout_ms: u32) -> Session {
        let mut output = Vec::new();
        let timeout_ms = i32::try_from(timeout_ms).unwrap_or(i32::MAX);
        let Ticket { session, password, last_zxid } = ticket;
        ConnectRequest { protocol_version: 0, last_zxid_seen: last_zxid, timeout_ms, session, password: &password, read_only: Some(false) }
            .encode(&mut output);
        Session { ticket, timeout_ms: None, next_xid: 1, pending: VecDeque::new(), input: Vec::new(), consumed: 0, output }
    }

    /// What a later connection needs to go on with this session.
    pub fn ticket(&self) -> Ticket {
        self.ticket
    }

    /// The negotiated timeout, once connected.
    pub fn timeout_ms(&self) -> Option<u32> {
        self.timeout_ms
    }

    /// Requests without an answer, oldest first.
    pub fn pending(&self) -> &VecDeque<Pending> {
        &self.pending
    }

    /// Queues a request and returns its number. Pings, authentication and setWatches have the numbers ZooKeeper
    /// reserves for them, all others count up from 1. May be called before the handshake is answered.
    pub fn send(&mut self, request: &Request<'_>) -> i32 {
        let number = match request {
            Request::Ping => xid::PING,
            Request::Auth { .. } => xid::AUTH,
            Request::SetWatches(_) | Request::SetWatches2(_) => xid::SET_WATCHES,
            _ => {
                let next = self.next_xid;
                self.next_xid = if next == i32::MAX { 1 } else { next + 1 };
                next
            }
        };
        self.pending.push_back(Pending { xid: number, opcode: request.opcode() });
        request.encode_frame(number, &mut self.output);
        number
    }

    /// Bytes for the socket; the caller takes them out as it writes them.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Takes in bytes from the socket.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.consumed == self.input.len() {
            self.input.clear();
            self.consumed = 0;
        } else if self.consumed > CONSUMED_BYTES_MAX {
            self.input.drain(..self.consumed);
            self.consumed = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    /// The next complete event, `None` when more bytes are needed.
    ///
    /// # Errors
    /// The server broke the protocol: close the connection, the session can be resumed elsewhere.
    pub fn next_event(&mut self) -> Result<Option<Event<'_>>, ProtocolError> {
        let Some((head, _)) = self.input[self.consumed..].split_first_chunk::<4>() else { return Ok(None) };
        let length = i32::from_be_bytes(*head);
        if length < 0 || length as usize > REPLY_BYTES_MAX {
            return Err(ProtocolError::Length(length));
        }
        let (start, end) = (self.consumed + 4, self.consumed + 4 + length as usize);
        if self.input.len() < end {
            return Ok(None);
        }
        self.consumed = end;
        let frame = &self.input[start..end];
        if self.timeout_ms.is_none() {
            return Self::handshake(&mut self.ticket, &mut self.timeout_ms, frame).map(Some);
        }
        let mut reader = Reader::new(frame);
        let header = ReplyHeader::decode(&mut reader)?;
        // Events and error replies tell how far this server is, too, but never a number to go back to.
        self.ticket.last_zxid = self.ticket.last_zxid.max(header.zxid);
        if header.xid == xid::NOTIFICATION {
            let (kind, _state, path) = (reader.i32()?, reader.i32()?, reader.utf8()?);
            return Ok(Some(Event::Watch { kind, path, zxid: header.zxid }));
        }
        let to = Self::answered(&mut self.pending, header.xid)?;
        Ok(Some(Event::Reply(Reply { to, zxid: header.zxid, err: header.err, body: reader.rest() })))
    }

    fn handshake<'a>(ticket: &mut Ticket, timeout_ms: &mut Option<u32>, frame: &'a [u8]) -> Result<Event<'a>, ProtocolError> {
        let response = ConnectResponse::decode(frame)?;
        if response.session == 0 || response.timeout_ms <= 0 {
            return Ok(Event::Expired);
        }
        let timeout = response.timeout_ms as u32;
        ticket.session = response.session;
        ticket.password = response.password.try_into().map_err(|_| ProtocolError::Malformed)?;
        *timeout_ms = Some(timeout);
        Ok(Event::Connected { session: response.session, timeout_ms: timeout, read_only: response.read_only == Some(true) })
    }

    /// Finds the request a reply is for: the oldest one, except that authentication may overtake.
    fn answered(pending: &mut VecDeque<Pending>, number: i32) -> Result<Pending, ProtocolError> {
        let at = match number {
            xid::AUTH => pending.iter().position(|p| p.xid == xid::AUTH),
            // An authentication that is still out does not hold up what came after it.
            _ => pending.iter().position(|p| p.xid != xid::AUTH).filter(|&at| pending[at].xid == number),
        };
        let wrong = || ProtocolError::Order { got: number, wanted: pending.front().map(|p| p.xid) };
        let at = at.ok_or_else(wrong)?;
        Ok(pending.remove(at).expect("a position within"))
    }
}

impl<'a> Reply<'a> {
    /// The reply to exists, setData and setACL.
    pub fn stat(&self) -> Result<Stat, Malformed> {
        Stat::decode(&mut Reader::new(self.body))
    }

    /// The reply to getData.
    pub fn data_and_stat(&self) -> Result<(Option<&'a [u8]>, Stat), Malformed> {
        let mut reader = Reader::new(self.body);
        Ok((reader.buffer()?, Stat::decode(&mut reader)?))
    }

    /// The path in the reply to create, create2, createContainer, createTTL and sync.
    pub fn path(&self) -> Result<Cow<'a, str>, Malformed> {
        Reader::new(self.body).required()
    }

    /// The reply to create2, createContainer and createTTL.
    pub fn path_and_stat(&self) -> Result<(Cow<'a, str>, Stat), Malformed> {
        let mut reader = Reader::new(self.body);
        Ok((reader.required()?, Stat::decode(&mut reader)?))
    }

    /// The names in the reply to getChildren and getChildren2, in the order they came.
    pub fn children(&self) -> Result<Vec<Cow<'a, str>>, Malformed> {
        names(&mut Reader::new(self.body))
    }

    /// The reply to getChildren2.
    pub fn children_and_stat(&self) -> Result<(Vec<Cow<'a, str>>, Stat), Malformed> {
        let mut reader = Reader::new(self.body);
        Ok((names(&mut reader)?, Stat::decode(&mut reader)?))
    }

    /// The reply to a page of children: names in order, whether there are more, and the Stat of the node.
    pub fn children_page(&self) -> Result<(Vec<Cow<'a, str>>, bool, Stat), Malformed> {
        let mut reader = Reader::new(self.body);
        Ok((names(&mut reader)?, reader.bool()?, Stat::decode(&mut reader)?))
    }

    /// Whether the request succeeded.
    pub fn is_ok(&self) -> bool {
        self.err == code::OK
    }
}

fn names<'a>(reader: &mut Reader<'a>) -> Result<Vec<Cow<'a, str>>, Malformed> {
    let count = reader.vector(4)?.unwrap_or(0);
    (0..count).map(|_| reader.required()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::response;

    fn connected() -> Session {
        let mut session = Session::new(Ticket::default(), 10_000);
        session.output().clear();
        let mut bytes = Vec::new();
        response::connect(&mut bytes, 4000, 0x77, &[3; 16], Some(false));
        session.receive(&bytes);
        assert_eq!(session.next_event(), Ok(Some(Event::Connected { session: 0x77, timeout_ms: 4000, read_only: false })));
        session
    }

    fn exists(path: &str) -> Request<'_> {
        Request::Exists { path: path.into(), watch: true }
    }

    #[test]
    fn the_first_frame_is_the_handshake() {
        let ticket = Ticket { session: 5, password: [9; 16], last_zxid: 12 };
        let mut session = Session::new(ticket, 10_000);
        let request = ConnectRequest::decode(&session.output()[4..]).unwrap();
        assert_eq!((request.session, request.password, request.last_zxid_seen, request.timeout_ms), (5, &[9; 16][..], 12, 10_000));
        let mut bytes = Vec::new();
        response::connect(&mut bytes, 0, 0, &[0; 16], Some(false));
        session.receive(&bytes);
        assert_eq!(session.next_event(), Ok(Some(Event::Expired)));
    }

    #[test]
    fn replies_come_in_order_and_events_in_between() {
        let mut session = connected();
        let (first, second) = (session.send(&exists("/a")), session.send(&exists("/b")));
        assert_eq!((first, second), (1, 2));
        let mut bytes = Vec::new();
        response::reply(&mut bytes, 1, 7, code::NO_NODE);
        response::watch_event(&mut bytes, 8, 1, "/a");
        response::reply(&mut bytes, 2, 8, code::NO_NODE);
        // However the bytes are cut.
        let mut seen = Vec::new();
        for byte in bytes {
            session.receive(&[byte]);
            while let Some(event) = session.next_event().unwrap() {
                seen.push(match event {
                    Event::Reply(reply) => format!("{} {} {}", reply.to.xid, reply.to.opcode, reply.err),
                    Event::Watch { kind, path, zxid } => format!("watch {kind} {path} {zxid}"),
                    other => format!("{other:?}"),
                });
            }
        }
        assert_eq!(seen, ["1 3 -101", "watch 1 /a 8", "2 3 -101"]);
        assert_eq!((session.ticket().last_zxid, session.pending().len()), (8, 0));
    }

    #[test]
    fn authentication_may_overtake_and_nothing_else() {
        let mut session = connected();
        session.send(&exists("/a"));
        session.send(&Request::Auth { scheme: "digest".into(), credentials: Some(b"u:p") });
        session.send(&exists("/b"));
        let mut bytes = Vec::new();
        for number in [xid::AUTH, 1, 2, 2] {
            response::reply(&mut bytes, number, 1, code::NO_NODE);
        }
        session.receive(&bytes);
        for wanted in [xid::AUTH, 1, 2] {
            let Ok(Some(Event::Reply(reply))) = session.next_event() else { panic!("a reply") };
            assert_eq!(reply.to.xid, wanted);
        }
        assert_eq!(session.next_event(), Err(ProtocolError::Order { got: 2, wanted: None }));
    }

    #[test]
    fn absurd_lengths_are_refused() {
        for length in [-1, i32::MIN, i32::MAX] {
            let mut session = connected();
            session.receive(&length.to_be_bytes());
            assert_eq!(session.next_event(), Err(ProtocolError::Length(length)));
        }
    }
}
