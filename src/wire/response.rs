//! Replies and watch events as whole frames appended to an output buffer, the same read back for clients, and the
//! error codes. Nothing is allocated on the way out. Refuses to decide which reply is right.

use super::extension::opcode as extension;
use super::jute::{Malformed, Reader, write_bool, write_buffer, write_i32, write_i64, write_string};
use super::record::{ConnectResponse, STATE_SYNC_CONNECTED, Stat, xid as xids};
use super::request::{AclList, StringList, opcode};
use std::borrow::Cow;

/// ZooKeeper's error numbers (KeeperException.Code). No others may be sent: the Java client throws on unknown ones.
pub mod code {
    pub const OK: i32 = 0;
    pub const SYSTEM_ERROR: i32 = -1;
    pub const RUNTIME_INCONSISTENCY: i32 = -2;
    pub const MARSHALLING_ERROR: i32 = -5;
    pub const UNIMPLEMENTED: i32 = -6;
    pub const BAD_ARGUMENTS: i32 = -8;
    pub const NO_NODE: i32 = -101;
    pub const NO_AUTH: i32 = -102;
    pub const BAD_VERSION: i32 = -103;
    pub const NO_CHILDREN_FOR_EPHEMERALS: i32 = -108;
    pub const NODE_EXISTS: i32 = -110;
    pub const NOT_EMPTY: i32 = -111;
    pub const SESSION_EXPIRED: i32 = -112;
    pub const INVALID_ACL: i32 = -114;
    pub const AUTH_FAILED: i32 = -115;
    pub const NO_WATCHER: i32 = -121;
    pub const RECONFIG_DISABLED: i32 = -123;
    pub const QUOTA_EXCEEDED: i32 = -125;

    /// The name that ZooKeeper's documentation uses.
    pub fn name(code: i32) -> &'static str {
        match code {
            OK => "OK",
            SYSTEM_ERROR => "SystemError",
            RUNTIME_INCONSISTENCY => "RuntimeInconsistency",
            MARSHALLING_ERROR => "MarshallingError",
            UNIMPLEMENTED => "Unimplemented",
            BAD_ARGUMENTS => "BadArguments",
            NO_NODE => "NoNode",
            NO_AUTH => "NoAuth",
            BAD_VERSION => "BadVersion",
            NO_CHILDREN_FOR_EPHEMERALS => "NoChildrenForEphemerals",
            NODE_EXISTS => "NodeExists",
            NOT_EMPTY => "NotEmpty",
            SESSION_EXPIRED => "SessionExpired",
            INVALID_ACL => "InvalidACL",
            AUTH_FAILED => "AuthFailed",
            NO_WATCHER => "NoWatcher",
            RECONFIG_DISABLED => "ReconfigDisabled",
            QUOTA_EXCEEDED => "QuotaExceeded",
            _ => "unknown error",
        }
    }
}

/// Starts a reply frame; what is appended up to `end_frame(out, mark)` is its record.
#[must_use]
pub fn begin_reply(out: &mut Vec<u8>, xid: i32, zxid: u64, err: i32) -> usize {
    let mark = out.len();
    let mut head = [0u8; 20];
    head[4..8].copy_from_slice(&xid.to_be_bytes());
    head[8..16].copy_from_slice(&zxid.to_be_bytes());
    head[16..20].copy_from_slice(&err.to_be_bytes());
    out.extend_from_slice(&head);
    mark
}

/// Fills in the length of the frame that starts at `mark`.
pub fn end_frame(out: &mut [u8], mark: usize) {
    let len = (out.len() - mark - 4) as i32;
    out[mark..mark + 4].copy_from_slice(&len.to_be_bytes());
}

/// A reply without a record: an error, or an operation that returns nothing.
pub fn reply(out: &mut Vec<u8>, xid: i32, zxid: u64, err: i32) {
    let mark = begin_reply(out, xid, zxid, err);
    end_frame(out, mark);
}

/// The answer to a handshake.
pub fn connect(out: &mut Vec<u8>, timeout_ms: i32, session: i64, password: &[u8; 16], read_only: Option<bool>) {
    ConnectResponse { protocol_version: 0, timeout_ms, session, password, read_only }.encode(out);
}

/// A watch event; `zxid` is the transaction's, or -1 (as u64) for one that catches up after a reconnect.
pub fn watch_event(out: &mut Vec<u8>, zxid: u64, kind: i32, path: &str) {
    let mark = begin_reply(out, xids::NOTIFICATION, zxid, code::OK);
    write_i32(out, kind);
    write_i32(out, STATE_SYNC_CONNECTED);
    write_string(out, path);
    end_frame(out, mark);
}

/// The header before each result of a multi, and after the last.
pub fn multi_header(out: &mut Vec<u8>, kind: i32, done: bool, err: i32) {
    write_i32(out, kind);
    out.push(u8::from(done));
    write_i32(out, err);
}

