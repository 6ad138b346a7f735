//! The Node between its shards and the other servers: requests that wait for a leader, answers that wait for proof that we
//! still lead, who was heard from, and what replication wants done. Refuses to elect, commit or cut: `zab` does.

use super::waiting::ParkedRequest;
use super::*;
use crate::mutant;
use crate::wire::raw_batch::RawBatch;
use crate::zab::message::{AnswerCode, BadMessage, Message, frame_len};
use crate::zab::{Change, Effect};
use std::collections::BTreeSet;

/// An answer on its way back, not before a quorum has confirmed heartbeat `round`.
pub(super) struct Pending {
    round: u64,
    origin: Origin,
    after: u64,
    what: Answer,
}

/// Sessions heard from on a follower, and how far its sockets are drained.
pub(super) struct Touches {
    sessions: BTreeSet<i64>,
    /// Per shard, in our clock.
    drained_ms: Vec<u64>,
    /// The leader's heartbeat that the next report can speak for, and when it came.
    heard: Option<(u64, u64)>,
    reported: u64,
}

impl Touches {
    pub fn new(shards: usize) -> Touches {
        Touches { sessions: BTreeSet::new(), drained_ms: vec![0; shards], heard: None, reported: 0 }
    }

    pub fn heard(&mut self, session: i64) {
        self.sessions.insert(session);
    }

    pub fn drained(&mut self, shard: u16, at_ms: u64) {
        let drained = &mut self.drained_ms[usize::from(shard)];
        *drained = (*drained).max(at_ms);
    }

    /// A report for the leader, if every shard has drained its sockets since a heartbeat came.
    fn report(&mut self, round: u64, now_ms: u64) -> Option<(u64, Vec<i64>)> {
        if round != self.reported && self.heard.is_none() {
            self.heard = Some((round, now_ms));
        }
        let (round, at_ms) = self.heard?;
        if self.drained_ms.iter().any(|drained_ms| *drained_ms < at_ms) {
            return None;
        }
        self.heard = None;
        self.reported = round;
        let sessions = std::mem::take(&mut self.sessions);
        Some((round, if mutant!(M35) { Vec::new() } else { sessions.into_iter().collect() }))
    }

    /// Another leader counts its own heartbeats. What was heard still counts.
    fn restart(&mut self) {
        self.heard = None;
        self.reported = 0;
    }
}

impl Node {
    // ---- other servers

    /// A fresh connection to `peer`.
    pub fn peer_up(&mut self, peer: u16, now_ms: u64) {
        self.zab.peer_up(peer, now_ms);
        self.collect(now_ms);
    }

    pub fn peer_down(&mut self, peer: u16, now_ms: u64) {
        self.parked.forget(peer);
        self.zab.peer_down(peer, now_ms);
        self.collect(now_ms);
    }

    /// Whole frames at the start of what `peer` sent. Returns how many bytes they took; None: close the connection.
    pub fn peer_bytes(&mut self, peer: u16, bytes: &[u8], state: &State, now_ms: u64, wall_ms: i64) -> Option<usize> {
        let mut used = 0;
        loop {
            let len = match frame_len(&bytes[used..]) {
                Ok(Some(len)) => len,
                Ok(None) => return Some(used),
                Err(bad) => return self.bad_peer(peer, &bad),
            };
            let message = Message::decode(&bytes[used + 4..used + len]);
            used += len;
            self.receive(peer, message, state, now_ms, wall_ms)?;
        }
    }

    /// One frame of `peer`, without its length, whose batch, if it brings one, was received into a buffer of its own.
    /// None: close the connection.
    pub fn peer_frame(
        &mut self,
        peer: u16,
        fields: &[u8],
        batch: Option<RawBatch>,
        state: &State,
        now_ms: u64,
        wall_ms: i64,
    ) -> Option<()> {
        let message = match batch {
            Some(batch) => Message::with_batch(fields, batch),
            None => Message::decode(fields),
        };
        self.receive(peer, message, state, now_ms, wall_ms)
    }

