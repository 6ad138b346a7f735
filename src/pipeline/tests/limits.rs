//! Stories about limits of the whole server: requests in progress, connections. Refuses to repeat those of one shard (`bounds`).

use super::*;

#[test]
fn beyond_the_limit_a_connection_with_requests_in_progress_is_not_read_on() {
    let replica = ReplicaConfig { requests_outstanding_max: 3, ..ReplicaConfig::default() };
    let mut server = Server::with(Setup { replica, ..Setup::default() });
    let (one, two) = (server.session(0), server.session(0));
    for i in 0..10 {
        server.send(one, i, &create(&format!("/a{i}"), 0));
    }
    server.send(two, 0, &create("/b0", 0));
    server.send(two, 1, &create("/b1", 0));
    // Three of the first; of the second one, because it had none.
    assert_eq!(server.shards[0].figures().outstanding, 4);
    server.shards[1].set_outstanding_elsewhere(4);
    let three = server.session(1);
    server.settle();
    let errs = |frames: Vec<Frame>| frames.iter().map(|frame| frame.0.err).collect::<Vec<_>>();
    assert_eq!((errs(server.frames(one)), errs(server.frames(two))), (vec![code::OK; 10], vec![code::OK; 2]));
    // What other shards have in progress counts too.
    server.shards[1].set_outstanding_elsewhere(3);
    server.send(three, 0, &create("/c0", 0));
    server.send(three, 1, &create("/c1", 0));
    assert_eq!(server.shards[1].figures().outstanding, 1);
    server.settle();
    assert_eq!(errs(server.frames(three)), [code::OK; 2]);
}

#[test]
fn connections_are_counted_by_address_and_in_all() {
    let replica = ReplicaConfig { connections_per_address_max: 2, connections_max: 5, ..ReplicaConfig::default() };
    let mut server = Server::with(Setup { replica: replica.clone(), ..Setup::default() });
    let mut accepted =
        |peer: &str, from_address, total| server.shards[0].accept(peer.parse().unwrap(), Census { from_address, total }, [0; 16]).is_some();
    assert!(accepted("10.0.0.1:1", 1, 4));
    assert!(!accepted("10.0.0.1:1", 2, 4), "the third from one address");
    assert!(!accepted("10.0.0.2:1", 0, 5), "the sixth in all");
    assert!(accepted("127.0.0.1:1", 4, 4) && accepted("[::1]:1", 4, 4) && accepted("[::ffff:127.0.0.1]:1", 4, 4), "loopback is exempt");
    assert_eq!(server.shards[0].figures().connections_rejected, 2);
    let strict = ReplicaConfig { loopback_exempt: false, ..replica };
    let mut server = Server::with(Setup { replica: strict, ..Setup::default() });
    assert!(server.shards[0].accept("127.0.0.1:1".parse().unwrap(), Census { from_address: 2, total: 2 }, [0; 16]).is_none());
}
