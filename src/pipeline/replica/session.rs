//! Handshakes on a shard: new sessions, resumed and moved ones, clients that are ahead of this server, and the regular
//! work that keeps session clocks honest. Refuses to expire anything: the pipeline does.

use super::super::conn::{Conn, Connect, Phase};
use super::super::message::{ConnId, Up, op};
use super::super::node::same_password;
use super::Replica;
use super::notices::Limit;
use crate::wire::response;

impl Replica {
    pub(super) fn connect(&mut self, conn: &mut Conn, mut request: Connect) {
        let (min, max) = (self.config.session_timeout_ms_min, self.config.session_timeout_ms_max);
        request.timeout_ms = request.timeout_ms.clamp(min, max);
        if request.last_zxid_seen > self.state.applied() {
            let patience_ms = (request.timeout_ms as u64 / 3).min(1000);
            conn.phase = Phase::Parked { until_ms: self.now_ms + patience_ms, request };
            return self.parked.push(conn.id);
        }
        self.attach(conn, request);
    }

    fn attach(&mut self, conn: &mut Conn, request: Connect) {
        conn.phase = Phase::Attaching;
        conn.timeout_ms = request.timeout_ms;
        conn.read_only_field = request.read_only_field;
        let mut body = request.timeout_ms.to_be_bytes().to_vec();
        if request.session == 0 {
            let most = self.config.bounds.sessions_max;
            if most > 0 && self.state.session_count() >= most {
                self.figures.sessions_refused += 1;
                self.notice(Limit::Sessions, conn.peer, || format!("a new session refused: there are {most} already, closed"));
                return self.close(conn);
            }
            body.extend_from_slice(&conn.entropy);
            return self.submit(conn, 0, op::CREATE_SESSION, &body, &[]);
        }
        // A session that is not known here may be known to the leader already.
        let known = self.state.session(request.session).map(|s| same_password(&s.password, &request.password));
        if !known.unwrap_or(!self.config.alone) {
            return self.refuse_session(conn);
        }
        conn.session = request.session;
        body.extend_from_slice(&request.password);
        self.submit(conn, 0, op::ATTACH_SESSION, &body, &[]);
    }

    /// "Your session is gone": the client must start a new one.
    pub(super) fn refuse_session(&mut self, conn: &mut Conn) {
        let read_only = conn.read_only_field.then_some(false);
        response::connect(&mut conn.output, 0, 0, &[0; 16], read_only);
        self.close(conn);
    }

    pub(super) fn attached(&mut self, conn: &mut Conn, session: i64) {
        let Some(known) = self.state.session(session) else { return self.refuse_session(conn) };
        let read_only = conn.read_only_field.then_some(false);
        response::connect(&mut conn.output, known.timeout_ms, session, &known.password, read_only);
        conn.session = session;
        conn.timeout_ms = known.timeout_ms;
        conn.phase = Phase::Open;
        self.sessions.insert(session, conn.id);
    }

    /// Regular work: what has waited too long, and the news for the session clocks.
    pub fn tick(&mut self) {
        let now_ms = self.now_ms;
        while let Some((_, id)) = self.handshaking.pop_front_if(|(deadline_ms, _)| *deadline_ms <= now_ms) {
            self.with_conn(id, |replica, conn| {
                if conn.phase != Phase::Open {
                    replica.figures.sessionless_expired += 1;
                    replica.notice(Limit::Handshake, conn.peer, || "has not shaken hands in time, closed".into());
                    replica.close(conn);
                }
            });
        }
        self.unpark();
        for id in std::mem::take(&mut self.touched) {
            let Some(conn) = self.conn_mut(id) else { continue };
            conn.touched = false;
            let session = conn.session;
            Up::Touch { session }.encode(&mut self.submits);
        }
        Up::Report { at_ms: now_ms }.encode(&mut self.submits);
    }

    /// Handshakes that wait for a zxid: go on, or give up without a reply so that the client tries another server.
    pub(super) fn unpark(&mut self) {
        for id in std::mem::take(&mut self.parked) {
            self.with_conn(id, |replica, conn| {
                let Phase::Parked { until_ms, request } = conn.phase else { return };
                if request.last_zxid_seen <= replica.state.applied() {
                    replica.attach(conn, request);
                } else if until_ms <= replica.now_ms {
                    tracing::info!("{}: has seen zxid 0x{:x}, ahead of ours, closed", conn.peer, request.last_zxid_seen);
                    replica.close(conn);
                } else {
                    replica.parked.push(conn.id);
                }
            });
        }
    }

    /// The text for a four-letter word; the connection closes behind it.
    pub fn four_letter_answer(&mut self, id: ConnId, text: &str) {
        self.with_conn(id, |replica, conn| {
            conn.output.extend_from_slice(text.as_bytes());
            replica.figures.sent += 1;
            replica.close(conn);
        });
    }
}
