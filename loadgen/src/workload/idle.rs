//! Sessions that do nothing but stay alive. Refuses to send anything.

use super::{Ledger, Port, Workload};
use crate::session::{Reply, Span};
use crate::tally::Op;

/// The workload without operations.
pub struct Idle;

impl Workload for Idle {
    type Sent = ();

    fn issue(&mut self, _port: &mut Port<'_, ()>, _span: Span) -> bool {
        false
    }

    fn reply(&mut self, _port: &mut Port<'_, ()>, _reply: &Reply<'_, ()>) {}

    fn usual_op(&self) -> Op {
        Op::Connect
    }

    fn ledger(self) -> Ledger {
        Ledger::default()
    }
}
