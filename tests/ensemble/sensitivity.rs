//! Whether the checks would notice: histories that are lies, and an ensemble that has forgotten everything.
//! Refuses to be silent about what is not found: each lie must be named.

use crate::history::{Fate, History, Observed, Write};
use crate::load::Load;
use crate::process::ensemble::Ensemble;
use std::time::Duration;

fn write(called: u64, returned: u64, zxid: i64) -> Write {
    Write { session: 0, path: "/a".into(), called, returned, fate: Fate::Done { version: 0, zxid } }
}

fn found(writes: &[Write], counter: &[(i32, u64)]) -> Vec<String> {
    let counter = counter.iter().map(|&(version, value)| Observed { version, value }).collect();
    let mut history = History { writes: writes.to_vec(), counter, ..History::default() };
    history.judge_answers();
    history.violations
}

pub async fn lies_are_noticed() {
    let sound = [write(1, 5, 7), write(2, 6, 6), write(7, 8, 8)];
    assert_eq!(found(&sound, &[(1, 10), (2, 20), (1, 10)]), Vec::<String>::new(), "writes that overlap come in any order");
    let stale = [write(1, 2, 7), write(3, 4, 6)];
    assert!(found(&stale, &[])[0].contains("has the higher zxid"));
    let later = [write(1, 9, 3), write(2, 3, 7), write(5, 6, 5)];
    assert_eq!(found(&later, &[]).len(), 1, "however many are under way at the same time");
    let twice = [write(1, 5, 7), write(2, 6, 7)];
    assert!(found(&twice, &[])[0].contains("was given to two writes"));
    assert!(found(&sound, &[(3, 10), (3, 11)])[0].contains("version 3 of the counter was 10 and 11"));
}

/// Every server loses its disk: they begin anew, and whatever was acknowledged is missed on each of them.
pub async fn lost_data_is_noticed() {
    let mut ensemble = Ensemble::start();
    let load = Load::start(&ensemble.hosts(0), 2, Duration::from_millis(2), 1).await;
    load.wait_for_writes(60).await;
    let mut history = load.stop().await;
    for id in ensemble.ids() {
        ensemble.kill(id);
        ensemble.wipe(id);
    }
    for id in ensemble.ids() {
        ensemble.launch(id);
    }
    ensemble.wait_until_all_serve();
    // What the end of a check needs.
    let client = crate::load::connect(&ensemble.hosts(0)).await;
    client.create("/eph", b"", &crate::load::persistent()).await.expect("the ensemble is new");
    history.judge(&mut ensemble).await;
    for id in ensemble.ids() {
        let missed = history.violations.iter().filter(|violation| violation.starts_with(&format!("server {id}: "))).count();
        assert!(missed >= 20, "only {missed} of what server {id} lost were noticed: {:?}", history.violations);
    }
    assert!(history.violations.last().is_some_and(|violation| violation.starts_with("ephemeral nodes [] are there")));
}
