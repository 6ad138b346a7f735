//! What servers want done: bytes sent, disks written, files read in the background, observers told.
//! Refuses to decide anything but how long it takes.

use super::*;
use crate::limits::{FEED_BYTES, SNAPSHOT_CHUNK_BYTES};
use crate::log::Effect;
use crate::log::disk::Errno;
use crate::log::feed::{self, FeedError};
use crate::log::incoming::IncomingSnapshot;
use crate::log::snapshot::{self, BadSnapshot, SnapshotFile};
use crate::sim::disk::Fault as DiskFault;
use crate::sim::process::Write;
use crate::zab::positions::epoch as epoch_of;

/// Work beside the pipeline, done at its time.
pub(super) enum Background {
    Feed {
        after: Position,
        token: u64,
    },
    ReadSnapshot {
        peer: u16,
        pointer: SnapshotPointer,
        offset: u64,
    },
    WriteSnapshot {
        pointer: SnapshotPointer,
        offset: u64,
        bytes: Vec<u8>,
        last: bool,
    },
    Snapshot {
        position: Position,
        chunks: Vec<Vec<u8>>,
    },
    /// New States are loaded from it.
    Load(SnapshotPointer),
}

impl World {
    pub(super) fn outs(&mut self, server: u16, incarnation: u64, outs: Vec<Out>) {
        for out in outs {
            match out {
                Out::Send { peer, message } => self.send(server, peer, &message.to_frame()),
                Out::Disconnect { peer, why } => {
                    self.ghost.complains(server, peer, why);
                    self.break_link(server, peer);
                }
                Out::Took(batch) => self.ghost.took(server, &batch),
                Out::Published(batch) => {
                    if self.ghost.published(server, &batch) {
                        self.checker.observe(&batch, self.now_ms());
                    }
                }
                Out::Promised(promise) => self.ghost.promised(server, promise.epoch),
                Out::Truncated(to) => self.ghost.truncated(server, to),
                Out::Installed(pointer) => self.install(server, incarnation, pointer),
                Out::Client { shard, conn, bytes, close } => self.shard_sends(server, incarnation, shard, conn, &bytes, close),
                Out::Feed { after, token } => self.in_background(server, incarnation, Background::Feed { after, token }),
                Out::ReadSnapshot { peer, pointer, offset } => {
                    self.in_background(server, incarnation, Background::ReadSnapshot { peer, pointer, offset });
                }
                Out::WriteSnapshot { pointer, offset, bytes, last } => {
                    self.in_background(server, incarnation, Background::WriteSnapshot { pointer, offset, bytes, last });
                }
                Out::Snapshot { position, chunks } => {
                    self.in_background(server, incarnation, Background::Snapshot { position, chunks });
                }
                Out::Died => return self.crash(server, false, 100_000),
            }
        }
    }

    fn send(&mut self, server: u16, peer: u16, frame: &[u8]) {
        let Some(generation) = self.net.generation(server, peer) else { return };
        let known = self.machines[&server].process.as_ref().and_then(|p| p.links.get(&peer).copied());
        if known != Some(generation) {
            return;
        }
        assert_eq!(frame_len(frame), Ok(Some(frame.len())), "a frame is whole");
        let message = Message::decode(&frame[4..]).expect("servers send messages");
        self.ghost.sends(server, peer, &message);
        if let Some(at_us) = self.net.send(server, peer, frame, self.now_us, &mut self.dice) {
            self.at(at_us, Event::Arrive { from: server, to: peer, generation });
            if matches!(message, Message::Ack { epoch, upto, .. } if upto.zxid > 0 && epoch_of(upto.zxid) < epoch) {
                self.usurp_between(peer, at_us);
            }
        }
    }

    // ---- disks

