//! A simulated client with the session semantics of real ones: handshake with the last zxid seen, pings at a third of the
//! timeout, another connection after a break, credentials and watches again, a new session when the old one expired.
//! Some have bad manners: they fall silent, do not read, send half frames, lie about passwords, take others' sessions over.
//!
//! The world moves its bytes and says when its connection is there or gone; what arrives is judged by the checker.
//! Refuses to retry: an operation whose connection broke stays unknown.

use super::ask::{Ask, WatchLists};
use super::checker::{Checker, Heard, Hello, Link, Welcome};
use super::linear::{Call, Token};
use super::plan::Focus;
use super::random::Dice;
use super::recipes::Recipe;
use super::workload::Swarm;
use crate::wire::jute::Reader;
use crate::wire::record::{ConnectRequest, event, xid as xids};
use crate::wire::response::code;
use std::collections::BTreeSet;
use std::rc::Rc;

/// Requests under way at most.
const WAITING_MAX: usize = 20;
/// Paths remembered.
const RECENT_MAX: usize = 8;

/// Figures of what a client saw.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Tally {
    pub replies: u64,
    pub writes_acknowledged: u64,
    pub reads_checked: u64,
    pub events: u64,
    pub sessions: u64,
    pub resumed: u64,
    pub expired: u64,
    /// Requests whose outcome nobody knows.
    pub unknown: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.replies += other.replies;
        self.writes_acknowledged += other.writes_acknowledged;
        self.reads_checked += other.reads_checked;
        self.events += other.events;
        self.sessions += other.sessions;
        self.resumed += other.resumed;
        self.expired += other.expired;
        self.unknown += other.unknown;
    }
}

/// Bad habits, each of some clients only.
#[derive(Clone, Copy, Default, Debug)]
struct Manners {
    falls_silent: bool,
    stops_reading: bool,
    halves_frames: bool,
    lies: bool,
    takes_over: bool,
    stays_away: bool,
}

impl Manners {
    fn roll(focus: Focus, dice: &mut Dice) -> Manners {
        let mut bad = || dice.chance(25);
        let manners =
            Manners { falls_silent: bad(), stops_reading: bad(), halves_frames: bad(), lies: bad(), takes_over: bad(), stays_away: bad() };
        match focus {
            // A recipe promises nothing to those who share a session.
            Focus::Recipes => Manners { takes_over: false, ..manners },
            Focus::Everything | Focus::Registers => manners,
        }
    }
}

/// What the client believes to watch: what it will ask for again after a reconnect.
#[derive(Clone, Default)]
struct Beliefs {
    data: BTreeSet<String>,
    exist: BTreeSet<String>,
    child: BTreeSet<String>,
    persistent: BTreeSet<String>,
    recursive: BTreeSet<String>,
}

/// One client. See the module heading.
pub struct Client {
    /// Bytes for the server, in order; the world takes them from the front.
    pub outgoing: Vec<u8>,
    pub tally: Tally,
    /// What it asks for.
    pub swarm: Swarm,
    id: u64,
    dice: Dice,
    manners: Manners,
    /// Comes back at once when its connection breaks.
    eager: bool,
    /// A read needs no sync before it.
    linearizable_reads: bool,
    /// Reads registers and writes none: nothing it asked for can be stuck behind a write.
    only_reads: bool,
    recipe: Option<Recipe>,
    session: i64,
    password: [u8; 16],
    /// The session is another client's.
    borrowed: bool,
    timeout_ms: u64,
    /// Of every frame, for the next handshake.
    last_zxid: u64,
    /// Of replies alone, for setWatches: a transaction's later events may be lost when its first one arrived.
    reply_zxid: u64,
    link: Option<Link>,
    attached: bool,
    lied: bool,
    /// It has sent closeSession, and sends nothing after it.
    closing: bool,
    waiting: usize,
    next_xid: i32,
    incoming: Vec<u8>,
    /// The rest of a frame that was sent in part.
    stash: Vec<u8>,
    last_sent_ms: u64,
    last_heard_ms: u64,
    next_connect_ms: u64,
    silent_until_ms: u64,
    deaf_until_ms: u64,
    credentials: Vec<Vec<u8>>,
    beliefs: Beliefs,
    recent: Vec<String>,
    values: u64,
}

