//! The simulator: the shipped brains and formats of a whole ensemble in one process, with every ring, socket, link, disk and
//! clock under a seed. docs/simulator.md says what it breaks and what it checks.
//! Refuses to be clever: the world moves bytes, clients ask, a checker and an all-knowing observer judge.

pub mod ask;
pub mod checker;
pub mod client;
pub mod damage;
pub mod disk;
pub mod ghost;
pub mod linear;
pub mod machine;
pub mod model;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod net;
pub mod plan;
pub mod process;
pub mod random;
pub mod recipes;
pub mod regressions;
pub mod scenario;
pub mod workload;
pub mod world;
