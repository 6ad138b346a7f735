//! The path of a request: Conn frames it, Replica answers reads and applies transactions, prepare and Node order writes.
//! Pure code: time and randomness come in as arguments, effects go out as values.
//! Refuses to touch sockets, files, clocks and threads.

pub mod auth;
pub mod bounds;
pub mod conn;
pub mod deadlines;
mod extension;
pub mod latency;
pub mod message;
pub mod node;
pub mod overlay;
pub mod prepare;
pub mod quota;
pub mod reads;
pub mod replica;

#[cfg(test)]
mod tests;