/// A failed operation inside a multi or multiRead.
pub fn multi_error(out: &mut Vec<u8>, err: i32) {
    multi_header(out, -1, false, err);
    write_i32(out, err);
}

/// Ends the results of a multi.
pub fn multi_end(out: &mut Vec<u8>) {
    multi_header(out, -1, true, -1);
}

/// A refused multi: the reply's own error is 0, every result is an error (T01, T02).
pub fn multi_refused(out: &mut Vec<u8>, xid: i32, zxid: u64, codes: impl Iterator<Item = i32>) {
    let mark = begin_reply(out, xid, zxid, code::OK);
    codes.for_each(|code| multi_error(out, code));
    multi_end(out);
    end_frame(out, mark);
}

/// The fixed part of every reply and event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyHeader {
    pub xid: i32,
    pub zxid: i64,
    pub err: i32,
}

impl ReplyHeader {
    pub fn decode(reader: &mut Reader<'_>) -> Result<ReplyHeader, Malformed> {
        Ok(ReplyHeader { xid: reader.i32()?, zxid: reader.i64()?, err: reader.i32()? })
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        write_i32(out, self.xid);
        write_i64(out, self.zxid);
        write_i32(out, self.err);
    }
}

/// What happened to a watched path, as a client reads it behind a header with the xid of notifications.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatchEvent<'a> {
    /// One of [`super::record::event`].
    pub kind: i32,
    pub state: i32,
    pub path: Cow<'a, str>,
}