    fn receive(&mut self, peer: u16, message: Result<Message<'_>, BadMessage>, state: &State, now_ms: u64, wall_ms: i64) -> Option<()> {
        let message = match message {
            Ok(message) => message,
            Err(bad) => return self.bad_peer(peer, &bad).map(drop),
        };
        if let Some(message) = self.zab.receive(peer, message, now_ms) {
            self.peer_message(peer, &message, state, now_ms, wall_ms)?;
        }
        self.collect(now_ms);
        Some(())
    }

    fn bad_peer(&self, peer: u16, why: &dyn std::fmt::Display) -> Option<usize> {
        tracing::error!("server {peer} sent something that is no message: {why}; the connection is closed");
        None
    }

    fn peer_message(&mut self, peer: u16, message: &Message<'_>, state: &State, now_ms: u64, wall_ms: i64) -> Option<()> {
        match message {
            Message::Forward { boot, shard, submit: record, .. } => {
                let Some(submit) = Submit::from_peer(record) else { return self.bad_peer(peer, &"a request").map(drop) };
                if self.proposes() && self.parked.is_empty() && self.has_room() {
                    let origin = Origin { conn: submit.conn.0, sequence: submit.sequence, boot: *boot, server: peer, shard: *shard };
                    self.submit(&origin, &submit, state, now_ms, wall_ms);
                } else if self.parked.bytes_of(peer) <= self.config.waiting.forwarded_bytes_max {
                    self.parked.push(peer, *boot, *shard, record);
                } else {
                    // It keeps to a window of its own, so these are requests of several tries to follow.
                    let why = "it forwards more than a leader holds for it";
                    self.effects.push_back(NodeEffect::Disconnect { peer, why });
                }
            }
            Message::Answer { boot, .. } if *boot != self.config.boot => {}
            Message::Answer { shard, conn, sequence, after, code, .. } if usize::from(*shard) < self.config.shards => {
                let what = match code {
                    AnswerCode::Refused(code) => Answer::Refused { code: *code },
                    AnswerCode::Drop => Answer::Drop,
                    AnswerCode::Synced => Answer::Synced,
                };
                self.forwarded.done(*shard, *conn, *sequence);
                let message = Down::Answer { conn: ConnId(*conn), sequence: *sequence, after: *after, what };
                self.effects.push_back(NodeEffect::Down { shard: *shard, message });
            }
            Message::Touch { round, sessions, .. } => {
                let ours_ms = self.deadlines.turn(now_ms);
                sessions.iter().for_each(|session| self.deadlines.touch(*session, Holder::Server(peer), ours_ms));
                if let Some(sent_ms) = self.zab.round_sent_ms(*round) {
                    self.deadlines.report(Holder::Server(peer), sent_ms);
                }
            }
            _ => return self.bad_peer(peer, &"a message out of place").map(drop),
        }
        Some(())
    }

    /// Takes on what had to wait, if it need not wait any longer.
    pub(super) fn unpark(&mut self, state: &State, now_ms: u64, wall_ms: i64) {
        while !self.parked.is_empty() {
            let forwards = matches!(self.zab.standing(), Standing::Following { serving: true, .. });
            let may = if forwards { self.forwards_more() } else { self.proposes() && self.has_room() };
            if !may {
                return;
            }
            let Some(ParkedRequest { server, boot, shard, record }) = self.parked.pop() else { return };
            if !forwards {
                let Up::Submit(submit) = Up::decode(&record) else { unreachable!("only submits are parked") };
                let origin = Origin { conn: submit.conn.0, sequence: submit.sequence, boot, server, shard };
                self.submit(&origin, &submit, state, now_ms, wall_ms);
            } else if server == self.server() {
                let Up::Submit(submit) = Up::decode(&record) else { unreachable!("only submits are parked") };
                self.forward(shard, &submit, &record);
            }
        }
        self.collect(now_ms);
    }

    // ---- answers

