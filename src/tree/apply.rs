//! Applying transactions: the only way the state changes. What prepare decided is carried out and nothing is checked
//! for permission; results and change notices are collected for whoever asked for them.
//! Applying cannot fail. Refuses (panics, naming zxid and path) what cannot happen: a change of a node that is not there.

use super::nodes::Birth;
use super::owner::Owner;
use super::session::{Session, native};
use super::{AclId, State, digest, path};
use crate::wire::record::Stat;
use crate::wire::txn::{ArchivedAclRef, ArchivedChange, ArchivedOp, ArchivedTxn};
use rkyv::option::ArchivedOption;
use rkyv::vec::ArchivedVec;
use std::borrow::Cow;
use std::collections::BTreeSet;

/// What the caller of [`State::apply`] is interested in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Want {
    /// Fill [`Applied::results`]: this shard may have to reply.
    pub results: bool,
    /// Fill [`Applied::changes`]: somebody watches.
    pub paths: bool,
}

/// What a transaction did, in its order.
#[derive(Default)]
pub struct Applied<'t> {
    /// One per change of the transaction; one per code of a refused multi. None for sessions and epochs.
    pub results: Vec<OpResult>,
    pub changes: Vec<Changed<'t>>,
}

/// The outcome of one change, as of right after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpResult {
    /// The path is the transaction's; the stat is there if it asks for one.
    Created {
        stat: Option<Stat>,
    },
    Deleted,
    DataSet {
        stat: Stat,
    },
    AclSet {
        stat: Stat,
    },
    /// Nothing changed: a check that held, or an operation that was content with what it found.
    Checked,
    /// A refusal, with ZooKeeper's code.
    Error(i32),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChangeKind {
    Created,
    Deleted,
    DataChanged,
}

/// A change that watches may want to know of. The lists stay readable until the next transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changed<'t> {
    pub kind: ChangeKind,
    pub path: Cow<'t, str>,
    /// Of the node itself, even if it is gone.
    pub acl: AclId,
    /// Of its parent; the root's own for the root.
    pub parent_acl: AclId,
}

type AclList<'t> = ArchivedOption<ArchivedVec<ArchivedAclRef<'t>>>;

/// One transaction at work.
struct Step<'s, 'o, 't> {
    state: &'s mut State,
    out: &'o mut Applied<'t>,
    want: Want,
    zxid: u64,
    time_ms: i64,
}

impl State {
    /// Carries out `txn`, the next one of the history. `applied` is cleared first and then filled as `want` says.
    pub fn apply<'t>(&mut self, txn: &'t ArchivedTxn<'t>, applied: &mut Applied<'t>, want: Want) {
        let zxid = txn.zxid.to_native();
        assert!(zxid > self.applied, "transaction {zxid:#x} comes after {:#x}", self.applied);
        applied.results.clear();
        applied.changes.clear();
        self.acls.free_unused();
        let session = txn.session.to_native();
        let mut step = Step { state: self, out: applied, want, zxid, time_ms: txn.time_ms.to_native() };
        match &txn.op {
            ArchivedOp::Change(change) => step.change(change),
            ArchivedOp::Multi(changes) => changes.iter().for_each(|change| step.change(change)),
            ArchivedOp::Error { code } => step.result(|_| OpResult::Error(code.to_native())),
            ArchivedOp::MultiError { codes } => codes.iter().for_each(|code| step.result(|_| OpResult::Error(code.to_native()))),
            ArchivedOp::CreateSession { timeout_ms, password } => {
                let (password, owner) = (*password, native(&txn.origin));
                step.create_session(session, Session { timeout_ms: timeout_ms.to_native(), password, owner, ephemerals: BTreeSet::new() });
            }
            ArchivedOp::AttachSession { timeout_ms } => {
                step.attach_session(session, |s| (s.timeout_ms, s.owner) = (timeout_ms.to_native(), native(&txn.origin)));
            }
            ArchivedOp::CloseSession => step.close_session(session),
            ArchivedOp::NewEpoch { .. } => {}
        }
        self.applied = zxid;
    }

    /// Before the node's record changes: the snapshot at work gets it as it was, and what is derived from it forgets it.
    fn before(&mut self, slot: u32, path: &str) {
        self.keep_old_node(slot);
        if let Some(sum) = self.digest {
            self.digest = Some(sum.wrapping_sub(self.stat_item(slot, path::hash(path))));
        }
        if let Some(due) = self.due(slot) {
            self.reap.remove(slot, due);
        }
    }

    /// After the node's record changed: the reverse of [`State::before`].
    fn after(&mut self, slot: u32, path: &str) {
        if let Some(sum) = self.digest {
            self.digest = Some(sum.wrapping_add(self.stat_item(slot, path::hash(path))));
        }
        if let Some(due) = self.due(slot) {
            self.reap.insert(slot, due);
        }
    }

    fn digest_data(&mut self, slot: u32, path: &str, fold: fn(u128, u128) -> u128) {
        if let Some(sum) = self.digest {
            self.digest = Some(fold(sum, self.data_item(slot, path, path::hash(path))));
        }
    }

    fn digest_session(&mut self, id: i64, fold: fn(u128, u128) -> u128) {
        if let Some(sum) = self.digest {
            self.digest = Some(fold(sum, digest::session_item(id, &self.sessions[&id])));
        }
    }
}

