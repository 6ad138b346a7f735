//! Two sides in one process, and whatever may come between them: every refusal, and every way to change, repeat, leave out,
//! reorder and reflect what was sent. Refuses to be satisfied with "some error": who notices, and what, is asserted.

use super::*;
use crate::limits::{PEER_FRAME_BYTES_MAX, PEER_READ_AHEAD_BYTES};
use crate::wire::raw_batch::RawBatch;
use proptest::prelude::*;

const CLUSTER: u128 = 0xfeed;

fn us(server: u16) -> Introduction {
    Introduction { server, cluster: CLUSTER, has_history: true, incarnation: 100 + u128::from(server) }
}

fn secret() -> Secret {
    Secret::new(b"a secret of some length")
}

/// One side of a connection, and what it has come to.
struct Side {
    handshake: Handshake,
    outcome: Option<Result<Established, Refusal>>,
    /// What it has read.
    read: usize,
}

impl Side {
    fn new(handshake: Handshake) -> Side {
        Side { handshake, outcome: None, read: 0 }
    }

    /// Takes what it wants of `bytes`, in pieces; returns what it says.
    fn hear(&mut self, bytes: &mut Vec<u8>, piece: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while self.outcome.is_none() && !bytes.is_empty() {
            let taken: Vec<u8> = bytes.drain(..self.handshake.wanted().min(piece).min(bytes.len())).collect();
            self.read += taken.len();
            self.outcome = self.handshake.receive(&taken, &mut out).transpose();
        }
        out
    }
}

/// Who dials, who listens, and a word for each message on the way; returns both outcomes.
fn talk(dials: Handshake, first: Vec<u8>, listens: Handshake, meddle: &mut dyn FnMut(usize, &mut Vec<u8>)) -> [Side; 2] {
    let mut sides = [Side::new(listens), Side::new(dials)];
    let mut message = first;
    for step in 0..6 {
        meddle(step, &mut message);
        message = sides[step % 2].hear(&mut message, 7);
    }
    let [listens, dials] = sides;
    [dials, listens]
}

fn dial(me: Introduction, peer: u16, secret: Secret) -> (Handshake, Vec<u8>) {
    let mut first = Vec::new();
    let dials = Handshake::dial(me, peer, secret, [7; 32], &mut first);
    (dials, first)
}

fn shake(me: Introduction, peer: u16, mine: Secret, other: Introduction, theirs: Secret) -> [Option<Result<Introduction, Refusal>>; 2] {
    let (dials, first) = dial(me, peer, mine);
    let listens = Handshake::listen(other, vec![1, 2, 3], theirs, [8; 32]);
    talk(dials, first, listens, &mut |_, _| {}).map(|side| side.outcome.map(|outcome| outcome.map(|e| e.peer)))
}

/// Keys of both ends: of who dialled, and of who listened.
fn session() -> (SessionKeys, SessionKeys) {
    let (dials, first) = dial(us(2), 1, secret());
    let [dials, listens] = talk(dials, first, Handshake::listen(us(1), vec![2], secret(), [8; 32]), &mut |_, _| {});
    (dials.outcome.unwrap().ok().unwrap().keys, listens.outcome.unwrap().ok().unwrap().keys)
}

#[test]
fn two_servers_get_to_know_each_other() {
    for secret in [secret(), Secret::none()] {
        assert_eq!(shake(us(2), 1, secret.clone(), us(1), secret), [Some(Ok(us(1))), Some(Ok(us(2)))]);
    }
    let fresh = Introduction { has_history: false, cluster: 5, ..us(2) };
    assert_eq!(shake(fresh, 1, secret(), us(1), secret()), [Some(Ok(us(1))), Some(Ok(fresh))], "without data the cluster is open");
}

#[test]
fn every_refusal_is_told_apart_and_told_to_the_other_side() {
    let by_peer = |told| Some(Err(Refusal::ByPeer(told)));
    let stray = Introduction { cluster: 5, ..us(2) };
    let wrong = Secret::new(b"another secret of some length");
    let cases = [
        (shake(us(9), 1, secret(), us(1), secret()), Refusal::Unknown(9), Told::Unknown),
        (shake(us(1), 1, secret(), us(1), secret()), Refusal::Mine(1), Told::Mine),
        (shake(us(3), 1, secret(), us(2), secret()), Refusal::NotMe(1), Told::NotMe),
        (shake(us(1), 2, secret(), us(2), secret()), Refusal::Direction(1), Told::Direction),
        (shake(us(2), 1, wrong, us(1), secret()), Refusal::SecretWrong, Told::Secret),
        (shake(us(2), 1, Secret::none(), us(1), secret()), Refusal::SecretMissing, Told::Secret),
        (shake(us(2), 1, secret(), us(1), Secret::none()), Refusal::SecretUnexpected, Told::Secret),
        (shake(stray, 1, secret(), us(1), secret()), Refusal::Cluster { ours: CLUSTER, theirs: 5 }, Told::Cluster),
    ];
    for (outcomes, refusal, told) in cases {
        assert_eq!(outcomes, [by_peer(told), Some(Err(refusal))], "{refusal}");
    }
}

