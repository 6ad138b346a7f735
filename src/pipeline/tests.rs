//! Stories on one harness: a server of two shards without sockets or disk, where a batch is durable when the test says so.

mod limits;
mod quota;

use super::message::{ConnId, Up};
use super::node::{Node, NodeConfig, NodeEffect, ReapConfig};
use super::prepare::PrepareConfig;
use super::replica::{Action, Census, Replica, ReplicaConfig};
use crate::log::Promise;
use crate::tree::State;
use crate::wire::batch::{Batch, Position};
use crate::wire::jute::Reader;
use crate::wire::record::{ConnectRequest, ConnectResponse, Stat};
use crate::wire::request::{Create, MultiOps, OPEN_ACL, Request};
use crate::wire::response::{ReplyHeader, code};
use crate::zab::Start;
use crate::zab::positions::Positions;
use std::collections::HashMap;
use std::sync::Arc;

mod agreement;
mod bounds;
mod epochs;
mod extension;
mod leaderless;
mod scripts;
mod session_traps;
mod traps;

struct Server {
    shards: Vec<Replica>,
    node: Node,
    published: Vec<Arc<Batch>>,
    seen: Vec<usize>,
    received: HashMap<(usize, ConnId), Vec<u8>>,
    closed: Vec<(usize, ConnId)>,
    now_ms: u64,
}

#[derive(Clone, Copy)]
struct Client {
    shard: usize,
    conn: ConnId,
}

/// A decoded frame: header and record.
type Frame = (ReplyHeader, Vec<u8>);

/// What a test may set.
struct Setup {
    replica: ReplicaConfig,
    prepare: PrepareConfig,
    reap: ReapConfig,
    /// What the history begins with.
    state: fn() -> State,
    /// Transactions of an epoch.
    counter_max: u32,
}

impl Default for Setup {
    fn default() -> Setup {
        let word_argument = |word| (word == *b"ruok").then_some(0);
        Setup {
            replica: ReplicaConfig { connections_per_address_max: 3, word_argument, ..ReplicaConfig::default() },
            prepare: PrepareConfig { extended_types_enabled: true, enforce_quota: true, ..PrepareConfig::default() },
            reap: ReapConfig { interval_ms: 1000, ..ReapConfig::default() },
            state: || State::new(false),
            counter_max: u32::MAX / 2,
        }
    }
}

impl Server {
    fn new() -> Server {
        Server::with(Setup::default())
    }

    fn with(setup: Setup) -> Server {
        let Setup { mut replica, mut prepare, reap, state, counter_max } = setup;
        replica.auth.digest_enabled = true;
        prepare.auth = replica.auth.clone();
        let shard = |shard| Replica::new(ReplicaConfig { shard, ..replica.clone() }, state());
        let tail = Position { zxid: state().applied(), chain: 0 };
        let fresh = Start::fresh(1);
        let promise = Promise { epoch: (tail.zxid >> 32) as u32, ..fresh.promise };
        let start = Start { promise, positions: Positions::new([tail]), committed: tail.zxid, ..fresh };
        let config = NodeConfig { prepare, reap, counter_max, ..NodeConfig::alone(replica.server, 2) };
        let mut server = Server {
            shards: vec![shard(0), shard(1)],
            node: Node::new(config, start, 0),
            published: Vec::new(),
            seen: vec![0; 2],
            received: HashMap::new(),
            closed: Vec::new(),
            now_ms: 0,
        };
        server.node.tick(server.shards[0].state(), 0, 1_000_000);
        server.settle();
        assert!(server.node.serves());
        server
    }

    /// Shards to pipeline: everything submitted is prepared.
    fn prepare(&mut self) {
        self.node.applied(self.shards[0].state(), self.now_ms, 1_000_000 + self.now_ms as i64);
        for shard in 0..self.shards.len() {
            let submits = std::mem::take(self.shards[shard].submits());
            let mut rest = &submits[..];
            while let Some((len, tail)) = rest.split_first_chunk::<4>() {
                let (record, tail) = tail.split_at(u32::from_le_bytes(*len) as usize);
                let wall_ms = 1_000_000 + self.now_ms as i64;
                self.node.up(shard as u16, Up::decode(record), self.shards[0].state(), self.now_ms, wall_ms);
                rest = tail;
            }
        }
    }

