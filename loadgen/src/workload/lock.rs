//! The lock recipe: an ephemeral sequential node, the lowest number holds the lock, everybody else watches the node in
//! front of its own. An operation is one lock taken and given back at once. Checked: never two holders of one lock, the
//! watch events that were asked for and no others, and no node left at the end. Refuses to hold a lock for any time.

use super::{Ledger, Port, Workload, sequence_numbers};
use crate::content::{Dice, Paths};
use crate::session::{Reply, Span};
use crate::tally::{Miss, Op, Violation};
use falconer::wire::jute::Reader;
use falconer::wire::request::{Create, OPEN_ACL, Request};
use falconer::wire::response::{WatchEvent, code};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Create flags on the wire: ephemeral and sequential.
const EPHEMERAL_SEQUENTIAL: i32 = 3;
const NAME: &str = "/lock-";

/// Who holds each lock: the connection's number plus one, 0 for nobody. Shared by all workers.
pub type Holders = Arc<Vec<AtomicU32>>;

/// The step that was asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    Create,
    List,
    /// Is the node in front of the own one still there, and tell when it goes.
    Watch,
    /// What is done while the lock is held.
    Work,
    Delete,
}

/// Where a connection is on its way to a lock. One at a time.
#[derive(Clone, Copy)]
struct Claim {
    lock: u32,
    /// The number of the own node.
    counter: u32,
    span: Span,
    /// The number of the node whose end was asked for and has not been told.
    watched: Option<u32>,
}

/// One worker's connections.
pub struct Lock {
    paths: Paths,
    numbers: Range<u32>,
    holders: Holders,
    claims: Vec<Option<Claim>>,
    dice: Dice,
    path: String,
}

impl Lock {
    pub fn new(paths: Paths, numbers: Range<u32>, holders: Holders, seed: u64) -> Lock {
        let dice = Dice::new(seed ^ u64::from(numbers.start) << 32);
        Lock { paths, claims: vec![None; numbers.len()], numbers, holders, dice, path: String::new() }
    }

    fn write_node(&mut self, lock: u32, counter: u32) {
        self.paths.line(&mut self.path, lock);
        self.path += &format!("{NAME}{counter:010}");
    }

    fn list(&mut self, port: &mut Port<'_, Step>, claim: Claim) {
        self.paths.line(&mut self.path, claim.lock);
        port.send(&Request::GetChildren { path: self.path.as_str().into(), watch: false }, Step::List, claim.span);
    }

    /// Goes on after the list: the lock is ours, or there is one to wait for.
    fn judge(&mut self, port: &mut Port<'_, Step>, claim: Claim, body: &[u8]) -> Result<(), Violation> {
        let numbers = sequence_numbers(body).map_err(|_| Violation::new(Miss::Malformed, "lock: a list that does not parse"))?;
        if !numbers.contains(&claim.counter) {
            let text = format!("lock {}: the own node {} is not in the list", claim.lock, claim.counter);
            return Err(Violation::new(Miss::LostWrite, text));
        }
        match numbers.iter().filter(|number| **number < claim.counter).max() {
            None => self.hold(port, claim),
            Some(&before) => {
                self.write_node(claim.lock, before);
                self.claims[port.index] = Some(Claim { watched: Some(before), ..claim });
                port.send(&Request::Exists { path: self.path.as_str().into(), watch: true }, Step::Watch, claim.span);
                Ok(())
            }
        }
    }

    /// The lock is ours: nobody else may hold it. Does a little work.
    fn hold(&mut self, port: &mut Port<'_, Step>, claim: Claim) -> Result<(), Violation> {
        let me = self.numbers.start + port.index as u32 + 1;
        let other = self.holders[claim.lock as usize].swap(me, Ordering::SeqCst);
        port.meter.done(Op::Acquire, port.server, claim.span, port.now_ns);
        self.paths.line(&mut self.path, claim.lock);
        port.send(&Request::Exists { path: self.path.as_str().into(), watch: false }, Step::Work, claim.span);
        match other {
            0 => Ok(()),
            other => Err(two_holders(claim.lock, other, me)),
        }
    }

