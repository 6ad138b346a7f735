//! Everything a shard answers by itself: reads from its State, watch registrations, and the refusals that rest on
//! nothing but the request (malformed, unknown opcode). Follows ZooKeeper's FinalRequestProcessor, one function per opcode.
//! Refuses to change the State.

use super::auth::{self, AuthConfig, perm};
use super::bounds::Bounds;
use super::conn::Identities;
use super::extension;
use super::message::ConnId;
use crate::limits::{GATHERED_BYTES_MAX, PAGE_BYTES_MAX};
use crate::tree::{AclId, NodeRef, State, path};
use crate::watch::{WatchKind, WatcherType, Watches};
use crate::wire::extension::Extension;
use crate::wire::jute;
use crate::wire::record::{Acl, Stat, event, xid as xids};
use crate::wire::request::{DecodeError, Request, SetWatches, StringList, opcode};
use crate::wire::response::{self, code};

/// What an answer needs besides the request.
pub struct Reads<'a> {
    pub state: &'a State,
    pub watches: &'a mut Watches,
    pub auth: &'a AuthConfig,
    /// What would register more watches than these allow is refused with SYSTEMERROR.
    pub bounds: &'a Bounds,
    pub conn: ConnId,
    pub session: i64,
    pub ids: &'a Identities,
    /// What `/zookeeper/config` holds on this server; empty for what is in the tree.
    pub membership: &'a str,
}

/// What becomes of the connection after the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    Open,
    Close,
    /// Open, and the refused request would have gone beyond so many watches.
    TooManyWatches(usize),
}

pub(super) type Answer = Result<(), i32>;

