//! What happens when an epoch's counter of transactions is used up. Looks inside the Node, because nobody can wait for
//! four billion transactions. Refuses to look at anything else.

use super::*;
use crate::pipeline::message::Submit;

#[test]
fn a_counter_that_is_used_up_begins_the_next_epoch() {
    let state = State::new(false);
    let config = NodeConfig {
        cluster: 1,
        server: 1,
        boot: 1,
        epoch: 1,
        shards: 1,
        tick_ms: 1000,
        prepare: PrepareConfig::default(),
        reap: ReapConfig::default(),
    };
    let mut node = Node::new(config, Position::default(), &state, 0);
    node.start(0);
    let first = node.close_batch().unwrap();
    assert_eq!(first.position().zxid, 1 << 32);
    node.last_proposed = (1 << 32) | u64::from(u32::MAX - 1);
    let submit = |sequence| Submit { conn: ConnId(1), sequence, opcode: op::CREATE_SESSION, session: 0, auth: &[], body: &[0; 20] };
    (0..2).for_each(|sequence| node.up(0, Up::Submit(submit(sequence)), &state, 0, 0));
    let zxids: Vec<u64> = std::iter::from_fn(|| node.close_batch()).flat_map(|batch| zxids_of(&batch)).collect();
    assert_eq!(zxids, [(1 << 32) | u64::from(u32::MAX), 2 << 32, (2 << 32) + 1], "and the epoch's own record stands alone");
}

fn zxids_of(batch: &Batch) -> Vec<u64> {
    batch.txns().map(|txn| txn.zxid.to_native()).collect()
}
