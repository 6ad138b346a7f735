//! What a simulated client asks for, as values that own their strings, and their encoding as frames. The encoding is
//! written from the protocol's description and shares only the primitive writers with the server's.
//! Refuses to know answers.

use crate::wire::extension::opcode as extension;
use crate::wire::jute::{write_bool, write_buffer, write_i32, write_i64, write_string};
use crate::wire::record::Acl;
use crate::wire::request::opcode;

/// Node data: None is null.
pub type Data = Option<Vec<u8>>;

/// The lists of a setWatches2.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WatchLists {
    pub relative_zxid: u64,
    pub data: Vec<String>,
    pub exist: Vec<String>,
    pub child: Vec<String>,
    pub persistent: Vec<String>,
    pub recursive: Vec<String>,
}

/// One request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ask {
    /// `op` is one of the four creating opcodes, or createIfNotExists; `ttl_ms` is only sent with createTTL.
    Create {
        op: i32,
        path: String,
        data: Data,
        acl: Vec<Acl>,
        flags: i32,
        ttl_ms: i64,
    },
    Delete {
        path: String,
        version: i32,
    },
    /// An extension: a delete that is content when it cannot be had.
    TryRemove {
        path: String,
        version: i32,
    },
    /// An extension: the node and all below it, at most so many.
    RemoveRecursive {
        path: String,
        nodes_max: i32,
    },
    SetData {
        path: String,
        data: Data,
        version: i32,
    },
    SetAcl {
        path: String,
        acl: Vec<Acl>,
        version: i32,
    },
    /// Only inside a multi.
    Check {
        path: String,
        version: i32,
    },
    Multi(Vec<Ask>),
    Reconfig,
    CloseSession,
    Sync {
        path: String,
    },
    Exists {
        path: String,
        watch: bool,
    },
    GetData {
        path: String,
        watch: bool,
    },
    GetChildren {
        path: String,
        watch: bool,
    },
    GetChildren2 {
        path: String,
        watch: bool,
    },
    GetAcl {
        path: String,
    },
    /// Of GetData and GetChildren.
    MultiRead(Vec<Ask>),
    GetEphemerals {
        prefix: String,
    },
    GetAllChildrenNumber {
        path: String,
    },
    WhoAmI,
    Ping,
    /// Scheme digest.
    Auth {
        credentials: Vec<u8>,
    },
    AddWatch {
        path: String,
        mode: i32,
    },
    CheckWatches {
        path: String,
        kind: i32,
    },
    RemoveWatches {
        path: String,
        kind: i32,
    },
    SetWatches(WatchLists),
}

impl Ask {
    pub fn opcode(&self) -> i32 {
        match self {
            Ask::Create { op, .. } => *op,
            Ask::Delete { .. } => opcode::DELETE,
            Ask::TryRemove { .. } => extension::TRY_REMOVE,
            Ask::RemoveRecursive { .. } => extension::REMOVE_RECURSIVE,
            Ask::SetData { .. } => opcode::SET_DATA,
            Ask::SetAcl { .. } => opcode::SET_ACL,
            Ask::Check { .. } => opcode::CHECK,
            Ask::Multi(_) => opcode::MULTI,
            Ask::Reconfig => opcode::RECONFIG,
            Ask::CloseSession => opcode::CLOSE_SESSION,
            Ask::Sync { .. } => opcode::SYNC,
            Ask::Exists { .. } => opcode::EXISTS,
            Ask::GetData { .. } => opcode::GET_DATA,
            Ask::GetChildren { .. } => opcode::GET_CHILDREN,
            Ask::GetChildren2 { .. } => opcode::GET_CHILDREN2,
            Ask::GetAcl { .. } => opcode::GET_ACL,
            Ask::MultiRead(_) => opcode::MULTI_READ,
            Ask::GetEphemerals { .. } => opcode::GET_EPHEMERALS,
            Ask::GetAllChildrenNumber { .. } => opcode::GET_ALL_CHILDREN_NUMBER,
            Ask::WhoAmI => opcode::WHO_AM_I,
            Ask::Ping => opcode::PING,
            Ask::Auth { .. } => opcode::AUTH,
            Ask::AddWatch { .. } => opcode::ADD_WATCH,
            Ask::CheckWatches { .. } => opcode::CHECK_WATCHES,
            Ask::RemoveWatches { .. } => opcode::REMOVE_WATCHES,
            Ask::SetWatches(_) => opcode::SET_WATCHES2,
        }
    }

    /// Whether the pipeline orders it and its answer is a transaction.
    pub fn is_write(&self) -> bool {
        matches!(
            self,
            Ask::Create { .. }
                | Ask::Delete { .. }
                | Ask::TryRemove { .. }
                | Ask::RemoveRecursive { .. }
                | Ask::SetData { .. }
                | Ask::SetAcl { .. }
                | Ask::Multi(_)
                | Ask::Reconfig
                | Ask::CloseSession
        )
    }

    /// Whether a server with a full disk may refuse it: what frees room goes through.
    pub fn may_grow(&self) -> bool {
        let shrinks = matches!(self, Ask::Delete { .. } | Ask::TryRemove { .. } | Ask::RemoveRecursive { .. } | Ask::CloseSession);
        self.is_write() && !shrinks
    }

