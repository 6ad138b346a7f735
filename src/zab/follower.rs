//! Following: promise the epoch, say what is on the medium, cut or fetch what the leader says, then take its batches in
//! order and acknowledge what the disk has confirmed. Refuses to acknowledge anything else, and to cut what is committed.

use super::message::{Message, Sync};
use super::positions::epoch as epoch_of;
use super::{Change, Effect, Role, Zab};
use crate::limits::SNAPSHOT_CHUNK_BYTES;
use crate::log::snapshot::SnapshotPointer;
use crate::mutant;
use crate::wire::batch::{Batch, Position};
use crate::wire::raw_batch::RawBatch;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// The promise, or what the log was given before, is on its way to the medium.
    Promising,
    /// The leader knows what we have.
    Joined,
    /// Fetching a snapshot.
    Snapshot(SnapshotPointer),
    /// Takes batches.
    Active,
}

pub(super) struct Follower {
    pub epoch: u32,
    pub leader: u16,
    /// Names this try to follow: what the leader says for an earlier one rests on an older log.
    attempt: u64,
    stage: Stage,
    /// What the leader says is committed; may be ahead of our log.
    told: u64,
    round: u64,
    pub heard_ms: u64,
    /// When catching up got further.
    progress_ms: u64,
    pub ack_due: bool,
    /// Its (e,0) is committed here.
    pub serving: bool,
}

impl Zab {
    /// Turns to `leader`. A leader that only renews its epoch is no loss for clients.
    pub(super) fn follow(&mut self, leader: u16, epoch: u32) {
        if !self.follows(leader) && !matches!(self.role, Role::Looking(_)) {
            self.look(true);
        }
        self.queue.clear();
        let heard_ms = self.now_ms + self.config.election_timeout_ms;
        let attempt = self.roll(u64::MAX);
        self.role = Role::Follower(Follower {
            epoch,
            leader,
            attempt,
            stage: Stage::Promising,
            told: 0,
            round: 0,
            heard_ms,
            progress_ms: heard_ms,
            ack_due: false,
            serving: false,
        });
    }

    /// Tells the leader what we have, once that and the promise are on the medium.
    pub(super) fn ack_epoch(&mut self) {
        let settled = (self.settled() || mutant!(M02)) && (self.promising.is_none() || mutant!(M22));
        let promised = self.promise.epoch;
        let Role::Follower(follower) = &mut self.role else { return };
        if follower.stage != Stage::Promising || !settled || promised != follower.epoch && !mutant!(M22) {
            return;
        }
        follower.stage = Stage::Joined;
        follower.progress_ms = self.now_ms;
        let (leader, epoch, attempt) = (follower.leader, follower.epoch, follower.attempt);
        let (member, table) = (self.promise.member || mutant!(M24), self.positions.epochs());
        self.send(leader, &Message::AckEpoch { epoch, attempt, granted: true, member, promised, table });
    }

    pub(super) fn follower_tick(&mut self) {
        let silent_ms = self.config.election_timeout_ms;
        if matches!(&self.role, Role::Follower(f) if self.now_ms >= f.heard_ms + silent_ms) {
            crate::mark!("a follower gives its leader up for silence");
            return self.look(true);
        }
        self.start_over_if_stuck();
    }

    /// The leader is there, but catching up with it gets nowhere. What our own disk takes is not its fault.
    fn start_over_if_stuck(&mut self) {
        let (now_ms, stall_ms, storing) = (self.now_ms, self.config.join_stall_ms, self.storing);
        let Role::Follower(follower) = &mut self.role else { return };
        let caught_up = follower.serving && follower.stage == Stage::Active;
        if caught_up || storing || follower.stage == Stage::Promising {
            follower.progress_ms = now_ms;
        } else if now_ms >= follower.progress_ms + stall_ms {
            crate::mark!("a follower that gets nowhere starts over");
            follower.progress_ms = now_ms;
            self.effects.push_back(Effect::Disconnect { peer: follower.leader, why: "catching up with it gets nowhere" });
        }
    }

