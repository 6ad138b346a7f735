//! What one worker has measured and found wrong; tallies of several workers add up.
//! Refuses averages: latencies are kept as histograms (three significant digits, up to two minutes).

use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;

/// Violations kept with their words; the others are only counted.
const EXAMPLES_MAX: usize = 5;
const LATENCY_NS_MAX: u64 = 120_000_000_000;
/// Replies are counted per tenth of a second, for recovery times.
pub const TICK_NS: u64 = 100_000_000;

/// What is timed. One operation of a recipe may be several requests.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    Get,
    Exists,
    List,
    MultiRead,
    Sync,
    Set,
    Create,
    Delete,
    Multi,
    /// From asking for a lock to holding it.
    Acquire,
    Release,
    Enqueue,
    Dequeue,
    /// Setting a watch, or looking whether an event is missing.
    Watch,
    /// From when a write was due to the arrival of its watch event.
    Notify,
    /// From opening the socket to the end of the handshake of a new session.
    Connect,
    /// The same for a session that is taken up again.
    Reattach,
}

impl Op {
    pub fn name(self) -> &'static str {
        match self {
            Op::Get => "get",
            Op::Exists => "exists",
            Op::List => "list",
            Op::MultiRead => "multi-read",
            Op::Sync => "sync",
            Op::Set => "set",
            Op::Create => "create",
            Op::Delete => "delete",
            Op::Multi => "multi",
            Op::Acquire => "acquire",
            Op::Release => "release",
            Op::Enqueue => "enqueue",
            Op::Dequeue => "dequeue",
            Op::Watch => "watch",
            Op::Notify => "notify",
            Op::Connect => "connect",
            Op::Reattach => "reattach",
        }
    }

    pub fn is_read(self) -> bool {
        matches!(self, Op::Get | Op::Exists | Op::List | Op::MultiRead | Op::Sync | Op::Watch)
    }
}

/// What kind of wrong a reply was.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Miss {
    /// An error code where there should be none.
    Code,
    /// A reply that does not parse, or a stream that is not the protocol.
    Malformed,
    /// A reply that was lost, repeated or overtaken.
    ReplyOrder,
    /// No reply within the limit.
    LostReply,
    /// A session's zxid went back.
    ZxidWentBack,
    /// Older than what must have been visible.
    StaleRead,
    /// A version that nobody wrote.
    FromTheFuture,
    /// A write that made another version than the next.
    Version,
    Data,
    Mzxid,
    Path,
    /// A list that is not what was created.
    List,
    /// An acknowledged write that was not there at the end.
    LostWrite,
    /// An ephemeral node that has outlived its session.
    LeftBehind,
    /// A sequence number given twice, or not growing.
    Sequence,
    /// A reply that shows a change before its watch event.
    LostEvent,
    /// A watch event that nobody had asked for, or that came twice.
    DuplicateEvent,
    /// Two holders of one lock.
    Exclusion,
    /// The connection ended without being asked to.
    Connection,
}

/// A reply that is wrong, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    pub miss: Miss,
    pub text: String,
}

impl Violation {
    pub fn new(miss: Miss, text: impl Into<String>) -> Violation {
        Violation { miss, text: text.into() }
    }
}

pub type Latencies = Histogram<u64>;

/// An empty histogram of ns.
pub fn latencies() -> Latencies {
    Histogram::new_with_bounds(1000, LATENCY_NS_MAX, 3).expect("constant bounds")
}

/// Both times of one kind of operation, ns. Without a schedule they are the same, and `service` is empty.
#[derive(Clone)]
pub struct Times {
    /// From when the schedule wanted it.
    pub response: Latencies,
    /// From when it was sent.
    pub service: Latencies,
}

impl Default for Times {
    fn default() -> Self {
        Times { response: latencies(), service: latencies() }
    }
}

impl Times {
    fn add(&mut self, other: &Times) {
        self.response.add(&other.response).expect("same bounds");
        self.service.add(&other.service).expect("same bounds");
    }
}

/// How a worker's thread spent the measured time, ns.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ThreadTime {
    pub running: u64,
    /// Ready to run, but without a core.
    pub waiting: u64,
    pub elapsed: u64,
}

impl ThreadTime {
    /// Share of the time in which the thread ran or wanted to.
    pub fn wanted(&self) -> f64 {
        if self.elapsed == 0 { 0.0 } else { (self.running + self.waiting) as f64 / self.elapsed as f64 }
    }
}

