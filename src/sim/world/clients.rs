//! Clients and the connections they have: to any server, to any of its shards.
//! Refuses to judge: the checker does.

use super::*;
use crate::sim::checker::ConnKey;

/// A client and its connection.
pub(super) struct Slot {
    pub client: Client,
    link: Option<Link>,
    generation: u64,
}

struct Link {
    server: u16,
    incarnation: u64,
    shard: usize,
    conn: ConnId,
    generation: u64,
    to_client: Vec<u8>,
    to_server: Vec<u8>,
    closing: bool,
}

impl Slot {
    pub fn new(id: u64, plan: &Plan, dice: &mut Dice) -> Slot {
        Slot { client: Client::new(id, plan.focus, plan.linearizable_reads, dice), link: None, generation: 0 }
    }

    /// Where it stands, for a report.
    pub fn describe(&self) -> String {
        let at = self.link.as_ref().map(|l| (l.server, l.shard, l.closing, l.to_server.len(), l.to_client.len()));
        format!("{} at {at:?}", self.client.describe())
    }

    /// Connected, and nothing asked that is not answered.
    pub fn is_idle(&self) -> bool {
        self.link.is_some() && self.client.is_idle()
    }
}

impl World {
    pub(super) fn client_turn(&mut self, client: usize) {
        let next_us = if self.faults_over { 40_000 } else { 1000 } + self.dice.below(8000) as u64;
        self.after(next_us, Event::ClientTurn { client });
        let now_ms = self.now_ms();
        let slot = &mut self.clients[client];
        if slot.client.gives_up(now_ms) {
            return self.cut_client(client);
        }
        if slot.link.is_none() {
            if slot.client.wants_connection(now_ms) {
                self.dial(client);
            }
            return;
        }
        slot.client.tick(&mut self.checker, now_ms);
        if !self.faults_over {
            for _ in 0..1 + self.dice.below(3) {
                slot.client.act(&mut self.dice, &mut self.checker, now_ms);
            }
        }
        self.push(client);
        // What waited while it did not read.
        let generation = self.clients[client].generation;
        self.client_receives(client, generation);
    }

    fn dial(&mut self, client: usize) {
        let server = 1 + self.dice.below(usize::from(self.plan.servers())) as u16;
        let shard = self.dice.below(self.plan.shards);
        let mut entropy = [0; 16];
        entropy[..8].copy_from_slice(&self.dice.roll().to_be_bytes());
        let now_ms = self.now_ms();
        let machine = self.machines.get_mut(&server).expect("a machine");
        if machine.paused_until_us > self.now_us {
            return;
        }
        let run = machine.run;
        let Some(process) = &mut machine.process else { return };
        // A server of its own listens only once it serves.
        if self.ensemble.is_alone() && !process.node.serves() {
            return;
        }
        let peer = "127.0.0.1:1000".parse().expect("an address");
        let Some(conn) = process.shards[shard].replica.accept(peer, Census::default(), entropy) else { return };
        let slot = &mut self.clients[client];
        slot.generation += 1;
        slot.link = Some(Link {
            server,
            incarnation: process.incarnation,
            shard,
            conn,
            generation: slot.generation,
            to_client: Vec::new(),
            to_server: Vec::new(),
            closing: false,
        });
        let name = slot.client.connect(&mut self.checker, now_ms);
        self.checker.accepted(name, ConnKey { server, boot: run, shard: shard as u16, conn: conn.0 });
        self.push(client);
    }

    /// What the client has to send goes on its way.
    fn push(&mut self, client: usize) {
        let slot = &mut self.clients[client];
        let Some(link) = &mut slot.link else { return };
        if !slot.client.outgoing.is_empty() {
            link.to_server.append(&mut slot.client.outgoing);
            let generation = link.generation;
            let delay_us = 30 + self.dice.below(300) as u64;
            self.after(delay_us, Event::ToServer { client, generation });
        }
    }

