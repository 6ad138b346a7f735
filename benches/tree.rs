//! What the in-memory state costs: bytes per znode, time per change and per look-up, the longest single change, and
//! how long a snapshot's slices and its loading take. Tiny under `cargo test --benches`, real under `cargo bench`;
//! `NODES=10000000 cargo bench --bench tree` for more. Prints, asserts only the promised bytes per znode.

use falconer::limits::BATCH_BYTES_POOLED;
use falconer::tree::snapshot::Loader;
use falconer::tree::{Applied, State, Want, path};
use falconer::wire::aligned::AlignedBuf;
use falconer::wire::batch::{Batch, BatchBuilder};
use falconer::wire::txn::{Change, Op, Origin, Txn};
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const FANOUT: usize = 1000;
/// What one znode with 100 bytes of data and a 24-byte name may cost.
const ZNODE_BYTES_MAX: usize = 240;

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number of pages") * 4096
}

/// Turns changes into batches and applies them, timing only the applying.
struct Driver {
    state: State,
    builder: BatchBuilder,
    spare: Option<AlignedBuf>,
    zxid: u64,
    /// Nanoseconds of each transaction since the last report.
    took_ns: Vec<u32>,
}

impl Driver {
    fn new() -> Driver {
        let spare = Some(AlignedBuf::with_capacity(BATCH_BYTES_POOLED));
        Driver { state: State::new(false), builder: BatchBuilder::default(), spare, zxid: 1 << 32, took_ns: Vec::new() }
    }

    fn push(&mut self, change: Change<'_>) {
        let txn = Txn { zxid: self.zxid + 1, time_ms: 1, session: 1, origin: Origin::default(), op: Op::Change(change) };
        if self.builder.count() == 512 || self.builder.push(&txn).is_err() {
            self.flush();
            self.builder.push(&txn).expect("it fits an empty batch");
        }
        self.zxid += 1;
    }

    fn flush(&mut self) {
        if self.builder.is_empty() {
            return;
        }
        let batch: Batch = self.builder.close(1, 0, 0, self.spare.take().expect("given back"));
        let mut applied = Applied::default();
        for txn in batch.txns() {
            let start = Instant::now();
            self.state.apply(txn, &mut applied, Want { results: true, paths: false });
            self.took_ns.push(start.elapsed().as_nanos() as u32);
        }
        drop(applied);
        self.spare = Some(batch.into_buffer());
    }

    fn create(&mut self, path: &str, data: Option<&[u8]>, parent_creates: u32) {
        let path_hash = path::hash(path);
        self.push(Change::Create { path, path_hash, data, acl: None, owner: 0, parent_creates, with_stat: false });
    }

    fn report(&mut self, what: &str) {
        self.flush();
        self.took_ns.sort_unstable();
        let (count, took) = (self.took_ns.len(), &self.took_ns);
        let mean = took.iter().map(|ns| u64::from(*ns)).sum::<u64>() / count as u64;
        let micros = |at: usize| f64::from(took[at]) / 1000.0;
        let (p99, p9999) = (micros(count * 99 / 100), micros(count * 9999 / 10_000));
        println!("{what:<40} {mean:>6} ns   p99 {p99:>7.1} us   p99.99 {p9999:>7.1} us   max {:>8.1} us   ({count})", micros(count - 1));
        self.took_ns = Vec::new();
    }
}

/// Directories whose paths are 90 bytes, so that with a 24-byte name a path has 115.
fn directory(i: usize) -> String {
    format!("/{:0>29}/{:0>29}/{i:0>29}", "tenant", "service")
}

fn leaf(i: usize) -> String {
    // Scattered over the directories and not ascending within them.
    let scattered = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
    format!("{}/{scattered:0>24x}", directory(i % FANOUT))
}

fn grow(driver: &mut Driver, nodes: usize, data: impl Fn(usize) -> Option<&'static [u8]>) {
    let parts: Vec<String> = directory(0).split('/').skip(1).map(String::from).collect();
    let (first, second) = (format!("/{}", parts[0]), format!("/{}/{}", parts[0], parts[1]));
    driver.create(&first, None, 1);
    driver.create(&second, None, 1);
    (0..FANOUT).for_each(|i| driver.create(&directory(i), None, i as u32 + 1));
    driver.report("create directories");
    for i in 0..nodes {
        driver.create(&leaf(i), data(i), (i / FANOUT) as u32 + 1);
    }
    driver.report("create");
}

