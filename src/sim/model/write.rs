//! Requests that change the tree, executed as the contract orders their checks, each giving an error or what it changed.
//! Refuses to guess: an outcome is exact, to the last field of a Stat.

use super::access::{self, permits};
use super::{AclList, Asker, CONTAINER, Model, NoticeKind, TTL_MARK, TTL_MS_MAX, Version, parent};
use crate::sim::ask::{Ask, write_multi_header};
use crate::wire::extension::opcode as extension;
use crate::wire::jute::{write_i32, write_string};
use crate::wire::record::Stat;
use crate::wire::request::opcode;
use crate::wire::response::code;
use std::rc::Rc;

/// One change that was made, with the Stat as of right after it.
#[derive(Clone, Debug)]
pub enum Change {
    Create {
        path: Rc<str>,
        data: Option<Rc<[u8]>>,
        acl: AclList,
        owner: i64,
        parent_creates: u32,
        with_stat: bool,
        stat: Stat,
    },
    Delete {
        path: Rc<str>,
    },
    /// The node and all below it.
    DeleteTree {
        path: Rc<str>,
    },
    /// A create that found its node, a delete that could not be had.
    CreateSkipped {
        path: Rc<str>,
    },
    DeleteSkipped,
    SetData {
        path: Rc<str>,
        data: Option<Rc<[u8]>>,
        stat: Stat,
    },
    SetAcl {
        path: Rc<str>,
        acl: AclList,
        stat: Stat,
    },
    Check,
}

/// What becomes of a write.
#[derive(Clone, Debug)]
pub enum Outcome {
    Error(i32),
    /// One code per operation of a multi that failed.
    MultiError(Vec<i32>),
    One(Change),
    Multi(Vec<Change>),
}

impl Outcome {
    /// The error in the header of the reply, and its record.
    pub fn reply(&self) -> (i32, Vec<u8>) {
        let mut body = Vec::new();
        match self {
            Outcome::Error(code) => return (*code, body),
            Outcome::MultiError(codes) => {
                for code in codes {
                    write_multi_header(&mut body, -1, false, *code);
                    write_i32(&mut body, *code);
                }
                write_multi_header(&mut body, -1, true, -1);
            }
            Outcome::One(change) => change.record(&mut body),
            Outcome::Multi(changes) => {
                for change in changes {
                    write_multi_header(&mut body, change.kind(), false, 0);
                    change.record(&mut body);
                }
                write_multi_header(&mut body, -1, true, -1);
            }
        }
        (code::OK, body)
    }
}

impl Change {
    fn record(&self, out: &mut Vec<u8>) {
        match self {
            Change::Create { path, with_stat, stat, .. } => {
                write_string(out, path);
                if *with_stat {
                    stat.encode(out);
                }
            }
            Change::SetData { stat, .. } | Change::SetAcl { stat, .. } => stat.encode(out),
            Change::CreateSkipped { path } => write_string(out, path),
            Change::Delete { .. } | Change::DeleteTree { .. } | Change::DeleteSkipped | Change::Check => {}
        }
    }

    /// The type of its result in a multi.
    fn kind(&self) -> i32 {
        match self {
            Change::Create { with_stat: false, .. } | Change::CreateSkipped { .. } => opcode::CREATE,
            Change::Create { .. } => opcode::CREATE2,
            Change::Delete { .. } | Change::DeleteTree { .. } | Change::DeleteSkipped => opcode::DELETE,
            Change::SetData { .. } => opcode::SET_DATA,
            Change::SetAcl { .. } => opcode::SET_ACL,
            Change::Check => opcode::CHECK,
        }
    }
}

/// The version after one more change: -1 means "any" in requests and is skipped.
fn next(current: i32, expected: i32) -> Result<i32, i32> {
    if expected != -1 && expected != current {
        return Err(code::BAD_VERSION);
    }
    let next = current.wrapping_add(1);
    Ok(if next == -1 { 0 } else { next })
}

/// PathUtils.validatePath.
fn valid(path: &str) -> bool {
    let bad = |c: char| matches!(c as u32, 0..=0x1f | 0x7f..=0x9f | 0xd800..=0xf8ff | 0xfff0..=0xffff | 0x10000..);
    path == "/" || path.starts_with('/') && !path[1..].split('/').any(|part| ["", ".", ".."].contains(&part)) && !path.chars().any(bad)
}

fn parent_or_bad(path: &str) -> Result<&str, i32> {
    match path.rfind('/') {
        Some(at) if !path.contains('\0') => Ok(if at == 0 { "/" } else { &path[..at] }),
        _ => Err(code::BAD_ARGUMENTS),
    }
}

impl Model {
    /// Executes a write of an open session.
    pub fn execute(&mut self, asker: Asker<'_>, ask: &Ask) -> Outcome {
        match ask {
            Ask::Reconfig => Outcome::Error(code::RECONFIG_DISABLED),
            Ask::Multi(asks) => self.multi(asker, asks),
            ask => self.one(asker, ask, false).map_or_else(Outcome::Error, Outcome::One),
        }
    }

