//! Weighted reads and writes on nodes that exist and on nodes that each connection creates for itself. Every node has
//! one writer, so the version that a write makes is known beforehand, and a read that is older than what must have been
//! visible is stale. Where creates and deletes are mixed the number of nodes stays where it was. Refuses to check
//! replies here: that is `mix_check`.

use super::watching::{Asked, Kind, Told, Watching};
use super::{KeyEntry, Ledger, OwnEntry, Port, Workload};
use crate::access::Access;
use crate::content::{Content, Dice, Paths, Sizes};
use crate::session::{Reply, Span};
use crate::spec::{Doing, Operation, Pick, WatchCounts};
use crate::tally::Op;
use falconer::wire::request::{AclList, Create, MultiOps, Request};
use falconer::wire::response::WatchEvent;
use std::borrow::Cow;
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

/// Create flags on the wire.
const EPHEMERAL: i32 = 1;
const SEQUENTIAL: i32 = 2;

/// What was asked, so that the reply can be checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MixSent {
    /// The reply may not be older than version `floor`.
    Get {
        key: u32,
        floor: i32,
    },
    Exists {
        key: u32,
        floor: i32,
    },
    List {
        dir: u32,
    },
    Sync,
    /// `label` is the number in the data.
    Set {
        key: u32,
        label: i32,
    },
    Create {
        sequence: u32,
    },
    CreateSequential,
    Delete {
        sequence: u32,
    },
    DeleteSequential {
        counter: u32,
    },
    /// Sets of `count` own keys, from the `first`-th on (in steps of the number of connections).
    MultiSet {
        first: u32,
        count: u32,
    },
    MultiCreate {
        sequence: u32,
        count: u32,
    },
    MultiDelete {
        sequence: u32,
        count: u32,
    },
    /// Reads of `count` keys from the `first`-th on.
    MultiGet {
        first: u32,
        count: u32,
    },
    /// For the sake of a watch.
    Watch(Asked),
}

impl MixSent {
    pub fn op(self) -> Op {
        match self {
            MixSent::Get { .. } => Op::Get,
            MixSent::Exists { .. } => Op::Exists,
            MixSent::List { .. } => Op::List,
            MixSent::Sync => Op::Sync,
            MixSent::Set { .. } => Op::Set,
            MixSent::Create { .. } | MixSent::CreateSequential => Op::Create,
            MixSent::Delete { .. } | MixSent::DeleteSequential { .. } => Op::Delete,
            MixSent::MultiSet { .. } | MixSent::MultiCreate { .. } | MixSent::MultiDelete { .. } => Op::Multi,
            MixSent::MultiGet { .. } => Op::MultiRead,
            MixSent::Watch(_) => Op::Watch,
        }
    }
}

/// What is known of a key.
#[derive(Clone, Copy, Default)]
pub(super) struct Key {
    /// The number in the data of the last set that was sent: its version, had none been lost.
    pub sent: i32,
    /// The newest version that any reply has shown, and its mzxid (0: not known).
    pub seen: i32,
    pub mzxid: i64,
    /// Sets that were lost with their connection: surely, and perhaps besides.
    pub skew: i32,
    pub unsure: i32,
}

impl Key {
    /// The versions that the node can have once everything sent is done.
    pub fn version_range(&self) -> (i32, i32) {
        (self.sent - self.skew - self.unsure, self.sent - self.skew)
    }
}

/// The nodes that one connection has created: consecutive numbers, the oldest deleted first.
#[derive(Default)]
pub(super) struct Own {
    pub oldest: u32,
    pub next: u32,
    /// Of these nobody knows whether they exist.
    pub unsure: BTreeSet<u32>,
    /// Sequential nodes that exist, and the last number that was given.
    pub counters: VecDeque<u32>,
    pub last_counter: Option<u32>,
    /// Sequential creates without a reply.
    pub awaited: u32,
    /// A sequential node more or less may exist for each of these.
    pub counters_unsure: i64,
}

impl Own {
    fn live(&self) -> u32 {
        self.next - self.oldest + self.counters.len() as u32 + self.awaited
    }
}

/// What a worker's share of the mix is.
#[derive(Clone, Debug)]
pub struct MixPlan {
    pub paths: Paths,
    pub sizes: Sizes,
    /// The keys that belong to this worker alone, and how many there are in all.
    pub keys: Range<u32>,
    pub keys_total: u32,
    /// The global numbers of this worker's connections.
    pub numbers: Range<u32>,
    /// Nodes of each connection at the start.
    pub population: u32,
    pub operations: Vec<Operation>,
    pub pick: Pick,
    pub watch: WatchCounts,
    pub access: Access,
    /// One server: what one connection has seen, every other must see.
    pub one_server: bool,
    pub seed: u64,
}

