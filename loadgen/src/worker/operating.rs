//! When a worker's operations begin: as soon as one has ended in a closed loop, when the schedule wants it in an open one.
//! Refuses to drop what is due: it waits until a connection has room.

use super::Worker;
use crate::session::Span;
use crate::workload::Workload;

impl<W: Workload> Worker<W> {
    /// Begins the operations that are due, as far as connections have room.
    pub(super) fn begin_due(&mut self, now_ns: u64) {
        let Some(pace) = &mut self.pace else { return };
        while pace.next_ns() <= now_ns {
            self.meter.noticed(pace.next_ns(), now_ns);
            self.backlog.push_back(pace.next_ns());
            pace.advance();
        }
        self.spread_backlog(now_ns);
    }

    /// Gives the operations that wait to connections with room, one each in turn.
    pub(super) fn spread_backlog(&mut self, now_ns: u64) {
        let mut full = 0;
        while !self.backlog.is_empty() && full < self.links.len() && !self.finished {
            let index = self.next_link;
            self.next_link = (index + 1) % self.links.len();
            if !self.has_room(index) {
                full += 1;
                continue;
            }
            full = 0;
            let due_ns = self.backlog.pop_front().expect("just seen");
            self.begin(index, Span { due_ns, begun_ns: now_ns }, now_ns);
            self.dirty.push(index);
        }
    }

    pub(super) fn has_room(&self, index: usize) -> bool {
        let link = &self.links[index];
        link.session.is_open() && (link.running as usize) < self.settings.outstanding
    }

    pub(super) fn begin(&mut self, index: usize, span: Span, now_ns: u64) {
        let link = &mut self.links[index];
        link.running += 1;
        link.asked = span;
        let mut port = link.port(index, &mut self.meter, now_ns);
        if !self.workload.issue(&mut port, span) {
            self.links[index].running -= 1;
            self.finished = true;
        }
    }

    /// Begins what the connection has room for.
    pub(super) fn refill(&mut self, index: usize, now_ns: u64) {
        if self.settings.schedule.is_none() {
            while !self.finished && self.has_room(index) {
                self.begin(index, Span { due_ns: now_ns, begun_ns: now_ns }, now_ns);
            }
            return;
        }
        while !self.finished && self.has_room(index) {
            let Some(due_ns) = self.backlog.pop_front() else { break };
            self.begin(index, Span { due_ns, begun_ns: now_ns }, now_ns);
        }
    }

    pub(super) fn close_if_idle(&mut self, index: usize, now_ns: u64) {
        let link = &mut self.links[index];
        if link.session.is_open() && link.running == 0 && link.session.outstanding() == 0 {
            let mut port = link.port(index, &mut self.meter, now_ns);
            if self.workload.settle(&mut port) {
                link.session.close(now_ns);
            }
        }
    }
}
