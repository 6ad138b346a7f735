//! The extensions that a shard answers from its State: filtered lists, lists with Stats and data, pages of children, and
//! the checks when they stand alone. Refuses to show a child's Stat, data or kind to those who may not read the child.

use super::super::reads::{Answer, Reads};
use super::stat_matches;
use crate::limits::{GATHERED_BYTES_MAX, PAGE_BYTES_MAX};
use crate::tree::NodeRef;
use crate::tree::owner::Owner;
use crate::watch::WatchKind;
use crate::wire::extension::{Extension, Filter, Page};
use crate::wire::jute;
use crate::wire::request::opcode;
use crate::wire::response::code;

/// What a list shows of each child besides its name.
#[derive(Clone, Copy)]
struct Columns {
    stats: bool,
    data: bool,
}

impl Reads<'_> {
    /// Appends the record that answers an extension. `watch`: leave the watch that the request asks for.
    pub(in crate::pipeline) fn extension(&mut self, extension: &Extension<'_>, watch: bool, out: &mut Vec<u8>) -> Answer {
        let path = match extension {
            Extension::FilteredList { path, filter, .. } => {
                self.list(path, *filter, None, out)?;
                path
            }
            Extension::ListWithStatsAndData { path, filter, stats, data, .. } => {
                self.list(path, *filter, Some(Columns { stats: *stats, data: *data }), out)?;
                path
            }
            Extension::ChildrenPage(page) => {
                self.page(page, out)?;
                &page.path
            }
            Extension::CheckNotExists { path, version } => return self.check_not_exists(path, *version),
            Extension::CheckStat { path, version, stat } => {
                let is = self.readable(path)?.stat();
                let held = (*version == -1 || *version == is.version) && stat_matches(&is, stat);
                return if held { Ok(()) } else { Err(code::BAD_VERSION) };
            }
            other => unreachable!("{other:?} is not answered by a shard"),
        };
        if watch && extension.watches() {
            self.watches.add(path, self.conn, WatchKind::Child);
        }
        Ok(())
    }

    fn check_not_exists(&self, path: &str, version: i32) -> Answer {
        match self.readable(path) {
            Ok(node) if version == -1 || version == node.version() => Err(code::NODE_EXISTS),
            Ok(_) | Err(code::NO_NODE) => Ok(()),
            Err(refused) => Err(refused),
        }
    }

    /// The children that the filter lets through. One that may not be read spoils every list that would tell more than
    /// its name.
    fn list(&self, path: &str, filter: Filter, columns: Option<Columns>, out: &mut Vec<u8>) -> Answer {
        let node = self.readable(path)?;
        let Columns { stats, data } = columns.unwrap_or(Columns { stats: false, data: false });
        let tells_more = filter != Filter::All || stats || data;
        let mut shown: Vec<NodeRef<'_>> = Vec::with_capacity(node.num_children() as usize);
        let mut bytes = 0;
        for child in node.child_nodes().filter(|child| passes(filter, child)) {
            if tells_more && !self.may_read(child) {
                return Err(code::NO_AUTH);
            }
            bytes += if stats { 68 } else { 0 } + if data { 4 + child.data_bytes() } else { 0 };
            if bytes > GATHERED_BYTES_MAX {
                return Err(code::BAD_ARGUMENTS);
            }
            shown.push(child);
        }
        jute::write_i32(out, shown.len() as i32);
        shown.iter().for_each(|child| jute::write_string(out, child.name()));
        node.stat().encode(out);
        if columns.is_some() {
            jute::write_i32(out, if stats { shown.len() as i32 } else { 0 });
            shown.iter().filter(|_| stats).for_each(|child| child.stat().encode(out));
            jute::write_i32(out, if data { shown.len() as i32 } else { 0 });
            shown.iter().filter(|_| data).for_each(|child| jute::write_buffer(out, child.data()));
        }
        Ok(())
    }

    /// Costs what it shows, however many children there are.
    fn page(&self, page: &Page<'_>, out: &mut Vec<u8>) -> Answer {
        let (Ok(names_max), Ok(bytes_max)) = (usize::try_from(page.names_max), usize::try_from(page.bytes_max)) else {
            return Err(code::BAD_ARGUMENTS);
        };
        let names_max = if names_max == 0 { usize::MAX } else { names_max };
        let bytes_max = if bytes_max == 0 { PAGE_BYTES_MAX } else { bytes_max.min(PAGE_BYTES_MAX) };
        let node = self.readable(&page.path)?;
        let mark = out.len();
        jute::write_i32(out, 0);
        let (mut count, mut more) = (0, false);
        for name in node.children_after(&page.after) {
            let bytes = out.len() - mark - 4;
            more = count == names_max || count > 0 && bytes + 4 + name.len() > bytes_max;
            if more {
                break;
            }
            jute::write_string(out, name);
            count += 1;
        }
        out[mark..mark + 4].copy_from_slice(&(count as i32).to_be_bytes());
        jute::write_bool(out, more);
        node.stat().encode(out);
        Ok(())
    }
}

fn passes(filter: Filter, child: &NodeRef<'_>) -> bool {
    let ephemeral = || matches!(Owner::of(child.owner()), Owner::Session(_));
    match filter {
        Filter::All => true,
        Filter::Persistent => !ephemeral(),
        Filter::Ephemeral => ephemeral(),
    }
}

/// The type of a list inside a multiRead. Keeper answers a filtered list as getChildren2, whose record it has.
pub(in crate::pipeline) fn kind_in_multi_read(extension: &Extension<'_>) -> i32 {
    match extension {
        Extension::FilteredList { .. } => opcode::GET_CHILDREN2,
        other => other.opcode(),
    }
}
