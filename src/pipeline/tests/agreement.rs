//! What the differential test against a real ZooKeeper has brought to light: small answers that only their bytes explain.
//! Refuses to repeat what traps.rs tells.

use super::*;
use crate::pipeline::prepare::{Asker, Prepare};
use crate::wire::record::event;
use crate::wire::request::opcode;

/// The types of the results inside the reply to a multi, with their codes.
fn results(server: &mut Server, client: Client, ops: &[Request<'_>]) -> Vec<(i32, i32)> {
    let raw = MultiOps::encode_ops(ops);
    let (header, body) = server.call(client, &Request::Multi(MultiOps::from_encoded(&raw).unwrap()));
    assert_eq!(header.err, code::OK);
    let (mut reader, mut found) = (Reader::new(&body), Vec::new());
    loop {
        let (kind, done, err) = (reader.i32().unwrap(), reader.bool().unwrap(), reader.i32().unwrap());
        if done {
            assert!(reader.rest().is_empty());
            return found;
        }
        found.push((kind, err));
        match kind {
            opcode::CREATE => drop(reader.utf8().unwrap()),
            opcode::CREATE2 => {
                reader.utf8().unwrap();
                Stat::decode(&mut reader).unwrap();
            }
            -1 => assert_eq!(reader.i32(), Ok(err)),
            other => panic!("no result of type {other} was asked for"),
        }
    }
}

fn plain(path: &str, flags: i32) -> Create<'_> {
    Create { path: path.into(), data: None, acl: OPEN_ACL, flags }
}

#[test]
fn in_a_multi_only_container_and_ttl_flags_change_the_opcode() {
    let mut server = Server::new();
    let one = server.session(0);
    let ops = [
        Request::CreateContainer(plain("/container-", 3)),
        Request::CreateContainer(plain("/c", 0)),
        Request::Create(plain("/flag", 4)),
        Request::Create2(plain("/flag2", 4)),
        Request::CreateTtl(plain("/ttl", 0), 7),
        Request::CreateTtl(plain("/ttl-flag", 4), 7),
        Request::Create2(plain("/two", 0)),
        Request::Create(plain("/one", 0)),
    ];
    let kinds: Vec<i32> = results(&mut server, one, &ops).iter().map(|result| result.0).collect();
    let (create, create2) = (opcode::CREATE, opcode::CREATE2);
    assert_eq!(kinds, [create2, create2, create2, create2, create, create2, create2, create]);
    // Those that are containers go when their last child has gone.
    let containers = ["/container-0000000000", "/c", "/flag", "/flag2", "/ttl-flag"];
    for path in containers.iter().chain(&["/ttl", "/two"]) {
        let child = format!("{path}/x");
        assert_eq!((server.err(one, &create_of(&child)), server.err(one, &delete(&child))), (code::OK, code::OK));
    }
    server.wait(1000);
    for path in containers {
        assert_eq!(server.err(one, &get(path, false)), code::NO_NODE, "{path}");
    }
    assert_eq!((server.err(one, &get("/ttl", false)), server.err(one, &get("/two", false))), (code::OK, code::OK));
}

fn create_of(path: &str) -> Request<'_> {
    Request::Create(plain(path, 0))
}

#[test]
fn the_empty_path_counts_the_root_as_a_descendant() {
    let mut server = Server::new();
    let one = server.session(0);
    let mut count = |path: &str| {
        let (_, body) = server.call(one, &Request::GetAllChildrenNumber { path: path.into() });
        Reader::new(&body).i32().unwrap()
    };
    assert_eq!((count("/"), count("")), (3, 4));
}

#[test]
fn a_prefix_of_javas_white_space_names_all_ephemerals() {
    let mut server = Server::new();
    let one = server.session(0);
    server.call(one, &create("/e", 1));
    let mut count = |prefix: &str| {
        let (_, body) = server.call(one, &Request::GetEphemerals { prefix: prefix.into() });
        Reader::new(&body).i32().unwrap()
    };
    for (prefix, found) in [("\0", 1), (" / \x1f", 1), (" /e", 0), ("\u{a0}", 0), ("\u{3000}/", 0)] {
        assert_eq!(count(prefix), found, "{prefix:?}");
    }
}

