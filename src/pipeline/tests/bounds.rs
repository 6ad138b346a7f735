//! Stories of clients that ask for more than there is room for: each is refused or closed, and nobody else notices.
//! Refuses to measure memory: the limits are counted in bytes where they are kept.

use super::*;
use crate::limits::EVENT_BYTES_MAX;
use crate::wire::jute::write_string;
use crate::wire::request::AclList;

#[test]
fn a_watcher_that_does_not_read_is_closed() {
    let mut server = Server::new();
    let (writer, deaf) = (server.session(0), server.session(1));
    server.call(deaf, &Request::AddWatch { path: "/".into(), mode: 1 });
    let name = format!("/{}", "n".repeat(100_000));
    server.call(writer, &create(&name, 0));
    // From here on the socket of the watcher takes nothing: its output is fetched, and never said to be sent.
    server.send(deaf, -2, &Request::Ping);
    assert!(!server.shards[1].take_output(deaf.conn).is_empty());
    while server.shards[1].next_action().is_some() {}
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