    /// An answer that is no transaction, in the order of the requests.
    pub(super) fn answer(&mut self, origin: &Origin, what: Answer) {
        self.pending.push_back(Pending { round: 0, origin: *origin, after: self.last_proposed, what });
        self.release_answers(None);
    }

    /// `sync`: answered once a quorum has confirmed that we still led after it came (a read index), so that a later read
    /// shows everything that anybody was told before. ZooKeeper answers at once, even when it has been deposed.
    pub(super) fn answer_after_barrier(&mut self, origin: &Origin) {
        let round = if mutant!(M37) { 0 } else { self.zab.barrier() };
        self.pending.push_back(Pending { round, origin: *origin, after: self.last_proposed, what: Answer::Synced });
    }

    /// Gives out answers whose barrier is passed, and all those that belong before the transaction `before`: that it is
    /// committed proves the barrier too.
    fn release_answers(&mut self, before: Option<u64>) {
        let confirmed = if self.pending.is_empty() { 0 } else { self.zab.confirmed() };
        while let Some(Pending { origin, after, what, .. }) =
            self.pending.pop_front_if(|p| p.round <= confirmed || before.is_some_and(|zxid| p.after < zxid))
        {
            if origin.server == self.server() {
                let message = Down::Answer { conn: ConnId(origin.conn), sequence: origin.sequence, after, what };
                self.effects.push_back(NodeEffect::Down { shard: origin.shard, message });
                continue;
            }
            let code = match what {
                Answer::Refused { code } => AnswerCode::Refused(code),
                Answer::Drop => AnswerCode::Drop,
                Answer::Synced => AnswerCode::Synced,
            };
            if let Some(message) = self.zab.answer(&origin, after, code) {
                self.effects.push_back(NodeEffect::Send { peer: origin.server, message });
            }
        }
    }

    // ---- what replication wants

    /// The end of a turn: commits, heartbeats, acknowledgements and reports go out.
    pub fn flush(&mut self, now_ms: u64) {
        if self.zab.wants_renewal() && self.builder.is_empty() && self.closed.is_empty() {
            self.zab.renew(now_ms);
        }
        if self.leaving && self.is_settled() {
            self.zab.step_down(now_ms);
        }
        if self.zab.is_yielding() && self.is_settled() {
            self.zab.yield_to_others(now_ms);
        }
        if let Standing::Following { serving: true, .. } = self.zab.standing()
            && let Some((round, sessions)) = self.touches.report(self.zab.heard_round(), now_ms)
        {
            self.zab.touch(round, sessions);
        }
        self.send_ahead(now_ms);
        self.zab.flush(now_ms);
        self.collect(now_ms);
        self.release_answers(None);
        self.collect(now_ms);
    }

    /// Moves the effects of replication to ours.
    pub(super) fn collect(&mut self, now_ms: u64) {
        while let Some(effect) = self.zab.next_effect() {
            let ours = match effect {
                Effect::Commit(batch) => {
                    self.commit(batch);
                    continue;
                }
                Effect::Change(change) => {
                    self.change(change, now_ms);
                    continue;
                }
                Effect::Send { peer, message } => NodeEffect::Send { peer, message },
                Effect::Disconnect { peer, why } => NodeEffect::Disconnect { peer, why },
                Effect::Promise(promise) => NodeEffect::Promise(promise),
                Effect::Truncate(to) => NodeEffect::Truncate(to),
                Effect::Feed { after, token } => NodeEffect::Feed { after, token },
                Effect::ReadSnapshot { peer, pointer, offset } => NodeEffect::ReadSnapshot { peer, pointer, offset },
                Effect::WriteSnapshot { pointer, offset, bytes, last } => NodeEffect::WriteSnapshot { pointer, offset, bytes, last },
            };
            self.effects.push_back(ours);
        }
    }

    fn commit(&mut self, batch: Arc<Batch>) {
        let zxid = batch.position().zxid;
        self.release_answers(Some(if mutant!(M45) { batch.header().first_zxid } else { zxid }));
        while let Some((_, bytes)) = self.proposed.pop_front_if(|(proposed, _)| *proposed <= zxid) {
            self.proposed_bytes -= bytes;
        }
        self.count_answered(&batch);
        self.effects.push_back(NodeEffect::Publish(batch));
    }

