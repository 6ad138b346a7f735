//! Client requests: opcodes, decoding and encoding. A decoded request borrows from its frame; lists are checked once
//! and then iterated in place. Refuses unknown opcodes and records that do not parse, with the two errors ZooKeeper has.

use super::extension::{self, Extension};
use super::jute::{Malformed, Reader, write_bool, write_buffer, write_i32, write_i64, write_string};
use super::txn::AclRef;
use crate::limits::MULTI_OPS_MAX;
use std::borrow::Cow;

/// ZooDefs.OpCode.
pub mod opcode {
    pub const CREATE: i32 = 1;
    pub const DELETE: i32 = 2;
    pub const EXISTS: i32 = 3;
    pub const GET_DATA: i32 = 4;
    pub const SET_DATA: i32 = 5;
    pub const GET_ACL: i32 = 6;
    pub const SET_ACL: i32 = 7;
    pub const GET_CHILDREN: i32 = 8;
    pub const SYNC: i32 = 9;
    pub const PING: i32 = 11;
    pub const GET_CHILDREN2: i32 = 12;
    pub const CHECK: i32 = 13;
    pub const MULTI: i32 = 14;
    pub const CREATE2: i32 = 15;
    pub const RECONFIG: i32 = 16;
    pub const CHECK_WATCHES: i32 = 17;
    pub const REMOVE_WATCHES: i32 = 18;
    pub const CREATE_CONTAINER: i32 = 19;
    pub const CREATE_TTL: i32 = 21;
    pub const MULTI_READ: i32 = 22;
    pub const AUTH: i32 = 100;
    pub const SET_WATCHES: i32 = 101;
    pub const GET_EPHEMERALS: i32 = 103;
    pub const GET_ALL_CHILDREN_NUMBER: i32 = 104;
    pub const SET_WATCHES2: i32 = 105;
    pub const ADD_WATCH: i32 = 106;
    pub const WHO_AM_I: i32 = 107;
    pub const CLOSE_SESSION: i32 = -11;

    /// The name that `cons` shows, four characters but for one. Those of the extensions are shown as what they vary.
    pub fn short_name(op: i32) -> &'static str {
        use super::super::extension::opcode as more;
        match op {
            CREATE | CREATE2 | CREATE_CONTAINER | CREATE_TTL | more::CREATE_IF_NOT_EXISTS => "CREA",
            DELETE | more::REMOVE_RECURSIVE | more::TRY_REMOVE => "DELE",
            EXISTS => "EXIS",
            GET_DATA => "GETD",
            SET_DATA => "SETD",
            GET_ACL => "GETA",
            SET_ACL => "SETA",
            GET_CHILDREN | GET_CHILDREN2 | more::FILTERED_LIST | more::LIST_WITH_STATS_AND_DATA | more::CHILDREN_PAGE => "GETC",
            SYNC => "SYNC",
            PING => "PING",
            MULTI => "MULT",
            MULTI_READ => "MLTR",
            RECONFIG => "RECO",
            CHECK_WATCHES => "CHKW",
            REMOVE_WATCHES => "REMW",
            SET_WATCHES => "SETW",
            SET_WATCHES2 => "STW2",
            ADD_WATCH => "ADDW",
            GET_EPHEMERALS => "GETE",
            GET_ALL_CHILDREN_NUMBER => "GETACN",
            WHO_AM_I => "HOMI",
            CLOSE_SESSION => "CLOS",
            -10 | -12 => "SESS",
            _ => "NA",
        }
    }
}

/// Why a request is not executed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// UNIMPLEMENTED, then the connection is closed.
    Unimplemented,
    /// MARSHALLINGERROR.
    Malformed,
}

impl From<Malformed> for DecodeError {
    fn from(_: Malformed) -> DecodeError {
        DecodeError::Malformed
    }
}

/// The record of create, create2, createContainer and createTTL.
#[derive(Clone, Debug)]
pub struct Create<'a> {
    pub path: Cow<'a, str>,
    pub data: Option<&'a [u8]>,
    pub acl: AclList<'a>,
    pub flags: i32,
}

/// The record of setWatches and setWatches2; the last two lists are empty in the former.
#[derive(Clone, Debug)]
pub struct SetWatches<'a> {
    pub relative_zxid: i64,
    pub data: StringList<'a>,
    pub exist: StringList<'a>,
    pub child: StringList<'a>,
    pub persistent: StringList<'a>,
    pub persistent_recursive: StringList<'a>,
}

