//! What simulated clients ask for: every opcode, over few paths, so that they meet. Each client rolls which classes of
//! requests it makes and how often (swarm testing: what is left out matters as much as what is in).
//! Refuses quotas, which the reference does not model, and requests that cannot be encoded.

use super::ask::{Ask, Data};
use super::model::access::SUPER;
use super::plan::Focus;
use super::random::Dice;
use crate::wire::extension::opcode as extension;
use crate::wire::record::Acl;
use crate::wire::request::opcode;

/// Classes of requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    Create,
    Ephemeral,
    Sequential,
    Container,
    Ttl,
    Delete,
    /// The extensions that are transactions.
    IfNotExists,
    TryRemove,
    RemoveTree,
    Set,
    Get,
    Exists,
    Children,
    GetAcl,
    SetAcl,
    Multi,
    MultiRead,
    Ephemerals,
    AllChildren,
    WhoAmI,
    Sync,
    Ping,
    AddWatch,
    RemoveWatches,
    CheckWatches,
    Auth,
    Reconfig,
    Close,
    /// An operation on the register that is judged without zxids.
    Register,
}

/// All classes, with how often each is asked for among the others when it is on.
const CLASSES: [(Class, u32); 29] = [
    (Class::Create, 12),
    (Class::Ephemeral, 8),
    (Class::Sequential, 8),
    (Class::Container, 2),
    (Class::Ttl, 2),
    (Class::Delete, 12),
    (Class::IfNotExists, 2),
    (Class::TryRemove, 2),
    (Class::RemoveTree, 2),
    (Class::Set, 14),
    (Class::Get, 20),
    (Class::Exists, 8),
    (Class::Children, 8),
    (Class::GetAcl, 2),
    (Class::SetAcl, 2),
    (Class::Multi, 6),
    (Class::MultiRead, 2),
    (Class::Ephemerals, 1),
    (Class::AllChildren, 1),
    (Class::WhoAmI, 1),
    (Class::Sync, 2),
    (Class::Ping, 2),
    (Class::AddWatch, 2),
    (Class::RemoveWatches, 1),
    (Class::CheckWatches, 1),
    (Class::Auth, 1),
    (Class::Reconfig, 1),
    (Class::Close, 1),
    (Class::Register, 6),
];

const PATHS: [&str; 14] = ["/a", "/b", "/c", "/a/x", "/a/y", "/a/x/p", "/b/x", "/e", "/e/x", "/k", "/k/x", "/t", "/t/x", "/q"];

/// What is no path, names what is always there, or what never is.
const ODD_PATHS: [&str; 13] =
    ["", "a", "/a/", "//", "/a//b", "/.", "/a/..", "/a\0b", "/\u{1}", "/zookeeper", "/zookeeper/config", "/", "/nowhere/x"];

/// How often each class is asked for.
#[derive(Clone, Debug)]
pub struct Swarm {
    weights: [u32; CLASSES.len()],
    /// Of 100 requests, how many name an odd path.
    odd_percent: usize,
    watch_percent: usize,
}

impl Swarm {
    /// Each class is off in one of four swarms, and now and then very frequent.
    pub fn roll(focus: Focus, id: u64, dice: &mut Dice) -> Swarm {
        if focus == Focus::Registers && id % 2 == 1 {
            return Swarm::only(&[Class::Register, Class::Sync, Class::Get]);
        }
        let mut weights = CLASSES.map(|(class, weight)| match dice.below(8) {
            _ if focus == Focus::Registers && matches!(class, Class::Register | Class::Sync) => 100,
            0 | 1 => 0,
            2 => weight * 5,
            _ => weight,
        });
        if weights.iter().sum::<u32>() == 0 {
            weights[0] = 1;
        }
        Swarm { weights, odd_percent: *dice.pick(&[0, 2, 10]), watch_percent: *dice.pick(&[0, 30, 60, 90]) }
    }

    /// Only these classes, all alike.
    pub fn only(classes: &[Class]) -> Swarm {
        Swarm { weights: CLASSES.map(|(class, _)| u32::from(classes.contains(&class))), odd_percent: 0, watch_percent: 20 }
    }

    pub fn pick(&self, dice: &mut Dice) -> Class {
        let mut left = dice.below(self.weights.iter().sum::<u32>() as usize) as u32;
        for ((class, _), weight) in CLASSES.iter().zip(&self.weights) {
            if left < *weight {
                return *class;
            }
            left -= weight;
        }
        unreachable!("it is less than the sum")
    }

