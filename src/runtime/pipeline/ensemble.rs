//! The pipeline and the other servers: their messages in, and what the Node wants done for them on background threads. When
//! a snapshot of the leader takes the place of what this server has:
//!
//! ```text
//! stored, verified ──> Journal switches ──> every core closes its clients ─┐
//!                              └──> a State for every core is loaded ──────┴──> every core swaps ──> the Node goes on
//! ```
//! Nothing is published from the switch until all have swapped, so no client sees two histories.
//! Refuses to read, write or load anything itself: this thread has heartbeats to send.

use super::Pipeline;
use crate::log::snapshot::SnapshotPointer;
use crate::runtime::background::{Piece, Task};
use crate::runtime::core::{Mail, Now, PipelineMail};
use crate::runtime::install;
use crate::runtime::peers::{PeerNews, Peers};
use crate::runtime::ring::{Event, Ring};
use crate::tree::State;

/// A peer's snapshot on its way to the cores.
pub(super) struct Installing {
    pointer: SnapshotPointer,
    /// Cores that have closed their clients, and those that have their new State.
    evicted: usize,
    swapped: usize,
    /// Loaded, by core, until all are.
    states: Vec<Option<Box<State>>>,
}

impl Pipeline {
    // ---- links

    pub(super) fn peers(&mut self) -> &mut Peers {
        self.peers.as_mut().expect("only a server with peers talks to them")
    }

    /// The end of an operation on a link.
    pub fn link_event(&mut self, event: Event) {
        self.peers().handle(event);
    }

    /// What has come from other servers, in order.
    pub(super) fn take_news(&mut self, state: &State, now: Now) {
        while let Some(news) = self.peers.as_mut().and_then(Peers::next_news) {
            match news {
                PeerNews::Up(peer) => self.node.peer_up(peer, now.ms),
                PeerNews::Down { peer, .. } => self.node.peer_down(peer, now.ms),
                PeerNews::Message { peer, frame } => {
                    let taken = self.node.peer_frame(peer, &frame.fields, frame.batch, state, now.ms, now.wall_ms);
                    if taken.is_none() {
                        self.peers().disconnect(peer, "it sent something that is no message");
                    }
                }
            }
        }
    }

    /// The end of a turn: what was said to other servers goes out, and the next handshake says what is so now.
    pub(super) fn keep_links(&mut self, ring: &mut Ring, now: Now) {
        let Some(peers) = &mut self.peers else { return };
        peers.tick(ring, now.ms);
        self.introduction.set(self.journal.superblock().cluster, self.journal.durable().zxid > 0);
    }

    // ---- a peer's snapshot

    /// Gives a piece to the thread that stores it.
    pub(super) fn store_piece(&mut self, pointer: SnapshotPointer, offset: u64, bytes: Vec<u8>, last: bool, now: Now) {
        if self.walking {
            // Two files of one name must not be; what this server has is not worth a snapshot any more.
            self.server.cores[self.snapshot_core].post(Mail::CancelSnapshot);
        }
        if self.walking || !self.journal.receivable(&pointer) {
            return self.node.snapshot_wrote(pointer, None, now.ms);
        }
        if offset == 0 {
            tracing::info!("fetching the leader's snapshot at zxid 0x{:x}, {} MiB", pointer.position.zxid, pointer.bytes >> 20);
        }
        let cluster = self.journal.superblock().cluster;
        self.background.send(Task::WriteIncoming(Piece { pointer, cluster, offset, bytes, last }));
    }

    /// The snapshot is this server's history now.
    pub(super) fn begin_install(&mut self, pointer: SnapshotPointer) {
        assert!(self.installing.is_none(), "the Node waits for one before it fetches another");
        // Older than the snapshot: the new States have it.
        self.unpublished.clear();
        let cores = self.server.cores.len();
        self.installing = Some(Installing { pointer, evicted: 0, swapped: 0, states: (0..cores).map(|_| None).collect() });
        self.server.post_all(|| Mail::Evict);
        install::load_states(&self.disk, &self.server, pointer, self.journal.superblock().cluster);
    }

    /// Swaps on every core once nobody reads the old States and all new ones are there.
    fn swap_when_ready(&mut self) {
        let Some(installing) = &mut self.installing else { return };
        let cores = self.server.cores.len();
        if installing.evicted < cores || installing.states.iter().any(Option::is_none) {
            return;
        }
        for (core, state) in self.server.cores.iter().zip(&mut installing.states) {
            let state = state.take().expect("all are loaded");
            core.post(Mail::Swap(state, installing.pointer.position));
        }
    }

    fn swapped(&mut self, now: Now) {
        let installing = self.installing.as_mut().expect("a core swaps when it is told");
        installing.swapped += 1;
        if installing.swapped == self.server.cores.len() {
            let pointer = installing.pointer;
            self.installing = None;
            tracing::info!("the leader's snapshot at zxid 0x{:x} is loaded", pointer.position.zxid);
            self.node.installed(pointer, now.ms);
        }
    }

    // ---- messages of other threads

    pub(super) fn ensemble_mail(&mut self, mail: PipelineMail, now: Now) {
        match mail {
            PipelineMail::Links(links) => {
                let mut peers = Peers::new(links);
                self.early.drain(..).for_each(|link| peers.add(link));
                self.peers = Some(peers);
            }
            PipelineMail::Link(link) => match &mut self.peers {
                Some(peers) => peers.add(link),
                None => self.early.push(link),
            },
            PipelineMail::Fed { token, batches } => self.node.fed(token, batches, now.ms),
            PipelineMail::SnapshotRead { peer, pointer, offset, bytes } => {
                self.node.snapshot_read(peer, pointer, offset, bytes.as_deref(), now.ms);
            }
            PipelineMail::SnapshotWrote { pointer, end } => self.node.snapshot_wrote(pointer, end, now.ms),
            PipelineMail::SnapshotReceived(pointer) if self.journal.receivable(&pointer) => {
                self.journal.install(pointer, &mut self.effects);
            }
            PipelineMail::SnapshotReceived(pointer) => self.node.snapshot_wrote(pointer, None, now.ms),
            PipelineMail::Evicted => {
                self.installing.as_mut().expect("it was asked for").evicted += 1;
                self.swap_when_ready();
            }
            PipelineMail::StateLoaded { core, state } => {
                self.installing.as_mut().expect("it was asked for").states[core] = Some(state);
                self.swap_when_ready();
            }
            PipelineMail::Swapped => self.swapped(now),
            PipelineMail::Begin | PipelineMail::JobDone(_) | PipelineMail::SnapshotWritten(_) | PipelineMail::SnapshotCancelled => {
                unreachable!("a server of its own gets these too")
            }
        }
    }
}
