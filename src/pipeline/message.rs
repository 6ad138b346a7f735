//! What crosses cores: requests up from a shard to the pipeline, answers that are not transactions down again.
//! Up messages are byte records, so that a ring can carry them without an allocation; down messages are plain values.
//! Refuses to interpret a request: its jute bytes travel as they came.

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

/// Opcodes of requests that the server makes itself, outside ZooKeeper's range.
pub mod op {
    /// Body: timeout i32, 16 bytes of password.
    pub const CREATE_SESSION: i32 = -10;
    pub const CLOSE_SESSION: i32 = -11;
    /// Body: timeout i32. The session moves to the submitting connection.
    pub const ATTACH_SESSION: i32 = -12;
}

/// A write (or a sync) on its way to the pipeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Submit<'a> {
    pub conn: ConnId,
    pub sequence: u32,
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
const SUBMIT_HEADER: usize = 36;

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
            SUBMIT => {
                let (auth_len, body_len) = (u32_at(28) as usize, u32_at(32) as usize);
                let (auth, body) = record[SUBMIT_HEADER..].split_at(auth_len);
                assert_eq!(body.len(), body_len, "a submit record is exactly as long as it says");
                Up::Submit(Submit {
                    conn: ConnId(u64_at(4)),
                    sequence: u32_at(12),
                    opcode: u32_at(16) as i32,
                    session: u64_at(20) as i64,
                    auth,
                    body,
                })
            }
            TOUCH => Up::Touch { session: u64_at(4) as i64 },
            REPORT => Up::Report { at_ms: u64_at(4) },
            kind => panic!("unknown up record {kind}"),
        }
    }
}

/// An answer that is not a transaction. Handled by the shard once it has applied everything up to `after`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Down {
    pub conn: ConnId,
    pub sequence: u32,
    pub after: u64,
    pub what: Answer,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Refused without a transaction: disk full, or no leader.
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
        let submit = Submit { conn: ConnId::new(7, 3), sequence: 9, opcode: 5, session: -8, auth: b"who", body: b"what is wanted" };
        for up in [Up::Submit(submit), Up::Touch { session: -1 }, Up::Report { at_ms: 1 << 40 }] {
            let mut bytes = Vec::new();
            up.encode(&mut bytes);
            assert_eq!(u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len() - 4);
            assert_eq!(Up::decode(&bytes[4..]), up);
        }
    }
}
