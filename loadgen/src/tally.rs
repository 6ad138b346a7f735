//! What one worker has measured and found wrong; tallies of several workers add up.
//! Refuses averages: latencies are kept as histograms (three significant digits, up to two minutes).

use crate::workload::{Sent, Violation};
use hdrhistogram::Histogram;

/// Violations kept with their words; the others are only counted.
const EXAMPLES_MAX: usize = 5;
const LATENCY_NS_MAX: u64 = 120_000_000_000;

/// Counts and latencies of the measured phase, and everything wrong in any phase.
pub struct Tally {
    /// Latencies in ns.
    pub reads: Histogram<u64>,
    pub writes: Histogram<u64>,
    pub violations: u64,
    pub examples: Vec<String>,
}

impl Default for Tally {
    fn default() -> Self {
        let empty = || Histogram::new_with_bounds(1000, LATENCY_NS_MAX, 3).expect("constant bounds");
        Tally { reads: empty(), writes: empty(), violations: 0, examples: Vec::new() }
    }
}

impl Tally {
    /// Operations measured.
    pub fn ops(&self) -> u64 {
        self.reads.len() + self.writes.len()
    }

    pub fn record(&mut self, sent: Sent, latency_ns: u64) {
        let histogram = if sent.is_read() { &mut self.reads } else { &mut self.writes };
        histogram.saturating_record(latency_ns);
    }

    pub fn violation(&mut self, violation: &Violation) {
        self.violations += 1;
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(violation.to_string());
        }
    }

    pub fn add(&mut self, other: &Tally) {
        self.reads.add(&other.reads).expect("same bounds");
        self.writes.add(&other.writes).expect("same bounds");
        self.violations += other.violations;
        let room = EXAMPLES_MAX - self.examples.len();
        self.examples.extend(other.examples.iter().take(room).cloned());
    }

    /// Reads and writes together.
    pub fn all(&self) -> Histogram<u64> {
        let mut all = self.reads.clone();
        all.add(&self.writes).expect("same bounds");
        all
    }
}
