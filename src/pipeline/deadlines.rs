//! When sessions expire. Time is the pipeline's own: a stretch in which the loop did not run (a stopped process, a frozen
//! machine) does not count against anybody, and a session expires only when its shard has reported that it drained its
//! sockets after the deadline. Refuses to close anything: it names the sessions that are due.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, DefaultHasher};

/// Who holds a session's connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder {
    /// A shard of this server.
    Shard(u16),
    /// Another server.
    Server(u16),
    /// Nobody that is alive.
    Nobody,
}

struct Timer {
    timeout_ms: u64,
    deadline_ms: u64,
    /// Where it stands in `queue`: at most `deadline_ms`, moved lazily.
    queued_ms: u64,
    holder: Holder,
}

/// Deadlines of all sessions of the ensemble, kept by the leader.
pub struct Deadlines {
    timers: HashMap<i64, Timer, BuildHasherDefault<DefaultHasher>>,
    queue: BTreeSet<(u64, i64)>,
    /// Per shard: up to when it has drained its sockets, in our time.
    reported_ms: Vec<u64>,
    /// The same of other servers.
    servers_reported_ms: BTreeMap<u16, u64>,
    /// Real time minus our time: the sum of all gaps.
    paused_ms: u64,
    last_turn_ms: Option<u64>,
    gap_ms: u64,
}

impl Deadlines {
    /// `gap_ms`: a pause of the loop longer than this restarts nobody's clock (ZooKeeper's tickTime is a good value).
    pub fn new(shards: usize, gap_ms: u64) -> Deadlines {
        Deadlines {
            timers: HashMap::default(),
            queue: BTreeSet::new(),
            reported_ms: vec![0; shards],
            servers_reported_ms: BTreeMap::new(),
            paused_ms: 0,
            last_turn_ms: None,
            gap_ms,
        }
    }

    /// Takes the time of a turn and returns our own.
    pub fn turn(&mut self, now_ms: u64) -> u64 {
        let gap = now_ms - self.last_turn_ms.unwrap_or(now_ms);
        if gap > self.gap_ms {
            self.paused_ms += gap;
        }
        self.last_turn_ms = Some(now_ms);
        now_ms - self.paused_ms
    }

    /// Starts or restarts a session's clock.
    pub fn start(&mut self, session: i64, timeout_ms: u64, holder: Holder, ours_ms: u64) {
        self.remove(session);
        let deadline_ms = ours_ms + timeout_ms;
        self.timers.insert(session, Timer { timeout_ms, deadline_ms, queued_ms: deadline_ms, holder });
        self.queue.insert((deadline_ms, session));
    }

    /// The session was heard from. Unknown sessions are ignored: they closed meanwhile.
    pub fn touch(&mut self, session: i64, holder: Holder, ours_ms: u64) {
        if let Some(timer) = self.timers.get_mut(&session).filter(|t| t.holder == holder) {
            timer.deadline_ms = timer.deadline_ms.max(ours_ms + timer.timeout_ms);
        }
    }

    /// All sockets there were drained at `at_ms`, real time.
    pub fn report(&mut self, holder: Holder, at_ms: u64) {
        let at_ms = at_ms.saturating_sub(self.paused_ms);
        let reported = match holder {
            Holder::Shard(shard) => &mut self.reported_ms[usize::from(shard)],
            Holder::Server(server) => self.servers_reported_ms.entry(server).or_default(),
            Holder::Nobody => return,
        };
        *reported = (*reported).max(at_ms);
    }

    /// Up to when nothing that a client sent is unread there; a server without a link cannot hold anybody alive.
    fn drained_ms(&self, holder: Holder, ours_ms: u64, is_linked: &impl Fn(u16) -> bool) -> u64 {
        match holder {
            Holder::Shard(shard) => self.reported_ms[usize::from(shard)],
            Holder::Server(server) if is_linked(server) => self.servers_reported_ms.get(&server).copied().unwrap_or(0),
            Holder::Server(_) | Holder::Nobody => ours_ms,
        }
    }

    /// Every session with the time, in the caller's, at which it is due unless it is heard from.
    pub fn all(&self) -> impl Iterator<Item = (i64, u64)> {
        self.timers.iter().map(|(session, timer)| (*session, timer.deadline_ms + self.paused_ms))
    }

    pub fn remove(&mut self, session: i64) {
        if let Some(timer) = self.timers.remove(&session) {
            self.queue.remove(&(timer.queued_ms, session));
        }
    }