impl<'t> Step<'_, '_, 't> {
    fn change(&mut self, change: &'t ArchivedChange<'t>) {
        match change {
            ArchivedChange::Create { path, path_hash, data, acl, owner, parent_creates, with_stat } => {
                let acl = self.intern(acl);
                let data = data.as_ref().map(|d| &**d);
                let slot = self.create(path, path_hash.to_native(), data, acl, owner.to_native(), parent_creates.to_native());
                self.result(|state| OpResult::Created { stat: with_stat.then(|| state.node(slot).stat()) });
            }
            ArchivedChange::Delete { path, path_hash } => {
                let slot = self.find(path, path_hash.to_native());
                self.delete(slot, Cow::Borrowed(path));
                self.result(|_| OpResult::Deleted);
            }
            ArchivedChange::SetData { path, path_hash, data, version } => {
                let slot = self.set_data(path, path_hash.to_native(), data.as_ref().map(|d| &**d), version.to_native());
                self.result(|state| OpResult::DataSet { stat: state.node(slot).stat() });
            }
            ArchivedChange::SetAcl { path, path_hash, acl, aversion } => {
                let acl = self.intern(acl);
                let slot = self.set_acl(path, path_hash.to_native(), acl, aversion.to_native());
                self.result(|state| OpResult::AclSet { stat: state.node(slot).stat() });
            }
            ArchivedChange::DeleteTree { path, path_hash } => {
                let slot = self.find(path, path_hash.to_native());
                self.delete_tree(slot);
                self.result(|_| OpResult::Deleted);
            }
            ArchivedChange::Check | ArchivedChange::CreateSkipped { .. } | ArchivedChange::DeleteSkipped => {
                self.result(|_| OpResult::Checked);
            }
        }
    }

    fn result(&mut self, result: impl FnOnce(&State) -> OpResult) {
        if self.want.results {
            self.out.results.push(result(self.state));
        }
    }

    fn notice(&mut self, kind: ChangeKind, path: Cow<'t, str>, slot: u32) {
        if self.want.paths {
            let node = self.state.nodes.get(slot);
            let parent_acl = AclId(self.state.nodes.get(node.parent).acl);
            self.out.changes.push(Changed { kind, path, acl: AclId(node.acl), parent_acl });
        }
    }

    fn bug(&self, path: &str, what: &str) -> ! {
        panic!("transaction {:#x}: {path}: {what}", self.zxid)
    }

    fn find(&self, path: &str, hash: u64) -> u32 {
        debug_assert_eq!(hash, path::hash(path));
        self.state.nodes.find(path, hash).unwrap_or_else(|| self.bug(path, "there is no such node"))
    }

    fn intern(&mut self, acl: &AclList<'t>) -> AclId {
        match acl.as_ref() {
            None => self.state.acls.add_ref(AclId::OPEN),
            Some(list) => self.state.acls.intern(list.iter().map(|a| (a.perms.to_native() as i32, &*a.scheme, &*a.id))),
        }
    }

    fn create(&mut self, path: &'t str, path_hash: u64, data: Option<&[u8]>, acl: AclId, owner: i64, parent_creates: u32) -> u32 {
        debug_assert_eq!(path_hash, path::hash(path));
        let parent_path = path::parent(path).unwrap_or_else(|| self.bug(path, "created without a parent"));
        let parent = self.find(parent_path, path::hash(parent_path));
        if self.state.nodes.find(path, path_hash).is_some() {
            self.bug(path, "created twice");
        }
        let (zxid, time_ms) = (self.zxid, self.time_ms);
        self.state.before(parent, parent_path);
        let birth = Birth { parent, name: path::name(path), path_hash, data, zxid, time_ms, acl: acl.0, owner };
        let slot = self.state.nodes.create(&birth);
        self.state.skip_new_node(slot);
        let extra = self.state.nodes.extra_mut(parent);
        if parent_creates != extra.creates.wrapping_add(1) {
            self.bug(path, "the parent's count of creates skips");
        }
        (extra.creates, extra.pzxid) = (parent_creates, zxid);
        self.state.after(parent, parent_path);
        self.state.after(slot, path);
        self.state.digest_data(slot, path, u128::wrapping_add);
        self.state.data_bytes += (path.len() + data.map_or(0, <[u8]>::len)) as u64;
        if let Owner::Session(id) = Owner::of(owner) {
            let Some(session) = self.state.sessions.get_mut(&id) else { self.bug(path, "created for a session that is not there") };
            session.ephemerals.insert(slot);
            self.state.ephemeral_count += 1;
        }
        self.state.quotas.node_created(path);
        self.state.recount(slot, path);
        self.state.count_in_quota(path, 1, data.map_or(0, <[u8]>::len) as i64);
        self.notice(ChangeKind::Created, Cow::Borrowed(path), slot);
        slot
    }

