//! What comes back from the pipeline: committed batches, applied in order, and answers that are not transactions.
//! Watch events go out first, then the reply, from the connection that asked. Refuses to skip or reorder anything.

use super::super::conn::{Conn, Pending, Phase, Submitted};
use super::super::message::{Answer, ConnId, Down, op::BARRIER};
use super::{Deferred, Replica};
use crate::tree::{Applied, OpResult, Want};
use crate::wire::batch::Batch;
use crate::wire::jute;
use crate::wire::request::opcode;
use crate::wire::response::{self, code};
use crate::wire::txn::{ArchivedChange, ArchivedOp, ArchivedOrigin, ArchivedTxn};

impl Replica {
    /// Applies a committed batch: state, watch events, replies, in this order for every transaction. Answers that were
    /// sent before the batch was published must have been given to `down` already: some belong between its transactions.
    pub fn apply(&mut self, batch: &Batch) {
        let mut applied = Applied::default();
        for txn in batch.txns() {
            let own = self.is_own(&txn.origin);
            let want = Want { results: own, paths: !self.watches.is_empty() };
            self.state.apply(txn, &mut applied, want);
            self.settle_session(txn, own);
            if want.paths {
                self.fire(txn.zxid.to_native(), &applied);
            }
            if own {
                let id = ConnId(txn.origin.conn.to_native());
                self.with_conn(id, |replica, conn| replica.complete(conn, txn, &applied));
            }
            self.release_deferred();
        }
        if !self.parked.is_empty() {
            self.unpark();
        }
    }

    fn is_own(&self, origin: &ArchivedOrigin) -> bool {
        origin.boot == self.config.boot && origin.server == self.config.server && origin.shard == self.config.shard
    }

    /// Connections that hold a session which ended, or moved to another connection, close.
    fn settle_session(&mut self, txn: &ArchivedTxn<'_>, own: bool) {
        let session = txn.session.to_native();
        let ended = match &txn.op {
            ArchivedOp::CloseSession => true,
            ArchivedOp::AttachSession { .. } => false,
            _ => return,
        };
        let Some(&id) = self.sessions.get(&session) else { return };
        let asker = own && id.0 == txn.origin.conn;
        if asker {
            return;
        }
        self.with_conn(id, |replica, conn| {
            let why = if ended { "expired or was closed elsewhere" } else { "moved to another connection" };
            tracing::info!("{}: session 0x{session:x} {why}, closed", conn.peer);
            replica.close(conn);
        });
    }

    /// Answers the request whose transaction was just applied, then what was waiting behind it.
    fn complete(&mut self, conn: &mut Conn, txn: &ArchivedTxn<'_>, applied: &Applied<'_>) {
        let Some(Submitted { xid, opcode: op, at_ms, .. }) = self.take_submitted(conn, txn.origin.sequence.to_native()) else { return };
        let zxid = txn.zxid.to_native();
        self.lend_output(conn);
        let out = &mut conn.output;
        match &txn.op {
            ArchivedOp::CreateSession { .. } | ArchivedOp::AttachSession { .. } => self.attached(conn, txn.session.to_native()),
            ArchivedOp::Error { .. } if conn.phase == Phase::Attaching => self.refuse_session(conn),
            ArchivedOp::Error { code } => {
                response::reply(out, xid, zxid, code.to_native());
                self.figures.writes_refused.count(code.to_native());
            }
            ArchivedOp::MultiError { codes } => {
                let codes = codes.iter().map(|c| c.to_native());
                response::multi_refused(out, xid, zxid, codes.clone());
                codes.for_each(|code| self.figures.writes_refused.count(code));
            }
            ArchivedOp::Multi(changes) => {
                let mark = response::begin_reply(out, xid, zxid, code::OK);
                for (change, result) in changes.iter().zip(&applied.results) {
                    response::multi_header(out, multi_kind(change), false, code::OK);
                    result_body(out, change, result);
                }
                response::multi_end(out);
                response::end_frame(out, mark);
            }
            ArchivedOp::Change(change) => {
                let mark = response::begin_reply(out, xid, zxid, code::OK);
                result_body(out, change, &applied.results[0]);
                response::end_frame(out, mark);
            }
            ArchivedOp::CloseSession => {
                response::reply(out, xid, zxid, code::OK);
                self.answered(conn, xid, op, at_ms);
                return self.close(conn);
            }
            ArchivedOp::NewEpoch { .. } => unreachable!("an epoch has no origin"),
        }
        self.answered(conn, xid, op, at_ms);
        self.run(conn);
    }

