//! A naive state to compare with: strings in a map, everything derived on demand, and a prepare that turns arbitrary
//! wishes into transactions that fit. For tests only; refuses to be fast.

use super::*;
use crate::limits::BATCH_BYTES_POOLED;
use crate::wire::aligned::AlignedBuf;
use crate::wire::batch::{Batch, BatchBuilder};
use crate::wire::record::{Acl, Stat};
use crate::wire::txn::{AclRef, Change, Op, Origin, Txn};
use owner::Owner;
use proptest::prelude::*;

/// What a random client wants; numbers pick among what exists.
#[derive(Clone, Debug)]
pub(super) enum Wish {
    Create { parent: usize, name: u16, data: Option<Vec<u8>>, acl: usize, owner: usize },
    Delete { node: usize },
    DeleteTree { node: usize },
    SetData { node: usize, data: Option<Vec<u8>> },
    SetAcl { node: usize, acl: usize },
    Multi(Vec<Wish>),
    CreateSession,
    Attach { session: usize },
    Close { session: usize },
    Refused,
}

/// What watches would be told.
type Notice = (ChangeKind, String);

/// A transaction that owns its strings.
#[derive(Clone, Debug)]
pub(super) enum OwnedChange {
    Create { path: String, data: Option<Vec<u8>>, acl: usize, owner: i64, parent_creates: u32 },
    Delete { path: String },
    DeleteTree { path: String },
    SetData { path: String, data: Option<Vec<u8>>, version: i32 },
    SetAcl { path: String, acl: usize, aversion: i32 },
    Check,
}