impl<'a> WatchEvent<'a> {
    pub fn decode(reader: &mut Reader<'a>) -> Result<WatchEvent<'a>, Malformed> {
        Ok(WatchEvent { kind: reader.i32()?, state: reader.i32()?, path: reader.required()? })
    }
}

/// The record behind the header of a reply whose error is 0, borrowed from its frame.
#[derive(Clone, Debug)]
pub enum Response<'a> {
    /// Nothing, whatever was asked: delete, ping, the watch requests, auth, closeSession.
    Done,
    /// create, createIfNotExists and sync.
    Path(Cow<'a, str>),
    /// create2, createContainer, createTTL.
    Created(Cow<'a, str>, Stat),
    /// exists, setData, setACL.
    Stat(Stat),
    /// getData and reconfig.
    Data(Option<&'a [u8]>, Stat),
    /// getChildren and getEphemerals.
    Names(StringList<'a>),
    /// getChildren2 and the filtered list.
    Children(StringList<'a>, Stat),
    /// The list with Stats and data; what was not asked for is empty.
    Listing { names: StringList<'a>, stat: Stat, stats: Vec<Stat>, data: Vec<Option<&'a [u8]>> },
    /// A page of children: whether there are more, and the Stat of the node.
    Page(StringList<'a>, bool, Stat),
    /// getACL.
    Acl(AclList<'a>, Stat),
    /// getAllChildrenNumber; also addWatch, which answers with a second error number.
    Number(i32),
    /// whoAmI: scheme and user of every identity.
    Identities(Vec<(Cow<'a, str>, Cow<'a, str>)>),
    /// multi and multiRead, one per operation.
    Multi(Vec<OpResponse<'a>>),
}

/// The result of one operation of a multi or multiRead.
#[derive(Clone, Debug)]
pub struct OpResponse<'a> {
    /// The type that the server gives; all creates that return a Stat are create2.
    pub kind: i32,
    /// A failed operation has its error here instead of a record. In a failed multi every operation is one: 0 before
    /// the one that failed, RUNTIMEINCONSISTENCY after it.
    pub result: Result<Response<'a>, i32>,
}

impl<'a> Response<'a> {
    /// Reads the record that answers a request with opcode `op`. An opcode that no record is known for reads as `Done`.
    pub fn decode(op: i32, r: &mut Reader<'a>) -> Result<Response<'a>, Malformed> {
        Ok(match op {
            opcode::CREATE | opcode::SYNC | extension::CREATE_IF_NOT_EXISTS => Response::Path(r.required()?),
            opcode::CREATE2 | opcode::CREATE_CONTAINER | opcode::CREATE_TTL => Response::Created(r.required()?, Stat::decode(r)?),
            opcode::EXISTS | opcode::SET_DATA | opcode::SET_ACL => Response::Stat(Stat::decode(r)?),
            opcode::GET_DATA | opcode::RECONFIG => Response::Data(r.buffer()?, Stat::decode(r)?),
            opcode::GET_CHILDREN | opcode::GET_EPHEMERALS => Response::Names(StringList::read(r)?),
            opcode::GET_CHILDREN2 | extension::FILTERED_LIST => Response::Children(StringList::read(r)?, Stat::decode(r)?),
            extension::LIST_WITH_STATS_AND_DATA => Response::Listing {
                names: StringList::read(r)?,
                stat: Stat::decode(r)?,
                stats: (0..r.vector(68)?.unwrap_or(0)).map(|_| Stat::decode(r)).collect::<Result<_, _>>()?,
                data: (0..r.vector(4)?.unwrap_or(0)).map(|_| r.buffer()).collect::<Result<_, _>>()?,
            },
            extension::CHILDREN_PAGE => Response::Page(StringList::read(r)?, r.bool()?, Stat::decode(r)?),
            opcode::GET_ACL => Response::Acl(AclList::read(r)?, Stat::decode(r)?),
            opcode::GET_ALL_CHILDREN_NUMBER | opcode::ADD_WATCH => Response::Number(r.i32()?),
            opcode::WHO_AM_I => {
                let count = r.vector(8)?.unwrap_or(0);
                Response::Identities((0..count).map(|_| Ok((r.required()?, r.required()?))).collect::<Result<_, _>>()?)
            }
            opcode::MULTI | opcode::MULTI_READ => {
                let mut results = Vec::new();
                while let Some(result) = OpResponse::decode(r)? {
                    results.push(result);
                }
                Response::Multi(results)
            }
            _ => Response::Done,
        })
    }

    /// Appends the record, as a server sends it.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Response::Done => {}
            Response::Path(path) => write_string(out, path),
            Response::Created(path, stat) => {
                write_string(out, path);
                stat.encode(out);
            }
            Response::Stat(stat) => stat.encode(out),
            Response::Data(data, stat) => {
                write_buffer(out, *data);
                stat.encode(out);
            }
            Response::Names(names) => names.encode(out),
            Response::Children(names, stat) => {
                names.encode(out);
                stat.encode(out);
            }
            Response::Listing { names, stat, stats, data } => {
                names.encode(out);
                stat.encode(out);
                write_i32(out, stats.len() as i32);
                stats.iter().for_each(|stat| stat.encode(out));
                write_i32(out, data.len() as i32);
                data.iter().for_each(|data| write_buffer(out, *data));
            }
            Response::Page(names, more, stat) => {
                names.encode(out);
                write_bool(out, *more);
                stat.encode(out);
            }
            Response::Acl(acl, stat) => {
                acl.encode(out);
                stat.encode(out);
            }
            Response::Number(number) => write_i32(out, *number),
            Response::Identities(list) => {
                write_i32(out, list.len() as i32);
                list.iter().flat_map(|(scheme, user)| [scheme, user]).for_each(|text| write_string(out, text));
            }
            Response::Multi(results) => {
                results.iter().for_each(|result| result.encode(out));
                multi_end(out);
            }
        }
    }
}

impl<'a> OpResponse<'a> {
    /// One header and its record; None at the end marker.
    fn decode(r: &mut Reader<'a>) -> Result<Option<OpResponse<'a>>, Malformed> {
        let (kind, done, _err) = (r.i32()?, r.bool()?, r.i32()?);
        let result = match kind {
            _ if done => return Ok(None),
            -1 => Err(r.i32()?),
            opcode::CREATE | opcode::CREATE2 | opcode::SET_DATA | opcode::GET_DATA | opcode::GET_CHILDREN => Ok(Response::decode(kind, r)?),
            opcode::EXISTS | opcode::GET_CHILDREN2 | extension::LIST_WITH_STATS_AND_DATA => Ok(Response::decode(kind, r)?),
            opcode::DELETE | opcode::CHECK => Ok(Response::Done),
            // Without knowing its record, there is no way to find the next result.
            _ => return Err(Malformed),
        };
        Ok(Some(OpResponse { kind, result }))
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match &self.result {
            Ok(record) => {
                multi_header(out, self.kind, false, code::OK);
                record.encode(out);
            }
            Err(err) => multi_error(out, *err),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_their_length() {
        let mut out = vec![9];
        watch_event(&mut out, 5, 1, "/a");
        assert_eq!(out[1..5], [0, 0, 0, 16 + 8 + 6]);
        let mut reader = Reader::new(&out[5..]);
        assert_eq!(ReplyHeader::decode(&mut reader), Ok(ReplyHeader { xid: -1, zxid: 5, err: 0 }));
        assert_eq!((reader.i32(), reader.i32(), reader.utf8()), (Ok(1), Ok(3), Ok("/a")));
    }

    #[test]
    fn no_code_is_invented() {
        // What ZooKeeper's own server sends; its Java client throws on a number that it does not know.
        let theirs = [
            0, -1, -2, -5, -6, -8, -13, -14, -101, -102, -103, -108, -110, -111, -112, -114, -115, -119, -120, -121, -123, -124, -125, -127,
        ];
        let source = include_str!("response.rs").split("pub fn name").next().unwrap();
        let ours: Vec<i32> = source
            .lines()
            .filter_map(|line| line.trim().strip_prefix("pub const ")?.split_once(" = ")?.1.strip_suffix(';')?.parse().ok())
            .collect();
        assert_eq!((ours.len(), ours.iter().find(|code| !theirs.contains(code))), (18, None));
    }
}
