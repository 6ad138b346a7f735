//! Servers that die, hang and come back while clients write: kill -9 of the leader, of a follower, of all; SIGSTOP; restarts
//! one after the other; a disk that is gone. Refuses to be gentle: the next fault comes when writes go through again.

use crate::load::Load;
use crate::process::ensemble::{Ensemble, Shape};
use std::time::Duration;

const SESSIONS: usize = 6;
const PAUSE: Duration = Duration::from_millis(4);
/// Acknowledged writes between two faults: the ensemble has recovered.
const BETWEEN: u64 = 60;

async fn load(ensemble: &Ensemble, seed: u64) -> Load {
    Load::start(&ensemble.hosts(0), SESSIONS, PAUSE, seed).await
}

pub async fn kill_9_of_the_leader() {
    let mut ensemble = Ensemble::start();
    let load = load(&ensemble, 1).await;
    for _ in 0..5 {
        load.wait_for_writes(BETWEEN).await;
        let leader = ensemble.wait_for_leader();
        ensemble.kill(leader);
        load.wait_for_writes(BETWEEN).await;
        ensemble.launch(leader);
        ensemble.wait_until_serving(leader);
    }
    load.stop().await.check("kill -9 of the leader", &mut ensemble).await;
}

pub async fn kill_9_of_a_follower() {
    let mut ensemble = Ensemble::start();
    let load = load(&ensemble, 2).await;
    for _ in 0..5 {
        load.wait_for_writes(BETWEEN).await;
        let follower = ensemble.wait_for_follower();
        ensemble.kill(follower);
        load.wait_for_writes(BETWEEN).await;
        ensemble.launch(follower);
        ensemble.wait_until_serving(follower);
    }
    load.stop().await.check("kill -9 of a follower", &mut ensemble).await;
}

pub async fn kill_9_of_all() {
    let mut ensemble = Ensemble::start();
    let load = load(&ensemble, 3).await;
    for round in 0..5 {
        load.wait_for_writes(BETWEEN).await;
        let first = round % 3;
        for index in 0..3 {
            ensemble.kill((first + index) % 3 + 1);
        }
        for index in 0..3 {
            ensemble.launch((first + 2 * index) % 3 + 1);
        }
        ensemble.wait_until_all_serve();
    }
    load.wait_for_writes(BETWEEN).await;
    load.stop().await.check("kill -9 of all", &mut ensemble).await;
}

/// A leader that hangs is replaced, and finds out when it wakes up.
pub async fn pauses_of_the_leader() {
    let mut ensemble = Ensemble::start();
    let load = load(&ensemble, 4).await;
    for pause_ms in [100, 300, 700, 1500, 3000] {
        load.wait_for_writes(BETWEEN).await;
        let leader = ensemble.wait_for_leader();
        ensemble.pause(leader);
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        ensemble.resume(leader);
    }
    load.wait_for_writes(BETWEEN).await;
    load.stop().await.check("pauses of the leader", &mut ensemble).await;
}

/// SIGTERM to one after the other, as an upgrade does it. Every one of them stops within its second.
pub async fn a_rolling_restart() {
    let mut ensemble = Ensemble::of(&Shape { observers: 1, ..Shape::voters(3) });
    let load = load(&ensemble, 5).await;
    for _ in 0..2 {
        for id in ensemble.ids() {
            load.wait_for_writes(BETWEEN).await;
            let (status, took) = ensemble.terminate(id);
            assert!(status.success(), "server {id} ended with {status}");
            assert!(took < Duration::from_secs(8), "server {id} took {took:?} to stop");
            ensemble.launch(id);
            ensemble.wait_until_serving(id);
        }
    }
    load.wait_for_writes(BETWEEN).await;
    load.stop().await.check("a rolling restart", &mut ensemble).await;
}

/// All stop as asked, all start again; nothing is written in between, so nothing is of unknown fate.
pub async fn a_full_restart() {
    let mut ensemble = Ensemble::start();
    let load = load(&ensemble, 6).await;
    for _ in 0..2 {
        load.wait_for_writes(BETWEEN).await;
        for id in ensemble.ids() {
            let (status, _) = ensemble.terminate(id);
            assert!(status.success(), "server {id} ended with {status}");
        }
        for id in ensemble.ids() {
            ensemble.launch(id);
        }
        ensemble.wait_until_all_serve();
    }
    load.wait_for_writes(BETWEEN).await;
    load.stop().await.check("a full restart", &mut ensemble).await;
}

/// A server that lost its disk gets everything from the others and serves, but what it forgot may have been a promise: it
/// does not count. So the leader and it together are no quorum, and when the third is back all goes on.
pub async fn a_wiped_server() {
    let mut ensemble = Ensemble::start();
    let load = load(&ensemble, 7).await;
    load.wait_for_writes(2 * BETWEEN).await;
    let wiped = ensemble.wait_for_leader();
    ensemble.kill(wiped);
    ensemble.wipe(wiped);
    load.wait_for_writes(BETWEEN).await;
    ensemble.launch(wiped);
    ensemble.wait_until_serving(wiped);
    load.wait_for_writes(BETWEEN).await;
    let leader = ensemble.wait_for_leader();
    let third = 6 - leader - wiped;
    assert_ne!(leader, wiped, "nobody follows a server that does not count");
    ensemble.kill(third);
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let before = load.acknowledged();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(load.acknowledged(), before, "one of three has what was acknowledged");
    ensemble.launch(third);
    load.wait_for_writes(BETWEEN).await;
    load.stop().await.check("a wiped server", &mut ensemble).await;
}

/// With the switch on, plain reads are linearizable on whichever server, also on a leader that does not know yet that it is none.
pub async fn linearizable_reads() {
    let settings = "[replication]\nlinearizable_reads = true\n".into();
    let mut ensemble = Ensemble::of(&Shape { settings, ..Shape::voters(3) });
    let load = Load::without_sync(&ensemble.hosts(0), SESSIONS, PAUSE, 8).await;
    for round in 0..6 {
        load.wait_for_writes(BETWEEN).await;
        let leader = ensemble.wait_for_leader();
        if round % 2 == 0 {
            ensemble.pause(leader);
            tokio::time::sleep(Duration::from_millis(600)).await;
            ensemble.resume(leader);
        } else {
            ensemble.network.isolate(leader, ensemble.others(leader));
            load.wait_for_writes(BETWEEN).await;
            ensemble.network.heal();
            ensemble.wait_until_serving(leader);
        }
    }
    load.wait_for_writes(BETWEEN).await;
    load.stop().await.check("linearizable reads", &mut ensemble).await;
}