/// One worker's requests and expectations.
pub struct Mix {
    pub(super) plan: MixPlan,
    pub(super) content: Content,
    pub(super) keys: Vec<Key>,
    pub(super) own: Vec<Own>,
    pub(super) given: Vec<u32>,
    pub(super) watching: Watching,
    weights: u32,
    /// Creates and deletes keep each other in balance.
    balanced: bool,
    ephemeral: bool,
    dice: Dice,
    pub(super) path: String,
    data: Vec<u8>,
}

impl Mix {
    /// The keys exist at version 0, and each connection's own nodes from 0 to the population.
    pub fn new(plan: MixPlan) -> Mix {
        let has = |wanted: fn(Doing) -> bool| plan.operations.iter().any(|operation| wanted(operation.doing));
        let grows = has(|doing| matches!(doing, Doing::Create | Doing::MultiCreate));
        let shrinks = has(|doing| matches!(doing, Doing::Delete | Doing::MultiDelete));
        Mix {
            content: Content::new(plan.sizes.clone()),
            keys: vec![Key::default(); plan.keys.len()],
            own: plan.numbers.clone().map(|_| Own { next: plan.population, ..Own::default() }).collect(),
            given: Vec::new(),
            watching: watching(&plan),
            weights: plan.operations.iter().map(|operation| operation.weight).sum(),
            balanced: grows && shrinks,
            ephemeral: plan.operations.iter().any(|operation| operation.ephemeral),
            dice: Dice::new(plan.seed ^ u64::from(plan.numbers.start) << 32),
            path: String::new(),
            data: Vec::new(),
            plan,
        }
    }

    fn next_operation(&mut self) -> Operation {
        let mut point = self.dice.below(self.weights);
        for operation in &self.plan.operations {
            match point.checked_sub(operation.weight) {
                None => return *operation,
                Some(rest) => point = rest,
            }
        }
        unreachable!("the weights add up")
    }

    /// Turns a create into a delete where there are too many nodes already, and the other way round.
    fn keep_balance(&self, operation: Operation, index: usize) -> Doing {
        let (live, population) = (self.own[index].live(), self.plan.population);
        let slack = (population / 10).max(4 * operation.ops[1]).max(8);
        match operation.doing {
            Doing::Delete if live == 0 => Doing::Create,
            Doing::MultiDelete if live < operation.ops[1] => Doing::MultiCreate,
            Doing::Churn if live > population => Doing::Delete,
            Doing::Churn => Doing::Create,
            doing if !self.balanced => doing,
            Doing::Create if live > population + slack => Doing::Delete,
            Doing::Delete if live + slack <= population => Doing::Create,
            Doing::MultiCreate if live > population + slack => Doing::MultiDelete,
            Doing::MultiDelete if live + slack <= population => Doing::MultiCreate,
            doing => doing,
        }
    }

    /// A number below `count` as the plan's distribution has it.
    fn pick(&mut self, count: u32) -> u32 {
        match self.plan.pick {
            Pick::Uniform => self.dice.below(count),
            Pick::One => 0,
            Pick::Zipf(skew) => {
                let power = 1.0 - skew;
                let span = (f64::from(count) + 1.0).powf(power) - 1.0;
                let rank = (1.0 + (1.0 - self.dice.unit()) * span).powf(1.0 / power) as u32;
                rank.saturating_sub(1).min(count - 1)
            }
        }
    }

    /// The connection that writes the key at this place is the only one to do so.
    fn is_owner(&self, offset: usize, index: usize) -> bool {
        offset % self.own.len() == index
    }

    /// The version below which a read of this connection would be stale.
    fn floor(&self, offset: usize, index: usize, last_zxid: i64) -> i32 {
        let known = &self.keys[offset];
        match () {
            () if self.is_owner(offset, index) => known.version_range().0,
            () if self.plan.one_server || known.mzxid <= last_zxid => known.seen,
            () => 0,
        }
    }

    fn send_read(&mut self, port: &mut Port<'_, MixSent>, span: Span, data: bool) {
        let offset = self.pick(self.keys.len() as u32) as usize;
        let key = self.plan.keys.start + offset as u32;
        let floor = self.floor(offset, port.index, port.session.last_zxid());
        self.plan.paths.key(&mut self.path, key);
        let path = self.path.as_str().into();
        match data {
            true => port.send(&Request::GetData { path, watch: false }, MixSent::Get { key, floor }, span),
            false => port.send(&Request::Exists { path, watch: false }, MixSent::Exists { key, floor }, span),
        }
    }

