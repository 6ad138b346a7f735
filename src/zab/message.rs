//! What servers say to each other, and its bytes: a length (u32), a kind (u8) and fixed little-endian fields; batches travel
//! as they stand in the log. One stream for synchronisation and broadcast; a connection keeps the order.
//! Decoding checks everything a stranger could get wrong. Refuses to act on any of it.

use super::positions::epoch;
use crate::limits::{PEER_FRAME_BYTES_MAX, SNAPSHOT_CHUNK_BYTES};
use crate::log::snapshot::SnapshotPointer;
use crate::wire::batch::{Batch, Position};
use crate::wire::raw_batch::RawBatch;
use std::sync::Arc;

/// What a vote is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Term {
    /// One vote per epoch, from those whose history is not longer.
    Vote,
    /// The first epoch of an ensemble in which nobody has any history: everybody has to agree.
    Bootstrap,
    /// The epoch has its leader: no vote, come and follow.
    Established,
}

/// How a follower's log gets to the leader's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sync {
    Diff,
    Trunc(Position),
    Snap(SnapshotPointer),
}

/// One message between two servers. `epoch` is always the epoch of the leader (or candidate) that it belongs to.
#[derive(PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// Would you vote for me? Promises nothing.
    PreVote {
        round: u64,
        last: Position,
    },
    /// `promised` and `last` are on the medium. `leader`: whom I follow, 0 for nobody.
    PreVoteReply {
        round: u64,
        granted: bool,
        member: bool,
        cluster: u128,
        promised: u32,
        last: Position,
    },
    /// I lead, or want to lead, `epoch`.
    NewEpoch {
        epoch: u32,
        term: Term,
        cluster: u128,
        last: Position,
    },
    /// `attempt` names this try to follow. Granted: promised durably, and `table` (the last batch end of each epoch, oldest first) is what is on the medium.
    AckEpoch {
        epoch: u32,
        attempt: u64,
        granted: bool,
        member: bool,
        promised: u32,
        table: Vec<Position>,
    },
    /// What to do before the first Append, for this try to follow and no other.
    SyncStart {
        epoch: u32,
        attempt: u64,
        sync: Sync,
    },
    /// The follower could not do what SyncStart said: it needs a snapshot.
    NeedSnapshot {
        epoch: u32,
    },
    /// The follower wants the bytes of the snapshot at `zxid` from `offset` on.
    SnapshotWanted {
        epoch: u32,
        zxid: u64,
        offset: u64,
    },
    SnapshotChunk {
        epoch: u32,
        zxid: u64,
        offset: u64,
        bytes: &'a [u8],
    },
    /// Proposals, commits and heartbeats. `round` counts the leader's heartbeats. The batch is not checked yet.
    Append {
        epoch: u32,
        committed: u64,
        round: u64,
        batch: Option<RawBatch>,
    },
    /// Everything up to `upto` is on the medium; `round` is the last heartbeat seen. `full`: the disk has no room for growth.
    Ack {
        epoch: u32,
        upto: Position,
        round: u64,
        full: bool,
    },
    /// `sessions` were heard from; all sockets were drained after heartbeat `round` had come.
    Touch {
        epoch: u32,
        round: u64,
        sessions: Vec<i64>,
    },
    /// A client's write or sync: an encoded `Submit` of that shard, in that run of the server.
    Forward {
        epoch: u32,
        boot: u32,
        shard: u16,
        submit: &'a [u8],
    },
    /// The answer to a request forwarded in that run of the server, if it is no transaction; see `pipeline::message::Down`.
    Answer {
        epoch: u32,
        boot: u32,
        shard: u16,
        conn: u64,
        sequence: u32,
        after: u64,
        code: AnswerCode,
    },
    /// I do not lead any more.
    StepDown,
}

/// What an Answer says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AnswerCode {
    Refused(i32),
    Drop,
    Synced,
}

/// A message on its way to a peer: the length of the frame and the fields, and the batch that follows them, which stays in
/// the buffer that the log and the shards share. Cheap to clone.
#[derive(Clone)]
pub struct Outgoing {
    pub head: Arc<Vec<u8>>,
    pub batch: Option<Arc<Batch>>,
}

impl Outgoing {
    pub fn new(message: &Message<'_>) -> Outgoing {
        let mut head = Vec::new();
        message.encode(&mut head);
        Outgoing { head: Arc::new(head), batch: None }
    }

