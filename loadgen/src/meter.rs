//! A worker's stop-watch: decides which operations belong to the measured phase, records them, and hands over a row for
//! every second that has passed. Without a schedule an operation counts if its reply comes within the phase; with one,
//! if it was due within it, however late the reply. Refuses to decide when the phase begins or ends.

use crate::session::Span;
use crate::tally::{Op, TICK_NS, Tally, Violation};
use hdrhistogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

const SECOND_NS: u64 = 1_000_000_000;
/// Operations later than this after the start are not counted per tenth of a second.
const TICKS_MAX: u64 = 36_000;

/// What all workers are to do now; only ever moves forward.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
#[repr(u8)]
pub enum Stage {
    Open,
    WarmUp,
    Measure,
    Drain,
}

/// What the conductor and its workers share.
pub struct Shared {
    stage: AtomicU8,
    /// The measured phase, in the program's ns; `u64::MAX` while not known.
    from_ns: AtomicU64,
    to_ns: AtomicU64,
    /// When any worker last saw a reply to an operation, and the longest time without one.
    replied_ns: AtomicU64,
    stall_ns: AtomicU64,
    stall_from_ns: AtomicU64,
}

impl Default for Shared {
    fn default() -> Self {
        let never = || AtomicU64::new(u64::MAX);
        Shared {
            stage: AtomicU8::new(Stage::Open as u8),
            from_ns: never(),
            to_ns: never(),
            replied_ns: AtomicU64::new(0),
            stall_ns: AtomicU64::new(0),
            stall_from_ns: AtomicU64::new(0),
        }
    }
}

impl Shared {
    pub fn set(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Release);
    }

    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Open,
            1 => Stage::WarmUp,
            2 => Stage::Measure,
            _ => Stage::Drain,
        }
    }

    /// Begins the measured phase; without a length it lasts until [`Shared::end`].
    pub fn begin(&self, from_ns: u64, length_ns: Option<u64>) {
        self.replied_ns.store(from_ns, Ordering::Relaxed);
        self.to_ns.store(length_ns.map_or(u64::MAX, |length_ns| from_ns + length_ns), Ordering::Release);
        self.from_ns.store(from_ns, Ordering::Release);
        self.set(Stage::Measure);
    }

    /// Ends the measured phase, unless it ended earlier. Returns its two ends.
    pub fn end(&self, now_ns: u64) -> (u64, u64) {
        let to_ns = self.to_ns.fetch_min(now_ns, Ordering::AcqRel).min(now_ns);
        self.note_reply(to_ns);
        self.set(Stage::Drain);
        (self.from_ns.load(Ordering::Acquire).min(to_ns), to_ns)
    }

    fn note_reply(&self, now_ns: u64) {
        let before = self.replied_ns.fetch_max(now_ns, Ordering::Relaxed);
        let gap = now_ns.saturating_sub(before);
        if gap > self.stall_ns.fetch_max(gap, Ordering::Relaxed) {
            self.stall_from_ns.store(before, Ordering::Relaxed);
        }
    }

    /// The longest time within the phase in which no operation ended anywhere: when it began and how long it was.
    pub fn longest_stall(&self) -> (u64, u64) {
        (self.stall_from_ns.load(Ordering::Relaxed), self.stall_ns.load(Ordering::Relaxed))
    }
}

/// One second of one worker, or of all of them.
pub struct Second {
    /// Seconds since the start of the measured phase.
    pub index: u32,
    /// Response times of the operations that ended in it, ns, two significant digits.
    pub latencies: Histogram<u64>,
    pub wrong: u64,
    pub disconnects: u64,
}

impl Second {
    pub fn new(index: u32) -> Second {
        let latencies = Histogram::new_with_bounds(1000, 120 * SECOND_NS, 2).expect("constant bounds");
        Second { index, latencies, wrong: 0, disconnects: 0 }
    }

    pub fn add(&mut self, other: &Second) {
        self.latencies.add(&other.latencies).expect("same bounds");
        self.wrong += other.wrong;
        self.disconnects += other.disconnects;
    }
}

/// The stop-watch of one worker.
pub struct Meter {
    pub tally: Tally,
    /// Whether operations have a schedule.
    open_loop: bool,
    /// Operations that are recorded.
    ops_max: u64,
    shared: Arc<Shared>,
    from_ns: u64,
    to_ns: u64,
    now: Second,
    /// Sums at the start of the current second.
    wrong_before: u64,
    disconnects_before: u64,
    passed: Vec<Second>,
}

impl Meter {
    pub fn new(servers: usize, open_loop: bool, ops_max: Option<u64>, shared: Arc<Shared>) -> Meter {
        Meter {
            tally: Tally::new(servers),
            open_loop,
            ops_max: ops_max.unwrap_or(u64::MAX),
            shared,
            from_ns: u64::MAX,
            to_ns: u64::MAX,
            now: Second::new(0),
            wrong_before: 0,
            disconnects_before: 0,
            passed: Vec::new(),
        }
    }

    /// Looks at the phase and closes the seconds that are over. To be called once per turn.
    pub fn turn(&mut self, now_ns: u64) {
        if self.from_ns == u64::MAX {
            self.from_ns = self.shared.from_ns.load(Ordering::Acquire);
        }
        self.to_ns = self.shared.to_ns.load(Ordering::Acquire);
        if self.from_ns < now_ns {
            while u64::from(self.now.index + 1) * SECOND_NS <= now_ns.min(self.to_ns) - self.from_ns {
                self.close_second();
            }
        }
    }

