//! Every check fails when it must: wrong histories and wrong frames, each beside the right one.

use super::*;
use crate::limits::BATCH_BYTES_POOLED;
use crate::tree::State;
use crate::wire::aligned::AlignedBuf;
use crate::wire::batch::{Batch, BatchBuilder};
use crate::wire::jute::write_string;
use crate::wire::record::{Acl, ConnectResponse, Stat, event};
use crate::wire::request::opcode;
use crate::wire::response::{self, code};
use crate::wire::txn::{AclRef, Change, Op, Txn};
use std::panic::{AssertUnwindSafe, catch_unwind};

const PASSWORD: [u8; 16] = *b"0123456789abcdef";
const TIME_MS: i64 = 1_000_000;

/// A checker with clients, and hands that write what a server would.
struct Case {
    checker: Checker,
    links: Vec<Link>,
    next_xid: i32,
    sequences: Vec<u32>,
    now_ms: u64,
}

fn open_acl() -> Vec<Acl> {
    vec![Acl { perms: 31, scheme: "world".into(), id: "anyone".into() }]
}

fn create(path: &str, flags: i32) -> Ask {
    Ask::Create { op: opcode::CREATE, path: path.into(), data: None, acl: open_acl(), flags, ttl_ms: 0 }
}

fn set(path: &str) -> Ask {
    Ask::SetData { path: path.into(), data: None, version: -1 }
}

fn get(path: &str, watch: bool) -> Ask {
    Ask::GetData { path: path.into(), watch }
}

fn created(path: &str, owner: i64, parent_creates: u32) -> Op<'_> {
    Op::Change(made(path, owner, parent_creates))
}

fn made(path: &str, owner: i64, parent_creates: u32) -> Change<'_> {
    Change::Create { path, path_hash: crate::tree::path::hash(path), data: None, acl: None, owner, parent_creates, with_stat: false }
}

fn was_set(path: &str, version: i32) -> Op<'_> {
    Op::Change(Change::SetData { path, path_hash: 0, data: None, version })
}

impl Case {
    fn new() -> Case {
        let checker = Checker::new(Settings::default());
        Case { checker, links: Vec::new(), next_xid: 1, sequences: Vec::new(), now_ms: 0 }
    }

    /// With one client whose session is 1, created at zxid 1.
    fn open() -> Case {
        let mut case = Case::new();
        let link = case.connect(0);
        case.commit(link, 1, Op::CreateSession { timeout_ms: 4000, password: PASSWORD });
        case.welcome(link, 1);
        case
    }

    fn connect(&mut self, session: i64) -> usize {
        let hello = Hello { session, password_right: true, timeout_ms: 4000, last_zxid_seen: 0, read_only_field: false };
        let link = self.checker.connecting(hello, 45);
        let index = self.links.len();
        self.checker.accepted(link, Case::key(index));
        self.checker.delivered(link, 45, self.now_ms, true);
        self.links.push(link);
        self.sequences.push(0);
        index
    }

    fn key(index: usize) -> ConnKey {
        ConnKey { server: 1, boot: 1, shard: 0, conn: index as u64 }
    }

    fn welcome(&mut self, link: usize, session: i64) {
        let mut frame = Vec::new();
        let timeout_ms = if session == 0 { 0 } else { 4000 };
        ConnectResponse { protocol_version: 0, timeout_ms, session, password: &PASSWORD, read_only: None }.encode(&mut frame);
        self.checker.welcome(self.links[link], &frame[4..]);
    }

    fn send(&mut self, link: usize, ask: Ask) -> i32 {
        let xid = self.next_xid;
        self.next_xid += 1;
        self.checker.sent(self.links[link], xid, Rc::new(ask), 10, None);
        self.checker.delivered(self.links[link], 10, self.now_ms, true);
        xid
    }

    /// The next transaction: the connection's next request, in this session.
    fn commit(&mut self, link: usize, session: i64, op: Op<'_>) -> u64 {
        let sequence = self.sequences[link];
        self.sequences[link] += 1;
        self.commit_as(Origin { conn: link as u64, sequence, boot: 1, server: 1, shard: 0 }, session, op)
    }

