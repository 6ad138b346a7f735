//! The part of a core's loop around its Replica: sockets in and out, transactions in, requests up, answers down, and the
//! walk of a snapshot in small slices. Runs on every core; one without clients only applies.
//! Refuses to decide: what to do with a connection comes out of the Replica as actions.

use super::background::{Background, Flow, Task};
use super::commit_ring::CommitReader;
use super::core::{Core, CoreReport, Mail, Now, PipelineMail, Server};
use super::listener;
use super::mesh::{ByteProducer, SlotConsumer};
use super::questions::Question;
use super::report;
use super::ring::{Event, Ring};
use super::sockets::{Gone, Sockets};
use crate::pipeline::message::{ConnId, Down};
use crate::pipeline::replica::{Action, Replica};
use crate::wire::batch::{Batch, Position};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// A slice of the snapshot walk: at most this long, at most once per millisecond.
const SLICE: Duration = Duration::from_micros(100);
/// Nodes between two looks at the clock during a slice.
const SLICE_NODES: usize = 32;
/// Size of a snapshot chunk on its way to the background thread.
const CHUNK_BYTES: usize = 256 << 10;
/// What did not fit into the ring is tried again after this.
const RETRY_MS: u64 = 1;

/// The ends of the rings that belong to one core, and what it reaches others by.
pub struct ShardEnds {
    pub server: Arc<Server>,
    pub core: usize,
    pub commits: CommitReader<Batch>,
    pub downs: SlotConsumer<Down>,
    pub up: ByteProducer,
    pub questions: mpsc::Sender<Question>,
    pub background: Background,
}

/// A snapshot that this core writes.
struct Walk {
    from_zxid: u64,
    cluster: u128,
    chunk: Vec<u8>,
    flow: Option<Arc<Flow>>,
    last_slice_ms: u64,
}

/// See the module heading.
pub struct Shard {
    links: ShardEnds,
    replica: Replica,
    sockets: Sockets,
    /// The last batch applied.
    position: Position,
    listener: Option<RawFd>,
    accepting: bool,
    walk: Option<Walk>,
    /// The ring to the pipeline had no room for everything.
    stuck: bool,
    next_tick_ms: u64,
    tick_ms: u64,
    /// Requests in progress as last told to the others; None without a limit on them.
    outstanding_told: Option<u64>,
}

impl Shard {
    /// `position` is where the Replica's State stands. `tick_ms`: how often clients' signs of life are passed on. `limited`:
    /// whether the number of requests in progress is.
    pub fn new(links: ShardEnds, replica: Replica, position: Position, tick_ms: u64, limited: bool) -> Shard {
        assert_eq!(replica.applied(), position.zxid, "the State is where the log ends");
        Shard {
            links,
            replica,
            sockets: Sockets::default(),
            position,
            listener: None,
            accepting: false,
            walk: None,
            stuck: false,
            next_tick_ms: 0,
            tick_ms,
            outstanding_told: limited.then_some(0),
        }
    }

    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    fn own_core(&self) -> &Core {
        &self.links.server.cores[self.links.core]
    }

    // ---- transactions and answers

    /// Applies everything that is published. Comes before the requests of the same turn, so that a read sees every write
    /// that this server has acknowledged to anybody.
    pub fn apply(&mut self, now: Now) {
        self.replica.begin_turn(now.ms);
        self.share_outstanding();
        let Shard { links, replica, position, .. } = self;
        // Answers sent before a batch was published belong before or between its transactions: look how far the ring is
        // published, take the answers, then apply so far.
        let published = links.commits.published();
        links.downs.drain(|message| replica.down(message));
        links.commits.drain(published, |batch| {
            replica.apply(batch);
            *position = batch.position();
        });
    }

    /// Tells the other shards how many requests are in progress here, and hears of theirs. A turn old is good enough.
    fn share_outstanding(&mut self) {
        let Some(told) = &mut self.outstanding_told else { return };
        let (ours, all) = (self.replica.figures().outstanding, &self.links.server.outstanding);
        // Wraps when fewer are in progress than were told, and the sum comes out right.
        let everywhere = match ours.wrapping_sub(*told) {
            0 => all.load(Ordering::Relaxed),
            change => all.fetch_add(change, Ordering::Relaxed).wrapping_add(change),
        };
        *told = ours;
        self.replica.set_outstanding_elsewhere(everywhere.saturating_sub(ours));
    }

    /// Whether something has arrived that the next turn would handle.
    pub fn has_news(&self) -> bool {
        self.links.commits.has_news() || self.links.downs.has_news()
    }

    // ---- events