    /// Appends the whole frame: length, xid, opcode, record.
    pub fn encode_frame(&self, xid: i32, out: &mut Vec<u8>) {
        let mark = out.len();
        write_i32(out, 0);
        write_i32(out, xid);
        write_i32(out, self.opcode());
        self.encode(out);
        let len = (out.len() - mark - 4) as i32;
        out[mark..mark + 4].copy_from_slice(&len.to_be_bytes());
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Ask::Reconfig => {
                (0..3).for_each(|_| write_buffer(out, None));
                write_i64(out, -1);
            }
            Ask::CloseSession | Ask::WhoAmI | Ask::Ping => {}
            Ask::Create { op, path, data, acl, flags, ttl_ms } => {
                write_string(out, path);
                write_buffer(out, data.as_deref());
                write_acl(out, acl);
                write_i32(out, *flags);
                if *op == opcode::CREATE_TTL {
                    write_i64(out, *ttl_ms);
                }
            }
            Ask::SetData { path, data, version } => {
                write_string(out, path);
                write_buffer(out, data.as_deref());
                write_i32(out, *version);
            }
            Ask::SetAcl { path, acl, version } => {
                write_string(out, path);
                write_acl(out, acl);
                write_i32(out, *version);
            }
            Ask::Delete { path, version: number }
            | Ask::TryRemove { path, version: number }
            | Ask::RemoveRecursive { path, nodes_max: number }
            | Ask::Check { path, version: number }
            | Ask::AddWatch { path, mode: number }
            | Ask::CheckWatches { path, kind: number }
            | Ask::RemoveWatches { path, kind: number } => {
                write_string(out, path);
                write_i32(out, *number);
            }
            Ask::Sync { path } | Ask::GetAcl { path } | Ask::GetAllChildrenNumber { path } | Ask::GetEphemerals { prefix: path } => {
                write_string(out, path);
            }
            Ask::Exists { path, watch }
            | Ask::GetData { path, watch }
            | Ask::GetChildren { path, watch }
            | Ask::GetChildren2 { path, watch } => {
                write_string(out, path);
                write_bool(out, *watch);
            }
            Ask::Multi(asks) | Ask::MultiRead(asks) => {
                for ask in asks {
                    write_multi_header(out, ask.opcode(), false, -1);
                    ask.encode(out);
                }
                write_multi_header(out, -1, true, -1);
            }
            Ask::Auth { credentials } => {
                write_i32(out, 0);
                write_string(out, "digest");
                write_buffer(out, Some(credentials));
            }
            Ask::SetWatches(lists) => {
                write_i64(out, lists.relative_zxid as i64);
                for list in [&lists.data, &lists.exist, &lists.child, &lists.persistent, &lists.recursive] {
                    write_i32(out, list.len() as i32);
                    list.iter().for_each(|path| write_string(out, path));
                }
            }
        }
    }
}

/// The header before each operation and each result of a multi.
pub fn write_multi_header(out: &mut Vec<u8>, kind: i32, done: bool, err: i32) {
    write_i32(out, kind);
    write_bool(out, done);
    write_i32(out, err);
}

fn write_acl(out: &mut Vec<u8>, acl: &[Acl]) {
    write_i32(out, acl.len() as i32);
    for entry in acl {
        write_i32(out, entry.perms);
        write_string(out, &entry.scheme);
        write_string(out, &entry.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::request::Request;

    /// The server understands every request, and as what it is.
    #[test]
    fn the_server_reads_what_clients_write() {
        let path = || "/a".to_string();
        let acl = || vec![Acl { perms: 31, scheme: "world".into(), id: "anyone".into() }];
        let create = |op, flags| Ask::Create { op, path: path(), data: Some(vec![1]), acl: acl(), flags, ttl_ms: 5 };
        let lists = WatchLists { relative_zxid: 3, data: vec![path()], recursive: vec![path()], ..WatchLists::default() };
        for ask in [
            create(opcode::CREATE, 1),
            create(opcode::CREATE_TTL, 5),
            create(extension::CREATE_IF_NOT_EXISTS, 1),
            Ask::TryRemove { path: path(), version: 3 },
            Ask::RemoveRecursive { path: path(), nodes_max: 4 },
            Ask::Multi(vec![create(opcode::CREATE2, 0), Ask::Check { path: path(), version: 1 }]),
            Ask::MultiRead(vec![Ask::GetData { path: path(), watch: true }]),
            Ask::SetAcl { path: path(), acl: acl(), version: 2 },
            Ask::SetData { path: path(), data: None, version: 2 },
            Ask::GetChildren2 { path: path(), watch: true },
            Ask::AddWatch { path: path(), mode: 1 },
            Ask::SetWatches(lists),
            Ask::Auth { credentials: b"u:p".to_vec() },
            Ask::Reconfig,
        ] {
            let mut frame = Vec::new();
            ask.encode_frame(9, &mut frame);
            assert_eq!(frame.len() - 4, u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize);
            let read = Request::decode(ask.opcode(), &frame[12..]).unwrap_or_else(|e| panic!("{ask:?}: {e:?}"));
            let mut again = Vec::new();
            read.encode(&mut again);
            assert_eq!(again, frame[12..], "{ask:?}");
        }
    }
}