    /// Gives the lock back, if it is still ours.
    fn give_back(&mut self, port: &mut Port<'_, Step>, claim: Claim) -> Result<(), Violation> {
        let me = self.numbers.start + port.index as u32 + 1;
        let holder = self.holders[claim.lock as usize].swap(0, Ordering::SeqCst);
        self.write_node(claim.lock, claim.counter);
        let span = Span { due_ns: port.now_ns, begun_ns: port.now_ns };
        port.send(&Request::Delete { path: self.path.as_str().into(), version: -1 }, Step::Delete, span);
        if holder == me { Ok(()) } else { Err(two_holders(claim.lock, holder, me)) }
    }

    fn step(&mut self, port: &mut Port<'_, Step>, reply: &Reply<'_, Step>) -> Result<(), Violation> {
        let claim = self.claims[port.index].expect("a reply belongs to a claim");
        match (reply.what, reply.header.err) {
            (Step::Create, code::OK) => {
                let path = Reader::new(reply.body).required().map_err(|_| Violation::new(Miss::Malformed, "lock: no path"))?;
                let counter = path.rsplit_once(NAME).and_then(|(_, digits)| digits.parse().ok());
                let Some(counter) = counter else {
                    return Err(Violation::new(Miss::Path, format!("lock: created {path:?}, not {NAME} and ten digits")));
                };
                let claim = Claim { counter, ..claim };
                self.claims[port.index] = Some(claim);
                self.list(port, claim);
                Ok(())
            }
            (Step::List, code::OK) => self.judge(port, claim, reply.body),
            (Step::Work, code::OK) => self.give_back(port, claim),
            // It is there, and the event will come.
            (Step::Watch, code::OK) => Ok(()),
            // It went meanwhile: the watch that was set is for its creation, which never happens.
            (Step::Watch, code::NO_NODE) => {
                let claim = Claim { watched: None, ..claim };
                self.claims[port.index] = Some(claim);
                self.list(port, claim);
                Ok(())
            }
            (Step::Delete, code::OK) => {
                self.claims[port.index] = None;
                port.done(Op::Release, reply.span);
                Ok(())
            }
            (step, code) => Err(port.bad_code(&format!("lock {}: {step:?}", claim.lock), code)),
        }
    }
}

fn two_holders(lock: u32, one: u32, two: u32) -> Violation {
    let text = format!("lock {lock}: held by connection {} and by connection {}", one.saturating_sub(1), two - 1);
    Violation::new(Miss::Exclusion, text)
}

impl Workload for Lock {
    type Sent = Step;

    fn issue(&mut self, port: &mut Port<'_, Step>, span: Span) -> bool {
        let lock = self.dice.below(self.holders.len() as u32);
        assert!(self.claims[port.index].is_none(), "one claim at a time");
        self.claims[port.index] = Some(Claim { lock, counter: 0, span, watched: None });
        self.paths.line(&mut self.path, lock);
        self.path += NAME;
        let path = self.path.as_str().into();
        let create = Create { path, data: Some(&[]), acl: OPEN_ACL, flags: EPHEMERAL_SEQUENTIAL };
        port.send(&Request::Create(create), Step::Create, span);
        true
    }

    fn reply(&mut self, port: &mut Port<'_, Step>, reply: &Reply<'_, Step>) {
        if let Err(violation) = self.step(port, reply) {
            // Otherwise the claim cannot go on; its node goes with the session.
            if violation.miss == Miss::Exclusion {
                port.meter.violation(violation);
            } else {
                self.claims[port.index] = None;
                port.failed(violation);
            }
        }
    }

    fn event(&mut self, port: &mut Port<'_, Step>, event: &WatchEvent<'_>) {
        let counter = event.path.rsplit_once(NAME).and_then(|(_, digits)| digits.parse::<u32>().ok());
        match self.claims[port.index] {
            Some(claim) if claim.watched.is_some() && claim.watched == counter => {
                let claim = Claim { watched: None, ..claim };
                self.claims[port.index] = Some(claim);
                self.list(port, claim);
            }
            _ => {
                let text = format!("lock: an event for {}, which was not watched", event.path);
                port.meter.violation(Violation::new(Miss::DuplicateEvent, text));
            }
        }
    }

