//! Links between servers, the pure part: the handshake by which two servers prove who they are, the seal on every frame
//! after it, and which buffer the next bytes belong into. docs/peers.md draws the bytes and says what this protects from.
//!
//! ```text
//! connection ── Handshake ──> Seal for each direction
//! bytes ──> Receiver ──> Frame: fields, and a batch in the buffer that the log will write
//! ```
//! No socket, clock or randomness; nonces are inputs. Refuses to know what a message says, and to hide it: see docs/peers.md.

mod handshake;
mod receive;
mod refusal;
mod seal;
mod secret;

#[cfg(test)]
mod tests;

pub use handshake::{Established, HANDSHAKE_BYTES_MAX, Handshake, Introduction};
pub use receive::{BadFrame, Frame, Receiver, Room};
pub use refusal::{Refusal, Told};
pub use seal::{MAC_BYTES, PING, Seal, SessionKeys, frame_around};
pub use secret::Secret;