#[test]
fn a_recursive_watch_of_the_empty_path_hears_of_nothing() {
    let mut server = Server::new();
    let (writer, watcher) = (server.session(0), server.session(1));
    for path in ["", "/"] {
        assert_eq!(server.err(watcher, &Request::AddWatch { path: path.into(), mode: 1 }), code::OK);
    }
    assert_eq!(server.err(watcher, &Request::RemoveWatches { path: "/".into(), kind: 5 }), code::OK);
    for request in [create("/a", 0), set("/a", 0), delete("/a")] {
        assert_eq!(server.err(writer, &request), code::OK);
    }
    assert_eq!(server.frames(watcher).len(), 0);
    assert_eq!(server.err(watcher, &Request::CheckWatches { path: "".into(), kind: 5 }), code::OK);
    // Of the root it does, as before.
    server.call(watcher, &Request::AddWatch { path: "/".into(), mode: 1 });
    server.call(writer, &create("/a", 0));
    assert_eq!(Reader::new(&server.frames(watcher)[0].1).i32(), Ok(event::NODE_CREATED));
}

#[test]
fn a_negative_length_is_null_only_if_it_is_minus_one() {
    let mut server = Server::new();
    let one = server.session(0);
    let mut err = |op: i32, record: &[&[u8]]| {
        let mut frame = Vec::new();
        frame.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 1]);
        frame.extend_from_slice(&op.to_be_bytes());
        record.iter().for_each(|part| frame.extend_from_slice(part));
        let len = (frame.len() as i32 - 4).to_be_bytes();
        frame[..4].copy_from_slice(&len);
        server.shards[one.shard].receive(one.conn, &frame);
        server.settle();
        server.frames(one)[0].0.err
    };
    const NULL: &[u8] = &(-1i32).to_be_bytes();
    const BELOW: &[u8] = &(-2i32).to_be_bytes();
    const ROOT: &[u8] = b"\0\0\0\x01/";
    for op in [opcode::SET_DATA, opcode::SET_ACL] {
        assert_eq!(err(op, &[NULL, NULL, NULL]), code::BAD_ARGUMENTS, "null is a bad path");
        assert_eq!(err(op, &[BELOW, NULL, NULL]), code::MARSHALLING_ERROR);
    }
    let (begin, end): (&[u8], &[u8]) = (b"\0\0\0\x05\0\xff\xff\xff\xff", b"\xff\xff\xff\xff\x01\xff\xff\xff\xff");
    assert_eq!(err(opcode::MULTI, &[begin, ROOT, NULL, NULL, end]), code::OK);
    assert_eq!(err(opcode::MULTI, &[begin, NULL, NULL, NULL, end]), code::MARSHALLING_ERROR, "in a multi it spoils everything");
    assert_eq!(err(opcode::SET_DATA, &[ROOT, NULL, NULL]), code::OK);
    assert_eq!(err(opcode::SET_DATA, &[ROOT, BELOW, NULL]), code::MARSHALLING_ERROR);
    // A list with a negative count is empty, null or not; only null is refused where there must be one.
    assert_eq!(err(opcode::SET_ACL, &[ROOT, BELOW, NULL]), code::INVALID_ACL);
    let zxid: &[u8] = &[0; 8];
    assert_eq!(err(opcode::SET_WATCHES, &[zxid, BELOW, BELOW, BELOW]), code::OK);
    assert_eq!(err(opcode::SET_WATCHES, &[zxid, BELOW, NULL, BELOW]), code::MARSHALLING_ERROR);
}

#[test]
fn where_there_are_no_ttl_nodes_only_their_flags_are_unimplemented() {
    let state = State::new(false);
    let asker = Asker { state: &state, session: 1, auth: &[0; 4], zxid: 1, time_ms: 0 };
    let refused = |flags, ttl_ms| Prepare::default().change(&asker, &Request::CreateTtl(plain("/t", flags), ttl_ms)).err();
    assert_eq!((refused(5, 1000), refused(6, 0)), (Some(code::UNIMPLEMENTED), Some(code::UNIMPLEMENTED)));
    assert_eq!((refused(0, 1000), refused(7, 1000)), (Some(code::BAD_ARGUMENTS), Some(code::BAD_ARGUMENTS)));
}

#[test]
fn reconfiguring_what_has_no_peers() {
    let state = State::new(false);
    let asker = Asker { state: &state, session: 1, auth: &[0; 4], zxid: 1, time_ms: 0 };
    let refused = |reconfig_enabled| {
        let mut prepare = Prepare { config: PrepareConfig { reconfig_enabled, ..PrepareConfig::default() }, ..Prepare::default() };
        prepare.change(&asker, &Request::Reconfig).err()
    };
    assert_eq!((refused(false), refused(true)), (Some(code::RECONFIG_DISABLED), Some(code::UNIMPLEMENTED)));
}
