//! Judges everything that clients are told, as it arrives, against the order of committed transactions: each one is
//! executed on the reference model at its zxid and must come out the same, each reply must be what the model says at the
//! reply's zxid, watch events must be exactly those due. A violation is a panic that begins with the assertion's id:
//!
//! * `A7` zxids are contiguous, `B5` a server's whole state is the model's, `B6` nobody sees what is not committed.
//! * `E1` writes have the model's results, in real time because transactions are observed as they are published, `E2` replies and writes in program order, `E3` no client's
//!   view goes back, `E4` reads are exact, `E5` a sync reads what was acknowledged before, `E6` one's own writes are seen,
//!   `E7` a multi is all or nothing, `E8` at most once and only what was asked, `E9` every field of a Stat, `F1` sequences.
//! * `G1` an ephemeral's owner is open, `G2` and it goes with it (a read that still shows it fails as E4), `G3` not too early, `G4` not too late, `G5` for good, `G6` moves.
//! * `X1` one holder of a lock, `X2` each item once, `X3` each increment counted (`recipes`).
//! * `W1` events before data, `W2` once, `W3` none missed, `W4` exact kinds, `W5` persistent, `W6` readable, `W7` in order.
//!
//! Refuses time and network of its own: the world says what happened, in the order in which it happened.

mod order;
mod replies;
mod sequences;
mod sessions;
#[cfg(test)]
mod tests;
mod watching;
mod whole;

pub use replies::{Heard, Welcome};

use super::ask::Ask;
use super::linear::{Registers, Token};
use super::model::{Asker, Ids, Model};
use super::random::Dice;
use super::recipes::{Recipe, Recipes};
use crate::wire::record::Id;
use crate::wire::txn::{ArchivedOrigin, Origin};
use sequences::Sequences;
use sessions::Clock;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use watching::Watching;

/// What the checker must know of the servers' configuration and of the faults of a run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address that servers see clients at.
    pub peer: String,
    pub session_timeout_ms_min: i32,
    pub session_timeout_ms_max: i32,
    /// Writes that make the tree grow may be refused without a transaction: disks are full at times.
    pub refusals: bool,
    /// A session may expire this much earlier than its timeout after the server heard of it: touches travel in bundles.
    pub touch_slack_ms: u64,
    /// How long after a silence of a whole timeout the session may still be expired for it: commits can take long.
    pub expiry_slack_ms: u64,
    /// How far a server's clock may be off the real rate, in millionths.
    pub drift_ppm: u64,
    /// Every read sees what anybody was shown before it was asked.
    pub linearizable_reads: bool,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            peer: "127.0.0.1".into(),
            session_timeout_ms_min: 1000,
            session_timeout_ms_max: 20_000,
            refusals: false,
            touch_slack_ms: 0,
            expiry_slack_ms: 60_000,
            drift_ppm: 0,
            linearizable_reads: false,
        }
    }
}

/// A server's connection, as transactions name it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ConnKey {
    pub server: u16,
    pub boot: u32,
    pub shard: u16,
    pub conn: u64,
}

impl From<&ArchivedOrigin> for ConnKey {
    fn from(o: &ArchivedOrigin) -> ConnKey {
        ConnKey { server: o.server.to_native(), boot: o.boot.to_native(), shard: o.shard.to_native(), conn: o.conn.to_native() }
    }
}

impl From<&Origin> for ConnKey {
    fn from(o: &Origin) -> ConnKey {
        ConnKey { server: o.server, boot: o.boot, shard: o.shard, conn: o.conn }
    }
}

/// Names a connection of a client for the checker; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Link(u64);

/// What a client says in its ConnectRequest, and whether the password is the right one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello {
    pub session: i64,
    pub password_right: bool,
    pub timeout_ms: i32,
    pub last_zxid_seen: u64,
    /// The request has the readOnly byte; the reply must have it then, and only then.
    pub read_only_field: bool,
}