fn measure(what: &str, nodes: usize, data: impl Fn(usize) -> Option<&'static [u8]>) -> (Driver, usize) {
    let mut driver = Driver::new();
    let before = resident_bytes();
    grow(&mut driver, nodes, data);
    let each = (resident_bytes() - before) / nodes;
    println!("{what:<40} {each:>6} bytes per znode");
    (driver, each)
}

fn snapshot(driver: &mut Driver) {
    let (mut chunks, mut slices, start) = (Vec::new(), Vec::new(), Instant::now());
    driver.state.begin_snapshot();
    let began = start.elapsed();
    loop {
        let (mut chunk, slice) = (Vec::with_capacity(256 << 10), Instant::now());
        let done = driver.state.snapshot_slice(500, &mut chunk);
        slices.push(slice.elapsed());
        chunks.push(chunk);
        if done {
            break;
        }
    }
    let bytes: usize = chunks.iter().map(Vec::len).sum();
    let micros = |d: Duration| d.as_secs_f64() * 1e6;
    slices.sort_unstable();
    let (half, p99) = (micros(slices[slices.len() / 2]), micros(slices[slices.len() * 99 / 100]));
    println!("snapshot of {bytes} bytes: begin {:.1} us, slices of 500: median {half:.1} us, p99 {p99:.1} us", micros(began));
    let (start, mut loader) = (Instant::now(), Loader::new(false));
    chunks.iter().for_each(|chunk| loader.push(chunk).expect("our own records"));
    let pushed = start.elapsed();
    let state = loader.finish().expect("our own snapshot");
    println!("load: records {:.3} s, links and index {:.3} s", pushed.as_secs_f64(), (start.elapsed() - pushed).as_secs_f64());
    assert_eq!(state.node_count(), driver.state.node_count());
}

fn change_and_read(driver: &mut Driver, nodes: usize) {
    let start = Instant::now();
    let found = (0..nodes).filter(|i| driver.state.find(&leaf(*i)).is_some_and(|n| n.stat().version == 0)).count();
    assert_eq!(found, nodes);
    println!("{:<40} {:>6} ns each, formatting the path included", "find and stat", start.elapsed().as_nanos() as usize / nodes);
    for i in 0..nodes {
        let path = leaf(i);
        driver.push(Change::SetData { path: &path, path_hash: path::hash(&path), data: Some(&[7; 96]), version: 1 });
    }
    driver.report("set data, same class");
    for i in 0..nodes {
        let path = leaf(i);
        driver.push(Change::Delete { path: &path, path_hash: path::hash(&path) });
    }
    driver.report("delete");
}

fn one_directory(nodes: usize) {
    let mut driver = Driver::new();
    driver.create("/d", None, 1);
    for i in 0..nodes {
        let scattered = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20;
        driver.create(&format!("/d/{scattered:0>24x}"), None, i as u32 + 1);
    }
    driver.report("create in one directory, scattered");
    let start = Instant::now();
    let count = driver.state.find("/d").map_or(0, |n| n.children().count());
    println!("{:<40} {:>6} ns each", "list it", start.elapsed().as_nanos() as usize / count);
    for i in 0..nodes {
        driver.create(&format!("/d/n-{i:010}"), None, (nodes + i) as u32 + 1);
    }
    driver.report("create in one directory, ascending");
}

fn main() {
    let real = std::env::args().any(|arg| arg == "--bench");
    let wanted = std::env::var("NODES").ok().and_then(|n| n.parse().ok());
    let nodes = wanted.unwrap_or(if real { 1_000_000 } else { 2_000 });
    // Both stay until both are measured: freed memory would count for nothing the second time.
    let typical = measure("46.5 B on average, 43 % empty", nodes, |i| if i % 100 < 43 { Some(b"") } else { Some(&[9; 82]) });
    let (mut driver, each) = measure("100 B of data, 115 B paths", nodes, |_| Some(&[9; 100]));
    drop(typical);
    assert!(!real || each <= ZNODE_BYTES_MAX, "{each} bytes per znode");
    snapshot(&mut driver);
    change_and_read(&mut driver, nodes);
    drop(driver);
    one_directory(nodes);
}
