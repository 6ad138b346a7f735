//! Snapshots of the state as records: little endian, each preceded by its length, none depending on how the writer's
//! memory was laid out beyond the node slots, which only say who is whose child.
//!
//! ```text
//! record   length u32 (of what follows)   tag u8   body
//! head     version u16   zxid u64
//! acl      number u32   count u32   count x (perms i32   scheme length u32   id length u32   scheme   id)
//! node     slot u32   parent u32   czxid mzxid pzxid u64   ctime mtime (ms) owner i64   version aversion i32
//!          creates u32   acl u32   data length u32 (u32::MAX: null)   name length u32   name   data
//! session  id i64   timeout_ms i32   password 16   owner: conn u64   sequence boot u32   server shard u16
//! end      nodes u64   sessions u64   has digest u8   digest u128
//! ```
//! The head comes first, an ACL before the first node that names it, the end last; nodes come in any order.
//! Checksums belong to the file around it. [`State::snapshot_slice`] writes, [`Loader`] reads.
//! Refuses to be fuzzy: a snapshot is the state at one zxid, whatever is applied while it is written.

mod load;
mod walk;

pub use load::{BadSnapshot, Loader};
pub(super) use walk::Walk;

use super::session::Session;
use super::{AclId, State};
use crate::wire::txn::Origin;

/// The version written, and the only one read.
pub const VERSION: u16 = 1;

const HEAD: u8 = 1;
const ACL: u8 = 2;
const NODE: u8 = 3;
const SESSION: u8 = 4;
const END: u8 = 5;
/// The data length of null data.
const NULL: u32 = u32::MAX;

/// Appends one record; `body` appends what follows the tag.
fn record(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0, 0, 0, 0, tag]);
    body(out);
    let len = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

fn encode_head(out: &mut Vec<u8>, zxid: u64) {
    record(out, HEAD, |out| {
        out.extend_from_slice(&VERSION.to_le_bytes());
        put_u64(out, zxid);
    });
}

fn encode_acl(out: &mut Vec<u8>, state: &State, id: AclId) {
    let list = state.acl(id);
    record(out, ACL, |out| {
        put_u32(out, id.0);
        put_u32(out, list.len() as u32);
        for acl in list {
            put_u32(out, acl.perms as u32);
            put_u32(out, acl.scheme.len() as u32);
            put_u32(out, acl.id.len() as u32);
            out.extend_from_slice(acl.scheme.as_bytes());
            out.extend_from_slice(acl.id.as_bytes());
        }
    });
}

fn encode_node(out: &mut Vec<u8>, state: &State, slot: u32) {
    let (node, view) = (state.nodes.get(slot), state.node(slot));
    let (name, data) = (state.nodes.name(slot), state.nodes.data(slot));
    record(out, NODE, |out| {
        put_u32(out, slot);
        put_u32(out, node.parent);
        for field in [node.czxid, node.mzxid, view.pzxid(), node.ctime_ms as u64, node.mtime_ms as u64, view.owner() as u64] {
            put_u64(out, field);
        }
        for field in [node.version as u32, view.aversion() as u32, view.creates(), node.acl] {
            put_u32(out, field);
        }
        put_u32(out, data.map_or(NULL, |d| d.len() as u32));
        put_u32(out, name.len() as u32);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(data.unwrap_or_default());
    });
}

fn encode_session(out: &mut Vec<u8>, id: i64, session: &Session) {
    let Origin { conn, sequence, boot, server, shard } = session.owner;
    record(out, SESSION, |out| {
        put_u64(out, id as u64);
        put_u32(out, session.timeout_ms as u32);
        out.extend_from_slice(&session.password);
        put_u64(out, conn);
        put_u32(out, sequence);
        put_u32(out, boot);
        out.extend_from_slice(&server.to_le_bytes());
        out.extend_from_slice(&shard.to_le_bytes());
    });
}

fn encode_end(out: &mut Vec<u8>, nodes: u64, sessions: u64, digest: Option<u128>) {
    record(out, END, |out| {
        put_u64(out, nodes);
        put_u64(out, sessions);
        out.push(u8::from(digest.is_some()));
        out.extend_from_slice(&digest.unwrap_or(0).to_le_bytes());
    });
}