impl Client {
    /// A client with habits and a workload of its own. Ids differ.
    pub fn new(id: u64, focus: Focus, linearizable_reads: bool, dice: &mut Dice) -> Client {
        let mut dice = Dice::new(dice.roll() ^ id);
        Client {
            outgoing: Vec::new(),
            tally: Tally::default(),
            swarm: Swarm::roll(focus, id, &mut dice),
            id,
            manners: Manners::roll(focus, &mut dice),
            linearizable_reads,
            eager: focus == Focus::Registers,
            only_reads: focus == Focus::Registers && id % 2 == 1,
            recipe: (focus == Focus::Recipes).then(|| Recipe::roll(id, &mut dice)),
            dice,
            session: 0,
            borrowed: false,
            password: [0; 16],
            timeout_ms: 4000,
            last_zxid: 0,
            reply_zxid: 0,
            link: None,
            attached: false,
            lied: false,
            closing: false,
            waiting: 0,
            next_xid: 1,
            incoming: Vec::new(),
            stash: Vec::new(),
            last_sent_ms: 0,
            last_heard_ms: 0,
            next_connect_ms: 0,
            silent_until_ms: 0,
            deaf_until_ms: 0,
            credentials: Vec::new(),
            beliefs: Beliefs::default(),
            recent: Vec::new(),
            values: 0,
        }
    }

    /// No bad manners any more: it pings, reads, and comes back at once.
    pub fn behave(&mut self) {
        self.manners = Manners::default();
        (self.silent_until_ms, self.deaf_until_ms, self.next_connect_ms) = (0, 0, 0);
    }

    pub fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// The connection it has, for the checker.
    pub fn link(&self) -> Option<Link> {
        self.link
    }

    /// Whether it wants to be connected, to any server, and is not.
    pub fn wants_connection(&self, now_ms: u64) -> bool {
        self.link.is_none() && now_ms >= self.next_connect_ms
    }

    /// Whether it takes bytes at the moment. If not, they wait in the network.
    pub fn reads(&self, now_ms: u64) -> bool {
        now_ms >= self.deaf_until_ms
    }

    /// Whether it heard nothing for so long that it will try another server: the world cuts the connection.
    pub fn gives_up(&self, now_ms: u64) -> bool {
        self.link.is_some() && self.reads(now_ms) && now_ms > self.last_heard_ms + self.timeout_ms * 2 / 3
    }

    /// Where it stands, for a report.
    pub fn describe(&self) -> String {
        let Client { session, attached, closing, waiting, stash, outgoing, .. } = self;
        let (stash, outgoing) = (stash.len(), outgoing.len());
        let (last_zxid, timeout_ms) = (self.last_zxid, self.timeout_ms);
        format!(
            "timeout {timeout_ms} seen 0x{last_zxid:x} session 0x{session:x} attached {attached} closing {closing} waiting {waiting} stash {stash} outgoing {outgoing}"
        )
    }

    /// Whether all it asked for was answered.
    pub fn is_idle(&self) -> bool {
        self.waiting == 0
    }

