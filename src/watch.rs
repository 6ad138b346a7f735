//! The watches of one shard's connections: who is told when a node is created, deleted, changed, or gets or loses a
//! child. The rules are ZooKeeper's: one-shot watches are consumed when they fire, persistent ones stay, a recursive
//! one fires for everything below it, and a connection hears of one change at most once per event.
//!
//! A watch costs its path once per shard plus about 50 bytes per connection; watching a path that does not exist, or
//! is no path at all, is allowed. Everything is ordered by connection, so equal histories fire in equal order.
//! Refuses to know permissions: the caller filters what fired, and what it filters stays consumed.

#[cfg(test)]
mod model;

use crate::pipeline::message::ConnId;
use crate::tree::index::Index;
use crate::tree::path;
use crate::tree::slab::Slab;
use crate::wire::record::event;
use std::collections::{BTreeMap, BTreeSet};

/// What a request registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatchKind {
    /// One shot, by getData or exists.
    Data,
    /// One shot, by getChildren.
    Child,
    /// Stays, for all events of the node itself.
    Persistent,
    /// Stays, for creation, deletion and data of the node and everything below; never for children.
    PersistentRecursive,
}

/// What checkWatches and removeWatches name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatcherType {
    Children,
    Data,
    Any,
    Persistent,
    PersistentRecursive,
}

impl WatcherType {
    /// Reads the number in a request. None is answered with MARSHALLINGERROR.
    pub fn from_wire(kind: i32) -> Option<WatcherType> {
        match kind {
            1 => Some(WatcherType::Children),
            2 => Some(WatcherType::Data),
            3 => Some(WatcherType::Any),
            4 => Some(WatcherType::Persistent),
            5 => Some(WatcherType::PersistentRecursive),
            _ => None,
        }
    }

    fn modes(self) -> u8 {
        match self {
            WatcherType::Children => CHILD,
            WatcherType::Data => DATA,
            WatcherType::Any => DATA | CHILD | PERSISTENT | RECURSIVE,
            WatcherType::Persistent => PERSISTENT,
            WatcherType::PersistentRecursive => RECURSIVE,
        }
    }
}

/// A connection to be told of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fired {
    pub conn: ConnId,
    /// One of [`crate::wire::record::event`]. NODE_CHILDREN_CHANGED is about the changed node's parent (its path and its
    /// ACL), everything else about the node itself.
    pub kind: i32,
}

/// Ways in which one connection watches one path.
const DATA: u8 = 1;
const CHILD: u8 = 2;
const PERSISTENT: u8 = 4;
const RECURSIVE: u8 = 8;
/// ZooKeeper keeps two tables; these modes stand in the one that getData registers in, ...
const DATA_TABLE: u8 = DATA | PERSISTENT | RECURSIVE;
/// ... and these in the one of getChildren.
const CHILD_TABLE: u8 = CHILD | PERSISTENT;

/// Connections that watch one path, with their modes. Most paths have one.
#[derive(Clone)]
enum Watchers {
    One(u64, u8),
    Many(BTreeMap<u64, u8>),
}

impl Default for Watchers {
    fn default() -> Watchers {
        Watchers::One(0, 0)
    }
}

impl Watchers {
    fn get(&self, conn: u64) -> u8 {
        match self {
            Watchers::One(one, modes) if *one == conn => *modes,
            Watchers::One(..) => 0,
            Watchers::Many(many) => many.get(&conn).copied().unwrap_or(0),
        }
    }

