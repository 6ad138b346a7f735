//! The watches of one connection as its server must keep them: which events are due, in which order, computed from the
//! committed changes between the zxids of two frames. Refuses to forgive: an event too many, too late, or of another
//! kind is a violation.

use super::violated;
use crate::sim::ask::WatchLists;
use crate::sim::model::access::{READ, permits};
use crate::sim::model::{Ids, Model, Notice, NoticeKind, parent};
use crate::wire::record::event;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Ways to watch a path. ZooKeeper keeps two tables; a persistent watch stands in both.
const DATA: u8 = 1;
const CHILD: u8 = 2;
const PERSISTENT: u8 = 4;
const RECURSIVE: u8 = 8;

/// What a request registers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Data,
    Child,
    Persistent,
    Recursive,
}

/// An event that must come, or (when it is not certain which identities the server knew) may come.
#[derive(Debug)]
struct Due {
    zxid: u64,
    kind: i32,
    path: Rc<str>,
    must: bool,
}

/// See the module heading.
pub struct Watching {
    paths: BTreeMap<Rc<str>, u8>,
    recursive: usize,
    due: VecDeque<Due>,
    /// What would be due if it could be read.
    hidden: Vec<(u64, Rc<str>)>,
    /// Everything up to here is in `due` already.
    upto: u64,
    /// The number of the first notice after it, while anything is watched.
    next_notice: u64,
    /// Events without a zxid, which a setWatches produces before its reply.
    caught_up: Vec<(i32, String)>,
    ids: Ids,
    /// What the identities were before the last auth reply, while the zxid at which they changed is not known.
    ids_before: Option<Ids>,
}

impl Watching {
    pub fn new(ids: Ids) -> Watching {
        Watching {
            paths: BTreeMap::new(),
            recursive: 0,
            due: VecDeque::new(),
            hidden: Vec::new(),
            upto: 0,
            next_notice: 0,
            caught_up: Vec::new(),
            ids,
            ids_before: None,
        }
    }

    /// An auth reply arrived: events sent from now on are filtered by these identities.
    pub fn authenticated(&mut self, ids: Ids) {
        let before = std::mem::replace(&mut self.ids, ids);
        self.ids_before.get_or_insert(before);
    }

    /// The server is at `zxid` at least: collects what is due by then.
    pub fn advance(&mut self, model: &Model, zxid: u64) {
        while !self.paths.is_empty()
            && let Some(notice) = model.notice_at(self.next_notice)
            && notice.zxid <= zxid
        {
            self.next_notice += 1;
            self.trigger(notice);
        }
        self.upto = self.upto.max(zxid);
        self.ids_before = None;
    }

    fn trigger(&mut self, notice: &Notice) {
        let path = &notice.path;
        let (kind, child) = match notice.kind {
            NoticeKind::Created => (event::NODE_CREATED, true),
            NoticeKind::Deleted => (event::NODE_DELETED, true),
            NoticeKind::Changed => (event::NODE_DATA_CHANGED, false),
        };
        let above = self.recursive > 0 && self.recursive_above(path);
        let told = self.consume(path, DATA | PERSISTENT | RECURSIVE, DATA) || above;
        let told_of_children = kind == event::NODE_DELETED && self.consume(path, CHILD | PERSISTENT, CHILD);
        if told || told_of_children {
            self.owe(notice.zxid, kind, path, &notice.acl);
        }
        if child
            && let Some(parent) = parent(path)
            && self.consume(parent, CHILD | PERSISTENT, CHILD)
        {
            self.owe(notice.zxid, event::NODE_CHILDREN_CHANGED, parent, &notice.parent_acl);
        }
    }

    /// Whether `path` is watched in one of `modes`; the one-shot one is used up.
    fn consume(&mut self, path: &str, modes: u8, one_shot: u8) -> bool {
        let Some(have) = self.paths.get_mut(path) else { return false };
        let found = *have & modes != 0;
        *have &= !one_shot;
        if *have == 0 {
            self.paths.remove(path);
        }
        found
    }

    fn recursive_above(&self, path: &str) -> bool {
        std::iter::successors(parent(path), |above| parent(above)).any(|above| self.paths.get(above).is_some_and(|m| m & RECURSIVE != 0))
    }

    fn owe(&mut self, zxid: u64, kind: i32, path: &str, acl: &[crate::wire::record::Acl]) {
        let must = permits(acl, self.ids_before.as_ref().unwrap_or(&self.ids), READ);
        if must || permits(acl, &self.ids, READ) {
            self.due.push_back(Due { zxid, kind, path: path.into(), must });
        } else {
            self.hidden.push((zxid, path.into()));
        }
    }

