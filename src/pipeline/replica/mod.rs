//! The brain of one shard: its connections, its State and its watches. Reads are answered here, writes go up as submits,
//! and when their transactions come back on the commit ring, every shard applies them and exactly one replies,
//! watch events first. Refuses to order anything and to touch sockets: what the loop has to do comes out as actions.

mod commit;
mod connections;
mod deliver;
mod figures;
mod notices;
mod route;
mod session;

pub use figures::ShardFigures;
use notices::{Limit, Notices};

use super::auth::{self, AuthConfig};
use super::bounds::Bounds;
use super::conn::{Conn, Connect, Frame, Identities, Phase};
use super::message::{Answer, ConnId, Submit, Up, goes_up, op};
use super::reads::{self, After, Reads};
use crate::limits::{HANDSHAKE_TIMEOUT_MS, SUBMITS_BYTES_MAX};
use crate::tree::State;
use crate::watch::Watches;
use crate::wire::jute;
use crate::wire::record::ConnectRequest;
use crate::wire::request::{DecodeError, Request, opcode};
use crate::wire::response::{self, code};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::rc::Rc;

/// Settings of a shard. By default those of a server of its own, without limits on connections.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    pub server: u16,
    pub shard: u16,
    pub boot: u32,
    pub auth: AuthConfig,
    pub session_timeout_ms_min: i32,
    pub session_timeout_ms_max: i32,
    /// Connections from one address, 0 for no limit; loopback may be exempt.
    pub connections_per_address_max: usize,
    pub loopback_exempt: bool,
    /// Connections of the whole server, 0 for no limit.
    pub connections_max: usize,
    pub bounds: Bounds,
    /// A connection without a session is closed after this.
    pub handshake_timeout_ms: u64,
    /// How many bytes follow a four-letter word; None if the four bytes are none.
    pub word_argument: fn([u8; 4]) -> Option<usize>,
    /// Requests in progress on the whole server beyond which a connection that has some is not read on; 0 for no limit.
    pub requests_outstanding_max: u64,
    /// No other server can know of sessions that this one does not know.
    pub alone: bool,
    /// Reads wait for proof that they miss nothing, as if each came behind a sync.
    pub linearizable_reads: bool,
    /// The servers of the ensemble as ZooKeeper writes them, for readers of `/zookeeper/config`; empty for none.
    pub membership: String,
}

impl Default for ReplicaConfig {
    fn default() -> ReplicaConfig {
        ReplicaConfig {
            server: 1,
            shard: 0,
            boot: 1,
            auth: AuthConfig::default(),
            session_timeout_ms_min: 1000,
            session_timeout_ms_max: 20_000,
            connections_per_address_max: 0,
            loopback_exempt: true,
            connections_max: 0,
            bounds: Bounds::default(),
            handshake_timeout_ms: HANDSHAKE_TIMEOUT_MS,
            word_argument: |_| None,
            requests_outstanding_max: 0,
            alone: true,
            linearizable_reads: false,
            membership: String::new(),
        }
    }
}

/// How many connections there are already, when a new one is accepted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Census {
    pub from_address: usize,
    pub total: usize,
}

/// What the loop has to do for a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// There is output to take and send.
    Flush(ConnId),
    /// Send what is left, then close the socket and say `closed`.
    Close(ConnId),
    /// Stop receiving.
    Pause(ConnId),
    /// Receive again.
    Resume(ConnId),
    /// Ask for the answer to a four-letter word and give it to `four_letter_answer`.
    FourLetter(ConnId, [u8; 4], i64),
}

type FixedHash = BuildHasherDefault<DefaultHasher>;

/// An answer that waits for transactions before it: see [`Down::Answer`].
struct Deferred {
    conn: ConnId,
    sequence: u32,
    after: u64,
    what: Answer,
}

