//! Requests beyond ZooKeeper's: what ClickHouse Keeper adds to the protocol (opcodes 500 to 506, whose records are read
//! and written as its clients do) and pages of children (2000), Falconer's own. `docs/extensions.md` has every byte.
//! Refuses the opcodes of Keeper that are not here, as any unknown one.

use super::jute::{Malformed, Reader, write_bool, write_i32, write_string};
use super::record::Stat;
use super::request::Create;
use std::borrow::Cow;

/// Numbers far from ZooKeeper's, so that no stock client ever sends one.
pub mod opcode {
    pub const FILTERED_LIST: i32 = 500;
    pub const CHECK_NOT_EXISTS: i32 = 501;
    pub const CREATE_IF_NOT_EXISTS: i32 = 502;
    pub const REMOVE_RECURSIVE: i32 = 503;
    pub const CHECK_STAT: i32 = 504;
    pub const TRY_REMOVE: i32 = 505;
    pub const LIST_WITH_STATS_AND_DATA: i32 = 506;
    pub const CHILDREN_PAGE: i32 = 2000;

    /// Those that the leader orders; the others are answered where they arrive.
    pub fn is_write(op: i32) -> bool {
        matches!(op, CREATE_IF_NOT_EXISTS | REMOVE_RECURSIVE | TRY_REMOVE)
    }

    /// Those that may stand in a multi: the writes, and the checks.
    pub fn in_multi(op: i32) -> bool {
        is_write(op) || matches!(op, CHECK_NOT_EXISTS | CHECK_STAT)
    }

    /// Those that may stand in a multiRead.
    pub fn in_multi_read(op: i32) -> bool {
        matches!(op, FILTERED_LIST | LIST_WITH_STATS_AND_DATA)
    }
}

/// Which children a list shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Filter {
    All,
    Persistent,
    Ephemeral,
}

/// One request of the extensions, borrowed from its frame.
#[derive(Clone, Debug)]
pub enum Extension<'a> {
    FilteredList {
        path: Cow<'a, str>,
        watch: bool,
        filter: Filter,
    },
    /// Holds if there is no such node, or one of another version than this (-1: any).
    CheckNotExists {
        path: Cow<'a, str>,
        version: i32,
    },
    CreateIfNotExists(Create<'a>),
    /// Removes the node and all below it, unless these are more than `nodes_max` in all.
    RemoveRecursive {
        path: Cow<'a, str>,
        nodes_max: u32,
    },
    /// Holds if the node has this version and every field of the Stat that is not -1.
    CheckStat {
        path: Cow<'a, str>,
        version: i32,
        stat: Stat,
    },
    /// As delete, but what is not there, has another version or has children is left alone without an error.
    TryRemove {
        path: Cow<'a, str>,
        version: i32,
    },
    ListWithStatsAndData {
        path: Cow<'a, str>,
        watch: bool,
        filter: Filter,
        stats: bool,
        data: bool,
    },
    ChildrenPage(Page<'a>),
}

/// Asks for children by name order, from the first name greater than `after` on.
#[derive(Clone, Debug)]
pub struct Page<'a> {
    pub path: Cow<'a, str>,
    /// Empty for the first page.
    pub after: Cow<'a, str>,
    /// Names, at most; 0 for as many as the server gives.
    pub names_max: i32,
    /// Bytes of the encoded names, at most; 0 for as many as the server gives. One name is always given.
    pub bytes_max: i32,
    /// Leave a one-shot child watch, as getChildren does.
    pub watch: bool,
}

impl Filter {
    fn read(r: &mut Reader<'_>) -> Result<Filter, Malformed> {
        match r.u8()? {
            0 => Ok(Filter::All),
            1 => Ok(Filter::Persistent),
            2 => Ok(Filter::Ephemeral),
            _ => Err(Malformed),
        }
    }
}

