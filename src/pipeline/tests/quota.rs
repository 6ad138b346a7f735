//! Stories about quotas: what is refused, in which order, and that writes in flight count.

use super::*;

fn limit(server: &mut Server, client: Client, text: &str) {
    for (path, data) in [
        ("/q", ""),
        ("/zookeeper/quota/q", ""),
        ("/zookeeper/quota/q/zookeeper_limits", text),
        ("/zookeeper/quota/q/zookeeper_stats", "count=0,bytes=0"),
    ] {
        let request = Request::Create(Create { path: path.into(), data: Some(data.as_bytes()), acl: OPEN_ACL, flags: 0 });
        assert_eq!(server.err(client, &request), code::OK);
    }
}

fn stats(server: &mut Server, client: Client) -> String {
    let (_, body) = server.call(client, &get("/zookeeper/quota/q/zookeeper_stats", false));
    String::from_utf8(Reader::new(&body).buffer().unwrap().unwrap().to_vec()).unwrap()
}

#[test]
fn hard_limits_refuse_and_soft_ones_do_not() {
    let mut server = Server::new();
    let one = server.session(0);
    limit(&mut server, one, "count=1,bytes=1=;byteHardLimit=4;countHardLimit=3");
    assert_eq!(server.err(one, &create("/q/a", 0)), code::OK);
    assert_eq!(server.err(one, &create("/q/b", 1)), code::OK);
    assert_eq!(stats(&mut server, one), "count=3,bytes=2");
    assert_eq!(server.err(one, &create("/q/c", 0)), code::QUOTA_EXCEEDED);
    // The order: existence before the quota, the quota before the version.
    assert_eq!(server.err(one, &create("/q/a", 0)), code::NODE_EXISTS);
    assert_eq!(server.err(one, &set("/q/a", -1)), code::OK);
    assert_eq!(stats(&mut server, one), "count=3,bytes=4");
    assert_eq!(server.err(one, &set("/q/b", 77)), code::QUOTA_EXCEEDED);
    assert_eq!(server.err(one, &set("/q/a", 77)), code::BAD_VERSION);
    assert_eq!(server.err(one, &delete("/q/b")), code::OK);
    assert_eq!(server.err(one, &create("/q/c", 0)), code::OK);
    assert_eq!(stats(&mut server, one), "count=3,bytes=4");
}

#[test]
fn sums_that_a_client_has_spoilt_do_no_harm() {
    let mut server = Server::new();
    let one = server.session(0);
    limit(&mut server, one, "count=-1,bytes=-1,countHardLimit=3");
    let spoil = |text: &'static str| Request::SetData {
        path: "/zookeeper/quota/q/zookeeper_stats".into(),
        data: Some(text.as_bytes()),
        version: -1,
    };
    assert_eq!(server.err(one, &spoil("count=9223372036854775807,bytes=9223372036854775807")), code::OK);
    assert_eq!(server.err(one, &create("/q/a", 0)), code::QUOTA_EXCEEDED);
    assert_eq!(server.err(one, &set("/q", -1)), code::OK);
    assert_eq!(stats(&mut server, one), "count=9223372036854775807,bytes=-9223372036854775806");
    assert_eq!(server.err(one, &spoil("count=what")), code::OK);
    assert_eq!(server.err(one, &create("/q/a", 0)), code::OK);
    assert_eq!(stats(&mut server, one), "count=what");
}

#[test]
fn writes_in_flight_count() {
    let mut server = Server::new();
    let one = server.session(0);
    limit(&mut server, one, "count=-1,bytes=-1,countHardLimit=3");
    for (xid, request) in [create("/q/a", 0), create("/q/b", 0), create("/q/c", 0), delete("/q/a"), create("/q/d", 0)].iter().enumerate() {
        server.send(one, xid as i32, request);
    }
    server.settle();
    let errs: Vec<i32> = server.frames(one).iter().map(|frame| frame.0.err).collect();
    assert_eq!(errs, [code::OK, code::OK, code::QUOTA_EXCEEDED, code::OK, code::OK]);
    assert_eq!(stats(&mut server, one), "count=3,bytes=2");
    // All or nothing, and what a refused multi had planned is forgotten.
    let raw = MultiOps::encode_ops(&[delete("/q/b"), create("/q/b2", 0), create("/q/b3", 0)]);
    server.call(one, &Request::Multi(MultiOps::from_encoded(&raw).unwrap()));
    let raw = MultiOps::encode_ops(&[delete("/q/b"), create("/q/b2", 0)]);
    assert_eq!(server.err(one, &Request::Multi(MultiOps::from_encoded(&raw).unwrap())), code::OK);
    assert_eq!(server.err(one, &create("/q/e", 0)), code::QUOTA_EXCEEDED);
    assert_eq!(stats(&mut server, one), "count=3,bytes=2");
}
