//! Leading with disks that have no room: what makes the tree grow is refused when too few voters have any, and a leader
//! that has none itself lets another one lead when enough others have some. Followers say with every acknowledgement
//! whether they are full. Refuses to give leadership away when that would help nobody.

use super::{Learner, Stage};
use crate::zab::{Role, Zab};

/// Who has just been elected all the same, or has tried in vain, keeps leadership for so many election timeouts.
const KEPT_TIMEOUTS: u64 = 4;

impl Zab {
    /// Whether what makes the tree grow must be refused: it would rest on disks that have no room for it. Who has not said yet
    /// whether it follows a new leader is given a timeout.
    pub fn lacks_room(&self) -> bool {
        let Role::Leader(leader) = &self.role else { return self.full };
        if !self.full && !leader.learners.values().any(|l| l.counts && l.full) {
            return false;
        }
        let me = self.me();
        let new = self.now_ms < leader.kept_since_ms + self.config.election_timeout_ms;
        let has_room = |s: u16| if s == me { !self.full } else { leader.learners.get(&s).map_or(new, |l| l.counts && !l.full) };
        !self.config.ensemble.is_quorum(has_room)
    }

    /// Whether others, without us, are enough, have room, and have everything up to `zxid`.
    fn others_could(&self, zxid: u64) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let could = |l: &Learner| l.counts && !l.full && matches!(l.stage, Stage::Live) && l.acked >= zxid;
        self.config.ensemble.is_quorum(|server| leader.learners.get(&server).is_some_and(could))
    }

    /// A leader whose disk is full lets one of the others lead, if enough of them have room: otherwise who leads next would be
    /// no better off.
    pub(super) fn consider_yielding(&mut self) {
        let (now_ms, timeout_ms) = (self.now_ms, self.config.election_timeout_ms);
        let may = self.full && self.others_could(u64::from(self.epoch()) << 32);
        let Some(leader) = self.leader() else { return };
        match leader.yielding_since_ms {
            None if may && leader.established && now_ms >= leader.kept_since_ms + KEPT_TIMEOUTS * timeout_ms => {
                tracing::warn!("the disk is full, and enough others have room: one of them shall lead");
                leader.yielding_since_ms = Some(now_ms);
            }
            Some(since_ms) if !may || now_ms >= since_ms + timeout_ms => {
                leader.yielding_since_ms = None;
                leader.kept_since_ms = now_ms;
            }
            _ => {}
        }
    }

    /// Whether the leader proposes nothing more, because another one shall lead. Once everything proposed is in the log and
    /// committed [`Zab::yield_to_others`] is called.
    pub fn is_yielding(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.yielding_since_ms.is_some())
    }

    /// They look for another leader at once, if they have everything.
    pub fn yield_to_others(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        if self.is_yielding() && self.others_could(self.appended().zxid) {
            crate::mark!("a leader without room lets another one lead");
            self.look(true);
        }
    }
}
