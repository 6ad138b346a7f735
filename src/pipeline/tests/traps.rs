//! Stories of what surprises those who write a server for ZooKeeper's clients.
//! Refuses to repeat what the interop tests say with a client that we did not write.

use super::*;
use crate::tree::snapshot::Loader;
use crate::wire::record::event;

/// Kind and path of the events among frames.
fn events(frames: &[Frame]) -> Vec<(i32, String)> {
    let event = |body: &[u8]| {
        let mut reader = Reader::new(body);
        let (kind, _state) = (reader.i32().unwrap(), reader.i32().unwrap());
        (kind, reader.utf8().unwrap().to_string())
    };
    frames.iter().filter(|f| f.0.xid == -1).map(|f| event(&f.1)).collect()
}

fn event_of(kind: i32, path: &str) -> (i32, String) {
    (kind, path.to_string())
}

#[test]
fn persistent_watches_stay_and_recursive_ones_see_below() {
    let mut server = Server::new();
    let (writer, watcher) = (server.session(0), server.session(1));
    server.call(writer, &create("/w", 0));
    for mode in [0, 1] {
        let (header, body) = server.call(watcher, &Request::AddWatch { path: "/w".into(), mode });
        assert_eq!((header.err, &body[..]), (code::OK, &[0; 4][..]));
    }
    assert_eq!(server.err(watcher, &Request::AddWatch { path: "/w".into(), mode: 2 }), code::MARSHALLING_ERROR);
    for request in [create("/w/x", 0), set("/w/x", 0), set("/w", 0), delete("/w/x")] {
        assert_eq!(server.err(writer, &request), code::OK);
    }
    let (created, deleted, changed, children) =
        (event::NODE_CREATED, event::NODE_DELETED, event::NODE_DATA_CHANGED, event::NODE_CHILDREN_CHANGED);
    // The recursive watch tells of the child; that the parent's children changed is from the other one alone.
    let expected = [(created, "/w/x"), (children, "/w"), (changed, "/w/x"), (changed, "/w"), (deleted, "/w/x"), (children, "/w")];
    assert_eq!(events(&server.frames(watcher)), expected.map(|(kind, path)| event_of(kind, path)));
    let any = 3;
    assert_eq!(server.err(watcher, &Request::CheckWatches { path: "/w".into(), kind: 9 }), code::MARSHALLING_ERROR);
    assert_eq!(server.err(watcher, &Request::RemoveWatches { path: "/w".into(), kind: any }), code::OK);
    assert_eq!(server.err(watcher, &Request::RemoveWatches { path: "/w".into(), kind: any }), code::NO_WATCHER);
    assert_eq!(server.err(writer, &set("/w", 1)), code::OK);
    assert_eq!(server.frames(watcher).len(), 0);
}

#[test]
fn a_multi_read_sets_no_watches() {
    let mut server = Server::new();
    let one = server.session(0);
    let raw = MultiOps::encode_ops(&[get("/", true), get("/none", true)]);
    let (header, body) = server.call(one, &Request::MultiRead(MultiOps::from_encoded(&raw).unwrap()));
    let mut reader = Reader::new(&body);
    assert_eq!((header.err, reader.i32(), reader.bool(), reader.i32()), (code::OK, Ok(4), Ok(false), Ok(code::OK)));
    assert!(server.shards[0].watches().is_empty());
}

#[test]
fn names_of_ephemerals_identities_and_descendants() {
    let mut server = Server::new();
    let one = server.session(0);
    for path in ["/a", "/ab", "/b"] {
        server.call(one, &create(path, 1));
    }
    let (_, body) = server.call(one, &Request::GetEphemerals { prefix: "/a".into() });
    let mut reader = Reader::new(&body);
    assert_eq!((reader.i32(), reader.utf8(), reader.utf8()), (Ok(2), Ok("/a"), Ok("/ab")));
    let (_, body) = server.call(one, &Request::GetAllChildrenNumber { path: "/".into() });
    assert_eq!(Reader::new(&body).i32(), Ok(6), "all but the root: three of ours, three of the system's");
    server.call(one, &Request::Auth { scheme: "digest".into(), credentials: Some(b"bob:secret") });
    let (_, body) = server.call(one, &Request::WhoAmI);
    let mut reader = Reader::new(&body);
    let words: Vec<_> =
        std::iter::once(reader.i32().unwrap().to_string()).chain(std::iter::from_fn(|| Some(reader.utf8().ok()?.into()))).collect();
    assert_eq!(words, ["2", "ip", "127.0.0.1", "digest", "bob"]);
}

#[test]
fn a_container_is_one_by_its_opcode() {
    let mut server = Server::new();
    let one = server.session(0);
    let plain = Create { path: "/c".into(), data: None, acl: OPEN_ACL, flags: 0 };
    server.call(one, &Request::CreateContainer(plain));
    server.call(one, &create("/p", 4));
    for path in ["/c/x", "/p/x"] {
        server.call(one, &create(path, 0));
        server.call(one, &delete(path));
    }
    server.wait(1000);
    assert_eq!((server.err(one, &get("/c", false)), server.err(one, &get("/p", false))), (code::NO_NODE, code::OK));
}

/// The first state, but as if 2^31 children of the root had been created before.
fn worn_root() -> State {
    let (mut state, mut records) = (State::new(false), Vec::new());
    state.begin_snapshot();
    while !state.snapshot_slice(100, &mut records) {}
    let (node, creates_at) = (3, 4 + 1 + 64);
    let mut at = 0;
    while records[at + 4] != node || records[at + 5..at + 9] != [0; 4] {
        at += 4 + u32::from_le_bytes(records[at..at + 4].try_into().unwrap()) as usize;
    }
    records[at + creates_at..at + creates_at + 4].copy_from_slice(&(1u32 << 31).to_le_bytes());
    let mut loader = Loader::new(false);
    loader.push(&records).unwrap();
    loader.finish().unwrap()
}

#[test]
fn sequence_numbers_end_in_an_error() {
    let mut server = Server::with_state(worn_root);
    let one = server.session(0);
    assert_eq!(server.err(one, &create("/s-", 2)), code::SYSTEM_ERROR);
    assert_eq!(server.err(one, &create("/plain", 0)), code::OK);
}
