//! Who may do what: identities of a connection, the schemes that give them, and the one function that compares them
//! with an access control list. Follows ZooKeeper's built-in schemes world, auth, digest, ip and super.
//! Refuses to store lists or connections, and to decide anything but yes or no.

use crate::limits::{ACL_BYTES_MAX, ACL_ENTRIES_MAX};
use crate::wire::record::{Acl, Id};
use crate::wire::txn::AclRef;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};
use std::net::IpAddr;

/// Permission bits, as on the wire.
pub mod perm {
    pub const READ: i32 = 1;
    pub const WRITE: i32 = 2;
    pub const CREATE: i32 = 4;
    pub const DELETE: i32 = 8;
    pub const ADMIN: i32 = 16;
    pub const ALL: i32 = 31;
}

/// The server's settings for access control.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// Every check passes (`skipACL`).
    pub skip_acl: bool,
    /// `user:base64(hash)` of the super user, None when there is none.
    pub super_digest: Option<String>,
    /// The digest scheme exists (`DigestAuthenticationProvider.enabled`).
    pub digest_enabled: bool,
    /// Different entries in one list, at most.
    pub acl_entries_max: usize,
    /// Bytes of one list as it is stored, at most; never more than [`ACL_BYTES_MAX`].
    pub acl_bytes_max: usize,
}

impl Default for AuthConfig {
    fn default() -> AuthConfig {
        AuthConfig {
            skip_acl: false,
            super_digest: None,
            digest_enabled: false,
            acl_entries_max: ACL_ENTRIES_MAX,
            acl_bytes_max: ACL_BYTES_MAX,
        }
    }
}

/// Why a list is refused. Clients see INVALIDACL for both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadAcl {
    Invalid,
    /// Beyond the limits for lists.
    TooLong,
}

/// An identity without its memory.
pub type IdRef<'a> = (&'a str, &'a str);

/// Whether somebody with `ids` has one of the permissions `need` under `acl`.
/// An empty list allows everything, and so does the identity scheme `super` (ZooKeeperServer.checkACL).
pub fn permits<'a>(config: &AuthConfig, acl: &[Acl], need: i32, ids: impl Iterator<Item = IdRef<'a>> + Clone) -> bool {
    if config.skip_acl || acl.is_empty() || ids.clone().any(|(scheme, _)| scheme == "super") {
        return true;
    }
    acl.iter().filter(|entry| entry.perms & need != 0).any(|entry| {
        let world = entry.scheme == "world" && entry.id == "anyone";
        world || ids.clone().any(|(scheme, id)| scheme == entry.scheme && matches_id(scheme, id, &entry.id))
    })
}

fn matches_id(scheme: &str, id: &str, wanted: &str) -> bool {
    match scheme {
        "ip" => ip_matches(id, wanted),
        _ => id == wanted,
    }
}

/// Whether an address lies in `addr` or `addr/bits`, IPv4 or IPv6.
fn ip_matches(address: &str, wanted: &str) -> bool {
    let (Ok(address), Some((network, bits))) = (address.parse::<IpAddr>(), parse_cidr(wanted)) else { return false };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (a.to_bits() ^ n.to_bits()).checked_shr(32 - bits).unwrap_or(0) == 0,
        (IpAddr::V6(a), IpAddr::V6(n)) => (a.to_bits() ^ n.to_bits()).checked_shr(128 - bits).unwrap_or(0) == 0,
        _ => false,
    }
}

fn parse_cidr(text: &str) -> Option<(IpAddr, u32)> {
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let width = if address.is_ipv4() { 32 } else { 128 };
    let bits = bits.map_or(Some(width), |bits| bits.parse().ok())?;
    (bits <= width).then_some((address, bits))
}

/// The id that `addauth digest` gives: the text before the first colon, a colon, base64(SHA1(everything)).
pub fn digest_id(credentials: &[u8]) -> String {
    let user = credentials.split(|&b| b == b':').next().unwrap_or(&[]);
    format!("{}:{}", String::from_utf8_lossy(user), STANDARD.encode(Sha1::digest(credentials)))
}