    /// The follower of this leader in this epoch, in a stage where it listens.
    fn following(&mut self, peer: u16, epoch: u32) -> Option<&mut Follower> {
        let Role::Follower(follower) = &mut self.role else { return None };
        (follower.leader == peer && follower.epoch == epoch && follower.stage != Stage::Promising).then_some(follower)
    }

    pub(super) fn sync_start(&mut self, peer: u16, epoch: u32, attempt: u64, sync: Sync) {
        let now_ms = self.now_ms;
        let Some(follower) = self.following(peer, epoch) else { return };
        follower.heard_ms = now_ms;
        if follower.attempt != attempt && !mutant!(M80) {
            return;
        }
        follower.progress_ms = now_ms;
        match sync {
            Sync::Diff => follower.stage = Stage::Active,
            Sync::Trunc(to) => self.cut(peer, epoch, to),
            Sync::Snap(pointer) => self.fetch(peer, epoch, pointer),
        }
    }

    fn cut(&mut self, peer: u16, epoch: u32, to: Position) {
        if mutant!(M15) {
            self.following(peer, epoch).expect("it was just asked").stage = Stage::Active;
            return;
        }
        if !self.positions.has(to) {
            return self.send(peer, &Message::NeedSnapshot { epoch });
        }
        assert!(to.zxid >= self.committed, "told to cut 0x{:x}, which is committed: a leader without it must not exist", self.committed);
        assert!(self.settled(), "the leader was told what is on the medium");
        self.forget_after(to);
        self.durable = to;
        self.effects.push_back(Effect::Truncate(to));
        if let Some(follower) = self.following(peer, epoch) {
            follower.stage = Stage::Active;
        }
    }

    fn fetch(&mut self, peer: u16, epoch: u32, pointer: SnapshotPointer) {
        if pointer.position.zxid < self.committed {
            // The leader's next snapshot will be newer; until then it has nothing for us.
            self.effects.push_back(Effect::Disconnect { peer, why: "its snapshot is older than what is committed here" });
            return;
        }
        let offset = match self.incoming {
            Some((known, offset)) if known == pointer && offset < pointer.bytes => offset,
            _ => 0,
        };
        self.incoming = Some((pointer, offset));
        let Some(follower) = self.following(peer, epoch) else { return };
        follower.stage = Stage::Snapshot(pointer);
        self.send(peer, &Message::SnapshotWanted { epoch, zxid: pointer.position.zxid, offset });
    }

    pub(super) fn snapshot_chunk(&mut self, peer: u16, epoch: u32, zxid: u64, offset: u64, bytes: &[u8]) {
        let now_ms = self.now_ms;
        let (incoming, storing) = (self.incoming, self.storing);
        let Some(follower) = self.following(peer, epoch) else { return };
        follower.heard_ms = now_ms;
        let Stage::Snapshot(pointer) = follower.stage else { return };
        if pointer.position.zxid != zxid || incoming != Some((pointer, offset)) || storing || bytes.len() > SNAPSHOT_CHUNK_BYTES {
            return;
        }
        let end = offset + bytes.len() as u64;
        if end > pointer.bytes {
            return self.effects.push_back(Effect::Disconnect { peer, why: "a snapshot longer than announced" });
        }
        self.storing = true;
        self.effects.push_back(Effect::WriteSnapshot { pointer, offset, bytes: bytes.to_vec(), last: end == pointer.bytes });
    }

    /// A part of the incoming snapshot is in its file; `end` is where the next one begins.
    pub fn snapshot_wrote(&mut self, pointer: SnapshotPointer, end: u64) {
        self.storing = false;
        self.ack_epoch();
        if self.incoming.is_none_or(|(known, _)| known != pointer) {
            return;
        }
        self.incoming = Some((pointer, end));
        if end < pointer.bytes
            && let Role::Follower(follower) = &self.role
            && follower.stage == Stage::Snapshot(pointer)
        {
            let (leader, epoch) = (follower.leader, follower.epoch);
            self.send(leader, &Message::SnapshotWanted { epoch, zxid: pointer.position.zxid, offset: end });
        }
    }

    /// The incoming snapshot is not what was announced, or the disk has no room: from the start, on a new connection.
    pub fn snapshot_failed(&mut self) {
        self.incoming = None;
        self.storing = false;
        self.ack_epoch();
        if let Role::Follower(follower) = &self.role {
            self.effects.push_back(Effect::Disconnect { peer: follower.leader, why: "its snapshot could not be stored" });
        }
    }

