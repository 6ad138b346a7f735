//! A peer's snapshot takes the place of what a running server has: the States are loaded beside the cores' loops, one thread
//! each, so that none of them misses a beat. The pipeline's part stands in `pipeline::ensemble`.
//! Refuses to touch the States in use: the cores swap them, all at one point of the history.

use super::core::{PipelineMail, Server};
use super::files::FileDisk;
use super::pipeline::die;
use crate::log::disk::Disk;
use crate::log::snapshot::{self, SnapshotPointer};
use crate::tree::State;
use crate::tree::snapshot::Loader;
use std::sync::Arc;
use std::thread;

/// Loads the installed snapshot once for every core; each State is posted to the pipeline's core as it is ready.
pub fn load_states(disk: &Arc<FileDisk>, server: &Arc<Server>, pointer: SnapshotPointer, cluster: u128) {
    for core in 0..server.cores.len() {
        let (disk, server) = (disk.clone(), server.clone());
        let with_digest = core == server.pipeline;
        let load = move || {
            let state = Box::new(load(&disk, &pointer, cluster, with_digest));
            server.post_pipeline(PipelineMail::StateLoaded { core, state });
        };
        if let Err(error) = thread::Builder::new().name(format!("load-{core}")).spawn(load) {
            die(&format_args!("the leader's snapshot is stored, but cannot be loaded: a thread could not be started: {error}"));
        }
    }
}

/// It was verified when it was complete: what is wrong with it now is the disk's fault.
fn load(disk: &FileDisk, pointer: &SnapshotPointer, cluster: u128, with_digest: bool) -> State {
    let name = pointer.file_name();
    let mut loader = Loader::new(with_digest);
    let mut bad = None;
    let push = |chunk: &[u8]| bad = bad.take().or_else(|| loader.push(chunk).err());
    match snapshot::read(disk, &name, cluster, push, |_| ()) {
        Ok(read) if read == *pointer => {}
        Ok(_) => die(&format_args!("{}: it has changed since it was stored", disk.path(&name))),
        Err(error) => die(&format_args!("{}: {error}", disk.path(&name))),
    }
    if let Some(bad) = bad {
        die(&format_args!("{}: the leader's snapshot is intact, but its records make no sense: {bad:?}", disk.path(&name)));
    }
    loader.finish().unwrap_or_else(|bad| die(&format_args!("{}: the leader's snapshot is no whole tree: {bad:?}", disk.path(&name))))
}
