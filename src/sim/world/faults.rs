//! Faults as they strike, restarts after them, and the end of all faults. Refuses to choose: the plan does.

use super::*;
use crate::log::recovery::Recovered;
use crate::sim::damage;
use crate::sim::disk::Fault as DiskFault;

impl World {
    pub(super) fn strike(&mut self, index: usize) {
        if self.faults_over {
            return;
        }
        let fault = self.plan.faults[index].1;
        if let Some(kind) = self.strike_process(fault).or_else(|| self.strike_network(fault)).or_else(|| self.strike_disk(fault)) {
            *self.report.faults.entry(kind).or_default() += 1;
        }
    }

    /// The server that a fault means, if there is one: 0 is the leader of the highest epoch.
    fn meant(&self, server: u16) -> Option<u16> {
        if server > 0 {
            return Some(server);
        }
        let epoch = |m: &Machine| match m.process.as_ref()?.node.standing() {
            Standing::Leading { epoch, .. } => Some(epoch),
            _ => None,
        };
        self.machines.iter().filter_map(|(server, m)| Some((epoch(m)?, *server))).max().map(|(_, server)| server)
    }

    /// Faults of processes and clocks. None: it is none, or there is nobody whom it could strike.
    fn strike_process(&mut self, fault: Fault) -> Option<&'static str> {
        let now_us = self.now_us;
        match fault {
            Fault::Kill { server, down_ms } => {
                let server = self.meant(server)?;
                self.crash(server, false, down_ms * 1000);
                Some("kill")
            }
            Fault::PowerCut { server, down_ms } => {
                let server = self.meant(server)?;
                self.crash(server, true, down_ms * 1000);
                Some("power cut")
            }
            Fault::Blackout { down_ms } => {
                (1..=self.plan.servers()).for_each(|server| self.crash(server, true, down_ms * 1000));
                Some("blackout")
            }
            Fault::Pause { server, for_ms } => {
                let server = self.meant(server)?;
                self.machine(server).paused_until_us = now_us + for_ms * 1000;
                Some("pause")
            }
            Fault::Usurp { for_ms } => {
                self.usurped_until_us = now_us + for_ms * 1000;
                Some("usurpers")
            }
            Fault::Interrupt { for_ms } => {
                self.interrupted_until_us = now_us + for_ms * 1000;
                Some("interruption")
            }
            Fault::ClockStep { server, by_ms } => {
                let server = self.meant(server)?;
                self.machine(server).clock.step(by_ms);
                Some("clock step")
            }
            Fault::Client { client } if client < self.clients.len() => {
                self.cut_client(client);
                Some("client")
            }
            _ => None,
        }
    }

    fn strike_network(&mut self, fault: Fault) -> Option<&'static str> {
        match fault {
            Fault::Reset { a, b } => {
                let (a, b) = (self.meant(a)?, self.meant(b)?);
                self.break_link(a, b);
                Some("reset")
            }
            Fault::Cut { from, to, for_ms } => {
                let (from, to) = (self.meant(from)?, self.meant(to)?);
                self.net.cut(from, to, self.now_us + for_ms * 1000);
                Some("one-way cut")
            }
            Fault::Isolate { server, for_ms } => {
                let server = self.meant(server)?;
                self.cut_off(server, for_ms * 1000, true, true);
                Some("isolation")
            }
            Fault::Mute { server, for_ms } => {
                let server = self.meant(server)?;
                self.cut_off(server, for_ms * 1000, true, false);
                Some("muted")
            }
            Fault::Deafen { server, for_ms } => {
                let server = self.meant(server)?;
                self.cut_off(server, for_ms * 1000, false, true);
                Some("deafened")
            }
            _ => None,
        }
    }

    fn strike_disk(&mut self, fault: Fault) -> Option<&'static str> {
        let now_us = self.now_us;
        match fault {
            Fault::SlowDisk { server, factor, for_ms } => {
                let server = self.meant(server)?;
                let machine = self.machine(server);
                (machine.slow_factor, machine.slow_until_us) = (factor, now_us + for_ms * 1000);
                Some("slow disk")
            }
            Fault::DiskError { server, job } => {
                let server = self.meant(server)?;
                let machine = self.machine(server);
                machine.fail_next_write |= !job;
                machine.fail_next_job |= job;
                Some("disk error")
            }
            Fault::BadStart { server, down_ms, read } => {
                let server = self.meant(server)?;
                self.crash(server, false, down_ms * 1000);
                self.machine(server).fail_read = Some(read);
                Some("bad start")
            }
            Fault::DiskFull { server, for_ms } => {
                let server = self.meant(server)?;
                let machine = self.machine(server);
                machine.full_until_us = now_us + for_ms * 1000;
                machine.disk.set_full(true);
                self.after(for_ms * 1000, Event::Room { server });
                Some("full disk")
            }
            Fault::RotSnapshot { server, pick } => {
                let server = self.meant(server)?;
                self.damage(server, damage::rot_snapshot, pick).then_some("rotten snapshot")
            }
            Fault::Rot { server, pick } => self.damage(server, damage::rot, pick).then_some("bit rot"),
            Fault::Misdirect { server, pick } => self.damage(server, damage::misdirect, pick).then_some("misdirected write"),
            Fault::Wipe { server, down_ms } => {
                self.wipe(server, down_ms * 1000);
                Some("wipe")
            }
            _ => None,
        }
    }

    /// Nothing gets from a server to the others, or from them to it, for so long.
    fn cut_off(&mut self, server: u16, for_us: u64, out: bool, back: bool) {
        for other in (1..=self.plan.servers()).filter(|other| *other != server) {
            let until_us = self.now_us + for_us;
            if out {
                self.net.cut(server, other, until_us);
            }
            if back {
                self.net.cut(other, server, until_us);
            }
        }
    }

    /// A server leads. While new leaders are to be cut off, its time is short: sometimes too short for its first batch,
    /// sometimes long enough for requests.
    pub(super) fn usurp(&mut self, server: u16, epoch: u32) {
        if self.usurped_until_us > self.now_us && self.usurped_epoch < epoch && !self.faults_over {
            self.usurped_epoch = epoch;
            if self.dice.chance(50) {
                self.usurper = Some((server, self.dice.below(7)));
                return;
            }
            let most_us = *self.dice.pick(&[3000, 20_000, 60_000, 100_000]);
            let delay_us = self.dice.below(most_us) as u64;
            self.after(delay_us, Event::Depose { server, alone: false });
        }
    }

    /// A new leader is about to hear that a follower has what was logged before its epoch, and nothing of its epoch. While
    /// new leaders are to be cut off many go at just this moment, and with them what the others' disks were about to hold.
    pub(super) fn usurp_between(&mut self, server: u16, heard_us: u64) {
        if self.usurped_until_us > self.now_us && !self.faults_over && self.dice.chance(20) {
            let delay_us = self.dice.below(60) as u64;
            self.at(heard_us + delay_us, Event::Depose { server, alone: true });
        }
    }

    /// Something reached a leader whose time is counted in messages.
    pub(super) fn count_message(&mut self, to: u16) {
        match &mut self.usurper {
            Some((server, left)) if *server == to && *left > 0 => *left -= 1,
            Some((server, _)) if *server == to => {
                self.usurper = None;
                let delay_us = self.dice.below(60) as u64;
                self.after(delay_us, Event::Depose { server: to, alone: false });
            }
            _ => {}
        }
    }

    pub(super) fn depose(&mut self, server: u16, alone: bool) {
        if self.faults_over {
            return;
        }
        let timeout_us = self.plan.election_timeout_ms as usize * 1000;
        let for_us = (timeout_us / 2 + self.dice.below(3 * timeout_us)) as u64;
        if alone || self.dice.chance(60) {
            // Whoever was cut off before comes back now.
            self.net.heal();
        }
        if alone {
            self.cut_off(server, for_us, true, true);
            return (1..=self.plan.voters).filter(|other| *other != server).for_each(|other| self.crash(other, true, 1000));
        }
        match self.dice.below(6) {
            0 => self.crash(server, false, for_us),
            1 => self.crash(server, true, for_us),
            _ => self.cut_off(server, for_us, true, true),
        }
    }

    /// A server has just installed a snapshot. While such servers are to die it does, now or before it has logged much.
    pub(super) fn interrupt(&mut self, server: u16) {
        if self.interrupted_until_us > self.now_us && self.dice.chance(40) && !self.faults_over {
            let most_us = *self.dice.pick(&[10, 300, 5000]);
            let delay_us = self.dice.below(most_us) as u64;
            self.after(delay_us, Event::Die { server });
        }
    }

    pub(super) fn die(&mut self, server: u16) {
        let power = self.dice.chance(50);
        if !self.faults_over {
            self.crash(server, power, 20_000);
        }
    }

    pub(super) fn make_room(&mut self, server: u16) {
        let now_us = self.now_us;
        let machine = self.machine(server);
        if machine.full_until_us <= now_us {
            machine.disk.set_full(false);
        }
    }

    /// What a disk holds is changed behind the server's back. Recovery must notice whatever it needs; the one exception is
    /// the last batch as long as no mark says that it was durable. Such a loss stays silent, and is not made here.
    fn damage(&mut self, server: u16, change: fn(&SimDisk, u32) -> bool, pick: u32) -> bool {
        let machine = self.machine(server);
        let Ok(before) = recovery::inspect(&machine.disk) else { return false };
        let changed = machine.disk.fork();
        if !change(&changed, pick) {
            return false;
        }
        if let Ok(after) = recovery::inspect(&changed) {
            let promised = |found: &Recovered| (found.promise().epoch, found.promise().to);
            assert_eq!(promised(&after), promised(&before), "D22: server {server} forgets a promise by one damaged block");
            let ends = before.positions();
            let last_alone = !before.marked() && ends.len() > 1 && after.tail == ends[ends.len() - 2];
            assert!(after.tail == before.tail || last_alone, "D22: server {server} loses {:x?} by one damaged block", before.tail);
            if last_alone {
                return false;
            }
        }
        machine.damaged = change(&machine.disk, pick);
        true
    }

    /// What a running server reads back is not what it wrote. It ends; its next start decides what that means.
    pub(super) fn reads_badly(&self, process: &mut Process, server: u16, what: &dyn std::fmt::Display) {
        assert!(self.machines[&server].damaged, "the disk of server {server} works: {what}");
        crate::mark!("a server reads damage and ends");
        process.outs.push(Out::Died);
    }

    /// Nothing helps a server that does not start on its disk but another disk.
    pub(super) fn replace(&mut self, server: u16) {
        if self.machines[&server].process.is_none() && self.machines[&server].damaged {
            self.put_in_empty_disk(server);
            self.after(1000, Event::Restart { server });
        }
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
        disk.restart();
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
        self.put_in_empty_disk(server);
    }

    fn put_in_empty_disk(&mut self, server: u16) {
        let seed = self.dice.roll();
        let machine = self.machine(server);
        (machine.disk, machine.damaged) = (SimDisk::new(seed), false);
        self.ghost.wiped(server);
        self.format(server);
    }

    pub(super) fn restart(&mut self, server: u16) {
        if self.machines[&server].process.is_some() {
            return;
        }
        let now_ms = self.clock_ms(server);
        let settings = Settings {
            server,
            ensemble: self.ensemble.clone(),
            shards: self.plan.shards,
            election_timeout_ms: self.plan.election_timeout_ms,
            counter_max: self.plan.counter_max,
            snapshot_txns: self.plan.snapshot_txns,
            linearizable_reads: self.plan.linearizable_reads,
            tight: self.plan.tight,
            seed: self.plan.seed ^ u64::from(server) << 32,
        };
        let machine = self.machine(server);
        let fails = machine.fail_read.take();
        fails.into_iter().for_each(|read| machine.disk.strike_read(read));
        let incarnation = machine.next_incarnation;
        let started = recovery::open(&machine.disk)
            .and_then(|found| Ok((Process::start(&settings, &machine.disk, &found, incarnation, now_ms)?, found)));
        let read_failed = !machine.disk.spare_reads() && fails.is_some();
        let (mut process, found) = match started {
            Ok(started) => started,
            Err(_) if read_failed => {
                crate::mark!("a read fails at a start");
                return self.after(50_000, Event::Restart { server });
            }
            Err(_) if machine.damaged => {
                crate::mark!("a server does not start on a damaged disk");
                let delay_us = 200_000 + self.dice.below(2_000_000) as u64;
                return self.after(delay_us, Event::Replace { server });
            }
            Err(error) => panic!("B2: server {server} does not start: {error}"),
        };
        machine.run = found.run();
        machine.next_incarnation += 1;
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
            (machine.fail_next_write, machine.fail_next_job, machine.fail_read) = (false, false, None);
            machine.full_until_us = 0;
            machine.disk.set_full(false);
            if machine.process.is_none() {
                self.after(1000, Event::Restart { server });
            }
        }
    }
}
