//! Why a connection between servers does not come about: for the log, with what to do, and as a number for the other side.
//! The other side is told what it could find out anyway, never a detail of ours. Refuses to carry secrets.

/// The versions of the link protocol that this code speaks.
pub(super) const VERSION_NEWEST: u16 = 1;
pub(super) const VERSION_OLDEST: u16 = 1;

/// See the module heading. "It" is the other side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("what answers there does not speak this protocol; is it the peer port of a server?")]
    Stranger,
    #[error(
        "it speaks versions {oldest} to {newest} of the link protocol, this server {VERSION_OLDEST} to {VERSION_NEWEST}; run releases next to each other"
    )]
    Version { oldest: u16, newest: u16 },
    #[error("it says that it is server {0}, which is not in the configuration of this server")]
    Unknown(u16),
    #[error("it says that it is server {0}, which is this one; two servers must not have the same id")]
    Mine(u16),
    #[error("it wants to talk to server {0}, which this one is not; check the address of server {0} in its configuration")]
    NotMe(u16),
    #[error("server {found} answers where server {wanted} should be; check the address of server {wanted}")]
    NotDialled { wanted: u16, found: u16 },
    #[error("server {0} has dialled, but of two servers the one with the higher id does")]
    Direction(u16),
    #[error("it has no secret, this server has one; give all servers the same peerSecretFile")]
    SecretMissing,
    #[error("it has a secret, this server has none; give all servers the same peerSecretFile")]
    SecretUnexpected,
    #[error("it does not know the secret of this server; give all servers the same peerSecretFile")]
    SecretWrong,
    #[error(
        "it belongs to cluster {theirs:032x}, this server to {ours:032x}, and both have data; one of them has the data directory of another ensemble"
    )]
    Cluster { ours: u128, theirs: u128 },
    #[error("it refuses this server: {0}")]
    ByPeer(Told),
}

/// What the other side says about its refusal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Told {
    #[error("it does not speak this version of the link protocol")]
    Version,
    #[error("it does not have this server in its configuration")]
    Unknown,
    #[error("it is another server than this one's configuration says at that address")]
    NotMe,
    #[error("it has this server's id itself")]
    Mine,
    #[error("its secret is another one, or only one of both has one; give all servers the same peerSecretFile")]
    Secret,
    #[error("it belongs to another cluster, and both have data")]
    Cluster,
    #[error("of two servers the one with the higher id dials")]
    Direction,
    #[error("reason {0}, which this release does not know")]
    Other(u16),
}

impl Refusal {
    /// What the other side is told; None: nothing, it may be anybody or has refused first.
    pub(super) fn code(self) -> Option<u16> {
        Some(match self {
            Refusal::Stranger | Refusal::ByPeer(_) | Refusal::NotDialled { .. } => return None,
            Refusal::Version { .. } => 1,
            Refusal::Unknown(_) => 2,
            Refusal::NotMe(_) => 3,
            Refusal::Mine(_) => 4,
            Refusal::SecretMissing | Refusal::SecretUnexpected | Refusal::SecretWrong => 5,
            Refusal::Cluster { .. } => 6,
            Refusal::Direction(_) => 7,
        })
    }

    pub(super) fn told(code: u16) -> Refusal {
        Refusal::ByPeer(match code {
            1 => Told::Version,
            2 => Told::Unknown,
            3 => Told::NotMe,
            4 => Told::Mine,
            5 => Told::Secret,
            6 => Told::Cluster,
            7 => Told::Direction,
            other => Told::Other(other),
        })
    }
}