    /// An Append with this batch.
    pub fn append(epoch: u32, committed: u64, round: u64, batch: Arc<Batch>) -> Outgoing {
        let mut head = Vec::new();
        Message::Append { epoch, committed, round, batch: None }.encode(&mut head);
        let len = (head.len() - 4 + batch.bytes().len()) as u32;
        head[..4].copy_from_slice(&len.to_le_bytes());
        Outgoing { head: Arc::new(head), batch: Some(batch) }
    }

    /// What follows the head.
    pub fn batch_bytes(&self) -> &[u8] {
        self.batch.as_ref().map_or(&[], |batch| batch.bytes())
    }

    /// Bytes of the whole frame.
    pub fn bytes(&self) -> usize {
        self.head.len() + self.batch_bytes().len()
    }

    /// The whole frame in one piece.
    pub fn to_frame(&self) -> Vec<u8> {
        [&self.head, self.batch_bytes()].concat()
    }
}

/// Why bytes are no message. The connection they came from is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadMessage {
    #[error("a frame of {0} bytes")]
    Length(usize),
    #[error("kind {0} is not known")]
    Kind(u8),
    #[error("its fields do not fit its length")]
    Shape,
}

const PRE_VOTE: u8 = 1;
const PRE_VOTE_REPLY: u8 = 2;
const NEW_EPOCH: u8 = 3;
const ACK_EPOCH: u8 = 4;
const SYNC_START: u8 = 5;
const NEED_SNAPSHOT: u8 = 6;
const SNAPSHOT_WANTED: u8 = 7;
const SNAPSHOT_CHUNK: u8 = 8;
const APPEND: u8 = 9;
const ACK: u8 = 10;
const TOUCH: u8 = 11;
const FORWARD: u8 = 12;
const ANSWER: u8 = 13;
const STEP_DOWN: u8 = 14;

/// The length of the whole frame at the start of `bytes`, its prefix included; None: more bytes are needed.
pub fn frame_len(bytes: &[u8]) -> Result<Option<usize>, BadMessage> {
    let Some((len, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_le_bytes(*len) as usize;
    if len == 0 || len > PEER_FRAME_BYTES_MAX {
        return Err(BadMessage::Length(len));
    }
    Ok((rest.len() >= len).then_some(4 + len))
}

struct Writer<'o>(&'o mut Vec<u8>);

impl Writer<'_> {
    fn u8(&mut self, v: u8) {
        self.0.push(v);
    }
    fn flag(&mut self, v: bool) {
        self.0.push(u8::from(v));
    }
    fn u16(&mut self, v: u16) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn u32(&mut self, v: u32) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn u64(&mut self, v: u64) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn u128(&mut self, v: u128) {
        self.0.extend_from_slice(&v.to_le_bytes());
    }
    fn position(&mut self, p: Position) {
        self.u64(p.zxid);
        self.u128(p.chain);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], BadMessage> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(BadMessage::Shape)?;
        self.0 = rest;
        Ok(*head)
    }
    fn u8(&mut self) -> Result<u8, BadMessage> {
        Ok(self.take::<1>()?[0])
    }
    fn flag(&mut self) -> Result<bool, BadMessage> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(BadMessage::Shape),
        }
    }
    fn u16(&mut self) -> Result<u16, BadMessage> {
        Ok(u16::from_le_bytes(self.take()?))
    }
    fn u32(&mut self) -> Result<u32, BadMessage> {
        Ok(u32::from_le_bytes(self.take()?))
    }
    fn u64(&mut self) -> Result<u64, BadMessage> {
        Ok(u64::from_le_bytes(self.take()?))
    }
    fn u128(&mut self) -> Result<u128, BadMessage> {
        Ok(u128::from_le_bytes(self.take()?))
    }
    fn position(&mut self) -> Result<Position, BadMessage> {
        Ok(Position { zxid: self.u64()?, chain: self.u128()? })
    }
    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
    /// A count of items of `size` bytes each, which are all there.
    fn count(&mut self, size: usize) -> Result<usize, BadMessage> {
        let count = self.u32()? as usize;
        if count.checked_mul(size).is_some_and(|bytes| bytes <= self.0.len()) { Ok(count) } else { Err(BadMessage::Shape) }
    }
}

