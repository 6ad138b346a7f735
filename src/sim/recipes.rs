//! Recipes as clients use them: a lock, an election, a queue, a counter. Each is followed step by step, survives lost
//! connections and sessions as a careful client would, and what it may rely on is judged: one holder at a time and tokens
//! that rise, each item taken once and none lost, each increment counted.
//! Refuses to look at the servers: it knows what clients were told, and at the end what the model holds.

use super::ask::Ask;
use super::model::Model;
use super::random::Dice;
use crate::wire::jute::Reader;
use crate::wire::record::Acl;
use crate::wire::request::opcode;
use crate::wire::response::code;
use std::collections::{BTreeMap, BTreeSet};

const COUNTER: &str = "/counter";
const QUEUE: &str = "/queue";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// A lock under this path; the holder keeps it for so many looks at the clock.
    Lock {
        path: &'static str,
        keeps: usize,
    },
    Producer,
    Consumer,
    Counter,
}

/// What comes next.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    /// Make the node that everything is under.
    Prepare,
    /// Lock: stand in line.
    Enter,
    /// Lock: see who is first. Whether our own node was made, and which it is, shows here too.
    Look,
    Hold {
        node: String,
        left: usize,
    },
    Leave {
        node: String,
    },
    Produce,
    Choose,
    Take {
        item: String,
    },
    Count,
    Add {
        value: u64,
        version: i32,
    },
}

/// One client's part in a recipe.
#[derive(Clone, Debug)]
pub struct Recipe {
    client: u64,
    kind: Kind,
    step: Step,
    asked: bool,
}

/// What all clients were told.
#[derive(Default)]
pub struct Recipes {
    /// By lock and client: the session in which it believes to hold it.
    holders: BTreeMap<(&'static str, u64), i64>,
    /// The highest token that a holder of a lock has had.
    tokens: BTreeMap<&'static str, u64>,
    produced: BTreeSet<String>,
    taken: BTreeSet<String>,
    perhaps_taken: BTreeSet<String>,
    added: u64,
    perhaps_added: u64,
    held: u64,
}

fn open() -> Vec<Acl> {
    vec![Acl { perms: 31, scheme: "world".into(), id: "anyone".into() }]
}

fn create(path: String, data: &[u8], flags: i32) -> Ask {
    Ask::Create { op: opcode::CREATE, path, data: Some(data.to_vec()), acl: open(), flags, ttl_ms: 0 }
}

/// The number at the end of a sequential node's name.
fn number(name: &str) -> u64 {
    name[name.len() - 10..].parse().expect("ten digits")
}

fn names(record: &[u8]) -> Vec<String> {
    let mut reader = Reader::new(record);
    let count = reader.vector(4).expect("a list").unwrap_or(0);
    (0..count).map(|_| reader.required().expect("a name").into_owned()).collect()
}

impl Recipe {
    pub fn roll(client: u64, dice: &mut Dice) -> Recipe {
        let kind = match dice.below(6) {
            0 | 1 => Kind::Lock { path: "/lock", keeps: 1 + dice.below(6) },
            2 => Kind::Lock { path: "/election", keeps: 1000 },
            3 => Kind::Producer,
            4 => Kind::Consumer,
            _ => Kind::Counter,
        };
        Recipe { client, kind, step: Step::Prepare, asked: false }
    }

    /// The next request, unless the last one is not answered yet.
    pub fn next(&mut self, recipes: &mut Recipes) -> Option<Ask> {
        if self.asked {
            return None;
        }
        let ask = match &mut self.step {
            Step::Prepare => create(self.under().into(), &0u64.to_be_bytes(), 0),
            Step::Enter => create(format!("{}/{}-", self.under(), self.client), &[], 3),
            Step::Look | Step::Choose => Ask::GetChildren { path: self.under().into(), watch: false },
            Step::Hold { left, .. } if *left > 0 => {
                *left -= 1;
                return None;
            }
            Step::Hold { node, .. } => {
                let node = node.clone();
                recipes.leaves(self.under(), self.client);
                self.step = Step::Leave { node: node.clone() };
                Ask::Delete { path: node, version: -1 }
            }
            Step::Leave { node } => Ask::Delete { path: node.clone(), version: -1 },
            Step::Produce => create(format!("{QUEUE}/item-"), &self.client.to_be_bytes(), 2),
            Step::Take { item } => Ask::Delete { path: item.clone(), version: -1 },
            Step::Count => Ask::GetData { path: COUNTER.into(), watch: false },
            Step::Add { value, version } => {
                Ask::SetData { path: COUNTER.into(), data: Some((*value + 1).to_be_bytes().to_vec()), version: *version }
            }
        };
        self.asked = true;
        Some(ask)
    }

