//! The simulator: the shipped brains and formats in one process, with every ring, socket, disk and clock under a seed.
//! Refuses to be clever: the world moves bytes in random order, clients ask and a checker judges.

pub mod ask;
pub mod checker;
pub mod client;
pub mod disk;
pub mod linear;
pub mod model;
pub mod random;
pub mod workload;
pub mod world;