impl<'a> Message<'a> {
    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; 4]);
        self.encode_fields(&mut Writer(out));
        let len = (out.len() - start - 4) as u32;
        out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    }

    fn encode_fields(&self, w: &mut Writer<'_>) {
        match self {
            Message::PreVote { round, last } => {
                w.u8(PRE_VOTE);
                w.u64(*round);
                w.position(*last);
            }
            Message::PreVoteReply { round, granted, member, cluster, promised, last } => {
                w.u8(PRE_VOTE_REPLY);
                w.u64(*round);
                w.flag(*granted);
                w.flag(*member);
                w.u128(*cluster);
                w.u32(*promised);
                w.position(*last);
            }
            Message::NewEpoch { epoch, term, cluster, last } => {
                w.u8(NEW_EPOCH);
                w.u32(*epoch);
                w.u8(match term {
                    Term::Vote => 0,
                    Term::Bootstrap => 1,
                    Term::Established => 2,
                });
                w.u128(*cluster);
                w.position(*last);
            }
            Message::AckEpoch { epoch, attempt, granted, member, promised, table } => {
                w.u8(ACK_EPOCH);
                w.u32(*epoch);
                w.u64(*attempt);
                w.flag(*granted);
                w.flag(*member);
                w.u32(*promised);
                w.u32(table.len() as u32);
                table.iter().for_each(|p| w.position(*p));
            }
            Message::SyncStart { epoch, attempt, sync } => {
                w.u8(SYNC_START);
                w.u32(*epoch);
                w.u64(*attempt);
                encode_sync(w, sync);
            }
            Message::NeedSnapshot { epoch } => {
                w.u8(NEED_SNAPSHOT);
                w.u32(*epoch);
            }
            Message::SnapshotWanted { epoch, zxid, offset } => {
                w.u8(SNAPSHOT_WANTED);
                w.u32(*epoch);
                w.u64(*zxid);
                w.u64(*offset);
            }
            Message::SnapshotChunk { epoch, zxid, offset, bytes } => {
                w.u8(SNAPSHOT_CHUNK);
                w.u32(*epoch);
                w.u64(*zxid);
                w.u64(*offset);
                w.0.extend_from_slice(bytes);
            }
            Message::Append { epoch, committed, round, batch } => {
                w.u8(APPEND);
                w.u32(*epoch);
                w.u64(*committed);
                w.u64(*round);
                w.0.extend_from_slice(batch.as_ref().map_or(&[], RawBatch::bytes));
            }
            Message::Ack { epoch, upto, round, full } => {
                w.u8(ACK);
                w.u32(*epoch);
                w.position(*upto);
                w.u64(*round);
                w.flag(*full);
            }
            Message::Touch { epoch, round, sessions } => {
                w.u8(TOUCH);
                w.u32(*epoch);
                w.u64(*round);
                w.u32(sessions.len() as u32);
                sessions.iter().for_each(|id| w.u64(*id as u64));
            }
            Message::Forward { epoch, boot, shard, submit } => {
                w.u8(FORWARD);
                w.u32(*epoch);
                w.u32(*boot);
                w.u16(*shard);
                w.0.extend_from_slice(submit);
            }
            Message::Answer { epoch, boot, shard, conn, sequence, after, code } => {
                w.u8(ANSWER);
                w.u32(*epoch);
                w.u32(*boot);
                w.u16(*shard);
                w.u64(*conn);
                w.u32(*sequence);
                w.u64(*after);
                let (kind, value) = match code {
                    AnswerCode::Refused(value) => (0, *value),
                    AnswerCode::Drop => (1, 0),
                    AnswerCode::Synced => (2, 0),
                };
                w.u8(kind);
                w.u32(value as u32);
            }
            Message::StepDown => w.u8(STEP_DOWN),
        }
    }

    /// Reads one frame, without its length.
    pub fn decode(frame: &'a [u8]) -> Result<Message<'a>, BadMessage> {
        let mut r = Reader(frame);
        let message = decode_fields(&mut r)?;
        if r.0.is_empty() { Ok(message) } else { Err(BadMessage::Shape) }
    }

    /// Reads one frame, without its length, whose batch was received into a buffer of its own.
    pub fn with_batch(fields: &'a [u8], batch: RawBatch) -> Result<Message<'a>, BadMessage> {
        match Message::decode(fields)? {
            Message::Append { epoch, committed, round, batch: None } => Ok(Message::Append { epoch, committed, round, batch: Some(batch) }),
            _ => Err(BadMessage::Shape),
        }
    }
}

fn encode_sync(w: &mut Writer<'_>, sync: &Sync) {
    match sync {
        Sync::Diff => w.u8(0),
        Sync::Trunc(to) => {
            w.u8(1);
            w.position(*to);
        }
        Sync::Snap(pointer) => {
            w.u8(2);
            w.position(pointer.position);
            w.u64(pointer.bytes);
            w.u128(pointer.digest);
        }
    }
}

fn decode_sync(r: &mut Reader<'_>) -> Result<Sync, BadMessage> {
    Ok(match r.u8()? {
        0 => Sync::Diff,
        1 => Sync::Trunc(r.position()?),
        2 => Sync::Snap(SnapshotPointer { position: r.position()?, bytes: r.u64()?, digest: r.u128()? }),
        _ => return Err(BadMessage::Shape),
    })
}

fn decode_fields<'a>(r: &mut Reader<'a>) -> Result<Message<'a>, BadMessage> {
    Ok(match r.u8()? {
        PRE_VOTE => Message::PreVote { round: r.u64()?, last: r.position()? },
        PRE_VOTE_REPLY => Message::PreVoteReply {
            round: r.u64()?,
            granted: r.flag()?,
            member: r.flag()?,
            cluster: r.u128()?,
            promised: r.u32()?,
            last: r.position()?,
        },
        NEW_EPOCH => Message::NewEpoch { epoch: r.u32()?, term: decode_term(r)?, cluster: r.u128()?, last: r.position()? },
        ACK_EPOCH => Message::AckEpoch {
            epoch: r.u32()?,
            attempt: r.u64()?,
            granted: r.flag()?,
            member: r.flag()?,
            promised: r.u32()?,
            table: decode_table(r)?,
        },
        SYNC_START => Message::SyncStart { epoch: r.u32()?, attempt: r.u64()?, sync: decode_sync(r)? },
        NEED_SNAPSHOT => Message::NeedSnapshot { epoch: r.u32()? },
        SNAPSHOT_WANTED => Message::SnapshotWanted { epoch: r.u32()?, zxid: r.u64()?, offset: r.u64()? },
        SNAPSHOT_CHUNK => decode_chunk(r)?,
        APPEND => {
            let (epoch, committed, round, batch) = (r.u32()?, r.u64()?, r.u64()?, r.rest());
            Message::Append { epoch, committed, round, batch: (!batch.is_empty()).then(|| RawBatch::copy_of(batch)) }
        }
        ACK => Message::Ack { epoch: r.u32()?, upto: r.position()?, round: r.u64()?, full: r.flag()? },
        TOUCH => {
            let (epoch, round, count) = (r.u32()?, r.u64()?, r.count(8)?);
            let sessions = (0..count).map(|_| Ok(r.u64()? as i64)).collect::<Result<_, BadMessage>>()?;
            Message::Touch { epoch, round, sessions }
        }
        FORWARD => Message::Forward { epoch: r.u32()?, boot: r.u32()?, shard: r.u16()?, submit: r.rest() },
        ANSWER => {
            let (epoch, boot, shard, conn) = (r.u32()?, r.u32()?, r.u16()?, r.u64()?);
            let (sequence, after) = (r.u32()?, r.u64()?);
            let code = match (r.u8()?, r.u32()? as i32) {
                (0, value) => AnswerCode::Refused(value),
                (1, 0) => AnswerCode::Drop,
                (2, 0) => AnswerCode::Synced,
                _ => return Err(BadMessage::Shape),
            };
            Message::Answer { epoch, boot, shard, conn, sequence, after, code }
        }
        STEP_DOWN => Message::StepDown,
        kind => return Err(BadMessage::Kind(kind)),
    })
}

fn decode_term(r: &mut Reader<'_>) -> Result<Term, BadMessage> {
    match r.u8()? {
        0 => Ok(Term::Vote),
        1 => Ok(Term::Bootstrap),
        2 => Ok(Term::Established),
        _ => Err(BadMessage::Shape),
    }
}

/// A table has an entry for every epoch, in order.
fn decode_table(r: &mut Reader<'_>) -> Result<Vec<Position>, BadMessage> {
    let count = r.count(24)?;
    let table = (0..count).map(|_| r.position()).collect::<Result<Vec<_>, _>>()?;
    let rises = table.windows(2).all(|pair| epoch(pair[0].zxid) < epoch(pair[1].zxid));
    if rises && !table.is_empty() { Ok(table) } else { Err(BadMessage::Shape) }
}

fn decode_chunk<'a>(r: &mut Reader<'a>) -> Result<Message<'a>, BadMessage> {
    let (epoch, zxid, offset, bytes) = (r.u32()?, r.u64()?, r.u64()?, r.rest());
    if bytes.is_empty() || bytes.len() > SNAPSHOT_CHUNK_BYTES {
        return Err(BadMessage::Shape);
    }
    Ok(Message::SnapshotChunk { epoch, zxid, offset, bytes })
}
