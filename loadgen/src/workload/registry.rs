//! A registry: every connection watches some keys, a few connections write them, and each write tells all who watch.
//! Checked of every event: that it was asked for and came once; that it came before any reply which shows the change;
//! and at the end that none is missing. Refuses persistent watches: these are the one-shot kind that all servers have.

use super::{KeyEntry, Ledger, Port, Workload};
use crate::content::{Content, Paths, Sizes};
use crate::session::{Reply, Span};
use crate::tally::{Miss, Op, Violation};
use falconer::wire::jute::{Malformed, Reader};
use falconer::wire::record::Stat;
use falconer::wire::request::Request;
use falconer::wire::response::{WatchEvent, code};
use std::ops::Range;

/// Send times are remembered of this many last writes of a key.
const REMEMBERED: usize = 256;

/// What was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// Read and watch the connection's `slot`-th key.
    Watch {
        slot: u32,
    },
    Set {
        offset: u32,
        version: i32,
    },
    /// At the end: read the `slot`-th key without watching.
    Last {
        slot: u32,
    },
}

/// A key that a connection watches: at which version the watch was set, if it is.
#[derive(Clone, Copy)]
struct Watched {
    offset: u32,
    armed_at: Option<i32>,
}

/// A key that is written.
#[derive(Clone)]
struct Key {
    sent: i32,
    /// When each version was due, by version modulo [`REMEMBERED`].
    due_ns: Vec<u64>,
}

/// One worker's connections and keys.
pub struct Registry {
    paths: Paths,
    content: Content,
    first_key: u32,
    keys: Vec<Key>,
    /// By connection.
    watched: Vec<Vec<Watched>>,
    /// The next key that is written.
    next: u32,
    settled: Vec<bool>,
    path: String,
    data: Vec<u8>,
}

impl Registry {
    /// Every connection watches `watches` of the keys; which ones follows from its number.
    pub fn new(paths: Paths, sizes: Sizes, keys: Range<u32>, connections: usize, watches: u32) -> Registry {
        let count = keys.len() as u32;
        let spread = |connection: u32| {
            let slot = move |slot: u32| Watched { offset: (connection * watches + slot) % count, armed_at: None };
            (0..watches.min(count)).map(slot).collect()
        };
        Registry {
            paths,
            content: Content::new(sizes),
            first_key: keys.start,
            keys: vec![Key { sent: 0, due_ns: vec![0; REMEMBERED] }; keys.len()],
            watched: (0..connections as u32).map(spread).collect(),
            next: 0,
            settled: vec![false; connections],
            path: String::new(),
            data: Vec::new(),
        }
    }

    fn read(&mut self, port: &mut Port<'_, Asked>, slot: u32, watch: bool) {
        let offset = self.watched[port.index][slot as usize].offset;
        self.paths.key(&mut self.path, self.first_key + offset);
        let span = Span { due_ns: port.now_ns, begun_ns: port.now_ns };
        let asked = if watch { Asked::Watch { slot } } else { Asked::Last { slot } };
        *port.running += 1;
        port.send(&Request::GetData { path: self.path.as_str().into(), watch }, asked, span);
    }

    fn take_read(&mut self, port: &mut Port<'_, Asked>, slot: u32, watch: bool, body: &[u8]) -> Result<(), Violation> {
        let watched = self.watched[port.index][slot as usize];
        let key = self.first_key + watched.offset;
        let malformed = |_: Malformed| Violation::new(Miss::Malformed, format!("key {key}: the reply does not parse"));
        let mut reader = Reader::new(body);
        let data = reader.buffer().map_err(malformed)?.unwrap_or(&[]);
        let stat = Stat::decode(&mut reader).map_err(malformed)?;
        if stat.version > self.keys[watched.offset as usize].sent || !self.content.matches(key, stat.version, data) {
            let text = format!("key {key}: the data of version {} is not what was written", stat.version);
            return Err(Violation::new(Miss::Data, text));
        }
        // An event comes before the reply that shows its cause.
        if let Some(armed_at) = watched.armed_at
            && stat.version > armed_at
        {
            let text = format!("key {key}: watched at version {armed_at}, now {}, and no event", stat.version);
            return Err(Violation::new(Miss::LostEvent, text));
        }
        if watch {
            self.watched[port.index][slot as usize].armed_at = Some(stat.version);
        }
        Ok(())
    }

