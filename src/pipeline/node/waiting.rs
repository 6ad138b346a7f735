//! Requests that wait: for a leader, or for what a leader makes of them. All of it is counted, so that it can be bounded.
//! Refuses to hold anybody up: the Node asks for the bytes and decides.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};

/// Requests that wait for a leader, or for this one to begin or to have room, in the order in which they came.
#[derive(Default)]
pub(super) struct Parked {
    requests: VecDeque<ParkedRequest>,
    bytes: usize,
    by_server: BTreeMap<u16, usize>,
}

/// Where it came from, and its record.
pub(super) struct ParkedRequest {
    pub server: u16,
    pub boot: u32,
    pub shard: u16,
    pub record: Vec<u8>,
}

impl Parked {
    pub fn push(&mut self, server: u16, boot: u32, shard: u16, record: &[u8]) {
        self.bytes += record.len();
        *self.by_server.entry(server).or_default() += record.len();
        self.requests.push_back(ParkedRequest { server, boot, shard, record: record.to_vec() });
    }

    pub fn pop(&mut self) -> Option<ParkedRequest> {
        let request = self.requests.pop_front()?;
        self.bytes -= request.record.len();
        *self.by_server.entry(request.server).or_default() -= request.record.len();
        Some(request)
    }

    pub fn clear(&mut self) {
        *self = Parked::default();
    }

    /// What came from a server whose connection is gone: its clients have been told that nobody knows.
    pub fn forget(&mut self, server: u16) {
        if let Some(bytes) = self.by_server.remove(&server).filter(|bytes| *bytes > 0) {
            self.requests.retain(|request| request.server != server);
            self.bytes -= bytes;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Of one server.
    pub fn bytes_of(&self, server: u16) -> usize {
        self.by_server.get(&server).copied().unwrap_or(0)
    }
}

/// Requests of ours that are with the leader: neither a transaction nor an answer has come back.
#[derive(Default)]
pub(super) struct Forwarded {
    requests: HashMap<(u16, u64, u32), usize, BuildHasherDefault<DefaultHasher>>,
    bytes: usize,
}

impl Forwarded {
    /// A request of a connection of a shard, by its sequence number.
    pub fn sent(&mut self, shard: u16, conn: u64, sequence: u32, bytes: usize) {
        self.requests.insert((shard, conn, sequence), bytes);
        self.bytes += bytes;
    }

    pub fn done(&mut self, shard: u16, conn: u64, sequence: u32) {
        if let Some(bytes) = self.requests.remove(&(shard, conn, sequence)) {
            self.bytes -= bytes;
        }
    }

    /// Nobody knows what becomes of them.
    pub fn clear(&mut self) {
        self.requests.clear();
        self.bytes = 0;
    }

    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The longest of them. Looks at all.
    pub fn longest_bytes(&self) -> usize {
        self.requests.values().copied().max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_no_longer_counts() {
        let mut forwarded = Forwarded::default();
        forwarded.sent(0, 7, 1, 100);
        forwarded.sent(1, 7, 1, 50);
        forwarded.done(0, 7, 1);
        forwarded.done(0, 7, 1);
        assert_eq!(forwarded.bytes(), 50);
        forwarded.clear();
        assert!(forwarded.is_empty() && forwarded.bytes() == 0);
    }

    #[test]
    fn parked_requests_keep_their_order_and_go_with_their_server() {
        let mut parked = Parked::default();
        [(1, &b"one"[..]), (2, b"three"), (1, b"two")].iter().for_each(|(server, record)| parked.push(*server, 1, 0, record));
        assert_eq!((parked.bytes(), parked.bytes_of(1)), (11, 6));
        parked.forget(2);
        assert_eq!(parked.bytes(), 6);
        assert_eq!(parked.pop().map(|request| request.record), Some(b"one".to_vec()));
        assert_eq!(parked.bytes(), 3);
    }
}