/// What the pipeline was asked over a connection, in the order of its sequence numbers.
#[derive(Clone, Debug)]
enum Wanted {
    Connect(Hello),
    Do(Rc<Ask>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Fate {
    Sent,
    /// At this zxid; the reply must be this.
    Committed {
        zxid: u64,
        err: i32,
        record: Vec<u8>,
    },
    Refused,
}

struct Submit {
    wanted: Wanted,
    ids: Ids,
    fate: Fate,
}

/// A request without a reply yet.
struct Waiting {
    xid: i32,
    ask: Rc<Ask>,
    ids: Ids,
    /// Its sequence number, if the pipeline orders it.
    sequence: Option<u32>,
    /// The highest zxid that anybody had been shown when this was asked.
    after: u64,
    token: Option<Token>,
}

/// Why nothing more may come over a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    Moved,
    Closed,
    /// By a request of this very connection.
    ClosedHere,
}

struct Conn {
    live: bool,
    hello: Hello,
    session: i64,
    /// The reply to the handshake was received.
    welcomed: bool,
    /// No frame with a lower zxid may come.
    zxid: u64,
    attached: bool,
    end: Option<(u64, End)>,
    submits: VecDeque<Submit>,
    /// The sequence number of the first of them.
    first_sequence: u32,
    /// The sequence number after the last one that was committed.
    next_commit: u32,
    /// Linearizable reads take numbers too: how many there may be, and no transaction may have a lower number than this.
    reads: u32,
    next_number: u32,
    waiting: VecDeque<Waiting>,
    auths: VecDeque<Ids>,
    /// Of the requests sent so far.
    ids: Ids,
    watching: Watching,
    /// Ends of frames, as bytes sent since the connection began; and how many bytes the server has received.
    frame_ends: VecDeque<u64>,
    sent_bytes: u64,
    delivered_bytes: u64,
    /// When the server had the handshake: the session's time runs from there.
    hello_ms: Option<u64>,
}

/// Figures of what was judged.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Judged {
    pub txns: u64,
    pub errors: u64,
    pub multis: u64,
    pub replies: u64,
    pub reads: u64,
    pub writes: u64,
    pub syncs: u64,
    pub events: u64,
    pub catch_ups: u64,
    pub expired: u64,
    pub moved: u64,
    pub reaped: u64,
    pub sequential: u64,
    /// Writes that a full disk refused.
    pub refused: u64,
    /// Registers whose history was searched for a linearization, and those where the search gave up.
    pub windows: u64,
    pub windows_unknown: u64,
    /// Of recipes: holders of locks, items taken, increments.
    pub held: u64,
    pub taken: u64,
    pub added: u64,
}

/// The judge. See the module heading.
pub struct Checker {
    settings: Settings,
    model: Model,
    conns: BTreeMap<Link, Conn>,
    keys: BTreeMap<ConnKey, Link>,
    next_link: u64,
    /// Who owns each open session, and when it was last heard of.
    clocks: BTreeMap<i64, Clock>,
    /// When the last epoch began: a new leader gives every session a whole timeout.
    epoch_ms: u64,
    sequences: Sequences,
    /// Registers that are judged without trusting a zxid; clients use them as they like.
    pub registers: Registers,
    /// What recipes have promised each other.
    pub recipes: Recipes,
    acknowledged: u64,
    shown: u64,
    first_ids: Ids,
    /// Where the last `forget` was.
    forgot_at: u64,
    judged: Judged,
}

fn violated(id: &str, what: std::fmt::Arguments<'_>) -> ! {
    panic!("{id}: {what}")
}

impl Checker {
    pub fn new(settings: Settings) -> Checker {
        let first_ids = Ids::from([Id { scheme: "ip".into(), id: settings.peer.clone() }]);
        Checker {
            settings,
            model: Model::new(),
            conns: BTreeMap::new(),
            keys: BTreeMap::new(),
            next_link: 0,
            clocks: BTreeMap::new(),
            epoch_ms: 0,
            sequences: Sequences::default(),
            registers: Registers::default(),
            recipes: Recipes::default(),
            acknowledged: 0,
            shown: 0,
            first_ids,
            forgot_at: 0,
            judged: Judged::default(),
        }
    }

    /// The highest zxid of a write that was answered.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// The last transaction observed.
    pub fn observed(&self) -> u64 {
        self.model.zxid()
    }

    pub fn judged(&self) -> Judged {
        let (windows, windows_unknown) = self.registers.windows();
        let (held, taken, added) = self.recipes.figures();
        Judged { windows, windows_unknown, held, taken, added, ..self.judged }
    }

    /// A session that is open, for a client that wants to take it over; `pick` chooses.
    pub fn some_session(&self, pick: u64) -> Option<(i64, [u8; 16])> {
        let count = self.model.open_sessions().count() as u64;
        let (id, session) = self.model.open_sessions().nth(pick.checked_rem(count)? as usize)?;
        Some((id, session.password))
    }

    /// A client's new connection begins with this handshake, `bytes` long.
    pub fn connecting(&mut self, hello: Hello, bytes: usize) -> Link {
        let link = Link(self.next_link);
        self.next_link += 1;
        let mut conn = Conn {
            live: true,
            hello,
            session: hello.session,
            welcomed: false,
            zxid: hello.last_zxid_seen,
            attached: false,
            end: None,
            submits: VecDeque::new(),
            first_sequence: 0,
            next_commit: 0,
            reads: 0,
            next_number: 0,
            waiting: VecDeque::new(),
            auths: VecDeque::new(),
            ids: self.first_ids.clone(),
            watching: Watching::new(self.first_ids.clone()),
            frame_ends: VecDeque::new(),
            sent_bytes: 0,
            delivered_bytes: 0,
            hello_ms: None,
        };
        conn.submits.push_back(Submit { wanted: Wanted::Connect(hello), ids: conn.ids.clone(), fate: Fate::Sent });
        conn.grew(bytes);
        self.conns.insert(link, conn);
        link
    }