#[test]
fn who_dials_refuses_too() {
    // A listener that claims to be another server than was dialled, and one that speaks a later version.
    let answer = |change: &dyn Fn(&mut Vec<u8>)| {
        let (dials, first) = dial(us(3), 1, secret());
        let listens = Handshake::listen(us(1), vec![3], secret(), [8; 32]);
        let meddle = &mut |step: usize, bytes: &mut Vec<u8>| {
            if step == 1 {
                change(bytes)
            }
        };
        talk(dials, first, listens, meddle).map(|side| side.outcome.map(|outcome| outcome.map(|e| e.peer)))
    };
    let other = answer(&|bytes| bytes[10] = 2);
    assert_eq!(other, [Some(Err(Refusal::NotDialled { wanted: 1, found: 2 })), None]);
    let later = answer(&|bytes| bytes[4..8].copy_from_slice(&[9, 0, 8, 0]));
    assert_eq!(later, [Some(Err(Refusal::Version { oldest: 8, newest: 9 })), Some(Err(Refusal::ByPeer(Told::Version)))]);
    assert_eq!(answer(&|bytes| *bytes = b"HTTP/1.1 400 Bad Request".to_vec())[0], Some(Err(Refusal::Stranger)));
    assert_eq!(answer(&|bytes| *bytes = b"FREF\x63\0\0\0".to_vec())[0], Some(Err(Refusal::ByPeer(Told::Other(99)))));
}

#[test]
fn little_is_read_of_a_stranger() {
    for garbage in [&b"GET / HTTP/1.1\r\n"[..], &[0; 500], &[0xff; 500], b"FPRF................................."] {
        let mut side = Side::new(Handshake::listen(us(1), vec![2], secret(), [8; 32]));
        assert!(side.hear(&mut garbage.to_vec(), 100).is_empty(), "a stranger is told nothing");
        assert!(matches!(side.outcome, Some(Err(Refusal::Stranger))));
        assert!(side.read <= HANDSHAKE_BYTES_MAX);
    }
    let (dials, first) = dial(us(2), 1, secret());
    let [dials, listens] = talk(dials, first, Handshake::listen(us(1), vec![2], secret(), [8; 32]), &mut |_, _| {});
    assert!(dials.read <= HANDSHAKE_BYTES_MAX && listens.read == HANDSHAKE_BYTES_MAX);
}

#[test]
fn what_was_said_on_one_connection_is_of_no_use_on_another() {
    let mut heard = Vec::new();
    let (dials, first) = dial(us(2), 1, secret());
    let listens = Handshake::listen(us(1), vec![2], secret(), [8; 32]);
    talk(dials, first, listens, &mut |step, bytes| {
        if step % 2 == 0 {
            heard.push(bytes.clone())
        }
    });
    let mut replay = Side::new(Handshake::listen(us(1), vec![2], secret(), [9; 32]));
    for mut message in heard {
        replay.hear(&mut message, 80);
    }
    assert!(matches!(replay.outcome, Some(Err(Refusal::SecretWrong))));
}

#[test]
fn a_mirror_knows_no_secret() {
    // It answers with a Hello of its own making and sends the proof back that it gets.
    let mut dials = Side::new(dial(us(2), 1, secret()).0);
    let mut mirror = Vec::new();
    Handshake::dial(us(1), 2, secret(), [7; 32], &mut mirror);
    let mut proof = dials.hear(&mut mirror, 80);
    dials.hear(&mut proof, 80);
    assert!(matches!(dials.outcome, Some(Err(Refusal::SecretWrong))));
}

#[test]
fn no_bit_of_a_handshake_can_be_changed() {
    for (step, bytes) in [(0, 80), (1, 80), (2, 36), (3, 36)] {
        for bit in 0..bytes * 8 {
            let (dials, first) = dial(us(2), 1, secret());
            let listens = Handshake::listen(us(1), vec![2], secret(), [8; 32]);
            let sides = talk(dials, first, listens, &mut |at, message| {
                if at == step {
                    message[bit / 8] ^= 1 << (bit % 8)
                }
            });
            let established = sides.iter().filter(|side| matches!(side.outcome, Some(Ok(_)))).count();
            assert!(established == usize::from(step == 3), "bit {bit} of message {step}");
            assert!(sides.iter().all(|side| !matches!(side.outcome, Some(Ok(_))) || side.handshake.claimed() == Some(2)));
        }
    }
}

