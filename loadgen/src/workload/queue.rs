//! The queue recipe: even connections put items in as sequential nodes, odd ones list the queue and delete the lowest
//! items. Checked: what is put in and not taken out is there at the end, and no item is taken twice. Refuses to hold
//! more items than the consumers keep up with: a producer takes one out itself when the queue is long.

use super::{Ledger, Port, Workload, sequence_numbers};
use crate::content::{Content, Dice, Paths, Sizes};
use crate::session::{Reply, Span};
use crate::tally::{Miss, Op, Violation};
use falconer::wire::request::{Create, OPEN_ACL, Request};
use falconer::wire::response::code;
use std::ops::Range;

const SEQUENTIAL: i32 = 2;
const NAME: &str = "/item-";
/// Consumers take one of the first items, so that they do not all try the same.
const AMONG_FIRST: u32 = 20;
/// A producer turns consumer while it knows of more items than this.
const LENGTH_MAX: usize = 500;

/// The step that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Put,
    List,
    Take(u32),
}

/// One worker's connections; each queue is one directory.
pub struct Queue {
    paths: Paths,
    numbers: Range<u32>,
    queues: u32,
    content: Content,
    /// The length of each connection's queue when it was last seen.
    seen_length: Vec<usize>,
    /// Items put in less items taken out, by queue.
    balance: Vec<i64>,
    /// Items taken out, by queue.
    taken: Vec<Vec<u32>>,
    dice: Dice,
    path: String,
    data: Vec<u8>,
}

impl Queue {
    pub fn new(paths: Paths, sizes: Sizes, numbers: Range<u32>, queues: u32, seed: u64) -> Queue {
        Queue {
            paths,
            queues,
            content: Content::new(sizes),
            seen_length: vec![0; numbers.len()],
            balance: vec![0; queues as usize],
            taken: vec![Vec::new(); queues as usize],
            dice: Dice::new(seed ^ u64::from(numbers.start) << 32),
            numbers,
            path: String::new(),
            data: Vec::new(),
        }
    }

    /// Pairs of a producer and a consumer share a queue.
    fn queue_of(&self, index: usize) -> u32 {
        ((self.numbers.start + index as u32) / 2) % self.queues
    }

    fn put(&mut self, port: &mut Port<'_, Step>, span: Span) {
        let queue = self.queue_of(port.index);
        self.paths.line(&mut self.path, queue);
        self.path += NAME;
        self.content.write(self.numbers.start + port.index as u32, 0, &mut self.data);
        let path = self.path.as_str().into();
        let create = Create { path, data: Some(&self.data), acl: OPEN_ACL, flags: SEQUENTIAL };
        port.send(&Request::Create(create), Step::Put, span);
    }

    fn list(&mut self, port: &mut Port<'_, Step>, span: Span) {
        let queue = self.queue_of(port.index);
        self.paths.line(&mut self.path, queue);
        port.send(&Request::GetChildren { path: self.path.as_str().into(), watch: false }, Step::List, span);
    }

    fn step(&mut self, port: &mut Port<'_, Step>, reply: &Reply<'_, Step>) -> Result<(), Violation> {
        let queue = self.queue_of(port.index) as usize;
        match (reply.what, reply.header.err) {
            (Step::Put, code::OK) => {
                self.balance[queue] += 1;
                self.seen_length[port.index] += 1;
                port.done(Op::Enqueue, reply.span);
            }
            (Step::List, code::OK) => {
                let malformed = |_| Violation::new(Miss::Malformed, "queue: a list that does not parse");
                let mut items = sequence_numbers(reply.body).map_err(malformed)?;
                self.seen_length[port.index] = items.len();
                if items.is_empty() {
                    // Nothing to take: put one in instead.
                    self.put(port, reply.span);
                    return Ok(());
                }
                items.sort_unstable();
                let item = items[self.dice.below(AMONG_FIRST.min(items.len() as u32)) as usize];
                self.paths.line(&mut self.path, queue as u32);
                self.path += &format!("{NAME}{item:010}");
                port.send(&Request::Delete { path: self.path.as_str().into(), version: -1 }, Step::Take(item), reply.span);
            }
            (Step::Take(item), code::OK) => {
                self.balance[queue] -= 1;
                self.taken[queue].push(item);
                self.seen_length[port.index] = self.seen_length[port.index].saturating_sub(1);
                port.done(Op::Dequeue, reply.span);
            }
            // Somebody else was faster.
            (Step::Take(_), code::NO_NODE) => self.list(port, reply.span),
            (step, code) => return Err(port.bad_code(&format!("queue {queue}: {step:?}"), code)),
        }
        Ok(())
    }
}

impl Workload for Queue {
    type Sent = Step;

    fn issue(&mut self, port: &mut Port<'_, Step>, span: Span) -> bool {
        let produces = (self.numbers.start + port.index as u32).is_multiple_of(2);
        match produces && self.seen_length[port.index] < LENGTH_MAX {
            true => self.put(port, span),
            false => self.list(port, span),
        }
        true
    }

    fn reply(&mut self, port: &mut Port<'_, Step>, reply: &Reply<'_, Step>) {
        if let Err(violation) = self.step(port, reply) {
            port.failed(violation);
        }
    }

    fn usual_op(&self) -> Op {
        Op::Enqueue
    }

    fn ledger(self) -> Ledger {
        let mut ledger = Ledger::default();
        for (queue, (balance, taken)) in self.balance.into_iter().zip(self.taken).enumerate() {
            let mut path = String::new();
            self.paths.line(&mut path, queue as u32);
            ledger.children.insert(path.clone(), (balance, balance));
            // An item that is taken twice has its number here twice.
            ledger.sequences.insert(path, taken);
        }
        ledger
    }
}
