//! The part of the load generator that others need: what stands in the nodes of a run, so that a server without a tree can
//! answer as if it had one. Everything else is the program's own.

#![forbid(unsafe_code)]

pub mod content;
