//! From a request to a change: every check that ZooKeeper's PrepRequestProcessor makes, in its order, against the State
//! plus what is proposed. One function per kind of write; the result goes into the batch as it stands.
//! Refuses to apply anything, to know about connections, and to look at a clock.

use super::auth::{self, AuthConfig, BadAcl, IdRef, perm};
use super::overlay::{AclView, NodeView, Overlay};
use super::quota::{Growth, Quotas};
use crate::limits::{REMOVE_NODES_MAX, TXN_BYTES_MAX};
use crate::tree::owner::{Owner, TTL_MS_MAX};
use crate::tree::{AclId, State, path as paths};
use crate::wire::jute::Reader;
use crate::wire::request::{self as wire, AclList, Request, opcode};
use crate::wire::response::code;
use crate::wire::txn::{AclRef, Change};
use std::borrow::Cow;
use std::sync::Arc;

/// Settings that change what is allowed.
#[derive(Clone, Debug, Default)]
pub struct PrepareConfig {
    pub auth: AuthConfig,
    /// TTL nodes exist (`extendedTypesEnabled`).
    pub extended_types_enabled: bool,
    /// Hard quotas refuse writes, soft ones are logged (`enforceQuota`).
    pub enforce_quota: bool,
    /// Whether reconfig would be obeyed if there were peers (`reconfigEnabled`): decides how it is refused.
    pub reconfig_enabled: bool,
}

/// A create counter beyond this has no ten-digit suffix; sequential creates are refused from here on.
const SEQUENCE_MAX: u32 = i32::MAX as u32;

/// The changes of one multi: what is left of a transaction is for its own fields.
const MULTI_BYTES_MAX: usize = TXN_BYTES_MAX - (64 << 10);

/// A write beyond a limit is logged at most this often, whichever it is.
const WARN_EVERY_MS: i64 = 1000;

/// Who asks, when, and against what.
pub struct Asker<'a> {
    pub state: &'a State,
    pub session: i64,
    /// A jute vector of Id, decoded only where a list must be compared.
    pub auth: &'a [u8],
    pub zxid: u64,
    pub time_ms: i64,
}

/// A change that passed every check, not yet in the batch.
pub enum Planned<'r> {
    Create {
        path: Cow<'r, str>,
        hash: u64,
        data: Option<&'r [u8]>,
        acl: StoredAcl<'r>,
        owner: i64,
        parent_creates: u32,
        with_stat: bool,
    },
    Delete {
        path: Cow<'r, str>,
        hash: u64,
    },
    SetData {
        path: Cow<'r, str>,
        hash: u64,
        data: Option<&'r [u8]>,
        version: i32,
    },
    SetAcl {
        path: Cow<'r, str>,
        hash: u64,
        acl: StoredAcl<'r>,
        aversion: i32,
    },
    Check,
    /// With how many nodes go.
    DeleteTree {
        path: Cow<'r, str>,
        hash: u64,
        nodes: usize,
    },
    CreateSkipped {
        path: Cow<'r, str>,
    },
    DeleteSkipped,
}

/// None is the open list.
type StoredAcl<'r> = Option<Vec<AclRef<'r>>>;