    /// A server took the connection. Comes before any of its bytes are given to the server.
    pub fn accepted(&mut self, link: Link, key: ConnKey) {
        assert!(self.keys.insert(key, link).is_none(), "{key:?} names one connection only");
    }

    /// The client has put a request on the connection, `bytes` long with its frame.
    pub fn sent(&mut self, link: Link, xid: i32, ask: Rc<Ask>, bytes: usize, token: Option<Token>) {
        let after = self.shown;
        let conn = self.conns.get_mut(&link).expect("a live connection");
        conn.grew(bytes);
        if let Ask::Auth { credentials } = &*ask {
            conn.ids = super::model::access::authenticated(&conn.ids, credentials).into();
            return conn.auths.push_back(conn.ids.clone());
        }
        let ids = conn.ids.clone();
        let ordered = ask.is_write() || matches!(*ask, Ask::Sync { .. });
        conn.reads += u32::from(!ordered);
        let sequence = ordered.then(|| conn.first_sequence + conn.submits.len() as u32);
        if ordered {
            conn.submits.push_back(Submit { wanted: Wanted::Do(ask.clone()), ids: ids.clone(), fate: Fate::Sent });
        }
        conn.waiting.push_back(Waiting { xid, ask, ids, sequence, after, token });
    }

    /// The server received this many more bytes of the connection. `in_touch`: it is a server whose word reaches the leader.
    pub fn delivered(&mut self, link: Link, bytes: usize, now_ms: u64, in_touch: bool) {
        let Some(conn) = self.conns.get_mut(&link) else { return };
        conn.delivered_bytes += bytes as u64;
        let mut whole = false;
        while conn.frame_ends.pop_front_if(|end| *end <= conn.delivered_bytes).is_some() {
            whole = true;
            conn.hello_ms.get_or_insert(now_ms);
        }
        if let Some(clock) = self.clocks.get_mut(&conn.session)
            && whole
            && clock.owner == link
        {
            clock.heard(now_ms, in_touch);
        }
    }

    /// The connection is gone for the client: what was under way stays unknown.
    pub fn broken(&mut self, link: Link) {
        let Some(conn) = self.conns.get_mut(&link) else { return };
        conn.live = false;
        conn.watching = Watching::new(self.first_ids.clone());
        for waiting in conn.waiting.drain(..) {
            if let Some(token) = waiting.token {
                self.registers.unknown(token);
            }
        }
    }

    /// A client that follows a recipe was answered: its session, what it had asked, error and record.
    pub fn follow_recipe(&mut self, recipe: &mut Recipe, heard: (i64, &Ask, i32, &[u8]), dice: &mut Dice) {
        let (session, ask, err, record) = heard;
        recipe.heard(session, ask, (err, record), &mut self.recipes, &self.model, dice);
    }

    /// The run is over: judges what only its end shows.
    pub fn finish(&mut self) {
        self.registers.finish();
        self.recipes.finish(&self.model);
    }

    /// Everything up to `applied` was applied by the connection's server, and all it sent has been received.
    pub fn caught_up(&mut self, link: Link, applied: u64) {
        let Some(conn) = self.conns.get_mut(&link).filter(|c| c.live && c.welcomed && c.end.is_none()) else { return };
        conn.watching.advance(&self.model, applied);
        conn.watching.none_due("W3", applied);
    }

    /// Drops what no frame can name any more. Every live connection hears its server in order, so the lowest of them rules.
    fn forget(&mut self) {
        let floor = self.conns.values().filter(|c| c.live && c.attached).map(|c| c.zxid).min();
        self.model.forget(floor.unwrap_or(self.model.zxid()));
        // A connection that broke may still commit what it sent; when its session is gone for long, it may not.
        let long_ago = std::mem::replace(&mut self.forgot_at, self.model.zxid());
        self.conns.retain(|_, conn| {
            let may_commit = conn.end.is_none_or(|(at, _)| at >= long_ago) && conn.submits.iter().any(|s| s.fate == Fate::Sent);
            conn.live || may_commit
        });
        self.keys.retain(|_, link| self.conns.contains_key(link));
    }

    fn asker<'a>(session: i64, ids: &'a Ids) -> Asker<'a> {
        Asker { session, ids }
    }
}

impl Conn {
    fn grew(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
        self.frame_ends.push_back(self.sent_bytes);
    }
}
