//! Frames from a server, judged as they arrive: handshakes, replies, events. Refuses to answer for what is under way.

use super::watching::Mode;
use super::{Checker, Conn, End, Fate, Link, Waiting, violated};
use crate::sim::ask::Ask;
use crate::sim::linear::Reply;
use crate::wire::jute::{Reader, write_i32, write_string};
use crate::wire::record::{ConnectResponse, STATE_SYNC_CONNECTED, xid as xids};
use crate::wire::request::opcode;
use crate::wire::response::{ReplyHeader, code};
use std::rc::Rc;

/// How a handshake ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Welcome {
    /// The session, new or resumed, and its timeout.
    Open { session: i64, timeout_ms: i32, password: [u8; 16] },
    /// The session is gone.
    Expired,
}

/// What a frame was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Heard {
    Reply {
        ask: Rc<Ask>,
        zxid: u64,
        err: i32,
        /// The record behind the header.
        record: Vec<u8>,
    },
    Event {
        kind: i32,
        path: String,
        /// None: it catches up after a reconnect.
        zxid: Option<u64>,
    },
    Authenticated,
}

impl Checker {
    /// The first frame of a connection.
    pub fn welcome(&mut self, link: Link, frame: &[u8]) -> Welcome {
        let Ok(response) = ConnectResponse::decode(frame) else { violated("G5", format_args!("a handshake answered with {frame:?}")) };
        let conn = self.conns.get_mut(&link).expect("a live connection");
        let (hello, session) = (conn.hello, response.session);
        if response.read_only != hello.read_only_field.then_some(false) {
            violated("G5", format_args!("the readOnly byte does not answer {hello:?}: {response:?}"));
        }
        if session == 0 {
            if hello.session == 0 {
                violated("G5", format_args!("a new session was refused"));
            }
            if hello.password_right && self.model.is_open(hello.session) {
                violated("G5", format_args!("session 0x{:x} was told to have expired and is open", hello.session));
            }
            conn.end = Some((0, End::Closed));
            return Welcome::Expired;
        }
        if hello.session != 0 && hello.session != session {
            violated("G5", format_args!("session 0x{:x} was resumed as 0x{session:x}", hello.session));
        }
        if !conn.attached || conn.session != session {
            violated("B6", format_args!("session 0x{session:x} was given out before it was committed"));
        }
        let known = self.model.session(session).expect("it was attached");
        if response.password != known.password || response.timeout_ms <= 0 {
            violated("G5", format_args!("session 0x{session:x} has another password or timeout: {response:?}"));
        }
        conn.welcomed = true;
        conn.watching.advance(&self.model, conn.zxid);
        Welcome::Open { session, timeout_ms: response.timeout_ms, password: known.password }
    }

    /// Any later frame.
    pub fn frame(&mut self, link: Link, frame: &[u8]) -> Heard {
        let mut reader = Reader::new(frame);
        let Ok(header) = ReplyHeader::decode(&mut reader) else { violated("E2", format_args!("a frame without a header: {frame:?}")) };
        let record = reader.rest();
        match header.xid {
            xids::NOTIFICATION => self.event(link, header.zxid, record),
            xids::AUTH => self.authenticated(link, &header),
            _ => self.reply(link, &header, record),
        }
    }

    fn authenticated(&mut self, link: Link, header: &ReplyHeader) -> Heard {
        let conn = self.conns.get_mut(&link).expect("a live connection");
        let Some(ids) = conn.auths.pop_front() else { violated("E2", format_args!("nobody sent credentials: {header:?}")) };
        if header.err != code::OK || header.zxid != 0 {
            violated("E1", format_args!("digest credentials are always good: {header:?}"));
        }
        conn.watching.authenticated(ids);
        Heard::Authenticated
    }

    fn event(&mut self, link: Link, zxid: i64, record: &[u8]) -> Heard {
        let mut reader = Reader::new(record);
        let (Ok(kind), Ok(STATE_SYNC_CONNECTED), Ok(path)) = (reader.i32(), reader.i32(), reader.required()) else {
            violated("W4", format_args!("an event that says {record:?}"))
        };
        self.judged.events += 1;
        let path = path.into_owned();
        if zxid == -1 {
            self.judged.catch_ups += 1;
            self.conns.get_mut(&link).expect("a live connection").watching.catch_up(kind, &path);
            return Heard::Event { kind, path, zxid: None };
        }
        let zxid = zxid as u64;
        self.view(link, zxid, true, None);
        let conn = self.conns.get_mut(&link).expect("a live connection");
        conn.watching.advance(&self.model, zxid);
        conn.watching.event(zxid, kind, &path);
        Heard::Event { kind, path, zxid: Some(zxid) }
    }

