//! Any fault at any time, for as long as FALCONER_FAULT_MINUTES says and for a few seconds without it. The seed is printed
//! with every round; FALCONER_FAULT_SEED begins with that one again, as far as real processes repeat themselves.
//! Refuses to break a majority for long: each fault is healed before the next one comes.

use crate::load::Load;
use crate::process::ensemble::Ensemble;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use std::time::{Duration, Instant};

const SESSIONS: usize = 8;
const PAUSE: Duration = Duration::from_millis(3);
/// A round has one ensemble and one history.
const ROUND: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(12);

fn from_environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

pub async fn any_fault() {
    let minutes: Option<u64> = from_environment("FALCONER_FAULT_MINUTES");
    let first = from_environment("FALCONER_FAULT_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let end = Instant::now() + minutes.map_or(SHORT, |minutes| Duration::from_secs(60 * minutes));
    let mut seed = first;
    while Instant::now() < end {
        round(seed, end.min(Instant::now() + ROUND)).await;
        seed += 1;
    }
}

async fn round(seed: u64, end: Instant) {
    println!("any fault: seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut ensemble = Ensemble::start();
    let load = Load::start(&ensemble.hosts(0), SESSIONS, PAUSE, seed).await;
    let mut faults = 0;
    while Instant::now() < end || faults < 3 {
        load.wait_for_writes(random.random_range(1..80)).await;
        one_fault(&mut random, &mut ensemble, &load).await;
        faults += 1;
    }
    load.wait_for_writes(50).await;
    load.stop().await.check(&format!("any fault: seed {seed}, {faults} faults"), &mut ensemble).await;
}

async fn one_fault(random: &mut SmallRng, ensemble: &mut Ensemble, load: &Load) {
    let ids = ensemble.ids();
    let leader = ensemble.wait_for_leader();
    let victim = if random.random_bool(0.6) { leader } else { *ids.choose(random).expect("there are servers") };
    let other = *ensemble.others(victim).choose(random).expect("there are others");
    let while_ms = random.random_range(50..2500);
    let wait = Duration::from_millis(while_ms);
    let what = match random.random_range(0..8) {
        0 | 1 => {
            ensemble.kill(victim);
            tokio::time::sleep(wait).await;
            ensemble.launch(victim);
            "kill -9"
        }
        2 => {
            // Two at once: nobody can write until one is back.
            ensemble.kill(victim);
            ensemble.kill(other);
            tokio::time::sleep(wait).await;
            ensemble.launch(other);
            load.wait_for_writes(1).await;
            ensemble.launch(victim);
            "kill -9 of it and another one"
        }
        3 => {
            for id in &ids {
                ensemble.kill(*id);
            }
            for id in &ids {
                ensemble.launch(*id);
            }
            "kill -9 of all"
        }
        4 => {
            ensemble.pause(victim);
            tokio::time::sleep(wait).await;
            ensemble.resume(victim);
            "pause"
        }
        5 => {
            ensemble.network.isolate(victim, ensemble.others(victim));
            tokio::time::sleep(wait).await;
            ensemble.network.heal();
            "isolation"
        }
        6 => {
            ensemble.network.cut(victim, other);
            tokio::time::sleep(wait).await;
            ensemble.network.heal();
            "a cut to another one"
        }
        _ => {
            ensemble.network.delay(victim, other, Duration::from_millis(while_ms / 20));
            ensemble.network.reset(victim, other);
            "a reset and delay"
        }
    };
    let begin = Instant::now();
    ensemble.wait_until_all_serve();
    let serve_ms = begin.elapsed().as_millis();
    load.wait_for_writes(1).await;
    ensemble.network.heal();
    let role = if victim == leader { "leader" } else { "follower" };
    println!(
        "  {} ms: {what}, {role} {victim}, {while_ms} ms; all serve after {serve_ms} ms, a write after {} ms",
        load.now_ms(),
        begin.elapsed().as_millis()
    );
}