#[derive(Clone, Debug)]
pub(super) enum OwnedOp {
    One(OwnedChange),
    Multi(Vec<OwnedChange>),
    CreateSession(i64),
    Attach(i64),
    Close(i64),
    Error,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct ModelNode {
    pub(super) data: Option<Vec<u8>>,
    pub(super) acl: Vec<Acl>,
    pub(super) stat: Stat,
    creates: u32,
    owner: i64,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Model {
    pub(super) nodes: BTreeMap<String, ModelNode>,
    pub(super) sessions: BTreeMap<i64, (i32, Origin)>,
    pub(super) zxid: u64,
    next_session: i64,
}

pub(super) const PASSWORD: [u8; 16] = *b"0123456789abcdef";

fn acls(pick: usize) -> Vec<Acl> {
    let acl = |perms, scheme: &str, id: &str| Acl { perms, scheme: scheme.into(), id: id.into() };
    match pick % 4 {
        0 => vec![acl(31, "world", "anyone")],
        1 => vec![acl(1, "world", "anyone")],
        2 => vec![acl(31, "digest", "bob:x"), acl(1, "ip", "10.0.0.1")],
        _ => vec![acl(1, "ip", "10.0.0.1"), acl(31, "digest", "bob:x")],
    }
}

fn origin(zxid: u64) -> Origin {
    Origin { conn: zxid * 3, sequence: zxid as u32, boot: 1, server: 2, shard: 3 }
}

pub(super) fn time_ms(zxid: u64) -> i64 {
    1_700_000_000_000 + (zxid as u32 as i64) * 10
}

impl Model {
    pub(super) fn new() -> Model {
        let mut model = Model { next_session: 0x100, zxid: 1 << 32, ..Model::default() };
        for (path, acl, aversion, children) in
            [("/", 0, 0, 1), ("/zookeeper", 0, 0, 2), ("/zookeeper/quota", 0, 0, 0), ("/zookeeper/config", 1, -1, 0)]
        {
            let stat = Stat { aversion, num_children: children, cversion: -children, ..Stat::default() };
            model.nodes.insert(path.into(), ModelNode { data: Some(vec![]), acl: acls(acl), stat, creates: 0, owner: 0 });
        }
        model
    }

    fn pick_path(&self, pick: usize) -> String {
        self.nodes.keys().nth(pick % self.nodes.len()).unwrap().clone()
    }

    fn pick_session(&self, pick: usize) -> Option<i64> {
        self.sessions.keys().nth(pick.checked_rem(self.sessions.len())?).copied()
    }

    fn refresh(&mut self, path: &str) {
        let prefix = if path == "/" { "/".into() } else { format!("{path}/") };
        let count =
            self.nodes.keys().filter(|p| p.len() > prefix.len() && p.starts_with(&prefix) && !p[prefix.len()..].contains('/')).count();
        let node = self.nodes.get_mut(path).unwrap();
        node.stat.num_children = count as i32;
        node.stat.cversion = (node.creates * 2) as i32 - count as i32;
        node.stat.data_length = node.data.as_ref().map_or(0, Vec::len) as i32;
        node.stat.ephemeral_owner = if let Owner::Session(id) = Owner::of(node.owner) { id } else { 0 };
    }

    /// What goes with a node, in the order in which it goes.
    fn subtree(&self, root: &str) -> Vec<String> {
        let below = |p: &&String| p.strip_prefix(root).is_some_and(|rest| rest.starts_with('/') && !rest[1..].contains('/'));
        let children: Vec<&String> = self.nodes.keys().filter(below).collect();
        children.into_iter().flat_map(|child| self.subtree(child)).chain([root.to_owned()]).collect()
    }

    /// Decides and carries out a wish; None if it cannot be had.
    fn change(&mut self, wish: &Wish) -> Option<(OwnedChange, OpResult, Vec<Notice>)> {
        let (zxid, now) = (self.zxid + 1, time_ms(self.zxid + 1));
        match wish {
            Wish::Create { parent, name, data, acl, owner } => {
                let parent_path = self.pick_path(*parent);
                let long = if *name == 0 { "x".repeat(1500) } else { String::new() };
                let path = format!("{}/n{name}{long}", if parent_path == "/" { "" } else { &parent_path });
                let owner = match owner % 8 {
                    0 | 1 => self.pick_session(owner / 8).unwrap_or(0),
                    2 => Owner::Container.raw(),
                    3 => Owner::Ttl(1 + *owner as i64 % 200).raw(),
                    _ => 0,
                };
                let parent = &self.nodes[&parent_path];
                if matches!(Owner::of(parent.owner), Owner::Session(_)) || self.nodes.contains_key(&path) {
                    return None;
                }
                let zxid = zxid as i64;
                let stat = Stat { czxid: zxid, mzxid: zxid, pzxid: zxid, ctime: now, mtime: now, ..Stat::default() };
                self.nodes.insert(path.clone(), ModelNode { data: data.clone(), acl: acls(*acl), stat, creates: 0, owner });
                let parent = self.nodes.get_mut(&parent_path).unwrap();
                (parent.creates, parent.stat.pzxid) = (parent.creates + 1, zxid);
                let parent_creates = parent.creates;
                self.refresh(&path);
                self.refresh(&parent_path);
                let stat = Some(self.nodes[&path].stat);
                let change = OwnedChange::Create { path: path.clone(), data: data.clone(), acl: *acl, owner, parent_creates };
                Some((change, OpResult::Created { stat }, vec![(ChangeKind::Created, path)]))
            }
            Wish::Delete { node } => {
                let path = self.pick_path(*node);
                let special = path == "/" || path == "/zookeeper" || path == "/zookeeper/config" || path == "/zookeeper/quota";
                if special || self.nodes[&path].stat.num_children > 0 {
                    return None;
                }
                self.delete(&path);
                Some((OwnedChange::Delete { path: path.clone() }, OpResult::Deleted, vec![(ChangeKind::Deleted, path)]))
            }
            Wish::DeleteTree { node } => {
                let path = self.pick_path(*node);
                if path == "/" || path.starts_with("/zookeeper") {
                    return None;
                }
                let doomed = self.subtree(&path);
                doomed.iter().for_each(|path| self.delete(path));
                let changes = doomed.into_iter().map(|path| (ChangeKind::Deleted, path)).collect();
                Some((OwnedChange::DeleteTree { path }, OpResult::Deleted, changes))
            }
            Wish::SetData { node, data } => {
                let path = self.pick_path(*node);
                let node = self.nodes.get_mut(&path).unwrap();
                node.data = data.clone();
                node.stat.version += 1;
                (node.stat.mzxid, node.stat.mtime) = (zxid as i64, now);
                let version = node.stat.version;
                self.refresh(&path);
                let stat = self.nodes[&path].stat;
                let change = OwnedChange::SetData { path: path.clone(), data: data.clone(), version };
                Some((change, OpResult::DataSet { stat }, vec![(ChangeKind::DataChanged, path)]))
            }
            Wish::SetAcl { node, acl } => {
                let path = self.pick_path(*node);
                let node = self.nodes.get_mut(&path).unwrap();
                node.acl = acls(*acl);
                node.stat.aversion += 1;
                let stat = node.stat;
                Some((OwnedChange::SetAcl { path, acl: *acl, aversion: stat.aversion }, OpResult::AclSet { stat }, vec![]))
            }
            _ => Some((OwnedChange::Check, OpResult::Checked, vec![])),
        }
    }

    fn delete(&mut self, path: &str) {
        self.nodes.remove(path);
        let parent = path::parent(path).unwrap();
        self.nodes.get_mut(parent).unwrap().stat.pzxid = self.zxid as i64 + 1;
        self.refresh(parent);
    }

    /// Decides and carries out a wish: the transaction, and what applying it should report.
    pub(super) fn prepare(&mut self, wish: &Wish) -> Option<(OwnedOp, Vec<OpResult>, Vec<Notice>)> {
        let answer = match wish {
            Wish::Multi(wishes) => {
                let done: Vec<_> = wishes.iter().filter_map(|w| self.change(w)).collect();
                let changes = done.iter().flat_map(|d| d.2.clone()).collect();
                (OwnedOp::Multi(done.iter().map(|d| d.0.clone()).collect()), done.iter().map(|d| d.1).collect(), changes)
            }
            Wish::CreateSession => {
                self.next_session += 1;
                self.sessions.insert(self.next_session, (4000, origin(self.zxid + 1)));
                (OwnedOp::CreateSession(self.next_session), vec![], vec![])
            }
            Wish::Attach { session } => {
                let id = self.pick_session(*session)?;
                self.sessions.insert(id, (5000, origin(self.zxid + 1)));
                (OwnedOp::Attach(id), vec![], vec![])
            }
            Wish::Close { session } => {
                let id = self.pick_session(*session)?;
                self.sessions.remove(&id);
                let paths = self.ephemerals(id);
                paths.iter().for_each(|p| self.delete(p));
                (OwnedOp::Close(id), vec![], paths.into_iter().map(|p| (ChangeKind::Deleted, p)).collect())
            }
            Wish::Refused => (OwnedOp::Error, vec![OpResult::Error(-101)], vec![]),
            one => {
                let (change, result, changed) = self.change(one)?;
                (OwnedOp::One(change), vec![result], changed)
            }
        };
        self.zxid += 1;
        Some(answer)
    }

    fn ephemerals(&self, session: i64) -> Vec<String> {
        self.nodes.iter().filter(|(_, n)| n.owner == session).map(|(p, _)| p.clone()).collect()
    }

    /// Panics unless `state` is the same in everything that can be read.
    pub(super) fn assert_equals(&self, state: &State) {
        assert_eq!((state.node_count(), state.session_count()), (self.nodes.len(), self.sessions.len()));
        for (path, node) in &self.nodes {
            let found = state.find(path).unwrap_or_else(|| panic!("{path} is missing"));
            assert_eq!((found.data(), found.stat(), found.path()), (node.data.as_deref(), node.stat, path.clone()), "{path}");
            assert_eq!((state.acl(found.acl_id()), found.owner(), found.creates()), (&node.acl[..], node.owner, node.creates), "{path}");
            let prefix = if path == "/" { "/".into() } else { format!("{path}/") };
            let below: Vec<&str> = self.nodes.keys().filter(|p| p.len() > prefix.len()).filter_map(|p| p.strip_prefix(&prefix)).collect();
            assert_eq!(found.descendants() as usize, below.len());
            assert!(found.children().eq(below.iter().copied().filter(|p| !p.contains('/'))), "{path}");
        }
        for (id, (timeout_ms, owner)) in &self.sessions {
            let session = state.session(*id).unwrap();
            assert_eq!((session.timeout_ms, session.owner, session.password), (*timeout_ms, *owner, PASSWORD));
            assert_eq!(state.ephemerals(*id), self.ephemerals(*id));
        }
        self.assert_sums(state);
    }

    fn assert_sums(&self, state: &State) {
        let bytes: usize = self.nodes.iter().map(|(p, n)| p.len() + n.data.as_ref().map_or(0, Vec::len)).sum();
        let ephemerals = self.nodes.values().filter(|n| matches!(Owner::of(n.owner), Owner::Session(_))).count();
        assert_eq!((state.data_bytes(), state.ephemeral_count()), (bytes as u64, ephemerals));
        let empty =
            |owner: fn(Owner) -> bool| self.nodes.iter().filter(move |(_, n)| n.stat.num_children == 0 && owner(Owner::of(n.owner)));
        let containers: Vec<&String> = empty(|o| o == Owner::Container).filter(|(_, n)| n.creates > 0).map(|(p, _)| p).collect();
        assert_eq!(sorted(state.idle_containers()), containers.into_iter().cloned().collect::<Vec<_>>());
        let now = time_ms(self.zxid);
        let unused = empty(|o| o == Owner::Container).filter(|(_, n)| n.creates == 0 && n.stat.ctime < now - 50);
        assert_eq!(sorted(state.unused_containers(now - 50)), unused.map(|(p, _)| p.clone()).collect::<Vec<_>>());
        let expired = empty(|o| matches!(o, Owner::Ttl(_))).filter(|(_, n)| n.stat.mtime + (n.owner & owner::TTL_MS_MAX) < now);
        assert_eq!(sorted(state.expired_ttl(now)), expired.map(|(p, _)| p.clone()).collect::<Vec<_>>());
    }
}

fn sorted<'a>(nodes: impl Iterator<Item = NodeRef<'a>>) -> Vec<String> {
    let mut paths: Vec<String> = nodes.map(|n| n.path()).collect();
    paths.sort();
    paths
}

fn acl_refs(list: &[Acl]) -> Vec<AclRef<'_>> {
    list.iter().map(|a| AclRef { perms: a.perms as u32, scheme: &a.scheme, id: &a.id }).collect()
}