impl Planned<'_> {
    /// At least as many bytes as it takes in a transaction.
    fn bytes_max(&self) -> usize {
        const FIXED: usize = 128;
        let of_acl = |acl: &StoredAcl<'_>| acl.as_ref().map_or(0, |list| auth::stored_bytes(list));
        FIXED
            + match self {
                Planned::Create { path, data, acl, .. } => path.len() + data.map_or(0, <[u8]>::len) + of_acl(acl),
                Planned::Delete { path, .. } | Planned::DeleteTree { path, .. } | Planned::CreateSkipped { path } => path.len(),
                Planned::SetData { path, data, .. } => path.len() + data.map_or(0, <[u8]>::len),
                Planned::SetAcl { path, acl, .. } => path.len() + of_acl(acl),
                Planned::Check | Planned::DeleteSkipped => 0,
            }
    }

    /// How many nodes a recursive removal takes: applying it costs as much as so many deletes.
    fn nodes_removed(&self) -> usize {
        if let Planned::DeleteTree { nodes, .. } = self { *nodes } else { 0 }
    }

    /// The change as the transaction carries it.
    pub fn change(&self) -> Change<'_> {
        match self {
            Planned::Create { path, hash, data, acl, owner, parent_creates, with_stat } => Change::Create {
                path,
                path_hash: *hash,
                data: *data,
                acl: acl.clone(),
                owner: *owner,
                parent_creates: *parent_creates,
                with_stat: *with_stat,
            },
            Planned::Delete { path, hash } => Change::Delete { path, path_hash: *hash },
            Planned::SetData { path, hash, data, version } => Change::SetData { path, path_hash: *hash, data: *data, version: *version },
            Planned::SetAcl { path, hash, acl, aversion } => {
                Change::SetAcl { path, path_hash: *hash, acl: acl.clone(), aversion: *aversion }
            }
            Planned::Check => Change::Check,
            Planned::DeleteTree { path, hash, .. } => Change::DeleteTree { path, path_hash: *hash },
            Planned::CreateSkipped { path } => Change::CreateSkipped { path },
            Planned::DeleteSkipped => Change::DeleteSkipped,
        }
    }
}

/// ZooKeeper's rule for counters of versions: -1 means "any" in requests, so it is skipped.
fn next_version(current: i32) -> i32 {
    match current.wrapping_add(1) {
        -1 => 0,
        next => next,
    }
}

fn check_version(current: i32, expected: i32) -> Result<i32, i32> {
    if expected == -1 || expected == current { Ok(next_version(current)) } else { Err(code::BAD_VERSION) }
}

/// The parent's path of a path that a create or delete names, or BADARGUMENTS.
pub(super) fn parent_of(path: &str) -> Result<&str, i32> {
    // "/" stands below itself here: its refusal comes later, from what it is.
    let parent = if path == paths::ROOT { Some(paths::ROOT) } else { paths::parent(path) };
    parent.filter(|_| !path.contains('\0')).ok_or(code::BAD_ARGUMENTS)
}

fn is_special(path: &str) -> bool {
    matches!(path, "/" | "/zookeeper" | "/zookeeper/quota" | "/zookeeper/config")
}

/// Prepare: settings, and what is proposed and not applied yet.
#[derive(Default)]
pub struct Prepare {
    pub config: PrepareConfig,
    pub overlay: Overlay,
    pub quotas: Quotas,
    /// When the next line about a limit may be logged.
    pub next_warning_ms: i64,
}

impl Prepare {
    pub(super) fn view(&self, asker: &Asker<'_>, hash: u64, path: &str) -> Option<NodeView> {
        if let Some(proposed) = self.overlay.get(hash, path) {
            return proposed.cloned();
        }
        asker.state.find_hashed(path, hash).map(|node| NodeView {
            version: node.version(),
            aversion: node.aversion(),
            czxid: node.czxid(),
            mzxid: node.mzxid(),
            pzxid: node.pzxid(),
            ctime_ms: node.ctime_ms(),
            creates: node.creates(),
            num_children: node.num_children(),
            owner: node.owner(),
            mtime_ms: node.mtime_ms(),
            data_bytes: node.data_bytes(),
            acl: AclView::Interned(node.acl_id()),
        })
    }

    /// NOAUTH unless the asker has one of the permissions on the node.
    pub(super) fn require(&self, asker: &Asker<'_>, node: &NodeView, need: i32) -> Result<(), i32> {
        let acl = match &node.acl {
            AclView::Interned(AclId::OPEN) => return Ok(()),
            AclView::Interned(id) => asker.state.acl(*id),
            AclView::Proposed(list) => list,
        };
        let ids = decode_ids(asker.auth);
        let allowed = auth::permits(&self.config.auth, acl, need, ids.iter().copied());
        if allowed { Ok(()) } else { Err(code::NO_AUTH) }
    }

