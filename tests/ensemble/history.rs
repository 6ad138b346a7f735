//! What clients were told, and whether it can be true: nothing acknowledged is missing, nothing came twice, the order of
//! zxids is that of real time, every server has the same. Refuses to look at servers before they are whole again.

use crate::load::{connect, value_of};
use crate::process::ensemble::Ensemble;
use falconer::sim::linear::Registers;
use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};
use zookeeper_client as zk;

/// What became of a write, as far as its client knows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Done { version: i32, zxid: i64 },
    Refused,
    Unknown,
}

/// A write by one session. Times are of one monotonic clock, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Write {
    pub session: usize,
    pub path: String,
    pub called: u64,
    pub returned: u64,
    pub fate: Fate,
}

impl std::fmt::Display for Write {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |ns: u64| ns as f64 / 1e6;
        write!(f, "session {}'s write of {} from {:.3} to {:.3} ms", self.session, self.path, ms(self.called), ms(self.returned))
    }
}

/// A node that one session alone writes: what it is for sure, and what it may have become. (version, value)
#[derive(Clone, Debug)]
pub struct Node {
    pub path: String,
    pub sure: Option<(i32, u64)>,
    pub maybe: Option<(i32, u64)>,
}

impl Node {
    pub fn new(path: String, state: (i32, u64), fate: Fate) -> Node {
        let mut node = Node { path, sure: None, maybe: None };
        node.changed(state, fate);
        node
    }

    pub fn changed(&mut self, state: (i32, u64), fate: Fate) {
        match fate {
            Fate::Done { .. } => self.sure = Some(state),
            Fate::Unknown => self.maybe = Some(state),
            Fate::Refused => {}
        }
    }
}

/// Two nodes that were made in one transaction.
#[derive(Clone, Debug)]
pub struct Pair {
    pub paths: [String; 2],
    pub value: u64,
    pub fate: Fate,
}

/// A version of the counter with its value.
#[derive(Clone, Copy, Debug)]
pub struct Observed {
    pub version: i32,
    pub value: u64,
}

#[derive(Default)]
pub struct History {
    pub writes: Vec<Write>,
    pub nodes: Vec<Node>,
    pub pairs: Vec<Pair>,
    pub counter: Vec<Observed>,
    pub registers: Registers,
    /// The sessions, still open.
    pub clients: Vec<(usize, zk::Client)>,
    /// What was wrong when it was seen.
    pub violations: Vec<String>,
}

impl History {
    /// Checks everything, against every server that runs. They must be able to serve.
    pub async fn check(mut self, name: &str, ensemble: &mut Ensemble) {
        self.judge(ensemble).await;
        let (registers, given_up) = self.registers.windows();
        let (stall_ms, end_ms) = self.longest_stall();
        let done = self.writes.iter().filter(|write| matches!(write.fate, Fate::Done { .. })).count();
        let unknown = self.writes.iter().filter(|write| write.fate == Fate::Unknown).count();
        println!(
            "{name}: {done} writes acknowledged, {unknown} of unknown fate, {registers} registers searched ({given_up} given up), \
             longest time without an acknowledgement {stall_ms} ms, until {end_ms} ms"
        );
        let shown = self.violations.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
        assert!(self.violations.is_empty(), "{} violations:\n{shown}", self.violations.len());
        assert!(done > 0 && registers > 0, "without load nothing was tested");
    }

    /// Adds to the violations whatever is wrong.
    pub async fn judge(&mut self, ensemble: &mut Ensemble) {
        ensemble.wait_until_all_serve();
        self.judge_answers();
        // Panics with the register's history.
        self.registers.finish();
        self.check_same_state(ensemble);
        for id in ensemble.ids() {
            if ensemble.runs(id) {
                self.check_server(ensemble, id).await;
            }
        }
        self.check_ephemerals(ensemble).await;
    }

    /// What can be said without asking a server.
    pub fn judge_answers(&mut self) {
        self.check_order();
        self.check_counter();
    }

    /// The longest time without an acknowledgement, and when it ended, in milliseconds.
    fn longest_stall(&self) -> (u64, u64) {
        let done = self.writes.iter().filter(|write| matches!(write.fate, Fate::Done { .. }));
        let mut times: Vec<u64> = done.map(|write| write.returned / 1_000_000).collect();
        times.sort_unstable();
        times.windows(2).map(|two| (two[1] - two[0], two[1])).max().unwrap_or_default()
    }

