//! A whole server in one thread: two shards and the pipeline as they ship, without sockets and disk. A batch is durable as
//! soon as it is proposed. Keeps the loop's promises (a paused connection gets nothing) and checks the bounds after every
//! step. Refuses to know which client is good and which is bad.

use falconer::limits::{OUTPUT_BYTES_MAX, PENDING_REQUESTS_MAX, SUBMITS_BYTES_MAX};
use falconer::pipeline::auth::AuthConfig;
use falconer::pipeline::message::{ConnId, Up};
use falconer::pipeline::node::{Node, NodeConfig, NodeEffect, ReapConfig};
use falconer::pipeline::prepare::PrepareConfig;
use falconer::pipeline::replica::{Action, Census, Replica, ReplicaConfig};
use falconer::tree::State;
use falconer::wire::batch::Batch;
use falconer::wire::record::{ConnectRequest, ConnectResponse};
use falconer::wire::request::Request;
use falconer::zab::Start;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

pub const SHARDS: usize = 2;
/// More than any input is long, so that no single reply gets near it.
const REPLY_BYTES: usize = 4 << 20;
const WALL_MS: i64 = 1_000_000;

/// A connection: shard and id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Client {
    pub shard: usize,
    pub conn: ConnId,
}

/// See the module.
pub struct Server {
    shards: Vec<Replica>,
    node: Node,
    published: Vec<Arc<Batch>>,
    keep: bool,
    received: HashMap<Client, Vec<u8>>,
    paused: HashSet<Client>,
    closed: HashSet<Client>,
    /// Connections whose client does not read.
    deaf: HashSet<Client>,
    now_ms: u64,
}

fn replica_config(shard: u16, auth: &AuthConfig) -> ReplicaConfig {
    ReplicaConfig {
        shard,
        auth: auth.clone(),
        session_timeout_ms_min: 4000,
        session_timeout_ms_max: 40_000,
        word_argument: falconer::admin::fourletter::argument_bytes,
        ..ReplicaConfig::default()
    }
}

impl Server {
    /// `cluster` goes into every batch.
    pub fn new(cluster: u128) -> Server {
        Server::start(cluster, false)
    }

    /// As `new`, and every batch, the first included, stays in `published`.
    pub fn recording(cluster: u128) -> Server {
        Server::start(cluster, true)
    }

    fn start(cluster: u128, keep: bool) -> Server {
        let auth = AuthConfig { digest_enabled: true, ..AuthConfig::default() };
        let config = NodeConfig {
            tick_ms: 10_000,
            prepare: PrepareConfig { auth: auth.clone(), extended_types_enabled: true, enforce_quota: true, ..PrepareConfig::default() },
            reap: ReapConfig { interval_ms: 1000, ..ReapConfig::default() },
            ..NodeConfig::alone(1, SHARDS)
        };
        let mut server = Server {
            shards: (0..SHARDS).map(|i| Replica::new(replica_config(i as u16, &auth), State::new(false))).collect(),
            node: Node::new(config, Start::fresh(cluster), 0),
            published: Vec::new(),
            keep,
            received: HashMap::new(),
            paused: HashSet::new(),
            closed: HashSet::new(),
            deaf: HashSet::new(),
            now_ms: 0,
        };
        server.node.tick(server.shards[0].state(), 0, WALL_MS);
        server.settle();
        server
    }

    pub fn published(&self) -> &[Arc<Batch>] {
        &self.published
    }

    fn wall_ms(&self) -> i64 {
        WALL_MS + self.now_ms as i64
    }

    /// A new socket.
    pub fn open(&mut self, shard: usize, entropy: [u8; 16]) -> Client {
        let peer = "127.0.0.1:5000".parse().expect("an address");
        let conn = self.shards[shard].accept(peer, Census::default(), entropy).expect("no limit is set");
        Client { shard, conn }
    }

    /// A new connection with a session, or an attempt to take over one. None: refused.
    pub fn connect(&mut self, shard: usize, session: i64, password: [u8; 16], entropy: [u8; 16]) -> Option<(Client, i64)> {
        let client = self.open(shard, entropy);
        let mut frame = Vec::new();
        ConnectRequest { protocol_version: 0, last_zxid_seen: 0, timeout_ms: 40_000, session, password: &password, read_only: Some(false) }
            .encode(&mut frame);
        self.receive(client, &frame);
        self.settle();
        let bytes = self.take_received(client);
        let response = ConnectResponse::decode(bytes.get(4..)?).ok()?;
        (response.session != 0).then_some((client, response.session))
    }

    /// A new session.
    pub fn session(&mut self, shard: usize, entropy: [u8; 16]) -> Client {
        self.connect(shard, 0, [0; 16], entropy).expect("a new session is never refused").0
    }

    /// Bytes from a client. Nothing is taken from one that is paused or gone.
    pub fn receive(&mut self, client: Client, bytes: &[u8]) {
        if !self.paused.contains(&client) && !self.is_closed(client) {
            self.shards[client.shard].receive(client.conn, bytes);
        }
        self.act();
    }

    pub fn request(&mut self, client: Client, xid: i32, request: &Request<'_>) {
        let mut frame = Vec::new();
        request.encode_frame(xid, &mut frame);
        self.receive(client, &frame);
    }