// ---- frames

/// A message as its sender has it: length and fields, and a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Sent {
    head: Vec<u8>,
    batch: Vec<u8>,
}

impl Sent {
    fn new(fields: &[u8], batch: &[u8]) -> Sent {
        let mut head = ((fields.len() + batch.len()) as u32).to_le_bytes().to_vec();
        head.extend_from_slice(fields);
        Sent { head, batch: batch.to_vec() }
    }

    fn sealed(&self, seal: &mut Seal) -> Vec<u8> {
        let (before, mac) = frame_around(seal, &self.head, &self.batch);
        [&before, &self.head[..], &self.batch, &mac].concat()
    }

    fn frame(&self) -> Frame {
        let batch = (!self.batch.is_empty()).then(|| RawBatch::copy_of(&self.batch));
        Frame { fields: self.head[4..].to_vec(), batch }
    }
}

/// Gives the receiver all bytes, as many at a time as `pieces` says, over and over. Returns all that comes out, and what is
/// wrong with the rest.
fn deliver(receiver: &mut Receiver, mut bytes: &[u8], pieces: &[usize]) -> (Vec<Frame>, Option<BadFrame>) {
    let (mut frames, mut bad) = (Vec::new(), None);
    for piece in pieces.iter().copied().cycle() {
        let mut room = receiver.room();
        let (mut filled, mut left) = (0, piece.min(bytes.len()));
        for part in room.parts_mut() {
            let count = part.len().min(left);
            part[..count].copy_from_slice(&bytes[filled..filled + count]);
            (filled, left) = (filled + count, left - count);
        }
        assert!(filled > 0 || bytes.is_empty(), "there is always room");
        bytes = &bytes[filled..];
        bad = receiver.filled(room, filled).err();
        frames.extend(std::iter::from_fn(|| receiver.next_frame()));
        if bytes.is_empty() || bad.is_some() {
            break;
        }
    }
    (frames, bad)
}

