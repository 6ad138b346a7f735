//! What a worker asks for next, and whether the answer is right. Every key has one writer, so the version that a set
//! makes is known beforehand, and a read that is older than what this worker had already been told is stale.
//! Refuses to touch sockets or clocks.

use crate::content::{Content, Dice, write_key_path, write_own_path};
use crate::session::{Reply, Session};
use falconer::wire::jute::{Malformed, Reader};
use falconer::wire::record::Stat;
use falconer::wire::request::{Create, OPEN_ACL, Request};
use falconer::wire::response::code;
use std::ops::Range;

/// What the connections of a worker do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Reads of existing keys.
    Get,
    /// Writes of existing keys.
    Set,
    /// Reads and writes of existing keys, with the share of reads in percent.
    Mixed { read_percent: u32 },
    /// New nodes, each connection in its own directory.
    Create,
    /// Creates every key once, then ends.
    Fill,
    /// Nothing: sessions that only stay alive.
    Idle,
}

/// What was asked, so that the reply can be checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sent {
    /// The reply may not be older than version `floor`.
    Get {
        key: u32,
        floor: i32,
    },
    /// The reply must carry this version.
    Set {
        key: u32,
        version: i32,
    },
    CreateKey {
        key: u32,
    },
    CreateOwn {
        number: u32,
        sequence: u32,
    },
    Close,
}

impl Sent {
    pub fn is_read(&self) -> bool {
        matches!(self, Sent::Get { .. })
    }
}

/// A reply that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Violation {
    #[error("{sent:?}: error {code} ({})", code::name(*code))]
    Code { sent: Sent, code: i32 },
    #[error("{sent:?}: the reply does not parse")]
    Malformed { sent: Sent },
    #[error("key {key}: stale read: version {got}, but version {floor} was already known")]
    Stale { key: u32, got: i32, floor: i32 },
    #[error("key {key}: version {got}, but only {sent} was ever written")]
    FromTheFuture { key: u32, got: i32, sent: i32 },
    #[error("key {key}: set made version {got} instead of {expected}")]
    Version { key: u32, got: i32, expected: i32 },
    #[error("key {key}: the data of version {version} is not what was written ({got} bytes, {expected} expected)")]
    Data { key: u32, version: i32, got: usize, expected: usize },
    #[error("key {key}: version {version} with mzxid {mzxid:#x}, but version {known} had {known_mzxid:#x}")]
    Mzxid { key: u32, version: i32, mzxid: i64, known: i32, known_mzxid: i64 },
    #[error("created {got:?} instead of {expected:?}")]
    Path { got: String, expected: String },
}

/// What is known of a key.
#[derive(Clone, Copy, Default)]
struct Key {
    /// The version that the last set we sent will make.
    sent: i32,
    /// The newest version that any reply has shown, and its mzxid (0: not known).
    seen: i32,
    mzxid: i64,
}

/// One worker's requests and expectations.
pub struct Workload {
    kind: Kind,
    content: Content,
    /// The keys that belong to this worker alone.
    range: Range<u32>,
    keys: Vec<Key>,
    /// The global numbers of this worker's connections.
    numbers: Range<u32>,
    /// For [`Kind::Create`]: nodes created by each connection.
    created: Vec<u32>,
    /// For [`Kind::Fill`]: the next key.
    next_fill: u32,
    dice: Dice,
    path: String,
    data: Vec<u8>,
}

impl Workload {
    /// `range` are existing keys of version 0 with `size` bytes of data, or the keys to be created by [`Kind::Fill`].
    pub fn new(kind: Kind, size: usize, range: Range<u32>, numbers: Range<u32>, seed: u64) -> Workload {
        let keys = if matches!(kind, Kind::Get | Kind::Set | Kind::Mixed { .. }) { range.len() } else { 0 };
        Workload {
            kind,
            content: Content::new(size),
            next_fill: range.start,
            keys: vec![Key::default(); keys],
            range,
            created: vec![0; numbers.len()],
            dice: Dice::new(seed ^ u64::from(numbers.start) << 32),
            numbers,
            path: String::new(),
            data: Vec::new(),
        }
    }