    /// The server removes a container or TTL node.
    pub fn reap(&mut self, path: &str) {
        self.remove(&path.into());
    }

    fn multi(&mut self, asker: Asker<'_>, asks: &[Ask]) -> Outcome {
        let mut changes = Vec::new();
        for (at, ask) in asks.iter().enumerate() {
            match self.one(asker, ask, true) {
                Ok(change) => changes.push(change),
                Err(refused) => {
                    self.take_back();
                    let mut codes = vec![code::RUNTIME_INCONSISTENCY; asks.len()];
                    codes[..at].fill(code::OK);
                    codes[at] = refused;
                    return Outcome::MultiError(codes);
                }
            }
        }
        Outcome::Multi(changes)
    }

    fn one(&mut self, asker: Asker<'_>, ask: &Ask, in_multi: bool) -> Result<Change, i32> {
        match ask {
            Ask::Create { op: extension::CREATE_IF_NOT_EXISTS, path, flags, .. } => {
                if let Some(skipped) = self.skip_create(asker, path, *flags)? {
                    Ok(skipped)
                } else {
                    self.create(asker, opcode::CREATE, ask)
                }
            }
            Ask::Create { op, flags, .. } => {
                // Inside a multi a container's flags make a container, and only a TTL's make createTTL what it is.
                let op = match (*op, *flags) {
                    (op, _) if !in_multi => op,
                    (_, 4) => opcode::CREATE_CONTAINER,
                    (opcode::CREATE_TTL, flags) if flags != 5 && flags != 6 => opcode::CREATE,
                    (op, _) => op,
                };
                self.create(asker, op, ask)
            }
            Ask::Delete { path, version } => self.delete(asker, path, *version),
            Ask::TryRemove { path, version } => match self.delete(asker, path, *version) {
                Err(code::NO_NODE | code::BAD_VERSION | code::NOT_EMPTY) => Ok(Change::DeleteSkipped),
                other => other,
            },
            Ask::RemoveRecursive { path, nodes_max } => self.delete_tree(asker, path, *nodes_max as u32),
            Ask::SetData { path, data, version } => {
                let mut node = self.existing(asker, path, access::WRITE)?;
                node.stat.version = next(node.stat.version, *version)?;
                node.data = data.as_deref().map(Rc::from);
                node.stat.data_length = data.as_ref().map_or(0, Vec::len) as i32;
                (node.stat.mzxid, node.stat.mtime) = (self.zxid as i64, self.time_ms);
                let (path, data, stat) = (Rc::<str>::from(path.as_str()), node.data.clone(), node.stat);
                self.put(&path, Some(node));
                self.notice(NoticeKind::Changed, &path);
                Ok(Change::SetData { path, data, stat })
            }
            Ask::SetAcl { path, acl, version } => {
                if !valid(path) {
                    return Err(code::BAD_ARGUMENTS);
                }
                let acl = self.list(access::stored(acl, asker.ids)?);
                let mut node = self.existing(asker, path, access::ADMIN)?;
                node.stat.aversion = next(node.stat.aversion, *version)?;
                node.acl = acl.clone();
                let (path, stat) = (Rc::<str>::from(path.as_str()), node.stat);
                self.put(&path, Some(node));
                Ok(Change::SetAcl { path, acl, stat })
            }
            Ask::Check { path, version } => {
                let node = self.existing(asker, path, access::READ)?;
                next(node.stat.version, *version).map(|_| Change::Check)
            }
            other => unreachable!("{other:?} changes nothing"),
        }
    }

    fn list(&self, acl: Vec<crate::wire::record::Acl>) -> AclList {
        if acl[..] == self.open[..] { self.open.clone() } else { acl.into() }
    }

    fn existing(&self, asker: Asker<'_>, path: &str, need: i32) -> Result<Version, i32> {
        if !valid(path) {
            return Err(code::BAD_ARGUMENTS);
        }
        let node = self.now(path).ok_or(code::NO_NODE)?;
        if permits(&node.acl, asker.ids, need) { Ok(node.clone()) } else { Err(code::NO_AUTH) }
    }