/// One core's brain. See the module heading.
pub struct Replica {
    config: ReplicaConfig,
    state: State,
    watches: Watches,
    conns: Vec<Option<Box<Conn>>>,
    free: Vec<u32>,
    generations: Vec<u32>,
    sessions: HashMap<i64, ConnId, FixedHash>,
    /// Connections without a session yet, in order of their deadline.
    handshaking: VecDeque<(u64, ConnId)>,
    parked: Vec<ConnId>,
    touched: Vec<ConnId>,
    stalled: Vec<ConnId>,
    deferred: VecDeque<Deferred>,
    /// The way to a leader that submits take, and whether there is hope for one: without, nobody shakes hands.
    route: u32,
    open: bool,
    actions: VecDeque<Action>,
    submits: Vec<u8>,
    spare_outputs: Vec<Vec<u8>>,
    event_frame: Vec<u8>,
    now_ms: u64,
    /// Counts turns.
    turn: u64,
    figures: ShardFigures,
    notices: Notices,
    /// Requests in progress on the other shards, as last heard.
    outstanding_elsewhere: u64,
}

impl Replica {
    pub fn new(config: ReplicaConfig, state: State) -> Replica {
        Replica {
            // Among others there may be a leader or not: the Node says.
            open: config.alone,
            config,
            state,
            watches: Watches::default(),
            conns: Vec::new(),
            free: Vec::new(),
            generations: Vec::new(),
            sessions: HashMap::default(),
            handshaking: VecDeque::new(),
            parked: Vec::new(),
            touched: Vec::new(),
            stalled: Vec::new(),
            deferred: VecDeque::new(),
            route: 0,
            actions: VecDeque::new(),
            submits: Vec::new(),
            spare_outputs: Vec::new(),
            event_frame: Vec::new(),
            now_ms: 0,
            turn: 0,
            figures: ShardFigures::default(),
            notices: Notices::default(),
            outstanding_elsewhere: 0,
        }
    }