    /// How many keys the connection writes.
    fn owned(&self, index: usize) -> u32 {
        (self.keys.len() - index).div_ceil(self.own.len()) as u32
    }

    /// The place of the `nth` key that the connection writes.
    pub(super) fn owned_offset(&self, index: usize, nth: u32) -> usize {
        index + self.own.len() * nth as usize
    }

    /// Counts up the key's label and writes its data; returns the key and the label.
    fn next_data(&mut self, offset: usize, span: Span) -> (u32, i32) {
        let (key, known) = (self.plan.keys.start + offset as u32, &mut self.keys[offset]);
        known.sent = known.sent.wrapping_add(1);
        let label = known.sent;
        self.watching.will_change(offset, known.version_range().1, span.due_ns);
        self.plan.paths.key(&mut self.path, key);
        self.content.write(key, label, &mut self.data);
        (key, label)
    }

    fn send_set(&mut self, port: &mut Port<'_, MixSent>, span: Span) {
        let owned = self.owned(port.index);
        let offset = self.owned_offset(port.index, 0) + self.own.len() * self.pick(owned) as usize;
        let (key, label) = self.next_data(offset, span);
        let request = Request::SetData { path: self.path.as_str().into(), data: Some(&self.data), version: -1 };
        port.send(&request, MixSent::Set { key, label }, span);
    }

    fn send_create(&mut self, port: &mut Port<'_, MixSent>, span: Span, operation: Operation) {
        let number = self.plan.numbers.start + port.index as u32;
        let flags = i32::from(operation.ephemeral) * EPHEMERAL + i32::from(operation.sequential) * SEQUENTIAL;
        let own = &mut self.own[port.index];
        let sent = if operation.sequential {
            own.awaited += 1;
            self.plan.paths.line(&mut self.path, 0);
            self.path.push_str("/s-");
            self.content.write(number, 0, &mut self.data);
            MixSent::CreateSequential
        } else {
            let sequence = own.next;
            own.next += 1;
            self.plan.paths.own(&mut self.path, number, sequence);
            self.content.write(number ^ sequence, 0, &mut self.data);
            MixSent::Create { sequence }
        };
        let create = Create { path: self.path.as_str().into(), data: Some(&self.data), acl: self.plan.access.list(), flags };
        port.send(&Request::Create(create), sent, span);
    }

    fn send_delete(&mut self, port: &mut Port<'_, MixSent>, span: Span, operation: Operation) {
        let own = &mut self.own[port.index];
        let sent = if let Some(counter) = own.counters.pop_front() {
            self.plan.paths.line(&mut self.path, 0);
            self.path += &format!("/s-{counter:010}");
            MixSent::DeleteSequential { counter }
        } else if own.oldest < own.next {
            let sequence = own.oldest;
            own.oldest += 1;
            self.plan.paths.own(&mut self.path, self.plan.numbers.start + port.index as u32, sequence);
            MixSent::Delete { sequence }
        } else {
            // All that exist are sequential and not yet answered: nothing can be deleted now.
            return self.send_create(port, span, operation);
        };
        port.send(&Request::Delete { path: self.path.as_str().into(), version: -1 }, sent, span);
    }

    /// Asks something for the sake of a watch; an exists watch goes on to the node that its neighbour creates next.
    fn ask(&mut self, port: &mut Port<'_, MixSent>, asked: Asked) {
        if let Asked::Set(place) = asked {
            let (paths, first, own) = (&self.plan.paths, self.plan.numbers.start, &self.own);
            let watch = self.watching.watch(port.index, place);
            if watch.kind == Kind::Exist {
                paths.own(&mut watch.path, first + watch.at as u32, own[watch.at].next);
            }
        }
        self.watching.ask(port, asked, MixSent::Watch(asked));
    }