    /// One completion.
    pub fn handle(&mut self, ring: &mut Ring, event: Event) {
        match event {
            Event::Received { token, data, more } => {
                if let Some(conn) = self.sockets.received(token, more) {
                    self.replica.receive(conn, ring.bytes(&data));
                }
                ring.give_back(data);
            }
            Event::ReceiveEnded { token, errno } => self.sockets.receive_ended(token, errno),
            Event::Sent { token, errno, buffer } => {
                if let Some(conn) = self.sockets.sent(token, errno) {
                    self.replica.sent(conn, buffer);
                    if self.sockets.is_flushing(conn) {
                        self.flush(ring, conn);
                    }
                }
            }
            Event::Accepted { socket, more } => {
                self.accepting = more;
                self.place(ring, socket);
            }
            Event::AcceptEnded(errno) => self.accept_ended(errno),
            Event::Bell | Event::LinkReceived { .. } | Event::LinkSent { .. } => unreachable!("the loop keeps these"),
        }
    }

    fn accept_ended(&mut self, errno: i32) {
        self.accepting = false;
        if errno != libc::ECANCELED {
            // Armed again at the next tick: most of these (no descriptors, no memory) need a moment.
            let error = std::io::Error::from_raw_os_error(errno);
            tracing::warn!("accepting connections failed: {error}; trying again");
        }
    }

    fn place(&mut self, ring: &mut Ring, socket: OwnedFd) {
        let core = self.links.server.admission.place(self.links.core);
        if core == self.links.core {
            self.adopt(ring, socket);
        } else {
            self.links.server.cores[core].post(Mail::Adopt(socket));
        }
    }

    /// A connection that has a place on this core.
    fn adopt(&mut self, ring: &mut Ring, socket: OwnedFd) {
        let admission = &self.links.server.admission;
        let Some(peer) = listener::welcome(&socket) else { return admission.leave(self.links.core, None) };
        let mut entropy = [0; 16];
        getrandom::fill(&mut entropy).expect("the kernel has random numbers");
        let census = admission.enter(peer.ip());
        match self.replica.accept(peer, census, entropy) {
            Some(conn) => self.sockets.insert(ring, conn, socket, peer.ip()),
            None => admission.leave(self.links.core, Some(peer.ip())),
        }
    }

    /// One message from the mailbox, as far as it concerns a shard.
    pub fn mail(&mut self, ring: &mut Ring, mail: Mail) {
        match mail {
            Mail::Serve(listener) => {
                self.listener = Some(listener);
                self.accept(ring);
            }
            Mail::Adopt(socket) => self.adopt(ring, socket),
            Mail::Answer(conn, text) => self.replica.four_letter_answer(conn, &text),
            Mail::Snapshot { from_zxid, cluster } => {
                self.walk = Some(Walk { from_zxid, cluster, chunk: Vec::new(), flow: None, last_slice_ms: 0 });
            }
            Mail::CancelSnapshot => self.cancel_walk(),
            Mail::Evict => {
                self.replica.evict();
                self.links.server.post_pipeline(PipelineMail::Evicted);
            }
            Mail::Swap(state, position) => {
                assert!(self.walk.is_none(), "a walk is cancelled before a snapshot is fetched");
                self.replica.replace_state(*state);
                self.position = position;
                self.links.server.post_pipeline(PipelineMail::Swapped);
            }
            Mail::Stop => self.stop_accepting(ring),
            Mail::Report { .. } | Mail::Pipeline(_) | Mail::Exit => unreachable!("the loop keeps these"),
        }
    }

    fn stop_accepting(&mut self, ring: &mut Ring) {
        self.listener = None;
        if self.accepting {
            ring.cancel_accept();
        }
    }

    // ---- requests and replies

    /// Regular work, when it is due.
    pub fn tick(&mut self, ring: &mut Ring, now: Now) {
        if now.ms < self.next_tick_ms {
            return;
        }
        self.next_tick_ms = now.ms + self.tick_ms;
        self.replica.tick();
        self.sockets.expire(now.ms);
        self.accept(ring);
    }

    fn accept(&mut self, ring: &mut Ring) {
        if let Some(listener) = self.listener
            && !std::mem::replace(&mut self.accepting, true)
        {
            ring.accept(listener);
        }
    }

    /// Moves requests into the pipeline's ring, and lets connections go on that had to wait for room.
    pub fn submit(&mut self, ring: &mut Ring) {
        self.push_up(ring);
        if self.replica.is_stalled() {
            self.replica.resume();
            self.push_up(ring);
        }
        self.stuck = self.replica.is_stalled() || !self.replica.submits().is_empty();
    }

    fn push_up(&mut self, ring: &mut Ring) {
        let records = self.replica.submits();
        if !records.is_empty() && self.links.up.push_all(records) > 0 && self.links.core != self.links.server.pipeline {
            self.links.server.pipeline_core().wake(ring);
        }
    }