    fn fix_acl<'r>(&mut self, asker: &Asker<'r>, list: &AclList<'r>) -> Result<StoredAcl<'r>, i32> {
        if list.is_open() {
            return Ok(None);
        }
        let ids = decode_ids(asker.auth);
        if let Some(at) = list.null_id_at() {
            let before = auth::fix_acl(&self.config.auth, list.iter().take(at), ids.iter().copied());
            return Err(if at == 0 || before.is_ok() { code::MARSHALLING_ERROR } else { code::INVALID_ACL });
        }
        let fixed = auth::fix_acl(&self.config.auth, list.iter(), ids.iter().copied()).map_err(|bad| {
            if bad == BadAcl::TooLong {
                self.warn(asker, "an access control list is beyond acl_entries_max or acl_bytes_max, refused");
            }
            code::INVALID_ACL
        })?;
        Ok((!auth::is_open(&fixed)).then_some(fixed))
    }

    /// Nothing is proposed any more, or not by this server.
    pub fn reset(&mut self) {
        self.overlay = Overlay::default();
        self.quotas = Quotas::default();
    }

    /// One line per second at most, whatever it says.
    fn warn(&mut self, asker: &Asker<'_>, what: &str) {
        if asker.time_ms >= self.next_warning_ms {
            self.next_warning_ms = asker.time_ms + WARN_EVERY_MS;
            tracing::warn!("session 0x{:x}: {what}", asker.session);
        }
    }

    /// This core's State has applied everything up to `zxid`.
    pub fn applied(&mut self, zxid: u64) {
        self.overlay.applied(zxid);
        self.quotas.applied(zxid);
    }

    /// Checks one change and records it in the overlay, or says why not.
    pub fn change<'r>(&mut self, asker: &Asker<'r>, request: &Request<'r>) -> Result<Planned<'r>, i32> {
        match request {
            Request::Create(create) => self.create(asker, opcode::CREATE, create, -1),
            Request::Create2(create) => self.create(asker, opcode::CREATE2, create, -1),
            Request::CreateContainer(create) => self.create(asker, opcode::CREATE_CONTAINER, create, -1),
            Request::CreateTtl(create, ttl_ms) => self.create(asker, opcode::CREATE_TTL, create, *ttl_ms),
            Request::Delete { path, version } => self.delete(asker, path, *version),
            Request::SetData { path, data, version } => self.set_data(asker, path, *data, *version),
            Request::SetAcl { path, acl, version } => self.set_acl(asker, path, acl, *version),
            Request::Check { path, version } => self.check(asker, path, *version),
            // As a standalone ZooKeeper: there are no peers to change.
            Request::Reconfig if self.config.reconfig_enabled => Err(code::UNIMPLEMENTED),
            Request::Reconfig => Err(code::RECONFIG_DISABLED),
            Request::Extension(extension) => self.extension(asker, extension),
            other => unreachable!("{other:?} is not a change"),
        }
    }

    pub(super) fn create<'r>(&mut self, asker: &Asker<'r>, op: i32, create: &wire::Create<'r>, ttl_ms: i64) -> Result<Planned<'r>, i32> {
        let mode = Mode::of(op, create.flags, ttl_ms, self.config.extended_types_enabled)?;
        let requested = &create.path;
        let parent_path = parent_of(requested)?.to_owned();
        let acl = self.fix_acl(asker, &create.acl)?;
        let parent_hash = paths::hash(&parent_path);
        let mut parent = self.view(asker, parent_hash, &parent_path).ok_or(code::NO_NODE)?;
        self.require(asker, &parent, perm::CREATE)?;
        let path = match mode.sequential {
            true if parent.creates > SEQUENCE_MAX => return Err(code::SYSTEM_ERROR),
            true => Cow::Owned(format!("{requested}{}", paths::sequential_suffix(parent.creates as i32))),
            false => requested.clone(),
        };
        if !paths::validate(&path) {
            return Err(code::BAD_ARGUMENTS);
        }
        let hash = paths::hash(&path);
        if self.view(asker, hash, &path).is_some() {
            return Err(code::NODE_EXISTS);
        }
        if is_ephemeral(parent.owner) {
            return Err(code::NO_CHILDREN_FOR_EPHEMERALS);
        }
        let data_bytes = create.data.map_or(0, <[u8]>::len);
        let growth = Growth { nodes: 1, bytes: data_bytes as i64 };
        self.check_quota(asker, &path, growth)?;
        self.grow(asker, &path, growth);
        let owner = mode.owner(asker.session, ttl_ms);
        parent.creates = if crate::mutant!(M76) { parent.num_children } else { parent.creates.saturating_add(1) };
        parent.num_children += 1;
        parent.pzxid = asker.zxid;
        let parent_creates = parent.creates;
        self.overlay.set(parent_hash, &parent_path, asker.zxid, Some(parent));
        let acl_view = proposed_acl(&acl);
        let node = NodeView {
            version: 0,
            aversion: 0,
            czxid: asker.zxid,
            mzxid: asker.zxid,
            pzxid: asker.zxid,
            ctime_ms: asker.time_ms,
            creates: 0,
            num_children: 0,
            owner,
            mtime_ms: asker.time_ms,
            data_bytes,
            acl: acl_view,
        };
        self.overlay.set(hash, &path, asker.zxid, Some(node));
        let with_stat = op != opcode::CREATE;
        Ok(Planned::Create { path, hash, data: create.data, acl, owner, parent_creates, with_stat })
    }

