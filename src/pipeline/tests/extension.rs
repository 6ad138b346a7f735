//! Stories about what the server does beyond ZooKeeper: Keeper's operations, its two nodes that are in no tree, pages.

use super::*;
use crate::limits::REMOVE_NODES_MAX;
use crate::wire::extension::{Extension, Filter, Page};
use crate::wire::record::event;
use crate::wire::request::{AclList, SetWatches, StringList};

fn check_not_exists(path: &str, version: i32) -> Request<'_> {
    Request::Extension(Extension::CheckNotExists { path: path.into(), version })
}

fn create_if_not_exists(path: &str, flags: i32) -> Request<'_> {
    Request::Extension(Extension::CreateIfNotExists(Create { path: path.into(), data: Some(b"d"), acl: OPEN_ACL, flags }))
}

fn remove_recursive(path: &str, nodes_max: u32) -> Request<'_> {
    Request::Extension(Extension::RemoveRecursive { path: path.into(), nodes_max })
}

fn check_stat(path: &str, version: i32, stat: Stat) -> Request<'_> {
    Request::Extension(Extension::CheckStat { path: path.into(), version, stat })
}

fn try_remove(path: &str, version: i32) -> Request<'_> {
    Request::Extension(Extension::TryRemove { path: path.into(), version })
}

fn filtered(path: &str, filter: Filter) -> Request<'_> {
    Request::Extension(Extension::FilteredList { path: path.into(), watch: false, filter })
}

fn names(reader: &mut Reader<'_>) -> Vec<String> {
    (0..reader.i32().unwrap()).map(|_| reader.utf8().unwrap().to_string()).collect()
}

fn stat_of(server: &mut Server, client: Client, path: &str) -> Stat {
    let (_, body) = server.call(client, &Request::Exists { path: path.into(), watch: false });
    Stat::decode(&mut Reader::new(&body)).unwrap()
}

