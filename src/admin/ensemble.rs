//! What `mntr` adds for a member of an ensemble, under ZooKeeper's names where it has one.
//! Refuses to know anything that the server's figures do not say.

use super::fourletter::{OWN_PREFIX, average, line};
use super::{Learner, Mode, Replication, ServerStats};

/// A leader's lines come only from a leader, as with ZooKeeper.
pub(super) fn metrics(stats: &ServerStats, replication: &Replication, out: &mut String) {
    let elections = replication.elections;
    let voters = stats.settings.ensemble.as_ref().map_or(0, |ensemble| ensemble.voters);
    let mut zookeepers = vec![
        ("quorum_size", voters),
        ("min_election_time", elections.min_ms),
        ("max_election_time", elections.max_ms),
        ("cnt_election_time", elections.count),
        ("sum_election_time", elections.sum_ms),
    ];
    if replication.mode == Mode::Leader {
        let count = |is: fn(&Learner) -> bool| replication.learners.iter().filter(|learner| is(learner)).count() as u64;
        zookeepers.extend([
            ("learners", replication.learners.len() as u64),
            ("followers", count(|l| l.is_voter)),
            ("synced_followers", count(|l| l.is_voter && l.counts && l.synced)),
            ("synced_non_voting_followers", count(|l| l.is_voter && !l.counts && l.synced)),
            ("synced_observers", count(|l| !l.is_voter && l.synced)),
            ("pending_syncs", replication.barriers_waiting),
            ("leader_uptime", replication.leads_for_ms),
        ]);
    }
    line(out, "zk_avg_election_time\t", average(elections));
    for (name, value) in zookeepers {
        line(out, "zk_", format_args!("{name}\t{value}"));
    }
    line(out, OWN_PREFIX, format_args!("epoch\t{}", replication.epoch));
    for Learner { server, behind_txns, in_flight_bytes, .. } in &replication.learners {
        line(out, OWN_PREFIX, format_args!("server_{server}_behind_txns\t{behind_txns}"));
        line(out, OWN_PREFIX, format_args!("server_{server}_in_flight_bytes\t{in_flight_bytes}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::Latency;

    fn learner(server: u16, is_voter: bool, counts: bool, synced: bool) -> Learner {
        Learner { server, is_voter, counts, synced, behind_txns: u64::from(server), in_flight_bytes: 0 }
    }

    #[test]
    fn a_leader_counts_its_followers() {
        let learners = vec![
            learner(1, true, true, true),
            learner(2, true, true, false),
            learner(4, true, false, true),
            learner(9, false, false, true),
        ];
        let elections = Latency { min_ms: 100, max_ms: 200, sum_ms: 300, count: 2 };
        let mut leader = Replication {
            mode: Mode::Leader,
            state: "leading - broadcast",
            epoch: 7,
            leads_for_ms: 5000,
            barriers_waiting: 3,
            elections,
            learners,
        };
        let stats = ServerStats::default();
        let mut out = String::new();
        metrics(&stats, &leader, &mut out);
        for line in [
            "zk_learners\t4",
            "zk_followers\t3",
            "zk_synced_followers\t1",
            "zk_synced_non_voting_followers\t1",
            "zk_synced_observers\t1",
            "zk_pending_syncs\t3",
            "zk_leader_uptime\t5000",
            "zk_avg_election_time\t150.0",
            "zk_falconer_epoch\t7",
            "zk_falconer_server_4_behind_txns\t4",
        ] {
            assert!(out.lines().any(|l| l == line), "{line} in {out}");
        }
        (leader.mode, leader.learners) = (Mode::Follower, Vec::new());
        let mut out = String::new();
        metrics(&stats, &leader, &mut out);
        assert!(out.contains("zk_cnt_election_time\t2\n") && !out.contains("synced"), "{out}");
    }
}
