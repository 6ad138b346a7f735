//! What a shard does when the way to a leader changes, and when its whole State does: close those connections of which
//! nobody can say any more what they saw or will see. Refuses to guess what became of a request.

use super::super::conn::{Conn, Pending, Phase};
use super::super::message::ConnId;
use super::Replica;
use crate::tree::State;

impl Replica {
    /// Requests under way went to a leader that may or may not have ordered them: their connections close, so that no later
    /// request of theirs overtakes them. Connections without such requests notice nothing.
    pub(super) fn reroute(&mut self, number: u32, open: bool) {
        self.route = number;
        self.open = open;
        let under_way = |conn: &Conn| conn.pending.iter().any(|p| matches!(p, Pending::Submitted(_)));
        // An answer to a four-letter word needs no leader.
        self.close_where(|conn| (!open && conn.phase != Phase::FourLetter) || under_way(conn));
    }

    /// The State becomes another server's, which is ahead: no connection survives, because watches and replies of what lies
    /// between are lost.
    pub fn replace_state(&mut self, state: State) {
        self.evict();
        self.deferred.clear();
        self.state = state;
    }

    /// Closes everybody who may have seen something of this State.
    pub fn evict(&mut self) {
        self.close_where(|conn| conn.phase != Phase::FourLetter);
    }

    fn close_where(&mut self, doomed: impl Fn(&Conn) -> bool) {
        let ids: Vec<ConnId> = self.conns().filter(|conn| doomed(conn)).map(|conn| conn.id).collect();
        for id in ids {
            self.with_conn(id, |replica, conn| replica.close(conn));
        }
    }
}
