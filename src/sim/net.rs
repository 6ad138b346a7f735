//! The network between servers: connections, not packets. What is sent on one arrives in order, whole or in pieces, after a
//! while, unless the way is cut, when it waits, or the connection breaks, when it is lost. Refuses to look at the bytes.

use super::random::Dice;
use std::collections::{BTreeMap, VecDeque};

/// One direction of a connection.
#[derive(Default)]
struct Pipe {
    /// On its way: when it arrives, in us, and what.
    queue: VecDeque<(u64, Vec<u8>)>,
    last_us: u64,
}

/// Connections between servers.
#[derive(Default)]
pub struct Net {
    /// The generation of the connection between two servers, if there is one; the smaller number first.
    up: BTreeMap<(u16, u16), u64>,
    pipes: BTreeMap<(u16, u16), Pipe>,
    /// Until when nothing gets from one server to another, in us.
    cuts: BTreeMap<(u16, u16), u64>,
    next_generation: u64,
    /// Faults are over: nothing takes longer than usual, so that silence means something.
    pub calm: bool,
}

fn pair(a: u16, b: u16) -> (u16, u16) {
    (a.min(b), a.max(b))
}

impl Net {
    /// The generation of the connection, if there is one.
    pub fn generation(&self, a: u16, b: u16) -> Option<u64> {
        self.up.get(&pair(a, b)).copied()
    }

    /// A new connection.
    pub fn connect(&mut self, a: u16, b: u16) -> u64 {
        self.next_generation += 1;
        self.pipes.insert((a, b), Pipe::default());
        self.pipes.insert((b, a), Pipe::default());
        self.up.insert(pair(a, b), self.next_generation);
        self.next_generation
    }

    /// The connection is gone, with what was on it.
    pub fn disconnect(&mut self, a: u16, b: u16) -> Option<u64> {
        self.pipes.remove(&(a, b));
        self.pipes.remove(&(b, a));
        self.up.remove(&pair(a, b))
    }

    /// When something sent now would get through, at the earliest.
    pub fn open_us(&self, from: u16, to: u16, now_us: u64) -> u64 {
        self.cuts.get(&(from, to)).copied().unwrap_or(0).max(now_us)
    }

    pub fn cut(&mut self, from: u16, to: u16, until_us: u64) {
        let until = self.cuts.entry((from, to)).or_default();
        *until = (*until).max(until_us);
    }

    pub fn heal(&mut self) {
        self.cuts.clear();
    }

    /// Sends bytes; returns when they arrive, None if there is no connection.
    pub fn send(&mut self, from: u16, to: u16, bytes: &[u8], now_us: u64, dice: &mut Dice) -> Option<u64> {
        let open_us = self.open_us(from, to, now_us);
        let pipe = self.pipes.get_mut(&(from, to))?;
        let tail_us = if dice.chance(2) { dice.below(30_000) as u64 } else { 0 };
        let delay_us = 50 + dice.below(400) as u64 + if self.calm { 0 } else { tail_us };
        let at_us = (open_us + delay_us).max(pipe.last_us);
        pipe.last_us = at_us;
        let split = if dice.chance(5) { dice.below(bytes.len() + 1) } else { 0 };
        let pieces = [&bytes[..split], &bytes[split..]];
        pieces.into_iter().filter(|piece| !piece.is_empty()).for_each(|piece| pipe.queue.push_back((at_us, piece.to_vec())));
        Some(at_us)
    }

    /// What has arrived by now.
    pub fn arrived(&mut self, from: u16, to: u16, now_us: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Some(pipe) = self.pipes.get_mut(&(from, to)) else { return bytes };
        while let Some((_, piece)) = pipe.queue.pop_front_if(|(at_us, _)| *at_us <= now_us) {
            bytes.extend_from_slice(&piece);
        }
        bytes
    }
}