    /// The head of the FIFO, if it is this submit. A connection that is closing has none.
    fn take_submitted(&mut self, conn: &mut Conn, wanted: u32) -> Option<Submitted> {
        if conn.phase == Phase::Closing {
            return None;
        }
        let Some(Pending::Submitted(submitted)) = conn.pending.pop_front() else {
            panic!("connection {:?} has no submit at the head of its FIFO for answer {wanted}", conn.id)
        };
        assert_eq!(submitted.sequence, wanted, "answers come in the order of submits");
        self.figures.outstanding -= 1;
        Some(submitted)
    }

    /// Answers held requests up to the next submit: now, so that they see no write behind them.
    pub(super) fn answer_held(&mut self, conn: &mut Conn) {
        while let Some((frame, ids, at_ms)) = conn.next_held() {
            self.figures.outstanding -= 1;
            self.answer(conn, &frame, &ids, at_ms);
        }
    }

    /// What is not a transaction.
    pub fn down(&mut self, message: Down) {
        match message {
            Down::Route { number, open } => self.reroute(number, open),
            Down::Answer { conn, sequence, after, what } => {
                self.deferred.push_back(Deferred { conn, sequence, after, what });
                self.release_deferred();
            }
        }
    }

    fn release_deferred(&mut self) {
        let applied = self.state.applied();
        while let Some(message) = self.deferred.pop_front_if(|m| m.after <= applied) {
            self.with_conn(message.conn, |replica, conn| replica.answer_down(conn, &message));
        }
    }

    fn answer_down(&mut self, conn: &mut Conn, message: &Deferred) {
        let Some(submitted) = self.take_submitted(conn, message.sequence) else { return };
        let Submitted { xid, opcode: op, at_ms, echo_bytes, .. } = submitted;
        let echo = conn.take_held(echo_bytes);
        let zxid = self.state.applied();
        match message.what {
            Answer::Synced if op == BARRIER => return self.run(conn),
            Answer::Drop => return self.close(conn),
            Answer::Refused { .. } if conn.phase == Phase::Attaching => return self.close(conn),
            Answer::Refused { code } => {
                response::reply(&mut conn.output, xid, zxid, code);
                self.figures.writes_refused.count(code);
            }
            Answer::Synced => {
                let mark = response::begin_reply(&mut conn.output, xid, zxid, code::OK);
                conn.output.extend_from_slice(&echo);
                response::end_frame(&mut conn.output, mark);
            }
        }
        self.answered(conn, xid, op, at_ms);
        self.run(conn);
    }
}

/// The record of a successful change.
fn result_body(out: &mut Vec<u8>, change: &ArchivedChange<'_>, result: &OpResult) {
    if let ArchivedChange::Create { path, .. } | ArchivedChange::CreateSkipped { path } = change {
        jute::write_string(out, path);
    }
    match result {
        OpResult::Created { stat: Some(stat) } | OpResult::DataSet { stat } | OpResult::AclSet { stat } => stat.encode(out),
        OpResult::Created { stat: None } | OpResult::Deleted | OpResult::Checked => {}
        OpResult::Error(code) => unreachable!("a change that was made has no error, not even {code}"),
    }
}

/// The type of a result inside a multi; creates that return a Stat all look like create2 (T03). Extensions are answered
/// as what they vary: clients that go by the type find records that they know.
fn multi_kind(change: &ArchivedChange<'_>) -> i32 {
    match change {
        ArchivedChange::Create { with_stat: false, .. } | ArchivedChange::CreateSkipped { .. } => opcode::CREATE,
        ArchivedChange::Create { .. } => opcode::CREATE2,
        ArchivedChange::Delete { .. } | ArchivedChange::DeleteTree { .. } | ArchivedChange::DeleteSkipped => opcode::DELETE,
        ArchivedChange::SetData { .. } => opcode::SET_DATA,
        ArchivedChange::SetAcl { .. } => unreachable!("no multi has a setACL"),
        ArchivedChange::Check => opcode::CHECK,
    }
}