fn with_change<R>(change: &OwnedChange, then: impl FnOnce(Change<'_>) -> R) -> R {
    let pick = match change {
        OwnedChange::Create { acl, .. } | OwnedChange::SetAcl { acl, .. } => *acl,
        _ => 0,
    };
    let list = acls(pick);
    then(borrow(change, &list))
}

fn borrow<'a>(change: &'a OwnedChange, list: &'a [Acl]) -> Change<'a> {
    // The open list travels as None and, now and then, spelled out.
    let refs = |pick: usize| (!pick.is_multiple_of(8)).then(|| acl_refs(list));
    match change {
        OwnedChange::Create { path, data, acl, owner, parent_creates } => Change::Create {
            path,
            path_hash: path::hash(path),
            data: data.as_deref(),
            acl: refs(*acl),
            owner: *owner,
            parent_creates: *parent_creates,
            with_stat: true,
        },
        OwnedChange::Delete { path } => Change::Delete { path, path_hash: path::hash(path) },
        OwnedChange::DeleteTree { path } => Change::DeleteTree { path, path_hash: path::hash(path) },
        OwnedChange::SetData { path, data, version } => {
            Change::SetData { path, path_hash: path::hash(path), data: data.as_deref(), version: *version }
        }
        OwnedChange::SetAcl { path, acl, aversion } => {
            Change::SetAcl { path, path_hash: path::hash(path), acl: refs(*acl), aversion: *aversion }
        }
        OwnedChange::Check => Change::Check,
    }
}

/// One transaction in a batch of its own.
pub(super) fn batch_of(zxid: u64, op: &OwnedOp) -> Batch {
    let mut builder = BatchBuilder::default();
    let mut push = |session: i64, op: Op<'_>| {
        builder.push(&Txn { zxid, time_ms: time_ms(zxid), session, origin: origin(zxid), op }).unwrap();
    };
    match op {
        OwnedOp::One(change) => with_change(change, |c| push(1, Op::Change(c))),
        OwnedOp::Multi(changes) => {
            let lists: Vec<Vec<Acl>> = (0..4).map(acls).collect();
            let changes = changes.iter().map(|c| match c {
                OwnedChange::Create { acl, .. } | OwnedChange::SetAcl { acl, .. } => borrow(c, &lists[acl % 4]),
                _ => borrow(c, &[]),
            });
            push(1, Op::Multi(changes.collect()));
        }
        OwnedOp::CreateSession(id) => push(*id, Op::CreateSession { timeout_ms: 4000, password: PASSWORD }),
        OwnedOp::Attach(id) => push(*id, Op::AttachSession { timeout_ms: 5000 }),
        OwnedOp::Close(id) => push(*id, Op::CloseSession),
        OwnedOp::Error => push(1, Op::Error { code: -101 }),
    }
    builder.close(9, 0, 7, AlignedBuf::with_capacity(BATCH_BYTES_POOLED))
}