    fn send_multi(&mut self, port: &mut Port<'_, MixSent>, span: Span, doing: Doing, count: u32) {
        let (index, number) = (port.index, self.plan.numbers.start + port.index as u32);
        let mut parts: Vec<(String, Vec<u8>)> = Vec::new();
        let sent = match doing {
            Doing::MultiSet => {
                let owned = self.owned(index);
                let count = count.min(owned);
                let first = self.dice.below(owned - count + 1);
                for nth in first..first + count {
                    self.next_data(self.owned_offset(index, nth), span);
                    parts.push((self.path.clone(), self.data.clone()));
                }
                MixSent::MultiSet { first, count }
            }
            Doing::MultiGet => {
                let total = self.keys.len() as u32;
                let count = count.min(total);
                let first = self.dice.below(total - count + 1);
                for offset in first..first + count {
                    self.plan.paths.key(&mut self.path, self.plan.keys.start + offset);
                    parts.push((self.path.clone(), Vec::new()));
                }
                MixSent::MultiGet { first, count }
            }
            _ => {
                let own = &mut self.own[index];
                let creates = doing == Doing::MultiCreate;
                let at = if creates { &mut own.next } else { &mut own.oldest };
                let sequence = *at;
                *at += count;
                for sequence in sequence..sequence + count {
                    self.plan.paths.own(&mut self.path, number, sequence);
                    self.content.write(number ^ sequence, 0, &mut self.data);
                    parts.push((self.path.clone(), self.data.clone()));
                }
                if creates { MixSent::MultiCreate { sequence, count } } else { MixSent::MultiDelete { sequence, count } }
            }
        };
        let ops: Vec<Request<'_>> = parts.iter().map(|(path, data)| part_of_multi(sent, path, data, self.plan.access.list())).collect();
        let raw = MultiOps::encode_ops(&ops);
        let ops = MultiOps::from_encoded(&raw).expect("just encoded");
        let request = if doing == Doing::MultiGet { Request::MultiRead(ops) } else { Request::Multi(ops) };
        port.send(&request, sent, span);
    }
}

/// The watches of a worker's connections: keys and neighbours in turn, so that nobody watches the same twice.
fn watching(plan: &MixPlan) -> Watching {
    let WatchCounts { data, persistent, child, exist, recursive } = plan.watch;
    let kinds = |list: &[(Kind, u32)]| list.iter().flat_map(|&(kind, count)| (0..count).map(move |_| kind)).collect::<Vec<_>>();
    let of_keys = kinds(&[(Kind::Data, data), (Kind::Persistent, persistent)]);
    let of_neighbours = kinds(&[(Kind::Child, child), (Kind::Exist, exist), (Kind::Recursive, recursive)]);
    let connections = plan.numbers.len();
    let watches_of = |index: usize| {
        let key = |(nth, kind): (usize, &Kind)| {
            let (at, mut path) = ((index * of_keys.len() + nth) % plan.keys.len(), String::new());
            plan.paths.key(&mut path, plan.keys.start + at as u32);
            (*kind, at, path)
        };
        let neighbour = |(nth, kind): (usize, &Kind)| {
            let (at, mut path) = ((index + 1 + nth) % connections, String::new());
            match kind {
                Kind::Exist => plan.paths.own(&mut path, plan.numbers.start + at as u32, plan.population),
                _ => plan.paths.own_dir(&mut path, plan.numbers.start + at as u32),
            }
            (*kind, at, path)
        };
        of_keys.iter().enumerate().map(key).chain(of_neighbours.iter().enumerate().map(neighbour)).collect()
    };
    Watching::new((0..connections).map(watches_of).collect())
}

/// One operation of a multi.
fn part_of_multi<'a>(sent: MixSent, path: &'a str, data: &'a [u8], acl: AclList<'a>) -> Request<'a> {
    let path = Cow::Borrowed(path);
    match sent {
        MixSent::MultiSet { .. } => Request::SetData { path, data: Some(data), version: -1 },
        MixSent::MultiCreate { .. } => Request::Create(Create { path, data: Some(data), acl, flags: 0 }),
        MixSent::MultiDelete { .. } => Request::Delete { path, version: -1 },
        _ => Request::GetData { path, watch: false },
    }
}

impl Workload for Mix {
    type Sent = MixSent;

    fn issue(&mut self, port: &mut Port<'_, MixSent>, span: Span) -> bool {
        let operation = self.next_operation();
        let count = operation.ops[0] + self.dice.below(operation.ops[1] - operation.ops[0] + 1);
        match self.keep_balance(operation, port.index) {
            Doing::Get => self.send_read(port, span, true),
            Doing::Exists => self.send_read(port, span, false),
            Doing::List => {
                let dirs = self.plan.paths.directories.count(self.plan.keys_total);
                let dir = self.pick(dirs);
                self.plan.paths.dir(&mut self.path, dir);
                let request = Request::GetChildren2 { path: self.path.as_str().into(), watch: false };
                port.send(&request, MixSent::List { dir }, span);
            }
            Doing::Sync => port.send(&Request::Sync { path: self.plan.paths.root.as_str().into() }, MixSent::Sync, span),
            Doing::Set => self.send_set(port, span),
            Doing::Create | Doing::Churn => self.send_create(port, span, operation),
            Doing::Delete => self.send_delete(port, span, operation),
            doing => self.send_multi(port, span, doing, count),
        }
        true
    }

