//! Stories about the log on a simulated disk: what is promised must be found again, whatever the disk did meanwhile.

mod crash;
mod damage;
mod feed;
mod follower;
mod replication;
mod space;
pub(crate) mod world;
