//! The extensions that are transactions: their checks, on the State plus what is proposed, in the order of Keeper's.
//! Refuses to be more than a shorthand: what a removal may do is what deletes one by one could have done.

use super::super::auth::perm;
use super::super::prepare::{Asker, Planned, Prepare, parent_of};
use super::stat_matches;
use crate::limits::REMOVE_NODES_MAX;
use crate::tree::path as paths;
use crate::wire::extension::Extension;
use crate::wire::record::Stat;
use crate::wire::request::{Create, opcode};
use crate::wire::response::code;
use std::borrow::Cow;

impl Prepare {
    /// Checks one extension and records what it changes in the overlay, or says why not.
    pub(in crate::pipeline) fn extension<'r>(&mut self, asker: &Asker<'r>, extension: &Extension<'r>) -> Result<Planned<'r>, i32> {
        match extension {
            Extension::CheckNotExists { path, version } => self.check_not_exists(asker, path, *version),
            Extension::CheckStat { path, version, stat } => self.check_stat(asker, path, *version, stat),
            Extension::CreateIfNotExists(create) => self.create_if_not_exists(asker, create),
            Extension::TryRemove { path, version } => match self.delete(asker, path, *version) {
                Err(code::NO_NODE | code::BAD_VERSION | code::NOT_EMPTY) => Ok(Planned::DeleteSkipped),
                other => other,
            },
            Extension::RemoveRecursive { path, nodes_max } => self.remove_recursive(asker, path, *nodes_max),
            other => unreachable!("{other:?} is not a change"),
        }
    }

    fn check_not_exists<'r>(&self, asker: &Asker<'r>, path: &str, version: i32) -> Result<Planned<'r>, i32> {
        match self.existing(asker, path, perm::READ) {
            Ok((_, node)) if version == -1 || version == node.version => Err(code::NODE_EXISTS),
            Ok(_) | Err(code::NO_NODE) => Ok(Planned::Check),
            Err(refused) => Err(refused),
        }
    }

    fn check_stat<'r>(&self, asker: &Asker<'r>, path: &str, version: i32, wanted: &Stat) -> Result<Planned<'r>, i32> {
        let (_, node) = self.existing(asker, path, perm::READ)?;
        let held = (version == -1 || version == node.version) && stat_matches(&node.stat(), wanted);
        if held { Ok(Planned::Check) } else { Err(code::BAD_VERSION) }
    }

    fn create_if_not_exists<'r>(&mut self, asker: &Asker<'r>, create: &Create<'r>) -> Result<Planned<'r>, i32> {
        // Persistent or ephemeral: there is no saying whether a sequential one exists.
        if !(0..=1).contains(&create.flags) {
            return Err(code::BAD_ARGUMENTS);
        }
        let parent_path = parent_of(&create.path)?;
        let parent = self.view(asker, paths::hash(parent_path), parent_path).ok_or(code::NO_NODE)?;
        self.require(asker, &parent, perm::CREATE)?;
        if self.view(asker, paths::hash(&create.path), &create.path).is_some() {
            return Ok(Planned::CreateSkipped { path: create.path.clone() });
        }
        self.create(asker, opcode::CREATE, create, -1)
    }

    /// NOTEMPTY when there is more than the request or the server takes at once: clients then go one by one.
    fn remove_recursive<'r>(&mut self, asker: &Asker<'r>, path: &Cow<'r, str>, nodes_max: u32) -> Result<Planned<'r>, i32> {
        let (hash, _) = self.deletable(asker, path)?;
        let nodes_max = (nodes_max as usize).clamp(1, REMOVE_NODES_MAX);
        let doomed = self.subtree(asker, path, nodes_max).ok_or(code::NOT_EMPTY)?;
        for path in &doomed {
            let node = self.view(asker, paths::hash(path), path).expect("just seen");
            if node.num_children > 0 {
                self.require(asker, &node, perm::DELETE)?;
            }
        }
        doomed.iter().for_each(|path| self.remove(asker, paths::hash(path), path));
        Ok(Planned::DeleteTree { path: path.clone(), hash, nodes: doomed.len() })
    }

    /// The node and all below it, as proposed so far, children before their parents. None if they are more than `nodes_max`.
    fn subtree(&self, asker: &Asker<'_>, root: &str, nodes_max: usize) -> Option<Vec<String>> {
        let mut found = self.overlay.subtree(root);
        // What is proposed to be deleted, or counted twice, on the way.
        let slack = 2 * self.overlay.len();
        let mut left = vec![root.to_owned()];
        while let Some(path) = left.pop() {
            match self.overlay.get(paths::hash(&path), &path) {
                // Then nothing of what the State has below it is left.
                Some(None) => continue,
                Some(Some(_)) => {}
                None => found.push(path.clone()),
            }
            let Some(node) = asker.state.find(&path) else { continue };
            if found.len() + left.len() + node.num_children() as usize > nodes_max + slack {
                return None;
            }
            left.extend(node.children().map(|name| format!("{path}/{name}")));
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        (found.len() <= nodes_max).then_some(found)
    }
}