    /// Modes 0 take the connection out.
    fn set(&mut self, conn: u64, modes: u8) {
        match self {
            Watchers::One(one, old) if *one == conn || *old == 0 => (*one, *old) = (conn, modes),
            Watchers::One(one, old) => *self = Watchers::Many(BTreeMap::from([(*one, *old), (conn, modes)])),
            Watchers::Many(many) if modes != 0 => drop(many.insert(conn, modes)),
            Watchers::Many(many) => {
                many.remove(&conn);
                if let (1, Some((conn, modes))) = (many.len(), many.first_key_value()) {
                    *self = Watchers::One(*conn, *modes);
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Watchers::One(_, 0))
    }

    /// Appends the connections with any of `modes`, in their order.
    fn collect(&self, modes: u8, out: &mut Vec<u64>) {
        match self {
            Watchers::One(conn, have) if have & modes != 0 => out.push(*conn),
            Watchers::One(..) => {}
            Watchers::Many(many) => out.extend(many.iter().filter(|(_, have)| *have & modes != 0).map(|(conn, _)| *conn)),
        }
    }
}

#[derive(Clone, Default)]
struct Watched {
    path: Box<str>,
    hash: u32,
    /// Connections of the data table.
    data: u32,
    watchers: Watchers,
}

#[derive(Default)]
struct Watching {
    paths: BTreeSet<u32>,
    /// Paths it watches in the data table.
    data: u32,
}

/// Counts of the data table alone: what `wchs` shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DataWatches {
    pub conns: usize,
    pub paths: usize,
    pub watches: usize,
}

/// All watches of one shard.
pub struct Watches {
    paths: Slab<Watched>,
    index: Index,
    conns: BTreeMap<u64, Watching>,
    data: DataWatches,
    child_watches: usize,
    /// Lengths of the paths with recursive watches, and how many connections hold one of that length.
    recursive: BTreeMap<usize, usize>,
    /// Connections that the trigger at work has found.
    found: Vec<u64>,
}

impl Default for Watches {
    fn default() -> Watches {
        Watches {
            paths: Slab::new(),
            index: Index::new(),
            conns: BTreeMap::new(),
            data: DataWatches::default(),
            child_watches: 0,
            recursive: BTreeMap::new(),
            found: Vec::new(),
        }
    }
}

impl Watches {
    /// Registers a watch. Registering the same once more changes nothing.
    pub fn add(&mut self, path: &str, conn: ConnId, kind: WatchKind) {
        let modes = match kind {
            WatchKind::Data => DATA,
            WatchKind::Child => CHILD,
            WatchKind::Persistent => PERSISTENT,
            WatchKind::PersistentRecursive => RECURSIVE,
        };
        let at = self.find(path).unwrap_or_else(|| self.add_path(path));
        let have = self.paths.get(at).watchers.get(conn.0);
        self.set(at, conn.0, have | modes);
    }

    /// Forgets what `kind` names. False if there was nothing of the kind.
    pub fn remove(&mut self, path: &str, conn: ConnId, kind: WatcherType) -> bool {
        let Some(at) = self.find(path) else { return false };
        let have = self.paths.get(at).watchers.get(conn.0);
        if have & kind.modes() == 0 {
            return false;
        }
        self.set(at, conn.0, have & !kind.modes());
        true
    }

    /// Whether the connection has a watch of this kind.
    pub fn check(&self, path: &str, conn: ConnId, kind: WatcherType) -> bool {
        self.find(path).is_some_and(|at| self.paths.get(at).watchers.get(conn.0) & kind.modes() != 0)
    }

    /// Forgets everything of a connection that is gone.
    pub fn drop_conn(&mut self, conn: ConnId) {
        while let Some(at) = self.conns.get(&conn.0).and_then(|watching| watching.paths.first()) {
            self.set(*at, conn.0, 0);
        }
    }

    /// The node was created. Appends who is told what.
    pub fn created(&mut self, path: &str, out: &mut Vec<Fired>) {
        self.fire_data(path, event::NODE_CREATED, out);
        self.fire_child(path::parent(path).unwrap_or(path::ROOT), event::NODE_CHILDREN_CHANGED, &[], out);
    }

    /// The node was deleted. Appends who is told what: nobody hears of the deletion twice.
    pub fn deleted(&mut self, path: &str, out: &mut Vec<Fired>) {
        let from = out.len();
        self.fire_data(path, event::NODE_DELETED, out);
        let told: Vec<u64> = out[from..].iter().map(|fired| fired.conn.0).collect();
        self.fire_child(path, event::NODE_DELETED, &told, out);
        self.fire_child(path::parent(path).unwrap_or(path::ROOT), event::NODE_CHILDREN_CHANGED, &[], out);
    }

    /// The node's data was set. Appends who is told.
    pub fn data_changed(&mut self, path: &str, out: &mut Vec<Fired>) {
        self.fire_data(path, event::NODE_DATA_CHANGED, out);
    }

    /// Data watches at `path` and recursive ones above it; the one-shot ones are used up.
    fn fire_data(&mut self, path: &str, kind: i32, out: &mut Vec<Fired>) {
        let mut found = std::mem::take(&mut self.found);
        if let Some(at) = self.find(path) {
            self.consume(at, DATA_TABLE, DATA, &mut found);
        }
        self.find_recursive_above(path, &mut found);
        out.extend(found.drain(..).map(|conn| Fired { conn: ConnId(conn), kind }));
        self.found = found;
    }

    /// Child watches at `path`; the one-shot ones are used up even for those in `told` (sorted), who hear nothing.
    fn fire_child(&mut self, path: &str, kind: i32, told: &[u64], out: &mut Vec<Fired>) {
        let Some(at) = self.find(path) else { return };
        let mut found = std::mem::take(&mut self.found);
        self.consume(at, CHILD_TABLE, CHILD, &mut found);
        found.retain(|conn| told.binary_search(conn).is_err());
        out.extend(found.drain(..).map(|conn| Fired { conn: ConnId(conn), kind }));
        self.found = found;
    }

