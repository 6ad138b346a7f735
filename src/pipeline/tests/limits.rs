//! Stories about the limit on requests in progress.

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
