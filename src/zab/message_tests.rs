//! The bytes of peer messages: every kind reads back as what was written, and of everything else at most one message: bytes
//! that were changed on the way are refused, or are exactly what some other message looks like.
//! Refuses to ask what a message means.

use super::message::*;
use crate::limits::SNAPSHOT_CHUNK_BYTES;
use crate::log::snapshot::SnapshotPointer;
use crate::wire::aligned::AlignedBuf;
use crate::wire::batch::{BatchBuilder, Position};
use crate::wire::raw_batch::RawBatch;
use crate::wire::txn::{Op, Origin, Txn};
use proptest::prelude::*;
use std::sync::Arc;

fn samples() -> Vec<Message<'static>> {
    let p = |n: u64| Position { zxid: n << 32 | 7, chain: u128::from(n) << 90 | 5 };
    let pointer = SnapshotPointer { position: p(3), bytes: 1 << 40, digest: 77 };
    vec![
        Message::PreVote { round: 9, last: p(1) },
        Message::PreVoteReply { round: 9, granted: true, member: false, cluster: 3, promised: 4, last: p(2) },
        Message::NewEpoch { epoch: 5, term: Term::Bootstrap, cluster: 1 << 100, last: p(1) },
        Message::AckEpoch { epoch: 5, attempt: 6, granted: true, member: true, promised: 5, table: vec![p(1), p(2)] },
        Message::SyncStart { epoch: 5, attempt: 6, sync: Sync::Diff },
        Message::SyncStart { epoch: 5, attempt: 6, sync: Sync::Trunc(p(1)) },
        Message::SyncStart { epoch: 5, attempt: 6, sync: Sync::Snap(pointer) },
        Message::NeedSnapshot { epoch: 5 },
        Message::SnapshotWanted { epoch: 5, zxid: 8, offset: 9 },
        Message::SnapshotChunk { epoch: 5, zxid: 8, offset: 9, bytes: b"some" },
        Message::Append { epoch: 5, committed: 3, round: 4, batch: None },
        Message::Append { epoch: 5, committed: 3, round: 4, batch: Some(RawBatch::copy_of(b"not a batch")) },
        Message::Ack { epoch: 5, upto: p(4), round: 4, full: true },
        Message::Touch { epoch: 5, round: 4, sessions: vec![-1, 1 << 57] },
        Message::Forward { epoch: 5, boot: 2, shard: 1, submit: b"raw" },
        Message::Answer { epoch: 5, boot: 9, shard: 1, conn: 2, sequence: 3, after: 4, code: AnswerCode::Refused(-1) },
        Message::StepDown,
    ]
}

#[test]
fn messages_read_back() {
    for message in samples() {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        assert_eq!(frame_len(&bytes), Ok(Some(bytes.len())));
        assert_eq!(Message::decode(&bytes[4..]), Ok(message));
    }
}

#[test]
fn short_and_long_frames_are_refused() {
    for message in samples() {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let open_ended = matches!(message, Message::SnapshotChunk { .. } | Message::Append { .. } | Message::Forward { .. });
        for len in 4..bytes.len() - if open_ended { 11 } else { 0 } {
            assert!(Message::decode(&bytes[4..len]).is_err(), "{message:?} cut to {len}");
            assert_eq!(frame_len(&bytes[..len]), Ok(None));
        }
        bytes.push(0);
        assert!(open_ended || Message::decode(&bytes[4..]).is_err(), "{message:?} and a byte");
    }
}

#[test]
fn counts_and_lengths_that_lie_are_refused() {
    assert_eq!(frame_len(&u32::MAX.to_le_bytes()), Err(BadMessage::Length(u32::MAX as usize)));
    assert_eq!(frame_len(&[0; 4]), Err(BadMessage::Length(0)));
    let mut touch = vec![11];
    touch.extend_from_slice(&[0; 12]);
    touch.extend_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(Message::decode(&touch), Err(BadMessage::Shape));
    assert_eq!(Message::decode(&[99]), Err(BadMessage::Kind(99)));
}

#[test]
fn a_batch_may_come_in_a_buffer_of_its_own() {
    let mut bytes = Vec::new();
    Message::Append { epoch: 5, committed: 3, round: 4, batch: None }.encode(&mut bytes);
    let whole = Message::Append { epoch: 5, committed: 3, round: 4, batch: Some(RawBatch::copy_of(b"not a batch")) };
    assert_eq!(Message::with_batch(&bytes[4..], RawBatch::copy_of(b"not a batch")), Ok(whole));
    bytes.extend_from_slice(b"twice");
    assert_eq!(Message::with_batch(&bytes[4..], RawBatch::copy_of(b"not a batch")), Err(BadMessage::Shape));
    assert_eq!(Message::with_batch(&[14], RawBatch::copy_of(b"not a batch")), Err(BadMessage::Shape));
}

