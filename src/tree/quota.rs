//! Quotas, as ZooKeeper keeps them: whoever creates `/zookeeper/quota/a/b/zookeeper_limits` bounds the subtree `/a/b`, and the
//! node `zookeeper_stats` beside it is kept at what the subtree holds. Of nested quotas only the innermost counts a node.
//!
//! The stats node's data is replaced in place: no version, no zxid, no watch, and no part in the digest. It is the one
//! place where the sums are kept, so a snapshot carries them and every replica has the same.
//! Refuses to enforce anything (prepare does), and to bound `/` as a whole.

use super::{State, path};
use std::collections::BTreeMap;
use std::fmt;

/// Below this stand the limits and the sums.
const HOME: &str = "/zookeeper/quota";
const LIMITS: &str = "/zookeeper_limits";
const STATS: &str = "/zookeeper_stats";

/// The subtree whose quota node `path` is, if its last component is `name` (with its slash). None for `/` as a whole.
fn subtree<'a>(path: &'a str, name: &str) -> Option<&'a str> {
    let below = path.strip_prefix(HOME)?.strip_suffix(name)?;
    below.starts_with('/').then_some(below)
}

/// Whether the data of `path` is kept by the server, and so is no part of the digest.
pub(super) fn is_stats(path: &str) -> bool {
    subtree(path, STATS).is_some()
}

/// The text of a limits or stats node: nodes and bytes of data, -1 where there is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Track {
    pub count: i64,
    pub bytes: i64,
    pub count_hard: i64,
    pub bytes_hard: i64,
}

impl Track {
    const NONE: Track = Track { count: -1, bytes: -1, count_hard: -1, bytes_hard: -1 };

    /// Reads `count=1,bytes=2`, with or without ZooKeeper's `=;byteHardLimit=3;countHardLimit=4`. Unknown names are skipped; a
    /// number that is none makes the text unreadable.
    pub fn parse(text: &[u8]) -> Option<Track> {
        let mut track = Track::NONE;
        for pair in std::str::from_utf8(text).ok()?.split([',', ';']).filter(|pair| !pair.is_empty()) {
            let mut parts = pair.split('=');
            let (name, value) = (parts.next()?, parts.next().unwrap_or(""));
            let value = if value.is_empty() { -1 } else { value.trim().parse().ok()? };
            match name.trim() {
                "count" => track.count = value,
                "bytes" => track.bytes = value,
                "countHardLimit" => track.count_hard = value,
                "byteHardLimit" => track.bytes_hard = value,
                _ => {}
            }
        }
        Some(track)
    }
}

/// The two sums, as a stats node has them.
impl fmt::Display for Track {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "count={},bytes={}", self.count, self.bytes)
    }
}

/// The quota that counts a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quota<'a> {
    /// The top of its subtree.
    pub top: &'a str,
    pub limits: Track,
    /// What the subtree holds, as applied.
    pub used: Track,
}

/// Where a quota's two nodes are.
struct Root {
    limits: Box<str>,
    stats: Box<str>,
    stats_hash: u64,
}

/// The subtrees with limits, by their tops.
#[derive(Default)]
pub(super) struct Quotas {
    by_top: BTreeMap<Box<str>, Root>,
    /// Lengths of the tops, and how many have that length: few in practice, and only prefixes of these are looked up.
    lengths: BTreeMap<usize, usize>,
}

impl Quotas {
    pub(super) fn is_empty(&self) -> bool {
        self.by_top.is_empty()
    }

    /// A node was created or found in a snapshot: if it is one with limits, its subtree is bounded from here on.
    pub(super) fn node_created(&mut self, limits: &str) {
        let Some(top) = subtree(limits, LIMITS) else { return };
        let stats = format!("{HOME}{top}{STATS}");
        let root = Root { limits: limits.into(), stats_hash: path::hash(&stats), stats: stats.into() };
        self.by_top.insert(top.into(), root);
        *self.lengths.entry(top.len()).or_default() += 1;
    }

    /// A node was deleted: if it is one with limits, its subtree is free again.
    pub(super) fn node_deleted(&mut self, limits: &str) {
        let Some(top) = subtree(limits, LIMITS) else { return };
        if self.by_top.remove(top).is_some() {
            let held = self.lengths.get_mut(&top.len()).expect("every top is counted");
            *held -= 1;
            if *held == 0 {
                self.lengths.remove(&top.len());
            }
        }
    }

    /// The innermost quota over `path`.
    fn over(&self, path: &str) -> Option<(&str, &Root)> {
        let borders = self.lengths.range(..=path.len()).rev().map(|(len, _)| *len);
        let tops = borders.filter(|len| *len == path.len() || path.as_bytes()[*len] == b'/').map(|len| &path[..len]);
        tops.flat_map(|top| self.by_top.get_key_value(top)).map(|(top, root)| (&**top, root)).next()
    }
}

impl State {
    /// The innermost quota over `path`, whether or not that exists. None too when its limits or sums cannot be read.
    pub fn quota(&self, path: &str) -> Option<Quota<'_>> {
        let (top, root) = self.quotas.over(path)?;
        let limits = Track::parse(self.find(&root.limits)?.data()?)?;
        let used = Track::parse(self.find_hashed(&root.stats, root.stats_hash)?.data()?)?;
        Some(Quota { top, limits, used })
    }

    /// Whether any subtree is bounded.
    pub fn has_quotas(&self) -> bool {
        !self.quotas.is_empty()
    }

    /// The node was created, deleted or changed by so much: the innermost quota over it counts that.
    pub(super) fn count_in_quota(&mut self, path: &str, nodes: i64, bytes: i64) {
        let Some((_, root)) = self.quotas.over(path) else { return };
        let Some(slot) = self.nodes.find(&root.stats, root.stats_hash) else { return };
        let Some(mut sums) = self.nodes.data(slot).and_then(Track::parse) else { return };
        // Clients may write any number there.
        sums.count = sums.count.wrapping_add(nodes);
        sums.bytes = sums.bytes.wrapping_add(bytes);
        self.set_stats(slot, &sums);
    }

    /// A stats node was created: it starts with what its subtree holds. Walks the subtree.
    pub(super) fn recount(&mut self, slot: u32, stats: &str) {
        let Some(top) = subtree(stats, STATS) else { return };
        let mut sums = Track { count: 0, bytes: 0, ..Track::NONE };
        let mut waiting: Vec<u32> = self.nodes.find(top, path::hash(top)).into_iter().collect();
        while let Some(at) = waiting.pop() {
            sums.count += 1;
            sums.bytes += i64::from(self.nodes.get(at).data_bytes());
            waiting.extend(self.nodes.children(at));
        }
        self.set_stats(slot, &sums);
    }

    fn set_stats(&mut self, slot: u32, sums: &Track) {
        self.keep_old_node(slot);
        self.data_bytes -= u64::from(self.nodes.get(slot).data_bytes());
        self.nodes.set_data(slot, Some(sums.to_string().as_bytes()));
        self.data_bytes += u64::from(self.nodes.get(slot).data_bytes());
    }
}