    /// Starts a write or a job that is waiting.
    pub(super) fn start_io(&mut self, server: u16) {
        let slow = self.slowness(server);
        let delay_us = (80 + self.dice.below(200) as u64) * slow;
        let machine = self.machines.get_mut(&server).expect("it is there");
        let Some(process) = &mut machine.process else { return };
        let incarnation = process.incarnation;
        let write = process.write.is_some() && !std::mem::replace(&mut process.writing, true);
        let job = !process.jobs.is_empty() && !std::mem::replace(&mut machine.job_running, true);
        if write {
            self.after(delay_us, Event::DiskDone { server, incarnation });
        }
        if job {
            self.after(2 * delay_us, Event::JobDone { server, incarnation });
        }
    }

    fn slowness(&self, server: u16) -> u64 {
        let machine = &self.machines[&server];
        if machine.slow_until_us > self.now_us { machine.slow_factor } else { 1 }
    }

    pub(super) fn disk_done(&mut self, server: u16, incarnation: u64) {
        self.with_process(server, incarnation, Event::DiskDone { server, incarnation }, |world, process| {
            let Some(Write { op, slot, offset, frame }) = process.write.take() else { return };
            process.writing = false;
            let now_ms = world.clock_ms(server);
            let fails = std::mem::take(&mut world.machines.get_mut(&server).expect("it is there").fail_next_write);
            let disk = &world.machines[&server].disk;
            let file = disk.open(&file_name(slot)).expect("the disk works").expect("the slot exists");
            if fails {
                disk.strike(disk.ops() + 2, DiskFault::Error(Errno::EIO));
            }
            let result = disk.write_at(&file, offset, frame.bytes()).and_then(|()| disk.sync(&file));
            let mut effects = Vec::new();
            process.journal.written(op, result, now_ms, &mut effects);
            for effect in &effects {
                if let (Ok(()), Effect::Durable(position)) = (result, effect) {
                    world.ghost.durable(server, *position);
                }
            }
            process.journal_effects(effects, now_ms);
            world.wake_pipeline(process, server, 5);
        });
    }

    pub(super) fn job_done(&mut self, server: u16, incarnation: u64) {
        self.with_process(server, incarnation, Event::JobDone { server, incarnation }, |world, process| {
            let Some(job) = process.jobs.pop_front() else { return };
            let (now_ms, roll) = (world.clock_ms(server), world.dice.roll());
            let machine = world.machines.get_mut(&server).expect("it is there");
            machine.job_running = false;
            if std::mem::take(&mut machine.fail_next_job) {
                machine.disk.strike(machine.disk.ops() + 1 + roll % 3, DiskFault::Error(Errno::EIO));
            }
            let result = job.run(&machine.disk);
            let mut effects = Vec::new();
            process.journal.background_done(result, now_ms, &mut effects);
            process.journal_effects(effects, now_ms);
            world.wake_pipeline(process, server, 5);
        });
    }

    // ---- in the background

    fn in_background(&mut self, server: u16, incarnation: u64, work: Background) {
        let index = self.next_background;
        self.next_background += 1;
        self.background.insert(index, work);
        let delay_us = (300 + self.dice.below(2000) as u64) * self.slowness(server);
        self.after(delay_us, Event::Background { server, incarnation, index });
    }

