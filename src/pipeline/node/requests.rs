//! What a request becomes: a transaction if this server leads, a message to the leader if another one does.
//! Every write that gets this far takes a zxid, refused ones too. Refuses to decide what a change does: prepare knows.

use super::super::prepare::{Asker, Planned};
use super::*;
use crate::pipeline::message::op;
use crate::wire::request::{Request, opcode};
use crate::wire::response::code;
use crate::wire::txn::Change;

impl Node {
    /// A request that came up from a shard of ours.
    pub(super) fn request(&mut self, shard: u16, submit: &Submit<'_>, state: &State, now_ms: u64, wall_ms: i64) {
        let server = self.server();
        if self.proposes() && self.parked.is_empty() && self.has_room() {
            let origin = Origin { conn: submit.conn.0, sequence: submit.sequence, boot: self.config.boot, server, shard };
            return self.submit(&origin, submit, state, now_ms, wall_ms);
        }
        let mut record = Vec::new();
        Up::Submit(*submit).encode(&mut record);
        let record = &record[4..];
        match self.zab.standing() {
            Standing::Following { serving: true, .. } if self.parked.is_empty() => {
                self.forward(shard, submit, record);
                self.collect(now_ms);
            }
            _ => self.parked.push(server, self.config.boot, shard, record),
        }
    }

    /// Whether another request may go to the leader now.
    pub(super) fn forwards_more(&self) -> bool {
        self.forwarded.bytes() < self.config.waiting.forwarded_bytes_max || mutant!(M81)
    }

    /// A request of ours on its way to the leader.
    pub(super) fn forward(&mut self, shard: u16, submit: &Submit<'_>, record: &[u8]) {
        self.forwarded.sent(shard, submit.conn.0, submit.sequence, record.len());
        self.zab.forward(self.config.boot, shard, record);
    }

    /// A request as this leader orders it.
    pub(super) fn submit(&mut self, origin: &Origin, submit: &Submit<'_>, state: &State, now_ms: u64, wall_ms: i64) {
        if grows(submit.opcode) && self.zab.lacks_room() {
            return self.answer(origin, Answer::Refused { code: code::SYSTEM_ERROR });
        }
        match submit.opcode {
            op::CREATE_SESSION => self.create_session(origin, submit.body, now_ms, wall_ms),
            op::ATTACH_SESSION => self.attach_session(origin, submit, state, now_ms, wall_ms),
            _ if !self.owns(origin, submit.session, state) => self.answer(origin, Answer::Drop),
            opcode::SYNC | op::BARRIER => self.answer_after_barrier(origin),
            opcode::CLOSE_SESSION => {
                self.deadlines.remove(submit.session);
                self.close_session(submit.session, *origin, state, wall_ms);
            }
            _ => self.write(origin, submit, state, wall_ms),
        }
    }

    fn holder(&self, origin: &Origin) -> Holder {
        if origin.server == self.server() { Holder::Shard(origin.shard) } else { Holder::Server(origin.server) }
    }

    /// Whether the session is known and this connection is its owner, as proposed so far.
    fn owns(&self, origin: &Origin, session: i64, state: &State) -> bool {
        let owner = match self.moved.get(&session) {
            Some((_, owner)) => Some(*owner),
            None => state.session(session).map(|s| s.owner),
        };
        owner.is_some_and(|o| (o.conn, o.boot, o.server, o.shard) == (origin.conn, origin.boot, origin.server, origin.shard))
    }

    fn create_session(&mut self, origin: &Origin, body: &[u8], now_ms: u64, wall_ms: i64) {
        let (timeout_ms, password) = session_body(body);
        let zxid = self.next_zxid();
        let session = session_id(origin.server, zxid);
        let ours_ms = self.deadlines.turn(now_ms);
        self.deadlines.start(session, timeout_ms as u64, self.holder(origin), ours_ms);
        // Its time may be over before it is there.
        self.moved.insert(session, (zxid, *origin));
        self.propose(zxid, wall_ms, session, origin, Op::CreateSession { timeout_ms, password });
    }

    fn attach_session(&mut self, origin: &Origin, submit: &Submit<'_>, state: &State, now_ms: u64, wall_ms: i64) {
        let (timeout_ms, password) = session_body(submit.body);
        let zxid = self.next_zxid();
        let known = state.session(submit.session).is_some_and(|s| same_password(&s.password, &password));
        if !known || self.closing.contains_key(&submit.session) {
            return self.propose(zxid, wall_ms, submit.session, origin, Op::Error { code: code::SESSION_EXPIRED });
        }
        let ours_ms = self.deadlines.turn(now_ms);
        self.deadlines.start(submit.session, timeout_ms as u64, self.holder(origin), ours_ms);
        self.moved.insert(submit.session, (zxid, *origin));
        self.propose(zxid, wall_ms, submit.session, origin, Op::AttachSession { timeout_ms });
    }

