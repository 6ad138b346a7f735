//! One core's loop. A turn, in this order, because a read must see every write that was acknowledged before it came:
//!
//! ```text
//! reap completions -> ended log writes are published -> apply what is published -> execute what was reaped
//!   -> order requests, start the next log write -> send replies -> announce sleep, look once more -> submit and wait
//! ```
//! Refuses to await anything: the thread belongs to this loop until it leaves, and it blocks in its ring when idle.

use super::core::{Mail, Now, Server};
use super::pipeline::Pipeline;
use super::ring::{EVENTS_MAX, Event, Ring};
use super::shard::Shard;
use std::sync::Arc;
use std::time::Duration;

/// Sleeps are never longer, so that a lost wake-up would be a delay and not a hang.
const SLEEP_MS_MAX: u64 = 500;

/// See the module heading.
pub struct CoreLoop {
    server: Arc<Server>,
    core: usize,
    ring: Ring,
    shard: Shard,
    pipeline: Option<Pipeline>,
    events: Vec<Event>,
    leaving: bool,
}

impl CoreLoop {
    /// `pipeline`: on the one core that has it.
    pub fn new(server: Arc<Server>, core: usize, ring: Ring, shard: Shard, pipeline: Option<Pipeline>) -> CoreLoop {
        CoreLoop { server, core, ring, shard, pipeline, events: Vec::with_capacity(EVENTS_MAX), leaving: false }
    }

    /// Runs until it is told to leave. What was to be sent is with the kernel then.
    pub fn run(mut self) {
        while !self.leaving {
            let now = self.turn();
            self.sleep(now);
        }
        self.turn();
        self.enter(None);
    }

    fn turn(&mut self) -> Now {
        let CoreLoop { ring, shard, pipeline, events, .. } = self;
        ring.reap(events).expect("io_uring works");
        let now = self.server.now();
        if let Some(pipeline) = pipeline {
            pipeline.complete_writes(ring, now);
        }
        shard.apply(now);
        self.handle_events(now);
        let CoreLoop { ring, shard, pipeline, .. } = self;
        shard.tick(ring, now);
        shard.submit(ring);
        if let Some(pipeline) = pipeline {
            pipeline.order(ring, shard.replica().state(), now);
            pipeline.settle();
        }
        shard.act(ring, now);
        shard.walk(now);
        now
    }

    fn handle_events(&mut self, now: Now) {
        let mut events = std::mem::take(&mut self.events);
        for event in events.drain(..) {
            match event {
                Event::Bell => self.read_mail(now),
                Event::LinkReceived { .. } | Event::LinkSent { .. } => {
                    self.pipeline.as_mut().expect("links are of the pipeline's ring").link_event(event);
                }
                _ => self.shard.handle(&mut self.ring, event),
            }
        }
        self.events = events;
    }

    fn read_mail(&mut self, now: Now) {
        for mail in self.server.cores[self.core].take_mail() {
            match (mail, &mut self.pipeline) {
                (Mail::Exit, _) => self.leaving = true,
                (Mail::Pipeline(mail), pipeline) => {
                    let pipeline = pipeline.as_mut().expect("only the pipeline's core gets these");
                    pipeline.mail(&mut self.ring, mail, now);
                }
                (Mail::Stop, pipeline) => {
                    self.shard.mail(&mut self.ring, Mail::Stop);
                    if let Some(pipeline) = pipeline {
                        pipeline.stop();
                    }
                }
                (Mail::Report { to, word }, pipeline) => {
                    let mut report = self.shard.report(word, now);
                    if let Some(pipeline) = pipeline {
                        report.replication = pipeline.replication(now);
                        if word == *b"dump" {
                            report.lists.session_expiries = pipeline.session_expiries(now);
                        }
                    }
                    // Nobody waits any more if the asker gave up.
                    let _ = to.send(report);
                }
                (mail, _) => self.shard.mail(&mut self.ring, mail),
            }
        }
    }

    /// Waits for something to do. Whoever publishes for this core after the announcement wakes it.
    fn sleep(&mut self, now: Now) {
        let sleep = &self.server.cores[self.core].sleep;
        let pipeline_ms = self.pipeline.as_ref().map_or(u64::MAX, |pipeline| pipeline.idle_ms(now));
        let idle_ms = self.shard.idle_ms(now).min(pipeline_ms).min(SLEEP_MS_MAX);
        if idle_ms == 0 {
            return self.enter(None);
        }
        sleep.announce();
        let news = self.shard.has_news() || self.pipeline.as_ref().is_some_and(Pipeline::has_news);
        let wait = (!news).then(|| Duration::from_millis(idle_ms));
        self.enter(wait);
        self.server.cores[self.core].sleep.awake();
    }

    fn enter(&mut self, wait: Option<Duration>) {
        self.ring.enter(wait).expect("io_uring works");
    }
}
