//! The seal on frames: a MAC over a counter and everything in the frame, with a key that one direction of one connection
//! has for itself. A frame that was changed, left out, repeated, moved or sent back does not verify.
//! Refuses to hide anything: the bytes are sent as they are.
//!
//! ```text
//! batch u32 | length u32 | kind u8, fields | batch | MAC 32        length: of kind, fields and batch
//!     0     |     0      |       -         |   -   | MAC 32        a ping: I am here
//! ```

/// Bytes of a MAC at the end of each frame.
pub const MAC_BYTES: usize = 32;
/// The head of a frame that says nothing but that its sender is alive: a message of length 0.
pub const PING: &[u8] = &[0; 4];

/// Seals frames in one direction, or verifies them: each once, in order.
pub struct Seal {
    key: [u8; 32],
    counter: u64,
}

/// The keys of one connection, as one of its two ends has them.
pub struct SessionKeys {
    pub send: Seal,
    pub receive: Seal,
}

impl Seal {
    pub(super) fn new(key: [u8; 32]) -> Seal {
        Seal { key, counter: 0 }
    }

    fn next(&mut self, parts: &[&[u8]]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&self.counter.to_le_bytes());
        for part in parts {
            hasher.update(part);
        }
        self.counter += 1;
        hasher.finalize()
    }

    /// The MAC of the next frame, whose bytes are these parts in order.
    pub fn seal(&mut self, parts: &[&[u8]]) -> [u8; MAC_BYTES] {
        *self.next(parts).as_bytes()
    }

    /// Whether these parts are the next frame. Takes the same time whatever differs.
    pub fn verify(&mut self, parts: &[&[u8]], mac: &[u8; MAC_BYTES]) -> bool {
        self.next(parts) == *mac
    }
}

/// What goes before and behind a message on the link. `head`: its length and fields; `batch`: what follows them.
pub fn frame_around(seal: &mut Seal, head: &[u8], batch: &[u8]) -> ([u8; 4], [u8; MAC_BYTES]) {
    let before = (batch.len() as u32).to_le_bytes();
    let mac = seal.seal(&[&before, head, batch]);
    (before, mac)
}
