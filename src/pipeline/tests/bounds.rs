//! Stories of clients that ask for more than there is room for: each is refused or closed, and nobody else notices.
//! Refuses to measure memory: the limits are counted in bytes where they are kept.

use super::super::bounds::Bounds;
use super::*;
use crate::limits::{EVENT_BYTES_MAX, GATHERED_BYTES_MAX};
use crate::wire::jute::write_string;
use crate::wire::request::{AclList, opcode};
use crate::wire::response::Response;

/// From here on the client's socket takes nothing: its output is fetched, and never said to be sent.
fn deafen(server: &mut Server, client: Client) {
    server.send(client, -2, &Request::Ping);
    assert!(!server.shards[client.shard].take_output(client.conn).is_empty());
    while server.shards[client.shard].next_action().is_some() {}
}

#[test]
fn a_watcher_that_does_not_read_is_closed() {
    let mut server = Server::new();
    let (writer, deaf) = (server.session(0), server.session(1));
    server.call(deaf, &Request::AddWatch { path: "/".into(), mode: 1 });
    let name = format!("/{}", "n".repeat(100_000));
    server.call(writer, &create(&name, 0));
    deafen(&mut server, deaf);
    let mut writes = 0;
    while !server.is_closed(deaf) && writes < 1000 {
        server.call(writer, &set(&name, -1));
        writes += 1;
    }
    assert!(server.is_closed(deaf), "events pile up for ever");
    assert_eq!(writes, EVENT_BYTES_MAX / (100_000 + 33) + 1);
    assert_eq!(server.err(writer, &get(&name, false)), code::OK);
}

#[test]
fn identities_do_not_pile_up() {
    let mut server = Server::new();
    let one = server.session(0);
    let credentials = vec![b'u'; 10_000];
    let auth = |n: u8| -> Vec<u8> { [&[n], &credentials[..], b":p"].concat() };
    let mut accepted = 0;
    for n in 0..20 {
        if server.is_closed(one) {
            break;
        }
        let added = server.err(one, &Request::Auth { scheme: "digest".into(), credentials: Some(&auth(n)) });
        accepted += u8::from(added == code::OK);
    }
    assert_eq!((accepted, server.is_closed(one)), (6, true));
}

#[test]
fn a_multi_that_outgrows_a_transaction_is_refused() {
    let mut server = Server::new();
    let one = server.session(0);
    for n in 0..6u8 {
        let credentials = [&[n], &[b'u'; 9000][..], b":p"].concat();
        server.call(one, &Request::Auth { scheme: "digest".into(), credentials: Some(&credentials) });
    }
    let mut acl = vec![0, 0, 0, 10];
    for perms in 1..=10u8 {
        acl.extend_from_slice(&[0, 0, 0, perms]);
        ["auth", ""].iter().for_each(|text| write_string(&mut acl, text));
    }
    let acl = AclList::from_encoded(&acl).unwrap();
    let paths: Vec<String> = (0..40).map(|n| format!("/n{n}")).collect();
    let ops: Vec<_> = paths.iter().map(|p| Request::Create(Create { path: p.as_str().into(), data: None, acl, flags: 0 })).collect();
    let raw = MultiOps::encode_ops(&ops);
    let (header, body) = server.call(one, &Request::Multi(MultiOps::from_encoded(&raw).unwrap()));
    let mut reader = Reader::new(&body);
    let codes: Vec<i32> = (0..40).map(|_| (reader.i32(), reader.bool(), reader.i32(), reader.i32().unwrap()).3).collect();
    assert_eq!((header.err, codes[0], codes.contains(&code::BAD_ARGUMENTS), codes[39]), (0, 0, true, code::RUNTIME_INCONSISTENCY));
    assert_eq!(server.err(one, &create("/n0", 0)), code::OK);
}

/// A server whose shards have these bounds, and the default ones otherwise.
fn bounded(bounds: Bounds) -> Server {
    Server::with(Setup { replica: ReplicaConfig { bounds, ..ReplicaConfig::default() }, ..Setup::default() })
}

/// The beginning of a setWatches of so many bytes, without its end.
fn begun(bytes: usize, sent: usize) -> Vec<u8> {
    let mut frame = (bytes as i32).to_be_bytes().to_vec();
    frame.extend_from_slice(&[0xff, 0xff, 0xff, 0xf8, 0, 0, 0, opcode::SET_WATCHES as u8]);
    frame.resize(sent, 0);
    frame
}

