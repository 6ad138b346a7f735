//! Ways between servers that are cut in one or both directions, slow, or reset, while clients write: by proxies, and by a
//! router that drops packets. Refuses to touch the ways between clients and servers: those are whole.

use crate::load::Load;
use crate::namespaces::Namespaces;
use crate::process::ensemble::{Ensemble, Place, Shape};
use std::time::Duration;

const SESSIONS: usize = 6;
const PAUSE: Duration = Duration::from_millis(4);
const BETWEEN: u64 = 60;

async fn load(ensemble: &Ensemble, seed: u64) -> Load {
    Load::start(&ensemble.hosts(0), SESSIONS, PAUSE, seed).await
}

/// The others go on without a leader that reaches nobody; it stops serving, and learns better when it is back.
pub async fn an_isolated_leader() {
    let mut ensemble = Ensemble::start();
    let load = load(&ensemble, 11).await;
    for _ in 0..3 {
        load.wait_for_writes(BETWEEN).await;
        let leader = ensemble.wait_for_leader();
        ensemble.network.isolate(leader, ensemble.others(leader));
        ensemble.wait_for("another leader", |ensemble| ensemble.leader().filter(|now| *now != leader));
        ensemble.wait_for("the old one knows", |ensemble| (ensemble.mode(leader) != "leader").then_some(()));
        load.wait_for_writes(BETWEEN).await;
        ensemble.network.heal();
        ensemble.wait_until_serving(leader);
    }
    load.stop().await.check("an isolated leader", &mut ensemble).await;
}

/// Half-open ways: one direction works.
pub async fn one_way_cuts() {
    let mut ensemble = Ensemble::start();
    let load = load(&ensemble, 12).await;
    for from_leader in [true, false] {
        for all in [true, false] {
            load.wait_for_writes(BETWEEN).await;
            let leader = ensemble.wait_for_leader();
            let others = ensemble.others(leader);
            for other in others.into_iter().take(if all { 2 } else { 1 }) {
                let (from, to) = if from_leader { (leader, other) } else { (other, leader) };
                ensemble.network.cut(from, to);
            }
            // Whoever leads then, writes go on while the cut lasts.
            tokio::time::sleep(Duration::from_millis(1500)).await;
            load.wait_for_writes(BETWEEN).await;
            ensemble.network.heal();
            ensemble.wait_until_all_serve();
        }
    }
    load.stop().await.check("one-way cuts", &mut ensemble).await;
}

/// Two that cannot reach each other but both reach the third.
pub async fn a_cut_between_two() {
    let mut ensemble = Ensemble::start();
    let load = load(&ensemble, 13).await;
    for (one, other) in [(1, 2), (2, 3), (3, 1)] {
        load.wait_for_writes(BETWEEN).await;
        ensemble.network.isolate(one, [other]);
        tokio::time::sleep(Duration::from_millis(1200)).await;
        load.wait_for_writes(BETWEEN).await;
        ensemble.network.heal();
        ensemble.wait_until_all_serve();
    }
    load.stop().await.check("a cut between two", &mut ensemble).await;
}

/// Connections break again and again, in the middle of frames.
pub async fn resets_and_delays() {
    let mut ensemble = Ensemble::start();
    let load = load(&ensemble, 14).await;
    for round in 0..12 {
        load.wait_for_writes(BETWEEN / 2).await;
        let (one, other) = [(1, 2), (2, 3), (3, 1)][round % 3];
        ensemble.network.delay(one, other, Duration::from_millis(10 * (round as u64 % 4)));
        ensemble.network.reset(one, other);
    }
    ensemble.network.heal();
    ensemble.wait_until_all_serve();
    load.wait_for_writes(BETWEEN).await;
    load.stop().await.check("resets and delays", &mut ensemble).await;
}

/// Packets that vanish: in both directions around the leader, then in one, then in the other.
pub async fn lost_packets() {
    let namespaces = Namespaces::new(3).expect("that was probed");
    let place = |id| Place { address: namespaces.address(id), prefix: namespaces.inside(id) };
    let mut ensemble = Ensemble::of(&Shape { places: Some((1..=3).map(place).collect()), ..Shape::voters(3) });
    let load = load(&ensemble, 15).await;
    for (there, back) in [(true, true), (true, false), (false, true)] {
        load.wait_for_writes(BETWEEN).await;
        let leader = ensemble.wait_for_leader();
        for other in ensemble.others(leader) {
            if there {
                namespaces.cut(leader, other);
            }
            if back {
                namespaces.cut(other, leader);
            }
        }
        ensemble.wait_for("another leader", |ensemble| ensemble.leader().filter(|now| *now != leader));
        load.wait_for_writes(BETWEEN).await;
        namespaces.heal();
        ensemble.wait_until_all_serve();
    }
    load.stop().await.check("lost packets", &mut ensemble).await;
}
