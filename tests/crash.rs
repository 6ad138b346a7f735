//! kill -9 under load, again and again: every acknowledged write is found after the restart.

mod process;

use process::{Server, data_dir, free_port};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use zookeeper_client as zk;

const ROUNDS: u64 = 8;
const WRITERS: usize = 8;

/// What was acknowledged: the last version of each node that a reply confirmed.
type Acknowledged = Arc<Mutex<HashMap<String, i32>>>;

async fn connect(address: &str) -> zk::Client {
    zk::Client::connector().with_session_timeout(Duration::from_secs(10)).connect(address).await.expect("the server serves")
}

async fn write_until(stop: Arc<AtomicBool>, address: String, writer: usize, round: u64, acknowledged: Acknowledged) {
    let client = connect(&address).await;
    let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
    for i in 0.. {
        let path = format!("/load/{writer}-{round}-{i}");
        if stop.load(Ordering::Relaxed) || client.create(&path, &vec![b'x'; i % 3000], &options).await.is_err() {
            return;
        }
        acknowledged.lock().unwrap().insert(path.clone(), 0);
        let Ok(stat) = client.set_data(&path, b"again", None).await else { return };
        acknowledged.lock().unwrap().insert(path, stat.version);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_survive_kill_9() {
    let dir = data_dir();
    let port = free_port();
    let acknowledged: Acknowledged = Arc::default();
    let mut server = Server::start(dir.path(), port);
    let options = zk::CreateMode::Persistent.with_acls(zk::Acls::anyone_all());
    connect(&server.address).await.create("/load", b"", &options).await.unwrap();
    for round in 0..ROUNDS {
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| tokio::spawn(write_until(stop.clone(), server.address.clone(), writer, round, acknowledged.clone())))
            .collect();
        tokio::time::sleep(Duration::from_millis(300 + 50 * round)).await;
        server.kill();
        stop.store(true, Ordering::Relaxed);
        for writer in &writers {
            writer.abort();
        }
        server = Server::start(dir.path(), port);
        let client = connect(&server.address).await;
        let expected = acknowledged.lock().unwrap().clone();
        assert!(expected.len() as u64 > round * 10, "too little load to mean anything: {}", expected.len());
        for (path, version) in expected {
            let found = client.check_stat(&path).await.unwrap().map(|stat| stat.version);
            assert!(found >= Some(version), "round {round}: {path} was acknowledged at version {version}, found {found:?}");
        }
    }
}