    /// Does what the Replica wants done with its connections, arms receives, and forgets sockets that are gone.
    pub fn act(&mut self, ring: &mut Ring, now: Now) {
        loop {
            while let Some(action) = self.replica.next_action() {
                self.perform(ring, action, now);
            }
            self.sockets.settle_turn(ring);
            let gone = self.sockets.take_gone();
            if gone.is_empty() {
                break;
            }
            gone.into_iter().for_each(|gone| self.forget(gone));
        }
        let watching = !self.replica.watches().is_empty();
        if watching != self.own_core().watching.load(Ordering::Relaxed) {
            self.own_core().watching.store(watching, Ordering::Relaxed);
        }
    }

    fn perform(&mut self, ring: &mut Ring, action: Action, now: Now) {
        match action {
            Action::Flush(conn) => self.flush(ring, conn),
            Action::Close(conn) => {
                self.sockets.close(conn, now.ms);
                self.flush(ring, conn);
            }
            Action::Pause(conn) => self.sockets.pause(ring, conn),
            Action::Resume(conn) => self.sockets.resume(conn),
            Action::FourLetter(conn, word, argument) => {
                self.sockets.asked(conn);
                let question = Question { core: self.links.core, conn, word, argument };
                // The answering thread ends only after this one.
                let _ = self.links.questions.send(question);
            }
        }
    }

    /// Sends what the connection has to say, unless it is still saying the last; a closing one that has said all is shut.
    fn flush(&mut self, ring: &mut Ring, conn: ConnId) {
        if self.sockets.may_send(conn) {
            let output = self.replica.take_output(conn);
            if !output.is_empty() {
                self.sockets.send(ring, conn, output);
            } else if self.sockets.is_flushing(conn) {
                self.sockets.flushed(conn);
            }
        }
    }

    fn forget(&mut self, gone: Gone) {
        self.replica.closed(gone.conn);
        self.links.server.admission.leave(self.links.core, Some(gone.address));
    }

    /// How long this shard can sleep if nothing happens, in ms.
    pub fn idle_ms(&self, now: Now) -> u64 {
        if self.stuck {
            return RETRY_MS;
        }
        match &self.walk {
            Some(walk) if walk.flow.is_some() => 1,
            _ => self.next_tick_ms.saturating_sub(now.ms),
        }
    }

    // ---- snapshots

    /// Goes on with the snapshot, if this core writes one: a slice at a time, not more often than once per millisecond.
    pub fn walk(&mut self, now: Now) {
        let Some(walk) = &mut self.walk else { return };
        if walk.flow.is_none() {
            if self.replica.applied() < walk.from_zxid {
                return;
            }
            self.replica.state_mut().begin_snapshot();
            let flow = Arc::new(Flow::default());
            self.links.background.send(Task::BeginSnapshot { position: self.position, cluster: walk.cluster, flow: flow.clone() });
            walk.flow = Some(flow);
        }
        let flow = walk.flow.clone().expect("begun");
        if flow.failed() {
            self.replica.state_mut().cancel_snapshot();
            self.walk = None;
        } else if now.ms > walk.last_slice_ms && flow.has_room() {
            walk.last_slice_ms = now.ms;
            self.slice(&flow);
        }
    }

    /// Nothing to do if the walk has just ended: its file will.
    fn cancel_walk(&mut self) {
        if let Some(walk) = self.walk.take() {
            if walk.flow.is_some() {
                self.replica.state_mut().cancel_snapshot();
            }
            self.links.background.send(Task::CancelSnapshot);
        }
    }

    fn slice(&mut self, flow: &Flow) {
        let walk = self.walk.as_mut().expect("a snapshot is being written");
        let start = Instant::now();
        let mut done = false;
        while !done && walk.chunk.len() < CHUNK_BYTES && start.elapsed() < SLICE {
            done = self.replica.state_mut().snapshot_slice(SLICE_NODES, &mut walk.chunk);
        }
        if done || walk.chunk.len() >= CHUNK_BYTES {
            flow.sent();
            self.links.background.send(Task::SnapshotChunk(std::mem::take(&mut walk.chunk)));
        }
        if done {
            self.links.background.send(Task::EndSnapshot);
            self.walk = None;
        }
    }

    // ---- operators

    /// How this core is, after doing what the word asks of it.
    pub fn report(&mut self, word: [u8; 4], now: Now) -> CoreReport {
        match &word {
            b"srst" => self.replica.reset_figures(),
            b"crst" => self.replica.reset_conn_figures(),
            _ => {}
        }
        report::of(self.links.core, self.links.core == self.links.server.pipeline, &self.replica, word, now)
    }
}