    pub(super) fn delete<'r>(&mut self, asker: &Asker<'r>, path: &Cow<'r, str>, version: i32) -> Result<Planned<'r>, i32> {
        let (hash, node) = self.deletable(asker, path)?;
        check_version(node.version, version)?;
        if node.num_children > 0 {
            return Err(code::NOT_EMPTY);
        }
        self.remove(asker, hash, path);
        Ok(Planned::Delete { path: path.clone(), hash })
    }

    /// The node, if the asker may delete it as far as its path and its parent go.
    pub(super) fn deletable(&self, asker: &Asker<'_>, path: &str) -> Result<(u64, NodeView), i32> {
        let parent_path = parent_of(path)?;
        if is_special(path) {
            return Err(code::BAD_ARGUMENTS);
        }
        let parent = self.view(asker, paths::hash(parent_path), parent_path).ok_or(code::NO_NODE)?;
        self.require(asker, &parent, perm::DELETE)?;
        let hash = paths::hash(path);
        let node = self.view(asker, hash, path).ok_or(code::NO_NODE)?;
        Ok((hash, node))
    }

    /// Records a deletion: the node goes and its parent has one child less.
    pub(super) fn remove(&mut self, asker: &Asker<'_>, hash: u64, path: &str) {
        let parent_path = parent_of(path).expect("a node's path has a parent");
        let parent_hash = paths::hash(parent_path);
        let mut parent = self.view(asker, parent_hash, parent_path).expect("a node's parent exists");
        parent.num_children -= 1;
        parent.pzxid = parent.pzxid.max(asker.zxid);
        if self.bounded(asker) {
            let bytes = self.view(asker, hash, path).map_or(0, |node| node.data_bytes as i64);
            self.grow(asker, path, Growth { nodes: -1, bytes: -bytes });
        }
        self.overlay.set(parent_hash, parent_path, asker.zxid, Some(parent));
        self.overlay.set(hash, path, asker.zxid, None);
    }

