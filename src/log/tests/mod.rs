//! Stories about the log on a simulated disk: what is promised must be found again, whatever the disk did meanwhile.

mod crash;
mod damage;
mod feed;
mod follower;
mod power;
mod promise;
mod replication;
mod space;
mod straight;
mod truncation;
pub(crate) mod world;
