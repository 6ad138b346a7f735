//! The links of this server on its pipeline's core: what is queued goes out sealed, many messages in one operation, and what
//! comes in is verified and handed on with its batch in place. An idle link says that it is alive; a silent one is closed,
//! so that it is dialled again.
//!
//! ```text
//! add ──> Up ── messages in order ──> Down      as news, each link's after those of the one before it
//! ```
//! A descriptor is closed only after the last completion of every operation on it. Refuses to know what messages say, and
//! to queue without end: a peer that does not take what it is sent loses its link.

use super::links::{Link, Links};
use super::ring::{Event, PIECES_MAX, Piece, Ring, Token};
use crate::limits::PEER_QUEUE_BYTES_MAX;
use crate::peer::{Frame, PING, Receiver, Seal, frame_around};
use crate::zab::message::Outgoing;
use slab::Slab;
use socket2::SockRef;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, OwnedFd};

/// Sealed and sent in one operation; one message may be longer.
const SEND_BYTES: usize = 1 << 20;
/// Longer heads are sent from where they are.
const COPIED_BYTES_MAX: usize = 4096;
/// An idle link is heard from so many times before it would count as silent.
const PINGS: u64 = 4;

/// What became of links, and what came on them.
#[derive(Debug)]
pub enum PeerNews {
    /// A fresh link: nothing was sent or received on it.
    Up(u16),
    /// The link is gone, with what was on it.
    Down {
        peer: u16,
        why: String,
    },
    Message {
        peer: u16,
        frame: Frame,
    },
}

impl PeerNews {
    fn peer(&self) -> u16 {
        match self {
            PeerNews::Up(peer) | PeerNews::Down { peer, .. } | PeerNews::Message { peer, .. } => *peer,
        }
    }
}

struct Conn {
    peer: u16,
    token: Token,
    socket: OwnedFd,
    seal: Seal,
    receiver: Receiver,
    queue: VecDeque<Outgoing>,
    /// In the queue and with the kernel.
    queued_bytes: usize,
    sending_bytes: usize,
    sending: bool,
    receiving: bool,
    /// False: shut down, and kept for its last completions.
    open: bool,
    /// Its Up was taken: what is sent to the peer is meant for this link.
    announced: bool,
    /// Messages that are among the news.
    unread: usize,
    heard: bool,
    heard_ms: u64,
    said_ms: u64,
}

/// See the module heading.
pub struct Peers {
    links: Links,
    conns: Slab<Conn>,
    /// The link that counts.
    current: BTreeMap<u16, usize>,
    generation: u32,
    news: VecDeque<PeerNews>,
    /// Whose Down was taken in this turn: what is still to be done about the old link must not meet a new one.
    fallen: BTreeSet<u16>,
    silence_ms: u64,
    now_ms: u64,
}

impl Peers {
    pub fn new(links: Links) -> Peers {
        let silence_ms = links.silence_ms();
        Peers {
            links,
            conns: Slab::new(),
            current: BTreeMap::new(),
            generation: 0,
            news: VecDeque::new(),
            fallen: BTreeSet::new(),
            silence_ms,
            now_ms: 0,
        }
    }

    // ---- inputs

    /// A new link. It takes the place of the one that its peer had.
    pub fn add(&mut self, link: Link) {
        let Link { peer, socket, keys, incarnation, .. } = link;
        if let Some(old) = self.current.remove(&peer) {
            self.shut(old, "a new link has taken its place");
        }
        tracing::info!("link with server {peer} (run {incarnation:032x}) is up");
        self.generation = (self.generation + 1) & 0x0fff_ffff;
        let vacant = self.conns.vacant_entry();
        let token = Token { slot: vacant.key() as u32, generation: self.generation };
        self.current.insert(peer, vacant.key());
        vacant.insert(Conn {
            peer,
            token,
            socket,
            seal: keys.send,
            receiver: Receiver::new(keys.receive),
            queue: VecDeque::new(),
            queued_bytes: 0,
            sending_bytes: 0,
            sending: false,
            receiving: false,
            open: true,
            announced: false,
            unread: 0,
            heard: true,
            heard_ms: self.now_ms,
            said_ms: self.now_ms,
        });
        self.news.push_back(PeerNews::Up(peer));
    }