    /// Pipeline to shards: what is proposed becomes durable, is published and applied.
    fn commit(&mut self) {
        self.publish();
        for shard in 0..self.shards.len() {
            self.apply(shard);
        }
    }

    /// What is proposed becomes durable and is published.
    fn publish(&mut self) {
        self.node.flush(self.now_ms);
        while let Some(batch) = self.node.next_batch() {
            let batch = Arc::new(batch);
            self.node.log_took(batch.clone(), self.now_ms);
            self.node.durable(batch.position(), self.now_ms);
        }
        while let Some(effect) = self.node.next_effect() {
            match effect {
                NodeEffect::Publish(batch) => self.published.push(batch),
                NodeEffect::Down { shard, message } => self.shards[usize::from(shard)].down(message),
                NodeEffect::Promise(promise) => self.node.promised(promise, self.now_ms),
                _ => unreachable!("an ensemble of one has no peers"),
            }
        }
    }

    fn apply(&mut self, shard: usize) {
        for batch in &self.published[self.seen[shard]..] {
            self.shards[shard].apply(batch);
        }
        self.seen[shard] = self.published.len();
    }

    fn act(&mut self) -> bool {
        let mut acted = false;
        for i in 0..self.shards.len() {
            while let Some(action) = self.shards[i].next_action() {
                acted = true;
                match action {
                    Action::Flush(conn) => {
                        let bytes = self.shards[i].take_output(conn);
                        self.received.entry((i, conn)).or_default().extend_from_slice(&bytes);
                        self.shards[i].sent(conn, bytes);
                    }
                    Action::Close(conn) => {
                        let bytes = self.shards[i].take_output(conn);
                        self.received.entry((i, conn)).or_default().extend_from_slice(&bytes);
                        self.shards[i].closed(conn);
                        self.closed.push((i, conn));
                    }
                    Action::FourLetter(conn, word, _) => {
                        assert_eq!(&word, b"ruok");
                        self.shards[i].four_letter_answer(conn, "imok");
                    }
                    Action::Pause(_) | Action::Resume(_) => {}
                }
            }
            self.shards[i].resume();
        }
        acted
    }

    fn settle(&mut self) {
        loop {
            self.prepare();
            let before = self.published.len();
            self.commit();
            if !self.act() && before == self.published.len() && self.node.serves() {
                return;
            }
        }
    }

    fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
        for shard in &mut self.shards {
            shard.begin_turn(self.now_ms);
            shard.tick();
        }
        self.prepare();
        self.node.tick(self.shards[0].state(), self.now_ms, 1_000_000 + self.now_ms as i64);
        self.settle();
    }

    fn open(&mut self, shard: usize) -> Client {
        let peer = "127.0.0.1:5000".parse().unwrap();
        let conn = self.shards[shard].accept(peer, Census::default(), [shard as u8 + 1; 16]).unwrap();
        Client { shard, conn }
    }

    fn connect(&mut self, shard: usize, session: i64, password: [u8; 16]) -> (Client, i64) {
        let client = self.open(shard);
        let request = ConnectRequest {
            protocol_version: 0,
            last_zxid_seen: 0,
            timeout_ms: 5000,
            session,
            password: &password,
            read_only: Some(false),
        };
        let mut frame = Vec::new();
        request.encode(&mut frame);
        self.shards[shard].receive(client.conn, &frame);
        self.settle();
        let bytes = self.received.remove(&(shard, client.conn)).unwrap();
        let response = ConnectResponse::decode(&bytes[4..]).unwrap();
        (client, response.session)
    }

    fn session(&mut self, shard: usize) -> Client {
        self.connect(shard, 0, [0; 16]).0
    }

    fn send(&mut self, client: Client, xid: i32, request: &Request<'_>) {
        let mut frame = Vec::new();
        request.encode_frame(xid, &mut frame);
        self.shards[client.shard].receive(client.conn, &frame);
    }

    fn frames(&mut self, client: Client) -> Vec<Frame> {
        let bytes = self.received.remove(&(client.shard, client.conn)).unwrap_or_default();
        let (mut rest, mut frames) = (&bytes[..], Vec::new());
        while let Some((len, tail)) = rest.split_first_chunk::<4>() {
            let (frame, tail) = tail.split_at(u32::from_be_bytes(*len) as usize);
            let mut reader = Reader::new(frame);
            frames.push((ReplyHeader::decode(&mut reader).unwrap(), reader.rest().to_vec()));
            rest = tail;
        }
        frames
    }

    fn call(&mut self, client: Client, request: &Request<'_>) -> Frame {
        self.send(client, 1, request);
        self.settle();
        let mut frames = self.frames(client);
        assert_eq!(frames.len(), 1, "one request, one reply");
        frames.remove(0)
    }

    fn err(&mut self, client: Client, request: &Request<'_>) -> i32 {
        self.call(client, request).0.err
    }

    fn is_closed(&self, client: Client) -> bool {
        self.closed.contains(&(client.shard, client.conn))
    }
}

fn create(path: &str, flags: i32) -> Request<'_> {
    Request::Create(Create { path: path.into(), data: Some(b"d"), acl: OPEN_ACL, flags })
}

fn get(path: &str, watch: bool) -> Request<'_> {
    Request::GetData { path: path.into(), watch }
}

fn set(path: &str, version: i32) -> Request<'_> {
    Request::SetData { path: path.into(), data: Some(b"new"), version }
}

fn delete(path: &str) -> Request<'_> {
    Request::Delete { path: path.into(), version: -1 }
}

#[test]
fn a_write_is_seen_by_every_shard_once_it_is_answered() {
    let mut server = Server::new();
    let (one, two) = (server.session(0), server.session(1));
    let (header, body) = server.call(one, &create("/a", 0));
    assert_eq!((header.err, Reader::new(&body).utf8()), (code::OK, Ok("/a")));
    let (header, body) = server.call(two, &get("/a", false));
    assert_eq!((header.err, Reader::new(&body).buffer()), (code::OK, Ok(Some(&b"d"[..]))));
    assert_eq!(server.err(two, &create("/a", 0)), code::NODE_EXISTS);
}

#[test]
fn reads_wait_for_the_sessions_own_writes_and_nobody_elses() {
    let mut server = Server::new();
    let (one, two) = (server.session(0), server.session(0));
    for (xid, request) in [(10, create("/a", 0)), (11, get("/a", false)), (12, set("/a", 0)), (13, Request::Ping), (14, get("/a", false))] {
        server.send(one, xid, &request);
    }
    server.send(two, 20, &get("/a", false));
    server.act();
    assert!(server.frames(one).is_empty());
    assert_eq!(server.frames(two)[0].0.err, code::NO_NODE);
    server.settle();
    let frames = server.frames(one);
    assert_eq!(frames.iter().map(|f| (f.0.xid, f.0.err)).collect::<Vec<_>>(), [(10, 0), (11, 0), (12, 0), (-2, 0), (14, 0)]);
    assert!(frames.windows(2).all(|w| w[0].0.zxid <= w[1].0.zxid), "zxids never go back");
    assert_eq!(Reader::new(&frames[4].1).buffer(), Ok(Some(&b"new"[..])));
}

#[test]
fn sequential_names_and_stats_count_creations() {
    let mut server = Server::new();
    let one = server.session(0);
    server.call(one, &create("/q", 0));
    server.call(one, &create("/q/x", 0));
    let (_, body) = server.call(one, &create("/q/n-", 2));
    assert_eq!(Reader::new(&body).utf8(), Ok("/q/n-0000000001"));
    server.call(one, &delete("/q/x"));
    let (_, body) = server.call(one, &Request::Exists { path: "/q".into(), watch: false });
    let stat = Stat::decode(&mut Reader::new(&body)).unwrap();
    assert_eq!((stat.cversion, stat.num_children, stat.data_length), (3, 1, 1));
}