    /// Whoever was answered before another one asked comes before it, and no two writes share a zxid.
    fn check_order(&mut self) {
        let mut done: Vec<(&Write, i64)> = Vec::new();
        for write in &self.writes {
            if let Fate::Done { zxid, .. } = write.fate {
                done.push((write, zxid));
            }
        }
        let mut by_zxid: HashMap<i64, &Write> = HashMap::new();
        let mut found = Vec::new();
        for (write, zxid) in &done {
            if let Some(other) = by_zxid.insert(*zxid, write) {
                found.push(format!("zxid {zxid:x} was given to two writes: {write} and {other}"));
            }
        }
        let mut returns = done.clone();
        returns.sort_by_key(|(write, _)| write.returned);
        done.sort_by_key(|(write, _)| write.called);
        let mut returned = returns.into_iter().peekable();
        let mut latest: Option<(&Write, i64)> = None;
        for (write, zxid) in &done {
            while let Some(before) = returned.next_if(|(before, _)| before.returned < write.called) {
                if latest.is_none_or(|(_, highest)| before.1 > highest) {
                    latest = Some(before);
                }
            }
            if let Some((before, highest)) = latest
                && *zxid < highest
            {
                found.push(format!("{before} was answered before {write} was asked, but has the higher zxid"));
            }
        }
        self.violations.append(&mut found);
    }

    /// Every version has one value, whoever saw it on whichever server.
    fn check_counter(&mut self) {
        let mut values: BTreeMap<i32, u64> = BTreeMap::new();
        for Observed { version, value } in &self.counter {
            let known = *values.entry(*version).or_insert(*value);
            if known != *value {
                self.violations.push(format!("version {version} of the counter was {known} and {value}"));
            }
        }
    }

    /// The digest of everything is the same on all servers.
    fn check_same_state(&mut self, ensemble: &mut Ensemble) {
        let running: Vec<u16> = ensemble.ids().into_iter().filter(|id| ensemble.runs(*id)).collect();
        ensemble.wait_for("all servers have the same digest", |ensemble| {
            let digests: Vec<String> = running.iter().map(|id| ensemble.ask(*id, "hash")).collect();
            (!digests[0].is_empty() && digests.iter().all(|digest| *digest == digests[0])).then_some(())
        });
    }

    /// What this server has is what was acknowledged, and nothing that nobody wrote.
    async fn check_server(&mut self, ensemble: &Ensemble, id: u16) {
        let client = connect(&ensemble.address(id)).await;
        client.sync("/").await.expect("everything is healed");
        let paths: Vec<&str> = self
            .nodes
            .iter()
            .map(|node| node.path.as_str())
            .chain(self.pairs.iter().flat_map(|pair| pair.paths.iter().map(String::as_str)))
            .collect();
        let mut found: HashMap<String, (i32, u64)> = HashMap::new();
        for some in paths.chunks(200) {
            let asked: Vec<_> = some.iter().map(|path| client.get_data(path)).collect();
            for (path, answer) in some.iter().zip(asked) {
                match answer.await {
                    Ok((bytes, stat)) => drop(found.insert((*path).into(), (stat.version, value_of(&bytes)))),
                    Err(zk::Error::NoNode) => {}
                    Err(error) => panic!("server {id}: {path}: {error}"),
                }
            }
        }
        let mut wrong = Vec::new();
        for node in &self.nodes {
            let now = found.get(&node.path).copied();
            if now != node.sure && (node.maybe.is_none() || now != node.maybe) {
                wrong.push(format!("server {id}: {} is {now:?}, sure was {:?}, possible {:?}", node.path, node.sure, node.maybe));
            }
        }
        for Pair { paths, value, fate } in &self.pairs {
            let both = paths.each_ref().map(|path| found.get(path).copied());
            let fine = match fate {
                Fate::Done { .. } => both == [Some((0, *value)); 2],
                Fate::Refused => both == [None, None],
                Fate::Unknown => both == [None, None] || both == [Some((0, *value)); 2],
            };
            if !fine {
                wrong.push(format!("server {id}: {paths:?} are {both:?} after a multi that was {fate:?}"));
            }
        }
        self.violations.append(&mut wrong);
    }

    /// Ephemerals go with their session, and only then.
    async fn check_ephemerals(&mut self, ensemble: &Ensemble) {
        let client = connect(&ensemble.hosts(0)).await;
        let kept = self.clients.pop();
        let open: Vec<String> = kept.iter().map(|(number, _)| number.to_string()).collect();
        // A client that is dropped closes its session.
        self.clients.clear();
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            client.sync("/eph").await.expect("everything is healed");
            let left = client.list_children("/eph").await.expect("everything is healed");
            if left == open {
                return;
            }
            let missing = open.iter().any(|name| !left.contains(name));
            if missing || Instant::now() > deadline {
                self.violations.push(format!("ephemeral nodes {left:?} are there, those of open sessions are {open:?}"));
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
