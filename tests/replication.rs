//! Three real processes on a day without surprises: what is written on one is read on all, sessions move, servers are stopped
//! and started again, and one that was away for long gets a snapshot. With a client that we did not write.
//! Refuses to cut, pause and kill at random.

mod process;

use process::{Server, free_port};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use zookeeper_client as zk;

const OPEN: fn(zk::CreateMode) -> zk::CreateOptions<'static> = |mode| mode.with_acls(zk::Acls::anyone_all());
const PATIENCE: Duration = Duration::from_secs(60);

struct Ensemble {
    _dir: tempfile::TempDir,
    configs: Vec<PathBuf>,
    ports: Vec<u16>,
    /// None: stopped.
    servers: Vec<Option<Server>>,
}

impl Ensemble {
    fn start(data_settings: &str) -> Ensemble {
        let dir = process::data_dir();
        let (ports, peer_ports): (Vec<u16>, Vec<u16>) = (0..3).map(|_| (free_port(), free_port())).unzip();
        let mut configs = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let data = dir.path().join(format!("data-{index}"));
            let mut text = format!(
                "[server]\nid = {}\n[client]\nport = {port}\n[data]\ndir = {data:?}\n{data_settings}\n[threads]\nshards = 2\n\
                 pinning = \"none\"\n[admin]\nfour_letter_words = \"*\"\n",
                index + 1
            );
            for (other, peer_port) in peer_ports.iter().enumerate() {
                text += &format!("[[ensemble.servers]]\nid = {}\nhost = \"127.0.0.1\"\npeer_port = {peer_port}\n", other + 1);
            }
            let config = dir.path().join(format!("{index}.toml"));
            std::fs::write(&config, text).unwrap();
            configs.push(config);
        }
        let mut ensemble = Ensemble { _dir: dir, configs, ports, servers: vec![None, None, None] };
        ensemble.launch(&[0, 1, 2]);
        ensemble
    }

    /// Starts servers and waits until they serve.
    fn launch(&mut self, which: &[usize]) {
        let starting = which.iter().map(|index| {
            let (config, port) = (self.configs[*index].clone(), self.ports[*index]);
            std::thread::spawn(move || {
                let mut command = Command::new(env!("CARGO_BIN_EXE_falconer"));
                command.arg("serve").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
                Server::spawn(command, port)
            })
        });
        for (index, server) in which.iter().zip(starting.collect::<Vec<_>>()) {
            self.servers[*index] = Some(server.join().expect("it serves"));
        }
    }

    fn address(&self, index: usize) -> String {
        format!("127.0.0.1:{}", self.ports[index])
    }

    fn hosts(&self) -> String {
        (0..3).map(|index| self.address(index)).collect::<Vec<_>>().join(",")
    }

    fn ask(&self, index: usize, word: &str) -> String {
        let mut answer = String::new();
        if let Ok(mut stream) = TcpStream::connect(self.address(index)) {
            // A server that has just been stopped says nothing.
            let _ = stream.write_all(word.as_bytes()).and_then(|()| stream.read_to_string(&mut answer));
        }
        answer
    }

    /// The server that leads.
    fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leads = |index: &usize| self.servers[*index].is_some() && self.ask(*index, "srvr").contains("Mode: leader\n");
            if let Some(index) = (0..3).find(leads) {
                return index;
            }
            assert!(Instant::now() < deadline, "nobody leads\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn logs(&self) -> String {
        self.servers.iter().flatten().map(|server| server.log.lock().unwrap().clone()).collect::<Vec<_>>().join("\n")
    }
}

async fn connect(hosts: &str) -> zk::Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match zk::Client::connector().with_session_timeout(Duration::from_secs(10)).connect(hosts).await {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < deadline, "{hosts}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Creates a node; if the connection breaks on the way another one finds out.
async fn create(hosts: &str, path: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match connect(hosts).await.create(path, path.as_bytes(), &OPEN(zk::CreateMode::Persistent)).await {
            Ok(_) | Err(zk::Error::NodeExists) => return,
            Err(error) => assert!(Instant::now() < deadline, "{path}: {error}"),
        }
    }
}

