//! The network between the servers of an ensemble: a proxy for every ordered pair, so that each direction between two
//! servers can be cut, slowed down or reset while the servers run. Bytes that meet a cut wait, as TCP would have them wait,
//! and go on in order once it is healed. Refuses to lose or to change a byte: TCP does neither.

use socket2::SockRef;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Chunks of up to 64 KiB that are on their way in one direction of a connection.
const UNDER_WAY: usize = 64;
/// How often a proxy looks whether it should end.
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Clone, Copy, Default)]
struct Condition {
    cut: bool,
    delay: Duration,
}

/// One direction between two servers, whoever dialed.
#[derive(Default)]
struct Way {
    condition: Mutex<Condition>,
    changed: Condvar,
}

impl Way {
    fn set(&self, change: impl FnOnce(&mut Condition)) {
        change(&mut self.condition.lock().unwrap());
        self.changed.notify_all();
    }

    /// Waits until the way is open; false: the connection ended before that.
    fn wait_until_open(&self, over: &AtomicBool) -> bool {
        let mut condition = self.condition.lock().unwrap();
        while condition.cut && !over.load(Ordering::Relaxed) {
            condition = self.changed.wait_timeout(condition, LOOK_EVERY).unwrap().0;
        }
        !over.load(Ordering::Relaxed)
    }

    fn delay(&self) -> Duration {
        self.condition.lock().unwrap().delay
    }
}

/// Two sockets that belong together, and whether they are over.
struct Pair {
    between: (u16, u16),
    ends: [TcpStream; 2],
    over: Arc<AtomicBool>,
}

#[derive(Default)]
struct Shared {
    ways: Mutex<HashMap<(u16, u16), Arc<Way>>>,
    pairs: Mutex<Vec<Pair>>,
    over: AtomicBool,
}

impl Shared {
    fn way(&self, from: u16, to: u16) -> Arc<Way> {
        self.ways.lock().unwrap().entry((from, to)).or_default().clone()
    }

    fn end(&self, which: impl Fn((u16, u16)) -> bool) {
        self.pairs.lock().unwrap().retain(|pair| {
            if pair.over.load(Ordering::Relaxed) {
                return false;
            }
            if which(pair.between) {
                pair.over.store(true, Ordering::Relaxed);
                for end in &pair.ends {
                    // The last one to close it resets the connection. It may be closed already.
                    let _ = SockRef::from(end).set_linger(Some(Duration::ZERO));
                    let _ = end.shutdown(Shutdown::Read);
                }
                return false;
            }
            true
        });
    }
}

/// All links of one ensemble. Everything ends with it.
pub struct Network {
    shared: Arc<Shared>,
    ports: HashMap<(u16, u16), u16>,
}

impl Network {
    /// For servers that listen on these loopback ports.
    pub fn new(servers: &[(u16, u16)]) -> Network {
        let shared = Arc::<Shared>::default();
        let mut ports = HashMap::new();
        for &(from, _) in servers {
            for &(to, target) in servers.iter().filter(|(to, _)| *to != from) {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, super::free_port())).expect("a free port");
                ports.insert((from, to), listener.local_addr().expect("it is bound").port());
                let shared = shared.clone();
                std::thread::spawn(move || accept(&listener, (from, to), target, &shared));
            }
        }
        Network { shared, ports }
    }

    /// Where `from` finds `to`.
    pub fn port(&self, from: u16, to: u16) -> u16 {
        self.ports[&(from, to)]
    }

    /// Nothing gets from one to the other any more.
    pub fn cut(&self, from: u16, to: u16) {
        self.shared.way(from, to).set(|condition| condition.cut = true);
    }

    /// Cuts both directions between `server` and each of the others.
    pub fn isolate(&self, server: u16, others: impl IntoIterator<Item = u16>) {
        for other in others {
            self.cut(server, other);
            self.cut(other, server);
        }
    }

    /// Everything arrives so much later.
    pub fn delay(&self, from: u16, to: u16, delay: Duration) {
        self.shared.way(from, to).set(|condition| condition.delay = delay);
    }

    /// Resets every connection between the two.
    pub fn reset(&self, one: u16, other: u16) {
        self.shared.end(|between| between == (one, other) || between == (other, one));
    }

    /// No cuts and no delays any more.
    pub fn heal(&self) {
        self.shared.ways.lock().unwrap().values().for_each(|way| way.set(|condition| *condition = Condition::default()));
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        self.shared.end(|_| true);
        // Wakes those that wait for a connection.
        for port in self.ports.values() {
            drop(TcpStream::connect((Ipv4Addr::LOCALHOST, *port)));
        }
    }
}

/// Takes what `from` dials and connects it with `to`.
fn accept(listener: &TcpListener, (from, to): (u16, u16), target: u16, shared: &Arc<Shared>) {
    while let Ok((dialed, _)) = listener.accept() {
        if shared.over.load(Ordering::Relaxed) {
            return;
        }
        let shared = shared.clone();
        std::thread::spawn(move || connect(dialed, (from, to), target, &shared));
    }
}

/// A connection is there once its first packets have gone both ways.
fn connect(dialed: TcpStream, (from, to): (u16, u16), target: u16, shared: &Shared) {
    let (there, back) = (shared.way(from, to), shared.way(to, from));
    if !there.wait_until_open(&shared.over) || !back.wait_until_open(&shared.over) {
        return;
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, target));
    let Ok(reached) = TcpStream::connect_timeout(&address, Duration::from_secs(2)) else { return };
    let clone = |stream: &TcpStream| stream.try_clone().expect("a descriptor more");
    for stream in [&dialed, &reached] {
        stream.set_nodelay(true).expect("a TCP option");
    }
    let over = Arc::new(AtomicBool::new(false));
    shared.pairs.lock().unwrap().push(Pair { between: (from, to), ends: [clone(&dialed), clone(&reached)], over: over.clone() });
    for (source, sink, way) in [(clone(&dialed), clone(&reached), there), (reached, dialed, back)] {
        let (sender, chunks) = sync_channel(UNDER_WAY);
        let (reads, over) = (way.clone(), over.clone());
        std::thread::spawn(move || take(source, &reads, &sender));
        std::thread::spawn(move || deliver(sink, &way, &chunks, &over));
    }
}

/// Reads until the end; an empty chunk is the end.
fn take(mut source: TcpStream, way: &Way, chunks: &SyncSender<(Instant, Vec<u8>)>) {
    let mut buffer = vec![0; 65_536];
    loop {
        let read = source.read(&mut buffer).unwrap_or(0);
        if chunks.send((Instant::now() + way.delay(), buffer[..read].to_vec())).is_err() || read == 0 {
            return;
        }
    }
}

fn deliver(mut sink: TcpStream, way: &Way, chunks: &Receiver<(Instant, Vec<u8>)>, over: &AtomicBool) {
    for (due, chunk) in chunks {
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if !way.wait_until_open(over) {
            return;
        }
        if chunk.is_empty() {
            // Whoever reads the other end is told; it may be gone.
            let _ = sink.shutdown(Shutdown::Write);
            return;
        }
        if sink.write_all(&chunk).is_err() {
            return;
        }
    }
}
