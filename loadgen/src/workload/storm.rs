//! Sessions that come and go: each operation closes a session; the worker opens the next one in its place and times
//! that. Refuses to do anything with a session.

use super::{Ledger, Port, Workload};
use crate::session::{Reply, Span};
use crate::tally::Op;

/// The workload of handshakes.
pub struct Storm;

impl Workload for Storm {
    type Sent = ();

    fn issue(&mut self, port: &mut Port<'_, ()>, _span: Span) -> bool {
        port.session.close(port.now_ns);
        // What is timed is the opening that follows.
        *port.running -= 1;
        true
    }

    fn reply(&mut self, _port: &mut Port<'_, ()>, _reply: &Reply<'_, ()>) {}

    fn usual_op(&self) -> Op {
        Op::Connect
    }

    fn ledger(self) -> Ledger {
        Ledger::default()
    }
}
