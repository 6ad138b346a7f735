//! Watch events: who is told about what a transaction changed, each event encoded once, and only to those who may read
//! the node. Refuses to remember: what a connection may not see is gone, and its one-shot watch with it (T10).

use super::super::auth::{self, perm};
use super::super::bounds::SQUEEZED_BYTES;
use super::super::conn::{Conn, Phase};
use super::Replica;
use super::notices::Limit;
use crate::tree::{AclId, Applied, ChangeKind, path};
use crate::watch::Fired;
use crate::wire::record::event;
use crate::wire::response;

impl Replica {
    /// Tells watchers what the transaction changed, each event encoded once.
    pub(super) fn fire(&mut self, zxid: u64, applied: &Applied<'_>) {
        let mut fired: Vec<Fired> = Vec::new();
        for change in &applied.changes {
            match change.kind {
                ChangeKind::Created => self.watches.created(&change.path, &mut fired),
                ChangeKind::Deleted if crate::mutant!(M73) => {}
                ChangeKind::Deleted => self.watches.deleted(&change.path, &mut fired),
                ChangeKind::DataChanged => self.watches.data_changed(&change.path, &mut fired),
            }
            let mut encoded = None;
            for one in fired.drain(..) {
                let of_parent = one.kind == event::NODE_CHILDREN_CHANGED;
                let acl = if of_parent { change.parent_acl } else { change.acl };
                self.deliver(&one, acl, zxid, &change.path, &mut encoded);
            }
        }
    }

    fn deliver(&mut self, one: &Fired, acl: AclId, zxid: u64, changed: &str, encoded: &mut Option<i32>) {
        if *encoded != Some(one.kind) {
            let path = if one.kind == event::NODE_CHILDREN_CHANGED { path::parent(changed).unwrap_or(path::ROOT) } else { changed };
            self.event_frame.clear();
            response::watch_event(&mut self.event_frame, zxid, one.kind, path);
            *encoded = Some(one.kind);
        }
        let frame = std::mem::take(&mut self.event_frame);
        self.with_conn(one.conn, |replica, conn| {
            let ids = conn.ids.list.iter().map(|id| (id.scheme.as_str(), id.id.as_str()));
            let open = acl == AclId::OPEN || auth::permits(&replica.config.auth, replica.state.acl(acl), perm::READ, ids);
            if open && conn.phase == Phase::Open {
                conn.output.extend_from_slice(&frame);
                conn.event_bytes += frame.len();
                replica.figures.sent += 1;
                replica.figures.watch_bytes += frame.len() as u64;
                replica.bound_events(conn);
            }
        });
        self.event_frame = frame;
    }

    /// A client cannot be kept from causing events by not reading from it: who does not read them has to go.
    fn bound_events(&mut self, conn: &mut Conn) {
        let all = self.figures.queued_bytes + conn.queued() as u64;
        let squeezed = all > self.config.bounds.queued_bytes_max as u64;
        let most = if squeezed { SQUEEZED_BYTES } else { self.config.bounds.event_bytes_max };
        let bytes = conn.event_bytes;
        if bytes > most {
            self.figures.watchers_closed += 1;
            self.notice(Limit::Events, conn.peer, || format!("has not read {bytes} bytes of watch events (at most {most}), closed"));
            self.close(conn);
        }
    }
}