    /// Sends the next request of the connection with this index; false if there is none.
    pub fn issue(&mut self, index: usize, session: &mut Session<Sent>, now_ns: u64) -> bool {
        match self.kind {
            Kind::Idle => return false,
            Kind::Get => self.get(index, session, now_ns),
            Kind::Set => self.set(index, session, now_ns),
            Kind::Mixed { read_percent } if self.dice.below(100) < read_percent => self.get(index, session, now_ns),
            Kind::Mixed { .. } => self.set(index, session, now_ns),
            Kind::Create => {
                let (number, sequence) = (self.numbers.start + index as u32, self.created[index]);
                self.created[index] += 1;
                write_own_path(&mut self.path, number, sequence);
                self.create(number, Sent::CreateOwn { number, sequence }, session, now_ns);
            }
            Kind::Fill if self.next_fill == self.range.end => return false,
            Kind::Fill => {
                let key = self.next_fill;
                self.next_fill += 1;
                write_key_path(&mut self.path, key);
                self.create(key, Sent::CreateKey { key }, session, now_ns);
            }
        }
        true
    }

    /// Reads any key. The answer may not be older than what any connection has seen, nor than the own writes before it.
    fn get(&mut self, index: usize, session: &mut Session<Sent>, now_ns: u64) {
        let offset = self.dice.below(self.keys.len() as u32) as usize;
        let (key, known) = (self.range.start + offset as u32, &self.keys[offset]);
        let floor = if offset % self.numbers.len() == index { known.sent } else { known.seen };
        write_key_path(&mut self.path, key);
        let request = Request::GetData { path: self.path.as_str().into(), watch: false };
        session.send(&request, Sent::Get { key, floor }, now_ns);
    }

    /// Connection `index` of n writes the keys whose offset is `index` modulo n: one writer for each.
    fn set(&mut self, index: usize, session: &mut Session<Sent>, now_ns: u64) {
        let (step, total) = (self.numbers.len(), self.keys.len());
        assert!(index < step && step <= total);
        let own = (total - index).div_ceil(step) as u32;
        let offset = index + step * self.dice.below(own) as usize;
        let (key, known) = (self.range.start + offset as u32, &mut self.keys[offset]);
        known.sent = known.sent.wrapping_add(1);
        let version = known.sent;
        write_key_path(&mut self.path, key);
        self.content.write(key, version, &mut self.data);
        let request = Request::SetData { path: self.path.as_str().into(), data: Some(&self.data), version: -1 };
        session.send(&request, Sent::Set { key, version }, now_ns);
    }

    /// Creates the node `self.path` with the data of version 0 of `key`.
    fn create(&mut self, key: u32, sent: Sent, session: &mut Session<Sent>, now_ns: u64) {
        self.content.write(key, 0, &mut self.data);
        let create = Create { path: self.path.as_str().into(), data: Some(&self.data), acl: OPEN_ACL, flags: 0 };
        session.send(&Request::Create(create), sent, now_ns);
    }

    /// Checks a reply against what was asked and what is known.
    pub fn check(&mut self, reply: &Reply<'_, Sent>) -> Result<(), Violation> {
        let sent = reply.what;
        if reply.header.err != code::OK {
            return Err(Violation::Code { sent, code: reply.header.err });
        }
        let malformed = |_: Malformed| Violation::Malformed { sent };
        let mut reader = Reader::new(reply.body);
        match sent {
            Sent::Get { key, floor } => {
                let data = reader.buffer().map_err(malformed)?.unwrap_or(&[]);
                let stat = Stat::decode(&mut reader).map_err(malformed)?;
                self.check_get(key, floor, data, &stat)?;
            }
            Sent::Set { key, version } => self.check_set(key, version, &Stat::decode(&mut reader).map_err(malformed)?)?,
            Sent::CreateKey { key } => {
                write_key_path(&mut self.path, key);
                self.check_path(&reader.required().map_err(malformed)?)?;
            }
            Sent::CreateOwn { number, sequence } => {
                write_own_path(&mut self.path, number, sequence);
                self.check_path(&reader.required().map_err(malformed)?)?;
            }
            Sent::Close => {}
        }
        if reader.rest().is_empty() { Ok(()) } else { Err(Violation::Malformed { sent }) }
    }

