//! The simulator: the shipped brains and formats in one process, with every ring, socket, disk and clock under a seed.
//! Refuses to be clever: the world moves bytes in random order, clients and history judge.

pub mod client;
pub mod disk;
pub mod history;
pub mod random;
pub mod world;
