//! What the fuzz targets share: a whole server without sockets and disk, a log to damage, and checksums that hold again
//! after the damage, so that the code behind them is reached. Refuses to judge: the targets assert.

pub mod history;
pub mod input;
pub mod server;
pub mod sums;