    fn under(&self) -> &'static str {
        match self.kind {
            Kind::Lock { path, .. } => path,
            Kind::Producer | Kind::Consumer => QUEUE,
            Kind::Counter => COUNTER,
        }
    }

    /// The answer to what was asked.
    pub fn heard(&mut self, session: i64, ask: &Ask, (err, record): (i32, &[u8]), recipes: &mut Recipes, model: &Model, dice: &mut Dice) {
        let ours =
            matches!(ask, Ask::Create { .. } | Ask::Delete { .. } | Ask::SetData { .. } | Ask::GetData { .. } | Ask::GetChildren { .. });
        if !self.asked || !ours {
            return;
        }
        self.asked = false;
        // A full disk, a server that is behind, a session that is over: the same again.
        let again = matches!(self.step, Step::Enter | Step::Look | Step::Produce | Step::Choose | Step::Count);
        if err == code::SYSTEM_ERROR || again && err != code::OK {
            return;
        }
        self.step = match std::mem::replace(&mut self.step, Step::Prepare) {
            Step::Prepare => self.begins(),
            Step::Enter => Step::Look,
            Step::Look => self.looks(session, &names(record), recipes, model),
            Step::Leave { .. } => Step::Enter,
            Step::Produce => {
                let made = Reader::new(record).required().expect("the checker has compared it").into_owned();
                recipes.produced.insert(made);
                Step::Produce
            }
            Step::Choose => chooses(names(record), dice),
            Step::Take { item } => {
                recipes.took(item, err);
                Step::Choose
            }
            Step::Count => reads(record),
            Step::Add { .. } => {
                recipes.added += u64::from(err == code::OK);
                Step::Count
            }
            hold @ Step::Hold { .. } => hold,
        };
    }

    fn begins(&self) -> Step {
        match self.kind {
            Kind::Lock { .. } => Step::Look,
            Kind::Producer => Step::Produce,
            Kind::Consumer => Step::Choose,
            Kind::Counter => Step::Count,
        }
    }

    /// Ours are told by the client's number; one of an earlier session of ours goes by itself.
    fn looks(&self, session: i64, names: &[String], recipes: &mut Recipes, model: &Model) -> Step {
        let Kind::Lock { path, keeps } = self.kind else { unreachable!("only locks look") };
        let prefix = format!("{}-", self.client);
        let owned = |name: &&String| name.starts_with(&prefix) && model.owner(&format!("{path}/{name}")) == Some(session);
        let Some(ours) = names.iter().filter(owned).min_by_key(|name| number(name)) else { return Step::Enter };
        if names.iter().any(|name| number(name) < number(ours)) {
            return Step::Look;
        }
        recipes.enters(path, self.client, session, number(ours), model);
        Step::Hold { node: format!("{path}/{ours}"), left: keeps }
    }

    /// The connection is gone: whether the last request was done nobody knows.
    pub fn unknown(&mut self, recipes: &mut Recipes) {
        if !std::mem::take(&mut self.asked) {
            return;
        }
        match &self.step {
            Step::Enter | Step::Leave { .. } => self.step = Step::Look,
            Step::Take { item } => {
                recipes.perhaps_taken.insert(item.clone());
                self.step = Step::Choose;
            }
            Step::Add { .. } => {
                recipes.perhaps_added += 1;
                self.step = Step::Count;
            }
            _ => {}
        }
    }

