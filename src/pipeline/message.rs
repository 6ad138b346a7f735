//! What crosses cores: requests up from a shard to the pipeline, answers that are not transactions down again.
//! Up messages are byte records, so that a ring can carry them without an allocation; down messages are plain values.
//! A submit crosses servers in the same bytes when the leader is elsewhere, so reading one trusts nothing.
//! Refuses to interpret a request: its jute bytes travel as they came.

use crate::wire::extension;
use crate::wire::jute::Reader;
use crate::wire::request::{Request, opcode};

/// A connection within its shard: slot in the low 32 bits, generation above, so that a slot's next user is never
/// mistaken for the last one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnId(pub u64);

impl ConnId {
    pub fn new(slot: u32, generation: u32) -> ConnId {
        ConnId(u64::from(generation) << 32 | u64::from(slot))
    }

    pub fn slot(self) -> usize {
        self.0 as u32 as usize
    }
}

/// Opcodes of requests that a shard makes itself, outside ZooKeeper's range.
pub mod op {
    /// Body: timeout i32, 16 bytes of password.
    pub const CREATE_SESSION: i32 = -10;
    /// Body: timeout i32, 16 bytes of password. The session moves to the submitting connection.
    pub const ATTACH_SESSION: i32 = -12;
    /// A sync that no client waits for: reads behind it see everything that was acknowledged before they came. No body.
    pub const BARRIER: i32 = -13;
}

/// Whether a client's request is the pipeline's to order; the others are answered where they arrive.
pub fn goes_up(op: i32) -> bool {
    use opcode::*;
    let ours = matches!(
        op,
        CREATE | CREATE2 | CREATE_CONTAINER | CREATE_TTL | DELETE | SET_DATA | SET_ACL | MULTI | RECONFIG | SYNC | CLOSE_SESSION
    );
    ours || extension::opcode::is_write(op)
}

/// A write (or a sync) on its way to the pipeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Submit<'a> {
    pub conn: ConnId,
    pub sequence: u32,
    /// The way to a leader that this shard knew of: requests for an older one are dropped, so that none overtakes another.
    pub route: u32,
    pub opcode: i32,
    pub session: i64,
    /// The connection's identities when the request was read: a jute vector of Id.
    pub auth: &'a [u8],
    /// The request record, without its header, as it came.
    pub body: &'a [u8],
}

/// One record on the way up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Up<'a> {
    Submit(Submit<'a>),
    /// The session was heard from since this shard's last report.
    Touch {
        session: i64,
    },
    /// This shard drained its sockets at this time: silence before it is real silence.
    Report {
        at_ms: u64,
    },
}

const SUBMIT: u32 = 1;
const TOUCH: u32 = 2;
const REPORT: u32 = 3;

/// Bytes of the fixed part of a Submit record.
const SUBMIT_HEADER: usize = 40;

impl<'a> Submit<'a> {
    /// The record's bytes after its kind.
    fn parse(fields: &'a [u8]) -> Option<Submit<'a>> {
        let (head, rest) = fields.split_at_checked(SUBMIT_HEADER - 4)?;
        let u32_at = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        let (auth_len, body_len) = (u32_at(28) as usize, u32_at(32) as usize);
        let (auth, body) = rest.split_at_checked(auth_len)?;
        (body.len() == body_len).then(|| Submit {
            conn: ConnId(u64_at(0)),
            sequence: u32_at(8),
            route: u32_at(12),
            opcode: u32_at(16) as i32,
            session: u64_at(20) as i64,
            auth,
            body,
        })
    }

    /// Reads a record that another server sent, without its length prefix; None: it is none that a shard would send.
    pub fn from_peer(record: &'a [u8]) -> Option<Submit<'a>> {
        let (kind, fields) = record.split_first_chunk::<4>()?;
        let submit = Submit::parse(fields).filter(|_| u32::from_le_bytes(*kind) == SUBMIT)?;
        submit.is_sound().then_some(submit)
    }

    /// Whether identities and body are what the opcode needs.
    fn is_sound(&self) -> bool {
        let sound_body = match self.opcode {
            op::CREATE_SESSION | op::ATTACH_SESSION => self.body.len() == 20,
            op::BARRIER => self.body.is_empty(),
            opcode::CLOSE_SESSION | opcode::SYNC => true,
            _ => goes_up(self.opcode) && Request::decode(self.opcode, self.body).is_ok(),
        };
        sound_body && sound_identities(self.auth)
    }
}

/// A jute vector of Id, or nothing.
fn sound_identities(auth: &[u8]) -> bool {
    let mut reader = Reader::new(auth);
    let Ok(count) = reader.vector(8) else { return auth.is_empty() };
    (0..2 * count.unwrap_or(0)).all(|_| reader.utf8().is_ok())
}

impl<'a> Up<'a> {
    /// Appends the record to `out`, preceded by its length (u32, little endian, of what follows).
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Up::Submit(s) => {
                let len = SUBMIT_HEADER + s.auth.len() + s.body.len();
                out.reserve(4 + len);
                out.extend_from_slice(&(len as u32).to_le_bytes());
                out.extend_from_slice(&SUBMIT.to_le_bytes());
                out.extend_from_slice(&s.conn.0.to_le_bytes());
                out.extend_from_slice(&s.sequence.to_le_bytes());
                out.extend_from_slice(&s.route.to_le_bytes());
                out.extend_from_slice(&s.opcode.to_le_bytes());
                out.extend_from_slice(&s.session.to_le_bytes());
                out.extend_from_slice(&(s.auth.len() as u32).to_le_bytes());
                out.extend_from_slice(&(s.body.len() as u32).to_le_bytes());
                out.extend_from_slice(s.auth);
                out.extend_from_slice(s.body);
            }
            Up::Touch { session } => {
                out.extend_from_slice(&12u32.to_le_bytes());
                out.extend_from_slice(&TOUCH.to_le_bytes());
                out.extend_from_slice(&session.to_le_bytes());
            }
            Up::Report { at_ms } => {
                out.extend_from_slice(&12u32.to_le_bytes());
                out.extend_from_slice(&REPORT.to_le_bytes());
                out.extend_from_slice(&at_ms.to_le_bytes());
            }
        }
    }