/// What a server has of a node, after everything acknowledged so far.
async fn read_on(ensemble: &Ensemble, index: usize, path: &str) -> Option<Vec<u8>> {
    let client = connect(&ensemble.address(index)).await;
    client.sync("/").await.expect("a serving server knows a leader");
    client.get_data(path).await.ok().map(|(data, _)| data)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_on_one_is_read_on_all() {
    let ensemble = Ensemble::start("");
    let leader = ensemble.leader();
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let writer = zk::Client::connector().with_detached().connect(&ensemble.address(one)).await.expect("it serves");
    writer.create("/a", b"one", &OPEN(zk::CreateMode::Persistent)).await.unwrap();
    writer.create("/a/mine", b"", &OPEN(zk::CreateMode::Ephemeral)).await.unwrap();
    for index in 0..3 {
        assert_eq!(read_on(&ensemble, index, "/a").await.as_deref(), Some(&b"one"[..]), "server {index}");
        let (list, stat) = connect(&ensemble.address(index)).await.get_data("/zookeeper/config").await.unwrap();
        let list = String::from_utf8(list).unwrap();
        assert!(list.starts_with("server.1=127.0.0.1:") && list.ends_with("\nversion=0") && stat.version == -1, "{list}");
    }
    // A watch on one server fires for a write on another.
    let watching = connect(&ensemble.address(leader)).await;
    let (_, _, watcher) = watching.get_and_watch_data("/a").await.unwrap();
    writer.set_data("/a", b"two", Some(0)).await.unwrap();
    assert_eq!(watcher.changed().await.event_type, zk::EventType::NodeDataChanged);
    // A session moves with its ephemeral nodes, and ends everywhere.
    let session = writer.into_session();
    let moved = zk::Client::connector().with_session(session).connect(&ensemble.address(other)).await.expect("sessions move");
    assert!(moved.check_stat("/a/mine").await.unwrap().is_some());
    drop(moved);
    let deadline = Instant::now() + PATIENCE;
    while read_on(&ensemble, one, "/a/mine").await.is_some() {
        assert!(Instant::now() < deadline, "a closed session's node stays\n{}", ensemble.logs());
    }
    let mntr = ensemble.ask(leader, "mntr");
    for line in ["zk_server_state\tleader", "zk_peer_state\tleading - broadcast", "zk_synced_followers\t2", "zk_quorum_size\t3"] {
        assert!(mntr.lines().any(|l| l == line), "{line} in {mntr}");
    }
    assert!(ensemble.ask(one, "conf").contains("\nmembership: \nserver.1=127.0.0.1:"));
    assert_eq!(ensemble.ask(one, "isro"), "rw");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_told_to_stop_hands_over() {
    let mut ensemble = Ensemble::start("");
    for round in 0..3 {
        create(&ensemble.hosts(), &format!("/before-{round}")).await;
        let leader = ensemble.leader();
        let (status, _) = ensemble.servers[leader].take().unwrap().terminate();
        assert!(status.success(), "{status}");
        create(&ensemble.hosts(), &format!("/after-{round}")).await;
        ensemble.launch(&[leader]);
        for path in [format!("/before-{round}"), format!("/after-{round}")] {
            assert_eq!(read_on(&ensemble, leader, &path).await.as_deref(), Some(path.as_bytes()));
        }
    }
    assert!(!ensemble.logs().contains("panicked"), "{}", ensemble.logs());
}

/// More than the logs reach back: the follower fetches a snapshot while the others go on, and is a member like before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_far_behind_gets_a_snapshot() {
    let mut ensemble = Ensemble::start("snapshot_log_kb = 8192");
    create(&ensemble.hosts(), "/old").await;
    create(&ensemble.hosts(), "/large").await;
    let leader = ensemble.leader();
    let late = (leader + 1) % 3;
    ensemble.servers[late].take().unwrap().kill();
    let client = connect(&ensemble.address(leader)).await;
    client.delete("/old", None).await.unwrap();
    let data = vec![7; 900_000];
    for _ in 0..400 {
        client.set_data("/large", &data, None).await.unwrap();
    }
    ensemble.launch(&[late]);
    assert_eq!(read_on(&ensemble, late, "/large").await, Some(data), "{}", ensemble.logs());
    assert_eq!(read_on(&ensemble, late, "/old").await, None);
    let log = ensemble.servers[late].as_ref().unwrap().log.lock().unwrap().clone();
    assert!(log.contains("the leader's snapshot at zxid") && log.contains("is loaded"), "{log}");
    ensemble.servers[leader].take().unwrap().kill();
    let hosts = [ensemble.address(late), ensemble.address((leader + 2) % 3)].join(",");
    create(&hosts, "/new").await;
    assert!(read_on(&ensemble, late, "/new").await.is_some());
}
