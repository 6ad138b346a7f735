//! Tests of closing, over loopback: answers arrive whole whatever the client still sends, nobody waits for ever, and a
//! descriptor outlives its operations. Refuses to involve a Replica: the test plays its part.

use super::*;
use crate::runtime::ring::Event;
use crate::runtime::sys::Bell;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Rig {
    ring: Ring,
    sockets: Sockets,
    received: Vec<u8>,
    gone: Vec<Gone>,
}

const CONN: ConnId = ConnId(7 << 32 | 2);

fn rig() -> (Rig, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let (server, peer) = listener.accept().unwrap();
    let ring = Ring::new(Arc::new(Bell::new().unwrap()), 4, 4096).unwrap();
    let mut rig = Rig { ring, sockets: Sockets::default(), received: Vec::new(), gone: Vec::new() };
    rig.sockets.insert(&mut rig.ring, CONN, server.into(), peer.ip());
    (rig, client)
}

impl Rig {
    /// One turn of a shard.
    fn turn(&mut self) {
        let mut events = Vec::new();
        self.ring.enter(Some(Duration::from_millis(10))).unwrap();
        self.ring.reap(&mut events).unwrap();
        for event in events {
            match event {
                Event::Received { token, data, more } => {
                    if self.sockets.received(token, more).is_some() {
                        self.received.extend_from_slice(self.ring.bytes(&data));
                    }
                    self.ring.give_back(data);
                    if self.received == b"srvr" {
                        self.sockets.asked(CONN);
                    }
                }
                Event::ReceiveEnded { token, errno } => self.sockets.receive_ended(token, errno),
                Event::Sent { token, errno, .. } => {
                    let conn = self.sockets.sent(token, errno);
                    if conn.is_some_and(|conn| self.sockets.is_flushing(conn)) {
                        self.sockets.flushed(CONN);
                    }
                }
                _ => {}
            }
        }
        self.sockets.settle_turn(&mut self.ring);
        self.gone.extend(self.sockets.take_gone());
    }

    fn until(&mut self, done: impl Fn(&Rig) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !done(self) {
            assert!(Instant::now() < deadline, "nothing more happens");
            self.turn();
        }
    }

    fn is_gone(&self) -> bool {
        self.gone.iter().any(|gone| gone.conn == CONN)
    }
}

#[test]
fn an_answer_arrives_whole_though_the_client_goes_on_sending() {
    let (mut rig, mut client) = rig();
    client.write_all(b"ruok").unwrap();
    rig.until(|rig| rig.received == b"ruok");
    let answer = vec![b'x'; 3 << 20];
    rig.sockets.close(CONN, 0);
    assert!(rig.sockets.may_send(CONN));
    rig.sockets.send(&mut rig.ring, CONN, answer.clone());
    client.write_all(b"\nand more that nobody reads").unwrap();
    let reading = std::thread::spawn(move || {
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        got
    });
    rig.until(Rig::is_gone);
    assert!(reading.join().unwrap() == answer);
    assert_eq!(rig.received, b"ruok", "what comes after the close is thrown away");
}

#[test]
fn a_client_that_has_asked_may_close_its_side_first() {
    let (mut rig, mut client) = rig();
    client.write_all(b"srvr").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    rig.until(|rig| !rig.received.is_empty());
    (0..5).for_each(|_| rig.turn());
    assert!(!rig.is_gone());
    rig.sockets.close(CONN, 0);
    rig.sockets.send(&mut rig.ring, CONN, b"fine".to_vec());
    rig.until(Rig::is_gone);
    let mut got = String::new();
    client.read_to_string(&mut got).unwrap();
    assert_eq!(got, "fine");
}

#[test]
fn a_client_that_closes_is_let_go_with_a_send_in_flight() {
    let (mut rig, client) = rig();
    rig.sockets.send(&mut rig.ring, CONN, vec![0; 32 << 20]);
    rig.turn();
    drop(client);
    rig.until(Rig::is_gone);
    assert!(!rig.sockets.may_send(CONN));
}

#[test]
fn a_client_that_does_not_read_is_cut_off_in_time() {
    let (mut rig, _client) = rig();
    rig.sockets.send(&mut rig.ring, CONN, vec![0; 32 << 20]);
    rig.sockets.close(CONN, 100);
    rig.turn();
    rig.sockets.expire(100 + CLOSE_MS - 1);
    rig.turn();
    assert!(!rig.is_gone());
    rig.sockets.expire(100 + CLOSE_MS);
    rig.until(Rig::is_gone);
}

#[test]
fn a_paused_connection_receives_nothing_until_it_is_resumed() {
    let (mut rig, mut client) = rig();
    rig.sockets.pause(&mut rig.ring, CONN);
    rig.turn();
    client.write_all(b"waiting").unwrap();
    rig.turn();
    assert!(rig.received.is_empty());
    rig.sockets.resume(CONN);
    rig.until(|rig| rig.received == b"waiting");
    rig.sockets.pause(&mut rig.ring, CONN);
    rig.sockets.resume(CONN);
    client.write_all(b", again").unwrap();
    rig.until(|rig| rig.received == b"waiting, again");
}
