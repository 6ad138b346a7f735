//! The release path with a client that we did not write: sessions, data, watches, ephemerals, transactions, restarts.

mod process;

use process::{Server, command, data_dir, free_port};
use std::time::Duration;
use zookeeper_client as zk;

const OPEN: fn(zk::CreateMode) -> zk::CreateOptions<'static> = |mode| mode.with_acls(zk::Acls::anyone_all());

async fn connect(server: &Server) -> zk::Client {
    zk::Client::connector().with_session_timeout(Duration::from_secs(4)).connect(&server.address).await.expect("the server serves")
}

#[tokio::test]
async fn data_has_versions_and_stats() {
    let dir = data_dir();
    let server = Server::start(dir.path(), free_port());
    let client = connect(&server).await;
    let (created, _) = client.create("/a", b"one", &OPEN(zk::CreateMode::Persistent)).await.unwrap();
    assert_eq!((created.version, created.czxid, created.data_length), (0, created.mzxid, 3));
    let set = client.set_data("/a", b"three", Some(0)).await.unwrap();
    assert_eq!((set.version, set.data_length, set.czxid), (1, 5, created.czxid));
    assert_eq!(client.set_data("/a", b"x", Some(0)).await.unwrap_err(), zk::Error::BadVersion);
    assert_eq!(client.get_data("/a").await.unwrap(), (b"three".to_vec(), set));
    client.create("/a/b", b"", &OPEN(zk::CreateMode::Persistent)).await.unwrap();
    let (children, stat) = client.get_children("/a").await.unwrap();
    assert_eq!((children, stat.num_children, stat.cversion), (vec!["b".to_string()], 1, 1));
    assert_eq!(client.delete("/a", None).await.unwrap_err(), zk::Error::NotEmpty);
    client.delete("/a/b", Some(0)).await.unwrap();
    client.delete("/a", Some(1)).await.unwrap();
    assert_eq!(client.check_stat("/a").await.unwrap(), None);
    assert_eq!(client.get_data("/a").await.unwrap_err(), zk::Error::NoNode);
}

#[tokio::test]
async fn sequential_names_grow_and_ephemerals_go_with_their_session() {
    let dir = data_dir();
    let server = Server::start(dir.path(), free_port());
    let (one, two) = (connect(&server).await, connect(&server).await);
    one.create("/q", b"", &OPEN(zk::CreateMode::Persistent)).await.unwrap();
    for i in 0..3 {
        let (_, sequence) = one.create("/q/n-", b"", &OPEN(zk::CreateMode::EphemeralSequential)).await.unwrap();
        assert_eq!(sequence.into_i64(), i);
    }
    let (stat, _) = two.create("/q/mine", b"", &OPEN(zk::CreateMode::Ephemeral)).await.unwrap();
    assert_eq!(stat.ephemeral_owner, two.session_id().0);
    let (children, _, watcher) = two.get_and_watch_children("/q").await.unwrap();
    assert_eq!(children.len(), 4);
    drop(one);
    let event = watcher.changed().await;
    assert_eq!(event.event_type, zk::EventType::NodeChildrenChanged);
    assert_eq!(two.list_children("/q").await.unwrap(), ["mine"]);
}

#[tokio::test]
async fn watches_fire_once_and_before_the_change_is_seen() {
    let dir = data_dir();
    let server = Server::start(dir.path(), free_port());
    let (watching, writing) = (connect(&server).await, connect(&server).await);
    let (none, created) = watching.check_and_watch_stat("/w").await.unwrap();
    assert_eq!(none, None);
    writing.create("/w", b"1", &OPEN(zk::CreateMode::Persistent)).await.unwrap();
    assert_eq!(created.changed().await.event_type, zk::EventType::NodeCreated);
    let (_, _, changed) = watching.get_and_watch_data("/w").await.unwrap();
    writing.set_data("/w", b"2", None).await.unwrap();
    writing.set_data("/w", b"3", None).await.unwrap();
    let event = changed.changed().await;
    assert_eq!((event.event_type, event.path.as_str()), (zk::EventType::NodeDataChanged, "/w"));
    let (_, _, deleted) = watching.get_and_watch_data("/w").await.unwrap();
    writing.delete("/w", None).await.unwrap();
    assert_eq!(deleted.changed().await.event_type, zk::EventType::NodeDeleted);
}

