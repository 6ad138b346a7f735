//! Stories about reads that wait for proof, and about clients of a server that has no leader. Refuses to elect one: `zab` and the
//! simulator do.

use super::*;
use crate::pipeline::message::Down;

fn strict() -> Server {
    let replica = ReplicaConfig { linearizable_reads: true, ..ReplicaConfig::default() };
    Server::with(Setup { replica, ..Setup::default() })
}

fn turn(server: &mut Server) {
    let now_ms = server.now_ms;
    server.shards.iter_mut().for_each(|shard| shard.begin_turn(now_ms));
}

#[test]
fn a_strict_read_waits_for_a_barrier() {
    let mut server = strict();
    let one = server.session(0);
    turn(&mut server);
    server.send(one, 7, &get("/zookeeper", false));
    server.act();
    assert!(server.frames(one).is_empty(), "nobody has said yet that nothing is missing");
    server.settle();
    let frames = server.frames(one);
    assert_eq!(frames.iter().map(|f| (f.0.xid, f.0.err)).collect::<Vec<_>>(), [(7, code::OK)], "nobody waits for the barrier itself");
    assert_eq!(server.shards[0].figures().outstanding, 0);
}

#[test]
fn what_comes_in_one_turn_shares_a_barrier() {
    let mut server = strict();
    let one = server.session(0);
    let outstanding = |server: &Server| server.shards[0].figures().outstanding;
    turn(&mut server);
    server.send(one, 1, &get("/zookeeper", false));
    server.send(one, 2, &get("/zookeeper", false));
    assert_eq!(outstanding(&server), 3, "two reads behind one barrier");
    turn(&mut server);
    server.send(one, 3, &get("/zookeeper", false));
    assert_eq!(outstanding(&server), 5, "what comes later needs another one");
    server.settle();
    assert_eq!(server.frames(one).iter().map(|f| f.0.xid).collect::<Vec<_>>(), [1, 2, 3]);
    // Order is kept with writes too, and signs of life wait for nothing.
    turn(&mut server);
    server.send(one, 4, &Request::Ping);
    server.act();
    assert_eq!(server.frames(one).len(), 1);
    for (xid, request) in [(5, create("/a", 0)), (6, get("/a", false)), (7, delete("/a")), (8, get("/a", false))] {
        server.send(one, xid, &request);
    }
    server.settle();
    let frames = server.frames(one);
    let expected = [(5, code::OK), (6, code::OK), (7, code::OK), (8, code::NO_NODE)];
    assert_eq!(frames.iter().map(|f| (f.0.xid, f.0.err)).collect::<Vec<_>>(), expected);
}

#[test]
fn without_a_leader_nobody_shakes_hands_and_operators_are_answered() {
    // The Node of this server leads and has told nobody so.
    let word_argument = |word| (word == *b"ruok").then_some(0);
    let replica = ReplicaConfig { alone: false, word_argument, ..ReplicaConfig::default() };
    let mut server = Server::with(Setup { replica, ..Setup::default() });
    let request =
        ConnectRequest { protocol_version: 0, last_zxid_seen: 0, timeout_ms: 5000, session: 0, password: &[0; 16], read_only: None };
    let mut handshake = Vec::new();
    request.encode(&mut handshake);
    let refused = server.open(0);
    server.shards[0].receive(refused.conn, &handshake);
    server.act();
    assert!(server.is_closed(refused) && server.received[&(0, refused.conn)].is_empty(), "closed without a word");
    let operator = server.open(0);
    server.shards[0].receive(operator.conn, b"ruok");
    server.act();
    assert_eq!(server.received[&(0, operator.conn)], b"imok");
    server.shards[0].down(Down::Route { number: 0, open: true });
    let served = server.session(0);
    assert_eq!(server.err(served, &create("/a", 0)), code::OK);
}

#[test]
fn every_server_shows_the_list_of_servers_that_it_has() {
    let membership = "server.1=a:1:1:participant\nversion=0".to_owned();
    let replica = ReplicaConfig { membership: membership.clone(), ..ReplicaConfig::default() };
    let mut server = Server::with(Setup { replica, ..Setup::default() });
    let one = server.session(0);
    let (_, body) = server.call(one, &get("/zookeeper/config", false));
    let mut reader = Reader::new(&body);
    assert_eq!(reader.buffer(), Ok(Some(membership.as_bytes())));
    let stat = Stat::decode(&mut reader).unwrap();
    assert_eq!((stat.version, stat.aversion, stat.data_length), (-1, -1, membership.len() as i32));
    let (_, body) = server.call(one, &Request::Exists { path: "/zookeeper/config".into(), watch: false });
    assert_eq!(Stat::decode(&mut Reader::new(&body)).unwrap(), stat);
}