    fn check_path(&self, got: &str) -> Result<(), Violation> {
        if got == self.path { Ok(()) } else { Err(Violation::Path { got: got.into(), expected: self.path.clone() }) }
    }

    fn check_get(&mut self, key: u32, floor: i32, data: &[u8], stat: &Stat) -> Result<(), Violation> {
        let sent = self.keys[(key - self.range.start) as usize].sent;
        let (got, expected) = (stat.version, self.content.size());
        if got < floor {
            return Err(Violation::Stale { key, got, floor });
        }
        if got > sent {
            return Err(Violation::FromTheFuture { key, got, sent });
        }
        if stat.data_length as usize != expected || !self.content.matches(key, got, data) {
            return Err(Violation::Data { key, version: got, got: data.len(), expected });
        }
        self.learn(key, stat)
    }

    fn check_set(&mut self, key: u32, version: i32, stat: &Stat) -> Result<(), Violation> {
        let expected = self.content.size();
        if stat.version != version {
            return Err(Violation::Version { key, got: stat.version, expected: version });
        }
        if stat.data_length as usize != expected {
            return Err(Violation::Data { key, version, got: stat.data_length as usize, expected });
        }
        self.learn(key, stat)
    }

    /// A newer version must have a newer mzxid, the same version the same one.
    fn learn(&mut self, key: u32, stat: &Stat) -> Result<(), Violation> {
        let known = &mut self.keys[(key - self.range.start) as usize];
        let right = match stat.version.cmp(&known.seen) {
            _ if known.mzxid == 0 => true,
            std::cmp::Ordering::Less => stat.mzxid < known.mzxid,
            std::cmp::Ordering::Equal => stat.mzxid == known.mzxid,
            std::cmp::Ordering::Greater => stat.mzxid > known.mzxid,
        };
        if !right {
            let (known, known_mzxid) = (known.seen, known.mzxid);
            return Err(Violation::Mzxid { key, version: stat.version, mzxid: stat.mzxid, known, known_mzxid });
        }
        if stat.version >= known.seen {
            (known.seen, known.mzxid) = (stat.version, stat.mzxid);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use falconer::wire::jute::{write_buffer, write_string};
    use falconer::wire::response::{self, ReplyHeader};

    const SIZE: usize = 40;

    fn open(now_ns: u64) -> Session<Sent> {
        let mut session = Session::new(9000, now_ns);
        let mut bytes = Vec::new();
        response::connect(&mut bytes, 6000, 77, &[1; 16], Some(false));
        session.receive(&bytes, |_| {}).unwrap();
        session
    }

    /// Two keys, 10 and 11, and two connections.
    fn workload(kind: Kind) -> Workload {
        Workload::new(kind, SIZE, 10..12, 0..2, 1)
    }

    fn check(workload: &mut Workload, what: Sent, err: i32, body: &[u8]) -> Result<(), Violation> {
        workload.check(&Reply { what, sent_ns: 0, header: ReplyHeader { xid: 1, zxid: 1, err }, body })
    }

    fn stat(version: i32, mzxid: i64) -> Vec<u8> {
        let mut body = Vec::new();
        Stat { version, mzxid, data_length: SIZE as i32, ..Stat::default() }.encode(&mut body);
        body
    }

    fn data_and_stat(key: u32, data_version: i32, version: i32, mzxid: i64) -> Vec<u8> {
        let (mut body, mut data) = (Vec::new(), Vec::new());
        Content::new(SIZE).write(key, data_version, &mut data);
        write_buffer(&mut body, Some(&data));
        body.extend(stat(version, mzxid));
        body
    }

    /// A workload whose connection 0 has written versions 1 and 2 of key 10, of which 1 is confirmed.
    fn written() -> Workload {
        let (mut workload, mut session) = (workload(Kind::Set), open(0));
        assert!(workload.issue(0, &mut session, 0) && workload.issue(0, &mut session, 0));
        assert_eq!(check(&mut workload, Sent::Set { key: 10, version: 1 }, 0, &stat(1, 100)), Ok(()));
        workload
    }

    #[test]
    fn right_replies_pass() {
        let mut workload = written();
        let get = Sent::Get { key: 10, floor: 1 };
        assert_eq!(check(&mut workload, get, 0, &data_and_stat(10, 1, 1, 100)), Ok(()));
        assert_eq!(check(&mut workload, get, 0, &data_and_stat(10, 2, 2, 101)), Ok(()));
        assert_eq!(check(&mut workload, Sent::Set { key: 10, version: 2 }, 0, &stat(2, 101)), Ok(()));
    }

    #[test]
    fn stale_and_impossible_reads_are_reported() {
        let mut workload = written();
        let get = Sent::Get { key: 10, floor: 1 };
        assert_eq!(check(&mut workload, get, 0, &data_and_stat(10, 0, 0, 90)), Err(Violation::Stale { key: 10, got: 0, floor: 1 }));
        assert_eq!(check(&mut workload, get, 0, &data_and_stat(10, 3, 3, 102)), Err(Violation::FromTheFuture { key: 10, got: 3, sent: 2 }));
        let old_data = check(&mut workload, get, 0, &data_and_stat(10, 0, 1, 100));
        assert_eq!(old_data, Err(Violation::Data { key: 10, version: 1, got: SIZE, expected: SIZE }));
        let other_key = check(&mut workload, get, 0, &data_and_stat(11, 1, 1, 100));
        assert_eq!(other_key, Err(Violation::Data { key: 10, version: 1, got: SIZE, expected: SIZE }));
        assert!(matches!(check(&mut workload, get, 0, &data_and_stat(10, 2, 2, 100)), Err(Violation::Mzxid { .. })));
        assert!(matches!(check(&mut workload, get, 0, &data_and_stat(10, 1, 1, 101)), Err(Violation::Mzxid { .. })));
    }

    #[test]
    fn a_lost_or_doubled_write_shows_in_the_version() {
        let mut workload = written();
        let set = Sent::Set { key: 10, version: 2 };
        for got in [1, 3] {
            assert_eq!(check(&mut workload, set, 0, &stat(got, 105)), Err(Violation::Version { key: 10, got, expected: 2 }));
        }
    }

    #[test]
    fn the_writer_reads_its_own_write_and_others_what_was_confirmed() {
        let mut workload = written();
        for (index, expected) in [(0, 2), (1, 1)] {
            let floor = (0..100).find_map(|_| match next_get(&mut workload, index) {
                Sent::Get { key: 10, floor } => Some(floor),
                _ => None,
            });
            assert_eq!(floor, Some(expected));
        }
    }

    /// What is remembered of the next read of a connection.
    fn next_get(workload: &mut Workload, index: usize) -> Sent {
        let (mut session, mut reply, mut sent) = (open(0), Vec::new(), None);
        workload.get(index, &mut session, 0);
        response::reply(&mut reply, 1, 1, 0);
        session.receive(&reply, |reply| sent = Some(reply.what)).unwrap();
        sent.unwrap()
    }

    #[test]
    fn error_codes_cut_replies_and_wrong_paths_are_reported() {
        let mut workload = workload(Kind::Fill);
        let sent = Sent::CreateKey { key: 10 };
        assert_eq!(check(&mut workload, sent, -110, &[]), Err(Violation::Code { sent, code: -110 }));
        assert_eq!(check(&mut workload, sent, 0, &[0, 0]), Err(Violation::Malformed { sent }));
        let mut body = Vec::new();
        write_string(&mut body, "/falconer-loadgen/d0000/k0000010");
        assert_eq!(check(&mut workload, sent, 0, &body), Ok(()));
        assert!(matches!(check(&mut workload, Sent::CreateKey { key: 11 }, 0, &body), Err(Violation::Path { .. })));
        body.push(0);
        assert_eq!(check(&mut workload, sent, 0, &body), Err(Violation::Malformed { sent }));
    }

    #[test]
    fn a_fill_creates_every_key_once() {
        let (mut workload, mut session) = (workload(Kind::Fill), open(0));
        assert!(workload.issue(1, &mut session, 0) && workload.issue(0, &mut session, 0));
        assert!(!workload.issue(0, &mut session, 0) && !workload.issue(1, &mut session, 0));
        assert_eq!(session.outstanding(), 2);
    }
}
