//! What the server must hold when the load is over. Refuses nothing; `sweep` compares it with what is there.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A node that existed before the run, and the last that is known of it. Requests whose connection was lost may have
/// been executed or not, which leaves a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyEntry {
    pub key: u32,
    pub version_min: i32,
    pub version_max: i32,
    /// The number in the data of the last write that was sent.
    pub label: i32,
}

/// Nodes that one connection has created.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OwnEntry {
    pub number: u32,
    pub sequences: Range<u32>,
    /// Of these nobody knows.
    pub unsure: BTreeSet<u32>,
}

/// The state of a worker's nodes at the end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ledger {
    pub keys: Vec<KeyEntry>,
    pub own: Vec<OwnEntry>,
    /// How many children a directory has: at least and at most.
    pub children: BTreeMap<String, (i64, i64)>,
    /// Sequence numbers that were given, by directory.
    pub sequences: BTreeMap<String, Vec<u32>>,
}

impl Ledger {
    /// Takes in what another worker knows.
    pub fn add(&mut self, other: Ledger) {
        self.keys.extend(other.keys);
        self.own.extend(other.own);
        for (path, (min, max)) in other.children {
            let entry = self.children.entry(path).or_default();
            *entry = (entry.0 + min, entry.1 + max);
        }
        for (path, numbers) in other.sequences {
            self.sequences.entry(path).or_default().extend(numbers);
        }
    }

    /// Sequence numbers that were given more than once, with their directories.
    pub fn repeated_sequences(&mut self) -> Vec<(String, u32)> {
        let mut repeated = Vec::new();
        for (path, numbers) in &mut self.sequences {
            numbers.sort_unstable();
            let pairs = numbers.windows(2).filter(|pair| pair[0] == pair[1]);
            repeated.extend(pairs.map(|pair| (path.clone(), pair[0])));
        }
        repeated
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.own.is_empty() && self.children.is_empty()
    }

    /// Splits the keys and own nodes into almost equal parts, for several workers to look at.
    pub fn split(mut self, parts: usize) -> Vec<Ledger> {
        let mut ledgers: Vec<Ledger> = (0..parts).map(|_| Ledger::default()).collect();
        for (at, entry) in self.keys.drain(..).enumerate() {
            ledgers[at % parts].keys.push(entry);
        }
        for (at, entry) in self.own.drain(..).enumerate() {
            ledgers[at % parts].own.push(entry);
        }
        for (at, (path, count)) in self.children.into_iter().enumerate() {
            ledgers[at % parts].children.insert(path, count);
        }
        ledgers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ledgers_add_up_and_repeated_numbers_show() {
        let with = |numbers: &[u32], count: i64| Ledger {
            children: [("/q".to_string(), (count, count + 1))].into(),
            sequences: [("/q".to_string(), numbers.to_vec())].into(),
            ..Ledger::default()
        };
        let mut ledger = with(&[4, 1], 3);
        ledger.add(with(&[2, 4], -1));
        assert_eq!(ledger.children["/q"], (2, 4));
        assert_eq!(ledger.repeated_sequences(), [("/q".to_string(), 4)]);
        assert_eq!(ledger.split(3).iter().filter(|part| !part.is_empty()).count(), 1);
    }
}
