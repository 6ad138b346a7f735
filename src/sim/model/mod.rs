//! The reference: the tree and its sessions as a client of ZooKeeper may expect them, written from the contract and
//! apart from the server. Every node keeps its versions by zxid, so that a read is judged by what was there at the zxid
//! of its reply; what no reply can name any more is forgotten.
//!
//! Refuses quotas and limits (the simulator's clients do not reach for them), and to be asked about the future.

pub mod access;
mod read;
mod write;

pub use write::{Change, Outcome};

use crate::wire::record::{Acl, Id, Stat};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// The identities of a connection at one moment.
pub type Ids = Rc<[Id]>;
/// A stored access control list.
pub type AclList = Rc<[Acl]>;

/// The owner field of containers, and the mark of TTL nodes, whose low 40 bits are the time to live in ms.
const CONTAINER: i64 = i64::MIN;
const TTL_MARK: i64 = 0xff00_0000_0000_0000_u64 as i64;
const TTL_MS_MAX: i64 = 0xff_ffff_ffff;

/// A node as of one zxid.
#[derive(Clone, Debug)]
struct Version {
    data: Option<Rc<[u8]>>,
    acl: AclList,
    owner: i64,
    /// Children ever created.
    creates: u32,
    stat: Stat,
}

/// A path: what was there, by zxid. Paths never change their place, so children survive as names.
#[derive(Default)]
struct Node {
    versions: VecDeque<(u64, Option<Version>)>,
    children: BTreeSet<Rc<str>>,
    /// Children that came (true) and went, to look back from `children`.
    child_log: VecDeque<(u64, Rc<str>, bool)>,
}

/// A session, open or not.
#[derive(Debug)]
pub struct Session {
    pub timeout_ms: i32,
    pub password: [u8; 16],
    /// The zxid that closed it.
    pub closed: Option<u64>,
    ephemerals: BTreeSet<Rc<str>>,
    log: VecDeque<(u64, Rc<str>, bool)>,
}

/// What watches hear of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoticeKind {
    Created,
    Deleted,
    Changed,
}

/// One change, with the lists that decide who may hear of it.
#[derive(Clone, Debug)]
pub struct Notice {
    pub zxid: u64,
    pub kind: NoticeKind,
    pub path: Rc<str>,
    pub acl: AclList,
    pub parent_acl: AclList,
}

/// Who asks.
#[derive(Clone, Copy)]
pub struct Asker<'a> {
    pub session: i64,
    pub ids: &'a [Id],
}

enum Touched {
    Path(Rc<str>),
    Session(i64),
}

/// The reference. See the module heading.
pub struct Model {
    nodes: BTreeMap<Rc<str>, Node>,
    sessions: BTreeMap<i64, Session>,
    zxid: u64,
    time_ms: i64,
    notices: VecDeque<Notice>,
    /// How many notices were dropped before the first one kept.
    notices_before: u64,
    touched: Vec<Touched>,
    /// What holds something of this zxid that `forget` may drop one day.
    stale: VecDeque<(u64, Touched)>,
    forgotten: u64,
    open: AclList,
}

/// The path one level up; None for the root and for what is no path.
pub fn parent(path: &str) -> Option<&str> {
    match path.rfind('/')? {
        0 => (path.len() > 1).then_some("/"),
        at => Some(&path[..at]),
    }
}

fn name(path: &str) -> &str {
    &path[path.rfind('/').map_or(0, |at| at + 1)..]
}

impl Default for Model {
    fn default() -> Model {
        Model::new()
    }
}

impl Model {
    /// The tree before the first transaction.
    pub fn new() -> Model {
        let world = |perms| AclList::from([Acl { perms, scheme: "world".into(), id: "anyone".into() }]);
        let mut model = Model {
            nodes: BTreeMap::new(),
            sessions: BTreeMap::new(),
            zxid: 0,
            time_ms: 0,
            notices: VecDeque::new(),
            notices_before: 0,
            touched: Vec::new(),
            stale: VecDeque::new(),
            forgotten: 0,
            open: world(31),
        };
        for (path, acl, aversion, children) in [
            ("/", model.open.clone(), 0, 1),
            ("/zookeeper", model.open.clone(), 0, 2),
            ("/zookeeper/quota", model.open.clone(), 0, 0),
            ("/zookeeper/config", world(1), -1, 0),
        ] {
            let stat = Stat { aversion, num_children: children, cversion: -children, ..Stat::default() };
            let version = Version { data: Some(Rc::from([])), acl, owner: 0, creates: 0, stat };
            let node = Node { versions: VecDeque::from([(0, Some(version))]), ..Node::default() };
            model.nodes.insert(path.into(), node);
            if let Some(above) = parent(path) {
                model.nodes.get_mut(above).expect("just made").children.insert(name(path).into());
            }
        }
        model
    }

