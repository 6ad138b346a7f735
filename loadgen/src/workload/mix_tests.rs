//! Replies to a mix, right and wrong ones.

use super::super::mix::{Mix, MixPlan, MixSent};
use super::super::{Port, Workload};
use crate::access::Access;
use crate::content::{Content, Directories, Paths, Sizes};
use crate::meter::{Meter, Shared};
use crate::session::{Incoming, Reply, Session, Span};
use crate::spec::{Doing, Operation, Pick, WatchCounts};
use crate::tally::Miss;
use falconer::wire::jute::{write_buffer, write_i32, write_string};
use falconer::wire::record::Stat;
use falconer::wire::response::{self, ReplyHeader, code};
use std::sync::Arc;

const SIZE: u32 = 40;
const SPAN: Span = Span { due_ns: 0, begun_ns: 0 };

/// One connection of a worker, with what it needs.
struct Bench {
    mix: Mix,
    session: Session<MixSent>,
    meter: Meter,
    running: u32,
}

fn bench(doing: &[Doing], one_server: bool) -> Bench {
    let operation = |&doing| Operation { doing, weight: 1, ops: [2, 2], ephemeral: false, sequential: false };
    let plan = MixPlan {
        paths: Paths { root: "/r".into(), directories: Directories::Even(10), names: Sizes::Fixed(0) },
        sizes: Sizes::Fixed(SIZE),
        keys: 10..12,
        keys_total: 12,
        numbers: 0..2,
        population: 0,
        operations: doing.iter().map(operation).collect(),
        pick: Pick::Uniform,
        watch: WatchCounts::default(),
        access: Access::new(&[]).unwrap(),
        one_server,
        seed: 1,
    };
    let mut session = Session::new(9000, 0);
    let mut bytes = Vec::new();
    response::connect(&mut bytes, 6000, 77, &[1; 16], Some(false));
    session.receive(&bytes, |_, _| {}).unwrap();
    Bench { mix: Mix::new(plan), session, meter: Meter::new(1, false, None, Arc::new(Shared::default())), running: 0 }
}

impl Bench {
    fn port(&mut self, index: usize) -> (&mut Mix, Port<'_, MixSent>) {
        let Bench { mix, session, meter, running } = self;
        (mix, Port { index, server: 0, now_ns: 0, session, meter, running })
    }

    fn issue(&mut self, index: usize) {
        self.running += 1;
        let (mix, mut port) = self.port(index);
        assert!(mix.issue(&mut port, SPAN));
    }

    /// What is wrong with a reply: connection, what was asked, error code, body.
    fn check(&mut self, index: usize, what: MixSent, err: i32, body: &[u8]) -> Option<Miss> {
        let before = self.meter.tally.misses.clone();
        self.running += 1;
        let (mix, mut port) = self.port(index);
        mix.reply(&mut port, &Reply { what, span: SPAN, header: ReplyHeader { xid: 1, zxid: 1, err }, body });
        let after = &self.meter.tally.misses;
        after.iter().find(|(miss, count)| before.get(miss) != Some(count)).map(|(miss, _)| *miss)
    }
}

fn stat(version: i32, mzxid: i64) -> Vec<u8> {
    let mut body = Vec::new();
    Stat { version, mzxid, data_length: SIZE as i32, ..Stat::default() }.encode(&mut body);
    body
}

fn data_and_stat(key: u32, label: i32, version: i32, mzxid: i64) -> Vec<u8> {
    let (mut body, mut data) = (Vec::new(), Vec::new());
    Content::new(Sizes::Fixed(SIZE)).write(key, label, &mut data);
    write_buffer(&mut body, Some(&data));
    body.extend(stat(version, mzxid));
    body
}

/// Connection 0 has written versions 1 and 2 of key 10, of which 1 is confirmed.
fn written(one_server: bool) -> Bench {
    let mut bench = bench(&[Doing::Set], one_server);
    bench.issue(0);
    bench.issue(0);
    assert_eq!(bench.check(0, MixSent::Set { key: 10, label: 1 }, 0, &stat(1, 100)), None);
    bench
}