impl Reads<'_> {
    /// Appends the reply to a request frame's body (and watch events that must precede it) to `out`.
    pub fn answer(&mut self, xid: i32, op: i32, body: &[u8], out: &mut Vec<u8>) -> After {
        let zxid = self.state.applied();
        let request = match Request::decode(op, body) {
            Ok(request) => request,
            Err(DecodeError::Unimplemented) => {
                // As ZooKeeper: the zxid of a request that never had one.
                response::reply(out, xid, u64::MAX, code::UNIMPLEMENTED);
                return After::Close;
            }
            Err(DecodeError::Malformed) => {
                let mark = response::begin_reply(out, xid, zxid, code::MARSHALLING_ERROR);
                // ZooKeeper notices writes inside a multiRead only when it has begun its answer.
                if op == opcode::MULTI_READ && Request::decode(opcode::MULTI, body).is_ok() {
                    response::multi_end(out);
                }
                response::end_frame(out, mark);
                return After::Open;
            }
        };
        let xid = if op == opcode::PING { xids::PING } else { xid };
        if let Some(most) = self.too_many_watches(&request) {
            response::reply(out, xid, zxid, code::SYSTEM_ERROR);
            return After::TooManyWatches(most);
        }
        if let Request::SetWatches(set) | Request::SetWatches2(set) = &request {
            self.set_watches(set, out);
        }
        let mark = response::begin_reply(out, xid, zxid, code::OK);
        match self.body(&request, out) {
            Ok(()) => response::end_frame(out, mark),
            Err(refused) => {
                out.truncate(mark);
                response::reply(out, xid, zxid, refused);
            }
        }
        After::Open
    }

    /// The bound that the request's watches might go beyond: those that are there already count again.
    fn too_many_watches(&self, request: &Request<'_>) -> Option<usize> {
        let wanted = registers(request);
        if wanted == 0 {
            return None;
        }
        let beyond = |have: usize, most: usize| (have + wanted > most).then_some(most);
        let (all, own) = (self.watches.watch_count(), self.watches.watched_by(self.conn));
        beyond(own, self.bounds.watches_per_connection_max).or_else(|| beyond(all, self.bounds.watches_max))
    }

    fn body(&mut self, request: &Request<'_>, out: &mut Vec<u8>) -> Answer {
        match request {
            Request::Ping | Request::SetWatches(_) | Request::SetWatches2(_) => Ok(()),
            Request::Exists { path, watch } => self.exists(path, *watch, out),
            Request::GetData { path, watch } => self.get_data(path, *watch, out),
            Request::GetChildren { path, watch } => self.get_children(path, *watch, false, out),
            Request::GetChildren2 { path, watch } => self.get_children(path, *watch, true, out),
            Request::GetAcl { path } => self.get_acl(path, out),
            Request::MultiRead(ops) => self.multi_read(ops.iter(), out),
            Request::GetEphemerals { prefix } => self.get_ephemerals(prefix, out),
            Request::GetAllChildrenNumber { path } => self.get_all_children_number(path, out),
            Request::WhoAmI => self.who_am_i(out),
            Request::AddWatch { path, mode } => self.add_watch(path, *mode, out),
            Request::CheckWatches { path, kind } => self.check_watches(path, *kind),
            Request::RemoveWatches { path, kind } => self.remove_watches(path, *kind),
            Request::Extension(extension) => self.extension(extension, true, out),
            other => unreachable!("{other:?} is not answered by a shard"),
        }
    }

    fn permits(&self, acl: &[Acl], need: i32) -> bool {
        auth::permits(self.auth, acl, need, self.ids.list.iter().map(|id| (id.scheme.as_str(), id.id.as_str())))
    }

    /// The node a read names. The empty path is the root too, as in ZooKeeper's table.
    fn find(&self, path: &str) -> Option<NodeRef<'_>> {
        self.state.find(if path.is_empty() { path::ROOT } else { path })
    }

    pub(super) fn may_read(&self, node: NodeRef<'_>) -> bool {
        node.acl_id() == AclId::OPEN || self.permits(self.state.acl(node.acl_id()), perm::READ)
    }

    pub(super) fn readable(&self, path: &str) -> Result<NodeRef<'_>, i32> {
        let node = self.find(path).ok_or(code::NO_NODE)?;
        if self.may_read(node) { Ok(node) } else { Err(code::NO_AUTH) }
    }

    fn exists(&mut self, path: &str, watch: bool, out: &mut Vec<u8>) -> Answer {
        if path.contains('\0') {
            return Err(code::BAD_ARGUMENTS);
        }
        let found = match (self.readable(path), extension::virtual_node(path)) {
            (Err(code::NO_NODE), Some(data)) => Ok(extension::virtual_stat(data)),
            (found, _) => found.map(|node| self.shown(path, node).1),
        };
        if watch && found != Err(code::NO_AUTH) {
            self.watches.add(path, self.conn, WatchKind::Data);
        }
        found?.encode(out);
        Ok(())
    }

    fn get_data(&mut self, path: &str, watch: bool, out: &mut Vec<u8>) -> Answer {
        let (data, stat) = match (self.readable(path), extension::virtual_node(path)) {
            (Err(code::NO_NODE), Some(data)) => (Some(data), extension::virtual_stat(data)),
            (found, _) => found.map(|node| self.shown(path, node))?,
        };
        jute::write_buffer(out, data);
        stat.encode(out);
        if watch {
            self.watches.add(path, self.conn, WatchKind::Data);
        }
        Ok(())
    }

    /// Data and Stat of a node as clients see them: every server tells the membership that it was started with.
    fn shown<'n>(&'n self, path: &str, node: NodeRef<'n>) -> (Option<&'n [u8]>, Stat) {
        if path != "/zookeeper/config" || self.membership.is_empty() {
            return (node.data(), node.stat());
        }
        let stat = Stat { version: -1, data_length: self.membership.len() as i32, ..node.stat() };
        (Some(self.membership.as_bytes()), stat)
    }

    fn get_children(&mut self, path: &str, watch: bool, with_stat: bool, out: &mut Vec<u8>) -> Answer {
        let node = self.readable(path)?;
        jute::write_i32(out, node.num_children() as i32);
        node.children().for_each(|name| jute::write_string(out, name));
        if with_stat {
            node.stat().encode(out);
        }
        if watch {
            self.watches.add(path, self.conn, WatchKind::Child);
        }
        Ok(())
    }

    fn get_acl(&self, path: &str, out: &mut Vec<u8>) -> Answer {
        let node = self.find(path).ok_or(code::NO_NODE)?;
        let acl = self.state.acl(node.acl_id());
        if !self.permits(acl, perm::READ | perm::ADMIN) {
            return Err(code::NO_AUTH);
        }
        let administers = self.permits(acl, perm::ADMIN);
        jute::write_i32(out, acl.len() as i32);
        for entry in acl {
            jute::write_i32(out, entry.perms);
            jute::write_string(out, &entry.scheme);
            match entry.scheme == "digest" && !administers {
                true => jute::write_string(out, &auth::redacted(&entry.id)),
                false => jute::write_string(out, &entry.id),
            }
        }
        node.stat().encode(out);
        Ok(())
    }

    /// Every operation gets its own result; the watch flags inside are ignored, as in ZooKeeper. A result that makes the
    /// reply too long is an error instead.
    fn multi_read<'r>(&mut self, ops: impl Iterator<Item = Request<'r>>, out: &mut Vec<u8>) -> Answer {
        let mark = out.len();
        for op in ops {
            let start = out.len();
            let kind = match &op {
                Request::Extension(one) => extension::kind_in_multi_read(one),
                _ => op.opcode(),
            };
            response::multi_header(out, kind, false, code::OK);
            let result = match &op {
                Request::GetData { path, .. } => self.get_data(path, false, out),
                Request::GetChildren { path, .. } => self.get_children(path, false, false, out),
                Request::Exists { path, .. } => self.exists(path, false, out),
                Request::Extension(one) => self.extension(one, false, out),
                other => unreachable!("the decoder lets only reads into a multiRead, not {other:?}"),
            };
            let fits = out.len() - mark <= GATHERED_BYTES_MAX;
            if let Err(refused) = result.and(if fits { Ok(()) } else { Err(code::BAD_ARGUMENTS) }) {
                out.truncate(start);
                response::multi_error(out, refused);
            }
        }
        response::multi_end(out);
        Ok(())
    }

    fn get_ephemerals(&self, prefix: &str, out: &mut Vec<u8>) -> Answer {
        let mark = out.len();
        jute::write_i32(out, 0);
        let mut count = 0i32;
        // Java's trim takes control characters and spaces of ASCII for white space, and nothing else.
        let all = matches!(prefix.trim_matches(|c| c <= ' '), "" | "/");
        let prefix = if all { "" } else { prefix };
        for path in self.state.ephemerals(self.session).into_iter().filter(|path| path.starts_with(prefix)) {
            jute::write_string(out, &path);
            count += 1;
        }
        out[mark..mark + 4].copy_from_slice(&count.to_be_bytes());
        Ok(())
    }

    fn get_all_children_number(&self, path: &str, out: &mut Vec<u8>) -> Answer {
        let node = self.readable(path)?;
        // ZooKeeper's table holds the root as "" and as "/". It counts neither for "/" (T47), and "/" for "".
        let number = match path {
            "/" => self.state.node_count() as i32 - 1,
            "" => self.state.node_count() as i32,
            _ => node.descendants() as i32,
        };
        jute::write_i32(out, number);
        Ok(())
    }

    fn who_am_i(&self, out: &mut Vec<u8>) -> Answer {
        jute::write_i32(out, self.ids.list.len() as i32);
        for id in &self.ids.list {
            jute::write_string(out, &id.scheme);
            let user = if id.scheme == "digest" { id.id.split(':').next().unwrap_or("") } else { &id.id };
            jute::write_string(out, user);
        }
        Ok(())
    }

    fn add_watch(&mut self, path: &str, mode: i32, out: &mut Vec<u8>) -> Answer {
        let kind = match mode {
            0 => WatchKind::Persistent,
            1 => WatchKind::PersistentRecursive,
            _ => return Err(code::MARSHALLING_ERROR),
        };
        self.watches.add(path, self.conn, kind);
        jute::write_i32(out, code::OK);
        Ok(())
    }

    fn check_watches(&self, path: &str, kind: i32) -> Answer {
        let kind = WatcherType::from_wire(kind).ok_or(code::MARSHALLING_ERROR)?;
        if self.watches.check(path, self.conn, kind) { Ok(()) } else { Err(code::NO_WATCHER) }
    }

    fn remove_watches(&mut self, path: &str, kind: i32) -> Answer {
        let kind = WatcherType::from_wire(kind).ok_or(code::MARSHALLING_ERROR)?;
        if self.watches.remove(path, self.conn, kind) { Ok(()) } else { Err(code::NO_WATCHER) }
    }

    /// After a reconnect: what changed meanwhile is told at once (without a look at access control, as ZooKeeper),
    /// everything else is watched again.
    fn set_watches(&mut self, set: &SetWatches<'_>, out: &mut Vec<u8>) {
        let seen = set.relative_zxid;
        for path in set.data.iter() {
            match self.find(&path).map(|node| node.stat().mzxid) {
                None if extension::virtual_node(&path).is_some() => self.watches.add(&path, self.conn, WatchKind::Data),
                None => catch_up(event::NODE_DELETED, &path, out),
                Some(mzxid) if mzxid > seen => catch_up(event::NODE_DATA_CHANGED, &path, out),
                Some(_) => self.watches.add(&path, self.conn, WatchKind::Data),
            }
        }
        for path in set.exist.iter() {
            match self.find(&path) {
                Some(_) => catch_up(event::NODE_CREATED, &path, out),
                None => self.watches.add(&path, self.conn, WatchKind::Data),
            }
        }
        for path in set.child.iter() {
            match self.find(&path).map(|node| node.stat().pzxid) {
                None => catch_up(event::NODE_DELETED, &path, out),
                Some(pzxid) if pzxid > seen => catch_up(event::NODE_CHILDREN_CHANGED, &path, out),
                Some(_) => self.watches.add(&path, self.conn, WatchKind::Child),
            }
        }
        set.persistent.iter().for_each(|path| self.watches.add(&path, self.conn, WatchKind::Persistent));
        set.persistent_recursive.iter().for_each(|path| self.watches.add(&path, self.conn, WatchKind::PersistentRecursive));
    }
}

