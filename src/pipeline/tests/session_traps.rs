//! Stories of sessions and connections where servers for ZooKeeper's clients go wrong: requests that come too late, replies
//! that may overtake, numbers that look reserved. Refuses to repeat what the interop tests show on a socket.

use super::*;
use crate::wire::request::opcode;

#[test]
fn a_request_of_a_session_that_is_gone_closes_its_connection() {
    let mut server = Server::new();
    let one = server.session(1);
    // Silence ends the session, and only the pipeline's core has heard of it when the next write arrives.
    for now_ms in (600..=6000).step_by(600) {
        server.now_ms = now_ms;
        for shard in &mut server.shards {
            shard.begin_turn(now_ms);
            shard.tick();
        }
        server.prepare();
        server.node.tick(server.shards[0].state(), now_ms, 1_000_000 + now_ms as i64);
    }
    server.publish();
    server.apply(0);
    assert_eq!(server.shards[0].state().session_count(), 0);
    server.send(one, 3, &create("/late", 0));
    server.settle();
    assert!(server.is_closed(one) && server.frames(one).is_empty());
    let two = server.session(0);
    assert_eq!(server.err(two, &get("/late", false)), code::NO_NODE);
}

#[test]
fn writes_of_a_session_that_has_moved_are_dropped_and_never_refused() {
    let mut server = Server::new();
    let (old, session) = server.connect(1, 0, [0; 16]);
    server.call(old, &create("/mine", 1));
    // The pipeline hears of the new connection first: shard 0 is asked before shard 1.
    let raw = MultiOps::encode_ops(&[set("/mine", 0)]);
    server.send(old, 3, &set("/mine", 0));
    server.send(old, 4, &Request::Multi(MultiOps::from_encoded(&raw).unwrap()));
    let (new, moved) = server.connect(0, session, [2; 16]);
    assert_eq!((moved, server.is_closed(old), server.frames(old).len()), (session, true, 0));
    assert_eq!(server.err(new, &set("/mine", 0)), code::OK, "neither write was made");
}

#[test]
fn the_reply_to_auth_overtakes() {
    let mut server = Server::new();
    let one = server.session(0);
    server.send(one, 5, &create("/a", 0));
    server.send(one, -4, &Request::Auth { scheme: "digest".into(), credentials: Some(b"u:p") });
    server.act();
    let heads = |frames: Vec<Frame>| frames.iter().map(|f| (f.0.xid, f.0.zxid, f.0.err)).collect::<Vec<_>>();
    assert_eq!(heads(server.frames(one)), [(-4, 0, code::OK)]);
    server.settle();
    assert_eq!(server.frames(one)[0].0.xid, 5);
}

#[test]
fn an_identity_counts_from_the_request_behind_it() {
    let mut server = Server::new();
    let (one, two) = (server.session(0), server.session(1));
    server.call(one, &Request::Auth { scheme: "digest".into(), credentials: Some(b"u:p") });
    let acl = crate::wire::request::AclList::from_encoded(b"\0\0\0\x01\0\0\0\x1f\0\0\0\x04auth\0\0\0\0").unwrap();
    server.call(one, &Request::Create(Create { path: "/mine".into(), data: None, acl, flags: 0 }));
    // In one go: a write that is not allowed yet, the identity, a write that is.
    server.send(two, 1, &set("/mine", -1));
    server.send(two, -4, &Request::Auth { scheme: "digest".into(), credentials: Some(b"u:p") });
    server.send(two, 2, &set("/mine", -1));
    server.settle();
    let heads: Vec<_> = server.frames(two).iter().map(|f| (f.0.xid, f.0.err)).collect();
    assert_eq!(heads, [(-4, code::OK), (1, code::NO_AUTH), (2, code::OK)]);
}

