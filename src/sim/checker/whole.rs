//! The whole state of a server against the model's, node by node: what no client happened to read is judged too.
//! Refuses to compare different zxids.

use super::{Checker, violated};
use crate::tree::State;
use crate::wire::record::Acl;

impl Checker {
    /// B5: a server that has applied everything observed holds what the model holds, down to every list and owner.
    pub fn same_state(&self, state: &State) {
        let zxid = self.model.zxid();
        assert_eq!(state.applied(), zxid, "only equal zxids can be compared");
        let mut count = 0;
        self.model.each(|path, data, stat, acl, owner| {
            count += 1;
            let Some(node) = state.find(path) else { violated("B5", format_args!("0x{zxid:x}: {path} is missing")) };
            let list: &[Acl] = state.acl(node.acl_id());
            let (held, holds) = ((node.data(), node.stat(), list, node.owner()), (data, *stat, acl, owner));
            if held != holds {
                violated("B5", format_args!("0x{zxid:x}: {path} is {held:?}, not {holds:?}"));
            }
            let mut children = self.model.children(path);
            let differs = node.children().find(|name| children.next() != Some(name)).or(children.next());
            if let Some(name) = differs {
                violated("B5", format_args!("0x{zxid:x}: child {name} of {path} is not on both sides"));
            }
        });
        if count != state.node_count() {
            violated("B5", format_args!("0x{zxid:x}: {} nodes, not {count}", state.node_count()));
        }
        let open = self.model.open_sessions().map(|(id, session)| (id, session.timeout_ms, session.password));
        let sessions = state.sessions().map(|(id, session)| (id, session.timeout_ms, session.password));
        if !open.eq(sessions) {
            violated("B5", format_args!("0x{zxid:x}: other sessions are open: {:?}", state.sessions().collect::<Vec<_>>()));
        }
    }
}