    pub fn zxid(&self) -> u64 {
        self.zxid
    }

    /// The next transaction. Everything until the next call happens at this zxid and time.
    pub fn begin(&mut self, zxid: u64, time_ms: i64) {
        (self.zxid, self.time_ms) = (zxid, time_ms);
        self.settle();
    }

    pub fn session(&self, id: i64) -> Option<&Session> {
        self.sessions.get(&id)
    }

    pub fn is_open(&self, session: i64) -> bool {
        self.sessions.get(&session).is_some_and(|s| s.closed.is_none())
    }

    pub fn open_sessions(&self) -> impl Iterator<Item = (i64, &Session)> {
        self.sessions.iter().filter(|(_, s)| s.closed.is_none()).map(|(id, s)| (*id, s))
    }

    /// False: the id was used before.
    #[must_use]
    pub fn create_session(&mut self, id: i64, timeout_ms: i32, password: [u8; 16]) -> bool {
        let session = Session { timeout_ms, password, closed: None, ephemerals: BTreeSet::new(), log: VecDeque::new() };
        self.sessions.insert(id, session).is_none()
    }

    /// The session gets another timeout.
    pub fn attach_session(&mut self, id: i64, timeout_ms: i32) {
        self.sessions.get_mut(&id).expect("the caller has looked").timeout_ms = timeout_ms;
    }

    /// The session ends and its ephemerals go, in the order of their paths.
    pub fn close_session(&mut self, id: i64) {
        let session = self.sessions.get_mut(&id).expect("the caller has looked");
        session.closed = Some(self.zxid);
        for path in session.ephemerals.clone() {
            self.remove(&path);
        }
    }

    /// What is there now.
    fn now(&self, path: &str) -> Option<&Version> {
        self.nodes.get(path)?.versions.back()?.1.as_ref()
    }

    /// What was there at `zxid`.
    fn at(&self, path: &str, zxid: u64) -> Option<&Version> {
        debug_assert!(zxid >= self.forgotten);
        let versions = &self.nodes.get(path)?.versions;
        versions.iter().rev().find(|(at, _)| *at <= zxid)?.1.as_ref()
    }

    /// The parent of `path` as it is: its own zxid of creation and its count of creates.
    pub fn parent_counter(&self, path: &str) -> Option<(u64, u32)> {
        self.now(parent(path)?).map(|v| (v.stat.czxid as u64, v.creates))
    }

    /// The session that an ephemeral node which is there belongs to.
    pub fn owner(&self, path: &str) -> Option<i64> {
        self.now(path).map(|v| v.owner)
    }

    /// What the node that is there holds.
    pub fn data(&self, path: &str) -> Option<&[u8]> {
        self.now(path)?.data.as_deref()
    }

    /// The zxid that created the node that is there.
    pub fn created_at(&self, path: &str) -> Option<u64> {
        self.now(path).map(|v| v.stat.czxid as u64)
    }

    /// Every node that is there, in the order of paths: path, data, Stat, list, raw owner.
    pub fn each(&self, mut visit: impl FnMut(&str, Option<&[u8]>, &Stat, &[Acl], i64)) {
        for (path, node) in &self.nodes {
            if let Some((_, Some(v))) = node.versions.back() {
                visit(path, v.data.as_deref(), &v.stat, &v.acl, v.owner);
            }
        }
    }

    /// Names of the children that are there, in their order.
    pub fn children(&self, path: &str) -> impl Iterator<Item = &str> {
        self.nodes.get(path).into_iter().flat_map(|node| &node.children).map(|name| &**name)
    }

    /// mzxid and pzxid of the node that was there at `zxid`.
    pub fn changed_at(&self, path: &str, zxid: u64) -> Option<(u64, u64)> {
        self.at(path, zxid).map(|v| (v.stat.mzxid as u64, v.stat.pzxid as u64))
    }

    /// Whether the server may remove the node by itself now: an empty container that was used, or a TTL that ran out.
    pub fn may_reap(&self, path: &str) -> bool {
        self.now(path).is_some_and(|v| {
            let due = match v.owner {
                CONTAINER => v.creates > 0,
                owner if owner & !TTL_MS_MAX == TTL_MARK => v.stat.mtime + (owner & TTL_MS_MAX) < self.time_ms,
                _ => false,
            };
            due && v.stat.num_children == 0
        })
    }

