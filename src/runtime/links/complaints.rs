//! What was complained about lately, so that a log shows each reason once a minute and not every attempt, whoever is at the
//! other end. Refuses to grow: a flood of new reasons is cut off.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The same reason is given again after this.
const AGAIN: Duration = Duration::from_secs(60);
/// Reasons remembered, and so given within [`AGAIN`], at most.
const REASONS_MAX: usize = 100;

/// See the module heading.
#[derive(Default)]
pub struct Complaints(HashMap<(String, String), Instant>);

impl Complaints {
    /// Whether to say it now.
    pub fn is_due(&mut self, who: &str, why: &str, now: Instant) -> bool {
        self.0.retain(|_, said| now < *said + AGAIN);
        let key = (who.to_string(), why.to_string());
        if self.0.len() >= REASONS_MAX || self.0.contains_key(&key) {
            return false;
        }
        self.0.insert(key, now);
        true
    }

    /// All is well with `who`: what comes next is news.
    pub fn forget(&mut self, who: &str) {
        self.0.retain(|(about, _), _| about != who);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_given_once_a_minute_and_again_after_good_news() {
        let (mut complaints, now) = (Complaints::default(), Instant::now());
        assert!(complaints.is_due("server 1", "refused", now));
        assert!(!complaints.is_due("server 1", "refused", now + AGAIN / 2));
        assert!(complaints.is_due("server 1", "timed out", now + AGAIN / 2));
        assert!(complaints.is_due("server 1", "refused", now + AGAIN));
        assert!(complaints.is_due("server 2", "refused", now + AGAIN));
        complaints.forget("server 1");
        assert!(complaints.is_due("server 1", "refused", now + AGAIN));
        assert!(!complaints.is_due("server 2", "refused", now + AGAIN));
    }

    #[test]
    fn a_flood_of_reasons_is_cut_off() {
        let (mut complaints, now) = (Complaints::default(), Instant::now());
        let said = (0..10_000).filter(|i| complaints.is_due("a stranger", &format!("it says it is server {i}"), now)).count();
        assert_eq!(said, REASONS_MAX);
        assert!(complaints.is_due("a stranger", "it says it is server 1", now + AGAIN));
    }
}
