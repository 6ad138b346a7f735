//! Deterministic stand-ins for what the runtime takes from the operating system.
//! Refuses to be used outside of tests and simulations.

pub mod disk;