    fn put(&mut self, path: &Rc<str>, version: Option<Version>) {
        if !self.nodes.contains_key(path) {
            self.nodes.insert(path.clone(), Node::default());
        }
        let node = self.nodes.get_mut(path).expect("just made");
        match node.versions.back_mut() {
            Some((zxid, current)) if *zxid == self.zxid => *current = version,
            _ => {
                node.versions.push_back((self.zxid, version));
                self.touched.push(Touched::Path(path.clone()));
            }
        }
    }

    /// A child came or went: the parent's counters and its set of children.
    fn child(&mut self, path: &Rc<str>, came: bool) {
        let above = parent(path).expect("a node's path has a parent");
        let mut version = self.now(above).expect("a node's parent exists").clone();
        version.creates += u32::from(came);
        version.stat.num_children += if came { 1 } else { -1 };
        version.stat.cversion = (version.creates as i32).wrapping_mul(2).wrapping_sub(version.stat.num_children);
        version.stat.pzxid = self.zxid as i64;
        let (above, _) = self.nodes.get_key_value(above).expect("just seen");
        let above = above.clone();
        self.put(&above, Some(version));
        let (node, name) = (self.nodes.get_mut(&above).expect("just seen"), Rc::<str>::from(name(path)));
        match came {
            true => node.children.insert(name.clone()),
            false => node.children.remove(&name),
        };
        node.child_log.push_back((self.zxid, name, came));
    }

    fn owned(&mut self, owner: i64, path: &Rc<str>, came: bool) {
        let Some(session) = self.sessions.get_mut(&owner) else { return };
        match came {
            true => session.ephemerals.insert(path.clone()),
            false => session.ephemerals.remove(path),
        };
        session.log.push_back((self.zxid, path.clone(), came));
        self.touched.push(Touched::Session(owner));
    }

    fn notice(&mut self, kind: NoticeKind, path: &Rc<str>) {
        let acl = self.now(path).expect("told before it goes and after it came").acl.clone();
        let parent_acl = parent(path).and_then(|above| self.now(above)).map_or(acl.clone(), |v| v.acl.clone());
        self.notices.push_back(Notice { zxid: self.zxid, kind, path: path.clone(), acl, parent_acl });
    }

    fn remove(&mut self, path: &Rc<str>) {
        self.notice(NoticeKind::Deleted, path);
        let owner = self.now(path).expect("the caller has looked").owner;
        self.child(path, false);
        self.put(path, None);
        self.owned(owner, path, false);
    }

    /// The transaction stands.
    fn settle(&mut self) {
        for touched in self.touched.drain(..) {
            self.stale.push_back((self.zxid, touched));
        }
    }

    /// Takes back everything of the transaction at work.
    fn take_back(&mut self) {
        let zxid = self.zxid;
        for touched in std::mem::take(&mut self.touched) {
            match touched {
                Touched::Path(path) => {
                    let node = self.nodes.get_mut(&path).expect("it was touched");
                    while node.versions.pop_back_if(|(at, _)| *at == zxid).is_some() {}
                    undo(&mut node.children, &mut node.child_log, |at| at == zxid);
                    if node.versions.is_empty() {
                        self.nodes.remove(&path);
                    }
                }
                Touched::Session(id) => {
                    let session = self.sessions.get_mut(&id).expect("it was touched");
                    undo(&mut session.ephemerals, &mut session.log, |at| at == zxid);
                }
            }
        }
        while self.notices.pop_back_if(|notice| notice.zxid == zxid).is_some() {}
    }

    /// The number of the first notice after `zxid`, for [`Model::notice_at`].
    pub fn notices_after(&self, zxid: u64) -> u64 {
        self.notices_before + self.notices.partition_point(|notice| notice.zxid <= zxid) as u64
    }

    pub fn notice_at(&self, number: u64) -> Option<&Notice> {
        self.notices.get(number.checked_sub(self.notices_before).expect("not forgotten") as usize)
    }

    /// No reply with a zxid below `before` will be judged any more.
    pub fn forget(&mut self, before: u64) {
        self.forgotten = self.forgotten.max(before);
        while let Some((_, touched)) = self.stale.pop_front_if(|(zxid, _)| *zxid <= before) {
            match touched {
                Touched::Path(path) => {
                    let Some(node) = self.nodes.get_mut(&path) else { continue };
                    while node.versions.get(1).is_some_and(|(zxid, _)| *zxid <= before) {
                        node.versions.pop_front();
                    }
                    while node.child_log.pop_front_if(|(zxid, ..)| *zxid <= before).is_some() {}
                    if matches!(node.versions.front(), Some((zxid, None)) if node.versions.len() == 1 && *zxid <= before) {
                        self.nodes.remove(&path);
                    }
                }
                Touched::Session(id) => {
                    let session = self.sessions.get_mut(&id).expect("sessions are never removed");
                    while session.log.pop_front_if(|(zxid, ..)| *zxid <= before).is_some() {}
                }
            }
        }
        while self.notices.pop_front_if(|notice| notice.zxid <= before).is_some() {
            self.notices_before += 1;
        }
    }
}