    fn consume(&mut self, at: u32, table: u8, one_shot: u8, found: &mut Vec<u64>) {
        self.paths.get(at).watchers.collect(table, found);
        for conn in found.iter() {
            // The last connection to go takes the path with it.
            let have = if self.paths.contains(at) { self.paths.get(at).watchers.get(*conn) } else { 0 };
            if have & one_shot != 0 && !crate::mutant!(M72) {
                self.set(at, *conn, have & !one_shot);
            }
        }
    }

    /// Only prefixes as long as some recursive watch are looked up: one, two or three lengths in practice. Nothing is
    /// below the empty path, which can be watched too.
    fn find_recursive_above(&self, path: &str, found: &mut Vec<u64>) {
        let at_node = found.len();
        for len in self.recursive.keys().copied().filter(|len| *len > 0).take_while(|len| *len < path.len()) {
            if (len == 1 || path.as_bytes()[len] == b'/')
                && let Some(at) = self.find(&path[..len])
            {
                self.paths.get(at).watchers.collect(RECURSIVE, found);
            }
        }
        if found.len() > at_node {
            found.sort_unstable();
            found.dedup();
        }
    }

    fn find(&self, path: &str) -> Option<u32> {
        let hash = path::hash(path) as u32;
        self.index.find(hash, |at| self.paths.get(at).hash == hash && *self.paths.get(at).path == *path)
    }

    fn add_path(&mut self, path: &str) -> u32 {
        let hash = path::hash(path) as u32;
        let at = self.paths.insert(Watched { path: path.into(), hash, data: 0, watchers: Watchers::default() });
        self.index.insert(hash, at, |at| self.paths.get(at).hash);
        at
    }

    /// The one place where a watch changes: keeps both directions and all counts together.
    fn set(&mut self, at: u32, conn: u64, modes: u8) {
        let watched = self.paths.get_mut(at);
        let old = watched.watchers.get(conn);
        watched.watchers.set(conn, modes);
        self.count(at, conn, old, modes);
        let watching = self.conns.get_mut(&conn).expect("counted a moment ago");
        if modes == 0 {
            watching.paths.remove(&at);
        } else if old == 0 {
            watching.paths.insert(at);
        }
        if watching.paths.is_empty() {
            self.conns.remove(&conn);
        }
        if self.paths.get(at).watchers.is_empty() {
            let watched = self.paths.remove(at);
            self.index.remove(watched.hash, at);
        }
    }

    fn count(&mut self, at: u32, conn: u64, old: u8, new: u8) {
        let (watched, watching) = (self.paths.get_mut(at), self.conns.entry(conn).or_default());
        match (old & DATA_TABLE != 0, new & DATA_TABLE != 0) {
            (false, true) => {
                self.data.watches += 1;
                self.data.paths += usize::from(watched.data == 0);
                self.data.conns += usize::from(watching.data == 0);
                (watched.data, watching.data) = (watched.data + 1, watching.data + 1);
            }
            (true, false) => {
                self.data.watches -= 1;
                (watched.data, watching.data) = (watched.data - 1, watching.data - 1);
                self.data.paths -= usize::from(watched.data == 0);
                self.data.conns -= usize::from(watching.data == 0);
            }
            _ => {}
        }
        self.child_watches += usize::from(new & CHILD_TABLE != 0);
        self.child_watches -= usize::from(old & CHILD_TABLE != 0);
        if (old ^ new) & RECURSIVE != 0 {
            let len = watched.path.len();
            let held = self.recursive.entry(len).or_default();
            *held = if new & RECURSIVE != 0 { *held + 1 } else { *held - 1 };
            if *held == 0 {
                self.recursive.remove(&len);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.conns.is_empty()
    }

    /// Connections times paths in both tables, as ZooKeeper's `watch_count`: a persistent watch counts twice.
    pub fn watch_count(&self) -> usize {
        self.data.watches + self.child_watches
    }

    /// Paths that this connection watches, in whatever way.
    pub fn watched_by(&self, conn: ConnId) -> usize {
        self.conns.get(&conn.0).map_or(0, |watching| watching.paths.len())
    }

    /// Counts of the data table: what `wchs` shows.
    pub fn data_watches(&self) -> DataWatches {
        self.data
    }

    /// Every data watch as (connection, path), by connection: what `wchc` and `wchp` show.
    pub fn for_each_data(&self, mut visit: impl FnMut(ConnId, &str)) {
        for (conn, watching) in &self.conns {
            for watched in watching.paths.iter().map(|at| self.paths.get(*at)) {
                if watched.watchers.get(*conn) & DATA_TABLE != 0 {
                    visit(ConnId(*conn), &watched.path);
                }
            }
        }
    }
}
