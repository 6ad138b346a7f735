//! Links on a ring, over loopback: two cores' ends of one link, or one end and a test that plays the other. Everything
//! arrives whole and in order however the kernel cuts it, and a link ends when it must.

use super::*;
use crate::peer::{Established, Handshake, Introduction, Secret, SessionKeys};
use crate::runtime::links::{Identity, LinksConfig};
use crate::runtime::sys::Bell;
use crate::wire::aligned::AlignedBuf;
use crate::wire::batch::{Batch, BatchBuilder};
use crate::wire::txn::{Change, Op, Origin, Txn};
use crate::zab::message::Message;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SILENCE_MS: u64 = 1000;

/// A core with nothing but peers; its clock is the test's.
struct Core {
    ring: Ring,
    peers: Peers,
    news: Vec<PeerNews>,
    now_ms: u64,
}

fn core(server: u16) -> Core {
    let config = LinksConfig {
        server,
        incarnation: 1,
        listen: "127.0.0.1:0".parse().unwrap(),
        peers: Vec::new(),
        secret: None,
        silence_ms: SILENCE_MS,
    };
    let links = Links::start(config, Arc::new(Identity::new(0, false)), |_| {}).unwrap();
    let ring = Ring::new(Arc::new(Bell::new().unwrap()), 4, 4096).unwrap();
    Core { ring, peers: Peers::new(links), news: Vec::new(), now_ms: 0 }
}

impl Core {
    /// One turn of the pipeline's core.
    fn turn(&mut self) {
        let mut events = Vec::new();
        self.ring.enter(Some(Duration::from_millis(1))).unwrap();
        self.ring.reap(&mut events).unwrap();
        for event in events {
            self.peers.handle(event);
        }
        self.news.extend(std::iter::from_fn(|| self.peers.next_news()));
        self.peers.tick(&mut self.ring, self.now_ms);
    }

    /// Waits for completions and leaves the news alone.
    fn handle_some(&mut self) {
        let mut events = Vec::new();
        while events.is_empty() {
            self.ring.enter(Some(Duration::from_millis(10))).unwrap();
            self.ring.reap(&mut events).unwrap();
        }
        events.into_iter().for_each(|event| self.peers.handle(event));
    }

    fn until(&mut self, done: impl Fn(&Core) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done(self) {
            assert!(Instant::now() < deadline, "nothing more happens: {:?}", self.news.last());
            self.turn();
        }
    }

    fn frames(&self) -> Vec<&Frame> {
        self.news.iter().filter_map(|news| if let PeerNews::Message { frame, .. } = news { Some(frame) } else { None }).collect()
    }

    fn down(&self) -> Option<&str> {
        self.news.iter().find_map(|news| if let PeerNews::Down { why, .. } = news { Some(why.as_str()) } else { None })
    }
}

/// Keys of one link, for server 2, which dialled, and for server 1.
fn keys() -> (SessionKeys, SessionKeys) {
    let us = |server| Introduction { server, cluster: 1, has_history: false, incarnation: 1 };
    let (mut first, mut second, mut third, mut fourth) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut dials = Handshake::dial(us(2), 1, Secret::none(), [1; 32], &mut first);
    let mut listens = Handshake::listen(us(1), vec![2], Secret::none(), [2; 32]);
    let none = |step: Option<Established>| assert!(step.is_none());
    let give = |to: &mut Handshake, bytes: &[u8], out: &mut Vec<u8>| {
        let (head, tail) = bytes.split_at(8);
        none(to.receive(head, out).unwrap());
        to.receive(tail, out).unwrap()
    };
    none(give(&mut listens, &first, &mut second));
    none(give(&mut dials, &second, &mut third));
    let at_one = give(&mut listens, &third, &mut fourth).unwrap();
    let at_two = give(&mut dials, &fourth, &mut Vec::new()).unwrap();
    (at_two.keys, at_one.keys)
}

fn link(peer: u16, socket: TcpStream, keys: SessionKeys) -> Link {
    Link { peer, socket: socket.into(), keys, incarnation: 1, cluster: 1 }
}

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let far = listener.accept().unwrap().0;
    far.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    (near, far)
}

/// Server 2 on a ring, and the other end as a plain socket with its keys.
fn lone() -> (Core, TcpStream, SessionKeys) {
    let (near, far) = sockets();
    let (at_two, at_one) = keys();
    let mut core = core(2);
    core.peers.add(link(1, near, at_two));
    core.turn();
    assert!(matches!(core.news[..], [PeerNews::Up(1)]));
    (core, far, at_one)
}

fn batch(zxid: u64, bytes: usize) -> Arc<Batch> {
    let data: Vec<u8> = (0..bytes).map(|i| (i as u64 ^ zxid) as u8).collect();
    let change = Change::SetData { path: "/x", path_hash: 1, data: Some(&data), version: 1 };
    let mut builder = BatchBuilder::default();
    let txn = Txn { zxid, time_ms: 0, session: 1, origin: Origin::default(), op: Op::Change(change) };
    builder.push(&txn).unwrap();
    Arc::new(builder.close(7, 0, 0, AlignedBuf::with_capacity(4096)))
}