    /// The client's socket is gone.
    pub fn hang_up(&mut self, client: Client) {
        if self.closed.insert(client) {
            self.shards[client.shard].closed(client.conn);
        }
        self.deaf.remove(&client);
    }

    /// Whether the client reads what it is sent.
    pub fn listen(&mut self, client: Client, listens: bool) {
        if listens {
            if self.deaf.remove(&client) && !self.is_closed(client) {
                let bytes = self.shards[client.shard].take_output(client.conn);
                self.shards[client.shard].sent(client.conn, bytes);
            }
        } else {
            self.deaf.insert(client);
        }
    }

    pub fn is_closed(&self, client: Client) -> bool {
        self.closed.contains(&client)
    }

    /// What was sent to the client since the last call.
    pub fn take_received(&mut self, client: Client) -> Vec<u8> {
        self.received.remove(&client).unwrap_or_default()
    }

    /// Shards to pipeline, pipeline to shards.
    fn turn(&mut self) -> bool {
        self.node.applied(self.shards[0].state(), self.now_ms, self.wall_ms());
        for shard in 0..SHARDS {
            let submits = std::mem::take(self.shards[shard].submits());
            let mut rest = &submits[..];
            while let Some((len, tail)) = rest.split_first_chunk::<4>() {
                let (record, tail) = tail.split_at(u32::from_le_bytes(*len) as usize);
                let wall_ms = self.wall_ms();
                self.node.up(shard as u16, Up::decode(record), self.shards[0].state(), self.now_ms, wall_ms);
                rest = tail;
            }
        }
        self.node.flush(self.now_ms);
        while let Some(batch) = self.node.next_batch() {
            let batch = Arc::new(batch);
            self.node.log_took(batch.clone(), self.now_ms);
            self.node.durable(batch.position(), self.now_ms);
        }
        let mut moved = false;
        while let Some(effect) = self.node.next_effect() {
            moved = true;
            match effect {
                NodeEffect::Publish(batch) => {
                    self.shards.iter_mut().for_each(|shard| shard.apply(&batch));
                    if self.keep {
                        self.published.push(batch);
                    }
                }
                NodeEffect::Down { shard, message } => self.shards[usize::from(shard)].down(message),
                NodeEffect::Promise(promise) => self.node.promised(promise, self.now_ms),
                _ => unreachable!("an ensemble of one has no peers"),
            }
        }
        moved
    }

    /// Does what the shards want done with their sockets.
    pub fn act(&mut self) -> bool {
        let mut acted = false;
        for shard in 0..SHARDS {
            while let Some(action) = self.shards[shard].next_action() {
                acted = true;
                self.one(shard, action);
            }
            self.shards[shard].resume();
            self.check_bounds(shard);
        }
        acted
    }

    fn one(&mut self, shard: usize, action: Action) {
        let client = |conn| Client { shard, conn };
        match action {
            Action::Flush(conn) if self.deaf.contains(&client(conn)) => {}
            Action::Flush(conn) => {
                let bytes = self.shards[shard].take_output(conn);
                self.received.entry(client(conn)).or_default().extend_from_slice(&bytes);
                self.shards[shard].sent(conn, bytes);
            }
            Action::Close(conn) => {
                let bytes = self.shards[shard].take_output(conn);
                self.received.entry(client(conn)).or_default().extend_from_slice(&bytes);
                self.hang_up(client(conn));
            }
            Action::FourLetter(conn, word, _) => {
                assert!(falconer::admin::fourletter::argument_bytes(word).is_some());
                self.shards[shard].four_letter_answer(conn, "imok");
            }
            Action::Pause(conn) => {
                self.paused.insert(client(conn));
            }
            Action::Resume(conn) => {
                self.paused.remove(&client(conn));
            }
        }
    }

    fn check_bounds(&mut self, shard: usize) {
        assert!(self.shards[shard].submits().len() < SUBMITS_BYTES_MAX + (2 << 20), "submits are bounded");
        let (mut unparsed, mut queued) = (0, 0);
        for conn in self.shards[shard].conns() {
            (unparsed, queued) = (unparsed + conn.unparsed() as u64, queued + conn.queued() as u64);
            assert!(conn.pending.len() <= PENDING_REQUESTS_MAX, "requests that wait are bounded");
            assert!(conn.output.len() < 2 * OUTPUT_BYTES_MAX + REPLY_BYTES, "output is bounded");
        }
        let figures = self.shards[shard].figures();
        assert_eq!((figures.unparsed_bytes, figures.queued_bytes), (unparsed, queued), "what is counted is what is held");
    }

    /// Runs until nothing moves any more.
    pub fn settle(&mut self) {
        loop {
            let moved = self.turn();
            if !self.act() && !moved {
                return;
            }
        }
    }

    /// Time passes: sessions expire, containers go.
    pub fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
        for shard in &mut self.shards {
            shard.begin_turn(self.now_ms);
            shard.tick();
        }
        self.turn();
        let wall_ms = self.wall_ms();
        self.node.tick(self.shards[0].state(), self.now_ms, wall_ms);
        self.settle();
    }
}
