//! The plain threads for work that blocks. One runs the Journal's jobs, one at a time: preparing segments in slices, writing
//! superblocks, removing files; a promise never waits for anything longer. The other writes snapshot files, a bounded
//! number of chunks behind the walk. What is done is posted to the pipeline's core.
//! Refuses to decide what is due: the Journal does.

use super::core::{Mail, Server};
use super::files::FileDisk;
use crate::log::Job;
use crate::log::disk::Errno;
use crate::log::snapshot::{SnapshotFile, SnapshotPointer};
use crate::wire::batch::Position;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

/// Chunks that may wait to be written.
const CHUNKS_WAITING_MAX: usize = 8;

/// Work for the threads.
pub enum Task {
    Job(Job),
    /// A snapshot cut here begins; its chunks follow.
    BeginSnapshot {
        position: Position,
        flow: Arc<Flow>,
    },
    SnapshotChunk(Vec<u8>),
    EndSnapshot,
}

/// Between the core that walks and the thread that writes: how far ahead the walk is, and whether it is in vain.
#[derive(Default)]
pub struct Flow {
    waiting: AtomicUsize,
    failed: AtomicBool,
}

impl Flow {
    /// Whether the walk may go on.
    pub fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < CHUNKS_WAITING_MAX
    }

    /// A chunk was sent.
    pub fn sent(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// Writing has failed: the walk can stop.
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }
}

/// Sends tasks to the threads. They end when the last of these is gone.
#[derive(Clone)]
pub struct Background {
    journal: mpsc::Sender<Task>,
    snapshots: mpsc::Sender<Task>,
}

impl Background {
    /// Starts the threads.
    pub fn start(disk: Arc<FileDisk>, server: Arc<Server>, cluster: u128) -> std::io::Result<Background> {
        let journal = spawn("journal", disk.clone(), server.clone(), cluster)?;
        let snapshots = spawn("snapshots", disk, server, cluster)?;
        Ok(Background { journal, snapshots })
    }

    pub fn send(&self, task: Task) {
        let lane = if matches!(task, Task::Job(_)) { &self.journal } else { &self.snapshots };
        lane.send(task).expect("the background threads end after the cores");
    }
}

fn spawn(name: &str, disk: Arc<FileDisk>, server: Arc<Server>, cluster: u128) -> std::io::Result<mpsc::Sender<Task>> {
    let (sender, tasks) = mpsc::channel();
    thread::Builder::new().name(name.into()).spawn(move || {
        let mut writer = Writer { disk: &disk, cluster, current: None };
        for task in tasks {
            if let Some(mail) = writer.run(task) {
                server.pipeline_core().post(mail);
            }
        }
    })?;
    Ok(sender)
}

struct Writer<'d> {
    disk: &'d FileDisk,
    cluster: u128,
    current: Option<(SnapshotFile<'d, FileDisk>, Arc<Flow>)>,
}

impl<'d> Writer<'d> {
    /// Does the task; returns what the pipeline's core has to know.
    fn run(&mut self, task: Task) -> Option<Mail> {
        match task {
            Task::Job(job) => return Some(Mail::JobDone(job.run(self.disk))),
            Task::BeginSnapshot { position, flow } => match SnapshotFile::create(self.disk, self.cluster, position) {
                Ok(file) => self.current = Some((file, flow)),
                Err(errno) => return Some(failed(&flow, errno)),
            },
            Task::SnapshotChunk(chunk) => return self.write(&chunk),
            Task::EndSnapshot => return self.finish().map(Mail::SnapshotWritten),
        }
        None
    }

    fn write(&mut self, chunk: &[u8]) -> Option<Mail> {
        // After a failure the rest of the walk may still be under way.
        let (file, flow) = self.current.as_mut()?;
        flow.waiting.fetch_sub(1, Ordering::Relaxed);
        let errno = file.push(chunk).err()?;
        let (file, flow) = self.current.take().expect("it was there");
        // If even removing it fails, the next start does: the superblock does not name it.
        let _ = file.abandon();
        Some(failed(&flow, errno))
    }

    fn finish(&mut self) -> Option<Result<SnapshotPointer, Errno>> {
        let (file, _) = self.current.take()?;
        Some(file.finish().map_err(|bad| bad.errno()))
    }
}

fn failed(flow: &Flow, errno: Errno) -> Mail {
    flow.failed.store(true, Ordering::Relaxed);
    Mail::SnapshotWritten(Err(errno))
}