#[test]
fn refusals_come_in_zookeepers_order() {
    let mut server = Server::new();
    let one = server.session(0);
    server.call(one, &create("/e", 1));
    for (request, expected) in [
        (create("/e/x", 0), code::NO_CHILDREN_FOR_EPHEMERALS),
        (create("/", 0), code::NODE_EXISTS),
        (create("nope", 0), code::BAD_ARGUMENTS),
        (create("/no/x", 0), code::NO_NODE),
        (create("/a/", 0), code::NO_NODE),
        (create("//a", 0), code::BAD_ARGUMENTS),
        (create("/a", 9), code::BAD_ARGUMENTS),
        (create("/a", 5), code::BAD_ARGUMENTS),
        (delete("/"), code::BAD_ARGUMENTS),
        (delete("/zookeeper"), code::BAD_ARGUMENTS),
        (delete("/no/x"), code::NO_NODE),
        (set("/e", 7), code::BAD_VERSION),
        (set("bad", 0), code::BAD_ARGUMENTS),
        (get("bad", false), code::NO_NODE),
        (Request::Exists { path: "/a\0".into(), watch: false }, code::BAD_ARGUMENTS),
    ] {
        assert_eq!(server.err(one, &request), expected, "{request:?}");
    }
}

#[test]
fn events_come_before_the_reply_that_shows_the_change() {
    let mut server = Server::new();
    let (one, two) = (server.session(0), server.session(1));
    assert_eq!(server.err(two, &Request::Exists { path: "/w".into(), watch: true }), code::NO_NODE);
    server.send(one, 5, &create("/w", 0));
    server.prepare();
    server.commit();
    server.send(two, 6, &get("/w", true));
    server.send(two, 7, &set("/w", -1));
    server.settle();
    let frames = server.frames(two);
    let kinds: Vec<(i32, i32)> = frames.iter().map(|f| (f.0.xid, Reader::new(&f.1).i32().unwrap())).collect();
    assert_eq!((kinds[0], kinds[1].0, kinds[2], kinds[3].0), ((-1, 1), 6, (-1, 3), 7));
}

#[test]
fn a_multi_is_all_or_nothing() {
    let mut server = Server::new();
    let one = server.session(0);
    let raw = MultiOps::encode_ops(&[create("/m", 0), create("/m/s-", 2), create("/m/s-", 2), set("/m", 0)]);
    assert_eq!(server.err(one, &Request::Multi(MultiOps::from_encoded(&raw).unwrap())), code::OK);
    assert_eq!(server.err(one, &get("/m/s-0000000001", false)), code::OK);
    let raw = MultiOps::encode_ops(&[create("/n", 0), set("/m", 9), delete("/m/s-0000000001")]);
    let (header, body) = server.call(one, &Request::Multi(MultiOps::from_encoded(&raw).unwrap()));
    let mut reader = Reader::new(&body);
    let codes: Vec<i32> = (0..3).map(|_| (reader.i32(), reader.bool(), reader.i32(), reader.i32().unwrap()).3).collect();
    assert_eq!((header.err, codes), (0, vec![0, code::BAD_VERSION, code::RUNTIME_INCONSISTENCY]));
    assert_eq!(server.err(one, &create("/n", 0)), code::OK);
}

#[test]
fn silence_ends_a_session_and_its_ephemerals() {
    let mut server = Server::new();
    let (one, two) = (server.session(0), server.session(1));
    server.call(one, &create("/mine", 1));
    server.call(two, &get("/mine", true));
    let mut heard = Vec::new();
    for _ in 0..10 {
        server.wait(600);
        server.send(two, -2, &Request::Ping);
        server.settle();
        heard.extend(server.frames(two));
    }
    assert!(server.is_closed(one) && !server.is_closed(two));
    assert_eq!(heard.iter().filter(|f| f.0.xid == -1).count(), 1, "the watch fired once");
    assert_eq!(server.err(two, &get("/mine", false)), code::NO_NODE);
}

