//! One client session without its socket: handshake, request ids, the queue of what is not answered yet, pings, close.
//! Bytes in, bytes out, time as an argument. Checks what holds for every reply: the order of request ids, and that the
//! zxid never goes back. Refuses to reconnect: a load generator that hides a lost connection lies.

use crate::frames::{BadLength, Frames};
use falconer::wire::jute::{Malformed, Reader, write_i32};
use falconer::wire::record::{ConnectRequest, ConnectResponse, xid};
use falconer::wire::request::{Request, opcode};
use falconer::wire::response::{ReplyHeader, WatchEvent};
use std::collections::VecDeque;

/// Why a session cannot go on: what follows in its stream could not be trusted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Broken {
    #[error("not the protocol: {0}")]
    Length(#[from] BadLength),
    #[error("not the protocol: {0}")]
    Record(#[from] Malformed),
    #[error("the server refused the session")]
    Refused,
    #[error("reply to request {got}, but {} is next: a reply was lost, repeated or overtaken", expected.map_or("none".into(), |x| x.to_string()))]
    WrongXid { expected: Option<i32>, got: i32 },
    #[error("zxid went back from {before:#x} to {after:#x}")]
    ZxidWentBack { before: i64, after: i64 },
    #[error("request {xid} has had no reply for {waited_ms} ms")]
    LostReply { xid: i32, waited_ms: u64 },
    #[error("no answer to the handshake for {waited_ms} ms")]
    NoHandshake { waited_ms: u64 },
    #[error("no reply to {0} pings")]
    Silent(u32),
    #[error("the server refused the session's USER:PASSWORD with error {0}")]
    AuthRefused(i32),
    #[error("a reply to a ping that was not sent")]
    UnexpectedPing,
    #[error("the server has let the session expire")]
    Expired,
    #[error("the server closed the connection with {unanswered} requests unanswered")]
    ClosedByServer { unanswered: usize },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Handshake,
    Open,
    Closing,
    Closed,
}

/// A request that is not answered yet, with what the caller wants to know again when it is.
struct Pending<T> {
    xid: i32,
    since_ns: u64,
    span: Span,
    /// None for what nobody waits for: closing the session, and authenticating it.
    what: Option<T>,
}

/// When an operation should have begun, and when it did. One operation may be several requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// When the schedule wanted it; latency counts from here.
    pub due_ns: u64,
    /// When its first request was sent; service time counts from here.
    pub begun_ns: u64,
}

/// A reply that belongs to a request; the body is what follows the header.
pub struct Reply<'a, T> {
    pub what: T,
    pub span: Span,
    pub header: ReplyHeader,
    pub body: &'a [u8],
}

/// What a server sends, besides pings.
pub enum Incoming<'a, T> {
    /// The handshake is done.
    Opened,
    Reply(Reply<'a, T>),
    Event(WatchEvent<'a>),
}

/// What a session needs to be taken up again on another connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub session: i64,
    pub password: [u8; 16],
    pub last_zxid: i64,
}

/// A session; `T` is what the caller remembers for each request.
pub struct Session<T> {
    frames: Frames,
    /// What waits to be written to the socket.
    pub output: Vec<u8>,
    stage: Stage,
    pending: VecDeque<Pending<T>>,
    next_xid: i32,
    identity: Identity,
    resuming: bool,
    timeout_ms: i32,
    last_sent_ns: u64,
    /// Pings without a reply.
    pings: u32,
}

/// Unanswered pings after which the server counts as silent; they are a third of the session timeout apart.
const PINGS_MAX: u32 = 3;
const MS: u64 = 1_000_000;

impl<T> Session<T> {
    /// A new session; its handshake is in `output`.
    pub fn new(timeout_ms: i32, now_ns: u64) -> Session<T> {
        Session::resume(Identity { session: 0, password: [0; 16], last_zxid: 0 }, timeout_ms, now_ns)
    }