    /// A new connection is there: the handshake goes out. Returns the connection's name for the checker.
    pub fn connect(&mut self, checker: &mut Checker, now_ms: u64) -> Link {
        assert!(self.link.is_none(), "one connection at a time");
        if self.manners.stays_away && self.dice.chance(20) {
            self.forget_session(checker);
        }
        if self.borrowed && !self.manners.takes_over {
            // Two that behave do not fight over a session for ever.
            self.forget_session(checker);
        }
        if self.manners.takes_over && self.dice.chance(30) {
            self.take_over(checker);
        }
        self.lied = self.session != 0 && self.manners.lies && self.dice.chance(30);
        let mut password = self.password;
        password[3] ^= u8::from(self.lied);
        let timeout_ms = *self.dice.pick(&[4000, 4000, 2500, 100, 60_000]);
        let read_only = *self.dice.pick(&[None, Some(false), Some(true)]);
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: self.last_zxid as i64,
            timeout_ms,
            session: self.session,
            password: &password,
            read_only,
        };
        request.encode(&mut self.outgoing);
        let hello = Hello {
            session: self.session,
            password_right: !self.lied,
            timeout_ms,
            last_zxid_seen: self.last_zxid,
            read_only_field: read_only.is_some(),
        };
        let link = checker.connecting(hello, self.outgoing.len());
        self.link = Some(link);
        (self.last_sent_ms, self.last_heard_ms) = (now_ms, now_ms);
        link
    }

    fn take_over(&mut self, checker: &mut Checker) {
        if let Some((session, password)) = checker.some_session(self.dice.roll())
            && session != self.session
        {
            self.forget_session(checker);
            (self.session, self.password, self.borrowed) = (session, password, true);
        }
    }

    fn forget_session(&mut self, checker: &mut Checker) {
        if let Some(recipe) = &mut self.recipe {
            recipe.session_lost(&mut checker.recipes);
        }
        (self.session, self.password, self.last_zxid, self.reply_zxid) = (0, [0; 16], 0, 0);
        self.borrowed = false;
        self.beliefs = Beliefs::default();
        self.credentials.clear();
    }

    /// The connection is gone, and with it what was under way.
    pub fn disconnected(&mut self, checker: &mut Checker, now_ms: u64) {
        if let Some(link) = self.link.take() {
            checker.broken(link);
        }
        self.tally.unknown += self.waiting as u64;
        if let Some(recipe) = &mut self.recipe {
            recipe.unknown(&mut checker.recipes);
        }
        if self.closing && self.waiting > 0 {
            // Whether the session was closed is unknown; the next handshake will tell.
            self.closing = false;
        }
        (self.attached, self.closing, self.waiting) = (false, false, 0);
        self.outgoing.clear();
        self.incoming.clear();
        self.stash.clear();
        let away_ms = if self.eager {
            10
        } else if self.manners.stays_away && self.dice.chance(20) {
            self.timeout_ms * 2
        } else {
            self.timeout_ms / 10
        };
        self.next_connect_ms = now_ms + self.dice.below(away_ms as usize + 1) as u64;
    }

    /// Sends one random request, if it may.
    pub fn act(&mut self, dice: &mut Dice, checker: &mut Checker, now_ms: u64) {
        if !self.attached || self.closing || self.waiting >= WAITING_MAX || now_ms < self.silent_until_ms {
            return;
        }
        if self.manners.falls_silent && dice.chance(1) {
            self.silent_until_ms = now_ms + self.timeout_ms * 2;
        }
        if self.manners.stops_reading && dice.chance(2) {
            self.deaf_until_ms = now_ms + dice.below(self.timeout_ms as usize) as u64;
        }
        if let Some(recipe) = &mut self.recipe {
            if let Some(ask) = recipe.next(&mut checker.recipes) {
                self.ask(ask, None, checker, now_ms);
            }
            return;
        }
        let class = self.swarm.pick(dice);
        match self.swarm.ask(class, dice, &self.recent) {
            Some(ask) => self.ask(ask, None, checker, now_ms),
            None => self.use_register(dice, checker, now_ms),
        }
    }

    /// One operation on the register in use.
    fn use_register(&mut self, dice: &mut Dice, checker: &mut Checker, now_ms: u64) {
        let path = checker.registers.path();
        self.values += 1;
        let value = self.id << 32 | self.values;
        let data = Some(value.to_be_bytes().to_vec());
        match if self.only_reads { 9 } else { dice.below(10) } {
            0..2 => {
                let token = checker.registers.call(Call::Create(value));
                let acl = vec![crate::wire::record::Acl { perms: 31, scheme: "world".into(), id: "anyone".into() }];
                let create = Ask::Create { op: crate::wire::request::opcode::CREATE, path, data, acl, flags: 0, ttl_ms: 0 };
                self.ask(create, Some(token), checker, now_ms);
            }
            2..5 => {
                let token = checker.registers.call(Call::Set(value));
                self.ask(Ask::SetData { path, data, version: -1 }, Some(token), checker, now_ms);
            }
            5 => {
                let token = checker.registers.call(Call::Delete);
                self.ask(Ask::Delete { path, version: -1 }, Some(token), checker, now_ms);
            }
            _ => {
                let token = checker.registers.call(Call::Read);
                if !self.linearizable_reads {
                    self.ask(Ask::Sync { path: path.clone() }, None, checker, now_ms);
                }
                self.ask(Ask::GetData { path, watch: false }, Some(token), checker, now_ms);
            }
        }
    }

    /// Time passed: a ping, so that the session lives, and the rest of a frame.
    pub fn tick(&mut self, checker: &mut Checker, now_ms: u64) {
        if !self.attached || now_ms < self.silent_until_ms {
            return;
        }
        if self.dice.chance(50) {
            self.outgoing.append(&mut self.stash);
        }
        if !self.closing && now_ms >= self.last_sent_ms + self.timeout_ms / 3 {
            self.ask(Ask::Ping, None, checker, now_ms);
        }
    }

    fn ask(&mut self, ask: Ask, token: Option<Token>, checker: &mut Checker, now_ms: u64) {
        let xid = match ask {
            Ask::Ping => xids::PING,
            Ask::Auth { .. } => xids::AUTH,
            Ask::SetWatches(_) => xids::SET_WATCHES,
            _ => self.next_xid,
        };
        self.next_xid += 1;
        self.outgoing.append(&mut self.stash);
        let start = self.outgoing.len();
        ask.encode_frame(xid, &mut self.outgoing);
        let len = self.outgoing.len() - start;
        if self.manners.halves_frames && self.dice.chance(5) {
            self.stash = self.outgoing.split_off(start + self.dice.below(len));
        }
        self.closing = matches!(ask, Ask::CloseSession);
        if let Ask::Auth { credentials } = &ask {
            if !self.credentials.contains(credentials) {
                self.credentials.push(credentials.clone());
            }
        } else {
            self.waiting += 1;
        }
        self.last_sent_ms = now_ms;
        checker.sent(self.link.expect("it is attached"), xid, Rc::new(ask), len, token);
    }

    /// Bytes from the server.
    pub fn receive(&mut self, bytes: &[u8], checker: &mut Checker, now_ms: u64) {
        if self.link.is_none() {
            return;
        }
        self.last_heard_ms = now_ms;
        self.incoming.extend_from_slice(bytes);
        let incoming = std::mem::take(&mut self.incoming);
        let mut rest = &incoming[..];
        while let Some((len, tail)) = rest.split_first_chunk::<4>() {
            let Some((frame, tail)) = tail.split_at_checked(u32::from_be_bytes(*len) as usize) else { break };
            match self.attached {
                true => self.frame(frame, checker),
                false => self.welcome(frame, checker, now_ms),
            }
            rest = tail;
        }
        self.incoming = rest.to_vec();
    }

    fn welcome(&mut self, frame: &[u8], checker: &mut Checker, now_ms: u64) {
        match checker.welcome(self.link.expect("it receives"), frame) {
            // The lie was noticed; the session is still there for the right password.
            Welcome::Expired if self.lied => {}
            Welcome::Expired => {
                self.forget_session(checker);
                self.tally.expired += 1;
            }
            Welcome::Open { session, timeout_ms, password } => {
                match self.session == session {
                    true => self.tally.resumed += 1,
                    false => self.tally.sessions += 1,
                }
                (self.session, self.password, self.timeout_ms) = (session, password, timeout_ms as u64);
                self.attached = true;
                for credentials in std::mem::take(&mut self.credentials) {
                    self.ask(Ask::Auth { credentials }, None, checker, now_ms);
                }
                self.watch_again(checker, now_ms);
            }
        }
    }

    fn watch_again(&mut self, checker: &mut Checker, now_ms: u64) {
        let list = |set: &BTreeSet<String>| set.iter().cloned().collect();
        let lists = WatchLists {
            relative_zxid: self.reply_zxid,
            data: list(&self.beliefs.data),
            exist: list(&self.beliefs.exist),
            child: list(&self.beliefs.child),
            persistent: list(&self.beliefs.persistent),
            recursive: list(&self.beliefs.recursive),
        };
        if lists != (WatchLists { relative_zxid: self.reply_zxid, ..WatchLists::default() }) {
            self.ask(Ask::SetWatches(lists), None, checker, now_ms);
        }
    }

    fn frame(&mut self, frame: &[u8], checker: &mut Checker) {
        match checker.frame(self.link.expect("it receives"), frame) {
            Heard::Authenticated => {}
            Heard::Event { kind, path, zxid } => {
                self.tally.events += 1;
                self.last_zxid = self.last_zxid.max(zxid.unwrap_or(0));
                self.beliefs.told(kind, &path);
            }
            Heard::Reply { ask, zxid, err, record } => {
                self.waiting -= 1;
                self.tally.replies += 1;
                (self.last_zxid, self.reply_zxid) = (zxid, zxid);
                match ask.is_write() {
                    true => self.tally.writes_acknowledged += 1,
                    false => self.tally.reads_checked += 1,
                }
                self.learn(&ask, err, &record, checker);
            }
        }
    }

    fn learn(&mut self, ask: &Ask, err: i32, record: &[u8], checker: &mut Checker) {
        self.beliefs.learn(ask, err);
        if let Some(recipe) = &mut self.recipe {
            checker.follow_recipe(recipe, (self.session, ask, err, record), &mut self.dice);
        }
        match ask {
            Ask::CloseSession if err == code::OK => self.forget_session(checker),
            // Registers are left alone by everything else.
            Ask::Create { path, .. } if err == code::OK && !path.starts_with("/register-") => {
                if self.recent.len() >= RECENT_MAX {
                    self.recent.remove(0);
                }
                let path = Reader::new(record).required().map(|path| path.into_owned());
                self.recent.push(path.expect("the checker has compared it"));
            }
            _ => {}
        }
    }
}