    /// Monotonic time, read once per turn.
    pub fn begin_turn(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.turn += 1;
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    /// For the snapshot walk, which changes nothing that a client can see.
    pub fn state_mut(&mut self) -> &mut State {
        &mut self.state
    }

    pub fn watches(&self) -> &Watches {
        &self.watches
    }

    pub fn applied(&self) -> u64 {
        self.state.applied()
    }

    /// A connection without a session is closed after this.
    pub fn handshake_timeout_ms(&self) -> u64 {
        self.config.handshake_timeout_ms
    }

    /// How many requests are in progress on the other shards; only matters when there is a limit.
    pub fn set_outstanding_elsewhere(&mut self, requests: u64) {
        self.outstanding_elsewhere = requests;
    }

    pub fn conns(&self) -> impl Iterator<Item = &Conn> {
        self.conns.iter().flatten().map(|conn| &**conn)
    }

    /// Encoded `Up` records for the ring. What the ring does not take stays; beyond a bound no request is executed.
    pub fn submits(&mut self) -> &mut Vec<u8> {
        &mut self.submits
    }

    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Bytes from a socket.
    pub fn receive(&mut self, id: ConnId, bytes: &[u8]) {
        self.with_conn(id, |replica, conn| {
            if conn.phase == Phase::Closing {
                return;
            }
            if conn.has_input() {
                conn.add_input(bytes);
            } else {
                let used = replica.execute(conn, bytes);
                conn.add_input(&bytes[used..]);
            }
            replica.run(conn);
            replica.bound_unparsed(conn);
        });
    }

    /// Answers what is held and executes what is waiting in the connection's input, as far as limits allow.
    fn run(&mut self, conn: &mut Conn) {
        self.answer_held(conn);
        if conn.has_input() && conn.phase != Phase::Closing {
            let input = conn.take_input();
            let used = self.execute(conn, &input);
            conn.keep_input(input, used);
        }
        let may_execute = self.may_execute(conn);
        match conn.pause_change(may_execute) {
            Some(true) => {
                self.figures.receive_pauses += 1;
                let (waiting, unread) = (conn.pending.len(), conn.unsent());
                self.notice(Limit::Pause, conn.peer, || format!("not read on: {waiting} requests wait, {unread} bytes of output unread"));
                self.actions.push_back(Action::Pause(conn.id));
            }
            Some(false) => self.actions.push_back(Action::Resume(conn.id)),
            None => {}
        }
    }

    /// Continues connections that had to stop because submits did not drain. Call after moving submits into the ring.
    pub fn resume(&mut self) {
        if self.stalled.is_empty() || self.submits.len() >= SUBMITS_BYTES_MAX {
            return;
        }
        for id in std::mem::take(&mut self.stalled) {
            self.with_conn(id, |replica, conn| {
                conn.stalled = false;
                replica.run(conn);
            });
        }
    }

    /// Whether connections wait for room in the submits.
    pub fn is_stalled(&self) -> bool {
        !self.stalled.is_empty()
    }

    /// Executes whole frames at the start of `bytes`; returns how many bytes they took.
    fn execute(&mut self, conn: &mut Conn, bytes: &[u8]) -> usize {
        let mut used = 0;
        self.lend_output(conn);
        while self.may_execute(conn) {
            match conn.frame(&bytes[used..], &self.config.bounds, self.config.word_argument) {
                Frame::Whole(frame) => {
                    used += 4 + frame.len();
                    self.frame(conn, frame);
                }
                Frame::Partial => break,
                Frame::FourLetter(word, argument) => {
                    conn.phase = Phase::FourLetter;
                    conn.figures.received += 1;
                    self.figures.received += 1;
                    self.figures.bytes_received += 4;
                    self.actions.push_back(Action::FourLetter(conn.id, word, argument));
                    return bytes.len();
                }
                Frame::TooLong { len, xid } => {
                    self.too_long(conn, len, xid);
                    return bytes.len();
                }
            }
        }
        if matches!(conn.phase, Phase::Closing | Phase::FourLetter) { bytes.len() } else { used }
    }

    fn may_execute(&mut self, conn: &mut Conn) -> bool {
        // The sum is without a connection that is being worked on.
        let output_bytes = self.config.bounds.output_bytes(self.figures.queued_bytes + conn.queued() as u64);
        if !matches!(conn.phase, Phase::Handshake | Phase::Open) || !conn.may_execute(&self.config.bounds, output_bytes) {
            return false;
        }
        // Every answer to this connection comes back here, so it goes on by itself.
        let max = self.config.requests_outstanding_max;
        if max > 0 && !conn.pending.is_empty() && self.figures.outstanding + self.outstanding_elsewhere >= max {
            return false;
        }
        if self.submits.len() >= SUBMITS_BYTES_MAX {
            if !conn.stalled {
                conn.stalled = true;
                self.stalled.push(conn.id);
            }
            return false;
        }
        true
    }

    /// ZooKeeper closes without a word; an error on the request's xid tells the client not to try again.
    fn too_long(&mut self, conn: &mut Conn, len: i32, xid: Option<i32>) {
        let most = self.config.bounds.frame_bytes_max;
        self.figures.large_requests_rejected += 1;
        self.notice(Limit::Frame, conn.peer, || format!("a frame of {len} bytes is beyond jute.maxbuffer ({most}), closed"));
        if let Some(xid) = xid.filter(|_| conn.pending.is_empty()) {
            response::reply(&mut conn.output, xid, self.state.applied(), code::BAD_ARGUMENTS);
        }
        self.close(conn);
    }

    fn frame(&mut self, conn: &mut Conn, frame: &[u8]) {
        conn.figures.received += 1;
        self.figures.received += 1;
        self.figures.bytes_received += 4 + frame.len() as u64;
        if conn.phase == Phase::Handshake {
            self.figures.connection_requests += 1;
            return match ConnectRequest::decode(frame) {
                Ok(request) if self.open => self.connect(conn, Connect::of(&request)),
                // As ZooKeeper: without a word, so that the client tries another server.
                Ok(_) | Err(_) => self.close(conn),
            };
        }
        self.touch(conn);
        let Some((xid, op, body)) = split_header(frame) else { return self.close(conn) };
        match op {
            opcode::AUTH => self.authenticate(conn, xid, body),
            _ if goes_up(op) => self.write(conn, xid, op, body, frame),
            _ => {
                if self.config.linearizable_reads && op != opcode::PING {
                    self.put_barrier(conn);
                }
                self.local(conn, frame);
            }
        }
    }

    /// Makes what follows wait until a leader has proved that nothing acknowledged is missing here. What came in one turn
    /// shares a barrier: the pipeline gets to it only after all of that had come.
    fn put_barrier(&mut self, conn: &mut Conn) {
        if std::mem::replace(&mut conn.barrier_turn, self.turn) != self.turn {
            self.submit(conn, 0, op::BARRIER, &[], &[]);
        }
    }

    fn touch(&mut self, conn: &mut Conn) {
        if !conn.touched {
            conn.touched = true;
            self.touched.push(conn.id);
        }
    }

    /// A write goes up if it parses; what does not is answered here, in its turn.
    fn write(&mut self, conn: &mut Conn, xid: i32, op: i32, body: &[u8], frame: &[u8]) {
        match Request::decode(op, body) {
            Ok(Request::Sync { path }) => {
                let mut echo = Vec::new();
                jute::write_string(&mut echo, &path);
                self.submit(conn, xid, op, body, &echo);
            }
            Ok(_) => self.submit(conn, xid, op, body, &[]),
            Err(DecodeError::Malformed | DecodeError::Unimplemented) => self.local(conn, frame),
        }
    }

    fn submit(&mut self, conn: &mut Conn, xid: i32, op: i32, body: &[u8], echo: &[u8]) {
        let sequence = conn.take_sequence();
        let ids = conn.ids.clone();
        let submit = Submit { conn: conn.id, sequence, route: self.route, opcode: op, session: conn.session, auth: &ids.encoded, body };
        Up::Submit(submit).encode(&mut self.submits);
        conn.submitted(sequence, xid, op, self.now_ms, echo);
        self.figures.outstanding += 1;
    }

    /// Answers now if nothing waits before it, else in its turn.
    fn local(&mut self, conn: &mut Conn, frame: &[u8]) {
        if conn.pending.is_empty() || crate::mutant!(M74) {
            let ids = conn.ids.clone();
            self.answer(conn, frame, &ids, self.now_ms);
        } else {
            let reply_bytes = reads::reply_bytes(&self.state, conn.session, frame);
            conn.hold(frame, reply_bytes, self.now_ms);
            self.figures.outstanding += 1;
        }
    }

    fn answer(&mut self, conn: &mut Conn, frame: &[u8], ids: &Identities, at_ms: u64) {
        let Some((xid, op, body)) = split_header(frame) else { unreachable!("a held frame has its header") };
        let mut reads = Reads {
            state: &self.state,
            watches: &mut self.watches,
            bounds: &self.config.bounds,
            auth: &self.config.auth,
            conn: conn.id,
            session: conn.session,
            ids,
            membership: &self.config.membership,
        };
        let after = reads.answer(xid, op, body, &mut conn.output);
        self.answered(conn, xid, op, at_ms);
        match after {
            After::Open => {}
            After::Close => self.close(conn),
            After::TooManyWatches(most) => {
                self.figures.watches_refused += 1;
                self.notice(Limit::Watches, conn.peer, || format!("a watch refused: there are {most} already"));
            }
        }
    }

    /// The reply goes out at once, before anything that waits (T16).
    fn authenticate(&mut self, conn: &mut Conn, xid: i32, body: &[u8]) {
        let added = match Request::decode(opcode::AUTH, body) {
            // The scheme `ip` does not look at credentials; every other one fails without.
            Ok(Request::Auth { scheme, credentials }) => credentials
                .or((scheme == "ip").then_some(&[]))
                .and_then(|credentials| auth::authenticate(&self.config.auth, &scheme, credentials, conn.peer.ip().to_canonical())),
            Ok(_) | Err(_) => {
                self.notice(Limit::Identities, conn.peer, || "an auth packet that does not parse, closed".into());
                return self.close(conn);
            }
        };
        let most = self.config.bounds.identities_bytes_max;
        let ids = match added.map(|added| conn.ids.with(added)) {
            Some(ids) if ids.encoded.len() <= most => ids,
            beyond => {
                self.figures.auth_failures += 1;
                let bytes = beyond.map_or(0, |ids| ids.encoded.len());
                let why = if bytes > most { format!(": {bytes} bytes of identities, at most {most}") } else { String::new() };
                self.notice(Limit::Identities, conn.peer, || format!("authentication failed{why}, closed"));
                response::reply(&mut conn.output, xid, 0, code::AUTH_FAILED);
                return self.close(conn);
            }
        };
        conn.ids = Rc::new(ids);
        response::reply(&mut conn.output, xid, 0, code::OK);
    }
}

/// xid, opcode and record of a request frame.
fn split_header(frame: &[u8]) -> Option<(i32, i32, &[u8])> {
    let (xid, rest) = frame.split_first_chunk::<4>()?;
    let (op, body) = rest.split_first_chunk::<4>()?;
    Some((i32::from_be_bytes(*xid), i32::from_be_bytes(*op), body))
}
