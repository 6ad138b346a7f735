//! Sessions: who owns them, when their servers heard of them, and whether they ended in time (G3 to G6).
//! Refuses to know why a client was silent.

use super::{Checker, End, Link, violated};

/// What is known of an open session.
pub(super) struct Clock {
    pub owner: Link,
    /// When a whole request last arrived at a server in touch with the leader, and at any server.
    heard_ms: u64,
    heard_anywhere_ms: u64,
    /// When a silence of at least the timeout ended.
    silent_until_ms: Option<u64>,
    timeout_ms: u64,
}

impl Clock {
    /// A server has asked for the session at `asked_ms`, and owns it since `now_ms`.
    pub fn new(owner: Link, timeout_ms: i32, asked_ms: u64, now_ms: u64) -> Clock {
        Clock { owner, heard_ms: asked_ms, heard_anywhere_ms: now_ms, silent_until_ms: None, timeout_ms: timeout_ms as u64 }
    }

    pub fn heard(&mut self, now_ms: u64, in_touch: bool) {
        self.heard_anywhere_ms = now_ms;
        if in_touch {
            if now_ms >= self.heard_ms + self.timeout_ms {
                self.silent_until_ms = Some(now_ms);
            }
            self.heard_ms = now_ms;
        }
    }
}

impl Checker {
    /// The session belongs to a connection from `zxid` on; the one before must hear nothing of that.
    pub(super) fn session_owned(&mut self, session: i64, link: Link, timeout_ms: i32, zxid: u64, now_ms: u64) {
        let asked_ms = self.conns[&link].hello_ms.unwrap_or(now_ms);
        if let Some(before) = self.clocks.insert(session, Clock::new(link, timeout_ms, asked_ms, now_ms)) {
            self.judged.moved += 1;
            if let Some(conn) = self.conns.get_mut(&before.owner) {
                conn.end = Some((zxid, End::Moved));
            }
        }
        let conn = self.conns.get_mut(&link).expect("the connection asked");
        (conn.session, conn.attached) = (session, true);
        conn.zxid = conn.zxid.max(zxid);
    }

    /// The session ended at `zxid`; `by` is the connection that asked for it, if one did.
    pub(super) fn session_ended(&mut self, session: i64, by: Option<Link>, zxid: u64, now_ms: u64) {
        let clock = self.clocks.remove(&session).expect("an open session has a clock");
        if by.is_none() {
            self.judged.expired += 1;
            self.not_too_early(session, &clock, now_ms);
        }
        if let Some(conn) = self.conns.get_mut(&clock.owner) {
            conn.end = Some((zxid, if by == Some(clock.owner) { End::ClosedHere } else { End::Closed }));
        }
    }

    /// How far a session's timeout on a server's clock may be off the real one, rounding at both ends included.
    fn drift_ms(&self, clock: &Clock) -> u64 {
        match self.settings.drift_ppm {
            0 => 0,
            ppm => 2 + 2 * clock.timeout_ms * ppm / 1_000_000,
        }
    }

    fn not_too_early(&self, session: i64, clock: &Clock, now_ms: u64) {
        let slack_ms = self.settings.touch_slack_ms + self.drift_ms(clock);
        let silent = now_ms + slack_ms >= clock.heard_ms + clock.timeout_ms;
        let was_silent = clock.silent_until_ms.is_some_and(|until| now_ms <= until + self.settings.expiry_slack_ms);
        if !silent && !was_silent {
            let (heard_ms, timeout_ms) = (clock.heard_ms, clock.timeout_ms);
            violated(
                "G3",
                format_args!("session 0x{session:x} expired at {now_ms} ms, heard of at {heard_ms} ms, timeout {timeout_ms} ms"),
            );
        }
    }

    /// Every session that was not heard of for its timeout and `bound_ms` more, nor the epoch new since then, must have
    /// ended. The world calls it when there has been a leader for long enough.
    pub fn none_overdue(&self, now_ms: u64, bound_ms: u64) {
        for (session, clock) in &self.clocks {
            let due_ms = clock.heard_anywhere_ms.max(self.epoch_ms) + clock.timeout_ms + self.drift_ms(clock) + bound_ms;
            if now_ms > due_ms {
                violated("G4", format_args!("session 0x{session:x} is open at {now_ms} ms, it was due at {due_ms} ms"));
            }
        }
    }

    /// How many sessions are open.
    pub fn open_sessions(&self) -> usize {
        self.clocks.len()
    }
}
