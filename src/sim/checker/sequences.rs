//! F1, from the committed names alone: under one parent the numbers of sequential nodes only grow, also after deletions,
//! restarts and changes of the leader. Refuses to look at the model's counters.

use super::violated;
use std::collections::BTreeMap;

/// The last number given under each parent, which is a path and the zxid that created it.
#[derive(Default)]
pub struct Sequences(BTreeMap<(String, u64), u64>);

impl Sequences {
    /// A sequential node was made: `requested` is the path without number.
    pub fn made(&mut self, requested: &str, made: &str, parent: &str, parent_czxid: u64) {
        let suffix = made.strip_prefix(requested).unwrap_or("");
        let number = match suffix.parse::<u64>() {
            Ok(number) if suffix.len() == 10 && suffix.bytes().all(|b| b.is_ascii_digit()) => number,
            _ => violated("F1", format_args!("{made} is not {requested} and ten digits")),
        };
        match self.0.insert((parent.to_string(), parent_czxid), number) {
            Some(last) if last >= number => violated("F1", format_args!("{made} comes after number {last}")),
            _ => {}
        }
    }

    /// The node is gone with all below it.
    pub fn tree_gone(&mut self, path: &str) {
        let inside = |at: &str| at.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        self.0.retain(|(at, _), _| !inside(at));
    }

    /// The node is gone, and its counter with it.
    pub fn gone(&mut self, path: &str, czxid: u64) {
        self.0.remove(&(path.to_string(), czxid));
    }
}