    /// Takes up the session of another connection.
    pub fn resume(identity: Identity, timeout_ms: i32, now_ns: u64) -> Session<T> {
        let mut output = Vec::new();
        let Identity { session, password, last_zxid } = identity;
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: last_zxid,
            timeout_ms,
            session,
            password: &password,
            read_only: Some(false),
        };
        request.encode(&mut output);
        Session {
            frames: Frames::default(),
            output,
            stage: Stage::Handshake,
            pending: VecDeque::new(),
            next_xid: 1,
            identity,
            resuming: session != 0,
            timeout_ms,
            last_sent_ns: now_ns,
            pings: 0,
        }
    }

    /// Who this is; `session` is 0 before the handshake of a new one.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The newest zxid that any reply has carried.
    pub fn last_zxid(&self) -> i64 {
        self.identity.last_zxid
    }

    /// What will never be answered on this connection, oldest first.
    pub fn take_unanswered(&mut self) -> impl Iterator<Item = T> {
        self.pending.drain(..).filter_map(|pending| pending.what)
    }

    pub fn is_open(&self) -> bool {
        self.stage == Stage::Open
    }

    pub fn is_closed(&self) -> bool {
        self.stage == Stage::Closed
    }

    /// Requests without a reply.
    pub fn outstanding(&self) -> usize {
        self.pending.len()
    }

    /// Queues a request that belongs to an operation. The session must be open.
    pub fn send(&mut self, request: &Request<'_>, what: T, span: Span, now_ns: u64) {
        self.queue(request, Some(what), span, now_ns);
    }

    fn queue(&mut self, request: &Request<'_>, what: Option<T>, span: Span, now_ns: u64) {
        let xid = self.next_xid;
        self.next_xid = if xid == i32::MAX { 1 } else { xid + 1 };
        self.queue_as(xid, request, what, span, now_ns);
    }

    fn queue_as(&mut self, xid: i32, request: &Request<'_>, what: Option<T>, span: Span, now_ns: u64) {
        assert_eq!(self.stage, Stage::Open);
        request.encode_frame(xid, &mut self.output);
        self.pending.push_back(Pending { xid, since_ns: now_ns, span, what });
        self.last_sent_ns = now_ns;
    }

    /// Queues a setWatches, which has an id of its own. The session must have been taken up again just now.
    pub fn set_watches(&mut self, request: &Request<'_>, what: T, span: Span, now_ns: u64) {
        self.queue_as(xid::SET_WATCHES, request, Some(what), span, now_ns);
    }

    /// Shows USER:PASSWORD to the server. Right after the session was opened: servers answer this out of turn.
    pub fn authenticate(&mut self, user_and_password: &str, now_ns: u64) {
        let request = Request::Auth { scheme: "digest".into(), credentials: Some(user_and_password.as_bytes()) };
        self.queue_as(xid::AUTH, &request, None, Span { due_ns: now_ns, begun_ns: now_ns }, now_ns);
    }

    /// Whether the session was taken up again, rather than opened.
    pub fn is_resumed(&self) -> bool {
        self.resuming
    }

    /// Asks the server to end the session.
    pub fn close(&mut self, now_ns: u64) {
        self.queue(&Request::CloseSession, None, Span { due_ns: now_ns, begun_ns: now_ns }, now_ns);
        self.stage = Stage::Closing;
    }

    /// Keeps the session alive, and notices a server that has stopped answering. Call about once a second.
    pub fn tick(&mut self, now_ns: u64, reply_timeout_ms: u64) -> Result<(), Broken> {
        if let Some(first) = self.pending.front() {
            let waited_ms = now_ns.saturating_sub(first.since_ns) / MS;
            if waited_ms > reply_timeout_ms {
                return Err(Broken::LostReply { xid: first.xid, waited_ms });
            }
        }
        let quiet_ms = now_ns.saturating_sub(self.last_sent_ns) / MS;
        if self.stage == Stage::Handshake && quiet_ms > reply_timeout_ms {
            return Err(Broken::NoHandshake { waited_ms: quiet_ms });
        }
        if self.is_open() && quiet_ms > self.timeout_ms as u64 / 3 {
            self.ping(now_ns)?;
        }
        Ok(())
    }

    fn ping(&mut self, now_ns: u64) -> Result<(), Broken> {
        if self.pings == PINGS_MAX {
            return Err(Broken::Silent(self.pings));
        }
        self.pings += 1;
        self.last_sent_ns = now_ns;
        for word in [8, xid::PING, opcode::PING] {
            write_i32(&mut self.output, word);
        }
        Ok(())
    }

    /// Takes what was read and hands over everything in it, in order; the session can be written to meanwhile.
    pub fn receive(&mut self, bytes: &[u8], mut on: impl FnMut(&mut Session<T>, Incoming<'_, T>)) -> Result<(), Broken> {
        let mut frames = std::mem::take(&mut self.frames);
        let result = frames.feed(bytes, |frame| match self.stage {
            Stage::Handshake => self.handshake(frame, &mut on),
            _ => self.frame(frame, &mut on),
        });
        self.frames = frames;
        result
    }

    fn handshake(&mut self, frame: &[u8], on: &mut impl FnMut(&mut Session<T>, Incoming<'_, T>)) -> Result<(), Broken> {
        let response = ConnectResponse::decode(frame)?;
        if response.session == 0 || response.timeout_ms <= 0 {
            return Err(if self.resuming { Broken::Expired } else { Broken::Refused });
        }
        self.timeout_ms = response.timeout_ms;
        self.identity.session = response.session;
        self.identity.password = response.password.try_into().map_err(|_| Malformed)?;
        self.stage = Stage::Open;
        on(self, Incoming::Opened);
        Ok(())
    }

    fn frame(&mut self, frame: &[u8], on: &mut impl FnMut(&mut Session<T>, Incoming<'_, T>)) -> Result<(), Broken> {
        let mut reader = Reader::new(frame);
        let header = ReplyHeader::decode(&mut reader)?;
        match header.xid {
            xid::PING => {
                self.pings = self.pings.checked_sub(1).ok_or(Broken::UnexpectedPing)?;
                return Ok(());
            }
            xid::NOTIFICATION => {
                on(self, Incoming::Event(WatchEvent::decode(&mut reader)?));
                return Ok(());
            }
            _ => {}
        }
        let expected = self.pending.front().map(|first| first.xid);
        if expected != Some(header.xid) {
            return Err(Broken::WrongXid { expected, got: header.xid });
        }
        let before = self.identity.last_zxid;
        match header {
            // The answer to authenticating carries no zxid.
            ReplyHeader { xid: xid::AUTH, err: 0, .. } => {}
            ReplyHeader { xid: xid::AUTH, err, .. } => return Err(Broken::AuthRefused(err)),
            ReplyHeader { zxid, .. } if zxid < before => return Err(Broken::ZxidWentBack { before, after: zxid }),
            ReplyHeader { zxid, .. } => self.identity.last_zxid = zxid,
        }
        let first = self.pending.pop_front().expect("its xid was just compared");
        if self.stage == Stage::Closing && self.pending.is_empty() {
            self.stage = Stage::Closed;
        }
        if let Some(what) = first.what {
            on(self, Incoming::Reply(Reply { what, span: first.span, header, body: reader.rest() }));
        }
        Ok(())
    }

    /// The peer has closed the socket: fine only if we asked for it.
    pub fn closed_by_peer(&mut self) -> Result<(), Broken> {
        match self.stage {
            Stage::Closed => Ok(()),
            Stage::Handshake => Err(Broken::Refused),
            _ => Err(Broken::ClosedByServer { unanswered: self.pending.len() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use falconer::wire::response;

    fn open() -> Session<u32> {
        let mut session = Session::new(9000, 0);
        let mut bytes = Vec::new();
        response::connect(&mut bytes, 6000, 77, &[1; 16], Some(false));
        session.receive(&bytes, |_, incoming| assert!(matches!(incoming, Incoming::Opened))).unwrap();
        assert!(session.is_open());
        session.output.clear();
        session
    }

    const SPAN: Span = Span { due_ns: 5, begun_ns: 5 };

    fn get() -> Request<'static> {
        Request::GetData { path: "/a".into(), watch: false }
    }

    fn replies(list: &[(i32, u64)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        list.iter().for_each(|&(xid, zxid)| response::reply(&mut bytes, xid, zxid, 0));
        bytes
    }

    #[test]
    fn replies_come_back_in_order_around_pings() {
        let mut session = open();
        (10..13).for_each(|what| session.send(&get(), what, SPAN, 5));
        session.tick(2002 * MS, 5000).unwrap();
        let mut seen = Vec::new();
        let note = |_: &mut Session<u32>, incoming: Incoming<'_, u32>| match incoming {
            Incoming::Reply(reply) => seen.push((reply.what, reply.header.zxid)),
            _ => panic!("replies only"),
        };
        session.receive(&replies(&[(1, 3), (-2, 3), (2, 3), (3, 9)]), note).unwrap();
        assert_eq!(seen, [(10, 3), (11, 3), (12, 9)]);
        assert_eq!(session.outstanding(), 0);
    }

    #[test]
    fn a_lost_or_repeated_reply_is_reported() {
        let mut session = open();
        (0..3).for_each(|what| session.send(&get(), what, SPAN, 5));
        let error = session.receive(&replies(&[(1, 3), (3, 3)]), |_, _| {}).unwrap_err();
        assert_eq!(error, Broken::WrongXid { expected: Some(2), got: 3 });
        let mut session = open();
        session.send(&get(), 0, SPAN, 5);
        let error = session.receive(&replies(&[(1, 3), (1, 3)]), |_, _| {}).unwrap_err();
        assert_eq!(error, Broken::WrongXid { expected: None, got: 1 });
    }

    #[test]
    fn a_reply_that_never_comes_is_reported() {
        let mut session = open();
        session.send(&get(), 0, SPAN, 5 * MS);
        assert_eq!(session.tick(1005 * MS, 1000), Ok(()));
        assert_eq!(session.tick(1006 * MS, 1000), Err(Broken::LostReply { xid: 1, waited_ms: 1001 }));
    }

    #[test]
    fn time_does_not_run_backwards() {
        let mut session = open();
        (0..2).for_each(|what| session.send(&get(), what, SPAN, 5));
        let error = session.receive(&replies(&[(1, 8), (2, 7)]), |_, _| {}).unwrap_err();
        assert_eq!(error, Broken::ZxidWentBack { before: 8, after: 7 });
    }

    #[test]
    fn an_idle_session_pings_every_third_of_its_negotiated_timeout_until_nobody_answers() {
        let mut session = open();
        session.tick(1999 * MS, 1000).unwrap();
        assert!(session.output.is_empty());
        session.tick(2001 * MS, 1000).unwrap();
        assert_eq!(session.output, [0, 0, 0, 8, 0xff, 0xff, 0xff, 0xfe, 0, 0, 0, 11]);
        session.tick(4003 * MS, 1000).unwrap();
        session.tick(6005 * MS, 1000).unwrap();
        assert_eq!(session.tick(8007 * MS, 1000), Err(Broken::Silent(3)));
    }

    #[test]
    fn a_refused_session_and_a_lost_connection_are_errors() {
        let mut session = Session::<()>::new(9000, 0);
        let mut bytes = Vec::new();
        response::connect(&mut bytes, 0, 0, &[0; 16], Some(false));
        assert_eq!(session.receive(&bytes, |_, _| {}), Err(Broken::Refused));
        let mut session = open();
        session.send(&get(), 0, SPAN, 5);
        assert_eq!(session.closed_by_peer(), Err(Broken::ClosedByServer { unanswered: 1 }));
    }

    #[test]
    fn a_session_is_taken_up_again_where_it_was() {
        let mut session = open();
        session.send(&get(), 7, SPAN, 5);
        session.receive(&replies(&[(1, 9)]), |_, _| {}).unwrap();
        session.send(&get(), 8, SPAN, 5);
        let identity = session.identity();
        assert_eq!((identity.session, identity.password, identity.last_zxid), (77, [1; 16], 9));
        assert_eq!(session.take_unanswered().collect::<Vec<_>>(), [8]);
        let mut again = Session::<u32>::resume(identity, 9000, 6);
        let request = ConnectRequest::decode(&again.output[4..]).unwrap();
        assert_eq!((request.session, request.last_zxid_seen, request.password), (77, 9, &[1; 16][..]));
        let mut bytes = Vec::new();
        response::connect(&mut bytes, 0, 0, &[0; 16], Some(false));
        assert_eq!(again.receive(&bytes, |_, _| {}), Err(Broken::Expired));
    }

    #[test]
    fn authenticating_has_an_id_of_its_own_and_no_zxid() {
        let mut session = open();
        session.send(&get(), 7, SPAN, 5);
        session.receive(&replies(&[(1, 9)]), |_, _| {}).unwrap();
        session.authenticate("me:secret", 6);
        session.receive(&replies(&[(-4, 0)]), |_, _| {}).unwrap();
        assert_eq!((session.outstanding(), session.last_zxid()), (0, 9));
        session.authenticate("me:wrong", 6);
        let mut bytes = Vec::new();
        response::reply(&mut bytes, -4, 0, -115);
        assert_eq!(session.receive(&bytes, |_, _| {}), Err(Broken::AuthRefused(-115)));
    }

    #[test]
    fn events_come_through_and_leave_the_queue_alone() {
        let mut session = open();
        session.send(&get(), 7, SPAN, 5);
        let mut bytes = Vec::new();
        response::watch_event(&mut bytes, 4, 3, "/a");
        let mut path = String::new();
        session
            .receive(&bytes, |_, incoming| {
                if let Incoming::Event(event) = incoming {
                    path = event.path.into_owned()
                }
            })
            .unwrap();
        assert_eq!((path.as_str(), session.outstanding()), ("/a", 1));
    }

    #[test]
    fn closing_ends_with_the_last_reply() {
        let mut session = open();
        session.send(&get(), 0, SPAN, 5);
        session.close(6);
        session.receive(&replies(&[(1, 3)]), |_, _| {}).unwrap();
        assert!(!session.is_closed());
        session.receive(&replies(&[(2, 4)]), |_, _| {}).unwrap();
        assert!(session.is_closed());
        assert_eq!(session.closed_by_peer(), Ok(()));
    }
}