#[test]
fn a_session_moves_and_its_old_connection_closes() {
    let mut server = Server::new();
    let (one, session) = server.connect(0, 0, [0; 16]);
    server.call(one, &create("/mine", 1));
    let (stranger, refused) = server.connect(1, session, [9; 16]);
    assert_eq!((refused, server.is_closed(stranger), server.is_closed(one)), (0, true, false));
    server.send(one, 3, &set("/mine", -1));
    let (two, moved) = server.connect(1, session, [1; 16]);
    assert_eq!((moved, server.is_closed(one)), (session, true));
    assert_eq!(server.err(two, &set("/mine", 1)), code::OK);
    assert_eq!(server.err(two, &Request::CloseSession), code::OK);
    assert!(server.is_closed(two));
    let three = server.session(0);
    assert_eq!(server.err(three, &get("/mine", false)), code::NO_NODE);
    assert_eq!(server.connect(0, session, [1; 16]).1, 0);
}

#[test]
fn a_deleted_parent_is_seen_through_a_closing_session() {
    let mut server = Server::new();
    let (one, two) = (server.session(0), server.session(0));
    server.call(two, &create("/p", 0));
    server.call(one, &create("/p/e", 1));
    server.send(one, 4, &Request::CloseSession);
    server.send(two, 5, &delete("/p"));
    server.settle();
    assert_eq!(server.frames(two)[0].0.err, code::OK);
}

#[test]
fn containers_and_ttl_nodes_go_when_they_are_due() {
    let mut server = Server::new();
    let one = server.session(0);
    let record = |path: &'static str, flags| Create { path: path.into(), data: None, acl: OPEN_ACL, flags };
    server.call(one, &Request::CreateContainer(record("/c", 4)));
    server.call(one, &Request::CreateTtl(record("/t", 5), 1500));
    server.call(one, &create("/c/x", 0));
    server.wait(1000);
    assert_eq!((server.err(one, &get("/c", false)), server.err(one, &get("/t", false))), (code::OK, code::OK));
    server.call(one, &delete("/c/x"));
    server.wait(1000);
    assert_eq!((server.err(one, &get("/c", false)), server.err(one, &get("/t", false))), (code::NO_NODE, code::NO_NODE));
    assert_eq!(server.err(one, &Request::CreateTtl(record("/t", 0), 100)), code::BAD_ARGUMENTS);
    assert_eq!(server.err(one, &Request::CreateTtl(record("/t", 5), 0)), code::BAD_ARGUMENTS);
}

#[test]
fn bad_input_hurts_only_its_sender() {
    let mut server = Server::new();
    let (good, bad) = (server.session(0), server.session(0));
    let short = [0, 0, 0, 10, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0];
    server.shards[0].receive(bad.conn, &short);
    server.settle();
    assert_eq!(server.frames(bad)[0].0.err, code::MARSHALLING_ERROR);
    server.shards[0].receive(bad.conn, &[0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 77]);
    server.settle();
    assert_eq!((server.frames(bad)[0].0.err, server.is_closed(bad)), (code::UNIMPLEMENTED, true));
    let greedy = server.session(0);
    server.shards[0].receive(greedy.conn, &[0x7f, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1]);
    server.settle();
    assert_eq!((server.frames(greedy)[0].0.xid, server.is_closed(greedy)), (3, true));
    assert_eq!(server.err(good, &Request::Ping), code::OK);
}

#[test]
fn a_four_letter_word_is_answered_and_closed() {
    let mut server = Server::new();
    let client = server.open(1);
    server.shards[1].receive(client.conn, b"ruok\n");
    server.settle();
    assert_eq!(server.received[&(1, client.conn)], b"imok");
    assert!(server.is_closed(client));
}
