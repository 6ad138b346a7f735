//! Monotonic time as nanoseconds since the program's first look at the clock: small, and easy to subtract.
//! Refuses wall clock time: nothing here may depend on it.

use std::sync::OnceLock;
use std::time::Instant;

static START: OnceLock<Instant> = OnceLock::new();

/// Nanoseconds since the first call.
pub fn now_ns() -> u64 {
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}
