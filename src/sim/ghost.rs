//! What an all-knowing observer holds against the protocol: the one history that was committed, every batch ever proposed,
//! what each medium would still hold after a crash right now, who led and who voted for whom. Every event is checked
//! against it; the first contradiction ends the run with the assertion's name (docs/zab.md lists them).
//! Refuses to look into the servers: it knows only what they did.

use crate::wire::batch::{Batch, Position};
use crate::zab::message::{Message, Term};
use crate::zab::positions::epoch;
use crate::zab::quorum::Ensemble;
use std::collections::BTreeMap;

/// The observer. Servers are indexed by their number.
pub struct Ghost {
    ensemble: Ensemble,
    /// The committed history: first seen, it stays.
    committed: Vec<Position>,
    /// By first zxid: the batch that was proposed there.
    proposed: BTreeMap<u64, Position>,
    leaders: BTreeMap<u32, u16>,
    votes: BTreeMap<(u16, u32), u16>,
    calls: BTreeMap<(u16, u16, u32), Term>,
    servers: BTreeMap<u16, Seen>,
}

/// One server, as its acts show it.
#[derive(Default)]
struct Seen {
    /// Batch ends on its medium, snapshot included: everything up to `floor` is in the snapshot.
    durable: Vec<Position>,
    floor: u64,
    promised: u32,
    /// How many batches of the committed history it has published in this run.
    published: usize,
    wiped: bool,
    /// What was on the disk that was replaced, and acknowledged perhaps.
    lost: Vec<Position>,
    lost_floor: u64,
}

impl Seen {
    fn has(&self, position: Position) -> bool {
        position.zxid <= self.floor || at(&self.durable, position.zxid) == Some(position)
    }
}

impl Seen {
    /// Whether it was on a disk that is no more.
    fn had(&self, position: Position) -> bool {
        position.zxid <= self.lost_floor || at(&self.lost, position.zxid) == Some(position)
    }
}

fn at(ends: &[Position], zxid: u64) -> Option<Position> {
    ends.binary_search_by_key(&zxid, |p| p.zxid).ok().map(|i| ends[i])
}

impl Ghost {
    pub fn new(ensemble: Ensemble) -> Ghost {
        let servers = ensemble.servers().map(|server| (server, Seen::default())).collect();
        Ghost {
            ensemble,
            committed: Vec::new(),
            proposed: BTreeMap::new(),
            leaders: BTreeMap::new(),
            votes: BTreeMap::new(),
            calls: BTreeMap::new(),
            servers,
        }
    }

    fn seen(&mut self, server: u16) -> &mut Seen {
        self.servers.get_mut(&server).expect("a server of the ensemble")
    }

    /// The last committed zxid.
    pub fn last_committed(&self) -> u64 {
        self.committed.last().map_or(0, |p| p.zxid)
    }

    pub fn batches_committed(&self) -> usize {
        self.committed.len()
    }

    /// A server finds that another one made no sense; honest servers always do (A9).
    pub fn complains(&mut self, server: u16, of: u16, why: &'static str) {
        let excused = [
            "its snapshot is older than what is committed here",
            "its snapshot could not be stored",
            "catching up with it gets nowhere",
            "it confirms nothing of what it is sent",
        ];
        assert!(excused.contains(&why), "A9: server {server} complains of server {of}: {why}");
    }

    // ---- logs and media

    /// A server's log took a batch (A6, A7, R2).
    pub fn took(&mut self, server: u16, batch: &Batch) {
        let (first, position) = (batch.header().first_zxid, batch.position());
        let voter = self.ensemble.is_voter(server);
        assert!(voter || position.zxid <= self.last_committed(), "R2: observer {server} logs 0x{first:x}, which is not committed");
        let known = *self.proposed.entry(first).or_insert(position);
        assert_eq!(known, position, "A6: server {server} logs another batch at 0x{first:x} than was proposed before");
        let overlaps = self.proposed.range(first + 1..position.zxid + 1).next();
        assert!(overlaps.is_none(), "A6: server {server} logs 0x{first:x} to 0x{:x} over {overlaps:x?}", position.zxid);
        assert!(first as u32 != 0 || batch.header().count == 1, "A7: 0x{first:x} is not alone in its batch");
    }

    /// A batch is on a server's medium.
    pub fn durable(&mut self, server: u16, position: Position) {
        let seen = self.seen(server);
        assert!(seen.durable.last().is_none_or(|last| last.zxid < position.zxid), "A7: server {server} goes back");
        seen.durable.push(position);
    }

    /// A server cuts its log (B3).
    pub fn truncated(&mut self, server: u16, to: Position) {
        let last = self.last_committed();
        let committed = std::mem::take(&mut self.committed);
        let seen = self.seen(server);
        let lost = seen.durable.iter().rev().take_while(|p| p.zxid > to.zxid).find(|p| at(&committed, p.zxid) == Some(**p));
        assert!(lost.is_none(), "B3: server {server} cuts {lost:x?} off, committed up to 0x{last:x}");
        let keep = seen.durable.partition_point(|p| p.zxid <= to.zxid);
        seen.durable.truncate(keep);
        self.committed = committed;
    }

    /// A server's history is a snapshot now (B3, B5).
    pub fn installed(&mut self, server: u16, position: Position) {
        assert_eq!(at(&self.committed, position.zxid), Some(position), "B5: server {server} installs what was never committed");
        let seen = self.seen(server);
        assert!(seen.floor <= position.zxid, "B3: server {server} goes back to an older snapshot");
        seen.durable.clear();
        seen.durable.push(position);
        seen.floor = position.zxid;
    }