    /// The next message for that peer. Without a link, or before its Up was taken, it is for a link that is gone.
    pub fn send(&mut self, peer: u16, message: Outgoing) {
        let Some(&index) = self.current.get(&peer) else { return };
        let conn = &mut self.conns[index];
        if !conn.announced {
            return;
        }
        conn.queued_bytes += message.bytes();
        conn.queue.push_back(message);
        if conn.queued_bytes > PEER_QUEUE_BYTES_MAX {
            self.close(index, "it does not take what is sent to it");
        }
    }

    /// Closes the link; what it has brought and was not taken yet is forgotten.
    pub fn disconnect(&mut self, peer: u16, why: &str) {
        let Some(&index) = self.current.get(&peer) else { return };
        self.news.retain(|news| news.peer() != peer || matches!(news, PeerNews::Up(_) | PeerNews::Down { .. }));
        self.close(index, why);
    }

    /// The end of an operation on a link.
    pub fn handle(&mut self, event: Event) {
        match event {
            Event::LinkReceived { token, room, bytes, errno } => {
                let conn = self.conn(token);
                conn.receiving = false;
                if !conn.open {
                    return self.settle(token.slot as usize);
                }
                if errno != 0 || bytes == 0 {
                    return self.close(token.slot as usize, &ended(errno));
                }
                conn.heard = true;
                let result = conn.receiver.filled(room, bytes);
                let (peer, frames) = (conn.peer, Vec::from_iter(std::iter::from_fn(|| conn.receiver.next_frame())));
                conn.unread += frames.len();
                self.news.extend(frames.into_iter().map(|frame| PeerNews::Message { peer, frame }));
                if let Err(bad) = result {
                    self.close(token.slot as usize, &bad.to_string());
                }
            }
            Event::LinkSent { token, errno } => {
                let conn = self.conn(token);
                conn.sending = false;
                conn.queued_bytes -= std::mem::take(&mut conn.sending_bytes);
                match (conn.open, errno) {
                    (false, _) => self.settle(token.slot as usize),
                    (true, 0) => {}
                    (true, errno) => self.close(token.slot as usize, &ended(errno)),
                }
            }
            other => unreachable!("not of a link: {other:?}"),
        }
    }

    /// The link an operation was on: it is kept until its last completion.
    fn conn(&mut self, token: Token) -> &mut Conn {
        let conn = &mut self.conns[token.slot as usize];
        assert_eq!(conn.token, token, "a link outlives its operations");
        conn
    }

    /// What has happened, in order. An Up that follows a Down of the same peer waits for the next turn.
    pub fn next_news(&mut self) -> Option<PeerNews> {
        let fallen = &mut self.fallen;
        let news = self.news.pop_front_if(|news| !matches!(news, PeerNews::Up(peer) if fallen.contains(peer)))?;
        if let PeerNews::Down { peer, .. } = news {
            fallen.insert(peer);
        }
        if let Some(conn) = self.current.get(&news.peer()).map(|index| &mut self.conns[*index]) {
            match news {
                PeerNews::Up(_) => conn.announced = true,
                // It may have come on the link before this one.
                PeerNews::Message { .. } => conn.unread = conn.unread.saturating_sub(1),
                PeerNews::Down { .. } => {}
            }
        }
        Some(news)
    }

    /// Whether something has happened that was not taken.
    pub fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    // ---- once per turn

    /// At the end of a turn, when its news was taken and everything was queued: starts sends and receives, says that we are
    /// alive, and closes links that have fallen silent.
    pub fn tick(&mut self, ring: &mut Ring, now_ms: u64) {
        // Time in which this core did nothing is nobody's silence.
        let slept_ms = now_ms.saturating_sub(self.now_ms);
        let forgiven_ms = if slept_ms > self.silence_ms / 2 { slept_ms } else { 0 };
        self.now_ms = now_ms;
        self.fallen.clear();
        let mut silent = Vec::new(); // takes no memory as long as nobody is
        for index in self.current.values().copied() {
            let conn = &mut self.conns[index];
            conn.heard_ms = if std::mem::take(&mut conn.heard) { now_ms } else { (conn.heard_ms + forgiven_ms).min(now_ms) };
            if now_ms >= conn.heard_ms + self.silence_ms {
                silent.push(index);
                continue;
            }
            conn.flush(ring, now_ms, self.silence_ms / PINGS);
            if !conn.receiving && conn.unread == 0 {
                conn.receiving = true;
                ring.link_receive(conn.socket.as_raw_fd(), conn.token, conn.receiver.room());
            }
        }
        silent.into_iter().for_each(|index| self.close(index, "nothing was heard for too long"));
    }