    fn set_data<'r>(&mut self, asker: &Asker<'r>, path: &Cow<'r, str>, data: Option<&'r [u8]>, version: i32) -> Result<Planned<'r>, i32> {
        let (hash, mut node) = self.existing(asker, path, perm::WRITE)?;
        let data_bytes = data.map_or(0, <[u8]>::len);
        let growth = Growth { nodes: 0, bytes: data_bytes as i64 - node.data_bytes as i64 };
        self.check_quota(asker, path, growth)?;
        node.version = check_version(node.version, version)?;
        self.grow(asker, path, growth);
        (node.mzxid, node.mtime_ms, node.data_bytes) = (asker.zxid, asker.time_ms, data_bytes);
        let version = node.version;
        self.overlay.set(hash, path, asker.zxid, Some(node));
        Ok(Planned::SetData { path: path.clone(), hash, data, version })
    }

    /// Whether quotas matter at all: mostly they do not.
    fn bounded(&self, asker: &Asker<'_>) -> bool {
        self.config.enforce_quota && asker.state.has_quotas()
    }

    fn check_quota(&mut self, asker: &Asker<'_>, path: &str, growth: Growth) -> Result<(), i32> {
        if self.bounded(asker) { self.quotas.check(asker, path, growth) } else { Ok(()) }
    }

    fn grow(&mut self, asker: &Asker<'_>, path: &str, growth: Growth) {
        if self.bounded(asker) {
            self.quotas.proposed(asker, path, growth);
        }
    }

    fn set_acl<'r>(&mut self, asker: &Asker<'r>, path: &Cow<'r, str>, acl: &AclList<'r>, version: i32) -> Result<Planned<'r>, i32> {
        if !paths::validate(path) {
            return Err(code::BAD_ARGUMENTS);
        }
        let acl = self.fix_acl(asker, acl)?;
        let (hash, mut node) = self.existing(asker, path, perm::ADMIN)?;
        node.aversion = check_version(node.aversion, version)?;
        node.acl = proposed_acl(&acl);
        let aversion = node.aversion;
        self.overlay.set(hash, path, asker.zxid, Some(node));
        Ok(Planned::SetAcl { path: path.clone(), hash, acl, aversion })
    }

    fn check<'r>(&mut self, asker: &Asker<'r>, path: &Cow<'r, str>, version: i32) -> Result<Planned<'r>, i32> {
        let (_, node) = self.existing(asker, path, perm::READ)?;
        check_version(node.version, version)?;
        Ok(Planned::Check)
    }

    pub(super) fn existing(&self, asker: &Asker<'_>, path: &str, need: i32) -> Result<(u64, NodeView), i32> {
        if !paths::validate(path) {
            return Err(code::BAD_ARGUMENTS);
        }
        let hash = paths::hash(path);
        let node = self.view(asker, hash, path).ok_or(code::NO_NODE)?;
        self.require(asker, &node, need)?;
        Ok((hash, node))
    }

    /// A multi: all changes or none. Err carries one code per operation.
    pub fn multi<'r>(&mut self, asker: &Asker<'r>, ops: impl Iterator<Item = Request<'r>>) -> Result<Vec<Planned<'r>>, Vec<i32>> {
        self.overlay.begin();
        self.quotas.begin();
        let mut planned = Vec::new();
        let mut codes = Vec::new();
        let (mut bytes, mut nodes_removed) = (0, 0);
        for request in ops {
            if codes.last().is_some_and(|&c| c != code::OK) {
                codes.push(code::RUNTIME_INCONSISTENCY); // never tried
                continue;
            }
            match self.change(asker, &as_in_multi(request)) {
                Ok(change) => {
                    bytes += change.bytes_max();
                    nodes_removed += change.nodes_removed();
                    planned.push(change);
                    // Many small operations, or one list of identities in each, take more room than their frame.
                    if bytes > MULTI_BYTES_MAX {
                        self.warn(asker, "a multi is beyond the largest transaction, refused");
                    }
                    codes.push(match () {
                        _ if bytes > MULTI_BYTES_MAX => code::BAD_ARGUMENTS,
                        _ if nodes_removed > REMOVE_NODES_MAX => code::NOT_EMPTY,
                        _ => code::OK,
                    });
                }
                Err(refused) => codes.push(refused),
            }
        }
        if codes.iter().all(|&c| c == code::OK) {
            self.overlay.keep();
            return Ok(planned);
        }
        self.overlay.take_back();
        self.quotas.take_back();
        Err(codes)
    }

    /// The session ends: records that its ephemerals, applied or proposed, are gone.
    pub fn close_session(&mut self, asker: &Asker<'_>) {
        let mut owned = asker.state.ephemerals(asker.session);
        owned.extend(self.overlay.owned_by(asker.session));
        owned.sort_unstable();
        owned.dedup();
        for path in owned {
            let hash = paths::hash(&path);
            if self.view(asker, hash, &path).is_some_and(|node| node.owner == asker.session) {
                self.remove(asker, hash, &path);
            }
        }
    }

    /// The server removes a container or TTL node that nobody used for long enough. None when something proposed keeps it.
    pub fn reap<'r>(&mut self, asker: &Asker<'r>, path: &'r str) -> Option<Planned<'r>> {
        let hash = paths::hash(path);
        let node = self.view(asker, hash, path)?;
        let due = match Owner::of(node.owner) {
            Owner::None | Owner::Session(_) => false,
            Owner::Container => true,
            Owner::Ttl(ttl_ms) => node.mtime_ms.saturating_add(ttl_ms) < asker.time_ms,
        };
        if !due || node.num_children > 0 {
            return None;
        }
        self.remove(asker, hash, path);
        Some(Planned::Delete { path: Cow::Borrowed(path), hash })
    }
}