fn small(round: u64) -> Outgoing {
    Outgoing::new(&Message::Append { epoch: 1, committed: 0, round, batch: None })
}

fn sealed(keys: &mut SessionKeys, message: &Outgoing) -> Vec<u8> {
    let (before, mac) = frame_around(&mut keys.send, &message.head, message.batch_bytes());
    [&before, &message.head[..], message.batch_bytes(), &mac].concat()
}

#[test]
fn batches_of_every_size_cross_between_two_cores_in_order() {
    let (near, far) = sockets();
    // A small window makes both ends stop halfway, again and again.
    SockRef::from(&near).set_send_buffer_size(16 << 10).unwrap();
    SockRef::from(&far).set_recv_buffer_size(16 << 10).unwrap();
    let (at_two, at_one) = keys();
    let (mut two, mut one) = (core(2), core(1));
    two.peers.add(link(1, near, at_two));
    one.peers.add(link(2, far, at_one));
    two.turn();
    one.turn();
    let chunk = vec![9; 256 << 10];
    let mut sent = Vec::new();
    for (round, bytes) in [10, 5000, 200_000, 8 << 20, 100, 250_000, 60_000].into_iter().enumerate() {
        sent.push(Outgoing::append(1, 5, round as u64, batch(1 << 32 | round as u64, bytes)));
        sent.push(small(round as u64));
        sent.push(Outgoing::new(&Message::SnapshotChunk { epoch: 1, zxid: 2, offset: 3, bytes: &chunk[..bytes.min(256 << 10)] }));
    }
    sent.iter().for_each(|message| two.peers.send(1, message.clone()));
    let deadline = Instant::now() + Duration::from_secs(20);
    while one.frames().len() < sent.len() {
        assert!(Instant::now() < deadline, "{} of {} came", one.frames().len(), sent.len());
        two.turn();
        one.turn();
    }
    for (news, message) in one.news.drain(..).skip(1).zip(&sent) {
        let PeerNews::Message { peer: 2, frame } = news else { panic!("{news:?}") };
        assert!(frame.fields == message.head[4..]);
        if let Some(batch) = &message.batch {
            let came = frame.batch.expect("it had one").check().expect("it is whole");
            assert!(came.position() == batch.position() && came.frame()[64..] == batch.frame()[64..]);
        }
    }
    assert!(two.down().is_none() && one.down().is_none());
    two.until(|core| core.peers.conns.iter().all(|(_, conn)| !conn.sending));
    let held = sent.iter().filter_map(|message| message.batch.as_ref()).all(|batch| Arc::strong_count(batch) == 1);
    assert!(held, "what was sent is not kept");
}

#[test]
fn a_batch_is_sent_from_its_own_memory() {
    let (mut core, _far, _keys) = lone();
    let message = Outgoing::append(1, 5, 1, batch(1 << 32, 100_000));
    core.peers.send(1, small(0));
    core.peers.send(1, message.clone());
    core.peers.send(1, small(1));
    let pieces = core.peers.conns.iter_mut().next().unwrap().1.gather();
    let [Piece::Own(_), Piece::Batch(batch), Piece::Own(_)] = &pieces[..] else { panic!("{} pieces", pieces.len()) };
    assert!(Arc::ptr_eq(batch, message.batch.as_ref().unwrap()));
}

#[test]
fn what_a_peer_sends_in_crumbs_arrives_whole() {
    let (mut core, mut far, mut keys) = lone();
    let messages = [small(1), Outgoing::append(1, 5, 2, batch(1 << 32, 3000)), small(3)];
    for byte in messages.iter().flat_map(|message| sealed(&mut keys, message)).collect::<Vec<_>>().chunks(101) {
        far.write_all(byte).unwrap();
        core.turn();
    }
    core.until(|core| core.frames().len() == 3);
    assert!(core.frames()[1].batch.as_ref().is_some_and(|batch| batch.bytes() == messages[1].batch_bytes()));
}

#[test]
fn a_broken_seal_and_a_stream_that_ends_take_the_link_down() {
    let (mut core, mut far, mut keys) = lone();
    let mut bytes = sealed(&mut keys, &small(1));
    bytes.extend(sealed(&mut keys, &small(2)));
    *bytes.last_mut().unwrap() ^= 1;
    far.write_all(&bytes).unwrap();
    core.until(|core| core.down().is_some());
    assert!(core.down().unwrap().contains("seal") && core.frames().len() == 1, "what came before it is good");
    assert!(matches!(core.news[..], [PeerNews::Up(1), PeerNews::Message { .. }, PeerNews::Down { peer: 1, .. }]));
    core.until(|core| core.peers.conns.is_empty());
    assert_eq!(far.read(&mut [0; 10]).unwrap(), 0);

    let (mut core, far, _keys) = lone();
    drop(far);
    core.until(|core| core.peers.conns.is_empty());
    assert_eq!(core.down(), Some("the peer has closed it"));
}

