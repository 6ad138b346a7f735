//! Pieces that know bytes and no tree: codec, commit ring, log batch.

use crate::Work;
use falconer::limits::BATCH_BYTES_POOLED;
use falconer::runtime::commit_ring::commit_ring;
use falconer::wire::aligned::AlignedBuf;
use falconer::wire::batch::{Batch, BatchBuilder};
use falconer::wire::record::Stat;
use falconer::wire::request::{Create, OPEN_ACL, Request};
use falconer::wire::response;
use falconer::wire::txn::{Change, Op, Origin, Txn};
use std::sync::Arc;

const DATA: [u8; 100] = [7; 100];

fn requests() -> Vec<Request<'static>> {
    let each = |i: i32| match i % 4 {
        0 => Request::GetData { path: "/tenant/service/node-0000000007".into(), watch: false },
        1 => Request::SetData { path: "/tenant/service/node-0000000007".into(), data: Some(&DATA), version: -1 },
        2 => Request::Create(Create { path: "/tenant/service/n-".into(), data: Some(&DATA), acl: OPEN_ACL, flags: 2 }),
        _ => Request::GetChildren { path: "/tenant/service".into(), watch: true },
    };
    (0..100).map(each).collect()
}

pub fn decode_requests() -> Work {
    let bodies: Vec<(i32, Vec<u8>)> = requests()
        .iter()
        .map(|request| {
            let mut frame = Vec::new();
            request.encode_frame(1, &mut frame);
            // Behind length, xid and opcode.
            (request.opcode(), frame[12..].to_vec())
        })
        .collect();
    Box::new(move || {
        let decoded = bodies.iter().map(|(opcode, body)| Request::decode(*opcode, body).expect("just encoded"));
        decoded.filter(|request| matches!(std::hint::black_box(request), Request::GetData { .. } | Request::SetData { .. })).count()
    })
}

pub fn encode_replies() -> Work {
    let mut out = Vec::new();
    let stat = Stat { mzxid: 9, version: 3, data_length: DATA.len() as i32, ..Stat::default() };
    Box::new(move || {
        out.clear();
        for xid in 0..100 {
            let mark = response::begin_reply(&mut out, xid, 77, 0);
            response::Response::Data(Some(&DATA), stat).encode(&mut out);
            response::end_frame(&mut out, mark);
        }
        out.len()
    })
}

/// 64 batches published, passed by two shards, and reclaimed.
pub fn commit_ring_turns() -> Work {
    let (mut producer, mut readers) = commit_ring::<u64>(128, 2);
    let mut batches: Vec<Arc<u64>> = (0..64).map(Arc::new).collect();
    Box::new(move || {
        batches.drain(..).for_each(|batch| producer.publish(batch).expect("there is room"));
        let mut sum = 0;
        for reader in &mut readers {
            let published = reader.published();
            reader.drain(published, |batch| sum += **batch as usize);
        }
        producer.reclaim(|batch| batches.push(batch));
        sum
    })
}

/// A batch of a hundred sets as prepare builds it for the log, its chain hash included.
fn build(builder: &mut BatchBuilder, first_zxid: u64, buffer: AlignedBuf) -> Batch {
    for i in 0..100 {
        let change = Change::SetData { path: "/tenant/service/node-0000000007", path_hash: 7, data: Some(&DATA), version: 1 };
        let txn = Txn { zxid: first_zxid + i, time_ms: 1, session: 1, origin: Origin::default(), op: Op::Change(change) };
        builder.push(&txn).expect("it fits");
    }
    builder.close(1, 0, 0, buffer)
}

pub fn log_batch() -> Work {
    let (mut builder, mut spare) = (BatchBuilder::default(), Some(AlignedBuf::with_capacity(BATCH_BYTES_POOLED)));
    let mut zxid = 1 << 32;
    Box::new(move || {
        let batch = build(&mut builder, zxid + 1, spare.take().expect("given back"));
        zxid += 100;
        let bytes = batch.frame().len();
        spare = Some(batch.into_buffer());
        bytes
    })
}

/// What a follower, and a restart, do with the bytes of a batch before they believe them.
pub fn check_batch() -> Work {
    let batch = build(&mut BatchBuilder::default(), (1 << 32) + 1, AlignedBuf::with_capacity(BATCH_BYTES_POOLED));
    let mut spare = Some(batch.into_buffer());
    Box::new(move || {
        let batch = Batch::check(spare.take().expect("given back")).expect("nobody has changed it");
        let count = batch.txns().len();
        spare = Some(batch.into_buffer());
        count
    })
}