    fn create(&mut self, asker: Asker<'_>, op: i32, ask: &Ask) -> Result<Change, i32> {
        let Ask::Create { path, data, acl, flags, ttl_ms, .. } = ask else { unreachable!("the caller has looked") };
        let owner = owner(asker.session, op, *flags, *ttl_ms)?;
        let above = parent_or_bad(path)?;
        let acl = self.list(access::stored(acl, asker.ids)?);
        let parent = self.now(above).ok_or(code::NO_NODE)?;
        if !permits(&parent.acl, asker.ids, access::CREATE) {
            return Err(code::NO_AUTH);
        }
        let path: Rc<str> = match matches!(flags, 2 | 3 | 6) {
            true => format!("{path}{:010}", parent.creates as i32).into(),
            false => path.as_str().into(),
        };
        if !valid(&path) {
            return Err(code::BAD_ARGUMENTS);
        }
        if self.now(&path).is_some() {
            return Err(code::NODE_EXISTS);
        }
        if parent.stat.ephemeral_owner != 0 {
            return Err(code::NO_CHILDREN_FOR_EPHEMERALS);
        }
        let parent_creates = parent.creates + 1;
        let zxid = self.zxid as i64;
        let stat = Stat {
            czxid: zxid,
            mzxid: zxid,
            pzxid: zxid,
            ctime: self.time_ms,
            mtime: self.time_ms,
            ephemeral_owner: if is_session(owner) { owner } else { 0 },
            data_length: data.as_ref().map_or(0, Vec::len) as i32,
            ..Stat::default()
        };
        let data: Option<Rc<[u8]>> = data.as_deref().map(Rc::from);
        self.child(&path, true);
        self.put(&path, Some(Version { data: data.clone(), acl: acl.clone(), owner, creates: 0, stat }));
        if is_session(owner) {
            self.owned(owner, &path, true);
        }
        self.notice(NoticeKind::Created, &path);
        Ok(Change::Create { path, data, acl, owner, parent_creates, with_stat: op != opcode::CREATE, stat })
    }

    /// createIfNotExists: Some if the node is there. A sequential one never is, so it is refused.
    fn skip_create(&self, asker: Asker<'_>, path: &str, flags: i32) -> Result<Option<Change>, i32> {
        if !(0..=1).contains(&flags) {
            return Err(code::BAD_ARGUMENTS);
        }
        let parent = self.now(parent_or_bad(path)?).ok_or(code::NO_NODE)?;
        if !permits(&parent.acl, asker.ids, access::CREATE) {
            return Err(code::NO_AUTH);
        }
        Ok(self.now(path).map(|_| Change::CreateSkipped { path: path.into() }))
    }

    fn delete(&mut self, asker: Asker<'_>, path: &str, version: i32) -> Result<Change, i32> {
        let node = self.deletable(asker, path)?;
        next(node.stat.version, version)?;
        if node.stat.num_children > 0 {
            return Err(code::NOT_EMPTY);
        }
        debug_assert!(parent(path).is_some());
        let path: Rc<str> = path.into();
        self.remove(&path);
        Ok(Change::Delete { path })
    }

    /// What a delete may take, whatever its version and children.
    fn deletable(&self, asker: Asker<'_>, path: &str) -> Result<&Version, i32> {
        let above = parent_or_bad(path)?;
        if ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"].contains(&path) {
            return Err(code::BAD_ARGUMENTS);
        }
        let above = self.now(above).ok_or(code::NO_NODE)?;
        if !permits(&above.acl, asker.ids, access::DELETE) {
            return Err(code::NO_AUTH);
        }
        self.now(path).ok_or(code::NO_NODE)
    }

    fn delete_tree(&mut self, asker: Asker<'_>, path: &str, nodes_max: u32) -> Result<Change, i32> {
        self.deletable(asker, path)?;
        let mut doomed = Vec::new();
        self.gather(path, &mut doomed);
        if doomed.len() > (nodes_max as usize).max(1) {
            return Err(code::NOT_EMPTY);
        }
        let node = |path: &Rc<str>| self.now(path).expect("it was gathered");
        if doomed.iter().map(node).any(|v| v.stat.num_children > 0 && !permits(&v.acl, asker.ids, access::DELETE)) {
            return Err(code::NO_AUTH);
        }
        doomed.iter().for_each(|path| self.remove(path));
        Ok(Change::DeleteTree { path: path.into() })
    }

    /// A node and all below it, children first and by name. The simulator's trees are not deep.
    fn gather(&self, path: &str, out: &mut Vec<Rc<str>>) {
        self.children(path).for_each(|name| self.gather(&format!("{path}/{name}"), out));
        out.push(path.into());
    }
}

fn is_session(owner: i64) -> bool {
    owner != 0 && owner != CONTAINER && owner & !TTL_MS_MAX != TTL_MARK
}

/// The owner that a create asks for, or BADARGUMENTS. TTL nodes are enabled in the simulator.
fn owner(session: i64, op: i32, flags: i32, ttl_ms: i64) -> Result<i64, i32> {
    let wants_ttl = flags >= 5;
    if !(0..=6).contains(&flags) || wants_ttl != (op == opcode::CREATE_TTL) || wants_ttl && !(1..=TTL_MS_MAX).contains(&ttl_ms) {
        return Err(code::BAD_ARGUMENTS);
    }
    Ok(match flags {
        _ if op == opcode::CREATE_CONTAINER => CONTAINER,
        1 | 3 => session,
        5 | 6 => TTL_MARK | ttl_ms,
        _ => 0,
    })
}