/// Takes the newest entries of a log back from the set they led to.
fn undo(set: &mut BTreeSet<Rc<str>>, log: &mut VecDeque<(u64, Rc<str>, bool)>, which: impl Fn(u64) -> bool) {
    while let Some((_, name, came)) = log.pop_back_if(|(zxid, ..)| which(*zxid)) {
        match came {
            true => set.remove(&name),
            false => set.insert(name),
        };
    }
}

/// The set as it was at `zxid`.
fn set_at(set: &BTreeSet<Rc<str>>, log: &VecDeque<(u64, Rc<str>, bool)>, zxid: u64) -> BTreeSet<Rc<str>> {
    let mut set = set.clone();
    for (_, name, came) in log.iter().rev().take_while(|(at, ..)| *at > zxid) {
        match came {
            true => set.remove(name),
            false => set.insert(name.clone()),
        };
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::ask::Ask;
    use crate::wire::jute::Reader;
    use crate::wire::request::opcode;
    use crate::wire::response::code;

    const ME: Asker<'_> = Asker { session: 7, ids: &[] };

    fn create(path: &str, flags: i32) -> Ask {
        let acl = vec![Acl { perms: 31, scheme: "world".into(), id: "anyone".into() }];
        Ask::Create { op: opcode::CREATE, path: path.into(), data: Some(vec![1]), acl, flags, ttl_ms: 0 }
    }

    fn stat(model: &Model, zxid: u64, path: &str) -> Result<Stat, i32> {
        let record = model.read(zxid, ME, &Ask::Exists { path: path.into(), watch: false })?;
        Ok(Stat::decode(&mut Reader::new(&record)).unwrap())
    }

    fn children(model: &Model, zxid: u64, path: &str) -> i32 {
        let record = model.read(zxid, ME, &Ask::GetChildren { path: path.into(), watch: false }).unwrap();
        i32::from_be_bytes(record[..4].try_into().unwrap())
    }

    #[test]
    fn the_past_is_read_until_it_is_forgotten() {
        let mut model = Model::new();
        for (zxid, ask) in [
            (1, create("/a", 0)),
            (2, create("/a/x-", 2)),
            (3, Ask::SetData { path: "/a".into(), data: None, version: 0 }),
            (4, Ask::Delete { path: "/a/x-0000000000".into(), version: -1 }),
            (5, Ask::Delete { path: "/a".into(), version: 1 }),
        ] {
            model.begin(zxid, 100 + zxid as i64);
            assert!(matches!(model.execute(ME, &ask), Outcome::One(_)), "{ask:?}");
        }
        model.begin(6, 106);
        assert_eq!(stat(&model, 0, "/a"), Err(code::NO_NODE));
        assert_eq!([1, 2, 3, 4].map(|zxid| children(&model, zxid, "/a")), [0, 1, 1, 0]);
        let a = stat(&model, 4, "/a").unwrap();
        assert_eq!((a.czxid, a.mzxid, a.pzxid, a.version, a.cversion, a.mtime), (1, 3, 4, 1, 2, 103));
        assert_eq!((stat(&model, 5, "/a"), children(&model, 5, "/")), (Err(code::NO_NODE), 1));
        model.forget(5);
        assert_eq!((stat(&model, 5, "/a"), children(&model, 5, "/")), (Err(code::NO_NODE), 1));
        model.begin(7, 107);
        model.forget(6);
        assert_eq!(model.nodes.len(), 4);
        assert!(model.stale.is_empty() && model.notices.is_empty());
    }

    #[test]
    fn a_multi_that_fails_leaves_nothing() {
        let mut model = Model::new();
        assert!(model.create_session(7, 1000, [0; 16]));
        model.begin(1, 1);
        let asks = vec![create("/a", 1), create("/b", 0), create("/b/c", 0), create("/a/x", 0), create("/d", 0)];
        let Outcome::MultiError(codes) = model.execute(ME, &Ask::Multi(asks)) else { panic!("an ephemeral has no children") };
        assert_eq!(codes, [0, 0, 0, code::NO_CHILDREN_FOR_EPHEMERALS, code::RUNTIME_INCONSISTENCY]);
        assert_eq!((model.nodes.len(), model.notices.len(), children(&model, 1, "/")), (4, 0, 1));
        assert!(model.sessions[&7].ephemerals.is_empty() && model.sessions[&7].log.is_empty());
        assert_eq!(stat(&model, 1, "/").unwrap(), stat(&Model::new(), 0, "/").unwrap());
    }
}