    fn reply(&mut self, port: &mut Port<'_, MixSent>, reply: &Reply<'_, MixSent>) {
        let result = self.check(port, reply);
        port.ended(reply.what.op(), reply.span, result);
    }

    fn opened(&mut self, port: &mut Port<'_, MixSent>) {
        for asked in self.watching.opened(port.index, port.session.is_resumed()) {
            self.ask(port, asked);
        }
    }

    fn event(&mut self, port: &mut Port<'_, MixSent>, event: &WatchEvent<'_>) {
        match self.watching.told(port.index, &event.path) {
            Ok((told, due_ns)) => {
                // Without a time: a change that was made while the connection was lost.
                if let Some(due_ns) = due_ns.filter(|due_ns| *due_ns > 0) {
                    port.meter.done(Op::Notify, port.server, Span { due_ns, begun_ns: due_ns }, port.now_ns);
                }
                // A session that is being closed asks nothing more.
                if let Told::SetAgain(place) = told
                    && port.session.is_open()
                {
                    self.ask(port, Asked::Set(place));
                }
            }
            Err(violation) => port.meter.violation(violation),
        }
    }

    fn settle(&mut self, port: &mut Port<'_, MixSent>) -> bool {
        let asked = self.watching.settle(port.index);
        asked.iter().for_each(|asked| self.ask(port, *asked));
        asked.is_empty()
    }

    fn lost(&mut self, index: usize, what: MixSent) {
        match what {
            MixSent::Set { key, .. } => self.keys[(key - self.plan.keys.start) as usize].unsure += 1,
            MixSent::MultiSet { first, count } => {
                for nth in first..first + count {
                    let offset = self.owned_offset(index, nth);
                    self.keys[offset].unsure += 1;
                }
            }
            MixSent::Create { sequence } | MixSent::Delete { sequence } => drop(self.own[index].unsure.insert(sequence)),
            MixSent::MultiCreate { sequence, count } | MixSent::MultiDelete { sequence, count } => {
                self.own[index].unsure.extend(sequence..sequence + count);
            }
            MixSent::CreateSequential => {
                self.own[index].awaited -= 1;
                self.own[index].counters_unsure += 1;
            }
            MixSent::DeleteSequential { .. } => self.own[index].counters_unsure += 1,
            MixSent::Get { .. } | MixSent::Exists { .. } | MixSent::List { .. } | MixSent::Sync => {}
            MixSent::MultiGet { .. } | MixSent::Watch(_) => {}
        }
    }

    fn expired(&mut self, index: usize) {
        if self.ephemeral {
            let own = &mut self.own[index];
            own.oldest = own.next;
            own.counters.clear();
        }
    }

    fn usual_op(&self) -> Op {
        self.plan.operations.iter().max_by_key(|operation| operation.weight).map_or(Op::Get, |operation| operation.doing.op())
    }

    fn ledger(self) -> Ledger {
        let mut ledger = Ledger::default();
        for (at, known) in self.keys.iter().enumerate() {
            let (version_min, version_max) = known.version_range();
            ledger.keys.push(KeyEntry { key: self.plan.keys.start + at as u32, version_min, version_max, label: known.sent });
        }
        let mut path = String::new();
        let (mut counted, mut unsure) = (0, 0);
        for (own, number) in self.own.into_iter().zip(self.plan.numbers) {
            let live = if self.ephemeral { 0 } else { i64::from(own.next - own.oldest) };
            if own.next == 0 && own.unsure.is_empty() {
                // It has never had any; perhaps there is not even a directory.
                counted += own.counters.len() as i64 * i64::from(!self.ephemeral);
                unsure += own.counters_unsure;
                continue;
            }
            let doubtful = own.unsure.len() as i64;
            self.plan.paths.own_dir(&mut path, number);
            // What is unsure may be missing among the live, or be there though it was deleted.
            ledger.children.insert(path.clone(), ((live - doubtful).max(0), live + doubtful));
            counted += if self.ephemeral { 0 } else { own.counters.len() as i64 };
            unsure += own.counters_unsure;
            if !self.ephemeral {
                ledger.own.push(OwnEntry { number, sequences: own.oldest..own.next, unsure: own.unsure });
            }
        }
        if !self.given.is_empty() {
            self.plan.paths.line(&mut path, 0);
            ledger.children.insert(path.clone(), (counted - unsure, counted + unsure));
            ledger.sequences.insert(path, self.given);
        }
        ledger
    }
}
