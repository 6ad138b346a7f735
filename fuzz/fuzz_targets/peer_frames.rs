//! What arrives on a link, in pieces of any size: as it stands, when nothing may come out, and sealed by a peer that knows
//! the keys, when what it says is what is read. Whatever decodes as a message encodes to bytes that decode to the same.
#![no_main]

use falconer::peer::{Frame, Handshake, Introduction, Receiver, Secret, SessionKeys, frame_around};
use falconer::zab::message::Message;
use libfuzzer_sys::fuzz_target;

/// Keys of both ends of a link.
fn session() -> (SessionKeys, SessionKeys) {
    let us = |server| Introduction { server, cluster: 7, has_history: true, incarnation: 9 };
    let mut heard = vec![Vec::new()];
    let mut dials = Handshake::dial(us(2), 1, Secret::none(), [1; 32], &mut heard[0]);
    let mut listens = Handshake::listen(us(1), vec![2], Secret::none(), [2; 32]);
    let mut keys = Vec::new();
    for step in 0..4 {
        let side = if step % 2 == 0 { &mut listens } else { &mut dials };
        let (mut out, mut said) = (Vec::new(), heard.pop().expect("the other side speaks"));
        while !said.is_empty() {
            let rest = said.split_off(side.wanted().min(said.len()));
            keys.extend(side.receive(&said, &mut out).expect("they agree").map(|established| established.keys));
            said = rest;
        }
        heard.push(out);
    }
    let dialled = keys.pop().expect("both get through");
    (dialled, keys.pop().expect("both get through"))
}

/// What comes out until it is over or something is wrong.
fn read(mut bytes: &[u8], piece: usize) -> Vec<Frame> {
    let mut receiver = Receiver::new(session().1.receive);
    while !bytes.is_empty() {
        let mut room = receiver.room();
        let mut filled = 0;
        for part in room.parts_mut() {
            let count = part.len().min(piece - filled).min(bytes.len());
            part[..count].copy_from_slice(&bytes[..count]);
            (bytes, filled) = (&bytes[count..], filled + count);
        }
        assert!(filled > 0, "there is always room");
        if receiver.filled(room, filled).is_err() {
            break;
        }
    }
    std::iter::from_fn(|| receiver.next_frame()).collect()
}

fuzz_target!(|data: &[u8]| {
    let Some((&[piece, fields, batch], bytes)) = data.split_first_chunk::<3>() else { return };
    let piece = usize::from(piece) + 1;
    assert!(read(bytes, piece).is_empty(), "nothing unsealed comes out");
    let mut keys = session().0;
    let (mut sealed, mut sent, mut rest) = (Vec::new(), Vec::new(), bytes);
    while !rest.is_empty() {
        let fields = rest.split_off(..(usize::from(fields) + 1).min(rest.len())).expect("it is within");
        let batch = rest.split_off(..usize::from(batch).min(rest.len())).expect("it is within");
        let head = [&((fields.len() + batch.len()) as u32).to_le_bytes(), fields].concat();
        let (before, mac) = frame_around(&mut keys.send, &head, batch);
        sealed.extend([&before, &head[..], batch, &mac].concat());
        sent.push((fields, batch));
    }
    let frames = read(&sealed, piece);
    assert_eq!(frames.len(), sent.len());
    for (Frame { fields, batch }, (sent_fields, sent_batch)) in frames.into_iter().zip(sent) {
        assert!(fields == sent_fields && batch.as_ref().map_or(&[][..], |batch| batch.bytes()) == sent_batch);
        let message = match batch {
            Some(batch) => Message::with_batch(&fields, batch),
            None => Message::decode(&fields),
        };
        let Ok(message) = message else { continue };
        let mut again = Vec::new();
        message.encode(&mut again);
        assert_eq!(Message::decode(&again[4..]).as_ref(), Ok(&message));
    }
});
