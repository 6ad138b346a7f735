//! What a machine gives at most, as two small programs on the server's own ring: `canned-server` answers every request with
//! a frame of the right size and knows nothing, `bare-log` makes blocks durable and serves nobody. A server cannot be
//! cheaper than the first nor faster than the second. Refuses to be a server: nothing that is sent here is kept.

pub mod answers;
pub mod serving;
