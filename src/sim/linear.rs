//! Linearizability of single registers, by search and without trusting a zxid: each register is a node that is created,
//! set, deleted, and read behind a sync. A window of operations with their times of call and return is linearizable if
//! some order of them explains every answer (Wing and Gong's search, with the memory of what was tried).
//!
//! A register is used for one window only, so that its first state is known: it is absent. An operation whose fate is
//! unknown may have happened at any time after its call, or never. Refuses to search for ever: it gives up and says so.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, DefaultHasher};

/// Operations per register. A set of them is a u128.
const WINDOW: usize = 100;
/// Operations of unknown fate per register: each doubles the search.
const UNKNOWN_MAX: usize = 6;
/// Configurations that a search looks at before it gives up.
const SEARCHED_MAX: usize = 50_000;

/// What was asked of a register. Values are never written twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    Create(u64),
    Set(u64),
    Delete,
    /// A sync and a read behind it.
    Read,
}

/// What was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply {
    Done,
    /// There was a node where there must be none, or none where there must be one.
    Failed,
    Value(Option<u64>),
}

/// One operation: called and returned at these moments of one common count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Op {
    pub call: Call,
    pub called: u64,
    /// None: the fate is unknown.
    pub returned: Option<(u64, Reply)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Linearizable,
    NotLinearizable,
    /// The search was given up.
    Unknown,
}

/// The state after `op` if the answer fits, else None. An unknown answer fits always.
fn step(state: Option<u64>, op: &Op) -> Option<Option<u64>> {
    let reply = op.returned.map(|(_, reply)| reply);
    let change = |applies: bool, after: Option<u64>| match reply {
        None => Some(if applies { after } else { state }),
        Some(Reply::Done) => applies.then_some(after),
        Some(Reply::Failed) => (!applies).then_some(state),
        Some(Reply::Value(_)) => None,
    };
    match op.call {
        Call::Create(value) => change(state.is_none(), Some(value)),
        Call::Set(value) => change(state.is_some(), Some(value)),
        Call::Delete => change(state.is_some(), None),
        Call::Read => (reply.is_none() || reply == Some(Reply::Value(state))).then_some(state),
    }
}

/// Whether some order explains the history of a register that was absent at first. At most 128 operations.
pub fn check(ops: &[Op]) -> Verdict {
    assert!(ops.len() <= 128, "a set of operations is a u128");
    let known: u128 = ops.iter().enumerate().filter(|(_, op)| op.returned.is_some()).fold(0, |set, (i, _)| set | 1 << i);
    let mut seen: HashSet<(u128, Option<u64>), BuildHasherDefault<DefaultHasher>> = HashSet::default();
    let mut stack = vec![(0u128, None)];
    while let Some((done, state)) = stack.pop() {
        if done & known == known {
            return Verdict::Linearizable;
        }
        if !seen.insert((done, state)) {
            continue;
        }
        if seen.len() > SEARCHED_MAX {
            return Verdict::Unknown;
        }
        // Whoever returned first must come before all that were called after that.
        let open = || ops.iter().enumerate().filter(|(i, _)| done & 1 << i == 0);
        let first_return = open().filter_map(|(_, op)| op.returned).map(|(at, _)| at).min().unwrap_or(u64::MAX);
        // What is pushed last is tried first: known answers before unknown ones, early calls before late ones.
        for known in [false, true] {
            let ready = |op: &Op| op.called < first_return && op.returned.is_some() == known;
            for (i, op) in ops.iter().enumerate().rev().filter(|(i, op)| done & 1 << i == 0 && ready(op)) {
                if let Some(after) = step(state, op) {
                    stack.push((done | 1 << i, after));
                }
            }
        }
    }
    Verdict::NotLinearizable
}

/// Names an operation of a register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Token {
    register: u64,
    op: usize,
}

struct Window {
    register: u64,
    ops: Vec<Op>,
    open: usize,
    unknown: usize,
}

impl Window {
    fn is_full(&self) -> bool {
        self.ops.len() >= WINDOW || self.unknown >= UNKNOWN_MAX
    }
}

/// The register in use and those that wait for their last answers.
#[derive(Default)]
pub struct Registers {
    windows: Vec<Window>,
    next: u64,
    now: u64,
    checked: u64,
    unknown: u64,
}

impl Registers {
    fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// The path of the register in use.
    pub fn path(&mut self) -> String {
        if self.windows.last().is_none_or(Window::is_full) {
            self.windows.push(Window { register: self.next, ops: Vec::new(), open: 0, unknown: 0 });
            self.next += 1;
        }
        format!("/register-{}", self.next - 1)
    }

    /// An operation on the register in use is called now.
    pub fn call(&mut self, call: Call) -> Token {
        let called = self.tick();
        let window = self.windows.last_mut().expect("its path was asked for");
        window.ops.push(Op { call, called, returned: None });
        window.open += 1;
        Token { register: window.register, op: window.ops.len() - 1 }
    }

    /// It was answered. None: it was refused and changed nothing.
    pub fn complete(&mut self, token: Token, reply: Option<Reply>) {
        let now = self.tick();
        let window = self.windows.iter_mut().find(|w| w.register == token.register).expect("it has an open operation");
        window.ops[token.op].returned = reply.map(|reply| (now, reply));
        if reply.is_none() {
            // It did not happen: as a read of unknown fate it says nothing.
            window.ops[token.op].call = Call::Read;
        }
        self.done(token);
    }