    /// A session that is due at our time `ours_ms`; call again until None. It stays until removed. `is_linked`: whether
    /// that server follows us.
    pub fn due(&mut self, ours_ms: u64, is_linked: impl Fn(u16) -> bool) -> Option<i64> {
        let mut waiting_for_report = Vec::new();
        let mut found = None;
        while let Some(&(queued_ms, session)) = self.queue.first().filter(|(queued_ms, _)| *queued_ms <= ours_ms) {
            self.queue.remove(&(queued_ms, session));
            let holder = self.timers[&session].holder;
            let drained_ms = self.drained_ms(holder, ours_ms, &is_linked);
            let timer = self.timers.get_mut(&session).expect("what is queued has a timer");
            timer.queued_ms = timer.deadline_ms;
            if timer.deadline_ms <= ours_ms && drained_ms < timer.deadline_ms {
                waiting_for_report.push((timer.deadline_ms, session));
                continue;
            }
            self.queue.insert((timer.deadline_ms, session));
            if timer.deadline_ms <= ours_ms {
                found = Some(session);
                break;
            }
        }
        self.queue.extend(waiting_for_report);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(deadlines: &mut Deadlines, ours_ms: u64) -> Vec<i64> {
        std::iter::from_fn(|| deadlines.due(ours_ms, |_| true).inspect(|&s| deadlines.remove(s))).collect()
    }

    #[test]
    fn silence_expires_and_a_touch_does_not() {
        let mut d = Deadlines::new(1, 1000);
        d.turn(0);
        d.start(1, 100, Holder::Shard(0), 0);
        d.start(2, 100, Holder::Shard(0), 0);
        d.touch(2, Holder::Shard(0), 50);
        d.report(Holder::Shard(0), 120);
        assert!(due(&mut d, 99).is_empty());
        assert_eq!(due(&mut d, 120), [1]);
        d.report(Holder::Shard(0), 151);
        assert_eq!(due(&mut d, 151), [2]);
        assert!(d.timers.is_empty());
    }

    #[test]
    fn a_shard_that_has_not_drained_its_sockets_expires_nobody() {
        let mut d = Deadlines::new(2, 1000);
        d.turn(0);
        d.start(1, 100, Holder::Shard(0), 0);
        d.start(2, 100, Holder::Shard(1), 0);
        d.start(3, 100, Holder::Nobody, 0);
        d.report(Holder::Shard(0), 100);
        d.report(Holder::Shard(1), 99);
        assert_eq!(due(&mut d, 200), [1, 3]);
        d.report(Holder::Shard(1), 100);
        assert_eq!(due(&mut d, 200), [2]);
    }

    #[test]
    fn a_gap_in_the_loop_counts_against_nobody() {
        let mut d = Deadlines::new(1, 1000);
        let ours = d.turn(0);
        d.start(1, 100, Holder::Shard(0), ours);
        let ours = d.turn(5_000);
        d.report(Holder::Shard(0), 5_000);
        assert!(due(&mut d, ours).is_empty());
        let ours = d.turn(5_100);
        d.report(Holder::Shard(0), 5_100);
        assert_eq!(due(&mut d, ours), [1]);
    }

    #[test]
    fn another_shards_touch_does_not_keep_a_moved_session() {
        let mut d = Deadlines::new(2, 1000);
        d.turn(0);
        d.start(1, 100, Holder::Shard(0), 0);
        d.start(1, 100, Holder::Shard(1), 10);
        d.touch(1, Holder::Shard(0), 100);
        d.report(Holder::Shard(1), 200);
        assert_eq!(due(&mut d, 110), [1]);
        assert!(d.timers.is_empty());
    }

    #[test]
    fn another_server_speaks_for_its_sessions_while_it_is_linked() {
        let mut d = Deadlines::new(1, 1000);
        d.turn(0);
        d.start(1, 100, Holder::Server(2), 0);
        assert_eq!(d.due(150, |_| true), None, "it has not reported");
        d.report(Holder::Server(2), 99);
        assert_eq!(d.due(150, |_| true), None);
        assert_eq!(d.due(150, |_| false), Some(1), "its link is down");
        d.touch(1, Holder::Server(2), 150);
        assert_eq!(d.due(240, |_| false), None);
        d.report(Holder::Server(2), 250);
        assert_eq!(d.due(250, |_| true), Some(1));
    }
}