    fn commit_as(&mut self, origin: Origin, session: i64, op: Op<'_>) -> u64 {
        let zxid = self.checker.observed() + 1;
        self.commit_at(zxid, origin, session, op)
    }

    fn commit_at(&mut self, zxid: u64, origin: Origin, session: i64, op: Op<'_>) -> u64 {
        self.checker.observe(&batch(&Txn { zxid, time_ms: TIME_MS, session, origin, op }), self.now_ms);
        zxid
    }

    fn reply(&mut self, link: usize, xid: i32, zxid: u64, err: i32, record: &[u8]) {
        let mut frame = Vec::new();
        let mark = response::begin_reply(&mut frame, xid, zxid, err);
        frame.extend_from_slice(record);
        response::end_frame(&mut frame, mark);
        self.checker.frame(self.links[link], &frame[4..]);
    }

    fn event(&mut self, link: usize, zxid: u64, kind: i32, path: &str) {
        let mut frame = Vec::new();
        response::watch_event(&mut frame, zxid, kind, path);
        self.checker.frame(self.links[link], &frame[4..]);
    }

    /// Client 0 creates the node and is told so.
    fn make(&mut self, path: &str, parent_creates: u32) -> u64 {
        let xid = self.send(0, create(path, 0));
        let zxid = self.commit(0, 1, created(path, 0, parent_creates));
        self.reply(0, xid, zxid, code::OK, &string(path));
        zxid
    }

    /// Client 0 changes a node and is not told.
    fn change(&mut self, path: &str, version: i32) -> (i32, u64) {
        let xid = self.send(0, set(path));
        (xid, self.commit(0, 1, was_set(path, version)))
    }

    /// Client 0 reads at `zxid` and leaves a watch.
    fn watch(&mut self, path: &str, zxid: u64) {
        let xid = self.send(0, get(path, true));
        let record = self.checker.model.read(zxid, Asker { session: 1, ids: &[] }, &get(path, true)).unwrap();
        self.reply(0, xid, zxid, code::OK, &record);
    }
}

fn batch(txn: &Txn<'_>) -> Batch {
    let mut builder = BatchBuilder::default();
    builder.push(txn).unwrap();
    builder.close(1, 0, 0, AlignedBuf::with_capacity(BATCH_BYTES_POOLED))
}

fn string(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    write_string(&mut out, text);
    out
}

/// `wrong` is noticed, under this id.
#[track_caller]
fn violates<T>(id: &str, case: &mut Case, wrong: impl FnOnce(&mut Case) -> T) {
    let complaint = catch_unwind(AssertUnwindSafe(|| drop(wrong(case)))).expect_err(id);
    let text = complaint.downcast_ref::<String>().expect("a message");
    assert!(text.starts_with(&format!("{id}: ")), "{id} was expected, not {text}");
}

#[test]
fn the_order_of_transactions() {
    let mut case = Case::open();
    violates("A7", &mut case, |c| c.commit_at(3, Origin::default(), 0, Op::NewEpoch { leader: 1 }));
    let mut case = Case::open();
    case.commit_at(1 << 32, Origin::default(), 0, Op::NewEpoch { leader: 1 });
    violates("E8", &mut case, |c| c.commit_as(Origin::default(), 1, created("/a", 0, 1)));
    let mut case = Case::open();
    let xid = case.send(0, get("/", false));
    violates("B6", &mut case, |c| c.reply(0, xid, 2, code::OK, b""));
}