/// (type, error) of every result of a multi; only for results without a record.
fn multi(server: &mut Server, client: Client, ops: &[Request<'_>]) -> Vec<(i32, i32)> {
    let raw = MultiOps::encode_ops(ops);
    let (header, body) = server.call(client, &Request::Multi(MultiOps::from_encoded(&raw).unwrap()));
    assert_eq!(header.err, code::OK);
    let mut reader = Reader::new(&body);
    let mut results = Vec::new();
    loop {
        let (kind, done, err) = (reader.i32().unwrap(), reader.bool().unwrap(), reader.i32().unwrap());
        match kind {
            -1 if done => break,
            -1 => assert_eq!(reader.i32().unwrap(), err),
            1 => drop(reader.utf8().unwrap()),
            _ => {}
        }
        results.push((kind, err));
    }
    assert!(reader.rest().is_empty());
    results
}

#[test]
fn keepers_nodes_are_read_and_nothing_else() {
    let mut server = Server::new();
    let one = server.session(0);
    for (path, data) in [("/keeper/feature_flags", &[0xfa, 0xe0][..]), ("/keeper/api_version", b"3")] {
        let (header, body) = server.call(one, &get(path, true));
        let mut reader = Reader::new(&body);
        assert_eq!((header.err, reader.buffer()), (code::OK, Ok(Some(data))));
        let stat = Stat::decode(&mut reader).unwrap();
        assert_eq!(stat, Stat { data_length: data.len() as i32, ..Stat::default() });
        assert_eq!(stat_of(&mut server, one, path), stat);
        assert_eq!(server.err(one, &set(path, -1)), code::NO_NODE);
        assert_eq!(server.err(one, &delete(path)), code::NO_NODE);
        assert_eq!(server.err(one, &create(path, 0)), code::NO_NODE, "their parent is not there");
    }
    assert_eq!(server.err(one, &get("/keeper", false)), code::NO_NODE);
    let (_, body) = server.call(one, &filtered("/", Filter::All));
    assert_eq!(names(&mut Reader::new(&body)), ["zookeeper"]);
    assert_eq!(server.shards[0].state().node_count(), 4);
    // Whoever reconnects with a watch on one of them is not told that it is gone.
    let mut list = 1i32.to_be_bytes().to_vec();
    crate::wire::jute::write_string(&mut list, "/keeper/api_version");
    let data = StringList::from_encoded(&list).unwrap();
    let none = StringList::default();
    let again = SetWatches { relative_zxid: 0, data, exist: none, child: none, persistent: none, persistent_recursive: none };
    server.send(one, -8, &Request::SetWatches(again));
    server.settle();
    assert_eq!(server.frames(one).len(), 1, "the reply and no event");
}

#[test]
fn a_real_node_hides_a_virtual_one() {
    let mut server = Server::new();
    let one = server.session(0);
    server.call(one, &create("/keeper", 0));
    server.call(one, &get("/keeper/api_version", true));
    server.send(one, 9, &create("/keeper/api_version", 0));
    server.settle();
    let frames = server.frames(one);
    assert_eq!((frames.len(), frames[0].0.xid, frames[1].0.err), (2, -1, code::OK), "the watch tells that it was created");
    let data =
        |server: &mut Server| Reader::new(&server.call(one, &get("/keeper/api_version", false)).1).buffer().unwrap().map(<[u8]>::to_vec);
    assert_eq!(data(&mut server), Some(b"d".to_vec()));
    server.call(one, &delete("/keeper/api_version"));
    assert_eq!(data(&mut server), Some(b"3".to_vec()));
}

#[test]
fn lists_show_what_was_asked_for() {
    let mut server = Server::new();
    let one = server.session(0);
    for (path, flags) in [("/l", 0), ("/l/a", 0), ("/l/b", 1), ("/l/c", 0)] {
        server.call(one, &create(path, flags));
    }
    server.call(one, &Request::SetData { path: "/l/c".into(), data: None, version: -1 });
    for (filter, expected) in [(Filter::All, &["a", "b", "c"][..]), (Filter::Persistent, &["a", "c"]), (Filter::Ephemeral, &["b"])] {
        let (header, body) = server.call(one, &filtered("/l", filter));
        let mut reader = Reader::new(&body);
        assert_eq!((header.err, names(&mut reader)), (code::OK, expected.iter().map(|n| n.to_string()).collect()));
        assert_eq!(Stat::decode(&mut reader).unwrap().num_children, 3);
        assert!(reader.rest().is_empty());
    }
    for (stats, data) in [(false, false), (true, false), (false, true), (true, true)] {
        let list = Extension::ListWithStatsAndData { path: "/l".into(), watch: false, filter: Filter::Persistent, stats, data };
        let (_, body) = server.call(one, &Request::Extension(list));
        let mut reader = Reader::new(&body);
        assert_eq!(names(&mut reader), ["a", "c"]);
        Stat::decode(&mut reader).unwrap();
        let seen: Vec<i32> = (0..reader.i32().unwrap()).map(|_| Stat::decode(&mut reader).unwrap().version).collect();
        assert_eq!(seen, if stats { vec![0, 1] } else { vec![] });
        let seen: Vec<Option<&[u8]>> = (0..reader.i32().unwrap()).map(|_| reader.buffer().unwrap()).collect();
        assert_eq!(seen, if data { vec![Some(&b"d"[..]), None] } else { vec![] });
        assert!(reader.rest().is_empty());
    }
    assert_eq!(server.err(one, &filtered("/none", Filter::All)), code::NO_NODE);
}

#[test]
fn a_list_leaves_a_child_watch() {
    let mut server = Server::new();
    let (one, two) = (server.session(0), server.session(1));
    server.call(one, &create("/l", 0));
    let page = Page { path: "/l".into(), after: "".into(), names_max: 1, bytes_max: 0, watch: true };
    for list in [
        Extension::FilteredList { path: "/l".into(), watch: true, filter: Filter::All },
        Extension::ListWithStatsAndData { path: "/l".into(), watch: true, filter: Filter::All, stats: false, data: false },
        Extension::ChildrenPage(page),
    ] {
        server.call(two, &Request::Extension(list));
        server.call(one, &create("/l/x", 0));
        let frames = server.frames(two);
        assert_eq!((frames.len(), Reader::new(&frames[0].1).i32()), (1, Ok(event::NODE_CHILDREN_CHANGED)));
        server.call(one, &delete("/l/x"));
    }
}

/// An ACL that lets everybody do what `perms` says and no more.
fn anyone(perms: u8) -> Vec<u8> {
    let mut raw = b"\0\0\0\x01\0\0\0\x00\0\0\0\x05world\0\0\0\x06anyone".to_vec();
    raw[7] = perms;
    raw
}

fn create_with<'a>(path: &'a str, acl: &'a [u8]) -> Request<'a> {
    Request::Create(Create { path: path.into(), data: None, acl: AclList::from_encoded(acl).unwrap(), flags: 0 })
}

#[test]
fn what_may_not_be_read_is_not_shown() {
    let mut server = Server::new();
    let one = server.session(0);
    let (all_but_read, no_delete) = (anyone(30), anyone(31 - 8));
    server.call(one, &create("/l", 0));
    server.call(one, &create("/l/a", 0));
    server.call(one, &create_with("/l/b", &all_but_read));
    assert_eq!(server.err(one, &filtered("/l", Filter::All)), code::OK);
    assert_eq!(server.err(one, &filtered("/l", Filter::Persistent)), code::NO_AUTH);
    assert_eq!(server.err(one, &filtered("/l", Filter::Ephemeral)), code::OK);
    let list = |data| Extension::ListWithStatsAndData { path: "/l".into(), watch: data, filter: Filter::All, stats: false, data };
    assert_eq!(server.err(one, &Request::Extension(list(true))), code::NO_AUTH);
    assert!(server.shards[0].watches().is_empty(), "what is refused leaves no watch");
    assert_eq!(server.err(one, &Request::Extension(list(false))), code::OK);
    for request in [check_not_exists("/l/b", -1), check_stat("/l/b", -1, Stat::default())] {
        assert_eq!(server.err(one, &request), code::NO_AUTH);
        assert_eq!(multi(&mut server, one, &[request]), [(-1, code::NO_AUTH)]);
    }
    // A removal needs what deletes one by one would need: DELETE on every node that has children, and on the parent.
    server.call(one, &create_with("/l/c", &no_delete));
    assert_eq!(server.err(one, &remove_recursive("/l/c", 9)), code::OK);
    server.call(one, &create_with("/l/c", &no_delete));
    server.call(one, &create("/l/c/x", 0));
    for request in [remove_recursive("/l/c/x", 9), remove_recursive("/l/c", 9), remove_recursive("/l", 9), try_remove("/l/c/x", -1)] {
        assert_eq!(server.err(one, &request), code::NO_AUTH);
    }
    assert_eq!(server.err(one, &get("/l/c/x", false)), code::OK);
}

#[test]
fn a_tree_goes_at_once_children_first() {
    let mut server = Server::with(Setup { state: || State::new(true), ..Setup::default() });
    let (one, two) = (server.session(0), server.session(1));
    for (path, flags) in [("/t", 0), ("/t/b", 0), ("/t/b/x", 1), ("/t/b-", 0), ("/t/a", 1), ("/tt", 0)] {
        server.call(one, &create(path, flags));
    }
    server.call(two, &Request::AddWatch { path: "/t".into(), mode: 1 });
    server.call(two, &Request::GetChildren { path: "/t/b".into(), watch: true });
    server.call(two, &Request::GetChildren { path: "/".into(), watch: true });
    assert_eq!(server.err(one, &remove_recursive("/t", 4)), code::NOT_EMPTY);
    assert!(server.frames(two).is_empty());
    let (header, body) = server.call(one, &remove_recursive("/t", 5));
    assert_eq!((header.err, body), (code::OK, vec![]));
    let frames = server.frames(two);
    assert!(frames.iter().all(|f| f.0.zxid == header.zxid), "one transaction");
    let events: Vec<(i32, String)> = frames
        .iter()
        .map(|f| {
            let mut reader = Reader::new(&f.1);
            let (kind, _) = (reader.i32().unwrap(), reader.i32().unwrap());
            (kind, reader.utf8().unwrap().to_string())
        })
        .collect();
    let (gone, children) = (event::NODE_DELETED, event::NODE_CHILDREN_CHANGED);
    let expected = [(gone, "/t/a"), (gone, "/t/b/x"), (children, "/t/b"), (gone, "/t/b"), (gone, "/t/b-"), (gone, "/t"), (children, "/")];
    assert_eq!(events, expected.map(|(kind, path)| (kind, path.to_string())));
    let root = stat_of(&mut server, one, "/");
    assert_eq!((root.num_children, root.cversion, root.pzxid), (2, 2, header.zxid));
    let (_, body) = server.call(one, &Request::GetEphemerals { prefix: "/".into() });
    assert_eq!(Reader::new(&body).i32(), Ok(0));
    assert_eq!(server.err(one, &Request::CloseSession), code::OK);
    for request in [remove_recursive("/", 9), remove_recursive("/zookeeper", 9), remove_recursive("/zookeeper/quota", 9)] {
        assert_eq!(server.err(two, &request), code::BAD_ARGUMENTS);
    }
    assert_eq!(server.err(two, &remove_recursive("/t", 9)), code::NO_NODE);
    for shard in &server.shards {
        assert_eq!(shard.state().digest(), Some(shard.state().compute_digest()));
        assert_eq!(shard.state().digest(), server.shards[0].state().digest());
    }
}

#[test]
fn a_removal_sees_what_is_in_flight() {
    let mut server = Server::new();
    let (one, two) = (server.session(0), server.session(0));
    for path in ["/t", "/t/old", "/t/old/x"] {
        server.call(one, &create(path, 0));
    }
    let requests = [
        create("/t/new", 0),
        create("/t/new/e", 1),
        remove_recursive("/t/old", 2),
        remove_recursive("/t", 2),
        remove_recursive("/t", 3),
        create("/t/new/late", 0),
        create("/t", 0),
        create("/t/old", 0),
        remove_recursive("/t/old", 1),
        delete("/t"),
        remove_recursive("/t", 1),
    ];
    for request in &requests {
        server.send(one, 5, request);
    }
    server.send(two, 6, &Request::CloseSession);
    server.settle();
    let errs: Vec<i32> = server.frames(one).iter().map(|f| f.0.err).collect();
    let (ok, no_node) = (code::OK, code::NO_NODE);
    assert_eq!(errs, [ok, ok, ok, code::NOT_EMPTY, ok, no_node, ok, ok, ok, ok, no_node]);
    assert_eq!(server.shards[0].state().node_count(), 4);
}

#[test]
fn a_refused_multi_takes_a_removal_back() {
    let mut server = Server::new();
    let one = server.session(0);
    for path in ["/t", "/t/a", "/t/a/b"] {
        server.call(one, &create(path, 0));
    }
    let refused = multi(&mut server, one, &[remove_recursive("/t", 9), create("/t", 0), delete("/t/a")]);
    assert_eq!(refused, [(-1, 0), (-1, 0), (-1, code::NO_NODE)]);
    assert_eq!(server.err(one, &get("/t/a/b", false)), code::OK);
    let ops = [
        check_not_exists("/none", -1),
        check_not_exists("/t", 7),
        create_if_not_exists("/t", 0),
        create_if_not_exists("/u", 1),
        try_remove("/t", -1),
        try_remove("/none/x", -1),
        try_remove("/t/a/b", 0),
        remove_recursive("/t", 9),
        check_not_exists("/t", -1),
        create_if_not_exists("/t", 0),
    ];
    // Types that stock decoders know: those of what the operations vary.
    let kinds = [13, 13, 1, 1, 2, 2, 2, 2, 13, 1];
    assert_eq!(multi(&mut server, one, &ops), kinds.map(|kind| (kind, 0)));
    assert_eq!(stat_of(&mut server, one, "/t").num_children, 0);
    assert_eq!(multi(&mut server, one, &[check_not_exists("/t", 0)]), [(-1, code::NODE_EXISTS)]);
}

#[test]
fn conditions_leave_alone_what_they_find() {
    let mut server = Server::new();
    let one = server.session(0);
    let path = |frame: &Frame| Reader::new(&frame.1).utf8().map(str::to_string);
    for _ in 0..2 {
        let frame = server.call(one, &create_if_not_exists("/c", 0));
        assert_eq!((frame.0.err, path(&frame)), (code::OK, Ok("/c".into())));
        assert_eq!(stat_of(&mut server, one, "/").cversion, 0, "one create, two children");
    }
    for (request, expected) in [
        (create_if_not_exists("/none/x", 0), code::NO_NODE),
        (create_if_not_exists("/c-", 2), code::BAD_ARGUMENTS),
        (create_if_not_exists("/c", 4), code::BAD_ARGUMENTS),
        (create_if_not_exists("c", 0), code::BAD_ARGUMENTS),
        (create_if_not_exists("/c//x", 0), code::NO_NODE),
        (try_remove("/c", 9), code::OK),
        (try_remove("/none", -1), code::OK),
        (try_remove("/none/x", -1), code::OK),
        (try_remove("/zookeeper", -1), code::BAD_ARGUMENTS),
        (check_not_exists("/c", -1), code::NODE_EXISTS),
        (check_not_exists("/c", 0), code::NODE_EXISTS),
        (check_not_exists("/c", 1), code::OK),
        (check_not_exists("/none", -1), code::OK),
        (check_stat("/none", -1, Stat::default()), code::NO_NODE),
    ] {
        assert_eq!(server.err(one, &request), expected, "{request:?}");
    }
    assert_eq!(server.err(one, &get("/c", false)), code::OK);
    assert_eq!(server.err(one, &try_remove("/c", 0)), code::OK);
    assert_eq!(server.err(one, &get("/c", false)), code::NO_NODE);
}

#[test]
fn a_stat_is_checked_as_it_will_be() {
    let any = Stat {
        czxid: -1,
        mzxid: -1,
        ctime: -1,
        mtime: -1,
        version: -1,
        cversion: -1,
        aversion: -1,
        ephemeral_owner: -1,
        data_length: -1,
        num_children: -1,
        pzxid: -1,
    };
    let mut server = Server::new();
    let one = server.session(0);
    let z = server.call(one, &create("/before", 0)).0.zxid;
    server.now_ms += 5;
    let requests = [create("/s", 0), create("/s/x", 0), set("/s", 0), create("/s/y", 0), delete("/s/x")];
    requests.iter().for_each(|request| server.send(one, 5, request));
    let time_ms = 1_000_000 + server.now_ms as i64;
    let will = Stat {
        czxid: z + 1,
        mzxid: z + 3,
        ctime: time_ms,
        mtime: time_ms,
        version: 1,
        cversion: 3,
        aversion: 0,
        ephemeral_owner: 0,
        data_length: 3,
        num_children: 1,
        pzxid: z + 5,
    };
    let wrong = [
        Stat { czxid: 9, ..any },
        Stat { mzxid: 9, ..any },
        Stat { ctime: 9, ..any },
        Stat { mtime: 9, ..any },
        Stat { version: 9, ..any },
        Stat { cversion: 9, ..any },
        Stat { aversion: 9, ..any },
        Stat { ephemeral_owner: 9, ..any },
        Stat { data_length: 9, ..any },
        Stat { num_children: 9, ..any },
        Stat { pzxid: 9, ..any },
    ];
    let checks = |stat, version| MultiOps::encode_ops(&[check_stat("/s", version, stat)]);
    let mut all = vec![(checks(will, 1), true), (checks(any, -1), true), (checks(any, 2), false)];
    all.extend(wrong.map(|stat| (checks(stat, -1), false)));
    for (raw, _) in &all {
        server.send(one, 6, &Request::Multi(MultiOps::from_encoded(raw).unwrap()));
    }
    server.settle();
    let frames = server.frames(one);
    for (frame, (_, held)) in frames[requests.len()..].iter().zip(&all) {
        let mut reader = Reader::new(&frame.1);
        let result = (reader.i32().unwrap(), reader.bool().unwrap(), reader.i32().unwrap());
        assert_eq!(result, if *held { (13, false, 0) } else { (-1, false, code::BAD_VERSION) });
    }
    assert_eq!(stat_of(&mut server, one, "/s"), will, "and so it was");
    assert_eq!(server.err(one, &check_stat("/s", 1, will)), code::OK);
    wrong.iter().for_each(|stat| assert_eq!(server.err(one, &check_stat("/s", -1, *stat)), code::BAD_VERSION));
}

/// Names of a page, and whether there are more.
fn page(server: &mut Server, client: Client, after: &str, names_max: i32, bytes_max: i32) -> (Vec<String>, bool) {
    let page = Page { path: "/d".into(), after: after.into(), names_max, bytes_max, watch: false };
    let (header, body) = server.call(client, &Request::Extension(Extension::ChildrenPage(page)));
    assert_eq!(header.err, code::OK);
    let mut reader = Reader::new(&body);
    let page = (names(&mut reader), reader.bool().unwrap());
    Stat::decode(&mut reader).unwrap();
    assert!(reader.rest().is_empty());
    page
}

#[test]
fn pages_show_every_child_once_and_in_order() {
    let mut server = Server::new();
    let one = server.session(0);
    server.call(one, &create("/d", 0));
    assert_eq!(page(&mut server, one, "", 10, 0), (vec![], false));
    let all: Vec<String> = (0..500).map(|i| format!("n{i:03}")).collect();
    let paths: Vec<String> = all.iter().map(|name| format!("/d/{name}")).collect();
    let ops: Vec<Request<'_>> = paths.iter().rev().map(|path| create(path, 0)).collect();
    multi(&mut server, one, &ops);
    // Eight bytes a name: by count, by bytes, whichever comes first; one name at least.
    for (names_max, bytes_max, expected) in [(7, 0, 7), (0, 50, 6), (7, 50, 6), (0, 1, 1), (0, 0, 500), (500, 0, 500), (499, 4000, 499)] {
        let (mut seen, mut pages): (Vec<String>, usize) = (Vec::new(), 0);
        loop {
            let after = seen.last().cloned().unwrap_or_default();
            let (names, more) = page(&mut server, one, &after, names_max, bytes_max);
            assert!(!names.is_empty() && (!more || names.len() == expected));
            seen.extend(names);
            pages += 1;
            if !more {
                break;
            }
        }
        assert_eq!((seen, pages), (all.clone(), 500usize.div_ceil(expected)), "{names_max} {bytes_max}");
    }
    // The name to go on from need not be there any more.
    server.call(one, &delete("/d/n100"));
    assert_eq!(page(&mut server, one, "n100", 1, 0), (vec!["n101".into()], true));
    assert_eq!(page(&mut server, one, "zzz", 1, 0), (vec![], false));
    for (names_max, bytes_max) in [(-1, 0), (0, -1)] {
        let bad = Page { path: "/d".into(), after: "".into(), names_max, bytes_max, watch: false };
        assert_eq!(server.err(one, &Request::Extension(Extension::ChildrenPage(bad))), code::BAD_ARGUMENTS);
    }
}

#[test]
fn a_removal_has_a_bound_and_so_has_a_multi_of_them() {
    let mut server = Server::new();
    let one = server.session(0);
    let half = REMOVE_NODES_MAX / 2;
    for (top, below) in [("/a", half - 1), ("/b", half), ("/b/0", half - 1)] {
        server.call(one, &create(top, 0));
        for chunk in (0..below).collect::<Vec<_>>().chunks(10_000) {
            let paths: Vec<String> = chunk.iter().map(|i| format!("{top}/{i}")).collect();
            let ops: Vec<Request<'_>> = paths.iter().filter(|path| *path != "/b/0").map(|path| create_with(path, OPEN_ACL_BYTES)).collect();
            multi(&mut server, one, &ops);
        }
    }
    // /b: itself, half - 1 children, /b/0 and half - 1 below that.
    assert_eq!(server.err(one, &remove_recursive("/b", u32::MAX)), code::OK);
    server.call(one, &create("/b", 0));
    for chunk in (0..half).collect::<Vec<_>>().chunks(10_000) {
        let paths: Vec<String> = chunk.iter().map(|i| format!("/b/{i}")).collect();
        multi(&mut server, one, &paths.iter().map(|path| create_with(path, OPEN_ACL_BYTES)).collect::<Vec<_>>());
    }
    let both = [remove_recursive("/a", u32::MAX), remove_recursive("/b", u32::MAX)];
    assert_eq!(multi(&mut server, one, &both), [(-1, 0), (-1, code::NOT_EMPTY)]);
    server.call(one, &create("/a/b", 0));
    assert_eq!(server.err(one, &remove_recursive("/a", half as u32)), code::NOT_EMPTY);
    server.call(one, &delete("/b/0"));
    server.call(one, &delete("/a/b"));
    assert_eq!(multi(&mut server, one, &both), [(2, 0), (2, 0)]);
    assert_eq!(server.shards[1].state().node_count(), 4);
}

const OPEN_ACL_BYTES: &[u8] = b"\0\0\0\x01\0\0\0\x1f\0\0\0\x05world\0\0\0\x06anyone";
