//! What every node held at every zxid, read off the committed batches by a few lines that share nothing with `tree`.
//! Answers "what should this read have returned". Refuses to model lists, counters and access control.

use crate::wire::batch::Batch;
use crate::wire::txn::{ArchivedChange, ArchivedOp, ArchivedTxn};
use std::collections::BTreeMap;

/// What a node held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    pub data: Vec<u8>,
    pub version: i32,
    owner: i64,
}

/// The values of all paths over time.
#[derive(Default)]
pub struct History {
    paths: BTreeMap<String, Vec<(u64, Option<Value>)>>,
}

impl History {
    /// Adds a committed batch.
    pub fn observe(&mut self, batch: &Batch) {
        batch.txns().for_each(|txn| self.observe_txn(txn));
    }

    fn observe_txn(&mut self, txn: &ArchivedTxn<'_>) {
        let zxid = txn.zxid.to_native();
        match &txn.op {
            ArchivedOp::Change(change) => self.change(zxid, change),
            ArchivedOp::Multi(changes) => changes.iter().for_each(|change| self.change(zxid, change)),
            ArchivedOp::CloseSession => self.close(zxid, txn.session.to_native()),
            _ => {}
        }
    }

    fn change(&mut self, zxid: u64, change: &ArchivedChange<'_>) {
        match change {
            ArchivedChange::Create { path, data, owner, .. } => {
                let data = data.as_ref().map_or(Vec::new(), |d| d.to_vec());
                self.record(path, zxid, Some(Value { data, version: 0, owner: owner.to_native() }));
            }
            ArchivedChange::Delete { path, .. } => self.record(path, zxid, None),
            ArchivedChange::SetData { path, data, version, .. } => {
                let owner = self.at(path, u64::MAX).map_or(0, |v| v.owner);
                let data = data.as_ref().map_or(Vec::new(), |d| d.to_vec());
                self.record(path, zxid, Some(Value { data, version: version.to_native(), owner }));
            }
            ArchivedChange::SetAcl { .. } | ArchivedChange::Check => {}
        }
    }

    fn close(&mut self, zxid: u64, session: i64) {
        let latest =
            |versions: &[(u64, Option<Value>)]| versions.last().is_some_and(|(_, v)| v.as_ref().is_some_and(|v| v.owner == session));
        let owned: Vec<String> = self.paths.iter().filter(|(_, versions)| latest(versions)).map(|(path, _)| path.clone()).collect();
        owned.iter().for_each(|path| self.record(path, zxid, None));
    }

    fn record(&mut self, path: &str, zxid: u64, value: Option<Value>) {
        self.paths.entry(path.to_string()).or_default().push((zxid, value));
    }

    /// The node at `path` as of `zxid`.
    pub fn at(&self, path: &str, zxid: u64) -> Option<&Value> {
        let versions = self.paths.get(path)?;
        let until = versions.partition_point(|(at, _)| *at <= zxid);
        versions[..until].last()?.1.as_ref()
    }

    /// Whether anything happened to `path` after `from` and up to `to`.
    pub fn changed(&self, path: &str, from: u64, to: u64) -> bool {
        self.paths.get(path).is_some_and(|versions| versions.iter().any(|(at, _)| *at > from && *at <= to))
    }
}