#[test]
fn an_append_is_the_same_bytes_with_its_batch_beside_it() {
    let mut builder = BatchBuilder::default();
    let txn = Txn { zxid: 5 << 32, time_ms: 0, session: 0, origin: Origin::default(), op: Op::NewEpoch { leader: 1 } };
    builder.push(&txn).unwrap();
    let batch = Arc::new(builder.close(7, 0, 0, AlignedBuf::with_capacity(4096)));
    let outgoing = Outgoing::append(5, 3, 4, batch.clone());
    let mut bytes = Vec::new();
    Message::Append { epoch: 5, committed: 3, round: 4, batch: Some(RawBatch::copy_of(batch.bytes())) }.encode(&mut bytes);
    assert!(outgoing.to_frame() == bytes && outgoing.bytes() == bytes.len());
    assert_eq!(frame_len(&bytes), Ok(Some(bytes.len())));
}

/// Kinds of messages, as they are numbered on the wire.
const KINDS: std::ops::RangeInclusive<u8> = 1..=14;

/// What a message is made of, whatever its kind.
#[derive(Clone, Debug)]
struct Draw {
    kind: u8,
    choice: u8,
    flags: [bool; 2],
    numbers: [u64; 4],
    wide: [u128; 2],
    bytes: Vec<u8>,
    /// How many epochs after the one before, counter and chain.
    table: Vec<(u8, u32, u128)>,
}

fn draw() -> impl Strategy<Value = Draw> {
    let table = prop::collection::vec((1..u8::MAX, any::<u32>(), any::<u128>()), 1..6);
    // Numbers are small as often as not: zeros and ones are where a shifted field shows.
    let number = || prop_oneof![any::<u64>(), 0..3u64];
    let numbers = [number(), number(), number(), number()];
    let bytes = prop::collection::vec(any::<u8>(), 1..60);
    (KINDS, 0..3u8, any::<[bool; 2]>(), numbers, any::<[u128; 2]>(), bytes, table)
        .prop_map(|(kind, choice, flags, numbers, wide, bytes, table)| Draw { kind, choice, flags, numbers, wide, bytes, table })
}

impl Draw {
    fn message(&self) -> Message<'_> {
        let Draw { flags: [granted, member], numbers: [a, b, c, d], wide: [chain, cluster], ref bytes, .. } = *self;
        let (epoch, position) = (a as u32, Position { zxid: b, chain });
        match self.kind {
            1 => Message::PreVote { round: a, last: position },
            2 => Message::PreVoteReply { round: a, granted, member, cluster, promised: c as u32, last: position },
            3 => {
                let term = [Term::Vote, Term::Bootstrap, Term::Established][usize::from(self.choice)];
                Message::NewEpoch { epoch, term, cluster, last: position }
            }
            4 => Message::AckEpoch { epoch, attempt: c, granted, member, promised: d as u32, table: self.table() },
            5 => {
                let pointer = SnapshotPointer { position, bytes: c, digest: cluster };
                let sync = [Sync::Diff, Sync::Trunc(position), Sync::Snap(pointer)][usize::from(self.choice)];
                Message::SyncStart { epoch, attempt: d, sync }
            }
            6 => Message::NeedSnapshot { epoch },
            7 => Message::SnapshotWanted { epoch, zxid: b, offset: c },
            8 => Message::SnapshotChunk { epoch, zxid: b, offset: c, bytes },
            9 => Message::Append { epoch, committed: b, round: c, batch: granted.then(|| RawBatch::copy_of(bytes)) },
            10 => Message::Ack { epoch, upto: position, round: c, full: granted },
            11 => Message::Touch { epoch, round: c, sessions: bytes.iter().map(|byte| i64::from(*byte) - (d as i64 >> 1)).collect() },
            12 => Message::Forward { epoch, boot: b as u32, shard: c as u16, submit: bytes },
            13 => {
                let code = [AnswerCode::Refused(d as i32), AnswerCode::Drop, AnswerCode::Synced][usize::from(self.choice)];
                let (conn, after) = (chain as u64, cluster as u64);
                Message::Answer { epoch, boot: b as u32, shard: c as u16, conn, sequence: d as u32, after, code }
            }
            14 => Message::StepDown,
            other => unreachable!("kind {other}"),
        }
    }

    fn table(&self) -> Vec<Position> {
        let mut epoch = 0;
        let entry = |&(gap, counter, chain): &(u8, u32, u128)| {
            epoch += u64::from(gap);
            Position { zxid: epoch << 32 | u64::from(counter), chain }
        };
        self.table.iter().map(entry).collect()
    }

    fn frame(&self) -> Vec<u8> {
        let mut frame = Vec::new();
        self.message().encode(&mut frame);
        frame
    }
}

