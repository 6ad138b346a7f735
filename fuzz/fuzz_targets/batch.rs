//! The check that every batch passes before it is read in place: its hash is made right first, so that the table and the
//! archives are what is doubted. Whatever passes can be read to the last byte.
#![no_main]

use falconer::limits::BLOCK_BYTES;
use falconer::wire::aligned::AlignedBuf;
use falconer::wire::batch::Batch;
use falconer::wire::txn::{ArchivedChange, ArchivedOp, ArchivedTxn};
use falconer_fuzz::sums;
use libfuzzer_sys::fuzz_target;

fn change(change: &ArchivedChange<'_>) -> usize {
    match change {
        ArchivedChange::Create { path, data, acl, .. } => {
            let acl: usize = acl.iter().flat_map(|list| list.iter()).map(|a| a.scheme.chars().count() + a.id.chars().count()).sum();
            path.chars().count() + data.iter().flat_map(|d| d.iter()).map(|b| usize::from(*b)).sum::<usize>() + acl
        }
        ArchivedChange::Delete { path, .. } | ArchivedChange::DeleteTree { path, .. } | ArchivedChange::CreateSkipped { path } => {
            path.chars().count()
        }
        ArchivedChange::SetData { path, data, .. } => path.chars().count() + data.iter().flat_map(|d| d.iter()).count(),
        ArchivedChange::SetAcl { path, acl, .. } => path.chars().count() + acl.iter().flat_map(|list| list.iter()).count(),
        ArchivedChange::Check | ArchivedChange::DeleteSkipped => 0,
    }
}

fn read(txn: &ArchivedTxn<'_>) -> usize {
    match &txn.op {
        ArchivedOp::Change(one) => change(one),
        ArchivedOp::Multi(changes) => changes.iter().map(change).sum(),
        ArchivedOp::MultiError { codes } => codes.iter().map(|c| c.to_native() as usize & 1).sum(),
        _ => 0,
    }
}

fuzz_target!(|data: &[u8]| {
    let mut buf = AlignedBuf::with_capacity(data.len().min(64 * BLOCK_BYTES));
    let len = data.len().min(buf.len());
    buf[..len].copy_from_slice(&data[..len]);
    sums::batch(&mut buf);
    if let Ok(batch) = Batch::check(buf) {
        std::hint::black_box(batch.txns().map(read).sum::<usize>());
        assert!(batch.frame().len() >= batch.bytes().len());
    }
});
