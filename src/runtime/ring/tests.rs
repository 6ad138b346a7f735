//! Tests of the ring against the kernel: an echo server on loopback, buffers running out, cancelling, wake-ups, log writes.
//! Refuses to test what the kernel does by itself.

use super::*;
use crate::wire::aligned::AlignedBuf;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::time::Instant;

const WAIT: Duration = Duration::from_secs(5);

fn ring(buffers: u16, bytes: u32) -> Ring {
    Ring::new(Arc::new(Bell::new().unwrap()), buffers, bytes).unwrap()
}

/// Turns until an event comes for which `f` has an answer.
fn until<R>(ring: &mut Ring, mut f: impl FnMut(&mut Ring, Event) -> Option<R>) -> R {
    let deadline = Instant::now() + WAIT;
    let mut events = Vec::new();
    loop {
        assert!(Instant::now() < deadline, "nothing more happened");
        ring.enter(Some(Duration::from_millis(100))).unwrap();
        ring.reap(&mut events).unwrap();
        for event in events.drain(..) {
            if let Some(found) = f(ring, event) {
                return found;
            }
        }
    }
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

fn token(slot: u32) -> Token {
    Token { slot, generation: 3 }
}

/// Echoes until `conns` connections have ended. One send at a time per connection; what arrives meanwhile waits.
fn echo(ring: &mut Ring, listener: &TcpListener, conns: usize) {
    ring.accept(listener.as_raw_fd());
    let mut sockets: Vec<(OwnedFd, Vec<u8>, bool)> = Vec::new();
    let mut ended = 0;
    until(ring, |ring, event| {
        match event {
            Event::Accepted { socket, .. } => {
                ring.receive(socket.as_raw_fd(), token(sockets.len() as u32));
                sockets.push((socket, Vec::new(), false));
            }
            Event::Received { token, data, more } => {
                let (socket, waiting, sending) = &mut sockets[token.slot as usize];
                waiting.extend_from_slice(ring.bytes(&data));
                ring.give_back(data);
                if !more {
                    ring.receive(socket.as_raw_fd(), token);
                }
                if !std::mem::replace(sending, true) {
                    ring.send(socket.as_raw_fd(), token, std::mem::take(waiting));
                }
            }
            Event::Sent { token, errno, .. } => {
                assert_eq!(errno, 0);
                let (socket, waiting, sending) = &mut sockets[token.slot as usize];
                *sending = !waiting.is_empty();
                if *sending {
                    ring.send(socket.as_raw_fd(), token, std::mem::take(waiting));
                }
            }
            Event::ReceiveEnded { token, errno: libc::ENOBUFS } => ring.receive(sockets[token.slot as usize].0.as_raw_fd(), token),
            Event::ReceiveEnded { errno, .. } => {
                assert_eq!(errno, 0);
                ended += 1;
            }
            Event::AcceptEnded(_) | Event::LinkSent { .. } | Event::LinkReceived { .. } | Event::Bell => {}
        }
        (ended == conns).then_some(())
    });
}

fn client(address: std::net::SocketAddr, bytes: usize) {
    let mut stream = TcpStream::connect(address).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let sent: Vec<u8> = (0..bytes).map(|i| (i * 7 + i / 251) as u8).collect();
    let expected = sent.clone();
    let reading = std::thread::spawn(move || {
        let mut back = vec![0; bytes];
        reader.read_exact(&mut back).unwrap();
        assert!(back == expected, "the echo is what was sent");
    });
    stream.write_all(&sent).unwrap();
    reading.join().unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
}

#[test]
fn echoes_many_connections_with_few_buffers() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let clients: Vec<_> = (0..20).map(|i| std::thread::spawn(move || client(address, 1000 + i * 100_000))).collect();
    let mut ring = ring(4, 1024);
    echo(&mut ring, &listener, 20);
    assert_eq!(ring.provided.lent(), 0);
    clients.into_iter().for_each(|c| c.join().unwrap());
}

