//! How a follower's log becomes a prefix of the leader's: from what the follower said of itself alone, in one round trip.
//! Positions are compared by zxid and chain hash, so two histories with the same zxids are told apart.
//! Refuses to guess: what cannot be reached by cutting and appending gets a snapshot.

use super::positions::{Positions, epoch};
use crate::mutant;
use crate::wire::batch::Position;

/// What the leader does with a follower.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plan {
    /// It has a prefix of ours: batches after its end.
    Diff,
    /// It cuts back to here first.
    Trunc(Position),
    Snap,
}

/// `table`: the last batch end of each epoch in the follower's log, oldest first; the last entry is its end, the first may
/// be what its log begins after.
pub fn plan(leader: &Positions, table: &[Position]) -> Plan {
    let Some(last) = table.last() else { return Plan::Snap };
    for theirs in table.iter().rev() {
        // An epoch that we have nothing of is garbage as a whole.
        let Some(ours) = leader.last_of(epoch(theirs.zxid)) else { continue };
        let common = if theirs.zxid <= ours.zxid { *theirs } else { ours };
        if common.zxid < leader.base().zxid || !leader.has(common) {
            return Plan::Snap;
        }
        if mutant!(M14) && leader.base().zxid <= last.zxid && last.zxid <= leader.last().zxid {
            return Plan::Diff;
        }
        return if common == *last { Plan::Diff } else { Plan::Trunc(common) };
    }
    Plan::Snap
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(epoch: u64, counter: u64) -> Position {
        Position { zxid: epoch << 32 | counter, chain: u128::from(epoch * 1000 + counter) }
    }

    fn leader() -> Positions {
        Positions::new([p(1, 4), p(1, 9), p(3, 0), p(3, 5), p(3, 7), p(7, 0)])
    }

    #[test]
    fn a_prefix_gets_the_rest() {
        assert_eq!(plan(&leader(), &[p(1, 9), p(3, 5)]), Plan::Diff);
        assert_eq!(plan(&leader(), &[p(1, 4)]), Plan::Diff);
        assert_eq!(plan(&leader(), &[p(1, 9), p(3, 7), p(7, 0)]), Plan::Diff);
    }

    #[test]
    fn what_no_one_else_has_is_cut() {
        assert_eq!(plan(&leader(), &[p(1, 9), p(3, 9)]), Plan::Trunc(p(3, 7)));
        assert_eq!(plan(&leader(), &[p(1, 12)]), Plan::Trunc(p(1, 9)));
        assert_eq!(plan(&leader(), &[p(1, 9), p(2, 3)]), Plan::Trunc(p(1, 9)));
        assert_eq!(plan(&leader(), &[p(1, 9), p(3, 5), p(4, 0)]), Plan::Trunc(p(3, 5)));
    }

    #[test]
    fn what_our_log_does_not_reach_gets_a_snapshot() {
        assert_eq!(plan(&leader(), &[p(1, 2)]), Plan::Snap);
        assert_eq!(plan(&leader(), &[Position::default()]), Plan::Snap);
        assert_eq!(plan(&leader(), &[p(2, 5)]), Plan::Snap);
        let other_history = Position { chain: 5, ..p(3, 5) };
        assert_eq!(plan(&leader(), &[p(1, 9), other_history]), Plan::Snap);
    }

    #[test]
    fn an_empty_log_follows_from_the_start() {
        let from_zero = Positions::new([Position::default(), p(1, 0)]);
        assert_eq!(plan(&from_zero, &[Position::default()]), Plan::Diff);
        assert_eq!(plan(&from_zero, &[Position::default(), p(2, 0)]), Plan::Trunc(Position::default()));
    }
}
