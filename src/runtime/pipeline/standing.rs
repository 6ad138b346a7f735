//! What this server is to the others and to its clients, as it changes: whether it serves, who leads, how long it took.
//! Refuses to decide any of it: the Node does.

use super::Pipeline;
use crate::admin::{Latency, Learner, Mode, Replication};
use crate::pipeline::node::NodeFigures;
use crate::runtime::core::Now;
use crate::runtime::start::Milestone;
use crate::zab::{LearnerFigures, Standing};
use std::sync::atomic::Ordering;

/// What was last said about it.
#[derive(Default)]
pub(super) struct Record {
    said: Option<Standing>,
    served_once: bool,
    /// Whether there is a leader, this server or another, and since when that has been so.
    is_led: bool,
    since_ms: u64,
    /// From the loss of a leader until the next one served here.
    elections: Latency,
}

impl Pipeline {
    /// The end of a turn: says what has changed, and lets clients in or not.
    pub(super) fn keep_standing(&mut self, now: Now) {
        let serves = self.node.takes_clients();
        if serves != self.server.is_serving() {
            self.server.serving.store(serves, Ordering::Release);
        }
        if serves && !std::mem::replace(&mut self.record.served_once, true) {
            // The starting thread waits for this unless it has given up.
            let _ = self.milestones.send(Milestone::Serving);
        }
        let standing = self.node.standing();
        if self.alone || self.record.said == Some(standing) {
            return;
        }
        self.record.said = Some(standing);
        match standing {
            Standing::Looking => tracing::info!("looking for a leader"),
            Standing::Following { leader, serving: false } => tracing::info!("server {leader} calls; catching up with it"),
            Standing::Following { leader, serving: true } => tracing::info!("following server {leader}"),
            Standing::Leading { epoch, established: false } => tracing::info!("elected for epoch {epoch}"),
            Standing::Leading { epoch, established: true } => tracing::info!("leading epoch {epoch}"),
        }
        let is_led = matches!(standing, Standing::Leading { established: true, .. } | Standing::Following { serving: true, .. });
        if is_led != std::mem::replace(&mut self.record.is_led, is_led) {
            if is_led {
                let took_ms = now.ms - self.record.since_ms;
                self.record.elections.merge(Latency { min_ms: took_ms, max_ms: took_ms, sum_ms: took_ms, count: 1 });
            }
            self.record.since_ms = now.ms;
        }
    }

    /// What operators want to know about a member of an ensemble.
    pub fn replication(&self, now: Now) -> Option<Replication> {
        if self.alone {
            return None;
        }
        let NodeFigures { epoch, barriers_waiting, learners } = self.node.figures();
        let learner = if self.observes { Mode::Observer } else { Mode::Follower };
        let (mode, state) = match self.node.standing() {
            Standing::Looking => (learner, "looking - election"),
            Standing::Following { serving: false, .. } if self.observes => (learner, "observing - synchronization"),
            Standing::Following { serving: true, .. } if self.observes => (learner, "observing - broadcast"),
            Standing::Following { serving: false, .. } => (learner, "following - synchronization"),
            Standing::Following { serving: true, .. } => (learner, "following - broadcast"),
            Standing::Leading { established: false, .. } => (Mode::Leader, "leading - synchronization"),
            Standing::Leading { established: true, .. } => (Mode::Leader, "leading - broadcast"),
        };
        Some(Replication {
            mode,
            state,
            epoch,
            leads_for_ms: if mode == Mode::Leader { now.ms - self.record.since_ms } else { 0 },
            barriers_waiting: barriers_waiting as u64,
            elections: self.record.elections,
            learners: learners.iter().map(as_shown).collect(),
        })
    }
}

fn as_shown(figures: &LearnerFigures) -> Learner {
    let LearnerFigures { server, is_voter, counts, synced, behind_txns, in_flight_bytes } = *figures;
    Learner { server, is_voter, counts, synced, behind_txns, in_flight_bytes }
}