    /// The session is over: what it held it holds no more.
    pub fn session_lost(&mut self, recipes: &mut Recipes) {
        self.unknown(recipes);
        recipes.leaves(self.under(), self.client);
        self.step = Step::Prepare;
    }
}

fn chooses(mut items: Vec<String>, dice: &mut Dice) -> Step {
    items.sort_by_key(|name| number(name));
    items.truncate(3);
    match items.is_empty() {
        true => Step::Choose,
        false => Step::Take { item: format!("{QUEUE}/{}", dice.pick(&items)) },
    }
}

fn reads(record: &[u8]) -> Step {
    let mut reader = Reader::new(record);
    let data = reader.buffer().ok().flatten().and_then(|data| data.try_into().ok());
    let stat = reader.rest();
    // czxid, mzxid, ctime and mtime come before the version.
    let version = stat.get(32..36).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes);
    match (data.map(u64::from_be_bytes), version) {
        (Some(value), Some(version)) => Step::Add { value, version },
        _ => panic!("X3: the counter is {record:?}"),
    }
}

impl Recipes {
    /// A client sees that it is first in line (X1).
    fn enters(&mut self, path: &'static str, client: u64, session: i64, token: u64, model: &Model) {
        let other = self.holders.iter().find(|((at, who), held)| *at == path && *who != client && model.is_open(**held));
        assert!(other.is_none(), "X1: client {client} holds {path} with token {token}, and so does {other:?}");
        let last = self.tokens.insert(path, token);
        assert!(last.is_none_or(|last| last <= token), "X1: client {client} holds {path} with token {token} after {last:?}");
        self.holders.insert((path, client), session);
        self.held += 1;
    }

    fn leaves(&mut self, path: &'static str, client: u64) {
        self.holders.remove(&(path, client));
    }

    /// A delete of an item was answered (X2).
    fn took(&mut self, item: String, err: i32) {
        if err == code::OK {
            assert!(!self.taken.contains(&item), "X2: {item} was taken twice");
            self.taken.insert(item);
        }
    }

    /// How many holders, items taken and increments there were.
    pub fn figures(&self) -> (u64, u64, u64) {
        (self.held, self.taken.len() as u64, self.added)
    }

    /// The run is over: nothing may be lost, nothing may be there twice (X2, X3).
    pub fn finish(&self, model: &Model) {
        let left: BTreeSet<String> = model.children(QUEUE).map(|name| format!("{QUEUE}/{name}")).collect();
        for item in &self.produced {
            let accounted = left.contains(item) || self.taken.contains(item) || self.perhaps_taken.contains(item);
            assert!(accounted, "X2: {item} is gone and nobody took it");
        }
        let again = left.intersection(&self.taken).next();
        assert!(again.is_none(), "X2: {again:?} was taken and is there");
        if let Some(data) = model.data(COUNTER) {
            let value = u64::from_be_bytes(data.try_into().expect("eight bytes"));
            let range = self.added..=self.added + self.perhaps_added;
            assert!(range.contains(&value), "X3: the counter is {value}, increments were {range:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "X2: /queue/item-0000000001 was taken twice")]
    fn an_item_is_taken_once() {
        let mut recipes = Recipes::default();
        recipes.took("/queue/item-0000000001".into(), code::OK);
        recipes.took("/queue/item-0000000001".into(), code::NO_NODE);
        recipes.took("/queue/item-0000000001".into(), code::OK);
    }

    #[test]
    #[should_panic(expected = "X1")]
    fn tokens_rise() {
        let mut recipes = Recipes::default();
        let model = Model::new();
        recipes.enters("/lock", 1, 7, 5, &model);
        recipes.enters("/lock", 2, 8, 4, &model);
    }

    #[test]
    #[should_panic(expected = "X2: /queue/item-0000000001 is gone")]
    fn nothing_is_lost() {
        let mut recipes = Recipes::default();
        recipes.produced.insert("/queue/item-0000000001".into());
        recipes.finish(&Model::new());
    }
}
