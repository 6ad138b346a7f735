//! Looks at the end whether the server holds what it has acknowledged: every key at its version with its data, every
//! created node, and nothing that should be gone. Each session starts with a sync, so a server that lags catches up
//! first. Refuses to change anything.

use super::{KeyEntry, Ledger, OwnEntry, Port, Workload};
use crate::content::{Content, Paths, Sizes};
use crate::session::{Reply, Span};
use crate::tally::{Miss, Op, Violation};
use falconer::wire::jute::{Malformed, Reader};
use falconer::wire::record::Stat;
use falconer::wire::request::Request;
use falconer::wire::response::code;

/// What was asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    Sync,
    /// The place in the ledger.
    Key(usize),
    Own {
        entry: usize,
        sequence: u32,
    },
    /// How many children a directory has.
    Children(usize),
}

/// One worker's share of the ledger.
pub struct Sweep {
    paths: Paths,
    content: Content,
    keys: Vec<KeyEntry>,
    own: Vec<OwnEntry>,
    children: Vec<(String, i64, i64)>,
    next_key: usize,
    next_own: (usize, u32),
    next_children: usize,
    path: String,
}

impl Sweep {
    pub fn new(paths: Paths, sizes: Sizes, ledger: Ledger) -> Sweep {
        let first = ledger.own.first().map_or(0, |entry| entry.sequences.start);
        Sweep {
            paths,
            content: Content::new(sizes),
            keys: ledger.keys,
            own: ledger.own,
            children: ledger.children.into_iter().map(|(path, (min, max))| (path, min, max)).collect(),
            next_key: 0,
            next_own: (0, first),
            next_children: 0,
            path: String::new(),
        }
    }

    fn next(&mut self) -> Option<Look> {
        if self.next_key < self.keys.len() {
            self.next_key += 1;
            return Some(Look::Key(self.next_key - 1));
        }
        while let Some(own) = self.own.get(self.next_own.0) {
            let (entry, sequence) = self.next_own;
            if sequence < own.sequences.end {
                self.next_own.1 += 1;
                return Some(Look::Own { entry, sequence });
            }
            self.next_own = (entry + 1, self.own.get(entry + 1).map_or(0, |own| own.sequences.start));
        }
        self.next_children += 1;
        (self.next_children <= self.children.len()).then(|| Look::Children(self.next_children - 1))
    }

    fn write_path(&mut self, look: Look) {
        match look {
            Look::Sync => self.path.clone_from(&self.paths.root),
            Look::Key(at) => self.paths.key(&mut self.path, self.keys[at].key),
            Look::Own { entry, sequence } => self.paths.own(&mut self.path, self.own[entry].number, sequence),
            Look::Children(at) => self.path.clone_from(&self.children[at].0),
        }
    }

    fn check(&mut self, look: Look, err: i32, body: &[u8]) -> Result<(), Violation> {
        let lost = |what: String| Err(Violation::new(Miss::LostWrite, format!("at the end: {what}")));
        self.write_path(look);
        let path = &self.path;
        let malformed = |_: Malformed| Violation::new(Miss::Malformed, format!("at the end: {path}: the reply does not parse"));
        let mut reader = Reader::new(body);
        match look {
            Look::Sync => Ok(()),
            Look::Key(at) => {
                let (data, stat) = (reader.buffer().map_err(malformed)?, Stat::decode(&mut reader).map_err(malformed)?);
                self.check_key(self.keys[at], data.unwrap_or(&[]), &stat)
            }
            Look::Own { entry, sequence } => {
                let own = &self.own[entry];
                match err {
                    code::NO_NODE if own.unsure.contains(&sequence) => Ok(()),
                    code::NO_NODE => lost(format!("{path} was created and is not there")),
                    _ => {
                        let data = reader.buffer().map_err(malformed)?.unwrap_or(&[]);
                        match self.content.matches(own.number ^ sequence, 0, data) {
                            true => Ok(()),
                            false => lost(format!("{path} has other data than it was created with")),
                        }
                    }
                }
            }
            Look::Children(at) => {
                let got = Stat::decode(&mut reader).map_err(malformed)?.num_children;
                let (_, min, max) = self.children[at];
                match i64::from(got) {
                    got if got < min => lost(format!("{path} has {got} children, at least {min} were acknowledged")),
                    got if got > max => {
                        let text = format!("at the end: {path} has {got} children, at most {max} should be left");
                        Err(Violation::new(Miss::LeftBehind, text))
                    }
                    _ => Ok(()),
                }
            }
        }
    }

    fn check_key(&self, entry: KeyEntry, data: &[u8], stat: &Stat) -> Result<(), Violation> {
        let KeyEntry { key, version_min, version_max, label } = entry;
        if !(version_min..=version_max).contains(&stat.version) {
            let expected = if version_min == version_max { version_min.to_string() } else { format!("{version_min} to {version_max}") };
            let text = format!("at the end: key {key} has version {}, acknowledged was {expected}", stat.version);
            return Err(Violation::new(Miss::LostWrite, text));
        }
        // With lost connections the last write that was executed need not be the last that was sent.
        let written = if version_min == version_max { label } else { Content::version_in(data).unwrap_or(label) };
        match self.content.matches(key, written, data) {
            true => Ok(()),
            false => {
                let text = format!("at the end: key {key}: the data of version {} is not what was written", stat.version);
                Err(Violation::new(Miss::LostWrite, text))
            }
        }
    }
}

impl Workload for Sweep {
    type Sent = Look;

    fn opened(&mut self, port: &mut Port<'_, Look>) {
        let span = Span { due_ns: port.now_ns, begun_ns: port.now_ns };
        *port.running += 1;
        port.send(&Request::Sync { path: self.paths.root.as_str().into() }, Look::Sync, span);
    }

    fn issue(&mut self, port: &mut Port<'_, Look>, span: Span) -> bool {
        let Some(look) = self.next() else { return false };
        self.write_path(look);
        let path = self.path.as_str().into();
        match look {
            Look::Children(_) => port.send(&Request::Exists { path, watch: false }, look, span),
            _ => port.send(&Request::GetData { path, watch: false }, look, span),
        }
        true
    }

    fn reply(&mut self, port: &mut Port<'_, Look>, reply: &Reply<'_, Look>) {
        let (look, err) = (reply.what, reply.header.err);
        self.write_path(look);
        let result = match (look, err) {
            (Look::Key(_) | Look::Children(_), code::NO_NODE) => {
                Err(Violation::new(Miss::LostWrite, format!("at the end: {} is not there", self.path)))
            }
            (Look::Own { .. }, code::NO_NODE) | (_, code::OK) => self.check(look, err, reply.body),
            _ => Err(port.bad_code(&format!("at the end: {}", self.path), err)),
        };
        port.ended(if look == Look::Sync { Op::Sync } else { Op::Get }, reply.span, result);
    }

    fn usual_op(&self) -> Op {
        Op::Get
    }

    fn ledger(self) -> Ledger {
        Ledger::default()
    }
}
