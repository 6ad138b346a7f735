//! The transaction: what prepare decides, the log orders and every replica applies. One rkyv archive each
//! (little endian, 32-bit pointers, aligned), appended to the open batch straight from the request's bytes.
//! A refused write is a transaction too ([`Op::Error`]), so no error that rests on uncommitted state is ever seen.
//! Refuses to decide anything: versions, names and owners in here are results, not requests.

use rkyv::with::{InlineAsBox, Map};
use rkyv::{Archive, Serialize};

/// Who asked, so that exactly one connection replies when its shard applies the transaction.
#[derive(Archive, Serialize, Clone, Copy, PartialEq, Eq, Debug, Default)]
#[rkyv(derive(Debug))]
pub struct Origin {
    /// Connection within the shard: slot in the low 32 bits, generation above.
    pub conn: u64,
    /// Position in that connection's FIFO of submitted requests.
    pub sequence: u32,
    /// Names the run of that server, so that a reply never reaches a connection of another run.
    pub boot: u32,
    pub server: u16,
    pub shard: u16,
}

/// One ordered step of the history.
#[derive(Archive, Serialize, Debug)]
pub struct Txn<'a> {
    /// epoch << 32 | counter.
    pub zxid: u64,
    /// The leader's wall clock when it prepared this, ms since 1970. The only source of ctime and mtime.
    pub time_ms: i64,
    /// The session that asked, 0 for the server itself.
    pub session: i64,
    pub origin: Origin,
    pub op: Op<'a>,
}

#[derive(Archive, Serialize, Debug)]
pub enum Op<'a> {
    Change(Change<'a>),
    /// A successful multi, all in one zxid.
    Multi(Vec<Change<'a>>),
    /// A refused request; the code is ZooKeeper's.
    Error {
        code: i32,
    },
    /// A refused multi: one code per operation (0 before the failing one, -2 after it).
    MultiError {
        codes: Vec<i32>,
    },
    CreateSession {
        timeout_ms: i32,
        password: [u8; 16],
    },
    /// A connection took over an existing session: the origin becomes its owner.
    AttachSession {
        timeout_ms: i32,
    },
    /// The session ends and its ephemerals go, in path order, as the state at apply says.
    CloseSession,
    /// The first record of an epoch, zxid (e,0), alone in its batch.
    NewEpoch {
        leader: u16,
    },
}

/// One change of the tree. Hashes are `tree::path::hash` of the full path.
#[derive(Archive, Serialize, Debug)]
pub enum Change<'a> {
    Create {
        #[rkyv(with = InlineAsBox)]
        path: &'a str,
        path_hash: u64,
        #[rkyv(with = Map<InlineAsBox>)]
        data: Option<&'a [u8]>,
        /// None is `world:anyone` with all permissions, by far the most common list.
        acl: Option<Vec<AclRef<'a>>>,
        /// 0, a session id, `i64::MIN` for a container, or ZooKeeper's TTL encoding.
        owner: i64,
        /// The parent's count of creates after this one (ZooKeeper's internal cversion).
        parent_creates: u32,
        /// Whether the reply carries a Stat (create2, createContainer, createTTL).
        with_stat: bool,
    },
    Delete {
        #[rkyv(with = InlineAsBox)]
        path: &'a str,
        path_hash: u64,
    },
    SetData {
        #[rkyv(with = InlineAsBox)]
        path: &'a str,
        path_hash: u64,
        #[rkyv(with = Map<InlineAsBox>)]
        data: Option<&'a [u8]>,
        /// The version after the change.
        version: i32,
    },
    SetAcl {
        #[rkyv(with = InlineAsBox)]
        path: &'a str,
        path_hash: u64,
        acl: Option<Vec<AclRef<'a>>>,
        /// The ACL version after the change.
        aversion: i32,
    },
    /// A check that held. Only inside a multi, and only for its place in the reply.
    Check,
    /// The node and all below it go, children before their parents and in name order, as the state at apply says.
    DeleteTree {
        #[rkyv(with = InlineAsBox)]
        path: &'a str,
        path_hash: u64,
    },
    /// A create that found its node there and was content. Nothing changes.
    CreateSkipped {
        #[rkyv(with = InlineAsBox)]
        path: &'a str,
    },
    /// A delete that could not be had and was content. Nothing changes.
    DeleteSkipped,
}

/// One entry of an access control list, borrowed from a request.
#[derive(Archive, Serialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct AclRef<'a> {
    pub perms: u32,
    #[rkyv(with = InlineAsBox)]
    pub scheme: &'a str,
    #[rkyv(with = InlineAsBox)]
    pub id: &'a str,
}