#[tokio::test]
async fn a_transaction_is_all_or_nothing() {
    let dir = data_dir();
    let server = Server::start(dir.path(), free_port());
    let client = connect(&server).await;
    let mut writer = client.new_multi_writer();
    writer.add_create("/m", b"", &OPEN(zk::CreateMode::Persistent)).unwrap();
    writer.add_create("/m/x", b"1", &OPEN(zk::CreateMode::Persistent)).unwrap();
    writer.add_set_data("/m/x", b"2", Some(0)).unwrap();
    assert_eq!(writer.commit().await.unwrap().len(), 3);
    let mut writer = client.new_multi_writer();
    writer.add_delete("/m/x", None).unwrap();
    writer.add_check_version("/m", 7).unwrap();
    let error = writer.commit().await.unwrap_err();
    assert!(matches!(error, zk::MultiWriteError::OperationFailed { index: 1, source: zk::Error::BadVersion }), "{error:?}");
    assert_eq!(client.get_data("/m/x").await.unwrap().0, b"2");
}

#[tokio::test]
async fn access_is_by_identity() {
    let dir = data_dir();
    let server = Server::start(dir.path(), free_port());
    let (bob, nobody) = (connect(&server).await, connect(&server).await);
    bob.auth("digest", b"bob:secret").await.unwrap();
    bob.create("/private", b"s", &zk::CreateMode::Persistent.with_acls(zk::Acls::creator_all())).await.unwrap();
    assert_eq!(bob.get_data("/private").await.unwrap().0, b"s");
    assert_eq!(nobody.get_data("/private").await.unwrap_err(), zk::Error::NoAuth);
    assert_eq!(nobody.set_data("/private", b"", None).await.unwrap_err(), zk::Error::NoAuth);
    nobody.auth("digest", b"bob:secret").await.unwrap();
    assert_eq!(nobody.get_data("/private").await.unwrap().0, b"s");
}

#[tokio::test]
async fn a_restart_keeps_data_and_sessions() {
    let dir = data_dir();
    let port = free_port();
    let server = Server::start(dir.path(), port);
    let client = connect(&server).await;
    client.create("/kept", b"k", &OPEN(zk::CreateMode::Persistent)).await.unwrap();
    client.create("/mine", b"e", &OPEN(zk::CreateMode::Ephemeral)).await.unwrap();
    let session = client.session_id();
    let (status, took) = server.terminate();
    assert!(status.success() && took < Duration::from_secs(1), "{status:?} after {took:?}");
    let server = Server::start(dir.path(), port);
    let again = connect(&server).await;
    assert_eq!(again.get_data("/kept").await.unwrap().0, b"k");
    assert_eq!(client.session_id(), session);
    assert_eq!(client.get_data("/mine").await.unwrap().0, b"e");
}

#[tokio::test]
async fn the_same_on_tmpfs() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let port = free_port();
    let server = Server::start(dir.path(), port);
    connect(&server).await.create("/t", b"t", &OPEN(zk::CreateMode::Persistent)).await.unwrap();
    server.kill();
    let server = Server::start(dir.path(), port);
    assert_eq!(connect(&server).await.get_data("/t").await.unwrap().0, b"t");
}

#[test]
fn a_second_server_says_what_is_taken() {
    let (dir, other) = (data_dir(), data_dir());
    let port = free_port();
    let server = Server::start(dir.path(), port);
    let stderr_of = |dir: &std::path::Path, port| {
        let output = command(dir, port).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let locked = stderr_of(dir.path(), free_port());
    assert!(locked.contains(&server.pid().to_string()), "{locked}");
    let taken = stderr_of(other.path(), port);
    assert!(taken.contains(&port.to_string()), "{taken}");
}
