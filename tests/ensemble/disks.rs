//! Disks that lose power and disks that run full, under one server and under all, while clients write.
//! Refuses to believe a file system: it is unmounted and mounted again, so that only what the medium has is there.

use crate::load::{Load, connect, persistent};
use crate::process::ensemble::{Ensemble, Shape};
use crate::volumes::Volume;
use std::time::{Duration, Instant};
use zookeeper_client as zk;

const SESSIONS: usize = 6;
const PAUSE: Duration = Duration::from_millis(4);
const BETWEEN: u64 = 60;
/// Room for the segments that a server prepares, and a few more.
const POWERED_MIB: u64 = 1024;
const SMALL_MIB: u64 = 512;
const LARGE_MIB: u64 = 1280;
/// Nodes of 512 KiB that are more than the log segments a server has prepared.
const TOO_MUCH: usize = 560;

fn start(volumes: &[Volume]) -> Ensemble {
    let data_dirs = volumes.iter().map(|volume| volume.path().join("data")).collect();
    Ensemble::of(&Shape { data_dirs: Some(data_dirs), ..Shape::voters(volumes.len() as u16) })
}

fn volumes(make: impl Fn() -> Result<Volume, String>) -> Vec<Volume> {
    (0..3).map(|_| make().expect("that was probed")).collect()
}

/// One server after the other, then all at once, each time in the middle of writes.
pub async fn power_cuts() {
    let volumes = volumes(|| Volume::on_loop_device(POWERED_MIB));
    let mut ensemble = start(&volumes);
    let load = Load::start(&ensemble.hosts(0), SESSIONS, PAUSE, 21).await;
    for hit in [vec![1], vec![2], vec![1, 2, 3], vec![3, 1, 2]] {
        load.wait_for_writes(BETWEEN).await;
        let hit = if hit.len() == 1 { vec![ensemble.wait_for_leader()] } else { hit };
        for id in &hit {
            volumes[usize::from(*id) - 1].power_off().expect("that was probed");
        }
        for id in &hit {
            // A disk that fails ends a server by itself, if it is asked before this comes.
            ensemble.end(*id);
            volumes[usize::from(*id) - 1].power_on();
        }
        for id in hit {
            ensemble.launch(id);
        }
        ensemble.wait_until_all_serve();
    }
    load.wait_for_writes(BETWEEN).await;
    load.stop().await.check("power cuts", &mut ensemble).await;
}

/// Writes large nodes until one is refused, or until there are `most`; whether one was refused.
async fn fill_up(client: &zk::Client, name: &str, most: usize) -> bool {
    let data = vec![b'x'; 512 << 10];
    for number in 0..most {
        match client.create(&format!("/{name}-{number}"), &data, &persistent()).await {
            Err(zk::Error::UnexpectedErrorCode(-1)) => return true,
            Err(error @ (zk::Error::SessionExpired | zk::Error::UnexpectedErrorCode(_))) => panic!("a full disk is answered with {error}"),
            // A server that cannot write does not answer; the client goes to another one.
            Ok(_) | Err(_) => {}
        }
    }
    false
}

/// The others go on without it, and it catches up once it has room.
pub async fn a_full_disk_under_a_follower() {
    const FULL: u16 = 2;
    let volumes = volumes(|| Volume::in_memory(LARGE_MIB));
    let mut ensemble = start(&volumes);
    let load = Load::start(&ensemble.hosts(0), SESSIONS, PAUSE, 22).await;
    load.wait_for_writes(BETWEEN).await;
    while ensemble.wait_for_leader() == FULL {
        ensemble.kill(FULL);
        load.wait_for_writes(BETWEEN).await;
        ensemble.launch(FULL);
        ensemble.wait_until_all_serve();
    }
    let filling = volumes[usize::from(FULL) - 1].fill();
    let client = connect(&ensemble.hosts(0)).await;
    assert!(!fill_up(&client, "large", TOO_MUCH).await, "two of three servers have room");
    // It did run out: the others have what it has not.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (full, leader) = (ensemble.zxid(FULL), ensemble.wait_for_leader());
    assert!(leader != FULL && full < ensemble.zxid(leader), "server {FULL} has everything up to {full:x}");
    load.wait_for_writes(BETWEEN).await;
    ensemble.check_alive();
    drop(filling);
    load.wait_for_writes(BETWEEN).await;
    load.stop().await.check("a full disk under a follower", &mut ensemble).await;
}

/// Growth is refused, reads go on, and when there is room again so do writes: nobody is started again.
pub async fn full_disks_under_all() {
    let volumes = volumes(|| Volume::in_memory(SMALL_MIB));
    let mut ensemble = start(&volumes);
    let load = Load::start(&ensemble.hosts(0), SESSIONS, PAUSE, 23).await;
    load.wait_for_writes(BETWEEN).await;
    let filling: Vec<_> = volumes.iter().map(Volume::fill).collect();
    let client = connect(&ensemble.hosts(0)).await;
    assert!(fill_up(&client, "large", 2 * SMALL_MIB as usize).await, "nobody has room for that");
    client.get_data("/large-0").await.expect("reads go on");
    ensemble.check_alive();
    drop(filling);
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(error) = client.create("/room-again", b"", &persistent()).await {
        assert!(Instant::now() < deadline, "there is room again, but: {error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    load.wait_for_writes(BETWEEN).await;
    load.stop().await.check("full disks under all", &mut ensemble).await;
}