#[test]
fn right_replies_pass() {
    let mut bench = written(true);
    let get = MixSent::Get { key: 10, floor: 1 };
    assert_eq!(bench.check(0, get, 0, &data_and_stat(10, 1, 1, 100)), None);
    assert_eq!(bench.check(0, get, 0, &data_and_stat(10, 2, 2, 101)), None);
    assert_eq!(bench.check(0, MixSent::Set { key: 10, label: 2 }, 0, &stat(2, 101)), None);
    assert_eq!(bench.check(0, MixSent::Exists { key: 10, floor: 2 }, 0, &stat(2, 101)), None);
}

#[test]
fn stale_and_impossible_reads_are_reported() {
    let mut bench = written(true);
    let get = MixSent::Get { key: 10, floor: 1 };
    assert_eq!(bench.check(0, get, 0, &data_and_stat(10, 0, 0, 90)), Some(Miss::StaleRead));
    assert_eq!(bench.check(0, get, 0, &data_and_stat(10, 3, 3, 102)), Some(Miss::FromTheFuture));
    assert_eq!(bench.check(0, get, 0, &data_and_stat(10, 0, 1, 100)), Some(Miss::Data));
    assert_eq!(bench.check(0, get, 0, &data_and_stat(11, 1, 1, 100)), Some(Miss::Data));
    assert_eq!(bench.check(0, get, 0, &data_and_stat(10, 2, 2, 100)), Some(Miss::Mzxid));
    assert_eq!(bench.check(0, get, 0, &data_and_stat(10, 1, 1, 101)), Some(Miss::Mzxid));
}

#[test]
fn a_lost_or_doubled_write_shows_in_the_version() {
    for got in [1, 3] {
        assert_eq!(written(true).check(0, MixSent::Set { key: 10, label: 2 }, 0, &stat(got, 105)), Some(Miss::Version));
    }
}

#[test]
fn a_lost_connection_leaves_room_for_what_nobody_knows_and_no_more() {
    let mut bench = written(true);
    bench.mix.lost(0, MixSent::Set { key: 10, label: 2 });
    let get = MixSent::Get { key: 10, floor: 1 };
    assert_eq!(bench.check(0, get, 0, &data_and_stat(10, 1, 1, 100)), None);
    assert_eq!(bench.check(0, get, 0, &data_and_stat(10, 0, 1, 100)), Some(Miss::Data));
    bench.issue(0);
    // The lost set was not executed: the third makes version 2, and from now on that is known.
    assert_eq!(bench.check(0, MixSent::Set { key: 10, label: 3 }, 0, &stat(2, 107)), None);
    assert_eq!(bench.check(0, MixSent::Get { key: 10, floor: 2 }, 0, &data_and_stat(10, 3, 2, 107)), None);
    bench.issue(0);
    assert_eq!(bench.check(0, MixSent::Set { key: 10, label: 4 }, 0, &stat(4, 108)), Some(Miss::Version));
    let entry = bench.mix.ledger().keys[0];
    assert_eq!((entry.version_min, entry.version_max, entry.label), (3, 3, 4));
}

/// The floor of a connection's next read of key 10.
fn floor(bench: &mut Bench, index: usize) -> i32 {
    for _ in 0..100 {
        let Bench { mix, meter, running, .. } = &mut *bench;
        let mut fresh = self::bench(&[Doing::Get], true).session;
        let port = &mut Port { index, server: 0, now_ns: 0, session: &mut fresh, meter, running };
        mix.issue(port, SPAN);
        let (mut reply, mut sent) = (Vec::new(), None);
        response::reply(&mut reply, 1, 1, 0);
        fresh
            .receive(&reply, |_, incoming| {
                if let Incoming::Reply(reply) = incoming {
                    sent = Some(reply.what)
                }
            })
            .unwrap();
        if let Some(MixSent::Get { key: 10, floor }) = sent {
            return floor;
        }
    }
    panic!("key 10 was never read");
}

#[test]
fn the_writer_reads_its_own_write_and_others_what_was_confirmed() {
    for (one_server, expected) in [(true, [2, 1]), (false, [2, 0])] {
        let mut bench = written(one_server);
        bench.mix.plan.operations[0].doing = Doing::Get;
        assert_eq!([floor(&mut bench, 0), floor(&mut bench, 1)], expected);
    }
}