#[test]
fn a_ping_that_waits_keeps_its_session_alive() {
    let mut server = Server::new();
    let one = server.session(0);
    server.send(one, 1, &create("/slow", 0));
    // Proposed, and the disk takes its time: nothing is committed for six seconds, the session has five.
    server.prepare();
    for now_ms in [1000, 2000, 3000, 4000, 5000, 6000] {
        server.now_ms = now_ms;
        for shard in &mut server.shards {
            shard.begin_turn(now_ms);
        }
        if now_ms == 3000 {
            server.send(one, -2, &Request::Ping);
        }
        server.shards.iter_mut().for_each(Replica::tick);
        server.prepare();
        server.node.tick(server.shards[0].state(), now_ms, 1_000_000 + now_ms as i64);
    }
    server.act();
    assert!(!server.is_closed(one) && server.frames(one).is_empty(), "the ping waits for its turn");
    server.settle();
    assert_eq!(server.frames(one).iter().map(|f| f.0.xid).collect::<Vec<_>>(), [1, -2]);
}

#[test]
fn no_xid_is_reserved() {
    let mut server = Server::new();
    let one = server.session(0);
    for xid in [-1, -2, -4, -8, 0, i32::MIN, i32::MAX] {
        server.send(one, xid, &get("/", false));
        server.send(one, xid, &set("/", -1));
        server.settle();
        let heads: Vec<_> = server.frames(one).iter().map(|f| (f.0.xid, f.0.err)).collect();
        assert_eq!(heads, [(xid, code::OK); 2]);
    }
    for (xid, request, answered) in [
        (7, Request::Ping, -2),
        (7, Request::Auth { scheme: "ip".into(), credentials: None }, 7),
        (7, Request::decode(opcode::SET_WATCHES, &[0; 20]).unwrap(), 7),
    ] {
        server.send(one, xid, &request);
        assert_eq!(
            {
                server.act();
                server.frames(one)[0].0.xid
            },
            answered,
            "{request:?}"
        );
    }
}

#[test]
fn sync_is_answered_behind_everything_proposed_before_it() {
    let mut server = Server::new();
    let (one, two) = (server.session(0), server.session(1));
    server.send(one, 1, &create("/a", 0));
    server.prepare();
    server.send(two, 2, &Request::Sync { path: "/a".into() });
    server.send(two, 3, &get("/a", false));
    server.prepare();
    server.act();
    assert!(server.frames(two).is_empty());
    server.settle();
    let heads: Vec<_> = server.frames(two).iter().map(|f| (f.0.xid, f.0.err)).collect();
    assert_eq!(heads, [(2, code::OK), (3, code::OK)]);
}

#[test]
fn the_clickhouse_client_gets_what_it_insists_on() {
    let mut server = Server::new();
    let one = server.open(0);
    let mut bytes = Vec::new();
    ConnectRequest { protocol_version: 0, last_zxid_seen: 0, timeout_ms: 5000, session: 0, password: &[0; 16], read_only: Some(true) }
        .encode(&mut bytes);
    Request::Auth { scheme: "digest".into(), credentials: Some(b"u:p") }.encode_frame(-4, &mut bytes);
    get("/", true).encode_frame(1, &mut bytes);
    server.shards[0].receive(one.conn, &bytes);
    server.settle();
    let received = server.received.remove(&(0, one.conn)).unwrap();
    let hello = ConnectResponse::decode(&received[4..41]).unwrap();
    assert_eq!((&received[..4], hello.protocol_version, hello.read_only), (&[0, 0, 0, 37][..], 0, Some(false)));
    // The auth reply is the very next frame, and 16 bytes long.
    assert_eq!(received[41..49], [0, 0, 0, 16, 0xff, 0xff, 0xff, 0xfc]);
    let reply = &received[61..];
    assert_eq!((reply[3], reply[7]), (16 + 4 + 68, 1), "an exact length");
    server.send(one, 2, &set("/", -1));
    server.settle();
    let heads: Vec<_> = server.frames(one).iter().map(|f| (f.0.xid, f.0.zxid)).collect();
    let zxid = server.shards[0].applied() as i64;
    assert_eq!(heads, [(-1, zxid), (2, zxid)], "it takes its last zxid from events too");
}

#[test]
fn session_ids_are_positive_and_never_look_like_a_ttl() {
    for server_id in [0, 1, 127, 128, 254] {
        let replica = ReplicaConfig { server: server_id, ..ReplicaConfig::default() };
        let mut server = Server::with(Setup { replica, ..Setup::default() });
        let session = server.connect(0, 0, [0; 16]).1;
        assert!(session > 0 && session >> 56 == i64::from(server_id & 127), "{session:x}");
    }
}
