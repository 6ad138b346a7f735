//! Creates what must be there before the load, each node once: the keys of a range, then the nodes that the connections
//! of the load will call their own. Refuses to repeat itself.

use super::{Ledger, Port, Workload};
use crate::access::Access;
use crate::content::{Content, Paths, Sizes};
use crate::session::{Reply, Span};
use crate::tally::{Miss, Op, Violation};
use falconer::wire::jute::Reader;
use falconer::wire::request::{Create, Request};
use falconer::wire::response::code;
use std::ops::Range;

/// One node to be created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FillNode {
    Key(u32),
    Own { number: u32, sequence: u32 },
}

/// One worker's share of the nodes.
pub struct Fill {
    paths: Paths,
    content: Content,
    access: Access,
    keys: Range<u32>,
    /// Nodes of each of these connections.
    population: u32,
    numbers: Range<u32>,
    /// The next of the own nodes, counted through.
    next_own: u64,
    path: String,
    data: Vec<u8>,
}

impl Fill {
    pub fn new(paths: Paths, sizes: Sizes, keys: Range<u32>, numbers: Range<u32>, population: u32) -> Fill {
        let content = Content::new(sizes);
        let access = Access::new(&[]).expect("open to all");
        Fill { paths, content, access, keys, population, numbers, next_own: 0, path: String::new(), data: Vec::new() }
    }

    /// The nodes have this list instead of the open one.
    pub fn with_access(self, access: Access) -> Fill {
        Fill { access, ..self }
    }

    fn next(&mut self) -> Option<FillNode> {
        if let Some(key) = self.keys.next() {
            return Some(FillNode::Key(key));
        }
        if self.next_own >= u64::from(self.population) * self.numbers.len() as u64 {
            return None;
        }
        let (number, sequence) = (self.next_own / u64::from(self.population), self.next_own % u64::from(self.population));
        self.next_own += 1;
        Some(FillNode::Own { number: self.numbers.start + number as u32, sequence: sequence as u32 })
    }

    fn write_path(&mut self, node: FillNode) {
        match node {
            FillNode::Key(key) => self.paths.key(&mut self.path, key),
            FillNode::Own { number, sequence } => self.paths.own(&mut self.path, number, sequence),
        }
    }
}

impl Workload for Fill {
    type Sent = FillNode;

    fn issue(&mut self, port: &mut Port<'_, FillNode>, span: Span) -> bool {
        let Some(node) = self.next() else { return false };
        self.write_path(node);
        let key = match node {
            FillNode::Key(key) => key,
            FillNode::Own { number, sequence } => number ^ sequence,
        };
        self.content.write(key, 0, &mut self.data);
        let create = Create { path: self.path.as_str().into(), data: Some(&self.data), acl: self.access.list(), flags: 0 };
        port.send(&Request::Create(create), node, span);
        true
    }

    fn reply(&mut self, port: &mut Port<'_, FillNode>, reply: &Reply<'_, FillNode>) {
        self.write_path(reply.what);
        let result = match reply.header.err {
            code::OK => match Reader::new(reply.body).required() {
                Ok(path) if path == self.path => Ok(()),
                Ok(path) => Err(Violation::new(Miss::Path, format!("created {path:?} instead of {:?}", self.path))),
                Err(_) => Err(Violation::new(Miss::Malformed, format!("create {}: the reply does not parse", self.path))),
            },
            code => Err(port.bad_code(&format!("create {}", self.path), code)),
        };
        port.ended(Op::Create, reply.span, result);
    }

    fn usual_op(&self) -> Op {
        Op::Create
    }

    fn ledger(self) -> Ledger {
        Ledger::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Directories;

    #[test]
    fn every_node_is_made_once() {
        let paths = Paths { root: "/r".into(), directories: Directories::Even(10), names: Sizes::Fixed(0) };
        let mut fill = Fill::new(paths, Sizes::Fixed(3), 5..7, 2..4, 2);
        let all: Vec<FillNode> = std::iter::from_fn(|| fill.next()).collect();
        let own = |number, sequence| FillNode::Own { number, sequence };
        assert_eq!(all, [FillNode::Key(5), FillNode::Key(6), own(2, 0), own(2, 1), own(3, 0), own(3, 1)]);
    }
}