#[test]
fn error_codes_cut_replies_and_wrong_paths_are_reported() {
    let mut bench = bench(&[Doing::Create], true);
    let sent = MixSent::Create { sequence: 0 };
    assert_eq!(bench.check(0, sent, -110, &[]), Some(Miss::Code));
    assert_eq!(bench.meter.tally.codes[&-110], 1);
    assert_eq!(bench.check(0, sent, 0, &[0, 0]), Some(Miss::Malformed));
    let mut body = Vec::new();
    write_string(&mut body, "/r/c0000/n00000000");
    assert_eq!(bench.check(0, sent, 0, &body), None);
    assert_eq!(bench.check(0, MixSent::Create { sequence: 1 }, 0, &body), Some(Miss::Path));
    body.push(0);
    assert_eq!(bench.check(0, sent, 0, &body), Some(Miss::Malformed));
}

#[test]
fn a_list_must_hold_exactly_the_keys() {
    let mut bench = bench(&[Doing::List], true);
    let body = |names: &[&str], children: i32| {
        let mut body = Vec::new();
        write_i32(&mut body, names.len() as i32);
        names.iter().for_each(|name| write_string(&mut body, name));
        Stat { num_children: children, ..Stat::default() }.encode(&mut body);
        body
    };
    let list = MixSent::List { dir: 1 };
    assert_eq!(bench.check(0, list, 0, &body(&["k0000011", "k0000010"], 2)), None);
    assert_eq!(bench.check(0, list, 0, &body(&["k0000011"], 1)), Some(Miss::List));
    assert_eq!(bench.check(0, list, 0, &body(&["k0000011", "k0000010"], 3)), Some(Miss::List));
    assert_eq!(bench.check(0, list, 0, &body(&["k0000011", "k0000011"], 2)), Some(Miss::List));
}

#[test]
fn sequence_numbers_must_grow() {
    let mut bench = bench(&[Doing::Create], true);
    bench.mix.own[0].awaited = 3;
    let path = |name: &str| {
        let mut body = Vec::new();
        write_string(&mut body, &format!("/r/q0000/{name}"));
        body
    };
    let sent = MixSent::CreateSequential;
    assert_eq!(bench.check(0, sent, 0, &path("s-0000000007")), None);
    assert_eq!(bench.check(0, sent, 0, &path("s-0000000007")), Some(Miss::Sequence));
    assert_eq!(bench.check(0, sent, 0, &path("s-8")), Some(Miss::Path));
    let mut ledger = bench.mix.ledger();
    assert_eq!(ledger.repeated_sequences(), [("/r/q0000".to_string(), 7)]);
    assert_eq!(ledger.children["/r/q0000"], (2, 2));
}

#[test]
fn a_multi_is_checked_part_by_part() {
    let mut bench = bench(&[Doing::MultiSet], true);
    bench.issue(0);
    let sent = MixSent::MultiSet { first: 0, count: 1 };
    let body = |version: i32| {
        let mut body = Vec::new();
        response::multi_header(&mut body, 5, false, 0);
        body.extend(stat(version, 50));
        response::multi_end(&mut body);
        body
    };
    assert_eq!(bench.check(0, sent, 0, &body(2)), Some(Miss::Version));
    assert_eq!(bench.check(0, sent, 0, &body(1)), None);
    let mut refused = Vec::new();
    response::multi_error(&mut refused, code::BAD_VERSION);
    response::multi_end(&mut refused);
    assert_eq!(bench.check(0, sent, 0, &refused), Some(Miss::Code));
}

#[test]
fn creates_and_deletes_keep_the_population() {
    let mut bench = bench(&[Doing::Create, Doing::Delete], true);
    bench.mix.plan.population = 20;
    bench.mix.own[0].next = 20;
    for _ in 0..5000 {
        bench.issue(0);
        let live = bench.mix.own[0].next - bench.mix.own[0].oldest;
        assert!((11..=30).contains(&live), "{live}");
    }
}
