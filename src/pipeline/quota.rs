//! Enforcing quotas: what a write would add is compared with the limits of the innermost quota, on top of what the State
//! has counted and of what is proposed and not applied yet, so that writes in flight cannot overshoot a hard limit.
//! A limit holds from the moment its node is applied. Refuses to count for the stats nodes: the State does.

use super::prepare::Asker;
use crate::wire::response::code;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};

/// A soft limit that is exceeded is logged at most this often, whichever it is.
const WARN_EVERY_MS: i64 = 1000;

/// Nodes and bytes of data.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Growth {
    pub nodes: i64,
    pub bytes: i64,
}

impl Growth {
    fn add(&mut self, other: Growth) {
        (self.nodes, self.bytes) = (self.nodes + other.nodes, self.bytes + other.bytes);
    }

    fn minus(self) -> Growth {
        Growth { nodes: -self.nodes, bytes: -self.bytes }
    }
}

/// Growth of bounded subtrees that is proposed and not applied, and the checks against it.
#[derive(Default)]
pub struct Quotas {
    sums: HashMap<Box<str>, Growth, BuildHasherDefault<DefaultHasher>>,
    /// By zxid.
    order: VecDeque<(u64, Box<str>, Growth)>,
    /// How long `order` was when the multi at work began.
    mark: usize,
    next_warning_ms: i64,
}

impl Quotas {
    /// QUOTAEXCEEDED if `growth` at `path` goes beyond a hard limit; beyond a soft one it is logged. As in ZooKeeper a hard
    /// limit replaces the soft one, and a change of the data that leaves the subtree beyond its limit is refused even if it
    /// shrinks.
    pub fn check(&mut self, asker: &Asker<'_>, path: &str, growth: Growth) -> Result<(), i32> {
        let Some(quota) = asker.state.quota(path) else { return Ok(()) };
        let proposed = self.sums.get(quota.top).copied().unwrap_or_default();
        let (limits, used) = (quota.limits, quota.used);
        let checks = [
            ("count", growth.nodes, used.count.saturating_add(proposed.nodes), limits.count, limits.count_hard),
            ("bytes", growth.bytes, used.bytes.saturating_add(proposed.bytes), limits.bytes, limits.bytes_hard),
        ];
        for (what, grown, now, soft, hard) in checks {
            let limit = if hard > -1 { hard } else { soft };
            let wanted = now.saturating_add(grown);
            if grown == 0 || limit < 0 || wanted <= limit {
                continue;
            }
            let kind = if hard > -1 { "hard" } else { "soft" };
            if asker.time_ms >= self.next_warning_ms {
                self.next_warning_ms = asker.time_ms + WARN_EVERY_MS;
                tracing::warn!("quota of {} exceeded: {what} {wanted}, {kind} limit {limit}", quota.top);
            }
            if hard > -1 {
                return Err(code::QUOTA_EXCEEDED);
            }
        }
        Ok(())
    }

    /// The change at `path` is proposed.
    pub fn proposed(&mut self, asker: &Asker<'_>, path: &str, growth: Growth) {
        if let Some(quota) = asker.state.quota(path) {
            self.sums.entry(quota.top.into()).or_default().add(growth);
            self.order.push_back((asker.zxid, quota.top.into(), growth));
        }
    }

    /// From here on proposals can be taken back.
    pub fn begin(&mut self) {
        self.mark = self.order.len();
    }

    /// Takes back what was proposed since `begin`.
    pub fn take_back(&mut self) {
        while self.order.len() > self.mark {
            let (_, top, growth) = self.order.pop_back().expect("longer than the mark");
            self.settle(top, growth);
        }
    }

    /// The State has counted everything up to `zxid`.
    pub fn applied(&mut self, zxid: u64) {
        while let Some((_, top, growth)) = self.order.pop_front_if(|(at, ..)| *at <= zxid) {
            self.settle(top, growth);
        }
    }

    fn settle(&mut self, top: Box<str>, growth: Growth) {
        let sum = self.sums.entry(top.clone()).or_default();
        sum.add(growth.minus());
        if *sum == Growth::default() {
            self.sums.remove(&top);
        }
    }
}