    fn usual_op(&self) -> Op {
        Op::Acquire
    }

    fn ledger(self) -> Ledger {
        let mut ledger = Ledger::default();
        for lock in 0..self.holders.len() as u32 {
            let mut path = String::new();
            self.paths.line(&mut path, lock);
            ledger.children.insert(path, (0, 0));
        }
        ledger
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Directories, Sizes};
    use crate::meter::{Meter, Shared};
    use crate::session::Session;
    use falconer::wire::jute::{write_i32, write_string};
    use falconer::wire::response::{self, ReplyHeader};

    const SPAN: Span = Span { due_ns: 0, begun_ns: 0 };

    fn session() -> Session<Step> {
        let (mut session, mut bytes) = (Session::new(9000, 0), Vec::new());
        response::connect(&mut bytes, 6000, 77, &[1; 16], Some(false));
        session.receive(&bytes, |_, _| {}).unwrap();
        session
    }

    /// Two connections, one lock; replies by connection, step, error and body. What went wrong.
    fn play(replies: &[(usize, Step, i32, Vec<u8>)]) -> (Vec<Miss>, u32) {
        let paths = Paths { root: "/r".into(), directories: Directories::Even(10), names: Sizes::Fixed(0) };
        let holders: Holders = Arc::new(vec![AtomicU32::new(0)]);
        let mut lock = Lock::new(paths, 0..2, holders, 1);
        let mut meter = Meter::new(1, false, None, Arc::new(Shared::default()));
        let (mut sessions, mut running) = ([session(), session()], [1, 1]);
        for index in 0..2 {
            let port =
                &mut Port { index, server: 0, now_ns: 0, session: &mut sessions[index], meter: &mut meter, running: &mut running[index] };
            lock.issue(port, SPAN);
        }
        for (index, what, err, body) in replies {
            let index = *index;
            let port =
                &mut Port { index, server: 0, now_ns: 0, session: &mut sessions[index], meter: &mut meter, running: &mut running[index] };
            lock.reply(port, &Reply { what: *what, span: SPAN, header: ReplyHeader { xid: 1, zxid: 1, err: *err }, body });
        }
        (meter.tally.misses.keys().copied().collect(), running[0] + running[1])
    }

    fn created(number: u32) -> Vec<u8> {
        let mut body = Vec::new();
        write_string(&mut body, &format!("/r/q0000/lock-{number:010}"));
        body
    }

    fn listed(numbers: &[u32]) -> Vec<u8> {
        let mut body = Vec::new();
        write_i32(&mut body, numbers.len() as i32);
        numbers.iter().for_each(|number| write_string(&mut body, &format!("lock-{number:010}")));
        body
    }

    #[test]
    fn one_after_the_other_is_right() {
        let list = |index, numbers: &[u32]| (index, Step::List, 0, listed(numbers));
        let plain = |index, step| (index, step, 0, Vec::new());
        let mut replies = vec![(0, Step::Create, 0, created(3)), (1, Step::Create, 0, created(4)), list(0, &[3, 4]), list(1, &[4, 3])];
        replies.extend([plain(0, Step::Work), plain(0, Step::Delete), (1, Step::Watch, code::NO_NODE, Vec::new())]);
        replies.extend([list(1, &[4]), plain(1, Step::Work), plain(1, Step::Delete)]);
        assert_eq!(play(&replies), (vec![], 0));
    }

    #[test]
    fn two_holders_and_a_vanished_node_are_reported() {
        let creates = [(0, Step::Create, 0, created(3)), (1, Step::Create, 0, created(4))];
        let list = |index, numbers: &[u32]| (index, Step::List, 0, listed(numbers));
        let both = [&creates[..], &[list(0, &[3, 4]), list(1, &[4])]].concat();
        assert_eq!(play(&both).0, [Miss::Exclusion]);
        let gone = [&creates[..], &[list(0, &[4])]].concat();
        assert_eq!(play(&gone).0, [Miss::LostWrite]);
    }
}