/// Inside a multi the flags of a create can change its opcode, and with it what is made and how it is answered: those of
/// a container always do, and createTTL is one only with the flags of a TTL (ZooKeeper's MultiOperationRecord and Op).
fn as_in_multi(request: Request<'_>) -> Request<'_> {
    match request {
        Request::Create(create) | Request::Create2(create) | Request::CreateTtl(create, _) if create.flags == 4 => {
            Request::CreateContainer(create)
        }
        Request::CreateTtl(create, _) if create.flags != 5 && create.flags != 6 => Request::Create(create),
        other => other,
    }
}

fn proposed_acl(acl: &StoredAcl<'_>) -> AclView {
    let Some(list) = acl else { return AclView::Interned(AclId::OPEN) };
    let owned = list.iter().map(|a| crate::wire::record::Acl { perms: a.perms as i32, scheme: a.scheme.into(), id: a.id.into() });
    AclView::Proposed(Arc::from_iter(owned))
}

/// Whether an owner value is a session, not a container's or a TTL's.
fn is_ephemeral(owner: i64) -> bool {
    matches!(Owner::of(owner), Owner::Session(_))
}

/// The identities of a submit: a jute vector of Id that our own shard encoded.
fn decode_ids(auth: &[u8]) -> Vec<IdRef<'_>> {
    let mut reader = Reader::new(auth);
    let count = reader.vector(8).expect("our own encoding").unwrap_or(0);
    (0..count).map(|_| (reader.utf8().expect("our own encoding"), reader.utf8().expect("our own encoding"))).collect()
}

/// What the flags of a create ask for.
struct Mode {
    ephemeral: bool,
    sequential: bool,
    container: bool,
    ttl: bool,
}

impl Mode {
    /// Flags as ZooKeeper's CreateMode, checked against the opcode that carries them: TTL nodes only through their own,
    /// in the order flags, feature, range. The opcode of containers makes containers whatever the flags say, and no other
    /// opcode does.
    fn of(op: i32, flags: i32, ttl_ms: i64, ttl_enabled: bool) -> Result<Mode, i32> {
        if !(0..=6).contains(&flags) {
            return Err(code::BAD_ARGUMENTS);
        }
        let mode = Mode {
            ephemeral: matches!(flags, 1 | 3),
            sequential: matches!(flags, 2 | 3 | 6),
            container: op == opcode::CREATE_CONTAINER,
            ttl: flags >= 5,
        };
        if mode.ttl && !ttl_enabled {
            return Err(code::UNIMPLEMENTED);
        }
        let right_opcode = mode.ttl == (op == opcode::CREATE_TTL);
        let right_ttl = if mode.ttl { (1..=TTL_MS_MAX).contains(&ttl_ms) } else { true };
        if right_opcode && right_ttl { Ok(mode) } else { Err(code::BAD_ARGUMENTS) }
    }

    fn owner(&self, session: i64, ttl_ms: i64) -> i64 {
        let owner = match self {
            Mode { container: true, .. } => Owner::Container,
            Mode { ephemeral: true, .. } => Owner::Session(session),
            Mode { ttl: true, .. } => Owner::Ttl(ttl_ms),
            _ => Owner::None,
        };
        owner.raw()
    }
}