    /// The snapshot is this server's history now, durably; whatever the log held is gone.
    pub fn installed(&mut self, pointer: SnapshotPointer, now_ms: u64) {
        self.now_ms = now_ms;
        crate::mark!("a snapshot from the leader was installed");
        self.incoming = None;
        self.storing = false;
        self.snapshot = Some(pointer);
        self.positions.restart(pointer.position);
        self.durable = pointer.position;
        self.committed = self.committed.max(pointer.position.zxid);
        self.published = self.committed;
        self.recent.clear();
        self.unconfirmed.clear();
        self.unconfirmed_bytes = 0;
        self.queue.clear();
        if let Role::Follower(follower) = &mut self.role
            && follower.stage == Stage::Snapshot(pointer)
        {
            follower.stage = Stage::Active;
            follower.ack_due = true;
        }
        self.advance_follower();
        self.ack_epoch();
    }

    /// A batch, a commit or a heartbeat.
    pub(super) fn append(&mut self, peer: u16, epoch: u32, committed: u64, round: u64, batch: Option<RawBatch>) {
        let now_ms = self.now_ms;
        let Some(follower) = self.following(peer, epoch) else { return };
        follower.heard_ms = now_ms;
        follower.told = follower.told.max(committed);
        if follower.round != round {
            follower.round = round;
            follower.ack_due = true;
        }
        let active = follower.stage == Stage::Active;
        if let Some(batch) = batch {
            // Before the logs agree a batch belongs to an earlier try to follow.
            if active {
                follower.progress_ms = now_ms;
                if let Err(why) = self.take(batch) {
                    return self.effects.push_back(Effect::Disconnect { peer, why });
                }
            }
        }
        self.advance_follower();
    }

    /// Queues a batch that continues the log.
    fn take(&mut self, batch: RawBatch) -> Result<(), &'static str> {
        let batch = batch.check().map_err(|_| "a batch that is none")?;
        let last = self.queue.back().map_or(self.appended(), Batch::position);
        let header = batch.header();
        let follows = header.first_zxid == last.zxid + 1 || (header.first_zxid as u32 == 0 && header.first_zxid > last.zxid);
        let known = header.epoch <= self.promise.epoch && header.cluster == self.promise.cluster;
        if header.prev_chain != last.chain || !follows || !known {
            return Err("a batch that does not continue our log");
        }
        if self.queue.is_empty() {
            self.queued_since_ms = self.now_ms;
        }
        self.queue.push_back(batch);
        Ok(())
    }

    /// What the leader says is committed and our log has may be applied.
    pub(super) fn advance_follower(&mut self) {
        let appended = self.appended().zxid;
        let Role::Follower(follower) = &mut self.role else { return };
        if follower.stage != Stage::Active && !mutant!(M43) {
            return;
        }
        let told = if mutant!(M13) { appended } else { follower.told };
        self.committed = self.committed.max(told.min(appended));
        let (epoch, leader) = (follower.epoch, follower.leader);
        let begins_serving = !follower.serving && epoch_of(self.committed) == epoch;
        follower.serving |= begins_serving;
        self.publish();
        if begins_serving {
            self.effects.push_back(Effect::Change(Change::Follow { epoch, leader }));
        }
    }

    pub(super) fn flush_follower(&mut self) {
        let (durable, appended) = (self.durable, self.appended());
        let Role::Follower(follower) = &mut self.role else { return };
        if !std::mem::take(&mut follower.ack_due) || follower.stage == Stage::Promising {
            return;
        }
        let durable = if mutant!(M01) { appended } else { durable };
        let upto = if follower.stage == Stage::Active { durable } else { Position::default() };
        let (leader, epoch, round) = (follower.leader, follower.epoch, follower.round);
        self.send(leader, &Message::Ack { epoch, upto, round, full: self.full });
    }

    /// The last heartbeat of the leader we follow; 0 for none.
    pub fn heard_round(&self) -> u64 {
        if let Role::Follower(follower) = &self.role { follower.round } else { 0 }
    }
}