#[test]
fn an_idle_link_lives_and_a_silent_one_does_not() {
    let (near, far) = sockets();
    let (at_two, at_one) = keys();
    let (mut two, mut one) = (core(2), core(1));
    two.peers.add(link(1, near, at_two));
    one.peers.add(link(2, far, at_one));
    for ms in (0..10 * SILENCE_MS).step_by(20) {
        (two.now_ms, one.now_ms) = (ms, ms);
        two.turn();
        one.turn();
        assert!(two.peers.deadline_ms() <= ms + SILENCE_MS);
    }
    assert!(two.down().is_none() && one.down().is_none(), "pings keep it alive");
    assert!(two.frames().is_empty() && one.frames().is_empty(), "and are seen by nobody");
    let from_ms = two.now_ms;
    while two.down().is_none() {
        two.now_ms += 20;
        two.turn();
        assert!(two.now_ms <= from_ms + 2 * SILENCE_MS);
    }
    assert!(two.now_ms >= from_ms + SILENCE_MS - 40 && two.down().unwrap().contains("nothing was heard"));
}

#[test]
fn time_in_which_we_slept_ourselves_is_not_held_against_peers() {
    let (mut core, _far, _keys) = lone();
    core.now_ms += 50 * SILENCE_MS;
    core.turn();
    assert!(core.down().is_none());
}

#[test]
fn a_new_link_takes_the_place_of_the_old_one() {
    let (mut core, _far, _keys) = lone();
    core.peers.send(1, Outgoing::append(1, 5, 2, batch(1 << 32, 8 << 20)));
    core.turn();
    let ((near, mut new_far), (at_two, _), (mut same, _)) = (sockets(), keys(), keys());
    core.peers.add(link(1, near, at_two));
    core.peers.send(1, small(7));
    core.turn();
    assert!(matches!(core.news[1..], [PeerNews::Down { peer: 1, .. }]), "the new one is no news before the old one is dealt with");
    core.peers.send(1, small(7));
    core.turn();
    core.peers.send(1, small(8));
    core.turn();
    core.turn();
    assert!(matches!(core.news[1..], [PeerNews::Down { peer: 1, .. }, PeerNews::Up(1)]));
    let expected = sealed(&mut same, &small(8));
    let mut came = vec![0; expected.len()];
    new_far.read_exact(&mut came).unwrap();
    assert!(came == expected, "what was meant for the old link is not sent on the new one");
    core.until(|core| core.peers.conns.len() == 1);
}

#[test]
fn a_disconnected_peer_says_nothing_more() {
    let (mut core, mut far, mut keys) = lone();
    far.write_all(&[sealed(&mut keys, &small(1)), sealed(&mut keys, &small(2))].concat()).unwrap();
    core.handle_some();
    assert!(matches!(core.peers.next_news(), Some(PeerNews::Message { peer: 1, .. })));
    core.peers.disconnect(1, "it made no sense");
    core.peers.send(1, small(3));
    assert!(matches!(core.peers.next_news(), Some(PeerNews::Down { peer: 1, .. })));
    assert!(core.peers.next_news().is_none());
    core.until(|core| core.peers.conns.is_empty());
}

#[test]
fn nothing_more_is_received_until_the_news_is_taken() {
    let (mut core, mut far, mut keys) = lone();
    far.write_all(&sealed(&mut keys, &small(1))).unwrap();
    core.handle_some();
    core.peers.tick(&mut core.ring, 0);
    let receives = |core: &Core| core.peers.conns.iter().any(|(_, conn)| conn.receiving);
    assert!(!receives(&core));
    assert!(core.peers.next_news().is_some());
    core.peers.tick(&mut core.ring, 0);
    assert!(receives(&core));
}

#[test]
fn a_peer_that_takes_nothing_loses_its_link() {
    let (mut core, _far, _keys) = lone();
    let message = Outgoing::append(1, 5, 2, batch(1 << 32, 8 << 20));
    for _ in 0..PEER_QUEUE_BYTES_MAX / message.bytes() {
        core.peers.send(1, message.clone());
        core.turn();
    }
    assert!(core.down().is_none());
    core.peers.send(1, message.clone());
    core.turn();
    assert!(core.down().is_some_and(|why| why.contains("does not take")));
    core.until(|core| core.peers.conns.is_empty());
    assert_eq!(Arc::strong_count(message.batch.as_ref().unwrap()), 1);
}

#[test]
fn a_ring_that_goes_while_a_link_is_busy_gives_its_memory_back() {
    let (mut core, _far, _keys) = lone();
    let message = Outgoing::append(1, 5, 2, batch(1 << 32, 8 << 20));
    core.peers.send(1, message.clone());
    core.turn();
    drop(core.ring);
    assert_eq!(Arc::strong_count(message.batch.as_ref().unwrap()), 1);
}