#[test]
fn a_cancelled_receive_leaves_the_bytes_in_the_socket() {
    let (mut client, server) = pair();
    let mut ring = ring(4, 1024);
    ring.receive(server.as_raw_fd(), token(0));
    ring.cancel_receive(token(0));
    let errno = until(&mut ring, |_, event| match event {
        Event::ReceiveEnded { errno, .. } => Some(errno),
        _ => None,
    });
    assert_eq!(errno, libc::ECANCELED);
    client.write_all(b"later").unwrap();
    ring.receive(server.as_raw_fd(), token(0));
    let bytes = until(&mut ring, |ring, event| match event {
        Event::Received { token: t, data, .. } => {
            assert_eq!(t, token(0));
            let bytes = ring.bytes(&data).to_vec();
            ring.give_back(data);
            Some(bytes)
        }
        _ => None,
    });
    assert_eq!(bytes, b"later");
}

#[test]
fn a_shutdown_ends_receive_and_send() {
    let (_client, server) = pair();
    let mut ring = ring(4, 1024);
    ring.receive(server.as_raw_fd(), token(0));
    ring.send(server.as_raw_fd(), token(0), vec![0; 64 << 20]);
    ring.enter(None).unwrap();
    server.shutdown(Shutdown::Both).unwrap();
    let (mut received, mut sent) = (None, None);
    until(&mut ring, |_, event| {
        match event {
            Event::ReceiveEnded { errno, .. } => received = Some(errno),
            Event::Sent { errno, buffer, .. } => sent = Some((errno, buffer.len())),
            _ => {}
        }
        (received.is_some() && sent.is_some()).then_some(())
    });
    assert_eq!((received, sent), (Some(0), Some((libc::EPIPE, 64 << 20))));
}

#[test]
fn an_idle_ring_sleeps_until_the_bell_or_another_ring_wakes_it() {
    let mut first = ring(4, 1024);
    let before = Instant::now();
    first.enter(Some(Duration::from_millis(50))).unwrap();
    assert!(before.elapsed() >= Duration::from_millis(50));

    let bell = first.bell.clone();
    let ringing = std::thread::spawn(move || bell.ring());
    until(&mut first, |_, event| matches!(event, Event::Bell).then_some(()));
    ringing.join().unwrap();

    let fd = first.fd();
    let waking = std::thread::spawn(move || {
        let mut second = ring(4, 1024);
        second.wake(fd);
        second.enter(None).unwrap();
    });
    let before = Instant::now();
    first.enter(Some(WAIT)).unwrap();
    assert!(before.elapsed() < WAIT / 2, "woken, not timed out");
    waking.join().unwrap();
}

#[test]
fn log_writes_end_once_all_bytes_are_written() {
    let file = tempfile::tempfile().unwrap();
    let mut ring = ring(4, 1024);
    for (op, byte) in [(7, b'a'), (8, b'b')] {
        let mut block = AlignedBuf::with_capacity(8192);
        block.fill(byte);
        let target = Target { file: file.as_raw_fd(), offset: (op - 7) * 8192, dsync: true };
        ring.write(op, target, Frame::Block(Arc::new(block)));
    }
    let mut done = Vec::new();
    let mut events = Vec::new();
    while done.len() < 2 {
        ring.enter(Some(WAIT)).unwrap();
        ring.reap(&mut events).unwrap();
        done.extend(std::iter::from_fn(|| ring.next_written()));
    }
    done.sort_by_key(|written| written.op);
    assert_eq!(done, [Written { op: 7, errno: 0 }, Written { op: 8, errno: 0 }]);
    let mut back = vec![0; 16384];
    file.read_exact_at(&mut back, 0).unwrap();
    assert!(back[..8192].iter().all(|b| *b == b'a') && back[8192..].iter().all(|b| *b == b'b'));
}

#[test]
fn a_failed_log_write_carries_its_errno() {
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    let mut ring = ring(4, 1024);
    let target = Target { file: file.as_raw_fd(), offset: 0, dsync: false };
    ring.write(1, target, Frame::Block(Arc::new(AlignedBuf::with_capacity(4096))));
    ring.enter(Some(WAIT)).unwrap();
    ring.reap(&mut Vec::new()).unwrap();
    assert_eq!(ring.next_written(), Some(Written { op: 1, errno: libc::EBADF }));
}