/// Applies one transaction and compares what it reports.
pub(super) fn apply_and_compare(state: &mut State, zxid: u64, op: &OwnedOp, results: &[OpResult], changes: &[Notice]) {
    let batch = batch_of(zxid, op);
    let mut applied = Applied::default();
    for txn in batch.txns() {
        state.apply(txn, &mut applied, Want { results: true, paths: true });
    }
    assert_eq!(applied.results, results);
    let seen: Vec<Notice> = applied.changes.iter().map(|c| (c.kind, c.path.to_string())).collect();
    assert_eq!(seen, changes);
    for change in &applied.changes {
        assert!(!state.acl(change.acl).is_empty() && !state.acl(change.parent_acl).is_empty());
    }
}

fn data() -> impl Strategy<Value = Option<Vec<u8>>> {
    let len = prop_oneof![3 => 0..100usize, 2 => 0..1100usize, 1 => 1000..6000usize];
    prop::option::weighted(0.9, (len, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]))
}

fn one_change() -> impl Strategy<Value = Wish> {
    let any = 0..1000usize;
    prop_oneof![
        6 => (any.clone(), 0..40u16, data(), 0..8usize, any.clone())
            .prop_map(|(parent, name, data, acl, owner)| Wish::Create { parent, name, data, acl, owner }),
        3 => any.clone().prop_map(|node| Wish::Delete { node }),
        1 => any.clone().prop_map(|node| Wish::DeleteTree { node }),
        3 => (any.clone(), data()).prop_map(|(node, data)| Wish::SetData { node, data }),
        1 => (any, 0..8usize).prop_map(|(node, acl)| Wish::SetAcl { node, acl }),
    ]
}