fn any_message() -> impl Strategy<Value = Sent> {
    let fields = prop_oneof![8 => 1..200usize, 1 => (PEER_READ_AHEAD_BYTES - 100)..(PEER_READ_AHEAD_BYTES + 100), 1 => 30_000..40_000usize];
    let batch = prop_oneof![3 => Just(0), 3 => 1..5000usize, 1 => 10_000..70_000usize];
    (fields, batch, any::<u8>()).prop_map(|(fields, batch, salt)| {
        let bytes: Vec<u8> = (0..fields + batch).map(|i| (i as u8).wrapping_mul(31).wrapping_add(salt)).collect();
        Sent::new(&bytes[..fields], &bytes[fields..])
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn messages_arrive_as_they_were_sent_however_they_are_cut(
        messages in prop::collection::vec(any_message(), 1..12), pieces in prop::collection::vec(1..20_000usize, 1..20)
    ) {
        let (mut from, to) = session();
        let bytes: Vec<u8> = messages.iter().flat_map(|message| message.sealed(&mut from.send)).collect();
        let (frames, bad) = deliver(&mut Receiver::new(to.receive), &bytes, &pieces);
        prop_assert!(bad.is_none());
        prop_assert!(frames == messages.iter().map(Sent::frame).collect::<Vec<_>>());
    }

    #[test]
    fn a_changed_bit_is_noticed_and_nothing_wrong_comes_out(
        messages in prop::collection::vec(any_message(), 1..6), at in any::<prop::sample::Index>(), bit in 0..8u32, piece in 1..20_000usize
    ) {
        let (mut from, to) = session();
        let sealed: Vec<Vec<u8>> = messages.iter().map(|message| message.sealed(&mut from.send)).collect();
        let mut bytes = sealed.concat();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        // A length that was changed can make it wait for more than comes; more is what it gets on a link that lives.
        let (frames, _) = deliver(&mut Receiver::new(to.receive), &bytes, &[piece]);
        let mut ends = sealed.iter().scan(0, |end, frame| { *end += frame.len(); Some(*end) });
        let whole = ends.position(|end| at < end).unwrap();
        prop_assert!(frames.len() <= whole);
        prop_assert!(frames.iter().zip(&messages).all(|(frame, message)| *frame == message.frame()));
    }
}

#[test]
fn nothing_can_be_repeated_left_out_swapped_or_sent_back() {
    let messages = [Sent::new(b"first", b""), Sent::new(b"second", &[7; 5000]), Sent::new(b"third", b"")];
    let read = |order: &[usize]| {
        let (mut from, to) = session();
        let sealed: Vec<Vec<u8>> = messages.iter().map(|message| message.sealed(&mut from.send)).collect();
        let bytes: Vec<u8> = order.iter().flat_map(|index| sealed[*index].clone()).collect();
        let (frames, bad) = deliver(&mut Receiver::new(to.receive), &bytes, &[usize::MAX]);
        (bad, frames.len())
    };
    assert_eq!(read(&[0, 1, 2]), (None, 3));
    for (order, good) in [(&[0, 0][..], 1), (&[0, 2], 1), (&[1, 0, 2], 0), (&[0, 1, 1], 2), (&[2], 0), (&[0, 1, 0], 2)] {
        let (bad, frames) = read(order);
        assert_eq!((bad, frames), (Some(BadFrame::Seal), good), "{order:?}");
    }
    let (mut from, _) = session();
    let back = messages[0].sealed(&mut from.send);
    assert_eq!(deliver(&mut Receiver::new(from.receive), &back, &[99]).1, Some(BadFrame::Seal));
}

#[test]
fn after_a_bad_frame_nothing_is_read_any_more() {
    let (mut from, to) = session();
    let mut receiver = Receiver::new(to.receive);
    assert!(deliver(&mut receiver, &[1; 100], &[100]).1.is_some());
    let good = Sent::new(b"good", b"").sealed(&mut from.send);
    let (frames, bad) = deliver(&mut receiver, &good, &[100]);
    assert!(frames.is_empty() && bad.is_some());
}

#[test]
fn pings_say_nothing_and_count() {
    let (mut from, to) = session();
    let ping = |seal: &mut Seal| {
        let (before, mac) = frame_around(seal, PING, &[]);
        [&before, PING, &mac].concat()
    };
    let bytes = [ping(&mut from.send), Sent::new(b"a", b"").sealed(&mut from.send), ping(&mut from.send)].concat();
    let mut receiver = Receiver::new(to.receive);
    assert_eq!(deliver(&mut receiver, &bytes, &[3]), (vec![Sent::new(b"a", b"").frame()], None));
    let bytes = ping(&mut from.send);
    assert!(deliver(&mut receiver, &[&bytes[..], &bytes].concat(), &[1000]).1.is_some(), "a ping cannot be repeated either");
}

#[test]
fn lengths_that_no_message_has_are_refused_before_there_is_room_for_them() {
    let lengths = |batch: u32, len: u32| {
        let bytes = [batch.to_le_bytes(), len.to_le_bytes()].concat();
        deliver(&mut Receiver::new(session().1.receive), &bytes, &[100]).1
    };
    let max = PEER_FRAME_BYTES_MAX as u32;
    assert_eq!(lengths(0, max + 1), Some(BadFrame::Length(PEER_FRAME_BYTES_MAX + 1)));
    assert_eq!(lengths(u32::MAX, u32::MAX), Some(BadFrame::Length(u32::MAX as usize)));
    assert_eq!(lengths(10, 10), Some(BadFrame::Shape));
    assert_eq!(lengths(1, 0), Some(BadFrame::Shape));
    assert_eq!(lengths(max - 1, max), None);
}

#[test]
fn batches_in_a_stream_go_where_the_log_will_write_them_from() {
    let (mut from, to) = session();
    let messages: Vec<Sent> = (0..10).map(|i| Sent::new(&[i; 21], &[i; 200_000])).collect();
    let bytes: Vec<u8> = messages.iter().flat_map(|message| message.sealed(&mut from.send)).collect();
    let mut receiver = Receiver::new(to.receive);
    let (mut at, mut moved) = (0, 0);
    while at < bytes.len() {
        let mut room = receiver.room();
        let [fields, batch, link] = room.parts_mut().map(|part| {
            let count = part.len().min(bytes.len() - at);
            part[..count].copy_from_slice(&bytes[at..at + count]);
            at += count;
            count
        });
        moved += link;
        receiver.filled(room, fields + batch + link).unwrap();
    }
    let frames: Vec<Frame> = std::iter::from_fn(|| receiver.next_frame()).collect();
    assert!(frames == messages.iter().map(Sent::frame).collect::<Vec<_>>());
    assert!(moved <= PEER_READ_AHEAD_BYTES + 10 * 150, "{moved} of {} bytes were moved", bytes.len());
}