    /// An event arrived. The caller has advanced to its zxid.
    pub fn event(&mut self, zxid: u64, kind: i32, path: &str) {
        while let Some(due) = self.due.pop_front() {
            if due.zxid == zxid && due.kind == kind && *due.path == *path {
                return;
            }
            if due.must {
                let id = if due.zxid < zxid && *due.path != *path { "W7" } else { "W4" };
                violated(id, format_args!("event {kind} of {path} at 0x{zxid:x} came, due was {due:?}"));
            }
        }
        let hidden = self.hidden.iter().any(|(at, of)| *at == zxid && **of == *path);
        let (id, why) = if hidden { ("W6", "it may not be read") } else { ("W2", "nothing watches it, or not any more") };
        violated(id, format_args!("event {kind} of {path} at 0x{zxid:x} is not due: {why}"));
    }

    /// An event without a zxid arrived.
    pub fn catch_up(&mut self, kind: i32, path: &str) {
        self.caught_up.push((kind, path.into()));
    }

    /// Whatever is due up to here must have come.
    pub fn none_due(&mut self, id: &str, zxid: u64) {
        if let Some(due) = self.due.iter().find(|due| due.must) {
            violated(id, format_args!("0x{zxid:x} was shown, an event due before did not come: {due:?}"));
        }
        self.due.clear();
        self.hidden.clear();
        if let Some((kind, path)) = self.caught_up.first() {
            violated("W3", format_args!("event {kind} of {path} catches up with nothing"));
        }
    }

    /// A registration took effect at the zxid that was advanced to.
    pub fn register(&mut self, model: &Model, path: &str, mode: Mode) {
        if self.paths.is_empty() {
            self.next_notice = model.notices_after(self.upto);
        }
        let bit = match mode {
            Mode::Data => DATA,
            Mode::Child => CHILD,
            Mode::Persistent => PERSISTENT,
            Mode::Recursive => RECURSIVE,
        };
        let have = self.paths.entry(path.into()).or_default();
        self.recursive += usize::from(bit == RECURSIVE && *have & RECURSIVE == 0);
        *have |= bit;
    }

    /// The modes that a WatcherType of the protocol names.
    fn named(kind: i32) -> u8 {
        match kind {
            1 => CHILD,
            2 => DATA,
            3 => DATA | CHILD | PERSISTENT | RECURSIVE,
            4 => PERSISTENT,
            5 => RECURSIVE,
            _ => 0,
        }
    }

    /// Whether the path is watched in a mode that `kind` names.
    pub fn has(&self, path: &str, kind: i32) -> bool {
        self.paths.get(path).is_some_and(|have| have & Watching::named(kind) != 0)
    }

    /// Forgets what `kind` names. False: there was nothing.
    pub fn remove(&mut self, path: &str, kind: i32) -> bool {
        if !self.has(path, kind) {
            return false;
        }
        let have = self.paths.get_mut(path).expect("just seen");
        let named = Watching::named(kind);
        self.recursive -= usize::from(*have & named & RECURSIVE != 0);
        *have &= !named;
        if *have == 0 {
            self.paths.remove(path);
        }
        true
    }

    /// The reply to a setWatches answered at the zxid advanced to: what it must have told before, and what it left armed.
    pub fn set(&mut self, model: &Model, lists: &WatchLists) -> usize {
        let zxid = self.upto;
        let mut told = Vec::new();
        let mut arm = Vec::new();
        let since = lists.relative_zxid;
        let at = |path: &str| model.changed_at(if path.is_empty() { "/" } else { path }, zxid);
        for path in &lists.data {
            match at(path) {
                None => told.push((event::NODE_DELETED, path.clone())),
                Some((mzxid, _)) if mzxid > since => told.push((event::NODE_DATA_CHANGED, path.clone())),
                Some(_) => arm.push((path, Mode::Data)),
            }
        }
        for path in &lists.exist {
            match at(path) {
                Some(_) => told.push((event::NODE_CREATED, path.clone())),
                None => arm.push((path, Mode::Data)),
            }
        }
        for path in &lists.child {
            match at(path) {
                None => told.push((event::NODE_DELETED, path.clone())),
                Some((_, pzxid)) if pzxid > since => told.push((event::NODE_CHILDREN_CHANGED, path.clone())),
                Some(_) => arm.push((path, Mode::Child)),
            }
        }
        arm.extend(lists.persistent.iter().map(|path| (path, Mode::Persistent)));
        arm.extend(lists.recursive.iter().map(|path| (path, Mode::Recursive)));
        let came = std::mem::take(&mut self.caught_up);
        if came != told {
            violated("W3", format_args!("{lists:?} at 0x{zxid:x} must tell {told:?}, it told {came:?}"));
        }
        arm.into_iter().for_each(|(path, mode)| self.register(model, path, mode));
        told.len()
    }
}
