//! Which bytes exist on sockets and in the log: jute primitives, client records, requests and responses,
//! the transaction and the batch. Buffers in, buffers out. Refuses to know what any of it does.

pub mod aligned;
pub mod archived;
pub mod batch;
pub mod extension;
pub mod jute;
pub mod raw_batch;
pub mod record;
pub mod request;
pub mod response;
pub mod txn;