    /// Reads one record, without its length prefix. Records come from our own encoder: anything else is a bug.
    pub fn decode(record: &'a [u8]) -> Up<'a> {
        let u32_at = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().expect("eight bytes"));
        match u32_at(0) {
            SUBMIT => Up::Submit(Submit::parse(&record[4..]).expect("a submit record is exactly as long as it says")),
            TOUCH => Up::Touch { session: u64_at(4) as i64 },
            REPORT => Up::Report { at_ms: u64_at(4) },
            kind => panic!("unknown up record {kind}"),
        }
    }
}

/// What goes down to a shard besides committed batches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Down {
    /// An answer that is not a transaction. Handled by the shard once it has applied everything up to `after`.
    Answer { conn: ConnId, sequence: u32, after: u64, what: Answer },
    /// There is a new way to a leader, or none. Connections with submits under way close, at once: nobody knows what became
    /// of those. With `open` false all connections close and none is accepted: there has been no leader for too long.
    Route { number: u32, open: bool },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Refused without a transaction: the disk is full.
    Refused { code: i32 },
    /// The request makes the connection unusable (the session moved, or is not known here): close without a reply.
    Drop,
    /// A sync went through.
    Synced,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back() {
        let submit =
            Submit { conn: ConnId::new(7, 3), sequence: 9, route: 2, opcode: 5, session: -8, auth: b"who", body: b"what is wanted" };
        for up in [Up::Submit(submit), Up::Touch { session: -1 }, Up::Report { at_ms: 1 << 40 }] {
            let mut bytes = Vec::new();
            up.encode(&mut bytes);
            assert_eq!(u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len() - 4);
            assert_eq!(Up::decode(&bytes[4..]), up);
        }
    }

    #[test]
    fn a_peers_submit_is_read_with_care() {
        let record = |submit: Submit<'_>| {
            let mut bytes = Vec::new();
            Up::Submit(submit).encode(&mut bytes);
            bytes.split_off(4)
        };
        let sound = Submit {
            conn: ConnId::new(7, 3),
            sequence: 9,
            route: 2,
            opcode: op::CREATE_SESSION,
            session: 0,
            auth: &[0, 0, 0, 0],
            body: &[1; 20],
        };
        let bytes = record(sound);
        assert_eq!(Submit::from_peer(&bytes), Some(sound));
        for len in 0..bytes.len() {
            assert_eq!(Submit::from_peer(&bytes[..len]), None, "cut to {len}");
        }
        let bad = [
            Submit { body: &[1; 19], ..sound },
            Submit { auth: &[0, 0, 0, 9], ..sound },
            Submit { opcode: opcode::SET_DATA, ..sound },
            Submit { opcode: opcode::GET_DATA, body: &[0, 0, 0, 1, b'/', 0], ..sound },
        ];
        assert!(bad.into_iter().all(|submit| Submit::from_peer(&record(submit)).is_none()));
        let mut touch = Vec::new();
        Up::Touch { session: 1 }.encode(&mut touch);
        assert_eq!(Submit::from_peer(&touch[4..]), None);
    }
}