    /// A frame shows the state at `zxid`.
    fn view(&mut self, link: Link, zxid: u64, event: bool, ask: Option<&Ask>) {
        let conn = self.conns.get_mut(&link).expect("a live connection");
        if zxid > self.model.zxid() {
            violated("B6", format_args!("0x{zxid:x} was shown, committed is 0x{:x}", self.model.zxid()));
        }
        if zxid < conn.zxid {
            violated("E3", format_args!("{link:?} went back from 0x{:x} to 0x{zxid:x}", conn.zxid));
        }
        match conn.end {
            Some((at, End::Moved)) if zxid >= at => {
                violated("G6", format_args!("0x{zxid:x} was shown over a connection that lost its session at 0x{at:x}"));
            }
            Some((at, End::Closed)) if zxid >= at => {
                violated("G5", format_args!("0x{zxid:x} was shown after the session closed at 0x{at:x}"))
            }
            Some((at, End::ClosedHere)) if zxid > at || zxid == at && !event && !matches!(ask, Some(Ask::CloseSession)) => {
                violated("G5", format_args!("0x{zxid:x} was shown after the session closed at 0x{at:x}"));
            }
            _ => {}
        }
        conn.zxid = zxid;
        self.shown = self.shown.max(zxid);
    }

    fn reply(&mut self, link: Link, header: &ReplyHeader, record: &[u8]) -> Heard {
        let conn = self.conns.get_mut(&link).expect("a live connection");
        let Some(waiting) = conn.waiting.pop_front() else { violated("E2", format_args!("a reply to nothing: {header:?}")) };
        if waiting.xid != header.xid {
            violated("E2", format_args!("{header:?} came before the reply to {}: {:?}", waiting.xid, waiting.ask));
        }
        let zxid = header.zxid as u64;
        self.judged.replies += 1;
        self.view(link, zxid, false, Some(&waiting.ask));
        let conn = self.conns.get_mut(&link).expect("a live connection");
        conn.watching.advance(&self.model, zxid);
        if !matches!(*waiting.ask, Ask::SetWatches(_)) {
            conn.watching.none_due("W1", zxid);
        }
        match waiting.sequence {
            Some(sequence) => self.ordered(link, sequence, &waiting, header, record),
            None => self.local(link, &waiting, header, record),
        }
        if let Some(token) = waiting.token {
            self.registers.complete(token, register_reply(header.err, record, &waiting.ask));
        }
        Heard::Reply { ask: waiting.ask, zxid, err: header.err, record: record.to_vec() }
    }

    /// The reply to a write or a sync.
    fn ordered(&mut self, link: Link, sequence: u32, waiting: &Waiting, header: &ReplyHeader, record: &[u8]) {
        let zxid = header.zxid as u64;
        let refusals = self.settings.refusals;
        let conn = self.conns.get_mut(&link).expect("a live connection");
        let submit = conn.forget_until(sequence);
        if let Ask::Sync { path } = &*waiting.ask {
            self.judged.syncs += 1;
            let mut echo = Vec::new();
            write_string(&mut echo, path);
            if header.err != code::OK || record != echo {
                violated("E5", format_args!("sync of {path}: {header:?} {record:?}"));
            }
            if zxid < waiting.after {
                violated("E5", format_args!("sync answered at 0x{zxid:x}, 0x{:x} was shown before it was asked", waiting.after));
            }
            return;
        }
        match &submit.fate {
            Fate::Committed { zxid: at, err, record: expected } => {
                if *at != zxid {
                    violated("E1", format_args!("{:?} was committed at 0x{at:x}, answered at 0x{zxid:x}", waiting.ask));
                }
                if *err != header.err {
                    violated("E1", format_args!("{:?} at 0x{zxid:x} answered {}, not {err}", waiting.ask, header.err));
                }
                if expected != record {
                    violated("E9", format_args!("{:?} at 0x{zxid:x} answered {record:?}, not {expected:?}", waiting.ask));
                }
            }
            // A full disk refuses what makes the tree grow, and nothing else.
            Fate::Sent if refusals && waiting.ask.may_grow() && header.err == code::SYSTEM_ERROR && record.is_empty() => {
                submit.fate = Fate::Refused;
                self.judged.refused += 1;
                return;
            }
            fate => violated("E8", format_args!("{:?} was answered {header:?}, it is {fate:?}", waiting.ask)),
        }
        self.judged.writes += 1;
        self.acknowledged = self.acknowledged.max(zxid);
    }

