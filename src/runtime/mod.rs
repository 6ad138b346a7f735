//! The loops: one ring per core, who runs what, and everything that touches the world. Sockets, files, threads, clocks and
//! glommio are used only here. Executes what the brains say. Refuses to decide anything about data or protocol.

pub mod files;