pub(super) fn wish() -> impl Strategy<Value = Wish> {
    prop_oneof![
        12 => one_change(),
        2 => prop::collection::vec(one_change(), 0..6).prop_map(Wish::Multi),
        1 => Just(Wish::CreateSession),
        1 => (0..50usize).prop_map(|session| Wish::Attach { session }),
        1 => (0..50usize).prop_map(|session| Wish::Close { session }),
        1 => Just(Wish::Refused),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_state_agrees_with_the_model(wishes in prop::collection::vec(wish(), 1..150)) {
        let (mut model, mut state) = (Model::new(), State::new(true));
        model.assert_equals(&state);
        for (i, wish) in wishes.iter().enumerate() {
            if let Some((op, results, changes)) = model.prepare(wish) {
                apply_and_compare(&mut state, model.zxid, &op, &results, &changes);
                prop_assert_eq!(state.digest(), Some(state.compute_digest()));
                if i % 10 == 0 {
                    model.assert_equals(&state);
                }
            }
        }
        model.assert_equals(&state);
    }
}

/// A snapshot written in slices of `budget` while `wishes` go on being applied; the model as of the cut.
fn snapshot_meanwhile(model: &mut Model, state: &mut State, wishes: &[Wish], budget: usize) -> (Vec<Vec<u8>>, Model) {
    let (cut, mut chunks) = (model.clone(), Vec::new());
    state.begin_snapshot();
    assert_eq!(state.snapshot_zxid(), Some(state.applied()));
    let mut wishes = wishes.iter();
    loop {
        let mut chunk = Vec::new();
        let done = state.snapshot_slice(budget, &mut chunk);
        chunks.push(chunk);
        if done {
            return (chunks, cut);
        }
        for wish in wishes.by_ref().take(3) {
            if let Some((op, results, changes)) = model.prepare(wish) {
                apply_and_compare(state, model.zxid, &op, &results, &changes);
            }
        }
    }
}

fn load(chunks: &[Vec<u8>], with_digest: bool) -> Result<State, snapshot::BadSnapshot> {
    let mut loader = snapshot::Loader::new(with_digest);
    for chunk in chunks {
        loader.push(chunk)?;
    }
    loader.finish()
}

fn apply_all(model: &mut Model, state: &mut State, wishes: &[Wish]) {
    for wish in wishes {
        if let Some((op, results, changes)) = model.prepare(wish) {
            apply_and_compare(state, model.zxid, &op, &results, &changes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_snapshot_is_the_state_at_its_cut(
        before in prop::collection::vec(wish(), 1..100),
        meanwhile in prop::collection::vec(wish(), 0..80),
        after in prop::collection::vec(wish(), 0..40),
        budget in 1..20usize,
    ) {
        let (mut model, mut state) = (Model::new(), State::new(true));
        apply_all(&mut model, &mut state, &before);
        let (digest, applied) = (state.digest(), state.applied());
        let (chunks, mut cut) = snapshot_meanwhile(&mut model, &mut state, &meanwhile, budget);
        model.assert_equals(&state);
        let mut loaded = load(&chunks, true).unwrap();
        prop_assert_eq!((loaded.digest(), loaded.applied()), (digest, applied));
        prop_assert_eq!(loaded.compute_digest(), digest.unwrap());
        cut.assert_equals(&loaded);
        // It goes on like a state that never stopped, ACL numbers included.
        let (mut twin, mut twin_model) = (State::new(true), Model::new());
        apply_all(&mut twin_model, &mut twin, &before);
        apply_all(&mut twin_model, &mut twin, &after);
        apply_all(&mut cut, &mut loaded, &after);
        cut.assert_equals(&loaded);
        prop_assert_eq!(loaded.digest(), twin.digest());
        for path in cut.nodes.keys() {
            prop_assert_eq!(loaded.find(path).unwrap().acl_id(), twin.find(path).unwrap().acl_id());
        }
    }

    #[test]
    fn damaged_snapshots_are_refused_without_a_panic(
        before in prop::collection::vec(wish(), 1..60),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let (mut model, mut state) = (Model::new(), State::new(true));
        apply_all(&mut model, &mut state, &before);
        let (chunks, _) = snapshot_meanwhile(&mut model, &mut state, &[], 1000);
        let whole = chunks.concat();
        prop_assert!(load(&[whole[..cut.index(whole.len())].to_vec()], true).is_err());
        let mut bytes = whole.clone();
        for (at, byte) in damage {
            bytes[at.index(whole.len() - 17)] = byte; // not the digest itself
        }
        let loaded = load(&[bytes.clone()], true);
        prop_assert!(bytes == whole || loaded.is_err() || loaded.is_ok_and(|l| l.digest() == state.digest()));
    }
}
