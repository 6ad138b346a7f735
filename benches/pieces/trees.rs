//! Pieces that need a tree, or watches on one. All use the same tree of 10,000 nodes in ten directories.

use crate::Work;
use falconer::limits::BATCH_BYTES_POOLED;
use falconer::pipeline::message::ConnId;
use falconer::pipeline::prepare::{Asker, Planned, Prepare};
use falconer::tree::{Applied, State, Want, path};
use falconer::watch::{WatchKind, Watches};
use falconer::wire::aligned::AlignedBuf;
use falconer::wire::batch::BatchBuilder;
use falconer::wire::request::{Create, OPEN_ACL, Request};
use falconer::wire::txn::{Change, Op, Origin, Txn};

const NODES: usize = 10_000;
const DIRECTORIES: usize = 10;
const DATA: [u8; 100] = [7; 100];
const SESSION: i64 = 0x77;

fn node(i: usize) -> String {
    format!("/tenant-{}/node-{i:010}", i % DIRECTORIES)
}

/// A hundred nodes spread over the tree.
fn hundred() -> Vec<String> {
    (0..100).map(|i| node(i * 97 % NODES)).collect()
}

/// Puts changes into batches and applies them, as a core does.
struct Grown {
    state: State,
    builder: BatchBuilder,
    spare: Option<AlignedBuf>,
    zxid: u64,
}

impl Grown {
    fn new() -> Grown {
        let spare = Some(AlignedBuf::with_capacity(BATCH_BYTES_POOLED));
        let mut grown = Grown { state: State::new(false), builder: BatchBuilder::default(), spare, zxid: 1 << 32 };
        for directory in 0..DIRECTORIES {
            grown.create(&format!("/tenant-{directory}"), directory as u32 + 1);
        }
        (0..NODES).for_each(|i| grown.create(&node(i), (i / DIRECTORIES) as u32 + 1));
        grown.apply();
        grown
    }

    fn push(&mut self, change: Change<'_>) {
        let op = Op::Change(change);
        let txn = Txn { zxid: self.zxid + 1, time_ms: 1, session: SESSION, origin: Origin::default(), op };
        if self.builder.count() == 512 || self.builder.push(&txn).is_err() {
            self.apply();
            self.builder.push(&txn).expect("it fits an empty batch");
        }
        self.zxid += 1;
    }

    fn create(&mut self, path: &str, parent_creates: u32) {
        let path_hash = path::hash(path);
        self.push(Change::Create { path, path_hash, data: Some(&DATA), acl: None, owner: 0, parent_creates, with_stat: false });
    }

    fn apply(&mut self) {
        if self.builder.is_empty() {
            return;
        }
        let batch = self.builder.close(1, 0, 0, self.spare.take().expect("given back"));
        let mut applied = Applied::default();
        for txn in batch.txns() {
            self.state.apply(txn, &mut applied, Want { results: true, paths: true });
        }
        drop(applied);
        self.spare = Some(batch.into_buffer());
    }
}

pub fn read() -> Work {
    let (grown, paths) = (Grown::new(), hundred());
    Box::new(move || {
        let found = paths.iter().map(|path| grown.state.find(path).expect("it was created"));
        found.map(|node| node.stat().version as usize + node.data().map_or(0, <[u8]>::len)).sum()
    })
}

pub fn apply_sets() -> Work {
    let (mut grown, paths) = (Grown::new(), hundred());
    Box::new(move || {
        for path in &paths {
            grown.push(Change::SetData { path, path_hash: path::hash(path), data: Some(&DATA), version: 1 });
        }
        grown.apply();
        grown.state.applied() as usize
    })
}

pub fn apply_creates_and_deletes() -> Work {
    let mut grown = Grown::new();
    let paths: Vec<String> = (0..50).map(|i| format!("/tenant-{}/more-{i}", i % DIRECTORIES)).collect();
    let mut creates = (NODES / DIRECTORIES) as u32;
    Box::new(move || {
        // Five in each of the directories, one after the other.
        for (nth, path) in paths.iter().enumerate() {
            grown.create(path, creates + (nth / DIRECTORIES) as u32 + 1);
        }
        creates += (paths.len() / DIRECTORIES) as u32;
        paths.iter().for_each(|path| grown.push(Change::Delete { path, path_hash: path::hash(path) }));
        grown.apply();
        grown.state.node_count()
    })
}

/// Plans `requests` one behind the other, as the leader does, and takes the proposed nodes out again as if they were applied.
fn plan(requests: impl Fn(usize) -> Request<'static> + 'static) -> Work {
    let (grown, mut prepare) = (Grown::new(), Prepare::default());
    let mut zxid = grown.zxid;
    Box::new(move || {
        let mut bytes = 0;
        for i in 0..100 {
            zxid += 1;
            let asker = Asker { state: &grown.state, session: SESSION, auth: &[], zxid, time_ms: 1 };
            bytes += match prepare.change(&asker, &requests(i)).unwrap_or_else(|code| panic!("error {code}")) {
                Planned::Create { path, .. } | Planned::SetData { path, .. } => path.len(),
                _ => unreachable!("creates and sets only"),
            };
        }
        prepare.applied(zxid);
        bytes
    })
}

pub fn prepare_sets() -> Work {
    let paths = hundred();
    plan(move |i| Request::SetData { path: paths[i].clone().into(), data: Some(&DATA), version: -1 })
}

pub fn prepare_creates() -> Work {
    plan(|_| Request::Create(Create { path: "/tenant-3/more-".into(), data: Some(&DATA), acl: OPEN_ACL, flags: 2 }))
}

/// A thousand connections watch one node; it changes, all are told, and all watch it again.
pub fn watch_fan_out() -> Work {
    let (mut watches, mut fired) = (Watches::default(), Vec::new());
    let path = node(5);
    Box::new(move || {
        (0..1000).for_each(|conn| watches.add(&path, ConnId::new(conn, 1), WatchKind::Data));
        fired.clear();
        watches.data_changed(&path, &mut fired);
        fired.len()
    })
}

/// One slice of a snapshot; a new snapshot begins when one has ended.
pub fn snapshot_slice() -> Work {
    let (mut grown, mut chunk) = (Grown::new(), Vec::new());
    grown.state.begin_snapshot();
    Box::new(move || {
        chunk.clear();
        if grown.state.snapshot_slice(500, &mut chunk) {
            grown.state.begin_snapshot();
        }
        chunk.len()
    })
}