    /// Nobody will know.
    pub fn unknown(&mut self, token: Token) {
        self.tick();
        let window = self.windows.iter_mut().find(|w| w.register == token.register).expect("it has an open operation");
        window.unknown += usize::from(window.ops[token.op].call != Call::Read);
        self.done(token);
    }

    fn done(&mut self, token: Token) {
        let in_use = self.windows.last().map(|w| w.register);
        let at = self.windows.iter().position(|w| w.register == token.register).expect("it has an open operation");
        self.windows[at].open -= 1;
        let full = Some(token.register) != in_use || self.windows[at].is_full();
        if full && self.windows[at].open == 0 {
            let window = self.windows.remove(at);
            self.judge(&window);
        }
    }

    fn judge(&mut self, window: &Window) {
        self.checked += 1;
        match check(&window.ops) {
            Verdict::Linearizable => {}
            Verdict::Unknown => self.unknown += 1,
            Verdict::NotLinearizable => panic!("E1: register {} is not linearizable: {:?}", window.register, window.ops),
        }
    }

    /// The run is over: judges what was not full.
    pub fn finish(&mut self) {
        for window in std::mem::take(&mut self.windows) {
            self.judge(&window);
        }
    }

    /// Windows that were judged, and those where the search was given up.
    pub fn windows(&self) -> (u64, u64) {
        (self.checked, self.unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(call: Call, called: u64, returned: u64, reply: Reply) -> Op {
        Op { call, called, returned: Some((returned, reply)) }
    }

    fn lost(call: Call, called: u64) -> Op {
        Op { call, called, returned: None }
    }

    const DONE: Reply = Reply::Done;

    fn read(called: u64, returned: u64, value: Option<u64>) -> Op {
        op(Call::Read, called, returned, Reply::Value(value))
    }

    #[test]
    fn sequential_histories_need_the_last_value() {
        let history = |seen| [op(Call::Create(1), 1, 2, DONE), op(Call::Set(2), 3, 4, DONE), read(5, 6, seen)];
        assert_eq!(check(&history(Some(2))), Verdict::Linearizable);
        for wrong in [Some(1), Some(3), None] {
            assert_eq!(check(&history(wrong)), Verdict::NotLinearizable, "{wrong:?}");
        }
    }

    #[test]
    fn a_stale_read_is_found_and_an_overlapping_one_is_fine() {
        let writes = [op(Call::Create(1), 1, 2, DONE), op(Call::Set(2), 3, 8, DONE)];
        let with = |reads: &[Op]| check(&[&writes[..], reads].concat());
        assert_eq!(with(&[read(4, 5, Some(2)), read(6, 7, Some(2))]), Verdict::Linearizable);
        assert_eq!(with(&[read(4, 5, Some(1)), read(6, 7, Some(2))]), Verdict::Linearizable);
        // New, then old: no order explains it, although both overlap the write.
        assert_eq!(with(&[read(4, 5, Some(2)), read(6, 7, Some(1))]), Verdict::NotLinearizable);
        assert_eq!(with(&[read(9, 10, Some(1))]), Verdict::NotLinearizable);
    }

    #[test]
    fn errors_are_answers_too() {
        let failed = |call, called| op(call, called, called + 1, Reply::Failed);
        assert_eq!(check(&[failed(Call::Delete, 1), failed(Call::Set(1), 3), op(Call::Create(2), 5, 6, DONE)]), Verdict::Linearizable);
        assert_eq!(check(&[op(Call::Create(2), 1, 2, DONE), failed(Call::Delete, 3)]), Verdict::NotLinearizable);
        assert_eq!(check(&[failed(Call::Create(2), 1)]), Verdict::NotLinearizable);
        assert_eq!(check(&[op(Call::Create(2), 1, 2, DONE), op(Call::Create(3), 3, 4, DONE)]), Verdict::NotLinearizable);
    }

    #[test]
    fn what_is_lost_may_have_happened_once_or_never() {
        let create = op(Call::Create(1), 1, 2, DONE);
        let set = lost(Call::Set(2), 3);
        assert_eq!(check(&[create, set, read(5, 6, Some(1)), read(7, 8, Some(2))]), Verdict::Linearizable);
        assert_eq!(check(&[create, set, read(5, 6, Some(1)), read(7, 8, Some(1))]), Verdict::Linearizable);
        assert_eq!(check(&[create, set, read(5, 6, Some(2)), read(7, 8, Some(1))]), Verdict::NotLinearizable);
        assert_eq!(check(&[create, read(3, 4, Some(2)), lost(Call::Set(2), 5)]), Verdict::NotLinearizable);
    }

    #[test]
    #[should_panic(expected = "E1: register 0 is not linearizable")]
    fn a_window_is_judged_when_the_run_ends() {
        let mut registers = Registers::default();
        assert_eq!(registers.path(), "/register-0");
        let create = registers.call(Call::Create(1));
        registers.complete(create, Some(Reply::Done));
        let read = registers.call(Call::Read);
        registers.complete(read, Some(Reply::Value(None)));
        registers.finish();
    }

    #[test]
    fn a_full_register_makes_room_for_the_next() {
        let mut registers = Registers::default();
        for i in 0..WINDOW as u64 {
            registers.path();
            let call = registers.call(if i == 0 { Call::Create(1) } else { Call::Set(i) });
            registers.complete(call, Some(Reply::Done));
        }
        assert_eq!((registers.path().as_str(), registers.windows()), ("/register-1", (1, 0)));
    }
}