impl<'a> Extension<'a> {
    /// Reads the record of an extension; None for an opcode that is none.
    pub(super) fn decode(op: i32, r: &mut Reader<'a>) -> Result<Option<Extension<'a>>, Malformed> {
        Ok(Some(match op {
            opcode::FILTERED_LIST => Extension::FilteredList { path: r.required()?, watch: r.bool()?, filter: Filter::read(r)? },
            opcode::CHECK_NOT_EXISTS => Extension::CheckNotExists { path: r.required()?, version: r.i32()? },
            opcode::CREATE_IF_NOT_EXISTS => Extension::CreateIfNotExists(Create::read(r)?),
            opcode::REMOVE_RECURSIVE => Extension::RemoveRecursive { path: r.required()?, nodes_max: r.i32()? as u32 },
            opcode::CHECK_STAT => Extension::CheckStat { path: r.required()?, version: r.i32()?, stat: Stat::decode(r)? },
            opcode::TRY_REMOVE => Extension::TryRemove { path: r.required()?, version: r.i32()? },
            opcode::LIST_WITH_STATS_AND_DATA => Extension::ListWithStatsAndData {
                path: r.required()?,
                watch: r.bool()?,
                filter: Filter::read(r)?,
                stats: r.bool()?,
                data: r.bool()?,
            },
            opcode::CHILDREN_PAGE => Extension::ChildrenPage(Page {
                path: r.required()?,
                after: r.string()?.unwrap_or_default(),
                names_max: r.i32()?,
                bytes_max: r.i32()?,
                watch: r.bool()?,
            }),
            _ => return Ok(None),
        }))
    }

    /// The opcode that carries this request.
    pub fn opcode(&self) -> i32 {
        match self {
            Extension::FilteredList { .. } => opcode::FILTERED_LIST,
            Extension::CheckNotExists { .. } => opcode::CHECK_NOT_EXISTS,
            Extension::CreateIfNotExists(_) => opcode::CREATE_IF_NOT_EXISTS,
            Extension::RemoveRecursive { .. } => opcode::REMOVE_RECURSIVE,
            Extension::CheckStat { .. } => opcode::CHECK_STAT,
            Extension::TryRemove { .. } => opcode::TRY_REMOVE,
            Extension::ListWithStatsAndData { .. } => opcode::LIST_WITH_STATS_AND_DATA,
            Extension::ChildrenPage(_) => opcode::CHILDREN_PAGE,
        }
    }

    /// Whether the request leaves a watch behind.
    pub fn watches(&self) -> bool {
        match self {
            Extension::FilteredList { watch, .. } | Extension::ListWithStatsAndData { watch, .. } => *watch,
            Extension::ChildrenPage(page) => page.watch,
            _ => false,
        }
    }

    /// Appends the record, without header.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Extension::FilteredList { path, watch, filter } => {
                write_string(out, path);
                write_bool(out, *watch);
                out.push(*filter as u8);
            }
            Extension::CheckNotExists { path, version } | Extension::TryRemove { path, version } => {
                write_string(out, path);
                write_i32(out, *version);
            }
            Extension::CreateIfNotExists(create) => create.encode(out),
            Extension::RemoveRecursive { path, nodes_max } => {
                write_string(out, path);
                write_i32(out, *nodes_max as i32);
            }
            Extension::CheckStat { path, version, stat } => {
                write_string(out, path);
                write_i32(out, *version);
                stat.encode(out);
            }
            Extension::ListWithStatsAndData { path, watch, filter, stats, data } => {
                write_string(out, path);
                write_bool(out, *watch);
                out.push(*filter as u8);
                write_bool(out, *stats);
                write_bool(out, *data);
            }
            Extension::ChildrenPage(page) => {
                write_string(out, &page.path);
                write_string(out, &page.after);
                write_i32(out, page.names_max);
                write_i32(out, page.bytes_max);
                write_bool(out, page.watch);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::{DecodeError, MultiOps, OPEN_ACL, Request, opcode as stock};
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn all() -> Vec<Extension<'static>> {
        let path = Cow::Borrowed("/p");
        let stat = Stat { czxid: -1, mzxid: 2, version: 3, ..Stat::default() };
        let create = Create { path: path.clone(), data: Some(b"d"), acl: OPEN_ACL, flags: 1 };
        vec![
            Extension::FilteredList { path: path.clone(), watch: true, filter: Filter::Ephemeral },
            Extension::CheckNotExists { path: path.clone(), version: -1 },
            Extension::CreateIfNotExists(create),
            Extension::RemoveRecursive { path: path.clone(), nodes_max: u32::MAX },
            Extension::CheckStat { path: path.clone(), version: 3, stat },
            Extension::TryRemove { path: path.clone(), version: 7 },
            Extension::ListWithStatsAndData { path: path.clone(), watch: false, filter: Filter::All, stats: true, data: false },
            Extension::ChildrenPage(Page { path, after: "x".into(), names_max: 10, bytes_max: 0, watch: false }),
        ]
    }

    #[test]
    fn records_read_back_and_every_cut_is_noticed() {
        for extension in all() {
            let (mut body, op) = (Vec::new(), extension.opcode());
            extension.encode(&mut body);
            let again = Request::decode(op, &body).unwrap();
            assert_eq!(format!("{again:?}"), format!("Extension({extension:?})"));
            assert_eq!(again.opcode(), op);
            for end in 0..body.len() {
                assert_eq!(Request::decode(op, &body[..end]).unwrap_err(), DecodeError::Malformed, "{op} cut at {end}");
            }
        }
    }

    #[test]
    fn the_bytes_are_those_of_keepers_clients() {
        let bytes = |at: usize| {
            let mut body = Vec::new();
            all()[at].encode(&mut body);
            hex(&body)
        };
        assert_eq!(bytes(0), "000000022f700102");
        assert_eq!(bytes(3), "000000022f70ffffffff");
        assert_eq!(bytes(6), "000000022f7000000100");
        assert_eq!(bytes(7), "000000022f7000000001780000000a0000000000");
        assert_eq!(bytes(4).len(), 2 * (6 + 4 + 68));
    }

    #[test]
    fn each_has_its_place_in_a_multi_or_a_multi_read() {
        for extension in all() {
            let op = extension.opcode();
            let raw = MultiOps::encode_ops(&[Request::Extension(extension)]);
            assert_eq!(Request::decode(stock::MULTI, &raw).is_ok(), opcode::in_multi(op), "{op}");
            assert_eq!(Request::decode(stock::MULTI_READ, &raw).is_ok(), opcode::in_multi_read(op), "{op}");
        }
        for op in [499, 507, 997, 1000, 1999, 2001] {
            assert_eq!(Request::decode(op, &[0; 100]).unwrap_err(), DecodeError::Unimplemented, "{op}");
        }
    }
}
