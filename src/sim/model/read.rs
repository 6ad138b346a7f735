//! Reads, answered as of a zxid: the bytes of the record, or the error.
//! Refuses watches: whoever keeps them looks at the answer.

use super::access::{self, permits};
use super::{Asker, Model, Version, set_at};
use crate::sim::ask::{Ask, write_multi_header};
use crate::wire::jute::{write_buffer, write_i32, write_string};
use crate::wire::response::code;
use std::collections::BTreeSet;
use std::ops::Bound;
use std::rc::Rc;

impl Model {
    /// The record of the reply to a read that was answered at `zxid`.
    pub fn read(&self, zxid: u64, asker: Asker<'_>, ask: &Ask) -> Result<Vec<u8>, i32> {
        let mut out = Vec::new();
        self.answer(zxid, asker, ask, &mut out)?;
        Ok(out)
    }

    fn answer(&self, zxid: u64, asker: Asker<'_>, ask: &Ask, out: &mut Vec<u8>) -> Result<(), i32> {
        match ask {
            Ask::Exists { path, .. } if path.contains('\0') => return Err(code::BAD_ARGUMENTS),
            Ask::Exists { path, .. } => self.readable(zxid, asker, path)?.stat.encode(out),
            Ask::GetData { path, .. } => {
                let node = self.readable(zxid, asker, path)?;
                write_buffer(out, node.data.as_deref());
                node.stat.encode(out);
            }
            Ask::GetChildren { path, .. } => {
                self.readable(zxid, asker, path)?;
                self.write_children(zxid, path, out);
            }
            Ask::GetChildren2 { path, .. } => {
                let node = self.readable(zxid, asker, path)?;
                self.write_children(zxid, path, out);
                node.stat.encode(out);
            }
            Ask::GetAcl { path } => return self.acl(zxid, asker, path, out),
            Ask::MultiRead(asks) => {
                for ask in asks {
                    let mut record = Vec::new();
                    match self.answer(zxid, asker, ask, &mut record) {
                        Ok(()) => write_multi_header(out, ask.opcode(), false, 0),
                        Err(refused) => {
                            write_multi_header(out, -1, false, refused);
                            write_i32(out, refused);
                        }
                    }
                    out.extend_from_slice(&record);
                }
                write_multi_header(out, -1, true, -1);
            }
            Ask::GetEphemerals { prefix } => self.ephemerals(zxid, asker.session, prefix, out),
            Ask::GetAllChildrenNumber { path } => {
                self.readable(zxid, asker, path)?;
                // The root counts as below the empty path.
                write_i32(out, self.below(zxid, rooted(path)) as i32 + i32::from(path.is_empty()));
            }
            Ask::WhoAmI => {
                write_i32(out, asker.ids.len() as i32);
                for id in asker.ids {
                    write_string(out, &id.scheme);
                    write_string(out, if id.scheme == "digest" { id.id.split(':').next().unwrap_or("") } else { &id.id });
                }
            }
            other => unreachable!("{other:?} is no read"),
        }
        Ok(())
    }

    fn readable(&self, zxid: u64, asker: Asker<'_>, path: &str) -> Result<&Version, i32> {
        let node = self.at(rooted(path), zxid).ok_or(code::NO_NODE)?;
        if permits(&node.acl, asker.ids, access::READ) { Ok(node) } else { Err(code::NO_AUTH) }
    }

    fn write_children(&self, zxid: u64, path: &str, out: &mut Vec<u8>) {
        let node = self.nodes.get(rooted(path)).expect("the caller has looked");
        let write = |names: &BTreeSet<Rc<str>>, out: &mut Vec<u8>| {
            write_i32(out, names.len() as i32);
            names.iter().for_each(|name| write_string(out, name));
        };
        match node.child_log.back() {
            Some((last, ..)) if *last > zxid => write(&set_at(&node.children, &node.child_log, zxid), out),
            _ => write(&node.children, out),
        }
    }

    fn acl(&self, zxid: u64, asker: Asker<'_>, path: &str, out: &mut Vec<u8>) -> Result<(), i32> {
        let node = self.at(rooted(path), zxid).ok_or(code::NO_NODE)?;
        if !permits(&node.acl, asker.ids, access::READ | access::ADMIN) {
            return Err(code::NO_AUTH);
        }
        let administers = permits(&node.acl, asker.ids, access::ADMIN);
        write_i32(out, node.acl.len() as i32);
        for entry in node.acl.iter() {
            write_i32(out, entry.perms);
            write_string(out, &entry.scheme);
            write_string(out, &access::shown(entry, administers));
        }
        node.stat.encode(out);
        Ok(())
    }

    fn ephemerals(&self, zxid: u64, session: i64, prefix: &str, out: &mut Vec<u8>) {
        let owned = self.sessions.get(&session).map_or(BTreeSet::new(), |s| set_at(&s.ephemerals, &s.log, zxid));
        // Java's white space is all up to the blank; the root stands for everything.
        let all = matches!(prefix.trim_matches(|c| c <= ' '), "" | "/");
        let prefix = if all { "" } else { prefix };
        let named: Vec<_> = owned.iter().filter(|path| path.starts_with(prefix)).collect();
        write_i32(out, named.len() as i32);
        named.iter().for_each(|path| write_string(out, path));
    }

    /// How many nodes stand below `path`.
    fn below(&self, zxid: u64, path: &str) -> usize {
        let prefix = if path == "/" { "/".to_string() } else { format!("{path}/") };
        let after: (Bound<&str>, Bound<&str>) = (Bound::Excluded(&prefix), Bound::Unbounded);
        let inside = self.nodes.range::<str, _>(after).take_while(|(path, _)| path.starts_with(&prefix));
        inside.filter(|(path, _)| self.at(path, zxid).is_some()).count()
    }
}

/// Reads take the empty path for the root.
fn rooted(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}