    /// The reply to a request that the shard answers by itself.
    fn local(&mut self, link: Link, waiting: &Waiting, header: &ReplyHeader, record: &[u8]) {
        let zxid = header.zxid as u64;
        if self.settings.linearizable_reads && zxid < waiting.after && !matches!(*waiting.ask, Ask::Ping) {
            let (ask, after) = (&waiting.ask, waiting.after);
            violated("E5", format_args!("{ask:?} answered at 0x{zxid:x}, 0x{after:x} was shown before it was asked"));
        }
        let conn = self.conns.get_mut(&link).expect("a live connection");
        let mut ok = Vec::new();
        let expected = match &*waiting.ask {
            Ask::Ping => Ok(ok),
            Ask::SetWatches(lists) => {
                let told = conn.watching.set(&self.model, lists);
                conn.watching.none_due("W1", zxid);
                debug_assert!(told as u64 <= self.judged.catch_ups);
                Ok(ok)
            }
            Ask::AddWatch { path, mode } => match mode {
                0 | 1 => {
                    let mode = if *mode == 0 { Mode::Persistent } else { Mode::Recursive };
                    conn.watching.register(&self.model, path, mode);
                    write_i32(&mut ok, 0);
                    Ok(ok)
                }
                _ => Err(code::MARSHALLING_ERROR),
            },
            Ask::CheckWatches { kind, .. } | Ask::RemoveWatches { kind, .. } if !(1..=5).contains(kind) => Err(code::MARSHALLING_ERROR),
            Ask::CheckWatches { path, kind } => conn.watching.has(path, *kind).then_some(ok).ok_or(code::NO_WATCHER),
            Ask::RemoveWatches { path, kind } => conn.watching.remove(path, *kind).then_some(ok).ok_or(code::NO_WATCHER),
            read => {
                self.judged.reads += 1;
                self.model.read(zxid, Checker::asker(conn.session, &waiting.ids), read)
            }
        };
        let got = if header.err == code::OK { Ok(record) } else { Err(header.err) };
        if got != expected.as_deref().map_err(|err| *err) || header.err != code::OK && !record.is_empty() {
            let id = if matches!(*waiting.ask, Ask::CheckWatches { .. } | Ask::RemoveWatches { .. }) { "W2" } else { "E4" };
            violated(id, format_args!("{:?} at 0x{zxid:x} answered {got:?}, the model has {expected:?}", waiting.ask));
        }
        watch(conn, &self.model, &waiting.ask, header.err);
    }
}

/// A read may leave a watch behind, as of the zxid at which it was answered.
fn watch(conn: &mut Conn, model: &crate::sim::model::Model, ask: &Ask, err: i32) {
    match ask {
        Ask::GetData { path, watch: true } if err == code::OK => conn.watching.register(model, path, Mode::Data),
        Ask::Exists { path, watch: true } if err == code::OK || err == code::NO_NODE => conn.watching.register(model, path, Mode::Data),
        Ask::GetChildren { path, watch: true } | Ask::GetChildren2 { path, watch: true } if err == code::OK => {
            conn.watching.register(model, path, Mode::Child);
        }
        _ => {}
    }
}

/// What a register's client learned from a reply; None: nothing happened.
fn register_reply(err: i32, record: &[u8], ask: &Ask) -> Option<Reply> {
    let value = || {
        let data = Reader::new(record).buffer().ok().flatten()?;
        data.try_into().ok().map(u64::from_be_bytes)
    };
    match (err, ask.opcode()) {
        (code::OK, opcode::GET_DATA) => Some(Reply::Value(value())),
        (code::NO_NODE, opcode::GET_DATA) => Some(Reply::Value(None)),
        (code::OK, _) => Some(Reply::Done),
        (code::NO_NODE | code::NODE_EXISTS, _) => Some(Reply::Failed),
        _ => None,
    }
}

impl Conn {
    /// The submit with this sequence number, which is answered now: those before it are done.
    fn forget_until(&mut self, sequence: u32) -> &mut super::Submit {
        while self.first_sequence < sequence {
            self.submits.pop_front();
            self.first_sequence += 1;
        }
        self.submits.front_mut().expect("what waits was submitted")
    }
}