    fn take_set(&mut self, offset: u32, version: i32, body: &[u8]) -> Result<(), Violation> {
        let key = self.first_key + offset;
        let malformed = |_: Malformed| Violation::new(Miss::Malformed, format!("key {key}: the reply does not parse"));
        let stat = Stat::decode(&mut Reader::new(body)).map_err(malformed)?;
        match stat.version == version {
            true => Ok(()),
            false => Err(Violation::new(Miss::Version, format!("key {key}: set made version {} instead of {version}", stat.version))),
        }
    }
}

impl Workload for Registry {
    type Sent = Asked;

    fn opened(&mut self, port: &mut Port<'_, Asked>) {
        for slot in 0..self.watched[port.index].len() as u32 {
            self.read(port, slot, true);
        }
    }

    /// Writes the connection's next key: key n belongs to connection n modulo their count.
    fn issue(&mut self, port: &mut Port<'_, Asked>, span: Span) -> bool {
        let (connections, count) = (self.watched.len() as u32, self.keys.len() as u32);
        let own = (count - port.index as u32).div_ceil(connections);
        let offset = port.index as u32 + connections * (self.next % own);
        self.next = self.next.wrapping_add(1);
        let (number, key) = (self.first_key + offset, &mut self.keys[offset as usize]);
        key.sent += 1;
        let version = key.sent;
        key.due_ns[version as usize % REMEMBERED] = span.due_ns;
        self.paths.key(&mut self.path, number);
        self.content.write(number, version, &mut self.data);
        let request = Request::SetData { path: self.path.as_str().into(), data: Some(&self.data), version: -1 };
        port.send(&request, Asked::Set { offset, version }, span);
        true
    }

    fn reply(&mut self, port: &mut Port<'_, Asked>, reply: &Reply<'_, Asked>) {
        let (op, result) = match (reply.what, reply.header.err) {
            (Asked::Watch { slot }, code::OK) => (Op::Get, self.take_read(port, slot, true, reply.body)),
            (Asked::Last { slot }, code::OK) => (Op::Get, self.take_read(port, slot, false, reply.body)),
            (Asked::Set { offset, version }, code::OK) => (Op::Set, self.take_set(offset, version, reply.body)),
            (asked, code) => (Op::Set, Err(port.bad_code(&format!("{asked:?}"), code))),
        };
        port.ended(op, reply.span, result);
    }

    fn event(&mut self, port: &mut Port<'_, Asked>, event: &WatchEvent<'_>) {
        let key = event.path.rsplit_once("/k").and_then(|(_, digits)| digits.parse::<u32>().ok());
        let offset = key.and_then(|key| key.checked_sub(self.first_key));
        let slot = self.watched[port.index].iter().position(|watched| Some(watched.offset) == offset);
        let armed_at = slot.and_then(|slot| self.watched[port.index][slot].armed_at.take());
        let (Some(slot), Some(offset), Some(armed_at)) = (slot, offset, armed_at) else {
            let text = format!("an event for {}, which was not watched, or a second one", event.path);
            return port.meter.violation(Violation::new(Miss::DuplicateEvent, text));
        };
        // The first change after the watch was set is the one that is told.
        let key = &self.keys[offset as usize];
        if ((key.sent - armed_at) as usize) < REMEMBERED {
            let due_ns = key.due_ns[(armed_at + 1) as usize % REMEMBERED];
            let span = Span { due_ns, begun_ns: due_ns };
            port.meter.done(Op::Notify, port.server, span, port.now_ns);
        }
        // A session that is being closed asks nothing more.
        if port.session.is_open() {
            self.read(port, slot as u32, true);
        }
    }

    fn settle(&mut self, port: &mut Port<'_, Asked>) -> bool {
        if std::mem::replace(&mut self.settled[port.index], true) {
            return true;
        }
        for slot in 0..self.watched[port.index].len() as u32 {
            self.read(port, slot, false);
        }
        self.watched[port.index].is_empty()
    }

    fn usual_op(&self) -> Op {
        Op::Set
    }

    fn ledger(self) -> Ledger {
        let entry = |(at, key): (usize, &Key)| KeyEntry {
            key: self.first_key + at as u32,
            version_min: key.sent,
            version_max: key.sent,
            label: key.sent,
        };
        Ledger { keys: self.keys.iter().enumerate().map(entry).collect(), ..Ledger::default() }
    }
}
