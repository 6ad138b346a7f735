//! Quotas against a naive count, through transactions, snapshots and what follows them. For tests only.

use super::snapshot::Loader;
use super::*;
use crate::limits::BATCH_BYTES_POOLED;
use crate::wire::aligned::AlignedBuf;
use crate::wire::batch::BatchBuilder;
use crate::wire::txn::{Change, Op, Origin, Txn};
use proptest::prelude::*;

/// One change; paths come from a small set so that everything happens often.
#[derive(Clone, Debug)]
enum Wish {
    Create(String, usize),
    Delete(String),
    SetData(String, usize),
}

/// What a careful reader of ZooKeeper's rules would write: every node's data length, every quota's sums.
#[derive(Clone, Default)]
struct Naive {
    nodes: BTreeMap<String, usize>,
    creates: BTreeMap<String, u32>,
    versions: BTreeMap<String, i32>,
    sums: BTreeMap<String, (i64, i64)>,
    zxid: u64,
}

const TOPS: [&str; 3] = ["/a", "/a/b", "/c"];

fn limits(top: &str) -> String {
    format!("/zookeeper/quota{top}/zookeeper_limits")
}

fn stats(top: &str) -> String {
    format!("/zookeeper/quota{top}/zookeeper_stats")
}

impl Naive {
    fn new() -> Naive {
        let nodes = ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"].map(|path| (path.to_string(), 0));
        Naive { nodes: nodes.into(), zxid: 1 << 32, ..Naive::default() }
    }

    fn count(&mut self, path: &str, nodes: i64, bytes: i64) {
        let over = |top: &&&str| path::is_within(path, top) && self.nodes.contains_key(&limits(top));
        let innermost = TOPS.iter().filter(over).max_by_key(|top| top.len()).copied();
        if let Some((count, sum)) = innermost.and_then(|top| self.sums.get_mut(top)) {
            (*count, *sum) = (*count + nodes, *sum + bytes);
        }
    }

    /// Carries out a wish and applies its transaction; what cannot be had is left out.
    fn carry_out(&mut self, wish: &Wish, state: &mut State) {
        let parent = |path: &str| path::parent(path).unwrap().to_string();
        let data = [b'x'; 100];
        let change = match wish {
            Wish::Create(path, len) if !self.nodes.contains_key(path) && self.nodes.contains_key(&parent(path)) => {
                let creates = self.creates.entry(parent(path)).or_default();
                *creates += 1;
                let parent_creates = *creates;
                self.nodes.insert(path.clone(), *len);
                if let Some(top) = TOPS.iter().find(|top| stats(top) == *path) {
                    let below = self.nodes.iter().filter(|(path, _)| path::is_within(path, top));
                    let sums = below.fold((0, 0), |(count, bytes), (_, len)| (count + 1, bytes + *len as i64));
                    self.sums.insert(top.to_string(), sums);
                }
                self.count(path, 1, *len as i64);
                let data = Some(&data[..*len]);
                Change::Create { path, path_hash: path::hash(path), data, acl: None, owner: 0, parent_creates, with_stat: true }
            }
            Wish::Delete(path)
                if self.nodes.contains_key(path) && !self.nodes.keys().any(|other| other != path && path::is_within(other, path)) =>
            {
                let len = self.nodes.remove(path).unwrap();
                self.creates.remove(path);
                self.versions.remove(path);
                if let Some(top) = TOPS.iter().find(|top| stats(top) == *path) {
                    self.sums.remove(*top);
                }
                self.count(path, -1, -(len as i64));
                Change::Delete { path, path_hash: path::hash(path) }
            }
            Wish::SetData(path, len) if self.nodes.contains_key(path) => {
                let old = self.nodes.insert(path.clone(), *len).unwrap();
                self.count(path, 0, *len as i64 - old as i64);
                let version = self.versions.entry(path.clone()).or_default();
                *version += 1;
                Change::SetData { path, path_hash: path::hash(path), data: Some(&data[..*len]), version: *version }
            }
            _ => return,
        };
        self.zxid += 1;
        apply(state, self.zxid, Op::Change(change));
    }

    fn assert_equals(&self, state: &State) {
        for top in TOPS {
            let text = self.sums.get(top).map(|(count, bytes)| format!("count={count},bytes={bytes}").into_bytes());
            assert_eq!(state.find(&stats(top)).and_then(|node| node.data().map(<[u8]>::to_vec)), text, "{top}");
        }
        assert_eq!(state.digest(), Some(state.compute_digest()));
        let (mut bytes, mut path) = (0, String::new());
        for slot in (0..state.nodes.slots()).filter(|slot| state.nodes.contains(*slot)) {
            path.clear();
            state.nodes.push_path(slot, &mut path);
            bytes += path.len() as u64 + u64::from(state.nodes.get(slot).data_bytes());
        }
        assert_eq!(state.data_bytes(), bytes);
    }
}