/// About how long the reply to a request frame would be, as things stand. For bounds, not for promises.
pub fn reply_bytes(state: &State, session: i64, frame: &[u8]) -> usize {
    /// Headers, a Stat, a path.
    const SMALL: usize = 256;
    const NAME: usize = 40;
    const DATA: usize = 1024;
    let of = |request: &Request<'_>| match request {
        Request::GetData { path, .. } => state.find(path).and_then(|node| node.data()).map_or(0, <[u8]>::len),
        Request::GetChildren { path, .. } | Request::GetChildren2 { path, .. } => {
            state.find(path).map_or(0, |node| node.num_children() as usize * NAME)
        }
        Request::Extension(Extension::FilteredList { path, .. }) => state.find(path).map_or(0, |node| node.num_children() as usize * NAME),
        Request::Extension(Extension::ListWithStatsAndData { path, data, .. }) => {
            let each = if *data { DATA } else { 0 } + NAME + SMALL;
            state.find(path).map_or(0, |node| node.num_children() as usize * each).min(GATHERED_BYTES_MAX)
        }
        Request::Extension(Extension::ChildrenPage(_)) => PAGE_BYTES_MAX,
        Request::GetEphemerals { .. } => state.session(session).map_or(0, |s| s.ephemeral_count() * 2 * NAME),
        _ => 0,
    };
    let Some((op, body)) = frame.get(4..).and_then(|rest| rest.split_first_chunk::<4>()) else { return SMALL };
    match Request::decode(i32::from_be_bytes(*op), body) {
        Ok(Request::MultiRead(ops)) => SMALL + ops.iter().map(|op| of(&op) + SMALL).sum::<usize>(),
        Ok(request) => SMALL + of(&request),
        Err(_) => SMALL,
    }
}