    pub(super) fn server_receives(&mut self, client: usize, generation: u64) {
        let cut = self.dice.chance(5);
        let (now_ms, quiet) = (self.now_ms(), self.quiet);
        let slot = &mut self.clients[client];
        let Some(link) = slot.link.as_mut().filter(|l| l.generation == generation) else { return };
        let len = if cut { self.dice.below(link.to_server.len() + 1) } else { link.to_server.len() };
        let bytes: Vec<u8> = link.to_server.drain(..len).collect();
        let (server, incarnation, shard, conn) = (link.server, link.incarnation, link.shard, link.conn);
        let more = !link.to_server.is_empty();
        let name = slot.client.link().expect("it is connected");
        if more {
            self.after(100, Event::ToServer { client, generation });
        }
        let machine = self.machines.get_mut(&server).expect("a machine");
        let Some(mut process) = machine.process.take_if(|p| p.incarnation == incarnation) else { return };
        if !bytes.is_empty() {
            // While something is wrong nobody can say whose word reaches a leader.
            self.checker.delivered(name, bytes.len(), now_ms, quiet);
            process.shards[shard].inbox.push_back((conn, bytes));
            self.wake_shard(&mut process, server, shard, 5);
        }
        self.machines.get_mut(&server).expect("a machine").process = Some(process);
    }

    /// A shard has bytes for a client.
    pub(super) fn shard_sends(&mut self, server: u16, incarnation: u64, shard: usize, conn: ConnId, bytes: &[u8], close: bool) {
        let owns = |l: &Link| l.server == server && l.incarnation == incarnation && l.shard == shard && l.conn == conn;
        let Some(client) = self.clients.iter().position(|c| c.link.as_ref().is_some_and(owns)) else { return };
        let Some(link) = &mut self.clients[client].link else { return };
        link.to_client.extend_from_slice(bytes);
        link.closing |= close;
        let generation = link.generation;
        let delay_us = 30 + self.dice.below(300) as u64;
        self.after(delay_us, Event::ToClient { client, generation });
    }

    pub(super) fn client_receives(&mut self, client: usize, generation: u64) {
        let now_ms = self.now_ms();
        let slot = &mut self.clients[client];
        let Some(link) = slot.link.as_mut().filter(|l| l.generation == generation && slot.client.reads(now_ms)) else { return };
        let bytes = std::mem::take(&mut link.to_client);
        let closing = link.closing;
        for byte in &bytes {
            self.report.trace = self.report.trace.rotate_left(5).wrapping_mul(0x100_0000_01b3) ^ u64::from(*byte);
        }
        slot.client.receive(&bytes, &mut self.checker, now_ms);
        if closing {
            self.hang_up(client);
        }
    }

    /// The connection is gone for the client.
    fn hang_up(&mut self, client: usize) {
        let now_ms = self.now_ms();
        let slot = &mut self.clients[client];
        if slot.link.take().is_some() {
            slot.client.disconnected(&mut self.checker, now_ms);
        }
    }

    /// The connection breaks, for both.
    pub(super) fn cut_client(&mut self, client: usize) {
        let Some(link) = &self.clients[client].link else { return };
        let (server, incarnation, shard, conn) = (link.server, link.incarnation, link.shard, link.conn);
        if let Some(process) = self.machines.get_mut(&server).and_then(|m| m.process.as_mut()).filter(|p| p.incarnation == incarnation) {
            process.shards[shard].inbox.retain(|(c, _)| *c != conn);
            process.shards[shard].replica.closed(conn);
        }
        self.hang_up(client);
    }

    /// Everybody who was connected to this server.
    pub(super) fn hang_up_all(&mut self, server: u16) {
        for client in 0..self.clients.len() {
            if self.clients[client].link.as_ref().is_some_and(|l| l.server == server) {
                self.hang_up(client);
            }
        }
    }

    /// At the end: every client that has received everything must have been told of all that its watches saw (W3).
    pub(super) fn judge_clients(&mut self) {
        for client in 0..self.clients.len() {
            let slot = &self.clients[client];
            let Some(link) = slot.link.as_ref().filter(|l| l.to_client.is_empty() && slot.client.is_idle()) else { continue };
            let Some(process) = self.machines[&link.server].process.as_ref().filter(|p| p.incarnation == link.incarnation) else {
                continue;
            };
            let (name, applied) = (slot.client.link(), process.shards[link.shard].replica.applied());
            if let Some(name) = name {
                self.checker.caught_up(name, applied);
            }
        }
    }
}