fn apply(state: &mut State, zxid: u64, op: Op<'_>) {
    let mut builder = BatchBuilder::default();
    builder.push(&Txn { zxid, time_ms: 0, session: 1, origin: Origin::default(), op }).unwrap();
    let batch = builder.close(9, 0, 7, AlignedBuf::with_capacity(BATCH_BYTES_POOLED));
    let mut applied = Applied::default();
    batch.txns().for_each(|txn| state.apply(txn, &mut applied, Want { results: true, paths: true }));
    // Keeping sums is no change that anybody hears of.
    assert!(applied.changes.len() <= 1);
}

fn path_of(pick: usize) -> String {
    let node = ["/a", "/a/b", "/a/b/x", "/a/y", "/c", "/c/z", "/d"];
    let home = ["/zookeeper/quota/a", "/zookeeper/quota/a/b", "/zookeeper/quota/c"];
    match pick % 16 {
        n @ 0..=6 => node[n].into(),
        n @ 7..=9 => home[n - 7].into(),
        n @ 10..=12 => limits(TOPS[n - 10]),
        n => stats(TOPS[n - 13]),
    }
}

fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        5 => (0..16usize, 0..100usize).prop_map(|(pick, len)| Wish::Create(path_of(pick), len)),
        1 => (0..16usize).prop_map(|pick| Wish::Delete(path_of(pick))),
        2 => (0..7usize, 0..100usize).prop_map(|(pick, len)| Wish::SetData(path_of(pick), len)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn sums_agree_with_a_naive_count_across_a_snapshot(
        before in prop::collection::vec(wish(), 1..120),
        meanwhile in prop::collection::vec(wish(), 0..60),
        budget in 1..6usize,
    ) {
        let (mut naive, mut state) = (Naive::new(), State::new(true));
        for wish in &before {
            naive.carry_out(wish, &mut state);
            naive.assert_equals(&state);
        }
        let (mut cut, digest, mut loader) = (naive.clone(), state.digest(), Loader::new(true));
        state.begin_snapshot();
        let (mut rest, mut done) = (meanwhile.iter(), false);
        while !done {
            let mut chunk = Vec::new();
            done = state.snapshot_slice(budget, &mut chunk);
            loader.push(&chunk).unwrap();
            rest.by_ref().take(3).for_each(|wish| naive.carry_out(wish, &mut state));
        }
        let mut loaded = loader.finish().unwrap();
        prop_assert_eq!(loaded.digest(), digest);
        cut.assert_equals(&loaded);
        rest.for_each(|wish| naive.carry_out(wish, &mut state));
        meanwhile.iter().for_each(|wish| cut.carry_out(wish, &mut loaded));
        cut.assert_equals(&loaded);
        naive.assert_equals(&state);
        prop_assert_eq!(loaded.digest(), state.digest());
    }
}

#[test]
fn texts_are_read_as_zookeeper_writes_them() {
    let track = |count, bytes, count_hard, bytes_hard| Some(Track { count, bytes, count_hard, bytes_hard });
    for (text, read) in [
        ("count=5,bytes=100", track(5, 100, -1, -1)),
        ("count=5,bytes=100=;byteHardLimit=7;countHardLimit=8", track(5, 100, 8, 7)),
        ("count=-1,bytes=-1,countHardLimit=3", track(-1, -1, 3, -1)),
        ("count=,bytes=1", track(-1, 1, -1, -1)),
        ("", track(-1, -1, -1, -1)),
        ("count=many", None),
        ("xyz", track(-1, -1, -1, -1)),
    ] {
        assert_eq!(Track::parse(text.as_bytes()), read, "{text}");
    }
    assert_eq!(Track::parse(b"\xff"), None);
}

#[test]
fn only_the_innermost_quota_counts() {
    let (mut naive, mut state) = (Naive::new(), State::new(true));
    for path in ["/a", "/a/b", "/ab", "/zookeeper/quota/a", "/zookeeper/quota/a/b", "/zookeeper/quota/zookeeper_limits"] {
        naive.carry_out(&Wish::Create(path.into(), 1), &mut state);
    }
    assert!(!state.has_quotas() && state.quota("/a").is_none());
    for top in ["/a", "/a/b"] {
        naive.carry_out(&Wish::Create(stats(top), 0), &mut state);
        naive.carry_out(&Wish::Create(limits(top), 0), &mut state);
    }
    naive.carry_out(&Wish::Create("/a/b/x".into(), 9), &mut state);
    let used = |path| state.quota(path).map(|quota| (quota.top, quota.used.count, quota.used.bytes));
    assert_eq!((used("/a"), used("/a/y")), (Some(("/a", 2, 2)), Some(("/a", 2, 2))));
    assert_eq!((used("/a/b"), used("/a/b/x/y")), (Some(("/a/b", 2, 10)), Some(("/a/b", 2, 10))));
    assert_eq!((used("/"), used("/ab"), used("")), (None, None, None));
}
