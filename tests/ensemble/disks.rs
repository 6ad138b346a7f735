//! Disks that lose power, run full, hang or refuse, under one server and under all, while clients write.
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
/// Until others lead and acknowledge, with room for a machine that does other things: the leader waits for a second.
const WITHOUT_DISK: Duration = Duration::from_secs(20);
const EXIT_DISK_FAILED: i32 = 4;

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

/// The others go on without it; it sends its clients to them, and catches up once it has room.
pub async fn a_full_disk_under_a_follower() {
    full_disk_under_one("a full disk under a follower", false, 22).await;
}

/// The others have room, so one of them leads.
pub async fn a_full_disk_under_the_leader() {
    full_disk_under_one("a full disk under the leader", true, 24).await;
}

async fn full_disk_under_one(name: &str, leads: bool, seed: u64) {
    const FULL: u16 = 2;
    let volumes = volumes(|| Volume::in_memory(LARGE_MIB));
    let mut ensemble = start(&volumes);
    let load = Load::start(&ensemble.hosts(0), SESSIONS, PAUSE, seed).await;
    load.wait_for_writes(BETWEEN).await;
    while (ensemble.wait_for_leader() == FULL) != leads {
        let leader = ensemble.wait_for_leader();
        ensemble.kill(leader);
        load.wait_for_writes(BETWEEN).await;
        ensemble.launch(leader);
        ensemble.wait_until_all_serve();
    }
    let filling = volumes[usize::from(FULL) - 1].fill();
    let client = connect(&ensemble.hosts(0)).await;
    assert!(!fill_up(&client, "large", TOO_MUCH).await, "two of three servers have room");
    // It did run out: the others have what it has not.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (full, leader) = (ensemble.zxid(FULL), ensemble.wait_for_leader());
    assert!(leader != FULL && full < ensemble.zxid(leader), "server {FULL} has everything up to {full:x}");
    ensemble.wait_for("the full one takes no clients", |ensemble| ensemble.mode(FULL).is_empty().then_some(()));
    load.wait_for_writes(BETWEEN).await;
    ensemble.check_alive();
    drop(filling);
    ensemble.wait_until_serving(FULL);
    load.wait_for_writes(BETWEEN).await;
    load.stop().await.check(name, &mut ensemble).await;
}

/// Growth is refused, reads go on, and when there is room again so do writes: nobody is started again.
pub async fn full_disks_under_all() {
    full_disks_under("full disks under all", 3, 23).await;
}

/// The third has room, but it alone is no quorum: what would rest on full disks is refused before they stop everything.
pub async fn full_disks_under_two() {
    full_disks_under("full disks under two", 2, 25).await;
}

async fn full_disks_under(name: &str, full: usize, seed: u64) {
    let volumes = volumes(|| Volume::in_memory(SMALL_MIB));
    let mut ensemble = start(&volumes);
    let load = Load::start(&ensemble.hosts(0), SESSIONS, PAUSE, seed).await;
    load.wait_for_writes(BETWEEN).await;
    let filling: Vec<_> = volumes.iter().take(full).map(Volume::fill).collect();
    let client = connect(&ensemble.hosts(0)).await;
    assert!(fill_up(&client, "large", 2 * SMALL_MIB as usize).await, "nobody has room for that");
    client.get_data("/large-0").await.expect("reads go on");
    client.delete("/large-0", None).await.expect("so do deletes");
    ensemble.check_alive();
    drop(filling);
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(error) = client.create("/room-again", b"", &persistent()).await {
        assert!(Instant::now() < deadline, "there is room again, but: {error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    load.wait_for_writes(BETWEEN).await;
    load.stop().await.check(name, &mut ensemble).await;
}

/// A leader whose disk does not answer gives up its place. When it answers again that server follows, and nothing is lost.
pub async fn hanging_disks_under_leaders() {
    let volumes = volumes(|| Volume::on_loop_device(POWERED_MIB));
    let mut ensemble = start(&volumes);
    let load = Load::start(&ensemble.hosts(0), SESSIONS, PAUSE, 26).await;
    for _ in 0..3 {
        load.wait_for_writes(BETWEEN).await;
        let leader = ensemble.wait_for_leader();
        let frozen = volumes[usize::from(leader) - 1].freeze().expect("a file system can be frozen");
        let since = Instant::now();
        ensemble.wait_for("another leader", |ensemble| ensemble.leader().filter(|now| *now != leader));
        load.wait_for_writes(BETWEEN).await;
        assert!(since.elapsed() < WITHOUT_DISK, "writes go on after {:?}", since.elapsed());
        ensemble.check_alive();
        drop(frozen);
        ensemble.wait_until_all_serve();
    }
    load.wait_for_writes(BETWEEN).await;
    load.stop().await.check("hanging disks under leaders", &mut ensemble).await;
}

/// A disk that refuses to write ends the server with a word and an exit code of its own, and so does one that refuses to
/// read at the next start. The others go on; on a disk that works again the server is one of them.
pub async fn failing_disks_under_leaders() {
    let volumes = volumes(|| Volume::on_loop_device(POWERED_MIB));
    let mut ensemble = start(&volumes);
    let load = Load::start(&ensemble.hosts(0), SESSIONS, PAUSE, 27).await;
    for _ in 0..3 {
        load.wait_for_writes(BETWEEN).await;
        let leader = ensemble.wait_for_leader();
        let volume = &volumes[usize::from(leader) - 1];
        volume.fail().expect("that was probed");
        let (status, said) = ensemble.wait_until_ended(leader);
        assert_eq!(status.code(), Some(EXIT_DISK_FAILED), "{said}");
        assert!(said.contains("writing at byte") && said.contains("nothing acknowledged is lost"), "{said}");
        load.wait_for_writes(BETWEEN).await;
        let (code, said) = ensemble.fails_to_start(leader);
        assert_eq!(code, Some(EXIT_DISK_FAILED), "{said}");
        volume.power_on();
        ensemble.launch(leader);
        ensemble.wait_until_all_serve();
    }
    load.wait_for_writes(BETWEEN).await;
    load.stop().await.check("failing disks under leaders", &mut ensemble).await;
}