    pub(super) fn close_session(&mut self, session: i64, origin: Origin, state: &State, wall_ms: i64) {
        let zxid = self.next_zxid();
        if self.closing.contains_key(&session) || state.session(session).is_none() && !self.moved.contains_key(&session) {
            return self.propose(zxid, wall_ms, session, &origin, Op::Error { code: code::SESSION_EXPIRED });
        }
        let asker = Asker { state, session, auth: &[], zxid, time_ms: wall_ms };
        self.prepare.close_session(&asker);
        self.closing.insert(session, zxid);
        self.propose(zxid, wall_ms, session, &origin, Op::CloseSession);
    }

    fn write(&mut self, origin: &Origin, submit: &Submit<'_>, state: &State, wall_ms: i64) {
        let zxid = self.next_zxid();
        if self.closing.contains_key(&submit.session) {
            return self.propose(zxid, wall_ms, submit.session, origin, Op::Error { code: code::SESSION_EXPIRED });
        }
        let request = Request::decode(submit.opcode, submit.body).expect("it was decoded where it came in");
        let asker = Asker { state, session: submit.session, auth: submit.auth, zxid, time_ms: wall_ms };
        if let Request::Multi(ops) = &request {
            match self.prepare.multi(&asker, ops.iter()) {
                Ok(planned) => {
                    let changes: Vec<Change<'_>> = planned.iter().map(Planned::change).collect();
                    self.propose(zxid, wall_ms, submit.session, origin, Op::Multi(changes));
                }
                Err(codes) => self.propose(zxid, wall_ms, submit.session, origin, Op::MultiError { codes }),
            }
            return;
        }
        match self.prepare.change(&asker, &request) {
            Ok(planned) => self.propose(zxid, wall_ms, submit.session, origin, Op::Change(planned.change())),
            Err(code) => self.propose(zxid, wall_ms, submit.session, origin, Op::Error { code }),
        }
    }

    /// Deletes what is due; age and emptiness are checked once more against what is proposed.
    pub(super) fn reap(&mut self, state: &State, wall_ms: i64) {
        let ReapConfig { interval_ms, per_minute_max, never_used_ms } = self.config.reap;
        let most = (per_minute_max as u64 * interval_ms / 60_000).max(1) as usize;
        let unused_before_ms = if never_used_ms > 0 { wall_ms - never_used_ms } else { i64::MIN };
        let candidates = state.idle_containers().chain(state.unused_containers(unused_before_ms)).chain(state.expired_ttl(wall_ms));
        let paths: Vec<String> = candidates.take(most).map(|node| node.path()).collect();
        for path in &paths {
            let zxid = self.next_zxid();
            let asker = Asker { state, session: 0, auth: &[], zxid, time_ms: wall_ms };
            if let Some(planned) = self.prepare.reap(&asker, path) {
                self.propose(zxid, wall_ms, 0, &Origin::default(), Op::Change(planned.change()));
            }
        }
    }
}

/// Timeout in ms and password, as a shard encodes them.
fn session_body(body: &[u8]) -> (i32, [u8; 16]) {
    let (timeout, password) = body.split_at(4);
    let timeout_ms = i32::from_be_bytes(timeout.try_into().expect("a shard's encoding"));
    (timeout_ms, password.try_into().expect("a shard's encoding"))
}

/// Compares all bytes whatever the first difference, so that timing says nothing.
pub fn same_password(a: &[u8; 16], b: &[u8; 16]) -> bool {
    a.iter().zip(b).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0
}

/// The id of the session that the transaction `zxid` creates: the server in the top byte (1 to 127, so that ids are
/// positive and never look like a TTL), the zxid below, which no other transaction ever has.
fn session_id(server: u16, zxid: u64) -> i64 {
    (i64::from(server & 0x7f) << 56) | (zxid & 0x00ff_ffff_ffff_ffff) as i64
}

/// Whether a request may take room on the disk for good.
fn grows(opcode: i32) -> bool {
    use crate::wire::extension::opcode::{REMOVE_RECURSIVE, TRY_REMOVE};
    let shrinks = matches!(opcode, opcode::DELETE | REMOVE_RECURSIVE | TRY_REMOVE | opcode::CLOSE_SESSION);
    !shrinks && !matches!(opcode, opcode::SYNC | op::BARRIER | op::ATTACH_SESSION)
}
