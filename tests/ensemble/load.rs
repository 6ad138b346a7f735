//! Sessions that keep an ensemble busy while it is broken, and remember everything they were told: writes of their own,
//! two nodes at once, a counter that all of them raise, registers that all of them use, and ephemeral nodes.
//! Refuses to judge: what was noticed is handed to `history`.

use crate::history::{Fate, History, Node, Observed, Pair, Write};
use falconer::sim::linear::{Call, Registers, Reply};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use zookeeper_client as zk;

/// Longer than any outage that a test makes: no session may be lost.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(30);
/// Own nodes a session goes on using.
const NODES_IN_USE: usize = 20;

/// What all sessions share.
struct Shared {
    started: Instant,
    stop: AtomicBool,
    next_value: AtomicU64,
    acknowledged: AtomicU64,
    /// The session's ephemeral node is there and must be.
    ephemerals: Vec<AtomicBool>,
    registers: Mutex<Registers>,
    /// Registers are read behind a sync.
    sync_first: bool,
}

impl Shared {
    fn now(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn value(&self) -> u64 {
        self.next_value.fetch_add(1, Ordering::Relaxed)
    }
}

/// Sessions at work.
pub struct Load {
    shared: Arc<Shared>,
    sessions: Vec<JoinHandle<Session>>,
}

/// What an error says about a write.
pub fn fate(error: &zk::Error) -> Fate {
    match error {
        zk::Error::NoNode
        | zk::Error::NodeExists
        | zk::Error::BadVersion
        | zk::Error::NotEmpty
        | zk::Error::NoChildrenForEphemerals
        | zk::Error::Throttled
        // SystemError: a disk that is full.
        | zk::Error::UnexpectedErrorCode(-1) => Fate::Refused,
        _ => Fate::Unknown,
    }
}

pub fn persistent() -> zk::CreateOptions<'static> {
    zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all())
}

