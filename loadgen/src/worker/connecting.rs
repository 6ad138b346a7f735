//! A worker's connections coming and going: opened few at a time, taken up again on the next server when they are lost, all
//! dropped at once by a herd, replaced by a storm. Refuses to hide a lost connection: each is counted, or ends the run.

use super::Worker;
use crate::clock::now_ns;
use crate::failure::{Cause, WorkerError};
use crate::link::Link;
use crate::session::{Broken, Session};
use crate::workload::Workload;
use mio::Token;

/// Handshakes under way at once while the load has not begun: servers have short accept queues.
const OPENING_MAX: usize = 32;
/// The error code that client libraries give for requests whose connection is lost.
const CONNECTION_LOSS: i32 = -4;

impl<W: Workload> Worker<W> {
    /// Starts more connections while few are under way, and tries again those that are lost.
    pub(super) fn open_more(&mut self) -> Result<(), WorkerError> {
        while self.links.len() < self.settings.connections && self.links.len() - self.open < OPENING_MAX {
            let index = self.links.len();
            let server = self.number(index) as usize % self.settings.servers.len();
            let session = Session::new(self.settings.timeout_ms, now_ns());
            self.links.push(Link::new(server, session, now_ns()));
            self.connect(index)?;
        }
        if self.open < self.links.len() && self.settings.reconnect {
            let now_ns = now_ns();
            for index in 0..self.links.len() {
                if self.links[index].retry_ns <= now_ns {
                    self.connect(index)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn connect(&mut self, index: usize) -> Result<(), WorkerError> {
        let number = self.number(index);
        let link = &mut self.links[index];
        match link.connect(self.settings.servers[link.server], number, self.poll.registry(), Token(index)) {
            Ok(()) => Ok(()),
            Err(error) => self.broken(index, error.into()),
        }
    }

    /// A connection has ended: fatal, or the session is to be taken up again on the next server.
    pub(super) fn broken(&mut self, index: usize, cause: Cause) -> Result<(), WorkerError> {
        if !self.settings.reconnect || !cause.is_lost_connection() {
            return Err(self.error(index, cause));
        }
        let link = &mut self.links[index];
        for what in link.session.take_unanswered() {
            self.workload.lost(index, what);
            *self.meter.tally.codes.entry(CONNECTION_LOSS).or_default() += 1;
        }
        self.open -= usize::from(link.session.is_open());
        if link.is_up() {
            self.meter.tally.disconnects += 1;
        }
        let expired = matches!(cause, Cause::Session(Broken::Expired));
        if expired {
            self.meter.tally.expiries += 1;
            self.workload.expired(index);
        }
        let session = match link.session.identity() {
            identity if identity.session == 0 || expired => Session::new(self.settings.timeout_ms, now_ns()),
            identity => Session::resume(identity, self.settings.timeout_ms, now_ns()),
        };
        link.give_up(session, self.settings.servers.len(), now_ns());
        Ok(())
    }

    /// What a restarted proxy does to its clients: every connection is gone at once, every session is to be resumed.
    pub(super) fn drop_all(&mut self) -> Result<(), WorkerError> {
        for index in 0..self.links.len() {
            if self.links[index].session.is_open() {
                let unanswered = self.links[index].session.outstanding();
                self.broken(index, Broken::ClosedByServer { unanswered }.into())?;
                self.links[index].retry_ns = 0;
            }
        }
        Ok(())
    }

    /// A storm opens the next session where one was closed.
    pub(super) fn reopen(&mut self, index: usize, now_ns: u64) -> Result<(), WorkerError> {
        self.open -= 1;
        let session = Session::new(self.settings.timeout_ms, now_ns);
        self.links[index].reopen(session, self.settings.schedule.is_some(), now_ns);
        self.connect(index)
    }
}