/// How many watches a request may leave behind.
fn registers(request: &Request<'_>) -> usize {
    match request {
        Request::Exists { watch, .. }
        | Request::GetData { watch, .. }
        | Request::GetChildren { watch, .. }
        | Request::GetChildren2 { watch, .. } => usize::from(*watch),
        Request::AddWatch { .. } => 1,
        Request::SetWatches(set) | Request::SetWatches2(set) => {
            [set.data, set.exist, set.child, set.persistent, set.persistent_recursive].iter().map(StringList::len).sum()
        }
        Request::Extension(extension) => usize::from(extension.watches()),
        _ => 0,
    }
}

fn catch_up(kind: i32, path: &str, out: &mut Vec<u8>) {
    response::watch_event(out, u64::MAX, kind, path);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::jute::Reader;
    use crate::wire::response::ReplyHeader;

    #[test]
    fn a_full_shard_takes_no_more_watches() {
        let (state, mut watches, auth, ids) = (State::new(false), Watches::default(), AuthConfig::default(), Identities::new(Vec::new()));
        let bounds = Bounds { watches_max: 0, ..Bounds::default() };
        let (watches, conn) = (&mut watches, ConnId::new(0, 0));
        let mut reads = Reads { state: &state, watches, auth: &auth, bounds: &bounds, conn, session: 1, ids: &ids, membership: "" };
        let mut err = |request: Request<'_>| {
            let (mut body, mut out) = (Vec::new(), Vec::new());
            request.encode(&mut body);
            let after = reads.answer(1, request.opcode(), &body, &mut out);
            assert_ne!(after, After::Close);
            (ReplyHeader::decode(&mut Reader::new(&out[4..])).unwrap().err, after == After::TooManyWatches(0))
        };
        assert_eq!(err(Request::GetData { path: "/".into(), watch: true }), (code::SYSTEM_ERROR, true));
        assert_eq!(err(Request::AddWatch { path: "/".into(), mode: 0 }), (code::SYSTEM_ERROR, true));
        assert_eq!(err(Request::GetData { path: "/".into(), watch: false }), (code::OK, false));
        assert!(reads.watches.is_empty());
    }
}
