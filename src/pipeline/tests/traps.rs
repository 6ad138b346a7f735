//! Stories of what surprises those who write a server for ZooKeeper's clients.
//! Refuses to repeat what the interop tests say with a client that we did not write.

use super::*;
use crate::tree::snapshot::Loader;
use crate::wire::record::event;
use crate::wire::request::AclList;

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

/// The records of a snapshot.
fn snapshot(state: &mut State) -> Vec<u8> {
    let mut records = Vec::new();
    state.begin_snapshot();
    while !state.snapshot_slice(100, &mut records) {}
    records
}

fn loaded(records: &[u8]) -> State {
    let mut loader = Loader::new(false);
    loader.push(records).unwrap();
    loader.finish().unwrap()
}

/// The first state, but as if 2^31 children of the root had been created before.
fn worn_root() -> State {
    let mut records = snapshot(&mut State::new(false));
    let (node, creates_at) = (3, 4 + 1 + 64);
    let mut at = 0;
    while records[at + 4] != node || records[at + 5..at + 9] != [0; 4] {
        at += 4 + u32::from_le_bytes(records[at..at + 4].try_into().unwrap()) as usize;
    }
    records[at + creates_at..at + creates_at + 4].copy_from_slice(&(1u32 << 31).to_le_bytes());
    loaded(&records)
}

#[test]
fn sequence_numbers_end_in_an_error() {
    let mut server = Server::with(Setup { state: worn_root, ..Setup::default() });
    let one = server.session(0);
    assert_eq!(server.err(one, &create("/s-", 2)), code::SYSTEM_ERROR);
    assert_eq!(server.err(one, &create("/plain", 0)), code::OK);
}

/// The results of a write multi that went through: type and record of each.
fn results(body: &[u8]) -> Vec<i32> {
    let mut reader = Reader::new(body);
    let mut kinds = Vec::new();
    loop {
        let (kind, done, _err) = (reader.i32().unwrap(), reader.bool().unwrap(), reader.i32().unwrap());
        if done {
            assert!(reader.rest().is_empty());
            return kinds;
        }
        kinds.push(kind);
        reader.utf8().unwrap();
        if kind == 15 {
            Stat::decode(&mut reader).unwrap();
        }
    }
}

#[test]
fn creates_inside_a_multi_answer_with_two_types() {
    let mut server = Server::new();
    let one = server.session(0);
    let record = |path: &'static str, flags| Create { path: path.into(), data: None, acl: OPEN_ACL, flags };
    let ops = [
        Request::Create(record("/plain", 0)),
        Request::Create2(record("/two", 0)),
        Request::CreateContainer(record("/container", 4)),
        Request::CreateTtl(record("/ttl", 5), 100_000),
    ];
    let raw = MultiOps::encode_ops(&ops);
    let (header, body) = server.call(one, &Request::Multi(MultiOps::from_encoded(&raw).unwrap()));
    assert_eq!((header.err, results(&body)), (code::OK, vec![1, 15, 15, 15]));
}

#[test]
fn null_data_and_a_write_behind_it_share_a_zxid() {
    let mut server = Server::new();
    let one = server.session(0);
    let null = Request::Create(Create { path: "/broker".into(), data: None, acl: OPEN_ACL, flags: 1 });
    let raw = MultiOps::encode_ops(&[null, Request::SetData { path: "/broker".into(), data: None, version: -1 }]);
    let (header, body) = server.call(one, &Request::Multi(MultiOps::from_encoded(&raw).unwrap()));
    let stat = Stat::decode(&mut Reader::new(&body[9 + 4 + 7 + 9..])).unwrap();
    assert_eq!((stat.czxid, stat.mzxid, stat.version, stat.data_length), (header.zxid, header.zxid, 1, 0));
    let (_, body) = server.call(one, &get("/broker", false));
    assert_eq!(Reader::new(&body).buffer(), Ok(None));
}

#[test]
fn nothing_that_is_empty_is_null() {
    let mut server = Server::new();
    let one = server.session(0);
    let empty = Create { path: "/leaf".into(), data: Some(b""), acl: OPEN_ACL, flags: 0 };
    server.call(one, &Request::Create(empty));
    for request in [
        get("/leaf", false),
        Request::GetChildren { path: "/leaf".into(), watch: false },
        Request::GetChildren2 { path: "/leaf".into(), watch: false },
        Request::GetEphemerals { prefix: "/".into() },
        Request::Sync { path: "".into() },
    ] {
        let (header, body) = server.call(one, &request);
        assert_eq!((header.err, &body[..4]), (code::OK, &[0; 4][..]), "{request:?}");
    }
}