    /// Requests of ours that the leader made transactions of are with it no more.
    fn count_answered(&mut self, batch: &Batch) {
        if self.forwarded.is_empty() {
            return;
        }
        for origin in batch.txns().map(|txn| &txn.origin) {
            if (origin.server.to_native(), origin.boot.to_native()) == (self.server(), self.config.boot) {
                self.forwarded.done(origin.shard.to_native(), origin.conn.to_native(), origin.sequence.to_native());
            }
        }
    }

    fn change(&mut self, change: Change, now_ms: u64) {
        match change {
            Change::Lead { epoch } => {
                self.begin_epoch(epoch);
                self.found_leader();
            }
            Change::Follow { .. } => {
                self.touches.restart();
                self.found_leader();
            }
            Change::Lost => {
                if self.leading.take().is_some() {
                    self.drop_proposals();
                    self.drop_ahead();
                    self.clocks_run = false;
                }
                self.pending.clear();
                self.parked.clear();
                self.forwarded.clear();
                self.leaderless_since_ms = Some(now_ms);
                if !mutant!(M44) {
                    self.route = self.route.wrapping_add(1);
                    self.tell_route();
                }
            }
        }
    }

    fn found_leader(&mut self) {
        self.leaderless_since_ms = None;
        if std::mem::take(&mut self.shut) {
            self.tell_route();
        }
    }

    fn tell_route(&mut self) {
        let message = Down::Route { number: self.route, open: !self.shut };
        for shard in 0..self.config.shards {
            self.effects.push_back(NodeEffect::Down { shard: shard as u16, message });
        }
    }

    /// Clients of a server that has had no leader for long, or whose log has taken nothing from its leader for as long, are
    /// better off elsewhere: what they write would not be answered here.
    pub(super) fn shut_if_useless(&mut self, now_ms: u64) {
        let leaderless_ms = self.leaderless_since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
        let stalls_ms = self.zab.log_stalls_ms();
        if self.leaderless_since_ms.is_none() && stalls_ms == 0 {
            return self.found_leader();
        }
        if leaderless_ms.max(stalls_ms) >= self.config.leaderless_ms && !self.shut {
            if self.leaderless_since_ms.is_none() {
                crate::mark!("a follower whose log stands still sends its clients away");
                tracing::warn!("the log has taken nothing for {stalls_ms} ms: clients are sent to other servers");
            }
            self.shut = true;
            self.route = self.route.wrapping_add(1);
            self.parked.clear();
            self.tell_route();
        }
    }

    // ---- completions of background work

    /// See [`NodeEffect::Feed`]; None: the log does not reach back so far any more.
    pub fn fed(&mut self, token: u64, batches: Option<Vec<Batch>>, now_ms: u64) {
        self.zab.fed(token, batches, now_ms);
        self.collect(now_ms);
    }

    /// See [`NodeEffect::ReadSnapshot`]; None: the file is gone.
    pub fn snapshot_read(&mut self, peer: u16, pointer: SnapshotPointer, offset: u64, bytes: Option<&[u8]>, now_ms: u64) {
        self.zab.snapshot_read(peer, pointer, offset, bytes);
        self.collect(now_ms);
    }

    /// See [`NodeEffect::WriteSnapshot`]. `end`: where the next part begins; None: it could not be stored.
    pub fn snapshot_wrote(&mut self, pointer: SnapshotPointer, end: Option<u64>, now_ms: u64) {
        match end {
            Some(end) => self.zab.snapshot_wrote(pointer, end),
            None => self.zab.snapshot_failed(),
        }
        self.collect(now_ms);
    }

    /// The snapshot is our history now, and every shard has its State.
    pub fn installed(&mut self, pointer: SnapshotPointer, now_ms: u64) {
        self.forwarded.clear();
        self.zab.installed(pointer, now_ms);
        self.collect(now_ms);
    }
}