#[test]
fn the_whole_state() {
    let mut case = Case::open();
    case.make("/a", 1);
    let state_with = |path: &str| {
        let mut state = State::new(false);
        let (session, made) = (Op::CreateSession { timeout_ms: 4000, password: PASSWORD }, Op::Change(made(path, 0, 1)));
        for (at, op) in [session, made].into_iter().enumerate() {
            let txn = Txn { zxid: at as u64 + 1, time_ms: TIME_MS, session: 1, origin: Origin::default(), op };
            batch(&txn).txns().for_each(|txn| state.apply(txn, &mut Default::default(), Default::default()));
        }
        state
    };
    case.checker.same_state(&state_with("/a"));
    violates("B5", &mut case, |c| c.checker.same_state(&state_with("/b")));
}

#[test]
fn results_of_writes() {
    let mut case = Case::open();
    case.send(0, create("/a", 0));
    violates("E1", &mut case, |c| c.commit(0, 1, Op::Error { code: code::NO_NODE }));
    let mut case = Case::open();
    case.send(0, create("/a", 0));
    violates("E1", &mut case, |c| c.commit(0, 1, created("/a", 0, 2)));
    let mut case = Case::open();
    let asks = || vec![create("/a", 0), set("/b")];
    case.send(0, Ask::Multi(asks()));
    violates("E7", &mut case, |c| c.commit(0, 1, Op::Multi(vec![made("/a", 0, 1)])));
    let mut case = Case::open();
    let xid = case.send(0, Ask::Multi(asks()));
    let zxid = case.commit(0, 1, Op::MultiError { codes: vec![0, code::NO_NODE] });
    violates("E1", &mut case, |c| c.reply(0, xid, zxid, code::NO_NODE, b""));
    let mut case = Case::open();
    case.make("/a", 1);
    let (xid, zxid) = case.change("/a", 1);
    let mut record = Vec::new();
    Stat { czxid: 2, mzxid: zxid as i64, version: 1, ..Stat::default() }.encode(&mut record);
    violates("E9", &mut case, |c| c.reply(0, xid, zxid, code::OK, &record));
}

#[test]
fn the_order_of_one_client() {
    let mut case = Case::open();
    let first = case.send(0, create("/a", 0));
    let second = case.send(0, create("/b", 0));
    case.commit(0, 1, created("/a", 0, 1));
    let zxid = case.commit(0, 1, created("/b", 0, 2));
    assert_ne!(first, second);
    violates("E2", &mut case, |c| c.reply(0, second, zxid, code::OK, &string("/b")));
    let mut case = Case::open();
    case.send(0, create("/a", 0));
    case.send(0, create("/b", 0));
    case.sequences[0] += 1;
    violates("E2", &mut case, |c| c.commit(0, 1, created("/b", 0, 1)));
    let mut case = Case::open();
    let zxid = case.make("/a", 1);
    let xid = case.send(0, get("/a", false));
    violates("E3", &mut case, |c| c.reply(0, xid, zxid - 1, code::NO_NODE, b""));
}

#[test]
fn reads_are_exact() {
    let mut case = Case::open();
    let zxid = case.make("/a", 1);
    let xid = case.send(0, get("/a", false));
    violates("E4", &mut case, |c| c.reply(0, xid, zxid, code::NO_NODE, b""));
    let mut case = Case::open();
    case.make("/a", 1);
    let xid = case.send(0, Ask::GetChildren { path: "/".into(), watch: false });
    let children = [&1i32.to_be_bytes()[..], &string("zookeeper")].concat();
    violates("E4", &mut case, |c| c.reply(0, xid, 2, code::OK, &children));
    // A client that lags reads the past, and exactly that.
    let mut case = Case::open();
    let other = case.connect(0);
    case.commit(other, 2, Op::CreateSession { timeout_ms: 4000, password: PASSWORD });
    case.welcome(other, 2);
    let zxid = case.make("/a", 1);
    let xid = case.send(other, get("/a", false));
    case.reply(other, xid, zxid - 1, code::NO_NODE, b"");
    let xid = case.send(other, Ask::Sync { path: "/a".into() });
    violates("E5", &mut case, |c| c.reply(other, xid, zxid - 1, code::OK, &string("/a")));
}

