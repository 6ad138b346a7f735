//! Plain records of the client protocol: Stat, Acl, Id, the handshake, and the numbers that have names.
//! Layouts follow zookeeper.jute. Refuses to give them meaning.

use super::jute::{Malformed, Reader, write_bool, write_buffer, write_i32, write_i64};

/// Reserved request ids.
pub mod xid {
    pub const NOTIFICATION: i32 = -1;
    pub const PING: i32 = -2;
    pub const AUTH: i32 = -4;
    pub const SET_WATCHES: i32 = -8;
}

/// Types of watch events a server sends.
pub mod event {
    pub const NODE_CREATED: i32 = 1;
    pub const NODE_DELETED: i32 = 2;
    pub const NODE_DATA_CHANGED: i32 = 3;
    pub const NODE_CHILDREN_CHANGED: i32 = 4;
}

/// The state that every watch event carries: SyncConnected.
pub const STATE_SYNC_CONNECTED: i32 = 3;

/// A node's Stat as clients see it, 68 bytes on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stat {
    pub czxid: i64,
    pub mzxid: i64,
    pub ctime: i64,
    pub mtime: i64,
    pub version: i32,
    pub cversion: i32,
    pub aversion: i32,
    pub ephemeral_owner: i64,
    pub data_length: i32,
    pub num_children: i32,
    pub pzxid: i64,
}

impl Stat {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut bytes = [0u8; 68];
        bytes[0..8].copy_from_slice(&self.czxid.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.mzxid.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.ctime.to_be_bytes());
        bytes[24..32].copy_from_slice(&self.mtime.to_be_bytes());
        bytes[32..36].copy_from_slice(&self.version.to_be_bytes());
        bytes[36..40].copy_from_slice(&self.cversion.to_be_bytes());
        bytes[40..44].copy_from_slice(&self.aversion.to_be_bytes());
        bytes[44..52].copy_from_slice(&self.ephemeral_owner.to_be_bytes());
        bytes[52..56].copy_from_slice(&self.data_length.to_be_bytes());
        bytes[56..60].copy_from_slice(&self.num_children.to_be_bytes());
        bytes[60..68].copy_from_slice(&self.pzxid.to_be_bytes());
        out.extend_from_slice(&bytes);
    }

    pub fn decode(reader: &mut Reader<'_>) -> Result<Stat, Malformed> {
        Ok(Stat {
            czxid: reader.i64()?,
            mzxid: reader.i64()?,
            ctime: reader.i64()?,
            mtime: reader.i64()?,
            version: reader.i32()?,
            cversion: reader.i32()?,
            aversion: reader.i32()?,
            ephemeral_owner: reader.i64()?,
            data_length: reader.i32()?,
            num_children: reader.i32()?,
            pzxid: reader.i64()?,
        })
    }
}

/// An identity: scheme and id.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Id {
    pub scheme: String,
    pub id: String,
}

/// One entry of a stored access control list.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Acl {
    pub perms: i32,
    pub scheme: String,
    pub id: String,
}

/// The first frame of a client, 44 bytes, or 45 with the readOnly flag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectRequest<'a> {
    pub protocol_version: i32,
    pub last_zxid_seen: i64,
    pub timeout_ms: i32,
    /// 0 asks for a new session.
    pub session: i64,
    pub password: &'a [u8],
    /// None: a client from before read-only mode, whose reply must not have the flag either.
    pub read_only: Option<bool>,
}

impl<'a> ConnectRequest<'a> {
    pub fn decode(frame: &'a [u8]) -> Result<ConnectRequest<'a>, Malformed> {
        let mut reader = Reader::new(frame);
        Ok(ConnectRequest {
            protocol_version: reader.i32()?,
            last_zxid_seen: reader.i64()?,
            timeout_ms: reader.i32()?,
            session: reader.i64()?,
            password: reader.buffer()?.unwrap_or(&[]),
            read_only: if reader.rest().is_empty() { None } else { Some(reader.bool()?) },
        })
    }

    /// Appends the whole frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write_i32(out, 28 + self.password.len() as i32 + i32::from(self.read_only.is_some()));
        write_i32(out, self.protocol_version);
        write_i64(out, self.last_zxid_seen);
        write_i32(out, self.timeout_ms);
        write_i64(out, self.session);
        write_buffer(out, Some(self.password));
        if let Some(read_only) = self.read_only {
            write_bool(out, read_only);
        }
    }
}

/// The answer to a ConnectRequest; session 0 means that the session is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectResponse<'a> {
    pub protocol_version: i32,
    pub timeout_ms: i32,
    pub session: i64,
    pub password: &'a [u8],
    pub read_only: Option<bool>,
}

impl<'a> ConnectResponse<'a> {
    pub fn decode(frame: &'a [u8]) -> Result<ConnectResponse<'a>, Malformed> {
        let mut reader = Reader::new(frame);
        Ok(ConnectResponse {
            protocol_version: reader.i32()?,
            timeout_ms: reader.i32()?,
            session: reader.i64()?,
            password: reader.buffer()?.unwrap_or(&[]),
            read_only: if reader.rest().is_empty() { None } else { Some(reader.bool()?) },
        })
    }

    /// Appends the whole frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write_i32(out, 20 + self.password.len() as i32 + i32::from(self.read_only.is_some()));
        write_i32(out, self.protocol_version);
        write_i32(out, self.timeout_ms);
        write_i64(out, self.session);
        write_buffer(out, Some(self.password));
        if let Some(read_only) = self.read_only {
            write_bool(out, read_only);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_with_and_without_read_only() {
        for read_only in [None, Some(false), Some(true)] {
            let request =
                ConnectRequest { protocol_version: 0, last_zxid_seen: 3, timeout_ms: 10_000, session: -5, password: &[7; 16], read_only };
            let mut frame = Vec::new();
            request.encode(&mut frame);
            assert_eq!(frame.len(), 4 + 44 + usize::from(read_only.is_some()));
            assert_eq!(ConnectRequest::decode(&frame[4..]), Ok(request));
            let response = ConnectResponse { protocol_version: 0, timeout_ms: 4000, session: 9, password: &[1; 16], read_only };
            let mut frame = Vec::new();
            response.encode(&mut frame);
            assert_eq!(frame.len(), 4 + 36 + usize::from(read_only.is_some()));
            assert_eq!(ConnectResponse::decode(&frame[4..]), Ok(response));
        }
    }

    #[test]
    fn a_stat_is_68_bytes() {
        let stat = Stat {
            czxid: 1,
            mzxid: 2,
            ctime: 3,
            mtime: 4,
            version: 5,
            cversion: 6,
            aversion: 7,
            ephemeral_owner: 8,
            data_length: 9,
            num_children: 10,
            pzxid: 11,
        };
        let mut bytes = Vec::new();
        stat.encode(&mut bytes);
        assert_eq!(bytes.len(), 68);
        assert_eq!(Stat::decode(&mut Reader::new(&bytes)), Ok(stat));
    }
}
