//! Text for people and scripts: stat lines as ZooKeeper's own command line prints them.
//! Refuses to know time zones: times are UTC, so that two machines print the same.

use crate::admin::date::date;
use crate::wire::record::Stat;
use std::io::{self, Write};

/// The eleven lines of a stat.
pub fn stat(out: &mut impl Write, stat: &Stat) -> io::Result<()> {
    writeln!(out, "cZxid = {:#x}", stat.czxid)?;
    writeln!(out, "ctime = {}", date(stat.ctime))?;
    writeln!(out, "mZxid = {:#x}", stat.mzxid)?;
    writeln!(out, "mtime = {}", date(stat.mtime))?;
    writeln!(out, "pZxid = {:#x}", stat.pzxid)?;
    writeln!(out, "cversion = {}", stat.cversion)?;
    writeln!(out, "dataVersion = {}", stat.version)?;
    writeln!(out, "aclVersion = {}", stat.aversion)?;
    writeln!(out, "ephemeralOwner = {:#x}", stat.ephemeral_owner)?;
    writeln!(out, "dataLength = {}", stat.data_length)?;
    writeln!(out, "numChildren = {}", stat.num_children)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_lines() {
        let mut out = Vec::new();
        stat(&mut out, &Stat { czxid: 0x1f, ephemeral_owner: -1, num_children: 2, ..Stat::default() }).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("cZxid = 0x1f\nctime = Thu Jan 01 00:00:00 UTC 1970\nmZxid = 0x0\n"), "{text}");
        assert!(text.ends_with("ephemeralOwner = 0xffffffffffffffff\ndataLength = 0\nnumChildren = 2\n"), "{text}");
    }
}