#[test]
fn a_change_of_permissions_is_no_change_of_the_node() {
    let mut server = Server::new();
    let (one, two) = (server.session(0), server.session(1));
    server.call(one, &create("/acl", 0));
    server.call(two, &get("/acl", true));
    server.call(two, &Request::AddWatch { path: "/acl".into(), mode: 1 });
    let stat = |server: &mut Server| {
        let (_, body) = server.call(one, &Request::Exists { path: "/acl".into(), watch: false });
        Stat::decode(&mut Reader::new(&body)).unwrap()
    };
    let before = stat(&mut server);
    assert_eq!(server.err(one, &Request::SetAcl { path: "/acl".into(), acl: OPEN_ACL, version: 0 }), code::OK);
    assert_eq!(stat(&mut server), Stat { aversion: before.aversion + 1, ..before });
    assert_eq!(server.frames(two).len(), 0);
}

#[test]
fn a_time_to_live_belongs_to_its_opcode_and_flag() {
    let mut server = Server::new();
    let one = server.session(0);
    let record = |flags| Create { path: "/t".into(), data: None, acl: OPEN_ACL, flags };
    for (flags, ttl_ms) in [(0, -1), (0, 100), (2, -1), (5, 0), (5, -1), (6, 1 << 40)] {
        assert_eq!(server.err(one, &Request::CreateTtl(record(flags), ttl_ms)), code::BAD_ARGUMENTS, "{flags} {ttl_ms}");
    }
    assert_eq!(server.err(one, &Request::Create(record(5))), code::BAD_ARGUMENTS);
    assert_eq!(server.err(one, &Request::CreateContainer(record(6))), code::BAD_ARGUMENTS);
    assert_eq!(server.err(one, &get("/t", false)), code::NO_NODE);
}

/// A history in which a TTL node was made.
fn with_ttl_node() -> State {
    let mut server = Server::new();
    let one = server.session(0);
    let record = Create { path: "/t".into(), data: None, acl: OPEN_ACL, flags: 5 };
    assert_eq!(server.err(one, &Request::CreateTtl(record, 2500)), code::OK);
    assert_eq!(server.err(one, &Request::CloseSession), code::OK);
    loaded(&snapshot(server.shards[0].state_mut()))
}

#[test]
fn ttl_nodes_outlive_the_switch_that_made_them() {
    let prepare = PrepareConfig { extended_types_enabled: false, ..PrepareConfig::default() };
    let mut server = Server::with(Setup { prepare, state: with_ttl_node, ..Setup::default() });
    let one = server.session(0);
    assert_eq!(server.err(one, &create("/t/child", 0)), code::OK, "its owner is no session");
    let record = |path: &'static str| Create { path: path.into(), data: None, acl: OPEN_ACL, flags: 5 };
    assert_eq!(server.err(one, &Request::CreateTtl(record("/new"), 100)), code::UNIMPLEMENTED);
    assert_eq!(server.err(one, &delete("/t/child")), code::OK, "the connection is still there");
    assert_eq!(server.err(one, &get("/t", false)), code::OK);
}

#[test]
fn a_ttl_node_in_use_is_not_taken_away() {
    let mut server = Server::new();
    let one = server.session(0);
    let record = Create { path: "/t".into(), data: None, acl: OPEN_ACL, flags: 5 };
    server.call(one, &Request::CreateTtl(record, 1500));
    server.now_ms = 2000;
    // A write on its way, not applied yet, when the node is due.
    server.send(one, 7, &set("/t", 0));
    server.prepare();
    server.node.tick(server.shards[0].state(), 2000, 1_002_000);
    server.settle();
    assert_eq!(server.frames(one)[0].0.err, code::OK);
    assert_eq!(server.err(one, &get("/t", false)), code::OK);
}

