//! What the brains cost without sockets, rings and disk: a pipelined read, and a write from its frame to its reply.
//! `cargo bench --bench brains`; under `cargo test --benches` it runs once.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use falconer::peer::{Handshake, Introduction, Receiver, Secret, SessionKeys, frame_around};
use falconer::pipeline::auth::AuthConfig;
use falconer::pipeline::message::{ConnId, Up};
use falconer::pipeline::node::{Node, NodeConfig, NodeEffect};
use falconer::pipeline::prepare::PrepareConfig;
use falconer::pipeline::replica::{Action, Census, Replica, ReplicaConfig};
use falconer::tree::State;
use falconer::wire::record::ConnectRequest;
use falconer::wire::request::{Create, OPEN_ACL, Request};
use falconer::zab::Start;
use std::hint::black_box;
use std::sync::Arc;

const PIPELINED: usize = 20;

struct Server {
    shard: Replica,
    node: Node,
    conn: ConnId,
}

impl Server {
    fn new() -> Server {
        let auth = AuthConfig::default();
        let config = ReplicaConfig { auth: auth.clone(), ..ReplicaConfig::default() };
        let prepare = PrepareConfig { auth, extended_types_enabled: true, ..PrepareConfig::default() };
        let config_node = NodeConfig { prepare, ..NodeConfig::alone(1, 1) };
        let mut shard = Replica::new(config, State::new(false));
        let node = Node::new(config_node, Start::fresh(1), 0);
        let conn = shard.accept("127.0.0.1:1".parse().unwrap(), Census::default(), [1; 16]).unwrap();
        let mut server = Server { shard, node, conn };
        server.node.tick(server.shard.state(), 0, 1);
        while !server.node.serves() {
            server.turn(&[]);
        }
        let mut hello = Vec::new();
        ConnectRequest { protocol_version: 0, last_zxid_seen: 0, timeout_ms: 5000, session: 0, password: &[0; 16], read_only: None }
            .encode(&mut hello);
        server.turn(&hello);
        server
    }

    /// One turn: receive, prepare, commit, apply, send.
    fn turn(&mut self, bytes: &[u8]) -> usize {
        self.shard.receive(self.conn, bytes);
        self.node.applied(self.shard.state(), 0, 1);
        let mut submits = std::mem::take(self.shard.submits());
        let mut rest = &submits[..];
        while let Some((len, tail)) = rest.split_first_chunk::<4>() {
            let (record, tail) = tail.split_at(u32::from_le_bytes(*len) as usize);
            self.node.up(0, Up::decode(record), self.shard.state(), 0, 1);
            rest = tail;
        }
        submits.clear();
        *self.shard.submits() = submits;
        self.node.flush(0);
        self.effects();
        while let Some(batch) = self.node.next_batch() {
            let batch = Arc::new(batch);
            self.node.log_took(batch.clone(), 0);
            self.node.durable(batch.position(), 0);
            self.effects();
            if let Ok(batch) = Arc::try_unwrap(batch) {
                self.node.recycle(batch);
            }
        }
        let mut sent = 0;
        while let Some(action) = self.shard.next_action() {
            if let Action::Flush(conn) = action {
                let output = self.shard.take_output(conn);
                sent += output.len();
                self.shard.sent(conn, output);
            }
        }
        sent
    }
}

impl Server {
    fn effects(&mut self) {
        while let Some(effect) = self.node.next_effect() {
            match effect {
                NodeEffect::Publish(batch) => self.shard.apply(&batch),
                NodeEffect::Promise(promise) => self.node.promised(promise, 0),
                NodeEffect::Down { message, .. } => self.shard.down(message),
                _ => unreachable!("an ensemble of one has no peers"),
            }
        }
    }
}

fn frames(request: &Request<'_>) -> Vec<u8> {
    let mut frames = Vec::new();
    (0..PIPELINED).for_each(|xid| request.encode_frame(xid as i32, &mut frames));
    frames
}

fn brains(c: &mut Criterion) {
    let mut server = Server::new();
    let data = vec![7u8; 1024];
    let mut create = Vec::new();
    for path in ["/bench", "/bench/node"] {
        Request::Create(Create { path: path.into(), data: Some(&data), acl: OPEN_ACL, flags: 0 }).encode_frame(1, &mut create);
    }
    server.turn(&create);
    let mut group = c.benchmark_group("brains");
    group.throughput(Throughput::Elements(PIPELINED as u64));
    let get = frames(&Request::GetData { path: "/bench/node".into(), watch: false });
    group.bench_function("get 1 KiB", |b| b.iter(|| black_box(server.turn(&get))));
    let set = frames(&Request::SetData { path: "/bench/node".into(), data: Some(&data[..100]), version: -1 });
    group.bench_function("set 100 B", |b| b.iter(|| black_box(server.turn(&set))));
    let create = frames(&Request::Create(Create { path: "/bench/n-".into(), data: Some(&data[..100]), acl: OPEN_ACL, flags: 2 }));
    group.bench_function("create 100 B", |b| b.iter(|| black_box(server.turn(&create))));
    group.finish();
}

/// Keys of both ends of a link.
fn session() -> Vec<SessionKeys> {
    let us = |server| Introduction { server, cluster: 7, has_history: true, incarnation: 9 };
    let mut said = Vec::new();
    let mut sides =
        [Handshake::listen(us(1), vec![2], Secret::none(), [2; 32]), Handshake::dial(us(2), 1, Secret::none(), [1; 32], &mut said)];
    let mut keys = Vec::new();
    for step in 0..4 {
        let (side, mut out) = (&mut sides[step % 2], Vec::new());
        while !said.is_empty() {
            let rest = said.split_off(side.wanted().min(said.len()));
            keys.extend(side.receive(&said, &mut out).unwrap().map(|established| established.keys));
            said = rest;
        }
        said = out;
    }
    keys
}

/// A frame sealed, copied once as a kernel would, verified and taken apart.
fn links(c: &mut Criterion) {
    let mut group = c.benchmark_group("links");
    for (name, bytes) in [("heartbeat", 0), ("batch of 4 KiB", 4 << 10), ("batch of 256 KiB", 256 << 10)] {
        let mut keys = session().into_iter();
        let (mut receive, mut send) = (Receiver::new(keys.next().unwrap().receive), keys.next().unwrap().send);
        let batch = vec![7; bytes];
        let head = [&((21 + bytes) as u32).to_le_bytes()[..], &[9; 21]].concat();
        group.throughput(Throughput::Bytes(bytes.max(1) as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                let (before, mac) = frame_around(&mut send, &head, &batch);
                let mut pieces = [&before[..], &head, &batch, &mac].into_iter();
                let mut piece = pieces.next().unwrap();
                while !piece.is_empty() {
                    let (mut room, mut filled) = (receive.room(), 0);
                    for part in room.parts_mut() {
                        let mut at = 0;
                        while at < part.len() && !piece.is_empty() {
                            let count = (part.len() - at).min(piece.len());
                            part[at..at + count].copy_from_slice(&piece[..count]);
                            (at, piece) = (at + count, &piece[count..]);
                            while piece.is_empty() && pieces.len() > 0 {
                                piece = pieces.next().unwrap();
                            }
                        }
                        filled += at;
                    }
                    receive.filled(room, filled).unwrap();
                }
                black_box(receive.next_frame().expect("it is whole"))
            });
        });
    }
    group.finish();
}

criterion_group!(benches, brains, links);
criterion_main!(benches);