/// Counts and latencies of the measured phase, and everything wrong in any phase.
#[derive(Clone)]
pub struct Tally {
    pub ops: BTreeMap<Op, Times>,
    /// Response times per server, in the order of the servers.
    pub servers: Vec<Latencies>,
    /// How late the generator was to notice that an operation was due, ns.
    pub lag: Latencies,
    /// Operations that were due but never sent; they are in the histograms with the time they had waited.
    pub unsent: u64,
    /// Error codes in replies, and -4 for requests whose connection was lost.
    pub codes: BTreeMap<i32, u64>,
    pub misses: BTreeMap<Miss, u64>,
    pub examples: Vec<String>,
    pub disconnects: u64,
    pub expiries: u64,
    pub events: u64,
    /// Operations completed in each tenth of a second since the start.
    pub ticks: Vec<u32>,
    /// The busiest worker thread.
    pub thread: ThreadTime,
    recorded: u64,
}

impl Tally {
    pub fn new(servers: usize) -> Tally {
        Tally {
            ops: BTreeMap::new(),
            servers: vec![latencies(); servers],
            lag: latencies(),
            unsent: 0,
            codes: BTreeMap::new(),
            misses: BTreeMap::new(),
            examples: Vec::new(),
            disconnects: 0,
            expiries: 0,
            events: 0,
            ticks: Vec::new(),
            thread: ThreadTime::default(),
            recorded: 0,
        }
    }

    /// Operations measured.
    pub fn count(&self) -> u64 {
        self.recorded
    }

    /// Replies that were wrong.
    pub fn wrong(&self) -> u64 {
        self.misses.values().sum()
    }

    pub fn record(&mut self, op: Op, server: usize, response_ns: u64, service_ns: Option<u64>) {
        self.recorded += 1;
        let times = self.ops.entry(op).or_default();
        times.response.saturating_record(response_ns);
        if let Some(service_ns) = service_ns {
            times.service.saturating_record(service_ns);
        }
        self.servers[server].saturating_record(response_ns);
    }

    pub fn violation(&mut self, violation: Violation) {
        *self.misses.entry(violation.miss).or_default() += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(violation.text);
        }
    }

    /// Takes in another worker's tally of the same run.
    pub fn add(&mut self, other: &Tally) {
        for (op, times) in &other.ops {
            self.ops.entry(*op).or_default().add(times);
        }
        for (mine, theirs) in self.servers.iter_mut().zip(&other.servers) {
            mine.add(theirs).expect("same bounds");
        }
        self.lag.add(&other.lag).expect("same bounds");
        self.add_misses(other);
        self.unsent += other.unsent;
        self.disconnects += other.disconnects;
        self.expiries += other.expiries;
        self.events += other.events;
        self.recorded += other.recorded;
        if self.ticks.len() < other.ticks.len() {
            self.ticks.resize(other.ticks.len(), 0);
        }
        self.ticks.iter_mut().zip(&other.ticks).for_each(|(mine, theirs)| *mine += theirs);
        if other.thread.wanted() > self.thread.wanted() {
            self.thread = other.thread;
        }
    }

    /// Takes in only what another phase found wrong.
    pub fn add_misses(&mut self, other: &Tally) {
        other.codes.iter().for_each(|(code, count)| *self.codes.entry(*code).or_default() += count);
        other.misses.iter().for_each(|(miss, count)| *self.misses.entry(*miss).or_default() += count);
        let room = EXAMPLES_MAX - self.examples.len();
        self.examples.extend(other.examples.iter().take(room).cloned());
    }

    /// All operations that `wanted` says, together.
    pub fn times(&self, wanted: impl Fn(Op) -> bool) -> Times {
        let mut all = Times::default();
        self.ops.iter().filter(|(op, _)| wanted(**op)).for_each(|(_, times)| all.add(times));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let (mut one, mut two) = (Tally::new(2), Tally::new(2));
        one.record(Op::Get, 0, 5_000, None);
        two.record(Op::Get, 1, 7_000, None);
        two.record(Op::Set, 1, 9_000, Some(8_000));
        two.ticks = vec![0, 3];
        two.violation(Violation::new(Miss::Data, "bad"));
        two.thread = ThreadTime { running: 5, waiting: 1, elapsed: 10 };
        one.add(&two);
        assert_eq!((one.count(), one.wrong(), one.examples.len()), (3, 1, 1));
        assert_eq!((one.servers[0].len(), one.servers[1].len()), (1, 2));
        assert_eq!(one.times(Op::is_read).response.len(), 2);
        assert_eq!(one.times(|op| op == Op::Set).service.len(), 1);
        assert_eq!(one.ticks, [0, 3]);
        assert!((one.thread.wanted() - 0.6).abs() < 1e-9);
    }
}