impl Beliefs {
    /// A reply: what it left watched.
    fn learn(&mut self, ask: &Ask, err: i32) {
        let ok = err == code::OK;
        match ask {
            Ask::GetData { path, watch: true } if ok => drop(self.data.insert(path.clone())),
            Ask::Exists { path, watch: true } if ok => drop(self.data.insert(path.clone())),
            Ask::Exists { path, watch: true } if err == code::NO_NODE => drop(self.exist.insert(path.clone())),
            Ask::GetChildren { path, watch: true } | Ask::GetChildren2 { path, watch: true } if ok => {
                self.child.insert(path.clone());
            }
            Ask::AddWatch { path, mode } if ok => match mode {
                0 => drop(self.persistent.insert(path.clone())),
                _ => drop(self.recursive.insert(path.clone())),
            },
            Ask::RemoveWatches { path, kind } if ok => {
                if matches!(kind, 2 | 3) {
                    self.data.remove(path);
                    self.exist.remove(path);
                }
                for (named, set) in [(1, &mut self.child), (4, &mut self.persistent), (5, &mut self.recursive)] {
                    if *kind == named || *kind == 3 {
                        set.remove(path);
                    }
                }
            }
            _ => {}
        }
    }

    /// An event: what it used up.
    fn told(&mut self, kind: i32, path: &str) {
        if kind != event::NODE_CHILDREN_CHANGED {
            self.data.remove(path);
            self.exist.remove(path);
        }
        if matches!(kind, event::NODE_CHILDREN_CHANGED | event::NODE_DELETED) {
            self.child.remove(path);
        }
    }
}