#[test]
fn unfinished_requests_have_a_budget_in_common() {
    let mut server = bounded(Bounds { unparsed_bytes_max: 300_000, ..Bounds::default() });
    let clients = [0, 0, 0].map(|shard| server.session(shard));
    let elsewhere = server.session(1);
    for client in [clients[0], clients[1], elsewhere] {
        server.shards[client.shard].receive(client.conn, &begun(1 << 20, 140_000));
    }
    server.act();
    assert_eq!((server.shards[0].figures().unparsed_bytes, server.closed.len()), (280_000, 0));
    // A small beginning is always allowed, and so is whatever is complete.
    server.shards[0].receive(clients[2].conn, &begun(1 << 20, 40_000)[..40_000]);
    server.act();
    assert_eq!((server.shards[0].figures().unparsed_bytes, server.closed.len()), (320_000, 0));
    // Who goes on with a long one has to go; the others and their shares stay.
    server.shards[0].receive(clients[1].conn, &[0; 1000]);
    server.act();
    assert_eq!(server.closed, [(0, clients[1].conn)]);
    assert_eq!((server.shards[0].figures().unparsed_bytes, server.shards[0].figures().partial_requests_closed), (180_000, 1));
    server.shards[0].receive(clients[0].conn, &vec![0; (1 << 20) + 4 - 140_000]);
    server.settle();
    assert_eq!(server.frames(clients[0])[0].0.xid, -8);
    assert_eq!(server.shards[0].figures().unparsed_bytes, 40_000);
    server.shards[0].closed(clients[2].conn);
    assert_eq!((server.shards[0].figures().unparsed_bytes, server.shards[1].figures().unparsed_bytes), (0, 140_000));
}

#[test]
fn a_long_request_is_received_to_its_end() {
    let mut server = Server::new();
    let one = server.session(0);
    let whole = begun(10 << 20, 4 + (10 << 20));
    for piece in whole.chunks(100_000) {
        server.shards[0].receive(one.conn, piece);
        while let Some(action) = server.shards[0].next_action() {
            assert!(!matches!(action, Action::Pause(_)), "nothing more would come");
        }
    }
    assert!(!server.shards[0].take_output(one.conn).is_empty());
    assert_eq!(server.shards[0].figures().unparsed_bytes, 0);
}

#[test]
fn a_request_that_began_while_others_waited_is_received_to_its_end() {
    let mut server = bounded(Bounds { requests_per_connection_max: 2, ..Bounds::default() });
    let one = server.session(0);
    (0..3).for_each(|n| server.send(one, n, &create(&format!("/n{n}"), 0)));
    let large = vec![b'x'; 900_000];
    let mut frame = Vec::new();
    Request::SetData { path: "/n0".into(), data: Some(&large), version: -1 }.encode_frame(3, &mut frame);
    let (first, rest) = frame.split_at(800_000);
    server.shards[0].receive(one.conn, first);
    assert_eq!(server.shards[0].next_action(), Some(Action::Pause(one.conn)));
    assert_eq!(server.shards[0].figures().receive_pauses, 1);
    server.prepare();
    server.commit();
    assert!(std::iter::from_fn(|| server.shards[0].next_action()).any(|action| action == Action::Resume(one.conn)));
    server.shards[0].receive(one.conn, rest);
    let answered = server.shards[0].take_output(one.conn);
    server.shards[0].sent(one.conn, answered);
    server.settle();
    assert_eq!(server.frames(one).last().unwrap().0.xid, 3);
}

#[test]
fn output_that_nobody_reads_has_a_budget_in_common() {
    let mut server = bounded(Bounds { queued_bytes_max: 500_000, ..Bounds::default() });
    let writer = server.session(0);
    let data = vec![b'x'; 100_000];
    server.call(writer, &Request::Create(Create { path: "/large".into(), data: Some(&data), acl: OPEN_ACL, flags: 0 }));
    let deaf = [server.session(0), server.session(0)];
    for client in deaf {
        deafen(&mut server, client);
        (0..10).for_each(|n| server.send(client, n, &get("/large", false)));
    }
    let queued = |server: &Server| server.shards[0].figures().queued_bytes;
    // The first gets answers until all together have too much, the second one that goes beyond its small share.
    assert_eq!(queued(&server) / 100_000, 6);
    assert_eq!(server.err(writer, &get("/none", false)), code::NO_NODE, "small answers always pass");
    for client in deaf {
        server.shards[0].closed(client.conn);
    }
    assert_eq!(queued(&server), 0);
}

#[test]
fn watchers_that_do_not_read_go_earlier_when_all_have_much() {
    let mut server = bounded(Bounds { queued_bytes_max: 1_000_000, ..Bounds::default() });
    let writer = server.session(0);
    let name = format!("/{}", "n".repeat(20_000));
    let deaf = [server.session(0), server.session(0)];
    for client in deaf {
        server.call(client, &Request::AddWatch { path: "/".into(), mode: 1 });
        deafen(&mut server, client);
    }
    for _ in 0..60 {
        server.call(writer, &create(&name, 0));
        server.call(writer, &delete(&name));
    }
    let figures = server.shards[0].figures();
    assert!(figures.watchers_closed == 2 && figures.queued_bytes < 1_200_000, "{figures:?}");
}

