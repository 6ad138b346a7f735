//! Random scripts of changes of a small tree, many of them in flight at once, against a set of paths: every answer must be
//! the one that the set gives. What prepare has promised and apply cannot keep is a panic there.

use super::*;
use crate::wire::extension::Extension;
use crate::wire::request::opcode;
use crate::wire::response::Response;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    Create(String, i32),
    CreateIfNotExists(String, i32),
    Delete(String),
    TryRemove(String),
    RemoveRecursive(String, u32),
    CheckNotExists(String),
}

/// Paths, and whether they are ephemeral.
type Tree = BTreeMap<String, bool>;

impl Step {
    fn random(dice: &mut StdRng) -> Step {
        let depth = dice.random_range(1..=4);
        let path: String = (0..depth).map(|_| ["/a", "/b", "/b-"][dice.random_range(0..3)]).collect();
        let flags = i32::from(dice.random_bool(0.2));
        match dice.random_range(0..12) {
            0..=4 => Step::Create(path, flags),
            5 | 6 => Step::CreateIfNotExists(path, flags),
            7 => Step::Delete(path),
            8 => Step::TryRemove(path),
            9 => Step::CheckNotExists(path),
            _ => Step::RemoveRecursive(path, dice.random_range(0..8)),
        }
    }

    fn request(&self) -> Request<'_> {
        match self {
            Step::Create(path, flags) => create(path, *flags),
            Step::CreateIfNotExists(path, flags) => {
                let record = Create { path: path.as_str().into(), data: None, acl: OPEN_ACL, flags: *flags };
                Request::Extension(Extension::CreateIfNotExists(record))
            }
            Step::Delete(path) => delete(path),
            Step::TryRemove(path) => Request::Extension(Extension::TryRemove { path: path.as_str().into(), version: -1 }),
            Step::RemoveRecursive(path, nodes_max) => {
                Request::Extension(Extension::RemoveRecursive { path: path.as_str().into(), nodes_max: *nodes_max })
            }
            Step::CheckNotExists(path) => Request::Extension(Extension::CheckNotExists { path: path.as_str().into(), version: -1 }),
        }
    }

    /// What the answer must be, and what becomes of the tree.
    fn play(&self, tree: &mut Tree) -> i32 {
        let below = |tree: &Tree, path: &str| tree.keys().filter(|p| p.strip_prefix(path).is_some_and(|r| r.starts_with('/'))).count();
        match self {
            Step::CreateIfNotExists(path, _) if tree.contains_key(path) => code::OK,
            Step::Create(path, flags) | Step::CreateIfNotExists(path, flags) => {
                let parent = &path[..path.rfind('/').unwrap()];
                match tree.get(parent) {
                    None if !parent.is_empty() => code::NO_NODE,
                    _ if tree.contains_key(path) => code::NODE_EXISTS,
                    Some(true) => code::NO_CHILDREN_FOR_EPHEMERALS,
                    _ => {
                        tree.insert(path.clone(), *flags == 1);
                        code::OK
                    }
                }
            }
            Step::CheckNotExists(path) => {
                if tree.contains_key(path) {
                    code::NODE_EXISTS
                } else {
                    code::OK
                }
            }
            Step::TryRemove(path) => {
                Step::Delete(path.clone()).play(tree);
                code::OK
            }
            Step::Delete(path) | Step::RemoveRecursive(path, _) if !tree.contains_key(path) => code::NO_NODE,
            Step::Delete(path) if below(tree, path) > 0 => code::NOT_EMPTY,
            Step::RemoveRecursive(path, nodes_max) if below(tree, path) > (*nodes_max).max(1) as usize - 1 => code::NOT_EMPTY,
            Step::Delete(path) | Step::RemoveRecursive(path, _) => {
                tree.retain(|p, _| p != path && !p.strip_prefix(path.as_str()).is_some_and(|r| r.starts_with('/')));
                code::OK
            }
        }
    }
}

/// A multi's answers: as if one by one, until one fails and takes all back.
fn play_multi(steps: &[Step], tree: &mut Tree) -> Vec<i32> {
    let (mut wanted, before) = (Vec::new(), tree.clone());
    for step in steps {
        let failed = wanted.last().is_some_and(|&c| c != code::OK);
        wanted.push(if failed { code::RUNTIME_INCONSISTENCY } else { step.play(tree) });
    }
    if wanted.iter().any(|&c| c != code::OK) {
        *tree = before;
    }
    wanted
}

fn codes(frame: &Frame, multi: bool) -> Vec<i32> {
    if !multi {
        return vec![frame.0.err];
    }
    assert_eq!(frame.0.err, code::OK);
    let Response::Multi(results) = Response::decode(opcode::MULTI, &mut Reader::new(&frame.1)).unwrap() else { panic!() };
    results.iter().map(|one| one.result.as_ref().err().copied().unwrap_or(code::OK)).collect()
}

fn run(seed: u64) {
    let dice = &mut StdRng::seed_from_u64(seed);
    let mut server = Server::with(Setup { state: || State::new(true), ..Setup::default() });
    let (client, mut tree) = (server.session(0), Tree::new());
    for _ in 0..40 {
        let mut asked = Vec::new();
        for _ in 0..dice.random_range(1..30) {
            let multi = dice.random_bool(0.2);
            let count = if multi { dice.random_range(1..5) } else { 1 };
            let steps: Vec<Step> = (0..count).map(|_| Step::random(dice)).collect();
            let requests: Vec<Request<'_>> = steps.iter().map(Step::request).collect();
            let raw = MultiOps::encode_ops(&requests);
            let request = if multi { Request::Multi(MultiOps::from_encoded(&raw).unwrap()) } else { requests[0].clone() };
            server.send(client, 1, &request);
            asked.push((multi, play_multi(&steps, &mut tree), steps));
            match dice.random_range(0..10) {
                0 => server.prepare(),
                1 => server.commit(),
                _ => {}
            }
        }
        server.settle();
        let frames = server.frames(client);
        assert_eq!(frames.len(), asked.len());
        for (frame, (multi, wanted, steps)) in frames.iter().zip(&asked) {
            assert_eq!(&codes(frame, *multi), wanted, "seed {seed}: {steps:?}");
        }
        let state = server.shards[1].state();
        assert_eq!((state.node_count(), state.digest()), (4 + tree.len(), Some(state.compute_digest())), "seed {seed}");
        assert_eq!(state.ephemeral_count(), tree.values().filter(|ephemeral| **ephemeral).count());
    }
}

#[test]
fn answers_are_those_of_a_set_of_paths() {
    (0..60).for_each(run);
}
