//! From a worker's sockets to its sessions and workload, and back: reads what has come, begins what there is room for, and
//! writes what is due. Refuses to look into replies: that is the workload's business.

use super::Worker;
use crate::clock::now_ns;
use crate::failure::WorkerError;
use crate::meter::Stage;
use crate::session::{Broken, Incoming};
use crate::tally::Op;
use crate::workload::{Port, Workload};
use std::io::{ErrorKind, Read};

/// What one read takes at most.
pub(super) const READ_BYTES: usize = 256 << 10;

impl<W: Workload> Worker<W> {
    /// Reads what has come, begins what there is room for, and writes what is due.
    pub(super) fn serve(&mut self, index: usize, readable: bool, read_closed: bool) -> Result<(), WorkerError> {
        if readable {
            // Another socket in the place of this one has events of its own.
            let socket = self.links[index].sockets;
            while self.read_once(index)? == READ_BYTES || (read_closed && self.links[index].expects_more()) {
                if self.links[index].sockets != socket {
                    break;
                }
            }
        }
        self.flush(index)
    }

    /// One read and everything that follows from it. Returns the bytes read; 0 if there was nothing.
    pub(super) fn read_once(&mut self, index: usize) -> Result<usize, WorkerError> {
        let link = &mut self.links[index];
        let Some(stream) = &mut link.stream else { return Ok(0) };
        let count = match stream.read(&mut self.scratch) {
            Ok(0) => {
                let result = link.session.closed_by_peer();
                return result.or_else(|broken| self.broken(index, broken.into())).map(|()| 0);
            }
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(0),
            Err(_) if link.session.is_closed() => return Ok(0),
            Err(error) => return self.broken(index, error.into()).map(|()| 0),
        };
        let now_ns = now_ns();
        match self.take(index, count, now_ns) {
            Ok(()) => {}
            Err(broken) => return self.broken(index, broken.into()).map(|()| 0),
        }
        self.finished |= self.meter.is_full();
        if std::mem::take(&mut self.links[index].just_closed) {
            if self.settings.storm && self.stage != Stage::Drain && !self.finished {
                return self.reopen(index, now_ns).map(|()| 0);
            }
            self.closed += 1;
        }
        self.after_replies(index, now_ns);
        Ok(count)
    }

    /// Hands what was read to the session, and from there to the workload.
    pub(super) fn take(&mut self, index: usize, count: usize, now_ns: u64) -> Result<(), Broken> {
        let link = &mut self.links[index];
        let was_closed = link.session.is_closed();
        let (workload, meter, running, server) = (&mut self.workload, &mut self.meter, &mut link.running, link.server);
        let (opening, was_open, auth) = (link.opening, &mut link.was_open, &self.settings.auth);
        let mut opened = 0;
        let result = link.session.receive(&self.scratch[..count], |session, incoming| {
            let mut port = Port { index, server, now_ns, session, meter: &mut *meter, running: &mut *running };
            match incoming {
                Incoming::Opened => {
                    opened += 1;
                    let op = if std::mem::replace(was_open, true) { Op::Reattach } else { Op::Connect };
                    port.meter.done(op, server, opening, now_ns);
                    if let Some(auth) = auth {
                        port.session.authenticate(auth, now_ns);
                    }
                    workload.opened(&mut port);
                }
                Incoming::Reply(reply) => workload.reply(&mut port, &reply),
                Incoming::Event(event) => {
                    port.meter.tally.events += 1;
                    workload.event(&mut port, &event);
                }
            }
        });
        self.open += opened;
        link.just_closed = !was_closed && link.session.is_closed();
        result
    }

    pub(super) fn after_replies(&mut self, index: usize, now_ns: u64) {
        match self.stage {
            Stage::Open => {}
            Stage::WarmUp | Stage::Measure => self.refill(index, now_ns),
            Stage::Drain => self.close_if_idle(index, now_ns),
        }
    }

    pub(super) fn flush_dirty(&mut self) -> Result<(), WorkerError> {
        while let Some(index) = self.dirty.pop() {
            self.flush(index)?;
        }
        Ok(())
    }

    /// Writes as much output as the socket takes.
    pub(super) fn flush(&mut self, index: usize) -> Result<(), WorkerError> {
        match self.links[index].flush() {
            Ok(()) => Ok(()),
            Err(error) => self.broken(index, error.into()),
        }
    }
}
