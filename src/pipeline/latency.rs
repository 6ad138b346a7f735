//! How long answers take: least, most and sum, of one connection or of a shard.
//! Refuses to look at a clock and to keep single values.

/// Times between a request's arrival and its reply, in whole milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Latency {
    /// 0 while nothing was recorded.
    pub min_ms: u64,
    pub max_ms: u64,
    pub sum_ms: u64,
    pub count: u64,
}

impl Latency {
    pub fn record(&mut self, ms: u64) {
        self.min_ms = if self.count == 0 { ms } else { self.min_ms.min(ms) };
        self.max_ms = self.max_ms.max(ms);
        self.sum_ms += ms;
        self.count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_value_is_the_least_so_far() {
        let mut latency = Latency::default();
        [5, 2, 9].into_iter().for_each(|ms| latency.record(ms));
        assert_eq!(latency, Latency { min_ms: 2, max_ms: 9, sum_ms: 16, count: 3 });
    }
}
