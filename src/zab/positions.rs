//! Every batch end of the log as this server knows it: what positions are compared with. 24 bytes a batch; trimmed with the log.
//! Refuses to hold batches.

use crate::wire::batch::Position;
use std::collections::VecDeque;

/// Batch ends, oldest first. The first is the base: what the log begins after.
#[derive(Clone, Debug)]
pub struct Positions {
    ends: VecDeque<Position>,
}

/// The epoch of a zxid.
pub fn epoch(zxid: u64) -> u32 {
    (zxid >> 32) as u32
}

impl Positions {
    /// `ends` must not be empty and must rise.
    pub fn new(ends: impl IntoIterator<Item = Position>) -> Positions {
        let ends: VecDeque<Position> = ends.into_iter().collect();
        assert!(!ends.is_empty(), "a log has a base");
        assert!(ends.iter().zip(ends.iter().skip(1)).all(|(a, b)| a.zxid < b.zxid), "batch ends rise");
        Positions { ends }
    }

    pub fn base(&self) -> Position {
        self.ends[0]
    }

    pub fn last(&self) -> Position {
        self.ends[self.ends.len() - 1]
    }

    pub fn push(&mut self, end: Position) {
        assert!(end.zxid > self.last().zxid, "batch ends rise");
        self.ends.push_back(end);
    }

    /// The batch end at exactly this zxid.
    pub fn at(&self, zxid: u64) -> Option<Position> {
        let i = self.ends.partition_point(|p| p.zxid < zxid);
        self.ends.get(i).copied().filter(|p| p.zxid == zxid)
    }

    /// The last batch end before this zxid.
    pub fn before(&self, zxid: u64) -> Position {
        let i = self.ends.partition_point(|p| p.zxid < zxid);
        self.ends[i.checked_sub(1).expect("the base comes before every batch")]
    }

    /// Whether the log has this batch end, with this history before it.
    pub fn has(&self, position: Position) -> bool {
        self.at(position.zxid) == Some(position)
    }

    /// The last batch end of `epoch`, or of the base if that is in it.
    pub fn last_of(&self, epoch: u32) -> Option<Position> {
        let i = self.ends.partition_point(|p| self::epoch(p.zxid) <= epoch);
        let last = *self.ends.get(i.checked_sub(1)?)?;
        (self::epoch(last.zxid) == epoch).then_some(last)
    }

    /// The last batch end of every epoch, oldest first.
    pub fn epochs(&self) -> Vec<Position> {
        let mut table = Vec::new();
        let mut i = 0;
        while i < self.ends.len() {
            let of = epoch(self.ends[i].zxid);
            i = self.ends.partition_point(|p| epoch(p.zxid) <= of);
            table.push(self.ends[i - 1]);
        }
        table
    }

    /// Forgets what comes after `to`, which must be there.
    pub fn truncate(&mut self, to: Position) {
        assert!(self.has(to), "a log is cut at a batch end that it has");
        let keep = self.ends.partition_point(|p| p.zxid <= to.zxid);
        self.ends.truncate(keep);
    }

    /// Forgets what comes before `base`, at the most; the last one stays.
    pub fn trim(&mut self, base: Position) {
        while self.ends.len() > 1 && self.ends[0].zxid < base.zxid {
            self.ends.pop_front();
        }
    }

    /// Begins anew after a snapshot.
    pub fn restart(&mut self, base: Position) {
        self.ends.clear();
        self.ends.push_back(base);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(epoch: u64, counter: u64) -> Position {
        Position { zxid: epoch << 32 | counter, chain: u128::from(epoch * 1000 + counter) }
    }

    #[test]
    fn epochs_and_places() {
        let mut log = Positions::new([p(1, 4), p(1, 9), p(3, 0), p(3, 5), p(7, 0)]);
        assert_eq!(log.epochs(), [p(1, 9), p(3, 5), p(7, 0)]);
        assert_eq!((log.last_of(1), log.last_of(2), log.last_of(3), log.last_of(9)), (Some(p(1, 9)), None, Some(p(3, 5)), None));
        assert!(log.has(p(3, 0)) && !log.has(p(3, 1)) && !log.has(Position { chain: 1, ..p(3, 0) }));
        log.truncate(p(3, 0));
        assert_eq!(log.last(), p(3, 0));
        log.trim(p(1, 9));
        assert_eq!((log.base(), log.at(p(1, 4).zxid)), (p(1, 9), None));
        log.restart(p(8, 1));
        assert_eq!((log.base(), log.last()), (p(8, 1), p(8, 1)));
    }
}