/// What an auth packet adds to the connection, or None when it fails (AUTHFAILED, then the connection is closed).
pub fn authenticate(config: &AuthConfig, scheme: &str, credentials: &[u8], address: IpAddr) -> Option<Vec<Id>> {
    let id = |scheme: &str, id: String| Id { scheme: scheme.into(), id };
    match scheme {
        "ip" => Some(vec![id("ip", address.to_string())]),
        "digest" if config.digest_enabled => {
            let digest = digest_id(credentials);
            let mut ids = Vec::with_capacity(2);
            if config.super_digest.as_ref().is_some_and(|s| *s == digest) {
                ids.push(id("super", String::new()));
            }
            ids.push(id("digest", digest));
            Some(ids)
        }
        _ => None,
    }
}

/// Turns the list of a request into the list to store, or says why not (PrepRequestProcessor.fixupACL):
/// duplicates go, `auth` becomes one entry per authenticated identity, every other entry must be valid for its scheme.
/// Unlike there, a list may not be longer than the settings say: what a frame asks for must fit a transaction.
pub fn fix_acl<'a>(
    config: &AuthConfig,
    requested: impl Iterator<Item = AclRef<'a>>,
    ids: impl Iterator<Item = IdRef<'a>> + Clone,
) -> Result<Vec<AclRef<'a>>, BadAcl> {
    let mut fixed: Vec<AclRef<'a>> = Vec::new();
    let mut seen: Vec<AclRef<'a>> = Vec::new();
    for entry in requested {
        if seen.contains(&entry) {
            continue;
        }
        if seen.len() == config.acl_entries_max {
            return Err(BadAcl::TooLong);
        }
        seen.push(entry);
        match entry.scheme {
            "world" if entry.id == "anyone" => fixed.push(entry),
            "auth" => {
                let before = fixed.len();
                let authenticated = ids.clone().filter(|&(scheme, _)| scheme == "digest" && config.digest_enabled);
                fixed.extend(authenticated.map(|(scheme, id)| AclRef { perms: entry.perms, scheme, id }));
                if fixed.len() == before {
                    return Err(BadAcl::Invalid);
                }
            }
            "ip" if parse_cidr(entry.id).is_some() => fixed.push(entry),
            "digest" if config.digest_enabled && is_digest_id(entry.id) => fixed.push(entry),
            _ => return Err(BadAcl::Invalid),
        }
        if stored_bytes(&fixed) > config.acl_bytes_max {
            return Err(BadAcl::TooLong);
        }
    }
    if fixed.is_empty() { Err(BadAcl::Invalid) } else { Ok(fixed) }
}

