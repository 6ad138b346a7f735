//! A simulated client: sends random requests over one connection at a time and checks everything it gets back: order of
//! replies, zxids that never go back, reads equal to the history at the reply's zxid, watch events before any reply that
//! shows the change. Refuses to retry: an operation whose connection broke stays unknown.

use super::history::History;
use super::random::Dice;
use crate::wire::jute::Reader;
use crate::wire::record::{ConnectRequest, ConnectResponse, Stat, xid as xids};
use crate::wire::request::{Create, MultiOps, OPEN_ACL, Request};
use crate::wire::response::{ReplyHeader, code};
use std::collections::{BTreeMap, VecDeque};

const PATHS: [&str; 7] = ["/a", "/b", "/a/x", "/a/y", "/b/x", "/e", "/a/s-"];

/// What was asked, to judge the answer.
#[derive(Clone, Debug)]
enum Asked {
    Get { path: &'static str, watch: bool },
    Exists { path: &'static str, watch: bool },
    Write,
    Close,
    Other,
}

/// Figures of what happened.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Tally {
    pub replies: u64,
    pub writes_acknowledged: u64,
    pub reads_checked: u64,
    pub events: u64,
    pub sessions: u64,
    pub expired: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.replies += other.replies;
        self.writes_acknowledged += other.writes_acknowledged;
        self.reads_checked += other.reads_checked;
        self.events += other.events;
        self.sessions += other.sessions;
        self.expired += other.expired;
    }
}

/// One client. The world moves its bytes.
pub struct Client {
    pub outgoing: Vec<u8>,
    pub tally: Tally,
    session: i64,
    password: [u8; 16],
    connected: bool,
    attached: bool,
    next_xid: i32,
    asked: VecDeque<(i32, Asked)>,
    incoming: Vec<u8>,
    last_zxid: u64,
    /// Armed one-shot data watches: path to the zxid of the reply that armed it.
    watches: BTreeMap<&'static str, u64>,
    /// The highest zxid of a write that was answered.
    pub acknowledged: u64,
}

impl Client {
    pub fn new() -> Client {
        Client {
            outgoing: Vec::new(),
            tally: Tally::default(),
            session: 0,
            password: [0; 16],
            connected: false,
            attached: false,
            next_xid: 1,
            asked: VecDeque::new(),
            incoming: Vec::new(),
            last_zxid: 0,
            watches: BTreeMap::new(),
            acknowledged: 0,
        }
    }

    /// Has a session, and nothing asked that is not answered.
    pub fn is_idle(&self) -> bool {
        self.attached && self.asked.is_empty()
    }

