//! What a node's owner field means, in ZooKeeper's encoding.
//! Refuses ZooKeeper 3.5.3's older TTL encoding.

/// The owner field of a container.
pub const CONTAINER: i64 = i64::MIN;
/// The largest TTL, about 34.8 years.
pub const TTL_MS_MAX: i64 = 0xff_ffff_ffff;
const TTL_MARK: i64 = 0xff00_0000_0000_0000_u64 as i64;

/// Who or what a node belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Nobody: the node is persistent.
    None,
    /// A session: the node is ephemeral.
    Session(i64),
    /// A container goes when its last child has gone.
    Container,
    /// Goes when it has no children and has not been set for so many milliseconds.
    Ttl(i64),
}

impl Owner {
    /// Reads the raw field. What only looks like a TTL (an unknown feature number) counts as a session, as in ZooKeeper.
    pub fn of(raw: i64) -> Owner {
        match raw {
            0 => Owner::None,
            CONTAINER => Owner::Container,
            _ if raw & !TTL_MS_MAX == TTL_MARK => Owner::Ttl(raw & TTL_MS_MAX),
            _ => Owner::Session(raw),
        }
    }

    /// The raw field. A TTL must be in 1..=[`TTL_MS_MAX`].
    pub fn raw(self) -> i64 {
        match self {
            Owner::None => 0,
            Owner::Session(id) => id,
            Owner::Container => CONTAINER,
            Owner::Ttl(ttl_ms) => TTL_MARK | ttl_ms,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_read_back() {
        for owner in [
            Owner::None,
            Owner::Session(0x0100_0000_0000_0001),
            Owner::Session(-5),
            Owner::Container,
            Owner::Ttl(1),
            Owner::Ttl(TTL_MS_MAX),
        ] {
            assert_eq!(Owner::of(owner.raw()), owner);
        }
        assert_eq!(Owner::Ttl(1000).raw() as u64, 0xff00_0000_0000_03e8);
    }
}