    /// The seconds that were closed since the last call.
    pub fn passed_seconds(&mut self) -> std::vec::Drain<'_, Second> {
        self.passed.drain(..)
    }

    fn close_second(&mut self) {
        let next = Second::new(self.now.index + 1);
        let mut over = std::mem::replace(&mut self.now, next);
        (over.wrong, over.disconnects) = (self.tally.wrong() - self.wrong_before, self.tally.disconnects - self.disconnects_before);
        (self.wrong_before, self.disconnects_before) = (self.tally.wrong(), self.tally.disconnects);
        self.passed.push(over);
    }

    /// Whether everything that is to be recorded has been.
    pub fn is_full(&self) -> bool {
        // What was wrong counts too: a server that answers everything wrongly must not go on for ever.
        self.tally.count() + self.tally.wrong() >= self.ops_max
    }

    /// An operation has ended well.
    pub fn done(&mut self, op: Op, server: usize, span: Span, now_ns: u64) {
        let response_ns = now_ns.saturating_sub(span.due_ns);
        if (self.from_ns..self.to_ns).contains(&now_ns) {
            self.now.latencies.saturating_record(response_ns);
            self.shared.note_reply(now_ns);
            let tick = (now_ns - self.from_ns) / TICK_NS;
            if tick < TICKS_MAX {
                let tick = tick as usize;
                if self.tally.ticks.len() <= tick {
                    self.tally.ticks.resize(tick + 1, 0);
                }
                self.tally.ticks[tick] += 1;
            }
        }
        let judged_ns = if self.open_loop { span.due_ns } else { now_ns };
        if (self.from_ns..self.to_ns).contains(&judged_ns) && self.tally.count() < self.ops_max {
            let service_ns = self.open_loop.then(|| now_ns.saturating_sub(span.begun_ns));
            self.tally.record(op, server, response_ns, service_ns);
        }
    }

    /// The schedule wanted an operation at `due_ns`, and the worker sees it now.
    pub fn noticed(&mut self, due_ns: u64, now_ns: u64) {
        if (self.from_ns..self.to_ns).contains(&due_ns) {
            self.tally.lag.saturating_record(now_ns.saturating_sub(due_ns));
        }
    }

    /// An operation was due and will never be sent: it has waited at least until now.
    pub fn unsent(&mut self, op: Op, due_ns: u64, now_ns: u64) {
        if (self.from_ns..self.to_ns).contains(&due_ns) {
            self.tally.unsent += 1;
            self.tally.record(op, 0, now_ns.saturating_sub(due_ns), None);
        }
    }

    pub fn violation(&mut self, violation: Violation) {
        self.tally.violation(violation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn meter(open_loop: bool) -> (Meter, Arc<Shared>) {
        let shared = Arc::new(Shared::default());
        shared.begin(1000 * MS, Some(2000 * MS));
        let mut meter = Meter::new(1, open_loop, None, shared.clone());
        meter.turn(1000 * MS);
        (meter, shared)
    }

    fn span(due_ms: u64, begun_ms: u64) -> Span {
        Span { due_ns: due_ms * MS, begun_ns: begun_ms * MS }
    }

    #[test]
    fn without_a_schedule_the_reply_must_come_within_the_phase() {
        let (mut meter, _) = meter(false);
        for (sent_ms, reply_ms) in [(900, 999), (999, 1001), (2999, 3001)] {
            meter.done(Op::Get, 0, span(sent_ms, sent_ms), reply_ms * MS);
        }
        assert_eq!(meter.tally.count(), 1);
    }

    #[test]
    fn with_a_schedule_what_was_due_within_the_phase_counts_from_then() {
        let (mut meter, _) = meter(true);
        meter.done(Op::Get, 0, span(999, 1500), 1501 * MS);
        meter.done(Op::Get, 0, span(2999, 3400), 3500 * MS);
        meter.unsent(Op::Get, 2000 * MS, 3000 * MS);
        let times = meter.tally.times(|_| true);
        assert_eq!((times.response.len(), times.service.len(), meter.tally.unsent), (2, 1, 1));
        assert!(times.response.max() >= 1000 * MS && times.service.max() < 101 * MS);
    }

    #[test]
    fn seconds_and_the_longest_silence_are_seen() {
        let (mut meter, shared) = meter(false);
        meter.done(Op::Get, 0, span(1000, 1000), 1100 * MS);
        meter.done(Op::Get, 0, span(1000, 1000), 1700 * MS);
        meter.turn(2500 * MS);
        let seconds: Vec<_> = meter.passed_seconds().map(|second| (second.index, second.latencies.len())).collect();
        assert_eq!(seconds, [(0, 2)]);
        meter.done(Op::Get, 0, span(1000, 1000), 2500 * MS);
        assert_eq!(shared.end(9000 * MS), (1000 * MS, 3000 * MS));
        assert_eq!(shared.longest_stall(), (1700 * MS, 800 * MS));
        meter.turn(4000 * MS);
        assert_eq!(meter.passed_seconds().map(|second| second.index).collect::<Vec<_>>(), [1]);
        assert_eq!(meter.tally.ticks[1], 1);
    }
}