/// One client request, borrowed from its frame.
#[derive(Clone, Debug)]
pub enum Request<'a> {
    Create(Create<'a>),
    Create2(Create<'a>),
    CreateContainer(Create<'a>),
    /// With the time to live in ms.
    CreateTtl(Create<'a>, i64),
    Delete {
        path: Cow<'a, str>,
        version: i32,
    },
    Exists {
        path: Cow<'a, str>,
        watch: bool,
    },
    GetData {
        path: Cow<'a, str>,
        watch: bool,
    },
    SetData {
        path: Cow<'a, str>,
        data: Option<&'a [u8]>,
        version: i32,
    },
    GetAcl {
        path: Cow<'a, str>,
    },
    SetAcl {
        path: Cow<'a, str>,
        acl: AclList<'a>,
        version: i32,
    },
    GetChildren {
        path: Cow<'a, str>,
        watch: bool,
    },
    GetChildren2 {
        path: Cow<'a, str>,
        watch: bool,
    },
    Sync {
        path: Cow<'a, str>,
    },
    Ping,
    /// Only inside a multi.
    Check {
        path: Cow<'a, str>,
        version: i32,
    },
    Multi(MultiOps<'a>),
    MultiRead(MultiOps<'a>),
    Reconfig,
    CheckWatches {
        path: Cow<'a, str>,
        kind: i32,
    },
    RemoveWatches {
        path: Cow<'a, str>,
        kind: i32,
    },
    Auth {
        scheme: Cow<'a, str>,
        credentials: Option<&'a [u8]>,
    },
    SetWatches(SetWatches<'a>),
    SetWatches2(SetWatches<'a>),
    GetEphemerals {
        prefix: Cow<'a, str>,
    },
    GetAllChildrenNumber {
        path: Cow<'a, str>,
    },
    AddWatch {
        path: Cow<'a, str>,
        mode: i32,
    },
    WhoAmI,
    CloseSession,
    /// What ZooKeeper does not know.
    Extension(Extension<'a>),
}

impl<'a> Request<'a> {
    /// Reads the record of a request. Bytes behind it are ignored, as ZooKeeper does.
    pub fn decode(op: i32, body: &'a [u8]) -> Result<Request<'a>, DecodeError> {
        let mut r = Reader::new(body);
        if let Some(request) = Request::decode_op(op, &mut r)? {
            return Ok(request);
        }
        Ok(match op {
            opcode::PING => Request::Ping,
            opcode::CLOSE_SESSION => Request::CloseSession,
            opcode::WHO_AM_I => Request::WhoAmI,
            opcode::GET_ACL => Request::GetAcl { path: r.required()? },
            // A null path is a bad path to the writes that look at it first, and a bad record to all others.
            opcode::SET_ACL => Request::SetAcl { path: r.string()?.unwrap_or_default(), acl: AclList::read(&mut r)?, version: r.i32()? },
            opcode::GET_CHILDREN2 => Request::GetChildren2 { path: r.required()?, watch: r.bool()? },
            opcode::SYNC => Request::Sync { path: r.required()? },
            opcode::MULTI => Request::Multi(MultiOps::read(&mut r, is_write)?),
            opcode::MULTI_READ => Request::MultiRead(MultiOps::read(&mut r, is_read)?),
            opcode::RECONFIG => {
                r.string()?;
                r.string()?;
                r.string()?;
                r.i64()?;
                Request::Reconfig
            }
            opcode::CHECK_WATCHES => Request::CheckWatches { path: r.required()?, kind: r.i32()? },
            opcode::REMOVE_WATCHES => Request::RemoveWatches { path: r.required()?, kind: r.i32()? },
            opcode::AUTH => {
                r.i32()?;
                // A null scheme is unknown, not malformed.
                Request::Auth { scheme: r.string()?.unwrap_or_default(), credentials: r.buffer()? }
            }
            opcode::SET_WATCHES => Request::SetWatches(SetWatches::read(&mut r, false)?),
            opcode::SET_WATCHES2 => Request::SetWatches2(SetWatches::read(&mut r, true)?),
            opcode::GET_EPHEMERALS => Request::GetEphemerals { prefix: r.string()?.unwrap_or_default() },
            opcode::GET_ALL_CHILDREN_NUMBER => Request::GetAllChildrenNumber { path: r.required()? },
            opcode::ADD_WATCH => Request::AddWatch { path: r.required()?, mode: r.i32()? },
            // Outside a multi, check is refused since 3.9.3 (T80).
            _ => return Err(DecodeError::Unimplemented),
        })
    }

    /// The requests that may also stand inside a multi or a multiRead, and all extensions.
    fn decode_op(op: i32, r: &mut Reader<'a>) -> Result<Option<Request<'a>>, Malformed> {
        Ok(Some(match op {
            opcode::CREATE => Request::Create(Create::read(r)?),
            opcode::CREATE2 => Request::Create2(Create::read(r)?),
            opcode::CREATE_CONTAINER => Request::CreateContainer(Create::read(r)?),
            opcode::CREATE_TTL => Request::CreateTtl(Create::read(r)?, r.i64()?),
            opcode::DELETE => Request::Delete { path: r.required()?, version: r.i32()? },
            opcode::SET_DATA => Request::SetData { path: r.string()?.unwrap_or_default(), data: r.buffer()?, version: r.i32()? },
            opcode::GET_DATA => Request::GetData { path: r.required()?, watch: r.bool()? },
            opcode::GET_CHILDREN => Request::GetChildren { path: r.required()?, watch: r.bool()? },
            opcode::EXISTS => Request::Exists { path: r.required()?, watch: r.bool()? },
            _ => return Ok(Extension::decode(op, r)?.map(Request::Extension)),
        }))
    }

    /// The opcode that carries this request.
    pub fn opcode(&self) -> i32 {
        match self {
            Request::Create(_) => opcode::CREATE,
            Request::Create2(_) => opcode::CREATE2,
            Request::CreateContainer(_) => opcode::CREATE_CONTAINER,
            Request::CreateTtl(..) => opcode::CREATE_TTL,
            Request::Delete { .. } => opcode::DELETE,
            Request::Exists { .. } => opcode::EXISTS,
            Request::GetData { .. } => opcode::GET_DATA,
            Request::SetData { .. } => opcode::SET_DATA,
            Request::GetAcl { .. } => opcode::GET_ACL,
            Request::SetAcl { .. } => opcode::SET_ACL,
            Request::GetChildren { .. } => opcode::GET_CHILDREN,
            Request::GetChildren2 { .. } => opcode::GET_CHILDREN2,
            Request::Sync { .. } => opcode::SYNC,
            Request::Ping => opcode::PING,
            Request::Check { .. } => opcode::CHECK,
            Request::Multi(_) => opcode::MULTI,
            Request::MultiRead(_) => opcode::MULTI_READ,
            Request::Reconfig => opcode::RECONFIG,
            Request::CheckWatches { .. } => opcode::CHECK_WATCHES,
            Request::RemoveWatches { .. } => opcode::REMOVE_WATCHES,
            Request::Auth { .. } => opcode::AUTH,
            Request::SetWatches(_) => opcode::SET_WATCHES,
            Request::SetWatches2(_) => opcode::SET_WATCHES2,
            Request::GetEphemerals { .. } => opcode::GET_EPHEMERALS,
            Request::GetAllChildrenNumber { .. } => opcode::GET_ALL_CHILDREN_NUMBER,
            Request::AddWatch { .. } => opcode::ADD_WATCH,
            Request::WhoAmI => opcode::WHO_AM_I,
            Request::CloseSession => opcode::CLOSE_SESSION,
            Request::Extension(extension) => extension.opcode(),
        }
    }

    /// Appends the record, without header.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Request::Ping | Request::WhoAmI | Request::CloseSession => {}
            // Asks for nothing: no server is named, whatever the configuration.
            Request::Reconfig => {
                (0..3).for_each(|_| write_buffer(out, None));
                write_i64(out, -1);
            }
            Request::Create(create) | Request::Create2(create) | Request::CreateContainer(create) => create.encode(out),
            Request::CreateTtl(create, ttl_ms) => {
                create.encode(out);
                write_i64(out, *ttl_ms);
            }
            Request::Delete { path, version } | Request::Check { path, version } => path_and_i32(out, path, *version),
            Request::CheckWatches { path, kind } | Request::RemoveWatches { path, kind } => path_and_i32(out, path, *kind),
            Request::AddWatch { path, mode } => path_and_i32(out, path, *mode),
            Request::Exists { path, watch }
            | Request::GetData { path, watch }
            | Request::GetChildren { path, watch }
            | Request::GetChildren2 { path, watch } => {
                write_string(out, path);
                write_bool(out, *watch);
            }
            Request::SetData { path, data, version } => {
                write_string(out, path);
                write_buffer(out, *data);
                write_i32(out, *version);
            }
            Request::SetAcl { path, acl, version } => {
                write_string(out, path);
                acl.encode(out);
                write_i32(out, *version);
            }
            Request::GetAcl { path } | Request::Sync { path } | Request::GetAllChildrenNumber { path } => write_string(out, path),
            Request::GetEphemerals { prefix } => write_string(out, prefix),
            Request::Multi(ops) | Request::MultiRead(ops) => out.extend_from_slice(ops.raw),
            Request::Auth { scheme, credentials } => {
                write_i32(out, 0);
                write_string(out, scheme);
                write_buffer(out, *credentials);
            }
            Request::SetWatches(set) => set.encode(out, false),
            Request::SetWatches2(set) => set.encode(out, true),
            Request::Extension(extension) => extension.encode(out),
        }
    }

    /// Appends the whole frame: length, header and record.
    pub fn encode_frame(&self, xid: i32, out: &mut Vec<u8>) {
        let mark = out.len();
        write_i32(out, 0);
        write_i32(out, xid);
        write_i32(out, self.opcode());
        self.encode(out);
        super::response::end_frame(out, mark);
    }
}

fn path_and_i32(out: &mut Vec<u8>, path: &str, number: i32) {
    write_string(out, path);
    write_i32(out, number);
}

fn is_write(op: i32) -> bool {
    use opcode::*;
    matches!(op, CREATE | DELETE | SET_DATA | CHECK | CREATE2 | CREATE_CONTAINER | CREATE_TTL) || extension::opcode::in_multi(op)
}

/// ZooKeeper takes getData and getChildren alone; Keeper's clients send the others, too.
fn is_read(op: i32) -> bool {
    matches!(op, opcode::GET_DATA | opcode::GET_CHILDREN | opcode::EXISTS) || extension::opcode::in_multi_read(op)
}

impl<'a> Create<'a> {
    pub(super) fn read(r: &mut Reader<'a>) -> Result<Create<'a>, Malformed> {
        Ok(Create { path: r.required()?, data: r.buffer()?, acl: AclList::read(r)?, flags: r.i32()? })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        write_string(out, &self.path);
        write_buffer(out, self.data);
        self.acl.encode(out);
        write_i32(out, self.flags);
    }
}

impl<'a> SetWatches<'a> {
    fn read(r: &mut Reader<'a>, persistent: bool) -> Result<SetWatches<'a>, Malformed> {
        Ok(SetWatches {
            relative_zxid: r.i64()?,
            data: StringList::read(r)?,
            exist: StringList::read(r)?,
            child: StringList::read(r)?,
            persistent: if persistent { StringList::read(r)? } else { StringList::default() },
            persistent_recursive: if persistent { StringList::read(r)? } else { StringList::default() },
        })
    }

    fn encode(&self, out: &mut Vec<u8>, persistent: bool) {
        write_i64(out, self.relative_zxid);
        self.data.encode(out);
        self.exist.encode(out);
        self.child.encode(out);
        if persistent {
            self.persistent.encode(out);
            self.persistent_recursive.encode(out);
        }
    }
}

/// The bytes between two states of a reader.
fn between<'a>(start: Reader<'a>, end: Reader<'a>) -> &'a [u8] {
    let all = start.rest();
    &all[..all.len() - end.rest().len()]
}

/// A list of access control entries, checked and still in its frame.
#[derive(Clone, Copy, Debug)]
pub struct AclList<'a> {
    /// The encoded vector, its count included.
    raw: &'a [u8],
}

/// `world:anyone` with all permissions.
pub const OPEN_ACL: AclList<'static> = AclList { raw: b"\0\0\0\x01\0\0\0\x1f\0\0\0\x05world\0\0\0\x06anyone" };

impl<'a> AclList<'a> {
    pub(super) fn read(r: &mut Reader<'a>) -> Result<AclList<'a>, Malformed> {
        let start = *r;
        for _ in 0..r.vector(12)?.unwrap_or(0) {
            r.i32()?;
            r.buffer()?;
            r.buffer()?;
        }
        Ok(AclList { raw: between(start, *r) })
    }

    /// Checks an encoded list, such as one that the caller has just written.
    pub fn from_encoded(raw: &'a [u8]) -> Result<AclList<'a>, Malformed> {
        AclList::read(&mut Reader::new(raw))
    }

    /// Whether these are the very bytes of [`OPEN_ACL`], as nearly every client sends them.
    pub fn is_open(&self) -> bool {
        self.raw == OPEN_ACL.raw
    }

    /// How many entries stand before the first whose id is null although its scheme is one that reads it. ZooKeeper
    /// fails on such an entry with MARSHALLINGERROR instead of INVALIDACL.
    pub fn null_id_at(&self) -> Option<usize> {
        let mut r = Reader::new(self.raw);
        let count = r.vector(12).ok().flatten().unwrap_or(0);
        (0..count).find(|_| {
            let scheme = r.i32().and_then(|_| r.buffer()).ok().flatten();
            r.buffer() == Ok(None) && matches!(scheme, Some(b"world" | b"digest" | b"ip"))
        })
    }

    /// The entries. What is null or not UTF-8 reads as empty, which no scheme accepts.
    pub fn iter(&self) -> impl Iterator<Item = AclRef<'a>> + use<'a> {
        let mut r = Reader::new(self.raw);
        let count = r.vector(12).ok().flatten().unwrap_or(0);
        (0..count).map_while(move |_| Some(AclRef { perms: r.i32().ok()? as u32, scheme: plain(&mut r)?, id: plain(&mut r)? }))
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.raw);
    }
}

/// A string of a checked list; empty if it is null or not UTF-8.
fn plain<'a>(r: &mut Reader<'a>) -> Option<&'a str> {
    let bytes = r.buffer().ok()?;
    Some(bytes.and_then(|b| std::str::from_utf8(b).ok()).unwrap_or(""))
}

/// A list of paths, checked and still in its frame.
#[derive(Clone, Copy, Debug)]
pub struct StringList<'a> {
    /// The encoded vector, its count included.
    raw: &'a [u8],
}

impl Default for StringList<'_> {
    fn default() -> Self {
        StringList { raw: &[0; 4] }
    }
}

impl<'a> StringList<'a> {
    pub(super) fn read(r: &mut Reader<'a>) -> Result<StringList<'a>, Malformed> {
        let start = *r;
        // ZooKeeper fails on a null, the list itself or inside, when it comes to use it.
        for _ in 0..r.vector(4)?.ok_or(Malformed)? {
            r.buffer()?.ok_or(Malformed)?;
        }
        Ok(StringList { raw: between(start, *r) })
    }

    /// Checks an encoded list, such as one that the caller has just written.
    pub fn from_encoded(raw: &'a [u8]) -> Result<StringList<'a>, Malformed> {
        StringList::read(&mut Reader::new(raw))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        Reader::new(self.raw).vector(4).ok().flatten().unwrap_or(0)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn iter(&self) -> impl Iterator<Item = Cow<'a, str>> + use<'a> {
        let mut r = Reader::new(self.raw);
        let count = r.vector(4).ok().flatten().unwrap_or(0);
        (0..count).map_while(move |_| r.required().ok())
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.raw);
    }
}

/// The operations of a multi or multiRead, checked and still in their frame.
#[derive(Clone, Copy, Debug)]
pub struct MultiOps<'a> {
    raw: &'a [u8],
}

impl<'a> MultiOps<'a> {
    fn read(r: &mut Reader<'a>, allowed: fn(i32) -> bool) -> Result<MultiOps<'a>, Malformed> {
        let start = *r;
        let mut count = 0;
        while let Some(op) = MultiOps::read_op(r)? {
            count += 1;
            if !allowed(op.opcode()) || count > MULTI_OPS_MAX || !flags_are_known(&op) {
                return Err(Malformed);
            }
        }
        Ok(MultiOps { raw: between(start, *r) })
    }

    /// One header and its record; None at the end marker.
    fn read_op(r: &mut Reader<'a>) -> Result<Option<Request<'a>>, Malformed> {
        let (kind, done, _err) = (r.i32()?, r.bool()?, r.i32()?);
        if done {
            return Ok(None);
        }
        match kind {
            opcode::CHECK => return Ok(Some(Request::Check { path: r.required()?, version: r.i32()? })),
            // Alone, a null path is a bad one; in here it spoils the whole request.
            opcode::SET_DATA => return Ok(Some(Request::SetData { path: r.required()?, data: r.buffer()?, version: r.i32()? })),
            _ => {}
        }
        Request::decode_op(kind, r)?.ok_or(Malformed).map(Some)
    }

    pub fn iter(&self) -> impl Iterator<Item = Request<'a>> + use<'a> {
        let mut r = Reader::new(self.raw);
        std::iter::from_fn(move || MultiOps::read_op(&mut r).ok().flatten())
    }

    /// Encodes operations for a multi; borrow the result with [`MultiOps::from_encoded`].
    pub fn encode_ops(ops: &[Request<'_>]) -> Vec<u8> {
        let mut raw = Vec::new();
        for op in ops {
            super::response::multi_header(&mut raw, op.opcode(), false, -1);
            op.encode(&mut raw);
        }
        super::response::multi_end(&mut raw);
        raw
    }

    /// Checks encoded operations, such as those of [`MultiOps::encode_ops`].
    pub fn from_encoded(raw: &'a [u8]) -> Result<MultiOps<'a>, Malformed> {
        MultiOps::read(&mut Reader::new(raw), |op| is_write(op) || is_read(op))
    }
}

/// Inside a multi, create flags that are unknown, or of a TTL where there is none, spoil the whole request (T74). Those
/// of createTTL are judged when it is prepared.
fn flags_are_known(op: &Request<'_>) -> bool {
    match op {
        Request::Create(c) | Request::Create2(c) | Request::CreateContainer(c) => (0..=4).contains(&c.flags),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(request: &Request<'_>) -> Vec<u8> {
        let mut frame = Vec::new();
        request.encode_frame(7, &mut frame);
        assert_eq!(frame.len(), 4 + u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize);
        let op = i32::from_be_bytes(frame[8..12].try_into().unwrap());
        let again = Request::decode(op, &frame[12..]).unwrap();
        assert_eq!(format!("{again:?}"), format!("{request:?}"));
        frame
    }

    #[test]
    fn requests_read_back_and_every_cut_is_noticed() {
        let path = Cow::Borrowed("/some/path");
        let create = Create { path: path.clone(), data: Some(b"data"), acl: OPEN_ACL, flags: 3 };
        let ops = MultiOps::encode_ops(&[Request::Create(create.clone()), Request::Check { path: path.clone(), version: 2 }]);
        let mut list = Vec::new();
        write_i32(&mut list, 2);
        write_string(&mut list, "/a");
        write_string(&mut list, "/b");
        let paths = StringList::from_encoded(&list).unwrap();
        let watches =
            SetWatches { relative_zxid: 9, data: paths, exist: paths, child: paths, persistent: paths, persistent_recursive: paths };
        for request in [
            Request::Create(create.clone()),
            Request::CreateTtl(create, 500),
            Request::Delete { path: path.clone(), version: -1 },
            Request::SetData { path: path.clone(), data: None, version: 4 },
            Request::SetAcl { path: path.clone(), acl: OPEN_ACL, version: 1 },
            Request::GetChildren2 { path: path.clone(), watch: true },
            Request::Multi(MultiOps::from_encoded(&ops).unwrap()),
            Request::SetWatches2(watches),
            Request::Auth { scheme: "digest".into(), credentials: Some(b"a:b") },
        ] {
            let frame = round_trip(&request);
            for end in 12..frame.len() {
                assert_eq!(Request::decode(request.opcode(), &frame[12..end]).unwrap_err(), DecodeError::Malformed);
            }
        }
    }

    #[test]
    fn a_multi_does_not_mix_reads_and_writes() {
        let path = Cow::Borrowed("/p");
        let get = Request::GetData { path: path.clone(), watch: false };
        let delete = Request::Delete { path, version: -1 };
        let decode =
            |op, ops: &[Request<'_>]| Request::decode(op, &MultiOps::encode_ops(ops)).map(|_| ()).map_err(|e| e == DecodeError::Malformed);
        assert_eq!(decode(opcode::MULTI, std::slice::from_ref(&delete)), Ok(()));
        assert_eq!(decode(opcode::MULTI, &[]), Ok(()));
        assert_eq!(decode(opcode::MULTI_READ, std::slice::from_ref(&get)), Ok(()));
        assert_eq!(decode(opcode::MULTI, &[delete.clone(), get.clone()]), Err(true));
        assert_eq!(decode(opcode::MULTI_READ, &[get, delete]), Err(true));
    }

    #[test]
    fn unknown_opcodes_are_unimplemented() {
        for op in [0, 10, 13, 20, 23, 99, 108, -10, -12, i32::MAX] {
            assert_eq!(Request::decode(op, &[]).unwrap_err(), DecodeError::Unimplemented, "{op}");
        }
    }
}