    pub(super) fn background_done(&mut self, server: u16, incarnation: u64, index: u64) {
        let event = Event::Background { server, incarnation, index };
        self.with_process(server, incarnation, event, |world, process| {
            let Some(work) = world.background.remove(&index) else { return };
            let now_ms = world.clock_ms(server);
            let disk = &world.machines[&server].disk;
            match work {
                Background::Feed { after, token } => {
                    let batches = match feed::read(disk, &process.journal.reader_map(), after, FEED_BYTES) {
                        Ok(batches) => Some(batches),
                        Err(FeedError::Gone) => None,
                        Err(other) => return world.reads_badly(process, server, &other),
                    };
                    process.node.fed(token, batches, now_ms);
                }
                Background::ReadSnapshot { peer, pointer, offset } => {
                    let mut bytes = vec![0; 700.min(SNAPSHOT_CHUNK_BYTES)];
                    let cluster = process.journal.superblock().cluster;
                    let part = match process.outgoing.read(disk, cluster, peer, &pointer, offset, &mut bytes) {
                        Ok(len) => Some(&bytes[..len]),
                        Err(BadSnapshot::Missing) => None,
                        Err(bad) => return world.reads_badly(process, server, &bad),
                    };
                    process.node.snapshot_read(peer, pointer, offset, part, now_ms);
                }
                Background::WriteSnapshot { pointer, offset, bytes, last } => {
                    write_incoming(process, disk, pointer, offset, &bytes, last, now_ms);
                }
                Background::Snapshot { position, chunks } => {
                    let written = write_snapshot(disk, process.journal.superblock().cluster, position, &chunks);
                    process.snapshot_file_done(written, now_ms);
                }
                Background::Load(pointer) => {
                    if let Err(bad) = process.swap(disk, pointer, now_ms) {
                        return world.reads_badly(process, server, &bad);
                    }
                }
            }
            process.node_effects(now_ms);
            world.wake_pipeline(process, server, 5);
        });
    }

    /// A peer's snapshot is this server's history now. Its States follow; nothing is published before.
    fn install(&mut self, server: u16, incarnation: u64, pointer: SnapshotPointer) {
        self.ghost.installed(server, pointer.position);
        self.ghost.published_upto(server, pointer.position.zxid);
        let machine = self.machines.get_mut(&server).expect("it is there");
        let Some(process) = machine.process.as_mut().filter(|p| p.incarnation == incarnation) else { return };
        process.evict();
        let outs = std::mem::take(&mut process.outs);
        self.outs(server, incarnation, outs);
        self.in_background(server, incarnation, Background::Load(pointer));
        self.interrupt(server);
    }
}

/// The file of a snapshot. Without room there is none, and nothing of it stays.
fn write_snapshot(disk: &SimDisk, cluster: u128, position: Position, chunks: &[Vec<u8>]) -> Result<SnapshotPointer, Errno> {
    let write = || {
        let mut file = SnapshotFile::create(disk, cluster, position)?;
        chunks.iter().try_for_each(|chunk| file.push(chunk))?;
        file.finish().map_err(BadSnapshot::errno)
    };
    let written: Result<SnapshotPointer, Errno> = write();
    if written.is_err_and(Errno::is_full) {
        disk.remove(&snapshot::file_name(position.zxid))?;
        disk.sync_names()?;
    }
    written
}

/// Gathers a peer's snapshot and, when it is whole, verifies and installs it.
fn write_incoming(process: &mut Process, disk: &SimDisk, pointer: SnapshotPointer, offset: u64, bytes: &[u8], last: bool, now_ms: u64) {
    process.incoming.truncate(offset as usize);
    if process.incoming.len() as u64 != offset {
        return process.node.snapshot_wrote(pointer, None, now_ms);
    }
    process.incoming.extend_from_slice(bytes);
    let end = offset + bytes.len() as u64;
    if !last {
        return process.node.snapshot_wrote(pointer, Some(end), now_ms);
    }
    if !process.journal.receivable(&pointer) {
        return process.node.snapshot_wrote(pointer, None, now_ms);
    }
    let cluster = process.journal.superblock().cluster;
    let stored = store_incoming(disk, cluster, pointer, &std::mem::take(&mut process.incoming));
    let Ok(pointer) = stored else { return process.node.snapshot_wrote(pointer, None, now_ms) };
    let mut effects = Vec::new();
    process.journal.install(pointer, &mut effects);
    process.journal_effects(effects, now_ms);
}

fn store_incoming(disk: &SimDisk, cluster: u128, pointer: SnapshotPointer, bytes: &[u8]) -> Result<SnapshotPointer, BadSnapshot> {
    let mut file = IncomingSnapshot::create(disk, cluster, pointer)?;
    match file.write(0, bytes) {
        Ok(()) => file.finish(),
        Err(bad) => {
            file.abandon()?;
            Err(bad)
        }
    }
}