#[test]
fn at_most_once() {
    let mut case = Case::open();
    case.send(0, create("/a", 0));
    let zxid = case.commit(0, 1, created("/a", 0, 1));
    case.sequences[0] -= 1;
    violates("E8", &mut case, |c| c.commit(0, 1, Op::Error { code: code::NODE_EXISTS }));
    let mut case = Case::open();
    let xid = case.send(0, create("/a", 0));
    violates("E8", &mut case, |c| c.reply(0, xid, zxid - 1, code::OK, &string("/a")));
    let mut case = Case::open();
    violates("E8", &mut case, |c| c.commit(0, 1, created("/a", 0, 1)));
    // What was refused without a transaction stays undone.
    let mut case = Case::open();
    case.checker.settings.refusals = true;
    let xid = case.send(0, create("/a", 0));
    case.reply(0, xid, 1, code::SYSTEM_ERROR, b"");
    violates("E8", &mut case, |c| c.commit(0, 1, created("/a", 0, 1)));
}

#[test]
fn sequential_names() {
    let sequential = |case: &mut Case, name: &str, creates| {
        case.send(0, create("/s-", 2));
        case.commit(0, 1, created(name, 0, creates));
    };
    let mut case = Case::open();
    sequential(&mut case, "/s-0000000000", 1);
    violates("F1", &mut case, |c| sequential(c, "/s-0000000000", 2));
    violates("F1", &mut Case::open(), |c| sequential(c, "/s-1", 1));
    // Counted on, but not from where the parent is.
    violates("E1", &mut Case::open(), |c| sequential(c, "/s-0000000007", 1));
}

#[test]
fn sessions_end_for_good() {
    let expired = |case: &mut Case| {
        case.now_ms = 10_000;
        case.commit_as(Origin::default(), 1, Op::CloseSession)
    };
    let mut case = Case::open();
    case.send(0, create("/e", 1));
    expired(&mut case);
    violates("G1", &mut case, |c| c.commit(0, 1, created("/e", 1, 1)));
    let mut case = Case::open();
    case.send(0, create("/e", 1));
    expired(&mut case);
    case.commit(0, 1, Op::Error { code: code::SESSION_EXPIRED });
    let mut case = Case::open();
    case.send(0, set("/"));
    expired(&mut case);
    violates("G5", &mut case, |c| c.commit(0, 1, was_set("/", 1)));
    let mut case = Case::open();
    let xid = case.send(0, Ask::Ping);
    let zxid = expired(&mut case);
    violates("G5", &mut case, |c| c.reply(0, xid, zxid, code::OK, b""));
    let mut case = Case::open();
    expired(&mut case);
    let link = case.connect(1);
    violates("G5", &mut case, |c| c.commit(link, 1, Op::AttachSession { timeout_ms: 4000 }));
    let mut case = Case::open();
    let link = case.connect(1);
    violates("G5", &mut case, |c| c.welcome(link, 0));
    let mut case = Case::open();
    let link = case.connect(1);
    violates("G5", &mut case, |c| c.welcome(link, 2));
    let mut case = Case::open();
    let link = case.connect(1);
    case.commit(link, 1, Op::AttachSession { timeout_ms: 4000 });
    case.checker.conns.get_mut(&case.links[link]).unwrap().hello.read_only_field = true;
    violates("G5", &mut case, |c| c.welcome(link, 1));
    let mut case = Case::open();
    let link = case.connect(0);
    violates("G5", &mut case, |c| c.commit(link, 1, Op::CreateSession { timeout_ms: 4000, password: PASSWORD }));
}