    /// A promise is on the medium (A1).
    pub fn promised(&mut self, server: u16, epoch: u32) {
        let seen = self.seen(server);
        assert!(epoch >= seen.promised, "A1: server {server} promised {} and now {epoch}", seen.promised);
        seen.promised = epoch;
    }

    /// A server starts with this on its medium. What was durable must be there (B2), what is taken for committed must be.
    pub fn restarted(&mut self, server: u16, promised: u32, ends: &[Position], snapshot: Option<Position>, committed: u64) {
        let known = self.committed.partition_point(|p| p.zxid <= committed);
        let exact = committed == 0 || at(&self.committed, committed).is_some();
        assert!(exact, "D5: server {server} takes 0x{committed:x} for committed, which never was");
        let seen = self.seen(server);
        let floor = snapshot.map_or(0, |p| p.zxid);
        let lost = seen.durable.iter().find(|p| p.zxid > floor && at(ends, p.zxid) != Some(**p));
        assert!(lost.is_none() || seen.wiped, "B2: server {server} lost {lost:x?}, which was durable");
        assert!(promised >= seen.promised || seen.wiped, "A1: server {server} forgot its promise of {}", seen.promised);
        seen.durable = ends.iter().copied().filter(|p| p.zxid > 0).collect();
        (seen.floor, seen.promised, seen.published, seen.wiped) = (floor, promised, known, false);
    }

    /// The disk of a server was replaced.
    pub fn wiped(&mut self, server: u16) {
        let Seen { durable, floor, .. } = std::mem::take(self.seen(server));
        *self.seen(server) = Seen { wiped: true, lost: durable, lost_floor: floor, ..Seen::default() };
        self.votes.retain(|(voter, _), _| *voter != server);
    }

    // ---- what servers say and do

    /// A server leads (A2, and A5 when it begins). `has`: whether its log has a batch end.
    pub fn leads(&mut self, server: u16, of: u32, has: impl Fn(Position) -> bool) {
        if let Some(known) = self.leaders.insert(of, server) {
            return assert_eq!(known, server, "A2: two servers lead epoch {of}");
        }
        let before = self.committed.partition_point(|p| epoch(p.zxid) < of);
        if let Some(last) = before.checked_sub(1).map(|i| self.committed[i]) {
            assert!(has(last) || last.zxid <= self.seen(server).floor, "A5: the leader of {of}, server {server}, lacks {last:x?}");
        }
    }

    /// A message leaves a server (A3, D1, D2, D3).
    pub fn sends(&mut self, server: u16, to: u16, message: &Message<'_>) {
        match message {
            Message::NewEpoch { epoch, term, .. } => {
                self.calls.insert((server, to, *epoch), *term);
                let promised = self.seen(server).promised;
                assert!(promised >= *epoch, "D2: server {server} calls for epoch {epoch} with {promised} promised");
            }
            Message::AckEpoch { epoch, granted: true, table, .. } => self.votes(server, to, *epoch, table),
            Message::Ack { upto, .. } if upto.zxid > 0 => {
                assert!(self.seen(server).has(*upto), "D1: server {server} acknowledges {upto:x?}, which it could lose");
            }
            Message::PreVote { last, .. } | Message::PreVoteReply { last, .. } if last.zxid > 0 => {
                assert!(self.seen(server).has(*last), "D3: server {server} claims {last:x?}, which it could lose");
            }
            _ => {}
        }
    }

    fn votes(&mut self, server: u16, to: u16, of: u32, table: &[Position]) {
        let seen = self.seen(server);
        assert!(seen.promised >= of, "D2: server {server} acknowledges epoch {of} with {} promised", seen.promised);
        let last = table.last().copied().unwrap_or_default();
        assert!(last.zxid == 0 || seen.has(last), "D3: server {server} claims {last:x?}, which it could lose");
        if self.calls.get(&(to, server, of)) != Some(&Term::Established) {
            let known = *self.votes.entry((server, of)).or_insert(to);
            assert_eq!(known, to, "A3: server {server} votes twice in epoch {of}");
        }
    }

    /// A server publishes a batch (B1, B4). True if nobody did before.
    pub fn published(&mut self, server: u16, batch: &Batch) -> bool {
        let position = batch.position();
        let index = self.seen(server).published;
        let first = index == self.committed.len();
        if first {
            let last = self.committed.last().copied().unwrap_or_default();
            assert_eq!(batch.header().prev_chain, last.chain, "B4: server {server} publishes {position:x?} after {last:x?}");
            let (servers, ensemble) = (&self.servers, &self.ensemble);
            let safe = ensemble.is_quorum(|voter| servers[&voter].has(position) || servers[&voter].had(position));
            assert!(safe, "B1: server {server} commits {position:x?}, which a quorum could lose");
            self.committed.push(position);
        } else {
            assert_eq!(self.committed[index], position, "B4: server {server} publishes something else than others did");
        }
        self.seen(server).published += 1;
        first
    }

    /// A snapshot replaced a server's State: it goes on behind it.
    pub fn published_upto(&mut self, server: u16, zxid: u64) {
        let known = self.committed.partition_point(|p| p.zxid <= zxid);
        self.seen(server).published = known;
    }
}