    /// When [`Peers::tick`] has something to do at the latest.
    pub fn deadline_ms(&self) -> u64 {
        let deadlines = self.current.values().map(|index| {
            let conn = &self.conns[*index];
            let ping_ms = if conn.sending { u64::MAX } else { conn.said_ms + self.silence_ms / PINGS };
            ping_ms.min(conn.heard_ms + self.silence_ms)
        });
        deadlines.min().unwrap_or(u64::MAX)
    }

    // ---- the end of a link

    fn close(&mut self, index: usize, why: &str) {
        let peer = self.conns[index].peer;
        self.current.remove(&peer);
        self.shut(index, why);
        self.links.lost(peer);
    }

    /// Ends every operation on the link. Their completions come with errors.
    fn shut(&mut self, index: usize, why: &str) {
        let conn = &mut self.conns[index];
        tracing::warn!("link with server {} is gone: {why}", conn.peer);
        conn.open = false;
        conn.queue.clear();
        // It fails only if the connection is gone: then the operations end by themselves.
        let _ = SockRef::from(&conn.socket).shutdown(Shutdown::Both);
        self.news.push_back(PeerNews::Down { peer: conn.peer, why: why.to_string() });
        self.settle(index);
    }

    /// Closes the descriptor if nothing is left to wait for.
    fn settle(&mut self, index: usize) {
        let conn = &self.conns[index];
        if !conn.open && !conn.sending && !conn.receiving {
            self.conns.remove(index);
        }
    }
}

fn ended(errno: i32) -> String {
    if errno == 0 { "the peer has closed it".to_string() } else { std::io::Error::from_raw_os_error(errno).to_string() }
}

impl Conn {
    /// Sends what is queued, or that we are alive if nothing was said for `idle_ms`.
    fn flush(&mut self, ring: &mut Ring, now_ms: u64, idle_ms: u64) {
        if self.sending || (self.queue.is_empty() && now_ms < self.said_ms + idle_ms) {
            return;
        }
        let pieces = if self.queue.is_empty() { vec![self.ping()] } else { self.gather() };
        self.sending = true;
        self.said_ms = now_ms;
        ring.link_send(self.socket.as_raw_fd(), self.token, pieces);
    }

    fn ping(&mut self) -> Piece {
        let (before, mac) = frame_around(&mut self.seal, PING, &[]);
        Piece::Own([&before, PING, &mac].concat())
    }

    /// Seals messages from the queue: small parts run together, batches stay where they are.
    fn gather(&mut self) -> Vec<Piece> {
        let (mut pieces, mut run, mut bytes) = (Vec::new(), Vec::new(), 0);
        while bytes < SEND_BYTES
            && pieces.len() + 4 < PIECES_MAX
            && let Some(message) = self.queue.pop_front()
        {
            let (before, mac) = frame_around(&mut self.seal, &message.head, message.batch_bytes());
            bytes += message.bytes();
            run.extend_from_slice(&before);
            if message.head.len() <= COPIED_BYTES_MAX {
                run.extend_from_slice(&message.head);
            } else {
                pieces.extend([Piece::Own(std::mem::take(&mut run)), Piece::Shared(message.head)]);
            }
            if let Some(batch) = message.batch {
                pieces.extend([Piece::Own(std::mem::take(&mut run)), Piece::Batch(batch)]);
            }
            run.extend_from_slice(&mac);
        }
        pieces.push(Piece::Own(run));
        self.sending_bytes = bytes;
        pieces
    }
}

#[cfg(test)]
#[path = "peers_tests.rs"]
mod tests;