#[test]
fn sessions_end_in_time() {
    let mut case = Case::open();
    case.now_ms = 3000;
    case.send(0, Ask::Ping);
    case.now_ms = 6999;
    violates("G3", &mut case, |c| c.commit_as(Origin::default(), 1, Op::CloseSession));
    // Heard of again after a whole timeout, when it was decided already.
    let mut case = Case::open();
    case.now_ms = 4000;
    case.send(0, Ask::Ping);
    case.now_ms = 4100;
    case.commit_as(Origin::default(), 1, Op::CloseSession);
    let mut case = Case::open();
    case.checker.none_overdue(5000, 1000);
    violates("G4", &mut case, |c| c.checker.none_overdue(5001, 1000));
    // A new leader starts the time anew.
    let mut case = Case::open();
    case.now_ms = 2000;
    case.commit_at(1 << 32, Origin::default(), 0, Op::NewEpoch { leader: 1 });
    case.checker.none_overdue(7000, 1000);
    violates("G4", &mut case, |c| c.checker.none_overdue(7001, 1000));
    let mut case = Case::new();
    let link = case.connect(0);
    violates("G4", &mut case, |c| c.commit(link, 1, Op::CreateSession { timeout_ms: 40_000, password: PASSWORD }));
}

#[test]
fn a_session_that_moved_is_gone_from_where_it_was() {
    let moved = |case: &mut Case| {
        let link = case.connect(1);
        let zxid = case.commit(link, 1, Op::AttachSession { timeout_ms: 4000 });
        case.welcome(link, 1);
        zxid
    };
    let mut case = Case::open();
    case.send(0, create("/a", 0));
    moved(&mut case);
    violates("G6", &mut case, |c| c.commit(0, 1, created("/a", 0, 1)));
    let mut case = Case::open();
    let xid = case.send(0, Ask::Ping);
    let zxid = moved(&mut case);
    violates("G6", &mut case, |c| c.reply(0, xid, zxid, code::OK, b""));
    let mut case = Case::open();
    let hello = Hello { session: 1, password_right: false, timeout_ms: 4000, last_zxid_seen: 0, read_only_field: false };
    let link = case.checker.connecting(hello, 45);
    case.checker.accepted(link, Case::key(1));
    case.sequences.push(0);
    violates("G6", &mut case, |c| c.commit(1, 1, Op::AttachSession { timeout_ms: 4000 }));
}

#[test]
fn events_of_one_shot_watches() {
    let watched = || {
        let mut case = Case::open();
        let zxid = case.make("/a", 1);
        case.watch("/a", zxid);
        let (xid, zxid) = case.change("/a", 1);
        (case, xid, zxid)
    };
    let (mut case, xid, zxid) = watched();
    violates("W1", &mut case, |c| c.reply(0, xid, zxid, code::OK, b""));
    let (mut case, _, zxid) = watched();
    violates("W3", &mut case, |c| c.checker.caught_up(c.links[0], zxid));
    let (mut case, _, zxid) = watched();
    violates("W4", &mut case, |c| c.event(0, zxid, event::NODE_DELETED, "/a"));
    let (mut case, _, zxid) = watched();
    case.event(0, zxid, event::NODE_DATA_CHANGED, "/a");
    violates("W2", &mut case, |c| c.event(0, zxid, event::NODE_DATA_CHANGED, "/a"));
    let (mut case, _, zxid) = watched();
    case.event(0, zxid, event::NODE_DATA_CHANGED, "/a");
    let (_, zxid) = case.change("/a", 2);
    violates("W2", &mut case, |c| c.event(0, zxid, event::NODE_DATA_CHANGED, "/a"));
}

