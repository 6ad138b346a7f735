//! Access control as the contract has it: the schemes world, auth, digest, ip and super, in a few plain lines.
//! Refuses to share code with the server.

use crate::wire::record::{Acl, Id};
use crate::wire::response::code;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

pub const READ: i32 = 1;
pub const WRITE: i32 = 2;
pub const CREATE: i32 = 4;
pub const DELETE: i32 = 8;
pub const ADMIN: i32 = 16;

/// Credentials that make a simulated client the super user: the world configures its servers with their digest.
pub const SUPER: &[u8] = b"super:secret";

/// Whether somebody has one of the permissions `need`.
pub fn permits(acl: &[Acl], ids: &[Id], need: i32) -> bool {
    if acl.is_empty() || ids.iter().any(|id| id.scheme == "super") {
        return true;
    }
    acl.iter().any(|entry| {
        let named = ids.iter().any(|id| id.scheme == entry.scheme && names(id, &entry.id));
        entry.perms & need != 0 && (named || entry.scheme == "world" && entry.id == "anyone")
    })
}

fn names(id: &Id, wanted: &str) -> bool {
    match (id.scheme.as_str(), network(&id.id), network(wanted)) {
        ("ip", Some((address, _)), Some((net, bits))) => bits == 0 || (address ^ net) >> (32 - bits) == 0,
        ("ip", ..) => false,
        _ => id.id == wanted,
    }
}

/// `a.b.c.d` or `a.b.c.d/bits`. The simulator has no other addresses.
fn network(text: &str) -> Option<(u32, u32)> {
    let (address, bits) = text.split_once('/').unwrap_or((text, "32"));
    let bytes: Vec<u8> = address.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let bits: u32 = bits.parse().ok().filter(|bits| *bits <= 32)?;
    Some((u32::from_be_bytes(bytes.try_into().ok()?), bits))
}

/// The list to store, or INVALIDACL.
pub fn stored(requested: &[Acl], ids: &[Id]) -> Result<Vec<Acl>, i32> {
    let mut list: Vec<Acl> = Vec::new();
    for (at, entry) in requested.iter().enumerate() {
        if requested[..at].contains(entry) {
            continue;
        }
        let valid = match entry.scheme.as_str() {
            "world" => entry.id == "anyone",
            "ip" => network(&entry.id).is_some(),
            "digest" => {
                // Java's split drops empty parts at the end.
                let parts = entry.id.trim_end_matches(':');
                !parts.is_empty() && parts.matches(':').count() == 1
            }
            "auth" => {
                let mine = ids.iter().filter(|id| id.scheme == "digest");
                list.extend(mine.map(|id| Acl { perms: entry.perms, scheme: id.scheme.clone(), id: id.id.clone() }));
                if !ids.iter().any(|id| id.scheme == "digest") {
                    return Err(code::INVALID_ACL);
                }
                continue;
            }
            _ => false,
        };
        if !valid {
            return Err(code::INVALID_ACL);
        }
        list.push(entry.clone());
    }
    if list.is_empty() { Err(code::INVALID_ACL) } else { Ok(list) }
}

/// The id that `digest` credentials give.
pub fn digest_id(credentials: &[u8]) -> String {
    let user: Vec<u8> = credentials.iter().copied().take_while(|byte| *byte != b':').collect();
    format!("{}:{}", String::from_utf8_lossy(&user), STANDARD.encode(Sha1::digest(credentials)))
}

/// The identities after an auth packet with `credentials`.
pub fn authenticated(ids: &[Id], credentials: &[u8]) -> Vec<Id> {
    let mut all = ids.to_vec();
    let mut add = |scheme: &str, id: String| {
        let id = Id { scheme: scheme.into(), id };
        if !all.contains(&id) {
            all.push(id);
        }
    };
    if credentials == SUPER {
        add("super", String::new());
    }
    add("digest", digest_id(credentials));
    all
}

/// What a reader who may not administer the node sees of an entry's id.
pub fn shown(entry: &Acl, administers: bool) -> String {
    match entry.scheme == "digest" && !administers {
        true => format!("{}:x", entry.id.split(':').next().unwrap_or("")),
        false => entry.id.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(perms: i32, scheme: &str, id: &str) -> Acl {
        Acl { perms, scheme: scheme.into(), id: id.into() }
    }

    fn id(scheme: &str, id: &str) -> Id {
        Id { scheme: scheme.into(), id: id.into() }
    }

    #[test]
    fn lists_are_stored_and_compared_as_the_contract_says() {
        let me = [id("ip", "10.1.2.3"), id("digest", "bob:h")];
        assert_eq!(stored(&[acl(3, "auth", "x"), acl(3, "auth", "x")], &me).unwrap(), [acl(3, "digest", "bob:h")]);
        for bad in [acl(1, "auth", ""), acl(1, "world", "all"), acl(1, "ip", "10.0.0.0/33"), acl(1, "digest", "u:"), acl(1, "sasl", "a")] {
            assert_eq!(stored(&[bad], &me[..1]), Err(code::INVALID_ACL));
        }
        assert!(permits(&[acl(READ, "ip", "10.1.0.0/16")], &me, READ));
        assert!(!permits(&[acl(READ, "ip", "10.2.0.0/16")], &me, READ));
        assert!(!permits(&[acl(READ, "world", "anyone")], &me, WRITE));
        assert!(permits(&[acl(READ, "world", "anyone")], &authenticated(&me, SUPER), WRITE));
        assert_eq!(shown(&acl(1, "digest", "bob:hash"), false), "bob:x");
        assert_eq!(digest_id(b"user:password"), "user:tpUq/4Pn5A64fVZyQ0gOJ8ZWqkY=");
    }
}
