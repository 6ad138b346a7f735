//! The atomics and cells that the rings are built from: the standard ones, or loom's when the rings are model-checked
//! (feature `loom`). Adds only padding. Refuses to be used outside the rings: everything else has no need of it.

#[cfg(not(feature = "loom"))]
pub use std::{
    cell::UnsafeCell,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

#[cfg(feature = "loom")]
pub use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

/// A value alone on its cache lines: two of 64 bytes, because the hardware prefetches them in pairs.
#[repr(align(128))]
pub struct Padded<T>(pub T);