#[test]
fn events_of_persistent_watches() {
    let watched = |mode| {
        let mut case = Case::open();
        let zxid = case.make("/a", 1);
        let xid = case.send(0, Ask::AddWatch { path: "/".into(), mode });
        case.reply(0, xid, zxid, code::OK, &[0; 4]);
        let (first, second) = (case.change("/a", 1).1, case.change("/a", 2).1);
        (case, first, second)
    };
    let (mut case, first, second) = watched(1);
    case.event(0, first, event::NODE_DATA_CHANGED, "/a");
    case.event(0, second, event::NODE_DATA_CHANGED, "/a");
    violates("W2", &mut case, |c| c.event(0, second, event::NODE_DATA_CHANGED, "/a"));
    let (mut case, _, second) = watched(1);
    violates("W4", &mut case, |c| c.event(0, second, event::NODE_DATA_CHANGED, "/a"));
    // Not recursive: the child's data is none of its business, its coming is.
    let (mut case, first, _) = watched(0);
    violates("W2", &mut case, |c| c.event(0, first, event::NODE_DATA_CHANGED, "/a"));
    let (mut case, ..) = watched(0);
    case.send(0, create("/b", 0));
    let zxid = case.commit(0, 1, created("/b", 0, 2));
    case.event(0, zxid, event::NODE_CHILDREN_CHANGED, "/");
    let (mut case, first, second) = watched(1);
    case.event(0, first, event::NODE_DATA_CHANGED, "/a");
    case.event(0, second, event::NODE_DATA_CHANGED, "/a");
    case.send(0, create("/b", 0));
    let zxid = case.commit(0, 1, created("/b", 0, 2));
    case.send(0, Ask::Delete { path: "/b".into(), version: -1 });
    case.commit(0, 1, Op::Change(Change::Delete { path: "/b", path_hash: 0 }));
    violates("W7", &mut case, |c| c.event(0, zxid + 1, event::NODE_DELETED, "/a"));
}

#[test]
fn events_need_permission() {
    let mut case = Case::open();
    let zxid = case.checker.observed();
    let xid = case.send(0, Ask::AddWatch { path: "/".into(), mode: 1 });
    case.reply(0, xid, zxid, code::OK, &[0; 4]);
    let acl = vec![Acl { perms: 30, scheme: "world".into(), id: "anyone".into() }];
    case.send(0, Ask::Create { op: opcode::CREATE, path: "/a".into(), data: None, acl, flags: 0, ttl_ms: 0 });
    let acl = Some(vec![AclRef { perms: 30, scheme: "world", id: "anyone" }]);
    let change = Change::Create { path: "/a", path_hash: 0, data: None, acl, owner: 0, parent_creates: 1, with_stat: false };
    let zxid = case.commit(0, 1, Op::Change(change));
    violates("W6", &mut case, |c| c.event(0, zxid, event::NODE_CREATED, "/a"));
}

#[test]
fn watches_survive_a_reconnect() {
    let again = || {
        let mut case = Case::open();
        let seen = case.make("/a", 1);
        case.change("/a", 1);
        case.checker.broken(case.links[0]);
        let link = case.connect(1);
        let zxid = case.commit(link, 1, Op::AttachSession { timeout_ms: 4000 });
        case.welcome(link, 1);
        let lists = crate::sim::ask::WatchLists { relative_zxid: seen, data: vec!["/a".into()], ..Default::default() };
        let xid = case.send(link, Ask::SetWatches(lists));
        (case, link, xid, zxid)
    };
    let (mut case, link, xid, zxid) = again();
    case.event(link, u64::MAX, event::NODE_DATA_CHANGED, "/a");
    case.reply(link, xid, zxid, code::OK, b"");
    let (mut case, link, xid, zxid) = again();
    violates("W3", &mut case, |c| c.reply(link, xid, zxid, code::OK, b""));
    let (mut case, link, xid, zxid) = again();
    case.event(link, u64::MAX, event::NODE_DELETED, "/a");
    violates("W3", &mut case, |c| c.reply(link, xid, zxid, code::OK, b""));
    let (mut case, link, _, _) = again();
    case.event(link, u64::MAX, event::NODE_DATA_CHANGED, "/a");
    violates("E2", &mut case, |c| c.reply(link, 0, 4, code::OK, b""));
}

#[test]
fn removed_watches_are_gone() {
    let mut case = Case::open();
    let zxid = case.make("/a", 1);
    case.watch("/a", zxid);
    let remove = || Ask::RemoveWatches { path: "/a".into(), kind: 2 };
    let xid = case.send(0, remove());
    case.reply(0, xid, zxid, code::OK, b"");
    let xid = case.send(0, remove());
    violates("W2", &mut case, |c| c.reply(0, xid, zxid, code::OK, b""));
}