    /// The highest zxid that it has seen.
    pub fn last_zxid(&self) -> u64 {
        self.last_zxid
    }

    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// A new connection: the handshake goes out.
    pub fn connect(&mut self) {
        self.connected = true;
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: self.last_zxid as i64,
            timeout_ms: 4000,
            session: self.session,
            password: &self.password,
            read_only: Some(false),
        };
        request.encode(&mut self.outgoing);
    }

    /// The connection is gone, and with it what was under way.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.attached = false;
        self.outgoing.clear();
        self.incoming.clear();
        self.asked.clear();
        self.watches.clear();
    }

    /// Sends one random request, if it may.
    pub fn act(&mut self, dice: &mut Dice) {
        if !self.attached || self.asked.len() > 20 || matches!(self.asked.back(), Some((_, Asked::Close))) {
            return;
        }
        let path = *dice.pick(&PATHS);
        let watch = dice.chance(40);
        let version = if dice.chance(70) { -1 } else { dice.below(3) as i32 };
        let data = dice.roll().to_be_bytes();
        let create = |path: &'static str, flags| Create { path: path.into(), data: Some(&data), acl: OPEN_ACL, flags };
        match dice.below(100) {
            0..25 => self.ask(&Request::GetData { path: path.into(), watch }, Asked::Get { path, watch }),
            25..35 => self.ask(&Request::Exists { path: path.into(), watch }, Asked::Exists { path, watch }),
            35..55 => {
                let flags = if path == "/e" { 1 } else { 2 * i32::from(path == "/a/s-") };
                self.ask(&Request::Create(create(path, flags)), Asked::Write);
            }
            55..75 => self.ask(&Request::SetData { path: path.into(), data: Some(&data), version }, Asked::Write),
            75..85 => self.ask(&Request::Delete { path: path.into(), version }, Asked::Write),
            85..90 => {
                let ops = [Request::Create(create("/b", 0)), Request::SetData { path: "/a".into(), data: Some(&data), version }];
                let raw = MultiOps::encode_ops(&ops);
                self.ask(&Request::Multi(MultiOps::from_encoded(&raw).expect("our own encoding")), Asked::Write);
            }
            90..93 => self.ask(&Request::Sync { path: path.into() }, Asked::Other),
            93..96 => self.ask(&Request::Ping, Asked::Other),
            96..99 => self.ask(&Request::GetChildren2 { path: path.into(), watch: false }, Asked::Other),
            _ => self.ask(&Request::CloseSession, Asked::Close),
        }
    }

    /// A ping, so that the session lives.
    pub fn ping(&mut self) {
        if self.attached {
            self.ask(&Request::Ping, Asked::Other);
        }
    }

    fn ask(&mut self, request: &Request<'_>, asked: Asked) {
        let xid = if matches!(request, Request::Ping) { xids::PING } else { self.next_xid };
        self.next_xid += 1;
        request.encode_frame(xid, &mut self.outgoing);
        self.asked.push_back((xid, asked));
    }

    /// Bytes from the server.
    pub fn receive(&mut self, bytes: &[u8], history: &History) {
        self.incoming.extend_from_slice(bytes);
        let incoming = std::mem::take(&mut self.incoming);
        let mut rest = &incoming[..];
        while let Some((len, tail)) = rest.split_first_chunk::<4>() {
            let Some((frame, tail)) = tail.split_at_checked(u32::from_be_bytes(*len) as usize) else { break };
            if self.attached {
                self.frame(frame, history)
            } else {
                self.welcome(frame)
            }
            rest = tail;
        }
        self.incoming = rest.to_vec();
    }

    fn welcome(&mut self, frame: &[u8]) {
        let response = ConnectResponse::decode(frame).expect("a ConnectResponse");
        if response.session == 0 {
            assert_ne!(self.session, 0, "a new session is never refused");
            self.session = 0;
            self.tally.expired += 1;
            return;
        }
        assert!(self.session == 0 || self.session == response.session, "a resumed session keeps its id");
        self.tally.sessions += u64::from(self.session == 0);
        self.session = response.session;
        self.password.copy_from_slice(response.password);
        self.attached = true;
    }

    fn frame(&mut self, frame: &[u8], history: &History) {
        let mut reader = Reader::new(frame);
        let header = ReplyHeader::decode(&mut reader).expect("a header");
        let zxid = header.zxid as u64;
        assert!(zxid >= self.last_zxid, "zxid went back from 0x{:x} to 0x{zxid:x}", self.last_zxid);
        self.last_zxid = zxid;
        if header.xid == xids::NOTIFICATION {
            return self.event(&mut reader);
        }
        let (xid, asked) = self.asked.pop_front().expect("every reply has a request");
        assert_eq!(xid, header.xid, "replies come in the order of requests");
        self.tally.replies += 1;
        self.judge(&asked, &header, &mut reader, history);
    }

    fn event(&mut self, reader: &mut Reader<'_>) {
        let (_kind, _state, path) = (reader.i32(), reader.i32(), reader.utf8().expect("a path"));
        self.watches.remove(path).unwrap_or_else(|| panic!("an event for {path}, which nobody watches"));
        self.tally.events += 1;
    }

    fn judge(&mut self, asked: &Asked, header: &ReplyHeader, reader: &mut Reader<'_>, history: &History) {
        let zxid = header.zxid as u64;
        match *asked {
            Asked::Get { path, watch } => {
                let expected = history.at(path, zxid);
                assert_eq!(header.err == code::OK, expected.is_some(), "get {path} at 0x{zxid:x}: {header:?}");
                if let Some(value) = expected {
                    assert_eq!(reader.buffer(), Ok(Some(&value.data[..])), "get {path} at 0x{zxid:x}");
                    let stat = Stat::decode(reader).expect("a Stat");
                    assert_eq!(stat.version, value.version, "version of {path} at 0x{zxid:x}");
                }
                self.read(path, zxid, watch && header.err == code::OK, history);
            }
            Asked::Exists { path, watch } => {
                assert_eq!(header.err == code::OK, history.at(path, zxid).is_some(), "exists {path} at 0x{zxid:x}: {header:?}");
                self.read(path, zxid, watch, history);
            }
            Asked::Write => {
                self.acknowledged = self.acknowledged.max(zxid);
                self.tally.writes_acknowledged += 1;
            }
            Asked::Close => {
                self.session = 0;
                self.acknowledged = self.acknowledged.max(zxid);
            }
            Asked::Other => {}
        }
    }

    /// A read was answered: whatever it showed of a watched path must have been announced before.
    fn read(&mut self, path: &'static str, zxid: u64, watch: bool, history: &History) {
        self.tally.reads_checked += 1;
        if let Some(&armed) = self.watches.get(path) {
            assert!(!history.changed(path, armed, zxid), "{path} changed between 0x{armed:x} and 0x{zxid:x} without an event");
        }
        if watch {
            self.watches.insert(path, zxid);
        }
    }
}

impl Default for Client {
    fn default() -> Client {
        Client::new()
    }
}
