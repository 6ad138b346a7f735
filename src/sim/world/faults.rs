//! Faults as they strike, restarts after them, and the end of all faults. Refuses to choose: the plan does.

use super::*;
use crate::sim::disk::Fault as DiskFault;
use crate::sim::plan::Fault;

impl World {
    pub(super) fn strike(&mut self, index: usize) {
        if self.faults_over {
            return;
        }
        let fault = self.plan.faults[index].1;
        let now_us = self.now_us;
        let kind = match fault {
            Fault::Kill { server, down_ms } => {
                self.crash(server, false, down_ms * 1000);
                "kill"
            }
            Fault::PowerCut { server, down_ms } => {
                self.crash(server, true, down_ms * 1000);
                "power cut"
            }
            Fault::Blackout { down_ms } => {
                (1..=self.plan.servers()).for_each(|server| self.crash(server, true, down_ms * 1000));
                "blackout"
            }
            Fault::Pause { server, for_ms } => {
                self.machine(server).paused_until_us = now_us + for_ms * 1000;
                "pause"
            }
            Fault::Reset { a, b } => {
                self.break_link(a, b);
                "reset"
            }
            Fault::Cut { from, to, for_ms } => {
                self.net.cut(from, to, now_us + for_ms * 1000);
                "one-way cut"
            }
            Fault::Isolate { server, for_ms } => {
                for other in 1..=self.plan.servers() {
                    self.net.cut(server, other, now_us + for_ms * 1000);
                    self.net.cut(other, server, now_us + for_ms * 1000);
                }
                "isolation"
            }
            Fault::SlowDisk { server, factor, for_ms } => {
                let machine = self.machine(server);
                (machine.slow_factor, machine.slow_until_us) = (factor, now_us + for_ms * 1000);
                "slow disk"
            }
            Fault::DiskError { server } => {
                self.machine(server).fail_next_write = true;
                "disk error"
            }
            Fault::Wipe { server, down_ms } => {
                self.wipe(server, down_ms * 1000);
                "wipe"
            }
            Fault::Client { client } => {
                self.cut_client(client);
                "client"
            }
        };
        *self.report.faults.entry(kind).or_default() += 1;
    }

    fn machine(&mut self, server: u16) -> &mut Machine {
        self.machines.get_mut(&server).expect("a machine")
    }

    /// The process is gone, now; with `power`, what it had not synced is gone too, whole or in part.
    pub(super) fn crash(&mut self, server: u16, power: bool, down_us: u64) {
        let roll = self.dice.roll();
        let machine = self.machine(server);
        let Some(process) = machine.process.take() else { return };
        machine.job_running = false;
        machine.paused_until_us = 0;
        let disk = &machine.disk;
        if let Some(write) = &process.write {
            let file = disk.open(&file_name(write.slot)).expect("the disk works").expect("the slot exists");
            disk.write_at(&file, write.offset, write.frame.bytes()).expect("the disk works");
        }
        if let Some(job) = process.jobs.front() {
            disk.strike(disk.ops() + 1 + roll % 6, DiskFault::Kill);
            // It ends somewhere in the middle, or not at all.
            let _ = job.run(disk);
            disk.restart();
        }
        if power {
            disk.power_on(roll);
        }
        (1..=self.plan.servers()).for_each(|peer| self.break_link(server, peer));
        self.hang_up_all(server);
        self.after(down_us, Event::Restart { server });
    }

    /// The disk is replaced by an empty one.
    fn wipe(&mut self, server: u16, down_us: u64) {
        self.crash(server, true, down_us);
        let seed = self.dice.roll();
        self.machine(server).disk = SimDisk::new(seed);
        self.ghost.wiped(server);
        self.format(server);
    }

    pub(super) fn restart(&mut self, server: u16) {
        if self.machines[&server].process.is_some() {
            return;
        }
        let now_ms = self.now_ms();
        let settings = Settings {
            server,
            ensemble: self.ensemble.clone(),
            shards: self.plan.shards,
            election_timeout_ms: self.plan.election_timeout_ms,
            counter_max: self.plan.counter_max,
            snapshot_txns: self.plan.snapshot_txns,
            seed: self.plan.seed ^ u64::from(server) << 32,
        };
        let machine = self.machine(server);
        let found = recovery::open(&machine.disk).unwrap_or_else(|error| panic!("B2: server {server} does not start: {error}"));
        let incarnation = machine.next_incarnation;
        machine.run = found.run();
        machine.next_incarnation += 1;
        let mut process = Process::start(&settings, &machine.disk, &found, incarnation, now_ms);
        let committed = found.committed;
        let snapshot = found.snapshot.map(|s| s.position);
        self.ghost.restarted(server, found.promise().epoch, found.positions(), snapshot, committed);
        for shard in &process.shards {
            agree(&mut self.digests, shard.replica.state());
        }
        for shard in 0..process.shards.len() {
            self.wake_shard(&mut process, server, shard, 10);
        }
        self.wake_pipeline(&mut process, server, 10);
        self.machine(server).process = Some(process);
    }

    /// All that is broken works again.
    pub(super) fn heal(&mut self) {
        self.net.heal();
        self.net.calm = true;
        for server in 1..=self.plan.servers() {
            let now_us = self.now_us;
            let machine = self.machine(server);
            machine.paused_until_us = machine.paused_until_us.min(now_us);
            machine.slow_until_us = 0;
            machine.fail_next_write = false;
            if machine.process.is_none() {
                self.after(1000, Event::Restart { server });
            }
        }
    }
}