/// About how many bytes a list takes in a transaction.
pub fn stored_bytes(acl: &[AclRef<'_>]) -> usize {
    const ENTRY: usize = 32;
    acl.iter().map(|entry| ENTRY + entry.scheme.len() + entry.id.len()).sum()
}

/// Java's `id.split(":").length == 2`: trailing empty parts do not count.
fn is_digest_id(id: &str) -> bool {
    let trimmed = id.trim_end_matches(':');
    !trimmed.is_empty() && trimmed.split(':').count() == 2
}

/// Hides the hash of a digest id from those who may not administer the node: `user:x`.
pub fn redacted(id: &str) -> String {
    format!("{}:x", id.split(':').next().unwrap_or(""))
}

/// The list that every node has unless somebody says otherwise.
pub fn is_open(acl: &[AclRef<'_>]) -> bool {
    matches!(acl, [AclRef { perms: 31, scheme: "world", id: "anyone" }])
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: AuthConfig = AuthConfig {
        skip_acl: false,
        super_digest: None,
        digest_enabled: true,
        acl_entries_max: ACL_ENTRIES_MAX,
        acl_bytes_max: ACL_BYTES_MAX,
    };

    fn acl(perms: i32, scheme: &str, id: &str) -> Acl {
        Acl { perms, scheme: scheme.into(), id: id.into() }
    }

    fn entry<'a>(scheme: &'a str, id: &'a str) -> AclRef<'a> {
        AclRef { perms: 31, scheme, id }
    }

    #[test]
    fn addresses_match_by_prefix() {
        for (address, wanted, expected) in [
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.0.0/16", true),
            ("10.2.2.3", "10.1.0.0/16", false),
            ("10.2.2.3", "0.0.0.0/0", true),
            ("10.2.2.3", "10.0.0.0/33", false),
            ("fe80::1", "fe80::/10", true),
            ("::1", "fe80::/10", false),
            ("::1", "127.0.0.1", false),
        ] {
            assert_eq!(permits(&CONFIG, &[acl(1, "ip", wanted)], 1, [("ip", address)].into_iter()), expected, "{address} {wanted}");
        }
    }

    #[test]
    fn the_digest_is_zookeepers() {
        assert_eq!(digest_id(b"user:password"), "user:tpUq/4Pn5A64fVZyQ0gOJ8ZWqkY=");
    }

    #[test]
    fn permissions_need_a_matching_entry() {
        let list = [acl(perm::READ, "world", "anyone"), acl(perm::ALL, "digest", "bob:h")];
        let nobody = [("ip", "1.2.3.4")];
        let bob = [("ip", "1.2.3.4"), ("digest", "bob:h")];
        assert!(permits(&CONFIG, &list, perm::READ, nobody.into_iter()));
        assert!(!permits(&CONFIG, &list, perm::WRITE, nobody.into_iter()));
        assert!(permits(&CONFIG, &list, perm::WRITE, bob.into_iter()));
        assert!(permits(&CONFIG, &[], perm::WRITE, nobody.into_iter()));
        assert!(permits(&CONFIG, &list, perm::ADMIN, [("super", "")].into_iter()));
    }

    #[test]
    fn lists_are_fixed_as_zookeeper_does() {
        let ids = [("ip", "1.2.3.4"), ("digest", "bob:h")];
        let fix = |list: &[AclRef<'static>]| fix_acl(&CONFIG, list.iter().copied(), ids.into_iter());
        assert_eq!(fix(&[]), Err(BadAcl::Invalid));
        assert_eq!(fix(&[entry("world", "anyone"), entry("world", "anyone")]).unwrap().len(), 1);
        assert_eq!(fix(&[entry("world", "all")]), Err(BadAcl::Invalid));
        assert_eq!(fix(&[entry("auth", "ignored")]).unwrap(), [entry("digest", "bob:h")]);
        for (id, valid) in [("u:h", true), ("u:", false), ("u:h:", true), ("a:b:c", false), ("", false), (":h", true)] {
            assert_eq!(fix(&[AclRef { perms: 1, scheme: "digest", id }]).is_ok(), valid, "{id}");
        }
        assert_eq!(fix(&[entry("ip", "10.0.0.0/8")]).unwrap().len(), 1);
        assert_eq!(fix(&[entry("ip", "10.0.0.0/99")]), Err(BadAcl::Invalid));
        assert_eq!(fix(&[entry("sasl", "x")]), Err(BadAcl::Invalid));
        let nobody = fix_acl(&CONFIG, [entry("auth", "")].into_iter(), [("ip", "1.2.3.4")].into_iter());
        assert_eq!(nobody, Err(BadAcl::Invalid));
    }

    #[test]
    fn a_list_never_outgrows_a_transaction() {
        let name = "n".repeat(2000);
        let ids: Vec<IdRef<'_>> = vec![("digest", &name); 30];
        let entries = |count: u32| (0..count).map(|perms| AclRef { perms, scheme: "auth", id: "" });
        assert_eq!(fix_acl(&CONFIG, entries(10), ids.iter().copied()).map(|list| list.len()), Ok(300));
        assert_eq!(fix_acl(&CONFIG, entries(100), ids.iter().copied()), Err(BadAcl::TooLong));
        assert!(fix_acl(&CONFIG, entries(ACL_ENTRIES_MAX as u32), [("digest", "b:h")].into_iter()).is_ok());
        assert_eq!(fix_acl(&CONFIG, entries(ACL_ENTRIES_MAX as u32 + 1), [("digest", "b:h")].into_iter()), Err(BadAcl::TooLong));
        let narrow = AuthConfig { acl_entries_max: 2, ..CONFIG };
        assert_eq!(fix_acl(&narrow, entries(3), [("digest", "b:h")].into_iter()), Err(BadAcl::TooLong));
    }
}
