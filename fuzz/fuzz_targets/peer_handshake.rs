//! A stranger on the port for servers, and one where a server dials: whatever it says, it is not let in, little is read of
//! it, and it is told no more than a Hello and a refusal.
#![no_main]

use falconer::peer::{HANDSHAKE_BYTES_MAX, Handshake, Introduction, Secret};
use libfuzzer_sys::fuzz_target;

fn meet(mut handshake: Handshake, mut said: &[u8], pieces: usize) {
    let (mut out, mut read) = (Vec::new(), 0);
    while !said.is_empty() {
        let (next, rest) = said.split_at(handshake.wanted().min(pieces).min(said.len()));
        (said, read) = (rest, read + next.len());
        match handshake.receive(next, &mut out) {
            Ok(None) => assert!(handshake.wanted() > 0),
            Ok(Some(_)) => panic!("it does not know the secret"),
            Err(_) => break,
        }
    }
    assert!(read <= HANDSHAKE_BYTES_MAX && out.len() <= HANDSHAKE_BYTES_MAX);
}

fuzz_target!(|data: &[u8]| {
    let Some((pieces, said)) = data.split_first() else { return };
    let me = Introduction { server: 1, cluster: 7, has_history: true, incarnation: 9 };
    let secret = Secret::new(b"nobody in here knows it");
    let pieces = usize::from(*pieces).max(1);
    meet(Handshake::listen(me, vec![2, 3], secret.clone(), [5; 32]), said, pieces);
    meet(Handshake::dial(Introduction { server: 3, ..me }, 1, secret, [5; 32], &mut Vec::new()), said, pieces);
});
