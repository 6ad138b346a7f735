//! Dials one peer, again whenever the link is lost. Refuses to give up, and to hurry: pauses grow to a second, and a link
//! that was lost at once counts as a failed attempt.

use super::shake::{Failure, nonce, shake};
use super::{HANDSHAKE_TIMEOUT, PeerAddress, Shared};
use crate::peer::{Established, Handshake};
use socket2::SockRef;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use std::{io, thread};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Starts the thread. It is told when its link is lost, and ends when nobody can tell it any more.
pub fn spawn(shared: Arc<Shared>, peer: PeerAddress) -> io::Result<mpsc::Sender<()>> {
    let (sender, lost) = mpsc::channel();
    thread::Builder::new().name(format!("dial-{}", peer.server)).spawn(move || dial(&shared, &peer, &lost))?;
    Ok(sender)
}

fn dial(shared: &Shared, peer: &PeerAddress, lost: &mpsc::Receiver<()>) {
    let who = format!("server {}", peer.server);
    let mut pause = PAUSE_MIN;
    loop {
        match attempt(shared, peer) {
            Ok((stream, established)) => {
                let since = Instant::now();
                shared.hand_over(stream, established);
                if lost.recv().is_err() {
                    return;
                }
                if since.elapsed() >= PAUSE_MAX {
                    pause = PAUSE_MIN;
                }
            }
            Err(why) => shared.complain(&who, &format!("{why} (dialled {}:{})", peer.host, peer.port)),
        }
        if lost.recv_timeout(jitter(pause)) == Err(mpsc::RecvTimeoutError::Disconnected) || shared.is_stopped() {
            return;
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Half of the pause, and a random part of the other half: servers that started together do not dial together.
fn jitter(pause: Duration) -> Duration {
    let part = u32::from(nonce()[0]);
    pause / 2 + pause / 2 * part / 255
}

fn attempt(shared: &Shared, peer: &PeerAddress) -> Result<(TcpStream, Established), Failure> {
    let stream = connect(shared, peer)?;
    let mut first = Vec::new();
    let mut handshake = Handshake::dial(shared.introduction(), peer.server, shared.secret.clone(), nonce(), &mut first);
    let established = shake(&stream, &mut handshake, first, HANDSHAKE_TIMEOUT)?;
    Ok((stream, established))
}

/// A connection to the first of the peer's addresses that answers.
fn connect(shared: &Shared, peer: &PeerAddress) -> Result<TcpStream, Failure> {
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
    for address in (peer.host.as_str(), peer.port).to_socket_addrs().map_err(Failure::Io)? {
        if !shared.trusts(address.ip()) {
            let text = format!("{address} is another machine, and there is no secret: set peerSecretFile, the same on all servers");
            failure = io::Error::new(io::ErrorKind::PermissionDenied, text);
            continue;
        }
        match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
            Ok(stream) => {
                SockRef::from(&stream).set_tcp_user_timeout(Some(shared.silence)).map_err(Failure::Io)?;
                return Ok(stream);
            }
            Err(error) => failure = error,
        }
    }
    Err(Failure::Io(failure))
}
