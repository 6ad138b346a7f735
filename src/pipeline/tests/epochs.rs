//! What happens when an epoch's counter of transactions is used up: the next epoch begins, and no client notices.
//! Refuses to wait for four billion transactions.

use super::*;

#[test]
fn a_counter_that_is_used_up_begins_the_next_epoch() {
    let mut server = Server::with(Setup { counter_max: 5, ..Setup::default() });
    let (client, _) = server.connect(1, 0, [0; 16]);
    let open = |path: &'static str| Request::Create(Create { path: path.into(), data: None, acl: OPEN_ACL, flags: 2 });
    let mut zxids = Vec::new();
    for _ in 0..20 {
        let (header, _) = server.call(client, &open("/n-"));
        assert_eq!(header.err, code::OK);
        zxids.push(header.zxid as u64);
    }
    assert!(zxids.is_sorted() && zxids.last().unwrap() >> 32 > 3, "{zxids:x?}");
    assert!(zxids.iter().all(|zxid| *zxid as u32 > 0), "(e,0) is no client's: {zxids:x?}");
    assert!(server.closed.is_empty());
    let alone = |batch: &Arc<Batch>| batch.header().first_zxid as u32 != 0 || batch.header().count == 1;
    assert!(server.published.iter().all(alone), "an epoch's own record stands alone");
}
