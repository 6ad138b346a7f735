//! What a worker's connections do, and whether the answers are right. A workload is a state machine without sockets and
//! clocks: the worker asks it for the next operation and hands it every reply and event. At its end it leaves a ledger
//! of what the server must still hold. Refuses to know how many operations run at once: that is the worker's business.

mod fill;
mod idle;
mod ledger;
mod lock;
mod mix;
mod mix_check;
mod queue;
mod registry;
mod storm;
mod sweep;
mod watching;

pub use fill::Fill;
pub use idle::Idle;
pub use ledger::{KeyEntry, Ledger, OwnEntry};
pub use lock::{Holders, Lock};
pub use mix::{Mix, MixPlan};
pub use queue::Queue;
pub use registry::Registry;
pub use storm::Storm;
pub use sweep::Sweep;

use crate::meter::Meter;
use crate::session::{Reply, Session, Span};
use crate::tally::{Miss, Op, Violation};
use falconer::wire::jute::{Malformed, Reader};
use falconer::wire::request::Request;
use falconer::wire::response::{WatchEvent, code};

/// One connection, as a workload sees it while it is asked or told something.
pub struct Port<'a, S> {
    /// The connection's number in this worker.
    pub index: usize,
    /// The server's place in the list of servers.
    pub server: usize,
    pub now_ns: u64,
    pub session: &'a mut Session<S>,
    pub meter: &'a mut Meter,
    /// Operations begun on this connection that have not ended.
    pub running: &'a mut u32,
}

impl<S> Port<'_, S> {
    /// Sends one request of an operation.
    pub fn send(&mut self, request: &Request<'_>, what: S, span: Span) {
        self.session.send(request, what, span, self.now_ns);
    }

    /// An operation has ended well.
    pub fn done(&mut self, op: Op, span: Span) {
        *self.running -= 1;
        self.meter.done(op, self.server, span, self.now_ns);
    }

    /// An operation has ended, and its answer was wrong.
    pub fn failed(&mut self, violation: Violation) {
        *self.running -= 1;
        self.meter.violation(violation);
    }

    /// An operation has ended: well, or with a wrong answer.
    pub fn ended(&mut self, op: Op, span: Span, result: Result<(), Violation>) {
        match result {
            Ok(()) => self.done(op, span),
            Err(violation) => self.failed(violation),
        }
    }

    /// Counts an error code; the violation that it makes.
    pub fn bad_code(&mut self, what: &str, code: i32) -> Violation {
        *self.meter.tally.codes.entry(code).or_default() += 1;
        Violation::new(Miss::Code, format!("{what}: error {code} ({})", code::name(code)))
    }
}

/// What the connections of one worker do.
pub trait Workload: Send + 'static {
    /// What was asked, so that the reply can be checked.
    type Sent: Copy + Send;

    /// A session has been opened, or taken up again.
    fn opened(&mut self, _port: &mut Port<'_, Self::Sent>) {}

    /// Begins the connection's next operation; false if there is none left. The worker counts it as running.
    fn issue(&mut self, port: &mut Port<'_, Self::Sent>, span: Span) -> bool;

    /// Takes a reply; ends its operation, or goes on with it.
    fn reply(&mut self, port: &mut Port<'_, Self::Sent>, reply: &Reply<'_, Self::Sent>);

    /// Takes a watch event.
    fn event(&mut self, port: &mut Port<'_, Self::Sent>, event: &WatchEvent<'_>) {
        let text = format!("a watch event for {}, though no watch was set", event.path);
        port.meter.violation(Violation::new(Miss::DuplicateEvent, text));
    }

    /// A request's connection is lost: it may have been executed or not.
    fn lost(&mut self, _index: usize, _what: Self::Sent) {}

    /// A connection's session has expired: its ephemeral nodes are gone or will go.
    fn expired(&mut self, _index: usize) {}

    /// Asked when nothing runs on the connection and the run is over: sends what is left to be checked. True when
    /// nothing is.
    fn settle(&mut self, _port: &mut Port<'_, Self::Sent>) -> bool {
        true
    }

    /// What an operation that was never begun would have been.
    fn usual_op(&self) -> Op;

    /// What the server must hold now that all sessions are closed.
    fn ledger(self) -> Ledger;
}

/// The numbers of sequential nodes in a list of children: what stands behind the last `-` of each name.
fn sequence_numbers(body: &[u8]) -> Result<Vec<u32>, Malformed> {
    let mut reader = Reader::new(body);
    let count = reader.vector(4)?.unwrap_or(0);
    (0..count)
        .map(|_| {
            let name = reader.utf8()?;
            name.rsplit_once('-').and_then(|(_, digits)| digits.parse().ok()).ok_or(Malformed)
        })
        .collect()
}