#[test]
fn a_container_that_was_never_used_goes_if_the_setting_says_so() {
    for (never_used_ms, expected) in [(0, code::OK), (1500, code::NO_NODE)] {
        let reap = ReapConfig { interval_ms: 1000, never_used_ms, ..ReapConfig::default() };
        let mut server = Server::with(Setup { reap, ..Setup::default() });
        let one = server.session(0);
        server.call(one, &Request::CreateContainer(Create { path: "/c".into(), data: None, acl: OPEN_ACL, flags: 4 }));
        server.wait(1000);
        assert_eq!(server.err(one, &get("/c", false)), code::OK);
        server.wait(1000);
        assert_eq!(server.err(one, &get("/c", false)), expected, "{never_used_ms}");
    }
}

#[test]
fn the_super_user_has_two_identities() {
    let digest = super::super::auth::digest_id(b"super:secret");
    let mut replica = ReplicaConfig::default();
    replica.auth.super_digest = Some(digest);
    let mut server = Server::with(Setup { replica, ..Setup::default() });
    let (one, two) = (server.session(0), server.session(0));
    for (client, credentials) in [(one, &b"super:secret"[..]), (two, "j\u{1f600}:pw".as_bytes())] {
        server.call(client, &Request::Auth { scheme: "digest".into(), credentials: Some(credentials) });
    }
    let closed = AclList::from_encoded(b"\0\0\0\x01\0\0\0\x1f\0\0\0\x04auth\0\0\0\0").unwrap();
    server.call(two, &Request::Create(Create { path: "/mine".into(), data: None, acl: closed, flags: 0 }));
    assert_eq!(server.err(one, &set("/mine", 0)), code::OK);
    let names = |server: &mut Server, client| {
        let (_, body) = server.call(client, &Request::WhoAmI);
        let mut reader = Reader::new(&body);
        (0..reader.i32().unwrap()).map(|_| format!("{} {}", reader.utf8().unwrap(), reader.utf8().unwrap())).collect::<Vec<_>>()
    };
    assert_eq!(names(&mut server, one), ["ip 127.0.0.1", "super ", "digest super"]);
    assert_eq!(names(&mut server, two), ["ip 127.0.0.1", "digest j\u{1f600}"], "proper UTF-8, four bytes");
}

#[test]
fn watches_are_removed_by_their_kind() {
    let mut server = Server::new();
    let one = server.session(0);
    server.call(one, &create("/p", 0));
    server.call(one, &Request::AddWatch { path: "/p".into(), mode: 0 });
    server.call(one, &get("/p", true));
    let (children, data, persistent, recursive) = (1, 2, 4, 5);
    let check = |kind| Request::CheckWatches { path: "/p".into(), kind };
    let remove = |kind| Request::RemoveWatches { path: "/p".into(), kind };
    assert_eq!(server.err(one, &remove(recursive)), code::NO_WATCHER);
    assert_eq!(server.err(one, &remove(persistent)), code::OK);
    assert_eq!(server.err(one, &check(children)), code::NO_WATCHER, "it stood in both tables");
    assert_eq!(server.err(one, &check(data)), code::OK, "the one-shot watch is another");
    assert_eq!(server.err(one, &remove(data)), code::OK);
    assert_eq!(server.err(one, &remove(3)), code::NO_WATCHER);
    server.call(one, &set("/p", -1));
    assert_eq!(server.frames(one).len(), 0);
}

#[test]
fn persistent_watches_catch_up_on_nothing() {
    let mut server = Server::new();
    let (one, two) = (server.session(0), server.session(1));
    server.call(one, &create("/p", 0));
    let list = |paths: &[&str]| {
        let mut raw = (paths.len() as i32).to_be_bytes().to_vec();
        paths.iter().for_each(|path| crate::wire::jute::write_string(&mut raw, path));
        raw
    };
    let (both, none) = (list(&["/p", "/none"]), list(&[]));
    let mut body = 0i64.to_be_bytes().to_vec();
    [&none, &none, &none, &both, &both].iter().for_each(|raw| body.extend_from_slice(raw));
    let request = Request::decode(crate::wire::request::opcode::SET_WATCHES2, &body).unwrap();
    server.send(two, -8, &request);
    server.settle();
    let frames = server.frames(two);
    assert_eq!((frames.len(), frames[0].0.xid, frames[0].0.err), (1, -8, code::OK));
    server.call(one, &set("/p", -1));
    server.call(one, &create("/none", 0));
    let expected = [event_of(event::NODE_DATA_CHANGED, "/p"), event_of(event::NODE_CREATED, "/none")];
    assert_eq!(events(&server.frames(two)), expected, "once, though two of them match");
}