/// What happens to bytes on the way.
#[derive(Clone, Debug)]
enum Mishap {
    Flip(usize, u8),
    Cut(usize),
    Insert(usize, u8),
    Remove(usize),
    Swap(usize, usize),
}

fn mishap() -> impl Strategy<Value = Mishap> {
    prop_oneof![
        (any::<usize>(), 0..8u8).prop_map(|(at, bit)| Mishap::Flip(at, bit)),
        any::<usize>().prop_map(Mishap::Cut),
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Mishap::Insert(at, byte)),
        any::<usize>().prop_map(Mishap::Remove),
        (any::<usize>(), any::<usize>()).prop_map(|(a, b)| Mishap::Swap(a, b)),
    ]
}

impl Mishap {
    fn befalls(&self, bytes: &mut Vec<u8>) {
        let len = bytes.len();
        if len == 0 {
            return;
        }
        match *self {
            Mishap::Flip(at, bit) => bytes[at % len] ^= 1 << bit,
            Mishap::Cut(at) => bytes.truncate(at % len),
            Mishap::Insert(at, byte) => bytes.insert(at % (len + 1), byte),
            Mishap::Remove(at) => drop(bytes.remove(at % len)),
            Mishap::Swap(a, b) => bytes.swap(a % len, b % len),
        }
    }
}

/// Bytes are refused, or they are exactly what the message that was read from them looks like.
fn refused_or_canonical(fields: &[u8]) {
    if let Ok(message) = Message::decode(fields) {
        let mut again = Vec::new();
        message.encode(&mut again);
        assert_eq!(&again[4..], fields, "{message:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_is_said_is_heard(draw in draw()) {
        let frame = draw.frame();
        prop_assert_eq!(frame_len(&frame), Ok(Some(frame.len())));
        prop_assert_eq!(Message::decode(&frame[4..]), Ok(draw.message()));
        prop_assert_eq!(frame[4], draw.kind);
    }

    #[test]
    fn what_was_changed_on_the_way_is_refused_or_another_message(
        draw in draw(),
        mishaps in prop::collection::vec(mishap(), 1..4),
    ) {
        let mut fields = draw.frame().split_off(4);
        mishaps.iter().for_each(|mishap| mishap.befalls(&mut fields));
        refused_or_canonical(&fields);
    }

    #[test]
    fn noise_is_refused_or_a_message(fields in prop::collection::vec(any::<u8>(), 0..120), kind in KINDS) {
        refused_or_canonical(&fields);
        refused_or_canonical(&[&[kind], &fields[..]].concat());
    }

    #[test]
    fn a_length_that_was_changed_never_reaches_beyond_what_is_there(draw in draw(), mishap in mishap(), more in 0..9usize) {
        let mut bytes = draw.frame();
        bytes.resize(bytes.len() + more, 7);
        let mut prefix = bytes[..4].to_vec();
        mishap.befalls(&mut prefix);
        bytes.splice(..4, prefix);
        if let Ok(Some(len)) = frame_len(&bytes) {
            prop_assert!(len > 4 && len <= bytes.len());
        }
    }
}

#[test]
fn a_chunk_is_neither_empty_nor_longer_than_agreed() {
    let chunk = |bytes: &[u8]| {
        let mut frame = Vec::new();
        Message::SnapshotChunk { epoch: 1, zxid: 2, offset: 3, bytes }.encode(&mut frame);
        Message::decode(&frame[4..]).map(|_| ())
    };
    assert_eq!(chunk(&vec![1; SNAPSHOT_CHUNK_BYTES]), Ok(()));
    assert_eq!(chunk(&vec![1; SNAPSHOT_CHUNK_BYTES + 1]), Err(BadMessage::Shape));
    assert_eq!(chunk(&[]), Err(BadMessage::Shape));
}
