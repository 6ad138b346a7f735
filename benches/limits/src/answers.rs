//! What the canned server says: from the request alone, without a tree, sessions or a log. A get of a load generator's key
//! is answered with what that key holds at version 0, a set with the version that stands in its data, so the load
//! generator finds `read`, `write` and `create` right. Refuses to remember: a get after a set shows version 0 again.

use falconer::wire::jute::{Malformed, Reader, write_buffer, write_string};
use falconer::wire::record::{ConnectRequest, Stat, xid};
use falconer::wire::request::opcode;
use falconer::wire::response::{self, code};
use falconer_loadgen::content::{Content, Sizes};

/// The zxid in all replies.
const ZXID: u64 = 1 << 40;
/// The longest request; more means that somebody speaks another protocol.
const FRAME_BYTES_MAX: usize = 16 << 20;

/// Makes replies.
pub struct Answers {
    content: Content,
    data: Vec<u8>,
    next_session: i64,
}

impl Answers {
    /// Gets are answered with `size` bytes. Session ids count up from `first_session`.
    pub fn new(size: u32, first_session: i64) -> Answers {
        Answers { content: Content::new(Sizes::Fixed(size)), data: Vec::new(), next_session: first_session }
    }

    /// Answers every whole frame at the front of `bytes`; returns how many bytes those were. `greeted`: the handshake is over.
    pub fn answer_all(&mut self, bytes: &[u8], greeted: &mut bool, out: &mut Vec<u8>) -> Result<usize, Malformed> {
        let mut rest = bytes;
        while let Some((len, tail)) = rest.split_first_chunk::<4>() {
            let len = u32::from_be_bytes(*len) as usize;
            if len > FRAME_BYTES_MAX {
                return Err(Malformed);
            }
            let Some(frame) = tail.get(..len) else { break };
            match std::mem::replace(greeted, true) {
                true => self.answer(frame, out)?,
                false => self.greet(frame, out)?,
            }
            rest = &tail[len..];
        }
        Ok(bytes.len() - rest.len())
    }

    fn greet(&mut self, frame: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        let request = ConnectRequest::decode(frame)?;
        self.next_session += 1;
        let session = if request.session == 0 { self.next_session } else { request.session };
        response::connect(out, request.timeout_ms, session, &[1; 16], request.read_only);
        Ok(())
    }

    fn answer(&mut self, frame: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        let mut request = Reader::new(frame);
        let (id, op) = (request.i32()?, request.i32()?);
        let err = match op {
            _ if id == xid::PING => code::OK,
            opcode::GET_DATA | opcode::SET_DATA | opcode::CREATE | opcode::SYNC | opcode::DELETE | opcode::CLOSE_SESSION => code::OK,
            // The load generator asks before it begins and tidies when it ends: there is never anything.
            opcode::EXISTS | opcode::GET_CHILDREN | opcode::GET_CHILDREN2 => code::NO_NODE,
            _ => code::UNIMPLEMENTED,
        };
        let mark = response::begin_reply(out, id, ZXID, err);
        match op {
            _ if id == xid::PING || err != code::OK => {}
            opcode::GET_DATA => {
                self.content.write(key_of(request.utf8()?), 0, &mut self.data);
                write_buffer(out, Some(&self.data));
                stat(0, self.data.len()).encode(out);
            }
            opcode::SET_DATA => {
                let (_, data) = (request.utf8()?, request.buffer()?.unwrap_or(&[]));
                stat(Content::version_in(data).unwrap_or(1), data.len()).encode(out);
            }
            opcode::CREATE | opcode::SYNC => write_string(out, request.utf8()?),
            _ => {}
        }
        response::end_frame(out, mark);
        Ok(())
    }
}

/// The number at the end of a key's path; 0 if there is none.
fn key_of(path: &str) -> u32 {
    path.rsplit_once("/k").and_then(|(_, digits)| digits.parse().ok()).unwrap_or(0)
}

/// A newer version has a newer mzxid.
fn stat(version: i32, data_bytes: usize) -> Stat {
    Stat { czxid: 1, mzxid: 1 + i64::from(version), version, data_length: data_bytes as i32, pzxid: 1, ..Stat::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use falconer::wire::request::Request;
    use falconer::wire::response::ReplyHeader;

    fn hello() -> Vec<u8> {
        let mut frame = Vec::new();
        let request =
            ConnectRequest { protocol_version: 0, last_zxid_seen: 0, timeout_ms: 5000, session: 0, password: &[0; 16], read_only: None };
        request.encode(&mut frame);
        frame
    }

    #[test]
    fn a_key_is_what_the_load_generator_wrote_however_the_bytes_are_cut() {
        let mut bytes = hello();
        Request::GetData { path: "/r/d0000/k0000007".into(), watch: false }.encode_frame(9, &mut bytes);
        for cut in 0..bytes.len() {
            let (mut answers, mut greeted, mut out) = (Answers::new(100, 0), false, Vec::new());
            let taken = answers.answer_all(&bytes[..cut], &mut greeted, &mut out).unwrap();
            let rest = answers.answer_all(&bytes[taken..], &mut greeted, &mut out).unwrap();
            assert_eq!(taken + rest, bytes.len());
            // Behind the reply to a handshake without the read-only flag: 4 + 36 bytes.
            let mut reader = Reader::new(&out[44..]);
            assert_eq!(ReplyHeader::decode(&mut reader).unwrap(), ReplyHeader { xid: 9, zxid: ZXID as i64, err: 0 });
            assert!(Content::new(Sizes::Fixed(100)).matches(7, 0, reader.buffer().unwrap().unwrap()));
            assert_eq!(Stat::decode(&mut reader).unwrap().data_length, 100);
            assert!(reader.rest().is_empty());
        }
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert!(Answers::new(1, 0).answer_all(b"srvr", &mut false, &mut Vec::new()).is_err());
    }
}
