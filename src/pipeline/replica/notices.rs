//! One line in the log when clients meet a limit: at most one per limit and second, which says how many were left out.
//! Refuses to count for operators: `figures` does, every single time.

use super::Replica;
use std::net::SocketAddr;

/// Each limit has at most one line in this time.
const EVERY_MS: u64 = 1000;

/// Which limit was met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Limit {
    Connections,
    Handshake,
    Frame,
    Unparsed,
    Events,
    Pause,
    Sessions,
    Watches,
    Identities,
}

const LIMITS: usize = Limit::Identities as usize + 1;

/// When each limit may be spoken of again, and how often it was met in silence.
#[derive(Default)]
pub(super) struct Notices([(u64, u64); LIMITS]);

impl Notices {
    /// Some if it is time for a line: with how many were left out before it.
    fn due(&mut self, limit: Limit, now_ms: u64) -> Option<u64> {
        let (next_ms, silent) = &mut self.0[limit as usize];
        if now_ms < *next_ms {
            *silent += 1;
            return None;
        }
        *next_ms = now_ms + EVERY_MS;
        Some(std::mem::take(silent))
    }
}

impl Replica {
    /// Says that `peer` has met a limit, unless that was said a moment ago.
    pub(super) fn notice(&mut self, limit: Limit, peer: SocketAddr, what: impl FnOnce() -> String) {
        let Some(silent) = self.notices.due(limit, self.now_ms) else { return };
        let more = if silent > 0 { format!(" ({silent} more like it were not logged)") } else { String::new() };
        match limit {
            // Nothing is lost: a client that sends faster than it is answered has to wait.
            Limit::Pause => tracing::info!("{peer}: {}{more}", what()),
            _ => tracing::warn!("{peer}: {}{more}", what()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_limit_and_second() {
        let mut notices = Notices::default();
        assert_eq!(notices.due(Limit::Frame, 0), Some(0));
        assert_eq!(notices.due(Limit::Frame, 999), None);
        assert_eq!(notices.due(Limit::Identities, 999), Some(0));
        assert_eq!(notices.due(Limit::Frame, 999), None);
        assert_eq!((notices.due(Limit::Frame, 1000), notices.due(Limit::Frame, 2500)), (Some(2), Some(0)));
    }
}