pub async fn connect(hosts: &str) -> zk::Client {
    // A server that was cut off or paused is no reason to give up.
    let connector = || zk::Client::connector().with_session_timeout(SESSION_TIMEOUT).with_connection_timeout(Duration::from_secs(3));
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match connector().connect(hosts).await {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < deadline, "no session with {hosts}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Makes a node that may be there already, however often that takes.
async fn ensure(client: &zk::Client, path: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match client.create(path, b"", &persistent()).await {
            Ok(_) | Err(zk::Error::NodeExists) => return,
            Err(error) => assert!(Instant::now() < deadline, "{path}: {error}"),
        }
    }
}

impl Load {
    /// Sessions that connect to any of `hosts`, each with a pause of this length between two requests.
    pub async fn start(hosts: &str, sessions: usize, pause: Duration, seed: u64) -> Load {
        Load::begin(hosts, sessions, pause, seed, true).await
    }

    /// The same for servers that promise linearizable reads: registers are read without a sync.
    pub async fn without_sync(hosts: &str, sessions: usize, pause: Duration, seed: u64) -> Load {
        Load::begin(hosts, sessions, pause, seed, false).await
    }

    async fn begin(hosts: &str, sessions: usize, pause: Duration, seed: u64, sync_first: bool) -> Load {
        let client = connect(hosts).await;
        for path in ["/load", "/eph", "/counter"] {
            ensure(&client, path).await;
        }
        let shared = Arc::new(Shared {
            started: Instant::now(),
            stop: AtomicBool::new(false),
            next_value: AtomicU64::new(1),
            acknowledged: AtomicU64::new(0),
            ephemerals: (0..sessions).map(|_| AtomicBool::new(false)).collect(),
            registers: Mutex::default(),
            sync_first,
        });
        let mut running = Vec::new();
        for number in 0..sessions {
            let session = Session::open(hosts, number, shared.clone(), seed).await;
            running.push(tokio::spawn(session.work(pause)));
        }
        Load { shared, sessions: running }
    }

    /// Since the beginning.
    pub fn now_ms(&self) -> u64 {
        self.shared.now() / 1_000_000
    }

    pub fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until so many more writes are acknowledged.
    pub async fn wait_for_writes(&self, more: u64) {
        let (target, deadline) = (self.acknowledged() + more, Instant::now() + Duration::from_secs(60));
        while self.acknowledged() < target {
            assert!(
                Instant::now() < deadline,
                "{} of {more} more writes acknowledged within a minute",
                more + self.acknowledged() - target
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// No more requests; what is under way is waited for. Ends when the ensemble serves, and panics if a session panicked.
    pub async fn stop(self) -> History {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut history = History::default();
        for session in self.sessions {
            let mut session = session.await.expect("a session reports what it sees and does not panic");
            history.writes.append(&mut session.writes);
            history.nodes.append(&mut session.nodes);
            history.pairs.append(&mut session.pairs);
            history.counter.append(&mut session.counter);
            history.violations.append(&mut session.violations);
            history.clients.push((session.number, session.client));
        }
        let registers = std::mem::take(&mut *self.shared.registers.lock().expect("no session panicked"));
        history.registers = registers;
        history
    }
}

/// One client, and what it saw.
struct Session {
    number: usize,
    client: zk::Client,
    shared: Arc<Shared>,
    random: SmallRng,
    writes: Vec<Write>,
    nodes: Vec<Node>,
    pairs: Vec<Pair>,
    counter: Vec<Observed>,
    /// The highest version of the counter that this session has seen.
    counter_seen: i32,
    violations: Vec<String>,
}

impl Session {
    async fn open(hosts: &str, number: usize, shared: Arc<Shared>, seed: u64) -> Session {
        let client = connect(hosts).await;
        ensure(&client, &format!("/load/{number}")).await;
        let ephemeral = zk::CreateMode::Ephemeral.with_acls(zk::Acls::anyone_all());
        client.create(&format!("/eph/{number}"), b"", &ephemeral).await.expect("nothing is broken yet");
        shared.ephemerals[number].store(true, Ordering::SeqCst);
        Session {
            number,
            client,
            shared,
            random: SmallRng::seed_from_u64(seed.wrapping_mul(1000) + number as u64),
            writes: Vec::new(),
            nodes: Vec::new(),
            pairs: Vec::new(),
            counter: Vec::new(),
            counter_seen: 0,
            violations: Vec::new(),
        }
    }

    async fn work(mut self, pause: Duration) -> Session {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let alive = match self.random.random_range(0..100) {
                0..30 => self.create().await,
                30..55 => self.set().await,
                55..65 => self.read_own().await,
                65..73 => self.create_two().await,
                73..83 => self.raise_counter().await,
                83..95 => self.use_register().await,
                _ => self.look_at_ephemeral().await,
            };
            if !alive {
                self.shared.ephemerals[self.number].store(false, Ordering::SeqCst);
                self.violations.push(format!("session {} was lost at {} ms", self.number, self.shared.now() / 1_000_000));
                break;
            }
            tokio::time::sleep(pause).await;
        }
        self
    }

    /// Remembers an answer. False: the session is over.
    fn note(&mut self, path: &str, called: u64, answer: Result<(i32, i64), zk::Error>) -> (Fate, bool) {
        let returned = self.shared.now();
        let (fate, alive) = match &answer {
            Ok((version, zxid)) => (Fate::Done { version: *version, zxid: *zxid }, true),
            Err(error) => (fate(error), !is_over(error)),
        };
        // Only the counter is written by others too; a disk without room refuses anything.
        if let Err(error) = &answer
            && fate == Fate::Refused
            && path != "/counter"
            && !matches!(error, zk::Error::UnexpectedErrorCode(_) | zk::Error::Throttled)
        {
            self.violations.push(format!("session {} alone writes {path}, and was told: {error}", self.number));
        }
        if matches!(fate, Fate::Done { .. }) {
            self.shared.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        self.writes.push(Write { session: self.number, path: path.into(), called, returned, fate });
        (fate, alive)
    }

    async fn create(&mut self) -> bool {
        let (value, called) = (self.shared.value(), self.shared.now());
        let path = format!("/load/{}/{value}", self.number);
        let answer = self.client.create(&path, data(value).as_bytes(), &persistent()).await;
        let (fate, alive) = self.note(&path, called, answer.map(|(stat, _)| (stat.version, stat.czxid)));
        self.nodes.push(Node::new(path, (0, value), fate));
        alive
    }

    /// Changes a node of its own that nobody else touches and whose version is known.
    async fn set(&mut self) -> bool {
        let Some(index) = self.some_node() else { return true };
        let (path, (version, _)) = (self.nodes[index].path.clone(), self.nodes[index].sure.expect("a sure node"));
        let (value, called) = (self.shared.value(), self.shared.now());
        let answer = self.client.set_data(&path, data(value).as_bytes(), Some(version)).await;
        let (fate, alive) = self.note(&path, called, answer.map(|stat| (stat.version, stat.mzxid)));
        self.nodes[index].changed((version + 1, value), fate);
        alive
    }

    fn some_node(&mut self) -> Option<usize> {
        let from = self.nodes.len().saturating_sub(NODES_IN_USE);
        let sure: Vec<usize> =
            (from..self.nodes.len()).filter(|i| self.nodes[*i].sure.is_some() && self.nodes[*i].maybe.is_none()).collect();
        (!sure.is_empty()).then(|| sure[self.random.random_range(0..sure.len())])
    }

    /// Reads of one's own see one's own writes, from whichever server.
    async fn read_own(&mut self) -> bool {
        let Some(index) = self.some_node() else { return true };
        let (path, sure) = (self.nodes[index].path.clone(), self.nodes[index].sure.expect("a sure node"));
        match self.client.get_data(&path).await {
            Ok((bytes, stat)) if (stat.version, value_of(&bytes)) == sure => true,
            Ok((bytes, stat)) => {
                let found = (stat.version, value_of(&bytes));
                self.violations.push(format!("session {} wrote {path} as {sure:?} and read {found:?}", self.number));
                true
            }
            Err(zk::Error::NoNode) => {
                self.violations.push(format!("session {} wrote {path} as {sure:?} and then there was none", self.number));
                true
            }
            Err(error) => !is_over(&error),
        }
    }

    /// Both or neither.
    async fn create_two(&mut self) -> bool {
        let (value, called) = (self.shared.value(), self.shared.now());
        let paths = [format!("/load/{}/{value}a", self.number), format!("/load/{}/{value}b", self.number)];
        let mut multi = self.client.new_multi_writer();
        for path in &paths {
            multi.add_create(path, data(value).as_bytes(), &persistent()).expect("a sound path");
        }
        let answer = match multi.commit().await {
            Ok(results) => match results.last() {
                Some(zk::MultiWriteResult::Create { stat, .. }) => Ok((stat.version, stat.czxid)),
                other => panic!("two creates were answered with {other:?}"),
            },
            Err(zk::MultiWriteError::RequestFailed { source }) => Err(source),
            Err(zk::MultiWriteError::OperationFailed { source, .. }) => Err(source),
        };
        let (fate, alive) = self.note(&paths[1], called, answer);
        self.pairs.push(Pair { paths, value, fate });
        alive
    }

    /// Compare and set on one node by everybody: each version has one writer.
    async fn raise_counter(&mut self) -> bool {
        let version = match self.client.get_data("/counter").await {
            Ok((bytes, stat)) => {
                self.saw_counter(stat.version, value_of(&bytes));
                stat.version
            }
            Err(error) => return !is_over(&error),
        };
        let (value, called) = (self.shared.value(), self.shared.now());
        let answer = self.client.set_data("/counter", data(value).as_bytes(), Some(version)).await;
        let (fate, alive) = self.note("/counter", called, answer.map(|stat| (stat.version, stat.mzxid)));
        if let Fate::Done { version: now, .. } = fate {
            if now != version + 1 {
                self.violations.push(format!("the counter was set at version {version} and became {now}"));
            }
            self.saw_counter(now, value);
        }
        alive
    }

    fn saw_counter(&mut self, version: i32, value: u64) {
        if version < self.counter_seen {
            let seen = self.counter_seen;
            self.violations.push(format!("session {} saw the counter at version {seen}, then at {version}", self.number));
        }
        self.counter_seen = self.counter_seen.max(version);
        self.counter.push(Observed { version, value });
    }

    /// A register of the search for linearizability.
    async fn use_register(&mut self) -> bool {
        let value = self.shared.value();
        let call = match self.random.random_range(0..10) {
            0..3 => Call::Create(value),
            3..6 => Call::Set(value),
            6 => Call::Delete,
            _ => Call::Read,
        };
        let (path, token) = {
            let mut registers = self.shared.registers.lock().expect("no session panicked");
            (registers.path(), registers.call(call))
        };
        let answer = match call {
            Call::Create(_) => self.client.create(&path, data(value).as_bytes(), &persistent()).await.map(|_| Reply::Done),
            Call::Set(_) => self.client.set_data(&path, data(value).as_bytes(), None).await.map(|_| Reply::Done),
            Call::Delete => self.client.delete(&path, None).await.map(|()| Reply::Done),
            Call::Read => self.read_register(&path).await,
        };
        let mut registers = self.shared.registers.lock().expect("no session panicked");
        match &answer {
            Ok(reply) => registers.complete(token, Some(*reply)),
            Err(zk::Error::NoNode | zk::Error::NodeExists) => registers.complete(token, Some(Reply::Failed)),
            Err(error) if fate(error) == Fate::Refused => registers.complete(token, None),
            Err(_) => registers.unknown(token),
        }
        !answer.is_err_and(|error| is_over(&error))
    }

    async fn read_register(&self, path: &str) -> Result<Reply, zk::Error> {
        if self.shared.sync_first {
            self.client.sync(path).await?;
        }
        match self.client.get_data(path).await {
            Ok((bytes, _)) => Ok(Reply::Value(Some(value_of(&bytes)))),
            Err(zk::Error::NoNode) => Ok(Reply::Value(None)),
            Err(error) => Err(error),
        }
    }

    /// Somebody else's ephemeral node is there as long as its session is.
    async fn look_at_ephemeral(&mut self) -> bool {
        let other = self.random.random_range(0..self.shared.ephemerals.len());
        let must_be = || self.shared.ephemerals[other].load(Ordering::SeqCst);
        if !must_be() {
            return true;
        }
        let path = format!("/eph/{other}");
        match self.client.check_stat(&path).await {
            Ok(Some(_)) => true,
            Ok(None) if must_be() => {
                self.violations.push(format!("session {} saw that {path} is gone, but its session is open", self.number));
                true
            }
            Ok(None) => true,
            Err(error) => !is_over(&error),
        }
    }
}

fn is_over(error: &zk::Error) -> bool {
    matches!(error, zk::Error::SessionExpired | zk::Error::ClientClosed | zk::Error::NoHosts | zk::Error::AuthFailed)
}

/// A value as it is stored: some are long, so that batches are of many sizes.
pub fn data(value: u64) -> String {
    format!("{value} {}", "x".repeat((value % 7 * 100) as usize))
}

pub fn value_of(data: &[u8]) -> u64 {
    let text = std::str::from_utf8(data).unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}