    /// A random request of a class; `recent` are paths that the client has made. None: the class is not one request.
    pub fn ask(&self, class: Class, dice: &mut Dice, recent: &[String]) -> Option<Ask> {
        let path = self.path(dice, recent);
        let watch = dice.chance(self.watch_percent);
        let version = if dice.chance(70) { -1 } else { dice.below(3) as i32 };
        Some(match class {
            Class::Create => create(dice, *dice.clone().pick(&[opcode::CREATE, opcode::CREATE2]), path, 0, 0),
            Class::Ephemeral => create(dice, opcode::CREATE, path, 1, 0),
            Class::Sequential => {
                let prefix = *dice.pick(&["/q/", "/a/s-", "/b/s-", "/q/lock-"]);
                let flags = *dice.pick(&[2, 3]);
                create(dice, *dice.clone().pick(&[opcode::CREATE, opcode::CREATE2]), prefix.into(), flags, 0)
            }
            Class::Container => {
                let flags = *dice.pick(&[4, 4, 4, 0]);
                create(dice, opcode::CREATE_CONTAINER, path, flags, 0)
            }
            Class::Ttl => {
                let (flags, ttl_ms) = *dice.pick(&[(5, 200), (5, 5_000), (6, 1_000), (5, 0), (0, 10), (7, 10)]);
                create(dice, opcode::CREATE_TTL, path, flags, ttl_ms)
            }
            Class::Delete => Ask::Delete { path, version },
            Class::IfNotExists => {
                let flags = *dice.pick(&[0, 0, 1, 2]);
                create(dice, extension::CREATE_IF_NOT_EXISTS, path, flags, 0)
            }
            Class::TryRemove => Ask::TryRemove { path, version },
            Class::RemoveTree => Ask::RemoveRecursive { path, nodes_max: *dice.pick(&[1, 2, 4, 1000, -1]) },
            Class::Set => Ask::SetData { path, data: data(dice), version },
            Class::Get => Ask::GetData { path, watch },
            Class::Exists => Ask::Exists { path, watch },
            Class::Children => match dice.chance(50) {
                true => Ask::GetChildren { path, watch },
                false => Ask::GetChildren2 { path, watch },
            },
            Class::GetAcl => Ask::GetAcl { path },
            // The root keeps its list: without it nothing could be made any more.
            Class::SetAcl if path == "/" => Ask::GetAcl { path },
            Class::SetAcl => Ask::SetAcl { path, acl: acl(dice), version },
            Class::Multi => Ask::Multi((0..dice.below(5)).map(|_| self.in_multi(dice, recent)).collect()),
            Class::MultiRead => Ask::MultiRead((0..dice.below(4)).map(|_| self.in_multi_read(dice, recent)).collect()),
            Class::Ephemerals => Ask::GetEphemerals { prefix: dice.pick(&["", "/", "/a", "/e", " ", " /\u{1}", "\u{a0}"]).to_string() },
            Class::AllChildren => Ask::GetAllChildrenNumber { path },
            Class::WhoAmI => Ask::WhoAmI,
            Class::Sync => Ask::Sync { path },
            Class::Ping => Ask::Ping,
            Class::AddWatch => Ask::AddWatch { path, mode: *dice.pick(&[0, 1, 1, 0, 2]) },
            Class::RemoveWatches => Ask::RemoveWatches { path, kind: dice.below(7) as i32 },
            Class::CheckWatches => Ask::CheckWatches { path, kind: dice.below(7) as i32 },
            Class::Auth => Ask::Auth { credentials: dice.pick(&[&b"bob:secret"[..], b"eve:x", b"bare", SUPER]).to_vec() },
            Class::Reconfig => Ask::Reconfig,
            Class::Close => Ask::CloseSession,
            Class::Register => return None,
        })
    }

    fn path(&self, dice: &mut Dice, recent: &[String]) -> String {
        match dice.below(100) {
            roll if roll < self.odd_percent => dice.pick(&ODD_PATHS).to_string(),
            roll if roll < 25 && !recent.is_empty() => dice.pick(recent).clone(),
            _ => dice.pick(&PATHS).to_string(),
        }
    }

    fn in_multi(&self, dice: &mut Dice, recent: &[String]) -> Ask {
        let class = *dice.pick(&[
            Class::Create,
            Class::Create,
            Class::Ephemeral,
            Class::Set,
            Class::Delete,
            Class::Sequential,
            Class::Ttl,
            Class::IfNotExists,
            Class::TryRemove,
            Class::RemoveTree,
        ]);
        if dice.chance(15) {
            return Ask::Check { path: self.path(dice, recent), version: dice.below(3) as i32 - 1 };
        }
        self.ask(class, dice, recent).expect("each is one request")
    }

    fn in_multi_read(&self, dice: &mut Dice, recent: &[String]) -> Ask {
        let (path, watch) = (self.path(dice, recent), dice.chance(20));
        if dice.chance(50) { Ask::GetData { path, watch } } else { Ask::GetChildren { path, watch } }
    }
}

fn create(dice: &mut Dice, op: i32, path: String, flags: i32, ttl_ms: i64) -> Ask {
    let acl = if dice.chance(90) { open() } else { acl(dice) };
    let flags = if dice.chance(1) { 9 } else { flags };
    // Inside a multi, ZooKeeper refuses to read flags that it does not know; createTTL's are judged later.
    let flags = if op == opcode::CREATE_TTL { flags } else { flags.min(4) };
    Ask::Create { op, path, data: data(dice), acl, flags, ttl_ms }
}

fn data(dice: &mut Dice) -> Data {
    let len = match dice.below(50) {
        0..5 => return None,
        5 => 0,
        6 => 2000,
        _ => dice.below(40),
    };
    let mut bytes = dice.roll().to_be_bytes().to_vec();
    bytes.resize(len, 7);
    Some(bytes)
}

fn open() -> Vec<Acl> {
    vec![entry(31, "world", "anyone")]
}

fn entry(perms: i32, scheme: &str, id: &str) -> Acl {
    Acl { perms, scheme: scheme.into(), id: id.into() }
}

fn acl(dice: &mut Dice) -> Vec<Acl> {
    match dice.below(10) {
        0 => vec![],
        1 => vec![entry(31, "world", "everybody")],
        2 => vec![entry(1, "world", "anyone")],
        3 => vec![entry(31, "auth", "")],
        4 => vec![entry(31, "auth", ""), entry(1, "world", "anyone"), entry(1, "world", "anyone")],
        5 => vec![entry(31, "ip", "127.0.0.0/8")],
        6 => vec![entry(1, "ip", "10.0.0.1"), entry(16, "world", "anyone")],
        7 => vec![entry(31, "digest", "bob:"), entry(1, "world", "anyone")],
        8 => vec![entry(30, "world", "anyone"), entry(1, "digest", "bob:hash")],
        _ => open(),
    }
}
