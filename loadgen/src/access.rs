//! Who may do what with the nodes of a run, as a workload's TOML says it. Refuses to judge whether a server keeps to it:
//! a session that may not do what the workload asks gets error codes, and those are counted like any other.

use falconer::wire::jute::{write_i32, write_string};
use falconer::wire::request::AclList;
use serde::Deserialize;

/// Letters of permissions, and their bits on the wire.
const PERMISSIONS: [(char, i32); 5] = [('r', 1), ('w', 2), ('c', 4), ('d', 8), ('a', 16)];

/// One entry of an access control list.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Some of `cdrwa`.
    pub perms: String,
    pub scheme: String,
    #[serde(default)]
    pub id: String,
}

/// An access control list as it stands in requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Access(Vec<u8>);

impl Access {
    /// No entries: everybody may do everything.
    pub fn new(entries: &[Entry]) -> Result<Access, String> {
        if entries.is_empty() {
            return Access::new(&[Entry { perms: "cdrwa".into(), scheme: "world".into(), id: "anyone".into() }]);
        }
        let mut raw = Vec::new();
        write_i32(&mut raw, entries.len() as i32);
        for entry in entries {
            write_i32(&mut raw, bits(&entry.perms)?);
            write_string(&mut raw, &entry.scheme);
            write_string(&mut raw, &entry.id);
        }
        Ok(Access(raw))
    }

    pub fn list(&self) -> AclList<'_> {
        AclList::from_encoded(&self.0).expect("encoded here")
    }
}

fn bits(perms: &str) -> Result<i32, String> {
    let bit = |letter: char| PERMISSIONS.iter().find(|(known, _)| *known == letter).map(|(_, bit)| *bit);
    let all = perms.chars().map(bit).try_fold(0, |sum, bit| Some(sum | bit?)).filter(|sum| *sum > 0);
    all.ok_or_else(|| format!("acl: perms {perms:?}: some of the letters cdrwa"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_become_bits_and_nothing_is_everything() {
        let entry = |perms: &str| Entry { perms: perms.into(), scheme: "auth".into(), id: String::new() };
        let raw = Access::new(&[entry("cdrwa"), entry("r")]).unwrap();
        assert_eq!(raw.0, b"\0\0\0\x02\0\0\0\x1f\0\0\0\x04auth\0\0\0\0\0\0\0\x01\0\0\0\x04auth\0\0\0\0");
        assert!(Access::new(&[]).unwrap().list().is_open());
        assert!(Access::new(&[entry("x")]).is_err() && Access::new(&[entry("")]).is_err());
    }
}