#[test]
fn there_are_no_more_sessions_than_allowed() {
    let mut server = bounded(Bounds { sessions_max: 2, ..Bounds::default() });
    let (one, _) = (server.session(0), server.session(1));
    let late = server.open(0);
    let mut frame = Vec::new();
    ConnectRequest { protocol_version: 0, last_zxid_seen: 0, timeout_ms: 5000, session: 0, password: &[0; 16], read_only: None }
        .encode(&mut frame);
    server.shards[0].receive(late.conn, &frame);
    server.settle();
    assert!(server.is_closed(late) && server.frames(late).is_empty());
    assert_eq!(server.shards[0].figures().sessions_refused, 1);
    server.call(one, &Request::CloseSession);
    server.session(0);
}

#[test]
fn there_are_no_more_watches_than_allowed() {
    let mut server = bounded(Bounds { watches_per_connection_max: 2, watches_max: 5, ..Bounds::default() });
    let (one, two) = (server.session(0), server.session(0));
    let watch = |path: &'static str| Request::Exists { path: path.into(), watch: true };
    let errs =
        |server: &mut Server, client, paths: &[&'static str]| paths.iter().map(|p| server.err(client, &watch(p))).collect::<Vec<_>>();
    assert_eq!(errs(&mut server, one, &["/a", "/b", "/c"]), [code::NO_NODE, code::NO_NODE, code::SYSTEM_ERROR]);
    assert_eq!(errs(&mut server, two, &["/a", "/b"]), [code::NO_NODE; 2]);
    let three = server.session(0);
    assert_eq!(errs(&mut server, three, &["/a", "/b"]), [code::NO_NODE, code::SYSTEM_ERROR], "all together have five");
    // A list of watches is refused as a whole, before anything of it happens.
    let mut body = vec![0; 8];
    [2, 0, 0].iter().for_each(|count: &i32| {
        body.extend_from_slice(&count.to_be_bytes());
        (0..*count).for_each(|n| write_string(&mut body, ["/x", "/y"][n as usize]));
    });
    assert_eq!(server.err(three, &Request::decode(opcode::SET_WATCHES, &body).unwrap()), code::SYSTEM_ERROR);
    assert_eq!(server.shards[0].figures().watches_refused, 3);
    assert_eq!(server.err(one, &get("/", false)), code::OK);
}

#[test]
fn lists_are_as_long_as_the_setting_says() {
    let mut replica = ReplicaConfig::default();
    replica.auth.acl_entries_max = 2;
    let mut server = Server::with(Setup { replica, ..Setup::default() });
    let one = server.session(0);
    for (entries, expected) in [(2, code::OK), (3, code::INVALID_ACL)] {
        let mut raw = vec![0, 0, 0, entries];
        for perms in 1..=entries {
            raw.extend_from_slice(&[0, 0, 0, perms]);
            ["world", "anyone"].iter().for_each(|text| write_string(&mut raw, text));
        }
        let acl = AclList::from_encoded(&raw).unwrap();
        let request = Request::Create(Create { path: "/a".into(), data: None, acl, flags: 2 });
        assert_eq!(server.err(one, &request), expected, "{entries}");
    }
    assert_eq!(server.shards[0].figures().writes_refused.invalid_acl, 1);
}

#[test]
fn an_unfinished_handshake_ends_in_time() {
    let replica = ReplicaConfig { handshake_timeout_ms: 500, ..ReplicaConfig::default() };
    let mut server = Server::with(Setup { replica, ..Setup::default() });
    let silent = server.open(0);
    server.wait(499);
    assert!(!server.is_closed(silent));
    server.wait(1);
    assert!(server.is_closed(silent));
    assert_eq!(server.shards[0].figures().sessionless_expired, 1);
}

#[test]
fn a_multi_read_does_not_multiply_a_node_without_end() {
    let mut server = Server::new();
    let one = server.session(0);
    let data = vec![1; 1_000_000];
    server.call(one, &Request::Create(Create { path: "/big".into(), data: Some(&data), acl: OPEN_ACL, flags: 0 }));
    server.call(one, &create("/small", 0));
    let mut ops = vec![get("/big", false); 100];
    ops.push(get("/small", false));
    let raw = MultiOps::encode_ops(&ops);
    let (header, body) = server.call(one, &Request::MultiRead(MultiOps::from_encoded(&raw).unwrap()));
    let Response::Multi(results) = Response::decode(opcode::MULTI_READ, &mut Reader::new(&body)).unwrap() else { panic!() };
    let fit = results.iter().filter(|one| one.result.is_ok()).count();
    assert_eq!((header.err, results.len(), fit), (code::OK, 101, GATHERED_BYTES_MAX / (1_000_000 + 81) + 1));
    assert!(results[fit - 1..100].iter().all(|one| matches!(one.result, Err(code::BAD_ARGUMENTS))));
    assert!(results[100].result.is_ok(), "what is small still fits");
}