    fn delete(&mut self, slot: u32, path: Cow<'t, str>) {
        let parent_path = path::parent(&path).unwrap_or_else(|| self.bug(&path, "the root was deleted"));
        let (node, view) = (*self.state.nodes.get(slot), self.state.node(slot));
        if view.num_children() > 0 {
            self.bug(&path, "deleted with children");
        }
        let owner = view.owner();
        self.notice(ChangeKind::Deleted, path.clone(), slot);
        self.state.before(slot, &path);
        self.state.digest_data(slot, &path, u128::wrapping_sub);
        self.state.before(node.parent, parent_path);
        self.state.nodes.remove(slot);
        let zxid = self.zxid;
        let extra = self.state.nodes.extra_mut(node.parent);
        extra.pzxid = extra.pzxid.max(zxid);
        self.state.after(node.parent, parent_path);
        self.state.acls.drop_ref(AclId(node.acl));
        self.state.data_bytes -= path.len() as u64 + u64::from(node.data_bytes());
        self.state.quotas.node_deleted(&path);
        self.state.count_in_quota(&path, -1, -i64::from(node.data_bytes()));
        if let Owner::Session(id) = Owner::of(owner) {
            if let Some(session) = self.state.sessions.get_mut(&id) {
                session.ephemerals.remove(&slot);
            }
            self.state.ephemeral_count -= 1;
        }
    }

    /// Children go before their parents and in name order, so that events come in the same order everywhere. A tree may
    /// be as deep as a path is long: no recursion.
    fn delete_tree(&mut self, root: u32) {
        let (mut left, mut doomed) = (vec![root], Vec::new());
        while let Some(slot) = left.pop() {
            doomed.push(slot);
            left.extend(self.state.nodes.children(slot));
        }
        for slot in doomed.into_iter().rev() {
            let path = self.state.node(slot).path();
            self.delete(slot, Cow::Owned(path));
        }
    }

    fn set_data(&mut self, path: &'t str, path_hash: u64, data: Option<&[u8]>, version: i32) -> u32 {
        let slot = self.find(path, path_hash);
        self.state.before(slot, path);
        self.state.digest_data(slot, path, u128::wrapping_sub);
        let old_bytes = self.state.nodes.get(slot).data_bytes();
        self.state.data_bytes -= u64::from(old_bytes);
        self.state.nodes.set_data(slot, data);
        let node = self.state.nodes.get_mut(slot);
        (node.mzxid, node.mtime_ms, node.version) = (self.zxid, self.time_ms, version);
        self.state.data_bytes += u64::from(node.data_bytes());
        let grown_bytes = i64::from(node.data_bytes()) - i64::from(old_bytes);
        self.state.digest_data(slot, path, u128::wrapping_add);
        self.state.after(slot, path);
        self.state.count_in_quota(path, 0, grown_bytes);
        self.notice(ChangeKind::DataChanged, Cow::Borrowed(path), slot);
        slot
    }

    fn set_acl(&mut self, path: &'t str, path_hash: u64, acl: AclId, aversion: i32) -> u32 {
        let slot = self.find(path, path_hash);
        self.state.before(slot, path);
        self.state.nodes.extra_mut(slot).aversion = aversion;
        let old = std::mem::replace(&mut self.state.nodes.get_mut(slot).acl, acl.0);
        self.state.after(slot, path);
        self.state.acls.drop_ref(AclId(old));
        slot
    }

    fn create_session(&mut self, id: i64, session: Session) {
        assert!(matches!(Owner::of(id), Owner::Session(_)), "transaction {:#x}: {id:#x} is no session id", self.zxid);
        let before = self.state.sessions.insert(id, session);
        assert!(before.is_none(), "transaction {:#x}: session {id:#x} was created twice", self.zxid);
        self.state.skip_new_session(id);
        self.state.digest_session(id, u128::wrapping_add);
    }

    fn attach_session(&mut self, id: i64, change: impl FnOnce(&mut Session)) {
        self.before_session(id);
        change(self.state.sessions.get_mut(&id).expect("just seen"));
        self.state.digest_session(id, u128::wrapping_add);
    }

    /// As [`State::before`], for a session.
    fn before_session(&mut self, id: i64) {
        assert!(self.state.sessions.contains_key(&id), "transaction {:#x}: there is no session {id:#x}", self.zxid);
        self.state.keep_old_session(id);
        self.state.digest_session(id, u128::wrapping_sub);
    }

    /// The session goes with its ephemerals, in path order, so that events come in the same order everywhere.
    fn close_session(&mut self, id: i64) {
        self.before_session(id);
        let session = self.state.sessions.remove(&id).expect("just seen");
        let mut doomed: Vec<(String, u32)> = session.ephemerals.iter().map(|slot| (self.state.node(*slot).path(), *slot)).collect();
        doomed.sort_unstable();
        doomed.truncate(if crate::mutant!(M34) { 0 } else { doomed.len() });
        for (path, slot) in doomed {
            self.delete(slot, Cow::Owned(path));
        }
    }
}
