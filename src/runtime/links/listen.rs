//! Takes connections of other servers, and of whoever else comes. A handshake has a thread of its own for as long as it
//! takes; there are few at a time, fewer from one address, and when there are too many the oldest of the address with most
//! gives way: an honest one is over in milliseconds. So nobody keeps servers out by being slow.
//! Refuses to log more than [`super::Complaints`] lets through.

use super::shake::{Failure, nonce, shake};
use super::{HANDSHAKE_TIMEOUT, Shared};
use crate::limits::{PEER_HANDSHAKES_MAX, PEER_HANDSHAKES_PER_ADDRESS_MAX};
use crate::peer::{Handshake, Refusal};
use crate::runtime::listener::Listener;
use socket2::SockRef;
use std::collections::HashMap;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{io, thread};

pub const BACKLOG: u32 = 128;
/// What a handshake needs, and a log line.
const STACK_BYTES: usize = 256 << 10;
/// When no connection can be taken, for want of descriptors or threads.
const PAUSE: Duration = Duration::from_millis(100);

/// Handshakes under way, the oldest first.
#[derive(Default)]
struct Visitors(Mutex<Vec<Visitor>>);

#[derive(Clone)]
struct Visitor {
    address: IpAddr,
    stream: Arc<TcpStream>,
}

impl Visitors {
    /// Lets one in. Returns who has to leave for it.
    fn enter(&self, visitor: Visitor) -> Option<Visitor> {
        let mut visitors = self.0.lock().expect("no panic under this lock");
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        visitors.iter().for_each(|visitor| *counts.entry(visitor.address).or_default() += 1);
        let here = counts.get(&visitor.address).copied().unwrap_or(0);
        let crowded = if here >= PEER_HANDSHAKES_PER_ADDRESS_MAX {
            Some(visitor.address)
        } else if visitors.len() >= PEER_HANDSHAKES_MAX {
            counts.into_iter().max_by_key(|(_, count)| *count).map(|(address, _)| address)
        } else {
            None
        };
        let oldest = crowded.and_then(|address| visitors.iter().position(|visitor| visitor.address == address));
        let evicted = oldest.map(|index| visitors.remove(index));
        visitors.push(visitor);
        evicted
    }

    fn leave(&self, stream: &Arc<TcpStream>) {
        self.0.lock().expect("no panic under this lock").retain(|visitor| !Arc::ptr_eq(&visitor.stream, stream));
    }
}

/// Starts the thread. It ends when the listener is interrupted.
pub fn spawn(shared: Arc<Shared>, listener: Arc<Listener>) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new().name("peers".into()).spawn(move || listen(&shared, &listener))
}

fn listen(shared: &Arc<Shared>, listener: &Listener) {
    let visitors = Arc::new(Visitors::default());
    loop {
        let accepted = listener.accept();
        if shared.is_stopped() {
            return;
        }
        match accepted {
            Ok((stream, from)) => {
                if let Err(error) = receive(shared, &visitors, Arc::new(stream), from) {
                    shared.complain("anybody", &format!("a thread cannot be started: {error}"));
                    thread::sleep(PAUSE);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                shared.complain("anybody", &format!("connections cannot be taken: {error}"));
                thread::sleep(PAUSE);
            }
        }
    }
}

fn receive(shared: &Arc<Shared>, visitors: &Arc<Visitors>, stream: Arc<TcpStream>, from: SocketAddr) -> io::Result<()> {
    let address = from.ip().to_canonical();
    if !shared.trusts(address) {
        shared.complain(&address.to_string(), "it is another machine, and there is no secret: set peerSecretFile, the same on all servers");
        return Ok(());
    }
    if let Some(evicted) = visitors.enter(Visitor { address, stream: stream.clone() }) {
        shared.complain(&evicted.address.to_string(), "too many connections that do not get through the handshake; the oldest are closed");
        // It fails only if the connection is gone, which is what is wanted.
        let _ = evicted.stream.shutdown(Shutdown::Both);
    }
    let (shared, guests, guest) = (shared.clone(), visitors.clone(), stream.clone());
    let spawned = thread::Builder::new().name("handshake".into()).stack_size(STACK_BYTES).spawn(move || {
        let result = answer(&shared, &guest, address);
        guests.leave(&guest);
        let Ok(established) = result else { return };
        // A descriptor of its own: this one may still be in the hands of the thread that took the connection.
        match guest.try_clone() {
            Ok(stream) => shared.hand_over(stream, established),
            Err(error) => shared.complain(&address.to_string(), &error.to_string()),
        }
    });
    if spawned.is_err() {
        visitors.leave(&stream);
    }
    spawned.map(drop)
}

/// The handshake of one connection; whatever comes of it is logged here.
fn answer(shared: &Shared, stream: &TcpStream, address: IpAddr) -> Result<crate::peer::Established, ()> {
    let mut handshake = Handshake::listen(shared.introduction(), shared.known.clone(), shared.secret.clone(), nonce());
    let result = SockRef::from(stream)
        .set_tcp_user_timeout(Some(shared.silence))
        .map_err(Failure::Io)
        .and_then(|()| shake(stream, &mut handshake, Vec::new(), HANDSHAKE_TIMEOUT));
    result.map_err(|failure| {
        // An id counts as a name only if it is a peer's: a stranger may claim any.
        let who = match handshake.claimed().filter(|server| shared.known.contains(server)) {
            Some(server) => format!("server {server}"),
            None => address.to_string(),
        };
        let why = match failure {
            // Health checks connect and leave without a word.
            Failure::Closed if handshake.claimed().is_none() => return,
            Failure::Refused(Refusal::Stranger) => "something else than a server has connected to the port for servers".to_string(),
            other => format!("{other} (it dialled from {address})"),
        };
        shared.complain(&who, &why);
    })
}
